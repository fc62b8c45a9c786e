"""Profiles and lists: who is asked about, what the intervals say, what is shown."""

from __future__ import annotations

import io
import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from interest_lm.data.log import InterestLog
from interest_lm.pipeline_interest import STEADY_Z, future_spread, rate_interval, share_interval
from interest_lm.recommendation.picture import plot_profile
from interest_lm.recommendation.profile import choose_domains, forecast_query, interest_profile, print_profile
from interest_lm.recommendation.recommend import choose_items, print_recommendations, recommend
from interest_lm.recommendation.why import event_contributions, without
from interest_lm.taxonomy_interest import DomainTree


DAY = 86_400
START = 1_600_000_000
PATHS = {"heat": ["Film", "Crime"], "casino": ["Film", "Crime"], "alien": ["Film", "Space"], "jazz": ["Music", "Jazz"]}


def make_log(**facts) -> InterestLog:
    events = pd.DataFrame(
        [
            ("ann", "heat", START),
            ("ann", "casino", START + DAY),
            ("ann", "jazz", START + 20 * DAY),
            ("bob", "alien", START + 5 * DAY),
        ],
        columns=["user_id", "item_id", "timestamp"],
    )
    items = pd.DataFrame(
        {
            "item_id": list(PATHS),
            "title": [name.title() for name in PATHS],
            "categories": [[path] for path in PATHS.values()],
        }
    )
    return InterestLog.from_frames(events, items, facts={"name": "toy"} | facts)


class FakePredictor:
    """Answers with given shares; remembers what it was asked."""

    def __init__(self, log: InterestLog, interest: dict[str, float], future: dict[str, float], kappa: float = 50.0):
        self.log, self.asked = log, None
        self.model = SimpleNamespace(
            config=SimpleNamespace(
                horizons=[7.0, 28.0],
                horizon_unit="days",
                reference_horizon=28.0,
                change_is_reliable=True,
                scenes=None,
            )
        )
        self.interest = np.array([[interest[name] for name in log.tree.ids]])
        shares = np.array([future[name] for name in log.tree.ids])
        self.future = np.stack([(self.interest[0] + shares) / 2, shares])[None]
        self.concentration = np.full(self.future.shape, kappa)

    def forecast(self, cases):
        # asked again without some events, only the first question is kept; an event adds .01 to its domains
        self.asked = cases if len(cases.user) == 1 or self.asked is None else self.asked
        gone = self.asked.history_counts - cases.histories.count_nodes(self.log)
        rows = len(cases.user)
        return {
            "interest": np.repeat(self.interest, rows, 0),
            "future": self.future - 0.01 * gone[:, None],
            "concentration": np.repeat(self.concentration, rows, 0),
            "intensity": np.repeat([[1.5, 6.0]], rows, 0),
        }

    def rank(self, cases, rows):
        self.asked = cases
        return np.tile(np.arange(self.log.num_items, dtype=np.float32), (rows.stop - rows.start, 1))


INTEREST = {"Film": 0.7, "Film > Crime": 0.4, "Film > Space": 0.3, "Music": 0.3, "Music > Jazz": 0.3}
FUTURE = {"Film": 0.3, "Film > Crime": 0.15, "Film > Space": 0.15, "Music": 0.7, "Music > Jazz": 0.7}


@pytest.fixture
def log() -> InterestLog:
    return make_log()


@pytest.fixture
def predictor(log) -> FakePredictor:
    return FakePredictor(log, INTEREST, FUTURE)


def test_profile_reads_as_the_forecast(log, predictor):
    profile = interest_profile(predictor, log, "ann")
    assert json.loads(json.dumps(profile)) == profile
    rows = {row["domain"]: row for row in profile["domains"]}
    assert list(rows) == ["Film", "Film > Crime", "Film > Space", "Music", "Music > Jazz"]
    assert rows["Film"]["change"] == pytest.approx((0.3 - 0.7) / (0.3 + 0.7))
    assert rows["Film"]["trend"] == "fading" and rows["Music"]["trend"] == "growing"
    assert rows["Film"]["interval"][0] < rows["Film"]["change"] < rows["Film"]["interval"][1] < 0
    assert rows["Film"]["level"] == "high" and rows["Film > Crime"]["events"] == 2.0
    assert [step["horizon"] for step in rows["Music"]["forecast"]] == [7.0, 28.0]
    assert rows["Music"]["forecast"][1]["future"] == rows["Music"]["future"] == 0.7
    assert profile["intensity"][1] == {"horizon": 28.0, "events": 6.0}
    assert profile["events"] == 3 and profile["at"].startswith("2020-10-03T")


def test_events_behind_a_domain_are_those_without_which_its_forecast_falls(log, predictor):
    profile = interest_profile(predictor, log, "ann", why=2)
    rows = {row["domain"]: row["because"] for row in profile["domains"]}
    assert [event["title"] for event in rows["Film > Crime"]] == ["Heat", "Casino"]
    assert rows["Music"] == [
        {"item_id": "jazz", "title": "Jazz", "at": "2020-10-03T12:26:40+00:00", "contribution": 0.01}
    ]
    assert rows["Film > Space"] == []  # hers has none of it
    assert json.loads(json.dumps(profile)) == profile
    assert {len(row["because"]) for row in interest_profile(predictor, log, "ann", why=0)["domains"]} == {0}
    assert len(interest_profile(predictor, log, "ann", why=1)["domains"][0]["because"]) == 1
    with pytest.raises(ValueError, match="`why` is -1, expected 0 or more"):
        interest_profile(predictor, log, "ann", why=-1)
    text = io.StringIO()
    print_profile(profile, Console(file=text, width=120))
    assert "Heat (2020-09-13) +0.010, Casino (2020-09-14) +0.010" in text.getvalue()
    assert "▁" in text.getvalue() and ".30 (.21-.41)" in text.getvalue()


def test_the_latest_events_are_tried_and_the_others_stay(log, predictor):
    cases = forecast_query(log, np.array([0]), np.array([START + 30 * DAY]), (7.0, 28.0), "days", 28.0)
    events, added = event_contributions(predictor, cases, max_events=1)
    assert events.tolist() == [2] and added.shape == (1, len(log.tree))
    asked = without(cases, [np.array([0, 2]), np.zeros(0, dtype=np.int64)])
    assert asked.histories.offsets.tolist() == [0, 1, 4] and asked.histories.index.tolist() == [1, 0, 1, 2]
    assert asked.time.tolist() == [START + 30 * DAY] * 2


def test_little_evidence_is_steady(log):
    profile = interest_profile(FakePredictor(log, INTEREST, FUTURE, kappa=0.5), log, "ann")
    assert {row["trend"] for row in profile["domains"]} == {"steady"}
    assert all(row["interval"][0] <= 0 <= row["interval"][1] for row in profile["domains"])


def test_everything_is_steady_where_change_is_not_reliable(log, predictor, tmp_path):
    found = interest_profile(predictor, log, "ann")
    predictor.model.config.change_is_reliable = False
    profile = interest_profile(predictor, log, "ann")
    assert found["change_is_reliable"] and not profile["change_is_reliable"]
    assert {row["trend"] for row in profile["domains"]} == {"steady"} != {row["trend"] for row in found["domains"]}
    assert [row["change"] for row in profile["domains"]] == [row["change"] for row in found["domains"]]
    text = io.StringIO()
    print_profile(profile, Console(file=text, width=120))
    assert "no change in this log that can be foreseen" in text.getvalue()
    plot_profile(profile, tmp_path / "steady.png")


def test_history_is_strictly_before_the_moment(log, predictor):
    interest_profile(predictor, log, "ann", at=START + DAY)
    assert predictor.asked.histories.index.tolist() == [0]
    assert predictor.asked.time.tolist() == [START + DAY]
    interest_profile(predictor, log, "ann", at="2020-09-14T12:26:41+00:00")
    assert predictor.asked.histories.index.tolist() == [0, 1]
    assert interest_profile(predictor, log, "ann", at=5)["history"] == []


def test_history_bands_are_windows_of_the_reference_horizon(log):
    profile = interest_profile(FakePredictor(log, INTEREST, FUTURE), log, "ann", level=0)
    assert [row["domain"] for row in profile["domains"]] == ["Film", "Music"]
    assert profile["history"] == [{"start": -28.0, "end": 0.0, "events": 3, "shares": [0.6667, 0.3333]}]


def test_levels_and_top_choose_domains():
    tree = DomainTree.from_paths([[path] for path in PATHS.values()])
    interest = np.array([INTEREST[name] for name in tree.ids])
    assert [tree.ids[node] for node in choose_domains(tree, interest, None, 1)] == ["Film", "Film > Crime"]
    assert [tree.ids[node] for node in choose_domains(tree, interest, 1, 2)] == ["Film > Crime", "Film > Space"]


def test_errors_name_what_is_wrong(log, predictor):
    with pytest.raises(ValueError, match=r"user 'eve' is not in toy \(2 users, ann for example\)"):
        interest_profile(predictor, log, "eve")
    for at in ("soon", -3, "2020-13-01", 10**12, str(10**20), float("inf")):
        with pytest.raises(ValueError, match="`at` is .*, expected seconds since 1970 or an ISO date"):
            interest_profile(predictor, log, "ann", at=at)
    with pytest.raises(ValueError, match="expected a position"):
        interest_profile(predictor, make_log(time="order"), "ann", at="2020-01-01")
    with pytest.raises(ValueError, match="`level` is 2, expected 0 to 1"):
        interest_profile(predictor, log, "ann", level=2)
    with pytest.raises(ValueError, match="`top` is 0"):
        interest_profile(predictor, log, "ann", top=0)


def test_spread_is_the_dirichlets():
    """Against 400,000 draws of the two-level Dirichlet that the concentrations describe."""
    tree = DomainTree.from_paths([[path] for path in PATHS.values()])
    future = np.array([[FUTURE[name] for name in tree.ids]])
    kappa = np.full((1, len(tree)), 200.0)
    rng = np.random.default_rng(0)
    film = rng.beta(200 * 0.3, 200 * 0.7, 400_000)
    crime = film * rng.beta(100, 100, 400_000)
    spread = future_spread(future, kappa, tree)[0]
    for name, drawn in (("Film", film), ("Film > Crime", crime)):
        odds = np.log(drawn / (1 - drawn))
        assert spread[tree.index[name]] == pytest.approx(odds.std(), rel=0.05)


def test_spread_without_concentration_or_alternative():
    tree = DomainTree([{"id": "all"}])
    assert future_spread(np.ones((1, 1)), np.full((1, 1), 9.0), tree).tolist() == [[0.0]]
    assert np.isinf(future_spread(np.ones((1, 1)), None, tree)).all()
    assert rate_interval(1.0, 1.0, 0.0) == (0.0, 0.0, 0.0)
    assert share_interval(0.3, float("inf")) == (0.0, 1.0)


share = st.floats(0.001, 0.999)


@given(interest=share, future=share, spread=st.floats(0.001, 20.0))
def test_interval_holds_zero_exactly_where_steady(interest, future, spread):
    low, high, z = rate_interval(interest, future, spread)
    assert -1 <= low <= (future - interest) / (future + interest) + 1e-9 and low <= high <= 1
    if abs(abs(z) - STEADY_Z) > 1e-6:
        assert (low <= 0 <= high) == (abs(z) <= STEADY_Z)


def test_print_and_plot(log, tmp_path):
    items = [["Fi[lm] $x$", "Crime"], ["Music", "Jazz"]]
    hostile = InterestLog.from_frames(
        pd.DataFrame({"user_id": ["a[b]"], "item_id": ["x"], "timestamp": [START]}),
        pd.DataFrame({"item_id": ["x", "y"], "categories": [[path] for path in items]}),
    )
    shares = dict(zip(hostile.tree.ids, (0.6, 0.4, 0.6, 0.4), strict=True))
    profile = interest_profile(FakePredictor(hostile, shares, shares), hostile, "a[b]")
    text = io.StringIO()
    print_profile(profile, Console(file=text, width=120))
    assert "Fi[lm] $x$" in text.getvalue() and "a[b]" in text.getvalue() and "steady" in text.getvalue()
    picture = plot_profile(profile, tmp_path / "profile.png")
    assert picture.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    plot_profile(
        interest_profile(FakePredictor(hostile, shares, shares), hostile, "a[b]", at=1), tmp_path / "none.png"
    )


# Lists


def test_recommend_leaves_out_what_was_seen_and_says_why(log, predictor):
    vectors = np.eye(4, dtype=np.float32)
    vectors[2] = [0.9, 0.1, 0.0, 0.0]  # alien is most like heat
    (entry,) = recommend(predictor, log, ["ann"], 3, item_vectors=vectors)
    assert entry["user"] == "ann"
    assert [row["item_id"] for row in entry["ranking"]] == ["alien"]
    assert entry["ranking"][0] == {"item_id": "alien", "title": "Alien", "score": 2.0, "reason": "like Heat"}


def test_recommend_keeps_what_was_seen_where_people_return(log, predictor):
    returning = make_log(repeat_rate=0.5)
    (entry,) = recommend(predictor, returning, ["ann"], 2)
    assert [row["item_id"] for row in entry["ranking"]] == ["jazz", "alien"]
    (entry,) = recommend(predictor, returning, ["ann"], 2, filter_seen=True)
    assert [row["item_id"] for row in entry["ranking"]] == ["alien"]
    assert entry["ranking"][0]["reason"] is None


def test_diversity_leads_from_the_best_items_to_unlike_ones():
    generator = np.random.default_rng(0)
    kinds = np.repeat(np.eye(4, dtype=np.float32), 50, axis=0)
    vectors = kinds + 0.05 * generator.normal(size=kinds.shape).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    scores = generator.normal(size=200).astype(np.float32)
    scores[:50] += 2  # the first kind is liked best
    scores[[7, 60]] = -np.inf
    best = np.argsort(-scores, kind="stable")[:8]
    distances, gains = [], []
    for diversity in (0.0, 1e-6, 0.1, 0.3, 0.6, 1.0):
        chosen = choose_items(scores, 8, vectors, diversity)
        assert len(set(chosen.tolist())) == 8 and np.isfinite(scores[chosen]).all()
        assert chosen[0] == best[0]
        distances.append(1 - (vectors[chosen] @ vectors[chosen].T).mean())
        gains.append(scores[chosen].mean())
        # the scale of the scores means nothing
        np.testing.assert_array_equal(choose_items(3 * scores - 5, 8, vectors, diversity), chosen)
    np.testing.assert_array_equal(choose_items(scores, 8, vectors, 1e-6), best)
    assert distances == sorted(distances) and distances[-1] > distances[0] + 0.2
    assert gains == sorted(gains, reverse=True)
    assert len(set((choose_items(scores, 4, vectors, 1.0) // 50).tolist())) == 4
    np.testing.assert_array_equal(choose_items(scores, 8), best)


@pytest.mark.parametrize("left", [0, 1, 3])
def test_a_diverse_list_of_what_is_left(left):
    scores = np.full(5, -np.inf, dtype=np.float32)
    scores[:left] = 1.0  # and all alike
    chosen = choose_items(scores, 4, np.eye(5, dtype=np.float32), 0.5)
    assert sorted(chosen.tolist()) == list(range(left))


def test_recommend_diverse_lists(log, predictor):
    vectors = np.eye(4, dtype=np.float32)
    plain, diverse = (
        recommend(predictor, log, ["bob"], 2, at=START + 2 * DAY, item_vectors=vectors, diversity=diversity)[0]
        for diversity in (0.0, 1.0)
    )
    assert len(plain["ranking"]) == len(diverse["ranking"]) == 2
    assert plain["ranking"][0] == diverse["ranking"][0]
    for wrong in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match=f"`diversity` is {wrong}, expected 0 to 1"):
            recommend(predictor, log, ["ann"], 2, item_vectors=vectors, diversity=wrong)
    with pytest.raises(ValueError, match="without `item_vectors`"):
        recommend(predictor, log, ["ann"], 2, diversity=0.5)


def test_recommend_serves_many_at_a_moment(log, predictor):
    lists = recommend(predictor, log, ["bob", "ann"], 2, at=START + 2 * DAY)
    assert [entry["user"] for entry in lists] == ["bob", "ann"]
    assert [row["item_id"] for row in lists[1]["ranking"]] == ["jazz", "alien"]
    assert predictor.asked.histories.lengths.tolist() == [0, 2]
    text = io.StringIO()
    print_recommendations(lists, Console(file=text, width=100))
    assert "For user bob" in text.getvalue() and "Jazz" in text.getvalue()


def test_a_moment_long_after_the_log_is_told(log, predictor, caplog):
    end = int(log.timestamp.max())
    for at, told in ((end + DAY // 2, 0), (end + 400 * DAY, 1)):
        for ask in (
            lambda at: interest_profile(predictor, log, "ann", at=at),
            lambda at: recommend(predictor, log, ["ann", "bob"], at=at),
        ):
            caplog.clear()
            ask(at)
            assert sum("400 days after the last event of toy" in line for line in caplog.messages) == told


def test_recommend_errors(log, predictor):
    with pytest.raises(ValueError, match="user 'eve' is not in toy"):
        recommend(predictor, log, ["ann", "eve"])
    with pytest.raises(ValueError, match="`k` is 0"):
        recommend(predictor, log, ["ann"], 0)
    with pytest.raises(ValueError, match="expected a list of ids"):
        recommend(predictor, log, "ann")

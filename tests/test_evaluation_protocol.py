"""The whole protocol: every group beside its baselines, nulls with reasons, controls, files of predictions, the oracle."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from test_evaluation_cases import DAY, make_log
from transformers import AutoTokenizer

from interest_lm import InterestModel, InterestProcessor
from interest_lm.data.log import InterestLog
from interest_lm.data.oracle import oracle_for
from interest_lm.data.synthetic import generate_world
from interest_lm.evaluation.cases import completion_cases, forecast_cases, ranking_cases
from interest_lm.evaluation.folds import fold
from interest_lm.evaluation.predict import ModelPredictor
from interest_lm.evaluation.predictions import forecast_template, load_predictions, template
from interest_lm.evaluation.protocol import BASELINES, GROUPS, evaluate
from interest_lm.evaluation.ranking import mean_ndcg
from interest_lm.evaluation.report import print_table, to_json, write_results


QUIET = {"progress": False, "bootstrap": 50}
WINDOWS = {"horizons": (3, 7), "horizon_unit": "days", "reference_horizon": 7}


class Fake:
    """A predictor that knows what was asked: everything right."""

    def __init__(self, log: InterestLog):
        self.log = log

    def rank(self, cases, rows):
        scores = np.zeros((rows.stop - rows.start, self.log.num_items), dtype=np.float32)
        scores[np.arange(len(scores)), cases.target[rows]] = 1.0
        return scores

    def forecast(self, cases):
        total = cases.counts[..., self.log.tree.depth == 0].sum(-1, keepdims=True)
        even = np.ones(len(self.log.tree)) * self.log.item_nodes.mean(0).A1
        future = np.where(total > 0, cases.counts / np.maximum(total, 1), even)
        return {"future": future, "change_rate": cases.rate, "intensity": cases.totals}

    def completion(self, cases):
        return cases.hidden_counts / cases.hidden_counts[:, self.log.tree.depth == 0].sum(1, keepdims=True)

    def next_event(self, cases):
        return cases.counts[:, 0]

    def scenes(self, cases):
        return {"interest": cases.counts[:, 0], "share": np.eye(2)[cases.scene]}

    def overall(self, cases):
        return 4.0 * cases.label - 2.0

    def ratings(self, cases):
        return cases.value


@pytest.fixture(scope="module")
def log() -> InterestLog:
    log = make_log(users=40)
    return replace(log, scene=(np.arange(log.num_events) % 3 - 1).astype(np.int16), scenes=["phone", "tv"])


@pytest.fixture(scope="module")
def perfect(log) -> dict:
    vectors = np.random.default_rng(0).random((log.num_items, 4))
    return evaluate(log, Fake(log), **WINDOWS, **QUIET, text_vectors=vectors, name="perfect")


@pytest.fixture(scope="module")
def world() -> InterestLog:
    made = generate_world(num_users=250, num_items=120, seed=1)
    facts = {"split": "global-time", "time": "seconds", "repeat_rate": 0.3, "world": made.config.to_facts()}
    times = np.sort(made.events["timestamp"].to_numpy())
    facts["validation_start"], facts["test_start"] = (int(times[int(len(times) * part)]) for part in (0.8, 0.9))
    events = made.events.copy()
    code = (events["timestamp"] >= facts["validation_start"]).astype(int) + (
        events["timestamp"] >= facts["test_start"]
    )
    events["split"] = np.array(["train", "validation", "test"])[code.to_numpy()]
    return InterestLog.from_frames(events, made.items, facts)


def test_a_perfect_predictor_gets_perfect_figures(perfect):
    assert perfect["ranking"]["ndcg@10"] == perfect["ranking"]["filtered"]["mrr"] == 1.0
    assert perfect["overall"]["auc"] == perfect["overall"]["f1"] == 1.0
    assert perfect["completion"]["kl"] == pytest.approx(0.0, abs=1e-6)
    assert perfect["future"]["kl"] == pytest.approx(0.0, abs=1e-6)
    assert perfect["change"]["auc"] == 1.0 and perfect["change"]["mae"] == 0.0
    assert perfect["intensity"]["mae"] == pytest.approx(0.0, abs=1e-5)  # a mean of zero is floored
    assert perfect["rating"]["rmse"] == 0.0
    assert perfect["future"]["skill"] > 0


def test_every_figure_stands_beside_the_same_of_every_baseline(perfect):
    assert set(perfect["baselines"]) == set(BASELINES)
    for group in GROUPS:
        beside = [entry[group] for entry in perfect["baselines"].values() if group in entry]
        assert beside, group
        for figures in beside:
            assert set(figures) == set(perfect[group]), group
            count = perfect[group].get("cases")
            assert figures.get("cases") == count, group
    for metric in ("ranking.ndcg@10", "future.cross_entropy", "completion.cross_entropy", "change.auc", "rating.rmse"):
        low, high = perfect["intervals"][metric]
        assert low <= high
        assert perfect["paired"].keys() >= {metric} and perfect["paired"][metric]["baseline"] in BASELINES
    assert perfect["paired"]["future.cross_entropy"]["difference"] < 0
    assert perfect["slices"]["cold_users"] is None or perfect["slices"]["cold_users"]["cases"] > 0
    for thirds in (("quiet_users", "usual_users", "busy_users"), ("rare_items", "usual_items", "popular_items")):
        for slices in (
            perfect["slices"],
            *(perfect["baselines"][name]["slices"] for name in ("popularity", "ease_decay")),
        ):
            parts = [slices[name] for name in thirds if slices[name] is not None]
            assert sum(part["cases"] for part in parts) == perfect["ranking"]["cases"]
    rare, popular = (perfect["baselines"]["popularity"]["slices"][name] for name in ("rare_items", "popular_items"))
    assert rare["ndcg@10"] < popular["ndcg@10"]
    assert "shuffled_history" in perfect["controls"] and "time_shuffled" in perfect["controls"]


@pytest.fixture(scope="module")
def reader(log, tiny_bert) -> ModelPredictor:
    """A model that tells items apart by their texts alone."""
    log = replace(
        log, items=log.items.assign(title=[f"{a} {b}" for a in ("heat", "jazz", "food", "guitar") for b in "abc"])
    )
    torch.manual_seed(0)
    model = InterestModel.from_text_pretrained(
        str(tiny_bert), hidden_size=16, use_popularity=False, use_repetition=False
    )
    return ModelPredictor(model, InterestProcessor.from_model(model, AutoTokenizer.from_pretrained(tiny_bert)), log)


def test_random_text_gives_every_item_the_text_of_another(log, reader):
    """What it says of item i after items h is what the model says of item o(i) after items o(h)."""
    cases = ranking_cases(log, fold(log, "test"))
    order = np.random.default_rng(7).permutation(log.num_items)
    histories = replace(cases.histories, item=order[cases.histories.items(log)])
    everybody = slice(0, len(cases.user))
    mixed = reader.with_random_text(7).rank(cases, everybody)
    plain = reader.rank(replace(cases, histories=histories), everybody)
    np.testing.assert_allclose(mixed, plain[:, order], atol=1e-5)
    assert np.abs(mixed - reader.rank(cases, everybody)).max() > 1e-3


def test_the_random_text_control_is_measured_where_text_is_read(log, reader, perfect, monkeypatch):
    few = WINDOWS | QUIET | {"baselines": ["popularity"], "horizons": (1, 7), "reference_horizon": 7}
    results = evaluate(log, reader, **few)
    assert results["completion"] is None and "no domains" in results["reasons"]["completion"]
    control = results["controls"]["random_text"]["ranking"]
    assert set(control) == set(results["ranking"]) and control["cases"] == results["ranking"]["cases"]
    assert control["mrr"] != results["ranking"]["mrr"] and "controls.random_text" not in results["reasons"]
    monkeypatch.setattr(reader.model.config, "use_text", False)
    results = evaluate(log, reader, **few)
    assert results["controls"]["random_text"] is None
    assert results["reasons"]["controls.random_text"] == "the model reads no item text"
    assert perfect["reasons"]["controls.random_text"] == "the predictor cannot be asked with other texts"
    alone = evaluate(log, None, **few)
    assert alone["reasons"]["controls.random_text"] == "no predictor: baselines only"


def test_an_interval_holds_the_figure(perfect):
    for name, entry in perfect["baselines"].items():
        for metric, bounds in entry.get("intervals", {}).items():
            group, figure = metric.split(".", 1)
            if bounds is not None:
                assert bounds[0] - 0.05 <= entry[group][figure] <= bounds[1] + 0.05, (name, metric)


def test_the_same_seed_gives_the_same_results(log):
    few = {"baselines": ["shrinkage", "popularity", "user_mean"]}
    first, second = (evaluate(log, None, **WINDOWS, **QUIET, **few, seed=5) for _ in range(2))
    first["protocol"]["seconds"] = second["protocol"]["seconds"] = 0
    assert to_json(first) == to_json(second)


def test_results_are_json_without_nan_and_the_table_prints(perfect, tmp_path, capsys):
    path = write_results(perfect, tmp_path / "results.json")
    read = json.loads(path.read_text(), parse_constant=lambda constant: pytest.fail(f"{constant} in the JSON"))
    assert read["ranking"]["ndcg@10"] == 1.0
    assert read["baselines"]["zero_change"]["change"]["spearman"] is None
    assert "baselines.zero_change.change.spearman" in read["reasons"]
    print_table(perfect)
    shown = capsys.readouterr().out
    assert "perfect" in shown and "mixture" in shown and "ease_decay" in shown
    with pytest.raises(ValueError, match="no folder"):
        write_results(perfect, tmp_path / "missing" / "results.json")
    assert [file.name for file in tmp_path.iterdir()] == ["results.json"]


def test_baselines_alone_and_what_leave_last_cannot_say():
    results = evaluate(make_log("leave-last"), None, **WINDOWS, **QUIET)
    assert all(results[group] is None and results["reasons"][group] for group in GROUPS)
    assert "leave-last" in results["reasons"]["change"] and "leave-last" in results["reasons"]["intensity"]
    assert results["reasons"]["ranking"] == "no predictor: baselines only"
    assert results["baselines"]["mixture"]["future"]["cross_entropy"] > 0
    assert "zero_change" not in results["baselines"]
    print_table(results)


def test_a_predictor_that_answers_little_gets_nulls_with_reasons(log):
    class Little:
        def overall(self, cases):
            return np.zeros(len(cases.user))

        def ratings(self, cases):
            raise ValueError("the model predicts no ratings")

    results = evaluate(log, Little(), **WINDOWS, **QUIET, baselines=["user_mean"])
    assert results["overall"]["auc"] == 0.5
    assert results["reasons"]["ranking"] == "the predictor answers no `rank`"
    assert results["rating"] is None and results["reasons"]["rating"] == "the model predicts no ratings"


def test_wrong_answers_and_arguments_are_refused(log):
    with pytest.raises(ValueError, match="baselines: 'best' is none of popularity, "):
        evaluate(log, None, **WINDOWS, **QUIET, baselines=["best"])

    class Wrong(Fake):
        def rank(self, cases, rows):
            return super().rank(cases, rows)[:, :-1] * np.nan

    with pytest.raises(ValueError, match=r"model: scores have shape \(\d+, 11\), expected \(\d+, 12\)"):
        evaluate(log, Wrong(log), **WINDOWS, **QUIET, baselines=["popularity"])

    class NotANumber(Fake):
        def rank(self, cases, rows):
            return super().rank(cases, rows) * np.nan

    with pytest.raises(ValueError, match="model: NaN among the scores of case 0"):
        evaluate(log, NotANumber(log), **WINDOWS, **QUIET, baselines=["popularity"])


def test_the_oracle_takes_all_of_its_own_gain_and_the_mixture_beats_the_rest(world):
    windows = {"horizons": (7, 28), "horizon_unit": "days", "reference_horizon": 28}
    results = evaluate(world, oracle_for(world, 28), **windows, **QUIET)
    future = {
        name: entry["future"]["cross_entropy"] for name, entry in results["baselines"].items() if "future" in entry
    }
    assert min(future, key=future.get) == "mixture"
    assert future["mixture"] < 0.99 * min(value for name, value in future.items() if name != "mixture")
    assert results["oracle"]["future"]["over_mixture"]["gain_percent"] > 5
    assert results["oracle"]["future"]["over_mixture"]["model_share_of_gain"] == pytest.approx(1.0)
    known = results["oracle"]["future"]["well_known"]
    assert 30 < known["cases"] < results["future"]["cases"] and known["model_share_of_gain"] == pytest.approx(1.0)
    assert known["interval"] == pytest.approx([1.0, 1.0])
    assert known["oracle"] < 0.97 * known["mixture"]
    assert results["oracle"]["completion"]["over_shrinkage"]["model_share_of_gain"] == pytest.approx(1.0)
    true = results["oracle"]["change"]["true_rate"]
    assert true["pairs"] > 100 and true["model"] == true["oracle"] > 0.5 and true["model_share"] == 1.0
    assert results["paired"]["future.cross_entropy"]["interval"][1] < 0
    # What can be known of change is gone when every person's items are permuted over her times.
    mixed = results["controls"]["time_shuffled"]["baselines"]
    assert mixed["change"]["mixture_rate"]["auc"] < results["baselines"]["mixture_rate"]["change"]["auc"] - 0.1


def test_seen_items_leave_the_filtered_list_and_repeats_leave_its_cases(log):
    """Against a plain loop: mask what was seen, sort, look for the target."""

    class Noise:
        def rank(self, cases, rows):
            generator = np.random.default_rng(0)
            return generator.integers(5, size=(len(cases.user), log.num_items))[rows].astype(np.float32)

    results = evaluate(log, Noise(), **WINDOWS, **QUIET, baselines=["popularity"])
    cases = ranking_cases(log, fold(log, "test"))
    scores = Noise().rank(cases, slice(0, len(cases.user)))
    found = []
    for row in range(len(cases.user)):
        part = slice(cases.histories.offsets[row], cases.histories.offsets[row + 1])
        seen = set(log.item[cases.histories.index[part]].tolist())
        if cases.target[row] in seen:
            continue
        left = [item for item in range(log.num_items) if item not in seen]
        own = scores[row, cases.target[row]]
        better = sum(scores[row, item] > own for item in left)
        ties = sum(scores[row, item] == own for item in left)
        found.append(np.mean([1.0 / (better + 1 + place) for place in range(ties)]))
    assert results["ranking"]["filtered"]["cases"] == len(found)
    assert results["ranking"]["filtered"]["mrr"] == pytest.approx(np.mean(found))
    assert results["ranking"]["unfiltered"]["cases"] == len(cases.user)


def test_lists_from_a_file_are_measured_like_a_model(log, tmp_path):
    template(log, tmp_path / "asked.parquet")
    asked = pd.read_parquet(tmp_path / "asked.parquet")
    cases = ranking_cases(log, fold(log, "test"))
    answer = pd.DataFrame(
        {
            "user_id": log.user_ids[cases.user],
            "at": cases.time,
            "item_id": log.item_ids[cases.target],
            "rank": 1,
        }
    ).drop_duplicates(["user_id", "at", "item_id"])
    assert set(map(tuple, asked[["user_id", "at"]].to_numpy())) == set(
        map(tuple, answer[["user_id", "at"]].to_numpy())
    )
    answer.to_parquet(tmp_path / "lists.parquet")
    predictor = load_predictions(tmp_path / "lists.parquet", log)
    results = evaluate(log, predictor, **WINDOWS, **QUIET, baselines=["popularity"])
    assert results["ranking"]["unfiltered"]["hit_rate@5"] == 1.0
    assert results["reasons"]["future"] == "the predictor answers no `forecast`"
    answer.iloc[:3].to_parquet(tmp_path / "few.parquet")
    few = evaluate(log, load_predictions(tmp_path / "few.parquet", log), **WINDOWS, **QUIET, baselines=["popularity"])
    assert 0 < few["ranking"]["unfiltered"]["hit_rate@5"] < 0.2


def test_events_of_one_time_have_lists_of_their_own(log, tmp_path):
    """`history` tells cases apart that share user and time."""
    last = np.repeat(log.offsets[1:], np.diff(log.offsets)) - np.arange(log.num_events)
    facts = log.facts | {"split": "leave-last", "validation_start": None, "test_start": None}
    log = replace(log, timestamp=0 * log.timestamp, split=np.where(last <= 3, 2, 0).astype(np.int8), facts=facts)
    cases = ranking_cases(log, fold(log, "test"))
    columns = {"user_id": log.user_ids[cases.user], "at": cases.time, "history": cases.histories.lengths}
    answer = pd.DataFrame(columns | {"item_id": log.item_ids[cases.target], "rank": 1})
    assert answer.duplicated(["user_id", "at"]).any() and not answer.duplicated(["user_id", "history"]).any()
    answer.to_parquet(tmp_path / "lists.parquet")
    predictor = load_predictions(tmp_path / "lists.parquet", log)
    assert mean_ndcg(log, cases, predictor, filtered=False) == 1.0


def test_forecasts_from_a_file_are_measured_like_a_model(log, tmp_path):
    forecast_template(log, tmp_path / "asked.parquet", **WINDOWS)
    asked = pd.read_parquet(tmp_path / "asked.parquet")
    cases = forecast_cases(log, fold(log, "test"), (3, 7), "days", 7)
    assert len(asked) == 2 * len(cases.user)
    leaves = np.array(log.tree.ids)[log.tree.is_leaf]
    rows = asked.merge(pd.DataFrame({"domain": leaves, "share": 1 / len(leaves)}), how="cross")
    rows.to_parquet(tmp_path / "even.parquet")
    predictor = load_predictions(tmp_path / "even.parquet", log)
    results = evaluate(log, predictor, **WINDOWS, **QUIET, baselines=["population"])
    deepest = str(log.tree.num_levels - 1)
    assert results["future"]["per_level"][deepest]["cross_entropy"] == pytest.approx(np.log(len(leaves)))
    rows[rows["user_id"] != rows["user_id"].iloc[0]].to_parquet(tmp_path / "missing.parquet")
    with pytest.raises(ValueError, match="no forecast of `user_id` 'u"):
        evaluate(
            log, load_predictions(tmp_path / "missing.parquet", log), **WINDOWS, **QUIET, baselines=["population"]
        )


LIST = {"user_id": ["u1", "u1"], "item_id": ["i1", "i2"], "score": [2.0, 1.0]}
SHARES = {"user_id": ["u1", "u1"], "horizon": [3.0, 3.0], "domain": ["a > a0", "b > b1"], "share": [0.5, 0.5]}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (LIST | {"user_id": ["u1", "nobody"]}, "row 1: `user_id` 'nobody' is no user of the data"),
        (LIST | {"item_id": ["i1", "x"]}, "row 1: `item_id` 'x' is no item of the data"),
        (LIST | {"score": [1.0, np.nan]}, "row 1: `score` is nan, expected a finite number"),
        (LIST | {"item_id": ["i1", "i1"]}, "row 1: `user_id` 'u1', `item_id` 'i1' was given before"),
        (SHARES | {"share": [0.5, 0.6]}, "row 0: shares of `user_id` 'u1', `horizon` 3.0 sum to 1.1000, expected 1"),
        (SHARES | {"share": [1.5, -0.5]}, "row 1: `share` is -0.5, expected a finite number not below 0"),
        (SHARES | {"domain": ["a > a0", "a"]}, "row 1: `domain` 'a' has domains below it, expected leaves only"),
        (SHARES | {"domain": ["a > a0", "z"]}, "row 1: `domain` 'z' is no domain of the data"),
        ({"user_id": ["u1"]}, r"columns are user_id, expected user_id, item_id, score or rank \(ranking lists\)"),
    ],
)
def test_a_bad_row_is_one_clear_line(log, tmp_path, rows, message):
    pd.DataFrame(rows).to_parquet(tmp_path / "bad.parquet")
    with pytest.raises(ValueError, match=message) as raised:
        load_predictions(tmp_path / "bad.parquet", log)
    assert "bad.parquet" in str(raised.value) and "\n" not in str(raised.value)


def test_a_file_that_is_no_parquet_is_refused(log, tmp_path):
    (tmp_path / "bad.parquet").write_text("no")
    with pytest.raises(ValueError, match="bad.parquet: not readable as Parquet"):
        load_predictions(tmp_path / "bad.parquet", log)
    with pytest.raises(ValueError, match="none.parquet: no such file"):
        load_predictions(tmp_path / "none.parquet", log)


def test_positions_instead_of_times():
    """A log in order only: no days anywhere, and the reason beside the popularity of late."""
    made = make_log("leave-last")
    ordered = InterestLog(
        **{**vars(made), "facts": made.facts | {"time": "order"}, "timestamp": made.timestamp // DAY}
    )
    results = evaluate(ordered, None, **WINDOWS, **QUIET)
    assert results["reasons"]["baselines.recent_popularity"] == "the log has positions instead of times"
    assert results["baselines"]["mixture"]["future"]["cross_entropy"] > 0
    assert results["baselines"]["decayed_counts"]["settings"]["future"]["1"]["unit"] == "events"


def test_hidden_halves_are_not_shown_to_the_predictor(log):
    cases = completion_cases(log, fold(log, "test"))
    np.testing.assert_allclose(cases.histories.count_nodes(log), cases.visible_counts)

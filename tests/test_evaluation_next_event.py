"""The next event at a known time: what is asked, and baselines that find what the hour and the last event say."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from test_evaluation_cases import DAY, make_log

from interest_lm.data.log import InterestLog
from interest_lm.evaluation import cases as cases_module
from interest_lm.evaluation.baselines import context
from interest_lm.evaluation.baselines.next_event import NextEventBaselines
from interest_lm.evaluation.cases import NextEventCases, next_event_cases
from interest_lm.evaluation.folds import fold
from interest_lm.evaluation.metrics.forecast import forecast_values
from interest_lm.evaluation.protocol import evaluate
from interest_lm.evaluation.scoring import score_shares


def context_log(kind: str, users: int = 40, events: int = 60) -> InterestLog:
    """Six leaves under two tops. `hour`: mornings of a weekday are "a", evenings "b", everything the other way round at weekends;
    `last`: what comes next is one leaf on from the last, whatever the hour. One event in ten is any leaf."""
    rng = np.random.default_rng(0)
    items = pd.DataFrame(
        {
            "item_id": [f"i{n}" for n in range(12)],
            "categories": [[["ab"[n % 6 // 3], f"leaf{n % 6}"]] for n in range(12)],
        }
    )
    rows = []
    for user in range(users):
        day = np.sort(rng.choice(120, events, replace=False))
        time = day * DAY + np.where(rng.random(events) < 0.5, 8, 19) * 3600 + rng.integers(0, 3600, events)
        leaf = int(rng.integers(6))
        for moment in time:
            if kind == "hour":
                weekend, evening = (moment // DAY + 3) % 7 >= 5, moment % DAY > DAY // 2
                leaf = 3 * int(weekend != evening) + int(rng.integers(3))
            else:
                leaf = (leaf + 1) % 6
            leaf = int(rng.integers(6)) if rng.random() < 0.1 else leaf
            rows.append((f"u{user}", f"i{leaf + 6 * int(rng.integers(2))}", int(moment)))
    frame = pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp"])
    facts = {"split": "global-time", "time": "seconds", "repeat_rate": 0.5, "recipe": "test"}
    facts |= {"validation_start": 84 * DAY, "test_start": 102 * DAY}
    code = np.digitize(frame["timestamp"], [84 * DAY, 102 * DAY])
    frame["split"] = np.array(["train", "validation", "test"])[code]
    return InterestLog.from_frames(frame, items, facts)


@pytest.fixture(scope="module", params=["hour", "last"])
def told(request) -> tuple[str, InterestLog]:
    return request.param, context_log(request.param)


def cross_entropy(log: InterestLog, cases, shares: np.ndarray) -> float:
    return score_shares(cases.user, cases.counts, shares[:, None], [""], log.tree, 0, 0, "test").figures[
        "cross_entropy"
    ]


def baselines_of(log: InterestLog) -> tuple[NextEventBaselines, NextEventCases]:
    made = NextEventBaselines()
    made.tune(log, fold(log, "validation"), next_event_cases(log, fold(log, "validation")))
    made.fit(log, fold(log, "test"))
    return made, next_event_cases(log, fold(log, "test"))


@pytest.mark.parametrize("rule", ["global-time", "leave-last"])
def test_an_event_is_asked_at_its_own_time_with_what_came_strictly_before(rule):
    log = make_log(rule, users=30, days=30)
    asked = fold(log, "test")
    cases = next_event_cases(log, asked)
    assert asked.asked[cases.event].all() and len(cases.event) > 20
    assert (cases.time == log.timestamp[cases.event]).all()
    np.testing.assert_array_equal(cases.counts[:, 0], log.item_nodes[log.item[cases.event]].toarray())
    for row in range(len(cases.user)):
        history = cases.histories.index[cases.histories.offsets[row] : cases.histories.offsets[row + 1]]
        assert len(history) and (log.user[history] == cases.user[row]).all() and (history < cases.event[row]).all()
        assert (log.timestamp[history] < cases.time[row]).all()
    assert np.bincount(cases.user).max() <= (20 if rule == "global-time" else 1)


def test_baselines_find_what_decides(told):
    kind, log = told
    made, cases = baselines_of(log)
    figures = {name: cross_entropy(log, cases, shares) for name, shares in made.shares(cases).items()}
    right = "hour_context" if kind == "hour" else "markov"
    assert figures[right] < figures["mixture"] - 0.2
    assert figures["context_mix"] < figures[right] + 0.02
    if kind == "hour":
        assert figures["mixture_context"] < figures["mixture"] - 0.2
    for shares in made.shares(cases).values():
        assert np.abs(shares[:, log.tree.depth == 0].sum(1) - 1).max() < 1e-4
        children = [shares[:, log.tree.parent == top].sum(1) for top in np.flatnonzero(log.tree.depth == 0)]
        np.testing.assert_allclose(np.stack(children, 1), shares[:, log.tree.depth == 0], atol=1e-5)


def test_no_baseline_knows_what_is_asked():
    """With another item at everybody's last event, all at one time, what is said of these events stays the same."""
    log = context_log("last", users=15)
    last = log.offsets[1:] - 1
    time, split, item = log.timestamp.copy(), log.split.copy(), log.item.copy()
    time[last], split[last], item[last] = 121 * DAY, 2, (item[last] + 1) % log.num_items
    log = replace(log, timestamp=time, split=split)
    first, cases = baselines_of(log)
    second, changed = baselines_of(replace(log, item=item))
    asked = np.isin(cases.event, last)
    assert asked.sum() == 15 and not np.array_equal(cases.counts[asked], changed.counts[asked])
    answers = second.shares(changed)
    for name, shares in first.shares(cases).items():
        np.testing.assert_array_equal(shares, answers[name], err_msg=name)


def test_nulls_have_their_reasons():
    settings = {"horizons": (3, 7), "horizon_unit": "days", "reference_horizon": 7, "progress": False, "bootstrap": 0}
    log = make_log()
    few = {"baselines": ["mixture", "markov"]}
    results = evaluate(log, None, **settings, **few)
    assert results["next_event"] is None and results["reasons"]["next_event"] == "no predictor: baselines only"
    assert results["baselines"]["markov"]["next_event"]["per_level"]["1"]["cross_entropy"] > 0
    ordered, by_order = replace(log, facts=log.facts | {"time": "order"}), {"horizon_unit": "events"}
    assert "no times" in evaluate(ordered, None, **(settings | by_order), **few)["reasons"]["next_event"]
    bare = replace(log, tree=None)
    assert evaluate(bare, None, **settings, **few)["reasons"]["next_event"] == "the log has no domains"


def test_the_metric_is_that_of_forecasts():
    log = context_log("hour", users=5)
    cases = next_event_cases(log, fold(log, "test"))
    even = np.repeat(np.asarray(log.item_nodes.mean(0)), len(cases.user), 0)
    level = log.tree.level(1)
    expected = forecast_values(cases.counts[:, 0, level], even[:, level])["cross_entropy"].mean()
    figures = score_shares(cases.user, cases.counts, even[:, None], [""], log.tree, 0, 0, "even").figures
    assert figures["per_level"]["1"]["cross_entropy"] == pytest.approx(expected)


def test_many_cases_are_thinned_at_random(monkeypatch):
    log = context_log("hour")
    everything = next_event_cases(log, fold(log, "test"))
    monkeypatch.setattr(cases_module, "NEXT_EVENT_HISTORY", int(250 * everything.histories.lengths.mean()))
    some = next_event_cases(log, fold(log, "test"))
    assert 240 < len(some.event) < 260 < len(everything.event)
    assert np.isin(some.event, everything.event).all() and len(np.unique(some.user)) > 35
    np.testing.assert_array_equal(some.event, next_event_cases(log, fold(log, "test")).event)
    monkeypatch.setattr(context, "TUNING_CASES", 200)
    assert len(context.tuning_part(everything, log).user) == 200

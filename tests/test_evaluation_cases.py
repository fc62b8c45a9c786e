"""Folds and cases: nothing asked is known, histories end before targets, windows end before the next split."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from interest_lm.data.log import InterestLog
from interest_lm.evaluation.cases import (
    completion_cases,
    forecast_cases,
    overall_cases,
    ranking_cases,
    sample_users,
    shuffled,
    take,
    time_shuffled_log,
)
from interest_lm.evaluation.folds import fold, tuning_fold, window_fold


DAY = 86_400


def make_log(rule: str = "global-time", users: int = 12, seed: int = 0, days: int = 100) -> InterestLog:
    """A small log over `days` days: 12 items in a two-level tree, ratings, many ties."""
    rng = np.random.default_rng(seed)
    tops = ("a", "b", "c")
    items = pd.DataFrame(
        {
            "item_id": [f"i{number}" for number in range(12)],
            "categories": [[[tops[number % 3], f"{tops[number % 3]}{number % 6}"]] for number in range(12)],
        }
    )
    rows = []
    for user in range(users):
        times = np.sort(rng.integers(0, days, size=rng.integers(6, 40))) * DAY + rng.integers(0, 2) * 3600
        rows += [(f"u{user}", f"i{rng.integers(12)}", int(t), float(rng.integers(1, 6))) for t in times]
    events = pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp", "value"])
    facts = {"split": rule, "time": "seconds", "repeat_rate": 0.5, "recipe": "test"}
    if rule == "global-time":
        first, second = int(0.7 * days * DAY), int(0.85 * days * DAY)
        facts |= {"validation_start": first, "test_start": second}
        code = (events["timestamp"] >= first).astype(int) + (events["timestamp"] >= second)
    else:
        back = events.groupby("user_id").cumcount(ascending=False)
        code = np.select([back == 0, back == 1], [2, 1], 0)
    events["split"] = np.array(["train", "validation", "test"])[np.asarray(code)]
    return InterestLog.from_frames(events, items, facts)


@pytest.mark.parametrize("rule", ["global-time", "leave-last"])
@pytest.mark.parametrize("split", ["validation", "test"])
def test_nothing_asked_is_known_and_tuning_comes_before(rule, split):
    log = make_log(rule)
    asked, tuning = fold(log, split), tuning_fold(log, split)
    assert not (asked.asked & asked.known).any()
    assert not (tuning.asked & tuning.known).any()
    assert not (tuning.asked & asked.asked).any()
    assert (asked.known[tuning.asked]).all() and (asked.known | ~tuning.known).all()
    for user in range(log.num_users):
        part = slice(log.offsets[user], log.offsets[user + 1])
        known, later = log.timestamp[part][tuning.known[part]], log.timestamp[part][tuning.asked[part]]
        assert not len(known) or not len(later) or known.max() <= later.min()


@pytest.mark.parametrize("rule", ["global-time", "leave-last"])
def test_ranking_histories_end_before_their_targets(rule):
    log = make_log(rule)
    cases = ranking_cases(log, fold(log, "test"))
    assert len(cases.user)
    begins = log.facts["test_start"] if rule == "global-time" else 0
    last = log.timestamp[cases.histories.index[cases.histories.offsets[1:] - 1]]
    assert (last < begins).any() == (rule == "global-time") and (last >= begins).any()
    for row in range(len(cases.user)):
        history = cases.histories.index[cases.histories.offsets[row] : cases.histories.offsets[row + 1]]
        assert (log.user[history] == cases.user[row]).all()
        # nobody asks before the split begins, when everything until then is known; nor does the target's time show
        assert cases.time[row] == max(log.timestamp[history[-1]], begins)
        if rule == "global-time":
            assert (log.timestamp[history] < log.timestamp[cases.event[row]]).all()
        assert (history < cases.event[row]).all()
    assert np.bincount(cases.user).max() == (1 if rule == "leave-last" else 5)
    assert (log.item[cases.event] == cases.target).all()


def test_a_later_event_changes_no_forecast_question_before_it():
    """Labels of a cut depend on nothing behind the window; histories on nothing at or after the cut."""
    log = make_log()
    asked = fold(log, "validation")
    cases = forecast_cases(log, asked, (3, 7), "days", 7)
    changed = log.item.copy()
    late = log.timestamp >= asked.time + 7 * DAY
    changed[late] = 0
    later = InterestLog(**{**vars(log), "item": changed})
    other = forecast_cases(later, asked, (3, 7), "days", 7)
    assert late.any() and len(cases.user)
    for name in ("counts", "totals", "mask", "history_counts", "rate", "gate"):
        np.testing.assert_array_equal(getattr(cases, name), getattr(other, name))
    assert (log.timestamp[cases.histories.index] < asked.time).all()


def test_windows_end_before_the_next_split():
    log = make_log()
    cases = forecast_cases(log, fold(log, "validation"), (10, 30), "days", 10)  # the validation period has 15 days
    assert cases.mask[:, 0].all() and not cases.mask[:, 1].any()
    by_events = forecast_cases(log, fold(log, "validation"), (1, 50), "events", 1)
    assert by_events.mask[:, 0].any() and not by_events.mask[:, 1].any()
    moved = window_fold(log, fold(log, "test"), tuning_fold(log, "test"), 30)
    assert moved.time == log.facts["test_start"] - 30 * DAY
    assert forecast_cases(log, moved, (10, 30), "days", 10).mask.all()


def test_leave_last_forecasts_the_next_event():
    log = make_log("leave-last")
    cases = forecast_cases(log, fold(log, "test"), (7,), "days", 7)
    assert cases.horizons == (1.0,) and cases.unit == "events" and cases.rate is None
    np.testing.assert_allclose(cases.counts[:, 0][:, log.tree.depth == 0].sum(1), 1.0)


@pytest.mark.parametrize("rule", ["global-time", "leave-last"])
def test_half_of_the_history_is_hidden_and_it_is_the_same_half_for_a_sample(rule):
    log = make_log(rule)
    cases = completion_cases(log, fold(log, "test"), seed=3)
    top = log.tree.depth == 0
    visible, hidden = cases.visible_counts[:, top].sum(1), cases.hidden_counts[:, top].sum(1)
    np.testing.assert_array_equal(hidden, (visible + hidden) // 2)
    np.testing.assert_array_equal(cases.histories.lengths, visible)
    users = sample_users(log, 4, seed=1)
    sampled = completion_cases(log, fold(log, "test"), users, seed=3)
    rows = np.flatnonzero(users[cases.user])
    np.testing.assert_array_equal(sampled.histories.index, take(cases, rows).histories.index)
    assert len(sampled.user) == users.sum() == 4
    other = completion_cases(log, fold(log, "test"), seed=4)
    assert not np.array_equal(other.histories.index, cases.histories.index)


def test_overall_cases_have_labels_from_the_past_only():
    log = make_log()
    cases = overall_cases(log, fold(log, "test"))
    assert set(np.unique(cases.label[np.isfinite(cases.label)])) == {0.0, 1.0}
    for row in range(len(cases.user)):
        history = cases.histories.index[cases.histories.offsets[row] : cases.histories.offsets[row + 1]]
        assert (log.timestamp[history] < log.timestamp[cases.event[row]]).all()
        assert cases.label[row] == (cases.value[row] > log.value[history].mean())


def test_shuffling_permutes_items_within_a_history_and_keeps_times():
    log = make_log()
    cases = ranking_cases(log, fold(log, "test"))
    mixed = shuffled(cases, log, 1)
    assert not np.array_equal(mixed.histories.items(log), cases.histories.items(log))
    np.testing.assert_array_equal(mixed.histories.index, cases.histories.index)
    np.testing.assert_array_equal(mixed.histories.matrix(log).toarray(), cases.histories.matrix(log).toarray())
    rows = np.array([3, 0, 5])
    some = mixed.histories.select(rows)
    for place, row in enumerate(rows):
        part = slice(mixed.histories.offsets[row], mixed.histories.offsets[row + 1])
        got = slice(some.offsets[place], some.offsets[place + 1])
        np.testing.assert_array_equal(some.items(log)[got], mixed.histories.item[part])
        np.testing.assert_array_equal(some.ages[got], np.arange(part.stop - part.start)[::-1])


def test_the_time_shuffled_log_moves_items_over_all_of_a_users_times():
    log = make_log()
    mixed = time_shuffled_log(log, 0)
    np.testing.assert_array_equal(mixed.timestamp, log.timestamp)
    assert not np.array_equal(mixed.item, log.item)
    for user in range(log.num_users):
        part = slice(log.offsets[user], log.offsets[user + 1])
        before, after = (sorted(zip(x.item[part], x.value[part], strict=True)) for x in (log, mixed))
        assert before == after


@pytest.mark.parametrize("split", ["train", "Test"])
def test_an_unknown_split_is_refused(split):
    with pytest.raises(ValueError, match=f"split is '{split}', expected 'validation' or 'test'"):
        fold(make_log(), split)

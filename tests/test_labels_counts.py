"""Histories, windows and counts equal a plain loop over the events, and nothing after a window can change them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from label_logs import DAY, make_log, random_frames, random_log

from interest_lm.data import labels
from interest_lm.data.labels import (
    count_nodes,
    count_nodes_ragged,
    future_counts,
    history_range,
    training_limit,
)


def loop_counts(log, user, start, stop):
    """Counts and number of the events of one user in `[start, stop)`, one by one."""
    inside = (log.user == user) & (log.timestamp >= start) & (log.timestamp < stop)
    nodes = np.zeros(len(log.tree))
    for item in log.item[inside]:
        if item >= 0:
            nodes += log.item_nodes[item].toarray()[0]
    return nodes, inside.sum()


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), cut=st.integers(-5, 850), horizon=st.floats(0.1, 40))
def test_histories_and_windows_equal_a_loop(seed, cut, horizon):
    log = random_log(seed)
    users, time = np.arange(log.num_users), np.full(log.num_users, cut * (DAY // 8))
    start, stop = history_range(log, users, time)
    history = count_nodes(log, start, stop)
    window = future_counts(log, users, time, [horizon, 2 * horizon], "days")
    for user in users:
        expected, number = loop_counts(log, user, -1, time[user])
        assert stop[user] - start[user] == number
        np.testing.assert_allclose(history[user], expected, atol=1e-4)
        for column, length in enumerate((horizon, 2 * horizon)):
            until = time[user] + round(length * DAY)
            assert window.mask[user, column] == (until <= log.facts["end"])
            if window.mask[user, column]:
                expected, number = loop_counts(log, user, time[user], until)
                np.testing.assert_allclose(window.counts[user, column], expected, atol=1e-4)
                assert window.totals[user, column] == number
            else:
                assert not window.counts[user, column].any() and window.totals[user, column] == 0


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), cut=st.integers(100, 500), change=st.integers(0, 10_000))
def test_what_follows_the_window_changes_no_label(seed, cut, change):
    frame, items = random_frames(seed)
    time, horizon = cut * (DAY // 8), 20
    later = frame["timestamp"] >= time + horizon * DAY
    changed = frame.copy()
    rng = np.random.default_rng(change)
    changed.loc[later, "item_id"] = items["item_id"].to_numpy()[rng.integers(len(items), size=later.sum())]
    changed.loc[later, "timestamp"] += DAY * rng.integers(0, 50)
    answers = []
    for table in (frame, changed):
        log = make_log(table, items, end=10_000 * DAY)
        order = np.argsort(log.user_ids)
        user, at = np.arange(log.num_users)[order], np.full(log.num_users, time)
        window = future_counts(log, user, at, [5, horizon], "days")
        answers.append((count_nodes(log, *history_range(log, user, at)), window.counts, window.totals, window.mask))
    for before, after in zip(*answers):
        np.testing.assert_array_equal(before, after)


@pytest.mark.parametrize("seed", range(3))
def test_siblings_sum_to_their_parent_and_items_with_several_domains_count_once(seed):
    log = random_log(seed)
    counts = count_nodes(log, log.offsets[:-1], log.offsets[1:])
    top = log.tree.depth == 0
    with_item = np.bincount(log.user, log.item >= 0, minlength=log.num_users)
    np.testing.assert_allclose(counts[:, top].sum(1), with_item, rtol=1e-5)
    for node in np.flatnonzero(~log.tree.is_leaf):
        np.testing.assert_allclose(counts[:, log.tree.parent == node].sum(1), counts[:, node], rtol=1e-5)


def test_ragged_lists_take_weights_and_chunks_change_nothing(monkeypatch):
    log = random_log(3)
    start, stop = log.offsets[:-1], log.offsets[1:]
    whole = count_nodes(log, start, stop)
    index, offsets = np.arange(log.num_events), log.offsets
    np.testing.assert_allclose(count_nodes_ragged(log, index, offsets), whole, rtol=1e-5)
    np.testing.assert_allclose(count_nodes_ragged(log, index, offsets, np.full(len(index), 0.5)), whole / 2, rtol=1e-5)
    monkeypatch.setattr(labels, "_CHUNK_EVENTS", 7)
    np.testing.assert_allclose(count_nodes(log, start, stop), whole, rtol=1e-5)
    np.testing.assert_allclose(count_nodes_ragged(log, index, offsets), whole, rtol=1e-5)
    assert not count_nodes(log, stop, start).any()


def test_leave_last_windows_hold_no_validation_or_test_event():
    log = random_log(1, split="leave-last")
    last_event, limit_time = training_limit(log)
    assert limit_time is None
    for user in range(log.num_users):
        own = np.flatnonzero(log.user == user)
        assert last_event[user] == own[-1] + 1 - 2 * (len(own) >= 3)
    user, time = log.user, log.timestamp
    window = future_counts(log, user, time, [3], "events", last_event)
    start = history_range(log, user, time)[1]
    np.testing.assert_array_equal(window.mask[:, 0], start + 3 <= last_event[user])
    for cut in np.flatnonzero(window.mask[:, 0]):
        assert (log.split[start[cut] : start[cut] + 3] == 0).all()
    days = future_counts(log, user, time, [30], "days", last_event)
    held = history_range(log, user, time + 30 * DAY)[1] > last_event[user]
    assert held.any() and not days.mask[held].any()


def test_global_time_windows_end_before_the_split_moment():
    log = random_log(2)
    last_event, limit_time = training_limit(log)
    assert limit_time == log.facts["validation_start"]
    assert (log.timestamp[log.split == 0] < limit_time).all()
    window = future_counts(log, log.user, log.timestamp, [10], "days", last_event, limit_time)
    np.testing.assert_array_equal(window.mask[:, 0], log.timestamp + 10 * DAY <= limit_time)
    assert training_limit(log, 1)[1] == log.facts["test_start"] and training_limit(log, 2)[1] == log.facts["end"]
    assert (training_limit(log, 2)[0] == log.offsets[1:]).all()


def test_horizons_may_come_in_any_order():
    log = random_log(5)
    user, time = np.arange(log.num_users), np.full(log.num_users, 30 * DAY)
    up, down = (future_counts(log, user, time, order, "days") for order in ([2, 9, 40], [40, 9, 2]))
    np.testing.assert_allclose(up.counts, down.counts[:, ::-1])
    np.testing.assert_array_equal(up.totals, down.totals[:, ::-1])


@pytest.mark.parametrize(
    ("horizons", "unit", "facts", "message"),
    [
        ([7], "weeks", {}, "'weeks', expected 'days' or 'events'"),
        ([0], "days", {}, "horizon is 0, expected a positive number of days"),
        ([1.5], "events", {}, "horizon is 1.5, expected a positive whole number of events"),
        ([7], "days", {"time": "order"}, "only positions"),
    ],
)
def test_unanswerable_windows_are_refused(horizons, unit, facts, message):
    log = random_log(0)
    log = replace(log, facts={**log.facts, **facts})
    with pytest.raises(ValueError, match=message):
        future_counts(log, np.array([0]), np.array([0]), horizons, unit)
    with pytest.raises(ValueError, match="user index 9 is not in the log, expected 0 to 8"):
        history_range(log, np.array([0, 9]), np.array([0, 0]))

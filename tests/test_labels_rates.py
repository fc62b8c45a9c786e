"""Change rates, their inversion and gates; overall interest."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from label_logs import random_log

from interest_lm.data.labels import change_rate, future_from_rate, node_shares, overall_labels
from interest_lm.data.population import even_shares


TREE = random_log().tree


def random_counts(seed, rows, size):
    """Counts `(rows, K)` that are consistent over the levels of the tree."""
    rng = np.random.default_rng(seed)
    counts = np.where(TREE.is_leaf, rng.poisson(size, (rows, len(TREE))), 0).astype(float)
    for node in reversed(range(len(TREE))):
        if TREE.parent[node] >= 0:
            counts[:, TREE.parent[node]] += counts[:, node]
    return counts


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10_000), before=st.floats(0, 20), after=st.floats(0, 20), strength=st.floats(0.5, 20))
def test_rates_lie_inside_one_and_invert_to_the_future(seed, before, after, strength):
    history, future = random_counts(seed, 4, before), random_counts(seed + 1, 4, after)
    rate, gate = change_rate(history, future, TREE, strength, population=even_shares(TREE))
    assert (np.abs(rate) < 1).all()
    interest = node_shares(history, TREE, even_shares(TREE), 5.0)
    forecast = node_shares(future, TREE, interest, strength)
    np.testing.assert_allclose(future_from_rate(interest, rate), forecast, rtol=1e-4)
    for shares in (interest, forecast):
        np.testing.assert_allclose(shares[:, TREE.depth == 0].sum(1), 1.0)
        for node in np.flatnonzero(~TREE.is_leaf):
            np.testing.assert_allclose(shares[:, TREE.parent == node].sum(1), shares[:, node])
    assert not gate[interest < 0.05].any()


def test_a_rate_is_the_signed_relative_difference_of_shrunk_shares():
    counts = np.zeros((1, len(TREE)))
    film, crime, comedy = (TREE.index[name] for name in ("Film", "Film > Crime", "Film > Comedy"))
    music = TREE.index["Music"]
    counts[0, [film, crime, music]] = [6, 6, 4]
    future = np.zeros_like(counts)
    future[0, [film, crime, comedy]] = [10, 5, 5]
    rate, gate = change_rate(counts, future, TREE, strength=10)
    f = (5 + 10 * 0.6) / 20
    assert rate[0, crime] == pytest.approx((f - 0.6) / (f + 0.6))
    assert rate[0, film] > 0 > rate[0, music]
    assert rate[0, comedy] == 0 and not gate[0, comedy]  # nothing before: no relative change
    assert gate[0, [film, crime, music]].all()


def test_without_evidence_everything_is_steady_and_not_judged():
    history = random_counts(0, 3, 5)
    rate, gate = change_rate(history, np.zeros_like(history), TREE)
    assert not gate.any() and np.abs(rate).max() < 1e-6
    few = history * 2 / history[:, TREE.depth == 0].sum(1, keepdims=True)
    assert not change_rate(few, history * 10, TREE)[1].any()


def test_overall_interest_is_above_the_mean_of_strictly_earlier_values():
    log = random_log(4)
    value = log.value.copy()
    value[::7] = np.nan
    log = replace(log, value=value)
    label = overall_labels(log)
    for event in range(log.num_events):
        earlier = value[(log.user == log.user[event]) & (log.timestamp < log.timestamp[event])].astype(float)
        earlier = earlier[~np.isnan(earlier)]
        if np.isnan(value[event]) or not len(earlier):
            assert np.isnan(label[event])
        else:
            assert label[event] == (value[event] > earlier.mean() + 1e-6)


def test_overall_interest_by_threshold_and_without_values():
    log = random_log(4)
    known = replace(log, facts={**log.facts, "value_threshold": 4.0})
    np.testing.assert_array_equal(overall_labels(known), log.value >= 4)
    assert np.isnan(overall_labels(replace(log, value=None))).all()

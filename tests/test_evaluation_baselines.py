"""Baselines: closed forms against slow ones, exact sums, and the strength that was measured elsewhere."""

from __future__ import annotations

import numpy as np
import pytest
from test_evaluation_cases import DAY, make_log

from interest_lm.evaluation.baselines.ease_decay import EaseDecay
from interest_lm.evaluation.baselines.item_knn import ItemKNN, cosine_neighbours, user_item_matrix
from interest_lm.evaluation.baselines.mixture import Mixture, expectation_maximisation
from interest_lm.evaluation.baselines.popularity import Popularity
from interest_lm.evaluation.baselines.recent_popularity import RecentPopularity
from interest_lm.evaluation.baselines.shares import (
    Evidence,
    Population,
    Setting,
    level_weights,
    mean_cross_entropy,
    posterior,
)
from interest_lm.evaluation.baselines.shrinkage import Shrinkage
from interest_lm.evaluation.baselines.text_knn import TextKNN
from interest_lm.evaluation.cases import completion_cases, forecast_cases, ranking_cases
from interest_lm.evaluation.folds import fold, tuning_fold
from interest_lm.evaluation.metrics.forecast import forecast_values


@pytest.fixture(scope="module")
def log():
    return make_log(users=30)


def brute_force_ease(log, known, penalty: float) -> np.ndarray:
    dense = user_item_matrix(log, known).toarray().astype(np.float64)
    inverse = np.linalg.inv(dense.T @ dense + penalty * np.eye(dense.shape[1]))
    weights = -inverse / np.diag(inverse)[None, :]
    weights[np.diag_indices(len(weights))] = 0.0
    return weights


@pytest.mark.parametrize("users", [8, 30])  # fewer users than the 12 items: the inverse among users
def test_ease_equals_the_closed_form_either_way(users):
    log = make_log(users=users, seed=users)
    asked = fold(log, "test")
    cases = ranking_cases(log, asked)
    ease = EaseDecay()
    ease.decay, ease.penalty, ease.repeat = 0.7, 3.0, 0.0
    ease.fit(log, asked)
    assert (ease.weights is None) == (users < 12)
    rows = slice(0, len(cases.user))
    history = cases.histories.matrix(log, 0.7**cases.histories.ages).toarray()
    expected = history @ brute_force_ease(log, asked.known, 3.0)
    np.testing.assert_allclose(ease.rank(cases, rows), expected, rtol=1e-3, atol=1e-4)


def test_cosine_neighbours_equal_the_dense_ones(log):
    matrix = user_item_matrix(log, fold(log, "test").known)
    dense = matrix.toarray()
    norm = np.linalg.norm(dense, axis=0)
    expected = dense.T @ dense / np.maximum(np.outer(norm, norm), 1e-9)
    np.testing.assert_allclose(cosine_neighbours(matrix, 12).toarray(), expected, atol=1e-6)
    kept = cosine_neighbours(matrix, 4).toarray()
    assert ((kept > 0).sum(1) <= 4).all()
    np.testing.assert_allclose(np.sort(kept, 1)[:, -4:], np.sort(expected, 1)[:, -4:], atol=1e-6)


def test_recent_popularity_counts_earlier_days_only(log):
    asked = fold(log, "test")
    cases = ranking_cases(log, asked)
    recent = RecentPopularity()
    recent.half_life = 5.0
    recent.fit(log, asked)
    scores = recent.rank(cases, slice(0, len(cases.user)))
    for row in range(0, len(cases.user), 5):
        day = cases.time[row] // DAY
        gap = day - log.timestamp // DAY
        weights = np.where(gap > 0, 0.5 ** (gap / 5.0), 0.0)
        np.testing.assert_allclose(scores[row], np.bincount(log.item, weights, minlength=12), rtol=1e-4, atol=1e-6)


def test_popularity_knows_nothing_of_what_is_asked(log):
    asked = fold(log, "test")
    popularity = Popularity()
    popularity.fit(log, asked)
    expected = np.bincount(log.item[log.timestamp < asked.time], minlength=12)
    np.testing.assert_array_equal(popularity.scores, expected)


@pytest.mark.parametrize("make", [EaseDecay, ItemKNN, lambda: TextKNN(np.eye(12))])
def test_decay_is_found_where_the_last_item_decides(make):
    """People who walk round a ring of items: only the last step tells the next one, and a tuned decay is small."""
    rng = np.random.default_rng(0)
    log = make_log(users=60, days=300)
    item = log.item.copy()
    for user in range(log.num_users):
        part = slice(log.offsets[user], log.offsets[user + 1])
        item[part] = (rng.integers(12) + np.arange(part.stop - part.start) // 3) % 12
    walking = type(log)(**{**vars(log), "item": item})
    ranker = make()
    ranker.tune(walking, tuning_fold(walking, "test"), ranking_cases(walking, tuning_fold(walking, "test")), False)
    assert ranker.decay < 1.0


def test_text_vectors_must_be_the_items(log):
    with pytest.raises(ValueError, match="text_vectors: 5 rows, expected one for each of 12 items"):
        TextKNN(np.eye(5)).fit(log, fold(log, "test"))


@pytest.mark.parametrize("conditional", [False, True])
@pytest.mark.parametrize("population", [None, 14.0])
def test_shares_sum_exactly(log, conditional, population):
    asked = fold(log, "test")
    cases = forecast_cases(log, asked, (3, 7), "days", 7)
    evidence = Evidence(log, cases, Population(log, asked))
    shares = evidence.shares(Setting(10.0, "days", 3.0, conditional, population))
    assert_sums(shares, log.tree)


def assert_sums(shares: np.ndarray, tree) -> None:
    np.testing.assert_allclose(shares[..., tree.depth == 0].sum(-1), 1.0, rtol=1e-5)
    for node in np.flatnonzero(~tree.is_leaf):
        np.testing.assert_allclose(shares[..., tree.parent == node].sum(-1), shares[..., node], rtol=1e-4, atol=1e-7)
    assert (shares >= 0).all()


def test_mean_cross_entropy_is_the_mean_over_levels(log):
    cases = forecast_cases(log, fold(log, "test"), (7,), "days", 7)
    rng = np.random.default_rng(0)
    leaf = rng.dirichlet(np.ones(log.tree.is_leaf.sum()), len(cases.user))
    shares = np.zeros((len(cases.user), len(log.tree)))
    shares[:, log.tree.is_leaf] = leaf
    for node in range(len(log.tree) - 1, -1, -1):
        if log.tree.parent[node] >= 0:
            shares[:, log.tree.parent[node]] += shares[:, node]
    levels = [log.tree.level(level) for level in range(log.tree.num_levels)]
    expected = [np.nanmean(forecast_values(cases.counts[:, 0, n], shares[:, n])["cross_entropy"]) for n in levels]
    assert mean_cross_entropy(cases.counts[:, 0], shares, log.tree) == pytest.approx(np.mean(expected), rel=1e-6)
    assert level_weights(log.tree).max() <= 1


def test_the_population_uses_earlier_days_of_known_events_only(log):
    asked = fold(log, "test")
    population = Population(log, asked)
    late = asked.time + 30 * DAY
    known = np.bincount(log.item[asked.known], minlength=12) @ log.item_nodes
    share = population.shares(np.array([late]), None)[0]
    expected = known + 10.0 * population.even
    np.testing.assert_allclose(share, expected / expected[log.tree.depth == 0].sum(), rtol=1e-5)
    nobody = population.shares(np.array([int(log.timestamp.min())]), 7.0)[0]
    np.testing.assert_allclose(nobody, population.even, rtol=1e-5)


def test_expectation_maximisation_finds_the_best_weights():
    """Rows drawn from one component: its weight goes to one; even components keep even weights."""
    rng = np.random.default_rng(0)
    first, second = np.array([0.7, 0.2, 0.1]), np.array([0.1, 0.2, 0.7])
    drawn = rng.choice(3, size=4000, p=0.8 * first + 0.2 * second)
    weights = expectation_maximisation(np.stack([first[drawn], second[drawn]], axis=1), np.ones(4000))
    assert weights[0] == pytest.approx(0.8, abs=0.05)
    assert weights.sum() == pytest.approx(1.0)
    held = expectation_maximisation(np.stack([first[:1], second[:1]], axis=1), np.ones(1), np.array([0.5, 0.5]), 1e6)
    np.testing.assert_allclose(held, 0.5, atol=1e-3)


@pytest.mark.parametrize("rule", ["global-time", "leave-last"])
def test_the_mixture_sums_exactly_and_is_not_worse_than_shrinkage_where_it_is_tuned(rule):
    log = make_log(rule, users=60, seed=2)
    tuning = tuning_fold(log, "test")
    cases = forecast_cases(log, tuning, (3, 7), "days", 7)
    mixture, shrinkage = Mixture(), Shrinkage()
    losses = {}
    for baseline in (mixture, shrinkage):
        baseline.tune(log, tuning, cases)
        future = baseline.forecast(cases)["future"]
        assert_sums(future, log.tree)
        losses[baseline.name] = mean_cross_entropy(cases.counts[:, 0], future[:, 0], log.tree)
    assert losses["mixture"] < losses["shrinkage"] * 1.02
    completion = completion_cases(log, tuning)
    mixture.tune_completion(log, tuning, completion)
    assert_sums(mixture.completion(completion), log.tree)


def test_a_posterior_without_events_is_the_population(log):
    population = np.asarray(log.item_nodes.mean(0))
    for conditional in (False, True):
        shares = posterior(np.zeros_like(population), population, 2.0, log.tree, conditional)
        np.testing.assert_allclose(shares, population, rtol=1e-5)

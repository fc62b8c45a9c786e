"""Every metric against an independent library on random cases with ties, and as an `evaluate` module."""

from __future__ import annotations

import shutil
from pathlib import Path

import evaluate
import numpy as np
import pytest
import ranx
import scipy.stats
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon

import interest_lm.evaluation.metrics as metrics_package
from interest_lm.evaluation.metrics.change import Change, change_metrics
from interest_lm.evaluation.metrics.forecast import Forecast, forecast_values
from interest_lm.evaluation.metrics.impressions import Impressions
from interest_lm.evaluation.metrics.intensity import Intensity, intensity_values
from interest_lm.evaluation.metrics.overall import Overall, auc, expected_calibration_error, overall_metrics
from interest_lm.evaluation.metrics.ranking import Ranking, ranking_values, target_places
from interest_lm.evaluation.metrics.rating import Rating


SEEDS = st.integers(0, 2**32 - 1)


@settings(max_examples=25, deadline=None)
@given(SEEDS, st.integers(2, 30), st.integers(1, 8))
def test_ranking_equals_ranx_without_ties(seed, items, cases):
    rng = np.random.default_rng(seed)
    scores = np.argsort(rng.random((cases, items)), axis=1).astype(np.float64)
    target = rng.integers(items, size=cases)
    values = ranking_values(*target_places(scores, target), (1, 3, 10))
    qrels = ranx.Qrels({f"q{row}": {f"i{target[row]}": 1} for row in range(cases)})
    run = ranx.Run({f"q{row}": {f"i{i}": float(scores[row, i]) for i in range(items)} for row in range(cases)})
    names = ["hit_rate@1", "hit_rate@3", "hit_rate@10", "ndcg@1", "ndcg@3", "ndcg@10", "mrr"]
    expected = ranx.evaluate(qrels, run, names, make_comparable=True)
    for name in names:
        assert values[name].mean() == pytest.approx(expected[name]), name


@settings(max_examples=25, deadline=None)
@given(SEEDS, st.integers(2, 7))
def test_ties_are_the_mean_over_every_order(seed, items):
    """Breaking the ties in every possible way and asking ranx gives the same on average."""
    rng = np.random.default_rng(seed)
    scores = rng.integers(3, size=(1, items)).astype(np.float64)
    target = rng.integers(items, size=1)
    values = ranking_values(*target_places(scores, target), (1, 2, 5))
    tied = np.flatnonzero(scores[0] == scores[0, target[0]])
    names = ["hit_rate@2", "ndcg@5", "mrr"]
    found = []
    for place in range(len(tied)):  # the target on each of the tied places
        order = [item for item in tied if item != target[0]]
        order.insert(place, target[0])
        broken = scores[0].copy()
        broken[order] -= np.arange(len(order)) * 1e-3
        run = ranx.Run({"q": {f"i{i}": float(broken[i]) for i in range(items)}})
        found.append(ranx.evaluate(ranx.Qrels({"q": {f"i{target[0]}": 1}}), run, names, make_comparable=True))
    for name in names:
        assert values[name][0] == pytest.approx(np.mean([figures[name] for figures in found])), name


def test_constant_scores_get_what_random_lists_get():
    better, ties = target_places(np.zeros((4, 100)), np.array([0, 5, 50, 99]))
    assert ranking_values(better, ties, (10,))["hit_rate@10"] == pytest.approx(np.full(4, 0.1))


def test_a_target_that_is_not_in_the_list_is_last():
    scores = np.full((1, 50), -np.inf)
    scores[0, 3] = 1.0
    better, ties = target_places(scores, np.array([7]))
    assert (better[0], ties[0]) == (49, 0)


@settings(max_examples=40, deadline=None)
@given(SEEDS, st.integers(4, 60), st.integers(1, 6))
def test_overall_equals_scikit_learn(seed, count, steps):
    rng = np.random.default_rng(seed)
    probabilities = rng.integers(steps + 1, size=count) / steps * 0.98 + 0.01
    labels = rng.integers(2, size=count)
    labels[:2] = 0, 1
    found = overall_metrics(labels, probabilities)
    decided = probabilities > 0.5
    assert found["auc"] == pytest.approx(sklearn.metrics.roc_auc_score(labels, probabilities))
    assert found["accuracy"] == pytest.approx(sklearn.metrics.accuracy_score(labels, decided))
    assert found["precision"] == pytest.approx(sklearn.metrics.precision_score(labels, decided, zero_division=0))
    assert found["recall"] == pytest.approx(sklearn.metrics.recall_score(labels, decided))
    assert found["f1"] == pytest.approx(sklearn.metrics.f1_score(labels, decided, zero_division=0))
    assert found["brier"] == pytest.approx(sklearn.metrics.brier_score_loss(labels, probabilities))
    assert found["log_loss"] == pytest.approx(sklearn.metrics.log_loss(labels, probabilities))
    weights = rng.integers(1, 4, size=(3, count))
    for row, area in zip(weights, auc(labels, probabilities, weights), strict=True):
        assert area == pytest.approx(sklearn.metrics.roc_auc_score(labels, probabilities, sample_weight=row))


def test_calibration_error_has_bins_of_equal_mass():
    rng = np.random.default_rng(3)
    probabilities = rng.random(20_000)
    assert expected_calibration_error(rng.random(20_000) < probabilities, probabilities) < 0.02
    assert expected_calibration_error(np.ones(30), np.full(30, 0.7)) == pytest.approx(0.3)
    # 15 cases: a bin each, so the error is the mean absolute gap
    labels, guesses = rng.integers(2, size=15), np.sort(rng.random(15))
    assert expected_calibration_error(labels, guesses) == pytest.approx(np.abs(labels - guesses).mean())


@settings(max_examples=40, deadline=None)
@given(SEEDS, st.integers(2, 9), st.integers(1, 6))
def test_forecast_equals_scipy(seed, width, cases):
    rng = np.random.default_rng(seed)
    shares = rng.dirichlet(np.ones(width), cases)
    counts = rng.integers(0, 4, size=(cases, width)).astype(np.float64)
    counts[0, 0] += 1
    values = forecast_values(counts, shares)
    for row in range(cases):
        if not counts[row].any():
            assert np.isnan(values["cross_entropy"][row])
            continue
        realised = counts[row] / counts[row].sum()
        assert values["kl"][row] == pytest.approx(scipy.stats.entropy(realised, shares[row]), abs=1e-6)
        entropy = scipy.stats.entropy(realised) + scipy.stats.entropy(realised, shares[row])
        assert values["cross_entropy"][row] == pytest.approx(entropy, abs=1e-6)
        assert values["js"][row] == pytest.approx(jensenshannon(realised, shares[row]) ** 2, abs=1e-6)


@pytest.mark.parametrize("shares", [[0.5, 0.6], [-0.1, 1.1], [np.nan, 1.0]])
def test_a_forecast_that_is_no_distribution_is_refused(shares):
    with pytest.raises(ValueError, match="forecast 1: shares sum to"):
        forecast_values(np.ones((2, 2)), np.array([[0.5, 0.5], shares]))


@settings(max_examples=40, deadline=None)
@given(SEEDS, st.integers(5, 60))
def test_change_equals_scikit_learn_and_scipy(seed, count):
    rng = np.random.default_rng(seed)
    labels = rng.integers(-4, 5, size=count) / 5
    labels[:2] = -0.6, 0.6
    rates = rng.integers(-3, 4, size=count) / 4
    rates[:2] = -0.25, 0.25
    found = change_metrics(labels, rates)
    clear = np.abs(labels) > 0.2
    assert found["auc"] == pytest.approx(sklearn.metrics.roc_auc_score(labels[clear] > 0, rates[clear]))
    assert found["spearman"] == pytest.approx(scipy.stats.spearmanr(labels, rates).statistic)
    assert found["mae"] == pytest.approx(sklearn.metrics.mean_absolute_error(labels, rates))
    decided = clear & (rates != 0)
    if len(np.unique(labels[decided] > 0)) == 2 and (decided == clear).all():
        expected = sklearn.metrics.balanced_accuracy_score(labels[clear] > 0, rates[clear] > 0)
        assert found["balanced_accuracy"] == pytest.approx(expected)
    ones = change_metrics(labels, rates, np.ones((2, count)))
    assert all(ones[name] == pytest.approx(np.full(2, found[name])) for name in found)


def test_no_change_decides_nothing():
    found = change_metrics(np.array([0.5, -0.5, 0.4]), np.zeros(3))
    assert found["auc"] == found["balanced_accuracy"] == 0.5
    assert np.isnan(found["spearman"])


@settings(max_examples=30, deadline=None)
@given(SEEDS, st.integers(1, 30))
def test_intensity_equals_scikit_learn(seed, count):
    rng = np.random.default_rng(seed)
    counts, means = rng.poisson(2.0, size=count).astype(float), rng.gamma(2.0, size=count) + 0.01
    values = intensity_values(counts, means)
    assert values["poisson_deviance"].mean() == pytest.approx(sklearn.metrics.mean_poisson_deviance(counts, means))
    # A negative binomial deviance is twice the log-likelihood ratio to the saturated model.
    alpha = 0.7
    saturated = scipy.stats.nbinom.logpmf(counts, 1 / alpha, 1 / (1 + alpha * np.maximum(counts, 1e-12)))
    fitted = scipy.stats.nbinom.logpmf(counts, 1 / alpha, 1 / (1 + alpha * means))
    expected = 2 * (saturated - fitted)
    assert intensity_values(counts, means, alpha)["nb_deviance"] == pytest.approx(expected, abs=1e-6)


FOLDER = Path(metrics_package.__file__).parent
EXAMPLES = {
    "ranking": (Ranking, {"better": [0, 3, 20], "ties": [0, 1, 0]}),
    "overall": (Overall, {"predictions": [0.2, 0.8, 0.6], "references": [0, 1, 0]}),
    "forecast": (Forecast, {"predictions": [[0.2, 0.8], [0.5, 0.5]], "references": [[1.0, 3.0], [2.0, 0.0]]}),
    "change": (Change, {"predictions": [0.1, -0.2, 0.4], "references": [0.5, -0.5, 0.1]}),
    "intensity": (Intensity, {"predictions": [1.0, 2.0], "references": [0.0, 3.0]}),
    "rating": (Rating, {"predictions": [3.5, 4.0], "references": [4.0, 4.0]}),
    "impressions": (
        Impressions,
        {"impressions": [7, 7, 9, 9], "predictions": [0.1, 0.3, 0.2, 0.2], "references": [1, 0, 1, 0]},
    ),
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_metrics_are_evaluate_modules(name):
    """As a class, in batches, and loaded from the file, all the same."""
    metric_class, inputs = EXAMPLES[name]
    expected = metric_class(keep_in_memory=True).compute(**inputs)
    batched = metric_class(keep_in_memory=True)
    batched.add_batch(**{key: value[:1] for key, value in inputs.items()})
    batched.add_batch(**{key: value[1:] for key, value in inputs.items()})
    loaded = evaluate.load(str(FOLDER / f"{name}.py"), keep_in_memory=True)
    assert batched.compute() == pytest.approx(expected, nan_ok=True)
    assert loaded.compute(**inputs) == pytest.approx(expected, nan_ok=True)


def test_a_metric_and_its_sibling_make_a_folder_that_loads(tmp_path):
    """What a metric's repository holds: nothing else of this package."""
    folder = tmp_path / "rating"
    folder.mkdir()
    for name in ("rating.py", "metric_info.py"):
        shutil.copy(FOLDER / name, folder)
    loaded = evaluate.load(str(folder), keep_in_memory=True)
    assert loaded.compute(predictions=[1.0, 2.0], references=[1.0, 4.0])["mae"] == 1.0

"""What keeps figures honest: calibrated intervals, strata of p, the time-shuffled log, questions asked at another time."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_evaluation_cases import make_log
from transformers import AutoTokenizer

from interest_lm import InterestModel, InterestProcessor
from interest_lm.evaluation.cases import forecast_cases, take
from interest_lm.evaluation.folds import fold
from interest_lm.evaluation.metrics.calibration import beta_binomial_pit, covered, negative_binomial_pit
from interest_lm.evaluation.metrics.change import change_metrics
from interest_lm.evaluation.predict import ModelPredictor
from interest_lm.evaluation.protocol import evaluate
from interest_lm.evaluation.report import print_table
from interest_lm.evaluation.scoring import score_change, score_future, score_intensity
from interest_lm.publishing.card_tables import shuffled_table
from interest_lm.recommendation.profile import forecast_query
from interest_lm.recommendation.why import event_contributions, without


SEEDS = st.integers(0, 2**32 - 1)
WINDOWS = {"horizons": (3, 7), "horizon_unit": "days", "reference_horizon": 7, "progress": False, "bootstrap": 50}


@settings(max_examples=25, deadline=None)
@given(SEEDS, st.floats(0.3, 300))
def test_a_pit_lies_between_the_steps_of_scipys_distribution(seed, kappa):
    rng = np.random.default_rng(seed)
    totals = rng.integers(1, 60, 30)
    counts, shares = rng.integers(0, totals + 1), rng.uniform(0.02, 0.98, 30)
    found = beta_binomial_pit(counts, totals, shares, np.full(30, kappa), rng)
    exact = scipy.stats.betabinom(totals, kappa * shares, kappa * (1 - shares))
    assert (found >= exact.cdf(counts - 1) - 1e-6).all() and (found <= exact.cdf(counts) + 1e-6).all()
    means, sizes = rng.uniform(0.1, 40, 30), rng.uniform(0.2, 50, 30)
    found = negative_binomial_pit(counts, means, sizes, rng)
    exact = scipy.stats.nbinom(sizes, sizes / (sizes + means))
    assert (found >= exact.cdf(counts - 1) - 1e-9).all() and (found <= exact.cdf(counts) + 1e-9).all()
    absence = rng.uniform(0, 0.9, 20_000)
    means = (1 - absence) * 8.0
    counts = np.where(rng.random(20_000) < absence, 0, rng.negative_binomial(1.5, 1.5 / 9.5, 20_000))
    inflated = negative_binomial_pit(counts, means, np.full(20_000, 1.5), rng, absence)
    assert scipy.stats.kstest(inflated, "uniform").pvalue > 1e-4


def test_pits_of_draws_from_the_forecast_are_uniform_and_others_are_not():
    rng = np.random.default_rng(0)
    totals, shares, kappa = rng.integers(10, 80, 20_000), rng.uniform(0.2, 0.8, 20_000), np.full(20_000, 12.0)
    counts = rng.binomial(totals, rng.beta(kappa * shares, kappa * (1 - shares)))
    right = beta_binomial_pit(counts, totals, shares, kappa, rng)
    assert scipy.stats.kstest(right, "uniform").pvalue > 0.01
    assert covered(right).mean() == pytest.approx(0.8, abs=0.01)
    assert covered(beta_binomial_pit(counts, totals, shares, 10 * kappa, rng)).mean() < 0.6
    # fractional counts: between those of the whole numbers around them
    low, middle, high = (
        np.sort(beta_binomial_pit(np.full(999, c), np.full(999, 9), np.full(999, 0.5), np.full(999, 9.0), rng))
        for c in (4.0, 4.5, 5.0)
    )
    assert (low < middle).all() and (middle < high).all()


@settings(max_examples=25, deadline=None)
@given(SEEDS, st.integers(60, 200))
def test_stratified_auc_equals_the_pairs_within_deciles(seed, number):
    rng = np.random.default_rng(seed)
    labels, interest = rng.uniform(-1, 1, number), rng.random(number).round(2)
    rates = (rng.uniform(-1, 1, number) - interest).round(1)
    clear = np.abs(labels) > 0.2
    decile = np.searchsorted(np.quantile(interest, np.arange(1, 10) / 10), interest, side="right")
    right = pairs = 0.0
    for part in np.unique(decile):
        chosen = clear & (decile == part)
        grows = labels[chosen] > 0
        if grows.any() and not grows.all():
            weight = grows.sum() * (~grows).sum()
            right += weight * sklearn.metrics.roc_auc_score(grows, rates[chosen])
            pairs += weight
    twice = change_metrics(labels, rates, np.full((2, number), 2.0), interest)
    assert change_metrics(labels, rates, None, interest)["stratified_auc"] == pytest.approx(right / pairs)
    assert twice["stratified_auc"] == pytest.approx(np.full(2, right / pairs))


def test_reversion_to_the_mean_is_no_skill_within_deciles():
    """A rate that only knows p beats chance over all pairs, and not within deciles of p."""
    rng = np.random.default_rng(0)
    interest = rng.uniform(0.05, 0.6, 20_000)
    labels = np.clip(0.5 - 1.5 * interest + rng.normal(0, 0.4, 20_000), -0.99, 0.99)
    figures = change_metrics(labels, -interest, None, interest)
    assert figures["auc"] > 0.7 and figures["stratified_auc"] < 0.55


@pytest.fixture(scope="module")
def log():
    return make_log(users=40)


@pytest.fixture(scope="module")
def cases(log):
    return forecast_cases(log, fold(log, "test"), (3.0, 7.0), "days", 7.0)


def test_coverage_is_that_of_a_plain_loop(log, cases):
    rng = np.random.default_rng(3)
    leaf = np.array([node["parent"] is not None for node in log.tree.nodes])
    counts = np.zeros_like(cases.counts)
    counts[..., leaf] = rng.poisson(4.0, counts[..., leaf].shape)
    for node in np.flatnonzero(~leaf):
        counts[..., node] = counts[..., log.tree.parent == node].sum(-1)
    cases = replace(cases, counts=counts, mask=np.ones_like(cases.mask))
    shares = counts + 1.0
    shares[..., ~leaf] = 0.0
    for node in np.flatnonzero(~leaf):
        shares[..., node] = shares[..., log.tree.parent == node].sum(-1)
    shares /= shares[..., log.tree.parent < 0].sum(-1, keepdims=True)
    kappa = np.full(shares.shape, 8.0)
    figures = score_future(cases, shares, log.tree, 20, 0, "model", kappa).figures
    cells = inside = 0
    for q, h, node in np.ndindex(*shares.shape):
        siblings = np.flatnonzero(log.tree.parent == log.tree.parent[node])
        share = shares[q, h, node] / shares[q, h, siblings].sum()
        total = counts[q, h, siblings].sum()
        if len(siblings) > 1 and total * share >= 5:
            cells += 1
            exact = scipy.stats.betabinom(int(total), 8 * share, 8 * (1 - share))
            below, to = exact.cdf(counts[q, h, node] - 1), exact.cdf(counts[q, h, node])
            inside += max(min(to, 0.9) - max(below, 0.1), 0) / (to - below)
    assert figures["coverage_cells"] == cells > 50
    assert figures["coverage_80"] == pytest.approx(inside / cells, abs=0.06)
    assert set(figures["per_horizon"]) == {"3", "7"}
    assert sum(entry["coverage_cells"] for entry in figures["per_horizon"].values()) == cells


def test_intensity_tells_the_coverage_of_its_negative_binomial(cases):
    rng = np.random.default_rng(0)
    means = np.full(cases.totals.shape, 9.0)
    drawn = rng.negative_binomial(2.0, 2.0 / 11.0, means.shape).astype(np.float32)
    cases = replace(cases, totals=drawn, mask=np.ones_like(cases.mask))
    right = score_intensity(cases, means, 20, 0, "model", np.full_like(means, 2.0))
    narrow = score_intensity(cases, means, 20, 0, "model", np.full_like(means, 500.0)).figures
    assert right.figures["coverage_80"] == pytest.approx(0.8, abs=0.1) and len(right.replicates["coverage_80"]) == 20
    assert narrow["coverage_80"] < 0.6 and narrow["coverage_cells"] == means.size
    away = np.where(rng.random(means.shape) < 0.4, 0, drawn).astype(np.float32)
    spread = np.full_like(means, 2.0), np.full_like(means, 0.4)
    inflated = score_intensity(replace(cases, totals=away), 0.6 * means, 0, 0, "model", *spread).figures
    assert inflated["coverage_80"] == pytest.approx(0.8, abs=0.1)
    assert "coverage_80" not in score_intensity(cases, means, 0, 0, "baseline").figures


@pytest.fixture(scope="module")
def predictor(log, tiny_bert) -> ModelPredictor:
    torch.manual_seed(0)
    model = InterestModel.from_text_pretrained(
        str(tiny_bert), domains=log.tree, hidden_size=16, horizons=[3.0, 7.0], reference_horizon=7.0
    )
    for parameter in model.query_layer.parameters():  # a network that minds when it is asked
        parameter.data += 0.1 * torch.randn_like(parameter)
    return ModelPredictor(model, InterestProcessor.from_model(model, AutoTokenizer.from_pretrained(tiny_bert)), log)


def test_asked_later_knows_no_more_than_before(log, cases, predictor):
    asked = []
    later = predictor.asked_later(5 * 86_400)
    for one in (predictor, later):
        batch = one.tensors.queries(cases.histories, cases.time, one.model.config.max_history)
        asked.append(batch)
        assert torch.equal(batch["query_times"], torch.from_numpy(cases.time))
    assert torch.equal(asked[0]["population_shares"], asked[1]["population_shares"])
    plain, moved = predictor.forecast(cases), later.forecast(cases)
    assert np.abs(plain["future"] - moved["future"]).max() > 1e-4
    np.testing.assert_allclose(predictor.asked_later(0).forecast(cases)["future"], plain["future"])
    predictor.model.config.time_unit = "order"
    assert predictor.asked_later(1) is None
    predictor.model.config.time_unit = "seconds"


def test_the_rate_starts_from_the_labels_long_run_and_from_the_models_own_beside_it(log, cases, predictor):
    """What `change` scores is the forecast against the share that the label and every baseline start from."""
    with torch.no_grad():
        predictor.model.domain_head.residual.weight.normal_(std=0.2)
    answer, last = predictor.forecast(cases), cases.horizons.index(cases.reference_horizon)
    future = answer["future"][:, last]
    for name, start in (("change_rate", cases.interest), ("own_change_rate", answer["interest"])):
        np.testing.assert_allclose(answer[name], (future - start) / (future + start), atol=1e-5)
    assert np.abs(answer["change_rate"] - answer["own_change_rate"]).max() > 0.01
    without_label = predictor.forecast(replace(cases, interest=None))
    np.testing.assert_array_equal(without_label["change_rate"], answer["own_change_rate"])
    figures = evaluate(log, predictor, **WINDOWS, baselines=["mixture_rate"])["change"]
    assert figures["own_interest"]["pairs"] == figures["pairs"] and figures["own_interest"]["mae"] != figures["mae"]


def test_real_shuffled_and_their_difference_stand_beside_each_other(log, predictor, capsys):
    results = evaluate(log, predictor, **WINDOWS)
    control = results["controls"]["time_shuffled"]
    names = {"population", "last_window", "history_mean", "shrinkage", "ewma", "decayed_counts", "mixture"}
    found = control["real_minus_shuffled"]
    assert set(found["future"]) == names | {"model"} == set(control["baselines"]["future"]) | {"model"}
    assert set(found["change"]) == {"zero_change", "trend", "mean_reversion", "mixture_rate", "model", "own_interest"}
    shown = found["change"]["own_interest"]["auc"]
    assert shown["real"] == results["change"]["own_interest"]["auc"]
    assert (
        shown["shuffled"] == control["change"]["own_interest"]["auc"] and shown["interval"][0] < shown["interval"][1]
    )
    entry = found["change"]["model"]["auc"]
    assert entry["real"] == results["change"]["auc"] and entry["shuffled"] == control["change"]["auc"]
    assert entry["difference"] == pytest.approx(entry["real"] - entry["shuffled"])
    assert entry["interval"][0] < entry["difference"] < entry["interval"][1]
    entry = found["future"]["mixture"]["over_shrinkage"]
    real, mixed = (
        1 - part["mixture"]["future"]["cross_entropy"] / part["shrinkage"]["future"]["cross_entropy"]
        for part in (results["baselines"], {k: {"future": v} for k, v in control["baselines"]["future"].items()})
    )
    assert entry["real"] == pytest.approx(real) and entry["shuffled"] == pytest.approx(mixed)
    assert results["controls"]["query_half_day_later"]["future"]["cases"] == results["future"]["cases"]
    assert results["controls"]["query_window_later"]["change"]["pairs"] == results["change"]["pairs"]
    assert results["future"]["coverage_cells"] >= 0 and "coverage_80" not in results["baselines"]["mixture"]["future"]
    paired = results["paired"]
    assert {"future.cross_entropy", "future.kl", "future.kl@3", "future.kl@7"} <= set(paired)
    best = results["baselines"][paired["future.kl@7"]["baseline"]]["future"]["per_horizon"]["7"]["kl"]
    expected = 100 * (results["future"]["per_horizon"]["7"]["kl"] / best - 1)
    assert paired["future.kl@7"]["difference"] == pytest.approx(expected)
    assert "| change.auc | **this model** |" in shuffled_table(results)
    assert "| change.auc | **this model, the rate that people see** |" in shuffled_table(results)
    print_table(results)
    assert "real minus time-shuffled log" in capsys.readouterr().out


def test_the_strata_are_those_of_the_labels_long_run(log, cases):
    expected = (1.0 - cases.rate) / (1.0 + cases.rate)
    tops = log.tree.depth == 0
    np.testing.assert_allclose(cases.interest[:, tops].sum(1), 1.0, rtol=1e-5)
    future = cases.interest / expected
    np.testing.assert_allclose(future[:, tops].sum(1), 1.0, rtol=1e-4)
    rng = np.random.default_rng(0)
    score = score_change(cases, rng.uniform(-1, 1, cases.rate.shape), 20, 0, "model")
    assert {"auc", "stratified_auc"} <= set(score.figures) and len(score.replicates["stratified_auc"]) == 20


def test_without_its_top_events_a_forecast_moves_further_than_without_random_ones(log, predictor):
    """The check by deletion, of a model whose statistics are what moves its forecasts."""
    rng = np.random.default_rng(0)
    user = np.flatnonzero(np.diff(log.offsets) >= 12)[:8]
    time = np.full(len(user), int(log.facts["end"]))
    cases = forecast_query(log, user, time, (3.0, 7.0), "days", 7.0)
    moved = {"top": [], "random": []}
    for row in range(len(user)):
        case = take(cases, np.array([row]))
        _, added = event_contributions(predictor, case)
        node = int(np.argmax(case.history_counts[0] * log.tree.is_leaf))
        sets = [np.argsort(-added[:, node])[:3], *(rng.permutation(len(added))[:3] for _ in range(4))]
        future = predictor.forecast(without(case, [np.zeros(0, dtype=np.int64), *sets]))["future"][:, 1, node]
        moved["top"].append(abs(future[1] - future[0]))
        moved["random"].append(np.abs(future[2:] - future[0]).mean())
    assert np.mean(moved["top"]) > 1.5 * np.mean(moved["random"])

"""The oracle is exact, answers as a predictor does, and knows more than any mixture of counts."""

from __future__ import annotations

import itertools
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from label_logs import DAY, make_log, random_log

from interest_lm.data.labels import count_nodes_ragged, future_counts, history_range
from interest_lm.data.log import InterestLog
from interest_lm.data.oracle import Oracle, OraclePredictor, oracle_for
from interest_lm.data.population import even_shares
from interest_lm.data.prepare import prepare
from interest_lm.data.synthetic import START, WorldConfig, WorldProcess, generate_world


WEEK = 7 * DAY


class Lists(SimpleNamespace):
    """Ragged histories as the evaluation hands them over."""

    def items(self, log):
        return log.item[self.index]


@pytest.fixture(scope="module")
def small():
    world = generate_world(num_users=500, num_items=150, seed=1)
    return world, make_log(world.events, world.items, recipe="synthetic")


def forecast_cases(log, time, horizons):
    user = np.arange(log.num_users)
    start, stop = history_range(log, user, np.full(len(user), time))
    user, start, stop = (array[stop - start >= 5] for array in (user, start, stop))
    index = np.concatenate([np.arange(a, b) for a, b in zip(start, stop)])
    lists = Lists(index=index, offsets=np.concatenate([[0], np.cumsum(stop - start)]))
    at = np.full(len(user), time)
    window = future_counts(log, user, at, horizons, "days")
    return SimpleNamespace(user=user, time=at, histories=lists, horizons=horizons, unit="days", counts=window.counts)


def cross_entropy(counts, shares, tree):
    """Mean over users and levels."""
    total = counts[:, tree.depth == 0].sum(1)
    counts, shares, total = counts[total > 0], shares[total > 0], total[total > 0]
    values = [-(counts[:, n] * np.log(shares[:, n])).sum(1) / total for n in map(tree.level, range(tree.num_levels))]
    return float(np.mean(values))


def test_filter_smoother_and_forecast_equal_the_sum_over_all_paths():
    process = WorldProcess(WorldConfig(num_strata=2, num_stages=2, levels_per_stage=1, level_days=20.0))
    oracle = Oracle(process)
    weeks, leaf, city = [3, 5, 6], [0, 9, 20], [1, -1, 2]
    time = START + np.array(weeks) * WEEK + 5
    offsets = np.array([0, 3])
    laws = np.concatenate([process.shares, process.shares.mean(1, keepdims=True)], axis=1).astype(float)
    move, horizon_week = 7 / 20, 8
    filtered, smoothed = np.zeros((3, 2, 2)), np.zeros((3, 2, 2))
    forecast, mass = np.zeros(len(process.paths)), 0.0
    cities = oracle.cities(np.array(city), offsets)[0]
    for stratum, first in itertools.product(range(2), range(2)):
        for steps in itertools.product((0, 1), repeat=horizon_week - weeks[0]):
            chance = np.prod([move if step else 1 - move for step in steps])
            level = {weeks[0] + n: (first + sum(steps[:n])) % 2 for n in range(len(steps) + 1)}
            seen = [laws[w, c, stratum, level[w], d] for w, c, d in zip(weeks, city, leaf)]
            for event in range(3):
                filtered[event, stratum, level[weeks[event]]] += chance * np.prod(seen[: event + 1])
                smoothed[event, stratum, level[weeks[event]]] += chance * np.prod(seen)
            forecast += chance * np.prod(seen) * (cities @ laws[horizon_week, :4, stratum, level[horizon_week]])
            mass += chance * np.prod(seen)
    arrays = np.array(leaf), time, np.array(city), offsets
    for answer, expected in ((oracle.filter(*arrays), filtered), (oracle.smooth(*arrays), smoothed)):
        np.testing.assert_allclose(answer, expected / expected.sum(axis=(1, 2), keepdims=True), rtol=1e-5)
    at = np.array([START + horizon_week * WEEK])
    np.testing.assert_allclose(oracle.future(*arrays, at, [1.0])[0, 0], forecast / mass, rtol=1e-5)


def test_answers_are_shares_at_every_level(small):
    world, log = small
    cases = forecast_cases(log, log.facts["test_start"], [7.0, 28.0])
    answer = OraclePredictor(world, log).forecast(cases)
    count, nodes = len(cases.user), len(log.tree)
    assert answer["interest"].shape == answer["change_rate"].shape == (count, nodes)
    assert answer["future"].shape == (count, 2, nodes) and answer["intensity"].shape == (count, 2)
    for shares in (answer["interest"], answer["future"]):
        np.testing.assert_allclose(shares[..., log.tree.depth == 0].sum(-1), 1.0, rtol=1e-4)
        for node in np.flatnonzero(~log.tree.is_leaf):
            np.testing.assert_allclose(shares[..., log.tree.parent == node].sum(-1), shares[..., node], rtol=1e-4)
    assert (np.abs(answer["change_rate"]) < 1).all()
    p, r = answer["interest"], answer["change_rate"]
    np.testing.assert_allclose(p * (1 + r) / (1 - r), answer["future"][:, -1], rtol=1e-6)


def test_without_events_the_prior_answers(small):
    world, log = small
    empty = Lists(index=np.zeros(0, dtype=np.int64), offsets=np.array([0, 0]))
    cases = SimpleNamespace(
        user=np.array([0]), time=np.array([START + 100 * DAY]), histories=empty, horizons=[7.0], unit="days"
    )
    answer = OraclePredictor(world, log).forecast(cases)
    assert answer["interest"].sum() == pytest.approx(2.0, rel=1e-4) and answer["interest"].max() < 0.5
    assert np.isfinite(answer["intensity"]).all() and np.isfinite(answer["future"]).all()


def test_future_is_closer_to_the_truth_than_the_past_and_intensity_is_calibrated(small):
    world, log = small
    predictor = OraclePredictor(world, log)
    cases = forecast_cases(log, log.facts["validation_start"], [28.0])
    answer, leaves = predictor.forecast(cases), log.tree.is_leaf
    truth = predictor.true_future(cases.user, cases.time, [28.0])[:, 0, leaves]
    interest = predictor.true_interest(cases.user, cases.time)[:, leaves]
    error = np.abs(answer["future"][:, 0, leaves] - truth).mean()
    assert error < 0.7 * np.abs(interest - truth).mean()
    assert np.abs(answer["interest"][:, leaves] - interest).mean() < 0.5 * error + 0.01
    rate = predictor.true_change_rate(cases.user, cases.time, 28.0)[:, leaves]
    gate = interest > 0.05
    assert np.corrcoef(rate[gate], answer["change_rate"][:, leaves][gate])[0, 1] > 0.5
    happened = (log.timestamp >= cases.time[0]) & (log.timestamp < cases.time[0] + 28 * DAY)
    happened &= np.isin(log.user, cases.user)
    assert answer["intensity"].sum() == pytest.approx(happened.sum(), rel=0.1)


def mixture_weights(components, counts, leaves, steps=100):
    """Weights on the simplex that maximise the likelihood of leaf counts, by expectation maximisation."""
    row, leaf = np.nonzero(counts[:, leaves])
    values, weight = components[:, row][:, np.arange(len(row)), leaf], counts[:, leaves][row, leaf]
    weights = np.full(len(components), 1 / len(components))
    for _ in range(steps):
        weights = weights * (values * (weight / (weights @ values))).sum(1) / weight.sum()
    return weights


def test_oracle_gains_a_tenth_over_the_tuned_mixture_of_decayed_counts(small):
    world, log = small
    leaves, horizons = log.tree.is_leaf, [7.0, 28.0, 56.0]

    def components(cases):
        lists = cases.histories
        row = np.repeat(np.arange(len(cases.user)), np.diff(lists.offsets))
        age = lists.offsets[row + 1] - 1 - np.arange(len(row))
        days = (cases.time[row] - log.timestamp[lists.index]) / DAY
        population = even_shares(log.tree)
        made = [np.repeat(population[None], len(cases.user), axis=0)]
        decays = [age / 4, age / 8, age / 16, age / 32, age * 0, days / 15, days / 30, days / 60, days / 120]
        for decay, strength in itertools.product(decays, (1.0, 4.0, 12.0)):
            counts = count_nodes_ragged(log, lists.index, lists.offsets, 0.5**decay)
            total = counts[:, log.tree.depth == 0].sum(1, keepdims=True)
            made.append((counts + strength * population) / (total + strength))
        return np.stack(made)

    tuning, test = (forecast_cases(log, log.facts[name], horizons) for name in ("validation_start", "test_start"))
    known, asked = components(tuning), components(test)
    oracle = OraclePredictor(world, log).forecast(test)["future"]
    values = {"oracle": [], "mixture": []}
    for column in range(len(horizons)):
        weights = mixture_weights(known[:, :, leaves], tuning.counts[:, column], leaves)
        mixed = np.einsum("c,cqk->qk", weights, asked)
        values["mixture"].append(cross_entropy(test.counts[:, column], mixed, log.tree))
        values["oracle"].append(cross_entropy(test.counts[:, column], oracle[:, column], log.tree))
    assert np.mean(values["oracle"]) < 0.9 * np.mean(values["mixture"])


def test_a_prepared_world_brings_its_oracle_back(tmp_path):
    settings = {"num_users": 40, "num_items": 60, "seed": 2}
    folder = prepare("synthetic", [], tmp_path / "world", world=settings, quiet=True)
    log = InterestLog.load(folder)
    cases = forecast_cases(log, log.facts["test_start"], [14.0])
    answer = oracle_for(log).forecast(cases)
    direct = OraclePredictor(generate_world(**settings), log).forecast(cases)
    np.testing.assert_allclose(answer["future"], direct["future"], rtol=1e-5)
    assert oracle_for(random_log()) is None
    with pytest.raises(ValueError, match="world version is 99"):
        oracle_for(replace(log, facts={**log.facts, "world": {**log.facts["world"], "version": 99}}))
    with pytest.raises(ValueError, match="horizons in 'days', not in 'events'"):
        oracle_for(log).forecast(SimpleNamespace(**{**vars(cases), "unit": "events"}))

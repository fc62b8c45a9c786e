"""The linear item-to-item model: EASE's closed form, by users or by items, and its scores inside the model."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from label_logs import make_log, random_frames
from transformers import AutoTokenizer

from interest_lm import InterestConfig, InterestModel, InterestProcessor
from interest_lm.data.population import PopularityTable
from interest_lm.evaluation.cases import Histories, RankingCases
from interest_lm.evaluation.predict import ModelPredictor
from interest_lm.evaluation.ranking import place_targets
from interest_lm.modeling_interest import InterestNeighbours
from interest_lm.recommendation.log_tensors import LogTensors
from interest_lm.training import blend
from interest_lm.training.derive import config_for, known_items
from interest_lm.training.validation import Validation


def random_matrix(users: int, items: int, seed: int = 0) -> sp.csr_matrix:
    return sp.csr_matrix((np.random.default_rng(seed).random((users, items)) < 0.3).astype(float))


def dense_ease(matrix: sp.csr_matrix, penalty: float) -> np.ndarray:
    dense = matrix.toarray()
    inverse = np.linalg.inv(dense.T @ dense + penalty * np.eye(dense.shape[1]))
    weights = -inverse / np.diag(inverse)
    np.fill_diagonal(weights, 0.0)
    return weights


@pytest.mark.parametrize(("users", "items"), [(8, 15), (30, 12)])
def test_neighbours_are_the_strongest_entries_of_ease(users, items):
    matrix = random_matrix(users, items)
    expected = dense_ease(matrix, 3.0)
    index, strength = blend.ease_neighbours(matrix, 3.0, keep=5)
    assert index.shape == strength.shape == (items, 5)
    for item in range(items):
        np.testing.assert_allclose(strength[item], expected[item, index[item]], atol=1e-5)
        others = np.delete(np.abs(expected[item]), index[item])
        assert np.abs(strength[item]).min() >= others.max() - 1e-6


def test_a_large_catalogue_keeps_its_common_items():
    matrix = random_matrix(40, 10)
    index, strength = blend.ease_neighbours(matrix, 2.0, keep=8, max_items=6)
    common = np.sort(np.argsort(-np.asarray(matrix.sum(0)).ravel(), kind="stable")[:6])
    assert set(np.flatnonzero(np.abs(strength).sum(1))) <= set(common)
    expected = dense_ease(matrix[:, common], 2.0)
    for position, item in enumerate(common):
        row = np.zeros(10)
        np.add.at(row, index[item], strength[item])
        np.testing.assert_allclose(row[common], expected[position], atol=1e-5)


def test_transitions_are_a_ridge_regression_of_the_next_item():
    random = np.random.default_rng(3)
    user = np.sort(random.integers(0, 6, 60))
    item, weight = random.integers(0, 9, 60), random.random(60)
    history, following = np.zeros((60, 9)), np.eye(9)[item]
    for event in range(60):
        for back in range(1, blend.WINDOW + 1):
            if event - back >= 0 and user[event - back] == user[event]:
                history[event, item[event - back]] += 0.6 ** (back - 1)
    weighted = weight[:, None] * history
    expected = np.linalg.solve(history.T @ weighted + 2.0 * np.eye(9), weighted.T @ following)
    index, strength = blend.transition_neighbours(user, item, 9, 9, penalty=2.0, decay=0.6, weight=weight)
    found = np.zeros((9, 9))
    np.put_along_axis(found, index.astype(np.int64), strength, axis=1)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    index, strength = blend.transition_neighbours(user, item, 9, 3, penalty=2.0, decay=0.6, max_items=5)
    common = set(blend.common_items(np.bincount(item, minlength=9), 5))
    assert set(np.flatnonzero(np.abs(strength).sum(1))) <= common and set(index[strength != 0]) <= common


def test_scores_add_up_over_the_history():
    config = InterestConfig(num_items=6, num_neighbours=2, text_config={"model_type": "bert", "hidden_size": 16})
    neighbours = InterestNeighbours(config)
    random = np.random.default_rng(1)
    neighbours.index.copy_(torch.from_numpy(random.integers(0, 6, (2, 6, 2)).astype(np.int32)))
    neighbours.strength.copy_(torch.from_numpy(random.normal(size=(2, 6, 2)).astype(np.float32)))
    neighbours.weight.copy_(torch.tensor([3.0, 0.5]))
    neighbours.decay.copy_(torch.tensor([0.5, 1.0]))
    neighbours.floor.fill_(0.01)
    owned, age = torch.tensor([[0, 4, -1, 4]]), torch.tensor([[3, 2, 1, 0]])
    keys = torch.tensor([[True, True, True, False]])
    expected = torch.zeros(6)
    for relation, (weight, decay) in enumerate(((3.0, 0.5), (0.5, 1.0))):
        linear = torch.zeros(6)
        for item, back in ((0, 3), (4, 2)):
            found = neighbours.index[relation, item].long()
            linear.index_add_(0, found, decay**back * neighbours.strength[relation, item])
        expected += weight * (linear.clamp(min=0) + 0.01).log()
    items = torch.tensor([5, -1, 0, 1, 2, 3, 4])
    unknown = torch.full((1,), 3.5 * np.log(0.01))
    expected = torch.cat([expected[5:], unknown, expected[:5]])
    torch.testing.assert_close(neighbours(owned, keys, age, items)[0], expected)


def test_few_people_with_many_items_never_make_a_huge_dense_matrix(monkeypatch):
    matrix = random_matrix(8, 30)
    monkeypatch.setattr(blend, "MAX_CELLS", 100)
    index, strength = blend.ease_neighbours(matrix, 2.0, keep=4, max_items=10)
    common = blend.common_items(np.asarray(matrix.sum(0)).ravel(), 10)
    assert set(np.flatnonzero(np.abs(strength).sum(1))) <= set(common) and set(index.ravel()) <= {0, *common}


def choices(log, count: int, random) -> tuple[RankingCases, PopularityTable]:
    """Cases of one event of history each, at five moments with random features."""
    event = random.integers(0, log.num_events, count)
    cases = RankingCases(
        user=log.user[event].astype(np.int64),
        time=random.integers(0, 5, count),
        histories=Histories.from_ranges(event, event + 1),
        target=np.zeros(count, np.int64),
        event=event,
    )
    table = PopularityTable(np.arange(5), random.normal(size=(5, log.num_items, 2)).astype(np.float32), ("a", "b"))
    return cases, table


@pytest.mark.parametrize("filtered", [False, True])
def test_popularity_weighs_what_the_next_items_say(monkeypatch, filtered):
    """Targets drawn from a known conditional logit give its weights back, in units of the score beside them."""
    random = np.random.default_rng(5)
    log = make_log(*random_frames(1))
    cases, table = choices(log, 12_000, random)
    base = random.normal(size=(12_000, log.num_items)).astype(np.float32)
    new = np.arange(log.num_items) % 2 == 1
    truth = np.array([[1.0, -0.5, 0.0], [0.7, 0.0, -1.0]], np.float32)
    monkeypatch.setattr(blend, "POPULARITY_CASES", 12_000)
    monkeypatch.setattr(blend, "POPULARITY_PENALTY", 1e-6)
    logits = 0.5 * (base + blend.PopularityFit(log, cases, table, False).added(truth, new))
    had = log.item[cases.event]
    if filtered:
        logits[had >= 0, had[had >= 0]] = -np.inf
    cases.target[:] = (logits + random.gumbel(size=logits.shape)).argmax(1)
    found = blend.PopularityFit(log, cases, table, filtered).weights(base, new)
    np.testing.assert_allclose(found, truth, atol=0.2)


def asked_of(log, tiny_bert) -> ModelPredictor:
    """An untrained model on random texts."""
    items = known_items(log)
    model = InterestModel.from_text_pretrained(
        str(tiny_bert), num_items=len(items), num_neighbours=2, use_newcomers=True, hidden_size=16, **config_for(log)
    ).eval()
    processor = InterestProcessor.from_model(model, AutoTokenizer.from_pretrained(tiny_bert), items)
    tensors = LogTensors(log, model, processor, texts=torch.randn(2000, 32), progress=False)
    return ModelPredictor(model, processor, log, tensors=tensors)


def test_rare_items_do_without_a_vector_and_have_a_popularity_of_their_own(tiny_bert):
    log = make_log(*random_frames(2))
    predictor = asked_of(log, tiny_bert)
    model, tensors = predictor.model, predictor.tensors
    count = np.bincount(log.item[(log.split == 0) & (log.item >= 0)], minlength=log.num_items)
    support = int(np.median(count)) + 1
    event = np.flatnonzero(log.split == 2)[:7]
    cases = RankingCases(
        log.user[event].astype(np.int64),
        log.timestamp[event],
        Histories.from_ranges(event - 3, event),
        log.item[event],
        event,
    )
    before = predictor.item_vectors()
    assert blend.trust_vectors(model, tensors, support)
    rare = count < support
    assert 0 < rare.sum() < len(rare)
    after = predictor.item_vectors()
    moved = np.abs(after - before).max(1) > 1e-6
    np.testing.assert_array_equal(moved, rare)
    plain = predictor.rank(cases, slice(0, 7))
    weights = np.random.default_rng(0).normal(size=(2, 8)).astype(np.float32)
    weights[0, -1] = 0
    model.neighbours.popularity.copy_(torch.from_numpy(weights[0, :-1]))
    model.newcomers.popularity.copy_(torch.from_numpy(weights[1]))
    fit = blend.PopularityFit(log, cases, tensors.popularity, False)
    np.testing.assert_allclose(predictor.rank(cases, slice(0, 7)), plain + fit.added(weights, rare), atol=1e-4)
    assert not blend.trust_vectors(model, tensors, 1)
    np.testing.assert_array_equal(predictor.item_vectors(), before)


def test_the_blend_is_chosen_by_the_figures_of_the_evaluation(tiny_bert):
    """NDCG@10 over what is no repeat, seen items left out, is what an evaluation on validation says."""
    log = make_log(*random_frames(4, users=40, events=400), repeat_rate=0.0)
    predictor = asked_of(log, tiny_bert)
    validation = Validation(log, [7.0], "days", 7.0, 1000)
    report = blend.fit_blend(predictor, validation)
    counted, values = place_targets(log, validation.ranking, predictor).values(True)
    assert 0 < counted.sum() < len(counted)
    assert report["ndcg@10"] == pytest.approx(float(values["ndcg@10"][counted].mean()), abs=1e-6)

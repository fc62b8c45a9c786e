"""The linear item-to-item model: EASE's closed form, by users or by items, and its scores inside the model."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from interest_lm import InterestConfig
from interest_lm.modeling_interest import InterestNeighbours
from interest_lm.training import blend


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


def test_a_large_catalogue_keeps_its_common_items(monkeypatch):
    monkeypatch.setattr(blend, "MAX_ITEMS", 6)
    matrix = random_matrix(40, 10)
    index, strength = blend.ease_neighbours(matrix, 2.0, keep=8)
    common = np.sort(np.argsort(-np.asarray(matrix.sum(0)).ravel(), kind="stable")[:6])
    assert set(np.flatnonzero(np.abs(strength).sum(1))) <= set(common)
    expected = dense_ease(matrix[:, common], 2.0)
    for position, item in enumerate(common):
        row = np.zeros(10)
        np.add.at(row, index[item], strength[item])
        np.testing.assert_allclose(row[common], expected[position], atol=1e-5)


def test_scores_add_up_over_the_history():
    config = InterestConfig(num_items=6, num_neighbours=2, text_config={"model_type": "bert", "hidden_size": 16})
    neighbours = InterestNeighbours(config)
    random = np.random.default_rng(1)
    neighbours.index.copy_(torch.from_numpy(random.integers(0, 6, (6, 2)).astype(np.int32)))
    neighbours.strength.copy_(torch.from_numpy(random.normal(size=(6, 2)).astype(np.float32)))
    neighbours.weight.fill_(3.0)
    neighbours.decay.fill_(0.5)
    owned, age = torch.tensor([[0, 4, -1, 4]]), torch.tensor([[3, 2, 1, 0]])
    keys = torch.tensor([[True, True, True, False]])
    expected = torch.zeros(6)
    for item, fade in ((0, 0.125), (4, 0.25)):
        expected.index_add_(0, neighbours.index[item].long(), 3.0 * fade * neighbours.strength[item])
    torch.testing.assert_close(neighbours(owned, keys, age)[0], expected)

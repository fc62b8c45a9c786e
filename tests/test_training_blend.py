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

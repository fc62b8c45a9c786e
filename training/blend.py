"""The network's ranking blended with a linear item-to-item model, weight and decay chosen on validation."""

from __future__ import annotations

import numpy as np
import scipy.linalg
import scipy.sparse as sp
import torch

from ..data.log import TRAIN, InterestLog
from ..evaluation.cases import take
from ..evaluation.predict import ModelPredictor
from ..evaluation.ranking import mean_ndcg
from .validation import Validation


PENALTIES = (50.0, 200.0, 800.0)
DECAYS = (1.0, 0.95, 0.9, 0.8, 0.7)
WEIGHTS = (2.0, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 320.0)
MAX_ITEMS = 12_000  # items of the dense inverse: 1.1 GiB in float64
BLOCK = 1_000


def ease_neighbours(matrix: sp.csr_matrix, penalty: float, keep: int) -> tuple[np.ndarray, np.ndarray]:
    """The `keep` strongest entries of each row of EASE's `B` (Steck 2019, eq. 8), zero diagonal.

    Args:
        matrix (`sp.csr_matrix` of shape `(U, I)`): 1 where a person had an item. Where `I` and `U` exceed 12,000, the most
            common 12,000 items take part; the others have no neighbours.
        penalty (`float`): weight of the squared norm, 50 to 1,000.
        keep (`int`): entries per item.

    Returns:
        Columns int32 and values float32, both `(I, keep)`.
    """
    users, items = matrix.shape
    keep = min(keep, items)
    index, strength = np.zeros((items, keep), np.int32), np.zeros((items, keep), np.float32)
    chosen = np.arange(items)
    by_user = users <= min(items, MAX_ITEMS)
    if by_user:  # Woodbury: (X'X + c)^-1 = (1 - X'(c + XX')^-1 X) / c
        gram = (matrix @ matrix.T).toarray().astype(np.float64)
        gram[np.diag_indices(users)] += penalty
        half = scipy.linalg.solve_triangular(scipy.linalg.cholesky(gram, lower=True), matrix.toarray(), lower=True)
        half = half.astype(np.float32)  # X'(c + XX')^-1 X = half' half
        diagonal = (1.0 - (half**2).sum(0)) / penalty
    else:
        count = np.asarray(matrix.sum(0)).ravel()
        chosen = np.sort(np.argsort(-count, kind="stable")[:MAX_ITEMS])
        part = matrix[:, chosen]
        gram = (part.T @ part).toarray().astype(np.float64)
        gram[np.diag_indices(len(chosen))] += penalty
        inverse = scipy.linalg.cho_solve(scipy.linalg.cho_factor(gram, overwrite_a=True), np.eye(len(chosen)))
        diagonal = np.diag(inverse)
    kept = min(keep, len(chosen))
    for start in range(0, len(chosen), BLOCK):
        rows = np.arange(start, min(start + BLOCK, len(chosen)))
        precision = -(half[:, rows].T @ half) / penalty if by_user else inverse[rows]
        block = -precision / diagonal
        block[np.arange(len(rows)), rows] = 0.0
        columns = np.argpartition(-np.abs(block), kept - 1, axis=1)[:, :kept]
        index[chosen[rows], :kept] = chosen[columns]
        strength[chosen[rows], :kept] = np.take_along_axis(block, columns, axis=1)
    return index, strength


def known_matrix(log: InterestLog, item_ids: np.ndarray, num_items: int) -> sp.csr_matrix:
    """Who had which known item in training, `(U, num_items)` of ones, users without any left out."""
    chosen = (log.split == TRAIN) & (log.item >= 0)
    user, item = log.user[chosen], item_ids[log.item[chosen]]
    known = item >= 0
    matrix = sp.csr_matrix((np.ones(known.sum()), (user[known], item[known])), shape=(log.num_users, num_items))
    matrix.data[:] = 1.0
    return matrix[np.flatnonzero(np.diff(matrix.indptr))]


class Blended:
    """The network's scores, once, plus the linear model's under a setting."""

    def __init__(self, network: np.ndarray, linear: np.ndarray, weight: float, event: np.ndarray):
        self.network, self.linear, self.weight = network, linear, weight
        self.row = {int(number): row for row, number in enumerate(event)}

    def rank(self, cases, rows: slice) -> np.ndarray:
        chosen = [self.row[int(number)] for number in cases.event[rows]]
        return self.network[chosen] + self.weight * self.linear[chosen]


def fit_blend(predictor: ModelPredictor, validation: Validation, max_bytes: int = 2**29) -> dict | None:
    """Fills the model's neighbours and chooses penalty, decay and weight by NDCG@10 on validation.

    Returns:
        The setting with `ndcg@10` before and after, or `None` for a model without neighbours or a log without validation.
    """
    model, log = predictor.model, predictor.log
    if model.neighbours is None or not len(validation.ranking.user):
        return None
    cases = validation.ranking
    most = max(1, max_bytes // (8 * log.num_items))
    if len(cases.user) > most:
        cases = take(cases, np.sort(np.random.default_rng(0).permutation(len(cases.user))[:most]))
    neighbours, device = model.neighbours, model.device
    item_ids = predictor.tensors.item_ids.numpy()
    neighbours.weight.zero_()
    network = predictor.rank(cases, slice(0, len(cases.user)))
    before = mean_ndcg(log, cases, Blended(network, network, 0.0, cases.event), validation.filtered)
    best = {"weight": 0.0, "decay": 1.0, "penalty": PENALTIES[0], "ndcg@10": before}
    matrix = known_matrix(log, item_ids, model.config.num_items)
    histories = cases.histories
    known = np.where(item_ids >= 0, item_ids, 0)
    tables = {}
    for penalty in PENALTIES:
        tables[penalty] = ease_neighbours(matrix, penalty, model.config.num_neighbours)
        index, strength = tables[penalty]
        width = index.shape[1]
        rows = np.repeat(np.arange(len(index)), width)
        weights = sp.csr_matrix((strength.ravel(), (rows, index.ravel())), shape=(len(index), len(index)))
        for decay in DECAYS:
            fade = np.where(histories.ages < model.config.max_history, decay ** histories.ages.astype(np.float64), 0.0)
            history = histories.matrix(log, fade)
            to_known = sp.csr_matrix(
                (np.ones((item_ids >= 0).sum()), (np.flatnonzero(item_ids >= 0), item_ids[item_ids >= 0])),
                shape=(log.num_items, len(index)),
            )
            linear = ((history @ to_known) @ weights).toarray().astype(np.float32)[:, known] * (item_ids >= 0)
            for weight in WEIGHTS:
                value = mean_ndcg(log, cases, Blended(network, linear, weight, cases.event), validation.filtered)
                if value > best["ndcg@10"]:
                    best = {"weight": weight, "decay": decay, "penalty": penalty, "ndcg@10": value}
    index, strength = tables[best["penalty"]]
    neighbours.index.copy_(torch.from_numpy(index).to(device))
    neighbours.strength.copy_(torch.from_numpy(strength).to(device))
    neighbours.weight.fill_(best["weight"])
    neighbours.decay.fill_(best["decay"])
    return best | {"ndcg@10 without": before}

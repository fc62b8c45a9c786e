"""Item neighbours: what those who took your latest items also took."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sp

from ..cases import RankingCases
from ..folds import Fold
from ..ranking import mean_ndcg


if TYPE_CHECKING:
    from ...data.log import InterestLog


DECAYS = (1.0, 0.95, 0.9, 0.8, 0.6, 0.4, 0.2)
NEIGHBOURS = (20, 100, 300)
_BLOCK = 1_000  # items whose similarities are computed at once


def user_item_matrix(log: InterestLog, known: np.ndarray) -> sp.csr_matrix:
    """`(U, I)` float32, 1 where a user took an item at all; users without events have no row."""
    chosen = known & (log.item >= 0)
    users, row = np.unique(log.user[chosen], return_inverse=True)
    shape = (len(users), log.num_items)
    matrix = sp.csr_matrix((np.ones(len(row), dtype=np.float32), (row, log.item[chosen])), shape=shape)
    matrix.data[:] = 1.0
    return matrix


def cosine_neighbours(matrix: sp.csr_matrix, neighbours: int) -> sp.csr_matrix:
    """`(I, I)` cosine similarities of the columns, each row's `neighbours` largest (itself included)."""
    norm = np.sqrt(np.asarray(matrix.sum(0)).ravel())
    scaled = (matrix @ sp.diags(1.0 / np.maximum(norm, 1.0))).tocsc().astype(np.float32)
    transposed = scaled.T.tocsr()
    blocks = []
    for start in range(0, matrix.shape[1], _BLOCK):
        block = (transposed[start : start + _BLOCK] @ scaled).tocsr()
        row = np.repeat(np.arange(block.shape[0]), np.diff(block.indptr))
        order = np.lexsort((-block.data, row))
        keep = order[np.arange(len(order)) - block.indptr[row] < neighbours]
        blocks.append(sp.csr_matrix((block.data[keep], (row[keep], block.indices[keep])), shape=block.shape))
    return sp.vstack(blocks, format="csr")


class ItemKNN:
    """Cosine similarity of the sets of users, summed over the history with weight `decay ** age`, the newest event having age
    0. The item itself is among its neighbours, so repeats are ranked too."""

    name = "item_knn"

    def __init__(self) -> None:
        self.decay, self.neighbours = 0.8, 100

    def tune(self, log: InterestLog, fold: Fold, cases: RankingCases, filtered: bool) -> None:
        """Chooses the decay, then the number of neighbours, by NDCG@10."""
        self.log = log
        widest = cosine_neighbours(user_item_matrix(log, fold.known), max(NEIGHBOURS))
        self.similarity = _nearest(widest, self.neighbours)
        scores = {}
        for self.decay in DECAYS:
            scores[self.decay] = mean_ndcg(log, cases, self, filtered)
        self.decay = max(scores, key=scores.__getitem__)
        scores = {}
        for neighbours in NEIGHBOURS:
            self.similarity = _nearest(widest, neighbours)
            scores[neighbours] = mean_ndcg(log, cases, self, filtered)
        self.neighbours = max(scores, key=scores.__getitem__)

    def fit(self, log: InterestLog, fold: Fold) -> None:
        """Finds every item's neighbours among the known events."""
        self.log = log
        self.similarity = cosine_neighbours(user_item_matrix(log, fold.known), self.neighbours)

    def rank(self, cases: RankingCases, rows: slice) -> np.ndarray:
        """`(n, I)` scores."""
        histories = cases.histories.select(rows)
        return (histories.matrix(self.log, self.decay**histories.ages) @ self.similarity).toarray()

    def describe(self) -> dict:
        """Its tuned settings."""
        return {"decay": self.decay, "neighbours": self.neighbours}


def _nearest(similarity: sp.csr_matrix, neighbours: int) -> sp.csr_matrix:
    row = np.repeat(np.arange(similarity.shape[0]), np.diff(similarity.indptr))
    order = np.lexsort((-similarity.data, row))
    keep = order[np.arange(len(order)) - similarity.indptr[row] < neighbours]
    return sp.csr_matrix((similarity.data[keep], (row[keep], similarity.indices[keep])), shape=similarity.shape)

"""EASE with recency: a linear item-to-item model, read with a history that fades (Steck, 2019, and BENCHMARKS 1a)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import scipy.linalg
import scipy.sparse as sp

from ..cases import RankingCases
from ..folds import Fold
from ..ranking import mean_ndcg
from .item_knn import user_item_matrix


if TYPE_CHECKING:
    from ...data.log import InterestLog


DECAYS = (1.0, 0.95, 0.9, 0.8, 0.7, 0.5)
PENALTIES = (2.0, 10.0, 50.0, 200.0, 800.0)
REPEATS = (0.0, 0.1, 0.3, 1.0, 3.0, 10.0)
MAX_ITEMS = 12_000  # items of the dense inverse: 576 MiB in float32; a larger catalogue keeps its most popular ones
MAX_USERS = 4_000  # users of the inverse among users, where there are fewer of them than items
_BLOCK = 1_000
_TUNING_ITEMS = 4_000  # the penalty is tuned on the most popular items, where inverting takes a second


class EaseDecay:
    """`B = argmin |X - X B|^2 + penalty |B|^2` with a zero diagonal on binary known events (Steck, 2019, equation 8), and scores
    `h B + repeat h` with `h` the history weighted by `decay ** age`, the newest event having age 0.

    With fewer users than items (and than `MAX_USERS`) the inverse is taken among users (Woodbury), exactly and without an
    `(I, I)` matrix, and no catalogue is too large. Otherwise at most `MAX_ITEMS` items take part; the others score minus one.
    """

    name = "ease_decay"

    def __init__(self) -> None:
        self.decay, self.penalty, self.repeat = 0.8, 100.0, 0.0

    def tune(self, log: InterestLog, fold: Fold, cases: RankingCases, filtered: bool) -> None:
        """Chooses decay, penalty and the weight of repeats, one after the other and the decay again, by NDCG@10."""

        def best(name: str, settings: tuple[float, ...]) -> float:
            scores = {}
            for setting in settings:
                setattr(self, name, setting)
                if name == "penalty":
                    self._solve(log, fold, _TUNING_ITEMS)
                scores[setting] = mean_ndcg(log, cases, self, filtered)
            setattr(self, name, max(scores, key=scores.__getitem__))
            return scores[getattr(self, name)]

        self._solve(log, fold, _TUNING_ITEMS)
        best("decay", DECAYS)
        best("penalty", PENALTIES)
        self._solve(log, fold, _TUNING_ITEMS)
        if not filtered:
            best("repeat", REPEATS)
        best("decay", DECAYS)

    def fit(self, log: InterestLog, fold: Fold) -> None:
        """Solves for the weights on the known events."""
        self._solve(log, fold, MAX_ITEMS)

    def _solve(self, log: InterestLog, fold: Fold, max_items: int) -> None:
        self.log = log
        matrix = user_item_matrix(log, fold.known)
        users, items = matrix.shape
        self.kept = None
        if users <= min(items, MAX_USERS):
            # P = (X'X + cI)^-1 = (I - X'(cI + XX')^-1 X) / c: h P and diag(P) need only (U, U) and (U, I).
            gram = (matrix @ matrix.T).toarray().astype(np.float64)
            gram[np.diag_indices(users)] += self.penalty
            self.matrix = matrix
            factor = scipy.linalg.cho_factor(gram, lower=True, overwrite_a=True)
            self.inverse = scipy.linalg.cho_solve(factor, np.eye(users)).astype(np.float32)
            diagonal = np.empty(items, dtype=np.float64)
            columns = matrix.tocsc()
            for start in range(0, items, 2_000):
                block = columns[:, start : start + 2_000].toarray()
                diagonal[start : start + 2_000] = np.einsum("ui,ui->i", block, self.inverse @ block)
            self.diagonal = ((1.0 - diagonal) / self.penalty).astype(np.float32)
            self.weights = None
            return
        count = np.asarray(matrix.sum(0)).ravel()
        self.kept = np.sort(np.argsort(-count, kind="stable")[:max_items])
        self.weights = _solve_items(matrix[:, self.kept], self.penalty)

    def rank(self, cases: RankingCases, rows: slice) -> np.ndarray:
        """`(n, I)` scores."""
        histories = cases.histories.select(rows)
        history = histories.matrix(self.log, self.decay**histories.ages)
        if self.weights is not None:
            scores = np.full(history.shape, -1.0, dtype=np.float32)
            kept = history[:, self.kept]
            scores[:, self.kept] = kept @ self.weights
            if self.repeat:
                scores[:, self.kept] += self.repeat * kept.toarray()
            return scores
        dense = history.toarray()
        precision = (dense - (self.matrix.T @ (self.inverse @ (self.matrix @ dense.T))).T) / self.penalty
        # h B = h - h P / diag(P), column by column: B = I - P diag(1 / diag(P)).
        return (1.0 + self.repeat) * dense - precision / self.diagonal

    def describe(self) -> dict:
        """Its tuned settings."""
        items = self.log.num_items if self.kept is None else len(self.kept)
        return {"decay": self.decay, "penalty": self.penalty, "repeat": self.repeat, "items": items}


def _solve_items(matrix: sp.csr_matrix, penalty: float) -> np.ndarray:
    """`(I, I)` float32 weights; one such matrix in memory."""
    count = matrix.shape[1]
    gram = np.empty((count, count), dtype=np.float32, order="F")
    columns, transposed = matrix.tocsc(), matrix.T.tocsr()
    for start in range(0, count, _BLOCK):
        gram[:, start : start + _BLOCK] = (transposed @ columns[:, start : start + _BLOCK]).toarray()
    gram[np.diag_indices(count)] += penalty
    factor, failed = scipy.linalg.lapack.spotrf(gram, lower=1, overwrite_a=1)
    if failed:
        raise ValueError(f"ease_decay: the Gram matrix is singular in float32 at penalty {penalty:g}")
    inverse, _ = scipy.linalg.lapack.spotri(factor, lower=1, overwrite_c=1)
    for start in range(0, count, _BLOCK):
        stop = min(start + _BLOCK, count)
        inverse[start:stop, stop:] = inverse[stop:, start:stop].T
        block = inverse[start:stop, start:stop]
        block[:] = np.tril(block) + np.tril(block, -1).T
    inverse /= -np.diag(inverse)[None, :].copy()
    inverse[np.diag_indices(count)] = 0.0
    return inverse

"""Text neighbours: items whose texts mean what the latest texts meant."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..cases import RankingCases
from ..folds import Fold
from ..ranking import mean_ndcg


if TYPE_CHECKING:
    from ...data.log import InterestLog


DECAYS = (1.0, 0.95, 0.9, 0.8, 0.6, 0.4)


class TextKNN:
    """Cosine between an item's text vector and the history's, summed with weight `decay ** age`; knows no other user.

    Args:
        text_vectors (`np.ndarray` of shape `(I, D)`): one vector per item of the log, from any text encoder.
    """

    name = "text_knn"

    def __init__(self, text_vectors: np.ndarray) -> None:
        vectors = np.asarray(text_vectors, dtype=np.float32)
        self.vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        self.decay = 0.8

    def tune(self, log: InterestLog, fold: Fold, cases: RankingCases, filtered: bool) -> None:
        """Chooses the decay by NDCG@10."""
        self.fit(log, fold)
        scores = {}
        for self.decay in DECAYS:
            scores[self.decay] = mean_ndcg(log, cases, self, filtered)
        self.decay = max(scores, key=scores.__getitem__)

    def fit(self, log: InterestLog, fold: Fold) -> None:
        """Takes the log.

        Raises:
            ValueError: not one vector per item.
        """
        if len(self.vectors) != log.num_items:
            raise ValueError(f"text_vectors: {len(self.vectors)} rows, expected one for each of {log.num_items} items")
        self.log = log

    def rank(self, cases: RankingCases, rows: slice) -> np.ndarray:
        """`(n, I)` cosines."""
        histories = cases.histories.select(rows)
        profile = histories.matrix(self.log, self.decay**histories.ages) @ self.vectors
        return (profile / np.maximum(np.linalg.norm(profile, axis=1, keepdims=True), 1e-12)) @ self.vectors.T

    def describe(self) -> dict:
        """Its tuned settings."""
        return {"decay": self.decay}

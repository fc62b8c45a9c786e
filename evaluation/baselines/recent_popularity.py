"""Recent popularity: counts that halve every few days, from the days before each question."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sp

from ...data.labels import SECONDS_PER_DAY
from ..cases import RankingCases
from ..folds import Fold
from ..ranking import mean_ndcg


if TYPE_CHECKING:
    from ...data.log import InterestLog


HALF_LIVES = (1.0, 3.0, 7.0, 14.0, 30.0, 90.0, 365.0)


class RecentPopularity:
    """What people took lately; beats most transformers where everything before one moment trains (BENCHMARKS 1).

    Under `global-time` it goes on counting during the split (earlier days than the question's only); under `leave-last` it
    counts the known events of the days before the question.
    """

    name = "recent_popularity"

    def __init__(self) -> None:
        self.half_life = 7.0

    def tune(self, log: InterestLog, fold: Fold, cases: RankingCases, filtered: bool) -> None:
        """Chooses the half-life by NDCG@10.

        Raises:
            ValueError: a log that has positions instead of times.
        """
        if log.facts["time"] == "order":
            raise ValueError("the log has positions instead of times")
        self.fit(log, fold)
        scores = {}
        for self.half_life in HALF_LIVES:
            scores[self.half_life] = mean_ndcg(log, cases, self, filtered)
        self.half_life = max(scores, key=scores.__getitem__)

    def fit(self, log: InterestLog, fold: Fold) -> None:
        """Counts events per day and item."""
        usable = (log.item >= 0) & (fold.known | fold.asked if fold.by_time else fold.known)
        self.days, day = np.unique(log.timestamp[usable] // SECONDS_PER_DAY, return_inverse=True)
        ones = np.ones(len(day), dtype=np.float32)
        self.counts = sp.csr_matrix((ones, (day, log.item[usable])), shape=(len(self.days), log.num_items))

    def rank(self, cases: RankingCases, rows: slice) -> np.ndarray:
        """`(n, I)` decayed counts of the days before each case."""
        asked, inverse = np.unique(cases.time[rows] // SECONDS_PER_DAY, return_inverse=True)
        gap = (asked[:, None] - self.days).astype(np.float32)
        weights = np.where(gap > 0, np.exp2(-np.maximum(gap, 0) / self.half_life), 0.0).astype(np.float32)
        weights[weights < 1e-12] = 0.0
        return (sp.csr_matrix(weights) @ self.counts).toarray()[inverse]

    def describe(self) -> dict:
        """Its tuned settings."""
        return {"half_life_days": self.half_life}

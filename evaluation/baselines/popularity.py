"""Popularity: how often anybody took an item, ever."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..cases import RankingCases
from ..folds import Fold


if TYPE_CHECKING:
    from ...data.log import InterestLog


class Popularity:
    """The same list for everybody, by the number of known events."""

    name = "popularity"

    def tune(self, log: InterestLog, fold: Fold, cases: RankingCases, filtered: bool) -> None:
        """Has nothing to tune."""

    def fit(self, log: InterestLog, fold: Fold) -> None:
        """Counts the known events of every item."""
        items = log.item[fold.known & (log.item >= 0)]
        self.scores = np.bincount(items, minlength=log.num_items).astype(np.float32)

    def rank(self, cases: RankingCases, rows: slice) -> np.ndarray:
        """`(n, I)`: the same row for every case."""
        return np.broadcast_to(self.scores, (rows.stop - rows.start, len(self.scores)))

    def describe(self) -> dict:
        """Its tuned settings."""
        return {}

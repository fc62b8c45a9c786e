"""Ratings without a model: the mean, the person's habit and the item's reputation (Koren, 2009, equation 1)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..cases import OverallCases
from ..folds import Fold


if TYPE_CHECKING:
    from ...data.log import InterestLog


STRENGTHS = (1.0, 3.0, 8.0, 20.0, 50.0)


class UserItemBias:
    """`mean + item bias + user bias`, shrunk; item biases from the known events, user biases from each history.

    Args:
        mean (`float`, *optional*): where biases start from. Default: the mean of the known values.
    """

    name = "user_item_bias"

    def __init__(self, mean: float | None = None) -> None:
        self.given, self.item_strength, self.user_strength = mean, 8.0, 3.0

    def fit(self, log: InterestLog, fold: Fold) -> None:
        """Estimates mean and item biases."""
        self.log = log
        known = fold.known & (log.item >= 0) & np.isfinite(log.value)
        items, values = log.item[known], log.value[known].astype(np.float64)
        self.mean = self.given
        if self.mean is None:
            self.mean = float(values.mean()) if len(values) else 0.0
        self.item_sum = np.bincount(items, values - self.mean, minlength=log.num_items)
        self.item_count = np.bincount(items, minlength=log.num_items)

    def tune(self, log: InterestLog, fold: Fold, cases: OverallCases) -> None:
        """Chooses both strengths by squared error."""
        self.fit(log, fold)
        errors = {}
        for item_strength in STRENGTHS:
            for user_strength in STRENGTHS:
                self.item_strength, self.user_strength = item_strength, user_strength
                errors[item_strength, user_strength] = float(np.mean((self.ratings(cases) - cases.value) ** 2))
        self.item_strength, self.user_strength = min(errors, key=errors.__getitem__)

    @property
    def item_bias(self) -> np.ndarray:
        """`(I,)`."""
        return self.item_sum / (self.item_count + self.item_strength)

    def ratings(self, cases: OverallCases) -> np.ndarray:
        """`(Q,)` expected ratings."""
        return self.mean + self.item_bias[cases.item] + self.user_bias(cases)

    def user_bias(self, cases: OverallCases) -> np.ndarray:
        """`(Q,)`, of each case's history."""
        item_bias = self.item_bias
        values = self.log.value[cases.histories.index].astype(np.float64)
        items = cases.histories.items(self.log)
        seen = np.isfinite(values) & (items >= 0)
        rows = cases.histories.rows[seen]
        residual = values[seen] - self.mean - item_bias[items[seen]]
        user_sum = np.bincount(rows, residual, minlength=len(cases.user))
        return user_sum / (np.bincount(rows, minlength=len(cases.user)) + self.user_strength)

    def describe(self) -> dict:
        """Its tuned settings."""
        return {"item_strength": self.item_strength, "user_strength": self.user_strength}

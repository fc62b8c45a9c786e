"""Overall interest without a model: how often this person likes things, how often this item is liked, and both."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from sklearn.linear_model import LogisticRegression

from ...data.labels import overall_labels
from ..cases import OverallCases
from ..folds import Fold
from ..impressions import impression_masks, shown_before
from ..metrics.overall import overall_values


if TYPE_CHECKING:
    from ...data.impressions import Impressions
    from ...data.log import InterestLog


STRENGTHS = (1.0, 3.0, 10.0, 30.0, 100.0)


def logit(probability: np.ndarray) -> np.ndarray:
    """`log(p / (1 - p))`, finite."""
    clipped = np.clip(probability, 1e-6, 1.0 - 1e-6)
    return np.log(clipped) - np.log1p(-clipped)


class _Rates:
    """Shares of positives among known labels, per item, and per history, both pulled towards everybody's."""

    def fit(self, log: InterestLog, fold: Fold) -> None:
        self.log = log
        if log.impressions is not None:
            self._fit_impressions(log, log.impressions, fold)
            return
        self.labels = overall_labels(log)
        known = fold.known & (log.item >= 0) & np.isfinite(self.labels)
        items, labels = log.item[known], self.labels[known].astype(np.float64)
        self.item_positive = np.bincount(items, labels, minlength=log.num_items)
        self.item_count = np.bincount(items, minlength=log.num_items)
        self.mean = float(np.clip(labels.mean(), 0.01, 0.99)) if len(labels) else 0.5

    def _fit_impressions(self, log: InterestLog, shown: Impressions, fold: Fold) -> None:
        known = np.repeat(impression_masks(log, fold)[1], shown.sizes)
        items, clicked = shown.item[known], shown.clicked[known]
        self.item_positive = np.bincount(items, clicked, minlength=log.num_items)
        self.item_count = np.bincount(items, minlength=log.num_items)
        self.mean = float(np.clip(clicked.mean(), 0.01, 0.99)) if len(clicked) else 0.5

    def user(self, cases: OverallCases, strength: float) -> np.ndarray:
        if self.log.impressions is not None:
            positive, count = shown_before(self.log, cases.user, cases.time)
            rate = (positive + strength * self.mean) / (count + strength)
            return np.broadcast_to(rate[:, None], cases.item.shape)
        labels = self.labels[cases.histories.index]
        seen = np.isfinite(labels)
        rows = cases.histories.rows[seen]
        positive = np.bincount(rows, labels[seen], minlength=len(cases.user))
        count = np.bincount(rows, minlength=len(cases.user))
        return (positive + strength * self.mean) / (count + strength)

    def item(self, cases: OverallCases, strength: float) -> np.ndarray:
        return self.items(strength)[cases.item]

    def items(self, strength: float) -> np.ndarray:
        """`(I,)`."""
        return (self.item_positive + strength * self.mean) / (self.item_count + strength)


class UserMean:
    """The person's share of positives so far, pulled towards everybody's with a tuned strength."""

    name = "user_mean"
    side = "user"

    def __init__(self) -> None:
        self.strength, self.rates = 10.0, _Rates()

    def fit(self, log: InterestLog, fold: Fold) -> None:
        """Counts the known labels."""
        self.rates.fit(log, fold)

    def tune(self, log: InterestLog, fold: Fold, cases: OverallCases) -> None:
        """Chooses the strength by log loss."""
        self.fit(log, fold)
        losses = {}
        for strength in STRENGTHS:
            chosen = self.rates.user(cases, strength) if self.side == "user" else self.rates.item(cases, strength)
            known = np.isfinite(cases.label)
            losses[strength] = overall_values(cases.label[known], chosen[known])["log_loss"].mean()
        self.strength = min(losses, key=losses.__getitem__)

    def overall(self, cases: OverallCases) -> np.ndarray:
        """Logits of the shape of `cases.item`."""
        side = self.rates.user if self.side == "user" else self.rates.item
        return logit(side(cases, self.strength))

    def describe(self) -> dict:
        """Its tuned settings."""
        return {"strength": self.strength}


class ItemMean(UserMean):
    """The item's share of positives so far, pulled towards everybody's with a tuned strength."""

    name = "item_mean"
    side = "item"


class UserItemLogistic:
    """Logistic regression on the logits of both shares, fitted on the tuning cases."""

    name = "user_item_logistic"

    def __init__(self) -> None:
        self.user_side, self.item_side = UserMean(), ItemMean()

    def tune(self, log: InterestLog, fold: Fold, cases: OverallCases) -> None:
        """Tunes both shares, then fits the regression."""
        self.user_side.tune(log, fold, cases)
        self.item_side.tune(log, fold, cases)
        known = np.isfinite(cases.label)
        labels = cases.label[known] > 0.5
        self.constant = None
        if labels.all() or not labels.any():
            self.constant = float(logit(np.array(labels.mean())))
            return
        self.model = LogisticRegression(C=10.0, max_iter=1000).fit(self._features(cases)[known], labels)

    def fit(self, log: InterestLog, fold: Fold) -> None:
        """Counts the known labels."""
        self.user_side.fit(log, fold)
        self.item_side.fit(log, fold)

    def _features(self, cases: OverallCases) -> np.ndarray:
        return np.stack([self.user_side.overall(cases), self.item_side.overall(cases)], axis=-1)

    def overall(self, cases: OverallCases) -> np.ndarray:
        """Logits of the shape of `cases.item`."""
        if self.constant is not None:
            return np.full(cases.item.shape, self.constant)
        return self.model.decision_function(self._features(cases).reshape(-1, 2)).reshape(cases.item.shape)

    def describe(self) -> dict:
        """Its tuned settings."""
        return {"user_strength": self.user_side.strength, "item_strength": self.item_side.strength}

"""Intensity without a model: events per day so far, all alike or the newest most."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ...data.labels import SECONDS_PER_DAY
from ..cases import ForecastCases
from ..folds import Fold
from ..metrics.intensity import intensity_values


if TYPE_CHECKING:
    from ...data.log import InterestLog


PRIOR_DAYS = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0)
HALF_LIVES = (3.0, 7.0, 14.0, 30.0, 60.0, 120.0)


class HistoryRate:
    """Events per day since the first event, as the posterior mean of a Poisson rate under a gamma prior around everybody's
    rate. Prior (in days of observation) and a common factor per horizon are tuned on the negative binomial deviance."""

    name = "history_rate"
    half_lives: tuple[float | None, ...] = (None,)

    def __init__(self) -> None:
        self.settings: dict[float, tuple[float | None, float, float, float]] = {}

    def fit(self, log: InterestLog, fold: Fold) -> None:
        """Takes the log."""
        self.log = log

    def _exposure(self, cases: ForecastCases, half_life: float | None) -> tuple[np.ndarray, np.ndarray]:
        """Decayed events and decayed days of observation, both `(Q,)`."""
        rows = cases.histories.rows
        days = (cases.time[rows] - self.log.timestamp[cases.histories.index]) / SECONDS_PER_DAY
        span = np.zeros(len(cases.user))
        np.maximum.at(span, rows, days)
        if half_life is None:
            return cases.histories.lengths.astype(np.float64), span
        events = np.bincount(rows, np.exp2(-days / half_life), minlength=len(span))
        return events, half_life / np.log(2) * (1.0 - np.exp2(-span / half_life))

    def tune(self, log: InterestLog, fold: Fold, cases: ForecastCases) -> None:
        """Chooses half-life, prior and factor per horizon."""
        self.fit(log, fold)
        for position, horizon in enumerate(cases.horizons):
            seen = cases.mask[:, position]
            counts = cases.totals[seen, position]
            if not len(counts) or not counts.any():
                continue
            everybody = float(counts.mean() / horizon)
            lowest = np.inf
            for half_life in self.half_lives:
                events, days = (part[seen] for part in self._exposure(cases, half_life))
                for prior in PRIOR_DAYS:
                    means = (events + prior * everybody) / (days + prior) * horizon
                    factor = float(counts.sum() / means.sum())
                    deviance = intensity_values(counts, factor * means)["nb_deviance"].mean()
                    if deviance < lowest:
                        lowest, self.settings[horizon] = deviance, (half_life, prior, factor, everybody)

    def intensity(self, cases: ForecastCases) -> np.ndarray:
        """`(Q, H)` expected events."""
        means = np.zeros((len(cases.user), len(cases.horizons)))
        for position, horizon in enumerate(cases.horizons):
            half_life, prior, factor, everybody = self.settings.get(horizon, (None, 30.0, 1.0, 0.0))
            events, days = self._exposure(cases, half_life)
            means[:, position] = factor * (events + prior * everybody) / (days + prior) * horizon
        return means

    def describe(self) -> dict:
        """Its tuned settings."""
        fields = ("half_life_days", "prior_days", "factor", "events_per_day")
        return {f"{horizon:g}": dict(zip(fields, chosen, strict=True)) for horizon, chosen in self.settings.items()}


class EWMARate(HistoryRate):
    """The same with events and days that fade; the half-life is tuned too."""

    name = "ewma_rate"
    half_lives = HALF_LIVES

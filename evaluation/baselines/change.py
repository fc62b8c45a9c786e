"""Change rates without a model: nothing changes, the trend goes on, people revert to the mean, the mixture is right."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ...data.labels import node_shares
from ..cases import LONG_RUN_STRENGTH, ForecastCases
from ..folds import Fold
from .mixture import Mixture
from .shares import Evidence, Population, posterior
from .shrinkage import Shrinkage


if TYPE_CHECKING:
    from ...data.log import InterestLog


WINDOW_STRENGTH = 7.0


def long_run(log: InterestLog, cases: ForecastCases, population: Population) -> np.ndarray:
    """`(Q, K)` the interest that rates are measured against, as in the label: the history with a pull of five events."""
    return node_shares(cases.history_counts, log.tree, population.shares(cases.time, None), LONG_RUN_STRENGTH)


def rate(future: np.ndarray, interest: np.ndarray) -> np.ndarray:
    """`(f - p) / (f + p)`, 0 where both are."""
    total = future + interest
    return ((future - interest) / np.where(total > 0, total, 1.0)).astype(np.float32)


class ZeroChange:
    """Every interest stays as it is."""

    name = "zero_change"

    def tune(self, log: InterestLog, fold: Fold, cases: ForecastCases) -> None:
        """Has nothing to tune."""

    def fit(self, log: InterestLog, fold: Fold) -> None:
        """Has nothing to fit."""

    def change_rate(self, cases: ForecastCases) -> np.ndarray:
        """`(Q, K)` zeros."""
        return np.zeros_like(cases.history_counts)

    def describe(self) -> dict:
        """Its tuned settings."""
        return {}


class Trend:
    """The change from the long run to the last window of the reference length goes on. Against the last window a trend is
    wrong-signed (BENCHMARKS 3); against the long run, which is what the label measures, it orders better than chance."""

    name = "trend"

    def tune(self, log: InterestLog, fold: Fold, cases: ForecastCases) -> None:
        """Has nothing to tune."""

    def fit(self, log: InterestLog, fold: Fold) -> None:
        """Takes the population of the known events."""
        self.log, self.population = log, Population(log, fold)

    def change_rate(self, cases: ForecastCases) -> np.ndarray:
        """`(Q, K)` rates of the last window, shrunk towards the long run by seven events as the label is."""
        interest = long_run(self.log, cases, self.population)
        last = Evidence(self.log, cases, self.population).window(cases.reference_horizon, cases.unit)
        return rate(posterior(last, interest, WINDOW_STRENGTH, self.log.tree), interest)

    def describe(self) -> dict:
        """Its tuned settings."""
        return {}


class MeanReversion:
    """The rate that the tuned [`Shrinkage`] forecast implies: what is above the population's share fades."""

    name = "mean_reversion"

    def tune(self, log: InterestLog, fold: Fold, cases: ForecastCases) -> None:
        """Tunes the shrinkage at the reference horizon."""
        self.shrinkage = Shrinkage()
        self.shrinkage.tune(log, fold, cases)

    def fit(self, log: InterestLog, fold: Fold) -> None:
        """Takes the population of the known events."""
        self.shrinkage.fit(log, fold)

    def change_rate(self, cases: ForecastCases) -> np.ndarray:
        """`(Q, K)` rates from the long run to the shrunk shares."""
        interest = long_run(self.shrinkage.log, cases, self.shrinkage.population)
        return rate(self.shrinkage.forecast(cases)["reference"], interest)

    def describe(self) -> dict:
        """Its tuned settings."""
        return self.shrinkage.describe()


class MixtureRate:
    """The rate that the mixture's forecast at the reference horizon implies.

    Args:
        mixture (`Mixture`): tuned and fitted by the caller, so that it is fitted once.
    """

    name = "mixture_rate"

    def __init__(self, mixture: Mixture) -> None:
        self.mixture = mixture

    def change_rate(self, cases: ForecastCases) -> np.ndarray:
        """`(Q, K)` rates from the long run to the mixture's forecast."""
        interest = long_run(self.mixture.log, cases, self.mixture.population)
        return rate(self.mixture.forecast(cases)["reference"], interest)

"""All baselines of the next event at a known time, which are made of each other."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..cases import NextEventCases
from ..folds import Fold
from .context import SMALL, Tilted, pull, rolling, tuning_part
from .hour_context import HourContext
from .markov import Markov
from .mixture import Mixture


if TYPE_CHECKING:
    from ...data.log import InterestLog


class NextEventBaselines:
    """All of them together, since the pools are made of the others.

    `mixture_context` is the mixture times what the hour and the kind of day change, for everybody and for the person;
    `context_mix` adds Markov's and the hour's own shares to that pool.
    """

    def __init__(self) -> None:
        self.mixture, self.hour, self.markov = Mixture(), HourContext(), Markov()
        self.context, self.best = Tilted("mixture_context"), Tilted("context_mix")

    def tune(self, log: InterestLog, fold: Fold, cases: NextEventCases) -> None:
        """Everything on the cases of a round; `cases` are thinned where there are very many domains."""
        cases = tuning_part(cases, log)
        self.fit(log, fold)
        self.mixture.tune(log, rolling(fold), cases)
        self.hour.tune(cases)
        self.markov.tune(cases)
        parts = self._parts(cases)
        counts = cases.reference_counts
        self.context.tune(self.hour.leaves, _first(parts), counts)
        self.best.tune(self.hour.leaves, parts, counts)

    def fit(self, log: InterestLog, fold: Fold) -> None:
        """Takes tables of the known events, and the population of all earlier days."""
        self.mixture.fit(log, rolling(fold))
        for part in (self.hour, self.markov):
            part.fit(log, fold, rolling(fold))

    def _parts(self, cases: NextEventCases) -> dict[str, np.ndarray]:
        leaves, settings = self.hour.leaves, self.hour.settings
        mixture = self.mixture.forecast(cases)["future"][:, 0][:, leaves.nodes]
        base, everybody = self.hour.base(cases), self.hour.everybody(cases, settings)
        now = pull(self.hour.counts(cases, settings.hours, settings.other), base, settings.strength)
        always = pull(cases.histories.count_nodes(self.hour.log)[:, leaves.nodes], base, settings.strength)
        values = {
            "mixture": mixture,
            "hour of everybody": everybody / np.maximum(base, SMALL),
            "hour of the person": now / np.maximum(always, SMALL),
            "hour_context": self.hour.mixed(cases, settings),
            "markov": self.markov.mixed(cases, self.markov.settings),
        }
        return {name: np.log(np.maximum(value, SMALL)) for name, value in values.items()}

    def shares(self, cases: NextEventCases) -> dict[str, np.ndarray]:
        """`{name: (Q, K)}` of every baseline."""
        leaves, parts = self.hour.leaves, self._parts(cases)
        return {
            "population": leaves.shares(self.hour.base(cases)),
            "mixture": self.mixture.forecast(cases)["future"][:, 0],
            "hour_context": self.hour.shares(cases),
            "markov": self.markov.shares(cases),
            "mixture_context": self.context.shares(leaves, _first(parts)),
            "context_mix": self.best.shares(leaves, parts),
        }

    def describe(self) -> dict[str, dict]:
        """Their tuned settings by name."""
        mixture = {key: value for key, value in self.mixture.describe().items() if key != "completion"}
        parts = (self.hour, self.markov, self.context, self.best)
        return {"mixture": mixture} | {part.name: part.describe() for part in parts}


def _first(parts: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return dict(list(parts.items())[:3])

"""The next event at a known time: what follows the domain of the last event."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sp

from ...data.labels import history_range
from ..cases import NextEventCases
from ..folds import Fold
from .context import STRENGTHS, ContextBaseline, descend, pull
from .hour_context import hour_slot


if TYPE_CHECKING:
    from ...data.log import InterestLog


BANDS = 4  # of six hours each


@dataclass(frozen=True)
class MarkovSettings:
    """Pulls of what followed the last domain towards the population, of that within its six hours and kind of day towards all
    times, and of the person's own towards everybody's."""

    strength: float = 16.0
    context_strength: float = 64.0
    own_strength: float = 16.0


class Markov(ContextBaseline):
    """What follows the domain of the last event, in these six hours of a weekday or a weekend: everybody's table, backed off to
    all times and to the population, under the person's own transitions."""

    name = "markov"

    def __init__(self) -> None:
        self.settings = MarkovSettings()

    def fit(self, log: InterestLog, fold: Fold, rolling: Fold) -> None:
        super().fit(log, fold, rolling)
        pair = self.before >= 0
        pair[pair] = log.item[self.before[pair]] >= 0
        last, following = (self.leaves.items[log.item[part]] for part in (self.before[pair], self.target[pair]))
        band = _band(log.timestamp[self.target[pair]])
        self.tables = [(last.T @ following).tocsr()]
        for number in range(2 * BANDS):
            self.tables.append((last[band == number].T @ following[band == number]).tocsr())
        # the domains of the event before every event of the log: what the person's own transitions start from
        start, stop = history_range(log, log.user, log.timestamp)
        self.came_from = self._domains(np.where(stop > start, log.item[np.maximum(stop - 1, 0)], -1))

    def _domains(self, item: np.ndarray) -> sp.csr_matrix:
        """`(n, L)` leaf shares of items, zeros for -1."""
        return (sp.diags((item >= 0).astype(np.float32)) @ self.leaves.items[np.maximum(item, 0)]).tocsr()

    def mixed(self, cases: NextEventCases, settings: MarkovSettings) -> np.ndarray:
        last = self._domains(cases.histories.items(self.log)[cases.histories.offsets[1:] - 1])
        all_times, band = self.tables[0], _band(cases.time)
        shares = pull((last @ all_times).toarray(), self.base(cases), settings.strength)
        here = np.zeros_like(shares)
        for number in range(2 * BANDS):
            here[band == number] = (last[band == number] @ self.tables[1 + number]).toarray()
        shares = pull(here, shares, settings.context_strength)
        return pull(self.own(cases, last), shares, settings.own_strength)

    def own(self, cases: NextEventCases, last: sp.csr_matrix) -> np.ndarray:
        """`(Q, L)` the person's own events, weighted by how far what came before them shares the last domain."""
        histories = cases.histories
        weights = np.asarray(self.came_from[histories.index].multiply(last[histories.rows]).sum(1)).ravel()
        return (histories.matrix(self.log, weights) @ self.leaves.items).toarray()

    def tune(self, cases: NextEventCases) -> None:
        grid = dict.fromkeys(("strength", "context_strength", "own_strength"), STRENGTHS)
        loss = lambda s: self.leaves.loss(self.mixed(cases, s), cases.reference_counts)  # noqa: E731
        self.settings = descend(self.settings, grid, loss)

    def shares(self, cases: NextEventCases) -> np.ndarray:
        """`(Q, K)`."""
        return self.leaves.shares(self.mixed(cases, self.settings))

    def describe(self) -> dict:
        return {field.name: getattr(self.settings, field.name) for field in fields(self.settings)}


def _band(time: np.ndarray) -> np.ndarray:
    return hour_slot(time) // (24 // BANDS)

"""The next event at a known time: what is done at this hour of a weekday or a weekend."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import scipy.sparse as sp

from ...data.labels import SECONDS_PER_DAY
from ..cases import NextEventCases
from .context import STRENGTHS, ContextBaseline, descend


HOURS = (0.5, 1.0, 2.0, 4.0, 8.0)  # half-width: an event so many hours apart counts half
WEEKENDS = (0.0, 0.1, 0.3, 1.0)  # weight of a weekday's event at a weekend and the other way round


def hour_and_weekend(time: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Hour of the day, with its fraction, and whether it is a weekend, of seconds since 1970."""
    return time % SECONDS_PER_DAY / 3600.0, (time // SECONDS_PER_DAY + 3) % 7 >= 5


def alike(first: np.ndarray, second: np.ndarray, half_width: float, other: float) -> np.ndarray:
    """How much an event at one time says about another time: halves with every `half_width` hours of the day between them,
    squared, times `other` between weekday and weekend."""
    (hour, weekend), (hour2, weekend2) = hour_and_weekend(first), hour_and_weekend(second)
    apart = np.abs(hour - hour2)
    apart = np.minimum(apart, 24.0 - apart) / half_width
    return np.exp2(-(apart**2)) * np.where(weekend == weekend2, 1.0, other)


def hour_slot(time: np.ndarray) -> np.ndarray:
    """Hour of the day, 0 to 23, plus 24 at weekends."""
    hour, weekend = hour_and_weekend(time)
    return hour.astype(np.int64) + 24 * weekend


@dataclass(frozen=True)
class HourSettings:
    """Half-width in hours and weight between weekday and weekend, of everybody and of the person, and the pulls towards the
    whole population and from the person towards everybody."""

    everybody_hours: float = 1.0
    everybody_other: float = 0.1
    everybody_strength: float = 64.0
    hours: float = 2.0
    other: float = 0.3
    strength: float = 4.0


class HourContext(ContextBaseline):
    """What the person does at this hour on this kind of day, pulled towards what everybody does then."""

    name = "hour_context"

    def __init__(self) -> None:
        self.settings = HourSettings()

    def everybody(self, cases: NextEventCases, settings: HourSettings) -> np.ndarray:
        """`(Q, L)` shares of everybody at this hour and kind of day: a table of 24 hours by two."""
        time = self.log.timestamp[self.target]
        slot = hour_slot(time)
        counts = sp.csr_matrix((np.ones(len(slot)), (slot, np.arange(len(slot)))), shape=(48, len(slot)))
        counts = np.asarray((counts @ self.leaves.items[self.log.item[self.target]]).todense())
        moments = np.arange(48) % 24 * 3600 + 1800 + np.where(np.arange(48) >= 24, 2, 0) * SECONDS_PER_DAY
        kernel = alike(
            moments[:, None], moments[None], settings.everybody_hours, settings.everybody_other
        )  # 3 January 1970 was a Saturday
        counts = (kernel @ counts)[hour_slot(cases.time)]
        base, strength = self.base(cases), settings.everybody_strength
        return (counts + strength * base) / (counts.sum(1, keepdims=True) + strength)

    def counts(self, cases: NextEventCases, hours: float, other: float) -> np.ndarray:
        """`(Q, L)` the person's own events, weighted by how alike their times are."""
        histories = cases.histories
        weights = alike(cases.time[histories.rows], self.log.timestamp[histories.index], hours, other)
        return (histories.matrix(self.log, weights) @ self.leaves.items).toarray()

    def mixed(self, cases: NextEventCases, settings: HourSettings) -> np.ndarray:
        everybody, own = self.everybody(cases, settings), self.counts(cases, settings.hours, settings.other)
        return (own + settings.strength * everybody) / (own.sum(1, keepdims=True) + settings.strength)

    def tune(self, cases: NextEventCases) -> None:
        """Everybody's table first, then the person's own."""
        counts = cases.reference_counts
        grid = {"everybody_hours": HOURS, "everybody_other": WEEKENDS, "everybody_strength": STRENGTHS}
        found = descend(self.settings, grid, lambda s: self.leaves.loss(self.everybody(cases, s), counts))
        grid = {"hours": HOURS, "other": WEEKENDS, "strength": STRENGTHS}
        self.settings = descend(found, grid, lambda s: self.leaves.loss(self.mixed(cases, s), counts))

    def shares(self, cases: NextEventCases) -> np.ndarray:
        """`(Q, K)`."""
        return self.leaves.shares(self.mixed(cases, self.settings))

    def describe(self) -> dict:
        return {field.name: getattr(self.settings, field.name) for field in fields(self.settings)}

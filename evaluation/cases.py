"""The questions of an evaluation as arrays: who is asked about, when, and with which history."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import scipy.sparse as sp

from ..data.labels import PopulationTable, change_rate, future_counts, history_range, node_shares, overall_labels
from .folds import Fold, cut_fold


if TYPE_CHECKING:
    from ..data.log import InterestLog


EVENTS_PER_USER = 5  # rolling targets of one user in one split (`global-time`)
MIN_HISTORY = 5  # events that a forecast needs before the cut (`global-time`; one for `leave-last`)
ENOUGH_CASES = 600  # forecasts to tune on; fewer are joined by those of earlier cuts
EARLIER_CUTS = 5
LONG_RUN_STRENGTH = 5.0  # events that the population is worth in the interest that a change rate starts from
NEXT_EVENTS_PER_USER = 20  # asked about at their own times, of one user in one split (`global-time`)
NEXT_EVENT_VALUES = 20_000_000  # cases times domains of such questions; a random part of more
NEXT_EVENT_HISTORY = 5_000_000  # events in the histories of such questions, likewise
MIN_COMPLETION = 4  # events that a completion needs before the cut: two to see and two to guess


@dataclass(frozen=True)
class Histories:
    """The histories of Q cases, ragged and in time order.

    Attributes:
        index (`np.ndarray` of shape `(N,)`): int64 positions of events in the log: their times and places.
        offsets (`np.ndarray` of shape `(Q + 1,)`): int64, case `q` has `index[offsets[q]:offsets[q + 1]]`.
        item (`np.ndarray` of shape `(N,)`, *optional*): items that stand at these times instead of the log's own (the
            shuffled control). Read items through [`~Histories.items`] only.
    """

    index: np.ndarray
    offsets: np.ndarray
    item: np.ndarray | None = None

    @classmethod
    def from_ranges(cls, start: np.ndarray, stop: np.ndarray) -> Histories:
        """Histories that are runs `[start, stop)` of the log's events."""
        length = np.maximum(np.asarray(stop, dtype=np.int64) - start, 0)
        offsets = np.concatenate([[0], np.cumsum(length)]).astype(np.int64)
        return cls(np.repeat(start - offsets[:-1], length) + np.arange(offsets[-1]), offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> np.ndarray:
        """`(Q,)` int64."""
        return np.diff(self.offsets)

    @property
    def rows(self) -> np.ndarray:
        """`(N,)` int64: the case of every event."""
        return np.repeat(np.arange(len(self)), self.lengths)

    @property
    def ages(self) -> np.ndarray:
        """`(N,)` int64: how many events of the same history are later; the newest has age 0."""
        return self.offsets[self.rows + 1] - 1 - np.arange(len(self.index))

    def items(self, log: InterestLog) -> np.ndarray:
        """`(N,)` item positions, -1 for an event without item."""
        return log.item[self.index] if self.item is None else self.item

    def select(self, rows: slice | np.ndarray) -> Histories:
        """The histories of some cases."""
        chosen = np.arange(len(self))[rows]
        start, length = self.offsets[chosen], self.lengths[chosen]
        flat = Histories.from_ranges(start, start + length)
        item = None if self.item is None else self.item[flat.index]
        return Histories(self.index[flat.index], flat.offsets, item)

    def shuffled(self, log: InterestLog, seed: int) -> Histories:
        """The same items, permuted within each history; times and places stay."""
        order = np.lexsort((np.random.default_rng(seed).random(len(self.index)), self.rows))
        return replace(self, item=self.items(log)[order])

    def matrix(self, log: InterestLog, weights: np.ndarray | None = None) -> sp.csr_matrix:
        """`(Q, I)` float32: weights (1 if not given) summed per case and item."""
        items = self.items(log)
        weights = np.ones(len(items)) if weights is None else np.asarray(weights)
        keep = items >= 0
        values = (weights[keep].astype(np.float32), (self.rows[keep], items[keep]))
        return sp.csr_matrix(values, shape=(len(self), log.num_items))

    def count_nodes(self, log: InterestLog, weights: np.ndarray | None = None) -> np.ndarray:
        """`(Q, K)` float32: (weighted) events per domain."""
        return (self.matrix(log, weights) @ log.item_nodes).toarray().astype(np.float32, copy=False)


@dataclass(frozen=True)
class RankingCases:
    """Which item comes next: `target (Q,)` item positions, `event (Q,)` the target's event, `time (Q,)` that of the last
    history event, as published records ask."""

    user: np.ndarray
    time: np.ndarray
    histories: Histories
    target: np.ndarray
    event: np.ndarray


@dataclass(frozen=True)
class ForecastCases:
    """What the next windows hold, for Q users at `time (Q,)`, at H horizons and K domains.

    Attributes:
        history_counts (`np.ndarray` of shape `(Q, K)`): events per domain before the time.
        counts, totals, mask (`(Q, H, K)`, `(Q, H)`, `(Q, H)`): what happened, see `FutureCounts`.
        reference_horizon (`float`), reference_counts (`(Q, K)`), reference_mask (`(Q,)`): the window of the change rate.
        rate, gate (`np.ndarray` of shape `(Q, K)`): the change label and where it counts; None for one-event horizons.
        interest (`np.ndarray` of shape `(Q, K)`): the long-run share that the label starts from; None where it is.
    """

    user: np.ndarray
    time: np.ndarray
    histories: Histories
    horizons: tuple[float, ...]
    unit: str
    history_counts: np.ndarray
    counts: np.ndarray
    totals: np.ndarray
    mask: np.ndarray
    reference_horizon: float
    reference_counts: np.ndarray
    reference_mask: np.ndarray
    rate: np.ndarray | None
    gate: np.ndarray | None
    interest: np.ndarray | None = None


@dataclass(frozen=True)
class NextEventCases(ForecastCases):
    """In which domain the next event falls, given its own `time (Q,)`: windows of one event, `counts (Q, 1, K)` its shares.

    What is asked knows the target's hour, weekday and gap, and the last place before it; never its own place or item.
    `event (Q,)` is the target's position in the log.
    """

    event: np.ndarray = field(kw_only=True)


@dataclass(frozen=True)
class SceneCases(NextEventCases):
    """In which domain an event falls given its scene, `scene (Q,)` positions in `log.scenes`; asked at the last event before it, so
    that of its own time nothing is known."""

    scene: np.ndarray = field(kw_only=True)


@dataclass(frozen=True)
class CompletionCases:
    """A random half of each history is hidden: `visible_counts (Q, K)` are known, `hidden_counts (Q, K)` are asked."""

    user: np.ndarray
    time: np.ndarray
    histories: Histories
    visible_counts: np.ndarray
    hidden_counts: np.ndarray


@dataclass(frozen=True)
class OverallCases:
    """Will this person like this item: `item (Q,)`, `label (Q,)` 0 or 1 (NaN unknown), `value (Q,)` the rating or NaN.

    Where the log has impressions a case is one of them and these are `(Q, C)`: what was shown, -1 and NaN = padding on the
    right. Answers have the shape of `item`.
    """

    user: np.ndarray
    time: np.ndarray
    histories: Histories
    item: np.ndarray
    label: np.ndarray
    value: np.ndarray
    event: np.ndarray


Cases = TypeVar("Cases", RankingCases, ForecastCases, NextEventCases, SceneCases, CompletionCases, OverallCases)


def take(cases: Cases, rows: slice | np.ndarray) -> Cases:
    """Some of the cases (their arrays of the first axis, and their histories)."""
    count = len(cases.user)
    changed = {}
    for name, value in vars(cases).items():
        if isinstance(value, Histories):
            changed[name] = value.select(rows)
        elif isinstance(value, np.ndarray) and value.shape[:1] == (count,):
            changed[name] = value[rows]
    return replace(cases, **changed)


def concatenate(parts: Sequence[ForecastCases]) -> ForecastCases:
    """The cases of several cuts, one after the other."""
    first = parts[0]
    changed = {}
    for name, value in vars(first).items():
        if isinstance(value, Histories):
            index = np.concatenate([part.histories.index for part in parts])
            lengths = np.concatenate([part.histories.lengths for part in parts])
            changed[name] = Histories(index, np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64))
        elif isinstance(value, np.ndarray):
            changed[name] = np.concatenate([getattr(part, name) for part in parts])
    return replace(first, **changed)


def shuffled(cases: Cases, log: InterestLog, seed: int = 0) -> Cases:
    """The control that asks whether order matters: items permuted within each history, times stay."""
    return replace(cases, histories=cases.histories.shuffled(log, seed))


def time_shuffled_log(log: InterestLog, seed: int = 0, before: int | None = None) -> InterestLog:
    """The control that asks whether time matters: each user's items over all her events' times, future included.

    What belongs to the item (value, action, own text, place, scene) moves with it; times and splits stay. Events of the split
    `before` and of later ones change places among themselves alone.
    """
    apart = np.zeros(log.num_events, dtype=bool) if before is None else log.split >= before
    order = np.lexsort((np.random.default_rng(seed).random(log.num_events), apart, log.user))
    moved = {}
    for name in ("item", "value", "action", "text", "place", "scene"):
        array = getattr(log, name)
        moved[name] = None if array is None else array[order]
    return replace(log, **moved)


def sample_users(log: InterestLog, max_users: int | None, seed: int = 0) -> np.ndarray:
    """`(U,)` bool: everybody, or a random `max_users` of them."""
    chosen = np.ones(log.num_users, dtype=bool)
    if max_users is not None and max_users < log.num_users:
        chosen[:] = False
        chosen[np.random.default_rng(seed).permutation(log.num_users)[:max_users]] = True
    return chosen


def _earlier(log: InterestLog, event: np.ndarray, by_time: bool) -> tuple[np.ndarray, np.ndarray]:
    """History ranges of target events: strictly earlier times, or all events that the log puts before (`leave-last`)."""
    user = log.user[event].astype(np.int64)
    return history_range(log, user, log.timestamp[event]) if by_time else (log.offsets[user], event)


def _last_per_user(log: InterestLog, event: np.ndarray, limit: int) -> np.ndarray:
    """The last `limit` of each user's events; `event` ascends."""
    if not len(event):
        return event
    user = log.user[event]
    stop = np.searchsorted(user, user, side="right")
    return event[stop - np.arange(len(event)) <= limit]


def _asked_at(log: InterestLog, fold: Fold, stop: np.ndarray) -> np.ndarray:
    """When questions about histories that end before `stop` are asked: at the last event, or where the split begins."""
    time = log.timestamp[stop - 1]
    return time if fold.time is None else np.maximum(time, fold.time)


def ranking_cases(log: InterestLog, fold: Fold, users: np.ndarray | None = None) -> RankingCases:
    """`leave-last`: one case per user. `global-time`: the last five events of each user in the split, each with everything
    strictly before it. Targets without an item, and first events, are no cases.

    Asked at the time of the person's last event, and not before the moment at which the split begins (`global-time`): until then
    everything is known, of everybody.

    Args:
        users (`np.ndarray` of shape `(U,)`, *optional*): bool, who is asked about.
    """
    event = np.flatnonzero(fold.asked & (log.item >= 0))
    if users is not None:
        event = event[users[log.user[event]]]
    start, stop = _earlier(log, event, fold.by_time)
    event, start, stop = event[stop > start], start[stop > start], stop[stop > start]
    last = np.isin(event, _last_per_user(log, event, EVENTS_PER_USER))
    event, start, stop = event[last], start[last], stop[last]
    histories = Histories.from_ranges(start, stop)
    return RankingCases(
        user=log.user[event].astype(np.int64),
        time=_asked_at(log, fold, stop),
        histories=histories,
        target=log.item[event].astype(np.int64),
        event=event,
    )


def overall_cases(log: InterestLog, fold: Fold, users: np.ndarray | None = None) -> OverallCases:
    """Events of the split whose label or value is known, up to ten per user, each with everything strictly before it; asked
    when [`ranking_cases`] are."""
    label = overall_labels(log)
    value = np.full(log.num_events, np.nan, dtype=np.float32) if log.value is None else log.value
    event = np.flatnonzero(fold.asked & (log.item >= 0) & (np.isfinite(label) | np.isfinite(value)))
    if users is not None:
        event = event[users[log.user[event]]]
    start, stop = _earlier(log, event, fold.by_time)
    event, start, stop = event[stop > start], start[stop > start], stop[stop > start]
    last = np.isin(event, _last_per_user(log, event, 2 * EVENTS_PER_USER))
    event, start, stop = event[last], start[last], stop[last]
    return OverallCases(
        user=log.user[event].astype(np.int64),
        time=_asked_at(log, fold, stop),
        histories=Histories.from_ranges(start, stop),
        item=log.item[event].astype(np.int64),
        label=label[event],
        value=value[event],
        event=event,
    )


def _cuts(
    log: InterestLog, fold: Fold, users: np.ndarray | None, min_history: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Users, times and history ranges of one cut per user: the split's first moment, or the asked event."""
    if fold.by_time:
        user = np.arange(log.num_users)
        time = np.full(log.num_users, fold.time, dtype=np.int64)
        start, stop = history_range(log, user, time)
    else:
        stop = np.flatnonzero(fold.asked)
        user = log.user[stop].astype(np.int64)
        start = log.offsets[user]
        time = log.timestamp[np.maximum(stop - 1, 0)]
    keep = stop - start >= min_history
    if users is not None:
        keep &= users[user]
    return user[keep], time[keep], start[keep], stop[keep]


def forecast_cases(
    log: InterestLog,
    fold: Fold,
    horizons: Sequence[float],
    unit: str,
    reference_horizon: float,
    users: np.ndarray | None = None,
) -> ForecastCases:
    """`global-time`: everybody with five events before the split's first moment, at that moment. `leave-last`: before each
    asked event, which is the only window (one event).

    Users in none of whose windows anything is observed are left out.
    """
    user, time, start, stop = _cuts(log, fold, users, MIN_HISTORY if fold.by_time else 1)
    histories = Histories.from_ranges(start, stop)
    history_counts = histories.count_nodes(log)
    if not fold.by_time:
        counts = np.asarray(log.item_nodes[log.item[stop]].todense(), dtype=np.float32)
        counts[log.item[stop] < 0] = 0.0
        total = np.ones(len(user), dtype=np.float32)
        seen = np.ones(len(user), dtype=bool)
        return ForecastCases(
            user, time, histories, (1.0,), "events", history_counts, counts[:, None], total[:, None], seen[:, None], 1.0,
            counts, seen, None, None,
        )  # fmt: skip
    windows = [*horizons] if reference_horizon in horizons else [*horizons, reference_horizon]
    # A user's window may reach to the fold's limit: whole events up to it, whole days up to it.
    last_event = history_range(log, np.arange(log.num_users), np.full(log.num_users, fold.limit))[1]
    future = future_counts(log, user, time, windows, unit, last_event, fold.limit)
    reference = windows.index(reference_horizon)
    population = PopulationTable.build(log, fold.known).shares(time)[:, 0]
    labelled = (history_counts, future.counts[:, reference], log.tree)
    rate, gate = change_rate(*labelled, population=population, population_strength=LONG_RUN_STRENGTH)
    cases = ForecastCases(
        user=user,
        time=time,
        histories=histories,
        horizons=tuple(horizons),
        unit=unit,
        history_counts=history_counts,
        counts=future.counts[:, : len(horizons)],
        totals=future.totals[:, : len(horizons)],
        mask=future.mask[:, : len(horizons)],
        reference_horizon=reference_horizon,
        reference_counts=future.counts[:, reference],
        reference_mask=future.mask[:, reference],
        rate=rate,
        gate=gate & future.mask[:, reference, None],
        interest=node_shares(history_counts, log.tree, population, LONG_RUN_STRENGTH),
    )
    return take(cases, np.flatnonzero(future.mask.any(1)))


def next_event_cases(log: InterestLog, fold: Fold, users: np.ndarray | None = None) -> NextEventCases:
    """Events of the split with a domain and a history, asked at their own time: the last twenty of each user, each with everything
    strictly before it: things of one moment do not know each other."""
    item = np.maximum(log.item, 0)
    event = np.flatnonzero(fold.asked & (log.item >= 0) & (np.diff(log.item_nodes.indptr)[item] > 0))
    if users is not None:
        event = event[users[log.user[event]]]
    start, stop = _earlier(log, event, True)
    event, start, stop = event[stop > start], start[stop > start], stop[stop > start]
    last = np.isin(event, _last_per_user(log, event, NEXT_EVENTS_PER_USER))
    length = max(float((stop - start)[last].mean()), 1.0) if last.any() else 1.0
    most = max(200, min(NEXT_EVENT_VALUES // max(len(log.tree), 1), int(NEXT_EVENT_HISTORY / length)))
    if last.sum() > most:
        last[np.random.default_rng(0).permutation(np.flatnonzero(last))[most:]] = False
    event, histories = event[last], Histories.from_ranges(start[last], stop[last])
    counts = np.asarray(log.item_nodes[log.item[event]].todense(), dtype=np.float32)
    seen = np.ones((len(event), 1), dtype=bool)
    return NextEventCases(
        user=log.user[event].astype(np.int64),
        time=log.timestamp[event],
        histories=histories,
        horizons=(1.0,),
        unit="events",
        history_counts=histories.count_nodes(log),
        counts=counts[:, None],
        totals=seen.astype(np.float32),
        mask=seen,
        reference_horizon=1.0,
        reference_counts=counts,
        reference_mask=seen[:, 0],
        rate=None,
        gate=None,
        event=event,
    )


def scene_cases(log: InterestLog, fold: Fold, users: np.ndarray | None = None) -> SceneCases:
    """[`next_event_cases`] whose events carry a scene, at the time of the last event before."""
    cases = next_event_cases(log, fold, users)
    cases = take(cases, np.flatnonzero(log.scene[cases.event] >= 0))
    last = cases.histories.index[cases.histories.offsets[1:] - 1]
    fields = vars(cases) | {"time": log.timestamp[last], "scene": log.scene[cases.event].astype(np.int64)}
    return SceneCases(**fields)


def completion_cases(log: InterestLog, fold: Fold, users: np.ndarray | None = None, seed: int = 0) -> CompletionCases:
    """A random half of everybody's history at the split's first moment (before the asked event for `leave-last`) is hidden;
    which half depends on the seed and the event alone."""
    user, time, start, stop = _cuts(log, fold, users, MIN_COMPLETION)
    full = Histories.from_ranges(start, stop)
    key = np.random.default_rng(seed).random(log.num_events)[full.index]
    rows = full.rows
    place = np.empty(len(key), dtype=np.int64)
    place[np.lexsort((key, rows))] = np.arange(len(key)) - full.offsets[rows]
    hidden = place < (full.lengths // 2)[rows]

    def part(chosen: np.ndarray) -> Histories:
        length = np.bincount(rows[chosen], minlength=len(full))
        return Histories(full.index[chosen], np.concatenate([[0], np.cumsum(length)]).astype(np.int64))

    visible, held = part(~hidden), part(hidden)
    hidden_counts = held.count_nodes(log)
    cases = CompletionCases(user, time, visible, visible.count_nodes(log), hidden_counts)
    return take(cases, np.flatnonzero(hidden_counts.sum(1) > 0))


def tuning_forecasts(
    log: InterestLog,
    asked: Fold,
    tuning: Fold,
    horizons: Sequence[float],
    unit: str,
    reference_horizon: float,
    users: np.ndarray | None = None,
) -> ForecastCases:
    """Forecast cases of the tuning round and, where they are few, of up to five earlier cuts (`global-time`).

    Long windows in events leave few users at any one cut. Cuts go back by the length of the tuning period; all windows end
    before `asked`.
    """
    parts = [forecast_cases(log, tuning, horizons, unit, reference_horizon, users)]
    if not tuning.by_time or asked.time is None or tuning.time is None:
        return parts[0]
    step = max(asked.time - tuning.time, 1)
    first = int(log.timestamp.min())
    for back in range(1, EARLIER_CUTS + 1):
        time = tuning.time - back * step
        if sum(len(part.user) for part in parts) >= ENOUGH_CASES or time <= first:
            break
        part = forecast_cases(log, cut_fold(log, asked, time), horizons, unit, reference_horizon, users)
        if len(part.user):
            parts.append(part)
    return concatenate(parts)

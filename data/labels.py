"""Labels at a cut time: long-run interest, future windows, change rates and overall interest, for many cuts at once.

A cut is a user and a time `t`. Its history is every event of the user strictly before `t`, its window starts at `t`,
so that no event is in both and nothing after the window can change a label. All functions take arrays of cuts and work
on the whole log at once; counts come from sparse products with `InterestLog.item_nodes`, a chunk of events at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sp

from .population import PopularityTable, PopulationTable


if TYPE_CHECKING:
    from ..taxonomy_interest import DomainTree
    from .log import InterestLog


__all__ = [
    "LABEL_VERSION",
    "SECONDS_PER_DAY",
    "FutureCounts",
    "PopularityTable",
    "PopulationTable",
    "change_rate",
    "count_nodes",
    "count_nodes_ragged",
    "future_counts",
    "future_from_rate",
    "history_range",
    "node_shares",
    "overall_labels",
    "training_limit",
]

LABEL_VERSION = 1  # part of every cache fingerprint: raise it when a definition below changes
SECONDS_PER_DAY = 86_400
_CHUNK_EVENTS = 4_000_000  # events expanded at once: about 100 MiB of indices and counts


@dataclass(frozen=True)
class FutureCounts:
    """What happened in the windows after Q cuts, at H horizons.

    Attributes:
        counts (`np.ndarray` of shape `(Q, H, K)`): float32 events per node; an item in several domains counts by its
            shares, siblings sum to their parent. Events without an item are in no node.
        totals (`np.ndarray` of shape `(Q, H)`): float32 events in the window, with or without an item (intensity),
            zero included.
        mask (`np.ndarray` of shape `(Q, H)`): False where the window is not fully observed or crosses a limit; its
            counts are zero there.
    """

    counts: np.ndarray
    totals: np.ndarray
    mask: np.ndarray


def history_range(log: InterestLog, user: np.ndarray, time: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Event index ranges `[start, stop)` of the histories of Q cuts: the user's events strictly before the time.

    Args:
        log (`InterestLog`): events sorted by user, then time.
        user (`np.ndarray` of shape `(Q,)`): user indices.
        time (`np.ndarray` of shape `(Q,)`): cut times in the log's unit (seconds, or positions).

    Returns:
        `start`, `stop`: int64 of shape `(Q,)`. The window that follows a cut starts at `stop`.

    Raises:
        ValueError: a user index outside the log.
    """
    user = np.asarray(user, dtype=np.int64)
    time = np.broadcast_to(np.asarray(time, dtype=np.int64), user.shape)
    num_users = len(log.offsets) - 1
    if user.size and (user.min() < 0 or user.max() >= num_users):
        bad = user[(user < 0) | (user >= num_users)][0]
        raise ValueError(f"cut: user index {bad} is not in the log, expected 0 to {num_users - 1}")
    offsets = np.asarray(log.offsets, dtype=np.int64)
    start = offsets[user]
    low, high = start.copy(), offsets[user + 1].copy()
    # Bisection of all cuts at once: no key array over the events, so a handful of cuts costs microseconds.
    while True:
        active = np.flatnonzero(low < high)
        if not active.size:
            return start, low
        middle = (low[active] + high[active]) // 2
        earlier = log.timestamp[middle] < time[active]
        low[active[earlier]] = middle[earlier] + 1
        high[active[~earlier]] = middle[~earlier]


def count_nodes(log: InterestLog, start: np.ndarray, stop: np.ndarray) -> np.ndarray:
    """Counts per node over Q event index ranges `[start, stop)`: float32 of shape `(Q, K)`.

    An empty or reversed range counts nothing. The memory beside the result is bounded whatever the ranges are.
    """
    start = np.asarray(start, dtype=np.int64)
    length = np.maximum(np.asarray(stop, dtype=np.int64) - start, 0)
    counts = np.zeros((len(start), log.item_nodes.shape[1]), dtype=np.float32)
    for first, last in _chunks(length):
        offsets = np.concatenate([[0], np.cumsum(length[first:last])])
        index = np.repeat(start[first:last] - offsets[:-1], length[first:last]) + np.arange(offsets[-1])
        counts[first:last] = _sum_nodes(log, index, offsets, None)
    return counts


def count_nodes_ragged(
    log: InterestLog, index: np.ndarray, offsets: np.ndarray, weights: np.ndarray | None = None
) -> np.ndarray:
    """Counts per node over Q lists of event indices: float32 of shape `(Q, K)`.

    Args:
        log (`InterestLog`): the log.
        index (`np.ndarray` of shape `(N,)`): event indices, list after list.
        offsets (`np.ndarray` of shape `(Q + 1,)`): list `q` is `index[offsets[q]:offsets[q + 1]]`.
        weights (`np.ndarray` of shape `(N,)`, *optional*): weight of each entry (1 if not given), for decayed counts.
    """
    index, offsets = np.asarray(index, dtype=np.int64), np.asarray(offsets, dtype=np.int64)
    counts = np.zeros((len(offsets) - 1, log.item_nodes.shape[1]), dtype=np.float32)
    for first, last in _chunks(np.diff(offsets)):
        part = slice(offsets[first], offsets[last])
        weight = None if weights is None else np.asarray(weights)[part]
        counts[first:last] = _sum_nodes(log, index[part], offsets[first : last + 1] - offsets[first], weight)
    return counts


def _chunks(length: np.ndarray) -> list[tuple[int, int]]:
    """Row ranges that hold at most `_CHUNK_EVENTS` events each (one row at least) and that cover all rows."""
    total = np.cumsum(length)
    ranges, first = [], 0
    while first < len(length):
        before = total[first - 1] if first else 0
        last = max(int(np.searchsorted(total, before + _CHUNK_EVENTS, side="right")), first + 1)
        ranges.append((first, last))
        first = last
    return ranges


def _sum_nodes(log: InterestLog, index: np.ndarray, offsets: np.ndarray, weights: np.ndarray | None) -> np.ndarray:
    item = log.item[index]
    weight = np.ones(len(index), dtype=np.float32) if weights is None else weights.astype(np.float32)
    if (item < 0).any():
        weight = np.where(item < 0, np.float32(0), weight)
        item = np.maximum(item, 0)
    events = sp.csr_matrix((weight, item.astype(np.int64), offsets), shape=(len(offsets) - 1, log.item_nodes.shape[0]))
    return (events @ log.item_nodes).toarray().astype(np.float32, copy=False)


COARSE_SECONDS = 6 * 3600


def dates(timestamp: np.ndarray) -> np.ndarray | None:
    """The distinct times of a log that is dated by day, month or the like, ascending; `None` for one that knows the hour.

    A log is dated where the median pause between distinct times (of everybody together) is six hours or more. All events of such
    a date stand on one moment, so a window says the same only if it starts at one of them.

    Args:
        timestamp (`np.ndarray` of shape `(E,)`): int64 seconds.
    """
    times = np.unique(timestamp)
    return times if len(times) > 1 and np.median(np.diff(times)) >= COARSE_SECONDS else None


def moments(log: InterestLog) -> tuple[np.ndarray, np.ndarray]:
    """Event index ranges `[start, stop)`, int64 `(E,)` each, of what a person did at the time of every event.

    Under `global-time` a question knows what is strictly before it: of an invoice, or of a date where the log has no hours, nothing is known
    of the rest.
    """
    number = np.arange(log.num_events, dtype=np.int64)
    new = np.ones(log.num_events, dtype=bool)
    new[1:] = (np.diff(log.user) != 0) | (np.diff(log.timestamp) != 0)
    start = np.maximum.accumulate(np.where(new, number, 0)) if len(number) else number
    ends = np.append(number[new][1:], log.num_events)
    return start, ends[new.cumsum() - 1] if len(number) else number


def training_limit(log: InterestLog, split: int = 0) -> tuple[np.ndarray, int | None]:
    """How far windows may reach when only the events of a split and those before it may be used.

    Args:
        log (`InterestLog`): the log.
        split (`int`, defaults to 0): 0 training, 1 validation, 2 test.

    Returns:
        `last_event` int64 of shape `(U,)`: exclusive stop of each user's event indices that may be seen.
        `limit_time`: the moment no window may cross (`global-time`), or `None` (`leave-last`).
    """
    last_event = np.array(log.offsets[1:], dtype=np.int64)
    later = np.flatnonzero(np.asarray(log.split) > split)
    users, first = np.unique(log.user[later], return_index=True)
    last_event[users] = later[first]
    if log.facts["split"] != "global-time":
        return last_event, None
    limit_time = log.facts[{0: "validation_start", 1: "test_start", 2: "end"}[int(split)]]
    return last_event, None if limit_time is None else int(limit_time)


def future_counts(
    log: InterestLog,
    user: np.ndarray,
    time: np.ndarray,
    horizons: Sequence[float],
    unit: str,
    last_event: np.ndarray | None = None,
    limit_time: int | None = None,
) -> FutureCounts:
    """Future interest and intensity: raw counts per node in the windows after Q cuts.

    Args:
        log (`InterestLog`): the log.
        user, time (`np.ndarray` of shape `(Q,)`): the cuts.
        horizons (`Sequence[float]`): H window lengths: `[t, t + h)` in days, or the next `h` events.
        unit (`str`): `"days"` or `"events"`.
        last_event (`np.ndarray` of shape `(U,)`, *optional*): exclusive stop of each user's usable events, from
            [`training_limit`]. A window that holds a later event is masked.
        limit_time (`int`, *optional*): a window in days that ends after this moment is masked; the end of the log if
            not given. The end of the log always limits: what lies behind it was not observed.

    Raises:
        ValueError: an unknown unit, a horizon that is not positive (or not whole, for events), or days on a log that
            has only positions.
    """
    user, time = np.asarray(user, dtype=np.int64), np.asarray(time, dtype=np.int64)
    if unit not in ("days", "events"):
        raise ValueError(f"horizon unit is {unit!r}, expected 'days' or 'events'")
    for horizon in horizons:
        if not horizon > 0 or (unit == "events" and horizon != int(horizon)):
            whole = "whole " if unit == "events" else ""
            raise ValueError(f"horizon is {horizon!r}, expected a positive {whole}number of {unit}")
    if unit == "days" and log.facts.get("time") == "order":
        raise ValueError("horizon unit is 'days', but the log has only positions, expected 'events'")
    _, start = history_range(log, user, time)
    usable = np.asarray(log.offsets[1:] if last_event is None else last_event, dtype=np.int64)[user]
    end = int(log.facts["end"]) if limit_time is None else min(int(limit_time), int(log.facts["end"]))
    counts = np.zeros((len(user), len(horizons), log.item_nodes.shape[1]), dtype=np.float32)
    totals = np.zeros((len(user), len(horizons)), dtype=np.float32)
    mask = np.zeros((len(user), len(horizons)), dtype=bool)
    done, reached = np.zeros_like(counts[:, 0]), start
    for column in np.argsort(horizons):
        if unit == "days":
            until = time + round(horizons[column] * SECONDS_PER_DAY)
            stop = history_range(log, user, until)[1]
            mask[:, column] = (until <= end) & (stop <= usable)
        else:
            stop = start + int(horizons[column])
            mask[:, column] = stop <= usable
        stop = np.where(mask[:, column], stop, reached)
        done = done + count_nodes(log, reached, stop)
        reached = stop
        counts[:, column] = done * mask[:, column, None]
        totals[:, column] = (stop - start) * mask[:, column]
    return FutureCounts(counts, totals, mask)


def node_shares(
    counts: np.ndarray, tree: DomainTree, prior: np.ndarray | float = 0.0, strength: float = 0.0
) -> np.ndarray:
    """Absolute shares `(..., K)` of counts `(..., K)`: top nodes sum to 1, siblings to their parent.

    `(n_d + strength * prior_d) / (N + strength)` with `N` the events counted at the top: the posterior mean under a
    Dirichlet around `prior` (shares of shape `(K,)` or `(..., K)`). Zero where there is neither an event nor a prior.
    """
    counts = np.asarray(counts)
    counts = counts if np.issubdtype(counts.dtype, np.floating) else counts.astype(np.float64)
    total = counts[..., tree.depth == 0].sum(-1, keepdims=True) + strength
    pulled = counts + np.asarray(strength * np.asarray(prior), dtype=counts.dtype)
    return pulled / np.where(total > 0, total, 1.0).astype(counts.dtype)


def change_rate(
    history_counts: np.ndarray,
    future_counts: np.ndarray,
    tree: DomainTree,
    strength: float = 7.0,
    min_share: float = 0.05,
    min_evidence: float = 5.0,
    population: np.ndarray | None = None,
    population_strength: float = 5.0,
) -> tuple[np.ndarray, np.ndarray]:
    """The signed change rate of each node against the long run, `r_d = (f_d - p_d) / (f_d + p_d)`, and its gate.

    `p` is the undecayed share of the history, pulled towards the population where one is given; `f` is the share of
    the window, shrunk towards `p`, so that a window without evidence says "steady" (0).

    Args:
        history_counts (`np.ndarray` of shape `(Q, K)`): counts strictly before the cut.
        future_counts (`np.ndarray` of shape `(Q, K)`): counts of the window of the reference horizon.
        tree (`DomainTree`): the K nodes.
        strength (`float`, defaults to 7): events that the pull of `f` towards `p` is worth; usually 5 to 10.
        min_share (`float`, defaults to 0.05): domains with a smaller `p` are not judged.
        min_evidence (`float`, defaults to 5): events needed in the history and in the window.
        population (`np.ndarray` of shape `(K,)` or `(Q, K)`, *optional*): shares that `p` is pulled towards.
        population_strength (`float`, defaults to 5): events that this pull is worth.

    Returns:
        `rate` float32 `(Q, K)` in (-1, 1), 0 where `p` is 0; `gate` bool `(Q, K)`. Where `p > 0`,
        `f = p (1 + r) / (1 - r)` ([`future_from_rate`]).
    """
    pull = 0.0 if population is None else population_strength
    interest = node_shares(history_counts, tree, 0.0 if population is None else population, pull)
    future = node_shares(future_counts, tree, interest, strength)
    rate = (future - interest) / np.where(interest > 0, future + interest, np.inf)
    top = tree.depth == 0
    evidence = np.minimum(np.asarray(history_counts)[..., top].sum(-1), np.asarray(future_counts)[..., top].sum(-1))
    gate = (interest >= min_share) & (evidence >= min_evidence)[..., None]
    return rate.astype(np.float32), gate


def future_from_rate(interest: np.ndarray, rate: np.ndarray) -> np.ndarray:
    """The future share that an interest and its change rate mean: `f = p (1 + r) / (1 - r)`, for `r` in (-1, 1)."""
    return interest * (1.0 + rate) / (1.0 - rate)


def overall_labels(log: InterestLog) -> np.ndarray:
    """Overall interest of every event: float32 of shape `(E,)`, 1 positive, 0 negative, NaN unknown.

    With `facts["value_threshold"]` a value at or above it is positive. Otherwise a value is positive when it is above
    the mean of the user's values at strictly earlier timestamps, and unknown where there is none.
    """
    if log.value is None:
        return np.full(len(log.user), np.nan, dtype=np.float32)
    value = np.asarray(log.value, dtype=np.float64)
    known = ~np.isnan(value)
    threshold = log.facts.get("value_threshold")
    if threshold is not None:
        return np.where(known, value >= threshold, np.nan).astype(np.float32)
    if not len(value):
        return value.astype(np.float32)
    total = np.concatenate([[0.0], np.cumsum(np.where(known, value, 0.0))])
    count = np.concatenate([[0], np.cumsum(known)])
    new = np.concatenate([[True], (log.user[1:] != log.user[:-1]) | (log.timestamp[1:] != log.timestamp[:-1])])
    moment = np.flatnonzero(new)[np.cumsum(new) - 1]  # first event of the same user and timestamp
    first = np.asarray(log.offsets, dtype=np.int64)[log.user]
    seen = count[moment] - count[first]
    mean = (total[moment] - total[first]) / np.maximum(seen, 1)
    above = value > mean + 1e-9 * (1.0 + np.abs(mean))  # running sums round: a constant rater is never above the mean
    return np.where(known & (seen > 0), above, np.nan).astype(np.float32)

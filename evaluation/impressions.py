"""Impressions as questions of overall interest: which were known, which are asked, what each person was shown."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..data.labels import history_range
from ..data.log import SPLITS, TRAIN
from .cases import Histories, OverallCases
from .folds import Fold


if TYPE_CHECKING:
    from ..data.impressions import Impressions
    from ..data.log import InterestLog


IMPRESSIONS_PER_USER = 10  # the last ones of one user in one split, as many as rated events


def impression_masks(log: InterestLog, fold: Fold) -> tuple[np.ndarray, np.ndarray]:
    """Which impressions are asked, and which are known, both bool `(N,)`.

    `global-time`: those within the fold's time, and those before it. `leave-last`: those of the fold's split from a user's first
    to her last asked event, and those before it (all training ones of users who are not asked).
    """
    shown = _impressions(log)
    if fold.by_time:
        known = shown.timestamp < fold.time
        return ~known & (shown.timestamp < fold.limit), known
    largest = np.iinfo(np.int64).max
    first, last = np.full(log.num_users, largest), np.full(log.num_users, -1)
    event = np.flatnonzero(fold.asked)
    np.minimum.at(first, log.user[event], log.timestamp[event])
    np.maximum.at(last, log.user[event], log.timestamp[event])
    known = (shown.timestamp < first[shown.user]) & ((first[shown.user] < largest) | (shown.split == 0))
    asked = (shown.timestamp >= first[shown.user]) & (shown.timestamp <= last[shown.user])
    return asked & (shown.split == (SPLITS.index(fold.name) if fold.name in SPLITS else TRAIN)), known


def impression_cases(log: InterestLog, fold: Fold, users: np.ndarray | None = None) -> OverallCases:
    """The last ten impressions of each user in the split, at their own time, with everything strictly before it; people without
    any history are asked too.

    Args:
        users (`np.ndarray` of shape `(U,)`, *optional*): bool, who is asked about.
    """
    shown = _impressions(log)
    asked = impression_masks(log, fold)[0] & (shown.sizes > 0)
    if users is not None:
        asked &= users[shown.user]
    number = np.flatnonzero(asked)
    stop = np.searchsorted(shown.user[number], shown.user[number], side="right")
    number = number[stop - np.arange(len(number)) <= IMPRESSIONS_PER_USER]
    user, time = shown.user[number].astype(np.int64), shown.timestamp[number]
    item, label = shown.padded(number)
    return OverallCases(
        user=user,
        time=time,
        histories=Histories.from_ranges(*history_range(log, user, time)),
        item=item,
        label=label,
        value=np.full(item.shape, np.nan, dtype=np.float32),
        event=np.full(len(user), -1, dtype=np.int64),
    )


def shown_before(log: InterestLog, user: np.ndarray, time: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Items clicked and items shown to users `(Q,)` in impressions strictly before times `(Q,)`, both `(Q,)`."""
    shown = _impressions(log)
    start, stop = history_range(shown, user, time)  # type: ignore[arg-type]  # sorted by user and time like a log
    clicks = np.concatenate([[0], np.cumsum(shown.clicks)])
    return clicks[stop] - clicks[start], shown.starts[stop] - shown.starts[start]


def _impressions(log: InterestLog) -> Impressions:
    if log.impressions is None:
        raise ValueError(f"{log.name}: the log has no impressions")
    return log.impressions

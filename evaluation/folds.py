"""What is asked and what may be known: the events behind every question of an evaluation, and those before it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..data.log import SPLITS, TEST, VALIDATION


if TYPE_CHECKING:
    from ..data.log import InterestLog


@dataclass(frozen=True)
class Fold:
    """One round of questions.

    Attributes:
        name (`str`): `"test"`, `"validation"`, or `"tuning"` for the round before.
        rule (`str`): `"global-time"` or `"leave-last"`.
        asked (`np.ndarray` of shape `(E,)`): bool, events that are targets.
        known (`np.ndarray` of shape `(E,)`): bool, events that tables and matrices may be fitted on: those before.
        time (`int`, *optional*): the moment that separates them (`global-time`).
        limit (`int`, *optional*): no window may end after it (`global-time`).
    """

    name: str
    rule: str
    asked: np.ndarray
    known: np.ndarray
    time: int | None
    limit: int | None

    @property
    def by_time(self) -> bool:
        return self.rule == "global-time"


def fold(log: InterestLog, split: str) -> Fold:
    """The questions of a split: `"validation"` or `"test"`.

    Raises:
        ValueError: an unknown split, or one without events.
    """
    if split not in SPLITS[1:]:
        raise ValueError(f"split is {split!r}, expected 'validation' or 'test'")
    code = SPLITS.index(split)
    asked = log.split == code
    if not asked.any():
        raise ValueError(f"{log.name}: no event in split {split!r}")
    if log.facts["split"] == "leave-last":
        return Fold(split, "leave-last", asked, log.split < code, None, None)
    time = log.facts["test_start" if code == TEST else "validation_start"]
    limit = log.facts["end"] if code == TEST else log.facts["test_start"]
    return Fold(split, "global-time", asked, log.split < code, int(time), int(limit))


def tuning_fold(log: InterestLog, split: str) -> Fold:
    """The round of questions before `split`, on which everything is tuned: validation for the test.

    For validation itself it is each user's event before the validation event (`leave-last`), or the last eighth of the
    training events (`global-time`).
    """
    if split == "test":
        return fold(log, "validation")
    target = fold(log, split)
    if not target.by_time:
        last = np.full(log.num_users, -1, dtype=np.int64)
        train = np.flatnonzero(log.split < VALIDATION)
        last[log.user[train]] = train
        user_has = np.zeros(log.num_users, dtype=bool)
        user_has[log.user[target.asked]] = True
        last = last[(last > log.offsets[:-1]) & user_has]
        asked = np.zeros(log.num_events, dtype=bool)
        asked[last] = True
        return Fold("tuning", target.rule, asked, (log.split < VALIDATION) & ~asked, None, None)
    times = np.sort(log.timestamp[target.known])
    if not len(times):
        raise ValueError(f"{log.name}: no training events")
    return cut_fold(log, target, int(times[len(times) * 7 // 8]))


def cut_fold(log: InterestLog, later: Fold, time: int) -> Fold:
    """A round that asks from `time` on about what was known to `later` (`global-time`)."""
    known = later.known & (log.timestamp < time)
    limit = later.time if later.time is not None else int(log.facts["end"])
    return Fold("tuning", later.rule, later.known & ~known, known, int(time), limit)


def window_fold(log: InterestLog, asked: Fold, tuning: Fold, longest_days: float) -> Fold:
    """`tuning`, moved back where a window of `longest_days` would not fit between it and `asked`.

    Everything before `asked.time` may be used for tuning, so that a short validation period does not leave long
    horizons without a label.
    """
    if not asked.by_time or asked.time is None or tuning.time is None:
        return tuning
    latest = asked.time - int(np.ceil(longest_days * 86_400))
    return tuning if tuning.time <= latest else cut_fold(log, asked, latest)

"""Which events train, which validate, which test."""

from __future__ import annotations

import numpy as np


def global_time_split(
    timestamp: np.ndarray,
    validation_fraction: float = 0.1,
    test_fraction: float = 0.1,
    dated_from: int | None = None,
    test_start: int | None = None,
) -> tuple[np.ndarray, int, int]:
    """Everything before one moment trains, what follows validates, the end tests: what production is.

    The two moments are moved to the nearest boundary between distinct timestamps, so no timestamp is on both sides.

    Args:
        timestamp (`np.ndarray` of shape `(E,)`, int64): seconds, any order.
        validation_fraction (`float`): share of the events that validate, usually .05 to .2.
        test_fraction (`float`): share of the events that test, usually .05 to .2.
        dated_from (`int`, *optional*): events before it have no time of their own: they train, and no share counts them.
        test_start (`int`, *optional*): where the source itself says when the test begins; validation is then the last
            `validation_fraction` of the events before it.

    Returns:
        `(E,)` int8 (0 train, 1 validation, 2 test) and the first timestamps of validation and of test.

    Raises:
        ValueError: fractions that leave nothing to train on, or fewer than three distinct timestamps.
    """
    for name, fraction in (("validation_fraction", validation_fraction), ("test_fraction", test_fraction)):
        if not 0 < fraction < 1:
            raise ValueError(f"{name} is {fraction}, expected a share between 0 and 1")
    if validation_fraction + test_fraction >= 1:
        raise ValueError(f"validation and test take {validation_fraction + test_fraction:.2f} of the events: no train")
    distinct, first = np.unique(
        np.sort(timestamp if dated_from is None else timestamp[timestamp >= dated_from]), return_index=True
    )
    if len(distinct) < 3:
        raise ValueError(
            f"{len(distinct)} distinct timestamps: a global-time split needs three or more; use --split leave-last"
        )
    if test_start is None:
        counted = len(timestamp) if dated_from is None else int((timestamp >= dated_from).sum())
        targets = np.array([1 - validation_fraction - test_fraction, 1 - test_fraction]) * counted
        boundary = np.abs(first[1:-1] - targets[0]).argmin() + 1
        test_start = int(distinct[np.abs(first[boundary + 1 :] - targets[1]).argmin() + boundary + 1])
    else:
        before = int((distinct < test_start).sum())
        if not 2 <= before < len(distinct):
            raise ValueError(
                f"{before} distinct timestamps before the test and {len(distinct) - before} in it: a global-time split "
                "needs two or more before and one or more in it; use --split leave-last"
            )
        boundary = np.abs(first[1:before] - (1 - validation_fraction) * first[before]).argmin() + 1
    validation_start = int(distinct[boundary])
    split = (timestamp >= validation_start).astype(np.int8) + (timestamp >= test_start).astype(np.int8)
    return split, validation_start, test_start


def leave_last_split(user: np.ndarray, test_events: int = 1) -> np.ndarray:
    """Each user's last events test, the one before them validates, the rest trains; users with fewer than 3 only train.

    Args:
        user (`np.ndarray` of shape `(E,)`): user positions, sorted; within a user in order of time, ties in source
            order.
        test_events (`int`): events per user that test, each asked with all before it known (rolling); at most a third of
            what a user has, and 1 in published records.

    Returns:
        `(E,)` int8: 0 train, 1 validation, 2 test.

    Raises:
        ValueError: less than one test event.
    """
    if test_events < 1:
        raise ValueError(f"test_events is {test_events}, expected 1 or more")
    split = np.zeros(len(user), dtype=np.int8)
    if len(user) == 0:
        return split
    ends = np.flatnonzero(np.r_[user[1:] != user[:-1], True])
    counts = np.diff(np.r_[-1, ends])
    tested = np.repeat(np.minimum(test_events, counts // 3), counts)
    to_go = np.repeat(ends, counts) - np.arange(len(user))
    split[to_go < tested] = 2
    split[(to_go == tested) & (tested > 0)] = 1
    return split

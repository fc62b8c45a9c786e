"""Which events train, which validate, which test."""

from __future__ import annotations

import numpy as np


def global_time_split(
    timestamp: np.ndarray, validation_fraction: float = 0.1, test_fraction: float = 0.1
) -> tuple[np.ndarray, int, int]:
    """Everything before one moment trains, what follows validates, the end tests: what production is.

    The two moments are moved to the nearest boundary between distinct timestamps, so no timestamp is on both sides.

    Args:
        timestamp (`np.ndarray` of shape `(E,)`, int64): seconds, any order.
        validation_fraction (`float`): share of the events that validate, usually .05 to .2.
        test_fraction (`float`): share of the events that test, usually .05 to .2.

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
    distinct, first = np.unique(np.sort(timestamp), return_index=True)
    if len(distinct) < 3:
        raise ValueError(
            f"{len(distinct)} distinct timestamps: a global-time split needs three or more; use --split leave-last"
        )
    targets = np.array([1 - validation_fraction - test_fraction, 1 - test_fraction]) * len(timestamp)
    boundary = np.abs(first[1:-1] - targets[0]).argmin() + 1
    later = np.abs(first[boundary + 1 :] - targets[1]).argmin() + boundary + 1
    validation_start, test_start = int(distinct[boundary]), int(distinct[later])
    split = (timestamp >= validation_start).astype(np.int8) + (timestamp >= test_start).astype(np.int8)
    return split, validation_start, test_start


def leave_last_split(user: np.ndarray) -> np.ndarray:
    """Each user's last event tests, the one before validates, the rest trains; users with fewer than 3 only train.

    Args:
        user (`np.ndarray` of shape `(E,)`): user positions, sorted; within a user in order of time, ties in source
        order.

    Returns:
        `(E,)` int8: 0 train, 1 validation, 2 test.
    """
    split = np.zeros(len(user), dtype=np.int8)
    if len(user) == 0:
        return split
    ends = np.flatnonzero(np.r_[user[1:] != user[:-1], True])
    counts = np.diff(np.r_[-1, ends])
    ends = ends[counts >= 3]
    split[ends] = 2
    split[ends - 1] = 1
    return split

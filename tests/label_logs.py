"""Small random logs for the tests of labels and tables."""

from __future__ import annotations

import numpy as np
import pandas as pd

from interest_lm.data.log import InterestLog
from interest_lm.data.splits import global_time_split, leave_last_split


DAY = 86_400
CATEGORIES = [
    [["Film", "Crime"]],
    [["Film", "Comedy"]],
    [["Film", "Crime"], ["Music"]],  # half a crime film, half music
    [["Music"]],
    [["Sport", "Running"], ["Sport", "Cycling"], ["Music"]],
    [["Sport", "Cycling"]],
]


def random_frames(
    seed: int = 0, users: int = 9, events: int = 240, days: int = 100
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Events with ties in time, some without an item, and items in one, two or three domains."""
    rng = np.random.default_rng(seed)
    items = pd.DataFrame(
        {
            "item_id": [f"i{number}" for number in range(len(CATEGORIES))],
            "title": [f"title {number}" for number in range(len(CATEGORIES))],
            "text": "",
            "categories": CATEGORIES,
        }
    )
    chosen = items["item_id"].to_numpy(dtype=object)[rng.integers(len(items), size=events)]
    chosen[rng.random(events) < 0.05] = None
    frame = pd.DataFrame(
        {
            "user_id": [f"u{number}" for number in rng.integers(users, size=events)],
            "item_id": chosen,
            "timestamp": rng.integers(0, days * 8, size=events) * (DAY // 8),
            "value": rng.integers(1, 6, size=events).astype(float),
            "text": "own words",
        }
    )
    return frame, items


def make_log(frame: pd.DataFrame, items: pd.DataFrame, split: str = "global-time", **facts) -> InterestLog:
    """The log of some frames under a split rule."""
    frame = frame.sort_values(["user_id", "timestamp"], kind="stable").reset_index(drop=True)
    facts = {"split": split, **facts}
    if split == "global-time":
        code, facts["validation_start"], facts["test_start"] = global_time_split(frame["timestamp"].to_numpy())
    else:
        code = leave_last_split(pd.factorize(frame["user_id"])[0])
    frame["split"] = np.array(["train", "validation", "test"])[code]
    return InterestLog.from_frames(frame, items, facts=facts)


def random_log(seed: int = 0, split: str = "global-time", **settings) -> InterestLog:
    """[`make_log`] of [`random_frames`]."""
    return make_log(*random_frames(seed, **settings), split=split)

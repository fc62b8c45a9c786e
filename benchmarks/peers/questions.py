"""The events of an interest dataset and the questions of an evaluation, as arrays: what every peer reads."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd


SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Events:
    """All events, sorted by user and time; those that share both keep the order of the files.

    Attributes:
        item (`np.ndarray` of shape `(E,)`): codes into `item_ids`, -1 for an event without an item.
        time (`np.ndarray` of shape `(E,)`): int64 seconds, or positions.
        split (`np.ndarray` of shape `(E,)`): 0 train, 1 validation, 2 test.
        start, stop (`np.ndarray` of shape `(U,)`): user `u` owns events `start[u]:stop[u]`.
        users (`pd.Index`), item_ids (`pd.Index`): the data's own ids.
    """

    item: np.ndarray
    time: np.ndarray
    split: np.ndarray
    start: np.ndarray
    stop: np.ndarray
    users: pd.Index
    item_ids: pd.Index

    @classmethod
    def load(cls, folder: str | Path) -> Events:
        """Reads `events/{train,validation,test}-*.parquet`."""
        parts = []
        for number, split in enumerate(SPLITS):
            for file in sorted((Path(folder) / "events").glob(f"{split}-*.parquet")):
                columns = ["user_id", "item_id", "timestamp"]
                parts.append(pd.read_parquet(file, columns=columns).assign(split=number))
        if not parts:
            raise ValueError(f"{folder}: no events/*.parquet; expected the folder of an interest dataset")
        frame = pd.concat(parts, ignore_index=True)
        user, users = pd.factorize(frame["user_id"].astype(str))
        item, item_ids = pd.factorize(frame["item_id"])
        order = np.lexsort((frame["timestamp"].to_numpy(), user))
        stop = np.cumsum(np.bincount(user))
        return cls(
            item=item[order],
            time=frame["timestamp"].to_numpy()[order],
            split=frame["split"].to_numpy()[order],
            start=np.r_[0, stop[:-1]],
            stop=stop,
            users=pd.Index(users),
            item_ids=pd.Index(item_ids),
        )

    def windows(self, last_split: int, length: int) -> list[np.ndarray]:
        """The events of every user up to a split in runs of at most `length` that overlap by one, so that every event but a
        user's first is the next one of some run exactly once."""
        known = np.flatnonzero((self.split <= last_split) & (self.item >= 0))
        user = np.repeat(np.arange(len(self.start)), self.stop - self.start)[known]
        runs = []
        for own in np.split(known, np.flatnonzero(np.diff(user)) + 1):
            for stop in range(len(own), 1, 1 - length):
                runs.append(own[max(0, stop - length) : stop])
        return runs


@dataclass(frozen=True)
class Questions:
    """Which item comes after the first `history` events of a user.

    Attributes:
        frame (`pd.DataFrame`): `user_id`, `at`, `history`, one row per question.
        start, stop (`np.ndarray` of shape `(Q,)`): the events that may be used.
        target (`np.ndarray` of shape `(Q,)`): code of the item that came next. Of test questions nobody looks at it.
    """

    frame: pd.DataFrame
    start: np.ndarray
    stop: np.ndarray
    target: np.ndarray

    @classmethod
    def load(cls, file: str | Path, events: Events) -> Questions:
        """Reads the file that `interest_lm.evaluation.predictions.template` writes."""
        frame = pd.read_parquet(file)[["user_id", "at", "history"]]
        user = events.users.get_indexer(frame["user_id"].astype(str))
        start = events.start[user]
        stop = start + frame["history"].to_numpy()
        if (user < 0).any() or (stop >= events.stop[user]).any():
            raise ValueError(f"{file}: questions that are not of this data")
        return cls(frame, start, stop, events.item[stop])

    def __len__(self) -> int:
        return len(self.frame)

    def flat(self) -> tuple[np.ndarray, np.ndarray]:
        """`(N,)` question and `(N,)` event of every event that may be used."""
        length = self.stop - self.start
        row = np.repeat(np.arange(len(self)), length)
        return row, np.arange(length.sum()) - np.repeat(np.cumsum(length) - length, length) + self.start[row]

    def ndcg(self, lists: np.ndarray, filter_seen: bool, events: Events, top: int = 10) -> float:
        """NDCG@10 of `(Q, k)` lists; where seen items are left out, questions whose answer was seen before do not count."""
        found = lists[:, :top] == self.target[:, None]
        values = np.where(found.any(1), 1.0 / np.log2(found.argmax(1) + 2.0), 0.0)
        if filter_seen:
            row, event = self.flat()
            seen = np.zeros(len(self), dtype=bool)
            seen[row[events.item[event] == self.target[row]]] = True
            values = values[~seen]
        return float(values.mean())

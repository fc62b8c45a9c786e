"""What was shown to whom, and what of it was clicked: the observed negatives of overall interest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq


COLUMNS = ("impression_id", "user_id", "item_id", "timestamp", "clicked")
FOLDER = "impressions"


@dataclass(frozen=True)
class Impressions:
    """The impressions of a log as arrays, sorted by (user, timestamp). U users, N impressions, R shown items.

    Shown items that were not clicked are no events: they are in no statistics of domains and no target of ranking.

    Attributes:
        offsets (`np.ndarray` of shape `(U + 1,)`, int64): user `u` owns impressions `offsets[u]:offsets[u + 1]`.
        user (`np.ndarray` of shape `(N,)`, int32): user position.
        timestamp (`np.ndarray` of shape `(N,)`, int64): as that of the log's events.
        split (`np.ndarray` of shape `(N,)`, int8): 0 train, 1 validation, 2 test.
        starts (`np.ndarray` of shape `(N + 1,)`, int64): impression `n` shows `item[starts[n]:starts[n + 1]]`.
        item (`np.ndarray` of shape `(R,)`, int32): item position.
        clicked (`np.ndarray` of shape `(R,)`, bool).
    """

    offsets: np.ndarray
    user: np.ndarray
    timestamp: np.ndarray
    split: np.ndarray
    starts: np.ndarray
    item: np.ndarray
    clicked: np.ndarray

    def __len__(self) -> int:
        return len(self.user)

    @property
    def clicks(self) -> np.ndarray:
        """`(N,)` int64: clicked items of each impression."""
        return np.diff(np.concatenate([[0], np.cumsum(self.clicked)])[self.starts])

    @property
    def sizes(self) -> np.ndarray:
        """`(N,)` int64: shown items of each impression."""
        return np.diff(self.starts)

    def padded(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Shown items `(n, C)` int64, -1 = padding on the right, and 1 / 0 for clicked `(n, C)` float32, NaN = padding."""
        sizes = self.sizes[numbers]
        column = np.arange(max(1, sizes.max(initial=1)))
        filled = column < sizes[:, None]
        index = np.where(filled, self.starts[:-1][numbers][:, None] + column, 0)
        if not len(self.item):
            return np.full(filled.shape, -1, np.int64), np.full(filled.shape, np.nan, np.float32)
        item = np.where(filled, self.item[index], -1).astype(np.int64)
        return item, np.where(filled, self.clicked[index], np.nan).astype(np.float32)

    @classmethod
    def from_table(
        cls, table: pa.Table | pd.DataFrame, user_ids: np.ndarray, item_ids: np.ndarray, splits: Sequence[str]
    ) -> Impressions:
        """Impressions from one row per shown item.

        Args:
            table: `impression_id`, `user_id`, `item_id`, `timestamp`, `clicked` and, where not all train, `split`. Users
                without any event are not in the log, nor are their impressions.
            user_ids, item_ids: those of the log.
            splits: names of the splits.

        Raises:
            ValueError: a missing column, an unknown item, or an impression of two users or moments.
        """
        frame = table if isinstance(table, pd.DataFrame) else table.to_pandas(split_blocks=True)
        checked_columns(frame)
        user = _codes(frame["user_id"], user_ids)
        if (user < 0).any():
            frame, user = frame[user >= 0], user[user >= 0]
        item = _codes(frame["item_id"], item_ids)
        if (item < 0).any():
            row = int(np.argmax(item < 0))
            raise ValueError(f"impressions: item {frame['item_id'].iloc[row]!r} is not in the items table")
        split = np.zeros(len(frame), dtype=np.int8)
        if "split" in frame:
            split = _codes(frame["split"], np.array(splits)).astype(np.int8)
        timestamp = frame["timestamp"].to_numpy(dtype=np.int64)
        number = pd.factorize(frame["impression_id"])[0]
        order = np.lexsort((number, timestamp, user))
        user, item, timestamp, split, number = (array[order] for array in (user, item, timestamp, split, number))
        keys = np.stack([number, user, timestamp])
        first = np.flatnonzero(np.r_[True, (keys[:, 1:] != keys[:, :-1]).any(0)][: len(number)])
        if len(first) != (number.max(initial=-1) + 1):
            twice = np.flatnonzero(pd.Series(number[first]).duplicated())[0]
            shown = str(frame["impression_id"].iloc[order[first[twice]]])
            raise ValueError(f"impressions: `impression_id` {shown!r} has two users or times, expected one of each")
        owner = user[first]
        return cls(
            offsets=np.searchsorted(owner, np.arange(len(user_ids) + 1)).astype(np.int64),
            user=owner.astype(np.int32),
            timestamp=timestamp[first],
            split=split[first],
            starts=np.append(first, len(item)).astype(np.int64),
            item=item.astype(np.int32),
            clicked=frame["clicked"].to_numpy(dtype=bool)[order],
        )


def read_impressions(folder: Path, splits: Sequence[str]) -> pa.Table | None:
    """The rows of `folder/impressions/{split}-*.parquet` with their `split`; None where there are none.

    Raises:
        ValueError: a file that is not readable; the message names it.
    """
    tables = []
    for split in splits:
        for file in sorted((folder / FOLDER).glob(f"{split}-*.parquet")):
            try:
                table = pq.read_table(file, partitioning=None, read_dictionary=list(COLUMNS[:3]))
            except (pa.ArrowInvalid, OSError) as error:
                raise ValueError(f"{file}: not readable as Parquet ({str(error).splitlines()[0]})") from None
            names = pa.DictionaryArray.from_arrays(pa.array(np.zeros(len(table), np.int32)), pa.array([split]))
            tables.append(table.append_column("split", names))
    return pa.concat_tables(tables).unify_dictionaries() if tables else None


def checked_columns(frame: pd.DataFrame) -> None:
    """Raises a `ValueError` for a missing column, or a `clicked` that is neither 0 nor 1."""
    for name in COLUMNS:
        if name not in frame:
            raise ValueError(f"impressions: no column `{name}` (columns: {', '.join(map(str, frame.columns))})")
    wrong = ~frame["clicked"].isin([0, 1]).to_numpy()
    if wrong.any():
        row = int(np.argmax(wrong))
        raise ValueError(f"impressions: row {row}: `clicked` is {frame['clicked'].tolist()[row]!r}, expected 0 or 1")


def usable_impressions(
    impressions: pd.DataFrame, events: pd.DataFrame, items: pd.DataFrame, dropped: dict[str, int]
) -> pd.DataFrame:
    """The rows of known users and items, sorted by user (in the order of the events) and time; counts the others.

    Args:
        impressions (`pd.DataFrame`): `COLUMNS`, one row per shown item.
        events (`pd.DataFrame`): the events that are written, sorted.
    """
    checked_columns(impressions)
    frame = impressions[list(COLUMNS)].reset_index(drop=True)
    users = events["user_id"].drop_duplicates().to_numpy(dtype=object)
    user = _codes(frame["user_id"], users)
    known = _codes(frame["item_id"], items["item_id"].to_numpy(dtype=object)) >= 0
    for why, gone in (("shown items of users without events", user < 0),
                      ("shown items that the items table does not have", (user >= 0) & ~known)):  # fmt: skip
        if gone.any():
            dropped[why] = int(gone.sum())
    order = np.lexsort((pd.factorize(frame["impression_id"])[0], frame["timestamp"].to_numpy(), user))
    return frame.iloc[order[(user >= 0)[order] & known[order]]].reset_index(drop=True)


def impression_counts(frame: pd.DataFrame) -> dict[str, int]:
    """What the card says of usable impressions."""
    return {"impressions": int(frame["impression_id"].nunique()), "shown": len(frame),
            "clicked": int(frame["clicked"].sum())}  # fmt: skip


def impression_splits(
    frame: pd.DataFrame, events: pd.DataFrame, splits: np.ndarray, starts: tuple[int, int] | None
) -> np.ndarray:
    """`(R,)` int8: the split of each shown item.

    Args:
        events (`pd.DataFrame`), splits (`np.ndarray` of shape `(E,)`): the log's events and their splits.
        starts: first moments of validation and test (`global-time`). Without them (`leave-last`) an impression is of the
            split whose events its user has reached by then.
    """
    timestamp = frame["timestamp"].to_numpy()
    result = np.zeros(len(frame), dtype=np.int8)
    for code in (1, 2):
        if starts is not None:
            reached = timestamp >= starts[code - 1]
        else:
            first = events[splits == code].groupby("user_id")["timestamp"].min()
            user = _codes(frame["user_id"], first.index.to_numpy(dtype=object))
            reached = timestamp >= np.append(first.to_numpy(dtype=np.float64), np.inf)[user]
        result[reached] = code
    return result


def write_impressions(
    folder: Path, frame: pd.DataFrame, split: np.ndarray, names: Sequence[str], group: int
) -> list[str]:
    """Writes `folder/impressions/{split}-00000-of-00001.parquet`; the splits that have any."""
    (folder / FOLDER).mkdir()
    types = (pa.string(), pa.string(), pa.string(), pa.int64(), pa.int8())
    written = []
    for code, name in enumerate(names):
        part = frame[split == code]
        if len(part):
            arrays = [pa.array(part[column], from_pandas=True).cast(type_)
                      for column, type_ in zip(COLUMNS, types, strict=True)]  # fmt: skip
            path = folder / FOLDER / f"{name}-00000-of-00001.parquet"
            pq.write_table(pa.table(arrays, names=list(COLUMNS)), path, row_group_size=group)
            written.append(name)
    return written


def _codes(column: pd.Series, names: np.ndarray) -> np.ndarray:
    """`(R,)` int64 positions of the strings of a column in `names`, -1 = not there."""
    column = column.astype("category")
    positions = pd.Index(names.astype(object)).get_indexer(column.cat.categories.astype(str).astype(object))
    return np.append(positions, -1)[column.cat.codes.to_numpy()]

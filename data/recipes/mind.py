"""Recipe `mind`: news that were shown and clicked, in the layout of Microsoft's MIND."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from ..columns import ids, texts
from ..reading import RawLog, SourceTable, read_lines


NEWS = ("item_id", "category", "subcategory", "title", "abstract")  # url and entities follow and are not used
BEHAVIORS = ("impression_id", "user_id", "time", "history", "impressions")
TIME = "%m/%d/%Y %I:%M:%S %p"
LICENCE = "Microsoft Research License Terms; see the README of the source"


def read_mind(folders: Sequence[Path]) -> RawLog:
    """Reads folders with `news.tsv` and `behaviors.tsv`; of several folders, the last one tests (`global-time`).

    A click in an impression is an event at the impression's time. What was shown and not clicked is no event; it is kept
    with the clicks as impressions, the observed negatives of overall interest.

    The clicks of a history have no time of their own, only an order, and are older than the log. Those of a user's first
    impression stand right before the log's first impression, one second apart, in their order: they train, and no share
    of a split counts them. Later impressions of the user repeat that history; what only they list is dropped.

    Raises:
        ValueError: a missing file, a short line, a time or an impression of another form; the message names file and line.
    """
    folders = [Path(folder) for folder in folders]
    for folder in folders:
        if not folder.is_dir():
            raise ValueError(f"{folder}: expected a folder with news.tsv and behaviors.tsv"
                             + ("" if folder.exists() else " (none there)"))  # fmt: skip
    news = [_news(read_lines(folder / "news.tsv", "\t", NEWS)) for folder in folders]
    items = pd.concat(news, ignore_index=True).drop_duplicates("item_id", ignore_index=True)
    notes: list[str] = []
    logs, rows = [], []
    for number, folder in enumerate(folders):
        table = read_lines(folder / "behaviors.tsv", "\t", BEHAVIORS)
        log, shown = _behaviors(table)
        if len(folders) > 1:
            log["impression_id"] = f"{number + 1}-" + log["impression_id"]  # every folder counts from 1
        rows.append(shown.assign(log=shown["log"] + sum(map(len, logs))))
        logs.append(log.assign(folder=number))
        notes += table.notes
    log, shown = pd.concat(logs, ignore_index=True), pd.concat(rows, ignore_index=True)
    start = int(log["timestamp"].min())
    clicks = shown[shown["clicked"] == 1]
    clicks = pd.DataFrame({"user_id": log["user_id"].to_numpy()[clicks["log"]], "item_id": clicks["item_id"].to_numpy(),
                           "timestamp": log["timestamp"].to_numpy()[clicks["log"]]})  # fmt: skip
    dropped: dict[str, int] = {}
    older = _histories(log, clicks, start, dropped)
    notes += [
        f"{len(older):,} clicks of histories have no time: they stand right before the log's first impression, one second "
        f"apart, in the order of the source; {len(clicks):,} clicks have the time of their impression",
        "times have no zone and were read as if they were UTC",
    ]
    test_start = None
    if len(folders) > 1:
        test_start = int(log["timestamp"][log["folder"] == len(folders) - 1].min())
        if (log["timestamp"][log["folder"] < len(folders) - 1] >= test_start).any():
            test_start = None
            notes.append(f"{folders[-1].name} is not later than the other folders: it is not the test by itself")
    impressions = pd.DataFrame(
        {"impression_id": pd.Categorical.from_codes(shown["log"], log["impression_id"]),
         "user_id": log["user_id"].astype("category").iloc[shown["log"]].reset_index(drop=True),
         "item_id": shown["item_id"], "timestamp": log["timestamp"].to_numpy()[shown["log"]],
         "clicked": shown["clicked"]}
    )  # fmt: skip
    return RawLog(
        pd.concat([older, clicks.astype({"item_id": "str"})], ignore_index=True),
        items,
        source=", ".join(folder.resolve().name for folder in folders) + ": news.tsv, behaviors.tsv",
        licence=LICENCE,
        dropped=dropped,
        notes=notes,
        impressions=impressions,
        dated_from=start,
        test_start=test_start,
    )


def _news(table: SourceTable) -> pd.DataFrame:
    items = pd.DataFrame({"item_id": ids(table, "item_id"), "title": texts(table, "title"),
                          "text": texts(table, "abstract")})  # fmt: skip
    for bad, value, expected in ((items["item_id"] == "", "", "an id"),
                                 (items["item_id"].duplicated(), None, "an id that occurs once")):  # fmt: skip
        if bad.any():
            row = int(np.argmax(bad.to_numpy()))
            raise table.error(row, "item_id", items["item_id"].iloc[row] if value is None else value, expected)
    names = zip(texts(table, "category"), texts(table, "subcategory"), strict=True)
    paths = [[list(dict.fromkeys(name for name in pair if name))] if any(pair) else [] for pair in names]
    return items.assign(categories=pd.Series(paths, dtype=object))


def _behaviors(table: SourceTable) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Impressions (`impression_id, user_id, timestamp, history`), and what they showed (`log` row, `item_id, clicked`)."""
    if not len(table.frame):
        raise ValueError(f"{table.name}: no rows, expected impressions")
    log = pd.DataFrame({name: ids(table, name) for name in ("impression_id", "user_id")})
    for name in log:
        if (blank := (log[name] == "").to_numpy()).any():
            raise table.error(int(np.argmax(blank)), name, "", "an id")
    if (twice := log["impression_id"].duplicated().to_numpy()).any():
        row = int(np.argmax(twice))
        raise table.error(row, "impression_id", log["impression_id"].iloc[row], "an id that occurs once")
    moments = pd.to_datetime(table.frame["time"], format=TIME, errors="coerce")
    if (bad := moments.isna().to_numpy()).any():
        row = int(np.argmax(bad))
        raise table.error(row, "time", table.frame["time"].iloc[row], "a time such as 11/11/2019 9:05:58 AM")
    log["timestamp"] = moments.dt.as_unit("s").astype("int64").to_numpy()
    log["history"] = texts(table, "history")

    # Arrow's lists: millions of shown items would not fit as Python strings
    parts = pc.split_pattern_regex(pa.array(texts(table, "impressions"), pa.large_string()), r"\s+")
    row, cell = pc.list_parent_indices(parts).to_numpy(), pc.list_flatten(parts)
    good = pc.match_substring_regex(cell, r"^.+-[01]$").to_numpy(zero_copy_only=False)
    if not good.all():
        first = int(np.argmin(good))
        raise table.error(
            int(row[first]), "impressions", cell[first].as_py(), "NEWS-1 (clicked) or NEWS-0, with blanks"
        )
    clicked = pc.equal(pc.utf8_slice_codeunits(cell, -1), "1").to_numpy(zero_copy_only=False).astype(np.int8)
    news = pc.utf8_slice_codeunits(cell, 0, -2).dictionary_encode()
    item = pd.Categorical.from_codes(news.indices.to_numpy(), news.dictionary.to_pylist())
    return log, pd.DataFrame({"log": row, "item_id": pd.Series(item).astype("str"), "clicked": clicked})


def _histories(log: pd.DataFrame, clicks: pd.DataFrame, start: int, dropped: dict[str, int]) -> pd.DataFrame:
    """The clicks of each user's first history as events before `start`."""
    listed = log[log["history"] != ""].sort_values("timestamp", kind="stable").drop_duplicates(["user_id", "history"])
    first = listed["user_id"].map(log.groupby("user_id")["timestamp"].min()).eq(listed["timestamp"])
    first &= ~listed["user_id"].duplicated()
    own = listed[first][["user_id", "history"]]
    own = own.assign(item_id=own.pop("history").str.split()).explode("item_id", ignore_index=True)
    back = own.groupby("user_id").cumcount(ascending=False)
    events = own.assign(item_id=own["item_id"].astype("str"), timestamp=start - 1 - back)
    if len(events) and events["timestamp"].min() < 0:
        raise ValueError(f"behaviors.tsv: a history of {int(back.max()) + 1:,} clicks begins before 1970")
    later = listed[~first][["user_id", "history"]]
    later = later.assign(item_id=later.pop("history").str.split()).explode("item_id").drop_duplicates()
    known = pd.concat([events[["user_id", "item_id"]], clicks[["user_id", "item_id"]]]).drop_duplicates()
    unknown = later.astype({"item_id": "str"}).merge(known, how="left", indicator=True)["_merge"] == "left_only"
    if unknown.any():
        dropped["clicks that only histories of later impressions list (no time known)"] = int(unknown.sum())
    return events

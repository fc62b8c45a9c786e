"""Tables of events and items checked, and what cannot be used dropped and counted."""

from __future__ import annotations

import numpy as np
import pandas as pd

from .columns import category_paths, ids, numbers, texts, times, vector_columns
from .log import attribute_dict
from .reading import as_source


MERGE_SHARE = 0.2  # share of rows with the user, item and time of another one from which texts are merged


def checked_items(items: pd.DataFrame) -> pd.DataFrame:
    table = as_source(items, "items")
    if "item_id" not in table.frame:
        raise ValueError(f"items: no column `item_id` (columns: {', '.join(map(str, table.frame.columns))})")
    frame = pd.DataFrame({"item_id": ids(table, "item_id")})
    if not len(frame):
        raise ValueError("items: no rows, expected items")
    if (blank := (frame["item_id"] == "").to_numpy()).any():
        raise table.error(int(np.argmax(blank)), "item_id", "", "an id")
    if (twice := frame["item_id"].duplicated().to_numpy()).any():
        row = int(np.argmax(twice))
        raise table.error(row, "item_id", frame["item_id"].iloc[row], "an id that occurs once")
    for name in ("title", "text"):
        frame[name] = texts(table, name) if name in table.frame else ""
    frame["title"] = frame["title"].where((frame["title"] != "") | (frame["text"] != ""), frame["item_id"])
    categories = table.frame["categories"] if "categories" in table.frame else [()] * len(frame)
    frame["categories"] = pd.Series(category_paths(categories), dtype=object)
    if "created_at" in items:
        frame["created_at"] = pd.Series(items["created_at"].to_numpy(dtype=object, na_value=None)).astype("Int64")
    if "attributes" in table.frame:
        frame["attributes"] = pd.Series([attribute_dict(cell) for cell in items["attributes"]], dtype=object)
    for name in vector_columns(table):
        if name not in ("categories", "attributes"):
            frame[name] = table.frame[name]
    return frame


def checked_events(events: pd.DataFrame, time: str | None) -> tuple[pd.DataFrame, str, list[str]]:
    if not len(events):
        raise ValueError("events: no rows, expected events")
    table = as_source(events, "events")
    for name in ("user_id", "timestamp"):
        if name not in table.frame:
            raise ValueError(f"events: no column `{name}` (columns: {', '.join(map(str, table.frame.columns))})")
    if "item_id" not in table.frame and "text" not in table.frame:
        raise ValueError(f"events: no column `item_id` (columns: {', '.join(map(str, table.frame.columns))})")
    frame = pd.DataFrame({"user_id": ids(table, "user_id")})
    if (blank := (frame["user_id"] == "").to_numpy()).any():
        raise table.error(int(np.argmax(blank)), "user_id", "", "an id")
    frame["item_id"] = ids(table, "item_id") if "item_id" in table.frame else ""
    frame["timestamp"], notes = times(table, "timestamp", time)
    if "value" in table.frame:
        frame["value"] = numbers(table, "value", blank="action" in table.frame).astype(np.float32)
    for name in ("action", "text", "scene"):
        if name in table.frame and (found := texts(table, name)).ne("").any():
            frame[name] = found
    if "latitude" in table.frame and "longitude" in table.frame:
        for name in ("latitude", "longitude"):
            frame[name] = numbers(table, name, blank=True)
    nothing = (frame["item_id"] == "").to_numpy() & (frame["text"] == "" if "text" in frame else True)
    if nothing.any():
        raise table.error(int(np.argmax(nothing)), "item_id", "", "an item id, or a text beside it")
    if time != "order" and frame["timestamp"].max() < 10_000_000:
        last = int(frame["timestamp"].max())
        notes.append(f"times end at {last:,} s, early in 1970: if these are positions, use --time order")
    return frame, "order" if time == "order" else "seconds", notes


def drop_unknown_items(events: pd.DataFrame, items: pd.DataFrame, dropped: dict[str, int]) -> pd.DataFrame:
    known = events["item_id"].isin(items["item_id"]) | (events["item_id"] == "")
    unknown = int((~known).sum())
    if unknown > len(events) / 2:
        first = events["item_id"][~known].iloc[0]
        raise ValueError(
            f"{unknown:,} of {len(events):,} events are of items that the items table does not have, first {first!r} "
            f"(items have ids like {items['item_id'].iloc[0]!r})"
        )
    if unknown:
        dropped["of an item that the items table does not have"] = unknown
        events = events[known].reset_index(drop=True)
    return events


def merge_rows(
    events: pd.DataFrame, merge_texts: bool | None, drop_duplicates: bool, dropped: dict[str, int], notes: list[str]
) -> tuple[pd.DataFrame, int, int]:
    """Joins the texts of rows that are one event, counts (and drops) exact duplicates."""
    key = ["user_id", "item_id", "timestamp"]
    merged = 0
    if merge_texts is not False and "text" in events:
        same = events.duplicated(key).to_numpy() & (events["item_id"] != "").to_numpy()
        if same.any() and (merge_texts or ("value" not in events and same.mean() > MERGE_SHARE)):
            alone = events["item_id"] == ""
            number = events.groupby(key, sort=False).ngroup().to_numpy()
            number = np.where(alone, len(events) + np.arange(len(events)), number)
            wanted = events["text"].ne("")
            joined = (
                events["text"][wanted]
                .groupby(number[wanted.to_numpy()])
                .agg(lambda parts: ", ".join(dict.fromkeys(parts)))
            )
            events = events.assign(number=number)[~same]
            events["text"] = events["number"].map(joined).fillna("").astype("str")
            events = events.drop(columns="number").reset_index(drop=True)
            merged = int(same.sum())
            notes.append(
                f"{merged:,} rows had the user, item and time of another one and were merged into it, texts joined"
            )
    everything = [*key, *(["value"] if "value" in events else [])]
    duplicate = events.duplicated(everything).to_numpy() & (events["item_id"] != "").to_numpy()
    duplicates = int(duplicate.sum())
    if duplicates and drop_duplicates:
        dropped["exact duplicates (same user, item, time and value)"] = duplicates
        events = events[~duplicate].reset_index(drop=True)
    elif duplicates:
        notes.append(f"{duplicates:,} exact duplicates (same user, item, time and value) are kept")
    return events, merged, duplicates


def drop_short_users(events: pd.DataFrame, min_events: int, dropped: dict[str, int]) -> pd.DataFrame:
    codes = pd.factorize(events["user_id"])[0]
    counts = np.bincount(codes)
    keep = counts[codes] >= min_events
    if not keep.any():
        raise ValueError(f"no user has {min_events} events or more (the most is {counts.max()}): lower --min-events")
    if not keep.all():
        few = int((counts < min_events).sum())
        dropped[f"of {few:,} users with fewer than {min_events} events"] = int((~keep).sum())
        events = events[keep].reset_index(drop=True)
    return events


def sort_events(events: pd.DataFrame) -> tuple[pd.DataFrame, np.ndarray, int, np.ndarray]:
    """Events by (user, timestamp), stable; user codes; events that share both; whether the user had the item
    before."""
    codes = pd.factorize(events["user_id"])[0]
    order = np.lexsort((events["timestamp"].to_numpy(), codes))
    events, codes = events.iloc[order].reset_index(drop=True), codes[order]
    timestamp = events["timestamp"].to_numpy()
    same = (codes[1:] == codes[:-1]) & (timestamp[1:] == timestamp[:-1])
    ties = int((np.r_[same, False] | np.r_[False, same]).sum())
    items = pd.factorize(events["item_id"])[0]
    pairs = codes.astype(np.int64) * (items.max(initial=0) + 1) + items
    repeat = pd.Series(pairs).duplicated().to_numpy() & (events["item_id"] != "").to_numpy()
    return events, codes, ties, repeat


def apart(user: np.ndarray, timestamp: np.ndarray) -> bool:
    """Whether everybody's positions end before the next person's begin, as row numbers of a file that is sorted by user do: then
    they say nothing of what happened before what between people.

    Args:
        user, timestamp (`np.ndarray` of shape `(E,)`): events sorted by (user, timestamp).
    """
    first = np.flatnonzero(np.r_[True, user[1:] != user[:-1]]) if len(user) else np.zeros(0, np.int64)
    if len(first) < 2:
        return False
    start, end = timestamp[first], timestamp[np.r_[first[1:], len(user)] - 1]
    by_start = np.argsort(start, kind="stable")
    return bool((start[by_start][1:] > end[by_start][:-1]).all())


def places_in_history(user: np.ndarray, timestamp: np.ndarray) -> np.ndarray:
    """`(E,)` int64: 0, 1, 2, ... for each person's events, the same number where positions are the same."""
    new_user = np.r_[True, user[1:] != user[:-1]]
    step = np.cumsum(np.r_[False, timestamp[1:] != timestamp[:-1]] | new_user)
    return step - np.maximum.accumulate(np.where(new_user, step, 0))

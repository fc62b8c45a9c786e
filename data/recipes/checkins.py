"""Recipe `checkins`: visits to places with coordinates, and a two-level tree of place categories."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from ..columns import find_columns, numbers
from ..reading import RawLog, read_table
from .table import read_events, read_items, split_columns


def read_checkins(
    checkins: Path, places: Path, columns: dict[str, str] | None = None, time: str | None = None
) -> RawLog:
    """Reads a table of check-ins and a table of places.

    A check-in without coordinates gets those of its place; a place without a name is called by its category; a
    category with several parents goes to the one it has most often. Local times without a zone are read as if they
    were UTC.

    Args:
        checkins, places, columns, time: as `events`, `items`, `columns`, `time` of `read_log_table`.

    Raises:
        ValueError: a missing file or column, or a cell of the wrong type; the message names file and line.
    """
    table, catalogue = read_table(checkins), read_table(places)
    given = split_columns(columns or {}, table, catalogue)
    events, dropped, notes, kind, found = read_events(table, given["events"], time)
    items, more, repairs = read_items(catalogue, given["items"])
    notes += more

    blank = (items["title"] == "").to_numpy()
    if blank.any():
        category = pd.Series([paths[0][-1] if paths else "" for paths in items["categories"]], dtype="str")
        items["title"] = items["title"].where(~blank, category)
        notes.append(f"{int(blank.sum()):,} places have no name and are called by their category")
    where = find_columns(catalogue, {"latitude": ("lat",), "longitude": ("lon", "lng", "long")}, {})
    if len(where) == 2:
        code = pd.Index(items["item_id"]).get_indexer(pd.Index(events["item_id"]))
        for name in ("latitude", "longitude"):
            place = np.append(numbers(catalogue, where[name], blank=True), np.nan)[code]
            own = events[name].to_numpy() if name in events else np.full(len(events), np.nan)
            events[name] = np.where(np.isnan(own), place, own)
    if "latitude" not in events:
        raise ValueError(
            f"{table.name}: no columns for `latitude` and `longitude` (columns: {', '.join(table.frame.columns)}); "
            "name them with --column latitude=COLUMN, or use the recipe `table`"
        )
    if kind == "seconds" and "local" in found["timestamp"].lower():
        notes.append(f"`{found['timestamp']}` is local time without a zone, read as if it were UTC")
    return RawLog(
        events,
        items,
        time=kind,
        source=f"{table.name}, {catalogue.name}",
        dropped=dropped,
        notes=notes,
        repairs=repairs,
    )

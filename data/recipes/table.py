"""Recipe `table`: any CSV, TSV, JSON lines or Parquet of events, with or without a table of items."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from ..columns import attribute_dicts, category_paths, find_columns, ids, numbers, texts, times, vector_columns
from ..reading import PAIR, RawLog, SourceTable, read_table


ITEM_ID = (
    "item", "iid", "asin", "parent_asin", "movieId", "StockCode", "product_id", "product", "productCode", "sku",
    "article_id", "news_id", "book_id", "isbn", "artist_id", "track_id", "song_id", "video_id", "game_id", "recipe_id",
    "poi_id", "venue_id", "place_id", "location_id", "business_id", "gmap_id", "content_id", "doc_id", "post_id",
)  # fmt: skip
EVENT_ROLES: dict[str, tuple[str, ...]] = {
    "user_id": ("user", "uid", "reviewerID", "CustomerID", "customer", "userId", "member_id", "visitor_id", "account_id",
                "person_id", "client_id", "author_id"),
    "item_id": ITEM_ID,
    "timestamp": ("unixReviewTime", "time", "datetime", "date", "InvoiceDate", "local_time", "utc_time", "created_at",
                  "event_time", "ts", "unix_time", "purchase_date", "review_date", "reviewTime", "position"),
    "value": ("rating", "overall", "stars", "score"),
    "action": ("event", "event_type", "behavior", "behaviour", "action_type"),
    "text": ("reviewText", "review", "review_text", "review_body", "comment", "body", "tag"),
    "latitude": ("lat",),
    "longitude": ("lon", "lng", "long"),
    "scene": ("context",),
    "quantity": ("qty",),
}  # fmt: skip
ITEM_ROLES: dict[str, tuple[str, ...]] = {
    "item_id": (*ITEM_ID, "id"),
    "title": ("name", "item_title", "item_name", "product_name", "product_title", "headline"),
    "text": ("item_text", "description", "overview", "abstract", "summary", "plot", "content", "body"),
    "categories": ("category", "genres", "genre", "topics"),
    "parent_category": ("parent", "category_group", "main_category"),
    "created_at": ("release_date", "published", "published_at"),
}
TITLES_IN_EVENTS = (*ITEM_ROLES["title"], "Description")
NAMES = sorted({*EVENT_ROLES, *ITEM_ROLES})


def read_log_table(
    events: Path, items: Path | None, columns: dict[str, str] | None = None, time: str | None = None
) -> RawLog:
    """Reads events and items under the user's own column names.

    Args:
        events (`Path`): one row per event.
        items (`Path`, *optional*): one row per item; without it items are made of the events' own columns, with the
            most common title per item.
        columns: our name -> the user's column, for what is not recognised by itself; `""` says that there is none.
            `events.text` and `items.text` tell the two tables apart where both have the column.
        time: `"seconds"`, `"iso"`, `"order"` or None to tell the first two apart by looking.

    Raises:
        ValueError: a missing file or column, or a cell of the wrong type; the message names file and line.
    """
    table = read_table(events)
    if time is None and table.kind == "lines" and tuple(table.frame) == PAIR:
        time = "order"
    catalogue = read_table(items) if items is not None else None
    given = split_columns(columns or {}, table, catalogue)
    frame, dropped, notes, kind, found = read_events(table, given["events"], time)
    if catalogue is not None:
        catalogue_frame, more, repairs = read_items(catalogue, given["items"])
        notes += more
        source = f"{table.name}, {catalogue.name}"
    else:
        catalogue_frame, more = items_of_events(table, frame, found, given)
        repairs = None
        notes += more
        source = table.name
    merge = "text" in frame and "value" not in frame
    return RawLog(
        frame,
        catalogue_frame,
        time=kind,
        source=source,
        dropped=dropped,
        notes=notes,
        repairs=repairs,
        merge_texts=merge,
    )


def split_columns(
    columns: dict[str, str], events: SourceTable, items: SourceTable | None
) -> dict[str, dict[str, str]]:
    """Tells mappings of the events table from those of the items table."""
    given: dict[str, dict[str, str]] = {"events": {}, "items": {}}
    for name, column in columns.items():
        side, _, role = name.rpartition(".")
        if role not in NAMES or side not in ("", "events", "items"):
            raise ValueError(f"--column {name}={column}: no such name, expected one of {', '.join(NAMES)}")
        sides = [side] if side else [s for s, r in (("events", EVENT_ROLES), ("items", ITEM_ROLES)) if role in r]
        if not side and len(sides) == 2 and column and items is not None:
            tables = {"events": events, "items": items}
            sides = [s for s in sides if column in tables[s].frame] or sides
            if role != "item_id":
                sides = sides[:1]
        for chosen in sides:
            given[chosen][role] = column
    return given


def read_events(
    table: SourceTable, given: dict[str, str], time: str | None
) -> tuple[pd.DataFrame, dict[str, int], list[str], str, dict[str, str]]:
    """Events under our names (the index is the row in the file), what was dropped, notes, kind of time, columns
    found."""
    if len(table.frame) == 0:
        raise ValueError(f"{table.name}: no rows, expected events")
    found = find_columns(table, EVENT_ROLES, given, ("user_id",) if time == "order" else ("user_id", "timestamp"))
    if "item_id" not in found and "text" not in found:
        find_columns(table, {"item_id": ITEM_ID}, given, ("item_id",))
    frame = pd.DataFrame({"user_id": ids(table, found["user_id"])})
    frame["item_id"] = ids(table, found["item_id"]) if "item_id" in found else ""
    notes = list(table.notes)
    keep = (frame["user_id"] != "").to_numpy()
    dropped = {"no user": int((~keep).sum())}
    if "quantity" in found:
        returned = numbers(table, found["quantity"]) <= 0
        dropped["quantity not above 0 (returns)"] = int((returned & keep).sum())
        keep = keep & ~returned
    if "text" in found:
        frame["text"] = texts(table, found["text"])
    nothing = (frame["item_id"] == "").to_numpy()
    if "text" in frame:
        nothing = nothing & (frame["text"] == "").to_numpy()
    dropped["neither item nor text"] = int((nothing & keep).sum())
    keep = keep & ~nothing
    if "timestamp" in found:
        frame["timestamp"], assumed = times(table, found["timestamp"], time)
        notes += assumed
    else:
        frame["timestamp"] = np.arange(len(frame), dtype=np.int64)
        notes.append("no column of positions: the order of the rows is the order of the events")
    if "value" in found:
        frame["value"] = numbers(table, found["value"], blank="action" in found).astype(np.float32)
    for name in ("action", "scene"):
        if name in found:
            frame[name] = texts(table, found[name])
    if "latitude" in found and "longitude" in found:
        for name, limit in (("latitude", 90), ("longitude", 180)):
            frame[name] = numbers(table, found[name], blank=True)
            if (bad := np.abs(frame[name].to_numpy()) > limit).any():
                row = int(np.argmax(bad))
                raise table.error(row, found[name], frame[name].iloc[row], f"degrees between -{limit} and {limit}")
    named = ", ".join(f"{role}={column}" for role, column in found.items() if role != column)
    if named:
        notes.append(f"columns of {table.name}: {named}")
    if not keep.any():
        raise ValueError(
            f"{table.name}: no event left ({', '.join(f'{n:,} {why}' for why, n in dropped.items() if n)})"
        )
    return (
        frame[keep],
        {why: n for why, n in dropped.items() if n},
        notes,
        "order" if time == "order" else "seconds",
        found,
    )


def read_items(table: SourceTable, given: dict[str, str]) -> tuple[pd.DataFrame, list[str], dict[str, int] | None]:
    """Items under our names, notes, and counts of repaired categories where they came with a parent column."""
    from ..taxonomy import repair_parents

    if len(table.frame) == 0:
        raise ValueError(f"{table.name}: no rows, expected items")
    found = find_columns(table, ITEM_ROLES, given, ("item_id",))
    items = pd.DataFrame({"item_id": ids(table, found["item_id"])})
    if (blank := (items["item_id"] == "").to_numpy()).any():
        raise table.error(int(np.argmax(blank)), found["item_id"], "", "an id")
    if (twice := items["item_id"].duplicated().to_numpy()).any():
        row = int(np.argmax(twice))
        first = int(np.argmax((items["item_id"] == items["item_id"].iloc[row]).to_numpy()))
        raise ValueError(
            f"{table.place(row)}: `{found['item_id']}` {items['item_id'].iloc[row]!r} occurs twice "
            f"(first in {table.place(first)}), expected each item once"
        )
    for name in ("title", "text"):
        items[name] = texts(table, found[name]) if name in found else ""
    paths = (
        category_paths(table.frame[found["categories"]]) if "categories" in found else [[] for _ in range(len(items))]
    )
    repairs = None
    if "parent_category" in found and "categories" in found:
        roots = category_paths(table.frame[found["parent_category"]])
        joined = [[[*r, *p] for p in ps for r in rs[:1]] or ps or rs for ps, rs in zip(paths, roots, strict=True)]
        paths, repairs = repair_parents(joined)
    items["categories"] = pd.Series(paths, dtype=object)
    notes = list(table.notes)
    if "created_at" in found:
        filled = texts(table, found["created_at"]) != ""
        try:
            part = SourceTable(table.name, table.frame[filled.to_numpy()])
            moments = pd.Series(pd.NA, index=items.index, dtype="Int64")
            moments[filled.to_numpy()] = times(part, found["created_at"], None)[0]
            items["created_at"] = moments
        except ValueError as error:
            notes.append(f"`{found['created_at']}` is kept as an attribute, not as a date ({error})")
            found.pop("created_at")
    vectors = vector_columns(table)
    for name in vectors:
        items[name] = table.frame[name]
    rest = [name for name in table.frame.columns if name not in {*found.values(), *vectors}]
    if rest:
        items["attributes"] = pd.Series(attribute_dicts(table, rest), dtype=object)
    named = ", ".join(f"{role}={column}" for role, column in found.items() if role != column)
    return items, notes + ([f"columns of {table.name}: {named}"] if named else []), repairs


def items_of_events(
    table: SourceTable, events: pd.DataFrame, found: dict[str, str], given: dict[str, dict[str, str]]
) -> tuple[pd.DataFrame, list[str]]:
    """Items from the events' own columns: the most common non-empty title (and text, categories) per item id."""
    roles = {**ITEM_ROLES, "title": TITLES_IN_EVENTS}
    roles = {
        role: common for role, common in roles.items() if role in ("title", "text", "categories", "parent_category")
    }
    free = SourceTable(table.name, table.frame.drop(columns=list(found.values())), table.kind, table.path)
    named = {role: column for role, column in given["items"].items() if role in roles}
    if "text" not in named:
        named["text"] = ""  # a text beside the events are the person's own words unless `items.text` says otherwise
    own = find_columns(free, roles, named)
    kept = free.frame.loc[events.index]
    item = events["item_id"]
    items = pd.DataFrame({"item_id": item[item != ""].drop_duplicates().to_list()})
    notes = [f"no items table: {len(items):,} items were made of {table.name}"
             + (f" ({', '.join(f'{r}={c}' for r, c in own.items())})" if own else "")]  # fmt: skip
    for role, column in own.items():
        values = texts(SourceTable(table.name, kept[[column]].reset_index(drop=True)), column)
        pairs = pd.DataFrame({"item": item.to_numpy(), "value": values.to_numpy()})
        pairs = pairs[(pairs["value"] != "") & (pairs["item"] != "")]
        counts = pairs.groupby(["item", "value"], sort=False).size().reset_index(name="n")
        best = (
            counts.sort_values("n", ascending=False, kind="stable").drop_duplicates("item").set_index("item")["value"]
        )
        items[role] = items["item_id"].map(best).fillna("")
        if role == "title":
            several = int((counts.groupby("item").size() > 1).sum())
            notes += [f"{several:,} items had several titles; the most common one was taken"] if several else []
    for role in ("title", "text"):
        if role not in items:
            items[role] = ""
    paths = category_paths(items["categories"]) if "categories" in items else [[] for _ in range(len(items))]
    if "parent_category" in items:
        roots = category_paths(items.pop("parent_category"))
        paths = [[[*r, *p] for p in ps for r in rs[:1]] or ps or rs for ps, rs in zip(paths, roots, strict=True)]
    items["categories"] = pd.Series(paths, dtype=object)
    return items, notes

"""Writing an interest dataset: a folder that `datasets.load_dataset` opens as it stands."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

from ..taxonomy_interest import DomainTree
from .card import dataset_card, moment, read_facts, verdict
from .cleaning import (
    apart,
    checked_events,
    checked_items,
    drop_short_users,
    drop_unknown_items,
    merge_rows,
    places_in_history,
    sort_events,
)
from .impressions import COLUMNS, impression_counts, impression_splits, usable_impressions, write_impressions
from .log import CARD_FILE, SPLITS, TAXONOMY_FILE, InterestLog, item_membership
from .reliability import change_facts
from .splits import global_time_split, leave_last_split
from .taxonomy import load_domains, names_under_several_parents, text_vectors, tree_from_vectors


MIN_EVENTS = {"global-time": 2, "leave-last": 5}
CLUSTER_TEXT = 2_000  # characters of training reviews that stand for an item without a text of its own
ROWS_PER_GROUP = 100_000


def write_dataset(
    events: pd.DataFrame,
    items: pd.DataFrame,
    output: str | Path,
    *,
    recipe: str = "frames",
    split: str | None = None,
    min_events: int | None = None,
    time: str | None = None,
    domains: str | Path | DomainTree | Sequence | None = None,
    vectors: np.ndarray | None = None,
    dropped: dict[str, int] | None = None,
    notes: Sequence[str] = (),
    repairs: dict[str, int] | None = None,
    source: str = "",
    licence: str = "unknown",
    value_threshold: float | None = None,
    drop_duplicates: bool = False,
    merge_texts: bool | None = False,
    validation_fraction: float = 0.1,
    test_fraction: float = 0.1,
    test_events: int = 1,
    impressions: pd.DataFrame | None = None,
    dated_from: int | None = None,
    test_start: int | None = None,
    facts: dict | None = None,
    overwrite: bool = False,
    quiet: bool = False,
) -> Path:
    """Writes an interest dataset from tables in memory.

    Args:
        events (`pd.DataFrame`): `user_id`, `timestamp` (int64 seconds, dates, or positions with `time="order"`),
            `item_id` (`""` or null for an event without an item), and where there are any `value`, `action`, `text`,
            `latitude`, `longitude`, `scene`. Any order; the order of rows with one timestamp is kept.
        items (`pd.DataFrame`): `item_id`, `title`, and where there are any `text`, `categories` (a list of paths, root
            first, or strings as in `category_paths`), `created_at` (int64 seconds), `attributes` (dicts), vector
            columns.
        vectors (`np.ndarray` of shape `(I, D)`, *optional*): vectors of the items' texts, from which domains are
            clustered where the items have no categories; without them TF-IDF and SVD give some.
        dropped, notes, repairs, source, licence: what a recipe did before, for the card.
        facts: further facts for the card.
        impressions (`pd.DataFrame`, *optional*): what was shown, one row per item: `impression_id`, `user_id`, `item_id`,
            `timestamp`, `clicked` (0 or 1). Clicks are events too; what was not clicked is none.
        dated_from, test_start (`int`, *optional*): see `global_time_split`.
        drop_duplicates (`bool`): whether rows that are equal in user, item, time and value are dropped but for one.
        merge_texts (`bool`, *optional*): see `prepare`; None decides by looking.
        others: see `prepare`.

    Returns:
        `output` as a path.

    Raises:
        ValueError: see `prepare`; rows of a frame are named `events: row N`.
    """
    output = check_output(output, overwrite)
    check_options(split, time)
    console = Console(quiet=quiet)
    dropped, notes = dict(dropped or {}), list(notes)
    moments = dated_from, test_start
    with console.status("checking events and items"):
        items = checked_items(items)
        events, kind, more = checked_events(events, time)
        notes += more
        split = split or ("leave-last" if kind == "order" else "global-time")
        if split == "global-time" and kind == "order":
            raise ValueError(
                "a global-time split needs times, but this log has only positions: use --split leave-last"
            )
        min_events = MIN_EVENTS[split] if min_events is None else int(min_events)
        events = drop_unknown_items(events, items, dropped)
        events, merged, duplicates = merge_rows(events, merge_texts, drop_duplicates, dropped, notes)
        events = drop_short_users(events, min_events, dropped)
        events, user, ties, repeat = sort_events(events)
        timestamp = events["timestamp"].to_numpy()
        if kind == "order" and impressions is None and apart(user, timestamp):
            events["timestamp"] = timestamp = places_in_history(user, timestamp)
            notes.append("positions of one person end before the next one's begin: they became places in each history")
        validation_start = test_start = None
        if split == "global-time":
            fractions = validation_fraction, test_fraction
            splits, validation_start, test_start = global_time_split(timestamp, *fractions, *moments)
        else:
            splits = leave_last_split(user, test_events)
        shown_splits, end = np.zeros(0, np.int8), int(timestamp.max()) + 1
        if impressions is not None:
            impressions = usable_impressions(impressions, events, items, dropped)
            starts = None if validation_start is None else (validation_start, test_start)
            shown_splits = impression_splits(impressions, events, splits, starts)
            end = max(end, int(impressions["timestamp"].max()) + 1) if len(impressions) else end
    with console.status("building the domain tree"):
        items, tree, taxonomy = _domains(items, events[splits == 0], domains, vectors, notes)
    taxonomy["repairs"] = repairs
    train = splits == 0
    facts = {
        "name": output.name,
        "recipe": recipe,
        "split": split,
        "time": kind,
        "start": int(timestamp.min()),
        "validation_start": validation_start,
        "test_start": test_start,
        "test_events": test_events if split == "leave-last" else None,
        "end": end,
        "min_events": min_events,
        "value_threshold": value_threshold,
        "repeat_rate": round(float(repeat[train].mean()), 6) if train.any() else 0.0,
        "counts": {
            "users": int(user.max()) + 1,
            "items": len(items),
            "items_with_events": int(events["item_id"][events["item_id"] != ""].nunique()),
            "events": len(events),
            **{name: int((splits == code).sum()) for code, name in enumerate(SPLITS)},
            "events_with_text": int((events["text"] != "").sum()) if "text" in events else 0,
            **(impression_counts(impressions) if impressions is not None else {}),
        },
        "dropped": {why: int(number) for why, number in dropped.items() if number},
        "ties": ties,
        "repeats": int(repeat.sum()),
        "duplicates": duplicates,
        "merged": merged,
        "taxonomy": taxonomy,
        "source": source,
        "licence": licence,
        "notes": list(dict.fromkeys(notes)),
        **(facts or {}),
    }
    with console.status("writing"), _beside(output, overwrite) as folder:
        _write(folder, events, items, splits, tree, facts, impressions, shown_splits)
    _report(console, facts, output)
    return output


def check_output(output: str | Path, overwrite: bool) -> Path:
    """The output folder as a path; refuses an existing one, and to overwrite anything but an interest dataset."""
    if not str(output):
        raise ValueError("no output folder given (--output DIR)")
    output = Path(output)
    if output.exists():
        if not overwrite:
            raise ValueError(f"{output}: exists already; choose another folder or say --overwrite")
        if not output.is_dir() or (any(output.iterdir()) and not _is_dataset(output)):
            raise ValueError(f"{output}: is not an interest dataset and is not overwritten; choose another folder")
    return output


def _is_dataset(folder: Path) -> bool:
    try:
        return bool(read_facts(folder / CARD_FILE))
    except ValueError:
        return False


def check_options(split: str | None, time: str | None) -> None:
    if split not in (None, "global-time", "leave-last"):
        raise ValueError(f"split is {split!r}, expected global-time or leave-last")
    if time not in (None, "seconds", "iso", "order"):
        raise ValueError(f"time is {time!r}, expected seconds, iso or order")


def _domains(
    items: pd.DataFrame, train: pd.DataFrame, domains, vectors: np.ndarray | None, notes: list[str]
) -> tuple[pd.DataFrame, DomainTree | None, dict]:
    """The domain tree, the items with their paths in it, and how it came about."""
    origin = "from the items' categories"
    if domains is not None:
        tree: DomainTree | None = load_domains(domains)
        origin = "from a handed-in taxonomy"
        outside = int((np.diff(item_membership(tree, items["categories"]).indptr) == 0).sum())
        if outside:
            notes.append(f"{outside:,} items are in no domain of the handed-in taxonomy")
    elif any(items["categories"]):
        tree = DomainTree.from_paths(items["categories"])
        several = names_under_several_parents(items["categories"])
        if several:
            notes.append(
                f"{several:,} category names stand in several places of the tree; their paths keep them apart"
            )
        without = int(sum(not paths for paths in items["categories"]))
        if without:
            notes.append(f"{without:,} items have no category and are in (other)")
    else:
        own = (items["title"].where(items["title"] != items["item_id"], "") + " " + items["text"]).str.strip()
        origin = "clustered from the texts of the items, named by their typical words"
        if vectors is None and not own.ne("").any() and "text" in train:
            words = train["text"].groupby(train["item_id"]).agg(" ".join).str.slice(stop=CLUSTER_TEXT)
            own = items["item_id"].map(words).fillna("").astype("str")
            origin = "clustered from what people wrote about the items in the training events, named by typical words"
        elif vectors is not None:
            origin = "clustered from handed-in vectors of the items, named by their typical words"
        vectors = text_vectors(own.tolist()) if vectors is None else vectors
        tree = None
        if vectors is not None:
            tree, paths = tree_from_vectors(vectors, own.tolist())
            items = items.assign(categories=pd.Series(paths, dtype=object))
        if tree is None:
            origin = "none: the items have neither categories nor texts to cluster"
            notes.append("no domains: the items have neither categories nor texts to cluster")
    levels = tree.num_levels if tree is not None else 0
    taxonomy = {"origin": origin, "nodes": len(tree) if tree is not None else 0, "levels": levels,
                "top": int((tree.depth == 0).sum()) if tree is not None else 0}  # fmt: skip
    return items, tree, taxonomy


@contextmanager
def _beside(output: Path, overwrite: bool) -> Iterator[Path]:
    """A temporary sibling folder that takes the place of `output` when everything went well, and vanishes
    otherwise."""
    output = Path(os.path.abspath(output))
    output.parent.mkdir(parents=True, exist_ok=True)
    folder = output.parent / f".{output.name}.{os.getpid()}.partial"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    try:
        yield folder
        old = None
        if output.exists():
            check_output(output, overwrite)
            old = output.parent / f".{output.name}.{os.getpid()}.old"
            output.rename(old)
        try:
            folder.rename(output)
        except OSError:
            if old is not None:
                old.rename(output)
            raise
        if old is not None:
            shutil.rmtree(old)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _write(
    folder: Path,
    events: pd.DataFrame,
    items: pd.DataFrame,
    splits: np.ndarray,
    tree: DomainTree | None,
    facts: dict,
    impressions: pd.DataFrame | None,
    shown_splits: np.ndarray,
) -> None:
    (folder / "events").mkdir()
    (folder / "items").mkdir()
    types = {"user_id": pa.string(), "item_id": pa.string(), "timestamp": pa.int64(), "action": pa.string(),
             "value": pa.float32(), "text": pa.string(), "latitude": pa.float64(), "longitude": pa.float64(),
             "scene": pa.string()}  # fmt: skip
    columns = [name for name in types if name in events]
    arrays = []
    for name in columns:
        column = events[name]
        if name == "item_id":
            column = column.where(column != "", None)
        arrays.append(pa.array(column, type=types[name], from_pandas=True))
    table = pa.table(arrays, schema=pa.schema([(name, types[name]) for name in columns]))
    written = []
    for code, name in enumerate(SPLITS):
        part = table.filter(pa.array(splits == code))
        if len(part):  # `datasets` cannot open a Parquet file without rows
            written.append(name)
            pq.write_table(part, folder / "events" / f"{name}-00000-of-00001.parquet", row_group_size=ROWS_PER_GROUP)
    item_table = _items_table(items)
    pq.write_table(item_table, folder / "items" / "items-00000-of-00001.parquet", row_group_size=ROWS_PER_GROUP)
    if tree is not None:
        tree.save(folder / TAXONOMY_FILE)
    shown = []
    if impressions is not None and len(impressions):
        shown = write_impressions(folder, impressions, shown_splits, SPLITS, ROWS_PER_GROUP)
    named = {"events": columns, "items": item_table.column_names, "impressions": list(COLUMNS)}
    card = folder / CARD_FILE
    card.write_text(str(dataset_card(facts, written, named, shown)), encoding="utf-8")
    facts["change"] = change_facts(InterestLog.load(folder))
    card.write_text(str(dataset_card(facts, written, named, shown)), encoding="utf-8")


def _items_table(items: pd.DataFrame) -> pa.Table:
    paths = pa.list_(pa.list_(pa.string()))
    columns = {
        "item_id": pa.array(items["item_id"], pa.string()),
        "title": pa.array(items["title"], pa.string()),
        "text": pa.array(items["text"], pa.string()),
        "categories": pa.array(items["categories"].tolist(), paths),
    }
    if "created_at" in items and items["created_at"].notna().any():
        columns["created_at"] = pa.array(items["created_at"], pa.int64(), from_pandas=True)
    if "attributes" in items and any(items["attributes"]):
        # `datasets` knows no map type: a list of {key, value}
        pair = pa.list_(pa.struct([("key", pa.string()), ("value", pa.string())]))
        cells = [[{"key": k, "value": str(v)} for k, v in cell.items()] for cell in items["attributes"]]
        columns["attributes"] = pa.array(cells, pair)
    for name in items.columns:
        if name not in columns and name not in ("created_at", "attributes"):
            cells = [list(cell) if isinstance(cell, (list, tuple)) and len(cell) else None for cell in items[name]]
            columns[name] = pa.array(cells, pa.list_(pa.float32()))
    return pa.table(columns)


def _report(console: Console, facts: dict, output: Path) -> None:
    counts, time = facts["counts"], facts["time"]
    table = Table(
        title=f"{facts['name']} ({facts['recipe']}, {facts['split']})", show_header=False, title_justify="left"
    )
    table.add_column()
    table.add_column(justify="right")
    for name in ("users", "items", "events", *SPLITS, "impressions"):
        if name in counts:
            table.add_row(name, f"{counts[name]:,}")
    table.add_row("from", moment(facts["start"], time))
    table.add_row("to", moment(facts["end"] - 1, time))
    table.add_row("ties: share user and time with another event", f"{facts['ties']:,}")
    table.add_row("repeats: an item that the user had before", f"{facts['repeats']:,}")
    table.add_row("domains", f"{facts['taxonomy']['nodes']:,} in {facts['taxonomy']['levels']} levels")
    console.print(table)
    console.print(f"domains {facts['taxonomy']['origin']}", markup=False, highlight=False)
    if facts["taxonomy"].get("repairs"):
        repairs = facts["taxonomy"]["repairs"]
        console.print(
            f"repaired: {repairs['names']:,} category names with several parents, {repairs['equal_to_parent']:,} equal to "
            f"their parent's, {repairs['items']:,} items changed", markup=False
        )  # fmt: skip
    change = facts["change"]["change"]["reliability"]
    if facts["change"]["forecast"]["cuts"]:
        forecast = facts["change"]["forecast"]
        window = f"{forecast['horizon']:g} {forecast['unit']}"
        shown = "too few pairs" if change is None else f"split-half reliability {change:.2f}"
        console.print(f"change over {window}: {shown}, {verdict(change)}", markup=False, highlight=False)
    for why, number in facts["dropped"].items():
        console.print(f"dropped {number:,}: {why}", markup=False)
    for note in facts["notes"]:
        console.print(f"note: {note}", markup=False)
    console.print(f"written to {output}", markup=False)

"""Recipe `amazon-reviews`: reviews of products in the layouts of 2014, 2018 and 2023, with or without their metadata."""

from __future__ import annotations

import html
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from ..columns import category_paths, ids, numbers, texts, times
from ..reading import RawLog, SourceTable, read_table


# our name -> names of the field, by layout; those of 2014 and 2018 are the same
LAYOUTS: dict[str, dict[str, tuple[str, ...]]] = {
    "2014 and 2018": {
        "user_id": ("reviewerID",), "item_id": ("asin",), "value": ("overall",), "timestamp": ("unixReviewTime",),
        "headline": ("summary",), "text": ("reviewText",),
    },
    "2023": {
        "user_id": ("user_id",), "item_id": ("parent_asin", "asin"), "value": ("rating",), "timestamp": ("timestamp",),
        "headline": ("title",), "text": ("text",),
    },
}  # fmt: skip
REQUIRED = ("user_id", "item_id", "value", "timestamp")
ITEM_ID = ("parent_asin", "asin")
TAG = r"</?[A-Za-z][^<>]*>"
PRICE = r"^\$?\s*(\d[\d,]*(?:\.\d+)?)"
LICENCE = "research use, cite McAuley et al.; see the page of the source"


def review_layout(fields: Iterable[str]) -> tuple[str, dict[str, str]] | None:
    """Which layout of Amazon reviews has these fields, and our name -> field; None where none has."""
    fields = set(fields)
    for layout, names in LAYOUTS.items():
        found = {role: next((name for name in common if name in fields), "") for role, common in names.items()}
        if all(found[role] for role in REQUIRED) and ("asin" in fields or "parent_asin" in fields):
            return layout, {role: name for role, name in found.items() if name}
    return None


def read_amazon_reviews(reviews: Path, meta: Path | None = None) -> RawLog:
    """Reads JSON lines of reviews (`.gz` too), and of metadata where they are given.

    A review is an event: its stars are the value, its headline and words the person's own text. What the items say comes
    from the metadata alone: title, description and features, categories, brand and price, never sales ranks, average
    ratings or what was also bought, which know the future. Without metadata items have no text. Products are those that
    somebody reviewed; variants of one product (`parent_asin`, 2023) are one item.

    Args:
        reviews (`Path`): `reviewerID, asin, overall, unixReviewTime, summary, reviewText` (2014, 2018) or `user_id,
            parent_asin, asin, rating, timestamp (milliseconds), title, text` (2023).
        meta (`Path`, *optional*): `asin, title, description, categories, brand, price` (2014: JSON or Python literals),
            `asin, title, description, feature, category, brand, price` (2018) or `parent_asin, title, description,
            features, categories, main_category, store, price` (2023).

    Raises:
        ValueError: other fields, a line that is no JSON, a broken cell, or metadata of other products; the message names
            file and line.
    """
    table = read_table(reviews)
    known = review_layout(table.frame.columns)
    if known is None:
        raise ValueError(
            f"{table.name}: fields are {', '.join(table.frame.columns)}, expected those of Amazon reviews (reviewerID, asin, "
            "overall, unixReviewTime, or user_id, parent_asin, rating, timestamp); for other files use the recipe table"
        )
    layout, field = known
    if not len(table.frame):
        raise ValueError(f"{table.name}: no rows, expected reviews")
    events = pd.DataFrame({"user_id": ids(table, field["user_id"]), "item_id": ids(table, field["item_id"])})
    if field["item_id"] == "parent_asin" and "asin" in table.frame:
        events["item_id"] = events["item_id"].where(events["item_id"] != "", ids(table, "asin"))
    events["timestamp"], notes = times(table, field["timestamp"], "seconds")
    events["value"] = numbers(table, field["value"]).astype(np.float32)
    events["text"] = _own_words(table, field)
    keep = ((events["user_id"] != "") & (events["item_id"] != "")).to_numpy()
    dropped = {"reviews without a reviewer or a product": int((~keep).sum())} if not keep.all() else {}
    if not keep.any():
        raise ValueError(f"{table.name}: no review has a reviewer and a product")
    events = events[keep].reset_index(drop=True)
    notes = [*table.notes, f"{table.name} has the fields of Amazon reviews of {layout}", *notes]
    reviewed = events["item_id"].drop_duplicates().to_list()
    source = table.name
    if meta is None:
        items = pd.DataFrame({"item_id": reviewed, "title": "", "text": ""})
        items["categories"] = pd.Series([[] for _ in reviewed], dtype=object)
        notes.append(f"no metadata: the {len(items):,} items have neither title nor text")
    else:
        catalogue = read_table(meta)
        items = _products(catalogue, reviewed, table.name, dropped, notes)
        source = f"{table.name}, {catalogue.name}"
    return RawLog(events, items, source=source, licence=LICENCE, dropped=dropped, notes=notes, drop_duplicates=True)


def _own_words(table: SourceTable, field: dict[str, str]) -> pd.Series:
    """Headline and review, one after the other; the headline once where the review begins with it."""
    none = pd.Series("", index=table.frame.index, dtype="str")
    headline, text = (
        plain_text(texts(table, field[name])) if name in field else none for name in ("headline", "text")
    )
    shown = headline.str.rstrip(".… ")
    begins = np.fromiter(
        (body.startswith(head) for body, head in zip(text, shown, strict=True)), dtype=bool, count=len(text)
    )
    joined = headline.where(text == "", headline + "\n" + text)
    return joined.where(~begins | (text == ""), text)


def plain_text(values: pd.Series) -> pd.Series:
    """Strings without HTML tags, entities and runs of blanks."""
    marked = values.str.contains("&", regex=False).to_numpy(dtype=bool)
    if marked.any():
        values = values.copy()
        values[marked] = values[marked].map(html.unescape)
    values = values.str.replace(TAG, " ", regex=True).str.replace(r"\s+", " ", regex=True)
    return values.str.strip().astype("str")


def _products(
    table: SourceTable, reviewed: list[str], source: str, dropped: dict[str, int], notes: list[str]
) -> pd.DataFrame:
    """The reviewed products in the order of their first review, described by their first row of metadata."""
    names = [name for name in ITEM_ID if name in table.frame]
    if not names or "reviewerID" in table.frame:
        raise ValueError(
            f"{table.name}: fields are {', '.join(table.frame.columns)}, expected those of Amazon metadata "
            "(asin or parent_asin, title, ...)"
        )
    key = ids(table, names[0])
    if len(names) == 2:
        key = key.where(key != "", ids(table, names[1]))
    wanted = key.isin(reviewed)
    again = key.duplicated() & wanted
    notes += table.notes
    for why, number in (("metadata of products that nobody reviewed", int((~wanted).sum())),
                        ("further rows of metadata of one product", int(again.sum()))):  # fmt: skip
        if number:
            dropped[why] = number
    rows = (wanted & ~again).to_numpy()
    if not rows.any():
        shown = key.iloc[0] if len(key) else ""
        raise ValueError(
            f"{table.name}: none of the {len(reviewed):,} products of {source} is in it (it has products like {shown!r}, "
            f"expected such as {reviewed[0]!r})"
        )
    part = SourceTable(table.name, table.frame[rows].reset_index(drop=True))
    blank = pd.Series("", index=part.frame.index, dtype="str")

    def words(*fields: str) -> pd.Series:
        present = [plain_text(texts(part, name)) for name in fields if name in part.frame]
        return present[0].str.cat(present[1:], sep=" ").str.strip().astype("str") if present else blank

    title = words("title")
    broken = title.str.contains("getTime()", regex=False)  # pages of 2018 whose script stands where the title should
    if broken.any():
        notes.append(f"{int(broken.sum()):,} titles hold the script of a page and were left empty")
    found = pd.DataFrame({"item_id": key[rows].to_numpy(), "title": title.where(~broken, "")})
    found["text"] = words("description", "features", "feature")
    found["categories"] = pd.Series(_categories(part, words("main_category", "main_cat")), dtype=object)
    brand = words(next((name for name in ("brand", "store") if name in part.frame), "brand"))
    price = texts(part, "price") if "price" in part.frame else blank
    price = price.str.extract(PRICE)[0].fillna("").astype("str").str.replace(",", "", regex=False)
    found["attributes"] = pd.Series(
        [{name: cell for name, cell in (("brand", b), ("price", p)) if cell} for b, p in zip(brand, price, strict=True)],
        dtype=object,
    )  # fmt: skip
    items = pd.DataFrame({"item_id": reviewed}).merge(found, on="item_id", how="left")
    missing = items["title"].isna()
    if missing.any():
        notes.append(f"{int(missing.sum()):,} reviewed products have no metadata: neither title nor text")
    for name in ("title", "text"):
        items[name] = items[name].fillna("").astype("str")
    for name, empty in (("categories", list), ("attributes", dict)):
        items[name] = pd.Series([empty() if gone else cell for gone, cell in zip(missing, items[name], strict=True)],
                                dtype=object)  # fmt: skip
    return items


def _categories(table: SourceTable, main: pd.Series) -> list[list[list[str]]]:
    """Paths, root first: a list of paths (2014), or one path (2018, 2023); the main category where there is none."""
    name = next((name for name in ("categories", "category") if name in table.frame), None)
    cells = [None] * len(table.frame) if name is None else table.frame[name]
    lists = []
    for cell, other in zip(cells, main, strict=True):
        if isinstance(cell, str):
            cell = [cell] if cell else []
        paths = [path for path in (cell or []) if isinstance(path, (list, tuple))] or [cell or []]
        clean = [_until_markup(path) for path in paths]
        clean = [path for path in clean if path]
        lists.append(clean or ([[other]] if other else []))
    return category_paths(lists)


def _until_markup(path: Iterable) -> list[str]:
    """The names of a path up to the first that is a piece of a page (2018)."""
    names = []
    for name in path:
        if not isinstance(name, str) or "</" in name:
            break
        names.append(html.unescape(name).strip())
    return [name for name in names if name]

"""The columns of people's tables under our names and types, and errors that name the row."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd

from ..taxonomy_interest import SEPARATOR
from .reading import SourceTable


NO_CATEGORY = {"", "(no genres listed)", "nan", "none", "null", "n/a"}


def find_columns(
    table: SourceTable, roles: dict[str, Sequence[str]], given: dict[str, str], required: Iterable[str] = ()
) -> dict[str, str]:
    """Which column plays which role: the given ones first, then the first common name that the table has.

    Args:
        roles: our name -> common names of such columns, compared without case and punctuation.
        given: our name -> the user's column; an empty string says that there is none.
        required: roles without which there is no log.
    """
    names = list(table.frame.columns)
    plain = {}
    for name in names:
        plain.setdefault("".join(c for c in str(name).lower() if c.isalnum()), name)
    found: dict[str, str] = {}
    for role, column in given.items():
        if role in roles and column:
            if column not in names:
                raise ValueError(
                    f"{table.name}: no column {column!r} for `{role}` (columns: {', '.join(map(str, names))}); "
                    f"name it with --column {role}=COLUMN"
                )
            found[role] = column
    for role, common in roles.items():
        if role in found or role in given:
            continue
        candidates = (plain.get("".join(c for c in name.lower() if c.isalnum())) for name in (role, *common))
        column = next((name for name in candidates if name is not None and name not in found.values()), None)
        if column is not None:
            found[role] = column
    for role in required:
        if role not in found:
            raise ValueError(
                f"{table.name}: no column for `{role}` (columns: {', '.join(map(str, names))}); "
                f"name it with --column {role}=COLUMN"
            )
    return found


def ids(table: SourceTable, column: str) -> pd.Series:
    """Ids as strings without surrounding blanks, `""` where missing; `17850.0` becomes `17850` where all look so."""
    values = table.frame[column]
    if pd.api.types.is_float_dtype(values.dtype):
        whole = values.dropna()
        if len(whole) and (whole % 1 == 0).all():
            return values.astype("Int64").astype("str").where(values.notna(), "").astype("str")
    if not pd.api.types.is_string_dtype(values.dtype):
        return values.astype("str").where(values.notna(), "").astype("str")
    values = values.str.strip()
    filled = values[values != ""]
    if len(filled) and filled.str.endswith(".0").all() and filled.str.slice(stop=-2).str.isdigit().all():
        values = values.str.replace(r"\.0$", "", regex=True)
    return values


def texts(table: SourceTable, column: str) -> pd.Series:
    """Strings, `""` where missing; lists of strings are joined."""
    values = table.frame[column]
    if values.dtype == object:
        values = values.map(_joined)
    elif not pd.api.types.is_string_dtype(values.dtype):
        values = values.astype("str").where(values.notna(), "")
    return values.astype("str").fillna("").str.strip()


def _joined(cell) -> str:
    if isinstance(cell, (list, tuple)):
        return " ".join(_joined(part) for part in cell)
    if isinstance(cell, dict):
        return " ".join(_joined(part) for part in cell.values())
    return "" if pd.isna(cell) else str(cell)


def numbers(table: SourceTable, column: str, blank: bool = False) -> np.ndarray:
    """Finite numbers, float64.

    Args:
        blank: whether a blank cell is legal (NaN).

    Raises:
        ValueError: not a number, NaN or infinite; the message names the row.
    """
    values = table.frame[column]
    result = pd.to_numeric(values, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
    bad = ~np.isfinite(result)
    if blank and bad.any():
        missing = (values.astype("str").str.strip() == "") if values.dtype.kind not in "fiu" else values.isna()
        bad = bad & ~missing.to_numpy(dtype=bool)
    if bad.any():
        row = int(np.argmax(bad))
        raise table.error(row, column, values.iloc[row], "a finite number")
    return result


def times(table: SourceTable, column: str, kind: str | None) -> tuple[np.ndarray, list[str]]:
    """Times as int64 seconds (dates without a zone are read as UTC), or positions.

    Args:
        kind: `"seconds"`, `"iso"`, `"order"`, or None to tell seconds from dates by looking.

    Returns:
        `(E,)` int64, and notes about what was assumed.

    Raises:
        ValueError: an unparsable or negative time; the message names the row.
    """
    values = table.frame[column]
    notes: list[str] = []
    datetimes = pd.api.types.is_datetime64_any_dtype(values.dtype)
    if kind is None:
        numeric = values.dtype.kind in "fiu"
        if not numeric and not datetimes:
            filled = values[values.astype("str").str.strip() != ""].head(100)
            numeric = pd.to_numeric(filled, errors="coerce").notna().mean() >= 0.5 if len(filled) else True
        kind = "seconds" if numeric else "iso"
    if kind == "iso" or datetimes:
        moments = pd.to_datetime(values, format=None if datetimes else "ISO8601", utc=True, errors="coerce")
        bad = moments.isna().to_numpy()
        if bad.any():
            row = int(np.argmax(bad))
            raise table.error(row, column, values.iloc[row], "a date such as 2012-04-08 16:02:10 (ISO 8601)")
        result = moments.dt.floor("s").dt.as_unit("s").astype("int64").to_numpy()
    elif kind in ("seconds", "order"):
        if values.dtype.kind in "iu" and values.notna().all():
            result = values.to_numpy(dtype=np.int64)
        else:
            exact = pd.to_numeric(values, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
            bad = ~np.isfinite(exact)
            if bad.any():
                row = int(np.argmax(bad))
                expected = "whole seconds since 1970 (or --time iso for dates)" if kind == "seconds" else "a position"
                raise table.error(row, column, values.iloc[row], expected)
            result = np.floor(exact).astype(np.int64)
    else:
        raise ValueError(f"time is {kind!r}, expected seconds, iso or order")
    if (result < 0).any():
        row = int(np.argmax(result < 0))
        raise table.error(row, column, values.iloc[row], "a time not before 1970" if kind != "order" else ">= 0")
    if kind == "seconds" and len(result):
        scale = next((s for s, limit in ((10**9, 1e17), (10**6, 1e14), (10**3, 1e11)) if np.median(result) > limit), 1)
        if scale > 1:
            result = result // scale
            notes.append(f"`{column}` counts 1/{scale:,} seconds; it was divided to seconds")
    return result, notes


def category_paths(values: Iterable) -> list[list[list[str]]]:
    """Paths, root first, per item: of `"A > B|C"`, of a list of such strings, or of a list of lists of names."""
    cache: dict[str, list[list[str]]] = {}
    result = []
    for cell in values:
        if isinstance(cell, str):
            if cell not in cache:
                cache[cell] = _distinct(part.split(SEPARATOR) for part in cell.split("|"))
            result.append(cache[cell])
        elif isinstance(cell, (list, tuple, np.ndarray)):
            paths = ([str(n).replace(SEPARATOR, " / ") for n in part] if isinstance(part, (list, tuple, np.ndarray))
                     else str(part).split(SEPARATOR) for part in cell if part is not None)  # fmt: skip
            result.append(_distinct(paths))
        else:
            result.append([])
    return result


def _distinct(paths: Iterable[Sequence[str]]) -> list[list[str]]:
    clean = (tuple(name.strip() for name in path if name.strip().lower() not in NO_CATEGORY) for path in paths)
    return [list(path) for path in dict.fromkeys(clean) if path]


def vector_columns(table: SourceTable) -> list[str]:
    """Columns of lists of numbers: one vector per item, all of one length, finite; None where an item has none.

    Raises:
        ValueError: another length, or a value that is not finite; the message names the row.
    """
    found = []
    for name in table.frame.columns:
        column = table.frame[name]
        if column.dtype != object:
            continue
        filled = [(row, cell) for row, cell in enumerate(column) if isinstance(cell, (list, tuple)) and len(cell)]
        if not filled or not all(isinstance(x, (int, float)) and not isinstance(x, bool) for x in filled[0][1]):
            continue
        width = len(filled[0][1])
        for row, cell in filled:
            if len(cell) != width:
                raise table.error(row, name, f"{len(cell)} numbers", f"{width} as in the first row")
            try:
                finite = np.isfinite(np.asarray(cell, dtype=np.float64))
            except (TypeError, ValueError):
                raise table.error(row, name, cell, "a list of numbers") from None
            if not finite.all():
                raise table.error(row, name, cell[int(np.argmin(finite))], "finite numbers")
        found.append(name)
    return found


def attribute_dicts(table: SourceTable, columns: Sequence[str]) -> list[dict[str, str]]:
    """What else is known of the items, as strings: one `{column: value}` each, without the empty ones."""
    parts = [(name, texts(table, name).tolist()) for name in columns]
    return [{name: cells[row] for name, cells in parts if cells[row]} for row in range(len(table.frame))]

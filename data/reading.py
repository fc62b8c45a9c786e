"""Reading people's files: tables of any layout, and where their rows stand."""

from __future__ import annotations

import ast
import csv
import gzip
import json
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.json as pa_json
import pyarrow.parquet as pq


PAIR = ("user_id", "item_id")  # a line of SASRec's layout


@dataclass
class SourceTable:
    """A table as it was read: cells are strings, `""` where missing, except lists and the numbers of JSON and Parquet.

    `kind` is `"csv"`, `"lines"` (one row per line), `"json"` or `"rows"` (no lines to name, as in Parquet and frames).
    """

    name: str
    frame: pd.DataFrame
    kind: str = "rows"
    path: Path | None = None
    notes: list[str] = field(default_factory=list)

    def place(self, row: int) -> str:
        """`file:line` of a row (counted from 0) of the file, or `file: row N` where there are no lines."""
        row = int(row)
        if self.kind == "lines":
            return f"{self.name}:{row + 1}"
        if self.kind == "json" and self.path is not None:
            with _open_text(self.path) as lines:
                filled = (number for number, line in enumerate(lines, start=1) if line.strip())
                return f"{self.name}:{next((n for i, n in enumerate(filled) if i == row), row + 1)}"
        if self.kind == "csv" and self.path is not None:
            with _open_text(self.path) as lines:
                reader = csv.reader(lines, delimiter=_delimiter(self.path))
                filled, before = -2, 0
                for cells in reader:
                    filled += bool(cells)
                    if filled == row:
                        return f"{self.name}:{before + 1}"
                    before = reader.line_num
        return f"{self.name}: row {row}"

    def error(self, row: int, column: str, value: object, expected: str) -> ValueError:
        shown = repr(value.item() if isinstance(value, np.generic) else value)
        return ValueError(f"{self.place(row)}: `{column}` is {shown[:80]}, expected {expected}")


@dataclass
class RawLog:
    """What a recipe hands to `write_dataset`: events and items under our names, and what it did on the way.

    `impressions` has one row per shown item (`data/impressions.py`). Events before `dated_from` have no time of their own;
    `test_start` is where the source says that its test begins.
    """

    events: pd.DataFrame
    items: pd.DataFrame
    time: str = "seconds"
    source: str = ""
    licence: str = "unknown"
    value_threshold: float | None = None
    dropped: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    repairs: dict[str, int] | None = None
    drop_duplicates: bool = False
    merge_texts: bool = False
    impressions: pd.DataFrame | None = None
    dated_from: int | None = None
    test_start: int | None = None


def read_table(path: str | Path) -> SourceTable:
    """Reads CSV, TSV, JSON lines (or one JSON list) or Parquet, also gzipped, and SASRec's layout: no header, a user's and an item's
    number a line with a blank between, in the order of events.

    Raises:
        ValueError: no such file, an empty one, or one of another form; the message names file and line.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path}: {'is a folder, expected a file' if path.is_dir() else 'no such file'}")
    suffixes = [suffix.lower() for suffix in path.suffixes]
    try:
        if ".parquet" in suffixes:
            with pa.input_stream(str(path), compression="detect") as stream:
                source = pa.BufferReader(stream.read()) if suffixes[-1] == ".gz" else path
            return SourceTable(path.name, _plain(pq.read_table(source)), "rows", path)
        if {".json", ".jsonl", ".ndjson"} & set(suffixes):
            return _read_json(path)
        with _open_text(path) as lines:
            pairs = re.fullmatch(r"\d+[ \t]\d+\s*", lines.readline(200))
        return _read_pairs(path) if pairs else _read_csv(path)
    except (pa.ArrowInvalid, OSError, EOFError) as error:
        raise ValueError(f"{path}: not readable ({str(error).splitlines()[0]})") from None


def first_fields(path: Path) -> list[str]:
    """Fields of the first JSON line of a file; none where it is no file of JSON lines."""
    if not path.is_file() or not {".json", ".jsonl", ".ndjson"} & {suffix.lower() for suffix in path.suffixes}:
        return []
    with _open_text(path) as lines:
        try:
            row = _parsed(next(lines, ""))
        except (json.JSONDecodeError, OSError, EOFError):
            return []
    return list(row) if isinstance(row, dict) else []


def read_lines(path: Path, separator: str, names: Sequence[str], encoding: str = "utf-8") -> SourceTable:
    """Reads a file without a header whose cells are separated by a string such as `::`."""
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    notes = []
    content = path.read_bytes()
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError:
        text = content.decode("latin-1")
        notes.append(f"{path.name} is not UTF-8; it was read as Latin-1")
    lines = text.split("\n")
    while lines and not lines[-1].strip():
        lines.pop()
    rows = [line.rstrip("\r").split(separator) for line in lines]
    for number, cells in enumerate(rows, start=1):
        if len(cells) < len(names):
            raise ValueError(
                f"{path.name}:{number}: {len(cells)} fields, expected {len(names)} separated by {separator!r}: "
                f"{lines[number - 1][:80]!r}"
            )
    columns = list(zip(*rows, strict=False)) or [()] * len(names)
    frame = pd.DataFrame({name: pd.Series(columns[i], dtype="str") for i, name in enumerate(names)})
    extra = columns[len(names) :]
    frame.attrs["extra"] = [list(column) for column in extra]
    return SourceTable(path.name, frame, "lines", path, notes)


def _read_pairs(path: Path) -> SourceTable:
    """A user and an item a line, without a header."""
    rows = []
    with _open_text(path) as lines:
        for number, line in enumerate(lines, start=1):
            cells = line.split()
            if len(cells) == 2:
                rows.append(cells)
            elif cells or next(lines, "").strip():
                raise ValueError(
                    f"{path.name}:{number}: {line.strip()[:80]!r}, expected a user and an item as in line 1"
                )
    return SourceTable(path.name, pd.DataFrame(rows, columns=list(PAIR), dtype="str"), "lines", path)


def _open_text(path: Path, encoding: str | None = None):
    opened = gzip.open if path.suffix.lower() == ".gz" else open
    return opened(path, "rt", encoding=encoding or "utf-8-sig", errors=None if encoding else "replace", newline="")


def _delimiter(path: Path) -> str:
    with _open_text(path) as lines:
        header = lines.readline()
    if ".tsv" in (suffix.lower() for suffix in path.suffixes):
        return "\t"
    return max([",", "\t", ";", "|"], key=header.count)


def _read_csv(path: Path) -> SourceTable:
    notes: list[str] = []
    options: dict = {"dtype": str, "keep_default_na": False, "sep": _delimiter(path), "index_col": False}
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", pd.errors.ParserWarning)
            try:
                frame = pd.read_csv(path, encoding="utf-8-sig", **options)
            except UnicodeDecodeError:
                frame = pd.read_csv(path, encoding="latin-1", **options)
                notes.append(f"{path.name} is not UTF-8; it was read as Latin-1")
        if caught:
            _refuse_longer_rows(path, len(frame.columns))
    except pd.errors.EmptyDataError:
        raise ValueError(f"{path}: empty file, expected a header and rows") from None
    except pd.errors.ParserError as error:
        raise ValueError(f"{path.name}: {str(error).strip().splitlines()[-1]}") from None
    frame.columns = [str(name).strip() for name in frame.columns]
    return SourceTable(path.name, frame.fillna(""), "csv", path, notes)


def _refuse_longer_rows(path: Path, width: int) -> None:
    """Rows may end in a separator, but not hold more cells than the header."""
    with _open_text(path) as lines:
        reader = csv.reader(lines, delimiter=_delimiter(path))
        for cells in reader:
            if any(cells[width:]):
                raise ValueError(
                    f"{path.name}:{reader.line_num}: {len(cells)} fields, expected {width} as in the header"
                )


def _read_json(path: Path) -> SourceTable:
    with _open_text(path) as lines:
        head = lines.read(4096).lstrip()
    if not head:
        raise ValueError(f"{path}: empty file, expected JSON lines")
    if head.startswith("["):
        with _open_text(path) as lines:
            try:
                rows = json.load(lines)
            except json.JSONDecodeError as error:
                raise ValueError(f"{path.name}:{error.lineno}: not JSON ({error.msg})") from None
        return SourceTable(path.name, _plain(_from_rows(path, rows)), "rows", path)
    try:
        with pa.input_stream(str(path), compression="detect") as stream:
            table = pa_json.read_json(stream, parse_options=pa_json.ParseOptions(newlines_in_values=False))
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError):  # mixed types, or a line that is no JSON: name it
        rows = []
        with _open_text(path) as lines:
            for number, line in enumerate(lines, start=1):
                if not line.strip():
                    continue
                try:
                    rows.append(_parsed(line))
                except json.JSONDecodeError as error:
                    raise ValueError(f"{path.name}:{number}: not JSON ({error.msg}): {line.strip()[:60]!r}") from None
        return SourceTable(path.name, _plain(_from_rows(path, rows)), "json", path)
    return SourceTable(path.name, _plain(table), "json", path)


def _parsed(line: str):
    """A line of JSON, or of Python literals, in which some older files are written (Amazon's metadata of 2014)."""
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        try:
            return ast.literal_eval(line.strip())
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            raise error from None


def _from_rows(path: Path, rows: list) -> pd.DataFrame:
    for number, row in enumerate(rows):
        if not isinstance(row, dict):
            raise ValueError(f"{path.name}: row {number} is {str(row)[:60]!r}, expected a JSON object")
    names = dict.fromkeys(name for row in rows for name in row)
    return pd.DataFrame({name: pd.Series([row.get(name) for row in rows], dtype=object) for name in names})


def _plain(table: pa.Table | pd.DataFrame) -> pd.DataFrame:
    """Strings with `""` for missing ones, numbers as they are, dates as strings or datetimes, lists as Python
    lists."""
    if isinstance(table, pa.Table):
        frame = pd.DataFrame(index=range(len(table)))
        columns = {}
        for name, column in zip(table.column_names, table.columns, strict=True):
            if pa.types.is_timestamp(column.type) or pa.types.is_date(column.type):
                columns[name] = column.cast(pa.string()).to_pandas().astype("str").fillna("")
            elif pa.types.is_nested(column.type):
                columns[name] = pd.Series(column.to_pylist(), dtype=object)
            elif pa.types.is_floating(column.type) or (pa.types.is_integer(column.type) and not column.null_count):
                columns[name] = column.to_pandas()
            elif pa.types.is_integer(column.type):
                columns[name] = column.cast(pa.string()).to_pandas().astype("str").fillna("")
            else:
                columns[name] = column.cast(pa.string()).to_pandas().astype("str").fillna("")
        return pd.DataFrame(columns, index=frame.index)
    frame = table.reset_index(drop=True).copy()
    for name in frame.columns:
        column = frame[name]
        if column.dtype != object:
            if isinstance(column.dtype, pd.CategoricalDtype):
                column = column.astype(object)
            elif pd.api.types.is_string_dtype(column.dtype):
                frame[name] = column.fillna("")
                continue
            else:
                continue
        nested = column.map(lambda cell: isinstance(cell, (list, tuple, dict, np.ndarray)))
        if nested.any():
            frame[name] = column.map(lambda cell: cell.tolist() if isinstance(cell, np.ndarray) else cell)
        else:
            frame[name] = column.map(lambda cell: "" if pd.isna(cell) else str(cell)).astype("str")
    return frame


def as_source(table: pd.DataFrame, name: str) -> SourceTable:
    """A frame in memory as a source; its errors say `name: row N`."""
    return SourceTable(name, _plain(table))

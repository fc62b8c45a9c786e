"""The interest log in memory: what people did, sorted by person and time, with every item's place in the domain
tree."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import scipy.sparse as sp

from ..taxonomy_interest import DomainTree
from .card import read_facts
from .hub import fetch, stream_tables
from .impressions import Impressions, read_impressions


TRAIN, VALIDATION, TEST = 0, 1, 2
SPLITS = ("train", "validation", "test")
TAXONOMY_FILE = "taxonomy.json"
CARD_FILE = "README.md"


@dataclass(frozen=True)
class InterestLog:
    """One interest dataset as arrays. U users, I items, E events, K domains.

    All event arrays are sorted by (user, timestamp); events that share both keep the order of the source.

    Attributes:
        name (`str`): the dataset's name.
        user_ids (`np.ndarray` of shape `(U,)`, str): the users' own ids, in order of appearance.
        item_ids (`np.ndarray` of shape `(I,)`, str): the items' own ids, in the order of the items table.
        items (`pd.DataFrame`): `item_id`, `title`, `text`, `categories` (a list of paths, root first), and where
            there are any `created_at`, `attributes` (a dict of strings) and vector columns.
        user (`np.ndarray` of shape `(E,)`, int32): user position.
        item (`np.ndarray` of shape `(E,)`, int32): item position, -1 for an event without an item.
        timestamp (`np.ndarray` of shape `(E,)`, int64): seconds, or position where `facts["time"] == "order"`.
        split (`np.ndarray` of shape `(E,)`, int8): `TRAIN`, `VALIDATION` or `TEST`.
        value (`np.ndarray` of shape `(E,)`, float32, *optional*): rating and the like, NaN where missing.
        action (`np.ndarray` of shape `(E,)`, int16, *optional*): code into `actions`, -1 where missing.
        text (`np.ndarray` of shape `(E,)`, object, *optional*): the person's own words, `""` where there are none.
        place (`np.ndarray` of shape `(E, 2)`, float32, *optional*): latitude and longitude in degrees, NaN where
            missing.
        scene (`np.ndarray` of shape `(E,)`, int16, *optional*): code into `scenes`, -1 where missing.
        offsets (`np.ndarray` of shape `(U + 1,)`, int64): user `u` owns events `offsets[u]:offsets[u + 1]`.
        tree (`DomainTree`, *optional*): the domains.
        item_nodes (`sp.csr_matrix` of shape `(I, K)`, float32): membership of each item at every node; K = 0
            without a tree.
        facts (`dict`): how the dataset was made, from the front matter of its card.
        impressions (`Impressions`, *optional*): what was shown and what of it was clicked.
    """

    name: str
    user_ids: np.ndarray
    item_ids: np.ndarray
    items: pd.DataFrame
    user: np.ndarray
    item: np.ndarray
    timestamp: np.ndarray
    split: np.ndarray
    value: np.ndarray | None
    action: np.ndarray | None
    actions: list[str]
    text: np.ndarray | None
    place: np.ndarray | None
    scene: np.ndarray | None
    scenes: list[str]
    offsets: np.ndarray
    tree: DomainTree | None
    item_nodes: sp.csr_matrix
    facts: dict
    impressions: Impressions | None = None

    @property
    def num_users(self) -> int:
        return len(self.user_ids)

    @property
    def num_items(self) -> int:
        return len(self.item_ids)

    @property
    def num_events(self) -> int:
        return len(self.user)

    @classmethod
    def from_frames(
        cls,
        events: pd.DataFrame | pa.Table,
        items: pd.DataFrame | pa.Table,
        facts: dict | None = None,
        tree: DomainTree | None = None,
        impressions: pd.DataFrame | pa.Table | None = None,
    ) -> InterestLog:
        """A log from an events and an items table in memory.

        Args:
            events: `user_id`, `item_id`, `timestamp` (int64), and where there are any `split` (`"train"`,
                `"validation"`, `"test"`; everything trains without it), `value`, `action`, `text`, `latitude` and
                `longitude`, `scene`. Any order; rows of one user and timestamp keep theirs.
            items: `item_id` and where there are any `title`, `text`, `categories` (a list of paths per item) and
                others.
            facts (*optional*): see the class. `recipe`, `split`, `time` and `end` get defaults.
            tree (*optional*): the domains; by default those of the items' categories, None where no item has any.
            impressions (*optional*): `impression_id`, `user_id`, `item_id`, `timestamp`, `clicked`, and `split` as above.

        Raises:
            ValueError: a missing column, an item id that occurs twice, an event of an unknown item, an unknown split.
        """
        table = events if isinstance(events, pa.Table) else pa.Table.from_pandas(events, preserve_index=False)
        for column in ("user_id", "item_id", "timestamp"):
            if column not in table.column_names:
                raise ValueError(f"events: no column `{column}` (columns: {', '.join(table.column_names)})")
        frame = _items_frame(items)
        item_ids = frame["item_id"].to_numpy(dtype=str) if len(frame) else np.empty(0, dtype="<U1")
        item_code = _item_codes(table["item_id"], frame["item_id"])
        user_code, user_ids = _codes(table["user_id"])
        if (user_code < 0).any():
            raise ValueError(f"events: row {int(np.argmax(user_code < 0))} has no `user_id`")
        timestamp = np.asarray(table["timestamp"].cast(pa.int64()).to_numpy(), dtype=np.int64)
        order = np.lexsort((timestamp, user_code))
        counts = np.bincount(user_code, minlength=len(user_ids))

        def column(name: str) -> pa.ChunkedArray | None:
            return table[name] if name in table.column_names and table[name].null_count < len(table) else None

        split = np.zeros(len(table), dtype=np.int8)
        if (splits := column("split")) is not None:
            code, names = _codes(splits)
            unknown = [name for name in names if name not in SPLITS]
            if unknown or (code < 0).any():
                raise ValueError(
                    f"events: split {unknown[0] if unknown else None!r}, expected one of {', '.join(SPLITS)}"
                )
            split = np.array([SPLITS.index(name) for name in names], dtype=np.int8)[code]
        value, latitude, longitude = (_floats(column(name)) for name in ("value", "latitude", "longitude"))
        place = None
        if latitude is not None and longitude is not None:
            place = np.stack([latitude, longitude], axis=1)
            place[np.isnan(place).any(axis=1)] = np.nan
        text = None
        if (texts := column("text")) is not None:
            text = np.asarray(pc.fill_null(texts.cast(pa.string()), "").to_numpy(zero_copy_only=False), dtype=object)
        action, actions = _labels(column("action"))
        scene, scenes = _labels(column("scene"))

        if tree is None and any(len(paths) for paths in frame["categories"]):
            tree = DomainTree.from_paths(frame["categories"])
        facts = dict(facts or {})
        facts.setdefault("recipe", "frames")
        facts.setdefault("split", "global-time")
        facts.setdefault("time", "seconds")
        facts.setdefault("end", int(timestamp.max(initial=-1)) + 1)
        for name in ("validation_start", "test_start", "value_threshold"):
            facts.setdefault(name, None)
        if facts["split"] == "global-time" and "split" in table.column_names:
            for name, code in (("validation_start", VALIDATION), ("test_start", TEST)):
                if facts[name] is None and (split == code).any():
                    facts[name] = int(timestamp[split == code].min())

        def take(array: np.ndarray | None) -> np.ndarray | None:
            return None if array is None else array[order]

        user_ids = np.asarray(user_ids, dtype=str) if len(user_ids) else np.empty(0, dtype="<U1")
        return cls(
            name=str(facts.get("name") or facts["recipe"]),
            user_ids=user_ids,
            item_ids=item_ids,
            items=frame,
            user=user_code[order].astype(np.int32),
            item=item_code[order],
            timestamp=timestamp[order],
            split=split[order],
            value=take(value),
            action=take(action),
            actions=actions,
            text=take(text),
            place=take(place),
            scene=take(scene),
            scenes=scenes,
            offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
            tree=tree,
            item_nodes=item_membership(tree, frame["categories"]),
            facts=facts,
            impressions=None
            if impressions is None
            else Impressions.from_table(impressions, user_ids, item_ids, SPLITS),
        )

    @classmethod
    def load(cls, directory: str | Path, splits: Sequence[str] = SPLITS, streaming: bool = False) -> InterestLog:
        """Reads an interest dataset's folder.

        Args:
            directory: the folder, or a dataset on the Hub, `owner/name` or `owner/name@revision`.
            splits (`Sequence[str]`, *optional*): those whose files are opened; all of them by default.
            streaming (`bool`, *optional*, defaults to `False`): read one on the Hub as `datasets` streams it, so that its
                tables never lie on disk. They are in memory all the same.

        Raises:
            ValueError: not an interest dataset, or a broken one; the message names the file.
        """
        asked, directory = str(directory), Path(directory)
        fetched = not directory.is_dir()
        if fetched:
            if asked.count("/") != 1 or asked.startswith((".", "/", "~")):
                raise ValueError(f"{asked}: no such folder (expected an interest dataset, see `interest-lm prepare`)")
            whole = () if streaming else ("*.parquet",)
            directory = fetch(asked, (CARD_FILE, TAXONOMY_FILE, *whole), "dataset")
        elif streaming:
            raise ValueError(f"{asked}: lies on this machine; `streaming` is for a dataset on the Hub")
        for name in (CARD_FILE,) if streaming else ("items", "events", CARD_FILE):
            if not (directory / name).exists():
                raise ValueError(f"{asked}: no `{name}` in it; expected an interest dataset (`interest-lm prepare`)")
        try:
            facts = read_facts(directory / CARD_FILE)
        except ValueError as error:
            raise ValueError(f"{asked}: {error}" if fetched else str(error)) from None
        if streaming:
            tables, items, shown = stream_tables(asked, splits)
        else:
            tables, items = _read_tables(directory, splits)
        taxonomy = directory / TAXONOMY_FILE
        tree = DomainTree.load(taxonomy) if taxonomy.exists() else None
        facts.setdefault("name", directory.resolve().name)
        if fetched:
            facts["repository"] = asked
        try:
            events = pa.concat_tables(tables, promote_options="permissive")
            if not streaming:
                shown = read_impressions(directory, splits)
            return cls.from_frames(events, items, facts=facts, tree=tree, impressions=shown)
        except (ValueError, pa.ArrowInvalid, pa.ArrowTypeError) as error:
            raise ValueError(f"{directory}: {error}") from None


def item_membership(tree: DomainTree | None, categories: Iterable[Sequence[Sequence[str]]]) -> sp.csr_matrix:
    """`(I, K)` float32: the share of each item at every node of the tree (`DomainTree.membership`)."""
    categories = list(categories)
    if tree is None:
        return sp.csr_matrix((len(categories), 0), dtype=np.float32)
    cache: dict[tuple, tuple[list[int], list[float]]] = {}
    indices: list[int] = []
    weights: list[float] = []
    indptr = [0]
    for paths in categories:
        key = tuple(tuple(path) for path in paths)
        if key not in cache:
            nodes = sorted(tree.membership(key).items())
            cache[key] = [node for node, _ in nodes], [weight for _, weight in nodes]
        indices.extend(cache[key][0])
        weights.extend(cache[key][1])
        indptr.append(len(indices))
    return sp.csr_matrix(
        (np.array(weights, dtype=np.float32), np.array(indices, dtype=np.int32), np.array(indptr, dtype=np.int32)),
        shape=(len(categories), len(tree)),
    )


def _read_tables(directory: Path, splits: Sequence[str]) -> tuple[list[pa.Table], pa.Table]:
    """Tables of events, a file each, with their split, and the table of items."""
    tables = []
    for split in splits:
        files = sorted((directory / "events").glob(f"{split}-*.parquet"))
        if not files and split == "train":
            raise ValueError(f"{directory / 'events'}: no train-*.parquet")
        for file in files:
            table = _read(file)
            tables.append(table.append_column("split", pa.array([split] * len(table), pa.string())))
    item_files = sorted((directory / "items").glob("items-*.parquet"))
    if not item_files:
        raise ValueError(f"{directory / 'items'}: no items-*.parquet")
    return tables, pa.concat_tables([_read(file) for file in item_files], promote_options="permissive")


def _read(file: Path) -> pa.Table:
    try:
        return pq.read_table(file, partitioning=None)
    except (pa.ArrowInvalid, OSError) as error:
        raise ValueError(f"{file}: not readable as Parquet ({str(error).splitlines()[0]})") from None


def _items_frame(items: pd.DataFrame | pa.Table) -> pd.DataFrame:
    """The items with `item_id`, `title`, `text` (strings) and `categories` (lists of lists) in place."""
    if isinstance(items, pa.Table):
        categories = items["categories"].to_pylist() if "categories" in items.column_names else None
        frame = items.drop_columns(["categories"] if categories is not None else []).to_pandas()
        if categories is not None:
            frame["categories"] = pd.Series(categories, dtype=object)
    else:
        frame = items.reset_index(drop=True).copy()
    if "item_id" not in frame:
        raise ValueError(f"items: no column `item_id` (columns: {', '.join(map(str, frame.columns))})")
    frame["item_id"] = frame["item_id"].astype(str)
    if (twice := frame["item_id"].duplicated()).any():
        raise ValueError(f"items: `item_id` {frame['item_id'][twice].iloc[0]!r} occurs twice")
    for name in ("title", "text"):
        frame[name] = frame[name].fillna("").astype(str) if name in frame else ""
    if "categories" in frame:
        frame["categories"] = pd.Series([_paths(paths) for paths in frame["categories"]], dtype=object)
    else:
        frame["categories"] = pd.Series([[] for _ in range(len(frame))], dtype=object)
    if "attributes" in frame:
        frame["attributes"] = pd.Series([attribute_dict(cell) for cell in frame["attributes"]], dtype=object)
    return frame


def attribute_dict(cell) -> dict[str, str]:
    """`{key: value}` of the list of `{"key", "value"}` that the Parquet file holds (`datasets` knows no map type)."""
    if cell is None or isinstance(cell, float):
        return {}
    return dict(cell) if isinstance(cell, dict) else {pair["key"]: pair["value"] for pair in cell}


def _paths(paths) -> list[list[str]]:
    return [] if paths is None or isinstance(paths, float) else [[str(name) for name in path] for path in paths]


def _codes(column: pa.ChunkedArray) -> tuple[np.ndarray, list[str]]:
    """Codes in order of appearance (-1 = null) and the strings they stand for."""
    column = pa.chunked_array([column.combine_chunks()]) if column.num_chunks else column
    if not pa.types.is_string(column.type):
        column = column.cast(pa.string())
    encoded = column.dictionary_encode().combine_chunks() if len(column) else None
    if encoded is None:
        return np.empty(0, dtype=np.int64), []
    encoded = encoded.chunk(0) if isinstance(encoded, pa.ChunkedArray) else encoded
    codes = pc.fill_null(encoded.indices, -1).to_numpy(zero_copy_only=False).astype(np.int64)
    return codes, encoded.dictionary.to_pylist()


def _item_codes(column: pa.ChunkedArray, item_ids: pd.Series) -> np.ndarray:
    """`(E,)` int32 positions in the items table, -1 for an event without an item."""
    codes, names = _codes(column)
    positions = pd.Index(item_ids).get_indexer(pd.Index(names, dtype=object))
    positions[[i for i, name in enumerate(names) if name == ""]] = -1
    missing = [name for name, position in zip(names, positions, strict=True) if position < 0 and name != ""]
    if missing:
        raise ValueError(f"events: item {missing[0]!r} is not in the items table ({len(missing)} such items)")
    return np.concatenate([positions, [-1]]).astype(np.int32)[codes]


def _labels(column: pa.ChunkedArray | None) -> tuple[np.ndarray | None, list[str]]:
    """Codes into the sorted distinct labels; null and the empty string give -1."""
    if column is None:
        return None, []
    codes, names = _codes(column)
    ordered = sorted(name for name in names if name)
    position = {name: code for code, name in enumerate(ordered)}
    return np.array([position.get(name, -1) for name in names] + [-1], dtype=np.int16)[codes], ordered


def _floats(column: pa.ChunkedArray | None) -> np.ndarray | None:
    if column is None:
        return None
    return np.asarray(column.cast(pa.float32()).to_numpy(), dtype=np.float32).copy()

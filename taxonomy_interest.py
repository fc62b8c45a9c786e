# Copyright 2026 The InterestLM team.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
"""The domain tree: what interest is measured in, from broad domains at the top to narrow ones at the leaves; and the scenes that
follow from the time."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np


SEPARATOR = " > "
OTHER = "(other)"


SCENE_RULES = {
    "weekend": ("weekday", "weekend"),
    "hour_band": ("night", "morning", "afternoon", "evening"),
    "weekend_hour": tuple(
        f"{day} {band}" for day in ("weekday", "weekend") for band in ("night", "morning", "afternoon", "evening")
    ),
}


def scene_codes(timestamps, rule: str) -> np.ndarray:
    """Scenes that follow from the time, as positions in `SCENE_RULES[rule]`: weekday or weekend, bands of six hours from
    midnight on (night, morning, afternoon, evening), or both. Hours are those of the timestamps, as if they were UTC.

    Example:

    ```python
    >>> SCENE_RULES["weekend_hour"][scene_codes([0], "weekend_hour")[0]]  # a Thursday at midnight
    'weekday night'

    ```
    """
    timestamps = np.asarray(timestamps, dtype=np.int64)
    weekend = ((timestamps // 86400 + 3) % 7 >= 5).astype(np.int64)
    band = timestamps // 21600 % 4
    if rule == "weekend":
        return weekend
    return band if rule == "hour_band" else 4 * weekend + band


def deepest_paths(paths: Iterable[Sequence[str]]) -> list[tuple[str, ...]]:
    """Distinct non-empty paths that are no prefix of another one, in their order of appearance.

    `[["Film"], ["Film", "Crime"]]` gives `[("Film", "Crime")]`.
    """
    distinct = list(dict.fromkeys(tuple(name for name in path if name) for path in paths))
    inner = {path[:depth] for path in distinct for depth in range(len(path))}
    return [path for path in distinct if path and path not in inner]


class DomainTree:
    """A forest of K domains, parents before children. A node's id is its path, `"Film > Crime"`.

    Args:
        nodes (`list[dict]`): one `{"id", "name", "parent"}` per node; `parent` is the id of another node or `None` at the
            top. Further keys (`items`) are kept. Any order.

    Raises:
        ValueError: a missing or repeated id, an unknown parent, or a cycle; the message quotes the node.
    """

    def __init__(self, nodes: Iterable[dict]):
        nodes = [dict(node) for node in nodes]
        by_id: dict[str, dict] = {}
        for position, node in enumerate(nodes):
            if not isinstance(node.get("id"), str) or not node["id"]:
                raise ValueError(f"taxonomy node {position}: `id` is {node.get('id')!r}, expected a non-empty string")
            if node["id"] in by_id:
                raise ValueError(f"taxonomy node {position}: `id` {node['id']!r} occurs twice")
            node.setdefault("name", node["id"].split(SEPARATOR)[-1])
            node.setdefault("parent", None)
            by_id[node["id"]] = node
        for node in nodes:
            if node["parent"] is not None and node["parent"] not in by_id:
                raise ValueError(f"taxonomy node {node['id']!r}: `parent` {node['parent']!r} is not a node")
        depth: dict[str, int] = {}
        for node in nodes:
            chain, current = [], node
            while current is not None and current["id"] not in depth:
                if current["id"] in chain:
                    cycle = SEPARATOR.join([*chain[chain.index(current["id"]) :], current["id"]])
                    raise ValueError(f"taxonomy has a cycle: {cycle}")
                chain.append(current["id"])
                current = by_id[current["parent"]] if current["parent"] is not None else None
            start = -1 if current is None else depth[current["id"]]
            for steps, identifier in enumerate(reversed(chain), start=1):
                depth[identifier] = start + steps
        self.nodes = sorted(nodes, key=lambda node: depth[node["id"]])
        self.index = {node["id"]: position for position, node in enumerate(self.nodes)}
        self.depth = np.array([depth[node["id"]] for node in self.nodes], dtype=np.int64)
        self.parent = np.array(
            [-1 if node["parent"] is None else self.index[node["parent"]] for node in self.nodes], dtype=np.int64
        )

    @classmethod
    def from_paths(cls, items: Iterable[Iterable[Sequence[str]]]) -> DomainTree:
        """The tree of the category paths of some items (one iterable of paths, root first, per item).

        Where an item ends at an inner node, that node gets an `(other)` child; where an item has no path at all, the top
        gets an `(other)` node: so siblings always sum to their parent. Node key `items` holds the number of items.
        """
        per_item = [deepest_paths(paths) for paths in items]
        prefixes = {path[:depth] for paths in per_item for path in paths for depth in range(1, len(path))}
        count: dict[tuple[str, ...], int] = {}
        for paths in per_item:
            ends = [path + (OTHER,) if path in prefixes else path for path in paths] or [(OTHER,)]
            for node in dict.fromkeys(end[:depth] for end in ends for depth in range(1, len(end) + 1)):
                count[node] = count.get(node, 0) + 1
        ordered = sorted(count, key=lambda path: (len(path), path))
        return cls(
            {
                "id": SEPARATOR.join(path),
                "name": path[-1],
                "parent": SEPARATOR.join(path[:-1]) or None,
                "items": count[path],
            }
            for path in ordered
        )

    @classmethod
    def load(cls, path: str | Path) -> DomainTree:
        """Reads `taxonomy.json`: a list of nodes, or `{"nodes": [...]}`."""
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8"))
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}: not JSON ({error})") from None
        nodes = content.get("nodes") if isinstance(content, dict) else content
        if not isinstance(nodes, list) or not all(isinstance(node, dict) for node in nodes):
            raise ValueError(f"{path}: expected a list of nodes with `id`, `name`, `parent`")
        return cls(nodes)

    def save(self, path: str | Path) -> None:
        """Writes `taxonomy.json`."""
        Path(path).write_text(json.dumps(self.nodes, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")

    def __len__(self) -> int:
        return len(self.nodes)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, DomainTree) and self.ids == other.ids

    @property
    def ids(self) -> list[str]:
        return [node["id"] for node in self.nodes]

    @property
    def names(self) -> list[str]:
        return [node["name"] for node in self.nodes]

    @cached_property
    def is_leaf(self) -> np.ndarray:
        """`(K,)` bool."""
        leaf = np.ones(len(self), dtype=bool)
        leaf[self.parent[self.parent >= 0]] = False
        return leaf

    @property
    def num_levels(self) -> int:
        return int(self.depth.max(initial=-1)) + 1

    def level(self, level: int) -> np.ndarray:
        """Node indices that partition everything at a level (0 = top): nodes of that depth and the leaves above it."""
        return np.flatnonzero((self.depth == level) | (self.is_leaf & (self.depth < level)))

    @cached_property
    def _children(self) -> dict[int, list[int]]:
        children: dict[int, list[int]] = {}
        for node, parent in enumerate(self.parent.tolist()):
            children.setdefault(parent, []).append(node)
        return children

    def _add(self, node: int, weight: float, weights: dict[int, float]) -> None:
        """Adds `weight` to a node, to everything above it, and, under an inner node, down to leaves."""
        ancestor = node
        while ancestor >= 0:
            weights[ancestor] = weights.get(ancestor, 0.0) + weight
            ancestor = int(self.parent[ancestor])
        stack = [(node, weight)]
        while stack:
            inner, share = stack.pop()
            below = self._children.get(inner, [])
            other = self.index.get(self.nodes[inner]["id"] + SEPARATOR + OTHER)
            below = [other] if other is not None else below
            for child in below:
                weights[child] = weights.get(child, 0.0) + share / len(below)
                stack.append((child, share / len(below)))

    def membership(self, paths: Iterable[Sequence[str]]) -> dict[int, float]:
        """Weights `{node: share}` of an item with these category paths, at every level: top shares sum to 1.

        Each of `m` deepest paths gives `1/m`. A path that ends at an inner node goes to its `(other)` child, or evenly to
        its children where it has none; an unknown path goes to its longest known prefix. An item of which nothing is
        known goes to the top `(other)`, or nowhere (an empty dict) where the tree has none.
        """
        known = []
        for path in deepest_paths(paths):
            prefix = next((path[:n] for n in range(len(path), 0, -1) if SEPARATOR.join(path[:n]) in self.index), None)
            if prefix is not None:
                known.append(self.index[SEPARATOR.join(prefix)])
        if not known and OTHER in self.index:
            known = [self.index[OTHER]]
        weights: dict[int, float] = {}
        for node in known:
            self._add(node, 1.0 / len(known), weights)
        return weights

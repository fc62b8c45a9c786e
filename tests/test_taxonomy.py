"""The domain tree: what every tree and every membership in it must satisfy, and what is refused."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interest_lm.taxonomy_interest import OTHER, SEPARATOR, DomainTree, deepest_paths


NAMES = st.sampled_from(["a", "b", "c", "d"])
PATHS = st.lists(NAMES, min_size=0, max_size=4)
ITEMS = st.lists(st.lists(PATHS, max_size=4), min_size=1, max_size=12)


def weights_of(tree: DomainTree, paths) -> np.ndarray:
    weights = np.zeros(len(tree))
    for node, weight in tree.membership(paths).items():
        weights[node] = weight
    return weights


def assert_sums(tree: DomainTree, weights: np.ndarray) -> None:
    """The top sums to 1 and every parent is the sum of its children."""
    assert (weights >= 0).all()
    assert weights[tree.parent == -1].sum() == pytest.approx(1)
    for node in np.flatnonzero(~tree.is_leaf):
        assert weights[tree.parent == node].sum() == pytest.approx(weights[node])


@given(ITEMS)
def test_memberships_of_the_trees_own_items_sum_up(items):
    tree = DomainTree.from_paths(items)
    for paths in items:
        assert_sums(tree, weights_of(tree, paths))


@given(ITEMS, st.lists(PATHS, max_size=4))
def test_memberships_of_new_items_sum_up(items, paths):
    """Unknown paths included: an item is spread as a whole or, where nothing of it is known, not at all."""
    tree = DomainTree.from_paths(items)
    weights = weights_of(tree, paths)
    known = any(path and path[0] in tree.index for path in deepest_paths(paths))
    if known or OTHER in tree.index:
        assert_sums(tree, weights)
    else:
        assert tree.membership(paths) == {}


@given(ITEMS)
def test_every_deepest_path_counts_the_same(items):
    tree = DomainTree.from_paths(items)
    for paths in items:
        deepest = deepest_paths(paths)
        weights = weights_of(tree, paths)
        for path in deepest:
            node = tree.index[SEPARATOR.join(path)]
            node = tree.index.get(tree.nodes[node]["id"] + SEPARATOR + OTHER, node)
            assert weights[node] == pytest.approx(1 / len(deepest))


@given(ITEMS)
def test_trees_of_paths_are_well_formed(items):
    tree = DomainTree.from_paths(items)
    assert len(tree.ids) == len(set(tree.ids)) == len(tree) == len(tree.parent) == len(tree.depth)
    for node, parent in enumerate(tree.parent.tolist()):
        assert parent < node
        assert tree.depth[node] == (0 if parent < 0 else tree.depth[parent] + 1)
        path = tree.ids[node].split(SEPARATOR)
        assert tree.names[node] == path[-1]
        assert tree.ids[node] == SEPARATOR.join([*([tree.ids[parent]] if parent >= 0 else []), path[-1]])
    assert tree.num_levels == tree.depth.max() + 1


@given(ITEMS)
def test_an_other_node_stands_exactly_where_items_end_inside(items):
    tree = DomainTree.from_paths(items)
    inner = {tree.ids[node] for node in np.flatnonzero(~tree.is_leaf)}
    ends = {SEPARATOR.join(path) for paths in items for path in deepest_paths(paths)}
    expected = {end + SEPARATOR + OTHER for end in ends & inner}
    if any(not deepest_paths(paths) for paths in items):
        expected.add(OTHER)
    assert {identifier for identifier in tree.ids if identifier.split(SEPARATOR)[-1] == OTHER} == expected


@given(ITEMS)
def test_items_are_counted_at_every_node(items):
    tree = DomainTree.from_paths(items)
    carried = np.zeros(len(tree), dtype=int)
    for paths in items:
        carried += weights_of(tree, paths) > 0
    assert [node["items"] for node in tree.nodes] == carried.tolist()


@given(ITEMS)
def test_a_level_partitions_everything(items):
    tree = DomainTree.from_paths(items)
    for level in range(tree.num_levels):
        nodes = tree.level(level)
        below = np.isin(np.arange(len(tree)), nodes)
        for node in range(len(tree)):
            chain, current = 0, node
            while current >= 0:
                chain += below[current]
                current = tree.parent[current]
            if tree.is_leaf[node]:
                assert chain == 1
        for paths in items:
            assert weights_of(tree, paths)[nodes].sum() == pytest.approx(1)
    assert set(tree.level(tree.num_levels - 1)) == set(np.flatnonzero(tree.is_leaf))
    assert set(tree.level(0)) == set(np.flatnonzero(tree.parent == -1))


@given(ITEMS, st.randoms(use_true_random=False))
@settings(max_examples=50)
def test_the_order_of_the_nodes_does_not_matter(items, random):
    tree = DomainTree.from_paths(items)
    nodes = list(tree.nodes)
    random.shuffle(nodes)
    shuffled = DomainTree(nodes)
    assert set(shuffled.ids) == set(tree.ids) and (np.diff(shuffled.depth) >= 0).all()
    for paths in items:
        first = {tree.ids[node]: weight for node, weight in tree.membership(paths).items()}
        second = {shuffled.ids[node]: weight for node, weight in shuffled.membership(paths).items()}
        assert first == pytest.approx(second)


@given(st.lists(PATHS, max_size=6))
def test_deepest_paths_are_no_prefixes(paths):
    deepest = deepest_paths(paths)
    assert len(deepest) == len(set(deepest))
    for path in deepest:
        assert path and not any(other != path and other[: len(path)] == path for other in deepest)
    for path in map(tuple, paths):
        assert not path or any(other[: len(path)] == path for other in deepest)


@given(ITEMS)
@settings(max_examples=20)
def test_a_tree_is_saved_and_loaded(tmp_path_factory, items):
    tree = DomainTree.from_paths(items)
    file = tmp_path_factory.mktemp("tree") / "taxonomy.json"
    tree.save(file)
    loaded = DomainTree.load(file)
    assert loaded == tree and loaded.nodes == tree.nodes
    np.testing.assert_array_equal(loaded.parent, tree.parent)


def test_what_an_item_weighs():
    tree = DomainTree.from_paths([[["Film", "Crime"]], [["Film"]], [["Music", "Jazz"]], [["Music", "Rock"]], []])
    assert tree.ids == [
        "(other)", "Film", "Music", "Film > (other)", "Film > Crime", "Music > Jazz", "Music > Rock",
    ]  # fmt: skip

    def named(paths):
        return {tree.ids[node]: weight for node, weight in tree.membership(paths).items()}

    assert named([["Film"], ["Film", "Crime"]]) == {"Film": 1, "Film > Crime": 1}
    assert named([["Film"]]) == {"Film": 1, "Film > (other)": 1}
    assert named([["Film", "Western"]]) == {"Film": 1, "Film > (other)": 1}
    assert named([["Music"]]) == {"Music": 1, "Music > Jazz": 0.5, "Music > Rock": 0.5}
    assert named([["Film", "Crime"], ["Music", "Jazz"]]) == {
        "Film": 0.5, "Film > Crime": 0.5, "Music": 0.5, "Music > Jazz": 0.5,
    }  # fmt: skip
    assert named([["Sport"]]) == named([]) == named([[]]) == {"(other)": 1}
    assert named([["Sport"], ["Music", "Jazz"]]) == {"Music": 1, "Music > Jazz": 1}


def test_nothing_is_known_without_a_top_other():
    tree = DomainTree.from_paths([[["Film"]]])
    assert tree.membership([["Sport"]]) == {} == tree.membership([])


def test_non_latin_names_are_saved_as_they_are(tmp_path):
    tree = DomainTree.from_paths([[["電影", "犯罪"]], [["Música"]]])
    tree.save(tmp_path / "taxonomy.json")
    assert "電影 > 犯罪" in (tmp_path / "taxonomy.json").read_text(encoding="utf-8")
    assert DomainTree.load(tmp_path / "taxonomy.json") == tree


def test_further_keys_are_kept_and_missing_ones_filled():
    tree = DomainTree([{"id": "Film > Crime", "parent": "Film", "items": 3}, {"id": "Film"}])
    assert tree.nodes == [
        {"id": "Film", "name": "Film", "parent": None},
        {"id": "Film > Crime", "name": "Crime", "parent": "Film", "items": 3},
    ]


def test_the_given_nodes_are_not_changed():
    nodes = [{"id": "Film"}]
    DomainTree(nodes)
    assert nodes == [{"id": "Film"}]


def test_an_empty_tree_has_no_levels():
    tree = DomainTree([])
    assert (len(tree), tree.num_levels, tree.membership([["Film"]])) == (0, 0, {})


REFUSED = {
    "cycle": (
        [{"id": "a", "parent": "b"}, {"id": "b", "parent": "c"}, {"id": "c", "parent": "b"}],
        "taxonomy has a cycle: b > c > b",
    ),
    "own parent": ([{"id": "x"}, {"id": "a", "parent": "a"}], "taxonomy has a cycle: a > a"),
    "repeated": ([{"id": "a"}, {"id": "b"}, {"id": "a"}], "taxonomy node 2: `id` 'a' occurs twice"),
    "unknown parent": (
        [{"id": "a"}, {"id": "a > b", "parent": "z"}],
        "taxonomy node 'a > b': `parent` 'z' is not a node",
    ),
    "no id": ([{"id": "a"}, {"name": "b"}], "taxonomy node 1: `id` is None, expected a non-empty string"),
    "empty id": ([{"id": ""}], "taxonomy node 0: `id` is '', expected a non-empty string"),
    "number": ([{"id": 7}], "taxonomy node 0: `id` is 7, expected a non-empty string"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_broken_trees_are_refused(case):
    nodes, message = REFUSED[case]
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        DomainTree(nodes)


@given(st.integers(2, 8), st.data())
def test_every_cycle_is_refused(size, data):
    """A chain of any length whose top hangs under any of its nodes, in any order."""
    names = [f"n{number}" for number in range(size)]
    target = data.draw(st.integers(0, size - 1))
    nodes = [{"id": name, "parent": parent} for name, parent in zip(names, [names[target], *names], strict=False)]
    nodes = data.draw(st.permutations(nodes))
    with pytest.raises(ValueError, match="taxonomy has a cycle: n"):
        DomainTree([{"id": "fine", "parent": None}, *nodes])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[{", "taxonomy.json: not JSON"),
        ('"Film"', "taxonomy.json: expected a list of nodes"),
        ('{"tree": []}', "taxonomy.json: expected a list of nodes"),
        ('["Film"]', "taxonomy.json: expected a list of nodes"),
        (json.dumps([{"id": "a", "parent": "b"}]), "taxonomy node 'a': `parent` 'b' is not a node"),
    ],
)
def test_broken_files_are_refused(tmp_path, content, message):
    (tmp_path / "taxonomy.json").write_text(content)
    with pytest.raises(ValueError, match=re.escape(message)):
        DomainTree.load(tmp_path / "taxonomy.json")


def test_a_file_may_wrap_its_nodes(tmp_path):
    (tmp_path / "taxonomy.json").write_text('{"nodes": [{"id": "Film"}]}')
    assert DomainTree.load(tmp_path / "taxonomy.json").ids == ["Film"]

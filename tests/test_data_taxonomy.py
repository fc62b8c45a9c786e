"""Domain trees: repaired names, handed-in taxonomies, clusters of vectors."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interest_lm.data.taxonomy import load_domains, repair_parents, text_vectors, tree_from_vectors
from interest_lm.taxonomy_interest import DomainTree


def test_majority_parent_and_counts():
    categories = [
        [["Nightlife", "Bar"]],
        [["Nightlife", "Bar"]],
        [["Food", "Bar"]],
        [["Bar", "Bar"]],
        [["Food", "Food"]],
    ]
    repaired, counts = repair_parents(categories)
    assert repaired == [[["Nightlife", "Bar"]]] * 4 + [[["Food"]]]
    assert counts == {"names": 1, "equal_to_parent": 2, "items": 3}
    tree = DomainTree.from_paths(repaired)
    assert tree.ids == ["Food", "Nightlife", "Nightlife > Bar"]


def test_a_name_under_itself_goes_to_its_other_parent_even_if_that_is_rarer():
    repaired, counts = repair_parents([[["Shop", "Store"]], [["Store", "Store"]], [["Store", "Store"]]])
    assert repaired == [[["Shop", "Store"]]] * 3 and counts["items"] == 2


def test_nothing_to_repair_changes_nothing():
    categories = [[["Food", "Bar"]], [["Food"]], [], [["Music", "Jazz"], ["Food", "Bar"]]]
    repaired, counts = repair_parents(categories)
    assert repaired == categories and counts == {"names": 0, "equal_to_parent": 0, "items": 0}


names = st.sampled_from("abcde")


@settings(max_examples=200, deadline=None)
@given(st.lists(st.lists(st.lists(names, min_size=1, max_size=3), max_size=2), max_size=12))
def test_after_repair_every_name_has_one_place(categories):
    repaired, _ = repair_parents(categories)
    places: dict[str, set] = {}
    for paths in repaired:
        for path in paths:
            assert len(set(path)) == len(path)
            for depth, name in enumerate(path):
                places.setdefault(name, set()).add(tuple(path[:depth]))
    assert all(len(found) == 1 for found in places.values())
    assert [[path[-1] for path in paths] for paths in categories if len(paths) == 1] == [
        [path[-1] for path in after] for before, after in zip(categories, repaired, strict=True) if len(before) == 1
    ]


def test_domains_from_paths_nodes_and_files(tmp_path):
    tree = load_domains([["Film", "Crime"], ["Music"]])
    assert tree.ids == ["Film", "Music", "Film > Crime"]
    (tmp_path / "tree.json").write_text(json.dumps({"nodes": tree.nodes}))
    assert load_domains(tmp_path / "tree.json") == tree
    assert load_domains(tree.nodes) == tree and load_domains(tree) is tree


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([{"id": "a", "parent": "b"}, {"id": "b", "parent": "a"}], "taxonomy has a cycle: a > b > a"),
        ([{"id": "a", "parent": "c"}], "`parent` 'c' is not a node"),
        ([{"id": "a"}, {"id": "a"}], "occurs twice"),
        ([["Film", 3]], "expected a list of nodes"),
        ([], "expected a list of nodes"),
    ],
)
def test_a_taxonomy_that_is_no_tree_is_refused(tmp_path, content, message):
    (tmp_path / "tree.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message) as caught:
        load_domains(tmp_path / "tree.json")
    assert "tree.json" in str(caught.value) and "\n" not in str(caught.value)


def shop(size: int = 400) -> tuple[list[str], np.ndarray]:
    rng = np.random.default_rng(0)
    words = [
        ["lamp", "candle", "light", "lantern"],
        ["mug", "teacup", "saucer", "spoon"],
        ["ribbon", "paper", "gift", "bow"],
    ]
    group = rng.integers(0, 3, size)
    return [" ".join(rng.choice(words[g], 3)) for g in group], group


def test_clusters_of_texts_recover_the_groups_and_carry_their_words():
    texts, group = shop()
    tree, paths = tree_from_vectors(text_vectors(texts), texts, num_top=3, max_children=0)
    assert [len(path) for path in paths] == [1] * len(texts) and tree.num_levels == 1
    for kind in range(3):
        tops = [paths[i][0][0] for i in np.flatnonzero(group == kind)]
        assert len(set(tops)) == 1
    assert set(tree.names[0].split(", ")) <= set(" ".join(texts).split())


def test_two_levels_for_large_clusters_and_reproducible():
    texts, _ = shop()
    first, paths = tree_from_vectors(text_vectors(texts), texts, num_top=3)
    again, _ = tree_from_vectors(text_vectors(texts), texts, num_top=3)
    assert first == again and first.num_levels == 2
    members = dict.fromkeys(range(len(first)), 0.0)
    for item in paths:
        for node, share in first.membership(item).items():
            members[node] += share
    assert sum(members[node] for node in np.flatnonzero(first.depth == 0)) == pytest.approx(len(texts))


def test_items_without_words_get_no_path_and_no_words_no_tree():
    texts, _ = shop(60)
    tree, paths = tree_from_vectors(text_vectors([*texts, ""]), [*texts, ""])
    assert paths[-1] == [] and "(other)" in tree.index
    assert text_vectors(["", ""]) is None
    assert tree_from_vectors(np.ones((4, 3)), ["a"] * 4) == (None, [[], [], [], []])


def test_vectors_that_are_not_finite_or_not_one_per_item_are_refused():
    vectors = np.ones((3, 2))
    vectors[1, 0] = np.inf
    with pytest.raises(ValueError, match="row 1 is not finite"):
        tree_from_vectors(vectors, ["a", "b", "c"])
    with pytest.raises(ValueError, match=r"shape \(3, 2\), expected \(2, D\)"):
        tree_from_vectors(np.ones((3, 2)), ["a", "b"])

"""Domains that go together."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.optimize import minimize
from test_model_mathematics import stirred_model
from topic_shares import draw_topics, up_the_tree

from interest_lm.data.log import InterestLog
from interest_lm.taxonomy_interest import DomainTree
from interest_lm.training.topics import fill_topics, find_topics, usual_topics


DAY = 86_400


@pytest.fixture(scope="module")
def two_kinds() -> InterestLog:
    """Half of the people do things in leaves 0 to 3, the others in 4 to 7; the leaves of a kind are in different top domains."""
    random = np.random.default_rng(0)
    items = pd.DataFrame(
        {
            "item_id": [f"i{n}" for n in range(16)],
            "categories": [[[f"top{n % 2}", f"leaf{n // 2}"]] for n in range(16)],
        }
    )
    rows = [
        (f"u{person:03d}", f"i{random.integers(8) + 8 * (person % 2)}", (person + day) * DAY)
        for person in range(60)
        for day in range(20)
    ]
    events = pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp"])
    late = events["timestamp"] >= 70 * DAY
    events["split"] = np.where(late, "test", "train")
    # what comes after training must not be read
    events.loc[late, "item_id"] = "i0"
    facts = {"split": "global-time", "time": "seconds", "validation_start": 69 * DAY, "test_start": 70 * DAY}
    return InterestLog.from_frames(events, items, facts)


def test_topics_are_the_domains_that_the_same_people_like(two_kinds):
    tree = two_kinds.tree
    at_leaves, at_nodes = find_topics(two_kinds, 2)
    np.testing.assert_allclose(at_leaves.sum(1), 1, rtol=1e-5)
    assert (at_leaves[:, ~tree.is_leaf] == 0).all() and (at_leaves[:, tree.is_leaf] > 0).all()
    np.testing.assert_allclose(at_nodes, up_the_tree(at_leaves, tree), rtol=1e-5)
    first = np.array([tree.is_leaf[node] and int(name[-1]) < 4 for node, name in enumerate(tree.ids)])
    shares = np.sort(at_leaves[:, first].sum(1))
    assert shares[0] < 0.05 and shares[1] > 0.95
    # somebody who did two things of a kind is expected to do others of that kind
    config = {"domains": tree.nodes, "num_topics": 2}
    model = stirred_model([1], 0)
    model.domain_head.topics = type(model.domain_head.topics)(SimpleNamespace(**config), tree)
    fill_topics(model, two_kinds)
    counts = torch.zeros(1, len(tree))
    counts[0, np.flatnonzero(first)[0]] = 2.0
    said = model.domain_head.topics(counts)[0].numpy()
    assert said[first].sum() > 0.9 and said[first].min() > 0.05
    other = find_topics(two_kinds, 2, seed=1)[0]
    assert abs(np.sort(other[:, first].sum(1)) - shares).max() < 0.02


def test_topics_of_nothing_are_even(two_kinds):
    at_leaves, at_nodes = find_topics(replace(two_kinds, split=np.full_like(two_kinds.split, 2)), 3)
    leaves = two_kinds.tree.is_leaf
    np.testing.assert_allclose(at_leaves[:, leaves], 1 / leaves.sum(), rtol=1e-6)
    np.testing.assert_allclose(at_nodes[:, two_kinds.tree.depth == 0].sum(1), 1.0, rtol=1e-6)


def test_the_mix_is_the_most_likely_one():
    """The shares of a mix with a Dirichlet prior of 1 + .1 for each topic, by a general optimiser."""
    model = stirred_model([3, 2, 4], 5)
    topics, leaves = model.domain_head.topics, model.domain_head.topics.leaf_shares.numpy().astype(float)
    topics.STEPS = 4000
    counts = np.random.default_rng(1).integers(0, 6, (4, leaves.shape[1])) * (leaves.sum(0) > 0)
    counts[3] = 0
    found = topics(torch.from_numpy(counts).float()).numpy()
    for own, said in zip(counts, found, strict=True):

        def loss(logits, own=own):
            mix = np.exp(logits - logits.max())
            mix = mix / mix.sum()
            return -own @ np.log((mix @ leaves).clip(1e-12)) - 0.1 * np.log(mix).sum()

        logits = minimize(loss, np.zeros(len(leaves)), tol=1e-10).x
        mix = np.exp(logits - logits.max())
        np.testing.assert_allclose(said, mix / mix.sum() @ topics.node_shares.numpy(), atol=2e-3)
    np.testing.assert_allclose(found[3], topics.node_shares.mean(0), atol=1e-5)


def test_what_topics_do_not_know_keeps_its_posterior():
    model = stirred_model([3, 2], 7)
    head, tree = model.domain_head, DomainTree(model.config.domains)
    statistics = head.statistics
    draw_topics(model, 3)
    random = np.random.default_rng(2)
    counts = torch.from_numpy(random.random((2, statistics.num_counts, len(tree)))).float()
    older, population = torch.zeros(2, len(tree)), torch.full((2, 2, len(tree)), 0.2)
    topics = head.topics_of(counts, older, each=True)
    torch.testing.assert_close(topics[:, -1:], head.topics_of(counts, older))
    for unknown in (None, 1):
        if unknown is not None:
            topics[..., unknown] = 0
        posterior, _, components, _ = statistics(counts, older, population, topics)
        assert components.shape[1] == statistics.num_components == statistics.num_counts + 3
        said = components[:, statistics.num_counts].exp()
        sums = torch.zeros(2, len(tree) + 1).index_add(1, statistics.group, said)
        torch.testing.assert_close(sums[:, statistics.group], torch.ones_like(said), atol=1e-5, rtol=0)
        if unknown is not None:
            torch.testing.assert_close(said[:, unknown], posterior[:, unknown].exp())
            assert not torch.allclose(said, posterior.exp(), atol=1e-2)


def test_small_trees_have_no_topics():
    def log(leaves: int) -> SimpleNamespace:
        return SimpleNamespace(tree=DomainTree.from_paths([[["a", f"b{number}"]] for number in range(leaves)]))

    assert [usual_topics(log(leaves)) for leaves in (2, 14, 15, 60, 500)] == [0, 0, 5, 20, 30]
    assert usual_topics(SimpleNamespace(tree=None)) == 0

"""Topics of no log, for tests."""

from __future__ import annotations

import numpy as np
import torch

from interest_lm import InterestModel
from interest_lm.taxonomy_interest import DomainTree


def up_the_tree(leaves: np.ndarray, tree: DomainTree) -> np.ndarray:
    """Shares `(T, K)` at every node of shares `(T, K)` at the leaves."""
    nodes = leaves.copy()
    for leaf in np.flatnonzero(tree.is_leaf):
        above = tree.parent[leaf]
        while above >= 0:
            nodes[:, above] += leaves[:, leaf]
            above = tree.parent[above]
    return nodes


def draw_topics(model: InterestModel, seed: int = 0) -> None:
    """Fills a model's topics at random."""
    tree, topics = DomainTree(model.config.domains), model.domain_head.topics
    leaves = np.zeros((model.config.num_topics, len(tree)))
    drawn = np.random.default_rng(seed).dirichlet(np.ones(tree.is_leaf.sum()), model.config.num_topics)
    leaves[:, tree.is_leaf] = (drawn + 0.01) / (drawn + 0.01).sum(1, keepdims=True)
    with torch.no_grad():
        topics.leaf_shares.copy_(torch.from_numpy(leaves))
        topics.node_shares.copy_(torch.from_numpy(up_the_tree(leaves, tree)))

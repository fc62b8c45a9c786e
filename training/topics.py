"""Domains that go together, found in what people did before anything else learns."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
import torch
from sklearn.decomposition import LatentDirichletAllocation

from ..data.log import TRAIN, InterestLog
from ..modeling_interest import InterestModel


LEAVES_EACH = 3  # leaves for every topic
LEAST, MOST = 5, 30  # topics
PIECE = 100  # events that are one document: interests move, and what is years apart need not go together
DOCUMENTS = 3_000
PRIORS = {"doc_topic_prior": 0.3, "topic_word_prior": 0.1}
ITERATIONS = 15


def usual_topics(log: InterestLog) -> int:
    """A topic for every three leaf domains, 5 to 30; none where there are fewer than fifteen leaves, or no domains."""
    leaves = 0 if log.tree is None else int(log.tree.is_leaf.sum())
    return 0 if leaves < LEAST * LEAVES_EACH else min(leaves // LEAVES_EACH, MOST)


def find_topics(log: InterestLog, number: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Shares of `number` topics at the leaves (0 elsewhere) and at every node, both `(T, K)` float32, from the training events in pieces of
    a hundred, of 3,000 of them at most."""
    tree, train = log.tree, np.flatnonzero((log.split == TRAIN) & (log.item >= 0))
    leaves = np.flatnonzero(tree.is_leaf)
    place = train - log.offsets[log.user[train]]
    document = np.unique(np.stack([log.user[train], place // PIECE]), axis=1, return_inverse=True)[1].ravel()
    chosen = np.random.default_rng(seed).permutation(document.max(initial=-1) + 1)[:DOCUMENTS]
    keep = np.isin(document, chosen)
    shape = document.max(initial=-1) + 1, log.num_items
    counts = sp.csr_matrix((np.ones(keep.sum()), (document[keep], log.item[train[keep]])), shape=shape)
    counts = (counts @ log.item_nodes[:, leaves])[np.sort(chosen)]
    found = np.ones((number, len(leaves)))  # even, where nobody took anything
    if counts.shape[0]:
        found = (
            LatentDirichletAllocation(number, max_iter=ITERATIONS, random_state=seed, **PRIORS).fit(counts).components_
        )
    at_leaves = np.zeros((number, len(tree)), dtype=np.float64)
    at_leaves[:, leaves] = found / found.sum(1, keepdims=True)
    at_nodes = at_leaves.copy()
    for node in range(len(tree) - 1, -1, -1):  # parents stand before children
        if tree.parent[node] >= 0:
            at_nodes[:, tree.parent[node]] += at_nodes[:, node]
    return at_leaves.astype(np.float32), at_nodes.astype(np.float32)


@torch.no_grad()
def fill_topics(model: InterestModel, log: InterestLog, seed: int = 0) -> None:
    """Puts the topics of a log's training events into a model that has any."""
    topics = None if model.domain_head is None else model.domain_head.topics
    if topics is not None:
        for target, shares in zip(
            (topics.leaf_shares, topics.node_shares), find_topics(log, len(topics.leaf_shares), seed)
        ):
            target.copy_(torch.from_numpy(shares))

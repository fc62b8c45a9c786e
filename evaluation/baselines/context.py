"""What baselines of a known context are made of: shares of the leaves, pulls, logarithmic pools, coordinate descent."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import scipy.sparse as sp
from scipy.optimize import minimize

from ...data.labels import history_range
from ..cases import Cases, NextEventCases, take
from ..folds import Fold
from .shares import TUNING_VALUES, Population, level_weights


if TYPE_CHECKING:
    from ...data.log import InterestLog


STRENGTHS = (1.0, 4.0, 16.0, 64.0, 256.0, 1024.0, 4096.0)
SMALL = 1e-9
TUNING_CASES = 10_000
Settings = TypeVar("Settings")


class Leaves:
    """The leaves of the tree: their columns of the K nodes, and the way back up."""

    def __init__(self, log: InterestLog):
        tree = log.tree
        self.nodes = np.flatnonzero(tree.is_leaf)
        self.items = log.item_nodes[:, self.nodes].tocsr()  # (I, L)
        path, up = np.arange(len(tree))[self.nodes], np.zeros((len(self.nodes), len(tree)), dtype=np.float32)
        while (path >= 0).any():
            up[np.flatnonzero(path >= 0), path[path >= 0]] = 1.0
            path = np.where(path >= 0, tree.parent[path], -1)
        self.up = sp.csr_matrix(up)
        self.level_weights = level_weights(tree)

    def shares(self, leaves: np.ndarray) -> np.ndarray:
        """`(Q, K)` shares of all nodes from those of the leaves `(Q, L)`, which are scaled to sum to one."""
        return np.asarray((self.up.T @ (leaves / leaves.sum(1, keepdims=True)).T).T, dtype=np.float32)

    def loss(self, leaves: np.ndarray, counts: np.ndarray) -> float:
        """Cross-entropy of `counts (Q, K)`, the mean over levels."""
        shares = self.shares(leaves)
        return float(-(counts * self.level_weights * np.log(np.maximum(shares, SMALL))).sum() / len(counts))


def descend(settings: Settings, grid: dict[str, tuple], loss) -> Settings:
    """Coordinate descent of `loss(settings)` over `grid`, twice through its fields."""
    lowest = loss(settings)
    for _ in range(2):
        before = settings
        for name, values in grid.items():
            for value in values:
                changed = replace(settings, **{name: value})
                if changed != settings and (found := loss(changed)) < lowest:
                    lowest, settings = found, changed
        if settings == before:
            break
    return settings


class ContextBaseline:
    """One forecast of the next event's domain; all share the population of earlier days and the tables of known events.

    `fit(log, fold, rolling)` takes tables from `fold.known`; population shares come from `rolling.known`, earlier days only.
    """

    name = ""

    def fit(self, log: InterestLog, fold: Fold, rolling: Fold) -> None:
        self.log, self.leaves, self.population = log, Leaves(log), Population(log, rolling)
        event = np.flatnonzero(fold.known & (log.item >= 0))
        start, stop = history_range(log, log.user[event], log.timestamp[event])
        self.target = event
        self.before = np.where(stop > start, stop - 1, -1)

    def base(self, cases: NextEventCases) -> np.ndarray:
        """Everybody's long-run shares before each case, `(Q, L)`."""
        return self.population.shares(cases.time, None)[:, self.leaves.nodes]


class Tilted:
    """Logarithmic pool `f ~ product over parts of part ^ weight` of leaf shares, weights by cross-entropy on the tuning cases."""

    def __init__(self, name: str):
        self.name = name
        self.weights: dict[str, float] = {}

    def tune(self, leaves: Leaves, parts: dict[str, np.ndarray], counts: np.ndarray) -> None:
        """Parts are log shares or log ratios `(Q, L)`; counts `(Q, K)`."""
        stacked = np.stack(list(parts.values())).astype(np.float32)
        weight = counts * leaves.level_weights

        def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
            shares = _softmax(np.einsum("p,pql->ql", weights.astype(np.float32), stacked))
            nodes = np.maximum(np.asarray((leaves.up.T @ shares.T).T), SMALL)
            # of log f_node by the weights: the mean of the part under the node less that under all
            gradient = shares * np.asarray((leaves.up @ (weight / nodes).T).T) - shares * weight.sum(1, keepdims=True)
            slope = np.einsum("pql,ql->p", stacked, gradient)
            return float(-(weight * np.log(nodes)).sum() / len(counts)), -slope.astype(np.float64) / len(counts)

        start = np.zeros(len(parts))
        start[0] = 1.0
        found = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 100})
        self.weights = dict(zip(parts, found.x.tolist(), strict=True))

    def shares(self, leaves: Leaves, parts: dict[str, np.ndarray]) -> np.ndarray:
        """`(Q, K)`."""
        pooled = np.sum([self.weights[name] * part for name, part in parts.items()], axis=0)
        return leaves.shares(_softmax(pooled))

    def describe(self) -> dict:
        return {name: round(weight, 4) for name, weight in self.weights.items()}


def tuning_part(cases: Cases, log: InterestLog) -> Cases:
    """At most 10,000 of the cases, fewer where there are very many domains, drawn at random."""
    limit = min(TUNING_CASES, max(200, TUNING_VALUES // len(log.tree)))
    if len(cases.user) <= limit:
        return cases
    return take(cases, np.sort(np.random.default_rng(0).permutation(len(cases.user))[:limit]))


def rolling(fold: Fold) -> Fold:
    """What is known while the questions of a round are asked one after the other (`global-time`): those of earlier days too."""
    return replace(fold, known=fold.known | fold.asked) if fold.by_time else fold


def pull(counts: np.ndarray, towards: np.ndarray, strength: float) -> np.ndarray:
    """Shares of counts `(Q, L)` under a pull of `strength` events towards other shares."""
    return (counts + strength * towards) / (counts.sum(1, keepdims=True) + strength)


def _softmax(logits: np.ndarray) -> np.ndarray:
    shifted = np.exp(logits - logits.max(1, keepdims=True))
    return shifted / shifted.sum(1, keepdims=True)

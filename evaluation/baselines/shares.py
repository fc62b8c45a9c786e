"""What every forecast of shares is made of: decayed counts of a person, shares of the population, and a pull between them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sp

from ...data.labels import SECONDS_PER_DAY
from ...data.population import even_shares
from ..cases import CompletionCases, ForecastCases, take
from ..folds import Fold
from ..metrics.forecast import SMALLEST_SHARE


if TYPE_CHECKING:
    from ...data.log import InterestLog
    from ...taxonomy_interest import DomainTree


EVENT_HALF_LIVES = (2.5, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0)
DAY_HALF_LIVES = (3.0, 7.0, 14.0, 30.0, 60.0, 120.0, 365.0)
POPULATION_HALF_LIVES = (None, 7.0, 30.0, 120.0)  # days; None: the long run
TUNING_VALUES = 4_000_000  # users times domains of the tuning cases: 16 MB an array
_EVEN_STRENGTH = 10.0  # events of even shares under the population's
_CACHE_BYTES = 256 * 2**20


@dataclass(frozen=True)
class Setting:
    """How a share is estimated.

    Attributes:
        half_life (`float`, *optional*): of the person's counts, in `unit` (`"events"` or `"days"`); None does not decay.
        strength (`float`): events that the pull towards the population is worth.
        conditional (`bool`): the pull acts on each parent's children apart, not on absolute shares.
        population (`float`, *optional*): half-life of the population's counts in days; None is the long run.
    """

    half_life: float | None = None
    unit: str = "events"
    strength: float = 1.0
    conditional: bool = False
    population: float | None = None


class Population:
    """Shares of the known events of everybody, from days before the question's."""

    def __init__(self, log: InterestLog, fold: Fold):
        known = fold.known & (log.item >= 0)
        self.ordered = log.facts["time"] == "order"
        day = np.zeros(int(known.sum()), dtype=np.int64) if self.ordered else log.timestamp[known] // SECONDS_PER_DAY
        self.days, row = np.unique(day, return_inverse=True)
        ones = np.ones(len(row), dtype=np.float32)
        events = sp.csr_matrix((ones, (row, log.item[known])), shape=(len(self.days), log.num_items))
        self.counts = (events @ log.item_nodes).tocsr()
        self.top = np.flatnonzero(log.tree.depth == 0)
        self.even = even_shares(log.tree)

    def shares(self, time: np.ndarray, half_life: float | None) -> np.ndarray:
        """`(Q, K)` float32 absolute shares, none of them zero."""
        if self.ordered:
            counts = np.asarray(self.counts.sum(0))
            inverse = np.zeros(len(time), dtype=np.int64)
        else:
            asked, inverse = np.unique(time // SECONDS_PER_DAY, return_inverse=True)
            gap = (asked[:, None] - self.days).astype(np.float32)
            decay = 1.0 if half_life is None else np.exp2(-np.maximum(gap, 0) / half_life)
            counts = np.where(gap > 0, decay, np.float32(0)).astype(np.float32) @ self.counts
        counts = counts + _EVEN_STRENGTH * self.even
        return (counts / counts[:, self.top].sum(1, keepdims=True)).astype(np.float32)[inverse]


class Evidence:
    """What share baselines read of some cases: nothing but histories, and the population before each time."""

    def __init__(self, log: InterestLog, cases: ForecastCases | CompletionCases, population: Population):
        self.log, self.cases, self.tree = log, cases, log.tree
        self.population_table = population
        self.ages = cases.histories.ages
        self.days = np.zeros(0)
        if log.facts["time"] != "order":
            elapsed = cases.time[cases.histories.rows] - log.timestamp[cases.histories.index]
            self.days = elapsed / SECONDS_PER_DAY
        self.cache: dict[tuple, np.ndarray] = {}
        size = 4 * len(cases.user) * max(len(log.tree), 1)
        self.cached = max(1, _CACHE_BYTES // max(size, 1))

    def _keep(self, key: tuple, value: np.ndarray) -> np.ndarray:
        if len(self.cache) < self.cached:
            self.cache[key] = value
        return value

    def counts(self, half_life: float | None, unit: str) -> np.ndarray:
        """`(Q, K)` decayed events per domain."""
        key = ("counts", half_life, unit)
        if key in self.cache:
            return self.cache[key]
        weights = None
        if half_life is not None:
            weights = np.exp2(-(self.ages if unit == "events" else self.days) / half_life)
        return self._keep(key, self.cases.histories.count_nodes(self.log, weights))

    def window(self, length: float, unit: str) -> np.ndarray:
        """`(Q, K)` events per domain in the last `length` events or days."""
        key = ("window", length, unit)
        if key in self.cache:
            return self.cache[key]
        inside = (self.ages < length) if unit == "events" else (self.days <= length)
        return self._keep(key, self.cases.histories.count_nodes(self.log, inside))

    def population(self, half_life: float | None) -> np.ndarray:
        """`(Q, K)` shares of everybody."""
        key = ("population", half_life)
        if key in self.cache:
            return self.cache[key]
        return self._keep(key, self.population_table.shares(self.cases.time, half_life))

    def shares(self, setting: Setting) -> np.ndarray:
        """`(Q, K)` shares under a setting."""
        counts = self.counts(setting.half_life, setting.unit)
        return posterior(counts, self.population(setting.population), setting.strength, self.tree, setting.conditional)


def parent_sums(values: np.ndarray, tree: DomainTree) -> np.ndarray:
    """`(Q, K)`: at every node its parent's value, at the top the sum over the top."""
    sums = values[:, np.maximum(tree.parent, 0)]
    top = tree.parent < 0
    sums[:, top] = values[:, top].sum(1, keepdims=True)
    return sums


def conditional_shares(counts: np.ndarray, population: np.ndarray, strength: float, tree: DomainTree) -> np.ndarray:
    """`(Q, K)` share of each node among its siblings, pulled towards the population's."""
    prior = population / parent_sums(population, tree)
    return (counts + strength * prior) / (parent_sums(counts, tree) + strength)


def multiply_down(conditional: np.ndarray, tree: DomainTree) -> np.ndarray:
    """Absolute shares from shares among siblings; in place. Parents stand before children."""
    for depth in range(1, tree.num_levels):
        nodes = np.flatnonzero(tree.depth == depth)
        conditional[..., nodes] *= conditional[..., tree.parent[nodes]]
    return conditional


def posterior(
    counts: np.ndarray, population: np.ndarray, strength: float, tree: DomainTree, conditional: bool = False
) -> np.ndarray:
    """`(Q, K)` absolute shares: the Dirichlet posterior mean `(n + s pi) / (N + s)`, at once or parent by parent."""
    if conditional:
        return multiply_down(conditional_shares(counts, population, strength, tree), tree)
    total = counts[:, tree.depth == 0].sum(1, keepdims=True)
    return (counts + strength * population) / (total + strength)


def level_weights(tree: DomainTree) -> np.ndarray:
    """`(K,)`: in what share of the levels each node stands, so that `-sum_k weight_k q_k log f_k` is the mean over levels."""
    levels = [np.isin(np.arange(len(tree)), tree.level(level)) for level in range(tree.num_levels)]
    return np.mean(levels, axis=0)


def mean_cross_entropy(counts: np.ndarray, shares: np.ndarray, tree: DomainTree) -> float:
    """Cross-entropy in nats, the mean over levels and over the users in whose window something happened."""
    total = counts[:, tree.depth == 0].sum(1)
    seen = total > 0
    if not seen.any():
        return float("inf")
    row, node = np.nonzero(counts[seen])
    realised = counts[seen][row, node] / total[seen][row] * level_weights(tree)[node]
    return float(-(realised * np.log(np.maximum(shares[seen][row, node], SMALLEST_SHARE))).sum() / seen.sum())


def tuning_sample(cases: ForecastCases | CompletionCases, num_nodes: int, seed: int = 0):
    """At most `TUNING_VALUES` users times domains of the cases, drawn at random."""
    limit = max(200, TUNING_VALUES // max(num_nodes, 1))
    if len(cases.user) <= limit:
        return cases
    return take(cases, np.sort(np.random.default_rng(seed).permutation(len(cases.user))[:limit]))


def has_days(log: InterestLog) -> bool:
    """Whether half-lives in days mean anything."""
    return log.facts["time"] != "order"


class ShareBaseline:
    """A forecast of shares under one [`Setting`] per horizon, tuned by cross-entropy; the same for completion.

    A subclass lists the values of each field to try in `grid`, in the order in which they are tuned (coordinate descent).
    """

    name = ""
    grid: tuple[tuple[str, tuple], ...] = ()
    starts: tuple[Setting, ...] = (Setting(),)

    def __init__(self) -> None:
        self.settings: dict[float, Setting] = {}
        self.completion_setting = self.starts[0]

    def fit(self, log: InterestLog, fold: Fold) -> None:
        """Takes the population of the known events."""
        self.log, self.population = log, Population(log, fold)

    def tune(self, log: InterestLog, fold: Fold, cases: ForecastCases) -> None:
        """Chooses a setting per horizon (and for the reference horizon)."""
        self.fit(log, fold)
        cases = tuning_sample(cases, len(log.tree))
        evidence = Evidence(log, cases, self.population)
        for position, horizon in enumerate(cases.horizons):
            counts = cases.counts[:, position] * cases.mask[:, position, None]
            self.settings[horizon] = self._descend(evidence, counts, horizon, cases.unit)
        if cases.reference_horizon not in self.settings:
            counts = cases.reference_counts * cases.reference_mask[:, None]
            setting = self._descend(evidence, counts, cases.reference_horizon, cases.unit)
            self.settings[cases.reference_horizon] = setting

    def tune_completion(self, log: InterestLog, fold: Fold, cases: CompletionCases) -> None:
        """Chooses the setting of completion."""
        self.fit(log, fold)
        cases = tuning_sample(cases, len(log.tree))
        evidence = Evidence(log, cases, self.population)
        self.completion_setting = self._descend(evidence, cases.hidden_counts, 0.0, "events")

    def _descend(self, evidence: Evidence, counts: np.ndarray, horizon: float, unit: str) -> Setting:
        if not counts.any():
            return self.starts[0]
        found = [self._descend_from(start, evidence, counts, horizon, unit) for start in self.starts]
        return min(found, key=lambda pair: pair[0])[1]

    def _descend_from(
        self, best: Setting, evidence: Evidence, counts: np.ndarray, horizon: float, unit: str
    ) -> tuple[float, Setting]:
        lowest = mean_cross_entropy(counts, self.shares(evidence, best, horizon, unit), evidence.tree)
        for _ in range(2 if len(self.grid) > 1 else 1):
            before = best
            for field, values in self.grid:
                for value in values:
                    changed = (
                        dict(zip(("half_life", "unit"), value, strict=True)) if field == "decay" else {field: value}
                    )
                    setting = replace(best, **changed)
                    if not has_days(evidence.log) and (setting.unit == "days" or setting.population is not None):
                        continue
                    entropy = mean_cross_entropy(counts, self.shares(evidence, setting, horizon, unit), evidence.tree)
                    if entropy < lowest:
                        lowest, best = entropy, setting
            if best == before:
                break
        return lowest, best

    def shares(self, evidence: Evidence, setting: Setting, horizon: float, unit: str) -> np.ndarray:
        """`(Q, K)` shares; a subclass may look at the horizon."""
        return evidence.shares(setting)

    def forecast(self, cases: ForecastCases) -> dict[str, np.ndarray]:
        """`future (Q, H, K)` and `reference (Q, K)`, the same at the reference horizon."""
        evidence = Evidence(self.log, cases, self.population)
        horizons = [*cases.horizons, cases.reference_horizon]
        made = {h: self.shares(evidence, self.settings[h], h, cases.unit) for h in dict.fromkeys(horizons)}
        return {"future": np.stack([made[h] for h in cases.horizons], axis=1), "reference": made[horizons[-1]]}

    def completion(self, cases: CompletionCases) -> np.ndarray:
        """`(Q, K)` shares of the hidden half."""
        return self.shares(Evidence(self.log, cases, self.population), self.completion_setting, 0.0, "events")

    def describe(self) -> dict:
        """Its tuned settings."""
        fields = [field for name, _ in self.grid for field in (("half_life", "unit") if name == "decay" else (name,))]
        chosen = {f"{h:g}": {f: getattr(s, f) for f in fields} for h, s in self.settings.items()}
        return chosen | {"completion": {f: getattr(self.completion_setting, f) for f in fields}}


DECAY_GRID = (
    (None, "events"),
    *((half_life, "events") for half_life in EVENT_HALF_LIVES),
    *((half_life, "days") for half_life in DAY_HALF_LIVES),
)

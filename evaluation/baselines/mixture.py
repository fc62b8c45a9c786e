"""The mixture: many decayed counts, the whole history and the population, weighted as validation says. The one to beat."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..cases import CompletionCases, ForecastCases
from ..folds import Fold
from .shares import (
    DAY_HALF_LIVES,
    EVENT_HALF_LIVES,
    Evidence,
    Population,
    Setting,
    conditional_shares,
    has_days,
    level_weights,
    multiply_down,
    parent_sums,
    posterior,
    tuning_sample,
)


if TYPE_CHECKING:
    from ...data.log import InterestLog


HISTORY_STRENGTHS = (1.0, 4.0, 16.0, 64.0)
DECAYED_STRENGTHS = (1.0, 6.0, 30.0)
MIXED_POPULATIONS = (None, 3.0, 7.0, 30.0, 120.0)
_PULL_POPULATIONS = (None, 30.0)
_ITERATIONS = 150
_GROUP_PRIOR = 30.0  # users' worth of the common weights in each group's weights
_SAFE_PRIORS = (
    0.0,
    30.0,
    300.0,
)  # users' worth of the best single component in the weights, tried where users are few
_FEW_USERS = 600
_MAX_ROWS = 150_000  # (user, domain) pairs that weights are fitted on


@dataclass(frozen=True)
class _Component:
    setting: Setting | None  # None: the population alone
    population: float | None


@dataclass
class _Weights:
    """Fitted weights of one horizon: `values (groups, depths or 1, C)`, and which history lengths make a group."""

    values: np.ndarray
    bounds: np.ndarray
    conditional: bool


def components(days: bool) -> list[_Component]:
    """Every share estimate that is mixed: populations, whole histories and decayed counts under several pulls."""
    decays = [(half_life, "events") for half_life in EVENT_HALF_LIVES]
    decays += [(half_life, "days") for half_life in DAY_HALF_LIVES] if days else []
    mixed = [_Component(None, population) for population in (MIXED_POPULATIONS if days else (None,))]
    mixed += [
        _Component(Setting(None, "events", strength), population)
        for strength in HISTORY_STRENGTHS
        for population in (_PULL_POPULATIONS if days else (None,))
    ]
    mixed += [
        _Component(Setting(half_life, unit, strength), 30.0 if days else None)
        for half_life, unit in decays
        for strength in DECAYED_STRENGTHS
    ]
    return mixed


class Mixture:
    """A convex mixture of [`components`] per horizon, its weights fitted by expectation maximisation on the tuning cases.

    Where few users can be learnt from, cross-validation may pull the weights towards the best single component. Mixed are absolute shares (one weight vector) or shares among siblings (one per depth), for all users alike or for three
    groups by length of history; which, is decided per horizon by two-fold cross-validation over users. Parents equal the sum of
    their children either way.
    """

    name = "mixture"

    def __init__(self) -> None:
        self.weights: dict[float, _Weights] = {}
        self.completion_weights: _Weights | None = None

    def fit(self, log: InterestLog, fold: Fold) -> None:
        """Takes the population of the known events."""
        self.log, self.population, self.components = log, Population(log, fold), components(has_days(log))

    def tune(self, log: InterestLog, fold: Fold, cases: ForecastCases) -> None:
        """Fits the weights of every horizon (and of the reference horizon)."""
        self.fit(log, fold)
        cases = tuning_sample(cases, len(log.tree))
        evidence = Evidence(log, cases, self.population)
        for position, horizon in enumerate(cases.horizons):
            self.weights[horizon] = self._fit_weights(
                evidence, cases.counts[:, position] * cases.mask[:, position, None]
            )
        if cases.reference_horizon not in self.weights:
            counts = cases.reference_counts * cases.reference_mask[:, None]
            self.weights[cases.reference_horizon] = self._fit_weights(evidence, counts)

    def tune_completion(self, log: InterestLog, fold: Fold, cases: CompletionCases) -> None:
        """Fits the weights of completion."""
        self.fit(log, fold)
        cases = tuning_sample(cases, len(log.tree))
        self.completion_weights = self._fit_weights(Evidence(log, cases, self.population), cases.hidden_counts)

    def _values(self, evidence: Evidence, component: _Component, conditional: bool) -> np.ndarray:
        population = evidence.population(component.population)
        if component.setting is None:
            return population / parent_sums(population, evidence.tree) if conditional else population
        counts = evidence.counts(component.setting.half_life, component.setting.unit)
        estimate = conditional_shares if conditional else posterior
        return estimate(counts, population, component.setting.strength, evidence.tree)

    def _fit_weights(self, evidence: Evidence, counts: np.ndarray) -> _Weights:
        tree = evidence.tree
        length = evidence.cases.histories.lengths
        bounds = np.quantile(length, [1 / 3, 2 / 3]) if len(length) else np.zeros(2)
        total = counts[:, tree.depth == 0].sum(1)
        row, node = np.nonzero(counts * (total > 0)[:, None])
        if not len(row):  # nothing to learn from: the whole history under a middling pull
            values = np.zeros((1, 1, len(self.components)))
            values[0, 0, [c.setting == Setting(None, "events", 4.0) for c in self.components].index(True)] = 1.0
            return _Weights(values, np.zeros(0), False)
        if len(row) > _MAX_ROWS:  # whole users
            users = np.unique(row)
            chosen = np.random.default_rng(0).permutation(users)[: int(len(users) * _MAX_ROWS / len(row))]
            keep = np.isin(row, chosen)
            row, node = row[keep], node[keep]
        share = (counts[row, node] / total[row]).astype(np.float64)
        user = evidence.cases.user[row]
        users = len(np.unique(user))
        half = np.random.default_rng(1).permutation(int(user.max()) + 1)[user] % 2  # all cuts of a user in one half
        best: tuple | None = None
        stored = {}
        for conditional in (False, True) if tree.num_levels > 1 else (False,):
            gathered = [self._values(evidence, c, conditional)[row, node] for c in self.components]
            stored[conditional] = values = np.stack(gathered, axis=1).astype(np.float32)
            parts = tree.depth[node] if conditional else np.zeros(len(node), dtype=np.int64)
            # Conditional cross-entropies of one depth count in every level below it, and separately.
            weight = share * (1.0 if conditional else level_weights(tree)[node])
            below = (tree.num_levels - tree.depth[node]) / tree.num_levels if conditional else 1.0
            for groups, prior in _variants(users):
                group = np.searchsorted(bounds, length[row]) if groups == 3 else np.zeros(len(row), dtype=np.int64)
                loss = 0.0
                for held in (0, 1):
                    train = half != held
                    fitted = _fit_groups(values[train], weight[train], group[train], parts[train], groups, prior)
                    mixed = np.einsum(
                        "rc,rc->r", values[~train], fitted[group[~train], parts[~train] % fitted.shape[1]]
                    )
                    loss -= float((weight * below)[~train] @ np.log(np.maximum(mixed, 1e-12)))
                if best is None or loss < best[0]:
                    best = (loss, conditional, groups, prior)
        _, conditional, groups, prior = best
        group = np.searchsorted(bounds, length[row]) if groups == 3 else np.zeros(len(row), dtype=np.int64)
        parts = tree.depth[node] if conditional else np.zeros(len(node), dtype=np.int64)
        weight = share * (1.0 if conditional else level_weights(tree)[node])
        values = _fit_groups(stored[conditional], weight, group, parts, groups, prior)
        if conditional and values.shape[1] < tree.num_levels:  # a depth without a single event
            values = np.concatenate(
                [values, np.repeat(values[:, -1:], tree.num_levels - values.shape[1], axis=1)], axis=1
            )
        return _Weights(values, bounds if groups == 3 else np.zeros(0), conditional)

    def _mix(self, evidence: Evidence, weights: list[_Weights]) -> list[np.ndarray]:
        """One `(Q, K)` of shares per set of weights; components one by one."""
        tree, length = evidence.tree, evidence.cases.histories.lengths
        mixed = [np.zeros((len(length), len(tree)), dtype=np.float32) for _ in weights]
        for index, component in enumerate(self.components):
            made: dict[bool, np.ndarray] = {}
            for result, weight in zip(mixed, weights, strict=True):
                share = weight.values[:, :, index]
                if share.max() < 1e-5:
                    continue
                if weight.conditional not in made:
                    made[weight.conditional] = self._values(evidence, component, weight.conditional)
                per_case = share[np.searchsorted(weight.bounds, length)].astype(np.float32)  # (Q, depths or 1)
                result += made[weight.conditional] * (per_case[:, tree.depth] if weight.conditional else per_case)
        for result, weight in zip(mixed, weights, strict=True):
            result /= parent_sums(result, tree) if not weight.conditional else _sibling_sums(result, tree)
            multiply_down(result, tree)
        return mixed

    def forecast(self, cases: ForecastCases) -> dict[str, np.ndarray]:
        """`future (Q, H, K)` and `reference (Q, K)`, the same at the reference horizon."""
        horizons = list(dict.fromkeys([*cases.horizons, cases.reference_horizon]))
        evidence = Evidence(self.log, cases, self.population)
        made = dict(zip(horizons, self._mix(evidence, [self.weights[h] for h in horizons]), strict=True))
        future = np.stack([made[h] for h in cases.horizons], axis=1)
        return {"future": future, "reference": made[cases.reference_horizon]}

    def completion(self, cases: CompletionCases) -> np.ndarray:
        """`(Q, K)` shares of the hidden half."""
        evidence = Evidence(self.log, cases, self.population)
        return self._mix(evidence, [self.completion_weights])[0]

    def describe(self) -> dict:
        """Its tuned settings: per horizon what is mixed, in how many groups, and the largest weights."""
        described = {f"{horizon:g}": self._describe(weights) for horizon, weights in self.weights.items()}
        if self.completion_weights is not None:
            described["completion"] = self._describe(self.completion_weights)
        return described

    def _describe(self, weights: _Weights) -> dict:
        mean = weights.values.mean((0, 1))
        top = {}
        for index in np.argsort(-mean)[:5]:
            component = self.components[index]
            label = f"population, half-life {component.population} days"
            if component.setting is not None:
                half_life, unit, strength = (
                    component.setting.half_life,
                    component.setting.unit,
                    component.setting.strength,
                )
                decay = "history" if half_life is None else f"half-life {half_life:g} {unit}"
                label = f"{decay}, pull {strength:g} to population {component.population}"
            top[label] = round(float(mean[index]), 4)
        return {"conditional": weights.conditional, "groups": len(weights.values), "largest_weights": top}


def _sibling_sums(values: np.ndarray, tree) -> np.ndarray:
    """`(Q, K)`: at every node the sum over itself and its siblings."""
    group = tree.parent + 1
    order = np.argsort(group, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(group[order]) != 0])
    sums = np.add.reduceat(values[:, order], starts, axis=1)
    return sums[:, np.searchsorted(group[order][starts], group)]


def _variants(users: int) -> list[tuple[int, float]]:
    """Numbers of groups and strengths of the pull towards the best single component that are worth trying."""
    priors = _SAFE_PRIORS if users < _FEW_USERS else _SAFE_PRIORS[:1]
    return [(groups, prior) for groups in ((1, 3) if users >= 150 else (1,)) for prior in priors]


def _fit_groups(
    values: np.ndarray, weight: np.ndarray, group: np.ndarray, part: np.ndarray, groups: int, prior: float
) -> np.ndarray:
    """`(groups, parts, C)` mixture weights: those of everybody are pulled towards the best single component by `prior`, a
    group's towards those of everybody."""
    parts = int(part.max(initial=0)) + 1
    fitted = np.zeros((groups, parts, values.shape[1]))
    for index in range(parts):
        chosen = part == index
        losses = weight[chosen] @ np.log(np.maximum(values[chosen], 1e-12))
        safe = np.full(values.shape[1], 0.1 / values.shape[1])
        safe[losses.argmax()] += 0.9
        common = expectation_maximisation(values[chosen], weight[chosen], safe if prior else None, prior)
        for which in range(groups):
            inside = chosen & (group == which)
            if groups == 1 or not inside.any():
                fitted[which, index] = common
            else:
                fitted[which, index] = expectation_maximisation(values[inside], weight[inside], common, _GROUP_PRIOR)
    return fitted


def expectation_maximisation(
    values: np.ndarray, weight: np.ndarray, start: np.ndarray | None = None, prior: float = 0.0
) -> np.ndarray:
    """Weights `(C,)` on the simplex that maximise `sum_r weight_r log(values_r . w) + prior sum_c start_c log w_c`.

    Args:
        values (`np.ndarray` of shape `(R, C)`): what each component says about each observed thing, not negative.
        weight (`np.ndarray` of shape `(R,)`): how much each counts.
        start (`np.ndarray` of shape `(C,)`, *optional*): weights to start from, even if not given.
        prior (`float`, defaults to 0): weight of the pull towards `start`.
    """
    count = values.shape[1]
    base = np.full(count, 1.0 / count) if start is None else start
    weights = base.astype(np.float32)
    mass = float(weight.sum()) + prior
    if mass <= 0:
        return base
    weight = weight.astype(np.float32)
    for _ in range(_ITERATIONS):
        ratio = weight / np.maximum(values @ weights, 1e-12)
        weights = ((weights * (ratio @ values) + prior * base) / mass).astype(np.float32)
        weights /= weights.sum()
    return weights.astype(np.float64)

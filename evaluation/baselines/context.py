"""The next event at a known time: hour and weekend, what came last, and the mixture tilted by both."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import scipy.sparse as sp
from scipy.optimize import minimize

from ...data.labels import SECONDS_PER_DAY, history_range
from ..cases import NextEventCases, take
from ..folds import Fold
from .mixture import Mixture
from .shares import TUNING_VALUES, Population, level_weights


if TYPE_CHECKING:
    from ...data.log import InterestLog


STRENGTHS = (1.0, 4.0, 16.0, 64.0, 256.0, 1024.0, 4096.0)
HOURS = (0.5, 1.0, 2.0, 4.0, 8.0)  # half-width: an event so many hours apart counts half
WEEKENDS = (0.0, 0.1, 0.3, 1.0)  # weight of a weekday's event at a weekend and the other way round
BANDS = 4  # of six hours each
_SMALL = 1e-9
Settings = TypeVar("Settings", "HourSettings", "MarkovSettings")


def hour_and_weekend(time: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Hour of the day, with its fraction, and whether it is a weekend, of seconds since 1970."""
    return time % SECONDS_PER_DAY / 3600.0, (time // SECONDS_PER_DAY + 3) % 7 >= 5


def alike(first: np.ndarray, second: np.ndarray, half_width: float, other: float) -> np.ndarray:
    """How much an event at one time says about another time: halves with every `half_width` hours of the day between them,
    squared, times `other` between weekday and weekend."""
    (hour, weekend), (hour2, weekend2) = hour_and_weekend(first), hour_and_weekend(second)
    apart = np.abs(hour - hour2)
    apart = np.minimum(apart, 24.0 - apart) / half_width
    return np.exp2(-(apart**2)) * np.where(weekend == weekend2, 1.0, other)


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
        return float(-(counts * self.level_weights * np.log(np.maximum(shares, _SMALL))).sum() / len(counts))


@dataclass(frozen=True)
class HourSettings:
    """Half-width in hours and weight between weekday and weekend, of everybody and of the person, and the pulls towards the
    whole population and from the person towards everybody."""

    everybody_hours: float = 1.0
    everybody_other: float = 0.1
    everybody_strength: float = 64.0
    hours: float = 2.0
    other: float = 0.3
    strength: float = 4.0


@dataclass(frozen=True)
class MarkovSettings:
    """Pulls of what followed the last domain towards the population, of that within its six hours and kind of day towards all
    times, and of the person's own towards everybody's."""

    strength: float = 16.0
    context_strength: float = 64.0
    own_strength: float = 16.0


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


class HourContext(ContextBaseline):
    """What the person does at this hour on this kind of day, pulled towards what everybody does then."""

    name = "hour_context"

    def __init__(self) -> None:
        self.settings = HourSettings()

    def everybody(self, cases: NextEventCases, settings: HourSettings) -> np.ndarray:
        """`(Q, L)` shares of everybody at this hour and kind of day: a table of 24 hours by two."""
        time = self.log.timestamp[self.target]
        slot = _slot(time)
        counts = sp.csr_matrix((np.ones(len(slot)), (slot, np.arange(len(slot)))), shape=(48, len(slot)))
        counts = np.asarray((counts @ self.leaves.items[self.log.item[self.target]]).todense())
        moments = np.arange(48) % 24 * 3600 + 1800 + np.where(np.arange(48) >= 24, 2, 0) * SECONDS_PER_DAY
        kernel = alike(
            moments[:, None], moments[None], settings.everybody_hours, settings.everybody_other
        )  # 3 January 1970 was a Saturday
        counts = (kernel @ counts)[_slot(cases.time)]
        base, strength = self.base(cases), settings.everybody_strength
        return (counts + strength * base) / (counts.sum(1, keepdims=True) + strength)

    def counts(self, cases: NextEventCases, hours: float, other: float) -> np.ndarray:
        """`(Q, L)` the person's own events, weighted by how alike their times are."""
        histories = cases.histories
        weights = alike(cases.time[histories.rows], self.log.timestamp[histories.index], hours, other)
        return (histories.matrix(self.log, weights) @ self.leaves.items).toarray()

    def mixed(self, cases: NextEventCases, settings: HourSettings) -> np.ndarray:
        everybody, own = self.everybody(cases, settings), self.counts(cases, settings.hours, settings.other)
        return (own + settings.strength * everybody) / (own.sum(1, keepdims=True) + settings.strength)

    def tune(self, cases: NextEventCases) -> None:
        """Everybody's table first, then the person's own."""
        counts = cases.reference_counts
        grid = {"everybody_hours": HOURS, "everybody_other": WEEKENDS, "everybody_strength": STRENGTHS}
        found = descend(self.settings, grid, lambda s: self.leaves.loss(self.everybody(cases, s), counts))
        grid = {"hours": HOURS, "other": WEEKENDS, "strength": STRENGTHS}
        self.settings = descend(found, grid, lambda s: self.leaves.loss(self.mixed(cases, s), counts))

    def shares(self, cases: NextEventCases) -> np.ndarray:
        """`(Q, K)`."""
        return self.leaves.shares(self.mixed(cases, self.settings))

    def describe(self) -> dict:
        return {field.name: getattr(self.settings, field.name) for field in fields(self.settings)}


class Markov(ContextBaseline):
    """What follows the domain of the last event, in these six hours of a weekday or a weekend: everybody's table, backed off to
    all times and to the population, under the person's own transitions."""

    name = "markov"

    def __init__(self) -> None:
        self.settings = MarkovSettings()

    def fit(self, log: InterestLog, fold: Fold, rolling: Fold) -> None:
        super().fit(log, fold, rolling)
        pair = self.before >= 0
        pair[pair] = log.item[self.before[pair]] >= 0
        last, following = (self.leaves.items[log.item[part]] for part in (self.before[pair], self.target[pair]))
        band = _band(log.timestamp[self.target[pair]])
        self.tables = [(last.T @ following).tocsr()]
        for number in range(2 * BANDS):
            self.tables.append((last[band == number].T @ following[band == number]).tocsr())
        # the domains of the event before every event of the log: what the person's own transitions start from
        start, stop = history_range(log, log.user, log.timestamp)
        self.came_from = self._domains(np.where(stop > start, log.item[np.maximum(stop - 1, 0)], -1))

    def _domains(self, item: np.ndarray) -> sp.csr_matrix:
        """`(n, L)` leaf shares of items, zeros for -1."""
        return (sp.diags((item >= 0).astype(np.float32)) @ self.leaves.items[np.maximum(item, 0)]).tocsr()

    def mixed(self, cases: NextEventCases, settings: MarkovSettings) -> np.ndarray:
        last = self._domains(cases.histories.items(self.log)[cases.histories.offsets[1:] - 1])
        all_times, band = self.tables[0], _band(cases.time)
        shares = _pull((last @ all_times).toarray(), self.base(cases), settings.strength)
        here = np.zeros_like(shares)
        for number in range(2 * BANDS):
            here[band == number] = (last[band == number] @ self.tables[1 + number]).toarray()
        shares = _pull(here, shares, settings.context_strength)
        return _pull(self.own(cases, last), shares, settings.own_strength)

    def own(self, cases: NextEventCases, last: sp.csr_matrix) -> np.ndarray:
        """`(Q, L)` the person's own events, weighted by how far what came before them shares the last domain."""
        histories = cases.histories
        weights = np.asarray(self.came_from[histories.index].multiply(last[histories.rows]).sum(1)).ravel()
        return (histories.matrix(self.log, weights) @ self.leaves.items).toarray()

    def tune(self, cases: NextEventCases) -> None:
        grid = dict.fromkeys(("strength", "context_strength", "own_strength"), STRENGTHS)
        loss = lambda s: self.leaves.loss(self.mixed(cases, s), cases.reference_counts)  # noqa: E731
        self.settings = descend(self.settings, grid, loss)

    def shares(self, cases: NextEventCases) -> np.ndarray:
        """`(Q, K)`."""
        return self.leaves.shares(self.mixed(cases, self.settings))

    def describe(self) -> dict:
        return {field.name: getattr(self.settings, field.name) for field in fields(self.settings)}


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
            nodes = np.maximum(np.asarray((leaves.up.T @ shares.T).T), _SMALL)
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


class NextEventBaselines:
    """All of them together, since the pools are made of the others.

    `mixture_context` is the mixture times what the hour and the kind of day change, for everybody and for the person;
    `context_mix` adds Markov's and the hour's own shares to that pool.
    """

    def __init__(self) -> None:
        self.mixture, self.hour, self.markov = Mixture(), HourContext(), Markov()
        self.context, self.best = Tilted("mixture_context"), Tilted("context_mix")

    def tune(self, log: InterestLog, fold: Fold, cases: NextEventCases) -> None:
        """Everything on the cases of a round; `cases` are thinned where there are very many domains."""
        limit = max(200, TUNING_VALUES // len(log.tree))
        if len(cases.user) > limit:
            cases = take(cases, np.sort(np.random.default_rng(0).permutation(len(cases.user))[:limit]))
        self.fit(log, fold)
        self.mixture.tune(log, rolling(fold), cases)
        self.hour.tune(cases)
        self.markov.tune(cases)
        parts = self._parts(cases)
        counts = cases.reference_counts
        self.context.tune(self.hour.leaves, _first(parts), counts)
        self.best.tune(self.hour.leaves, parts, counts)

    def fit(self, log: InterestLog, fold: Fold) -> None:
        """Takes tables of the known events, and the population of all earlier days."""
        self.mixture.fit(log, rolling(fold))
        for part in (self.hour, self.markov):
            part.fit(log, fold, rolling(fold))

    def _parts(self, cases: NextEventCases) -> dict[str, np.ndarray]:
        leaves, settings = self.hour.leaves, self.hour.settings
        mixture = self.mixture.forecast(cases)["future"][:, 0][:, leaves.nodes]
        base, everybody = self.hour.base(cases), self.hour.everybody(cases, settings)
        now = _pull(self.hour.counts(cases, settings.hours, settings.other), base, settings.strength)
        always = _pull(cases.histories.count_nodes(self.hour.log)[:, leaves.nodes], base, settings.strength)
        values = {
            "mixture": mixture,
            "hour of everybody": everybody / np.maximum(base, _SMALL),
            "hour of the person": now / np.maximum(always, _SMALL),
            "hour_context": self.hour.mixed(cases, settings),
            "markov": self.markov.mixed(cases, self.markov.settings),
        }
        return {name: np.log(np.maximum(value, _SMALL)) for name, value in values.items()}

    def shares(self, cases: NextEventCases) -> dict[str, np.ndarray]:
        """`{name: (Q, K)}` of every baseline."""
        leaves, parts = self.hour.leaves, self._parts(cases)
        return {
            "population": leaves.shares(self.hour.base(cases)),
            "mixture": self.mixture.forecast(cases)["future"][:, 0],
            "hour_context": self.hour.shares(cases),
            "markov": self.markov.shares(cases),
            "mixture_context": self.context.shares(leaves, _first(parts)),
            "context_mix": self.best.shares(leaves, parts),
        }

    def describe(self) -> dict[str, dict]:
        """Their tuned settings by name."""
        mixture = {key: value for key, value in self.mixture.describe().items() if key != "completion"}
        parts = (self.hour, self.markov, self.context, self.best)
        return {"mixture": mixture} | {part.name: part.describe() for part in parts}


def rolling(fold: Fold) -> Fold:
    """What is known while the questions of a round are asked one after the other (`global-time`): those of earlier days too."""
    return replace(fold, known=fold.known | fold.asked) if fold.by_time else fold


def _first(parts: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return dict(list(parts.items())[:3])


def _slot(time: np.ndarray) -> np.ndarray:
    hour, weekend = hour_and_weekend(time)
    return hour.astype(np.int64) + 24 * weekend


def _band(time: np.ndarray) -> np.ndarray:
    return _slot(time) // (24 // BANDS)


def _pull(counts: np.ndarray, towards: np.ndarray, strength: float) -> np.ndarray:
    return (counts + strength * towards) / (counts.sum(1, keepdims=True) + strength)


def _softmax(logits: np.ndarray) -> np.ndarray:
    shifted = np.exp(logits - logits.max(1, keepdims=True))
    return shifted / shifted.sum(1, keepdims=True)

"""The oracle of the generated world: it knows the laws of the world, but of a person only the events it is shown.

It sums over every hidden state (stratum x entry x speed, home city, activity class): Bayesian posterior means, hence
the best forecast in cross-entropy that anything can make from those events. What it leaves to the truth is chance.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..taxonomy_interest import SEPARATOR
from .synthetic import SECONDS_PER_DAY, Truth, World, WorldConfig, WorldProcess, expected_growth, make_people
from .synthetic_words import CITIES


if TYPE_CHECKING:
    from .log import InterestLog


_STEP_DAYS = 3.5  # a window's mean share is taken at moments at most this far apart


class Oracle:
    """Exact posterior of the hidden states given some of a person's events, and what it says about shares.

    Histories are ragged and in time order: list `q` is the slice `offsets[q]:offsets[q + 1]` of `leaf`, `time` and
    `city`. N leaves in the order of `process.paths`; a city of -1 is unknown.

    Args:
        process (`WorldProcess`): the laws of the world.
    """

    def __init__(self, process: WorldProcess):
        self.process = process
        self._states = (process.config.num_strata, process.num_levels)
        unknown = process.shares.mean(1, keepdims=True)
        by_leaf = np.concatenate([process.shares, unknown], axis=1).transpose(0, 1, 4, 2, 3)
        self._by_leaf = np.ascontiguousarray(by_leaf)  # (T, C + 1, N, S, L)
        self._by_state = process.shares.reshape(
            process.num_weeks, len(CITIES), -1, len(process.paths)
        )  # (T, C, S L, N)

    def filter(self, leaf: np.ndarray, time: np.ndarray, city: np.ndarray, offsets: np.ndarray) -> np.ndarray:
        """Posterior `(M, S, L)` over strata and levels at each event, given the events of its list up to and with it.

        Rabiner (1989), "A tutorial on hidden Markov models", equations 19-20, scaled.
        """
        chances = np.empty((len(leaf), *self._states))
        count = np.diff(offsets)
        week = self.process.week(time)
        seen = self._by_leaf[week, city, leaf].astype(np.float64)
        for step in range(int(count.max(initial=0))):
            now = offsets[:-1][count > step] + step
            state = np.ones((len(now), *self._states))
            if step:
                state = self._move(chances[now - 1], week[now] - week[now - 1])
            state = state * seen[now]
            chances[now] = state / state.sum(axis=(1, 2), keepdims=True)
        return chances

    def smooth(self, leaf: np.ndarray, time: np.ndarray, city: np.ndarray, offsets: np.ndarray) -> np.ndarray:
        """Posterior `(M, S, L)` at each event, given all events of its list (the same, equations 24-27)."""
        chances = self.filter(leaf, time, city, offsets)
        later = np.ones_like(chances)
        count = np.diff(offsets)
        week = self.process.week(time)
        seen = self._by_leaf[week, city, leaf].astype(np.float64)
        for step in range(2, int(count.max(initial=0)) + 1):
            now = offsets[1:][count >= step] - step
            message = self._move(later[now + 1] * seen[now + 1], week[now + 1] - week[now], back=True)
            later[now] = message / message.sum(axis=(1, 2), keepdims=True)
        chances = chances * later
        return chances / chances.sum(axis=(1, 2), keepdims=True)

    def _move(self, chances: np.ndarray, weeks: np.ndarray, back: bool = False) -> np.ndarray:
        moves = self.process.moves[np.minimum(weeks, len(self.process.moves) - 1)]  # (n, L, L)
        return np.matmul(chances, moves.transpose(0, 2, 1) if back else moves)

    def cities(self, city: np.ndarray, offsets: np.ndarray) -> np.ndarray:
        """Predictive shares `(Q, C)` of the cities of further events, the home being hidden."""
        query = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
        known = city >= 0
        counts = np.zeros((len(offsets) - 1, len(CITIES)))
        np.add.at(counts, (query[known], city[known]), 1.0)
        home = counts @ np.log(self.process.city_share).T
        home = np.exp(home - home.max(1, keepdims=True))
        return home / home.sum(1, keepdims=True) @ self.process.city_share

    def predict(self, chances: np.ndarray, cities: np.ndarray, time: np.ndarray) -> np.ndarray:
        """Mean shares `(M, N)` of the next leaf at M moments, given chances `(M, S, L)` of the hidden states and `(M, C)`."""
        shares = np.zeros((len(time), len(self.process.paths)))
        states = chances.reshape(len(time), np.prod(self._states))
        week = self.process.week(time)
        order = np.argsort(week, kind="stable")
        weeks, first = np.unique(week[order], return_index=True)
        for value, rows in zip(weeks, np.split(order, first[1:])):
            for city in range(len(CITIES)):
                shares[rows] += cities[rows, city, None] * (states[rows] @ self._by_state[value, city])
        return shares

    def interest(
        self, leaf: np.ndarray, time: np.ndarray, city: np.ndarray, offsets: np.ndarray, at: np.ndarray
    ) -> np.ndarray:
        """Long-run shares `(Q, N)`: the posterior mean share, averaged over the moments of the events that are shown.

        It is the predictive distribution of other events of the same time, such as a hidden half. Without events it is
        that of the time `at` `(Q,)`.
        """
        count = np.diff(offsets)
        query = np.repeat(np.arange(len(count)), count)
        cities = self.cities(city, offsets)
        shares = self.predict(self.smooth(leaf, time, city, offsets), cities[query], time)
        total = np.zeros((len(count), shares.shape[1]))
        np.add.at(total, query, shares)
        empty = count == 0
        flat = np.full((int(empty.sum()), *self._states), 1.0 / np.prod(self._states))
        total[empty] = self.predict(flat, cities[empty], at[empty])
        return total / np.maximum(count, 1)[:, None]

    def future(
        self,
        leaf: np.ndarray,
        time: np.ndarray,
        city: np.ndarray,
        offsets: np.ndarray,
        at: np.ndarray,
        horizons: Sequence[float],
    ) -> np.ndarray:
        """Predictive shares `(Q, H, N)` of the events in `[at, at + horizon)`, horizons in days."""
        last, known = offsets[1:] - 1, np.diff(offsets) > 0
        state = np.full((len(at), *self._states), 1.0 / np.prod(self._states))
        state[known] = self.filter(leaf, time, city, offsets)[last[known]]
        week = self.process.week(at)
        week[known] = self.process.week(time[last[known]])
        cities = self.cities(city, offsets)
        future = np.zeros((len(at), len(horizons), len(self.process.paths)))
        for column, horizon in enumerate(horizons):
            steps = max(1, int(np.ceil(horizon / _STEP_DAYS)))
            for step in range(steps):
                moment = at + int((step + 0.5) / steps * horizon * SECONDS_PER_DAY)
                moved = self._move(state, np.maximum(self.process.week(moment) - week, 0))
                future[:, column] += self.predict(moved, cities, moment) / steps
        return future

    def intensity(
        self, time: np.ndarray, offsets: np.ndarray, at: np.ndarray, horizons: Sequence[float]
    ) -> np.ndarray:
        """Expected number of events `(Q, H)` in `[at, at + horizon)`, the first event shown taken for joining.

        It needs all events up to `at`; without any the person has not joined and the prior mean stands.
        """
        config = self.process.config
        activity, trend = (
            grid.ravel()
            for grid in np.meshgrid(np.array(config.events_per_day), np.array(config.activity_trends) / 365.25)
        )
        count = np.diff(offsets)
        join = at.copy()
        join[count > 0] = time[offsets[:-1][count > 0]]
        query = np.repeat(np.arange(len(count)), count)
        days = (at - join)[:, None] / SECONDS_PER_DAY
        since = np.bincount(query, (time - join[query]) / SECONDS_PER_DAY, minlength=len(count))
        log_likelihood = np.maximum(count - 1, 0)[:, None] * np.log(activity) + since[:, None] * trend
        log_likelihood -= activity * expected_growth(trend, np.zeros_like(days), days)
        weight = np.exp(log_likelihood - log_likelihood.max(1, keepdims=True))
        weight /= weight.sum(1, keepdims=True)
        expected = [(weight * activity * expected_growth(trend, days, days + horizon)).sum(1) for horizon in horizons]
        return np.stack(expected, axis=1)


class OraclePredictor:
    """The oracle (and the truth) in the form that the evaluation asks: answers at the K nodes of a prepared log.

    Args:
        config (`WorldConfig`): the world that the log was generated from.
        log (`InterestLog`): the prepared log.
        reference_horizon (`float`, *optional*): horizon in days of the change rate; the last of the cases' if not
            given.
    """

    def __init__(self, world: World | WorldConfig, log: InterestLog, reference_horizon: float | None = None):
        process = world.truth.process if isinstance(world, World) else WorldProcess(world)
        self.oracle, self.log, self.reference_horizon = Oracle(process), log, reference_horizon
        self.truth: Truth = world.truth if isinstance(world, World) else make_people(process)[0]
        position = {name: row for row, name in enumerate(process.items["item_id"])}
        leaf = np.array([process.item_leaf[position[name]] for name in log.item_ids.tolist()], dtype=np.int64)
        self._item_leaf = leaf
        self._city = _nearest_city(log.place, len(log.item))
        self._nodes = np.zeros((len(process.paths), len(log.tree)))  # (N, K) leaf shares to node shares
        for row, path in enumerate(process.paths):
            for depth in range(1, len(path) + 1):
                node = log.tree.index.get(SEPARATOR.join(path[:depth]))
                if node is not None:
                    self._nodes[row, node] = 1.0
        users = {name: row for row, name in enumerate(self.truth.user_ids.tolist())}
        self._user = np.array([users[name] for name in log.user_ids.tolist()], dtype=np.int64)

    def _histories(self, histories: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        index = np.asarray(histories.index, dtype=np.int64)
        leaf = self._item_leaf[np.asarray(histories.items(self.log))]
        return leaf, self.log.timestamp[index], self._city[index], np.asarray(histories.offsets)

    def interest(self, cases: Any) -> np.ndarray:
        """Long-run shares `(Q, K)` over the moments of the events shown."""
        return self.oracle.interest(*self._histories(cases.histories), np.asarray(cases.time)) @ self._nodes

    def completion(self, cases: Any) -> np.ndarray:
        """Predictive shares `(Q, K)` of the hidden half, given the visible half."""
        return self.interest(cases)

    def forecast(self, cases: Any) -> dict[str, np.ndarray]:
        """`interest (Q, K)`, `future (Q, H, K)`, `change_rate (Q, K)` and `intensity (Q, H)`; horizons in days."""
        if cases.unit != "days":
            raise ValueError(f"the oracle of the generated world answers horizons in 'days', not in {cases.unit!r}")
        leaf, time, city, offsets = self._histories(cases.histories)
        at, horizons = np.asarray(cases.time), [float(horizon) for horizon in cases.horizons]
        interest = self.interest(cases)
        future = self.oracle.future(leaf, time, city, offsets, at, horizons) @ self._nodes
        column = -1 if self.reference_horizon is None else horizons.index(float(self.reference_horizon))
        reference = future[:, column]
        return {
            "interest": interest,
            "future": future,
            "change_rate": (reference - interest) / (reference + interest),
            "intensity": self.oracle.intensity(time, offsets, at, horizons),
        }

    def true_interest(self, user: np.ndarray, time: np.ndarray) -> np.ndarray:
        """True expected long-run shares `(Q, K)` of users (positions in the log) from joining to `time`."""
        return self.truth.true_interest(self._user[user], time) @ self._nodes

    def true_future(self, user: np.ndarray, time: np.ndarray, horizons: Sequence[float]) -> np.ndarray:
        """True expected shares `(Q, H, K)` in `[time, time + horizon)`, horizons in days."""
        return self.truth.true_future(self._user[user], time, list(horizons)) @ self._nodes

    def true_change_rate(self, user: np.ndarray, time: np.ndarray, horizon: float) -> np.ndarray:
        """True change rate `(Q, K)` of every node: `(f - p) / (f + p)` of the two above."""
        interest, future = self.true_interest(user, time), self.true_future(user, time, [horizon])[:, 0]
        return (future - interest) / (future + interest)


def oracle_for(log: InterestLog, reference_horizon: float | None = None) -> OraclePredictor | None:
    """The oracle of a prepared log, or `None` where that is no generated world (`facts["world"]`) or has no domains."""
    facts = log.facts.get("world")
    if not facts or log.tree is None:
        return None
    return OraclePredictor(WorldConfig.from_facts(facts), log, reference_horizon)


def _nearest_city(place: np.ndarray | None, events: int) -> np.ndarray:
    if place is None:
        return np.full(events, -1, dtype=np.int64)
    centres = np.array([centre for centre, _ in CITIES.values()], dtype=np.float32)
    distance = ((place[:, None, :] - centres) ** 2).sum(-1)
    return np.where(np.isnan(distance).any(1), -1, np.nan_to_num(distance).argmin(1))

"""The generated world: people whose true interests, changes and futures are known.

Everybody belongs to a hidden *stratum*. A stratum is a journey through a ring of stages, each stage a peaked
distribution over leaf domains. A person stands at some hidden place in the ring and moves on at random moments, first
to a blend of this stage and the next, then to the next one: so the latest events tell where somebody stands, a new
interest that shows itself is going to grow, and what comes after a leaf can be learnt from other people. Domains have
a season, cities tilt a few domains, items are drawn within the leaf by popularity, freshness and short series that
people follow, and ratings say how much the thing was liked. All of it is discrete (weeks, levels of the ring, cities),
so that the [`Oracle`] sums over every hidden path exactly.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import asdict, dataclass, field
from functools import cached_property

import numpy as np
import pandas as pd

from .synthetic_words import ADJECTIVES, CITIES, DOMAINS, NEGATIVE, POSITIVE


WORLD_VERSION = 2
SECONDS_PER_DAY = 86_400
START = 1_672_531_200  # 2023-01-01 00:00 UTC, a Sunday
_STAGE_PEAKS = (0.55, 0.3)  # shares of a stage's own leaves, siblings in the tree; the rest is even over all leaves
_HOUR_WEIGHTS = np.array([1, 1, 1, 1, 1, 1, 2, 4, 5, 4, 4, 4, 6, 6, 4, 4, 5, 6, 8, 10, 12, 11, 7, 3], dtype=np.float64)


@dataclass(frozen=True)
class WorldConfig:
    """What a world is made of; the same configuration always gives the same world.

    Attributes:
        num_users, num_items, seed (`int`): size and seed.
        span_days (`int`): length of the log.
        num_strata, num_stages (`int`): strata, and stages of each one's ring.
        levels_per_stage (`int`): levels from one stage to the next: the stage itself, and its blends with the next
            one.
        level_days (`float`): mean time at a level; moving on has the same chance every week.
        events_per_day (`tuple[float, ...]`): activity classes, at the day of joining.
        activity_trends (`tuple[float, ...]`): change of the log activity per year.
        season (`float`): amplitude of the yearly season of the log share of a top domain.
        city_tilt (`float`): what a city adds to the log share of its own domains.
        home_share (`float`): how often somebody is at home.
        series_share (`float`): how often somebody goes on with the series of the last item of the leaf.
    """

    num_users: int = 1500
    num_items: int = 600
    seed: int = 0
    span_days: int = 728
    num_strata: int = 4
    num_stages: int = 3
    levels_per_stage: int = 2
    level_days: float = 60.0
    events_per_day: tuple[float, ...] = (0.09, 0.15, 0.24)
    activity_trends: tuple[float, ...] = (-0.5, -0.2, 0.1)
    season: float = 0.2
    city_tilt: float = 0.3
    home_share: float = 0.75
    series_share: float = 0.5

    def __post_init__(self) -> None:
        leaves = sum(len(leaves) for _, leaves in DOMAINS.values())
        if self.num_users < 1:
            raise ValueError(f"num_users is {self.num_users!r}, expected at least 1")
        if self.num_items < leaves:
            raise ValueError(f"num_items is {self.num_items!r}, expected at least {leaves}, one for each leaf domain")
        if not self.level_days >= 7:
            raise ValueError(
                f"level_days is {self.level_days!r}, expected at least 7, as people move on once a week at most"
            )
        if self.span_days < 14:
            raise ValueError(f"span_days is {self.span_days!r}, expected at least 14")

    def to_facts(self) -> dict:
        """Plain values for the dataset's card, from which [`WorldConfig.from_facts`] rebuilds the configuration."""
        facts = {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}
        return {"version": WORLD_VERSION, **facts}

    @classmethod
    def from_facts(cls, facts: dict) -> WorldConfig:
        """Raises `ValueError` for the facts of another version of the world."""
        if facts.get("version") != WORLD_VERSION:
            raise ValueError(f"world version is {facts.get('version')!r}, expected {WORLD_VERSION}: prepare it again")
        values = {name: tuple(value) if isinstance(value, list) else value for name, value in facts.items()}
        values.pop("version")
        return cls(**values)


class WorldProcess:
    """The laws of a world: everything but the people. Known to the oracle.

    N leaves, S strata, L levels of the ring, C cities, T weeks.
    """

    def __init__(self, config: WorldConfig):
        self.config = config
        self.paths = [(top, leaf) for top, (_, leaves) in DOMAINS.items() for leaf in leaves]
        self.top = np.repeat(np.arange(len(DOMAINS)), [len(leaves) for _, leaves in DOMAINS.values()])
        self.num_levels = config.num_stages * config.levels_per_stage
        self.num_weeks = -(-config.span_days // 7) + 26  # half a year beyond the log, for futures at its end
        self.city_share = np.full(
            (len(CITIES), len(CITIES)), (1 - config.home_share) / (len(CITIES) - 1)
        )  # home, city
        np.fill_diagonal(self.city_share, config.home_share)

    @cached_property
    def ring(self) -> np.ndarray:
        """Shares `(S, L, N)` before season and city."""
        config, rng = self.config, np.random.default_rng([self.config.seed, 1])
        leaves, tops = len(self.paths), len(DOMAINS)
        within = [rng.permutation(np.flatnonzero(self.top == top)) for top in range(tops)]
        stages = np.full((config.num_strata, config.num_stages, leaves), (1 - sum(_STAGE_PEAKS)) / leaves)
        used = np.zeros(tops, dtype=int)
        for stratum in range(config.num_strata):
            # The stages of a ring are in different top domains; four rings of three stages of two leaves use every leaf
            # once, so that what comes after a leaf is the same for everybody.
            for stage, top in enumerate(np.lexsort((rng.random(tops), used))[: config.num_stages]):
                place = used[top] * len(_STAGE_PEAKS) + np.arange(len(_STAGE_PEAKS))
                stages[stratum, stage, within[top][place % len(within[top])]] += _STAGE_PEAKS
                used[top] += 1
        stage, part = np.divmod(np.arange(self.num_levels), config.levels_per_stage)
        blend = (part / config.levels_per_stage)[:, None]
        return stages[:, stage] * (1 - blend) + stages[:, (stage + 1) % config.num_stages] * blend

    @cached_property
    def moves(self) -> np.ndarray:
        """Chances `(T, L, L)` of standing at a level (last axis) some weeks after another level."""
        chance = 7.0 / self.config.level_days
        week = (1 - chance) * np.eye(self.num_levels) + chance * np.roll(np.eye(self.num_levels), 1, axis=1)
        moves = [np.eye(self.num_levels)]
        for _ in range(self.num_weeks - 1):
            moves.append(moves[-1] @ week)
        return np.stack(moves)

    @cached_property
    def shares(self) -> np.ndarray:
        """Shares `(T, C, S, L, N)` of the leaf of the next event in a week and city, for a stratum and a level: the law itself."""
        rng = np.random.default_rng([self.config.seed, 2])
        phase = rng.permutation(len(DOMAINS)) / len(DOMAINS)
        week = np.arange(self.num_weeks)[:, None] * 7 / 365.25
        tilt = self.config.season * np.sin(2 * np.pi * (week + phase))[:, self.top][:, None, :]  # (T, 1, N)
        city = np.zeros((len(CITIES), len(self.paths)))
        for row in range(len(CITIES)):
            city[row, rng.permutation(len(self.paths))[:5]] = self.config.city_tilt
        tilted = self.ring * np.exp(tilt + city)[:, :, None, None, :]
        return (tilted / tilted.sum(-1, keepdims=True)).astype(np.float32)

    def week(self, time: np.ndarray) -> np.ndarray:
        """Rows of `shares` for timestamps in seconds."""
        return np.clip((np.asarray(time, dtype=np.int64) - START) // (7 * SECONDS_PER_DAY), 0, self.num_weeks - 1)

    @cached_property
    def items(self) -> pd.DataFrame:
        """The items table; column `created_at` in seconds. Item `n` belongs to leaf `item_leaf[n]`."""
        return _make_items(self)

    @cached_property
    def item_leaf(self) -> np.ndarray:
        """`(I,)` leaf of each item: items of a leaf are neighbours, series run in the order of the table."""
        return np.sort(np.arange(self.config.num_items) % len(self.paths))


@dataclass(frozen=True)
class Truth:
    """What is hidden from everybody but the tests.

    Attributes:
        user_ids (`np.ndarray` of shape `(U,)`): the users of the arrays below.
        stratum, home (`np.ndarray` of shape `(U,)`): hidden stratum and home city.
        level (`np.ndarray` of shape `(U, T)`): hidden level of the ring in every week.
        join (`np.ndarray` of shape `(U,)`): int64 seconds.
        activity (`np.ndarray` of shape `(U,)`): events per day at joining; `trend`: change of its logarithm per day.
        liking (`np.ndarray` of shape `(events,)`): the true share of the leaf of each event, in the order of the
            events table.
    """

    process: WorldProcess
    user_ids: np.ndarray
    stratum: np.ndarray
    home: np.ndarray
    level: np.ndarray
    join: np.ndarray
    activity: np.ndarray
    trend: np.ndarray
    liking: np.ndarray = field(repr=False)

    def shares_at(self, user: np.ndarray, time: np.ndarray) -> np.ndarray:
        """True shares `(Q, N)` over the leaves at a moment, averaged over the cities where the user may be."""
        process, user = self.process, np.asarray(user)
        week = process.week(time)
        shares = process.shares[week, :, self.stratum[user], self.level[user, week]]  # (Q, C, N)
        return np.einsum("qc,qcn->qn", process.city_share[self.home[user]], shares)

    def _average(self, user: np.ndarray, start: np.ndarray, stop: np.ndarray) -> np.ndarray:
        user, steps = np.asarray(user), 32
        moments = start + ((np.arange(steps)[:, None] + 0.5) / steps * (stop - start)).astype(np.int64)  # (steps, Q)
        weight = np.exp(self.trend[user] * (moments - moments[0]) / SECONDS_PER_DAY)
        shares = sum(weight[step][:, None] * self.shares_at(user, moments[step]) for step in range(steps))
        return shares / weight.sum(0)[:, None]

    def true_interest(self, user: np.ndarray, time: np.ndarray) -> np.ndarray:
        """Expected long-run shares `(Q, N)` over the leaves from joining to `time`."""
        join = self.join[np.asarray(user)]
        return self._average(user, join, np.maximum(np.asarray(time, dtype=np.int64), join + 1))

    def true_future(self, user: np.ndarray, time: np.ndarray, horizons: list[float]) -> np.ndarray:
        """Expected shares `(Q, H, N)` over the leaves in `[time, time + horizon)`, horizons in days."""
        time = np.asarray(time, dtype=np.int64)
        ends = [time + round(horizon * SECONDS_PER_DAY) for horizon in horizons]
        return np.stack([self._average(user, time, end) for end in ends], axis=1)

    def true_change_rate(self, user: np.ndarray, time: np.ndarray, horizon: float) -> np.ndarray:
        """`(f - p) / (f + p)` of the leaves, `(Q, N)`."""
        interest, future = self.true_interest(user, time), self.true_future(user, time, [horizon])[:, 0]
        return (future - interest) / (future + interest)

    def true_intensity(self, user: np.ndarray, time: np.ndarray, horizons: list[float]) -> np.ndarray:
        """Expected number of events `(Q, H)` in `[time, time + horizon)`, for users who have joined by then."""
        user, time = np.asarray(user), np.asarray(time, dtype=np.int64)
        days, trend = (time - self.join[user]) / SECONDS_PER_DAY, self.trend[user]
        stops = days[:, None] + np.asarray(horizons)
        return self.activity[user][:, None] * expected_growth(trend[:, None], days[:, None], stops)


@dataclass(frozen=True)
class World:
    """A generated log.

    Attributes:
        config (`WorldConfig`): what it was made from.
        events (`pd.DataFrame`): `user_id`, `item_id`, `timestamp`, `value`, `text`, `latitude`, `longitude`, ordered
            by user, time.
        items (`pd.DataFrame`): `item_id`, `title`, `text`, `categories`, `created_at`.
        truth (`Truth`): the hidden states.
    """

    config: WorldConfig
    events: pd.DataFrame
    items: pd.DataFrame
    truth: Truth


def generate_world(num_users: int = 1500, num_items: int = 600, seed: int = 0, **settings) -> World:
    """Generates a world; the same arguments give the same world.

    Args:
        num_users, num_items, seed (`int`): see [`WorldConfig`], as everything in `settings`.

    Raises:
        ValueError: fewer items than leaf domains, no user, or a span under two weeks.
    """
    config = WorldConfig(num_users=num_users, num_items=num_items, seed=seed, **settings)
    process = WorldProcess(config)
    truth, user, time = make_people(process)
    rng = np.random.default_rng([seed, 4])
    count = len(user)
    away = rng.integers(1, len(CITIES), count)
    home = truth.home[user]
    city = np.where(rng.random(count) < config.home_share, home, (home + away) % len(CITIES))
    week = process.week(time)
    shares = process.shares[week, city, truth.stratum[user], truth.level[user, week]]  # (E, N)
    leaf = (shares.cumsum(1) < rng.random(count)[:, None] * shares.sum(1)[:, None]).sum(1)
    liking = shares[np.arange(count), leaf]
    item = _draw_items(process, user, time, leaf)
    value = _draw_values(process, item, liking)
    spread = rng.normal(0.0, 0.02, (count, 2))
    places = np.array([place for place, _ in CITIES.values()])[city] + spread
    events = pd.DataFrame(
        {
            "user_id": truth.user_ids[user],
            "item_id": process.items["item_id"].to_numpy()[item],
            "timestamp": time,
            "value": value,
            "text": _draw_texts(process, leaf, value),
            "latitude": places[:, 0].round(5),
            "longitude": places[:, 1].round(5),
        }
    )
    return World(config, events, process.items, Truth(**{**truth.__dict__, "liking": liking}))


def expected_growth(trend: np.ndarray, start: np.ndarray, stop: np.ndarray) -> np.ndarray:
    """Integral of `exp(trend * x)` from start to stop."""
    flat = np.abs(trend) < 1e-12
    safe = np.where(flat, 1.0, trend)
    return np.where(flat, stop - start, (np.exp(safe * stop) - np.exp(safe * start)) / safe)


def make_people(process: WorldProcess) -> tuple[Truth, np.ndarray, np.ndarray]:
    """Hidden states, and the users (E,) and times (E,) of their events: a Poisson process that starts with an event."""
    config, rng = process.config, np.random.default_rng([process.config.seed, 3])
    users = config.num_users
    join_day = config.span_days * 0.9 * rng.beta(1.0, 2.5, users)
    activity = np.array(config.events_per_day)[rng.integers(len(config.events_per_day), size=users)]
    trend = np.array(config.activity_trends)[rng.integers(len(config.activity_trends), size=users)] / 365.25
    stratum = rng.integers(config.num_strata, size=users)
    home = rng.integers(len(CITIES), size=users)
    steps = rng.random((users, process.num_weeks)) < 7.0 / config.level_days
    steps[:, 0] = False
    level = (rng.integers(process.num_levels, size=(users, 1)) + steps.cumsum(1)) % process.num_levels
    active = config.span_days - join_day
    expected = activity * expected_growth(trend, np.zeros(users), active)
    count = rng.poisson(expected)
    user = np.repeat(np.arange(users), count)
    # Inverse of the integrated activity: the days since joining of each event.
    reached = rng.random(len(user)) * expected[user] / activity[user]
    flat = np.abs(trend[user]) < 1e-12
    safe = np.where(flat, 1.0, trend[user])
    days = np.where(flat, reached, np.log1p(np.clip(safe * reached, -1 + 1e-12, None)) / safe)
    user = np.concatenate([np.arange(users), user])
    day = np.floor(join_day[user] + np.concatenate([np.zeros(users), days])).clip(0, config.span_days - 1)
    hour = rng.choice(24, size=len(user), p=_HOUR_WEIGHTS / _HOUR_WEIGHTS.sum())
    time = START + (day * SECONDS_PER_DAY + hour * 3600 + rng.integers(3600, size=len(user))).astype(np.int64)
    order = np.lexsort((time, user))
    user, time = user[order], time[order]
    join = time[np.searchsorted(user, np.arange(users))]
    ids = np.array([f"user-{number:0{len(str(users))}d}" for number in range(1, users + 1)])
    truth = Truth(process, ids, stratum, home, level, join, activity, trend, np.empty(0))
    return truth, user, time


def _popularity(process: WorldProcess) -> tuple[np.ndarray, np.ndarray]:
    """Fame (I,) and day of creation (I,): three in ten items appear during the log, evenly."""
    config, rng = process.config, np.random.default_rng([process.config.seed, 5])
    fame = 1.0 / (1.0 + rng.permutation(config.num_items) / config.num_items * 12.0)
    late = rng.random(config.num_items) < 0.3
    first = np.searchsorted(process.item_leaf, np.arange(len(process.paths)))
    late[first] = False  # every leaf can be visited from the first day on
    created = np.where(
        late, rng.uniform(0, config.span_days, config.num_items), -rng.exponential(300, config.num_items)
    )
    return fame, created


SERIES_LENGTH = 5


def _draw_items(process: WorldProcess, user: np.ndarray, time: np.ndarray, leaf: np.ndarray) -> np.ndarray:
    """Items (E,): the next one of the series last followed in that leaf, else by fame and freshness, seldom one seen before."""
    config, rng = process.config, np.random.default_rng([process.config.seed, 6])
    fame, created = _popularity(process)
    bounds = np.searchsorted(process.item_leaf, np.arange(len(process.paths) + 1)).tolist()
    week = process.week(time)
    weekly = np.arange(process.num_weeks)[:, None] * 7.0
    age = weekly - created
    weight = np.where(age >= 0, fame * (1.0 + 3.0 * np.exp(-np.maximum(age, 0.0) / 45.0)), 0.0)
    cumulative = [
        [np.cumsum(weight[row, a:b]).tolist() for a, b in zip(bounds, bounds[1:])] for row in range(week.max() + 1)
    ]
    available = age >= 0
    follows = rng.random(len(user)) < config.series_share
    draws = rng.random((len(user), 4)).tolist()
    items = np.empty(len(user), dtype=np.int64)
    current, last, seen = -1, {}, set()
    for event, (person, moment, domain) in enumerate(zip(user.tolist(), week.tolist(), leaf.tolist())):
        if person != current:
            current, last, seen = person, {}, set()
        start, stop = bounds[domain], bounds[domain + 1]
        item = last.get(domain, -1) + 1
        in_series = item > start and item < stop and (item - start) % SERIES_LENGTH and available[moment, item]
        if not (follows[event] and in_series and item not in seen):
            steps = cumulative[moment][domain]
            for draw in draws[event]:
                item = start + min(bisect_right(steps, draw * steps[-1]), stop - start - 1)
                if item not in seen:
                    break
        items[event] = item
        last[domain] = item
        seen.add(item)
    return items


def _draw_values(process: WorldProcess, item: np.ndarray, liking: np.ndarray) -> np.ndarray:
    """Ratings 1 to 5 (E,) from the true share of the leaf, the item's quality and chance."""
    rng = np.random.default_rng([process.config.seed, 7])
    quality = rng.normal(0.0, 0.6, process.config.num_items)
    liked = 2.9 + 0.5 * np.log(np.maximum(liking, 1e-6) * len(process.paths)) + quality[item]
    return np.clip(np.round(liked + rng.normal(0.0, 0.8, len(item))), 1, 5)


def _draw_texts(process: WorldProcess, leaf: np.ndarray, value: np.ndarray) -> list[str]:
    """The person's own words: three in ten events have some, with a mood that follows the rating."""
    rng = np.random.default_rng([process.config.seed, 8])
    words = [leaves[name] for _, leaves in DOMAINS.values() for name in leaves]
    said = rng.random(len(leaf)) < 0.3
    pick = rng.integers(1_000_000, size=(len(leaf), 2)).tolist()
    texts = []
    for speaks, domain, rating, (first, second) in zip(said.tolist(), leaf.tolist(), value.tolist(), pick):
        mood = POSITIVE if rating >= 4 else NEGATIVE if rating <= 2 else POSITIVE + NEGATIVE
        topic = words[domain]
        texts.append(f"{mood[first % len(mood)]} {topic[second % len(topic)]}" if speaks else "")
    return texts


def _make_items(process: WorldProcess) -> pd.DataFrame:
    config, rng = process.config, np.random.default_rng([process.config.seed, 9])
    _, created = _popularity(process)
    bounds = np.searchsorted(process.item_leaf, np.arange(len(process.paths)))
    rows = []
    for item, leaf in enumerate(process.item_leaf.tolist()):
        top, name = process.paths[leaf]
        general, leaves = DOMAINS[top]
        words = leaves[name]
        series, part = divmod(item - int(bounds[leaf]), SERIES_LENGTH)
        adjective = ADJECTIVES[(7 * leaf + series) % len(ADJECTIVES)]
        title = f"{adjective} {words[series % len(words)].capitalize()}, part {part + 1}"
        chosen = [*rng.choice(words, 5, replace=False), *rng.choice(general, 2, replace=False)]
        text = f"{name} about {', '.join(chosen[:-1])} and {chosen[-1]}. {adjective} series."
        rows.append((f"item-{item + 1:0{len(str(config.num_items))}d}", title, text, [[top, name]]))
    items = pd.DataFrame(rows, columns=["item_id", "title", "text", "categories"])
    items["created_at"] = START + np.floor(created * SECONDS_PER_DAY).astype(np.int64)
    return items

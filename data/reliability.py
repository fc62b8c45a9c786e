"""Whether a log has change to find: how well the next window can be known at all, and how reliable its change rate is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .labels import (
    SECONDS_PER_DAY,
    change_rate,
    count_nodes,
    count_nodes_ragged,
    future_counts,
    history_range,
    node_shares,
    training_limit,
)
from .log import TRAIN
from .population import even_shares


if TYPE_CHECKING:
    from .log import InterestLog


HORIZON_DAYS = (1, 2, 3, 7, 14, 30, 60, 90, 180, 365)
CUT_TIMES = 6
EVENT_HORIZONS = [1.0, 5.0, 10.0], "events", 10.0
MAX_CUTS = 20_000
MIN_HISTORY, MIN_WINDOW = 10, 5
TRIED_DAYS, TRIED_EVENTS = (1, 3, 7, 14, 30, 60, 90, 180, 365), (5, 10, 20, 40, 80)


def suggest_horizons(log: InterestLog) -> tuple[list[float], str, float]:
    """Forecast horizons that the log can measure: `(horizons, unit, reference horizon)`.

    In days for a global-time split: the reference is the longest of 1, 2, 3, 7, 14, 30, 60, 90, 180, 365 days that
    fits into the validation and into the test period, with the shortest and up to two between them. Otherwise 1, 5 and
    10 events, reference 10. On a log dated by month or the like the shortest ones are one and the same window, of the next date.
    """
    facts = log.facts
    if facts["time"] == "order" or facts["split"] != "global-time" or facts.get("test_start") is None:
        return EVENT_HORIZONS
    start = facts["validation_start"] if facts.get("validation_start") is not None else facts["test_start"]
    periods = [facts["end"] - facts["test_start"], facts["test_start"] - start or facts["end"] - facts["test_start"]]
    fitting = [float(days) for days in HORIZON_DAYS if days * SECONDS_PER_DAY <= min(periods)]
    if not fitting:
        return EVENT_HORIZONS
    steps = np.unique(np.linspace(0, len(fitting) - 1, 4).round().astype(int))
    return [fitting[step] for step in steps], "days", fitting[-1]


def change_facts(log: InterestLog, seed: int = 0) -> dict:
    """What a dataset card says of change: [`window_facts`] of the reference window that [`suggest_horizons`] names, and how
    reliable the change rate of other windows is.

    Returns:
        `{"forecast", "change", "windows"}`, plain values; `windows` has one `{"horizon", "unit", "cuts", "reliability",
        "reliability_by_moment"}` per window, in days and in events, whose rate can be measured twice.
    """
    _, unit, reference = suggest_horizons(log)
    forecast, change = window_facts(log, reference, unit, seed)
    tried = [(float(events), "events") for events in TRIED_EVENTS]
    if log.facts["time"] != "order":
        tried = [(float(days), "days") for days in TRIED_DAYS] + tried
    windows = []
    for horizon, kind in tried:
        found, rate = window_facts(log, horizon, kind, seed)
        if rate["reliability"] is not None:
            reliability = {name: rate[name] for name in ("reliability", "reliability_by_moment")}
            windows.append({"horizon": horizon, "unit": kind, "cuts": found["cuts"]} | reliability)
    levels = [{name: round(value, 4) for name, value in row.items()} for row in forecast["cross_entropy"]]
    return {"forecast": forecast | {"cross_entropy": levels}, "change": change, "windows": windows}


def window_facts(log: InterestLog, horizon: float, unit: str, seed: int) -> tuple[dict, dict]:
    """Entropy floor of the next window, and how reliable its change label is, at cuts within the training events.

    Args:
        log (`InterestLog`): a log.
        horizon (`float`), unit (`str`): length of the window, in `"days"` or `"events"`.
        seed (`int`): of the random halves.

    Returns:
        `forecast`: `cuts`, `horizon`, `unit`, `events_per_window` (median), `cross_entropy` (per level `floor`, the entropy of
        what happened, which no forecast can undercut, and what own `history` and `population` give, nats). `change`:
        `reliability`, the correlation of the rates of two random halves of the events, stepped up to the whole
        (Spearman-Brown), `reliability_by_moment`, the same where events of one moment go into one half, and `pairs`, of how
        many users and domains. None where there are fewer than thirty.
    """
    forecast = {"cuts": 0, "horizon": horizon, "unit": unit, "events_per_window": None, "cross_entropy": []}
    change = {"reliability": None, "reliability_by_moment": None, "pairs": 0}
    if log.tree is None or not log.num_events:
        return forecast, change
    last_event, limit_time = training_limit(log, TRAIN)
    user, time = _cuts(log, horizon, unit, last_event, limit_time, seed)
    window = future_counts(log, user, time, [horizon], unit, last_event=last_event, limit_time=limit_time)
    start, stop = history_range(log, user, time)
    keep = window.mask[:, 0] & (stop - start >= MIN_HISTORY) & (window.totals[:, 0] >= MIN_WINDOW)
    user, time, start, stop = user[keep], time[keep], start[keep], stop[keep]
    future, totals = window.counts[keep, 0], window.totals[keep, 0].astype(np.int64)
    forecast["cuts"] = int(keep.sum())
    if not keep.any():
        return forecast, change
    tree = log.tree
    history = count_nodes(log, start, stop)
    forecast["events_per_window"] = float(np.median(totals))
    population = node_shares(history.sum(0), tree, even_shares(tree), float(len(tree)))
    own = node_shares(history, tree, population, 5.0)
    realised = node_shares(future, tree)
    for level in range(tree.num_levels):
        nodes = tree.level(level)
        target = realised[:, nodes]
        forecast["cross_entropy"].append(
            {
                "floor": _cross_entropy(target, target),
                "history": _cross_entropy(target, own[:, nodes]),
                "population": _cross_entropy(target, np.broadcast_to(population[nodes], target.shape)),
            }
        )
    rng = np.random.default_rng(seed)
    moments = np.r_[0, np.cumsum((np.diff(log.user) != 0) | (np.diff(log.timestamp) != 0))] if log.num_events else []
    gate = change_rate(history, future, tree)[1] & (tree.depth == 0)
    for name, coin in (
        ("reliability", rng.random(log.num_events) < 0.5),
        ("reliability_by_moment", (rng.random(log.num_events) < 0.5)[moments]),
    ):
        rates, enough = [], gate.copy()
        for half in (coin, ~coin):
            counts = [_half(log, begin, end, half) for begin, end in ((start, stop), (stop, stop + totals))]
            rate, _ = change_rate(*counts, tree)
            rates.append(rate)
            for part in counts:
                enough &= (part[:, tree.depth == 0].sum(-1) >= MIN_WINDOW / 2)[:, None]
        first, second = rates[0][enough], rates[1][enough]
        if name == "reliability":
            change["pairs"] = int(enough.sum())
        if len(first) >= 30 and first.std() > 0 and second.std() > 0:
            halves = float(np.corrcoef(first, second)[0, 1])
            change[name] = round(2 * halves / (1 + halves), 3) if halves > 0 else round(halves, 3)
    return forecast, change


def _cuts(
    log: InterestLog, horizon: float, unit: str, last_event: np.ndarray, limit_time: int | None, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Users and times: six moments for everybody, or for windows of events two places in each user's training
    events."""
    users = np.arange(log.num_users)
    if unit == "events":
        length = last_event - log.offsets[:-1]
        users = users[length > horizon]
        parts = [(log.offsets[users] + (length[users] - horizon) * share).astype(np.int64) for share in (0.5, 1.0)]
        user, time = np.tile(users, 2), log.timestamp[np.concatenate(parts)]
    else:
        end = limit_time if limit_time is not None else int(log.facts["end"])
        first = int(log.timestamp.min())
        latest = end - int(horizon * SECONDS_PER_DAY)
        earliest = min(first + int(0.3 * (end - first)), latest)
        times = np.linspace(earliest, latest, CUT_TIMES).astype(np.int64)
        user, time = np.tile(users, CUT_TIMES), np.repeat(times, len(users))
    start, stop = history_range(log, user, time)
    found = np.flatnonzero(stop - start >= MIN_HISTORY)
    if len(found) > MAX_CUTS:
        found = np.sort(np.random.default_rng(seed).choice(found, MAX_CUTS, replace=False))
    return user[found], time[found]


def _half(log: InterestLog, start: np.ndarray, stop: np.ndarray, coin: np.ndarray) -> np.ndarray:
    """`(Q, K)` counts of those events of the ranges whose coin says so."""
    length = stop - start
    offsets = np.r_[0, np.cumsum(length)]
    index = np.repeat(start - offsets[:-1], length) + np.arange(offsets[-1])
    return count_nodes_ragged(log, index, offsets, weights=coin[index].astype(np.float32))


def _cross_entropy(target: np.ndarray, forecast: np.ndarray) -> float:
    return float(-(target * np.log(np.maximum(forecast, 1e-9))).sum(-1).mean())

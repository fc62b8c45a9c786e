"""Labels of a million events: seconds and peak memory of every table and label, on a random log in memory.

python benchmarks/labels_scale.py [--events 1000000] [--users 20000] [--items 20000] [--leaves 200]
"""

from __future__ import annotations

import argparse
import resource
import time

import numpy as np
import pandas as pd

from interest_lm.data.labels import (
    change_rate,
    count_nodes,
    future_counts,
    history_range,
    overall_labels,
    training_limit,
)
from interest_lm.data.log import InterestLog
from interest_lm.data.population import PopularityTable, PopulationTable
from interest_lm.data.splits import global_time_split


DAY = 86_400


def random_log(events: int, users: int, items: int, leaves: int, seed: int = 0) -> InterestLog:
    """Users of very different activity, two years, items in one or two of `leaves` domains."""
    rng = np.random.default_rng(seed)
    user = np.minimum(rng.exponential(users / 5, events).astype(np.int64), users - 1)
    timestamp = rng.integers(0, 730 * DAY, events)
    split, validation_start, test_start = global_time_split(timestamp)
    paths = [[f"domain {leaf % 20}", f"leaf {leaf}"] for leaf in range(leaves)]
    categories = [[paths[leaf] for leaf in rng.integers(leaves, size=1 + number % 2)] for number in range(items)]
    table = pd.DataFrame({"item_id": np.arange(items).astype(str), "title": "", "text": "", "categories": categories})
    frame = pd.DataFrame(
        {
            "user_id": user.astype(str),
            "item_id": rng.integers(items, size=events).astype(str),
            "timestamp": timestamp,
            "value": rng.integers(1, 6, events).astype(float),
            "split": np.array(["train", "validation", "test"])[split],
        }
    )
    facts = {"split": "global-time", "validation_start": validation_start, "test_start": test_start}
    return InterestLog.from_frames(frame, table, facts=facts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("events", 1_000_000), ("users", 20_000), ("items", 20_000), ("leaves", 200)):
        parser.add_argument(f"--{name}", type=int, default=default)
    log = random_log(**vars(parser.parse_args()))
    start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{log.num_events:,} events, {log.num_users:,} users, {log.num_items:,} items, {len(log.tree)} domains")
    seconds, began = {}, time.perf_counter()

    def lap(name: str) -> None:
        nonlocal began
        seconds[name], began = time.perf_counter() - began, time.perf_counter()

    allowed = log.split == 0
    last_event, limit_time = training_limit(log)
    overall_labels(log)
    lap("limits, overall interest")
    population = PopulationTable.build(log, allowed)
    lap("population table")
    PopularityTable.build(log, allowed)
    lap("popularity table")
    # Every event is a cut: a million histories, windows and rates, in blocks as training asks for them.
    shares, block = population.shares(log.timestamp[:1])[0, 0], 50_000
    for first in range(0, log.num_events, block):
        user, cut = log.user[first : first + block], log.timestamp[first : first + block]
        history = count_nodes(log, *history_range(log, user, cut))
        future = future_counts(log, user, cut, [7, 30], "days", last_event, limit_time)
        change_rate(history, future.counts[:, 1], log.tree, population=shares)
    lap("histories, windows and rates of a cut at every event")
    for name, value in seconds.items():
        print(f"{value:8.2f} s  {name}")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{sum(seconds.values()):8.2f} s  all, peak {peak:,.0f} MiB ({start:,.0f} MiB with the log alone)")


if __name__ == "__main__":
    main()

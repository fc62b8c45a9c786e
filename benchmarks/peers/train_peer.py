"""Tunes one published recommender on an interest dataset and answers the questions of an evaluation with it.

python benchmarks/peers/train_peer.py --data DIR --tuning VALIDATION.parquet --questions TEST.parquet --peer sasrec \
    --output LISTS.parquet [--minutes 10] [--seed 0] [--filter-seen/--keep-seen]

Runs in an environment of its own (README.md) and imports nothing of this project. The question files are those of
`interest_lm.evaluation.predictions.template`. Settings and epochs are chosen by NDCG@10 on the tuning questions by successive
halving: all settings train for a part of the time, the better half of them for as long again, and so on, until none gets
better; then the chosen one trains anew on training and validation events. Where the time is short, fewer settings
begin; give a large log more minutes. Prints one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import sys
import time
from collections.abc import Callable

import numpy as np
from questions import Events, Questions


PEERS = ("sasrec", "esasrec", "hstu", "gru4rec")
GRID = ((128, 0.2), (256, 0.2), (64, 0.2), (128, 0.5), (256, 0.5), (64, 0.5))  # width, dropout; begun in this order
LENGTHS = (20, 50, 100, 200)
LEARNING_RATE = 1e-3
TOKENS, MIN_BATCH, MAX_BATCH = 1_600, 8, 128  # events per step, sequences per step
STEPS_PER_CHECK = 30
CHECKS_EACH = 12  # a setting begins where there is time for so many checks of every one
PATIENCE = 5  # checks without a better figure
TOP = 100


def make_peer(peer: str) -> Callable:
    """The class that trains and answers; only its library is imported."""
    if peer == "gru4rec":
        from recbole_peer import GRU4RecPeer

        return GRU4RecPeer
    from rectools_peers import RecToolsPeer

    return RecToolsPeer


class Candidate:
    """One setting in training: its checks so far, the best of them, and whether it still gets better."""

    def __init__(self, make: Callable, setting: dict, epochs_per_check: int):
        self.make, self.setting, self.epochs_per_check = make, setting, epochs_per_check
        self.model = None
        self.epochs, self.seconds = 0, 0.0
        self.best, self.best_epochs, self.bad = -1.0, 0, 0

    @property
    def done(self) -> bool:
        return self.bad >= PATIENCE

    def advance(self, measure: Callable) -> None:
        """Trains up to the next check and looks."""
        began = time.perf_counter()
        if self.model is None:
            self.model = self.make(self.setting)
        self.model.train(self.epochs_per_check)
        self.epochs += self.epochs_per_check
        found = measure(self.model)
        self.seconds += time.perf_counter() - began
        if found > self.best:
            self.best, self.best_epochs, self.bad = found, self.epochs, 0
        else:
            self.bad += 1
        shown = f"width {self.setting['width']}, dropout {self.setting['dropout']}, epoch {self.epochs}"
        print(f"{shown}: NDCG@10 {found:.4f} ({self.seconds:.0f} s)", file=sys.stderr, flush=True)


def settings(events: Events) -> list[dict]:
    """The grid; sequence length and batch size follow from the data."""
    counts = np.bincount(np.repeat(np.arange(len(events.start)), events.stop - events.start)[events.split == 0])
    usual = np.quantile(counts[counts > 1], 0.9)
    length = next((length for length in LENGTHS if length >= usual), LENGTHS[-1])
    mean = np.mean([len(run) for run in events.windows(0, length + 1)])
    batch = int(np.clip(TOKENS / mean, MIN_BATCH, MAX_BATCH))
    fixed = {"length": length, "batch": batch, "learning_rate": LEARNING_RATE}
    return [{"width": width, "dropout": dropout, **fixed} for width, dropout in GRID]


def tune(candidates: list[Candidate], measure: Callable, seconds: float) -> Candidate:
    """The best setting at its best number of epochs, within a time; what the winner leaves of it goes to the others."""
    stop = time.perf_counter() + seconds
    candidates[0].advance(measure)
    begun = candidates[: max(1, int(seconds / (CHECKS_EACH * candidates[0].seconds)))]

    def go_on(candidate: Candidate, until: float) -> None:
        while not candidate.done and time.perf_counter() < min(until, stop):
            candidate.advance(measure)

    alive = begun
    for rung in range(math.ceil(math.log2(len(begun))) + 1, 0, -1):
        share = (stop - time.perf_counter()) / rung / len(alive)
        for candidate in alive:
            go_on(candidate, time.perf_counter() + share)
        alive = sorted(alive, key=lambda candidate: -candidate.best)[: (len(alive) + 1) // 2]
    for candidate in sorted(begun, key=lambda candidate: -candidate.best):
        go_on(candidate, stop)
    return max(begun, key=lambda candidate: candidate.best)


def write_lists(lists: np.ndarray, questions: Questions, events: Events, output: str) -> int:
    """Writes `user_id`, `at`, `history`, `item_id`, `rank`, as `interest-lm evaluate --predictions` reads them; returns how many
    questions have no list."""
    row, rank = np.nonzero(lists >= 0)
    table = questions.frame.iloc[row].assign(item_id=events.item_ids[lists[row, rank]], rank=rank + 1)
    table.to_parquet(output, index=False)
    return int((lists[:, 0] < 0).sum())


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder of an interest dataset")
    parser.add_argument("--tuning", required=True, help="Parquet of questions to tune on")
    parser.add_argument("--questions", required=True, help="Parquet of questions to answer")
    parser.add_argument("--peer", required=True, choices=PEERS)
    parser.add_argument("--output", required=True, help="Parquet of lists to write")
    parser.add_argument("--minutes", type=float, default=10.0, help="of tuning")
    parser.add_argument("--seed", type=int, default=0)
    seen = parser.add_mutually_exclusive_group()
    seen.add_argument("--filter-seen", dest="filter_seen", action="store_true", default=True)
    seen.add_argument("--keep-seen", dest="filter_seen", action="store_false")
    return parser.parse_args()


def main() -> None:
    asked = arguments()
    began = time.perf_counter()
    events = Events.load(asked.data)
    tuning, questions = (Questions.load(file, events) for file in (asked.tuning, asked.questions))
    peer = make_peer(asked.peer)
    grid = settings(events)
    steps = len(events.windows(0, grid[0]["length"] + 1)) / grid[0]["batch"]

    def measure(model) -> float:
        return tuning.ndcg(model.lists(tuning, 10, asked.filter_seen), asked.filter_seen, events)

    def make(setting: dict):
        return peer(asked.peer, events, 0, setting, asked.seed)

    candidates = [Candidate(make, setting, max(1, round(STEPS_PER_CHECK / steps))) for setting in grid]
    chosen = tune(candidates, measure, 60.0 * asked.minutes)
    tuned = time.perf_counter()
    for candidate in candidates:
        candidate.model = None
    model = peer(asked.peer, events, 1, chosen.setting, asked.seed)
    model.train(chosen.best_epochs)
    lists = model.lists(questions, TOP, asked.filter_seen)
    unanswered = write_lists(lists, questions, events, asked.output)
    now = time.perf_counter()
    report = {
        "peer": asked.peer,
        "setting": chosen.setting,
        "epochs": chosen.best_epochs,
        "stopped": "no longer better" if chosen.done else "out of time",
        "validation_ndcg@10": round(chosen.best, 5),
        "minutes": round((now - began) / 60, 2),
        "minutes_tuning": round((tuned - began) / 60, 2),
        "peak_memory_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
        "questions": len(questions),
        "without_list": unanswered,
        "tried": [
            {
                "width": c.setting["width"],
                "dropout": c.setting["dropout"],
                "epochs": c.epochs,
                "ndcg@10": round(c.best, 5),
            }
            for c in candidates
            if c.epochs
        ],
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()

"""A log of the size of MovieLens-1M in its SASRec form: `python benchmarks/large_log.py --data ml5 --output large`.

6,040 people, up to 3,416 items, about a million events in an order without times, drawn from a law learnt from a prepared dataset: people
have a taste that follows what they take, and what comes next resembles the last two things. Nobody takes a thing twice. Writes
`events.csv` and `items.csv` for `interest-lm prepare table --time order --split leave-last`, and prints what NDCG@10 the law itself would
reach for everybody's last event: nobody can expect more.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
import scipy.sparse as sp
from scipy.sparse.linalg import svds

from interest_lm.data.log import InterestLog


POPULARITY, TASTE, NEXT, DRIFT = 0.9, 5.0, 5.5, 0.03  # of the logits; how far a taste moves with an event


def unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / (np.linalg.norm(vectors, axis=-1, keepdims=True) + 1e-9)).astype(np.float32)


def item_vectors(together: np.ndarray, width: int) -> np.ndarray:
    """Unit vectors `(I, width)` from how often items stand together, by a truncated decomposition."""
    scaled = together / np.sqrt(np.outer(together.sum(1) + 5, together.sum(0) + 5))
    left, size, _ = svds(sp.csr_matrix(scaled), k=width, random_state=0)
    return unit(left * np.sqrt(size))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="an interest dataset to learn the law from")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--users", type=int, default=6040)
    parser.add_argument("--items", type=int, default=3416)
    parser.add_argument("--events", type=int, default=999_611)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    log, rng = InterestLog.load(arguments.data), np.random.default_rng(arguments.seed)
    common = np.argsort(-np.bincount(log.item[log.item >= 0], minlength=log.num_items), kind="stable")[
        : arguments.items
    ]
    number = np.full(log.num_items + 1, -1)
    number[common] = np.arange(len(common))
    code = number[log.item]
    user, item = log.user[code >= 0], code[code >= 0]
    count, users = len(common), arguments.users
    had = sp.csr_matrix((np.ones(len(item)), (user, item)), shape=(log.num_users, count))
    together = (had.T @ had).toarray()
    np.fill_diagonal(together, 0)
    taste_of = item_vectors(together, 32)
    same = user[1:] == user[:-1]
    following = sp.csr_matrix((np.ones(same.sum()), (item[:-1][same], item[1:][same])), shape=(count, count)).toarray()
    next_of = item_vectors(following + following.T, 24)
    log_popularity = np.log1p(np.bincount(item, minlength=count)).astype(np.float32)

    lengths = np.clip(rng.lognormal(4.6, 0.95, users), 20, 2200)
    lengths = np.sort((lengths * arguments.events / lengths.sum()).astype(int).clip(20, count // 2))[::-1]
    known = had[np.flatnonzero(np.diff(had.indptr))]
    profiles = (known.multiply(1 / known.sum(1))) @ taste_of
    mix = rng.dirichlet([1, 1], users)[:, :, None]
    taste = unit((profiles[rng.integers(len(profiles), size=(users, 2))] * mix).sum(1))
    taste = unit(taste + 0.3 * rng.normal(size=taste.shape) / np.sqrt(taste.shape[1]))
    taken = np.zeros((users, count), dtype=bool)
    last = before = None
    events, places = [], []
    for step in range(lengths.max()):
        active = np.arange(np.count_nonzero(lengths > step))
        logits = POPULARITY * log_popularity + TASTE * (taste[active] @ taste_of.T)
        if last is not None:
            logits += NEXT * (0.65 * next_of[last[active]] + 0.35 * next_of[before[active]]) @ next_of.T
        logits[taken[active]] = -np.inf
        drawn = (logits + rng.gumbel(size=logits.shape).astype(np.float32)).argmax(1)
        ending = active[lengths[active] == step + 1]
        places.append((logits[ending] > logits[ending, drawn[ending]][:, None]).sum(1))
        taken[active, drawn] = True
        taste[active] = unit(taste[active] + DRIFT * taste_of[drawn])
        before, last = (drawn if last is None else last[active]), drawn
        events.append(pd.DataFrame({"user_id": active, "item_id": drawn, "timestamp": step}))
    arguments.output.mkdir(parents=True, exist_ok=True)
    frame = pd.concat(events).sort_values(["user_id", "timestamp"], kind="stable")
    frame.to_csv(arguments.output / "events.csv", index=False)
    titles = log.items["title"].to_numpy()[common]
    pd.DataFrame({"item_id": np.arange(count), "title": titles}).to_csv(arguments.output / "items.csv", index=False)
    place = np.concatenate(places)
    best = np.where(place < 10, 1 / np.log2(place + 2), 0.0).mean()
    print(f"{len(frame):,} events, {frame['item_id'].nunique():,} items; the law itself reaches NDCG@10 {best:.4f}")


if __name__ == "__main__":
    main()

"""Events a second of training: `python benchmarks/training_speed.py`.

A generated log of 1,200 people with 160 events each over 3,500 items and 24 leaf domains; two layers of width 128, histories
of 200, full softmax, bfloat16, popularity weighed by person as in every recipe. Prints the median over steps of packed events a second, for ranking alone and for all tasks,
with what a step's batch costs to build, and the peak memory of the process.
"""

from __future__ import annotations

import argparse
import resource
import time

import numpy as np
import pandas as pd
import torch
from transformers import BertConfig

from interest_lm import InterestConfig, InterestModel
from interest_lm.data.log import InterestLog
from interest_lm.recommendation.log_tensors import LogTensors
from interest_lm.training.batches import BatchBuilder, PackedRows
from interest_lm.training.popularity import keep_popularity


RANKING_INPUTS = (
    "cut_targets",
    "completion_counts",
    "future_counts",
    "intensity_counts",
    "overall_labels",
    "rating_labels",
)


class Vocabulary:
    """What `LogTensors` needs of a processor, without a tokenizer."""

    def __init__(self, item_ids):
        self.item_index = {item_id: number for number, item_id in enumerate(item_ids)}


def make_log(users: int, events: int, items: int, seed: int = 0) -> InterestLog:
    random = np.random.default_rng(seed)
    item = (items * random.random(users * events) ** 2).astype(int)
    frame = pd.DataFrame(
        {
            "user_id": np.repeat(np.arange(users), events).astype(str),
            "item_id": item.astype(str),
            "timestamp": np.sort(random.integers(0, 300 * 86400, (users, events)), 1).ravel() + 1_600_000_000,
            "value": random.integers(1, 6, users * events).astype(np.float32),
        }
    )
    frame["split"] = np.where(frame["timestamp"] < 1_600_000_000 + 280 * 86400, "train", "test")
    catalogue = pd.DataFrame(
        {
            "item_id": np.arange(items).astype(str),
            "title": [f"item {n}" for n in range(items)],
            "categories": [[[f"top {n % 6}", f"leaf {n % 24}"]] for n in range(items)],
        }
    )
    facts = {"split": "global-time", "time": "seconds", "validation_start": int(1_600_000_000 + 280 * 86400)}
    facts |= {"test_start": facts["validation_start"] + 10 * 86400, "end": facts["validation_start"] + 20 * 86400}
    return InterestLog.from_frames(frame, catalogue, facts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, default=3500)
    parser.add_argument("--rows", type=int, default=32, help="packed rows of 200 a step")
    parser.add_argument("--steps", type=int, default=15)
    arguments = parser.parse_args()
    log = make_log(1200, 160, arguments.items)
    text = BertConfig(
        hidden_size=384, num_hidden_layers=1, num_attention_heads=12, intermediate_size=384, vocab_size=100
    )
    config = InterestConfig(
        text_config=text.to_dict(), domains=log.tree.nodes, num_items=arguments.items, horizons=[1, 3, 10],
        reference_horizon=10, use_values=True, value_mean=3.0, use_personal_popularity=True, popularity_units=16,
    )  # fmt: skip
    torch.manual_seed(0)
    model = InterestModel(config).train()
    model.text_model.requires_grad_(False)
    keep_popularity(model)
    texts = torch.nn.functional.normalize(torch.randn(arguments.items + 1, 384), dim=-1)
    tensors = LogTensors(log, model, Vocabulary(log.item_ids), texts=texts, progress=False)
    rows = PackedRows(tensors, 200)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    for name in ("ranking only", "all tasks"):
        ranking = name == "ranking only"
        builder = BatchBuilder(tensors, rows, cuts=0 if ranking else 4, completions=0.0 if ranking else 0.125)
        seconds, building = [], []
        for step in range(arguments.steps):
            started = time.perf_counter()
            batch = builder([rows[(step * arguments.rows + row) % len(rows)] for row in range(arguments.rows)])
            if ranking:
                batch = {key: value for key, value in batch.items() if key not in RANKING_INPUTS}
            built = time.perf_counter()
            with torch.autocast("cpu", dtype=torch.bfloat16):
                loss = model(**batch).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            seconds.append(time.perf_counter() - started)
            building.append(built - started)
        median = float(np.median(seconds[2:]))
        print(
            f"{name}: {arguments.rows * 200 / median:,.0f} events/s (median step {1000 * median:.0f} ms, "
            f"of which building the batch {1000 * np.median(building[2:]):.0f} ms)"
        )
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB")


if __name__ == "__main__":
    main()

"""One pass of forecasts: `python benchmarks/forecast_speed.py`.

A generated log of 10,000 people with 200 events each over 3,500 items and a tree of 6 + 24 domains, text vectors cached. Asks
for everybody's interest, change, forecast at five horizons and intensity, as `ModelPredictor.forecast` does, and prints the
seconds, those of processors (what it would take on cores of its own, times the threads), and the peak memory. With `--beside N` as
many other processes count meanwhile, each on a core: what `GOMP_SPINCOUNT` is worth on a shared machine, which `interest-lm` sets
to 5000 and this script leaves as it finds it.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import time

import numpy as np
import torch
from training_speed import Vocabulary, make_log
from transformers import BertConfig

from interest_lm import InterestConfig, InterestModel
from interest_lm.evaluation.predict import ModelPredictor
from interest_lm.recommendation.log_tensors import LogTensors
from interest_lm.recommendation.profile import forecast_query


HORIZONS = [1.0, 3.0, 7.0, 30.0, 90.0]


def count(core: int) -> None:
    os.sched_setaffinity(0, {core})
    while True:
        pass


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--users", type=int, default=10_000)
    parser.add_argument("--events", type=int, default=200)
    parser.add_argument("--items", type=int, default=3500)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--beside", type=int, default=0, help="other processes that keep a core busy each")
    parser.add_argument("--profile", action="store_true", help="print what the time of 10 batches goes to")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    for number in range(arguments.beside):
        multiprocessing.Process(target=count, args=(number % os.cpu_count(),), daemon=True).start()
    log = make_log(arguments.users, arguments.events, arguments.items)
    text = BertConfig(
        hidden_size=384, num_hidden_layers=1, num_attention_heads=12, intermediate_size=384, vocab_size=100
    )
    config = InterestConfig(
        text_config=text.to_dict(), domains=log.tree.nodes, num_items=arguments.items, horizons=HORIZONS,
        reference_horizon=30.0, max_history=arguments.events, trajectory_half_lives=[3.0, 30.0, 120.0],
        num_topics=10,
    )  # fmt: skip
    torch.manual_seed(0)
    model = InterestModel(config).eval()
    texts = torch.nn.functional.normalize(torch.randn(arguments.items + 1, 384), dim=-1)
    tensors = LogTensors(log, model, Vocabulary(log.item_ids), texts=texts, progress=False)
    predictor = ModelPredictor(model, None, log, arguments.batch_size, tensors=tensors)

    def ask(users: int) -> tuple[float, float]:
        user, end = np.arange(users), np.full(users, int(log.timestamp.max()) + 1)
        started, used = time.perf_counter(), time.process_time()
        cases = forecast_query(log, user, end, HORIZONS, "days", 30.0)
        future = predictor.forecast(cases)["future"]
        if future.shape != (users, len(HORIZONS), len(log.tree)):
            raise ValueError(f"forecasts have shape {future.shape}")
        return time.perf_counter() - started, time.process_time() - used

    ask(2 * arguments.batch_size)
    if arguments.profile:
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as found:
            ask(10 * arguments.batch_size)
        print(found.key_averages().table(sort_by="self_cpu_time_total", row_limit=15, max_name_column_width=40))
    seconds, used = ask(arguments.users)
    number = arguments.users * arguments.events
    print(
        f"{arguments.users:,} users x {arguments.events} events, {len(log.tree)} domains, {len(HORIZONS)} horizons: "
        f"{seconds:.1f} s on {arguments.threads} threads ({number / seconds:,.0f} events/s), {used:.1f} s of processors, "
        f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB"
    )


if __name__ == "__main__":
    main()

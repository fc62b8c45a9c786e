"""Zero-shot ranking on a log that training never saw: `python benchmarks/transfer.py --data DIR --data DIR2 --data DIR3`.

Each dataset in turn is held out. A model without item ids and without domains is trained on the events of all the others
together (people and items of each are their own), then asked for the next items of the held-out log's test cases, whose items
it knows by text and by what their log did so far. Where nobody of the held-out log comes back to a thing, training sees everybody
take a thing once. Prints NDCG@10 beside popularity, recent popularity and text-kNN, which are
tuned on that log; `with its popularity`: nothing trained either, but what popularity is worth beside the score fitted on that log's
validation, as the baselines are.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from transformers import HfArgumentParser

from interest_lm.data.log import SPLITS, InterestLog
from interest_lm.evaluation.cases import RankingCases
from interest_lm.evaluation.predict import ModelPredictor
from interest_lm.evaluation.protocol import evaluate
from interest_lm.recommendation.log_tensors import LogTensors
from interest_lm.training.arguments import InterestTrainingArguments
from interest_lm.training.blend import PopularityFit
from interest_lm.training.run import train
from interest_lm.training.validation import Validation


BASELINES = ["popularity", "recent_popularity", "text_knn"]
ALONE = {"tuning": "frozen", "use_item_ids": False, "cuts_per_row": 0, "completions_per_row": 0.0, "prior_steps": 0}
ALONE |= {"use_domain_view": False, "num_neighbours": 0, "refit_share": 0.0, "baselines": "none", "disable_tqdm": True}


class RankingOnly:
    """What the evaluation asks of a model that knows no domains of this log."""

    def __init__(self, predictor: ModelPredictor):
        self.rank = predictor.rank


class WithItsPopularity:
    """The zero-shot ranking and the held-out log's popularity, whose weights beside it validation's next items say."""

    def __init__(self, predictor: ModelPredictor, validation: Validation):
        self.predictor, cases = predictor, validation.blend
        fit = PopularityFit(predictor.log, cases, predictor.tensors.popularity, validation.filtered)
        none_new = np.zeros(predictor.log.num_items, dtype=bool)
        self.weights = fit.weights(predictor.rank(cases, slice(0, len(cases.user))), none_new)[0]

    def rank(self, cases: RankingCases, rows: slice) -> np.ndarray:
        table = self.predictor.tensors.popularity
        moments, moment = np.unique(table.index(cases.time[rows]), return_inverse=True)
        worth = table.features[moments] @ self.weights[:-1] + self.weights[-1]
        return self.predictor.rank(cases, rows) + worth[moment]


def together(logs: dict[str, InterestLog], repeats: bool) -> InterestLog:
    """One log of several: who and what, when and how it was split; ids carry the name of their log. Without `repeats` the first
    time that somebody takes a thing is the only one."""
    events, items = [], []
    for name, log in logs.items():
        keep = log.item >= 0
        frame = {"user_id": log.user_ids[log.user[keep]], "item_id": log.item_ids[log.item[keep]]}
        part = pd.DataFrame({column: name + "/" + pd.Series(ids, dtype=str) for column, ids in frame.items()})
        events.append(part.assign(timestamp=log.timestamp[keep], split=[SPLITS[code] for code in log.split[keep]]))
        described = log.items[[column for column in ("item_id", "title", "text") if column in log.items]]
        items.append(described.assign(item_id=name + "/" + described["item_id"].astype(str)))
    facts = {"split": "leave-last", "time": "seconds", "repeat_rate": 0.0}
    frame = pd.concat(events, ignore_index=True)
    if not repeats:
        frame = frame.drop_duplicates(["user_id", "item_id"], ignore_index=True)
    return InterestLog.from_frames(frame, pd.concat(items, ignore_index=True), facts)


def fit(log: InterestLog, minutes: float, seed: int, extra: list[str]) -> tuple:
    with tempfile.TemporaryDirectory() as folder:
        flags = ALONE | {"output_dir": f"{folder}/model", "max_minutes": minutes, "seed": seed}
        words = [word for name, value in flags.items() for word in (f"--{name}", str(value))]
        (args,) = HfArgumentParser(InterestTrainingArguments).parse_args_into_dataclasses([*words, *extra])
        out = train(args, log)
    return out["model"], out["processor"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, action="append", required=True, help="leave-last datasets with dates")
    parser.add_argument("--held-out", action="append", default=[], help="names of some of them; default: each in turn")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--max-users", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    arguments, extra = parser.parse_known_args()
    logs = {folder.resolve().name: InterestLog.load(folder) for folder in arguments.data}
    columns = ["held out", "zero-shot", "shuffled history", "with its popularity", "shuffled history", *BASELINES]
    print(f"| {' | '.join(columns)} |\n{'|---' * len(columns)}|", flush=True)
    for name in arguments.held_out or logs:
        log = logs[name]
        others = {other: found for other, found in logs.items() if other != name}
        seen = together(others, repeats=log.facts.get("repeat_rate", 0.0) >= 0.01)
        model, processor = fit(seen, arguments.minutes, arguments.seed, extra)
        tensors = LogTensors(log, model, processor, progress=False)
        texts = tensors.texts[tensors.item_text_index]
        predictor = ModelPredictor(model, processor, log, tensors=tensors)
        validation = Validation(log, [1], "events", 1, 1000)
        cells = []
        for number, ranker in enumerate((RankingOnly(predictor), WithItsPopularity(predictor, validation))):
            results = evaluate(
                log, ranker, horizons=[1], horizon_unit="events", reference_horizon=1, baselines=BASELINES if number else [],
                text_vectors=torch.as_tensor(texts).numpy(), max_users=arguments.max_users, progress=False,
            )  # fmt: skip
            low, high = results["intervals"]["ranking.ndcg@10"]
            shuffled = results["controls"]["shuffled_history"]["ranking"]["ndcg@10"]
            cells += [f"{results['ranking']['ndcg@10']:.4f} [{low:.4f}, {high:.4f}]", f"{shuffled:.4f}"]
        cells += [f"{results['baselines'][other]['ranking']['ndcg@10']:.4f}" for other in BASELINES]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()

"""What each choice of the ranking is worth: `python benchmarks/ranking_ablation.py --data DIR --group objective`.

Trains every variant of a group on one interest dataset, each with the same minutes and seeds, and prints a Markdown table:
NDCG@10 on the test split (seen items filtered by the log's own repeat rate), the paired difference to the first variant with
its 95 % bootstrap interval over users (seeds averaged case by case), NDCG@10 of warm targets with its own paired difference, of
cold targets in the whole catalogue and among cold items, steps, and what averaging the seeds' scores gives. Finished runs are
kept in `--output` and not done again.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
from transformers import HfArgumentParser

from interest_lm.data.log import InterestLog
from interest_lm.evaluation.bootstrap import UserBootstrap, interval
from interest_lm.evaluation.cases import RankingCases, ranking_cases
from interest_lm.evaluation.folds import fold
from interest_lm.evaluation.metrics.ranking import ranking_values
from interest_lm.evaluation.predict import ModelPredictor
from interest_lm.evaluation.protocol import FILTER_BELOW
from interest_lm.evaluation.ranking import place_targets
from interest_lm.training.arguments import InterestTrainingArguments
from interest_lm.training.run import train


# the network's ranking alone: the two matrices would hide what it gains or loses, and the domains take half of the time
NETWORK = {
    "num_neighbours": 0,
    "cuts_per_row": 0,
    "completions_per_row": 0.0,
    "prior_steps": 0,
    "use_domain_view": False,
}
SAMPLED = NETWORK | {"full_softmax_items": 1, "sampled_items": 512}
GROUPS: dict[str, dict[str, dict]] = {
    "objective": {
        "full softmax": NETWORK,
        "full softmax, label smoothing .1": NETWORK | {"label_smoothing": 0.1},
        "full softmax, temperature from .1": NETWORK | {"temperature": 0.1},
        "sampled softmax with log-Q": SAMPLED,
        "sampled softmax without log-Q": SAMPLED | {"log_q": False},
        "gBCE, all items": NETWORK | {"ranking_loss": "gbce"},
        "gBCE, sampled": SAMPLED | {"ranking_loss": "gbce"},
    },
    "encoder": {
        "position and time": NETWORK,
        "position": NETWORK | {"use_time_bias": False},
        "time": NETWORK | {"use_positions": False},
        "neither": NETWORK | {"use_positions": False, "use_time_bias": False},
        "GRU": NETWORK | {"encoder": "gru"},
        "LSTM": NETWORK | {"encoder": "lstm"},
        "4 layers": NETWORK | {"num_hidden_layers": 4},
        "8 layers": NETWORK | {"num_hidden_layers": 8},
    },
    "items": {
        "text and id": NETWORK,
        "text and id, text tower with LoRA": NETWORK | {"tuning": "lora"},
        "text alone": NETWORK | {"use_item_ids": False},
        "text alone, text tower with LoRA": NETWORK | {"use_item_ids": False, "tuning": "lora"},
        "id alone": NETWORK | {"use_text": False},
        "text and id, no id dropped": NETWORK | {"item_id_dropout": 0.0},
        "text and id, .4 of the ids dropped": NETWORK | {"item_id_dropout": 0.4},
    },
    "recipe": {
        "as it is": {},
        "without what validation blends in": {"num_neighbours": 0},
        "ranking alone, no domains": {name: value for name, value in NETWORK.items() if name != "num_neighbours"},
        "without averaged weights": {"average_gamma": 0.0},
        "without training on validation last": {"refit_share": 0.0},
    },
    "history": {f"{events} events": {"max_history": events} for events in (200, 50, 100, 400, 800, 2000)},
    # what it costs the items that training saw that others rank by their text
    "cold": {"as it is": {}, "ids alone": {"use_text": False}, "no id dropped": {"item_id_dropout": 0.0}},
}


class SeedEnsemble:
    """Mean log-probabilities of several runs."""

    def __init__(self, scores: list[np.ndarray]):
        self.scores = scores

    def rank(self, cases: RankingCases, rows: slice) -> np.ndarray:
        return np.mean([scores[rows] for scores in self.scores], axis=0)


def log_probabilities(predictor: ModelPredictor, cases: RankingCases) -> np.ndarray:
    """`(Q, I)` float16: log-softmax over the catalogue."""
    parts = []
    for start in range(0, len(cases.user), 1000):
        scores = predictor.rank(cases, slice(start, min(start + 1000, len(cases.user))))
        shifted = scores - scores.max(1, keepdims=True)
        parts.append((shifted - np.log(np.exp(shifted).sum(1, keepdims=True))).astype(np.float16))
    return np.concatenate(parts)


class Bench:
    """One dataset, its cases, and what is measured on them."""

    def __init__(self, data: Path, minutes: float, extra: list[str]):
        self.data, self.minutes, self.extra = data, minutes, extra
        self.log = InterestLog.load(data)
        self.filtered = float(self.log.facts.get("repeat_rate") or 0.0) < FILTER_BELOW
        asked = fold(self.log, "test")
        self.cases = ranking_cases(self.log, asked)
        warm = np.bincount(self.log.item[asked.known & (self.log.item >= 0)], minlength=self.log.num_items) > 0
        self.cold, self.cold_target = ~warm, ~warm[self.cases.target]

    def values(self, ranker) -> dict[str, np.ndarray]:
        """NDCG@10 of every case, NaN where it does not count; `among_cold`: of cold targets among cold items."""
        places = place_targets(self.log, self.cases, ranker, self.cold)
        counted, values = places.values(self.filtered)
        among = np.where(self.cold_target, ndcg_at_10(places.better_cold, places.ties_cold), np.nan)
        return {"ndcg": np.where(counted, values["ndcg@10"], np.nan), "among_cold": among}

    def train(self, variant: dict, seed: int) -> tuple[ModelPredictor, dict]:
        with tempfile.TemporaryDirectory() as folder:
            flags = {"data": self.data, "output_dir": f"{folder}/model", "tuning": "frozen", "baselines": "none"}
            flags |= {"max_minutes": self.minutes, "seed": seed, "disable_tqdm": True} | variant
            flags |= {"cache_dir": Path(tempfile.gettempdir()) / "interest-lm-texts" / self.data.name}
            words = [word for name, value in flags.items() for word in (f"--{name}", str(value))]
            (args,) = HfArgumentParser(InterestTrainingArguments).parse_args_into_dataclasses([*words, *self.extra])
            out = train(args, self.log)
        predictor = ModelPredictor(out["model"], out["processor"], self.log, tensors=out["tensors"])
        return predictor, {"steps": out["training"]["steps"], "minutes": out["training"]["minutes"]}


def ndcg_at_10(better: np.ndarray, ties: np.ndarray) -> np.ndarray:
    """Of one target each, expected over the order of ties."""
    return ranking_values(better, ties)["ndcg@10"]


def mean(values: np.ndarray) -> float:
    return float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")


def paired(bench: Bench, values: np.ndarray, first: np.ndarray) -> str:
    """Mean difference of the cases that count in both, with its interval; empty for the first itself."""
    if np.array_equal(values, first, equal_nan=True):
        return ""
    difference = UserBootstrap(bench.cases.user).means((values - first)[:, None])[:, 0]
    low, high = interval(difference) or (float("nan"),) * 2
    return f"{mean(values - first):+.4f} [{low:+.4f}, {high:+.4f}]"


def row(bench: Bench, name: str, runs: list[dict], first: np.ndarray) -> str:
    """A line of the table: seeds averaged case by case."""
    values = np.mean([run["ndcg"] for run in runs], axis=0)
    warm, cold = (np.where(bench.cold_target == is_cold, values, np.nan) for is_cold in (False, True))
    first_warm = np.where(bench.cold_target, np.nan, first)
    seeds = ", ".join(f"{mean(run['ndcg']):.4f}" for run in runs)
    steps = np.mean([run["steps"] for run in runs])
    among = mean(np.mean([run.get("among_cold", run.get("cold")) for run in runs], axis=0))
    return (
        f"| {name} | {mean(values):.4f} ({seeds}) | {paired(bench, values, first)} | {mean(warm):.4f} |"
        f" {paired(bench, warm, first_warm)} | {mean(cold):.4f} | {among:.3f} | {steps:.0f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="an interest dataset (`interest-lm prepare`)")
    parser.add_argument("--group", choices=GROUPS, required=True)
    parser.add_argument("--minutes", type=float, default=3.0, help="of each run")
    parser.add_argument("--seeds", default="0", help="comma-separated")
    parser.add_argument("--output", type=Path, default=None, help="folder that keeps finished runs")
    arguments, extra = parser.parse_known_args()
    bench = Bench(arguments.data, arguments.minutes, extra)
    seeds = [int(seed) for seed in arguments.seeds.split(",")]
    cold = int(np.isfinite(np.where(bench.cold_target, 1.0, np.nan)).sum())
    print(f"{arguments.data.name}: {len(bench.cases.user):,} cases, {cold:,} with a cold target", flush=True)
    print(
        "| variant | NDCG@10 (seeds) | against the first | warm | against the first | cold | cold among cold | steps |\n"
        + "|---" * 8
        + "|",
        flush=True,
    )
    first = None
    for name, variant in GROUPS[arguments.group].items():
        runs, scores = [], []
        for seed in seeds:
            kept = arguments.output and arguments.output / f"{bench.data.name}-{arguments.group}-{name}-{seed}.npz"
            if kept and kept.exists():
                runs.append(dict(np.load(kept)))
                continue
            predictor, facts = bench.train(variant, seed)
            runs.append(bench.values(predictor) | facts)
            if len(seeds) > 1:
                scores.append(log_probabilities(predictor, bench.cases))
            if kept:
                kept.parent.mkdir(parents=True, exist_ok=True)
                np.savez(kept, **runs[-1])
        values = np.mean([run["ndcg"] for run in runs], axis=0)
        first = values if first is None else first
        print(row(bench, name, runs, first), flush=True)
        if len(scores) == len(seeds) > 1:
            together = bench.values(SeedEnsemble(scores)) | {"steps": sum(run["steps"] for run in runs)}
            print(row(bench, f"{name}, {len(seeds)} seeds together", [together], first), flush=True)
    print(json.dumps({"data": bench.data.name, "minutes": arguments.minutes, "seeds": seeds}))


if __name__ == "__main__":
    main()

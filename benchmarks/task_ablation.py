"""Which tasks help which: `python benchmarks/task_ablation.py --data DIR --minutes 5 --seeds 0,1,2`.

Trains one dataset with the recipe's fixed lambdas, with equal ones, with learned uncertainty (Kendall et al. 2018), and with
each task alone, the same minutes each, and prints a Markdown table of every task's figure on the test split: mean over seeds,
and lowest to highest where there are several. The checkpoint of a single task is chosen by that task's figure on validation.
A task that is off does not fit its part of the statistical prior either, which stays where it starts; the linear item-to-item
blend is off, so that the ranking is the network's. Finished runs are kept in `--output` and not done again.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from unittest.mock import patch

import numpy as np
from transformers import HfArgumentParser

from interest_lm.configuration_interest import TASKS
from interest_lm.data.log import InterestLog
from interest_lm.evaluation.predict import ModelPredictor
from interest_lm.evaluation.protocol import evaluate
from interest_lm.training.arguments import InterestTrainingArguments
from interest_lm.training.run import train
from interest_lm.training.validation import Validation


EQUAL = ",".join(f"{task}=1" for task in TASKS)


def alone(*tasks: str) -> dict[str, str]:
    """Only these tasks."""
    return {"task_weights": ",".join(f"{task}={float(task in tasks)}" for task in TASKS)}


ROWS: dict[str, dict[str, str]] = {
    "fixed lambdas of the recipe": {},
    "fixed lambdas, all 1": {"task_weights": EQUAL},
    "learned uncertainty": {"task_weights": EQUAL, "task_weighting": "uncertainty"},
    "ranking alone": alone("ranking"),
    "completion alone": alone("completion"),
    "future alone": alone("future"),
    "future and ahead": alone("future", "ahead"),
    "intensity alone": alone("intensity"),
}
# what validation chooses the checkpoint of a single task by, and its sign; the last one where it measures nothing of it
CHOSEN_BY = {
    "ranking alone": ("ndcg@10", 1.0),
    "completion alone": ("completion_cross_entropy", -1.0),
    "future alone": ("future_cross_entropy", -1.0),
    "future and ahead": ("future_cross_entropy", -1.0),
    "intensity alone": ("calls", 1.0),
}
FIGURES = {
    "ranking.ndcg@10": "NDCG@10",
    "completion.cross_entropy": "completion, cross-entropy ↓",
    "future.cross_entropy": "future, cross-entropy ↓",
    "future.kl": "future, KL ↓",
    "change.auc": "change, AUC",
    "intensity.nb_deviance": "intensity, deviance ↓",
}


class OneFigure(Validation):
    """Validation whose objective is one figure."""

    figure, sign, calls = "calls", 1.0, 0

    def __call__(self, predictor: ModelPredictor) -> dict[str, float]:
        self.calls += 1
        found = {"calls": float(self.calls)} | super().__call__(predictor)
        value = self.sign * found.get(self.figure, found["calls"])
        # averaged weights of ranking and of domains are kept by these
        return {"objective": value, "ndcg@10": value, "future_cross_entropy": -value}


def measure(log: InterestLog, data: Path, name: str, minutes: float, seed: int, extra: list[str]) -> dict[str, float]:
    """Trains one row with one seed and asks the test split."""
    validation = Validation
    if name in CHOSEN_BY:
        figure, sign = CHOSEN_BY[name]
        validation = type("Chosen", (OneFigure,), {"figure": figure, "sign": sign})
    with tempfile.TemporaryDirectory() as folder:
        flags = {"data": data, "output_dir": f"{folder}/model", "tuning": "frozen", "baselines": "none"}
        flags |= {
            "max_minutes": minutes,
            "seed": seed,
            "disable_tqdm": True,
            "num_neighbours": 0,
            "refit_share": 0.0,
        } | ROWS[name]
        flags |= {"cache_dir": Path(tempfile.gettempdir()) / "interest-lm-texts" / data.name}
        words = [word for name, value in flags.items() for word in (f"--{name}", str(value))]
        (args,) = HfArgumentParser(InterestTrainingArguments).parse_args_into_dataclasses([*words, *extra])
        with patch("interest_lm.training.run.Validation", validation):
            out = train(args, log)
    config = out["model"].config
    predictor = ModelPredictor(out["model"], out["processor"], log, tensors=out["tensors"])
    results = evaluate(
        log, predictor, horizons=config.horizons, horizon_unit=config.horizon_unit,
        reference_horizon=config.reference_horizon, baselines=[], bootstrap=0, progress=False,
    )  # fmt: skip
    found = {"steps": float(out["training"]["steps"])}
    for figure in FIGURES:
        group, metric = figure.split(".", 1)
        found[figure] = float((results[group] or {}).get(metric, np.nan))
    return found


def cell(values: list[float]) -> str:
    values = [value for value in values if np.isfinite(value)]
    if not values:
        return "-"
    spread = f" ({min(values):.4f}-{max(values):.4f})" if len(values) > 1 else ""
    return f"{np.mean(values):.4f}{spread}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="an interest dataset (`interest-lm prepare`)")
    parser.add_argument("--minutes", type=float, default=5.0, help="of each run; 0 with --max_steps N")
    parser.add_argument("--seeds", default="0", help="comma-separated")
    parser.add_argument("--output", type=Path, default=None, help="folder that keeps finished runs")
    arguments, extra = parser.parse_known_args()
    log = InterestLog.load(arguments.data)
    seeds = [int(seed) for seed in arguments.seeds.split(",")]
    print(f"{arguments.data.name}, {arguments.minutes:g} minutes a run, seeds {arguments.seeds}", flush=True)
    print("| tasks | " + " | ".join(FIGURES.values()) + " | steps |")
    print("|---|" + "---|" * (len(FIGURES) + 1), flush=True)
    for name in ROWS:
        runs = []
        for seed in seeds:
            kept = arguments.output and arguments.output / f"{arguments.data.name}-{name}-{seed}.json"
            if kept and kept.exists():
                runs.append(json.loads(kept.read_text()))
                continue
            runs.append(measure(log, arguments.data, name, arguments.minutes, seed, extra))
            if kept:
                kept.parent.mkdir(parents=True, exist_ok=True)
                kept.write_text(json.dumps(runs[-1]))
        shown = " | ".join(cell([run[figure] for run in runs]) for figure in FIGURES)
        print(f"| {name} | {shown} | {np.mean([run['steps'] for run in runs]):.0f} |", flush=True)


if __name__ == "__main__":
    main()

"""What a network knows of people it has never read: `python benchmarks/unseen_people.py --data DIR`.

Completion hides half of histories that training has read, so a network that learns its people by heart looks better at it than it
is; forecasts are of windows that nobody has seen. A random fifth of the people is left out of training altogether (not of the
evaluation, nor of what was common at each time). On the test split the model's cross-entropy is set against the tuned mixture's,
both the mean over levels (and windows), for the people that were read and for those that were not, with 95 % intervals over users.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
from transformers import HfArgumentParser

from interest_lm.data.log import TEST, InterestLog
from interest_lm.evaluation.baselines.mixture import Mixture
from interest_lm.evaluation.cases import completion_cases, forecast_cases, take, tuning_forecasts
from interest_lm.evaluation.folds import fold, tuning_fold, window_fold
from interest_lm.evaluation.predict import ModelPredictor
from interest_lm.evaluation.scoring import Score, score_completion, score_future
from interest_lm.recommendation.log_tensors import LogTensors
from interest_lm.training.arguments import InterestTrainingArguments
from interest_lm.training.run import train


REPLICATES = 1000


def fit(log: InterestLog, unread: np.ndarray, minutes: float, seed: int, extra: list[str]) -> ModelPredictor:
    """A model that has read nothing of the `unread (U,)` people; it answers about the whole log."""
    split = np.where(unread[log.user], TEST, log.split).astype(log.split.dtype)
    with tempfile.TemporaryDirectory() as folder:
        flags = {"output_dir": f"{folder}/model", "max_minutes": minutes, "seed": seed, "tuning": "frozen"}
        flags |= {"baselines": "none", "disable_tqdm": True}
        words = [word for name, value in flags.items() for word in (f"--{name}", str(value))]
        (args,) = HfArgumentParser(InterestTrainingArguments).parse_args_into_dataclasses([*words, *extra])
        out = train(args, replace(log, split=split))
    tensors = LogTensors(log, out["model"], out["processor"], texts=out["tensors"].texts, progress=False)
    return ModelPredictor(out["model"], out["processor"], log, tensors=tensors)


def against(model: Score, baseline: Score) -> str:
    """Both cross-entropies, and the first over the second in per cent with its interval; the same users drawn for both."""
    ratio = 100 * (model.replicates["cross_entropy"] / baseline.replicates["cross_entropy"] - 1)
    low, high = np.nanquantile(ratio, [0.025, 0.975])
    mine, other = model.figures["cross_entropy"], baseline.figures["cross_entropy"]
    return f"{mine:.4f} | {other:.4f} | {100 * (mine / other - 1):+.1f} % [{low:+.1f}, {high:+.1f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="a dataset with domains")
    parser.add_argument("--share", type=float, default=0.2, help="of the people, to leave out")
    parser.add_argument("--minutes", type=float, default=6.5)
    parser.add_argument("--seed", type=int, default=0)
    arguments, extra = parser.parse_known_args()
    log = InterestLog.load(arguments.data)
    unread = np.random.default_rng(arguments.seed).random(log.num_users) < arguments.share
    predictor = fit(log, unread, arguments.minutes, arguments.seed, extra)
    config, asked, tuning = predictor.model.config, fold(log, "test"), tuning_fold(log, "test")
    windows = (config.horizons, config.horizon_unit, config.reference_horizon)
    by_windows = window_fold(log, asked, tuning, max(config.horizons))
    mixture = Mixture()
    mixture.tune(log, by_windows, tuning_forecasts(log, asked, by_windows, *windows))
    mixture.tune_completion(log, tuning, completion_cases(log, tuning, seed=arguments.seed + 1))
    mixture.fit(log, asked)
    hidden, future = completion_cases(log, asked, seed=arguments.seed), forecast_cases(log, asked, *windows)
    print(f"{arguments.data.name}: {unread.sum():,} of {log.num_users:,} people left out of training")
    print("| | people | model | mixture | difference |\n|---|---|---|---|---|")
    for name, cases in (("completion", hidden), ("future", future)):
        if name == "completion":
            answers = predictor.completion(cases), mixture.completion(cases)
        else:
            answers = predictor.forecast(cases)["future"], mixture.forecast(cases)["future"]
        for group, chosen in (("read", ~unread[cases.user]), ("not read", unread[cases.user])):
            rows = np.flatnonzero(chosen)
            part, score = take(cases, rows), score_completion if name == "completion" else score_future
            scores = [score(part, answer[rows], log.tree, REPLICATES, arguments.seed, name) for answer in answers]
            print(f"| {name}, {group} | {len(rows):,} | {against(*scores)} |", flush=True)


if __name__ == "__main__":
    main()

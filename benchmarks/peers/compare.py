"""Published sequential recommenders, tuned, beside this project's baselines and checkpoints: same cases, same figures.

python benchmarks/peers/compare.py --python PEERS_PYTHON --data DIR [--data DIR2 ...] --output compare.json \
    [--peers sasrec,hstu,gru4rec] [--minutes 10] [--model CHECKPOINT ...] [--work FOLDER] [--seed 0]

Runs in the project's environment; PEERS_PYTHON is the interpreter of the peers' one (README.md). Peers and baselines are
tuned on the same validation questions and then know training and validation events. Lists that lie in FOLDER already are not
made again. Prints a Markdown table for every data set and for all of them together.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.special import log_softmax

from interest_lm.data.log import TEST, InterestLog
from interest_lm.data.markdown import escape, number, table
from interest_lm.evaluation.baselines.ease_decay import EaseDecay
from interest_lm.evaluation.baselines.item_knn import ItemKNN
from interest_lm.evaluation.baselines.popularity import Popularity
from interest_lm.evaluation.baselines.recent_popularity import RecentPopularity
from interest_lm.evaluation.bootstrap import UserBootstrap, interval
from interest_lm.evaluation.cases import RankingCases, ranking_cases, sample_users
from interest_lm.evaluation.folds import fold, tuning_fold
from interest_lm.evaluation.predict import ModelPredictor
from interest_lm.evaluation.predictions import ListPredictor, template
from interest_lm.evaluation.protocol import FILTER_BELOW, TUNING_USERS
from interest_lm.evaluation.ranking import Ranker, place_targets
from interest_lm.publishing.export import load_checkpoint, training_facts
from interest_lm.publishing.measure import CACHE_FOLDER
from interest_lm.recommendation.log_tensors import LogTensors


METRICS = ("ndcg@10", "hit_rate@10")
BASELINES = (EaseDecay, ItemKNN, RecentPopularity, Popularity)
REPLICATES = 1000
OURS, TOGETHER = "interest_lm", "interest_lm, seeds together"
EACH = "whoever is best on each"


@dataclass
class Answers:
    """What one recommender reached: `values (n, 2)` of NDCG@10 and HR@10 case by case, and what it cost."""

    kind: str
    values: np.ndarray
    minutes: float | None = None
    memory: float | None = None


@dataclass
class Together:
    """An ensemble: the mean of some recommenders' log-probabilities."""

    rankers: list[Ranker]

    def rank(self, cases: RankingCases, rows: slice) -> np.ndarray:
        return np.mean([log_softmax(ranker.rank(cases, rows), axis=1) for ranker in self.rankers], axis=0)


class DataSet:
    """One interest dataset: its test cases, and everybody's answers to them."""

    def __init__(self, folder: Path, seed: int):
        self.folder, self.name, self.seed = folder, folder.resolve().name, seed
        self.log = InterestLog.load(folder)
        self.filtered = float(self.log.facts.get("repeat_rate") or 0.0) < FILTER_BELOW
        self.asked, self.tuning = fold(self.log, "test"), tuning_fold(self.log, "test")
        self.cases = ranking_cases(self.log, self.asked)
        self.users = np.zeros(0, dtype=np.int64)
        self.answers: dict[str, Answers] = {}

    def measure(self, name: str, kind: str, ranker: Ranker, **cost: float | None) -> None:
        """Adds somebody's answers."""
        counted, values = place_targets(self.log, self.cases, ranker, name=name).values(self.filtered)
        self.users = self.cases.user[counted]
        self.answers[name] = Answers(kind, np.stack([values[metric][counted] for metric in METRICS], axis=1), **cost)

    def measure_baselines(self) -> None:
        """As the evaluation tunes and fits them."""
        chosen = sample_users(self.log, TUNING_USERS, self.seed + 1)
        tuning_cases = ranking_cases(self.log, self.tuning, chosen)
        for kind in BASELINES:
            baseline = kind()
            try:
                baseline.tune(self.log, self.tuning, tuning_cases, self.filtered)
            except ValueError as error:
                print(f"{self.name}: no {baseline.name}: {error}", file=sys.stderr)
                continue
            baseline.fit(self.log, self.asked)
            self.measure(baseline.name, "baseline", baseline)

    def measure_models(self, checkpoints: list[str]) -> None:
        """Our checkpoints, as `interest-lm evaluate` asks them; the figures of several seeds are averaged case by case."""
        found, predictors = [], []
        for checkpoint in checkpoints:
            predictors.append(self.measure_model(checkpoint))
            found.append(self.answers[OURS])
        minutes = [answer.minutes for answer in found if answer.minutes is not None]
        values = np.mean([answer.values for answer in found], axis=0)
        if len(checkpoints) > 1:
            self.measure(
                TOGETHER, "together", Together(predictors), minutes=float(np.sum(minutes)) if minutes else None
            )
        self.answers[OURS] = Answers("ours", values, float(np.mean(minutes)) if minutes else None)

    def measure_model(self, checkpoint: str) -> ModelPredictor:
        """One of our checkpoints, which it returns."""
        network, processor, _ = load_checkpoint(checkpoint)
        facts = training_facts(checkpoint)
        refitted = bool(facts.get("refit_steps")) and self.log.facts["split"] == "leave-last"
        cache = Path(checkpoint) / CACHE_FOLDER
        known = self.log.split < TEST if refitted else None
        tensors = LogTensors(self.log, network, processor, known, cache_dir=cache if cache.is_dir() else None)
        predictor = ModelPredictor(network, processor, self.log, tensors=tensors)
        self.measure(OURS, "ours", predictor, minutes=facts.get("minutes"))
        return predictor

    def measure_peer(self, peer: str, python: str, minutes: float, work: Path) -> dict:
        """Runs a peer, unless its lists are there; returns its report."""
        lists, report = work / f"{self.name}.{peer}.parquet", work / f"{self.name}.{peer}.json"
        if not (lists.exists() and report.exists()):
            tuning, questions = work / f"{self.name}.validation.parquet", work / f"{self.name}.test.parquet"
            template(self.log, tuning, split="validation", max_users=TUNING_USERS, seed=self.seed + 1)
            template(self.log, questions, split="test")
            command = [python, str(Path(__file__).with_name("train_peer.py")), "--data", str(self.folder)]
            command += ["--tuning", str(tuning), "--questions", str(questions), "--peer", peer]
            command += ["--minutes", str(minutes), "--seed", str(self.seed), "--output", str(lists)]
            command += ["--filter-seen" if self.filtered else "--keep-seen"]
            with report.with_suffix(".log").open("w") as messages:
                done = subprocess.run(command, stdout=subprocess.PIPE, stderr=messages, text=True, check=False)
            if done.returncode:
                raise SystemExit(f"{peer} on {self.name} failed: see {report.with_suffix('.log')}")
            report.write_text(done.stdout)
        facts = json.loads(report.read_text().splitlines()[-1])
        ranker = ListPredictor(pd.read_parquet(lists), self.log, str(lists))
        self.measure(peer, "peer", ranker, minutes=facts["minutes"], memory=facts["peak_memory_gib"])
        return facts


def pooled(sets: list[DataSet]) -> tuple[np.ndarray, dict[str, Answers]]:
    """All users of all data sets, the answers of whoever answered everywhere, and those of the best other of each set."""
    start = np.cumsum([0, *(data.log.num_users for data in sets)])
    users = np.concatenate([data.users + first for data, first in zip(sets, start)])
    answers = {}
    for name, first in sets[0].answers.items():
        if all(name in data.answers for data in sets):
            parts = [data.answers[name] for data in sets]
            minutes = None if any(part.minutes is None for part in parts) else sum(part.minutes for part in parts)
            memory = None if any(part.memory is None for part in parts) else max(part.memory for part in parts)
            values = np.concatenate([part.values for part in parts])
            answers[name] = Answers(first.kind, values, minutes, memory)
    best = [data.answers[best_other(data.answers)].values for data in sets]
    answers[EACH] = Answers("each", np.concatenate(best))
    return users, answers


def best_other(answers: dict[str, Answers]) -> str:
    """The best peer or baseline."""
    others = {name: answer for name, answer in answers.items() if answer.kind in ("peer", "baseline")}
    return max(others, key=lambda name: others[name].values[:, 0].mean())


def summary(users: np.ndarray, answers: dict[str, Answers], seed: int) -> dict:
    """Figures with 95 % intervals over users, best first, and over the same draws ours minus the best other and, of several sets, minus
    whoever is best on each; both also as a share of the other's."""
    bootstrap = UserBootstrap(users, REPLICATES, seed)
    drawn = {name: bootstrap.means(answer.values) for name, answer in answers.items()}
    rows = {}
    for name, answer in sorted(answers.items(), key=lambda pair: -pair[1].values[:, 0].mean()):
        figures = dict(zip(METRICS, answer.values.mean(0).tolist(), strict=True))
        cost = {"minutes": answer.minutes, "peak_memory_gib": answer.memory}
        rows[name] = {"kind": answer.kind, **figures, "interval": interval(drawn[name][:, 0]), **cost}
    found = {"cases": len(users), "users": len(np.unique(users)), "rows": rows}
    ours = drawn.get(OURS)
    against = {"paired": best_other(answers), "paired_each": EACH}
    for key, other in against.items() if ours is not None else ():
        if other in rows:
            figure, beside = rows[OURS][METRICS[0]], rows[other][METRICS[0]]
            found[key] = {
                "baseline": other,
                "difference": figure - beside,
                "interval": interval(ours[:, 0] - drawn[other][:, 0]),
                "ratio": figure / beside - 1,
                "ratio_interval": interval(ours[:, 0] / drawn[other][:, 0] - 1),
            }
    return found


def markdown(results: dict[str, dict]) -> str:
    """One table of all data sets, and a line per data set of ours against the best other."""

    def between(bounds: list[float] | None) -> str:
        return "-" if bounds is None else f"{bounds[0]:.4f} to {bounds[1]:.4f}"

    header = ["data", "recommender", "NDCG@10", "95 %", "HR@10", "minutes", "peak GiB"]
    rows, lines = [], []
    for data, found in results.items():
        for name, row in found["rows"].items():
            cells = [escape(data), escape(name), number(row[METRICS[0]]), between(row["interval"])]
            rows.append(
                [*cells, number(row[METRICS[1]]), number(row["minutes"], 1), number(row["peak_memory_gib"], 1)]
            )
        for paired in (found[key] for key in ("paired", "paired_each") if key in found):
            low, high = (f"{100 * bound:.1f}" for bound in paired["ratio_interval"])
            lines.append(
                f"{escape(data)}: {OURS} minus {paired['baseline']} {paired['difference']:+.4f} "
                f"({between(paired['interval'])}), {100 * paired['ratio']:+.1f} % ({low} to {high})"
            )
    return table(header, rows) + "".join(f"\n\n{line}" for line in lines)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", required=True, help="interpreter of the peers' environment")
    parser.add_argument("--data", required=True, action="append", type=Path, help="folder of an interest dataset")
    parser.add_argument("--peers", default="sasrec,hstu,gru4rec", help="names of train_peer.py with commas between")
    parser.add_argument("--minutes", type=float, default=10.0, help="of tuning, per peer and data set")
    parser.add_argument(
        "--model",
        action="append",
        default=[],
        help="checkpoint of ours, one per data set; of several seeds with commas between",
    )
    parser.add_argument(
        "--work", type=Path, help="folder for questions, lists and reports; default: beside the output"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", required=True, type=Path, help="JSON to write")
    asked = parser.parse_args()
    if asked.model and len(asked.model) != len(asked.data):
        parser.error(f"{len(asked.model)} --model for {len(asked.data)} --data; expected one for each, or none")
    if len({folder.resolve().name for folder in asked.data}) < len(asked.data):
        parser.error("two --data folders have one name, which is that of their lists and rows")
    return asked


def main() -> None:
    asked = arguments()
    work = asked.work or asked.output.with_suffix("")
    work.mkdir(parents=True, exist_ok=True)
    sets: list[DataSet] = []
    results: dict[str, dict] = {}
    reports: dict[str, dict] = {}
    for position, folder in enumerate(asked.data):
        data = DataSet(folder, asked.seed)
        for peer in filter(None, asked.peers.split(",")):
            print(f"{data.name}: {peer}", file=sys.stderr, flush=True)
            reports.setdefault(data.name, {})[peer] = data.measure_peer(peer, asked.python, asked.minutes, work)
        print(f"{data.name}: baselines", file=sys.stderr, flush=True)
        data.measure_baselines()
        if asked.model:
            data.measure_models(asked.model[position].split(","))
        sets.append(data)
        results[data.name] = summary(data.users, data.answers, asked.seed)
        results[data.name]["headline"] = "filtered" if data.filtered else "unfiltered"
    if len(sets) > 1:
        results["all"] = summary(*pooled(sets), asked.seed)
    asked.output.write_text(json.dumps({"results": results, "peers": reports}, indent=1) + "\n")
    print(markdown(results))


if __name__ == "__main__":
    main()

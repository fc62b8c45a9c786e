"""What can be known in the generated world: cross-entropies of the truth, the oracle, the tuned mixture and shrinkage.

    python benchmarks/world_oracle.py [--users 1500] [--items 600] [--seed 0] [--horizons 7 28 56]

The oracle must gain at least a tenth of the mixture's cross-entropy on future windows; otherwise a model cannot show much.
"""

from __future__ import annotations

import argparse

import numpy as np
from sklearn.metrics import roc_auc_score

from interest_lm.data.log import InterestLog
from interest_lm.data.oracle import OraclePredictor
from interest_lm.data.splits import global_time_split
from interest_lm.data.synthetic import World, generate_world
from interest_lm.evaluation.baselines.mixture import Mixture
from interest_lm.evaluation.baselines.shares import mean_cross_entropy
from interest_lm.evaluation.baselines.shrinkage import Shrinkage
from interest_lm.evaluation.cases import completion_cases, forecast_cases
from interest_lm.evaluation.folds import fold


def split_log(world: World) -> InterestLog:
    """The world's log under the `global-time` split."""
    code, validation_start, test_start = global_time_split(world.events["timestamp"].to_numpy())
    events = world.events.assign(split=np.array(["train", "validation", "test"])[code])
    facts = {"split": "global-time", "validation_start": validation_start, "test_start": test_start}
    return InterestLog.from_frames(events, world.items, facts={"recipe": "synthetic", **facts})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=1500)
    parser.add_argument("--items", type=int, default=600)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--horizons", type=float, nargs="+", default=[7.0, 28.0, 56.0], help="days, the last one is W")
    arguments = parser.parse_args()
    world = generate_world(arguments.users, arguments.items, arguments.seed)
    log, horizons = split_log(world), arguments.horizons
    tree, top = log.tree, log.tree.depth == 0
    per_user = np.bincount(log.user)
    span = (log.timestamp.max() - log.timestamp.min()) / 86_400
    print(
        f"{log.num_events:,} events, {log.num_users:,} users ({np.median(per_user):.0f} each), {log.num_items:,} items, "
        f"{len(tree)} domains, {span:.0f} days"
    )
    validation, test = fold(log, "validation"), fold(log, "test")
    tuning, cases = (forecast_cases(log, part, horizons, "days", horizons[-1]) for part in (validation, test))
    oracle = OraclePredictor(world, log, horizons[-1])
    answers = {
        "truth": oracle.true_future(cases.user, cases.time, horizons),
        "oracle": oracle.forecast(cases)["future"],
    }
    for name, baseline in (("mixture", Mixture()), ("shrinkage", Shrinkage())):
        baseline.tune(log, validation, tuning)
        baseline.fit(log, test)
        answers[name] = baseline.forecast(cases)["future"]
    print(f"future, {len(cases.user):,} users at the start of the test: cross-entropy, mean over levels (nats)")
    print(f"{'days':>12}{'realised':>10}" + "".join(f"{name:>10}" for name in answers) + f"{'gain':>9}")
    table = []
    for column, horizon in enumerate(horizons):
        counts = cases.counts[:, column] * cases.mask[:, column, None]
        realised = counts / np.maximum(counts[:, top].sum(1, keepdims=True), 1e-9)
        shown = [realised, *(answer[:, column] for answer in answers.values())]
        row = [mean_cross_entropy(counts, shares, tree) for shares in shown]
        table.append(row)
        print(f"{horizon:12g}" + "".join(f"{value:10.4f}" for value in row) + f"{1 - row[2] / row[3]:9.1%}")
    mean = np.mean(table, axis=0)
    print(f"{'mean':>12}" + "".join(f"{value:10.4f}" for value in mean) + f"{1 - mean[2] / mean[3]:9.1%}")

    tuning_halves, halves = completion_cases(log, validation), completion_cases(log, test)
    guesses = {"oracle": oracle.completion(halves)}
    for name, baseline in (("mixture", Mixture()), ("shrinkage", Shrinkage())):
        baseline.tune_completion(log, validation, tuning_halves)
        baseline.fit(log, test)
        guesses[name] = baseline.completion(halves)
    values = {name: mean_cross_entropy(halves.hidden_counts, shares, tree) for name, shares in guesses.items()}
    printed = ", ".join(f"{name} {value:.4f}" for name, value in values.items())
    gains = [1 - values["oracle"] / values[name] for name in ("mixture", "shrinkage")]
    print(f"completion: {printed}; gain {gains[0]:.1%} over the mixture, {gains[1]:.1%} over shrinkage")

    growing = cases.rate[cases.gate] > 0
    rates = {
        "truth": oracle.true_change_rate(cases.user, cases.time, horizons[-1]),
        "oracle": oracle.forecast(cases)["change_rate"],
    }
    for name, rate in rates.items():
        print(f"change: AUC of the {name} {roc_auc_score(growing, rate[cases.gate]):.3f} ({growing.mean():.1%} grow)")


if __name__ == "__main__":
    main()

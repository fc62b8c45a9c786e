"""Do the events that are named as reasons matter: `python benchmarks/why_deletion.py MODEL --data DIR`.

For people of the test split and their strongest leaf domains, the n events that an attribution puts first are taken out of the
history and the forecast of the domain over the reference horizon is asked again; so are n random events of the history, and n
random ones of the same domain. Prints, per attribution and n, how many times further the forecast moves than without n random
events, with its 95 % interval over users, and the seconds that the attribution itself takes per person (all domains).

Attributions: `leave_one_out` (exact, one question per event), `gradient` (gradient times input of the event's domains, one
backward pass per domain), `attention` (of the domain's query over the events), `prior` (the event's weight in the decayed
counts, times its share of the domain), `recency` (the domain's latest events).
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch

from interest_lm.data.log import InterestLog
from interest_lm.evaluation.bootstrap import UserBootstrap, interval
from interest_lm.evaluation.cases import MIN_HISTORY, ForecastCases, take
from interest_lm.evaluation.folds import fold
from interest_lm.evaluation.predict import ModelPredictor
from interest_lm.publishing.export import load_checkpoint
from interest_lm.recommendation.log_tensors import LogTensors
from interest_lm.recommendation.profile import forecast_query
from interest_lm.recommendation.why import event_contributions, without


METHODS = ("leave_one_out", "gradient", "attention", "prior", "recency")


def gradient(predictor: ModelPredictor, case: ForecastCases, nodes: np.ndarray) -> np.ndarray:
    """Gradient times input of what each event says of its domains, `(T, len(nodes))`."""
    model, tensors = predictor.model, predictor.tensors
    batch = tensors.queries(case.histories, case.time, model.config.max_history)
    history = batch["history"][0]
    # a row of the item table per event, so that each has a gradient of its own
    items = tensors.items(history.clamp(min=0).numpy())
    weights = items["item_domain_weights"].clone().requires_grad_(True)
    batch |= items | {"history": torch.where(history >= 0, torch.arange(len(history)), history)[None]}
    future = model(**batch | {"item_domain_weights": weights}, forecast_only=True).future_interest
    found = []
    for node in nodes:
        (slope,) = torch.autograd.grad(future[0, model.config.reference_index, node], weights, retain_graph=True)
        found.append((slope * weights.detach()).sum(1))
    return torch.stack(found, 1).numpy()


def attention(predictor: ModelPredictor, case: ForecastCases, nodes: np.ndarray) -> np.ndarray:
    """Mean over heads of each domain query's attention over the events, `(T, len(nodes))`."""
    head, seen = predictor.model.domain_head, {}

    def keep(user, hidden, attended, features):
        seen["query"] = head.norm(hidden[:, None] + head.node_vectors())
        seen["key"], _, seen["bias"], _ = attended
        return original(user, hidden, attended, features)

    original, head.domain_vectors = head.domain_vectors, keep
    try:
        predictor.forward(case.histories, case.time, forecast_only=True)
    finally:
        head.domain_vectors = original
    query = seen["query"].unflatten(-1, (predictor.model.config.num_attention_heads, -1)).transpose(1, 2)
    scores = query @ seen["key"].transpose(-1, -2).float() / query.shape[-1] ** 0.5 + seen["bias"].float()
    return scores.softmax(-1).mean(1)[0, nodes].T.numpy()


def prior(predictor: ModelPredictor, case: ForecastCases, nodes: np.ndarray) -> np.ndarray:
    """Weight of each event in the decayed counts, mixed as the prior mixes them, times its share of the domain."""
    statistics, seen = predictor.model.domain_head.statistics, {}

    def keep(*given):
        seen["weights"] = original(*given)
        return seen["weights"]

    original, statistics.decays = statistics.decays, keep
    try:
        predictor.forward(case.histories, case.time, forecast_only=True)
    finally:
        statistics.decays = original
    weights = seen["weights"][0]  # (J, T)
    mixed = statistics.mixture.softmax(-1).mean((0, 1))[: len(weights)].detach()
    fading = (mixed[:, None] * weights / weights.sum(1, keepdim=True).clamp(min=1e-9)).sum(0).numpy()
    return fading[:, None] * shares(predictor.log, case)[:, nodes]


def recency(predictor: ModelPredictor, case: ForecastCases, nodes: np.ndarray) -> np.ndarray:
    own = shares(predictor.log, case)[:, nodes]
    return own * (1.0 + np.arange(len(own)))[:, None] / len(own)


def shares(log: InterestLog, case: ForecastCases) -> np.ndarray:
    """`(T, K)`: each event's share of every domain."""
    item = log.item[case.histories.index]
    return np.asarray(log.item_nodes[np.maximum(item, 0)].todense()) * (item >= 0)[:, None]


def rank(name: str, predictor: ModelPredictor, case: ForecastCases, nodes: np.ndarray) -> np.ndarray:
    if name == "leave_one_out":
        return event_contributions(predictor, case)[1][:, nodes]
    with torch.enable_grad() if name == "gradient" else torch.inference_mode():
        return {"gradient": gradient, "attention": attention, "prior": prior, "recency": recency}[name](
            predictor, case, nodes
        )


def moved(predictor: ModelPredictor, case: ForecastCases, node: int, left_out: list[np.ndarray]) -> np.ndarray:
    """How far the domain's forecast moves, in share, without each of these sets of events."""
    future = predictor.forecast(without(case, [np.zeros(0, dtype=np.int64), *left_out]))["future"]
    reference = case.horizons.index(case.reference_horizon)
    return np.abs(future[1:, reference, node] - future[0, reference, node])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="folder of a checkpoint")
    parser.add_argument("--data", type=Path, required=True, help="the interest dataset it was trained on")
    parser.add_argument("--users", type=int, default=60)
    parser.add_argument("--domains", type=int, default=3, help="strongest leaf domains per person")
    parser.add_argument("--numbers", default="1,3,5", help="events taken out, comma-separated")
    parser.add_argument("--draws", type=int, default=8, help="random sets of events")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    log = InterestLog.load(arguments.data)
    model, processor, _ = load_checkpoint(arguments.model)
    cache = Path(arguments.model) / "cache"
    tensors = LogTensors(log, model, processor, cache_dir=cache if cache.is_dir() else None, progress=False)
    predictor = ModelPredictor(model, processor, log, tensors=tensors)
    numbers = [int(number) for number in arguments.numbers.split(",")]
    random = np.random.default_rng(arguments.seed)
    asked = fold(log, "test")
    users = np.unique(log.user[asked.asked])
    first = np.array([np.flatnonzero(asked.asked & (log.user == user))[0] for user in users])
    time_of = log.timestamp[first] if asked.time is None else np.full(len(users), asked.time)
    config = model.config
    cases = forecast_query(
        log, users.astype(np.int64), time_of.astype(np.int64), tuple(config.horizons), config.horizon_unit,
        config.reference_horizon,
    )  # fmt: skip
    lengths = cases.histories.lengths
    eligible = np.flatnonzero((lengths >= max(2 * max(numbers), MIN_HISTORY)) & (lengths <= config.max_history))
    chosen = np.sort(random.permutation(eligible)[: arguments.users])
    leaves = np.flatnonzero(log.tree.is_leaf)
    seconds = dict.fromkeys(METHODS, 0.0)
    rows: dict[tuple[str, int], list[float]] = {}
    owner: list[int] = []
    for row in chosen:
        case = take(cases, np.array([row]))
        strongest = leaves[np.argsort(-case.history_counts[0, leaves])[: arguments.domains]]
        nodes = strongest[case.history_counts[0, strongest] > 0]
        scores = {}
        for name in METHODS:
            started = time.perf_counter()
            scores[name] = rank(name, predictor, case, nodes)
            seconds[name] += time.perf_counter() - started
        length, own = len(case.histories.index), shares(log, case)[:, nodes]
        for place, node in enumerate(nodes):
            owner.append(int(row))
            sets, keys = [], []
            for number in numbers:
                for name in METHODS:
                    keys.append((name, number))
                    sets.append(np.argsort(-scores[name][:, place], kind="stable")[:number])
                about = np.flatnonzero(own[:, place] > 0)
                for _ in range(arguments.draws):
                    keys += [("random", number), ("random of the domain", number)]
                    sets += [random.permutation(length)[:number], random.permutation(about)[:number]]
            for key, value in zip(keys, moved(predictor, case, int(node), sets), strict=True):
                rows.setdefault((*key, len(owner)), []).append(float(value))
    draws = UserBootstrap(np.array(owner), 1000, arguments.seed)
    print(f"{arguments.data.name}: {len(chosen)} people, {len(owner)} forecasts of domains, histories of median "
          f"{np.median(lengths[chosen]):g} events")  # fmt: skip
    head = [f"top {number} against random" for number in numbers]
    print("| attribution | " + " | ".join(head) + " | seconds a person |\n|---|" + "---|" * (len(head) + 1))
    for name in (*METHODS, "random of the domain"):
        cells = []
        for number in numbers:
            pair = np.array(
                [[np.mean(rows[key, number, which + 1]) for key in (name, "random")] for which in range(len(owner))]
            )
            drawn = draws.means(pair)
            low, high = interval(drawn[:, 0] / drawn[:, 1]) or (np.nan, np.nan)
            cells.append(f"{pair[:, 0].mean() / pair[:, 1].mean():.2f} [{low:.2f}, {high:.2f}]")
        took = f"{seconds[name] / max(len(chosen), 1):.3f}" if name in seconds else "-"
        print(f"| {name} | {' | '.join(cells)} | {took} |")


if __name__ == "__main__":
    main()

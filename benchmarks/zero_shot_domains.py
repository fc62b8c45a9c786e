"""Domains that training never saw, by their names alone: `python benchmarks/zero_shot_domains.py --data DIR --hidden 12`.

Some leaf domains are hidden: their items end at the parent, and the names leave the items' texts. A model is trained on that log
and the domains are added by name (`add_domains`); another one is trained with all domains. On the test split both forecast the
share of each hidden domain in the window of the reference horizon. Prints, per forecaster, the binary cross-entropy of that share
(mean over people and hidden domains, nats) and its correlation with what happened, with 95 % intervals over users, beside:

- `uniform`: the parent's share in the population, split evenly among its children;
- `text`: the model's forecast for the parent, shared out by a softmax of the cosines between the mean text of the person's
  events under that parent and the children's names;
- `population`: the hidden domain's true share of everybody's training events, which a model without its label cannot know.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from transformers import HfArgumentParser

from interest_lm import InterestProcessor
from interest_lm.data.log import TRAIN, InterestLog, item_membership
from interest_lm.evaluation.bootstrap import UserBootstrap, interval
from interest_lm.evaluation.cases import ForecastCases, forecast_cases
from interest_lm.evaluation.folds import fold
from interest_lm.evaluation.predict import ModelPredictor
from interest_lm.taxonomy_interest import OTHER, SEPARATOR, DomainTree
from interest_lm.training.arguments import InterestTrainingArguments
from interest_lm.training.run import train


def choose_hidden(log: InterestLog, number: int, seed: int) -> list[int]:
    """Random leaves below the top with at least 50 training events, at most a quarter of the children of a parent."""
    tree = log.tree
    counts = np.asarray(log.item_nodes[log.item[(log.split == TRAIN) & (log.item >= 0)]].sum(0)).ravel()
    usable = np.flatnonzero(tree.is_leaf & (tree.parent >= 0) & (counts >= 50))
    usable = [node for node in usable if not tree.ids[node].endswith(OTHER)]
    chosen: list[int] = []
    for node in np.random.default_rng(seed).permutation(usable).tolist():
        siblings = (tree.parent == tree.parent[node]).sum()
        taken = sum(tree.parent[other] == tree.parent[node] for other in chosen)
        if len(chosen) < number and 4 * (taken + 1) <= siblings:
            chosen.append(node)
    if not chosen:
        raise ValueError(f"{log.name}: no leaf with 50 training events and enough siblings to hide")
    return chosen


def without_domains(log: InterestLog, hidden: list[str]) -> InterestLog:
    """The log with items of the hidden domains ending at the parents."""
    gone = set(hidden)
    paths = [
        [path[:-1] if SEPARATOR.join(path) in gone else path for path in categories]
        for categories in log.items["categories"]
    ]
    tree = DomainTree.from_paths(paths)
    items = log.items.assign(categories=np.array([*paths, None], dtype=object)[:-1])
    return replace(log, items=items, tree=tree, item_nodes=item_membership(tree, paths))


def fit(log: InterestLog, minutes: float, seed: int, extra: list[str]) -> dict:
    with tempfile.TemporaryDirectory() as folder:
        flags = {"output_dir": f"{folder}/model", "max_minutes": minutes, "seed": seed, "tuning": "frozen"}
        flags |= {"baselines": "none", "num_neighbours": 0, "refit_share": 0.0, "disable_tqdm": True}
        words = [word for name, value in flags.items() for word in (f"--{name}", str(value))]
        (args,) = HfArgumentParser(InterestTrainingArguments).parse_args_into_dataclasses([*words, *extra])
        return train(args, log)


def by_text(predictor: ModelPredictor, log: InterestLog, cases: ForecastCases, ids: list[str], parents: np.ndarray):
    """`(Q, hidden)`: the parent's forecast times the softmax over its children of the mean text's cosines."""
    head, tree = predictor.model.domain_head, predictor.log.tree
    texts = F.normalize(predictor.tensors.texts[predictor.tensors.item_text_index].float(), dim=-1)
    names = F.normalize(head.name_embeds.float(), dim=-1)
    found = np.zeros((len(cases.user), len(ids)))
    for place, node in enumerate(ids):
        parent = tree.parent[tree.index[node]]
        children = np.flatnonzero(tree.parent == parent)
        inside = np.asarray(predictor.log.item_nodes[:, [int(parent)]].todense()).ravel()
        mean = torch.from_numpy(cases.histories.matrix(log, None).multiply(inside[None]).tocsr() @ texts.numpy())
        likely = (F.normalize(mean, dim=-1) @ names[children].T / predictor.model.config.domain_temperature).softmax(
            -1
        )
        found[:, place] = parents[:, place] * likely[:, children.tolist().index(tree.index[node])].numpy()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="a global-time dataset with at least two levels")
    parser.add_argument("--hidden", type=int, default=12, help="leaf domains to hide")
    parser.add_argument("--minutes", type=float, default=3.0, help="of each of the two runs; 0 with --max_steps N")
    parser.add_argument("--seed", type=int, default=0)
    arguments, extra = parser.parse_known_args()
    log = InterestLog.load(arguments.data)
    nodes = choose_hidden(log, arguments.hidden, arguments.seed)
    ids = [log.tree.ids[node] for node in nodes]
    seen = without_domains(log, ids)
    known = fit(log, arguments.minutes, arguments.seed, extra)
    blind = fit(seen, arguments.minutes, arguments.seed, extra)
    processor = blind["processor"]
    model = blind["model"].add_domains(ids, processor.tokenizer)
    processor = InterestProcessor.from_model(model, processor.tokenizer, processor.item_ids, processor.max_text_tokens)
    added = ModelPredictor(model, processor, seen, progress=False)
    config = known["model"].config
    horizon = config.reference_horizon
    cases = forecast_cases(log, fold(log, "test"), (horizon,), config.horizon_unit, horizon)
    keep = np.flatnonzero(cases.mask[:, 0] & (cases.totals[:, 0] > 0))
    whole = ModelPredictor(known["model"], known["processor"], log, tensors=known["tensors"])
    own = added.forecast(cases)["future"][:, 0]
    tree = added.log.tree
    columns = [tree.index[node] for node in ids]
    parents = [tree.parent[column] for column in columns]
    train_counts = np.asarray(log.item_nodes[log.item[(log.split == TRAIN) & (log.item >= 0)]].sum(0)).ravel()
    shares = train_counts / train_counts[log.tree.depth == 0].sum()
    children = np.array([(tree.parent == parent).sum() for parent in parents])
    answers = {
        "added by name": own[:, columns],
        "trained with them": whole.forecast(cases)["future"][:, 0][:, nodes],
        "uniform": np.tile(shares[log.tree.parent[nodes]] / children, (len(own), 1)),
        "text": by_text(added, log, cases, ids, own[:, parents]),
        "population": np.tile(shares[nodes], (len(own), 1)),
    }
    counts = cases.counts[keep, 0]
    realised = counts[:, nodes] / np.maximum(counts[:, log.tree.depth == 0].sum(1, keepdims=True), 1e-9)
    draws = UserBootstrap(cases.user[keep], 1000, arguments.seed)
    print(f"{arguments.data.name}: {len(keep)} people, {len(ids)} hidden of {len(log.tree)} domains ({', '.join(ids)}); "
          f"temperature {model.config.domain_temperature:g}")  # fmt: skip
    print("| forecast | cross-entropy ↓ | against `uniform` | correlation |\n|---|---|---|---|")
    losses = {}
    for name, answer in answers.items():
        share = np.clip(answer[keep], 1e-6, 1 - 1e-6)
        losses[name] = -(realised * np.log(share) + (1 - realised) * np.log(1 - share)).mean(1)
    for name, answer in answers.items():
        share = answer[keep]
        moments = np.stack([share, realised, share * realised, share**2, realised**2], 2).mean(1)
        drawn = draws.means(np.column_stack([losses[name], losses["uniform"], moments]))
        correlations = correlation(drawn[:, 2:].T)
        low, high = interval(drawn[:, 0] / drawn[:, 1] - 1) or (np.nan, np.nan)
        below, above = interval(correlations) or (np.nan, np.nan)
        print(
            f"| {name} | {losses[name].mean():.4f} | {losses[name].mean() / losses['uniform'].mean() - 1:+.1%} "
            f"[{low:+.1%}, {high:+.1%}] | {correlation(moments.mean(0)):.3f} [{below:.3f}, {above:.3f}] |"
        )


def correlation(moments: np.ndarray) -> np.ndarray:
    """From means of x, y, xy, x^2 and y^2."""
    x, y, product, first, second = moments
    return (product - x * y) / np.sqrt(np.maximum((first - x**2) * (second - y**2), 1e-18))


if __name__ == "__main__":
    main()

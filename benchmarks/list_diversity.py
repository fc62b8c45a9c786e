"""What a more diverse list costs and gives: `python benchmarks/list_diversity.py MODEL --data DIR [--split test] [--questions 2000]`.

Asks a checkpoint the questions of its evaluation, chooses lists of ten at several values of `recommend`'s `diversity`, and prints a
row each, since a list is a point on a frontier and never one figure: NDCG@10 with its difference from the plain list and the 95 %
interval over users; intra-list distance (1 - cosine, mean over pairs) by the items' vectors, by which the list is chosen, and by
their texts alone, by which it is not; entropy of the list's leaf domains in nats; the share of the catalogue that anybody is shown.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from interest_lm.data.log import InterestLog
from interest_lm.data.markdown import number, table
from interest_lm.evaluation.bootstrap import UserBootstrap, interval
from interest_lm.evaluation.cases import ranking_cases, take
from interest_lm.evaluation.folds import fold
from interest_lm.evaluation.predict import ModelPredictor
from interest_lm.evaluation.protocol import FILTER_BELOW
from interest_lm.evaluation.ranking import chunks
from interest_lm.publishing.export import load_checkpoint
from interest_lm.recommendation.recommend import choose_items


DIVERSITY = (0.0, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0)
LENGTH = 10


def distance(vectors: np.ndarray) -> float:
    """Mean of 1 - cosine over the pairs of unit vectors `(n, D)`."""
    pairs = len(vectors) * (len(vectors) - 1)
    return float(1 - ((vectors.sum(0) ** 2).sum() - (vectors**2).sum()) / pairs)


def entropy(shares: np.ndarray) -> float:
    """In nats, of shares of one."""
    known = shares[shares > 0]
    return float(-(known * np.log(known)).sum())


def unit(vectors: np.ndarray) -> np.ndarray:
    """Of length one."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a checkpoint")
    parser.add_argument("--data", type=Path, required=True, help="an interest dataset (`interest-lm prepare`)")
    parser.add_argument("--split", choices=("validation", "test"), default="test")
    parser.add_argument("--questions", type=int, default=2000, help="a random sample of so many")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    model, processor, _ = load_checkpoint(args.model)
    predictor = ModelPredictor(model, processor, InterestLog.load(args.data))
    log, rng = predictor.log, np.random.default_rng(args.seed)
    cases = ranking_cases(log, fold(log, args.split))
    chosen = rng.permutation(len(cases.user))[: args.questions]
    cases = take(cases, np.sort(chosen))
    filtered = float(log.facts.get("repeat_rate") or 0.0) < FILTER_BELOW
    vectors = predictor.item_vectors()
    texts = None
    if model.config.use_text:
        texts = unit(predictor.tensors.texts[predictor.tensors.item_text_index].float().numpy())
    leaves = log.item_nodes[:, np.flatnonzero(log.tree.is_leaf)] if log.tree is not None else None

    lists: dict[float, list[np.ndarray]] = {diversity: [] for diversity in DIVERSITY}
    counted = []  # a question whose answer is left out of every list is none, as in the evaluation
    for rows in chunks(len(cases.user), log.num_items):
        scores = np.array(predictor.rank(cases, rows), dtype=np.float32)
        for row, scored in zip(range(rows.start, rows.stop), scores, strict=True):
            seen = log.item[cases.histories.index[cases.histories.offsets[row] : cases.histories.offsets[row + 1]]]
            seen = np.unique(seen[seen >= 0])
            counted.append(not filtered or cases.target[row] not in seen)
            if filtered:
                scored[seen] = -np.inf
            for diversity in DIVERSITY:
                lists[diversity].append(choose_items(scored, LENGTH, vectors, diversity))

    asked = np.flatnonzero(counted)
    bootstrap = UserBootstrap(cases.user[asked])
    gains = 1 / np.log2(np.arange(LENGTH) + 2)
    plain, printed = None, []
    for diversity, found in lists.items():
        found = [found[row] for row in asked]
        hits = [
            gains[: len(items)][items == target].sum()
            for items, target in zip(found, cases.target[asked], strict=True)
        ]
        ndcg = np.array(hits)
        plain = ndcg if plain is None else plain
        row = [f"{diversity:g}", number(ndcg.mean())]
        low, high = interval(bootstrap.means((ndcg - plain)[:, None])[:, 0]) or (np.nan, np.nan)
        row.append("" if diversity == 0 else f"{(ndcg - plain).mean():+.4f} [{low:+.4f}, {high:+.4f}]")
        row.append(number(np.mean([distance(vectors[items]) for items in found if len(items) > 1])))
        row.append(
            "" if texts is None else number(np.mean([distance(texts[items]) for items in found if len(items) > 1]))
        )
        if leaves is None:
            row.append("")
        else:
            row.append(number(np.mean([entropy(np.asarray(leaves[items].mean(0)).ravel()) for items in found])))
        row.append(number(len(np.unique(np.concatenate(found))) / log.num_items))
        printed.append(row)
    header = ["diversity", "NDCG@10", "against 0", "distance", "of texts", "domain entropy", "coverage"]
    print(f"{args.data.name}, {args.split}: {len(asked)} questions, seen items {'left out' if filtered else 'kept'}\n")
    print(table(header, printed))


if __name__ == "__main__":
    main()

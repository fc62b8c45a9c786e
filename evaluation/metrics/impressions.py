"""Quality within impressions: does what was clicked stand above what was shown and not clicked?"""

from __future__ import annotations

import evaluate
import numpy as np

from .metric_info import metric_info


CUTOFFS = (5, 10)

_DESCRIPTION = """
Each impression is a list of shown items, some of which were clicked. AUC (ties count one half), MRR (mean of the reciprocal
places of all clicked items) and nDCG at 5 and 10 (gain 1 for a click, logarithmic discount), as in the MIND benchmark (Wu et al.
2020, https://aclanthology.org/2020.acl-main.331), averaged over impressions with both clicked and other items. Ties are broken
at random in expectation: an item has each of the places of those with the same score with the same probability.
"""

_ARGUMENTS = """
Args:
    impressions (`list[int]`): which impression each item was shown in.
    predictions (`list[float]`): scores, larger is better.
    references (`list[int]`): 1 clicked, 0 not.
Returns:
    `impression_auc`, `impression_mrr`, `impression_ndcg@5`, `impression_ndcg@10`; NaN without any impression of both kinds.
Examples:
    >>> Impressions().compute(impressions=[0, 0, 0], predictions=[0.1, 0.9, 0.5], references=[1, 0, 0])
    {'impression_auc': 0.0, 'impression_mrr': 0.3333333333333333, 'impression_ndcg@5': 0.5, 'impression_ndcg@10': 0.5}
"""


def impression_values(
    impressions: np.ndarray, scores: np.ndarray, clicked: np.ndarray
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The figures impression by impression, for those with both clicked and other items.

    Args:
        impressions (`np.ndarray` of shape `(n,)`): the impression of each shown item.
        scores (`np.ndarray` of shape `(n,)`): finite, larger is better.
        clicked (`np.ndarray` of shape `(n,)`): 1 or 0.

    Returns:
        the sorted impressions `(m,)`, and figure -> `(m,)` float64.
    """
    names, group = np.unique(impressions, return_inverse=True)
    scores = np.asarray(scores, dtype=np.float64)
    order = np.lexsort((-scores, group))
    group, scores, clicked = group[order], scores[order], np.asarray(clicked, dtype=np.float64)[order]
    size = np.bincount(group, minlength=len(names))
    place = np.arange(len(group)) - (np.cumsum(size) - size)[group]
    tied = np.cumsum(np.r_[True, (group[1:] != group[:-1]) | (scores[1:] != scores[:-1])][: len(group)]) - 1
    count = np.bincount(tied)

    def mean_over_ties(values: np.ndarray) -> np.ndarray:
        return (np.bincount(tied, values) / count)[tied]

    def per_impression(values: np.ndarray) -> np.ndarray:
        return np.bincount(group, values * clicked, minlength=len(names))

    positive = per_impression(np.ones(len(group)))
    both = (positive > 0) & (positive < size)
    negative = size - positive
    gain = 1.0 / np.log2(np.arange(2, size.max(initial=0) + 2))
    best = np.concatenate([[0.0], np.cumsum(gain)])
    with np.errstate(invalid="ignore", divide="ignore"):
        # places are counted from the top: items above the clicked ones, clicked ones among themselves taken off
        above = per_impression(mean_over_ties(place.astype(np.float64))) - positive * (positive - 1) / 2
        values = {
            "impression_auc": 1.0 - above / (positive * negative),
            "impression_mrr": per_impression(mean_over_ties(1.0 / (place + 1.0))) / positive,
        }
        for cutoff in CUTOFFS:
            reached = per_impression(mean_over_ties(np.where(place < cutoff, gain[place], 0.0)))
            values[f"impression_ndcg@{cutoff}"] = reached / best[np.minimum(positive, cutoff).astype(np.int64)]
    return names[both], {name: value[both] for name, value in values.items()}


class Impressions(evaluate.Metric):
    """`evaluate` module of impressions: `compute(impressions=..., predictions=scores, references=clicked)`."""

    def _info(self) -> evaluate.MetricInfo:
        return metric_info(_DESCRIPTION, _ARGUMENTS, impressions="int64", predictions="float64", references="float64")

    def _compute(self, impressions, predictions, references) -> dict[str, float]:
        _, values = impression_values(np.asarray(impressions), np.asarray(predictions), np.asarray(references))
        return {name: float(value.mean()) if len(value) else float("nan") for name, value in values.items()}

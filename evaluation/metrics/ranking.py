"""Hit rate, NDCG and reciprocal rank of one target per case, over the full catalogue, from the target's place alone."""

from __future__ import annotations

import evaluate
import numpy as np

from .metric_info import metric_info


CUTOFFS = (5, 10, 20)

_DESCRIPTION = """
One target per case, ranked among a whole catalogue. A case is given by two numbers: how many other items score strictly
better than the target, and how many score exactly the same. Ties are broken at random in expectation: a target that is tied
with `ties` others has each of the places `better + 1 ... better + 1 + ties` with the same probability, and every figure is the
mean over them. A scorer that gives the same score to everything therefore gets what random lists get, neither all nor nothing.
"""

_ARGUMENTS = """
Args:
    better (`list[int]`): items that score strictly better than the target.
    ties (`list[int]`): other items whose score equals the target's.
    cutoffs (`sequence[int]`, defaults to 5, 10, 20).
Returns:
    `hit_rate@k`, `ndcg@k` and `mrr` (over all places, no cutoff), in [0, 1].
Examples:
    >>> Ranking().compute(better=[0, 3], ties=[0, 0], cutoffs=[2])
    {'mrr': 0.625, 'hit_rate@2': 0.5, 'ndcg@2': 0.5}
"""


def target_places(scores: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Better-scored and equally scored other items of each target, both `(n,)` int64.

    A target that scores minus infinity is not in the list at all: everything else counts as better.

    Args:
        scores (`np.ndarray` of shape `(n, I)`): larger is better, no NaN.
        target (`np.ndarray` of shape `(n,)`): item indices.
    """
    own = scores[np.arange(len(target)), target][:, None]
    better = np.count_nonzero(scores > own, axis=1)
    ties = np.count_nonzero(scores == own, axis=1) - 1
    missing = np.isneginf(own[:, 0])
    better[missing], ties[missing] = scores.shape[1] - 1, 0
    return better, ties


def ranking_values(better: np.ndarray, ties: np.ndarray, cutoffs: tuple[int, ...] = CUTOFFS) -> dict[str, np.ndarray]:
    """The metrics case by case, each `(n,)` float64: their mean over cases is the figure."""
    better, ties = np.asarray(better, dtype=np.int64), np.asarray(ties, dtype=np.int64)
    if np.any(better < 0) or np.any(ties < 0):
        raise ValueError(f"`better` and `ties` are counts, got {min(better.min(), ties.min())}")
    last = int((better + ties).max(initial=0)) + 1
    reciprocal = np.concatenate([[0.0], np.cumsum(1.0 / np.arange(1, last + 1))])
    gain = np.concatenate([[0.0], np.cumsum(1.0 / np.log2(np.arange(2, last + 2)))])
    places = ties + 1.0
    values = {"mrr": (reciprocal[better + ties + 1] - reciprocal[better]) / places}
    for cutoff in cutoffs:
        first, stop = np.minimum(better, cutoff), np.minimum(better + ties + 1, cutoff)
        values[f"hit_rate@{cutoff}"] = (stop - first) / places
        values[f"ndcg@{cutoff}"] = (gain[stop] - gain[first]) / places
    return values


class Ranking(evaluate.Metric):
    """`evaluate` module of the ranking figures: `compute(better=..., ties=...)`."""

    def _info(self) -> evaluate.MetricInfo:
        return metric_info(_DESCRIPTION, _ARGUMENTS, better="int64", ties="int64")

    def _compute(self, better, ties, cutoffs=CUTOFFS) -> dict[str, float]:
        values = ranking_values(np.asarray(better), np.asarray(ties), tuple(cutoffs))
        return {name: float(value.mean()) for name, value in values.items()}

"""Quality of calibrated overall interest: does it order, does it decide, are its probabilities right?"""

from __future__ import annotations

import evaluate
import numpy as np

from .metric_info import metric_info


BINS = 15
_SMALLEST = 1e-7

_DESCRIPTION = """
Binary classification of (user, item, time): area under the ROC curve (ties count one half), accuracy, precision, recall and F1
at probability .5, Brier score, log loss (natural logarithm, probabilities clipped to 1e-7), and the expected calibration error
over 15 bins of equal mass (Nguyen and O'Connor, 2015).
"""

_ARGUMENTS = """
Args:
    predictions (`list[float]`): probabilities of the positive class.
    references (`list[int]`): 0 or 1.
Returns:
    auc, accuracy, precision, recall, f1, brier, log_loss, ece. `auc` is NaN where only one class is present.
"""


def auc(labels: np.ndarray, scores: np.ndarray, weights: np.ndarray | None = None) -> float | np.ndarray:
    """Area under the ROC curve, ties counted one half; NaN without both classes.

    Args:
        labels (`np.ndarray` of shape `(n,)`): 0 or 1.
        scores (`np.ndarray` of shape `(n,)`).
        weights (`np.ndarray` of shape `(n,)` or `(B, n)`, *optional*): case weights; B rows give B areas at once.
    """
    order = np.argsort(scores, kind="stable")
    labels, scores = np.asarray(labels)[order].astype(np.float64), np.asarray(scores)[order]
    weights = np.ones(len(labels)) if weights is None else np.asarray(weights, dtype=np.float64)[..., order]
    if len(labels) == 0:
        return np.full(weights.shape[:-1], np.nan) if weights.ndim > 1 else float("nan")
    starts = np.flatnonzero(np.r_[True, scores[1:] != scores[:-1]])
    positive = np.add.reduceat(weights * labels, starts, axis=-1)
    negative = np.add.reduceat(weights * (1.0 - labels), starts, axis=-1)
    below = np.cumsum(negative, axis=-1) - negative / 2.0
    with np.errstate(invalid="ignore", divide="ignore"):
        area = (positive * below).sum(-1) / (positive.sum(-1) * negative.sum(-1))
    return area if weights.ndim > 1 else float(area)


def expected_calibration_error(labels: np.ndarray, probabilities: np.ndarray, bins: int = BINS) -> float:
    """Mean absolute gap between mean probability and frequency over bins that hold equally many cases.

    Cases are sorted by probability (stable) and cut into `bins` runs whose sizes differ by at most one.
    """
    order = np.argsort(probabilities, kind="stable")
    labels = np.asarray(labels, dtype=np.float64)[order]
    probabilities = np.asarray(probabilities, dtype=np.float64)[order]
    groups = np.arange(len(labels)) * min(bins, len(labels)) // max(len(labels), 1)
    gap = np.bincount(groups, weights=probabilities - labels)
    return float(np.abs(gap).sum() / len(labels)) if len(labels) else float("nan")


def overall_values(labels: np.ndarray, probabilities: np.ndarray) -> dict[str, np.ndarray]:
    """Case by case, each `(n,)`: accuracy, brier and log_loss, and the counts `tp`, `fp`, `fn` behind precision and recall."""
    labels = np.asarray(labels, dtype=np.float64)
    probabilities = np.asarray(probabilities, dtype=np.float64)
    decided = probabilities > 0.5
    clipped = np.clip(probabilities, _SMALLEST, 1.0 - _SMALLEST)
    return {
        "accuracy": (decided == (labels > 0.5)).astype(np.float64),
        "brier": (probabilities - labels) ** 2,
        "log_loss": -(labels * np.log(clipped) + (1.0 - labels) * np.log1p(-clipped)),
        "tp": (decided & (labels > 0.5)).astype(np.float64),
        "fp": (decided & (labels < 0.5)).astype(np.float64),
        "fn": (~decided & (labels > 0.5)).astype(np.float64),
    }


def overall_metrics(labels: np.ndarray, probabilities: np.ndarray) -> dict[str, float]:
    """All figures; precision, recall and F1 are 0 where nothing is decided positive, as in scikit-learn."""
    values = {name: float(value.mean()) for name, value in overall_values(labels, probabilities).items()}
    tp, fp, fn = values.pop("tp"), values.pop("fp"), values.pop("fn")
    precision = tp / (tp + fp) if tp + fp > 0 else 0.0
    recall = tp / (tp + fn) if tp + fn > 0 else 0.0
    f1 = 2 * tp / (2 * tp + fp + fn) if tp + fp + fn > 0 else 0.0
    return {
        "auc": auc(labels, probabilities),
        "accuracy": values["accuracy"],
        "precision": precision,
        "recall": recall,
        "f1": f1,
        "brier": values["brier"],
        "log_loss": values["log_loss"],
        "ece": expected_calibration_error(labels, probabilities),
    }


class Overall(evaluate.Metric):
    """`evaluate` module of overall interest: `compute(predictions=probabilities, references=labels)`."""

    def _info(self) -> evaluate.MetricInfo:
        return metric_info(_DESCRIPTION, _ARGUMENTS, predictions="float64", references="float64")

    def _compute(self, predictions, references) -> dict[str, float]:
        return overall_metrics(np.asarray(references), np.asarray(predictions))

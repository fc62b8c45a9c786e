"""Signed change rates: do predicted growth and fading agree with what then happened?"""

from __future__ import annotations

import evaluate
import numpy as np

from .metric_info import metric_info


CLEAR_CHANGE = 0.2

_DESCRIPTION = """
Change rates in (-1, 1) of gated domains. Among clear changes (|label| > .2): area under the ROC curve of "grows" against "fades"
(ties one half) and balanced accuracy of the sign (a predicted zero counts one half for either side); the majority sign is
73-81 %, so plain accuracy misleads and is not given. Over all gated domains: Spearman correlation (NaN for constant
predictions) and mean absolute error.
"""

_ARGUMENTS = """
Args:
    predictions (`list[float]`): predicted rates of the gated (user, domain) pairs.
    references (`list[float]`): their labels.
Returns:
    auc, balanced_accuracy, spearman, mae.
"""


def _average_ranks(values: np.ndarray) -> np.ndarray:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2.0)[inverse]


def stratified_auc(rate: np.ndarray, grows: np.ndarray, weight: np.ndarray, stratum: np.ndarray) -> np.ndarray:
    """Chance that a growing one has the larger rate than a fading one of the same stratum, `(B,)`; ties count one half.

    Args:
        rate, grows, stratum (`np.ndarray` of shape `(n,)`): predictions, labels (bool) and strata (any numbers).
        weight (`np.ndarray` of shape `(B, n)`): one row per replicate.
    """
    if not len(rate):
        return np.full(len(weight), np.nan)
    order = np.lexsort((rate, stratum))
    rate, stratum = rate[order], stratum[order]
    first = np.r_[True, np.diff(stratum) != 0]
    starts = np.flatnonzero(first | np.r_[True, np.diff(rate) != 0])
    positive = np.add.reduceat((weight * grows)[:, order], starts, axis=1)
    negative = np.add.reduceat((weight * ~grows)[:, order], starts, axis=1)
    parts = np.flatnonzero(first[starts])  # the first tie group of each stratum
    positives, negatives = (np.add.reduceat(values, parts, axis=1) for values in (positive, negative))
    earlier = np.repeat(np.cumsum(negatives, axis=1) - negatives, np.diff(np.r_[parts, len(starts)]), axis=1)
    smaller = np.cumsum(negative, axis=1) - negative / 2.0 - earlier
    with np.errstate(invalid="ignore", divide="ignore"):
        return (positive * smaller).sum(1) / (positives * negatives).sum(1)


def change_metrics(
    labels: np.ndarray, rates: np.ndarray, weights: np.ndarray | None = None, interest: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """auc, balanced_accuracy, spearman and mae; with `interest` also stratified_auc, pairs compared within deciles of it.

    What is above its long run tends to fall back, whoever forecasts: over all pairs together that counts as skill.

    Args:
        labels (`np.ndarray` of shape `(n,)`): labels of the gated pairs.
        rates (`np.ndarray` of shape `(n,)`): predictions.
        weights (`np.ndarray` of shape `(B, n)`, *optional*): one row per bootstrap replicate; the figures are then `(B,)`.
            Ranks of the Spearman correlation stay those of the full sample.
        interest (`np.ndarray` of shape `(n,)`, *optional*): long-run share that each rate starts from.
    """
    labels, rates = np.asarray(labels, dtype=np.float64), np.asarray(rates, dtype=np.float64)
    if not np.isfinite(rates).all():
        raise ValueError(f"change rates must be finite, got {rates[~np.isfinite(rates)][0]}")
    single = weights is None
    weights = np.ones((1, len(labels))) if weights is None else np.asarray(weights, dtype=np.float64)
    clear = np.abs(labels) > CLEAR_CHANGE
    grows, rate, weight = labels[clear] > 0, rates[clear], weights[:, clear]
    right = np.where(rate == 0, 0.5, (rate > 0) == grows)
    with np.errstate(invalid="ignore", divide="ignore"):
        positive_mass, negative_mass = weight[:, grows].sum(1), weight[:, ~grows].sum(1)
        accuracy = (weight * right * grows).sum(1) / positive_mass + (weight * right * ~grows).sum(1) / negative_mass
        mass = weights.sum(1)
        x, y = _average_ranks(labels), _average_ranks(rates)
        x_mean, y_mean = weights @ x / mass, weights @ y / mass
        covariance = weights @ (x * y) / mass - x_mean * y_mean
        x_variance, y_variance = weights @ (x * x) / mass - x_mean**2, weights @ (y * y) / mass - y_mean**2
        constant = (len(labels) == 0) or np.ptp(rates) == 0 or np.ptp(labels) == 0
        spearman = covariance / np.sqrt(x_variance * y_variance) if not constant else np.full(len(weights), np.nan)
        mae = weights @ np.abs(labels - rates) / mass
    area = stratified_auc(rate, grows, weight, np.zeros(len(rate)))
    figures = {"auc": area, "balanced_accuracy": accuracy / 2.0, "spearman": spearman, "mae": mae}
    if interest is not None:
        edges = np.quantile(interest, np.arange(1, 10) / 10) if len(interest) else np.zeros(0)
        deciles = np.searchsorted(edges, np.asarray(interest)[clear], side="right")
        figures["stratified_auc"] = stratified_auc(rate, grows, weight, deciles)
    return {name: float(value[0]) if single else value for name, value in figures.items()}


class Change(evaluate.Metric):
    """`evaluate` module of change rates: `compute(predictions=rates, references=labels)` of gated pairs."""

    def _info(self) -> evaluate.MetricInfo:
        return metric_info(_DESCRIPTION, _ARGUMENTS, predictions="float64", references="float64")

    def _compute(self, predictions, references) -> dict[str, float]:
        return change_metrics(np.asarray(references), np.asarray(predictions))

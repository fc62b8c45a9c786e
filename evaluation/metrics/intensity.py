"""How many events a person will do: deviances of count forecasts."""

from __future__ import annotations

import evaluate
import numpy as np

from .metric_info import metric_info


_SMALLEST_MEAN = 1e-6

_DESCRIPTION = """
Forecast means of counts, zeros included. `poisson_deviance = 2 (y log(y / mu) - (y - mu))`; `nb_deviance` is the same of a negative
binomial with variance `mu + alpha mu^2`, `2 (y log(y / mu) - (y + 1/alpha) log((1 + alpha y) / (1 + alpha mu)))`, where alpha is
a property of what happened (method of moments of the counts), not of the forecast; and the mean absolute error.
"""

_ARGUMENTS = """
Args:
    predictions (`list[float]`): expected counts, larger than 0.
    references (`list[float]`): counts.
Returns:
    poisson_deviance, nb_deviance, mae.
"""


def dispersion(counts: np.ndarray) -> float:
    """Moment estimate of alpha in `variance = mean + alpha mean^2`, at least .01."""
    counts = np.asarray(counts, dtype=np.float64)
    mean = counts.mean() if len(counts) else 0.0
    return float(max((counts.var() - mean) / mean**2, 0.01)) if mean > 0 else 0.01


def intensity_values(counts: np.ndarray, means: np.ndarray, alpha: float | None = None) -> dict[str, np.ndarray]:
    """poisson_deviance, nb_deviance and mae case by case, each `(n,)` float64.

    Args:
        counts (`np.ndarray` of shape `(n,)`): events in the window.
        means (`np.ndarray` of shape `(n,)`): forecasts, not negative (floored at 1e-6).
        alpha (`float`, *optional*): dispersion, default `dispersion(counts)`.
    """
    counts, means = np.asarray(counts, dtype=np.float64), np.asarray(means, dtype=np.float64)
    if not np.isfinite(means).all() or (means < 0).any():
        wrong = means[~(np.isfinite(means) & (means >= 0))][0]
        raise ValueError(f"expected counts must be finite and not negative, got {wrong}")
    means = np.maximum(means, _SMALLEST_MEAN)
    alpha = dispersion(counts) if alpha is None else alpha
    with np.errstate(divide="ignore", invalid="ignore"):
        surprise = np.where(counts > 0, counts * np.log(counts / means), 0.0)
    negative_binomial = surprise - (counts + 1.0 / alpha) * np.log((1.0 + alpha * counts) / (1.0 + alpha * means))
    return {
        "poisson_deviance": 2.0 * (surprise - counts + means),
        "nb_deviance": 2.0 * negative_binomial,
        "mae": np.abs(counts - means),
    }


class Intensity(evaluate.Metric):
    """`evaluate` module of intensity: `compute(predictions=means, references=counts)`."""

    def _info(self) -> evaluate.MetricInfo:
        return metric_info(_DESCRIPTION, _ARGUMENTS, predictions="float64", references="float64")

    def _compute(self, predictions, references) -> dict[str, float]:
        values = intensity_values(np.asarray(references), np.asarray(predictions))
        return {name: float(value.mean()) for name, value in values.items()}

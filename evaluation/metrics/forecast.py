"""How far a forecast distribution over domains is from what then happened."""

from __future__ import annotations

import datasets
import evaluate
import numpy as np

from .metric_info import metric_info


SMALLEST_SHARE = 1e-9

_DESCRIPTION = """
Forecast of shares against realised counts. Cross-entropy `-sum q log f` and its excess over the entropy of what happened, the
Kullback-Leibler divergence `KL(q || f)`, in nats, decide; the Jensen-Shannon divergence stands beside them and favours
under-smoothed forecasts. Every case (user and window) weighs the same; cases in which nothing happened are left out. A forecast
of zero for something that happened is floored at 1e-9 and so costs 20.7 nats. `skill = 1 - forecast / baseline` of cross-entropies.
"""

_ARGUMENTS = """
Args:
    predictions (`list[list[float]]`): shares, each row sums to one.
    references (`list[list[float]]`): counts (or shares) of what happened, same width.
Returns:
    cross_entropy, kl, js: means over cases, in nats.
"""


def forecast_values(counts: np.ndarray, shares: np.ndarray) -> dict[str, np.ndarray]:
    """Cross-entropy, KL and JS case by case, each `(n,)` float64 in nats; NaN where a row of counts is empty.

    Args:
        counts (`np.ndarray` of shape `(n, L)`): what happened, not negative.
        shares (`np.ndarray` of shape `(n, L)`): the forecast, each row sums to one within 1e-3 (it is then renormalised).

    Raises:
        ValueError: a forecast that is negative, not finite or does not sum to one; the message quotes the row.
    """
    counts, shares = np.asarray(counts, dtype=np.float64), np.asarray(shares, dtype=np.float64)
    total, mass = counts.sum(1), shares.sum(1)
    bad = ~np.isfinite(shares).all(1) | (shares < 0).any(1) | ~(np.abs(mass - 1.0) < 1e-3)
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        low = shares[row].min(initial=np.inf)
        raise ValueError(
            f"forecast {row}: shares sum to {mass[row]:.4f} (smallest {low:.4g}), expected 1 and none < 0"
        )
    with np.errstate(invalid="ignore", divide="ignore"):
        realised = counts / total[:, None]
    shares = shares / mass[:, None]
    log_realised = np.log(np.maximum(realised, SMALLEST_SHARE))
    log_shares = np.log(np.maximum(shares, SMALLEST_SHARE))
    log_middle = np.log(np.maximum((realised + shares) / 2.0, SMALLEST_SHARE))
    cross_entropy = -(realised * log_shares).sum(1)
    kl = cross_entropy + (realised * log_realised).sum(1)
    js = ((realised * (log_realised - log_middle)).sum(1) + (shares * (log_shares - log_middle)).sum(1)) / 2.0
    return {"cross_entropy": cross_entropy, "kl": kl, "js": np.maximum(js, np.where(np.isnan(js), np.nan, 0.0))}


def skill(forecast: float, baseline: float) -> float:
    """`1 - forecast / baseline` of two cross-entropies (or other losses): above 0 is better than the baseline."""
    return 1.0 - forecast / baseline if baseline else float("nan")


class Forecast(evaluate.Metric):
    """`evaluate` module of forecasts at one level and horizon: `compute(predictions=shares, references=counts)`."""

    def _info(self) -> evaluate.MetricInfo:
        rows = datasets.Sequence(datasets.Value("float64"))
        return metric_info(_DESCRIPTION, _ARGUMENTS, predictions=rows, references=rows)

    def _compute(self, predictions, references) -> dict[str, float]:
        values = forecast_values(np.asarray(references), np.asarray(predictions))
        return {name: float(np.nanmean(value)) for name, value in values.items()}

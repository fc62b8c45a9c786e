"""Errors of predicted ratings."""

from __future__ import annotations

import evaluate
import numpy as np

from .metric_info import metric_info


_DESCRIPTION = "Root mean squared error and mean absolute error of predicted ratings, in the units of the ratings."

_ARGUMENTS = """
Args:
    predictions (`list[float]`): predicted ratings.
    references (`list[float]`): given ratings.
Returns:
    rmse, mae.
"""


def rating_values(ratings: np.ndarray, predictions: np.ndarray) -> dict[str, np.ndarray]:
    """`squared` and `absolute` error case by case, each `(n,)` float64."""
    error = np.asarray(predictions, dtype=np.float64) - np.asarray(ratings, dtype=np.float64)
    return {"squared": error**2, "absolute": np.abs(error)}


class Rating(evaluate.Metric):
    """`evaluate` module of ratings: `compute(predictions=..., references=...)`."""

    def _info(self) -> evaluate.MetricInfo:
        return metric_info(_DESCRIPTION, _ARGUMENTS, predictions="float64", references="float64")

    def _compute(self, predictions, references) -> dict[str, float]:
        values = rating_values(np.asarray(references), np.asarray(predictions))
        return {"rmse": float(np.sqrt(values["squared"].mean())), "mae": float(values["absolute"].mean())}

"""What `evaluate` asks of every metric. A metric file takes this one along: `evaluate.load` copies siblings named `from .x`."""

from __future__ import annotations

import datasets
import evaluate


def metric_info(description: str, arguments: str, **columns: str | datasets.Sequence) -> evaluate.MetricInfo:
    """The `_info` of a metric.

    Args:
        description (`str`), arguments (`str`): what it measures, and what `compute` takes and returns.
        columns: type of each input of `compute`, one value per case (`"float64"`, `"int64"`) or a `datasets.Sequence`.
    """
    features = {name: datasets.Value(kind) if isinstance(kind, str) else kind for name, kind in columns.items()}
    return evaluate.MetricInfo(
        description=description,
        citation="",
        inputs_description=arguments,
        features=datasets.Features(features),
    )

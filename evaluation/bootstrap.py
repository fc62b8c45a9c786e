"""Intervals by drawing users again: the same draws for everybody who is measured, so that differences are paired."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np


_CHUNK_VALUES = 4_000_000


class UserBootstrap:
    """Replicates of figures over users drawn with replacement; all cases of a user go together.

    Args:
        users (`np.ndarray` of shape `(n,)`): the user of each case.
        replicates (`int`): B; 0 gives no intervals.
        seed (`int`): draws depend on it and on the number of users only.
    """

    def __init__(self, users: np.ndarray, replicates: int = 1000, seed: int = 0):
        _, self.row = np.unique(users, return_inverse=True)
        self.count = int(self.row.max(initial=-1)) + 1
        generator = np.random.default_rng(seed)
        self.weights = np.zeros((replicates, self.count), dtype=np.uint8)
        for start in range(0, replicates, size := max(1, _CHUNK_VALUES // max(self.count, 1))):
            rows = min(size, replicates - start)
            drawn = generator.integers(self.count, size=(rows, self.count)) + np.arange(rows)[:, None] * self.count
            times = np.bincount(drawn.ravel(), minlength=rows * self.count)
            self.weights[start : start + rows] = np.minimum(times, 255).reshape(rows, self.count)

    def means(self, values: np.ndarray) -> np.ndarray:
        """Means over cases in every replicate, `(B, M)` of values `(n, M)`; NaN entries are left out."""
        seen = np.isfinite(values)
        total = np.zeros((self.count, values.shape[1]))
        number = np.zeros_like(total)
        np.add.at(total, self.row, np.where(seen, values, 0.0))
        np.add.at(number, self.row, seen)
        result = np.empty((len(self.weights), values.shape[1]))
        for start in range(0, len(result), size := max(1, _CHUNK_VALUES // max(self.count, 1))):
            drawn = self.weights[start : start + size].astype(np.float64)
            with np.errstate(invalid="ignore", divide="ignore"):
                result[start : start + size] = (drawn @ total) / (drawn @ number)
        return result

    def apply(self, figures: Callable[[np.ndarray], dict[str, np.ndarray]], row: np.ndarray | None = None) -> dict:
        """Any figures of case weights `(b, n)`: `{name: (B,)}`. `row (m,)` are the cases of m finer entries."""
        row = self.row if row is None else self.row[row]
        parts = []
        for start in range(0, len(self.weights), size := max(1, _CHUNK_VALUES // max(len(row), 1))):
            parts.append(figures(self.weights[start : start + size][:, row].astype(np.float64)))
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]} if parts else {}


def interval(replicates: np.ndarray) -> list[float] | None:
    """The middle 95 % of replicates; None where fewer than half of them are numbers."""
    finite = replicates[np.isfinite(replicates)]
    if len(finite) == 0 or len(finite) < len(replicates) / 2:
        return None
    low, high = np.quantile(finite, [0.025, 0.975])
    return [float(low), float(high)]

"""Places of the targets under a scorer, a few cases at a time: filtered, unfiltered and among cold items."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from .cases import RankingCases
from .metrics.ranking import ranking_values, target_places


if TYPE_CHECKING:
    from ..data.log import InterestLog


CHUNK_BYTES = 32 * 2**20  # one score matrix; comparisons need a quarter of it again


class Ranker(Protocol):
    """Anything that scores every item for some cases."""

    def rank(self, cases: RankingCases, rows: slice) -> np.ndarray:
        """`(n, I)` float32 scores of the cases in `rows`."""
        ...


@dataclass(frozen=True)
class Places:
    """Where the targets of Q cases ended up; see `metrics.ranking.target_places`.

    Attributes:
        better, ties (`np.ndarray` of shape `(Q,)`): among all items.
        better_new, ties_new (`np.ndarray` of shape `(Q,)`): among items that are not in the history, and the target.
        repeat (`np.ndarray` of shape `(Q,)`): bool, the target is in the history; such a case is no case of the filtered figures.
        better_cold, ties_cold (`np.ndarray` of shape `(Q,)`): among cold items (and the target).
    """

    better: np.ndarray
    ties: np.ndarray
    better_new: np.ndarray
    ties_new: np.ndarray
    repeat: np.ndarray
    better_cold: np.ndarray
    ties_cold: np.ndarray

    def values(self, filtered: bool) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Which cases count, and the metrics of all cases."""
        if filtered:
            return ~self.repeat, ranking_values(self.better_new, self.ties_new)
        return np.ones(len(self.better), dtype=bool), ranking_values(self.better, self.ties)


def chunks(count: int, num_items: int) -> Iterator[slice]:
    """Row ranges whose score matrices stay within `CHUNK_BYTES`."""
    size = max(1, CHUNK_BYTES // (4 * max(num_items, 1)))
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))


def place_targets(
    log: InterestLog, cases: RankingCases, ranker: Ranker, cold: np.ndarray | None = None, name: str = "the predictor"
) -> Places:
    """Scores all items for all cases and keeps only the targets' places.

    Args:
        cold (`np.ndarray` of shape `(I,)`, *optional*): bool, the items counted as cold.
        name (`str`): who scores, for the error message.

    Raises:
        ValueError: scores of a wrong shape, or NaN.
    """
    count = len(cases.user)
    columns = {field: np.zeros(count, dtype=np.int64) for field in Places.__dataclass_fields__}
    columns["repeat"] = np.zeros(count, dtype=bool)
    cold_items = np.flatnonzero(cold) if cold is not None else np.zeros(0, dtype=np.int64)
    for rows in chunks(count, log.num_items):
        size = rows.stop - rows.start
        scores = np.asarray(ranker.rank(cases, rows))
        if scores.shape != (size, log.num_items):
            raise ValueError(f"{name}: scores have shape {scores.shape}, expected {(size, log.num_items)}")
        own = scores[np.arange(size), cases.target[rows]]
        if np.isnan(scores.sum()) and np.isnan(scores).any():
            raise ValueError(
                f"{name}: NaN among the scores of case {rows.start + int(np.isnan(scores).any(1).argmax())}"
            )
        better, ties = target_places(scores, cases.target[rows])
        seen = cases.histories.select(rows).matrix(log)
        row = np.repeat(np.arange(size), np.diff(seen.indptr))
        other = seen.indices != cases.target[rows][row]
        columns["repeat"][rows] = np.bincount(row[~other], minlength=size) > 0
        score, row = scores[row[other], seen.indices[other]], row[other]
        missing = np.isneginf(own)
        above, equal = (score > own[row]) | missing[row], (score == own[row]) & ~missing[row]
        columns["better"][rows], columns["ties"][rows] = better, ties
        columns["better_new"][rows] = better - np.bincount(row[above], minlength=size)
        columns["ties_new"][rows] = ties - np.bincount(row[equal], minlength=size)
        if len(cold_items):
            among = scores[:, cold_items]
            itself = np.isin(cases.target[rows], cold_items)
            columns["better_cold"][rows] = np.count_nonzero(among > own[:, None], axis=1)
            columns["ties_cold"][rows] = np.maximum(np.count_nonzero(among == own[:, None], axis=1) - itself, 0)
            columns["better_cold"][rows][missing] = max(len(cold_items) - 1, 0)
            columns["ties_cold"][rows][missing] = 0
    return Places(**columns)


def mean_ndcg(log: InterestLog, cases: RankingCases, ranker: Ranker, filtered: bool) -> float:
    """NDCG@10, what ranking baselines are tuned by."""
    counted, values = place_targets(log, cases, ranker).values(filtered)
    return float(values["ndcg@10"][counted].mean()) if counted.any() else 0.0

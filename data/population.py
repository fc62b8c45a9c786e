"""What everybody did before a moment: shares of the domains per day, and how often and how lately each item was taken.

Both tables answer a query only from events strictly before it: shares from earlier days, popularity from a grid point
that is not after the query and that knows strictly earlier events.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import scipy.sparse as sp


if TYPE_CHECKING:
    from ..taxonomy_interest import DomainTree
    from .log import InterestLog


SECONDS_PER_DAY = 86_400
ORDER_BINS = 1_000  # a log with positions only: its "day" is a thousandth of its range
_LONG_RUN_STRENGTH = 10.0  # events of even shares under the long run: every node has a share from the first day on
_RECENT_STRENGTH = 50.0  # events of long-run shares under the recent shares
_MAX_POPULARITY_VALUES = 100_000_000  # features, 400 MiB: a huge catalogue gets fewer grid points


def even_shares(tree: DomainTree) -> np.ndarray:
    """Shares `(K,)` of somebody of whom nothing is known: even among siblings."""
    children = np.bincount(tree.parent + 1, minlength=len(tree) + 1)
    shares = np.zeros(len(tree))
    for node, parent in enumerate(tree.parent):  # parents stand before children
        shares[node] = (1.0 if parent < 0 else shares[parent]) / children[parent + 1]
    return shares


@dataclass(frozen=True)
class PopulationTable:
    """The population's shares of the domains, day by day.

    Attributes:
        days (`np.ndarray` of shape `(D,)`): the distinct days on which something happened, ascending (timestamp //
            `width`).
        table (`np.ndarray` of shape `(D + 1, 2 + F, K)`): float32; row `n` holds the long-run shares, the recent ones and those of F
            further half-lives after the first `n` of those days. Absolute shares: top nodes sum to 1, siblings to their parent, none is 0.
        width (`int`): length of a day in the log's time unit.
    """

    days: np.ndarray
    table: np.ndarray
    width: int

    @classmethod
    def build(
        cls,
        log: InterestLog,
        allowed: np.ndarray | None = None,
        half_life_days: float | None = None,
        further: tuple[float, ...] = (),
    ) -> PopulationTable:
        """Counts the allowed events day by day.

        Args:
            log (`InterestLog`): a log with a domain tree.
            allowed (`np.ndarray` of shape `(E,)`, *optional*): bool, the events that may be counted at all; all if not
                given.
            half_life_days (`float`, *optional*): half-life of the recent shares, 14 days if not given. On a log with
                positions only it is in hundredths of the range, 5 if not given.
            further (`tuple[float, ...]`, *optional*): other half-lives, in the same unit.

        Raises:
            ValueError: a log without a domain tree, or a half-life that is not positive.
        """
        if log.tree is None:
            raise ValueError(f"{log.name}: the log has no domain tree, so the population has no shares of domains")
        order = log.facts.get("time") == "order"
        usual = half_life_days if half_life_days is not None else (5.0 if order else 14.0)
        for half_life in (usual, *further):
            if not half_life > 0:
                raise ValueError(f"half_life_days is {half_life!r}, expected a positive number")
        half_lives = np.array([usual, *further], dtype=np.float64)[:, None]
        chosen = log.item >= 0 if allowed is None else (log.item >= 0) & np.asarray(allowed, dtype=bool)
        timestamp, item = log.timestamp[chosen], log.item[chosen]
        width = SECONDS_PER_DAY
        if order:
            width = max(1, -(-int(np.ptp(log.timestamp) + 1) // ORDER_BINS)) if len(log.timestamp) else 1
            half_lives = np.maximum(half_lives * ORDER_BINS / 100, 1e-9)
        days, day = np.unique(timestamp // width, return_inverse=True)
        matrix = sp.csr_matrix((np.ones(len(item), np.float32), (day, item)), shape=(len(days), len(log.item_ids)))
        counts = (matrix @ log.item_nodes).toarray().astype(np.float64)

        top = log.tree.depth == 0
        table = np.empty((len(days) + 1, 1 + len(half_lives), counts.shape[1]), dtype=np.float32)
        long_run = _LONG_RUN_STRENGTH * even_shares(log.tree)
        recent = np.zeros((len(half_lives), counts.shape[1]))
        for row in range(len(days) + 1):
            if row:
                gap = days[row - 1] - days[row - 2] if row > 1 else 0
                recent = recent * 0.5 ** (gap / half_lives) + counts[row - 1]
                long_run = long_run + counts[row - 1]
            share = long_run / long_run[top].sum()
            table[row, 0] = share
            taken = recent[:, top].sum(1, keepdims=True)
            table[row, 1:] = (recent + _RECENT_STRENGTH * share) / (taken + _RECENT_STRENGTH)
        return cls(days, table, width)

    def index(self, time: np.ndarray) -> np.ndarray:
        """Rows of `table` for times `(Q,)`: the number of days with events strictly before the day of each time."""
        return np.searchsorted(self.days, np.asarray(time, dtype=np.int64) // self.width, side="left")

    def shares(self, time: np.ndarray) -> np.ndarray:
        """Long-run and recent shares, and those of further half-lives, from earlier days only: float32 of shape `(Q, 2 + F, K)` for
        times `(Q,)`."""
        return self.table[self.index(time)]


@dataclass(frozen=True)
class PopularityTable:
    """How often and how lately each item was taken, day by day or at 1,024 moments.

    Attributes:
        grid (`np.ndarray` of shape `(G,)`): int64 moments, ascending.
        features (`np.ndarray` of shape `(G, I, F)`): float32 features of every item from events strictly before each
            moment; see `names`.
        names (`tuple[str, ...]`): the F features: log1p of the decayed count per half-life, log1p of the total count,
            log1p of the age in days (hundredths of the log for positions), 1.0 if taken before.
    """

    grid: np.ndarray
    features: np.ndarray
    names: tuple[str, ...]

    @classmethod
    def build(
        cls,
        log: InterestLog,
        allowed: np.ndarray | None = None,
        half_lives: tuple[float, ...] | None = None,
        max_points: int = 1024,
    ) -> PopularityTable:
        """Counts the allowed events between grid points that hold about equally many of them.

        Args:
            log (`InterestLog`): the log.
            allowed (`np.ndarray` of shape `(E,)`, *optional*): bool, the events that may be counted at all; all if not
                given.
            half_lives (`tuple[float, ...]`, *optional*): in days, (1, 7, 30, 120) if not given. On a log with
                positions only they are in hundredths of all events, (.2, 1, 5, 20) if not given.
            max_points (`int`, defaults to 1024): grid points at most; fewer where a catalogue is so large that the
                features would take more than 400 MiB.
        """
        order = log.facts.get("time") == "order"
        half_lives = half_lives or ((0.2, 1.0, 5.0, 20.0) if order else (1.0, 7.0, 30.0, 120.0))
        for half_life in half_lives:
            if not half_life > 0:
                raise ValueError(f"half-life is {half_life!r}, expected a positive number")
        num_items, num_features = len(log.item_ids), len(half_lives) + 3
        chosen = log.item >= 0 if allowed is None else (log.item >= 0) & np.asarray(allowed, dtype=bool)
        timestamp, item = log.timestamp[chosen], log.item[chosen]
        by_time = np.argsort(timestamp, kind="stable")
        timestamp, item = timestamp[by_time], item[by_time]
        points = max(2, min(max_points, _MAX_POPULARITY_VALUES // max(num_items * num_features, 1)))
        grid = _grid(timestamp, points, order)

        def clock(time: np.ndarray) -> np.ndarray:
            if order:
                return np.searchsorted(timestamp, time, side="left") * (100.0 / max(len(timestamp), 1))
            return np.asarray(time, dtype=np.float64) / SECONDS_PER_DAY

        event_clock, grid_clock = clock(timestamp), clock(grid)
        birth = _created_at(log) if not order else np.full(num_items, np.nan)
        features = np.zeros((len(grid), num_items, num_features), dtype=np.float32)
        decayed, total = np.zeros((len(half_lives), num_items)), np.zeros(num_items)
        stops = np.searchsorted(timestamp, grid, side="left")  # strictly before each grid point
        for row in range(len(grid)):
            start = stops[row - 1] if row else 0
            new, when = item[start : stops[row]], event_clock[start : stops[row]]
            elapsed = grid_clock[row] - grid_clock[row - 1] if row else 0.0
            for position, half_life in enumerate(half_lives):
                weight = 0.5 ** ((grid_clock[row] - when) / half_life)
                decayed[position] *= 0.5 ** (elapsed / half_life)
                decayed[position] += np.bincount(new, weight, minlength=num_items)
            total += np.bincount(new, minlength=num_items)
            fresh, first = np.unique(new, return_index=True)
            birth[fresh] = np.fmin(birth[fresh], when[first])
            age = np.nan_to_num(np.maximum(grid_clock[row] - birth, 0.0))
            columns = [*np.log1p(decayed), np.log1p(total), np.log1p(age), total > 0]
            features[row] = np.stack(columns, axis=-1)
        unit = "percent" if order else "days"
        names = (*(f"decayed_{half_life:g}_{unit}" for half_life in half_lives), "total", "age", "seen")
        return cls(grid, features, names)

    def index(self, time: np.ndarray) -> np.ndarray:
        """Rows `(Q,)` of `features` for times `(Q,)`: the last grid point that is not after each time.

        Times before the first event get row 0, which knows no event.
        """
        return np.maximum(np.searchsorted(self.grid, np.asarray(time, dtype=np.int64), side="right") - 1, 0)


def _grid(timestamp: np.ndarray, points: int, order: bool) -> np.ndarray:
    """Distinct moments from the first event to just after the last; on whole days where the log spans many of them."""
    if not len(timestamp):
        return np.zeros(1, dtype=np.int64)
    inner = timestamp[np.linspace(0, len(timestamp) - 1, points - 1).astype(np.int64)]
    if not order and timestamp[-1] - timestamp[0] >= 30 * SECONDS_PER_DAY:
        inner = np.maximum(inner // SECONDS_PER_DAY * SECONDS_PER_DAY, timestamp[0])
    return np.unique(np.concatenate([inner, [timestamp[-1] + 1]])).astype(np.int64)


def _created_at(log: InterestLog) -> np.ndarray:
    """When each item came to be, in days as float64, NaN where unknown."""
    if "created_at" not in log.items.columns:
        return np.full(len(log.item_ids), np.nan)
    column = log.items["created_at"]
    if isinstance(column.dtype, pd.DatetimeTZDtype) or pd.api.types.is_datetime64_any_dtype(column):
        column = (column - pd.Timestamp(0, tz=column.dt.tz)) / pd.Timedelta(seconds=1)
    return pd.to_numeric(column, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan) / SECONDS_PER_DAY

"""Anybody's predictions from a file, measured under the same protocol as a model of ours."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from .cases import ForecastCases, RankingCases, forecast_cases, ranking_cases, sample_users
from .folds import fold


if TYPE_CHECKING:
    from ..data.log import InterestLog


LIST_COLUMNS = ("user_id", "item_id", "score or rank")
FORECAST_COLUMNS = ("user_id", "horizon", "domain", "share")


class PredictionError(ValueError):
    """Rows of a predictions file that are wrong or missing."""


def template(
    log: InterestLog, path: str | Path, *, split: str = "test", max_users: int | None = None, seed: int = 0
) -> Path:
    """Writes what is asked: one row per ranking case, `user_id`, `at` (time of the last event that may be used) and `history` (how
    many of the user's first events may be used).

    Lists are answered with the same `user_id`, `at` and `history` and with `item_id` and `score` (larger is better) or `rank` (1 is best).

    Raises:
        ValueError: an unknown split, or the folder does not exist.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise ValueError(f"{path}: no folder {path.parent}")
    cases = ranking_cases(log, fold(log, split), sample_users(log, max_users, seed))
    asked = pd.DataFrame({"user_id": log.user_ids[cases.user], "at": cases.time, "history": cases.histories.lengths})
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        asked.drop_duplicates().to_parquet(temporary, index=False)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def forecast_template(
    log: InterestLog,
    path: str | Path,
    *,
    horizons: Sequence[float],
    horizon_unit: str,
    reference_horizon: float,
    split: str = "test",
    max_users: int | None = None,
    seed: int = 0,
) -> Path:
    """Writes what a forecast is asked: one row per user, `at` and horizon, the domains being the leaves of the taxonomy.

    Raises:
        ValueError: a log without domains, an unknown split, or the folder does not exist.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise ValueError(f"{path}: no folder {path.parent}")
    if log.tree is None:
        raise ValueError(f"{log.name}: the log has no domains to forecast")
    users = sample_users(log, max_users, seed)
    cases = forecast_cases(log, fold(log, split), horizons, horizon_unit, reference_horizon, users)
    count = len(cases.horizons)
    asked = pd.DataFrame(
        {
            "user_id": np.repeat(log.user_ids[cases.user], count),
            "at": np.repeat(cases.time, count),
            "horizon": np.tile(cases.horizons, len(cases.user)),
        }
    )
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        asked.to_parquet(temporary, index=False)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def load_predictions(path: str | Path, log: InterestLog) -> ListPredictor | SharePredictor:
    """Reads a Parquet file of ranking lists or of forecasts; which, is told by its columns.

    Raises:
        ValueError: no such file, columns of neither kind, or a bad row; the message names file, row, value and what was
            expected.
    """
    path = Path(path)
    if not path.is_file():
        raise PredictionError(f"{path}: no such file")
    try:
        frame = pq.read_table(path).to_pandas()
    except (pa.ArrowInvalid, OSError) as error:
        raise PredictionError(f"{path}: not readable as Parquet ({str(error).splitlines()[0]})") from None
    if "item_id" in frame and ("score" in frame or "rank" in frame):
        return ListPredictor(frame, log, str(path))
    if set(FORECAST_COLUMNS) <= set(frame.columns):
        return SharePredictor(frame, log, str(path))
    wanted = f"{', '.join(LIST_COLUMNS)} (ranking lists) or {', '.join(FORECAST_COLUMNS)} (forecasts)"
    raise PredictionError(f"{path}: columns are {', '.join(map(str, frame.columns))}, expected {wanted}")


def _positions(frame: pd.DataFrame, column: str, known: np.ndarray, path: str, what: str) -> np.ndarray:
    codes = pd.Index(known.astype(object)).get_indexer(pd.Index(frame[column].astype(str), dtype=object))
    if len(bad := np.flatnonzero(codes < 0)):
        raise PredictionError(
            f"{path}: row {bad[0]}: `{column}` {frame[column].tolist()[bad[0]]!r} is no {what} of the data"
        )
    return codes


def _numbers(frame: pd.DataFrame, column: str, path: str, low: float = -np.inf) -> np.ndarray:
    values = pd.to_numeric(frame[column], errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
    if len(bad := np.flatnonzero(~np.isfinite(values) | (values < low))):
        expected = "a finite number" + (f" not below {low:g}" if np.isfinite(low) else "")
        raise PredictionError(
            f"{path}: row {bad[0]}: `{column}` is {frame[column].tolist()[bad[0]]!r}, expected {expected}"
        )
    return values


def _unique(keys: Sequence[np.ndarray], frame: pd.DataFrame, columns: Sequence[str], path: str) -> None:
    twice = pd.MultiIndex.from_arrays(keys).duplicated()
    if len(bad := np.flatnonzero(twice)):
        shown = ", ".join(f"`{column}` {frame[column].tolist()[bad[0]]!r}" for column in columns)
        raise PredictionError(f"{path}: row {bad[0]}: {shown} was given before")


class ListPredictor:
    """Top lists: items that are not in a list are not found, and a case without a list finds nothing.

    Args:
        frame (`pd.DataFrame`): `user_id`, `item_id`, `score` (larger is better) or `rank` (1 is best), and where a user is asked
            several times `at`, `history` or both (see [`template`]; events of one time differ in `history` alone). Without
            them one list answers all of a user's cases.
        log (`InterestLog`): whose ids they are.
        path (`str`): for error messages.

    Raises:
        ValueError: an unknown user or item, a score that is not finite, an item twice in a list.
    """

    def __init__(self, frame: pd.DataFrame, log: InterestLog, path: str = "predictions"):
        user = _positions(frame, "user_id", log.user_ids, path, "user")
        item = _positions(frame, "item_id", log.item_ids, path, "item")
        score = _numbers(frame, "score", path) if "score" in frame else -_numbers(frame, "rank", path, 1.0)
        self.told_by = [column for column in ("at", "history") if column in frame]
        keys = [user, *(_numbers(frame, column, path).astype(np.int64) for column in self.told_by)]
        _unique([*keys, item], frame, ["user_id", *self.told_by, "item_id"], path)
        self.num_items = log.num_items
        order = np.lexsort(keys[::-1])
        self.item, self.score = item[order], score[order]
        lists = pd.MultiIndex.from_arrays([key[order] for key in (*keys, np.zeros_like(user))])
        first = np.flatnonzero(~lists.duplicated())
        self.lists, self.start = lists[first], np.r_[first, len(order)]

    def rank(self, cases: RankingCases, rows: slice) -> np.ndarray:
        """`(n, I)` float64 scores, minus infinity where a list does not have the item."""
        user = cases.user[rows]
        known = {"at": cases.time[rows], "history": cases.histories.lengths[rows]}
        asked = pd.MultiIndex.from_arrays([user, *(known[name] for name in self.told_by), np.zeros_like(user)])
        found = self.lists.get_indexer(asked)
        scores = np.full((len(user), self.num_items), -np.inf)
        for row in np.flatnonzero(found >= 0):
            part = slice(self.start[found[row]], self.start[found[row] + 1])
            scores[row, self.item[part]] = self.score[part]
        return scores


class SharePredictor:
    """Forecasts of shares: one row per user, horizon and leaf domain; leaves that are not given have share 0, and inner domains are
    the sums of their leaves.

    Args:
        frame (`pd.DataFrame`): `user_id`, `horizon`, `domain` (id of a leaf), `share`.
        log (`InterestLog`): whose ids they are.
        path (`str`): for error messages.

    Raises:
        ValueError: an unknown user or domain, an inner domain, a negative share, shares that do not sum to one, a domain
            given twice.
    """

    def __init__(self, frame: pd.DataFrame, log: InterestLog, path: str = "predictions"):
        if log.tree is None:
            raise PredictionError(f"{path}: {log.name} has no domains, so that no forecast can be measured")
        self.path, self.log = path, log
        user = _positions(frame, "user_id", log.user_ids, path, "user")
        domain = _positions(frame, "domain", np.array(log.tree.ids, dtype=object), path, "domain")
        if len(bad := np.flatnonzero(~log.tree.is_leaf[domain])):
            shown = frame["domain"].iloc[bad[0]]
            raise PredictionError(
                f"{path}: row {bad[0]}: `domain` {shown!r} has domains below it, expected leaves only"
            )
        horizon, share = _numbers(frame, "horizon", path), _numbers(frame, "share", path, 0.0)
        _unique([user, horizon, domain], frame, ("user_id", "horizon", "domain"), path)
        self.index, row = np.unique(np.stack([user.astype(np.float64), horizon]), axis=1, return_inverse=True)
        row = row.ravel()
        total = np.bincount(row, share, minlength=self.index.shape[1])
        if len(bad := np.flatnonzero(np.abs(total - 1.0) > 1e-3)):
            first = int(np.flatnonzero(row == bad[0])[0])
            shown = f"`user_id` {frame['user_id'].tolist()[first]!r}, `horizon` {frame['horizon'].tolist()[first]!r}"
            raise PredictionError(f"{path}: row {first}: shares of {shown} sum to {total[bad[0]]:.4f}, expected 1")
        self.shares = np.zeros((self.index.shape[1], len(log.tree)))
        self.shares[row, domain] = share
        for node in range(len(log.tree) - 1, -1, -1):  # parents stand before children
            if (parent := log.tree.parent[node]) >= 0:
                self.shares[:, parent] += self.shares[:, node]
        self.row_of = {(int(u), float(h)): position for position, (u, h) in enumerate(self.index.T)}

    def forecast(self, cases: ForecastCases) -> dict[str, np.ndarray]:
        """`future (Q, H, K)`.

        Raises:
            ValueError: a user or horizon that is asked is missing.
        """
        rows = np.empty((len(cases.user), len(cases.horizons)), dtype=np.int64)
        for position, user in enumerate(cases.user.tolist()):
            for column, horizon in enumerate(cases.horizons):
                row = self.row_of.get((user, float(horizon)))
                if row is None:
                    shown = f"`user_id` {str(self.log.user_ids[user])!r}, `horizon` {horizon:g}"
                    raise PredictionError(
                        f"{self.path}: no forecast of {shown}, which is asked (see `forecast_template`)"
                    )
                rows[position, column] = row
        return {"future": self.shares[rows]}

"""Lists of items for people, by the log's own ids, each with the event it follows from."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
from pyversity import msd

from ..data.labels import history_range
from ..evaluation.cases import Histories, RankingCases
from ..evaluation.protocol import FILTER_BELOW
from ..evaluation.ranking import chunks
from .profile import moment, show_time, user_position, warn_late


if TYPE_CHECKING:
    from ..data.log import InterestLog


POOL = 10  # times the length of a list: what a diverse one is chosen from
LEAST_POOL = 100


def recommend(
    predictor,
    log: InterestLog,
    user_ids: Iterable[str],
    k: int = 10,
    *,
    filter_seen: bool | None = None,
    at: int | str | None = None,
    item_vectors: np.ndarray | None = None,
    diversity: float = 0.0,
) -> list[dict[str, Any]]:
    """The best `k` items for each person at a moment.

    Args:
        predictor: a `ModelPredictor`, or anything with its `rank(cases, rows)`.
        log (`InterestLog`): everything strictly before `at` is seen.
        user_ids (iterable of `str`): the log's own ids.
        k (`int`): length of the lists; shorter where fewer items are left.
        filter_seen (`bool`, *optional*): leave out what the person had. By default only where the log's people rarely come
            back to an item (`facts["repeat_rate"]` below .01), as in the evaluation.
        at (`int` or `str`, *optional*): seconds or an ISO date; by default right after each person's last event.
        item_vectors (`np.ndarray` of shape `(I, D)`, *optional*): unit item vectors, for the reasons; without them `reason` is
            None.
        diversity (`float`, *optional*, defaults to 0): from 0, the best items, to 1, items as unlike each other as can be found
            among the best ones, see [`choose_items`]. Needs `item_vectors` above 0.

    Returns:
        One `{"user", "at", "ranking": [{"item_id", "title", "score", "reason"}]}` per person, best first; where `diversity` is
        above 0 in the order in which they were chosen. Scores order one person's items and mean nothing across people. `reason` is the title of the person's event whose item is most like this one.

    Raises:
        ValueError: an unknown user, a moment that cannot be read, `k` below 1, a `diversity` outside of 0 to 1 or without vectors.
    """
    if k < 1:
        raise ValueError(f"`k` is {k}, expected at least 1")
    if not 0 <= diversity <= 1:
        raise ValueError(f"`diversity` is {diversity}, expected 0 to 1")
    if diversity and item_vectors is None:
        raise ValueError(f"`diversity` is {diversity} without `item_vectors`, expected vectors that tell items apart")
    if isinstance(user_ids, str):
        raise ValueError(f"`user_ids` is {user_ids!r}, expected a list of ids")
    names = [str(user_id) for user_id in user_ids]
    user = np.array([user_position(log, name) for name in names], dtype=np.int64)
    time = np.array([moment(log, position, at) for position in user.tolist()], dtype=np.int64)
    if len(time):
        warn_late(log, int(time.max()))
    if filter_seen is None:
        filter_seen = float(log.facts.get("repeat_rate") or 0.0) < FILTER_BELOW
    start, stop = history_range(log, user, time)
    histories = Histories.from_ranges(start, stop)
    nothing = np.full(len(user), -1, dtype=np.int64)
    cases = RankingCases(user=user, time=time, histories=histories, target=nothing, event=nothing)
    titles = log.items["title"].to_numpy(dtype=object)
    lists = []
    for rows in chunks(len(user), log.num_items):
        scores = np.array(predictor.rank(cases, rows), dtype=np.float32)
        for row, scored in zip(range(rows.start, rows.stop), scores, strict=True):
            events = histories.index[histories.offsets[row] : histories.offsets[row + 1]]
            seen = np.unique(log.item[events][log.item[events] >= 0])
            if filter_seen:
                scored[seen] = -np.inf
            best = choose_items(scored, k, item_vectors, diversity)
            reasons = _reasons(best, seen, titles, log.item_ids, item_vectors)
            lists.append(
                {
                    "user": names[row],
                    "at": show_time(log, int(time[row])),
                    "ranking": [
                        {
                            "item_id": str(log.item_ids[item]),
                            "title": str(titles[item]),
                            "score": round(float(scored[item]), 5),
                            "reason": reason,
                        }
                        for item, reason in zip(best.tolist(), reasons, strict=True)
                    ],
                }
            )
    return lists


def choose_items(scores: np.ndarray, k: int, vectors: np.ndarray | None = None, diversity: float = 0.0) -> np.ndarray:
    """Which `k` items to show, as indexes in the order of the list.

    With `diversity` a list is chosen from the best `10 k` items, a hundred at least, one after the other: the best one first, then
    whatever has the largest `(1 - diversity) s + diversity * sum of (1 - cos)` to those chosen before, where `s` is the score,
    0 to 1 over these items (max-sum diversification: Borodin, Lee and Ye 2012, "Max-Sum Diversification, Monotone
    Submodular Functions and Dynamic Updates").

    Args:
        scores (`np.ndarray` of shape `(I,)`): the higher the better; `-inf` is never shown.
        k (`int`): length of the list; shorter where fewer items are left.
        vectors (`np.ndarray` of shape `(I, D)`, *optional*): of the items; only for `diversity` above 0.
        diversity (`float`, *optional*, defaults to 0): 0 to 1.
    """
    number = min(max(POOL * k, LEAST_POOL) if diversity else k, len(scores))
    best = np.argsort(-scores, kind="stable")[:number]
    best = best[np.isfinite(scores[best])]
    if not diversity or not len(best):
        return best
    high, low = float(scores[best[0]]), float(scores[best[-1]])
    relevance = (scores[best] - low) / max(high - low, 1e-9)
    return best[msd(vectors[best], relevance, k, float(diversity)).indices]


def _reasons(
    items: np.ndarray, seen: np.ndarray, titles: np.ndarray, item_ids: np.ndarray, vectors: np.ndarray | None
) -> list[str | None]:
    """Title (or id) of the most similar item of the history for each item, itself excepted."""
    if vectors is None or not len(seen) or not len(items):
        return [None] * len(items)
    similar = vectors[items] @ vectors[seen].T
    similar[items[:, None] == seen[None, :]] = -np.inf
    nearest = seen[similar.argmax(1)]
    known = np.isfinite(similar.max(1))
    return [
        f"like {titles[item] or item_ids[item]}" if found else None
        for item, found in zip(nearest.tolist(), known.tolist(), strict=True)
    ]


def print_recommendations(lists: list[dict[str, Any]], console=None) -> None:
    """The lists as tables in the terminal."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = console or Console()
    for entry in lists:
        table = Table(title=f"For user {escape(entry['user'])} at {entry['at']}")
        table.add_column("#", justify="right")
        for column in ("item", "title", "reason"):
            table.add_column(column)
        table.add_column("score", justify="right")
        for place, row in enumerate(entry["ranking"], start=1):
            table.add_row(
                str(place),
                escape(row["item_id"]),
                escape(row["title"]),
                escape(row["reason"] or ""),
                f"{row['score']:.2f}",
            )
        console.print(table)

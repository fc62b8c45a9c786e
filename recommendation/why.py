"""Why: which events of a history made a forecast, by asking again without each of them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ..evaluation.cases import ForecastCases, Histories, take


if TYPE_CHECKING:
    from ..data.log import InterestLog


def without(cases: ForecastCases, events: list[np.ndarray]) -> ForecastCases:
    """One case asked several times, each time without some of its events.

    Args:
        cases (`ForecastCases`): one case with T events.
        events: per question the positions in the history, 0 to T - 1, that are left out.
    """
    whole = cases.histories.index
    kept = [np.delete(np.arange(len(whole)), left_out) for left_out in events]
    offsets = np.concatenate([[0], np.cumsum([len(part) for part in kept])]).astype(np.int64)
    chosen = np.concatenate(kept) if kept else np.zeros(0, dtype=np.int64)
    item = None if cases.histories.item is None else cases.histories.item[chosen]
    repeated = take(cases, np.zeros(len(events), dtype=np.int64))
    return replace(repeated, histories=Histories(whole[chosen], offsets, item))


def event_contributions(predictor, cases: ForecastCases, max_events: int = 200) -> tuple[np.ndarray, np.ndarray]:
    """What each event adds to the share of every domain in the window of the reference horizon: the forecast minus the one
    without that event, exactly, the model asked once per event.

    Args:
        predictor: a `ModelPredictor`, or anything with its `forecast(cases)`.
        cases (`ForecastCases`): one case.
        max_events (`int`): the latest so many events are tried.

    Returns:
        Positions of the events in the log `(T,)`, oldest first, and their contributions `(T, K)`: shares, signed; negative
        where an event took share away.
    """
    number = len(cases.histories.index)
    tried = np.arange(max(number - max_events, 0), number)
    asked = without(cases, [np.zeros(0, dtype=np.int64), *(np.array([position]) for position in tried)])
    reference = cases.horizons.index(cases.reference_horizon)
    future = np.asarray(predictor.forecast(asked)["future"])[:, reference]
    return cases.histories.index[tried], future[:1] - future[1:]


def reasons(log: InterestLog, events: np.ndarray, contributions: np.ndarray, top: int, show) -> list[dict[str, Any]]:
    """The events that add most to one domain, strongest first; those that add nothing are no reason.

    Args:
        log (`InterestLog`): the log.
        events (`np.ndarray` of shape `(T,)`): positions in the log.
        contributions (`np.ndarray` of shape `(T,)`): what each adds.
        top (`int`): at most so many.
        show: makes a time readable.

    Returns:
        `{"item_id", "title", "at", "contribution"}` per event.
    """
    order = np.argsort(-contributions, kind="stable")[:top]
    titles = log.items["title"].to_numpy(dtype=object)
    found = []
    for place in order[contributions[order] > 0].tolist():
        event, item = int(events[place]), int(log.item[events[place]])
        found.append(
            {
                "item_id": str(log.item_ids[item]) if item >= 0 else None,
                "title": str(titles[item]) if item >= 0 else None,
                "at": show(int(log.timestamp[event])),
                "contribution": round(float(contributions[place]), 5),
            }
        )
    return found

"""All of the history counts the same."""

from __future__ import annotations

from .shares import ShareBaseline


class HistoryMean(ShareBaseline):
    """Shares of all earlier events, with a pull of one event towards the population so that none is zero."""

    name = "history_mean"

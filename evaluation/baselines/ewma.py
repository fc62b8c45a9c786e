"""Exponentially weighted shares: the newest events count most."""

from __future__ import annotations

from .shares import DECAY_GRID, ShareBaseline


class EWMA(ShareBaseline):
    """Decayed counts with the half-life (in events or days) that validation prefers, and a pull of one event."""

    name = "ewma"
    grid = (("decay", DECAY_GRID),)

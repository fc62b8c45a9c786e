"""Decayed counts with shrinkage: one half-life, one pull."""

from __future__ import annotations

from .shares import DECAY_GRID, POPULATION_HALF_LIVES, Setting, ShareBaseline
from .shrinkage import STRENGTHS


class DecayedCounts(ShareBaseline):
    """Dirichlet posterior mean of decayed counts; half-life, strength, kind of pull and population are tuned."""

    name = "decayed_counts"
    grid = (
        ("decay", DECAY_GRID),
        ("strength", STRENGTHS),
        ("conditional", (False, True)),
        ("population", POPULATION_HALF_LIVES),
    )
    starts = (Setting(strength=8.0), Setting(20.0, "events", 2.0, True))

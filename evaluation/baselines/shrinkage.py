"""All of the history, pulled towards the population as hard as validation says."""

from __future__ import annotations

from .shares import POPULATION_HALF_LIVES, Setting, ShareBaseline


STRENGTHS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0)


class Shrinkage(ShareBaseline):
    """Dirichlet posterior mean of the undecayed history; strength, kind of pull and population are tuned."""

    name = "shrinkage"
    grid = (("strength", STRENGTHS), ("conditional", (False, True)), ("population", POPULATION_HALF_LIVES))
    starts = (Setting(strength=8.0),)

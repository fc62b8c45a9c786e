"""The population: everybody gets everybody's recent shares."""

from __future__ import annotations

import numpy as np

from .shares import Evidence, Setting, ShareBaseline


class PopulationShares(ShareBaseline):
    """Shares of everybody on earlier days; the half-life is tuned (none: the long run)."""

    name = "population"
    grid = (("population", (None, 3.0, 7.0, 14.0, 30.0, 60.0, 120.0, 365.0)),)

    def shares(self, evidence: Evidence, setting: Setting, horizon: float, unit: str) -> np.ndarray:
        """`(Q, K)` shares, the same for everybody asked on one day."""
        return evidence.population(setting.population)

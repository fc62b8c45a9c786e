"""The last window again: what somebody did in the window before is what she does next."""

from __future__ import annotations

import numpy as np

from .shares import Evidence, Setting, ShareBaseline, posterior


class LastWindow(ShareBaseline):
    """Shares of the window of the same length before the cut, with a weak pull towards the population so that none is zero."""

    name = "last_window"
    grid = (("strength", (0.5, 1.0, 3.0, 10.0)),)

    def shares(self, evidence: Evidence, setting: Setting, horizon: float, unit: str) -> np.ndarray:
        """`(Q, K)` shares of the last `horizon` events or days."""
        counts = evidence.window(horizon, unit)
        return posterior(counts, evidence.population(setting.population), setting.strength, evidence.tree)

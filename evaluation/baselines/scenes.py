"""Interest given a scene: counts per scene, of everybody and of the person, and the mixture tilted by them; and how common
scenes are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sp

from ..cases import SceneCases
from ..folds import Fold
from .context import SMALL, STRENGTHS, Leaves, Tilted, descend, pull, rolling, tuning_part
from .mixture import Mixture
from .shares import EVENT_HALF_LIVES, Population


if TYPE_CHECKING:
    from ...data.log import InterestLog


HALF_LIVES = (None, *EVENT_HALF_LIVES)


@dataclass(frozen=True)
class SceneSettings:
    """Pull of everybody's shares in a scene towards those of all events; half-life in events of the person's own counts in it,
    and their pull towards the person's mixture; the same of the chance of a scene, towards everybody's."""

    everybody_strength: float = 64.0
    half_life: float | None = None
    strength: float = 4.0
    share_half_life: float | None = None
    share_strength: float = 4.0


class SceneBaselines:
    """All of them together: they are made of each other.

    `mixture` does not look at the scene; `scene_population` is everybody's share in it; `scene_counts` the person's decayed counts
    in it, pulled towards the mixture; `scene_mix` a logarithmic pool of the mixture, what the scene changes for everybody and
    for the person, and `scene_counts`. Of the chance of a scene, `scene_population` and `scene_counts` say everybody's and
    the person's decayed history.
    """

    def __init__(self) -> None:
        self.mixture, self.settings, self.best = Mixture(), SceneSettings(), Tilted("scene_mix")

    def fit(self, log: InterestLog, fold: Fold) -> None:
        """Takes tables of the known events, and the population of all earlier days."""
        self.log, self.leaves, self.population = log, Leaves(log), Population(log, rolling(fold))
        self.mixture.fit(log, rolling(fold))
        known = np.flatnonzero(fold.known & (log.scene >= 0) & (log.item >= 0))
        number, scene = len(log.scenes), log.scene[known].astype(np.int64)
        table = sp.csr_matrix((np.ones(len(known)), (scene, log.item[known])), shape=(number, log.num_items))
        self.table = (table @ self.leaves.items).toarray()  # (S, L)
        common = np.bincount(scene, minlength=number) + 1.0
        self.common = common / common.sum()

    def tune(self, log: InterestLog, fold: Fold, cases: SceneCases) -> None:
        """Everything on the cases of a round, which are thinned where there are very many domains."""
        cases = tuning_part(cases, log)
        self.fit(log, fold)
        self.mixture.tune(log, rolling(fold), cases)
        mixture, counts, loss = self._mixture(cases), cases.reference_counts, self.leaves.loss
        settings = descend(
            self.settings, {"everybody_strength": STRENGTHS}, lambda s: loss(self._everybody(cases, s), counts)
        )
        grid = {"half_life": HALF_LIVES, "strength": STRENGTHS}
        settings = descend(settings, grid, lambda s: loss(self._own(cases, s, mixture), counts))
        grid = {"share_half_life": HALF_LIVES, "share_strength": STRENGTHS}
        rows = np.arange(len(cases.user))
        self.settings = descend(settings, grid, lambda s: -np.log(self._share(cases, s)[rows, cases.scene]).mean())
        self.best.tune(self.leaves, self._parts(cases), counts)

    def _mixture(self, cases: SceneCases) -> np.ndarray:
        return self.mixture.forecast(cases)["future"][:, 0][:, self.leaves.nodes]

    def _base(self, cases: SceneCases) -> np.ndarray:
        return self.population.shares(cases.time, None)[:, self.leaves.nodes]

    def _everybody(self, cases: SceneCases, settings: SceneSettings) -> np.ndarray:
        return pull(self.table[cases.scene], self._base(cases), settings.everybody_strength)

    def _weights(self, cases: SceneCases, half_life: float | None) -> np.ndarray:
        return np.ones(len(cases.histories.index)) if half_life is None else np.exp2(-cases.histories.ages / half_life)

    def _counts(self, cases: SceneCases, settings: SceneSettings) -> np.ndarray:
        histories = cases.histories
        same = self.log.scene[histories.index] == cases.scene[histories.rows]
        weights = self._weights(cases, settings.half_life) * same
        return (histories.matrix(self.log, weights) @ self.leaves.items).toarray()

    def _own(self, cases: SceneCases, settings: SceneSettings, mixture: np.ndarray) -> np.ndarray:
        return pull(self._counts(cases, settings), mixture, settings.strength)

    def _share(self, cases: SceneCases, settings: SceneSettings) -> np.ndarray:
        histories = cases.histories
        scene, number = self.log.scene[histories.index], len(self.common)
        weights = self._weights(cases, settings.share_half_life) * (scene >= 0)
        slot = histories.rows * number + np.maximum(scene, 0)
        counts = np.bincount(slot, weights, minlength=len(histories) * number).reshape(-1, number)
        return pull(counts, self.common, settings.share_strength)

    def _parts(self, cases: SceneCases) -> dict[str, np.ndarray]:
        mixture, base, settings = self._mixture(cases), self._base(cases), self.settings
        everybody, own = self._everybody(cases, settings), self._own(cases, settings, mixture)
        values = {
            "mixture": mixture,
            "scene of everybody": everybody / np.maximum(base, SMALL),
            "scene of the person": own / np.maximum(mixture, SMALL),
        }
        return {name: np.log(np.maximum(value, SMALL)) for name, value in values.items()}

    def interest(self, cases: SceneCases) -> dict[str, np.ndarray]:
        """`{name: (Q, K)}` shares given the scene."""
        shares, mixture = self.leaves.shares, self.mixture.forecast(cases)["future"][:, 0]
        return {
            "mixture": mixture,
            "scene_population": shares(self._everybody(cases, self.settings)),
            "scene_counts": shares(self._own(cases, self.settings, mixture[:, self.leaves.nodes])),
            "scene_mix": self.best.shares(self.leaves, self._parts(cases)),
        }

    def share(self, cases: SceneCases) -> dict[str, np.ndarray]:
        """`{name: (Q, S)}` chances of the scenes of the log."""
        everybody = np.repeat(self.common[None], len(cases.user), 0)
        return {"scene_population": everybody, "scene_counts": self._share(cases, self.settings)}

    def describe(self) -> dict[str, dict]:
        """Their tuned settings by name."""
        own = {name: getattr(self.settings, name) for name in ("half_life", "strength")}
        return {
            "scene_population": {"strength": self.settings.everybody_strength},
            "scene_counts": own,
            "scene_mix": self.best.describe(),
        }

    def describe_share(self) -> dict[str, dict]:
        """Those of the chance of a scene."""
        settings = self.settings
        return {"scene_counts": {"half_life": settings.share_half_life, "strength": settings.share_strength}}

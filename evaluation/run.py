"""What one evaluation carries along: who is asked what, and the answers so far."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from .folds import Fold
from .predictions import PredictionError
from .scoring import Score


if TYPE_CHECKING:
    from ..data.log import InterestLog


GROUPS = (
    "ranking",
    "overall",
    "completion",
    "future",
    "change",
    "intensity",
    "next_event",
    "scenes",
    "scene_share",
    "rating",
)
MODEL = "model"
OWN = "own_interest"  # the model's change rate as people see it: against its own long run, not the label's
# What decides within each group, and whether more is better.
HEADLINE = {
    "ranking": ("ndcg@10", True),
    "overall": ("auc", True),
    "completion": ("cross_entropy", False),
    "future": ("cross_entropy", False),
    "change": ("auc", True),
    "intensity": ("nb_deviance", False),
    "next_event": ("cross_entropy", False),
    "scenes": ("cross_entropy", False),
    "scene_share": ("cross_entropy", False),
    "rating": ("rmse", False),
}


@dataclass
class Run:
    """What an evaluation carries along: the log, its rounds of questions, the answers so far."""

    log: InterestLog
    predictor: Any
    asked: Fold
    tuning: Fold
    wanted: frozenset[str]
    replicates: int
    seed: int
    users: np.ndarray
    tuning_users: np.ndarray
    say: Callable[[str], None]
    scores: dict[str, dict[str, Score]] = field(default_factory=dict)  # group -> name -> score
    reasons: dict[str, str] = field(default_factory=dict)  # what the data cannot support
    unanswered: dict[str, str] = field(default_factory=dict)  # what the predictor does not answer
    settings: dict[str, dict] = field(default_factory=dict)
    slices: dict[str, dict] = field(default_factory=dict)  # name -> slices
    controls: dict[str, dict] = field(default_factory=dict)
    oracle: dict[str, Score] = field(default_factory=dict)
    own_change: Score | None = None  # the score of OWN

    def wants(self, *names: str) -> bool:
        return any(name in self.wanted for name in names)

    def add(self, group: str, name: str, score: Score) -> None:
        self.scores.setdefault(group, {})[name] = score

    def answers(self, method: str) -> bool:
        """Whether the predictor offers a method."""
        return self.predictor is not None and callable(getattr(self.predictor, method, None))

    def ask(self, method: str, cases: Any, *groups: str) -> Any:
        """The predictor's answer, or None with the reason noted for the groups: no such method, or it cannot say.

        Raises:
            PredictionError: rows of a file that are wrong or missing, which nobody should pass over.
        """
        if not self.answers(method):
            self.lacks(f"`{method}`", *groups)
            return None
        try:
            answer = getattr(self.predictor, method)(cases)
        except PredictionError:
            raise
        except ValueError as error:
            self.unanswered.update(dict.fromkeys(groups, str(error)))
            return None
        if answer is None:
            self.lacks(f"`{method}`", *groups)
        return answer

    def lacks(self, what: str, *groups: str) -> None:
        missing = "no predictor: baselines only" if self.predictor is None else f"the predictor answers no {what}"
        for group in groups:
            self.unanswered.setdefault(group, missing)


def best_baseline(scores: dict[str, Score], group: str) -> str | None:
    """The best baseline of a group by its headline figure on these cases."""
    metric, more = HEADLINE[group]
    figures = {name: score.figures.get(metric, np.nan) for name, score in scores.items() if name != MODEL}
    figures = {name: value for name, value in figures.items() if np.isfinite(value)}
    return (max if more else min)(figures, key=figures.__getitem__) if figures else None

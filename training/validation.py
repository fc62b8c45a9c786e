"""The figures on validation that a run is steered by."""

from __future__ import annotations

import math

import numpy as np

from ..data.log import TRAIN, InterestLog
from ..evaluation.cases import (
    completion_cases,
    forecast_cases,
    next_event_cases,
    ranking_cases,
    sample_users,
    scene_cases,
    take,
)
from ..evaluation.folds import fold
from ..evaluation.metrics.forecast import forecast_values
from ..evaluation.predict import ModelPredictor
from ..evaluation.ranking import place_targets


BLEND_CASES = 2_500  # questions that the blend is chosen by: of a thousand, chance chooses too much


class Validation:
    """NDCG@10 of the next item, cross-entropies of future, completion and, where the model says it, the next event at its time and
    given its scene, at the leaves, on the validation split.

    They are joined into `objective`: log NDCG@10 minus the cross-entropies but completion's (nats each), higher is better: completion
    hides a part of what training has read, and rewards who learns people by heart. `ndcg@10_error` is the
    standard error of that mean over questions: two validations that ask the same ones differ by less than that by chance. `blend`
    are the ranking cases that [`fit_blend`] asks, once.

    Args:
        log (`InterestLog`): the log.
        horizons, unit, reference: of the forecasts.
        max_users (`int`): people and ranking questions at most; 0: as many as the training events go 200 times into, 1,000 to
            4,000 of them, so that a validation takes about the same part of a pass whatever the size.
        seed (`int`, *optional*, defaults to 0): of the sample.
    """

    def __init__(
        self, log: InterestLog, horizons: list[float], unit: str, reference: float, max_users: int, seed: int = 0
    ):
        self.log = log
        self.fold = fold(log, "validation") if (log.split == 1).any() else None
        if self.fold is None:
            return
        if not max_users:
            max_users = int(np.clip((log.split == TRAIN).sum() // 200, 1000, 4000))
        users = sample_users(log, max_users, seed)
        self.filtered = log.facts.get("repeat_rate", 0.0) < 0.01
        cases = ranking_cases(log, self.fold, users)
        if len(cases.user) > max_users:
            chosen = np.random.default_rng(seed).permutation(len(cases.user))[:max_users]
            cases = take(cases, np.sort(chosen))
        self.ranking = cases
        self.blend = ranking_cases(log, self.fold)
        if len(self.blend.user) > BLEND_CASES:
            chosen = np.random.default_rng(seed).permutation(len(self.blend.user))[:BLEND_CASES]
            self.blend = take(self.blend, np.sort(chosen))
        self.leaves = np.flatnonzero(log.tree.is_leaf) if log.tree is not None else None
        self.forecast = self.completion = self.next_event = self.scenes = None
        if self.leaves is not None:
            self.forecast = forecast_cases(log, self.fold, horizons, unit, reference, users)
            self.completion = completion_cases(log, self.fold, users, seed)
            cases = next_event_cases(log, self.fold, users)
            chosen = np.random.default_rng(seed).permutation(len(cases.user))[:max_users]
            self.next_event = take(cases, np.sort(chosen))
            if log.scene is not None:
                cases = scene_cases(log, self.fold, users)
                chosen = np.random.default_rng(seed).permutation(len(cases.user))[:max_users]
                self.scenes = take(cases, np.sort(chosen))

    def __call__(self, predictor: ModelPredictor) -> dict[str, float]:
        figures: dict[str, float] = {}
        if self.fold is None:
            return figures
        objective = 0.0
        if len(self.ranking.user):
            counted, values = place_targets(self.log, self.ranking, predictor).values(self.filtered)
            if counted.any():
                each = values["ndcg@10"][counted]
                figures["ndcg@10"] = float(each.mean())
                figures["ndcg@10_error"] = float(each.std() / math.sqrt(len(each)))
                objective += math.log(figures["ndcg@10"] + 1e-3)
        if self.forecast is not None and len(self.forecast.user):
            future = predictor.forecast(self.forecast)["future"]
            scores = []
            for column in range(future.shape[1]):
                rows = self.forecast.mask[:, column]
                counts = self.forecast.counts[rows, column][:, self.leaves]
                if counts.sum():
                    values = forecast_values(counts, future[rows, column][:, self.leaves])["cross_entropy"]
                    scores.append(np.nanmean(values))
            if scores:
                figures["future_cross_entropy"] = float(np.mean(scores))
                objective -= figures["future_cross_entropy"]
        if self.completion is not None and len(self.completion.user):
            shares = predictor.completion(self.completion)[:, self.leaves]
            values = forecast_values(self.completion.hidden_counts[:, self.leaves], shares)["cross_entropy"]
            figures["completion_cross_entropy"] = float(np.nanmean(values))
        if predictor.model.config.use_next_event and self.next_event is not None and len(self.next_event.user):
            shares = predictor.next_event(self.next_event)[:, self.leaves]
            values = forecast_values(self.next_event.counts[:, 0, self.leaves], shares)["cross_entropy"]
            figures["next_event_cross_entropy"] = float(np.nanmean(values))
            objective -= figures["next_event_cross_entropy"]
        if predictor.model.config.scenes and self.scenes is not None and len(self.scenes.user):
            shares = predictor.scenes(self.scenes)["interest"][:, self.leaves]
            values = forecast_values(self.scenes.counts[:, 0, self.leaves], shares)["cross_entropy"]
            figures["scene_cross_entropy"] = float(np.nanmean(values))
            objective -= figures["scene_cross_entropy"]
        figures["objective"] = objective
        return figures

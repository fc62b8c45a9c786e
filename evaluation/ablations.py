"""The model without one part at a time, asked the same questions."""

from __future__ import annotations

import numpy as np

from .cases import completion_cases, forecast_cases, ranking_cases
from .ranking import place_targets
from .run import MODEL, Run
from .scoring import Score, score_change, score_completion, score_future, score_ranking


# What can be left out of a trained model, and what of its answers that touches.
PARTS = {
    "blend": ("ranking",),
    "popularity": ("ranking",),
    "item_ids": ("ranking", "completion", "future", "change"),
    "domain_network": ("completion", "future", "change"),
}


def measure_ablations(
    run: Run, filtered: bool, horizons: tuple[float, ...], unit: str, reference: float
) -> dict[str, dict[str, Score]]:
    """Scores of each group without each part, over the same draws of users as the whole model's: parts that the model lacks,
    and groups that were not measured or that a part has no say in, are left out.

    Nothing is trained anew, so that a part's worth is what the others cannot make up for as they are; a model that was
    trained without it may do better than that.
    """
    found: dict[str, dict[str, Score]] = {}
    if not run.answers("without"):
        return found
    log, given = run.log, (run.replicates, run.seed, MODEL)
    measured = {group for group, scores in run.scores.items() if MODEL in scores}
    for part, touched in PARTS.items():
        groups = measured.intersection(touched)
        other = run.predictor.without(part) if groups else None
        if other is None:
            continue
        run.say(f"ablation: without {part.replace('_', ' ')}")
        scores = found.setdefault(part, {})
        if "ranking" in groups:
            cases = ranking_cases(log, run.asked, run.users)
            known = np.bincount(log.item[run.asked.known & (log.item >= 0)], minlength=log.num_items) > 0
            places = place_targets(log, cases, other, ~known, MODEL)
            scores["ranking"] = score_ranking(cases, places, filtered, run.replicates, run.seed)
        if "completion" in groups:
            hidden = completion_cases(log, run.asked, run.users, run.seed)
            scores["completion"] = score_completion(hidden, other.completion(hidden), log.tree, *given)
        if groups & {"future", "change"}:
            windows = forecast_cases(log, run.asked, horizons, unit, reference, run.users)
            answer = other.forecast(windows)
            if "future" in groups:
                scores["future"] = score_future(windows, answer["future"], log.tree, *given)
            if "change" in groups:
                scores["change"] = score_change(windows, answer["change_rate"], *given)
    return found

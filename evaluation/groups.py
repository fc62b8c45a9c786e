"""Ranking, overall interest, ratings and completion of the model and every baseline."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..data.oracle import oracle_for
from .baselines.bias import UserItemBias
from .baselines.ease_decay import EaseDecay
from .baselines.history_mean import HistoryMean
from .baselines.item_knn import ItemKNN
from .baselines.mixture import Mixture
from .baselines.overall import ItemMean, UserItemLogistic, UserMean
from .baselines.popularity import Popularity
from .baselines.population import PopulationShares
from .baselines.recent_popularity import RecentPopularity
from .baselines.shrinkage import Shrinkage
from .baselines.text_knn import TextKNN
from .cases import OverallCases, completion_cases, overall_cases, ranking_cases, shuffled, take
from .impressions import impression_cases
from .ranking import place_targets
from .run import MODEL, Run
from .scoring import score_completion, score_overall, score_ranking, score_rating, slice_ranking


COLD_USER_EVENTS = 5
ACTIVITY = ("quiet_users", "usual_users", "busy_users")
POPULARITY = ("rare_items", "usual_items", "popular_items")


def measure_ranking(run: Run, filtered: bool, text_vectors: np.ndarray | None) -> None:
    """NDCG, hit rate and the rest, with slices by activity and popularity and the controls of history and text."""
    log = run.log
    cases = ranking_cases(log, run.asked, run.users)
    if not len(cases.user):
        run.reasons["ranking"] = "no target with an item and a history"
        return
    known = np.bincount(log.item[run.asked.known & (log.item >= 0)], minlength=log.num_items)
    warm = known > 0
    cold_target, few = ~warm[cases.target], cases.histories.lengths <= COLD_USER_EVENTS
    slices = {"cold_items": cold_target, "cold_users": few}
    slices |= thirds(cases.histories.lengths, ACTIVITY) | thirds(known[cases.target], POPULARITY)

    def measure(ranker: Any, name: str) -> None:
        places = place_targets(log, cases, ranker, ~warm, name)
        run.add("ranking", name, score_ranking(cases, places, filtered, run.replicates, run.seed))
        run.slices[name] = {
            part: slice_ranking(places, chosen, filtered, part == "cold_items") for part, chosen in slices.items()
        }

    rankers: list[Any] = [ranker() for ranker in (Popularity, RecentPopularity, ItemKNN, EaseDecay)]
    if text_vectors is not None:
        rankers.append(TextKNN(text_vectors))
    elif run.wants("text_knn"):
        run.reasons["baselines.text_knn"] = "no text vectors were handed in"
    tuning_cases = ranking_cases(log, run.tuning, run.tuning_users)
    for ranker in rankers:
        if not run.wants(ranker.name):
            continue
        run.say(f"ranking: {ranker.name}")
        try:
            ranker.tune(log, run.tuning, tuning_cases, filtered)
        except ValueError as error:
            run.reasons[f"baselines.{ranker.name}"] = str(error)
            continue
        ranker.fit(log, run.asked)
        run.settings.setdefault(ranker.name, {})["ranking"] = ranker.describe()
        measure(ranker, ranker.name)
    if not run.answers("rank"):
        run.lacks("`rank`", "ranking")
        return
    run.say(f"ranking: the model, {len(cases.user):,} cases")
    measure(run.predictor, MODEL)
    mixed = shuffled(cases, log, run.seed)
    places = place_targets(log, mixed, run.predictor, ~warm, MODEL)
    control = score_ranking(mixed, places, filtered, 0, run.seed).figures
    run.controls.setdefault("shuffled_history", {})["ranking"] = control
    if not run.answers("with_random_text"):
        run.reasons["controls.random_text"] = "the predictor cannot be asked with other texts"
    elif (other := run.predictor.with_random_text(run.seed)) is None:
        run.reasons["controls.random_text"] = "the model reads no item text"
    else:
        run.say("ranking: the model with texts permuted among the items")
        places = place_targets(log, cases, other, ~warm, MODEL)
        run.controls["random_text"] = {
            "ranking": score_ranking(cases, places, filtered, 0, run.seed).figures,
            "cold_items": slice_ranking(places, cold_target, filtered, True),
        }


def thirds(values: np.ndarray, names: tuple[str, str, str]) -> dict[str, np.ndarray]:
    """The cases with the lowest, middle and highest values `(Q,)`, about a third each, as masks; equal values stay together.

    Example:

    ```python
    >>> {name: mask.sum().item() for name, mask in thirds(np.array([1, 1, 1, 4, 9, 16]), POPULARITY).items()}
    {'rare_items': 3, 'usual_items': 1, 'popular_items': 2}

    ```
    """
    low, high = np.quantile(values, (1 / 3, 2 / 3))
    return dict(zip(names, (values <= low, (values > low) & (values <= high), values > high), strict=True))


def measure_overall(run: Run) -> None:
    """Overall interest where there are observed negatives, ratings where there are values."""
    log = run.log
    if log.impressions is not None:
        _measure_labels(run, impression_cases(log, run.asked, run.users),
                        impression_cases(log, run.tuning, run.tuning_users))  # fmt: skip
    elif log.value is None:
        run.reasons["overall"] = "no ratings and no observed negatives: every event counts as positive"
    if log.value is None:
        run.reasons["rating"] = "the log has no values"
        return
    cases = overall_cases(log, run.asked, run.users)
    tuning_cases = overall_cases(log, run.tuning, run.tuning_users)
    if log.impressions is None:
        _measure_labels(run, *(take(part, np.flatnonzero(np.isfinite(part.label))) for part in (cases, tuning_cases)))
    _measure_values(run, cases, tuning_cases)


def _measure_labels(run: Run, cases: OverallCases, tuning_cases: OverallCases) -> None:
    log = run.log
    if any(not (part.label == kind).any() for part in (cases, tuning_cases) for kind in (0, 1)):
        run.reasons["overall"] = "the cases hold positives only, or negatives only"
        return
    for baseline in (UserMean(), ItemMean(), UserItemLogistic()):
        if run.wants(baseline.name):
            run.say(f"overall: {baseline.name}")
            baseline.tune(log, run.tuning, tuning_cases)
            baseline.fit(log, run.asked)
            run.settings.setdefault(baseline.name, {})["overall"] = baseline.describe()
            score = score_overall(cases, baseline.overall(cases), run.replicates, run.seed, baseline.name)
            run.add("overall", baseline.name, score)
    answer = run.ask("overall", cases, "overall")
    if answer is not None:
        run.add("overall", MODEL, score_overall(cases, answer, run.replicates, run.seed, MODEL))


def _measure_values(run: Run, cases: OverallCases, tuning_cases: OverallCases) -> None:
    log = run.log
    rated, tunable = np.isfinite(cases.value), np.isfinite(tuning_cases.value)
    if not rated.any() or not tunable.any():
        run.reasons["rating"] = "no case has a value"
        return
    rated_cases = take(cases, np.flatnonzero(rated))
    if run.wants("user_item_bias"):
        run.say("rating: user_item_bias")
        bias = UserItemBias()
        bias.tune(log, run.tuning, take(tuning_cases, np.flatnonzero(tunable)))
        bias.fit(log, run.asked)
        run.settings.setdefault(bias.name, {})["rating"] = bias.describe()
        run.add(
            "rating",
            bias.name,
            score_rating(rated_cases, bias.ratings(rated_cases), run.replicates, run.seed, bias.name),
        )
    answer = run.ask("ratings", rated_cases, "rating")
    if answer is not None:
        run.add("rating", MODEL, score_rating(rated_cases, answer, run.replicates, run.seed, MODEL))


def measure_completion(run: Run) -> None:
    """The hidden half of every history."""
    log = run.log
    if log.tree is None:
        run.reasons["completion"] = "the log has no domains"
        return
    cases = completion_cases(log, run.asked, run.users, run.seed)
    if not len(cases.user):
        run.reasons["completion"] = "nobody has four events with a domain before the cut"
        return
    tuning_cases = completion_cases(log, run.tuning, run.tuning_users, run.seed + 1)
    for baseline in (PopulationShares(), HistoryMean(), Shrinkage(), Mixture()):
        if run.wants(baseline.name):
            run.say(f"completion: {baseline.name}")
            baseline.tune_completion(log, run.tuning, tuning_cases)
            baseline.fit(log, run.asked)
            run.settings.setdefault(baseline.name, {})["completion"] = baseline.describe().get("completion")
            answer = baseline.completion(cases)
            score = score_completion(cases, answer, log.tree, run.replicates, run.seed, baseline.name)
            run.add("completion", baseline.name, score)
    answer = run.ask("completion", cases, "completion")
    if answer is not None:
        score = score_completion(cases, answer, log.tree, run.replicates, run.seed, MODEL)
        run.add("completion", MODEL, score)
    if (oracle := oracle_for(log)) is not None:
        run.say("completion: the oracle of the generated world")
        run.oracle["completion"] = score_completion(cases, oracle.completion(cases), log.tree, 0, run.seed, "oracle")

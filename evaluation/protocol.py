"""The protocol: one model and every baseline, measured in the same run on the same cases."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console

from .ablations import measure_ablations
from .bootstrap import interval
from .cases import sample_users
from .folds import fold, tuning_fold
from .groups import measure_completion, measure_overall, measure_ranking
from .metrics.forecast import skill
from .next_event import measure_next_event
from .run import GROUPS, HEADLINE, MODEL, Run, best_baseline
from .scenes import measure_scenes
from .scoring import Score
from .windows import measure_windows


if TYPE_CHECKING:
    from ..data.log import InterestLog


FILTER_BELOW = 0.01  # seen items are filtered where fewer training events than this are repeats
TUNING_USERS = 2_000
SHARES = ("future", "completion", "next_event", "scenes")  # groups with a skill over the best baseline
BASELINES = (
    "popularity", "recent_popularity", "item_knn", "ease_decay", "text_knn",
    "population", "last_window", "history_mean", "shrinkage", "ewma", "decayed_counts", "mixture",
    "zero_change", "trend", "mean_reversion", "mixture_rate",
    "hour_context", "markov", "mixture_context", "context_mix",
    "scene_population", "scene_counts", "scene_mix",
    "history_rate", "ewma_rate", "user_mean", "item_mean", "user_item_logistic", "user_item_bias",
)  # fmt: skip


def evaluate(
    log: InterestLog,
    predictor: Any = None,
    *,
    horizons: Sequence[float],
    horizon_unit: str,
    reference_horizon: float,
    split: str = "test",
    baselines: str | Sequence[str] = "all",
    text_vectors: np.ndarray | None = None,
    seed: int = 0,
    bootstrap: int = 1000,
    max_users: int | None = None,
    progress: bool = True,
    name: str | None = None,
    ablations: bool = False,
) -> dict:
    """Measures a predictor and the baselines on a split of a log.

    Baselines are tuned on the round of questions before the split (validation for the test) and then fitted on all events
    before it. Every figure of the model stands beside the same figure of each baseline, on the same cases.

    Args:
        log (`InterestLog`): the prepared log.
        predictor (*optional*): an object with any of `rank(cases, rows) -> (n, I)`, `forecast(cases) -> dict` (`future`
            `(Q, H, K)`, `change_rate (Q, K)`, `intensity (Q, H)`), `completion(cases) -> (Q, K)`, `next_event(cases) -> (Q, K)`, `scenes(cases) -> dict`
            (`interest (Q, K)` given each case's scene, `share (Q, S)`), `overall(cases) -> (Q,)`
            logits, `ratings(cases) -> (Q,)`, `with_random_text(seed)` (itself, reading the items' texts permuted, for the
            control), `asked_later(seconds)` (itself, told that questions come later, for the control), `without(part)` (itself
            without a part, for the ablations). None measures the baselines alone.
        horizons (`Sequence[float]`), horizon_unit (`str`): windows in `"days"` or `"events"`. Under `leave-last` the only
            window is the next event, whatever is given.
        reference_horizon (`float`): the window of the change rate.
        split (`str`, defaults to `"test"`): or `"validation"`.
        baselines (`"all"` or a list of names, defaults to `"all"`): see `BASELINES`.
        text_vectors (`np.ndarray` of shape `(I, D)`, *optional*): for `text_knn`.
        seed (`int`, defaults to 0): of samples, hidden halves, shuffles and bootstrap draws.
        bootstrap (`int`, defaults to 1000): replicates over users.
        max_users (`int`, *optional*): ask about a random sample of users.
        progress (`bool`, defaults to True): say on standard error what is being done.
        name (`str`, *optional*): what the model is called in the result.
        ablations (`bool`, defaults to False): ask again without each part of the model, at a pass over the cases for each.

    Returns:
        `dict`: the content of `results.json` (DESIGN 5). Numbers may be NaN; `report.write_results` makes them null.

    Raises:
        ValueError: an unknown split, baseline or unit, a horizon that is not positive, or a predictor's wrong answer.
    """
    wanted = set(BASELINES) if baselines == "all" else {baselines} if isinstance(baselines, str) else set(baselines)
    if unknown := sorted(wanted - set(BASELINES)):
        raise ValueError(f"baselines: {unknown[0]!r} is none of {', '.join(BASELINES)}")
    started = time.perf_counter()
    console = Console(stderr=True)

    def say(text: str) -> None:
        if progress:
            console.print(f"[dim]{time.perf_counter() - started:6.1f} s[/]  {text}", highlight=False)

    asked, tuning = fold(log, split), tuning_fold(log, split)
    run = Run(
        log=log,
        predictor=predictor,
        asked=asked,
        tuning=tuning,
        wanted=frozenset(wanted),
        replicates=bootstrap,
        seed=seed,
        users=sample_users(log, max_users, seed),
        tuning_users=sample_users(log, TUNING_USERS, seed + 1),
        say=say,
    )
    filtered = float(log.facts.get("repeat_rate") or 0.0) < FILTER_BELOW
    measure_ranking(run, filtered, text_vectors)
    measure_overall(run)
    measure_completion(run)
    measure_windows(run, tuple(float(h) for h in horizons), horizon_unit, float(reference_horizon))
    measure_next_event(run)
    measure_scenes(run)
    without: dict[str, dict[str, Score]] = {}
    if ablations:
        without = measure_ablations(run, filtered, tuple(map(float, horizons)), horizon_unit, float(reference_horizon))
    protocol = {
        "rule": asked.rule,
        "headline": "filtered" if filtered else "unfiltered",
        "horizons": [float(h) for h in horizons] if asked.by_time else [1.0],
        "horizon_unit": horizon_unit if asked.by_time else "events",
        "reference_horizon": float(reference_horizon) if asked.by_time else 1.0,
        "tuned_on": tuning.name,
        "users": int(run.users.sum()),
        "seed": seed,
        "bootstrap": bootstrap,
        "seconds": round(time.perf_counter() - started, 1),
    }
    return _results(run, name, split, protocol) | {"ablations": _ablations(run, without)}


def _results(run: Run, name: str | None, split: str, protocol: dict) -> dict:
    for group, reason in run.unanswered.items():
        run.reasons.setdefault(group, reason)
    results: dict = {"model": name, "data": run.log.name, "split": split, "protocol": protocol}
    intervals: dict = {}
    paired: dict = {}
    baselines: dict[str, dict] = {key: {"settings": value} for key, value in run.settings.items()}
    best: dict[str, str] = {}
    for group in GROUPS:
        scores = run.scores.get(group, {})
        model = scores.get(MODEL)
        results[group] = model.figures if model is not None else None
        if model is None and group not in run.reasons:
            run.reasons[group] = "not measured"
        strongest = best_baseline(scores, group)
        if strongest is not None:
            best[group] = strongest
        for key, score in scores.items():
            if key == MODEL:
                intervals |= {f"{group}.{metric}": value for metric, value in score.intervals().items()}
            else:
                entry = baselines.setdefault(key, {})
                entry[group] = score.figures
                found = {f"{group}.{metric}": value for metric, value in score.intervals().items()}
                entry.setdefault("intervals", {}).update(found)
        if group in SHARES and strongest is not None:
            reference = scores[strongest].figures["cross_entropy"]
            for score in scores.values():
                score.figures["skill"] = skill(score.figures["cross_entropy"], reference)
        if model is not None and strongest is not None:
            metric = HEADLINE[group][0]
            paired |= _paired(group, metric, model, scores[strongest], strongest)
            if group == "future":
                for figure in ("kl", *model.by_horizon):
                    paired |= _paired(group, figure, model, scores[strongest], strongest)
            if (
                group == "intensity"
            ):  # the headline's dispersion is the counts' own: where that is large it hardly sees the means
                paired |= _paired(group, "poisson_deviance", model, scores[strongest], strongest)
            if group in SHARES and metric in model.replicates and len(model.replicates[metric]):
                ratio = 1.0 - model.replicates[metric] / scores[strongest].replicates[metric]
                intervals[f"{group}.skill"] = interval(ratio)
    for key, slices in run.slices.items():
        if key != MODEL:
            baselines[key]["slices"] = slices
    results["slices"] = run.slices.get(MODEL, {"cold_items": None, "cold_users": None})
    for slice_name in ("cold_items", "cold_users"):
        if all(slices[slice_name] is None for slices in run.slices.values()):
            run.reasons[f"slices.{slice_name}"] = "no such case"
    results |= {"baselines": baselines, "best_baseline": best, "controls": run.controls}
    if results["controls"].setdefault("random_text", None) is None:
        run.reasons.setdefault("controls.random_text", run.reasons.get("ranking", "no ranking was measured"))
    real, mixed = results["future"], run.controls.get("time_shuffled", {}).get("future")
    if real is not None and mixed is not None:
        run.controls["time_shuffled"]["skill_real_minus_shuffled"] = real["skill"] - mixed["skill"]
    if run.oracle:
        results["oracle"] = _oracle(run)
    return results | {"intervals": intervals, "paired": paired, "reasons": run.reasons}


def _paired(group: str, metric: str, model: Score, baseline: Score, name: str) -> dict:
    """Model minus the best baseline over the same draws of users; in per cent of the baseline for cross-entropies and KL.
    `metric@horizon` is that of one horizon."""
    figure, _, horizon = metric.partition("@") if group == "future" else (metric, "", "")
    relative = figure in ("cross_entropy", "kl")
    own, reference = (
        part.figures["per_horizon"][horizon][figure] if horizon else part.figures[figure] for part in (model, baseline)
    )
    relative = relative and reference != 0  # where there is but one domain, everybody is right
    difference = own - reference
    ours, theirs = (part.replicates | part.by_horizon for part in (model, baseline))
    if metric not in ours or metric not in theirs:
        drawn = np.zeros(0)
    else:
        drawn = ours[metric] - theirs[metric]
        drawn = 100.0 * drawn / theirs[metric] if relative else drawn
    entry = {
        "baseline": name,
        "difference": 100.0 * difference / reference if relative else difference,
        "unit": "per cent" if relative else "absolute",
        "interval": interval(drawn) if len(drawn) else None,
    }
    return {f"{group}.{metric}": entry}


def _ablations(run: Run, without: dict[str, dict[str, Score]]) -> dict:
    """Figures without each part, and what its group's headline figure loses or gains by that."""
    result: dict = {}
    for part, scores in without.items():
        entry = result[f"without {part.replace('_', ' ')}"] = {group: score.figures for group, score in scores.items()}
        entry["paired"] = {}
        for group, score in scores.items():
            if HEADLINE[group][0] in score.figures:
                entry["paired"] |= _paired(group, HEADLINE[group][0], score, run.scores[group][MODEL], MODEL)
    return result


def _oracle(run: Run) -> dict:
    """What one who knows the generating process reaches, and what share of that gain the model takes."""
    result: dict = {}
    for group, score in run.oracle.items():
        result[group] = dict(score.figures)
        scores = run.scores.get(group, {})
        metric = HEADLINE[group][0]
        for against in dict.fromkeys(["mixture" if group == "future" else "shrinkage", best_baseline(scores, group)]):
            if against not in scores or metric != "cross_entropy":
                continue
            reference = scores[against].figures[metric]
            gain = reference - score.figures[metric]
            entry = {"gain_percent": 100.0 * gain / reference}
            if MODEL in scores:
                entry["model_share_of_gain"] = (
                    (reference - scores[MODEL].figures[metric]) / gain if gain > 0 else np.nan
                )
            result[group][f"over_{against}"] = entry
    return result

"""Future interest, change rates and intensity of the model and every baseline, and the time-shuffled control."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from ..data.labels import SECONDS_PER_DAY
from ..data.oracle import oracle_for
from .baselines.change import MeanReversion, MixtureRate, Trend, ZeroChange
from .baselines.decayed_counts import DecayedCounts
from .baselines.ewma import EWMA
from .baselines.history_mean import HistoryMean
from .baselines.last_window import LastWindow
from .baselines.mixture import Mixture
from .baselines.population import PopulationShares
from .baselines.rates import EWMARate, HistoryRate
from .baselines.shrinkage import Shrinkage
from .bootstrap import interval
from .cases import ForecastCases, forecast_cases, shuffled, take, time_shuffled_log, tuning_forecasts
from .folds import Fold, window_fold
from .metrics.forecast import skill
from .run import MODEL, OWN, Run, best_baseline
from .scoring import Score, score_change, score_future, score_intensity


HALF_DAY = SECONDS_PER_DAY // 2
WINDOW_LATER = 30 * SECONDS_PER_DAY  # where windows are of events
_SHARES = (PopulationShares, LastWindow, HistoryMean, Shrinkage, EWMA, DecayedCounts, Mixture)


def measure_windows(run: Run, horizons: tuple[float, ...], unit: str, reference: float) -> None:
    """Future interest at every horizon, the change rate of the reference horizon, and how much people will do."""
    log = run.log
    if log.tree is None:
        run.reasons |= dict.fromkeys(("future", "change", "intensity"), "the log has no domains")
        return
    if not run.asked.by_time:
        only = "leave-last asks for one event: a window of one event has no {}; prepare the log with global-time"
        run.reasons |= {"change": only.format("change rate"), "intensity": only.format("intensity")}
    elif unit == "events":
        run.reasons["intensity"] = "horizons are in events: how many there will be is given"
    cases = forecast_cases(log, run.asked, horizons, unit, reference, run.users)
    if not len(cases.user):
        run.reasons |= dict.fromkeys(("future", "change", "intensity"), "nobody has a history and an observed window")
        return
    for position, horizon in enumerate(cases.horizons):
        if not cases.mask[:, position].any():
            why = f"the split ends before a window of {horizon:g} {cases.unit}"
            run.reasons[f"future.per_horizon.{horizon:g}"] = why
    if not (cases.counts * cases.mask[:, :, None]).any():
        run.reasons["future"] = "no window that is fully observed holds an event with a domain"
    longest = max(*horizons, reference) if unit == "days" else 0.0
    tuning = window_fold(log, run.asked, run.tuning, longest)
    tuning_cases = tuning_forecasts(log, run.asked, tuning, horizons, unit, reference, run.tuning_users)
    mixture = _shares(run, cases, tuning, tuning_cases)
    _change_and_intensity(run, cases, tuning, tuning_cases, mixture)
    forecast = _model_forecast(run, cases)
    if (oracle := oracle_for(log, reference if reference in horizons else None)) is not None and cases.unit == "days":
        run.say("future: the oracle of the generated world")
        answer = oracle.forecast(cases)
        run.oracle["future"] = score_future(cases, answer["future"], log.tree, 0, run.seed, "oracle")
        if mixture is not None and forecast is not None and forecast.get("future") is not None:
            futures = {
                "mixture": mixture.forecast(cases)["future"],
                "oracle": answer["future"],
                "model": forecast["future"],
            }
            run.oracle["future"].figures["well_known"] = share_of_gain(run, cases, futures)
        if cases.gate is not None and cases.gate.any() and reference in horizons:
            run.oracle["change"] = score_change(cases, answer["change_rate"], 0, run.seed, "oracle")
            true = oracle.true_change_rate(cases.user, cases.time, reference)
            own = forecast or {}
            rates = {
                "oracle": answer["change_rate"],
                "model": next((own[key] for key in ("own_change_rate", "change_rate") if key in own), None),
            }
            run.oracle["change"].figures["true_rate"] = true_rate_correlation(cases, true, rates)
        run.oracle["intensity"] = score_intensity(cases, answer["intensity"], 0, run.seed, "oracle")
    if run.asked.by_time and "future" not in run.reasons and run.wants("mixture"):
        _time_shuffled(run, horizons, unit, reference, tuning)


def _shares(run: Run, cases: ForecastCases, tuning: Fold, tuning_cases: ForecastCases) -> Mixture | None:
    """Share baselines on the future; the mixture for whoever needs it."""
    mixture = None
    if not len(tuning_cases.user):
        run.reasons["baselines.future"] = "no window before the split to tune on"
        return None
    for make in _SHARES:
        baseline = make()
        needed = baseline.name == "mixture" and run.wants("mixture", "mixture_rate")
        if not (run.wants(baseline.name) or needed):
            continue
        run.say(f"future: {baseline.name}")
        baseline.tune(run.log, tuning, tuning_cases)
        baseline.fit(run.log, run.asked)
        mixture = baseline if isinstance(baseline, Mixture) else mixture
        if run.wants(baseline.name) and "future" not in run.reasons:
            described = {key: value for key, value in baseline.describe().items() if key != "completion"}
            run.settings.setdefault(baseline.name, {})["future"] = described
            answer = baseline.forecast(cases)["future"]
            score = score_future(cases, answer, run.log.tree, run.replicates, run.seed, baseline.name)
            run.add("future", baseline.name, score)
    return mixture


def _change_and_intensity(
    run: Run, cases: ForecastCases, tuning: Fold, tuning_cases: ForecastCases, mixture: Mixture | None
) -> None:
    if "change" not in run.reasons and not cases.gate.any():
        run.reasons["change"] = "no domain passes the gate: too little evidence before or after the cut"
    if "change" not in run.reasons:
        changes: list[Any] = [ZeroChange(), Trend(), MeanReversion()] if len(tuning_cases.user) else [ZeroChange()]
        for baseline in changes:
            if run.wants(baseline.name):
                run.say(f"change: {baseline.name}")
                baseline.tune(run.log, tuning, tuning_cases)
                baseline.fit(run.log, run.asked)
                answer = baseline.change_rate(cases)
                run.add("change", baseline.name, score_change(cases, answer, run.replicates, run.seed, baseline.name))
        if mixture is not None and run.wants("mixture_rate"):
            answer = MixtureRate(mixture).change_rate(cases)
            run.add("change", "mixture_rate", score_change(cases, answer, run.replicates, run.seed, "mixture_rate"))
    if "intensity" not in run.reasons and not cases.mask.any():
        run.reasons["intensity"] = "no window is fully observed"
    if "intensity" not in run.reasons and len(tuning_cases.user):
        for baseline in (HistoryRate(), EWMARate()):
            if run.wants(baseline.name):
                run.say(f"intensity: {baseline.name}")
                baseline.tune(run.log, tuning, tuning_cases)
                baseline.fit(run.log, run.asked)
                run.settings.setdefault(baseline.name, {})["intensity"] = baseline.describe()
                answer = baseline.intensity(cases)
                score = score_intensity(cases, answer, run.replicates, run.seed, baseline.name)
                run.add("intensity", baseline.name, score)


WELL_KNOWN = 50  # events of a person from which on rates are compared with the true ones


def share_of_gain(run: Run, cases: ForecastCases, futures: dict[str, np.ndarray]) -> dict:
    """What share of the oracle's gain in cross-entropy over the mixture the model takes, among people with at least 50 events,
    with its interval over people; of forecasts `(Q, H, K)`. NaN where there is nobody or no gain."""
    rows = np.flatnonzero(cases.histories.lengths >= WELL_KNOWN)
    entry: dict = {"cases": len(rows), "model_share_of_gain": np.nan, "interval": None}
    if len(rows):
        part, tree, drawn = take(cases, rows), run.log.tree, {}
        for name, shares in futures.items():
            score = score_future(part, shares[rows], tree, run.replicates, run.seed, name)
            entry[name] = score.figures.get("cross_entropy", np.nan)
            drawn[name] = score.replicates.get("cross_entropy", np.empty(0))
        gain = entry["mixture"] - entry["oracle"]
        if gain > 0:
            entry["model_share_of_gain"] = (entry["mixture"] - entry["model"]) / gain
            with np.errstate(invalid="ignore", divide="ignore"):
                shares_drawn = (drawn["mixture"] - drawn["model"]) / (drawn["mixture"] - drawn["oracle"])
            entry["interval"] = interval(shares_drawn)
    return entry


def true_rate_correlation(cases: ForecastCases, true: np.ndarray, rates: dict[str, np.ndarray | None]) -> dict:
    """Correlation of rates `(Q, K)` with the true ones of the generated world, over the domains that pass the gate of people with
    at least 50 events; NaN where fewer than two do."""
    chosen = cases.gate & (cases.histories.lengths >= WELL_KNOWN)[:, None]
    entry: dict = {"pairs": int(chosen.sum())}
    for name, rate in rates.items():
        if rate is not None:
            enough = entry["pairs"] > 1 and rate[chosen].std() > 0
            entry[name] = float(np.corrcoef(rate[chosen], true[chosen])[0, 1]) if enough else np.nan
    if "model" in entry:
        entry["model_share"] = entry["model"] / entry["oracle"]
    return entry


def _model_forecast(run: Run, cases: ForecastCases) -> dict | None:
    """Scores the model's answer, and returns it."""
    if run.answers("forecast"):
        run.say(f"future: the model, {len(cases.user):,} cases")
    answer = run.ask("forecast", cases, "future", "change", "intensity")
    if answer is None:
        return None
    for group, key in (("future", "future"), ("change", "change_rate"), ("intensity", "intensity")):
        if group in run.reasons:
            continue
        if answer.get(key) is None:
            run.lacks(f"`{key}`", group)
        elif group == "future":
            kappa = answer.get("concentration")
            score = score_future(cases, answer[key], run.log.tree, run.replicates, run.seed, MODEL, kappa)
            run.add(group, MODEL, score)
        elif group == "change":
            score = score_change(cases, answer[key], run.replicates, run.seed, MODEL)
            if answer.get("own_change_rate") is not None:
                run.own_change = score_change(cases, answer["own_change_rate"], run.replicates, run.seed, MODEL)
                score.figures[OWN] = run.own_change.figures
            run.add(group, MODEL, score)
        else:
            spread = answer.get("intensity_dispersion"), answer.get("absence")
            run.add(group, MODEL, score_intensity(cases, answer[key], run.replicates, run.seed, MODEL, *spread))
    if MODEL not in run.scores.get("future", {}):
        return answer
    _control(run, "shuffled_history", cases, run.predictor.forecast(shuffled(cases, run.log, run.seed)))
    if not run.answers("asked_later"):
        run.reasons["controls.query_later"] = "the predictor cannot be asked as if it were later"
        return answer
    window = int(cases.reference_horizon * SECONDS_PER_DAY) if cases.unit == "days" else WINDOW_LATER
    for name, seconds in (("query_half_day_later", HALF_DAY), ("query_window_later", window)):
        if (later := run.predictor.asked_later(seconds)) is None:
            run.reasons["controls.query_later"] = "the log has no times"
            return answer
        run.say(f"control: {name.replace('_', ' ')}")
        _control(run, name, cases, later.forecast(cases))
    return answer


def _control(run: Run, name: str, cases: ForecastCases, answer: dict) -> None:
    """Figures of the model's answer under a control, on the real labels."""
    figures = score_future(cases, answer["future"], run.log.tree, 0, run.seed, MODEL).figures
    run.controls.setdefault(name, {})["future"] = figures
    if MODEL in run.scores.get("change", {}) and answer.get("change_rate") is not None:
        figures = score_change(cases, answer["change_rate"], 0, run.seed, MODEL).figures
        run.controls[name]["change"] = figures


def _time_shuffled(run: Run, horizons: tuple[float, ...], unit: str, reference: float, tuning: Fold) -> None:
    """The same questions on the log in which every person's items are permuted over her times, labels included."""
    run.say("control: the time-shuffled log")
    log = time_shuffled_log(run.log, run.seed)
    cases = forecast_cases(log, run.asked, horizons, unit, reference, run.users)
    tuning_cases = tuning_forecasts(log, run.asked, tuning, horizons, unit, reference, run.tuning_users)
    if not len(cases.user) or not len(tuning_cases.user):
        return
    scores: dict[str, dict[str, Score]] = {"future": {}, "change": {}}
    with_change = "change" not in run.reasons and cases.gate.any()

    def add(group: str, name: str, answer) -> None:
        given = (run.replicates, run.seed, name)
        shares = group == "future"
        score = score_future(cases, answer, log.tree, *given) if shares else score_change(cases, answer, *given)
        scores[group][name] = score

    for make in _SHARES:
        baseline = make()
        if not run.wants(baseline.name):
            continue
        baseline.tune(log, tuning, tuning_cases)
        baseline.fit(log, run.asked)
        add("future", baseline.name, baseline.forecast(cases)["future"])
        if isinstance(baseline, Mixture) and with_change and run.wants("mixture_rate"):
            add("change", "mixture_rate", MixtureRate(baseline).change_rate(cases))
    for baseline in (ZeroChange(), Trend(), MeanReversion()) if with_change else ():
        if run.wants(baseline.name):
            baseline.tune(log, tuning, tuning_cases)
            baseline.fit(log, run.asked)
            add("change", baseline.name, baseline.change_rate(cases))
    if MODEL in run.scores.get("future", {}):
        items = cases.histories.items(log)
        answer = run.predictor.forecast(replace(cases, histories=replace(cases.histories, item=items)))
        add("future", MODEL, answer["future"])
        if with_change and answer.get("change_rate") is not None:
            add("change", MODEL, answer["change_rate"])
            if answer.get("own_change_rate") is not None:
                add("change", OWN, answer["own_change_rate"])
                scores["change"][MODEL].figures[OWN] = scores["change"][OWN].figures
    baselines = {
        group: {name: score.figures for name, score in found.items() if name not in (MODEL, OWN)} or None
        for group, found in scores.items()
    }
    control: dict = {"baselines": baselines}
    for group, found in scores.items():
        if MODEL in found:
            control[group] = found[MODEL].figures
    if "future" in control:
        best = scores["future"][best_baseline(scores["future"], "future")]
        control["future"]["skill"] = skill(control["future"]["cross_entropy"], best.figures["cross_entropy"])
    real = run.scores
    if run.own_change is not None:
        real = real | {"change": real["change"] | {OWN: run.own_change}}
    control["real_minus_shuffled"] = real_minus_shuffled(real, scores)
    run.controls["time_shuffled"] = control


def real_minus_shuffled(real: dict[str, dict[str, Score]], mixed: dict[str, dict[str, Score]]) -> dict:
    """What is skill: each figure on the real log, on the time-shuffled one, and the difference with its 95 % interval, the same
    users drawn in both.

    `future`: `skill` and `kl_skill`, one minus cross-entropy and KL over those of the baseline that is best on the real log, and
    `over_shrinkage`, the same of cross-entropies over the whole history with a pull, which knows no time. `change`: `auc` and
    `stratified_auc`, of the model also for the rate that people see, `own_interest`. Baselines are tuned anew on the shuffled log; the model is not trained anew.
    """
    best = best_baseline(real.get("future", {}), "future")
    compared = (("skill", "cross_entropy", best), ("kl_skill", "kl", best))
    compared += (("over_shrinkage", "cross_entropy", "shrinkage"),)
    logs = real.get("future", {}), mixed["future"]
    found: dict = {"best_baseline": best, "future": {}, "change": {}}
    for name, score in mixed["future"].items():
        if name in logs[0] and score.figures:
            found["future"][name] = {
                label: _difference(*(_gain(part[name], part[against], metric) for part in logs))
                for label, metric, against in compared
                if all(against in part for part in logs)
            }
    logs = real.get("change", {}), mixed["change"]
    for name in mixed["change"]:
        if name in logs[0]:
            found["change"][name] = {
                metric: _difference(
                    *((part[name].figures[metric], part[name].replicates.get(metric, np.zeros(0))) for part in logs)
                )
                for metric in ("auc", "stratified_auc")
            }
    return found


def _gain(score: Score, baseline: Score, metric: str) -> tuple[float, np.ndarray]:
    """`1 - score / baseline`, and its replicates."""
    own, other = score.replicates[metric], baseline.replicates[metric]
    return skill(score.figures[metric], baseline.figures[metric]), 1.0 - own / other


def _difference(real: tuple[float, np.ndarray], mixed: tuple[float, np.ndarray]) -> dict:
    drawn = real[1] - mixed[1]
    return {
        "real": real[0],
        "shuffled": mixed[0],
        "difference": real[0] - mixed[0],
        "interval": interval(drawn) if len(drawn) else None,
    }

"""The next event at a known time, beside its own baselines: context, kept apart from the next window."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from .baselines.next_event import NextEventBaselines
from .cases import NextEventCases, next_event_cases
from .run import MODEL, Run
from .scoring import Score, score_shares


SHIFT = 12 * 3600
NEXT_EVENT_BASELINES = ("population", "mixture", "hour_context", "markov", "mixture_context", "context_mix")


def measure_next_event(run: Run) -> None:
    """Cross-entropy of the domain of each event given its own time (hour, weekday, gap) and the last known place, per level and
    over levels. These figures know the target's time and stand apart from all others."""
    log = run.log
    if log.tree is None:
        run.reasons["next_event"] = "the log has no domains"
    elif log.facts["time"] == "order":
        run.reasons["next_event"] = "the log has no times: every event is next at the time of the next event"
    if "next_event" in run.reasons:
        return
    cases = next_event_cases(log, run.asked, run.users)
    if not len(cases.user):
        run.reasons["next_event"] = "no event of the split has a domain and a history"
        return
    wanted = [name for name in NEXT_EVENT_BASELINES if run.wants(name)]
    tuning_cases = next_event_cases(log, run.tuning, run.tuning_users)
    if wanted and not len(tuning_cases.user):
        run.reasons["baselines.next_event"] = "no event before the split to tune on"
    elif wanted:
        run.say(f"next event: {', '.join(wanted)}")
        baselines = NextEventBaselines()
        baselines.tune(log, run.tuning, tuning_cases)
        baselines.fit(log, run.asked)
        settings, answers = baselines.describe(), baselines.shares(cases)
        for name in wanted:
            if name in settings:
                run.settings.setdefault(name, {})["next_event"] = settings[name]
            run.add("next_event", name, score_next_event(run, cases, answers[name], name))
    if run.answers("next_event"):
        run.say(f"next event: the model, {len(cases.user):,} cases")
    answer = run.ask("next_event", cases, "next_event")
    if answer is not None:
        run.add("next_event", MODEL, score_next_event(run, cases, answer, MODEL))
        other = run.predictor.next_event(replace(cases, time=cases.time + SHIFT))
        control = score_next_event(replace(run, replicates=0), cases, other, MODEL).figures
        run.controls.setdefault("shifted_time", {})["next_event"] = control


def score_next_event(run: Run, cases: NextEventCases, shares: np.ndarray, name: str) -> Score:
    """[`score_shares`] of `(Q, K)`."""
    shares = np.asarray(shares)
    return score_shares(cases.user, cases.counts, shares[:, None], [""], run.log.tree, run.replicates, run.seed, name)

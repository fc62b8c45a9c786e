"""Interest given the scene of a held-out event, and the chance of the scene itself, beside their baselines."""

from __future__ import annotations

import numpy as np

from .baselines.scenes import SceneBaselines
from .bootstrap import UserBootstrap
from .cases import SceneCases, scene_cases
from .run import MODEL, Run
from .scoring import Score, score_shares


GROUPS = ("scenes", "scene_share")
BASELINES = ("mixture", "scene_population", "scene_counts", "scene_mix")


def measure_scenes(run: Run) -> None:
    """`scenes`: cross-entropy of the domain of each event given its true scene and what came before it, per level, per scene and
    over levels. `scene_share`: cross-entropy of the scene. Of the event's time nothing is known."""
    log = run.log
    if log.tree is None or log.scene is None or len(np.unique(log.scene[log.scene >= 0])) < 2:
        why = "the log has no domains" if log.tree is None else "the log has no scenes, or a single one"
        run.reasons |= dict.fromkeys(GROUPS, why)
        return
    cases = scene_cases(log, run.asked, run.users)
    if not len(cases.user):
        run.reasons |= dict.fromkeys(GROUPS, "no event of the split has a domain, a scene and a history")
        return
    wanted = [name for name in BASELINES if run.wants(name)]
    tuning_cases = scene_cases(log, run.tuning, run.tuning_users)
    if wanted and not len(tuning_cases.user):
        run.reasons["baselines.scenes"] = "no event with a scene before the split to tune on"
    elif wanted:
        run.say(f"scenes: {', '.join(wanted)}")
        baselines = SceneBaselines()
        baselines.tune(log, run.tuning, tuning_cases)
        baselines.fit(log, run.asked)
        for group, answers, settings in (
            ("scenes", baselines.interest(cases), baselines.describe()),
            ("scene_share", baselines.share(cases), baselines.describe_share()),
        ):
            for name in (name for name in wanted if name in answers):
                if name in settings:
                    run.settings.setdefault(name, {})[group] = settings[name]
                run.add(group, name, _score(run, cases, answers[name], group, name))
    if run.answers("scenes"):
        run.say(f"scenes: the model, {len(cases.user):,} cases")
    answer = run.ask("scenes", cases, *GROUPS)
    if answer is not None:
        for group, key in (("scenes", "interest"), ("scene_share", "share")):
            run.add(group, MODEL, _score(run, cases, answer[key], group, MODEL))


def _score(run: Run, cases: SceneCases, answer: np.ndarray, group: str, name: str) -> Score:
    return score_scenes(run, cases, answer, name) if group == "scenes" else score_scene_share(run, cases, answer, name)


def score_scenes(run: Run, cases: SceneCases, shares: np.ndarray, name: str) -> Score:
    """[`score_shares`] of shares given the scene `(Q, K)`, with the cross-entropy of every scene's cases."""
    tree, shares = run.log.tree, np.asarray(shares)[:, None]
    score = score_shares(cases.user, cases.counts, shares, [""], tree, run.replicates, run.seed, name)
    score.figures["per_scene"] = {}
    for code, scene in enumerate(run.log.scenes):
        here = cases.scene == code
        if here.any():
            part = score_shares(cases.user[here], cases.counts[here], shares[here], [""], tree, 0, run.seed, name)
            score.figures["per_scene"][scene] = {key: part.figures[key] for key in ("cross_entropy", "cases")}
    return score


def score_scene_share(run: Run, cases: SceneCases, share: np.ndarray, name: str) -> Score:
    """Cross-entropy and accuracy of the scenes of the cases under their chances `(Q, S)`, in nats.

    Raises:
        ValueError: chances of another shape, or that do not sum to one.
    """
    share = np.asarray(share, dtype=np.float64)
    expected = len(cases.user), len(run.log.scenes)
    if share.shape != expected or not np.allclose(share.sum(1), 1.0, atol=1e-3):
        raise ValueError(f"{name}: expected {expected} chances of scenes that sum to one, got shape {share.shape}")
    values = {
        "cross_entropy": -np.log(np.maximum(share[np.arange(len(share)), cases.scene], 1e-9)),
        "accuracy": (share.argmax(1) == cases.scene).astype(np.float64),
    }
    figures = {figure: float(value.mean()) for figure, value in values.items()} | {"cases": len(share)}
    drawn = UserBootstrap(cases.user, run.replicates, run.seed).means(np.stack(list(values.values()), 1))
    return Score(figures, dict(zip(values, drawn.T, strict=True)))

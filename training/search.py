"""`interest-lm search`: the recipe's few dials, tried one setting after the other on validation."""

from __future__ import annotations

import fcntl
import hashlib
import json
import math
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from rich.console import Console
from transformers import TrainerCallback

from ..data.log import SPLITS, TAXONOMY_FILE, TRAIN, VALIDATION, InterestLog
from ..recommendation.log_tensors import LogTensors
from .arguments import minutes_for
from .run import new_model, train
from .search_recipe import CACHE_FOLDER, arguments, dials, fixed_values, usual_values
from .search_report import FIGURES, TRIALS_FILE, complete_trials, describe, print_best, write_outputs


if TYPE_CHECKING:
    import optuna

STUDY_FILE = "study.jsonl"
MINUTES_PER_TRIAL = 5.0
RANDOM_TRIALS = 6  # before the sampler models anything
ATTEMPTS = 3  # at a trial that takes the whole process down


def search(
    argv: list[str],
    data: str | Path,
    output: str | Path,
    trials: int = 20,
    minutes_per_trial: float | None = None,
    max_minutes: float | None = None,
) -> optuna.Study:
    """Searches the recipe's dials for the best validation objective; the test split's files are never opened.

    The first trial is the recipe as it stands. Settings then come from a tree-structured Parzen estimator (Bergstra et
    al. 2011), and a trial whose best validation stays below the median of the others is ended early. See [`dials`] for
    what is searched. Called again with the same arguments it goes on; a trial that was interrupted is run again.

    Args:
        argv (`list[str]`): a YAML recipe and training flags; what they fix is not searched.
        data, output: the interest dataset; the folder that gets `best.yaml` (a recipe for `finetune`, written after every
            better trial), `trials.csv`, `study.jsonl` (optuna's journal) and `cache` (text vectors).
        trials (`int`): finished trials, those of earlier calls and those ended early or failed among them.
        minutes_per_trial (`float`, *optional*): time budget of a trial, 0 for none; default: what the recipe would take, or 5.
        max_minutes (`float`, *optional*): no trial is begun that would not end within so many minutes of this call.

    Raises:
        ValueError: optuna is missing, an argument or a log that cannot be used, a folder of another search.
        KeyboardInterrupt: after a signal, when everything is written.
    """
    try:
        import optuna
    except ModuleNotFoundError:
        raise ValueError("a search needs optuna: pip install 'interest-lm[search]'") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    began, data, output = time.monotonic(), Path(data), Path(output)
    recipe = fixed_values(argv)
    log = InterestLog.load(data, SPLITS[: VALIDATION + 1], streaming=bool(recipe.get("streaming")))
    if not (log.split == VALIDATION).any():
        raise ValueError(f"{data}: no validation events, nothing to search on")
    rate = recipe.pop("minutes_per_100k_events", None) or 0.0
    if minutes_per_trial is None:
        minutes_per_trial = recipe.get("max_minutes")
    if minutes_per_trial is None:
        minutes_per_trial = minutes_for(float(rate), int((log.split == TRAIN).sum())) or MINUTES_PER_TRIAL
    recipe["max_minutes"] = minutes_per_trial = float(minutes_per_trial)
    if max_minutes is not None and max_minutes < minutes_per_trial:
        raise ValueError(f"--max-minutes is {max_minutes:g}, less than a trial's {minutes_per_trial:g}")
    space = dials(log, recipe)
    if not space:
        raise ValueError("every dial is fixed, nothing to search")
    settings = {name: json.dumps(value, default=str) for name, value in recipe.items()}
    settings |= {"data": fingerprint(data), "path": str(data.resolve()), "dials": " ".join(map(str, space.items()))}
    found = sorted(path.name for path in output.iterdir()) if output.is_dir() else []
    if STUDY_FILE in found:
        check_settings(output, open_study(output), settings)
    elif output.exists() and (not output.is_dir() or found not in ([], [CACHE_FOLDER])):
        raise ValueError(f"{output}: exists and is no search's folder")
    # a setting that cannot work ends here, and texts are encoded before any trial's clock runs
    with tempfile.TemporaryDirectory() as folder:
        args = arguments(recipe, Path(folder))
    LogTensors(log, *new_model(log, args), cache_dir=output / CACHE_FOLDER)
    output.mkdir(parents=True, exist_ok=True)
    with open(output / STUDY_FILE, "ab") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"{output}: another search is running in it") from None
        study = open_study(output)
        check_settings(output, study, settings)
        for trial in study.get_trials(states=(optuna.trial.TrialState.RUNNING,)):  # of a process that was killed
            study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
            repeat(study, trial, trial.user_attrs.get("attempt", 1) + 1)
        for folder in output.glob("trial-*"):
            shutil.rmtree(folder)
        usual = {name: value for name, value in usual_values(log).items() if name in space}
        if not study.trials:
            study.enqueue_trial(usual)
        ended = (optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED)
        console, interrupted, begun = Console(stderr=True, highlight=False), False, 0
        while (done := count_done(study)) < trials and not interrupted:
            minutes = [trial.duration.total_seconds() / 60 for trial in study.get_trials(states=ended)]
            longest = max([minutes_per_trial, *minutes])
            if begun and max_minutes is not None and (time.monotonic() - began) / 60 + longest > max_minutes:
                console.print(f"{max_minutes:g} minutes are used; {trials - done} trials are left for another call")
                break
            # seeded by the trials behind it, a search that was interrupted asks what it would have asked
            seed = int(np.random.SeedSequence([args.seed, done]).generate_state(1)[0])
            study.sampler = optuna.samplers.TPESampler(n_startup_trials=RANDOM_TRIALS, seed=seed)
            trial, begun = study.ask(space), begun + 1
            left = f", about {(trials - done) * np.mean(minutes):.0f} minutes left" if minutes else ""
            console.rule(f"trial {done + 1} of {trials}{left}", align="left")
            console.print("  ".join(f"{name} {value:.4g}" for name, value in trial.params.items()))
            try:
                interrupted = run_trial(study, trial, log, recipe, output)
            finally:
                write_outputs(study, recipe, output)
            console.print(describe(study.trials[trial.number]))
    if ranked := complete_trials(study):
        print_best(ranked, usual)
    if interrupted:
        raise KeyboardInterrupt
    if not ranked:
        raise ValueError(f"{output / TRIALS_FILE}: no trial has ended with a value")
    return study


def fingerprint(data: Path) -> str:
    """Changes with the items, the domains, and what training and validation hold."""
    digest = hashlib.sha256()
    parts = [f"{table}/{split}-*.parquet" for table in ("events", "impressions") for split in SPLITS[: VALIDATION + 1]]
    for file in (file for part in ["items/*.parquet", *parts, TAXONOMY_FILE] for file in sorted(data.glob(part))):
        with open(file, "rb") as stream:
            digest.update(file.name.encode() + hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()[:16]


def open_study(output: Path) -> optuna.Study:
    """The study of a folder, a new one where there is none."""
    import optuna
    from optuna.storages.journal import JournalFileBackend

    try:
        storage = optuna.storages.JournalStorage(JournalFileBackend(str(output / STUDY_FILE)))
        # eighths of the run, not steps, are counted: slow settings take fewer of them, and not every one is validated
        pruner = optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=2)
        return optuna.create_study(
            study_name="search", storage=storage, direction="maximize", pruner=pruner, load_if_exists=True
        )
    except (ValueError, KeyError):
        raise ValueError(f"{output / STUDY_FILE}: not readable as a search's journal") from None


def check_settings(output: Path, study: optuna.Study, settings: dict[str, str]) -> None:
    """Remembers what a new study searches; raises a `ValueError` where it is not what an old one did."""
    if "settings" not in study.user_attrs:
        study.set_user_attr("settings", settings)
    known = study.user_attrs["settings"]
    for name in (name for name in settings | known if name != "path" and settings.get(name) != known.get(name)):
        shown = [of.get("path" if name == "data" else name, "not fixed") for of in (known, settings)]
        raise ValueError(
            f"{output}: holds another search: {name} was {shown[0]}, now {shown[1]}"
            + (" (other contents)" if name == "data" else "")
        )


def count_done(study: optuna.Study) -> int:
    """Finished trials; one that was run again counts once."""
    repeated = {trial.user_attrs.get("again") for trial in study.trials}
    return sum(trial.state.is_finished() and trial.number not in repeated for trial in study.trials)


def repeat(study: optuna.Study, trial, attempt: int) -> None:
    """Puts an unfinished trial's setting before all others; after `ATTEMPTS` it counts as failed."""
    if attempt <= ATTEMPTS:
        study.enqueue_trial(trial.params, user_attrs={"again": trial.number, "attempt": attempt})


class Report(TrainerCallback):
    """Hands every validation to the trial, and ends the run where the pruner says so."""

    def __init__(self, trial: optuna.Trial):
        self.trial, self.validations, self.pruned = trial, [], False

    def on_evaluate(self, args, state, control, metrics=None, **kwargs):
        value = (metrics or {}).get("eval_objective")
        if value is not None and math.isfinite(value):
            share = metrics.get("eval_progress")
            done = round(share * args.evaluations) if share is not None and args.evaluations else len(self.validations)
            self.trial.report(value, done)
            self.validations.append(metrics)
            if not control.should_training_stop and self.trial.should_prune():
                self.pruned = control.should_training_stop = True
        return control


def run_trial(study: optuna.Study, trial: optuna.Trial, log: InterestLog, recipe: dict, output: Path) -> bool:
    """Trains one setting in a folder of its own, which goes afterwards; tells the study, and whether a signal came."""
    from optuna.trial import TrialState

    folder, report = output / f"trial-{trial.number}", Report(trial)
    attempt, state, value, note = trial.user_attrs.get("attempt", 1), None, None, "stopped by an error"
    try:
        # links: what a tuned text tower adds to the cache goes with the trial
        shutil.copytree(output.resolve() / CACHE_FOLDER, folder / CACHE_FOLDER, copy_function=os.symlink)
        training = train(arguments(recipe | trial.params, folder), log, callbacks=[report])["training"]
        trial.set_user_attr("steps", training["steps"])
        if training["interrupted"]:
            raise KeyboardInterrupt
        state, note = TrialState.FAIL, "no validation with a finite objective"
        if report.validations:
            best = max(report.validations, key=lambda metrics: metrics["eval_objective"])
            for name in FIGURES:
                if f"eval_{name}" in best:
                    trial.set_user_attr(name, best[f"eval_{name}"])
            state, note = (TrialState.PRUNED, "ended early") if report.pruned else (TrialState.COMPLETE, "")
            value = None if report.pruned else best["eval_objective"]
    except KeyboardInterrupt:
        note = "interrupted"
    except torch.OutOfMemoryError:
        state, note = TrialState.FAIL, "out of memory"
    except BaseException:
        attempt += 1
        raise
    finally:
        if note:
            trial.set_user_attr("note", note)
        study.tell(trial, value, state or TrialState.FAIL)
        if state is None:
            repeat(study, trial, attempt)
        shutil.rmtree(folder, ignore_errors=True)
    return note == "interrupted"

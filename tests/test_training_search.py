"""The search: recipes that finetune takes, resumption, interruption, early ends, fixed dials, and never the test split."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from transformers import TrainerControl

from interest_lm import cli
from interest_lm.data.log import SPLITS, InterestLog
from interest_lm.data.prepare import prepare
from interest_lm.training import finetune, run
from interest_lm.training import search as searching
from interest_lm.training.search_recipe import DEFAULTS, dials, fixed_values, usual_values


FREE = {"learning_rate", "hidden_dropout", "item_id_dropout", "num_hidden_layers"}
ENDLESS = {
    "minutes_per_trial": 0
}  # a budget makes the learning rate follow the clock, and figures differ in the last digits


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world") / "data"
    prepare("synthetic", [], folder, world={"num_users": 40, "num_items": 60, "seed": 3}, quiet=True)
    return folder


@pytest.fixture(scope="module")
def flags(tiny_bert) -> list[str]:
    settings = {
        "backbone": tiny_bert,
        "tuning": "frozen",
        "hidden_size": 16,
        "intermediate_size": 16,
        "max_history": 16,
        "per_device_train_batch_size": 4,
        "max_steps": 4,
        "eval_steps": 2,
        "prior_steps": 2,
        "bf16": False,
        "disable_tqdm": True,
    }
    return [word for name, value in settings.items() for word in (f"--{name}", str(value))]


@pytest.fixture(scope="module")
def finished(data, flags, tmp_path_factory):
    """A search of two trials: its folder and its study."""
    folder = tmp_path_factory.mktemp("search") / "out"
    return folder, searching.search(flags, data, folder, trials=2, **ENDLESS)


@pytest.fixture
def trained(monkeypatch):
    """Replaces the training by one that validates as `curves` say; the list of what was trained."""
    curves, seen = [], []

    def train(args, log, callbacks):
        seen.append({name: getattr(args, name) for name in FREE})
        curve = curves.pop(0) if curves else [-5.0]
        if isinstance(curve, BaseException):
            raise curve
        control = TrainerControl()
        for step, value in enumerate(curve):
            control.should_training_stop = control.should_training_stop or step == len(curve) - 1
            for callback in callbacks:
                callback.on_evaluate(args, None, control, {"eval_objective": value, "eval_ndcg@10": 0.5})
            if control.should_training_stop:
                break
        return {"training": {"steps": step + 1, "interrupted": False}}

    monkeypatch.setattr(searching, "train", train)
    return curves, seen


def states(study) -> list[str]:
    return [trial.state.name for trial in study.trials]


def test_the_best_recipe_is_one_that_finetune_takes(finished, flags, data, tmp_path):
    folder, study = finished
    assert states(study) == ["COMPLETE", "COMPLETE"]
    usual = usual_values(InterestLog.load(data))
    assert study.trials[0].params == {name: usual[name] for name in FREE}
    assert study.trials[1].params != study.trials[0].params
    args = finetune.parse([str(folder / "best.yaml"), "--output_dir", str(tmp_path)])
    for name, value in study.best_trial.params.items():
        assert getattr(args, name) == value
    assert (args.tuning, args.hidden_size, args.bf16, args.max_minutes) == ("frozen", 16, False, 0.0)
    assert (args.baselines, args.num_neighbours) == (DEFAULTS["baselines"], DEFAULTS["num_neighbours"])
    table = pd.read_csv(folder / "trials.csv")
    assert table["value"].tolist() == [trial.value for trial in study.trials]
    assert table["value"].max() == study.best_value and table["ndcg@10"].between(0, 1).all()
    assert {"future_cross_entropy", "completion_cross_entropy", *FREE} <= set(table)
    assert sorted(os.listdir(folder)) == ["best.yaml", "cache", "study.jsonl", "trials.csv"]


def test_finetune_reaches_what_the_search_found(finished, data, tmp_path):
    """Other halves of the histories are hidden where the log has a test split, too: the figures are near, not the same."""
    folder, study = finished
    own = ["--output_dir", str(tmp_path / "out"), "--data", str(data), "--baselines", "none", "--refit_share", "0"]
    outcome = run.train(finetune.parse([str(folder / "best.yaml"), *own]))
    assert outcome["training"]["best_validation"] == pytest.approx(study.best_value, abs=0.1)


def test_goes_on_without_repeating_and_never_reads_the_test_split(
    finished, data, flags, tmp_path, trained, monkeypatch
):
    folder, study = finished
    monkeypatch.undo()  # this one trains
    shutil.copytree(folder, tmp_path / "out")
    longer = searching.search(flags, data, tmp_path / "out", trials=3, **ENDLESS)
    assert [trial.value for trial in longer.trials][:2] == [trial.value for trial in study.trials]
    assert [trial.datetime_start for trial in longer.trials][:2] == [trial.datetime_start for trial in study.trials]
    assert len({tuple(trial.params.values()) for trial in longer.trials}) == 3
    # another folder whose test split is rubbish, in one go: the same settings and the same values
    blind = shutil.copytree(data, tmp_path / "blind")
    files = list((blind / "events").glob("test-*.parquet"))
    assert files
    for file in files:
        file.write_bytes(b"nothing that anybody may open")
    with pytest.raises(ValueError, match="not readable"):
        InterestLog.load(blind)
    whole = searching.search(flags, blind, tmp_path / "whole", trials=3, **ENDLESS)
    assert [trial.params for trial in whole.trials] == [trial.params for trial in longer.trials]
    assert [trial.value for trial in whole.trials] == [trial.value for trial in longer.trials]


def test_a_finished_search_trains_nothing(finished, data, flags, trained, capsys):
    folder, study = finished
    again = searching.search(flags, data, folder, trials=2, **ENDLESS)
    assert trained[1] == [] and len(again.trials) == 2
    shown = capsys.readouterr().out
    assert "defaults" in shown and f"{study.best_value:.4g}" in shown and "num_hidden_layers" in shown


def test_what_is_fixed_is_not_searched(data, flags, trained, tmp_path):
    (tmp_path / "recipe.yaml").write_text("num_hidden_layers: 3\nlearning_rate: 1e-3\nmax_minutes: 7\noutput_dir: x\n")
    argv = [str(tmp_path / "recipe.yaml"), *flags, "--hidden_dropout", "0.2"]  # fixed, though at its default
    study = searching.search(argv, data, tmp_path / "out", trials=2)
    assert all(set(trial.params) == {"item_id_dropout"} for trial in study.trials)
    assert all(args["num_hidden_layers"] == 3 and args["learning_rate"] == 1e-3 for args in trained[1])
    args = finetune.parse([str(tmp_path / "out" / "best.yaml"), "--output_dir", str(tmp_path)])
    assert (args.num_hidden_layers, args.learning_rate, args.hidden_dropout) == (3, 1e-3, 0.2)
    assert args.max_minutes == 7
    with pytest.raises(ValueError, match="max_minutes was 7.0, now 5.0"):
        searching.search([*argv[1:], "--learning_rate", "1e-3", "--num_hidden_layers", "3"], data, tmp_path / "out")


def test_dials_follow_the_log_and_the_recipe(data):
    log = InterestLog.load(data, SPLITS[:2])
    assert set(log.split) == {0, 1}
    space = dials(log, {})
    assert set(space) == FREE | {"hidden_size", "max_history"}
    usual = usual_values(log)
    assert all(space[name]._contains(space[name].to_internal_repr(usual[name])) for name in space)
    assert 400 not in space["max_history"].choices
    assert space["hidden_size"].choices == (64, 128, 192)
    assert "item_id_dropout" not in dials(log, {"use_item_ids": False})
    assert fixed_values(["--no_use_item_ids", "--seed", "7"]) == {"use_item_ids": False, "seed": 7}


def test_an_interrupted_trial_is_run_again(data, flags, tmp_path, monkeypatch):
    step_end = run.StopOnSignal.on_step_end

    def interrupt(self, args, state, control, **kwargs):
        if state.global_step == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return step_end(self, args, state, control, **kwargs)

    monkeypatch.setattr(run.StopOnSignal, "on_step_end", interrupt)
    with pytest.raises(KeyboardInterrupt):
        searching.search(flags, data, tmp_path / "out", trials=1)
    assert pd.read_csv(tmp_path / "out" / "trials.csv")["note"].tolist()[0] == "interrupted"
    assert not list((tmp_path / "out").glob("trial-*")) and not (tmp_path / "out" / "best.yaml").exists()
    monkeypatch.undo()
    study = searching.search(flags, data, tmp_path / "out", trials=1)
    assert states(study) == ["FAIL", "COMPLETE"]
    assert study.trials[0].params == study.trials[1].params


def test_a_killed_trial_is_run_again_but_not_for_ever(data, flags, trained, tmp_path):
    out = tmp_path / "out"
    study = searching.search(flags, data, out, trials=1)
    space = dials(InterestLog.load(data, SPLITS[:2]), fixed_values(flags))
    lost = study.ask(space)  # as a process leaves it that is killed
    (out / f"trial-{lost.number}").mkdir()
    study = searching.search(flags, data, out, trials=2)
    assert states(study) == ["COMPLETE", "FAIL", "COMPLETE"]
    assert study.trials[2].params == lost.params and not list(out.glob("trial-*"))
    for _ in range(searching.ATTEMPTS):  # an error is told to the user, the setting waits for the next call
        trained[0].append(RuntimeError("a bug"))
        with pytest.raises(RuntimeError, match="a bug"):
            searching.search(flags, data, out, trials=3)
        assert pd.read_csv(out / "trials.csv")["note"].iloc[-1] == "stopped by an error"
    study = searching.search(flags, data, out, trials=3)
    assert states(study)[3:] == ["FAIL"] * searching.ATTEMPTS  # the last of them counts
    assert len({tuple(trial.params.values()) for trial in study.trials[3:]}) == 1


def test_hopeless_trials_end_early_and_bad_ones_fail(data, flags, trained, tmp_path):
    curves, _ = trained
    curves += [[-4.0, -3.0, -2.0, -1.0] for _ in range(4)]
    curves += [[-9.0, -8.0, -7.0, -6.0], [float("nan")], torch.OutOfMemoryError("too large"), [-3.0, -0.5, -0.75]]
    study = searching.search(flags, data, tmp_path / "out", trials=8)
    assert states(study) == ["COMPLETE"] * 4 + ["PRUNED", "FAIL", "FAIL", "COMPLETE"]
    assert len(study.trials[4].intermediate_values) == 3  # two validations are never judged
    assert study.best_trial.number == 7 and study.best_value == -0.5
    notes = pd.read_csv(tmp_path / "out" / "trials.csv")["note"].fillna("").tolist()
    assert notes[4:] == ["ended early", "no validation with a finite objective", "out of memory", ""]


def test_a_trial_has_a_cache_of_its_own_and_ends_with_its_validation(data, flags, tmp_path, monkeypatch):
    """It starts with the texts' vectors, what a tuned text tower adds does not stay, and nothing trains on the validation events."""
    caches = []

    def train(args, log, callbacks):
        assert args.refit_share == 0 and args.max_minutes == pytest.approx(2 * (1 - DEFAULTS["refit_share"]))
        caches.append(sorted(os.listdir(args.cache_dir)))
        (Path(args.cache_dir) / f"{len(caches)}.npy").touch()
        return {"training": {"steps": 1, "interrupted": False}}

    monkeypatch.setattr(searching, "train", train)
    with pytest.raises(ValueError, match=r"trials.csv: no trial has ended with a value"):
        searching.search(flags, data, tmp_path / "out", trials=2, minutes_per_trial=2)
    assert len(caches) == 2 and caches[0] == caches[1] == os.listdir(tmp_path / "out" / "cache")


def test_best_yaml_follows_the_best_trial(data, flags, trained, tmp_path):
    curves, _ = trained
    for number, value in enumerate((-2.0, -1.0, -3.0)):
        curves.append([value])
        study = searching.search(flags, data, tmp_path / "out", trials=number + 1)
        args = finetune.parse([str(tmp_path / "out" / "best.yaml"), "--output_dir", str(tmp_path)])
        assert args.learning_rate == study.trials[min(number, 1)].params["learning_rate"]


@pytest.mark.parametrize(
    ("recipe", "minutes"),
    [
        ("minutes_per_100k_events: 6.5\n", 6.5),
        ("max_minutes: null\n", searching.MINUTES_PER_TRIAL),
        ("minutes_per_100k_events: 6.5\nmax_minutes: 2\n", 2),
    ],
)
def test_a_trial_takes_the_minutes_of_the_recipe(data, flags, trained, tmp_path, recipe, minutes):
    (tmp_path / "recipe.yaml").write_text(recipe)
    searching.search([str(tmp_path / "recipe.yaml"), *flags], data, tmp_path / "out", trials=1)
    args = finetune.parse([str(tmp_path / "out" / "best.yaml"), "--output_dir", str(tmp_path)])
    assert args.minutes(10**6) == minutes


def test_a_validation_is_reported_where_in_the_run_it_came():
    """A slow setting takes fewer of them: its second, at five eighths, stands beside a fast one's fifth."""
    said = []
    trial = SimpleNamespace(report=lambda value, step: said.append((value, step)), should_prune=lambda: False)
    report, control = searching.Report(trial), SimpleNamespace(should_training_stop=False)
    for value, share in ((-3.0, 0.13), (-2.0, 0.626)):
        metrics = {"eval_objective": value, "eval_progress": share}
        report.on_evaluate(SimpleNamespace(evaluations=8), None, control, metrics=metrics)
    assert said == [(-3.0, 1), (-2.0, 5)]


def test_no_trial_begins_that_would_not_end_in_time(data, flags, trained, tmp_path, monkeypatch):
    minutes = iter(range(0, 100, 2))
    monkeypatch.setattr(searching, "time", SimpleNamespace(monotonic=lambda: 60 * next(minutes)))
    study = searching.search(flags, data, tmp_path / "out", trials=5, minutes_per_trial=2, max_minutes=3)
    assert states(study) == ["COMPLETE"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"flags": ["--hidden_dropout", "0.3"]}, "hidden_dropout was not fixed, now 0.3"),
        ({"flags": ["--max_steps", "5"]}, "max_steps was 4, now 5"),
        ({"minutes_per_trial": 2.0}, "max_minutes was 0.0, now 2.0"),
        ({"data": "other"}, "holds another search: data was"),
    ],
)
def test_another_search_is_refused(finished, data, flags, trained, tmp_path, change, message):
    folder, study = finished
    if "data" in change:
        change["data"] = tmp_path / "other"
        prepare("synthetic", [], change["data"], world={"num_users": 40, "num_items": 60, "seed": 4}, quiet=True)
    settings = {"data": data, "trials": 9, **ENDLESS} | {
        name: value for name, value in change.items() if name != "flags"
    }
    with pytest.raises(ValueError, match=message):
        searching.search([*flags, *change.get("flags", [])], output=folder, **settings)
    assert trained[1] == []


def test_moved_data_are_the_same_data(finished, data, flags, trained, tmp_path):
    searching.search(flags, shutil.copytree(data, tmp_path / "moved"), finished[0], trials=2, **ENDLESS)


def test_one_search_at_a_time(finished, data, flags, trained):
    import fcntl

    with open(finished[0] / searching.STUDY_FILE, "ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with pytest.raises(ValueError, match="another search is running"):
            searching.search(flags, data, finished[0], trials=3, **ENDLESS)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "{tmp}/nowhere"], "{tmp}/nowhere"),
        (["--output", "{tmp}/mine"], "{tmp}/mine: exists and is no search's folder"),
        (["--learnin_rat", "1"], "unknown argument '--learnin_rat'"),
        (["--hidden_dropout", "much"], "invalid float value: 'much'"),
        (["--output_dir", "x"], "--output_dir cannot be fixed"),
        (["--max_minutes", "3"], "say --minutes-per-trial"),
        (["--max-minutes", "3"], "less than a trial's 5"),
        (["nowhere.yaml"], "nowhere.yaml"),
        (["--horizons", "3", "1"], "ascending"),
        (
            ["--learning_rate", "1", "--hidden_dropout", "0", "--item_id_dropout", "0", "--num_hidden_layers", "1"],
            "fixed",
        ),
    ],
)
def test_bad_input_is_one_line(data, flags, tmp_path, monkeypatch, capsys, arguments, message):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "precious.txt").write_text("kept")
    given = ["search", "--data", str(data), "--output", str(tmp_path / "out"), *flags]
    monkeypatch.setattr(sys, "argv", ["interest-lm", *given, *(word.format(tmp=tmp_path) for word in arguments)])
    with pytest.raises(SystemExit) as leaving:
        cli.main()
    assert leaving.value.code == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]  # after the bars of a text tower's weights
    assert line.startswith("error: ") and message.format(tmp=tmp_path) in line
    assert os.listdir(tmp_path) == ["mine"] and os.listdir(tmp_path / "mine") == ["precious.txt"]


def test_without_optuna_it_says_what_to_install(data, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ValueError, match=r"pip install 'interest-lm\[search\]'"):
        searching.search([], data, tmp_path / "out")

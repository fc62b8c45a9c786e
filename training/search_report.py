"""What a search leaves behind and prints: the best recipe, all trials, the best beside the defaults."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from .search_recipe import write_recipe


if TYPE_CHECKING:
    import optuna

FIGURES = ("ndcg@10", "future_cross_entropy", "completion_cross_entropy")
RECIPE_FILE, TRIALS_FILE = "best.yaml", "trials.csv"


def complete_trials(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    """Trials with a value, the best first."""
    return sorted((trial for trial in study.trials if trial.state.name == "COMPLETE"), key=lambda trial: -trial.value)


def write_outputs(study: optuna.Study, recipe: dict, output: Path) -> None:
    """Writes `trials.csv` and the best trial's recipe."""
    columns = ("number", "state", "value", "datetime_start", "duration", "params", "user_attrs")
    frame = study.trials_dataframe(attrs=columns)
    frame = frame[frame["state"] != "WAITING"]
    frame.columns = frame.columns.str.replace("^(params|user_attrs)_", "", regex=True)
    beside = output / f".{TRIALS_FILE}.writing"
    frame.to_csv(beside, index=False)
    os.replace(beside, output / TRIALS_FILE)
    if ranked := complete_trials(study):
        heading = f"# {describe(ranked[0])}; the best of {len(frame)}, on validation\n"
        write_recipe(recipe | ranked[0].params, output / RECIPE_FILE, heading)


def describe(trial: optuna.trial.FrozenTrial) -> str:
    """One line: how a trial ended."""
    figures = {"objective": trial.value} | {name: trial.user_attrs.get(name) for name in FIGURES}
    shown = [f"{name} {value:.4f}" for name, value in figures.items() if value is not None]
    return f"trial {trial.number}: " + ", ".join([*shown, *filter(None, [trial.user_attrs.get("note")])])


def print_best(ranked: list[optuna.trial.FrozenTrial], usual: dict) -> None:
    """A table of the best five trials beside the `usual` values of what was searched, a column each."""
    shown = [(f"trial {trial.number}", trial) for trial in ranked[:5]]
    defaults = [trial for trial in ranked if trial.params == usual]
    shown = [("defaults", trial) for trial in defaults[:1]] + shown
    table = Table("", box=SIMPLE, title="the defaults and the best trials, on validation", title_justify="left")
    for title, _ in shown:
        table.add_column(title, justify="right")
    rows = {"objective": [trial.value for _, trial in shown]}
    rows |= {name.replace("_cross_entropy", " (nats)"): [t.user_attrs.get(name) for _, t in shown] for name in FIGURES}
    measured = set(rows)
    rows |= {name: [trial.params[name] for _, trial in shown] for name in usual}
    for name, values in rows.items():
        table.add_row(
            name, *("-" if value is None else f"{value:.{4 if name in measured else 2}g}" for value in values)
        )
    Console().print(table)

"""What a search varies, and what a recipe and flags fix."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import yaml
from transformers import HfArgumentParser

from ..data.log import InterestLog
from .arguments import InterestTrainingArguments
from .derive import layer_sizes, usual_dropout, usual_width
from .finetune import parse, read_recipe


if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

DEFAULTS = {name: field.default for name, field in InterestTrainingArguments.__dataclass_fields__.items()}
CACHE_FOLDER = "cache"
OWN = ("data", "output_dir", "overwrite", "resume_from_checkpoint", "cache_dir")  # every trial has its own


def dials(log: InterestLog, recipe: dict) -> dict[str, BaseDistribution]:
    """What is searched, without what the recipe fixes.

    `learning_rate` 3e-4 to 4e-3 (logarithmic), `hidden_dropout` .1 to .5, `item_id_dropout` 0 to .4 (with item vectors),
    `num_hidden_layers` 1 to 4, `hidden_size` 64, 128 or 192 (what the recipe's heads divide), `max_history` 50, 100, 200 or 400 up to
    the first that holds 95 % of the histories. What this log has by default is always among them.
    """
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    lengths = np.diff(log.offsets)
    usual = np.percentile(lengths[lengths > 0], 95)
    heads = int(recipe.get("num_attention_heads") or 1)
    widths = {width for width in (64, 128, 192) if width % (2 * heads) == 0}
    histories = {size for size, shorter in ((50, 0), (100, 50), (200, 100), (400, 200)) if usual > shorter}
    space = {
        "learning_rate": FloatDistribution(3e-4, 4e-3, log=True),
        "hidden_dropout": FloatDistribution(0.1, 0.5),
        "item_id_dropout": FloatDistribution(0.0, 0.4),
        "num_hidden_layers": IntDistribution(1, 4),
        "hidden_size": CategoricalDistribution(sorted(widths | {usual_width(log)})),
        "max_history": CategoricalDistribution(sorted(histories | {DEFAULTS["max_history"]})),
    }
    idle = set() if recipe.get("use_item_ids", True) else {"item_id_dropout"}
    return {name: distribution for name, distribution in space.items() if name not in idle | set(recipe)}


def usual_values(log: InterestLog) -> dict:
    """What every argument is where nobody says otherwise, on this log."""
    width = usual_width(log)
    return DEFAULTS | {"hidden_dropout": usual_dropout(log), "hidden_size": width, **layer_sizes(width)}


def fixed_values(argv: list[str]) -> dict:
    """What a YAML recipe and flags say, and nothing else.

    Raises:
        ValueError: an unreadable recipe, an unknown or unusable argument, one that every trial sets itself.
    """
    flags, recipe = read_recipe(argv)
    parser = HfArgumentParser(InterestTrainingArguments)
    parser.error = _refuse
    parser.set_defaults(**recipe)
    typed = vars(parser.parse_known_args([])[0])  # YAML takes 1e-3 for a word
    absent = object()
    parser.set_defaults(**dict.fromkeys(DEFAULTS, absent))
    given, unknown = parser.parse_known_args(flags)
    if unknown:
        raise ValueError(f"unknown argument {unknown[0]!r}")
    values = {name: value for name, value in vars(given).items() if value is not absent}
    for name in (*OWN, "baselines", "max_minutes", "minutes_per_100k_events"):
        if name in values:
            hint = "; say --minutes-per-trial" if "minutes" in name else ""
            raise ValueError(f"--{name} cannot be fixed in a search, every trial has its own{hint}")
    return {name: typed[name] for name in recipe if name not in OWN} | values


def _refuse(message: str) -> None:
    raise ValueError(message)


def arguments(recipe: dict, folder: Path) -> InterestTrainingArguments:
    """A recipe as `finetune` reads it from a file, with what every trial sets."""
    write_recipe(recipe, folder / "recipe.yaml")
    own = {"output_dir": folder / "run", "cache_dir": folder / CACHE_FOLDER, "baselines": "none"}
    own["num_neighbours"] = 0  # the blend is fitted after the last validation and takes no part in the objective
    args = parse([str(folder / "recipe.yaml"), *(word for name in own for word in (f"--{name}", str(own[name])))])
    # a run's last part trains on the validation events: a trial ends before it
    args.max_minutes, args.refit_share = recipe["max_minutes"] * (1 - args.refit_share), 0.0
    return args


def write_recipe(recipe: dict, file: Path, heading: str = "") -> None:
    """Writes a YAML recipe beside `file`, `heading` above it, and moves it into place."""
    beside = file.with_name(f".{file.name}.writing")
    beside.write_text(heading + yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")
    os.replace(beside, file)

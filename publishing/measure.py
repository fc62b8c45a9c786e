"""Measures a checkpoint and puts the figures into it; measures anybody's predictions under the same protocol."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..data.inspect import suggest_horizons
from ..data.log import TEST
from ..evaluation.predict import ModelPredictor
from ..evaluation.predictions import SharePredictor, load_predictions
from ..evaluation.protocol import evaluate
from ..evaluation.report import write_results
from ..recommendation.log_tensors import LogTensors
from .export import checkpoint_folder, load_checkpoint, training_facts, update_results


if TYPE_CHECKING:
    from ..data.log import InterestLog


logger = logging.getLogger(__name__)

CACHE_FOLDER = "cache"  # where fine-tuning keeps text vectors


def evaluate_checkpoint(
    model: str | Path,
    log: InterestLog,
    *,
    split: str = "test",
    baselines: str | Sequence[str] = "all",
    output: str | Path | None = None,
    seed: int = 0,
    max_users: int | None = None,
    ablations: bool = False,
) -> dict:
    """Evaluates a checkpoint beside baselines and writes the figures.

    Args:
        model: folder of a checkpoint or id of a Hub repository.
        log (`InterestLog`): the data.
        split, baselines, seed, max_users, ablations: see [`evaluate`].
        output (*optional*): the file to write. By default `results.json` in the checkpoint's folder, whose card is
            rendered anew; in the working folder where the checkpoint is no folder.

    Returns:
        The content of `results.json`.

    Raises:
        ValueError: a checkpoint that cannot be loaded or does not fit the data, an output in no folder.
    """
    _check_output(output)
    local = Path(model).is_dir()
    network, processor, _ = load_checkpoint(model)
    config = network.config
    refitted = bool(training_facts(checkpoint_folder(str(model))).get("refit_steps"))
    if refitted and split == "validation":
        logger.warning("%s: trained on the validation events at last; figures on them are those of seen events", model)
    cache = Path(model) / CACHE_FOLDER
    # `leave-last`: what a model was trained on last, its popularity knows too
    allowed = log.split < TEST if refitted and split == "test" and log.facts["split"] == "leave-last" else None
    tensors = LogTensors(log, network, processor, allowed, cache_dir=cache if cache.is_dir() else None)
    if config.added_domains and tensors.log is not log:
        raise ValueError(
            f"{log.name} does not say what is in {config.added_domains[0]!r}, which was added to {model} by name: evaluate "
            "the checkpoint without it, or on data whose items name it"
        )
    predictor = ModelPredictor(network, processor, log, tensors=tensors)
    results = evaluate(
        log,
        predictor,
        horizons=config.horizons,
        horizon_unit=config.horizon_unit,
        reference_horizon=config.reference_horizon,
        split=split,
        baselines=baselines,
        text_vectors=predictor.tensors.texts[predictor.tensors.item_text_index].numpy(),
        seed=seed,
        max_users=max_users,
        ablations=ablations,
        name=Path(model).resolve().name if local else str(model),
    )
    if local and output is None:
        update_results(model, config, results)
    else:
        write_results(results, output or "results.json")
    return results


def evaluate_predictions(
    predictions: str | Path,
    log: InterestLog,
    *,
    split: str = "test",
    baselines: str | Sequence[str] = "all",
    output: str | Path | None = None,
    seed: int = 0,
    max_users: int | None = None,
) -> dict:
    """Evaluates ranking lists or forecasts from a Parquet file (see [`load_predictions`]) and writes the figures.

    Horizons are those of the file, in the unit that the log measures (days under `global-time`, else events); the longest
    is that of the change rate. `output` is `results.json` in the working folder by default.

    Raises:
        ValueError: a file that does not fit the data, an output in no folder.
    """
    _check_output(output)
    predictor = load_predictions(predictions, log)
    horizons, unit, reference = suggest_horizons(log)
    if isinstance(predictor, SharePredictor):
        horizons = sorted({float(horizon) for horizon in predictor.index[1]})
        reference = horizons[-1]
    results = evaluate(
        log,
        predictor,
        horizons=horizons,
        horizon_unit=unit,
        reference_horizon=reference,
        split=split,
        baselines=baselines,
        seed=seed,
        max_users=max_users,
        name=Path(predictions).name,
    )
    write_results(results, output or "results.json")
    return results


def _check_output(output: str | Path | None) -> None:
    """Before anything is computed."""
    if output is not None and not Path(output).resolve().parent.is_dir():
        raise ValueError(f"{output}: no folder {Path(output).resolve().parent}")

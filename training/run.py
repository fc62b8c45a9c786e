"""One fine-tuning from a log to a checkpoint."""

from __future__ import annotations

import copy
import json
import logging
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoTokenizer, TrainerCallback, set_seed
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from ..data.log import TRAIN, InterestLog
from ..evaluation.predict import ModelPredictor
from ..modeling_interest import InterestModel, resolve_text_backbone
from ..processing_interest import InterestProcessor
from ..publishing.adapter import ADAPTER_FOLDER, BASE_FOLDER
from ..publishing.export import backbone_revision, item_catalogue, save_checkpoint
from ..publishing.files import write_json
from ..recommendation.log_tensors import LogTensors
from .arguments import InterestTrainingArguments
from .batches import BatchBuilder, PackedRows
from .blend import fit_blend, refit_blend
from .calibrate import apply_calibration, calibrate, sure_scale
from .derive import (
    config_for,
    fill_population,
    known_items,
    layer_sizes,
    membership_temperature,
    usual_dropout,
    usual_width,
)
from .intensity import apply_intensity
from .popularity import fit_popularity, keep_popularity
from .prior import fit_prior
from .refit import refit, with_validation
from .reliable import check_change
from .reputation import fill_reputation, fit_reputation
from .topics import fill_topics
from .trainer import (
    FLOOR,
    HANDOVER,
    EarlyStop,
    InterestTrainer,
    StopOnSignal,
    TimeBudget,
    WeightAverage,
    said_by_first,
)
from .validation import Validation


logger = logging.getLogger(__name__)

HEADS = [
    "item_tower",
    "event_encoder",
    "history_bias",
    "history_encoder",
    "query_layer",
    "domain_head",
    "domain_view",
    "next_event_head",
    "scene_head",
    "intensity_head",
    "ranking_head",
    "overall_head",
    "rating_head",
    "population",
    "neighbours",
    "newcomers",
    "reputation",
    "task_balance",
]


def new_model(log: InterestLog, args: InterestTrainingArguments) -> tuple[InterestModel, InterestProcessor]:
    """A model on the backbone with the parts that the log supports, and its processor."""
    settings = config_for(log)
    for name in ("horizons", "horizon_unit", "reference_horizon"):
        if getattr(args, name) is not None:
            settings[name] = getattr(args, name)
    if args.horizons is not None and args.reference_horizon is None:
        settings["reference_horizon"] = max(args.horizons)
    items = known_items(log) if args.use_item_ids else []
    if items and args.refit_share:
        # items that validation saw first get their vectors at the end of the run
        known = set(items)
        items += [item for item in known_items(with_validation(log)) if item not in known]
    for name in (
        "encoder",
        "num_hidden_layers",
        "domain_dropout",
        "item_id_dropout",
        "use_text",
        "use_domain_view",
        "use_personal_popularity",
        "popularity_units",
        "use_positions",
        "use_time_bias",
        "ranking_loss",
        "gbce_calibration",
        "label_smoothing",
        "temperature",
        "max_history",
        "task_weighting",
    ):
        settings[name] = getattr(args, name)
    width = usual_width(log) if args.hidden_size is None else args.hidden_size
    derived = {"hidden_size": width, **layer_sizes(width), "hidden_dropout": usual_dropout(log)}
    for name, value in derived.items():
        settings[name] = value if getattr(args, name) is None else getattr(args, name)
    settings["task_weights"] = args.lambdas()
    settings["num_neighbours"] = min(args.num_neighbours, max(len(items) - 1, 0))
    settings["use_newcomers"] = bool(settings["num_neighbours"])
    settings["use_reputation"] = settings["use_rate_prior"] = settings["use_absence"] = True
    centered = log.facts["split"] == "global-time" if args.use_centered_queries is None else args.use_centered_queries
    settings["use_centered_queries"] = centered
    model = InterestModel.from_text_pretrained(args.backbone, num_items=len(items), **settings)
    if model.item_tower.identity is not None:
        with torch.no_grad():
            model.item_tower.identity.weight[len(known_items(log)) :] = 0.0
    tokenizer = AutoTokenizer.from_pretrained(resolve_text_backbone(args.backbone))
    return model, InterestProcessor.from_model(model, tokenizer, items, args.max_text_tokens)


def tune_text(model: InterestModel, args: InterestTrainingArguments):
    """Chooses what of the text tower trains; with LoRA everything else is in `modules_to_save`."""
    if args.tuning == "full":
        return model
    model.text_model.requires_grad_(False)
    if args.tuning == "top-layers":
        layers = next(module for module in model.text_model.modules() if isinstance(module, torch.nn.ModuleList))
        layers[-max(1, len(layers) // 3) :].requires_grad_(True)
    if args.tuning != "lora":
        return model
    linear = [name for name, module in model.text_model.named_modules() if isinstance(module, torch.nn.Linear)]
    config = LoraConfig(
        task_type="FEATURE_EXTRACTION",
        r=args.lora_rank,
        lora_alpha=args.lora_alpha,
        lora_dropout=args.lora_dropout,
        target_modules=r"text_model\.(" + "|".join(re.escape(name) for name in linear) + ")",
        modules_to_save=[name for name in HEADS if getattr(model, name) is not None],
    )
    return get_peft_model(model, config)


def derive_schedule(args: InterestTrainingArguments, rows: PackedRows, processes: int = 1) -> None:
    """Fills batch size and passes where they were left to the log, and decides when validation and checkpoints come.

    About 40 steps a pass and at most 32 rows a step; passes fall with the number of events, from 60 to 12, or to 40 where a time
    budget ends the run anyway, the refit's share of them among these.
    """
    if not args.per_device_train_batch_size:
        args.per_device_train_batch_size = int(np.clip(round(len(rows) / 40 / processes), 4, 32))
    if not args.num_train_epochs:
        passes = float(np.clip(4e6 / max(rows.num_slots, 1), 40 if args.max_minutes else 12, 60))
        args.num_train_epochs = passes * (1 - args.refit_share)
    if args.eval_steps is None:
        args.eval_steps = 10**9  # `evaluations` decides
    else:
        args.evaluations = 0
    args.save_steps = args.eval_steps
    args.eval_strategy = args.save_strategy = "steps"
    args.load_best_model_at_end, args.metric_for_best_model, args.greater_is_better = True, "eval_objective", True


def check_output(args: InterestTrainingArguments) -> None:
    """Raises a `ValueError` where the output folder is in use."""
    if not args.output_dir:
        raise ValueError("`output_dir` is missing, expected a folder for the checkpoint")
    output = Path(args.output_dir)
    if output.exists() and any(output.iterdir()) and not args.resume_from_checkpoint:
        if not args.overwrite:
            raise ValueError(
                f"{output}: exists; give --overwrite to replace it, or --resume_from_checkpoint True to go on"
            )
        shutil.rmtree(output)


def refused_output(args: InterestTrainingArguments) -> str | None:
    """What [`check_output`] has against the output folder."""
    try:
        check_output(args)
    except ValueError as error:
        return str(error)
    return None


def missing_space(args: InterestTrainingArguments, model: InterestModel) -> str | None:
    """What [`train`] refuses where the disk of the output folder would be full before the run is over: a checkpoint holds the weights, and
    what is trained of them three times more (average and AdamW's two moments); one too many stands there while it is written."""
    every = 4 * sum(parameter.numel() for parameter in model.parameters())
    trained = every
    if args.tuning in ("frozen", "lora"):
        trained -= 4 * sum(parameter.numel() for parameter in model.text_model.parameters())
    kept = 0 if args.resume_from_checkpoint else args.save_total_limit or max(args.evaluations, 1)
    models = 2 if args.tuning == "lora" else 1  # an adapter's base stands beside it
    needed = (kept + 1) * (every + 3 * trained) + models * every
    output = Path(args.output_dir).absolute()
    there = next(folder for folder in (output, *output.parents) if folder.exists())
    free = shutil.disk_usage(there).free
    if free >= needed:
        return None
    return f"{output}: {free >> 20} MiB are free, expected {needed >> 20} MiB for checkpoints and the model"


def last_checkpoint(args: InterestTrainingArguments) -> str:
    """The last checkpoint that was written to its end: after a kill, or on a disk that was full, there may be a part of a later one.

    Raises:
        ValueError: there is none.
    """
    written_last = WeightAverage.FILE if args.average_gamma else TRAINER_STATE_NAME
    steps = {path: path.name.rpartition("-")[2] for path in Path(args.output_dir).glob(f"{PREFIX_CHECKPOINT_DIR}-*")}
    found = sorted((path for path, step in steps.items() if step.isdigit()), key=lambda path: int(steps[path]))
    if not found:
        raise ValueError(f"{args.output_dir}: no checkpoint in it to resume from")
    whole = [path for path in found if (path / written_last).exists()]
    if not whole:
        raise ValueError(
            f"{found[-1]}: no {written_last} in it, nor in an earlier one; it was not written to its end, "
            "or trained with --average_gamma 0"
        )
    if whole[-1] != found[-1]:
        logger.warning("%s was not written to its end; going on from %s", found[-1], whole[-1].name)
    return str(whole[-1])


def train(
    args: InterestTrainingArguments,
    log: InterestLog | None = None,
    fresh: bool = True,
    callbacks: Sequence[TrainerCallback] = (),
) -> dict:
    """Trains a model on a log and writes the checkpoint with its short evaluation and card.

    Args:
        args ([`InterestTrainingArguments`]): `data` names the log unless one is given.
        log (`InterestLog`, *optional*): the log itself.
        fresh (`bool`, *optional*, defaults to `True`): refuse an output folder that is in use.
        callbacks (`Sequence[TrainerCallback]`, *optional*): further ones, called after the run's own.

    Returns:
        `{"model", "processor", "tensors", "results", "training"}`.

    Raises:
        ValueError: an argument or a log that cannot be trained with.
    """
    args, budget = copy.copy(args), TimeBudget()  # what the log decides is not the caller's
    if fresh:
        # the first process looks for all of them, before it writes there
        refusal = said_by_first(lambda: refused_output(args), args)
        if refusal:
            raise ValueError(refusal)
    if log is None:
        if not args.data:
            raise ValueError("`data` is missing, expected an interest dataset (`interest-lm prepare`)")
        log = InterestLog.load(args.data, streaming=args.streaming)
    args.max_minutes = minutes = args.minutes(int((log.split == TRAIN).sum()))
    budget.minutes = minutes * (1 - args.refit_share)
    if torch.cuda.device_count() > 1 and args.parallel_mode.value == "not_distributed":
        raise ValueError("several GPUs in one process would cut batches apart; use `accelerate launch`")
    set_seed(args.seed)
    model, processor = new_model(log, args)
    for name in ("hidden_size", "num_attention_heads", "intermediate_size", "hidden_dropout", "use_centered_queries"):
        setattr(args, name, getattr(model.config, name))  # what was left to the log: the card says it
    refusal = said_by_first(lambda: missing_space(args, model), args)
    if refusal:
        raise ValueError(refusal)
    cache = args.cache_dir or str(Path(args.output_dir) / "cache")
    live = args.live_texts if args.tuning != "frozen" and args.use_text else 0
    with args.main_process_first(desc="texts"):
        tensors = LogTensors(log, model, processor, cache_dir=cache)
    trained_items = len(known_items(log)) if args.use_item_ids else 0
    tensors.item_ids[tensors.item_ids >= trained_items] = -1
    rows = PackedRows(tensors, args.max_history, args.seed)
    queries = args.cuts_per_row
    if queries is None:
        queries = int(np.clip(1000 // max(model.config.num_domains, 1), 4, 24))
    builder = BatchBuilder(
        tensors,
        rows,
        cuts=queries,
        impressions=args.impressions_per_row,
        completions=args.completions_per_row,
        sampled_items=args.sampled_items,
        full_softmax_items=args.full_softmax_items,
        log_q=args.log_q,
        next_events=int(np.clip(16000 // max(model.config.num_domains, 1), 4, 64)),
        live_texts=live,
        live_every=args.live_every,
        seed=args.seed,
    )
    fill_population(model, tensors)
    resume = args.resume_from_checkpoint
    if resume in (True, "True", "true"):
        resume = last_checkpoint(args)
    model.to(args.device)
    if not resume:
        fill_topics(model, log, args.seed)
        fit_popularity(model, tensors, args.seed)
        fit_prior(model, builder, rows, args.prior_steps)
    output = Path(args.output_dir)
    if args.tuning == "lora" and not resume and args.process_index == 0:
        # what the adapter goes on: the backbone's own weights, with the config and the code
        untrained = {"backbone": args.backbone, "backbone_revision": backbone_revision(args.backbone)}
        untrained["tuning"] = "none yet: the base of an adapter"
        save_checkpoint(model, processor, output / BASE_FOLDER, facts=log.facts, training=untrained)
    tuned = tune_text(model, args)
    keep_popularity(tuned)
    derive_schedule(args, rows, args.world_size)
    config = model.config
    validation = Validation(
        log, config.horizons, config.horizon_unit, config.reference_horizon, args.max_eval_users, args.seed
    )
    if validation.fold is None:
        budget.minutes = minutes  # no refit follows
        args.eval_strategy, args.load_best_model_at_end = "no", False
    stop = StopOnSignal()
    average = WeightAverage(args.average_gamma) if args.average_gamma else None
    if resume and average is not None:
        if not (Path(resume) / WeightAverage.FILE).exists():
            raise ValueError(
                f"{resume}: no {WeightAverage.FILE} in it; resume with --average_gamma 0, as it was trained"
            )
        average.load(resume)
    refits = bool(args.refit_share) and validation.fold is not None
    apart = average is not None and model.domain_view is not None  # parts are kept from where each was best
    trainer = InterestTrainer(
        tuned, args, rows, builder, validation, budget, average,
        floor=HANDOVER if refits else FLOOR,
        callbacks=[stop, EarlyStop(args.patience, by_part=apart), *callbacks],
    )  # fmt: skip
    result = trainer.train(resume_from_checkpoint=resume)
    interrupted = stop.caught is not None
    training = {
        "tuning": args.tuning,
        "backbone": args.backbone,
        "backbone_revision": backbone_revision(args.backbone),
        "steps": trainer.state.global_step,
        "epochs": round(trainer.state.epoch or 0.0, 2),
        "processes": args.world_size,
        "seed": args.seed,
        "train_loss": round(float(result.training_loss), 4),
        "interrupted": interrupted,
        "best_validation": trainer.state.best_metric,
        "log": [entry for entry in trainer.state.log_history if "eval_objective" in entry],
        "recipe": args.recipe(),
    }
    if average is not None:
        average.put_best(trainer.accelerator.unwrap_model(trainer.model))
    model = trainer.interest_model.eval()
    if live:
        tensors.refresh(model)
    # before the adapter is saved: the linear neighbours are among its `modules_to_save`
    predictor = ModelPredictor(model, processor, log, tensors=tensors)
    fits = validation.fold is not None and not interrupted
    training["residual_scale"] = config.residual_scale = scale = sure_scale(predictor, validation) if fits else 1.0
    training["blend"] = fit_blend(predictor, validation) if fits else None
    training["reputation"] = fit_reputation(predictor, validation) if fits else None
    training["change"] = None
    if config.domains:
        config.domain_temperature = membership_temperature(model, tensors)
    if config.domains and not interrupted:
        training["change"] = check_change(predictor, validation)
        config.change_is_reliable = training["change"]["reliable"]
    elif interrupted:
        config.change_is_reliable = False  # nobody has looked
    training["calibration"] = calibrate(predictor, validation) if fits else None
    apply_calibration(model, training["calibration"])
    training["refit_steps"] = 0
    if refits and fits:
        config.residual_scale = 1.0  # trains whole, and intensity with the numbers that it trained with
        support = ((training["blend"] or {}).get("popularity") or {}).get("support", 1)
        training["refit_steps"] = refit(trainer, minutes * args.refit_share, stop, support)
        interrupted = training["interrupted"] = stop.caught is not None
        config.residual_scale = scale
        tensors = builder.tensors
        if training["refit_steps"]:
            refit_blend(model, tensors, training["blend"])
            fill_reputation(model, tensors, training["reputation"])
        if live:
            tensors.refresh(model)
    apply_intensity(model, (training["calibration"] or {}).get("intensity"))
    training["minutes"] = round(budget.elapsed / 60, 2)
    if not trainer.is_world_process_zero():
        return {"training": training}
    model.eval()
    if args.tuning == "lora":
        tuned = trainer.accelerator.unwrap_model(trainer.model)
        tuned.save_pretrained(output / ADAPTER_FOLDER)
        (output / ADAPTER_FOLDER / "README.md").unlink()  # PEFT's blank form; `interest-lm push` renders a card
        # an adapter has no config but its base's: what was found after training belongs there, too
        names = "domain_temperature", "residual_scale", "intensity_calibration", "change_is_reliable"
        found = {name: getattr(config, name) for name in names}
        base_config = output / BASE_FOLDER / "config.json"
        if base_config.is_file():
            write_json(json.loads(base_config.read_text(encoding="utf-8")) | found, base_config)
        model = tuned.merge_and_unload()
    model = model.float().eval()
    model.requires_grad_(True)
    results = None
    predictor = ModelPredictor(model, processor, log, tensors=tensors)
    if args.baselines != "none" and not interrupted:
        results = closing_evaluation(predictor, args)
    vectors = predictor.item_vectors()
    save_checkpoint(
        model.cpu(),
        processor,
        output,
        catalogue=item_catalogue(log.items, vectors),
        results=results,
        facts=log.facts,
        training=training,
    )
    return {"model": model, "processor": processor, "tensors": tensors, "results": results, "training": training}


SHORT_BASELINES = ["popularity", "recent_popularity", "shrinkage", "mixture", "mixture_rate"]


def closing_evaluation(predictor: ModelPredictor, args: InterestTrainingArguments) -> dict:
    """The short evaluation at the end of a run: test split, few baselines."""
    from ..evaluation.protocol import evaluate

    config = predictor.model.config
    return evaluate(
        predictor.log,
        predictor,
        horizons=config.horizons,
        horizon_unit=config.horizon_unit,
        reference_horizon=config.reference_horizon,
        baselines="all" if args.baselines == "all" else SHORT_BASELINES,
        text_vectors=predictor.tensors.texts[predictor.tensors.item_text_index].numpy(),
        max_users=None if args.baselines == "all" else 2 * (args.max_eval_users or 1000),
        seed=args.seed,
    )

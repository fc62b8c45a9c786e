"""One fine-tuning from a log to a checkpoint."""

from __future__ import annotations

import logging
import re
import shutil
from pathlib import Path

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoTokenizer, set_seed
from transformers.trainer_utils import get_last_checkpoint

from ..data.log import TRAIN, InterestLog
from ..evaluation.predict import ModelPredictor
from ..modeling_interest import InterestModel, resolve_text_backbone
from ..processing_interest import InterestProcessor
from ..publishing.export import item_catalogue, save_checkpoint
from ..recommendation.log_tensors import LogTensors
from .arguments import InterestTrainingArguments
from .batches import BatchBuilder, PackedRows
from .blend import fit_blend
from .derive import config_for, known_items
from .prior import fit_prior
from .trainer import EarlyStop, InterestTrainer, StopOnSignal, TimeBudget
from .validation import Validation


logger = logging.getLogger(__name__)

HEADS = [
    "item_tower",
    "event_encoder",
    "history_encoder",
    "query_layer",
    "domain_head",
    "intensity_head",
    "ranking_head",
    "overall_head",
    "rating_head",
    "population",
    "neighbours",
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
    for name in (
        "hidden_size",
        "num_hidden_layers",
        "num_attention_heads",
        "intermediate_size",
        "hidden_dropout",
        "item_id_dropout",
        "use_text",
        "max_history",
        "task_weighting",
    ):
        settings[name] = getattr(args, name)
    settings["task_weights"] = args.lambdas()
    settings["num_neighbours"] = min(args.num_neighbours, max(len(items) - 1, 0))
    model = InterestModel.from_text_pretrained(args.backbone, num_items=len(items), **settings)
    tokenizer = AutoTokenizer.from_pretrained(resolve_text_backbone(args.backbone))
    return model, InterestProcessor.from_model(model, tokenizer, items, args.max_text_tokens)


def fill_population(model: InterestModel, tensors: LogTensors) -> None:
    """Puts what everybody did before the end of training into the model."""
    log = tensors.log
    train = log.split == TRAIN
    end = np.array([int(log.timestamp[train].max()) + 1])
    population = model.population
    if tensors.population is not None:
        population.shares.copy_(torch.from_numpy(tensors.population.shares(end)[0]))
    if tensors.popularity is not None:
        features = tensors.item_features[int(tensors.popularity.index(end)[0])]
        known = tensors.item_ids >= 0
        population.item_features[tensors.item_ids[known]] = features[known]
    if log.facts["time"] == "seconds":
        first = log.offsets[:-1]
        counts = np.bincount(log.user[train], minlength=log.num_users)
        days = (end[0] - log.timestamp[np.minimum(first, log.num_events - 1)])[counts > 0] / 86400
        population.rate.fill_(float(counts.sum() / max(days.sum(), 1e-3)))


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

    About 40 steps a pass and at most 32 rows a step; passes fall with the number of events, from 60 to 12.
    """
    if not args.per_device_train_batch_size:
        args.per_device_train_batch_size = int(np.clip(round(len(rows) / 40 / processes), 4, 32))
    if not args.num_train_epochs:
        args.num_train_epochs = float(np.clip(4e6 / max(rows.num_slots, 1), 12, 60))
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


def train(args: InterestTrainingArguments, log: InterestLog | None = None, fresh: bool = True) -> dict:
    """Trains a model on a log and writes the checkpoint with its short evaluation and card.

    Args:
        args ([`InterestTrainingArguments`]): `data` names the log unless one is given.
        log (`InterestLog`, *optional*): the log itself.
        fresh (`bool`, *optional*, defaults to `True`): refuse an output folder that is in use.

    Returns:
        `{"model", "processor", "tensors", "results", "training"}`.

    Raises:
        ValueError: an argument or a log that cannot be trained with.
    """
    budget = TimeBudget(args.max_minutes)
    if fresh:
        check_output(args)
    if log is None:
        if not args.data:
            raise ValueError("`data` is missing, expected an interest dataset (`interest-lm prepare`)")
        log = InterestLog.load(args.data)
    if torch.cuda.device_count() > 1 and args.parallel_mode.value == "not_distributed":
        raise ValueError("several GPUs in one process would cut batches apart; use `accelerate launch`")
    set_seed(args.seed)
    model, processor = new_model(log, args)
    cache = args.cache_dir or str(Path(args.output_dir) / "cache")
    live = args.live_texts if args.tuning != "frozen" and args.use_text else 0
    with args.main_process_first(desc="texts"):
        tensors = LogTensors(log, model, processor, cache_dir=cache)
    rows = PackedRows(tensors, args.max_history, args.seed)
    builder = BatchBuilder(
        tensors,
        rows,
        cuts=args.cuts_per_row,
        completions=args.completions_per_row,
        sampled_items=args.sampled_items,
        full_softmax_items=args.full_softmax_items,
        live_texts=live,
        seed=args.seed,
    )
    fill_population(model, tensors)
    resume = args.resume_from_checkpoint
    if resume in (True, "True", "true"):
        resume = get_last_checkpoint(args.output_dir)
        if resume is None:
            raise ValueError(f"{args.output_dir}: no checkpoint in it to resume from")
    model.to(args.device)
    if not resume:
        fit_prior(model, builder, rows, args.prior_steps)
    tuned = tune_text(model, args)
    derive_schedule(args, rows, args.world_size)
    config = model.config
    validation = Validation(
        log, config.horizons, config.horizon_unit, config.reference_horizon, args.max_eval_users, args.seed
    )
    if validation.fold is None:
        args.eval_strategy, args.load_best_model_at_end = "no", False
    stop = StopOnSignal()
    trainer = InterestTrainer(
        tuned, args, rows, builder, validation, budget, callbacks=[stop, EarlyStop(args.patience)]
    )
    result = trainer.train(resume_from_checkpoint=resume)
    interrupted = stop.caught is not None
    training = {
        "tuning": args.tuning,
        "backbone": args.backbone,
        "steps": trainer.state.global_step,
        "epochs": round(trainer.state.epoch or 0.0, 2),
        "minutes": round(budget.elapsed / 60, 2),
        "seed": args.seed,
        "train_loss": round(float(result.training_loss), 4),
        "interrupted": interrupted,
        "best_validation": trainer.state.best_metric,
        "log": [entry for entry in trainer.state.log_history if "eval_objective" in entry],
    }
    if not trainer.is_world_process_zero():
        return {"training": training}
    output = Path(args.output_dir)
    model = trainer.interest_model.eval()
    if live:
        tensors.refresh(model)
    # before the adapter is saved: the linear neighbours are among its `modules_to_save`
    predictor = ModelPredictor(model, processor, log, tensors=tensors)
    training["blend"] = fit_blend(predictor, validation) if validation.fold is not None else None
    if args.tuning == "lora":
        tuned = trainer.accelerator.unwrap_model(trainer.model)
        tuned.save_pretrained(output / "adapter")
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
        max_users=None if args.baselines == "all" else 2 * args.max_eval_users,
        seed=args.seed,
    )

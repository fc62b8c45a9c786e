"""The last part of a run: the chosen model goes on with the validation events among the training events."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np

from ..data.log import TEST, TRAIN, InterestLog
from ..recommendation.log_tensors import LogTensors
from .batches import PackedRows
from .blend import trust_vectors
from .derive import fill_population
from .trainer import HANDOVER, InterestTrainer, StopOnSignal, TimeBudget, WeightAverage


DOMAINS_RATE = 0.25  # of the others' learning rate: domains are near their best early and learn people by heart later


def with_validation(log: InterestLog) -> InterestLog:
    """The log with its validation events and impressions among those of training; windows may reach to the test."""

    def known(split: np.ndarray) -> np.ndarray:
        return np.where(split < TEST, TRAIN, split).astype(split.dtype)

    shown = log.impressions and replace(log.impressions, split=known(log.impressions.split))
    facts = log.facts | {"validation_start": log.facts.get("test_start")}
    return replace(log, split=known(log.split), impressions=shown, facts=facts)


def refit(trainer: InterestTrainer, minutes: float, stop: StopOnSignal, support: int = 1) -> int:
    """Trains on with everything before the test, from where the learning rate was left: what is latest is worth the most. The steps are
    `refit_share` of all, as many before it as ranking could use: to the last validation that was not behind the best by more than its
    standard error, since where on a plateau the best one stands is chance. Domains learn slowly here and need no number of their own.

    Everything was chosen on validation before, and nothing is chosen after it, so the test stays untouched. An interruption
    leaves the model as it came. How sure forecasts are stays as it was: on windows that it trains on, the model would think itself
    surer than it is on new ones.

    Args:
        trainer ([`InterestTrainer`]): a finished one, whose model holds the chosen weights.
        minutes (`float`): time budget; 0: none.
        stop ([`StopOnSignal`]): tells of interruptions.
        support (`int`, *optional*, defaults to 1): events from which on an item uses a vector of its own, those of validation
            among them now.

    Returns:
        Steps that it took.
    """
    args, model, builder = copy.copy(trainer.args), trainer.interest_model, trainer.builder
    good = {} if trainer.average is None else trainer.average.good_step
    used = good.get("ranking") or good.get("whole") or trainer.state.best_global_step or trainer.state.global_step
    steps = max(1, round(used * args.refit_share / (1 - args.refit_share)))
    log = with_validation(builder.log)
    tensors = LogTensors(log, model, builder.tensors.processor, texts=builder.tensors.texts, progress=False)
    population = {name: value.clone() for name, value in model.population.named_buffers()}
    trusted = None if model.newcomers is None else model.newcomers.trusted.clone()
    fill_population(model, tensors)
    trust_vectors(model, tensors, support)
    rows = PackedRows(tensors, builder.rows.length, args.seed + 1)
    args.max_steps, args.eval_strategy, args.save_strategy, args.load_best_model_at_end = steps, "no", "no", False
    args.learning_rate, args.text_learning_rate = HANDOVER * args.learning_rate, HANDOVER * args.text_learning_rate
    if model.domain_head is not None:
        for parameter in (model.domain_head.concentration, model.domain_head.concentration_slope):
            parameter.requires_grad_(False)
    if model.intensity_head is not None:
        head = model.intensity_head
        for parameter in (head.dispersion, head.absence, head.absence_slopes):
            if parameter is not None:
                parameter.requires_grad_(False)
    before = WeightAverage()
    tuned = trainer.accelerator.unwrap_model(trainer.model)
    before.average = {name: value.clone() for name, value in before.trained(tuned).items()}
    average = WeightAverage(args.average_gamma) if args.average_gamma else None
    second = InterestTrainer(
        tuned, args, rows, replace(builder, tensors=tensors, rows=rows), trainer.validation, TimeBudget(minutes), average,
        domains_rate=DOMAINS_RATE, callbacks=[stop],
    )  # fmt: skip
    second.train()
    if stop.caught is not None:
        before.put(tuned)
        for name, value in model.population.named_buffers():
            value.copy_(population[name])
        if trusted is not None:
            model.newcomers.trusted.copy_(trusted)
        return 0
    if average is not None:
        average.put(tuned)
    builder.tensors = tensors
    return second.state.global_step

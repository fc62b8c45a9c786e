"""transformers' Trainer for interest: packed batches, our own validation, a time budget, a clean stop on signals."""

from __future__ import annotations

import math
import signal
import time
from collections import defaultdict

import torch
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerCallback
from transformers.trainer_callback import ExportableState

from ..evaluation.predict import ModelPredictor
from .batches import BatchBuilder, PackedRows
from .validation import Validation


FLOOR = 0.02  # the learning rate ends at 2 % of its peak


class TimeBudget(TrainerCallback, ExportableState):
    """Ends a run when its minutes are used up; the learning rate follows the clock, so that it ends well wherever that is.

    Time spent before an interruption counts: it is saved with every checkpoint.
    """

    def __init__(self, minutes: float = 0.0, spent: float = 0.0):
        self.minutes, self.spent = minutes, spent
        self.started = time.monotonic()

    @property
    def elapsed(self) -> float:
        """Seconds used so far."""
        return self.spent + time.monotonic() - self.started

    @property
    def progress(self) -> float:
        """Share of the budget used, 0 without one."""
        return self.elapsed / (60 * self.minutes) if self.minutes else 0.0

    def state(self) -> dict:
        return {"args": {"minutes": self.minutes, "spent": self.elapsed}, "attributes": {}}

    def on_train_begin(self, args, state, control, **kwargs):
        if state.global_step:  # resumed: what the earlier run used counts
            self.spent += (state.stateful_callbacks.get("TimeBudget") or {}).get("args", {}).get("spent", 0.0)

    def on_step_end(self, args, state, control, **kwargs):
        if self.progress >= 1:
            control.should_training_stop = control.should_evaluate = control.should_save = True
        return control


class ValidateOften(TrainerCallback):
    """Asks for `evaluations` validations with checkpoints, evenly over steps or the time budget, whichever is further."""

    def __init__(self, budget: TimeBudget, evaluations: int):
        self.budget, self.evaluations, self.done = budget, evaluations, 0

    def _reached(self, state) -> int:
        progress = max(state.global_step / max(state.max_steps, 1), self.budget.progress)
        return int(min(progress, 1.0) * self.evaluations + 1e-9)

    def on_train_begin(self, args, state, control, **kwargs):
        self.done = self._reached(state)

    def on_step_end(self, args, state, control, **kwargs):
        reached = self._reached(state)
        if reached > self.done:
            self.done, control.should_evaluate, control.should_save = reached, True, True
        return control


class StopOnSignal(TrainerCallback):
    """SIGINT and SIGTERM end a run after the current step, with a checkpoint and the best model so far."""

    def __init__(self):
        self.caught: int | None = None
        self.previous: dict = {}

    def _handle(self, number, frame):
        if self.caught is not None:
            raise KeyboardInterrupt
        self.caught = number

    def on_train_begin(self, args, state, control, **kwargs):
        for number in (signal.SIGINT, signal.SIGTERM):
            try:
                self.previous[number] = signal.signal(number, self._handle)
            except ValueError:  # not the main thread: signals stay with whoever runs it
                return

    def on_step_end(self, args, state, control, **kwargs):
        if self.caught is not None:
            control.should_training_stop = control.should_save = True
        return control

    def on_train_end(self, args, state, control, **kwargs):
        for number, handler in self.previous.items():
            signal.signal(number, handler)


class EarlyStop(TrainerCallback, ExportableState):
    """Ends a run after `patience` validations without a better objective, and remembers the best one."""

    def __init__(self, patience: int = 0, best: float | None = None, worse: int = 0):
        self.patience, self.best, self.worse = patience, best, worse

    def state(self) -> dict:
        return {"args": {"patience": self.patience, "best": self.best, "worse": self.worse}, "attributes": {}}

    def on_train_begin(self, args, state, control, **kwargs):
        if state.global_step:
            saved = (state.stateful_callbacks.get("EarlyStop") or {}).get("args", {})
            self.best, self.worse = saved.get("best"), saved.get("worse", 0)

    def on_evaluate(self, args, state, control, metrics=None, **kwargs):
        value = (metrics or {}).get("eval_objective")
        if value is None:
            return control
        if self.best is None or value > self.best:
            self.best, self.worse = value, 0
        else:
            self.worse += 1
        if self.patience and self.worse >= self.patience:
            control.should_training_stop = True
        return control


class InterestTrainer(Trainer):
    """Trainer of an [`InterestModel`], bare or under PEFT."""

    def __init__(
        self,
        model,
        args,
        rows: PackedRows,
        builder: BatchBuilder,
        validation: Validation,
        budget: TimeBudget,
        **kwargs,
    ):
        self.rows, self.builder, self.validation, self.budget = rows, builder, validation, budget
        self.task_losses: dict[str, list[torch.Tensor]] = defaultdict(list)
        super().__init__(
            model=model, args=args, train_dataset=rows, eval_dataset=rows, data_collator=builder, **kwargs
        )
        # forward takes **kwargs for PEFT's sake, but knows nothing of num_items_in_batch
        self.model_accepts_loss_kwargs = False
        self.add_callback(budget)
        if args.evaluations and args.eval_strategy != "no":
            self.add_callback(ValidateOften(budget, args.evaluations))

    @property
    def interest_model(self):
        """The model below PEFT and distribution wrappers."""
        model = self.accelerator.unwrap_model(self.model)
        return model.get_base_model() if hasattr(model, "get_base_model") else model

    def get_train_dataloader(self) -> DataLoader:
        loader = DataLoader(
            self.rows,
            batch_size=self._train_batch_size,
            collate_fn=self.builder,
            num_workers=self.args.dataloader_num_workers,
            drop_last=len(self.rows) >= self._train_batch_size,
        )
        return self.accelerator.prepare(loader)

    def create_optimizer(self, model=None):
        """AdamW; matrices decay, gates, half-lives, norms and vectors do not; the text tower has its own learning rate."""
        if self.optimizer is None:
            groups: dict[tuple[bool, bool], list] = defaultdict(list)
            for name, parameter in self.model.named_parameters():
                if parameter.requires_grad:
                    groups["text_model" in name, parameter.ndim >= 2 and "statistics" not in name].append(parameter)
            self.optimizer = torch.optim.AdamW(
                [
                    {
                        "params": parameters,
                        "lr": self.args.text_learning_rate if text else self.args.learning_rate,
                        "weight_decay": self.args.weight_decay if decays else 0.0,
                    }
                    for (text, decays), parameters in groups.items()
                ],
                betas=(self.args.adam_beta1, self.args.adam_beta2),
                eps=self.args.adam_epsilon,
            )
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer=None):
        """Linear warm-up, then a cosine over steps or over the time budget, whichever is further."""
        if self.lr_scheduler is None:
            warmup = self.args.get_warmup_steps(num_training_steps)

            def factor(step: int) -> float:
                progress = max(step / max(num_training_steps, 1), self.budget.progress)
                cosine = FLOOR + (1 - FLOOR) * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
                return cosine * min(1.0, (step + 1) / max(warmup, 1))

            self.lr_scheduler = LambdaLR(optimizer or self.optimizer, factor)
        return self.lr_scheduler

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        output = model(**inputs)
        if model.training:
            for task, loss in output.losses.items():
                self.task_losses[task].append(loss)
        return (output.loss, output) if return_outputs else output.loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        for task, losses in self.task_losses.items():
            if losses and "loss" in logs:
                logs[f"loss_{task}"] = round(float(torch.stack(losses).mean()), 4)
        if "loss" in logs:
            self.task_losses.clear()
        super().log(logs, start_time)

    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix: str = "eval") -> dict[str, float]:
        """Our own figures on validation; a tuned text tower encodes all texts anew first."""
        model, tensors = self.interest_model, self.builder.tensors
        if self.builder.live_texts:
            tensors.refresh(model)
        predictor = ModelPredictor(model, tensors.processor, tensors.log, tensors=tensors)
        device = self.args.device.type
        with torch.autocast(device, dtype=torch.bfloat16, enabled=self.args.bf16):
            figures = self.validation(predictor)
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in figures.items()}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

"""transformers' Trainer for interest: packed batches, our own validation, a time budget, a clean stop on signals."""

from __future__ import annotations

import ctypes
import math
import signal
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TypeVar

import torch
from accelerate.utils import broadcast_object_list
from safetensors import safe_open
from safetensors.torch import save_file
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerCallback
from transformers.trainer_callback import ExportableState

from ..evaluation.predict import ModelPredictor
from .batches import BatchBuilder, PackedRows
from .validation import Validation


FLOOR = 0.02  # the learning rate ends at 2 % of its peak
HANDOVER = 0.4  # and at this share of it where a refit goes on from there
T = TypeVar("T")


def largest(value: float, args) -> float:
    """The largest `value` of all processes, on each of them: what clocks and signals say must be one thing everywhere."""
    if args.world_size == 1:
        return value
    shared = torch.tensor(value, dtype=torch.float64, device=args.device)
    torch.distributed.all_reduce(shared, op=torch.distributed.ReduceOp.MAX)
    return float(shared)


def said_by_first(say: Callable[[], T], args) -> T:
    """What `say` returns in the first process, on all of them."""
    said = [say() if args.process_index == 0 else None]
    broadcast_object_list(said)
    return said[0]


class TimeBudget(TrainerCallback, ExportableState):
    """Ends a run when its minutes are used up; the learning rate follows the clock, so that it ends well wherever that is.

    Time spent before an interruption counts: it is saved with every checkpoint. Several processes go by the clock that is
    furthest, read once a step, so that they have one learning rate and stop together.
    """

    def __init__(self, minutes: float = 0.0, spent: float = 0.0):
        self.minutes, self.spent = minutes, spent
        self.started = time.monotonic()
        self.agreed: float | None = None
        self.validation_seconds = 0.0  # that the last validation took

    @property
    def elapsed(self) -> float:
        """Seconds used so far."""
        return self.spent + time.monotonic() - self.started

    @property
    def progress(self) -> float:
        """Share of the budget used, 0 without one."""
        elapsed = self.elapsed if self.agreed is None else self.agreed
        return elapsed / (60 * self.minutes) if self.minutes else 0.0

    def agree(self, args) -> None:
        """Reads the clock for all processes; one alone reads its own whenever it wants to know."""
        if self.minutes and args.world_size > 1:
            self.agreed = largest(self.elapsed, args)

    def state(self) -> dict:
        return {"args": {"minutes": self.minutes, "spent": self.elapsed}, "attributes": {}}

    def on_train_begin(self, args, state, control, **kwargs):
        if state.global_step:  # resumed: what the earlier run used counts
            self.spent += (state.stateful_callbacks.get("TimeBudget") or {}).get("args", {}).get("spent", 0.0)
        self.agree(args)

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        self.agree(args)

    def on_step_end(self, args, state, control, **kwargs):
        if self.progress >= 1:
            control.should_training_stop = True
            control.should_evaluate |= args.eval_strategy != "no"
            control.should_save |= args.save_strategy != "no"
        return control


MOST_VALIDATION = 0.2  # share of a time budget that validations may take


class ValidateOften(TrainerCallback):
    """Asks for `evaluations` validations with checkpoints, evenly over steps or the time budget, whichever is further; after
    the first for fewer where they would take more than a fifth of the budget, as with a tuned text tower, which encodes all texts anew
    for each. The end of the budget asks for one of its own."""

    def __init__(self, budget: TimeBudget, evaluations: int):
        self.budget, self.evaluations, self.last = budget, evaluations, 0.0

    def _reached(self, state) -> float:
        """How far the run is, down to a whole number of validations."""
        progress = max(state.global_step / max(state.max_steps, 1), self.budget.progress)
        return int(min(progress, 1.0) * self.evaluations + 1e-9) / self.evaluations

    def on_train_begin(self, args, state, control, **kwargs):
        self.last = self._reached(state)

    def on_step_end(self, args, state, control, **kwargs):
        reached = self._reached(state)
        wait = 0.0
        if self.budget.minutes:
            wait = self.budget.validation_seconds / (60 * self.budget.minutes * MOST_VALIDATION)
        if reached > self.last and reached >= self.last + wait:
            self.last, control.should_evaluate, control.should_save = reached, True, True
        return control


class StopOnSignal(TrainerCallback):
    """SIGINT and SIGTERM end a run after the current step, with a checkpoint and the best model so far.

    One that reaches a single process ends them all.
    """

    def __init__(self):
        self.received: int | None = None
        self.caught: int | None = None
        self.previous: dict = {}

    def _handle(self, number, frame):
        if self.received is not None:
            raise KeyboardInterrupt
        self.received = number

    def on_train_begin(self, args, state, control, **kwargs):
        for number in (signal.SIGINT, signal.SIGTERM):
            try:
                self.previous[number] = signal.signal(number, self._handle)
            except ValueError:  # not the main thread: signals stay with whoever runs it
                return

    def on_step_end(self, args, state, control, **kwargs):
        self.caught = int(largest(self.received or 0, args)) or None
        if self.caught is not None:
            control.should_training_stop = True
            control.should_save |= args.save_strategy != "no"
        return control

    def on_train_end(self, args, state, control, **kwargs):
        for number, handler in self.previous.items():
            signal.signal(number, handler)


def part_figures(figures: dict[str, float]) -> dict[str, float]:
    """What a validation says of ranking and of domains, more is better; they may be at their best at different times.

    Completion has no say: it hides a part of histories that training has read, and a network that learns its people by heart
    gets better at it while its forecasts get worse.
    """
    names = [f"{name}_cross_entropy" for name in ("future", "next_event", "scene")]
    losses = [figures[name] for name in names if name in figures]
    parts = {"ranking": figures["ndcg@10"]} if "ndcg@10" in figures else {}
    return parts | ({"domains": -sum(losses)} if losses else {})


def part_errors(figures: dict[str, float]) -> dict[str, float]:
    """Standard errors of what a validation says of ranking and of all together, whose figure has the logarithm of NDCG@10 in it."""
    error = figures.get("ndcg@10_error", 0.0)
    return {"ranking": error, "whole": error / figures["ndcg@10"] if figures.get("ndcg@10") else 0.0}


class EarlyStop(TrainerCallback, ExportableState):
    """Ends a run after `patience` validations that are worse than the best: in their objective, or, with `by_part`, for ranking and for
    domains, each of which is kept from where it was best.

    A ranking that is behind its best by less than its standard error is no worse one, nor is it a better one: of few people a
    validation goes up and down by chance, and a long run would end before its learning rate falls.
    """

    def __init__(self, patience: int = 0, best: dict | None = None, worse: int = 0, by_part: bool = False):
        self.patience, self.best, self.worse, self.by_part = patience, dict(best or {}), worse, by_part

    def state(self) -> dict:
        names = ("patience", "best", "worse", "by_part")
        return {"args": {name: getattr(self, name) for name in names}, "attributes": {}}

    def on_train_begin(self, args, state, control, **kwargs):
        if state.global_step:
            saved = (state.stateful_callbacks.get("EarlyStop") or {}).get("args", {})
            # a checkpoint of an earlier version holds one number, of the objective
            best = saved.get("best")
            self.best, self.worse = dict(best) if isinstance(best, dict) else {}, saved.get("worse", 0)

    def on_evaluate(self, args, state, control, metrics=None, **kwargs):
        figures = {name.removeprefix("eval_"): value for name, value in (metrics or {}).items()}
        if "objective" not in figures:
            return control
        values = part_figures(figures) if self.by_part else {"whole": figures["objective"]}
        chance = part_errors(figures)
        better = {name: value for name, value in values.items() if value > self.best.get(name, -math.inf)}
        even = any(value > self.best.get(name, -math.inf) - chance.get(name, 0.0) for name, value in values.items())
        self.best |= better
        self.worse = 0 if better else self.worse + (not even)
        if self.patience and self.worse >= self.patience:
            control.should_training_stop = True
        return control


class ReturnMemory(TrainerCallback):
    """Gives freed memory back to the system every so many steps, where the C library can.

    Batches differ a little in shape, and the holes that they leave on the heap of the CPU add up over a long run.
    """

    def __init__(self, every: int = 20):
        self.every = every
        try:
            self.trim = ctypes.CDLL(None).malloc_trim
        except (AttributeError, OSError, TypeError):  # not the GNU C library
            self.trim = None

    def on_step_end(self, args, state, control, **kwargs):
        if self.trim is not None and state.global_step % self.every == 0:
            self.trim(0)


DOMAIN_MODULES = ("domain_head", "domain_view", "intensity_head", "next_event_head", "scene_head")


class WeightAverage(TrainerCallback):
    """Running average of the trained weights, whose memory grows with the run: what is validated, kept and saved at the end.

    After step t the average moves by `1 - (1 - 1 / t)^(gamma + 1)` towards the weights (Karras et al. 2024, eq. 123), so that
    its mean age is about `t / (gamma + 2)` steps, however long the run.

    With a domain view the layers behind ranking and those behind domains and intensity share next to nothing, and one may learn its people by
    heart long before the other is ready: each part is kept from the validation where its own figure was best.

    Args:
        gamma (`float`, *optional*, defaults to 12): 6 to 20; larger follows the weights more closely.
    """

    FILE = "average.safetensors"

    def __init__(self, gamma: float = 12.0):
        self.gamma = gamma
        self.average: dict[str, torch.Tensor] = {}
        self.best: dict[str, tuple[float, dict[str, torch.Tensor]]] = {}
        self.good_step: dict[str, int] = {}

    @staticmethod
    def part(name: str) -> str:
        """Which part of the model a parameter belongs to."""
        return "domains" if any(f"{module}." in name for module in DOMAIN_MODULES) else "ranking"

    def keep(self, figures: dict[str, float], step: int) -> None:
        """Keeps the parts that a validation after `step` finds better than before, all together where they share their layers, and
        remembers the last step after which a part was not behind its best by more than its standard error."""
        apart = any("domain_view." in name for name in self.average)
        whole = {"whole": figures["objective"]} if "objective" in figures else {}
        for part, value in (part_figures(figures) if apart else whole).items():
            if part not in self.best or value > self.best[part][0]:
                of_part = (name for name in self.average if part in ("whole", self.part(name)))
                self.best[part] = value, {name: self.average[name].clone() for name in of_part}
            if value >= self.best[part][0] - part_errors(figures).get(part, 0.0):
                self.good_step[part] = step

    def put_best(self, model) -> None:
        """Gives the model the best parts for good; what was never validated gets the latest average."""
        for _, kept in self.best.values():
            self.average |= kept
        self.put(model)

    def trained(self, model) -> dict[str, torch.Tensor]:
        """Trained weights, and the mean query that follows them."""
        trained = {name: parameter.data for name, parameter in model.named_parameters() if parameter.requires_grad}
        return trained | {name: value for name, value in model.named_buffers() if name.endswith(".center")}

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        trained = self.trained(model)
        if not self.average:
            self.average = {name: value.clone() for name, value in trained.items()}
        # one that was loaded lies in the memory of the CPU
        self.average = {name: value.to(trained[name].device) for name, value in self.average.items()}

    def on_step_end(self, args, state, control, model=None, **kwargs):
        decay = (1 - 1 / max(state.global_step, 1)) ** (self.gamma + 1)
        trained = self.trained(model)
        torch._foreach_lerp_(list(self.average.values()), [trained[name] for name in self.average], 1 - decay)

    def on_save(self, args, state, control, **kwargs):
        if state.is_world_process_zero:
            folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            tensors = {f"average/{name}": value for name, value in self.average.items()}
            for part, (_, kept) in self.best.items():
                tensors |= {f"{part}/{name}": value for name, value in kept.items()}
            values = {part: repr(value) for part, (value, _) in self.best.items()}
            values |= {f"{part}_step": str(step) for part, step in self.good_step.items()}
            save_file({name: value.contiguous() for name, value in tensors.items()}, folder / self.FILE, values)

    def load(self, folder: str | Path) -> None:
        """What a checkpoint was saved with."""
        with safe_open(Path(folder) / self.FILE, "pt") as file:
            values, parts = file.metadata() or {}, defaultdict(dict)
            for key in sorted(file.keys()):
                part, name = key.split("/", 1)
                parts[part][name] = file.get_tensor(key)
        self.average = parts.pop("average")
        self.best = {part: (float(values[part]), kept) for part, kept in parts.items()}
        # a checkpoint of an earlier version does not say when
        self.good_step = {part: int(values[f"{part}_step"]) for part in parts if f"{part}_step" in values}

    @contextmanager
    def swapped(self, model) -> Iterator[None]:
        """The model with the averaged weights; its own come back at the end."""
        trained = self.trained(model)
        own = {name: trained[name].clone() for name in self.average}
        self.put(model)
        try:
            yield
        finally:
            for name, value in own.items():
                trained[name].copy_(value)

    def put(self, model) -> None:
        """Gives the model the averaged weights for good."""
        trained = self.trained(model)
        for name, value in self.average.items():
            trained[name].copy_(value)


class ReadAsLeft(TrainerCallback):
    """A resumed run begins with the texts as its last validation read them."""

    def __init__(self, trainer: InterestTrainer):
        self.trainer = trainer

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        average = self.trainer.average
        if state.global_step:
            with nullcontext() if average is None else average.swapped(self.trainer.accelerator.unwrap_model(model)):
                self.trainer.read_texts()


class InterestTrainer(Trainer):
    """Trainer of an [`InterestModel`], bare or under PEFT.

    Beside the arguments of a `Trainer`:

    Args:
        rows, builder, validation, budget, average: what is trained on, batches of it, figures, the clock, averaged weights.
        floor (`float`, *optional*, defaults to .02): where the learning rate ends, as a share of its peak.
        domains_rate (`float`, *optional*, defaults to 1): what the learning rate of domains' parts is multiplied by.
    """

    def __init__(
        self,
        model,
        args,
        rows: PackedRows,
        builder: BatchBuilder,
        validation: Validation,
        budget: TimeBudget,
        average: WeightAverage | None = None,
        floor: float = FLOOR,
        domains_rate: float = 1.0,
        **kwargs,
    ):
        self.floor, self.domains_rate = floor, domains_rate
        self.rows, self.builder, self.validation, self.budget = rows, builder, validation, budget
        self.average = average
        self.task_losses: dict[str, list[torch.Tensor]] = defaultdict(list)
        super().__init__(
            model=model, args=args, train_dataset=rows, eval_dataset=rows, data_collator=builder, **kwargs
        )
        # forward takes **kwargs for PEFT's sake, but knows nothing of num_items_in_batch
        self.model_accepts_loss_kwargs = False
        self.add_callback(budget)
        self.add_callback(ReturnMemory())
        if average is not None:
            self.add_callback(average)
        self.add_callback(ReadAsLeft(self))
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
            drop_last=len(self.rows) >= self._train_batch_size * self.args.world_size,
        )
        return self.accelerator.prepare(loader)

    def create_optimizer(self, model=None):
        """AdamW; matrices decay, gates, half-lives, norms and vectors do not; the text tower has its own learning rate."""
        if self.optimizer is None:
            groups: dict[tuple[bool, bool, float], list] = defaultdict(list)
            for name, parameter in self.model.named_parameters():
                if parameter.requires_grad:
                    decays = parameter.ndim >= 2 and "statistics" not in name
                    factor = self.domains_rate if WeightAverage.part(name) == "domains" else 1.0
                    groups["text_model" in name, decays, factor].append(parameter)
            self.optimizer = torch.optim.AdamW(
                [
                    {
                        "params": parameters,
                        "lr": factor * (self.args.text_learning_rate if text else self.args.learning_rate),
                        "weight_decay": self.args.weight_decay if decays else 0.0,
                    }
                    for (text, decays, factor), parameters in groups.items()
                ],
                betas=(self.args.adam_beta1, self.args.adam_beta2),
                eps=self.args.adam_epsilon,
                fused=True,
            )
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer=None):
        """Linear warm-up, then a cosine over steps or over the time budget, whichever is further."""
        if self.lr_scheduler is None:
            warmup = self.args.get_warmup_steps(num_training_steps)
            self.budget.agree(self.args)

            def factor(step: int) -> float:
                progress = max(step / max(num_training_steps, 1), self.budget.progress)
                cosine = self.floor + (1 - self.floor) * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
                return cosine * min(1.0, (step + 1) / max(warmup, 1))

            self.lr_scheduler = LambdaLR(optimizer or self.optimizer, factor)
        return self.lr_scheduler

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        output = model(**inputs)
        if model.training and self.args.world_size > 1:  # each has followed the queries of its own rows
            for name, buffer in self.interest_model.named_buffers():
                if name.endswith(".center"):
                    torch.distributed.all_reduce(buffer)
                    buffer /= self.args.world_size
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

    def read_texts(self) -> None:
        """Encodes all texts anew where the text tower is tuned; the first process fills the cache that the others read."""
        if self.builder.live_texts:
            with self.args.main_process_first(desc="texts"):
                self.builder.tensors.refresh(self.interest_model)

    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix: str = "eval") -> dict[str, float]:
        """Our own figures on validation; a tuned text tower encodes all texts anew first."""
        started = time.monotonic()
        model, tensors = self.interest_model, self.builder.tensors
        device = self.args.device.type
        wrapped = self.accelerator.unwrap_model(self.model)
        with nullcontext() if self.average is None else self.average.swapped(wrapped):
            self.read_texts()
            predictor = ModelPredictor(model, tensors.processor, tensors.log, tensors=tensors)
            with torch.autocast(device, dtype=torch.bfloat16, enabled=self.args.bf16):
                figures = said_by_first(lambda: self.validation(predictor), self.args)
        self.budget.validation_seconds = largest(time.monotonic() - started, self.args)
        if self.average is not None:
            self.average.keep(figures, self.state.global_step)
        progress = max(self.state.global_step / max(self.state.max_steps, 1), self.budget.progress)
        figures["progress"] = min(progress, 1.0)
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in figures.items()}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

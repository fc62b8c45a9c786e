"""What a fine-tuning can be told."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from transformers import TrainingArguments

from ..modeling_interest import BUNDLED_BACKBONE


LEAST_MINUTES, MOST_MINUTES = 6.5, 55.0  # of a budget that follows the number of events
TUNINGS = ("frozen", "lora", "top-layers", "full")


def minutes_for(rate: float, events: int) -> float:
    """The time budget of a log with so many training events at `rate` minutes per 100,000 of them, 0 for none."""
    return round(min(max(rate * events / 100_000, LEAST_MINUTES), MOST_MINUTES), 1) if rate else 0.0


@dataclass
class InterestTrainingArguments(TrainingArguments):
    """[`TrainingArguments`] with the defaults of interest training, and what a run needs beside them."""

    output_dir: str | None = field(default=None, metadata={"help": "Folder of the checkpoint."})
    data: str | None = field(default=None, metadata={"help": "Interest dataset, from `interest-lm prepare`."})
    streaming: bool = field(
        default=False, metadata={"help": "Read a dataset of the Hub as a stream: its tables never lie on disk."}
    )
    backbone: str = field(default=BUNDLED_BACKBONE, metadata={"help": "Text encoder or decoder: Hub id or folder."})
    overwrite: bool = field(default=False, metadata={"help": "Replace an existing output folder."})
    tuning: str = field(
        default="lora", metadata={"help": f"What of the text tower trains: one of {', '.join(TUNINGS)}."}
    )
    max_minutes: float | None = field(
        default=None,
        metadata={
            "help": "Time budget in minutes for texts, training and validation; what is chosen after it comes on top; 0: none; "
            "default: by `minutes_per_100k_events`."
        },
    )
    minutes_per_100k_events: float = field(
        default=0.0,
        metadata={"help": "Time budget per 100,000 training events, 6.5 to 55 minutes in all; 0: none."},
    )
    hidden_size: int | None = field(
        default=None,
        metadata={"help": "Interest width D; default: 128, 256 from 500,000 training events on without domains."},
    )
    encoder: str = field(default="transformer", metadata={"help": "What reads the history: transformer, gru or lstm."})
    num_hidden_layers: int = field(default=2, metadata={"help": "Layers of the history encoder."})
    num_attention_heads: int | None = field(
        default=None, metadata={"help": "Heads of the history encoder; default: 2, 4 from a width of 256 on."}
    )
    intermediate_size: int | None = field(
        default=None, metadata={"help": "Width of its SwiGLU; default: 256, or twice the width where that is more."}
    )
    hidden_dropout: float | None = field(
        default=None,
        metadata={"help": "Dropout on events and residual branches; default: .2 to .5, more for few events per item."},
    )
    domain_dropout: float = field(
        default=0.2, metadata={"help": "The same where the history is read as a sequence of domains."}
    )
    item_id_dropout: float = field(
        default=0.1, metadata={"help": "Share of items without their own vector in a batch."}
    )
    use_item_ids: bool = field(default=True, metadata={"help": "Known items have a vector of their own."})
    use_text: bool = field(default=True, metadata={"help": "Item vectors see the text."})
    use_domain_view: bool = field(
        default=True, metadata={"help": "Domains are read through layers of their own, at twice the time per step."}
    )
    use_personal_popularity: bool = field(
        default=True, metadata={"help": "What is popular and new counts more for some people than for others."}
    )
    popularity_units: int = field(
        default=16,
        metadata={"help": "Hidden units of what popularity and age are worth; 0: a linear sum of their logarithms."},
    )
    use_centered_queries: bool | None = field(
        default=None,
        metadata={
            "help": "What everybody has in common is left to popularity; default: where the log is split by time."
        },
    )
    use_positions: bool = field(default=True, metadata={"help": "Attention knows the order of events."})
    use_time_bias: bool = field(default=True, metadata={"help": "Attention knows the time between events."})
    ranking_loss: str = field(default="softmax", metadata={"help": "softmax or gbce."})
    gbce_calibration: float = field(default=0.75, metadata={"help": "t of gBCE."})
    label_smoothing: float = field(
        default=0.0, metadata={"help": "Share of the next item's label that all items get."}
    )
    temperature: float = field(default=1.0, metadata={"help": "Where the learned temperature of scores starts."})
    max_history: int = field(default=200, metadata={"help": "Events that the encoder sees; slots of a packed row."})
    max_text_tokens: int = field(default=48, metadata={"help": "Tokens per text."})
    horizons: list[float] | None = field(default=None, metadata={"help": "Forecast horizons; default: from the log."})
    horizon_unit: str | None = field(default=None, metadata={"help": "days or events; default: from the log."})
    reference_horizon: float | None = field(default=None, metadata={"help": "W; default: the longest horizon."})
    task_weights: str | None = field(
        default="future=6,completion=2,ahead=1.5,change=3",
        metadata={"help": "Lambdas as task=weight, comma-separated; 0 switches a task off."},
    )
    task_weighting: str = field(default="fixed", metadata={"help": "fixed or uncertainty."})
    num_neighbours: int = field(
        default=128, metadata={"help": "Entries per item of the linear model blended into the ranking; 0: no blend."}
    )
    cuts_per_row: int | None = field(
        default=None,
        metadata={
            "help": "Queries per packed row for future and intensity; default: 4 to 24, fewer for many domains."
        },
    )
    impressions_per_row: int = field(
        default=4, metadata={"help": "Impressions per packed row, where the log says what was shown; 0: none."}
    )
    completions_per_row: float = field(
        default=0.125, metadata={"help": "Rows of half-hidden histories per packed row."}
    )
    sampled_items: int = field(default=4096, metadata={"help": "Items per step where the catalogue is large."})
    full_softmax_items: int = field(default=6000, metadata={"help": "Largest catalogue ranked whole in every step."})
    log_q: bool = field(default=True, metadata={"help": "Sampled items are corrected by their chance to be sampled."})
    prior_steps: int = field(default=240, metadata={"help": "Steps that fit the statistical prior before training."})
    lora_rank: int = field(default=8, metadata={"help": "Rank of the LoRA matrices."})
    lora_alpha: float = field(default=16.0, metadata={"help": "Scale of the LoRA matrices."})
    lora_dropout: float = field(default=0.05, metadata={"help": "Dropout before the LoRA matrices."})
    live_texts: int = field(
        default=24, metadata={"help": "Texts through the text tower in a step that trains it; the others are cached."}
    )
    live_every: int = field(default=8, metadata={"help": "One step in so many trains the text tower, on average."})
    text_learning_rate: float = field(default=2e-4, metadata={"help": "Learning rate of the text tower."})
    refit_share: float = field(
        default=0.35,
        metadata={"help": "Last part of the run, which trains on the validation events too; 0: none."},
    )
    average_gamma: float = field(
        default=12.0,
        metadata={"help": "Weights are averaged over the last 1 / (gamma + 2) of the run; 0: not at all."},
    )
    evaluations: int = field(default=8, metadata={"help": "Validations per run, where eval_steps is not given."})
    patience: int = field(default=3, metadata={"help": "Clearly worse validations that end the run; 0: never."})
    max_eval_users: int = field(
        default=0, metadata={"help": "Users in a validation; 0: 1,000 to 4,000, by the number of training events."}
    )
    cache_dir: str | None = field(default=None, metadata={"help": "Folder that keeps text vectors across runs."})
    baselines: str = field(
        default="short", metadata={"help": "Baselines of the closing evaluation: all, short or none."}
    )

    learning_rate: float = field(default=2e-3, metadata={"help": "Peak learning rate."})
    weight_decay: float = field(default=0.01, metadata={"help": "Weight decay of matrices."})
    adam_beta2: float = field(default=0.98, metadata={"help": "Second AdamW beta."})
    warmup_steps: float = field(default=0.05, metadata={"help": "Warm-up: steps, or a share below 1."})
    num_train_epochs: float = field(
        default=0.0, metadata={"help": "Passes over the events; 0: derived from their number."}
    )
    per_device_train_batch_size: int = field(
        default=0, metadata={"help": "Packed rows per step; 0: derived from the log."}
    )
    remove_unused_columns: bool = field(
        default=False, metadata={"help": "Kept False: batches are made by the collator."}
    )
    logging_steps: float = field(default=50, metadata={"help": "Steps between progress lines."})
    save_total_limit: int | None = field(default=2, metadata={"help": "Checkpoints kept."})
    bf16: bool = field(default=True, metadata={"help": "bfloat16 autocast."})
    ddp_broadcast_buffers: bool | None = field(
        default=False,
        metadata={
            "help": "Kept False: buffers (popularity, neighbours) do not change in training, or are shared by the trainer."
        },
    )

    def __post_init__(self):
        if self.tuning not in TUNINGS:
            raise ValueError(f"`tuning` is {self.tuning!r}, expected one of {', '.join(TUNINGS)}")
        for name in ("max_minutes", "minutes_per_100k_events"):
            if (minutes := getattr(self, name)) is not None and not minutes >= 0:
                raise ValueError(f"`{name}` is {minutes}, expected 0 or more")
        if self.live_every < 1:
            raise ValueError(f"`live_every` is {self.live_every}, expected 1 or more")
        if not 0 <= self.refit_share < 1:
            raise ValueError(f"`refit_share` is {self.refit_share}, expected a share from 0 to below 1")
        if not torch.cuda.is_available():
            self.use_cpu = True
        self.report_to = self.report_to or "none"
        output_dir = self.output_dir
        super().__post_init__()
        self.output_dir = output_dir  # transformers would fill in one: a run must be told where to write

    def recipe(self) -> dict[str, object]:
        """What the run was told or derived, for the card: every setting of this class but files and what repeats elsewhere."""
        elsewhere = {"output_dir", "data", "cache_dir", "overwrite", "backbone", "tuning", "baselines"}
        lora = self.tuning == "lora"
        names = [name for name in InterestTrainingArguments.__annotations__ if name not in elsewhere]
        return {name: getattr(self, name) for name in names if lora or not name.startswith("lora_")}

    def minutes(self, events: int) -> float:
        """The time budget of a run on so many training events, 0 for none."""
        return minutes_for(self.minutes_per_100k_events, events) if self.max_minutes is None else self.max_minutes

    def lambdas(self) -> dict[str, float] | None:
        """`task_weights` as a dictionary.

        Raises:
            ValueError: an entry that is not `task=weight`.
        """
        if not self.task_weights:
            return None
        weights = {}
        for entry in self.task_weights.split(","):
            task, _, weight = entry.partition("=")
            try:
                weights[task.strip()] = float(weight)
            except ValueError:
                raise ValueError(f"`task_weights` has {entry!r}, expected task=weight") from None
        return weights

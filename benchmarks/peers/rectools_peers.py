"""SASRec, eSASRec and HSTU of RecTools.

Three things differ from RecTools as it comes, all to the peers' advantage: long histories train in several windows instead of
by their last events alone; the loss is the same but is not computed at padded positions, which takes most of the time; and
HSTU's attention asks with the time of the last event, in training too, because a question does not tell that of its answer.
"""

from __future__ import annotations

import logging
import warnings

import numpy as np
import pandas as pd
import torch
from pytorch_lightning import Trainer, seed_everything
from questions import Events, Questions
from rectools import Columns
from rectools.dataset import Dataset
from rectools.models import SASRecModel
from rectools.models.nn.transformers.hstu import HSTUModel, RelativeAttentionBias, STULayers
from rectools.models.nn.transformers.lightning import TransformerLightningModule
from rectools.models.nn.transformers.ligr import LiGRLayers


NEGATIVES = 256  # of eSASRec
TEMPERATURE = 0.05  # of HSTU's cosines, as its authors have it

warnings.filterwarnings("ignore")
for name in ("pytorch_lightning", "lightning", "lightning_fabric"):
    logging.getLogger(name).setLevel(logging.ERROR)


class RealPositions(TransformerLightningModule):
    """The softmax loss, over all items or over the next one and negatives, computed where there is a next item."""

    def training_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> torch.Tensor:
        real = batch["y"] != 0
        answers, candidates = batch["y"][real], None
        if self._requires_negatives:
            candidates = torch.cat([answers.unsqueeze(-1), batch["negatives"][real]], dim=-1)
            answers = torch.zeros_like(answers)
        items = self.torch_model.item_model.get_all_embeddings()
        sessions = self.torch_model.encode_sessions(batch, items)[real]
        logits = self.torch_model.similarity_module(sessions, items, candidates) / self.logits_t
        return torch.nn.functional.cross_entropy(logits, answers)


class KnownTimeBias(RelativeAttentionBias):
    """Time between an event and each one before it, rather than between the next event and them."""

    def forward_time_attention(self, all_timestamps: torch.Tensor) -> torch.Tensor:
        own = all_timestamps[:, :-1]
        gaps = own.unsqueeze(2) - own.unsqueeze(1)
        buckets = self._quantization_func(gaps).clamp(min=0, max=self.num_buckets)
        return torch.index_select(self.time_weights, 0, buckets.flatten()).view(gaps.shape)


class KnownTimeLayers(STULayers):
    """HSTU's layers with [`KnownTimeBias`]."""

    def __init__(self, session_max_len: int, relative_time_attention: bool, relative_pos_attention: bool, **kwargs):
        options = {
            "session_max_len": session_max_len,
            "relative_time_attention": relative_time_attention,
            "relative_pos_attention": relative_pos_attention,
        }
        super().__init__(**options, **kwargs)
        for block in self.stu_blocks:
            block.rel_attn = KnownTimeBias(**options)


def quiet_trainer() -> Trainer:
    """A trainer without files and bars; `fit_partial` sets the epochs."""
    return Trainer(
        max_epochs=1,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        logger=False,
    )


def _frame(row: np.ndarray, event: np.ndarray, events: Events) -> pd.DataFrame:
    return pd.DataFrame(
        {
            Columns.User: row,
            Columns.Item: events.item[event],
            Columns.Datetime: pd.to_datetime(events.time[event], unit="s"),
            Columns.Weight: 1.0,
        }
    )


class RecToolsPeer:
    """A transformer of RecTools that trains on in steps and answers questions.

    Args:
        peer (`str`): `sasrec`, `esasrec` or `hstu`.
        events (`Events`): the data.
        last_split (`int`): train on the events up to this split.
        setting (`dict`): `width`, `dropout`, `length`, `batch`.
        seed (`int`): of the weights and of the order of training.
    """

    def __init__(self, peer: str, events: Events, last_split: int, setting: dict, seed: int):
        self.events, self.seed = events, seed
        runs = events.windows(last_split, setting["length"] + 1)
        row = np.repeat(np.arange(len(runs)), [len(run) for run in runs])
        self.dataset = Dataset.construct(_frame(row, np.concatenate(runs), events))
        options = {
            "n_factors": setting["width"],
            "dropout_rate": setting["dropout"],
            "session_max_len": setting["length"],
            "batch_size": setting["batch"],
            "lr": setting["learning_rate"],
            "n_blocks": 2,
            "n_heads": max(1, setting["width"] // 32),
            "loss": "softmax",
            "lightning_module_type": RealPositions,
            "get_trainer_func": quiet_trainer,
        }
        if peer == "esasrec":
            options |= {"transformer_layers_type": LiGRLayers, "loss": "sampled_softmax", "n_negatives": NEGATIVES}
        seed_everything(seed)
        if peer == "hstu":
            options |= {
                "transformer_layers_type": KnownTimeLayers,
                "lightning_module_kwargs": {"logits_t": TEMPERATURE},
            }
            self.model = HSTUModel(**options)
        else:
            self.model = SASRecModel(**options)

    def train(self, epochs: int) -> None:
        """So many epochs more."""
        self.model.fit_partial(self.dataset, min_epochs=epochs, max_epochs=epochs)

    def lists(self, questions: Questions, top: int, filter_seen: bool) -> np.ndarray:
        """`(Q, top)` codes of items, best first, -1 where there is none; each question is a user of its own."""
        row, event = questions.flat()
        keep = self.events.item[event] >= 0
        frame = _frame(row[keep], event[keep], self.events)
        asked = frame[Columns.User].unique()
        context = None
        if self.model.require_recommend_context:
            at = pd.to_datetime(questions.frame["at"].to_numpy()[asked], unit="s")
            context = pd.DataFrame({Columns.User: asked, Columns.Datetime: at, Columns.Weight: 1.0})
        found = self.model.recommend(
            asked,
            Dataset.construct(frame),
            k=top,
            filter_viewed=filter_seen,
            on_unsupported_targets="ignore",
            context=context,
        )
        lists = np.full((len(questions), top), -1, dtype=np.int64)
        lists[found[Columns.User].to_numpy(dtype=np.int64), found[Columns.Rank].to_numpy() - 1] = found[Columns.Item]
        return lists

"""GRU4Rec of RecBole: its model class and loss, in a plain training loop.

RecBole's own data files and trainer are left out. They would train on every prefix of a history one by one; here one pass
over a history gives the loss of all its prefixes at once, which is the same sum (a GRU sees no later event).
"""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import torch
from questions import Events, Questions
from recbole.model.sequential_recommender.gru4rec import GRU4Rec


FIELDS = {
    "USER_ID_FIELD": "user_id",
    "ITEM_ID_FIELD": "item_id",
    "LIST_SUFFIX": "_list",
    "ITEM_LIST_LENGTH_FIELD": "item_length",
    "NEG_PREFIX": "neg_",
    "device": "cpu",
}


def _padded(runs: list[np.ndarray]) -> tuple[torch.Tensor, torch.Tensor]:
    """Sequences padded with 0 on the right, as the model expects them, and their lengths."""
    length = torch.tensor([len(run) for run in runs])
    sequences = torch.zeros(len(runs), int(length.max()), dtype=torch.long)
    for row, run in enumerate(runs):
        sequences[row, : len(run)] = torch.from_numpy(run)
    return sequences, length


class GRU4RecPeer:
    """GRU4Rec that trains on in steps and answers questions; takes what `RecToolsPeer` takes."""

    def __init__(self, peer: str, events: Events, last_split: int, setting: dict, seed: int):
        self.events, self.setting = events, setting
        runs = events.windows(last_split, setting["length"] + 1)
        known = np.unique(events.item[np.concatenate(runs)])
        self.known = known
        self.token = np.zeros(len(events.item_ids) + 1, dtype=np.int64)  # 0 pads; the last entry is that of no item
        self.token[known] = np.arange(1, len(known) + 1)
        self.runs = [self.token[events.item[run]] for run in runs]
        torch.manual_seed(seed)
        self.order = np.random.default_rng(seed)
        config = FIELDS | {
            "MAX_ITEM_LIST_LENGTH": setting["length"],
            "embedding_size": setting["width"],
            "hidden_size": 2 * setting["width"],  # 128 for 64, as RecBole has it
            "num_layers": 1,
            "dropout_prob": setting["dropout"],
            "loss_type": "CE",
        }
        self.model = GRU4Rec(config, SimpleNamespace(num=lambda field: len(known) + 1))
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=setting["learning_rate"])

    def train(self, epochs: int) -> None:
        """So many epochs more."""
        model = self.model.train()
        for _ in range(epochs):
            order = self.order.permutation(len(self.runs))
            for start in range(0, len(order), self.setting["batch"]):
                sequences, _ = _padded([self.runs[row] for row in order[start : start + self.setting["batch"]]])
                inputs, targets = sequences[:, :-1], sequences[:, 1:]
                states, _ = model.gru_layers(model.emb_dropout(model.item_embedding(inputs)))
                logits = model.dense(states[targets > 0]) @ model.item_embedding.weight.T
                loss = model.loss_fct(logits, targets[targets > 0])
                self.optimizer.zero_grad()
                loss.backward()
                self.optimizer.step()

    @torch.inference_mode()
    def lists(self, questions: Questions, top: int, filter_seen: bool) -> np.ndarray:
        """`(Q, top)` codes of items, best first, -1 where there is none."""
        model = self.model.eval()
        lists = np.full((len(questions), top), -1, dtype=np.int64)
        histories = [
            self.token[self.events.item[start:stop]]
            for start, stop in zip(questions.start, questions.stop, strict=True)
        ]
        histories = [history[history > 0] for history in histories]
        asked = np.array([row for row, history in enumerate(histories) if len(history)])
        asked = asked[np.argsort([len(histories[row]) for row in asked], kind="stable")]
        for start in range(0, len(asked), 256):
            rows = asked[start : start + 256]
            sequences, length = _padded([histories[row][-self.setting["length"] :] for row in rows])
            scores = model.full_sort_predict({model.ITEM_SEQ: sequences, model.ITEM_SEQ_LEN: length})
            scores[:, 0] = -torch.inf
            if filter_seen:
                for row, question in enumerate(rows):
                    scores[row, histories[question]] = -torch.inf
            best = scores.topk(min(top, scores.shape[1]), dim=1)
            codes = np.where(best.values.isfinite().numpy(), self.known[best.indices.clamp(min=1).numpy() - 1], -1)
            lists[rows, : codes.shape[1]] = codes
        return lists

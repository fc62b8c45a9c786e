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
"""Processor of InterestLM: histories and candidates as dictionaries to the tensors that the model reads."""

import math
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

import numpy as np
import torch
from transformers import BatchFeature, ProcessorMixin

from .taxonomy_interest import SCENE_RULES, DomainTree, scene_codes


def item_sentence(
    title: str | None, text: str | None = None, categories: Iterable[Sequence[str]] | None = None
) -> str:
    """The one text that stands for an item: title, names of its categories, description.

    Example:

    ```python
    >>> item_sentence("Heat (1995)", "A duel.", [["Film", "Crime"]])
    'Heat (1995). Film, Crime. A duel.'

    ```
    """
    names = ", ".join(dict.fromkeys(name for path in categories or [] for name in path))
    return ". ".join(part.strip().rstrip(".") for part in (title, names) if part and part.strip()) + (
        f". {text.strip()}" if text and text.strip() and (title or names) else (text or "").strip()
    )


def is_number(value) -> bool:
    """A number of Python or numpy, NaN and infinity included."""
    return isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)


def parse_time(value, where: str) -> int:
    """int64 seconds from seconds or an ISO date (UTC where it names no zone)."""
    if isinstance(value, str):
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            raise ValueError(f"{where} is {value!r}, expected seconds since 1970 or an ISO date") from None
        moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        if moment.timestamp() < 0:
            raise ValueError(f"{where} is {value!r}, expected a moment since 1970")
        return math.floor(moment.timestamp())
    if not is_number(value):
        raise ValueError(f"{where} is {value!r}, expected seconds since 1970 or an ISO date")
    if not math.isfinite(value) or value < 0 or value >= 2**62:
        raise ValueError(f"{where} is {value!r}, expected seconds since 1970, 0 or more")
    return int(value)


class Table:
    """Distinct rows in order of appearance."""

    def __init__(self):
        self.rows: dict = {}

    def add(self, row) -> int:
        return self.rows.setdefault(row, len(self.rows))

    def __iter__(self):
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)


def add_item(item: tuple | None, texts: Table, items: Table) -> int:
    """Row of an item in the table of items, its text put into the table of texts; -1 for none."""
    return -1 if item is None else items.add((texts.add(item[0]), *item[1:]))


class InterestProcessor(ProcessorMixin):
    r"""
    Turns histories into the batch of an [`InterestModel`]: a table of distinct texts, a table of distinct items, indexes.

    Args:
        tokenizer (`PreTrainedTokenizerBase`): tokenizer of the text backbone.
        domains (`list[dict]`, *optional*): nodes of the domain tree, as in the model's config.
        item_ids (`list[str]`, *optional*): ids of the items with a vector of their own, in the model's order.
        actions (`list[str]`, *optional*): names of the actions, as in the model's config.
        scenes (`list[str]`, *optional*): names of the scenes, as in the model's config.
        scene_rule (`str`, *optional*): how scenes follow from the time, as in the model's config; an event's own `scene` counts
            before it.
        max_history (`int`, *optional*, defaults to 200): events that travel one by one; older ones are counted.
        max_text_tokens (`int`, *optional*, defaults to 48): tokens per text.
        time_unit (`str`, *optional*, defaults to `"seconds"`): `"seconds"` or `"order"`, as in the model's config.
    """

    attributes = ["tokenizer"]
    tokenizer_class = "AutoTokenizer"

    def __init__(
        self,
        tokenizer=None,
        domains=None,
        item_ids=None,
        actions=None,
        max_history=200,
        max_text_tokens=48,
        time_unit="seconds",
        scenes=None,
        scene_rule=None,
        **kwargs,
    ):
        self.domains = domains
        self.item_ids = item_ids
        self.actions = actions
        self.max_history = max_history
        self.max_text_tokens = max_text_tokens
        self.time_unit = time_unit
        self.scenes = scenes
        self.scene_rule = scene_rule
        if scene_rule is not None and scene_rule not in SCENE_RULES:
            raise ValueError(f"`scene_rule` is {scene_rule!r}, expected one of {', '.join(SCENE_RULES)}")
        self.tree = DomainTree(domains) if domains else None
        self.item_index = {item_id: number for number, item_id in enumerate(item_ids or [])}
        super().__init__(tokenizer, **kwargs)
        # a cut tokenizer pads on the right: the model counts on it
        self.tokenizer.padding_side = "right"
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token or self.tokenizer.unk_token

    @classmethod
    def from_model(cls, model, tokenizer, item_ids=None, max_text_tokens: int = 48):
        """The processor that fits a model's config."""
        config = model.config
        return cls(
            tokenizer,
            domains=config.domains,
            item_ids=None if item_ids is None else [str(item_id) for item_id in item_ids],
            actions=config.actions,
            max_history=config.max_history,
            max_text_tokens=max_text_tokens,
            time_unit=config.time_unit,
            scenes=config.scenes,
            scene_rule=config.scene_rule,
        )

    def to_dict(self):
        """What `processor_config.json` holds."""
        fields = super().to_dict()
        for derived in ("tree", "item_index"):
            fields.pop(derived, None)
        return fields

    @property
    def model_input_names(self):
        return ["history", "history_times", "item_input_ids", "item_attention_mask"]

    def membership(self, paths: Iterable[Sequence[str]]) -> dict[int, float]:
        """Domain weights of an item with these category paths, see [`DomainTree.membership`]."""
        return self.tree.membership(paths) if self.tree is not None else {}

    def tokenize(self, texts: Sequence[str]) -> dict[str, torch.Tensor]:
        """`item_input_ids` and `item_attention_mask`, `(len(texts), L)`."""
        inputs = self.tokenizer(
            list(texts), padding=True, truncation=True, max_length=self.max_text_tokens, return_tensors="pt"
        )
        ids, mask = inputs["input_ids"].long(), inputs["attention_mask"].long()
        if not ids.shape[1]:
            ids = mask = torch.zeros(len(ids), 1, dtype=torch.int64)
        # without a start token an empty text has no token at all: one padding token stands for it
        empty = mask.sum(1) == 0
        ids, mask = ids.clone(), mask.clone()
        ids[empty, 0], mask[empty, 0] = self.tokenizer.pad_token_id, 1
        return {"item_input_ids": ids, "item_attention_mask": mask}

    def _item(self, entry: dict, text_key: str, where: str) -> tuple | None:
        """Text, number and category paths of an item, None where the entry describes none."""
        for key in ("title", text_key, "item_id"):
            value = entry.get(key)
            number = key == "item_id" and isinstance(value, (int, np.integer))
            if value is not None and not isinstance(value, str) and not number:
                raise ValueError(f"{where}: `{key}` is {value!r}, expected a string")
        categories = entry.get("categories")
        if categories is not None and not (
            isinstance(categories, (list, tuple))
            and all(isinstance(path, (list, tuple)) and all(isinstance(n, str) for n in path) for path in categories)
        ):
            raise ValueError(f"{where}: `categories` is {categories!r}, expected a list of paths (lists of names)")
        paths = tuple(tuple(path) for path in categories or ())
        sentence = item_sentence(entry.get("title"), entry.get(text_key), paths)
        if not sentence:
            return None
        identifier = entry.get("item_id")
        number = -1 if identifier is None else self.item_index.get(str(identifier), -1)
        return sentence, number, paths

    def _event(self, event: dict, where: str) -> dict:
        if not isinstance(event, dict):
            raise ValueError(f"{where} is {event!r}, expected a dictionary")
        if "timestamp" not in event:
            raise ValueError(f"{where} has no `timestamp`, expected seconds since 1970, an ISO date or a position")
        own = event.get("text")
        if own is not None and not isinstance(own, str):
            raise ValueError(f"{where}: `text` is {own!r}, expected a string")
        item = self._item(event, "item_text", where)
        if item is None and not (own and own.strip()):
            raise ValueError(f"{where} describes nothing, expected a `title`, an `item_text` or a `text`")
        value = event.get("value")
        if value is not None and not (is_number(value) and math.isfinite(value)):
            raise ValueError(f"{where}: `value` is {value!r}, expected a finite number")
        place = event.get("latitude"), event.get("longitude")
        if place != (None, None):
            for part, largest in zip(place, (90, 180), strict=True):
                if part is None or not is_number(part) or not math.isfinite(part) or abs(part) > largest:
                    raise ValueError(f"{where}: `latitude`, `longitude` are {place!r}, expected degrees")
        action, scene = event.get("action"), event.get("scene")
        if scene is not None and not isinstance(scene, str):
            raise ValueError(f"{where}: `scene` is {scene!r}, expected a string")
        time = parse_time(event["timestamp"], f"{where}: `timestamp`")
        if scene is None and self.scene_rule:
            scene = SCENE_RULES[self.scene_rule][int(scene_codes(time, self.scene_rule))]
        return {
            "time": time,
            "item": item,
            "text": own.strip() if own else "",
            "value": math.nan if value is None else float(value),
            "action": self.actions.index(action) if self.actions and action in self.actions else -1,
            "scene": self.scenes.index(scene) if self.scenes and scene in self.scenes else -1,
            "place": (math.nan, math.nan) if place[0] is None else place,
        }

    def __call__(  # pyright: ignore[reportIncompatibleMethodOverride]  histories, not images and audio
        self, histories=None, candidates=None, at=None, return_tensors="pt", **kwargs
    ) -> BatchFeature:
        """
        Args:
            histories (`list[list[dict]]`): per user the events, any order. An event has `timestamp` and describes the
                thing by `title`, `item_text`, `categories` (list of paths), `item_id`; `text` is the person's own words;
                `value`, `action`, `scene`, `latitude`, `longitude` may be given. An empty history is answered with the population.
            candidates (`list[list[dict]]`, *optional*): per user the things to score: `title`, `text`, `categories`,
                `item_id`.
            at (`list`, *optional*): per user the moment asked about, seconds or ISO date; later events are left out.
                Default: the last event's time.
            return_tensors (`str`, *optional*, defaults to `"pt"`): only `"pt"`.

        Returns:
            [`BatchFeature`] of tensors for [`InterestModel.forward`]; B users, T events, N items, C candidates.

        Raises:
            ValueError: an entry that cannot be read; the message names user, event, field and value.
        """
        if kwargs:
            raise ValueError(f"unknown arguments {sorted(kwargs)}, expected histories, candidates, at, return_tensors")
        if return_tensors != "pt":
            raise ValueError(f'`return_tensors` is {return_tensors!r}, expected "pt"')
        if not isinstance(histories, (list, tuple)) or any(
            not isinstance(events, (list, tuple)) for events in histories
        ):
            raise ValueError("`histories` is no list of lists of events, expected one list per user")
        for name, given in (("candidates", candidates), ("at", at)):
            if given is not None and (not isinstance(given, (list, tuple)) or len(given) != len(histories)):
                raise ValueError(f"`{name}` is {given!r:.80}, expected one entry for each of {len(histories)} users")
        users, moments = [], []
        for user, history in enumerate(histories):
            events = [self._event(event, f"histories[{user}][{position}]") for position, event in enumerate(history)]
            events.sort(key=lambda event: event["time"])
            moment = None if at is None or at[user] is None else parse_time(at[user], f"at[{user}]")
            if moment is not None:
                events = [event for event in events if event["time"] <= moment]
            moments.append(moment if moment is not None else events[-1]["time"] if events else 0)
            users.append(events)
        # only what the model sees is tokenised: no event after the moment, none that is counted alone
        texts, items = Table(), Table()
        for event in (event for events in users for event in events[-self.max_history :]):
            event["row"] = add_item(event["item"], texts, items)
            event["text_row"] = texts.add(event["text"]) if event["text"] else -1
        rows = []
        for user, entries in enumerate(candidates or []):
            if not isinstance(entries, (list, tuple)):
                raise ValueError(f"candidates[{user}] is {entries!r:.80}, expected a list of things to score")
            row = []
            for position, entry in enumerate(entries):
                where = f"candidates[{user}][{position}]"
                if not isinstance(entry, dict):
                    raise ValueError(f"{where} is {entry!r}, expected a dictionary")
                item = self._item(entry, "text", where)
                if item is None:
                    raise ValueError(f"{where} has no text, expected a `title` or a `text`")
                row.append(add_item(item, texts, items))
            rows.append(row)
        if not len(texts):
            texts.add("")
        if not len(items):
            items.add((0, -1, ()))
        batch = self._items(texts, items) | self._histories(users)
        batch["query_times"] = torch.tensor(moments, dtype=torch.int64)
        batch["history_days"] = torch.tensor(
            [
                (moment - events[0]["time"]) / 86400 if events else 0.0
                for moment, events in zip(moments, users, strict=True)
            ]
        )
        if candidates is not None:
            width = max((len(row) for row in rows), default=0)
            batch["candidates"] = torch.tensor([row + [-1] * (width - len(row)) for row in rows], dtype=torch.int64)
        return BatchFeature(batch)

    def _items(self, texts: Table, items: Table) -> dict[str, torch.Tensor]:
        rows = list(items)
        batch = self.tokenize(list(texts))
        batch["item_text_index"] = torch.tensor([text for text, _, _ in rows])
        batch["item_ids"] = torch.tensor([number for _, number, _ in rows])
        if self.tree is not None:
            nodes, weights = pad_memberships([self.membership(paths) for _, _, paths in rows])
            batch["item_domains"], batch["item_domain_weights"] = torch.from_numpy(nodes), torch.from_numpy(weights)
        return batch

    def _histories(self, users: list[list[dict]]) -> dict[str, torch.Tensor]:
        kept = [events[-self.max_history :] for events in users]
        width = max(1, max((len(events) for events in kept), default=1))

        def padded(field, fill, dtype):
            array = np.full((len(kept), width, *np.shape(fill)), fill, dtype=dtype)
            for row, events in enumerate(kept):
                if events:
                    array[row, : len(events)] = [event[field] for event in events]
            return torch.from_numpy(array)

        history = padded("row", -1, np.int64)
        filled = torch.arange(width) < torch.tensor([len(events) for events in kept])[:, None]
        history[filled & (history < 0)] = -2
        batch = {
            "history": history,
            "history_times": padded("time", 0, np.int64),
            "history_text": padded("text_row", -1, np.int64),
            "history_values": padded("value", np.nan, np.float32),
            "history_places": padded("place", (np.nan, np.nan), np.float32),
            "history_events": torch.tensor(
                [float(len(events) - len(k)) for events, k in zip(users, kept, strict=True)]
            ),
        }
        if self.actions:
            batch["history_actions"] = padded("action", -1, np.int64)
        if self.scenes:
            batch["history_scenes"] = padded("scene", -1, np.int64)
        if self.tree is not None:
            counts = torch.zeros(len(users), len(self.tree))
            for row, events in enumerate(users):
                for event in events[: -self.max_history]:
                    if event["item"] is not None:
                        for node, weight in self.membership(event["item"][2]).items():
                            counts[row, node] += weight
            batch["history_counts"] = counts
        return batch


def pad_memberships(memberships: Sequence[dict[int, float]]) -> tuple[np.ndarray, np.ndarray]:
    """Nodes `(N, P)` int64, -1 = padding, and weights `(N, P)` float32."""
    width = max(1, max((len(weights) for weights in memberships), default=1))
    nodes = np.full((len(memberships), width), -1, dtype=np.int64)
    shares = np.zeros((len(memberships), width), dtype=np.float32)
    for row, weights in enumerate(memberships):
        nodes[row, : len(weights)] = list(weights)
        shares[row, : len(weights)] = list(weights.values())
    return nodes, shares


__all__ = ["InterestProcessor", "item_sentence"]

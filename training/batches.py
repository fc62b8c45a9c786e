"""Training batches: packed rows of whole histories, cuts with their labels, half-hidden histories."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import Dataset

from ..data.labels import (
    change_rate,
    count_nodes,
    dates,
    future_counts,
    history_range,
    moments,
    node_shares,
    overall_labels,
    training_limit,
)
from ..data.log import TRAIN
from ..evaluation.cases import LONG_RUN_STRENGTH
from ..recommendation.log_tensors import LogTensors


class PackedRows(Dataset):
    """Rows of `length` event positions, filled with whole users in a random order; longer histories are cut at random places.

    Every training event stands in exactly one row of each epoch, and all batches have one shape with a few per cent of
    padding. What a cut leaves behind travels as counts, and the next event across it is still a target.

    Args:
        tensors ([`LogTensors`]): the log.
        length (`int`): slots per row, T.
        seed (`int`, *optional*, defaults to 0): rows of epoch `e` depend on `(seed, e)` only.
    """

    def __init__(self, tensors: LogTensors, length: int, seed: int = 0):
        log = tensors.log
        self.length, self.seed, self.epoch = length, seed, 0
        self.first = log.offsets[:-1]
        self.last, _ = training_limit(log)
        self.users = np.flatnonzero(self.last - self.first >= 2)
        if not len(self.users):
            raise ValueError("nobody has two training events, expected at least one user with two")
        self.num_slots = int((self.last - self.first)[self.users].sum())
        self.events: np.ndarray | None = None
        # epochs need a few rows more or less, the deviation grows with the root: the spare ones stay empty
        self.num_rows = len(self._pack(0))
        self.num_rows += 1 + math.isqrt(self.num_rows) // 4

    def set_epoch(self, epoch: int) -> None:
        if epoch != self.epoch:
            self.epoch, self.events = epoch, None

    def __len__(self) -> int:
        return self.num_rows

    def __getitem__(self, row: int) -> tuple[int, int, np.ndarray]:
        if self.events is None:
            packed = self._pack(self.epoch)
            self.events = np.full((self.num_rows, self.length), -1, dtype=np.int64)
            for number, pieces in enumerate(packed[: self.num_rows]):
                events = np.concatenate([np.arange(start, stop) for start, stop in pieces])
                self.events[number, : len(events)] = events
        return self.epoch, row, self.events[row]

    def _pack(self, epoch: int) -> list[list[tuple[int, int]]]:
        """Event ranges of each row: every piece goes to the fullest of the last 32 open rows that still has room."""
        random = np.random.default_rng((self.seed, epoch))
        rows: list[list[tuple[int, int]]] = []
        open_rows: list[tuple[int, int]] = []  # room left, row
        for user in random.permutation(self.users):
            start, last = int(self.first[user]), int(self.last[user])
            size = last - start
            cut = start + (int(random.integers(1, self.length + 1)) if size > self.length else size)
            while start < last:
                stop = min(cut, last)
                fitting = [place for place in open_rows if place[0] >= stop - start]
                if fitting:
                    room, row = min(fitting)
                    open_rows.remove((room, row))
                    rows[row].append((start, stop))
                else:
                    room, row = self.length, len(rows)
                    rows.append([(start, stop)])
                if room - (stop - start) > 1:
                    open_rows = [*open_rows, (room - (stop - start), row)][-32:]
                start, cut = stop, stop + self.length
        order = random.permutation(len(rows))
        return [rows[row] for row in order]


@dataclass
class BatchBuilder:
    """Collates packed rows into the inputs of [`InterestModel.forward`], labels included.

    Args:
        tensors ([`LogTensors`]): the log.
        rows ([`PackedRows`]): where rows come from.
        cuts (`int`): queries per row for future, intensity and next item after a pause; 0 switches them off.
        completions (`float`): rows filled with half-hidden histories per packed row, at least one; 0 switches them off.
        query_rows (`int`): packed rows of a batch that both are made for; the others only rank.
        sampled_items (`int`): size of the item table where the catalogue is larger than `full_softmax_items`.
        full_softmax_items (`int`): largest catalogue that every step ranks whole.
        next_events (`int`): events per queried row whose domain is learnt given their own time or scene, where the model says
            that.
        log_q (`bool`): correct a sampled table's items by their chance to be in it.
        impressions (`int`): impressions per row, as queries at their time with what was shown; where the log has any.
        live_texts (`int`): texts that the text tower encodes anew in a batch (LoRA and the like); the others are cached.
        live_every (`int`): one batch in so many, on average, has any.
        seed (`int`): cuts and samples depend on `(seed, epoch, first row)` only, so a resumed run sees the same batches.
    """

    tensors: LogTensors
    rows: PackedRows
    cuts: int = 4
    completions: float = 0.125
    query_rows: int = 16
    sampled_items: int = 4096
    full_softmax_items: int = 6000
    live_texts: int = 0
    live_every: int = 1
    seed: int = 0
    impressions: int = 4
    log_q: bool = True
    next_events: int = 32

    def __post_init__(self):
        log = self.tensors.log
        self.log, self.config = log, self.tensors.config
        self.last_event, self.limit_time = training_limit(log)
        self.trained = np.zeros(log.num_events, dtype=bool)
        for_user = self.last_event[log.user]
        self.trained = np.arange(log.num_events) < for_user
        counts = np.bincount(log.item[self.trained & (log.item >= 0)], minlength=log.num_items)
        self.catalogue = np.flatnonzero(counts > 0)
        self.sample_chance = counts[self.catalogue] ** 0.75 / (counts[self.catalogue] ** 0.75).sum()
        self.event_chance = counts[self.catalogue] / counts.sum()
        # share of the positions that have seen enough to be asked about: of long histories every other one
        events = (self.rows.last - self.rows.first)[self.rows.users]
        half = self.rows.length / 2
        self.answerable = float(np.minimum(events, half + (events - half) / 2).sum() / events.sum())
        self.overall = overall_labels(log) if log.value is not None else None
        if self.overall is not None and not np.isfinite(self.overall[self.trained]).any():
            self.overall = None
        self.domains = bool(self.config.domains)
        # a window of one event has no share to have changed to
        self.changes = self.domains and not (
            self.config.horizon_unit == "events" and self.config.reference_horizon <= 1
        )
        # a log dated by day or month is asked about at its dates: windows from there hold what stands on them
        self.dates = dates(log.timestamp[self.trained]) if log.facts["time"] == "seconds" else None
        # asked by time: what happens at one moment knows nothing of the rest of it
        self.moment_start, self.moment_stop = moments(log) if log.facts["split"] == "global-time" else (None, None)
        shown = self.log.impressions
        if shown is None:
            self.impressions = 0
        if self.impressions:
            first, stop = history_range(log, shown.user, shown.timestamp)
            both = (shown.clicks > 0) & (shown.clicks < shown.sizes)
            # of everything before an impression the last event stands in a row; the numbers ascend with it
            self.shown = np.flatnonzero((shown.split == TRAIN) & both & (stop > first))
            self.shown_after = stop[self.shown] - 1

    @property
    def full_softmax(self) -> bool:
        return len(self.catalogue) <= self.full_softmax_items

    def __call__(self, samples: list[tuple[int, int, np.ndarray]]) -> dict[str, torch.Tensor]:
        epoch, first_row, _ = samples[0]
        random = np.random.default_rng((self.seed, epoch, first_row, 1))
        events = np.stack([row for _, _, row in samples])
        packed = len(events)
        user = np.where(events >= 0, self.log.user[np.maximum(events, 0)], -1)
        # a gap in the positions starts a segment too: two pieces of one user may stand side by side
        apart = (np.diff(user) != 0) | (np.diff(events) != 1)
        segments = np.concatenate([np.zeros((packed, 1), np.int64), apart.cumsum(1)], 1)
        following = np.where(events >= 0, events + 1, 0)
        has_next = (events >= 0) & (following < self.last_event[np.maximum(user, 0)])
        following = np.where(has_next, following, 0)
        targets, position = np.where(has_next, self.log.item[following], -1), None
        if self.moment_start is not None:
            targets, position = self._asked_from(events, segments, following, targets)
        queried = min(packed, self.query_rows)
        hidden_rows = max(1, round(queried * self.completions)) if self.domains and self.completions else 0
        half = self._half_hidden(random, hidden_rows)
        if half is not None:
            events = np.concatenate([events, half["events"]])
            segments = np.concatenate([segments, half["segments"]])
            targets = np.concatenate([targets, np.full_like(half["events"], -1)])
            if position is not None:
                position = np.concatenate([position, np.zeros_like(half["events"])])
        batch = self.tensors.histories(events)
        batch["segment_ids"] = torch.from_numpy(segments)
        cuts = self._cuts(random, events[:queried], segments[:queried], user)
        shown = self._impressions(random, events[:packed], segments[:packed], user) if self.impressions else None
        if shown is not None:
            ordinary = len(cuts["row"])
            cuts = {name: np.concatenate([values, shown[name]]) for name, values in cuts.items()}
        batch |= self._queries(random, cuts, half, packed)
        if (self.config.use_next_event or self.config.scenes) and self.next_events:
            batch |= self._next_events(random, events[:queried], segments[:queried], user)
        if shown is not None:
            self._shown(batch, shown["number"], ordinary)
        table, row_of = self._items(random, events, targets, batch)
        batch |= self.tensors.items(table)
        for name in ("history", "ranking_targets", "cut_targets", "candidates"):
            values = torch.from_numpy(targets) if name == "ranking_targets" else batch.get(name)
            if values is not None:
                batch[name] = torch.where(values >= 0, row_of[values.clamp(min=0)], values)
        # nobody is asked at a position without a next event
        times, wanted = batch["history_times"].numpy(), batch["ranking_targets"].numpy() >= 0
        if position is not None:
            batch["ranking_positions"] = torch.from_numpy(position)
            times = np.take_along_axis(times, position, 1)
        times = np.where(wanted, times, times[wanted].min() if wanted.any() else 0)
        batch |= self.tensors.popular(table, feature_index=times, cut_feature_index=batch["query_times"].numpy())
        self._position_labels(batch, has_next, following, len(events))
        if self.live_texts and random.random() * self.live_every < 1:
            batch |= self._live(random, batch)
        return batch

    def _asked_from(self, events, segments, following, targets) -> tuple[np.ndarray, np.ndarray]:
        """The targets that have a past in their row, -1 for the others, and the slot of the last event before the moment of each."""
        slot = np.arange(events.shape[1])
        begins, new = np.ones((2, *events.shape), bool)
        begins[:, 1:] = segments[:, 1:] != segments[:, :-1]
        moment = self.moment_start[np.maximum(events, 0)]
        new[:, 1:] = begins[:, 1:] | (moment[:, 1:] != moment[:, :-1])
        first = np.maximum.accumulate(np.where(begins, slot, 0), 1)
        before = np.maximum.accumulate(np.where(new, slot, 0), 1) - 1
        position = np.where(self.moment_start[following] == moment, before, slot)
        return np.where(position >= first, targets, -1), np.maximum(position, 0)

    def _position_labels(self, batch, has_next, following, rows) -> None:
        for name, values in (("overall_labels", self.overall), ("rating_labels", self.log.value)):
            if values is not None and (name == "overall_labels" or self.config.use_values):
                labels = np.full((rows, has_next.shape[1]), np.nan, dtype=np.float32)
                labels[: len(has_next)] = np.where(has_next, values[following], np.nan)
                batch[name] = torch.from_numpy(labels)

    def _cuts(self, random, events, segments, user) -> dict[str, np.ndarray]:
        """Rows, positions and moments of the queries. Windows in days: none is drawn by what happens after it; four fifths fall at
        any moment, as often as the person has done things until then, the rest within a day of an event. Else half come right
        after an event, the rest at any moment before the next one."""
        dated = self.limit_time is not None and self.config.horizon_unit == "days"
        each = round(self.cuts * (1.6 if dated else 1) / self.answerable)  # some of the dated ones are dropped below
        row = np.repeat(np.arange(len(events)), each)
        column = random.integers(events.shape[1], size=len(row))
        keep = events[row, column] >= 0
        row, column = row[keep], column[keep]
        time = self.log.timestamp
        same = (segments[row] == segments[row, column][:, None]) & (events[row] >= 0)
        if dated:
            index = np.arange(events.shape[1])
            start = np.where(same, index, events.shape[1]).min(1)
            stop = np.where(same, index, -1).max(1)
            after = self._next_time(events[row, stop], user[row, column])
            latest = np.minimum(after, self.limit_time - round(self.config.horizons[0] * 86400))
            earliest = time[events[row, start]] + 1
            moment = earliest + (random.random(len(row)) * np.maximum(latest - earliest, 1)).astype(np.int64)
            # a moment within the pause to the next event would know that there is one: the delay is drawn before it is looked up
            soon = time[events[row, column]] + 1 + (86400 ** random.random(len(row))).astype(np.int64)
            anywhere = (random.random(len(row)) < 0.8) & (latest > earliest)
            moment = np.where(anywhere, moment, np.minimum(soon, np.maximum(after, time[events[row, stop]] + 1)))
            if self.dates is not None:
                date = np.searchsorted(self.dates, moment)
                moment = np.where(date < len(self.dates), self.dates[np.minimum(date, len(self.dates) - 1)], moment)
            # who will do much must not be asked more often than who did: what was drawn has to be an event of the past
            past = time[events[row, column]] < moment
            column = (same & (time[np.maximum(events[row], 0)] < moment[:, None])).sum(1) + start - 1
            here = time[events[row, column]]
            following = self._next_time(events[row, column], user[row, column])
            here = np.where(past, here, moment)
        else:
            here = time[events[row, column]]
            following = self._next_time(events[row, column], user[row, column])
            pause = np.maximum(following - here - 1, 0)
            # half right after the event, as `leave-last` asks: else a question so soon would speak of those who go on at once
            later = np.where(random.random(len(row)) < 0.5, random.random(len(row)), 0.0)
            moment = here + 1 + (later * pause).astype(np.int64)
        # between two distinct timestamps: the history is everything strictly before the moment
        keep = (moment > here) & (moment <= np.maximum(following, here + 1)) & (following > here)
        first = events[row, np.argmax(same, 1)]
        keep &= self._seen_enough(events[row, column], first, user[row, column])
        return {
            "row": row[keep],
            "position": column[keep],
            "time": moment[keep],
            "user": user[row, column][keep],
            "event": events[row, column][keep],
            "start": first[keep],
        }

    def _seen_enough(self, event, first, user) -> np.ndarray:
        """Whether a row holds a person's history up to `event`, from `first` on, whole or at least half a row of it: who is asked about
        right after the beginning of a piece would seem to have done nothing lately."""
        return (first == self.log.offsets[user]) | (event - first >= self.rows.length // 2)

    def _next_events(self, random, events, segments, user) -> dict[str, torch.Tensor]:
        """Positions of the rows after which, at a later time, something happens that training may see: what that is, at its time.

        Things that happen at one time count as one event of mixed domains: none of them may know of the others.
        """
        log = self.log
        row = np.repeat(np.arange(len(events)), self.next_events)
        column = random.integers(events.shape[1], size=len(row))
        event = np.maximum(events[row, column], 0)
        owner = log.user[event]
        start = events[row, np.argmax(segments[row] == segments[row, column][:, None], 1)]
        first, last = event + 1, self.last_event[owner]
        keep = (events[row, column] >= 0) & (first < last) & self._seen_enough(event, start, owner)
        time = log.timestamp[np.where(keep, first, 0)]
        keep &= time > log.timestamp[event]
        row, column, event, owner, start, first, last, time = (
            values[keep] for values in (row, column, event, owner, start, first, last, time)
        )
        stop = np.minimum(history_range(log, owner, time + 1)[1], last)
        counts = count_nodes(log, first, stop)
        total = counts[:, log.tree.depth == 0].sum(1, keepdims=True)
        batch = {
            "event_rows": row,
            "event_positions": column,
            "event_times": time,
            "event_counts": (counts / np.maximum(total, 1e-9)).astype(np.float32),
            "event_history_counts": count_nodes(log, log.offsets[owner], start).astype(np.float32),
            "event_population_shares": self.tensors.population.shares(time),
        }
        if self.tensors.scene is not None:
            batch["event_scenes"] = self.tensors.scene[first]
        return {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in batch.items()}

    def _impressions(self, random, events, segments, user) -> dict[str, np.ndarray]:
        """Some training impressions of every row as cuts: after which event, when, and their `number` in the log."""
        low = np.searchsorted(self.shown_after, events, side="left")
        count = np.where(events >= 0, np.searchsorted(self.shown_after, events, side="right") - low, 0)
        reached = count.cumsum(1)
        row = np.repeat(np.arange(len(events)), self.impressions)
        row = row[reached[row, -1] > 0]
        pick = (random.random(len(row)) * reached[row, -1]).astype(np.int64)
        row, pick = np.unique(np.stack([row, pick]), axis=1)
        column = (reached[row] <= pick[:, None]).sum(1)
        number = self.shown[low[row, column] + pick - (reached - count)[row, column]]
        same = (segments[row] == segments[row, column][:, None]) & (events[row] >= 0)
        return {
            "row": row,
            "position": column,
            "time": self.log.impressions.timestamp[number],
            "user": user[row, column],
            "event": events[row, column],
            "start": events[row, np.argmax(same, 1)],
            "number": number,
        }

    def _shown(self, batch, number: np.ndarray, ordinary: int) -> None:
        """Puts what was shown beside its queries, which have no other labels: when things are shown is no random moment."""
        here = slice(ordinary, ordinary + len(number))
        item, clicked = self.log.impressions.padded(number)
        shape = len(batch["cut_rows"]), item.shape[1]
        batch["candidates"] = torch.full(shape, -1, dtype=torch.int64)
        batch["candidate_labels"] = torch.full(shape, torch.nan)
        batch["candidates"][here], batch["candidate_labels"][here] = torch.from_numpy(item), torch.from_numpy(clicked)
        if "future_mask" in batch:
            batch["future_mask"][here] = False
            if "change_labels" in batch:
                batch["change_labels"][here] = torch.nan
            batch["cut_targets"][here] = -1

    def _next_time(self, event: np.ndarray, user: np.ndarray) -> np.ndarray:
        """When the user's next training event happens; the end of training, or just after the last one, where none does."""
        more = event + 1 < self.last_event[user]
        end = self.log.timestamp[event] + 1 if self.limit_time is None else np.full(len(event), self.limit_time)
        return np.where(more, self.log.timestamp[np.where(more, event + 1, 0)], end)

    def _half_hidden(self, random, count: int) -> dict[str, np.ndarray] | None:
        """`count` rows of histories of which a random half is hidden, as many as fit: what is seen, and the hidden counts."""
        if not count:
            return None
        length, most = self.rows.length, max(self.cuts, 1)
        events = np.full((count, length), -1, dtype=np.int64)
        segments = np.zeros_like(events)
        filled, pieces = np.zeros(count, np.int64), np.zeros(count, np.int64)
        found = []
        for user in random.choice(self.rows.users, count * most).tolist():
            first, last = self.rows.first[user], self.rows.last[user]
            stop = min(first + 2 + int(random.random() * (last - first - 1)), last)
            order = random.permutation(np.arange(first, stop))
            seen, unseen = np.sort(order[len(order) // 2 :]), order[: len(order) // 2]
            kept = seen[-length:]
            row = int(((filled + len(kept) <= length) & (pieces < most)).argmax())
            if filled[row] + len(kept) > length or pieces[row] == most:
                break
            place = slice(filled[row], filled[row] + len(kept))
            events[row, place], segments[row, place] = kept, pieces[row]
            filled[row], pieces[row] = place.stop, pieces[row] + 1
            found.append((row, place.stop - 1, user, stop, seen[: -len(kept)], unseen))
        rows, position, users, stops, before, unseen = (list(values) for values in zip(*found, strict=True))
        users, stop = np.array(users), np.array(stops)
        older, hidden = (np.zeros((len(users), len(self.log.tree)), np.float32) for _ in range(2))
        for target, parts in ((older, before), (hidden, unseen)):
            for number, part in enumerate(parts):
                items = self.log.item[part]
                target[number] = np.asarray(self.log.item_nodes[items[items >= 0]].sum(0))[0]
        # what is left of a row is no part of the last history
        segments[events < 0] = -1
        pause = self._next_time(stop - 1, users) - self.log.timestamp[stop - 1]
        moment = self.log.timestamp[stop - 1] + (random.random(len(users)) * np.maximum(pause, 1)).astype(np.int64)
        return {
            "events": events,
            "segments": segments,
            "row": np.array(rows),
            "user": users,
            "time": moment,
            "older": older,
            "hidden": hidden,
            "older_events": np.array([len(part) for part in before], np.float32),
            "position": np.array(position),
        }

    def _queries(self, random, cuts, half, packed: int) -> dict[str, torch.Tensor]:
        log, config = self.log, self.config
        fields = {name: [cuts[name]] for name in ("row", "position", "time", "user")}
        first_event = [log.offsets[cuts["user"]]]
        if half is not None:
            fields["row"].append(packed + half["row"])
            for name in ("position", "time", "user"):
                fields[name].append(half[name])
            first_event.append(log.offsets[half["user"]])
        row, position, time, user = (np.concatenate(fields[name]) for name in ("row", "position", "time", "user"))
        first = np.concatenate(first_event)
        number = len(cuts["row"])
        batch = {
            "cut_rows": row,
            "cut_positions": position,
            "query_times": time,
            "history_days": ((time - log.timestamp[first]) / self.tensors.seconds_per_unit).astype(np.float32),
        }
        older_events = np.zeros(len(row), np.float32)
        older_events[:number] = cuts["start"] - log.offsets[cuts["user"]]
        if half is not None:
            older_events[number:] = half["older_events"]
        batch["history_events"] = older_events
        if self.domains:
            older = np.zeros((len(row), len(log.tree)), np.float32)
            older[:number] = count_nodes(log, log.offsets[cuts["user"]], cuts["start"])
            hidden = np.full_like(older, np.nan)
            if half is not None:
                older[number:], hidden[number:] = half["older"], half["hidden"]
            batch |= {"history_counts": older, "completion_counts": hidden}
            batch["population_shares"] = self.tensors.population.shares(time)
        if number:
            future = future_counts(
                log, cuts["user"], cuts["time"], config.horizons, config.horizon_unit, self.last_event, self.limit_time
            )
            shape = len(row), len(config.horizons)
            mask, totals = np.zeros(shape, bool), np.zeros(shape, np.float32)
            mask[:number], totals[:number] = future.mask, future.totals
            batch |= {"future_mask": mask, "intensity_counts": totals}
            if self.domains:
                batch["future_counts"] = np.zeros((*shape, len(log.tree)), np.float32)
                batch["future_counts"][:number] = future.counts
                if self.changes:
                    batch["change_labels"] = np.full((len(row), 2, len(log.tree)), np.nan, np.float32)
                    known = older[:number] + count_nodes(log, cuts["start"], cuts["event"] + 1)
                    everybody = batch["population_shares"][:number, 0]
                    batch["change_labels"][:number] = self._changes(known, future, everybody)
            following = cuts["event"] + 1
            more = following < self.last_event[cuts["user"]]
            if self.moment_start is not None:
                stop = np.minimum(self.moment_stop[np.where(more, following, 0)], self.last_event[cuts["user"]])
                following = following + (random.random(number) * np.maximum(stop - following, 1)).astype(np.int64)
            batch["cut_targets"] = np.full(len(row), -1, np.int64)
            batch["cut_targets"][:number] = np.where(more, log.item[np.where(more, following, 0)], -1)
        return {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in batch.items()}

    def _changes(self, known, future, population) -> np.ndarray:
        """Long-run shares and rates of change `(M, 2, K)`, NaN where nothing can be said."""
        reference = self.config.reference_index
        labelled = known, future.counts[:, reference], self.log.tree
        rate, gate = change_rate(*labelled, population=population, population_strength=LONG_RUN_STRENGTH)
        gate &= future.mask[:, reference, None]
        interest = node_shares(known, self.log.tree, population, LONG_RUN_STRENGTH)
        return np.where(gate[:, None], np.stack([interest, rate], 1), np.nan)

    def _items(self, random, events, targets, batch) -> tuple[np.ndarray, torch.Tensor]:
        """Item positions of the table, and the row of every item in it."""
        if self.full_softmax:
            table = self.catalogue
        else:
            history = self.log.item[events[events >= 0]]
            present = np.unique(np.concatenate([history[history >= 0], targets[targets >= 0]]))
            extra = max(self.sampled_items - len(present), self.sampled_items // 4)
            drawn = random.choice(self.catalogue, extra, p=self.sample_chance)
            table = np.union1d(present, drawn)
            if self.log_q:
                number = np.count_nonzero(targets >= 0)
                stays_out = number * np.log1p(-self.event_chance) + extra * np.log1p(-self.sample_chance)
                inclusion = np.zeros(self.log.num_items)
                inclusion[self.catalogue] = np.log(-np.expm1(np.minimum(stays_out, -1e-12)))
                batch["ranking_log_inclusion"] = torch.from_numpy(inclusion[table].astype(np.float32))
        if "candidates" in batch:
            # shown items beside the table are no alternatives of the next item: as if their chance were infinite
            shown = np.setdiff1d(batch["candidates"].numpy(), np.append(table, -1))
            inclusion = batch.get("ranking_log_inclusion", torch.zeros(len(table)))
            table = np.concatenate([table, shown])
            batch["ranking_log_inclusion"] = torch.cat([inclusion, torch.full((len(shown),), torch.inf)])
        row_of = torch.zeros(self.log.num_items, dtype=torch.int64)
        row_of[torch.from_numpy(table)] = torch.arange(len(table))
        return table, row_of

    def _live(self, random, batch) -> dict[str, torch.Tensor]:
        """Tokens of some texts of the batch, targets and history first."""
        used = batch["item_text_index"][batch["history"][batch["history"] >= 0]]
        if "history_text" in batch:
            used = torch.cat([used, batch["history_text"][batch["history_text"] >= 0]])
        used = used.unique().numpy()
        live = np.sort(random.choice(used, min(self.live_texts, len(used)), replace=False))
        tokens = self.tensors.processor.tokenize([self.tensors.sentences[row] for row in live])
        return tokens | {"item_live_index": torch.from_numpy(live)}

"""Packed rows, cuts and half-hidden histories: every event trains, nothing after the training limit is ever read."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import AutoTokenizer

from interest_lm import InterestModel, InterestProcessor
from interest_lm.data.labels import change_rate, node_shares
from interest_lm.data.log import InterestLog
from interest_lm.data.prepare import prepare
from interest_lm.recommendation.log_tensors import LogTensors
from interest_lm.training.batches import BatchBuilder, PackedRows
from interest_lm.training.derive import config_for, known_items, layer_sizes, usual_dropout, usual_width


LENGTH = 16


@pytest.fixture(scope="module")
def small_log(tmp_path_factory) -> InterestLog:
    folder = tmp_path_factory.mktemp("world") / "data"
    prepare("synthetic", [], folder, world={"num_users": 30, "num_items": 60, "seed": 3}, quiet=True)
    return InterestLog.load(folder)


def make(log: InterestLog, backbone, length: int = LENGTH, **more) -> tuple[LogTensors, PackedRows, BatchBuilder]:
    items = known_items(log)
    model = InterestModel.from_text_pretrained(
        str(backbone), num_items=len(items), hidden_size=16, max_history=length, **config_for(log)
    )
    processor = InterestProcessor.from_model(model, AutoTokenizer.from_pretrained(backbone), items)
    texts = torch.zeros(2000, 32)  # what the texts say is not the point here
    tensors = LogTensors(log, model, processor, texts=texts, progress=False)
    rows = PackedRows(tensors, length, seed=5)
    return tensors, rows, BatchBuilder(tensors, rows, seed=5, **more)


def test_every_training_event_stands_in_one_row(small_log, tiny_bert):
    _, rows, _ = make(small_log, tiny_bert)
    orders = []
    for epoch in range(2):
        rows.set_epoch(epoch)
        events = np.concatenate([rows[row][2] for row in range(len(rows))])
        orders.append(events)
        events = events[events >= 0]
        per_user = np.bincount(small_log.user[small_log.split == 0], minlength=small_log.num_users)
        expected = np.flatnonzero((small_log.split == 0) & (per_user[small_log.user] >= 2))
        assert sorted(events) == expected.tolist()
    assert (orders[0] != orders[1]).any()
    rows.set_epoch(0)
    assert (np.concatenate([rows[row][2] for row in range(len(rows))]) == orders[0]).all()


def test_hardly_a_row_is_empty():
    """No step is spent on nothing: of some 5,000 rows fewer than a batch have no events, and yet every event stands in one."""
    random = np.random.default_rng(0)
    user = np.repeat(np.arange(1000), random.integers(2, 160, 1000))
    log = SimpleNamespace(
        offsets=np.append(0, np.bincount(user).cumsum()), split=np.zeros(len(user)), facts={"split": "leave-last"},
        user=user, timestamp=np.arange(len(user)),
    )  # fmt: skip
    rows = PackedRows(SimpleNamespace(log=log), LENGTH, seed=2)
    for epoch in range(6):
        rows.set_epoch(epoch)
        events = np.stack([rows[row][2] for row in range(len(rows))])
        assert sorted(events[events >= 0]) == list(range(len(user)))
        assert 0 < (events < 0).all(1).sum() < 32
    assert len(rows) > 4000


def test_targets_are_the_next_training_events(small_log, tiny_bert):
    tensors, rows, builder = make(small_log, tiny_bert, cuts=0, completions=0)
    samples = [rows[row] for row in range(4)]
    batch = builder(samples)
    events = np.stack([row for _, _, row in samples])
    table = tensors.item_ids[builder.catalogue]
    log = small_log
    for row, column in np.ndindex(events.shape):
        event, target = events[row, column], int(batch["ranking_targets"][row, column])
        if event < 0 or event + 1 >= builder.last_event[log.user[event]]:
            assert target == -1
        else:
            assert table[target] == tensors.item_ids[log.item[event + 1]]
            assert log.user[event + 1] == log.user[event] and log.split[event + 1] == 0


def test_what_happens_at_one_moment_does_not_know_the_rest_of_it(small_log, tiny_bert):
    """Under `global-time` a target is asked after the last event of an earlier time, with what was popular then."""
    log = replace(small_log, timestamp=small_log.timestamp // (20 * 86400) * 20 * 86400)
    _, rows, builder = make(log, tiny_bert, completions=0)
    batch = builder([rows[row] for row in range(8)])
    times, segments, history, targets, asked, popular = (
        batch[name].numpy()
        for name in (
            "history_times",
            "segment_ids",
            "history",
            "ranking_targets",
            "ranking_positions",
            "feature_index",
        )
    )
    elsewhere, moment_of = 0, {}
    for row in range(8):
        for segment in np.unique(segments[row][history[row] != -1]):
            places = np.flatnonzero((segments[row] == segment) & (history[row] != -1))
            for place in places[1:]:  # what stands at `place` is the target of the slot before it
                earlier = places[times[row, places] < times[row, place]]
                if len(earlier):
                    assert targets[row, place - 1] == history[row, place]
                    assert asked[row, place - 1] == earlier[-1]
                    elsewhere += place - 1 != earlier[-1]
                    moment = int(popular[row, place - 1])
                    assert moment_of.setdefault(int(times[row, earlier[-1]]), moment) == moment
                else:
                    assert targets[row, place - 1] == -1
    assert elsewhere > 30 and len(moment_of) > 3
    # a log that is asked by its order keeps it
    facts = log.facts | {"split": "leave-last", "validation_start": None, "test_start": None}
    _, rows, builder = make(replace(log, facts=facts), tiny_bert)
    assert "ranking_positions" not in builder([rows[row] for row in range(8)])


def test_any_event_of_the_next_moment_may_follow_a_cut(small_log, tiny_bert):
    log = replace(small_log, timestamp=small_log.timestamp // (20 * 86400) * 20 * 86400)
    _, rows, builder = make(log, tiny_bert, completions=0, cuts=8)
    samples, places = [rows[row] for row in range(8)], set()
    events = np.stack([row for _, _, row in samples])
    batch = builder(samples)
    for row, column, target in zip(*(batch[name].tolist() for name in ("cut_rows", "cut_positions", "cut_targets"))):
        event = events[row, column]
        last = builder.last_event[log.user[event]]
        following = [other for other in range(event + 1, last) if log.timestamp[other] == log.timestamp[event + 1]]
        assert target == -1 if event + 1 >= last else builder.catalogue[target] in log.item[following]
        places |= {
            place
            for place, other in enumerate(following)
            if log.item[other] == builder.catalogue[target] and len(following) > 2
        }
    assert len(places) > 3


def later_changed(log: InterestLog) -> InterestLog:
    """The same log with every validation and test event another item, value, text and place."""
    later = log.split > 0
    item = np.where(later, (log.item + 7) % log.num_items, log.item).astype(np.int32)
    value = np.where(later, 1.0, log.value).astype(np.float32)
    place = np.where(later[:, None], 0.0, log.place).astype(np.float32)
    return replace(log, item=item, value=value, place=place)


@pytest.mark.parametrize("rule", ["global-time", "leave-last"])
def test_batches_never_read_what_comes_after_training(small_log, tiny_bert, rule):
    log = small_log
    if rule == "leave-last":
        split = np.zeros_like(log.split)
        split[log.offsets[1:] - 1], split[log.offsets[1:] - 2] = 2, 1
        facts = log.facts | {"split": rule, "validation_start": None, "test_start": None}
        log = replace(log, split=split, facts=facts)
    batches = []
    for version in (log, later_changed(log)):
        _, rows, builder = make(version, tiny_bert)
        batches.append([builder([rows[row] for row in range(start, start + 8)]) for start in range(0, 32, 8)])
    for first, second in zip(*batches, strict=True):
        assert first.keys() == second.keys()
        for name in first:
            if name == "item_features":  # moments after the training limit may differ; those that are used may not
                used = torch.cat([first["feature_index"].flatten(), first["cut_feature_index"]]).unique()
                torch.testing.assert_close(first[name][used], second[name][used], msg=name)
            else:
                torch.testing.assert_close(first[name], second[name], equal_nan=True, msg=name)


def test_cut_labels_are_the_windows_after_the_cut(small_log, tiny_bert):
    """Counts of every cut, recounted event by event."""
    tensors, rows, builder = make(small_log, tiny_bert, completions=0)
    log, horizons = small_log, tensors.config.horizons
    samples = [rows[row] for row in range(20)]
    batch = builder(samples)
    events = np.stack([row for _, _, row in samples])
    assert len(batch["cut_rows"]) > 20 and batch["future_mask"].any()
    for cut in range(len(batch["cut_rows"])):
        row, column, time = (int(batch[name][cut]) for name in ("cut_rows", "cut_positions", "query_times"))
        event = events[row, column]
        user = log.user[event]
        own = np.flatnonzero(log.user == user)
        assert log.timestamp[event] < time
        assert event == own[log.timestamp[own] < time].max()
        for column, horizon in enumerate(horizons):
            end = time + round(horizon * 86400)
            if not batch["future_mask"][cut, column]:
                continue
            assert end <= log.facts["validation_start"]
            inside = own[(log.timestamp[own] >= time) & (log.timestamp[own] < end)]
            expected = np.asarray(log.item_nodes[log.item[inside]].sum(0))[0]
            np.testing.assert_allclose(batch["future_counts"][cut, column], expected, atol=1e-5)
            assert batch["intensity_counts"][cut, column] == len(inside)
        shown = events[row] == event
        first = events[row][batch["segment_ids"][row].numpy() == int(batch["segment_ids"][row][shown][0])].min()
        assert batch["history_events"][cut] == first - own[0]


def test_change_labels_are_those_that_an_evaluation_asks(small_log, tiny_bert):
    """Recounted from the whole history, from before the row too, and the window of the reference horizon."""
    tensors, rows, builder = make(small_log, tiny_bert, 8, completions=0)
    log, config = small_log, tensors.config
    known = unknown = 0
    for start in range(0, len(rows) - 8, 8):
        samples = [rows[row] for row in range(start, start + 8)]
        batch, events = builder(samples), np.stack([row for _, _, row in samples])
        for cut, (interest, found) in enumerate(batch["change_labels"].numpy()):
            time = int(batch["query_times"][cut])
            user = log.user[events[int(batch["cut_rows"][cut]), int(batch["cut_positions"][cut])]]
            if not batch["future_mask"][cut, config.reference_index]:
                assert np.isnan(found).all() and np.isnan(interest).all()
                unknown += 1
                continue
            own = np.flatnonzero(log.user == user)
            before = own[log.timestamp[own] < time]
            end = time + round(config.reference_horizon * 86400)
            after = own[(log.timestamp[own] >= time) & (log.timestamp[own] < end)]
            history, future = (np.asarray(log.item_nodes[log.item[part]].sum(0)) for part in (before, after))
            everybody = batch["population_shares"][cut, :1].numpy()
            rate, gate = change_rate(history, future, log.tree, population=everybody)
            np.testing.assert_array_equal(np.isfinite(found), gate[0])
            np.testing.assert_allclose(found[gate[0]], rate[0][gate[0]], atol=1e-4)
            np.testing.assert_allclose(
                interest[gate[0]], node_shares(history, log.tree, everybody, 5.0)[0][gate[0]], rtol=1e-4
            )
            known += gate.any()
    assert known > 5 and unknown > 5


def test_nobody_is_asked_about_right_after_the_beginning_of_a_piece(small_log, tiny_bert):
    """Else the decayed counts would say that nothing happened lately: neither about windows nor about the next event."""
    _, rows, builder = make(small_log, tiny_bert, 8, completions=0)
    for query in ("cut", "event"):
        asked = whole = 0
        for start in range(0, len(rows) - 8, 8):
            samples = [rows[row] for row in range(start, start + 8)]
            batch, events = builder(samples), np.stack([row for _, _, row in samples])
            places = batch[f"{query}_rows"].tolist(), batch[f"{query}_positions"].tolist()
            for row, column in zip(*places, strict=True):
                segment = batch["segment_ids"][row].numpy()
                seen = column + 1 - int(np.argmax(segment == segment[column]))
                event = events[row, column]
                begun = event + 1 - seen == small_log.offsets[small_log.user[event]]
                assert begun or seen > 4
                asked, whole = asked + 1, whole + begun
        assert asked > whole > 0


@pytest.mark.parametrize("cuts", [1, 4])
def test_half_hidden_histories_add_up(small_log, tiny_bert, cuts):
    """Several stand in a row, each a segment of its own: what its query sees, and what is hidden from it."""
    _, rows, builder = make(small_log, tiny_bert, 16 if cuts == 1 else 100, cuts=cuts, completions=1.0)
    batch = builder([rows[row] for row in range(6)])
    known = torch.isfinite(batch["completion_counts"][:, 0])
    assert 6 <= known.sum() <= 6 * cuts and (cuts == 1) == (known.sum() == 6)
    row, position = batch["cut_rows"][known], batch["cut_positions"][known]
    assert row.min() == 6 and not batch["future_mask"][known].any()
    segments, events = batch["segment_ids"][row], batch["history"][row] != -1
    same = (segments == segments.gather(1, position[:, None])) & events
    # the query stands at its segment's last event, and no event is left without a query
    assert (same.nonzero()[:, 1].new_zeros(len(row)).scatter_reduce(
        0, same.nonzero()[:, 0], same.nonzero()[:, 1], "amax") == position).all()  # fmt: skip
    assert same.sum() == (batch["history"][6:] != -1).sum()
    times = batch["history_times"][row]
    assert (times.masked_fill(~same, 0).amax(1) <= batch["query_times"][known]).all()
    top = torch.from_numpy(small_log.tree.depth == 0)
    hidden = batch["completion_counts"][known][:, top].sum(1)
    shown = same.sum(1) + batch["history_events"][known]
    assert ((shown - hidden).abs() <= 1).all() and (hidden > 0).all()


def test_large_catalogues_are_sampled_with_their_chances(small_log, tiny_bert):
    _, rows, builder = make(small_log, tiny_bert, full_softmax_items=10, sampled_items=30)
    batch = builder([rows[row] for row in range(3)])
    chances = batch["ranking_log_inclusion"]
    assert len(chances) == len(batch["item_ids"]) and (chances <= 0).all() and torch.isfinite(chances).all()
    assert int(batch["ranking_targets"].max()) < len(chances)


def test_a_log_without_pairs_is_refused(small_log, tiny_bert):
    log = replace(small_log, split=np.full_like(small_log.split, 2))
    with pytest.raises(ValueError, match="two training events"):
        make(log, tiny_bert)


@pytest.mark.parametrize("pause", [0, 10])
def test_cuts_are_not_drawn_by_what_comes_after_them(tiny_bert, pause):
    """Where everybody does things at one constant rate, the windows after cuts hold as many as the rate says; on a log dated
    every ten days, cuts at its dates hold what stands on the dates of their windows."""
    random, days, rate = np.random.default_rng(0), 300, 0.3
    start, day = 1_600_000_000, 86400
    counts = random.poisson(rate * days, 150)
    times = np.concatenate([np.sort(random.random(count)) for count in counts]) * days * day
    if pause:
        times = times // (pause * day) * (pause * day)
    events = pd.DataFrame(
        {"user_id": np.repeat(np.arange(150), counts).astype(str), "timestamp": times.astype(int) + start}
    )
    events["item_id"] = random.integers(6, size=len(events)).astype(str)
    limit = start + (260 if pause else 290) * day
    events["split"] = np.where(events["timestamp"] < limit, "train", "test")
    items = pd.DataFrame(
        {"item_id": [str(n) for n in range(6)], "title": "thing", "categories": [[[f"c{n}"]] for n in range(6)]}
    )
    facts = {
        "split": "global-time",
        "time": "seconds",
        "validation_start": limit,
        "test_start": limit,
        "end": start + days * day,
    }
    log = InterestLog.from_frames(events, items, facts)
    tensors, rows, builder = make(log, tiny_bert, 120, cuts=40, completions=0)
    horizons = np.array(tensors.config.horizons)
    found, steps, dated = np.zeros((2, len(horizons))), len(rows) // 20, 0.0
    for step in range(steps):
        batch = builder([rows[row] for row in range(20 * step, 20 * step + 20)])
        mask = batch["future_mask"].numpy()
        if pause:
            on_date = (batch["query_times"].numpy() - start) % (pause * day) == 0
            dated += on_date.mean() / steps
            mask = mask & on_date[:, None]
        found += [(batch["intensity_counts"].numpy() * mask).sum(0), mask.sum(0)]
    assert found[1].min() > 1500
    expected = rate * (np.ceil(horizons / pause) * pause if pause else horizons)
    assert not pause or dated > 0.9
    np.testing.assert_allclose(found[0] / found[1], expected, rtol=0.07)


def test_half_lives_follow_the_span_of_training(small_log):
    times = small_log.timestamp[small_log.split == 0]
    span = (times.max() - times.min()) / 86400
    assert config_for(small_log)["half_lives_days"] == pytest.approx([span / 100, span / 25, span / 6])


def test_a_log_dated_by_month_has_no_trajectory(small_log):
    assert config_for(small_log)["trajectory_half_lives"] == [3.0, 30.0, 120.0]
    by_day, by_month = (
        replace(small_log, timestamp=small_log.timestamp // (days * 86_400) * (days * 86_400)) for days in (1, 30)
    )
    assert config_for(by_day)["trajectory_half_lives"] == [3.0, 30.0, 120.0]
    assert config_for(by_month)["trajectory_half_lives"] is None
    assert config_for(replace(small_log, facts=small_log.facts | {"time": "order"}))["trajectory_half_lives"] == [
        1.0,
        20.0,
    ]


@pytest.mark.parametrize(("each", "expected"), [(1, 0.5), (3, 0.5), (6, 0.35), (12, 0.2), (50, 0.2)])
def test_dropout_is_larger_where_little_is_known_of_each_item(small_log, each, expected):
    item = np.full(small_log.num_events, -1, dtype=np.int32)
    train = np.flatnonzero(small_log.split == 0)[: 10 * each]
    item[train] = np.arange(len(train)) % 10
    assert usual_dropout(replace(small_log, item=item)) == expected


@pytest.mark.parametrize(("events", "width", "heads", "inner"), [(499_999, 128, 2, 256), (500_000, 256, 4, 512)])
def test_large_logs_without_domains_are_read_in_more_width(small_log, events, width, heads, inner):
    split = np.concatenate([np.zeros(events, np.int8), np.full(1000, 2, np.int8)])
    assert usual_width(replace(small_log, split=split, tree=None)) == width
    assert usual_width(replace(small_log, split=split)) == 128
    assert layer_sizes(width) == {"num_attention_heads": heads, "intermediate_size": inner}


def test_half_of_the_cuts_come_right_after_an_event_where_windows_are_of_events(small_log, tiny_bert):
    """`leave-last` asks at the last event's time; so soon after an event must not mean that the next one follows at once."""
    facts = small_log.facts | {"split": "leave-last", "validation_start": None, "test_start": None}
    _, rows, builder = make(replace(small_log, facts=facts), tiny_bert, cuts=20, completions=0)
    batch = builder([rows[row] for row in range(40)])
    number, position = batch["cut_rows"].numpy(), batch["cut_positions"].numpy()
    since = batch["query_times"].numpy() - batch["history_times"].numpy()[number, position]
    assert len(since) > 100 and since.min() == 1
    assert (since == 1).mean() == pytest.approx(0.5, abs=0.08)
    # and not only where the next event is near
    events = np.stack([rows[row][2] for row in range(40)])[number, position]
    pause = small_log.timestamp[events + 1] - small_log.timestamp[events]
    assert np.median(pause[since == 1]) == pytest.approx(np.median(pause[since > 1]), rel=0.3)

"""Impressions in training: what was shown stands at its moment with its labels, and changes nothing else."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from test_data_recipes_mind import random_mind
from test_training_batches import make

from interest_lm import InterestModel
from interest_lm.data.log import InterestLog
from interest_lm.data.prepare import prepare
from interest_lm.evaluation.folds import fold
from interest_lm.evaluation.impressions import impression_cases
from interest_lm.evaluation.predict import ModelPredictor
from interest_lm.training.derive import config_for, known_items


@pytest.fixture(scope="module")
def log(tmp_path_factory) -> InterestLog:
    folder = tmp_path_factory.mktemp("mind")
    prepare("mind", [random_mind(folder / "source", impressions=250)], folder / "data", quiet=True)
    return InterestLog.load(folder / "data")


def batch_of(log, backbone, rows=4, **more):
    tensors, packed, builder = make(log, backbone, **more)
    return builder([packed[row] for row in range(rows)]), tensors, builder


def model_for(log: InterestLog, backbone) -> InterestModel:
    torch.manual_seed(0)
    items = known_items(log)
    model = InterestModel.from_text_pretrained(
        str(backbone), num_items=len(items), hidden_size=16, max_history=16, **config_for(log)
    )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not name.startswith("text_model") and float(parameter.abs().sum()) == 0:
                parameter.normal_(std=0.1)
    return model.eval()


@pytest.mark.parametrize("full_softmax_items", [20000, 5])
def test_queries_show_what_was_shown_after_the_last_event_before_it(log, tiny_bert, full_softmax_items):
    options = {"full_softmax_items": full_softmax_items, "sampled_items": 12}
    tensors, packed, builder = make(log, tiny_bert, **options)
    samples = [packed[row] for row in range(4)]
    batch, shown = builder(samples), log.impressions
    events = np.stack([row for _, _, row in samples])
    queries = torch.isfinite(batch["candidate_labels"]).any(1).nonzero()[:, 0].tolist()
    assert len(queries) >= 8
    position_of = {int(tensors.item_ids[i]): i for i in range(log.num_items) if tensors.item_ids[i] >= 0}
    for query in queries:
        row, column, time = (int(batch[name][query]) for name in ("cut_rows", "cut_positions", "query_times"))
        event = events[row, column]
        own = np.flatnonzero((log.user == log.user[event]) & (log.timestamp < time))
        assert event == own.max()
        number = np.flatnonzero((shown.user == log.user[event]) & (shown.timestamp == time))
        assert len(number) == 1 and shown.split[number[0]] == 0
        rows, labels = batch["candidates"][query], batch["candidate_labels"][query]
        part = slice(shown.starts[number[0]], shown.starts[number[0] + 1])
        known = tensors.item_ids[shown.item[part]].tolist()
        found = batch["item_ids"][rows[rows >= 0]].tolist()
        assert found == known and set(known) - {-1} <= set(position_of)
        assert labels[rows >= 0].tolist() == shown.clicked[part].astype(float).tolist()
        assert torch.isnan(labels[rows < 0]).all()
        assert not batch["future_mask"][query].any() and batch["cut_targets"][query] == -1
        assert "change_labels" not in batch or torch.isnan(batch["change_labels"][query]).all()
    others = torch.tensor([query not in queries for query in range(len(batch["cut_rows"]))])
    assert (batch["candidates"][others] == -1).all() and batch["future_mask"][others].any()


def test_shown_items_are_no_alternatives_of_the_next_item(log, tiny_bert):
    """Items that nobody clicked come into the table, and the loss of the next item stays as it was."""
    clicks = np.bincount(log.item[log.split == 0], minlength=log.num_items)
    never = np.setdiff1d(np.unique(log.impressions.item), np.flatnonzero(clicks))
    if not len(never):
        unclicked = np.flatnonzero(clicks)[clicks[clicks > 0].argmin()]
        item = np.where(log.item == unclicked, (unclicked + 1) % log.num_items, log.item).astype(np.int32)
        log = replace(log, item=item)
    model = model_for(log, tiny_bert)
    quiet = {"cuts": 0, "completions": 0}
    losses = []
    for impressions in (0, 8):
        batch, _, builder = batch_of(log, tiny_bert, rows=6, impressions=impressions, **quiet)
        assert ("candidate_labels" in batch) == bool(impressions)
        batch.pop("candidate_labels", None)
        with torch.no_grad():
            losses.append(model(**batch).losses["ranking"])
    assert len(batch["item_ids"]) > len(builder.catalogue)
    torch.testing.assert_close(*losses)


def test_batches_read_no_impression_after_training(log, tiny_bert):
    shown = log.impressions
    later = np.repeat(shown.split > 0, shown.sizes)
    changed = replace(log, impressions=replace(shown, clicked=shown.clicked ^ later, item=(shown.item + later) % 30))
    first, second = (batch_of(version, tiny_bert)[0] for version in (log, changed))
    assert first.keys() == second.keys()
    for name in first:
        torch.testing.assert_close(first[name], second[name], equal_nan=True, msg=name)


def test_losses_of_shown_items(log, tiny_bert):
    model = model_for(log, tiny_bert)
    scores = torch.tensor([[2.0, 0.0, 1.0, 9.0], [0.5, 1.0, 0.0, 0.0]])
    labels = torch.tensor([[1.0, 0.0, 1.0, torch.nan], [1.0, 1.0, torch.nan, torch.nan]])
    losses = model.impression_losses(scores, scores, labels)
    expected = np.mean([np.log1p(np.exp(-2.0)), np.log1p(np.exp(-1.0))])  # the second row has nothing to lose against
    assert float(losses["ranking"]) == pytest.approx(expected, abs=1e-6)
    known = torch.isfinite(labels)
    overall = torch.nn.functional.binary_cross_entropy_with_logits(scores[known], labels[known])
    assert float(losses["overall"]) == pytest.approx(float(overall), abs=1e-6)


def test_padding_changes_nothing_and_no_label_no_loss(log, tiny_bert):
    model = model_for(log, tiny_bert)
    batch, _, _ = batch_of(log, tiny_bert, cuts=1, completions=0)
    wide = dict(batch)
    wide["candidates"] = torch.nn.functional.pad(batch["candidates"], (0, 3), value=-1)
    wide["candidate_labels"] = torch.nn.functional.pad(batch["candidate_labels"], (0, 3), value=1.0)
    none = batch | {"candidate_labels": torch.full_like(batch["candidate_labels"], torch.nan)}
    plain = {name: value for name, value in batch.items() if name != "candidate_labels"}
    for part in (batch, wide):
        model.zero_grad()
        output = model(**part)
        output.loss.backward()
        assert output.logits.shape == part["candidates"].shape
        assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
        torch.testing.assert_close(output.losses, model(**batch).losses)
    assert model.overall_head.user.weight.grad.abs().sum() > 0
    without, unlabelled = model(**plain).losses, model(**none).losses
    torch.testing.assert_close(unlabelled, without | {"overall": torch.zeros(())})
    assert model(**batch).losses["ranking"] > without["ranking"]


def test_the_model_answers_every_shown_item(log, tiny_bert):
    model = model_for(log, tiny_bert)
    tensors, _, _ = make(log, tiny_bert)
    predictor = ModelPredictor(model, tensors.processor, log, batch_size=3, tensors=tensors)
    cases = impression_cases(log, fold(log, "test"))
    logits = predictor.overall(cases)
    assert logits.shape == cases.item.shape
    assert (np.isfinite(logits) == (cases.item >= 0)).all()
    one = ModelPredictor(model, tensors.processor, log, batch_size=1, tensors=tensors).overall(cases)
    np.testing.assert_allclose(logits, one, atol=1e-4, equal_nan=True)


def test_steps_on_impressions_learn_what_is_clicked(log, tiny_bert):
    """Where one half of the news is always clicked and the other never, a few steps tell them apart."""
    shown = log.impressions
    clicked = log.impressions.item % 2 == 0
    model = model_for(replace(log, impressions=replace(shown, clicked=clicked)), tiny_bert)
    log = replace(log, impressions=replace(shown, clicked=clicked))
    batch, _, _ = batch_of(log, tiny_bert, rows=8, cuts=0, completions=0, impressions=16)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.01)
    known, label = torch.isfinite(batch["candidate_labels"]), batch["candidate_labels"]
    batch = {name: value for name, value in batch.items() if name != "ranking_targets"}
    for _ in range(30):
        optimizer.zero_grad()
        output = model(**batch)
        output.loss.backward()
        optimizer.step()
    right = (output.logits[known] > 0) == (label[known] > 0.5)
    assert right.float().mean() > 0.85

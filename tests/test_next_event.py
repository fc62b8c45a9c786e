"""The head of the next event at a known time: it finds what the hour and the last event say, and knows nothing later."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from test_evaluation_cases import make_log
from test_evaluation_next_event import context_log, cross_entropy
from transformers import AutoTokenizer

from interest_lm import InterestConfig, InterestModel, InterestProcessor
from interest_lm.data.log import InterestLog
from interest_lm.evaluation.baselines.next_event import NextEventBaselines
from interest_lm.evaluation.cases import next_event_cases
from interest_lm.evaluation.folds import fold
from interest_lm.evaluation.predict import ModelPredictor
from interest_lm.evaluation.protocol import evaluate
from interest_lm.recommendation.log_tensors import LogTensors
from interest_lm.training.batches import BatchBuilder, PackedRows
from interest_lm.training.derive import config_for, fill_population, time_of_week
from interest_lm.training.prior import fit_prior


@pytest.fixture(scope="module", params=["hour", "last"])
def told(request) -> tuple[str, InterestLog]:
    return request.param, context_log(request.param)


def network(log: InterestLog, backbone) -> tuple[InterestModel, LogTensors, BatchBuilder, PackedRows]:
    torch.manual_seed(0)
    settings = config_for(log) | {"hidden_size": 16, "max_history": 64, "use_popularity": False}
    model = InterestModel.from_text_pretrained(str(backbone), **settings)
    processor = InterestProcessor.from_model(model, AutoTokenizer.from_pretrained(backbone))
    tensors = LogTensors(log, model, processor, texts=torch.zeros(50, 32), progress=False)
    rows = PackedRows(tensors, 64)
    builder = BatchBuilder(tensors, rows, cuts=2, completions=0, query_rows=4, next_events=32)
    fill_population(model, tensors)
    return model, tensors, builder, rows


def test_the_head_finds_what_decides(told, tiny_bert):
    """Better than the mixture from its statistics alone, after a few steps of the prior."""
    kind, log = told
    model, tensors, builder, rows = network(log, tiny_bert)
    fit_prior(model, builder, rows, 40)
    cases = next_event_cases(log, fold(log, "validation"))
    answer = ModelPredictor(model, tensors.processor, log, tensors=tensors).next_event(cases)
    made = NextEventBaselines()
    made.tune(log, fold(log, "validation"), cases)
    figures = {name: cross_entropy(log, cases, shares) for name, shares in made.shares(cases).items()}
    assert cross_entropy(log, cases, answer) < figures["mixture"] - 0.2
    if kind == "hour":
        windows = {
            "horizons": (3, 7),
            "horizon_unit": "days",
            "reference_horizon": 7,
            "progress": False,
            "bootstrap": 0,
        }
        predictor = ModelPredictor(model, tensors.processor, log, tensors=tensors)
        results = evaluate(log, predictor, **windows, baselines=["mixture"])
        shifted = results["controls"]["shifted_time"]["next_event"]
        assert shifted["cross_entropy"] > results["next_event"]["cross_entropy"] + 0.5
        assert results["paired"]["next_event.cross_entropy"]["difference"] < -10
    assert figures["mixture_context" if kind == "hour" else "markov"] < figures["mixture"] - 0.2


def test_the_head_learns_what_no_statistic_says(tiny_bert):
    """Labels that only the parity of the hour decides are in no count: the residual must carry them."""
    log = context_log("hour", users=12)
    model, _, builder, rows = network(log, tiny_bert)
    model.train()
    head, leaves = model.next_event_head, np.flatnonzero(log.tree.is_leaf)
    optimizer = torch.optim.Adam(head.parameters(), lr=0.01)
    losses = []
    for start in range(25):
        batch = builder([rows[(start + number) % len(rows)] for number in range(4)])
        leaf = leaves[(batch["event_times"] // 3600 % 2).numpy()]
        labels = np.zeros_like(batch["event_counts"])
        labels[np.arange(len(leaf)), leaf] = labels[np.arange(len(leaf)), log.tree.parent[leaf]] = 1.0
        output = model(**(batch | {"event_counts": torch.from_numpy(labels)}))
        optimizer.zero_grad()
        output.loss.backward()
        optimizer.step()
        losses.append(float(output.losses["next_event"]))
    assert losses[-1] < 0.5 * losses[0]


def test_labels_are_what_happens_at_the_next_time_of_training(tiny_bert):
    log = make_log(users=20, days=40)  # many ties
    _, _, builder, rows = network(log, tiny_bert)
    samples = [rows[row] for row in range(4)]
    events = np.stack([row for _, _, row in samples])
    batch = {name: value.numpy() for name, value in builder(samples).items() if name.startswith("event_")}
    assert len(batch["event_rows"]) > 30
    several = 0
    for row, column, time, counts in zip(
        *(batch[f"event_{name}"] for name in ("rows", "positions", "times", "counts")), strict=True
    ):
        event = events[row, column]
        part = np.arange(log.offsets[log.user[event]], log.offsets[log.user[event] + 1])
        after = part[(log.timestamp[part] > log.timestamp[event]) & (log.split[part] == 0)]
        here = after[log.timestamp[after] == log.timestamp[after[0]]]
        assert time == log.timestamp[here[0]]
        several += len(here) > 1
        np.testing.assert_allclose(counts, log.item_nodes[log.item[here]].toarray().mean(0), atol=1e-6)
    assert several


def test_an_answer_knows_the_time_and_nothing_later(tiny_bert):
    log = context_log("hour", users=8)
    model, tensors, _, _ = network(log, tiny_bert)
    with torch.no_grad():
        for parameter in model.next_event_head.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    predictor = ModelPredictor(model, tensors.processor, log, tensors=tensors)
    cases = next_event_cases(log, fold(log, "validation"))
    answer = predictor.next_event(cases)
    np.testing.assert_allclose(answer[:, log.tree.depth == 0].sum(1), 1.0, atol=1e-5)
    later = replace(cases, time=cases.time + 6 * 3600)
    assert np.abs(predictor.next_event(later) - answer).max() > 1e-3
    item = log.item.copy()
    item[log.split > 0] = (item[log.split > 0] + 1) % log.num_items
    first = np.unique(cases.user, return_index=True)[1]  # histories without events of the split
    changed = ModelPredictor(model, tensors.processor, replace(log, item=item), tensors=tensors)
    changed.tensors.log = changed.log
    np.testing.assert_allclose(changed.next_event(cases)[first], answer[first], atol=1e-5)
    changed.tensors.log = log


def test_a_checkpoint_without_the_head_answers_as_before(tiny_bert, tmp_path):
    """The parts are off by default, and what a model of the old format holds loads with nothing missing."""
    torch.manual_seed(0)
    settings = {"domains": ["a > b", "a > c", "d"], "hidden_size": 16, "task_weighting": "uncertainty"}
    old = InterestModel.from_text_pretrained(str(tiny_bert), **settings)
    assert old.next_event_head is None and old.task_balance.log_variance.shape == (8,)
    assert not any("next_event" in name or "time_of_week" in name for name in old.state_dict())
    fields = old.config.to_dict()
    fields.pop("use_next_event")
    fields["task_weights"].pop("next_event")
    assert not InterestConfig(**fields).use_next_event
    new = InterestModel.from_text_pretrained(str(tiny_bert), use_next_event=True, **settings).eval()
    missing, unexpected = new.load_state_dict(
        old.state_dict() | {"task_balance.log_variance": torch.zeros(9)}, strict=False
    )
    assert not unexpected and all("next_event" in name or "time_of_week" in name for name in missing)
    processor = InterestProcessor.from_model(old, AutoTokenizer.from_pretrained(tiny_bert))
    batch = processor(histories=[[{"title": "heat", "categories": [["a", "b"]], "timestamp": 10**9}]])
    with torch.no_grad():
        before, after = old.eval()(**batch), new(**batch)
    assert before.next_interest is None and after.next_interest is not None
    for name in ("domain_interest", "future_interest", "intensity", "user_embeds"):
        torch.testing.assert_close(before[name], after[name])
    with pytest.raises(ValueError, match="`use_next_event` is True, expected False without `domains`"):
        InterestConfig(use_next_event=True)


def test_everybodys_hours_are_those_of_training():
    log = context_log("hour")
    table = time_of_week(log, strength=1.0)
    top = {node: position for position, node in enumerate(log.tree.ids)}
    assert table.shape == (48, len(log.tree))
    morning, evening = table[8], table[24 + 19]
    assert morning[top["a"]] > 0.4 > 0 > morning[top["b"]] and evening[top["a"]] > 0.4
    changed = replace(log, item=np.where(log.split > 0, 0, log.item))
    np.testing.assert_array_equal(table, time_of_week(changed, strength=1.0))
    assert np.abs(time_of_week(log, strength=1e9)).max() < 1e-3


def test_a_batch_without_such_events_still_takes_part(tiny_bert):
    """Where everything happens at one time nothing follows at a later one: the loss is 0, and every gradient is there."""
    log = context_log("hour", users=6)
    model, _, builder, rows = network(replace(log, timestamp=log.user.astype(np.int64)), tiny_bert)
    batch = builder([rows[number] for number in range(2)])
    assert batch["event_rows"].numel() == 0
    output = model.train()(**batch)
    output.loss.backward()
    assert float(output.losses["next_event"]) == 0.0 and torch.isfinite(output.loss)
    assert all(parameter.grad is not None for parameter in model.next_event_head.parameters())

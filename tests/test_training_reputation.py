"""Ratings and overall interest lean on what items and people are known for, as far as validation bears out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from test_evaluation_cases import make_log
from transformers import AutoTokenizer

from interest_lm import InterestModel, InterestProcessor
from interest_lm.evaluation.baselines.bias import UserItemBias
from interest_lm.evaluation.baselines.overall import ItemMean, UserMean, logit
from interest_lm.evaluation.cases import overall_cases, take
from interest_lm.evaluation.folds import fold
from interest_lm.evaluation.predict import ModelPredictor
from interest_lm.recommendation.log_tensors import LogTensors
from interest_lm.training.derive import config_for, known_items
from interest_lm.training.refit import with_validation
from interest_lm.training.reputation import fill_reputation, fit_reputation
from interest_lm.training.validation import Validation


def rated_log(rule: str = "global-time", noise: float = 0.3):
    """Values are a mean, an item's and a person's part, and noise."""
    log, rng = make_log(rule, users=150), np.random.default_rng(1)
    item, person = rng.normal(size=log.num_items), rng.normal(size=log.num_users)
    value = 3 + item[log.item] + 0.7 * person[log.user] + noise * rng.normal(size=log.num_events)
    value[rng.random(log.num_events) < 0.05] = np.nan
    return replace(log, value=value.astype(np.float32))


def asked_of(log, tiny_bert, **settings) -> ModelPredictor:
    """An untrained model whose network says something of its own."""
    items = known_items(log)
    settings = config_for(log) | {"num_items": len(items), "use_reputation": True, "hidden_size": 16} | settings
    torch.manual_seed(0)
    model = InterestModel.from_text_pretrained(str(tiny_bert), **settings).eval()
    torch.nn.init.normal_(model.rating_head.user.weight, std=0.3)
    processor = InterestProcessor.from_model(model, AutoTokenizer.from_pretrained(tiny_bert), items)
    return ModelPredictor(
        model, processor, log, tensors=LogTensors(log, model, processor, texts=torch.randn(2000, 32), progress=False)
    )


@pytest.mark.parametrize(("rule", "threshold"), [("global-time", None), ("leave-last", None), ("global-time", 3.5)])
def test_ratings_are_a_regression_on_network_item_and_person(tiny_bert, rule, threshold):
    log = rated_log(rule)
    log.facts["value_threshold"] = threshold
    predictor = asked_of(log, tiny_bert)
    model = predictor.model
    cases = overall_cases(log, fold(log, "test"))
    cases = take(cases, np.flatnonzero(np.isfinite(cases.value)))
    network, logits = predictor.ratings(cases), predictor.overall(cases)
    report = fit_reputation(predictor, Validation(log, [7.0], "days", 7.0, 1000))
    bias = UserItemBias(model.config.value_mean)
    bias.item_strength, bias.user_strength = report["item_strength"], report["user_strength"]
    bias.fit(log, fold(log, "validation"))  # what validation may know: training events
    mean, deviation = model.config.value_mean, model.config.value_std
    item, person = bias.item_bias[cases.item] / deviation, bias.user_bias(cases) / deviation
    a, b, c, d = report["rating"]
    expected = mean + deviation * (a * (network - mean) / deviation + b * item + c * person + d)
    np.testing.assert_allclose(predictor.ratings(cases), expected, atol=2e-3)
    assert abs(a) < 0.1 and b == pytest.approx(1, abs=0.1) and c == pytest.approx(1, abs=0.15)
    error, before = (np.sqrt(np.mean((part - cases.value) ** 2)) for part in (predictor.ratings(cases), network))
    assert error < 0.45 < 1 < before and report["rmse"] < report["rmse without"]
    liked, likes = ItemMean(), UserMean()
    for side, name in ((liked, "item_liked_strength"), (likes, "user_liked_strength")):
        side.strength = report[name]
        side.fit(log, fold(log, "validation"))
    usual = logit(np.array(liked.rates.mean))
    shares = liked.overall(cases) - usual, likes.overall(cases) - usual
    *parts, last = report["overall"]
    expected = sum(weight * part for weight, part in zip(parts, (logits, item, person, *shares), strict=True)) + last
    np.testing.assert_allclose(predictor.overall(cases), expected, atol=5e-3)
    known = np.isfinite(cases.label)
    assert parts[0] >= 0
    assert roc_auc_score(cases.label[known], expected[known]) > 0.1 + roc_auc_score(cases.label[known], logits[known])


def test_validation_counts_among_what_items_are_known_for_after_the_refit(tiny_bert):
    log = rated_log()
    predictor = asked_of(log, tiny_bert)
    report = fit_reputation(predictor, Validation(log, [7.0], "days", 7.0, 1000))
    model, tensors = predictor.model, predictor.tensors
    later = with_validation(log)
    fill_reputation(model, LogTensors(later, model, predictor.processor, texts=tensors.texts, progress=False), report)
    mean, deviation = model.config.value_mean, model.config.value_std
    for number, item in enumerate(known_items(log)):
        row = list(log.item_ids).index(item)
        values = log.value[(log.item == row) & (log.split < 2) & np.isfinite(log.value)].astype(float)
        expected = (values - mean).sum() / (len(values) + report["item_strength"]) / deviation
        assert float(model.reputation.value[number]) == pytest.approx(expected, abs=1e-5)


def test_without_a_fit_the_network_speaks_alone(tiny_bert):
    log = rated_log()
    predictor, plain = asked_of(log, tiny_bert), asked_of(log, tiny_bert, use_reputation=False)
    plain.model.load_state_dict(predictor.model.state_dict(), strict=False)
    assert plain.model.reputation is None
    cases = overall_cases(log, fold(log, "test"))
    for name in ("ratings", "overall"):
        np.testing.assert_allclose(getattr(predictor, name)(cases), getattr(plain, name)(cases), atol=1e-5)
    few = predictor.log = replace(log, value=np.where(log.split == 1, np.nan, log.value))
    assert fit_reputation(predictor, Validation(few, [7.0], "days", 7.0, 1000)) is None
    np.testing.assert_allclose(predictor.ratings(cases), plain.ratings(cases), atol=1e-5)
    assert fit_reputation(plain, Validation(log, [7.0], "days", 7.0, 1000)) is None


def test_what_is_served_is_what_is_learnt(tiny_bert):
    """The loss at every position is that of the rating served there, whatever the query layer makes of the state."""
    log = rated_log()
    model = asked_of(log, tiny_bert).model
    for module in (model.rating_head.match, model.query_layer):
        for parameter in module.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    length, items = 9, model.config.num_items
    history = torch.randint(items, (1, length + 1), generator=torch.Generator().manual_seed(0))
    values = torch.linspace(1, 5, length + 1)[None]
    shared = {
        "item_embeds": torch.randn(items, 32),
        "item_ids": torch.arange(items),
        "history": history[:, :-1],
        "history_times": torch.arange(length)[None] * 86400,
        "history_values": values[:, :-1],
    }
    if model.domain_head is not None:
        shared["item_domains"] = torch.zeros(items, 1, dtype=torch.long)
        shared["item_domain_weights"] = torch.ones(items, 1)
    with torch.no_grad():
        learnt = model(**shared, ranking_targets=history[:, 1:], rating_labels=values[:, 1:]).losses["rating"]
        served = model(
            **shared,
            cut_rows=torch.zeros(length, dtype=torch.long),
            cut_positions=torch.arange(length),
            candidates=history[0, 1:, None],
        ).ratings[:, 0]
    error = (served - values[0, 1:]) / model.config.value_std
    assert float(learnt) == pytest.approx(float((error**2).mean()), rel=1e-4)


def test_unknown_items_and_missing_values_have_nothing_to_say(tiny_bert):
    log = rated_log()
    reputation = asked_of(log, tiny_bert).model.reputation
    reputation.mean, reputation.deviation = 0.0, 1.0
    reputation.value.copy_(torch.arange(len(reputation.value)).float())
    reputation.liked.copy_(10 * reputation.value)
    reputation.strength.copy_(torch.tensor([2.0, 1.0]))
    reputation.rating.copy_(torch.tensor([0.0, 1.0, 100.0, 0.0]))
    reputation.overall.copy_(torch.tensor([0.0, 0.0, 0.0, 1.0, 100.0, 0.0]))
    zero, items = torch.zeros(1, 2), torch.tensor([[2, -1]])
    history, times = torch.tensor([[3, -1, 4, -1, 5]]), torch.tensor([[7, 8, 8, 9, 9]])
    known = torch.tensor([[True, True, True, True, False]])
    values = torch.tensor([[4.0, 2.0, torch.nan, 5.0, 100.0]])
    rating, overall = reputation(zero, zero, items, history, times, values, known)
    assert rating.tolist() == [[2 + 100 * (4.0 - 3.0 + 2.0 + 5.0) / (3 + 2), 100 * (4.0 - 3.0 + 2.0 + 5.0) / (3 + 2)]]
    # 2 is below 4 and 5 above their mean; of the first nothing is known: 1.5 of 3 with everybody's half
    assert overall.tolist() == [[20.0, 0.0]]
    for nothing in ((values, ~known & False), (None, known)):
        rating, overall = reputation(zero, zero, items, history, times, *nothing)
        assert rating.tolist() == [[2.0, 0.0]] and overall.tolist() == [[20.0, 0.0]]

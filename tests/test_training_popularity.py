"""What popularity is worth by itself: which questions it is learned from, and that it finds what no line in log counts can say."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from label_logs import DAY, make_log, random_frames, random_log
from test_training_run import arguments, data  # noqa: F401  (a fixture)

from interest_lm import InterestModel
from interest_lm.data.log import TRAIN
from interest_lm.data.population import PopularityTable
from interest_lm.training import run
from interest_lm.training.popularity import fit_popularity, next_items


@pytest.mark.parametrize("split", ["global-time", "leave-last"])
def test_what_came_is_asked_for_at_the_last_event_before_it(split):
    log = random_log(3, split=split)
    asked = []
    for event in range(log.num_events):
        earlier = np.arange(log.offsets[log.user[event]], event)
        if split == "global-time":
            earlier = earlier[log.timestamp[earlier] < log.timestamp[event]]
        if log.split[event] == TRAIN and log.item[event] >= 0 and len(earlier):
            asked.append((log.timestamp[earlier[-1]], log.item[event]))
    times, items = next_items(log)
    np.testing.assert_array_equal(np.stack([times, items], 1), np.array(asked))


def model_for(tiny_bert, units: int) -> InterestModel:
    torch.manual_seed(0)
    return InterestModel.from_text_pretrained(str(tiny_bert), hidden_size=16, popularity_units=units)


def log_and_table(truth) -> tuple:
    """A log of people who take what `truth (G, I)` says at the moment of their last event, and the table of the features it is made of."""
    random = np.random.default_rng(0)
    features = random.gamma(1.0, 1.5, size=(20, 6, 7)).astype(np.float32)
    log = make_log(*random_frames(2, users=300, events=12_000))
    table = PopularityTable(np.arange(20) * 5 * DAY, features, tuple("abcdefg"))
    item, scores = log.item.copy(), truth(torch.from_numpy(features)).log_softmax(1).exp().numpy()
    first = log.offsets[log.user]
    for event in range(log.num_events):
        start = np.searchsorted(log.timestamp[first[event] : event], log.timestamp[event]) + first[event]
        if start > first[event]:
            item[event] = random.choice(6, p=scores[table.index(log.timestamp[start - 1 : start])[0]])
    return replace(log, item=item), table


def surprise(log, table, scores: torch.Tensor) -> float:
    time, item = next_items(log)
    return -float(scores.log_softmax(1)[torch.from_numpy(table.index(time)), torch.from_numpy(item)].mean())


def test_it_finds_that_the_most_popular_is_worth_more_than_a_line_says(tiny_bert):
    def truth(features):
        return 3 * (features[..., 0] - 2).clamp(min=0) - (features[..., 5] - 1.5).abs()

    log, table = log_and_table(truth)
    features = torch.from_numpy(table.features)
    tensors = SimpleNamespace(log=log, popularity=table, item_features=features)
    model = model_for(tiny_bert, 16)
    losses = fit_popularity(model, tensors)
    assert losses[0] == pytest.approx(np.log(6), abs=1e-4)  # nothing is said before
    with torch.no_grad():
        found = surprise(log, table, model.ranking_head.bias(features))
    best = surprise(log, table, truth(features))
    line = torch.zeros(7, requires_grad=True)
    search = torch.optim.LBFGS([line], max_iter=100, line_search_fn="strong_wolfe")
    time, item = next_items(log)
    row, item = torch.from_numpy(table.index(time)), torch.from_numpy(item)

    def loss():
        search.zero_grad()
        value = -(features @ line).log_softmax(1)[row, item].mean()
        value.backward()
        return value

    search.step(loss)
    assert found < best + 0.05
    assert surprise(log, table, features @ line.detach()) > best + 0.15
    assert all(parameter.grad is None for parameter in model.parameters())


def test_items_that_training_never_saw_teach_nothing(tiny_bert):
    """That nobody took what did not exist yet says nothing of what is new."""
    log, table = log_and_table(lambda features: features[..., 0] + features[..., 4])
    random = np.random.default_rng(5)
    weights = []
    for later in (0, 30):
        extra = random.gamma(1.0, 1.5, size=(20, later, 7)).astype(np.float32)
        known = PopularityTable(table.grid, np.concatenate([table.features, extra], 1), table.names)
        tensors = SimpleNamespace(log=log, popularity=known, item_features=torch.from_numpy(known.features))
        model = model_for(tiny_bert, 4)
        fit_popularity(model, tensors)
        weights.append(model.ranking_head.state_dict())
    for name in ("popularity.weight", "popularity_hidden.weight", "popularity_output.weight"):
        torch.testing.assert_close(weights[0][name], weights[1][name])


def test_a_model_of_a_linear_sum_is_left_alone(tiny_bert):
    log, table = log_and_table(lambda features: features[..., 0])
    tensors = SimpleNamespace(log=log, popularity=table, item_features=torch.from_numpy(table.features))
    model = model_for(tiny_bert, 0)
    assert fit_popularity(model, tensors) == []
    assert not model.ranking_head.popularity.weight.any()
    assert fit_popularity(model_for(tiny_bert, 4), SimpleNamespace(log=log, popularity=None)) == []


@pytest.mark.parametrize("tuning", ["frozen", "lora"])
def test_what_was_fitted_stays_and_the_sum_beside_it_learns(data, tiny_bert, tmp_path, monkeypatch, tuning):  # noqa: F811
    fitted = {}

    def fit(model, *rest):
        losses = fit_popularity(model, *rest)
        fitted.update({name: value.clone() for name, value in model.ranking_head.named_parameters()})
        return losses

    monkeypatch.setattr(run, "fit_popularity", fit)
    changes = {"tuning": tuning, "popularity_units": 4, "refit_share": 0.5, "max_steps": 6}
    head = run.train(arguments(data, tmp_path / "out", tiny_bert, **changes))["model"].ranking_head
    for name in ("popularity_hidden.weight", "popularity_hidden.bias", "popularity_output.weight"):
        assert fitted[name].any()
        torch.testing.assert_close(head.get_parameter(name), fitted[name])
    assert (head.popularity.weight - fitted["popularity.weight"]).abs().max() > 1e-5

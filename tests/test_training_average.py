"""The running average of the weights, and the parts of it that validation keeps."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from interest_lm.training.trainer import EarlyStop, TimeBudget, ValidateOften, WeightAverage


def small_model() -> nn.Module:
    model = nn.Module()
    model.history_encoder, model.domain_view = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
    return model


def fill(model: nn.Module, value: float) -> None:
    for parameter in model.parameters():
        parameter.data.fill_(value)


def weights(model: nn.Module) -> tuple[float, float]:
    return float(model.history_encoder.weight.detach()), float(model.domain_view.weight.detach())


def step(average: WeightAverage, model: nn.Module, number: int) -> None:
    average.on_step_end(None, SimpleNamespace(global_step=number), None, model=model)


def test_its_mean_age_grows_with_the_run():
    model, average = small_model(), WeightAverage(gamma=8.0)
    average.on_train_begin(None, None, None, model=model)
    for number in range(1, 2001):
        fill(model, number)
        step(average, model, number)
    assert 2000 - float(average.average["domain_view.weight"]) == pytest.approx(2000 / 10, rel=0.02)
    with average.swapped(model):
        assert weights(model)[0] < 2000
    assert weights(model) == (2000, 2000)


def test_each_part_is_kept_from_its_own_best_validation(tmp_path):
    model, average = small_model(), WeightAverage()
    average.on_train_begin(None, None, None, model=model)
    figures = [(0.1, 3.0), (0.3, 2.5), (0.2, 2.0)]  # ranking is best at the second, domains at the third
    for number, (ndcg, loss) in enumerate(figures, 1):
        average.average = {name: torch.full_like(value, number) for name, value in average.average.items()}
        average.keep({"ndcg@10": ndcg, "future_cross_entropy": loss}, 10 * number)
    (tmp_path / "checkpoint-3").mkdir()
    average.on_save(
        SimpleNamespace(output_dir=tmp_path), SimpleNamespace(is_world_process_zero=True, global_step=3), None
    )
    loaded = WeightAverage()
    loaded.load(tmp_path / "checkpoint-3")
    assert float(loaded.average["history_encoder.weight"]) == 3
    for kept in (average, loaded):
        fill(model, 0)
        kept.put_best(model)
        assert weights(model) == (2, 3) and kept.good_step == {"ranking": 20, "domains": 30}


@pytest.mark.parametrize(("error", "expected"), [(0.05, 40), (0.01, 20)])
def test_a_plateau_was_of_use_to_its_end(error, expected):
    """What is behind the best by less than its standard error is no worse; the weights are those of the best all the same."""
    model, average = small_model(), WeightAverage()
    average.on_train_begin(None, None, None, model=model)
    for number, ndcg in enumerate((0.1, 0.3, 0.2, 0.26, 0.1), 1):
        average.average = {name: torch.full_like(value, number) for name, value in average.average.items()}
        average.keep({"ndcg@10": ndcg, "ndcg@10_error": error, "future_cross_entropy": 2.0}, 10 * number)
    average.put_best(model)
    assert weights(model)[0] == 2 and average.good_step["ranking"] == expected


def test_without_a_validation_the_latest_average_counts():
    model, average = small_model(), WeightAverage()
    average.on_train_begin(None, None, None, model=model)
    average.average = {name: torch.full_like(value, 7) for name, value in average.average.items()}
    average.put_best(model)
    assert weights(model) == (7, 7)


def test_layers_that_both_parts_share_are_kept_together():
    model, average = nn.Module(), WeightAverage()
    model.history_encoder, model.domain_head = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
    average.on_train_begin(None, None, None, model=model)
    for number, objective in enumerate((-3.0, -1.0, -2.0), 1):
        average.average = {name: torch.full_like(value, number) for name, value in average.average.items()}
        average.keep({"ndcg@10": number / 10, "objective": objective}, number)
    average.put_best(model)
    assert {parameter.item() for parameter in model.parameters()} == {2.0}


@pytest.mark.parametrize(("by_part", "stopped_after"), [(True, 6), (False, 4)])
def test_a_run_goes_on_while_one_part_gets_better(by_part, stopped_after):
    """Ranking is best at the second validation, domains at the fourth."""
    stop = EarlyStop(patience=2, by_part=by_part)
    for number, (ndcg, loss) in enumerate([(0.1, 3.0), (0.3, 2.9), (0.2, 2.9), (0.1, 2.8), (0.1, 2.9), (0.1, 2.9)], 1):
        control = SimpleNamespace(should_training_stop=False)
        metrics = {"eval_ndcg@10": ndcg, "eval_future_cross_entropy": loss, "eval_objective": ndcg * 10 - loss}
        stop.on_evaluate(None, None, control, metrics=metrics)
        if control.should_training_stop:
            break
        resumed = EarlyStop(patience=2, by_part=by_part)
        saved = SimpleNamespace(global_step=number, stateful_callbacks={"EarlyStop": stop.state()})
        resumed.on_train_begin(None, saved, None)
        stop = resumed
    assert number == stopped_after


@pytest.mark.parametrize("by_part", [True, False])
@pytest.mark.parametrize(("error", "stopped_after"), [(0.0, 3), (0.01, 5)])
def test_a_ranking_within_its_error_does_not_end_a_run(by_part, error, stopped_after):
    """The second and the third are .005 below the first, the last two .05."""
    stop, stops = EarlyStop(patience=2, by_part=by_part), []
    for ndcg in (0.1, 0.095, 0.095, 0.05, 0.05):
        control = SimpleNamespace(should_training_stop=False)
        metrics = {"eval_ndcg@10": ndcg, "eval_ndcg@10_error": error, "eval_objective": math.log(ndcg + 1e-3)}
        stop.on_evaluate(None, None, control, metrics=metrics)
        stops.append(control.should_training_stop)
    assert stops.index(True) + 1 == stopped_after


@pytest.mark.parametrize(("seconds", "asked"), [(0.0, [25, 50, 75, 100]), (8.0, [25, 75]), (16.0, [25])])
def test_validations_take_a_fifth_of_the_budget_at_most(monkeypatch, seconds, asked):
    """100 steps of a budget of 100 seconds, four validations wanted."""
    budget = TimeBudget(minutes=100 / 60)
    often, found = ValidateOften(budget, 4), []
    for step_number in range(101):
        monkeypatch.setattr(TimeBudget, "elapsed", float(step_number))
        control = SimpleNamespace(should_evaluate=False, should_save=False)
        often.on_step_end(None, SimpleNamespace(global_step=step_number, max_steps=1000), control)
        if control.should_evaluate:
            found.append(step_number)
            budget.validation_seconds = seconds
    assert found == asked

"""The last part of a run, which trains on validation: what it leaves behind, and what is said of it."""

from __future__ import annotations

import json
import logging
import os
import signal

import numpy as np
import pytest
import torch
from test_data_recipes_mind import random_mind
from test_training_run import arguments, data  # noqa: F401  (a fixture)

from interest_lm.data.log import TEST, TRAIN, VALIDATION, InterestLog
from interest_lm.data.prepare import prepare
from interest_lm.publishing.card import render_card
from interest_lm.publishing.measure import evaluate_checkpoint
from interest_lm.publishing.push import push_model
from interest_lm.training import blend, refit, run
from interest_lm.training.trainer import WeightAverage


def checkpoints(folder) -> list[str]:
    return sorted(name for name in os.listdir(folder) if name.startswith("checkpoint-"))


def test_the_clock_may_end_the_refit_and_touches_no_checkpoint(data, tiny_bert, tmp_path, monkeypatch):  # noqa: F811
    """What a later call resumes from is the first trainer's, the best one among it."""
    original = run.refit
    monkeypatch.setattr(run, "refit", lambda trainer, minutes, *rest: original(trainer, 1e-9, *rest))
    out = run.train(arguments(data, tmp_path / "out", tiny_bert, max_steps=30, eval_steps=10))
    assert out["training"]["refit_steps"] == 1
    assert len(out["training"]["log"]) == 3  # and no validation on what was trained on
    best = json.loads((tmp_path / "out" / "checkpoint-30" / "trainer_state.json").read_text())["best_global_step"]
    assert f"checkpoint-{best}" in checkpoints(tmp_path / "out") and "checkpoint-1" not in checkpoints(
        tmp_path / "out"
    )


def test_an_interrupted_refit_leaves_the_model_as_it_came_and_can_be_resumed(
    data,  # noqa: F811
    tiny_bert,
    tmp_path,
    monkeypatch,
):
    step_end, fill, before = run.StopOnSignal.on_step_end, refit.fill_population, {}

    def interrupt(self, args, state, control, **kwargs):
        if args.save_strategy == "no" and state.global_step == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return step_end(self, args, state, control, **kwargs)

    def remember(model, tensors):
        before.update({name: value.clone() for name, value in model.state_dict().items()})
        fill(model, tensors)

    monkeypatch.setattr(run.StopOnSignal, "on_step_end", interrupt)
    monkeypatch.setattr(refit, "fill_population", remember)
    monkeypatch.setattr(run, "calibrate", lambda predictor, validation: None)
    out = run.train(arguments(data, tmp_path / "out", tiny_bert, max_steps=30, eval_steps=10))
    assert out["training"]["interrupted"] and out["training"]["refit_steps"] == 0
    for name, value in out["model"].state_dict().items():
        torch.testing.assert_close(value, before[name], msg=name)
    assert "checkpoint-2" not in checkpoints(tmp_path / "out") and "checkpoint-30" in checkpoints(tmp_path / "out")
    monkeypatch.setattr(run.StopOnSignal, "on_step_end", step_end)
    again = run.train(arguments(data, tmp_path / "out", tiny_bert, max_steps=30, eval_steps=10,
                                resume_from_checkpoint="True"))  # fmt: skip
    assert not again["training"]["interrupted"] and again["training"]["refit_steps"] > 0


def test_a_refit_makes_no_forecast_surer(data, tiny_bert, tmp_path, monkeypatch):  # noqa: F811
    """How sure forecasts are is fitted on windows that were not trained on, and so not where validation is."""
    original, seen = run.refit, {}

    def sure(model) -> list[torch.Tensor]:
        head, sizes = model.domain_head, model.intensity_head.dispersion
        away = model.intensity_head.absence, model.intensity_head.absence_slopes
        parts = (head.concentration, head.concentration_slope, sizes, *away, head.node.weight)
        return [part.detach().clone() for part in parts]

    def watched(trainer, *rest):
        seen["before"] = sure(trainer.interest_model)
        seen["level"] = trainer.interest_model.intensity_head.level.tolist()
        seen["network"] = trainer.interest_model.config.intensity_calibration
        return original(trainer, *rest)

    monkeypatch.setattr(run, "refit", watched)
    head = {"level": [0.3, -0.2, 0.1, 0.0], "strength": [0.1, 0.2, 0.3, 0.4, 0.5], "network": [0.75]}
    found = {"shares": [-0.5, 0.1], "intensity": head}
    monkeypatch.setattr(run, "calibrate", lambda predictor, validation: found)
    out = run.train(arguments(data, tmp_path / "out", tiny_bert))
    # what corrects expected counts is not there while it trains, which would undo it
    model = out["model"]
    assert seen["network"] is None and model.config.intensity_calibration == [0.0, 1.0, 0.75, 1.0, 0.0]
    assert seen["level"] != pytest.approx(head["level"])
    assert model.intensity_head.level.tolist() == pytest.approx(head["level"])
    assert model.intensity_head.strength.tolist() == pytest.approx(head["strength"])
    assert out["training"]["refit_steps"]
    *before, node = seen["before"]
    *after, moved = sure(out["model"])
    for one, other in zip(before, after, strict=True):
        torch.testing.assert_close(one, other)
    assert not torch.equal(node, moved)
    assert float(before[0][0].mean()) == pytest.approx(np.log(20.0) - 0.5, abs=0.4)  # calibrated before


@pytest.mark.parametrize(("view", "part"), [(True, "ranking"), (False, "whole")])
def test_the_steps_follow_those_that_ranking_could_use(data, tiny_bert, tmp_path, monkeypatch, view, part):  # noqa: F811
    original = run.refit

    def early(trainer, *rest):
        assert part in trainer.average.good_step  # as it was trained
        trainer.average.good_step[part] = 10
        trainer.state.best_global_step = 30
        return original(trainer, *rest)

    monkeypatch.setattr(run, "refit", early)
    changes = {"max_steps": 30, "eval_steps": 10, "refit_share": 0.5, "use_domain_view": view}
    out = run.train(arguments(data, tmp_path / "out", tiny_bert, **changes))
    assert out["training"]["refit_steps"] == 10


def test_a_loaded_average_goes_where_the_model_is(tmp_path):
    model, average = torch.nn.Linear(2, 2, device="meta"), WeightAverage()
    average.average = {"weight": torch.ones(2, 2), "bias": torch.ones(2)}  # as `load` leaves it
    average.on_train_begin(None, None, None, model=model)
    assert {value.device.type for value in average.average.values()} == {"meta"}


def test_validation_is_known_with_what_was_shown_in_it(tmp_path):
    prepare("mind", [random_mind(tmp_path / "source", impressions=250)], tmp_path / "data", quiet=True)
    log = InterestLog.load(tmp_path / "data")
    whole = refit.with_validation(log)
    assert (log.split == VALIDATION).any() and (log.impressions.split == VALIDATION).any()
    for before, after in ((log.split, whole.split), (log.impressions.split, whole.impressions.split)):
        np.testing.assert_array_equal(after == 0, before < TEST)
        np.testing.assert_array_equal(after == TEST, before == TEST)


def test_evaluate_knows_what_the_run_knew_and_says_what_was_trained_on(hub, tiny_bert, tmp_path, caplog):
    world = {"num_users": 40, "num_items": 60, "seed": 3}
    folder = prepare("synthetic", [], tmp_path / "data", world=world, split="leave-last", quiet=True)
    log = InterestLog.load(folder)
    out = run.train(arguments(folder, tmp_path / "out", tiny_bert, baselines="short"))
    assert out["training"]["refit_steps"]
    results = evaluate_checkpoint(tmp_path / "out", log, baselines=[], output=tmp_path / "test.json")
    assert results["ranking"]["ndcg@10"] == pytest.approx(out["results"]["ranking"]["ndcg@10"], abs=1e-4)
    with caplog.at_level(logging.WARNING):
        evaluate_checkpoint(tmp_path / "out", log, split="validation", baselines=[], output=tmp_path / "v.json")
    assert "trained on the validation events" in caplog.text
    pushed = push_model(tmp_path / "out", "tester/refitted")
    again = evaluate_checkpoint(f"tester/refitted@{pushed.commit}", log, baselines=[], output=tmp_path / "hub.json")
    assert again["ranking"]["ndcg@10"] == pytest.approx(results["ranking"]["ndcg@10"], abs=1e-6)
    card = (tmp_path / "out" / "README.md").read_text()
    assert "trained on with the validation events" in card and "crosses into validation or test" not in card
    plain = render_card(config=out["model"].config, results=None, facts=log.facts, training={"refit_steps": 0})
    assert "crosses into validation or test" in str(plain)


@pytest.mark.parametrize("share", [0.0, 0.2])
def test_without_a_refit_no_matrix_knows_validation(data, tiny_bert, tmp_path, monkeypatch, share):  # noqa: F811
    seen, original = [], blend.Matrices.fit

    def fit(self, relation, **setting):
        seen.append((int((self.log.split == TRAIN).sum()), int((self.item_ids >= 0).sum())))
        return original(self, relation, **setting)

    monkeypatch.setattr(blend.Matrices, "fit", fit)
    monkeypatch.setattr(blend, "WEIGHTS", (0.001,) * 8)
    monkeypatch.setattr(blend, "mean_ndcg", lambda *_: len(seen) / 1000)  # everything tried is better than before
    run.train(arguments(data, tmp_path / "out", tiny_bert, refit_share=share))
    log = InterestLog.load(data)
    train = log.split == TRAIN
    expected = {(int(train.sum()), len(np.unique(log.item[train])))}
    if share:  # the matrices of the finished model know what validation saw first
        known = log.split < TEST
        expected.add((int(known.sum()), len(np.unique(log.item[known]))))
    assert set(seen) == expected


@pytest.mark.parametrize("share", [0.0, 0.35])
def test_the_learning_rate_is_handed_over(data, tiny_bert, tmp_path, monkeypatch, share):  # noqa: F811
    """With a refit the first part ends at 40 % of the rate and the second goes on from there, domains at a quarter of that."""
    made = []
    for module in (run, refit):

        def remember(*args, trainer=module.InterestTrainer, **kwargs):
            made.append(trainer(*args, **kwargs))
            return made[-1]

        monkeypatch.setattr(module, "InterestTrainer", remember)
    run.train(arguments(data, tmp_path / "out", tiny_bert, refit_share=share, max_steps=20, learning_rate=1e-2))
    first = made[0]
    assert first.lr_scheduler.get_last_lr()[0] == pytest.approx(1e-2 * (0.4 if share else 0.02), rel=0.05)
    assert {group["initial_lr"] for group in first.optimizer.param_groups} == {1e-2}
    assert len(made) == (2 if share else 1)
    if share:
        domains = {id(parameter) for parameter in first.interest_model.domain_head.parameters()}
        assert domains
        for group in made[1].optimizer.param_groups:
            inside = [id(parameter) in domains for parameter in group["params"]]
            expected = 4e-3 * (0.25 if any(inside) else 1.0)
            assert group["initial_lr"] == pytest.approx(expected)
        assert made[1].lr_scheduler.get_last_lr()[0] < 4e-3 * 0.2

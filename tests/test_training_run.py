"""Whole runs on a tiny world: LoRA and frozen, resume, interruption, one call, bad input."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from label_logs import make_log, random_frames
from peft import PeftModel
from safetensors import SafetensorError
from transformers import AutoModel, TrainerCallback

import interest_lm
from interest_lm.data.log import InterestLog
from interest_lm.data.prepare import prepare
from interest_lm.publishing.push import push_adapter, push_model
from interest_lm.training import finetune, run, trainer
from interest_lm.training.arguments import InterestTrainingArguments


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world") / "data"
    prepare("synthetic", [], folder, world={"num_users": 40, "num_items": 60, "seed": 3}, quiet=True)
    return folder


def arguments(data, output, backbone, **more) -> InterestTrainingArguments:
    settings = {
        "tuning": "frozen",
        "hidden_size": 16,
        "intermediate_size": 16,
        "max_history": 16,
        "per_device_train_batch_size": 4,
        "max_steps": 6,
        "eval_steps": 3,
        "prior_steps": 3,
        "logging_steps": 2,
        "baselines": "none",
        "bf16": False,
        "disable_tqdm": True,
    } | more
    return InterestTrainingArguments(output_dir=str(output), data=str(data), backbone=str(backbone), **settings)


def weights(folder) -> dict[str, torch.Tensor]:
    return AutoModel.from_pretrained(folder).state_dict()


def test_lora_trains_the_text_tower_and_merges(data, tiny_bert, tmp_path, monkeypatch, hub):
    monkeypatch.setattr(run, "check_change", lambda predictor, validation: {"reliable": False})
    scales = []
    monkeypatch.setattr(run, "sure_scale", lambda predictor, validation: 0.75)
    rate = {"shares": [0.0, 0.0], "intensity": {"gap": [0.25, -0.5], "network": [0.9]}}
    monkeypatch.setattr(run, "calibrate", lambda predictor, validation: rate)
    monkeypatch.setattr(
        run, "refit", lambda trainer, *rest: scales.append(trainer.interest_model.config.residual_scale) or 1
    )
    out = run.train(arguments(data, tmp_path / "out", tiny_bert, tuning="lora", live_texts=8, live_every=1))
    loaded = AutoModel.from_pretrained(tmp_path / "out").eval()
    base = AutoModel.from_pretrained(tiny_bert).state_dict()
    name = "encoder.layer.0.attention.self.query.weight"
    assert (loaded.text_model.state_dict()[name] - base[name]).abs().max() > 0
    frozen = "embeddings.word_embeddings.weight"
    torch.testing.assert_close(loaded.text_model.state_dict()[frozen], base[frozen])
    assert {"README.md", "results.json"} - set(os.listdir(tmp_path / "out")) <= {"results.json"}
    # the adapter on a fresh base gives the merged model
    adapter = json.loads((tmp_path / "out" / "adapter" / "adapter_config.json").read_text())
    assert adapter["task_type"] == "FEATURE_EXTRACTION" and "domain_head" in adapter["modules_to_save"]
    log = InterestLog.load(data)
    torch.manual_seed(9)
    bare, _ = run.new_model(log, arguments(data, tmp_path / "other", tiny_bert))
    merged = PeftModel.from_pretrained(bare, tmp_path / "out" / "adapter").merge_and_unload()
    for key, value in merged.state_dict().items():
        torch.testing.assert_close(value, loaded.state_dict()[key], atol=1e-6, rtol=1e-5, msg=key)
    # and so it does on the base that the run leaves beside it, which holds the backbone's own weights and the code
    assert sorted(os.listdir(tmp_path / "out" / "adapter")) == ["adapter_config.json", "adapter_model.safetensors"]
    beside = AutoModel.from_pretrained(tmp_path / "out" / "base")
    torch.testing.assert_close(beside.text_model.state_dict()[name], base[name])
    assert not beside.config.change_is_reliable  # as the merged one: an adapter's config is its base's
    assert beside.config.domain_temperature == loaded.config.domain_temperature
    # the refit trains with all of what the network says
    assert scales == [1.0] and beside.config.residual_scale == loaded.config.residual_scale == 0.75
    assert beside.config.intensity_calibration == loaded.config.intensity_calibration == [0.0, 1.0, 0.9, 1.0, 0.0]
    assert loaded.intensity_head.gap.tolist() == [0.25, -0.5]
    merged = PeftModel.from_pretrained(beside, tmp_path / "out" / "adapter").merge_and_unload()
    for key, value in merged.state_dict().items():
        torch.testing.assert_close(value, loaded.state_dict()[key], atol=1e-6, rtol=1e-5, msg=key)
    assert (tmp_path / "out" / "base" / "modeling_interest.py").exists()
    recipe = json.loads((tmp_path / "out" / "training.json").read_text())["training"]["recipe"]
    assert recipe["lora_rank"] == 8 and recipe["learning_rate"] == 2e-3 and "output_dir" not in recipe
    derived = ("hidden_size", "num_attention_heads", "hidden_dropout")  # by the log where nobody says otherwise
    assert [recipe[name] for name in derived] == [getattr(loaded.config, name) for name in derived]
    assert out["training"]["steps"] == 6
    checked = json.loads((tmp_path / "out" / "training.json").read_text())["training"]["change"]
    assert checked == {"reliable": False} and not loaded.config.change_is_reliable
    # all three can be published, and name nobody
    push_model(tmp_path / "out", "tester/run")
    push_model(tmp_path / "out" / "base", "tester/run-base")
    push_adapter(tmp_path / "out", "tester/run-lora", base="tester/run-base")
    for name in ("run", "run-base", "run-lora"):
        for file, content in hub.model(f"tester/{name}").files.items():
            words = set(re.findall(r"[\w-]+", content.decode())) if file.endswith((".json", ".md", ".txt")) else set()
            assert not words & {str(user) for user in log.user_ids}, file


def test_one_domain_for_everything_is_no_reason_to_fail(tiny_bert, tmp_path):
    """Every forecast of shares is right there, and a difference in per cent of nothing is none."""
    events, items = random_frames(3, users=30, events=900)
    items["categories"] = [[["Everything"]]] * len(items)
    settings = arguments("", tmp_path / "out", tiny_bert, baselines="short")
    settings.data = None
    out = run.train(settings, make_log(events, items))
    paired = out["results"]["paired"]["future.cross_entropy"]
    assert (paired["difference"], paired["unit"]) == (0.0, "absolute")
    assert (tmp_path / "out" / "model.safetensors").exists()


def test_a_resumed_run_ends_in_the_same_weights(data, tiny_bert, tmp_path):
    run.train(arguments(data, tmp_path / "whole", tiny_bert, load_best_model_at_end=False))

    class Stop(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            control.should_training_stop = state.global_step == 3
            return control

    original = run.InterestTrainer.__init__
    try:

        def with_stop(self, *positional, callbacks, **named):
            original(self, *positional, callbacks=[*callbacks, Stop()], **named)

        run.InterestTrainer.__init__ = with_stop
        run.train(arguments(data, tmp_path / "parts", tiny_bert))
    finally:
        run.InterestTrainer.__init__ = original
    assert (tmp_path / "parts" / "checkpoint-3").is_dir()
    run.train(arguments(data, tmp_path / "parts", tiny_bert, resume_from_checkpoint="True"))
    whole = torch.load(tmp_path / "whole" / "checkpoint-6" / "optimizer.pt", weights_only=True)["state"]
    parts = torch.load(tmp_path / "parts" / "checkpoint-6" / "optimizer.pt", weights_only=True)["state"]
    assert len(whole) == len(parts) > 10
    for key in whole:
        torch.testing.assert_close(whole[key]["exp_avg"], parts[key]["exp_avg"])
    first, second = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    for name in first:
        torch.testing.assert_close(first[name], second[name], msg=name)


def test_a_resumed_run_reads_texts_as_its_last_validation_did(data, tiny_bert, tmp_path, monkeypatch):
    """And not with the text tower that nothing has trained yet."""
    read, original, evaluate = {}, run.InterestTrainer.compute_loss, run.InterestTrainer.evaluate

    def see(self, *positional, **named):
        read.setdefault("first step", self.builder.tensors.texts.clone())
        return original(self, *positional, **named)

    def validate(self, *positional, **named):
        figures = evaluate(self, *positional, **named)
        read["validation"] = self.builder.tensors.texts.clone()
        return figures

    monkeypatch.setattr(run.InterestTrainer, "compute_loss", see)
    monkeypatch.setattr(run.InterestTrainer, "evaluate", validate)
    changes = {"tuning": "lora", "live_texts": 8, "live_every": 1, "eval_steps": 3, "refit_share": 0.0}
    run.train(arguments(data, tmp_path / "out", tiny_bert, max_steps=3, **changes))
    untrained, left = read.pop("first step"), read.pop("validation")
    assert (left - untrained).abs().max() > 1e-4
    run.train(arguments(data, tmp_path / "out", tiny_bert, resume_from_checkpoint="True", **changes))
    torch.testing.assert_close(read["first step"], left, atol=1e-5, rtol=0)


def test_an_interrupted_run_leaves_a_checkpoint_that_loads(data, tiny_bert, tmp_path, monkeypatch):
    step_end = run.StopOnSignal.on_step_end

    def interrupt(self, args, state, control, **kwargs):
        if state.global_step == 4:
            os.kill(os.getpid(), signal.SIGINT)
        return step_end(self, args, state, control, **kwargs)

    monkeypatch.setattr(run.StopOnSignal, "on_step_end", interrupt)
    handler = signal.getsignal(signal.SIGINT)
    args = arguments(data, tmp_path / "out", tiny_bert, max_steps=50)
    outcome = run.train(args)
    assert outcome["training"]["interrupted"] and outcome["training"]["steps"] in (4, 5)
    # nobody has looked whether its trends are more than chance
    assert not AutoModel.from_pretrained(tmp_path / "out").config.change_is_reliable
    assert signal.getsignal(signal.SIGINT) is handler
    assert any(name.startswith("checkpoint-") for name in os.listdir(tmp_path / "out"))
    assert torch.isfinite(weights(tmp_path / "out")["ranking_head.direction.weight"]).all()


def test_a_disk_that_is_too_small_is_named_before_anything_is_written(data, tiny_bert, tmp_path, monkeypatch):
    usage = shutil.disk_usage
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(path)._replace(free=2**20))
    with pytest.raises(ValueError, match=r"out: 1 MiB are free, expected \d+ MiB for checkpoints and the model$"):
        run.train(arguments(data, tmp_path / "out", tiny_bert))
    assert not (tmp_path / "out").exists()


def test_after_a_full_disk_a_run_goes_on_from_the_last_whole_checkpoint(
    data, tiny_bert, tmp_path, monkeypatch, capsys
):
    words = ["--data", data, "--output_dir", tmp_path / "out", "--backbone", tiny_bert, "--tuning", "frozen"]
    words += ["--max_steps", 4, "--eval_steps", 2, "--evaluations", 2, "--prior_steps", 2, "--refit_share", 0]
    words = [str(word) for word in words]
    saved = []

    def save_file(tensors, file, *rest):
        saved.append(file)
        if len(saved) == 2:
            raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
        return write(tensors, file, *rest)

    write = trainer.save_file
    monkeypatch.setattr(trainer, "save_file", save_file)
    assert finetune.main(words) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith(f"error: {tmp_path / 'out'}: the disk is full") and "--resume_from_checkpoint True" in line
    first, second = (file.parent for file in saved)
    assert (second / "model.safetensors").exists()  # written in part
    assert finetune.main([*words, "--resume_from_checkpoint", "True"]) == 0
    assert json.loads((second / "trainer_state.json").read_text())["global_step"] == 4
    (first / "average.safetensors").unlink()
    (second / "average.safetensors").unlink()
    assert finetune.main([*words, "--resume_from_checkpoint", "True"]) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert "no average.safetensors in it, nor in an earlier one" in line and "--average_gamma 0" in line


def test_what_a_run_leaves_fits_into_what_it_asks_for(data, tiny_bert, tmp_path, monkeypatch):
    args = arguments(data, tmp_path / "out", tiny_bert)
    outcome = run.train(args)
    left = sum(file.stat().st_size for file in (tmp_path / "out").rglob("*") if file.suffix in (".safetensors", ".pt"))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=0))
    asked = int(re.search(r"expected (\d+) MiB", run.missing_space(args, outcome["model"]))[1]) << 20
    assert left < asked + 2**20 < 3 * left + 2**21


def test_accumulated_batches_equal_one_large_batch(data, tiny_bert, tmp_path):
    """One step of 8 rows, and 8 accumulated steps of one: the gradient of the mean, not of the sum."""
    norms = []
    for name, rows, steps in (("large", 8, 1), ("small", 1, 8)):
        args = arguments(
            data, tmp_path / name, tiny_bert, per_device_train_batch_size=rows, gradient_accumulation_steps=steps,
            max_steps=1, logging_steps=1, hidden_dropout=0.0, item_id_dropout=0.0, max_grad_norm=1e9,
            cuts_per_row=0, completions_per_row=0.0, prior_steps=0, task_weights="overall=0,rating=0",
        )  # fmt: skip
        run.train(args)
        state = json.loads((tmp_path / name / "checkpoint-1" / "trainer_state.json").read_text())
        norms.append(next(entry["grad_norm"] for entry in state["log_history"] if "grad_norm" in entry))
    assert norms[0] == pytest.approx(norms[1], rel=0.15)


def test_the_time_budget_ends_a_run(data, tiny_bert, tmp_path):
    outcome = run.train(
        arguments(data, tmp_path / "out", tiny_bert, max_steps=10**6, max_minutes=1e-6, eval_steps=10**6)
    )
    assert outcome["training"]["steps"] == 1


def test_fit_recommends_and_profiles_by_own_ids(tiny_bert, tmp_path):
    random = np.random.default_rng(0)
    genres = ["Crime", "Jazz", "Food"]
    items = pd.DataFrame(
        {
            "item_id": [f"i{n}" for n in range(12)],
            "title": [f"{genres[n % 3]} number {n}" for n in range(12)],
            "categories": [[[genres[n % 3]]] for n in range(12)],
        }
    )
    rows = [
        {"user_id": f"u{user}", "item_id": f"i{random.integers(12)}", "timestamp": 1_600_000_000 + 86_400 * day + user}
        for user in range(25)
        for day in range(0, 120, 6)
    ]
    fitted = interest_lm.fit(
        pd.DataFrame(rows), items, output_dir=tmp_path / "out", backbone=str(tiny_bert), tuning="frozen", max_steps=4,
        hidden_size=16, max_history=16, prior_steps=2, baselines="none", disable_tqdm=True,
    )  # fmt: skip
    lists = fitted.recommend(["u3", "u7"], k=4)
    assert [entry["user"] for entry in lists] == ["u3", "u7"]
    assert all(
        len(entry["ranking"]) == 4 and {row["item_id"] for row in entry["ranking"]} <= set(items["item_id"])
        for entry in lists
    )
    profile = fitted.profile("u3")
    assert {domain["domain"] for domain in profile["domains"]} <= set(genres)
    with pytest.raises(ValueError, match="nobody"):
        fitted.recommend(["nobody"])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--tuning", "magic"], "magic"),
        (["--data", "nowhere"], "nowhere"),
        (["--task_weights", "ranking:1"], "task=weight"),
        (["--horizons", "3", "1"], "ascending"),
        (["--resume_from_checkpoint", "True"], "no checkpoint"),
        (["unknown.yaml"], "unknown.yaml"),
    ],
)
def test_bad_arguments_are_one_line(data, tiny_bert, tmp_path, capsys, flags, message):
    argv = [
        "--data",
        str(data),
        "--output_dir",
        str(tmp_path / "out"),
        "--backbone",
        str(tiny_bert),
        "--max_steps",
        "1",
    ]
    argv = flags + argv if flags[0].endswith(".yaml") else argv + flags
    assert finetune.main(argv) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("error: ") and message in line
    assert not (tmp_path / "out" / "config.json").exists()


def test_an_existing_folder_is_kept(data, tiny_bert, tmp_path, capsys):
    (tmp_path / "precious.txt").write_text("mine")
    assert finetune.main(["--data", str(data), "--output_dir", str(tmp_path), "--backbone", str(tiny_bert)]) == 2
    assert "exists" in capsys.readouterr().err
    assert (tmp_path / "precious.txt").read_text() == "mine"


@pytest.mark.parametrize("recipe", sorted(path.name for path in finetune.RECIPES.glob("*.yaml")))
def test_recipes_are_found_by_name_and_readable(recipe, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    args = finetune.parse([recipe, "--output_dir", "out"])
    assert args.minutes(10**5) > 0 and args.output_dir == "out"
    (tmp_path / recipe).write_text("max_minutes: 3\n")  # a file of one's own comes first
    assert finetune.parse([recipe]).max_minutes == 3


def test_the_budget_follows_the_number_of_events_unless_minutes_are_given(tmp_path):
    (tmp_path / "recipe.yaml").write_text("minutes_per_100k_events: 10\n")
    words = [str(tmp_path / "recipe.yaml"), "--output_dir", "out"]
    args = finetune.parse(words)
    assert [args.minutes(events) for events in (1_000, 200_000, 10**6)] == [6.5, 20.0, 55.0]
    assert finetune.parse([*words, "--max_minutes", "0"]).minutes(10**6) == 0.0
    assert finetune.parse([*words, "--max_minutes", "2"]).minutes(10**6) == 2.0
    assert finetune.parse(["--output_dir", "out"]).minutes(10**6) == 0.0
    with pytest.raises(ValueError, match="`minutes_per_100k_events` is -1.0, expected 0 or more"):
        finetune.parse([*words, "--minutes_per_100k_events", "-1"])


def test_yaml_first_then_flags(tmp_path, tiny_bert):
    (tmp_path / "recipe.yaml").write_text("tuning: frozen\nlearning_rate: 0.01\nhorizons: [1, 5]\n")
    args = finetune.parse([str(tmp_path / "recipe.yaml"), "--output_dir", str(tmp_path), "--learning_rate", "0.02"])
    assert args.tuning == "frozen" and args.learning_rate == 0.02 and args.horizons == [1, 5]
    last = finetune.parse(["--output_dir", str(tmp_path), str(tmp_path / "recipe.yaml")])
    assert last.tuning == "frozen" and last.learning_rate == 0.01
    (tmp_path / "wrong.yaml").write_text("tunning: frozen\n")
    with pytest.raises(ValueError, match="tunning"):
        finetune.parse([str(tmp_path / "wrong.yaml")])


@pytest.mark.parametrize(("minutes", "passes"), [(0.0, 12), (60.0, 40)])
def test_a_budget_is_not_cut_short_by_passes(data, tiny_bert, tmp_path, minutes, passes):
    args = arguments(data, tmp_path / "out", tiny_bert, max_minutes=minutes, num_train_epochs=0.0)
    args.refit_share = 0.25  # which takes its share of the passes
    run.derive_schedule(args, SimpleNamespace(num_slots=10**6))
    assert args.num_train_epochs == 0.75 * passes


def test_a_run_must_be_told_where_to_write(data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="`output_dir` is missing"):
        run.train(InterestTrainingArguments(data=str(data)))
    assert not list(tmp_path.iterdir())

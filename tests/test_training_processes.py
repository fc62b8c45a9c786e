"""Fine-tuning on two processes of this machine (gloo on CPUs): the launched command, and what the processes must agree on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoModel

from interest_lm.data.prepare import prepare


pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world") / "data"
    return prepare("synthetic", [], folder, world={"num_users": 40, "num_items": 60, "seed": 3}, quiet=True)


def flags(data: Path, output: Path, backbone: Path, **more) -> list[str]:
    settings = {
        "data": data,
        "output_dir": output,
        "backbone": backbone,
        "hidden_size": 16,
        "intermediate_size": 16,
        "max_history": 16,
        "per_device_train_batch_size": 4,
        "prior_steps": 2,
        "baselines": "none",
        "bf16": False,
        "disable_tqdm": True,
    } | more
    return [word for name, value in settings.items() for word in (f"--{name}", str(value))]


def launch(*arguments: object) -> subprocess.CompletedProcess:
    """Two processes under torchrun; ended, with all that they started, where they wait for each other."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    return subprocess.run(
        [*command, *map(str, arguments)],
        env=os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_the_command_trains_on_two_processes(data, tiny_bert, tmp_path):
    """LoRA: the text tower trains, and every validation encodes the texts anew into a folder that both share."""
    words = flags(
        data, tmp_path / "out", tiny_bert, tuning="lora", live_texts=4, max_steps=4, eval_steps=2, logging_steps=1
    )
    ended = launch("-m", "interest_lm.training.finetune", *words)
    assert ended.returncode == 0, ended.stderr[-3000:]
    training = json.loads((tmp_path / "out" / "training.json").read_text())["training"]
    assert training["processes"] == 2 and training["steps"] == 4 and len(training["log"]) == 2
    loaded, base = AutoModel.from_pretrained(tmp_path / "out"), AutoModel.from_pretrained(tiny_bert)
    name = "encoder.layer.0.attention.self.query.weight"
    assert (loaded.text_model.state_dict()[name] - base.state_dict()[name]).abs().max() > 0


SCRIPT = """
    import hashlib, json, os, signal, sys, time
    from pathlib import Path

    import torch
    from transformers import TrainerCallback
    from interest_lm.training import batches, finetune, run

    folder, *words = sys.argv[1:]
    folder, rank = Path(folder), int(os.environ["RANK"])
    say = {"rank": rank}

    def digest(model):
        centers = [value for name, value in model.named_buffers() if name.endswith(".center")]
        assert centers  # the mean query, which each process follows on rows of its own
        trained = [p for p in model.parameters() if p.requires_grad]
        flat = torch.cat([p.detach().flatten() for p in trained + centers])
        return hashlib.sha256(flat.numpy().tobytes()).hexdigest()

    class Watch(TrainerCallback):
        def on_step_end(self, args, state, control, model=None, **kwargs):
            self.weights = digest(model)
            if self.step is not None:
                self.step(state)

        def on_train_end(self, args, state, control, **kwargs):
            self.steps = state.global_step

    def train(name, step=None, **more):
        args = finetune.parse([*words, "--output_dir", str(folder / name)])
        for key, value in more.items():
            setattr(args, key, value)
        watch = Watch()
        watch.step = step
        outcome = run.train(args, callbacks=[watch])
        say[name] = {
            "steps": watch.steps, "weights": watch.weights, "interrupted": outcome["training"]["interrupted"],
            "world": torch.distributed.get_world_size(), "best": outcome["training"]["best_validation"],
        }

    # one pass: which rows each process sees; the second one never sees a label of some tasks
    rows, collate = [], batches.BatchBuilder.__call__

    def watched(self, samples):
        batch = collate(self, samples)
        if self.completions == 0.75:  # the run's own batches, not those of the prior
            rows.extend((int(epoch), int(row)) for epoch, row, _ in samples)
            absent = ("overall_labels", "rating_labels", "completion_counts", "future_counts", "future_mask")
            for task in (*absent, "change_labels", "intensity_counts") if rank == 1 else ():
                batch.pop(task, None)
        return batch

    batches.BatchBuilder.__call__ = watched
    # without a search for unused parameters, as under activation checkpointing, every head must take part
    once = {"num_train_epochs": 1.0, "patience": 0, "refit_share": 0.0}
    train("pass", completions_per_row=0.75, ddp_find_unused_parameters=False, **once)
    say["rows"] = rows
    batches.BatchBuilder.__call__ = collate

    # clocks that differ by an hour
    clock = time.monotonic
    time.monotonic = lambda: clock() + 3600.0 * rank * ticking
    ticking = False

    def tick(state):
        global ticking
        ticking = state.global_step >= 2

    train("clocks", tick, max_steps=1000, max_minutes=30.0, evaluations=2, patience=0)
    time.monotonic = clock

    # a signal that reaches the second process alone
    def kill(state):
        if rank == 1 and state.global_step == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    train("signal", kill, max_steps=1000, patience=0)

    # what the first process writes is not in the second one's way; another run's output is in everybody's
    say["refused"] = finetune.main([*words, "--output_dir", str(folder / "pass")])
    (folder / f"rank{rank}.json").write_text(json.dumps(say))
"""


def test_processes_share_the_rows_and_agree_on_when_to_stop(data, tiny_bert, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(SCRIPT))
    words = flags(data, tmp_path / "unused", tiny_bert, tuning="frozen", per_device_train_batch_size=3)
    ended = launch(script, tmp_path, *words)
    assert ended.returncode == 0, ended.stderr[-3000:]
    first, second = (json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in (0, 1))
    for name in ("pass", "clocks", "signal"):
        assert first[name] == second[name], name
        assert first[name]["world"] == 2
        assert (tmp_path / name / "model.safetensors").exists()
    assert first["refused"] == second["refused"] == 2 and "pass: exists; give --overwrite" in ended.stderr
    own, other = ([tuple(row) for row in said["rows"]] for said in (first, second))
    seen = own + other
    assert len(own) == len(other) > 0 and {epoch for epoch, _ in seen} == {0}
    assert len(set(seen)) == len(seen)
    # whole steps of 2 x 3 rows
    assert np.sort([row for _, row in seen]).tolist() == list(range(len(seen)))
    assert first["pass"]["steps"] == len(seen) // 6
    assert first["clocks"]["steps"] in (2, 3) and not first["clocks"]["interrupted"]
    assert first["signal"]["steps"] in (2, 3) and first["signal"]["interrupted"]

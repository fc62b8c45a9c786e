"""Pulling from a Hub in processes of their own: every way to load gives the trained model's answers, pinned, offline, or a plain error.

The reading process cannot import `interest_lm` and starts with an empty cache; it tells what it found as one line of JSON.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from local_hub import Repository
from published import INPUTS, REQUEST
from safetensors.torch import load_file, save_file

from interest_lm.data.prepare import prepare
from interest_lm.pipeline_interest import InterestPipeline
from interest_lm.publishing.export import save_checkpoint
from interest_lm.publishing.push import push_adapter, push_dataset, push_model


ROOT = Path(__file__).resolve().parents[1]
ANSWERS = """
import json, sys
sys.modules["interest_lm"] = None
import torch
from transformers import AutoConfig, AutoModel, AutoProcessor, pipeline

asked = json.loads(sys.argv[1])
found = {}

def answers(model, processor):
    with torch.no_grad():
        output = model.eval()(**processor(**asked["inputs"], return_tensors="pt").to(model.device))
    return {name: value.float().tolist() for name, value in output.items() if torch.is_tensor(value)}

def refused(load):
    try:
        load()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
"""

READ = (
    ANSWERS
    + """
import contextlib, io
with contextlib.redirect_stdout(io.StringIO()) as printed:
    exec(asked["five lines"], {})
found["five lines"] = printed.getvalue()

from peft import AutoPeftModelForFeatureExtraction, PeftModel

code = {"trust_remote_code": True}
pinned = code | {"revision": asked["commit"]}
config = AutoConfig.from_pretrained("tester/films", **pinned)
processor = AutoProcessor.from_pretrained("tester/films", **pinned)
model = AutoModel.from_pretrained("tester/films", **pinned)
assert type(model).__module__.startswith("transformers_modules"), type(model)
assert model.config.domains == config.domains
found["AutoModel"] = answers(model, processor)
ways = {
    "eager": {"attn_implementation": "eager"},
    "sdpa": {"attn_implementation": "sdpa"},
    "dtype": {"dtype": torch.float32},
    "device_map": {"device_map": "auto"},
    "low memory": {"device_map": {"": "cpu"}, "low_cpu_mem_usage": True},
    "safetensors": {"use_safetensors": True},
}
for name, more in ways.items():
    found[name] = answers(AutoModel.from_pretrained("tester/films", **pinned, **more), processor)
half = AutoModel.from_pretrained("tester/films", **pinned, dtype=torch.bfloat16)
found["half"] = str(next(half.parameters()).dtype)
found["in half"] = answers(half, processor)
found["sharded"] = answers(AutoModel.from_pretrained("tester/sharded", **code), processor)
found["config alone"] = type(AutoModel.from_config(config, **code)).__name__

pipe = pipeline("user-interest", model="tester/films", **pinned, device="cpu")
found["pipeline"] = pipe(asked["request"])

base = {"revision": asked["base"]} | code
processor = AutoProcessor.from_pretrained("tester/films-base", **base)
adapter = {"revision": asked["adapter"]}
found["AutoPeftModel"] = answers(AutoPeftModelForFeatureExtraction.from_pretrained("tester/films-lora", **adapter, **code), processor)
found["PeftModel"] = answers(
    PeftModel.from_pretrained(AutoModel.from_pretrained("tester/films-base", **base), "tester/films-lora", **adapter), processor
)
model = AutoModel.from_pretrained("tester/films-base", **base)
found["base"] = answers(model, processor)
model.load_adapter("tester/films-lora", adapter_kwargs=adapter)
found["load_adapter"] = answers(model, processor)
model.disable_adapters()
found["adapters off"] = answers(model, processor)
model = AutoModel.from_pretrained("tester/films-lora", adapter_kwargs=adapter, **base)
found["AutoModel of the adapter"] = answers(model, processor)
merged = AutoPeftModelForFeatureExtraction.from_pretrained("tester/films-lora", **adapter, **code).merge_and_unload()
found["merged here"] = answers(merged, processor)

for revision in ("first", "main", asked["tag"]):
    model = AutoModel.from_pretrained("tester/moving", revision=revision if revision != "first" else asked["first"], **code)
    processor = AutoProcessor.from_pretrained("tester/moving", revision=asked["first"], **code)
    found[f"moving {revision}"] = answers(model, processor), getattr(sys.modules[type(model).__module__], "EDITION", 1)
    pipe = pipeline("user-interest", model="tester/moving", revision=revision if revision != "first" else asked["first"], **code)
    found[f"moving pipeline {revision}"] = getattr(sys.modules[type(pipe).__module__], "EDITION", 1)

found["no trust"] = refused(lambda: AutoModel.from_pretrained("tester/films", trust_remote_code=False))
found["no token"] = refused(lambda: AutoModel.from_pretrained("tester/closed", token=False, **code))
found["token"] = type(AutoConfig.from_pretrained("tester/closed", **code)).__name__
found["truncated"] = refused(lambda: AutoModel.from_pretrained("tester/truncated", **code))
found["no such revision"] = refused(lambda: AutoModel.from_pretrained("tester/films", revision="v0", **code))
print(json.dumps(found))
"""
)

OFFLINE = (
    ANSWERS
    + """
pinned = {"revision": asked["commit"], "trust_remote_code": True}
pipe = pipeline("user-interest", model="tester/films", **pinned, device="cpu")
found["pipeline"] = pipe(asked["request"])
found["never pulled"] = refused(lambda: AutoModel.from_pretrained("tester/other", trust_remote_code=True))
print(json.dumps(found))
"""
)

WITH_THE_PACKAGE = """
import json, sys
from datasets import load_dataset
from interest_lm.data.log import InterestLog
from interest_lm.publishing.export import load_checkpoint

found = {}
def refused(load):
    try:
        load()
    except ValueError as error:
        return str(error)

commit = sys.argv[1]
found["titles"] = load_checkpoint(f"tester/films@{commit}")[2]["title"].tolist()
found["adapter"] = float(load_checkpoint("tester/films-lora")[0].ranking_head.direction.weight.sum())
found["truncated"] = refused(lambda: load_checkpoint("tester/truncated"))
found["pickled"] = refused(lambda: load_checkpoint("tester/pickled"))
found["nowhere"] = refused(lambda: load_checkpoint("tester/nowhere"))
found["no revision"] = refused(lambda: load_checkpoint("tester/films@v0"))
log = InterestLog.load("tester/world")
found["events"], found["users"], found["name"] = log.num_events, log.num_users, log.facts["name"]
streamed = InterestLog.load("tester/world", streaming=True)
found["streamed alike"] = [bool((getattr(log, name) == getattr(streamed, name)).all()) for name in ("user", "item", "timestamp", "split", "item_ids")]
found["streamed alike"] += [log.tree.ids == streamed.tree.ids, bool(abs(log.item_nodes - streamed.item_nodes).sum() == 0), log.facts == streamed.facts]
found["no stream"] = refused(lambda: InterestLog.load("tester/text", streaming=True))
found["no data"] = refused(lambda: InterestLog.load("tester/nowhere"))
found["no dataset"] = refused(lambda: InterestLog.load("tester/text"))
splits = load_dataset("tester/world", "events")
found["splits"] = {name: len(rows) for name, rows in splits.items()}
found["streamed"] = next(iter(load_dataset("tester/world", "events", split="train", streaming=True)))
found["items"] = load_dataset("tester/world", "items")["train"].column_names
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def published(local_hub, module_hub, trained, tmp_path_factory):
    """Repositories to pull from; returns the commits to pin."""
    folder = tmp_path_factory.mktemp("published")
    with module_hub():
        films = push_model(trained.folder, "tester/films")
        base = push_model(trained.folder / "base", "tester/films-base")
        adapter = push_adapter(trained.folder, "tester/films-lora", base="tester/films-base")
        push_model(trained.folder, "tester/closed", private=True)
        sharded = save_checkpoint(trained.model, trained.processor, folder / "sharded", max_shard_size="60KB")
        push_model(sharded, "tester/sharded")
        moving = shutil.copytree(trained.folder, folder / "moving", ignore=shutil.ignore_patterns("base", "adapter"))
        first = push_model(moving, "tester/moving")
        weights = load_file(moving / "model.safetensors")
        weights["ranking_head.direction.weight"] += 1.0
        save_file(weights, moving / "model.safetensors", metadata={"format": "pt"})
        for name in ("modeling_interest.py", "pipeline_interest.py"):
            (moving / name).write_text((moving / name).read_text() + "\n\nEDITION = 2\n")
        push_model(moving, "tester/moving")
        data = prepare(
            "synthetic", [], folder / "world", world={"num_users": 30, "num_items": 40, "seed": 2}, quiet=True
        )
        push_dataset(data, "tester/world")
    whole = local_hub.model("tester/films").files
    for name, content in {
        "truncated": whole | {"model.safetensors": whole["model.safetensors"][:-100]},
        "pickled": {name: data for name, data in whole.items() if name != "model.safetensors"}
        | {"pytorch_model.bin": b"cos\nsystem\n"},
    }.items():
        local_hub.repositories["models", f"tester/{name}"] = Repository()
        local_hub.model(f"tester/{name}").commit("main", content, "by hand")
    local_hub.repositories["datasets", "tester/text"] = Repository()
    local_hub.dataset("tester/text").commit("main", {"README.md": b"# words", "a.txt": b"words"}, "by hand")
    return {
        "commit": films.commit,
        "tag": first.tag,
        "first": first.commit,
        "base": base.commit,
        "adapter": adapter.commit,
    }


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("hf_home")


@pytest.fixture(scope="module")
def read(published, hub_process, home):
    """What the reading process found."""
    script = "\n".join(five_lines("README.md")).replace("owner/films", "tester/films")
    script = script.replace("FULL_COMMIT_HASH", published["commit"])
    asked = published | {"inputs": INPUTS, "request": REQUEST, "five lines": script}
    done = hub_process([sys.executable, "-c", READ, json.dumps(asked)], home, PYTHONPATH=None, PYTHONSAFEPATH="1")
    return json.loads(done.stdout.splitlines()[-1])


def same(found: dict, expected: dict, tolerance: float = 1e-5) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=tolerance, atol=tolerance, err_msg=name)


@pytest.mark.parametrize(
    "way", ["AutoModel", "eager", "sdpa", "dtype", "device_map", "low memory", "safetensors", "sharded"]
)
def test_a_checkpoint_answers_as_the_trained_model(read, trained, way):
    same(read[way], trained.outputs)


@pytest.mark.parametrize(
    "way", ["AutoPeftModel", "PeftModel", "load_adapter", "AutoModel of the adapter", "merged here"]
)
def test_an_adapter_answers_as_the_trained_model(read, trained, way):
    same(read[way], trained.outputs)


def test_a_base_answers_without_its_adapter(read, trained):
    same(read["base"], trained.base_outputs)
    assert not np.allclose(read["base"]["ranking_scores"], read["load_adapter"]["ranking_scores"], atol=1e-2)


def test_half_precision_and_a_config_alone(read, trained):
    assert read["half"] == "torch.bfloat16" and read["config alone"] == "InterestModel"
    np.testing.assert_allclose(read["in half"]["future_interest"], trained.outputs["future_interest"], atol=0.05)


def test_the_pipeline_answers_as_the_trained_model(read, trained):
    pipe = InterestPipeline(model=trained.model, processor=trained.processor, task="user-interest", device="cpu")
    expected = pipe(REQUEST)
    for field in ("interest", "future", "change"):
        assert [row[field] for row in read["pipeline"]["domains"]] == pytest.approx(
            [row[field] for row in expected["domains"]], abs=1e-5
        )
    assert [row["score"] for row in read["pipeline"]["ranking"]] == pytest.approx(
        [row["score"] for row in expected["ranking"]], abs=1e-5
    )


def test_a_pinned_revision_keeps_weights_and_code(read, published, trained):
    for revision in ("first", published["tag"]):
        outputs, edition = read[f"moving {revision}"]
        same(outputs, trained.outputs)
        assert edition == read[f"moving pipeline {revision}"] == 1
    outputs, edition = read["moving main"]
    assert edition == read["moving pipeline main"] == 2
    assert not np.allclose(outputs["ranking_scores"], trained.outputs["ranking_scores"], atol=1e-3)


def test_what_cannot_be_loaded_says_why(read):
    assert "trust_remote_code" in read["no trust"]
    assert "tester/closed is not a local folder" in read["no token"] and read["token"] == "InterestConfig"
    assert "SafetensorError" in read["truncated"] or "incomplete" in read["truncated"], read["truncated"]
    assert "v0 is not a valid git identifier" in read["no such revision"]


def test_offline_the_cache_is_enough(read, published, hub_process, home):
    asked = json.dumps(published | {"inputs": INPUTS, "request": REQUEST})
    done = hub_process(
        [sys.executable, "-c", OFFLINE, asked],
        home,
        HF_HUB_OFFLINE="1",
        HF_ENDPOINT="http://127.0.0.1:9",
        PYTHONPATH=None,
    )
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["pipeline"] == read["pipeline"]
    assert "OSError" in found["never pulled"]


@pytest.mark.parametrize("page", ["README.md", "docs/hub.md"])
def test_the_promised_five_lines_are_five(page):
    assert len(five_lines(page)) == 5


def five_lines(page: str) -> list[str]:
    """The snippet of a page that goes from a repository's id to a profile."""
    (snippet,) = re.findall(
        r"```python\n(from transformers import pipeline\n.*?)```", (ROOT / page).read_text(), flags=re.S
    )
    return [line for line in snippet.splitlines() if line]


def test_five_lines_from_an_id_to_a_profile(read):
    rows = [line.rsplit(maxsplit=2) for line in read["five lines"].splitlines()]
    assert [row[0] for row in rows].count("Film > Crime") == 1
    assert {row[2] for row in rows} <= {"steady", "growing", "fading"}


def test_the_package_loads_from_the_hub_too(published, trained, hub_process, tmp_path):
    done = hub_process([sys.executable, "-c", WITH_THE_PACKAGE, published["commit"]], tmp_path)
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["titles"] == ["Heat (1995)", "Rock"]
    assert found["adapter"] == pytest.approx(
        float(trained.model.ranking_head.direction.weight.detach().sum()), abs=1e-5
    )
    assert found["truncated"].startswith("tester/truncated: the weights are damaged")
    assert found["pickled"].startswith("tester/pickled: ") and "safetensors" in found["pickled"]
    assert found["nowhere"].startswith("tester/nowhere: ")
    assert found["no revision"].startswith("tester/films@v0: no such revision")
    assert found["no data"].startswith("tester/nowhere: no such") and found["no dataset"].startswith("tester/text: ")
    assert all(
        value is None or "\n" not in value for value in (found["truncated"], found["pickled"], found["no data"])
    )
    assert all(found["streamed alike"]) and found["no stream"].startswith("tester/text: ")
    assert found["name"] == "world" and found["users"] <= 30 and sum(found["splits"].values()) == found["events"]
    assert {"user_id", "item_id", "timestamp"} <= found["streamed"].keys() and "title" in found["items"]


def test_the_hf_command_downloads_what_was_pushed(published, local_hub, hub_process, tmp_path):
    hf = [str(Path(sys.executable).parent / "hf"), "download"]  # the one of this environment, on the path or not
    hub_process([*hf, "tester/films", "--revision", published["commit"], "--local-dir", tmp_path / "films"], tmp_path)
    assert (tmp_path / "films" / "model.safetensors").read_bytes() == local_hub.model("tester/films").files[
        "model.safetensors"
    ]
    refused = hub_process([*hf, "tester/closed"], tmp_path, check=False, HF_TOKEN=None)
    assert refused.returncode != 0 and not (tmp_path / "hub" / "models--tester--closed" / "snapshots").exists()

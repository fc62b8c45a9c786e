"""Pushing to a Hub: what goes there, what never does, and what an interruption or a refusal leaves."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import subprocess
import sys
from types import SimpleNamespace

import pyarrow.parquet as pq
import pytest
import yaml
from huggingface_hub import ModelCard
from local_hub import TOKEN, Refused
from safetensors.torch import load_file, save_file

from interest_lm import cli
from interest_lm.publishing.export import CODE_FILES
from interest_lm.publishing.push import push_adapter, push_dataset, push_model


@pytest.fixture
def command(monkeypatch, capsys):
    """Runs the command in this process: `command("push", ...) -> SimpleNamespace(status, out, err)`."""

    def run(*arguments: object) -> SimpleNamespace:
        monkeypatch.setattr(sys, "argv", ["interest-lm", *map(str, arguments)])
        try:
            cli.main()
            status = 0
        except SystemExit as leaving:
            status = leaving.code or 0
        printed = capsys.readouterr()
        return SimpleNamespace(status=status, out=printed.out, err=printed.err)

    return run


@pytest.fixture
def checkpoint(trained, tmp_path):
    """A copy of the trained model's folder, to be spoilt."""
    return shutil.copytree(trained.folder, tmp_path / "films")


def front_matter(card: bytes) -> dict:
    return yaml.safe_load(card.decode().split("---")[1])


def test_a_push_is_one_commit_with_everything_and_nothing_else(hub, checkpoint, command):
    (checkpoint / "cache").mkdir()
    (checkpoint / "data" / "events").mkdir(parents=True)
    for name in (
        "data/README.md",
        "data/events/train.parquet",
        "cache/a.npy",
        "profile.png",
        "training_args.bin",
        "events.parquet",
        "notes.txt",
        "optimizer.pt",
    ):
        (checkpoint / name).write_bytes(b"mine")
    ended = command("push", checkpoint, "tester/whole", "--license", "apache-2.0")
    assert ended.status == 0, ended.err
    repository = hub.model("tester/whole")
    assert repository.messages == ["initial commit", "InterestLM films"]
    assert set(repository.files) == {
        ".gitattributes", "README.md", "config.json", "model.safetensors", "processor_config.json", "tokenizer.json",
        "tokenizer_config.json", "taxonomy.json", "item_catalogue.parquet", "results.json", "training.json", "handler.py",
        *CODE_FILES,
    }  # fmt: skip
    head = repository.branches["main"]
    (tag,) = repository.tags
    assert repository.tags[tag] == head
    assert f'"tester/whole", revision="{head}", trust_remote_code=True' in ended.out
    card = repository.files["README.md"].decode()
    snippet = re.search(r"```python\n(.*?)```", card, flags=re.S)[1]
    assert snippet.count(f'"tester/whole", revision="{tag}"') == snippet.count("from_pretrained(") == 2
    assert front_matter(repository.files["README.md"])["license"] == "apache-2.0"
    assert ModelCard(card).data.eval_results[0].metric_value == 0.2


def test_the_same_again_is_no_second_commit(hub, trained):
    first = push_model(trained.folder, "tester/again")
    assert push_model(trained.folder, "tester/again") == first
    assert len(hub.model("tester/again").messages) == 2


def test_a_new_model_replaces_the_old_and_both_can_be_had(hub, checkpoint):
    first = push_model(checkpoint, "tester/turning")
    weights = load_file(checkpoint / "model.safetensors")
    names = sorted(weights)
    for number, part in enumerate((names[::2], names[1::2]), start=1):
        file = checkpoint / f"model-0000{number}-of-00002.safetensors"
        save_file({name: weights[name] for name in part}, file, metadata={"format": "pt"})
    (checkpoint / "model.safetensors").unlink()
    second = push_model(checkpoint, "tester/turning", message="In two files")
    repository = hub.model("tester/turning")
    assert first.commit != second.commit and first.tag != second.tag
    assert "model.safetensors" in repository.at(first.tag)[1]
    assert "model.safetensors" not in repository.files and "model-00002-of-00002.safetensors" in repository.files
    assert repository.messages[-1] == "In two files"


def test_what_others_put_there_stays(hub, trained):
    push_model(trained.folder, "tester/shared")
    repository = hub.model("tester/shared")
    repository.commit("main", repository.files | {"LICENSE": b"mine", "old.png": b"x"}, "by hand")
    push_model(trained.folder, "tester/shared", licence="mit")
    assert {"LICENSE", "old.png"} <= set(repository.files)


def test_a_branch_of_its_own(hub, trained):
    pushed = push_model(trained.folder, "tester/branches", revision="next")
    repository = hub.model("tester/branches")
    assert repository.branches["next"] == pushed.commit
    assert set(repository.files) == {".gitattributes"}


def test_private_is_private_and_never_slips_into_a_public_repository(hub, trained):
    push_model(trained.folder, "tester/shut", private=True)
    assert hub.model("tester/shut").private
    push_model(trained.folder, "tester/open")
    before = len(hub.model("tester/open").messages)
    with pytest.raises(ValueError, match="tester/open: is a public repository already"):
        push_model(trained.folder, "tester/open", private=True, licence="mit")
    assert len(hub.model("tester/open").messages) == before


def test_an_adapter_names_its_base_and_commit(hub, trained, command):
    base = push_model(trained.folder / "base", "tester/base")
    ended = command("push", trained.folder, "tester/adapter", "--adapter", "--base", "tester/base")
    assert ended.status == 0, ended.err
    repository = hub.model("tester/adapter")
    assert repository.messages == ["initial commit", "InterestLM adapter films"]
    assert set(repository.files) == {
        ".gitattributes", "README.md", "adapter_config.json", "adapter_model.safetensors", "taxonomy.json",
        "item_catalogue.parquet", "results.json", "training.json",
    }  # fmt: skip
    config = json.loads(repository.files["adapter_config.json"])
    assert (config["base_model_name_or_path"], config["revision"]) == ("tester/base", base.commit)
    front = front_matter(repository.files["README.md"])
    assert (front["library_name"], front["base_model"], front["base_model_relation"]) == (
        "peft",
        "tester/base",
        "adapter",
    )
    (tag,) = repository.tags
    assert f'AutoPeftModelForFeatureExtraction.from_pretrained("tester/adapter", revision="{tag}"' in str(
        repository.files["README.md"]
    )
    assert f'"tester/base", revision="{base.commit}"' in ended.out
    # once named, the base need not be named again
    (again := trained.folder.parent / "pulled").mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (again / name).write_bytes(repository.files[name])
    assert push_adapter(again, "tester/adapter-again").base == ("tester/base", base.commit)


BASES = {
    "no base": (None, "an adapter needs its base on the Hub"),
    "nowhere": ("tester/nowhere", "tester/nowhere: no such repository"),
    "no such commit": ("tester/good-base@0123", "tester/good-base: no such revision"),
    "no model": ("tester/empty", "tester/empty: is no InterestLM checkpoint"),
    "no code": ("tester/codeless", "tester/codeless: does not carry the model's code"),
    "another model": ("tester/other-base", "its config differs in `max_history`"),
    "other weights": ("tester/merged-as-base", "its model.safetensors is another"),
    "itself": ("tester/lost", "cannot share a repository"),
    "no id": ("base", "is no repository id, expected owner/name"),
}


@pytest.fixture(scope="module")
def bases(local_hub, trained):
    """Repositories that are the base of the adapter, and others that are not."""
    from local_hub import Repository

    files = {file.name: file.read_bytes() for file in (trained.folder / "base").iterdir()}
    config = json.loads(files["config.json"])
    contents = {
        "good-base": files,
        "empty": {".gitattributes": b""},
        "codeless": {name: data for name, data in files.items() if name != "modeling_interest.py"},
        "other-base": files | {"config.json": json.dumps(config | {"max_history": 9}).encode()},
        "merged-as-base": files | {"model.safetensors": (trained.folder / "model.safetensors").read_bytes()},
    }
    for name, content in contents.items():
        repository = local_hub.repositories["models", f"tester/{name}"] = Repository()
        repository.commit("main", content, "by hand")


@pytest.mark.parametrize("case", BASES)
def test_an_adapter_needs_its_own_base(hub, bases, trained, case):
    base, message = BASES[case]
    with pytest.raises(ValueError) as raised:
        push_adapter(trained.folder, "tester/lost", base=base)
    assert message in str(raised.value) and "\n" not in str(raised.value)
    assert ("models", "tester/lost") not in hub.repositories


def test_adapters_and_checkpoints_do_not_mix(hub, bases, trained):
    push_model(trained.folder, "tester/mixed")
    with pytest.raises(ValueError, match="tester/mixed: holds a merged checkpoint"):
        push_adapter(trained.folder, "tester/mixed", base="tester/good-base")
    push_adapter(trained.folder, "tester/mixed-too", base="tester/good-base")
    with pytest.raises(ValueError, match="tester/mixed-too: holds an adapter"):
        push_model(trained.folder, "tester/mixed-too")


def edit(name: str, **change):
    def spoil(folder):
        content = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps(content | change))

    return spoil


def add_column(folder):
    table = pq.read_table(folder / "item_catalogue.parquet")
    pq.write_table(table.append_column("user_id", table["item_id"]), folder / "item_catalogue.parquet")


def note_in_weights(folder):
    weights = load_file(folder / "model.safetensors")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt", "from": "/home/me/run"})


SPOILT = {
    "a secret": (edit("training.json", key="hf_" + "a" * 34), "training.json: holds a secret (hf_aaa...)"),
    "a secret in the code": (
        lambda folder: (folder / "modeling_interest.py").write_text("KEY = 'AKIAABCDEFGHIJKLMNOP'"),
        "modeling_interest.py: holds a secret",
    ),
    "a path": (edit("results.json", log="see /home/me/logs"), "results.json: holds a path of this machine ('/home/me'"),
    "a Windows path": (edit("results.json", log="C:\\Users\\me\\x"), "results.json: holds a path of this machine"),
    "its own path": (
        lambda folder: (folder / "taxonomy_interest.py").write_text(f"# from {folder}"),
        "taxonomy_interest.py: holds a path of this machine",
    ),
    "a path in the weights": (note_in_weights, "model.safetensors: holds a path of this machine"),
    "people": (edit("results.json", user_ids=["u1"]), "results.json: holds `user_ids`"),
    "a history": (edit("training.json", example={"history": [{"title": "x"}]}), "training.json: holds `history`"),
    "people in the catalogue": (add_column, "column `user_id` does not belong to an item catalogue"),
    "broken weights": (
        lambda folder: os.truncate(folder / "model.safetensors", 1000),
        "model.safetensors: the weights are damaged",
    ),
    "a shard that is not there": (
        lambda folder: (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "model-00002-of-00002.safetensors"}}'),
        "names model-00002-of-00002.safetensors, which is not there",
    ),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "no model.safetensors in it"),
    "pickled weights": (
        lambda folder: (folder / "model.safetensors").rename(folder / "pytorch_model.bin"),
        "only safetensors are published",
    ),
    "another model": (edit("config.json", model_type="bert"), "`model_type` is 'bert'"),
    "broken facts": (
        lambda folder: (folder / "training.json").write_text('{"training": '),
        "training.json: is not JSON (Expecting value",
    ),
    "not UTF-8": (lambda folder: (folder / "modeling_interest.py").write_bytes(b"\xff\xfe"), "is not UTF-8"),
}  # fmt: skip


@pytest.mark.parametrize("case", SPOILT)
def test_what_must_not_travel_is_refused_before_anything_does(hub, checkpoint, command, case):
    spoil, message = SPOILT[case]
    spoil(checkpoint)
    hub.requests.clear()
    ended = command("push", checkpoint, "tester/refused")
    assert ended.status == 2 and ended.out == ""
    assert message in ended.err and ended.err.count("\n") == 1, ended.err
    assert [request for request in hub.requests if "repos/create" in request] == []


def test_titles_may_look_like_paths(hub, checkpoint):
    table = pq.read_table(checkpoint / "item_catalogue.parquet").to_pandas()
    table.loc[0, "title"] = "/home/alone (1990)"
    table.to_parquet(checkpoint / "item_catalogue.parquet")
    push_model(checkpoint, "tester/titles")


ARGUMENTS = {
    "no folder": (("{tmp}/nowhere", "tester/x"), "no such folder"),
    "no owner": (("{trained}", "films"), "is no repository id, expected owner/name"),
    "no id": (("{trained}", "tester/a b"), "tester/a b: is no repository id"),
    "an adapter as a checkpoint": (("{trained}/adapter", "tester/x"), "is an adapter; push it with --adapter"),
    "no adapter": (("{trained}/base", "tester/x", "--adapter"), "no adapter in it"),
    "a base for nothing": (("{trained}", "tester/x", "--base", "tester/y"), "--base is for --adapter"),
    "a Space of nobody": (("{trained}", "tester/x", "--space", "shown"), "shown: is no repository id"),
    "a Space on an adapter": (("{trained}", "tester/x", "--adapter", "--space", "tester/y"), "--space is for merged"),
}


@pytest.mark.parametrize("case", ARGUMENTS)
def test_bad_arguments_are_one_line(hub, trained, command, tmp_path, case):
    arguments, message = ARGUMENTS[case]
    ended = command("push", *(word.format(tmp=tmp_path, trained=trained.folder) for word in arguments))
    assert ended.status == 2 and message in ended.err and ended.err.count("\n") == 1, ended.err
    assert ("models", "tester/x") not in hub.repositories


def test_a_card_that_the_hub_refuses(hub, trained, command):
    ended = command("push", trained.folder, "tester/card", "--license", "GroupLens, non-commercial")
    assert ended.status == 2 and ended.err.count("\n") == 1
    assert 'Invalid metadata in README.md. - "license" must be one of' in ended.err
    assert hub.model("tester/card").messages == ["initial commit"] and hub.model("tester/card").tags == {}


def test_a_hub_that_refuses_or_is_gone(hub, trained, command, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_" + "w" * 34)
    ended = command("push", trained.folder, "tester/stranger")
    assert ended.status == 2 and ended.err.count("\n") == 1
    assert "tester/stranger: the Hub refuses (401); log in with a token" in ended.err
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    ended = command("push", trained.folder, "tester/stranger")
    assert ended.status == 2 and ended.err.count("\n") == 1 and "is out of reach" in ended.err
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    ended = command("push", trained.folder, "tester/stranger")
    assert ended.status == 2 and "HF_HUB_OFFLINE is set" in ended.err


def test_an_upload_that_breaks_off_goes_on_where_it_was(hub, checkpoint):
    table = pq.read_table(checkpoint / "item_catalogue.parquet")
    pq.write_table(table.slice(0, 1), checkpoint / "item_catalogue.parquet")  # content that no other test uploaded
    arrived = []

    def break_off(method: str, path: str) -> None:
        if path.endswith("/commit/main"):
            arrived.extend(hub.large)
            raise Refused(403, "quota")

    hub.before = break_off
    with pytest.raises(ValueError, match=r"tester/broken-off: the Hub refuses \(403\)"):
        push_model(checkpoint, "tester/broken-off")
    repository = hub.model("tester/broken-off")
    assert set(repository.files) == {".gitattributes"} and repository.tags == {}
    hub.before = lambda method, path: None
    hub.requests.clear()
    pushed = push_model(checkpoint, "tester/broken-off")
    assert len(arrived) > 1 and not any(request.startswith("PUT") for request in hub.requests)
    assert repository.messages == ["initial commit", "InterestLM films"]
    assert repository.tags == {pushed.tag: pushed.commit}


def test_a_killed_push_is_run_again(hub, trained, command, tmp_path):
    """Killed when the first large file arrives: nothing is committed, and the same command ends as if it never was."""
    environment = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "HF_TOKEN": TOKEN}
    environment |= {"HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
    line = [sys.executable, "-m", "interest_lm", "push", str(trained.folder), "tester/killed"]
    hub.large.clear()
    process = subprocess.Popen(line, env=os.environ | environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    hub.before = lambda method, path: process.kill() if path.startswith("/lfs/") else None
    process.communicate(timeout=300)
    hub.before = lambda method, path: None
    assert process.returncode < 0
    repository = hub.model("tester/killed")
    assert set(repository.files) == {".gitattributes"}
    assert command(*line[3:]).status == 0
    assert repository.messages == ["initial commit", "InterestLM films"]
    assert repository.files["model.safetensors"] == (trained.folder / "model.safetensors").read_bytes()


def test_a_space_pins_the_checkpoint(hub, trained, command):
    ended = command("push", trained.folder, "tester/shown", "--space", "tester/shown-space")
    assert ended.status == 0, ended.err
    space = hub.repositories["spaces", "tester/shown-space"]
    assert set(space.files) == {".gitattributes", "README.md", "app.py", "model.json", "requirements.txt"}
    head = hub.model("tester/shown").branches["main"]
    assert json.loads(space.files["model.json"]) == {"model": "tester/shown", "revision": head}
    front = front_matter(space.files["README.md"])
    assert (front["sdk"], front["app_file"], front["models"]) == ("gradio", "app.py", ["tester/shown"])
    assert re.fullmatch(
        r"(torch|transformers)==[\d.]+\n(torch|transformers)==[\d.]+\n", space.files["requirements.txt"].decode()
    )


def test_prepare_pushes_the_dataset(hub, command, tmp_path):
    data = tmp_path / "world"
    arguments = ("prepare", "synthetic", "--output", data, "--num-users", 30, "--num-items", 40)
    ended = command(*arguments, "--push", "tester/prepared", "--private")
    assert ended.status == 0, ended.err
    repository = hub.dataset("tester/prepared")
    assert repository.private and repository.messages == ["initial commit", "Interest dataset world"]
    assert repository.branches["main"] in ended.out
    table = pq.read_table(io.BytesIO(repository.files["events/train-00000-of-00001.parquet"]))
    assert table.equals(pq.read_table(data / "events" / "train-00000-of-00001.parquet", partitioning=None))
    card = repository.files["README.md"].decode()
    assert 'load_dataset("tester/prepared", "events")' in card and "DIR" not in card
    assert "DIR" in (data / "README.md").read_text()
    repository.commit("main", repository.files | {"events/train-00001-of-00002.parquet": b"old"}, "by hand")
    again = command("push", data, "tester/prepared", "--private", "--commit-message", "Whole again")
    assert again.status == 0 and "load_dataset(" in again.out and repository.messages[-1] == "Whole again"
    assert "events/train-00001-of-00002.parquet" not in repository.files
    refused = command("push", data, "tester/prepared", "--adapter")
    assert refused.status == 2 and "is a dataset; it takes --private" in refused.err
    (data / "README.md").write_text((data / "README.md").read_text() + "\nmade in /home/me/logs\n")
    with pytest.raises(ValueError, match="README.md: holds a path of this machine"):
        push_dataset(data, "tester/other-world")


def test_a_pushed_dataset_is_trained_on_where_it_lies(hub, command, tiny_bert, tmp_path):
    data, model = tmp_path / "world", tmp_path / "model"
    prepared = ("prepare", "synthetic", "--output", data, "--num-users", 40, "--num-items", 40)
    assert command(*prepared, "--push", "tester/log", "--private").status == 0
    commit = hub.dataset("tester/log").branches["main"]
    shutil.rmtree(data)
    ended = command(
        "finetune", "--data", f"tester/log@{commit}", "--output_dir", model, "--backbone", tiny_bert, "--hidden_size", 16,
        "--tuning", "frozen", "--max_steps", 3, "--prior_steps", 2, "--report_to", "none", "--streaming", "True",
    )  # fmt: skip
    assert ended.status == 0, ended.err
    results = json.loads((model / "results.json").read_text())
    assert results["data"] == "world" and results["ranking"]["cases"] > 0
    measured = command("evaluate", model, "--data", "tester/log", "--baselines", "popularity", "--ablations")
    assert measured.status == 0, measured.err
    assert "without blend" in json.loads((model / "results.json").read_text())["ablations"]
    assert "### Ablations" in (model / "README.md").read_text()
    pushed = command("push", model, "tester/from-log")
    assert pushed.status == 0, pushed.err
    card = hub.model("tester/from-log").files["README.md"]
    assert front_matter(card)["datasets"] == ["tester/log"] and f"on the Hub: tester/log@{commit}" in card.decode()
    refused = command("finetune", "--data", "tester/nothing", "--output_dir", tmp_path / "other")
    assert refused.status == 2 and refused.err.count("\n") == 1 and not (tmp_path / "other").exists()


def test_a_prepared_dataset_stays_where_the_push_fails(hub, command, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_" + "w" * 34)
    data = tmp_path / "world"
    arguments = ("prepare", "synthetic", "--output", data, "--num-users", 30, "--num-items", 40)
    ended = command(*arguments, "--push", "tester/later")
    assert ended.status == 2 and ended.err.splitlines()[-1].endswith(f"`interest-lm push {data} tester/later` goes on")
    assert (data / "README.md").exists()


def test_prepare_looks_at_the_id_first(command, tmp_path):
    for arguments, message in (
        (("--push", "world"), "is no repository id"),
        (("--private",), "--private is for --push"),
    ):
        ended = command("prepare", "synthetic", "--output", tmp_path / "world", *arguments)
        assert ended.status == 2 and message in ended.err
        assert not (tmp_path / "world").exists()

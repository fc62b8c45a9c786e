"""The `interest-lm` command: what it takes, and how it says what is wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from interest_lm import cli
from interest_lm.data.log import InterestLog


@pytest.fixture
def command(monkeypatch, capsys):
    """Runs the command in this process: `command("prepare", ...) -> SimpleNamespace(status, out, err)`."""

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


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    from interest_lm.data.prepare import prepare

    folder = tmp_path_factory.mktemp("world") / "data"
    return prepare("synthetic", [], folder, world={"num_users": 40, "num_items": 60, "seed": 1}, quiet=True)


def test_every_command_of_the_design_is_there(command):
    shown = command("--help")
    assert shown.status == 0
    for name in (
        "inspect",
        "prepare",
        "finetune",
        "search",
        "evaluate",
        "profile",
        "recommend",
        "push",
        "serve",
        "demo",
    ):
        assert f"\n  {name} " in shown.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("prepare", "movielens", "{tmp}/nowhere", "--output", "{tmp}/out"), "{tmp}/nowhere"),
        (("prepare", "novels", "{tmp}", "--output", "{tmp}/out"), "no recipe 'novels'"),
        (("prepare", "table", "{tmp}", "--output", "{tmp}/out", "--column", "user_id"), "expected NAME=COLUMN"),
        (("prepare", "table", "{tmp}", "--output", "{tmp}/out", "--seed", "3"), "--seed is for the recipe synthetic"),
        (("inspect", "{tmp}/nowhere.csv"), "{tmp}/nowhere.csv"),
        (("evaluate", "--data", "{tmp}"), "either MODEL or --predictions FILE"),
        (("evaluate", "{tmp}", "--data", "{tmp}/nowhere"), "no such folder"),
        (("profile", "{tmp}", "--data", "{data}", "--user", "x"), "no config.json"),
        (("profile", "{tmp}/a/b", "--data", "{data}", "--user", "x"), "no such folder"),
        (("recommend", "{tmp}", "--data", "{tmp}", "--user", "x"), "expected an interest dataset"),
        (("profile", "m", "--data", "{data}", "--user", "x", "--user", "y", "--plot", "p.png"), "--plot draws one"),
        (("profile", "m", "--data", "{data}", "--user", "x", "--plot", "{tmp}/a/p.png"), "p.png: no folder"),
        (("profile", "m", "--data", "{data}", "--user", "x", "--plot", "{tmp}/p.txt"), "expected a picture's ending"),
        (("evaluate", "--data", "{data}", "--predictions", "p.parquet", "--ablations"), "--ablations leaves parts"),
        (("demo", "--output", "{tmp}"), "exists already"),
        (("demo", "--output", "{tmp}", "--overwrite"), "is not a demo's folder"),
        (("finetune", "--data", "{tmp}/nowhere", "--output_dir", "{tmp}/out"), "{tmp}/nowhere"),
        (("finetune", "--data", "{data}", "--streaming", "True", "--output_dir", "{tmp}/out"), "lies on this machine"),
    ],
)
def test_bad_input_is_one_line_and_status_2(command, tmp_path, data, arguments, message):
    (tmp_path / "mine.txt").write_text("kept")
    filled = [argument.format(tmp=tmp_path, data=data) for argument in arguments]
    ended = command(*filled)
    assert ended.status == 2
    assert ended.out == ""
    lines = [line for line in ended.err.splitlines() if line]
    assert len(lines) == 1 and lines[0].startswith("error: "), ended.err
    assert message.format(tmp=tmp_path) in lines[0]
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_usage_errors_are_status_2(command):
    assert command("prepare", "synthetic").status == 2
    assert command("profile").status == 2
    assert command("prepare", "synthetic", "--output", "x", "--split", "random").status == 2


def test_traceback_on_request(command, monkeypatch, tmp_path):
    monkeypatch.setenv("INTEREST_LM_TRACEBACK", "1")
    with pytest.raises(ValueError, match="no such folder"):
        command("recommend", "m", "--data", tmp_path / "nowhere", "--user", "x")


def test_interruption_is_status_130(command, monkeypatch, tmp_path):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("interest_lm.data.prepare.prepare", interrupted)
    assert command("prepare", "synthetic", "--output", tmp_path / "x").status == 130


def test_prepare_hands_over_every_option(command, monkeypatch, tmp_path):
    seen = {}
    monkeypatch.setattr("interest_lm.data.prepare.prepare", lambda *given, **named: seen.update(named, given=given))
    ended = command(
        "prepare", "table", "--events", tmp_path / "e.csv", "--items", tmp_path / "i.csv", "--output", tmp_path / "o",
        "--split", "leave-last", "--min-events", "3", "--time", "order", "--column", "user_id=Customer ID",
        "--column", "title=a=b", "--column", "text=", "--licence", "mit", "--overwrite", "--keep-rows",
        "--value-threshold", "3.5", "--validation-fraction", "0.2", "--test-fraction", "0.15",
    )  # fmt: skip
    assert ended.status == 0, ended.err
    assert seen["given"] == ("table", [], tmp_path / "o")
    assert seen["columns"] == {"user_id": "Customer ID", "title": "a=b", "text": ""}
    assert (seen["merge_texts"], seen["value_threshold"]) == (False, 3.5)
    assert (seen["validation_fraction"], seen["test_fraction"]) == (0.2, 0.15)
    assert (seen["split"], seen["time"], seen["min_events"]) == ("leave-last", "order", 3)
    assert (seen["events"], seen["items"]) == (tmp_path / "e.csv", tmp_path / "i.csv")
    assert seen["overwrite"] is True and seen["licence"] == "mit" and seen["world"] is None


def test_prepare_merges_rows_and_switches_columns_off(command, tmp_path):
    """One row per tag: joined on request, kept on request; without its text column a log has no texts."""
    rows = [(user, f"i{day % 4}", 86_400 * day, tag) for user in range(4) for day in range(30) for tag in ("a", "b")]
    log = "\n".join(["user,item,time,tag", *(f"u{u},{i},{time + u},{tag}" for u, i, time, tag in rows)])
    (tmp_path / "events.csv").write_text(log + "\n")

    def prepared(name, *more):
        ended = command("prepare", "table", tmp_path / "events.csv", "--output", tmp_path / name, *more)
        assert ended.status == 0, ended.err
        return InterestLog.load(tmp_path / name)

    merged, kept = prepared("merged", "--merge-texts"), prepared("kept", "--keep-rows", "--value-threshold", "2")
    assert (merged.num_events, kept.num_events) == (120, 240)
    assert set(merged.text) == {"a, b"} and set(kept.text) == {"a", "b"}
    assert kept.facts["value_threshold"] == 2.0
    assert prepared("silent", "--column", "text=").text is None
    wide = prepared("wide", "--test-fraction", "0.4", "--validation-fraction", "0.2", "--keep-rows")
    assert np.mean(wide.split == 2) == pytest.approx(0.4, abs=0.05)
    refused = command("prepare", "table", tmp_path / "events.csv", "--output", tmp_path / "no", "--test-fraction", "1")
    assert refused.status == 2 and "test_fraction is 1.0" in refused.err


def test_prepare_synthetic_takes_a_world(command, monkeypatch, tmp_path):
    seen = {}
    monkeypatch.setattr("interest_lm.data.prepare.prepare", lambda *_, **named: seen.update(named))
    assert command("prepare", "synthetic", "--output", tmp_path / "o", "--num-users", "30", "--seed", "0").status == 0
    assert seen["world"] == {"num_users": 30, "seed": 0}


def test_finetune_forwards_everything(command, monkeypatch):
    seen = []
    monkeypatch.setattr("interest_lm.training.finetune.main", lambda argv: seen.append(argv) or 130)
    arguments = ["recipe.yaml", "--data", "d", "--output_dir", "o", "--max_minutes", "3", "--help"]
    assert command("finetune", *arguments).status == 130
    assert seen == [arguments]


def test_inspect_prints_json_and_a_table(command, data):
    report = json.loads(command("inspect", data, "--json").out)
    assert report["items"] == 60 and 0 < report["users"] <= 40
    assert f"{report['events']:,}" in command("inspect", data).out


@pytest.fixture(scope="module")
def checkpoint(tiny_bert, data, tmp_path_factory):
    """An untrained model that fits `data`."""
    import torch
    from transformers import AutoTokenizer

    from interest_lm.data.log import InterestLog
    from interest_lm.modeling_interest import InterestModel
    from interest_lm.processing_interest import InterestProcessor
    from interest_lm.publishing.export import item_catalogue, save_checkpoint

    log = InterestLog.load(data)
    torch.manual_seed(0)
    model = InterestModel.from_text_pretrained(
        str(tiny_bert), domains=log.tree, hidden_size=16, num_items=log.num_items, max_history=20
    )
    processor = InterestProcessor.from_model(model, AutoTokenizer.from_pretrained(tiny_bert), log.item_ids.tolist())
    vectors = np.random.default_rng(0).normal(size=(log.num_items, 16))
    folder = tmp_path_factory.mktemp("checkpoint") / "model"
    return save_checkpoint(model, processor, folder, catalogue=item_catalogue(log.items, vectors), facts=log.facts)


@pytest.fixture(scope="module")
def user(data) -> str:
    from interest_lm.data.log import InterestLog

    return str(InterestLog.load(data).user_ids[0])


def test_profile_prints_and_draws(command, checkpoint, data, user, tmp_path):
    ended = command("profile", checkpoint, "--data", data, "--user", user, "--plot", tmp_path / "p.png")
    assert ended.status == 0, ended.err
    assert user in ended.out and "Expected events" in ended.out
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")
    found = json.loads(command("profile", checkpoint, "--data", data, "--user", user, "--level", "0", "--json").out)
    assert sum(row["interest"] for row in found["domains"]) == pytest.approx(1.0, abs=0.01)


def test_profile_takes_domains_by_name_and_gives_reasons(command, checkpoint, data, user):
    asked = ("profile", checkpoint, "--data", data, "--user", user, "--json", "--why", "1", "--top", "99")
    rows = json.loads(command(*asked, "--add-domain", "Gardening", "--add-domain", "Gardening > Roses").out)["domains"]
    named = {row["domain"]: row for row in rows}
    assert named["Gardening > Roses"]["interest"] == pytest.approx(named["Gardening"]["interest"], abs=1e-4)
    assert 0 < named["Gardening"]["interest"] < 1
    assert {len(row["because"]) for row in rows} <= {0, 1} and any(row["because"] for row in rows)
    known = next(name for name in named if not name.startswith("Gardening"))
    ended = command("profile", checkpoint, "--data", data, "--user", user, "--add-domain", known)
    assert ended.status == 2 and "which is a domain already" in ended.err


def test_profile_of_a_stranger(command, checkpoint, data):
    ended = command("profile", checkpoint, "--data", data, "--user", "nobody")
    assert ended.status == 2 and "user 'nobody' is not in" in ended.err


def test_recommend_prints_a_line_per_user(command, checkpoint, data, user):
    ended = command("recommend", checkpoint, "--data", data, "--user", user, "--top-k", "3", "--json")
    assert ended.status == 0, ended.err
    (line,) = ended.out.splitlines()
    entry = json.loads(line)
    assert entry["user"] == user and len(entry["ranking"]) == 3
    assert set(entry["ranking"][0]) == {"item_id", "title", "score", "reason"}
    scores = [row["score"] for row in entry["ranking"]]
    assert scores == sorted(scores, reverse=True)
    assert "For user" in command("recommend", checkpoint, "--data", data, "--user", user).out
    options = ("--top-k", "3", "--diversity", "1", "--json")
    diverse = json.loads(command("recommend", checkpoint, "--data", data, "--user", user, *options).out)
    assert diverse["ranking"][0] == entry["ranking"][0]
    assert len(diverse["ranking"]) == 3 and diverse["ranking"] != entry["ranking"]
    assert command("recommend", checkpoint, "--data", data, "--user", user, "--diversity", "1.5").status == 2


def test_evaluate_writes_figures_and_renders_the_card(command, checkpoint, data):
    ended = command("evaluate", checkpoint, "--data", data, "--baselines", "popularity,shrinkage")
    assert ended.status == 0, ended.err
    results = json.loads((checkpoint / "results.json").read_text())
    assert set(results["baselines"]) == {"popularity", "shrinkage"}
    card = (checkpoint / "README.md").read_text()
    assert f"{results['ranking']['ndcg@10']:.4f}" in card and "| popularity |" in card


def test_evaluate_takes_anybodys_lists(command, data, tmp_path):
    import pandas as pd

    from interest_lm.data.log import InterestLog

    log = InterestLog.load(data)
    lists = [(user, item, -place) for user in log.user_ids for place, item in enumerate(log.item_ids[:10])]
    pd.DataFrame(lists, columns=["user_id", "item_id", "score"]).to_parquet(tmp_path / "lists.parquet")
    output = tmp_path / "results.json"
    arguments = ("--predictions", tmp_path / "lists.parquet", "--data", data, "--baselines", "popularity")
    ended = command("evaluate", *arguments, "--output", output)
    assert ended.status == 0, ended.err
    results = json.loads(output.read_text())
    assert results["model"] == "lists.parquet" and results["ranking"]["ndcg@10"] is not None


def test_evaluate_refuses_a_file_in_no_folder(command, checkpoint, data, tmp_path):
    ended = command("evaluate", checkpoint, "--data", data, "--output", tmp_path / "no" / "results.json")
    assert ended.status == 2 and "no folder" in ended.err


def test_module_runs_as_the_command():
    ended = subprocess.run(
        [sys.executable, "-m", "interest_lm", "inspect", "nowhere.csv"], capture_output=True, text=True, timeout=120
    )
    assert ended.returncode == 2
    assert ended.stderr.startswith("error: ") and ended.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("given", "found"),
    [({}, "5000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "None")],
)
def test_threads_are_told_not_to_spin_before_torch_is_loaded(given, found):
    """Beside other work on the same cores a forecast took ten times as long; what the user says stands."""
    watch = """if True:
        import os, sys
        class Watch:
            def find_spec(self, name, path=None, target=None):
                if name == "torch":
                    print(os.environ.get("GOMP_SPINCOUNT"))
        sys.meta_path.insert(0, Watch())
        import interest_lm.cli
    """
    bare = {name: value for name, value in os.environ.items() if name not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    ended = subprocess.run([sys.executable, "-c", watch], env=bare | given, capture_output=True, text=True, check=True)
    assert set(ended.stdout.split()) == {found}

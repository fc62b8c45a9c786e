"""The folder of a Gradio Space for a checkpoint on the Hub."""

from __future__ import annotations

import shutil
import tempfile
from importlib.metadata import version
from pathlib import Path

import yaml
from huggingface_hub import HfApi

from .files import write_json
from .hub import Pushed, check_repo_id, commit_folder


APP = Path(__file__).with_name("space_app.py")
GRADIO = "6.31.0"
REQUIREMENTS = ("torch", "transformers")  # Spaces bring Gradio themselves


def write_space(folder: Path, model: Pushed) -> None:
    """Writes `app.py`, `model.json` (the checkpoint at its commit), `requirements.txt` and the card into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(APP, folder / "app.py")
    write_json({"model": model.repo_id, "revision": model.commit}, folder / "model.json")
    lines = [f"{name}=={version(name).partition('+')[0]}\n" for name in REQUIREMENTS]
    (folder / "requirements.txt").write_text("".join(lines), encoding="utf-8")
    front = {
        "title": model.repo_id.split("/")[1],
        "sdk": "gradio",
        "sdk_version": GRADIO,
        "app_file": "app.py",
        "models": [model.repo_id],
        "pinned": False,
    }
    text = (
        f"---\n{yaml.safe_dump(front, sort_keys=False)}---\n\n# {front['title']}\n\nA page on [{model.repo_id}]"
        f"(https://huggingface.co/{model.repo_id}) at commit {model.commit}. It runs the Python files of that commit.\n"
    )
    (folder / "README.md").write_text(text, encoding="utf-8")


def push_space(space_id: str, model: Pushed, *, private: bool = False) -> Pushed:
    """Makes or updates the Space of a pushed checkpoint; a private checkpoint needs the Space's secret `HF_TOKEN`.

    Raises:
        ValueError: what the Hub refuses, in one line.
    """
    check_repo_id(space_id)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_space(folder, model)
        commit, url = commit_folder(
            HfApi(), folder, space_id, repo_type="space", space_sdk="gradio", private=private,
            message=f"A page on {model.repo_id} at {model.commit[:12]}",
        )  # fmt: skip
    return Pushed(space_id, url, commit)

"""Fixtures for every test: no network, few threads, and two tiny text backbones."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


os.environ["HF_HUB_OFFLINE"] = "1"  # before anything imports huggingface_hub
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("MPLBACKEND", "Agg")
sys.path.insert(
    0, str(Path(__file__).parent)
)  # `import tiny`: the tests are no package, pytest would name it after the clone

import pytest  # noqa: E402


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory) -> Path:
    """Folder of a tiny random BERT with a WordPiece tokenizer (mean pooling)."""
    import tiny

    return tiny.save_tiny_bert(tmp_path_factory.mktemp("tiny_bert"))


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory) -> Path:
    """Folder of a tiny random Llama with a byte-level BPE tokenizer (last-token pooling)."""
    import tiny

    return tiny.save_tiny_llama(tmp_path_factory.mktemp("tiny_llama"))


@pytest.fixture
def run_without_package(tmp_path) -> Callable[..., str]:
    """Runs Python code in a process where `interest_lm` cannot be imported, with a fresh Hub cache; returns its output.

    `run_without_package(code, *arguments)`: the arguments are `sys.argv[1:]` of that process.
    """

    def run(code: str, *arguments: str | Path) -> str:
        environment = os.environ | {"HF_HOME": str(tmp_path / "hf_home"), "HF_HUB_OFFLINE": "1", "PYTHONSAFEPATH": "1"}
        environment.pop("PYTHONPATH", None)
        blocked = "import sys\nsys.modules['interest_lm'] = None\n"
        command = [sys.executable, "-c", blocked + textwrap.dedent(code), *map(str, arguments)]
        result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
        assert result.returncode == 0, result.stderr
        return result.stdout

    return run


@pytest.fixture(scope="session")
def local_hub():
    """A Hub in this process, see `local_hub.py`; tests use repositories of their own names."""
    from local_hub import LocalHub

    with LocalHub() as hub:
        yield hub


@contextmanager
def talking_to(hub, cache: Path) -> Iterator[None]:
    """Clients in this process talk to `hub`, logged in, with a cache of their own."""
    import datasets
    from huggingface_hub import constants
    from local_hub import TOKEN

    settings = {
        "ENDPOINT": hub.url,
        "HUGGINGFACE_CO_URL_TEMPLATE": hub.url + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_OFFLINE": False,
        "HF_HUB_DISABLE_XET": True,
        "HF_HUB_CACHE": str(cache),
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_TOKEN", TOKEN)
        for name, value in settings.items():
            patch.setattr(constants, name, value)
        patch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
        patch.setattr(datasets.config, "HF_ENDPOINT", hub.url)
        yield
    hub.before = lambda method, path: None


@pytest.fixture
def hub(local_hub, tmp_path):
    """The same Hub, as the one that clients in this process talk to."""
    with talking_to(local_hub, tmp_path / "hf_cache"):
        yield local_hub


@pytest.fixture(scope="module")
def module_hub(local_hub, tmp_path_factory):
    """`with module_hub():` does the same around what a fixture of a module pushes."""
    return lambda: talking_to(local_hub, tmp_path_factory.mktemp("hf_cache"))


@pytest.fixture(scope="session")
def trained(tiny_bert, tmp_path_factory):
    """A model fine-tuned with LoRA in name, see `published.py`: checkpoint, `base` and `adapter`."""
    import published

    return published.train(tiny_bert, tmp_path_factory.mktemp("trained") / "films")


@pytest.fixture(scope="session")
def hub_process(local_hub) -> Callable[..., subprocess.CompletedProcess]:
    """Runs a command that talks to the Hub: `hub_process(command, home, **environment) -> CompletedProcess`.

    `home` is its `HF_HOME`, fresh or not; the environment may take the token away or add to it.
    """
    from local_hub import TOKEN

    def run(command: list, home: Path, check: bool = True, **more: str | None) -> subprocess.CompletedProcess:
        settings = {
            "HF_ENDPOINT": local_hub.url,
            "HF_HOME": str(home),
            "HF_TOKEN": TOKEN,
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        } | more
        environment = {name: value for name, value in (os.environ | settings).items() if value is not None}
        result = subprocess.run([*map(str, command)], env=environment, capture_output=True, text=True, timeout=300)
        assert not check or result.returncode == 0, result.stderr
        return result

    return run

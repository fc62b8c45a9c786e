"""Fixtures for every test: no network, few threads, and two tiny text backbones."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
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

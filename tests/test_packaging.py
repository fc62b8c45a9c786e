"""What is installed: every room, its data, the command, and nothing of the tests."""

from __future__ import annotations

import ast
import configparser
import re
import shutil
import subprocess
import sys
import zipfile
from email.parser import Parser
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest


ROOT = Path(__file__).resolve().parents[1]
NOT_SOURCE = shutil.ignore_patterns(".*", "build", "dist", "runs", "*.egg-info", "__pycache__", "shared")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> zipfile.ZipFile:
    """The wheel of a copy of the sources without what lies about on this machine."""
    source = tmp_path_factory.mktemp("source") / "clone"
    shutil.copytree(ROOT, source, ignore=NOT_SOURCE)
    target = tmp_path_factory.mktemp("wheel")
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--wheel-dir",
        target,
    ]
    built = subprocess.run([*map(str, command), str(source)], capture_output=True, text=True, timeout=300)
    assert built.returncode == 0, built.stderr
    (file,) = target.iterdir()
    with zipfile.ZipFile(file) as archive:
        yield archive


@pytest.fixture(scope="module")
def setup() -> configparser.ConfigParser:
    found = configparser.ConfigParser()
    found.read(ROOT / "setup.cfg")
    return found


def folders_with_code() -> set[str]:
    rooms = {path.parent.relative_to(ROOT) for path in ROOT.rglob("__init__.py")}
    rooms = {
        room for room in rooms if not any(part.startswith(".") or part in ("build", "tests") for part in room.parts)
    }
    return {".".join(("interest_lm", *room.parts)) for room in rooms}


def test_packages_are_the_folders(setup):
    assert set(setup["options"]["packages"].split()) == folders_with_code()


def test_no_folder_with_code_lacks_an_init():
    public = {"tests", "benchmarks", "examples", "docs"}
    for file in ROOT.glob("*/**/*.py"):
        room = file.parent.relative_to(ROOT)
        if not any(part.startswith(".") or part in {*public, "build", "runs"} for part in room.parts):
            assert (file.parent / "__init__.py").exists(), f"{room} has code and no __init__.py"


def test_wheel_holds_every_module_and_nothing_else(wheel):
    modules = {name for name in wheel.namelist() if name.endswith(".py")}
    sources = {f"interest_lm/{file.name}" for file in ROOT.glob("*.py")}
    for package in folders_with_code() - {"interest_lm"}:
        folder = package.removeprefix("interest_lm.").replace(".", "/")
        sources |= {f"interest_lm/{folder}/{file.name}" for file in (ROOT / folder).glob("*.py")}
    assert modules == sources
    other = {name for name in wheel.namelist() if not name.endswith(".py") and ".dist-info/" not in name}
    recipes = {f"interest_lm/training/recipes/{file.name}" for file in (ROOT / "training" / "recipes").glob("*.yaml")}
    assert recipes and other == {"interest_lm/py.typed", "interest_lm/model_cards/template.md"} | recipes


def test_wheel_tells_what_it_is(wheel):
    (name,) = [name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")]
    metadata = Parser().parsestr(wheel.read(name).decode())
    assert metadata["Name"] == "interest-lm"
    assert metadata["Requires-Python"] == ">=3.11"
    assert "Apache-2.0" in (metadata["License-Expression"] or metadata["License"])
    assert {"offline", "app", "search", "serve", "test", "bench"} <= set(metadata.get_all("Provides-Extra"))
    assert metadata["Description-Content-Type"] == "text/markdown"
    entry_points = wheel.read(name.replace("METADATA", "entry_points.txt")).decode()
    assert "interest-lm = interest_lm.cli:main" in entry_points


def test_every_import_is_a_requirement(setup):
    """What our code imports is in install_requires or the extra of its command; the bundled encoder is only looked for, it is the
    extra `offline`."""
    required = {_normal(line) for line in _bounded(setup)}
    imported = set()
    for package in folders_with_code():
        folder = ROOT / package.removeprefix("interest_lm").lstrip(".").replace(".", "/")
        for file in folder.glob("*.py"):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Import):
                    imported |= {alias.name.split(".")[0] for alias in node.names}
                elif isinstance(node, ast.ImportFrom) and node.level == 0:
                    imported.add(node.module.split(".")[0])
    distributions = packages_distributions()
    third_party = imported - set(sys.stdlib_module_names)
    assert "torch" in third_party
    assert {_normal(distributions[name][0]) for name in third_party} - required == set()


def test_lowest_versions_are_the_bounds(setup):
    lowest = dict(re.findall(r"^([\w.-]+)==([\w.]+)$", (ROOT / "requirements/lowest.txt").read_text(), flags=re.M))
    bounds = {}
    for line in _bounded(setup):
        name, bound = re.match(r"([\w.-]+)>=([\w.]+)", line).groups()
        bounds[name] = bound
    assert lowest.keys() == bounds.keys()
    for name, bound in bounds.items():
        assert _release(lowest[name]) == _release(bound), name


def test_tested_versions_fit_the_ranges(setup):
    pinned = dict(
        re.findall(r"^([\w.-]+)==([\w.]+)$", (ROOT / "requirements/constraints.txt").read_text(), flags=re.M)
    )
    for line in _bounded(setup):
        name, bound = re.match(r"([\w.-]+)>=([\w.]+)", line).groups()
        assert _release(pinned[name]) >= _release(bound), name


def _bounded(setup: configparser.ConfigParser) -> list[str]:
    extras = setup["options.extras_require"]
    return [
        line
        for text in (setup["options"]["install_requires"], *(extras[name] for name in ("search", "serve", "app")))
        for line in _requirements(text)
    ]


def _requirements(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip() and not line.strip().startswith("#")]


def _normal(requirement: str) -> str:
    return re.match(r"[\w.-]+", requirement)[0].lower().replace("_", "-")


def _release(version: str) -> tuple[int, ...]:
    numbers = [int(number) for number in version.split(".")]
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)

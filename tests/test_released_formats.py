"""Checkpoints and adapters of every released format load with the code of today and answer what they did."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from peft import PeftModel

from interest_lm.publishing.export import load_checkpoint


RELEASES = sorted(path.parent for path in (Path(__file__).parent / "fixtures").glob("*/expected.json"))


def compare(model, processor, release: Path, kind: str) -> None:
    """Every output that the release had, to 1e-5."""
    expected = json.loads((release / "expected.json").read_text())
    with torch.no_grad():
        output = model.eval()(**processor(**expected["inputs"], return_tensors="pt"))
    assert len(expected["outputs"][kind]) >= 14
    for name, value in expected["outputs"][kind].items():
        got = getattr(output, name).float().clamp(-1e9, 1e9)
        torch.testing.assert_close(got, torch.tensor(value), atol=1e-5, rtol=1e-5, msg=name)


def test_there_are_releases():
    assert [release.name for release in RELEASES][:1] == ["0.1"]


@pytest.mark.parametrize("release", RELEASES, ids=lambda release: release.name)
def test_a_released_checkpoint_answers_as_it_did(release):
    model, processor, _ = load_checkpoint(release / "checkpoint")
    compare(model, processor, release, "checkpoint")


@pytest.mark.parametrize("release", RELEASES, ids=lambda release: release.name)
@pytest.mark.parametrize("way", ["PeftModel", "merged", "load_adapter"])
def test_a_released_adapter_answers_as_it_did(release, way):
    model, processor, _ = load_checkpoint(release / "checkpoint")
    if way == "load_adapter":
        model.load_adapter(str(release / "adapter"))
    else:
        model = PeftModel.from_pretrained(model, release / "adapter")
        model = model.merge_and_unload() if way == "merged" else model
    compare(model, processor, release, "adapter")


def test_an_adapter_alone_says_what_it_lacks():
    with pytest.raises(ValueError, match="adapter: an adapter that names no base"):
        load_checkpoint(RELEASES[0] / "adapter")

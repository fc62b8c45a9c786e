"""A fine-tuned model as `interest-lm finetune --tuning lora` leaves it, without the training: base, adapter, merged checkpoint."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from transformers import AutoTokenizer

from interest_lm.modeling_interest import InterestModel
from interest_lm.processing_interest import InterestProcessor
from interest_lm.publishing.export import item_catalogue, save_checkpoint
from interest_lm.training.arguments import InterestTrainingArguments
from interest_lm.training.run import tune_text


DOMAINS = [["Film", "Crime"], ["Film", "Drama"], ["Music"]]
INPUTS = {
    "histories": [
        [
            {"title": "Heat (1995)", "categories": [["Film", "Crime"]], "timestamp": 857131200, "item_id": "a"},
            {"title": "Jazz album", "categories": [["Music"]], "timestamp": 857231200, "text": "what a duel"},
        ],
        [{"title": "Casino", "categories": [["Film", "Crime"]], "timestamp": 857131200}],
    ],
    "candidates": [[{"title": "Casino"}, {"title": "Rock"}], [{"title": "Heat (1995)", "item_id": "a"}, {"title": "Bar"}]],
    "at": [860000000, 858000000],
}  # fmt: skip
REQUEST = {"history": INPUTS["histories"][0], "candidates": INPUTS["candidates"][0], "at": 860000000}
FACTS = {"name": "films", "recipe": "frames", "split": "global-time", "time": "seconds", "licence": "apache-2.0"}
RESULTS = {
    "split": "test",
    "ranking": {"ndcg@10": 0.2, "hit_rate@10": 0.3},
    "intervals": {"ranking.ndcg@10": [0.1, 0.3]},
    "baselines": {"popularity": {"ranking": {"ndcg@10": 0.1, "hit_rate@10": 0.2}}},
}


@dataclass
class Trained:
    """`folder` of the checkpoint, with `base` and `adapter` in it; what the model answers to `INPUTS`."""

    folder: Path
    outputs: dict[str, list]
    base_outputs: dict[str, list]
    model: InterestModel
    processor: InterestProcessor


@torch.no_grad()
def answers(model, processor) -> dict[str, list]:
    output = model.eval()(**processor(**INPUTS, return_tensors="pt"))
    return {name: value.float().tolist() for name, value in output.items() if torch.is_tensor(value)}


def stir(model, seed: int) -> None:
    """Moves what would be trained, and statistics too, so that every part speaks."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
        for name, buffer in model.named_buffers():
            if "population" in name and buffer.is_floating_point() and "original" not in name:
                buffer.add_(0.3 * torch.rand(buffer.shape, generator=generator))


def train(backbone: Path, folder: Path, seed: int = 0) -> Trained:
    torch.manual_seed(seed)
    model = InterestModel.from_text_pretrained(
        str(backbone), domains=DOMAINS, hidden_size=16, num_items=2, max_history=8
    )
    processor = InterestProcessor.from_model(model, AutoTokenizer.from_pretrained(backbone), item_ids=["a", "b"])
    training = {"backbone": str(backbone), "tuning": "lora", "minutes": 0.1}
    save_checkpoint(model, processor, folder / "base", facts=FACTS, training={"backbone": str(backbone)})
    base_outputs = answers(model, processor)
    args = InterestTrainingArguments(output_dir=str(folder), tuning="lora", lora_rank=2, bf16=False)
    tuned = tune_text(copy.deepcopy(model), args)
    stir(tuned, seed)
    outputs = answers(tuned, processor)
    tuned.save_pretrained(folder / "adapter")
    merged = tuned.merge_and_unload().eval()
    items = pd.DataFrame(
        {"item_id": ["a", "b"], "title": ["Heat (1995)", "Rock"], "text": "", "categories": [[["Film", "Crime"]], []]}
    )
    catalogue = item_catalogue(items, np.eye(2, 16))
    save_checkpoint(merged, processor, folder, catalogue=catalogue, results=RESULTS, facts=FACTS, training=training)
    return Trained(folder, outputs, base_outputs, merged, processor)

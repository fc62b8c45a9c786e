"""Texts and items to vectors, batched by length and cached on disk."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from tqdm.auto import tqdm

from ..modeling_interest import InterestModel
from ..processing_interest import InterestProcessor, item_sentence


TOKENS_PER_BATCH = 8192


def text_fingerprint(model: InterestModel, processor: InterestProcessor, sentences: Sequence[str]) -> str:
    """Changes when the text tower's weights, the token limit or any sentence does."""
    digest = hashlib.sha256(
        f"{model.config.text_pooling}{model.config.normalize_text}{processor.max_text_tokens}".encode()
    )
    for name, parameter in model.text_model.named_parameters():
        flat = parameter.detach().flatten()
        digest.update(
            f"{name}{tuple(parameter.shape)}{flat[:: max(1, len(flat) // 64)].double().cpu().sum():.17g}".encode()
        )
    for sentence in sentences:
        digest.update(sentence.encode() + b"\0")
    return digest.hexdigest()[:20]


@torch.no_grad()
def text_vectors(
    model: InterestModel,
    processor: InterestProcessor,
    sentences: Sequence[str],
    cache_dir: str | Path | None = None,
    progress: bool = True,
) -> np.ndarray:
    """Vectors of texts from the text tower, `(N, E)` float32.

    Texts are sorted by length and batched by tokens; a CPU encodes in bfloat16, three times as fast as in float32.

    Args:
        model ([`InterestModel`]): its text tower is used.
        processor ([`InterestProcessor`]): tokenizer and token limit.
        sentences (`Sequence[str]`): the texts, see [`item_sentence`].
        cache_dir (*optional*): a folder in which vectors are kept under a fingerprint of weights and texts.
        progress (`bool`, *optional*, defaults to `True`): show a bar where it takes long.
    """
    file = None
    if cache_dir is not None:
        file = Path(cache_dir) / f"{text_fingerprint(model, processor, sentences)}.npy"
        if file.exists():
            return np.load(file)
    tokens = processor.tokenizer(list(sentences), truncation=True, max_length=processor.max_text_tokens)["input_ids"]
    order = sorted(range(len(sentences)), key=lambda row: len(tokens[row]))
    vectors = np.zeros((len(sentences), model.item_tower.project.in_features), dtype=np.float32)
    was_training, device = model.training, model.device
    model.eval()
    start = 0
    with tqdm(total=len(order), desc="texts", unit="text", disable=not progress or len(order) < 2000) as bar:
        while start < len(order):
            stop = start + 1
            while stop < len(order) and (stop + 1 - start) * len(tokens[order[stop]]) <= TOKENS_PER_BATCH:
                stop += 1
            rows = order[start:stop]
            inputs = processor.tokenizer.pad({"input_ids": [tokens[row] for row in rows]}, return_tensors="pt").to(
                device
            )
            with torch.autocast(device.type, dtype=torch.bfloat16, enabled=model.dtype == torch.float32):
                encoded = model.encode_texts(inputs["input_ids"], inputs["attention_mask"])
            vectors[rows] = encoded.float().cpu().numpy()
            bar.update(len(rows))
            start = stop
    model.train(was_training)
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = file.with_suffix(f".{uuid.uuid4().hex}.partial.npy")  # several processes may write the same
        np.save(partial, vectors)
        partial.replace(file)
    return vectors


@torch.no_grad()
def encode_items(
    model: InterestModel,
    processor: InterestProcessor,
    items: Iterable[dict],
    cache_dir: str | Path | None = None,
    progress: bool = True,
) -> np.ndarray:
    """Unit item vectors, `(N, D)` float32.

    Args:
        model ([`InterestModel`]): the model.
        processor ([`InterestProcessor`]): its processor.
        items: dicts as in `items/*.parquet`: `title`, `text`, `categories`, `item_id` (known ids get their own vector).
        cache_dir, progress: see [`text_vectors`].

    Raises:
        ValueError: an item without any text.
    """
    sentences, numbers = [], []
    for position, item in enumerate(items):
        sentence = item_sentence(item.get("title"), item.get("text"), item.get("categories"))
        if not sentence:
            raise ValueError(f"items[{position}] has no text, expected a `title` or a `text`")
        sentences.append(sentence)
        numbers.append(processor.item_index.get(str(item.get("item_id")), -1))
    if not sentences:
        return np.zeros((0, model.config.hidden_size), dtype=np.float32)
    texts = torch.from_numpy(text_vectors(model, processor, sentences, cache_dir, progress)).to(model.device)
    was_training = model.training
    item_ids = torch.tensor(numbers, device=model.device)
    vectors = model.eval().item_tower(texts, item_ids, model.identified(item_ids))
    model.train(was_training)
    return vectors.float().cpu().numpy()


__all__ = ["encode_items", "text_vectors"]

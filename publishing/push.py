"""`interest-lm push`: a checkpoint, an adapter, a dataset or a Space on the Hub, each as one commit."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from huggingface_hub import HfApi

from ..configuration_interest import InterestConfig
from ..data.card import read_facts
from ..data.hub import hub_errors
from .adapter import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    check_base,
    find_adapter,
    named_base,
    read_adapter_config,
    write_adapter_config,
)
from .card import render_card
from .export import CODE_FILES, FACTS_FILE, RESULTS_FILE, ROOT, check_checkpoint
from .files import read_json
from .hub import Pushed, check_repo_id, commit_folder
from .travel import (
    ADAPTER_FILES,
    CARD_FILE,
    HANDLER_FILE,
    WEIGHTS,
    check_travelling,
    content_tag,
    is_known,
    model_files,
)


HANDLER = Path(__file__).with_name(HANDLER_FILE)


def push_model(
    model: str | Path,
    repo_id: str,
    *,
    private: bool = False,
    revision: str | None = None,
    licence: str | None = None,
    message: str | None = None,
) -> Pushed:
    """Pushes a merged checkpoint: weights, config, code, processor, taxonomy, item catalogue, results, handler and card.

    The card is rendered for the repository, its snippets pin a tag that names the content. Logs, caches and pictures in
    the folder stay where they are. An interrupted push is run again.

    Args:
        model: the checkpoint's folder.
        repo_id (`str`): `owner/name`.
        private (`bool`): make the repository private.
        revision (`str`, *optional*): branch to push to; `main` by default.
        licence (`str`, *optional*): a licence id of the Hub, for the card.
        message (`str`, *optional*): of the commit.

    Returns:
        [`Pushed`].

    Raises:
        ValueError: not a checkpoint, something in it that must not travel, or what the Hub refuses.
    """
    model = Path(model)
    if not model.is_dir():
        raise ValueError(f"{model}: no such folder, expected a checkpoint (`interest-lm finetune`)")
    if not (model / "config.json").exists() and (model / ADAPTER_CONFIG).exists():
        raise ValueError(f"{model}: is an adapter; push it with --adapter")
    check_checkpoint(model)
    names = model_files(model)
    if not any(WEIGHTS.fullmatch(name) and name.endswith(".safetensors") for name in names):
        raise ValueError(f"{model}: no model.safetensors in it; only safetensors are published")
    index = model / "model.safetensors.index.json"
    absent = set(read_json(index).get("weight_map", {}).values()) - set(names)
    if absent:
        raise ValueError(f"{index}: names {min(absent)}, which is not there")
    check_repo_id(repo_id)

    def accept(there: list[str]) -> None:
        if ADAPTER_CONFIG in there:
            raise ValueError(f"{repo_id}: holds an adapter; a merged checkpoint needs a repository of its own")

    with tempfile.TemporaryDirectory() as temporary:
        staged = Path(temporary)
        for name in names:
            if name != CARD_FILE:
                _link(model / name, staged / name)
        for name in CODE_FILES:
            if not (staged / name).exists():
                shutil.copyfile(ROOT / name, staged / name)
        shutil.copyfile(HANDLER, staged / HANDLER_FILE)
        config, message = InterestConfig.from_pretrained(model), message or f"InterestLM {model.resolve().name}"
        return _push(staged, model, config, repo_id, accept, private, revision, licence, message)


def push_adapter(
    model: str | Path,
    repo_id: str,
    *,
    base: str | None = None,
    private: bool = False,
    revision: str | None = None,
    licence: str | None = None,
    message: str | None = None,
) -> Pushed:
    """Pushes the adapter of a model fine-tuned with LoRA: its weights and config, results, item catalogue and card.

    It holds no code and no config of the model: those are its base's, which must be on the Hub and be the one that it was
    trained on (fine-tuning leaves it in the folder `base`). The base's commit is pinned in the adapter's config.

    Args:
        model: the fine-tuned model's folder, or the adapter's.
        repo_id, private, revision, licence, message: see [`push_model`].
        base (`str`, *optional*): `owner/name` or `owner/name@revision`; by default what the adapter's config names.

    Returns:
        [`Pushed`].

    Raises:
        ValueError: as [`push_model`]; no adapter, no base on the Hub, a base that does not fit.
    """
    adapter = find_adapter(Path(model))
    whole = adapter.parent if (adapter.parent / "config.json").is_file() else adapter
    check_repo_id(repo_id)
    content = read_adapter_config(adapter)
    api = HfApi()
    base_id, commit, config = check_base(api, named_base(content, base), whole, repo_id)

    def accept(there: list[str]) -> None:
        if "config.json" in there:
            raise ValueError(f"{repo_id}: holds a merged checkpoint; an adapter needs a repository of its own")

    with tempfile.TemporaryDirectory() as temporary:
        staged = Path(temporary)
        for name in ADAPTER_FILES - {CARD_FILE, ADAPTER_CONFIG}:
            if (whole / name).is_file():
                _link(whole / name, staged / name)
        _link(adapter / ADAPTER_WEIGHTS, staged / ADAPTER_WEIGHTS)
        write_adapter_config(staged, content, base_id, commit)
        message = message or f"InterestLM adapter {whole.resolve().name}"
        config = InterestConfig.from_dict(config)
        return _push(staged, whole, config, repo_id, accept, private, revision, licence, message, (base_id, commit))


def is_dataset(folder: Path) -> bool:
    """Whether a folder is an interest dataset rather than a checkpoint."""
    return (folder / "events").is_dir() and (folder / "items").is_dir() and not (folder / "config.json").exists()


def push_dataset(folder: str | Path, repo_id: str, *, private: bool = False, message: str | None = None) -> Pushed:
    """Pushes an interest dataset as it lies in its folder: `load_dataset(repo_id, "events")` opens it.

    Args:
        folder: of `interest-lm prepare`. Its events go with it: that is what a dataset is.
        repo_id, private, message: see [`push_model`].

    Raises:
        ValueError: no interest dataset, a path of this machine or a secret in its card, or what the Hub refuses.
    """
    folder = Path(folder)
    read_facts(folder / CARD_FILE)
    check_repo_id(repo_id)
    with tempfile.TemporaryDirectory() as temporary:
        staged = Path(temporary)
        card = (
            (folder / CARD_FILE).read_text(encoding="utf-8").replace("load_dataset(DIR,", f'load_dataset("{repo_id}",')
        )
        (staged / CARD_FILE).write_text(card, encoding="utf-8")
        if (folder / "taxonomy.json").exists():
            _link(folder / "taxonomy.json", staged / "taxonomy.json")
        check_travelling(staged, folder)
        for part in ("events", "items", "impressions"):
            for file in sorted((folder / part).glob("*.parquet")):
                _link(file, staged / part / file.name)
        commit, url = commit_folder(
            HfApi(), staged, repo_id, repo_type="dataset", private=private,
            message=message or f"Interest dataset {folder.resolve().name}",
            stale=lambda name: name.split("/")[0] in ("events", "items", "impressions"),
        )  # fmt: skip
    return Pushed(repo_id, url, commit)


def _push(
    staged: Path, model: Path, config, repo_id, accept, private, revision, licence, message, base=None
) -> Pushed:
    """Card, check, commit and tag of a staged model or adapter."""
    tag = content_tag(staged)
    known = read_json(staged / FACTS_FILE)
    card = render_card(
        config=config,
        results=read_json(staged / RESULTS_FILE) or None,
        facts=known.get("data"),
        training=known.get("training"),
        name=repo_id.split("/")[1],
        repository=repo_id,
        revision=tag,
        licence=licence,
        base=base,
    )
    (staged / CARD_FILE).write_text(str(card), encoding="utf-8")
    check_travelling(staged, model)
    api = HfApi()
    commit, url = commit_folder(
        api, staged, repo_id, private=private, revision=revision, message=message, stale=is_known, accept=accept
    )
    with hub_errors(repo_id):
        api.create_tag(repo_id, tag=tag, revision=commit, exist_ok=True)
    return Pushed(repo_id, url, commit, tag, base)


def _link(file: Path, target: Path) -> None:
    """A link to the file, so that weights are not copied before they are uploaded."""
    target.parent.mkdir(parents=True, exist_ok=True)
    target.symlink_to(file.resolve())

"""What of a checkpoint goes to the Hub, and the look at it before it does: no local path, no secret, nothing of a person."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
from safetensors import SafetensorError, safe_open

from .export import CATALOGUE_COLUMNS, CATALOGUE_FILE, CODE_FILES, FACTS_FILE, RESULTS_FILE, TAXONOMY_FILE


CARD_FILE = "README.md"
HANDLER_FILE = "handler.py"
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "spiece.model",
    "chat_template.jinja",
)
WEIGHTS = re.compile(r"(adapter_)?model(-\d{5}-of-\d{5})?\.safetensors(\.index\.json)?")
MODEL_FILES = {
    "config.json",
    "processor_config.json",
    CARD_FILE,
    HANDLER_FILE,
    TAXONOMY_FILE,
    CATALOGUE_FILE,
    RESULTS_FILE,
    FACTS_FILE,
    *CODE_FILES,
    *TOKENIZER_FILES,
}
ADAPTER_FILES = {"adapter_config.json", CARD_FILE, TAXONOMY_FILE, CATALOGUE_FILE, RESULTS_FILE, FACTS_FILE}
KNOWN = MODEL_FILES | ADAPTER_FILES

SECRETS = re.compile(
    r"\bhf_[A-Za-z0-9]{30,}|\bgh[pousr]_[A-Za-z0-9]{30,}|\bgithub_pat_\w{30,}|\bAKIA[0-9A-Z]{16}\b|\bAIza[\w-]{35}"
    r"|\bxox[baprs]-[\w-]{10,}|\bsk-[\w-]{20,}|-----BEGIN [A-Z ]*PRIVATE KEY-----"
)
# The folders in which machines keep what is their users' own; a URL's path is preceded by its host.
PATHS = re.compile(
    r"(?<![\w./:\\-])/(?:home|Users|root|tmp|mnt|media|private|scratch|srv|var|work|workspace|content|kaggle)/[\w.-]+"
    r"|\b[A-Za-z]:\\{1,2}[\w. -]+\\|\bfile://"
)
PERSONAL_KEYS = {"user_id", "user_ids", "history", "histories", "token", "api_key", "password"}


def model_files(folder: Path) -> list[str]:
    """The files of a merged checkpoint that travel; what else lies there (logs, caches, pictures, checkpoints) stays."""
    return sorted(
        file.name
        for file in folder.iterdir()
        if file.name in MODEL_FILES or WEIGHTS.fullmatch(file.name) and not file.name.startswith("adapter_")
    )


def is_known(name: str) -> bool:
    """Whether a file of a repository is one that a push writes, and may replace or remove."""
    return name in KNOWN or WEIGHTS.fullmatch(name) is not None


def content_tag(folder: Path) -> str:
    """The tag of a staged repository: the same content, card aside, has the same tag."""
    digest = hashlib.sha256()
    for file in sorted(folder.rglob("*")):
        if file.is_file() and file.name != CARD_FILE:
            digest.update(f"{file.relative_to(folder).as_posix()}\0".encode())
            with open(file, "rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
    return f"v-{digest.hexdigest()[:12]}"


def check_travelling(folder: Path, origin: Path) -> None:
    """Refuses a staged repository with something in it that must not be published.

    Args:
        folder (`Path`): what would be uploaded.
        origin (`Path`): the checkpoint on this machine; its path must not stand in any file.

    Raises:
        ValueError: a path of this machine, a secret, a person's key or column; one line names the file and what it holds.
    """
    own = [str(path) for path in (origin.resolve(), Path.home(), Path.cwd()) if len(path.parts) > 2]
    for file in sorted(folder.rglob("*")):
        if not file.is_file():
            continue
        where = f"{origin.name}/{file.relative_to(folder).as_posix()}"
        if file.suffix == ".parquet":
            texts = _catalogue_texts(file, where)
        elif file.suffix == ".safetensors":
            texts = iter(_weights_notes(file, where))
        else:
            texts = iter([_read(file, where)])
        data = file.suffix == ".parquet" or file.name in TOKENIZER_FILES
        for text in texts:
            _check_text(text, where, own, PATHS if not data and file.suffix != ".py" else None)
        if file.suffix == ".json" and file.name not in TOKENIZER_FILES:
            _check_keys(json.loads(file.read_text(encoding="utf-8")), where)


def _check_text(text: str, where: str, own: list[str], paths: re.Pattern | None) -> None:
    if found := SECRETS.search(text):
        raise ValueError(f"{where}: holds a secret ({found[0][:6]}...); nothing was uploaded")
    if found := next((path for path in own if path in text), None) or (paths and paths.search(text)):
        shown = found if isinstance(found, str) else found[0]
        raise ValueError(f"{where}: holds a path of this machine ({shown!r}); nothing was uploaded")


def _check_keys(content, where: str) -> None:
    if isinstance(content, dict):
        for key, value in content.items():
            if key in PERSONAL_KEYS and isinstance(value, str | list | dict):
                raise ValueError(f"{where}: holds `{key}`, which is nobody else's business; nothing was uploaded")
            _check_keys(value, where)
    elif isinstance(content, list):
        for value in content:
            _check_keys(value, where)


def _read(file: Path, where: str) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        if file.suffix == ".model":  # SentencePiece: bytes, with texts in them
            return file.read_bytes().decode("latin-1")
        raise ValueError(f"{where}: is not UTF-8") from None


def _weights_notes(file: Path, where: str) -> list[str]:
    try:
        with safe_open(file, framework="pt") as weights:
            return [f"{key} {value}" for key, value in (weights.metadata() or {}).items()]
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{where}: the weights are damaged ({error})") from None


def _catalogue_texts(file: Path, where: str) -> Iterator[str]:
    table = pq.read_table(file)
    other = [name for name in table.column_names if name not in CATALOGUE_COLUMNS]
    if other:
        raise ValueError(f"{where}: column `{other[0]}` does not belong to an item catalogue; nothing was uploaded")
    yield str(table.schema.metadata or "")
    for name in ("item_id", "title", "text"):
        yield from (text for text in table[name].to_pylist() if text)

"""Files that travel: JSON that every reader takes, and names that mean something elsewhere."""

from __future__ import annotations

import json
import math
import os
import re
from pathlib import Path
from typing import Any

import numpy as np


def write_json(content: dict, file: str | Path) -> None:
    """Writes JSON that every reader takes: not-a-number and infinity become null, numpy figures become plain ones."""
    file = Path(file)
    text = json.dumps(plain(content), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    beside = file.with_name(f".{file.name}.writing")
    beside.write_text(text, encoding="utf-8")
    os.replace(beside, file)


def read_json(file: str | Path) -> dict:
    """A JSON object from a file, `{}` where there is none.

    Raises:
        ValueError: something else in it.
    """
    file = Path(file)
    if not file.exists():
        return {}
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file}: is not JSON ({' '.join(str(error).split())})") from None
    if not isinstance(content, dict):
        raise ValueError(f"{file}: expected a JSON object, got {type(content).__name__}")
    return content


def plain(value: Any) -> Any:
    """The same content in JSON's own types."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value


def is_local_path(name: str) -> bool:
    """Whether a model name is a path of this machine rather than a Hub id (`"owner/name"` or `"name"`)."""
    return bool(name) and (
        not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name) or name.startswith(".") or Path(name).exists()
    )

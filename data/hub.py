"""What is read from the Hub: a repository's files in the cache, and the Hub's answers in one line."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
from huggingface_hub import constants, snapshot_download
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import validate_repo_id


STREAMED_ROWS = 50_000  # at a time


def split_revision(name: str) -> tuple[str, str | None]:
    """`"owner/name@revision"` as the id and the revision, None where none is named."""
    repo_id, _, revision = str(name).partition("@")
    return repo_id, revision or None


def fetch(name: str, patterns: Sequence[str], repo_type: str = "model") -> Path:
    """The folder in the cache that holds a repository's files at a revision; what is there already is not fetched again.

    Args:
        name (`str`): `owner/name` or `owner/name@revision`.
        patterns (`Sequence[str]`): which files.
        repo_type (`str`): `"model"` or `"dataset"`.

    Raises:
        ValueError: neither a folder, as which it was looked for before, nor a repository that can be read.
    """
    repo_id, revision = split_revision(name)
    try:
        validate_repo_id(repo_id)
    except HFValidationError:
        raise ValueError(f"{name}: no such folder, and not the id of a Hub repository either") from None
    try:
        with hub_errors(name):
            return Path(
                snapshot_download(repo_id, repo_type=repo_type, revision=revision, allow_patterns=list(patterns))
            )
    except ValueError as error:
        raise ValueError(f"{error}; and no folder of that name is here") from None


def stream_tables(name: str, splits: Sequence[str]) -> tuple[list[pa.Table], pa.Table, pa.Table | None]:
    """Events, split by split, items and impressions of an interest dataset on the Hub, as `datasets` streams them.

    Args:
        name (`str`): `owner/name` or `owner/name@revision`.
        splits (`Sequence[str]`): those of events and impressions.

    Raises:
        ValueError: no such repository, or no interest dataset.
    """
    from datasets import get_dataset_config_names, load_dataset
    from datasets.exceptions import DataFilesNotFoundError, DatasetNotFoundError

    repo_id, revision = split_revision(name)

    def rows(config: str) -> dict[str, pa.Table]:
        streams = load_dataset(repo_id, config, revision=revision, streaming=True)
        return {
            split: pa.concat_tables(stream.with_format("arrow").iter(STREAMED_ROWS), promote_options="permissive")
            for split, stream in streams.items()
            if split in splits or config == "items"
        }

    def with_split(found: dict[str, pa.Table]) -> list[pa.Table]:
        return [
            table.append_column("split", pa.array([split] * len(table), pa.string())) for split, table in found.items()
        ]

    try:
        with hub_errors(name):
            configs = get_dataset_config_names(repo_id, revision=revision)
            if not {"events", "items"} <= set(configs):
                raise ValueError(
                    f"{name}: no events and items in it; expected an interest dataset (`interest-lm prepare`)"
                )
            shown = with_split(rows("impressions")) if "impressions" in configs else []
            return with_split(rows("events")), rows("items")["train"], pa.concat_tables(shown) if shown else None
    except (DatasetNotFoundError, DataFilesNotFoundError, pa.ArrowInvalid, OSError) as error:
        raise ValueError(f"{name}: cannot be streamed ({one_line(error)})") from None


@contextmanager
def hub_errors(repo_id: str) -> Iterator[None]:
    """What the Hub answers, or that it does not, as a `ValueError` of one line."""
    try:
        yield
    except RevisionNotFoundError:
        raise ValueError(f"{repo_id}: no such revision on the Hub ({constants.ENDPOINT})") from None
    except RepositoryNotFoundError:
        raise ValueError(
            f"{repo_id}: no such repository on the Hub ({constants.ENDPOINT}), or a private one and no token for it "
            "(`hf auth login`)"
        ) from None
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else None
        if status in (401, 403):
            raise ValueError(
                f"{repo_id}: the Hub refuses ({status}); log in with a token that may write there"
            ) from None
        raise ValueError(f"{repo_id}: the Hub answers {status} ({one_line(error.server_message or error)})") from None
    except LocalTokenNotFoundError:
        raise ValueError(f"{repo_id}: no token for the Hub; log in with `hf auth login`") from None
    except LocalEntryNotFoundError:
        raise ValueError(
            f"{repo_id}: is not in the cache, and the Hub ({constants.ENDPOINT}) is out of reach"
        ) from None
    except OfflineModeIsEnabled:
        raise ValueError(f"{repo_id}: the Hub is out of reach, HF_HUB_OFFLINE is set") from None
    except Exception as error:
        # the HTTP client of huggingface_hub, httpx or httpx2, has errors of its own
        if not type(error).__module__.startswith("httpx"):
            raise
        raise ValueError(f"{repo_id}: the Hub ({constants.ENDPOINT}) is out of reach ({one_line(error)})") from None


def one_line(error: object) -> str:
    """An error's message without its line breaks, cut at 300 characters."""
    return " ".join(str(error).split())[:300]

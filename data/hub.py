"""What is read from the Hub: a repository's files in the cache, and the Hub's answers in one line."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

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

"""A folder as one commit of a repository on the Hub."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from huggingface_hub.utils import validate_repo_id

from ..data.hub import hub_errors, one_line


@dataclass(frozen=True)
class Pushed:
    """What a push left on the Hub.

    Attributes:
        repo_id (`str`): the repository.
        url (`str`): its page.
        commit (`str`): the full hash to pin.
        tag (`str`, *optional*): the tag on that content which the card's snippets pin.
        base (`tuple[str, str]`, *optional*): of an adapter, id and commit of its base.
    """

    repo_id: str
    url: str
    commit: str
    tag: str | None = None
    base: tuple[str, str] | None = None


def check_repo_id(repo_id: str) -> str:
    """Raises a `ValueError` for anything but `owner/name`."""
    try:
        validate_repo_id(repo_id)
        valid = repo_id.count("/") == 1
    except HFValidationError:
        valid = False
    if not valid:
        raise ValueError(f"{repo_id or 'REPO_ID'}: is no repository id, expected owner/name")
    return repo_id


def commit_folder(
    api: HfApi,
    folder: Path,
    repo_id: str,
    *,
    repo_type: str = "model",
    private: bool = False,
    revision: str | None = None,
    message: str,
    stale: Callable[[str], bool] = lambda name: False,
    accept: Callable[[list[str]], None] = lambda names: None,
    space_sdk: str | None = None,
) -> tuple[str, str]:
    """Makes a repository hold a folder's files, as one commit.

    Large files are uploaded first and the commit names them, so that an interrupted push leaves the repository as it was,
    and the same push again uploads only what had not arrived. Nothing is committed where nothing changes.

    Args:
        api (`HfApi`): the client.
        folder (`Path`): what to upload.
        repo_id (`str`): `owner/name`; made where it does not exist.
        repo_type (`str`): `"model"`, `"dataset"` or `"space"`.
        private (`bool`): make it private; a public repository is refused then.
        revision (`str`, *optional*): branch; made where it does not exist.
        message (`str`): of the commit.
        stale: says of a file there that the folder does not hold whether it goes.
        accept: looks at the names of the files there and raises where they must not be mixed with the folder's.
        space_sdk (`str`, *optional*): of a Space.

    Returns:
        `(commit, url)`: the full hash, and the repository's page.

    Raises:
        ValueError: what the Hub refuses, in one line.
    """
    with hub_errors(repo_id):
        url = api.create_repo(
            repo_id, repo_type=repo_type, private=private or None, exist_ok=True, space_sdk=space_sdk
        )
        if private and not api.repo_info(repo_id, repo_type=repo_type).private:
            raise ValueError(
                f"{repo_id}: is a public repository already, and --private was asked for; nothing was uploaded"
            )
        if revision is not None:
            api.create_branch(repo_id, branch=revision, repo_type=repo_type, exist_ok=True)
        there = api.list_repo_files(repo_id, repo_type=repo_type, revision=revision)
        accept(there)
        files = {file.relative_to(folder).as_posix(): file for file in sorted(folder.rglob("*")) if file.is_file()}
        operations: list[CommitOperationAdd | CommitOperationDelete] = [
            CommitOperationAdd(path_in_repo=name, path_or_fileobj=str(file)) for name, file in files.items()
        ]
        operations += [CommitOperationDelete(path_in_repo=name) for name in there if name not in files and stale(name)]
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message=".*about to commit a data file")  # the item catalogue
                done = api.create_commit(
                    repo_id, operations, commit_message=message, repo_type=repo_type, revision=revision
                )
        except ValueError as error:  # the Hub's look at the card
            if isinstance(error, HfHubHTTPError):
                raise
            raise ValueError(f"{repo_id}: {one_line(error)}") from None
    return done.oid, str(url)

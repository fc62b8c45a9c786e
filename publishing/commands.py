"""The commands `push` and `serve`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer


if TYPE_CHECKING:
    from .hub import Pushed


def push(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="Folder of a checkpoint, or of an interest dataset.")],
    repo_id: Annotated[
        str, typer.Argument(metavar="REPO_ID", help="owner/name on the Hub; made where it is not there.")
    ],
    adapter: Annotated[bool, typer.Option("--adapter", help="Push what LoRA trained, to be put on --base.")] = False,
    base: Annotated[
        str | None, typer.Option(metavar="OWNER/NAME[@REVISION]", help="The adapter's base on the Hub (MODEL/base).")
    ] = None,
    private: Annotated[bool, typer.Option("--private", help="Make the repository private.")] = False,
    revision: Annotated[str | None, typer.Option(help="Branch to push to; default: main.")] = None,
    licence: Annotated[str | None, typer.Option("--license", "--licence", help="Licence id, for the card.")] = None,
    commit_message: Annotated[str | None, typer.Option(help="Of the commit.")] = None,
    space: Annotated[str | None, typer.Option(metavar="OWNER/NAME", help="Make a Gradio Space on it, too.")] = None,
) -> None:
    """Share a checkpoint on the Hub in one commit; what breaks off is run again."""
    from .card import loading
    from .hub import check_repo_id
    from .push import is_dataset, push_adapter, push_dataset, push_model
    from .space import push_space

    if is_dataset(model):
        if adapter or base or space or revision or licence:
            raise ValueError(f"{model}: is a dataset; it takes --private and --commit-message alone")
        tell_dataset(push_dataset(model, repo_id, private=private, message=commit_message))
        return
    if space:
        check_repo_id(space)  # before the checkpoint is pushed
    options = {"private": private, "revision": revision, "licence": licence, "message": commit_message}
    if adapter:
        if space:
            raise ValueError("--space is for merged checkpoints, not for --adapter")
        pushed = push_adapter(model, repo_id, base=base, **options)
    elif base:
        raise ValueError("--base is for --adapter")
    else:
        pushed = push_model(model, repo_id, **options)
    print(f"{pushed.url}\ncommit {pushed.commit}, tag {pushed.tag}\n")
    print(loading(pushed.repo_id, pushed.commit, pushed.base))
    if space:
        print(f"\n{push_space(space, pushed, private=private).url}")


def tell_dataset(pushed: Pushed) -> None:
    """Prints where a dataset lies, and how to open it at this commit."""
    print(f"{pushed.url}\ncommit {pushed.commit}\n")
    print(f'load_dataset("{pushed.repo_id}", "events", revision="{pushed.commit}")')


def serve(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Folder of a checkpoint, or a Hub repository.")],
    data: Annotated[
        str | None, typer.Option(help="Interest dataset, for /profile and /recommend by the log's own ids.")
    ] = None,
    host: Annotated[str, typer.Option(help="Address; others than this machine reach it at 0.0.0.0.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0: any that is free.")] = 8000,
) -> None:
    """Answer over HTTP as an Inference Endpoint does: POST / with {"inputs": ...}, GET /health."""
    try:
        from .serve import serve as run
    except ModuleNotFoundError as error:
        if error.name not in ("fastapi", "uvicorn"):
            raise
        raise ValueError(f"`interest-lm serve` needs {error.name}: pip install 'interest-lm[serve]'") from None
    run(model, data, host, port)

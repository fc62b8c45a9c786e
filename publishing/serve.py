"""`interest-lm serve`: a checkpoint behind HTTP on this machine, with the JSON of an Inference Endpoint."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse

from .handler import EndpointHandler


MAX_BYTES = 8 * 2**20  # of one body
MAX_USERS = 64
MAX_LIST = 1_000  # items of one recommendation
AT = (int | str, "seconds or an ISO date")


class TooLarge(ValueError):
    """A body of more bytes than are read."""


def make_app(
    handler: Callable[[Any], Any], name: str, people: People | None = None, max_bytes: int = MAX_BYTES
) -> FastAPI:
    """The application.

    - `GET /health`: `{"status": "ok", "model", "routes"}` once the model is loaded.
    - `POST /`: what `handler.py` answers on an Inference Endpoint.
    - `POST /profile`: `{"user": ID, "at": ...}`, and `POST /recommend`: `{"users": [ID, ...], "top_k": 10, "at": ..., "diversity": 0}`,
      where a log is served too.

    What is wrong with a body is `{"error": one line}` with status 400, or 413 for one that is too large.

    Args:
        handler: answers a body, see [`EndpointHandler`].
        name (`str`): the model's, for `/health`.
        people ([`People`], *optional*): answers about a log's people.
        max_bytes (`int`): of one body.
    """
    app = FastAPI(title="InterestLM", docs_url=None, redoc_url=None, openapi_url=None)
    routes = {"/": handler} | ({"/profile": people.profile, "/recommend": people.recommend} if people else {})

    async def body_of(request: Request) -> Any:
        body = b""
        async for chunk in request.stream():
            body += chunk
            if len(body) > max_bytes:
                raise TooLarge(f"the body has more than {max_bytes} bytes")
        try:
            return json.loads(body)
        except (ValueError, RecursionError):
            raise ValueError("the body is not JSON") from None

    def add(path: str, answer: Callable[[Any], Any]) -> None:
        async def respond(request: Request) -> JSONResponse:
            try:
                return JSONResponse(await run_in_threadpool(answer, await body_of(request)))
            except ValueError as error:
                return JSONResponse({"error": str(error)}, 413 if isinstance(error, TooLarge) else 400)

        app.add_api_route(path, respond, methods=["POST"], response_model=None)

    async def health() -> JSONResponse:
        return JSONResponse({"status": "ok", "model": name, "routes": sorted(routes)})

    app.add_api_route("/health", health, methods=["GET"], response_model=None)
    for path, answer in routes.items():
        add(path, answer)
    return app


class People:
    """Answers about the people of a log, by its own ids.

    Args:
        predictor (`ModelPredictor`): of the model on the log.
        lock: held while the model answers.
    """

    def __init__(self, predictor, lock):
        self.predictor, self.log, self.lock = predictor, predictor.log, lock
        self.vectors = predictor.item_vectors()

    def profile(self, data: Any) -> dict[str, Any]:
        """`{"user", "at"?}` -> see `interest_profile`."""
        from ..recommendation.profile import interest_profile

        wish = _fields(data, user=(str, "an id"), at=AT)
        if "user" not in wish:
            raise ValueError('expected {"user": ID}')
        with self.lock:
            return interest_profile(self.predictor, self.log, wish["user"], at=wish.get("at"))

    def recommend(self, data: Any) -> list[dict[str, Any]]:
        """`{"users": [ID, ...], "top_k"?, "at"?, "diversity"?}` -> see `recommend`."""
        from ..recommendation.recommend import recommend

        number = ((int, float), "a number")
        wish = _fields(data, users=(list, "ids"), top_k=(int, "a whole number"), at=AT, diversity=number)
        users, top_k = wish.get("users"), wish.get("top_k", 10)
        if not users or len(users) > MAX_USERS or not all(isinstance(user, str) for user in users):
            raise ValueError(f'expected {{"users": [ID, ...]}} with 1 to {MAX_USERS} ids')
        if not 1 <= top_k <= MAX_LIST:
            raise ValueError(f"`top_k` is {top_k}, expected 1 to {MAX_LIST}")
        with self.lock:
            return recommend(
                self.predictor, self.log, users, top_k, at=wish.get("at"), item_vectors=self.vectors,
                diversity=wish.get("diversity", 0.0),
            )  # fmt: skip


def _fields(data: Any, **types: tuple[Any, str]) -> dict[str, Any]:
    if not isinstance(data, dict):
        raise ValueError(f"expected a JSON object with {', '.join(types)}")
    if unknown := sorted(map(str, data.keys() - types.keys())):
        raise ValueError(f"unknown key {unknown[0]!r:.80}, expected {', '.join(types)}")
    for key, value in data.items():
        if isinstance(value, bool) or not isinstance(value, types[key][0]):
            raise ValueError(f"`{key}` is {value!r:.80}, expected {types[key][1]}")
    return data


def load_app(model: str, data: str | Path | None = None):
    """The application of a checkpoint, and of a log where `data` is given.

    Raises:
        ValueError: a checkpoint or a log that cannot be loaded.
    """
    from ..pipeline_interest import TASK, InterestPipeline
    from .export import load_checkpoint

    log = None
    if data is not None:
        from ..data.log import InterestLog

        log = InterestLog.load(data)
    network, processor, _ = load_checkpoint(model)
    pipe = InterestPipeline(model=network, processor=processor, task=TASK, device=network.device)
    handler = EndpointHandler(pipe=pipe)
    people = None
    if log is not None:
        from ..evaluation.predict import ModelPredictor

        people = People(ModelPredictor(network, processor, log), handler.lock)
    name = Path(model).resolve().name if Path(model).is_dir() else str(model)
    return make_app(handler, name, people)


def serve(model: str, data: str | Path | None = None, host: str = "127.0.0.1", port: int = 8000) -> None:
    """Serves until it is interrupted.

    Raises:
        ValueError: see [`load_app`].
    """
    uvicorn.run(load_app(model, data), host=host, port=port, log_level="info")

"""Answers requests of an Inference Endpoint; travels as `handler.py` with a checkpoint and needs nothing but transformers.

A body is `{"inputs": request or [requests], "parameters": {"horizon_days": ..., "top_k": ...}}`, each request as the pipeline
"user-interest" takes it: `{"history": [...], "candidates": [...], "at": ..., "horizon_days": ..., "top_k": ...}`. The answer
is the pipeline's: a dictionary for a request, a list for a list. What is wrong with a body is a `ValueError` of one line,
which the endpoint answers with status 400.
"""

from __future__ import annotations

import math
import re
import threading
from typing import Any

import torch
from transformers import pipeline


MAX_REQUESTS = 64
MAX_EVENTS = 5_000  # of one history
MAX_CANDIDATES = 2_000  # of one request
MAX_THINGS = 20_000  # events and candidates of a body
MAX_CHARACTERS = 10_000  # of one text
MAX_DEPTH = 6  # of nested lists and dictionaries
BATCH_SIZE = 16
LONE_SURROGATE = re.compile("[\ud800-\udfff]")
PARAMETERS = ("horizon_days", "top_k")


class EndpointHandler:
    """
    Args:
        path (`str`): the checkpoint's folder, or a repository's id.
        pipe (*optional*): a pipeline "user-interest" that is loaded already, instead of `path`.

    Raises:
        ValueError, OSError: a checkpoint that cannot be loaded.
    """

    def __init__(self, path: str = "", pipe: Any = None):
        if pipe is None:
            device = "cuda" if torch.cuda.is_available() else "cpu"
            # the code is that of `path` itself, which is where this file came from
            pipe = pipeline("user-interest", model=path, trust_remote_code=True, device=device)
        self.pipe = pipe
        self.lock = threading.Lock()  # the tokenizer must not be used by two threads at once

    def __call__(self, data: Any) -> dict[str, Any] | list[dict[str, Any]]:
        """Checks a body and answers it.

        Raises:
            ValueError: a body that cannot be answered; the message names the request, the field and the value.
        """
        inputs, parameters = read_body(data)
        with self.lock, torch.inference_mode():
            return self.pipe(inputs, batch_size=BATCH_SIZE, **parameters)


def read_body(data: Any) -> tuple[dict | list[dict], dict]:
    """The request or requests of a body, and its parameters.

    Raises:
        ValueError: of another form, or too large.
    """
    if not isinstance(data, dict) or "inputs" not in data:
        raise ValueError('expected a JSON object {"inputs": request or list of requests}')
    if unknown := sorted(map(str, data.keys() - {"inputs", "parameters"})):
        raise ValueError(f"unknown key {unknown[0]!r:.80}, expected inputs, parameters")
    parameters = data.get("parameters") or {}
    if not isinstance(parameters, dict):
        raise ValueError(f"`parameters` is {parameters!r:.80}, expected an object")
    if unknown := sorted(map(str, parameters.keys() - set(PARAMETERS))):
        raise ValueError(f"unknown parameter {unknown[0]!r:.80}, expected {', '.join(PARAMETERS)}")
    inputs = data["inputs"]
    listed = isinstance(inputs, list)
    requests = inputs if listed else [inputs]
    if not requests:
        raise ValueError("`inputs` is an empty list, expected at least one request")
    if len(requests) > MAX_REQUESTS:
        raise ValueError(f"`inputs` has {len(requests)} requests, expected at most {MAX_REQUESTS}")
    things = sum(
        check_request(request, f"request {number}: " if listed else "") for number, request in enumerate(requests)
    )
    if things > MAX_THINGS:
        raise ValueError(f"`inputs` has {things} events and candidates, expected at most {MAX_THINGS}")
    return inputs, parameters


def check_request(request: Any, where: str) -> int:
    """The number of events and candidates of a request, after a look at its size; its content is the pipeline's to check."""
    if not isinstance(request, dict):
        raise ValueError(f"{where}{request!r:.80} is no request, expected an object with a `history`")
    things = 0
    for field, most in (("history", MAX_EVENTS), ("candidates", MAX_CANDIDATES)):
        rows = request.get(field)
        if isinstance(rows, list):
            if len(rows) > most:
                raise ValueError(f"{where}`{field}` has {len(rows)} entries, expected at most {most}")
            things += len(rows)
    check_values(request, where, 0)
    return things


def check_values(value: Any, where: str, depth: int) -> None:
    """Refuses what JSON should not carry into a model: endless texts, deep nests, infinities."""
    if depth > MAX_DEPTH:
        raise ValueError(f"{where}nested deeper than {MAX_DEPTH} levels")
    if isinstance(value, str) and len(value) > MAX_CHARACTERS:
        raise ValueError(
            f"{where}a text has {len(value)} characters, expected at most {MAX_CHARACTERS}: {value[:40]!r}..."
        )
    if isinstance(value, str) and LONE_SURROGATE.search(value):
        raise ValueError(f"{where}a text is no Unicode: {value[:40]!a}")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{where}{value} is no finite number")
    if isinstance(value, dict):
        for key, item in value.items():
            check_values(key, where, depth)
            check_values(item, where, depth + 1)
    elif isinstance(value, list):
        for item in value:
            check_values(item, where, depth + 1)

# Copyright 2026 The InterestLM team.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
"""Pipeline of InterestLM: one person's history as a dictionary in, interests as plain figures and words out."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import numpy as np
import torch
from transformers import AutoModel, Pipeline
from transformers.pipelines import PIPELINE_REGISTRY

from .processing_interest import parse_time
from .taxonomy_interest import DomainTree


TASK = "user-interest"
# what `config.json` says of the pipeline, so that `pipeline(TASK, model=..., trust_remote_code=True)` finds it
CUSTOM_PIPELINES = {TASK: {"impl": "pipeline_interest.InterestPipeline", "pt": ["AutoModel"]}}
REQUEST_KEYS = ("history", "candidates", "at", "horizon_days", "top_k", "why")
TEXTS_AT_ONCE = 256
EXPLAINED_EVENTS = 200  # latest events of a history that are tried as reasons
ROWS_AT_ONCE = 32  # histories without one event in a forward pass
LONGEST_DAYS = 36525  # a hundred years
STEADY_Z = 1.64  # two-sided 90 %
HIGH_SHARE, MEDIUM_SHARE = 0.2, 0.05


def future_spread(future: np.ndarray, concentration: np.ndarray | None, tree: DomainTree) -> np.ndarray:
    """Standard deviation of the log-odds of every forecast share.

    Shares among siblings are Dirichlet with the concentration kappa, so a share q of its parent has the relative variance
    `(1 - q) / (q (kappa + 1))`; along a path these add up (delta method), and dividing by `1 - f` turns the deviation of
    `log f` into that of the log-odds.

    Args:
        future (`np.ndarray` of shape `(H, K)`): shares; siblings sum to their parent.
        concentration (`np.ndarray` of shape `(H, K)`, *optional*): kappa of each domain among its siblings, in events.
        tree (`DomainTree`): the K domains, parents first.

    Returns:
        `np.ndarray` of shape `(H, K)`; infinite where there is no concentration, 0 where the share is 1.
    """
    if concentration is None:
        return np.full_like(future, np.inf)
    relative = np.zeros_like(future)
    for node, parent in enumerate(tree.parent.tolist()):
        above = future[:, parent] if parent >= 0 else 1.0
        q = np.clip(future[:, node] / np.maximum(above, 1e-12), 1e-9, 1.0)
        relative[:, node] = (1 - q) / (q * (concentration[:, node] + 1))
        if parent >= 0:
            relative[:, node] += relative[:, parent]
    rest = 1 - future
    return np.where(rest > 1e-9, np.sqrt(relative) / np.maximum(rest, 1e-9), 0.0)


def change(interest: float, future: float) -> float:
    """`r = (f - p) / (f + p)`, 0 where both are 0.

    Example:

    ```python
    >>> round(change(0.3, 0.45), 3)
    0.2

    ```
    """
    return (future - interest) / (future + interest) if future + interest > 0 else 0.0


def share_interval(share: float, spread: float) -> tuple[float, float]:
    """90 % interval of a share whose log-odds have the standard deviation `spread`."""
    if spread == 0 or not 0 < share < 1:
        return share, share
    if np.isinf(spread):
        return 0.0, 1.0
    odds = np.log(share / (1 - share))
    low, high = odds - STEADY_Z * spread, odds + STEADY_Z * spread
    return float(1 / (1 + np.exp(-low))), float(1 / (1 + np.exp(-high)))


def rate_interval(interest: float, future: float, spread: float) -> tuple[float, float, float]:
    """90 % interval of the change rate, and its z: the shift of the log-odds in standard deviations.

    The interval holds 0 exactly where |z| <= 1.64.

    Args:
        interest (`float`): long-run share.
        future (`float`): forecast share.
        spread (`float`): standard deviation of its log-odds, see [`future_spread`].

    Returns:
        `(low, high, z)`.

    Example:

    ```python
    >>> [round(figure, 2) for figure in rate_interval(0.3, 0.45, 0.25)]
    [0.08, 0.3, 2.59]

    ```
    """
    low, high = share_interval(future, spread)
    if not 0 < interest < 1 or not 0 < future < 1 or spread == 0 or np.isinf(spread):
        return change(interest, low), change(interest, high), 0.0
    shift = np.log(future / (1 - future)) - np.log(interest / (1 - interest))
    return change(interest, low), change(interest, high), float(shift / spread)


def interest_level(share: float) -> str:
    """`"high"` from a share of .2, `"medium"` from .05, `"low"` below."""
    return "high" if share >= HIGH_SHARE else "medium" if share >= MEDIUM_SHARE else "low"


def interest_trend(z: float, reliable: bool = True) -> str:
    """`"growing"` or `"fading"`, and `"steady"` unless |z| > 1.64 and change is `reliable` (`config.change_is_reliable`)."""
    return "steady" if not reliable or abs(z) <= STEADY_Z else "growing" if z > 0 else "fading"


def scene_summary(
    scenes: list[str], interest: np.ndarray, share: np.ndarray, tree: DomainTree, top: int = 5
) -> list[dict]:
    """What somebody is interested in given each scene, the likeliest scene first.

    Args:
        scenes (`list[str]`): S names.
        interest (`np.ndarray` of shape `(S, K)`): shares of the domains given each.
        share (`np.ndarray` of shape `(S,)`): chance of each.
        tree (`DomainTree`): the K domains.
        top (`int`): so many of the leaves, strongest first.

    Returns:
        Per scene `scene`, `share` and `domains`: `domain` and `interest`.
    """
    leaves = np.flatnonzero(tree.is_leaf)
    found = []
    for scene in np.argsort(-share, kind="stable").tolist():
        strongest = leaves[np.argsort(-interest[scene, leaves], kind="stable")][:top].tolist()
        domains = [{"domain": tree.ids[node], "interest": float(interest[scene, node])} for node in strongest]
        found.append({"scene": scenes[scene], "share": float(share[scene]), "domains": domains})
    return found


class InterestPipeline(Pipeline):
    r"""
    One person's history in; interest per domain, its change, its future and a ranking of candidates out.

    A request is a dictionary:

    - `history` (`list[dict]`): the events, any order, as [`InterestProcessor`] takes them; it may be empty.
    - `candidates` (`list[dict]`, *optional*): things to rank.
    - `at` (`int` or `str`, *optional*): the moment asked about, seconds or ISO date. Default: the last event's time.
    - `horizon_days` (`float`, *optional*): how far to look, any positive number of days, of a model that counts in days.
      Trained are those of `config.horizons`; for what is said between and beyond them see `horizons` of
      [`InterestModel.forward`]. Default: `config.reference_horizon`.
    - `top_k` (`int`, *optional*): length of the ranking. Default: all candidates.
    - `why` (`int`, *optional*): at most so many events behind each domain; the model is asked once more per event of the
      history (its latest 200). Default: none.

    A list of requests is answered with a list, `batch_size` of them at a time.

    The answer is a dictionary of plain figures and words:

    - `domains`: every node of the tree, strongest first: `domain` (its path), `interest` (long-run share, top domains sum
      to 1), `change` (signed rate between `interest` and `future`, in (-1, 1)) with its 90 % `interval`, `future` (share
      in the window up to the horizon), `level` (`"high"` from an interest of .2, `"medium"` from .05, `"low"`), `trend`
      (`"growing"`, `"fading"`, or `"steady"` unless the change is significant at 90 % and the model's change rates proved
      reliable in training, `config.change_is_reliable`); with `why` also `because`, the events that add most to `future`:
      `event` (position in the request's history), `title` and `contribution` (the share that is gone without it). Empty for
      a model without domains.
    - `intensity`: expected number of events in that window, `None` where the model does not count in days.
    - `scenes`: given each scene of the model, the likeliest at the next event first: `scene`, `share` (chance of the scene) and
      `domains`, the five strongest leaves given it (`domain`, `interest`). Empty for a model without scenes.
    - `ranking`: best first, `title` (the text where there is none), `item_id` where given, `score` (orders one person's
      candidates), `overall` (calibrated probability of interest). Empty without candidates.

    Raises:
        ValueError: a request that cannot be read; the message names request, field and value.

    Example:

    ```python
    pipe = pipeline("user-interest", model=FOLDER, trust_remote_code=True)
    pipe({"history": [{"title": "Heat (1995)", "timestamp": "1997-03-01"}], "candidates": [{"title": "Casino (1995)"}]})
    ```
    """

    _load_processor = True
    _load_tokenizer = False
    _load_feature_extractor = False
    _load_image_processor = False
    _load_video_processor = False

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        if self.processor is None:
            raise ValueError("`processor` is None, expected the InterestProcessor of the model")
        self.model.eval()
        domains = self.model.config.domains
        self.tree = DomainTree(domains) if domains else None

    def _sanitize_parameters(self, horizon_days=None, top_k=None, why=None):
        given = {"horizon_days": horizon_days, "top_k": top_k, "why": why}
        return {name: value for name, value in given.items() if value is not None}, {}, {}

    def __call__(self, inputs, **kwargs):
        """
        Args:
            inputs (`dict`, `list[dict]`, generator or dataset of `dict`): requests, see [`InterestPipeline`].
            kwargs: `horizon_days`, `top_k` and `why` for the requests that name none, `batch_size`.

        Returns:
            `dict` for a dictionary, a list of them for a list, an iterator for a generator or a dataset.
        """
        if isinstance(inputs, list) and not inputs:
            return []
        return super().__call__(inputs, **kwargs)

    def run_single(self, inputs, preprocess_params, forward_params, postprocess_params):
        request = self._request(inputs, "", preprocess_params)
        return self._answer([request], [""])[0]

    def get_iterator(self, inputs, num_workers, batch_size, preprocess_params, forward_params, postprocess_params):
        return self._stream(inputs, batch_size, preprocess_params)

    def _stream(self, inputs: Iterable[dict], batch_size: int, defaults: dict) -> Iterator[dict]:
        numbered = ((f"request {number}: ", request) for number, request in enumerate(inputs))
        while chunk := list(islice(numbered, batch_size)):
            requests = [self._request(request, where, defaults) for where, request in chunk]
            yield from self._answer(requests, [where for where, _ in chunk])

    def _answer(self, requests: list[dict], where: list[str]) -> list[dict]:
        outputs: Any = self.forward(self.preprocess(requests, where))
        return self.postprocess(outputs)

    def _request(self, request: Any, where: str, defaults: dict) -> dict:
        """A request with every key, checked but for what the processor checks."""
        if not isinstance(request, dict):
            raise ValueError(f"{where}{request!r:.80} is no request, expected a dictionary with a `history`")
        if unknown := sorted(map(str, request.keys() - set(REQUEST_KEYS))):
            raise ValueError(f"{where}unknown key {unknown[0]!r}, expected {', '.join(REQUEST_KEYS)}")
        if not isinstance(request.get("history"), (list, tuple)):
            raise ValueError(f"{where}`history` is {request.get('history')!r:.80}, expected a list of events")
        if not isinstance(request.get("candidates"), (list, tuple, type(None))):
            raise ValueError(
                f"{where}`candidates` is {request['candidates']!r:.80}, expected a list of things to rank"
            )
        request = dict.fromkeys(REQUEST_KEYS) | defaults | {k: v for k, v in request.items() if v is not None}
        for key in ("top_k", "why"):
            number = request[key]
            if number is not None and (isinstance(number, bool) or not isinstance(number, int) or number < 1):
                raise ValueError(f"{where}`{key}` is {number!r}, expected 1 or more")
        request["horizon"] = self._horizon(request["horizon_days"], where)
        return request

    def _horizon(self, days: Any, where: str) -> float:
        """How far to look, in `config.horizon_unit`."""
        config = self.model.config
        if days is None:
            return config.reference_horizon
        if config.horizon_unit != "days":
            raise ValueError(f"{where}`horizon_days` is {days!r}, but this model counts in {config.horizon_unit}")
        if isinstance(days, bool) or not isinstance(days, (int, float)) or not 0 < days <= LONGEST_DAYS:
            raise ValueError(
                f"{where}`horizon_days` is {days!r:.80}, expected a number above 0 and up to {LONGEST_DAYS}"
            )
        return float(days)

    def preprocess(self, requests: list[dict], where: list[str]) -> dict[str, Any]:
        candidates = [request["candidates"] or [] for request in requests]
        processor: Any = self.processor  # an `InterestProcessor`, of this package or of a checkpoint's code
        try:
            batch = processor(
                histories=[request["history"] for request in requests],
                candidates=candidates if any(candidates) else None,
                at=[request["at"] for request in requests],
            )
        except ValueError as error:
            raise ValueError(_in_terms_of_requests(str(error), where)) from None
        return {"requests": requests, "batch": dict(batch)}

    def _forward(self, inputs: dict[str, Any]) -> dict[str, Any]:
        model: Any = self.model
        vectors, batch = self._encode(inputs["batch"])
        horizons = list(dict.fromkeys(request["horizon"] for request in inputs["requests"]))
        output = model(item_embeds=vectors, horizons=torch.tensor(horizons, device=vectors.device), **batch)
        reasons = [self._reasons(request) if request["why"] else [] for request in inputs["requests"]]
        return {"requests": inputs["requests"], "horizons": horizons, "output": output, "reasons": reasons}

    def _encode(self, batch: dict[str, Any]) -> tuple[torch.Tensor, dict[str, Any]]:
        """Text vectors of a batch, and what is left of it."""
        model: Any = self.model
        batch = dict(batch)
        tokens = [batch.pop(name).split(TEXTS_AT_ONCE) for name in ("item_input_ids", "item_attention_mask")]
        return torch.cat([model.encode_texts(ids, mask) for ids, mask in zip(*tokens, strict=True)]), batch

    def _reasons(self, request: dict) -> list[list[dict]]:
        """Per domain the events that add most to its forecast: the model is asked again without each of them."""
        if self.tree is None:
            return []
        model: Any = self.model
        processor: Any = self.processor
        history = request["history"]
        times = [parse_time(event["timestamp"], "`timestamp`") for event in history]
        tried = sorted(range(len(history)), key=times.__getitem__)[-EXPLAINED_EVENTS:]
        at = request["at"] if request["at"] is not None else max(times, default=None)
        asked = [history, *([event for n, event in enumerate(history) if n != left_out] for left_out in tried)]
        batch: Any = self._ensure_tensor_on_device(dict(processor(histories=asked, at=[at] * len(asked))), self.device)
        vectors, batch = self._encode(batch)
        horizon = torch.tensor([request["horizon"]], device=vectors.device)
        future = []
        for start in range(0, len(asked), ROWS_AT_ONCE):
            part = slice(start, start + ROWS_AT_ONCE)
            rows = {name: value if name.startswith("item_") else value[part] for name, value in batch.items()}
            output = model(item_embeds=vectors, horizons=horizon, forecast_only=True, **rows)
            future.append(output["future_interest"][:, 0].double().cpu())
        shares = torch.cat(future).numpy()
        added = shares[:1] - shares[1:]
        found = []
        for node in range(len(self.tree)):
            order = np.argsort(-added[:, node], kind="stable")[: request["why"]]
            found.append(
                [
                    {
                        "event": tried[place],
                        "title": history[tried[place]].get("title") or history[tried[place]].get("item_text"),
                        "contribution": float(added[place, node]),
                    }
                    for place in order.tolist()
                    if added[place, node] > 0
                ]
            )
        return found

    def postprocess(self, outputs: dict[str, Any]) -> list[dict]:
        output = {
            name: outputs["output"][name].double().numpy()
            for name in (
                "domain_interest", "future_interest", "concentration", "intensity", "ranking_scores", "logits",
                "scene_interest", "scene_share",
            )
            if outputs["output"].get(name) is not None
        }  # fmt: skip
        answers = []
        for row, request in enumerate(outputs["requests"]):
            horizon = outputs["horizons"].index(request["horizon"])
            answers.append(
                {
                    "domains": self._domains(output, row, horizon, outputs["reasons"][row]),
                    "intensity": float(output["intensity"][row, horizon]) if "intensity" in output else None,
                    "scenes": self._scenes(output, row),
                    "ranking": self._ranking(output, row, request),
                }
            )
        return answers

    def _domains(
        self, output: dict[str, np.ndarray], row: int, horizon: int, reasons: list[list[dict]] | None = None
    ) -> list[dict]:
        if self.tree is None:
            return []
        reliable = self.model.config.change_is_reliable
        interest, future = output["domain_interest"][row], output["future_interest"][row, horizon]
        spread = future_spread(future[None], output["concentration"][row, horizon][None], self.tree)[0]
        domains = []
        for node in np.argsort(-interest, kind="stable").tolist():
            share, forecast = float(interest[node]), float(future[node])
            low, high, z = rate_interval(share, forecast, float(spread[node]))
            domains.append(
                {
                    "domain": self.tree.nodes[node]["id"],
                    "interest": share,
                    "change": change(share, forecast),
                    "interval": [low, high],
                    "future": forecast,
                    "level": interest_level(share),
                    "trend": interest_trend(z, reliable),
                }
                | ({"because": reasons[node]} if reasons else {})
            )
        return domains

    def _scenes(self, output: dict[str, np.ndarray], row: int) -> list[dict]:
        if self.tree is None or "scene_interest" not in output:
            return []
        interest, share = output["scene_interest"][row], output["scene_share"][row]
        return scene_summary(self.model.config.scenes, interest, share, self.tree)

    def _ranking(self, output: dict[str, np.ndarray], row: int, request: dict) -> list[dict]:
        candidates = request["candidates"] or []
        if not candidates:
            return []
        scores = output["ranking_scores"][row, : len(candidates)]
        ranking = []
        for number in np.argsort(-scores, kind="stable")[: request["top_k"]].tolist():
            candidate = candidates[number]
            entry = {"title": candidate.get("title") or candidate.get("text")}
            if candidate.get("item_id") is not None:
                entry["item_id"] = candidate["item_id"]
            overall = 1 / (1 + np.exp(-output["logits"][row, number]))
            ranking.append(entry | {"score": float(scores[number]), "overall": float(overall)})
        return ranking

    def save_pretrained(self, save_directory, **kwargs):
        """Saves model, processor and code. A checkpoint to publish is written by `publishing.export.save_checkpoint`."""
        # what a registered class has: a class out of a checkpoint's code would be saved without its file
        self._registered_impl = {TASK: {"impl": type(self), "pt": (AutoModel,)}}
        super().save_pretrained(save_directory, **kwargs)
        self.processor.save_pretrained(save_directory, **kwargs)


def _in_terms_of_requests(message: str, where: list[str]) -> str:
    """The processor's `histories[1][0]: ...` as `request 7: history[0]: ...`."""
    found = re.match(r"(histories|candidates|at)\[(\d+)\](.*)", message, flags=re.DOTALL)
    if found is None:
        return message
    field, user, rest = found.groups()
    return f"{where[int(user)]}{'history' if field == 'histories' else field}{rest}"


def register_interest_pipeline() -> None:
    """Makes `pipeline("user-interest", ...)` known to transformers; `import interest_lm` calls it."""
    if TASK not in PIPELINE_REGISTRY.supported_tasks:
        PIPELINE_REGISTRY.register_pipeline(TASK, pipeline_class=InterestPipeline, pt_model=AutoModel)


__all__ = ["InterestPipeline", "register_interest_pipeline"]

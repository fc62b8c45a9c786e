"""The model's answers to evaluation cases."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import torch

from ..data.log import InterestLog
from ..modeling_interest import InterestModel, InterestOutput
from ..processing_interest import InterestProcessor
from ..recommendation.log_tensors import LogTensors
from .ablations import PARTS
from .baselines.change import rate
from .cases import CompletionCases, ForecastCases, NextEventCases, OverallCases, RankingCases, SceneCases, take


class ModelPredictor:
    """Answers cases on one log with one model, in batches of users.

    Args:
        model ([`InterestModel`]), processor ([`InterestProcessor`]): a checkpoint.
        log (`InterestLog`): the log that the cases are about.
        batch_size (`int`, *optional*, defaults to 64): users per forward pass.
        cache_dir (*optional*): where text vectors are kept.
        tensors ([`LogTensors`], *optional*): tables already at hand.
    """

    def __init__(
        self,
        model: InterestModel,
        processor: InterestProcessor,
        log: InterestLog,
        batch_size: int = 64,
        cache_dir: str | Path | None = None,
        tensors: LogTensors | None = None,
        progress: bool = True,
    ):
        self.model, self.processor, self.batch_size = model, processor, batch_size
        self.seconds_later = 0
        self.tensors = tensors or LogTensors(log, model, processor, cache_dir=cache_dir, progress=progress)
        self.log = log if tensors is not None else self.tensors.log  # with the domains that were added by name

    def forward(self, histories, time: np.ndarray, **inputs) -> InterestOutput:
        """One pass over some cases; what the output says at queries has one row per case."""
        batch = self.tensors.items() | self.tensors.queries(histories, time, self.model.config.max_history) | inputs
        batch["query_times"] = batch["query_times"] + self.seconds_later
        batch = {
            name: value.to(self.model.device) if isinstance(value, torch.Tensor) else value
            for name, value in batch.items()
        }
        was_training = self.model.training
        with torch.inference_mode():
            output = self.model.eval()(**batch)
        self.model.train(was_training)
        return output

    def item_vectors(self) -> np.ndarray:
        """Unit vectors of the log's items, `(I, D)` float32."""
        device = self.model.device
        with torch.inference_mode():
            texts = self.tensors.texts.to(device)[self.tensors.item_text_index.to(device)]
            model, item_ids = self.model.eval(), self.tensors.item_ids.to(device)
            vectors = model.item_tower(texts, item_ids, model.identified(item_ids))
        return vectors.float().cpu().numpy()

    def with_random_text(self, seed: int = 0) -> ModelPredictor | None:
        """The same model on the same log with the items' texts permuted among them: does it matter what a text says?

        Own vectors, domains and popularity stay with their items, people's own words with their events. None for a model
        that reads no text.
        """
        if not self.model.config.use_text:
            return None
        tensors = copy.copy(self.tensors)
        order = np.random.default_rng(seed).permutation(self.log.num_items)
        tensors.item_text_index = self.tensors.item_text_index[torch.from_numpy(order)]
        return ModelPredictor(self.model, self.processor, self.log, self.batch_size, tensors=tensors)

    def without(self, part: str) -> ModelPredictor | None:
        """The same model with one part left out and nothing trained anew; None where it has no such part.

        Args:
            part (`str`): `blend` (transitions, EASE and what validation added to popularity), `popularity` (of items, learned and
                added), `item_ids` (items' own vectors: texts alone), `domain_network` (what the network says of domains: the
                statistical prior alone).

        Raises:
            ValueError: another part.
        """
        if part not in PARTS:
            raise ValueError(f"part: {part!r} is none of {', '.join(PARTS)}")
        model = copy.deepcopy(self.model)
        neighbours, ranking, tower = model.neighbours, model.ranking_head, model.item_tower
        added = [module.popularity for module in (neighbours, model.newcomers) if module is not None]
        if part == "domain_network":
            if model.domain_head is None or not model.config.use_domain_residual:
                return None
            model.config.use_domain_residual = False
            return ModelPredictor(model, self.processor, self.log, self.batch_size, tensors=self.tensors)
        if part == "blend":
            weights = [] if neighbours is None else [neighbours.weight, *added]
        elif part == "popularity":
            weights = [] if ranking.popularity is None else [ranking.popularity.weight, *added]
            weights += [part.weight for part in (ranking.popularity_output, ranking.taste) if part is not None]
        else:
            weights = [tower.identity.weight] if model.config.use_text and tower.identity is not None else []
        if not any(tensor.any() for tensor in weights):
            return None
        with torch.no_grad():
            for tensor in weights:
                tensor.zero_()
        return ModelPredictor(model, self.processor, self.log, self.batch_size, tensors=self.tensors)

    def asked_later(self, seconds: int) -> ModelPredictor | None:
        """The same model, told that every question comes so many seconds later than it does: does it matter when one asks?

        What it knows of the person and of everybody stays that of the true moment. None for a model that knows order only.
        """
        if self.model.config.time_unit != "seconds":
            return None
        other = copy.copy(self)
        other.seconds_later = seconds
        return other

    def batches(self, cases):
        """Slices of the cases, similar lengths and cases of one user together: `(rows, cases of these rows)`."""
        longest = np.zeros(self.log.num_users, dtype=np.int64)
        np.maximum.at(longest, cases.user, cases.histories.lengths)
        order = np.lexsort((cases.user, longest[cases.user]))
        for start in range(0, len(order), self.batch_size):
            rows = order[start : start + self.batch_size]
            yield rows, take(cases, rows)

    def rank(self, cases: RankingCases, rows: slice) -> np.ndarray:
        """Scores of the whole catalogue, `(n, I)` float32."""
        chosen = take(cases, rows)
        scores = np.empty((len(chosen.user), self.log.num_items), dtype=np.float32)
        for part, batch in self.batches(chosen):
            score = self.forward(batch.histories, batch.time, rank_items=True)["ranking_scores"]
            scores[part] = score.float().cpu().numpy()
        return scores

    def forecast(self, cases: ForecastCases) -> dict[str, np.ndarray]:
        """`interest (Q, K)`, `future (Q, H, K)`, `change_rate (Q, K)`, `own_change_rate (Q, K)`, `concentration (Q, H, K)`,
        `intensity (Q, H)` at the cases' horizons.

        Where the cases say which long-run share their labels start from, `change_rate` leads from that share to the model's
        forecast at the reference horizon, as every baseline's does; `own_change_rate` is the output's, which starts from the
        model's own `interest`.

        Raises:
            ValueError: a horizon that the model was not trained for.
        """
        config = self.model.config
        if cases.unit != config.horizon_unit or any(horizon not in config.horizons for horizon in cases.horizons):
            raise ValueError(
                f"horizons are {list(cases.horizons)} {cases.unit}, expected some of {config.horizons} {config.horizon_unit}"
            )
        columns = [config.horizons.index(horizon) for horizon in cases.horizons]
        # domains that were added by name have no labels
        labelled = cases.reference_horizon == config.reference_horizon and not config.added_domains
        observed = cases.interest if labelled else None
        answer: dict[str, np.ndarray] = {}

        def put(rows, name, value):
            if value is not None:
                value = value.float().cpu().numpy()
                answer.setdefault(name, np.empty((len(cases.user), *value.shape[1:]), np.float32))[rows] = value

        for rows, batch in self.batches(cases):
            output = self.forward(batch.histories, batch.time, forecast_only=True)
            if output.domain_interest is not None:
                put(rows, "interest", output.domain_interest)
                put(rows, "future", output.future_interest[:, columns])
                put(rows, "own_change_rate", output.change_rate)
                put(rows, "reference", output.future_interest[:, config.reference_index])
                put(rows, "concentration", output.concentration[:, columns])
            if output.intensity is not None:
                put(rows, "intensity", output.intensity[:, columns])
                put(rows, "intensity_dispersion", output.intensity_dispersion[:, columns])
            if output.absence is not None:
                put(rows, "absence", output.absence[:, columns])
        if "reference" in answer:
            reference = answer.pop("reference")
            answer["change_rate"] = answer["own_change_rate"] if observed is None else rate(reference, observed)
        return answer

    def completion(self, cases: CompletionCases) -> np.ndarray:
        """Shares of the hidden half, `(Q, K)`.

        Raises:
            ValueError: a model without domains.
        """
        if self.model.domain_head is None:
            raise ValueError("the model knows no domains: it was made without them")
        answer = np.empty((len(cases.user), self.model.config.num_domains), dtype=np.float32)
        for rows, batch in self.batches(cases):
            output = self.forward(batch.histories, batch.time, forecast_only=True)
            answer[rows] = output.domain_interest.float().cpu().numpy()
        return answer

    def next_event(self, cases: NextEventCases) -> np.ndarray:
        """Shares of the domains of an event at each case's time, `(Q, K)`.

        Raises:
            ValueError: a model without that head.
        """
        if self.model.next_event_head is None:
            raise ValueError(
                "the model does not say what happens at a known time: it was made without `use_next_event`"
            )
        answer = np.empty((len(cases.user), self.model.config.num_domains), dtype=np.float32)
        for rows, batch in self.batches(cases):
            answer[rows] = self.forward(batch.histories, batch.time).next_interest.float().cpu().numpy()
        return answer

    def scenes(self, cases: SceneCases) -> dict[str, np.ndarray]:
        """`interest (Q, K)`, shares of the domains given each case's scene, and `share (Q, S)`, the chance of every scene of the
        log. A scene that the model does not know is answered with the mean over those that it knows.

        Raises:
            ValueError: a model without scenes.
        """
        given = self.scene_interest(cases)
        names = self.model.config.scenes or []
        column = np.array([names.index(scene) if scene in names else -1 for scene in self.log.scenes])
        code, rows = column[cases.scene], np.arange(len(cases.user))
        mean = np.einsum("qs,qsk->qk", given["share"], given["interest"])
        interest = np.where((code >= 0)[:, None], given["interest"][rows, code], mean)
        share = np.where(column >= 0, given["share"][:, column], 1e-6)
        return {"interest": interest, "share": share / share.sum(1, keepdims=True)}

    def scene_interest(self, cases) -> dict[str, np.ndarray]:
        """`interest (Q, S, K)` and `share (Q, S)` of the model's scenes, for cases of any kind.

        Raises:
            ValueError: a model without scenes.
        """
        config = self.model.config
        if not config.scenes:
            raise ValueError("the model knows no scenes: it was made without them")
        interest = np.empty((len(cases.user), config.num_scenes, config.num_domains), dtype=np.float32)
        share = np.empty(interest.shape[:2], dtype=np.float32)
        for rows, batch in self.batches(cases):
            output = self.forward(batch.histories, batch.time)
            interest[rows] = output.scene_interest.float().cpu().numpy()
            share[rows] = output.scene_share.float().cpu().numpy()
        return {"interest": interest, "share": share}

    def _candidates(self, cases: OverallCases, field: str) -> np.ndarray:
        answer = np.full(cases.item.shape, np.nan, dtype=np.float32)
        for rows, batch in self.batches(cases):
            shown = batch.item.reshape(len(rows), -1)
            shown = shown[:, : max(1, (shown >= 0).sum(1).max())]
            candidates = torch.from_numpy(shown.astype(np.int64))
            found = self.forward(batch.histories, batch.time, candidates=candidates)[field].float().cpu().numpy()
            if cases.item.ndim == 1:
                answer[rows] = found[:, 0]
            else:
                answer[rows, : shown.shape[1]] = np.where(shown >= 0, found, np.nan)
        return answer

    def overall(self, cases: OverallCases) -> np.ndarray:
        """Log-odds of overall interest in one item per case, `(Q,)`, or in all shown ones, `(Q, C)`, NaN = padding."""
        return self._candidates(cases, "logits")

    def ratings(self, cases: OverallCases) -> np.ndarray:
        """Predicted values of one item per case, `(Q,)`.

        Raises:
            ValueError: a model without values.
        """
        if self.model.rating_head is None:
            raise ValueError("the model predicts no ratings: it was trained without values")
        return self._candidates(cases, "ratings")


__all__ = ["ModelPredictor"]

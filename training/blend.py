"""The network's ranking blended with two linear item-to-item models, their settings chosen on validation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.linalg
import scipy.sparse as sp
import torch

from ..data.log import TRAIN, InterestLog
from ..data.population import PopularityTable
from ..evaluation.cases import RankingCases, take
from ..evaluation.metrics.ranking import ranking_values
from ..evaluation.predict import ModelPredictor
from ..modeling_interest import RELATIONS, InterestModel
from ..recommendation.log_tensors import LogTensors
from .validation import Validation


SETTINGS = ("penalty", "repeat", "history_decay", "half_life")  # what a matrix is fitted with
PENALTIES = {"transitions": (100.0, 300.0), "ease": (50.0, 200.0, 800.0)}
REPEATS = (0.0, 0.1, 0.3, 1.0, 3.0)  # EASE's weight of an item on itself, where people come back
HISTORY_DECAYS = (0.5, 0.7)  # of the histories that transitions are fitted on
HALF_LIVES = (None, 0.125, 0.03)  # of the events that transitions are fitted on, in shares of the log's span
DECAYS = {"transitions": (0.9, 0.8, 0.7, 0.5, 0.3), "ease": (1.0, 0.95, 0.9, 0.8, 0.7)}
FLOORS = (0.001, 0.01)
WEIGHTS = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0)
SUPPORTS = (1, 3, 10, 30, 100)  # training events below which an item's own vector is not used
POPULARITY_CASES = 1_500  # that weights of popularity are fitted on
POPULARITY_PENALTY = 1e-3  # price of their squares
MAX_ITEMS = {"transitions": 8_000, "ease": 8_000}  # items of the dense matrices, 0.3 to 0.5 GiB each
MAX_CELLS = 150_000_000  # of the dense matrix of people and items, 1.1 GiB
TUNING_ITEMS = 3_000  # what a matrix is fitted with is tuned on the most common items
WINDOW = 20  # events that a transition is fitted on
BLOCK = 1_000


def strongest(weights: np.ndarray, keep: int) -> tuple[np.ndarray, np.ndarray]:
    """The `keep` largest entries by size of each row: columns int32 and values float32, `(I, keep)`."""
    columns = np.argpartition(-np.abs(weights), keep - 1, axis=1)[:, :keep]
    return columns.astype(np.int32), np.take_along_axis(weights, columns, axis=1).astype(np.float32)


def common_items(count: np.ndarray, most: int) -> np.ndarray:
    """The `most` most common items, ascending."""
    return np.sort(np.argsort(-count, kind="stable")[:most])


def ease_neighbours(
    matrix: sp.csr_matrix, penalty: float, keep: int, max_items: int = MAX_ITEMS["ease"]
) -> tuple[np.ndarray, np.ndarray]:
    """The `keep` strongest entries of each row of EASE's `B` (Steck 2019, eq. 8), zero diagonal.

    Args:
        matrix (`sp.csr_matrix` of shape `(U, I)`): 1 where a person had an item. Where `I` and `U` exceed `max_items`, or
            `U * I` 150 million, the most common `max_items` items take part; the others have no neighbours.
        penalty (`float`): weight of the squared norm, 50 to 1,000.
        keep (`int`): entries per item.

    Returns:
        Columns int32 and values float32, both `(I, keep)`.
    """
    users, items = matrix.shape
    keep = min(keep, items)
    index, strength = np.zeros((items, keep), np.int32), np.zeros((items, keep), np.float32)
    chosen = np.arange(items)
    by_user = users <= min(items, max_items) and users * items <= MAX_CELLS
    if by_user:  # Woodbury: (X'X + c)^-1 = (1 - X'(c + XX')^-1 X) / c
        gram = (matrix @ matrix.T).toarray().astype(np.float64)
        gram[np.diag_indices(users)] += penalty
        half = scipy.linalg.solve_triangular(scipy.linalg.cholesky(gram, lower=True), matrix.toarray(), lower=True)
        half = half.astype(np.float32)  # X'(c + XX')^-1 X = half' half
        diagonal = (1.0 - (half**2).sum(0)) / penalty
    else:
        chosen = common_items(np.asarray(matrix.sum(0)).ravel(), max_items)
        part = matrix[:, chosen]
        gram = (part.T @ part).toarray().astype(np.float64)
        gram[np.diag_indices(len(chosen))] += penalty
        inverse = scipy.linalg.cho_solve(scipy.linalg.cho_factor(gram, overwrite_a=True), np.eye(len(chosen)))
        diagonal = np.diag(inverse)
    kept = min(keep, len(chosen))
    for start in range(0, len(chosen), BLOCK):
        rows = np.arange(start, min(start + BLOCK, len(chosen)))
        precision = -(half[:, rows].T @ half) / penalty if by_user else inverse[rows]
        block = -precision / diagonal
        block[np.arange(len(rows)), rows] = 0.0
        columns, values = strongest(block, kept)
        index[chosen[rows], :kept], strength[chosen[rows], :kept] = chosen[columns], values
    return index, strength


def transition_neighbours(
    user: np.ndarray,
    item: np.ndarray,
    num_items: int,
    keep: int,
    *,
    penalty: float,
    decay: float,
    weight: np.ndarray | None = None,
    max_items: int = MAX_ITEMS["transitions"],
) -> tuple[np.ndarray, np.ndarray]:
    """The `keep` strongest entries of each row of the ridge regression of the next item on the fading history.

    `B = (X'WX + c)^-1 X'WY`: row t of X holds `decay^(k - 1)` at the item k events before event t of the same person, for the
    last 20 events, row t of Y is 1 at the item of t (the linear session models of Choe et al. 2021, eq. 9, with an autoregressive
    target). Unlike EASE it has a direction, and a diagonal: people come back to some things.

    Args:
        user, item (`np.ndarray` of shape `(E,)`): events sorted by user and time.
        num_items (`int`): I.
        keep (`int`): entries per item.
        penalty (`float`): c, usually 100 to 300.
        decay (`float`): usually .5 to .7.
        weight (`np.ndarray` of shape `(E,)`, *optional*): of every event as a target.
        max_items (`int`): where the catalogue is larger, the most common ones take part.

    Returns:
        Columns int32 and values float32, both `(I, keep)`.
    """
    keep = min(keep, num_items)
    index, strength = np.zeros((num_items, keep), np.int32), np.zeros((num_items, keep), np.float32)
    chosen = common_items(np.bincount(item, minlength=num_items), max_items)
    number = np.full(num_items, -1)
    number[chosen] = np.arange(len(chosen))
    part = number[item]
    weight = np.ones(len(item)) if weight is None else weight
    rows, columns, values = [], [], []
    for back in range(1, WINDOW + 1):
        same = np.flatnonzero((user[back:] == user[:-back]) & (part[:-back] >= 0))
        rows.append(same + back)
        columns.append(part[same])
        values.append(np.full(len(same), decay ** (back - 1)))
    shape = len(item), len(chosen)
    history = sp.csr_matrix((np.concatenate(values), (np.concatenate(rows), np.concatenate(columns))), shape=shape)
    known = np.flatnonzero(part >= 0)
    following = sp.csr_matrix((weight[known], (known, part[known])), shape=shape)
    gram = (history.T @ history.multiply(weight[:, None])).toarray().astype(np.float32, order="F")
    gram[np.diag_indices(len(chosen))] += penalty
    target = (history.T @ following).toarray().astype(np.float32, order="F")
    factor = scipy.linalg.cho_factor(gram, lower=True, overwrite_a=True, check_finite=False)
    weights = scipy.linalg.cho_solve(factor, target, overwrite_b=True, check_finite=False)
    kept = min(keep, len(chosen))
    for start in range(0, len(chosen), BLOCK):
        rows = np.arange(start, min(start + BLOCK, len(chosen)))
        block_columns, block_values = strongest(weights[rows], kept)
        index[chosen[rows], :kept], strength[chosen[rows], :kept] = chosen[block_columns], block_values
    return index, strength


@dataclass
class Matrices:
    """Fits either relation on the events of a log up to a split, in the model's item numbers."""

    log: InterestLog
    item_ids: np.ndarray
    num_items: int
    keep: int

    def fit(
        self, relation: str, *, tuning: bool = False, penalty: float, repeat: float = 0.0, history_decay: float = 0.0,
        half_life: float | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
        """Columns and values `(I, keep)` of a relation from the log's training events; `tuning` takes the most common items
        only."""
        log = self.log
        chosen = np.flatnonzero((log.split == TRAIN) & (log.item >= 0))
        chosen = chosen[self.item_ids[log.item[chosen]] >= 0]
        user, item = log.user[chosen], self.item_ids[log.item[chosen]]
        most = min(TUNING_ITEMS, MAX_ITEMS[relation]) if tuning else MAX_ITEMS[relation]
        if relation == "ease":
            matrix = sp.csr_matrix((np.ones(len(user)), (user, item)), shape=(log.num_users, self.num_items))
            matrix.data[:] = 1.0
            matrix = matrix[np.flatnonzero(np.diff(matrix.indptr))]
            index, strength = ease_neighbours(matrix, penalty, self.keep, most)
            # EASE has no diagonal: what coming back is worth takes the place of the weakest entry
            index[:, -1], strength[:, -1] = np.arange(self.num_items), repeat
            return index, strength
        weight = None
        if half_life is not None:
            time = log.timestamp[chosen]
            span = max(int(time.max() - time.min()), 1)
            weight = 0.5 ** ((time.max() - time) / (half_life * span))
            weight *= len(weight) / weight.sum()
        return transition_neighbours(
            user, item, self.num_items, self.keep,
            penalty=penalty, decay=history_decay, weight=weight, max_items=most,
        )  # fmt: skip


def mean_ndcg(scores: np.ndarray, target: np.ndarray) -> float:
    """Mean NDCG@10 of the targets `(Q,)` among scores `(Q, I)`, those of items that are no choice -inf."""
    own = scores[np.arange(len(scores)), target][:, None]
    better, ties = np.count_nonzero(scores > own, axis=1), np.count_nonzero(scores == own, axis=1) - 1
    return float(ranking_values(better, ties)["ndcg@10"].mean())


def fill_neighbours(model: InterestModel, relation: str, table: tuple[np.ndarray, np.ndarray]) -> None:
    """Puts columns and values `(I, keep)` of a relation into the model."""
    number, neighbours = RELATIONS.index(relation), model.neighbours
    for target, values in zip((neighbours.index, neighbours.strength), table, strict=True):
        target[number].copy_(torch.from_numpy(values).to(target.device))


def _had(log: InterestLog, cases: RankingCases) -> np.ndarray:
    """`(Q, I)` bool, what the history of each case holds."""
    had = np.zeros((len(cases.user), log.num_items), dtype=bool)
    item = cases.histories.items(log)
    had[cases.histories.rows[item >= 0], item[item >= 0]] = True
    return had


class PopularityFit:
    """What popularity is worth beside a score, as validation's next items say: a conditional logit (McFadden 1974) of the
    popularity features, apart for items without a vector of their own, beside the score on a scale of its own.

    Args:
        log (`InterestLog`): the log.
        cases (`RankingCases`): Q of them; weights are fitted on 1,500.
        table (`PopularityTable`): its features, F.
        filtered (`bool`): what somebody had before is no choice.
    """

    def __init__(self, log: InterestLog, cases: RankingCases, table: PopularityTable, filtered: bool):
        moments, self.moment = np.unique(table.index(cases.time), return_inverse=True)
        self.features = torch.from_numpy(table.features[moments])  # (G, I, F)
        count = len(cases.user)
        self.chosen = np.sort(np.random.default_rng(0).permutation(count)[:POPULARITY_CASES])
        fitted = take(cases, self.chosen)
        self.target = torch.from_numpy(fitted.target)
        self.had = torch.zeros(len(self.chosen), log.num_items, dtype=torch.bool)
        if filtered:
            self.had = torch.from_numpy(_had(log, fitted))
            self.had[torch.arange(len(self.chosen)), self.target] = False

    def worth(self, weights: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
        """`(G, I)` what weights `(2, F + 1)`, the constants last, give to every item; the second row to those that are `new (I,)`."""
        extra = self.features @ weights[1, :-1] + weights[1, -1]
        return self.features @ weights[0, :-1] + extra * new

    def added(self, weights: np.ndarray, new: np.ndarray) -> np.ndarray:
        """The same for all Q cases, `(Q, I)`."""
        return self.worth(torch.from_numpy(weights), torch.from_numpy(new)).numpy()[self.moment]

    def weights(self, base: np.ndarray, new: np.ndarray) -> np.ndarray:
        """The best weights `(2, F + 1)` beside scores `(Q, I)`, in units of these scores."""
        scores = torch.from_numpy(base[self.chosen]).masked_fill(self.had, -1e4)
        moment, newcomer = torch.from_numpy(self.moment[self.chosen]), torch.from_numpy(new)
        weights = torch.zeros(2, self.features.shape[-1] + 1, requires_grad=True)
        log_scale = torch.zeros(1, requires_grad=True)
        search = torch.optim.LBFGS([weights, log_scale], max_iter=30, line_search_fn="strong_wolfe")

        def loss() -> torch.Tensor:
            search.zero_grad()
            logits = scores * log_scale.exp() + self.worth(weights, newcomer)[moment]
            own = logits.gather(1, self.target[:, None])[:, 0]
            value = (logits.logsumexp(1) - own).mean() + POPULARITY_PENALTY * (weights**2).sum()
            value.backward()
            return value

        with torch.enable_grad():
            search.step(loss)
        return (weights / log_scale.exp()).detach().numpy()


def trust_vectors(model: InterestModel, tensors: LogTensors, support: int) -> bool:
    """Lets only items with `support` training events use vectors of their own; says whether that leaves any and not all."""
    log = tensors.log
    if model.newcomers is None:
        return False
    count = np.bincount(log.item[(log.split == TRAIN) & (log.item >= 0)], minlength=log.num_items)
    known = tensors.item_ids >= 0
    trusted = torch.full_like(model.newcomers.trusted, float(support <= 1))
    trusted[tensors.item_ids[known]] = torch.from_numpy(count >= support).to(trusted)[known]
    model.newcomers.trusted.copy_(trusted)
    share = float(trusted.mean()) if len(trusted) else 1.0
    return 0 < share < 1


def refit_blend(model: InterestModel, tensors: LogTensors, report: dict | None) -> None:
    """Fits the relations that [`fit_blend`] chose anew, on the training events of another log: validation's among them, with
    the items that it saw first."""
    for relation in RELATIONS:
        chosen = (report or {}).get(relation) or {"weight": 0.0}
        if chosen["weight"]:
            setting = {name: chosen[name] for name in SETTINGS if name in chosen}
            matrices = Matrices(
                tensors.log, tensors.item_ids.numpy(), model.config.num_items, model.config.num_neighbours
            )
            fill_neighbours(model, relation, matrices.fit(relation, **setting))


def fit_blend(predictor: ModelPredictor, validation: Validation, max_bytes: int = 2**29) -> dict | None:
    """Fills the model's neighbours from the training events; what they are fitted with, their decays, floors and weights are
    chosen by NDCG@10 on validation, one relation after the other.

    Returns:
        The settings with `ndcg@10` before and after, or `None` for a model without neighbours or a log without validation.
    """
    model, log = predictor.model, predictor.log
    if model.neighbours is None or not len(validation.blend.user):
        return None
    cases = validation.blend
    most = max(1, max_bytes // (8 * log.num_items))
    if len(cases.user) > most:
        cases = take(cases, np.sort(np.random.default_rng(0).permutation(len(cases.user))[:most]))
    if validation.filtered:  # what somebody had before is no choice, and a target of these no case
        cases = take(cases, np.flatnonzero(~_had(log, cases)[np.arange(len(cases.user)), cases.target]))
        if not len(cases.user):
            return None
    neighbours = model.neighbours
    item_ids = predictor.tensors.item_ids.numpy()
    matrices = Matrices(log, item_ids, model.config.num_items, model.config.num_neighbours)
    histories = cases.histories
    known = item_ids >= 0
    to_known = sp.csr_matrix(
        (np.ones(known.sum()), (np.flatnonzero(known), item_ids[known])), shape=(log.num_items, model.config.num_items)
    )

    def evidence(table: tuple[np.ndarray, np.ndarray], decay: float) -> np.ndarray:
        index, strength = table
        rows = np.repeat(np.arange(len(index)), index.shape[1])
        weights = sp.csr_matrix((strength.ravel(), (rows, index.ravel())), shape=(len(index), len(index)))
        fade = np.where(histories.ages < model.config.max_history, decay ** histories.ages.astype(np.float64), 0.0)
        linear = ((histories.matrix(log, fade) @ to_known) @ weights).toarray().astype(np.float32)
        return np.maximum(linear[:, np.where(known, item_ids, 0)] * known, 0)

    def value(scores: np.ndarray) -> float:
        return mean_ndcg(scores, cases.target)

    def rank() -> np.ndarray:
        scores = predictor.rank(cases, slice(0, len(cases.user)))
        if validation.filtered:
            scores[_had(log, cases)] = -np.inf
        return scores

    def best_of(base: np.ndarray, table, decays, floors, weights) -> dict:
        best = {"ndcg@10": -1.0}
        for decay in decays:
            linear = evidence(table, decay)
            for floor in floors:
                logs = np.log(linear + np.float32(floor))
                for weight in weights:
                    reached = value(base + np.float32(weight) * logs)
                    if reached > best["ndcg@10"]:
                        best = {"decay": decay, "floor": floor, "weight": weight, "ndcg@10": reached, "logs": logs}
        return best

    neighbours.weight.zero_()
    neighbours.popularity.zero_()
    if model.newcomers is not None:
        model.newcomers.popularity.zero_()
    trust_vectors(model, predictor.tensors, 1)
    base = rank()
    report: dict = {"ndcg@10 without": value(base)}
    reached = report["ndcg@10 without"]
    table = predictor.tensors.popularity
    if table is not None:
        fitter = PopularityFit(log, cases, table, validation.filtered)
        best: dict = {"ndcg@10": -1.0}
        for step, support in enumerate(SUPPORTS):
            if support > 1:
                if step - SUPPORTS.index(best["support"]) > 2 or not trust_vectors(model, predictor.tensors, support):
                    break
                base = rank()
            new = np.zeros(log.num_items, dtype=bool)
            if model.newcomers is not None:
                new = ~model.identified(predictor.tensors.item_ids.to(model.device)).cpu().numpy()
            for weights in (np.zeros((2, len(table.names) + 1), np.float32), fitter.weights(base, new)):
                found = value(base + fitter.added(weights, new))
                if found > best["ndcg@10"]:
                    best = {"support": support, "weights": weights, "new": new, "base": base, "ndcg@10": found}
        trust_vectors(model, predictor.tensors, best["support"])
        weights, new, network = best["weights"], best["new"], best["base"]
        base, reached = network + fitter.added(weights, new), best["ndcg@10"]
        report["popularity"] = {"support": best["support"], "ndcg@10": reached}
    times = log.facts["time"] == "seconds"
    for number, relation in enumerate(RELATIONS):
        settings = [{"penalty": penalty} for penalty in PENALTIES[relation]]
        if relation == "ease":
            repeats = REPEATS[:1] if validation.filtered else REPEATS
            settings = [setting | {"repeat": repeat} for setting in settings for repeat in repeats]
        if relation == "transitions":
            settings = [
                setting | {"history_decay": decay, "half_life": half_life}
                for setting in settings
                for decay in HISTORY_DECAYS
                for half_life in (HALF_LIVES if times else HALF_LIVES[:1])
            ]
        tried = [
            (
                best_of(
                    base,
                    matrices.fit(relation, tuning=True, **setting),
                    DECAYS[relation][1:4:2],
                    FLOORS[:1],
                    WEIGHTS[1::3],
                )["ndcg@10"],
                place,
            )
            for place, setting in enumerate(settings)
        ]
        setting = settings[max(tried)[1]]
        matrix = matrices.fit(relation, **setting)
        best = best_of(base, matrix, DECAYS[relation], FLOORS, WEIGHTS)
        if best["ndcg@10"] <= reached:
            report[relation] = {"weight": 0.0}
            continue
        base, reached = base + np.float32(best["weight"]) * best.pop("logs"), best["ndcg@10"]
        report[relation] = setting | best
        fill_neighbours(model, relation, matrix)
        for name in ("weight", "decay", "floor"):
            getattr(neighbours, name)[number] = best[name]
    if table is not None:
        # beside the relations popularity may be worth another weight
        rest = base - fitter.added(weights, new)
        again = fitter.weights(rest, new)
        found = value(rest + fitter.added(again, new))
        if found > reached:
            weights, reached = again, found
        neighbours.popularity.copy_(torch.from_numpy(weights[0, :-1]))
        if model.newcomers is not None:
            model.newcomers.popularity.copy_(torch.from_numpy(weights[1]))
        report["popularity"] |= {
            name: dict(zip((*table.names, "constant"), row.round(4).tolist(), strict=True))
            for name, row in zip(("all", "newcomers"), weights, strict=True)
        }
    return report | {"ndcg@10": reached}

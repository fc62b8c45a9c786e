"""What is known of items and people without a network, and what it is worth beside it, for ratings and for overall interest."""

from __future__ import annotations

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression, Ridge

from ..data.log import TRAIN, InterestLog
from ..evaluation.baselines.bias import UserItemBias
from ..evaluation.baselines.overall import ItemMean, UserMean, logit
from ..evaluation.cases import OverallCases, overall_cases, take
from ..evaluation.folds import Fold
from ..evaluation.predict import ModelPredictor
from ..modeling_interest import InterestModel
from ..recommendation.log_tensors import LogTensors
from .validation import Validation


MOST_CASES = 2_500
ENOUGH_CASES = 100  # with a value, for ratings; half as many of either kind, for overall interest


def fit_reputation(predictor: ModelPredictor, validation: Validation) -> dict | None:
    """Fills the model's [`InterestReputation`] from the training events, and finds on validation what it is worth.

    Up to 2,500 validation events decide. Strengths are those of the baselines [`UserItemBias`], [`ItemMean`] and [`UserMean`]. Ratings are then
    a ridge regression on the network's, the item's and the person's part, overall interest a logistic regression on these and on the log-odds
    of liking, where the network never counts negatively. Where a log says what was shown, overall interest is learnt from that and
    left alone.

    Returns:
        Strengths, weights and the root mean squared error before and after, for the checkpoint; None, and the network alone, where the
        model has no such part or fewer than a hundred validation events have a value.
    """
    model, log = predictor.model, predictor.log
    if model.reputation is None or validation.fold is None:
        return None
    weigh(model, {"rating": [1.0, 0.0, 0.0, 0.0], "overall": [1.0, 0.0, 0.0, 0.0, 0.0, 0.0]})  # the network alone
    cases = overall_cases(log, validation.fold)
    cases = take(cases, np.flatnonzero(np.isfinite(cases.value)))
    if len(cases.user) < ENOUGH_CASES:
        return None
    if len(cases.user) > MOST_CASES:
        cases = take(cases, np.sort(np.random.default_rng(0).permutation(len(cases.user))[:MOST_CASES]))
    mean, deviation = model.config.value_mean, model.config.value_std
    bias = UserItemBias(mean)
    bias.tune(log, validation.fold, cases)
    report: dict = bias.describe()
    target, network = (cases.value - mean) / deviation, (predictor.ratings(cases) - mean) / deviation
    deviations = np.column_stack([bias.item_bias[cases.item], bias.user_bias(cases)]) / deviation
    features = np.column_stack([network, deviations])
    ridge = Ridge().fit(features, target)
    report["rating"] = [round(float(weight), 4) for weight in (*ridge.coef_, ridge.intercept_)]
    report["rmse without"] = deviation * float(np.sqrt(np.mean((network - target) ** 2)))
    report["rmse"] = deviation * float(np.sqrt(np.mean((ridge.predict(features) - target) ** 2)))
    if log.impressions is None:
        known = np.flatnonzero(np.isfinite(cases.label))
        report |= fit_overall(predictor, validation.fold, take(cases, known), deviations[known])
    fill_reputation(model, predictor.tensors, report)
    weigh(model, report)
    return report


def fit_overall(predictor: ModelPredictor, fold: Fold, cases: OverallCases, deviations: np.ndarray) -> dict:
    """Strengths and weights for overall interest, by cases with labels and their `deviations (Q, 2)`; nothing where these are too
    few."""
    labels = cases.label > 0.5
    if min(labels.sum(), (~labels).sum()) < ENOUGH_CASES / 2:
        return {}
    item, person = ItemMean(), UserMean()
    for side in (item, person):
        side.tune(predictor.log, fold, cases)
    usual = logit(np.array(item.rates.mean))
    shares = np.column_stack([item.overall(cases), person.overall(cases)]) - usual
    features = np.column_stack([predictor.overall(cases), deviations, shares])
    regression = LogisticRegression(C=10.0, max_iter=1000).fit(features, labels)
    if regression.coef_[0, 0] < 0:
        features[:, 0] = 0.0
        regression.fit(features, labels)
    weights = [round(float(weight), 4) for weight in (*regression.coef_[0], regression.intercept_[0])]
    return {"item_liked_strength": item.strength, "user_liked_strength": person.strength, "overall": weights}


@torch.no_grad()
def weigh(model: InterestModel, report: dict) -> None:
    """Gives the model the weights of a report, `rating` and `overall`, where they are there."""
    for name in ("rating", "overall"):
        if name in report:
            weights = getattr(model.reputation, name)
            weights.copy_(torch.tensor(report[name]).to(weights))


@torch.no_grad()
def fill_reputation(model: InterestModel, tensors: LogTensors, report: dict | None) -> None:
    """What the training events of a log say of items, with the strengths of a report of [`fit_reputation`]; the weights stay."""
    if model.reputation is None or report is None:
        return
    log, reputation, known = tensors.log, model.reputation, tensors.item_ids >= 0

    def fill(target: torch.Tensor, values: np.ndarray) -> None:
        target[tensors.item_ids[known]] = torch.from_numpy(values)[known].to(target)

    bias = UserItemBias(model.config.value_mean)
    bias.item_strength = report["item_strength"]
    bias.fit(log, training_events(log))
    fill(reputation.value, bias.item_bias / model.config.value_std)
    reputation.strength[0] = report["user_strength"]
    if "overall" in report:
        item = ItemMean()
        item.fit(log, training_events(log))
        share = item.rates.mean
        fill(reputation.liked, logit(item.rates.items(report["item_liked_strength"])) - logit(np.array(share)))
        reputation.strength[1] = report["user_liked_strength"]
        reputation.share.fill_(share)


def training_events(log: InterestLog) -> Fold:
    """A fold that knows the training events and asks nothing."""
    train = log.split == TRAIN
    return Fold("training", log.facts["split"], np.zeros_like(train), train, None, None)

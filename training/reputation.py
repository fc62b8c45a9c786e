"""What an item's reputation and a person's habit are worth beside the network, for ratings and for overall interest."""

from __future__ import annotations

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression, Ridge

from ..data.log import TRAIN, InterestLog
from ..evaluation.baselines.bias import UserItemBias
from ..evaluation.cases import overall_cases, take
from ..evaluation.folds import Fold
from ..evaluation.predict import ModelPredictor
from ..modeling_interest import InterestModel
from ..recommendation.log_tensors import LogTensors
from .validation import Validation


MOST_CASES = 2_500
ENOUGH_CASES = 100


def fit_reputation(predictor: ModelPredictor, validation: Validation) -> dict | None:
    """Fills the model's [`InterestReputation`] from the training events, and finds on validation what it is worth.

    Both strengths are those of [`UserItemBias`] with the smallest squared error on up to 2,500 validation events; ratings are then a ridge
    regression on the network's, the item's and the person's part, overall interest a logistic regression on the same with the network's
    log-odds, which never count negatively. Where a log says what was shown, overall interest is learnt from that and left alone.

    Returns:
        Strengths, weights and the root mean squared error before and after, for the checkpoint; None, and the network alone, where the
        model has no such part or fewer than a hundred validation events have a value.
    """
    model, log = predictor.model, predictor.log
    if model.reputation is None or validation.fold is None:
        return None
    with torch.no_grad():
        for weights in (model.reputation.rating, model.reputation.overall):
            weights.copy_(torch.tensor([1.0, 0.0, 0.0, 0.0]))
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
    fill_reputation(model, predictor.tensors, report)
    parts = np.stack([bias.item_bias[cases.item], bias.user_bias(cases)], 1) / deviation
    target, network = (cases.value - mean) / deviation, (predictor.ratings(cases) - mean) / deviation
    features = np.column_stack([network, parts])
    ridge = Ridge().fit(features, target)
    report["rating"] = [round(float(weight), 4) for weight in (*ridge.coef_, ridge.intercept_)]
    report["rmse without"] = deviation * float(np.sqrt(np.mean((network - target) ** 2)))
    report["rmse"] = deviation * float(np.sqrt(np.mean((ridge.predict(features) - target) ** 2)))
    known = np.isfinite(cases.label)
    labels = cases.label[known] > 0.5
    if log.impressions is None and min(labels.sum(), (~labels).sum()) >= ENOUGH_CASES / 4:
        features = np.column_stack([predictor.overall(cases), parts])[known]
        logistic = LogisticRegression(C=10.0, max_iter=1000).fit(features, labels)
        if logistic.coef_[0, 0] < 0:
            features[:, 0] = 0.0
            logistic.fit(features, labels)
        report["overall"] = [round(float(weight), 4) for weight in (*logistic.coef_[0], logistic.intercept_[0])]
    with torch.no_grad():
        for name in ("rating", "overall"):
            if name in report:
                getattr(model.reputation, name).copy_(torch.tensor(report[name]))
    return report


def fill_reputation(model: InterestModel, tensors: LogTensors, report: dict | None) -> None:
    """Items' deviations as the training events of a log have them, with the strengths of a report of [`fit_reputation`]; the weights stay."""
    if model.reputation is None or report is None:
        return
    log = tensors.log
    bias = UserItemBias(model.config.value_mean)
    bias.item_strength = report["item_strength"]
    bias.fit(log, training_events(log))
    known = tensors.item_ids >= 0
    item = torch.from_numpy(bias.item_bias / model.config.value_std).float()
    with torch.no_grad():
        model.reputation.item[tensors.item_ids[known]] = item[known].to(model.reputation.item.device)
        model.reputation.strength.fill_(report["user_strength"])


def training_events(log: InterestLog) -> Fold:
    """A fold that knows the training events and asks nothing."""
    train = log.split == TRAIN
    return Fold("training", log.facts["split"], np.zeros_like(train), train, None, None)

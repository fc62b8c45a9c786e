"""Whether a trained model's change rates may be told to people."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ..data.card import FAIR_RELIABILITY
from ..data.log import TEST, InterestLog
from ..data.reliability import window_facts
from ..evaluation.cases import forecast_cases, take, time_shuffled_log
from ..evaluation.metrics.change import CLEAR_CHANGE, change_metrics
from ..evaluation.predict import ModelPredictor
from .validation import Validation


ABOVE_SHUFFLED = 0.1  # AUC above its own time-shuffled null that a shown rate must have
ENOUGH_PAIRS = 200  # clear changes (|r| > .2) on validation; with fewer chance alone moves an AUC by half of that
MOST_PEOPLE = 2_000  # that are asked about, of those with a change that can be judged
SHUFFLES = 3


def check_change(predictor: ModelPredictor, validation: Validation) -> dict:
    """Asks validation whether change rates tell growing from fading interests.

    They do where their AUC is at least .1 above the mean of three logs in which every person's items are permuted over her
    times, labels included. All whose change validation can judge are asked about, 2,000 at most; with fewer than 200 clear
    changes nothing is told. Where validation holds no windows (`leave-last`), the split-half reliability of the label over
    the reference window in the training events decides: .3 or more.

    Returns:
        `{"reliable", "auc", "shuffled_auc", "clear_pairs", "label_reliability"}`; None where it was not measured.
    """
    config, log = predictor.model.config, predictor.log
    found: dict = {"auc": None, "shuffled_auc": None, "clear_pairs": 0, "label_reliability": None}
    cases = validation.forecast if validation.fold is not None else None
    _, change = window_facts(log, config.reference_horizon, config.horizon_unit, 0)
    found["label_reliability"] = reliability = change["reliability"]
    if cases is None or cases.gate is None:
        return {"reliable": reliability is not None and reliability >= FAIR_RELIABILITY} | found
    auc, pairs = _auc(predictor, validation, log)
    found |= {"auc": round(auc, 4), "clear_pairs": pairs}
    if pairs < ENOUGH_PAIRS or not np.isfinite(auc):
        return {"reliable": False} | found | {"auc": None}
    # nothing of the test decides
    nulls = [_auc(predictor, validation, time_shuffled_log(log, seed, TEST))[0] for seed in range(SHUFFLES)]
    shuffled = float(np.nanmean(nulls)) if np.isfinite(nulls).any() else 0.5
    return {"reliable": bool(auc >= shuffled + ABOVE_SHUFFLED)} | found | {"shuffled_auc": round(shuffled, 4)}


def _auc(predictor: ModelPredictor, validation: Validation, log: InterestLog) -> tuple[float, int]:
    """Of the log as it is, or of another with its items in other places; and how many clear changes there are."""
    config = predictor.model.config
    windows = (config.horizons, config.horizon_unit, config.reference_horizon)
    cases = forecast_cases(log, validation.fold, *windows)
    judged = np.flatnonzero(cases.gate.any(1))
    if not len(judged):
        return float("nan"), 0
    if len(judged) > MOST_PEOPLE:
        judged = np.sort(np.random.default_rng(0).permutation(judged)[:MOST_PEOPLE])
    cases = take(cases, judged)
    cases = replace(cases, histories=replace(cases.histories, item=cases.histories.items(log)))
    rates = predictor.forecast(cases)["own_change_rate"][cases.gate]  # what people are shown
    labels = cases.rate[cases.gate]
    return float(change_metrics(labels, rates)["auc"]), int((np.abs(labels) > CLEAR_CHANGE).sum())

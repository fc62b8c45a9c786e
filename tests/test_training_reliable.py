"""Change rates are told to people only where validation finds them better than on the time-shuffled log."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from test_evaluation_cases import make_log

from interest_lm.data.log import TEST, InterestLog
from interest_lm.evaluation.baselines.change import Trend
from interest_lm.evaluation.folds import fold
from interest_lm.training.reliable import check_change
from interest_lm.training.validation import Validation


DAY = 86_400


def moving_log(share_moving: float, seed: int = 0, users: int = 200) -> InterestLog:
    """People with an event on two days out of three and two domains; some change sides for good at a day of their own."""
    rng = np.random.default_rng(seed)
    days = 150
    user, day = np.nonzero(rng.random((users, days)) < 0.66)
    turn, taste = rng.integers(40, 110, users), rng.integers(0, 2, users)
    moves = rng.random(users) < share_moving
    likely = np.where(moves[user] & (day >= turn[user]), 1 - taste[user], taste[user])
    choice = np.where(rng.random(len(user)) < 0.8, likely, rng.integers(0, 2, len(user)))
    items = pd.DataFrame({"item_id": ["0", "1"], "title": ["a", "b"], "categories": [[["A"]], [["B"]]]})
    events = pd.DataFrame({"user_id": user.astype(str), "item_id": choice.astype(str), "timestamp": day * DAY})
    split = np.where(day < 110, "train", np.where(day < 130, "validation", "test"))
    facts = {"validation_start": 110 * DAY, "test_start": 130 * DAY, "split": "global-time", "time": "seconds"}
    return InterestLog.from_frames(events.assign(split=split), items, facts)


class TrendPredictor:
    """Says of everybody that the last window goes on; reads items through the histories, as a model does."""

    def __init__(self, log: InterestLog):
        self.log = log
        config = SimpleNamespace(horizons=[7.0, 14.0], horizon_unit="days", reference_horizon=14.0)
        self.model = SimpleNamespace(config=config)
        self.trend = Trend()
        self.trend.fit(log, fold(log, "validation"))

    def forecast(self, cases):
        counts = cases.histories.count_nodes(self.log)
        np.testing.assert_allclose(counts, cases.history_counts)  # the null's items, not the log's
        return {"own_change_rate": self.trend.change_rate(cases)}


@pytest.mark.parametrize(("share_moving", "reliable"), [(0.6, True), (0.0, False)])
def test_rates_are_told_where_people_do_change(share_moving, reliable):
    log = moving_log(share_moving, users=800)
    found = check_change(TrendPredictor(log), Validation(log, [7.0, 14.0], "days", 14.0, 500))
    assert found["reliable"] is reliable
    assert found["clear_pairs"] > 200 and abs(found["shuffled_auc"] - 0.5) < 0.1
    assert (found["auc"] > found["shuffled_auc"] + 0.1) is reliable


def test_the_test_events_decide_nothing():
    log = moving_log(0.6)
    other = replace(log, item=np.where(log.split == TEST, 0, log.item))
    found = [
        check_change(TrendPredictor(part), Validation(part, [7.0, 14.0], "days", 14.0, 500)) for part in (log, other)
    ]
    assert found[0] == found[1]


def test_few_pairs_tell_nothing():
    for users, told in ((8, False), (200, True)):
        log = moving_log(0.6, users=users)
        # a validation of few people is no reason: all whose change can be judged are asked about
        found = check_change(TrendPredictor(log), Validation(log, [7.0, 14.0], "days", 14.0, 8))
        assert found["reliable"] is told and (found["auc"] is None) is not told
        assert (found["clear_pairs"] < 50) is not told
    # a window of two days has no change that can be judged
    predictor, nobody = TrendPredictor(log), Validation(log, [2.0], "days", 2.0, 500)
    predictor.model.config = SimpleNamespace(horizons=[2.0], horizon_unit="days", reference_horizon=2.0)
    found = check_change(predictor, nobody)
    assert found["reliable"] is False and found["auc"] is None and found["clear_pairs"] == 0


def test_without_windows_the_reliability_of_the_label_decides(monkeypatch):
    log = make_log("leave-last")
    validation = Validation(log, [1.0, 5.0], "events", 5.0, 50)
    predictor = SimpleNamespace(
        log=log, model=SimpleNamespace(config=SimpleNamespace(horizon_unit="events", reference_horizon=5.0))
    )
    for reliability, expected in ((0.6, True), (0.1, False), (None, False)):
        facts = ({}, {"reliability": reliability})
        monkeypatch.setattr("interest_lm.training.reliable.window_facts", lambda *given, facts=facts: facts)
        found = check_change(predictor, validation)
        assert found["reliable"] is expected and found["label_reliability"] == reliability

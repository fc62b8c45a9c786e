"""Overall interest from impressions: figures within impressions, folds, baselines, the model's answers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import ndcg_score, roc_auc_score
from test_data_recipes_mind import random_mind

from interest_lm.data.log import InterestLog
from interest_lm.data.prepare import prepare
from interest_lm.evaluation.baselines.overall import ItemMean, UserItemLogistic, UserMean
from interest_lm.evaluation.folds import fold, tuning_fold
from interest_lm.evaluation.impressions import impression_cases, impression_masks, shown_before
from interest_lm.evaluation.metrics.impressions import impression_values
from interest_lm.evaluation.protocol import evaluate
from interest_lm.evaluation.report import print_table


WINDOWS = {"horizons": (1,), "horizon_unit": "days", "reference_horizon": 1}
QUIET = {"progress": False, "bootstrap": 20, "baselines": ["user_mean", "item_mean", "user_item_logistic"]}


@pytest.fixture(scope="module", params=["global-time", "leave-last"])
def log(request, tmp_path_factory) -> InterestLog:
    folder = tmp_path_factory.mktemp("mind")
    source = random_mind(folder / "source", impressions=300)
    prepare("mind", [source], folder / "data", split=request.param, min_events=3, quiet=True)
    return InterestLog.load(folder / "data")


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 6), st.integers(1, 12))
def test_figures_equal_scikit_learn_with_ties(seed, count, steps):
    random = np.random.default_rng(seed)
    impressions = np.repeat(np.arange(count), random.integers(1, 14, count))
    scores = random.integers(steps, size=len(impressions)) / 4 - 1
    clicked = random.random(len(impressions)) < 0.4
    mixed = random.permutation(len(impressions))
    names, values = impression_values(impressions[mixed], scores[mixed], clicked[mixed])
    both = [n for n in range(count) if 0 < clicked[impressions == n].mean() < 1]
    assert names.tolist() == both
    for place, number in enumerate(both):
        own, label = scores[impressions == number], clicked[impressions == number]
        assert values["impression_auc"][place] == pytest.approx(roc_auc_score(label, own))
        for cutoff in (5, 10):
            expected = ndcg_score(label[None].astype(float), own[None], k=cutoff)
            assert values[f"impression_ndcg@{cutoff}"][place] == pytest.approx(expected)
        draws = [np.lexsort((random.permutation(len(own)), -own)) for _ in range(300)]
        reciprocal = np.mean([(label[order] / np.arange(1, len(own) + 1)).sum() / label.sum() for order in draws])
        assert values["impression_mrr"][place] == pytest.approx(reciprocal, abs=0.1)


def test_places_as_in_the_benchmark_without_ties():
    scores, clicked = np.array([0.9, 0.8, 0.7, 0.6]), np.array([0, 1, 0, 1])
    _, values = impression_values(np.zeros(4), scores, clicked)
    assert values["impression_mrr"][0] == pytest.approx((1 / 2 + 1 / 4) / 2)
    assert values["impression_auc"][0] == pytest.approx(1 / 4)
    gain = 1 / np.log2([2, 3, 4, 5])
    assert values["impression_ndcg@5"][0] == pytest.approx((gain[1] + gain[3]) / (gain[0] + gain[1]))


@pytest.mark.parametrize("split", ["validation", "test"])
def test_what_is_asked_is_later_than_what_is_known(log, split):
    shown = log.impressions
    for asked_fold in (fold(log, split), tuning_fold(log, split)):
        asked, known = impression_masks(log, asked_fold)
        assert asked.any() and known.any() and not (asked & known).any()
        for user in range(log.num_users):
            own = shown.user == user
            if (asked & own).any() and (known & own).any():
                assert shown.timestamp[known & own].max() < shown.timestamp[asked & own].min()
    first, second = (impression_masks(log, part)[0] for part in (tuning_fold(log, split), fold(log, split)))
    assert not (first & second).any()


def test_cases_show_what_was_shown_with_the_history_before_it(log):
    cases = impression_cases(log, fold(log, "test"))
    assert len(cases.user) and np.bincount(cases.user).max() <= 10
    assert (np.isfinite(cases.label) == (cases.item >= 0)).all()
    shown = log.impressions
    rows = cases.histories.rows
    assert (log.timestamp[cases.histories.index] < cases.time[rows]).all()
    assert (log.user[cases.histories.index] == cases.user[rows]).all()
    before = (log.timestamp[None] < cases.time[:, None]) & (log.user[None] == cases.user[:, None])
    assert (cases.histories.lengths == before.sum(1)).all()
    number = next(
        n for n in range(len(shown)) if (shown.user[n], shown.timestamp[n]) == (cases.user[0], cases.time[0])
    )
    own = slice(shown.starts[number], shown.starts[number + 1])
    assert cases.item[0][cases.item[0] >= 0].tolist() == shown.item[own].tolist()
    clicks, seen = shown_before(log, cases.user, cases.time)
    for case in range(len(cases.user)):
        earlier = (shown.user == cases.user[case]) & (shown.timestamp < cases.time[case])
        assert (clicks[case], seen[case]) == (shown.clicks[earlier].sum(), shown.sizes[earlier].sum())


def test_baselines_answer_every_shown_item_and_know_no_later_click(log):
    asked, tuning = fold(log, "test"), tuning_fold(log, "test")
    cases, tuning_cases = impression_cases(log, asked), impression_cases(log, tuning)
    shown = log.impressions
    later = np.repeat(~impression_masks(log, asked)[1] & (shown.timestamp >= cases.time.max()), shown.sizes)
    changed = replace(log, impressions=replace(shown, clicked=shown.clicked ^ later))
    assert later.any()
    for baseline in (UserMean(), ItemMean(), UserItemLogistic()):
        answers = []
        for version in (log, changed):
            baseline.tune(version, tuning, tuning_cases)
            baseline.fit(version, asked)
            answers.append(baseline.overall(cases))
        assert answers[0].shape == cases.item.shape and np.isfinite(answers[0][cases.item >= 0]).all()
        np.testing.assert_array_equal(*answers)


def test_the_protocol_measures_within_impressions(log, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")

    class Knows:
        def overall(self, cases):
            return np.where(cases.item >= 0, 4.0 * cases.label - 2.0, np.nan)

    results = evaluate(log, Knows(), **WINDOWS, **QUIET)
    overall = results["overall"]
    for name in ("auc", "impression_auc", "impression_mrr", "impression_ndcg@5", "impression_ndcg@10"):
        assert name == "impression_mrr" or overall[name] == 1.0
        assert f"overall.{name}" in results["intervals"]
    assert 0.5 < overall["impression_mrr"] <= 1.0 and overall["impressions"] > 5
    for name in QUIET["baselines"]:
        assert 0.2 < results["baselines"][name]["overall"]["impression_auc"] < 0.8
    assert results["baselines"]["user_mean"]["overall"]["impression_auc"] == 0.5
    print_table(results)
    printed = capsys.readouterr().out
    assert "impression_auc" in printed and "log_loss" not in printed
    assert results["rating"] is None and results["reasons"]["rating"] == "the log has no values"
    with pytest.raises(ValueError, match="finite logits"):
        evaluate(log, type("Short", (), {"overall": lambda self, cases: np.zeros(3)})(), **WINDOWS, **QUIET)

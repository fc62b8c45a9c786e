"""Cases of one person share a row, and are answered as if each had its own."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from test_training_batches import make, small_log  # noqa: F401
from test_training_impressions import model_for

from interest_lm.evaluation.cases import ranking_cases, take
from interest_lm.evaluation.folds import fold
from interest_lm.evaluation.predict import ModelPredictor
from interest_lm.recommendation.log_tensors import shared_rows


def test_beginnings_of_one_run_share_the_longest_row():
    events = np.array([[4, 5, 6], [4, 5, -1], [4, 6, -1], [7, 8, 9], [7, -1, -1], [-1, -1, -1], [4, 5, 6]])
    lengths = np.array([3, 2, 2, 3, 1, 0, 3])
    rows, row_of = shared_rows(events, lengths, np.array([False] * 6 + [True]))
    # the third has a gap, the fourth begins elsewhere, the sixth is empty, the last wants to be alone
    assert rows[row_of].tolist() == [0, 0, 2, 3, 3, 5, 6]


@pytest.mark.parametrize("max_history", [100, 7])
def test_shared_rows_answer_as_single_ones(small_log, tiny_bert, max_history):  # noqa: F811
    """Also where some histories are longer than what the encoder sees, and where their items were shuffled."""
    tensors, _, _ = make(small_log, tiny_bert)
    model = model_for(small_log, tiny_bert)
    model.config.max_history = model.history_bias.max_history = max_history
    cases = ranking_cases(small_log, fold(small_log, "test"))
    cases = take(cases, np.arange(min(len(cases.user), 60)))
    together = ModelPredictor(model, tensors.processor, small_log, batch_size=32, tensors=tensors)
    alone = ModelPredictor(model, tensors.processor, small_log, batch_size=1, tensors=tensors)
    everybody = slice(0, len(cases.user))
    queries = tensors.queries(cases.histories, cases.time, max_history)
    shares = len(queries["history"]) < len(cases.user)
    assert shares == (max_history == 100)
    shuffled = replace(cases, histories=cases.histories.shuffled(small_log, 0))
    for asked in (cases, shuffled):
        np.testing.assert_allclose(together.rank(asked, everybody), alone.rank(asked, everybody), atol=2e-4)
    assert len(tensors.queries(shuffled.histories, cases.time, max_history)["history"]) == len(cases.user)

"""The configuration: what it refuses, always as a `ValueError` of one line, and that it comes back from disk as it was."""

from __future__ import annotations

import pytest
from transformers import AutoConfig

from interest_lm import InterestConfig


WRONG = {
    "horizons descend": ({"horizons": [3, 1]}, "`horizons` is [3.0, 1.0], expected ascending distinct numbers"),
    "horizon of nothing": ({"horizons": [0.0]}, "`horizons` is [0.0], expected positive numbers of days"),
    "W is no horizon": ({"reference_horizon": 5}, "`reference_horizon` is 5.0, expected one of [1.0, 7.0, 28.0]"),
    "width of text": ({"hidden_size": "a"}, "`hidden_size` is 'a', expected int"),
    "width is odd": ({"hidden_size": 7, "num_attention_heads": 2}, "`hidden_size` is 7, expected a multiple of 2 *"),
    "no heads": ({"num_attention_heads": 0}, "`num_attention_heads` is 0, expected at least 1"),
    "no such pooling": ({"text_pooling": "max"}, "`text_pooling` is 'max', expected one of ['mean', 'last', 'cls']"),
    "dropout of text": ({"hidden_dropout": "a"}, "`hidden_dropout` is 'a', expected float | int"),
    "dropout of all": ({"hidden_dropout": 1}, "`hidden_dropout` is 1, expected a number in [0, 1)"),
    "horizons of text": ({"horizons": "abc"}, "`horizons` is 'abc', expected list[float | int] | None"),
    "half-life below 0": ({"half_lives_days": [-1.0]}, "`half_lives_days` is [-1.0], expected positive numbers"),
    "no such task": ({"task_weights": {"rank": 1.0}}, "`task_weights` has 'rank': 1.0, expected tasks of"),
    "tastes without features": (
        {"use_personal_popularity": True, "num_item_features": 3},
        "`num_item_features` is 3, expected 6 or more",
    ),
    "rates of one number": (
        {"intensity_calibration": [0.1]},
        "`intensity_calibration` is [0.1], expected five numbers",
    ),
    "rates without end": (
        {"intensity_calibration": [float("inf"), 1.0, 1.0, 1.0, 0.0]},
        "`intensity_calibration` is [inf, 1.0, 1.0, 1.0, 0.0], expected five numbers",
    ),
    "days without time": ({"time_unit": "order"}, '`horizon_unit` is "days", expected "events"'),
    "backbone's width": (
        {"text_config": {"model_type": "bert", "hidden_size": "a"}},
        "`text_config`: Field 'hidden_size' expected int, got str (value: 'a')",
    ),
}


@pytest.mark.parametrize(("settings", "message"), WRONG.values(), ids=WRONG.keys())
def test_wrong_settings_are_value_errors_of_one_line(settings, message):
    with pytest.raises(ValueError) as caught:
        InterestConfig(**settings)
    assert str(caught.value).startswith(message) and "\n" not in str(caught.value)


def test_later_changes_are_checked_too(tmp_path):
    config = InterestConfig()
    with pytest.raises(ValueError, match="^`max_history` is 'long', expected int$"):
        config.max_history = "long"
    assert config.max_history == 200
    config.max_history = 0
    with pytest.raises(ValueError, match="^`max_history` is 0, expected at least 1$"):
        config.save_pretrained(tmp_path)


def test_whole_numbers_are_weights():
    assert InterestConfig(task_weights={"overall": 0}).task_weights["overall"] == 0
    # a checkpoint from before a task has no learned weight for it
    before = InterestConfig().task_weights
    assert before.pop("change") == 1 and "change" in InterestConfig().tasks
    assert InterestConfig(task_weights=before).task_weights["change"] == 0
    assert "change" not in InterestConfig(task_weights=before).tasks


def test_configuration_comes_back_from_disk(tmp_path):
    nodes = [{"id": "Film", "name": "Film", "parent": None}, {"id": "Film > Crime", "name": "Crime", "parent": "Film"}]
    config = InterestConfig(domains=nodes, horizons=[2, 9], reference_horizon=9, hidden_size=64, actions=["buy"])
    config.save_pretrained(tmp_path)
    for loaded in (InterestConfig.from_pretrained(tmp_path), AutoConfig.from_pretrained(tmp_path)):
        for name in ("domains", "horizons", "reference_horizon", "hidden_size", "actions", "task_weights"):
            assert getattr(loaded, name) == getattr(config, name), name


def test_a_wrong_file_is_a_value_error(tmp_path):
    InterestConfig().save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    file.write_text(
        file.read_text().replace('"model_type": "interest_lm"', '"model_type": "interest_lm", "max_history": "a"')
    )
    with pytest.raises(ValueError, match="`max_history` is 'a', expected int"):
        InterestConfig.from_pretrained(tmp_path)

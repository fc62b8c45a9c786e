"""`prepare --scene`: the scene of every event, from its time or from a column."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from interest_lm.data.log import InterestLog
from interest_lm.data.prepare import prepare
from interest_lm.taxonomy_interest import SCENE_RULES


@pytest.mark.parametrize("rule", sorted(SCENE_RULES))
def test_prepare_derives_scenes_from_the_time(rule, tmp_path):
    prepare("synthetic", [], tmp_path / "w", world={"num_users": 10, "num_items": 30}, scene=rule, quiet=True)
    log = InterestLog.load(tmp_path / "w")
    assert log.facts["scene_rule"] == rule and set(log.scenes) == set(SCENE_RULES[rule])
    names = np.array(log.scenes)[log.scene]
    moments = pd.to_datetime(log.timestamp, unit="s")
    if rule != "hour_band":
        assert (np.char.startswith(names.astype(str), "weekend") == (moments.day_of_week >= 5)).all()
    if rule != "weekend":
        bands = np.array(["night", "morning", "afternoon", "evening"])[moments.hour // 6]
        assert all(name.endswith(band) for name, band in zip(names, bands, strict=True))


def test_a_column_is_a_scene(tmp_path):
    frame = pd.DataFrame(
        {
            "user": list("aabb") * 5,
            "item": [f"i{n % 4}" for n in range(20)],
            "time": range(20),
            "land": ["FR", "DE"] * 10,
        }
    )
    frame.to_csv(tmp_path / "events.csv", index=False)
    found = {"user_id": "user", "item_id": "item", "timestamp": "time"}
    arguments = {"columns": found, "split": "leave-last", "quiet": True}
    prepare("table", [tmp_path / "events.csv"], tmp_path / "d", scene="land", **arguments)
    assert InterestLog.load(tmp_path / "d").scenes == ["DE", "FR"]
    with pytest.raises(ValueError, match="no column 'country' for `scene`"):
        prepare("table", [tmp_path / "events.csv"], tmp_path / "e", scene="country", **arguments)
    with pytest.raises(ValueError, match="--scene is 'land', expected one of weekend, hour_band"):
        prepare("synthetic", [], tmp_path / "e", scene="land", quiet=True)
    with pytest.raises(ValueError, match="--scene is 'weekend', but this log has only positions"):
        prepare("table", [tmp_path / "events.csv"], tmp_path / "e", scene="weekend", time="order", **arguments)

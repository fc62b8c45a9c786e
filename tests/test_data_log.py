"""InterestLog: order, codes, memberships, and what a broken folder says."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interest_lm.data.log import TEST, TRAIN, VALIDATION, InterestLog
from interest_lm.data.prepare import write_dataset
from interest_lm.data.splits import global_time_split, leave_last_split


ITEMS = pd.DataFrame(
    {
        "item_id": ["x", "y", "z"],
        "title": ["X", "Y", "Z"],
        "categories": [[["Film", "Crime"]], [["Film"], ["Music"]], []],
        "attributes": [[{"key": "year", "value": "1995"}], None, {"year": "1999"}],
    }
)


def events(**columns) -> pd.DataFrame:
    base = {"user_id": ["b", "a", "b", "a"], "item_id": ["x", "y", None, "z"], "timestamp": [7, 5, 7, 5]}
    return pd.DataFrame({**base, **columns})


def test_events_are_sorted_by_user_and_time_and_ties_keep_their_order():
    log = InterestLog.from_frames(events(text=["one", "two", "three", "four"]), ITEMS)
    assert log.user_ids.tolist() == ["b", "a"]
    assert log.user.tolist() == [0, 0, 1, 1]
    assert log.text.tolist() == ["one", "three", "two", "four"]
    assert log.item.tolist() == [0, -1, 1, 2]
    assert log.offsets.tolist() == [0, 2, 4]
    assert log.timestamp.dtype == np.int64


def test_optional_columns_have_their_missing_values():
    log = InterestLog.from_frames(
        events(
            split=["train", "validation", "test", "train"],
            value=[1.5, None, 2.0, 3.0],
            action=["view", "buy", None, ""],
            latitude=[1.0, None, 2.0, 3.0],
            longitude=[1.0, 2.0, 2.0, 3.0],
        ),
        ITEMS,
    )
    assert log.split.tolist() == [TRAIN, TEST, VALIDATION, TRAIN]
    assert np.isnan(log.value).tolist() == [False, False, True, False]
    assert log.actions == ["buy", "view"] and log.action.tolist() == [1, -1, 0, -1]
    assert np.isnan(log.place[2]).all() and log.place[0].tolist() == [1, 1]
    assert log.text is None and log.scene is None


def test_memberships_sum_to_one_at_the_top_and_to_the_parent_below():
    log = InterestLog.from_frames(events(), ITEMS)
    dense = log.item_nodes.toarray()
    assert np.allclose(dense[:, log.tree.depth == 0].sum(1), 1)
    film = log.tree.index["Film"]
    assert np.allclose(dense[:, log.tree.parent == film].sum(1), dense[:, film])
    assert dense[2, log.tree.index["(other)"]] == 1
    assert log.items["attributes"].tolist() == [{"year": "1995"}, {}, {"year": "1999"}]


def test_without_categories_there_is_no_tree():
    log = InterestLog.from_frames(events(), ITEMS.drop(columns="categories"))
    assert log.tree is None and log.item_nodes.shape == (3, 0)


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        ((events().drop(columns="user_id"), ITEMS), "no column `user_id`"),
        ((events(item_id=["x", "q", "x", "x"]), ITEMS), "item 'q' is not in the items table"),
        ((events(), pd.concat([ITEMS, ITEMS])), "`item_id` 'x' occurs twice"),
        ((events(split=["train", "dev", "test", "train"]), ITEMS), "split 'dev', expected one of"),
        ((events(user_id=["a", None, "b", "b"]), ITEMS), "row 1 has no `user_id`"),
    ],
)
def test_broken_frames_say_what_is_wrong(frames, message):
    with pytest.raises(ValueError, match=message) as caught:
        InterestLog.from_frames(*frames)
    assert "\n" not in str(caught.value)


def test_load_returns_what_was_written(tmp_path):
    frame = pd.DataFrame(
        {
            "user_id": [u for u in "ab" for _ in range(6)],
            "item_id": ["x", "y", "z", "x", "y", "z"] * 2,
            "timestamp": [10, 10, 11, 12, 13, 14, 1, 2, 3, 30, 31, 32],
            "value": np.arange(12.0),
            "text": ["hi", ""] * 6,
        }
    )
    items = ITEMS.drop(columns="attributes").assign(image=[[1.0, 2.0], None, [3.0, 4.0]])
    log = InterestLog.load(write_dataset(frame, items, tmp_path / "set", split="leave-last", quiet=True))
    assert log.name == "set" and log.facts["ties"] == 2
    assert log.value.tolist() == list(range(12))
    assert log.timestamp.tolist() == frame["timestamp"].tolist()
    assert log.split.tolist() == [0, 0, 0, 0, 1, 2] * 2
    assert log.item.tolist() == [0, 1, 2, 0, 1, 2] * 2
    assert log.text.tolist() == frame["text"].tolist()
    assert list(log.items["image"][0]) == [1.0, 2.0] and log.items["image"][1] is None
    assert log.items["categories"].tolist() == ITEMS["categories"].tolist()


def test_load_names_what_is_missing_or_broken(tmp_path):
    with pytest.raises(ValueError, match="no such folder"):
        InterestLog.load(tmp_path / "none")
    with pytest.raises(ValueError, match="no `items` in it"):
        InterestLog.load(tmp_path)
    folder = write_dataset(events(text="hm"), ITEMS, tmp_path / "set", split="leave-last", min_events=1, quiet=True)
    (folder / "events" / "train-00000-of-00001.parquet").write_bytes(b"not parquet")
    with pytest.raises(ValueError, match="train-00000-of-00001.parquet: not readable as Parquet"):
        InterestLog.load(folder)
    (folder / "README.md").write_text("# a card without facts\n")
    with pytest.raises(ValueError, match="no `interest_lm` in its front matter"):
        InterestLog.load(folder)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 40), min_size=3, max_size=80).filter(lambda times: len(set(times)) >= 3))
def test_global_time_puts_no_timestamp_on_both_sides(times):
    timestamp = np.array(times)
    split, validation_start, test_start = global_time_split(timestamp)
    assert set(split) == {0, 1, 2}
    assert timestamp[split == 0].max() < validation_start == timestamp[split == 1].min()
    assert timestamp[split == 1].max() < test_start == timestamp[split == 2].min()


def test_global_time_shares_and_what_it_refuses():
    split, *_ = global_time_split(np.arange(1000))
    assert np.bincount(split).tolist() == [800, 100, 100]
    split, *_ = global_time_split(np.arange(1000), validation_fraction=0.2, test_fraction=0.05)
    assert np.bincount(split).tolist() == [750, 200, 50]
    with pytest.raises(ValueError, match="2 distinct timestamps"):
        global_time_split(np.array([1, 1, 2]))
    with pytest.raises(ValueError, match="no train"):
        global_time_split(np.arange(10), 0.5, 0.5)


def test_leave_last_takes_the_last_two_events_of_long_enough_users():
    assert leave_last_split(np.array([0, 0, 1, 1, 1, 2, 3, 3, 3, 3])).tolist() == [0, 0, 0, 1, 2, 0, 0, 0, 1, 2]
    assert leave_last_split(np.array([], dtype=int)).tolist() == []

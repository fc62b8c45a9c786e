"""Recipe `mind`: clicks are events, what was shown is kept beside them, histories stand before the log."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from interest_lm.data.inspect import detect_recipe
from interest_lm.data.log import InterestLog
from interest_lm.data.prepare import prepare, write_dataset
from interest_lm.data.recipes.mind import read_mind
from interest_lm.data.splits import global_time_split


NEWS = [
    ("N1", "sports", "golf", "Golf is back", "An abstract \"quoted"),
    ("N2", "sports", "tennis", "Tennis", ""),
    ("N3", "news", "news", "World", "What happened"),
    ("N4", "", "", "No category", ""),
]  # fmt: skip
BEHAVIORS = [
    ("1", "U1", "11/11/2019 9:05:58 AM", "N3 N1", "N1-0 N2-1"),
    ("2", "U1", "11/12/2019 12:00:01 AM", "N3 N1 N2 N4", "N3-1 N4-1 N1-0"),
    ("3", "U2", "11/11/2019 12:30:00 PM", "", "N1-1 N2-0"),
    ("4", "U2", "11/13/2019 1:00:00 PM", "", "N4-0 N2-0"),
]
START = 1_573_463_158  # 11 November 2019, 9:05:58


def mind(folder: Path, behaviors=BEHAVIORS, news=NEWS) -> Path:
    folder.mkdir()
    rows = ["\t".join([*cells, "http://x", "[]", "[]"]) for cells in news]
    (folder / "news.tsv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    (folder / "behaviors.tsv").write_text("\n".join("\t".join(cells) for cells in behaviors) + "\n", encoding="utf-8")
    return folder


def random_mind(folder: Path, users: int = 20, impressions: int = 200, seed: int = 0, day: int = 9) -> Path:
    """Random impressions of up to eight news over four days, half of the users with a history."""
    random = np.random.default_rng(seed)
    news = [(f"N{n}", f"c{n % 3}", f"c{n % 3}s{n % 6}", f"title {n}", "") for n in range(30)]
    times = pd.to_datetime(f"2019-11-{day:02}") + pd.to_timedelta(
        np.sort(random.choice(4 * 86_400, impressions)), unit="s"
    )
    rows = []
    for number, time in enumerate(times):
        user = int(random.integers(users))
        shown = random.permutation(30)[: random.integers(2, 9)]
        clicked = np.arange(len(shown)) < random.integers(1, 3)
        cells = " ".join(f"N{n}-{int(c)}" for n, c in zip(shown, random.permutation(clicked), strict=True))
        history = " ".join(f"N{n}" for n in range(user % 6)) if user % 2 else ""
        rows.append((str(number + 1), f"U{user}", time.strftime("%m/%d/%Y %I:%M:%S %p"), history, cells))
    return mind(folder, rows, news)


def test_clicks_are_events_and_histories_stand_before_the_log(tmp_path):
    raw = read_mind([mind(tmp_path / "m")])
    assert raw.events.to_numpy().tolist() == [
        ["U1", "N3", START - 2],
        ["U1", "N1", START - 1],
        ["U1", "N2", START],
        ["U1", "N3", START + 53_643],
        ["U1", "N4", START + 53_643],
        ["U2", "N1", START + 12_242],
    ]
    assert raw.dated_from == START and raw.test_start is None
    assert raw.items["title"].tolist() == ["Golf is back", "Tennis", "World", "No category"]
    assert raw.items["text"][0] == 'An abstract "quoted'
    assert raw.items["categories"].tolist() == [[["sports", "golf"]], [["sports", "tennis"]], [["news"]], []]
    assert any(note.startswith("2 clicks of histories have no time") for note in raw.notes)


def test_what_only_later_histories_list_is_counted(tmp_path):
    rows = [*BEHAVIORS, ("5", "U2", "11/14/2019 1:00:00 PM", "N1 N3 N2", "N4-1")]
    raw = read_mind([mind(tmp_path / "m", rows)])
    assert raw.dropped == {"clicks that only histories of later impressions list (no time known)": 2}
    assert (raw.events["user_id"] == "U2").sum() == 2


def test_impressions_hold_what_was_not_clicked(tmp_path):
    raw = read_mind([mind(tmp_path / "m")])
    shown = raw.impressions
    assert shown["impression_id"].tolist() == ["1", "1", "2", "2", "2", "3", "3", "4", "4"]
    assert shown["user_id"].tolist() == ["U1"] * 5 + ["U2"] * 4
    assert shown["item_id"].tolist() == ["N1", "N2", "N3", "N4", "N1", "N1", "N2", "N4", "N2"]
    assert shown["clicked"].tolist() == [0, 1, 1, 1, 0, 1, 0, 0, 0]
    assert shown["timestamp"].tolist()[:3] == [START, START, START + 53_643]


@pytest.mark.parametrize("split", ["global-time", "leave-last"])
def test_prepared_impressions_open_with_datasets_and_with_the_log(tmp_path, split):
    datasets = pytest.importorskip("datasets")
    source = random_mind(tmp_path / "m")
    output = prepare("mind", [source], tmp_path / "out", split=split, min_events=2, quiet=True)
    raw, log = read_mind([source]), InterestLog.load(output)
    parts = datasets.load_dataset(str(output), "impressions", cache_dir=str(tmp_path / "cache"))
    rows = pd.concat([part.to_pandas().assign(split=code) for code, part in enumerate(parts.values())])
    assert list(parts) == ["train", "validation", "test"]
    kept = raw.impressions[raw.impressions["user_id"].isin(log.user_ids)]
    keys = ["impression_id", "user_id", "item_id", "timestamp", "clicked"]
    first, second = (frame[keys].astype({"clicked": int}).astype(str).sort_values(keys[:3]) for frame in (rows, kept))
    assert first.to_numpy().tolist() == second.to_numpy().tolist()

    shown = log.impressions
    assert len(shown) == kept["impression_id"].nunique() == log.facts["counts"]["impressions"]
    assert shown.item.dtype == shown.user.dtype == np.int32 and len(shown.item) == len(kept)
    assert (np.diff(shown.offsets) == np.bincount(shown.user, minlength=log.num_users)).all()
    by_id = kept.groupby("impression_id", observed=True)
    wanted = {(g["user_id"].iloc[0], int(g["timestamp"].iloc[0]), *g["item_id"], *g["clicked"]) for _, g in by_id}
    item, clicked = shown.padded(np.arange(len(shown)))
    found = {
        (str(log.user_ids[u]), int(t), *log.item_ids[i[i >= 0]].tolist(), *c[i >= 0].astype(int).tolist())
        for u, t, i, c in zip(shown.user, shown.timestamp, item, clicked, strict=True)
    }
    assert found == wanted
    assert (np.diff(shown.timestamp)[np.diff(shown.user) == 0] >= 0).all()

    # no training impression is as late as an event that validates or tests
    if split == "global-time":
        limit = np.full(log.num_users, log.facts["validation_start"])
    else:
        limit = np.full(log.num_users, np.iinfo(np.int64).max)
        later = log.split > 0
        np.minimum.at(limit, log.user[later], log.timestamp[later])
    assert ((shown.timestamp < limit[shown.user]) == (shown.split == 0)).all()


def test_unclicked_items_are_in_no_statistics(tmp_path):
    output = prepare("mind", [mind(tmp_path / "m")], tmp_path / "out", split="leave-last", min_events=1, quiet=True)
    log = InterestLog.load(output)
    assert log.num_events == 6
    assert [str(log.item_ids[i]) for i in log.item] == ["N3", "N1", "N2", "N3", "N4", "N1"]
    assert log.value is None and log.facts["counts"]["clicked"] == 4
    card = (output / "README.md").read_text()
    assert "config_name: impressions" in card and "| items shown in them | 9 |" in card
    assert 'load_dataset(DIR, "impressions")' in card


def test_no_history_click_is_asked_for(tmp_path):
    """However many they are, undated clicks train, and shares of the split count the dated ones."""
    log = InterestLog.load(prepare("mind", [random_mind(tmp_path / "m")], tmp_path / "out", quiet=True))
    undated = log.timestamp < log.impressions.timestamp.min()
    assert undated.sum() > 10 and (log.split[undated] == 0).all()
    dated = log.split[~undated]
    assert abs((dated == 2).mean() - 0.1) < 0.03 and abs((dated == 1).mean() - 0.1) < 0.03


def test_of_several_folders_the_last_one_tests(tmp_path):
    folders = [random_mind(tmp_path / "train"), random_mind(tmp_path / "dev", impressions=60, seed=1, day=20)]
    assert detect_recipe(folders) == detect_recipe(folders[:1]) == "mind"
    log = InterestLog.load(prepare("mind", folders, tmp_path / "out", quiet=True))
    start = pd.Timestamp("2019-11-20").timestamp()
    assert ((log.timestamp >= start) == (log.split == 2)).all()
    assert ((log.impressions.timestamp >= start) == (log.impressions.split == 2)).all()
    assert 0.05 < (log.split == 1).sum() / (log.split < 2).sum() < 0.15
    assert len(log.impressions) == 260  # ids of both folders count from 1 and stay apart
    raw = read_mind(folders[::-1])
    assert raw.test_start is None and any("is not later than" in note for note in raw.notes)


def test_what_is_dropped_is_counted(tmp_path):
    rows = [
        *BEHAVIORS,
        ("5", "U3", "11/14/2019 1:00:00 PM", "", "N9-1 N1-0"),
        ("6", "U1", BEHAVIORS[1][2], "", "N9-0"),
    ]
    output = prepare(
        "mind", [mind(tmp_path / "m", rows)], tmp_path / "out", min_events=1, split="leave-last", quiet=True
    )
    log = InterestLog.load(output)
    assert log.facts["dropped"] == {
        "of an item that the items table does not have": 1,
        "shown items of users without events": 2,
        "shown items that the items table does not have": 1,
    }


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            ("5", "U", "2019-11-11 9:05", "", "N1-1"),
            "behaviors.tsv:5: `time` is '2019-11-11 9:05', expected a time such as",
        ),
        (
            ("5", "U", "11/11/2019 9:05:58 AM", "", "N1-0 N2"),
            "behaviors.tsv:5: `impressions` is 'N2', expected NEWS-1",
        ),
        (("5", "U", "11/11/2019 9:05:58 AM", "", ""), "behaviors.tsv:5: `impressions` is '', expected NEWS-1"),
        (("5", "", "11/11/2019 9:05:58 AM", "", "N1-0"), "behaviors.tsv:5: `user_id` is '', expected an id"),
        (
            ("1", "U", "11/11/2019 9:05:58 AM", "", "N1-0"),
            "behaviors.tsv:5: `impression_id` is '1', expected an id that",
        ),
        (("5", "U", "11/11/2019 9:05:58 AM"), "behaviors.tsv:5: 3 fields, expected 5"),
    ],
)
def test_bad_rows_get_one_clear_line(tmp_path, row, message):
    with pytest.raises(ValueError, match=message) as caught:
        prepare("mind", [mind(tmp_path / "m", [*BEHAVIORS, row])], tmp_path / "out")
    assert "\n" not in str(caught.value) and not (tmp_path / "out").exists()


def test_bad_folders(tmp_path):
    with pytest.raises(ValueError, match="expected a folder with news.tsv and behaviors.tsv"):
        read_mind([tmp_path / "none"])
    folder = mind(tmp_path / "m", news=[*NEWS, NEWS[0]])
    with pytest.raises(ValueError, match="news.tsv:5: `item_id` is 'N1', expected an id that occurs once"):
        read_mind([folder])
    (folder / "news.tsv").unlink()
    with pytest.raises(ValueError, match="news.tsv: no such file"):
        read_mind([folder])


def test_impressions_of_frames(tmp_path):
    events = pd.DataFrame({"user_id": ["a"] * 4, "item_id": ["x", "y"] * 2, "timestamp": [10, 20, 30, 40]})
    items = pd.DataFrame({"item_id": ["x", "y", "z"], "title": ["X", "Y", "Z"]})
    shown = pd.DataFrame({"impression_id": [1, 1, 2], "user_id": "a", "item_id": ["x", "z", "y"],
                          "timestamp": [10, 10, 40], "clicked": [1, 0, 1]})  # fmt: skip
    output = write_dataset(
        events, items, tmp_path / "out", impressions=shown, min_events=1, split="leave-last", quiet=True
    )
    assert InterestLog.load(output).impressions.split.tolist() == [0, 2]
    for wrong, message in (
        (shown.drop(columns="clicked"), "impressions: no column `clicked`"),
        (shown.assign(clicked=[0, 2, 1]), "impressions: row 1: `clicked` is 2, expected 0 or 1"),
    ):
        with pytest.raises(ValueError, match=message):
            write_dataset(events, items, tmp_path / "two", impressions=wrong, min_events=1, split="leave-last")
    with pytest.raises(ValueError, match="`impression_id` '1' has two users or times"):
        InterestLog.from_frames(events, items, impressions=shown.assign(impression_id=1))
    with pytest.raises(ValueError, match="item 'q' is not in the items table"):
        InterestLog.from_frames(events, items, impressions=shown.assign(item_id="q"))


def test_a_given_test_start_and_undated_events():
    times = np.array([0, 1, 2, 3, *range(100, 200)])
    split, validation_start, test_start = global_time_split(times, dated_from=100)
    assert (validation_start, test_start) == (180, 190) and (split[:4] == 0).all()
    split, validation_start, test_start = global_time_split(times, dated_from=100, test_start=150)
    assert (validation_start, test_start) == (145, 150)
    assert np.bincount(split).tolist() == [49, 5, 50]
    with pytest.raises(ValueError, match="0 distinct timestamps before the test and 100 in it"):
        global_time_split(times, dated_from=100, test_start=50)

"""From raw files to a folder that `datasets` opens, with everything dropped counted, and nothing half-written."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from interest_lm.data.card import read_facts, split_rule, verdict
from interest_lm.data.cleaning import apart, places_in_history
from interest_lm.data.inspect import detect_recipe, inspect_log, inspect_path, print_inspection, suggest_horizons
from interest_lm.data.log import TRAIN, InterestLog
from interest_lm.data.prepare import find_files, prepare, write_dataset


DAY = 86_400


def rating_folder(folder: Path, users: int = 12, per_user: int = 8) -> Path:
    """A small MovieLens of the `latest` layout."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    rows = [
        (u, rng.integers(1, 21), rng.integers(1, 6), 10**9 + int(rng.integers(0, 400 * DAY)))
        for u in range(users)
        for _ in range(per_user)
    ]
    frame = pd.DataFrame(rows, columns=["userId", "movieId", "rating", "timestamp"])
    frame.to_csv(folder / "ratings.csv", index=False)
    genres = ["Action|Crime", "Drama", "Comedy", "(no genres listed)"]
    movies = pd.DataFrame({"movieId": range(1, 21), "title": [f"Film {i} (19{i + 70})" for i in range(20)]})
    movies.assign(genres=[genres[i % 4] for i in range(20)]).to_csv(folder / "movies.csv", index=False)
    return folder


def frames(users: int = 6, per_user: int = 10) -> tuple[pd.DataFrame, pd.DataFrame]:
    count = users * per_user
    events = pd.DataFrame(
        {
            "user_id": np.repeat([f"u{i}" for i in range(users)], per_user),
            "item_id": [f"i{i % 7}" for i in range(count)],
            "timestamp": 10**9 + np.arange(count) * DAY,
        }
    )
    items = pd.DataFrame({"item_id": [f"i{i}" for i in range(7)], "title": list("abcdefg")})
    items["categories"] = [[["A", "B"]], [["A"]], [["C"]], [], [["A", "D"], ["C"]], [["C"]], [["C"]]]
    return events, items


@pytest.mark.parametrize("split", ["global-time", "leave-last"])
def test_datasets_opens_the_folder_as_it_stands(tmp_path, split):
    datasets = pytest.importorskip("datasets")
    output = prepare("movielens", [rating_folder(tmp_path / "ml")], tmp_path / "out", split=split, quiet=True)
    events = datasets.load_dataset(str(output), "events", cache_dir=str(tmp_path / "cache"))
    items = datasets.load_dataset(str(output), "items", cache_dir=str(tmp_path / "cache"))
    facts = read_facts(output / "README.md")
    assert {name: part.num_rows for name, part in events.items()} == {
        name: facts["counts"][name] for name in ("train", "validation", "test")
    }
    assert list(items) == ["train"] and items["train"].num_rows == 20
    row = items["train"][0]
    assert row["categories"] == [["Action"], ["Crime"]] and row["attributes"] == [{"key": "year", "value": "1970"}]
    assert events["train"].features["timestamp"].dtype == "int64"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cache", "ml", "out"]
    if split == "global-time":
        assert max(events["train"]["timestamp"]) < facts["validation_start"] == min(events["validation"]["timestamp"])


def test_a_split_without_events_is_left_out(tmp_path):
    datasets = pytest.importorskip("datasets")
    events, items = frames(2, 2)
    output = write_dataset(events, items, tmp_path / "out", split="leave-last", min_events=1, quiet=True)
    loaded = datasets.load_dataset(str(output), "events", cache_dir=str(tmp_path / "cache"))
    assert {name: part.num_rows for name, part in loaded.items()} == {"train": 4}
    assert InterestLog.load(output).num_events == 4


def test_hostile_names_cannot_break_the_card(tmp_path):
    hostile = "x | <script>alert(1)</script>\n# Title\n\n---\n[y](http://evil) {{ 7 * 7 }}"
    texts = {"source": hostile, "licence": hostile, "notes": [hostile, "`column` is read as text"]}
    folder = write_dataset(*frames(), tmp_path / "data", dropped={hostile: 2}, quiet=True, **texts)
    plain = write_dataset(*frames(), tmp_path / "plain", dropped={"x": 2}, quiet=True, notes=["x", "x"])
    body = (folder / "README.md").read_text().split("\n---\n\n", 1)[1]
    headings = [
        line for line in (plain / "README.md").read_text().split("\n---\n\n", 1)[1].splitlines() if line[:1] == "#"
    ]
    assert [line for line in body.splitlines() if line[:1] == "#"][1:] == headings[1:]
    assert "<script" not in body and "](http" not in body.replace("\\]", "")
    assert "- `column` is read as text" in body
    assert read_facts(folder / "README.md")["licence"] == hostile


def test_everything_dropped_is_counted_in_the_card_and_printed(tmp_path, capsys):
    folder = rating_folder(tmp_path / "ml")
    with open(folder / "ratings.csv", "a") as file:
        file.write("90,1,3,1000000000\n90,1,3,1000000000\n90,2,3,1000000000\n91,1,4,1000000001\n90,999,4,1000000005\n")
    output = prepare("movielens", [folder], tmp_path / "out")
    facts = read_facts(output / "README.md")
    assert facts["dropped"] == {
        "of an item that the items table does not have": 1,
        "exact duplicates (same user, item, time and value)": 1,
        "of 1 users with fewer than 2 events": 1,
    }
    assert facts["ties"] == 2 and facts["counts"]["events"] == 98 and facts["counts"]["users"] == 13
    printed, card = capsys.readouterr().out, (output / "README.md").read_text()
    for why in facts["dropped"]:
        assert why in " ".join(printed.split()) and why in card
    assert "global-time" in card and "stable" in card


def test_repeats_ties_and_exact_duplicates_are_kept_and_counted(tmp_path):
    events, items = frames()
    events = pd.concat([events, events.iloc[[5, 5]]], ignore_index=True)
    facts = read_facts(write_dataset(events, items, tmp_path / "out", quiet=True) / "README.md")
    assert facts["counts"]["events"] == 62 and facts["duplicates"] == 2 and facts["ties"] == 3
    log = InterestLog.load(tmp_path / "out")
    seen, repeats = set(), []
    for user, item in zip(log.user.tolist(), log.item.tolist(), strict=True):
        repeats.append((user, item) in seen)
        seen.add((user, item))
    assert facts["repeats"] == sum(repeats)
    assert facts["repeat_rate"] == pytest.approx(np.mean(np.array(repeats)[log.split == TRAIN]), abs=1e-6)


def test_the_order_of_ties_is_that_of_the_source_whatever_the_split(tmp_path):
    events, items = frames(1, 7)
    events["timestamp"] = 10**9
    events = events.iloc[::-1]
    output = write_dataset(events, items, tmp_path / "out", split="leave-last", quiet=True)
    log = InterestLog.load(output)
    assert log.item_ids[log.item].tolist() == events["item_id"].tolist()
    assert log.split.tolist() == [0, 0, 0, 0, 0, 1, 2]


def test_rows_that_differ_in_text_alone_become_one_event(tmp_path):
    events, items = frames()
    tags = pd.concat([events.assign(text="rock"), events.assign(text="pop"), events.assign(text="rock")])
    facts = read_facts(write_dataset(tags, items, tmp_path / "out", merge_texts=None, quiet=True) / "README.md")
    assert facts["merged"] == 120 and facts["counts"]["events"] == 60
    assert set(InterestLog.load(tmp_path / "out").text) == {"rock, pop"}
    facts = read_facts(write_dataset(tags, items, tmp_path / "all", merge_texts=False, quiet=True) / "README.md")
    assert facts["merged"] == 0 and facts["counts"]["events"] == 180


def test_positions_have_no_moments(tmp_path):
    (tmp_path / "events.csv").write_text("user_id,item_id,timestamp\n" + "".join(f"a,{i % 3},{i}\n" for i in range(8)))
    (tmp_path / "items.jsonl").write_text(
        "\n".join(json.dumps({"item_id": str(i), "title": f"t{i}"}) for i in range(3))
    )
    output = prepare("table", [tmp_path], tmp_path / "out", time="order", quiet=True)
    facts = read_facts(output / "README.md")
    assert (facts["time"], facts["split"], facts["validation_start"], facts["end"]) == ("order", "leave-last", None, 8)
    with pytest.raises(ValueError, match="needs times, but this log has only positions"):
        prepare("table", [tmp_path], tmp_path / "out2", time="order", split="global-time", quiet=True)
    assert not (tmp_path / "out2").exists()


def test_items_without_categories_get_clustered_domains(tmp_path):
    rng = np.random.default_rng(0)
    words = [["lamp", "candle", "lantern"], ["mug", "teacup", "saucer"]]
    items = pd.DataFrame({"item_id": [str(i) for i in range(80)]})
    items["title"] = [" ".join(rng.choice(words[i % 2], 3)) for i in range(80)]
    events = pd.DataFrame({"user_id": "a", "item_id": [str(i) for i in range(80)], "timestamp": np.arange(80) * DAY})
    log = InterestLog.load(write_dataset(events, items, tmp_path / "out", quiet=True))
    assert len(log.tree) == 2 and "clustered from the texts" in log.facts["taxonomy"]["origin"]
    assert np.allclose(log.item_nodes.sum(1), 1)
    vectors = np.eye(4)[np.arange(80) % 4]
    log = InterestLog.load(write_dataset(events, items, tmp_path / "vectors", vectors=vectors, quiet=True))
    assert "handed-in vectors" in log.facts["taxonomy"]["origin"]


def test_domains_of_untitled_items_come_from_training_words_alone(tmp_path):
    events, items = frames()
    events["text"] = ["quiet" if i < 48 else "secret" for i in range(len(events))]
    events.loc[::2, "text"] = "loud words"
    log = InterestLog.load(write_dataset(events, items[["item_id"]], tmp_path / "out", quiet=True))
    assert "training events" in log.facts["taxonomy"]["origin"]
    assert log.tree is not None and not any("secret" in name for name in log.tree.ids)
    log = InterestLog.load(
        write_dataset(events.drop(columns="text"), items[["item_id"]], tmp_path / "none", quiet=True)
    )
    assert log.tree is None and log.facts["taxonomy"]["nodes"] == 0


def test_a_handed_in_taxonomy_is_used(tmp_path):
    events, items = frames()
    log = InterestLog.load(
        write_dataset(events, items, tmp_path / "out", domains=[["A", "B"], ["A", "D"]], quiet=True)
    )
    assert log.tree.ids == ["A", "A > B", "A > D"]
    assert log.item_nodes[0].toarray().tolist() == [[1, 1, 0]]
    assert any("4 items are in no domain" in note for note in log.facts["notes"])
    with pytest.raises(ValueError, match="cycle"):
        write_dataset(events, items, tmp_path / "cycle", domains=[{"id": "a", "parent": "a"}], quiet=True)


def test_an_existing_folder_is_refused_and_only_a_dataset_is_overwritten(tmp_path):
    events, items = frames()
    output = write_dataset(events, items, tmp_path / "out", quiet=True)
    with pytest.raises(ValueError, match="exists already; choose another folder or say --overwrite"):
        write_dataset(events, items, output, quiet=True)
    write_dataset(events.iloc[:40], items, output, overwrite=True, quiet=True)
    assert InterestLog.load(output).num_events == 40
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(ValueError, match="is not an interest dataset and is not overwritten"):
        write_dataset(events, items, tmp_path / "mine", overwrite=True, quiet=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mine", "out"]


def test_nothing_is_left_when_writing_fails(tmp_path, monkeypatch):
    events, items = frames()
    output = write_dataset(events, items, tmp_path / "old", quiet=True)

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr("interest_lm.data.writing.dataset_card", fail)
    with pytest.raises(OSError, match="disk full"):
        write_dataset(events, items, output, overwrite=True, quiet=True)
    with pytest.raises(OSError, match="disk full"):
        write_dataset(events, items, tmp_path / "new", quiet=True)
    assert [p.name for p in tmp_path.iterdir()] == ["old"]
    assert InterestLog.load(output).num_events == 60


def bad(**changes):
    events, items = frames()
    return events.assign(**changes), items


@pytest.mark.parametrize(
    ("tables", "options", "message"),
    [
        (bad(value=[np.nan] * 3 + [1.0] * 57), {}, "events: row 0: `value` is nan, expected a finite number"),
        (bad(value=[1.0] * 59 + [np.inf]), {}, "events: row 59: `value` is inf, expected a finite number"),
        (bad(timestamp=-1), {}, "events: row 0: `timestamp` is -1, expected a time not before 1970"),
        (bad(timestamp=pd.array([5, None] * 30, dtype="Int64")), {}, "events: row 1: `timestamp` is "),
        (bad(user_id=["a", pd.NA] * 30), {}, "events: row 1: `user_id` is '', expected an id"),
        (bad(user_id=["a", None] * 30), {}, "events: row 1: `user_id` is '', expected an id"),
        (bad(item_id="other"), {}, "60 of 60 events are of items that the items table does not have, first 'other'"),
        (bad(), {"min_events": 11}, r"no user has 11 events or more \(the most is 10\)"),
        ((frames()[0].iloc[:0], frames()[1]), {}, "events: no rows"),
        ((frames()[0], frames()[1].iloc[:0]), {}, "items: no rows"),
        ((frames()[0].drop(columns="timestamp"), frames()[1]), {}, "events: no column `timestamp`"),
        (
            (frames()[0], pd.concat([frames()[1]] * 2)),
            {},
            "items: row 7: `item_id` is 'i0', expected an id that occurs",
        ),
        (bad(timestamp=10**9), {}, "1 distinct timestamps: a global-time split needs three or more"),
        (bad(), {"split": "random"}, "split is 'random', expected global-time or leave-last"),
        (bad(), {"time": "days"}, "time is 'days', expected seconds, iso or order"),
    ],
)
def test_bad_frames_get_one_clear_line_and_write_nothing(tmp_path, tables, options, message):
    with pytest.raises(ValueError, match=message) as caught:
        write_dataset(*tables, tmp_path / "out", quiet=True, **options)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_values_may_be_missing_where_actions_tell_the_rows_apart(tmp_path):
    events, items = frames()
    events = events.assign(action=["view", "rate"] * 30, value=[np.nan, 4.0] * 30)
    log = InterestLog.load(write_dataset(events, items, tmp_path / "out", quiet=True))
    assert np.isnan(log.value).sum() == 30 and log.actions == ["rate", "view"]


def test_dates_in_frames(tmp_path):
    events, items = frames()
    expected = events["timestamp"].tolist()
    dates = pd.to_datetime(events["timestamp"], unit="s")
    for number, column in enumerate([dates, dates.dt.tz_localize("UTC"), dates.astype(str)]):
        log = InterestLog.load(
            write_dataset(events.assign(timestamp=column), items, tmp_path / str(number), quiet=True)
        )
        assert log.timestamp.tolist() == expected


def test_what_prepare_refuses(tmp_path):
    with pytest.raises(ValueError, match="no recipe 'minds', expected one of movielens"):
        prepare("minds", [tmp_path], tmp_path / "out")
    with pytest.raises(ValueError, match="expected a folder of MovieLens files"):
        prepare("movielens", [tmp_path / "none"], tmp_path / "out")
    with pytest.raises(ValueError, match="no source given"):
        prepare("table", [], tmp_path / "out")
    (tmp_path / "a.csv").write_text("x\n")
    (tmp_path / "b.csv").write_text("x\n")
    with pytest.raises(ValueError, match="cannot tell events from items among a.csv, b.csv"):
        prepare("table", [tmp_path], tmp_path / "out")
    with pytest.raises(ValueError, match="no such taxonomy file"):
        prepare("table", [tmp_path], tmp_path / "out", domains=tmp_path / "none.json")
    assert not (tmp_path / "out").exists()


def test_files_are_found_by_name(tmp_path):
    for name in ("ratings.csv", "books.csv", "README.txt"):
        (tmp_path / name).write_text("x\n")
    assert find_files([tmp_path]) == (tmp_path / "ratings.csv", tmp_path / "books.csv")
    assert find_files([], "e.csv", "i.csv") == (Path("e.csv"), Path("i.csv"))
    assert find_files(["e.csv"]) == (Path("e.csv"), None)


def test_synthetic_recipe_keeps_its_settings(tmp_path):
    output = prepare(
        "synthetic", [], tmp_path / "out", world={"num_users": 20, "num_items": 60, "seed": 3}, quiet=True
    )
    log = InterestLog.load(output)
    assert log.facts["world"]["seed"] == 3 and log.num_items == 60 and log.place is not None


def test_inspection_of_raw_files_and_of_a_prepared_folder_agree(tmp_path, capsys):
    folder = rating_folder(tmp_path / "ml", users=30, per_user=40)
    raw = inspect_path(folder)
    prepared = inspect_path(prepare("movielens", [folder], tmp_path / "out", quiet=True))
    assert raw["suggested"]["recipe"] == "movielens" and "recipe" not in prepared["suggested"]
    for key in ("users", "events", "forecast", "change", "supported", "time"):
        assert raw[key] == prepared[key]
    assert (
        raw["supported"]["ranking"] is None and raw["supported"]["places"] == "events carry no latitude and longitude"
    )
    level = raw["forecast"]["cross_entropy"][0]
    assert 0 < level["floor"] <= level["history"] and raw["forecast"]["cuts"] > 0
    json.dumps(raw)
    print_inspection(raw)
    assert "what it supports" in capsys.readouterr().out


def test_inspection_measures_the_reliability_of_change():
    """A log whose people change together is reliable, one of coin flips is not."""
    rng = np.random.default_rng(0)
    users, per_user = 60, 200
    user = np.repeat(np.arange(users), per_user)
    day = np.tile(np.sort(rng.integers(0, 300, (users, per_user)), axis=1).ravel()[: users * per_user], 1)
    turn = rng.integers(60, 200, users)[user]
    taste = rng.integers(0, 2, users)[user]
    steady = rng.random(len(user)) < 0.5
    moving = np.where(rng.random(len(user)) < 0.85, (day >= turn) ^ taste, steady)
    items = pd.DataFrame({"item_id": ["0", "1"], "title": ["a", "b"], "categories": [[["A"]], [["B"]]]})
    reports = []
    for choice in (moving, steady):
        events = pd.DataFrame({"user_id": user, "item_id": choice.astype(int).astype(str), "timestamp": day * DAY})
        split = np.where(day < 200, "train", np.where(day < 250, "validation", "test"))
        log = InterestLog.from_frames(events.assign(user_id=user.astype(str), split=split), items)
        reports.append(inspect_log(log))
    assert reports[0]["change"]["reliability"] > 0.6 > 0.3 > reports[1]["change"]["reliability"]
    assert reports[0]["supported"]["change rate"] is None
    assert "mostly noise" in reports[1]["supported"]["change rate"]


def test_the_card_says_whether_there_is_change_to_find(tmp_path):
    """What inspection measures, in the card's text and in its front matter; nothing of validation and test goes into it."""
    folder = rating_folder(tmp_path / "ml", users=30, per_user=40)
    output = prepare("movielens", [folder], tmp_path / "out", quiet=True)
    found = read_facts(output / "README.md")["change"]
    report = inspect_path(output)
    assert found["change"] == report["change"] and found["windows"] == report["windows"]
    body = (output / "README.md").read_text()
    level = found["forecast"]["cross_entropy"][0]
    assert f"| 0 | {level['floor']:.3f} | {level['history']:.3f} | {level['population']:.3f} |" in body
    reliability = found["change"]["reliability"]
    shown = "too few" if reliability is None else f"{reliability:.2f}"
    assert f"Split-half reliability of the change rate of that window: {shown}" in body
    assert {row["unit"] for row in found["windows"]} <= {"days", "events"} and len(found["windows"]) > 1
    for row in found["windows"]:
        assert f"| {row['horizon']:g} {row['unit']} | {row['cuts']:,} | {row['reliability']:.2f} |" in body


def test_a_card_without_windows_says_so(tmp_path):
    (tmp_path / "events.csv").write_text("user_id,item_id,timestamp\nann,x,5\nann,y,9\nann,x,12\n")
    output = prepare("table", [tmp_path / "events.csv"], tmp_path / "out", time="seconds", quiet=True)
    assert "Not measured: no domains, or nobody" in (output / "README.md").read_text()
    assert verdict(None).startswith("it cannot be measured") and verdict(0.1).startswith("mostly noise")


def test_positions_are_noticed_when_inspecting(tmp_path):
    (tmp_path / "events.csv").write_text(
        "user_id,item_id,timestamp\n" + "".join(f"a,{i % 3},{i}\n" for i in range(30))
    )
    report = inspect_path(tmp_path / "events.csv")
    assert report["suggested"]["time"] == "order" and report["suggested"]["split"] == "leave-last"
    assert report["supported"]["future interest"] is not None


def test_recipes_are_told_by_looking(tmp_path):
    assert detect_recipe([rating_folder(tmp_path / "ml")]) == "movielens"
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "checkins.csv").write_text("user_id,poi_id,lat,lng,time\n1,2,3,4,5\n")
    assert detect_recipe([tmp_path / "c"]) == "table"
    (tmp_path / "c" / "places.csv").write_text("poi_id,name\n2,x\n")
    assert detect_recipe([tmp_path / "c"]) == "checkins"
    with pytest.raises(ValueError, match="no such file or folder"):
        detect_recipe([tmp_path / "none"])


def test_horizons_fit_into_validation_and_test(tmp_path):
    events, items = frames(6, 100)
    log = InterestLog.load(write_dataset(events, items, tmp_path / "out", quiet=True))
    horizons, unit, reference = suggest_horizons(log)
    assert (horizons, unit, reference) == ([1.0, 3.0, 7.0, 30.0], "days", 30.0)
    assert log.facts["test_start"] + reference * DAY <= log.facts["end"]
    log = InterestLog.load(write_dataset(events, items, tmp_path / "last", split="leave-last", quiet=True))
    assert suggest_horizons(log) == ([1.0, 5.0, 10.0], "events", 10.0)


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ({"split": "leave-last"}, "each user's last event tests, the one before"),
        ({"split": "leave-last", "test_events": 5}, "last 5 events test, at most a third of them"),
        (
            {"split": "global-time", "validation_start": 0, "test_start": 86400},
            "from 1970-01-02 00:00:00 UTC on tests",
        ),
    ],
)
def test_the_split_rule_says_how_many_events_test(facts, expected):
    assert expected in split_rule(facts)
    assert split_rule({}) is None


@pytest.mark.parametrize("positions", [True, False])
def test_row_numbers_of_a_file_sorted_by_user_become_places_in_each_history(tmp_path, positions):
    header = "user_id,item_id" + ",timestamp" * positions
    rows = [f"{user},{item}" for user in "bac" for item in range(6)]
    rows = [f"{row},{number}" if positions else row for number, row in enumerate(rows)]
    (tmp_path / "events.csv").write_text("\n".join([header, *rows]) + "\n")
    log = InterestLog.load(prepare("table", [tmp_path / "events.csv"], tmp_path / "out", time="order", quiet=True))
    assert log.user_ids.tolist() == ["b", "a", "c"] and log.timestamp.tolist() == [0, 1, 2, 3, 4, 5] * 3
    assert "they became places in each history" in (tmp_path / "out" / "README.md").read_text()
    mixed = [rows[0], rows[6], *rows[1:6], *rows[7:]]  # somebody else in between: rows are one order of all
    mixed = [f"{row.rsplit(',', 1)[0]},{number}" for number, row in enumerate(mixed)] if positions else mixed
    (tmp_path / "events.csv").write_text("\n".join([header, *mixed]) + "\n")
    log = InterestLog.load(prepare("table", [tmp_path / "events.csv"], tmp_path / "mixed", time="order", quiet=True))
    assert log.timestamp.tolist() == [0, 2, 3, 4, 5, 6, 1, *range(7, 18)]


def test_places_in_history_are_equal_where_positions_are():
    user, timestamp = np.array([0, 0, 0, 1, 2, 2]), np.array([3, 3, 5, 9, 10, 12])
    assert apart(user, timestamp) and places_in_history(user, timestamp).tolist() == [0, 0, 1, 0, 0, 1]
    assert not apart(user[:3], timestamp[:3]) and not apart(user[:0], timestamp[:0])
    assert not apart(np.array([0, 0, 1]), np.array([3, 5, 5]))

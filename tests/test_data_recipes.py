"""Recipes: every layout of people's files, and one clear line for what is wrong in them."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from interest_lm.data.recipes.checkins import read_checkins
from interest_lm.data.recipes.movielens import read_movielens
from interest_lm.data.recipes.table import read_log_table


def write(folder: Path, **files: str) -> Path:
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        (folder / name.replace("__", ".")).write_text(content, encoding="utf-8")
    return folder


LATEST = {
    "ratings__csv": "userId,movieId,rating,timestamp\n1,10,4.0,100\n1,11,2.5,200\n2,10,5.0,150\n",
    "movies__csv": 'movieId,title,genres\n10,"Heat, The (1995)",Action|Crime\n11,Nameless,(no genres listed)\n12,New (2001),\n',
    "tags__csv": "userId,movieId,tag,timestamp\n1,10,early,90\n1,10,same moment,100\n1,10,later,101\n2,11,unrated,1\n1,11,b,5\n",
    "links__csv": "movieId,imdbId,tmdbId\n10,0113277,949\n",
}


def test_movielens_latest(tmp_path):
    raw = read_movielens(write(tmp_path / "ml", **LATEST))
    assert raw.events["user_id"].tolist() == ["1", "1", "2"]
    assert raw.events["value"].tolist() == [4.0, 2.5, 5.0]
    assert raw.events["timestamp"].tolist() == [100, 200, 150]
    assert raw.items["categories"].tolist() == [[["Action"], ["Crime"]], [], []]
    assert raw.items["title"][0] == "Heat, The (1995)"
    assert raw.items["created_at"].tolist() == [788_918_400, pd.NA, 978_307_200]
    assert raw.items["attributes"][0] == {"year": "1995", "imdbId": "0113277", "tmdbId": "949"}


def test_a_tag_becomes_text_only_when_it_was_given_before_the_rating(tmp_path):
    raw = read_movielens(write(tmp_path / "ml", **LATEST))
    assert raw.events["text"].tolist() == ["early, same moment", "b", ""]
    assert raw.dropped == {"tags given after the rating or without one (not used)": 2}


def test_movielens_1m_and_movietweetings(tmp_path):
    movies = "0010::Fantômas (1913)::Crime|Drama\n0011::No genre (1999)::\n"
    raw = read_movielens(write(tmp_path / "a", ratings__dat="1::0010::8::100\n2::0011::9::101\n", movies__dat=movies))
    assert raw.events["item_id"].tolist() == ["0010", "0011"] and raw.items["title"][0] == "Fantômas (1913)"
    assert raw.items["categories"].tolist() == [[["Crime"], ["Drama"]], []]
    folder = write(tmp_path / "b", ratings__dat="1::10::8::100\n")
    (folder / "movies.dat").write_bytes("10::Les Misérables (1995)::Drama|Musical\n".encode("latin-1"))
    raw = read_movielens(folder)
    assert raw.items["title"][0] == "Les Misérables (1995)"
    assert raw.notes == ["movies.dat is not UTF-8; it was read as Latin-1"]


def test_movielens_100k(tmp_path):
    folder = write(tmp_path / "ml-100k", u__data="1\t2\t3\t881250949\n1\t1\t5\t881250950\n")
    flags = {"Crime": 6, "unknown": 0}
    rows = [
        "|".join(
            [str(i + 1), title, "01-Jan-1995", "", "http://x", *("1" if flag == on else "0" for flag in range(19))]
        )
        for i, (title, on) in enumerate([("Misérables, Les (1995)", flags["Crime"]), ("Odd (1990)", flags["unknown"])])
    ]
    (folder / "u.item").write_bytes("\n".join(rows).encode("latin-1"))
    raw = read_movielens(folder)
    assert raw.items["title"].tolist() == ["Misérables, Les (1995)", "Odd (1990)"]
    assert raw.items["categories"].tolist() == [[["Crime"]], []]
    assert raw.events["value"].tolist() == [3.0, 5.0]


PLACES = [
    {
        "poi_id": 0,
        "name": "Joe's",
        "category": "Bar",
        "parent_category": "Nightlife",
        "latitude": 40.5,
        "longitude": -73.5,
    },
    {"poi_id": 1, "name": "", "category": "Bar", "parent_category": "Nightlife", "latitude": 40.6, "longitude": -73.6},
    {
        "poi_id": 2,
        "name": "Bar bar",
        "category": "Bar",
        "parent_category": "Bar",
        "latitude": 40.7,
        "longitude": -73.7,
    },
    {"poi_id": 3, "name": "Eats", "category": "Food", "parent_category": "Food", "latitude": 40.8, "longitude": -73.8},
]


def test_checkins(tmp_path):
    checkins = "user_id,poi_id,latitude,longitude,local_time,split\n1,0,40.5,-73.5,2012-04-08 16:02:10,train\n"
    checkins += "1,1,,,2012-04-09 00:00:00,train\n2,3,40.9,-73.9,2012-04-09,train\n"
    folder = write(tmp_path / "c", checkins__csv=checkins, poi__jsonl="\n".join(map(json.dumps, PLACES)))
    raw = read_checkins(folder / "checkins.csv", folder / "poi.jsonl")
    assert raw.events["timestamp"].tolist() == [1333900930, 1333929600, 1333929600]
    assert raw.events["latitude"].tolist() == [40.5, 40.6, 40.9]
    assert raw.items["title"].tolist() == ["Joe's", "Bar", "Bar bar", "Eats"]
    assert raw.items["categories"].tolist() == [[["Nightlife", "Bar"]]] * 3 + [[["Food"]]]
    assert raw.repairs == {"names": 1, "equal_to_parent": 2, "items": 2}
    assert any("local time" in note for note in raw.notes)


def test_table_recognises_a_retail_log_without_items(tmp_path):
    text = "InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country\n"
    text += "1,A,MUG,6,2010-12-01 08:26:00,2.5,17850.0,UK\n1,A,MUG,1,2010-12-02,2.5,17850.0,UK\n"
    text += "2,A,mug?,1,2010-12-03,2.5,17851.0,UK\n2,B,,1,2010-12-03,2.5,17851.0,UK\n"
    text += "C3,A,MUG,-1,2010-12-04,2.5,17851.0,UK\n4,C,LAMP,1,2010-12-04,2.5,,UK\n"
    with gzip.open(tmp_path / "retail.csv.gz", "wt") as file:
        file.write(text)
    raw = read_log_table(tmp_path / "retail.csv.gz", None)
    assert raw.events["user_id"].tolist() == ["17850", "17850", "17851", "17851"]
    assert raw.dropped == {"no user": 1, "quantity not above 0 (returns)": 1}
    assert raw.items[["item_id", "title"]].to_numpy().tolist() == [["A", "MUG"], ["B", ""]]
    assert "text" not in raw.events and "1 items had several titles; the most common one was taken" in raw.notes


def test_table_of_reviews_as_json_lines(tmp_path):
    rows = [
        {"reviewerID": "u", "asin": "0001", "helpful": [0, 1], "reviewText": "fine", "overall": 5.0, "summary": "s",
         "unixReviewTime": 1393545600, "reviewTime": "02 28, 2014"},
        {"reviewerID": "v", "asin": "0002", "helpful": [0, 1], "reviewText": "", "overall": 1, "summary": "s",
         "unixReviewTime": 1393545601, "reviewTime": "02 28, 2014"},
    ]  # fmt: skip
    (tmp_path / "reviews.json").write_text("\n".join(map(json.dumps, rows)))
    raw = read_log_table(tmp_path / "reviews.json", None)
    assert raw.events["text"].tolist() == ["fine", ""] and raw.events["value"].tolist() == [5.0, 1.0]
    assert raw.items["item_id"].tolist() == ["0001", "0002"]
    assert raw.events["timestamp"].tolist() == [1393545600, 1393545601]
    assert not raw.merge_texts


def test_table_formats_give_the_same_log(tmp_path):
    frame = pd.DataFrame({"user_id": ["01", "2"], "item_id": ["a", "b"], "timestamp": [5, 6], "value": [1.0, 2.0]})
    frame.to_csv(tmp_path / "e.csv", index=False)
    frame.to_csv(tmp_path / "e.tsv", index=False, sep="\t")
    frame.to_csv(tmp_path / "semicolon.csv", index=False, sep=";", encoding="utf-8-sig")
    frame.to_json(tmp_path / "e.jsonl", orient="records", lines=True)
    frame.to_json(tmp_path / "list.json", orient="records")
    frame.to_parquet(tmp_path / "e.parquet")
    frame.to_csv(tmp_path / "e.tsv.gz", index=False, sep="\t")
    frame.to_json(tmp_path / "e.jsonl.gz", orient="records", lines=True)
    (tmp_path / "e.parquet.gz").write_bytes(gzip.compress((tmp_path / "e.parquet").read_bytes()))
    for file in sorted(tmp_path.iterdir()):
        events = read_log_table(file, None).events
        assert events["user_id"].tolist() == ["01", "2"], file
        assert events["timestamp"].tolist() == [5, 6] and events["value"].tolist() == [1, 2], file


def test_columns_can_be_named_and_switched_off(tmp_path):
    (tmp_path / "e.csv").write_text("who,what,when,rating,text\na,x,2020-01-01T00:00:00Z,3,hm\n")
    (tmp_path / "i.csv").write_text("what,label,text,group\nx,The X,about x,A > B|C\n")
    columns = {
        "user_id": "who",
        "item_id": "what",
        "timestamp": "when",
        "title": "label",
        "categories": "group",
        "value": "",
    }
    raw = read_log_table(tmp_path / "e.csv", tmp_path / "i.csv", columns)
    assert raw.events.columns.tolist() == ["user_id", "item_id", "text", "timestamp"]
    assert raw.items.iloc[0].to_dict() == {
        "item_id": "x", "title": "The X", "text": "about x", "categories": [["A", "B"], ["C"]],
    }  # fmt: skip
    raw = read_log_table(tmp_path / "e.csv", tmp_path / "i.csv", {**columns, "items.text": "label", "events.text": ""})
    assert "text" not in raw.events and raw.items["text"][0] == "The X"


def test_items_keep_vectors_attributes_and_dates(tmp_path):
    (tmp_path / "e.csv").write_text("user_id,item_id,timestamp\na,x,3\n")
    rows = [
        {"item_id": "x", "name": "X", "categories": [["A", "B"]], "brand": "Q", "image": [1, 2.5], "price": 3,
         "release_date": "1970-01-02"},
        {"item_id": "y", "name": "Y", "categories": ["A > B", "C"], "brand": None, "image": None, "price": 4.5,
         "release_date": None},
    ]  # fmt: skip
    (tmp_path / "i.jsonl").write_text("\n".join(map(json.dumps, rows)))
    items = read_log_table(tmp_path / "e.csv", tmp_path / "i.jsonl").items
    assert items["image"].tolist() == [[1, 2.5], None]
    assert items["categories"].tolist() == [[["A", "B"]], [["A", "B"], ["C"]]]
    assert items["attributes"].tolist() == [{"brand": "Q", "price": "3"}, {"price": "4.5"}]
    assert items["created_at"].tolist() == [86_400, pd.NA]


def test_times_in_seconds_milliseconds_dates_and_positions(tmp_path):
    def times(cells: list[str], time: str | None = None) -> list[int]:
        (tmp_path / "e.csv").write_text("user_id,item_id,time\n" + "".join(f"a,x,{cell}\n" for cell in cells))
        return read_log_table(tmp_path / "e.csv", None, time=time).events["timestamp"].tolist()

    assert times(["1393545600", "1393545601.9"]) == [1393545600, 1393545601]
    assert times(["1393545600123"]) == [1393545600]
    assert times(["2014-02-28", "2014-02-28T00:00:01+01:00"]) == [1393545600, 1393542001]
    assert times(["0", "7"], "order") == [0, 7]
    (tmp_path / "e.csv").write_text("user_id,item_id\na,x\nb,y\n")
    assert read_log_table(tmp_path / "e.csv", None, time="order").events["timestamp"].tolist() == [0, 1]


def test_a_user_and_an_item_a_line_are_events_in_their_order(tmp_path):
    file = tmp_path / "ml-1m.txt"
    file.write_text("1 7\n1 9\n2 7\n\n")
    raw = read_log_table(file, None)
    assert raw.time == "order"
    assert raw.events[["user_id", "item_id"]].to_numpy().tolist() == [["1", "7"], ["1", "9"], ["2", "7"]]
    assert raw.events["timestamp"].tolist() == [0, 1, 2]
    for wrong, line in (("1 7\n1 9 5\n", 2), ("1 7\n\n1 9\n", 2), ("1 7\n1 9\n4", 3)):
        file.write_text(wrong)
        with pytest.raises(ValueError, match=f"ml-1m.txt:{line}: .*expected a user and an item as in line 1"):
            read_log_table(file, None)


HEAD = "user_id,item_id,timestamp,value\n"


@pytest.mark.parametrize(
    ("events", "items", "message"),
    [
        (HEAD + "a,x,1,4\na,x,2,nan\n", None, "e.csv:3: `value` is 'nan', expected a finite number"),
        (HEAD + "a,x,1,4\na,x,2,\n", None, "e.csv:3: `value` is '', expected a finite number"),
        (HEAD + 'a,"x\ny",1,4\na,x,2,inf\n', None, "e.csv:4: `value` is 'inf', expected a finite number"),
        (HEAD + "a,x,1,good\n", None, "e.csv:2: `value` is 'good', expected a finite number"),
        (HEAD + "a,x,1,1\n\na,x,soon,1\na,x,2,2\n", None, "e.csv:4: `timestamp` is 'soon', expected whole seconds"),
        (HEAD + "a,x,-5,1\n", None, "e.csv:2: `timestamp` is '-5', expected a time not before 1970"),
        (HEAD + "a,x,2012-13-01,1\n", None, "e.csv:2: `timestamp` is '2012-13-01', expected a date"),
        (HEAD + "a,x,,1\n", None, "e.csv:2: `timestamp` is '', expected whole seconds"),
        ("user,item\na,x\n", None, r"no column for `timestamp` \(columns: user, item\); name it with --column timestamp="),
        (HEAD, None, "e.csv: no rows, expected events"),
        ("", None, "empty file"),
        (HEAD + "a,x,1,1,9,9\n", None, "e.csv:2: 6 fields, expected 4 as in the header"),
        (HEAD + ",x,1,1\n", None, "e.csv: no event left"),
        (HEAD + "a,x,1,1\n", "item_id,title\nx,X\ny,Y\nx,Z\n", r"i.csv:4: `item_id` 'x' occurs twice \(first in i.csv:2\)"),
        (HEAD + "a,x,1,1\n", "item_id,title\nx,X\n,Y\n", "i.csv:3: `item_id` is '', expected an id"),
        (HEAD + "a,x,1,1\n", "label,title\nx,X\n", "i.csv: no column for `item_id`"),
        ("user_id,item_id,timestamp,lat,lon\na,x,1,95,1\n", None, "e.csv:2: `lat` is 95.0, expected degrees"),
    ],
)  # fmt: skip
def test_bad_tables_get_one_clear_line(tmp_path, events, items, message):
    (tmp_path / "e.csv").write_text(events)
    if items is not None:
        (tmp_path / "i.csv").write_text(items)
    with pytest.raises(ValueError, match=message) as caught:
        read_log_table(tmp_path / "e.csv", None if items is None else tmp_path / "i.csv")
    assert "\n" not in str(caught.value)


def test_bad_json_lines_name_the_line(tmp_path):
    (tmp_path / "e.jsonl").write_text('{"user_id": "a", "item_id": "x", "timestamp": 1}\n\n{"user_id": oops}\n')
    with pytest.raises(ValueError, match="e.jsonl:3: not JSON"):
        read_log_table(tmp_path / "e.jsonl", None)
    (tmp_path / "e.jsonl").write_text(
        '{"user_id": "a", "item_id": "x", "timestamp": 1}\n\n{"user_id": "a", "item_id": "x", "timestamp": "x"}\n'
    )
    with pytest.raises(ValueError, match="e.jsonl:3: `timestamp` is 'x'"):
        read_log_table(tmp_path / "e.jsonl", None)
    (tmp_path / "e.jsonl").write_text('{"user_id": "a", "item_id": "x", "timestamp": 1}\n[1]\n')
    with pytest.raises(ValueError, match="row 1 is '\\[1\\]', expected a JSON object"):
        read_log_table(tmp_path / "e.jsonl", None)


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ("[1.0, NaN]", "i.jsonl:2: `image` is nan, expected finite numbers"),
        ("[1.0, Infinity]", "i.jsonl:2: `image` is inf, expected finite numbers"),
        ("[1.0]", "i.jsonl:2: `image` is '1 numbers', expected 2 as in the first row"),
    ],
)
def test_item_vectors_are_finite_and_of_one_length(tmp_path, second, message):
    (tmp_path / "e.csv").write_text("user_id,item_id,timestamp\na,x,3\n")
    (tmp_path / "i.jsonl").write_text(
        f'{{"item_id": "x", "image": [1.0, 2.0]}}\n{{"item_id": "y", "image": {second}}}\n'
    )
    with pytest.raises(ValueError, match=message):
        read_log_table(tmp_path / "e.csv", tmp_path / "i.jsonl")


def test_parquet_errors_name_the_row(tmp_path):
    frame = pd.DataFrame({"user_id": ["a", "a"], "item_id": ["x", "y"], "timestamp": [1, 2], "value": [1.0, np.inf]})
    frame.to_parquet(tmp_path / "e.parquet")
    with pytest.raises(ValueError, match="e.parquet: row 1: `value` is inf, expected a finite number"):
        read_log_table(tmp_path / "e.parquet", None)
    with pytest.raises(ValueError, match="none.csv: no such file"):
        read_log_table(tmp_path / "none.csv", None)
    (tmp_path / "broken.parquet").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="broken.parquet: not readable"):
        read_log_table(tmp_path / "broken.parquet", None)


def test_named_columns_must_exist(tmp_path):
    (tmp_path / "e.csv").write_text("user_id,item_id,timestamp\na,x,3\n")
    with pytest.raises(
        ValueError, match=r"no column 'Customer' for `user_id` \(columns: user_id, item_id, timestamp\)"
    ):
        read_log_table(tmp_path / "e.csv", None, {"user_id": "Customer"})
    with pytest.raises(ValueError, match="--column nonsense=x: no such name, expected one of action"):
        read_log_table(tmp_path / "e.csv", None, {"nonsense": "x"})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ratings__csv": "userId,movieId,rating\n1,10,4\n"}, "ratings.csv: no column 'timestamp'"),
        ({"ratings__csv": LATEST["ratings__csv"] + "3,10,NaN,100\n"}, "ratings.csv:5: `value` is 'NaN'"),
        ({"ratings__csv": LATEST["ratings__csv"] + "3,10,4,-100\n"}, "ratings.csv:5: `timestamp` is '-100'"),
        (
            {"movies__csv": LATEST["movies__csv"] + "10,Again (1995),Drama\n"},
            "movies.csv:5: `item_id` is '10', expected an id",
        ),
    ],
)
def test_bad_movielens_files_name_the_line(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        read_movielens(write(tmp_path / "ml", **{**LATEST, **changes}))


def test_bad_movielens_layouts(tmp_path):
    with pytest.raises(ValueError, match="no ratings.csv, ratings.dat or u.data in it"):
        read_movielens(write(tmp_path / "empty"))
    with pytest.raises(ValueError, match="ratings.dat:2: 3 fields, expected 4 separated by '::'"):
        read_movielens(
            write(tmp_path / "short", ratings__dat="1::2::3::4\n1::2::3\n", movies__dat="2::A (1999)::Drama\n")
        )
    with pytest.raises(ValueError, match="movies.dat: no such file"):
        read_movielens(write(tmp_path / "half", ratings__dat="1::2::3::4\n"))

"""Recipe `amazon-reviews`: three layouts, with and without metadata; what people wrote stays out of the items."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from interest_lm.data.inspect import detect_recipe
from interest_lm.data.log import InterestLog
from interest_lm.data.prepare import prepare
from interest_lm.data.recipes.amazon import read_amazon_reviews, review_layout


def write(path: Path, rows: list[dict], literal: bool = False) -> Path:
    text = "\n".join(repr(row) if literal else json.dumps(row) for row in rows) + "\n"
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text, encoding="utf-8")
    return path


def review_2014(user: str, asin: str, text: str, stars: float, time: int, **more) -> dict:
    return {
        "reviewerID": user, "asin": asin, "reviewerName": "N", "helpful": [0, 0], "reviewText": text, "overall": stars,
        "summary": "Fine", "unixReviewTime": time, "reviewTime": "02 28, 2014",
    } | more  # fmt: skip


REVIEWS_2014 = [
    review_2014("u", "0001", "Fine strings. I&#34;d buy", 5.0, 1_393_545_600),
    review_2014("v", "0002", "", 1.0, 1_393_545_601),
    review_2014("u", "0002", "broke", 2.0, 1_393_632_000),
]
META_2014 = [
    {"asin": "0001", "title": "Guitar &amp; Strings", "description": "It's <b>steel</b>", "price": 9.5, "brand": "Bow",
     "categories": [["Music", "Strings"], ["Music", "Gifts"]], "salesRank": {"Music": 7}, "imUrl": "http://x"},
    {"asin": "0009", "title": "Nobody's", "categories": [["Music"]]},
]  # fmt: skip


@pytest.mark.parametrize("literal", [False, True])
def test_2014(tmp_path, literal):
    reviews = write(tmp_path / "reviews_Music_5.json.gz", REVIEWS_2014)
    raw = read_amazon_reviews(reviews, write(tmp_path / "meta_Music.json.gz", META_2014, literal))
    assert raw.events["user_id"].tolist() == ["u", "v", "u"]
    assert raw.events["item_id"].tolist() == ["0001", "0002", "0002"]
    assert raw.events["value"].tolist() == [5.0, 1.0, 2.0]
    assert raw.events["timestamp"].tolist() == [1_393_545_600, 1_393_545_601, 1_393_632_000]
    # the headline once where the review begins with it, and alone where there is nothing else
    assert raw.events["text"].tolist() == ['Fine strings. I"d buy', "Fine", "Fine\nbroke"]
    assert raw.items["item_id"].tolist() == ["0001", "0002"]
    assert raw.items["title"].tolist() == ["Guitar & Strings", ""]
    assert raw.items["text"].tolist() == ["It's steel", ""]
    assert raw.items["categories"].tolist() == [[["Music", "Strings"], ["Music", "Gifts"]], []]
    assert raw.items["attributes"].tolist() == [{"brand": "Bow", "price": "9.5"}, {}]
    assert raw.dropped == {"metadata of products that nobody reviewed": 1}
    assert "1 reviewed products have no metadata: neither title nor text" in raw.notes


def test_2018(tmp_path):
    rows = [review_2014("u", "B1", "good", 5.0, 1_500_000_000, verified=True, style={"Color:": " Red"}, vote="3")]
    rows.append(review_2014("", "B1", "nobody", 4.0, 1_500_000_001))
    meta = [
        {"asin": "B1", "title": "Staples", "description": ["Strong.", "<p>Very.</p>"], "feature": ["Steel"],
         "category": ["Tools &amp; Home", "Staples", "</span></span>", "Imported"], "brand": "S", "rank": ["1 in Tools"],
         "price": "$1,002.50", "also_buy": ["B7"], "main_cat": "Tools"},
        {"asin": "B1", "title": "Staples again", "category": [], "rank": "7", "price": ".a-box{color:#fff}"},
        {"asin": "B2", "title": "x", "category": []},
    ]  # fmt: skip
    raw = read_amazon_reviews(write(tmp_path / "Tools_5.json", rows), write(tmp_path / "meta_Tools.json", meta))
    assert raw.items.iloc[0].to_dict() == {
        "item_id": "B1", "title": "Staples", "text": "Strong. Very. Steel", "categories": [["Tools & Home", "Staples"]],
        "attributes": {"brand": "S", "price": "1002.50"},
    }  # fmt: skip
    assert raw.dropped == {
        "reviews without a reviewer or a product": 1,
        "metadata of products that nobody reviewed": 1,
        "further rows of metadata of one product": 1,
    }


def test_2018_pages_without_a_title_or_a_category(tmp_path):
    reviews = write(tmp_path / "r.json", [review_2014("u", "B1", "good", 5.0, 1_500_000_000)])
    meta = [{"asin": "B1", "title": "var aPageStart = (new Date()).getTime();", "category": [], "main_cat": "Tools"}]
    raw = read_amazon_reviews(reviews, write(tmp_path / "m.json", meta))
    assert raw.items["title"].tolist() == [""] and raw.items["categories"].tolist() == [[["Tools"]]]
    assert "1 titles hold the script of a page and were left empty" in raw.notes


def test_2023(tmp_path):
    rows = [
        {"rating": 4.0, "title": "Nice", "text": "So nice!<br />Really", "images": [], "asin": "C1", "parent_asin": "P",
         "user_id": "u", "timestamp": 1_588_687_728_923, "helpful_vote": 0, "verified_purchase": True},
        {"rating": 1.0, "title": "Bad", "text": "Bad smell", "images": [], "asin": "C2", "parent_asin": "P",
         "user_id": "v", "timestamp": 1_588_687_729_001, "helpful_vote": 0, "verified_purchase": True},
    ]  # fmt: skip
    meta = [
        {"main_category": "All Beauty", "title": "Soap", "average_rating": 2.5, "rating_number": 2, "features": ["Mild"],
         "description": [], "price": None, "store": "Soapy", "categories": [], "details": {}, "parent_asin": "P"},
    ]  # fmt: skip
    raw = read_amazon_reviews(write(tmp_path / "B.jsonl.gz", rows), write(tmp_path / "meta_B.jsonl.gz", meta))
    assert raw.events["timestamp"].tolist() == [1_588_687_728, 1_588_687_729]
    assert raw.events["item_id"].tolist() == ["P", "P"]
    assert raw.events["text"].tolist() == ["Nice\nSo nice! Really", "Bad smell"]
    assert raw.items.iloc[0].to_dict() == {
        "item_id": "P", "title": "Soap", "text": "Mild", "categories": [["All Beauty"]], "attributes": {"brand": "Soapy"},
    }  # fmt: skip


def test_without_metadata_nothing_of_the_reviews_is_in_the_items(tmp_path):
    rows = [
        review_2014(f"u{n % 4}", f"{n % 3:04}", f"secret{n} words", 1.0 + n % 5, 1_400_000_000 + 86_400 * n)
        for n in range(40)
    ]
    rows.append(rows[-1])
    output = prepare("amazon-reviews", [write(tmp_path / "reviews.json", rows)], tmp_path / "out", quiet=True)
    log = InterestLog.load(output)
    assert log.facts["dropped"] == {"exact duplicates (same user, item, time and value)": 1}
    assert log.num_events == 40 and (log.items["text"] == "").all()
    assert set(log.items["title"]) == {"0000", "0001", "0002"}
    assert "secret3" in log.text[log.timestamp == 1_400_000_000 + 86_400 * 3][0]
    assert not {name for name in log.items.columns if name not in ("item_id", "title", "text", "categories")}


def test_prepare_with_metadata_and_the_recipe_is_told_by_the_fields(tmp_path):
    reviews = write(tmp_path / "reviews.json", REVIEWS_2014 * 4)
    meta = write(tmp_path / "meta.json", META_2014, literal=True)
    assert detect_recipe([reviews, meta]) == "amazon-reviews"
    output = prepare("amazon-reviews", [reviews, meta], tmp_path / "out", split="leave-last", min_events=2, quiet=True)
    log = InterestLog.load(output)
    assert log.tree is not None and "Music > Strings" in log.tree.ids
    assert log.facts["dropped"]["exact duplicates (same user, item, time and value)"] == 9
    with pytest.raises(ValueError, match="takes neither columns nor --time"):
        prepare("amazon-reviews", [reviews], tmp_path / "two", columns={"user_id": "x"})


def test_layouts_are_told_by_their_fields():
    assert review_layout(["user_id", "asin", "rating", "timestamp"])[1]["item_id"] == "asin"
    assert review_layout(["user_id", "item_id", "rating", "timestamp"]) is None
    assert review_layout(REVIEWS_2014[0])[0] == "2014 and 2018"
    assert review_layout(["reviewerID", "asin"]) is None


@pytest.mark.parametrize(
    ("rows", "meta", "message"),
    [
        ([{"user": "u", "asin": "x"}], None, "r.json: fields are user, asin, expected those of Amazon reviews"),
        ([REVIEWS_2014[0], REVIEWS_2014[0] | {"overall": "good"}], None, "r.json:2: `overall` is 'good', expected a finite"),
        ([REVIEWS_2014[0] | {"unixReviewTime": -1}], None, "r.json:1: `unixReviewTime` is -1, expected a time not before"),
        (REVIEWS_2014, [{"title": "T"}], "m.json: fields are title, expected those of Amazon metadata"),
        (REVIEWS_2014, REVIEWS_2014, "m.json: fields are .*, expected those of Amazon metadata"),
        (REVIEWS_2014, [{"asin": "7", "title": "T"}], "m.json: none of the 2 products of r.json is in it .*'7', .*'0001'"),
        (REVIEWS_2014, ["{'asin': '1', oops}"], "m.json:1: "),
    ],
)  # fmt: skip
def test_bad_files_get_one_clear_line(tmp_path, rows, meta, message):
    reviews = write(tmp_path / "r.json", rows)
    if meta is not None:
        (tmp_path / "m.json").write_text("\n".join(x if isinstance(x, str) else json.dumps(x) for x in meta))
    with pytest.raises(ValueError, match=message) as caught:
        prepare("amazon-reviews", [reviews, tmp_path / "m.json"][: 1 + (meta is not None)], tmp_path / "out")
    assert "\n" not in str(caught.value) and not (tmp_path / "out").exists()


def test_literals_are_data_and_never_run(tmp_path):
    (tmp_path / "r.json").write_text("{'reviewerID': __import__('os').getcwd()}\n")
    with pytest.raises(ValueError, match="r.json:1: not JSON"):
        read_amazon_reviews(tmp_path / "r.json")

"""The processor: what becomes of good histories, and how bad ones are refused, by name of user, event and field."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoProcessor, AutoTokenizer

from interest_lm import InterestModel, InterestProcessor
from interest_lm.processing_interest import item_sentence, pad_memberships
from interest_lm.taxonomy_interest import DomainTree


TREE = DomainTree.from_paths(
    [[["Film", "Crime"]], [["Film", "Drama"]], [["Film"]], [["Music", "Jazz"]], [["Music", "Rock"]], []]
)
MAX_HISTORY = 4
CRIME, JAZZ, BOTH = [["Film", "Crime"]], [["Music", "Jazz"]], [["Film", "Crime"], ["Music", "Rock"]]


@pytest.fixture(scope="module")
def processor(tiny_bert) -> InterestProcessor:
    return InterestProcessor(
        AutoTokenizer.from_pretrained(tiny_bert),
        domains=TREE.nodes,
        item_ids=["10", "20"],
        actions=["view", "buy"],
        max_history=MAX_HISTORY,
    )


def heat(time=100, **more) -> dict:
    return {"title": "heat", "categories": CRIME, "timestamp": time} | more


def jazz(time=100, **more) -> dict:
    return {"title": "jazz album", "categories": JAZZ, "timestamp": time} | more


def texts_of(processor: InterestProcessor, batch) -> list[str]:
    return [processor.tokenizer.decode(row, skip_special_tokens=True) for row in batch["item_input_ids"]]


BAD_EVENTS = {
    "no dictionary": ("heat", "histories[1][2] is 'heat', expected a dictionary"),
    "no timestamp": ({"title": "heat"}, "histories[1][2] has no `timestamp`, expected seconds since 1970"),
    "timestamp None": (heat(None), "histories[1][2]: `timestamp` is None, expected seconds since 1970 or an ISO date"),
    "timestamp words": (heat("soon"), "histories[1][2]: `timestamp` is 'soon', expected seconds"),
    "timestamp 30 February": (heat("2020-02-30"), "histories[1][2]: `timestamp` is '2020-02-30', expected seconds"),
    "timestamp negative": (heat(-1), "histories[1][2]: `timestamp` is -1, expected seconds since 1970, 0 or more"),
    "timestamp before 1970": (heat("1969-12-31"), "histories[1][2]: `timestamp` is '1969-12-31', expected"),
    "timestamp NaN": (heat(float("nan")), "histories[1][2]: `timestamp` is nan, expected seconds"),
    "timestamp infinite": (heat(float("inf")), "histories[1][2]: `timestamp` is inf, expected seconds"),
    "timestamp beyond int64": (heat(10**30), "histories[1][2]: `timestamp` is 1000000000000000000"),
    "timestamp true": (heat(True), "histories[1][2]: `timestamp` is True, expected seconds"),
    "value NaN": (heat(value=float("nan")), "histories[1][2]: `value` is nan, expected a finite number"),
    "value infinite": (heat(value=float("-inf")), "histories[1][2]: `value` is -inf, expected a finite number"),
    "value words": (heat(value="4"), "histories[1][2]: `value` is '4', expected a finite number"),
    "value true": (heat(value=True), "histories[1][2]: `value` is True, expected a finite number"),
    "text a number": (heat(text=7), "histories[1][2]: `text` is 7, expected a string"),
    "title a number": (heat(title=1917), "histories[1][2]: `title` is 1917, expected a string"),
    "title NaN": (heat(title=float("nan")), "histories[1][2]: `title` is nan, expected a string"),
    "item_text a list": (heat(item_text=["a"]), "histories[1][2]: `item_text` is ['a'], expected a string"),
    "item_id a list": (heat(item_id=["a"]), "histories[1][2]: `item_id` is ['a'], expected a string"),
    "categories a string": (heat(categories="Film"), "histories[1][2]: `categories` is 'Film', expected a list of paths"),
    "categories one path": (heat(categories=["Film"]), "histories[1][2]: `categories` is ['Film'], expected a list of"),
    "categories a number": (heat(categories=3), "histories[1][2]: `categories` is 3, expected a list of paths"),
    "categories of numbers": (heat(categories=[[3]]), "histories[1][2]: `categories` is [[3]], expected a list of paths"),
    "categories too deep": (heat(categories=[[["Film"]]]), "histories[1][2]: `categories` is [[['Film']]], expected a"),
    "nothing described": ({"timestamp": 5, "value": 3.0}, "histories[1][2] describes nothing, expected a `title`"),
    "blank title": ({"timestamp": 5, "title": " ", "text": "\n"}, "histories[1][2] describes nothing, expected"),
    "latitude alone": (heat(latitude=40.0), "histories[1][2]: `latitude`, `longitude` are (40.0, None), expected degr"),
    "longitude alone": (heat(longitude=4.0), "histories[1][2]: `latitude`, `longitude` are (None, 4.0), expected degr"),
    "latitude beyond": (heat(latitude=90.5, longitude=0), "histories[1][2]: `latitude`, `longitude` are (90.5, 0), exp"),
    "longitude beyond": (heat(latitude=0, longitude=-181), "histories[1][2]: `latitude`, `longitude` are (0, -181), ex"),
    "place NaN": (heat(latitude=float("nan"), longitude=0.0), "histories[1][2]: `latitude`, `longitude` are (nan, 0.0)"),
    "place words": (heat(latitude="40", longitude="4"), "histories[1][2]: `latitude`, `longitude` are ('40', '4')"),
}  # fmt: skip


def refused(processor, message: str, **arguments) -> None:
    with pytest.raises(ValueError) as caught:
        processor(**arguments)
    assert str(caught.value).startswith(message) and "\n" not in str(caught.value)


@pytest.mark.parametrize("case", BAD_EVENTS)
def test_bad_events_are_named(processor, case):
    event, message = BAD_EVENTS[case]
    refused(processor, message, histories=[[heat()], [jazz(), heat(), event]])


BAD_CANDIDATES = {
    "no dictionary": (7, "candidates[0][1] is 7, expected a dictionary"),
    "no text": ({"item_id": "10"}, "candidates[0][1] has no text, expected a `title` or a `text`"),
    "blank text": ({"title": " ", "text": ""}, "candidates[0][1] has no text, expected a `title` or a `text`"),
    "title a number": ({"title": 5}, "candidates[0][1]: `title` is 5, expected a string"),
    "text a number": ({"text": 5}, "candidates[0][1]: `text` is 5, expected a string"),
    "categories": ({"title": "a", "categories": "Film"}, "candidates[0][1]: `categories` is 'Film', expected a list"),
}


@pytest.mark.parametrize("case", BAD_CANDIDATES)
def test_bad_candidates_are_named(processor, case):
    candidate, message = BAD_CANDIDATES[case]
    refused(processor, message, histories=[[heat()]], candidates=[[{"title": "a"}, candidate]])


BAD_CALLS = {
    "no histories": ({}, "`histories` is no list of lists of events"),
    "one history": ({"histories": [heat()]}, "`histories` is no list of lists of events, expected one list per user"),
    "candidates of one user": (
        {"histories": [[heat()], []], "candidates": [[{"title": "a"}]]},
        "`candidates` is [[{'title': 'a'}]], expected one entry for each of 2 users",
    ),
    "candidates None for one": (
        {"histories": [[heat()], []], "candidates": [[{"title": "a"}], None]},
        "candidates[1] is None, expected a list",
    ),
    "too many moments": ({"histories": [[heat()]], "at": [1, 2]}, "`at` is [1, 2], expected one entry for each of 1"),
    "one moment": ({"histories": [[heat()]], "at": 5}, "`at` is 5, expected one entry for each of 1 users"),
    "moment words": ({"histories": [[], [heat()]], "at": [5, "soon"]}, "at[1] is 'soon', expected seconds since 1970"),
    "moment negative": ({"histories": [[heat()]], "at": [-5]}, "at[0] is -5, expected seconds since 1970, 0 or more"),
    "unknown keyword": (
        {"histories": [[heat()]], "items": [], "candidate": []},
        "unknown arguments ['candidate', 'items'], expected histories, candidates, at",
    ),
    "numpy": ({"histories": [[heat()]], "return_tensors": "np"}, "`return_tensors` is 'np', expected \"pt\""),
}


@pytest.mark.parametrize("case", BAD_CALLS)
def test_bad_calls_are_named(processor, case):
    arguments, message = BAD_CALLS[case]
    refused(processor, message, **arguments)


def test_no_text_is_tokenised_twice(processor):
    """The same thing in several histories, twice in one, and among the candidates is one item with one text."""
    batch = processor(
        histories=[[heat(1), jazz(2), heat(3)], [jazz(5), heat(6)]],
        candidates=[
            [{"title": "heat", "categories": CRIME}],
            [{"title": "novel"}, {"title": "heat", "categories": CRIME}],
        ],
    )
    assert texts_of(processor, batch) == ["heat. film, crime", "jazz album. music, jazz", "novel"]
    assert batch["item_text_index"].tolist() == [0, 1, 2]
    assert batch["history"].tolist() == [[0, 1, 0], [1, 0, -1]]
    assert batch["candidates"].tolist() == [[0, -1], [2, 0]]


def test_own_words_share_the_table_of_texts(processor):
    batch = processor(
        histories=[[{"title": "novel", "timestamp": 1, "text": "great"}, {"title": "great", "timestamp": 2}]]
    )
    assert texts_of(processor, batch) == ["novel", "great"]
    assert batch["history_text"].tolist() == [[1, -1]]
    assert batch["item_text_index"].tolist() == [0, 1]


def test_one_text_with_two_ids_is_two_items(processor):
    batch = processor(histories=[[heat(1, item_id="10"), heat(2, item_id="20"), heat(3), heat(4, item_id="unknown")]])
    assert len(batch["item_input_ids"]) == 1
    assert batch["item_text_index"].tolist() == [0, 0, 0]
    assert batch["item_ids"].tolist() == [0, 1, -1]
    assert batch["history"].tolist() == [[0, 1, 2, 2]]


def test_one_text_with_other_categories_is_another_item(processor):
    """The names are in the text in the same order, yet the paths differ."""
    first, second = [["Film"], ["Crime"]], [["Film", "Crime"]]
    batch = processor(histories=[[heat(1, categories=first), heat(2, categories=second)]])
    assert len(batch["item_input_ids"]) == 1
    assert batch["history"].tolist() == [[0, 1]]
    assert memberships(batch)[0] != memberships(batch)[1]


def test_numbers_as_ids(processor):
    batch = processor(histories=[[heat(1, item_id=20)]], candidates=[[{"title": "heat", "item_id": 10}]])
    assert batch["item_ids"].tolist() == [1, 0]


def test_figures_of_numpy_are_figures(processor):
    """Rows of a data frame come with numpy's numbers."""
    plain = heat(7, value=4, latitude=40.5, longitude=-74.0, item_id=20)
    numpy = heat(
        np.int64(7), value=np.float32(4), latitude=np.float32(40.5), longitude=np.float32(-74), item_id=np.int64(20)
    )
    first, second = processor(histories=[[plain]]), processor(histories=[[numpy]])
    for name in first:
        torch.testing.assert_close(first[name], second[name], equal_nan=True)
    assert processor(histories=[[heat(value=np.int64(4))]])["history_values"].tolist() == [[4.0]]


def memberships(batch) -> list[dict[int, float]]:
    return [
        {node: pytest.approx(weight) for node, weight in zip(nodes, weights, strict=True) if node >= 0}
        for nodes, weights in zip(
            batch["item_domains"].tolist(), batch["item_domain_weights"].double().tolist(), strict=True
        )
    ]


def test_items_carry_their_domains(processor):
    batch = processor(
        histories=[[heat(1), heat(2, categories=BOTH), heat(3, categories=[["Film"]]), {"title": "a", "timestamp": 4}]]
    )
    assert memberships(batch) == [TREE.membership(paths) for paths in (CRIME, BOTH, [["Film"]], [])]
    assert (batch["item_domain_weights"][batch["item_domains"] < 0] == 0).all()


def test_events_are_sorted_by_time_and_ties_keep_their_order(processor):
    titles = ["novel", "food", "bar", "park"]
    events = [{"title": title, "timestamp": time} for title, time in zip(titles, [9, 3, 9, 3], strict=True)]
    batch = processor(histories=[events])
    assert batch["history_times"].tolist() == [[3, 3, 9, 9]]
    assert [texts_of(processor, batch)[batch["item_text_index"][row]] for row in batch["history"][0]] == [
        "food", "park", "novel", "bar",
    ]  # fmt: skip


@given(st.lists(st.integers(0, 6), max_size=9), st.integers(0, 6))
@settings(max_examples=40, deadline=None)
def test_any_history_arrives_sorted_cut_and_counted(processor, times, moment):
    """Against Python's stable sort: the last events up to the moment one by one, those before them as counts."""
    kinds = [CRIME, JAZZ, BOTH]
    events = [
        {"title": f"item {number}", "categories": kinds[number % 3], "timestamp": time, "value": number}
        for number, time in enumerate(times)
    ]
    batch = processor(histories=[events, []], at=[moment, None])
    expected = sorted(
        (event for event in events if event["timestamp"] <= moment), key=lambda event: event["timestamp"]
    )
    older, kept = expected[:-MAX_HISTORY], expected[-MAX_HISTORY:]
    valid = batch["history"][0] >= 0
    assert batch["history_values"][0, valid].tolist() == [event["value"] for event in kept]
    assert batch["history_times"][0, valid].tolist() == [event["timestamp"] for event in kept]
    assert batch["query_times"].tolist() == [moment, 0]
    assert batch["history_events"].tolist() == [len(older), 0]
    counts = torch.zeros(2, len(TREE))
    for event in older:
        for node, weight in TREE.membership(event["categories"]).items():
            counts[0, node] += weight
    torch.testing.assert_close(batch["history_counts"], counts)
    days = (moment - expected[0]["timestamp"]) / 86400 if expected else 0.0
    assert batch["history_days"].tolist() == [pytest.approx(days), 0]


def test_older_events_without_an_item_are_counted_as_events_alone(processor):
    own = [{"timestamp": time, "text": "what a duel"} for time in range(3)]
    batch = processor(histories=[[heat(0), *own, *(jazz(time) for time in range(10, 10 + MAX_HISTORY))]])
    assert batch["history_events"].tolist() == [4]
    counts = batch["history_counts"][0]
    assert counts[TREE.depth == 0].sum() == 1 and counts[TREE.index["Film > Crime"]] == 1


def test_a_moment_between_two_users(processor):
    batch = processor(histories=[[heat(10), jazz(20)], [heat(10), jazz(20)], [heat(10)]], at=[10, None, 5])
    assert (batch["history"] != -1).sum(1).tolist() == [1, 2, 0]
    assert batch["query_times"].tolist() == [10, 20, 5]


@pytest.mark.parametrize(
    "date",
    ["1997-03-01", "1997-03-01T00:00:00", "1997-03-01 00:00:00+00:00", "1997-03-01T01:00:00+01:00", "1997-03-01T00:00:00Z"],
)  # fmt: skip
def test_dates_are_seconds(processor, date):
    first = processor(histories=[[heat(date)]], at=[date])
    second = processor(histories=[[heat(857174400)]], at=[857174400])
    for name in first:
        torch.testing.assert_close(first[name], second[name], equal_nan=True)
    assert first["history_times"].tolist() == [[857174400]] and first["history_times"].dtype == torch.int64


def test_seconds_stay_exact(processor):
    """float32 would be off by a minute."""
    assert processor(histories=[[heat(1_700_000_001)]])["history_times"].tolist() == [[1_700_000_001]]


def test_own_words_alone_are_an_event_without_an_item(processor):
    batch = processor(histories=[[{"timestamp": 1, "text": " great "}, heat(2)], [{"timestamp": 1, "text": "great"}]])
    assert batch["history"].tolist() == [[-2, 0], [-2, -1]]
    great = texts_of(processor, batch).index("great")
    assert batch["history_text"].tolist() == [[great, -1], [great, -1]]


def test_what_an_event_may_carry(processor):
    batch = processor(
        histories=[[heat(1, value=3, action="buy", latitude=40, longitude=-74.5), heat(2, action="unknown")], []]
    )
    assert batch["history_actions"].tolist() == [[1, -1], [-1, -1]]
    assert batch["history_values"][0, 0] == 3 and batch["history_values"].isnan().sum() == 3
    assert batch["history_places"][0, 0].tolist() == [40, -74.5]
    assert batch["history_places"].isnan().all(-1).sum() == 3


def test_nothing_at_all(processor):
    batch = processor(histories=[[], []])
    assert batch["history"].tolist() == [[-1], [-1]]
    assert batch["item_input_ids"].numel() > 0
    assert batch["history_counts"].tolist() == [[0.0] * len(TREE)] * 2
    assert batch["query_times"].tolist() == [0, 0]


def test_empty_candidates(processor):
    batch = processor(histories=[[heat()], [heat()]], candidates=[[], [{"title": "novel"}]])
    assert batch["candidates"].tolist() == [[-1], [1]]
    assert processor(histories=[[heat()]], candidates=[[]])["candidates"].shape == (1, 0)


def test_long_texts_are_cut(processor):
    batch = processor(histories=[[heat(item_text="love " * 500)]])
    assert batch["item_input_ids"].shape == (1, processor.max_text_tokens)


def test_without_domains_and_actions(tiny_bert):
    plain = InterestProcessor(AutoTokenizer.from_pretrained(tiny_bert))
    batch = plain(histories=[[heat(action="buy")]])
    assert not {"item_domains", "item_domain_weights", "history_counts", "history_actions"} & batch.keys()


def test_all_memberships_padded():
    nodes, weights = pad_memberships([{3: 1.0, 5: 0.5}, {}, {0: 1.0}])
    assert nodes.tolist() == [[3, 5], [-1, -1], [0, -1]] and weights.tolist() == [[1, 0.5], [0, 0], [1, 0]]
    assert pad_memberships([])[0].shape == (0, 1)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("Heat (1995)",), "Heat (1995)"),
        (("Heat.", "A duel.", [["Film", "Crime"], ["Film", "Drama"]]), "Heat. Film, Crime, Drama. A duel."),
        ((None, " A duel. "), "A duel."),
        ((" ", None, [["Film"]]), "Film"),
        ((None,), ""),
        (("", "", []), ""),
    ],
)
def test_item_sentences(arguments, sentence):
    assert item_sentence(*arguments) == sentence


@pytest.mark.parametrize("backbone", ["tiny_bert", "tiny_llama"])
@pytest.mark.parametrize("loader", [InterestProcessor, AutoProcessor])
def test_save_and_load(request, tmp_path, backbone, loader):
    tokenizer = AutoTokenizer.from_pretrained(request.getfixturevalue(backbone))
    processor = InterestProcessor(
        tokenizer, TREE.nodes, ["10", "20"], ["view"], max_history=5, max_text_tokens=9, time_unit="order"
    )
    processor.save_pretrained(tmp_path)
    loaded = loader.from_pretrained(tmp_path)
    assert type(loaded) is InterestProcessor
    assert loaded.to_dict() == processor.to_dict()
    for name in ("domains", "item_ids", "actions", "max_history", "max_text_tokens", "time_unit"):
        assert getattr(loaded, name) == getattr(processor, name), name
    arguments = {
        "histories": [[heat(n, item_id="20") for n in range(7)], [jazz()]],
        "candidates": [[], [{"title": "b"}]],
    }
    first, second = processor(**arguments), loaded(**arguments)
    assert first.keys() == second.keys()
    for name in first:
        torch.testing.assert_close(first[name], second[name], equal_nan=True, msg=name)
    saved = json.loads((tmp_path / "processor_config.json").read_text())
    assert not {"tree", "item_index"} & saved.keys()


def test_a_decoders_tokenizer_pads_on_the_right(tiny_llama):
    """Its padding token may be the end token, or missing, and its padding side the left one: the mask tells the text."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    tokenizer.padding_side, tokenizer.pad_token = "left", None
    processor = InterestProcessor(tokenizer)
    assert processor.tokenizer.pad_token == "<|endoftext|>"
    batch = processor(
        histories=[[{"title": "a", "timestamp": 1}, {"title": "crime drama comedy film", "timestamp": 2}]]
    )
    mask = batch["item_attention_mask"]
    assert mask[0, 0] == 1 and mask[0, -1] == 0 and (mask.diff(dim=1) <= 0).all()


@pytest.mark.parametrize("backbone", ["tiny_bert", "tiny_llama"])
def test_empty_histories_are_answered(request, backbone):
    """A tokenizer without a start token makes nothing of an empty text; the model is asked all the same."""
    folder = request.getfixturevalue(backbone)
    torch.manual_seed(0)
    model = InterestModel.from_text_pretrained(str(folder), domains=TREE, hidden_size=16, intermediate_size=16)
    processor = InterestProcessor.from_model(model, AutoTokenizer.from_pretrained(folder))
    with torch.no_grad():
        alone = model(**processor(histories=[[]]))
        beside = model(**processor(histories=[[], [heat()]], candidates=[[{"title": "novel"}], []]))
    assert alone.domain_interest.isfinite().all() and beside.ranking_scores[0].isfinite().all()
    torch.testing.assert_close(alone.domain_interest[0], beside.domain_interest[0])
    torch.testing.assert_close(alone.future_interest[0], beside.future_interest[0])


@pytest.mark.parametrize("backbone", ["tiny_bert", "tiny_llama"])
def test_what_is_not_seen_is_not_encoded(request, backbone):
    """Texts of events after the moment, or older than `max_history`, never reach the text model."""
    processor = InterestProcessor(
        AutoTokenizer.from_pretrained(request.getfixturevalue(backbone)), domains=TREE.nodes, max_history=2
    )
    events = [{"title": f"item {number}", "timestamp": number, "categories": CRIME} for number in range(6)]
    batch = processor(histories=[events], at=[4])
    assert batch["history_events"].tolist() == [3] and batch["history_counts"][0, TREE.index["Film"]] == 3
    assert len(batch["item_input_ids"]) == 2


def test_a_model_and_its_processor_agree(tiny_bert):
    model = InterestModel.from_text_pretrained(
        str(tiny_bert), domains=TREE, hidden_size=16, actions=["view"], max_history=3, num_items=2
    )
    processor = InterestProcessor.from_model(model, AutoTokenizer.from_pretrained(tiny_bert), item_ids=[1, 2])
    assert processor.domains == model.config.domains and processor.item_ids == ["1", "2"]
    assert (processor.actions, processor.max_history, processor.time_unit) == (["view"], 3, "seconds")
    accepted = set(re.findall(r"\w+", str(InterestModel.forward.__annotations__.keys())))
    assert set(processor(histories=[[heat()]], candidates=[[]])) <= accepted

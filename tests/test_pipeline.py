"""`pipeline("user-interest")`: the model's figures in plain words, from a folder and without the package."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, pipeline

from interest_lm import InterestModel, InterestProcessor
from interest_lm.pipeline_interest import (
    CUSTOM_PIPELINES,
    STEADY_Z,
    TEXTS_AT_ONCE,
    InterestPipeline,
    change,
    future_spread,
    interest_level,
    interest_trend,
    rate_interval,
    register_interest_pipeline,
)
from interest_lm.publishing.export import save_checkpoint
from interest_lm.taxonomy_interest import DomainTree


TREE = DomainTree.from_paths([[["Film", "Crime"]], [["Film", "Drama"]], [["Music", "Jazz"]], [["Music"]], [["Food"]]])
HISTORY = [
    {"title": "Heat (1995)", "categories": [["Film", "Crime"]], "timestamp": 857131200, "item_id": "a"},
    {"title": "Jazz album", "categories": [["Music", "Jazz"]], "timestamp": "1997-03-05", "text": "what a duel"},
    {"title": "Casino", "categories": [["Film", "Crime"]], "timestamp": 858131200},
]
CANDIDATES = [
    {"title": "Casino"},
    {"title": "Heat (1995)", "item_id": "a"},
    {"text": "rock guitar"},
    {"title": "Food bar", "text": "coffee", "item_id": 7},
]
REQUESTS = [
    {"history": HISTORY, "candidates": CANDIDATES, "at": 860000000, "top_k": 2},
    {"history": []},
    {"history": HISTORY[:1], "candidates": CANDIDATES[:1], "horizon_days": 7},
    {"history": HISTORY[::-1], "candidates": [], "at": "1997-03-06"},
]


def stirred(folder, **more) -> tuple[InterestModel, InterestProcessor]:
    """A model whose zero-initialised parts are stirred, so that every part speaks, and its processor."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_items": 2, "max_history": 7}
    model = InterestModel.from_text_pretrained(str(folder), **({"domains": TREE} | sizes | more))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not name.startswith("text_model") and float(parameter.abs().sum()) == 0:
                parameter.normal_(std=0.1)
        if model.domain_head is not None:
            model.domain_head.concentration_slope.fill_(0.5)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    return model.eval(), InterestProcessor.from_model(model, tokenizer, item_ids=["a", "b"])


@pytest.fixture(scope="module", params=["tiny_bert", "tiny_llama"])
def parts(request):
    return stirred(request.getfixturevalue(request.param))


@pytest.fixture(scope="module")
def pipe(parts) -> InterestPipeline:
    model, processor = parts
    return pipeline("user-interest", model=model, processor=processor, device="cpu")


def test_trends_are_told_only_where_change_is_reliable(pipe, monkeypatch):
    assert interest_trend(5.0) == "growing" and interest_trend(5.0, reliable=False) == "steady"
    tops = np.flatnonzero(TREE.depth == 0)
    interest, future = np.zeros(len(TREE)), np.zeros(len(TREE))
    interest[tops], future[tops] = 1 / len(tops), np.linspace(0.1, 0.9, len(tops)) / (0.5 * len(tops))
    output = {
        "domain_interest": interest[None],
        "future_interest": future[None, None],
        "concentration": np.full((1, 1, len(TREE)), 5000.0),
    }
    found = pipe._domains(output, 0, 0)
    monkeypatch.setattr(pipe.model.config, "change_is_reliable", False)
    steady = pipe._domains(output, 0, 0)
    assert {"growing", "fading"} <= {entry["trend"] for entry in found}
    assert {entry["trend"] for entry in steady} == {"steady"}
    assert [entry["change"] for entry in found] == [entry["change"] for entry in steady]


def test_reasons_are_what_the_forecast_loses_without_an_event(pipe):
    """Against plain requests without the event; the order of the request does not matter, later events are no reasons."""
    request = {"history": HISTORY, "at": "1997-03-06"}  # the third event comes later
    answer = pipe(request | {"why": 2})
    plain = pipe(request)
    for entry, bare in zip(answer["domains"], plain["domains"], strict=True):
        same({key: value for key, value in entry.items() if key != "because"}, bare)
        assert len(entry["because"]) <= 2 and all(event["event"] in (0, 1) for event in entry["because"])
    assert any(entry["because"] for entry in answer["domains"])
    for left_out in (0, 1):
        gone = by_domain(pipe(request | {"history": HISTORY[:left_out] + HISTORY[left_out + 1 :]}))
        for entry in answer["domains"]:
            added = entry["future"] - gone[entry["domain"]]["future"]
            found = [event["contribution"] for event in entry["because"] if event["event"] == left_out]
            assert found == pytest.approx([added] if added > 0 else [], abs=1e-6)
    backwards = by_domain(pipe(request | {"history": HISTORY[::-1], "why": 2}))
    for entry in answer["domains"]:
        events = [2 - event["event"] for event in backwards[entry["domain"]]["because"]]
        assert events == [event["event"] for event in entry["because"]]
    assert all(entry["because"] == [] for entry in pipe({"history": [], "why": 1})["domains"])
    titles = {event["title"] for entry in answer["domains"] for event in entry["because"]}
    assert titles <= {"Heat (1995)", "Jazz album"}
    with pytest.raises(ValueError, match="`why` is 0, expected 1 or more"):
        pipe(request | {"why": 0})


def by_domain(answer: dict) -> dict[str, dict]:
    return {entry["domain"]: entry for entry in answer["domains"]}


def same(first, second, tolerance: float = 1e-5) -> None:
    """Equal but for rounding in floats."""
    assert type(first) is type(second)
    if isinstance(first, dict):
        assert first.keys() == second.keys()
        for key in first:
            same(first[key], second[key], tolerance)
    elif isinstance(first, list):
        assert len(first) == len(second)
        for one, other in zip(first, second, strict=True):
            same(one, other, tolerance)
    elif isinstance(first, float):
        assert first == pytest.approx(second, abs=tolerance, rel=1e-4)
    else:
        assert first == second


def test_the_task_is_registered(pipe):
    assert type(pipe) is InterestPipeline
    assert pipe.task == "user-interest"


def test_answers_are_the_models_figures(pipe, parts):
    model, processor = parts
    answer = pipe({"history": HISTORY, "candidates": CANDIDATES, "at": 860000000})
    with torch.no_grad():
        output = model(**processor(histories=[HISTORY], candidates=[CANDIDATES], at=[860000000]))
    reference = model.config.horizons.index(model.config.reference_horizon)
    entries = by_domain(answer)
    assert list(entries) != TREE.ids and set(entries) == set(TREE.ids)
    for node, name in enumerate(TREE.ids):
        assert entries[name]["interest"] == pytest.approx(float(output.domain_interest[0, node]), abs=1e-5)
        assert entries[name]["future"] == pytest.approx(float(output.future_interest[0, reference, node]), abs=1e-5)
        assert entries[name]["change"] == pytest.approx(float(output.change_rate[0, node]), abs=1e-4)
    assert answer["intensity"] == pytest.approx(float(output.intensity[0, reference]), rel=1e-4)
    order = output.ranking_scores[0].argsort(descending=True).tolist()
    assert [entry["title"] for entry in answer["ranking"]] == [
        ["Casino", "Heat (1995)", "rock guitar", "Food bar"][number] for number in order
    ]
    for entry, number in zip(answer["ranking"], order, strict=True):
        assert entry["score"] == pytest.approx(float(output.ranking_scores[0, number]), abs=1e-4)
        assert entry["overall"] == pytest.approx(float(output.logits[0, number].sigmoid()), abs=1e-5)
        assert entry.get("item_id") == CANDIDATES[number].get("item_id")


def test_an_answer_is_json_and_strongest_first(pipe):
    answer = pipe(REQUESTS[0])
    assert json.loads(json.dumps(answer, allow_nan=False)) == answer
    shares = [entry["interest"] for entry in answer["domains"]]
    assert shares == sorted(shares, reverse=True)
    scores = [entry["score"] for entry in answer["ranking"]]
    assert scores == sorted(scores, reverse=True) and len(scores) == 2
    assert scores == [entry["score"] for entry in pipe(REQUESTS[0] | {"top_k": 4})["ranking"]][:2]


def test_shares_sum_down_the_tree(pipe):
    entries = by_domain(pipe(REQUESTS[0]))
    for field in ("interest", "future"):
        for parent in [None, *(node["id"] for node, leaf in zip(TREE.nodes, TREE.is_leaf) if not leaf)]:
            children = [entries[node["id"]][field] for node in TREE.nodes if node["parent"] == parent]
            assert sum(children) == pytest.approx(1.0 if parent is None else entries[parent][field], abs=1e-5)


def test_words_follow_the_figures(pipe):
    seen = set()
    for request in REQUESTS:
        for entry in pipe(request)["domains"]:
            low, high = entry["interval"]
            assert -1 <= low <= entry["change"] <= high <= 1
            assert entry["change"] == pytest.approx(change(entry["interest"], entry["future"]))
            assert entry["level"] == interest_level(entry["interest"])
            assert entry["trend"] == ("steady" if low <= 0 <= high else "growing" if low > 0 else "fading")
            seen.add(entry["level"])
    assert seen >= {"high", "medium"}


def test_confident_forecasts_are_not_steady(parts):
    """Nothing is steady where the concentration is huge: the words depend on it, not on the rate alone."""
    model, processor = parts
    pipe = InterestPipeline(model=model, processor=processor, task="user-interest", device="cpu")
    loose = by_domain(pipe(REQUESTS[0]))
    old = model.domain_head.concentration.detach().clone()
    try:
        model.domain_head.concentration.data.fill_(9.0)
        sure = by_domain(pipe(REQUESTS[0]))
    finally:
        model.domain_head.concentration.data.copy_(old)
    for name, entry in sure.items():
        assert entry["change"] == pytest.approx(loose[name]["change"])
        assert np.diff(entry["interval"]) < np.diff(loose[name]["interval"])
    assert {entry["trend"] for entry in sure.values()} >= {"growing", "fading"}


def test_levels_have_their_limits():
    assert [interest_level(share) for share in (0.2, 0.1999, 0.05, 0.0499, 0.0)] == [
        "high", "medium", "medium", "low", "low",
    ]  # fmt: skip


def test_intervals_are_those_of_the_profile():
    """One definition: the profile of the command and the pipeline say the same of the same figures."""
    from interest_lm.recommendation import profile

    for function in (change, future_spread, rate_interval, interest_level):
        assert getattr(profile, function.__name__) is function


def test_an_interval_holds_zero_where_the_change_is_steady():
    for shift in np.linspace(-3, 3, 61) + 1e-3:
        future = 1 / (1 + np.exp(-(np.log(0.3 / 0.7) + shift * 0.25)))
        low, high, z = rate_interval(0.3, float(future), 0.25)
        assert z == pytest.approx(shift)
        assert (low <= 0 <= high) == (abs(z) <= STEADY_Z) == (interest_trend(z) == "steady")


def test_a_horizon_changes_future_change_and_intensity_alone(pipe, parts):
    model, processor = parts
    request = {"history": HISTORY, "at": 860000000}
    answers = {days: pipe(request | {"horizon_days": days}) for days in (1, 7.0, 28)}
    assert pipe(request) == answers[28]
    with torch.no_grad():
        output = model(**processor(histories=[HISTORY], at=[860000000]))
    spreads = future_spread(output.future_interest[0].double().numpy(), output.concentration[0].double().numpy(), TREE)
    for position, answer in enumerate(answers.values()):
        assert answer["intensity"] == pytest.approx(float(output.intensity[0, position]), rel=1e-4)
        for name, entry in by_domain(answer).items():
            node = TREE.index[name]
            assert entry["future"] == pytest.approx(float(output.future_interest[0, position, node]), abs=1e-5)
            low, high, _ = rate_interval(entry["interest"], entry["future"], spreads[position, node])
            assert entry["interval"] == pytest.approx([low, high], abs=1e-4)
            r = entry["change"]
            assert entry["interest"] * (1 + r) / (1 - r) == pytest.approx(entry["future"], abs=1e-6)
            assert entry["interest"] == by_domain(answers[28])[name]["interest"]
    assert answers[1]["domains"] != answers[7.0]["domains"] != answers[28]["domains"]


def test_any_horizon_is_answered_and_batched(pipe):
    request = {"history": HISTORY, "candidates": CANDIDATES, "at": 860000000}
    answers = pipe([request | {"horizon_days": days} for days in (0.5, 1, 3, 7, 14.5, 28, 30)], batch_size=4)
    same(answers, [pipe(request | {"horizon_days": days}) for days in (0.5, 1, 3, 7, 14.5, 28, 30)])
    by_days = dict(zip((0.5, 1, 3, 7, 14.5, 28, 30), answers, strict=True))
    expected = {days: answer["intensity"] for days, answer in by_days.items()}
    assert expected[0.5] == pytest.approx(expected[1] / 2, rel=1e-4)
    assert expected[30] == pytest.approx(expected[28] * 30 / 28, rel=1e-4)
    for low, middle, high in ((1, 3, 7), (7, 14.5, 28)):
        assert min(expected[low], expected[high]) <= expected[middle] <= max(expected[low], expected[high])
    for answer in answers:
        tops = [entry for entry in answer["domains"] if " > " not in entry["domain"]]
        assert sum(entry["future"] for entry in tops) == pytest.approx(1, abs=1e-5)
        same(answer["ranking"], answers[0]["ranking"])
    assert by_days[30]["domains"] != by_days[28]["domains"]


@pytest.mark.parametrize("batch_size", [1, 3, 10])
def test_a_list_is_answered_like_its_requests(pipe, batch_size):
    answers = pipe(REQUESTS, batch_size=batch_size)
    assert isinstance(answers, list)
    same(answers, [pipe(request) for request in REQUESTS])
    assert [len(answer["ranking"]) for answer in answers] == [2, 0, 1, 0]
    assert pipe([]) == []


def test_a_generator_is_read_as_answers_are_taken(pipe):
    taken = []

    def requests():
        for number, request in enumerate(REQUESTS):
            taken.append(number)
            yield request

    answers = pipe(requests(), batch_size=1)
    first = next(answers)
    assert len(taken) < len(REQUESTS)
    same([first, *answers], pipe(REQUESTS))


def test_events_after_the_moment_are_not_seen(pipe):
    early = pipe({"history": HISTORY, "at": "1997-03-02"})
    same(early, pipe({"history": HISTORY[:1], "at": "1997-03-02"}))
    assert early["domains"] != pipe({"history": HISTORY})["domains"]


def test_many_texts_are_encoded_in_parts(pipe, parts, monkeypatch):
    model, processor = parts
    sizes = []
    encode = model.encode_texts
    monkeypatch.setattr(model, "encode_texts", lambda ids, mask: (sizes.append(len(ids)), encode(ids, mask))[1])
    candidates = [{"title": f"film {number}"} for number in range(TEXTS_AT_ONCE + 5)]
    answer = pipe({"history": HISTORY, "candidates": candidates, "top_k": 3})
    assert max(sizes) <= TEXTS_AT_ONCE and len(sizes) == 2
    with torch.no_grad():
        scores = model(**processor(histories=[HISTORY], candidates=[candidates])).ranking_scores[0]
    same([entry["score"] for entry in answer["ranking"]], scores.topk(3).values.double().tolist(), tolerance=1e-4)


def test_arguments_of_the_call_are_defaults_of_the_requests(pipe):
    request = {"history": HISTORY, "candidates": CANDIDATES}
    assert pipe(request, top_k=1, horizon_days=1) == pipe(request | {"top_k": 1, "horizon_days": 1})
    assert pipe(request | {"top_k": 3}, top_k=1) == pipe(request | {"top_k": 3})


BAD = {
    "no history": ({"candidates": CANDIDATES}, "`history` is None, expected a list of events"),
    "history is one event": ({"history": HISTORY[0]}, "`history` is {'title': 'Heat (1995)'"),
    "no dictionary": ("Heat", "'Heat' is no request, expected a dictionary"),
    "unknown key": ({"history": [], "horizon": 7}, "unknown key 'horizon', expected history, candidates, at"),
    "candidates": ({"history": [], "candidates": "Heat"}, "`candidates` is 'Heat', expected a list"),
    "no horizon": ({"history": [], "horizon_days": 0}, "`horizon_days` is 0, expected a number above 0"),
    "horizon of text": ({"history": [], "horizon_days": "30"}, "`horizon_days` is '30', expected a number above 0"),
    "horizon is no number": (
        {"history": [], "horizon_days": float("nan")},
        "`horizon_days` is nan, expected a number above 0",
    ),
    "horizon is true": ({"history": [], "horizon_days": True}, "`horizon_days` is True, expected a number"),
    "top_k 0": ({"history": [], "top_k": 0}, "`top_k` is 0, expected 1 or more"),
    "top_k a half": ({"history": [], "top_k": 0.5}, "`top_k` is 0.5, expected 1 or more"),
    "value": ({"history": [HISTORY[0], HISTORY[1] | {"value": float("nan")}]}, "history[1]: `value` is nan"),
    "time": ({"history": [HISTORY[0] | {"timestamp": "soon"}]}, "history[0]: `timestamp` is 'soon'"),
    "moment": ({"history": HISTORY, "at": "soon"}, "at is 'soon', expected seconds"),
    "candidate": ({"history": [], "candidates": [{"title": "Heat"}, {"item_id": "a"}]}, "candidates[1] has no text"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_requests_are_named(pipe, case):
    request, message = BAD[case]
    with pytest.raises(ValueError) as alone:
        pipe(request)
    assert str(alone.value).startswith(message) and "\n" not in str(alone.value)
    for batch_size in (1, 3):
        with pytest.raises(ValueError) as listed:
            pipe([REQUESTS[0], request], batch_size=batch_size)
        assert str(listed.value) == f"request 1: {alone.value}"


def test_a_model_that_counts_in_events(tiny_bert):
    model, processor = stirred(tiny_bert, horizon_unit="events", horizons=[1, 10], reference_horizon=10)
    pipe = pipeline("user-interest", model=model, processor=processor, device="cpu")
    answer = pipe({"history": HISTORY})
    assert answer["intensity"] is None and len(answer["domains"]) == len(TREE)
    with pytest.raises(ValueError, match="`horizon_days` is 10, but this model counts in events"):
        pipe({"history": HISTORY, "horizon_days": 10})


def test_a_model_without_domains(tiny_bert):
    model, processor = stirred(tiny_bert, domains=None)
    pipe = pipeline("user-interest", model=model, processor=processor, device="cpu")
    answer = pipe({"history": HISTORY, "candidates": CANDIDATES})
    assert answer["domains"] == [] and len(answer["ranking"]) == 4 and answer["intensity"] > 0


def test_a_processor_is_needed(parts):
    with pytest.raises(ValueError, match="`processor` is None, expected the InterestProcessor"):
        InterestPipeline(model=parts[0], task="user-interest", device="cpu")


def test_a_model_in_training_answers_as_in_evaluation(pipe, parts):
    model, processor = parts
    before = pipe(REQUESTS[0])
    model.train()
    try:
        fresh = InterestPipeline(model=model, processor=processor, task="user-interest", device="cpu")
        same(fresh(REQUESTS[0]), before)
    finally:
        model.eval()


def test_a_checkpoint_answers_without_the_package(pipe, parts, tmp_path, run_without_package):
    """And so does what its pipeline saves."""
    folder = save_checkpoint(*parts, tmp_path / "model")
    assert json.loads((folder / "config.json").read_text())["custom_pipelines"] == CUSTOM_PIPELINES
    assert not hasattr(parts[0].config, "custom_pipelines")
    code = """
    import json, sys
    from transformers import pipeline

    for folder, copy in (sys.argv[1:3], sys.argv[2:4]):
        pipe = pipeline("user-interest", model=folder, trust_remote_code=True, device="cpu")
        assert type(pipe).__module__.startswith("transformers_modules"), type(pipe)
        answers = pipe(json.loads(sys.argv[4]), batch_size=3)
        pipe.save_pretrained(copy)
        print(json.dumps(answers))
    """
    output = run_without_package(code, folder, tmp_path / "second", tmp_path / "third", json.dumps(REQUESTS))
    first, second = (json.loads(line) for line in output.splitlines()[-2:])
    same(first, pipe(REQUESTS))
    same(second, first)
    for name in ("second", "third"):
        assert json.loads((tmp_path / name / "config.json").read_text())["custom_pipelines"] == CUSTOM_PIPELINES


def test_a_checkpoint_answers_with_the_package(pipe, parts, tmp_path, monkeypatch):
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))
    folder = save_checkpoint(*parts, tmp_path / "model")
    loaded = pipeline("user-interest", model=str(folder), trust_remote_code=True, device="cpu")
    assert type(loaded.model) is InterestModel
    same(loaded(REQUESTS), pipe(REQUESTS))
    direct = pipeline("user-interest", model=str(folder), pipeline_class=InterestPipeline, device="cpu")
    assert type(direct) is InterestPipeline
    same(direct(REQUESTS), pipe(REQUESTS))


def test_registering_twice_is_silent(caplog):
    register_interest_pipeline()
    assert not caplog.records

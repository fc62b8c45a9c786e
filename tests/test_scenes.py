"""Scenes: interest given a device, a country or a kind of day, from the log's column to the profile."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from test_evaluation_cases import DAY, make_log
from test_evaluation_next_event import cross_entropy
from transformers import AutoTokenizer

from interest_lm import InterestConfig, InterestModel, InterestProcessor
from interest_lm.data.log import InterestLog
from interest_lm.data.prepare import prepare
from interest_lm.evaluation.baselines.scenes import SceneBaselines
from interest_lm.evaluation.cases import scene_cases
from interest_lm.evaluation.folds import fold
from interest_lm.evaluation.predict import ModelPredictor
from interest_lm.evaluation.protocol import evaluate
from interest_lm.pipeline_interest import InterestPipeline
from interest_lm.recommendation.log_tensors import LogTensors, scene_positions
from interest_lm.recommendation.profile import interest_profile, print_profile
from interest_lm.taxonomy_interest import SCENE_RULES, scene_codes
from interest_lm.training.batches import BatchBuilder, PackedRows
from interest_lm.training.derive import common_scenes, config_for, fill_population, scene_ratios
from interest_lm.training.prior import fit_prior


WINDOWS = {"horizons": (3, 7), "horizon_unit": "days", "reference_horizon": 7, "progress": False, "bootstrap": 20}


def scene_log(users: int = 40, events: int = 60) -> InterestLog:
    """Half the people watch "a" on the phone and "b" on the television, the others the other way round; one event in ten is
    anything. Some hold the phone four times in five, some once."""
    rng = np.random.default_rng(0)
    items = pd.DataFrame(
        {
            "item_id": [f"i{n}" for n in range(12)],
            "categories": [[["ab"[n % 6 // 3], f"leaf{n % 6}"]] for n in range(12)],
        }
    )
    rows = []
    for user in range(users):
        time = np.sort(rng.choice(120, events, replace=False)) * DAY + 3600
        phone = rng.random(events) < (0.8 if user % 4 < 2 else 0.2)
        for moment, held in zip(time, phone, strict=True):
            leaf = 3 * int(held == bool(user % 2)) + int(rng.integers(3))
            leaf = int(rng.integers(6)) if rng.random() < 0.1 else leaf
            rows.append((f"u{user}", f"i{leaf + 6 * int(rng.integers(2))}", int(moment), ("tv", "phone")[int(held)]))
    frame = pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp", "scene"])
    facts = {"split": "global-time", "time": "seconds", "repeat_rate": 0.5, "recipe": "test"}
    facts |= {"validation_start": 84 * DAY, "test_start": 102 * DAY}
    frame["split"] = np.array(["train", "validation", "test"])[np.digitize(frame["timestamp"], [84 * DAY, 102 * DAY])]
    return InterestLog.from_frames(frame, items, facts)


@pytest.fixture(scope="module")
def log() -> InterestLog:
    return scene_log()


@pytest.fixture(scope="module")
def learnt(log, tiny_bert) -> ModelPredictor:
    """A model whose statistics alone were fitted, in a few steps."""
    torch.manual_seed(0)
    settings = config_for(log) | {"hidden_size": 16, "max_history": 64, "use_popularity": False}
    model = InterestModel.from_text_pretrained(str(tiny_bert), **settings)
    processor = InterestProcessor.from_model(model, AutoTokenizer.from_pretrained(tiny_bert))
    tensors = LogTensors(log, model, processor, texts=torch.zeros(50, 32), progress=False)
    rows = PackedRows(tensors, 64)
    fill_population(model, tensors)
    fit_prior(model, BatchBuilder(tensors, rows, completions=0, query_rows=4), rows, 40)
    return ModelPredictor(model.eval(), processor, log, tensors=tensors)


def figures_of(log: InterestLog, cases, answers: dict[str, np.ndarray]) -> dict[str, float]:
    return {name: cross_entropy(log, cases, shares) for name, shares in answers.items()}


def scene_entropy(cases, share: np.ndarray) -> float:
    return float(-np.log(share[np.arange(len(share)), cases.scene]).mean())


def test_model_and_baselines_find_what_the_scene_decides(log, learnt):
    tuning, cases = (scene_cases(log, fold(log, split)) for split in ("validation", "test"))
    made = SceneBaselines()
    made.tune(log, fold(log, "validation"), tuning)
    made.fit(log, fold(log, "test"))
    figures = figures_of(log, cases, made.interest(cases))
    assert figures["scene_counts"] < figures["mixture"] - 0.2 and figures["scene_mix"] < figures["scene_counts"] + 0.02
    assert figures["scene_population"] > figures["scene_counts"] + 0.2  # people differ
    answer = learnt.scenes(cases)
    assert cross_entropy(log, cases, answer["interest"]) < figures["mixture"] - 0.2
    assert cross_entropy(log, cases, answer["interest"]) < figures["scene_mix"] + 0.08
    chances = {name: scene_entropy(cases, share) for name, share in made.share(cases).items()}
    assert chances["scene_counts"] < chances["scene_population"] - 0.1
    assert scene_entropy(cases, answer["share"]) < chances["scene_counts"] + 0.03


def test_scenes_are_asked_at_the_last_event_with_the_true_scene(log):
    cases = scene_cases(log, fold(log, "test"))
    last = cases.histories.index[cases.histories.offsets[1:] - 1]
    assert (cases.time == log.timestamp[last]).all() and (last < cases.event).all()
    assert (cases.scene == log.scene[cases.event]).all() and len(cases.scene) > 100
    half = np.where(np.arange(log.num_events) % 2, log.scene, -1).astype(np.int16)
    some = scene_cases(replace(log, scene=half), fold(log, "test"))
    assert (some.event % 2 == 1).all() and 0 < len(some.event) < len(cases.event)


def test_the_evaluation_holds_scenes_with_every_scene_apart(log, learnt):
    results = evaluate(log, learnt, **WINDOWS, baselines=["mixture", "scene_counts", "scene_population"])
    scenes, share = results["scenes"], results["scene_share"]
    assert set(scenes["per_scene"]) == {"phone", "tv"}
    cases = [entry["cases"] for entry in scenes["per_scene"].values()]
    mean = np.average([entry["cross_entropy"] for entry in scenes["per_scene"].values()], weights=cases)
    assert scenes["cross_entropy"] == pytest.approx(mean) and scenes["skill"] is not None
    assert share["accuracy"] > 0.65 and set(share) == {"cross_entropy", "accuracy", "cases"}
    assert results["paired"]["scenes.cross_entropy"]["baseline"] in ("mixture", "scene_counts")
    bare = evaluate(make_log(), None, **WINDOWS, baselines=["mixture"])
    for group in ("scenes", "scene_share"):
        assert bare[group] is None and bare["reasons"][group] == "the log has no scenes, or a single one"


def test_shares_sum_within_every_scene_and_know_nothing_later(log, learnt):
    model, cases = learnt.model, scene_cases(log, fold(log, "validation"))
    given = learnt.scene_interest(cases)
    assert given["interest"].shape == (len(cases.user), 2, len(log.tree)) and given["share"].shape[1] == 2
    np.testing.assert_allclose(given["share"].sum(1), 1.0, atol=1e-5)
    np.testing.assert_allclose(given["interest"][..., log.tree.depth == 0].sum(-1), 1.0, atol=1e-5)
    for node in np.flatnonzero(log.tree.depth == 0):
        children = given["interest"][..., log.tree.parent == node].sum(-1)
        np.testing.assert_allclose(children, given["interest"][..., node], atol=1e-5)
    first = np.unique(cases.user, return_index=True)[1]
    changed = replace(log, scene=np.where(log.split > 0, 1 - log.scene, log.scene).astype(np.int16))
    tensors = LogTensors(changed, model, learnt.processor, texts=learnt.tensors.texts, progress=False)
    other = ModelPredictor(model, learnt.processor, changed, tensors=tensors).scene_interest(cases)
    np.testing.assert_allclose(other["interest"][first], given["interest"][first], atol=1e-6)
    assert np.abs(other["interest"] - given["interest"]).max() > 1e-3  # the history's scenes count
    later = learnt.scene_interest(replace(cases, time=cases.time + 7200))  # on the same day
    np.testing.assert_allclose(later["interest"], given["interest"], atol=1e-6)


def test_a_scene_that_training_never_saw_is_answered_with_the_mean(log, learnt):
    cases = scene_cases(log, fold(log, "test"))
    known = learnt.scenes(cases)
    strange = replace(log, scenes=["car", "phone", "tv"], scene=(log.scene + 1).astype(np.int16))
    predictor = ModelPredictor(learnt.model, learnt.processor, strange, tensors=learnt.tensors)
    answer = predictor.scenes(replace(cases, scene=cases.scene + 1))
    np.testing.assert_allclose(answer["interest"], known["interest"], atol=1e-6)
    assert answer["share"].shape[1] == 3 and answer["share"][:, 0].max() < 1e-5
    away = predictor.scenes(replace(cases, scene=np.zeros_like(cases.scene)))["interest"]
    np.testing.assert_allclose(away[:, log.tree.depth == 0].sum(1), 1.0, atol=1e-5)


def test_the_network_learns_what_a_scene_means(log, learnt, tiny_bert):
    """Labels that only the scene decides, whatever the person did in it before."""
    torch.manual_seed(1)
    settings = config_for(log) | {"hidden_size": 16, "max_history": 64, "use_popularity": False}
    model = InterestModel.from_text_pretrained(str(tiny_bert), **settings).train()
    rows = PackedRows(learnt.tensors, 64)
    builder = BatchBuilder(learnt.tensors, rows, cuts=2, completions=0, query_rows=4)
    optimizer = torch.optim.Adam(model.scene_head.parameters(), lr=0.01)
    leaves, losses = np.flatnonzero(log.tree.is_leaf), []
    for start in range(25):
        batch = builder([rows[(start + number) % len(rows)] for number in range(4)])
        leaf = leaves[5 * batch["event_scenes"].numpy()]
        labels = np.zeros_like(batch["event_counts"])
        labels[np.arange(len(leaf)), leaf] = labels[np.arange(len(leaf)), log.tree.parent[leaf]] = 1.0
        output = model(**(batch | {"event_counts": torch.from_numpy(labels)}))
        optimizer.zero_grad()
        output.loss.backward()
        optimizer.step()
        losses.append(float(output.losses["scene"]))
    assert losses[-1] < 0.6 * losses[0]
    unknown = batch | {"event_scenes": torch.full_like(batch["event_scenes"], -1)}
    assert float(model(**unknown).losses["scene"]) == 0.0


def test_processor_pipeline_and_profile_tell_scenes(log, learnt, capsys):
    def history(person: int) -> list[dict]:
        part = range(log.offsets[person], log.offsets[person + 1])
        return [
            {
                "title": "heat",
                "categories": log.items["categories"][log.item[event]],
                "timestamp": int(log.timestamp[event]),
                "scene": log.scenes[log.scene[event]],
            }
            for event in part
        ]

    batch = learnt.processor(histories=[history(0), history(1)[:3]])
    expected = scene_positions(log, learnt.model.config.scenes)[log.offsets[0] : log.offsets[1]]
    assert batch["history_scenes"][0].tolist() == expected.tolist()
    assert batch["history_scenes"][1].tolist()[3:] == [-1] * (batch["history_scenes"].shape[1] - 3)
    with pytest.raises(ValueError, match=r"histories\[0\]\[0\]: `scene` is 3, expected a string"):
        learnt.processor(histories=[[history(0)[0] | {"scene": 3}]])
    with pytest.raises(
        ValueError, match="`scene_rule` is 'daytime', expected one of weekend, hour_band, weekend_hour"
    ):
        InterestProcessor(learnt.processor.tokenizer, scenes=["a", "b"], scene_rule="daytime")
    pipe = InterestPipeline(model=learnt.model, processor=learnt.processor)
    for person in (0, 1):
        scenes = {row["scene"]: row for row in pipe({"history": history(person)})["scenes"]}
        favourite = {scene: row["domains"][0]["domain"][0] for scene, row in scenes.items()}
        assert favourite == ({"phone": "a", "tv": "b"} if person == 0 else {"phone": "b", "tv": "a"})
        assert scenes["phone"]["share"] + scenes["tv"]["share"] == pytest.approx(1.0)
    profile = interest_profile(learnt, log, "u0")
    assert [row["scene"] for row in profile["scenes"]] == ["phone", "tv"]
    assert profile["scenes"][0]["domains"][0]["domain"].startswith("a > ")
    print_profile(profile)
    assert "Given the scene" in capsys.readouterr().out


@pytest.mark.parametrize("rule", sorted(SCENE_RULES))
def test_the_processor_derives_the_scenes_of_prepare(rule, tmp_path, tiny_bert):
    prepare("synthetic", [], tmp_path / "w", world={"num_users": 10, "num_items": 30}, scene=rule, quiet=True)
    log = InterestLog.load(tmp_path / "w")
    settings = config_for(log)
    assert settings["scene_rule"] == rule and settings["scenes"] == common_scenes(log)
    model = InterestModel.from_text_pretrained(str(tiny_bert), hidden_size=16, **settings)
    processor = InterestProcessor.from_model(model, AutoTokenizer.from_pretrained(tiny_bert))
    batch = processor(histories=[[{"title": "heat", "timestamp": int(time)} for time in np.sort(log.timestamp[:20])]])
    codes = scene_codes(np.sort(log.timestamp[:20]), rule)
    assert [settings["scenes"][code] for code in batch["history_scenes"][0]] == [SCENE_RULES[rule][c] for c in codes]


def test_everybodys_scenes_are_those_of_training(log):
    names = common_scenes(log)
    ratios, common = scene_ratios(log, names, strength=1.0)
    assert ratios.shape == (2, len(log.tree)) and common.sum() == pytest.approx(1.0)
    changed = replace(log, scene=np.where(log.split > 0, 0, log.scene).astype(np.int16))
    for first, second in zip((ratios, common), scene_ratios(changed, names, strength=1.0), strict=True):
        np.testing.assert_array_equal(first, second)
    many = replace(
        log, scenes=[f"s{n:02}" for n in range(50)], scene=(np.arange(log.num_events) % 50).astype(np.int16)
    )
    assert len(common_scenes(many)) == 32
    alone = replace(log, scenes=["tv"], scene=np.zeros(log.num_events, np.int16))
    assert "scenes" not in config_for(alone)


def test_a_model_without_scenes_is_as_before(tiny_bert):
    torch.manual_seed(0)
    model = InterestModel.from_text_pretrained(str(tiny_bert), domains=["a > b", "c"], hidden_size=16)
    assert model.scene_head is None and not any("scene" in name for name in model.state_dict())
    fields = model.config.to_dict()
    for name in ("scenes", "scene_rule"):
        fields.pop(name)
    fields["task_weights"].pop("scene")
    assert InterestConfig(**fields).tasks == model.config.tasks
    processor = InterestProcessor.from_model(model, AutoTokenizer.from_pretrained(tiny_bert))
    batch = processor(histories=[[{"title": "heat", "timestamp": 5, "scene": "tv"}]])
    assert "history_scenes" not in batch
    with torch.no_grad():
        assert model.eval()(**batch).scene_interest is None
    for wrong in (["tv"], ["tv", "tv"]):
        with pytest.raises(ValueError, match="`scenes` is .*, expected two or more names, with `domains`"):
            InterestConfig(domains=fields["domains"], scenes=wrong)


def test_a_log_of_positions_has_scenes_too(log, tiny_bert):
    """Without times there is no next event at a known time, but interest given the scene."""
    position = (np.arange(log.num_events) - log.offsets[log.user]).astype(np.int64)
    split = np.zeros_like(log.split)
    split[log.offsets[1:] - 2], split[log.offsets[1:] - 1] = 1, 2
    facts = log.facts | {"time": "order", "split": "leave-last", "validation_start": None, "test_start": None}
    ordered = replace(log, timestamp=position, split=split, facts=facts)
    settings = config_for(ordered)
    assert settings["scenes"] == ["phone", "tv"] and not settings["use_next_event"]
    torch.manual_seed(0)
    model = InterestModel.from_text_pretrained(str(tiny_bert), hidden_size=16, use_popularity=False, **settings)
    processor = InterestProcessor.from_model(model, AutoTokenizer.from_pretrained(tiny_bert))
    tensors = LogTensors(ordered, model, processor, texts=torch.zeros(50, 32), progress=False)
    rows = PackedRows(tensors, 64)
    fill_population(model, tensors)
    fit_prior(model, BatchBuilder(tensors, rows, cuts=2, completions=0, query_rows=4), rows, 15)
    predictor = ModelPredictor(model.eval(), processor, ordered, tensors=tensors)
    windows = WINDOWS | {"horizons": (1,), "horizon_unit": "events", "reference_horizon": 1}
    results = evaluate(ordered, predictor, **windows, baselines=["mixture", "scene_counts"])
    assert results["next_event"] is None and "no times" in results["reasons"]["next_event"]
    assert results["scenes"]["cases"] == log.num_users
    assert results["scenes"]["cross_entropy"] < results["baselines"]["mixture"]["scenes"]["cross_entropy"]

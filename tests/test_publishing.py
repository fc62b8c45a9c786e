"""The checkpoint folder, its card, and what loads from it where `interest_lm` is not installed."""

from __future__ import annotations

import json
import re

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from huggingface_hub import ModelCard
from transformers import AutoTokenizer

from interest_lm.configuration_interest import InterestConfig
from interest_lm.data.markdown import escape, number
from interest_lm.modeling_interest import InterestModel
from interest_lm.processing_interest import InterestProcessor
from interest_lm.publishing.card import render_card
from interest_lm.publishing.export import (
    item_catalogue,
    load_checkpoint,
    read_catalogue,
    save_checkpoint,
    update_results,
)
from interest_lm.publishing.files import is_local_path, write_json


DOMAINS = [["Film", "Crime"], ["Film", "Drama"], ["Music"]]
HISTORIES = [
    [
        {"title": "Heat (1995)", "categories": [["Film", "Crime"]], "timestamp": 857131200, "item_id": "a"},
        {"title": "Jazz album", "categories": [["Music"]], "timestamp": 857231200, "text": "what a duel"},
    ],
    [{"title": "Casino", "categories": [["Film", "Crime"]], "timestamp": 857131200}],
]
CANDIDATES = [[{"title": "Casino"}, {"title": "Rock"}], [{"title": "Heat (1995)", "item_id": "a"}]]
HOSTILE = "Heat | <script>alert(1)</script>\n# Title\n\n---\n[x](http://evil) `rm` {{ 7*7 }}"
RESULTS = {
    "split": "test",
    "ranking": {
        "ndcg@10": 0.1959,
        "hit_rate@10": 0.3349,
        "cases": 610,
        "unfiltered": {"ndcg@10": 0.1512, "hit_rate@10": 0.27},
    },
    "future": {"cross_entropy": 1.489, "kl": 0.2, "per_level": {"0": {"cross_entropy": 1.1}}},
    "change": None,
    "reasons": {"change": "the log has no times"},
    "baselines": {
        "ease_decay": {
            "slices": {"cold_items": {"ndcg@10": 0.01, "cases": 7}},
            "ranking": {"ndcg@10": 0.127, "hit_rate@10": 0.226, "unfiltered": {"ndcg@10": 0.1}},
        },
        "mixture": {"ranking": None, "future": {"cross_entropy": 1.4, "kl": float("nan")}},
    },
    "controls": {"shuffled_history": {"ranking": {"ndcg@10": 0.11, "mrr": 0.3}}, "random_text": None},
    "slices": {
        "cold_items": {"ndcg@10": 0.05, "cases": 7, "among_cold": {"ndcg@10": 0.4}},
        "cold_users": None,
        "quiet_users": {"ndcg@10": 0.1, "cases": 200},
        "popular_items": {"ndcg@10": 0.3, "cases": 300},
    },
    "ablations": {"no_text": {"ranking": {"ndcg@10": 0.15}}, "no_drift": {"future": {"cross_entropy": 1.52}}},
    "best_baseline": {"ranking": "ease_decay"},
    "intervals": {"ranking.ndcg@10": [0.188, 0.204]},
    "protocol": {"rule": "each user's last event", "headline": "filtered", "users": 610, "tuned_on": "validation"},
    "paired": {
        "ranking.ndcg@10": {
            "baseline": "ease_decay",
            "difference": 0.0689,
            "unit": "absolute",
            "interval": [0.06, 0.08],
        }
    },
    "oracle": {"future": {"cross_entropy": 1.2, "over_mixture": {"gain_percent": 14.3, "model_share_of_gain": 0.85}}},
}
TRAINING = {
    "minutes": 3.5,
    "lora": {"r": 8},
    "recipe": {"learning_rate": 0.002, "horizons": None},
    "backbone": "owner/encoder",
    "backbone_revision": "0123abc",
    "log": [{"step": 40, "epoch": 1.5, "eval_objective": 0.3, "x": None}],
}
FACTS = {
    "name": "movies",
    "recipe": "movielens",
    "split": "global-time",
    "time": "seconds",
    "validation_start": 1_000_000_000,
    "test_start": 1_100_000_000,
    "value_threshold": 4.0,
    "licence": "GroupLens, non-commercial",
    "source": "movielens",
    "counts": {"users": 610, "items": 9742, "events": 100836},
    "dropped": {"users with fewer than 5 events": 3},
}


@pytest.fixture(scope="module")
def network(tiny_bert):
    torch.manual_seed(0)
    return InterestModel.from_text_pretrained(str(tiny_bert), domains=DOMAINS, hidden_size=16, num_items=2).eval()


@pytest.fixture(scope="module")
def processor(network, tiny_bert):
    return InterestProcessor.from_model(network, AutoTokenizer.from_pretrained(tiny_bert), item_ids=["a", "b"])


@pytest.fixture(scope="module")
def catalogue() -> pa.Table:
    items = pd.DataFrame(
        {"item_id": ["a", "b"], "title": ["Heat", HOSTILE], "text": ["", "x"], "categories": [[["Film", "Crime"]], []]}
    )
    return item_catalogue(items, np.eye(2, 16))


@pytest.fixture
def checkpoint(network, processor, catalogue, tmp_path):
    return save_checkpoint(
        network,
        processor,
        tmp_path / "model",
        catalogue=catalogue,
        results=RESULTS,
        facts=FACTS,
        training={"steps": 5},
    )


@pytest.fixture(scope="module")
def config() -> InterestConfig:
    nodes = [{"id": "Film", "name": "Film", "parent": None}, {"id": "Music", "name": "Music", "parent": None}]
    return InterestConfig(domains=nodes)


def test_checkpoint_has_every_file_and_nothing_beside_it(checkpoint):
    assert {file.name for file in checkpoint.iterdir()} >= {
        "README.md",
        "config.json",
        "configuration_interest.py",
        "item_catalogue.parquet",
        "model.safetensors",
        "modeling_interest.py",
        "processing_interest.py",
        "processor_config.json",
        "results.json",
        "taxonomy.json",
        "taxonomy_interest.py",
        "tokenizer.json",
        "training.json",
    }
    assert [path.name for path in checkpoint.parent.iterdir() if path.name.startswith(".")] == []


def test_checkpoint_loads_without_the_package_and_gives_the_same_numbers(
    checkpoint, network, processor, run_without_package
):
    code = """
        import json, torch
        from transformers import AutoConfig, AutoModel, AutoProcessor
        folder, histories, candidates = sys.argv[1], json.loads(sys.argv[2]), json.loads(sys.argv[3])
        config = AutoConfig.from_pretrained(folder, trust_remote_code=True)
        model = AutoModel.from_pretrained(folder, trust_remote_code=True).eval()
        processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
        assert model.config.domains == config.domains
        with torch.no_grad():
            out = model(**processor(histories=histories, candidates=candidates, return_tensors="pt"))
        print(json.dumps({name: getattr(out, name).tolist() for name in ("future_interest", "ranking_scores")}))
    """
    printed = run_without_package(code, checkpoint, json.dumps(HISTORIES), json.dumps(CANDIDATES))
    remote = json.loads(printed.splitlines()[-1])
    with torch.no_grad():
        out = network(**processor(histories=HISTORIES, candidates=CANDIDATES, return_tensors="pt"))
    np.testing.assert_allclose(remote["future_interest"], out.future_interest.numpy(), rtol=1e-5, atol=1e-6)
    # candidates that are padding score -inf
    np.testing.assert_allclose(remote["ranking_scores"], out.ranking_scores.numpy(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_for_the_text_tower(checkpoint, network, processor, dtype):
    model = InterestModel.from_pretrained(checkpoint, dtype=dtype)
    whole = network.state_dict()
    for name, value in model.state_dict().items():
        expected = dtype if name.startswith("text_model") else whole[name].dtype
        assert value.dtype == expected, name
    batch = processor(histories=HISTORIES, candidates=CANDIDATES, return_tensors="pt")
    with torch.no_grad():
        half, full = model(**batch), network(**batch)
    torch.testing.assert_close(half.future_interest, full.future_interest, atol=0.01, rtol=0.01)


def test_load_checkpoint_returns_what_was_saved(checkpoint, network, processor):
    model, loaded_processor, items = load_checkpoint(checkpoint)
    assert not model.training
    for name, parameter in network.state_dict().items():
        assert torch.equal(parameter, model.state_dict()[name]), name
    assert loaded_processor.item_ids == ["a", "b"]
    assert loaded_processor.max_text_tokens == processor.max_text_tokens
    assert items["item_id"].tolist() == ["a", "b"]
    assert items["categories"].tolist() == [[["Film", "Crime"]], []]
    np.testing.assert_array_equal(np.stack(items["vector"]), np.eye(2, 16))


def test_no_path_of_this_machine_is_published(checkpoint, tiny_bert):
    for file in [*checkpoint.glob("*.json"), checkpoint / "README.md"]:
        content = file.read_text(encoding="utf-8")
        assert str(tiny_bert) not in content and str(tiny_bert.parent) not in content, file.name
        assert str(checkpoint.parent) not in content, file.name


def test_saving_does_not_touch_the_model(network, processor, tmp_path):
    before = network.config
    save_checkpoint(network, processor, tmp_path / "model")
    assert network.config is before
    assert not getattr(network.config, "auto_map", None)


def test_saving_again_replaces_and_leaves_other_files(checkpoint, network, processor):
    (checkpoint / "notes.txt").write_text("mine")
    (checkpoint / "model-00001-of-00002.safetensors").write_text("stale shard")
    save_checkpoint(network, processor, checkpoint)
    assert (checkpoint / "notes.txt").read_text() == "mine"
    assert not (checkpoint / "model-00001-of-00002.safetensors").exists()
    load_checkpoint(checkpoint)


def test_failure_while_saving_leaves_the_old_checkpoint(checkpoint, network, processor):
    before = {file.name: file.read_bytes() for file in checkpoint.iterdir()}
    broken = pd.DataFrame({"item_id": ["a"], "title": ["x"], "text": [""], "categories": [[]], "vector": [[np.nan]]})
    with pytest.raises(ValueError, match="vector of item 'a' is not finite"):
        save_checkpoint(network, processor, checkpoint, catalogue=broken)
    assert {file.name: file.read_bytes() for file in checkpoint.iterdir()} == before
    assert [path.name for path in checkpoint.parent.iterdir()] == [checkpoint.name]


def test_update_results_renders_the_card_anew(checkpoint, network):
    update_results(checkpoint, network.config, {"split": "test", "ranking": {"ndcg@10": 0.4321}})
    card = (checkpoint / "README.md").read_text()
    assert "0.4321" in card and "0.1959" not in card
    assert "GroupLens" in card and "| steps | 5 |" in card
    assert json.loads((checkpoint / "results.json").read_text())["ranking"]["ndcg@10"] == 0.4321


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda folder: (folder / "config.json").unlink(), "no config.json"),
        (lambda folder: (folder / "config.json").write_text("{"), "not JSON"),
        (lambda folder: (folder / "config.json").write_text('{"model_type": "bert"}'), "`model_type` is 'bert'"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{}"), "weights are damaged"),
        (lambda folder: (folder / "item_catalogue.parquet").write_bytes(b"PAR1"), "not readable as Parquet"),
    ],
)
def test_broken_checkpoints_are_named(checkpoint, break_it, message):
    break_it(checkpoint)
    with pytest.raises(ValueError, match=message) as raised:
        load_checkpoint(checkpoint)
    assert str(checkpoint) in str(raised.value)


def test_missing_checkpoint_is_named(tmp_path):
    with pytest.raises(ValueError, match="no such folder"):
        load_checkpoint(tmp_path / "nowhere" / "deep" / "model")


def test_catalogue_refuses_other_columns(tmp_path):
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"item_id": ["a"]}), tmp_path / "c.parquet")
    with pytest.raises(ValueError, match="no column `title`"):
        read_catalogue(tmp_path / "c.parquet")


def test_catalogue_needs_a_vector_per_item():
    items = pd.DataFrame({"item_id": ["a"], "title": ["x"], "text": [""], "categories": [[]]})
    with pytest.raises(ValueError, match=r"\(2, 3\) for 1 items"):
        item_catalogue(items, np.zeros((2, 3)))


def test_json_has_no_nan_and_plain_numbers(tmp_path):
    write_json(
        {"a": float("nan"), "b": np.float32(0.5), "c": np.arange(2), "d": [{"e": float("inf")}]}, tmp_path / "r"
    )
    assert json.loads((tmp_path / "r").read_text()) == {"a": None, "b": 0.5, "c": [0, 1], "d": [{"e": None}]}


def test_local_paths_are_told_from_hub_ids(tmp_path):
    assert is_local_path(str(tmp_path)) and is_local_path("./model") and is_local_path("a/b/c")
    assert not is_local_path("sentence-transformers/all-MiniLM-L6-v2") and not is_local_path("gpt2")


# The card


def test_card_shows_the_model_beside_every_baseline(config):
    text = str(render_card(config=config, results=RESULTS, facts=FACTS, training=TRAINING))
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert "| **this model** | **0.1959** [0.1880, 0.2040] | **0.3349** |" in rows
    assert "| ease_decay | 0.1270 | 0.2260 |" in rows
    assert "| **this model** | 1.4890 | **0.2000** |" in rows  # the mixture's cross-entropy is better, its KL unknown
    assert "| mixture | **1.4000** | - |" in rows
    assert "Ranking, seen items kept" in text and "0.1512" in text
    assert "|  | real | shuffled_history |" in rows and "| ranking.ndcg@10 | 0.1959 | 0.1100 |" in rows
    assert "| cold_items | this model | 7 | 0.0500 | - | - |" in rows
    assert "| cold_items | ease_decay | 7 | 0.0100 | - | - |" in rows
    assert "| cold_items, among themselves | this model | 7 | 0.4000 | - | - |" in rows
    assert "| quiet_users | this model | 200 | 0.1000 | - | - |" in rows
    assert "NDCG@10 is lowest for cold_items: 0.0500, beside 0.1959 over all." in text
    assert "|  | ranking.ndcg@10 | future.cross_entropy ↓ |" in rows
    assert "| whole | 0.1959 | 1.4890 |" in rows and "| no_text | 0.1500 | - |" in rows
    assert "| text backbone | owner/encoder |" in rows and "| its revision | 0123abc |" in rows
    assert "| recipe.learning_rate | 0.0020 |" in rows
    assert "| ranking.ndcg@10 | ease_decay | 0.0689 | [0.0600, 0.0800] |" in rows
    assert "| future | mixture | 14.3 % | 85% |" in rows
    assert "each user's last event; 610 users asked" in text
    assert "**change**: the log has no times" in text
    assert "2001-09-09" in text and "GroupLens, non-commercial" in text and "100,836 events" in text
    assert "3 users with fewer than 5 events" in text
    assert "| lora.r | 8 |" in rows and "| 40 | 1.50 | 0.3000 |" in rows
    assert "1, 7, 28 days" in text
    assert "a value of at least 4" in text


def test_cards_say_how_to_load_and_cite_what_they_pin(config):
    whole = render_card(config=config, name="films", repository="owner/films", revision="v-1", licence="mit")
    snippet = re.search(r"```python\n(.*?)```", whole.text, flags=re.S)[1]
    compile(snippet, "card", "exec")
    assert snippet.count('"owner/films", revision="v-1"') == snippet.count("from_pretrained(") == 2
    assert "howpublished = {Hugging Face Hub, owner/films, revision v-1}" in whole.text
    assert whole.data.license == "mit" and whole.data.library_name == "transformers"
    adapter = render_card(
        config=config, name="films", repository="owner/lora", revision="v-2", base=("owner/base", "abc")
    )
    snippet = re.search(r"```python\n(.*?)```", adapter.text, flags=re.S)[1]
    compile(snippet, "card", "exec")
    assert 'AutoPeftModelForFeatureExtraction.from_pretrained("owner/lora", revision="v-2"' in snippet
    assert 'AutoProcessor.from_pretrained("owner/base", revision="abc"' in snippet
    assert "| adapter for | owner/base at commit abc |" in adapter.text
    assert (adapter.data.base_model, adapter.data.base_model_relation) == ("owner/base", "adapter")
    here = render_card(config=config, name="films")
    assert "howpublished" not in here.text


def test_card_says_whether_trends_are_told(config):
    found = {"forecast": {"cuts": 9, "horizon": 30.0, "unit": "days"}, "change": {"reliability": 0.314}}
    checked = {"reliable": False, "auc": 0.62, "shuffled_auc": 0.55, "clear_pairs": 90, "label_reliability": 0.3}
    text = str(render_card(config=config, facts=FACTS | {"change": found}, training=TRAINING | {"change": checked}))
    assert "Split-half reliability of the change rate over 30 days: 0.31 (partly noise)." in text
    assert "AUC 0.620, on the time-shuffled log 0.550" in text and 'Every trend reads "steady"' in text
    unmeasured = {"reliable": True, "auc": None, "shuffled_auc": None, "clear_pairs": 0, "label_reliability": 0.6}
    text = str(render_card(config=config, facts=FACTS, training=TRAINING | {"change": unmeasured}))
    assert "Trends are told" in text and "Split-half" not in text and "time-shuffled log" not in text
    assert "residual_scale" not in text
    text = str(render_card(config=config, facts=FACTS, training=TRAINING | {"residual_scale": 0.724}))
    assert "Of what the network adds to the statistics of domains 72 % counts" in text


def test_card_says_what_ratings_are_made_of(config):
    fitted = {"item_strength": 3.0, "user_strength": 8.0, "rating": [0.523, 0.331, 0.626, 0.06]}
    text = str(render_card(config=config, facts=FACTS, training=TRAINING | {"reputation": fitted}))
    assert "Ratings are 0.52 times what the network says, 0.33 times how far the item's values" in text
    assert "Ratings are" not in str(render_card(config=config, facts=FACTS, training=TRAINING | {"reputation": None}))


def test_card_metadata_are_a_valid_model_index(config):
    card = ModelCard(str(render_card(config=config, results=RESULTS, facts=FACTS, name="movie-interest")))
    assert card.data.library_name == "transformers"
    assert card.data.model_name == "movie-interest"
    found = {result.metric_type: result for result in card.data.eval_results}
    assert found["ranking_ndcg@10"].metric_value == 0.1959
    assert found["ranking_ndcg@10"].metric_args == {"interval_95": [0.188, 0.204]}
    assert found["ranking_ndcg@10"].dataset_name == "movies"
    assert "change_auc" not in found


def test_card_takes_numpy_figures(config):
    results = {"ranking": {"ndcg@10": np.float32(0.25), "mrr": float("nan")}}
    assert "| **this model** | 0.2500 |" in str(render_card(config=config, results=results))


def test_card_without_results_says_so(config):
    text = str(render_card(config=config))
    assert "Not evaluated yet" in text and "Not recorded." in text
    assert "None" not in re.sub(r"```.*?```", "", text, flags=re.S)


def test_hostile_texts_cannot_break_the_card(config):
    harmless = render_card(config=config, results=RESULTS, facts=FACTS, training={"steps": 5})
    results = RESULTS | {"baselines": {HOSTILE: RESULTS["baselines"]["ease_decay"]}, "reasons": {"change": HOSTILE}}
    results |= {
        "ablations": {HOSTILE: RESULTS["ablations"]["no_text"]},
        "controls": {HOSTILE: RESULTS["ablations"]["no_text"]},
    }
    results |= {"slices": {HOSTILE: RESULTS["slices"]["cold_items"]}, "split": HOSTILE}
    facts = FACTS | {"name": HOSTILE, "licence": HOSTILE, "source": HOSTILE, "dropped": {HOSTILE: 2}}
    training = {HOSTILE: HOSTILE, "recipe": {HOSTILE: [HOSTILE]}, "backbone_revision": HOSTILE}
    card = render_card(
        config=config,
        results=results,
        facts=facts,
        training=training,
        name=HOSTILE,
        repository=HOSTILE,
        revision=HOSTILE,
    )
    text = card.text
    assert "<script" not in text and "49" not in re.findall(r"\{\{.*?\}\}", text)
    assert [line for line in text.splitlines() if line.startswith("#")][1:] == [
        line for line in harmless.text.splitlines() if line.startswith("#")
    ][1:]
    assert text.count("```") == harmless.text.count("```")
    for block in re.findall(r"(?:^\|.*\n)+", text + "\n", flags=re.M):
        columns = {len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}
        assert len(columns) == 1, block
    assert ModelCard(str(card)).data.eval_results[0].dataset_name == HOSTILE


def test_escape_leaves_one_short_line():
    assert escape("a\r\n\tb\0c") == "a b c"
    assert len(escape("x" * 1000)) == 120
    assert escape("- item") == "\\- item"
    assert number(np.float64(0.5)) == "0.5000"

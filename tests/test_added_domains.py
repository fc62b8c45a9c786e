"""Domains that are added by their names alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from test_evaluation_cases import make_log
from topic_shares import draw_topics
from transformers import AutoModel, AutoTokenizer, pipeline

from interest_lm import InterestConfig, InterestModel, InterestProcessor
from interest_lm.evaluation.cases import forecast_cases
from interest_lm.evaluation.folds import fold
from interest_lm.evaluation.predict import ModelPredictor
from interest_lm.publishing.export import save_checkpoint
from interest_lm.publishing.measure import evaluate_checkpoint
from interest_lm.recommendation.log_tensors import LogTensors
from interest_lm.recommendation.profile import interest_profile
from interest_lm.taxonomy_interest import DomainTree
from interest_lm.training.derive import membership_temperature


TREE = DomainTree.from_paths([[["film", "crime"]], [["film", "drama"]], [["film", "crime", "heat"]], [["music"]]])
# a sibling, children of a leaf, a path of its own, and a level below all others
ADDED = ["film > comedy", "music > jazz", "music > rock", "travel > museum > art", "film > crime > heat > night"]
HISTORY = [
    {"title": "heat", "categories": [["film", "crime", "heat"]], "timestamp": 5 * 86400},
    {"title": "comedy", "categories": [["film", "drama"]], "timestamp": 9 * 86400},
    {"title": "jazz album", "categories": [["music"]], "timestamp": 12 * 86400},
]


@pytest.fixture(scope="module")
def parts(tiny_bert):
    torch.manual_seed(0)
    sizes = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "horizons": [1.0, 7.0],
        "reference_horizon": 7.0,
        "num_topics": 2,
    }
    model = InterestModel.from_text_pretrained(str(tiny_bert), domains=TREE, **sizes).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not name.startswith("text_model") and float(parameter.abs().sum()) == 0:
                parameter.normal_(std=0.1)
        shares = torch.rand(2, len(TREE))
        for node, parent in enumerate(TREE.parent.tolist()):
            siblings = TREE.parent == parent
            shares[:, node] = 1.0 / siblings.sum() if parent < 0 else shares[:, parent] / siblings.sum()
        model.population.shares.copy_(shares)
    draw_topics(model)
    tokenizer = AutoTokenizer.from_pretrained(tiny_bert)
    return model, model.add_domains(ADDED, tokenizer), tokenizer


def ask(model, tokenizer, **more):
    processor = InterestProcessor.from_model(model, tokenizer)
    with torch.no_grad():
        return model(**processor(histories=[HISTORY, []]), **more)


def test_children_sum_to_parents_with_the_added_domains(parts):
    _, model, tokenizer = parts
    tree = DomainTree(model.config.domains)
    assert set(tree.ids) == {*TREE.ids, *ADDED, "travel", "travel > museum"}
    output = ask(model, tokenizer)
    for shares in (output.domain_interest, *output.future_interest.unbind(1), model.population.shares):
        assert (shares > 0).all()
        for parent in np.unique(tree.parent):
            total = shares[:, tree.parent == parent].sum(1)
            whole = shares[:, parent] if parent >= 0 else torch.ones(len(shares))
            torch.testing.assert_close(total, whole, atol=1e-6, rtol=0)
    torch.testing.assert_close(
        output.future_interest[:, 1], output.domain_interest * (1 + output.change_rate) / (1 - output.change_rate),
        atol=1e-5, rtol=1e-4,
    )  # fmt: skip


def test_items_are_shared_out_by_text_and_keep_what_they_are(parts):
    _, model, _ = parts
    tree, head = DomainTree(model.config.domains), model.domain_head
    texts = torch.nn.functional.normalize(torch.randn(5, head.name_embeds.shape[1]), dim=-1)
    paths = [[["film", "crime", "heat"]], [["film", "drama"], ["music"]], [["music"]], [], [["film", "comedy"]]]
    old = DomainTree([node for node in tree.nodes if node["id"] not in model.config.added_domains])
    rows = [{tree.index[old.ids[node]]: weight for node, weight in old.membership(path).items()} for path in paths[:4]]
    rows.append(tree.membership(paths[4]))
    nodes = torch.full((5, 6), -1)
    weights = torch.zeros(5, 6)
    for row, shares in enumerate(rows):
        nodes[row, : len(shares)], weights[row, : len(shares)] = (
            torch.tensor([*shares]),
            torch.tensor([*shares.values()]),
        )
    nodes, weights = head.soft_membership(texts, nodes, weights)
    for row in nodes.tolist():
        filled = [node for node in row if node >= 0]
        assert len(filled) == len(set(filled))
    dense = torch.zeros(5, len(tree)).scatter_add(1, nodes.clamp(min=0), weights)
    for parent in np.unique(tree.parent):
        total = dense[:, tree.parent == parent].sum(1)
        whole = dense[:, parent] if parent >= 0 else torch.tensor([1.0, 1.0, 1.0, 0.0, 1.0])
        torch.testing.assert_close(total, whole, atol=1e-5, rtol=0)
    # softmax over the siblings of the cosines, of what the item has in the parent
    top = [tree.index[name] for name in ("film", "music", "travel")]
    names = torch.nn.functional.normalize(head.name_embeds, dim=-1)
    likely = (texts @ names[top].T / model.config.domain_temperature).softmax(-1)
    torch.testing.assert_close(dense[:3, tree.index["travel"]], likely[:3, 2])
    torch.testing.assert_close(dense[1, tree.index["film"]], 0.5 * (1 - likely[1, 2]))
    music = [tree.index["music > jazz"], tree.index["music > rock"]]
    jazz = (texts @ names[music].T / model.config.domain_temperature).softmax(-1)[:, 0]
    torch.testing.assert_close(dense[2, music[0]], jazz[2] * (1 - likely[2, 2]))
    assert dense[4, tree.index["film > comedy"]] == dense[4, tree.index["film"]]  # it says so itself


def test_what_was_known_hardly_moves_where_nothing_goes_to_the_added(parts, tiny_bert):
    """At a temperature at which no item is like the new name, known domains keep their shares but for the population's."""
    plain, _, tokenizer = parts
    model = plain.add_domains(["travel"], tokenizer)
    model.config.domain_temperature = 0.001
    tree = DomainTree(model.config.domains)
    shares = model.population.shares
    known = [tree.index[node] for node in TREE.ids]
    torch.testing.assert_close(shares[:, known] / plain.population.shares, torch.full((2, len(TREE)), 2 / 3))
    model.population.shares[:, known] = plain.population.shares
    model.population.shares[:, tree.index["travel"]] = 1e-9
    before, after = ask(plain, tokenizer), ask(model, tokenizer)
    torch.testing.assert_close(after.domain_interest[1, known], before.domain_interest[1], atol=2e-2, rtol=0)
    assert plain.config.num_domains == len(TREE) and plain.config.added_domains is None


def test_an_extended_model_is_saved_loaded_and_served(parts, tmp_path):
    _, model, tokenizer = parts
    processor = InterestProcessor.from_model(model, tokenizer)
    save_checkpoint(model, processor, tmp_path / "model")
    loaded = AutoModel.from_pretrained(tmp_path / "model").eval()
    assert loaded.config.added_domains == [*ADDED[:3], "travel", "travel > museum", *ADDED[3:]]
    torch.testing.assert_close(ask(loaded, tokenizer).future_interest, ask(model, tokenizer).future_interest)
    answer = pipeline("user-interest", model=loaded, processor=processor, device="cpu")({"history": HISTORY})
    assert "film > comedy" in {entry["domain"] for entry in answer["domains"]}


def test_what_is_said_of_times_and_scenes_has_the_added_domains(parts, tiny_bert):
    """Models of logs with times have a head for the next event, those with scenes one for these: their parts grow, too."""
    _, _, tokenizer = parts
    torch.manual_seed(0)
    plain = InterestModel.from_text_pretrained(
        str(tiny_bert), domains=TREE, hidden_size=16, intermediate_size=16, horizons=[1.0, 7.0], reference_horizon=7.0,
        use_next_event=True, scenes=["phone", "desktop"],
    )  # fmt: skip
    with torch.no_grad():
        for name in ("time_of_week", "scene"):
            getattr(plain.population, name).normal_()
        for head in (plain.next_event_head, plain.scene_head):
            head.tilt.normal_(std=0.3)
            head.direction.weight.normal_(std=0.3)
    model = plain.add_domains(ADDED, tokenizer)
    tree, old = DomainTree(model.config.domains), TREE.ids
    known = [tree.index[node] for node in old]
    output = ask(model, tokenizer)
    for shares in (output.next_interest, *output.scene_interest.unbind(1)):
        assert (shares > 0).all()
        for parent in np.unique(tree.parent):
            whole = shares[:, parent] if parent >= 0 else torch.ones(len(shares))
            torch.testing.assert_close(shares[:, tree.parent == parent].sum(1), whole, atol=1e-6, rtol=0)
    torch.testing.assert_close(model.scene_head.node.weight[known], plain.scene_head.node.weight)
    torch.testing.assert_close(model.population.time_of_week[:, known], plain.population.time_of_week)
    assert not model.population.scene[:, tree.index["travel"]].any()  # as common in every context


def test_a_log_without_the_added_domains_is_read_with_them(tiny_bert, tmp_path):
    log = make_log(users=12)
    torch.manual_seed(0)
    plain = InterestModel.from_text_pretrained(
        str(tiny_bert), domains=log.tree, hidden_size=16, horizons=[3.0, 7.0], reference_horizon=7.0
    )
    tokenizer = AutoTokenizer.from_pretrained(tiny_bert)
    model = plain.add_domains(["a > new", "d"], tokenizer)
    processor = InterestProcessor.from_model(model, tokenizer)
    predictor = ModelPredictor(model, processor, log, progress=False)
    tree = predictor.log.tree
    assert set(tree.ids) == {*log.tree.ids, "a > new", "d"}
    ids = [tree.index[node] for node in log.tree.ids]
    before, after = log.item_nodes.toarray(), predictor.log.item_nodes.toarray()
    np.testing.assert_allclose(after[:, tree.depth == 0].sum(1), before[:, log.tree.depth == 0].sum(1), rtol=1e-5)
    assert (after[:, ids] <= before + 1e-6).all() and after[:, tree.index["d"]].min() > 0
    shares = predictor.tensors.population.shares(np.array([int(log.facts["end"])]))[0, 0]
    assert 0 < shares[tree.index["d"]] < 1  # counted, by soft membership
    cases = forecast_cases(log, fold(log, "test"), (3.0, 7.0), "days", 7.0)
    forecast = predictor.forecast(cases)["future"]
    assert forecast.shape[-1] == len(tree) and np.isfinite(forecast).all()
    profile = interest_profile(predictor, predictor.log, str(log.user_ids[0]))
    assert "a > new" in {row["domain"] for row in profile["domains"]}
    save_checkpoint(model, processor, tmp_path / "model")
    with pytest.raises(ValueError, match="does not say what is in 'a > new', which was added to .* by name"):
        evaluate_checkpoint(tmp_path / "model", log, baselines=[])
    batch = predictor.tensors.items()
    assert batch["soft_domains"] is False and "soft_domains" not in LogTensors(log, plain, processor).items()


def test_the_temperature_is_the_likeliest_of_the_grid(tiny_bert):
    """Items whose texts lie near the names of their domains, with some noise: neither the sharpest nor the flattest."""
    log = make_log(users=12)
    torch.manual_seed(0)
    model = InterestModel.from_text_pretrained(str(tiny_bert), domains=log.tree, hidden_size=16)
    processor = InterestProcessor.from_model(model, AutoTokenizer.from_pretrained(tiny_bert))
    leaf = [int(np.flatnonzero(row)[-1]) for row in log.item_nodes.toarray()]
    names = torch.nn.functional.normalize(torch.randn(len(log.tree), 32), dim=-1)
    model.domain_head.name_embeds.copy_(names)
    found = []
    for noise in (0.02, 0.5):
        texts = names[leaf] + names[log.tree.parent[leaf]] + noise * torch.randn(len(leaf), 32)
        tensors = LogTensors(log, model, processor, texts=texts, progress=False)
        tensors.item_text_index = torch.arange(len(leaf))
        found.append(membership_temperature(model, tensors))
    assert found[0] < found[1]


def test_bad_paths_are_one_clear_line(parts, tiny_bert):
    plain, model, tokenizer = parts
    for path, message in (
        ("film > crime", "'film > crime', which is a domain already"),
        ("", "'', expected names"),
        ([], r"\[\], expected names"),
        (["film", 3], "expected names"),
    ):
        with pytest.raises(ValueError, match=message):
            plain.add_domains([path], tokenizer)
    with pytest.raises(ValueError, match="'film > comedy', which is a domain already"):
        model.add_domains(["film > comedy"], tokenizer)
    bare = InterestModel.from_text_pretrained(str(tiny_bert), hidden_size=16)
    with pytest.raises(ValueError, match="knows no domains"):
        bare.add_domains(["film"], tokenizer)
    with pytest.raises(ValueError, match="`added_domains` has 'x', expected ids of `domains`"):
        InterestConfig(domains=TREE.nodes, added_domains=["x"])

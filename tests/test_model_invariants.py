"""What must hold of every model, on both kinds of text backbone: the invariants of transformers' common tests."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from transformers import AutoModel, AutoTokenizer

from interest_lm import InterestConfig, InterestModel, InterestProcessor
from interest_lm.configuration_interest import TASKS
from interest_lm.taxonomy_interest import DomainTree


TREE = DomainTree.from_paths(
    [[["Film", "Crime"]], [["Film", "Drama"]], [["Film"]], [["Music", "Jazz"]], [["Music", "Rock"]], [["Food"]], []]
)
TITLES = ["heat", "casino", "drama film", "jazz album", "rock music", "food bar", "novel"]
PATHS = [
    [["Film", "Crime"]],
    [["Film", "Crime"], ["Film", "Drama"]],
    [["Film"]],
    [["Music", "Jazz"]],
    [["Music"]],
    [["Food"]],
    [],
]
SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 2,
    "max_history": 7,
    "num_items": 5,
    "use_values": True,
    "use_place": True,
    "use_personal_popularity": True,
    "popularity_units": 4,
    "use_centered_queries": True,
    "trajectory_half_lives": [3.0, 30.0],
    "num_topics": 2,
    "value_mean": 3.5,
    "actions": ["view", "buy"],
}
CONTEXT = {"use_next_event": True, "scenes": ["phone", "tv", "car"]}


def event(number: int, day: int, **more) -> dict:
    return {
        "title": TITLES[number],
        "categories": PATHS[number],
        "item_id": str(number),
        "timestamp": 1_600_000_000 + 86_400 * day + 3_600 * number,
        "value": float(number % 5),
        "latitude": 40.0 + number / 100,
        "longitude": -74.0,
        "action": ["view", "buy"][number % 2],
        "scene": ["phone", "tv", "elsewhere"][number % 3],
    } | more


HISTORIES = [
    [event(n % 7, day) for day, n in enumerate([0, 1, 2, 3, 4, 5, 6])],
    [event(3, 0, text="great love"), event(4, 2), event(3, 5)],
    [event(5, 1)],
]
CANDIDATES = [[{"title": t, "item_id": str(i)} for i, t in enumerate(TITLES[:4])] for _ in HISTORIES]


@pytest.fixture(
    scope="module", params=["tiny_bert-transformer", "tiny_llama-transformer", "tiny_bert-gru", "tiny_bert-lstm"]
)
def checkpoint(request):
    """A model whose zero-initialised parts are stirred, so that every part speaks, and its processor."""
    backbone, encoder = request.param.split("-")
    folder = request.getfixturevalue(backbone)
    torch.manual_seed(0)
    model = InterestModel.from_text_pretrained(str(folder), domains=TREE, encoder=encoder, **CONTEXT, **SIZES)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not name.startswith("text_model") and float(parameter.abs().sum()) == 0:
                parameter.normal_(std=0.1)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    return model.eval(), InterestProcessor.from_model(model, tokenizer, item_ids=[str(n) for n in range(5)])


def run(checkpoint, histories=HISTORIES, candidates=CANDIDATES, model=None, **more):
    own, processor = checkpoint
    with torch.no_grad():
        return (model or own)(**processor(histories=histories, candidates=candidates), **more)


FIELDS = (
    "logits",
    "ranking_scores",
    "user_embeds",
    "domain_embeds",
    "domain_interest",
    "change_rate",
    "future_interest",
    "concentration",
    "next_interest",
    "scene_interest",
    "scene_share",
    "intensity",
    "ratings",
)


def assert_same(first, second, rows=slice(None), atol=1e-5):
    for field in FIELDS:
        torch.testing.assert_close(
            first[field][rows], second[field], atol=atol, rtol=1e-4, msg=lambda m, f=field: f"{f}: {m}"
        )


def test_pooling_follows_the_backbone(checkpoint):
    model, _ = checkpoint
    assert model.config.text_pooling == ("last" if model.config.text_config.model_type == "llama" else "mean")


def test_outputs_have_their_documented_shapes(checkpoint):
    output = run(checkpoint)
    users, candidates, domains, horizons, width = 3, 4, len(TREE), 3, 32
    shapes = {
        "logits": (users, candidates),
        "ranking_scores": (users, candidates),
        "user_embeds": (users, width),
        "domain_embeds": (users, domains, width),
        "domain_interest": (users, domains),
        "change_rate": (users, domains),
        "overall_change": (users,),
        "future_interest": (users, horizons, domains),
        "concentration": (users, horizons, domains),
        "next_interest": (users, domains),
        "scene_interest": (users, 3, domains),
        "scene_share": (users, 3),
        "intensity": (users, horizons),
        "ratings": (users, candidates),
        "last_hidden_state": (users, 7, width),
    }
    for field, shape in shapes.items():
        assert tuple(output[field].shape) == shape, field
        assert torch.isfinite(output[field]).all(), field
    assert output.loss is None


def test_save_and_load_equal(checkpoint, tmp_path):
    model, processor = checkpoint
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path)
    assert not loaded.training
    assert {n for n, _ in loaded.named_parameters()} == {n for n, _ in model.named_parameters()}
    for (name, value), (_, other) in zip(model.state_dict().items(), loaded.state_dict().items(), strict=True):
        torch.testing.assert_close(value, other, msg=name)
    again = InterestProcessor.from_pretrained(tmp_path)
    assert again.item_ids == processor.item_ids and again.domains == processor.domains
    assert_same(run(checkpoint), run((loaded, again)), atol=0)


def test_config_round_trip(checkpoint, tmp_path):
    config = checkpoint[0].config
    config.save_pretrained(tmp_path)
    assert InterestConfig.from_pretrained(tmp_path).to_dict() == config.to_dict()


def test_a_model_made_from_a_config_has_no_garbage(checkpoint, tmp_path):
    config = checkpoint[0].config
    fresh = InterestModel(config)
    for name, value in fresh.state_dict().items():
        assert torch.isfinite(value.float()).all() and value.float().abs().max() < 1e4, name
    # a checkpoint without the heads' weights: a load on the meta device fills every one of them
    state = {k: v for k, v in fresh.state_dict().items() if k.startswith("text_model") or "." not in k}
    buffers = dict(fresh.named_buffers())
    fresh.save_pretrained(tmp_path, state_dict=state | buffers)
    loaded = AutoModel.from_pretrained(tmp_path)
    for name, value in loaded.state_dict().items():
        assert torch.isfinite(value.float()).all() and value.float().abs().max() < 1e4, name
    assert float(loaded.ranking_head.log_temperature.detach().abs().sum()) == 0


def test_a_batch_equals_its_rows(checkpoint):
    whole = run(checkpoint)
    for row in range(3):
        single = run(checkpoint, HISTORIES[row : row + 1], CANDIDATES[row : row + 1])
        assert_same(whole, single, rows=slice(row, row + 1))


def test_padding_changes_nothing(checkpoint):
    model, processor = checkpoint
    batch = processor(histories=HISTORIES, candidates=CANDIDATES)
    padded = dict(batch)
    for name, fill in (
        ("history", -1),
        ("history_times", 0),
        ("history_text", -1),
        ("history_actions", -1),
        ("history_scenes", -1),
    ):
        padded[name] = torch.nn.functional.pad(batch[name], (0, 2), value=fill)
    padded["history_values"] = torch.nn.functional.pad(batch["history_values"], (0, 2), value=torch.nan)
    padded["history_places"] = torch.nn.functional.pad(batch["history_places"], (0, 0, 0, 2), value=torch.nan)
    with torch.no_grad():
        assert_same(model(**batch), model(**padded))


def test_packed_rows_equal_separate_ones(checkpoint):
    """Three users in one row under segment ids answer as in three rows, but for rotary offsets, which are relative."""
    model, processor = checkpoint
    batch = dict(processor(histories=HISTORIES))
    filled = batch["history"] != -1
    packed = {
        k: v
        for k, v in batch.items()
        if not k.startswith("history") or k in ("history_counts", "history_events", "history_days")
    }
    for name in (
        "history",
        "history_times",
        "history_text",
        "history_values",
        "history_actions",
        "history_places",
        "history_scenes",
    ):
        packed[name] = batch[name][filled][None]
    segments = torch.arange(3)[:, None].expand_as(filled)[filled][None]
    ends = filled.sum(1).cumsum(0) - 1
    with torch.no_grad():
        first = model(**batch)
        second = model(**packed, segment_ids=segments, cut_rows=torch.zeros(3, dtype=torch.int64), cut_positions=ends)
    context = ("next_interest", "scene_interest", "scene_share")
    for field in ("user_embeds", "domain_interest", "future_interest", "intensity", *context):
        torch.testing.assert_close(first[field], second[field], atol=1e-5, rtol=1e-4)


def test_eager_equals_sdpa(checkpoint):
    model, _ = checkpoint
    before = run(checkpoint)
    original = model.config._attn_implementation
    assert original == "sdpa"
    try:
        model.config._attn_implementation = "eager"
        assert_same(before, run(checkpoint))
    finally:
        model.config._attn_implementation = original


def test_bfloat16_is_near(checkpoint):
    full = run(checkpoint)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = run(checkpoint)
    for field in ("domain_interest", "future_interest", "change_rate"):
        torch.testing.assert_close(full[field], low[field].float(), atol=0.03, rtol=0.05)
    top = TREE.depth == 0
    torch.testing.assert_close(low.future_interest[..., top].sum(-1), torch.ones(3, 3), atol=1e-5, rtol=0)


def checkpointing(model, verb: str) -> None:
    """Switches activation checkpointing, which transformers before 5.23 calls gradient checkpointing."""
    new = f"activation_checkpointing_{verb}"
    getattr(model, new if hasattr(model, new) else f"gradient_checkpointing_{verb}")()


def test_gradient_checkpointing_equals(checkpoint):
    model, processor = checkpoint
    if model.config.encoder != "transformer":
        pytest.skip("only layers of attention are computed anew")
    batch = processor(histories=HISTORIES)
    targets = batch["history"].roll(-1, 1)
    gradients = []
    for on in (False, True):
        model.zero_grad()
        model.train()
        if on:
            checkpointing(model, "enable")
        torch.manual_seed(1)
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        model.item_tower.id_dropout = 0.0
        model(**batch, ranking_targets=targets).loss.backward()
        gradients.append(model.history_encoder.layers[0].query_key_value.weight.grad.clone())
        checkpointing(model, "disable")
        model.eval()
    model.zero_grad()
    torch.testing.assert_close(gradients[0], gradients[1])


def test_states_are_causal(checkpoint):
    model, processor = checkpoint
    batch = dict(processor(histories=HISTORIES[:1]))
    changed = dict(batch)
    changed["history"] = batch["history"].clone()
    changed["history"][0, 4] = 0
    changed["history_values"] = batch["history_values"].clone()
    changed["history_values"][0, 4] = 9.0
    with torch.no_grad():
        first, second = model(**batch).last_hidden_state, model(**changed).last_hidden_state
    torch.testing.assert_close(first[:, :4], second[:, :4], atol=0, rtol=0)
    assert (first[:, 4:] - second[:, 4:]).abs().max() > 1e-4


def test_older_events_travel_as_counts(checkpoint):
    """Events beyond the band change the answer through their counts alone: the same counts of other events, the same answer."""
    model, processor = checkpoint
    longer = [event(3, -9), event(0, -8), *HISTORIES[0]]
    swapped = [event(0, -9), event(3, -8), *HISTORIES[0]]
    first = run(checkpoint, [longer], CANDIDATES[:1])
    second = run(checkpoint, [swapped], CANDIDATES[:1])
    without = run(checkpoint, HISTORIES[:1], CANDIDATES[:1])
    torch.testing.assert_close(first.domain_interest, second.domain_interest, atol=1e-6, rtol=0)
    assert (first.domain_interest - without.domain_interest).abs().max() > 1e-3


def test_an_empty_history_is_answered_with_the_population(checkpoint):
    model, _ = checkpoint
    shares = torch.rand(len(TREE))
    shares = torch.from_numpy(TREE_SUMS(shares.numpy()))
    old = model.population.shares.clone()
    model.population.shares.copy_(shares.expand(4, -1))
    try:
        output = run(checkpoint, [[], HISTORIES[1]], [CANDIDATES[0], CANDIDATES[1]])
        alone = run(checkpoint, [[]], CANDIDATES[:1])
    finally:
        model.population.shares.copy_(old)
    torch.testing.assert_close(output.domain_interest[0], shares.float(), atol=1e-3, rtol=1e-2)
    torch.testing.assert_close(output.domain_interest[0], alone.domain_interest[0])
    assert torch.isfinite(output.ranking_scores).all()


def TREE_SUMS(leaves):
    """Shares whose parents are the sum of their leaves, top sum 1."""
    import numpy as np

    shares = np.where(TREE.is_leaf, leaves + 0.1, 0.0)
    for node in np.argsort(-TREE.depth, kind="stable"):
        if TREE.parent[node] >= 0:
            shares[TREE.parent[node]] += shares[node]
    return shares / shares[TREE.depth == 0].sum()


def test_every_trainable_part_gets_a_gradient(checkpoint):
    model, processor = checkpoint
    batch = processor(histories=HISTORIES)
    users, domains = 3, len(TREE)
    model.train()
    model.zero_grad()
    output = model(
        **batch,
        ranking_targets=batch["history"].roll(-1, 1),
        overall_labels=torch.ones(users, 7),
        rating_labels=torch.rand(users, 7),
        cut_targets=batch["history"][:, 0],
        completion_counts=torch.ones(users, domains),
        future_counts=torch.ones(users, 3, domains),
        future_mask=torch.ones(users, 3, dtype=torch.bool),
        change_labels=torch.stack([torch.full((users, domains), 0.2), torch.rand(users, domains) * 2 - 1], 1),
        intensity_counts=torch.ones(users, 3),
        event_rows=torch.tensor([0, 0, 1]),
        event_positions=torch.tensor([2, 5, 1]),
        event_times=batch["history_times"][[0, 0, 1], [3, 6, 2]],
        event_counts=torch.ones(3, domains),
        event_scenes=torch.tensor([0, -1, 2]),
    )
    output.loss.backward()
    model.eval()
    missing = [name for name, p in model.named_parameters() if p.grad is None]
    model.zero_grad()
    assert not missing
    assert set(output.losses) == set(TASKS)


def test_a_task_without_labels_contributes_nothing_but_takes_part(checkpoint):
    model, processor = checkpoint
    batch = processor(histories=HISTORIES)
    targets = batch["history"].roll(-1, 1)
    model.zero_grad()
    only = model(**batch, ranking_targets=targets)
    only.loss.backward()
    assert set(only.losses) == {"ranking", "ahead"}
    torch.testing.assert_close(only.loss.detach(), only.losses["ranking"] + only.losses["ahead"])
    # DDP waits for every head: its gradient is there, and zero
    assert float(model.intensity_head.mixture.grad.abs().sum()) == 0
    assert float(model.overall_head.scale.grad.abs().sum()) == 0
    model.zero_grad()
    masked = model(
        **batch,
        ranking_targets=targets,
        future_counts=torch.ones(3, 3, len(TREE)),
        future_mask=torch.zeros(3, 3, dtype=torch.bool),
        intensity_counts=torch.ones(3, 3),
    )
    torch.testing.assert_close(masked.loss, only.loss)


def test_switches(tiny_bert):
    torch.manual_seed(0)
    for switch in (
        "use_text",
        "use_prior",
        "use_drift",
        "use_domain_residual",
        "use_domain_fusion",
        "use_popularity",
        "use_time_bias",
        "use_calendar",
    ):
        model = InterestModel.from_text_pretrained(str(tiny_bert), domains=TREE, **(SIZES | {switch: False}))
        processor = InterestProcessor.from_model(
            model, AutoTokenizer.from_pretrained(tiny_bert), [str(n) for n in range(5)]
        )
        output = run((model, processor))
        assert torch.isfinite(output.ranking_scores).all(), switch
        if switch == "use_drift":
            assert float(output.change_rate.abs().max()) < 1e-6


def test_the_trajectory_is_the_same_network_for_every_domain_and_reads_where_everybody_goes(checkpoint):
    model, processor = checkpoint
    batch = processor(histories=HISTORIES)
    pasts = model.population.shares.expand(len(HISTORIES), -1, -1)
    assert pasts.shape[1] == 4
    risen = pasts.clone()
    risen[:, 2, 0] *= 3
    with torch.no_grad():
        before, after = (model(**batch, population_shares=shares) for shares in (pasts, risen))
    # the further pasts are read by the trajectory alone, and move the drift of that domain and what its siblings lose by it
    torch.testing.assert_close(before.domain_interest, after.domain_interest)
    assert (before.future_interest[..., 0] - after.future_interest[..., 0]).abs().max() > 1e-5
    with pytest.raises(ValueError, match=r"`population_shares` has shape \(3, 2, \d+\), expected \(M, 4, K\)"):
        model(**batch, population_shares=pasts[:, :2])


def test_a_trajectory_needs_no_further_pasts(tiny_bert):
    settings = SIZES | {"trajectory_half_lives": []}
    model = InterestModel.from_text_pretrained(str(tiny_bert), domains=TREE, **settings).eval()
    processor = InterestProcessor.from_model(
        model, AutoTokenizer.from_pretrained(tiny_bert), [str(n) for n in range(5)]
    )
    output = run((model, processor))
    assert model.domain_head.trajectory is not None and len(model.population.shares) == 2
    assert torch.isfinite(output.future_interest).all()


def test_shares_learn_from_cross_entropy_and_certainty_from_the_likelihood(checkpoint):
    model, processor = checkpoint
    batch = processor(histories=HISTORIES)
    head, tree = model.domain_head, TREE
    counts = torch.zeros(3, 3, len(TREE))
    for row, leaf in enumerate(np.flatnonzero(tree.is_leaf)[:3]):
        node, number = int(leaf), 1 + 20 * row
        while node >= 0:
            counts[row, :2, node] = number
            node = int(tree.parent[node])
    mask = torch.tensor([True, True, False]).expand(3, 3)
    model.zero_grad()
    output = model(**batch, future_counts=counts, future_mask=mask)
    loss = output.losses["future"]
    # a window of forty events counts as one of one: mean over levels of the cross-entropy of its shares
    total = counts[..., tree.depth == 0].sum(-1, keepdim=True).clamp(min=1)
    log_future = output.future_interest.log()
    levels = torch.stack(
        [(counts / total * log_future)[..., tree.level(level)].sum(-1) for level in range(tree.num_levels)]
    )
    torch.testing.assert_close(loss, -levels.mean(0)[:, :2].mean(), atol=1e-5, rtol=1e-4)
    drift = head.trajectory.drift.weight
    (alone,) = torch.autograd.grad(-levels.mean(0)[:, :2].mean(), drift, retain_graph=True)
    output.loss.backward()
    torch.testing.assert_close(drift.grad, alone, atol=1e-6, rtol=1e-3)
    assert float(head.concentration.grad[0].abs().sum()) > 0
    assert float(head.trajectory.drift.weight.grad.abs().sum()) > 0


def test_changes_learn_to_be_ordered_as_they_are_judged(checkpoint):
    model, processor = checkpoint
    batch = processor(histories=HISTORIES)
    labels = torch.full((3, 2, len(TREE)), torch.nan)
    labels[:, 0, :4] = torch.tensor([0.1, 0.2, 0.3, 0.4])
    labels[0, 1, :4] = torch.tensor([0.5, -0.6, 0.1, -0.2])  # the last two are not clear
    labels[2, 1, :4] = torch.tensor([-0.4, 0.3, 0.0, 0.9])
    model.zero_grad()
    output = model(**batch, change_labels=labels)
    growth = (output.future_interest[:, model.config.reference_index].log() - labels[:, 0].log()).detach()
    grew, faded = growth[[0, 2, 2], [0, 1, 3]], growth[[0, 2], [1, 0]]
    expected = torch.stack([-torch.sigmoid(2 * (up - down)).log() for up in grew for down in faded]).mean()
    torch.testing.assert_close(output.losses["change"], expected, atol=1e-5, rtol=1e-4)
    # a step against the gradient moves those that grew above those that faded
    drift = model.domain_head.trajectory.drift.weight
    output.loss.backward()
    assert float(drift.grad.abs().sum()) > 0
    with torch.no_grad():
        change, old = 0.05 * drift.grad / drift.grad.norm(), drift.clone()
        drift -= change
        better = model(**batch, change_labels=labels).losses["change"]
        drift.copy_(old)
    assert better < output.losses["change"]
    # with nothing that clearly faded there is nothing to order
    labels[:, 1] = labels[:, 1].abs()
    assert model(**batch, change_labels=labels).losses["change"] == 0


def test_a_model_without_domains_ranks(tiny_bert):
    model = InterestModel.from_text_pretrained(str(tiny_bert), **SIZES)
    processor = InterestProcessor.from_model(
        model, AutoTokenizer.from_pretrained(tiny_bert), [str(n) for n in range(5)]
    )
    output = run((model, processor))
    assert output.domain_interest is None and output.future_interest is None
    assert output.ranking_scores.shape == (3, 4)


def test_the_attention_implementation_reaches_every_layer(checkpoint):
    model, _ = checkpoint
    layers = [module for module in model.modules() if isinstance(getattr(module, "config", None), type(model.config))]
    assert {id(layer.config) for layer in layers} == {id(model.config)}


def test_labels_change_nothing_that_is_asked_for(checkpoint):
    """Rows whose states no label needs are left out in training only where nobody asks for their scores."""
    model, processor = checkpoint
    batch = processor(histories=HISTORIES)
    targets = torch.full_like(batch["history"], -1)
    targets[0, 0] = 0
    with torch.no_grad():
        alone = model(**batch, rank_items=True).ranking_scores
        beside = model(**batch, rank_items=True, ranking_targets=targets).ranking_scores
        first = torch.tensor([-1, -1, 0])
        cut = model(**batch, cut_targets=first).losses["ranking"]
        both = model(**batch, cut_targets=first, ranking_targets=torch.full_like(targets, -1)).last_hidden_state
    torch.testing.assert_close(alone, beside, atol=1e-5, rtol=1e-4)
    assert torch.isfinite(cut) and both[2].abs().sum() > 0


def test_a_target_is_asked_after_the_event_that_is_named(checkpoint):
    """The loss of a target that stands at one position and is asked at another is that of the target at the other one."""
    model, processor = checkpoint
    batch = processor(histories=HISTORIES)
    targets, moved = torch.full_like(batch["history"], -1), torch.full_like(batch["history"], -1)
    row = int((batch["history"] >= 0).sum(1).argmax())
    targets[row, 0], moved[row, 1] = 1, 1
    positions = torch.arange(targets.shape[1]).repeat(len(targets), 1)
    with torch.no_grad():
        at_its_own = model(**batch, ranking_targets=targets).losses["ranking"]
        positions[row, 1] = 0
        elsewhere = model(**batch, ranking_targets=moved, ranking_positions=positions).losses["ranking"]
        later = model(**batch, ranking_targets=moved).losses["ranking"]
    torch.testing.assert_close(elsewhere, at_its_own, atol=1e-5, rtol=1e-4)
    assert (later - elsewhere).abs() > 1e-4


def test_what_is_popular_draws_some_more_than_others(checkpoint):
    """Scores of candidates are those of the whole table, at each query's moment, and depend on the person's taste."""
    model, processor = checkpoint
    batch = dict(processor(histories=HISTORIES))
    shape = 3, len(batch["item_text_index"]), model.config.num_item_features
    features = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    moments = {"item_features": features, "cut_feature_index": torch.tensor([2, 0, 1])}
    candidates = torch.tensor([[1, 0, 2], [2, 1, 0], [0, 2, 1]])
    with torch.no_grad():
        whole = model(**batch, **moments, rank_items=True)
        some = model(**batch, **moments, candidates=candidates)
        taste = model.ranking_head.taste.weight.clone()
        model.ranking_head.taste.weight.zero_()
        plain = model(**batch, **moments, rank_items=True)
        model.ranking_head.taste.weight.copy_(taste)
    torch.testing.assert_close(some.ranking_scores, whole.ranking_scores.gather(1, candidates), atol=1e-5, rtol=1e-4)
    weighed = features[moments["cut_feature_index"]][..., [1, 4, 5]]  # a week, all time, age
    expected = (weighed @ (whole.user_embeds @ taste.T)[..., None])[..., 0]
    torch.testing.assert_close(whole.ranking_scores - plain.ranking_scores, expected, atol=1e-5, rtol=1e-4)
    assert expected.std(0).min() > 1e-4


def test_popularity_is_worth_what_a_network_of_its_own_says(checkpoint):
    """The bias of an item is no line in its log counts: twice as popular may be worth more where it is popular already."""
    model, processor = checkpoint
    batch = dict(processor(histories=HISTORIES))
    features = torch.arange(7.0) * torch.rand(1, len(batch["item_text_index"]), 7, generator=torch.manual_seed(1))
    head = model.ranking_head
    hidden = F.silu(features @ head.popularity_hidden.weight.T + head.popularity_hidden.bias)
    expected = 10 * (features @ head.popularity.weight[0] + hidden @ head.popularity_output.weight[0])
    with torch.no_grad():
        torch.testing.assert_close(head.bias(features), expected)
        line = head.bias(torch.cat([features, (features + features.roll(1, 1)) / 2, features.roll(1, 1)]))
        assert (line[1] - (line[0] + line[2]) / 2).abs().max() > 1e-3
        scores = model(**batch, item_features=features, rank_items=True).ranking_scores
        without = model(**batch, item_features=torch.zeros_like(features), rank_items=True).ranking_scores
        taste = model.ranking_head.taste(model(**batch).user_embeds) @ features[0][:, [1, 4, 5]].T
    torch.testing.assert_close(
        scores - without - taste, (expected - head.bias(features * 0)).expand(3, -1), atol=1e-4, rtol=1e-4
    )


def test_what_everybody_has_in_common_makes_no_query(checkpoint):
    """The mean over those that are asked of in training; later the running one, which a batch that asks nothing leaves alone."""
    head = InterestModel(checkpoint[0].config).ranking_head.train()
    users, asked = torch.randn(2, 5, head.direction.in_features) + 3.0, torch.rand(2, 5) < 0.6
    with torch.no_grad():
        head.log_temperature.zero_()
        query = head.query(users, asked)
        torch.testing.assert_close(query[asked].mean(0), torch.zeros(query.shape[-1]), atol=1e-5, rtol=0)
        torch.testing.assert_close(head.center, 0.1 * head.direction(users)[asked].mean(0))
        center = head.center.clone()
        head.query(users, asked & False)
        torch.testing.assert_close(head.center, center)
        torch.testing.assert_close(head.eval().query(users), head.direction(users) - center)


def test_forecasts_alone_are_the_same_forecasts(checkpoint):
    """And nothing of the ranking is computed for them where domains have a view of their own."""
    model = checkpoint[0]
    whole, alone = run(checkpoint), run(checkpoint, candidates=None, forecast_only=True)
    for name in ("domain_interest", "change_rate", "future_interest", "concentration", "intensity", "domain_embeds"):
        torch.testing.assert_close(getattr(whole, name), getattr(alone, name), msg=name)
    assert alone.ranking_scores is None and alone.loss is None
    assert (alone.last_hidden_state is None) == (model.domain_view is not None)


def test_positions_are_asked_after_the_last_event(tiny_bert):
    """In training every query comes after the last event: one at its very position would be like none of them."""
    torch.manual_seed(0)
    sizes = SIZES | {"time_unit": "order", "horizon_unit": "events", "horizons": [1.0, 5.0], "reference_horizon": 5.0}
    model = InterestModel.from_text_pretrained(str(tiny_bert), domains=TREE, **sizes).eval()
    with torch.no_grad():
        for layer in (model.query_layer, model.domain_view.domain_query):
            for linear in (layer.attention_out, layer.mlp_out):
                linear.weight.normal_(std=0.1)
        for linear in (model.domain_head.residual, model.domain_head.user_residual):
            linear.weight.normal_(std=0.1)
        batch = {
            "item_embeds": torch.randn(3, 32),
            "item_ids": torch.arange(3),
            "item_domains": torch.tensor([[0], [2], [4]]),
            "item_domain_weights": torch.ones(3, 1),
            "history": torch.tensor([[0, 1, 2, 1]]),
            "history_times": torch.tensor([[4, 5, 6, 9]]),
        }
        unsaid = model(**batch)
        at, after, later = (model(**batch, query_times=torch.tensor([time])) for time in (9, 10, 14))
    for name in ("future_interest", "user_embeds"):
        torch.testing.assert_close(getattr(at, name), getattr(after, name))
        torch.testing.assert_close(getattr(unsaid, name), getattr(after, name))
        assert not torch.allclose(getattr(later, name), getattr(after, name))

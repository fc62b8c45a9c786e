"""The identities of DESIGN 4, on random parameters and inputs."""

from __future__ import annotations

from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.special import logit
from scipy.stats import dirichlet_multinomial, nbinom
from topic_shares import draw_topics
from transformers import BertConfig

from interest_lm import InterestConfig, InterestModel, modeling_interest
from interest_lm.modeling_interest import (
    FEW_WEIGHTS,
    FusedRankingLoss,
    InterestBuckets,
    InterestDropout,
    attend,
    group_log_softmax,
    intensity_loss,
    shares_moments,
)
from interest_lm.taxonomy_interest import DomainTree


def tree_of(shape: list[int]) -> DomainTree:
    return DomainTree.from_paths(
        [
            [[f"t{top}", *([f"c{child}"] if children > 1 else [])]]
            for top, children in enumerate(shape)
            for child in range(children)
        ]
    )


def stirred_model(shape: list[int], seed: int, **more) -> InterestModel:
    text = BertConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, vocab_size=30)
    config = InterestConfig(
        text_config=text.to_dict(),
        hidden_size=16,
        intermediate_size=16,
        domains=tree_of(shape).nodes,
        max_history=9,
        num_topics=3,
        **{"use_rate_prior": True, "use_absence": True, **more},
    )
    torch.manual_seed(seed)
    model = InterestModel(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not name.startswith("text_model"):
                parameter.add_(torch.randn_like(parameter) * 0.3)
    draw_topics(model, seed)
    return model


def random_batch(model: InterestModel, seed: int, users: int = 3, length: int = 6) -> dict[str, torch.Tensor]:
    random = np.random.default_rng(seed)
    tree = DomainTree(model.config.domains)
    leaves = np.flatnonzero(tree.is_leaf)
    nodes = np.full((8, tree.num_levels), -1)
    for item in range(8):
        node = random.choice(leaves)
        for depth in range(tree.num_levels):
            nodes[item, depth] = node
            node = tree.parent[node]
            if node < 0:
                break
    times = np.sort(random.integers(0, 400 * 86400, (users, length)), 1) + 1_500_000_000
    return {
        "history": torch.from_numpy(random.integers(0, 8, (users, length))),
        "history_times": torch.from_numpy(times),
        "item_embeds": torch.from_numpy(random.normal(size=(8, 16)).astype(np.float32)),
        "item_domains": torch.from_numpy(nodes),
        "item_domain_weights": torch.from_numpy((nodes >= 0).astype(np.float32)),
        "query_times": torch.from_numpy(times[:, -1] + random.integers(0, 90 * 86400, users)),
    }


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), scale=st.floats(0, 1))
def test_the_residual_scale_is_linear_in_log_odds(seed, scale):
    """Of interests among siblings, from those of the statistics to those of the whole model."""
    model = stirred_model([2, 3], seed)
    batch = random_batch(model, seed)
    siblings = DomainTree(model.config.domains).parent < 0
    odds = {}
    for part in (0.0, scale, 1.0):
        model.config.residual_scale = part
        with torch.no_grad():
            log = model(**batch).domain_interest[:, torch.from_numpy(siblings)].log()
        odds[part] = log - log.mean(1, keepdim=True)
    assert (odds[1.0] - odds[0.0]).abs().max() > 1e-3
    between = odds[0.0] + scale * (odds[1.0] - odds[0.0])
    torch.testing.assert_close(odds[scale], between, atol=1e-4, rtol=1e-4)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10**6), weights=st.lists(st.floats(-1.5, 1.5), min_size=5, max_size=5))
def test_calibrated_intensity_is_linear_in_the_logs_of_its_parts(seed, weights):
    """At every horizon, also between those of the model; how many are expected says nothing of what they will be."""
    model = stirred_model([2, 3], seed)
    batch = random_batch(model, seed)
    further = torch.tensor([2.0])
    days = torch.cat([torch.tensor(model.config.horizons), further])

    def ask(calibration: list[float] | None):
        model.config.intensity_calibration = calibration
        with torch.no_grad():
            output, asked = model(**batch), model(**batch, horizons=further)
        return (torch.cat([output.intensity, asked.intensity], 1) / days).log(), output

    usual, before = ask(None)
    parts = [ask([0.0, *one])[0] for one in np.eye(4).tolist()]
    found, after = ask(weights)
    expected = weights[0] + sum(weight * part for weight, part in zip(weights[1:], parts, strict=True))
    assume(
        all(float((part + days.log()).abs().max()) < 11.9 for part in (usual, expected, *parts))
    )  # at 12 they are cut off
    torch.testing.assert_close(usual, sum(parts[:3]), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(
        parts[3], parts[3][:, :1].expand_as(parts[3]), atol=1e-4, rtol=1e-4
    )  # one long run for all horizons
    assert torch.equal(after.future_interest, before.future_interest)
    assert torch.equal(after.intensity_dispersion, before.intensity_dispersion)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), days=st.lists(st.floats(0.1, 900), min_size=1, max_size=12), learned=st.booleans())
def test_a_rate_lies_between_what_was_done_and_what_it_is_pulled_to(seed, days, learned):
    """Gamma posteriors: the stronger the pull, the nearer the long run is to everybody's rate, and what decays to the long run."""
    head = stirred_model([2], seed, use_rate_prior=learned).intensity_head
    assert (head.strength is not None) == learned
    ages = torch.tensor([sorted(days, reverse=True)])
    half_lives, population = torch.tensor([7.0, 30.0, 120.0]), torch.tensor([0.4])
    events, span = torch.tensor([float(len(days))]), ages[:, 0]

    weight = 2 ** (-ages / half_lives[:, None])

    def ask():
        with torch.no_grad():
            return head.rates(weight.sum(1)[None], events, span, half_lives, population)[0]

    rates = ask()
    own = weight.sum(1) / (half_lives / np.log(2) * (1 - 2 ** (-span / half_lives)))
    long_run = rates[3]
    between = (rates[:3] - own) * (rates[:3] - long_run)
    assert (between <= 1e-5 * own * long_run).all() and rates[4] == population
    if not learned:
        assert float(long_run) == pytest.approx(float((events + 1) / (span + 1 / population)), rel=1e-5)
        return
    with torch.no_grad():
        head.strength[1] = 0.0
        head.strength[0], head.strength[2:] = 20.0, 20.0
    torch.testing.assert_close(ask(), population.expand(5), rtol=1e-3, atol=0)
    with torch.no_grad():
        head.strength[0], head.strength[2:] = -20.0, -20.0
    torch.testing.assert_close(ask()[:4], torch.cat([own, events / span]), rtol=1e-3, atol=1e-9)


@settings(max_examples=20, deadline=None)
@given(shape=st.lists(st.integers(1, 4), min_size=1, max_size=4), seed=st.integers(0, 10**6))
def test_sums_and_change_rates_are_exact(shape, seed):
    model = stirred_model(shape, seed)
    tree = DomainTree(model.config.domains)
    with torch.no_grad():
        output = model(**random_batch(model, seed))
    p, f, r = output.domain_interest, output.future_interest, output.change_rate
    top = tree.depth == 0
    for shares in (p[:, None], f):
        torch.testing.assert_close(shares[..., top].sum(-1), torch.ones(shares.shape[:-1]), atol=1e-6, rtol=0)
        for parent in np.flatnonzero(~tree.is_leaf):
            children = shares[..., tree.parent == parent].sum(-1)
            torch.testing.assert_close(children, shares[..., parent], atol=1e-6, rtol=0)
    # strictly inside (-1, 1) but for float32's rounding of tanh
    assert (r.abs() <= 1).all()
    reference = model.config.horizons.index(model.config.reference_horizon)
    moderate = r.abs() < 0.999
    expected = (p * (1 + r) / (1 - r))[moderate]
    torch.testing.assert_close(f[:, reference][moderate], expected, atol=1e-5, rtol=1e-3)
    assert (output.concentration > 0).all() and (output.intensity > 0).all()
    assert (output.absence > 0).all() and (output.absence < 1).all()


@settings(max_examples=20, deadline=None)
@given(
    horizons=st.lists(st.floats(0.01, 500), min_size=1, max_size=4),
    known=st.lists(st.integers(1, 60), min_size=1, max_size=4, unique=True).map(sorted),
    seed=st.integers(0, 10**6),
)
def test_forecasts_at_any_horizon(horizons, known, seed):
    """The configured horizons answer as ever; between them log intensity is linear in log h, beyond them the rate goes on."""
    model = stirred_model([3, 1, 2], seed, horizons=known, reference_horizon=known[-1])
    tree = DomainTree(model.config.domains)
    batch = random_batch(model, seed) | {"candidates": torch.tensor([[0, 1], [2, 3], [4, 5]])}
    with torch.no_grad():
        usual, asked = model(**batch), model(**batch, horizons=torch.tensor([*horizons, *map(float, known)]))
    number = len(horizons)
    names = ("future_interest", "concentration", "intensity", "intensity_dispersion", "absence")
    for name in names:
        assert asked[name].shape[1] == number + len(known)
        torch.testing.assert_close(asked[name][:, number:], usual[name], atol=1e-6, rtol=1e-5, msg=name)
    for name in ("change_rate", "overall_change", "domain_interest", "ranking_scores", "logits", "user_embeds"):
        torch.testing.assert_close(asked[name], usual[name], atol=1e-5, rtol=1e-5, msg=name)
    shares = asked.future_interest[:, :number]
    top = tree.depth == 0
    torch.testing.assert_close(shares[..., top].sum(-1), torch.ones(shares.shape[:-1]), atol=1e-6, rtol=0)
    x = np.log(known)
    assume(float(usual.intensity.log().abs().max()) < 11.9)  # at 12 they are cut off
    for place, horizon in enumerate(horizons):
        within = np.clip(np.log(horizon), x[0], x[-1])
        for user in range(3):
            on_line = np.interp(within, x, usual.intensity[user].log().numpy()) + np.log(horizon) - within
            assert asked.intensity[user, place].log() == pytest.approx(np.clip(on_line, -12, 12), abs=1e-3)


def test_horizons_must_be_positive_and_come_without_labels():
    model = stirred_model([2, 2], 0)
    batch = random_batch(model, 0)
    for wrong in ([0.0], [-3.0], [float("nan")], [float("inf")], [[1.0]]):
        with pytest.raises(ValueError, match="`horizons` is .*expected positive numbers of days"):
            model(**batch, horizons=torch.tensor(wrong))
    with pytest.raises(ValueError, match="`horizons` were given with labels"):
        model(**batch, horizons=torch.tensor([3.0]), intensity_counts=torch.zeros(3, 3))


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_the_forecast_starts_at_today(seed):
    """`f(h) -> p` as `h -> 0`, for any parameters."""
    model = stirred_model([3, 2], seed)
    head = model.domain_head
    with torch.no_grad():
        head.horizons.copy_(torch.tensor([1e-9, 7.0, 28.0]))
        output = model(**random_batch(model, seed))
    torch.testing.assert_close(output.future_interest[:, 0], output.domain_interest, atol=1e-5, rtol=1e-4)


def test_before_training_the_forecast_is_the_statistics():
    """With residuals at zero, p is the Dirichlet posterior of the counts, whatever the network holds."""
    text = BertConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, vocab_size=30)
    config = InterestConfig(text_config=text.to_dict(), hidden_size=16, domains=tree_of([1, 1, 1]).nodes)
    model = InterestModel(config).eval()
    batch = random_batch(model, 3)
    with torch.no_grad():
        output = model(**batch)
    counts = torch.zeros(3, 3)
    for user in range(3):
        for item in batch["history"][user]:
            counts[user, batch["item_domains"][item, 0]] += 1
    strength = 5.0
    expected = (counts + strength / 3) / (counts.sum(1, keepdim=True) + strength)
    torch.testing.assert_close(output.domain_interest, expected, atol=1e-4, rtol=1e-3)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), kappa=st.floats(0.5, 200))
def test_dirichlet_multinomial_equals_scipy(seed, kappa):
    random = np.random.default_rng(seed)
    model = stirred_model([1, 1, 1, 1], seed)
    share = random.dirichlet(np.ones(4))
    counts = random.multinomial(int(random.integers(1, 30)), share).astype(float)
    loss = model.domain_head.dirichlet_multinomial(
        torch.tensor(counts[None]), torch.tensor(np.log(share)[None]), torch.full((1, 4), kappa, dtype=torch.float64)
    )
    from scipy.special import gammaln

    coefficient = gammaln(counts.sum() + 1) - gammaln(counts + 1).sum()
    expected = dirichlet_multinomial.logpmf(counts.astype(int), kappa * share, int(counts.sum())) - coefficient
    assert float(loss) == pytest.approx(-expected, rel=1e-4, abs=1e-4)


@settings(max_examples=25, deadline=None)
@given(mean=st.floats(0.05, 50), size=st.floats(0.2, 50), count=st.integers(0, 60), absence=st.floats(0.001, 0.95))
def test_negative_binomial_equals_scipy(mean, size, count, absence):
    """Zero-inflated, too; the mean is that of all."""
    output = {"log_mean": torch.tensor([[np.log(mean)]]), "log_size": torch.tensor([[np.log(size)]])}
    asked = torch.tensor([[float(count)]]), torch.ones(1, 1, dtype=torch.bool)
    expected = nbinom.pmf(count, size, size / (size + mean))
    assert float(intensity_loss(output, *asked)) == pytest.approx(-np.log(expected), rel=1e-3, abs=1e-3)
    output["absence"] = torch.tensor([[logit(absence)]]).float().clamp(-12, 7)
    expected = (1 - absence) * nbinom.pmf(count, size, size / (size + mean / (1 - absence))) + absence * (count == 0)
    assert float(intensity_loss(output, *asked)) == pytest.approx(-np.log(expected), rel=1e-3, abs=1e-3)


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 10**6), rows=st.integers(1, 40), items=st.integers(2, 30), chunk=st.integers(1, 16),
    device=st.sampled_from(["cpu", "cuda"]),
)  # fmt: skip
def test_fused_softmax_equals_the_plain_one(seed, rows, items, chunk, device):
    """Both ways to add what rows of one moment share, that of the CPU and that of a GPU."""
    generator = torch.Generator().manual_seed(seed)
    query = torch.randn(rows, 8, generator=generator, requires_grad=True)
    table = torch.randn(items, 8, generator=generator, requires_grad=True)
    bias = torch.randn(3, items, generator=generator, requires_grad=True)
    index = torch.randint(0, 3, (rows,), generator=generator)
    target = torch.randint(0, items, (rows,), generator=generator)
    taste = torch.randn(rows, 2, generator=generator, requires_grad=True)
    features = torch.randn(2, 3, items, generator=generator)
    inputs = query, table, bias, taste
    with mock.patch.object(modeling_interest, "shares_moments", lambda _: shares_moments(device)):
        loss = FusedRankingLoss.apply(
            query, table, bias, index, target, None, torch.float32, chunk, None, None, 0.0, None, taste, features
        )
    gradients = torch.autograd.grad(2 * loss, inputs)
    personal = torch.einsum("rj,jri->ri", taste, features[:, index])
    plain = torch.nn.functional.cross_entropy(query @ table.T + bias[index] + personal, target)
    expected = torch.autograd.grad(2 * plain, inputs)
    torch.testing.assert_close(loss, plain)
    for one, other in zip(gradients, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("taken_out", [False, True])
@pytest.mark.parametrize(("smoothing", "weight"), [(0.1, None), (0.0, 0.4)])
def test_other_objectives_equal_the_plain_ones(smoothing, weight, taken_out):
    """Label smoothing and gBCE, with and without items that are no alternatives."""
    generator = torch.Generator().manual_seed(0)
    query, table = (torch.randn(rows, 8, generator=generator, requires_grad=True) for rows in (7, 12))
    bias = torch.randn(2, 12, generator=generator, requires_grad=True)
    index, target = torch.arange(7) % 2, torch.arange(7)
    inclusion = torch.where(torch.arange(12) >= 9, torch.inf, 0.0) if taken_out else None
    inputs = query, table, bias
    loss = FusedRankingLoss.apply(
        query, table, bias, index, target, inclusion, torch.float32, 3, None, None, smoothing, weight
    )
    logits = (query @ table.T + bias[index])[:, : 9 if taken_out else 12]
    if weight is None:
        plain = torch.nn.functional.cross_entropy(logits, target, label_smoothing=smoothing)
    else:
        label = torch.nn.functional.one_hot(target, logits.shape[1]).float()
        weights = torch.where(label > 0, weight, 1.0)
        plain = torch.nn.functional.binary_cross_entropy_with_logits(logits, label, weights, reduction="sum") / 7
    torch.testing.assert_close(loss, plain)
    for one, other in zip(torch.autograd.grad(loss, inputs), torch.autograd.grad(plain, inputs), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_sampled_softmax_estimates_the_full_partition_sum():
    """With inclusion chances, the mean over many samples of the partition sum is that of the whole catalogue."""
    generator = torch.Generator().manual_seed(0)
    query, table = torch.randn(1, 4, generator=generator), torch.randn(50, 4, generator=generator)
    chance = torch.rand(50, generator=generator) * 0.8 + 0.1
    full = (query @ table.T).logsumexp(1)
    sums = []
    for _ in range(4000):
        kept = torch.rand(50, generator=generator) < chance
        kept[7] = True
        rows = kept.nonzero()[:, 0]
        own = int((rows == 7).nonzero())
        loss = FusedRankingLoss.apply(
            query, table[rows], None, None, torch.tensor([own]), chance[rows].log(), torch.float32, 8
        )
        sums.append(float((loss + (query @ table[7])).exp()))
    assert np.mean(sums) == pytest.approx(float(full.exp()), rel=0.02)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), groups=st.integers(1, 5), nodes=st.integers(1, 12))
def test_group_log_softmax(seed, groups, nodes):
    generator = torch.Generator().manual_seed(seed)
    group = torch.randint(0, groups, (nodes,), generator=generator)
    logits = torch.randn(4, nodes, generator=generator) * 30
    result = group_log_softmax(logits, group, groups)
    for number in group.unique():
        torch.testing.assert_close(result[:, group == number], logits[:, group == number].log_softmax(-1))


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_repeats_are_counted_once_per_item(seed):
    """The gain of an item had before, recounted event by event, and its gradient through the fused loss."""
    model = stirred_model([2], seed)
    head, random = model.ranking_head, np.random.default_rng(seed)
    history = torch.from_numpy(random.integers(0, 4, (1, 8)))
    same = history[:, :, None] == history[:, None, :]
    gains = model.position_repeats(history, torch.zeros_like(history), same)[0]
    weight = head.repetition.weight[0]
    for position in range(8):
        total = torch.zeros(4)
        total.index_add_(0, history[0], gains[position].detach())
        for item in range(4):
            ages = [position - e for e in range(position + 1) if history[0, e] == item]
            features = [float(bool(ages)), *(np.log1p(sum(2 ** (-a / half) for a in ages)) for half in (3.0, 30.0))]
            expected = FEW_WEIGHTS * float((weight.detach() * torch.tensor(features)).sum()) if ages else 0.0
            assert float(total[item]) == pytest.approx(expected, abs=1e-4)
    query, table = torch.randn(8, 5), torch.randn(4, 5)
    targets = torch.from_numpy(random.integers(0, 4, 8))
    loss = FusedRankingLoss.apply(
        query, table, None, None, targets, None, torch.float32, 3, gains, history.expand(8, -1).contiguous()
    )
    plain_gain = torch.zeros(8, 4).scatter_add(1, history.expand(8, -1), gains)
    plain = torch.nn.functional.cross_entropy(query @ table.T + plain_gain, targets)
    torch.testing.assert_close(loss, plain)
    gradient = torch.autograd.grad(loss, head.repetition.weight, retain_graph=True)[0]
    torch.testing.assert_close(gradient, torch.autograd.grad(plain, head.repetition.weight)[0], atol=1e-5, rtol=1e-4)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10**6), unit=st.sampled_from(["days", "events"]))
def test_ahead_loss_recounts_the_following_windows(seed, unit):
    """Cross-entropy of the domains of the windows that follow in one's own segment, event by event."""
    model = stirred_model([2, 3], seed)
    model.config.horizon_unit = unit
    head, random = model.domain_head, np.random.default_rng(seed)
    batch = random_batch(model, seed, users=2, length=30)
    history, nodes, weights = batch["history"], batch["item_domains"], batch["item_domain_weights"]
    history[1, 25:] = -1
    segments = torch.from_numpy(np.sort(random.integers(0, 3, (2, 30)), 1))
    times = torch.from_numpy(np.sort(random.integers(0, 20 * 86400, (2, 30)), 1))
    states = torch.randn(2, 30, 16)
    loss = events = 0.0
    for user, position in np.ndindex(2, 30):
        if history[user, position] < 0:
            continue
        ahead = head.ahead_log(states[user, position]).detach()
        after = [
            step
            for step in range(position + 1, 30)
            if segments[user, step] == segments[user, position] and history[user, step] >= 0
        ]
        for window, horizon in enumerate([*model.config.horizons, 20]):
            if unit == "events" or window == len(model.config.horizons):
                inside = after[: int(horizon)]
            else:
                inside = [step for step in after if times[user, step] - times[user, position] <= horizon * 86400]
            counts = torch.zeros(len(model.config.domains))
            for step in inside:
                for node, weight in zip(nodes[history[user, step]], weights[history[user, step]], strict=True):
                    if node >= 0:
                        counts[node] += weight
            if inside:
                loss += -(counts * ahead[window]).sum() / len(inside) ** 0.5
                events += len(inside) ** 0.5
    found = head.ahead_loss(states, times, history, segments, nodes, weights).detach()
    torch.testing.assert_close(found, loss / events, atol=1e-4, rtol=1e-4)


def test_bucket_biases_and_their_gradient_are_those_of_an_embedding():
    torch.manual_seed(0)
    table, buckets = InterestBuckets(6, 2), torch.randint(6, (3, 5, 7), dtype=torch.int32)
    weights = torch.randn(3, 2, 5, 7)
    expected = torch.nn.functional.embedding(buckets, table.weight).movedim(-1, 1)
    (gradient,) = torch.autograd.grad((expected * weights).sum(), table.weight)
    found = table(buckets)
    torch.testing.assert_close(found, expected)
    (found * weights).sum().backward()
    torch.testing.assert_close(table.weight.grad, gradient)


@pytest.mark.parametrize("learnt", [False, True])
def test_attention_with_a_bias_that_several_queries_share(learnt):
    torch.manual_seed(0)
    query, key, value = (torch.randn(3, 2, length, 4, dtype=torch.float64) for length in (6, 5, 5))
    bias = torch.randn(3, 1, 2, 1, 5, dtype=torch.float64)
    bias[:, :, :, :, 3] = -torch.inf
    bias.requires_grad_(learnt)
    full = bias.expand(3, 1, 2, 3, 5).flatten(2, 3)
    expected = torch.softmax(query @ key.mT / 2 + full, -1) @ value
    for implementation in ("sdpa", "eager"):
        torch.testing.assert_close(attend(query, key, value, bias, implementation), expected)
        torch.testing.assert_close(attend(query, key, value, full, implementation), expected)


@pytest.mark.parametrize(("chance", "expected"), [(0.0, 0.0), (0.25, 0.25), (0.1, 26 / 256), (0.9999, 255 / 256)])
def test_dropout_keeps_the_mean(chance, expected):
    torch.manual_seed(0)
    dropped = InterestDropout(chance)(torch.ones(400, 301))
    assert abs(float((dropped == 0).double().mean()) - expected) < 0.005
    assert abs(float(dropped.mean()) - 1) < (0.2 if chance > 0.9 else 0.01)
    assert torch.equal(InterestDropout(chance).eval()(torch.ones(3, 3)), torch.ones(3, 3))

"""The numbers of the intensity head, fitted once more on validation windows."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from test_model_mathematics import stirred_model

from interest_lm.training.intensity import NETWORK, IntensityFit, apply_intensity, fit_intensity, intensity_head


HORIZONS = [2.0, 8.0]


def chance_of_nothing(mean, size, absence) -> np.ndarray:
    return absence + (1 - absence) * (size / (size + mean / (1 - absence))) ** size


class Drawn:
    """A predictor of people whose counts are drawn from an intensity head that is another than its model's."""

    def __init__(self, people: int, seed: int = 0, **change):
        torch.manual_seed(seed)
        self.model = stirred_model([2, 2], 0, horizons=HORIZONS, reference_horizon=8.0)
        head, random = self.model.intensity_head, np.random.default_rng(seed)
        rate = torch.from_numpy(random.gamma(1.5, 0.4, (people, 1))).float()
        span, gap = (
            torch.from_numpy(random.uniform(5, 300, people)).float(),
            torch.from_numpy(random.gamma(1, 5, people)),
        )
        self.half_lives, self.population = torch.tensor([7.0, 30.0, 120.0]), torch.tensor([0.6])
        days = self.half_lives * (1 - (-span[:, None] / self.half_lives).exp())
        self.done = torch.cat([rate * days, torch.stack([rate[:, 0] * span, span, gap.float()], 1)], 1)
        self.user = torch.randn(people, 16)
        with torch.no_grad():
            head.absence.fill_(-3.0)
            head.dispersion.fill_(1.0)
            head.residual.bias.zero_()
            head.residual.weight.normal_(std=0.1)
            true = copy.deepcopy(head)
            for name, value in change.items():
                true.get_parameter(name).add_(value)
            self.true = {name: value.double() for name, value in self.said(true, slice(None)).items()}
        mean, size = self.true["log_mean"].exp().numpy(), self.true["log_size"].exp().numpy()
        away = self.true["absence"].sigmoid().numpy()
        self.nothing = chance_of_nothing(mean, size, away)
        counts = random.negative_binomial(size, size / (size + mean / (1 - away))) * (random.random(mean.shape) > away)
        everybody = np.ones(mean.shape, bool)
        self.cases = SimpleNamespace(
            user=np.arange(people), totals=counts.astype(np.float32), mask=everybody, horizons=tuple(HORIZONS)
        )

    def said(self, head, rows):
        return head(self.user[rows], self.done[rows], self.half_lives, self.population)

    def batches(self, cases):
        order = np.random.default_rng(5).permutation(len(cases.user))
        for rows in np.array_split(order, 3):
            yield rows, SimpleNamespace(histories=rows, time=None)

    def forward(self, histories, time, forecast_only):
        assert forecast_only
        with torch.inference_mode():
            self.said(self.model.intensity_head, torch.from_numpy(histories))

    def means(self, found) -> np.ndarray:
        return IntensityFit(self, self.cases).negative_binomials(found)[0]


def test_the_fit_reads_what_the_head_reads():
    """Whatever the order of the batches, and at those of the model's horizons that the cases have."""
    drawn = Drawn(50)
    with torch.no_grad():
        said = drawn.said(drawn.model.intensity_head, slice(None))
    fit = IntensityFit(drawn, drawn.cases)
    trained = {name: value.tolist() for name, value in fit.trained.items()}
    expected = said["log_mean"].exp(), said["log_size"].exp(), said["absence"].sigmoid()
    for found, values in zip(fit.negative_binomials(trained), expected, strict=True):
        np.testing.assert_allclose(found, values.numpy(), rtol=1e-4)
    cases = SimpleNamespace(**vars(drawn.cases))
    cases.totals, cases.mask, cases.horizons = cases.totals[:, 1:], cases.mask[:, 1:], (8.0,)
    fit = IntensityFit(drawn, cases)
    assert not fit.mask[:, 0].any() and fit.mask[:, 1].all()
    np.testing.assert_allclose(fit.negative_binomials(trained)[0], expected[0][:, 1:].numpy(), rtol=1e-4)


def test_what_happened_later_is_learnt():
    """Half as much is done, whoever paused long does much less, and a third stays away altogether."""
    change = {"level": -0.7, "gap": torch.tensor([-0.6, 0.0]), "absence": 2.3}
    drawn = Drawn(2000, **change)
    true = drawn.true["log_mean"].numpy()
    fit = IntensityFit(drawn, drawn.cases)
    before = fit.negative_binomials({name: value.tolist() for name, value in fit.trained.items()})
    found = fit_intensity(fit)
    means, *spread = fit.negative_binomials(found)
    assert means.sum() == pytest.approx(drawn.cases.totals.sum(), rel=1e-3)
    assert np.abs(np.log(means) - true).mean() < 0.25 * np.abs(np.log(before[0]) - true).mean()
    assert np.abs(chance_of_nothing(means, *spread) - drawn.nothing).mean() < 0.03
    assert np.abs(chance_of_nothing(*before) - drawn.nothing).mean() > 0.1
    # windows that are not observed say nothing
    drawn.cases.mask = drawn.cases.mask.copy()
    drawn.cases.mask[:, 0] = False
    drawn.cases.totals[:, 0] = 1e6
    found = fit_intensity(IntensityFit(drawn, drawn.cases))
    assert np.abs(np.log(drawn.means(found)) - true)[:, 1].mean() < 0.15


def test_what_is_right_stays():
    drawn = Drawn(2000)
    found = drawn.means(fit_intensity(IntensityFit(drawn, drawn.cases)))
    np.testing.assert_allclose(np.log(found), drawn.true["log_mean"].numpy(), atol=0.12)


def test_a_network_counts_for_what_it_is_worth():
    """It goes on learning afterwards, so that it never counts more than once."""
    drawn = Drawn(2000)
    with torch.no_grad():
        drawn.model.intensity_head.residual.weight.normal_(std=0.3)
    assert fit_intensity(IntensityFit(drawn, drawn.cases))[NETWORK][0] < 0.3
    for times in (1, 3):
        drawn = Drawn(2000)
        weight = drawn.model.intensity_head.residual.weight
        true = Drawn(2000, **{"residual.weight": (times * 3 - 1) * weight.detach()})
        with torch.no_grad():
            true.model.intensity_head.residual.weight.mul_(3)
        assert 0.8 < fit_intensity(IntensityFit(true, true.cases))[NETWORK][0] <= 1


def test_few_people_do_no_harm():
    """What was trained is right; with fewer than thirty people who did anything nothing is fitted at all."""
    apart = []
    for seed in range(5):
        drawn = Drawn(80, seed)
        found = drawn.means(fit_intensity(IntensityFit(drawn, drawn.cases)))
        apart.append(np.abs(np.log(found) - drawn.true["log_mean"].numpy()).mean())
    assert np.median(apart) < 0.25, apart
    drawn = Drawn(200)
    drawn.cases.totals[29:] = 0
    assert fit_intensity(IntensityFit(drawn, drawn.cases)) is None


def test_applying_gives_the_head_its_numbers():
    model = stirred_model([2, 2], 0, horizons=HORIZONS, reference_horizon=8.0)
    head, config = model.intensity_head, model.config
    before = copy.deepcopy(head.state_dict())
    apply_intensity(model, None)
    apply_intensity(model, {"level": [0.25, -0.5], "strength": [1.0, 2.0, 3.0, 4.0, 5.0], NETWORK: [0.4]})
    assert head.level.tolist() == [0.25, -0.5] and head.strength.tolist() == [1.0, 2.0, 3.0, 4.0, 5.0]
    assert config.intensity_calibration == [0.0, 1.0, 0.4, 1.0, 0.0]
    for name, value in head.state_dict().items():
        assert name in ("level", "strength") or torch.equal(value, before[name])
    apply_intensity(model, {NETWORK: [1.0]})
    assert config.intensity_calibration is None
    # PEFT trains a copy of it
    wrapped = get_peft_model(model, LoraConfig(target_modules=["query"], modules_to_save=["intensity_head"]))
    found = intensity_head(wrapped.base_model.model)
    assert found is not head and found.mixture is wrapped.base_model.model.intensity_head.mixture
    apply_intensity(wrapped.base_model.model, {"level": [0.1, 0.2], NETWORK: [1.0]})
    torch.testing.assert_close(wrapped.merge_and_unload().intensity_head.level.detach(), torch.tensor([0.1, 0.2]))

"""Concentrations are fitted once more on validation windows."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from test_evaluation_cases import make_log

from interest_lm import InterestModel
from interest_lm.evaluation.cases import forecast_cases
from interest_lm.evaluation.folds import fold
from interest_lm.evaluation.scoring import score_future, score_intensity
from interest_lm.training import calibrate as calibrating
from interest_lm.training.calibrate import (
    LEAST_SCALE,
    apply_calibration,
    calibrate,
    fit_concentration,
    shift_that_holds,
    sure_scale,
)
from interest_lm.training.validation import Validation


HORIZONS = (2.0, 8.0)


@pytest.fixture(scope="module")
def parts(tiny_bert):
    log = make_log(users=12)
    torch.manual_seed(0)
    model = InterestModel.from_text_pretrained(
        str(tiny_bert),
        domains=log.tree,
        hidden_size=16,
        horizons=list(HORIZONS),
        reference_horizon=8.0,
        use_absence=True,
    )
    return log, model


def drawn_cases(log, kappa: tuple[float, float], people: int = 400):
    """Windows of 30 and 60 events drawn from Dirichlet-multinomials, kappa by horizon, and the shares they are around."""
    tree, rng = log.tree, np.random.default_rng(0)
    cases = forecast_cases(log, fold(log, "test"), HORIZONS, "days", 8.0)
    shape = people, len(HORIZONS), len(tree)
    counts, shares = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    for h, total in enumerate((30, 60)):
        for parent in np.unique(tree.parent):  # parents stand before children
            children = np.flatnonzero(tree.parent == parent)
            around = rng.dirichlet(np.full(len(children), 4.0), people)
            alpha = np.maximum(kappa[h] * around, 1e-6)
            above = np.full(people, total) if parent < 0 else counts[:, h, parent].astype(int)
            gamma = rng.gamma(alpha)
            own = gamma / gamma.sum(1, keepdims=True)
            counts[:, h, children] = rng.multinomial(above, own)
            shares[:, h, children] = around * (1.0 if parent < 0 else shares[:, h, parent][:, None])
    seen = np.ones(shape[:2], bool)
    cases = replace(cases, user=np.arange(people), counts=counts, mask=seen, totals=counts.sum(2) * 0 + 30)
    return cases, shares


def test_the_shift_makes_up_for_concentrations_that_are_wrong(parts):
    """True: 5 e events at W, three times more at a quarter of it; said: 5 e^2 at both."""
    log, model = parts
    at_window = 5 * np.e
    cases, shares = drawn_cases(log, (3 * at_window, at_window))
    said = np.full(shares.shape, 5 * np.e**2, np.float32)
    level, slope = fit_concentration(cases, shares, said, log.tree)
    assert level == pytest.approx(-1.0, abs=0.15)
    assert slope == pytest.approx(np.log(3) / np.log(2 / 8), abs=0.15)
    relative = np.log(np.array(HORIZONS) / 8.0)[None, :, None]
    given = (cases, shares, log.tree, 0, 0, "model")
    narrow = score_future(*given, said).figures["coverage_80"]
    right = score_future(*given, said * np.exp(level + slope * relative)).figures["coverage_80"]
    assert narrow < 0.72 and right == pytest.approx(0.8, abs=0.02)


def test_applying_changes_concentrations_and_no_forecast(parts):
    log, model = parts
    head = model.domain_head
    batch = {
        "history": torch.zeros(1, 3, dtype=torch.int64),
        "item_embeds": torch.randn(1, 32),
        "item_domains": torch.tensor([[0]]),
        "item_domain_weights": torch.ones(1, 1),
    }
    with torch.no_grad():
        before = model.eval()(**batch)
        apply_calibration(model, None)
        assert torch.equal(model(**batch).concentration, before.concentration)
        apply_calibration(model, {"shares": [-0.5, 0.2], "intensity": None})
        after = model(**batch)
    assert torch.equal(before.future_interest, after.future_interest)
    assert torch.equal(before.intensity, after.intensity)
    expected = np.exp(-0.5 + 0.2 * np.log(np.array(HORIZONS) / 8.0))
    np.testing.assert_allclose((after.concentration / before.concentration)[0].T[0], expected, rtol=1e-4)
    assert head.concentration[1].equal(torch.full_like(head.concentration[1], float(np.log(20.0))))


class Sure:
    """A predictor of drawn windows whose concentrations are e^2 times what they were drawn with; a tenth of the windows holds another
    interest than all others, as no Dirichlet does."""

    def __init__(self, model, log, people: int = 500):
        self.model, tree = model, log.tree
        self.cases, shares = drawn_cases(log, (20.0, 20.0), people)
        odd = np.arange(people) < people // 10
        self.cases.counts[odd] = np.roll(self.cases.counts, 1, axis=0)[odd]
        kappa = np.full(shares.shape, 20 * np.e**2, np.float32)
        self.answer = {"future": shares, "concentration": kappa}
        self.tree = tree

    def forecast(self, cases):
        return self.answer


class Counted:
    """In place of an [`IntensityFit`]: negative binomials whose sizes are e^2 times what the cases' totals were drawn with."""

    def __init__(self, predictor, cases):
        random = np.random.default_rng(1)
        self.means = random.uniform(10, 30, cases.totals.shape)
        cases.totals[:] = random.negative_binomial(4.0, 4.0 / (4.0 + self.means))
        cases.totals[random.random(cases.totals.shape) < 0.3] = 0

    def negative_binomials(self, numbers):
        absence, means = np.full(self.means.shape, 0.3), 0.7 * self.means
        return means, np.full(means.shape, np.exp(numbers["dispersion"][0])), absence


def test_intervals_hold_on_the_windows_that_they_are_calibrated_on(parts, monkeypatch):
    log, model = parts
    sure = Sure(model, log)
    made: list[Counted] = []
    monkeypatch.setattr(calibrating, "IntensityFit", lambda *given: made.append(Counted(*given)) or made[-1])
    monkeypatch.setattr(calibrating, "fit_intensity", lambda fit: {"dispersion": [np.log(4.0) + 2], "network": [1.0]})
    found = calibrate(sure, SimpleNamespace(fold=True, forecast=sure.cases, log=log))
    assert found["intensity"]["dispersion"][0] == pytest.approx(np.log(4.0), abs=0.5)
    level, slope = found["shares"]
    relative = np.log(np.array(HORIZONS) / 8.0)[None, :, None]
    answer = sure.answer
    given = (sure.cases, answer["future"], log.tree, 0, 0, "model")
    assert score_future(*given, answer["concentration"]).figures["coverage_80"] < 0.7
    calibrated = answer["concentration"] * np.exp(level + slope * relative)
    assert score_future(*given, calibrated).figures["coverage_80"] == pytest.approx(0.8, abs=0.01)
    means, *spread = made[0].negative_binomials(found["intensity"])
    assert score_intensity(sure.cases, means, 0, 0, "model", *spread).figures["coverage_80"] == pytest.approx(
        0.8, abs=0.02
    )
    monkeypatch.setattr(calibrating, "fit_intensity", lambda fit: None)
    again = calibrate(sure, SimpleNamespace(fold=True, forecast=sure.cases, log=log))
    assert again == {"shares": found["shares"], "intensity": None}


def test_few_counts_shift_nothing_and_no_shift_is_endless():
    assert shift_that_holds(lambda shift: np.r_[np.zeros(99), np.full(500, np.nan)]) == 0.0
    assert shift_that_holds(lambda shift: np.zeros(100)) == 0.0  # no width helps
    uniform = np.linspace(0, 1, 1000, endpoint=False)
    assert shift_that_holds(lambda shift: (uniform < 0.5 - 0.05 * shift).astype(float)) == -3.0
    # beyond some width the interval leaves what happens behind: the one that holds most often
    assert shift_that_holds(lambda shift: (uniform < 0.7 - abs(shift + 1)).astype(float)) == -1.0
    # and where wider holds less often, narrower is looked at
    assert shift_that_holds(lambda shift: (uniform < 0.7 - abs(shift - 1)).astype(float)) == 1.0
    assert shift_that_holds(lambda shift: (uniform < 0.7 + 0.1 * shift).astype(float)) == pytest.approx(1.0, abs=0.01)


@pytest.mark.parametrize(("people", "narrower"), [(200, False), (20_000, True)])
def test_intervals_are_narrowed_only_as_far_as_is_sure(people, narrower):
    """82 % hold, and less with a higher shift: of 200 counts that is 80 % within the standard error."""
    uniform = np.linspace(0, 1, people, endpoint=False)
    shift = shift_that_holds(lambda shift: (uniform < 0.82 - 0.1 * shift).astype(float))
    assert (shift > 0) == narrower
    if narrower:
        error = np.sqrt(0.82 * 0.18 / people)
        assert 0.82 - 0.1 * shift == pytest.approx(0.8 + error, abs=1e-3)
    # what is too narrow is widened whatever the number
    assert shift_that_holds(lambda shift: (uniform < 0.78 - 0.1 * shift).astype(float)) == pytest.approx(
        -0.2, abs=0.06
    )


def test_few_people_calibrate_nothing(parts):
    log, model = parts

    class Predictor:
        pass

    predictor = Predictor()
    predictor.model = model
    assert calibrate(predictor, Validation(log, list(HORIZONS), "days", 8.0, 50)) is None


def test_only_what_is_sure_of_the_network_counts(parts):
    """Its gain less one standard error, as a share of it: near 1 where everybody gains, never below a half."""
    _, model = parts
    random = np.random.default_rng(0)
    people, leaves = 200, np.arange(4)
    counts = random.multinomial(20, [0.4, 0.3, 0.2, 0.1], (people, 1)).astype(np.float32)
    cases = SimpleNamespace(counts=counts, mask=np.ones((people, 1), bool))
    validation = SimpleNamespace(fold=0, forecast=cases, leaves=leaves)
    even, own = np.full(counts.shape, 0.25), counts / counts.sum(-1, keepdims=True)

    def scale(network: np.ndarray) -> float:
        """With a network that says these shares, beside statistics that say a quarter each."""
        said = lambda _: {"future": network if model.config.residual_scale else even}  # noqa: E731
        found = sure_scale(SimpleNamespace(model=model, forecast=said), validation)
        model.config.residual_scale = 1.0
        return found

    better = 0.5 * even + 0.5 * own
    losses = [-(own * np.log(shares)).sum(-1)[:, 0] for shares in (even, better)]
    gain = losses[0] - losses[1]
    assert scale(better) == pytest.approx(1 - gain.std() / np.sqrt(people) / gain.mean(), abs=1e-3)
    assert scale(better) > 0.9
    # half of them are told a little too much of what another did: a gain, but not for everybody
    mixed = np.where(random.random((people, 1, 1)) < 0.5, better, 0.75 * own[::-1] + 0.0625)
    assert LEAST_SCALE < scale(mixed) < scale(better)
    assert scale(0.9 * own[..., ::-1] + 0.025) == LEAST_SCALE  # worse than the statistics
    assert scale(even) == 1.0  # adds nothing
    cases.mask[29:] = False
    assert scale(better) == 1.0

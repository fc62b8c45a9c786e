"""How sure a trained model may be of what it forecasts, by windows it never saw: what its network says beside the statistics, and how
wide its intervals are."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from ..evaluation.cases import ForecastCases
from ..evaluation.metrics.calibration import CENTRAL
from ..evaluation.metrics.forecast import forecast_values
from ..evaluation.predict import ModelPredictor
from ..evaluation.scoring import inside_count_interval, inside_interval, sibling_cells
from ..modeling_interest import InterestModel
from ..taxonomy_interest import DomainTree
from .intensity import IntensityFit, fit_intensity
from .validation import Validation


ENOUGH_PEOPLE = 30
LEAST_SCALE = 0.5  # of what the network says, even where its gain may be chance: on later windows half does no harm
ENOUGH_TOLD = 20  # people of whom intervals are told, for a likelihood of them
ENOUGH_CELLS = 100  # counts that say how often intervals hold
STEP = 0.25
WORTH = 0.005  # what a further step has to bring where none makes intervals hold
MOST = 3.0  # largest shift of a log concentration


def sure_scale(predictor: ModelPredictor, validation: Validation) -> float:
    """What to multiply by what the network adds to the statistics of a person's domains, for `config.residual_scale`.

    `1 - s / g`, between a half and 1: g is the network's gain, by how much the leaves' cross-entropy of the validation windows is higher without it,
    and s its standard error over people. The steps were chosen by these windows and the test comes later, so that less is to be had there
    than was found here: only what is sure counts. 1 where fewer than thirty people have a validation window.

    Args:
        predictor ([`ModelPredictor`]): of the trained model.
        validation ([`Validation`]): whose forecast cases are asked.
    """
    cases, config = validation.forecast if validation.fold is not None else None, predictor.model.config
    if cases is None or predictor.model.domain_head is None or int(cases.mask.any(1).sum()) < ENOUGH_PEOPLE:
        return 1.0
    losses = []
    for scale in (0.0, 1.0):
        config.residual_scale = scale
        future = predictor.forecast(cases)["future"][..., validation.leaves]
        loss = np.full(cases.mask.shape, np.nan)
        loss[cases.mask] = forecast_values(
            cases.counts[..., validation.leaves][cases.mask], future[cases.mask]
        )["cross_entropy"]  # fmt: skip
        known = np.isfinite(loss).any(1)
        losses.append(np.nanmean(loss[known], axis=1))
    gain = losses[0] - losses[1]
    if len(gain) < ENOUGH_PEOPLE:
        return 1.0
    error = gain.std() / np.sqrt(len(gain))
    return round(float(np.clip(1 - error / max(gain.mean(), 1e-9), LEAST_SCALE, 1.0)), 3)


def calibrate(predictor: ModelPredictor, validation: Validation) -> dict | None:
    """What makes intervals hold on the validation windows.

    For future shares the shift `a + b log(h / W)` of the log concentrations that is likeliest there, and then an `a` at which four in
    five counts lie in their 80 % intervals, as those of a new window should ([`shift_that_holds`]). On the windows that it trained
    on a forecast is nearer to what happened than on new ones, and training counts a long window for less than its events, so that
    intervals come out too narrow, those of long windows most of all. Where changes come in lumps that no Dirichlet has, the
    likeliest concentration is not the one whose intervals hold. For intensity the likeliest numbers of its head ([`fit_intensity`]), and
    then the shift of the log sizes of its negative binomials, likewise.

    Returns:
        `{"shares": [a, b], "intensity": {...}}` for [`apply_calibration`] and [`apply_intensity`], which is None where there is no
        intensity or too little happened; None where fewer than thirty people have a validation window.
    """
    cases, model = validation.forecast if validation.fold is not None else None, predictor.model
    if cases is None or model.domain_head is None or int(cases.mask.any(1).sum()) < ENOUGH_PEOPLE:
        return None
    answer, tree = predictor.forecast(cases), validation.log.tree
    level, slope = fit_concentration(cases, answer["future"], answer["concentration"], tree)
    relative = np.log(np.array(cases.horizons) / model.config.reference_horizon)[None, :, None]
    likeliest = np.log(answer["concentration"]) + level + slope * relative

    def shares(shift: float) -> np.ndarray:
        return inside_interval(cases, answer["future"], np.exp(np.clip(likeliest + shift, -3, 9)), tree, 0)

    level = float(np.clip(level + shift_that_holds(shares), -MOST, MOST))
    found = {"shares": [round(level, 4), slope], "intensity": None}
    if model.intensity_head is not None:
        fit = IntensityFit(predictor, cases)
        found["intensity"] = numbers = fit_intensity(fit)
        if numbers is not None:
            means, sizes, absence = fit.negative_binomials(numbers)

            def intensity(shift: float) -> np.ndarray:
                return inside_count_interval(cases, means, np.exp(np.clip(np.log(sizes) + shift, -5, 8)), 0, absence)

            shift = shift_that_holds(intensity)
            numbers["dispersion"] = [round(size + shift, 4) for size in numbers["dispersion"]]
    return found


def shift_that_holds(inside: Callable[[float], np.ndarray]) -> float:
    """The shift, within `MOST` of 0, that widens intervals until they hold 80 % of the time, or narrows them as far as is sure: to 80 %
    and one standard error. What comes later is seldom surer than what was validated on. Where that way leads nowhere the other one is
    looked at, too: wider means more zeros for a negative binomial, and then its middle may hold less.

    Args:
        inside: what lies in its interval at a shift, `(Q, ...)` for Q people: 1.0, 0.0 or NaN; the higher the shift, the narrower.

    Returns:
        0 where fewer than a hundred count.
    """
    found = inside(0.0)
    number = np.isfinite(found).reshape(len(found), -1).sum(1)
    if number.sum() < ENOUGH_CELLS:
        return 0.0
    share = float(np.nanmean(found))
    apart = np.nansum(found.reshape(len(found), -1), 1) - share * number  # what one person has goes together
    enough = CENTRAL + float(np.sqrt((apart**2).sum()) / number.sum())
    if CENTRAL <= share <= enough:
        return 0.0
    wide = share < CENTRAL
    target, way = (CENTRAL, -1.0) if wide else (enough, 1.0)

    def reached(share: float) -> bool:
        return share >= target if wide else share <= target

    best, nearest = 0.0, share
    for sign in (way, -way):  # a distribution of another shape may hold more often where it is narrower
        last = 0.0
        for step in sign * np.arange(STEP, MOST + STEP / 2, STEP):
            share = float(np.nanmean(inside(step)))
            if reached(share):
                near, far = last, float(step)
                for _ in range(6):
                    middle = (near + far) / 2
                    near, far = (near, middle) if reached(np.nanmean(inside(middle))) else (middle, far)
                return far
            if abs(share - target) < abs(nearest - target) - WORTH:
                best, nearest = float(step), share
            last = float(step)
    return best  # where the forecast itself is off no width helps: the one that comes nearest


@torch.no_grad()
def apply_calibration(model: InterestModel, found: dict | None) -> None:
    """Adds the shifts to the log concentrations, which changes intervals alone."""
    if found is not None:
        model.domain_head.concentration[0] += found["shares"][0]
        model.domain_head.concentration_slope[0] += found["shares"][1]


def fit_concentration(
    cases: ForecastCases, future: np.ndarray, concentration: np.ndarray, tree: DomainTree
) -> list[float]:
    """`[a, b]` by the likelihood of the counts of which intervals are told, each domain's among its siblings (beta-binomial, the marginal
    of the Dirichlet-multinomial) where five events or more are expected.

    Of rare domains a likelihood of all siblings together knows best, and they may well be surer than the common ones: with items in
    several domains it has much higher concentrations.

    Args:
        cases (`ForecastCases`): Q people at H horizons, K domains.
        future, concentration (`np.ndarray` of shape `(Q, H, K)`): what was forecast.
    """
    cell, totals, conditional = sibling_cells(cases.counts * cases.mask[:, :, None], future, tree)
    if len(np.unique(cell[0])) < ENOUGH_TOLD:
        return [0.0, 0.0]
    counts, totals, shares, kappa = (
        torch.from_numpy(part[cell]).double() for part in (cases.counts, totals, conditional, concentration)
    )
    relative = torch.from_numpy(np.log(np.array(cases.horizons) / cases.reference_horizon)[cell[1]])

    def loss(shift: torch.Tensor) -> torch.Tensor:
        scaled = (kappa.log() + shift[0] + shift[1] * relative).exp()
        yes, no = scaled * shares, scaled * (1 - shares)
        likely = torch.lgamma(counts + yes) - torch.lgamma(yes) + torch.lgamma(totals - counts + no) - torch.lgamma(no)
        likely = likely + torch.lgamma(scaled) - torch.lgamma(totals + scaled)
        return -likely.mean() + 1e-3 * (shift**2).sum()

    return minimised(loss, 2)


def minimised(loss: Callable[[torch.Tensor], torch.Tensor], number: int) -> list[float]:
    """Where a loss of some numbers, each within `MOST` of 0, is smallest."""
    found = torch.zeros(number, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([found], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        value = loss(found)
        value.backward()
        return value

    with torch.enable_grad():
        optimizer.step(closure)
    return [round(float(value), 4) for value in found.detach().nan_to_num().clamp(-MOST, MOST)]

"""How sure a trained model may be of what it forecasts, by windows it never saw: what its network says beside the statistics, and how
wide its intervals are."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from scipy.optimize import minimize

from ..evaluation.cases import ForecastCases
from ..evaluation.metrics.calibration import CENTRAL
from ..evaluation.metrics.forecast import forecast_values
from ..evaluation.predict import ModelPredictor
from ..evaluation.scoring import inside_count_interval, inside_interval, sibling_cells
from ..modeling_interest import InterestModel
from ..taxonomy_interest import DomainTree
from .validation import Validation


ENOUGH_PEOPLE = 30
LEAST_SCALE = 0.5  # of what the network says, even where its gain may be chance: on later windows half does no harm
AS_TRAINED = (1.0, 1.0, 1.0, 0.0)  # what counts of statistics, network, pause and long run in a rate
# what may count of them; the refit goes on with the network, which was seen before it, and a pause may speak for its opposite
RATE_BOUNDS = ((0.0, 2.0), (0.0, 1.0), (-2.0, 2.0), (-2.0, 2.0))
PULLS = (np.inf, 10.0, 3.0, 1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001)
FOLDS = 5
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
    likeliest concentration is not the one whose intervals hold. For intensity what brings its means to what happened ([`fit_rate`]),
    and then the shift of the log sizes of its negative binomials, likewise.

    Returns:
        `{"shares": [a, b], "rate": [a, b, c, d, e], "intensity": f}` for [`apply_calibration`], no `rate` and f 0 where
        there is no intensity; None where fewer than thirty people have a validation window.
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
    found = {"shares": [round(level, 4), slope], "intensity": 0.0}
    if answer.get("intensity_dispersion") is not None:
        means, sizes = answer["intensity"], np.log(answer["intensity_dispersion"])
        days, parts = np.array(cases.horizons), rate_parts(predictor, cases, means)
        found["rate"] = fit_rate(cases.totals, parts, days, cases.mask)
        if found["rate"] is not None:
            means = days * np.exp(found["rate"][0] + parts @ np.array(found["rate"][1:]))

        def intensity(shift: float) -> np.ndarray:
            return inside_count_interval(cases, means, np.exp(np.clip(sizes + shift, -5, 8)), 0)

        found["intensity"] = round(shift_that_holds(intensity), 4)
    return found


def rate_parts(predictor: ModelPredictor, cases: ForecastCases, means: np.ndarray) -> np.ndarray:
    """What each part of the head says of the log rate, events a day, `(Q, H, 4)`: those of `config.intensity_calibration`. Its `means (Q, H)`
    are as trained, the sum of the first three."""
    config, days, parts = predictor.model.config, np.array(cases.horizons), {}
    for number in (0, 2, 3):
        one = np.eye(len(AS_TRAINED))[number]
        config.intensity_calibration = [0.0, *one.tolist()]
        parts[number] = np.log(predictor.forecast(cases)["intensity"] / days)
    config.intensity_calibration = None
    parts[1] = np.log(means / days) - parts[0] - parts[2]
    return np.stack([parts[number] for number in range(len(AS_TRAINED))], -1)


def fit_rate(counts: np.ndarray, parts: np.ndarray, days: np.ndarray, mask: np.ndarray) -> list[float] | None:
    """What brings expected counts to those that happened: `[a, b, c, d, e]` for `config.intensity_calibration`.

    Training asks about people while they do things, and as they did in its time; those who are asked later may long have gone, and the
    log may be slower. The weights of the parts are those of a Poisson regression within [`RATE_BOUNDS`], pulled towards what was trained as
    five-fold cross-validation over people finds best, and as far as is sure: of the way there the part `1 - s / g`, at least 0, is gone, where g is what they
    gain in Poisson deviance in the left-out folds, mean over horizons, and s its standard error over people. With a the means add up to
    what happened.

    Args:
        counts, mask (`np.ndarray` of shape `(Q, H)`): what happened, and which windows are observed.
        parts (`np.ndarray` of shape `(Q, H, 4)`): see [`rate_parts`].
        days (`np.ndarray` of shape `(H,)`): the horizons.

    Returns:
        None where nothing happened.
    """
    person, column = np.nonzero(mask)
    happened, exposure, parts = counts[mask].astype(np.float64), days[column], parts[mask].astype(np.float64)
    if not happened.any():
        return None
    trained = exposure * np.exp(parts @ np.array(AS_TRAINED))
    spread = parts.std(0)
    scaled = (parts - parts.mean(0)) / np.where(spread > 1e-6, spread, 1.0) * (spread > 1e-6)

    within = (np.array(RATE_BOUNDS) - np.array(AS_TRAINED)[:, None]) * spread[:, None]

    def fit(rows: np.ndarray, pull: float) -> tuple[float, np.ndarray]:
        """Level and changes of the weights, none without a finite pull."""
        level = float(np.log(happened[rows].sum() / trained[rows].sum()))
        if not np.isfinite(pull):
            return level, np.zeros(parts.shape[1])
        features, exposed, total = scaled[rows], trained[rows], trained[rows].sum()

        def loss(found: np.ndarray) -> tuple[float, np.ndarray]:
            log_ratio = np.minimum(found[0] + features @ found[1:], 30)
            apart = exposed * np.exp(log_ratio) - happened[rows]
            value = (exposed * np.exp(log_ratio) - happened[rows] * log_ratio).sum() / total
            slope = np.r_[apart.sum(), features.T @ apart] / total
            return value + pull / 2 * (found[1:] @ found[1:]), slope + pull * np.r_[0.0, found[1:]]

        start, bounds = np.r_[level, np.zeros(parts.shape[1])], [(None, None), *within]
        found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": 500}).x
        return float(found[0]), found[1:]

    def deviance(rows: np.ndarray, level: float, change: np.ndarray) -> np.ndarray:
        """But for what does not depend on the means."""
        log_ratio = level + scaled[rows] @ change
        return 2 * (trained[rows] * np.exp(log_ratio) - happened[rows] * log_ratio)

    change = np.zeros(parts.shape[1])
    if len(np.unique(person[happened > 0])) >= ENOUGH_PEOPLE:
        fold = np.random.default_rng(0).permutation(len(mask))[person] % FOLDS
        left_out = []
        for pull in PULLS:
            loss = np.zeros(len(person))
            for number in range(FOLDS):
                loss[fold == number] = deviance(fold == number, *fit(fold != number, pull))
            left_out.append(np.bincount(person, loss)[mask.any(1)[: person.max() + 1]])
        best = int(np.argmin([loss.mean() for loss in left_out]))
        gain = left_out[0] - left_out[best]
        sure = max(1 - gain.std() / np.sqrt(len(gain)) / max(gain.mean(), 1e-9), 0.0)
        change = sure * fit(np.ones(len(person), bool), PULLS[best])[1] / np.where(spread > 1e-6, spread, 1.0)
    slopes = np.round(np.array(AS_TRAINED) + change, 4)
    level = np.log(happened.sum() / (exposure * np.exp(parts @ slopes)).sum())
    return [round(float(level), 4), *slopes.tolist()]


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
def apply_calibration(model: InterestModel, shifts: dict | None) -> None:
    """Adds the shifts to the model's parameters, which changes intervals alone, and puts what corrects expected counts into its config."""
    if shifts is not None:
        model.config.intensity_calibration = shifts.get("rate")
        model.domain_head.concentration[0] += shifts["shares"][0]
        model.domain_head.concentration_slope[0] += shifts["shares"][1]
        if model.intensity_head is not None:
            model.intensity_head.dispersion.add_(shifts["intensity"])


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

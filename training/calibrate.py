"""How sure a trained model may be of its shares: their concentrations, fitted once more on windows it never saw."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from ..data.log import InterestLog
from ..evaluation.cases import ForecastCases
from ..evaluation.metrics.calibration import CENTRAL
from ..evaluation.predict import ModelPredictor
from ..evaluation.scoring import inside_interval
from ..modeling_interest import InterestModel
from .validation import Validation


ENOUGH_PEOPLE = 30
ENOUGH_CELLS = 100  # counts that say how often intervals hold
MOST = 3.0  # largest shift of a log concentration


def calibrate(predictor: ModelPredictor, validation: Validation) -> list[float] | None:
    """The shift `a + b log(h / W)` of the log concentrations of future shares that is likeliest on the validation windows, and then
    the `a` at which four in five counts there lie in their 80 % intervals, as those of a new window should.

    On the windows that it trained on a forecast is nearer to what happened than on new ones, and training counts a long window
    for less than its events, so that intervals come out too narrow, those of long windows most of all. Where changes come in
    lumps that no Dirichlet has, the likeliest concentration is not the one whose intervals hold.

    Returns:
        `[a, b]` for [`apply_calibration`]; None where fewer than thirty people have a validation window.
    """
    cases = validation.forecast if validation.fold is not None else None
    if cases is None or predictor.model.domain_head is None or int(cases.mask.any(1).sum()) < ENOUGH_PEOPLE:
        return None
    answer = predictor.forecast(cases)
    level, slope = fit_concentration(predictor.model, cases, answer["future"], answer["concentration"])
    relative = np.log(np.array(cases.horizons) / predictor.model.config.reference_horizon)[None, :, None]
    likeliest = np.log(answer["concentration"]) + level + slope * relative
    level += fit_coverage(validation.log, cases, answer["future"], likeliest)
    return [round(float(np.clip(level, -MOST, MOST)), 4), slope]


def fit_coverage(log: InterestLog, cases: ForecastCases, future: np.ndarray, log_kappa: np.ndarray) -> float:
    """What to add to log concentrations `(Q, H, K)` so that the 80 % intervals of forecasts `(Q, H, K)` hold in 80 % of the counts,
    those with five events expected; 0 where fewer than a hundred are."""

    def held(shift: float) -> np.ndarray:
        inside = inside_interval(cases, future, np.exp(np.clip(log_kappa + shift, -3, 9)), log.tree, 0)
        return inside[np.isfinite(inside)]

    if len(held(0.0)) < ENOUGH_CELLS:
        return 0.0
    low, high = -MOST, MOST  # the surer, the narrower
    for _ in range(12):
        middle = (low + high) / 2
        low, high = (middle, high) if held(middle).mean() > CENTRAL else (low, middle)
    return (low + high) / 2


@torch.no_grad()
def apply_calibration(model: InterestModel, shift: list[float] | None) -> None:
    """Adds the shift to the model's parameters; forecasts stay as they are, only their intervals change."""
    if shift is not None:
        model.domain_head.concentration[0] += shift[0]
        model.domain_head.concentration_slope[0] += shift[1]


def fit_concentration(
    model: InterestModel, cases: ForecastCases, future: np.ndarray, concentration: np.ndarray
) -> list[float]:
    """`[a, b]` by the Dirichlet-multinomial likelihood of what happened under every parent, each window counted whole.

    Args:
        model ([`InterestModel`]): whose tree it is.
        cases (`ForecastCases`): Q people at H horizons, K domains.
        future, concentration (`np.ndarray` of shape `(Q, H, K)`): what was forecast.
    """
    head = model.domain_head
    group, number = head.statistics.group.cpu(), head.num_groups
    seen = torch.from_numpy(cases.mask)
    counts, shares, kappa = (torch.from_numpy(part)[seen].double() for part in (cases.counts, future, concentration))
    families = shares.new_zeros(len(shares), number).index_add(1, group, shares)
    conditional = (shares / families[:, group].clamp(min=1e-12)).clamp(min=1e-9)
    totals = counts.new_zeros(len(counts), number).index_add(1, group, counts)
    relative = torch.tensor(cases.horizons, dtype=torch.float64).div(model.config.reference_horizon).log()
    relative = relative.expand(seen.shape)[seen][:, None]
    eldest = torch.zeros(number, dtype=torch.int64).scatter(0, group, torch.arange(len(group)))

    def loss(shift: torch.Tensor) -> torch.Tensor:
        scaled = (kappa.log() + shift[0] + shift[1] * relative).clamp(-3, 9).exp()
        alpha, whole = scaled * conditional, scaled[:, eldest]
        likely = (torch.lgamma(counts + alpha) - torch.lgamma(alpha)).sum()
        likely = likely + (torch.lgamma(whole) - torch.lgamma(totals + whole)).sum()
        return -likely / len(counts) + 1e-3 * (shift**2).sum()

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

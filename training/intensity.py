"""How much people do, told once more by windows that were not trained on."""

from __future__ import annotations

import numpy as np
import torch
from scipy.optimize import minimize
from torch.func import functional_call

from ..evaluation.cases import ForecastCases
from ..evaluation.predict import ModelPredictor
from ..modeling_interest import InterestIntensityHead, InterestModel, intensity_loss


ENOUGH_PEOPLE = 30  # who did anything
PULLS = (1.0, 0.1, 0.01, 1e-3, 1e-4, 1e-5)
FOLDS = 5
NETWORK = "network"  # what is multiplied by what the network says


class IntensityFit:
    """The intensity head on some cases, with other numbers than those that it has.

    Args:
        predictor ([`ModelPredictor`]): of the trained model.
        cases (`ForecastCases`): Q people at the model's horizons.
    """

    def __init__(self, predictor: ModelPredictor, cases: ForecastCases):
        self.head, self.horizons = intensity_head(predictor.model), list(predictor.model.config.horizons)
        heard: list[tuple[torch.Tensor, ...]] = []
        hook = self.head.register_forward_pre_hook(lambda _, given: heard.append(given[:4]))
        order = []
        try:
            for rows, batch in predictor.batches(cases):
                predictor.forward(batch.histories, batch.time, forecast_only=True)
                order.append(np.arange(len(cases.user))[rows])
        finally:
            hook.remove()
        place = np.argsort(np.concatenate(order))
        self.user, self.done = (
            torch.from_numpy(np.concatenate([given[part].float().cpu().numpy() for given in heard])[place]).double()
            for part in (0, 1)
        )
        self.half_lives, self.population = (torch.from_numpy(heard[0][part].cpu().numpy()).double() for part in (2, 3))
        columns = [self.horizons.index(horizon) for horizon in cases.horizons]
        self.counts, self.mask = torch.zeros(2, len(self.user), len(self.horizons), dtype=torch.float64)
        self.counts[:, columns] = torch.from_numpy(cases.totals).double()
        self.mask[:, columns] = torch.from_numpy(cases.mask).double()
        self.columns = columns
        state = {name: value.detach().double().cpu() for name, value in self.head.named_parameters()}
        self.residual = {name: state.pop(name) for name in list(state) if name.startswith("residual.")}
        self.trained = state | {NETWORK: torch.ones(1, dtype=torch.float64)}
        new = InterestIntensityHead(self.head.config)
        predictor.model._init_weights(new)
        self.new = {name: value.detach().double() for name, value in new.named_parameters() if name in state}
        self.new[NETWORK] = torch.zeros(1, dtype=torch.float64)

    def output(self, numbers: dict[str, torch.Tensor], rows: np.ndarray | slice = slice(None)) -> dict:
        """What the head says of these cases with these numbers: log mean, log size, log odds of absence, `(Q, H)`."""
        network = {name: numbers[NETWORK] * value for name, value in self.residual.items()}
        own = {name: value for name, value in numbers.items() if name != NETWORK}
        given = self.user[rows], self.done[rows], self.half_lives, self.population
        return functional_call(self.head, own | network, given)

    def loss(self, numbers: dict[str, torch.Tensor], rows: np.ndarray) -> torch.Tensor:
        """Negative log likelihood of what happened, mean over windows."""
        return intensity_loss(self.output(numbers, rows), self.counts[rows], self.mask[rows])

    def numbers(self, values: torch.Tensor) -> dict[str, torch.Tensor]:
        """The head's numbers from one vector."""
        parts = values.split([value.numel() for value in self.trained.values()])
        return {name: part.view_as(self.trained[name]) for name, part in zip(self.trained, parts, strict=True)}

    def fit(self, rows: np.ndarray, pull: float, start: np.ndarray) -> np.ndarray:
        """The likeliest numbers of some cases, pulled towards those of a new head without a network, which counts for 0 to 1 of what it
        says."""
        new = torch.from_numpy(flat(self.new))

        def loss(values: np.ndarray) -> tuple[float, np.ndarray]:
            found = torch.from_numpy(values).requires_grad_()
            value = self.loss(self.numbers(found), rows) + pull / 2 * ((found - new) ** 2).sum()
            (slope,) = torch.autograd.grad(value, found)
            return float(value.detach()), slope.numpy()

        bounds = [*[(None, None)] * (len(new) - 1), (0.0, 1.0)]
        return minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": 100}).x

    @torch.no_grad()
    def window_losses(self, values: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Negative log likelihood of each person's windows, their mean, `(len(rows),)`."""
        output = self.output(self.numbers(torch.from_numpy(values)), rows)
        each = intensity_loss(output, self.counts[rows], self.mask[rows], each=True)
        return (each.sum(1) / self.mask[rows].sum(1).clamp(min=1)).numpy()

    @torch.no_grad()
    def negative_binomials(self, found: dict[str, list[float]]) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """Means, sizes and chances of absence at the cases' horizons, `(Q, H)`."""
        output = self.output({name: torch.tensor(value, dtype=torch.float64) for name, value in found.items()})
        away = output["absence"]
        parts = output["log_mean"].exp(), output["log_size"].exp(), None if away is None else away.sigmoid()
        mean, size, absence = (None if part is None else part[:, self.columns].numpy() for part in parts)
        return mean, size, absence


def flat(numbers: dict[str, torch.Tensor]) -> np.ndarray:
    """One vector of all numbers."""
    return torch.cat([value.flatten() for value in numbers.values()]).numpy()


def intensity_head(model: InterestModel) -> InterestIntensityHead:
    """The head itself, also where PEFT keeps a copy of it to train."""
    mixture = model.intensity_head.mixture
    heads = (part for part in model.intensity_head.modules() if isinstance(part, InterestIntensityHead))
    return next(head for head in heads if head.mixture is mixture)


def fit_intensity(fit: IntensityFit) -> dict[str, list[float]] | None:
    """What the intensity head's numbers should be for those who are asked about later: mixture of rates, pulls, levels, pause, sizes and
    absence, and how much of the network counts.

    Training asks about people while they do things, and as they did in its time; those who are asked later may long have gone, and the
    log may be slower. Fitted by likelihood on the validation windows, pulled towards the numbers of a new head, or left as trained, as
    five-fold cross-validation over people finds best. With the level the means add up to what happened.

    Returns:
        Lists by name for [`apply_intensity`]; None where fewer than thirty people did anything.
    """
    known = np.flatnonzero((fit.mask.sum(1) > 0).numpy())
    if int(((fit.counts * fit.mask).sum(1) > 0).sum()) < ENOUGH_PEOPLE:
        return None
    fold = np.random.default_rng(0).permutation(len(known)) % FOLDS
    losses = np.zeros((1 + len(PULLS), len(known)))
    losses[0] = fit.window_losses(flat(fit.trained), known)
    for number in range(FOLDS):
        found = flat(fit.new)
        for place, pull in enumerate(PULLS, 1):  # from strong to weak, each from the one before
            found = fit.fit(known[fold != number], pull, found)
            losses[place, fold == number] = fit.window_losses(found, known[fold == number])
    best = int(np.argmin(losses.mean(1)))
    found = flat(fit.new if best else fit.trained)
    for pull in PULLS[:best]:
        found = fit.fit(known, pull, found)
    numbers = fit.numbers(torch.from_numpy(found))
    with torch.no_grad():
        expected = (fit.output(numbers)["log_mean"].exp() * fit.mask).sum()
        numbers["level"] = numbers["level"] + ((fit.counts * fit.mask).sum() / expected).log()
    return {name: [round(value, 4) for value in values.tolist()] for name, values in numbers.items()}


@torch.no_grad()
def apply_intensity(model: InterestModel, found: dict[str, list[float]] | None) -> None:
    """Gives the intensity head these numbers, and the config what counts of its network."""
    if found is None:
        return
    for name, values in found.items():
        if name != NETWORK:
            number = getattr(model.intensity_head, name)
            number.copy_(torch.tensor(values, dtype=number.dtype))
    weight = found[NETWORK][0]
    model.config.intensity_calibration = None if weight == 1 else [0.0, 1.0, weight, 1.0, 0.0]

"""Figures of one scorer on one group of cases, each with its bootstrap replicates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from .bootstrap import UserBootstrap, interval
from .cases import CompletionCases, ForecastCases, OverallCases, RankingCases
from .metrics.calibration import ENOUGH, beta_binomial_pit, covered, negative_binomial_pit
from .metrics.change import change_metrics
from .metrics.forecast import forecast_values
from .metrics.impressions import impression_values
from .metrics.intensity import dispersion, intensity_values
from .metrics.overall import auc, overall_metrics, overall_values
from .metrics.ranking import ranking_values
from .metrics.rating import rating_values
from .ranking import Places


if TYPE_CHECKING:
    from ..taxonomy_interest import DomainTree


MOST_DRAWN = 1_000_000_000  # shown items times bootstrap replicates: more items get fewer, but 100
FORECAST_FIGURES = ("cross_entropy", "kl", "js")


@dataclass
class Score:
    """Figures (may nest) and the bootstrap replicates `{figure: (B,)}` behind the intervals of the top ones; `by_horizon` holds
    those of `kl@HORIZON`."""

    figures: dict
    replicates: dict[str, np.ndarray] = field(default_factory=dict)
    by_horizon: dict[str, np.ndarray] = field(default_factory=dict)

    def intervals(self) -> dict[str, list[float] | None]:
        """95 % intervals over users."""
        return {name: interval(values) for name, values in self.replicates.items() if len(values)}


def _means(values: dict[str, np.ndarray]) -> dict[str, float]:
    return {name: float(np.mean(value)) for name, value in values.items()}


def score_ranking(cases: RankingCases, places: Places, filtered: bool, replicates: int, seed: int) -> Score:
    """The headline figures (filtered or not) with both under `filtered` and `unfiltered`."""
    figures: dict = {}
    headline: dict[str, np.ndarray] = {}
    users = cases.user
    for name, which in (("filtered", True), ("unfiltered", False)):
        counted, values = places.values(which)
        values = {metric: value[counted] for metric, value in values.items()}
        figures[name] = (_means(values) if counted.any() else {}) | {"cases": int(counted.sum())}
        if which == filtered:
            headline, users = values, cases.user[counted]
    figures = figures["filtered" if filtered else "unfiltered"] | figures
    if not len(users):
        return Score(figures)
    drawn = UserBootstrap(users, replicates, seed).means(np.stack(list(headline.values()), axis=1))
    return Score(figures, dict(zip(headline, drawn.T, strict=True)))


def slice_ranking(places: Places, chosen: np.ndarray, filtered: bool, cold: bool) -> dict | None:
    """Headline figures of some cases (bool `(Q,)`); `among_cold` ranks cold targets among cold items only."""
    counted, values = places.values(filtered)
    counted = counted & chosen
    if not counted.any():
        return None
    figures = _means({name: value[counted] for name, value in values.items()}) | {"cases": int(counted.sum())}
    if cold:
        figures["among_cold"] = _means(ranking_values(places.better_cold[counted], places.ties_cold[counted]))
    return figures


def _level_values(counts: np.ndarray, shares: np.ndarray, tree: DomainTree, name: str) -> np.ndarray:
    """`(Q, levels, 3)` cross-entropy, KL and JS; NaN where nothing happened."""
    columns = []
    for level in range(tree.num_levels):
        nodes = tree.level(level)
        try:
            values = forecast_values(counts[:, nodes], shares[:, nodes])
        except ValueError as error:
            raise ValueError(f"{name}: level {level}: {error}") from None
        columns.append(np.stack([values[figure] for figure in FORECAST_FIGURES], axis=1))
    return np.stack(columns, axis=1)


def score_shares(
    users: np.ndarray,
    counts: np.ndarray,
    shares: np.ndarray,
    labels: Sequence[str],
    tree: DomainTree,
    replicates: int,
    seed: int,
    name: str,
) -> Score:
    """Forecast figures, averages over levels and horizons of means over users.

    Args:
        counts (`np.ndarray` of shape `(Q, H, K)`): what happened, zero where nothing is known.
        shares (`np.ndarray` of shape `(Q, H, K)`): forecasts.
        labels (`Sequence[str]`): name of each horizon; one for completion.
        name (`str`): who forecasts, for the error message.
    """
    if shares.shape != counts.shape:
        raise ValueError(f"{name}: forecasts have shape {shares.shape}, expected {counts.shape}")
    values = np.stack([_level_values(counts[:, h], shares[:, h], tree, name) for h in range(len(labels))], axis=1)
    users_seen = np.isfinite(values[..., 0]).any((1, 2))
    observed = np.isfinite(values[..., 0]).any((0, 2))  # (H,)
    with np.errstate(invalid="ignore"):
        number = np.isfinite(values).sum(0)
        cells = np.where(number > 0, np.nansum(values, axis=0) / np.maximum(number, 1), np.nan)  # (H, levels, 3)

    def averages(part: np.ndarray) -> dict[str, float]:
        return {figure: float(np.nanmean(part[..., index])) for index, figure in enumerate(FORECAST_FIGURES)}

    if not observed.any():
        return Score({})
    figures: dict = averages(cells[observed])
    figures["entropy"] = figures["cross_entropy"] - figures["kl"]
    figures["cases"] = int(users_seen.sum())
    figures["per_level"] = {str(level): averages(cells[observed, level]) for level in range(tree.num_levels)}
    if len(labels) > 1 or labels[0]:
        figures["per_horizon"] = {
            label: averages(cells[h])
            | {"per_level": {str(level): averages(cells[h, level]) for level in range(tree.num_levels)}}
            | {"cases": int(np.isfinite(values[:, h, 0, 0]).sum())}
            for h, label in enumerate(labels)
            if observed[h]
        }
    flat = values[:, observed].reshape(len(values), -1)
    drawn = UserBootstrap(users, replicates, seed).means(flat)
    drawn = drawn.reshape(len(drawn), int(observed.sum()), tree.num_levels, len(FORECAST_FIGURES)).mean(2)
    kl = drawn[..., FORECAST_FIGURES.index("kl")]
    by_horizon = {f"kl@{labels[h]}": kl[:, column] for column, h in enumerate(np.flatnonzero(observed))}
    replicated = dict(zip(FORECAST_FIGURES, drawn.mean(1).T, strict=True))
    return Score(figures, replicated, by_horizon if len(labels) > 1 else {})


def score_future(
    cases: ForecastCases,
    shares: np.ndarray,
    tree: DomainTree,
    replicates: int,
    seed: int,
    name: str,
    concentration: np.ndarray | None = None,
) -> Score:
    """[`score_shares`] of forecasts `(Q, H, K)`; with their `concentration (Q, H, K)` also `coverage_80`."""
    labels = [f"{horizon:g}" for horizon in cases.horizons]
    counts, shares = cases.counts * cases.mask[:, :, None], np.asarray(shares)
    score = score_shares(cases.user, counts, shares, labels, tree, replicates, seed, name)
    if concentration is not None and score.figures:
        _add_coverage(score, cases, inside_interval(cases, shares, concentration, tree, seed), replicates, seed)
    return score


def inside_interval(
    cases: ForecastCases, shares: np.ndarray, concentration: np.ndarray, tree: DomainTree, seed: int
) -> np.ndarray:
    """Whether the count of each domain among its siblings lies in the central 80 % of what forecasts `(Q, H, K)` with their
    concentrations say, `(Q, H, K)`: 1.0, 0.0, or NaN where it does not count."""
    counts = cases.counts * cases.mask[:, :, None]
    return covered(_sibling_transforms(counts, np.asarray(shares), np.asarray(concentration), tree, seed))


def sibling_cells(
    counts: np.ndarray, shares: np.ndarray, tree: DomainTree
) -> tuple[tuple[np.ndarray, ...], np.ndarray, np.ndarray]:
    """Of which counts among siblings an interval is told: indices of the cells `(Q, H, K)` with siblings and five expected events or more,
    given the events of all siblings; those events, and the forecast shares among siblings, both `(Q, H, K)`."""
    top = tree.parent < 0
    totals, above = counts[..., np.maximum(tree.parent, 0)], shares[..., np.maximum(tree.parent, 0)]
    totals[..., top] = counts[..., top].sum(-1, keepdims=True)
    above[..., top] = shares[..., top].sum(-1, keepdims=True)
    conditional = shares / np.maximum(above, 1e-12)
    only = np.bincount(tree.parent + 1, minlength=len(tree) + 1)[tree.parent + 1] == 1
    cell = np.nonzero((totals * conditional >= ENOUGH) & ~only & (conditional < 1.0))
    return cell, totals, conditional


def _sibling_transforms(
    counts: np.ndarray, shares: np.ndarray, concentration: np.ndarray, tree: DomainTree, seed: int
) -> np.ndarray:
    """Randomised PIT of every domain's count among its siblings `(Q, H, K)`, given theirs together; NaN where fewer than five
    events were expected, or where there are no siblings."""
    cell, totals, conditional = sibling_cells(counts, shares, tree)
    transforms = np.full(counts.shape, np.nan)
    random = np.random.default_rng(seed)
    transforms[cell] = beta_binomial_pit(counts[cell], totals[cell], conditional[cell], concentration[cell], random)
    return transforms


def _add_coverage(score: Score, cases: ForecastCases, inside: np.ndarray, replicates: int, seed: int) -> None:
    """Share of the cells `(Q, H, ...)` that lie in the central 80 %, all together and per horizon."""
    inside = inside.reshape(len(inside), len(cases.horizons), -1)
    number = np.isfinite(inside).sum(2)
    total = np.nansum(inside, axis=2)
    score.figures |= {"coverage_80": float(total.sum() / max(number.sum(), 1)), "coverage_cells": int(number.sum())}
    if not number.any():
        score.figures["coverage_80"] = np.nan
    for position, horizon in enumerate(cases.horizons):
        entry = score.figures["per_horizon"].get(f"{horizon:g}")
        if entry is not None and number[:, position].any():
            share = float(total[:, position].sum() / number[:, position].sum())
            entry |= {"coverage_80": share, "coverage_cells": int(number[:, position].sum())}
    drawn = UserBootstrap(cases.user, replicates, seed).means(np.stack([total.sum(1), number.sum(1)], 1).astype(float))
    with np.errstate(invalid="ignore", divide="ignore"):
        score.replicates["coverage_80"] = drawn[:, 0] / drawn[:, 1]


def score_completion(
    cases: CompletionCases, shares: np.ndarray, tree: DomainTree, replicates: int, seed: int, name: str
) -> Score:
    """[`score_shares`] of completions `(Q, K)`."""
    shares = np.asarray(shares)
    return score_shares(cases.user, cases.hidden_counts[:, None], shares[:, None], [""], tree, replicates, seed, name)


def score_change(cases: ForecastCases, rates: np.ndarray, replicates: int, seed: int, name: str) -> Score:
    """Figures of change rates `(Q, K)` over gated (user, domain) pairs."""
    rates = np.asarray(rates)
    if rates.shape != cases.rate.shape:
        raise ValueError(f"{name}: change rates have shape {rates.shape}, expected {cases.rate.shape}")
    row, node = np.nonzero(cases.gate)
    labels, rates = cases.rate[row, node], rates[row, node]
    interest = None if cases.interest is None else cases.interest[row, node]
    figures = change_metrics(labels, rates, None, interest) | {
        "pairs": len(row),
        "clear_pairs": int((np.abs(labels) > 0.2).sum()),
    }
    draws = UserBootstrap(cases.user, replicates, seed)
    drawn = draws.apply(lambda weights: change_metrics(labels, rates, weights, interest), row) if len(row) else {}
    return Score(figures, drawn)


def score_intensity(
    cases: ForecastCases,
    means: np.ndarray,
    replicates: int,
    seed: int,
    name: str,
    sizes: np.ndarray | None = None,
    absence: np.ndarray | None = None,
) -> Score:
    """Deviances and errors of expected counts `(Q, H)`, averages over horizons of means over users; with the `sizes (Q, H)` of
    their negative binomials, zero-inflated by the chances of `absence (Q, H)` if given, also `coverage_80`."""
    means = np.asarray(means)
    if means.shape != cases.totals.shape:
        raise ValueError(f"{name}: intensities have shape {means.shape}, expected {cases.totals.shape}")
    columns, figures = [], {"per_horizon": {}}
    for position, horizon in enumerate(cases.horizons):
        seen = cases.mask[:, position]
        if not seen.any():
            continue
        counts = cases.totals[seen, position]
        try:
            values = intensity_values(counts, means[seen, position])
        except ValueError as error:
            raise ValueError(f"{name}: horizon {horizon:g}: {error}") from None
        full = np.full((len(seen), len(values)), np.nan)
        full[seen] = np.stack(list(values.values()), axis=1)
        columns.append(full)
        facts = {"cases": int(seen.sum()), "dispersion": dispersion(counts), "mean_count": float(counts.mean())}
        facts["mean_forecast"] = float(means[seen, position].mean())
        figures["per_horizon"][f"{horizon:g}"] = _means(values) | facts
    if not columns:
        return Score({})
    names = list(values)
    parts = figures["per_horizon"].values()
    figures = {figure: float(np.mean([part[figure] for part in parts])) for figure in names} | figures
    drawn = UserBootstrap(cases.user, replicates, seed).means(np.concatenate(columns, axis=1))
    drawn = drawn.reshape(len(drawn), len(columns), len(names)).mean(1)
    score = Score(figures, dict(zip(names, drawn.T, strict=True)))
    if sizes is not None:
        inside = inside_count_interval(cases, means, sizes, seed, absence)
        _add_coverage(score, cases, inside[:, :, None], replicates, seed)
    return score


def inside_count_interval(
    cases: ForecastCases, means: np.ndarray, sizes: np.ndarray, seed: int, absence: np.ndarray | None = None
) -> np.ndarray:
    """Whether what people did lies in the central 80 % of negative binomials of means and sizes `(Q, H)`, zero-inflated by `absence`: 1.0,
    0.0, or NaN where fewer than five events are expected."""
    cell = cases.mask & (means >= ENOUGH)
    transforms = np.full(means.shape, np.nan)
    random = np.random.default_rng(seed)
    away = np.zeros(means.shape) if absence is None else np.asarray(absence, np.float64)
    given = (part[cell] for part in (cases.totals, means, np.asarray(sizes)))
    transforms[cell] = negative_binomial_pit(*given, random, away[cell])
    return covered(transforms)


def score_overall(cases: OverallCases, logits: np.ndarray, replicates: int, seed: int, name: str) -> Score:
    """Figures of overall interest from logits `(Q,)`; those of impressions `(Q, C)` also within each impression."""
    logits = np.asarray(logits, dtype=np.float64)
    known = np.isfinite(cases.label)
    if logits.shape != cases.label.shape or not np.isfinite(logits[known]).all():
        raise ValueError(f"{name}: expected {cases.label.shape} finite logits, got shape {logits.shape}")
    if cases.item.ndim == 2:
        return _score_impressions(cases, logits, known, replicates, seed)
    return _score_labels(cases.user, cases.label, logits, replicates, seed)


def _score_impressions(
    cases: OverallCases, logits: np.ndarray, known: np.ndarray, replicates: int, seed: int
) -> Score:
    row = np.nonzero(known)[0]
    logits, label = logits[known], cases.label[known]
    drawn = min(replicates, max(100, MOST_DRAWN // max(len(row), 1)))
    score = _score_labels(cases.user[row], label, logits, drawn if replicates else 0, seed)
    number, values = impression_values(row, logits, label)
    score.figures |= {"impressions": len(number)}
    if len(number):
        score.figures |= _means(values)
        means = UserBootstrap(cases.user[number], replicates, seed).means(np.stack(list(values.values()), axis=1))
        score.replicates |= dict(zip(values, means.T, strict=True))
    return score


def _score_labels(users: np.ndarray, label: np.ndarray, logits: np.ndarray, replicates: int, seed: int) -> Score:
    probabilities = np.where(logits >= 0, 1.0, np.exp(-np.abs(logits))) / (1.0 + np.exp(-np.abs(logits)))
    figures = overall_metrics(label, probabilities)
    figures |= {"cases": len(logits), "positives": float(label.mean())}
    draws = UserBootstrap(users, replicates, seed)
    values = overall_values(label, probabilities)
    means = dict(zip(values, draws.means(np.stack(list(values.values()), axis=1)).T, strict=True))
    tp, fp, fn = means.pop("tp"), means.pop("fp"), means.pop("fn")
    with np.errstate(invalid="ignore", divide="ignore"):
        means |= {"precision": tp / (tp + fp), "recall": tp / (tp + fn), "f1": 2 * tp / (2 * tp + fp + fn)}
    means |= draws.apply(lambda weights: {"auc": auc(label, logits, weights)})
    return Score(figures, means)


def score_rating(cases: OverallCases, ratings: np.ndarray, replicates: int, seed: int, name: str) -> Score:
    """Errors of predicted ratings `(Q,)`."""
    ratings = np.asarray(ratings, dtype=np.float64)
    if ratings.shape != cases.value.shape or not np.isfinite(ratings).all():
        raise ValueError(f"{name}: expected {len(cases.value)} finite ratings, got shape {ratings.shape}")
    values = rating_values(cases.value, ratings)
    drawn = UserBootstrap(cases.user, replicates, seed).means(np.stack(list(values.values()), axis=1))
    figures = {"rmse": float(np.sqrt(values["squared"].mean())), "mae": float(values["absolute"].mean())}
    return Score(figures | {"cases": len(ratings)}, {"rmse": np.sqrt(drawn[:, 0]), "mae": drawn[:, 1]})

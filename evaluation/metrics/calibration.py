"""Do intervals hold what they promise: randomised probability integral transforms of counts."""

from __future__ import annotations

import numpy as np
from scipy.special import betaln, gammaln
from scipy.stats import nbinom


CENTRAL = 0.8  # the interval whose coverage is told
ENOUGH = 5.0  # expected events of a cell that counts
_CHUNK_TERMS = 2_000_000


def beta_binomial_pit(
    counts: np.ndarray, totals: np.ndarray, shares: np.ndarray, concentration: np.ndarray, random: np.random.Generator
) -> np.ndarray:
    """Randomised PIT (Czado, Gneiting & Held 2009, eq. 1) of counts that are beta-binomial, the marginal of the
    Dirichlet-multinomial: uniform on (0, 1) where the forecast is right.

    `u = F(y - 1) + v (F(y) - F(y - 1))`, v uniform. Fractional counts (an item in several domains) take F linear between whole
    numbers, and their totals are rounded up.

    Args:
        counts (`np.ndarray` of shape `(n,)`): events of a domain, 0 to `totals`.
        totals (`np.ndarray` of shape `(n,)`): events of it and its siblings.
        shares (`np.ndarray` of shape `(n,)`): forecast share among the siblings, in (0, 1).
        concentration (`np.ndarray` of shape `(n,)`): kappa, in events.
        random (`np.random.Generator`): draws v.

    Returns:
        `np.ndarray` of shape `(n,)`, float64.
    """
    counts, totals = np.asarray(counts, dtype=np.float64), np.ceil(np.asarray(totals, dtype=np.float64) - 1e-6)
    first, second = concentration * shares, concentration * (1.0 - shares)
    low = np.floor(counts + 1e-6)
    terms = low.astype(np.int64) + 2  # 0 to low + 1
    below, step, next_step = np.empty_like(counts), np.empty_like(counts), np.empty_like(counts)
    start = 0
    while start < len(counts):
        size = max(int(np.searchsorted(np.cumsum(terms[start:]), _CHUNK_TERMS)), 1)
        part = slice(start, start + size)
        offset = np.r_[0, np.cumsum(terms[part])[:-1]]
        row = np.repeat(np.arange(len(offset)), terms[part])
        k = np.arange(len(row)) - offset[row]
        n, a, b = totals[part][row], first[part][row], second[part][row]
        inside = k <= n
        k = np.minimum(k, n)
        log = gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1) + betaln(k + a, n - k + b) - betaln(a, b)
        chance = np.exp(log) * inside
        last = offset + terms[part] - 1
        step[part], next_step[part] = chance[last - 1], chance[last]
        below[part] = np.add.reduceat(chance, offset) - step[part] - next_step[part]  # F(low - 1)
        start += size
    fraction = counts - low
    # F at y - 1 + v: within the step of `low` up to v = 1 - fraction, then within the next one
    place = fraction + random.random(len(counts))
    return np.clip(below + np.minimum(place, 1.0) * step + np.maximum(place - 1.0, 0.0) * next_step, 0.0, 1.0)


def negative_binomial_pit(
    counts: np.ndarray,
    means: np.ndarray,
    sizes: np.ndarray,
    random: np.random.Generator,
    absence: np.ndarray | float = 0.0,
) -> np.ndarray:
    """The same of counts `(n,)` that are negative binomial with these means and sizes (variance `m + m^2 / s`), and 0 with the chance of
    `absence` on top; the means are those of all."""
    means = means / (1 - absence)
    chance = sizes / (sizes + means)
    below, up_to = nbinom.cdf(counts - 1, sizes, chance), nbinom.cdf(counts, sizes, chance)
    below, up_to = np.where(counts > 0, absence + (1 - absence) * below, 0.0), absence + (1 - absence) * up_to
    return below + random.random(len(counts)) * (up_to - below)


def covered(transform: np.ndarray, central: float = CENTRAL) -> np.ndarray:
    """Which PITs lie in the central interval, float with NaN where they are NaN."""
    edge = (1.0 - central) / 2.0
    return np.where(np.isnan(transform), np.nan, (transform >= edge) & (transform <= 1.0 - edge))

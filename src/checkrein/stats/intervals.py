"""What a sample proves: bounds on proportions, quantiles and differences, and the sample that would be needed.

Exact where that is possible; every bound is one-sided at `alpha` on each side, since a limit is crossed on one side.
scipy takes half a second to load, so it is loaded where it is needed: a server that never judges never waits for it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import NamedTuple


class Bounds(NamedTuple):
    """An estimate, and what it lies above and below with confidence `1 - alpha` each."""

    low: float
    value: float
    high: float


def proportion(hits: int, count: int, alpha: float = 0.05) -> Bounds:
    """Clopper and Pearson's exact bounds of a proportion (1934). Nothing seen proves nothing."""
    if count <= 0:
        return Bounds(0.0, math.nan, 1.0)
    from scipy.special import betaincinv

    low = float(betaincinv(hits, count - hits + 1, alpha)) if hits else 0.0
    high = float(betaincinv(hits + 1, count - hits, 1 - alpha)) if hits < count else 1.0
    return Bounds(low, hits / count, high)


def cases_for_rate(limit: float, alpha: float = 0.05) -> int:
    """How many cases without a single failure prove a failure rate below `limit`."""
    return math.ceil(math.log(alpha) / math.log1p(-limit))


def quantile(values: Sequence[float], q: float, alpha: float = 0.05) -> Bounds:
    """A quantile with bounds from order statistics, free of any assumption about the distribution.

    Where the sample is too small to bound it, the bound is infinite.
    """
    ordered = sorted(values)
    count = len(ordered)
    if not count:
        return Bounds(-math.inf, math.nan, math.inf)
    from scipy.special import bdtr

    # the number of values below the quantile is binomial(count, q): bdtr(k, n, p) is P(X <= k)
    low = next((k for k in range(count, 0, -1) if bdtr(k - 1, count, q) <= alpha), 0)
    high = next((k for k in range(1, count + 1) if bdtr(k - 1, count, q) >= 1 - alpha), count + 1)
    value = ordered[min(count - 1, max(0, math.ceil(q * count) - 1))]
    return Bounds(ordered[low - 1] if low else -math.inf, value, ordered[high - 1] if high <= count else math.inf)


def cases_for_quantile(q: float, alpha: float = 0.05) -> int:
    """How many cases it takes for the largest to bound the quantile from above."""
    return math.ceil(math.log(alpha) / math.log(q))


def ratio(above: Sequence[float], below: Sequence[float], alpha: float = 0.05) -> Bounds:
    """The ratio of two sums over the same cases, such as cost over tokens, by linearisation (the delta method)."""
    total, count = math.fsum(below), len(below)
    if total <= 0 or count < 2:
        return Bounds(-math.inf, math.nan if total <= 0 else math.fsum(above) / total, math.inf)
    value = math.fsum(above) / total
    spread = math.fsum((a - value * b) ** 2 for a, b in zip(above, below, strict=True))
    error = _z(1 - alpha) * math.sqrt(spread * count / (count - 1)) / total
    return Bounds(value - error, value, value + error)


def paired_difference(gained: int, lost: int, count: int, alpha: float = 0.05) -> Bounds:
    """The difference of two success rates on the same cases: `gained` only by the second, `lost` only by the first.

    Wald's interval with half a case added to each cell of the table (Agresti and Min, 2005), which keeps its level in
    small samples.
    """
    if count <= 0:
        return Bounds(-1.0, math.nan, 1.0)
    one, other, all = gained + 0.5, lost + 0.5, count + 2.0
    centre = (one - other) / all
    error = _z(1 - alpha) * math.sqrt(max(0.0, (one + other) - (one - other) ** 2 / all)) / all
    return Bounds(max(-1.0, centre - error), (gained - lost) / count, min(1.0, centre + error))


def cases_for_difference(margin: float, discordant: float, alpha: float = 0.05, power: float = 0.8) -> int:
    """Pairs needed to prove that a difference is not below `-margin`, if `discordant` of them differ and it is zero."""
    z = _z(1 - alpha) + _z(power)
    return math.ceil(z * z * max(discordant, 1e-9) / (margin * margin))


def _z(share: float) -> float:
    """The quantile of the normal distribution."""
    return NormalDist().inv_cdf(share)

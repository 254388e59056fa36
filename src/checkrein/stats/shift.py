"""Whether two samples come from one world: a small golden set beside much production.

Every test asks how probable a difference as large as the one seen is, had the golden set been drawn from the same
actions as production. Beside its `p` each says how large the difference is, between 0 and 1, and how large chance alone
makes it at these sample sizes: at 200 golden cases the usual limits on a distance (PSI above 0.25) are crossed by
samples of one and the same world.

What is drawn is drawn from a seed that is handed in, so that the same samples have the same verdict. scipy and numpy
are loaded where they are needed, as in `intervals`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

Counts = Mapping[str, int]
#: a bin must be expected so often in the smaller sample, or it is merged with other rare ones
LEAST = 5.0
#: how many golden sets are drawn to learn what chance does, and how often texts are divided anew
DRAWS = DIVISIONS = 2000
#: half a count more in each bin, for the logarithms of PSI
_HALF = 0.5
_CHUNK = 200


class Shift(NamedTuple):
    """`size` is how far apart the samples are (0 to 1), `chance` how far chance alone puts them."""

    p: float
    size: float
    chance: float

    @property
    def beyond(self) -> float:
        """What is left of the size when chance is taken out: independent errors add up in squares."""
        return math.sqrt(max(0.0, self.size**2 - self.chance**2))


NOTHING = Shift(1.0, 0.0, 0.0)


class Categories(NamedTuple):
    """A shift of shares: `size` is the share that lies elsewhere (total variation).

    `psi` is the population stability index, and `psi_floor` what chance stays below with confidence `1 - alpha`.
    """

    shift: Shift
    bins: int
    psi: float
    psi_floor: float


def merged(golden: Counts, production: Counts, least: float = LEAST) -> list[tuple[int, int]]:
    """Counts bin by bin, with all rare bins in one; what is rare is judged by both samples together.

    A rest that stays rare goes to the smallest bin that is not.
    """
    n, m = sum(golden.values()), sum(production.values())
    if not n or not m:
        return []
    share = min(n, m) / (n + m)
    pairs = [(golden.get(name, 0), production.get(name, 0)) for name in golden.keys() | production.keys()]
    common = sorted((pair for pair in pairs if sum(pair) * share >= least), key=lambda pair: (sum(pair), pair))
    rest = (n - sum(pair[0] for pair in common), m - sum(pair[1] for pair in common))
    if not sum(rest):
        return common
    if common and sum(rest) * share < least:
        rest = (rest[0] + common[0][0], rest[1] + common[0][1])
        common = common[1:]
    return [rest, *common]


def categories(golden: Counts, production: Counts, *, alpha: float = 0.01, seed: int = 0) -> Categories:
    """Pearson's chi-square of homogeneity over bins that are not rare, and PSI against its noise floor.

    The surer of the two counts, doubled because there are two: chi-square has any small p, and PSI notices sooner what
    is new and rare.
    """
    pairs = merged(golden, production)
    if len(pairs) < 2:
        return Categories(NOTHING, len(pairs), 0.0, 0.0)
    import numpy as np

    one, other = np.array(pairs, dtype=np.int64).T
    drawn = _drawn(one + other, int(one.sum()), seed)
    rest = (one + other) - drawn
    psis = _psi(drawn, rest)
    distance = float(_apart(one, other))
    chance = math.sqrt(float(np.mean(_apart(drawn, rest) ** 2)))
    psi = float(_psi(one, other))
    calibrated = (1 + int((psis >= psi - 1e-12).sum())) / (DRAWS + 1)
    p = min(1.0, 2 * min(chi_square(pairs)[1], calibrated))
    return Categories(Shift(p, distance, chance), len(pairs), psi, float(np.quantile(psis, 1 - alpha)))


def chi_square(pairs: Sequence[tuple[int, int]]) -> tuple[float, float]:
    """The statistic and its p; both samples and every bin must have something in them."""
    from scipy.special import chdtrc

    n, m = sum(pair[0] for pair in pairs), sum(pair[1] for pair in pairs)
    both = n + m
    statistic = math.fsum((a * m - b * n) ** 2 / ((a + b) * n * m) for a, b in pairs) if both else 0.0
    return statistic, float(chdtrc(len(pairs) - 1, statistic))


def psi(pairs: Sequence[tuple[int, int]]) -> float:
    """The population stability index, with half a count added to each bin."""
    import numpy as np

    one, other = np.array(pairs, dtype=np.int64).T
    return float(_psi(one, other))


def _drawn(pooled: Any, n: int, seed: int) -> Any:
    """Golden sets of this size, drawn without replacement from everything that was seen; bins by columns."""
    import numpy as np

    generator = np.random.default_rng(seed)
    return generator.multivariate_hypergeometric(pooled, n, size=DRAWS, method="marginals")


def _psi(one: Any, other: Any) -> Any:
    import numpy as np

    p, q = one + _HALF, other + _HALF
    p, q = p / p.sum(-1, keepdims=True), q / q.sum(-1, keepdims=True)
    return ((p - q) * np.log(p / q)).sum(-1)


def _apart(one: Any, other: Any) -> Any:
    """Total variation: the share that would have to move."""
    import numpy as np

    return np.abs(one / one.sum(-1, keepdims=True) - other / other.sum(-1, keepdims=True)).sum(-1) / 2


def numbers(golden: Mapping[int, int], production: Mapping[int, int]) -> Shift:
    """Kolmogorov and Smirnov's test on counted values, by its limit; ties make it more careful, never less."""
    n, m = sum(golden.values()), sum(production.values())
    if not n or not m:
        return NOTHING
    from scipy.special import kolmogorov

    one = other = 0
    distance = 0
    for value in sorted(golden.keys() | production.keys()):
        one += golden.get(value, 0)
        other += production.get(value, 0)
        distance = max(distance, abs(one * m - other * n))
    size, root = distance / (n * m), math.sqrt(n * m / (n + m))
    # the mean of Kolmogorov's distribution is sqrt(pi / 2) * log(2)
    return Shift(float(kolmogorov(root * size)), size, min(1.0, math.sqrt(math.pi / 2) * math.log(2) / root))


def never_seen(golden: Counts, production: Counts, floor: float = 0.0) -> Shift:
    """The share of production with a value the golden set does not have; `chance` is the share to be expected.

    A small golden set always lacks something. Had it been drawn from everything that was seen, a value seen `c` times
    would be missing in it with the hypergeometric probability `h`; absences are negatively associated, so Chernoff's
    bound on their weighted sum holds at every size. The larger of that and of the binomial test of a share not above
    `floor` is the `p`: both must be beyond doubt.
    """
    n, m = sum(golden.values()), sum(production.values())
    if not n or not m:
        return NOTHING
    import numpy as np
    from scipy.special import bdtrc, expit, gammaln

    absent = sum(count for value, count in production.items() if not golden.get(value))
    sizes = Counter(golden.get(value, 0) + production.get(value, 0) for value in golden.keys() | production.keys())
    c = np.array([size for size in sizes if 0 < size <= m], dtype=np.float64)
    times = np.array([sizes[size] for size in sizes if 0 < size <= m], dtype=np.float64)
    left = n + m - c
    log_h = gammaln(left + 1) - gammaln(left - n + 1) - gammaln(n + m + 1) + gammaln(m + 1)
    expected = float((times * c * np.exp(log_h)).sum())
    shift = Shift(1.0, absent / m, min(1.0, expected / m))
    if absent <= max(expected, floor * m):
        return shift
    odds = log_h - np.log(-np.expm1(np.minimum(log_h, -1e-300)))

    def slope(t: float) -> float:
        return float((times * c * expit(odds + t * c)).sum()) - absent

    def bound(t: float) -> float:
        stay = np.log(-np.expm1(np.minimum(log_h, -1e-300)))
        return float((times * np.logaddexp(stay, log_h + t * c)).sum()) - t * absent

    chernoff = math.exp(min(0.0, bound(_root(slope, 0.0, 700.0))))
    binomial = float(bdtrc(absent - 1, m, floor)) if floor > 0 else 0.0
    return Shift(min(1.0, max(chernoff, binomial)), shift.size, shift.chance)


def profiles(golden: Floats, production: Floats, *, seed: int = 0) -> Shift:
    """Whether two sets of vectors (one a row) have one mean, by dividing all of them anew.

    A row is what a text is made of; the entries of one row depend on each other, and dividing whole rows keeps that.
    With rows that are nowhere negative the size is 1 where the sets have nothing in common.
    """
    n, m = len(golden), len(production)
    if not n or not m:
        return NOTHING
    import numpy as np

    rows = np.concatenate([golden, production]).astype(np.float32)
    total = rows.sum(0, dtype=np.float64)
    generator = np.random.default_rng(seed)

    def squares(sums: Any) -> Any:
        return ((sums / n - (total - sums) / m) ** 2).sum(-1)

    seen = float(squares(rows[:n].sum(0, dtype=np.float64)))
    found = []
    for _ in range(DIVISIONS // _CHUNK):
        picked = np.zeros((_CHUNK, n + m), dtype=np.float32)
        for row in picked:
            row[generator.choice(n + m, n, replace=False, shuffle=False)] = 1.0
        found.append(squares((picked @ rows).astype(np.float64)))
    chance = np.concatenate(found)
    one, other = golden.mean(0), production.mean(0)
    scale = float((one**2).sum() + (other**2).sum()) or 1.0
    # differences below what the arithmetic can tell apart count as reached
    p = (1 + int((chance >= seen * (1 - 1e-5) - 1e-12).sum())) / (DIVISIONS + 1)
    return Shift(p, math.sqrt(seen / scale), min(1.0, math.sqrt(float(chance.mean()) / scale)))


def benjamini_hochberg(ps: Sequence[float]) -> list[float]:
    """Each p as it counts among the others (1995): those at most `alpha` are wrong in a share of `alpha` at most."""
    adjusted, least = [1.0] * len(ps), 1.0
    for rank, at in sorted(enumerate(sorted(range(len(ps)), key=ps.__getitem__), 1), reverse=True):
        least = min(least, ps[at] * (len(ps) / rank))
        adjusted[at] = least
    return adjusted


def smallest_shift(bins: int, golden: int, production: int, *, alpha: float, power: float = 0.8) -> float:
    """What a value of average share must gain for the chi-square test to notice it with this power; 1 for nothing less.

    By the noncentral chi-square distribution; the other values shrink in proportion. Calibrated PSI may notice sooner.
    """
    if bins < 2 or not golden or not production:
        return 1.0
    from scipy.special import chdtri, chndtr

    critical, share = float(chdtri(bins - 1, alpha)), 1 / bins
    weight = golden * production / (golden + production)

    def missing(gain: float) -> float:
        q = share + gain
        pooled = (golden * share + production * q) / (golden + production)
        distance = weight * gain**2 / (pooled * (1 - pooled))
        return power - (1 - float(chndtr(critical, bins - 1, distance)))

    return 1.0 if missing(1 - share - 1e-9) > 0 else _root(lambda gain: -missing(gain), 0.0, 1 - share - 1e-9)


def cases_for_shift(shift: float, bins: int, production: int, *, alpha: float, power: float = 0.8) -> int:
    """How many golden cases notice a gain of `shift`; 0 if no number does beside so little production."""

    def noticed(cases: int) -> bool:
        return smallest_shift(bins, cases, production, alpha=alpha, power=power) <= shift

    most = 1_000_000
    if bins < 2 or not production or not noticed(most):
        return 0
    low, high = 0, most
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if noticed(middle) else (middle, high)
    return high


def smallest_distance(golden: int, production: int, *, alpha: float, power: float = 0.8) -> float:
    """The distance between two distributions that `numbers` notices with this power, wherever it lies."""
    return min(1.0, _quantiles(alpha, power) * math.sqrt(1 / golden + 1 / production)) if golden and production else 1.0


def cases_for_distance(distance: float, production: int, *, alpha: float, power: float = 0.8) -> int:
    """How many golden cases notice this distance; 0 if no number does beside so little production."""
    needed = (_quantiles(alpha, power) / distance) ** 2
    return math.ceil(needed * production / (production - needed)) if production > needed else 0


def _quantiles(alpha: float, power: float) -> float:
    """The critical value, and how far above it the mean must lie; a difference of shares varies most at one half."""
    from scipy.special import kolmogi, ndtri

    return float(kolmogi(alpha)) + float(ndtri(power)) / 2


def _root(rising: Callable[[float], float], low: float, high: float) -> float:
    """Where a rising function becomes positive, to the last bit that matters."""
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (low, middle) if rising(middle) > 0 else (middle, high)
    return high

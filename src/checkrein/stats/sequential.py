"""Anytime-valid comparison of a canary with its control: look after every tick, stop when it is enough.

Of all bad events (errors, slow answers, denials), the canary's share should be its share of the traffic. Under the
null hypothesis that its odds are at most `null_odds` times the control's, a bad event falls on the canary with
probability at most `q = null_odds * p / (1 - p + null_odds * p)`, where `p` is its share of the exposures. For an
alternative with odds `theta` times as high, the likelihood ratio of what was seen is a supermartingale under the
null; so is the even mixture over `ODDS`. By Ville's inequality it ever exceeds `1 / alpha` with probability at most
`alpha`, however often somebody looks.

The share may change from one observation to the next (a stage goes from 10 to 50 %, a heavy user arrives); each is
weighed with its own. Events drawn without replacement, as they are from a minute's answers, only make it smaller
(Hoeffding 1963, theorem 4). The idea is that of sequential tests of Bernoulli rates in canary analysis
(Lindon, Malek: Anytime-Valid Inference for Multinomial Count Data, 2022).
"""

from __future__ import annotations

import math

#: how many times the odds of the null an alternative has; a wide grid costs little power anywhere
ODDS = (1.25, 1.6, 2.0, 2.5, 3.2, 4.0, 5.0, 6.3, 8.0, 10.0, 14.0, 20.0, 32.0, 64.0)
#: log likelihood ratios, one for each of `ODDS`
Logs = tuple[float, ...]
NOTHING: Logs = (0.0,) * len(ODDS)


def observe(
    logs: Logs, *, canary: int, control: int, canary_exposed: int, control_exposed: int, null_odds: float = 1.0
) -> Logs:
    """What is known after `canary` and `control` bad events among so many exposures of each.

    An observation in which only one of the two was exposed tells nothing.
    """
    if canary_exposed <= 0 or control_exposed <= 0 or not canary + control:
        return logs
    null = null_odds * canary_exposed / (control_exposed + null_odds * canary_exposed)
    return tuple(
        log + canary * (math.log(theta) - weight) - control * weight
        for log, theta in zip(logs, ODDS, strict=True)
        for weight in (math.log1p(null * (theta - 1)),)
    )


def evidence(logs: Logs) -> float:
    """The natural logarithm of the mixture: compare it with `log(1 / alpha)`."""
    top = max(logs)
    return top + math.log(math.fsum(math.exp(log - top) for log in logs) / len(logs))


def threshold(alpha: float, looks: int = 1) -> float:
    """What `evidence` must reach, for `looks` tests that share the false-alarm rate `alpha` (union bound)."""
    return math.log(looks / alpha)

"""What must be kept, by a challenger and by a deployment; apart from what judges, so that reading settings is quick."""

from __future__ import annotations

import msgspec


class Limits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the challenger must keep. `margin` is how much worse than the champion it may be at most."""

    latency_ms: float = 2000.0
    #: the same for a decision, where policies are judged
    decision_ms: float = 50.0
    latency_quantile: float = 0.95
    error_rate: float = 0.01
    cost_per_1000_tokens: float = 0.05
    margin: float = 0.02
    alpha: float = 0.05


class Targets(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a deployment wants to reach over `window`; None is no target.

    Enforcement and passed gates shall lie above theirs, all else below: shares, milliseconds, and reviews for 100
    actions with side effects.
    """

    window: str = "7d"
    enforcement_rate: float | None = 0.99
    denial_rate: float | None = 0.001
    review_load: float | None = None
    wrongful_interruptions: float | None = None
    decision_ms: float | None = 50.0
    gate_pass_rate: float | None = 0.95


#: what a drift report compares
QUESTIONS = ("action", "target", "risk", "outcome", "argument sizes", "new actions", "new targets", "text")


class DriftLimits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When production counts as different from the golden set; shares, of which 0.02 are two points in a hundred."""

    #: how often a world that has not changed may be called different, over all questions together
    alpha: float = 0.01
    #: less than this, beyond what chance does, is no drift however sure it is
    floor: float = 0.02
    #: a golden set that would not notice so much is too small
    notice: float = 0.15
    #: questions that are not asked, where golden cases differ on purpose
    ignore: tuple[str, ...] = ()


#: what production that has drifted from the golden set makes of a gate's verdict: it stays open, is refused, is told
ON_DRIFT = ("open", "refuse", "tell")

"""What a challenger must keep to be promoted; apart from `promotion`, so that reading settings loads no statistics."""

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

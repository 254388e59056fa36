"""Why an expression has no value."""

from __future__ import annotations


class EvaluationError(Exception):
    """Evaluating a policy failed: a type error, a missing attribute, an overflow. Never holds values."""

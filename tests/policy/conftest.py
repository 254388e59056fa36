"""Shared by the tests of `policy`: how many examples a law is tried on."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

DEEP = os.environ.get("CHECKREIN_DEEP") == "1"

settings.register_profile(
    "checkrein",
    max_examples=6_000 if DEEP else 300,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.load_profile("checkrein")

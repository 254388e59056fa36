"""What people a policy asks for before an action may run."""

from __future__ import annotations

import re

import msgspec

from checkrein.model.errors import BadRequest

_FACTOR = re.compile(r"\s*(\d{1,3})\s+of\s+([A-Za-z0-9_.\-]{1,80})\s*")
_SPAN = re.compile(r"\s*(\d{1,6})\s*(s|m|h|d)\s*")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


class Factor(msgspec.Struct, frozen=True):
    """`count` different people who hold `role`."""

    count: int
    role: str

    def __str__(self) -> str:
        return f"{self.count} of {self.role}"


class Requirement(msgspec.Struct, frozen=True):
    """All factors must be met, each by different people, within `expires_s` seconds of the request."""

    factors: tuple[Factor, ...]
    expires_s: int

    def __str__(self) -> str:
        return " and ".join(str(factor) for factor in self.factors)


def parse_factors(text: str) -> tuple[Factor, ...]:
    """Read `"2 of finance"` or `"1 of finance and 1 of security"`; raises `BadRequest` for anything else."""
    factors = []
    for part in text.split(" and "):
        match = _FACTOR.fullmatch(part)
        if match is None or int(match[1]) < 1:
            raise BadRequest(f"`{text}` names no approvers", hint='write `"2 of finance"` or `"1 of a and 1 of b"`')
        factors.append(Factor(int(match[1]), match[2]))
    return tuple(factors)


def parse_span(text: str) -> int:
    """Seconds of `"90s"`, `"30m"`, `"4h"`, `"2d"`; raises `BadRequest` for anything else or zero."""
    match = _SPAN.fullmatch(text)
    if match is None or int(match[1]) == 0:
        raise BadRequest(f"`{text}` is not a length of time", hint='write `"30m"`, `"4h"` or `"2d"`')
    return int(match[1]) * _SECONDS[match[2]]


def combine(requirements: tuple[Requirement, ...]) -> Requirement:
    """Every requirement at once: for each role the highest count, and the shortest time."""
    counts: dict[str, int] = {}
    for requirement in requirements:
        for factor in requirement.factors:
            counts[factor.role] = max(counts.get(factor.role, 0), factor.count)
    return Requirement(
        tuple(Factor(count, role) for role, count in sorted(counts.items())),
        min(requirement.expires_s for requirement in requirements),
    )

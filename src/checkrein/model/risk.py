"""Risk: an input to policy, never an outcome."""

from __future__ import annotations

import enum

import msgspec


class Level(enum.StrEnum):
    """green < amber < red; compare with `rank`."""

    GREEN = "green"
    AMBER = "amber"
    RED = "red"

    @property
    def rank(self) -> int:
        return ("green", "amber", "red").index(self.value)


AMBER_FROM = 30
RED_FROM = 70


class Risk(msgspec.Struct, frozen=True):
    """A level, a score of 0 to 100, and the factors that made it, strongest first."""

    level: Level
    score: int
    factors: tuple[str, ...] = ()

    @classmethod
    def of(cls, score: int, factors: tuple[str, ...] = ()) -> Risk:
        """The level that belongs to a score: amber from 30, red from 70. Scores beyond 0..100 are clamped."""
        score = max(0, min(100, score))
        level = Level.RED if score >= RED_FROM else Level.AMBER if score >= AMBER_FROM else Level.GREEN
        return cls(level, score, factors)

"""What was counted of a rollout's two arms, minute by minute."""

from __future__ import annotations

import msgspec

#: an action, what the stable version decides of it, and what the canary does
Loosened = tuple[str, str, str]


class Tally(msgspec.Struct, frozen=True):
    """How often each thing happened on one arm.

    `started` and `ended` count answers of an upstream; of a policy bundle, each decision is an answer. An answer that
    never came, or whose end was never recorded, is an error.
    """

    decided: int = 0
    denied: int = 0
    reviewed: int = 0
    started: int = 0
    ended: int = 0
    errors: int = 0
    slow: int = 0

    def __add__(self, other: Tally) -> Tally:
        return Tally(*(getattr(self, name) + getattr(other, name) for name in self.__struct_fields__))


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """Requests that the two arms of a policy rollout decide differently, by action; `example` is one evaluation."""

    action: str
    before: str
    after: str
    loosens: bool
    count: int
    example: str

    @property
    def kind(self) -> Loosened:
        return (self.action, self.before, self.after)


class Minute(msgspec.Struct, frozen=True):
    """Both arms in one minute; `at` is the minute since 1970."""

    at: int
    stable: Tally = Tally()
    canary: Tally = Tally()

    def __add__(self, other: Minute) -> Minute:
        return Minute(self.at, self.stable + other.stable, self.canary + other.canary)


class Window(msgspec.Struct, frozen=True):
    """What was counted since the last step, oldest minute first, up to the ledger's record `cursor`."""

    minutes: tuple[Minute, ...] = ()
    cursor: int = -1
    differences: tuple[Difference, ...] = ()

"""Who votes in whose place. Resolved when a vote comes: from what is configured, what was given, and the time.

Somebody who is away has a delegate in `checkrein.toml`; anybody may also give their vote away for a time
(`Delegation`). A delegate who has a delegate passes it on, over `MAX_HOPS` people at the most. Who stands on the
principal chain of a request neither votes nor passes a vote on: nobody chooses who decides what they asked for.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

import msgspec

from checkrein.model.people import People

#: from one person to the next, so many times
MAX_HOPS = 3


class Delegation(msgspec.Struct, frozen=True, kw_only=True):
    """One person gives another their vote, from a time until a time (microseconds since 1970)."""

    delegator: str
    delegate: str
    version: int
    from_us: int
    until_us: int
    ended_us: int = 0

    def holds(self, now_us: int) -> bool:
        return not self.ended_us and self.from_us <= now_us < self.until_us


class Represented(msgspec.Struct, frozen=True):
    """Somebody whose vote is given to another, and over whom it came, the nearest to the delegator first."""

    delegator: str
    via: tuple[str, ...] = ()


def represented(
    voter: str, people: People, given: Iterable[Delegation], now_us: int, barred: Collection[str] = ()
) -> tuple[Represented, ...]:
    """Everybody in whose place this person may vote now, the shortest ways first. Cycles end where they began."""
    gave: dict[str, list[str]] = {}
    for name, person in people.people.items():
        if delegate := person.stands_in(now_us):
            gave.setdefault(delegate, []).append(name)
    for delegation in given:
        if delegation.holds(now_us):
            gave.setdefault(delegation.delegate, []).append(delegation.delegator)
    if voter in barred:
        return ()
    found: dict[str, Represented] = {}
    reached: list[Represented] = [Represented(voter)]
    for hop in range(MAX_HOPS):
        nearest = []
        for known in reached:
            via = (known.delegator, *known.via) if hop else ()
            for delegator in sorted(set(gave.get(known.delegator, ()))):
                if delegator != voter and delegator not in barred and delegator not in found:
                    found[delegator] = Represented(delegator, via)
                    nearest.append(found[delegator])
        reached = nearest
    return tuple(found.values())

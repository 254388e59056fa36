"""Who there is: people, the roles this deployment gives them, who stands in for whom, and who owns which agent."""

from __future__ import annotations

import datetime
import re
from collections import Counter

import msgspec

from checkrein.model.errors import BadRequest
from checkrein.model.likeness import alike, likeness

_AWAY = re.compile(r"\s*(\d{4}-\d{2}-\d{2})\s*\.\.\s*(\d{4}-\d{2}-\d{2})\s*")
_DAY_US = 86_400_000_000
_EPOCH = datetime.date(1970, 1, 1)


class Absence(msgspec.Struct, frozen=True):
    """From the first day to the last, both whole days in UTC; in days since 1970."""

    first: int
    last: int

    @classmethod
    def parse(cls, text: str) -> Absence:
        """Read `"2026-12-20..2027-01-06"`; raises `BadRequest` for anything else, or for an end before its begin."""
        hint = 'write `"2026-12-20..2027-01-06"`, the first and the last day'
        match = _AWAY.fullmatch(text)
        if match is None:
            raise BadRequest(f"`{text[:80]}` is not two dates", hint=hint)
        first, last = parse_day(match[1]), parse_day(match[2])
        if last < first:
            raise BadRequest(f"`{text[:80]}` ends before it begins", hint=hint)
        return cls(first, last)

    def covers(self, now_us: int) -> bool:
        return self.first <= now_us // _DAY_US <= self.last

    @property
    def bounds_us(self) -> tuple[int, int]:
        """When it begins, and the first moment after it, in microseconds since 1970."""
        return self.first * _DAY_US, (self.last + 1) * _DAY_US


def parse_day(text: str) -> int:
    """The day of `"2026-12-20"`, in days since 1970; raises `BadRequest`."""
    try:
        return (datetime.date.fromisoformat(text) - _EPOCH).days
    except ValueError as error:
        raise BadRequest(f"`{text[:80]}` is not a date", hint="write `2026-12-20`") from error


class Person(msgspec.Struct, frozen=True, kw_only=True):
    """Somebody who acts or approves. While they are away, `delegate` may vote in their place."""

    roles: tuple[str, ...] = ()
    email: str = ""
    delegate: str = ""
    away: tuple[Absence, ...] = ()

    def stands_in(self, now_us: int) -> str:
        """Who votes for them now because they are away; empty while they are here."""
        return self.delegate if any(absence.covers(now_us) for absence in self.away) else ""


class People(msgspec.Struct, frozen=True, kw_only=True):
    """Everybody this deployment knows. Who stands on an on-call list holds the list's name as a role in votes.

    `agents` names the owner of each agent.
    """

    people: dict[str, Person] = {}
    oncall: dict[str, tuple[str, ...]] = {}
    agents: dict[str, str] = {}

    def on_call(self, name: str) -> tuple[str, ...]:
        """The on-call lists that this person stands on."""
        return tuple(listed for listed, names in sorted(self.oncall.items()) if name in names)

    def roles(self, name: str) -> tuple[str, ...]:
        """What this person votes with: their own roles and their on-call lists; empty for a stranger."""
        person = self.people.get(name)
        own = person.roles if person else ()
        return tuple(dict.fromkeys((*own, *self.on_call(name))))

    def holders(self, role: str) -> tuple[str, ...]:
        """Everybody who votes with this role, by name."""
        return tuple(name for name in sorted({*self.people, *self.oncall.get(role, ())}) if role in self.roles(name))

    def aliases(self) -> dict[str, tuple[str, ...]]:
        """What else somebody is called, by what the name looks like: people by their address, and the other way round.
        An address that several people share says nothing."""
        addresses = Counter(likeness(person.email) for person in self.people.values())
        own = {name: person.email for name, person in self.people.items() if addresses[likeness(person.email)] == 1}
        pairs = [(name, email) for name, email in own.items() if email]
        return {likeness(one): (other,) for pair in pairs for one, other in (pair, pair[::-1]) if one != other}

    def owner(self, agent: str) -> str:
        """Who owns this agent, by whatever spelling; empty where nobody said."""
        if agent in self.agents:
            return self.agents[agent]
        return next((owner for name, owner in self.agents.items() if alike((agent,), (name,))), "")

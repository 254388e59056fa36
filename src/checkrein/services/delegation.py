"""Votes given away for a time: by the person themselves, with a record, until they take them back or it ends."""

from __future__ import annotations

from collections.abc import Collection

import msgspec

from checkrein.flow.delegation import Delegation, Represented, represented
from checkrein.model import BadRequest, NotFound, StoreConflict, Unauthorized
from checkrein.model.people import Absence, People, parse_day
from checkrein.model.stamp import stamp
from checkrein.ports import Clock, Row, Save, Store, Unit
from checkrein.services import records

ROOM = "delegation"
ATTEMPTS = 32
#: nobody is away for longer than that without giving it again
MAX_DAYS = 366
_DAY_US = 86_400_000_000
#: where absences stand
_FILE = "checkrein.toml"


class StandIn(msgspec.Struct, frozen=True, rename={"since": "from"}):
    """Who votes for whom, and between which times; `by` is who said so, a person or the configuration."""

    person: str
    delegate: str
    since: str
    until: str
    by: str


def stand_in(given: Delegation) -> StandIn:
    """What a person gave, until it ends or has ended."""
    until_us = given.ended_us or given.until_us
    return StandIn(given.delegator, given.delegate, stamp(given.from_us), stamp(until_us), given.delegator)


def days(first: str, last: str, now_us: int) -> tuple[int, int]:
    """The time from the first to the last of these days in UTC (`2026-12-24`), from now on without a first one."""
    if not last:
        raise BadRequest("no last day is given", hint="say until when, such as `2026-12-24`")
    until_us = Absence(parse_day(last), parse_day(last)).bounds_us[1]
    return (Absence(parse_day(first), parse_day(first)).bounds_us[0] if first else now_us), until_us


class Delegations:
    """One delegation for each person: giving anew replaces what they gave before."""

    def __init__(self, store: Store, clock: Clock, people: People) -> None:
        self._store = store
        self._clock = clock
        self._people = people

    def give(
        self,
        delegator: str,
        delegate: str,
        *,
        from_us: int,
        until_us: int,
        auth: str,
        roles: tuple[str, ...] | None = None,
    ) -> Delegation:
        """Let `delegate` vote with the roles of `delegator`. Both are people of this deployment.

        `roles` are those that the delegator's key or token bears, if it bears any: who votes with less than what they
        would give away gives nothing away.
        """
        for name in (delegator, delegate):
            if name not in self._people.people:
                known = ", ".join(sorted(self._people.people)) or "nobody yet"
                raise BadRequest(f"`{name[:80]}` is nobody here", hint=f"`[people]` knows: {known}")
        if roles is not None and (more := sorted(set(self._people.people[delegator].roles) - set(roles))):
            raise Unauthorized(
                f"this key votes without the role `{more[0]}`, and would give it away",
                hint="use one that bears no roles, or all of them; or the command line",
                forbidden=True,
            )
        if delegator == delegate:
            raise BadRequest("nobody stands in for themselves", hint="name somebody else")
        now_us = self._clock.now_us()
        if until_us <= max(from_us, now_us) or until_us - max(from_us, now_us) > MAX_DAYS * _DAY_US:
            raise BadRequest(
                f"that is over already, or longer than {MAX_DAYS} days", hint="give a last day that is to come"
            )
        detail = {"delegate": delegate, "from_us": from_us, "until_us": until_us, "auth": auth}
        for _ in range(ATTEMPTS):
            before = self._of(delegator)
            made = Delegation(
                delegator=delegator,
                delegate=delegate,
                version=before.version + 1 if before else 1,
                from_us=from_us,
                until_us=until_us,
            )
            if self._saved("approval.delegated", made, detail):
                return made
        raise StoreConflict(f"the delegation of `{delegator}` keeps changing", hint="try again")

    def end(self, delegator: str, *, auth: str) -> Delegation:
        """Take it back: from the next vote on it counts for nothing. Raises `NotFound` if there is none."""
        for _ in range(ATTEMPTS):
            before = self._of(delegator)
            now_us = self._clock.now_us()
            if before is None or before.ended_us or now_us >= before.until_us:
                raise NotFound(
                    f"`{delegator[:80]}` has given nobody their vote",
                    hint="an absence in checkrein.toml ends there; `checkrein approvals delegate` lists what holds",
                )
            ended = msgspec.structs.replace(before, version=before.version + 1, ended_us=now_us)
            if self._saved("approval.undelegated", ended, {"delegate": before.delegate, "auth": auth}):
                return ended
        raise StoreConflict(f"the delegation of `{delegator}` keeps changing", hint="try again")

    def all(self) -> list[Delegation]:
        """What people gave and has not ended, by name."""
        now_us = self._clock.now_us()
        return [given for given in self._live() if now_us < given.until_us]

    def standing(self) -> list[StandIn]:
        """Who stands in for whom now or later: by an absence in `checkrein.toml`, or because they gave their vote."""
        now_us = self._clock.now_us()
        away = [
            StandIn(name, who.delegate, stamp(each.bounds_us[0]), stamp(each.bounds_us[1]), _FILE)
            for name, who in sorted(self._people.people.items())
            for each in who.away
            if now_us < each.bounds_us[1]
        ]
        return [*away, *map(stand_in, self.all())]

    def represented(self, voter: str, barred: Collection[str], now_us: int) -> tuple[Represented, ...]:
        """Everybody in whose place this person may vote now; see `flow.delegation`."""
        return represented(voter, self._people, self._live(), now_us, barred)

    def _live(self) -> list[Delegation]:
        found: list[Delegation] = []
        after = ""
        while rows := self._store.rows(ROOM, state="live", after=after, limit=500):
            after = rows[-1].id
            found += [row.read(Delegation) for row in rows]
        return found

    def _of(self, delegator: str) -> Delegation | None:
        row = self._store.row(ROOM, delegator)
        return row.read(Delegation) if row else None

    def _saved(self, kind: str, made: Delegation, detail: dict[str, object]) -> bool:
        state = "ended" if made.ended_us else "live"
        row = Row(ROOM, made.delegator, made.version, state, made.delegate, msgspec.json.encode(made))
        draft = records.person(kind, made.delegator, detail)
        try:
            self._store.commit(Unit((draft,), (Save(row, made.version - 1),))).result()
        except StoreConflict:
            return False
        return True

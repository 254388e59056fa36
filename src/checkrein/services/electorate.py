"""Who may vote on an approval: the people and their roles, whose votes they hold, and who is on the principal chain."""

from __future__ import annotations

import contextlib

import msgspec

from checkrein.flow.approval import Approval, IllegalEvent, Vote, VoteRefused, best
from checkrein.model import ApiKey, Request
from checkrein.model.likeness import likeness
from checkrein.model.people import People
from checkrein.ports import Clock, Store
from checkrein.services.delegation import Delegations
from checkrein.services.keys import ROOM as KEYS


class Seat(msgspec.Struct, frozen=True):
    """Somebody who may vote, perhaps in another's place; `needed` if their agreement would bring it on."""

    person: str
    on_behalf_of: str
    needed: bool


class Electorate:
    def __init__(self, store: Store, clock: Clock, people: People) -> None:
        self._store = store
        self._clock = clock
        self._people = people
        self.delegations = Delegations(store, clock, people)
        self._aliases = people.aliases()

    def voters(self, approval: Approval) -> tuple[Seat, ...]:
        """Who of `[people]` may vote on it now, those first whose agreement is still needed."""
        approval, now_us = self.with_owner(approval), self._clock.now_us()
        barred = self._barred(approval)
        found: list[Seat] = []
        for name in sorted(self._people.people):
            own = Vote(
                voter=name,
                roles=self._people.roles(name),
                approve=True,
                reason="may",
                auth="",
                action_hash=approval.action_hash,
                shown="",
                at_us=now_us,
            )
            with contextlib.suppress(VoteRefused, IllegalEvent):
                after, cast = best(approval, self._casts(own, "", barred))
                found.append(Seat(name, cast.on_behalf_of, after.needed() < approval.needed()))
        return tuple(sorted(found, key=lambda seat: not seat.needed))

    def held(self, person: str, roles: tuple[str, ...] | None) -> tuple[str, ...]:
        """The roles that somebody votes with, see `vote`."""
        return self._people.roles(person) if roles is None else (*roles, *self._people.on_call(person))

    def also(self, name: str) -> tuple[str, ...]:
        """What else somebody of this name is called."""
        return self._aliases.get(likeness(name), ())

    def casts(self, approval: Approval, own: Vote, on_behalf_of: str) -> list[Vote]:
        """The votes that one person could cast: `own`, then those of whom they stand in for."""
        return self._casts(own, on_behalf_of, self._barred(approval))

    def _casts(self, own: Vote, on_behalf_of: str, barred: frozenset[str]) -> list[Vote]:
        own = msgspec.structs.replace(own, also=self.also(own.voter))
        given = [
            msgspec.structs.replace(
                own, roles=self._people.roles(found.delegator), on_behalf_of=found.delegator, via=found.via
            )
            for found in self.delegations.represented(own.voter, barred, own.at_us)
            if on_behalf_of in ("", found.delegator)
        ]
        if on_behalf_of and not given:
            raise VoteRefused(
                "no_delegation",
                f"`{own.voter}` does not stand in for `{on_behalf_of[:80]}` on this",
                hint="`checkrein approvals delegate` lists who does; nobody on the principal chain is represented",
            )
        return given if on_behalf_of else [own, *given]

    def _barred(self, approval: Approval) -> frozenset[str]:
        """Who neither votes on it nor is represented, by every name."""
        known = (name for name in self._people.people if approval.bars(name, *self.also(name)))
        return approval.principals.union(known)

    def chain(self, request: Request, caller: str) -> tuple[str, ...]:
        """Who belongs to the principal chain besides the subject and the agent, by configuration and by key."""
        agent = request.agent_id
        names = [*request.on_behalf_of, self._people.owner(agent)]
        stored = self._store.row(KEYS, caller) if agent and caller.isprintable() else None
        if stored is not None:
            key = stored.read(ApiKey)
            names += [key.owner] if key.agent == agent else []
        return tuple(dict.fromkeys(name for name in names if name not in ("", request.subject.id, agent)))

    def with_owner(self, approval: Approval) -> Approval:
        """With the owner that the agent has now: who takes an agent over does not vote on what it asked before."""
        owner = self._people.owner(approval.agent)
        if not owner or approval.bars(owner):
            return approval
        return msgspec.structs.replace(approval, chain=(*approval.chain, owner))

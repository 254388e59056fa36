"""Tells people: who may vote, that somebody asks; who asked, what came of it; and who is on alert, what went wrong.

The record is the message in the outbox, so nothing is told that was not recorded, and what could not be told is told
later, or not at all once it says nothing any more. Whom it goes to is found when it goes out: nobody hears of a request
that they cannot vote on then. The arguments of an action are shown only where the configuration says so.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import msgspec

from checkrein.flow.approval import Approval, State
from checkrein.ledger import Record
from checkrein.ledger.record import facets
from checkrein.model.json import dumps
from checkrein.model.people import People
from checkrein.model.stamp import stamp
from checkrein.ports import Channel, Clock, Notice, Posted
from checkrein.services.approvals import Approvals
from checkrein.services.electorate import Seat
from checkrein.services.escalations import ESCALATED
from checkrein.services.outbox import Destination

#: what ways to people are called in the outbox, before their name
NOTIFY = "notify:"
ASKED = ("approval.requested", ESCALATED)
ENDED = ("approval.decided", "approval.expired", "approval.cancelled")
ALERTS = ("rollout.rollback", "drift.alarm")
GLASS = "approval.break_glass"
KINDS_TOLD = (*ASKED, *ENDED, GLASS, *ALERTS)
_MAX_LINE, _MAX_ARGUMENTS = 300, 2000
_ENDS = {
    State.APPROVED: "was approved: send the same request again, and it runs once",
    State.DENIED: "was denied, and does not run",
    State.EXPIRED: "has expired, and does not run",
    State.CANCELLED: "was withdrawn, and does not run",
}


class Audience(msgspec.Struct, frozen=True, kw_only=True):
    """Whom one way leads to: `everybody` by their own address, or a channel that people with `roles` read."""

    everybody: bool
    roles: tuple[str, ...] = ()
    alerts: tuple[str, ...] = ()
    arguments: bool = False


class Notices:
    """`public_url` is where the links lead; without one a message names the command instead."""

    def __init__(self, approvals: Approvals, clock: Clock, people: People, public_url: str) -> None:
        self._approvals = approvals
        self._clock = clock
        self._people = people
        self._url = public_url.rstrip("/")

    def of(self, record: Record, audience: Audience) -> tuple[Notice, ...]:
        """The messages about this record; none if nobody is to hear of it now."""
        if record.kind in ALERTS:
            return tuple(self._alert(record, audience))
        approval = self._approvals.find(facets(record.body).approval)
        if approval is None:
            return ()
        if record.kind == GLASS:
            return tuple(self._broken(record, approval, audience))
        if record.kind in ENDED:
            return tuple(self._end(record, approval, audience))
        if approval.status(self._clock.now_us()) is not State.PENDING:  # it says nothing any more
            return ()
        return tuple(self._ask(approval, audience, escalated=record.kind == ESCALATED))

    def _ask(self, approval: Approval, audience: Audience, *, escalated: bool) -> Iterator[Notice]:
        seats = self._approvals.voters(approval)
        lines = (*_about(approval), *_arguments(approval, audience))
        words = ("still waits", "It has waited so long that further people may answer.") if escalated else ("asks", "")
        subject = _line(f"{approval.requester.id} {words[0]}: {approval.request().action.name}")
        for to, seat in self._voters(seats, audience):
            standing = f"You answer in the place of {seat.on_behalf_of}." if seat and seat.on_behalf_of else ""
            told = tuple(_line(line) for line in (*lines, words[1], standing) if line)
            yield Notice(to=to, subject=subject, lines=(*told, *self._where(approval)), link=self._link(approval))

    def _voters(self, seats: tuple[Seat, ...], audience: Audience) -> Iterator[tuple[str, Seat | None]]:
        if audience.everybody:
            for seat in seats:
                if to := self._address(seat.person):
                    yield to, seat
        elif any(set(self._people.roles(seat.person)) & set(audience.roles) for seat in seats):
            yield "", None

    def _end(self, record: Record, approval: Approval, audience: Audience) -> Iterator[Notice]:
        held = record.body.get("approval")
        said = held.get("state") if isinstance(held, Mapping) else None
        ended = next((words for state, words in _ENDS.items() if state.value == said), None)
        if ended is None or approval.edited_into:  # another approval stands in its place, and its end is told
            return
        name = approval.request().action.name
        reasons = [f"Reason given: {cast.reason}" for cast in approval.votes if not cast.approve and cast.reason]
        lines = tuple(_line(line) for line in (f"The request for {name} {ended}.", *reasons))
        to = self._address(approval.requester.id) if approval.requester.type == "user" else ""
        asked = approval.requirement.open_to(approval.age_s(self._clock.now_us()))
        if to if audience.everybody else set(asked) & set(audience.roles):
            subject = _line(f"{name} of {approval.requester.id}: {said}")
            yield Notice(to=to if audience.everybody else "", subject=subject, lines=lines, link=self._link(approval))

    def _broken(self, record: Record, approval: Approval, audience: Audience) -> Iterator[Notice]:
        """To everybody whom it concerns, by name or by a role, and to who is on alert."""
        held = record.body.get("break_glass")
        owners = held.get("owners") if isinstance(held, Mapping) else None
        names = [owner for owner in owners if isinstance(owner, str)] if isinstance(owners, list) else []
        by, why = (approval.broken.by, approval.broken.reason) if approval.broken else ("somebody", "")
        said = (
            f"{by} broke the glass: it may run until {stamp(approval.deadline_us)}, although people had not agreed.",
            f"Reason given: {why}",
            f"Somebody else must sign its review: checkrein approvals sign {approval.id}",
        )
        lines = tuple(_line(line) for line in (*_about(approval), *said))
        subject = _line(f"{by} broke the glass: {approval.request().action.name}")
        concerned = [self._address(person) for name in names for person in (name, *self._people.holders(name))]
        for to in dict.fromkeys((*concerned, *self._alerted(audience))) if audience.everybody else [""]:
            if to or not audience.everybody:
                yield Notice(to=to, subject=subject, lines=lines, link=self._link(approval))

    def _alert(self, record: Record, audience: Audience) -> Iterator[Notice]:
        detail = record.body.get("detail")
        facts = detail.items() if isinstance(detail, Mapping) else ()
        said = [_line(f"{name}: {value}") for name, value in facts if isinstance(value, str | int) and value != ""]
        lines = (f"Recorded at {stamp(record.ts_us)} as {record.kind}, number {record.seq}.", *said)
        for to in self._alerted(audience) if audience.everybody else [""][: len(audience.alerts)]:
            yield Notice(to=to, subject=f"alert: {record.kind}", lines=lines)

    def _alerted(self, audience: Audience) -> list[str]:
        return [who if "@" in who else self._address(who) for who in audience.alerts]

    def _address(self, person: str) -> str:
        found = self._people.people.get(person)
        return found.email if found else ""

    def _link(self, approval: Approval) -> str:
        return f"{self._url}/approvals/{approval.id}" if self._url else ""

    def _where(self, approval: Approval) -> tuple[str, ...]:
        return () if self._url else (f"Look at it with: checkrein approvals show {approval.id}",)


class Noticed(Destination, frozen=True, kw_only=True):
    """A way to people, served from the outbox one record at a time."""

    notices: Notices
    channel: Channel
    audience: Audience

    async def deliver(self, id: str, records: tuple[Record, ...], source: str, at_s: int) -> Posted:
        (record,) = records
        told = self.notices.of(record, self.audience)
        return await self.channel.tell(record.id, told, at_s) if told else Posted(200)

    async def close(self) -> None:
        await self.channel.close()


def _about(approval: Approval) -> Iterator[str]:
    request = approval.request()
    through = f", through {approval.agent}," if approval.agent else ""
    what = f"{request.action.name} on {request.resource.type} {request.resource.id}"
    yield f"{approval.requester.id}{through} asks for {what}."
    yield f"Asked by: {', '.join(approval.policies)}: {'; '.join(approval.reasons)}"
    yield f"Risk: {approval.risk.value} ({', '.join(approval.factors)})"
    yield f"Needed: {approval.requirement.terms()}"
    yield f"Until: {stamp(approval.deadline_us)}"


def _arguments(approval: Approval, audience: Audience) -> Iterator[str]:
    if audience.arguments:
        yield f"Arguments: {dumps(approval.request().action.input).decode()[:_MAX_ARGUMENTS]}"


def _line(text: str) -> str:
    """One printable line: names and reasons come from agents. No address in it becomes a link: people give their key to
    the page that a message leads them to."""
    shown = "".join(char if char.isprintable() else " " for char in text)
    shown = shown.replace("://", "[:]//").replace("www.", "www[.]")
    return shown if len(shown) <= _MAX_LINE or shown.startswith("Arguments: ") else f"{shown[:_MAX_LINE]}..."

"""Where approvals are worked on: the store of this machine, as the person `--as` names, or a server, as whoever holds
the key. The verbs do not know which."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple, Protocol

import msgspec
import typer

from checkrein.cli.common import HERE, system
from checkrein.flow.approval import Approval, State
from checkrein.model import BadRequest

if TYPE_CHECKING:
    from checkrein.compose import System
    from checkrein.flow.grant import Grant
    from checkrein.services.delegation import StandIn
    from checkrein.services.showing import Details

As = Annotated[
    str, typer.Option("--as", metavar="PERSON", help="Who acts: a person under `[people]` in checkrein.toml.")
]
Url = Annotated[
    str,
    typer.Option(
        "--url",
        metavar="URL",
        help="Ask this server instead, with the key or token in CHECKREIN_API_KEY.",
        envvar="CHECKREIN_URL",
        show_default=False,
    ),
]
#: more approvals than anybody lists at once, and records that are read at once
_ALL, _PAGE = 100_000, 500
#: how long a wait for the end of an approval is, where nobody says: longer than any lives
FOR_EVER_S = 1e9


class Listed(NamedTuple):
    """Approvals, and how many broken glasses nobody has reviewed."""

    approvals: list[Approval]
    unreviewed: int


class Wish(NamedTuple):
    """How far the like may happen again: no longer, no more often; as far as policy says where nothing is said."""

    span: str
    uses: int | None


class Given(msgspec.Struct, frozen=True):
    """A grant that a vote has opened."""

    id: str
    terms: str


class Desk(Protocol):
    """Each approval comes in the state that people should see. What is refused raises, as `services` do."""

    def listed(self, state: State | None) -> Listed: ...

    def show(self, id: str) -> tuple[Approval, Details | None]:
        """One, and what else is known of it; None where that is not told to us."""

    def vote(
        self, id: str, *, approve: bool, reason: str, behalf: str, seen: str, wish: Wish | None
    ) -> tuple[Approval, Given | None]: ...

    def edit(self, id: str, arguments: Mapping[str, object], *, reason: str, seen: str) -> Approval: ...

    def settled(self, id: str, seconds: float) -> Approval:
        """Once people have settled it, or after so many seconds as it is; edits are followed."""

    def events(self) -> Iterator[dict[str, object]]:
        """What happens from now on, without an end."""

    def delegations(self) -> list[StandIn]: ...

    def delegate(self, to: str, first: str, last: str) -> StandIn:
        """Give our vote away, from the first to the last of these days."""

    def undelegate(self) -> StandIn:
        """Take it back."""

    def grants(self, *, live: bool) -> list[Grant]: ...

    def revoke(self, id: str, reason: str) -> Grant: ...


@contextmanager
def desk(url: str, dir: Path, data: Path | None, who: str = "") -> Iterator[Desk]:
    """What the options name. Raises `BadRequest` for options that name two."""
    if not url:
        with system(dir, data) as opened:
            yield Here(opened, who)
        return
    here = {"--as": who, "--data": data, "--dir": dir != HERE and str(dir) != os.environ.get("CHECKREIN_DIR")}
    if given := [name for name, value in here.items() if value]:
        raise BadRequest(
            f"`{given[0]}` is for the store of this machine, `--url` (or CHECKREIN_URL) asks a server",
            hint="leave one of them out; to a server the key in CHECKREIN_API_KEY says who acts",
        )
    from checkrein.cli.remote import There

    yield There(url)


def known(system: System, who: str) -> None:
    """Raise `BadRequest` for somebody this deployment does not know, or for nobody."""
    people = system.config.people
    if who not in people:
        message = f"`{who}` is not among the people of this deployment" if who else "nobody is named who acts"
        names = ", ".join(sorted(people)) or "nobody yet"
        raise BadRequest(message, hint=f"give `--as PERSON`; `[people.NAME]` in checkrein.toml knows: {names}")


class Here:
    """The store of this machine. Votes and whatever else people say are recorded as `auth: local`."""

    def __init__(self, opened: System, who: str) -> None:
        self._system = opened
        self._who = who

    def listed(self, state: State | None) -> Listed:
        found = self._system.approvals.all(state, limit=_ALL)
        return Listed([*map(self._system.showing.seen, found)], self._system.showing.unreviewed())

    def show(self, id: str) -> tuple[Approval, Details | None]:
        approval = self._system.approvals.get(id)
        return self._system.showing.seen(approval), self._system.showing.details(approval)

    def vote(
        self, id: str, *, approve: bool, reason: str, behalf: str, seen: str, wish: Wish | None
    ) -> tuple[Approval, Given | None]:
        from checkrein.services.grants import wished

        after = self._system.approvals.vote(
            id,
            voter=self._person(),
            approve=approve,
            reason=reason,
            on_behalf_of=behalf,
            auth="local",
            action_hash=seen,
            grant=wished(self._system.approvals.get(id), wish.span, wish.uses) if wish else None,
        )
        grant = self._system.grants.of(after)
        return self._system.showing.seen(after), Given(grant.id, str(grant.terms)) if grant else None

    def edit(self, id: str, arguments: Mapping[str, object], *, reason: str, seen: str) -> Approval:
        who = self._person()
        after = self._system.edits.edit(id, arguments, editor=who, reason=reason, auth="local", action_hash=seen)
        return self._system.showing.seen(after)

    def settled(self, id: str, seconds: float) -> Approval:
        approvals, clock = self._system.approvals, self._system.clock
        approval, until_us = approvals.latest(approvals.get(id)), clock.now_us() + int(seconds * 1_000_000)
        while True:
            left = (until_us - clock.now_us()) / 1_000_000
            approval = self._system.waiting.settled_sync(approval.id, max(0.0, left))
            if not approval.edited_into:
                return self._system.showing.seen(approval)
            approval = approvals.latest(approval)

    def events(self) -> Iterator[dict[str, object]]:
        from checkrein.services.showing import event

        waiting = self._system.waiting
        news, seq = threading.Event(), waiting.latest()
        with waiting.listening("", news.set):
            while True:
                news.clear()
                for record in (page := waiting.since(seq, _PAGE)):
                    seq = record.seq
                    yield event(record)
                if not page:
                    news.wait()

    def delegations(self) -> list[StandIn]:
        return self._system.approvals.electorate.delegations.standing()

    def delegate(self, to: str, first: str, last: str) -> StandIn:
        from checkrein.services.delegation import days, stand_in

        who, (from_us, until_us) = self._person(), days(first, last, self._system.clock.now_us())
        delegations = self._system.approvals.electorate.delegations
        return stand_in(delegations.give(who, to, from_us=from_us, until_us=until_us, auth="local"))

    def undelegate(self) -> StandIn:
        from checkrein.services.delegation import stand_in

        return stand_in(self._system.approvals.electorate.delegations.end(self._person(), auth="local"))

    def grants(self, *, live: bool) -> list[Grant]:
        return self._system.grants.shown(live=live)

    def revoke(self, id: str, reason: str) -> Grant:
        return self._system.grants.revoke(id, by=self._person(), reason=reason, auth="local")

    def _person(self) -> str:
        known(self._system, self._who)
        return self._who

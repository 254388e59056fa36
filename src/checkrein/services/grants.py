"""Grants in the store: opened with the vote that agrees, found before people are asked, revoked at once.

The machine is `flow.grant`. A use is counted by the gateway, in the unit of the decision it lets through.
"""

from __future__ import annotations

import hashlib
import hmac

import msgspec

from checkrein.flow.approval import Approval, IllegalEvent
from checkrein.flow.grant import Event, Grant, State, move, opened, shape
from checkrein.model import BadRequest, Decision, NotFound, Request, StoreConflict
from checkrein.model.requirement import Terms, parse_span
from checkrein.ports import Clock, Row, Save, Store, Unit
from checkrein.services import records

ROOM = "grant"
PREFIX = "grt_"
ATTEMPTS = 32


def save(grant: Grant) -> Save:
    """Written if it is still as it was one version before; found again by its shape."""
    row = Row(ROOM, grant.id, grant.version, grant.state.value, grant.shape, msgspec.json.encode(grant))
    return Save(row, grant.version - 1)


def given(approval: Approval, key: bytes, now_us: int) -> Grant | None:
    """The grant that an approval opens, if everybody who agreed gave one."""
    return opened(_id(approval, key), approval, now_us)


def _id(approval: Approval, key: bytes) -> str:
    """The id of a grant follows from its approval's."""
    return PREFIX + hmac.new(key, f"checkrein.grant.v1:{approval.id}".encode(), hashlib.sha256).hexdigest()[:16]


def wished(approval: Approval, span: str = "", uses: int | None = None) -> Terms:
    """What somebody grants: what policy lets them, or no longer (`30m`) and no more often than they say.

    Where policy lets nobody grant it the vote is refused, not the wish.
    """
    if uses is not None and uses < 1:
        raise BadRequest(f"{uses} uses are nothing to grant", hint="say how often, or leave it out")
    allowed = approval.requirement.grant or Terms(1, 1)
    return msgspec.structs.replace(
        allowed, max_s=parse_span(span) if span else allowed.max_s, uses=allowed.uses if uses is None else uses
    )


class Grants:
    def __init__(self, store: Store, clock: Clock, key: bytes) -> None:
        self._store = store
        self._clock = clock
        self._key = key

    def find(self, request: Request, decision: Decision, now_us: int) -> Grant | None:
        """The grant that stands for the people this decision asks for, the one that ends first."""
        live = [grant for grant in self._live(request) if grant.discharges(decision, now_us)]
        return min(live, key=lambda grant: (grant.until_us, grant.id), default=None)

    def outdated(self, request: Request, decision: Decision) -> Grant | None:
        """A grant of other policies that covers what is denied by now."""
        return next((grant for grant in self._live(request) if grant.bundle != decision.bundle), None)

    def all(self, *, live: bool = True) -> list[Grant]:
        """Every grant that lives, or every one there ever was, the newest first."""
        found: list[Grant] = []
        after, now_us = "", self._clock.now_us()
        while rows := self._store.rows(ROOM, state=State.LIVE.value if live else "", after=after, limit=500):
            after = rows[-1].id
            found += [row.read(Grant) for row in rows]
        kept = [grant for grant in found if not live or grant.status(now_us) is State.LIVE]
        return sorted(kept, key=lambda grant: grant.created_us, reverse=True)

    def get(self, id: str) -> Grant:
        """The grant, or `NotFound`. A unique beginning of the id is enough."""
        rows: list[Row] = []
        if id.isascii() and id.isprintable():
            whole = self._store.row(ROOM, id)
            near = self._store.rows(ROOM, after=id, limit=2) if len(id) > len(PREFIX) else []
            rows = [whole] if whole else [row for row in near if row.id.startswith(id)]
        if len(rows) != 1:
            what = "more than one grant begins so" if rows else "no grant has such an id"
            raise NotFound(what, hint="`checkrein approvals grants --all` shows the ids")
        return rows[0].read(Grant)

    def of(self, approval: Approval) -> Grant | None:
        """The grant that this approval opened."""
        row = self._store.row(ROOM, _id(approval, self._key))
        return row.read(Grant) if row else None

    def shown(self, *, live: bool = True) -> list[Grant]:
        """`all`, each in the state that people should see."""
        now_us = self._clock.now_us()
        return [msgspec.structs.replace(grant, state=grant.status(now_us)) for grant in self.all(live=live)]

    def revoke(self, id: str, *, by: str, auth: str, reason: str = "", expired: bool = False) -> Grant:
        """From the next decision on it covers nothing. One that has ended is refused: there is nothing to revoke.

        `expired` takes one whose time is over as well.
        """
        for _ in range(ATTEMPTS):
            grant, now_us = self.get(id), self._clock.now_us()
            if grant.status(now_us) is State.EXPIRED and not expired:
                raise IllegalEvent(f"grant `{grant.id}` is expired", hint="it covers nothing any more")
            ended = move(grant, Event.REVOKED, now_us)
            draft = records.grant("approval.grant_revoked", ended, actor=by, auth=auth, reason=reason, key=self._key)
            try:
                self._store.commit(Unit((draft,), (save(ended),))).result()
            except StoreConflict:
                continue  # it was used meanwhile
            return ended
        raise StoreConflict(f"grant `{id}` keeps changing", hint="try again")

    def _live(self, request: Request) -> list[Grant]:
        """The stored grants of this shape whose arguments fit, whatever the time is."""
        rows = self._store.rows(ROOM, state=State.LIVE.value, lookup=shape(request), limit=500)
        return [grant for grant in (row.read(Grant) for row in rows) if grant.covers(request)]

"""`/api/v1/approvals`: see what waits for people, wait for its end, vote. A GET decides nothing.

A key that may `approve` or `audit` sees every approval, and so does an enforcement point (`decide`), which asks for
others; any other key sees what its owner asked for. Only a person votes: a key that an agent holds never does.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from itertools import islice
from time import monotonic

import msgspec
from starlette.requests import Request as HttpRequest
from starlette.responses import Response, StreamingResponse

from checkrein.flow.approval import Approval, State
from checkrein.ledger import Record
from checkrein.ledger.record import facets
from checkrein.model import BadRequest, Caller, NotFound, Permission
from checkrein.model.json import dumps
from checkrein.model.stamp import stamp
from checkrein.ports import Clock
from checkrein.services.approvals import Approvals, shown_hash, view
from checkrein.services.edits import Edits
from checkrein.services.grants import Grants, wished
from checkrein.services.killswitch import KillSwitch
from checkrein.services.showing import Showing, event, stored, without_roles
from checkrein.services.waiting import ANY, Drain, Waiting
from checkrein.web import body
from checkrein.web.ballots import DECISIONS, Ballot, Edit, barred, read
from checkrein.web.guard import allow
from checkrein.web.headers import require_json

LIST = "/api/v1/approvals"
EVENTS = f"{LIST}/events"
ONE = f"{LIST}/{{id}}"
VOTE = f"{LIST}/{{id}}/vote"
EDIT = f"{LIST}/{{id}}/edit"

MAX_ROWS = 1000
#: how long one call may wait for the end of an approval, in seconds
MAX_WAIT_S = 60
#: a stream says that it lives this often, and ends so late: whoever reads it comes back with a key that is still live
BEAT_S, MAX_STREAM_S = 15.0, 600.0
MAX_BODY, MAX_EDIT = 64 * 1024, 1024 * 1024
#: events that are read in one go
_PAGE = 500
_SEES_ALL = {Permission.APPROVE, Permission.AUDIT, Permission.DECIDE}
#: who is told of what policies, tools and people say of an approval, beside what it is
_TOLD_ALL = {Permission.APPROVE, Permission.AUDIT}
_FILTERS = ("state", "requester", "agent", "action", "risk", "after", "limit", "form")
#: as it is stored, which is what the command line prints
STORED = "stored"


class ApprovalRoutes:
    def __init__(
        self,
        approvals: Approvals,
        edits: Edits,
        grants: Grants,
        showing: Showing,
        waiting: Waiting,
        killswitch: KillSwitch,
        clock: Clock,
        drain: Drain,
    ) -> None:
        self._approvals = approvals
        self._edits = edits
        self._grants = grants
        self._showing = showing
        self._waiting = waiting
        self._killswitch = killswitch
        self._clock = clock
        self._drain = drain

    async def list(self, http: HttpRequest) -> Response:
        """Approvals, oldest first: the pending ones, unless `state` says otherwise. `next` goes on after this page."""
        key, given = allow(http.scope, *Permission), http.query_params
        for name in given:
            if name not in _FILTERS:
                raise BadRequest(f"`{name[:80]}` is no filter", hint=f"there are {', '.join(_FILTERS)}")
        state, limit = _state(given.get("state", "pending")), _number(given, "limit", 100, 1, MAX_ROWS)
        after, form = _after(given.get("after", "")), _form(http)

        def found() -> dict[str, object]:
            listed = self._approvals.listed(state, after)
            page = [*islice((each for each in listed if sees(key, each) and _fits(each, given)), limit + 1)]
            following = "{}-{}".format(*_place(page[limit - 1])) if len(page) > limit else None
            shown = [self._json(each, form, key) for each in page[:limit]]
            told = form == STORED and _TOLD_ALL & set(key.permissions)
            more = {"unreviewed": self._showing.unreviewed()} if told else {}
            return {"approvals": shown, "next": following, **more}

        return _json(await asyncio.to_thread(found))

    async def one(self, http: HttpRequest) -> Response:
        """One approval. With `wait` it is answered once people have settled it, or after so many seconds as it is.

        As it is stored it comes with its `details`, for keys that are told those.
        """
        key, form = allow(http.scope, *Permission), _form(http)
        approval = self._seen(http, key)
        if wait_s := _number(http.query_params, "wait", 0, 0, MAX_WAIT_S):
            approval = await self._waiting.settled(approval.id, wait_s, self._drain)
        value = self._json(approval, form, key)
        if form == STORED:
            told = _TOLD_ALL & set(key.permissions)
            value["details"] = await asyncio.to_thread(self._showing.details, approval) if told else None
        return _json(value)

    async def vote(self, http: HttpRequest) -> Response:
        """Vote as the key's owner, on exactly what was shown: `shown` is the hash that came with it.

        The answer names the grant that the vote has opened, if it has.
        """
        key, form = allow(http.scope, Permission.APPROVE), _form(http)
        approval = self._seen(http, key)
        require_json(http.headers)
        ballot = read(await body.read(http.headers, http.receive, MAX_BODY), Ballot)
        after = await asyncio.to_thread(self.cast, approval.id, key, ballot)
        grant = self._grants.of(after)
        given = {"id": grant.id, "terms": str(grant.terms), "until": stamp(grant.until_us)} if grant else None
        return _json({**self._json(after, form, key), "grant": given})

    async def edit(self, http: HttpRequest) -> Response:
        """Ask for the same action with other arguments, as the key's owner; answers with the approval in its place."""
        key, form = allow(http.scope, Permission.APPROVE), _form(http)
        approval = self._seen(http, key)
        require_json(http.headers)
        said = read(await body.read(http.headers, http.receive, MAX_EDIT), Edit)
        return _json(self._json(await asyncio.to_thread(self._edited, approval.id, key, said), form, key))

    def cast(self, id: str, key: Caller, ballot: Ballot) -> Approval:
        """The approval after the vote of the key's owner; raises `VoteRefused`, `IllegalEvent`."""
        if error := barred(key, self._killswitch):
            raise self._approvals.refused(id, key.owner, error, auth=key.id)
        wish = ballot.grant
        return self._approvals.vote(
            id,
            voter=key.owner,
            roles=key.roles or None,
            approve=DECISIONS[ballot.decision],
            reason=ballot.reason,
            auth=key.id,
            shown=ballot.shown,
            on_behalf_of=ballot.on_behalf_of,
            action_hash=ballot.action_hash,
            grant=wished(self._approvals.get(id), wish.max, wish.uses) if wish else None,
        )

    def _edited(self, id: str, key: Caller, said: Edit) -> Approval:
        if error := barred(key, self._killswitch):
            raise self._approvals.refused(id, key.owner, error, auth=key.id, kind="approval.edit_refused")
        return self._edits.edit(
            id,
            said.arguments,
            editor=key.owner,
            roles=key.roles or None,
            reason=said.reason,
            auth=key.id,
            action_hash=said.action_hash,
            shown=said.shown,
        )

    def _json(self, approval: Approval, form: str, key: Caller) -> dict[str, object]:
        """The approval as it is shown now, to whoever holds this key; `shown` is the hash of that in either form."""
        if form != STORED:
            return to_json(self._approvals.shown(approval), self._clock.now_us())
        seen = self._showing.seen(approval)
        told = seen if _TOLD_ALL & set(key.permissions) else without_roles(seen)
        return {**stored(told), "shown": shown_hash(seen)}

    async def events(self, http: HttpRequest) -> Response:
        """What happens to approvals, as server-sent events. `Last-Event-ID` goes on after that event.

        The id of an event is the number of its record. A first event, `sync`, says from where on the stream goes: who
        does not know what was before lists it then.
        """
        key, form = allow(http.scope, *Permission), _form(http)
        last = http.headers.get("last-event-id", "")
        if last and not (last.isascii() and last.isdigit() and len(last) <= 15):
            raise BadRequest("`Last-Event-ID` is not the id of an event", hint="leave it out to begin now")
        headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
        stream = self._stream(key, int(last) if last else -1, form)
        return StreamingResponse(stream, media_type="text/event-stream", headers=headers)

    async def _stream(self, key: Caller, after: int, form: str) -> AsyncIterator[bytes]:
        loop, news, until = asyncio.get_running_loop(), asyncio.Event(), monotonic() + MAX_STREAM_S

        def told() -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(news.set)

        with self._waiting.listening(ANY, told), self._drain.telling(news.set):
            latest = self._waiting.latest()
            if not 0 <= after <= latest:  # new here, or of a store that is not this one any more
                after = latest
                yield _event(after, "sync", {})
            while not self._drain.begun and monotonic() < until:
                news.clear()
                for record in (page := self._waiting.since(after, _PAGE)):
                    after = record.seq
                    if self._shows(key, record):
                        yield _event(record.seq, record.kind, event(record) if form == STORED else _told(record))
                if page:
                    continue
                try:
                    async with asyncio.timeout(BEAT_S):
                        await news.wait()
                except TimeoutError:
                    yield b":\n\n"

    def _shows(self, key: Caller, record: Record) -> bool:
        if _SEES_ALL & set(key.permissions):
            return True
        try:
            return sees(key, self._approvals.get(facets(record.body).approval))
        except NotFound:
            return False

    def _seen(self, http: HttpRequest, key: Caller) -> Approval:
        """The approval of the path, for a key that may see it; to any other it is not there.

        The beginning of its id is enough for a key that sees them all: what there is tells that nothing.
        """
        id = http.path_params["id"]
        if _SEES_ALL & set(key.permissions):
            return self._approvals.get(id)
        approval = self._approvals.find(id)
        if approval is None or not sees(key, approval):
            raise NotFound(f"no approval `{id[:80]}`", hint=f"`GET {LIST}` lists those that this key may see")
        return approval


def sees(key: Caller, approval: Approval) -> bool:
    """Whether the holder of this key may look at the approval."""
    own = approval.requester.type == "user" and approval.requester.id == key.owner
    return own or bool(_SEES_ALL & set(key.permissions))


def to_json(approval: Approval, now_us: int) -> dict[str, object]:
    """An approval for people and programs: what `shown` is the hash of stands in `view`."""
    state = approval.status(now_us)
    return {
        "id": approval.id,
        "state": state.value,
        "version": approval.version,
        "view": view(approval),
        "shown": shown_hash(approval),
        "missing": list(approval.missing()) if state is State.PENDING else [],
        "votes": [
            {
                "voter": cast.voter,
                "on_behalf_of": cast.on_behalf_of,
                "decision": "approve" if cast.approve else "deny",
                "reason": cast.reason,
                "auth": cast.auth,
                "simulated": cast.simulated,
                "at": stamp(cast.at_us),
            }
            for cast in approval.votes
        ],
        "created_at": stamp(approval.created_us),
        "deadline_at": stamp(approval.deadline_us),
        "ended_at": stamp(approval.ended_us) if approval.ended_us else None,
        "trace_id": approval.trace_id,
    }


def _told(record: Record) -> dict[str, object]:
    """What a record says of an approval, without what it is about: who may see that asks for it."""
    held, voted = record.body.get("approval"), record.kind in ("approval.voted", "approval.vote_refused")
    about = {name: held.get(name) for name in ("id", "state")} if isinstance(held, dict) else {}
    return {**about, "at": stamp(record.ts_us), **({"voter": facets(record.body).user} if voted else {})}


def _event(id: int, kind: str, data: Mapping[str, object]) -> bytes:
    return b"id: %d\nevent: %s\ndata: %s\n\n" % (id, kind.encode(), dumps(data))


def _json(value: object) -> Response:
    """With members in their order: people are shown arguments as they were sent."""
    return Response(msgspec.json.encode(value), media_type="application/json", headers={"cache-control": "no-store"})


def _form(http: HttpRequest) -> str:
    form = http.query_params.get("form", "")
    if form not in ("", STORED):
        raise BadRequest(f"`{form[:40]}` is no form of an approval", hint=f"there is `{STORED}`, or leave it out")
    return form


def _state(text: str) -> State | None:
    """`all` is None; raises `BadRequest` for what is no state."""
    if text == "all":
        return None
    try:
        return State(text)
    except ValueError:
        known = ", ".join(("all", *State))
        raise BadRequest(f"`{text[:40]}` is no state of an approval", hint=f"there are {known}") from None


def _fits(approval: Approval, given: Mapping[str, str]) -> bool:
    has = {
        "requester": approval.requester.id,
        "agent": approval.agent,
        "action": approval.request().action.name,
        "risk": approval.risk.value,
    }
    return all(has[name] == given[name] for name in has if name in given)


def _place(approval: Approval) -> tuple[int, str]:
    """Where an approval stands in every list, whatever leaves the list meanwhile."""
    return approval.created_us, approval.id


def _after(text: str) -> tuple[int, str]:
    """The place that a `next` names."""
    created, _, id = text.partition("-")
    if text and not (created.isascii() and created.isdigit() and len(created) < 18 and id):
        raise BadRequest("`after` is not the `next` of a page", hint="leave it out to begin with the first page")
    return (int(created), id) if text else (0, "")


def _number(given: Mapping[str, str], name: str, default: int, least: int, most: int) -> int:
    text = given.get(name, str(default))
    if not (text.isascii() and text.isdigit() and len(text) < 10 and least <= int(text) <= most):
        raise BadRequest(f"`{name}` is not a number from {least} to {most}", hint="leave it out")
    return int(text)

"""Who may see payloads, how long they are kept, and how they are erased. Every use of it is a record."""

from __future__ import annotations

import contextlib
import hmac
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Protocol

import msgspec

from checkrein.flow.approval import TRANSITIONS, Approval, IllegalEvent
from checkrein.flow.grant import State as GrantState
from checkrein.ledger import Record
from checkrein.ledger.record import commitment, mac, member
from checkrein.model import (
    Action,
    BadRequest,
    LedgerInvalid,
    Request,
    Resource,
    StoreConflict,
    Subject,
    Unauthorized,
)
from checkrein.model.json import JsonObject
from checkrein.model.retention import Retention
from checkrein.ports import Clock, Facts, Held, Payloads, RecordQuery, Row, Save, Store, Unit, Unproved
from checkrein.services import approvals, grants, idempotency, records
from checkrein.services.audit import Audit, Trail
from checkrein.services.payloads import Known, decode, reference

#: the role under `[people]` that may read payloads
AUDITOR = "auditor"
#: the room of erasures that were ordered
ROOM = "erasure"
#: a payload younger than this may still get its record, microseconds
GRACE_US = 600_000_000
#: what a sweep at the start of a process does at the most, so that nobody waits for it
SWEEP_AT_START = 256
#: begins the keyed hash that stands in the place of an approval's action
_ERASED = "erased:"
_STEP = 256


class Recorded(msgspec.Struct, frozen=True, kw_only=True):
    """A decision and what it was made of. `state` is `present`, else `request` and `known` are None: `missing` (it
    never came), `expired`, `erased`, or `unkept` by the version that wrote the record."""

    record: Record
    state: str
    request: Request | None = None
    known: Known | None = None

    @property
    def with_roles(self) -> Request | None:
        """The request, with the roles of that time in itself."""
        return _with_roles(self.request, self.known) if self.request and self.known else None


class Revealed(msgspec.Struct, frozen=True, kw_only=True):
    """A record's payload, opened for a person. `state` as in `Recorded`; `value` is None unless it is present."""

    record: Record
    id: str
    state: str
    value: object = None


class Erasure(msgspec.Struct, frozen=True, kw_only=True):
    """What an erasure did. `subject` is the commitment under which the ledger names whom it was for."""

    subject: str
    keys: int
    payloads: int
    approvals: int


class Swept(msgspec.Struct, frozen=True, kw_only=True):
    """How many payloads a sweep removed: past their time, and without a record."""

    expired: int
    orphans: int


class _Order(msgspec.Struct, frozen=True):
    """An erasure that was ordered, as its row holds it."""

    by: str
    reason: str


class Archive(Store, Trail, Protocol):
    """A store whose records are found by their id too."""


class Privacy:
    """`scrub` is called when rows of the ledger's database were overwritten, to leave nothing of them in its files."""

    def __init__(
        self,
        store: Archive,
        payloads: Payloads,
        clock: Clock,
        facts: Facts,
        *,
        key: bytes,
        retention: Retention,
        scrub: Callable[[], None],
    ) -> None:
        self._store = store
        self._payloads = payloads
        self._clock = clock
        self._facts = facts
        self._key = key
        self._retention = retention
        self._scrub = scrub

    # --- reading ------------------------------------------------------------------------------------------------

    def reveal(self, id: str | int, *, person: str) -> Revealed:
        """The payload of a record, for a person with the role `auditor`. It is recorded before anything is shown.

        Raises `Unauthorized` (recorded too), `NotFound`, and `LedgerInvalid` for a payload that was changed.
        """
        detail: dict[str, object] = {"record": records.cut(str(id))}
        self._require_auditor(person, detail)
        record = Audit(self._store).show(id)
        payload_id = str(member(record.body, "payload").get("id", ""))
        if not payload_id:
            raise BadRequest(
                f"record {record.seq} has no payload", hint="`decision` has the request, `execution.finished` a result"
            )
        self._record("admin.payload_read", person, {**detail, "record": record.id, "payload": payload_id})
        state, data = self._open(record)
        return Revealed(record=record, id=payload_id, state=state, value=_value(data) if state == "present" else None)

    def opened(self, found: Sequence[Record], *, person: str, why: str) -> list[Recorded]:
        """The requests of these decisions, for a person with the role `auditor`; one record says so before that."""
        detail: dict[str, object] = {"records": len(found), "for": why}
        self._require_auditor(person, detail)
        self._record("admin.payload_read", person, detail)
        return list(self._recorded(found))

    def _require_auditor(self, person: str, detail: JsonObject) -> None:
        if AUDITOR not in self._facts.roles(Subject("user", person)):
            self._record("admin.payload_read_refused", person, detail)
            raise Unauthorized(
                f"`{person}` may not read payloads",
                hint=f'give them the role `{AUDITOR}` under `[people."{person}"]` in checkrein.toml',
                forbidden=True,
            )

    def recorded(self, since_us: int = 0, until_us: int = 0, *, by: str) -> Iterator[Recorded]:
        """Every decision of a time (from inclusive, until exclusive, 0 for open ends), with its request.

        For the operator on this host, to decide again. One record says so, before the first is opened.
        """
        self._record("admin.payload_read", by, {"since_us": since_us, "until_us": until_us})
        return self._recorded(
            self._store.records(RecordQuery(kinds=("decision",), since_us=since_us, until_us=until_us))
        )

    def requests(self, since_us: int = 0, until_us: int = 0, *, by: str) -> Iterator[tuple[Record, Request]]:
        """`recorded`, only those that are present, with the roles of that time in the request itself."""
        found = self.recorded(since_us, until_us, by=by)
        return ((each.record, each.with_roles) for each in found if each.with_roles)

    def _recorded(self, found: Iterable[Record]) -> Iterator[Recorded]:
        for record in found:
            state, data = self._open(record)
            if state != "present":
                yield Recorded(record=record, state=state)
                continue
            request, known = _decode(record, data)
            yield Recorded(record=record, state=state, request=request, known=known)

    def _open(self, record: Record) -> tuple[str, bytes]:
        """The state of a record's payload and, if it is present, its bytes: exactly those the record commits to."""
        body = record.body
        named, actor = member(body, "payload"), member(body, "actor")
        id = named.get("id")
        if not isinstance(id, str):
            return "unkept", b""
        ref = reference(self._key, str(actor.get("type", "")), str(actor.get("id", "")))
        payload = self._payloads.read(id, ref)
        if payload is None:
            return self._absence(record, body, ref), b""
        if not hmac.compare_digest(mac(self._key, payload.data), str(named.get("hmac", ""))):
            raise LedgerInvalid(
                f"payload `{id}` is not what record {record.seq} commits to",
                hint="restore `payload.db` from a backup",
            )
        return "present", payload.data

    def _absence(self, record: Record, body: Mapping[str, object], ref: str) -> str:
        if self._payloads.subject(ref).erased_us >= record.ts_us:
            return "erased"
        labels = member(body, "decision").get("labels")
        name = self._retention.of(map(str, labels)) if isinstance(labels, list) else ""
        return "expired" if record.ts_us + self._retention.kept_us(name) < self._clock.now_us() else "missing"

    # --- erasure and holds --------------------------------------------------------------------------------------

    def erase(self, subject: Subject, *, by: str, reason: str) -> Erasure:
        """Destroy the subject's keys, remove what they sealed, and replace the actions of their approvals.

        The ledger stays whole: it says who erased and why, and names the subject by a commitment. Raises `Held`
        while a legal hold stands and `BadRequest` while an approval is open. What a crash interrupts is finished by
        `resume`, or by erasing again.
        """
        if not reason.strip():
            raise BadRequest("an erasure needs a reason", hint="such as the number of the request; name nobody in it")
        ref = reference(self._key, subject.type, subject.id)
        if self._payloads.subject(ref).held:
            raise Held(
                f"a legal hold keeps the data of `{subject.id}`", hint="release it with `audit hold --release` first"
            )
        if live := [approval.id for approval in self._approvals(ref) if TRANSITIONS[approval.state]]:
            raise BadRequest(
                f"`{subject.id}` has {len(live)} open approval{'' if len(live) == 1 else 's'}: {', '.join(live[:5])}",
                hint="deny it, or let it expire, and erase again",
            )
        order = self._store.row(ROOM, ref)
        if order is None or order.state != "ordered":
            version = order.version if order else 0
            body = msgspec.json.encode(_Order(by, records.cut(reason)))
            order = Row(ROOM, ref, version + 1, "ordered", "", body)
            self._note(order, {})
        return self._carry_out(order)

    def resume(self) -> int:
        """Finish what was ordered by a process that died; how many."""
        done = 0
        for order in self._store.rows(ROOM, state="ordered", limit=500):
            with contextlib.suppress(Held):  # the hold came first; the order is recorded as stopped
                self._carry_out(order)
                done += 1
        return done

    def hold(self, subject: Subject, *, by: str, reason: str, release: bool = False) -> None:
        """Keep the subject's payloads from erasure and sweeps, or let them go again."""
        ref = reference(self._key, subject.type, subject.id)
        detail = {"subject": ref, "reason": records.cut(reason)}
        if not release:  # in each case a crash in between leaves the data held
            self._payloads.hold(ref, True)
            self._record("admin.hold_set", by, detail)
        else:
            self._record("admin.hold_released", by, detail)
            self._payloads.hold(ref, False)

    def _carry_out(self, order: Row) -> Erasure:
        ref = order.id
        forgotten = self._forget_approvals(ref)
        self._forget_grants(ref, order.read(_Order).by)
        try:
            keys, removed = self._payloads.erase(ref, self._clock.now_us())
        except Held:
            self._note(msgspec.structs.replace(order, version=order.version + 1, state="stopped"), {})
            raise
        self._scrub()
        done = Erasure(subject=ref, keys=keys, payloads=removed, approvals=forgotten)
        counts = {"keys": keys, "payloads": removed, "approvals": forgotten}
        with contextlib.suppress(StoreConflict):  # another process finished the same order, and recorded it
            self._note(msgspec.structs.replace(order, version=order.version + 1, state="done"), counts)
        return done

    def _note(self, order: Row, counts: JsonObject) -> None:
        about = order.read(_Order)
        detail = {"subject": order.id, "stage": order.state, "reason": about.reason, **counts}
        draft = records.admin("erasure", about.by, detail)
        self._store.commit(Unit((draft,), (Save(order, order.version - 1),))).result()

    def _approvals(self, ref: str) -> Iterator[Approval]:
        after = ""
        while rows := self._store.rows(approvals.ROOM, after=after, limit=500):
            after = rows[-1].id
            for approval in map(approvals.load, rows):
                if reference(self._key, approval.requester.type, approval.requester.id) == ref:
                    yield approval

    def _forget_approvals(self, ref: str) -> int:
        ended = [each for each in self._approvals(ref) if not TRANSITIONS[each.state]]
        clear = [each for each in ended if not each.action_hash.startswith(_ERASED)]
        written = [self._store.commit(Unit(saves=(approvals.save(_forgotten(each, self._key)),))) for each in clear]
        for future in written:
            with contextlib.suppress(StoreConflict):  # another process that erases the same was first
                future.result()
        return len(written)

    def _forget_grants(self, ref: str, by: str) -> None:
        """End the grants of the subject, and keep nothing of the arguments they are bound to."""
        known = grants.Grants(self._store, self._clock, self._key)
        for grant in known.all(live=False):
            if reference(self._key, grant.subject.type, grant.subject.id) != ref:
                continue
            with contextlib.suppress(StoreConflict, IllegalEvent):  # it was used up or revoked meanwhile
                if grant.state is GrantState.LIVE:
                    grant = known.revoke(grant.id, by=by, auth="erasure", expired=True)
            if grant.same:
                bare = msgspec.structs.replace(known.get(grant.id), same={}, version=grant.version + 1)
                with contextlib.suppress(StoreConflict):
                    self._store.commit(Unit(saves=(grants.save(bare),))).result()

    # --- sweeping -----------------------------------------------------------------------------------------------

    def sweep(self, limit: int = 0, *, by: str = "system") -> Swept:
        """Remove payloads past their retention class, and orphans; looks at `limit` of each at the most (0: at all).

        Idempotency keys that have expired are forgotten with the answers that were kept for them.
        """
        now_us, limit = self._clock.now_us(), limit or 2**62
        idempotency.sweep(self._store, self._retention, now_us, limit=limit)
        expired = self._payloads.expire(self._retention, now_us, limit)
        orphans = looked = 0
        while seen := self._payloads.unproved(now_us - GRACE_US, min(_STEP, limit - looked)):
            looked += len(seen)
            orphans += self._payloads.prove(seen, self._without_record(seen))
        if expired or orphans:
            self._record("admin.payloads_swept", by, {"expired": expired, "orphans": orphans})
        return Swept(expired=expired, orphans=orphans)

    def _without_record(self, seen: list[Unproved]) -> list[Unproved]:
        named = {trace_id: self._named(trace_id) for trace_id in {item.trace_id for item in seen}}
        return [item for item in seen if item.id not in named[item.trace_id]]

    def _named(self, trace_id: str) -> set[str]:
        query = RecordQuery(trace_id=trace_id, kinds=("decision", "execution.finished"))
        bodies = [record.body for record in self._store.records(query)]
        return {str(member(body, name).get("id", "")) for body in bodies for name in ("payload", "answer")}

    def _record(self, kind: str, by: str, detail: JsonObject) -> None:
        self._store.commit(Unit(drafts=(records.admin(kind, by, detail),))).result()


def _forgotten(approval: Approval, key: bytes) -> Approval:
    """The approval with nothing of its action but the names, and keyed hashes in the place of plain ones."""
    request = approval.request()
    bare = Request(
        Subject(request.subject.type, request.subject.id),
        Action(request.action.name),
        Resource(request.resource.type, request.resource.id),
    )
    hidden = _ERASED + commitment(key, approval.action_hash)
    votes = tuple(
        msgspec.structs.replace(vote, action_hash=hidden, reason="", shown=_ERASED + commitment(key, vote.shown))
        for vote in approval.votes
    )
    return msgspec.structs.replace(
        approval,
        version=approval.version + 1,
        action=msgspec.to_builtins(bare),
        action_hash=hidden,
        requester=bare.subject,
        votes=votes,
        broken=msgspec.structs.replace(approval.broken, reason="") if approval.broken else None,
    )


def _decode(record: Record, data: bytes) -> tuple[Request, Known]:
    try:
        return decode(data)
    except ValueError as error:
        raise LedgerInvalid(
            f"the payload of record {record.seq} cannot be read: {error}", hint="upgrade checkrein"
        ) from error


def _value(data: bytes) -> object:
    try:
        value: object = json.loads(data)
    except ValueError:
        return data.decode("utf-8", "replace")
    return value


def _with_roles(request: Request, known: Known) -> Request:
    roles = list(dict.fromkeys((*request.subject.roles, *known.roles)))
    properties = {**request.subject.properties, "roles": roles} if roles else request.subject.properties
    return msgspec.structs.replace(request, subject=msgspec.structs.replace(request.subject, properties=properties))

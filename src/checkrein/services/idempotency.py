"""`Idempotency-Key`: whatever is sent twice under one key runs once and is answered the same.

(IETF draft-ietf-httpapi-idempotency-key-header.) A key belongs to the caller that sent it. It is taken by a row that
is saved in the unit that records the start, or the answer to an enforcement point, so of two that come at once the
store lets one through, in whichever process. What did not run is not remembered: a denial, a review, an upstream that
was never reached. The row holds no text of anybody; the answer is sealed beside the ledger.

| the key's row            | the same body again                    |
|--------------------------|----------------------------------------|
| none, or expired         | decided, and run if it may             |
| `answered`               | the same answer                        |
| `unanswered`, or removed | refused: it ran, its answer is gone    |
| `running`, and it is     | refused: try again in a moment         |
| `running`, nobody is     | refused: how it ended is not known     |

A row without an end does not expire, so what may have run never runs again under its key.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
from collections.abc import Callable

import msgspec

from checkrein.ledger.record import commitment
from checkrein.model import BadRequest, CheckreinError, Decision, IdempotencyConflict, Request, StoreConflict
from checkrein.model.json import fold_bytes
from checkrein.model.retention import Retention
from checkrein.ports import Clock, Payloads, Row, Save, Store, Unit

ROOM = "idempotency"
MAX_KEY = 255
#: after how many uses of keys one page of rows is looked through for what has expired
_SWEEP_EVERY = 32
_PAGE = 64
#: how often a key is looked at again after another process took it
_ATTEMPTS = 8


class Once(msgspec.Struct, frozen=True):
    """A key in the words of the store: its row, and the fingerprint of what it was sent with."""

    id: str
    fingerprint: str


class Replay(CheckreinError):
    """Not a failure: the key was answered before, and `answer` is what was kept of it."""

    def __init__(self, answer: bytes) -> None:
        super().__init__("this was answered before")
        self.answer = answer


class _Taken(msgspec.Struct, frozen=True, kw_only=True):
    """The body of a row."""

    fingerprint: str
    trace_id: str
    evaluation_id: str
    owner: str
    #: whose payload the answer is, as `Payload.subject`
    subject: str
    at_us: int
    answer: str = ""


class Idempotency:
    """`owner` marks this process in the rows, and `alive` says of such a mark whether its process runs."""

    def __init__(
        self,
        store: Store,
        payloads: Payloads,
        clock: Clock,
        *,
        key: bytes,
        owner: str,
        alive: Callable[[str], bool],
        retention: Retention,
    ) -> None:
        self._store = store
        self._payloads = payloads
        self._clock = clock
        self._key = key
        self.owner = owner
        self._alive = alive
        self._retention = retention
        #: evaluations under a key that this process runs
        self.running: set[str] = set()
        self._uses = 0
        self._swept = ""

    def once(self, key: str, *, caller: str, operation: str, body: bytes) -> Once:
        """The key of a caller, sent with this body; raises `BadRequest` for a text that is no key."""
        if not key or len(key) > MAX_KEY or not (key.isascii() and key.isprintable()):
            raise BadRequest(
                f"the idempotency key is not 1 to {MAX_KEY} printable ASCII characters",
                hint="send a fresh UUID for each action, and the same one when you repeat it",
            )
        return Once(
            commitment(self._key, ["checkrein.idempotency.v1", caller, key]),
            hmac.digest(self._key, b"\0".join((operation.encode(), hashlib.sha256(body).digest())), "sha256").hex(),
        )

    def once_for(self, key: str, request: Request, *, caller: str, operation: str) -> Once:
        """`once` where there are no bytes: the request is what was sent, and its subject is part of the caller."""
        whose = msgspec.json.encode([caller, request.subject.type, request.subject.id]).decode()
        return self.once(key, caller=whose, operation=operation, body=fold_bytes(msgspec.to_builtins(request)))

    def item(self, once: Once, index: int) -> Once:
        """The key of one item of a batch."""
        return Once(commitment(self._key, ["checkrein.idempotency.item.v1", once.id, index]), once.fingerprint)

    def claim(self, once: Once) -> Claim:
        self._uses += 1
        if not self._uses % _SWEEP_EVERY:
            self._swept = sweep(self._store, self._retention, self._clock.now_us(), after=self._swept)
        return Claim(self, once)

    def look(self, once: Once) -> int:
        """The version of the key's row if it is free to take; raises `Replay` or `IdempotencyConflict`."""
        row = self._store.row(ROOM, once.id)
        if row is None:
            return 0
        taken = _read(row)
        if _expired(row, taken, self._retention, self._clock.now_us()):
            return row.version
        if not hmac.compare_digest(taken.fingerprint, once.fingerprint):
            raise _reused()
        if row.state == "running":
            raise self._unfinished(taken)
        answer = self._payloads.read(taken.answer, taken.subject) if taken.answer else None
        if answer is None:
            raise IdempotencyConflict(
                "the action of this idempotency key ran, and its answer was not kept; it was not run again",
                code="idempotency_answer_gone",
                trace_id=taken.trace_id,
                hint=f"`checkrein audit list --trace {taken.trace_id}` says how it ended; a fresh key runs it again",
            )
        raise Replay(answer.data)

    def note(self, once: Once, *, evaluation_id: str, trace_id: str) -> None:
        """Remember a key for what changes nothing when it is done again; raises `IdempotencyConflict` if it is reused.

        The answer is not kept: it is the same by itself.
        """
        for _ in range(_ATTEMPTS):
            row, now_us = self._store.row(ROOM, once.id), self._clock.now_us()
            if row is not None and not _expired(row, taken := _read(row), self._retention, now_us):
                if not hmac.compare_digest(taken.fingerprint, once.fingerprint):
                    raise _reused()
                return
            body = _Taken(
                fingerprint=once.fingerprint,
                trace_id=trace_id,
                evaluation_id=evaluation_id,
                owner=self.owner,
                subject="",
                at_us=now_us,
            )
            version = row.version if row else 0
            save = Save(Row(ROOM, once.id, version + 1, "unanswered", "", msgspec.json.encode(body)), version)
            with contextlib.suppress(StoreConflict):  # another process was first: look at what it was
                self._store.commit(Unit(saves=(save,))).result()
        raise StoreConflict("the idempotency key keeps changing", hint="try again")

    def _unfinished(self, taken: _Taken) -> IdempotencyConflict:
        mine = taken.owner == self.owner
        if taken.evaluation_id in self.running if mine else self._alive(taken.owner):
            return IdempotencyConflict(
                "the first request with this idempotency key is still running",
                code="idempotency_key_in_use",
                trace_id=taken.trace_id,
                retry_after_s=1,
                hint="send the same request again in a moment",
            )
        return IdempotencyConflict(
            "the action of this idempotency key was started, and how it ended is not known; it was not run again",
            code="idempotency_end_unknown",
            trace_id=taken.trace_id,
            hint="find out what it did; a fresh key runs it again",
        )


class Claim:
    """One use of a key: `look`, save `taken` with the start, then `ended` or `released` with the end, then `over`.

    A save is not a write: when its unit met a conflict, `look` begins anew.
    """

    def __init__(self, keys: Idempotency, once: Once) -> None:
        self._keys = keys
        self._once = once
        #: of the row as it was looked at
        self._version = 0
        self._taken: _Taken | None = None

    def look(self) -> None:
        """Raises `Replay` or `IdempotencyConflict`, unless the key is free."""
        self.over()
        self._version = self._keys.look(self._once)

    def taken(self, made: Decision, subject: str, now_us: int, *, answer: str = "") -> Save:
        """Take the key for what runs under this decision; with the payload `answer`, that is all there is to do."""
        self._taken = _Taken(
            fingerprint=self._once.fingerprint,
            trace_id=made.trace_id,
            evaluation_id=made.evaluation_id,
            owner=self._keys.owner,
            subject=subject,
            at_us=now_us,
            answer=answer,
        )
        self._keys.running.add(made.evaluation_id)
        return self._save(self._taken, "answered" if answer else "running", self._version)

    def ended(self, answer: str) -> Save:
        """`answer` is the id of the payload that keeps it, empty if none does."""
        if self._taken is None:
            raise RuntimeError("a key that was not taken has no end")
        taken = msgspec.structs.replace(self._taken, answer=answer)
        return self._save(taken, "answered" if answer else "unanswered", self._version + 1)

    def released(self) -> Save:
        """Nothing ran: the key is as if it had never been sent."""
        return _removal(self._once.id, self._version + 1)

    def over(self) -> None:
        """Nothing runs under this claim any more, whatever its row says."""
        if self._taken is not None:
            self._keys.running.discard(self._taken.evaluation_id)

    def _save(self, taken: _Taken, state: str, expect: int) -> Save:
        return Save(Row(ROOM, self._once.id, expect + 1, state, "", msgspec.json.encode(taken)), expect)


def sweep(store: Store, retention: Retention, now_us: int, *, after: str = "", limit: int = _PAGE) -> str:
    """Forget what has expired among the next `limit` rows; where to go on, empty at the end of them."""
    while rows := store.rows(ROOM, after=after, limit=min(limit, _PAGE)):
        for row in rows:
            if _expired(row, _read(row), retention, now_us):
                store.commit(Unit(saves=(_removal(row.id, row.version),)))  # a later sweep meets it again if it fails
        after, limit = rows[-1].id, limit - len(rows)
        if not limit:
            return after
    return ""


def _reused() -> IdempotencyConflict:
    return IdempotencyConflict(
        "this idempotency key was sent with another request before",
        code="idempotency_key_reused",
        hint="take a fresh key for each action",
    )


def _removal(id: str, version: int) -> Save:
    return Save(Row(ROOM, id, 0, "", "", b""), version)


def _read(row: Row) -> _Taken:
    return msgspec.json.decode(row.body, type=_Taken)


def _expired(row: Row, taken: _Taken, retention: Retention, now_us: int) -> bool:
    return row.state != "running" and taken.at_us + retention.idempotency_us <= now_us

"""What services need and adapters give. One suite in `tests/storage` runs on every `Store`.

The store is deliberately small: an append-only ledger of records, and rows of JSON with a version each. One
`Unit` writes both, or neither, in one durable transaction; that is how a vote and its record, or a decision and
the start of an execution, can never disagree. A row is moved by compare-and-set on its version, so every state
of an approval is left exactly once, whichever process gets there first. What many move at once, such as a
counter, is moved by a `Move`, which sees what the one before it left.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Protocol, TypeVar

import msgspec

from checkrein.ledger import Draft, Head, Record
from checkrein.model import Caller, CheckreinError, LedgerInvalid, Request, Subject
from checkrein.model.json import MAX_INTEGER
from checkrein.model.retention import Retention
from checkrein.pending import Pending

_Noun = TypeVar("_Noun")


class Row(msgspec.Struct, frozen=True):
    """A versioned value: `room` is the noun (`approval`, `key`), `lookup` a second name to find it by."""

    room: str
    id: str
    version: int
    state: str
    lookup: str
    body: bytes

    def read(self, type: type[_Noun]) -> _Noun:
        """The body as the noun that was stored; raises `LedgerInvalid` for one that checkrein did not write."""
        try:
            return msgspec.json.decode(self.body, type=type)
        except (ValueError, RecursionError) as error:  # never with the text, which may hold anything
            raise LedgerInvalid(
                f"the {self.room} `{self.id}` in the store is not what checkrein wrote",
                hint="restore the database from a backup; `checkrein audit verify` looks at the records beside it",
            ) from error


class Save(msgspec.Struct, frozen=True):
    """Write `row` if the stored version is `expect`; 0 means that it must not exist yet.

    A row of version 0 removes the one that is stored.
    """

    row: Row
    expect: int


class Move(msgspec.Struct, frozen=True):
    """Move a row by a function of what it holds in the very transaction, so that nobody comes in between.

    `apply` gets the stored body, None if there is none, and gives the new one. It is pure and quick, and raises
    `StoreConflict` to refuse the whole unit. A room is written by moves or by saves, never by both.
    """

    room: str
    id: str
    apply: Callable[[bytes | None], bytes]


class Unit(msgspec.Struct, frozen=True):
    """Records and rows that become durable together, or not at all."""

    drafts: tuple[Draft, ...] = ()
    saves: tuple[Save, ...] = ()
    moves: tuple[Move, ...] = ()


class RecordQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Filters for records; an empty value filters nothing. Times in microseconds since 1970, UTC.

    A time is met from `since_us` on and before `until_us`.
    """

    kinds: tuple[str, ...] = ()
    trace_id: str = ""
    user: str = ""
    agent: str = ""
    action: str = ""
    outcome: str = ""
    risk: str = ""
    approval: str = ""
    #: one that decided, erred, or asked for the approval
    policy: str = ""
    since_us: int = 0
    until_us: int = 0
    after_seq: int = -1
    #: only numbers below this one; 0 for all
    before_seq: int = 0
    limit: int = 0
    newest_first: bool = False


class Changes(Protocol):
    """Notices what others write. For one thread at a time."""

    def changed(self) -> bool:
        """Whether anybody, in any process, wrote since the last look; true at the first.

        Cheap enough for a look every few milliseconds. Raises `StoreUnavailable` while there is no store.
        """

    def close(self) -> None: ...


class Store(Protocol):
    """Ledger and rows in one place. Reads see every unit whose future has resolved."""

    def commit(self, unit: Unit) -> Pending[tuple[Record, ...]]:
        """Queue a unit. The future resolves once it is durable, with its records in order.

        It fails with `StoreConflict` when a `Save` met another version or a `Move` refused, with
        `StoreUnavailable` when the disk refused; in both cases nothing of the unit was written. Thread-safe; never
        blocks on the disk.
        """

    def row(self, room: str, id: str) -> Row | None: ...

    def rows(self, room: str, *, state: str = "", lookup: str = "", after: str = "", limit: int = 100) -> list[Row]:
        """Rows by id, ascending, after the id `after`."""

    def queue(
        self,
        room: str,
        state: str,
        by: str,
        *,
        after: tuple[int, str] = (-1, ""),
        until: int = MAX_INTEGER,
        limit: int = 100,
    ) -> list[Row]:
        """Rows in this state by the number `by` in their bodies, then by id: after this place, up to this number.

        For approvals: `created_us` and `deadline_us`, without looking at any other row.
        """

    def records(self, query: RecordQuery) -> Iterator[Record]: ...

    def head(self) -> Head:
        """Size and root of the tree over every durable record."""

    def changes(self) -> Changes:
        """What notices that anybody wrote; the caller closes it."""

    def writable(self) -> bool:
        """Whether the last write went through, or a probe does now (`/readyz`)."""

    def close(self) -> None:
        """Write what is queued, sign a checkpoint, let go of the files. A second call does nothing."""


class Counted(msgspec.Struct, frozen=True):
    """So many records have these facets; empty where that kind of record has none."""

    kind: str
    action: str
    outcome: str
    risk: str
    count: int


class Census(Protocol):
    """A store that tells how many records there are without reading them. Of a query only its bounds count."""

    def counts(self, query: RecordQuery) -> Iterator[Counted]:
        """Of all records; the same facets may come more than once. Agents name actions, so there may be very many."""

    def sample(self, kind: str, most: int, query: RecordQuery) -> list[Record]:
        """Records of one kind, in order: all of them, or about `most`, drawn evenly and always the same."""


class Handover(msgspec.Struct, frozen=True):
    """The ledger's key is about to change: both public keys, and the statement that both sign."""

    old: str
    new: str
    #: until when the old key signs beside the new one, microseconds since 1970, UTC
    until_us: int
    statement: str


class Rotating(Protocol):
    """A store whose key can be rotated."""

    def rotating(self, overlap_us: int, *, keep: bool = False) -> AbstractContextManager[Handover]:
        """Make a new key; the block must commit the record that carries the statement, else the old one stays.

        When it ends, the head is signed by both. `keep` puts the old private key into a file of its own in the end,
        where it is else destroyed.
        """


#: how payloads are encrypted (RFC 7518), as records say it
PAYLOAD_ALG = "A256GCM"


class Payload(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes that are kept beside the ledger, never in it. `subject` is a keyed commitment to whose they are."""

    id: str
    subject: str
    trace_id: str
    #: microseconds since 1970, UTC
    created_us: int
    #: the class of `model.retention`, empty for the default
    retention: str = ""
    data: bytes


class SubjectState(msgspec.Struct, frozen=True):
    """What holds for the payloads of one subject. `erased_us` is when they were last erased, or 0."""

    held: bool = False
    erased_us: int = 0


class Unproved(msgspec.Struct, frozen=True):
    """A payload by its number, and where the record stands that must name it."""

    seq: int
    id: str
    trace_id: str


class Held(CheckreinError):
    """A legal hold keeps these payloads. Nothing was removed."""


class Payloads(Protocol):
    """Payloads, each encrypted under a key of its subject that can be destroyed."""

    def seal(self, payload: Payload) -> Pending[None]:
        """Queue a payload. The future resolves once it is durable; it fails with `StoreUnavailable` if that cannot be.

        Thread-safe; never blocks on the disk.
        """

    def discard(self, id: str) -> None:
        """Queue the removal of a payload whose record was not written. What fails here is swept later."""

    def read(self, id: str, subject: str) -> Payload | None:
        """Decrypt it; None if it is not there. Raises `LedgerInvalid` if it was changed, or sealed for another."""

    def subject(self, ref: str) -> SubjectState: ...

    def hold(self, ref: str, held: bool) -> None:
        """Keep the subject's payloads from erasure and sweeps, or let them go again."""

    def erase(self, ref: str, now_us: int) -> tuple[int, int]:
        """Destroy the subject's keys, then remove what they sealed; the number of keys and of payloads.

        Nothing of the keys is left in any file when it returns. Raises `Held`; doing it again finishes what was begun.
        """

    def expire(self, retention: Retention, now_us: int, limit: int) -> int:
        """Remove at most `limit` payloads that are past their class and not held; how many."""

    def unproved(self, before_us: int, limit: int) -> list[Unproved]:
        """The oldest payloads of which nobody has looked yet whether a record names them."""

    def prove(self, seen: list[Unproved], orphans: list[Unproved]) -> int:
        """Remove the orphans among those seen, unless held, and do not hand those seen out again; how many."""

    def writable(self) -> bool:
        """Whether the last write went through, or a probe does now."""

    def close(self) -> None:
        """Write what is queued and let go of the files. A second call does nothing."""


class Clock(Protocol):
    def now_us(self) -> int:
        """Microseconds since 1970, UTC."""


class Reply(Protocol):
    """An upstream's answer: status and headers at once, the body as it arrives."""

    @property
    def status(self) -> int: ...

    @property
    def headers(self) -> Mapping[str, str]: ...

    def body(self) -> AsyncIterator[bytes]:
        """Chunks as they arrive; raises `UpstreamUnavailable` if the upstream breaks off."""

    async def close(self) -> None:
        """Drop the connection; stops the upstream's work if it still runs."""


class Upstream(Protocol):
    """One configured upstream. Its address and credential come from configuration, never from the caller."""

    @property
    def name(self) -> str: ...

    async def send(self, path: str, body: bytes, headers: Mapping[str, str]) -> Reply:
        """POST `body`; raises `UpstreamUnavailable` when no answer comes, `UpstreamUnreachable` if nothing was sent."""

    async def get(self, path: str, headers: Mapping[str, str]) -> Reply:
        """GET, for lists; raises as `send` does."""

    async def close(self) -> None: ...


class Posted(msgspec.Struct, frozen=True):
    """How a destination answered. `retry_after_s` is what it asks for, or 0."""

    status: int
    retry_after_s: float = 0.0


class Hook(Protocol):
    """A destination outside that is told what happened."""

    async def post(self, id: str, body: bytes, content_type: str, at_s: int) -> Posted:
        """Send `body`; raises `UpstreamUnavailable` when no answer comes. `id` is the same when it is sent again."""

    async def close(self) -> None: ...


class Notice(msgspec.Struct, frozen=True, kw_only=True):
    """A message for people. `to` is an address; empty where the channel leads to one place only."""

    to: str = ""
    subject: str
    lines: tuple[str, ...]
    link: str = ""


class Channel(Protocol):
    """A way to people."""

    async def tell(self, id: str, notices: tuple[Notice, ...], at_s: int) -> Posted:
        """Tell each of them, not again who was told under this id; raises `UpstreamUnavailable` to be tried later.

        The status is 200 when somebody was reached, 422 when nobody can be.
        """

    async def close(self) -> None: ...


class Span(msgspec.Struct, frozen=True, kw_only=True):
    """One governed action as OpenTelemetry tells it; times in nanoseconds since 1970, UTC, ids in hex."""

    name: str
    trace_id: str
    span_id: str
    #: empty where the trace begins here
    parent_id: str = ""
    #: whether it is a call to another service
    outgoing: bool = False
    began_ns: int
    ended_ns: int
    attributes: Mapping[str, object] = {}
    failed: bool = False


class Tracer(Protocol):
    """Takes spans away."""

    def tell(self, span: Span) -> None:
        """Queue it. Never blocks and never raises: what does not fit any more is dropped."""

    def close(self) -> None:
        """Tell what is queued, within a few seconds; then what is left is dropped."""


class Identities(Protocol):
    """People as others know them, by the bearer tokens these give out."""

    async def caller(self, token: str) -> Caller:
        """Who the token is of; raises `Unauthorized`, or `UpstreamUnavailable` when it cannot be checked now."""

    async def close(self) -> None: ...


class Facts(Protocol):
    """What the PDP may know besides the request (policy information point)."""

    def roles(self, subject: Subject) -> tuple[str, ...]:
        """Roles the deployment itself gives this subject (people in `checkrein.toml`)."""

    def labels(self, request: Request) -> tuple[str, ...]:
        """Extra labels for this request, such as `broadcast`."""

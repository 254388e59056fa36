"""What services need and adapters give. One suite in `tests/storage` runs on every `Store`.

The store is deliberately small: an append-only ledger of records, and rows of JSON with a version each. One
`Unit` writes both, or neither, in one durable transaction; that is how a vote and its record, or a decision and
the start of an execution, can never disagree. A row is moved by compare-and-set on its version, so every state
of an approval is left exactly once, whichever process gets there first.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from concurrent.futures import Future
from typing import Protocol

import msgspec

from checkrein.ledger import Draft, Head, Record
from checkrein.model import Request, Subject


class Row(msgspec.Struct, frozen=True):
    """A versioned value: `room` is the noun (`approval`, `key`), `lookup` a second name to find it by."""

    room: str
    id: str
    version: int
    state: str
    lookup: str
    body: bytes


class Save(msgspec.Struct, frozen=True):
    """Write `row` if the stored version is `expect`; 0 means that it must not exist yet."""

    row: Row
    expect: int


class Unit(msgspec.Struct, frozen=True):
    """Records and rows that become durable together, or not at all."""

    drafts: tuple[Draft, ...] = ()
    saves: tuple[Save, ...] = ()


class RecordQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Filters for records; an empty value filters nothing. Times in microseconds since 1970, UTC."""

    kinds: tuple[str, ...] = ()
    trace_id: str = ""
    user: str = ""
    agent: str = ""
    action: str = ""
    outcome: str = ""
    risk: str = ""
    approval: str = ""
    since_us: int = 0
    until_us: int = 0
    after_seq: int = -1
    limit: int = 0
    newest_first: bool = False


class Store(Protocol):
    """Ledger and rows in one place. Reads see every unit whose future has resolved."""

    def commit(self, unit: Unit) -> Future[tuple[Record, ...]]:
        """Queue a unit. The future resolves once it is durable, with its records in order.

        It fails with `StoreConflict` when a `Save` met another version, with `StoreUnavailable` when the disk
        refused; in both cases nothing of the unit was written. Thread-safe; never blocks on the disk.
        """

    def row(self, room: str, id: str) -> Row | None: ...

    def rows(self, room: str, *, state: str = "", lookup: str = "", after: str = "", limit: int = 100) -> list[Row]:
        """Rows by id, ascending, after the id `after`."""

    def records(self, query: RecordQuery) -> Iterator[Record]: ...

    def head(self) -> Head:
        """Size and root of the tree over every durable record."""

    def writable(self) -> bool:
        """Whether the last write went through, or a probe does now (`/readyz`)."""

    def close(self) -> None:
        """Write what is queued, sign a checkpoint, let go of the files. A second call does nothing."""


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
        """POST `body`; raises `UpstreamUnavailable` when no answer comes."""

    async def close(self) -> None: ...


class Facts(Protocol):
    """What the PDP may know besides the request (policy information point)."""

    def roles(self, subject: Subject) -> tuple[str, ...]:
        """Roles the deployment itself gives this subject (people in `checkrein.toml`)."""

    def labels(self, request: Request) -> tuple[str, ...]:
        """Extra labels for this request, such as `broadcast`."""

"""Tells destinations outside of every record, at least once and in order.

There is no second queue: each destination has a cursor over the ledger (`flow.delivery`), saved after what it covers
was taken. A process that dies in between sends the same again, under the same ids. One process at a time serves a
destination; who stops renewing its hold is succeeded by another.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import secrets
import threading
from collections.abc import Mapping
from fnmatch import fnmatchcase
from types import TracebackType
from typing import Self

import msgspec

from checkrein.flow import delivery as flow
from checkrein.flow.delivery import Delivery, Verdict, verdict
from checkrein.ledger import Record
from checkrein.ledger.record import facets
from checkrein.model import LedgerInvalid, NotFound, StoreConflict, StoreUnavailable, UpstreamUnavailable
from checkrein.ports import Clock, Hook, Posted, RecordQuery, Row, Save, Store, Unit
from checkrein.services.cloudevents import BATCH, batch

log = logging.getLogger("checkrein.outbox")

ROOM = "delivery"
#: how often an idle destination looks for new records, and how long a process holds one
LOOK_S, HOLD_S = 0.5, 30.0
#: records that are looked at in one go, and the bytes of one message
LOOKED_AT, MAX_BYTES = 500, 256 * 1024
ATTEMPTS = 32


class Destination(msgspec.Struct, frozen=True, kw_only=True):
    """Who is told of what: kinds are patterns such as `approval.*`; what is empty filters nothing."""

    name: str
    kinds: tuple[str, ...] = ("*",)
    outcomes: tuple[str, ...] = ()
    risks: tuple[str, ...] = ()
    batch: int = 100
    #: from the ledger's first record, instead of from the first one after it was configured
    from_start: bool = False

    def wants(self, record: Record) -> bool:
        if not any(fnmatchcase(record.kind, pattern) for pattern in self.kinds):
            return False
        if not self.outcomes and not self.risks:
            return True
        found = facets(record.body)
        return (not self.outcomes or found.outcome in self.outcomes) and (not self.risks or found.risk in self.risks)

    async def deliver(self, id: str, records: tuple[Record, ...], source: str, at_s: int) -> Posted:
        """Tell of these records; raises `UpstreamUnavailable` when no answer comes. `id` is theirs, each time."""
        raise NotImplementedError

    async def close(self) -> None:
        raise NotImplementedError


class Told(Destination, frozen=True, kw_only=True):
    """A webhook: it is told of the records themselves."""

    hook: Hook

    async def deliver(self, id: str, records: tuple[Record, ...], source: str, at_s: int) -> Posted:
        return await self.hook.post(id, batch(records, source), BATCH, at_s)

    async def close(self) -> None:
        await self.hook.close()


class Parcel(msgspec.Struct, frozen=True):
    """What goes out at once; `upto` is the last record that then needs nothing more."""

    records: tuple[Record, ...]
    upto: int

    @property
    def seqs(self) -> tuple[int, ...]:
        return tuple(record.seq for record in self.records)


class Deliveries:
    """How far each destination is, as it is stored."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    def of(self, name: str) -> Delivery | None:
        row = self._store.row(ROOM, name)
        return row.read(Delivery) if row else None

    def begun(self, name: str, *, from_start: bool) -> Delivery:
        """The delivery to a destination; one that is new begins here."""
        found = self.of(name)
        if found is None:
            found = Delivery(name=name, version=1, cursor=-1 if from_start else self._store.head().size - 1)
            self.save(found)
        return found

    def save(self, delivery: Delivery) -> None:
        """Raises `StoreConflict` if another process was first."""
        row = Row(ROOM, delivery.name, delivery.version, "", "", msgspec.json.encode(delivery))
        self._store.commit(Unit(saves=(Save(row, delivery.version - 1),))).result()

    def retry(self, name: str) -> int:
        """Try again, at once, what was refused or waits; how many records had been put aside."""
        for _ in range(ATTEMPTS):
            found = self.of(name)
            if found is None:
                raise NotFound(
                    f"nothing was delivered to `{name[:80]}` yet", hint="`checkrein webhooks list` shows them"
                )
            with contextlib.suppress(StoreConflict):
                self.save(flow.retried(found))
                return len(found.refused)
        raise StoreConflict(f"`{name}` keeps changing", hint="try again")

    def parcel(self, destination: Destination, found: Delivery) -> Parcel | None:
        """The next records to send; None if there are none. What nobody wants is only stepped over."""
        if found.again:
            again = self._store.records(RecordQuery(after_seq=found.again[0] - 1, limit=1))
            return Parcel(tuple(again), -1)
        records: list[Record] = []
        upto, size = found.cursor, 0
        most = 1 if found.narrow else destination.batch
        for record in self._store.records(RecordQuery(after_seq=found.cursor, limit=LOOKED_AT)):
            if destination.wants(record):
                size += len(record.data)
                if records and size > MAX_BYTES:
                    break
                records.append(record)
            upto = record.seq
            if len(records) == most:
                break
        return Parcel(tuple(records), upto) if upto > found.cursor else None


class Outbox:
    """Serves destinations in a thread of its own while the block runs. `source` names the ledger in events."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        destinations: Mapping[str, Destination],
        source: str,
        *,
        look_s: float = LOOK_S,
    ) -> None:
        self.deliveries = Deliveries(store, clock)
        self._clock = clock
        self._destinations = tuple(destinations.values())
        self._source = source
        self._look_s = look_s
        self._me = secrets.token_hex(8)
        self._draw = random.Random()  # noqa: S311 - when to come back is no secret
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="checkrein-outbox", daemon=True)
        self._ready = threading.Event()

    def __enter__(self) -> Self:
        if self._destinations:
            self._thread.start()
            self._ready.wait()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """What is on its way is given up; it is sent again by whoever serves next."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join()

    def _run(self) -> None:
        with asyncio.Runner() as runner:
            self._loop = runner.get_loop()
            self._ready.set()
            runner.run(self._serve_all())

    async def _serve_all(self) -> None:
        serving = [asyncio.ensure_future(self._serve(destination)) for destination in self._destinations]
        await self._stop.wait()
        for task in serving:
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)
        for destination in self._destinations:
            await destination.close()

    async def _serve(self, destination: Destination) -> None:
        while True:
            wait_s = self._look_s
            try:
                wait_s = await self.round(destination)
            except StoreConflict:
                wait_s = self._look_s  # another process was first
            except (StoreUnavailable, LedgerInvalid) as error:
                log.warning("%s is not told: %s", destination.name, error)
            except Exception:
                log.exception("telling %s failed", destination.name)
            await asyncio.sleep(wait_s)

    async def round(self, destination: Destination) -> float:
        """Send the next records, if it is time and ours to do; the seconds after which to look again."""
        found = self.deliveries.begun(destination.name, from_start=destination.from_start)
        now_us = self._clock.now_us()
        if found.halted():
            return self._look_s
        if now_us < found.due_us:
            return min((found.due_us - now_us) / 1_000_000, self._look_s)
        parcel = self.deliveries.parcel(destination, found)
        if parcel is None or not found.free(self._me, now_us):
            return self._look_s
        if not parcel.records:
            self.deliveries.save(flow.taken(found, (), parcel.upto, now_us))
            return 0.0
        if found.holder != self._me or found.held_until_us - now_us < HOLD_S * 500_000:
            found = flow.held(found, self._me, now_us + int(HOLD_S * 1_000_000))
            self.deliveries.save(found)
        self.deliveries.save(await self._send(destination, found, parcel))
        return 0.0

    async def _send(self, destination: Destination, found: Delivery, parcel: Parcel) -> Delivery:
        first, last = parcel.records[0], parcel.records[-1]
        id = f"{first.id}-{last.seq - first.seq + 1}"
        jitter = self._draw.random()
        try:
            at_s = self._clock.now_us() // 1_000_000
            posted = await destination.deliver(id, parcel.records, self._source, at_s)
        except UpstreamUnavailable as error:
            return self._failed(found, str(error), jitter)
        now_us = self._clock.now_us()
        match verdict(posted.status):
            case Verdict.TAKEN:
                return flow.taken(found, parcel.seqs, parcel.upto, now_us)
            case Verdict.REFUSED:
                return flow.refused(found, parcel.seqs, parcel.upto, posted.status, now_us)
        return self._failed(found, f"answered {posted.status}", jitter, posted.retry_after_s)

    def _failed(self, found: Delivery, why: str, jitter: float, retry_after_s: float = 0.0) -> Delivery:
        if not found.attempts:
            log.warning("%s %s; it is told later", found.name, why)
        return flow.failed(found, why, self._clock.now_us(), jitter=jitter, retry_after_s=retry_after_s)

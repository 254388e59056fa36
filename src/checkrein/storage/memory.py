"""A store that lives and dies with the process: for tests and for trying things out, never for real actions."""

from __future__ import annotations

import contextlib
import os
import secrets
import threading
from collections import Counter
from collections.abc import Callable, Iterator

import msgspec

from checkrein.ledger import Head, Record
from checkrein.ledger.record import Facets, Prepared, place, policies, prepare
from checkrein.ledger.tree import Frontier, leaf_hash
from checkrein.ledger.verify import Entry, Snapshot
from checkrein.model import CheckreinError, StoreUnavailable
from checkrein.model.json import MAX_INTEGER
from checkrein.pending import Pending
from checkrein.ports import Changes, Clock, Counted, RecordQuery, Row, Unit
from checkrein.storage.shapes import SPACE, SPREAD, draw_below
from checkrein.storage.units import Randomness, Stamper, Written, checked, conflict, moved, unrecordable

_FACETS = ("user", "agent", "action", "outcome", "risk", "approval")


class MemoryStore:
    """See `ports.Store`. It has no checkpoint: nothing of it can be proved to a stranger."""

    def __init__(self, clock: Clock, *, randomness: Randomness = os.urandom) -> None:
        self._stamper = Stamper(clock, randomness)
        self._lock = threading.Lock()
        self._entries: list[Entry] = []
        self._frontier = Frontier()
        self._ts_us = 0
        self._commits = 0
        self._rows: dict[tuple[str, str], Row] = {}
        self._owner = f"own_{secrets.token_hex(16)}"
        self._closed = False

    def commit(self, unit: Unit) -> Written:
        """See `ports.Store.commit`; the future has resolved already."""
        future: Written = Pending()
        try:
            drafts = tuple(prepare(draft) for draft in unit.drafts)
            checked(unit)
            with self._lock:
                future.set_result(self._apply(drafts, unit))
        except ValueError as error:
            future.set_exception(unrecordable(error))
        except CheckreinError as error:
            future.set_exception(error)
        return future

    def row(self, room: str, id: str) -> Row | None:
        with self._reading():
            return self._rows.get((room, id))

    def rows(self, room: str, *, state: str = "", lookup: str = "", after: str = "", limit: int = 100) -> list[Row]:
        """Rows by id, ascending, after the id `after`."""
        with self._reading():
            found = [
                row
                for row in self._rows.values()
                if row.room == room and row.id > after and state in ("", row.state) and lookup in ("", row.lookup)
            ]
        return sorted(found, key=lambda row: row.id)[:limit]

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
        """See `ports.Store.queue`."""
        with self._reading():
            rows = [row for row in self._rows.values() if row.room == room and row.state == state]
        placed = sorted(((_number(row, by), row.id), row) for row in rows)
        return [row for place, row in placed if after < place and place[0] <= until][:limit]

    def records(self, query: RecordQuery) -> Iterator[Record]:
        """Records by sequence number. `since_us` is inclusive, `until_us` exclusive."""
        with self._reading():
            entries = self._entries[query.after_seq + 1 : query.before_seq or None]
        found = [entry.record for entry in entries if _fits(entry.record, entry.facets, query)]
        if query.newest_first:
            found.reverse()
        return iter(found[: query.limit] if query.limit else found)

    def counts(self, query: RecordQuery) -> Iterator[Counted]:
        """See `ports.Census`."""
        found = Counter(
            (entry.record.kind, entry.facets.action, entry.facets.outcome, entry.facets.risk)
            for entry in self._between(query)
        )
        return (Counted(*facets, count) for facets, count in found.items())

    def sample(self, kind: str, most: int, query: RecordQuery) -> list[Record]:
        """See `ports.Census`."""
        found = [entry.record for entry in self._between(query) if entry.record.kind == kind]
        below = draw_below(most, len(found))
        return [record for record in found if record.seq * SPREAD % SPACE < below]

    def _between(self, query: RecordQuery) -> list[Entry]:
        with self._reading():
            entries = self._entries[query.after_seq + 1 : query.before_seq or None]
        bounds = RecordQuery(since_us=query.since_us, until_us=query.until_us)
        return [entry for entry in entries if _fits(entry.record, entry.facets, bounds)]

    def record(self, id: str) -> Record | None:
        """The record with this id."""
        with self._reading():
            return next((entry.record for entry in self._entries if entry.record.id == id), None)

    def running(self) -> list[Record]:
        """Starts of executions that have no end yet, oldest first."""
        found: dict[str, Record] = {}
        with self._reading():
            for entry in self._entries:
                if entry.record.kind == "execution.started":
                    found[entry.facets.evaluation] = entry.record
                elif entry.record.kind in ("execution.finished", "execution.unknown"):
                    found.pop(entry.facets.evaluation, None)
        return list(found.values())

    def head(self) -> Head:
        """Size and root of the tree over every record."""
        with self._reading():
            return self._frontier.head

    @contextlib.contextmanager
    def snapshot(self) -> Iterator[Snapshot]:
        """One consistent view for a walk through the whole log."""
        with self._reading():
            head, entries = self._frontier.head, list(self._entries)
        yield Snapshot(head=head, entries=iter(entries))

    def changes(self) -> Changes:
        """See `ports.Store.changes`."""
        return _MemoryChanges(lambda: self._commits)

    def writable(self) -> bool:
        return not self._closed

    def problems(self) -> tuple[str, ...]:
        return ()

    def owner_token(self) -> str:
        return self._owner

    def owner_alive(self, token: str) -> bool:
        """Nobody but this process can have written here."""
        return token == self._owner

    def close(self) -> None:
        self._closed = True

    @contextlib.contextmanager
    def _reading(self) -> Iterator[None]:
        with self._lock:
            self._require_open()
            yield

    def _require_open(self) -> None:
        if self._closed:
            raise StoreUnavailable("the store is closed", hint="open it again")

    def _apply(self, drafts: tuple[Prepared, ...], unit: Unit) -> tuple[Record, ...]:
        self._require_open()
        ts_us, seq = self._stamper.now_us(self._ts_us), len(self._entries)
        ids = self._stamper.ids(ts_us, len(drafts))
        placed = tuple(
            place(draft, seq=seq + offset, id=id, ts_us=ts_us)
            for offset, (draft, id) in enumerate(zip(drafts, ids, strict=True))
        )
        rows: dict[tuple[str, str], Row] = {}
        for (room, id), body in moved(unit.moves, self._body).items():
            stored = self._rows.get((room, id))
            rows[room, id] = Row(room, id, (stored.version if stored else 0) + 1, "", "", body)
        for save in unit.saves:
            place_of = (save.row.room, save.row.id)
            stored = rows.get(place_of) or self._rows.get(place_of)
            if (stored.version if stored else 0) != save.expect:
                raise conflict(save)
            rows[place_of] = save.row
        self._rows.update(rows)
        for place_of, row in rows.items():
            if not row.version:
                del self._rows[place_of]
        for draft, record in zip(drafts, placed, strict=True):
            leaf = leaf_hash(record.data)
            self._entries.append(Entry(record, Facets(*[text or "" for text in draft.found]), leaf))
            self._frontier = self._frontier.append(leaf)
        self._ts_us = ts_us
        self._commits += 1
        return placed

    def _body(self, room: str, id: str) -> bytes | None:
        stored = self._rows.get((room, id))
        return stored.body if stored else None


class _MemoryChanges:
    def __init__(self, commits: Callable[[], int]) -> None:
        self._commits = commits
        self._seen = -1

    def changed(self) -> bool:
        before, self._seen = self._seen, self._commits()
        return before != self._seen

    def close(self) -> None:
        pass


def _fits(record: Record, facets: Facets, query: RecordQuery) -> bool:
    return (
        (not query.kinds or record.kind in query.kinds)
        and query.trace_id in ("", record.trace_id)
        and all(getattr(query, name) in ("", getattr(facets, name)) for name in _FACETS)
        and (not query.policy or query.policy in policies(record.body))
        and record.ts_us >= query.since_us
        and (not query.until_us or record.ts_us < query.until_us)
    )


def _number(row: Row, member: str) -> int:
    """A number in the row's body, or 0."""
    try:
        value = msgspec.json.decode(row.body).get(member, 0)
    except (msgspec.MsgspecError, AttributeError):
        return 0
    return value if isinstance(value, int) else 0

"""Reads the SQLite store on connections of its own, so that no reader waits for the writer.

Connections are kept in a small pool and used by one thread at a time. A long listing is read in pages, each
in its own short transaction; the log only grows, so the pages fit together.
"""

from __future__ import annotations

import contextlib
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

import apsw

from checkrein.ledger import Head, Record
from checkrein.ledger.record import Facets, policies
from checkrein.ledger.section import RUN, Section
from checkrein.ledger.tree import HASH_BYTES
from checkrein.ledger.verify import Entry, Snapshot
from checkrein.model import ConfigError, LedgerInvalid, StoreUnavailable
from checkrein.model.json import MAX_INTEGER
from checkrein.ports import RecordQuery, Row
from checkrein.storage import queues, shapes
from checkrein.storage.changes import SqliteChanges
from checkrein.storage.database import check_version, connect, read_frontier, rotated, trouble
from checkrein.storage.files import DataDir
from checkrein.storage.indexes import index_problems
from checkrein.storage.walkers import Runs, walked

_PAGE = 256
_POOLED = 8
_RECORD = "SELECT seq, id, kind, trace_id, ts_us, data FROM record "
_FACETS = ("user", "agent", "action", "outcome", "risk", "approval")
_TEXTS = ("id", "kind", "trace_id", *_FACETS, "evaluation")
_BYTES = ("data", "leaf")
#: every column as bytes and its type, because a damaged row may hold anything
_CAREFUL = ", ".join(f"typeof({name}), CAST({name} AS BLOB)" for name in _TEXTS + _BYTES)
_ENTRY = f"SELECT seq, typeof(ts_us), ts_us, {_CAREFUL} FROM record WHERE "  # noqa: S608
_EVERYTHING = (-(2**63), 2**63 - 1)
_ROW = 'SELECT room, id, version, state, lookup, body FROM "row" '


class SqliteReader:
    """The reading half of `SqliteStore`, and all there is of a store that may be broken."""

    def __init__(self, files: DataDir) -> None:
        self.files = files
        self._pool: list[apsw.Connection] = []
        self._capacity = _POOLED  # 0 once closed
        if not files.database.is_file():
            raise ConfigError(
                f"there is no ledger in `{files.path}`",
                hint="name the data directory with `--data`, or run something first",
            )
        with self._connection() as connection:
            check_version(connection, files.database)

    def row(self, room: str, id: str) -> Row | None:
        with self._connection() as connection:
            found = connection.execute(_ROW + "WHERE room = ? AND id = ?", (room, id)).fetchone()
        return _row(found) if found else None

    def rows(self, room: str, *, state: str = "", lookup: str = "", after: str = "", limit: int = 100) -> list[Row]:
        """Rows by id, ascending, after the id `after`."""
        sql, values = _ROW + "WHERE room = ? AND id > ?", [room, after]
        if lookup:
            sql, values = sql + " AND lookup = ?", [*values, lookup]
        if state:  # the unary plus keeps this test out of the choice of index: `lookup` is far more selective
            sql, values = sql + f" AND {'+' if lookup else ''}state = ?", [*values, state]
        with self._connection() as connection:
            found = connection.execute(f"{sql} ORDER BY id LIMIT ?", (*values, limit)).fetchall()
        return [_row(values) for values in found]

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
        values = (state, after[0], *after, until, limit)
        with self._connection() as connection:
            found = connection.execute(_ROW + queues.select(room, by), values).fetchall()
        return [_row(values) for values in found]

    def records(self, query: RecordQuery) -> Iterator[Record]:
        """Records by sequence number. `since_us` is inclusive, `until_us` exclusive."""
        low, high = self._bounds(query)
        merge = self._merge(query, low, high)
        found = self._walk(query, low, high) if merge is None else self._merged(merge, query.limit)
        return islice(found, query.limit or None)

    def record(self, id: str) -> Record | None:
        """The record with this id."""
        with self._connection() as connection:
            found = connection.execute(_RECORD + "WHERE id = ?", (id,)).fetchone()
        return _record(found) if found else None

    def running(self) -> list[Record]:
        """Starts of executions that have no end yet, oldest first."""
        sql = _RECORD + "JOIN running USING (seq) ORDER BY seq"
        with self._connection() as connection:
            return [_record(found) for found in connection.execute(sql).fetchall()]

    def head(self) -> Head:
        """Size and root of the tree over every durable record."""
        with self._connection() as connection:
            return read_frontier(connection)[0].head

    def changes(self) -> SqliteChanges:
        """See `ports.Store.changes`."""
        return SqliteChanges(self.files)

    def checkpoint(self) -> str:
        """The signed tree head, or an empty string."""
        return self.files.checkpoint()

    def index_problems(self) -> list[str]:
        """What lists would not find, or find wrongly; see `indexes`. Raises `LedgerInvalid` for a damaged file."""
        with self._connection() as connection:
            return index_problems(connection)

    @contextlib.contextmanager
    def snapshot(self) -> Iterator[Snapshot]:
        """One consistent view for a walk through the whole log; writers go on meanwhile.

        Raises `LedgerInvalid` when the file itself cannot be read through.
        """
        # before the records, so that none covers more than they are
        checkpoint, cosigned = self.files.checkpoint(), self.files.cosigned()
        with self._connection() as connection:
            connection.execute("BEGIN")
            try:
                head = read_frontier(connection)[0].head
                with walked(connection, self.files.database, head.size) as spans:
                    yield Snapshot(
                        head=head,
                        entries=self._entries(connection, *_EVERYTHING),
                        checkpoint=checkpoint,
                        trail=self.files.leaves(),
                        earlier=lambda trace_id, seq: self._earlier(connection, trace_id, seq),
                        parts=self._parts(connection, head.size, spans),
                        rotated=rotated(connection),
                        cosigned=cosigned,
                    )
            finally:
                connection.execute("ROLLBACK")

    def close(self) -> None:
        """Let go of the files. A second call does nothing."""
        self._capacity = 0
        while self._pool:
            self._pool.pop().close()

    def _parts(
        self, connection: apsw.Connection, size: int, spans: Iterable[Runs]
    ) -> Iterator[Section | Iterable[Entry]]:
        yield self._entries(connection, _EVERYTHING[0], 0)
        start = 0
        for span in spans:
            for made in span:
                yield made or self._entries(connection, start, min(start + RUN, size))
                start += RUN
        yield self._entries(connection, size, _EVERYTHING[1])

    def _entries(self, connection: apsw.Connection, start: int, end: int) -> Iterator[Entry]:
        try:
            yield from map(_entry, connection.execute(_ENTRY + "seq >= ? AND seq < ? ORDER BY seq", (start, end)))
        except apsw.Error as error:
            raise self._trouble(error) from error

    def _earlier(self, connection: apsw.Connection, trace_id: str, seq: int) -> Iterator[Record]:
        sql = _ENTRY + "trace_id = ? AND seq < ? ORDER BY seq DESC"
        found = map(_entry, connection.execute(sql, (trace_id, seq)))
        return (entry.record for entry in found if not entry.fault)

    def _bounds(self, query: RecordQuery) -> tuple[int, int]:
        """First and last + 1 sequence number the query can meet; times become numbers, as both only rise."""
        with self._connection() as connection:
            top = connection.execute("SELECT max(seq) FROM record").get
            low, high = query.after_seq + 1, 0 if top is None else top + 1
            high = max(low, min(high, query.before_seq or high))

            def time(seq: int) -> int:
                found: int = connection.execute(
                    "SELECT ts_us FROM record WHERE seq >= ? ORDER BY seq LIMIT 1", (seq,)
                ).get
                return found

            if query.since_us:
                low += bisect_left(range(low, high), query.since_us, key=time)
            if query.until_us:
                high = low + bisect_left(range(low, high), query.until_us, key=time)
        return low, high

    def _merge(self, query: RecordQuery, low: int, high: int) -> shapes.Merge | None:
        """What finds the records by their shapes; None if walking through them is better, or the only way."""
        tests = [(name, getattr(query, name)) for name in (*shapes.FACETS, "policy") if getattr(query, name)]
        if query.trace_id or query.approval or not (tests or query.kinds) or high - low <= _PAGE:
            return None
        with self._connection() as connection:
            if connection.pragma("user_version") < shapes.SINCE_VERSION:
                return None
            return shapes.find(connection, tests, query.kinds, low, high, newest_first=query.newest_first)

    def _merged(self, merge: shapes.Merge, limit: int) -> Iterator[Record]:
        size = min(limit or _PAGE, _PAGE)
        while True:
            with self._connection() as connection:
                found = merge.take(connection, size)
            yield from self._numbered(found)
            if len(found) < size:
                return

    def _numbered(self, seqs: Sequence[int]) -> list[Record]:
        """The records with these numbers, in their order."""
        with self._connection() as connection:
            rows = [connection.execute(_RECORD + "WHERE seq = ?", (seq,)).fetchone() for seq in seqs]
        return [_record(row) for row in rows if row]

    def _walk(self, query: RecordQuery, low: int, high: int) -> Iterator[Record]:
        """Every record in order, or every one of a trace or an approval, as far as it passes the tests."""
        tests = [(name, getattr(query, name)) for name in ("approval", "trace_id", *shapes.FACETS)]
        tests = [(name, wanted) for name, wanted in tests if wanted]
        # a unary plus keeps a test out of the choice of index: the first is the most selective
        clauses = ["seq >= ?", "seq < ?", *(f"{'+' * bool(at)}{name} = ?" for at, (name, _) in enumerate(tests))]
        if query.kinds:
            clauses.append(f"kind IN ({', '.join('?' * len(query.kinds))})")
        order = "DESC" if query.newest_first else "ASC"
        sql = f"{_RECORD}WHERE {' AND '.join(clauses)} ORDER BY seq {order} LIMIT {_PAGE}"
        wanted = [*(wanted for _, wanted in tests), *query.kinds]
        while low < high:
            with self._connection() as connection:
                page = [_record(row) for row in connection.execute(sql, (low, high, *wanted)).fetchall()]
            yield from (each for each in page if not query.policy or _names(each, query.policy))
            if len(page) < _PAGE:
                return
            low, high = (low, page[-1].seq) if query.newest_first else (page[-1].seq + 1, high)

    @contextlib.contextmanager
    def _connection(self) -> Iterator[apsw.Connection]:
        """A pooled connection for one thread; errors of SQLite leave it as ours, and drop it."""
        if not self._capacity:
            raise StoreUnavailable("the store is closed", hint="open it again")
        try:
            connection = self._pool.pop() if self._pool else connect(self.files.database, reads_only=True)
        except IndexError:  # another thread took the last one
            connection = connect(self.files.database, reads_only=True)
        except apsw.Error as error:
            raise self._trouble(error) from error
        try:
            yield connection
        except apsw.Error as error:
            connection.close(True)
            raise self._trouble(error) from error
        except UnicodeDecodeError as error:
            connection.close(True)
            raise LedgerInvalid(
                f"the database `{self.files.database}` is damaged: {error.reason}", hint="run `checkrein audit verify`"
            ) from error
        except BaseException:
            connection.close(True)
            raise
        self._pool.append(connection)
        while len(self._pool) > self._capacity:
            self._pool.pop().close()

    def _trouble(self, error: apsw.Error) -> LedgerInvalid | StoreUnavailable:
        meant = trouble(error, self.files.database)
        return meant if isinstance(meant, LedgerInvalid | StoreUnavailable) else StoreUnavailable(str(meant))


def _names(record: Record, policy: str) -> bool:
    """Whether the record names this policy; one that cannot be read names none, and `audit verify` names it."""
    try:
        return policy in policies(record.body)
    except LedgerInvalid:
        return False


def _record(values: tuple[Any, ...]) -> Record:
    seq, id, kind, trace_id, ts_us, data = values
    return Record(seq, id, kind, "" if trace_id is None else trace_id, ts_us, data)


def _entry(values: tuple[Any, ...]) -> Entry:
    """A row of which nothing is believed: what is not of its type is a fault, and counts as empty."""
    seq, types, cells = values[0], values[1::2], values[2::2]
    texts: list[str] = []
    fault = "" if types[0] == "integer" else "`ts_us` is no integer"
    for name, kind, cell in zip(_TEXTS, types[1:], cells[1:], strict=False):
        may_be_empty = name not in ("id", "kind")
        text = None
        if kind == "text":
            with contextlib.suppress(UnicodeDecodeError):
                text = cell.decode("utf-8")
        if text is None and not (kind == "null" and may_be_empty):
            fault = fault or f"`{name}` is no text"
        texts.append(text or "")
    data, leaf = cells[-2:]
    if types[-2:] != ("blob", "blob") or len(leaf) != HASH_BYTES:
        fault = fault or "its bytes or their hash are none"
        data, leaf = b"", bytes(HASH_BYTES)
    ts_us = cells[0] if types[0] == "integer" else 0
    id, kind, trace_id, *found = texts
    return Entry(Record(seq, id, kind, trace_id, ts_us, data), Facets(*found), leaf, fault)


def _row(values: tuple[Any, ...]) -> Row:
    room, id, version, state, lookup, body = values
    return Row(room, id, version, state, lookup, body)

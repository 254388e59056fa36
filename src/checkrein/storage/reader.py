"""Reads the SQLite store on connections of its own, so that no reader waits for the writer.

Connections are kept in a small pool and used by one thread at a time. A long listing is read in pages, each
in its own short transaction; the log only grows, so the pages fit together.
"""

from __future__ import annotations

import contextlib
import heapq
from collections.abc import Iterable, Iterator
from typing import Any

import apsw

from checkrein.ledger import Head, Record
from checkrein.ledger.record import Facets
from checkrein.ledger.section import RUN, Section
from checkrein.ledger.tree import HASH_BYTES
from checkrein.ledger.verify import Entry, Snapshot
from checkrein.model import ConfigError, LedgerInvalid, StoreUnavailable
from checkrein.ports import RecordQuery, Row
from checkrein.storage.database import check_version, connect, read_frontier, rotated, trouble
from checkrein.storage.files import DataDir
from checkrein.storage.indexes import index_problems
from checkrein.storage.walkers import Runs, walked

_PAGE = 256
_POOLED = 8
_COUNTED = 10_000
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

    def records(self, query: RecordQuery) -> Iterator[Record]:
        """Records by sequence number. `since_us` is inclusive, `until_us` exclusive."""
        low, high = self._bounds(query)
        left = query.limit or high
        while left > 0 and low < high:
            page = self._page(query, low, high, min(left, _PAGE))
            yield from page
            if len(page) < min(left, _PAGE):
                return
            left -= len(page)
            if query.newest_first:
                high = page[-1].seq
            else:
                low = page[-1].seq + 1

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
        by_time = "SELECT seq FROM record WHERE ts_us >= ? ORDER BY ts_us, seq LIMIT 1"
        with self._connection() as connection:
            top = connection.execute("SELECT max(seq) FROM record").get
            low, high = query.after_seq + 1, 0 if top is None else top + 1
            if query.since_us and low < high:
                first = connection.execute(by_time, (query.since_us,)).get
                low = high if first is None else max(low, first)
            if query.until_us and low < high:
                end = connection.execute(by_time, (query.until_us,)).get
                high = high if end is None else min(high, end)
        return low, high

    def _page(self, query: RecordQuery, low: int, high: int, limit: int) -> list[Record]:
        """One query for each kind: every one then reads a single index in order and stops at `limit`."""
        where, values = ["seq >= ?", "seq < ?"], [low, high]
        tests: list[tuple[str, str]] = [(name, getattr(query, name)) for name in ("trace_id", *_FACETS)]
        filters = [(name, wanted) for name, wanted in tests if wanted]
        order = "DESC" if query.newest_first else "ASC"
        pages: list[list[Record]] = []
        with self._connection() as connection:
            for kind in query.kinds or ("",):
                test = [*filters, ("kind", kind)] if kind else filters
                lead = _rarest(connection, test)
                # a unary plus keeps a test out of the choice of index
                clauses = " AND ".join([*where, *(f"{'' if name == lead else '+'}{name} = ?" for name, _ in test)])
                sql = f"{_RECORD}WHERE {clauses} ORDER BY seq {order} LIMIT ?"
                found = connection.execute(sql, (*values, *(wanted for _, wanted in test), limit)).fetchall()
                pages.append([_record(row) for row in found])
        merged = heapq.merge(*pages, key=lambda record: record.seq, reverse=query.newest_first)
        return [record for record, _ in zip(merged, range(limit), strict=False)]

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


def _rarest(connection: apsw.Connection, tests: list[tuple[str, str]]) -> str:
    """The test that the fewest records pass, counted in its index, but no further than pays."""
    if len(tests) < 2:
        return tests[0][0] if tests else ""
    sql = "SELECT count(*) FROM (SELECT 1 FROM record WHERE {} = ? LIMIT {})"
    return min(tests, key=lambda test: connection.execute(sql.format(test[0], _COUNTED), (test[1],)).get)[0]


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

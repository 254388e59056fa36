"""One thread writes; what queued while it was writing becomes the next transaction (group commit).

A future resolves after COMMIT returned with synchronous FULL. A unit that conflicts fails alone, in its
savepoint; when the disk refuses, the whole batch fails, nothing of it is written, and before the next the
file is brought back to what was acknowledged. Other processes may write to the same file: the tree is read
again inside every transaction.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator, Set
from pathlib import Path

import apsw

from checkrein.ledger import Record
from checkrein.ledger.record import Prepared, place, prepare
from checkrein.ledger.tree import Frontier, leaf_hash
from checkrein.model import CheckreinError, StoreConflict, StoreUnavailable
from checkrein.pending import Pending
from checkrein.ports import Save, Unit
from checkrein.storage.database import connect, grown, read_frontier, settle, trouble
from checkrein.storage.gather import Gathering
from checkrein.storage.shapes import Shape, Shapes, shape
from checkrein.storage.units import Moved, Stamper, Written, checked, conflict, moved, unrecordable

#: units in one transaction
MAX_BATCH = 1024
#: how often a locked database is tried, and how long this process steps back when another one writes too
_TRY_S = 0.001
#: pages in the WAL (16 MiB) before they are copied into the database file. A page that was written several times is
#: copied once, so a longer WAL costs less a record; copying this one takes about 10 ms.
WAL_PAGES = 4000
#: so often a connection on which the disk refused is asked to settle before another one is
_SETTLE_TRIES = 16

_ENDS = ("execution.finished", "execution.unknown")
_Cell = str | bytes | int | None

_INSERT = "INSERT INTO record VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_INSERT_ROW = 'INSERT INTO "row" VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING'
_UPDATE_ROW = 'UPDATE "row" SET version = ?, state = ?, lookup = ?, body = ? WHERE room = ? AND id = ? AND version = ?'
_BODY = 'SELECT body FROM "row" WHERE room = ? AND id = ?'
_MOVE_ROW = (
    "INSERT INTO \"row\" VALUES (?, ?, 1, '', '', ?) "
    "ON CONFLICT (room, id) DO UPDATE SET version = version + 1, body = excluded.body"
)
_DELETE_ROW = 'DELETE FROM "row" WHERE room = ? AND id = ? AND version = ?'


class _Job:
    """A unit on its way: its bodies are canonical bytes already, so little is left that can fail."""

    __slots__ = ("drafts", "future", "moves", "saves")

    def __init__(self, drafts: tuple[Prepared, ...], unit: Unit, future: Written) -> None:
        self.drafts = drafts
        self.saves = unit.saves
        self.moves = unit.moves
        self.future = future


class _Batch:
    """The rows of one transaction, collected so that each table is written with one statement."""

    def __init__(self, frontier: Frontier, ts_us: int, ids: Iterator[str]) -> None:
        #: the tree before this batch; `size` counts on
        self.frontier = frontier
        self.size = frontier.size
        self.ts_us = ts_us
        self.ids = ids
        self.leaves: list[bytes] = []
        self.rows: list[tuple[_Cell, ...]] = []
        self.last: Record | None = None
        self.shaped: list[tuple[Shape, int]] = []
        #: what moves made of rows, written once for the batch
        self.moved: Moved = {}
        #: the rooms of the rows that changed
        self.rooms: set[str] = set()
        #: executions that start in this batch, and all that end in it
        self.started: dict[str, int] = {}
        self.ended: set[str] = set()
        self.answers: list[tuple[Written, tuple[Record, ...] | CheckreinError]] = []


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


class Writer:
    """`on_commit` hears the number of records after each transaction, and `before_commit`, with the turn to write, the
    rooms whose rows it changes. All methods are thread-safe.
    """

    def __init__(
        self,
        path: Path,
        stamper: Stamper,
        *,
        busy_s: float,
        queue_limit: int,
        on_commit: Callable[[int], None],
        before_commit: Callable[[Set[str]], None] = lambda rooms: None,
    ) -> None:
        self._path = path
        self._stamper = stamper
        self._busy_s = busy_s
        #: a forked child has no writer thread: its writes would wait for ever
        self._pid = os.getpid()
        #: device and inode of the database as this process found it, and of the WAL that its connection writes to
        self._file = _identity(path)
        self._log: tuple[int, int] | None = None
        self._log_path = path.with_name(f"{path.name}-wal")
        self._on_commit = on_commit
        self._before_commit = before_commit
        self._queue: Gathering[_Job] = Gathering("the store", "writes", queue_limit)
        self._connection: apsw.Connection | None = None
        self._size = -1
        self._wal_pages = 0
        self._shapes = Shapes()
        #: the batch whose COMMIT has begun
        self._committing: _Batch | None = None
        #: how often the disk refused since it is not known what is on it
        self._doubts = 0
        #: whether the last transaction went through
        self.healthy = True
        self._thread = threading.Thread(target=self._run, name="checkrein-writer", daemon=True)
        self._thread.start()

    def submit(self, unit: Unit) -> Written:
        """See `ports.Store.commit`."""
        future: Written = Pending()
        try:
            job = _Job(tuple(map(prepare, unit.drafts)), checked(unit), future)
        except ValueError as error:
            future.set_exception(unrecordable(error))
            return future
        if os.getpid() != self._pid:
            hint = "open the store again in the child"
            future.set_exception(StoreUnavailable("the store was opened by the parent of this process", hint=hint))
            return future
        self._queue.put(job)
        return future

    def close(self) -> None:
        """Write what is queued and stop. A second call does nothing."""
        self._queue.close()
        self._thread.join()
        self.healthy = False

    def _run(self) -> None:
        while batch := self._queue.take(MAX_BATCH):
            self._write(batch)
        self._disconnect()

    def _write(self, jobs: list[_Job]) -> None:
        if not self._in_place():
            self._refuse(jobs)
            return
        try:
            batch = self._transact(jobs)
        except Exception as error:  # noqa: BLE001 - whatever it is, the callers must hear that nothing was written
            if (landed := self._doubt(error)) is None:
                for job in jobs:
                    job.future.set_exception(_refusal(error, self._path))
                return
            batch = landed
        if not self._in_place():
            self._refuse(jobs)
            return
        self.healthy = True
        self._on_commit(batch.size)
        for future, answer in batch.answers:
            if isinstance(answer, CheckreinError):
                future.set_exception(answer)
            else:
                future.set_result(answer)
        if self._wal_pages >= WAL_PAGES:
            self._copy_back()
        if self._shared(batch):
            time.sleep(_TRY_S)  # others wait for the lock; without a pause this thread would win it every time

    def _in_place(self) -> bool:
        """Whether the files are those that are open: a write to others succeeds, and nobody ever finds the record."""
        return (self._file is None or _identity(self._path) == self._file) and (
            self._log is None or _identity(self._log_path) == self._log
        )

    def _refuse(self, jobs: list[_Job]) -> None:
        self.healthy = False
        hint = "stop this process, put the store back, and start again"
        for job in jobs:
            job.future.set_exception(StoreUnavailable("the store was moved, deleted or replaced", hint=hint))

    def _grown(self, connection: apsw.Connection, name: str, pages: int) -> int:
        """Called by SQLite after each commit, in the place of its own checkpoint."""
        self._wal_pages = pages
        return apsw.SQLITE_OK

    def _copy_back(self) -> None:
        """Copy the WAL into the database file; not in the COMMIT, as SQLite would, for callers wait for that."""
        self._wal_pages = 0
        try:
            if self._connection is not None:
                self._connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
        except apsw.BusyError:
            return  # another process does it
        except apsw.Error as error:
            self._doubt(error)

    def _shared(self, batch: _Batch) -> bool:
        """Whether another process wrote since the last transaction of this one."""
        before, self._size = self._size, batch.size
        return before not in (-1, batch.frontier.size)

    def _transact(self, jobs: list[_Job]) -> _Batch:
        if self._doubts:
            self._settle()
        connection = self._connect()
        self._begin(connection)
        self._log = self._log or _identity(self._log_path)
        frontier, last_us = read_frontier(connection)
        ts_us = self._stamper.now_us(last_us)
        batch = _Batch(frontier, ts_us, self._stamper.ids(ts_us, sum(len(job.drafts) for job in jobs)))
        for job in jobs:
            batch.answers.append((job.future, self._apply(connection, batch, job)))
        connection.executemany(_INSERT, batch.rows)
        connection.executemany(_MOVE_ROW, [(*place, body) for place, body in batch.moved.items()])
        self._shapes.write(connection, batch.shaped)
        frontier, spine = grown(frontier, batch.leaves)
        connection.executemany("INSERT OR REPLACE INTO spine VALUES (?, ?)", spine)
        connection.executemany("DELETE FROM running WHERE evaluation = ?", [(ended,) for ended in batch.ended])
        connection.executemany("INSERT OR IGNORE INTO running VALUES (?, ?)", batch.started.items())
        connection.execute("UPDATE head SET frontier = ?, ts_us = ? WHERE one = 1", (frontier.to_bytes(), ts_us))
        self._before_commit(batch.rooms)
        self._committing = batch
        connection.execute("COMMIT")
        self._committing = None
        return batch

    def _connect(self) -> apsw.Connection:
        if self._connection is None:
            self._connection = connect(self._path, busy_s=0)
            self._connection.set_wal_hook(self._grown)
        return self._connection

    def _begin(self, connection: apsw.Connection) -> None:
        deadline = time.monotonic() + self._busy_s
        while True:
            try:
                connection.execute("BEGIN IMMEDIATE")
            except apsw.BusyError:
                if time.monotonic() >= deadline:
                    raise
                time.sleep(_TRY_S)
            else:
                return

    def _apply(self, connection: apsw.Connection, batch: _Batch, job: _Job) -> tuple[Record, ...] | CheckreinError:
        """Place one unit. A conflict is an answer, not an error: the rest of the batch goes on."""
        try:
            placed = self._place(batch, job)
            made = self._moved(connection, batch, job) if job.moves else {}
        except ValueError as error:
            return unrecordable(error)
        except CheckreinError as error:
            return error
        if job.saves and (conflict := self._save(connection, job.saves)):
            return conflict
        batch.moved.update(made)
        if job.saves or made:
            batch.rooms.update([save.row.room for save in job.saves], [room for room, _ in made])
        for draft, record in zip(job.drafts, placed, strict=True):
            seq, kind, found, leaf = record.seq, record.kind, draft.found, leaf_hash(record.data)
            batch.leaves.append(leaf)
            batch.rows.append((seq, record.id, kind, record.trace_id or None, record.ts_us, *found, leaf, record.data))
            batch.shaped.append((shape(kind, found, draft.policies), seq))
            if kind == "execution.started":
                if evaluation := draft.evaluation:
                    batch.started.setdefault(evaluation, seq)
            elif kind in _ENDS and (evaluation := draft.evaluation):
                batch.started.pop(evaluation, None)
                batch.ended.add(evaluation)
            batch.last = record
        batch.size += len(placed)
        return placed

    def _moved(self, connection: apsw.Connection, batch: _Batch, job: _Job) -> Moved:
        def body(room: str, id: str) -> bytes | None:
            known = batch.moved.get((room, id))
            return known if known is not None else connection.execute(_BODY, (room, id)).get

        return moved(job.moves, body)

    def _place(self, batch: _Batch, job: _Job) -> tuple[Record, ...]:
        return tuple(
            [
                place(draft, seq=seq, id=next(batch.ids), ts_us=batch.ts_us)
                for seq, draft in enumerate(job.drafts, batch.size)
            ]
        )

    def _save(self, connection: apsw.Connection, saves: tuple[Save, ...]) -> StoreConflict | None:
        connection.execute("SAVEPOINT unit")
        for save in saves:
            row = save.row
            values = (row.version, row.state, row.lookup, row.body)
            if not row.version:
                connection.execute(_DELETE_ROW, (row.room, row.id, save.expect))
            elif save.expect:
                connection.execute(_UPDATE_ROW, (*values, row.room, row.id, save.expect))
            else:
                connection.execute(_INSERT_ROW, (row.room, row.id, *values))
            if connection.changes() != 1:
                connection.execute("ROLLBACK TO unit")
                connection.execute("RELEASE unit")
                return conflict(save)
        connection.execute("RELEASE unit")
        return None

    def _doubt(self, error: Exception) -> _Batch | None:
        """A transaction failed. If it was the disk, what was refused may be there and what was written may not.

        Returns the batch if it is found on the disk all the same, and safe.
        """
        self.healthy = False
        self._shapes.forget()
        batch, self._committing = self._committing, None
        if not isinstance(error, apsw.IOError | apsw.FullError):
            self._disconnect()
        elif not self._doubts:
            self._doubts = 1
            with contextlib.suppress(apsw.Error):  # the next transaction tries again, before anything else
                self._settle()
                if batch and batch.last:
                    found = self._connect().execute("SELECT id FROM record WHERE seq = ?", (batch.last.seq,)).get
                    if found == batch.last.id:
                        return batch
        return None

    def _settle(self) -> None:
        """Bring the disk back to what was acknowledged; raises `apsw.Error` while it cannot.

        The connection that failed knows best where the acknowledged part of the WAL ends: a new one would read
        on, and find the refused units. It is only given up when it fails again and again.
        """
        connection = self._connect()
        try:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            connection.set_busy_timeout(int(self._busy_s * 1000))
            settle(connection)
        except apsw.Error:
            self._doubts += 1
            if self._doubts > _SETTLE_TRIES:
                self._disconnect()
            raise
        self._doubts = 0
        self._disconnect()

    def _disconnect(self) -> None:
        """Drop the connection and with it an open transaction."""
        connection, self._connection, self._log = self._connection, None, None
        if connection is not None:
            with contextlib.suppress(apsw.Error):  # it is being given up; the error that counts was raised before
                connection.close(True)


def _refusal(error: Exception, path: Path) -> CheckreinError:
    meant = trouble(error, path) if isinstance(error, apsw.Error) else error
    if isinstance(meant, StoreUnavailable):
        return meant
    hint = meant.hint if isinstance(meant, CheckreinError) else f"check the disk of `{path}`"
    refusal = StoreUnavailable(f"nothing was written: {str(meant) or type(meant).__name__}", hint=hint)
    refusal.__cause__ = error
    return refusal

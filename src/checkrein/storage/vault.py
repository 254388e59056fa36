"""Payloads in `payload.db`, sealed by one thread: what queued while it was writing becomes the next transaction.

A future resolves after COMMIT returned with synchronous FULL. When the disk refuses, the whole batch fails and
the connection is opened anew. Erasure, holds and sweeps run in the thread of whoever asks, on a connection of
their own, as another process would: the keys are read again wherever one was destroyed.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import apsw

from checkrein.model import CheckreinError, ConfigError, StoreUnavailable
from checkrein.model.retention import Retention
from checkrein.pending import Pending
from checkrein.ports import Payload, SubjectState, Unproved
from checkrein.storage.database import connect, trouble
from checkrein.storage.files import DataDir
from checkrein.storage.gather import Gathering
from checkrein.storage.payloads import Tables, is_made, prepare
from checkrein.storage.scrub import PATIENCE_S, begin, empty_log
from checkrein.storage.sealing import KEY_BYTES, MasterKeys
from checkrein.storage.units import Randomness

#: payloads in one transaction
MAX_BATCH = 1024
#: how long this thread steps back when somebody else writes too
_TRY_S = 0.001
_OPEN_S = 10.0
_PROBE_S = 1.0
#: payloads removed in one transaction, so that sealing goes on meanwhile
_STEP = 256
#: free pages given back to the file system at once
_PAGES = 1024

_Act = Callable[[Tables], None]


class _Job:
    """Something to do in a transaction."""

    __slots__ = ("act", "future")

    def __init__(self, act: _Act) -> None:
        self.act = act
        self.future: Pending[None] = Pending()


class Vault:
    """See `ports.Payloads`. Opening makes what is missing in `files`.

    Raises `ConfigError` when the master key is missing, damaged or another one: nothing could be sealed.
    """

    def __init__(
        self, files: DataDir, *, randomness: Randomness = os.urandom, busy_s: float = 2.0, queue_limit: int = 8192
    ) -> None:
        files.create()
        self._path = files.payloads
        self._randomness = randomness
        self._busy_s = busy_s
        self._keys = _open(files, randomness)
        self._queue: Gathering[_Job] = Gathering("the payload store", "payloads", queue_limit)
        self._connection: apsw.Connection | None = None
        self._tables: Tables | None = None
        self._version = -1
        self._healthy = True
        self._thread = threading.Thread(target=self._run, name="checkrein-vault", daemon=True)
        self._thread.start()

    # --- sealing ------------------------------------------------------------------------------------------------

    def seal(self, payload: Payload) -> Pending[None]:
        """See `ports.Payloads.seal`."""
        return self._submit(lambda tables: tables.seal(payload))

    def discard(self, id: str) -> None:
        """See `ports.Payloads.discard`."""
        self._submit(lambda tables: tables.discard(id))

    def writable(self) -> bool:
        """Whether the last write went through, or a probe does now."""
        if self._healthy:
            return True
        try:
            self._submit(lambda tables: None).result(timeout=_PROBE_S)
        except (CheckreinError, TimeoutError):
            return False
        return True

    def close(self) -> None:
        """Write what is queued and let go of the files. A second call does nothing."""
        self._queue.close()
        self._thread.join()
        self._healthy = False

    def _submit(self, act: _Act) -> Pending[None]:
        job = _Job(act)
        self._queue.put(job)
        return job.future

    def _run(self) -> None:
        while batch := self._queue.take(MAX_BATCH):
            self._write(batch)
        self._disconnect()

    def _write(self, jobs: list[_Job]) -> None:
        try:
            answers = self._transact([job.act for job in jobs])
        except Exception as error:  # noqa: BLE001 - whatever it is, the callers must hear that nothing was sealed
            self._healthy = False
            self._disconnect()
            for job in jobs:
                job.future.set_exception(_refusal(error, self._path))
            return
        self._healthy = True
        for job, answer in zip(jobs, answers, strict=True):
            if answer is None:
                job.future.set_result(None)
            else:
                job.future.set_exception(answer)
        if self._shared():
            time.sleep(_TRY_S)  # others wait for the lock; without a pause this thread would win it every time

    def _transact(self, acts: list[_Act]) -> list[CheckreinError | None]:
        if self._connection is None or self._tables is None:
            self._connection = connect(self._path, busy_s=0)
            self._tables = Tables(self._connection, self._keys, self._randomness)
        answers: list[CheckreinError | None] = []
        begin(self._connection, self._busy_s)
        self._tables.begun()
        for act in acts:
            try:
                act(self._tables)
            except CheckreinError as error:  # the answer to this one; the rest of the batch goes on
                answers.append(error)
            else:
                answers.append(None)
        self._connection.execute("COMMIT")
        return answers

    def _shared(self) -> bool:
        """Whether somebody else wrote since the last transaction of this thread."""
        if self._connection is None:
            return False
        before, self._version = self._version, self._connection.pragma("data_version")
        return before not in (-1, self._version)

    def _disconnect(self) -> None:
        """Drop the connection and with it an open transaction. After a failed sync it must not be used again."""
        connection, self._connection, self._tables, self._version = self._connection, None, None, -1
        if connection is not None:
            with contextlib.suppress(apsw.Error):  # it is being given up; the error that counts was raised before
                connection.close(True)

    # --- reading ------------------------------------------------------------------------------------------------

    def read(self, id: str, subject: str) -> Payload | None:
        """See `ports.Payloads.read`."""
        with self._reading() as tables:
            return tables.read(id, subject)

    def subject(self, ref: str) -> SubjectState:
        """See `ports.Payloads.subject`."""
        with self._reading() as tables:
            return tables.subject(ref)

    def unproved(self, before_us: int, limit: int) -> list[Unproved]:
        """See `ports.Payloads.unproved`."""
        with self._reading() as tables:
            return tables.unproved(before_us, limit)

    # --- holds, erasure, sweeps ---------------------------------------------------------------------------------

    def hold(self, ref: str, held: bool) -> None:
        """See `ports.Payloads.hold`."""
        with self._changing() as connection, _transaction(connection) as begun:
            begun(self._keys, self._randomness).hold(ref, held)

    def erase(self, ref: str, now_us: int) -> tuple[int, int]:
        """See `ports.Payloads.erase`."""
        removed = 0
        with self._changing() as connection:
            with _transaction(connection) as begun:
                keys = begun(self._keys, self._randomness).destroy_keys(ref, now_us)
            while True:
                with _transaction(connection) as begun:
                    count = begun(self._keys, self._randomness).remove_unreadable(ref, _STEP)
                removed += count
                if not count:
                    break
            _give_back(connection)
            empty_log(connection, self._path)
        return keys, removed

    def expire(self, retention: Retention, now_us: int, limit: int) -> int:
        """See `ports.Payloads.expire`."""
        removed = 0
        with self._changing() as connection:
            while removed < limit:
                with _transaction(connection) as begun:
                    step = min(_STEP, limit - removed)
                    count = begun(self._keys, self._randomness).expire(retention, now_us, step)
                removed += count
                if count < step:
                    break
            _give_back(connection)
        return removed

    def prove(self, seen: list[Unproved], orphans: list[Unproved]) -> int:
        """See `ports.Payloads.prove`."""
        with self._changing() as connection, _transaction(connection) as begun:
            return begun(self._keys, self._randomness).prove(seen, orphans)

    @contextlib.contextmanager
    def _reading(self) -> Iterator[Tables]:
        with self._opened(reads_only=True) as connection:
            connection.set_busy_timeout(int(PATIENCE_S * 1000))
            yield Tables(connection, self._keys, self._randomness)

    @contextlib.contextmanager
    def _changing(self) -> Iterator[apsw.Connection]:
        with self._opened(reads_only=False) as connection:
            yield connection

    @contextlib.contextmanager
    def _opened(self, *, reads_only: bool) -> Iterator[apsw.Connection]:
        if self._queue.closing:
            raise StoreUnavailable("the payload store is closed", hint="open it again")
        try:
            connection = connect(self._path, busy_s=0, reads_only=reads_only)
            try:
                yield connection
            finally:
                connection.close(True)
        except apsw.Error as error:
            raise trouble(error, self._path) from error


def _open(files: DataDir, randomness: Randomness) -> MasterKeys:
    """The master keys, and the tables they open. A key is made only together with the tables, never afterwards."""
    try:
        with files.locked("open.lock", wait_s=_OPEN_S) as mine:
            if not mine:
                raise StoreUnavailable(f"another process is opening `{files.path}`", hint="try again")
            fresh = "" if is_made(files.payloads) else MasterKeys.line(randomness(KEY_BYTES))
            text = files.payload_key(fresh)
            try:
                keys = MasterKeys.from_text(text)
            except ConfigError as error:
                raise ConfigError(f"`{files.path / 'payload.key'}`: {error}", hint=error.hint) from error
            prepare(files.payloads, keys, randomness)
            return keys
    except OSError as error:
        raise StoreUnavailable(
            f"the payload store in `{files.path}` cannot be opened: {(error.strerror or '').lower()}",
            hint="check the permissions of the directory and the space on its disk",
        ) from error


@contextlib.contextmanager
def _transaction(connection: apsw.Connection) -> Iterator[Callable[[MasterKeys, Randomness], Tables]]:
    begin(connection, PATIENCE_S)

    def begun(keys: MasterKeys, randomness: Randomness) -> Tables:
        tables = Tables(connection, keys, randomness)
        tables.begun()
        return tables

    try:
        yield begun
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _give_back(connection: apsw.Connection) -> None:
    """Return free pages to the file system, some at a time; a busy database keeps them for later."""
    with contextlib.suppress(apsw.BusyError):
        while connection.pragma("freelist_count"):
            before = connection.pragma("freelist_count")
            for _ in connection.execute(f"PRAGMA incremental_vacuum({_PAGES})"):
                pass
            if connection.pragma("freelist_count") >= before:
                break


def _refusal(error: Exception, path: Path) -> CheckreinError:
    meant = trouble(error, path) if isinstance(error, apsw.Error) else error
    if isinstance(meant, StoreUnavailable):
        return meant
    hint = meant.hint if isinstance(meant, CheckreinError) else f"check the disk of `{path}`"
    refusal = StoreUnavailable(f"no payload was sealed: {str(meant) or type(meant).__name__}", hint=hint)
    refusal.__cause__ = error
    return refusal

"""Keeps the checkpoint: signs the head now and then, and refuses one that does not extend the last.

The signed note and the leaf hashes it covers lie in files beside the database, so that a database that was
rolled back or rewritten no longer fits them. Of several processes on one store, whichever holds the lock
signs.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

import apsw

from checkrein.ledger import Head
from checkrein.ledger import checkpoint as notes
from checkrein.ledger.checkpoint import Signer
from checkrein.ledger.tree import Frontier
from checkrein.model import CheckreinError, LedgerInvalid, StoreUnavailable
from checkrein.storage.database import connect, frontier_at, leaves, read_frontier, trouble
from checkrein.storage.files import DataDir

_LOCK = "checkpoint.lock"
#: how long opening and closing wait for another process that signs
_PATIENCE_S = 5.0
_HINT = "run `checkrein audit verify`; if it is a restored backup, move the old checkpoint away knowingly"


class Keeper:
    """Its own thread signs once `every_records` are unsigned, or `every_s` after the first unsigned one."""

    def __init__(self, files: DataDir, signer: Signer, *, every_s: float, every_records: int) -> None:
        self._files = files
        self._signer = signer
        self._every_s = every_s
        self._every_records = every_records
        self._wake = threading.Condition()
        self._size = self._signed = 0
        self._closing = False
        self._problem = ""
        self._thread = threading.Thread(target=self._run, name="checkrein-keeper", daemon=True)

    def start(self) -> None:
        """Check that the stored head extends the checkpoint, and begin to sign. Raises `LedgerInvalid`.

        The first checkpoint, of the empty log, is written before the first record; one that is missing later
        was taken away.
        """
        with self._files.locked(_LOCK, wait_s=_PATIENCE_S) as mine:
            if not mine:
                raise StoreUnavailable("another process holds the checkpoint", hint="see which process it is")
            self._sign()
        self._size = self._signed
        self._thread.start()

    def advance(self, size: int) -> None:
        """There are now `size` durable records."""
        with self._wake:
            before, self._size = self._size, size
            if before <= self._signed or size - self._signed >= self._every_records:
                self._wake.notify()

    def problems(self) -> tuple[str, ...]:
        """Why there is no fresh checkpoint, if there is none."""
        return (self._problem,) if self._problem else ()

    def close(self) -> None:
        """Sign what is unsigned and stop. A second call does nothing."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        self._thread.join()

    def _run(self) -> None:
        while self._await(lambda: self._size > self._signed):
            if self._await(lambda: self._size - self._signed >= self._every_records, self._every_s):
                signed = self._try(wait_s=0)
                if not signed:
                    self._await(lambda: False, self._every_s)
        self._try(wait_s=_PATIENCE_S)

    def _await(self, due: Callable[[], bool], timeout: float | None = None) -> bool:
        """Wait until it is due, or for the time given; False once the keeper is to stop."""
        with self._wake:
            self._wake.wait_for(lambda: self._closing or due(), timeout)
            return not self._closing

    def _try(self, *, wait_s: float) -> bool:
        """Sign unless another process is just doing so; what goes wrong stands in `problems` until it is mended."""
        try:
            with self._files.locked(_LOCK, wait_s=wait_s) as mine:
                if mine:
                    self._sign()
                    self._problem = ""
                return mine
        except CheckreinError as error:
            self._problem = str(error)
        except OSError as error:
            self._problem = f"the checkpoint cannot be written: {(error.strerror or '').lower()}"
        return False

    def _sign(self) -> None:
        try:
            connection = connect(self._files.database, reads_only=True)
            try:
                self._renew(connection)
            finally:
                connection.close(True)
        except apsw.Error as error:
            raise trouble(error, self._files.database) from error

    def _renew(self, connection: apsw.Connection) -> None:
        text = self._files.checkpoint()  # before the head, which can then only be further on
        connection.execute("BEGIN")
        new = read_frontier(connection)[0].head
        old = notes.verify(text, self._signer.vkey) if text else None
        start = min(old.size if old else 0, self._files.leaves_kept())
        fresh = list(leaves(connection, start, new.size))
        require_extension(connection, old, new, fresh[old.size - start :] if old else [])
        if old != new:
            self._files.write_leaves(start, b"".join(fresh))
            self._files.write_checkpoint(self._signer.sign(new))
        self._signed = new.size


def require_extension(connection: apsw.Connection, old: Head | None, new: Head, fresh: Sequence[bytes]) -> None:
    """Raise `LedgerInvalid` unless `new`, with the stored leaf hashes `fresh` behind it, only appends to `old`.

    The tree at the old size comes from the spine, or from every leaf hash if that does not give the signed
    root.
    """
    if old is None:
        if new.size:
            raise LedgerInvalid(f"the checkpoint of {new.size} records is missing", hint=_HINT)
        return
    if new.size < old.size:
        raise LedgerInvalid(f"the checkpoint covers {old.size} records but {new.size} are stored", hint=_HINT)
    tree = frontier_at(connection, old.size)
    if tree is None or tree.head != old:
        tree = Frontier().extend(leaves(connection, 0, old.size))
    if tree.head != old or tree.extend(fresh).head != new:
        raise LedgerInvalid(f"the {new.size} stored records do not extend the checkpoint of {old.size}", hint=_HINT)

"""Keeps the checkpoint: signs the head now and then, and refuses one that does not extend the last.

The signed note and the leaf hashes it covers lie in files beside the database, so that a database that was
rolled back or rewritten no longer fits them. Of several processes on one store, whichever holds the lock
signs. It reads the keys again each time, so that a new one signs from the next checkpoint on.

A rotation goes through these steps, and a process may die between any two of them:

1. the next key stands in `signer.key`, and signs nothing;
2. the record that names it, signed by both keys, is durable: from now on the rotation has happened;
3. whoever signs next sees the record and makes the key the current one;
4. the first checkpoint that covers the record is signed by both keys;
5. `signer.pub` is the new key;
6. when its overlap is over, the old key is taken out of `signer.key`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import apsw

from checkrein.ledger import Head, rotation
from checkrein.ledger import checkpoint as notes
from checkrein.ledger.rotation import Rotation
from checkrein.ledger.signers import Signers
from checkrein.ledger.tree import Frontier
from checkrein.model import CheckreinError, LedgerInvalid, StoreUnavailable
from checkrein.ports import Clock, Handover
from checkrein.storage.database import connect, frontier_at, leaves, read_frontier, rotated, trouble
from checkrein.storage.files import DataDir, new_signer

_LOCK = "checkpoint.lock"
_ROTATION_LOCK = "rotation.lock"
#: how long opening and closing wait for another process that signs
_PATIENCE_S = 5.0
#: how often a process that has nothing to sign looks whether an old key's time is over
_LOOK_S = 60.0
_HINT = "run `checkrein audit verify`; if it is a restored backup, move the old checkpoint away knowingly"


class Keeper:
    """Its own thread signs once `every_records` are unsigned, or `every_s` after the first unsigned one.

    `origin` names the log when its first key is made.
    """

    def __init__(self, files: DataDir, clock: Clock, *, origin: str, every_s: float, every_records: int) -> None:
        self._files = files
        self._clock = clock
        self._origin = origin
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
        with self._alone():
            self._sign()
        self._size = self._signed
        self._thread.start()

    @contextmanager
    def rotating(self, overlap_us: int, *, keep: bool) -> Iterator[Handover]:
        """Steps 1 to 5 of a rotation; the block does step 2. One process at a time.

        Raises `StoreUnavailable` or `LedgerInvalid` if nothing can be signed now.
        """
        with self._files.locked(_ROTATION_LOCK, wait_s=_PATIENCE_S) as mine:
            if not mine:
                raise StoreUnavailable("another process is rotating the key", hint="try again")
            until_us = self._clock.now_us() + overlap_us
            with self._alone():
                self._sign()  # also ends what an earlier rotation left
                signers = self._files.signers(self._origin)
                fresh = new_signer(signers.current.origin)
                self._files.write_signers(signers.prepared(fresh, until_us, keep=keep))
                head = notes.verify(self._files.checkpoint(), signers.vkeys)
            note = rotation.statement(signers.current, fresh, head)
            yield Handover(signers.current.vkey, fresh.vkey, until_us, note)
            with self._alone():
                self._sign()

    @contextmanager
    def _alone(self) -> Iterator[None]:
        try:
            with self._files.locked(_LOCK, wait_s=_PATIENCE_S) as mine:
                if not mine:
                    raise StoreUnavailable("another process holds the checkpoint", hint="see which process it is")
                yield
        except OSError as error:
            raise StoreUnavailable(_unwritten(error), hint=f"check the disk of `{self._files.path}`") from error

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
        while self._await(lambda: self._size > self._signed, _LOOK_S):
            if self._size == self._signed:
                self._try(wait_s=0)
            elif self._await(lambda: self._size - self._signed >= self._every_records, self._every_s):
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
            self._problem = _unwritten(error)
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
        signers = self._files.signers(self._origin)
        text = self._files.checkpoint()  # before the head, which can then only be further on
        connection.execute("BEGIN")
        new = read_frontier(connection)[0].head
        if signers.next and _is_recorded(connection, signers):
            signers = signers.promoted()
            self._files.write_signers(signers)
        old = notes.verify(text, signers.vkeys) if text else None
        start = min(old.size if old else 0, self._files.leaves_kept())
        fresh = list(leaves(connection, start, new.size))
        require_extension(connection, old, new, fresh[old.size - start :] if old else [])
        if old != new:
            self._files.write_leaves(start, b"".join(fresh))
            self._files.write_checkpoint(signers.sign(new))
        self._signed = new.size
        self._files.publish(signers)
        self._retire(signers)

    def _retire(self, signers: Signers) -> None:
        """Take out the keys whose time is over. The current one has signed by now."""
        gone = signers.over(self._clock.now_us())
        for key in gone:
            if key.keep:
                self._files.keep_signer(key.signer)
        if gone:
            self._files.write_signers(signers.without(gone))


def _unwritten(error: OSError) -> str:
    return f"the checkpoint cannot be written: {(error.strerror or '').lower()}"


def _is_recorded(connection: apsw.Connection, signers: Signers) -> bool:
    """Whether a durable record names the next key as the one after the current."""
    found = rotated(connection)
    if not found or signers.next is None:
        return False
    last = Rotation.read(found[-1])
    return (last.old, last.new) == (signers.current.verifier, signers.next.signer.verifier)


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

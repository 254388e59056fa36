"""Evidence for people who do not trust us: the log as static files, a proof of one record, a proof of growth.

All of it speaks about exactly what the last checkpoint signs. Opening a store signs its head, so a command sees every
record there is; in a running process the newest may wait a second for theirs. Nothing is handed out before it has
been held against the signed root.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Protocol, TypeVar

import msgspec

from checkrein.ledger import Head, Record
from checkrein.ledger import checkpoint as notes
from checkrein.ledger.checkpoint import Checkpoint
from checkrein.ledger.proof import Growth, Proof, consistency_path, inclusion_path
from checkrein.ledger.tiles import Layout
from checkrein.ledger.tree import leaf_hash
from checkrein.model import BadRequest, LedgerInvalid, NotFound
from checkrein.ports import RecordQuery
from checkrein.services.audit import Audit, Trail

_Made = TypeVar("_Made")
_BROKEN = "run `checkrein audit verify` to see where"


class Signed(Protocol):
    """What lies beside the records, signed."""

    def vkey(self) -> str:
        """The public key as one line."""

    def checkpoint(self) -> str:
        """The signed tree head, or an empty string."""

    def leaves(self) -> Iterator[bytes]:
        """The leaf hashes of the records it covers, in order; they may be missing or wrong."""


class Exported(msgspec.Struct, frozen=True):
    """A directory that was written, and what it holds."""

    path: Path
    head: Head
    #: the public key inside it
    key: Path


def export_tlog(store: Trail, data: Signed, target: Path) -> Exported:
    """Write the log as C2SP tiles, entry bundles, checkpoint and public key into the new directory `target`.

    The directory appears complete or not at all. Raises `BadRequest` if there is something in `target` or it cannot
    be written, `LedgerInvalid` if the stored records are not those that were signed.
    """
    note, vkey = data.checkpoint(), data.vkey()
    head = _head(note, vkey)
    key = key_file(Checkpoint.parse(note).origin)
    target = target.absolute()
    try:
        _require_fresh(target)
        target.parent.mkdir(parents=True, exist_ok=True)
        draft = target.with_name(f".{target.name}.{secrets.token_hex(8)}")
        draft.mkdir()
        try:
            layout = Layout()
            for file in layout.files(_data(store, head.size)):
                _write(draft / file.path, file.data)
            if layout.head != head:
                raise LedgerInvalid(f"the {head.size} stored records are not those that were signed", hint=_BROKEN)
            _write(draft / key, f"{vkey}\n".encode())
            _write(draft / "checkpoint", note.encode())
            os.sync()  # thousands of small files: one call for all of them
            draft.rename(target)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    except OSError as error:
        raise BadRequest(
            f"`{target}` cannot be written: {(error.strerror or type(error).__name__).lower()}",
            hint="name another directory with `--output`",
        ) from error
    return Exported(target, head, target / key)


def key_file(origin: str) -> str:
    """The name of the public key of this log in an export."""
    return re.sub(r"[^A-Za-z0-9._-]", "-", origin)[:200] + ".pub"


def prove(store: Trail, data: Signed, record: str | int) -> tuple[Record, Proof]:
    """The record with this number or id, and the proof that it stands in the signed log.

    Raises `NotFound` if there is no such record or no checkpoint covers it yet.
    """
    found = Audit(store).show(record)
    note, vkey = data.checkpoint(), data.vkey()
    head = _head(note, vkey)
    if found.seq >= head.size:
        raise NotFound(f"record {found.seq} is not covered by a checkpoint yet", hint="try again in a moment")

    def made(leaves: Iterable[bytes]) -> Proof:
        proof = Proof(found.seq, inclusion_path(leaves, found.seq, head.size), note)
        proof.verify(vkey, found.data)
        return proof

    return found, _from_leaves(store, data, head.size, made)


def growth(store: Trail, data: Signed, old: str, new: str = "") -> Growth:
    """The proof that of these two checkpoints, in either order, one extends the other.

    Without `new` it is the checkpoint of this store. Raises `LedgerInvalid` if either is not of this log and signed
    by its key, if the store does not reach so far, or if one does not extend the other.
    """
    vkey = data.vkey()
    old, new = sorted((old, new or data.checkpoint()), key=lambda note: _head(note, vkey).size)
    before, after = _head(old, vkey), _head(new, vkey)

    def made(leaves: Iterable[bytes]) -> Growth:
        found = Growth(before.size, consistency_path(leaves, before.size, after.size), new)
        found.verify(vkey, old)
        return found

    return _from_leaves(store, data, after.size, made)


def _from_leaves(store: Trail, data: Signed, size: int, make: Callable[[Iterable[bytes]], _Made]) -> _Made:
    """Made from the leaf hashes kept apart, or, if that does not verify, from the records."""
    try:
        return make(data.leaves())
    except (ValueError, LedgerInvalid):
        leaves = map(leaf_hash, _data(store, size))
    try:
        return make(leaves)
    except ValueError as error:
        raise LedgerInvalid(f"there are fewer than {size} records in the store: {error}", hint=_BROKEN) from error


def _head(note: str, vkey: str) -> Head:
    if not note or not vkey:
        raise LedgerInvalid("this ledger has no signed checkpoint", hint=_BROKEN)
    return notes.verify(note, vkey)


def _data(store: Trail, size: int) -> Iterator[bytes]:
    return (record.data for record in islice(store.records(RecordQuery()), size))


def _require_fresh(target: Path) -> None:
    if target.is_symlink() or (target.exists() and not target.is_dir()) or (target.is_dir() and any(target.iterdir())):
        raise BadRequest(f"there is something in `{target}` already", hint="name a new directory with `--output`")


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)

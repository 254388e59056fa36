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
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Protocol, TypeVar

import msgspec

from checkrein.ledger import Head, Record
from checkrein.ledger.checkpoint import COSIGNATURE, Checkpoint, Cosigned, VerifierKey
from checkrein.ledger.proof import Chain, Growth, Link, Proof, consistency_path, inclusion_path
from checkrein.ledger.rotation import KIND, Keys
from checkrein.ledger.tiles import Layout
from checkrein.ledger.tree import Frontier, leaf_hash, verify_consistency
from checkrein.model import BadRequest, LedgerInvalid, NotFound
from checkrein.ports import RecordQuery
from checkrein.services.audit import Audit, Trail

_Made = TypeVar("_Made")
_UNSIGNED = "this ledger has no signed checkpoint"
_BROKEN = "run `checkrein audit verify` to see where"


class Signed(Protocol):
    """What lies beside the records, signed."""

    def vkey(self) -> str:
        """The public key as one line."""

    def checkpoint(self) -> str:
        """The signed tree head, or an empty string."""

    def cosigned(self) -> Sequence[Cosigned]:
        """The checkpoints that witnesses cosigned last."""

    def leaves(self) -> Iterator[bytes]:
        """The leaf hashes of the records it covers, in order; they may be missing or wrong."""


class Exported(msgspec.Struct, frozen=True):
    """A directory that was written, and what it holds."""

    path: Path
    head: Head
    #: the public key inside it
    key: Path


def export_tlog(
    store: Trail, data: Signed, target: Path, *, told: Callable[[int, int], None] = lambda done, size: None
) -> Exported:
    """Write the log as C2SP tiles, entry bundles, checkpoint and public keys into the new directory `target`.

    It holds what the checkpoint of this moment signs, whatever is written meanwhile; `told` hears now and then how
    many records of how many are done. The directory appears complete or not at all. Raises `BadRequest` if there is
    something in `target` or it cannot be written, `LedgerInvalid` if the stored records are not those that were signed.
    """
    note, keys = data.checkpoint(), _keys(store, data)
    head = _head(note, keys)
    beside = {name: f"{key}\n" for name, key in _published(keys, head.size).items()} | _witnessed(store, data, head)
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
                told(layout.size, head.size)
            if layout.head != head:
                raise LedgerInvalid(f"the {head.size} stored records are not those that were signed", hint=_BROKEN)
            for name, text in beside.items():
                _write(draft / name, text.encode())
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
    return Exported(target, head, target / next(iter(beside)))


def key_file(origin: str, id: str = "") -> str:
    """The name of the public key of this log in an export, of an earlier one with its key id."""
    return re.sub(r"[^A-Za-z0-9._-]", "-", origin)[:200] + (f".{id}" if id else "") + ".pub"


def _published(keys: Keys, size: int) -> dict[str, VerifierKey]:
    """The keys of a log of this size by the name of their file, the current one first."""
    current = keys.current(size) or keys.known[0]
    earlier = [rotation.old for rotation in keys.rotations if rotation.seq < size]
    files = {key_file(current.origin): current}
    return files | {key_file(key.origin, key.id.hex()): key for key in earlier}


def _witnessed(store: Trail, data: Signed, head: Head) -> dict[str, str]:
    """What witnesses cosigned of this log, by the name of its file. Raises `LedgerInvalid` if it was another."""
    files: dict[str, str] = {}
    for kept in data.cosigned():
        if Checkpoint.parse(kept.note).head.size > head.size:
            continue  # it came while the checkpoint was read
        growth(store, data, kept.note)
        name = f"witness/{VerifierKey.parse(kept.vkey, COSIGNATURE).id.hex()}"
        files |= {f"{name}.pub": f"{kept.vkey}\n", f"{name}.checkpoint": kept.note}
    return files


def prove(store: Trail, data: Signed, record: str | int) -> tuple[Record, Proof]:
    """The record with this number or id, and the proof that it stands in the signed log.

    Raises `NotFound` if there is no such record or no checkpoint covers it yet.
    """
    found = Audit(store).show(record)
    note, keys = data.checkpoint(), _keys(store, data)
    head = _head(note, keys)
    if found.seq >= head.size:
        raise NotFound(f"record {found.seq} is not covered by a checkpoint yet", hint="try again in a moment")
    covered = [record for record in _rotated(store) if record.seq < head.size]

    def made(leaves: Callable[[], Iterable[bytes]]) -> Proof:
        def path(seq: int) -> tuple[bytes, ...]:
            return inclusion_path(leaves(), seq, head.size)

        chain = Chain(tuple(Link(record.data.decode(), path(record.seq)) for record in covered))
        proof = Proof(found.seq, path(found.seq), note, bytes(chain))
        proof.verify(_vkeys(keys), found.data)
        return proof

    return found, _from_leaves(store, data, head.size, made)


def growth(store: Trail, data: Signed, old: str, new: str = "") -> Growth:
    """The proof that of these two checkpoints, in either order, one extends the other.

    Without `new` it is the checkpoint of this store. Raises `LedgerInvalid` if either is not of this log and signed
    by its key, if the store does not reach so far, or if one does not extend the other.
    """
    keys = _keys(store, data)
    old, new = sorted((old, new or data.checkpoint()), key=lambda note: _head(note, keys).size)
    before, after = _head(old, keys), _head(new, keys)

    def made(leaves: Callable[[], Iterable[bytes]]) -> Growth:
        found = Growth(before.size, consistency_path(leaves(), before.size, after.size), new)
        found.verify(keys, old)
        return found

    return _from_leaves(store, data, after.size, made)


def extension(store: Trail, data: Signed, old_size: int, note: str) -> Growth:
    """The proof that the log this checkpoint signs extends its own first `old_size` records, whoever has seen those."""
    head = Checkpoint.parse(note).head

    def made(leaves: Callable[[], Iterable[bytes]]) -> Growth:
        old = Frontier().extend(islice(leaves(), old_size)).head
        path = consistency_path(leaves(), old_size, head.size)
        verify_consistency(old, head, path)
        return Growth(old_size, path, note)

    return _from_leaves(store, data, head.size, made)


def _from_leaves(
    store: Trail, data: Signed, size: int, make: Callable[[Callable[[], Iterable[bytes]]], _Made]
) -> _Made:
    """Made from the leaf hashes kept apart, or, if that does not verify, from the records."""
    with suppress(ValueError, LedgerInvalid):
        return make(data.leaves)
    try:
        return make(lambda: map(leaf_hash, _data(store, size)))
    except ValueError as error:
        raise LedgerInvalid(f"there are fewer than {size} records in the store: {error}", hint=_BROKEN) from error


def _rotated(store: Trail) -> Iterator[Record]:
    return store.records(RecordQuery(kinds=(KIND,)))


def _keys(store: Trail, data: Signed) -> Keys:
    vkey = data.vkey()
    if not vkey:
        raise LedgerInvalid(_UNSIGNED, hint=_BROKEN)
    return Keys.of(vkey, (record.data for record in _rotated(store)))


def _vkeys(keys: Keys) -> str:
    return "\n".join(map(str, keys.known))


def _head(note: str, keys: Keys) -> Head:
    if not note:
        raise LedgerInvalid(_UNSIGNED, hint=_BROKEN)
    return keys.verify(note)


def _data(store: Trail, size: int) -> Iterator[bytes]:
    return (record.data for record in islice(store.records(RecordQuery()), size))


def _require_fresh(target: Path) -> None:
    if target.is_symlink() or (target.exists() and not target.is_dir()) or (target.is_dir() and any(target.iterdir())):
        raise BadRequest(f"there is something in `{target}` already", hint="name a new directory with `--output`")


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)

"""Evidence that travels alone: one record stands in the log, and the log only grew.

A `Proof` is a C2SP tlog-proof; with the record's bytes and the public key it needs nothing else:

    c2sp.org/tlog-proof@v1
    extra YWJj                       only if there is extra data
    index 73894
    gSKyXoYZUgZ6jduWYrkDOARinOM=     the sibling hashes from the leaf up, one a line
                                     (empty line)
    checkrein.example/prod           the signed checkpoint, as it is

Where the log's key was rotated, the extra data are the records of that with their own proofs, so that the proof also
convinces somebody who holds an earlier public key. In one line of JSON, the paths in base64:

    {"rotations":[{"path":["gSKy..."],"record":"{\"body\":..."}]}

A `Growth` shows that one checkpoint extends another. Its text is what C2SP tlog-witness asks of a log that wants a
new checkpoint cosigned: `old SIZE`, the hashes of the consistency proof, an empty line, the new checkpoint.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable
from itertools import islice

import msgspec

from checkrein.ledger.checkpoint import Checkpoint
from checkrein.ledger.rotation import Keys
from checkrein.ledger.tree import HASH_BYTES, Frontier, Head, leaf_hash, verify_consistency, verify_inclusion
from checkrein.model import LedgerInvalid

HEADER = "c2sp.org/tlog-proof@v1"
#: no path in a tree of at most 2**63 records is longer
_MAX_PATH = 63
#: half open, in records
Range = tuple[int, int]


class Link(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A record that rotates the log's key, and the sibling hashes from its leaf up to the root of the proof."""

    record: str
    path: tuple[bytes, ...]


class Chain(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The rotations of the log's key, in order."""

    rotations: tuple[Link, ...] = ()

    def __bytes__(self) -> bytes:
        """The extra data of a proof; nothing for a key that was never rotated."""
        return msgspec.json.encode(self, order="sorted") if self.rotations else b""

    @classmethod
    def parse(cls, extra: bytes) -> Chain:
        """What extra data hold; those of another kind hold no rotations."""
        try:
            return _chain_decoder.decode(extra)
        except ValueError:
            return cls()

    def keys(self, vkeys: str, head: Head) -> Keys:
        """The known keys with the rotations; raises `LedgerInvalid` unless every one stands under `head`."""
        keys = Keys.of(vkeys, (link.record.encode() for link in self.rotations))
        for rotation, link in zip(keys.rotations, self.rotations, strict=True):
            verify_inclusion(head, rotation.seq, leaf_hash(link.record.encode()), link.path)
        return keys


class Proof(msgspec.Struct, frozen=True):
    """Record `index` stands under the tree that `checkpoint` signs. `extra` is vouched for by nobody."""

    index: int
    path: tuple[bytes, ...]
    checkpoint: str
    extra: bytes = b""

    def __str__(self) -> str:
        extra = [f"extra {_to_base64(self.extra)}"] if self.extra else []
        return "\n".join([HEADER, *extra, f"index {self.index}", *map(_to_base64, self.path), "", self.checkpoint])

    @classmethod
    def parse(cls, text: str) -> Proof:
        """Read the text; raises `LedgerInvalid` if it is malformed. Nothing in it is believed before `verify`."""
        lines, checkpoint = _halves(text)
        if lines[0] != HEADER:
            raise _malformed(f"it does not begin with `{HEADER}`")
        del lines[0]
        extra = b""
        if lines and lines[0].startswith("extra "):
            extra = _from_base64(lines.pop(0).removeprefix("extra "))
        if not lines:
            raise _malformed("its `index` line is missing")
        return cls(_number(lines[0], "index"), _path(lines[1:]), checkpoint, extra)

    def verify(self, vkey: str, data: bytes) -> Head:
        """The signed head that holds a record of exactly these bytes; raises `LedgerInvalid` if that is not shown.

        `vkey` are the known keys, one a line: the current one, or one from which the rotations lead there.
        """
        claimed = Checkpoint.parse(self.checkpoint).head
        head = Chain.parse(self.extra).keys(vkey, claimed).verify(self.checkpoint)
        verify_inclusion(head, self.index, leaf_hash(data), self.path)
        return head


class Growth(msgspec.Struct, frozen=True):
    """The log that `checkpoint` signs begins with the `old_size` records of an older checkpoint."""

    old_size: int
    path: tuple[bytes, ...]
    checkpoint: str

    def __str__(self) -> str:
        return "\n".join([f"old {self.old_size}", *map(_to_base64, self.path), "", self.checkpoint])

    @classmethod
    def parse(cls, text: str) -> Growth:
        """Read the text; raises `LedgerInvalid` if it is malformed."""
        lines, checkpoint = _halves(text)
        return cls(_number(lines[0], "old"), _path(lines[1:]), checkpoint)

    def verify(self, keys: Keys, old: str) -> tuple[Head, Head]:
        """Both heads; raises `LedgerInvalid` unless the older checkpoint `old` is a beginning of this one."""
        before, after = keys.verify(old), keys.verify(self.checkpoint)
        if before.size != self.old_size:
            raise LedgerInvalid(
                f"the proof starts at {self.old_size} records, the older checkpoint has {before.size}",
                hint="ask for the proof between these two checkpoints",
            )
        verify_consistency(before, after, self.path)
        return before, after


_chain_decoder = msgspec.json.Decoder(Chain)


def inclusion_path(leaves: Iterable[bytes], index: int, size: int) -> tuple[bytes, ...]:
    """PATH(index, first `size` leaves) of RFC 9162, 2.1.3.1, in one pass over the leaf hashes."""
    if not 0 <= index < size:
        raise ValueError(f"there is no leaf {index} among {size}")
    return _roots(_siblings(index, 0, size), leaves)


def consistency_path(leaves: Iterable[bytes], old: int, size: int) -> tuple[bytes, ...]:
    """PROOF(old, first `size` leaves) of RFC 9162, 2.1.4.1, in one pass over the leaf hashes."""
    if not 0 <= old <= size:
        raise ValueError(f"a tree of {size} leaves has no prefix of {old}")
    return _roots(_prefix(old, 0, size, whole=True) if old else [], leaves)


def _siblings(index: int, start: int, end: int) -> list[Range]:
    if end - start == 1:
        return []
    cut = start + _cut(end - start)
    if index < cut:
        return [*_siblings(index, start, cut), (cut, end)]
    return [*_siblings(index, cut, end), (start, cut)]


def _prefix(old: int, start: int, end: int, *, whole: bool) -> list[Range]:
    if old == end:
        return [] if whole else [(start, end)]
    cut = start + _cut(end - start)
    if old <= cut:
        return [*_prefix(old, start, cut, whole=whole), (cut, end)]
    return [*_prefix(old, cut, end, whole=False), (start, cut)]


def _cut(size: int) -> int:
    """The largest power of two below `size`."""
    return 1 << (size - 1).bit_length() - 1


def _roots(ranges: list[Range], leaves: Iterable[bytes]) -> tuple[bytes, ...]:
    """The roots over these disjoint ranges; raises `ValueError` if the leaves do not reach so far."""
    found: dict[Range, bytes] = {}
    remaining, at = iter(leaves), 0
    for start, end in sorted(ranges):
        subtree = Frontier().extend(islice(remaining, start - at, end - at))
        if subtree.size != end - start:
            raise ValueError(f"there are fewer than {end} leaf hashes")
        found[start, end] = subtree.root
        at = end
    return tuple(found[wanted] for wanted in ranges)


def _halves(text: str) -> tuple[list[str], str]:
    """The lines above the first empty line, and the checkpoint below it."""
    above, separator, checkpoint = text.partition("\n\n")
    if not separator or "\r" in above:
        raise _malformed("it holds no checkpoint")
    return above.split("\n"), checkpoint


def _number(line: str, word: str) -> int:
    name, _, digits = line.partition(" ")
    if name != word or not (digits.isascii() and digits.isdecimal()) or len(digits) > 20 or digits != str(int(digits)):
        raise _malformed(f"its `{word}` line is not a number")
    return int(digits)


def _path(lines: list[str]) -> tuple[bytes, ...]:
    path = tuple(_from_base64(line) for line in lines)
    if len(path) > _MAX_PATH or any(len(node) != HASH_BYTES for node in path):
        raise _malformed("a line of it is not a hash")
    return path


def _to_base64(raw: bytes) -> str:
    return base64.b64encode(raw).decode("ascii")


def _from_base64(text: str) -> bytes:
    """Strict standard base64: one text for each value, nothing else."""
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raw = b""
    if _to_base64(raw) != text:
        raise _malformed("a line of it is not base64")
    return raw


def _malformed(what: str) -> LedgerInvalid:
    return LedgerInvalid(f"the proof is malformed: {what}", hint="ask for it again")

"""The RFC 6962 / RFC 9162 Merkle tree with SHA-256, over the exact bytes that are stored.

`Frontier` is what an appender needs to remember: the roots of the perfect subtrees from left to right, at
most 64 hashes however long the log. Proofs are made from leaf hashes and checked without them (RFC 9162,
section 2.1). Every hash is 32 bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

import msgspec

from checkrein.model import LedgerInvalid

HASH_BYTES = 32
EMPTY_ROOT = hashlib.sha256(b"").digest()
_SIZE_BYTES = 8


def leaf_hash(data: bytes) -> bytes:
    """SHA-256(0x00 || data)."""
    return hashlib.sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """SHA-256(0x01 || left || right)."""
    return hashlib.sha256(b"\x01" + left + right).digest()


class Head(msgspec.Struct, frozen=True):
    """Number of records and the root hash (32 bytes) over them."""

    size: int
    root: bytes


class Frontier(msgspec.Struct, frozen=True):
    """A tree of `size` leaves as the roots of its perfect subtrees, largest first; one for each 1 bit in `size`."""

    size: int = 0
    nodes: tuple[bytes, ...] = ()

    def append(self, leaf: bytes) -> Frontier:
        """The tree with one more leaf hash."""
        size, keep = self.size, len(self.nodes)
        while size & 1:
            keep -= 1
            leaf = node_hash(self.nodes[keep], leaf)
            size >>= 1
        return Frontier(self.size + 1, (*self.nodes[:keep], leaf))

    def extend(self, leaves: Iterable[bytes]) -> Frontier:
        """The tree with these leaf hashes appended in order."""
        size, nodes, sha256 = self.size, list(self.nodes), hashlib.sha256
        for leaf in leaves:
            node, rest = leaf, size
            while rest & 1:
                node = sha256(b"\x01" + nodes.pop() + node).digest()  # `node_hash`, of which every record needs one
                rest >>= 1
            nodes.append(node)
            size += 1
        return Frontier(size, tuple(nodes))

    def join(self, other: Frontier) -> Frontier:
        """The tree with the leaves of `other` behind its own.

        Raises `ValueError` unless this size is a multiple of the largest perfect subtree of `other`: else the
        inner nodes of one tree are none of the other.
        """
        span = 1 << other.size.bit_length() >> 1
        if span and self.size % span:
            raise ValueError(f"a tree of {other.size} leaves does not fit behind {self.size}")
        size, nodes = self.size, list(self.nodes)
        for node in other.nodes:
            span = 1 << (self.size + other.size - size).bit_length() - 1
            rest = size // span
            while rest & 1:
                node = node_hash(nodes.pop(), node)
                rest >>= 1
            nodes.append(node)
            size += span
        return Frontier(size, tuple(nodes))

    @property
    def root(self) -> bytes:
        if not self.nodes:
            return EMPTY_ROOT
        root = self.nodes[-1]
        for node in reversed(self.nodes[:-1]):
            root = node_hash(node, root)
        return root

    @property
    def head(self) -> Head:
        return Head(self.size, self.root)

    def to_bytes(self) -> bytes:
        """The size (8 bytes, big-endian), then the nodes."""
        return self.size.to_bytes(_SIZE_BYTES, "big") + b"".join(self.nodes)

    @classmethod
    def from_bytes(cls, data: bytes) -> Frontier:
        """Read `to_bytes`; raises `LedgerInvalid` if the number of nodes does not belong to the size."""
        size = int.from_bytes(data[:_SIZE_BYTES], "big")
        if len(data) != _SIZE_BYTES + HASH_BYTES * size.bit_count():
            raise LedgerInvalid("the stored tree frontier is damaged", hint="run `checkrein audit verify`")
        starts = range(_SIZE_BYTES, len(data), HASH_BYTES)
        return cls(size, tuple(data[at : at + HASH_BYTES] for at in starts))


def root_of(leaves: Iterable[bytes]) -> bytes:
    """The root over these leaf hashes."""
    return Frontier().extend(leaves).root


def inclusion_proof(leaves: Sequence[bytes], index: int) -> tuple[bytes, ...]:
    """PATH(index, leaves) of RFC 9162, 2.1.3.1: the sibling hashes from the leaf up to the root."""
    if not 0 <= index < len(leaves):
        raise ValueError(f"there is no leaf {index} among {len(leaves)}")
    if len(leaves) == 1:
        return ()
    cut = _cut(len(leaves))
    if index < cut:
        return (*inclusion_proof(leaves[:cut], index), root_of(leaves[cut:]))
    return (*inclusion_proof(leaves[cut:], index - cut), root_of(leaves[:cut]))


def verify_inclusion(head: Head, index: int, leaf: bytes, proof: Sequence[bytes]) -> None:
    """RFC 9162, 2.1.3.2: raises `LedgerInvalid` unless `leaf` stands at `index` under `head`."""
    bad = LedgerInvalid(f"the proof does not show record {index} under the tree of {head.size} records")
    if not 0 <= index < head.size:
        raise bad
    place, last, root = index, head.size - 1, leaf
    for sibling in proof:
        if last == 0:
            raise bad
        if place & 1 or place == last:
            root = node_hash(sibling, root)
            while not place & 1 and place:
                place, last = place >> 1, last >> 1
        else:
            root = node_hash(root, sibling)
        place, last = place >> 1, last >> 1
    if last != 0 or root != head.root:
        raise bad


def consistency_proof(leaves: Sequence[bytes], size: int) -> tuple[bytes, ...]:
    """PROOF(size, leaves) of RFC 9162, 2.1.4.1: shows that the first `size` leaves are a prefix of all."""
    if not 0 <= size <= len(leaves):
        raise ValueError(f"a tree of {len(leaves)} leaves has no prefix of {size}")
    return _subproof(size, leaves, whole=True) if size else ()


def _subproof(size: int, leaves: Sequence[bytes], *, whole: bool) -> tuple[bytes, ...]:
    if size == len(leaves):
        return () if whole else (root_of(leaves),)
    cut = _cut(len(leaves))
    if size <= cut:
        return (*_subproof(size, leaves[:cut], whole=whole), root_of(leaves[cut:]))
    return (*_subproof(size - cut, leaves[cut:], whole=False), root_of(leaves[:cut]))


def verify_consistency(old: Head, new: Head, proof: Sequence[bytes]) -> None:
    """RFC 9162, 2.1.4.2: raises `LedgerInvalid` unless `new` only appends to `old`."""
    bad = LedgerInvalid(f"the tree of {new.size} records does not extend the one of {old.size}")
    if not 0 <= old.size <= new.size:
        raise bad
    if old.size in (0, new.size):
        same = old.root == (new.root if old.size else EMPTY_ROOT)
        if proof or not same or (new.size == 0 and new.root != EMPTY_ROOT):
            raise bad
        return
    path = list(proof)
    if old.size & (old.size - 1) == 0:  # a perfect tree is its own first node
        path.insert(0, old.root)
    if not path:
        raise bad
    place, last = old.size - 1, new.size - 1
    while place & 1:
        place, last = place >> 1, last >> 1
    old_root = new_root = path[0]
    for sibling in path[1:]:
        if last == 0:
            raise bad
        if place & 1 or place == last:
            old_root, new_root = node_hash(sibling, old_root), node_hash(sibling, new_root)
            while not place & 1 and place:
                place, last = place >> 1, last >> 1
        else:
            new_root = node_hash(new_root, sibling)
        place, last = place >> 1, last >> 1
    if last != 0 or old_root != old.root or new_root != new.root:
        raise bad


def _cut(size: int) -> int:
    """The largest power of two below `size`."""
    return 1 << (size - 1).bit_length() - 1

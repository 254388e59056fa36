"""A log as static files: C2SP tlog-tiles. Records in, paths and bytes out; whoever asked writes or serves them.

    tile/0/000             256 leaf hashes, 8,192 bytes     tile/entries/000         the records under them
    tile/1/000.p/3         3 roots of full tiles below      tile/entries/003.p/17    17 records

A tile at level L and index N holds the hashes of 256 subtrees of 256**L records each. Only the last tile of a level
is partial; its width stands in its path. An index is written in groups of three digits, all but the last with an
`x`: 1234067 is `x001/x234/067`. An entry bundle is each record behind its length (16 bits, big-endian).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain, islice

import msgspec

from checkrein.ledger.record import MAX_BYTES
from checkrein.ledger.tree import Frontier, Head, leaf_hash, root_of

#: hashes in a full tile, records in a full bundle
WIDTH = 256
_LENGTH_BYTES = 2


class StaticFile(msgspec.Struct, frozen=True):
    """A tile or an entry bundle: its path below the log's prefix, with `/` between the parts, and its bytes."""

    path: str
    data: bytes


def tile_path(level: int, index: int, width: int = WIDTH) -> str:
    """Path of the hash tile `index` at `level`."""
    return f"tile/{level}/{_place(index, width)}"


def entries_path(index: int, width: int = WIDTH) -> str:
    """Path of the entry bundle `index`."""
    return f"tile/entries/{_place(index, width)}"


def bundle(records: Iterable[bytes]) -> bytes:
    """The bytes of an entry bundle; raises `ValueError` for a record too long for its length field."""
    parts: list[bytes] = []
    for data in records:
        if len(data) > MAX_BYTES:
            raise ValueError(f"a record of {len(data)} bytes is longer than {MAX_BYTES}")
        parts.append(len(data).to_bytes(_LENGTH_BYTES, "big"))
        parts.append(data)
    return b"".join(parts)


class Layout:
    """Makes the files of one log in one pass; remembers at most 255 hashes a level and one bundle of records."""

    def __init__(self) -> None:
        self._size = 0
        self._levels: list[list[bytes]] = []
        #: how many tiles of each level are full
        self._full: list[int] = []

    def files(self, records: Iterable[bytes]) -> Iterator[StaticFile]:
        """Every tile and bundle of the log that holds these records, each as soon as it is complete."""
        remaining = iter(records)
        while block := list(islice(remaining, WIDTH)):
            index = self._size // WIDTH
            self._size += len(block)
            yield StaticFile(entries_path(index, len(block)), bundle(block))
            yield from self._push(0, [leaf_hash(data) for data in block])
        for level, hashes in enumerate(self._levels):
            if hashes:
                yield StaticFile(tile_path(level, self._full[level], len(hashes)), b"".join(hashes))

    @property
    def size(self) -> int:
        """How many records there were so far."""
        return self._size

    @property
    def head(self) -> Head:
        """Size and root of the tree over every record so far."""
        nodes = chain.from_iterable(Frontier().extend(hashes).nodes for hashes in reversed(self._levels))
        return Frontier(self._size, tuple(nodes)).head

    def _push(self, level: int, hashes: list[bytes]) -> Iterator[StaticFile]:
        if level == len(self._levels):
            self._levels.append([])
            self._full.append(0)
        pending = self._levels[level]
        pending.extend(hashes)
        if len(pending) < WIDTH:
            return
        yield StaticFile(tile_path(level, self._full[level]), b"".join(pending))
        self._full[level] += 1
        self._levels[level] = []
        yield from self._push(level + 1, [root_of(pending)])


def _place(index: int, width: int) -> str:
    groups = [f"{index % 1000:03d}"]
    while index >= 1000:
        index //= 1000
        groups.insert(0, f"x{index % 1000:03d}")
    return "/".join(groups) + ("" if width == WIDTH else f".p/{width}")

"""RFC 6962 Merkle tree. Placeholder for the ledger room."""

from __future__ import annotations

import msgspec


class Head(msgspec.Struct, frozen=True):
    """Number of records and the root hash (32 bytes) over them."""

    size: int
    root: bytes

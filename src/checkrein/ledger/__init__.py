"""The audit ledger as mathematics: bytes in, hashes and verdicts out. No disk, no clock.

`record`      what a record is, its canonical bytes, and what it is found by
`tree`        RFC 6962 Merkle tree: leaf and node hash, frontier, root, inclusion and consistency proofs
`checkpoint`  C2SP signed checkpoint (Ed25519 signed note): make, parse, check
`signers`     the private keys of a ledger: the one that signs, and those that overlap
`rotation`    how the key changes hands, and which keys follow from a known one
`tiles`       the log as static files (C2SP tlog-tiles), for export
`proof`       proofs that travel alone: of one record (C2SP tlog-proof), and that the log only grew
`section`     many records checked at once, the quick way of `verify`
`verify`      walk records against a head and a checkpoint, and name the first that is wrong

The rows live in `storage`, the order of writing in `services`. Start with `record`.
"""

from checkrein.ledger.record import Draft, Record
from checkrein.ledger.tree import Head

__all__ = ["Draft", "Head", "Record"]

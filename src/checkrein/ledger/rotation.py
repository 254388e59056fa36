"""How a ledger's key changes hands, so that whoever holds an earlier or a later public key can follow.

A record `key.rotated` carries a statement that both keys sign (C2SP signed note):

    checkrein-key-rotation/v1
    checkrein.example/prod                  the origin of both keys
    checkrein.example/prod+68b6cb33+AQ...   the old key
    checkrein.example/prod+1f2a77c0+AQ...   the new key
    1234                                    size and root of the log, as the old key signed it last
    NlNxGXN...=
                                            (empty line)
    — checkrein.example/prod aLbL...=       the old key's signature
    — checkrein.example/prod Hyp3...=       the new key's

The old key's says who comes next and what the log was until then; the new key's that nobody claims it who does not
hold it. A checkpoint that covers the record is signed by the new key; while the keys overlap the old one signs
beside it, and a holder of only the old key needs no more. After that the record is the way from one to the other.
Neither note can pass for the other: a checkpoint that begins like a statement is of that origin, and has a number in
its second line, where the statement has the origin.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from checkrein.ledger import checkpoint as notes
from checkrein.ledger.checkpoint import Checkpoint, Signer, VerifierKey
from checkrein.ledger.record import decode
from checkrein.ledger.tree import Head
from checkrein.model import ConfigError, LedgerInvalid

#: the kind of the record
KIND = "key.rotated"
_HINT = "do not trust the key it names; ask for the public key out of band"
_FORM = "checkrein-key-rotation/v1"


class Rotation(msgspec.Struct, frozen=True):
    """Record `seq` hands the log from one key to the next. `head` is the log as the old key signed it last."""

    seq: int
    old: VerifierKey
    new: VerifierKey
    head: Head

    @classmethod
    def read(cls, data: bytes) -> Rotation:
        """What the bytes of a rotation record say; raises `LedgerInvalid` unless both keys signed exactly that."""
        try:
            record, body = decode(data)
        except ValueError as error:
            raise LedgerInvalid(f"a key rotation is damaged: {error}", hint="run `checkrein audit verify`") from error
        try:
            if record.kind != KIND:
                raise LedgerInvalid(f"it is of the kind `{record.kind}`")
            return cls(record.seq, *_read(body.get("detail"), record.seq))
        except (LedgerInvalid, ConfigError) as error:
            raise LedgerInvalid(f"record {record.seq} is a forged key rotation: {error}", hint=_HINT) from error


def statement(old: Signer, new: Signer, head: Head) -> str:
    """The note that both keys sign."""
    body = f"{_FORM}\n{old.origin}\n{old.vkey}\n{new.vkey}\n{notes.head_lines(head)}"
    return f"{body}\n{old.signature(body)}{new.signature(body)}"


def _read(detail: object, seq: int) -> tuple[VerifierKey, VerifierKey, Head]:
    said = detail if isinstance(detail, dict) else {}
    text = said.get("statement")
    if not isinstance(text, str):
        raise LedgerInvalid("it has no statement")
    body, signatures = notes.open_note(text)
    form, _, rest = body.partition("\n")
    lines = rest.split("\n")
    if form != _FORM or len(lines) != 6:
        raise LedgerInvalid("its statement is of another form")
    origin, old_text, new_text = lines[:3]
    old, new = VerifierKey.parse(old_text), VerifierKey.parse(new_text)
    head = notes.parse_head(lines[3], lines[4])
    if not (origin == old.origin == new.origin) or (str(old), str(new)) != (old_text, new_text) or old == new:
        raise LedgerInvalid("its keys are not two keys of one log")
    if (said.get("old"), said.get("new")) != (old_text, new_text):
        raise LedgerInvalid("it names other keys than its statement")
    if head.size > seq:
        raise LedgerInvalid("its statement is about a longer log")
    if len(signatures) != 2 or notes.signed_by((old, new), body, signatures) != (old, new):
        raise LedgerInvalid("its statement is not signed by both keys")
    return old, new, head


class Keys(msgspec.Struct, frozen=True):
    """The keys that somebody knows, and the rotations that lead from there to the others of the log."""

    known: tuple[VerifierKey, ...]
    rotations: tuple[Rotation, ...] = ()

    @classmethod
    def of(cls, vkeys: str, rotated: Iterable[bytes] = ()) -> Keys:
        """`vkeys` has one key a line, `rotated` are the bytes of the log's rotation records in order.

        Raises `LedgerInvalid` for a forged rotation or one that does not follow the one before, `ConfigError` for
        a bad key.
        """
        keys = cls(notes.parse_keys(vkeys))
        for data in rotated:
            keys = keys.after(Rotation.read(data))
        return keys

    def after(self, rotation: Rotation) -> Keys:
        """With one rotation more; raises `LedgerInvalid` if it does not follow the last."""
        if self.rotations and (rotation.old != self.rotations[-1].new or rotation.seq <= self.rotations[-1].seq):
            raise LedgerInvalid(f"record {rotation.seq} rotates a key that was not the log's", hint=_HINT)
        return Keys(self.known, (*self.rotations, rotation))

    @property
    def line(self) -> tuple[VerifierKey, ...]:
        """The keys of the log from the first to the current one; empty if it was never rotated."""
        return (self.rotations[0].old, *(rotation.new for rotation in self.rotations)) if self.rotations else ()

    def current(self, size: int) -> VerifierKey | None:
        """The key that has to sign a checkpoint of this size, where the rotations say it."""
        line = self.line
        return line[sum(rotation.seq < size for rotation in self.rotations)] if line else None

    def verify(self, text: str) -> Head:
        """The head in a signed note; raises `LedgerInvalid` unless a key that is known, or follows from it, signed.

        With a known key in the line of the log's keys it must be the one whose turn it was: what covers a rotation
        counts only with the new key's signature, so that a key that was stolen after its time signs nothing more.
        """
        line = self.line
        if not set(line).intersection(self.known):
            return notes.verify(text, "\n".join(map(str, self.known)))
        checkpoint = Checkpoint.parse(text)
        notes.require_origin(checkpoint, line)
        due = self.current(checkpoint.head.size)
        if due not in checkpoint.signed_by(line):
            raise LedgerInvalid(
                f"the checkpoint of {checkpoint.head.size} records is not signed by the key whose turn it was",
                hint="compare it with a copy kept elsewhere",
            )
        return checkpoint.head

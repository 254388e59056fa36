"""Signed tree heads: C2SP tlog-checkpoint v1 in a C2SP signed note v1, with Ed25519.

    checkrein.example/prod                       origin, also the name of the key
    1234                                         number of records
    NlNxGXN...=                                  root, base64
                                                 (empty line)
    — checkrein.example/prod bAZ0Kz...=          key id (4 bytes) and signature (64), base64

A public key travels as one line, the vkey: `origin+keyid+base64(0x01 || key)`. Signatures by unknown keys are
ignored, so that witnesses and new keys may sign beside the old one; without one by a known key a note is
nothing. A witness's key is of kind 0x04: it signs the note together with the time (C2SP tlog-cosignature v1).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Iterable

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from checkrein.ledger.tree import HASH_BYTES, Head
from checkrein.model import ConfigError, LedgerInvalid

#: what a key may sign: its own log's checkpoints, or as a witness those of others with the time
ED25519, COSIGNATURE = b"\x01", b"\x04"
_DASH = "\u2014 "
_KEY_ID_BYTES = 4
_TIME_BYTES = 8
_PRIVATE = "PRIVATE+KEY+"
_KEY_HINT = "give the whole line of a `signer.pub`: `origin+keyid+base64`"
#: a note longer than this is nobody's checkpoint
_MAX_TEXT = 65_536


class VerifierKey(msgspec.Struct, frozen=True):
    """A public key and the name it signs under: of a log its origin, of a witness its own."""

    origin: str
    key: bytes
    kind: bytes = ED25519

    @property
    def id(self) -> bytes:
        """First 4 bytes of SHA-256(origin || 0x0A || kind || key)."""
        return hashlib.sha256(self.origin.encode() + b"\n" + self.kind + self.key).digest()[:_KEY_ID_BYTES]

    def __str__(self) -> str:
        return f"{self.origin}+{self.id.hex()}+{_to_base64(self.kind + self.key)}"

    @classmethod
    def parse(cls, text: str, kind: bytes = ED25519) -> VerifierKey:
        """Read the vkey form; raises `ConfigError` if it is damaged or of another kind."""
        what = "verifier" if kind == ED25519 else "witness"
        hint = "give the whole line: `origin+keyid+base64`" if kind != ED25519 else _KEY_HINT
        parts = text.strip().split("+", 2)  # base64 may hold a `+`, an origin not
        if len(parts) != 3 or not _is_origin(parts[0]):
            raise ConfigError(f"that is not a checkpoint {what} key", hint=hint)
        raw = _from_base64(parts[2])
        if raw is None or len(raw) != 1 + HASH_BYTES or raw[:1] != kind:
            raise ConfigError(
                f"the {what} key is not an Ed25519 key{'' if kind == ED25519 else ' of a witness'}", hint=hint
            )
        key = cls(parts[0], raw[1:], kind)
        if key.id.hex() != parts[1]:
            raise ConfigError(f"the {what} key does not belong to its key id", hint=hint)
        return key

    def signed(self, body: str, signature: bytes) -> bool:
        """Whether this key made the signature (without the key id) under a note's body."""
        if self.kind == COSIGNATURE:
            time = int.from_bytes(signature[:_TIME_BYTES], "big")
            body, signature = f"cosignature/v1\ntime {time}\n{body}", signature[_TIME_BYTES:]
        try:
            Ed25519PublicKey.from_public_bytes(self.key).verify(signature, body.encode())
        except InvalidSignature:
            return False
        return True


class Cosigned(msgspec.Struct, frozen=True):
    """A checkpoint that came back from a witness: its key, and the note with its signature line."""

    vkey: str
    note: str


class Checkpoint(msgspec.Struct, frozen=True):
    """A parsed note: nothing in it is believed before `verify`."""

    origin: str
    head: Head
    #: the signed bytes
    body: str
    #: (key name, key id and signature)
    signatures: tuple[tuple[str, bytes], ...]

    @classmethod
    def parse(cls, text: str) -> Checkpoint:
        """Read a signed note that holds a tree head; raises `LedgerInvalid` if it is malformed."""
        body, signatures = open_note(text)
        lines = body.split("\n")[:-1]
        if len(lines) < 3 or not all(lines):
            raise _malformed("origin, size or root is missing")
        return cls(lines[0], parse_head(lines[1], lines[2]), body, signatures)

    def signed_by(self, keys: Iterable[VerifierKey]) -> tuple[VerifierKey, ...]:
        """Which of these keys signed; raises `LedgerInvalid` if a signature by one of them is wrong."""
        return signed_by(keys, self.body, self.signatures)


class Signer:
    """Signs heads for one origin. `private_key` are the 32 bytes of an Ed25519 seed."""

    def __init__(self, private_key: bytes, origin: str) -> None:
        if not _is_origin(origin):
            raise ConfigError(
                f"`{origin}` is not a ledger origin",
                hint="use a name without spaces or `+`, like `example.com/prod`",
            )
        self._seed = private_key
        self._key = Ed25519PrivateKey.from_private_bytes(private_key)
        self.verifier = VerifierKey(origin, self._key.public_key().public_bytes_raw())

    @property
    def origin(self) -> str:
        return self.verifier.origin

    @property
    def vkey(self) -> str:
        return str(self.verifier)

    def sign(self, head: Head) -> str:
        """The checkpoint for this head."""
        body = f"{self.origin}\n{head_lines(head)}"
        return f"{body}\n{self.signature(body)}"

    def signature(self, body: str) -> str:
        """The signature line under a note with this body."""
        return f"{_DASH}{self.origin} {_to_base64(self.verifier.id + self._key.sign(body.encode()))}\n"

    def to_secret(self) -> str:
        """The private key as one line, `PRIVATE+KEY+origin+keyid+base64`. For a file only its owner can read."""
        return f"{_PRIVATE}{self.origin}+{self.verifier.id.hex()}+{_to_base64(ED25519 + self._seed)}"

    @classmethod
    def from_secret(cls, text: str) -> Signer:
        """Read `to_secret`; raises `ConfigError` if it is damaged. The error never holds the text."""
        hint = "restore the file from a backup"
        parts = text.strip().removeprefix(_PRIVATE).split("+", 2)
        raw = _from_base64(parts[2]) if len(parts) == 3 and text.startswith(_PRIVATE) else None
        if raw is None or len(raw) != 1 + HASH_BYTES or raw[:1] != ED25519:
            raise ConfigError("the signing key is damaged", hint=hint)
        signer = cls(raw[1:], parts[0])
        if signer.verifier.id.hex() != parts[1]:
            raise ConfigError("the signing key does not belong to its key id", hint=hint)
        return signer


def parse_keys(vkeys: str) -> tuple[VerifierKey, ...]:
    """The keys of a key file, one a line; raises `ConfigError` if there is none or one is damaged."""
    lines = vkeys.split() or [vkeys]
    return tuple(VerifierKey.parse(line) for line in lines)


def verify(text: str, vkeys: str) -> Head:
    """The head that one of the known keys (one vkey a line) signed.

    Raises `LedgerInvalid` if none did or one did wrongly, `ConfigError` for a bad vkey.
    """
    known = parse_keys(vkeys)
    checkpoint = Checkpoint.parse(text)
    require_origin(checkpoint, known)
    if not checkpoint.signed_by(key for key in known if key.origin == checkpoint.origin):
        raise LedgerInvalid("the checkpoint is not signed by the known key", hint="use the public key of this ledger")
    return checkpoint.head


def require_origin(checkpoint: Checkpoint, known: Iterable[VerifierKey]) -> None:
    """Raise `LedgerInvalid` if the checkpoint is of a log that none of the keys is of."""
    origins = [key.origin for key in known]
    if checkpoint.origin not in origins:
        raise LedgerInvalid(
            f"the checkpoint is of `{checkpoint.origin}`, the key of `{origins[0]}`",
            hint="use the public key of this ledger",
        )


def signed_by(
    keys: Iterable[VerifierKey], body: str, signatures: tuple[tuple[str, bytes], ...]
) -> tuple[VerifierKey, ...]:
    """Which of these keys signed a note's body; raises `LedgerInvalid` if a signature by one of them is wrong."""
    signers = []
    for key in keys:
        mine = [raw[_KEY_ID_BYTES:] for name, raw in signatures if name == key.origin and raw[:_KEY_ID_BYTES] == key.id]
        if not all(key.signed(body, raw) for raw in mine):
            raise LedgerInvalid(
                "the signature of the checkpoint is wrong", hint="compare it with a copy kept elsewhere"
            )
        if mine:
            signers.append(key)
    return tuple(signers)


def head_lines(head: Head) -> str:
    """Size and root, a line each."""
    return f"{head.size}\n{_to_base64(head.root)}\n"


def parse_head(size: str, encoded: str) -> Head:
    """Read these two lines; raises `LedgerInvalid`."""
    if not (size.isascii() and size.isdecimal()) or len(size) > 20 or size != str(int(size)):
        raise _malformed("its size is not a number")
    root = _from_base64(encoded)
    if root is None or len(root) != HASH_BYTES:
        raise _malformed("its root is not a hash")
    return Head(int(size), root)


def open_note(text: str) -> tuple[str, tuple[tuple[str, bytes], ...]]:
    """The signed text of a note and its signatures (name; key id and signature); raises `LedgerInvalid`."""
    body, separator, tail = text.rpartition("\n\n")
    if not separator or len(text) > _MAX_TEXT or any(char < " " and char != "\n" for char in text):
        raise _malformed("it is not a signed note")
    return body + "\n", read_signatures(tail)


def read_signatures(tail: str) -> tuple[tuple[str, bytes], ...]:
    """The signature lines of a note; raises `LedgerInvalid` if one is broken."""
    if not tail.endswith("\n"):
        raise _malformed("its last line does not end")
    found = []
    for line in tail[:-1].split("\n"):
        name, _, encoded = line.removeprefix(_DASH).partition(" ")
        raw = _from_base64(encoded)
        if not line.startswith(_DASH) or not _is_origin(name) or raw is None or len(raw) <= _KEY_ID_BYTES:
            raise _malformed("a signature line is broken")
        found.append((name, raw))
    return tuple(found)


def _malformed(what: str) -> LedgerInvalid:
    return LedgerInvalid(f"the checkpoint is malformed: {what}", hint="restore it from a copy kept elsewhere")


def _is_origin(text: str) -> bool:
    return bool(text) and "+" not in text and not any(char.isspace() or char < " " for char in text)


def _to_base64(raw: bytes) -> str:
    return base64.b64encode(raw).decode("ascii")


def _from_base64(text: str) -> bytes | None:
    """Strict standard base64: one text for each value, nothing else."""
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
    return raw if _to_base64(raw) == text else None

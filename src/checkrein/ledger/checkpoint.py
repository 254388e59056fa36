"""Signed tree heads: C2SP tlog-checkpoint v1 in a C2SP signed note v1, with Ed25519.

    checkrein.example/prod                       origin, also the name of the key
    1234                                         number of records
    NlNxGXN...=                                  root, base64
                                                 (empty line)
    — checkrein.example/prod bAZ0Kz...=          key id (4 bytes) and signature (64), base64

A public key travels as one line, the vkey: `origin+keyid+base64(0x01 || key)`. Signatures by unknown keys are
ignored, so that witnesses and new keys may sign beside the old one; without one by the known key a note is
nothing.
"""

from __future__ import annotations

import base64
import binascii
import hashlib

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from checkrein.ledger.tree import HASH_BYTES, Head
from checkrein.model import ConfigError, LedgerInvalid

_ED25519 = b"\x01"
_DASH = "\u2014 "
_KEY_ID_BYTES = 4
_PRIVATE = "PRIVATE+KEY+"
#: a note longer than this is nobody's checkpoint
_MAX_TEXT = 65_536


class VerifierKey(msgspec.Struct, frozen=True):
    """A public key and the origin it signs for."""

    origin: str
    key: bytes

    @property
    def id(self) -> bytes:
        """First 4 bytes of SHA-256(origin || 0x0A || 0x01 || key)."""
        return hashlib.sha256(self.origin.encode() + b"\n" + _ED25519 + self.key).digest()[:_KEY_ID_BYTES]

    def __str__(self) -> str:
        return f"{self.origin}+{self.id.hex()}+{_to_base64(_ED25519 + self.key)}"

    @classmethod
    def parse(cls, text: str) -> VerifierKey:
        """Read the vkey form; raises `ConfigError` if it is damaged or of another kind."""
        hint = "give the whole line of a `signer.pub`: `origin+keyid+base64`"
        parts = text.strip().split("+", 2)  # base64 may hold a `+`, an origin not
        if len(parts) != 3 or not _is_origin(parts[0]):
            raise ConfigError("that is not a checkpoint verifier key", hint=hint)
        raw = _from_base64(parts[2])
        if raw is None or len(raw) != 1 + HASH_BYTES or raw[:1] != _ED25519:
            raise ConfigError("the verifier key is not an Ed25519 key", hint=hint)
        key = cls(parts[0], raw[1:])
        if key.id.hex() != parts[1]:
            raise ConfigError("the verifier key does not belong to its key id", hint=hint)
        return key


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
        body, separator, tail = text.rpartition("\n\n")
        body += "\n"
        if not separator or len(text) > _MAX_TEXT or any(char < " " and char != "\n" for char in text):
            raise _malformed("it is not a signed note")
        lines = body.split("\n")[:-1]
        if len(lines) < 3 or not all(lines):
            raise _malformed("origin, size or root is missing")
        origin, size, root = lines[0], lines[1], _from_base64(lines[2])
        if not (size.isascii() and size.isdecimal()) or len(size) > 20 or size != str(int(size)):
            raise _malformed("its size is not a number")
        if root is None or len(root) != HASH_BYTES:
            raise _malformed("its root is not a hash")
        return cls(origin, Head(int(size), root), body, _signatures(tail))


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
        body = f"{self.origin}\n{head.size}\n{_to_base64(head.root)}\n"
        signature = self.verifier.id + self._key.sign(body.encode())
        return f"{body}\n{_DASH}{self.origin} {_to_base64(signature)}\n"

    def to_secret(self) -> str:
        """The private key as one line, `PRIVATE+KEY+origin+keyid+base64`. For a file only its owner can read."""
        return f"{_PRIVATE}{self.origin}+{self.verifier.id.hex()}+{_to_base64(_ED25519 + self._seed)}"

    @classmethod
    def from_secret(cls, text: str) -> Signer:
        """Read `to_secret`; raises `ConfigError` if it is damaged. The error never holds the text."""
        hint = "restore the file from a backup"
        parts = text.strip().removeprefix(_PRIVATE).split("+", 2)
        raw = _from_base64(parts[2]) if len(parts) == 3 and text.startswith(_PRIVATE) else None
        if raw is None or len(raw) != 1 + HASH_BYTES or raw[:1] != _ED25519:
            raise ConfigError("the signing key is damaged", hint=hint)
        signer = cls(raw[1:], parts[0])
        if signer.verifier.id.hex() != parts[1]:
            raise ConfigError("the signing key does not belong to its key id", hint=hint)
        return signer


def verify(text: str, vkey: str) -> Head:
    """The head that the known key signed; raises `LedgerInvalid` if it did not, `ConfigError` for a bad vkey."""
    known = VerifierKey.parse(vkey)
    checkpoint = Checkpoint.parse(text)
    if checkpoint.origin != known.origin:
        raise LedgerInvalid(
            f"the checkpoint is of `{checkpoint.origin}`, the key of `{known.origin}`",
            hint="use the public key of this ledger",
        )
    mine = [raw for name, raw in checkpoint.signatures if name == known.origin and raw[:_KEY_ID_BYTES] == known.id]
    if not mine:
        raise LedgerInvalid("the checkpoint is not signed by the known key", hint="use the public key of this ledger")
    key = Ed25519PublicKey.from_public_bytes(known.key)
    for raw in mine:
        try:
            key.verify(raw[_KEY_ID_BYTES:], checkpoint.body.encode())
        except InvalidSignature as error:
            raise LedgerInvalid(
                "the signature of the checkpoint is wrong", hint="compare it with a copy kept elsewhere"
            ) from error
    return checkpoint.head


def _signatures(tail: str) -> tuple[tuple[str, bytes], ...]:
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

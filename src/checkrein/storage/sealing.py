"""Authenticated encryption of payloads: AES-256-GCM under data keys, which are wrapped by a master key.

The master key lies in a file of its own, apart from the database, so that a copy of one says nothing without the
other. Every form begins with its version, and a wrapped key names the master key that wrapped it: a new master
key is put in front of the old ones, and those still open what they wrapped.

    payload.key      lines `checkrein-payload-key/1 <base64 of 32 bytes>`, the one that wraps first
    a wrapped key    version (1) | master key id (4) | nonce (12) | AES-256-GCM of the data key (48)
    a payload        version (1) | nonce (12) | AES-256-GCM of its bytes
"""

from __future__ import annotations

import base64
import binascii
import hashlib

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from checkrein.model import ConfigError

KEY_BYTES = 32
NONCE_BYTES = 12
_ID_BYTES = 4
_LINE = "checkrein-payload-key/1"
_VERSION = b"\x01"
_WRAPPED_BYTES = 1 + _ID_BYTES + NONCE_BYTES + KEY_BYTES + 16


class Unopened(Exception):
    """These bytes were not sealed for this place with this key."""


class DataKey:
    """Seals and opens payloads. `place` says where the bytes belong and must be the same both times."""

    def __init__(self, secret: bytes) -> None:
        self._cipher = AESGCM(secret)

    def seal(self, data: bytes, place: bytes, nonce: bytes) -> bytes:
        return _VERSION + nonce + self._cipher.encrypt(nonce, data, place)

    def open(self, sealed: bytes, place: bytes) -> bytes:
        """Raises `Unopened`."""
        if sealed[:1] != _VERSION or len(sealed) < 1 + NONCE_BYTES + 16:
            raise Unopened
        try:
            return self._cipher.decrypt(sealed[1 : 1 + NONCE_BYTES], sealed[1 + NONCE_BYTES :], place)
        except InvalidTag:
            raise Unopened from None


class MasterKeys:
    """The keys that wrap data keys; the first one wraps, every one opens."""

    def __init__(self, secrets: tuple[bytes, ...]) -> None:
        self._ciphers = {_id(secret): AESGCM(secret) for secret in secrets}
        self._first = _id(secrets[0])

    @staticmethod
    def line(secret: bytes) -> str:
        return f"{_LINE} {base64.b64encode(secret).decode()}\n"

    @classmethod
    def from_text(cls, text: str) -> MasterKeys:
        """Read a key file; raises `ConfigError` that says nothing of its content."""
        secrets: list[bytes] = []
        for line in text.splitlines():
            form, _, encoded = line.strip().partition(" ")
            try:
                secret = base64.b64decode(encoded, validate=True)
            except (binascii.Error, ValueError):
                secret = b""
            if form != _LINE or len(secret) != KEY_BYTES:
                raise ConfigError("it does not hold payload keys", hint="restore the file from a backup")
            secrets.append(secret)
        if not secrets:
            raise ConfigError("it is empty", hint="restore the file from a backup")
        return cls(tuple(secrets))

    def wrap(self, secret: bytes, place: bytes, nonce: bytes) -> bytes:
        return _VERSION + self._first + nonce + self._ciphers[self._first].encrypt(nonce, secret, place)

    def unwrap(self, wrapped: bytes, place: bytes) -> bytes:
        """Raises `Unopened` for a key that none of these wrapped for this place."""
        cipher = self._ciphers.get(wrapped[1 : 1 + _ID_BYTES])
        if wrapped[:1] != _VERSION or len(wrapped) != _WRAPPED_BYTES or cipher is None:
            raise Unopened
        at = 1 + _ID_BYTES
        try:
            return cipher.decrypt(wrapped[at : at + NONCE_BYTES], wrapped[at + NONCE_BYTES :], place)
        except InvalidTag:
            raise Unopened from None


def _id(secret: bytes) -> bytes:
    return hashlib.sha256(b"checkrein payload key\x00" + secret).digest()[:_ID_BYTES]

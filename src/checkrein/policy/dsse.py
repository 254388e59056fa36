"""DSSE v1 envelopes with Ed25519: who vouches for some bytes.

    {"payload": "<base64>", "payloadType": "application/...", "signatures": [{"keyid": "<hex>", "sig": "<base64>"}]}

Signed is the pre-authentication encoding (DSSE v1, protocol):
`"DSSEv1" SP LEN(type) SP type SP LEN(payload) SP payload`, lengths in ASCII digits. Keys travel as PEM, the private
one as PKCS #8, the public one as SPKI; a key's id is the SHA-256 of its SPKI in DER. A key id only says which key to
try: what counts is that a pinned key verifies. There is one spelling of an envelope: sorted members, signatures in
order of the key id; any other is refused.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence

import msgspec
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from checkrein.model import ConfigError, PolicyInvalid
from checkrein.model.json import dumps

#: more people than this do not sign one bundle
MAX_SIGNATURES = 16


class PublicKey(msgspec.Struct, frozen=True):
    """An Ed25519 public key, 32 bytes."""

    raw: bytes

    @property
    def id(self) -> str:
        key = Ed25519PublicKey.from_public_bytes(self.raw)
        spki = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
        return hashlib.sha256(spki).hexdigest()

    def to_pem(self) -> bytes:
        key = Ed25519PublicKey.from_public_bytes(self.raw)
        return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)

    @classmethod
    def from_pem(cls, data: bytes) -> PublicKey:
        """Read a public key in PEM; raises `ConfigError`."""
        try:
            key = serialization.load_pem_public_key(data)
        except (ValueError, UnsupportedAlgorithm):
            key = None
        if not isinstance(key, Ed25519PublicKey):
            raise ConfigError("that is no Ed25519 public key", hint="give the `.pub` file of the key that signs")
        return cls(key.public_bytes_raw())

    def verifies(self, signature: bytes, message: bytes) -> bool:
        try:
            Ed25519PublicKey.from_public_bytes(self.raw).verify(signature, message)
        except InvalidSignature:
            return False
        return True


class SigningKey:
    """An Ed25519 private key; `seed` are its 32 bytes. It is never shown."""

    def __init__(self, seed: bytes) -> None:
        self._key = Ed25519PrivateKey.from_private_bytes(seed)
        self.public = PublicKey(self._key.public_key().public_bytes_raw())

    def to_pem(self) -> bytes:
        """PKCS #8, not encrypted. For a file only its owner can read."""
        plain = serialization.NoEncryption()
        return self._key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)

    @classmethod
    def from_pem(cls, data: bytes) -> SigningKey:
        """Read a private key in PEM; raises `ConfigError`, which never holds the data."""
        try:
            key = serialization.load_pem_private_key(data, password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            key = None
        if not isinstance(key, Ed25519PrivateKey):
            raise ConfigError("that is no Ed25519 private key in PEM", hint="make one with `--new-key`")
        return cls(key.private_bytes_raw())

    def sign(self, message: bytes) -> bytes:
        return self._key.sign(message)


class _Signature(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    keyid: str
    sig: str


class _Envelope(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    payload: str
    payloadType: str  # noqa: N815 - the member's name in DSSE
    signatures: tuple[_Signature, ...]


def pae(payload_type: str, payload: bytes) -> bytes:
    """What is signed: no two pairs of type and payload give the same bytes."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def sign(payload: bytes, payload_type: str, key: SigningKey, *, beside: bytes | None = None) -> bytes:
    """An envelope with the key's signature. `beside` is one whose signatures of other keys are kept."""
    kept = _read(beside, payload, payload_type).signatures if beside is not None else ()
    mine = _Signature(key.public.id, _base64(key.sign(pae(payload_type, payload))))
    signatures = {signature.keyid: signature for signature in (*kept, mine)}
    if len(signatures) > MAX_SIGNATURES:
        raise PolicyInvalid(f"more than {MAX_SIGNATURES} keys signed already", hint="build the bundle again")
    return _write(_Envelope(_base64(payload), payload_type, tuple(signatures[id] for id in sorted(signatures))))


def key_ids(envelope: bytes, payload: bytes, payload_type: str) -> tuple[str, ...]:
    """The ids of the keys that claim to have signed. Nothing is verified."""
    return tuple(signature.keyid for signature in _read(envelope, payload, payload_type).signatures)


def verify(envelope: bytes, payload: bytes, payload_type: str, keys: Sequence[PublicKey]) -> tuple[str, ...]:
    """The ids of the pinned keys whose signature holds; raises `PolicyInvalid` if there is none.

    A signature that names a pinned key and does not hold is refused too. Other keys' signatures mean nothing.
    """
    pinned = {key.id: key for key in keys}
    message = pae(payload_type, payload)
    good = []
    for signature in _read(envelope, payload, payload_type).signatures:
        key = pinned.get(signature.keyid)
        if key is None:
            continue
        if not key.verifies(_from_base64(signature.sig), message):
            raise PolicyInvalid("the signature is wrong", hint="get the bundle again from who signed it")
        good.append(signature.keyid)
    if not good:
        raise PolicyInvalid(
            "it is not signed by a key that is trusted here",
            hint="sign it with `checkrein bundle sign`, or give the public key of who signed it",
        )
    return tuple(good)


def _read(envelope: bytes, payload: bytes, payload_type: str) -> _Envelope:
    try:
        read = msgspec.json.decode(envelope, type=_Envelope)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        raise _malformed("it is no DSSE envelope") from None
    ids = [signature.keyid for signature in read.signatures]
    if _write(read) != envelope or ids != sorted(set(ids)) or len(ids) > MAX_SIGNATURES:
        raise _malformed("it is not spelled in the one way there is")
    if read.payloadType != payload_type or read.payload != _base64(payload):
        raise _malformed("it is about something else")
    return read


def _malformed(why: str) -> PolicyInvalid:
    return PolicyInvalid(f"the signature cannot be read: {why}", hint="get the bundle again from who signed it")


def _write(envelope: _Envelope) -> bytes:
    return dumps(envelope)


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _from_base64(text: str) -> bytes:
    """Standard base64 in its one spelling, else no signature at all."""
    try:
        data = base64.b64decode(text, validate=True)
    except ValueError:
        return b""
    return data if _base64(data) == text else b""

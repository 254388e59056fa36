"""What a record is: canonical JSON bytes that are hashed exactly as stored.

A service hands in a `Draft`; the store gives it a sequence number, an id and a time and keeps the bytes.
Nothing personal stands in a record in the clear: arguments and prompts are keyed commitments (`commitment`).
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping

import msgspec

from checkrein.model import LedgerInvalid
from checkrein.model.json import MAX_INTEGER, canonical, fold

#: version of the record format
VERSION = 1
#: C2SP tlog-tiles gives an entry a 16-bit length
MAX_BYTES = 65_535


class Draft(msgspec.Struct, frozen=True):
    """A record before it has a place in the log."""

    kind: str
    trace_id: str
    body: Mapping[str, object]


class Facets(msgspec.Struct, frozen=True):
    """What a record is found by, read from its body; empty where the body does not say."""

    user: str = ""
    agent: str = ""
    action: str = ""
    outcome: str = ""
    risk: str = ""
    #: the approval it belongs to
    approval: str = ""
    #: the decision it belongs to
    evaluation: str = ""


class Record(msgspec.Struct, frozen=True):
    """A stored record; `data` are the exact bytes under the Merkle leaf. `ts_us` is microseconds since 1970."""

    seq: int
    id: str
    kind: str
    trace_id: str
    ts_us: int
    data: bytes

    @property
    def body(self) -> dict[str, object]:
        """The record's own members (the draft's body); raises `LedgerInvalid` if the bytes are damaged."""
        try:
            return _Envelope.parse(self.data).body
        except ValueError as error:
            raise LedgerInvalid(
                f"record {self.seq} cannot be read: {error}", hint="run `checkrein audit verify`"
            ) from error


class Prepared(msgspec.Struct, frozen=True):
    """A draft whose body is canonical bytes already: all that can fail has been tried, only its place is missing."""

    kind: str
    trace_id: str
    body: bytes
    facets: Facets


class _Envelope(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    v: int
    seq: int
    id: str
    kind: str
    trace_id: str
    ts_us: int
    body: dict[str, object]

    @staticmethod
    def parse(data: bytes) -> _Envelope:
        """Raises `ValueError` (msgspec's are) unless it is a record of this version."""
        try:
            envelope = _decoder.decode(data)
        except RecursionError:
            raise ValueError("it is nested too deeply") from None
        if envelope.v != VERSION:
            raise ValueError(f"its version {envelope.v} is not {VERSION}")
        return envelope


def _no_float(text: str) -> float:
    raise ValueError(f"the number {text[:40]} has no place in a record")


_encoder = msgspec.json.Encoder(order="sorted")
_decoder = msgspec.json.Decoder(_Envelope, float_hook=_no_float)
#: digits become zeros and all else spaces, so that a run of 16 digits is found without a pattern
_DIGITS = bytes(0x30 if 0x30 <= byte <= 0x39 else 0x20 for byte in range(256))


def prepare(draft: Draft) -> Prepared:
    """The draft's body as bytes. Raises `ValueError` for values the ledger does not admit."""
    if not (draft.kind.isascii() and draft.trace_id.isascii()):
        raise ValueError("kind and trace id are ASCII")
    return Prepared(draft.kind, draft.trace_id, canonical(draft.body), facets(draft.body))


def place(prepared: Prepared, *, seq: int, id: str, ts_us: int) -> Record:
    """Give it its place. Raises `ValueError` if the record is too long."""
    data = _encoder.encode(
        {
            "v": VERSION,
            "seq": seq,
            "id": id,
            "kind": prepared.kind,
            "trace_id": prepared.trace_id,
            "ts_us": ts_us,
            "body": msgspec.Raw(prepared.body),
        }
    )
    if len(data) > MAX_BYTES:
        raise ValueError(f"a record of {len(data)} bytes is longer than {MAX_BYTES}")
    return Record(seq, id, prepared.kind, prepared.trace_id, ts_us, data)


def encode(draft: Draft, *, seq: int, id: str, ts_us: int) -> Record:
    """`prepare` and `place` in one step."""
    return place(prepare(draft), seq=seq, id=id, ts_us=ts_us)


def decode(data: bytes) -> tuple[Record, dict[str, object]]:
    """The record and its body; raises `ValueError` unless these are exactly the bytes `encode` would write."""
    envelope = _Envelope.parse(data)
    if _encoder.encode(envelope) != data:
        raise ValueError("its bytes are not canonical JSON")
    if not data.isascii() or b"0" * 16 in data[: data.rfind(b',"id":')].translate(_DIGITS):
        canonical(envelope.body)  # a key beyond ASCII or an integer beyond 2^53-1 is possible: look closely
    if abs(envelope.seq) > MAX_INTEGER or abs(envelope.ts_us) > MAX_INTEGER:
        raise ValueError("an integer beyond 2^53-1 has no place in a record")
    record = Record(envelope.seq, envelope.id, envelope.kind, envelope.trace_id, envelope.ts_us, data)
    return record, envelope.body


def facets(body: Mapping[str, object]) -> Facets:
    """Read the facets; a member of another type or shape counts as absent."""
    actor = _member(body, "actor")
    decided = _member(body, "decision")
    return Facets(
        user=_text(actor, "id"),
        agent=_text(actor, "agent"),
        action=_text(_member(body, "action"), "name"),
        outcome=_text(decided, "outcome"),
        risk=_text(_member(decided, "risk"), "level"),
        approval=_text(_member(body, "approval"), "id"),
        evaluation=_text(decided, "evaluation_id") or _text(body, "evaluation_id"),
    )


def _member(value: Mapping[str, object], name: str) -> Mapping[str, object]:
    found = value.get(name)
    return found if isinstance(found, Mapping) else {}


def _text(value: Mapping[str, object], name: str) -> str:
    found = value.get(name)
    return found if isinstance(found, str) else ""


def commitment(key: bytes, value: object) -> str:
    """HMAC-SHA256 (hex) of any JSON value: proves later what was seen, tells nothing without the key."""
    return hmac.new(key, canonical(fold(value)), hashlib.sha256).hexdigest()

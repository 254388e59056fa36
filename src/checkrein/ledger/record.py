"""What a record is: canonical JSON bytes that are hashed exactly as stored.

A service hands in a `Draft`; the store gives it a sequence number, an id and a time and keeps the bytes.
Nothing personal stands in a record in the clear: arguments and prompts are keyed commitments (`commitment`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Annotated, Any, Literal

import msgspec

from checkrein.model import LedgerInvalid
from checkrein.model.json import MAX_INTEGER, canonical, fold_bytes

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
    """A draft whose body is canonical bytes already: all that can fail has been tried, only its place is missing.

    `found` are its facets in their order, None where they are empty.
    """

    kind: str
    trace_id: str
    body: msgspec.Raw
    found: tuple[str | None, ...]
    policies: tuple[str, ...] = ()

    @property
    def evaluation(self) -> str | None:
        """The decision it belongs to."""
        return self.found[-1]


class _Placed(msgspec.Struct, gc=False):
    """A record about to be written; its members in the order of canonical JSON."""

    body: msgspec.Raw
    id: str
    kind: str
    seq: int
    trace_id: str
    ts_us: int
    v: int


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


_Integer = Annotated[int, msgspec.Meta(ge=-MAX_INTEGER, le=MAX_INTEGER)]
_Plain: Any = None | bool | _Integer | str
for _ in range(6):  # values nested deeper are read one by one
    _Plain = None | bool | _Integer | str | list[_Plain] | dict[str, _Plain]


class Envelope(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """A record read from its bytes."""

    body: dict[str, _Plain]
    id: str
    kind: str
    seq: _Integer
    trace_id: str
    ts_us: _Integer
    v: Literal[1]


def _no_float(text: str) -> float:
    raise ValueError(f"the number {text[:40]} has no place in a record")


_encoder = msgspec.json.Encoder(order="sorted")
_decoder = msgspec.json.Decoder(_Envelope, float_hook=_no_float)
_quick_decoder = msgspec.json.Decoder(Envelope)
_NOTHING: Mapping[str, object] = {}
#: bytes in a block of SHA-256, and its two pads (RFC 2104)
_BLOCK = 64
_INNER, _OUTER = (bytes(byte ^ pad for byte in range(256)) for pad in (0x36, 0x5C))
#: digits become zeros and all else spaces, so that a run of 16 digits is found without a pattern
_DIGITS = bytes(0x30 if 0x30 <= byte <= 0x39 else 0x20 for byte in range(256))


def prepare(draft: Draft) -> Prepared:
    """The draft's body as bytes. Raises `ValueError` for values the ledger does not admit."""
    if not (draft.kind.isascii() and draft.trace_id.isascii()):
        raise ValueError("kind and trace id are ASCII")
    body = draft.body
    return Prepared(draft.kind, draft.trace_id, msgspec.Raw(canonical(body)), found_under(body), policies(body))


def place(prepared: Prepared, *, seq: int, id: str, ts_us: int) -> Record:
    """Give it its place. Raises `ValueError` if the record is too long."""
    data = _encoder.encode(_Placed(prepared.body, id, prepared.kind, seq, prepared.trace_id, ts_us, VERSION))
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


def decode_all(run: Sequence[bytes]) -> list[Envelope] | None:
    """These records read at once, or None unless `decode` would admit each (and for a few that it would).

    One call each to read and to write again is several times as fast as one for each record. Line ends keep
    them apart: canonical JSON has none inside.
    """
    lines = b"\n".join(run)
    try:
        read = _quick_decoder.decode_lines(lines)
        if lines.count(b"\n") != len(run) - 1 or _encoder.encode_lines(read) != lines + b"\n":
            return None
        if not lines.isascii():
            for envelope, data in zip(read, run, strict=True):
                if not data.isascii():
                    canonical(envelope.body)  # a key beyond ASCII is possible
    except (ValueError, RecursionError):
        return None
    return read


def facets(body: Mapping[str, object]) -> Facets:
    """Read the facets; a member of another type or shape counts as absent."""
    return Facets(*[text or "" for text in found_under(body)])


def found_under(body: Mapping[str, object]) -> tuple[str | None, ...]:
    """The facets in their order as a store keeps them: None where they are empty."""
    get = body.get
    actor, action, decided, approval = get("actor"), get("action"), get("decision"), get("approval")
    user = agent = name = outcome = level = held = evaluation = None
    if actor is not None:
        get_of = (actor if type(actor) is dict else _mapping(actor)).get
        user, agent = get_of("id"), get_of("agent")
    if action is not None:
        name = (action if type(action) is dict else _mapping(action)).get("name")
    if approval is not None:
        held = (approval if type(approval) is dict else _mapping(approval)).get("id")
    if decided is not None:
        get_of = (decided if type(decided) is dict else _mapping(decided)).get
        outcome, level, evaluation = get_of("outcome"), _mapping(get_of("risk")).get("level"), get_of("evaluation_id")
    if type(evaluation) is not str or not evaluation:
        evaluation = _text(evaluation) or get("evaluation_id")
    found = (user, agent, name, outcome, level, held, evaluation)
    return tuple([value if type(value) is str and value else _text(value) if value else None for value in found])


def policies(body: Mapping[str, object]) -> tuple[str, ...]:
    """The policies a record is found by, each once: that decided, that erred, and that asked for an approval."""
    decided, approval = body.get("decision"), body.get("approval")
    found: list[object] = []
    if decided is not None:
        decided = _mapping(decided)
        found += _items(decided.get("policies"))
        if errors := decided.get("errors"):
            found += [_mapping(error).get("policy") for error in _items(errors)]
    if approval is not None and (named := _mapping(approval).get("policies")):
        found += _items(named)
    if not found:
        return ()
    return tuple(dict.fromkeys([name for name in found if isinstance(name, str) and name]))


def member(body: Mapping[str, object], name: str) -> Mapping[str, object]:
    """The object under this name in a body; an empty one where nothing or something else stands there."""
    return _mapping(body.get(name))


def _items(value: object) -> Sequence[object]:
    return value if isinstance(value, list | tuple) else ()


def _mapping(value: object) -> Mapping[str, object]:
    return value if type(value) is dict or isinstance(value, Mapping) else _NOTHING


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def commitment(key: bytes, value: object) -> str:
    """HMAC-SHA256 (hex) of any JSON value: proves later what was seen, tells nothing without the key."""
    return mac(key, fold_bytes(value))


def mac(key: bytes, data: bytes) -> str:
    """HMAC-SHA256 (hex, RFC 2104)."""
    begun, begun_outside = _padded(key)
    inner, outer = begun.copy(), begun_outside.copy()
    inner.update(data)
    outer.update(inner.digest())
    return outer.hexdigest()


@lru_cache(maxsize=16)
def _padded(key: bytes) -> tuple[hashlib._Hash, hashlib._Hash]:
    """What every HMAC under this key begins with: half of the work where the data are short."""
    block = (hashlib.sha256(key).digest() if len(key) > _BLOCK else key).ljust(_BLOCK, b"\0")
    return hashlib.sha256(block.translate(_INNER)), hashlib.sha256(block.translate(_OUTER))

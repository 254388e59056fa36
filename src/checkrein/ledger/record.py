"""What a record is: canonical JSON bytes that are hashed exactly as stored.

A service hands in a `Draft`; the store gives it a sequence number, an id and a time and keeps the bytes. Nothing
personal stands in a record in the clear: arguments and prompts are keyed commitments (`commitment`).
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from typing import cast

import msgspec

from checkrein.model import Decision, Request
from checkrein.model.json import JsonObject, canonical, fold, load_object

#: version of the record format
VERSION = 1
#: C2SP tlog-tiles gives an entry a 16-bit length
MAX_BYTES = 65_535
#: free text in a record is cut to this many characters
MAX_TEXT = 512


class Draft(msgspec.Struct, frozen=True):
    """A record before it has a place in the log."""

    kind: str
    trace_id: str
    body: Mapping[str, object]


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
        """The record's own members (the draft's body)."""
        return cast("dict[str, object]", load_object(self.data)["body"])


def encode(draft: Draft, *, seq: int, id: str, ts_us: int) -> Record:
    """Give a draft its place. Raises `ValueError` for values the ledger does not admit, or for too many bytes."""
    data = canonical(
        {
            "v": VERSION,
            "seq": seq,
            "id": id,
            "kind": draft.kind,
            "trace_id": draft.trace_id,
            "ts_us": ts_us,
            "body": draft.body,
        }
    )
    if len(data) > MAX_BYTES:
        raise ValueError(f"a record of {len(data)} bytes is longer than {MAX_BYTES}")
    return Record(seq, id, draft.kind, draft.trace_id, ts_us, data)


def commitment(key: bytes, value: object) -> str:
    """HMAC-SHA256 (hex) of any JSON value: proves later what was seen, tells nothing without the key."""
    return hmac.new(key, canonical(fold(value)), hashlib.sha256).hexdigest()


def _cut(text: str) -> str:
    text = text.encode("utf-8", "replace").decode("utf-8")
    return text if len(text) <= MAX_TEXT else text[: MAX_TEXT - 1] + "…"


def actor(request: Request) -> dict[str, object]:
    """Who acted, through which agent, and who asked for the decision."""
    return {"type": request.subject.type, "id": _cut(request.subject.id), "agent": _cut(request.agent_id)}


def action(request: Request, key: bytes) -> dict[str, object]:
    """What was to be done; the arguments only as a commitment and a size."""
    return {
        "name": _cut(request.action.name),
        "resource": {"type": _cut(request.resource.type), "id": _cut(request.resource.id)},
        "input_hmac": commitment(key, request.action.input),
    }


def decision(
    request: Request, made: Decision, key: bytes, *, caller: str, redactions: JsonObject | None = None
) -> Draft:
    """The `decision` record. `caller` is the key or channel that asked; it is not the subject."""
    body: dict[str, object] = {
        "actor": actor(request),
        "action": action(request, key),
        "caller": caller,
        "decision": {
            "evaluation_id": made.evaluation_id,
            "outcome": made.outcome.wire,
            "reasons": [_cut(reason) for reason in made.reasons],
            "policies": [_cut(policy) for policy in made.policies],
            "errors": [{"policy": _cut(e.policy), "message": _cut(e.message)} for e in made.errors],
            "risk": {
                "level": made.risk.level.value,
                "score": made.risk.score,
                "factors": [_cut(factor) for factor in made.risk.factors],
            },
            "labels": [_cut(label) for label in made.labels],
            "bundle": made.bundle,
            "arm": made.arm,
        },
    }
    if redactions:
        body["redactions"] = dict(redactions)
    if made.approval_id:
        body["approval"] = {"id": made.approval_id}
    return Draft("decision", made.trace_id, body)

"""What happened, as ledger drafts: one function per kind of record.

Arguments, prompts and results never stand in a record: a keyed commitment proves later what was seen, and tells
nothing without the key.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import msgspec

from checkrein.flow.approval import Approval, Breach, Vote
from checkrein.flow.emergency import Review
from checkrein.flow.grant import Grant
from checkrein.flow.quota import Reservation
from checkrein.ledger import Draft
from checkrein.ledger.record import commitment, mac
from checkrein.model import Decision, Request
from checkrein.model.json import JsonObject, fold_bytes
from checkrein.model.request import ANSWER
from checkrein.ports import PAYLOAD_ALG, Payload

#: free text in a record is cut to this many characters
MAX_TEXT = 512
#: names of arguments that one record lists
MAX_NAMES = 100


def cut(text: str) -> str:
    """Text that fits a record: valid UTF-8 and at most `MAX_TEXT` characters."""
    if not text.isascii():
        text = text.encode("utf-8", "replace").decode("utf-8")
    return text if len(text) <= MAX_TEXT else text[: MAX_TEXT - 1] + "…"


def _about(request: Request) -> dict[str, object]:
    """The members of a record that say who does what to what."""
    subject, action, resource = request.subject, request.action, request.resource
    what: dict[str, object] = {
        "name": cut(action.name),
        "resource": {"type": cut(resource.type), "id": cut(resource.id)},
    }
    if request.comes_back:
        what["direction"] = ANSWER
    return {"actor": {"type": cut(subject.type), "id": cut(subject.id), "agent": cut(request.agent_id)}, "action": what}


def arguments(request: Request) -> bytes:
    """The arguments as their commitment and their size in a record are made of them."""
    return fold_bytes(request.action.input)


def _sealed(key: bytes, payload: Payload | None, answer: Payload | None) -> dict[str, object]:
    """The members of a record that name its payloads: what is decrypted later is what was recorded."""
    named: dict[str, object] = {}
    if payload is not None:
        named["payload"] = {"id": payload.id, "alg": PAYLOAD_ALG, "hmac": mac(key, payload.data)}
    if answer is not None:
        named["answer"] = {"id": answer.id, "alg": PAYLOAD_ALG, "hmac": mac(key, answer.data)}
    return named


def decision(
    request: Request,
    made: Decision,
    *,
    key: bytes,
    caller: str,
    mode: str,
    latency_us: int,
    redactions: Mapping[str, int],
    payload: Payload | None = None,
    answer: Payload | None = None,
) -> Draft:
    """`caller` is the key or channel that asked, which is not the subject; `mode` is `run` or `ask`.

    `payload` is the request, kept beside the ledger, and `answer` what is kept for an idempotency key; only their ids
    and commitments stand in the record.
    """
    given = arguments(request)
    return Draft(
        "decision",
        made.trace_id,
        {
            **_about(request),
            "input_hmac": mac(key, given),
            "input_bytes": len(given),
            "caller": caller,
            "mode": mode,
            "decision": {
                "evaluation_id": made.evaluation_id,
                "outcome": made.outcome.wire,
                "reasons": [cut(reason) for reason in made.reasons],
                "policies": [cut(policy) for policy in made.policies],
                "errors": [{"policy": cut(e.policy), "message": cut(e.message)} for e in made.errors],
                "risk": {
                    "level": made.risk.level.value,
                    "score": made.risk.score,
                    "factors": [cut(factor) for factor in made.risk.factors],
                },
                "labels": [cut(label) for label in made.labels],
                "bundle": made.bundle,
                "arm": made.arm,
                "latency_us": latency_us,
                **({"code": made.code} if made.code else {}),
            },
            "redactions": dict(redactions),
            "approval": {"id": made.approval_id},
            **_rollout(made),
            **_sealed(key, payload, answer),
        },
    )


def search(
    request: Request,
    *,
    trace_id: str,
    caller: str,
    sought: str,
    decided: int,
    found: Sequence[str],
    bundle: str,
    key: bytes,
) -> Draft:
    """A page of a search: `decided` candidates for the member of the request that was `sought`, whose name is empty."""
    given = arguments(request)
    return Draft(
        "search",
        trace_id,
        {
            **_about(request),
            "input_hmac": mac(key, given),
            "input_bytes": len(given),
            "caller": caller,
            "search": {
                "for": sought,
                "decided": decided,
                "found": len(found),
                "found_hmac": commitment(key, list(found)),
                "bundle": bundle,
            },
        },
    )


def _rollout(made: Decision) -> dict[str, object]:
    """The part this action takes in a rollout: what its verdict is counted from."""
    if not made.rollout:
        return {}
    shadow: dict[str, object] = {}
    if made.shadow:
        shadow = {"shadow": {**msgspec.structs.asdict(made.shadow), "outcome": made.shadow.outcome.wire}}
    return {"rollout": {"id": made.rollout, "arm": made.arm, **shadow}}


def started(request: Request, made: Decision, *, owner: str, reserved: Reservation | None = None) -> Draft:
    """`owner` is the process that runs it; if that dies, recovery writes `execution.unknown` and lets `reserved` go."""
    return Draft(
        "execution.started",
        made.trace_id,
        {
            **_about(request),
            "evaluation_id": made.evaluation_id,
            "owner": owner,
            "approval": {"id": made.approval_id},
            **({"reserved": msgspec.to_builtins(reserved)} if reserved else {}),
            **_rollout(made),
        },
    )


def finished(
    request: Request,
    made: Decision,
    *,
    status: str,
    error: str,
    detail: JsonObject,
    key: bytes,
    duration_us: int = 0,
    payload: Payload | None = None,
    answer: Payload | None = None,
) -> Draft:
    """`status` is `ok`, `failed` or `cancelled`; `error` a type, never a message that may hold values.

    `payload` is the result, where it is kept; `answer` what is kept for an idempotency key.
    """
    return Draft(
        "execution.finished",
        made.trace_id,
        {
            **_about(request),
            "evaluation_id": made.evaluation_id,
            "status": status,
            "error": cut(error),
            "duration_us": duration_us,
            "detail": dict(detail),
            **_rollout(made),
            **_sealed(key, payload, answer),
        },
    )


class Told(msgspec.Struct, frozen=True):
    """A decision that was given to a gateway for one of its tool calls."""

    tool: str
    runs: bool
    evaluation_id: str
    trace_id: str


def reported(gateway: str, told: Told, *, status: str, duration_us: int) -> Draft:
    """What a gateway says became of a call that was decided for it: its word, not what Checkrein saw."""
    return Draft(
        "execution.reported",
        told.trace_id,
        {
            "actor": {"type": "service", "id": cut(gateway), "agent": ""},
            "action": {"name": cut(told.tool), "resource": {"type": "tool", "id": cut(told.tool)}},
            "evaluation_id": told.evaluation_id,
            "status": status,
            "duration_us": duration_us,
        },
    )


def approval(kind: str, row: Approval, *, key: bytes) -> Draft:
    """`approval.requested`, `.decided`, `.expired`, `.cancelled`, `.used`."""
    request = row.request()
    return Draft(
        kind,
        row.trace_id,
        {
            **_about(request),
            "approval": {
                "id": row.id,
                "state": row.state.value,
                "action_hmac": commitment(key, row.action_hash),
                "approvers": str(row.requirement),
                "policies": [cut(policy) for policy in row.policies],
                "bundle": row.bundle,
                "deadline_us": row.deadline_us,
                "voters": [cut(cast.voter) for cast in row.votes],
                "simulated": any(cast.simulated for cast in row.votes),
                **({"broken_by": cut(row.broken.by)} if row.broken else {}),
                **({"edits": row.edits} if row.edits else {}),
            },
        },
    )


def vote(row: Approval, cast: Vote, *, key: bytes) -> Draft:
    return Draft(
        "approval.voted",
        row.trace_id,
        {
            "actor": {"type": "user", "id": cut(cast.voter), "agent": ""},
            "approval": {
                "id": row.id,
                "state": row.state.value,
                "action_hmac": commitment(key, row.action_hash),
            },
            "vote": {
                "approve": cast.approve,
                **_reason(key, cast.reason),
                "auth": cast.auth,
                "simulated": cast.simulated,
                "shown_hmac": commitment(key, cast.shown),
                "took_us": max(0, cast.at_us - row.created_us),
                **_in_place(cast),
                **({"grant": str(cast.grant)} if cast.grant else {}),
            },
        },
    )


def grant(
    kind: str, given: Grant, *, trace_id: str = "", actor: str = "", auth: str = "", reason: str = "", key: bytes
) -> Draft:
    """`approval.granted`, `.grant_used`, `.grant_revoked`, `.grant_ended`: found under the grant's own id.

    `trace_id` is that of the action, if there is one; `actor` the person who revoked it, else its subject acts.
    """
    who = {"type": "user", "id": cut(actor), "agent": ""}
    subject = {"type": cut(given.subject.type), "id": cut(given.subject.id), "agent": cut(given.agent)}
    return Draft(
        kind,
        trace_id or given.trace_id,
        {
            "actor": who if actor else subject,
            "action": {"name": cut(given.action), "resource": {"type": "", "id": cut(given.resource)}},
            "approval": {
                "id": given.id,
                "state": given.state.value,
                "policies": [cut(name) for name in given.policies],
            },
            "grant": {
                "of": given.approval,
                "terms": str(given.terms),
                "by": [cut(name) for name in given.by],
                "used": given.used,
                "left": given.left,
                "until_us": given.until_us,
                **({"auth": auth} if auth else {}),
                **_reason(key, reason),
            },
        },
    )


def _reason(key: bytes, reason: str) -> dict[str, object]:
    """What people write may name anybody: the approval keeps it, the ledger only a keyed commitment to it."""
    return {"reason_hmac": commitment(key, reason)} if reason else {}


def edited(before: Approval, after: Approval, by: Vote, *, changed: Sequence[str], outcome: str, key: bytes) -> Draft:
    """Somebody edited the arguments named in `changed`; `outcome` is what policy says of the action as it is now."""
    return Draft(
        "approval.edited",
        before.trace_id,
        {
            "actor": {"type": "user", "id": cut(by.voter), "agent": ""},
            "approval": {"id": before.id, "state": before.state.value, "edited_into": after.id},
            "edit": {
                "changed": [cut(name) for name in changed[:MAX_NAMES]],
                "outcome": outcome,
                "from_hmac": commitment(key, before.action_hash),
                "to_hmac": commitment(key, after.action_hash),
                "voided": len(before.votes),
                "auth": by.auth,
                **_reason(key, by.reason),
                **_in_place(by),
            },
        },
    )


def _in_place(cast: Vote) -> dict[str, object]:
    """Whose vote it is where a delegate gave it, and over whom it came."""
    return (
        {"on_behalf_of": cut(cast.on_behalf_of), "via": [cut(name) for name in cast.via]} if cast.on_behalf_of else {}
    )


def break_glass(row: Approval, breach: Breach, *, role: str, owners: Sequence[str], key: bytes) -> Draft:
    """Somebody let it run although people had not agreed; `owners` are to be told."""
    return Draft(
        "approval.break_glass",
        row.trace_id,
        {
            **_about(row.request()),
            "actor": {"type": "user", "id": cut(breach.by), "agent": ""},
            "approval": {
                "id": row.id,
                "state": row.state.value,
                "action_hmac": commitment(key, row.action_hash),
                "approvers": str(row.requirement),
                "policies": [cut(policy) for policy in row.policies],
                "deadline_us": row.deadline_us,
                "voters": [cut(cast.voter) for cast in row.votes],
            },
            "break_glass": {
                "role": role,
                "auth": breach.auth,
                "owners": [cut(owner) for owner in owners[:MAX_NAMES]],
                **_reason(key, breach.reason),
            },
        },
    )


def reviewed(row: Approval, signed: Review, *, auth: str, key: bytes) -> Draft:
    """Somebody else looked at a broken glass."""
    return Draft(
        "approval.reviewed",
        row.trace_id,
        {
            "actor": {"type": "user", "id": cut(signed.signed_by), "agent": ""},
            "approval": {"id": row.id, "state": row.state.value},
            "review": {
                "broken_by": cut(signed.broken_by),
                "auth": auth,
                "took_us": max(0, signed.signed_us - signed.at_us),
                **_reason(key, signed.note),
            },
        },
    )


def vote_refused(
    row: Approval, voter: str, *, code: str, auth: str, now_us: int, kind: str = "approval.vote_refused"
) -> Draft:
    """A vote that did not count is evidence too; so is an edit (`approval.edit_refused`), and so on."""
    return Draft(
        kind,
        row.trace_id,
        {
            "actor": {"type": "user", "id": cut(voter), "agent": ""},
            "approval": {"id": row.id, "state": row.state.value},
            "vote": {"code": code, "auth": auth, "at_us": now_us},
        },
    )


def person(kind: str, who: str, detail: JsonObject) -> Draft:
    """What a person of the deployment did to their own part in it, such as giving their vote away."""
    trace = hashlib.sha256(f"{kind}:{who}".encode()).hexdigest()[:32]
    return Draft(kind, trace, {"actor": {"type": "user", "id": cut(who), "agent": ""}, "detail": dict(detail)})


def refused(reason: str, key: str, *, count: int, since_us: int) -> Draft:
    """So many requests were refused since then, before they were an action; `key` is empty without a live one."""
    kind = "system.refused"
    trace = hashlib.sha256(f"{kind}:{reason}:{key}".encode()).hexdigest()[:32]
    body = {"actor": {"type": "service", "id": "checkrein", "agent": ""}, **({"caller": key} if key else {})}
    return Draft(kind, trace, {**body, "detail": {"reason": reason, "count": count, "since_us": since_us}})


def admin(kind: str, actor: str, detail: JsonObject) -> Draft:
    """`admin.*`, `policy.*`, `key.rotated`, `system.*`: what people and processes did to the deployment itself."""
    trace = hashlib.sha256(f"{kind}:{actor}".encode()).hexdigest()[:32]
    return Draft(kind, trace, {"actor": {"type": "operator", "id": cut(actor), "agent": ""}, "detail": dict(detail)})

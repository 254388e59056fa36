"""One approval as people read it before they vote: what will happen, why they are asked, who is needed, what it rests
on. Much like a pull request: what changes stands first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import msgspec

from checkrein.flow.approval import Approval, State, Vote
from checkrein.model.stamp import stamp
from checkrein.services.approvals import beside, in_words

if TYPE_CHECKING:
    from checkrein.compose import System
    from checkrein.policy.bundle import Bundle
    from checkrein.policy.manifest import Manifest
    from checkrein.services.electorate import Seat


def as_json(approval: Approval, now_us: int) -> dict[str, object]:
    """The approval as it is stored, with the state people should see, what is missing, and readable times."""
    value: dict[str, object] = msgspec.to_builtins(approval)
    value |= {
        "state": approval.status(now_us).value,
        "missing": list(approval.missing()),
        "created_at": stamp(approval.created_us),
        "deadline_at": stamp(approval.deadline_us),
    }
    return value


def facts(opened: System, approval: Approval) -> list[tuple[str, str]]:
    """Names and values, in the order in which people should read them; empty values say nothing."""
    now_us, bundle = opened.clock.now_us(), opened.pdp.bundle
    pending = approval.status(now_us) is State.PENDING
    review = opened.emergencies.review(approval.id)
    before = opened.approvals.get(approval.edits).request().action.input if approval.edits else None
    needed = [seat for seat in opened.approvals.voters(approval) if seat.needed] if pending else []
    request, requirement = approval.request(), approval.requirement
    return [
        ("id", approval.id),
        ("state", approval.status(now_us).value),
        ("who", f"{approval.requester.id}" + (f" through {approval.agent}" if approval.agent else "")),
        ("principals", ", ".join(approval.chain)),
        ("action", f"{request.action.name} on {request.resource.type} {request.resource.id}"),
        *_arguments(request.action.input, before, bundle.manifests.get(request.action.name)),
        *((f"  {name}", text) for name, text in beside(approval)),
        ("edited by", ", ".join(approval.edited_by)),
        ("edited into", approval.edited_into),
        ("risk", approval.risk.value),
        ("factors", ", ".join(approval.factors)),
        *(("asked by", _policy(id, bundle)) for id in approval.policies),
        ("because", "; ".join(approval.reasons)),
        ("approvers", str(requirement)),
        *(
            ("then also", f"{s.role}, from {stamp(approval.created_us + s.after_s * 10**6)}")
            for s in requirement.escalation
        ),
        ("may be granted", str(requirement.grant or "")),
        ("reason", "required" if requirement.reason_required else ""),
        ("still needed", ", ".join(approval.missing()) if pending else ""),
        ("may agree", _seats(needed) if pending else ""),
        *((f"vote of {_name(cast.voter, cast.on_behalf_of)}", _cast(cast)) for cast in approval.votes),
        ("glass broken", f"by {approval.broken.by}: {approval.broken.reason}" if approval.broken else ""),
        ("review", f"{review.state} {review.signed_by}".strip() if review else ""),
        *_basis(approval, bundle),
        ("asked at", stamp(approval.created_us)),
        ("until", stamp(approval.deadline_us)),
        ("trace id", approval.trace_id),
        ("action hash", approval.action_hash),
    ]


def _arguments(
    given: Mapping[str, object], before: Mapping[str, object] | None, manifest: Manifest | None
) -> Iterator[tuple[str, str]]:
    """Each argument with what is risky about it, and what it was before people edited it."""
    for name in dict.fromkeys((*given, *(before or ()))):
        text = in_words(given[name]) if name in given else "left out"
        if before is not None and given.get(name) != before.get(name):
            text += f" (was {in_words(before[name])})" if name in before else " (was left out)"
        risky = ["steers it"] if manifest and name in manifest.control else []
        limit = manifest.limits.get(name) if manifest else None
        value = given.get(name)
        if limit is not None and isinstance(value, int | float) and value > limit.review_above:
            risky.append(f"above {limit.review_above}")
        marks = f" ({', '.join(risky)})" if risky else ""
        yield f"  {name}{marks}", text


def _policy(id: str, bundle: Bundle) -> str:
    """A policy that asks: where it stands and whose it is, as far as it is still there."""
    found = next((policy for policy in bundle.policies.policies if policy.id == id), None)
    if found is None:
        return id
    owner = found.annotations.get("owner", "")
    return f"{id} ({found.place}{f', of {owner}' if owner else ''})"


def _basis(approval: Approval, bundle: Bundle) -> Iterator[tuple[str, str]]:
    """What it was decided from: what was found in the action, what was known of it, and which policies."""
    yield "labels", ", ".join(approval.labels)
    context = approval.action.get("context")
    session = context.get("session") if isinstance(context, Mapping) else None
    yield "session", "" if session is None else in_words(session)
    changed = " (not the ones that decide now)" if approval.bundle != bundle.digest else ""
    yield "policies", f"{approval.bundle[:19]}{changed}"


def _name(person: str, on_behalf_of: str) -> str:
    return f"{person} for {on_behalf_of}" if on_behalf_of else person


def _seats(seats: list[Seat]) -> str:
    return ", ".join(_name(seat.person, seat.on_behalf_of) for seat in seats) or "nobody of [people] by now"


def _cast(cast: Vote) -> str:
    words = ["approved" if cast.approve else "denied"]
    words += [f"({cast.reason})"] if cast.reason else []
    words += [f"granting {cast.grant}"] if cast.grant else []
    words += ["[simulated]"] if cast.simulated else []
    return " ".join(words)

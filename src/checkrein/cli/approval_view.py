"""One approval as people read it before they vote: what will happen, why they are asked, who is needed, what it rests
on. Much like a pull request: what changes stands first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from checkrein.flow.approval import Approval, State, Vote
from checkrein.model.stamp import stamp
from checkrein.services.approvals import beside, in_words

if TYPE_CHECKING:
    from checkrein.services.electorate import Seat
    from checkrein.services.showing import Details

#: what stands where a server keeps something from whoever holds this key
_UNTOLD = "not told to this key; it takes one that may `approve` or `audit`"


def facts(approval: Approval, details: Details | None) -> list[tuple[str, str]]:
    """Names and values, in the order in which people should read them; empty values say nothing.

    Without `details` it says what is not known.
    """
    pending = approval.state is State.PENDING
    request, requirement = approval.request(), approval.requirement
    return [
        ("id", approval.id),
        ("state", approval.state.value),
        ("who", f"{approval.requester.id}" + (f" through {approval.agent}" if approval.agent else "")),
        ("principals", ", ".join(approval.chain)),
        ("action", f"{request.action.name} on {request.resource.type} {request.resource.id}"),
        *_arguments(request.action.input, details),
        *((f"  {name}", text) for name, text in beside(approval)),
        ("what steers it", "" if details else _UNTOLD),
        ("edited by", ", ".join(approval.edited_by)),
        ("edited into", approval.edited_into),
        ("risk", approval.risk.value),
        ("factors", ", ".join(approval.factors)),
        *(("asked by", policy) for policy in (details.policies if details else approval.policies)),
        ("because", "; ".join(approval.reasons)),
        ("approvers", str(requirement)),
        *(
            ("then also", f"{s.role}, from {stamp(approval.created_us + s.after_s * 10**6)}")
            for s in requirement.escalation
        ),
        ("may be granted", str(requirement.grant or "")),
        ("reason", "required" if requirement.reason_required else ""),
        ("still needed", ", ".join(approval.missing()) if pending else ""),
        ("may agree", (_seats(details.may_agree) if details else _UNTOLD) if pending else ""),
        *((f"vote of {_name(cast.voter, cast.on_behalf_of)}", _cast(cast)) for cast in approval.votes),
        ("glass broken", f"by {approval.broken.by}: {approval.broken.reason}" if approval.broken else ""),
        ("review", details.review if details else _UNTOLD if approval.broken else ""),
        *_basis(approval, details),
        ("asked at", stamp(approval.created_us)),
        ("until", stamp(approval.deadline_us)),
        ("trace id", approval.trace_id),
        ("action hash", approval.action_hash),
    ]


def _arguments(given: Mapping[str, object], details: Details | None) -> Iterator[tuple[str, str]]:
    """Each argument with what is risky about it, and what it was before people edited it."""
    before = details.before if details else None
    for name in dict.fromkeys((*given, *(before or ()))):
        text = in_words(given[name]) if name in given else "left out"
        if before is not None and given.get(name) != before.get(name):
            text += f" (was {in_words(before[name])})" if name in before else " (was left out)"
        risky = ["steers it"] if details and name in details.steering else []
        limit = details.limits.get(name) if details else None
        value = given.get(name)
        if limit is not None and isinstance(value, int | float) and value > limit:
            risky.append(f"above {limit}")
        marks = f" ({', '.join(risky)})" if risky else ""
        yield f"  {name}{marks}", text


def _basis(approval: Approval, details: Details | None) -> Iterator[tuple[str, str]]:
    """What it was decided from: what was found in the action, what was known of it, and which policies."""
    yield "labels", ", ".join(approval.labels)
    context = approval.action.get("context")
    session = context.get("session") if isinstance(context, Mapping) else None
    yield "session", "" if session is None else in_words(session)
    changed = " (not the ones that decide now)" if details and details.outdated else ""
    yield "policies", f"{approval.bundle[:19]}{changed}"


def _name(person: str, on_behalf_of: str) -> str:
    return f"{person} for {on_behalf_of}" if on_behalf_of else person


def _seats(seats: tuple[Seat, ...]) -> str:
    return ", ".join(_name(seat.person, seat.on_behalf_of) for seat in seats) or "nobody of [people] by now"


def _cast(cast: Vote) -> str:
    words = ["approved" if cast.approve else "denied"]
    words += [f"({cast.reason})"] if cast.reason else []
    words += [f"granting {cast.grant}"] if cast.grant else []
    words += ["[simulated]"] if cast.simulated else []
    return " ".join(words)

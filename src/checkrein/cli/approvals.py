"""`checkrein approvals`: see what waits for people, and answer."""

from __future__ import annotations

import enum
from collections.abc import Container, Iterator, Mapping
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from checkrein.cli.common import HERE, Data, Dir, Format, Output, examples, print_json, say, system
from checkrein.cli.tables import print_facts, print_table
from checkrein.flow.approval import Approval, State, Vote
from checkrein.model.stamp import stamp

if TYPE_CHECKING:
    from checkrein.services.approvals import Seat

app = typer.Typer(help="See what waits for people, approve or deny it.", no_args_is_help=True, rich_markup_mode=None)

Id = Annotated[str, typer.Argument(metavar="ID", help="The approval's id, `apr_...`; its beginning is enough.")]

#: more approvals than anybody lists at once
_ALL = 100_000


class Which(enum.StrEnum):
    PENDING = "pending"
    APPROVED = "approved"
    DENIED = "denied"
    EXPIRED = "expired"
    CANCELLED = "cancelled"
    EXECUTING = "executing"
    USED = "used"
    UNKNOWN = "unknown"
    ALL = "all"


_NOTHING = {Which.PENDING: "nothing waits for people", Which.ALL: "nobody was ever asked"}


@app.command(
    "list",
    short_help="List what waits, oldest first.",
    epilog=examples("checkrein approvals list --dir governance", "checkrein approvals list --state all -o json"),
)
def list_(
    state: Annotated[
        Which, typer.Option(metavar="STATE", help=f"Only approvals in this state: {', '.join(Which)}.")
    ] = Which.PENDING,
    dir: Dir = HERE,
    data: Data = None,
    output: Format = Output.TABLE,
) -> None:
    """List approvals, oldest first: those that wait for people, or those in another state."""
    with system(dir, data) as opened:
        unsigned = len(opened.emergencies.reviews())
        found = opened.approvals.all(None if state is Which.ALL else State(state.value), limit=_ALL)
        now_us = opened.clock.now_us()
    if unsigned:
        say(f"{unsigned} broken glass{'es' * (unsigned > 1)} to review: `checkrein approvals reviews`")
    if output is Output.JSON:
        print_json([as_json(approval, now_us) for approval in found])
        return
    print_table(
        ("id", "state", "risk", "who", "action", "still needed", "until (UTC)", "why"),
        [
            (
                approval.id,
                approval.status(now_us).value,
                approval.risk.value,
                approval.requester.id,
                f"{approval.request().action.name} on {approval.request().resource.id}",
                ", ".join(approval.missing()),
                stamp(approval.deadline_us)[:16].replace("T", " "),
                "; ".join(approval.reasons),
            )
            for approval in found
        ],
        empty=_NOTHING.get(state, f"no approvals are {state.value}"),
        prose=("still needed", "why"),
    )


@app.command(
    short_help="Show one: what will happen, and why.",
    epilog=examples("checkrein approvals show apr_1a2b --dir governance"),
)
def show(id: Id, dir: Dir = HERE, data: Data = None, output: Format = Output.TABLE) -> None:
    """Show one approval: what will happen, why people are asked, who is still needed.

    Read this before you vote: it shows the whole action, with the arguments that steer it marked.
    """
    with system(dir, data) as opened:
        approval = opened.approvals.get(id)
        manifest = opened.pdp.bundle.manifests.get(approval.request().action.name)
        now_us = opened.clock.now_us()
        voters = [seat for seat in opened.approvals.voters(approval) if seat.needed]
        review = opened.emergencies.review(approval.id)
        before = opened.approvals.get(approval.edits).request().action.input if approval.edits else None
    if output is Output.JSON:
        print_json(as_json(approval, now_us) | {"may_agree": voters})
        return
    request = approval.request()
    control = manifest.control if manifest else ()
    facts = [
        ("id", approval.id),
        ("state", approval.status(now_us).value),
        ("who", f"{approval.requester.id}" + (f" through {approval.agent}" if approval.agent else "")),
        ("principals", ", ".join(approval.chain)),
        ("action", f"{request.action.name} on {request.resource.type} {request.resource.id}"),
        *_arguments(request.action.input, before, control),
        ("risk", approval.risk.value),
        ("factors", ", ".join(approval.factors)),
        ("asked by", ", ".join(approval.policies)),
        ("because", "; ".join(approval.reasons)),
        ("approvers", str(approval.requirement)),
        *(
            ("then also", f"{step.role}, from {stamp(approval.created_us + step.after_s * 1_000_000)}")
            for step in approval.requirement.escalation
        ),
        ("may be granted", str(approval.requirement.grant or "")),
        ("reason", "required" if approval.requirement.reason_required else ""),
        ("still needed", ", ".join(approval.missing()) if approval.state is State.PENDING else ""),
        ("may agree", ", ".join(map(_seat, voters)) if approval.state is State.PENDING else ""),
        *((f"vote of {_name(cast.voter, cast.on_behalf_of)}", _cast(cast)) for cast in approval.votes),
        ("glass broken", f"by {approval.broken.by}: {approval.broken.reason}" if approval.broken else ""),
        ("review", f"{review.state} {review.signed_by}".strip() if review else ""),
        ("edited by", ", ".join(approval.edited_by)),
        ("edited into", approval.edited_into),
        ("asked at", stamp(approval.created_us)),
        ("until", stamp(approval.deadline_us)),
        ("trace id", approval.trace_id),
        ("action hash", approval.action_hash),
    ]
    print_facts(facts)


def _arguments(
    given: Mapping[str, object], before: Mapping[str, object] | None, control: Container[str]
) -> Iterator[tuple[str, str]]:
    """Each argument, marked if it steers the effect, and what it was before people edited it."""
    for name in dict.fromkeys((*given, *(before or ()))):
        text = _text(given[name]) if name in given else "left out"
        if before is not None and given.get(name) != before.get(name):
            text += f" (was {_text(before[name])})" if name in before else " (was left out)"
        yield f"  {name}{' (steers it)' if name in control else ''}", text


def _text(value: object) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _name(person: str, on_behalf_of: str) -> str:
    return f"{person} for {on_behalf_of}" if on_behalf_of else person


def _seat(seat: Seat) -> str:
    return _name(seat.person, seat.on_behalf_of)


def _cast(cast: Vote) -> str:
    words = ["approved" if cast.approve else "denied"]
    if cast.reason:
        words.append(f"({cast.reason})")
    if cast.simulated:
        words.append("[simulated]")
    return " ".join(words)


def as_json(approval: Approval, now_us: int) -> dict[str, object]:
    value: dict[str, object] = msgspec.to_builtins(approval)
    value |= {
        "state": approval.status(now_us).value,
        "missing": list(approval.missing()),
        "created_at": stamp(approval.created_us),
        "deadline_at": stamp(approval.deadline_us),
    }
    return value

"""`checkrein approvals`: see what waits for people, and answer."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from checkrein.cli.common import HERE, Data, Dir, Format, Output, print_facts, print_json, print_table, say, system
from checkrein.flow.approval import Approval, State
from checkrein.model import BadRequest
from checkrein.model.stamp import stamp

if TYPE_CHECKING:
    from checkrein.compose import System

app = typer.Typer(help="See what waits for people, approve or deny it.", no_args_is_help=True, rich_markup_mode=None)

Id = Annotated[str, typer.Argument(help="The approval's id, `apr_...`; its beginning is enough.")]
As = Annotated[str, typer.Option("--as", help="Who acts: a person under `[people]` in checkrein.toml.")]
Reason = Annotated[str, typer.Option("--reason", help="Why; stands in the ledger.")]


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


@app.command("list")
def list_(
    state: Annotated[Which, typer.Option(help="Only approvals in this state.")] = Which.PENDING,
    dir: Dir = HERE,
    data: Data = None,
    output: Format = Output.TABLE,
) -> None:
    """List approvals, oldest first."""
    with system(dir, data) as opened:
        found = opened.approvals.all(None if state is Which.ALL else State(state.value))
        now_us = opened.clock.now_us()
    if output is Output.JSON:
        print_json([_json(approval, now_us) for approval in found])
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
        empty="nothing waits for people" if state is Which.PENDING else f"no approvals are {state.value}",
    )


@app.command()
def show(id: Id, dir: Dir = HERE, data: Data = None, output: Format = Output.TABLE) -> None:
    """Show one approval: what will happen, why people are asked, who is still needed."""
    with system(dir, data) as opened:
        approval = opened.approvals.get(id)
        manifest = opened.pdp.bundle.manifests.get(approval.request().action.name)
        now_us = opened.clock.now_us()
    if output is Output.JSON:
        print_json(_json(approval, now_us))
        return
    request = approval.request()
    control = manifest.control if manifest else ()
    facts = [
        ("id", approval.id),
        ("state", approval.status(now_us).value),
        ("who", f"{approval.requester.id}" + (f" through {approval.agent}" if approval.agent else "")),
        ("action", f"{request.action.name} on {request.resource.type} {request.resource.id}"),
        *(
            (f"  {name}{' (steers it)' if name in control else ''}", _text(value))
            for name, value in request.action.input.items()
        ),
        ("risk", approval.risk.value),
        ("factors", ", ".join(approval.factors)),
        ("asked by", ", ".join(approval.policies)),
        ("because", "; ".join(approval.reasons)),
        ("approvers", str(approval.requirement)),
        ("still needed", ", ".join(approval.missing()) if approval.state is State.PENDING else ""),
        *((f"vote of {cast.voter}", _vote(cast.approve, cast.reason, cast.simulated)) for cast in approval.votes),
        ("asked at", stamp(approval.created_us)),
        ("until", stamp(approval.deadline_us)),
        ("trace id", approval.trace_id),
        ("action hash", approval.action_hash),
    ]
    print_facts(facts)


@app.command()
def approve(id: Id, who: As = "", reason: Reason = "", dir: Dir = HERE, data: Data = None) -> None:
    """Approve: the exact action shown may run, once, when it is sent again.

    Example: checkrein approvals approve apr_1a2b --as privacy-officer --reason "agreed with legal"
    """
    with system(dir, data) as opened:
        roles = _roles(opened, who)
        after = opened.approvals.vote(id, voter=who, roles=roles, approve=True, reason=reason, auth="local")
    if after.state is State.APPROVED:
        say(f"{after.id} is approved; it runs once when the same request is sent again")
    else:
        say(f"{after.id} has your vote; still needed: {', '.join(after.missing())}")


@app.command()
def deny(id: Id, who: As = "", reason: Reason = "", dir: Dir = HERE, data: Data = None) -> None:
    """Deny: the action will not run."""
    with system(dir, data) as opened:
        roles = _roles(opened, who)
        after = opened.approvals.vote(id, voter=who, roles=roles, approve=False, reason=reason, auth="local")
    say(f"{after.id} is {after.state}")


def _roles(system: System, who: str) -> tuple[str, ...]:
    """The roles of the person who acts; raises `BadRequest` for somebody this deployment does not know."""
    people = system.config.people
    if who not in people:
        message = f"`{who}` is not among the people of this deployment" if who else "who acts?"
        names = ", ".join(sorted(people)) or "nobody yet"
        raise BadRequest(message, hint=f"give `--as PERSON`; `[people.NAME]` in checkrein.toml knows: {names}")
    return people[who].roles


def _text(value: object) -> str:
    text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    return "".join(char if char.isprintable() or char == "\n" else f"\\x{ord(char):02x}" for char in text)


def _vote(approve: bool, reason: str, simulated: bool) -> str:
    words = ["approved" if approve else "denied"]
    if reason:
        words.append(f"({_text(reason)})")
    if simulated:
        words.append("[simulated]")
    return " ".join(words)


def _json(approval: Approval, now_us: int) -> dict[str, object]:
    value: dict[str, object] = msgspec.to_builtins(approval)
    value |= {
        "state": approval.status(now_us).value,
        "missing": list(approval.missing()),
        "created_at": stamp(approval.created_us),
        "deadline_at": stamp(approval.deadline_us),
    }
    return value

"""`checkrein approvals`: see what waits for people, and answer."""

from __future__ import annotations

import enum
from typing import Annotated

import msgspec
import typer

from checkrein.cli.approval_view import facts
from checkrein.cli.common import HERE, Data, Dir, Format, Output, examples, print_json, say
from checkrein.cli.desk import Url, desk
from checkrein.cli.tables import print_facts, print_table
from checkrein.flow.approval import Approval, State
from checkrein.model import Level
from checkrein.model.stamp import stamp

app = typer.Typer(help="See what waits for people, approve or deny it.", no_args_is_help=True, rich_markup_mode=None)

Id = Annotated[str, typer.Argument(metavar="ID", help="The approval's id, `apr_...`; its beginning is enough.")]


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
    group: Annotated[bool, typer.Option("--group", help="One line for the same tool, agent and policies.")] = False,
    url: Url = "",
    dir: Dir = HERE,
    data: Data = None,
    output: Format = Output.TABLE,
) -> None:
    """List approvals, oldest first: those that wait for people, or those in another state."""
    from checkrein.services.showing import stored

    with desk(url, dir, data) as open_desk:
        found, unreviewed = open_desk.listed(None if state is Which.ALL else State(state.value))
    if unreviewed:
        say(f"{unreviewed} broken glass{'es' * (unreviewed > 1)} to review: `checkrein approvals reviews`")
    empty = _NOTHING.get(state, f"no approvals are {state.value}")
    if group:
        _print_groups(_grouped(found), output, empty)
        return
    if output is Output.JSON:
        print_json([*map(stored, found)])
        return
    print_table(
        ("id", "state", "risk", "who", "action", "still needed", "until (UTC)", "why"),
        [
            (
                approval.id,
                approval.state.value,
                approval.risk.value,
                approval.requester.id,
                f"{approval.request().action.name} on {approval.request().resource.id}",
                ", ".join(approval.missing()),
                stamp(approval.deadline_us)[:16].replace("T", " "),
                "; ".join(approval.reasons),
            )
            for approval in found
        ],
        empty=empty,
        prose=("still needed", "why"),
    )


@app.command(
    short_help="Show one: what will happen, and why.",
    epilog=examples("checkrein approvals show apr_1a2b --dir governance"),
)
def show(id: Id, url: Url = "", dir: Dir = HERE, data: Data = None, output: Format = Output.TABLE) -> None:
    """Show one approval: what will happen, why people are asked, who is still needed.

    Read this before you vote: it shows the whole action, with the arguments that steer it marked.
    """
    from checkrein.services.showing import stored

    with desk(url, dir, data) as open_desk:
        approval, details = open_desk.show(id)
    if output is Output.JSON:
        print_json(stored(approval) | {"may_agree": details.may_agree if details else None})
    else:
        print_facts(facts(approval, details))


class _Group(msgspec.Struct, frozen=True):
    """Requests of one shape: the same tool, agent and policies. A glance for many, and still a vote for each."""

    action: str
    agent: str
    policies: tuple[str, ...]
    approvals: tuple[Approval, ...]

    @property
    def risk(self) -> Level:
        return max((approval.risk for approval in self.approvals), key=[*Level].index)


def _grouped(found: list[Approval]) -> list[_Group]:
    """In groups, each as old as its oldest."""
    groups: dict[tuple[str, str, tuple[str, ...]], list[Approval]] = {}
    for approval in found:
        name = str(approval.request().action.name)
        groups.setdefault((name, approval.agent, approval.policies), []).append(approval)
    return [_Group(*shape, tuple(each)) for shape, each in groups.items()]


def _print_groups(groups: list[_Group], output: Output, empty: str) -> None:
    if output is Output.JSON:
        print_json(
            [
                {
                    "action": group.action,
                    "agent": group.agent,
                    "policies": group.policies,
                    "risk": group.risk,
                    "count": len(group.approvals),
                    "ids": [approval.id for approval in group.approvals],
                }
                for group in groups
            ]
        )
        return
    print_table(
        ("count", "risk", "action", "agent", "who", "asked by", "first until (UTC)", "ids"),
        [
            (
                str(len(group.approvals)),
                group.risk.value,
                group.action,
                group.agent,
                ", ".join(dict.fromkeys(approval.requester.id for approval in group.approvals)),
                ", ".join(group.policies),
                stamp(min(approval.deadline_us for approval in group.approvals))[:16].replace("T", " "),
                " ".join(approval.id for approval in group.approvals),
            )
            for group in groups
        ],
        empty=empty,
        prose=("who", "ids"),
    )

"""`checkrein approvals`: what holds beyond one request."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from checkrein.cli.common import HERE, Data, Dir, Format, Output, examples, print_json, say
from checkrein.cli.desk import As, Url, desk
from checkrein.cli.tables import print_table
from checkrein.model.stamp import stamp

if TYPE_CHECKING:
    from checkrein.services.delegation import StandIn


def register(approvals: typer.Typer) -> None:
    """Hang the verbs under the group `approvals`."""
    approvals.command(
        short_help="Give your vote away for a time, or take it back.",
        epilog=examples(
            "checkrein approvals delegate    who stands in for whom",
            "checkrein approvals delegate carol --as bob --until 2026-12-24",
            "checkrein approvals delegate --as bob --end",
        ),
    )(delegate)
    approvals.command(
        short_help="List what people let happen again.",
        epilog=examples("checkrein approvals grants", "checkrein approvals grants --all -o json"),
    )(grants)
    approvals.command(
        short_help="End a grant.",
        epilog=examples('checkrein approvals revoke grt_1a2b --as bob --reason "moved on"'),
    )(revoke)


def delegate(
    to: Annotated[str, typer.Argument(metavar="PERSON", help="Who votes in your place.", show_default=False)] = "",
    who: As = "",
    first: Annotated[
        str, typer.Option("--from", metavar="DATE", help="The first day, UTC.", show_default="today")
    ] = "",
    last: Annotated[str, typer.Option("--until", metavar="DATE", help="The last day, UTC.")] = "",
    end: Annotated[bool, typer.Option("--end", help="Take it back.")] = False,
    url: Url = "",
    dir: Dir = HERE,
    data: Data = None,
    output: Format = Output.TABLE,
) -> None:
    """Let somebody else vote with your roles for a time; it is recorded, and each of their votes says for whom it was.

    Nobody gains a vote on what they asked for themselves. An absence in checkrein.toml does the same by itself.
    """
    with desk(url, dir, data, who) as open_desk:
        if end:
            say(f"`{open_desk.undelegate().person}` votes alone again")
        elif to:
            given = open_desk.delegate(to, first, last)
            say(f"`{given.delegate}` may vote in the place of `{given.person}` until {given.until}")
        else:
            _print_delegations(open_desk.delegations(), output)


def grants(
    every: Annotated[bool, typer.Option("--all", help="Also those that have ended.")] = False,
    url: Url = "",
    dir: Dir = HERE,
    data: Data = None,
    output: Format = Output.TABLE,
) -> None:
    """List grants, the newest first: for whom, what stays the same, how many uses are left, and the last one."""
    with desk(url, dir, data) as open_desk:
        found = open_desk.grants(live=not every)
    if output is Output.JSON:
        print_json([msgspec.to_builtins(grant) | {"left": grant.left} for grant in found])
        return
    print_table(
        ("id", "state", "who", "action", "same", "left", "until (UTC)", "last use (UTC)", "given by"),
        [
            (
                grant.id,
                grant.state.value,
                grant.subject.id + (f" through {grant.agent}" if grant.agent else ""),
                f"{grant.action} on {grant.resource}",
                ", ".join(f"{name}={_text(value)}" for name, value in grant.same.items()),
                f"{grant.left} of {grant.terms.uses}",
                stamp(grant.until_us)[:16].replace("T", " "),
                stamp(grant.last_us)[:16].replace("T", " ") if grant.last_us else "",
                ", ".join(grant.by),
            )
            for grant in found
        ],
        empty="nothing was granted" if every else "no grant lives",
        prose=("same",),
    )


def revoke(
    id: Annotated[str, typer.Argument(metavar="GRANT", help="The grant's id, `grt_...`; its beginning is enough.")],
    who: As = "",
    reason: Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why.")] = "",
    url: Url = "",
    dir: Dir = HERE,
    data: Data = None,
    output: Format = Output.TABLE,
) -> None:
    """End a grant: from the next request on people are asked again. Anybody of this deployment may."""
    with desk(url, dir, data, who) as open_desk:
        ended = open_desk.revoke(id, reason)
    if output is Output.JSON:
        print_json(msgspec.to_builtins(ended))
    say(f"{ended.id} is revoked; it was used {ended.used} of {ended.terms.uses} times")


def _text(value: object) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _print_delegations(found: list[StandIn], output: Output) -> None:
    if output is Output.JSON:
        print_json(found)
        return
    rows = [(each.person, each.delegate, each.since, each.until, each.by) for each in found]
    print_table(("person", "delegate", "from", "until", "by"), rows, empty="nobody stands in for anybody")

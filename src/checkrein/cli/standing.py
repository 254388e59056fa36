"""`checkrein approvals`: what holds beyond one request."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from checkrein.cli.common import HERE, Data, Dir, Format, Output, examples, print_json, say, system
from checkrein.cli.tables import print_table
from checkrein.model import BadRequest
from checkrein.model.people import Absence, parse_day
from checkrein.model.stamp import stamp

if TYPE_CHECKING:
    from checkrein.compose import System

As = Annotated[
    str, typer.Option("--as", metavar="PERSON", help="Who acts: a person under `[people]` in checkrein.toml.")
]


def known(system: System, who: str) -> None:
    """Raise `BadRequest` for somebody this deployment does not know, or for nobody."""
    people = system.config.people
    if who not in people:
        message = f"`{who}` is not among the people of this deployment" if who else "nobody is named who acts"
        names = ", ".join(sorted(people)) or "nobody yet"
        raise BadRequest(message, hint=f"give `--as PERSON`; `[people.NAME]` in checkrein.toml knows: {names}")


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
    dir: Dir = HERE,
    data: Data = None,
    output: Format = Output.TABLE,
) -> None:
    """Let somebody else vote with your roles for a time; it is recorded, and each of their votes says for whom it was.

    Nobody gains a vote on what they asked for themselves. An absence in checkrein.toml does the same by itself.
    """
    with system(dir, data) as opened:
        delegations, now_us = opened.approvals.electorate.delegations, opened.clock.now_us()
        if not (to or end):
            _list_delegations(opened, now_us, output)
            return
        known(opened, who)
        if end:
            delegations.end(who, auth="local")
            say(f"`{who}` votes alone again")
            return
        if not last:
            raise BadRequest("no last day is given", hint="give `--until 2026-12-24`")
        from_us = Absence(parse_day(first), parse_day(first)).bounds_us[0] if first else now_us
        until_us = Absence(parse_day(last), parse_day(last)).bounds_us[1]
        given = delegations.give(who, to, from_us=from_us, until_us=until_us, auth="local")
    say(f"`{to}` may vote in the place of `{who}` until {stamp(given.until_us)}")


def grants(
    every: Annotated[bool, typer.Option("--all", help="Also those that have ended.")] = False,
    dir: Dir = HERE,
    data: Data = None,
    output: Format = Output.TABLE,
) -> None:
    """List grants, the newest first: for whom, what stays the same, how many uses are left, and the last one."""
    with system(dir, data) as opened:
        found, now_us = opened.grants.all(live=not every), opened.clock.now_us()
    if output is Output.JSON:
        print_json(
            [msgspec.to_builtins(grant) | {"state": grant.status(now_us), "left": grant.left} for grant in found]
        )
        return
    print_table(
        ("id", "state", "who", "action", "same", "left", "until (UTC)", "last use (UTC)", "given by"),
        [
            (
                grant.id,
                grant.status(now_us).value,
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
    dir: Dir = HERE,
    data: Data = None,
    output: Format = Output.TABLE,
) -> None:
    """End a grant: from the next request on people are asked again. Anybody of this deployment may."""
    with system(dir, data) as opened:
        known(opened, who)
        ended = opened.grants.revoke(id, by=who, reason=reason, auth="local")
    if output is Output.JSON:
        print_json(msgspec.to_builtins(ended))
    say(f"{ended.id} is revoked; it was used {ended.used} of {ended.terms.uses} times")


def _text(value: object) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _list_delegations(opened: System, now_us: int, output: Output) -> None:
    from checkrein.config import FILE

    people = opened.approvals.people.people
    away = [(name, who.delegate, each.bounds_us, FILE) for name, who in sorted(people.items()) for each in who.away]
    given = opened.approvals.electorate.delegations.all()
    rows = [row for row in away if now_us < row[2][1]]
    rows += [(each.delegator, each.delegate, (each.from_us, each.until_us), each.delegator) for each in given]
    names = ("person", "delegate", "from", "until", "by")
    cells = [(name, to, *map(stamp, bounds), by) for name, to, bounds, by in rows]
    if output is Output.JSON:
        print_json([dict(zip(names, row, strict=True)) for row in cells])
        return
    print_table(names, cells, empty="nobody stands in for anybody")

"""`checkrein approvals watch`: what happens to approvals, as it happens, or until one has been settled."""

from __future__ import annotations

from typing import Annotated

import typer

from checkrein.cli.common import HERE, Data, Dir, Format, Output, examples, print_json, print_json_line, say
from checkrein.cli.desk import FOR_EVER_S, Desk, Url, desk
from checkrein.cli.tables import print_columns
from checkrein.flow.approval import State
from checkrein.model.requirement import parse_span

COLUMNS, _WIDTHS = ("time (UTC)", "what", "approval", "who", "action"), (19, 22, 20, 18, 40)
#: how it ends: as `decide` would for the action
_CODES = {State.PENDING: 4, State.DENIED: 3, State.EXPIRED: 3, State.CANCELLED: 3}


def register(approvals: typer.Typer) -> None:
    """Hang the verb under the group `approvals`."""
    approvals.command(
        short_help="See what happens to them, as it happens.",
        epilog=examples(
            "checkrein approvals watch                  until Ctrl-C",
            "checkrein approvals watch apr_1a2b --for 10m && ./go-on",
        ),
    )(watch)


def watch(
    id: Annotated[
        str, typer.Argument(metavar="ID", help="Only this one, until people have settled it.", show_default=False)
    ] = "",
    longest: Annotated[
        str, typer.Option("--for", metavar="TIME", help="With ID: no longer than this.", show_default="its deadline")
    ] = "",
    url: Url = "",
    dir: Dir = HERE,
    data: Data = None,
    output: Format = Output.TABLE,
) -> None:
    """Show every request, vote, edit and end, by whichever process, until Ctrl-C; `-o json` prints one line each.

    With an id: wait until it has been settled, and end with 0 if it may run, 3 if it may not, 4 if people are still
    needed. An edit is followed.
    """
    with desk(url, dir, data) as open_desk:
        if id:
            code = _settle(open_desk, id, parse_span(longest) if longest else FOR_EVER_S, output)
        else:
            code = _follow(open_desk, output)
    raise typer.Exit(code)


def _settle(open_desk: Desk, id: str, seconds: float, output: Output) -> int:
    from checkrein.services.showing import stored

    approval = open_desk.settled(id, seconds)
    if output is Output.JSON:
        print_json(stored(approval))
    missing = f"; still needed: {', '.join(approval.missing())}" if approval.state is State.PENDING else ""
    say(f"{approval.id} is {approval.state}{missing}")
    return _CODES.get(approval.state, 0)


def _follow(open_desk: Desk, output: Output) -> int:
    if output is Output.TABLE:
        print_columns([name.upper() for name in COLUMNS], _WIDTHS)
    try:
        for event in open_desk.events():
            _print(event, output)
    except KeyboardInterrupt:
        return 0
    return 0


def _print(event: dict[str, object], output: Output) -> None:
    if output is Output.JSON:
        print_json_line(event)
        return
    from checkrein.ledger.record import facets

    found = facets(event)
    time, kind = str(event.get("at", ""))[:19].replace("T", " "), str(event.get("kind", ""))
    print_columns((time, kind.removeprefix("approval."), found.approval, found.user, found.action), _WIDTHS)

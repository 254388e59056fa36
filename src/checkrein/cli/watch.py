"""`checkrein approvals watch`: what happens to approvals, as it happens, or until one has been settled."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Annotated

import typer

from checkrein.cli.approval_view import as_json
from checkrein.cli.common import HERE, Data, Dir, Format, Output, examples, print_json, print_json_line, say, system
from checkrein.cli.tables import print_columns
from checkrein.flow.approval import State
from checkrein.model.requirement import parse_span
from checkrein.model.stamp import stamp

if TYPE_CHECKING:
    from checkrein.compose import System
    from checkrein.ledger import Record

COLUMNS, _WIDTHS = ("time (UTC)", "what", "approval", "who", "action"), (19, 22, 20, 18, 40)
#: how it ends: as `decide` would for the action
_CODES = {State.PENDING: 4, State.DENIED: 3, State.EXPIRED: 3, State.CANCELLED: 3}
#: records that are read at once
_PAGE = 500


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
    dir: Dir = HERE,
    data: Data = None,
    output: Format = Output.TABLE,
) -> None:
    """Show every request, vote, edit and end, by whichever process, until Ctrl-C; `-o json` prints one line each.

    With an id: wait until it has been settled, and end with 0 if it may run, 3 if it may not, 4 if people are still
    needed. An edit is followed.
    """
    with system(dir, data) as opened:
        if id:
            code = _settle(opened, id, parse_span(longest) if longest else 10**9, output)
        else:
            code = _follow(opened, output)
    raise typer.Exit(code)


def _settle(opened: System, id: str, seconds: float, output: Output) -> int:
    approval = opened.approvals.latest(opened.approvals.get(id))
    until_us = opened.clock.now_us() + int(seconds * 1_000_000)
    while True:
        left = (until_us - opened.clock.now_us()) / 1_000_000
        approval = opened.waiting.settled_sync(approval.id, max(0.0, left))
        if not approval.edited_into:
            break
        approval = opened.approvals.latest(approval)
    now_us = opened.clock.now_us()
    if output is Output.JSON:
        print_json(as_json(approval, now_us))
    state = approval.status(now_us)
    missing = f"; still needed: {', '.join(approval.missing())}" if state is State.PENDING else ""
    say(f"{approval.id} is {state}{missing}")
    return _CODES.get(state, 0)


def _follow(opened: System, output: Output) -> int:
    news, seq = threading.Event(), opened.waiting.latest()
    with opened.waiting.listening("", news.set):
        if output is Output.TABLE:
            print_columns([name.upper() for name in COLUMNS], _WIDTHS)
        try:
            while True:
                news.clear()
                for record in (page := opened.waiting.since(seq, _PAGE)):
                    seq = record.seq
                    _print(record, output)
                if not page:
                    news.wait()
        except KeyboardInterrupt:
            return 0


def _print(record: Record, output: Output) -> None:
    if output is Output.JSON:
        about = {"seq": record.seq, "at": stamp(record.ts_us), "kind": record.kind}
        print_json_line(
            about | {name: record.body[name] for name in ("actor", "action", "approval") if name in record.body}
        )
        return
    from checkrein.ledger.record import facets

    found = facets(record.body)
    time = stamp(record.ts_us)[:19].replace("T", " ")
    print_columns((time, record.kind.removeprefix("approval."), found.approval, found.user, found.action), _WIDTHS)

"""`checkrein audit tail`: the newest records, and with `-f` every one that follows."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from checkrein.cli import filters
from checkrein.cli.audit import COLUMNS, directory, row, value_of
from checkrein.cli.common import HERE, Data, Dir, Format, Output, examples, print_json_line, say
from checkrein.cli.tables import print_columns
from checkrein.model import NotFound

if TYPE_CHECKING:
    from checkrein.ledger import Record
    from checkrein.ports import RecordQuery
    from checkrein.storage.files import DataDir

#: room for what is usual; a longer cell moves the rest of its line to the right
_WIDTHS = (7, 19, 18, 12, 18, 20, 5, 32)


def register(audit: typer.Typer) -> None:
    """Hang the verb under the group `audit`."""
    audit.command(
        short_help="Show the newest records, and follow.",
        epilog=examples(
            "checkrein audit tail -f --outcome deny",
            "checkrein audit tail -n 0 -f -o json | my-alerts",
        ),
    )(tail)


def tail(
    number: Annotated[
        int, typer.Option("-n", "--lines", min=0, max=100_000, metavar="N", help="How many to begin with.")
    ] = 10,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on until Ctrl-C.")] = False,
    user: filters.User = "",
    agent: filters.Agent = "",
    action: filters.Action = "",
    outcome: filters.Outcome = "",
    risk: filters.Risk = None,
    trace: filters.Trace = "",
    approval: filters.Approval = "",
    policy: filters.Policy = "",
    kind: filters.Kind = "",
    since: filters.Since = "",
    until: filters.Until = "",
    dir: Dir = HERE,
    data: Data = None,
    output: Format = Output.TABLE,
) -> None:
    """Show the newest records, newest last; `-o json` prints one line each. With `-f` whatever any process of this
    host records follows, in order, nothing twice and nothing left out, until Ctrl-C; the store may be made later.
    """
    query = filters.query(
        user=user,
        agent=agent,
        action=action,
        outcome=outcome,
        risk=risk,
        trace_id=trace,
        approval=approval,
        policy=policy,
        kind=kind,
        since=since,
        until=until,
    )
    try:
        _print(_records(directory(dir, data), query, number, follow), output)
    except KeyboardInterrupt:
        if not follow:
            raise


def _records(files: DataDir, query: RecordQuery, number: int, follow: bool) -> Iterable[Record]:
    from checkrein.ports import RecordQuery
    from checkrein.storage.follow import Follow
    from checkrein.storage.reader import SqliteReader

    start, last_id = 0, ""
    if files.database.is_file():
        reader = SqliteReader(files)
        try:
            last = next(reader.records(RecordQuery(limit=1, newest_first=True)), None)
            if last is not None:
                start, last_id = last.seq + 1, last.id
                newest = msgspec.structs.replace(query, before_seq=start, limit=number, newest_first=True)
                yield from list(reader.records(newest) if number else ())[::-1]
        finally:
            reader.close()
    elif not follow:
        raise NotFound(
            f"there is no ledger in `{files.path}`",
            hint="name the folder with `--dir`, or the store with `--data`; `-f` waits for one",
        )
    if follow:
        following = Follow(files, query, start=start, last_id=last_id, say=say)
        try:
            yield from following
        finally:
            following.close()


def _print(records: Iterable[Record], output: Output) -> None:
    titled = False
    for record in records:
        if output is Output.JSON:
            print_json_line(value_of(record))
            continue
        if not titled:
            print_columns([name.upper() for name in COLUMNS], _WIDTHS)
            titled = True
        print_columns(row(record), _WIDTHS)

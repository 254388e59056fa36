"""`checkrein audit export`: the ledger in the forms others read."""

from __future__ import annotations

import enum
import fcntl
import glob
import os
import secrets
import sys
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from checkrein.cli import filters
from checkrein.cli.audit import reading
from checkrein.cli.common import HERE, Data, Dir, examples, is_terminal, reason, say, to_stdout
from checkrein.cli.tables import progress
from checkrein.model import BadRequest, CheckreinError

if TYPE_CHECKING:
    from typing import BinaryIO

    from checkrein.ports import RecordQuery

#: records between two movements of a progress bar
_TELL = 1000


class ExportFormat(enum.StrEnum):
    JSONL = "jsonl"
    CSV = "csv"
    PARQUET = "parquet"
    OCSF = "ocsf"
    OTEL = "otel"
    TLOG = "tlog"


def register(audit: typer.Typer) -> None:
    """Hang the verb under the group `audit`."""
    audit.command(
        short_help="Export records to a file.",
        epilog=examples(
            "checkrein audit export --output ledger.jsonl",
            "checkrein audit export --format csv --user alice --output alice.csv",
            "checkrein audit export --format ocsf --since 24h | my-siem",
        ),
    )(export)


def export(
    format: Annotated[
        ExportFormat,
        typer.Option("--format", help="jsonl has the exact bytes, tlog proves itself to strangers."),
    ] = ExportFormat.JSONL,
    to: Annotated[
        Path | None,
        typer.Option(
            "--output", "--to", metavar="PATH", help="The file, or for tlog the folder.", show_default="standard output"
        ),
    ] = None,
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
) -> None:
    """Export the records of this moment, oldest first. A file or folder appears only when it is complete.

    csv and parquet are for tables; ocsf and otel speak the words of OCSF and OpenTelemetry (docs/exports.md).
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
    if format is ExportFormat.TLOG:
        _export_tlog(to, query, dir, data)
    else:
        _export(format, to, query, dir, data)


def _export(format: ExportFormat, to: Path | None, query: RecordQuery, dir: Path, data: Path | None) -> None:
    from checkrein import __version__
    from checkrein.services import exports
    from checkrein.services.filters import is_filtered

    if format is ExportFormat.PARQUET and to is None and is_terminal():
        raise BadRequest("parquet is no text for a terminal", hint="name a file with `--output FILE`")
    with reading(dir, data) as store, _target(to) as out:
        total = None if is_filtered(query) else store.head().size
        with progress("records", shown=to is not None or not is_terminal()) as told:

            def heard(count: int) -> None:
                if count % _TELL == 0:
                    told(count, total)

            made = exports.export(store, format.value, query, out, version=__version__, heard=heard)
    written = f"{made.records} record{'' if made.records == 1 else 's'} written to {to or 'standard output'}"
    say(f"{written}; the ledger had {made.head.size}, with root {b64encode(made.head.root).decode()}")
    if not is_filtered(query) and made.records != made.head.size:
        say("warning: those are not all of them; `checkrein audit verify` says what is missing")


def _export_tlog(to: Path | None, query: RecordQuery, dir: Path, data: Path | None) -> None:
    from checkrein.cli.evidence import export_tlog
    from checkrein.services.filters import is_filtered

    if to is None:
        raise BadRequest("a tlog export is a folder", hint="name a new one with `--output DIR`")
    if is_filtered(query):
        raise BadRequest("a tlog export has every record", hint="leave the filters out, or choose another format")
    export_tlog(to, dir=dir, data=data)


@contextmanager
def _target(to: Path | None) -> Iterator[BinaryIO]:
    """Where an export goes. A file is written beside its place, and moved there when all of it is on the disk."""
    if to is None:
        with to_stdout():
            yield sys.stdout.buffer
            sys.stdout.buffer.flush()
        return
    partial = to.parent / f".{to.name}.{secrets.token_hex(4)}.partial"
    try:
        if to.exists() and not (to.is_file() or to.is_dir()):  # a pipe or a device: nothing may take its place
            with to.open("wb") as file:
                yield file
            return
        try:
            with partial.open("xb") as file:
                with suppress(OSError):  # on a disk that knows no locks nothing is swept
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    _sweep(to, partial)
                yield file
                file.flush()
                os.fsync(file.fileno())
            partial.replace(to)
            _sync(to.parent)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise CheckreinError(f"`{to}` cannot be written: {reason(error)}", hint="name another file") from error


def _sweep(to: Path, mine: Path) -> None:
    """Remove what exports to this place left that were killed: nobody holds it any more."""
    for left in to.parent.glob(f".{glob.escape(to.name)}.*.partial"):
        if left == mine:
            continue
        with suppress(OSError), left.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            left.unlink()


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

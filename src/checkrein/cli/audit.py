"""`checkrein audit` and `checkrein activity`: what happened, and the proof that it was not changed."""

from __future__ import annotations

import enum
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from checkrein.cli.common import HERE, Data, Dir, Format, Output, print_json, print_table, say, system
from checkrein.model import BadRequest
from checkrein.model.json import load_object
from checkrein.model.stamp import stamp

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import TextIO

    from checkrein.ledger import Record

app = typer.Typer(help="List, show, verify and export the ledger.", no_args_is_help=True, rich_markup_mode=None)

User = Annotated[str, typer.Option(help="Only actions of this person.")]
Limit = Annotated[int, typer.Option(min=1, max=100_000, help="At most so many, the newest.")]
Kind = Annotated[str, typer.Option(help="Only this kind, such as `decision`; several by comma.")]
Trace = Annotated[str, typer.Option(help="Only this trace id.")]


class ExportFormat(enum.StrEnum):
    JSONL = "jsonl"
    CSV = "csv"


def register(app: typer.Typer) -> None:
    app.command(short_help="What happened: one row an action.")(activity)


@app.command("list")
def list_(
    user: User = "",
    agent: Annotated[str, typer.Option(help="Only this agent.")] = "",
    action: Annotated[str, typer.Option(help="Only this action.")] = "",
    outcome: Annotated[str, typer.Option(help="Only this outcome, such as `deny`.")] = "",
    risk: Annotated[str, typer.Option(help="Only this risk: green, amber or red.")] = "",
    trace: Trace = "",
    kind: Kind = "",
    limit: Limit = 50,
    dir: Dir = HERE,
    data: Data = None,
    output: Format = Output.TABLE,
) -> None:
    """List records, newest last."""
    from checkrein.ports import RecordQuery

    query = RecordQuery(
        user=user,
        agent=agent,
        action=action,
        outcome=outcome,
        risk=risk,
        trace_id=trace,
        kinds=_kinds(kind),
        limit=limit,
        newest_first=True,
    )
    with system(dir, data) as opened:
        records = list(opened.audit.records(query))[::-1]
    if output is Output.JSON:
        print_json([load_object(record.data) for record in records])
        return
    print_table(
        ("seq", "time (UTC)", "kind", "who", "action", "outcome", "risk", "trace id"),
        [_row(record) for record in records],
        empty="no records fit",
    )


@app.command()
def show(
    id: Annotated[str, typer.Argument(help="The record's sequence number, or its id `rec_...`.")],
    dir: Dir = HERE,
    data: Data = None,
) -> None:
    """Show one record, exactly as it stands in the ledger."""
    with system(dir, data) as opened:
        record = opened.audit.show(id)
    print_json(load_object(record.data))


@app.command()
def verify(
    key: Annotated[
        Path | None,
        typer.Option("--key", help="Your own copy of the public key.", show_default="signer.pub of the store"),
    ] = None,
    dir: Dir = HERE,
    data: Data = None,
    output: Format = Output.TABLE,
) -> None:
    """Verify the whole ledger: every byte, the order, the tree and the signed checkpoint. Exits 6 if it fails."""
    from checkrein.compose import verify_ledger

    report = verify_ledger(dir, data=data, vkey=_key(key))
    if output is Output.JSON:
        print_json(report.to_json())
    report.require()
    if output is Output.TABLE:
        typer.echo(report.summary())


def _key(path: Path | None) -> str:
    if path is None:
        return ""
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise BadRequest(f"`{path}` cannot be read", hint="name the file with the public key") from error


@app.command()
def export(
    format: Annotated[ExportFormat, typer.Option("--format", help="jsonl has the exact bytes; csv is for tables.")] = (
        ExportFormat.JSONL
    ),
    to: Annotated[Path | None, typer.Option("--to", help="The file to write.", show_default="standard output")] = None,
    user: User = "",
    trace: Trace = "",
    kind: Kind = "",
    dir: Dir = HERE,
    data: Data = None,
) -> None:
    """Export records, oldest first. A file appears only when it is complete."""
    from checkrein.ports import RecordQuery

    query = RecordQuery(user=user, trace_id=trace, kinds=_kinds(kind))
    count = 0
    with system(dir, data) as opened, _target(to) as out:
        for line in opened.audit.export(format.value, query):
            out.write(line)
            count += 1
    if to is not None:
        say(f"{count} lines written to {to}")


def activity(
    user: User = "", limit: Limit = 50, dir: Dir = HERE, data: Data = None, output: Format = Output.TABLE
) -> None:
    """What happened: one row an action, with its decision and its end, newest last."""
    with system(dir, data) as opened:
        rows = list(opened.audit.activities(user=user, limit=limit))[::-1]
    if output is Output.JSON:
        print_json([msgspec.to_builtins(row) for row in rows])
        return
    print_table(
        ("time (UTC)", "user", "action", "decision", "status", "result", "trace id"),
        [
            (
                row.timestamp[:19].replace("T", " "),
                row.user,
                row.action,
                row.decision,
                row.status,
                row.result,
                row.trace_id,
            )
            for row in rows
        ],
        empty="nothing happened yet",
    )


def _kinds(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _row(record: Record) -> tuple[str, ...]:
    body = record.body
    actor, action, decision = (_part(body, name) for name in ("actor", "action", "decision"))
    risk = _part(decision, "risk")
    return (
        str(record.seq),
        stamp(record.ts_us)[:19].replace("T", " "),
        record.kind,
        str(actor.get("id", "")),
        str(action.get("name", "")),
        str(decision.get("outcome", "")),
        str(risk.get("level", "")),
        record.trace_id,
    )


def _part(body: dict[str, object], name: str) -> dict[str, object]:
    value = body.get(name)
    return value if isinstance(value, dict) else {}


@contextmanager
def _target(to: Path | None) -> Iterator[TextIO]:
    if to is None:
        yield sys.stdout
        return
    partial = to.with_name(to.name + ".partial")
    try:
        with partial.open("w", encoding="utf-8", newline="") as file:
            yield file
        partial.replace(to)
    except OSError as error:
        raise BadRequest(
            f"`{to}` cannot be written: {(error.strerror or '').lower()}", hint="name another file"
        ) from error
    finally:
        partial.unlink(missing_ok=True)

"""`checkrein audit` and `checkrein activity`: what happened, and the proof that it was not changed.

They read only, and read also a ledger that no verb writes to any more, or a copy of one without its folder.
"""

from __future__ import annotations

import enum
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from checkrein.cli.common import HERE, Data, Dir, Format, Output, emit, examples, print_json, reason, say, to_stdout
from checkrein.cli.tables import print_facts, print_table, progress
from checkrein.model import BadRequest, CheckreinError, LedgerInvalid, Level, NotFound, Outcome
from checkrein.model.json import dumps, load_object
from checkrein.model.stamp import stamp

if TYPE_CHECKING:
    from typing import BinaryIO

    from checkrein.ledger import Record
    from checkrein.services.audit import Audit

app = typer.Typer(help="List, show, verify and export the ledger.", no_args_is_help=True, rich_markup_mode=None)

User = Annotated[str, typer.Option(metavar="USER", help="Only actions of this person.")]
Limit = Annotated[int, typer.Option(min=1, max=100_000, metavar="N", help="At most so many, the newest.")]
Kind = Annotated[str, typer.Option(metavar="KIND", help="Only this kind, such as `decision`; several by comma.")]
Trace = Annotated[str, typer.Option(metavar="ID", help="Only this trace id.")]


#: records between two movements of a progress bar
_TELL = 1000


class ExportFormat(enum.StrEnum):
    JSONL = "jsonl"
    CSV = "csv"
    TLOG = "tlog"


def register(app: typer.Typer) -> None:
    epilog = examples("checkrein activity --dir governance", "checkrein activity --user alice --limit 10 -o json")
    app.command(short_help="What happened: one row an action.", epilog=epilog)(activity)


@app.command(
    "list",
    short_help="List records, newest last.",
    epilog=examples(
        "checkrein audit list --outcome deny --limit 20",
        "checkrein audit list --trace 5f0c9a... -o json",
        "checkrein audit list --kind execution.started,execution.finished",
    ),
)
def list_(
    user: User = "",
    agent: Annotated[str, typer.Option(metavar="AGENT", help="Only this agent.")] = "",
    action: Annotated[str, typer.Option(metavar="ACTION", help="Only this action: a tool, or `prompt`.")] = "",
    outcome: Annotated[
        str,
        typer.Option(metavar="OUTCOME", help="Only this: allow, allow_with_redaction, require_review or deny."),
    ] = "",
    risk: Annotated[Level | None, typer.Option(help="Only decisions of this risk.")] = None,
    trace: Trace = "",
    kind: Kind = "",
    limit: Limit = 50,
    dir: Dir = HERE,
    data: Data = None,
    output: Format = Output.TABLE,
) -> None:
    """List records, newest last. Filters add up."""
    from checkrein.ports import RecordQuery

    query = RecordQuery(
        user=user,
        agent=agent,
        action=action,
        outcome=_outcome(outcome),
        risk=risk or "",
        trace_id=trace,
        kinds=_kinds(kind),
        limit=limit,
        newest_first=True,
    )
    with _trail(dir, data) as trail:
        records = list(trail.records(query))[::-1]
    if output is Output.JSON:
        print_json([_value(record) for record in records])
        return
    print_table(
        ("seq", "time (UTC)", "kind", "who", "action", "outcome", "risk", "trace id"),
        [_row(record) for record in records],
        empty="no records fit",
    )


@app.command(
    short_help="Show one record.",
    epilog=examples("checkrein audit show 17", "checkrein audit show rec_0192... -o table"),
)
def show(
    id: Annotated[str, typer.Argument(metavar="ID", help="The record's sequence number, or its id `rec_...`.")],
    decrypt: Annotated[
        bool, typer.Option("--decrypt", help="Open what was asked and answered too; for auditors, and recorded.")
    ] = False,
    person: Annotated[str, typer.Option("--as", metavar="PERSON", help="Who reads; needs the role `auditor`.")] = "",
    dir: Dir = HERE,
    data: Data = None,
    output: Format = Output.JSON,
) -> None:
    """Show one record as it stands in the ledger. Arguments and results are not in it, only their commitments."""
    with _trail(dir, data) as trail:
        record = trail.show(id)
    value = _value(record)
    if decrypt:
        from checkrein.cli.privacy import revealed

        value = {**value, "payload": revealed(id, person=person, dir=dir, data=data)}
    if output is Output.JSON:
        print_json(value)
    else:
        print_facts(list(_facts(value)))


@app.command(
    short_help="Verify the whole ledger.",
    epilog=examples(
        "checkrein audit verify --dir governance",
        "checkrein audit verify --key my-copy-of-signer.pub",
        "checkrein audit verify --witness-key witness.pub",
    ),
)
def verify(
    key: Annotated[
        Path | None,
        typer.Option(
            "--key", metavar="FILE", help="Your own copy of the public key.", show_default="signer.pub of the store"
        ),
    ] = None,
    witness_key: Annotated[
        list[Path] | None,
        typer.Option("--witness-key", metavar="FILE", help="The key of a witness that must have cosigned."),
    ] = None,
    indexes: Annotated[
        bool, typer.Option("--indexes", help="Check too that lists find every record; takes longer.")
    ] = False,
    dir: Dir = HERE,
    data: Data = None,
    output: Format = Output.TABLE,
) -> None:
    """Verify the whole ledger: every byte, the order, the tree and the signed checkpoint.

    Exits 6 if it fails, and names the first record that is not what was written. Whoever can write to the store can
    replace the key beside it: keep your own copy elsewhere, and give it with `--key`. Any key that the ledger ever had
    will do.
    """
    from checkrein.compose import verify_ledger
    from checkrein.ledger.checkpoint import COSIGNATURE, VerifierKey

    witnesses = [VerifierKey.parse(_key(path), COSIGNATURE) for path in witness_key or ()]
    report = verify_ledger(dir, data=data, vkey=_key(key), witnesses=witnesses, indexes=indexes)
    if output is Output.JSON:
        print_json(report.to_json())
    report.require()
    if output is Output.TABLE:
        emit(report.summary())


def _key(path: Path | None) -> str:
    if path is None:
        return ""
    try:
        text = path.read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        raise BadRequest(f"`{path}` cannot be read", hint="name the file with the public key") from error
    if not text:
        raise BadRequest(f"`{path}` is empty", hint="name the file with the public key, a copy of `signer.pub`")
    return text


@app.command(
    short_help="Export records to a file.",
    epilog=examples(
        "checkrein audit export --to ledger.jsonl",
        "checkrein audit export --format csv --user alice --to alice.csv",
    ),
)
def export(
    format: Annotated[
        ExportFormat,
        typer.Option("--format", help="jsonl has the exact bytes, csv is for tables, tlog proves itself to strangers."),
    ] = ExportFormat.JSONL,
    to: Annotated[
        Path | None,
        typer.Option(
            "--output", "--to", metavar="PATH", help="The file, or for tlog the folder.", show_default="standard output"
        ),
    ] = None,
    user: User = "",
    trace: Trace = "",
    kind: Kind = "",
    dir: Dir = HERE,
    data: Data = None,
) -> None:
    """Export records, oldest first. A file or folder appears only when it is complete."""
    from checkrein.ports import RecordQuery

    if format is ExportFormat.TLOG:
        _export_tlog(to, dir, data, filtered=bool(user or trace or kind))
        return
    query = RecordQuery(user=user, trace_id=trace, kinds=_kinds(kind))
    count = 0
    with _trail(dir, data) as trail, _target(to) as out, progress("records", shown=to is not None) as told:
        for line in trail.export(format.value, query):
            out.write(line.encode())
            count += 1
            if count % _TELL == 0:
                told(count, None)
    if to is not None:
        records = count - (format is ExportFormat.CSV)
        say(f"{records} record{'' if records == 1 else 's'} written to {to}")


def _export_tlog(to: Path | None, dir: Path, data: Path | None, *, filtered: bool) -> None:
    from checkrein.cli.evidence import export_tlog

    if to is None:
        raise BadRequest("a tlog export is a folder", hint="name a new one with `--output DIR`")
    if filtered:
        raise BadRequest("a tlog export has every record", hint="leave the filters out, or choose jsonl or csv")
    export_tlog(to, dir=dir, data=data)


def activity(
    user: User = "", limit: Limit = 50, dir: Dir = HERE, data: Data = None, output: Format = Output.TABLE
) -> None:
    """What happened: one row an action, with its decision and its end, newest last."""
    with _trail(dir, data) as trail:
        rows = list(trail.activities(user=user, limit=limit))[::-1]
    if output is Output.JSON:
        print_json([msgspec.to_builtins(row) for row in rows])
        return
    print_table(
        ("time (UTC)", "user", "action", "decision", "status", "result", "trace id"),
        [
            (_time(row.timestamp), row.user, row.action, row.decision, row.status, row.result, row.trace_id)
            for row in rows
        ],
        empty="nothing happened yet",
        prose=("result",),
    )


@contextmanager
def _trail(folder: Path, data: Path | None) -> Iterator[Audit]:
    from checkrein.compose import DATA
    from checkrein.services.audit import Audit
    from checkrein.storage.files import DataDir
    from checkrein.storage.sqlite import SqliteStore

    directory = DataDir(data or folder / DATA)
    if not directory.database.exists():
        raise NotFound(
            f"there is no ledger in `{directory.path}`",
            hint="it is made with the first action; name the folder with `--dir`, or the store with `--data`",
        )
    reader = SqliteStore.open_readonly(directory)
    try:
        yield Audit(reader, directory)
    finally:
        reader.close()


def _outcome(text: str) -> str:
    known = [outcome.wire for outcome in Outcome]
    if text and text.lower() not in known:
        raise BadRequest(f"`{text}` is no outcome", hint=f"choose {', '.join(known)}")
    return text.lower()


def _kinds(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _row(record: Record) -> tuple[str, ...]:
    body = record.body
    actor, action, decision = (_part(body, name) for name in ("actor", "action", "decision"))
    risk = _part(decision, "risk")
    return (
        str(record.seq),
        _time(stamp(record.ts_us)),
        record.kind,
        str(actor.get("id", "")),
        str(action.get("name", "")),
        str(decision.get("outcome", "")),
        str(risk.get("level", "")),
        record.trace_id,
    )


def _time(stamped: str) -> str:
    return stamped[:19].replace("T", " ")


def _part(body: dict[str, object], name: str) -> dict[str, object]:
    value = body.get(name)
    return value if isinstance(value, dict) else {}


def _value(record: Record) -> dict[str, object]:
    try:
        return load_object(record.data)
    except BadRequest as error:
        raise LedgerInvalid(f"record {record.seq} cannot be read", hint="run `checkrein audit verify`") from error


def _facts(value: dict[str, object], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, member in value.items():
        if isinstance(member, dict):
            yield from _facts(member, f"{prefix}{name}.")
        else:
            yield prefix + name, member if isinstance(member, str) else dumps(member).decode()


@contextmanager
def _target(to: Path | None) -> Iterator[BinaryIO]:
    """Where an export goes. A file is written beside its place and moved there when it is whole."""
    if to is None:
        with to_stdout():
            yield sys.stdout.buffer
            sys.stdout.buffer.flush()
        return
    partial = to.parent / f"{to.name}.partial"
    try:
        try:
            with partial.open("wb") as file:
                yield file
            partial.replace(to)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise CheckreinError(f"`{to}` cannot be written: {reason(error)}", hint="name another file") from error

"""`checkrein audit` and `checkrein activity`: what happened, and the proof that it was not changed.

They read only, and read also a ledger that no verb writes to any more, or a copy of one without its folder.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from checkrein.cli import filters
from checkrein.cli.common import HERE, Data, Dir, Format, Output, emit, examples, print_json, say
from checkrein.cli.tables import print_facts, print_table
from checkrein.model import BadRequest, LedgerInvalid, NotFound
from checkrein.model.json import dumps, load_object
from checkrein.model.stamp import stamp

if TYPE_CHECKING:
    from checkrein.ledger import Record
    from checkrein.services.audit import Audit
    from checkrein.storage.files import DataDir
    from checkrein.storage.reader import SqliteReader

app = typer.Typer(help="List, show, verify and export the ledger.", no_args_is_help=True, rich_markup_mode=None)

Limit = Annotated[int, typer.Option(min=1, max=100_000, metavar="N", help="At most so many, the newest.")]
#: what `list` and `tail` show of a record
COLUMNS = ("seq", "time (UTC)", "kind", "who", "action", "outcome", "risk", "trace id")


def register(app: typer.Typer) -> None:
    epilog = examples("checkrein activity --dir governance", "checkrein activity --user alice --limit 10 -o json")
    app.command(short_help="What happened: one row an action.", epilog=epilog)(activity)


@app.command(
    "list",
    short_help="List records, newest last.",
    epilog=examples(
        "checkrein audit list --outcome deny --since 2h",
        "checkrein audit list --policy no-transfers --user alice --limit 20",
        "checkrein audit list --trace 5f0c9a... -o json",
        "checkrein audit list --kind execution.started,execution.finished",
    ),
)
def list_(
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
    limit: Limit = 50,
    dir: Dir = HERE,
    data: Data = None,
    output: Format = Output.TABLE,
) -> None:
    """List records, newest last. Filters add up."""
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
    with trail(dir, data) as opened:
        records = list(opened.records(msgspec.structs.replace(query, limit=limit, newest_first=True)))[::-1]
    if output is Output.JSON:
        print_json([value_of(record) for record in records])
        return
    print_table(COLUMNS, [row(record) for record in records], empty="no records fit")


@app.command(
    short_help="Show one record.",
    epilog=examples("checkrein audit show 17", "checkrein audit show rec_0192... -o table"),
)
def show(
    id: Annotated[str, typer.Argument(metavar="RECORD", help="The record's sequence number, or its id `rec_...`.")],
    decrypt: Annotated[
        bool, typer.Option("--decrypt", help="Open what was asked and answered too; for auditors, and recorded.")
    ] = False,
    person: Annotated[str, typer.Option("--as", metavar="PERSON", help="Who reads; needs the role `auditor`.")] = "",
    dir: Dir = HERE,
    data: Data = None,
    output: Format = Output.JSON,
) -> None:
    """Show one record as it stands in the ledger. Arguments and results are not in it, only their commitments."""
    with trail(dir, data) as opened:
        record = opened.show(id)
    value = value_of(record)
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


def activity(
    user: filters.User = "", limit: Limit = 50, dir: Dir = HERE, data: Data = None, output: Format = Output.TABLE
) -> None:
    """What happened: one row an action, with its decision and its end, newest last."""
    from checkrein.services import audit, killswitch

    with reading(dir, data) as reader:
        rows = list(audit.Audit(reader, reader.files).activities(user=user, limit=limit))[::-1]
        killed = killswitch.board(reader.row(killswitch.ROOM, killswitch.ID))
    for switch in killed:
        say(f"killed now: {switch.target}, since {_time(stamp(switch.at_us))} by {switch.by}: {switch.reason}")
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


def directory(folder: Path, data: Path | None) -> DataDir:
    """Where the store lives."""
    from checkrein.compose import DATA
    from checkrein.storage.files import DataDir

    return DataDir(data or folder / DATA)


@contextmanager
def reading(folder: Path, data: Path | None) -> Iterator[SqliteReader]:
    """The store, for reading."""
    from checkrein.storage.sqlite import SqliteStore

    files = directory(folder, data)
    if not files.database.exists():
        raise NotFound(
            f"there is no ledger in `{files.path}`",
            hint="it is made with the first action; name the folder with `--dir`, or the store with `--data`",
        )
    reader = SqliteStore.open_readonly(files)
    try:
        yield reader
    finally:
        reader.close()


@contextmanager
def trail(folder: Path, data: Path | None) -> Iterator[Audit]:
    """The ledger, for reading."""
    from checkrein.services.audit import Audit

    with reading(folder, data) as reader:
        yield Audit(reader, reader.files)


def row(record: Record) -> tuple[str, ...]:
    from checkrein.ledger.record import member

    body = record.body
    actor, action, decision = (member(body, name) for name in ("actor", "action", "decision"))
    risk = member(decision, "risk")
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


def value_of(record: Record) -> dict[str, object]:
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

"""`checkrein audit` for people who do not trust us: export --format tlog, prove, checkpoint, consistency, witness,
verifier."""

from __future__ import annotations

import base64
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated

import typer

from checkrein.cli.common import HERE, Data, Dir, emit, examples, reason, say, store, to_stdout
from checkrein.cli.tables import progress
from checkrein.model import BadRequest, CheckreinError

if TYPE_CHECKING:
    from checkrein.ledger.checkpoint import Checkpoint

#: no checkpoint and no proof is longer
_MAX_TEXT = 131_072


def register(audit: typer.Typer) -> None:
    """Hang the verbs under the group `audit`."""
    audit.command(
        short_help="Prove one record to a stranger.",
        epilog=examples("checkrein audit prove 17 --output 17.tlog-proof --record 17.json"),
    )(prove)
    audit.command(
        short_help="Check that one checkpoint extends another.",
        epilog=examples("checkrein audit consistency checkpoint-of-january"),
    )(consistency)
    audit.command(short_help="Print the newest signed checkpoint, to keep elsewhere.")(checkpoint)
    audit.command(short_help="Have the configured witnesses cosign the newest checkpoint.")(witness)
    audit.command(short_help="Print verify_ledger.py, for strangers.")(verifier)


def export_tlog(target: Path, *, dir: Path = HERE, data: Path | None = None) -> None:
    """What `audit export --format tlog --output DIR` does."""
    from checkrein.services import evidence

    with store(dir, data) as opened, progress("records") as told:
        made = evidence.export_tlog(opened, opened.files, target, told=told)
        key = opened.files.path / "signer.pub"
    say(f"wrote {made.head.size} records, signed, to `{made.path}`; the public key is `{made.key.name}` in it")
    say("anybody can check it: `checkrein audit verifier > verify_ledger.py`, then")
    say(f"`python verify_ledger.py {quote(str(made.path))} --key signer.pub`, with the copy of `{key}`")
    say("that you gave them before: a key that comes with the export proves nothing")


def prove(
    record: Annotated[str, typer.Argument(metavar="RECORD", help="The record's sequence number, or its id `rec_...`.")],
    to: Annotated[
        Path | None,
        typer.Option("--output", "--to", metavar="FILE", help="The file to write.", show_default="standard output"),
    ] = None,
    record_to: Annotated[
        Path | None, typer.Option("--record", metavar="FILE", help="Write the exact bytes of the record here.")
    ] = None,
    dir: Dir = HERE,
    data: Data = None,
) -> None:
    """Prove that one record stands in the signed log (C2SP tlog-proof), for somebody who has only the public key."""
    from checkrein.services import evidence

    with store(dir, data) as opened:
        found, proof = evidence.prove(opened, opened.files, record)
    if record_to is not None:
        _write(record_to, found.data)
        say(f"wrote record {found.seq} to `{record_to}`")
    if to is None:
        _print(str(proof).encode())
        return
    _write(to, str(proof).encode())
    say(f"wrote the proof of record {found.seq} to `{to}`")
    say("anybody can check it: `checkrein audit verifier > verify_ledger.py`, then")
    files = f"{quote(str(to))} --record {quote(str(record_to)) if record_to else 'RECORD.json'}"
    say(f"`python verify_ledger.py {files} --key signer.pub`, with your copy of `signer.pub`")
    if record_to is None:
        say("they need the exact bytes of the record as well: `--record FILE` writes them")


def consistency(
    old: Annotated[Path, typer.Argument(metavar="OLD", help="A checkpoint somebody kept.")],
    new: Annotated[
        Path | None, typer.Argument(metavar="NEW", help="Another, in any order.", show_default="this store's")
    ] = None,
    to: Annotated[
        Path | None,
        typer.Option("--output", "--to", metavar="FILE", help="Write the proof here, for them to check."),
    ] = None,
    dir: Dir = HERE,
    data: Data = None,
) -> None:
    """Check that two checkpoints are of one log that only grew. Exits 6 if they are not."""
    from checkrein.ledger.checkpoint import Checkpoint
    from checkrein.services import evidence

    first, second = _text(old), _text(new) if new else ""
    with store(dir, data) as opened:
        proof = evidence.growth(opened, opened.files, first, second)
    if to is not None:
        _write(to, str(proof).encode())
        say(f"wrote the proof to `{to}`")
    now = Checkpoint.parse(proof.checkpoint)
    emit(f"consistent: the first {proof.old_size} of {now.head.size} records of {now.origin} are the same in both")
    emit(f"root of the newer checkpoint: {_root(now)}")


def checkpoint(
    to: Annotated[
        Path | None,
        typer.Option("--output", "--to", metavar="FILE", help="The file to write.", show_default="standard output"),
    ] = None,
    dir: Dir = HERE,
    data: Data = None,
) -> None:
    """Print the newest signed checkpoint. Somebody who keeps it can tell later whether history was rewritten.

    Such as `checkrein audit checkpoint | ssh elsewhere 'cat > checkpoint'`, now and then.
    """
    with store(dir, data) as opened:
        note = opened.checkpoint()
    if to is None:
        _print(note.encode())
        return
    _write(to, note.encode())
    say(f"wrote the checkpoint to `{to}`; a later ledger is checked against it with")
    say(f"`checkrein audit consistency {quote(str(to))}`")


def witness(dir: Dir = HERE, data: Data = None) -> None:
    """Have the witnesses of checkrein.toml (C2SP tlog-witness) cosign the newest checkpoint, as `serve` does by itself.

    Exits 6 if one of them has seen another history of this ledger, and 7 if one gives no answer.
    """
    from checkrein import config as configuration
    from checkrein.compose import configured_witnesses
    from checkrein.model import LedgerInvalid
    from checkrein.services.witness import cosign

    witnesses = configured_witnesses(configuration.load(dir).config)
    if not witnesses:
        raise BadRequest("no witness is configured", hint="add `[witnesses.NAME]` with `url` and `vkey`")
    failed: list[CheckreinError] = []
    with store(dir, data) as opened:
        for each in witnesses:
            try:
                emit(f"{each.name} cosigned {cosign(each, opened, opened.files)} records")
            except CheckreinError as error:
                say(f"{error}")
                failed.append(error)
    if failed:  # another history is worse than no answer
        raise next((error for error in failed if isinstance(error, LedgerInvalid)), failed[0])


def verifier() -> None:
    """Print verify_ledger.py: one file, for somebody who checks an export or a proof without us."""
    from checkrein.verifier import source

    _print(source().encode())


def _root(checkpoint: Checkpoint) -> str:
    return base64.b64encode(checkpoint.head.root).decode("ascii")


def _print(content: bytes) -> None:
    """These bytes on stdout, whatever the terminal's encoding: one that is off by a character proves nothing."""
    with to_stdout():
        typer.echo(content, nl=False)


def _write(path: Path, content: bytes) -> None:
    try:
        path.write_bytes(content)
    except OSError as error:
        raise CheckreinError(f"`{path}` cannot be written: {reason(error)}", hint="name another file") from error


def _text(path: Path) -> str:
    hint = "name the file that holds the checkpoint"
    try:
        with path.open("rb") as file:
            return file.read(_MAX_TEXT).decode("utf-8")
    except OSError as error:
        raise BadRequest(f"`{path}` cannot be read: {reason(error)}", hint=hint) from error
    except UnicodeDecodeError:
        raise BadRequest(f"`{path}` is not a checkpoint", hint=hint) from None

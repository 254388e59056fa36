"""`checkrein audit erase`, `hold` and `sweep`: what is kept of people, for how long, and how it is erased.

They open the store alone: policies that do not load must not keep anybody from an erasure.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import typer

from checkrein.cli.common import HERE, Data, Dir, Format, Output, emit, examples, operator, print_json, say
from checkrein.model import BadRequest, Subject

Who = Annotated[str, typer.Option("--subject", metavar="ID", help="Whose data: the id under which they act.")]
Type = Annotated[str, typer.Option("--type", metavar="TYPE", help="What the subject is: user, agent or service.")]
Reason = Annotated[
    str, typer.Option("--reason", metavar="TEXT", help="Why; it stands in the ledger for good, so name nobody in it.")
]
Person = Annotated[
    str, typer.Option("--as", metavar="PERSON", help="Who does it; recorded.", show_default="your user name")
]


def register(audit: typer.Typer) -> None:
    """Add the verbs to `checkrein audit`."""
    audit.command(
        short_help="Erase what is kept of a subject.",
        epilog=examples('checkrein audit erase --subject alice --as carol --reason "request 2026-17"'),
    )(erase)
    audit.command(
        short_help="Put a subject's data on legal hold.",
        epilog=examples(
            'checkrein audit hold --subject alice --as carol --reason "case 12"',
            'checkrein audit hold --subject alice --release --as carol --reason "case 12 is closed"',
        ),
    )(hold)
    audit.command(
        short_help="Remove payloads that are past their time.",
        epilog=examples("checkrein audit sweep --dir governance"),
    )(sweep)


def erase(
    subject: Who,
    reason: Reason,
    person: Person = "",
    type: Type = "user",
    dir: Dir = HERE,
    data: Data = None,
    output: Format = Output.TABLE,
) -> None:
    """Destroy the keys of a subject's payloads, remove the payloads, and replace the actions of their approvals.

    It cannot be undone. The ledger still verifies: it keeps that actions took place, and who erased what was in them.
    Refused while a legal hold stands or an approval is open. Copies in backups stay readable as long as both
    `payload.db` and `payload.key` of that time are kept.
    """
    from checkrein.compose import open_payloads

    with open_payloads(dir, data=data) as payloads:
        done = payloads.erase(_subject(type, subject), by=person or operator(), reason=reason)
    if output is Output.JSON:
        print_json(msgspec.to_builtins(done))
        return
    emit(
        f"erased: {_count(done.payloads, 'payload')}, {_count(done.approvals, 'approval')}, {_count(done.keys, 'key')}"
    )
    say(f"the ledger names the subject as {done.subject}")


def hold(
    subject: Who,
    reason: Reason,
    release: Annotated[bool, typer.Option("--release", help="Let the data go again.")] = False,
    person: Person = "",
    type: Type = "user",
    dir: Dir = HERE,
    data: Data = None,
) -> None:
    """Keep a subject's payloads from erasure and sweeps, or release them."""
    from checkrein.compose import open_payloads

    with open_payloads(dir, data=data) as payloads:
        payloads.hold(_subject(type, subject), by=person or operator(), reason=reason, release=release)
    say(f"the data of `{subject}` is {'released' if release else 'on hold'}")


def sweep(dir: Dir = HERE, data: Data = None, output: Format = Output.TABLE) -> None:
    """Remove payloads past `[retention]` in checkrein.toml, and those whose record a crash kept from being written.

    Every start of a process does a little of it; this does all.
    """
    from checkrein.compose import open_payloads

    with open_payloads(dir, data=data) as payloads:
        swept = payloads.sweep(by=operator())
    if output is Output.JSON:
        print_json(msgspec.to_builtins(swept))
        return
    emit(f"removed: {_count(swept.expired, 'payload')} past their time, {swept.orphans} without a record")


def revealed(id: str, *, person: str, dir: Path, data: Path | None) -> dict[str, object]:
    """What `audit show ID --decrypt --as PERSON` adds to the record: the payload, opened and its reading recorded."""
    from checkrein.compose import open_payloads

    if not person:
        raise BadRequest("nobody is named who reads it", hint="say who you are with `--as PERSON`")
    with open_payloads(dir, data=data) as payloads:
        shown = payloads.reveal(id, person=person)
    return {"id": shown.id, "state": shown.state, "value": shown.value}


def _subject(type: str, id: str) -> Subject:
    if not type or not id:
        raise BadRequest("no subject is named", hint="name it as it stands in the records, such as `--subject alice`")
    return Subject(type, id)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"

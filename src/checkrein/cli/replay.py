"""`checkrein replay`: a candidate version of the policies, tried on what was recorded."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from checkrein.cli.common import HERE, Data, Dir, Format, Output, examples, operator, print_json, say
from checkrein.cli.tables import print_table
from checkrein.model import PolicyInvalid
from checkrein.model.requirement import parse_span

if TYPE_CHECKING:
    from checkrein.services.replay import Change, Replay


def register(app: typer.Typer) -> None:
    app.command(
        short_help="What would have been decided otherwise.",
        epilog=examples("checkrein replay candidate --since 7d --dir governance"),
    )(replay)


def replay(
    candidate: Annotated[Path, typer.Argument(metavar="CANDIDATE", help="The governance folder to try.")],
    since: Annotated[str, typer.Option(metavar="SPAN", help="How far back, such as 12h or 7d.")] = "7d",
    forbid_loosening: Annotated[
        bool, typer.Option("--forbid-loosening", help="Exit 5 if anything would have got laxer.")
    ] = False,
    dir: Dir = HERE,
    data: Data = None,
    output: Format = Output.TABLE,
) -> None:
    """Decide what was recorded again by a candidate folder, and list what would change, by agent, person and tool.

    Opens the sealed requests of that time; that it did is recorded. Nothing runs, and no decision is recorded.
    """
    from checkrein.compose import load_bundle, open_payloads
    from checkrein.services.replay import replay as decide_again

    since_us = time.time_ns() // 1000 - parse_span(since) * 1_000_000
    bundle = load_bundle(candidate)
    with open_payloads(dir, data=data) as payloads:
        found = decide_again(payloads.recorded(since_us, by=operator()), bundle)
    if output is Output.JSON:
        print_json({**msgspec.to_builtins(found), "loosening": found.loosening, "bundle": bundle.digest})
    else:
        _show(found)
    tried = f"{found.decided} decision{'' if found.decided == 1 else 's'} tried again"
    say(f"{tried}, {len(found.changes)} would change, {found.loosening} of them to something laxer")
    if found.left_out:
        left = ", ".join(f"{count} {why}" for why, count in sorted(found.left_out.items()))
        say(f"left out, because their requests cannot be read: {left}")
    if forbid_loosening and found.loosening:
        raise typer.Exit(PolicyInvalid.exit_code)


def _show(found: Replay) -> None:
    """One row for all changes of the same agent, person, action and outcomes, the most frequent first."""
    groups: dict[tuple[str, ...], list[Change]] = {}
    for change in found.changes:
        key = (change.agent, change.user, change.action, change.before, change.after)
        groups.setdefault(key, []).append(change)
    rows = []
    for names, same in sorted(groups.items(), key=lambda item: (-len(item[1]), item[0])):
        last = same[-1]
        looser = "looser" if last.loosening else ""
        rows.append((looser, *names, str(len(same)), ", ".join(last.policies), last.trace_id))
    print_table(
        ("", "agent", "user", "action", "before", "after", "times", "decided by", "last trace id"),
        rows,
        empty="nothing would change",
        prose=("decided by",),
    )

"""`checkrein kill`, `revive` and `killed`: what may not run at all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from checkrein.cli.common import HERE, Data, Dir, Format, Output, examples, operator, print_json, say, store
from checkrein.cli.tables import print_table
from checkrein.model.stamp import stamp
from checkrein.model.target import Target

if TYPE_CHECKING:
    from checkrein.services.killswitch import KillSwitch

Kind = Annotated[
    str, typer.Argument(metavar="WHAT", help="One of agent, key, model, subject, tool; or everything, without a name.")
]
Name = Annotated[
    str, typer.Argument(metavar="NAME", help="Its name, or a pattern such as `gpt-*`.", show_default=False)
]
Why = Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why; it is recorded and shown.")]


def register(app: typer.Typer) -> None:
    app.command(
        short_help="Stop an agent, tool, model, key or everything.",
        epilog=examples(
            'checkrein kill agent billing-bot --reason "sends odd invoices"',
            "checkrein kill key key_1a2b... --reason leaked",
            "checkrein kill model 'gpt-4*' --reason \"recalled\"",
            'checkrein kill everything --reason "incident 17"',
        ),
    )(kill)
    app.command(
        short_help="Let run again what was killed.",
        epilog=examples('checkrein revive agent billing-bot --reason "mended in version 4"'),
    )(revive)
    app.command(short_help="List what is killed.", epilog=examples("checkrein killed --dir governance"))(killed)


def kill(
    what: Kind, name: Name = "", *, reason: Why, dir: Dir = HERE, data: Data = None, output: Format = Output.TABLE
) -> None:
    """Stop it: from the next request on, in every process of the store, it is denied.

    What runs is cut within a tenth of a second, streams too; a Python function in a plain thread runs to its end.
    Works also while the policies do not load. Killing twice is not an error.
    """
    target = Target.parse(what, name)
    with _killswitch(dir, data) as switches:
        switch = switches.kill(target, reason=reason, by=operator())
    if output is Output.JSON:
        print_json(switch.to_json())
    say(f"{switch.target} is killed since {stamp(switch.at_us)[:19]}Z by {switch.by}: {switch.reason}")


def revive(
    what: Kind, name: Name = "", *, reason: Why, dir: Dir = HERE, data: Data = None, output: Format = Output.TABLE
) -> None:
    """Let it run again, as policy says. Name it as it was killed; another switch may still hold it."""
    target = Target.parse(what, name)
    with _killswitch(dir, data) as switches:
        switch = switches.revive(target, reason=reason, by=operator())
        left = switches.killed()
    if output is Output.JSON:
        print_json(switch.to_json())
    say(f"{switch.target} may run again")
    if left:
        say(f"still killed: {', '.join(str(other.target) for other in left)}")


def killed(dir: Dir = HERE, data: Data = None, output: Format = Output.TABLE) -> None:
    """List what is killed, oldest first."""
    with _killswitch(dir, data) as switches:
        found = switches.killed()
    if output is Output.JSON:
        print_json([switch.to_json() for switch in found])
        return
    print_table(
        ("what", "name", "since (UTC)", "by", "reason"),
        [
            (
                switch.target.what.value,
                switch.target.name,
                stamp(switch.at_us)[:16].replace("T", " "),
                switch.by,
                switch.reason,
            )
            for switch in found
        ],
        empty="nothing is killed",
        prose=("reason",),
    )


@contextmanager
def _killswitch(dir: Path, data: Path | None) -> Iterator[KillSwitch]:
    from checkrein.compose import SystemClock
    from checkrein.services.killswitch import KillSwitch

    with store(dir, data) as opened:
        yield KillSwitch(opened, SystemClock())

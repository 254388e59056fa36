"""`checkrein kill`, `revive` and `killed`: what may not run at all. `checkrein limits`: who used how much of what."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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
    app.command(
        short_help="Who used how much of what.",
        epilog=examples("checkrein limits --dir governance", "checkrein limits agent 'billing-*' -o json"),
    )(limits)


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


def limits(
    what: Annotated[str, typer.Argument(metavar="WHAT", help="Only agents, keys and so on.", show_default=False)] = "",
    name: Annotated[str, typer.Argument(metavar="NAME", help="Only these.", show_default=False)] = "",
    dir: Dir = HERE,
    data: Data = None,
    output: Format = Output.TABLE,
) -> None:
    """Show who used how much of what, beside what they may.

    Of the last minute, what runs now, and the day and the month of UTC. What running actions may still cost counts as
    spent. Those are counted for whom a limit stands in checkrein.toml, or whose usage a policy asks for.
    """
    from checkrein import config
    from checkrein.compose import SystemClock, quotas
    from checkrein.services.limits import Limits, wanting

    wanted = wanting(what, name)
    found = config.load(dir).config
    with store(dir, data) as opened:
        lines = list(Limits(opened, SystemClock(), quotas(found)).lines(wanted))
    if output is Output.JSON:
        print_json([line.to_json() for line in lines])
        return
    print_table(
        ("what", "name", *(title for title, _, _ in _COLUMNS)),
        [
            (
                line.target.what.value,
                line.target.name,
                *(_of(line.to_json(), used, limit) for _, used, limit in _COLUMNS),
            )
            for line in lines
        ],
        empty='nothing is counted; add `[limits."agent:NAME"]` to checkrein.toml',
    )


#: column, what was used, and the limit beside it
_COLUMNS = (
    ("requests/min", "requests_minute", "requests_per_minute"),
    ("tokens/min", "tokens_minute", "tokens_per_minute"),
    ("at once", "running", "concurrency"),
    ("today", "spend_today", "spend_per_day"),
    ("this month", "spend_month", "spend_per_month"),
)


def _of(line: Mapping[str, Any], used: str, limit: str) -> str:
    """What was used, of how much if there is a limit."""
    allowed = line["limits"].get(limit)
    return f"{line['used'][used]}" if allowed is None else f"{line['used'][used]} of {allowed}"


@contextmanager
def _killswitch(dir: Path, data: Path | None) -> Iterator[KillSwitch]:
    from checkrein.compose import SystemClock
    from checkrein.services.killswitch import KillSwitch

    with store(dir, data) as opened:
        yield KillSwitch(opened, SystemClock())

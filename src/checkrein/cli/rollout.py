"""`checkrein rollout`: another version of the policies, or of what is behind an upstream, in stages."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from checkrein.cli.common import (
    HERE,
    Data,
    Dir,
    Format,
    Output,
    emit,
    examples,
    operator,
    plain,
    print_json,
    say,
    system,
)
from checkrein.cli.tables import print_facts, print_table
from checkrein.model import BadRequest, NotFound
from checkrein.model.stamp import stamp

if TYPE_CHECKING:
    from checkrein.compose import System
    from checkrein.flow.rollout import Rollout
    from checkrein.flow.window import Tally

app = typer.Typer(
    help="Another version in stages, and back when that goes wrong.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
WATCH_EVERY_S = 1.0

Id = Annotated[str, typer.Argument(metavar="ID", help="The rollout.", show_default="the one under way, or the last")]
Reason = Annotated[str, typer.Option(metavar="TEXT", help="Why; it is recorded.")]


@app.command(
    short_help="Begin a rollout.",
    epilog=examples(
        "checkrein rollout start candidate --verdict gat_1a2b... --dir governance",
        "checkrein rollout start --upstream default --to default-v2 \\",
        "                        --verdict gat_1a2b... --dir governance",
    ),
)
def start(
    candidate: Annotated[
        Path | None, typer.Argument(metavar="CANDIDATE", help="The governance folder to roll out.")
    ] = None,
    upstream: Annotated[str, typer.Option(metavar="NAME", help="Or: the upstream that answers now ...")] = "",
    to: Annotated[str, typer.Option(metavar="NAME", help="... and the upstream that shall.")] = "",
    verdict: Annotated[str, typer.Option(metavar="ID", help="The gate's verdict that covers it.")] = "",
    unsafe_without_gate: Annotated[
        bool, typer.Option("--unsafe-without-gate", help="Without a verdict. It is recorded as unsafe.")
    ] = False,
    dir: Dir = HERE,
    data: Data = None,
    output: Format = Output.TABLE,
) -> None:
    """Begin a rollout: of the policies in a candidate folder, or of another upstream in the place of one.

    Policies are shadowed first: both versions decide, the stable one is enforced, and what they decide differently is
    listed. What the candidate loosens goes live only when people agreed. Then the stages of `[rollout]` in
    checkrein.toml follow, while `checkrein serve` runs; what goes wrong is rolled back by itself.
    """
    from checkrein.compose import proved_files
    from checkrein.flow.rollout import Kind

    if (candidate is None) == (not upstream) or bool(upstream) != bool(to):
        raise BadRequest("name a candidate folder, or `--upstream` and `--to`", hint="see `checkrein rollout start -h`")
    with system(dir, data) as opened:
        kind = Kind.UPSTREAM if upstream else Kind.POLICY
        if candidate is not None:
            canary = opened.shelf.put(proved_files(candidate))
        else:
            for name in (upstream, to):
                if name not in opened.config.upstreams:
                    raise NotFound(f"no upstream `{name}`", hint=f"add `[upstreams.{name}]` to checkrein.toml")
            canary = to
        made = opened.rollouts.start(
            kind,
            stable=opened.arms.stable(kind, upstream),
            canary=canary,
            plan=opened.config.rollout.plan(kind),
            verdict=verdict,
            unsafe_without_gate=unsafe_without_gate,
            by=operator(),
        )
    if unsafe_without_gate:
        say("no gate verdict covers this; the ledger says so")
    say(f"{made.id} began: {_where(made)}")
    if output is Output.JSON:
        print_json(_public(made))
    else:
        emit(made.id)


@app.command("list", short_help="List the rollouts.", epilog=examples("checkrein rollout list --dir governance"))
def list_(dir: Dir = HERE, data: Data = None, output: Format = Output.TABLE) -> None:
    """List the rollouts, the newest first."""
    with system(dir, data) as opened:
        found = opened.rollouts.all()
    if output is Output.JSON:
        print_json([_public(rollout) for rollout in found])
        return
    print_table(
        ("id", "what", "from", "to", "state", "canary", "began (UTC)", "why"),
        [
            (
                rollout.id,
                rollout.kind.value,
                rollout.stable[:19],
                rollout.canary[:19],
                rollout.state.value,
                f"{rollout.percent} %",
                stamp(rollout.created_us)[:16].replace("T", " "),
                "; ".join(rollout.why),
            )
            for rollout in found
        ],
        empty="no rollouts yet; begin one with `checkrein rollout start`",
        prose=("why",),
    )


@app.command(short_help="Where a rollout stands.", epilog=examples("checkrein rollout status --dir governance"))
def status(id: Id = "", dir: Dir = HERE, data: Data = None, output: Format = Output.TABLE) -> None:
    """Show a rollout: its stage, what was counted on both arms, what is decided differently, and why it ended."""
    with system(dir, data) as opened:
        found = _the(opened, id)
    if output is Output.JSON:
        print_json(_public(found))
    else:
        _show(found)


@app.command(short_help="Follow a rollout to its end.", epilog=examples("checkrein rollout watch --dir governance"))
def watch(id: Id = "", dir: Dir = HERE, data: Data = None) -> None:
    """Print a line whenever the rollout moves, until it has ended. It moves while `checkrein serve` runs."""
    told = ""
    with system(dir, data) as opened:
        id = _the(opened, id).id
        while True:
            found = opened.rollouts.get(id)
            line = f"{_where(found)}; {'; '.join(found.why)}" if found.why else _where(found)
            if line != told:
                emit(plain(f"{stamp(opened.clock.now_us())[:19]}Z  {line}"))
                told = line
            if not found.active:
                return
            time.sleep(WATCH_EVERY_S)


def _verb(name: str, event: str, reason: str, short: str, long: str) -> None:
    """The verbs that people steer with differ only in what happens; `reason` is an example of why."""

    def act(
        id: Id = "", reason: Reason = "", dir: Dir = HERE, data: Data = None, output: Format = Output.TABLE
    ) -> None:
        with system(dir, data) as opened:
            _steer(opened, _the(opened, id), event, reason, output)

    epilog = examples(f"checkrein rollout {name} --reason '{reason}' --dir governance")
    app.command(name, short_help=short, help=long, epilog=epilog)(act)


_verb(
    *("pause", "PAUSE", "the release waits", "Stay at this stage."),
    "Stay at this stage. What goes wrong is still rolled back.",
)
_verb(
    *("resume", "RESUME", "the release goes on", "Go on after a pause."),
    "Go on after a pause; the stage is counted from its beginning.",
)
_verb(
    *("promote", "PROMOTE", "agreed in the review", "Go to the end at once."),
    "Give all traffic to the canary at once, whatever the stages say.",
)
_verb(
    *("abort", "ABORT", "the vendor withdrew it", "Give it up."),
    "Give all traffic back to the stable version, at once.",
)


@app.command(
    short_help="Take a promotion back.",
    epilog=examples("checkrein rollout undo --reason 'it answers in French' --dir governance"),
)
def undo(
    id: Annotated[str, typer.Argument(metavar="ID", help="The rollout.", show_default="the one promoted last")] = "",
    reason: Reason = "",
    dir: Dir = HERE,
    data: Data = None,
    output: Format = Output.TABLE,
) -> None:
    """Put the version from before a promotion in its place again, at once."""
    with system(dir, data) as opened:
        _steer(opened, _last_promoted(opened, id), "UNDO", reason, output)


def _steer(opened: System, chosen: Rollout, event: str, reason: str, output: Output) -> None:
    from checkrein.flow.rollout import Event

    moved = opened.rollouts.act(chosen.id, Event[event], by=operator(), reason=reason)
    if output is Output.JSON:
        print_json(_public(moved))
    else:
        say(f"{moved.id}: {_where(moved)}")


def _the(opened: System, id: str) -> Rollout:
    if id:
        return opened.rollouts.get(id)
    found = opened.arms.current() or next(iter(opened.rollouts.all()), None)
    if found is None:
        raise NotFound("there is no rollout", hint="begin one with `checkrein rollout start`")
    return found


def _last_promoted(opened: System, id: str) -> Rollout:
    if id:
        return opened.rollouts.get(id)
    found = next((rollout for rollout in opened.rollouts.all() if rollout.state.value == "promoted"), None)
    if found is None:
        raise NotFound("no rollout was promoted", hint="`checkrein rollout list` shows them all")
    return found


def _where(rollout: Rollout) -> str:
    percent = f", {rollout.percent} % of the traffic" if rollout.percent else ""
    return f"{rollout.kind.value} {rollout.stable[:19]} to {rollout.canary[:19]}: {rollout.state.value}{percent}"


def _public(rollout: Rollout) -> dict[str, object]:
    """What is stored, without the logarithms of the tests."""
    shown = msgspec.to_builtins(rollout)
    for name in ("evidence", "recent", "cursor", "version"):
        del shown[name]
    return {**shown, "percent": rollout.percent}


def _show(rollout: Rollout) -> None:
    print_facts(
        (
            ("rollout", rollout.id),
            ("what", rollout.kind.value),
            ("from", rollout.stable),
            ("to", rollout.canary),
            ("state", rollout.state.value),
            ("canary", f"{rollout.percent} % of the traffic"),
            ("stages", ", ".join(f"{percent} %" for percent in rollout.plan.stages)),
            ("verdict", rollout.verdict),
            ("began", f"{stamp(rollout.created_us)} by {rollout.started_by}"),
            ("ended", stamp(rollout.ended_us) if rollout.ended_us else ""),
            ("why", "; ".join(rollout.why)),
            ("approval", rollout.approval),
        )
    )
    emit("")
    print_table(
        ("this stage", "decided", "denied", "reviewed", "answers", "errors", "slow"),
        [_counted("stable", rollout.stable_total), _counted("canary", rollout.canary_total)],
        empty="",
    )
    if rollout.differences:
        emit("")
        print_table(
            ("decided differently", "stable", "canary", "", "seen", "example"),
            [
                (item.action, item.before, item.after, "loosens" if item.loosens else "", str(item.count), item.example)
                for item in rollout.differences
            ],
            empty="",
        )


def _counted(arm: str, total: Tally) -> tuple[str, ...]:
    figures = (total.decided, total.denied, total.reviewed, total.ended, total.errors, total.slow)
    return (arm, *map(str, figures))

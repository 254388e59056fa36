"""`checkrein drift`: whether production still does what the golden set was made of."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from checkrein.cli.common import (
    HERE,
    Data,
    Dir,
    Format,
    GoldenPaths,
    Output,
    emit,
    examples,
    golden_files,
    plain,
    print_json,
    say,
    system,
)
from checkrein.cli.tables import print_table
from checkrein.model import BadRequest

if TYPE_CHECKING:
    from checkrein.compose import System
    from checkrein.flow.drift import Finding, Report
    from checkrein.services.drift import Measured
    from checkrein.services.pdp import Pdp

app = typer.Typer(
    help="Compare production with the golden set.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
#: exit codes by outcome
_EXITS = {"no_drift": 0, "drift": 5, "not_enough_evidence": 8}


@app.callback()
def _group() -> None:
    """Compare production with the golden set."""


@app.command(
    short_help="What shifted, and by how much.",
    epilog=examples(
        "checkrein drift report --dir governance",
        "checkrein drift report --since 30d --suggest more.jsonl --dir governance",
        "checkrein drift report --decrypt --as carol --dir governance      texts too",
    ),
)
def report(
    since: Annotated[
        str, typer.Option(metavar="SPAN", help="How far back, such as 12h or 7d.", show_default="`drift.since`: 7d")
    ] = "",
    golden: GoldenPaths = None,
    environment: Annotated[
        str, typer.Option(metavar="NAME", help="The environment that golden actions are decided in.")
    ] = "production",
    suggest: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write production cases to add, redacted, as golden cases.")
    ] = None,
    decrypt: Annotated[
        bool, typer.Option("--decrypt", help="Read what was asked too; for auditors, and recorded.")
    ] = False,
    person: Annotated[str, typer.Option("--as", metavar="PERSON", help="Who reads; needs the role `auditor`.")] = "",
    dir: Dir = HERE,
    data: Data = None,
    output: Format = Output.TABLE,
) -> None:
    """Compare the actions of production with the golden cases: tool, target, risk, outcome, sizes, and what is new.

    Golden cases are decided by the policies that decide now. Limits stand under `[drift]` in checkrein.toml. P is
    corrected for all questions of the report. A golden set that is too small to notice a shift is not taken for one
    that agrees. Exit 0 no drift, 5 drift, 8 not enough evidence.
    """
    import msgspec

    from checkrein.compose import production_pdp
    from checkrein.services import drift
    from checkrein.services.golden import read_golden

    if decrypt and not person:
        raise BadRequest("nobody is named who reads it", hint="say who you are with `--as PERSON`")
    if suggest and suggest.exists():
        raise BadRequest(f"`{suggest}` is there already", hint="name a new file, read it, then add its cases")
    cases = read_golden(golden_files(golden, dir))
    with system(dir, data) as opened:
        reader = drift.Reader(opened.payloads, person) if decrypt else None
        found = opened.compared(cases, environment, since=since, reader=reader)
        if suggest:
            pdp = production_pdp(opened.config, opened.pdp.bundle, environment)
            _suggest(opened, found, pdp, suggest, person if decrypt else "")
    if output is Output.JSON:
        print_json(msgspec.to_builtins(found.report) | {"told": found.report.told})
    else:
        _show(found.report)
    raise typer.Exit(_EXITS[found.report.outcome.value])


def _suggest(opened: System, found: Measured, pdp: Pdp, path: Path, person: str) -> None:
    """Write what would make the golden set look like production, and say what is to be looked at in it."""
    from checkrein.model import Request, Subject
    from checkrein.model.json import dumps
    from checkrein.services import seen, suggestions
    from checkrein.services.pdp import Asked

    wanted = suggestions.wanted(found.golden, found.production)
    actions = seen.production(opened.store, found.report.since_us, found.report.until_us)
    chosen = suggestions.choose(actions, wanted, found.golden.targets)
    requests: dict[str, Request] = {}
    if person:
        read = opened.payloads.opened([record for record, _ in chosen], person=person, why="drift suggestions")
        requests = {each.record.id: request for each in read if (request := each.with_roles)}
    sources = [suggestions.Source(record, acted, requests.get(record.id)) for record, acted in chosen]
    cases = suggestions.cases(
        sources,
        lambda type, id: opened.facts.roles(Subject(type, id)),
        lambda request: pdp.detectors(request, pdp.decide(Asked(request))),
    )
    with path.open("xb") as file:
        file.writelines(dumps(case.line) + b"\n" for case in cases)
    otherwise = sum(pdp.decide(Asked(case.request)).outcome is not case.expect for case in cases)
    say(f"wrote {len(cases)} cases to {path}: read them before you add them")
    if len(requests) < len(cases):
        why = (
            "an auditor gets them with `--decrypt --as PERSON`" if not person else "they are erased or past their time"
        )
        say(f"{len(cases) - len(requests)} have no arguments: {why}")
    if otherwise:
        say(f"{otherwise} would be decided otherwise than they were, without what was taken out of them")


def _show(report: Report) -> None:
    print_table(
        ("about", "", "what was found", "p"),
        [(found.name, found.state.value, found.told, _p(found)) for found in report.findings],
        empty="",
        prose=("what was found",),
    )
    if report.findings:
        emit("")
    if report.new:
        named = ", ".join(f"{name} ({count:,})" for name, count in report.new.items())
        emit(plain(f"actions the golden set has none of: {named}"))
    emit(plain(f"{report.cases:,} golden cases against {report.actions:,} actions of production"))
    emit(plain(report.told))


def _p(found: Finding) -> str:
    from checkrein.flow.drift import State

    if found.state is State.NOT_COMPARED:
        return ""
    return "< 0.0001" if found.p < 0.0001 else f"{found.p:.4f}"

"""`checkrein init`, `check`, `test`, `doctor`: the governance folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from checkrein.cli.common import HERE, Data, Dir, Format, Output, print_json, print_table, say
from checkrein.model import PolicyInvalid

Folder = Annotated[Path | None, typer.Argument(help="The governance folder.", show_default="--dir")]


def register(app: typer.Typer) -> None:
    app.command(short_help="Write a governance folder that works.")(init)
    app.command(short_help="Load the policies strictly; name every problem.")(check)
    app.command(short_help="Run the policy tests.")(test)
    app.command(short_help="Say what is wrong, and how to mend it.")(doctor)


def init(folder: Folder = None, dir: Dir = HERE, output: Format = Output.TABLE) -> None:
    """Write a governance folder with policies that work: checkrein.toml, tools.yaml, policies, tests, golden.

    Nothing that exists is overwritten.
    """
    from checkrein.defaults import write

    target = folder or dir
    written = write(target)
    if output is Output.JSON:
        print_json({"dir": str(target), "written": list(written)})
        return
    for name in written:
        say(f"wrote {target / name}")
    say("")
    say("next:")
    say(f"  checkrein check {target}                   the policies hold together")
    say(f"  checkrein test {target}                    they decide as their tests say")
    say(f"  checkrein keys create my-agent --dir {target}")
    say(f"  checkrein serve --dir {target}")


def check(folder: Folder = None, dir: Dir = HERE, data: Data = None, output: Format = Output.TABLE) -> None:
    """Load the folder strictly: unknown attributes, misspelt effects, missing ids, broken Cedar. Exits 5 on any."""
    from checkrein import config
    from checkrein.compose import load_bundle

    target = folder or dir
    problems: tuple[str, ...] = ()
    bundle = None
    try:
        bundle = load_bundle(target)
        config.load(target)
    except PolicyInvalid as error:
        problems = error.problems or (str(error),)
    if output is Output.JSON:
        print_json(
            {
                "ok": not problems,
                "bundle": bundle.digest if bundle else "",
                "problems": list(problems),
                "warnings": list(bundle.warnings) if bundle else [],
            }
        )
    if problems or bundle is None:
        raise PolicyInvalid(
            f"{target} has {len(problems)} problem{'s' if len(problems) != 1 else ''}",
            problems=() if output is Output.JSON else problems,
            hint="mend the lines that are named; nothing was loaded",
        )
    for warning in bundle.warnings:
        say(f"warning: {warning}")
    if output is Output.TABLE:
        counts = f"{len(bundle.policies)} policies, {len(bundle.manifests.names())} tools, {len(bundle.cases)} tests"
        typer.echo(f"ok: {counts}; {bundle.digest}")


def test(folder: Folder = None, dir: Dir = HERE, data: Data = None, output: Format = Output.TABLE) -> None:
    """Run the policy tests of the folder (tests/*.yaml). Exits 5 when one fails. Nothing is recorded."""
    from checkrein.compose import run_cases

    target = folder or dir
    results = run_cases(target)
    failed = [result for result in results if not result.passed]
    if output is Output.JSON:
        print_json(
            [
                {"name": r.case.name, "place": r.case.place, "passed": r.passed, "failures": list(r.failures)}
                for r in results
            ]
        )
    else:
        for result in results:
            typer.echo(f"{'pass' if result.passed else 'FAIL'}  {result.case.name}")
            for failure in result.failures:
                typer.echo(f"      {result.case.place}: {failure}")
        typer.echo(f"{len(results) - len(failed)} passed, {len(failed)} failed")
    if not results:
        raise PolicyInvalid(f"{target} has no policy tests", hint="write some under tests/*.yaml")
    if failed:
        raise typer.Exit(PolicyInvalid.exit_code)


def doctor(dir: Dir = HERE, data: Data = None, output: Format = Output.TABLE) -> None:
    """Say what is wrong with this deployment and how to mend it, and where each setting came from.

    Exits 1 when something would keep Checkrein from working.
    """
    from checkrein.doctor import examine

    findings, origins = examine(dir, data)
    if output is Output.JSON:
        print_json(
            {
                "findings": [finding.to_json() for finding in findings],
                "settings": [{"name": o.name, "value": o.value, "source": o.source} for o in origins],
            }
        )
    else:
        print_table(
            ("", "what", "found", "what to do"),
            [(finding.verdict, finding.what, finding.found, finding.hint) for finding in findings],
            empty="",
        )
        print_table(
            ("setting", "value", "came from"),
            [(origin.name, origin.value, origin.source) for origin in origins],
            empty="no settings could be read",
        )
    if any(finding.verdict == "fail" for finding in findings):
        raise typer.Exit(1)

"""`checkrein init`, `check`, `test`, `doctor`: the governance folder."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from checkrein.cli.common import HERE, Data, Dir, Format, Output, emit, examples, plain, print_json, reason, say
from checkrein.cli.tables import print_table
from checkrein.model import CheckreinError, ConfigError, PolicyInvalid

Folder = Annotated[Path | None, typer.Argument(metavar="DIR", help="The governance folder.", show_default="--dir")]


def register(app: typer.Typer) -> None:
    app.command(short_help="Write a governance folder that works.", epilog=examples("checkrein init governance"))(init)
    app.command(
        short_help="Load the policies strictly; name every problem.",
        epilog=examples("checkrein check governance", "checkrein check governance -o json"),
    )(check)
    app.command(
        short_help="Run the policy tests.",
        epilog=examples(
            "checkrein test governance",
            "",
            "a test, in tests/any-name.yaml:",
            "  tests:",
            "    - name: a small payment runs",
            "      subject: {id: alice, roles: [treasury]}",
            "      tool: transfer_funds",
            "      input: {to: ACME, amount: 500}",
            "      expect: {outcome: allow}",
        ),
    )(test)
    app.command(
        short_help="Say what is wrong, and how to mend it.",
        epilog=examples("checkrein doctor --dir governance", "checkrein doctor -o json"),
    )(doctor)


def init(folder: Folder = None, dir: Dir = HERE, data: Data = None, output: Format = Output.TABLE) -> None:
    """Write a governance folder with policies that work.

    \b
      checkrein.toml      upstreams, people, limits
      policies/*.cedar    what may run, what people are asked about
      tools.yaml          what each tool does
      tests/*.yaml        what the policies must decide
      golden/*.jsonl      recorded requests with their outcomes

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
    if ".gitignore" not in written:
        say("your .gitignore was kept: let it name `.checkrein/` and `.env`")
    place = shlex.quote(str(target))
    where = f"--dir {place}" + (f" --data {shlex.quote(str(data))}" if data else "")
    say("")
    say("next:")
    say(f"  checkrein check {place}      the policies hold together")
    say(f"  checkrein test {place}       they decide as their tests say")
    say(f"  checkrein keys create my-agent {where}")
    say(f"  checkrein serve {where}")


def check(
    folder: Folder = None,
    analyze: Annotated[
        bool, typer.Option("--analyze/--no-analyze", help="Look for rules that cannot work; needs checkrein[analysis].")
    ] = True,
    dir: Dir = HERE,
    data: Data = None,
    output: Format = Output.TABLE,
) -> None:
    """Load the folder strictly and name every problem with file and line. Exits 5 on any.

    Broken Cedar, unknown attributes and effects, missing ids, unknown fields in checkrein.toml. With z3 installed also
    policies that can never fire, that a stricter one always covers, or that contradict each other. Nothing is recorded.
    """
    from checkrein import config
    from checkrein.compose import load_bundle
    from checkrein.storage.folder import read_folder

    target = folder or dir
    read_folder(target)  # a folder that is not there is no finding, it is a slip
    problems: list[str] = []
    warnings: list[str] = []
    bundle = None
    try:
        warnings += config.load(target).warnings
    except ConfigError as error:
        problems.append(f"{error} (hint: {error.hint})")
    try:
        bundle = load_bundle(target)
        warnings += bundle.warnings
        if analyze:
            found, notes = _analysed(target)
            problems += found
            warnings += notes
    except PolicyInvalid as error:
        problems += error.problems or (str(error),)
    if output is Output.JSON:
        print_json(
            {
                "ok": not problems,
                "bundle": bundle.digest if bundle else "",
                "problems": problems,
                "warnings": warnings,
            }
        )
    if problems or bundle is None:
        raise PolicyInvalid(
            f"{target} has {len(problems)} problem{'s' if len(problems) != 1 else ''}",
            problems=() if output is Output.JSON else tuple(problems),
            hint="mend the lines that are named; nothing was loaded",
        )
    for warning in warnings:
        say(f"warning: {warning}")
    if output is Output.TABLE:
        counts = f"{len(bundle.policies)} policies, {len(bundle.manifests.names())} tools, {len(bundle.cases)} tests"
        emit(f"ok: {counts}; {bundle.digest}")


def _analysed(target: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What the solver finds: dead, shadowed and contradictory policies, broken invariants. Without it, one note."""
    from checkrein.cli.analysis import analyze

    try:
        return analyze(target)
    except PolicyInvalid:
        raise
    except CheckreinError as error:
        return (), (f"not analysed: {error} ({error.hint})",)


def test(
    folder: Folder = None,
    junit: Annotated[Path | None, typer.Option(help="Write the results as JUnit XML too.", metavar="FILE")] = None,
    require_coverage: Annotated[
        bool, typer.Option("--require-coverage", help="Fail when a policy fires in no test.")
    ] = False,
    schema: Annotated[
        bool, typer.Option("--schema", help="Print the JSON Schema of tests/*.yaml, for editors.")
    ] = False,
    dir: Dir = HERE,
    data: Data = None,
    output: Format = Output.TABLE,
) -> None:
    """Run the policy tests of the folder (tests/*.yaml). Exits 5 when one fails. Nothing is recorded.

    Names the policies that fire in no test: a rule nobody has tried.
    """
    if schema:
        from importlib.resources import files

        emit((files("checkrein.policy") / "schemas" / "tests.schema.json").read_text(encoding="utf-8").rstrip())
        return
    from checkrein.compose import run_cases, unfired
    from checkrein.policy.junit import junit as to_junit

    target = folder or dir
    results, silent = run_cases(target), unfired(target)
    failed = [result for result in results if not result.passed]
    if junit is not None:
        try:
            junit.write_bytes(to_junit(results, silent if require_coverage else ()))
        except OSError as error:
            raise ConfigError(f"`{junit}` cannot be written: {reason(error)}", hint="name another file") from error
    if output is Output.JSON:
        print_json(
            {
                "tests": [
                    {"name": r.case.name, "place": r.case.place, "passed": r.passed, "failures": list(r.failures)}
                    for r in results
                ],
                "unfired": list(silent),
            }
        )
    else:
        for result in results:
            emit(plain(f"{'pass' if result.passed else 'FAIL'}  {result.case.name}"))
            for failure in result.failures:
                emit(plain(f"      {result.case.place}: {failure}"))
        emit(f"{len(results) - len(failed)} passed, {len(failed)} failed")
    if not results:
        raise PolicyInvalid(f"{target} has no policy tests", hint="write some under tests/*.yaml")
    if silent:
        say(plain(f"in no test: {', '.join(silent)}"))
    if failed or (silent and require_coverage):
        raise typer.Exit(PolicyInvalid.exit_code)


def doctor(dir: Dir = HERE, data: Data = None, output: Format = Output.TABLE) -> None:
    """Say what is wrong with this deployment and how to mend it, and where each setting came from.

    Looks at settings, policies and their tests, approvers, the store, the ledger, keys, disk, upstreams and the port.
    Exits 1 when something would keep Checkrein from working. Secrets are never printed.
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
            prose=("found", "what to do"),
        )
        emit("")
        print_table(
            ("setting", "value", "came from"),
            [(origin.name, origin.value or "-", origin.source) for origin in origins],
            empty="no settings could be read",
            prose=("value",),
        )
    if any(finding.verdict == "fail" for finding in findings):
        raise typer.Exit(1)

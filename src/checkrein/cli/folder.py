"""`checkrein init`, `check`, `test`, `doctor`: the governance folder."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from checkrein.cli.common import HERE, Data, Dir, Format, Output, emit, examples, plain, print_json, reason, say
from checkrein.cli.tables import print_table
from checkrein.model import ConfigError, PolicyInvalid

if TYPE_CHECKING:
    from checkrein.policy.junit import Ran

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
    say(f"  checkrein keys create my-agent --owner alice --roles staff {where}")
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

    Broken Cedar, unknown attributes and effects, missing ids, unknown fields in checkrein.toml. With the extra
    (pip install 'checkrein[analysis]') also policies that can never fire, that a stricter one always covers, or that
    contradict each other, and invariants that do not hold. Without it a warning says that nobody looked, and every
    invariant is a problem. Nothing is recorded.
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
            from checkrein.cli.analysis import analyze as look_deeper

            found, notes = look_deeper(target)
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

    Names the policies that fire in no test: a rule nobody has tried. Proves the invariants (`never: ...`); one that is
    not proved has failed, also where checkrein[analysis] is not installed.
    """
    if schema:
        from importlib.resources import files

        emit((files("checkrein.policy") / "schemas" / "tests.schema.json").read_text(encoding="utf-8").rstrip())
        return
    from checkrein.cli.analysis import prove
    from checkrein.compose import run_cases, unfired
    from checkrein.policy.junit import Ran
    from checkrein.policy.junit import junit as to_junit

    target = folder or dir
    cases = tuple(Ran(each.case.name, each.case.place, each.failures) for each in run_cases(target))
    silent, invariants = unfired(target), prove(target)
    results = (*cases, *invariants)
    failed = [result for result in results if not result.passed]
    if junit is not None:
        try:
            junit.write_bytes(to_junit(results, silent if require_coverage else ()))
        except OSError as error:
            raise ConfigError(f"`{junit}` cannot be written: {reason(error)}", hint="name another file") from error
    if output is Output.JSON:
        print_json(
            {
                "tests": [_told(result) for result in cases],
                "invariants": [_told(result) for result in invariants],
                "unfired": list(silent),
            }
        )
    else:
        for result in results:
            emit(plain(f"{'pass' if result.passed else 'FAIL'}  {result.name}"))
            for failure in result.failures:
                emit(plain(f"      {result.place}: {failure}"))
        emit(f"{len(results) - len(failed)} passed, {len(failed)} failed")
    if not cases:
        raise PolicyInvalid(f"{target} has no policy tests", hint="write some under tests/*.yaml")
    if silent:
        say(plain(f"in no test: {', '.join(silent)}"))
    if failed or (silent and require_coverage):
        raise typer.Exit(PolicyInvalid.exit_code)


def _told(result: Ran) -> dict[str, object]:
    return {"name": result.name, "place": result.place, "passed": result.passed, "failures": list(result.failures)}


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

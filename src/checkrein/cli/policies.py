"""`checkrein explain` and `checkrein fmt`: reading and writing policies."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from checkrein.cli.common import HERE, Dir, Format, Output, emit, examples, plain, print_json, say
from checkrein.cli.decide import read_request
from checkrein.model import BadRequest, PolicyInvalid

LINE_WIDTH = 100
INDENT = 2
#: stands above all policies, and is not repeated below each condition
LABELS = "context.labels"


def register(app: typer.Typer) -> None:
    app.command(
        short_help="Why a request is decided as it is.",
        epilog=examples("checkrein explain request.json --dir governance"),
    )(explain)
    app.command(short_help="Format the policies as Cedar does.", epilog=examples("checkrein fmt governance --check"))(
        fmt
    )


def explain(
    request: Annotated[str, typer.Argument(help="A file in AuthZEN form, or `-` for standard input.")],
    dir: Dir = HERE,
    output: Format = Output.TABLE,
) -> None:
    """Show every policy that speaks of the action: what held, with which values, and what would change the outcome.

    Records nothing. What it prints holds values of the request.
    """
    import msgspec

    from checkrein.compose import explain_request

    decision, explained = explain_request(read_request(request), dir)
    if output is Output.JSON:
        print_json({**decision.to_json(), "explained": [msgspec.to_builtins(item) for item in explained]})
        return
    emit(plain(f"{decision.outcome.wire}: {'; '.join(decision.reasons) or 'no policy grants this'}"))
    risk = decision.risk
    emit(plain(f"risk {risk.level} {risk.score}: {', '.join(risk.factors) or 'nothing found'}"))
    emit(plain(f"labels: {', '.join(decision.labels) or 'none'}"))
    if not explained:
        say("the policies were not asked")
    for item in explained:
        emit("")
        emit(plain(f"{item.state}  {item.kind} {item.id}  {item.place}"))
        if item.reason:
            emit(plain(f"  reason: {item.reason}"))
        if not item.scope:
            emit(plain("  its principal or resource is another"))
        told = {LABELS}
        for condition in item.conditions:
            stopped = condition.text.startswith("unless ") and condition.verdict == "true"
            emit(plain(f"  {condition.verdict}  {condition.text}{'  (so it does not apply)' if stopped else ''}"))
            for path, value in condition.values.items():
                if path not in told:
                    emit(plain(f"      {path} = {msgspec.json.encode(value).decode()}"))
                told.add(path)
        if item.otherwise:
            what = "without it" if item.state != "not satisfied" else "if it were satisfied"
            emit(plain(f"  {what}: {item.otherwise}"))


def fmt(
    folder: Annotated[Path | None, typer.Argument(help="The governance folder.", show_default="--dir")] = None,
    check: Annotated[bool, typer.Option("--check", help="Change nothing; exit 5 if a file would change.")] = False,
    dir: Dir = HERE,
) -> None:
    """Format policies/*.cedar by Cedar's own conventions. Comments stay; what the policies mean cannot change."""
    import cedarpy

    from checkrein.storage.files import write_atomic
    from checkrein.storage.folder import read_folder

    target = folder or dir
    changed: list[str] = []
    for name, data in read_folder(target).items():
        if not name.endswith(".cedar"):
            continue
        try:
            text = data.decode("utf-8")
            clean = str(cedarpy.format_policies(text, line_width=LINE_WIDTH, indent_width=INDENT))
            clean = clean if clean.endswith("\n") else clean + "\n"
            same = cedarpy.policies_to_json_str(clean) == cedarpy.policies_to_json_str(text)
        except ValueError as error:
            raise PolicyInvalid(
                f"`{target / name}` does not parse: {error}", hint="`checkrein check` names the line"
            ) from error
        if not same:
            raise PolicyInvalid(f"`{target / name}` cannot be formatted without changing it", hint="leave it as it is")
        if clean == text:
            continue
        changed.append(name)
        if not check:
            try:
                write_atomic(target / name, clean.encode(), mode=0o644)
            except OSError as error:
                raise BadRequest(f"`{target / name}` cannot be written", hint="check its permissions") from error
    for name in changed:
        say(f"{'would change' if check else 'formatted'} {target / name}")
    if not changed:
        say("nothing to change")
    if check and changed:
        raise typer.Exit(PolicyInvalid.exit_code)

"""`checkrein decide`: one decision, from a file or standard input."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from checkrein.cli.common import HERE, Data, Dir, Format, Output, examples, print_json, reason, say, system
from checkrein.cli.tables import print_facts
from checkrein.model import BadRequest, Decision, Outcome, Request
from checkrein.model.decision import UNSUPPORTED
from checkrein.model.json import load_object

#: a request larger than this is a mistake
MAX_BYTES = 8 * 1024 * 1024
EXIT = {Outcome.ALLOW: 0, Outcome.ALLOW_WITH_REDACTION: 0, Outcome.REQUIRE_REVIEW: 4, Outcome.DENY: 3}


def register(app: typer.Typer) -> None:
    epilog = examples(
        "checkrein decide request.json --dir governance",
        "checkrein decide request.json --dry-run -o table",
        "my-agent --plan | checkrein decide - && my-agent --run",
        "",
        "a request:",
        '  {"subject": {"type": "user", "id": "alice",',
        '               "properties": {"roles": ["staff"]}},',
        '   "action": {"name": "read_file",',
        '              "properties": {"input": {"path": "q3.csv"}}},',
        '   "resource": {"type": "tool", "id": "read_file"}}',
    )
    app.command(short_help="Decide one request and record it.", epilog=epilog)(decide)


def decide(
    request: Annotated[
        str, typer.Argument(metavar="REQUEST", help="A JSON file in AuthZEN's form, or `-` for standard input.")
    ],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Decide without recording anything.")] = False,
    dir: Dir = HERE,
    data: Data = None,
    output: Format = Output.JSON,
) -> None:
    """Decide one request, record the decision, and print it.

    Exits 0 when it may run, 3 on DENY, 4 on REQUIRE_REVIEW. A redaction is an obligation: a request that does not
    declare `"supported_obligations": ["custom"]` in its context gets `"decision": false` and exit 3.
    """
    parsed = read_request(request)
    supported = parsed.context.get("supported_obligations", ())
    if dry_run:
        made = _dry_run(parsed, dir).for_caller(supported)
    else:
        with system(dir, data) as opened:
            made = opened.gateway.evaluate_sync(parsed, caller="cli", supported_obligations=supported)
    if output is Output.JSON:
        print_json(made.to_json())
    else:
        _table(made)
    if UNSUPPORTED in made.reasons:
        say("the redaction is an obligation this request does not support, so it is denied")
    raise typer.Exit(EXIT[made.outcome])


def _dry_run(request: Request, folder: Path) -> Decision:
    from checkrein.compose import dry_pdp
    from checkrein.services.pdp import Asked

    return dry_pdp(folder).decide(Asked(request))


def read_request(name: str) -> Request:
    """The request in a file, or on standard input for `-`; raises `BadRequest`."""
    try:
        return Request.from_json(load_object(_read(name)))
    except BadRequest as error:
        raise BadRequest(f"{_shown(name)}: {error}", hint=error.hint) from error


def _read(name: str) -> bytes:
    try:
        if name == "-":
            data = sys.stdin.buffer.read(MAX_BYTES + 1) if sys.stdin else b""
        else:
            with Path(name).open("rb") as file:
                data = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:  # a name with a NUL is a ValueError
        why = reason(error) if isinstance(error, OSError) else "no such file"
        raise BadRequest(f"it cannot be read: {why}", hint="name a file, or `-` for standard input") from error
    if len(data) > MAX_BYTES:
        raise BadRequest(f"it is larger than {MAX_BYTES // 2**20} MiB", hint="send less")
    return data


def _shown(name: str) -> str:
    return "standard input" if name == "-" else f"`{name}`"


def _table(made: Decision) -> None:
    print_facts(
        [
            ("outcome", made.outcome.wire),
            ("risk", made.risk.level.value),
            ("score", str(made.risk.score)),
            ("factors", ", ".join(made.risk.factors)),
            ("policies", ", ".join(made.policies)),
            ("reasons", "; ".join(made.reasons)),
            ("errors", "; ".join(f"{error.policy}: {error.message}" for error in made.errors)),
            ("redact", ", ".join(made.redact)),
            ("instead", "; ".join(advice.text for advice in made.advice)),
            ("approvers", str(made.requirement or "")),
            ("approval", made.approval_id),
            ("trace id", made.trace_id),
            ("bundle", made.bundle),
        ]
    )

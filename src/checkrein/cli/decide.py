"""`checkrein decide`: one decision, from a file or standard input."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from checkrein.cli.common import HERE, Data, Dir, Format, Output, print_facts, print_json, say, system
from checkrein.model import BadRequest, Decision, Outcome, Request
from checkrein.model.json import load_object

#: a request larger than this is a mistake
MAX_BYTES = 8 * 1024 * 1024
EXIT = {Outcome.ALLOW: 0, Outcome.ALLOW_WITH_REDACTION: 0, Outcome.REQUIRE_REVIEW: 4, Outcome.DENY: 3}


def register(app: typer.Typer) -> None:
    app.command(short_help="Decide one request and record it.")(decide)


def decide(
    request: Annotated[str, typer.Argument(help="A file in AuthZEN form, or `-` for standard input.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Decide without recording anything.")] = False,
    dir: Dir = HERE,
    data: Data = None,
    output: Format = Output.JSON,
) -> None:
    """Decide one request, record the decision, and print it.

    Exits 0 when it may run, 3 on DENY, 4 on REQUIRE_REVIEW. A redaction is an obligation: a request that does not
    declare `"supported_obligations": ["custom"]` in its context gets `"decision": false` and exit 3.
    """
    parsed = Request.from_json(load_object(_read(request)))
    supported = parsed.context.get("supported_obligations", ())
    knows_redaction = isinstance(supported, list) and "custom" in supported
    if dry_run:
        made = _dry_run(parsed, dir)
    else:
        with system(dir, data) as opened:
            made = opened.gateway.evaluate_sync(parsed, caller="cli")
    if output is Output.JSON:
        print_json(made.to_json(obligations_supported=knows_redaction))
    else:
        _table(made)
    if made.outcome is Outcome.ALLOW_WITH_REDACTION and not knows_redaction:
        say("the redaction is an obligation this request does not support; read it as DENY")
        raise typer.Exit(EXIT[Outcome.DENY])
    raise typer.Exit(EXIT[made.outcome])


def _dry_run(request: Request, folder: Path) -> Decision:
    from checkrein.compose import dry_pdp
    from checkrein.services.pdp import Asked

    return dry_pdp(folder).decide(Asked(request))


def _read(name: str) -> bytes:
    if name == "-":
        data = sys.stdin.buffer.read(MAX_BYTES + 1)
    else:
        try:
            with Path(name).open("rb") as file:
                data = file.read(MAX_BYTES + 1)
        except OSError as error:
            raise BadRequest(
                f"`{name}` cannot be read: {(error.strerror or 'no such file').lower()}",
                hint="name a file, or `-` for standard input",
            ) from error
    if len(data) > MAX_BYTES:
        raise BadRequest(f"`{name}` is larger than {MAX_BYTES} bytes", hint="send less")
    return data


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

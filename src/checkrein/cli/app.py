"""All verbs under one command, and what becomes of the errors they raise."""

from __future__ import annotations

import io
import os
import sys
import traceback
from pathlib import Path

import typer

from checkrein.cli import (
    analysis,
    approvals,
    audit,
    bundle,
    control,
    decide,
    drift,
    emergency,
    evidence,
    exports,
    folder,
    gate,
    keys,
    metrics,
    openclaw,
    policies,
    privacy,
    replay,
    rollout,
    run,
    standing,
    tail,
    votes,
    watch,
    webhooks,
)
from checkrein.cli.common import ReaderGone, examples, reason, report
from checkrein.model import CheckreinError

#: set it to see where something broke that should not
TRACEBACK = "CHECKREIN_TRACEBACK"
#: what shells report for a program that SIGPIPE ended; never 0, which would read as ALLOW
_READER_GONE = 141

EPILOG = (
    examples(
        "checkrein demo                            see it work, with nothing set up",
        "checkrein init governance                 write policies that work",
        "checkrein keys create bot --owner alice --roles staff --dir governance",
        "checkrein serve --dir governance          govern what comes through",
    )
    + "\n\n\b\nExit codes:\n"
    + "  0 fine, or ALLOW             5 policy checks or tests failed\n"
    + "  1 failure                    6 the ledger does not verify\n"
    + "  2 usage or configuration     7 the store or an upstream is unreachable\n"
    + "  3 DENY                       8 not enough evidence\n"
    + "  4 REQUIRE_REVIEW"
)

app = typer.Typer(
    name="checkrein",
    help="The runtime governance plane for AI agents: decide, approve, record and prove every action.",
    epilog=EPILOG,
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
run.register(app)
folder.register(app)
decide.register(app)
policies.register(app)
analysis.register(app)
replay.register(app)
metrics.register(app)
app.add_typer(approvals.app, name="approvals")
votes.register(approvals.app)
watch.register(approvals.app)
standing.register(approvals.app)
emergency.register(approvals.app)
app.add_typer(audit.app, name="audit")
audit.register(app)
tail.register(audit.app)
exports.register(audit.app)
evidence.register(audit.app)
privacy.register(audit.app)
control.register(app)
app.add_typer(keys.app, name="keys")
app.add_typer(bundle.app, name="bundle")
app.add_typer(gate.app, name="gate")
app.add_typer(drift.app, name="drift")
app.add_typer(rollout.app, name="rollout")
app.add_typer(openclaw.app, name="openclaw")
app.add_typer(webhooks.app, name="webhooks")


def _version(wanted: bool) -> None:
    if wanted:
        from checkrein import __version__

        typer.echo(f"checkrein {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: bool = typer.Option(False, "--version", help="Print the version.", callback=_version, is_eager=True),
) -> None:
    """The runtime governance plane for AI agents: decide, approve, record and prove every action."""


def execute() -> int:
    """Run the command line; the exit code. Errors made for people become a line and a hint on stderr."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        app(prog_name="checkrein")
    except ReaderGone:
        return _give_up_stdout(_READER_GONE)
    except CheckreinError as error:
        report(error)
        return _give_up_stdout(error.exit_code)
    except OSError as error:
        place = f"`{error.filename}`: " if isinstance(error.filename, str) else ""
        report(CheckreinError(f"{place}{reason(error)}", hint="`checkrein doctor` looks at files, disk and ports"))
        return 1
    except Exception as error:
        # ours to mend; until then one line, which holds no argument values as a traceback may
        if os.environ.get(TRACEBACK):
            raise
        report(_fault(error))
        return 1
    return 0


def _fault(error: Exception) -> CheckreinError:
    last = traceback.extract_tb(error.__traceback__)[-1]
    place = f"{Path(last.filename).name}:{last.lineno}"
    return CheckreinError(
        f"checkrein itself failed: {type(error).__name__} at {place}",
        hint=f"set `{TRACEBACK}=1` to see how it came to that, and report it",
    )


def _give_up_stdout(exit_code: int) -> int:
    """Let the interpreter end without complaint about output that can no longer be written."""
    try:
        sys.stdout.flush()
    except (OSError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return exit_code

"""The command line: one file per verb group, thin. Data on stdout, messages on stderr.

`common`     options that every verb takes, tables, JSON, errors
`folder`     init, check, test, doctor
`run`        demo, serve
`decide`     decide
`approvals`  approvals list, show, approve, deny
`audit`      audit list, show, verify, export; activity
`keys`       keys create, list, revoke

What needs the store or the server is imported inside the verbs, so that `--help` answers at once.
"""

from __future__ import annotations

import sys

import typer

from checkrein.cli import approvals, audit, decide, folder, keys, run
from checkrein.cli.common import report
from checkrein.model import CheckreinError

EPILOG = (
    "Exit codes: 0 fine or ALLOW, 1 failure, 2 usage, 3 DENY, 4 REQUIRE_REVIEW, 5 checks or tests failed, "
    "6 ledger does not verify, 7 unreachable."
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
app.add_typer(approvals.app, name="approvals")
app.add_typer(audit.app, name="audit")
audit.register(app)
app.add_typer(keys.app, name="keys")


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


def main() -> None:
    """The `checkrein` command. Errors made for people become a line, a hint and an exit code."""
    try:
        app()
    except CheckreinError as error:
        report(error)
        sys.exit(error.exit_code)
    except BrokenPipeError:
        # the reader of our output went away (`| head`): not an error of ours
        sys.stderr.close()
        sys.exit(0)

"""What every verb shares: options, tables, JSON, errors, and opening the system."""

from __future__ import annotations

import enum
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from checkrein.model import CheckreinError, LedgerInvalid, PolicyInvalid

if TYPE_CHECKING:
    from rich.console import Console

    from checkrein.compose import System


class Output(enum.StrEnum):
    TABLE = "table"
    JSON = "json"


Dir = Annotated[
    Path,
    typer.Option("--dir", help="The governance folder.", envvar="CHECKREIN_DIR", show_default="this folder"),
]
Data = Annotated[Path | None, typer.Option("--data", help="Where the store lives.", show_default="DIR/.checkrein")]
Format = Annotated[Output, typer.Option("--output", "-o", help="How to print.")]
HERE = Path()


def console(*, stderr: bool = False) -> Console:
    """A console that colours only terminals, never when `NO_COLOR` is set, and folds instead of cutting."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    # into a pipe or a file there is no edge to fit to
    width = None if stream.isatty() or "COLUMNS" in os.environ else 160
    return Console(stderr=stderr, width=width, highlight=False, emoji=False, soft_wrap=False)


def say(message: str) -> None:
    """A message for the person, on stderr."""
    typer.echo(message, err=True)


def print_json(value: object) -> None:
    """One JSON document on stdout."""
    typer.echo(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, empty: str) -> None:
    """A table on stdout, or `empty` on stderr when there is nothing to show."""
    if not rows:
        say(empty)
        return
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell, style=STYLES.get(cell, "")) for cell in row))
    console().print(table)


def print_facts(facts: Sequence[tuple[str, str]]) -> None:
    """Names and values on stdout, one pair a line; pairs without a value are left out."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, show_header=False, show_edge=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in facts:
        if value:
            table.add_row(name, Text(value, style=STYLES.get(value, "")))
    console().print(table)


#: colours that carry meaning, always beside the word itself
STYLES = {
    "green": "green",
    "amber": "yellow",
    "red": "red",
    "allow": "green",
    "allow_with_redaction": "cyan",
    "require_review": "yellow",
    "deny": "red",
    "pending": "yellow",
    "approved": "green",
    "denied": "red",
    "ok": "green",
    "warn": "yellow",
    "fail": "red",
}


def report(error: CheckreinError) -> None:
    """An error for the person who must act: what is wrong, where, and what to do next."""
    say(f"error: {error}")
    problems = error.problems if isinstance(error, PolicyInvalid | LedgerInvalid) else ()
    for problem in problems:
        say(f"  {problem}")
    if error.hint:
        say(f"hint: {error.hint}")


@contextmanager
def system(folder: Path, data: Path | None) -> Iterator[System]:
    """The system on a governance folder and its store, closed at the end."""
    from checkrein.compose import open_system

    opened = open_system(folder, data=data)
    try:
        yield opened
    finally:
        opened.close()


def operator() -> str:
    """Who runs this command, as the operating system knows them: recorded with what they change."""
    import getpass

    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return f"uid-{os.getuid()}"

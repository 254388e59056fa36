"""What every verb shares: options, what is printed where, errors, and opening the store.

Data goes to stdout through `emit`, `print_json` or `tables`; messages go to stderr through `say`. Both escape what a
terminal would obey instead of showing: names and reasons come from agents.
"""

from __future__ import annotations

import enum
import errno
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from checkrein.model import CheckreinError, LedgerInvalid, NotFound, PolicyInvalid

if TYPE_CHECKING:
    from checkrein.compose import System
    from checkrein.storage.sqlite import SqliteStore


class Output(enum.StrEnum):
    TABLE = "table"
    JSON = "json"


Dir = Annotated[
    Path,
    typer.Option("--dir", metavar="DIR", help="The governance folder.", envvar="CHECKREIN_DIR", show_default="here"),
]
Data = Annotated[
    Path | None, typer.Option("--data", metavar="DIR", help="Where the store lives.", show_default="DIR/.checkrein")
]
Format = Annotated[Output, typer.Option("--output", "-o", help="A table for people, or JSON.")]
GoldenPaths = Annotated[
    list[str] | None,
    typer.Option("--golden", metavar="PATH", help="Golden cases: file, folder or pattern.", show_default="DIR/golden"),
]
HERE = Path()

_CONTROL = re.compile(r"[^\x20-\x7e\n]")


class ReaderGone(Exception):
    """Whoever read our output went away, as in `checkrein audit list | head -1`."""


def examples(*lines: str) -> str:
    """The end of a help text: commands to copy."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


def plain(text: str) -> str:
    """The text with everything invisible or obeyed by terminals written as an escape: it cannot redraw or reorder."""
    return text if text.isascii() and text.isprintable() else "".join(map(_visible, text))


def _visible(char: str) -> str:
    if char.isprintable() or char == "\n":
        return char
    point = ord(char)
    return f"\\x{point:02x}" if point < 0x100 else f"\\u{point:04x}" if point < 0x10000 else f"\\U{point:08x}"


@contextmanager
def to_stdout() -> Iterator[None]:
    """Writes to stdout stand in here: a reader that is gone raises `ReaderGone`, a full disk `CheckreinError`."""
    try:
        yield
    except OSError as error:
        if error.errno == errno.EPIPE:
            raise ReaderGone from None
        raise CheckreinError(
            f"standard output cannot be written: {reason(error)}", hint="what was done stands; only the answer is lost"
        ) from error


def emit(text: str) -> None:
    """Data, on stdout."""
    with to_stdout():
        typer.echo(text, color=True)  # who made the text knows whether it may hold colours


def say(message: str) -> None:
    """A message for the person, on stderr. Nobody is told when that is gone too."""
    with suppress(OSError):
        typer.echo(plain(message), err=True)


def print_json(value: object) -> None:
    """One JSON document on stdout, with what terminals obey escaped as JSON escapes it."""
    emit(_escaped(msgspec.json.format(msgspec.json.encode(value), indent=2).decode()))


def print_json_line(value: object) -> None:
    """One JSON document on one line of stdout, escaped alike."""
    emit(_escaped(msgspec.json.encode(value).decode()))


def _escaped(text: str) -> str:
    return _CONTROL.sub(lambda found: found[0] if found[0].isprintable() else _json_escape(found[0]), text)


def _json_escape(char: str) -> str:
    units = char.encode("utf-16-be")
    return "".join(f"\\u{units[at]:02x}{units[at + 1]:02x}" for at in range(0, len(units), 2))


def reason(error: OSError) -> str:
    """Why the system refused, in its own words."""
    return (error.strerror or type(error).__name__).lower()


def report(error: CheckreinError) -> None:
    """An error for the person who must act: what is wrong, where, and what to do next."""
    say(f"error: {error}")
    problems = error.problems if isinstance(error, PolicyInvalid | LedgerInvalid) else ()
    for problem in problems:
        if problem not in str(error):
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


@contextmanager
def store(folder: Path, data: Path | None) -> Iterator[SqliteStore]:
    """The store alone: policies that do not load must not keep anybody from revoking a key."""
    from checkrein.compose import DATA, SystemClock
    from checkrein.storage.folder import read_folder
    from checkrein.storage.sqlite import SqliteStore

    read_folder(folder)  # a store is made only where a governance folder is
    opened = SqliteStore(data or folder / DATA, SystemClock())
    try:
        yield opened
    finally:
        opened.close()


def golden_files(patterns: list[str] | None, folder: Path) -> dict[str, bytes]:
    """The files that are named, by their paths; a folder stands for its `*.jsonl`, a pattern for what it meets."""
    named = [path for pattern in patterns for path in _met(pattern)] if patterns else [folder / "golden"]
    found = [file for path in named for file in (sorted(path.glob("*.jsonl")) if path.is_dir() else [path])]
    missing = next((path for path in found if not path.is_file()), None)
    if missing or not found:
        where = f"`{missing or named[0]}`"
        raise NotFound(f"no golden cases are in {where}", hint="write golden/*.jsonl, or name files with `--golden`")
    return {str(path): path.read_bytes() for path in found}


def _met(pattern: str) -> list[Path]:
    path = Path(pattern)
    if path.exists() or not set("*?[") & set(pattern):
        return [path]
    return sorted(Path(path.anchor).glob(str(path.relative_to(path.anchor)))) or [path]


def operator() -> str:
    """Who runs this command, as the operating system knows them: recorded with what they change."""
    import getpass

    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return f"uid-{os.getuid()}"


def is_terminal() -> bool:
    return sys.stdout is not None and sys.stdout.isatty()

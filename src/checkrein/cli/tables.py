"""Tables and facts on stdout. A terminal too narrow for a table gets a block a row; a pipe gets one line a row.

Nothing is cut, and a table never breaks an id over lines: ids are there to be copied.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

from checkrein.cli.common import ReaderGone, emit, is_terminal, plain, say

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.text import Text

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
    "met": "green",
    "missed": "red",
    "ok": "green",
    "warn": "yellow",
    "fail": "red",
}
#: a column of prose may be folded down to this width
_PROSE = 24
_GAP = 2
#: between the pairs of a block
_BETWEEN = "   "
#: wide enough for any line: a pipe has no edge
_ENDLESS = 100_000


def console(*, stderr: bool = False, width: int | None = None) -> Console:
    """A console that styles only terminals, and nothing at all when `NO_COLOR` is set."""
    from rich.console import Console

    class Watched(Console):
        def on_broken_pipe(self) -> None:
            raise ReaderGone

    colours: Literal["auto"] | None = None if os.environ.get("NO_COLOR") else "auto"
    return Watched(stderr=stderr, width=width, color_system=colours, highlight=False, emoji=False)


@contextmanager
def progress(what: str, *, shown: bool = True) -> Iterator[Callable[[int, int | None], None]]:
    """A bar on stderr while the block runs, if that is a terminal.

    Call what it gives with how many are done of how many, None where nobody knows.
    """
    out = console(stderr=True)
    if not (shown and out.is_terminal):
        yield lambda done, total: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=out, transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def line_width() -> int:
    """The columns there are to fill; `COLUMNS` counts also where there is no terminal."""
    if not is_terminal() and "COLUMNS" not in os.environ:
        return _ENDLESS
    return max(shutil.get_terminal_size().columns, 20)


def print_table(
    columns: Sequence[str], rows: Sequence[Sequence[str]], *, empty: str, prose: Container[str] = ()
) -> None:
    """A table on stdout, or `empty` on stderr when there is nothing to show. Columns of `prose` may be folded."""
    if not rows:
        say(empty)
        return
    cells = [[plain(cell) for cell in row] for row in rows]
    width = line_width()
    if _least_width(columns, cells, prose) <= width:
        _print(_table(columns, cells, prose), width)
    else:
        _print_blocks(columns, cells, width)


def print_columns(cells: Sequence[str], widths: Sequence[int]) -> None:
    """One line of a table that has no end yet, on stdout: a cell that is too wide moves what follows it."""
    from rich.text import Text

    line = Text()
    for cell, width in zip(cells, widths, strict=True):
        shown = _styled(plain(cell))
        shown.pad_right(max(0, width - shown.cell_len) + _GAP)
        line.append_text(shown)
    _print(line, _ENDLESS)


def print_facts(facts: Sequence[tuple[str, str]]) -> None:
    """Names and values on stdout, one pair a line; pairs without a value are left out."""
    from rich.table import Table

    table = Table.grid(padding=(0, _GAP, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in facts:
        if value:
            table.add_row(plain(name).replace("\n", "\\n"), _styled(plain(value)))  # a name is one line
    _print(table, line_width())


def _least_width(columns: Sequence[str], rows: Sequence[Sequence[str]], prose: Container[str]) -> int:
    from rich.cells import cell_len

    widths = [max(map(cell_len, texts)) for texts in zip(columns, *rows, strict=True)]
    least = [min(w, _PROSE) if name in prose else w for name, w in zip(columns, widths, strict=True)]
    return sum(least) + _GAP * (len(columns) - 1)


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]], prose: Container[str]) -> RenderableType:
    from rich.table import Table

    table = Table(box=None, show_edge=False, pad_edge=False, padding=(0, _GAP, 0, 0), header_style="bold")
    for name in columns:
        table.add_column(name.upper(), no_wrap=name not in prose, overflow="fold")
    for row in rows:
        table.add_row(*map(_styled, row))
    return table


def _print_blocks(columns: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> None:
    """Each row as lines of `name value` pairs, as many in a line as there is room for."""
    from rich.padding import Padding
    from rich.text import Text

    for row in rows:
        lines: list[Text] = [_styled(row[0], "bold")]
        for name, cell in zip(columns[1:], row[1:], strict=True):
            if not cell:
                continue
            pair = Text.assemble((f"{name} " if name else "", "dim"), _styled(cell))
            if lines[-1].cell_len + len(_BETWEEN) + pair.cell_len <= width - _GAP:
                lines[-1].append(_BETWEEN).append_text(pair)
            else:
                lines.append(pair)
        for number, line in enumerate(lines):
            line.overflow = "fold"
            _print(Padding(line, (0, 0, 0, _GAP if number else 0)), width)


def _styled(text: str, otherwise: str = "") -> Text:
    from rich.text import Text

    return Text(text, style=STYLES.get(text, otherwise))


def _print(what: RenderableType, width: int) -> None:
    """Drawn here and written by `emit`, which knows what to do when nobody reads."""
    out = console(width=width)
    with out.capture() as captured:
        out.print(what)
    emit("\n".join(line.rstrip() for line in captured.get().splitlines()))

"""What `checkrein demo` prints: the live table, the verdict on the ledger, what to try next."""

from __future__ import annotations

import contextlib
import shlex
import shutil
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import msgspec
from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from checkrein.compose import verify_ledger
from checkrein.demo.scenario import (
    CASES,
    USER,
    Approver,
    Case,
    Row,
    Stage,
    at_terminal,
    prepare,
    simulated,
    stage,
    who_may,
)
from checkrein.flow.approval import Approval
from checkrein.model import ConfigError

#: below this width the table would fold too much
TABLE_WIDTH = 150
STYLES = {
    "green": "green",
    "amber": "yellow",
    "red": "red",
    "ALLOW": "green",
    "ALLOW_WITH_REDACTION": "cyan",
    "REQUIRE_REVIEW": "yellow",
    "DENY": "red",
}
ANSWERS = {"y": True, "n": False, "l": None}


#: opens what the demo runs on, for a governance folder and its store
Opens = Callable[[Path, Path | None], AbstractContextManager[Stage]]


def run(
    folder: Path,
    *,
    data: Path | None,
    interactive: bool,
    who: str,
    out: Console,
    err: Console,
    opens: Opens = stage,
) -> None:
    """Run the whole demo. Raises `LedgerInvalid` when the ledger does not verify."""
    if interactive and not sys.stdin.isatty():
        raise ConfigError("`--interactive` needs a terminal", hint="run it without, or at a terminal")
    written = prepare(folder)
    _line(err, f"governance folder: {folder}{' (new, with the default policies)' if written else ''}")
    with opens(folder, data) as running:
        _line(err, f"backend: {running.backend}")
        _line(err, "")
        system = running.system
        approver = at_terminal(system, lambda approval: ask(approval, out), who) if interactive else simulated(system)
        if interactive:
            _line(
                out,
                f"{len(CASES)} requests go out as `{USER}`. Where policy asks for people, you are asked: you stand for",
            )
            _line(out, f"every role as `{who}`, and see exactly what would run. The table follows at the end.")
        cases = [msgspec.structs.replace(case, left=False) if interactive else case for case in CASES]
        rows = _show(running, cases, approver, out, live=out.is_terminal and not interactive)
        waiting = [system.approvals.get(row.waiting) for row in rows if row.waiting][:1]
        commands = [
            command
            for approval in waiting
            for command in (f"approvals show {approval.id}", _approve(approval, who_may(system, approval)))
        ]
        sandbox = running.sandbox.root
    report = verify_ledger(folder, data=data)
    if out.width >= TABLE_WIDTH:
        _line(out, "")  # blocks end with one
    _line(out, f"ledger: {report.require().summary()}")
    _next_steps(folder, data, commands, sandbox, out)


def _show(running: Stage, cases: Sequence[Case], approver: Approver, out: Console, *, live: bool) -> list[Row]:
    rows: list[Row] = []
    if not live:
        rows += [running.send(case, approver) for case in cases]
        out.print(view(rows, "", out.width))
        return rows
    with Live(view(rows, cases[0].prompt, out.width), console=out, auto_refresh=False) as screen:
        for index, case in enumerate(cases):
            rows.append(running.send(case, approver))
            upcoming = cases[index + 1].prompt if index + 1 < len(cases) else ""
            screen.update(view(rows, upcoming, out.width), refresh=True)
    return rows


def view(rows: list[Row], upcoming: str, width: int) -> RenderableType:
    """A table where it fits, one block a request where it does not; `upcoming` is the request on its way."""
    return _table(rows, upcoming) if width >= TABLE_WIDTH else _blocks(rows, upcoming)


def _table(rows: list[Row], upcoming: str) -> Table:
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="bold", leading=1)
    table.add_column("request", overflow="fold", ratio=1)
    for name in ("risk", "outcome"):
        table.add_column(name, no_wrap=True)
    table.add_column("approved by", overflow="fold", max_width=24)
    table.add_column("what happened", overflow="fold", ratio=1)
    table.add_column("trace id", no_wrap=True)
    for row in rows:
        cells = (row.request, row.risk, row.outcome, row.approved_by, row.happened, row.trace_id)
        table.add_row(*(Text(cell, style=STYLES.get(cell, "")) for cell in cells))
    if upcoming:
        table.add_row(Text(upcoming, style="dim"), "", Text("...", style="dim"))
    return table


def _blocks(rows: list[Row], upcoming: str) -> Group:
    blocks: list[RenderableType] = []
    for row in rows:
        verdict = Text("  ").append(row.risk, STYLES.get(row.risk, "")).append("  ")
        verdict.append(row.outcome, STYLES.get(row.outcome, ""))
        approved = row.approved_by and not row.waiting and not row.approved_by.startswith("denied")
        verdict.append(f"  {'approved by ' if approved else ''}{row.approved_by}")
        blocks += [Text(row.request, style="bold"), verdict]
        blocks += [Padding(Text(row.happened), (0, 0, 0, 2)), Text(f"  trace {row.trace_id}", style="dim"), Text("")]
    if upcoming:
        blocks += [Text(upcoming, style="dim"), Text("  ...", style="dim")]
    return Group(*blocks)


def ask(approval: Approval, out: Console) -> bool | None:
    """Show the exact request and ask the person at the terminal; None leaves it open, and so does an end of input."""
    out.print("")
    out.print(Text(f"{approval.requirement} must decide, because {'; '.join(approval.reasons)}", style="bold"))
    for message in approval.request().action.input.get("messages", ()):
        out.print(Text(f"  {message.get('role')}: {_visible(str(message.get('content')))}"))
    while True:
        try:
            answer = out.input(Text("approve this, once? [y]es, [n]o, [l]eave it open: "))
        except EOFError:
            return None
        if (first := answer.strip().lower()[:1]) in ANSWERS:
            return ANSWERS[first]


def _visible(text: str) -> str:
    """Nothing in a request may steer the terminal that shows it."""
    return "".join(char if char.isprintable() or char == "\n" else f"\\x{ord(char):02x}" for char in text)


def _approve(approval: Approval, who: str) -> str:
    return f"approvals approve {approval.id} --as {who or 'PERSON'}"


def _next_steps(folder: Path, data: Path | None, commands: list[str], sandbox: Path, out: Console) -> None:
    where = shlex.join(["--dir", str(folder), *(["--data", str(data)] if data else [])])
    _line(out, "")
    _line(out, "try next:")
    for command in (*commands, "activity", "audit verify"):
        _line(out, f"  {_program()} {command} {where}")
        if command.startswith("approvals approve"):
            _line(out, f"  {_program()} demo {where}")
    _line(out, f"  edit {folder / 'policies'} and run the demo again; what the tools did stands in {sandbox}")


def _program() -> str:
    """How this program can be called from here: by its name where the shell finds it, else by its path."""
    if shutil.which("checkrein"):
        return "checkrein"
    own = Path(sys.argv[0])
    if own.name != "checkrein":
        return f"{shlex.quote(sys.executable)} -m checkrein"
    with contextlib.suppress(ValueError):
        own = own.absolute().relative_to(Path.cwd())
    return shlex.quote(str(own))


def _line(console: Console, text: str) -> None:
    """One line as it is: a path may hold what looks like markup, and a command must not be broken in two."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)

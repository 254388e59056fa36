"""What `checkrein demo` prints: the live table, the verdict on the ledger, what to try next."""

from __future__ import annotations

import sys
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from checkrein.compose import verify_ledger
from checkrein.demo.scenario import CASES, Approver, Row, Stage, at_terminal, prepare, simulated, stage
from checkrein.flow.approval import Approval
from checkrein.model import ConfigError

#: below this width the table would fold too much
TABLE_WIDTH = 130
COLUMNS = ("request", "risk", "outcome", "approved by", "what happened", "trace id")
STYLES = {
    "green": "green",
    "amber": "yellow",
    "red": "red",
    "ALLOW": "green",
    "ALLOW_WITH_REDACTION": "cyan",
    "REQUIRE_REVIEW": "yellow",
    "DENY": "red",
}


def run(folder: Path, *, data: Path | None, interactive: bool, who: str, out: Console, err: Console) -> None:
    """Run the whole demo. Raises `LedgerInvalid` when the ledger does not verify."""
    if interactive and not sys.stdin.isatty():
        raise ConfigError("`--interactive` needs a terminal", hint="run it without, or at a terminal")
    written = prepare(folder)
    err.print(f"governance folder: {folder}{' (new, with the default policies)' if written else ''}")
    with stage(folder, data) as running:
        err.print("backend: embedded agent gateway, with a deterministic model that refuses nothing")
        err.print("")
        approver = (
            at_terminal(running.system, lambda a: _ask(a, out), who) if interactive else simulated(running.system)
        )
        rows = _show(running, approver, out, live=out.is_terminal and not interactive)
        sandbox = running.sandbox.root
    report = verify_ledger(folder, data=data)
    out.print(f"ledger: {report.require().summary()}")
    _next_steps(folder, data, rows, sandbox, out)


def _show(running: Stage, approver: Approver, out: Console, *, live: bool) -> list[Row]:
    rows: list[Row] = []
    if not live:
        rows += [running.send(case, approver) for case in CASES]
        out.print(_view(rows, "", out.width))
        return rows
    with Live(_view(rows, CASES[0].prompt, out.width), console=out, auto_refresh=False) as screen:
        for index, case in enumerate(CASES):
            rows.append(running.send(case, approver))
            upcoming = CASES[index + 1].prompt if index + 1 < len(CASES) else ""
            screen.update(_view(rows, upcoming, out.width), refresh=True)
    return rows


def _view(rows: list[Row], upcoming: str, width: int) -> RenderableType:
    """A table where it fits, one block a request where it does not."""
    return _table(rows, upcoming) if width >= TABLE_WIDTH else _blocks(rows, upcoming)


def _table(rows: list[Row], upcoming: str) -> Table:
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="bold", leading=1)
    for column, ratio in zip(COLUMNS, (5, 1, 2, 2, 5, 2), strict=True):
        table.add_column(column, overflow="fold", ratio=ratio)
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
        who = f"  approved by: {row.approved_by}" if row.approved_by else ""
        blocks += [Text(row.request, style="bold"), verdict.append(who)]
        blocks += [Padding(Text(row.happened), (0, 0, 0, 2)), Text(f"  trace {row.trace_id}", style="dim"), Text("")]
    if upcoming:
        blocks += [Text(upcoming, style="dim"), Text("  ...", style="dim")]
    return Group(*blocks)


def _ask(approval: Approval, out: Console) -> bool | None:
    out.print("")
    out.print(Text(f"{approval.requirement} must decide, because {'; '.join(approval.reasons)}", style="bold"))
    request = approval.request()
    for message in request.action.input.get("messages", ()):
        out.print(Text(f"  {message.get('role')}: {message.get('content')}"))
    while True:
        answer = out.input("approve this, once? [y]es, [n]o, [l]eave it open: ").strip().lower()[:1]
        if answer in ("y", "n", "l"):
            return {"y": True, "n": False, "l": None}[answer]


def _next_steps(folder: Path, data: Path | None, rows: list[Row], sandbox: Path, out: Console) -> None:
    where = f"--dir {folder}" + (f" --data {data}" if data else "")
    out.print("")
    out.print("try next:")
    waiting = next((row.waiting for row in rows if row.waiting), "")
    if waiting:
        out.print(f"  checkrein approvals show {waiting} {where}")
        out.print(f"  checkrein approvals approve {waiting} --as privacy-officer {where}, and run the demo again")
    out.print(f"  checkrein activity {where}")
    out.print(f"  checkrein audit verify {where}")
    out.print(f"  edit {folder / 'policies'} and run the demo again; what the tools did stands in {sandbox}")

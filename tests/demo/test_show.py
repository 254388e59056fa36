"""What the demo prints: whole texts in both layouts, commands that can be copied, a person who is really asked."""

from __future__ import annotations

import io
import os
import pty
import re
import select
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

from checkrein.compose import open_system
from checkrein.demo.scenario import CASES, SIMULATED, Row
from checkrein.demo.show import TABLE_WIDTH, ask, run, view
from checkrein.flow.approval import Approval, State
from checkrein.model import ConfigError, Level, Requirement, Subject
from checkrein.model.requirement import parse_factors

ROWS = [
    Row(
        request="Write to jane.doe@example.com, card 4111 1111 1111 1111, that her refund is on its way.",
        risk="amber",
        outcome="ALLOW_WITH_REDACTION",
        approved_by=", ".join([SIMULATED, f"{SIMULATED}-2"]),
        happened="executed: send_email ran 12 times; instead: prepare a draft and let the person responsible do it",
        trace_id="0123456789abcdef" * 2,
    ),
    Row(
        request="Analyze [red]customer[/red] data",
        risk="red",
        outcome="REQUIRE_REVIEW",
        approved_by="waits for people",
        happened="nothing ran",
        trace_id="fedcba9876543210" * 2,
        waiting="apr_1",
    ),
]


def screen(width: int, **options: bool) -> tuple[Console, io.StringIO]:
    """A console of this width without colour or highlighting, and what is written on it."""
    written = io.StringIO()
    return Console(file=written, width=width, highlight=False, no_color=True, **options), written


@pytest.mark.parametrize("width", [40, 80, TABLE_WIDTH - 1, TABLE_WIDTH, 160, 240])
def test_no_text_is_cut_in_any_layout(width: int):
    console, written = screen(width)
    console.print(view(ROWS, "the next request", width))
    text = written.getvalue()
    for row in ROWS:
        cells = (row.request, row.risk, row.outcome, row.approved_by, row.happened, row.trace_id)
        for word in " ".join(cells).split():
            assert word in text
    assert "…" not in text
    assert all(len(line) <= width for line in text.splitlines())
    assert ("approved by" in text.splitlines()[0]) is (width >= TABLE_WIDTH)


def test_a_narrow_block_says_who_approved_and_who_has_not():
    console, written = screen(80)
    console.print(view(ROWS, "", 80))
    assert f"  amber  ALLOW_WITH_REDACTION  approved by {SIMULATED}" in written.getvalue()
    assert "  red  REQUIRE_REVIEW  waits for people\n" in written.getvalue()


# --- the whole run --------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def found_by_the_shell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")


def test_a_program_that_the_shell_does_not_find_is_named_by_its_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setattr(sys, "argv", [str(tmp_path / ".venv/bin/checkrein")])
    monkeypatch.chdir(tmp_path)
    assert "\n  .venv/bin/checkrein audit verify --dir " in play(tmp_path / "governance", 160)[0]


def play(folder: Path, width: int, *, terminal: bool = False) -> tuple[str, str]:
    out, printed = screen(width, force_terminal=terminal)
    err, said = screen(width)
    run(folder, data=None, interactive=False, who="olga", out=out, err=err)
    return printed.getvalue(), said.getvalue()


def test_a_run_prints_the_table_the_verdict_on_the_ledger_and_commands_to_copy(tmp_path: Path):
    folder = tmp_path / "a folder [b]"
    printed, said = play(folder, 160)
    assert said.splitlines()[0] == f"governance folder: {folder} (new, with the default policies)"
    for case in CASES:
        assert case.prompt.split()[-1] in printed
    table, _, rest = printed.partition("\nledger: ")
    assert len(re.findall(r"\b[0-9a-f]{32}\b", table)) == len(CASES)
    assert re.match(r"\d+ records verify, all of them under the signed checkpoint\n", rest)
    commands = [line.strip() for line in rest.splitlines() if line.startswith("  checkrein ")]
    assert len(commands) == 5
    for command in commands:
        assert shlex.split(command)[-2:] == ["--dir", str(folder)]
    system = open_system(folder)
    (waiting,) = system.approvals.all()
    system.close()
    assert commands[0].startswith(f"checkrein approvals show {waiting.id} ")
    assert commands[1].startswith(f"checkrein approvals approve {waiting.id} --as privacy-officer ")
    assert commands[2].startswith("checkrein demo ")


def test_on_a_terminal_the_table_grows_and_stands_whole_at_the_end(tmp_path: Path):
    printed, said = play(tmp_path / "governance", 160, terminal=True)
    assert printed.count("...") >= len(CASES)  # each request is shown on its way
    last = printed[printed.rindex("request ") :]
    assert len(set(re.findall(r"\b[0-9a-f]{32}\b", last))) == len(CASES)
    assert "embedded agent gateway" in said


def test_interactive_needs_a_terminal_and_writes_nothing_without_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    console, _ = screen(80)
    with pytest.raises(ConfigError, match="needs a terminal"):
        run(tmp_path / "governance", data=None, interactive=True, who="olga", out=console, err=console)
    assert not (tmp_path / "governance").exists()


# --- asking ---------------------------------------------------------------------------------------------------


def approval(content: object = "Send an email to all.") -> Approval:
    return Approval(
        id="apr_1",
        version=1,
        state=State.PENDING,
        action={
            "subject": {"type": "user", "id": "alice"},
            "action": {"name": "prompt", "properties": {"input": {"messages": [{"role": "user", "content": content}]}}},
            "resource": {"type": "model", "id": "m"},
        },
        action_hash="0" * 64,
        requester=Subject("user", "alice"),
        agent="bot",
        requirement=Requirement(parse_factors("2 of finance and 1 of security"), 60),
        policies=("look",),
        reasons=("somebody should look", "it is loud"),
        risk=Level.AMBER,
        factors=(),
        labels=(),
        bundle="sha256:1",
        trace_id="0" * 32,
        created_us=0,
        deadline_us=1,
    )


def answer(
    typed: str, monkeypatch: pytest.MonkeyPatch, content: object = "Send an email to all."
) -> tuple[object, str]:
    monkeypatch.setattr(sys, "stdin", io.StringIO(typed))
    console, written = screen(120)
    # the prompt goes where input() writes it
    monkeypatch.setattr(sys, "stdout", written)
    return ask(approval(content), console), written.getvalue()


@pytest.mark.parametrize(
    ("typed", "verdict"),
    [
        ("y\n", True),
        ("YES please\n", True),
        ("n\n", False),
        (" No\n", False),
        ("l\n", None),
        ("\n\nmaybe\n1\ny\n", True),
        ("", None),
        ("maybe\n", None),
    ],
)
def test_only_a_clear_answer_counts_and_no_answer_leaves_it_open(
    monkeypatch: pytest.MonkeyPatch, typed: str, verdict: bool | None
):
    given, printed = answer(typed, monkeypatch)
    assert given is verdict
    assert "[y]es, [n]o, [l]eave it open" in printed


def test_the_person_sees_who_must_decide_why_and_the_exact_request(monkeypatch: pytest.MonkeyPatch):
    _, printed = answer("n\n", monkeypatch)
    assert "2 of finance and 1 of security must decide, because somebody should look; it is loud" in printed
    assert "user: Send an email to all." in printed


def test_nothing_in_a_request_steers_the_terminal(monkeypatch: pytest.MonkeyPatch):
    _, printed = answer("n\n", monkeypatch, "harmless\x1b[2J\x07\r\u202e[bold]evil[/bold]")
    assert "harmless\\x1b[2J\\x07\\x0d\\x202e[bold]evil[/bold]" in printed
    assert not set("\x1b\x07\r\u202e") & set(printed)


def test_at_a_real_terminal_a_person_is_asked_about_every_review(tmp_path: Path):
    folder = tmp_path / "governance"
    terminal, theirs = pty.openpty()
    command = [sys.executable, "-m", "checkrein", "demo", "--interactive", "--dir", str(folder)]
    env = {**os.environ, "COLUMNS": "160", "NO_COLOR": "1", "TERM": "xterm"}
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=env) as demo:
        os.close(theirs)
        try:
            printed = read_until(terminal, "[l]eave it open: ")
            assert "9 requests go out as `demo-user`" in printed
            assert CASES[2].prompt in printed
            os.write(terminal, b"y\n")
            assert CASES[8].prompt in read_until(terminal, "[l]eave it open: ")
            os.write(terminal, b"n\n")
            printed = read_until(terminal, None)
            demo.wait(30)
        finally:
            os.close(terminal)
            demo.kill()  # does nothing to one that has ended
    assert demo.returncode == 0, printed
    assert "records verify" in printed
    assert "executed: send_email ran once" in printed
    system = open_system(folder)
    try:
        used = system.approvals.all(State.USED)
        assert [vote.auth for each in used for vote in each.votes] == ["terminal"]
        assert len(system.approvals.all(State.DENIED)) == 1
    finally:
        system.close()


def read_until(terminal: int, text: str | None) -> str:
    """What the terminal shows up to this text, or to its end; fails when neither comes."""
    seen, deadline = b"", time.monotonic() + 30
    while text is None or text.encode() not in seen:
        ready, _, _ = select.select([terminal], [], [], max(0.0, deadline - time.monotonic()))
        assert ready, seen.decode()
        try:
            part = os.read(terminal, 65536)
        except OSError:  # how Linux says that the other side has closed
            part = b""
        if not part:
            assert text is None, seen.decode()
            break
        seen += part
    return seen.decode().replace("\r\n", "\n")

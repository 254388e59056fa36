"""What is printed where, and how it fits."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from checkrein.cli.common import plain, print_json
from checkrein.cli.tables import print_table, progress

Run = Callable[..., Any]

#: verbs that print a table, and what each row is known by
TABLES = {"approvals list": "id", "audit list": "trace_id", "activity": "trace_id", "keys list": "id"}
NASTY = "al\x1b[2Jice\u202e\u200b\x9b7m"
texts = st.text(max_size=12)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | texts, lambda v: st.lists(v, max_size=3)
)


@pytest.fixture
def busy(folder: Path, cli: Run, asking: Callable[..., Path]) -> Path:
    """A folder on which all kinds of things have happened."""
    for action in ("read_file", "send_email", "transfer_funds"):
        cli("decide", asking(action, user="a-user-with-a-long-name"), "--dir", folder)
    cli("keys", "create", "billing-bot", "--roles", "staff,finance,security,communications", "--dir", folder)
    return folder


def test_into_a_pipe_a_row_is_one_line(busy: Path, cli: Run) -> None:
    for verb in TABLES:
        lines = cli(*verb.split(), "--dir", busy).out.splitlines()
        assert lines[0].isupper()
        assert [line for line in lines if line != line.rstrip()] == []
        assert len(lines) == 1 + len(cli(*verb.split(), "--dir", busy, "-o", "json").json())


def test_on_a_screen_nothing_is_wider_than_it_and_no_id_is_broken(busy: Path, cli: Run) -> None:
    for verb, name in TABLES.items():
        rows = cli(*verb.split(), "--dir", busy, "-o", "json").json()
        for width in (40, 80, 100):
            shown = cli(*verb.split(), "--dir", busy, COLUMNS=str(width)).out
            assert max(map(len, shown.splitlines())) <= width
            assert all(row[name] in shown for row in rows)


def test_the_doctor_fits_a_screen(folder: Path, cli: Run) -> None:
    for width in (60, 80):
        assert max(map(len, cli("doctor", "--dir", folder, COLUMNS=str(width)).out.splitlines())) <= width


def test_when_there_is_nothing_stdout_is_empty_and_a_message_says_so(folder: Path, cli: Run) -> None:
    for verb in ("keys list", "approvals list", "activity"):
        ran = cli(*verb.split(), "--dir", folder)
        assert (ran.code, ran.out) == (0, "")
        assert ran.err
        assert cli(*verb.split(), "--dir", folder, "-o", "json").json() == []


def on_terminal(*arguments: str, **environment: str) -> str:
    """What a command writes to a terminal of 100 columns."""
    ours, theirs = pty.openpty()
    environ = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "100", **environment}
    command = [sys.executable, "-m", "checkrein", *arguments]
    with subprocess.Popen(command, stdout=theirs, stderr=subprocess.DEVNULL, env=environ) as process:
        os.close(theirs)
        written = b""
        try:
            while block := os.read(ours, 65_536):
                written += block
        except OSError:  # how Linux says that nobody holds the other end any more
            pass
        process.wait()
    os.close(ours)
    return written.decode()


def test_a_terminal_gets_colours_unless_no_color_is_set(busy: Path) -> None:
    arguments = ("audit", "list", "--dir", str(busy))
    assert "\x1b[" in on_terminal(*arguments)
    assert "\x1b" not in on_terminal(*arguments, NO_COLOR="1")
    assert "\x1b" not in on_terminal("audit", "list", "-o", "json", "--dir", str(busy))


def test_names_from_agents_cannot_move_the_cursor(folder: Path, cli: Run, asking: Callable[..., Path]) -> None:
    cli("decide", asking("send_email", user=NASTY), "--dir", folder)
    for verb in ("approvals list", "audit list", "activity", "audit show 1 -o table"):
        shown = cli(*verb.split(), "--dir", folder).out
        assert all(char.isprintable() or char == "\n" for char in shown)
        assert "al\\x1b[2Jice\\u202e\\u200b\\x9b7m" in shown
    rows = cli("activity", "--dir", folder, "-o", "json")
    assert rows.out.isascii()
    assert rows.json()[0]["user"] == NASTY
    assert "\x1b" not in cli("decide", asking(), "--dir", f"{folder}\x1b[2J").err


@given(values)
def test_printed_json_is_the_value_and_harmless(value: object) -> None:
    class Stdout:
        encoding = "utf-8"

        def __init__(self) -> None:
            self.text = ""

        def write(self, text: str) -> None:
            self.text += text

        def flush(self) -> None: ...

    out = Stdout()
    before, sys.stdout = sys.stdout, out  # type: ignore[assignment]
    try:
        print_json(value)
    finally:
        sys.stdout = before
    assert json.loads(out.text) == value
    assert all(char.isprintable() or char == "\n" for char in out.text)


@given(st.text())
def test_plain_text_is_printable_and_plain_text_is_left_alone(text: str) -> None:
    shown = plain(text)
    assert all(char.isprintable() or char == "\n" for char in shown)
    if all(char.isprintable() for char in text):
        assert shown == text


def test_prose_is_folded_before_a_row_becomes_a_block(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def shown(width: int) -> str:
        monkeypatch.setenv("COLUMNS", str(width))
        print_table(("id", "why"), [("apr_1", "it goes out in our name and is read by many")], empty="", prose=("why",))
        return capsys.readouterr().out

    assert shown(60).splitlines() == ["ID     WHY", "apr_1  it goes out in our name and is read by many"]
    assert shown(32).splitlines() == ["ID     WHY", "apr_1  it goes out in our name", "       and is read by many"]
    assert shown(24).splitlines()[0] == "apr_1"


def test_progress_is_shown_on_a_terminal_only(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with progress("records") as told:
        told(1, 2)
    assert capsys.readouterr() == ("", "")
    monkeypatch.setenv("FORCE_COLOR", "1")  # what rich takes for a terminal
    with progress("records") as told:
        told(1, 2)
        told(2000, None)
    out, err = capsys.readouterr()
    assert (out, "records" in err) == ("", True)

"""What `main` makes of an end nobody planned: a reader that left, a full disk under stdout, Ctrl-C, a fault of ours."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from checkrein.cli import filters

Run = Callable[..., Any]
COMMAND = (sys.executable, "-m", "checkrein")


def piped(*arguments: str, first: int = 0) -> tuple[int, str]:
    """Run with stdout in a pipe whose reader takes `first` bytes and goes away; the exit code and stderr."""
    reader, writer = os.pipe()
    with subprocess.Popen([*COMMAND, *arguments], stdout=writer, stderr=subprocess.PIPE, text=True) as process:
        os.close(writer)
        if first:
            os.read(reader, first)
        os.close(reader)
        _, err = process.communicate(timeout=60)
    return process.returncode, err


@pytest.mark.parametrize("verb", [["activity"], ["audit", "export"]])
def test_a_reader_that_left_is_no_error_and_never_looks_like_success(
    verb: list[str], folder: Path, cli: Run, asking: Callable[..., Path]
) -> None:
    cli("decide", asking(), "--dir", folder)
    assert piped(*verb, "--dir", str(folder)) == (141, "")


def test_an_allow_that_nobody_read_is_not_exit_0(folder: Path, asking: Callable[..., Path], cli: Run) -> None:
    code, err = piped("decide", str(asking()), "--dir", str(folder))
    assert (code, err) == (141, "")
    assert "read_file" in cli("activity", "--dir", folder).out


def test_help_and_the_demo_can_be_cut_off_by_head(tmp_path: Path) -> None:
    assert piped("--help")[0] == 1
    code, err = piped("demo", "--dir", str(tmp_path / "demo"))
    assert code == 141
    assert "Traceback" not in err


def test_the_first_line_comes_through_a_pipe(folder: Path) -> None:
    shell = f"{sys.executable} -m checkrein --help | head -1"
    ended = subprocess.run(["sh", "-c", shell], capture_output=True, text=True, check=False, timeout=60)
    assert (ended.stdout, ended.stderr) == ("Usage: checkrein [OPTIONS] COMMAND [ARGS]...\n", "")


@pytest.mark.parametrize("verb", [["keys", "create", "bot"], ["audit", "export"]])
def test_a_full_disk_under_stdout_is_said(verb: list[str], folder: Path, cli: Run) -> None:
    cli("keys", "create", "first", "--dir", folder)
    with Path("/dev/full").open("w") as full:
        ended = subprocess.run(
            [*COMMAND, *verb, "--dir", str(folder)], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert ended.returncode == 1
    assert "error: standard output cannot be written: no space left on device\nhint: " in ended.stderr
    assert "Traceback" not in ended.stderr
    assert "Exception ignored" not in ended.stderr


def test_closed_streams_are_no_fault(folder: Path, asking: Callable[..., Path]) -> None:
    shell = '"$@" <&- >&- 2>&-'
    for arguments, code in (
        (["decide", str(asking("transfer_funds")), "--dir", str(folder)], 3),
        (["activity", "--dir", str(folder)], 0),
        (["decide", "-", "--dir", str(folder)], 2),
    ):
        ended = subprocess.run(["sh", "-c", shell, "sh", *COMMAND, *arguments], check=False, timeout=60)
        assert ended.returncode == code


def test_text_the_terminal_cannot_write_is_escaped(folder: Path, asking: Callable[..., Path], spawn: Run) -> None:
    path = asking(user="東京")
    ran = spawn("decide", path, "--dir", folder, "-o", "table", PYTHONIOENCODING="latin-1")
    assert ran.code == 0
    assert "\\u6771\\u4eac" in spawn("activity", "--dir", folder, PYTHONIOENCODING="latin-1").out


def test_ctrl_c_ends_with_130_and_nothing_is_recorded(folder: Path, cli: Run) -> None:
    cli("keys", "create", "first", "--dir", folder)
    before = cli("audit", "list", "--dir", folder).out
    arguments = ["decide", "-", "--dir", str(folder)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen([*COMMAND, *arguments], **pipes) as process:
        assert process.stdin is not None
        process.stdin.write(b" " * 2**20)  # more than a pipe holds: once it is gone, the command is reading
        process.stdin.flush()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (130, b"", b"")
    assert cli("audit", "list", "--dir", folder).out == before


def test_ctrl_c_while_it_still_loads_shows_no_traceback() -> None:
    code = (
        "import sys\n"
        "class Impatient:\n"
        "    def find_spec(self, name, *rest):\n"
        "        if name == 'typer': raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Impatient())\n"
        "from checkrein.cli import main\n"
        "main()\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False, timeout=60)
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, b"", b"")


def test_a_fault_of_ours_is_one_line_without_values(
    folder: Path, cli: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise TypeError("secret value")

    monkeypatch.setattr(filters, "query", broken)
    with pytest.raises(AssertionError, match="checkrein itself failed"):
        cli("audit", "list", "--dir", folder)
    monkeypatch.setattr(sys, "argv", ["checkrein", "audit", "list"])
    from checkrein.cli import main

    with pytest.raises(SystemExit) as end:
        main()
    err = capsys.readouterr().err
    assert end.value.code == 1
    assert err.startswith("error: checkrein itself failed: TypeError at test_main.py:")
    assert "secret value" not in err
    monkeypatch.setenv("CHECKREIN_TRACEBACK", "1")
    with pytest.raises(TypeError):
        main()


def test_what_the_system_refuses_is_told_in_its_words(folder: Path, cli: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", "/srv/x")

    monkeypatch.setattr(filters, "query", refused)
    ran = cli("audit", "list", "--dir", folder)
    assert ran.code == 1
    assert ran.err.startswith("error: `/srv/x`: permission denied\nhint: ")

"""`audit export`: a file appears when it is whole, and what it is of is said on stderr."""

from __future__ import annotations

import csv
import fcntl
import io
import json
import os
import pty
import subprocess
import sys
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from checkrein.services import exports
from checkrein.storage.sqlite import SqliteStore

Run = Callable[..., Any]


@pytest.fixture
def busy(folder: Path, cli: Run, asking: Callable[..., Path]) -> Path:
    """A read by alice (record 1), mail by alice that waits (2, 3) and a denied transfer by erin (4)."""
    for action, user in (("read_file", "alice"), ("send_email", "alice"), ("transfer_funds", "erin")):
        cli("decide", asking(action, user=user), "--dir", folder)
    return folder


def root(folder: Path) -> str:
    reader = SqliteStore.open_readonly(folder / ".checkrein")
    head = reader.head()
    reader.close()
    return b64encode(head.root).decode()


def test_an_export_has_every_record_and_says_of_which_ledger(busy: Path, cli: Run, tmp_path: Path) -> None:
    target = tmp_path / "ledger.jsonl"
    ran = cli("audit", "export", "--to", target, "--dir", busy)
    said = f"5 records written to {target}; the ledger had 5, with root {root(busy)}\n"
    assert (ran.code, ran.out, ran.err) == (0, "", said)
    lines = target.read_text().splitlines()
    assert [json.loads(line)["seq"] for line in lines] == [0, 1, 2, 3, 4]
    assert cli("audit", "export", "--dir", busy).out.splitlines() == lines
    rows = list(csv.DictReader(io.StringIO(cli("audit", "export", "--format", "csv", "--dir", busy).out)))
    assert [row["user"] for row in rows] == ["system", "alice", "alice", "alice", "erin"]


@pytest.mark.parametrize("format", exports.FORMATS)
def test_every_format_takes_the_filters_of_the_list(format: str, busy: Path, cli: Run, tmp_path: Path) -> None:
    target = tmp_path / "out"
    ran = cli("audit", "export", "--format", format, "--policy", "no-transfers", "--output", target, "--dir", busy)
    assert ran.code == 0
    assert ran.err.startswith(f"1 record written to {target}; the ledger had 5")
    assert b"erin" in target.read_bytes()
    assert b"alice" not in target.read_bytes()


def test_an_export_that_fails_leaves_the_file_that_was_there(
    busy: Path, cli: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "ledger.jsonl"
    target.write_text("yesterday's")

    def breaks(records: Any, out: Any, version: str) -> None:
        out.write(next(records).data)
        raise OSError(28, "No space left on device")

    monkeypatch.setitem(exports.FORMATS, "jsonl", breaks)
    ran = cli("audit", "export", "--output", target, "--dir", busy)
    assert (ran.code, ran.out) == (1, "")
    assert "no space left on device" in ran.err
    assert [path.name for path in tmp_path.iterdir() if "ledger" in path.name] == ["ledger.jsonl"]
    assert target.read_text() == "yesterday's"


def test_a_process_that_dies_meanwhile_leaves_no_half_file_and_the_next_export_sweeps_up(
    busy: Path, cli: Run, tmp_path: Path
) -> None:
    target = tmp_path / "ledger.jsonl"
    script = (
        "import os; from checkrein.cli import main; from checkrein.services import exports;"
        "exports.FORMATS['jsonl'] = lambda found, out, _: (out.write(next(found).data), os.kill(os.getpid(), 9));"
        "main()"
    )
    command = [sys.executable, "-c", script, "audit", "export", "--output", str(target), "--dir", str(busy)]
    assert subprocess.run(command, timeout=60).returncode == -9
    assert not target.exists()
    under_way = tmp_path / ".ledger.jsonl.00000000.partial"
    with under_way.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert cli("audit", "export", "--output", target, "--dir", busy).code == 0
    assert sorted(path.name for path in tmp_path.iterdir() if "ledger" in path.name) == [under_way.name, target.name]


def test_a_place_that_cannot_hold_a_file_is_named(busy: Path, cli: Run, tmp_path: Path) -> None:
    for target in (tmp_path, tmp_path / "none/here", Path("..")):
        ran = cli("audit", "export", "--output", target, "--dir", busy)
        assert (ran.code, ran.out) == (1, "")
        assert f"`{target}` cannot be written" in ran.err


def test_a_pipe_or_a_device_is_written_to_and_stays_what_it_is(busy: Path, cli: Run, tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    reader = subprocess.Popen(["cat", fifo], stdout=subprocess.PIPE)
    cli("audit", "export", "--output", fifo, "--dir", busy)
    out, _ = reader.communicate(timeout=60)
    assert out.count(b"\n") == 5
    assert fifo.is_fifo()


def test_parquet_is_not_thrown_at_a_terminal(busy: Path, cli: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("checkrein.cli.exports.is_terminal", lambda: True)
    ran = cli("audit", "export", "--format", "parquet", "--dir", busy)
    assert (ran.code, ran.out) == (2, "")
    assert "--output FILE" in ran.err


def test_a_tlog_export_takes_a_new_folder_and_no_filters(busy: Path, cli: Run, tmp_path: Path) -> None:
    assert cli("audit", "export", "--format", "tlog", "--dir", busy).code == 2
    for given in (("--since", "2h"), ("--policy", "x"), ("--outcome", "deny")):
        ran = cli("audit", "export", "--format", "tlog", "--output", tmp_path / "out", *given, "--dir", busy)
        assert ran.code == 2
        assert "has every record" in ran.err
    ran = cli("audit", "export", "--format", "tlog", "--output", tmp_path / "out", "--dir", busy)
    assert ran.code == 0
    assert f"with the copy of `{busy}/.checkrein/signer.pub`" in ran.err


def test_progress_is_shown_to_a_person_only(busy: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "checkrein", "audit", "export"]
    command += ["--output", str(tmp_path / "out"), "--dir", str(busy)]
    quiet = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert (quiet.stderr.count("\n"), quiet.stderr.count("records")) == (1, 1)
    ours, theirs = pty.openpty()
    subprocess.run(command, stderr=theirs, check=True, timeout=60, env={**os.environ, "TERM": "xterm"})
    os.close(theirs)
    told = b""
    while not (b"records written" in told and told.endswith(b"\n")):
        told += os.read(ours, 4096)
    os.close(ours)
    assert told.count(b"records") > 1

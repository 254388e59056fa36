"""A full disk: nothing runs, nothing is lost, and it goes on once there is room. A small file system is mounted where
that is allowed; everywhere a limit on the size of files stands for one."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., Any]


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte."""
    place = tmp_path / "small"
    place.mkdir()
    options = ["-t", "tmpfs", "-o", "size=1m", "none", str(place)]
    if os.geteuid() != 0 or subprocess.run(["mount", *options], capture_output=True, check=False).returncode:
        pytest.skip("no file system may be mounted here; the limited process stands for it")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def test_what_does_not_fit_is_not_decided_and_the_next_one_is(
    small: Path, folder: Path, spawn: Run, cli: Run, asking: Callable[..., Path]
) -> None:
    where = ("--dir", folder, "--data", small)
    assert spawn("decide", asking(), *where).code == 0
    filler = small / "filler"
    with filler.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space"):
        while True:
            file.write(bytes(4096))
    for verb in ("decide", "keys create"):
        ran = spawn(*verb.split(), asking() if verb == "decide" else "bot", *where)
        assert (ran.code, ran.out) == (7, "")
        assert "error: " in ran.err
        assert "hint: " in ran.err
    findings = cli("doctor", *where, "-o", "json").json()["findings"]
    assert {"store", "disk"} <= {found["what"] for found in findings if found["verdict"] != "ok"}
    filler.unlink()
    assert spawn("decide", asking(), *where).code == 0
    assert cli("audit", "verify", *where).code == 0
    assert len(cli("activity", *where, "-o", "json").json()) == 2


def test_init_on_a_full_disk_leaves_nothing_half_written(small: Path, cli: Run) -> None:
    (small / "filler").write_bytes(bytes(1024 * 1024 - 8192))
    ran = cli("init", small / "governance")
    assert ran.code == 2
    assert ran.err.startswith(f"error: `{small}/governance` cannot be written: no space left on device\nhint: ")
    assert [path.name for path in small.iterdir()] == ["filler"]


def limited(folder: Path, *arguments: object, size: int) -> Any:
    """Run with a limit on the size of any file that is written."""
    command = [sys.executable, "-m", "checkrein", *map(str, arguments), "--dir", str(folder)]
    limit = f'ulimit -f {size // 1024}; exec "$@"'
    return subprocess.run(["bash", "-c", limit, "bash", *command], capture_output=True, text=True, check=False)


def test_a_process_that_may_not_write_more_decides_nothing(folder: Path, cli: Run, asking: Callable[..., Path]) -> None:
    cli("decide", asking(), "--dir", folder)
    before = cli("audit", "list", "--dir", folder).out
    for arguments in (("decide", asking()), ("keys", "create", "bot")):
        ran = limited(folder, *arguments, size=4096)
        assert (ran.returncode, ran.stdout) == (7, "")
        assert "Traceback" not in ran.stderr
        assert "hint: " in ran.stderr
    assert cli("audit", "list", "--dir", folder).out == before
    assert cli("decide", asking(), "--dir", folder).code == 0
    assert cli("audit", "verify", "--dir", folder).code == 0


def test_an_export_that_does_not_fit_leaves_no_part_of_it(
    small: Path, folder: Path, cli: Run, asking: Callable[..., Path]
) -> None:
    cli("decide", asking(), "--dir", folder)
    (small / "filler").write_bytes(bytes(1024 * 1024))
    ran = cli("audit", "export", "--to", small / "ledger.jsonl", "--dir", folder)
    assert ran.code == 1
    assert ran.err.startswith(f"error: `{small}/ledger.jsonl` cannot be written: no space left on device\nhint: ")
    assert [path.name for path in small.iterdir()] == ["filler"]

"""`audit tail`: what is recorded is shown, once and in order, whoever records it and whenever the store comes."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import Queue
from typing import Any

import pytest

from checkrein.compose import SystemClock
from checkrein.ledger import Draft
from checkrein.ports import Unit
from checkrein.storage.sqlite import SqliteStore

Run = Callable[..., Any]
#: no line takes longer
PATIENCE_S = 60


def write(data: Path, *kinds: str) -> None:
    """Open the store, write, and close it again, as a process that is restarted does."""
    store = SqliteStore(data, SystemClock())
    for kind in kinds:
        store.commit(Unit((Draft(kind, "", {"actor": {"id": "alice"}}),))).result()
    store.close()


class Following:
    """`audit tail -f` in a process of its own."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.lines: Queue[str] = Queue()
        self.said: Queue[str] = Queue()
        for stream, queue in ((process.stdout, self.lines), (process.stderr, self.said)):
            threading.Thread(target=self._read, args=(stream, queue), daemon=True).start()

    def _read(self, stream: Any, queue: Queue[str]) -> None:
        for line in stream:
            queue.put(line)

    def seqs(self, count: int) -> list[int]:
        return [json.loads(self.lines.get(timeout=PATIENCE_S))["seq"] for _ in range(count)]

    def interrupt(self) -> int:
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(PATIENCE_S)


@contextmanager
def following(data: Path, *options: str) -> Iterator[Following]:
    command = [sys.executable, "-m", "checkrein", "audit", "tail", "-f", "--data", str(data), *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield Following(process)
        finally:
            process.kill()


def test_it_shows_the_newest_that_fit(tmp_path: Path, cli: Run) -> None:
    write(tmp_path / "data", *("a", "b") * 10)
    ran = cli("audit", "tail", "-n", 3, "--kind", "a", "--data", tmp_path / "data", "-o", "json")
    assert [json.loads(line)["seq"] for line in ran.out.splitlines()] == [14, 16, 18]
    assert cli("audit", "tail", "-n", 0, "--data", tmp_path / "data").out == ""
    lines = cli("audit", "tail", "--data", tmp_path / "data").out.splitlines()
    assert lines[0].split()[:2] == ["SEQ", "TIME"]
    assert [line.split()[0] for line in lines[1:]] == [str(seq) for seq in range(10, 20)]


def test_without_a_store_it_says_so(tmp_path: Path, cli: Run) -> None:
    ran = cli("audit", "tail", "--data", tmp_path / "none")
    assert (ran.code, ran.out) == (1, "")
    assert "-f" in ran.err


def test_it_follows_what_other_processes_write_until_ctrl_c(tmp_path: Path) -> None:
    write(tmp_path, "a", "b")
    with following(tmp_path, "-n", "1", "-o", "json") as tail:
        assert tail.seqs(1) == [1]
        write(tmp_path, "a")
        write(tmp_path, "b", "a")
        assert tail.seqs(3) == [2, 3, 4]
        assert tail.interrupt() == 0
        assert tail.said.empty()
    assert tail.lines.empty()


def test_it_waits_for_a_store_that_is_not_there_yet(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with following(data, "--kind", "a", "-o", "json") as tail:
        assert f"waiting for a ledger in `{data}`" in tail.said.get(timeout=PATIENCE_S)
        write(data, "a", "b", "a")
        assert tail.seqs(2) == [0, 2]
        assert tail.interrupt() == 0


def test_nothing_is_lost_or_repeated_beside_busy_writers(tmp_path: Path) -> None:
    write(tmp_path, "start")
    with following(tmp_path, "-n", "1", "-o", "json") as tail:
        found = tail.seqs(1)  # from here on it follows
        store = SqliteStore(tmp_path, SystemClock())
        threads = [
            threading.Thread(
                target=lambda: [store.commit(Unit((Draft("a", "", {}),) * 3)).result() for _ in range(100)]
            )
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        found += tail.seqs(1200)
        for thread in threads:
            thread.join()
        store.close()
    assert found == list(range(1201))


def test_a_store_that_is_replaced_is_followed_from_its_beginning(tmp_path: Path) -> None:
    data, other = tmp_path / "data", tmp_path / "other"
    write(data, "a", "b", "c")
    write(other, "x", "y")
    with following(data, "-n", "1", "-o", "json") as tail:
        assert tail.seqs(1) == [2]
        write(data, "d")
        assert tail.seqs(1) == [3]
        data.rename(tmp_path / "gone")
        other.rename(data)
        assert tail.seqs(2) == [0, 1]
        write(data, "z")
        assert tail.seqs(1) == [2]
    said = [tail.said.get() for _ in range(tail.said.qsize())]
    assert any("holds another log now" in line for line in said)


def test_a_store_that_is_restored_goes_on_where_it_was(tmp_path: Path) -> None:
    data = tmp_path / "data"
    write(data, "a", "b")
    with following(data, "-n", "1", "-o", "json") as tail:
        assert tail.seqs(1) == [1]
        write(data, "c")
        assert tail.seqs(1) == [2]
        shutil.copytree(data, tmp_path / "kept")
        data.rename(tmp_path / "gone")
        (tmp_path / "kept").rename(data)
        write(data, "d")
        assert tail.seqs(1) == [3]


def test_who_stops_reading_ends_it(tmp_path: Path) -> None:
    write(tmp_path, "a")
    command = f"{sys.executable} -m checkrein audit tail -f -o json --data {tmp_path} | head -n 1"
    with subprocess.Popen(["bash", "-c", command], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as shell:
        assert shell.stdout is not None
        assert shell.stdout.readline()
        write(tmp_path, "b")
        assert shell.wait(PATIENCE_S) == 0
        assert shell.stderr is not None
        assert shell.stderr.read() == b""


@pytest.mark.parametrize("output", ["table", "json"])
def test_names_cannot_redraw_the_terminal(output: str, tmp_path: Path, cli: Run) -> None:
    store = SqliteStore(tmp_path, SystemClock())
    store.commit(Unit((Draft("a", "", {"actor": {"id": "\x1b[2Jmallory\r\u202e"}}),))).result()
    store.close()
    out = cli("audit", "tail", "--data", tmp_path, "-o", output).out
    assert not {"\x1b", "\r", "\u202e"} & set(out)
    assert "mallory" in out

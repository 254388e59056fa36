"""Four processes with eight threads each on one store, and clocks that disagree: one intact tree, nothing lost."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from checkrein.ports import RecordQuery
from checkrein.services.audit import Audit
from checkrein.storage.sqlite import SqliteStore
from crash.figures import DEEP, show

PROCESSES, THREADS, STEPS = 4, 8, 200 if DEEP else 12
HOUR_US, DAY_US = 3_600_000_000, 86_400_000_000

CHILD = """
import os, sys, threading, time
from pathlib import Path
from checkrein.ledger import Draft
from checkrein.ports import Unit
from checkrein.storage.sqlite import SqliteStore

name, threads, steps, wrong_us = sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5])

class Clock:
    def now_us(self): return time.time_ns() // 1000 + wrong_us

store = SqliteStore(Path(sys.argv[1]), Clock(), busy_s=60)

def write(thread):
    for step in range(steps):
        drafts = tuple(Draft("note", "", {"by": f"{name}.{thread}", "step": step, "part": part}) for part in (0, 1))
        first, second = store.commit(Unit(drafts)).result()
        os.write(1, f"{first.seq} {first.id} {second.seq} {second.id}\\n".encode())

running = [threading.Thread(target=write, args=(at,)) for at in range(threads)]
for thread in running: thread.start()
for thread in running: thread.join()
store.close()
"""


class Clock:
    def now_us(self) -> int:
        return 0


@pytest.mark.timeout(600)
def test_four_processes_of_eight_threads_write_one_intact_tree_and_lose_nothing(tmp_path: Path, capsys: Any) -> None:
    data = tmp_path / "data"
    clocks = (0, -HOUR_US, DAY_US, 1)
    children = [
        subprocess.Popen(
            [sys.executable, "-c", CHILD, str(data), str(at), str(THREADS), str(STEPS), str(wrong_us)],
            stdout=subprocess.PIPE,
            text=True,
        )
        for at, wrong_us in zip(range(PROCESSES), clocks, strict=True)
    ]
    acknowledged = [line.split() for child in children for line in child.communicate()[0].splitlines()]
    assert [child.returncode for child in children] == [0] * PROCESSES
    assert len(acknowledged) == PROCESSES * THREADS * STEPS

    store = SqliteStore(data, Clock())
    records = list(store.records(RecordQuery()))
    report = Audit(store, store.files).verify().require()
    store.close()
    assert report.records == report.checkpoint_size == len(records) == 2 * len(acknowledged)
    by_seq = {record.seq: record for record in records}
    for first, first_id, second, second_id in acknowledged:
        assert (by_seq[int(first)].id, by_seq[int(second)].id) == (first_id, second_id)
        assert int(second) == int(first) + 1
    times = [record.ts_us for record in records]
    assert times == sorted(times)
    show(capsys, f"{PROCESSES} processes of {THREADS} threads: {len(records)} records, one tree, 0 lost")

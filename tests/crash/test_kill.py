"""kill -9 of a process that acts for many callers: nothing acknowledged is missing, and nothing ran unrecorded.

The process notes every execution in a file of its own, as an upstream would notice it: synced, and not before
the decision and the start were acknowledged.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from checkrein.ledger.record import facets
from checkrein.ports import RecordQuery
from checkrein.services.audit import Audit
from checkrein.services.recovery import recover
from checkrein.storage.sqlite import SqliteStore
from crash.figures import DEEP, show

ROUNDS = 1000 if DEEP else 8
#: rounds on one ledger, which is read through after each
A_LEDGER = 12
CALLERS = 64

CHILD = """
import itertools, os, sys, threading, time
from pathlib import Path
from checkrein.ledger import Draft
from checkrein.ports import Unit
from checkrein.storage.sqlite import SqliteStore

class Clock:
    def now_us(self): return time.time_ns() // 1000

store = SqliteStore(Path(sys.argv[1]), Clock(), checkpoint_every=50)
numbers = itertools.count()
upstream = os.open(sys.argv[4], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

def call():
    for number in numbers:
        name = f"{sys.argv[2]}.{number}"
        ids = {"evaluation_id": name}
        decision = Draft("decision", name, {"decision": {**ids, "outcome": "allow"}})
        started = Draft("execution.started", name, {**ids, "owner": store.owner_token()})
        store.commit(Unit((decision, started))).result()
        os.write(1, f"S {name}\\n".encode())
        os.write(upstream, f"{name}\\n".encode())
        os.fsync(upstream)
        store.commit(Unit((Draft("execution.finished", name, {**ids, "status": "ok"}),))).result()
        os.write(1, f"F {name}\\n".encode())

for _ in range(int(sys.argv[3])):
    threading.Thread(target=call, daemon=True).start()
threading.Event().wait()
"""


class Clock:
    def now_us(self) -> int:
        return time.time_ns() // 1000


def upstream(data: Path, name: str) -> Path:
    return data.with_name(f"{data.name}.{name}.upstream")


def executed(data: Path, name: str) -> set[str]:
    """What this life executed in the world outside; of a line that the kill cut short nothing had happened yet."""
    path = upstream(data, name)
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return {line.strip() for line in lines if line.endswith("\n")}


def killed_after(lines: int, data: Path, name: str) -> set[str]:
    """Run a writer and kill it once it has acknowledged so many writes; everything it acknowledged."""
    arguments = [sys.executable, "-c", CHILD, str(data), name, str(CALLERS), str(upstream(data, name))]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        acknowledged = [child.stdout.readline() for _ in range(lines)]
        os.kill(child.pid, signal.SIGKILL)
        acknowledged += child.stdout.readlines()
    return {line.decode().strip() for line in acknowledged if line.endswith(b"\n")}


def stored(store: SqliteStore, kind: str) -> set[str]:
    return {facets(record.body).evaluation for record in store.records(RecordQuery(kinds=(kind,)))}


@pytest.mark.timeout(3600)
def test_nothing_acknowledged_is_missing_and_nothing_ran_unrecorded_after_kill_9(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seeded = random.Random(20_260_115)  # noqa: S311 - the same points in every run
    acknowledged: set[str] = set()
    promises = executions = 0
    for round_ in range(ROUNDS):
        data = tmp_path / f"data{round_ // A_LEDGER}"
        if round_ % A_LEDGER == 0:
            acknowledged.clear()
        before = len(acknowledged)
        acknowledged |= killed_after(seeded.randrange(1, 600), data, f"r{round_}")
        promises += len(acknowledged) - before
        store = SqliteStore(data, Clock())
        report = Audit(store, store.files).verify().require()
        assert report.records == store.head().size
        decided, started = stored(store, "decision"), stored(store, "execution.started")
        finished = stored(store, "execution.finished")
        assert {line[2:] for line in acknowledged if line.startswith("S ")} <= started
        assert {line[2:] for line in acknowledged if line.startswith("F ")} <= finished
        ran = executed(data, f"r{round_}")
        assert ran <= decided & started
        executions += len(ran)
        recover(store, Clock())
        assert stored(store, "execution.unknown") == started - finished
        assert store.running() == []
        store.close()
    assert executions > ROUNDS
    show(
        capsys,
        f"kill -9: {ROUNDS} points, {promises} acknowledged, 0 missing; {executions} executions, 0 without a record",
    )


def test_a_living_process_keeps_its_executions_when_another_recovers(tmp_path: Path) -> None:
    data = tmp_path / "data"
    arguments = [sys.executable, "-c", CHILD, str(data), "alive", "4", str(upstream(data, "alive"))]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        store = SqliteStore(data, Clock())
        assert recover(store, Clock()) == ()
        assert stored(store, "execution.unknown") == set()
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
        lost = {str(record.body["evaluation_id"]) for record in store.running()}
        recover(store, Clock())
        assert stored(store, "execution.unknown") == lost
        store.close()

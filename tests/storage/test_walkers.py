"""Several processes look through one ledger, and whatever becomes of them the report is the same."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import apsw
import pytest

from checkrein.ledger import Draft
from checkrein.ledger.verify import Report
from checkrein.ports import Unit
from checkrein.services.audit import Audit
from checkrein.storage import walkers
from checkrein.storage.sqlite import SqliteStore

RECORDS = 3 * walkers.SPAN + walkers.RUN + 6


class Clock:
    def now_us(self) -> int:
        return 1_767_225_600_000_000


def action(number: int) -> tuple[Draft, Draft]:
    ids = {"evaluation_id": f"evl_{number}"}
    decision = {"actor": {"id": "alice"}, "decision": {**ids, "outcome": "allow"}}
    return Draft("decision", f"{number:032x}", decision), Draft("execution.started", f"{number:032x}", ids)


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = tmp_path_factory.mktemp("ledger") / "data"
    store = SqliteStore(data, Clock())
    store.commit(Unit(tuple(draft for number in range(RECORDS // 2) for draft in action(number)))).result()
    store.close()
    return data


@pytest.fixture
def written(ledger: Path, data: Path) -> Path:
    return shutil.copytree(ledger, data)


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The processes that are started, two even on one core and for few records."""
    started: list[Any] = []

    def start(command: list[str]) -> Any:
        started.append(original(command))
        return started[-1]

    original = walkers._start
    monkeypatch.setattr(walkers, "_start", start)
    monkeypatch.setattr(walkers, "MANY", 1)
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0, 1})
    return started


def audit(data: Path) -> Report:
    reader = SqliteStore.open_readonly(data)
    try:
        return Audit(reader, reader.files).verify()
    finally:
        reader.close()


def test_processes_find_what_one_finds(written: Path, processes: list[Any]) -> None:
    report = audit(written).require()
    assert (report.records, report.checkpoint_size) == (RECORDS, RECORDS)
    assert [process.wait() is not None for process in processes] == [True, True]


@pytest.mark.parametrize("seq", [0, walkers.SPAN - 1, walkers.SPAN, RECORDS - 1])
@pytest.mark.parametrize(
    "change",
    ["SET data = CAST(data || ' ' AS BLOB) WHERE", "SET seq = 99999999 WHERE", "SET seq = -1 WHERE"],
)
def test_the_first_bad_record_is_named_wherever_it_stands(
    written: Path, processes: list[Any], seq: int, change: str
) -> None:
    raw = apsw.Connection(str(written / "ledger.db"))
    raw.execute(f"DROP TRIGGER record_stays; UPDATE record {change} seq = {seq}")
    raw.close()
    assert audit(written).first_bad == (-1 if "-1" in change else seq)
    assert len(processes) == 2


@pytest.mark.parametrize(
    "instead",
    [
        ["/nowhere/python"],
        [sys.executable, "-c", ""],
        [sys.executable, "-c", "import sys; sys.stdout.buffer.write(bytes([0, 0, 0, 2, 145, 192]) * 9)"],
        [sys.executable, "-c", "import sys; sys.stdout.buffer.write(bytes([0, 1, 0, 0]) + b'cut short')"],
    ],
    ids=["cannot be started", "says nothing", "says something else", "dies in the middle"],
)
def test_what_a_process_does_not_answer_is_looked_at_here(
    written: Path, processes: list[Any], monkeypatch: pytest.MonkeyPatch, instead: list[str]
) -> None:
    start = walkers._start
    monkeypatch.setattr(walkers, "_start", lambda command: start(instead))
    assert audit(written).require().records == RECORDS

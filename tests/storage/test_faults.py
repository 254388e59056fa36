"""The disk refuses at any call of SQLite: a commit is durable or refused, never half there, and work goes on."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import apsw
import pytest

from checkrein.ledger import Draft, Record
from checkrein.model import StoreUnavailable
from checkrein.ports import RecordQuery, Row, Save, Unit
from checkrein.services.audit import Audit
from checkrein.storage.database import prepare
from checkrein.storage.sqlite import SqliteStore
from checkrein.storage.units import Stamper, Written
from checkrein.storage.writer import Writer
from crash.disk import Disk
from crash.figures import DEEP, show

CALLS = range(1, 201)
ERRORS = {"input/output error": apsw.IOError, "disk full": apsw.FullError}


class Clock:
    def now_us(self) -> int:
        return 1_767_225_600_000_000


def unit(name: str) -> Unit:
    ids = {"evaluation_id": name}
    decision = Draft("decision", "", {"decision": {**ids, "outcome": "allow"}, "text": "x" * 700})
    return Unit((decision, Draft("execution.started", "", ids)), (Save(Row("box", name, 1, "", "", b""), 0),))


class Refusing:
    """A disk that refuses the call of this number, and if `lasting` all that change anything until it is mended."""

    def __init__(self, number: int, error: type[apsw.Error], *, lasting: bool) -> None:
        self.number, self.error, self.lasting = number, error, lasting
        self.met = self.mended = False

    def __call__(self, number: int, kind: str) -> None:
        again = self.lasting and self.met and not self.mended and kind in ("write", "sync", "truncate")
        if number == self.number or again:
            self.met = True
            raise self.error("refused by the disk")


def through(writer: Writer, refusing: Refusing) -> dict[str, tuple[Record, ...] | None]:
    """Units before, during and after the fault; None for one that was refused."""
    answers: dict[str, tuple[Record, ...] | None] = {}

    def commit(names: list[str]) -> None:
        waiting: list[tuple[str, Written]] = [(name, writer.submit(unit(name))) for name in names]
        for name, future in waiting:
            try:
                answers[name] = future.result()
            except StoreUnavailable:
                answers[name] = None

    for step in range(100):
        commit([f"{step}.{at}" for at in range(step % 3 + 1)])
        if refusing.met:
            break
    assert refusing.met
    commit(["during"])
    refusing.mended = True
    commit(["after.1", "after.2"])
    assert answers["after.1"] and answers["after.2"], "it must go on by itself"
    return answers


def stored(data: Path, left: dict[str, bytes]) -> dict[str, list[Record]]:
    """The units on such a disk; raises unless the tree verifies and every unit is whole."""
    data.mkdir()
    for name, content in left.items():
        (data / Path(name).name).write_bytes(content)
    reader = SqliteStore.open_readonly(data)
    try:
        Audit(reader).verify().require()
        records = list(reader.records(RecordQuery()))
        rows = {row.id for row in reader.rows("box", limit=1000)}
    finally:
        reader.close()
    found: dict[str, list[Record]] = {}
    for record in records:
        body: Any = record.body
        found.setdefault((body.get("decision") or body)["evaluation_id"], []).append(record)
    assert rows == set(found)
    assert {len(written) for written in found.values()} == {2}
    return found


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.db"


@pytest.fixture
def fresh(path: Path) -> dict[str, bytes]:
    disk = Disk()
    with disk.mounted():
        prepare(path)
    return disk.durable()


@pytest.mark.timeout(600)
@pytest.mark.parametrize("lasting", [False, True], ids=["once", "for a while"])
@pytest.mark.parametrize("error", ERRORS)
def test_a_disk_that_refuses_any_call_costs_no_record_and_no_restart(
    path: Path, fresh: dict[str, bytes], tmp_path: Path, error: str, lasting: bool, capsys: Any
) -> None:
    refused = late = 0
    first = 1 + 2 * lasting + (error == "disk full")
    for number in CALLS if DEEP else CALLS[first::4]:
        disk = Disk(fresh)
        disk.fault = refusing = Refusing(number, ERRORS[error], lasting=lasting)
        with disk.mounted():
            writer = Writer(
                path, Stamper(Clock(), random.randbytes), busy_s=0, queue_limit=100, on_commit=lambda size: None
            )
            answers = through(writer, refusing)
            # the power fails right after, and takes all that was only in memory
            left = disk.durable()
            writer.close()
        found = stored(tmp_path / f"data{number}", left)
        for name, written in answers.items():
            assert written is None or found[name] == list(written), f"call {number}: {name}"
            refused += written is None
            late += written is None and name in found
    assert refused
    assert not late
    show(capsys, f"{error}, {'lasting' if lasting else 'once'}: {refused} refused, of them {late} written all the same")

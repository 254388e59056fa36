"""The power fails at any moment: nothing acknowledged is lost, and nothing is half there."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from checkrein.ledger import Draft, Head, Record
from checkrein.ledger.checkpoint import Signer
from checkrein.ledger.tree import leaf_hash, root_of
from checkrein.model import LedgerInvalid, StoreUnavailable
from checkrein.ports import RecordQuery, Row, Save, Unit
from checkrein.services.audit import Audit
from checkrein.storage.database import prepare
from checkrein.storage.sqlite import SqliteStore
from checkrein.storage.units import Stamper
from checkrein.storage.writer import Writer
from crash.disk import Disk
from crash.figures import DEEP, show

POINTS = 2000 if DEEP else 40
#: points without syncing, of which about one in four loses records
UNSYNCED = 500 if DEEP else 40
STEPS = 12
#: of so many surviving disks one is also written on
REOPENED = 20
SIGNER = Signer(bytes(range(32)), "example.com/power")


class Clock:
    us = 1_767_225_600_000_000

    def now_us(self) -> int:
        self.us += 700
        return self.us


class Run:
    """One life of a writer on a disk: what it acknowledged, and the last checkpoint it could have signed."""

    def __init__(self, disk: Disk, path: Path, seed: int, *, synchronous: str = "") -> None:
        self.acknowledged: dict[str, tuple[Record, ...]] = {}
        self.signed = Head(0, root_of(()))
        seeded = random.Random(seed)  # noqa: S311 - the same life for the same seed
        with disk.mounted(synchronous=synchronous):
            stamper = Stamper(Clock(), seeded.randbytes)
            writer = Writer(path, stamper, busy_s=0, queue_limit=100, on_commit=lambda size: None)
            for step in range(STEPS):
                self._step(writer, seeded, step)
            writer.close()

    def _step(self, writer: Writer, seeded: random.Random, step: int) -> None:
        names = [f"{step}.{at}" for at in range(seeded.choice((1, 1, 2, 5)))]
        futures = [writer.submit(unit(name, seeded.randrange(3000))) for name in names]
        for name, future in zip(names, futures, strict=True):
            try:
                self.acknowledged[name] = future.result()
            except StoreUnavailable:
                return
        if seeded.random() < 0.5:
            leaves = [leaf_hash(record.data) for written in self.acknowledged.values() for record in written]
            self.signed = Head(len(leaves), root_of(leaves))


def unit(name: str, size: int) -> Unit:
    ids = {"evaluation_id": name}
    decision = Draft("decision", "", {"decision": {**ids, "outcome": "allow"}, "text": "x" * size})
    return Unit((decision, Draft("execution.started", "", ids)), (Save(Row("box", name, 1, "", "", b""), 0),))


def lost(data: Path, left: dict[str, bytes], run: Run) -> int:
    """Acknowledged units that are not on the disk the power cut left; raises if what is there is not whole."""
    data.mkdir()
    for name, content in left.items():
        (data / Path(name).name).write_bytes(content)
    (data / "checkpoint").write_text(SIGNER.sign(run.signed))
    (data / "signer.pub").write_text(SIGNER.vkey)
    reader = SqliteStore.open_readonly(data)
    try:
        Audit(reader, reader.files).verify().require()
        stored = {record.id: record for record in reader.records(RecordQuery())}
        rows = {row.id for row in reader.rows("box", limit=1000)}
    finally:
        reader.close()
    named = {str(record.body["evaluation_id"]) for record in stored.values() if record.kind == "execution.started"}
    assert named == rows
    assert len(stored) == 2 * len(named)
    return sum(
        any(stored.get(record.id) != record for record in written) for written in run.acknowledged.values()
    )  # fmt: skip


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.db"


@pytest.fixture
def fresh(path: Path) -> dict[str, bytes]:
    """A disk with an empty ledger on it."""
    disk = Disk()
    with disk.mounted():
        prepare(path)
    return disk.durable()


def cuts(fresh: dict[str, bytes], path: Path, count: int, *, synchronous: str = "") -> Any:
    """`count` lives, each ended by a power cut at a point of its own, and what their disks then hold."""
    for seed in range(count):
        seeded = random.Random(seed)  # noqa: S311 - the same point for the same seed
        whole = Disk(fresh)
        Run(whole, path, seed % 8, synchronous=synchronous)
        calls, disk = whole.calls, whole
        while disk.powered:  # a life may take fewer calls than the one that was counted, if more was written at once
            disk = Disk(fresh)
            disk.cut_power_at(calls := seeded.randrange(1, calls))
            run = Run(disk, path, seed % 8, synchronous=synchronous)
        yield seed, run, disk.survived(seeded)


@pytest.mark.timeout(900)
def test_no_acknowledged_record_is_lost_when_the_power_fails(
    fresh: dict[str, bytes], path: Path, tmp_path: Path, capsys: Any
) -> None:
    acknowledged = 0
    for seed, run, left in cuts(fresh, path, POINTS):
        data = tmp_path / f"data{seed}"
        assert lost(data, left, run) == 0, f"seed {seed}"
        acknowledged += len(run.acknowledged)
        if seed % REOPENED == 0:
            writes_again(data)
    assert acknowledged > POINTS
    show(capsys, f"power loss: {POINTS} points, {acknowledged} acknowledged units, 0 lost")


def writes_again(data: Path) -> None:
    (data / "signer.key").write_text(SIGNER.to_secret() + "\n")
    (data / "signer.key").chmod(0o600)
    store = SqliteStore(data, Clock())
    store.commit(unit("again", 1)).result()
    size = store.head().size
    store.close()
    reader = SqliteStore.open_readonly(data)
    assert Audit(reader, reader.files).verify().require().checkpoint_size == size
    reader.close()


@pytest.mark.timeout(900)
def test_the_same_test_fails_when_commits_are_not_synced(
    fresh: dict[str, bytes], path: Path, tmp_path: Path, capsys: Any
) -> None:
    """A test that cannot fail shows nothing: with `synchronous` NORMAL it must."""
    failed = 0
    for seed, run, left in cuts(fresh, path, UNSYNCED, synchronous="NORMAL"):
        try:
            failed += lost(tmp_path / f"data{seed}", left, run) > 0
        except (LedgerInvalid, AssertionError):
            failed += 1
    assert failed > UNSYNCED // 20
    show(capsys, f"power loss with synchronous NORMAL: {failed} of {UNSYNCED} points lose records")


def test_a_power_cut_while_the_tables_are_made_leaves_a_disk_to_make_them_on(path: Path) -> None:
    whole = Disk()
    with whole.mounted():
        prepare(path)
    for number in range(1, whole.calls + 1):
        disk = Disk()
        disk.cut_power_at(number)
        with disk.mounted(), pytest.raises(StoreUnavailable):
            prepare(path)
        again = Disk(disk.survived(random.Random(number)))  # noqa: S311 - the same for the same number
        with again.mounted():
            prepare(path)
        assert Run(Disk(again.durable()), path, number).acknowledged

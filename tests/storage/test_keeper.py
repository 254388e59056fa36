"""The checkpoint outside the database, and what it shows when the database was changed."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import apsw
import pytest

from checkrein.ledger import Draft, Head
from checkrein.ledger.checkpoint import verify
from checkrein.ledger.record import encode
from checkrein.ledger.tree import Frontier, leaf_hash
from checkrein.ledger.verify import Report
from checkrein.model import LedgerInvalid
from checkrein.ports import RecordQuery, Unit
from checkrein.services.audit import Audit
from checkrein.storage.database import SPINE_STEP, frontier_at
from checkrein.storage.files import DataDir
from checkrein.storage.sqlite import SqliteStore

Open = Callable[..., SqliteStore]
Made = Any
ALL = RecordQuery()


def signed(data: Path) -> Head:
    files = DataDir(data)
    return verify(files.checkpoint(), files.vkey())


def eventually(test: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not test():
        assert time.monotonic() < deadline, "it never came true"
        threading.Event().wait(0.002)


def write(store: SqliteStore, made: Made, count: int) -> None:
    futures = [store.commit(Unit((made.decision(at), made.execution(at, "started")))) for at in range(count // 2)]
    futures += [store.commit(made.unit("x")) for _ in range(count % 2)]
    for future in futures:
        future.result()


def audit(data: Path) -> Report:
    reader = SqliteStore.open_readonly(data)
    try:
        return Audit(reader, reader.files).verify()
    finally:
        reader.close()


@pytest.fixture
def written(open_sqlite: Open, made: Made, data: Path) -> Path:
    """A closed ledger of 20 records, all under the checkpoint."""
    store = open_sqlite()
    write(store, made, 20)
    store.close()
    assert audit(data).problems == ()
    return data


@pytest.fixture
def raw(written: Path) -> Iterator[apsw.Connection]:
    """The database in the hands of somebody who may change everything in it."""
    connection = apsw.Connection(str(written / "ledger.db"))
    connection.execute("DROP TRIGGER record_stays; DROP TRIGGER record_remains")
    yield connection
    connection.close()


# --- signing ----------------------------------------------------------------------------------------------------


def test_the_empty_ledger_is_signed_before_the_first_record(open_sqlite: Open, data: Path) -> None:
    open_sqlite()
    assert signed(data) == Head(0, Frontier().root)


def test_closing_signs_every_record(open_sqlite: Open, made: Made, data: Path) -> None:
    store = open_sqlite()
    write(store, made, 7)
    head = store.head()
    assert signed(data).size == 0
    store.close()
    assert signed(data) == head
    assert list(DataDir(data).leaves()) == [leaf_hash(record.data) for record in open_sqlite().records(ALL)]


def test_a_number_of_records_brings_a_checkpoint(open_sqlite: Open, made: Made, data: Path) -> None:
    store = open_sqlite(checkpoint_every=5, checkpoint_every_s=0.001)
    write(store, made, 12)
    eventually(lambda: signed(data).size == 12)
    assert signed(data) == store.head()


def test_time_brings_a_checkpoint_too(open_sqlite: Open, made: Made, data: Path) -> None:
    store = open_sqlite(checkpoint_every_s=0.001)
    for size in (1, 2, 3):
        store.commit(made.unit("x")).result()
        eventually(lambda size=size: signed(data).size == size)


def test_whichever_process_closes_last_signs_all(open_sqlite: Open, made: Made, data: Path) -> None:
    first, second = open_sqlite(), open_sqlite()
    write(first, made, 3)
    write(second, made, 4)
    first.close()
    assert signed(data).size == 7
    write(second, made, 2)
    second.close()
    assert signed(data).size == 9


def test_a_checkpoint_grows_across_many_spine_nodes(open_sqlite: Open, made: Made, data: Path) -> None:
    size = 0
    for step in (SPINE_STEP - 1, 1, 1, 3 * SPINE_STEP, 700):
        store = open_sqlite()
        store.commit(made.unit(*["x"] * step)).result()
        store.close()
        size += step
        assert signed(data).size == size
    assert audit(data).problems == ()


def test_the_tree_at_any_size_comes_from_the_spine(open_sqlite: Open, made: Made, data: Path) -> None:
    store = open_sqlite()
    store.commit(made.unit(*["x"] * (7 * SPINE_STEP + 5))).result()
    hashes = [leaf_hash(record.data) for record in store.records(ALL)]
    raw = apsw.Connection(str(data / "ledger.db"))
    for size in (0, 1, 255, 256, 257, 512, 768, 1000, 1024, 1536, 1792, 1797):
        assert frontier_at(raw, size) == Frontier().extend(hashes[:size])
    assert frontier_at(raw, 1798) is None
    raw.close()


def test_a_wrong_spine_is_noticed_and_done_without(open_sqlite: Open, made: Made, data: Path) -> None:
    store = open_sqlite()
    store.commit(made.unit(*["x"] * (2 * SPINE_STEP + 3))).result()
    store.close()
    for change in ("UPDATE spine SET node = zeroblob(32)", "DELETE FROM spine"):
        raw = apsw.Connection(str(data / "ledger.db"))
        raw.execute(change)
        raw.close()
        open_sqlite().close()


def test_lost_hash_files_are_made_again(written: Path, open_sqlite: Open, made: Made) -> None:
    (written / "leaves").unlink()
    store = open_sqlite()
    write(store, made, 2)
    store.close()
    assert len(list(DataDir(written).leaves())) == 22
    assert audit(written).problems == ()


def test_a_checkpoint_that_cannot_be_written_is_a_problem_and_no_failure(
    open_sqlite: Open, made: Made, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_sqlite(checkpoint_every_s=0.001)

    def refuse(self: DataDir, text: str) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(DataDir, "write_checkpoint", refuse)
        write(store, made, 2)
        eventually(lambda: bool(store.problems()))
        assert store.problems() == ("the checkpoint cannot be written: no space left on device",)
    eventually(lambda: not store.problems())
    assert signed(data).size == 2


# --- tampering: each is detected, and named where the hashes allow it -------------------------------------------


def reseal(raw: apsw.Connection) -> None:
    """Make hashes and head fit the records again, as a careful forger would."""
    frontier = Frontier()
    for seq, data in raw.execute("SELECT seq, data FROM record ORDER BY seq").fetchall():
        frontier = frontier.append(leaf_hash(data))
        raw.execute("UPDATE record SET leaf = ? WHERE seq = ?", (leaf_hash(data), seq))
    raw.execute("UPDATE head SET frontier = ?", (frontier.to_bytes(),))


def edit(raw: apsw.Connection) -> None:
    raw.execute("UPDATE record SET data = CAST(replace(CAST(data AS TEXT), 'alice', 'malry') AS BLOB) WHERE seq = 8")


def edit_and_rehash(raw: apsw.Connection) -> None:
    edit(raw)
    data = raw.execute("SELECT data FROM record WHERE seq = 8").get
    raw.execute("UPDATE record SET leaf = ?, user = 'malry' WHERE seq = 8", (leaf_hash(data),))


def edit_and_reseal(raw: apsw.Connection) -> None:
    edit_and_rehash(raw)
    reseal(raw)


def hide(raw: apsw.Connection) -> None:
    raw.execute("UPDATE record SET outcome = NULL WHERE seq = 8")


def delete(raw: apsw.Connection) -> None:
    raw.execute("DELETE FROM record WHERE seq = 8")


def delete_and_renumber(raw: apsw.Connection) -> None:
    delete(raw)
    for seq in range(9, 20):
        raw.execute("UPDATE record SET seq = ? WHERE seq = ?", (seq - 1, seq))
    reseal(raw)


def cut(raw: apsw.Connection) -> None:
    raw.execute("DELETE FROM record WHERE seq >= 8")


def cut_and_reseal(raw: apsw.Connection) -> None:
    cut(raw)
    reseal(raw)


def swap(raw: apsw.Connection) -> None:
    for old, new in ((8, 1000), (10, 8), (1000, 10)):
        raw.execute("UPDATE record SET seq = ? WHERE seq = ?", (new, old))


def swap_and_reseal(raw: apsw.Connection) -> None:
    swap(raw)
    reseal(raw)


def rewrite(raw: apsw.Connection) -> None:
    for seq in range(8, 20):
        record = encode(Draft("x", "", {}), seq=seq, id=f"rec_{seq}", ts_us=2_000_000_000_000_000)
        raw.execute(
            "UPDATE record SET kind = 'x', trace_id = NULL, user = NULL, agent = NULL, action = NULL, outcome = NULL,"
            " risk = NULL, evaluation = NULL, id = ?, ts_us = ?, data = ? WHERE seq = ?",
            (record.id, record.ts_us, record.data, seq),
        )
    reseal(raw)


def append(raw: apsw.Connection) -> None:
    record = encode(Draft("x", "", {}), seq=20, id="rec_20", ts_us=2_000_000_000_000_000)
    values = (20, record.id, "x", None, record.ts_us, *[None] * 7, leaf_hash(record.data), record.data)
    raw.execute("INSERT INTO record VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", values)


TAMPERINGS = {
    edit: 8,
    edit_and_rehash: 8,
    edit_and_reseal: 8,
    hide: 8,
    delete: 8,
    delete_and_renumber: 8,
    cut: 8,
    cut_and_reseal: 8,
    swap: 8,
    swap_and_reseal: 8,
    rewrite: 8,
    append: 20,
}


@pytest.mark.parametrize("tamper", TAMPERINGS, ids=lambda tamper: tamper.__name__)
def test_tampering_is_detected_and_the_record_named(
    tamper: Callable[[apsw.Connection], None], raw: apsw.Connection, written: Path
) -> None:
    tamper(raw)
    report = audit(written)
    assert report.problems
    assert report.first_bad == TAMPERINGS[tamper]


@pytest.mark.parametrize("tamper", TAMPERINGS, ids=lambda tamper: tamper.__name__)
def test_tampering_is_detected_by_the_checkpoint_alone(
    tamper: Callable[[apsw.Connection], None], raw: apsw.Connection, written: Path
) -> None:
    (written / "leaves").unlink()
    tamper(raw)
    assert audit(written).problems


@pytest.mark.parametrize("tamper", [edit_and_reseal, delete_and_renumber, cut_and_reseal, swap_and_reseal, rewrite])
def test_a_store_does_not_start_on_a_ledger_that_does_not_extend_its_checkpoint(
    tamper: Callable[[apsw.Connection], None], raw: apsw.Connection, written: Path, open_sqlite: Open
) -> None:
    tamper(raw)
    before = signed(written)
    with pytest.raises(LedgerInvalid) as caught:
        open_sqlite()
    assert "checkrein audit verify" in caught.value.hint
    assert signed(written) == before


@pytest.mark.parametrize(
    "change", ["UPDATE record SET leaf = zeroblob(32) WHERE seq = 21", "DELETE FROM record WHERE seq = 21"]
)
def test_records_after_the_checkpoint_must_fit_the_head(
    change: str, written: Path, open_sqlite: Open, made: Made
) -> None:
    shutil.copy(written / "checkpoint", written / "kept")
    store = open_sqlite()
    write(store, made, 3)
    store.close()
    (written / "kept").replace(written / "checkpoint")
    raw = apsw.Connection(str(written / "ledger.db"))
    raw.execute("DROP TRIGGER record_stays; DROP TRIGGER record_remains")
    raw.execute(change)
    raw.close()
    with pytest.raises(LedgerInvalid, match="do not extend the checkpoint of 20"):
        open_sqlite()
    assert audit(written).first_bad == 21


def test_a_ledger_restored_from_an_older_copy_is_refused(
    written: Path, open_sqlite: Open, made: Made, tmp_path: Path
) -> None:
    shutil.copy(written / "ledger.db", tmp_path / "old.db")
    store = open_sqlite()
    write(store, made, 2)
    store.close()
    shutil.copy(tmp_path / "old.db", written / "ledger.db")
    with pytest.raises(LedgerInvalid, match="covers 22 records but 20"):
        open_sqlite()
    assert audit(written).first_bad == 20


@pytest.mark.parametrize("name", ["checkpoint", "ledger.db"])
def test_taking_a_file_away_is_noticed(written: Path, open_sqlite: Open, name: str) -> None:
    (written / name).unlink()
    with pytest.raises(LedgerInvalid):
        open_sqlite()


def test_a_checkpoint_under_another_key_is_refused(written: Path, open_sqlite: Open) -> None:
    (written / "signer.key").unlink()
    (written / "signer.pub").unlink()
    with pytest.raises(LedgerInvalid):
        open_sqlite()


def test_a_ledger_rewritten_under_a_running_store_is_never_signed(open_sqlite: Open, made: Made, data: Path) -> None:
    store = open_sqlite(checkpoint_every_s=0.001)
    write(store, made, 20)
    eventually(lambda: signed(data).size == 20)
    before = signed(data)
    raw = apsw.Connection(str(data / "ledger.db"))
    raw.execute("DROP TRIGGER record_stays; DROP TRIGGER record_remains")
    edit_and_reseal(raw)
    raw.close()
    store.commit(made.unit("x")).result()
    eventually(lambda: bool(store.problems()))
    assert "do not extend the checkpoint" in store.problems()[0]
    store.close()
    assert signed(data) == before


def test_a_damaged_page_is_reported_and_not_a_traceback(written: Path, made: Made) -> None:
    path = written / "ledger.db"
    content = bytearray(path.read_bytes())
    content[4096:] = b"\xff" * (len(content) - 4096)
    path.write_bytes(bytes(content))
    assert audit(written).problems

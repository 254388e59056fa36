"""What only the SQLite store does: several processes, refusing disks, files and their permissions."""

from __future__ import annotations

import resource
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import apsw
import pytest

from checkrein.compose import SystemClock
from checkrein.ledger import Draft
from checkrein.model import ConfigError, LedgerInvalid, StoreUnavailable
from checkrein.ports import RecordQuery, Unit
from checkrein.services.audit import Audit
from checkrein.storage import database, writer
from checkrein.storage.sqlite import SqliteStore

Open = Callable[..., SqliteStore]
Made = Any
ALL = RecordQuery()

CHILD = """
import sys, threading, time
from pathlib import Path
from checkrein.ledger import Draft
from checkrein.model import StoreConflict
from checkrein.ports import Row, Save, Unit
from checkrein.storage.sqlite import SqliteStore

class Clock:
    def now_us(self): return time.time_ns() // 1000

store = SqliteStore(Path(sys.argv[1]), Clock(), busy_s=60)

def count(name, steps):
    for step in range(steps):
        while True:
            row = store.row("box", "counter")
            version, total = (row.version, int(row.body)) if row else (0, 0)
            save = Save(Row("box", "counter", version + 1, "", "", b"%d" % (total + 1)), version)
            try:
                store.commit(Unit((Draft("counted", "", {"by": name, "step": step}),), (save,))).result()
            except StoreConflict:
                continue
            break
        store.commit(Unit((Draft("free", "", {"by": name, "step": step}),))).result()

process, threads, steps = sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
threads = [threading.Thread(target=count, args=(f"{process}.{at}", steps)) for at in range(threads)]
for thread in threads: thread.start()
for thread in threads: thread.join()
store.close()
"""


@contextmanager
def held(store: SqliteStore) -> Iterator[None]:
    """Another process holds the write lock."""
    other = apsw.Connection(str(store.files.database))
    other.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        other.execute("ROLLBACK")
        other.close()


def verified(store: SqliteStore) -> int:
    report = Audit(store, store.files).verify().require()
    assert report.root == store.head().root
    return report.records


def test_what_was_committed_is_there_after_reopening(open_sqlite: Open, made: Made) -> None:
    first = open_sqlite()
    written = first.commit(Unit((made.draft("a"), made.draft("b")), (made.save("x", 1, body=b"1"),))).result()
    head = first.head()
    first.close()
    second = open_sqlite()
    assert tuple(second.records(ALL)) == written
    assert (second.head(), second.row("box", "x").body) == (head, b"1")
    second.commit(made.unit("c")).result()
    assert verified(second) == 3


def test_several_stores_on_one_file_see_each_other_at_once(open_sqlite: Open, made: Made) -> None:
    stores = [open_sqlite() for _ in range(3)]
    for at in range(9):
        written = stores[at % 3].commit(made.unit("x")).result()
        assert written[0].seq == at
        assert all(store.head().size == at + 1 for store in stores)
    assert verified(stores[0]) == 9


def test_processes_and_threads_on_one_store_make_one_intact_tree_and_lose_nothing(
    data: Path, open_sqlite: Open
) -> None:
    processes, threads, steps = 3, 4, 8
    children = [
        subprocess.Popen([sys.executable, "-c", CHILD, str(data), str(at), str(threads), str(steps)])
        for at in range(processes)
    ]
    assert [child.wait(timeout=90) for child in children] == [0] * processes
    store = open_sqlite()
    total = processes * threads * steps
    assert store.row("box", "counter").body == b"%d" % total
    assert verified(store) == 2 * total
    for kind in ("counted", "free"):
        found = {(record.body["by"], record.body["step"]) for record in store.records(RecordQuery(kinds=(kind,)))}
        assert len(found) == total


def test_units_that_wait_are_written_in_one_transaction(open_sqlite: Open, made: Made) -> None:
    store = open_sqlite(busy_s=30)
    with held(store):
        futures = [store.commit(made.unit("x")) for _ in range(50)]
    before = [future.result()[0].ts_us for future in futures]
    assert [future.result()[0].seq for future in futures] == list(range(50))
    assert len(set(before)) == 1


def test_a_unit_that_conflicts_fails_alone_in_its_transaction(open_sqlite: Open, made: Made) -> None:
    store = open_sqlite(busy_s=30)
    store.commit(Unit(saves=(made.save("a", 1),))).result()
    with held(store):
        good = store.commit(Unit((made.draft("good"),), (made.save("b", 1),)))
        bad = store.commit(Unit((made.draft("bad"),), (made.save("c", 1), made.save("a", 1))))
        late = store.commit(Unit((made.draft("late"),), (made.save("a", 2),)))
    assert "`a`" in str(bad.exception())
    assert [future.result()[0].seq for future in (good, late)] == [0, 1]
    assert [row.id for row in store.rows("box")] == ["a", "b"]


def test_a_file_held_for_too_long_fails_the_write_and_not_the_next(open_sqlite: Open, made: Made) -> None:
    store = open_sqlite(busy_s=0.02)
    with held(store):
        with pytest.raises(StoreUnavailable, match="another process"):
            store.commit(made.unit("x")).result()
        assert store.head().size == 0
        assert not store.writable()
    assert store.writable()
    store.commit(made.unit("x")).result()
    assert verified(store) == 1


def test_a_full_queue_refuses_and_drops_nothing(open_sqlite: Open, made: Made) -> None:
    store = open_sqlite(busy_s=30, queue_limit=4)
    with held(store):
        futures = [store.commit(made.unit("x")) for _ in range(40)]
        refused = [future for future in futures if future.done()]
        assert len(refused) >= 30
        for future in refused:
            assert "too many" in str(future.exception())
    accepted = [future for future in futures if future not in refused]
    assert [future.result()[0].seq for future in accepted] == list(range(len(accepted)))
    assert store.head().size == len(accepted)


def test_readers_do_not_wait_for_the_writer(open_sqlite: Open, made: Made) -> None:
    store = open_sqlite(busy_s=30)
    store.commit(Unit((made.draft("a"),), (made.save("x", 1),))).result()
    with held(store):
        waiting = store.commit(made.unit("b"))
        assert store.row("box", "x").version == 1
        assert store.head().size == 1
        assert [record.kind for record in store.records(ALL)] == ["a"]
        assert not waiting.done()
    waiting.result()


def test_a_unit_whose_caller_gave_up_before_its_turn_is_not_written(open_sqlite: Open, made: Made) -> None:
    store = open_sqlite(busy_s=30)
    with held(store):
        first = store.commit(made.unit("first"))
        while not first.running():  # the writer has taken it and waits for the file
            threading.Event().wait(0.001)
        second, third = store.commit(made.unit("second")), store.commit(made.unit("third"))
        assert second.cancel()
        assert not first.cancel()
    assert [first.result()[0].seq, third.result()[0].seq] == [0, 1]
    with pytest.raises(CancelledError):
        second.result()
    assert [record.kind for record in store.records(ALL)] == ["first", "third"]


# --- disks that refuse ------------------------------------------------------------------------------------------


@pytest.fixture
def connections(monkeypatch: pytest.MonkeyPatch) -> list[apsw.Connection]:
    """Every connection of the writer, newest last, so that a test can make it fail."""
    made: list[apsw.Connection] = []

    def connect(path: Path, **options: Any) -> apsw.Connection:
        made.append(database.connect(path, **options))
        return made[-1]

    monkeypatch.setattr(writer, "connect", connect)
    return made


def test_a_full_disk_refuses_writes_none_is_half_written_and_space_mends_it(
    open_sqlite: Open, made: Made, connections: list[apsw.Connection]
) -> None:
    store = open_sqlite()
    store.commit(made.unit("before")).result()
    pages = connections[-1].pragma("page_count")
    connections[-1].pragma("max_page_count", pages)
    big = Unit((made.draft("big", text="x" * 60_000), made.draft("small")), (made.save("a", 1),))
    with pytest.raises(StoreUnavailable, match="the disk is full") as caught:
        store.commit(big).result()
    assert "free space" in caught.value.hint
    assert (store.head().size, store.row("box", "a")) == (1, None)
    assert [record.seq for record in store.commit(big).result()] == [1, 2]
    assert store.writable()
    assert verified(store) == 3


def test_a_disk_that_refuses_for_long_is_tried_again_until_it_takes_writes(
    open_sqlite: Open, made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuses = True

    def connect(path: Path, **options: Any) -> apsw.Connection:
        connection = database.connect(path, **options)
        if refuses:
            connection.pragma("query_only", True)
        return connection

    monkeypatch.setattr(writer, "connect", connect)
    store = open_sqlite()
    for _ in range(5):
        with pytest.raises(StoreUnavailable):
            store.commit(made.unit("x")).result()
        assert not store.writable()
    refuses = False
    assert store.writable()
    store.commit(made.unit("x")).result()
    assert verified(store) == 1


@pytest.fixture
def file_limit() -> Iterator[Callable[[int], None]]:
    """Lets this process write no file beyond a size: the kernel then refuses, as a failing disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limit(size: int) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size if size >= 0 else soft, hard))

    yield limit
    limit(-1)


def test_an_error_of_the_operating_system_refuses_the_write_and_is_survived(
    open_sqlite: Open, made: Made, data: Path, file_limit: Callable[[int], None]
) -> None:
    store = open_sqlite()
    store.commit(made.unit("before")).result()
    big = Unit(tuple(made.draft("big", text="x" * 60_000) for _ in range(8)))
    file_limit((data / "ledger.db-wal").stat().st_size + 100_000)
    try:
        with pytest.raises(StoreUnavailable):
            store.commit(big).result()
        assert store.head().size == 1
    finally:
        file_limit(-1)
    store.commit(big).result()
    assert verified(store) == 9


def test_an_unexpected_error_in_the_writer_refuses_the_batch_and_the_writer_lives(
    open_sqlite: Open, made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_sqlite()
    monkeypatch.setattr(writer, "leaf_hash", lambda data: 1 / 0)
    with pytest.raises(StoreUnavailable, match="nothing was written"):
        store.commit(made.unit("x")).result()
    monkeypatch.undo()
    store.commit(made.unit("x")).result()
    assert verified(store) == 1


# --- files ------------------------------------------------------------------------------------------------------


def test_everything_is_private_except_what_is_for_others_to_check(open_sqlite: Open, made: Made, data: Path) -> None:
    store = open_sqlite()
    store.commit(made.unit("x")).result()
    store.files.commitment_key()
    assert data.stat().st_mode & 0o777 == 0o700
    modes = {path.name: path.stat().st_mode & 0o777 for path in data.iterdir() if path.is_file()}
    public = {name for name, mode in modes.items() if mode & 0o077}
    assert {"ledger.db", "ledger.db-wal", "signer.key", "commitment.key", "leaves"} <= set(modes)
    assert public <= {"checkpoint", "signer.pub"}


def test_a_store_of_a_newer_version_is_refused_with_a_hint(open_sqlite: Open, data: Path) -> None:
    open_sqlite().close()
    raw = apsw.Connection(str(data / "ledger.db"))
    raw.pragma("user_version", 99)
    raw.close()
    for open_ in (open_sqlite, lambda: SqliteStore.open_readonly(data)):
        with pytest.raises(ConfigError, match="newer checkrein") as caught:
            open_()
        assert "upgrade" in caught.value.hint


def test_the_database_of_another_program_is_refused_and_left_alone(open_sqlite: Open, data: Path) -> None:
    data.mkdir()
    raw = apsw.Connection(str(data / "ledger.db"))
    raw.execute("CREATE TABLE theirs (x)")
    raw.close()
    before = (data / "ledger.db").read_bytes()
    with pytest.raises(ConfigError, match="not a checkrein ledger"):
        open_sqlite()
    assert (data / "ledger.db").read_bytes() == before


def test_a_file_that_is_no_database_is_damage(open_sqlite: Open, data: Path) -> None:
    data.mkdir()
    (data / "ledger.db").write_bytes(b"garbage, and not a database at all" * 100)
    with pytest.raises(LedgerInvalid, match="damaged"):
        open_sqlite()


def test_a_directory_that_cannot_be_written_is_unavailable_and_not_a_traceback(
    open_sqlite: Open, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("checkrein.storage.sqlite.Owner", refuse)
    with pytest.raises(StoreUnavailable, match="read-only file system"):
        open_sqlite()


LOCKED = """
import fcntl, sys
SHARED_FIRST, SHARED_SIZE = 0x40000002, 510  # the bytes of SQLite's lock on the whole file
with open(sys.argv[1], "r+b") as file:
    fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, SHARED_SIZE, SHARED_FIRST)
"""


def test_opening_a_second_store_in_a_process_keeps_the_locks_of_the_first(open_sqlite: Open, data: Path) -> None:
    """POSIX drops the locks of a process on a file when it closes *any* descriptor of that file."""
    open_sqlite()
    for _ in range(2):
        taken = subprocess.run([sys.executable, "-c", LOCKED, str(data / "ledger.db")], capture_output=True, text=True)
        assert "BlockingIOError" in taken.stderr
        open_sqlite().close()


def test_there_is_nothing_to_read_where_nothing_was_written(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no ledger"):
        SqliteStore.open_readonly(tmp_path)


def test_records_cannot_be_changed_or_deleted_by_a_careless_statement(open_sqlite: Open, made: Made) -> None:
    store = open_sqlite()
    store.commit(made.unit("x")).result()
    raw = apsw.Connection(str(store.files.database))
    for statement in ("UPDATE record SET user = 'bob'", "DELETE FROM record"):
        with pytest.raises(apsw.ConstraintError, match="a record never"):
            raw.execute(statement)
    raw.close()


def test_a_store_opened_for_reading_reads_beside_a_writer(open_sqlite: Open, made: Made, data: Path) -> None:
    store = open_sqlite()
    reader = SqliteStore.open_readonly(data)
    store.commit(made.unit("x")).result()
    assert [record.kind for record in reader.records(ALL)] == ["x"]
    assert not hasattr(reader, "commit")
    reader.close()


def test_a_store_that_is_moved_away_takes_nothing_and_goes_on_when_it_is_back(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "data", SystemClock())
    try:
        store.commit(Unit(drafts=(Draft("x", "", {}),))).result()
        database = tmp_path / "data/ledger.db"
        database.rename(tmp_path / "away.db")
        with pytest.raises(StoreUnavailable, match="moved, deleted or replaced"):
            store.commit(Unit(drafts=(Draft("x", "", {}),))).result()
        assert not store.writable()
        (tmp_path / "away.db").rename(database)
        store.commit(Unit(drafts=(Draft("x", "", {}),))).result()
        assert store.writable()
    finally:
        store.close()

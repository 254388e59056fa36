"""Rows that every request reads: taken from memory, and never older than what any process has committed."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from checkrein.model import StoreConflict, StoreUnavailable
from checkrein.ports import Move, Unit
from checkrein.services import keys, killswitch
from checkrein.storage import standing
from checkrein.storage.reader import SqliteReader
from checkrein.storage.sqlite import SqliteStore
from checkrein.storage.standing import ROOMS, Standing

Open = Callable[..., SqliteStore]
Made = Any

CHILD = """
import sys
from pathlib import Path
from checkrein.ports import Row, Save, Unit
from checkrein.storage.sqlite import SqliteStore

class Clock:
    def now_us(self):
        return 1_767_225_600_000_000

store = SqliteStore(Path(sys.argv[1]), Clock())
for line in sys.stdin:
    version = int(line)
    store.commit(Unit(saves=(Save(Row("key", "k", version, "", "digest", b""), version - 1),))).result()
    print(version, flush=True)
"""


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[tuple[object, ...]]:
    """What was asked of the database itself. Here no answer is too old to be kept."""
    seen: list[tuple[object, ...]] = []
    row, rows = SqliteReader.row, SqliteReader.rows

    def looked(self: SqliteReader, room: str, id: str) -> object:
        seen.append((room, id))
        return row(self, room, id)

    def listed(self: SqliteReader, room: str, **asked: Any) -> object:
        seen.append((room, asked["lookup"]))
        return rows(self, room, **asked)

    monkeypatch.setattr(SqliteReader, "row", looked)
    monkeypatch.setattr(SqliteReader, "rows", listed)
    monkeypatch.setattr(standing, "KEPT_S", 3600.0)
    return seen


@pytest.fixture
def child(data: Path) -> Iterator[Callable[[int], None]]:
    """Another process that writes the key `k` in this version, and says so."""
    with subprocess.Popen(
        [sys.executable, "-c", CHILD, str(data)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:

        def write(version: int) -> None:
            assert process.stdin and process.stdout
            process.stdin.write(f"{version}\n")
            process.stdin.flush()
            assert process.stdout.readline() == f"{version}\n"

        yield write
        assert process.stdin
        process.stdin.close()


def save(store: SqliteStore, made: Made, version: int, room: str = "key") -> None:
    store.commit(Unit(saves=(made.save("k", version, room=room, lookup="digest"),))).result()


def version(store: SqliteStore, room: str = "key") -> int:
    """As its id and its other name say alike."""
    row, rows = store.row(room, "k"), store.rows(room, lookup="digest", limit=1)
    assert [row] == (rows or [None])
    return row.version if row else 0


def test_the_rooms_are_those_of_keys_and_switches() -> None:
    assert {keys.ROOM, keys.PREVIOUS, killswitch.ROOM} == ROOMS


def test_what_nobody_writes_is_looked_for_once(open_sqlite: Open, made: Made, looks: list[object]) -> None:
    store = open_sqlite()
    save(store, made, 1)
    store.commit(made.unit("x")).result()  # whoever writes next shows that the one before is over
    for _ in range(3):
        assert version(store) == 1
        assert store.row("killswitch", "board") is None
        store.commit(made.unit("x")).result()
    assert looks == [("key", "k"), ("key", "digest"), ("killswitch", "board")]


@pytest.mark.parametrize("room", sorted(ROOMS))
def test_what_was_committed_is_read_next_also_by_others(open_sqlite: Open, made: Made, room: str, looks: Any) -> None:
    here, there = open_sqlite(), open_sqlite()
    for number in range(1, 6):
        save((here, there)[number % 2], made, number, room)
        assert [version(here, room), version(there, room)] == [number, number]
        here.commit(made.unit("x")).result()
        assert [version(here, room), version(there, room)] == [number, number]


def test_what_another_process_committed_is_read_next(
    open_sqlite: Open, made: Made, child: Callable[[int], None], looks: list[object]
) -> None:
    store = open_sqlite()
    for number in range(1, 6):
        store.commit(made.unit("x")).result()
        assert [version(store), version(store)] == [number - 1, number - 1]
        child(number)
        assert version(store) == number


def test_a_row_that_is_removed_is_gone(open_sqlite: Open, made: Made, looks: list[object]) -> None:
    store = open_sqlite()
    save(store, made, 1)
    store.commit(made.unit("x")).result()
    assert version(store) == 1
    gone = made.save("k", 1, room="key")
    row = type(gone.row)("key", "k", 0, "", "", b"")
    store.commit(Unit(saves=(type(gone)(row, 1),))).result()
    assert version(store) == 0


def test_a_row_that_is_moved_is_read_as_it_was_left(open_sqlite: Open, made: Made, looks: list[object]) -> None:
    store = open_sqlite()
    for body in (b"1", b"2"):
        store.commit(made.unit("x")).result()
        store.row("killswitch", "board")
        store.commit(Unit(moves=(Move("killswitch", "board", lambda _, body=body: body),))).result()
        found = store.row("killswitch", "board")
        assert found and found.body == body


def test_while_a_write_is_under_way_or_its_process_died_in_it_nothing_is_taken_from_memory(
    open_sqlite: Open, made: Made, data: Path, looks: list[object]
) -> None:
    store = open_sqlite()
    assert version(store) == 0
    for _ in range(2):  # the second finds the first one dead
        Standing(data / "standing").writing({"key"})
        looks.clear()
        assert [version(store), version(store)] == [0, 0]
        assert len(looks) == 4
    store.commit(made.unit("x")).result()
    looks.clear()
    assert [version(store), version(store)] == [0, 0]
    assert len(looks) == 2


def test_what_was_looked_for_while_somebody_wrote_is_not_kept(data: Path) -> None:
    data.mkdir()
    here, there = Standing(data / "standing"), Standing(data / "standing")

    def look() -> str:
        there.writing({"key"})
        there.writing(set())
        return "old"

    assert here.read("k", look) == "old"
    assert here.read("k", lambda: "new") == "new"


def test_a_write_that_is_refused_leaves_what_is_there(open_sqlite: Open, made: Made, looks: list[object]) -> None:
    store = open_sqlite()
    save(store, made, 1)
    with pytest.raises(StoreConflict):
        save(store, made, 7)
    assert version(store) == 1


def test_of_other_rooms_nothing_is_kept(open_sqlite: Open, made: Made, looks: list[object]) -> None:
    store = open_sqlite()
    for _ in range(3):
        assert version(store, "box") == 0
    assert len(looks) == 6


def test_a_store_that_cannot_be_read_any_more_is_noticed(
    open_sqlite: Open, made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    def blind(*_: object, **__: object) -> None:
        raise StoreUnavailable("the disk is gone")

    now = time.monotonic()
    monkeypatch.setattr(standing.time, "monotonic", lambda: now)
    store = open_sqlite()
    assert version(store) == 0
    monkeypatch.setattr(SqliteReader, "row", blind)
    assert version(store) == 0
    now += standing.KEPT_S
    with pytest.raises(StoreUnavailable, match="the disk is gone"):
        store.row("key", "k")


def test_what_is_kept_is_bounded(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(standing, "_MOST", 3)
    data.mkdir()
    kept = Standing(data / "standing")
    for name in range(20):
        assert kept.read(name, lambda name=name: name) == name
        assert len(kept._kept) <= 3


def test_writes_go_on_whatever_stood_in_the_file(
    open_sqlite: Open, made: Made, data: Path, looks: list[object]
) -> None:
    open_sqlite().close()
    (data / "standing").write_bytes(b"\xff" * 8)
    store = open_sqlite()
    for number in range(1, 4):
        save(store, made, number)
        assert version(store) == number
        store.commit(made.unit("x")).result()
        assert version(store) == number


def test_a_store_that_is_closed_answers_nothing(open_sqlite: Open) -> None:
    store = open_sqlite()
    assert store.row("key", "k") is None
    store.close()
    with pytest.raises(StoreUnavailable, match="the store is closed"):
        store.row("key", "k")


def test_nobody_reads_a_version_older_than_one_that_was_committed_before_they_asked(
    open_sqlite: Open, made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(standing, "KEPT_S", 3600.0)
    stores = [open_sqlite(busy_s=30), open_sqlite(busy_s=30)]
    committed, stale, over = [0], list[tuple[int, int]](), threading.Event()

    def read(store: SqliteStore) -> None:
        while not over.is_set():
            least = committed[0]
            row = store.row("key", "k")
            if (row.version if row else 0) < least:
                stale.append((row.version if row else 0, least))

    readers = [threading.Thread(target=read, args=(store,)) for store in stores * 2]
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for reader in readers:
            reader.start()
        for number in range(1, 121):
            save(stores[number % 3 == 0], made, number)
            committed[0] = number
            stores[number % 2].commit(made.unit("x")).result()
    finally:
        over.set()
        for reader in readers:
            reader.join()
        sys.setswitchinterval(before)
    assert not stale

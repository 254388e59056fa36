"""What finds records by several filters: it always says what a plain walk says, in stores old and new."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import apsw
import pytest

from checkrein.model import StoreUnavailable
from checkrein.ports import RecordQuery, Unit
from checkrein.storage import shapes
from checkrein.storage.reader import SqliteReader
from checkrein.storage.sqlite import SqliteStore

Open = Callable[..., SqliteStore]
Made = Any

FILTERS: tuple[dict[str, Any], ...] = (
    *({"user": name} for name in ("alice", "bob", "nobody")),
    *({"outcome": name} for name in ("allow", "deny")),
    *({"policy": name} for name in ("p0", "p3", "p9")),
    {"kinds": ("decision",)},
    {"kinds": ("system.note", "decision", "never")},
    {"since_us": 1_900_000_000_000_000},
)
QUERIES = [{**one, **other} for one, other in combinations(({}, *FILTERS), 2)]


def write(store: SqliteStore, made: Made, count: int = 600) -> None:
    drafts = []
    for at in range(count):
        draft = made.decision(at, ("allow", "deny")[at % 7 == 0], user=("alice", "bob")[at % 3 == 0])
        draft.body["decision"]["policies"] = [f"p{at % 4}"]
        drafts.append(draft if at % 5 else made.draft(actor={"id": "alice"}))
    store.commit(Unit(tuple(drafts))).result()


def answers(reader: SqliteReader) -> list[list[int]]:
    return [
        [record.seq for record in reader.records(RecordQuery(**query, newest_first=newest, limit=limit))]
        for query in QUERIES
        for newest in (True, False)
        for limit in (0, 20, 300)
    ]


def aged(data: Path) -> None:
    """The file as the version before left it: without shapes, with the indexes it had."""
    raw = apsw.Connection(str(data / "ledger.db"))
    for table in ("shape", "shape_policy", "shaped"):
        raw.execute(f"DROP TABLE {table}")
    raw.execute("CREATE INDEX record_user ON record (user) WHERE user IS NOT NULL")
    raw.execute("CREATE INDEX record_ts ON record (ts_us)")
    raw.pragma("user_version", 1)
    raw.close()


def test_a_store_of_the_version_before_is_read_as_it_is_and_brought_up_to_date_when_opened(
    open_sqlite: Open, made: Made, data: Path
) -> None:
    store = open_sqlite()
    write(store, made)
    expected = answers(store)
    store.close()
    aged(data)
    reader = SqliteStore.open_readonly(data)
    assert answers(reader) == expected
    upgraded = open_sqlite()
    assert answers(upgraded) == answers(reader) == expected
    upgraded.commit(made.unit("x")).result()
    reader.close()
    raw = apsw.Connection(str(data / "ledger.db"))
    names = {name for (name,) in raw.execute("SELECT name FROM sqlite_schema WHERE type = 'index'")}
    raw.close()
    assert not {"record_user", "record_ts"} & names


def test_a_record_that_cannot_be_read_does_not_keep_a_store_from_being_brought_up_to_date(
    open_sqlite: Open, made: Made, data: Path
) -> None:
    store = open_sqlite()
    write(store, made, 4)
    store.close()
    raw = apsw.Connection(str(data / "ledger.db"))
    raw.execute("DROP TRIGGER record_stays")
    raw.execute("UPDATE record SET data = CAST('garbage' AS BLOB) WHERE seq = 2")
    raw.close()
    aged(data)
    again = open_sqlite()
    assert [record.seq for record in again.records(RecordQuery(kinds=("decision",)))] == [1, 2, 3]
    assert [record.seq for record in again.records(RecordQuery(policy="p2"))] == []


def test_with_very_many_shapes_the_answers_are_the_same(
    open_sqlite: Open, made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_sqlite()
    write(store, made)
    expected = answers(store)
    monkeypatch.setattr(shapes, "MOST", 3)
    assert answers(store) == expected


def test_a_writer_that_remembers_few_shapes_writes_the_same(
    open_sqlite: Open, made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shapes, "_REMEMBERED", 2)
    store = open_sqlite()
    write(store, made)
    found = [record.seq for record in store.records(RecordQuery(outcome="deny"))]
    assert found == [at for at in range(600) if at % 7 == 0 and at % 5]


def test_a_shape_that_was_not_written_is_forgotten(open_sqlite: Open, made: Made, data: Path) -> None:
    store = open_sqlite()
    raw = apsw.Connection(str(data / "ledger.db"))
    raw.execute("CREATE TRIGGER refuse BEFORE UPDATE ON head BEGIN SELECT RAISE(ABORT, 'no'); END")
    with pytest.raises(StoreUnavailable):
        store.commit(Unit((made.decision(1, "deny"),))).result()
    raw.execute("DROP TRIGGER refuse")
    raw.close()
    store.commit(Unit((made.decision(2, "allow"), made.decision(3, "deny")))).result()
    assert [record.seq for record in store.records(RecordQuery(outcome="deny"))] == [1]
    assert [record.seq for record in store.records(RecordQuery(outcome="allow"))] == [0]


def test_a_long_listing_is_of_one_moment(open_sqlite: Open, made: Made) -> None:
    store = open_sqlite()
    write(store, made)
    listing = store.records(RecordQuery(user="alice"))
    first = next(listing)
    write(store, made)
    assert max(record.seq for record in (first, *listing)) < 600

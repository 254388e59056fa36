"""Lists go by indexes; `audit verify --indexes` says when those no longer tell what the records hold."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import apsw
import pytest

from checkrein.compose import verify_ledger
from checkrein.ports import RecordQuery, Unit
from checkrein.storage import reader
from checkrein.storage.sqlite import SqliteStore

Made = Any


@pytest.fixture
def written(open_sqlite: Callable[..., SqliteStore], made: Made, data: Path) -> Path:
    """Twelve records; the last execution has no end."""
    store = open_sqlite()
    for at in range(4):
        store.commit(Unit((made.decision(at), made.execution(at, "started")))).result()
        if at < 3:
            store.commit(Unit((made.execution(at, "finished", status="ok"),))).result()
    store.close()
    return data


def change(data: Path, *statements: str) -> None:
    connection = apsw.Connection(str(data / "ledger.db"))
    connection.pragma("writable_schema", True)
    for statement in statements:
        connection.execute(statement)
    connection.close()


def hide_from_the_index(data: Path, seq: int) -> None:
    """Take the record out of the index of traces, and put it back into the table while the index looks away."""
    connection = apsw.Connection(str(data / "ledger.db"))
    found = connection.execute("SELECT rootpage, sql FROM sqlite_schema WHERE name = 'record_trace'")
    ((page, sql),) = found.fetchall()
    connection.close()
    trace = f"UPDATE record SET trace_id = {{}} WHERE seq = {seq}"  # noqa: S608 - a test's own numbers
    change(data, "DROP TRIGGER record_stays", trace.format("NULL"))
    change(data, "DELETE FROM sqlite_schema WHERE name = 'record_trace'")
    change(data, trace.format(f"'{1:032x}'"))
    change(
        data,
        f"INSERT INTO sqlite_schema VALUES ('index', 'record_trace', 'record', {page}, '{sql}')",  # noqa: S608
        "CREATE TRIGGER record_stays BEFORE UPDATE ON record BEGIN SELECT RAISE(ABORT, 'a record never changes'); END",
    )


def problems(data: Path, *, indexes: bool = True) -> tuple[str, ...]:
    return verify_ledger(data.parent, data=data, indexes=indexes).problems


def test_what_was_written_is_found_by_its_indexes(written: Path) -> None:
    assert problems(written) == ()


@pytest.mark.parametrize(
    ("hide", "query", "says"),
    [
        (hide_from_the_index, RecordQuery(trace_id=f"{1:032x}"), "missing from index record_trace"),
        (
            lambda data, seq: change(data, f"DELETE FROM shaped WHERE seq = {seq}"),  # noqa: S608
            RecordQuery(user="alice"),
            "record 3 is not found by lists",
        ),
        (
            lambda data, seq: change(data, f"UPDATE shaped SET shape = 2 WHERE seq = {seq}"),  # noqa: S608
            RecordQuery(user="alice"),
            "record 3 is not found by lists, or not by what it says",
        ),
    ],
)
def test_a_record_that_is_hidden_from_lists_is_noticed(
    hide: Callable[[Path, int], None], query: RecordQuery, says: str, written: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "_PAGE", 1)  # so few records would be walked through
    hide(written, 3)
    opened = SqliteStore.open_readonly(written)
    assert 3 not in [record.seq for record in opened.records(query)]  # this is what the tampering was for
    opened.close()
    assert problems(written, indexes=False) == ()
    (problem,) = problems(written)
    assert says in problem


@pytest.mark.parametrize(
    ("statement", "says"),
    [
        ("DROP INDEX record_approval", "`record_approval` in the database is missing"),
        ("INSERT INTO shape_policy VALUES ('p', 1)", "`shape_policy` in the database says not what `shape` says"),
        ("INSERT INTO shaped VALUES (1, 99)", "record 99 is listed twice, or is none"),
        ("INSERT INTO shaped VALUES (2, 0)", "record 0 is listed twice, or is none"),
        ("DROP TRIGGER record_remains", "`record_remains` in the database is missing"),
        ("DELETE FROM running", "record 10 is wrongly listed as running, or not listed"),
        ("INSERT INTO running VALUES ('evl_0', 1)", "record 1 is wrongly listed as running"),
        ("UPDATE running SET seq = 9", "record 9 is wrongly listed as running"),
    ],
)
def test_what_else_lists_go_by_is_checked(written: Path, statement: str, says: str) -> None:
    change(written, statement)
    assert any(says in problem for problem in problems(written))
    assert problems(written, indexes=False) == ()


def test_an_index_that_leaves_out_rows_is_not_the_one_that_was_made(written: Path) -> None:
    fewer = "CREATE INDEX record_trace ON record (trace_id) WHERE trace_id IS NOT NULL AND seq <> 3"
    change(written, "DROP INDEX record_trace", fewer)
    assert problems(written) == ("`record_trace` in the database is missing or not as it was made",)

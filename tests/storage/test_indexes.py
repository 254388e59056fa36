"""Lists go by indexes; `audit verify --indexes` says when those no longer tell what the records hold."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import apsw
import pytest

from checkrein.compose import verify_ledger
from checkrein.ports import RecordQuery, Unit
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
    """Take the record out of the index of users, and put it back into the table while the index looks away."""
    connection = apsw.Connection(str(data / "ledger.db"))
    found = connection.execute("SELECT rootpage, sql FROM sqlite_schema WHERE name = 'record_user'")
    ((page, sql),) = found.fetchall()
    connection.close()
    user = f"UPDATE record SET user = {{}} WHERE seq = {seq}"  # noqa: S608 - a test's own numbers
    change(data, "DROP TRIGGER record_stays", user.format("NULL"))
    change(data, "DELETE FROM sqlite_schema WHERE name = 'record_user'")
    change(data, user.format("'alice'"))
    change(
        data,
        f"INSERT INTO sqlite_schema VALUES ('index', 'record_user', 'record', {page}, '{sql}')",  # noqa: S608
        "CREATE TRIGGER record_stays BEFORE UPDATE ON record BEGIN SELECT RAISE(ABORT, 'a record never changes'); END",
    )


def problems(data: Path, *, indexes: bool = True) -> tuple[str, ...]:
    return verify_ledger(data.parent, data=data, indexes=indexes).problems


def test_what_was_written_is_found_by_its_indexes(written: Path) -> None:
    assert problems(written) == ()


def test_a_record_that_is_hidden_from_lists_is_noticed(written: Path) -> None:
    hide_from_the_index(written, 3)
    reader = SqliteStore.open_readonly(written)
    found = [record.seq for record in reader.records(RecordQuery(user="alice"))]
    reader.close()
    assert found == [0, 6, 9]  # this is what the tampering was for
    assert problems(written, indexes=False) == ()
    (problem,) = problems(written)
    assert "missing from index record_user" in problem


@pytest.mark.parametrize(
    ("statement", "says"),
    [
        ("DROP INDEX record_kind", "`record_kind` in the database is missing"),
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
    fewer = "CREATE INDEX record_user ON record (user) WHERE user IS NOT NULL AND seq <> 3"
    change(written, "DROP INDEX record_user", fewer)
    assert problems(written) == ("`record_user` in the database is missing or not as it was made",)

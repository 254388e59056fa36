"""Lists go by indexes; `audit verify --indexes` says when those no longer tell what the records hold."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import apsw
import pytest

from checkrein.compose import verify_ledger
from checkrein.ports import Unit
from checkrein.storage.sqlite import SqliteStore

Made = Any


@pytest.fixture
def written(open_sqlite: Callable[..., SqliteStore], made: Made, data: Path) -> Path:
    """Twelve records; the last execution has no end."""
    store = open_sqlite()
    for at in range(4):
        asked = {"id": "", "policies": ["mail-review", "no-secrets"]}
        store.commit(Unit((made.decision(at, approval=asked), made.execution(at, "started")))).result()
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


def problems(data: Path, *, indexes: bool = True) -> tuple[str, ...]:
    return verify_ledger(data.parent, data=data, indexes=indexes).problems


def test_what_was_written_is_found_by_its_indexes(written: Path) -> None:
    assert problems(written) == ()


def test_a_record_that_is_hidden_from_lists_is_noticed(written: Path) -> None:
    change(written, "DELETE FROM shaped WHERE seq = 3")
    assert problems(written, indexes=False) == ()
    assert problems(written) == ("record 3 is not listed under what it is",)


@pytest.mark.parametrize(
    ("statement", "says"),
    [
        ("DROP INDEX record_approval", "`record_approval` in the database is missing"),
        ("DROP TRIGGER record_remains", "`record_remains` in the database is missing"),
        ("UPDATE shape SET user = 'mallory'", "record 0 is not listed under what it is"),
        ("UPDATE shape SET policies = '[]'", "is not listed under what it is"),
        ("INSERT INTO shaped SELECT shape + 1, seq FROM shaped LIMIT 1", "record 0 is not listed under what it is"),
        ("DELETE FROM shape_policy", "policies are not listed under what they decided"),
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

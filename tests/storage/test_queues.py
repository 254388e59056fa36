"""Rows in an order of their own are found without looking at any other row, also in a store of the version before."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apsw
import pytest

from checkrein.ports import Row, Save, Unit
from checkrein.storage import queues
from checkrein.storage.sqlite import SqliteStore

Open = Callable[..., Any]


def fill(store: Any) -> None:
    bodies = [json.dumps({"created_us": 9 - at, "deadline_us": at}).encode() for at in range(9)]
    saves = [Save(Row("approval", f"apr_{at}", 1, "pending", "", body), 0) for at, body in enumerate(bodies)]
    store.commit(Unit(saves=tuple(saves))).result()


@pytest.mark.parametrize("by", queues.QUEUES["approval"])
def test_a_queue_is_read_from_its_index(open_sqlite: Open, data: Path, by: str) -> None:
    fill(open_sqlite())
    raw = apsw.Connection(str(data / "ledger.db"))
    sql = 'EXPLAIN QUERY PLAN SELECT * FROM "row" ' + queues.select("approval", by)  # noqa: S608 - no value from outside
    plan = [row[-1] for row in raw.execute(sql, ("pending", 0, 0, "", 5, 10))]
    raw.close()
    assert len(plan) == 1  # and nothing is sorted
    assert f"USING INDEX queue_approval_{by}" in plan[0]


def test_what_has_no_queue_is_refused() -> None:
    for room, by in (("approval", "version"), ("key", "created_us")):
        with pytest.raises(ValueError, match="are not listed by"):
            queues.select(room, by)


def test_a_store_of_the_version_before_is_read_as_it_is_and_gets_its_queues_when_opened(
    open_sqlite: Open, data: Path
) -> None:
    store = open_sqlite()
    fill(store)
    expected = [row.id for row in store.queue("approval", "pending", "created_us")]
    store.close()
    raw = apsw.Connection(str(data / "ledger.db"))
    for by in queues.QUEUES["approval"]:
        raw.execute(f"DROP INDEX queue_approval_{by}")
    raw.pragma("user_version", queues.SINCE_VERSION - 1)
    raw.close()
    reader = SqliteStore.open_readonly(data)
    assert [row.id for row in reader.queue("approval", "pending", "created_us")] == expected
    assert reader.index_problems() == []
    reader.close()
    upgraded = open_sqlite()
    assert [row.id for row in upgraded.queue("approval", "pending", "created_us")] == expected
    upgraded.close()
    raw = apsw.Connection(str(data / "ledger.db"))
    assert raw.execute("SELECT count(*) FROM sqlite_schema WHERE name LIKE 'queue_%'").get == 2
    raw.close()

"""What rows of the ledger's database held before they were overwritten is in none of its files."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apsw
import pytest

from checkrein.model import StoreUnavailable
from checkrein.ports import Row, Save, Unit
from checkrein.storage import scrub as module
from checkrein.storage.scrub import scrub
from checkrein.storage.sqlite import SqliteStore

SEEDS = range(40) if os.environ.get("CHECKREIN_DEEP") == "1" else [1]
Open = Callable[..., SqliteStore]


def secret(id: str) -> bytes:
    return f"what {id} asked for; ".encode()


@pytest.mark.parametrize("seed", SEEDS)
def test_no_older_version_of_a_row_is_left_in_any_file(open_sqlite: Open, data: Path, made: Any, seed: int):
    chance = random.Random(seed)  # noqa: S311 - which row grows and which shrinks
    store = open_sqlite()
    versions: dict[str, int] = {}

    def save(id: str, body: bytes) -> None:
        versions[id] = versions.get(id, 0) + 1
        row = Row("approval", id, versions[id], "open", f"by {id}", body)
        store.commit(Unit((made.draft(),), (Save(row, versions[id] - 1),))).result()

    ids = [f"apr_{chance.getrandbits(64):016x}" for _ in range(300)]
    for chances in (1.0, 0.7, 0.7, 0.7):
        for id in ids:
            if chance.random() < chances:
                save(id, secret(id) * chance.randint(1, 70))
    rows = {row.id: row for row in store.rows("approval", limit=1000)}
    gone = ids[::3]
    for id in gone:
        save(id, b"nothing")
    scrub(store.files.database)
    everything = b"".join(path.read_bytes() for path in data.rglob("*") if path.is_file())
    assert not [id for id in gone if secret(id) in everything]
    after = {row.id: row for row in store.rows("approval", limit=1000)}
    assert {id: row for id, row in after.items() if id not in gone} == {
        id: row for id, row in rows.items() if id not in gone
    }
    save(ids[0], b"and it goes on")
    assert store.head().size == sum(versions.values())


def test_a_reader_in_the_way_is_reported(open_sqlite: Open, made: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "PATIENCE_S", 0.05)
    store = open_sqlite()
    reader = apsw.Connection(str(store.files.database))
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM record").fetchall()
    store.commit(made.unit("x")).result()
    with pytest.raises(StoreUnavailable, match="reading"):
        scrub(store.files.database)
    reader.execute("ROLLBACK")
    reader.close()
    scrub(store.files.database)

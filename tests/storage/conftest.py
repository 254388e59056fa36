"""Stores to test, a clock to set, and drafts to write."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from checkrein.ledger import Draft
from checkrein.ports import Row, Save, Unit
from checkrein.storage.memory import MemoryStore
from checkrein.storage.sqlite import SqliteStore

BASE_US = 1_767_225_600_000_000


class FakeClock:
    def __init__(self) -> None:
        self.us = BASE_US

    def now_us(self) -> int:
        return self.us


class Made:
    """Short ways to say what a test writes."""

    @staticmethod
    def draft(kind: str = "system.note", trace: str = "", **body: object) -> Draft:
        return Draft(kind, trace, body)

    @staticmethod
    def decision(number: int, outcome: str = "allow", *, user: str = "alice", agent: str = "", **more: object) -> Draft:
        body = {
            "actor": {"type": "user", "id": user, "agent": agent},
            "action": {"name": "send_email", "resource": {"type": "tool", "id": "mail"}},
            "decision": {
                "evaluation_id": f"evl_{number}",
                "outcome": outcome,
                "risk": {"level": "amber", "score": 40, "factors": []},
                "reasons": ["because"],
            },
            "approval": {"id": ""},
            **more,
        }
        return Draft("decision", f"{number:032x}", body)

    @staticmethod
    def execution(number: int, kind: str, **more: object) -> Draft:
        return Draft(f"execution.{kind}", f"{number:032x}", {"evaluation_id": f"evl_{number}", **more})

    def unit(self, *kinds: str) -> Unit:
        return Unit(tuple(self.draft(kind) for kind in kinds))

    @staticmethod
    def save(
        id: str, version: int, *, room: str = "box", state: str = "open", lookup: str = "", body: bytes = b""
    ) -> Save:
        return Save(Row(room, id, version, state, lookup, body), version - 1)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def made() -> Made:
    return Made()


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def open_sqlite(data: Path, clock: FakeClock) -> Iterator[Callable[..., SqliteStore]]:
    """Opens stores on one data directory and closes them after the test. Checkpoints only at opening and closing."""
    opened: list[SqliteStore] = []

    def open_(where: Path = data, **options: object) -> SqliteStore:
        given: dict[str, object] = {"checkpoint_every_s": 3600, "checkpoint_every": 10**9, **options}
        opened.append(SqliteStore(where, clock, **given))  # type: ignore[arg-type]
        return opened[-1]

    yield open_
    for store in opened:
        store.close()


@pytest.fixture(params=["memory", "sqlite"])
def store(
    request: pytest.FixtureRequest, clock: FakeClock, open_sqlite: Callable[..., SqliteStore]
) -> MemoryStore | SqliteStore:
    return MemoryStore(clock) if request.param == "memory" else open_sqlite()

"""What was refused before it was an action: counted at once, recorded by the minute, and never in anybody's way."""

from __future__ import annotations

import pytest

from checkrein.ledger import Record
from checkrein.model import StoreUnavailable
from checkrein.pending import Pending
from checkrein.ports import RecordQuery
from checkrein.services.live import Live
from checkrein.services.refusals import MAX_RECORDS, WINDOW_US, Refusals
from checkrein.storage.memory import MemoryStore


class Clock:
    def __init__(self) -> None:
        self.us = 1_768_471_200_000_000

    def now_us(self) -> int:
        return self.us


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(clock: Clock) -> MemoryStore:
    return MemoryStore(clock)


@pytest.fixture
def refusals(store: MemoryStore, clock: Clock) -> Refusals:
    return Refusals(store, clock, Live())


def told(store: MemoryStore) -> list[tuple[str, str, int]]:
    """Reason, key and count of each record."""
    found = store.records(RecordQuery(kinds=("system.refused",)))
    return [(r.body["detail"]["reason"], r.body.get("caller", ""), r.body["detail"]["count"]) for r in found]


def test_of_a_reason_and_a_key_there_is_one_record_a_minute(store: MemoryStore, clock: Clock, refusals: Refusals):
    for _ in range(1000):
        refusals.note("key")
        refusals.note("bad_request", "key_1")
    refusals.tick()
    assert told(store) == []
    clock.us += WINDOW_US
    refusals.tick()
    refusals.tick()
    assert told(store) == [("bad_request", "key_1", 1000), ("key", "", 1000)]
    refusals.note("key")
    clock.us += WINDOW_US
    refusals.tick()
    assert told(store)[2:] == [("key", "", 1)]


def test_the_minute_begins_with_the_first_refusal(store: MemoryStore, clock: Clock, refusals: Refusals):
    clock.us += 10 * WINDOW_US
    refusals.note("host")
    refusals.tick()
    assert told(store) == []
    clock.us += WINDOW_US
    refusals.tick()
    (record,) = store.records(RecordQuery())
    assert record.body["detail"]["since_us"] == clock.us - WINDOW_US


def test_any_number_of_keys_makes_no_more_records_than_so_many(store: MemoryStore, refusals: Refusals):
    for number in range(3 * MAX_RECORDS):
        refusals.note("permission", f"key_{number}")
    refusals.flush()
    found = told(store)
    assert len(found) == MAX_RECORDS + 1
    assert sum(count for _, _, count in found) == 3 * MAX_RECORDS


def test_any_number_of_refusals_makes_two_lines_in_the_log(refusals: Refusals, caplog: pytest.LogCaptureFixture):
    for _ in range(100):
        refusals.note("origin")
    refusals.flush()
    assert caplog.messages == ["refused a request: origin", "refused 100 requests in a minute: origin"]


def test_what_the_store_does_not_take_is_told_once_it_does(
    store: MemoryStore, clock: Clock, refusals: Refusals, monkeypatch: pytest.MonkeyPatch
):
    full: Pending[tuple[Record, ...]] = Pending()
    full.set_exception(StoreUnavailable("the disk is full"))
    refusals.note("key")
    clock.us += WINDOW_US
    with monkeypatch.context() as patch:
        patch.setattr(store, "commit", lambda unit: full)
        refusals.tick()
        refusals.note("key")
        with pytest.raises(StoreUnavailable):
            refusals.flush()
    refusals.tick()
    assert told(store) == [("key", "", 2)]

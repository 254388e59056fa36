from __future__ import annotations

import threading

import pytest

from checkrein.model import StoreUnavailable
from checkrein.pending import Pending
from checkrein.storage import gather
from checkrein.storage.gather import Gathering


class Write:
    def __init__(self) -> None:
        self.future: Pending[None] = Pending()


@pytest.fixture
def gathering() -> Gathering[Write]:
    return Gathering("the store", "writes", limit=4)


def put(gathering: Gathering[Write], count: int) -> list[Write]:
    writes = [Write() for _ in range(count)]
    for write in writes:
        gathering.put(write)
    return writes


@pytest.fixture
def lingered(gathering: Gathering[Write], monkeypatch: pytest.MonkeyPatch) -> list[Write]:
    """What came while the thread waited for more: one write each time."""
    came: list[Write] = []
    monkeypatch.setattr(gather.time, "sleep", lambda _: came.extend(put(gathering, 1)))
    return came


def test_a_write_that_comes_alone_is_taken_at_once(gathering: Gathering[Write], lingered: list[Write]):
    for _ in range(3):
        alone = put(gathering, 1)
        assert gathering.take(most=10) == alone
    assert not lingered


def test_what_came_meanwhile_is_one_batch_in_order_and_not_more_than_is_wanted(gathering: Gathering[Write]):
    first, second, third = put(gathering, 3)
    assert gathering.take(most=2) == [first, second]
    assert gathering.take(most=2) == [third]


def test_where_several_come_the_thread_waits_a_moment_for_more(gathering: Gathering[Write], lingered: list[Write]):
    put(gathering, 2)
    gathering.take(most=10)
    alone = put(gathering, 1)
    assert gathering.take(most=10) == [*alone, *lingered]
    assert len(lingered) == 1


def test_where_nobody_else_came_it_waits_no_more(gathering: Gathering[Write], monkeypatch: pytest.MonkeyPatch):
    waits: list[float] = []
    monkeypatch.setattr(gather.time, "sleep", waits.append)
    for count in (2, 1, 1, 1):
        put(gathering, count)
        gathering.take(most=10)
    assert waits == [gather.LINGER_S]


def test_it_does_not_wait_for_more_than_enough(
    gathering: Gathering[Write], lingered: list[Write], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(gather, "ENOUGH", 2)
    for _ in range(2):
        put(gathering, 2)
        gathering.take(most=10)
    assert not lingered


def test_what_its_caller_gave_up_is_left_out(gathering: Gathering[Write]):
    given_up, wanted = put(gathering, 2)
    given_up.future.cancel()
    assert gathering.take(most=10) == [wanted]


def test_too_many_and_those_that_come_too_late_hear_why(gathering: Gathering[Write]):
    *taken, refused = put(gathering, 5)
    with pytest.raises(StoreUnavailable, match="too many writes are waiting"):
        refused.future.result(timeout=0)
    gathering.close()
    late = put(gathering, 1)[0]
    with pytest.raises(StoreUnavailable, match="the store is closed"):
        late.future.result(timeout=0)
    assert gathering.take(most=10) == taken
    assert gathering.take(most=10) == []


def test_a_thread_that_waits_is_woken_by_a_write_and_by_the_end(gathering: Gathering[Write]):
    batches: list[list[Write]] = []

    def run() -> None:
        while batch := gathering.take(most=10):
            batches.append(batch)
            for write in batch:
                write.future.set_result(None)

    thread = threading.Thread(target=run)
    thread.start()
    writes = [write for _ in range(3) for write in put(gathering, 1) if write.future.result(timeout=30) is None]
    gathering.close()
    thread.join(30)
    assert not thread.is_alive()
    assert batches == [[write] for write in writes]

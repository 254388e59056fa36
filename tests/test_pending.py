"""What a durable write comes to, told to whoever waits."""

from __future__ import annotations

import sys
import threading
from concurrent.futures import CancelledError, ThreadPoolExecutor

import pytest

from checkrein.model import StoreUnavailable
from checkrein.pending import Pending


@pytest.fixture
def hasty() -> object:
    """Threads take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def test_a_thread_that_waits_gets_what_was_written() -> None:
    write: Pending[int] = Pending()
    with ThreadPoolExecutor(8) as pool:
        waiting = [pool.submit(write.result, 30) for _ in range(8)]
        write.set_result(7)
        assert [each.result() for each in waiting] == [7] * 8
    assert write.done()
    assert write.exception() is None


def test_a_refusal_is_raised_for_each_who_asks() -> None:
    write: Pending[int] = Pending()
    write.set_exception(StoreUnavailable("the disk is full"))
    for _ in range(2):
        with pytest.raises(StoreUnavailable, match="the disk is full"):
            write.result()
    assert not write.cancelled()


def test_who_will_not_wait_longer_hears_that_it_is_not_over_and_may_ask_again() -> None:
    write: Pending[int] = Pending()
    with pytest.raises(TimeoutError):
        write.result(timeout=0)
    write.set_result(1)
    assert write.result(timeout=0) == 1


def test_what_is_given_up_is_not_claimed_and_what_is_claimed_not_given_up() -> None:
    given_up: Pending[int] = Pending()
    claimed: Pending[int] = Pending()
    assert given_up.cancel()
    assert not given_up.claim()
    with pytest.raises(CancelledError):
        given_up.result()
    assert claimed.claim()
    assert claimed.running()
    assert not claimed.cancel()
    claimed.set_result(1)
    assert (claimed.result(), claimed.running(), claimed.cancelled()) == (1, False, False)


def test_one_that_fails_to_hear_keeps_none_of_the_others_from_it(caplog: pytest.LogCaptureFixture) -> None:
    write: Pending[int] = Pending()
    heard: list[int] = []
    for call in (lambda done: heard.append(done.result()), lambda _: 1 / 0, lambda done: heard.append(done.result())):
        write.add_done_callback(call)
    write.set_result(3)
    assert heard == [3, 3]
    assert "ZeroDivisionError" in caplog.text


def test_everybody_hears_once_however_the_end_and_their_asking_meet(hasty: None) -> None:
    heard: list[int] = []
    for number in range(2000):
        write: Pending[int] = Pending()
        start = threading.Barrier(2)

        def end(write: Pending[int] = write, start: threading.Barrier = start, number: int = number) -> None:
            start.wait()
            write.set_result(number)

        writer = threading.Thread(target=end)
        writer.start()
        start.wait()
        write.add_done_callback(lambda done: heard.append(done.result()))
        write.add_done_callback(lambda done: heard.append(done.result()))
        writer.join()
    assert heard == [number for number in range(2000) for _ in range(2)]

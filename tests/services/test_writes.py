"""Waiting for durable writes from an event loop."""

from __future__ import annotations

import asyncio
import threading

import pytest

from checkrein.model import StoreUnavailable
from checkrein.pending import Pending
from checkrein.services.writes import landed


async def test_every_caller_gets_its_own_answer_however_many_end_at_once() -> None:
    writes: list[Pending[int]] = [Pending() for _ in range(500)]
    writes[0].set_result(0)  # one that is over already
    waiting = [landed(write) for write in writes]

    def commit() -> None:
        for number, write in enumerate(writes[1:], start=1):
            write.set_result(number)

    writer = threading.Thread(target=commit)
    writer.start()
    assert await asyncio.gather(*waiting) == list(range(500))
    writer.join()


async def test_a_refusal_reaches_the_caller() -> None:
    write: Pending[int] = Pending()
    waiting = landed(write)
    write.set_exception(StoreUnavailable("the disk is full"))
    with pytest.raises(StoreUnavailable, match="the disk is full"):
        await waiting


async def test_a_caller_that_goes_away_does_not_take_the_write_with_it() -> None:
    write: Pending[int] = Pending()

    async def call() -> int:
        return await landed(write)

    caller = asyncio.ensure_future(call())
    await asyncio.sleep(0)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert not write.cancelled()
    other = landed(write)
    write.set_result(7)
    assert await other == 7


async def test_a_write_that_was_given_up_cancels_who_waits_for_it() -> None:
    write: Pending[int] = Pending()
    waiting = landed(write)
    write.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting


def test_each_loop_hears_of_its_own_writes_and_one_that_has_ended_of_none() -> None:
    late: Pending[int] = Pending()

    async def leave() -> None:
        landed(late)

    async def stay() -> int:
        write: Pending[int] = Pending()
        threading.Timer(0, write.set_result, (1,)).start()
        return await landed(write)

    asyncio.run(leave())
    late.set_result(0)
    assert [asyncio.run(stay()), asyncio.run(stay())] == [1, 1]

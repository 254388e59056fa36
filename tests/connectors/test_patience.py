from __future__ import annotations

import asyncio

import pytest

from checkrein.connectors.patience import within


async def test_what_need_not_wait_sets_no_timer(monkeypatch: pytest.MonkeyPatch):
    def refused(seconds: float) -> None:
        raise AssertionError("a timer was set")

    async def at_once() -> int:
        return 1

    monkeypatch.setattr(asyncio, "timeout", refused)
    assert await within(30, at_once()) == 1


async def test_what_waits_in_time_goes_on_as_if_nobody_watched():
    async def soon() -> list[int]:
        await asyncio.sleep(0)
        with pytest.raises(ZeroDivisionError):
            await failing()
        return [1]

    async def failing() -> None:
        await asyncio.sleep(0)
        raise ZeroDivisionError

    assert await within(30, soon()) == [1]
    with pytest.raises(ZeroDivisionError):
        await within(30, failing())


async def test_what_waits_too_long_is_cancelled_and_may_clean_up():
    cleaned: list[str] = []

    async def never() -> None:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            await asyncio.sleep(0)
            cleaned.append("up")

    with pytest.raises(TimeoutError):
        await within(0.01, never())
    assert cleaned == ["up"]


async def test_a_caller_that_is_cancelled_takes_it_along():
    begun = asyncio.Event()
    ended: list[str] = []

    async def never() -> None:
        begun.set()
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise

    task = asyncio.ensure_future(within(30, never()))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended == ["cancelled"]

"""A limit to waiting that costs nothing where nobody waits: what can go on at once never sets a timer."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Generator
from types import coroutine
from typing import Any, TypeVar

T = TypeVar("T")


async def within(seconds: float, awaited: Coroutine[Any, Any, T]) -> T:
    """What is awaited; raises `TimeoutError` when it is waited for longer, as `asyncio.timeout` does."""
    try:
        waiting = awaited.send(None)
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]
    async with asyncio.timeout(seconds):
        return await _rest(awaited, waiting)


@coroutine
def _rest(awaited: Coroutine[Any, Any, T], waiting: object) -> Generator[object, object, T]:
    """The rest of a coroutine that has begun and waits for this."""
    try:
        while True:
            try:
                sent = yield waiting
            except BaseException as error:  # noqa: BLE001 - a cancellation too is for what is awaited
                waiting = awaited.throw(error)
            else:
                waiting = awaited.send(sent)
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]

"""The two drivers of steps: a generator that yields the future of each durable write, and is sent what came of it.

Decision 001 says why the steps of an action are written once for both.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Generator
from typing import TypeVar, cast

from checkrein.ledger import Record
from checkrein.model import CheckreinError, StoreUnavailable
from checkrein.pending import Pending
from checkrein.services.writes import landed

T = TypeVar("T")
Write = Pending[tuple[Record, ...]] | Pending[None]
Steps = Generator[Write, object, T]


def wait(steps: Steps[T]) -> T:
    """Run the steps, waiting for each durable write in this thread."""
    try:
        future = next(steps)
        while True:
            try:
                written = future.result()
            except Exception as error:  # noqa: BLE001 - handed to the steps, which decide what it means
                future = steps.throw(error)
            else:
                future = steps.send(written)
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]


class Driver:
    """Runs steps in the event loop. Keeps what goes on after its caller has left."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Future[None]] = set()

    async def run(self, steps: Steps[T], abandoned: Callable[[T], Steps[None]] | None = None) -> T:
        """Run the steps, awaiting each durable write.

        A caller that goes away does not stop them: they go on by themselves, and `abandoned` makes the steps that
        follow for what nobody waits for any more.
        """
        try:
            future = next(steps)
            while True:
                try:
                    written = await landed(cast("Pending[object]", future))
                except asyncio.CancelledError:
                    self._leave(_going_on(steps, future, abandoned))
                    raise
                except Exception as error:  # noqa: BLE001 - handed to the steps, which decide what it means
                    future = steps.throw(error)
                else:
                    future = steps.send(written)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]

    def _leave(self, steps: Steps[None]) -> None:
        task = asyncio.ensure_future(self.run(steps))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _going_on(
    steps: Steps[T],
    future: Write,
    then: Callable[[T], Steps[None]] | None,
) -> Steps[None]:
    """The rest of steps that wait for this write; nobody hears how they end."""
    try:
        while True:
            try:
                written = yield future
            except Exception as error:  # noqa: BLE001 - handed to the steps, which decide what it means
                future = steps.throw(error)
            else:
                future = steps.send(written)
    except StopIteration as end:
        if then:
            with contextlib.suppress(StoreUnavailable):  # recovery writes `execution.unknown`
                yield from then(end.value)
    except CheckreinError:
        return

"""Callers of a running server: people with a key each, who see which version answered them."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import msgspec

from checkrein.compose import SystemClock
from checkrein.flow.rollout import Rollout, State, on_canary
from checkrein.ledger import Record
from checkrein.ports import RecordQuery
from checkrein.services.arms import ROOM
from checkrein.services.keys import Keys
from checkrein.storage.files import DataDir
from checkrein.storage.sqlite import SqliteStore
from fakes import FakeModel

#: how long anything that a server does by itself is waited for
PATIENCE_S = 60.0
#: how many ask at once
AT_ONCE = 8


class Answered(NamedTuple):
    """An answer that arrived whole: whose, by which version, and under which trace."""

    caller: str
    version: str
    trace_id: str


def speaking(name: str) -> FakeModel:
    """A fake model whose answer is its own name."""
    model = FakeModel()
    message = {"role": "assistant", "content": name}
    model.answer = json.dumps({"id": "1", "choices": [{"index": 0, "message": message}]}).encode()
    return model


def until(true: Callable[[], bool], what: str) -> None:
    """Wait for what a server does by itself."""
    deadline = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < deadline, f"in vain: {what}"
        time.sleep(0.02)


class Ledger:
    """What the store of a running server says, read beside it."""

    def __init__(self, folder: Path) -> None:
        self.files = DataDir(folder / ".checkrein")

    def rollout(self, id: str = "") -> Rollout:
        with closing(SqliteStore.open_readonly(self.files)) as reader:
            rows = [reader.row(ROOM, id)] if id else reader.rows(ROOM)
        (row,) = rows
        assert row is not None
        return row.read(Rollout)

    def records(self, *kinds: str, after_seq: int = -1) -> list[Record]:
        with closing(SqliteStore.open_readonly(self.files)) as reader:
            return list(reader.records(RecordQuery(kinds=kinds, after_seq=after_seq)))

    def callers(self, rollout: Rollout, each: Mapping[int, int]) -> dict[str, str]:
        """New callers with their keys: so many that come onto the canary just at each of these percents."""
        names = [name for percent, count in each.items() for name in self._names(rollout, percent, count)]
        with closing(SqliteStore(self.files, SystemClock())) as store:
            keys = Keys(store, SystemClock())
            return {name: keys.create(name, by="tests")[1] for name in names}

    def _names(self, rollout: Rollout, percent: int, count: int) -> Iterable[str]:
        plan = (0, *rollout.plan.stages)
        before = plan[plan.index(percent) - 1]
        named = (f"caller-{percent}-{number}" for number in itertools.count())
        found = (n for n in named if self.on_canary(rollout, n, percent) and not self.on_canary(rollout, n, before))
        return itertools.islice(found, count)

    def on_canary(self, rollout: Rollout, name: str, percent: int) -> bool:
        """Whether a caller is on the canary when it has this share of the traffic."""
        plan = msgspec.structs.replace(rollout.plan, stages=(percent,))
        live = msgspec.structs.replace(rollout, plan=plan, state=State.LIVE, stage=1)
        return on_canary(live, f"subject:user:{name}", self.files.commitment_key())


def ask(
    url: str, keys: Mapping[str, str], times: int = 1, told: Callable[[Answered], None] = lambda answered: None
) -> list[Answered]:
    """Every caller asks so often, some of them at once; the answers that arrived whole. `told` hears each at once."""
    return asyncio.run(_ask(url, [*keys.items()] * times, told))


async def _ask(url: str, asking: list[tuple[str, str]], told: Callable[[Answered], None]) -> list[Answered]:
    answered: list[Answered] = []
    waiting = iter(asking)

    async def worker(http: aiohttp.ClientSession) -> None:
        for name, key in waiting:
            body = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
            headers = {"authorization": f"Bearer {key}"}
            try:
                async with http.post("/v1/chat/completions", json=body, headers=headers) as reply:
                    said: Any = json.loads(await reply.read())
            except aiohttp.ClientError:
                continue  # the server was gone: nothing was acknowledged
            version = said["choices"][0]["message"]["content"] if reply.status == 200 else str(reply.status)
            answered.append(Answered(name, version, reply.headers["x-checkrein-trace-id"]))
            told(answered[-1])

    async with aiohttp.ClientSession(url) as http:
        await asyncio.gather(*(worker(http) for _ in range(AT_ONCE)))
    return answered

"""Another upstream stands in before the first byte, and never where something may have run twice."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from checkrein.compose import System, open_system
from checkrein.config import UpstreamConfig
from checkrein.model import NotFound, UpstreamUnavailable, UpstreamUnreachable
from checkrein.ports import RecordQuery, Reply
from checkrein.web import routes as module
from checkrein.web.routes import Route, Routes
from checkrein.web.server import BackgroundServer
from fakes import FakeModel, chunk

GONE = UpstreamUnreachable("nobody there")
LOST = UpstreamUnavailable("broke off")


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAUSE_S", 0.0)


class Said:
    def __init__(self, status: int) -> None:
        self.status = status
        self.headers: Mapping[str, str] = {}
        self.closed = False

    async def body(self) -> AsyncIterator[bytes]:
        yield b""

    async def close(self) -> None:
        self.closed = True


class FakeUpstream:
    """Answers what it is told to, one after another."""

    def __init__(self, name: str, *answers: int | UpstreamUnavailable) -> None:
        self.name = name
        self.answers = list(answers)
        self.replies: list[Said] = []

    async def send(self, path: str, body: bytes, headers: Mapping[str, str]) -> Reply:
        answer = self.answers.pop(0)
        if isinstance(answer, UpstreamUnavailable):
            raise answer
        self.replies.append(Said(answer))
        return self.replies[-1]

    async def get(self, path: str, headers: Mapping[str, str]) -> Reply:
        return Said(404)

    async def close(self) -> None:
        pass


def routes(*upstreams: FakeUpstream, agent: bool = False, retries: int = 0) -> Routes:
    first, *others = upstreams
    fallback = tuple(other.name for other in others)
    made = {first.name: Route(upstream=first, agent=agent, retries=retries, fallback=fallback)}
    return Routes(made | {other.name: Route(upstream=other, agent=agent, retries=retries) for other in others})


async def tried(given: Routes) -> tuple[int, list[str]]:
    sent = await given.send("a", "/x", lambda route: b"", {})
    return sent.reply.status, list(sent.tried)


@pytest.mark.parametrize(
    ("agent", "retries", "first", "second", "status", "order"),
    [
        (False, 0, [200], [], 200, "a"),
        (False, 0, [GONE], [200], 200, "ab"),
        (False, 0, [LOST], [200], 200, "ab"),
        (False, 1, [GONE, 200], [], 200, "aa"),
        (False, 1, [503, 429], [500, 200], 200, "aabb"),
        (False, 0, [400], [], 400, "a"),
        (False, 0, [401], [], 401, "a"),
        (False, 0, [503], [503], 503, "ab"),
        (True, 1, [GONE, GONE], [200], 200, "aab"),
        (True, 1, [503], [], 503, "a"),
    ],
)
async def test_who_is_tried_in_which_order(
    agent: bool, retries: int, first: list[Any], second: list[Any], status: int, order: str
):
    a, b = FakeUpstream("a", *first), FakeUpstream("b", *second)
    assert await tried(routes(a, b, agent=agent, retries=retries)) == (status, list(order))
    assert not a.answers
    assert not b.answers
    *passed, last = a.replies + b.replies
    assert all(reply.closed for reply in passed)
    assert not last.closed


@pytest.mark.parametrize(
    ("agent", "first", "second", "unreachable"),
    [
        (False, GONE, GONE, True),
        (False, LOST, GONE, False),
        (False, 503, GONE, False),
        (False, GONE, LOST, False),
        (True, LOST, 200, False),
    ],
)
async def test_only_where_nothing_was_ever_sent_it_is_said_that_nothing_ran(
    agent: bool, first: Any, second: Any, unreachable: bool
):
    with pytest.raises(UpstreamUnavailable) as raised:
        await tried(routes(FakeUpstream("a", first), FakeUpstream("b", second), agent=agent))
    assert isinstance(raised.value, UpstreamUnreachable) == unreachable


def test_a_model_that_nobody_serves_is_not_found():
    with pytest.raises(NotFound):
        Routes({"a": Route(upstream=FakeUpstream("a"), models=("gpt-*",))}).serving("claude")


@pytest.fixture
def second() -> FakeModel:
    return FakeModel()


@pytest.fixture
def system(folder: Path, model_url: str, second: FakeModel) -> Iterator[System]:
    with BackgroundServer(second) as other:
        upstreams = {
            "one": UpstreamConfig(base_url=f"{model_url}/v1", fallback=("two",), retries=0, idle_timeout=0.3),
            "two": UpstreamConfig(base_url=f"{other.url}/v1", models=(), aliases={"m": "other-m"}),
        }
        opened = open_system(folder, upstreams=upstreams)
        yield opened
        opened.close()


async def test_the_stand_in_gets_the_model_under_its_own_name_and_the_record_says_who_answered(
    system: System, server: str, key: str, model: FakeModel, second: FakeModel
):
    model.status = 503
    async with aiohttp.ClientSession(server, headers={"authorization": f"Bearer {key}"}) as http:
        body = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
        async with http.post("/v1/chat/completions", json=body) as reply:
            assert reply.status == 200
    assert json.loads(model.raw[0]) == body
    assert second.bodies == [{**body, "model": "other-m"}]
    *_, last = system.store.records(RecordQuery())
    assert (last.body["detail"]["upstream"], last.body["detail"]["tried"]) == ("two", ["one", "two"])


async def test_once_a_byte_of_an_answer_came_nobody_is_asked_again(
    system: System, server: str, key: str, model: FakeModel, second: FakeModel
):
    model.stream, model.falls_silent = [chunk({"content": "so far "})], True
    async with aiohttp.ClientSession(server, headers={"authorization": f"Bearer {key}"}) as http:
        body = {"model": "m", "stream": True, "messages": [{"role": "user", "content": "hi"}]}
        async with http.post("/v1/chat/completions", json=body) as reply:
            said = await reply.read()
    assert b"broken_stream" in said
    assert (model.calls, second.calls) == (1, 0)
    *_, last = system.store.records(RecordQuery())
    assert (last.body["status"], last.body["detail"]["upstream"]) == ("failed", "one")

"""Each governed action as a span, as a real collector gets it, and what a broken collector costs: nothing."""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from checkrein import Governor
from checkrein.compose import System, open_system
from checkrein.config import UpstreamConfig
from checkrein.connectors import otel
from checkrein.model import Action, ConfigError, Permission, Request, Resource, Subject
from checkrein.ports import RecordQuery, Span
from checkrein.services.mapping import FIELDS, SPAN
from checkrein.services.spans import TraceParent
from checkrein.web.server import BackgroundServer
from fakes import FakeModel, completion
from otlp_collector import Collector

DOC = Path(__file__).parents[2] / "docs/telemetry.md"
CHAT = "/v1/chat/completions"
TRACE, CALLER = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
TRACEPARENT = f"00-{TRACE}-{CALLER}-01"


def body(text: str, **more: object) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": text}], **more}


def tool(name: str = "read_file", agent: str = "bot", **input: object) -> Request:
    action = Action(name, {"input": input or {"path": "a-very-secret-path.csv"}})
    return Request(Subject("user", "alice"), action, Resource("tool", name), {"agent": {"id": agent}})


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as running:
        yield running


@pytest.fixture
def traced(folder: Path, model_url: str, collector: Collector) -> Iterator[System]:
    """A system that is to tell this collector."""
    opened = told_of(folder, collector.url, {"fake": UpstreamConfig(base_url=f"{model_url}/v1")})
    yield opened
    opened.close()


def told_of(folder: Path, url: str, upstreams: dict[str, UpstreamConfig] | None = None, **telemetry: object) -> System:
    flags = {f"telemetry.{name}": value for name, value in {"endpoint": url, **telemetry}.items()}
    return open_system(folder, flags=flags, upstreams=upstreams or {}, variables={"OTLP_HEADERS": "x-team=a%20b,k=v"})


@contextmanager
def serving(system: System) -> Iterator[Callable[..., Any]]:
    """While the block runs, prompts can be sent; when it ends, every span has been told."""
    _, secret = system.keys.create("alice", agent="bot", permissions=tuple(Permission), by="tests")
    with system.tracing(), BackgroundServer(system.app()) as running:

        async def send(sent: dict[str, Any], path: str = CHAT, **headers: str) -> tuple[str, Any]:
            given = {"authorization": f"Bearer {secret}", **headers}
            async with aiohttp.ClientSession(running.url) as http, http.post(path, json=sent, headers=given) as reply:
                return reply.headers["x-checkrein-trace-id"], await reply.json()

        yield send


async def test_a_prompt_is_a_span_between_its_callers_and_its_upstreams(
    traced: System, collector: Collector, model: FakeModel
):
    model.answer = model.answer[:-1] + b',"usage":{"prompt_tokens":9,"completion_tokens":4,"total_tokens":13}}'
    with serving(traced) as send:
        trace_id, _ = await send(body("what is the airspeed of a swallow"), traceparent=TRACEPARENT)
    (span,) = collector.spans
    assert (span.name, span.kind, span.scope, span.failed) == ("chat m", "CLIENT", "checkrein", False)
    assert (span.trace_id, span.parent, trace_id) == (TRACE, CALLER, TRACE)
    assert model.headers[0]["traceparent"] == f"00-{TRACE}-{span.id}-01"
    (decided,) = traced.store.records(RecordQuery(kinds=("decision",), trace_id=TRACE))
    assert span.attributes == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "fake",
        "gen_ai.request.model": "m",
        "gen_ai.agent.id": "bot",
        "gen_ai.usage.input_tokens": 9,
        "gen_ai.usage.output_tokens": 4,
        "checkrein.mode": "run",
        "checkrein.evaluation_id": decided.body["decision"]["evaluation_id"],
        "checkrein.outcome": "allow",
        "checkrein.policies": ["ask-models"],
        "checkrein.risk.level": "green",
        "checkrein.risk.score": decided.body["decision"]["risk"]["score"],
        "checkrein.status": "ok",
    }
    assert 0 < span.began <= span.ended
    assert collector.paths == ["/v1/traces"]
    assert collector.resource["service.name"] == "checkrein"
    assert collector.resource["deployment.environment.name"] == "test"


async def test_without_a_caller_that_traces_the_trace_begins_here(
    traced: System, collector: Collector, model: FakeModel
):
    with serving(traced) as send:
        trace_id, _ = await send(body("hi"))
    (span,) = collector.spans
    assert (span.trace_id, span.parent) == (trace_id, "")
    assert model.headers[0]["traceparent"] == f"00-{trace_id}-{span.id}-01"


async def test_each_tool_call_that_is_answered_is_a_span_under_the_prompts(
    traced: System, collector: Collector, model: FakeModel
):
    model.answer = completion(("read_file", {"path": "a"}), ("transfer_funds", {"to": "eve", "amount": 7}))
    with serving(traced) as send:
        await send(body("hi"))
    spans = {span.name: span for span in collector.spans}
    chat = spans.pop("chat m")
    assert {name: span["checkrein.outcome"] for name, span in spans.items()} == {
        "execute_tool read_file": "allow",
        "execute_tool transfer_funds": "deny",
    }
    assert {(span.trace_id, span.parent, span.kind) for span in spans.values()} == {
        (chat.trace_id, chat.id, "INTERNAL")
    }
    refused = spans["execute_tool transfer_funds"]
    assert (refused["checkrein.policies"], refused["checkrein.mode"]) == (["no-transfers"], "ask")


async def test_neither_prompts_nor_arguments_nor_people_are_told(
    traced: System, collector: Collector, model: FakeModel
):
    model.answer = completion(("read_file", {"path": "a-path-nobody-knows"}), content="an answer, to jane@example.com")
    with serving(traced) as send:
        await send(body("a prompt from jane@example.com"))
        await send({"subject": {"type": "user", "id": "alice"}, "action": {"name": "read_file"},
                    "resource": {"type": "file", "id": "alices-diary"}}, "/access/v1/evaluation")  # fmt: skip
        traced.gateway.evaluate_sync(tool(agent="jane@example.com"), caller="tests")
    assert len(collector.spans) == 4
    told = b"".join(collector.raw)
    for secret in (b"jane", b"alice", b"prompt from", b"answer", b"nobody-knows", b"diary", b"very-secret"):
        assert secret not in told
    assert {name for span in collector.spans for name in span.attributes} <= set(SPAN)


async def test_what_people_must_approve_names_the_approval_and_is_no_failure(traced: System, collector: Collector):
    with serving(traced) as send:
        _, answer = await send(body("send an email"))
    (span,) = collector.spans
    assert (span["checkrein.outcome"], span.failed, span.kind) == ("require_review", False, "INTERNAL")
    assert span["checkrein.approval.id"] == answer["error"]["approval_id"]
    assert span["checkrein.status"] is None


async def test_a_held_prompt_has_a_span_for_each_time_it_is_decided(
    folder: Path, collector: Collector, model: FakeModel, model_url: str
):
    (folder / "checkrein.toml").write_text((folder / "checkrein.toml").read_text().replace("hold = 0", "hold = 600"))
    system = told_of(folder, collector.url, {"fake": UpstreamConfig(base_url=f"{model_url}/v1")})
    try:
        with serving(system) as send:
            held = asyncio.ensure_future(send(body("send an email"), traceparent=TRACEPARENT))
            async with asyncio.timeout(30):
                while not (asked := system.approvals.all()) or not system.waiting.listeners:
                    await asyncio.sleep(0.005)
            system.approvals.vote(
                asked[0].id, voter="bob", roles=("finance",), approve=True, reason="looked", auth="local"
            )
            await held
    finally:
        system.close()
    asked_for, ran = collector.spans
    assert (asked_for["checkrein.outcome"], ran["checkrein.outcome"]) == ("require_review", "allow")
    assert (asked_for["checkrein.approval.id"], ran["checkrein.status"]) == (asked[0].id, "ok")
    assert {(span.trace_id, span.parent) for span in (asked_for, ran)} == {(TRACE, CALLER)}


async def test_what_an_agent_gateway_asks_about_in_a_turn_stands_under_its_prompt(traced: System, collector: Collector):
    action = Action("prompt", {"input": body("hi")})
    prompt = Request(Subject("user", "alice"), action, Resource("model", "m"))
    with traced.tracing():
        async with traced.gateway.action(prompt, caller="tests") as governed:
            turn = Subject("turn", traced.gateway.turn(governed).handle)
            asked = Request(turn, Action("read_file", {"input": {"path": "a"}}), Resource("tool", "read_file"))
            elsewhere = TraceParent("ab" * 16, "cd" * 8)
            await traced.gateway.evaluate(asked, caller="tests", parent=elsewhere)
    call, chat = collector.spans
    assert (call.trace_id, call.parent) == (chat.trace_id, chat.id)


async def test_an_upstream_that_fails_is_a_span_that_failed(folder: Path, collector: Collector):
    system = told_of(folder, collector.url, {"gone": UpstreamConfig(base_url="http://127.0.0.1:9/v1")})
    try:
        with serving(system) as send:
            await send(body("hi"))
    finally:
        system.close()
    (span,) = collector.spans
    assert (span.failed, span["checkrein.status"], span["error.type"]) == (True, "failed", "UpstreamUnreachable")


@pytest.mark.parametrize(("ratio", "given", "told"), [(1.0, "00", 0), (1.0, "01", 1), (0.0, "01", 1), (0.0, "", 0)])
async def test_a_caller_says_whether_its_trace_is_sampled_and_the_ratio_says_so_of_others(
    folder: Path, collector: Collector, model: FakeModel, model_url: str, ratio: float, given: str, told: int
):
    upstreams = {"fake": UpstreamConfig(base_url=f"{model_url}/v1")}
    system = told_of(folder, collector.url, upstreams, sample_ratio=ratio)
    try:
        with serving(system) as send:
            headers = {"traceparent": f"00-{TRACE}-{CALLER}-{given}"} if given else {}
            await send(body("hi"), **headers)
    finally:
        system.close()
    assert len(collector.spans) == told
    assert model.headers[0]["traceparent"].endswith(f"-0{told}")


def test_what_is_told_to_the_collector_comes_with_the_configured_headers(folder: Path, collector: Collector):
    system = told_of(folder, collector.url + "/v1/traces/", headers_env="OTLP_HEADERS")
    with system.tracing():
        system.gateway.evaluate_sync(tool(), caller="tests")
    system.close()
    assert collector.paths == ["/v1/traces"]
    assert (collector.headers[0]["x-team"], collector.headers[0]["k"]) == ("a b", "v")


def test_functions_that_are_governed_in_a_process_are_told_of_too(folder: Path, collector: Collector):
    with (folder / "checkrein.toml").open("a") as file:
        file.write(f'\n[telemetry]\nendpoint = "{collector.url}"\n')
    with Governor.open(folder) as governor:

        @governor.governed(tool="read_file", subject="alice")
        def read_file(path: str) -> str:
            return path

        @governor.governed(tool="read_file", subject="alice")
        def broken(path: str) -> str:
            raise KeyError(path)

        assert read_file("a") == "a"
        with pytest.raises(KeyError):
            broken("a")
    fine, failed = collector.spans
    assert (fine.name, fine.kind, fine["checkrein.status"]) == ("execute_tool read_file", "INTERNAL", "ok")
    assert (failed.failed, failed["error.type"]) == (True, "KeyError")


# --- a collector that is not there ---------------------------------------------------------------------------------


async def test_a_collector_that_is_gone_costs_no_request_anything(
    folder: Path, model: FakeModel, model_url: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(otel, "FLUSH_S", 0.05)
    system = told_of(folder, "http://127.0.0.1:9", {"fake": UpstreamConfig(base_url=f"{model_url}/v1")})
    try:
        with serving(system) as send:
            for _ in range(3):
                assert (await send(body("hi")))[1]["choices"]
    finally:
        system.close()
    assert model.calls == 3


def test_at_its_end_a_collector_that_does_not_answer_is_not_waited_for(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr(otel, "FLUSH_S", 0.05)
    with Collector(hangs=True) as collector:
        system = told_of(folder, collector.url)
        with system.tracing():
            system.gateway.evaluate_sync(tool(), caller="tests")
        assert not collector.answers  # it still hangs, and the block has ended
        system.close()
    assert "did not take the last spans in time" in caplog.text


def test_the_queue_is_bounded_and_drops_the_oldest(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(otel, "QUEUE", 4)
    monkeypatch.setattr(otel, "BATCH", 1)
    with Collector(hangs=True) as collector:
        tracer = otel.OtlpTracer(f"{collector.url}/v1/traces", {}, environment="test")
        tracer.tell(made(1))
        assert collector.asked.wait(30)  # the first is on its way
        for number in range(2, 100):
            tracer.tell(made(number))
        collector.go_on()
        tracer.close()
    assert [int(span.id, 16) for span in collector.spans] == [1, 96, 97, 98, 99]


def made(number: int) -> Span:
    return Span(name="chat m", trace_id=TRACE, span_id=f"{number:016x}", began_ns=number, ended_ns=number)


def test_without_the_extra_it_is_a_plain_error_that_says_what_to_install(
    traced: System, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(sys.modules, "checkrein.connectors.otel", None)
    with pytest.raises(ConfigError, match="needs OpenTelemetry") as caught, traced.tracing():
        pytest.fail("it must not begin")
    assert 'pip install "checkrein[otel]"' in caught.value.hint


@pytest.mark.parametrize("value", ["bearer s3cret", "authorization=Bearer\ns3cret", "=s3cret", "a b=s3cret"])
def test_headers_that_are_none_are_an_error_that_shows_none_of_them(folder: Path, collector: Collector, value: str):
    flags = {"telemetry.endpoint": collector.url, "telemetry.headers_env": "OTLP_HEADERS"}
    system = open_system(folder, flags=flags, upstreams={}, variables={"OTLP_HEADERS": value})
    with pytest.raises(ConfigError, match="OTLP_HEADERS") as caught, system.tracing():
        pytest.fail("it must not begin")
    system.close()
    assert "s3cret" not in str(caught.value) + caught.value.hint


def test_where_nothing_is_configured_nothing_is_told(system: System):
    with system.tracing():
        assert system.spans.tracer is None
        system.gateway.evaluate_sync(tool(), caller="tests")


# --- the words -----------------------------------------------------------------------------------------------------


def test_every_attribute_of_a_span_stands_in_the_one_table_and_in_the_documentation():
    assert set(SPAN) <= {to.name for row in FIELDS for to in row.otel}
    documented = re.findall(r"^\| `((?:gen_ai|checkrein|error)\.[\w.]+)` \|", DOC.read_text(), re.MULTILINE)
    assert documented == list(SPAN)

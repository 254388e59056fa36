"""What is asked of Checkrein for a tool call, and what counts as a yes."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from checkrein.demo.agent import UNAVAILABLE, ToolCall, Verdict
from checkrein.demo.pdp import PdpClient
from checkrein.web.server import BackgroundServer

CALL = ToolCall(
    name="transfer_funds",
    args={"to": "ACME", "amount": 900},
    call_id="call_1",
    run_id="run-1",
    user="handle-1",
    session_key="agent:main:openai-user:handle-1",
    traceparent="00-" + "1" * 32 + "-" + "2" * 16 + "-01",
)


async def ask(
    answer: Callable[[Request], Awaitable[Response]], call: ToolCall = CALL, *, timeout_s: float = 3.0
) -> Verdict:
    app = Starlette(routes=[Route("/access/v1/evaluation", answer, methods=["POST"])])
    with BackgroundServer(app) as server:
        return await PdpClient(f"{server.url}/", "the-key", timeout_s=timeout_s)(call)


def saying(body: object, status: int = 200) -> Callable[[Request], Awaitable[Response]]:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()

    async def answer(request: Request) -> Response:
        return Response(data, status)

    return answer


async def test_the_question_is_an_authzen_evaluation_for_the_person_behind_the_turn() -> None:
    asked: list[tuple[object, str, str]] = []

    async def note(request: Request) -> Response:
        headers = request.headers
        asked.append((await request.json(), headers["authorization"], headers["traceparent"]))
        return Response(b'{"decision": true}')

    assert await ask(note) == Verdict(allowed=True)
    assert asked == [
        (
            {
                "subject": {"type": "turn", "id": "handle-1"},
                "action": {"name": "transfer_funds", "properties": {"input": {"to": "ACME", "amount": 900}}},
                "resource": {"type": "tool", "id": "transfer_funds"},
                "context": {
                    "agent": {"id": "main"},
                    "session": "agent:main:openai-user:handle-1",
                    "supported_obligations": [],
                },
            },
            "Bearer the-key",
            CALL.traceparent,
        )
    ]


async def test_without_a_user_the_agent_speaks_for_itself() -> None:
    subjects: list[object] = []

    async def note(request: Request) -> Response:
        subjects.append((await request.json())["subject"])
        return Response(b'{"decision": true}')

    call = ToolCall(name="a", args={}, call_id="c", run_id="r", user="", session_key="s", traceparent="")
    await ask(note, call)
    assert subjects == [{"type": "agent", "id": "embedded"}]


async def test_a_denial_carries_its_reasons_and_the_safe_alternative() -> None:
    context = {
        "outcome": "deny",
        "reasons": ["agents move no money", "outside working hours"],
        "advice": [{"type": "safe_alternative", "text": "draft the transfer"}],
    }
    verdict = await ask(saying({"decision": False, "context": context}))
    assert not verdict.allowed
    assert not verdict.requires_approval
    assert verdict.message == "agents move no money; outside working hours; instead: draft the transfer"


async def test_a_review_says_that_an_approval_is_needed() -> None:
    context = {"outcome": "require_review", "reasons": ["two approvers"]}
    verdict = await ask(saying({"decision": False, "context": context}))
    assert (verdict.allowed, verdict.requires_approval, verdict.message) == (False, True, "two approvers")


async def test_a_denial_without_reasons_still_says_something() -> None:
    assert (await ask(saying({"decision": False}))).message == "denied by policy"


async def test_a_yes_with_a_duty_that_nobody_here_can_do_is_a_no() -> None:
    context = {"obligations": [{"id": "redact:pii-out", "type": "custom"}]}
    verdict = await ask(saying({"decision": True, "context": context}))
    assert not verdict.allowed
    assert "obligation" in verdict.message


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"decision": True}, 500),
        ({"decision": True}, 401),
        ({"decision": True}, 201),
        ({"decision": "true"}, 200),
        ({"decision": 1}, 200),
        ({"decision": None}, 200),
        ({}, 200),
        ([True], 200),
        ({"decision": True, "context": []}, 200),
        (b"", 200),
        (b"true", 200),
        (b'{"decision": false, "decision": true}', 200),
        (b'{"decision": true', 200),
    ],
)
async def test_anything_but_a_clear_answer_blocks(body: object, status: int) -> None:
    assert await ask(saying(body, status)) == UNAVAILABLE


async def test_a_redirect_is_not_followed() -> None:
    async def away(request: Request) -> Response:
        return RedirectResponse("/access/v1/evaluation", 307)

    assert await ask(away) == UNAVAILABLE


async def test_nobody_listening_blocks() -> None:
    assert await PdpClient("http://127.0.0.1:1", "the-key")(CALL) == UNAVAILABLE


async def test_an_answer_that_does_not_come_in_time_blocks() -> None:
    async def never(request: Request) -> Response:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        return Response()

    assert await ask(never, timeout_s=0.2) == UNAVAILABLE

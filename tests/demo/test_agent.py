"""An agent turn: no tool runs without a verdict that says so."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from checkrein.demo import agent as agent_module
from checkrein.demo import model
from checkrein.demo.agent import MAX_ROUNDS, Agent, BlockedError, DecideTool, Run, ToolCall, Verdict
from checkrein.demo.model import Completion, Proposal, Usage
from checkrein.demo.tools import Sandbox, ToolError

RUN = Run(run_id="run-1", user="handle-1", session_key="agent:main:openai-user:handle-1", traceparent="00-a-b-01")
TRANSFER = [{"role": "user", "content": "Transfer 900 to ACME"}]


@pytest.fixture
def sandbox(tmp_path: Path) -> Sandbox:
    return Sandbox(tmp_path)


async def allow(call: ToolCall) -> Verdict:
    return Verdict(allowed=True)


async def test_an_allowed_call_runs_and_is_reported(sandbox: Sandbox) -> None:
    answer = await Agent(sandbox, allow).answer(TRANSFER, RUN)
    assert answer.text == "Done: 900 sent to ACME (transfer-1)."
    assert sandbox.runs["transfer_funds"] == 1


async def test_the_decision_point_sees_the_whole_call(sandbox: Sandbox) -> None:
    calls: list[ToolCall] = []

    async def note(call: ToolCall) -> Verdict:
        calls.append(call)
        return Verdict(allowed=True)

    await Agent(sandbox, note).answer(TRANSFER, RUN)
    (call,) = calls
    assert (call.name, call.args) == ("transfer_funds", {"to": "ACME", "amount": 900})
    assert call.call_id.startswith("call_")
    assert (call.run_id, call.user, call.session_key, call.traceparent) == (
        RUN.run_id,
        RUN.user,
        RUN.session_key,
        RUN.traceparent,
    )


async def test_a_blocked_call_does_not_run_and_the_answer_says_why(sandbox: Sandbox) -> None:
    async def block(call: ToolCall) -> Verdict:
        return Verdict(allowed=False, message="two finance approvers above 1,000")

    answer = await Agent(sandbox, block).answer(TRANSFER, RUN)
    assert "governance: two finance approvers above 1,000" in answer.text
    assert set(sandbox.runs.values()) == {0}
    assert not sandbox.transfers.exists()


async def test_rewritten_arguments_are_the_ones_that_run(sandbox: Sandbox) -> None:
    async def rewrite(call: ToolCall) -> Verdict:
        return Verdict(allowed=True, args={"to": "ACME", "amount": 1})

    await Agent(sandbox, rewrite).answer(TRANSFER, RUN)
    assert json.loads(sandbox.transfers.read_text())["amount"] == 1


async def broken(call: ToolCall) -> Verdict:
    raise RuntimeError("the decision point fell over")


async def hanging(call: ToolCall) -> Verdict:
    await asyncio.Event().wait()
    raise AssertionError("unreachable")


async def nonsense(call: ToolCall) -> Verdict:
    return "allow"  # type: ignore[return-value]


async def truthy(call: ToolCall) -> Verdict:
    return Verdict(allowed="no")  # type: ignore[arg-type]


@pytest.mark.parametrize("decide", [broken, hanging, nonsense])
async def test_without_a_verdict_nothing_runs(
    sandbox: Sandbox, decide: DecideTool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agent_module, "DECIDE_TIMEOUT_S", 0.05)
    answer = await Agent(sandbox, decide).answer(TRANSFER, RUN)
    assert "governance: PDP unavailable (fail closed)" in answer.text
    assert set(sandbox.runs.values()) == {0}


async def test_only_a_true_yes_allows(sandbox: Sandbox) -> None:
    with pytest.raises(BlockedError):
        await Agent(sandbox, truthy).call_tool("send_email", {}, "call_1", RUN)


async def test_a_call_that_fails_is_told_to_the_model(sandbox: Sandbox) -> None:
    answer = await Agent(sandbox, allow).answer([{"role": "user", "content": "Run `curl evil`"}], RUN)
    assert "`shell` did not work. error: the command is not on the allow-list" in answer.text


async def test_an_unknown_tool_is_an_error_even_when_allowed(sandbox: Sandbox) -> None:
    with pytest.raises(ToolError, match="there is no tool `format_disk`"):
        await Agent(sandbox, allow).call_tool("format_disk", {}, "call_1", RUN)


async def test_what_the_model_saw_is_kept_word_for_word(sandbox: Sandbox) -> None:
    messages = [{"role": "user", "content": "Write to <EMAIL_1>, that it is done"}]
    await Agent(sandbox, allow).answer(messages, RUN)
    (line,) = sandbox.model_input.read_text().splitlines()
    assert json.loads(line) == {"run_id": "run-1", "messages": messages}


async def test_a_tool_result_is_seen_by_the_model_in_the_next_round(sandbox: Sandbox) -> None:
    await Agent(sandbox, allow).answer(TRANSFER, RUN)
    first, second = (json.loads(line)["messages"] for line in sandbox.model_input.read_text().splitlines())
    assert first == TRANSFER
    assert [message["role"] for message in second] == ["user", "assistant", "tool"]
    assert second[1]["tool_calls"][0]["id"] == second[2]["tool_call_id"]


async def test_usage_adds_up_over_the_model_calls(sandbox: Sandbox) -> None:
    answer = await Agent(sandbox, allow).answer(TRANSFER, RUN)
    seen = [json.loads(line)["messages"] for line in sandbox.model_input.read_text().splitlines()]
    assert answer.usage == sum((model.complete(messages).usage for messages in seen), Usage())


async def test_a_model_that_never_stops_is_stopped(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    def restless(messages: object) -> Completion:
        return Completion("", (Proposal("send_email", {"to": "a", "subject": "b", "body": "c"}),), Usage())

    monkeypatch.setattr(model, "complete", restless)
    answer = await Agent(sandbox, allow).answer(TRANSFER, RUN)
    assert answer.text == f"I stopped after {MAX_ROUNDS} rounds of tool calls."
    assert sandbox.runs["send_email"] == MAX_ROUNDS


async def test_a_turn_cancelled_while_it_waits_for_a_verdict_runs_nothing(sandbox: Sandbox) -> None:
    asked = asyncio.Event()

    async def slow(call: ToolCall) -> Verdict:
        asked.set()
        return await hanging(call)

    turn = asyncio.create_task(Agent(sandbox, slow).answer(TRANSFER, RUN))
    await asked.wait()
    turn.cancel()
    with pytest.raises(asyncio.CancelledError):
        await turn
    assert set(sandbox.runs.values()) == {0}

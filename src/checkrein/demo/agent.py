"""One agent turn: the model proposes, `decide_tool` decides, the sandbox runs, the model answers.

No tool runs without a verdict that says `allowed`. A decision point that fails, hangs or answers nonsense
blocks the call.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence

import msgspec

from checkrein.demo import model
from checkrein.demo.model import Proposal, Usage
from checkrein.demo.tools import Sandbox, ToolError
from checkrein.model import CheckreinError
from checkrein.model.json import dumps

MAX_ROUNDS = 4
#: how long a decision may take, as in the OpenClaw Gateway's hook; then the call is blocked
DECIDE_TIMEOUT_S = 15.0


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """Whose turn it is: `user` as the caller sent it, its session, and the W3C trace it is part of."""

    run_id: str
    user: str
    session_key: str
    traceparent: str


class ToolCall(msgspec.Struct, frozen=True, kw_only=True):
    """One tool call about to run, as the decision point sees it."""

    name: str
    args: dict[str, object]
    call_id: str
    run_id: str
    user: str
    session_key: str
    traceparent: str


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """Run it (with `args` in place of the proposed ones, if given), or not and why."""

    allowed: bool
    message: str = ""
    args: dict[str, object] | None = None
    requires_approval: bool = False


DecideTool = Callable[[ToolCall], Awaitable[Verdict]]

#: the verdict when there is none
UNAVAILABLE = Verdict(allowed=False, message="PDP unavailable (fail closed)")


class BlockedError(CheckreinError):
    """The decision point blocked a tool call; it did not run."""

    def __init__(self, verdict: Verdict) -> None:
        super().__init__(
            model.BLOCKED + verdict.message, hint="ask for an approval" if verdict.requires_approval else ""
        )
        self.requires_approval = verdict.requires_approval


class Answer(msgspec.Struct, frozen=True):
    """The last text of a turn, and the words that all its model calls took."""

    text: str
    usage: Usage


class Agent:
    """The model, the tools and the decision point between them."""

    def __init__(self, sandbox: Sandbox, decide_tool: DecideTool) -> None:
        self._sandbox = sandbox
        self._decide_tool = decide_tool

    async def answer(self, messages: Sequence[Mapping[str, object]], run: Run) -> Answer:
        """Run a turn to its end. At most `MAX_ROUNDS` model calls; after that it says that it stopped."""
        seen = list(messages)
        usage = Usage()
        for _ in range(MAX_ROUNDS):
            await asyncio.to_thread(self._sandbox.note_model_input, run.run_id, list(seen))
            completion = model.complete(seen)
            usage += completion.usage
            if not completion.proposals:
                return Answer(completion.text, usage)
            for proposal in completion.proposals:
                seen += await self._round(proposal, run)
        return Answer(f"I stopped after {MAX_ROUNDS} rounds of tool calls.", usage)

    async def call_tool(self, name: str, args: dict[str, object], call_id: str, run: Run) -> dict[str, object]:
        """Decide one call and run it; raises `BlockedError` or `ToolError`."""
        call = ToolCall(
            name=name,
            args=args,
            call_id=call_id,
            run_id=run.run_id,
            user=run.user,
            session_key=run.session_key,
            traceparent=run.traceparent,
        )
        verdict = await self._verdict(call)
        if verdict.allowed is not True:
            raise BlockedError(verdict)
        return await asyncio.to_thread(self._sandbox.run, name, args if verdict.args is None else verdict.args)

    async def _round(self, proposal: Proposal, run: Run) -> list[Mapping[str, object]]:
        call_id = f"call_{uuid.uuid4().hex}"
        try:
            content = dumps(await self.call_tool(proposal.name, proposal.args, call_id, run)).decode()
        except BlockedError as error:
            content = str(error)
        except ToolError as error:
            content = model.FAILED + str(error)
        function = {"name": proposal.name, "arguments": dumps(proposal.args).decode()}
        return [
            {"role": "assistant", "tool_calls": [{"id": call_id, "type": "function", "function": function}]},
            {"role": "tool", "tool_call_id": call_id, "content": content},
        ]

    async def _verdict(self, call: ToolCall) -> Verdict:
        try:
            async with asyncio.timeout(DECIDE_TIMEOUT_S):
                verdict: object = await self._decide_tool(call)
        except Exception:  # noqa: BLE001 - whatever went wrong, no verdict means that nothing runs
            return UNAVAILABLE
        return verdict if isinstance(verdict, Verdict) else UNAVAILABLE

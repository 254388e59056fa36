"""Asks a Checkrein whether a tool call may run, by AuthZEN; anything but a clear yes blocks."""

from __future__ import annotations

import aiohttp

from checkrein.demo.agent import UNAVAILABLE, ToolCall, Verdict
from checkrein.model import BadRequest
from checkrein.model.json import dumps, load_object


class PdpClient:
    """A `decide_tool` for the embedded gateway. `key` must be one that may ask for decisions.

    The `user` of a call is the handle that Checkrein put there for the person behind the turn; without it the
    agent speaks for itself. No obligation is supported, so a decision that carries one blocks.
    """

    def __init__(self, checkrein_url: str, key: str, *, timeout_s: float = 3.0) -> None:
        self._url = checkrein_url.rstrip("/") + "/access/v1/evaluation"
        self._key = key
        self._timeout = aiohttp.ClientTimeout(total=timeout_s)

    async def __call__(self, call: ToolCall) -> Verdict:
        headers = {"authorization": f"Bearer {self._key}", "content-type": "application/json"}
        if call.traceparent:
            headers["traceparent"] = call.traceparent
        try:
            async with (
                aiohttp.ClientSession(timeout=self._timeout, trust_env=False) as session,
                session.post(self._url, data=dumps(_evaluation(call)), headers=headers, allow_redirects=False) as reply,
            ):
                if reply.status != 200:
                    return UNAVAILABLE
                return _verdict(load_object(await reply.read()))
        except (aiohttp.ClientError, TimeoutError, BadRequest):
            return UNAVAILABLE


def _evaluation(call: ToolCall) -> dict[str, object]:
    subject = {"type": "turn", "id": call.user} if call.user else {"type": "agent", "id": "embedded"}
    return {
        "subject": subject,
        "action": {"name": call.name, "properties": {"input": call.args}},
        "resource": {"type": "tool", "id": call.name},
        "context": {"agent": {"id": "main"}, "session": call.session_key, "supported_obligations": []},
    }


def _verdict(answer: dict[str, object]) -> Verdict:
    decision, context = answer.get("decision"), answer.get("context", {})
    if not (isinstance(decision, bool) and isinstance(context, dict)):
        return UNAVAILABLE
    if decision and context.get("obligations"):
        return Verdict(allowed=False, message="the decision carries an obligation that is not supported here")
    if decision:
        return Verdict(allowed=True)
    reasons, advice = context.get("reasons"), context.get("advice")
    said = [str(reason) for reason in reasons] if isinstance(reasons, list) else []
    if isinstance(advice, list):
        said += [f"instead: {item['text']}" for item in advice if isinstance(item, dict) and "text" in item]
    return Verdict(
        allowed=False,
        message="; ".join(said) or "denied by policy",
        requires_approval=context.get("outcome") == "require_review",
    )

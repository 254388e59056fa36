"""The OpenClaw Gateway's own words: what its plugin tells, and what its events say."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta

from checkrein.connectors.openai import Prompt
from checkrein.model import (
    Action,
    ApprovalRequired,
    BadRequest,
    Caller,
    Denied,
    Permission,
    Request,
    Resource,
    Subject,
    UpstreamUnreachable,
)
from checkrein.model.json import dumps, load_object
from checkrein.model.request import TOOL
from checkrein.ports import Reply, Upstream
from checkrein.services.reconcile import Call
from checkrein.services.turns import TURN

Name = Annotated[str, Meta(min_length=1, max_length=200)]
Id = Annotated[str, Meta(max_length=512)]
#: tools that bear the name of an action group: policies know them as the plugin names them
NAMES = {"read": "read_file", "write": "write_file"}
#: how the gateway tells its model in which session it is
_SESSION = re.compile(r"\| session=agent:[^\s|]{1,200}:(turn_[0-9a-f]{48}) \|")
Said = TypeVar("Said", bound=msgspec.Struct)


class Beat(msgspec.Struct, frozen=True):
    """The plugin is there."""

    gateway: Name
    plugin: Annotated[str, Meta(max_length=40)] = ""
    interval_ms: int = 0


class Result(msgspec.Struct, frozen=True):
    """What became of a call that Checkrein decided."""

    gateway: Name
    call: Id
    status: Literal["ok", "failed", "blocked"]
    run: Id = ""
    duration_ms: Annotated[int, Meta(ge=0, le=10**12)] = 0


class Asked(msgspec.Struct, frozen=True):
    """What the plugin says of the call it asks about, in `context.openclaw` of an evaluation."""

    gateway: Name
    tool: Id = ""
    call: Id = ""
    run: Id = ""


class Invoke(msgspec.Struct, frozen=True, rename="camel"):
    """A tool called over HTTP. What else a caller may write there, its session above all, is dropped."""

    tool: Annotated[str, Meta(max_length=200)] = ""
    name: Annotated[str, Meta(max_length=200)] = ""
    action: str | None = None
    args: dict[str, Any] = {}
    agent_id: Annotated[str, Meta(pattern="^[a-z0-9][a-z0-9_-]{0,63}$")] = "main"

    def request(self, key: Caller, gateway: str) -> Request:
        """The action that is asked for, as the plugin will name it too; it is that of one gateway and agent there."""
        tool = self.name or self.tool
        tool = NAMES.get(tool, tool)
        context: dict[str, object] = {"agent": {"id": key.agent}} if key.agent else {}
        where = {"gateway": gateway, "agent": self.agent_id}
        return Request(key.subject(), Action(tool, {"input": self._input()}), Resource(TOOL, tool, where), context)

    def body(self, input: Mapping[str, object], handle: str) -> bytes:
        """What goes to the gateway, in the session of the turn."""
        session = f"agent:{self.agent_id}:openai-user:{handle}"
        return dumps({"tool": self.name or self.tool, "args": dict(input), "sessionKey": session})

    def _input(self) -> dict[str, Any]:
        """The gateway would add the action to the arguments; here it is done before policy sees them."""
        return self.args if self.action is None else {"action": self.action, **self.args}


def read_invoke(data: bytes) -> Invoke:
    """Read a call of `/tools/invoke`; raises `BadRequest` in words for its sender."""
    found = _convert(load_object(data), Invoke, hint='send `{"tool": "...", "args": {...}}`')
    if not (found.name or found.tool):
        raise BadRequest("`tool` is missing", hint='send `{"tool": "...", "args": {...}}`')
    return found


def refusal(error: Denied | ApprovalRequired) -> dict[str, object]:
    """A denial in the gateway's own words, with the decision beside it."""
    message = f"{error} ({error.hint})" if error.hint else str(error)
    waits = isinstance(error, ApprovalRequired)
    told: dict[str, object] = {"type": "tool_call_blocked", "message": message, "requiresApproval": waits}
    if isinstance(error, ApprovalRequired):
        told["approval_id"] = error.approval_id
    return {"ok": False, "error": told, "checkrein": error.decision.to_json()["context"]}


class WatchedUpstream:
    """A gateway that gets nothing while `refusal` says why not."""

    def __init__(self, upstream: Upstream, refusal: Callable[[str], str]) -> None:
        self._upstream = upstream
        self._refusal = refusal

    @property
    def name(self) -> str:
        return self._upstream.name

    async def send(self, path: str, body: bytes, headers: Mapping[str, str]) -> Reply:
        self._check()
        return await self._upstream.send(path, body, headers)

    async def get(self, path: str, headers: Mapping[str, str]) -> Reply:
        self._check()
        return await self._upstream.get(path, headers)

    def _check(self) -> None:
        if refused := self._refusal(self.name):
            raise UpstreamUnreachable(refused, hint="`checkrein openclaw status` says how the gateways stand")

    async def close(self) -> None:
        await self._upstream.close()


def read(data: bytes, kind: type[Said]) -> Said:
    """A body of the plugin; raises `BadRequest` that names members and types, never values."""
    return _convert(load_object(data), kind)


def asked(context: Mapping[str, object]) -> Asked | None:
    """What an evaluation says of the gateway that asks; None when it comes from elsewhere."""
    return _convert(context["openclaw"], Asked) if "openclaw" in context else None


class Seen(msgspec.Struct, frozen=True):
    """A tool call as the gateway's events show it; `ran` is None while it goes on."""

    call: Call
    ran: bool | None


def seen(event: object) -> Seen | None:
    """What a `session.tool` event shows; None for every other event, and for what says nothing new."""
    if not isinstance(event, dict) or event.get("event") != "session.tool":
        return None
    payload = event.get("payload")
    data = payload.get("data") if isinstance(payload, dict) else None
    if not isinstance(payload, dict) or not isinstance(data, dict):
        return None
    run, call, tool = payload.get("runId", ""), data.get("toolCallId"), data.get("name")
    if not (isinstance(run, str) and isinstance(call, str) and isinstance(tool, str)):
        return None
    found = Call(run=run, call=call, tool=tool)
    if data.get("phase") == "start":
        return Seen(found, None)
    return Seen(found, not _blocked(data)) if data.get("phase") == "result" else None


def in_turn(chat: Prompt, key: Caller) -> Prompt:
    """A model call of a gateway's agent, on behalf of the turn it belongs to; any other chat as it is.

    The agent's session stands in the message it was prompted with, and in the session the turn's handle. Only a key
    that may `decide` is believed, and only a handle that is open names a person.
    """
    if Permission.DECIDE not in key.permissions:
        return chat
    messages = chat.request.action.input.get("messages", ())
    for message in reversed(messages):
        match = _SESSION.search(text_of(message)) if message.get("role") == "user" else None
        if match:
            request = msgspec.structs.replace(chat.request, subject=Subject(TURN, match[1]))
            return msgspec.structs.replace(chat, request=request)
    return chat


def text_of(message: Mapping[str, object]) -> str:
    """The text of a chat message."""
    content = message.get("content")
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else ()
    return "\n".join(str(part.get("text", "")) for part in parts if isinstance(part, dict))


def _blocked(data: Mapping[str, object]) -> bool:
    """Whether the gateway says that the call was stopped before it began; a tool alone cannot say so."""
    result = data.get("result")
    details = result.get("details") if isinstance(result, dict) else None
    if data.get("isError") is not True or not isinstance(details, dict):
        return False
    return details.get("status") == "blocked" and isinstance(details.get("deniedReason"), str)


def _convert(
    value: object, kind: type[Said], *, hint: str = "run the plugin that `checkrein openclaw setup` writes"
) -> Said:
    try:
        return msgspec.convert(value, kind, strict=True)
    except msgspec.ValidationError as error:
        message = str(error)
        raise BadRequest(
            f"the message is not in form: {message[:1].lower()}{message[1:]}",
            hint=hint,
        ) from error

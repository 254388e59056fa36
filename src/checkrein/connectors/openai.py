"""The OpenAI protocol: chat completions in, a `Request` out, answers and errors in OpenAI's words.

A prompt is the action `prompt` on the resource `model`; its input is the body without what only steers the
transport (`stream`, `stream_options`, `user`), so that asking for a stream does not make it another action. Nothing
that policy has not seen may hide there: stream options are true or false, and `user`, which the caller merely
claims, goes no further.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from fnmatch import fnmatchcase

import msgspec

from checkrein.model import (
    Action,
    ApprovalRequired,
    BadRequest,
    Caller,
    CheckreinError,
    Denied,
    IdempotencyConflict,
    Killed,
    MethodNotAllowed,
    NotFound,
    Request,
    Resource,
    RouteNotFound,
    StoreUnavailable,
    Unauthorized,
    UpstreamUnavailable,
)
from checkrein.model.json import load_object
from checkrein.model.request import PROMPT

#: members of the body that are not part of the action
TRANSPORT = ("stream", "stream_options", "user")
#: types of tools that the caller runs itself: its calls are decided when the model answers them
CALLERS_TOOLS = ("function", "custom")
_OPTION = re.compile("[a-z_]{1,40}")
_encode = msgspec.json.Encoder().encode


class Prompt(msgspec.Struct, frozen=True):
    """What is asked of a model: the action, and what steers the transport."""

    request: Request
    transport: dict[str, object]
    body: bytes

    @property
    def model(self) -> str:
        return self.request.resource.id

    @property
    def stream(self) -> bool:
        return self.transport.get("stream") is True

    def hosted(self) -> list[tuple[str, dict[str, object]]]:
        """The tools that the upstream is asked to run itself, each with how it is set up."""
        given = self.request.action.input
        tools = given.get("tools")
        found = [
            (str(tool.get("type")), {name: item for name, item in tool.items() if name != "type"})
            for tool in (tools if isinstance(tools, list) else ())
            if isinstance(tool, dict) and tool.get("type") not in CALLERS_TOOLS
        ]
        search = given.get("web_search_options")
        return found if search is None else [*found, ("web_search", search if isinstance(search, dict) else {})]


def named_model(value: dict[str, object]) -> str:
    model = value.get("model")
    if not isinstance(model, str) or not model or len(model) > 256:
        raise BadRequest("`model` is missing or not text", hint="name a model; `/v1/models` lists them")
    return model


def no_messages(value: dict[str, object]) -> None:
    """What the user asks for stands in one place only."""
    if "messages" in value:
        raise BadRequest("`messages` has no place here", hint="send it as `input`, or to `/v1/chat/completions`")


def check_stream(value: dict[str, object]) -> None:
    """Nothing may hide in what steers the transport, which policies do not see."""
    stream = value.get("stream")
    if stream is not None and not isinstance(stream, bool):
        raise BadRequest("`stream` is not true or false", hint="send true or false")
    options = value.get("stream_options")
    if options and not (
        isinstance(options, dict)
        and all(_OPTION.fullmatch(name) and isinstance(option, bool) for name, option in options.items())
    ):
        raise BadRequest("`stream_options` holds more than true or false", hint='send `{"include_usage": true}`')


def prompt(body: bytes, value: dict[str, object], model: str, key: Caller, *, endpoint: str = "") -> Prompt:
    """The prompt of the owner of `key`. Where it is not for chat completions, `endpoint` says what for: the same body
    is another action elsewhere, and needs another approval."""
    tools = value.get("tools")
    if tools is not None and not (isinstance(tools, list) and all(isinstance(tool, dict) for tool in tools)):
        raise BadRequest("`tools` is not a list of objects", hint='send `[{"type": "function", ...}]`')
    content = value.copy()
    transport = {name: content.pop(name) for name in TRANSPORT if name in content}
    context: dict[str, object] = {"agent": {"id": key.agent}} if key.agent else {}
    properties: dict[str, object] = {"input": content, "endpoint": endpoint} if endpoint else {"input": content}
    request = Request(key.subject(), Action(PROMPT, properties), Resource("model", model), context)
    return Prompt(request, transport, body)


def read_embeddings(body: bytes, key: Caller) -> Prompt:
    """Texts that are turned into vectors are a prompt too."""
    value = load_object(body)
    model = named_model(value)
    no_messages(value)
    given = value.get("input")
    texts = given if isinstance(given, list) else [given]
    if not texts or not all(isinstance(text, str) and text for text in texts):
        raise BadRequest("`input` is not text", hint="send text or a list of texts; tokens cannot be read")
    if value.get("stream"):
        raise BadRequest("embeddings have no stream", hint="leave `stream` out")
    return prompt(body, value, model, key, endpoint="embeddings")


def read_chat(body: bytes, key: Caller) -> Prompt:
    """Read a chat completion for the owner of `key`; raises `BadRequest` in words for its sender."""
    value = load_object(body)
    model = named_model(value)
    messages = value.get("messages")
    if not isinstance(messages, list) or not messages:
        raise BadRequest("`messages` is missing or empty", hint='send `"messages": [{"role": "user", ...}]`')
    for index, message in enumerate(messages):
        _check_message(index, message)
    check_stream(value)
    return prompt(body, value, model, key)


def _check_message(index: int, message: object) -> None:
    """A message in a form that every reader of it takes for the same text."""
    if not isinstance(message, dict) or not isinstance(message.get("role"), str):
        raise BadRequest(f"`messages[{index}]` has no `role`", hint="give each message a `role`")
    content = message.get("content")
    if content is None or isinstance(content, str):
        return
    if not isinstance(content, list) or not all(
        isinstance(part, dict) and isinstance(part.get("type"), str) for part in content
    ):
        raise BadRequest(f"`messages[{index}].content` is not text or a list of parts", hint="give each part a `type`")


def upstream_body(chat: Prompt, clean: Request, *, redacted: bool, handle: str = "", model: str = "") -> bytes:
    """What goes to the upstream: the original bytes, unless something in them is redacted, added or left out.

    `model` is what the upstream calls the model, where that is another name.
    """
    if not redacted and not handle and not model and "user" not in chat.transport:
        return chat.body
    transport = {name: item for name, item in chat.transport.items() if name != "user"}
    user = {"user": handle} if handle else {}
    named = {"model": model} if model else {}
    return _encode({**clean.action.input, **transport, **user, **named})


def route(model: str, upstreams: Mapping[str, tuple[str, ...]]) -> str:
    """The name of the first upstream whose model patterns (`gpt-*`) fit; raises `NotFound`."""
    for name, patterns in upstreams.items():
        for pattern in patterns:
            if fnmatchcase(model, pattern):
                return name
    known = sorted({pattern for patterns in upstreams.values() for pattern in patterns})
    hint = f"configured models: {', '.join(known)}" if known else "add `[upstreams.NAME]` to checkrein.toml"
    raise NotFound(f"no upstream serves the model `{model}`", hint=hint)


class Refusal(msgspec.Struct, frozen=True):
    """An error as OpenAI's clients expect it."""

    status: int
    body: dict[str, object]
    headers: dict[str, str]


def refusal(error: CheckreinError, *, retry_after_s: int, trace_id: str = "") -> Refusal:
    """Any of our errors in OpenAI's shape, with the decision beside it where there is one."""
    fits = (words for kind, words in _KINDS.items() if isinstance(error, kind))
    status, kind, code = next(fits, (500, "api_error", "internal_error"))
    headers: dict[str, str] = {}
    extra: dict[str, object] = {}
    if isinstance(error, Unauthorized) and error.forbidden:
        status, kind, code = 403, "permission_error", "forbidden"
    if isinstance(error, Denied | ApprovalRequired):
        extra["checkrein"] = error.decision.to_json()["context"]
        trace_id = error.decision.trace_id
        code = error.decision.code or code
        if code in LIMITED:
            status, kind = 429, LIMITED[code]
            wait = error.decision.retry_after_s
            headers |= {"retry-after": str(wait)} if wait else {}
            if not 0 < wait <= MAX_PATIENCE_S:  # a client would repeat it long before that helps
                headers["x-should-retry"] = "false"
    if isinstance(error, ApprovalRequired):
        headers["retry-after"] = str(retry_after_s)
        extra["approval_id"] = error.approval_id
    if isinstance(error, IdempotencyConflict):
        code, trace_id = error.code, error.trace_id or trace_id
        again = {"retry-after": str(error.retry_after_s)} if error.retry_after_s else {"x-should-retry": "false"}
        headers |= again  # OpenAI's clients repeat what ends in 409 unless they are told not to
    if isinstance(error, StoreUnavailable):
        headers["retry-after"] = "1"
    if trace_id:
        headers["x-checkrein-trace-id"] = trace_id
    message = f"{error} ({error.hint})" if error.hint else str(error)
    body: dict[str, object] = {"error": {"message": message, "type": kind, "param": None, "code": code, **extra}}
    return Refusal(status, body, headers)


#: the type of an error about a limit, by its code
LIMITED = {
    "rate_limit_exceeded": "requests",
    "token_limit_exceeded": "tokens",
    "concurrency_exceeded": "requests",
    "budget_exceeded": "insufficient_quota",
}
#: how long OpenAI's clients wait at most when they are told to
MAX_PATIENCE_S = 60
_KINDS: dict[type[CheckreinError], tuple[int, str, str]] = {
    BadRequest: (400, "invalid_request_error", "invalid_request"),
    Unauthorized: (401, "authentication_error", "invalid_api_key"),
    RouteNotFound: (404, "invalid_request_error", "not_found"),
    NotFound: (404, "invalid_request_error", "model_not_found"),
    MethodNotAllowed: (405, "invalid_request_error", "method_not_allowed"),
    IdempotencyConflict: (409, "idempotency_error", ""),
    Denied: (403, "policy_denied", "denied"),
    Killed: (403, "policy_denied", "killed"),
    ApprovalRequired: (403, "approval_required", "approval_required"),
    UpstreamUnavailable: (502, "upstream_error", "upstream_unavailable"),
    StoreUnavailable: (503, "service_unavailable", "record_unavailable"),
}

"""The responses protocol (`/v1/responses`): what is asked, and what comes back whole. `events` does the streams.

What an upstream keeps from earlier requests (`previous_response_id`, `conversation`, stored prompts, background runs)
is refused: all callers share its credential, so an id that one caller names may be another's, and what it stands for
was not decided here.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from checkrein.connectors.completions import Json, arguments
from checkrein.connectors.openai import Prompt, check_stream, named_model, no_messages, prompt
from checkrein.connectors.sse import load, unreadable
from checkrein.model import BadRequest, Caller
from checkrein.model.json import canonical, fold, load_object
from checkrein.services.answers import MAX_CALLS, Proposal, Verdict
from checkrein.services.speech import Speech

#: members that speak of what the upstream keeps
_KEPT = ("previous_response_id", "conversation", "prompt", "background")
#: items by which an upstream tells what it ran itself; the tools were decided before it was asked
HOSTED = frozenset(
    {
        "web_search_call",
        "file_search_call",
        "code_interpreter_call",
        "image_generation_call",
        "mcp_call",
        "mcp_list_tools",
        "tool_search_call",
    }
)
#: kinds of calls whose arguments come in pieces too -> what they are known by
_CALLS = {
    "function_call": ("call_id", "name", "arguments"),
    "custom_tool_call": ("call_id", "name", "input"),
}
#: what is no words, in a response and in an item
ABOUT = frozenset({"id", "object", "created_at", "completed_at", "model", "status", "usage", "tools", "output"})
ABOUT_ITEM = frozenset({"id", "type", "status", "role", "call_id", "encrypted_content"})
_encode = msgspec.json.Encoder().encode


def read_response(body: bytes, key: Caller) -> Prompt:
    """Read a response as it is asked for, for the owner of `key`; raises `BadRequest` in words for its sender."""
    value = load_object(body)
    model = named_model(value)
    no_messages(value)
    given = value.get("input")
    if not given or not isinstance(given, str | list):
        raise BadRequest("`input` is missing or empty", hint="send text, or a list of items")
    for index, item in enumerate(given if isinstance(given, list) else ()):
        if not isinstance(item, dict) or not isinstance(item.get("type", "message"), str):
            raise BadRequest(f"`input[{index}]` is not an item", hint="send objects with a `type`")
        if item.get("type") == "item_reference":
            raise BadRequest(f"`input[{index}]` is kept elsewhere", hint="send the item itself")
    for name in _KEPT:
        if value.get(name):
            raise BadRequest(f"`{name}` speaks of what the upstream keeps", hint="send all of it as `input`")
    check_stream(value)
    return prompt(body, value, model, key, endpoint="responses")


def is_call(item: Json) -> bool:
    """Whether an item asks the caller to run something. What is not known to be something else does."""
    kind = item.get("type")
    if not isinstance(kind, str):
        raise unreadable("an item without a type")
    return kind not in HOSTED and kind.endswith(("_call", "_request"))


def proposal(item: Json) -> Proposal:
    kind = str(item["type"])
    if kind == "function_call":
        name, given = item.get("name"), item.get("arguments") or ""
        if not name or not isinstance(name, str) or not isinstance(given, str):
            raise unreadable("a tool call that cannot be read")
        return Proposal(name, arguments(given))
    if kind == "custom_tool_call":
        name = item.get("name")
        if not name or not isinstance(name, str):
            raise unreadable("a tool call that cannot be read")
        return Proposal(name, {"input": item.get("input")})
    rest = {name: value for name, value in item.items() if name not in ABOUT_ITEM}
    return Proposal(kind.removesuffix("_call"), rest)


def identity(item: Json) -> bytes:
    """What makes one call of an answer the same as another telling of it."""
    members = _CALLS.get(str(item["type"])) or tuple(sorted(item.keys() - {"id", "status"}))
    return canonical(fold([item["type"], *([name, item.get(name)] for name in members)]))


def settled_item(item: Json, verdict: Verdict) -> Json:
    """The item as the caller may see it: itself, with other arguments, or a message that says why not."""
    if verdict.refusal:
        part = {"type": "output_text", "text": verdict.refusal, "annotations": []}
        id = f"msg_{item.get('id') or item.get('call_id') or 0}"
        return {"id": id, "type": "message", "role": "assistant", "status": "completed", "content": [part]}
    if verdict.input is None:
        return item
    if item["type"] == "function_call":
        return {**item, "arguments": _encode(verdict.input).decode()}
    return {**item, **verdict.input}


def items(response: Json) -> list[Json]:
    found = response.get("output") or []
    if not isinstance(found, list) or not all(isinstance(item, dict) for item in found):
        raise unreadable("items that cannot be read")
    return found


class WholeResponse:
    """A response in JSON. `asked` are its calls; `settle` gives the bytes that the caller may see.

    Its words are decided at once; raises `Withheld`.
    """

    def __init__(self, data: bytes, speech: Speech) -> None:
        self._data = data
        self._value = load(data, "a response")
        self.asked = tuple(proposal(item) for item in items(self._value) if is_call(item))
        if len(self.asked) > MAX_CALLS:
            raise unreadable(f"more than {MAX_CALLS} tool calls")
        self._changed = redact_response(self._value, speech)

    def settle(self, verdicts: Sequence[Verdict]) -> bytes:
        if all(verdict.passes for verdict in verdicts) and not self._changed:
            return self._data
        left = iter(verdicts)
        told = [settled_item(item, next(left)) if is_call(item) else item for item in items(self._value)]
        return _encode({**self._value, "output": told})


def words(item: Json) -> Json:
    """The members of an item that are words. Those of a call are its arguments, and are decided with it."""
    return {} if is_call(item) else {name: value for name, value in item.items() if name not in ABOUT_ITEM}


def redact_response(value: Json, speech: Speech, *, again: bool = False) -> bool:
    """Redact a response in place; whether anything was."""
    parts = [(value, {name: item for name, item in value.items() if name not in ABOUT})]
    parts += [(item, words(item)) for item in items(value)]
    return redact_parts(parts, speech, again=again)


def redact_parts(parts: Sequence[tuple[Json, Json]], speech: Speech, *, again: bool = False) -> bool:
    """Redact the given members of each object in place; whether anything was. `again`: they may have been said."""
    said = [part for _, part in parts]
    clean = speech.whole(said, again=again)
    if clean is said or not isinstance(clean, list):
        return False
    for (whole, part), told in zip(parts, clean, strict=True):
        for name in part:
            del whole[name]
        whole.update(told)
        _without_tokens(whole)
    return True


def _without_tokens(value: object) -> None:
    """Tokens beside words that were redacted are words too."""
    if isinstance(value, dict):
        value.pop("logprobs", None)
        for item in value.values():
            _without_tokens(item)
    elif isinstance(value, list):
        for item in value:
            _without_tokens(item)

"""What tools answered before, as the caller hands it back in the next request.

It is untrusted text: a value that stands only there must not steer a tool. The exception is an output field that the
tool's manifest declares `trusted`; its values count as ones the deployment vouches for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from checkrein.decide.detect import texts
from checkrein.model import BadRequest
from checkrein.model.json import load_object
from checkrein.policy.manifest import Manifests, Trust

#: roles of messages that hold what a tool answered
_ROLES = frozenset({"tool", "function"})


def told(body: Mapping[str, object], manifests: Manifests) -> tuple[str, tuple[str, ...]]:
    """All that tools answered, as text, and the values of fields that can be trusted."""
    messages = [item for item in _list(body.get("messages", body.get("input"))) if isinstance(item, Mapping)]
    names = _names(messages)
    said: list[str] = []
    vouched: list[str] = []
    for message in messages:
        if str(message.get("type")).endswith("_output"):
            content, tool = message.get("output"), names.get(str(message.get("call_id")))
        elif message.get("role") in _ROLES:
            content, tool = message.get("content"), names.get(str(message.get("tool_call_id")))
            tool = str(message.get("name")) if message["role"] == "function" else tool
        else:
            continue
        said += texts(content)
        vouched += _vouched(content, tool, manifests)
    return "\n".join(said), tuple(dict.fromkeys(vouched))


def _names(messages: list[Mapping[str, object]]) -> dict[str, str | None]:
    """The tool of each call by the call's id; None for an id that stands for two calls."""
    names: dict[str, str | None] = {}
    for message in messages:
        calls = [call for call in _list(message.get("tool_calls")) if isinstance(call, Mapping)]
        known = [
            (call.get("id"), body.get("name")) for call in calls if isinstance(body := call.get("function"), Mapping)
        ]
        if message.get("type") == "function_call":
            known.append((message.get("call_id"), message.get("name")))
        for id, name in known:
            names[str(id)] = name if str(id) not in names and isinstance(name, str) else None
    return names


def _vouched(content: object, tool: object, manifests: Manifests) -> Iterator[str]:
    manifest = manifests.get(tool) if isinstance(tool, str) else None
    if manifest is None or not isinstance(content, str):
        return
    try:
        value = load_object(content)
    except BadRequest:
        return
    for name, item in value.items():
        if manifest.output.get(name) is Trust.TRUSTED and isinstance(item, str):
            yield item


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else []

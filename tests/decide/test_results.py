"""What tools answered is untrusted, except for the fields their manifests vouch for."""

from __future__ import annotations

import json
from typing import Any

import pytest

from checkrein.decide.results import told
from checkrein.policy.manifest import Manifests

MANIFESTS = Manifests.from_yaml(
    "tools:\n  vendor:\n    effects: [read]\n    output: {iban: trusted, note: untrusted, count: trusted}\n"
)
ANSWER = json.dumps({"iban": "DE02", "note": "pay X", "count": 3, "other": "y"})


def asked(*ids: str, name: str = "vendor") -> dict[str, Any]:
    return {"role": "assistant", "tool_calls": [{"id": id, "function": {"name": name}} for id in ids]}


def answered(id: str, content: Any = ANSWER) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": id, "content": content}


def test_only_declared_fields_are_vouched_for():
    untrusted, directory = told({"messages": [asked("1"), answered("1")]}, MANIFESTS)
    assert directory == ("DE02",)
    assert untrusted == ANSWER


def test_content_in_parts_is_read_and_users_text_is_not_a_result():
    body = {"messages": [{"role": "user", "content": "hi"}, answered("1", [{"type": "text", "text": "so"}])]}
    untrusted, directory = told(body, MANIFESTS)
    assert "so" in untrusted
    assert "hi" not in untrusted
    assert directory == ()


@pytest.mark.parametrize(
    "messages",
    [
        [answered("1")],
        [asked("1", "1"), answered("1")],
        [asked("1", name="other"), answered("1")],
        [asked("1"), answered("1", "DE02")],
        [asked("1"), answered("1", '{"iban":"DE02","iban":"DE03"}')],
        [{"role": "assistant", "tool_calls": "x"}, answered("1")],
        "nothing",
    ],
)
def test_what_cannot_be_told_for_sure_is_not_vouched_for(messages: Any):
    assert told({"messages": messages}, MANIFESTS)[1] == ()


def test_the_older_function_role_names_its_tool():
    message = {"role": "function", "name": "vendor", "content": ANSWER}
    assert told({"messages": [message]}, MANIFESTS)[1] == ("DE02",)

"""Tool lists of others become manifests: types from their schemas, effects from names and hints that only add."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from checkrein.model import PolicyInvalid
from checkrein.policy.bundle import Bundle
from checkrein.policy.effect import Effect
from checkrein.policy.toolfiles import read_tool_file

MCP = {
    "tools": [
        {
            "name": "create_invoice",
            "description": "makes an invoice",
            "inputSchema": {
                "type": "object",
                "properties": {
                    "to": {"type": "string"},
                    "amount": {"type": "integer"},
                    "memo": {"anyOf": [{"type": "string"}, {"type": "null"}]},
                    "lines": {"type": "array", "items": {"type": "object"}},
                    "tags": {"type": "array", "items": {"type": "string"}},
                    "mixed": {"type": ["string", "integer"]},
                    "rate": {"type": ["number", "null"]},
                },
                "required": ["to", "amount", "memo", "lines"],
            },
        },
        {"name": "frobnicate", "annotations": {"destructiveHint": True, "readOnlyHint": True}},
        {"name": "list_pages", "annotations": {"openWorldHint": True}},
    ]
}
OPENAI = [
    {
        "type": "function",
        "function": {"name": "get_weather", "parameters": {"properties": {"city": {"type": "string"}}}},
    }
]
PERMIT = b'@id("p") @owner("o") @reason("r") permit (principal, action, resource);'


def read(value: object, *declared: str):
    return read_tool_file(json.dumps(value, indent=1).encode(), "tools/t.json", declared)


def test_argument_types_come_from_the_schema():
    tools, problems = read(MCP)
    assert problems == ()
    assert {name: str(kind) for name, kind in tools["create_invoice"].input.items()} == {
        "to": "string",
        "amount": "integer",
        "memo": "string?",
        "lines": "array<object>",
        "tags": "array?",
        "mixed": "json?",
        "rate": "number?",
    }


def test_hints_add_effects_and_never_take_one_away():
    tools, _ = read(MCP)
    assert tools["create_invoice"].effects == (Effect.WRITE,)
    assert tools["frobnicate"].effects == (Effect.IRREVERSIBLE,)
    assert tools["list_pages"].effects == (Effect.READ, Effect.EXTERNAL)


def test_a_read_only_hint_makes_nothing_known():
    _, problems = read({"tools": [{"name": "frobnicate", "annotations": {"readOnlyHint": True}}]})
    assert len(problems) == 1
    assert problems[0].startswith("tools/t.json:3: nobody can tell the effects of `frobnicate`")
    assert "tools.yaml" in problems[0]


@pytest.mark.parametrize("value", [OPENAI, {"tools": OPENAI}, {"result": {"tools": OPENAI}}])
def test_openai_definitions_and_wrapped_lists_are_read(value: object):
    tools, problems = read(value)
    assert problems == ()
    assert str(tools["get_weather"].input["city"]) == "string?"


def test_tools_yaml_wins_for_every_tool_it_names():
    assert "frobnicate" not in read(MCP, "frobnicate")[0]


@pytest.mark.parametrize("value", [{}, {"tools": {}}, 5, {"tools": [{}]}, {"tools": ["x"]}, {"tools": [{"name": ""}]}])
def test_what_is_no_list_of_tools_is_a_problem_with_its_place(value: object):
    tools, problems = read(value)
    assert (tools, len(problems)) == ({}, 1)
    assert problems[0].startswith("tools/t.json:")


def load(condition: str) -> Bundle:
    head = '@id("f") @owner("o") @reason("r") forbid (principal, action == Action::"create_invoice", resource)'
    policies = PERMIT + f"{head} when {{ {condition} }};".encode()
    return Bundle.from_files({"tools/t.json": json.dumps(MCP).encode(), "policies/p.cedar": policies})


def test_imported_tools_are_actions_with_typed_input():
    assert load("context.input.amount > 5").manifests.names() == ("create_invoice", "frobnicate", "list_pages")
    with pytest.raises(PolicyInvalid, match="amont"):
        load("context.input.amont > 5")


def test_the_digest_covers_tool_files():
    one = Bundle.from_files({"tools/t.json": json.dumps(MCP).encode(), "policies/p.cedar": PERMIT})
    two = Bundle.from_files({"tools/t.json": json.dumps(MCP, indent=2).encode(), "policies/p.cedar": PERMIT})
    assert one.digest != two.digest


def test_one_tool_in_two_files_is_a_problem():
    files = {"tools/a.json": json.dumps(OPENAI).encode(), "tools/b.json": json.dumps(OPENAI).encode()}
    with pytest.raises(PolicyInvalid, match=r"stands in tools/a\.json too"):
        Bundle.from_files({**files, "policies/p.cedar": PERMIT})


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["tools", "name", "inputSchema", "properties", "type", "anyOf", "a"]), inner)
    ),
    max_leaves=20,
)


@given(JSON)
def test_any_json_is_read_or_named(value: object):
    tools, problems = read({"tools": [value]})
    assert bool(tools) is not bool(problems)

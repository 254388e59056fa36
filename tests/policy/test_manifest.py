from __future__ import annotations

import pytest

from checkrein.model import PolicyInvalid
from checkrein.policy.manifest import ArgType, Effect, Limit, Manifests, Trust

TOOLS = """\
tools:
  transfer_funds:
    effects: [irreversible, external]
    input: {to: string, amount: integer, memo: string?}
    control: [to, amount]
    limits: {amount: {review_above: 1000}}
    output: {receipt_id: trusted, message: untrusted}
    intents: ["transfer funds", "pay  * invoice"]
    labels: [payment]
    description: moves money
"""


def problems(text: str) -> list[str]:
    with pytest.raises(PolicyInvalid) as caught:
        Manifests.from_yaml(text)
    return list(caught.value.problems)


def test_a_manifest_says_what_a_tool_is() -> None:
    tool = Manifests.from_yaml(TOOLS).get("transfer_funds")
    assert tool is not None
    assert set(tool.effects) == {Effect.IRREVERSIBLE, Effect.EXTERNAL}
    assert tool.input == {
        "to": ArgType("string"),
        "amount": ArgType("integer"),
        "memo": ArgType("string", optional=True),
    }
    assert tool.control == ("to", "amount")
    assert tool.limits == {"amount": Limit(1000)}
    assert tool.output == {"receipt_id": Trust.TRUSTED, "message": Trust.UNTRUSTED}
    assert tool.intents == ("transfer funds", "pay * invoice")
    assert tool.labels == ("payment",)


def test_every_problem_is_told_with_its_line_and_a_hint() -> None:
    text = """\
tools:
  pay:
    effects: [irreversble]
    input: {to: strng, amount: integer}
    control: [account]
    limits: {to: {review_above: 1}, amount: {review_over: 5}, memo: {review_above: 1}}
    output: {id: maybe}
    intents: ["*", 7]
    lables: [x]
  tool: {effects: [read]}
  empty:
"""
    lines = problems(text)
    assert [line.split(": ")[0] for line in lines] == [
        "tools.yaml:9",
        "tools.yaml:4",
        "tools.yaml:3",
        "tools.yaml:5",
        "tools.yaml:6",
        "tools.yaml:6",
        "tools.yaml:6",
        "tools.yaml:6",
        "tools.yaml:7",
        "tools.yaml:8",
        "tools.yaml:8",
        "tools.yaml:10",
        "tools.yaml:11",
    ]
    assert "unknown member `lables`" in lines[0]
    assert "unknown effect class `irreversble` (known: read, write, external, egress, irreversible)" in lines[2]
    assert all(line.endswith(")") for line in lines)


def test_a_tool_or_an_argument_that_stands_twice_is_a_problem() -> None:
    text = "tools:\n  a: {effects: [read]}\n  a: {effects: [write]}\n"
    assert problems(text) == ["tools.yaml:3: the key `a` stands twice (keep one of them)"]


def test_a_tool_without_effects_is_a_problem() -> None:
    (line,) = problems("tools:\n  a:\n    input: {x: string}\n")
    assert line.startswith("tools.yaml:2: `a` has no effects")


def test_broken_yaml_is_told_with_its_line() -> None:
    (line,) = problems("tools:\n  a: [\n")
    assert line.startswith("tools.yaml:3: not YAML")


@pytest.mark.parametrize("text", ["", "tools:\n", "# nothing\n", "tools: {}"])
def test_no_tools_is_no_problem(text: str) -> None:
    assert Manifests.from_yaml(text).names() == ()


def test_yaml_values_are_read_as_they_look() -> None:
    text = "tools:\n  no: {effects: [read], input: {on: string, y: integer}, labels: [no, 2026-01-01]}\n"
    tool = Manifests.from_yaml(text).get("no")
    assert tool is not None
    assert tool.labels == ("no", "2026-01-01")
    assert list(tool.input) == ["on", "y"]


@pytest.mark.parametrize(
    ("name", "effects"),
    [
        ("get_weather", {Effect.READ}),
        ("listFiles", {Effect.READ}),
        ("create_issue", {Effect.WRITE}),
        ("send_email", {Effect.EXTERNAL}),
        ("upload_file", {Effect.EGRESS}),
        ("delete_user", {Effect.IRREVERSIBLE}),
        ("mcp__github__create_issue", {Effect.WRITE}),
        ("get_and_delete_user", {Effect.READ, Effect.IRREVERSIBLE}),
        ("users.delete", {Effect.IRREVERSIBLE}),
    ],
)
def test_an_undeclared_tool_is_judged_by_its_verb(name: str, effects: set[Effect]) -> None:
    resolved = Manifests().resolve(name)
    assert set(resolved.effects) == effects
    assert resolved.known
    assert not resolved.declared


@pytest.mark.parametrize(
    "name", ["frobnicate", "", "forget_me", "read" * 100, "read", "prompt", "rollout.loosen", "getaway"]
)
def test_a_tool_whose_name_tells_nothing_is_unknown(name: str) -> None:
    assert not Manifests().resolve(name).known


def test_the_manifest_wins_over_the_name() -> None:
    manifests = Manifests.from_yaml("tools:\n  get_rid_of: {effects: [irreversible]}\n")
    resolved = manifests.resolve("get_rid_of")
    assert resolved.declared
    assert resolved.effects == (Effect.IRREVERSIBLE,)


def test_arguments_are_checked_by_name_and_type_and_never_shown() -> None:
    manifests = Manifests.from_yaml(TOOLS)
    good = {"to": "ACME", "amount": 5}
    assert manifests.check_input("transfer_funds", good) == ()
    assert manifests.check_input("transfer_funds", {**good, "memo": None}) == ()
    assert manifests.check_input("transfer_funds", {**good, "to": None}) == ("the argument `to` is missing",)
    wrong = {"to": 7, "amount": True, "secret": "s3cr3t"}
    assert manifests.check_input("transfer_funds", wrong) == (
        "the argument `to` is not of type `string`",
        "the argument `amount` is not of type `integer`",
        "the argument `secret` is not declared",
    )


def test_what_an_agent_calls_its_arguments_is_neither_repeated_nor_counted_out() -> None:
    manifests = Manifests.from_yaml(TOOLS)
    card = {"to": "ACME", "amount": 5, "4111 1111 1111 1111": 1}
    assert manifests.check_input("transfer_funds", card) == ("1 argument is not declared",)
    many = {"to": "ACME", "amount": 5, "AKIA4": 1} | {"x" * (1 + count): 1 for count in range(3000)}
    problems = manifests.check_input("transfer_funds", many)
    assert problems[0] == "the argument `x` is not declared"
    assert problems[5:] == ("2996 more arguments are not declared",)


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        ("integer", 5, 5.0),
        ("number", 5.5, True),
        ("boolean", False, 0),
        ("array", ["a"], ["a", 1]),
        ("array<integer>", [1], [True]),
        ("object", {"a": 1}, []),
        ("array<object>", [{}], [[]]),
    ],
)
def test_types_do_not_blur(kind: str, good: object, bad: object) -> None:
    assert ArgType(kind).admits(good)
    assert not ArgType(kind).admits(bad)


def test_personal_fields_are_declared_by_class() -> None:
    manifests = Manifests.from_yaml(
        "tools: {find: {effects: [read], personal: {customer: person_name, to: pii.email}}}"
    )
    tool = manifests.get("find")
    assert tool is not None
    assert tool.personal == {"customer": "pii.person_name", "to": "pii.email"}
    with pytest.raises(PolicyInvalid, match="no known class of personal data"):
        Manifests.from_yaml("tools: {find: {effects: [read], personal: {customer: shoe_size}}}")

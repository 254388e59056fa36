from __future__ import annotations

import cedarpy
import pytest

from checkrein.model import PolicyInvalid
from checkrein.policy.engine import PolicySet, read_schema
from checkrein.policy.manifest import Manifests
from checkrein.policy.schema import action_entity, action_uid, known_actions, schema_text

MANIFESTS = Manifests.from_yaml(
    """\
tools:
  pay:
    effects: [irreversible]
    input: {to: string, amount: integer, rate: number?, tags: array, deep: object, "x-y": boolean}
    control: [to]
  look: {effects: [read]}
"""
)
SCHEMA = schema_text(MANIFESTS)


def holds(condition: str, action: str = 'action == Action::"pay"') -> None:
    PolicySet.from_cedar(f"permit (principal, {action}, resource) when {{ {condition} }};", schema=SCHEMA)


def fails(condition: str, action: str = 'action == Action::"pay"') -> str:
    with pytest.raises(PolicyInvalid) as caught:
        holds(condition, action)
    return caught.value.problems[0]


@pytest.mark.parametrize(
    "condition",
    [
        'context.input.to == "ACME" && context.input.amount > 5 && context.input["x-y"]',
        'context.input has rate && context.input.rate.lessThan(decimal("1.5"))',
        'context.input.tags.contains("urgent")',
        'context has provenance && context.provenance has to && context.provenance.to == "prompt"',
        'context.agent.id == "bot" && context.agent has version && context.agent.version == "3"',
        'context has environment && context.environment == "production"',
        'context.time.hour >= 9 && context.time.weekday == "monday" && context.time.date == "2026-01-05"',
        'context.risk.level == "red" || context.risk.score > 70',
        'context.labels.contains("pii")',
        'context.usage.requests_minute > 10 && context.usage.agent.spend_today.lessThan(decimal("1.0"))',
        'context has approval && context.approval.id like "apr_*"',
        'principal in Role::"treasury" && principal has department && principal.department == "finance"',
        'principal.hasTag("team") && principal.getTag("team") == "red"',
    ],
)
def test_policies_see_the_context_of_the_design(condition: str) -> None:
    holds(condition)


@pytest.mark.parametrize(
    ("condition", "said"),
    [
        ("context.input.amont > 5", "`input.amont`"),
        ('context.input.rate.lessThan(decimal("1.0"))', "optional attribute `input.rate`"),
        ('context.input.amount == "5"', "not compatible"),
        ("context.input.deep.x == 1", "`input.deep`"),
        ('context.environment == "production"', "optional attribute `environment`"),
        ("context.provenance.amount == 1", "provenance"),
    ],
)
def test_a_condition_that_could_err_is_refused(condition: str, said: str) -> None:
    assert said in fails(condition)


def test_a_prompt_has_facts_and_no_text() -> None:
    holds(
        'context.input.model == "m" && context.input.chars > 9 && context.input.messages > 1',
        'action == Action::"prompt"',
    )
    assert "`input.messages.content`" in fails(
        'context.input.messages.content == "x"', 'action == Action::"prompt"'
    ) or fails('context.input.content == "x"', 'action == Action::"prompt"')


@pytest.mark.parametrize("group", ["read", "write", "external", "egress", "irreversible", "llm", "tool", "mcp"])
def test_every_group_can_be_spoken_of_whatever_is_declared(group: str) -> None:
    PolicySet.from_cedar(f'permit (principal, action in Action::"{group}", resource);', schema=schema_text(Manifests()))


def test_an_unknown_tool_in_a_policy_is_refused() -> None:
    assert "unrecognized action" in fails("true", 'action == Action::"payy"')


def test_an_action_entity_is_in_its_groups() -> None:
    assert action_entity("pay", ["irreversible"]).parents == {action_uid("irreversible"), action_uid("tool")}
    assert action_uid("mcp") in action_entity("pay", ["irreversible"], "mcp").parents
    assert action_entity("prompt", []).parents == {action_uid("llm")}


def test_the_entities_of_known_actions_stay_within_the_schema() -> None:
    """What a policy is checked against is what it meets: no group at run time that the schema does not have."""
    text = str(cedarpy.Entities.from_json_str("[]", read_schema(SCHEMA)))
    for entity in known_actions(MANIFESTS):
        handle = PolicySet.from_cedar("permit (principal, action, resource);", schema=SCHEMA)
        assert f'"{entity.uid.id}"' in text
        assert entity.parents <= handle._actions[entity.uid].parents

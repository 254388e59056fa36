from __future__ import annotations

from collections.abc import Callable

import pytest

from checkrein.analysis.types import Member, RecordOf, SetOf, read_types
from checkrein.analysis.world import World
from checkrein.decide.classify import Classifier
from checkrein.model import Action, CheckreinError, Request, Resource, Subject
from checkrein.policy.bundle import Bundle

GRANT = '@id("grant") permit (principal, action, resource);\n'


def test_a_call_bears_the_labels_that_its_tool_is_classified_by(bundle: Callable[[str], Bundle]) -> None:
    made = bundle(GRANT)
    world = World(made)
    (view,) = world.views
    classifier = Classifier(made.manifests)
    for number, name in enumerate(world.actions[1:-1], 1):
        request = Request(Subject("user", "a"), Action(name), Resource("tool", "a"))
        assert set(classifier.classify(request).labels) == view.labels(number)


def test_the_schema_is_read_as_types(bundle: Callable[[str], Bundle]) -> None:
    types = read_types(bundle(GRANT).schema)
    pay = types.actions["pay"]
    assert (set(pay.groups), pay.principals) == (
        {"irreversible", "external", "tool", "mcp"},
        ("User", "Agent", "Service"),
    )
    input = pay.context.get("input")
    assert input is not None
    assert isinstance(input.type, RecordOf)
    assert input.type.get("fee") == Member("decimal", optional=True)
    assert input.type.get("codes") == Member(SetOf("Long"), optional=False)
    assert input.type.get("other") is None
    assert types.entities["User"].within == ("Role",)
    assert types.entities["User"].tags == "String"


@pytest.mark.parametrize("text", ["namespace A { entity B; }", "entity A = {b: };", "action;", "entity A"])
def test_a_schema_in_another_form_is_refused(text: str) -> None:
    with pytest.raises(CheckreinError, match="the schema cannot be analysed"):
        read_types(text)

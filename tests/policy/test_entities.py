from __future__ import annotations

import pytest

from checkrein.model import BadRequest
from checkrein.policy.entities import Entities, Entity
from checkrein.policy.values import Uid


def user(name: str, *parents: str, **attrs: object) -> dict[str, object]:
    above = [{"type": "User", "id": parent} for parent in parents]
    return {"uid": {"type": "User", "id": name}, "attrs": attrs, "parents": above}


def above(entities: Entities, name: str) -> set[str]:
    return {uid.id for uid in entities.ancestors[Uid("User", name)]}


def test_the_hierarchy_is_closed_upwards() -> None:
    entities = Entities.from_json([user("a", "b"), user("b", "c", "d"), user("c", "far")])
    assert above(entities, "a") == {"b", "c", "d", "far"}
    assert above(entities, "c") == {"far"}


def test_a_deep_hierarchy_is_no_trouble() -> None:
    chain = [user(str(number), str(number + 1)) for number in range(1_500)]
    assert len(above(Entities.from_json(chain), "0")) == 1_500


@pytest.mark.parametrize(
    "circle", [[user("a", "a")], [user("a", "b"), user("b", "a")], [user("a", "b"), user("b", "c"), user("c", "b")]]
)
def test_a_circle_is_refused(circle: list[object]) -> None:
    with pytest.raises(BadRequest, match="circle"):
        Entities.from_json(circle)


def test_an_entity_stands_once_or_alike() -> None:
    assert len(Entities.from_json([user("a", x=1), user("a", x=1)])) == 1
    for other in (user("a", x=2), user("a", x=True), user("a", "b", x=1)):
        with pytest.raises(BadRequest, match="twice"):
            Entities.from_json([user("a", x=1), other])


@pytest.mark.parametrize(
    "broken",
    [
        "text", {}, [1], [{}], [{"uid": {"type": "User", "id": "a"}, "parents": "b"}],
        [{"uid": {"type": "User", "id": "a"}, "attrs": []}], [user("a", x=None)],
    ],
)  # fmt: skip
def test_what_is_no_entity_is_refused(broken: list[object]) -> None:
    with pytest.raises(BadRequest):
        Entities.from_json(broken)


def test_adding_gives_a_new_set_and_leaves_the_old() -> None:
    old = Entities.from_json([user("b", "c"), user("z", "new")])
    new = old.with_added([Entity(Uid("User", "a"), parents=frozenset({Uid("User", "b")}))])
    assert above(new, "a") == {"b", "c"}
    assert len(old) == 2
    below = old.with_added([Entity(Uid("User", "new"), parents=frozenset({Uid("User", "top")}))])
    assert above(below, "z") == {"new", "top"}
    assert above(old, "z") == {"new"}

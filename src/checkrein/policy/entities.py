"""Entities in Cedar's JSON form, with the hierarchy closed once so that `in` is one look-up."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TypeVar, cast

import msgspec

from checkrein.model import BadRequest
from checkrein.policy.values import Uid, Value, equal, record_from_json

_T = TypeVar("_T")
_D = TypeVar("_D")
_NOBODY: frozenset[Uid] = frozenset()


class Entity(msgspec.Struct, frozen=True):
    """One entity: its attributes, its direct parents and its tags."""

    uid: Uid
    attrs: dict[str, Value] = {}
    parents: frozenset[Uid] = _NOBODY
    tags: dict[str, Value] = {}

    @classmethod
    def from_json(cls, value: object) -> Entity:
        """Read `{"uid": ..., "attrs": ..., "parents": [...], "tags": ...}`; raises `BadRequest`."""
        if type(value) is not dict and not isinstance(value, Mapping):
            raise BadRequest("an entity is not an object", hint='write `{"uid": {"type": ..., "id": ...}}`')
        members = cast("Mapping[str, object]", value)
        parents = members.get("parents", [])
        if not isinstance(parents, list | tuple):
            raise BadRequest("`parents` of an entity is not a list", hint="list the uids of the parents")
        return cls(
            Uid.from_json(members.get("uid")),
            _record(members, "attrs"),
            frozenset([Uid.from_json(parent) for parent in parents]) if parents else _NOBODY,
            _record(members, "tags"),
        )


def _record(members: Mapping[str, object], name: str) -> dict[str, Value]:
    value = members.get(name)
    if value is None and name not in members:
        return {}
    if type(value) is not dict and not isinstance(value, Mapping):
        raise BadRequest(f"`{name}` of an entity is not an object", hint="write an object of names and values")
    return record_from_json(value)


class Entities:
    """A set of entities, read and closed once. Immutable; `with_added` gives a new set.

    An entity given twice with equal content is one; with other content it raises `BadRequest`, as does a
    hierarchy that runs in a circle.
    """

    __slots__ = ("_containers", "ancestors", "by_uid")

    def __init__(self, entities: Iterable[Entity] = ()) -> None:
        known: dict[Uid, Entity] = {}
        for entity in entities:
            if known.setdefault(entity.uid, entity) is not entity:
                _refuse_other(known[entity.uid], entity)
        self.by_uid: Mapping[Uid, Entity] = known
        parents = {uid: entity.parents for uid, entity in known.items()}
        self._containers = _NOBODY.union(*parents.values())
        closed: dict[Uid, frozenset[Uid]] = {}
        self.ancestors: Mapping[Uid, frozenset[Uid]] = closed
        if self._containers.isdisjoint(known):  # nobody in here is above another
            closed.update(parents)
        else:
            for uid, entity in known.items():
                closed[uid] = _above(entity, known, closed)

    @classmethod
    def from_json(cls, value: Iterable[object]) -> Entities:
        """Read Cedar's JSON list of entities; raises `BadRequest` for what is not one."""
        if isinstance(value, Mapping | str | bytes):
            raise BadRequest("entities are not a list", hint='write `[{"uid": ..., "attrs": {}, "parents": []}]`')
        return cls([Entity.from_json(item) for item in value])

    def with_added(self, entities: Iterable[Entity]) -> Entities:
        """A set of these and the entities besides."""
        return Entities([*self.by_uid.values(), *entities])

    def beside(self, entity: Entity) -> Entities:
        """This set with one more entity, which it does not have; what stands here is neither copied nor read again."""
        if entity.uid in self._containers:
            return self.with_added([entity])
        together = object.__new__(Entities)
        together.by_uid = _Beside(self.by_uid, entity.uid, entity)
        together.ancestors = _Beside(self.ancestors, entity.uid, _above(entity, self.by_uid, self.ancestors))
        together._containers = self._containers | entity.parents
        return together

    def __len__(self) -> int:
        return len(self.by_uid)


def _refuse_other(one: Entity, other: Entity) -> None:
    if one.parents != other.parents or not equal(one.attrs, other.attrs) or not equal(one.tags, other.tags):
        raise BadRequest("an entity stands twice in the entities", hint="send each entity once")


def _above(entity: Entity, known: Mapping[Uid, Entity], closed: Mapping[Uid, frozenset[Uid]]) -> frozenset[Uid]:
    """Follow the parents upwards, without recursion: a hierarchy may be deep."""
    above: set[Uid] = set()
    waiting = list(entity.parents)
    while waiting:
        uid = waiting.pop()
        if uid in above:
            continue
        above.add(uid)
        if (further := closed.get(uid)) is not None:
            above |= further
        elif (parent := known.get(uid)) is not None:
            waiting.extend(parent.parents)
    if entity.uid in above:
        raise BadRequest("the entities are in each other in a circle", hint="mend `parents`")
    return entity.parents if len(above) == len(entity.parents) else frozenset(above)


class _Beside(Mapping[Uid, _T]):
    """A mapping and one more entry."""

    __slots__ = ("_item", "_others", "_uid")

    def __init__(self, others: Mapping[Uid, _T], uid: Uid, item: _T) -> None:
        self._others, self._uid, self._item = others, uid, item

    def get(self, uid: Uid, default: _D = None) -> _T | _D:  # type: ignore[assignment]
        return self._item if uid == self._uid else self._others.get(uid, default)

    def __getitem__(self, uid: Uid) -> _T:
        return self._item if uid == self._uid else self._others[uid]

    def __iter__(self) -> Iterator[Uid]:
        yield from self._others
        yield self._uid

    def __len__(self) -> int:
        return len(self._others) + 1

"""Entities in Cedar's JSON form, with the hierarchy closed once so that `in` is one look-up."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import cast

import msgspec

from checkrein.model import BadRequest
from checkrein.policy.values import Uid, Value, equal, record_from_json

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
        if not isinstance(value, Mapping):
            raise BadRequest("an entity is not an object", hint='write `{"uid": {"type": ..., "id": ...}}`')
        members = cast("Mapping[str, object]", value)
        parents = members.get("parents", [])
        if not isinstance(parents, list | tuple):
            raise BadRequest("`parents` of an entity is not a list", hint="list the uids of the parents")
        return cls(
            Uid.from_json(members.get("uid")),
            _record(members, "attrs"),
            frozenset([Uid.from_json(parent) for parent in parents]),
            _record(members, "tags"),
        )


def _record(members: Mapping[str, object], name: str) -> dict[str, Value]:
    value = members.get(name, {})
    if not isinstance(value, Mapping):
        raise BadRequest(f"`{name}` of an entity is not an object", hint="write an object of names and values")
    return record_from_json(value)


def _same(one: Entity, other: Entity) -> bool:
    return one is other or (
        one.parents == other.parents and equal(one.attrs, other.attrs) and equal(one.tags, other.tags)
    )


class Entities:
    """A set of entities, read and closed once. Immutable; `with_added` gives a new set.

    An entity given twice with equal content is one; with other content it raises `BadRequest`, as does a
    hierarchy that runs in a circle.
    """

    __slots__ = ("ancestors", "by_uid")

    def __init__(self, entities: Iterable[Entity] = ()) -> None:
        self.by_uid: dict[Uid, Entity] = {}
        for entity in entities:
            self._add(entity)
        self.ancestors: dict[Uid, frozenset[Uid]] = {}
        for entity in self.by_uid.values():
            self._close(entity)

    @classmethod
    def from_json(cls, value: Iterable[object]) -> Entities:
        """Read Cedar's JSON list of entities; raises `BadRequest` for what is not one."""
        if isinstance(value, Mapping | str | bytes):
            raise BadRequest("entities are not a list", hint='write `[{"uid": ..., "attrs": {}, "parents": []}]`')
        return cls([Entity.from_json(item) for item in value])

    def with_added(self, entities: Iterable[Entity]) -> Entities:
        """This set and these besides; what stands here is not read again."""
        added = list(entities)
        together = Entities()
        together.by_uid = dict(self.by_uid)
        for entity in added:
            together._add(entity)
        names = {entity.uid for entity in added}
        if all(names.isdisjoint(ancestors) for ancestors in self.ancestors.values()):
            together.ancestors = dict(self.ancestors)
        for entity in together.by_uid.values():
            together._close(entity)
        return together

    def __len__(self) -> int:
        return len(self.by_uid)

    def _add(self, entity: Entity) -> None:
        if not _same(self.by_uid.setdefault(entity.uid, entity), entity):
            raise BadRequest("an entity stands twice in the entities", hint="send each entity once")

    def _close(self, entity: Entity) -> None:
        """Follow the parents upwards, without recursion: a hierarchy may be deep."""
        if entity.uid in self.ancestors:
            return
        above: set[Uid] = set()
        waiting = list(entity.parents)
        while waiting:
            uid = waiting.pop()
            if uid in above:
                continue
            above.add(uid)
            closed = self.ancestors.get(uid)
            if closed is not None:
                above |= closed
            elif (parent := self.by_uid.get(uid)) is not None:
                waiting.extend(parent.parents)
        if entity.uid in above:
            raise BadRequest("the entities are in each other in a circle", hint="mend `parents`")
        self.ancestors[entity.uid] = frozenset(above)

"""Entities and what the request brings: attributes, tags, `has`, `is`, `in`.

Of entities only the principal, the action and the resource are known; any other has no attributes and no parents.
"""

from __future__ import annotations

from collections.abc import Callable

from checkrein.analysis.logic import Bool, Term
from checkrein.analysis.types import Member, RecordOf, SetOf, type_name
from checkrein.analysis.values import (
    Alternative,
    Brought,
    NotAnalysed,
    Owner,
    Value,
    as_value,
    conjunction,
    known,
    merged,
    pairs,
    truth,
)
from checkrein.analysis.world import LABELS, BroughtSet, View
from checkrein.policy.values import Uid


class AnyTag(RecordOf, frozen=True):
    """The tags of an entity: one that is asked for by any name is of the one type that tags have."""

    def get(self, name: str) -> Member | None:
        return self.members[0][1]


class Hierarchy:
    """For requests whose action is one of `actions`."""

    def __init__(self, view: View, actions: frozenset[int]) -> None:
        self.view = view
        self.world = view.world
        self.logic = view.world.logic
        self.texts = view.world.texts
        self.actions = actions

    # --- records and entities

    def attribute(self, owner: Value, name: str) -> Value:
        found: list[Alternative] = []
        for a in owner:
            if a.kind == "record" and isinstance(a.term, dict):
                found += [b._replace(guard=self.logic.every([a.guard, b.guard])) for b in a.term.get(name, ())]
            elif a.kind == "record":
                found += self._brought(a.guard, a.term, name)
            elif a.kind == "entity":
                for guard, record in self._entity_records(a.term):
                    found += self._brought(self.logic.every([a.guard, guard]), record, name)
        return merged(self.logic, found)

    def has(self, owner: Value, name: str) -> Value:
        found: list[Alternative] = []
        for a in owner:
            if a.kind == "record" and isinstance(a.term, dict):
                found.append(Alternative(a.guard, "bool", name in a.term))
            elif a.kind == "record":
                found.append(Alternative(a.guard, "bool", self._presence(a.term, name)))
            elif a.kind == "entity":
                terms = [
                    self.logic.every([guard, self._presence(record, name)])
                    for guard, record in self._entity_records(a.term)
                ]
                found.append(Alternative(a.guard, "bool", self.logic.some(terms)))
        return merged(self.logic, found)

    def _presence(self, record: Brought, name: str) -> Bool:
        return self.logic.some(a.guard for a in self._brought(True, record, name))

    def _entity_records(self, entity: Term) -> list[tuple[Bool, Brought]]:
        """The attributes of an entity, which are known only of the principal and of the resource."""
        variables = [entity] if isinstance(entity, str) else ["principal", "resource"]
        found = []
        for variable in variables:
            if variable in self.world.kind:
                guard = self.same_entity(variable, entity)
                cases = [
                    (frozenset([number]), self.view.types.entities[kind].attributes)
                    for number, kind in enumerate(self.world.kinds)
                    if kind in self.view.types.entities
                ]
                found.append((guard, Brought(variable, Owner(variable, tuple(cases)))))
        return found

    def _brought(self, guard: Bool, record: Brought, name: str) -> list[Alternative]:
        """A member of a record that the request brings: by the type it has for each action or entity type."""
        path = f"{record.path}.{name}"
        by_member: dict[Member, frozenset[int]] = {}
        for numbers, type in record.owner.cases:
            member = type.get(name)
            if member is not None:
                by_member[member] = by_member.get(member, frozenset()) | numbers
        every = frozenset().union(*(numbers for numbers, _ in record.owner.cases))
        found: list[Alternative] = []
        nested: list[tuple[frozenset[int], RecordOf]] = []
        guards: list[Bool] = []
        for member, numbers in by_member.items():
            among = self._among(record.owner.variable, numbers, every)
            has = self.world.has(f"{path}:{type_name(member.type)}") if member.optional else True
            this = self.logic.every([guard, among, has])
            if isinstance(member.type, RecordOf):
                nested.append((numbers, member.type))
                guards.append(this)
            else:
                found.append(Alternative(this, *self._variable(path, member.type)))
        if nested:
            owner = Owner(record.owner.variable, tuple(nested))
            found.append(Alternative(self.logic.some(guards), "record", Brought(path, owner)))
        return found

    def _among(self, variable: str, numbers: frozenset[int], every: frozenset[int]) -> Bool:
        if numbers == every and variable == "action":
            return True
        if variable == "action":
            return self.world.is_action(numbers)
        return self.logic.some(self.world.kind[variable] == number for number in sorted(numbers))

    def _variable(self, path: str, type: str | SetOf) -> tuple[str, Term]:
        if isinstance(type, SetOf):
            kind = {"String": "string", "Long": "long"}.get(str(type.item))
            if kind is None:
                raise NotAnalysed("a set of other than String or Long")
            return "set", self.world.set_of(self.view.labels_path if path == LABELS else path, kind)
        match type:
            case "String":
                return "string", self.world.text(path)
            case "Bool":
                return "bool", self.world.boolean(f"{path}:bool")
            case "Long" | "decimal" | "datetime" | "duration":
                return type.lower(), self.world.number(path, type.lower())
        raise NotAnalysed(f"a value of type `{type}` in the request")

    # --- entities

    def same_entity(self, one: Term, other: Term) -> Bool:
        if isinstance(one, Uid) and isinstance(other, Uid):
            return one == other
        if isinstance(one, Uid):
            one, other = other, one
        if one == other:
            return True
        if isinstance(other, str):
            if "action" in (one, other):
                return False
            return self.logic.every(
                [
                    self.logic.same(self.world.kind[one], self.world.kind[other]),
                    self.texts.equal(self.world.id[one], self.world.id[other]),
                ]
            )
        if one == "action":
            return self._is_action(other)
        if other.type not in self.world.kinds:
            return False
        same = self.texts.equal(self.world.id[one], self.texts.constant(other.id))
        return self.logic.every([self.world.kind[one] == self.world.kinds.index(other.type), same])

    def _is_action(self, uid: Uid) -> Bool:
        number = self.view.uid_of_action(uid)
        if number is not None:
            return self._among("action", self.actions & {number}, self.actions)
        if uid.type == "Action" and uid.id not in self.view.types.actions:
            raise NotAnalysed(f"the undeclared action `{uid.id[:80]}`")
        return False

    def is_a(self, entity: Term, kind: str) -> Bool:
        if isinstance(entity, Uid):
            return entity.type == kind
        if entity == "action":
            return kind == "Action"
        return self.world.kind[entity] == self.world.kinds.index(kind) if kind in self.world.kinds else False

    def is_within(self, entity: Term, container: Uid) -> Bool:
        """`in`: the entity is the container, or below it; what is above what is known of request's entities only."""
        if isinstance(entity, Uid):
            terms = [
                self.logic.every([self.same_entity(variable, entity), self._below(variable, container)])
                for variable in ("principal", "action", "resource")
            ]
            return self.logic.some([entity == container, *terms])
        return self.logic.some([self.same_entity(entity, container), self._below(entity, container)])

    def _below(self, variable: str, container: Uid) -> Bool:
        if variable == "action":
            return self.view.in_group(container.id, self.actions) if container.type == "Action" else False
        kinds = [
            number
            for number, kind in enumerate(self.world.kinds)
            if kind in self.view.types.entities and container.type in self.view.types.entities[kind].within
        ]
        if not kinds:
            return False
        among = self.logic.some(self.world.kind[variable] == number for number in kinds)
        return self.logic.every([among, self.world.parent(variable, container)])

    def within(self, one: Value, other: Value) -> Value:
        found = []
        for guard, a, b in pairs(self.logic, one, other):
            if a.kind != "entity":
                continue
            if b.kind == "entity":
                found.append(Alternative(guard, "bool", self.is_within(a.term, self._uid(b.term))))
            elif b.kind == "set" and not isinstance(b.term, BroughtSet):
                uids = [c for item in b.term for c in item]
                if any(c.kind != "entity" or c.guard is not True for c in uids):
                    raise NotAnalysed("`in` a set of other than named entities")
                terms = [self.is_within(a.term, self._uid(c.term)) for c in uids]
                found.append(Alternative(guard, "bool", self.logic.some(terms)))
            elif b.kind == "set":
                raise NotAnalysed("`in` a set of the request")
        return merged(self.logic, found)

    def _uid(self, entity: Term) -> Uid:
        if isinstance(entity, Uid):
            return entity
        raise NotAnalysed("`in` an entity that is not named")

    def is_of_type(self, owner: Value, kind: str, container: Value | None) -> Value:
        found = [Alternative(a.guard, "bool", self.is_a(a.term, kind)) for a in owner if a.kind == "entity"]
        if container is None:
            return merged(self.logic, found)
        is_type = truth(self.logic, merged(self.logic, found))
        return as_value(
            self.logic, conjunction(self.logic, [is_type, truth(self.logic, self.within(owner, container))])
        )

    def has_tag(self, owner: Value, name: Value) -> Value:
        return self._tagged(owner, name, lambda found: known("bool", self.logic.some(a.guard for a in found)))

    def get_tag(self, owner: Value, name: Value) -> Value:
        return self._tagged(owner, name, lambda found: tuple(found))

    def _tagged(self, owner: Value, name: Value, make: Callable[[list[Alternative]], Value]) -> Value:
        found: list[Alternative] = []
        for guard, a, b in pairs(self.logic, owner, name):
            if a.kind != "entity" or b.kind != "string":
                continue
            if b.term.sources:
                raise NotAnalysed("a tag whose name is not written out")
            tag = self.texts.named[b.term.code]
            there: list[Alternative] = []
            for holds, record in self._entity_records(a.term):
                there += self._brought(holds, self._tags(record), tag)
            found += [c._replace(guard=self.logic.every([guard, c.guard])) for c in make(there)]
        return merged(self.logic, found)

    def _tags(self, record: Brought) -> Brought:
        """The tags of an entity as a record with any member."""
        kinds = [(number, self.view.types.entities.get(kind)) for number, kind in enumerate(self.world.kinds)]
        cases = tuple(
            (frozenset([number]), AnyTag((("", Member(kind.tags, optional=True)),)))
            for number, kind in kinds
            if kind is not None and kind.tags is not None
        )
        return Brought(f"{record.path} tag", Owner(record.owner.variable, cases))

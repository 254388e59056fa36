"""The schema of a bundle as types: what each action's context holds, and what stands on entities.

Reads the part of Cedar's schema syntax that `policy.schema` writes: no namespaces, no common types.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

import msgspec

from checkrein.model import CheckreinError


class SetOf(msgspec.Struct, frozen=True):
    item: str | RecordOf | SetOf


class Member(msgspec.Struct, frozen=True):
    type: str | RecordOf | SetOf
    optional: bool


class RecordOf(msgspec.Struct, frozen=True):
    """A record by its members, in order of the name."""

    members: tuple[tuple[str, Member], ...] = ()

    def get(self, name: str) -> Member | None:
        return next((member for known, member in self.members if known == name), None)


#: a name such as `String` or `Long`, or a record, or a set
Type = str | RecordOf | SetOf


def type_name(type: Type) -> str:
    """`String`, `Set<Long>`, `Record`."""
    if isinstance(type, SetOf):
        return f"Set<{type_name(type.item)}>"
    return "Record" if isinstance(type, RecordOf) else type


class EntityType(msgspec.Struct, frozen=True):
    within: tuple[str, ...] = ()
    attributes: RecordOf = RecordOf()
    tags: str | RecordOf | SetOf | None = None


class ActionType(msgspec.Struct, frozen=True):
    groups: tuple[str, ...] = ()
    principals: tuple[str, ...] = ()
    resources: tuple[str, ...] = ()
    context: RecordOf = RecordOf()


class Types(msgspec.Struct, frozen=True):
    entities: Mapping[str, EntityType]
    actions: Mapping[str, ActionType]


def read_types(schema: str) -> Types:
    """Read a schema in Cedar's syntax; raises `CheckreinError` for a form that is not known here."""
    return _Reader(schema).read()


_TOKEN = re.compile(r'\s+|//[^\n]*|("(?:\\.|[^"\\])*"|[A-Za-z_]\w*|.)', re.DOTALL)


class _Reader:
    def __init__(self, text: str) -> None:
        self._tokens = [match[1] for match in _TOKEN.finditer(text) if match[1] is not None]
        self._at = 0

    def read(self) -> Types:
        entities: dict[str, EntityType] = {}
        actions: dict[str, ActionType] = {}
        while self._at < len(self._tokens):
            word = self._take()
            if word == "entity":
                names, entity = self._entity()
                entities |= dict.fromkeys(names, entity)
            elif word == "action":
                names, action = self._action()
                actions |= dict.fromkeys(names, action)
            else:
                raise self._strange(word)
        return Types(entities, actions)

    def _entity(self) -> tuple[list[str], EntityType]:
        names = self._names()
        within = self._list() if self._skip("in") else []
        self._skip("=")
        attributes = self._record() if self._peek() == "{" else RecordOf()
        tags = self._type() if self._skip("tags") else None
        self._expect(";")
        return names, EntityType(tuple(within), attributes, tags)

    def _action(self) -> tuple[list[str], ActionType]:
        names = self._names()
        groups = self._list() if self._skip("in") else []
        if not self._skip("appliesTo"):
            self._expect(";")
            return names, ActionType(tuple(groups))
        self._expect("{")
        parts: dict[str, list[str]] = {}
        context = RecordOf()
        while not self._skip("}"):
            part = self._name()
            self._expect(":")
            if part == "context":
                context = self._record()
            else:
                parts[part] = self._list()
            self._skip(",")
        self._expect(";")
        return names, ActionType(
            tuple(groups), tuple(parts.get("principal", ())), tuple(parts.get("resource", ())), context
        )

    def _type(self) -> Type:
        if self._peek() == "{":
            return self._record()
        name = self._name()
        if name != "Set":
            return name
        self._expect("<")
        item = self._type()
        self._expect(">")
        return SetOf(item)

    def _record(self) -> RecordOf:
        self._expect("{")
        members: dict[str, Member] = {}
        while not self._skip("}"):
            name = self._name()
            optional = self._skip("?")
            self._expect(":")
            members[name] = Member(self._type(), optional)
            self._skip(",")
        return RecordOf(tuple(sorted(members.items())))

    def _names(self) -> list[str]:
        names = [self._name()]
        while self._skip(","):
            names.append(self._name())
        return names

    def _list(self) -> list[str]:
        if not self._skip("["):
            return [self._name()]
        names: list[str] = []
        while not self._skip("]"):
            names.append(self._name())
            self._skip(",")
        return names

    def _name(self) -> str:
        token = self._take()
        if token.startswith('"'):
            return str(json.loads(token))
        if not token.isidentifier():
            raise self._strange(token)
        return token

    def _peek(self) -> str:
        return self._tokens[self._at] if self._at < len(self._tokens) else ""

    def _take(self) -> str:
        token = self._peek()
        self._at += 1
        return token

    def _skip(self, token: str) -> bool:
        found = self._peek() == token
        self._at += found
        return found

    def _expect(self, token: str) -> None:
        if not self._skip(token):
            raise self._strange(self._peek())

    def _strange(self, token: str) -> CheckreinError:
        return CheckreinError(f"the schema cannot be analysed: unexpected `{token[:40]}`", hint="see `checkrein check`")

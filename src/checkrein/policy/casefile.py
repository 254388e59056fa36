"""Reads policy tests (`tests/*.yaml`): requests with the outcome they must have.

now: 2026-01-05T09:00:00Z            # when the tests take place; `NOW` if it is left out
tests:
  - name: a small payment runs
    subject: {id: alice, roles: [treasury]}        # or just `alice`; `anyone` if it is left out
    tool: transfer_funds                           # or `prompt: text`, or `request:` in AuthZEN's form
    input: {to: ACME, amount: 500}
    context: {environment: production}
    expect: {outcome: allow, policies: [pay-small], risk: amber}

Fixtures and a matrix say much in few lines. With `subjects`, a test may name only those.

subjects: {alice: {roles: [treasury]}, bob: {roles: [staff]}}
resources: {bank: {type: tool, id: bank-1}}
tests:
  - name: who may pay                              # every combination is a test of its own
    tool: transfer_funds
    resource: bank
    matrix: {subject: [alice, bob], input: [{to: ACME, amount: 5}, {to: ACME, amount: 5000}]}
    expect:                                        # the first row that fits; or one mapping for all
      - {for: {subject: bob}, outcome: deny}
      - {for: {input: {to: ACME, amount: 5}}, outcome: allow}
      - {outcome: require_review}
"""

from __future__ import annotations

import contextlib
import datetime
import itertools
import math
import re
from collections.abc import Mapping, Sequence
from typing import cast

import msgspec

from checkrein.model import Action, BadRequest, Level, Outcome, Request, Resource, Subject
from checkrein.model.request import PROMPT, TOOL
from checkrein.policy.cases import Case, Expect
from checkrein.policy.source import Checker, Document, Path, kind_of, problem, read_yaml

#: Monday, 5 January 2026, 12:00 UTC: tests never read a clock
NOW = "2026-01-05T12:00:00Z"

#: the subject of a test that names none
ANYONE = "anyone"
#: what a matrix may vary, and how far
MATRIX = ("subject", "resource", "prompt", "tool", "input", "context")
MAX_COMBINATIONS = 1000
#: members of the same file that are read elsewhere: `analysis` proves invariants
ELSEWHERE = ("invariants",)

_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
_RFC3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d{1,6})?([Zz]|[+-]\d\d:\d\d)", re.ASCII)
_OUTCOMES = {outcome.wire: outcome for outcome in Outcome}


def _short(value: object) -> str:
    """A value of a matrix, for the name of its test."""
    text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    return text if len(text) <= 60 else text[:59] + "…"


def read_cases(data: bytes, file: str) -> tuple[tuple[Case, ...], tuple[str, ...]]:
    """The cases of one file that can be read, and every problem, one line each."""
    reader = _Reader(read_yaml(data, file))
    return reader.cases(), tuple(reader.problems)


class _WrongError(Exception):
    """The case cannot be read; the problem stands in the list already."""


class _Reader(Checker):
    """Reads a case wholly or, at its first problem, not at all."""

    now_us = 0

    def __init__(self, document: Document) -> None:
        super().__init__(document)
        self.subjects: dict[str, Subject] = {}
        self.resources: dict[str, Resource] = {}

    def wrong(self, path: Path, message: str, hint: str) -> _WrongError:
        self.complain(path, message, hint)
        return _WrongError()

    def mapping(self, value: object, path: Path, hint: str) -> dict[str, object]:
        if isinstance(value, dict):
            return cast("dict[str, object]", value)
        raise self.wrong(path, f"`{path[-1]}` is {kind_of(value)}, not a mapping", hint)

    def text(self, value: object, path: Path, hint: str) -> str:
        if isinstance(value, str) and value.strip():
            return value
        raise self.wrong(path, f"`{path[-1]}` is {kind_of(value)}, not text", hint)

    def texts(self, value: object, path: Path, hint: str) -> tuple[str, ...]:
        if not isinstance(value, list):
            raise self.wrong(path, f"`{path[-1]}` is {kind_of(value)}, not a list", hint)
        return tuple(self.text(item, (*path, index), hint) for index, item in enumerate(value))

    def cases(self) -> tuple[Case, ...]:
        value = self.document.value
        if not isinstance(value, dict) or not isinstance(value.get("tests"), list):
            if not self.problems:
                self.complain((), "the file has no list `tests`", "start it with `tests:`")
            return ()
        self.members(value, (), ("now", "subjects", "resources", "tests", *ELSEWHERE))
        self.fixtures(value)
        with contextlib.suppress(_WrongError):
            self.now_us = self.time(value.get("now", NOW), ("now",))
        cases: list[Case] = []
        for index, item in enumerate(value["tests"]):
            with contextlib.suppress(_WrongError):
                cases += self.case(item, ("tests", index))
        names: dict[str, Case] = {}
        for case in cases:
            if names.setdefault(case.name, case) is not case:
                message = f"the name `{case.name[:80]}` stands twice"
                self.problems.append(problem(case.place, message, "give each test its own"))
        return tuple(cases)

    def time(self, value: object, path: Path) -> int:
        hint = "write `2026-01-05T09:00:00Z`"
        if isinstance(value, str) and _RFC3339.fullmatch(value):
            try:
                moment = datetime.datetime.fromisoformat(value.upper())
            except ValueError:
                raise self.wrong(path, f"`{value}` is no moment", hint) from None
            return (moment - _EPOCH) // datetime.timedelta(microseconds=1)
        raise self.wrong(path, "`now` is no time in RFC 3339", hint)

    def fixtures(self, value: dict[str, object]) -> None:
        """Read `subjects` and `resources`; one that cannot be read is a problem, and is not known to the tests."""
        for member, read, known in (
            ("subjects", self.subject_fixture, self.subjects),
            ("resources", self.resource_fixture, self.resources),
        ):
            with contextlib.suppress(_WrongError):
                given = self.mapping(value.get(member, {}), (member,), "write names and what they stand for")
                for name, item in given.items():
                    with contextlib.suppress(_WrongError):
                        known[name] = read(name, item, (member, name))  # type: ignore[assignment]

    def subject_fixture(self, name: str, value: object, path: Path) -> Subject:
        hint = "write `{roles: [treasury]}`"
        members = self.mapping({} if value is None else value, path, hint)
        return self.subject_from({"id": name, **members}, path, hint)

    def resource_fixture(self, name: str, value: object, path: Path) -> Resource:
        hint = "write `{type: tool, id: bank}`"
        members = {"type": "tool", "id": name, **self.mapping({} if value is None else value, path, hint)}
        self.members(members, path, ("type", "id", "properties"))
        properties = self.mapping(members.get("properties", {}), (*path, "properties"), hint)
        kind = self.text(members["type"], (*path, "type"), hint)
        return Resource(kind, self.text(members["id"], (*path, "id"), hint), properties)

    def case(self, value: object, path: Path) -> list[Case]:
        """One test, or one for each combination of its matrix."""
        if not isinstance(value, dict) or "matrix" not in value:
            return [self.single(value, path)]
        hint = "write `matrix: {subject: [alice, bob]}`"
        matrix = self.mapping(value["matrix"], (*path, "matrix"), hint)
        self.members(matrix, (*path, "matrix"), MATRIX)
        for name, items in matrix.items():
            if not isinstance(items, list) or not items:
                raise self.wrong((*path, "matrix", name), f"`{name}` is no list with items", hint)
            if name in value:
                raise self.wrong((*path, "matrix", name), f"`{name}` stands beside the matrix too", "keep one of them")
        if math.prod(len(cast("list[object]", items)) for items in matrix.values()) > MAX_COMBINATIONS:
            raise self.wrong((*path, "matrix"), f"more than {MAX_COMBINATIONS} combinations", "split the test")
        plain = {name: item for name, item in value.items() if name not in ("matrix", "expect")}
        cases: list[Case] = []
        for items in itertools.product(*cast("Sequence[list[object]]", list(matrix.values()))):
            chosen = dict(zip(matrix, items, strict=True))
            row = self.row(value.get("expect"), chosen, (*path, "expect"))
            named = f"{value.get('name')} [{', '.join(map(_short, items))}]"
            cases.append(self.single({**plain, **chosen, "name": named, "expect": row}, path))
        return cases

    def row(self, expect: object, chosen: Mapping[str, object], path: Path) -> object:
        """The expectation for one combination: the first row whose `for` it fits."""
        if not isinstance(expect, list):
            return expect
        for index, item in enumerate(expect):
            members = self.mapping(item, (*path, index), "write `{for: {subject: alice}, outcome: deny}`")
            wanted = self.mapping(members.get("for", {}), (*path, index, "for"), "name values of the matrix")
            for name in wanted:
                if name not in chosen:
                    raise self.wrong((*path, index, "for"), f"`{name}` is not in the matrix", "name what varies")
            if all(chosen[name] == item for name, item in wanted.items()):
                return {name: item for name, item in members.items() if name != "for"}
        what = ", ".join(map(_short, chosen.values()))
        raise self.wrong(path, f"no row fits the combination [{what}]", "end with a row without `for`")

    def single(self, value: object, path: Path) -> Case:
        if not isinstance(value, dict):
            raise self.wrong(path, f"a test is {kind_of(value)}, not a mapping", "give it `name` and `expect`")
        known = ("name", "request", "prompt", "tool", "input", "subject", "resource", "context", "expect")
        self.members(value, path, known)
        if "name" not in value:
            raise self.wrong(path, "the test has no `name`", "say in a few words what must hold")
        name = self.text(value["name"], (*path, "name"), "say in a few words what must hold")
        if "expect" not in value:
            raise self.wrong(path, f"`{name[:80]}` expects nothing", "write `expect: {outcome: deny}`")
        expect = self.expect(value["expect"], (*path, "expect"))
        return Case(name, self.document.place(*path), self.request(value, path), self.now_us, expect)

    def expect(self, value: object, path: Path) -> Expect:
        known = f"known: {', '.join(_OUTCOMES)}"
        members = self.mapping(value, path, "write `{outcome: deny}`")
        self.members(members, path, ("outcome", "policies", "risk"))
        outcome = members.get("outcome")
        if not isinstance(outcome, str) or outcome.lower() not in _OUTCOMES:
            shown = f"`{outcome[:80]}`" if isinstance(outcome, str) else kind_of(outcome)
            raise self.wrong((*path, "outcome"), f"unknown outcome {shown}", known)
        policies = None
        if "policies" in members:
            policies = self.texts(members["policies"], (*path, "policies"), "list ids of policies")
        risk = members.get("risk")
        if risk is not None and (not isinstance(risk, str) or risk not in list(Level)):
            raise self.wrong((*path, "risk"), "unknown risk level", f"known: {', '.join(Level)}")
        return Expect(_OUTCOMES[outcome.lower()], policies, None if risk is None else Level(risk))

    def request(self, value: dict[str, object], path: Path) -> Request:
        ways = [name for name in ("request", "prompt", "tool") if name in value]
        if len(ways) != 1:
            message = f"the test has {' and '.join(ways) or 'no request'}"
            raise self.wrong(path, message, "give it one of `prompt`, `tool` or `request`")
        if ways == ["request"]:
            return self.authzen(value, path)
        subject = self.subject(value.get("subject", ANYONE), (*path, "subject"))
        context = self.mapping(value.get("context", {}), (*path, "context"), "write it as in a request")
        if ways == ["prompt"]:
            if "input" in value:
                raise self.wrong((*path, "input"), "a prompt has no `input`", "leave it out")
            text = self.text(value["prompt"], (*path, "prompt"), "write what the person says")
            input: dict[str, object] = {"messages": [{"role": "user", "content": text}]}
            target = self.resource(value, Resource("model", "default"), path)
            return Request(subject, Action(PROMPT, {"input": input}), target, context)
        tool = self.text(value["tool"], (*path, "tool"), "name the tool")
        input = self.mapping(value.get("input", {}), (*path, "input"), "write the arguments by name")
        target = self.resource(value, Resource(TOOL, tool), path)
        return Request(subject, Action(tool, {"input": input}), target, context)

    def resource(self, value: Mapping[str, object], default: Resource, path: Path) -> Resource:
        if "resource" not in value:
            return default
        name = self.text(value["resource"], (*path, "resource"), "name one of `resources`")
        if name not in self.resources:
            raise self.wrong((*path, "resource"), f"`{name[:80]}` is not among `resources`", "add it there")
        return self.resources[name]

    def authzen(self, value: dict[str, object], path: Path) -> Request:
        for name in ("subject", "resource", "context", "input"):
            if name in value:
                raise self.wrong((*path, name), f"`{name}` stands beside `request`", "put it inside")
        members = self.mapping(value["request"], (*path, "request"), "write it in AuthZEN's form")
        try:
            return Request.from_json(members)
        except BadRequest as error:
            raise self.wrong((*path, "request"), str(error), error.hint) from None

    def subject(self, value: object, path: Path) -> Subject:
        hint = "write `alice` or `{id: alice, roles: [treasury]}`"
        if isinstance(value, str) and value.strip():
            if value in self.subjects:
                return self.subjects[value]
            if self.subjects and value != ANYONE:
                raise self.wrong(path, f"`{value[:80]}` is not among `subjects`", "add it there")
            return Subject("user", value)
        return self.subject_from(self.mapping(value, path, hint), path, hint)

    def subject_from(self, members: dict[str, object], path: Path, hint: str) -> Subject:
        self.members(members, path, ("type", "id", "roles", "properties"))
        properties = dict(self.mapping(members.get("properties", {}), (*path, "properties"), hint))
        if "roles" in members:
            properties["roles"] = list(self.texts(members["roles"], (*path, "roles"), hint))
        kind = self.text(members.get("type", "user"), (*path, "type"), hint)
        return Subject(kind, self.text(members.get("id"), (*path, "id"), hint), properties)

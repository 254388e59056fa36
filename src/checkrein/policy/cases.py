"""Policy tests (`tests/*.yaml`): requests with the outcome they must have.

now: 2026-01-05T09:00:00Z            # when the tests take place; `NOW` if it is left out
tests:
  - name: a small payment runs
    subject: {id: alice, roles: [treasury]}        # or just `alice`; `anyone` if it is left out
    tool: transfer_funds                           # or `prompt: text`, or `request:` in AuthZEN's form
    input: {to: ACME, amount: 500}
    context: {environment: production}
    expect: {outcome: allow, policies: [pay-small], risk: amber}
"""

from __future__ import annotations

import contextlib
import datetime
import re
from collections.abc import Callable, Sequence
from typing import cast

import msgspec

from checkrein.model import (
    Action,
    BadRequest,
    CheckreinError,
    Decision,
    Level,
    Outcome,
    Request,
    Resource,
    Subject,
)
from checkrein.model.request import PROMPT
from checkrein.policy.source import Checker, Path, kind_of, problem, read_yaml

#: Monday, 5 January 2026, 12:00 UTC: tests never read a clock
NOW = "2026-01-05T12:00:00Z"

_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
_RFC3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d{1,6})?([Zz]|[+-]\d\d:\d\d)", re.ASCII)
_OUTCOMES = {outcome.wire: outcome for outcome in Outcome}


class Expect(msgspec.Struct, frozen=True):
    """What a decision must be. None is not checked; `policies` are the determining ones, in any order."""

    outcome: Outcome
    policies: tuple[str, ...] | None = None
    risk: Level | None = None


class Case(msgspec.Struct, frozen=True):
    """One test; `place` is `tests/x.yaml:12`."""

    name: str
    place: str
    request: Request
    now_us: int
    expect: Expect


class CaseResult(msgspec.Struct, frozen=True):
    """A case that was run; `failures` says in plain words what was not as expected."""

    case: Case
    decision: Decision | None
    failures: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        return not self.failures


def run(cases: Sequence[Case], decide: Callable[[Request, int], Decision]) -> tuple[CaseResult, ...]:
    """Decide every case at its own time (microseconds since 1970) and compare."""
    results = []
    for case in cases:
        try:
            decision = decide(case.request, case.now_us)
        except CheckreinError as error:
            results.append(CaseResult(case, None, (f"no decision: {error}",)))
        else:
            results.append(CaseResult(case, decision, _failures(case.expect, decision)))
    return tuple(results)


def _failures(expect: Expect, decision: Decision) -> tuple[str, ...]:
    failures = []
    if decision.outcome is not expect.outcome:
        text = f"expected {expect.outcome.wire}, got {decision.outcome.wire}"
        because = [*decision.reasons, *(f"`{error.policy}`: {error.message}" for error in decision.errors)]
        failures.append(f"{text} because: {'; '.join(because)}" if because else text)
    if expect.policies is not None and set(expect.policies) != set(decision.policies):
        failures.append(f"expected it decided by {_ids(expect.policies)}, was {_ids(decision.policies)}")
    if expect.risk is not None and decision.risk.level is not expect.risk:
        factors = f" ({', '.join(decision.risk.factors)})" if decision.risk.factors else ""
        failures.append(f"expected risk {expect.risk.value}, got {decision.risk.level.value}{factors}")
    return tuple(failures)


def _ids(ids: Sequence[str]) -> str:
    return ", ".join(f"`{id}`" for id in sorted(ids)) or "no policy"


def read_cases(data: bytes, file: str) -> tuple[tuple[Case, ...], tuple[str, ...]]:
    """The cases of one file that can be read, and every problem, one line each."""
    reader = _Reader(read_yaml(data, file))
    return reader.cases(), tuple(reader.problems)


class _WrongError(Exception):
    """The case cannot be read; the problem stands in the list already."""


class _Reader(Checker):
    """Reads a case wholly or, at its first problem, not at all."""

    now_us = 0

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
        self.members(value, (), ("now", "tests"))
        with contextlib.suppress(_WrongError):
            self.now_us = self.time(value.get("now", NOW), ("now",))
        cases: list[Case] = []
        for index, item in enumerate(value["tests"]):
            with contextlib.suppress(_WrongError):
                cases.append(self.case(item, ("tests", index)))
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

    def case(self, value: object, path: Path) -> Case:
        if not isinstance(value, dict):
            raise self.wrong(path, f"a test is {kind_of(value)}, not a mapping", "give it `name` and `expect`")
        known = ("name", "request", "prompt", "tool", "input", "subject", "context", "expect")
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
        subject = self.subject(value.get("subject", "anyone"), (*path, "subject"))
        context = self.mapping(value.get("context", {}), (*path, "context"), "write it as in a request")
        if ways == ["prompt"]:
            if "input" in value:
                raise self.wrong((*path, "input"), "a prompt has no `input`", "leave it out")
            text = self.text(value["prompt"], (*path, "prompt"), "write what the person says")
            input: dict[str, object] = {"messages": [{"role": "user", "content": text}]}
            return Request(subject, Action(PROMPT, {"input": input}), Resource("model", "default"), context)
        tool = self.text(value["tool"], (*path, "tool"), "name the tool")
        input = self.mapping(value.get("input", {}), (*path, "input"), "write the arguments by name")
        return Request(subject, Action(tool, {"input": input}), Resource("tool", tool), context)

    def authzen(self, value: dict[str, object], path: Path) -> Request:
        for name in ("subject", "context", "input"):
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
            return Subject("user", value)
        members = self.mapping(value, path, hint)
        self.members(members, path, ("type", "id", "roles", "properties"))
        properties = dict(self.mapping(members.get("properties", {}), (*path, "properties"), hint))
        if "roles" in members:
            properties["roles"] = list(self.texts(members["roles"], (*path, "roles"), hint))
        kind = self.text(members.get("type", "user"), (*path, "type"), hint)
        return Subject(kind, self.text(members.get("id"), (*path, "id"), hint), properties)

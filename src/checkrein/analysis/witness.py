"""From a solution to a request: in AuthZEN's form for people, and as each bundle's policies are asked about it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec

from checkrein.analysis.logic import Bool, Solver, Verdict
from checkrein.analysis.texts import Match, Solution, Unrealisable
from checkrein.analysis.types import RecordOf, SetOf, Type, type_name
from checkrein.analysis.world import View, World, argument
from checkrein.model import Action, Request, Resource, Risk, Subject
from checkrein.model.request import ANSWER, PROMPT
from checkrein.policy.effect import Effect
from checkrein.policy.engine import PolicyResult, PolicySet
from checkrein.policy.entities import Entities, Entity
from checkrein.policy.extension import Datetime, Decimal, Duration
from checkrein.policy.schema import SUBJECT_ATTRIBUTES, action_entity
from checkrein.policy.values import Uid, Value, to_json

#: how often another request is tried when the evaluator does not confirm one
MAX_TRIES = 8
#: how often a solution may turn out to ask for texts that cannot be
MAX_REPAIRS = 200

#: a verb that tells of each effect, for a tool without a manifest
_VERBS = {
    Effect.READ: "get",
    Effect.WRITE: "update",
    Effect.EXTERNAL: "send",
    Effect.EGRESS: "upload",
    Effect.IRREVERSIBLE: "delete",
}
#: what a request brings where no policy asks
_USUAL: Mapping[str, Value] = {
    "context.time.hour": 12,
    "context.time.weekday": "monday",
    "context.time.date": "2026-01-05",
    "context.risk.score": 0,
}
_IN_REQUEST = ("agent", "environment", "scope", "session")


class Question(msgspec.Struct, frozen=True):
    """What a bundle's policies are asked; None where the request is denied before."""

    principal: Uid
    action: Uid
    resource: Uid
    context: dict[str, object]
    entities: Entities


class Witness(msgspec.Struct, frozen=True):
    """One concrete request. `facts` are what policies see besides (labels, risk, time, ...), by name in `context`.

    `labels` are those that it does not bear just because of the tool it is.
    """

    request: Request
    facts: dict[str, object]
    labels: tuple[str, ...]
    protocol: str
    questions: tuple[Question | None, ...]

    def to_json(self) -> dict[str, object]:
        """AuthZEN's form; the facts, which a caller cannot claim, stand in `context` to be read."""
        value: dict[str, object] = msgspec.to_builtins(self.request)
        protocol = {"protocol": self.protocol} if self.protocol else {}
        value["context"] = {**self.request.context, **self.facts, **protocol}
        return value


def ask(view: View, question: Question | None, policies: PolicySet | None = None) -> PolicyResult:
    """What the evaluator says: by the bundle's policies, unless others are given."""
    if question is None:
        return PolicyResult.of({}, {}, {})
    q = question
    return (policies or view.bundle.policies).evaluate(q.principal, q.action, q.resource, q.context, q.entities)


class Found(msgspec.Struct, frozen=True):
    """Whether there is such a request.

    `witness` is missing where none was wanted or its texts could not be found; `confirmed` says that the evaluator
    agrees about it.
    """

    verdict: Verdict
    witness: Witness | None = None
    core: tuple[Bool, ...] = ()
    confirmed: bool = False


class Search:
    """Questions about a world whose policies are encoded: is there a request of which all this holds?"""

    def __init__(self, world: World) -> None:
        world.settle()
        self.world = world
        self._solver: Solver = world.logic.solver()
        self._told = 0

    def add(self, terms: Iterable[Bool]) -> None:
        self._solver.add(terms)

    def find(self, assumptions: Iterable[Bool], matches: Iterable[Match]) -> Found:
        """Whether there is one. `matches` are the patterns that matter: those of the policies asked about."""
        verdict, _, _, core = self._solve(list(assumptions), frozenset(matches))
        return Found(verdict, core=core)

    def show(
        self, assumptions: Iterable[Bool], matches: Iterable[Match], confirm: Callable[[Witness], bool] = bool
    ) -> Found:
        """One that is plain to read and that the evaluator confirms, if there is such a one.

        Only what is not encoded can be taken otherwise by the evaluator. It is then tried the other way about, a
        bounded number of times.
        """
        asked, relevant = list(assumptions), frozenset(matches)
        witness = None
        for _ in range(MAX_TRIES):
            verdict, solution, texts, _ = self._solve(asked, relevant, plain=True)
            if verdict is not Verdict.YES or solution is None:
                return Found(Verdict.YES if witness else verdict, witness)
            if texts is None:
                break
            witness = _Maker(self.world, solution, texts).witness()
            if confirm(witness):
                return Found(Verdict.YES, witness, confirmed=True)
            logic = self.world.logic
            same = [logic.same(term, solution.boolean(term)) for term in self.world.opaque.values()]
            if not same:
                break
            asked.append(logic.negate(logic.every(same)))
        return Found(Verdict.YES, witness)

    def _solve(
        self, asked: list[Bool], relevant: frozenset[Match], *, plain: bool = False
    ) -> tuple[Verdict, Solution | None, dict[int, str] | None, tuple[Bool, ...]]:
        """The verdict, and if it is YES the solution and its texts, or no texts where none could be found."""
        for _ in range(MAX_REPAIRS):
            self._solver.add(self.world.facts[self._told :])
            self._told = len(self.world.facts)
            answer = self._solver.ask(asked)
            if answer.verdict is not Verdict.YES:
                return answer.verdict, None, None, answer.core
            solution = self._plainest(asked, Solution(answer.model)) if plain else Solution(answer.model)
            try:
                return answer.verdict, solution, self.world.texts.realise(solution, relevant), ()
            except Unrealisable as error:
                if not error.learnt:
                    return answer.verdict, solution, None, ()
        return Verdict.UNKNOWN, None, None, ()

    def _plainest(self, asked: list[Bool], solution: Solution) -> Solution:
        """A solution that grants the wishes, the last ones given up first."""
        key = self.world.logic.key
        wishes = {key(term): term for term in self.world.wishes()}
        for _ in range(len(wishes)):
            answer = self._solver.ask([*asked, *wishes.values()])
            if answer.verdict is Verdict.YES:
                return Solution(answer.model)
            refused = {key(term) for term in answer.core} & wishes.keys()
            if not refused:
                break
            del wishes[[wish for wish in wishes if wish in refused][-1]]
        return solution


class _Maker:
    """Makes one request of a solution."""

    def __init__(self, world: World, solution: Solution, texts: dict[int, str]) -> None:
        self.world = world
        self.solution = solution
        self.texts = dict(texts)

    def witness(self) -> Witness:
        world = self.world
        number = self.solution.integer(world.action)
        protocol = "mcp" if number and self.solution.boolean(world.mcp) else ""
        name = world.actions[number] or self._undeclared_name()
        principal, resource = self._entity("principal"), self._entity("resource")
        contexts: list[dict[str, Any]] = [self._context(view, number) for view in world.views]
        questions: list[Question | None] = []
        for view, context in zip(world.views, contexts, strict=True):
            if not self.solution.boolean(view.asked):
                questions.append(None)
                continue
            action = action_entity(name, view.bundle.manifests.resolve(name).effects, protocol)
            entities = Entities([principal, action, resource])
            questions.append(Question(principal.uid, action.uid, resource.uid, _json(context), entities))
        context = {member: value for member, value in _json(contexts[0]).items() if member not in ("input", "answer")}
        input = self._input(number, contexts)
        about = {"direction": ANSWER} if contexts[0]["answer"] else {}
        request = Request(
            Subject(principal.uid.type.lower(), principal.uid.id, self._properties(principal)),
            Action(name, {**about, **({"input": input} if input else {})}),
            Resource(resource.uid.type.lower(), resource.uid.id, dict(resource.tags)),
            {member: context[member] for member in _IN_REQUEST if member in context},
        )
        facts = {member: _plain(value) for member, value in context.items() if member not in _IN_REQUEST}
        borne = {label for label in contexts[0]["labels"] if self.solution.boolean(world.views[0].bears(label))}
        labels = tuple(sorted(contexts[0]["labels"] - borne))
        return Witness(request, facts, labels, protocol, tuple(questions))

    def _context(self, view: View, number: int) -> dict[str, Any]:
        context = self._record("context", view.action_types[number].context)
        borne = view.labels(number) if 0 < number < len(self.world.actions) - 1 else frozenset()
        return {**context, "labels": self._set(view.labels_path, "string") | borne}

    def _undeclared_name(self) -> str:
        effects = [effect for effect, term in self.world.undeclared.items() if self.solution.boolean(term)]
        return "_and_".join(_VERBS[effect] for effect in effects) + "_something"

    # --- entities

    def _entity(self, variable: str) -> Entity:
        world = self.world
        kind = world.kinds[self.solution.integer(world.kind[variable])]
        type = world.views[0].types.entities[kind]
        uid = Uid(kind, self._text(world.id[variable].code))
        tags = {}
        for path in [path for path in world.names if path.startswith(f"{variable} tag.")]:
            if type.tags is not None and self._is_there(path, type.tags):
                tags[path.removeprefix(f"{variable} tag.")] = self._value(path, type.tags)
        parents = [
            container
            for of, container in world.parents
            if of == variable and container.type in type.within and self.solution.boolean(world.parent(of, container))
        ]
        return Entity(uid, self._record(variable, type.attributes), frozenset(parents), tags)

    def _properties(self, principal: Entity) -> dict[str, Any]:
        roles = sorted(parent.id for parent in principal.parents)
        known = {name: value for name, value in principal.attrs.items() if name in SUBJECT_ATTRIBUTES}
        return {**({"roles": roles} if roles else {}), **known, **principal.tags}

    # --- values

    def _is_there(self, path: str, type: Type) -> bool:
        name = f"has {path}:{type_name(type)}"
        return name in self.world.variables and self.solution.boolean(self.world.variables[name])

    def _record(self, path: str, type: RecordOf) -> dict[str, Value]:
        found = {}
        for name, member in type.members:
            inner = f"{path}.{name}"
            if not member.optional or self._is_there(inner, member.type):
                found[name] = self._value(inner, member.type)
        return found

    def _value(self, path: str, type: Type) -> Value:
        if isinstance(type, RecordOf):
            return self._record(path, type)
        if isinstance(type, SetOf):
            return self._set(path, "string" if type.item == "String" else "long")
        if type == "String":
            return self._string(path)
        if type == "Bool":
            return bool(self._known(f"{path}:bool", False))
        number = int(self._known(f"{path}:{type.lower()}", _USUAL.get(path, 10_000 if type == "decimal" else 1)))
        makers: Mapping[str, Any] = {"decimal": Decimal, "datetime": Datetime, "duration": Duration}
        made: Value = makers.get(type, int)(number)
        return made

    def _known(self, name: str, usual: Any) -> Any:
        term = self.world.variables.get(name)
        if term is None:
            return usual
        return self.solution.boolean(term) if isinstance(usual, bool) else self.solution.integer(term)

    def _string(self, path: str) -> str:
        text = self.world.names.get(path)
        if text is not None:
            return self._text(text.code)
        if path == "context.risk.level":
            return Risk.of(int(self._known("context.risk.score:long", 0))).level.value
        return str(_USUAL.get(path, "example"))

    def _text(self, code: Any) -> str:
        """The text of a number: the same for the same, another for another."""
        number = self.solution.integer(code)
        named = self.world.texts.named
        if number in named:
            return named[number]
        if number not in self.texts:
            taken = {*named.values(), *self.texts.values()}
            names = itertools.chain(["example"], (f"example {count}" for count in itertools.count(2)))
            self.texts[number] = next(text for text in names if text not in taken)
        return self.texts[number]

    def _set(self, path: str, kind: str) -> frozenset[Any]:
        those = self.world.members.get(f"{path}:{kind}")
        if those is None:
            return frozenset()
        holds = self.world.member_test(those)
        inside = {e for e in self.world.elements(kind) if self.solution.boolean(holds(e))}
        return frozenset(self._text(e) if kind == "string" else self.solution.integer(e) for e in inside)

    # --- arguments

    def _input(self, number: int, contexts: list[dict[str, Any]]) -> dict[str, object]:
        """The arguments as a caller sends them: those that any of the bundles sees, and what all of them require."""
        found: dict[str, object] = {}
        if self.world.actions[number] == PROMPT:
            return {name: value for name, value in contexts[0]["input"].items() if name == "model"}
        for view, context in zip(self.world.views, contexts, strict=True):
            seen = context["input"]
            manifest = view.manifest(number)
            for name, kind in manifest.input.items() if manifest and isinstance(seen, dict) else ():
                there = name in seen and (kind.optional or self._sent(name, kind.type))
                if there:
                    found.setdefault(name, _plain(to_json(seen[name])))
                elif name not in seen and not kind.optional:
                    found.setdefault(name, [] if kind.type.startswith("array") else {})
        return found

    def _sent(self, name: str, type: str) -> bool:
        """Whether a required argument is there: it is, unless the bundles differ about it."""
        term = self.world.variables.get(f"has {argument(name, type)}")
        return term is None or self.solution.boolean(term)


def _json(context: Mapping[str, Value]) -> dict[str, object]:
    return {name: to_json(value) for name, value in context.items()}


def _plain(value: object) -> object:
    """Cedar's JSON form without its escapes, as the request had it: a decimal is a number."""
    if isinstance(value, dict):
        extension = value.get("__extn")
        if isinstance(extension, dict):
            return float(str(extension["arg"])) if extension["fn"] == "decimal" else extension.get("arg", extension)
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list):
        return sorted(map(_plain, value), key=str)
    return value

"""Every request there can be, as variables: which action, who, on what, and what the context holds.

A world is shared by the bundles that are compared; each has its own `View` of it, by its own manifests and schema.
Requests that never reach the policies (an unknown tool, arguments that are not as declared) are denied by a view.

Besides the types of the schema, some facts hold of every request and are told here: the hour is one of 24, the
risk level follows from the score, a tool call bears the labels of its own tool.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from checkrein.analysis.logic import Bool, Int, Logic, Term
from checkrein.analysis.texts import Text, Texts
from checkrein.analysis.types import ActionType, RecordOf, Types, read_types
from checkrein.model import Level
from checkrein.model.request import PROMPT
from checkrein.model.risk import AMBER_FROM, RED_FROM
from checkrein.policy.bundle import Bundle
from checkrein.policy.effect import Effect
from checkrein.policy.manifest import Manifest
from checkrein.policy.schema import CEDAR_TYPES, USED
from checkrein.policy.values import MAX_LONG, MIN_LONG, Uid

#: stands for every tool without a manifest
UNDECLARED = ""
LABELS = "context.labels"
WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
#: variable -> the numbers it can be
BOUNDS: Mapping[str, tuple[int, int]] = {
    "context.time.hour": (0, 23),
    "context.risk.score": (0, 100),
    **{
        f"context.usage.{whose}{name}": (0, MAX_LONG)
        for whose in ("", "agent.", "key.")
        for name, kind in USED.items()
        if kind == "Long"
    },
    "context.input.chars": (0, MAX_LONG),
    "context.input.messages": (0, MAX_LONG),
}
_CLOSED = {"context.time.weekday": WEEKDAYS, "context.risk.level": tuple(Level)}
#: bounds that hold of prompts only: a tool may have an argument of this name
_OF_PROMPTS = frozenset({"context.input.chars", "context.input.messages"})


class BroughtSet(NamedTuple):
    """A set that a request brings; its elements are of `kind`, `string` or `long`, and known by number."""

    path: str
    kind: str


class _Wide(NamedTuple):
    """A question about whole sets: `answer` is whether `test` holds of every element there can be."""

    kind: str
    answer: Bool
    test: Callable[[Int], Bool]


class World:
    def __init__(self, *bundles: Bundle) -> None:
        self.logic = Logic()
        self.facts: list[Bool] = []
        self.texts = Texts(self.logic, self.tell)
        names = {name for bundle in bundles for name in bundle.manifests.names()}
        #: the actions by their number; the last is any tool without a manifest
        self.actions = (PROMPT, *sorted(names), UNDECLARED)
        self.action = self.logic.integer("action")
        self.mcp = self.logic.boolean("mcp")
        self.undeclared = {effect: self.logic.boolean(f"undeclared {effect}") for effect in Effect}
        self.names: dict[str, Text] = {}
        self.variables: dict[str, Term] = {}
        self.members: dict[str, BroughtSet] = {}
        #: what stands for a part of a policy that is not encoded
        self.opaque: dict[str, Bool] = {}
        self.parents: dict[tuple[str, Uid], None] = {}
        self._sets: dict[str, object] = {}
        self._elements: dict[str, dict[Int, None]] = {"string": {}, "long": {}}
        self._wide: list[_Wide] = []
        self.earlier: list[View] = []
        self.views = tuple(View(self, bundle) for bundle in bundles)
        kinds = sorted({kind for view in self.views for kind in view.types.entities})
        #: the types of principals and resources by their number
        self.kinds = tuple(kinds)
        self.kind = {variable: self.logic.integer(f"{variable} type") for variable in ("principal", "resource")}
        self.id = {variable: self.texts.variable(f"{variable} id") for variable in ("principal", "resource")}
        self._tell_of_actions()
        for view in self.views:
            view.tell()
        self.tell(self.logic.some(view.asked for view in self.views))

    def tell(self, fact: Bool) -> None:
        """Something that holds of every request."""
        if fact is not True:
            self.facts.append(fact)

    def _tell_of_actions(self) -> None:
        logic = self.logic
        self.tell(self.action >= 0)
        self.tell(self.action < len(self.actions))
        self.tell(logic.some(self.undeclared.values()))
        by_types: dict[ActionType, set[int]] = {}
        for number in range(len(self.actions)):
            given = self.views[0].action_types[number]
            by_types.setdefault(ActionType((), given.principals, given.resources), set()).add(number)
        for types, numbers in by_types.items():
            for variable, allowed in (("principal", types.principals), ("resource", types.resources)):
                fits = logic.some(self.kind[variable] == self.kinds.index(kind) for kind in allowed)
                self.tell(logic.implies(self.is_action(numbers), fits))

    # --- variables, each made when it is first spoken of

    def is_action(self, numbers: Iterable[int]) -> Bool:
        return self.logic.some(self.action == number for number in sorted(numbers))

    def boolean(self, name: str) -> Bool:
        if name not in self.variables:
            self.variables[name] = self.logic.boolean(name)
        return self.variables[name]

    def unencoded(self, name: str) -> tuple[Bool, Bool]:
        """Whether a part that is not encoded has a value, and whether it is true."""
        found = [self.opaque.setdefault(what, self.logic.boolean(what)) for what in (f"has value: {name}", name)]
        return found[0], found[1]

    def has(self, name: str) -> Bool:
        """Whether an optional member is there; named by path and type, as in `context.scope:String`."""
        return self.boolean(f"has {name}")

    def number(self, path: str, kind: str) -> Int:
        """A Long, or the number that stands for a decimal, a datetime or a duration."""
        name = f"{path}:{kind}"
        if name not in self.variables:
            term = self.variables[name] = self.logic.integer(name)
            prompt = path in _OF_PROMPTS
            low, high = BOUNDS.get(path, (MIN_LONG, MAX_LONG)) if kind == "long" else (MIN_LONG, MAX_LONG)
            if prompt:
                self.tell(self.logic.implies(self.is_action([0]), low <= term))
                low = MIN_LONG
            self.tell(low <= term)
            self.tell(term <= high)
        return self.variables[name]

    def text(self, path: str) -> Text:
        if path not in self.names:
            text = self.names[path] = self.texts.variable(path)
            if path in _CLOSED:
                known = [self.texts.equal(text, self.texts.constant(str(word))) for word in _CLOSED[path]]
                self.tell(self.logic.some(known))
            if path == "context.risk.level":
                self._tell_of_levels(text)
        return self.names[path]

    def _tell_of_levels(self, level: Text) -> None:
        score = self.number("context.risk.score", "long")
        red, green = score >= RED_FROM, score < AMBER_FROM
        amber = self.logic.every([self.logic.negate(red), self.logic.negate(green)])
        for name, holds in ((Level.RED, red), (Level.AMBER, amber), (Level.GREEN, green)):
            self.tell(self.logic.same(self.texts.equal(level, self.texts.constant(name)), holds))

    def parent(self, variable: str, container: Uid) -> Bool:
        """Whether the principal or the resource has this entity above it."""
        self.parents.setdefault((variable, container))
        return self.boolean(f"{variable} in {container.type}::{container.id}")

    def wishes(self) -> list[Bool]:
        """What makes a request plain to read: a user and a tool, and nothing that could be left out."""
        logic = self.logic
        left_out = [term for name, term in self.variables.items() if name.startswith("has ")]
        left_out += [self.parent(variable, container) for variable, container in list(self.parents)]
        left_out += [self._holds(those, e) for those in self.members.values() for e in self.elements(those.kind)]
        usual = [
            self.kind[variable] == self.kinds.index(kind)
            for variable, kind in (("principal", "User"), ("resource", "Tool"))
            if kind in self.kinds
        ]
        return [*usual, logic.negate(self.mcp), *map(logic.negate, left_out)]

    # --- sets that a request brings

    def set_of(self, path: str, kind: str) -> BroughtSet:
        return self.members.setdefault(f"{path}:{kind}", BroughtSet(path, kind))

    def contains(self, those: BroughtSet, element: Int) -> Bool:
        self._elements[those.kind].setdefault(element)
        return self._holds(those, element)

    def _holds(self, those: BroughtSet, element: Int) -> Bool:
        name = f"in {those.path}:{those.kind}"
        if name not in self._sets:
            self._sets[name] = self.logic.predicate(name)
        return self.logic.holds(self._sets[name], element)

    def element(self, kind: str, element: Int) -> None:
        """Something that may be in a set."""
        self._elements[kind].setdefault(element)

    def elements(self, kind: str) -> tuple[Int, ...]:
        """Everything that can be in a set of this kind, as far as policies can tell."""
        return tuple(self._elements[kind])

    def of_all(self, name: str, kind: str, test: Callable[[Int], Bool]) -> Bool:
        """Whether `test` holds of every element there can be; settled when everything is encoded."""
        answer = self.boolean(name)
        if all(wide.answer is not answer for wide in self._wide):
            #: an element to be the exception
            self._elements[kind].setdefault(self.logic.integer(f"an element {len(self._wide)}"))
            self._wide.append(_Wide(kind, answer, test))
        return answer

    def member_test(self, those: BroughtSet) -> Callable[[Int], Bool]:
        return lambda element: self._holds(those, element)

    def settle(self) -> None:
        """Tell what could not be told before everything was encoded."""
        if self._wide and any(f"{view.labels_path}:string" in self.members for view in self.views):
            for label in sorted(label for view in self.views for label in view.all_labels()):
                self.element("string", self.texts.constant(label).code)
        for wide in self._wide:
            every = self.logic.every(wide.test(element) for element in self.elements(wide.kind))
            self.tell(self.logic.same(wide.answer, every))
        self._wide = []
        for element in self.elements("long"):
            if self.logic.is_term(element):
                self.tell(self.logic.every([element >= MIN_LONG, element <= MAX_LONG]))
        self._tell_of_labels()

    def _tell_of_labels(self) -> None:
        """A call bears the labels of its tool, by each bundle's manifests, and any others by chance."""
        others = BroughtSet("labels by chance", "string")
        for view in self.views:
            labels = self.members.get(f"{view.labels_path}:string")
            if labels is None:
                continue
            for element in self.elements("string"):
                has, chance = self._holds(labels, element), self._holds(others, element)
                self.tell(self.logic.implies(chance, has))
                if not self.logic.is_term(element):
                    borne = view.bears(self.texts.named[element])
                    self.tell(self.logic.implies(has, self.logic.some([chance, borne])))
                    self.tell(self.logic.implies(borne, has))


class View:
    """The world as one bundle sees it."""

    def __init__(self, world: World, bundle: Bundle) -> None:
        self.world = world
        self.bundle = bundle
        self.types: Types = read_types(bundle.schema)
        nameless = next(action for name, action in self.types.actions.items() if name.startswith("undeclared "))
        self.action_types = tuple(self.types.actions.get(name, nameless) for name in world.actions)
        self.groups = tuple(self._groups(name) for name in world.actions)
        #: the first view with these manifests: what is not encoded means the same in both
        self.key = next(
            (n for n, other in enumerate(world.earlier) if other.bundle.manifests == bundle.manifests),
            len(world.earlier),
        )
        world.earlier.append(self)
        #: whether a request is one that the policies are asked about
        self.asked: Bool = True

    def _groups(self, name: str) -> frozenset[str]:
        if name == PROMPT:
            return frozenset({"llm"})
        if name == UNDECLARED:
            return frozenset({"tool"})
        return frozenset({"tool", *self.bundle.manifests.resolve(name).effects})

    def manifest(self, number: int) -> Manifest | None:
        return self.bundle.manifests.get(self.world.actions[number])

    @property
    def labels_path(self) -> str:
        """Which set `context.labels` is: another one for other manifests."""
        return LABELS if self.key == 0 else f"{LABELS} by other manifests {self.key}"

    def bears(self, label: str) -> Bool:
        """Whether a call bears this label because of the tool it is."""
        world, last = self.world, len(self.world.actions) - 1
        terms = [world.is_action(number for number in range(1, last) if label in self.labels(number))]
        if label == "undeclared":
            terms.append(world.is_action([last]))
        terms += [
            world.logic.every([world.is_action([last]), term])
            for effect, term in world.undeclared.items()
            if label == f"effect:{effect}"
        ]
        return world.logic.some(terms)

    def all_labels(self) -> frozenset[str]:
        """Every label that some call bears because of the tool it is."""
        named = (self.labels(number) for number in range(1, len(self.world.actions) - 1))
        return frozenset({"undeclared", *(f"effect:{effect}" for effect in Effect)}).union(*named)

    def labels(self, number: int) -> frozenset[str]:
        """The labels that every call of a named tool bears, as `decide` classifies it."""
        name, manifest = self.world.actions[number], self.manifest(number)
        effects = (f"effect:{effect}" for effect in self.bundle.manifests.resolve(name).effects)
        return frozenset({f"tool:{name}", *effects, *(manifest.labels if manifest else ("undeclared",))})

    def in_group(self, group: str, numbers: frozenset[int]) -> Bool:
        """Whether the action, which is one of `numbers`, is in a group."""
        logic, world = self.world.logic, self.world
        fixed = {number for number in numbers if group in self.groups[number]}
        if fixed == numbers:
            return True
        terms = [world.is_action(fixed)]
        if group == "mcp":
            terms.append(logic.every([world.is_action(numbers - {0}) if 0 in numbers else True, world.mcp]))
        last = len(world.actions) - 1
        if group in list(Effect) and last in numbers:
            terms.append(logic.every([world.is_action([last]), world.undeclared[Effect(group)]]))
        return logic.some(terms)

    def tell(self) -> None:
        """Which requests reach the policies: in one view all of them, in several by what their inputs differ."""
        world, logic = self.world, self.world.logic
        allowed = []
        for number in range(1, len(world.actions) - 1):
            if not self.bundle.manifests.resolve(world.actions[number]).known:
                allowed.append(logic.negate(world.is_action([number])))
                continue
            terms = list(self._input_terms(number))
            if terms:
                allowed.append(logic.implies(world.is_action([number]), logic.every(terms)))
        self.asked = logic.every(allowed)

    def _input_terms(self, number: int) -> Iterable[Bool]:
        """What the arguments of an action must be to be as declared, where another view declares others."""
        others = [view.manifest(number) for view in self.world.views if view is not self]
        mine = self.manifest(number)
        if mine is None:
            return
        elsewhere = {(name, kind.type) for other in others if other for name, kind in other.input.items()}
        for name, kind in mine.input.items():
            if not kind.optional and any(other is None or other.input.get(name) != kind for other in others):
                yield self.world.has(argument(name, kind.type))
        for name, type in sorted(elsewhere - {(name, kind.type) for name, kind in mine.input.items()}):
            yield self.world.logic.negate(self.world.has(argument(name, type)))

    def uid_of_action(self, uid: Uid) -> int | None:
        return self.world.actions.index(uid.id) if uid.type == "Action" and uid.id in self.world.actions[:-1] else None


def argument(name: str, type: str) -> str:
    """What `World.has` knows an argument by: with its type, since two bundles may declare it otherwise."""
    return f"context.input.{name}:{CEDAR_TYPES.get(type, type)}"


def context_types(view: View, numbers: Sequence[int]) -> dict[RecordOf, frozenset[int]]:
    """The types of the context, each with the actions that have it."""
    found: dict[RecordOf, set[int]] = {}
    for number in numbers:
        found.setdefault(view.action_types[number].context, set()).add(number)
    return {record: frozenset(of) for record, of in found.items()}

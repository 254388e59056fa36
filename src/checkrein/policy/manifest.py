"""Tool manifests (`tools.yaml`): what a tool is.

A manifest gives a tool its effect classes (its action groups in policy), the types of its arguments (the
schema), the arguments that steer it, limits, which output can be trusted, and the phrases by which a prompt
wants it. A tool without a manifest is judged by the verb in its name; without a known verb it is unknown.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Callable, Mapping
from typing import cast

import msgspec

from checkrein.model import PolicyInvalid
from checkrein.model.request import LOOSEN, PROMPT
from checkrein.policy.effect import Effect as Effect
from checkrein.policy.effect import effects_of_name
from checkrein.policy.source import Checker, Path, kind_of, read_yaml

MAX_NAME = 128


class Trust(enum.StrEnum):
    """Whether an output field may steer another tool."""

    TRUSTED = "trusted"
    UNTRUSTED = "untrusted"


#: names that stand for action groups, the prompt or a request of Checkrein's own, so no tool may bear them
RESERVED = frozenset({*Effect, "llm", "tool", "mcp", PROMPT, LOOSEN})


def _is_integer(value: object) -> bool:
    return type(value) is int


def _list_of(check: Callable[[object], bool]) -> Callable[[object], bool]:
    return lambda value: isinstance(value, list) and all(check(item) for item in value)


#: how an argument type is written -> whether a JSON value is of it
_CHECKS: Mapping[str, Callable[[object], bool]] = {
    "string": lambda value: isinstance(value, str),
    "integer": _is_integer,
    "number": lambda value: type(value) in (int, float),
    "boolean": lambda value: isinstance(value, bool),
    "array": _list_of(lambda value: isinstance(value, str)),
    "array<integer>": _list_of(_is_integer),
    "array<object>": _list_of(lambda value: isinstance(value, dict)),
    "object": lambda value: isinstance(value, dict),
    "json": lambda value: True,
}


class ArgType(msgspec.Struct, frozen=True):
    """How an argument is typed: a key of `_CHECKS`. An `array` holds text; policies see neither objects nor `json`."""

    type: str
    optional: bool = False

    def __str__(self) -> str:
        return f"{self.type}?" if self.optional else self.type

    def admits(self, value: object) -> bool:
        """Whether a JSON value is of this type; `true` is no integer."""
        return _CHECKS[self.type](value)


class Limit(msgspec.Struct, frozen=True):
    """Beyond `review_above` a call counts as over its limit."""

    review_above: int | float


#: what a field may be declared to hold; all of these are redacted whole, as `pii.person_name` and so on
PERSONAL = (
    "person_name", "address", "birth_date", "email", "phone", "card", "iban", "ssn", "national_id", "driver_license",
    "passport", "ip",
)  # fmt: skip


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """One tool. `input` is every argument it takes; `control` those whose provenance is checked.

    `personal` says of members of arguments and results, at any depth, that they hold personal data, and of what class.
    """

    name: str
    effects: tuple[Effect, ...]
    input: dict[str, ArgType] = {}
    control: tuple[str, ...] = ()
    limits: dict[str, Limit] = {}
    output: dict[str, Trust] = {}
    personal: dict[str, str] = {}
    intents: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    description: str = ""


class Resolved(msgspec.Struct, frozen=True):
    """What is known of an action. `effects` is empty when nothing is, and such a call must end in DENY."""

    name: str
    effects: tuple[Effect, ...]
    manifest: Manifest | None = None

    @property
    def declared(self) -> bool:
        return self.manifest is not None

    @property
    def known(self) -> bool:
        """Whether the effects are declared or could be told from the name."""
        return bool(self.effects)


class Manifests(msgspec.Struct, frozen=True):
    """Every declared tool, by name."""

    tools: dict[str, Manifest] = {}

    @classmethod
    def from_yaml(cls, data: bytes | str, file: str = "tools.yaml") -> Manifests:
        """Read `tools.yaml`; raises `PolicyInvalid` with every problem, one line each."""
        manifests, problems = read_manifests(data.encode() if isinstance(data, str) else data, file)
        if problems:
            raise PolicyInvalid(
                f"`{file}` has {len(problems)} problem(s): {problems[0]}",
                problems=problems,
                hint="mend the lines that are named",
            )
        return manifests

    def get(self, name: str) -> Manifest | None:
        return self.tools.get(name)

    def names(self) -> tuple[str, ...]:
        """The declared tools, sorted."""
        return tuple(sorted(self.tools))

    def resolve(self, action: str) -> Resolved:
        """The declared manifest, else what the name tells, else unknown (no effects: deny it)."""
        manifest = self.tools.get(action)
        if manifest is not None:
            return Resolved(action, manifest.effects, manifest)
        if action in RESERVED or len(action) > MAX_NAME:
            return Resolved(action, ())
        return Resolved(action, effects_of_name(action))

    def check_input(self, action: str, input: Mapping[str, object]) -> tuple[str, ...]:
        """What is wrong with a call's arguments: names only, never values. Empty for an undeclared tool.

        A null is read as an absent argument, as policies do.
        """
        manifest = self.tools.get(action)
        if manifest is None:
            return ()
        problems = []
        for name, kind in manifest.input.items():
            value = input.get(name)
            if value is None:
                if not kind.optional:
                    problems.append(f"the argument `{name}` is missing")
            elif not kind.admits(value):
                problems.append(f"the argument `{name}` is not of type `{kind.type}`")
        undeclared = sorted(set(input) - set(manifest.input))
        named = [name for name in undeclared if _PLAIN.fullmatch(name)][:_MAX_NAMED]
        problems += [f"the argument `{name}` is not declared" for name in named]
        if rest := len(undeclared) - len(named):
            problems.append(
                f"{rest} {'more ' if named else ''}{'argument is' if rest == 1 else 'arguments are'} not declared"
            )
        return tuple(problems)


_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-/:]*")
#: what an undeclared argument may be called to be named in a reason, which is recorded for good; and how many are
_PLAIN, _MAX_NAMED = re.compile(r"[A-Za-z_]{1,40}"), 5
_ARGUMENT = re.compile(r"[A-Za-z_][A-Za-z0-9_.\-]*")
_MEMBERS = ("effects", "input", "control", "limits", "output", "personal", "intents", "labels", "description")


class ManifestReader(Checker):
    """Reads what can be read, and complains of the rest."""

    def mapping(self, value: object, path: Path, hint: str) -> dict[str, object]:
        if isinstance(value, dict):
            return cast("dict[str, object]", value)
        self.complain(path, f"`{path[-1]}` is {kind_of(value)}, not a mapping", hint)
        return {}

    def texts(self, value: object, path: Path, hint: str) -> tuple[tuple[Path, str], ...]:
        """The texts of a list with the path of each; what is no text is a problem and left out."""
        if not isinstance(value, list):
            self.complain(path, f"`{path[-1]}` is {kind_of(value)}, not a list", hint)
            return ()
        found = []
        for index, item in enumerate(value):
            if isinstance(item, str) and item.strip():
                found.append(((*path, index), item))
            else:
                self.complain((*path, index), f"`{path[-1]}` holds {kind_of(item)}, not text", hint)
        return tuple(found)

    def manifest(self, name: str, value: object, path: Path) -> Manifest | None:
        if not _NAME.fullmatch(name) or len(name) > MAX_NAME:
            hint = f"use letters, digits and _ . - / : within {MAX_NAME} characters"
            self.complain(path, f"`{name[:80]}` cannot name a tool", hint)
        if name in RESERVED:
            self.complain(path, f"`{name}` is a name that policies keep", "give the tool another name")
        if not isinstance(value, dict):
            self.complain(path, f"`{name}` is {kind_of(value)}, not a mapping", "write `effects: [read]` below it")
            return None
        self.members(value, path, _MEMBERS)
        description = value.get("description", "")
        if not isinstance(description, str):
            self.complain((*path, "description"), "`description` is not text", "write one sentence")
            description = ""
        input = self.input(value.get("input", {}), (*path, "input"))
        return Manifest(
            name=name,
            effects=self.effects(name, value, path),
            input=input,
            control=self.control(value.get("control", []), (*path, "control"), input),
            limits=self.limits(value.get("limits", {}), (*path, "limits"), input),
            output=self.output(value.get("output", {}), (*path, "output")),
            personal=self.personal(value.get("personal", {}), (*path, "personal")),
            intents=self.intents(value.get("intents", []), (*path, "intents")),
            labels=tuple(text for _, text in self.texts(value.get("labels", []), (*path, "labels"), "list texts")),
            description=description,
        )

    def effects(self, name: str, value: dict[str, object], path: Path) -> tuple[Effect, ...]:
        valid = f"known: {', '.join(Effect)}"
        if not value.get("effects"):
            where: Path = (*path, "effects") if "effects" in value else path
            self.complain(where, f"`{name}` has no effects", f"write `effects: [read]`; {valid}")
            return ()
        found = set()
        for where, text in self.texts(value["effects"], (*path, "effects"), valid):
            if text in Effect.__members__.values():
                found.add(Effect(text))
            else:
                self.complain(where, f"unknown effect class `{text[:80]}`", valid)
        return tuple(effect for effect in Effect if effect in found)

    def input(self, value: object, path: Path) -> dict[str, ArgType]:
        hint = f"write `amount: integer`, or `integer?` if it may be left out; known: {', '.join(_CHECKS)}"
        found = {}
        for name, text in self.mapping(value, path, hint).items():
            if not _ARGUMENT.fullmatch(name) or len(name) > MAX_NAME:
                self.complain((*path, name), f"`{name[:80]}` cannot name an argument", "use letters, digits and _")
            optional = isinstance(text, str) and text.endswith("?")
            type = text.removesuffix("?").strip() if isinstance(text, str) else ""
            if type in _CHECKS:
                found[name] = ArgType(type, optional)
            else:
                shown = f"`{text[:80]}`" if isinstance(text, str) else kind_of(text)
                self.complain((*path, name), f"`{name[:80]}` has the unknown type {shown}", hint)
        return found

    def argument(self, name: str, path: Path, input: Mapping[str, ArgType]) -> bool:
        if name in input:
            return True
        known = f"declared: {', '.join(input)}" if input else "declare it under `input`"
        self.complain(path, f"`{name[:80]}` is no argument in `input`", known)
        return False

    def control(self, value: object, path: Path, input: Mapping[str, ArgType]) -> tuple[str, ...]:
        named = self.texts(value, path, "list names of arguments")
        return tuple(name for where, name in named if self.argument(name, where, input))

    def limits(self, value: object, path: Path, input: Mapping[str, ArgType]) -> dict[str, Limit]:
        hint = "write `amount: {review_above: 1000}`"
        found = {}
        for name, limit in self.mapping(value, path, hint).items():
            where: Path = (*path, name)
            if not self.argument(name, where, input):
                continue
            if input[name].type not in ("integer", "number"):
                self.complain(where, f"`{name}` is no number, so it can have no limit", "limit a number")
                continue
            members = self.mapping(limit, where, hint)
            self.members(members, where, ("review_above",))
            above = members.get("review_above")
            if isinstance(above, int | float) and not isinstance(above, bool):
                found[name] = Limit(above)
            else:
                self.complain(where, f"the limit of `{name}` has no number `review_above`", hint)
        return found

    def output(self, value: object, path: Path) -> dict[str, Trust]:
        hint = f"known: {', '.join(Trust)}"
        found = {}
        for name, trust in self.mapping(value, path, hint).items():
            if isinstance(trust, str) and trust in Trust.__members__.values():
                found[name] = Trust(trust)
            else:
                self.complain((*path, name), f"`{name[:80]}` is neither trusted nor untrusted", hint)
        return found

    def personal(self, value: object, path: Path) -> dict[str, str]:
        hint = f"write `customer: person_name`; known: {', '.join(PERSONAL)}"
        found = {}
        for name, cls in self.mapping(value, path, hint).items():
            if isinstance(cls, str) and cls.removeprefix("pii.") in PERSONAL:
                found[name] = f"pii.{cls.removeprefix('pii.')}"
            else:
                self.complain((*path, name), f"`{name[:80]}` is of no known class of personal data", hint)
        return found

    def intents(self, value: object, path: Path) -> tuple[str, ...]:
        found = []
        for where, text in self.texts(value, path, 'list phrases: ["transfer funds", "pay * invoice"]'):
            if not text.replace("*", "").strip():
                self.complain(where, "an intent of wildcards alone fits every prompt", "name a word beside `*`")
            else:
                found.append(" ".join(text.split()))
        return tuple(found)


def read_manifests(data: bytes, file: str) -> tuple[Manifests, tuple[str, ...]]:
    """The manifests that can be read, and every problem, one line each."""
    reader = ManifestReader(read_yaml(data, file))
    value = reader.document.value
    if value is None:
        return Manifests(), tuple(reader.problems)
    if not isinstance(value, dict):
        reader.complain((), f"the file is {kind_of(value)}, not a mapping", "start it with `tools:`")
        return Manifests(), tuple(reader.problems)
    reader.members(value, (), ("tools",))
    tools: dict[str, Manifest] = {}
    if "tools" in value and value["tools"] is not None:
        for name, item in reader.mapping(value["tools"], ("tools",), "write one tool per key").items():
            manifest = reader.manifest(name, item, ("tools", name))
            if manifest is not None:
                tools[name] = manifest
    return Manifests(tools), tuple(reader.problems)

"""The compiled evaluator against the official engine, on requests aimed at the very policies that are loaded.

The official engine knows nothing of duties, so it is asked twice: once about the permits and the plain forbids, and
once about the duties turned into permits, which tells those that are satisfied and those that err. From its answers
the four outcomes follow by the rules of the documentation, without any of our evaluator.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import cedarpy
import msgspec

from checkrein.model import BadRequest, Outcome
from checkrein.model.request import PROMPT
from checkrein.policy.bundle import Bundle
from checkrein.policy.cedar import Kind, Policy
from checkrein.policy.effect import Effect
from checkrein.policy.engine import PolicySet
from checkrein.policy.entities import Entities, Entity
from checkrein.policy.manifest import Manifests
from checkrein.policy.schema import CEDAR_TYPES, PROMPT_INPUT, SUBJECT_ATTRIBUTES, USED, action_entity, known_actions
from checkrein.policy.values import Uid, Value, to_json

if TYPE_CHECKING:
    from random import Random

_ERRING = re.compile(r"error while evaluating policy `([^`]+)`")
#: policies times requests: the official engine is linear, and a load should take about a second
_BUDGET = 300_000
_LEAST, _MOST = 64, 512


class Probe(msgspec.Struct, frozen=True):
    """One request in Cedar's JSON form, for both engines."""

    principal: dict[str, str]
    action: dict[str, str]
    resource: dict[str, str]
    context: Mapping[str, object]
    entities: list[dict[str, object]]

    @classmethod
    def of(cls, principal: Uid, action: Uid, resource: Uid, context: Mapping[str, object], entities: Entities) -> Probe:
        listed = [_entity_json(entity) for entity in entities.by_uid.values()]
        return cls(principal._asdict(), action._asdict(), resource._asdict(), context, listed)


class _Answer(msgspec.Struct, frozen=True):
    """What an engine says; None where it refuses the request."""

    outcome: Outcome | None
    determining: frozenset[str] = frozenset()
    erring: frozenset[str] = frozenset()


def disagreements(policies: PolicySet, probes: Iterable[Probe]) -> tuple[str, ...]:
    """One line for each request that the two engines decide differently, by outcome, policies or errors."""
    official = _Official(policies.policies)
    problems = []
    for probe in probes:
        theirs, ours = official.decide(probe), _compiled(policies, probe)
        if isinstance(ours, str) or ours != theirs:
            action = probe.action["id"][:80]
            said = ours if isinstance(ours, str) else _words(ours)
            problems.append(f"`{action}`: the compiled policies say {said}, the official engine {_words(theirs)}")
    return tuple(problems)


def _words(answer: _Answer) -> str:
    if answer.outcome is None:
        return "that it is no request"
    because = ", ".join(f"`{id}`" for id in sorted(answer.determining)) or "no policy"
    erring = ", ".join(f"`{id}`" for id in sorted(answer.erring))
    return f"{answer.outcome.wire} by {because}" + (f" while {erring} erred" if erring else "")


def _compiled(policies: PolicySet, probe: Probe) -> _Answer | str:
    try:
        result = policies.evaluate(
            probe.principal, probe.action, probe.resource, probe.context, entities=probe.entities
        )
    except BadRequest:
        return _Answer(None)
    except Exception as error:  # noqa: BLE001 - an evaluator that breaks is what this looks for
        return f"nothing ({type(error).__name__})"
    return _Answer(result.outcome, frozenset(result.determining), frozenset(result.errors))


class _Official:
    """The four outcomes from two calls of the official engine."""

    def __init__(self, policies: Sequence[Policy]) -> None:
        plain = {policy.id: policy.est for policy in policies if policy.kind in (Kind.GRANT, Kind.FORBID)}
        duties = {p.id: {**p.est, "effect": "permit"} for p in policies if p.kind in (Kind.REVIEW, Kind.REDACT)}
        self._plain, self._duties = _policy_set(plain), _policy_set(duties)
        self._of_kind = {kind: {policy.id for policy in policies if policy.kind is kind} for kind in Kind}

    def decide(self, probe: Probe) -> _Answer:
        request = {
            "principal": probe.principal,
            "action": probe.action,
            "resource": probe.resource,
            "context": probe.context,
        }
        plain = cedarpy.is_authorized(request, self._plain, probe.entities)
        duties = cedarpy.is_authorized(request, self._duties, probe.entities)
        if cedarpy.Decision.NoDecision in (plain.decision, duties.decision):
            return _Answer(None)
        decided, due = set(plain.diagnostics.reasons), set(duties.diagnostics.reasons)
        erring = frozenset(
            found[1]
            for message in (*plain.diagnostics.errors, *duties.diagnostics.errors)
            if (found := _ERRING.match(message))
        )
        if plain.decision is not cedarpy.Decision.Allow:
            return _Answer(Outcome.DENY, frozenset(decided), erring)
        if erring - self._of_kind[Kind.GRANT]:
            return _Answer(Outcome.DENY, frozenset(), erring)
        for kind, outcome in ((Kind.REVIEW, Outcome.REQUIRE_REVIEW), (Kind.REDACT, Outcome.ALLOW_WITH_REDACTION)):
            if found_due := due & self._of_kind[kind]:
                return _Answer(outcome, frozenset(found_due), erring)
        return _Answer(Outcome.ALLOW, frozenset(decided), erring)


def _policy_set(policies: Mapping[str, Mapping[str, object]]) -> cedarpy.PolicySet:
    text = json.dumps({"staticPolicies": policies, "templates": {}, "templateLinks": []})
    return cedarpy.PolicySet.from_json_str(text)


def _entity_json(entity: Entity) -> dict[str, object]:
    return {
        "uid": entity.uid._asdict(),
        "attrs": to_json(entity.attrs),
        "parents": [parent._asdict() for parent in entity.parents],
        "tags": to_json(entity.tags),
    }


# --- requests aimed at policies


def probes(bundle: Bundle, random: Random) -> Iterator[Probe]:
    """Requests by the schema of the bundle, each built from what one of its policies and one of its permits speak of.

    Where a policy compares, the values on both sides of its bound come up; now and then a member is missing or of
    another type, so that both engines are asked about errors too.
    """
    policies = list(bundle.policies.policies)
    if not policies:
        return
    random.shuffle(policies)
    grants = [policy for policy in policies if policy.kind is Kind.GRANT] or policies
    actions = [*known_actions(bundle.manifests), *(action_entity(f"undeclared {e}", [e]) for e in Effect)]
    for number in range(max(_LEAST, min(_MOST, _BUDGET // len(policies)))):
        aimed_at = (policies[number % len(policies)], random.choice(grants))
        yield _Aim(aimed_at, random).probe(actions, bundle.manifests)


class _Aim:
    """What policies speak of: their texts, numbers and entities."""

    def __init__(self, policies: Sequence[Policy], random: Random) -> None:
        self._random = random
        self._texts = ["other"]
        self._numbers = [0, 7]
        self._decimals = ["0.0", "7.5"]
        self._uids: list[Uid] = []
        for policy in policies:
            self._walk(policy.est)

    def _walk(self, value: object) -> None:
        if isinstance(value, str):
            self._texts.append(value)
        elif isinstance(value, int) and not isinstance(value, bool):
            self._numbers += [n for n in (value - 1, value, value + 1) if -(2**63) <= n < 2**63]
        elif isinstance(value, list):
            for item in value:
                self._walk(item)
        elif isinstance(value, dict):
            self._object(value)

    def _object(self, value: Mapping[str, object]) -> None:
        kind, id = value.get("type"), value.get("id")
        if isinstance(kind, str) and isinstance(id, str):
            self._uids.append(Uid(kind, id))
            return
        for name, item in value.items():
            if name == "pattern" and isinstance(item, list):
                self._texts.append("".join(_literal(part) for part in item))
            elif name == "decimal" and isinstance(item, list):
                self._decimals += [text for part in item if (text := _text_of(part))]
            elif name not in ("annotations", "op", "kind", "effect", "Var"):
                self._walk(item)

    def probe(self, actions: Sequence[Entity], manifests: Manifests) -> Probe:
        named = {uid for uid in self._uids if uid.type == "Action"}
        meant = [entity for entity in actions if entity.uid in named or entity.parents & named]
        action = self._random.choice(meant if meant and self._often() else actions)
        kinds = ("Model",) if action.uid.id == PROMPT else ("Tool", "Resource")
        resource = Entity(self._uid(kinds), tags=self._tags())
        roles = frozenset(uid for uid in self._uids if uid.type == "Role" and self._often())
        attributes: dict[str, Value] = {name: self._text() for name in SUBJECT_ATTRIBUTES if self._often()}
        principal = Entity(self._uid(("User", "Agent", "Service")), attributes, roles, self._tags())
        entities = Entities([principal, action, resource])
        return Probe.of(principal.uid, action.uid, resource.uid, self._context(action.uid.id, manifests), entities)

    def _often(self) -> bool:
        return self._random.random() < 0.75

    def _uid(self, kinds: Sequence[str]) -> Uid:
        meant = [uid for uid in self._uids if uid.type in kinds]
        return self._random.choice(meant) if meant and self._often() else Uid(self._random.choice(kinds), self._text())

    def _text(self) -> str:
        return self._random.choice(self._texts)

    def _tags(self) -> dict[str, Value]:
        return {self._text(): self._text() for _ in range(self._random.randrange(3))}

    def _some(self) -> list[str]:
        return sorted({text for text in self._texts if self._random.random() < 0.5})

    def _number(self) -> int:
        return self._random.choice(self._numbers)

    def _decimal(self) -> object:
        return {"__extn": {"fn": "decimal", "arg": self._random.choice(self._decimals)}}

    def _context(self, action: str, manifests: Manifests) -> dict[str, object]:
        manifest = manifests.tools.get(action)
        types = PROMPT_INPUT if action == PROMPT else {}
        if manifest is not None:
            types = {name: CEDAR_TYPES[k.type] for name, k in manifest.input.items() if k.type in CEDAR_TYPES}
        context: dict[str, object] = {
            "agent": {"id": self._text(), **({"version": self._text()} if self._often() else {})},
            "time": {"hour": self._number(), "weekday": self._text(), "date": self._text()},
            "risk": {"level": self._text(), "score": self._number()},
            "labels": self._some(),
            "answer": self._often(),
            "input": self._record(types),
            "environment": self._text(),
            "scope": self._text(),
            "session": self._text(),
            "usage": {**self._used(), "agent": self._used(), "key": self._used()},
            "approval": {"id": self._text()},
        }
        if manifest is not None and manifest.control:
            context["provenance"] = {name: self._text() for name in manifest.control if self._often()}
        needed = ("agent", "time", "risk", "labels", "answer", "usage", "input")
        return {name: value for name, value in context.items() if name in needed or self._often()}

    def _used(self) -> dict[str, object]:
        return {name: self._number() if kind == "Long" else self._decimal() for name, kind in USED.items()}

    def _record(self, types: Mapping[str, str]) -> dict[str, object]:
        record = {}
        for name, kind in types.items():
            fate = self._random.randrange(12)
            if fate:
                record[name] = self._value(kind if fate > 1 else self._random.choice([*CEDAR_TYPES.values()]))
        return record

    def _value(self, kind: str) -> object:
        if kind == "Long":
            return self._number()
        if kind == "Bool":
            return self._random.random() < 0.5
        if kind == "decimal":
            return self._decimal()
        if kind == "Set<String>":
            return self._some()
        if kind == "Set<Long>":
            return sorted({self._number() for _ in range(self._random.randrange(3))})
        return self._text()


def _literal(part: object) -> str:
    """A piece of a `like` pattern as text that it matches."""
    if isinstance(part, dict) and isinstance(part.get("Literal"), str):
        return str(part["Literal"])
    return "x"


def _text_of(part: object) -> str:
    value = part.get("Value") if isinstance(part, dict) else None
    return value if isinstance(value, str) else ""

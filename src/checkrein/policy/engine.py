"""`PolicySet.evaluate`: the four outcomes, the policies that determined them, the policies that erred.

No satisfied permit: DENY. Any plain forbid: DENY. Else any review: REQUIRE_REVIEW. Else any redaction:
ALLOW_WITH_REDACTION. Else ALLOW. Where Cedar skips a policy that errs, this does not: a forbid, review
or redaction that errs denies, since it might have been stricter. An erring permit grants nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence

import cedarpy
import msgspec

from checkrein.model import BadRequest, Outcome, PolicyInvalid
from checkrein.policy.cedar import Kind, Policy, duplicates, read_policies, validate
from checkrein.policy.compile import Compiled, compile_policy
from checkrein.policy.entities import Entities, Entity
from checkrein.policy.failure import EvaluationError
from checkrein.policy.node import Env
from checkrein.policy.values import Uid, from_json

#: what a uid, a context or a set of entities may be handed in as
UidJson = Uid | Mapping[str, object]
EntitiesJson = Entities | Iterable[object]

Ids = tuple[str, ...]
_NONE: Ids = ()


class PolicyResult(msgspec.Struct, frozen=True):
    """What the policies say. Ids stand in order of the id.

    `determining` are the satisfied policies of the kind that made the outcome (none for a default deny).
    `satisfied` and `erring` hold all of them by kind; `errors` says why, without values.
    """

    outcome: Outcome
    determining: Ids
    errors: dict[str, str]
    satisfied: dict[Kind, Ids]
    erring: dict[Kind, Ids]

    @classmethod
    def of(cls, satisfied: dict[Kind, Ids], erring: dict[Kind, Ids], errors: dict[str, str]) -> PolicyResult:
        outcome, determining = _decide(satisfied, erring)
        return cls(outcome, determining, errors, satisfied, erring)

    def of_kind(self, kind: Kind) -> Ids:
        """The satisfied policies of a kind."""
        return self.satisfied.get(kind, _NONE)

    def without(self, discharged: frozenset[str]) -> PolicyResult:
        """The result when people have approved these reviews. Nothing but a review can be discharged."""
        left = tuple(id for id in self.of_kind(Kind.REVIEW) if id not in discharged)
        return PolicyResult.of({**self.satisfied, Kind.REVIEW: left}, self.erring, self.errors)


def _decide(satisfied: Mapping[Kind, Ids], erring: Mapping[Kind, Ids]) -> tuple[Outcome, Ids]:
    if forbids := satisfied.get(Kind.FORBID):
        return Outcome.DENY, forbids
    grants = satisfied.get(Kind.GRANT)
    # an erring review under a satisfied one denies too: else adding a review would loosen a DENY
    if not grants or any(kind is not Kind.GRANT for kind in erring):
        return Outcome.DENY, _NONE
    if reviews := satisfied.get(Kind.REVIEW):
        return Outcome.REQUIRE_REVIEW, reviews
    if redacts := satisfied.get(Kind.REDACT):
        return Outcome.ALLOW_WITH_REDACTION, redacts
    return Outcome.ALLOW, grants


class PolicySet:
    """Policies compiled once, ready to evaluate. Immutable and safe to share between threads.

    `actions` are the action entities that are known beforehand, with all their groups: the policies that speak
    of each are gathered at once, and the first of a name stands in where a request brings no entity for it. The
    policies of any other action are gathered when it is asked for.
    """

    def __init__(self, policies: Iterable[Policy], *, actions: Iterable[Entity] = ()) -> None:
        self._policies = {policy.id: policy for policy in policies}
        self._order = sorted(self._policies)
        compiled = [compile_policy(self._policies[id]) for id in self._order]
        self._index = _ActionIndex(compiled)
        self._actions: dict[Uid, Entity] = {}
        for entity in actions:
            self._actions.setdefault(entity.uid, entity)
            self._index.prepare(entity.uid, entity.parents)
        self.not_compiled: Ids = tuple(item.id for item in compiled if not item.native)

    @classmethod
    def from_cedar(cls, text: str, *, schema: str | None = None) -> PolicySet:
        """Read Cedar text; with a schema (in Cedar's syntax) it is validated too, and its actions are known.

        Ids are `@id` where it stands, else Cedar's own. Raises `PolicyInvalid` with every problem.
        """
        file = "policies"
        policies, problems = read_policies(text, file, strict=False)
        problems += duplicates(policies)
        actions: tuple[Entity, ...] = ()
        if schema is not None and not problems:
            handle = read_schema(schema)
            problems += validate(text, file, handle)
            actions = _schema_actions(handle)
        if problems:
            raise PolicyInvalid(
                f"the policies have {len(problems)} problem(s): {problems[0]}",
                problems=problems,
                hint="mend the lines that are named",
            )
        return cls(policies, actions=actions)

    def policy(self, id: str) -> Policy:
        """The policy of this id; raises `KeyError` if there is none."""
        return self._policies[id]

    @property
    def policies(self) -> tuple[Policy, ...]:
        """Every policy, in order of the id."""
        return tuple(self._policies[id] for id in self._order)

    def __len__(self) -> int:
        return len(self._order)

    def evaluate(
        self,
        principal: UidJson,
        action: UidJson,
        resource: UidJson,
        context: Mapping[str, object],
        entities: EntitiesJson = (),
    ) -> PolicyResult:
        """Decide one request, in Cedar's JSON form throughout.

        uids are `{"type": ..., "id": ...}`; `entities` a list of `{"uid", "attrs", "parents", "tags"}` or a
        handle from `Entities.from_json`. Raises `BadRequest` for what Cedar has no value for (null, a float,
        an integer beyond 64 bits): the request is then not decided, and must not run.
        """
        known = entities if isinstance(entities, Entities) else Entities.from_json(entities)
        act = Uid.from_json(action)
        if act not in known.by_uid and act in self._actions:
            known = known.with_added([self._actions[act]])
        record = from_json(context)
        if not isinstance(record, dict):
            raise BadRequest("the context is not a record", hint="send an object of names and values")
        env = Env(Uid.from_json(principal), act, Uid.from_json(resource), record, known)
        return _run(self._index.candidates(act, env.ancestors.get(act, frozenset())), env)


def read_schema(text: str) -> cedarpy.Schema:
    """Parse a schema in Cedar's own syntax; raises `PolicyInvalid`."""
    try:
        return cedarpy.Schema.from_str(text)
    except ValueError as error:
        raise PolicyInvalid(f"the schema does not parse: {error}", hint="mend the schema") from error


def _schema_actions(schema: cedarpy.Schema) -> tuple[Entity, ...]:
    """The action entities a schema declares; Cedar adds them to every set of entities read with it."""
    listed = json.loads(str(cedarpy.Entities.from_json_str("[]", schema)))
    return tuple(Entities.from_json(listed).by_uid.values())


def _run(candidates: Sequence[Compiled], env: Env) -> PolicyResult:
    satisfied: dict[Kind, list[str]] = {}
    erring: dict[Kind, list[str]] = {}
    errors: dict[str, str] = {}
    for policy in candidates:
        try:
            if policy.test is None or policy.test(env):
                satisfied.setdefault(policy.kind, []).append(policy.id)
        except EvaluationError as error:
            errors[policy.id] = str(error)
            erring.setdefault(policy.kind, []).append(policy.id)
        except RecursionError:
            errors[policy.id] = "the condition is nested too deeply"
            erring.setdefault(policy.kind, []).append(policy.id)
    return PolicyResult.of(
        {kind: tuple(ids) for kind, ids in satisfied.items()},
        {kind: tuple(ids) for kind, ids in erring.items()},
        errors,
    )


class _ActionIndex:
    """Which policies speak of an action: by its name, by its groups, or of all; in order of the id."""

    def __init__(self, compiled: Sequence[Compiled]) -> None:
        self._compiled = compiled
        self._any: list[int] = []
        self._exact: dict[Uid, list[int]] = {}
        self._within: dict[Uid, list[int]] = {}
        self._prepared: dict[tuple[Uid, frozenset[Uid]], tuple[Compiled, ...]] = {}
        for place, policy in enumerate(compiled):
            if policy.action.uids is None:
                self._any.append(place)
                continue
            for uid in policy.action.uids:
                (self._exact if policy.action.exact else self._within).setdefault(uid, []).append(place)

    def prepare(self, action: Uid, ancestors: frozenset[Uid]) -> None:
        self._prepared[action, ancestors] = self._gather(action, ancestors)

    def candidates(self, action: Uid, ancestors: frozenset[Uid]) -> tuple[Compiled, ...]:
        found = self._prepared.get((action, ancestors))
        return self._gather(action, ancestors) if found is None else found

    def _gather(self, action: Uid, ancestors: frozenset[Uid]) -> tuple[Compiled, ...]:
        places = {*self._any, *self._exact.get(action, ())}
        for uid in (action, *ancestors):
            places.update(self._within.get(uid, ()))
        return tuple(self._compiled[place] for place in sorted(places))

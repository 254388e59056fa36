"""`PolicySet.evaluate`: the four outcomes, the policies that determined them, the policies that erred.

No satisfied permit: DENY. Any plain forbid: DENY. Else any review: REQUIRE_REVIEW. Else any redaction:
ALLOW_WITH_REDACTION. Else ALLOW. Where Cedar skips a policy that errs, this does not: a forbid, review
or redaction that errs denies, since it might have been stricter. An erring permit grants nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence

import cedarpy
import msgspec

from checkrein.model import BadRequest, Outcome, PolicyInvalid
from checkrein.policy.cedar import Kind, Policy, duplicates, read_policies, validate
from checkrein.policy.compile import Compiled, compile_policy
from checkrein.policy.entities import Entities, Entity
from checkrein.policy.index import MAX_POLICIES, MIN_POLICIES, SEVERITY, Index, Verdict
from checkrein.policy.node import Env
from checkrein.policy.source import problem
from checkrein.policy.template import link, slots
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
    if not grants or (erring and any(ids and kind is not Kind.GRANT for kind, ids in erring.items())):
        return Outcome.DENY, _NONE
    if reviews := satisfied.get(Kind.REVIEW):
        return Outcome.REQUIRE_REVIEW, reviews
    if redacts := satisfied.get(Kind.REDACT):
        return Outcome.ALLOW_WITH_REDACTION, redacts
    return Outcome.ALLOW, grants


class PolicySet:
    """Policies compiled once, ready to evaluate. Immutable and safe to share between threads.

    `actions` are the action entities that are known beforehand, with all their groups: the first of a name stands in
    where a request brings no entity for it. `templates` have no effect until they are `linked`.
    """

    def __init__(
        self,
        policies: Iterable[Policy],
        *,
        actions: Iterable[Entity] = (),
        templates: Iterable[Policy] = (),
    ) -> None:
        self._policies = {policy.id: policy for policy in policies}
        self._order = sorted(self._policies)
        self._templates = {template.id: template for template in templates}
        compiled = [compile_policy(self._policies[id]) for id in self._order]
        self._index = _ActionIndex(compiled)
        self._actions: dict[Uid, Entity] = {}
        for entity in actions:
            self._actions.setdefault(entity.uid, entity)
        self.not_compiled: Ids = tuple(item.id for item in compiled if not item.native)

    @classmethod
    def from_cedar(cls, text: str, *, schema: str | None = None) -> PolicySet:
        """Read Cedar text; with a schema (in Cedar's syntax) it is validated too, and its actions are known.

        Ids are `@id` where it stands, else Cedar's own. Raises `PolicyInvalid` with every problem.
        """
        file = "policies"
        read, problems = read_policies(text, file, strict=False, templates=True)
        problems += duplicates(read)
        actions: tuple[Entity, ...] = ()
        if schema is not None and not problems:
            handle = read_schema(schema)
            problems += validate(text, file, handle)
            actions = _schema_actions(handle)
        if problems:
            raise _invalid("the policies have", problems, "mend the lines that are named")
        templates = [policy for policy in read if slots(policy.est)]
        return cls([policy for policy in read if not slots(policy.est)], actions=actions, templates=templates)

    def linked(self, links: Iterable[Mapping[str, object]]) -> PolicySet:
        """These policies and one more for each link of a template (see `template`); raises `PolicyInvalid`.

        What a schema says of a template has been checked; the entities of a link are not.
        """
        policies, problems = dict(self._policies), []
        for given in links:
            policy, wrong = link(self._templates, given)
            if policy is None:
                problems.append(wrong)
            elif policy.id in policies or policy.id in self._templates:
                problems.append(problem(f"link `{policy.id[:80]}`", "the id is taken", "give each link its own"))
            else:
                policies[policy.id] = policy
        if problems:
            raise _invalid("the links have", problems, "mend the links that are named")
        return PolicySet(policies.values(), actions=self._actions.values(), templates=self._templates.values())

    def policy(self, id: str) -> Policy:
        """The policy of this id; raises `KeyError` if there is none."""
        return self._policies[id]

    @property
    def policies(self) -> tuple[Policy, ...]:
        """Every policy, in order of the id; no templates, but what links made of them."""
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
        return self._index.run(self.environment(principal, action, resource, context, entities))

    def environment(
        self,
        principal: UidJson,
        action: UidJson,
        resource: UidJson,
        context: Mapping[str, object],
        entities: EntitiesJson = (),
    ) -> Env:
        """What `evaluate` of these arguments is evaluated against; raises as it does."""
        known = entities if isinstance(entities, Entities) else Entities.from_json(entities)
        act = Uid.from_json(action)
        record = from_json(context)
        if type(record) is not dict:
            raise BadRequest("the context is not a record", hint="send an object of names and values")
        stand_in = None if not self._actions or act in known.by_uid else self._actions.get(act)
        return Env(Uid.from_json(principal), act, Uid.from_json(resource), record, known, stand_in)

    def speaking_of(self, env: Env) -> Ids:
        """The policies whose action scope holds the action of `env`, in order of the id."""
        return tuple(sorted(policy.id for policy in self._index.speaking_of(env)))


def _invalid(what: str, problems: Sequence[str], hint: str) -> PolicyInvalid:
    return PolicyInvalid(f"{what} {len(problems)} problem(s): {problems[0]}", problems=tuple(problems), hint=hint)


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


class _ActionIndex:
    """Which policies speak of an action: those of its name stand apart, all others share indexes."""

    def __init__(self, compiled: Iterable[Compiled]) -> None:
        rank = {kind: place for place, kind in enumerate(SEVERITY)}
        named: dict[Uid, list[Compiled]] = {}
        shared: list[Compiled] = []
        for policy in sorted(compiled, key=lambda policy: (rank[policy.kind], policy.id)):
            if policy.action.exact:
                for uid in policy.action.uids or ():
                    named.setdefault(uid, []).append(policy)
            else:
                shared.append(policy)
        self._named = {uid: _Shared(policies) for uid, policies in named.items() if len(policies) >= MIN_POLICIES}
        self._few = {uid: tuple(policies) for uid, policies in named.items() if len(policies) < MIN_POLICIES}
        parts = (shared[at : at + MAX_POLICIES] for at in range(0, len(shared), MAX_POLICIES))
        self._shared = [_Shared(part) for part in parts]

    def run(self, env: Env) -> PolicyResult:
        verdict = Verdict()
        for policy in self._few.get(env.action, ()):
            verdict.attempt(policy, policy.test, env)
        if (named := self._named.get(env.action)) is not None:
            named.run(env, verdict)
        for shared in self._shared:
            shared.run(env, verdict)
        return PolicyResult.of(*verdict.sorted())

    def speaking_of(self, env: Env) -> Iterator[Compiled]:
        yield from self._few.get(env.action, ())
        parts = [self._named[env.action]] if env.action in self._named else []
        for part in (*parts, *self._shared):
            yield from part.speaking_of(env)


class _Shared:
    """An index, and the bits of its policies by what they say of the action."""

    def __init__(self, policies: Sequence[Compiled]) -> None:
        self._index = Index(policies)
        self._always = 0
        self._within: dict[Uid, int] = {}
        for place, policy in enumerate(policies):
            if policy.action.uids is None or policy.action.exact:
                self._always |= 1 << place
                continue
            for uid in policy.action.uids:
                self._within[uid] = self._within.get(uid, 0) | 1 << place

    def _mask(self, env: Env) -> int:
        mask = self._always
        if within := self._within:
            mask |= within.get(env.action, 0)
            for uid in env.ancestors.get(env.action, ()):
                mask |= within.get(uid, 0)
        return mask

    def run(self, env: Env, verdict: Verdict) -> None:
        if mask := self._mask(env):
            self._index.run(env, mask, verdict)

    def speaking_of(self, env: Env) -> Iterator[Compiled]:
        for place in self._index.places(self._mask(env)):
            yield self._index.policies[place]

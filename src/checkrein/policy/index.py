"""Policies as bits: a dozen look-ups and ANDs tell which of thousands hold.

Every attribute path that policies ask about is read once a request, and its `Column` says which policies the value
suits; what is left of the mask holds. This decides exactly as trying each policy in turn does:

- What an index cannot say of a policy is left to the closures of those conjuncts, for the policies that remain.
- Where a value is missing or of a type that makes a conjunct err, the policies that need it are tried in full, so
  that they err, or fail for a reason that stands before, exactly as Cedar has it. Only the head (scope, and what
  stands before any conjunct that may err) takes policies from these.
- Behind a conjunct that may err for other reasons (arithmetic, say) nothing is indexed.

Built wholly at load. Bits stand in order of severity, then of the id.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from struct import Struct
from typing import Any, NamedTuple

from checkrein.policy.cedar import Kind
from checkrein.policy.column import ILL, Absent, Answer, Column, Look
from checkrein.policy.compile import Compiled
from checkrein.policy.conjunct import VARIABLES, Conjunct, Need, Path, Tag
from checkrein.policy.entities import Entity
from checkrein.policy.failure import EvaluationError
from checkrein.policy.node import Env, Test
from checkrein.policy.operators import every
from checkrein.policy.values import Uid, Value

#: the strictest first
SEVERITY = (Kind.FORBID, Kind.REVIEW, Kind.REDACT, Kind.GRANT)
#: tables grow with the square of the policies, so there may be several indexes
MAX_POLICIES = 4_096
#: fewer policies are tried in turn
MIN_POLICIES = 6


class Verdict:
    """What has been found so far, by kind."""

    __slots__ = ("erring", "errors", "mixed", "satisfied")

    def __init__(self) -> None:
        self.mixed = False
        self.satisfied: dict[Kind, list[str]] = {}
        self.erring: dict[Kind, list[str]] = {}
        self.errors: dict[str, str] = {}

    def hold(self, kind: Kind, ids: list[str]) -> None:
        found = self.satisfied.get(kind)
        if found is None:
            self.satisfied[kind] = ids
        else:
            found += ids
            self.mixed = True

    def sorted(self) -> tuple[dict[Kind, tuple[str, ...]], dict[Kind, tuple[str, ...]], dict[str, str]]:
        """The satisfied and the erring ids by kind, in order of the id, and the errors."""
        order = sorted if self.mixed else list
        satisfied = {kind: tuple(order(ids)) for kind, ids in self.satisfied.items()}
        return satisfied, {kind: tuple(sorted(ids)) for kind, ids in self.erring.items()}, self.errors

    def attempt(self, policy: Compiled, test: Test, env: Env) -> None:
        try:
            if test(env):
                self.hold(policy.kind, [policy.id])
        except EvaluationError as error:
            self._err(policy, str(error))
        except RecursionError:
            self._err(policy, "the condition is nested too deeply")

    def _err(self, policy: Compiled, message: str) -> None:
        self.errors[policy.id] = message
        self.erring.setdefault(policy.kind, []).append(policy.id)


class _Step(NamedTuple):
    """How to read one path: member `name` of the value at `owner`, and what the column there says.

    `in_record` is what a record gives that has no such member, `missing` what an entity gives.
    """

    owner: int
    name: str | Tag
    in_record: Absent
    missing: Absent
    answers: dict[type, Answer] | None
    absent: dict[Absent, tuple[int, int]]


class Index:
    """Decides for up to `MAX_POLICIES` policies, which stand in order of severity and id."""

    def __init__(self, policies: Sequence[Compiled]) -> None:
        self.policies = policies
        builder = _Builder(policies)
        self._ids = [policy.id for policy in policies]
        self._words = Struct(f"<{(len(policies) + 63) // 64}Q")
        self._residual = builder.residual
        self._exact = sum(1 << place for place, tests in enumerate(builder.residual) if tests is None)
        self._kinds = [
            (kind, sum(1 << place for place, policy in enumerate(policies) if policy.kind is kind))
            for kind in SEVERITY
            if any(policy.kind is kind for policy in policies)
        ]
        self._heads = builder.roots(builder.heads)
        self._tails = builder.roots(builder.tails)
        self._steps = builder.steps()

    def run(self, env: Env, mask: int, verdict: Verdict) -> None:
        """Decide for the policies in `mask`."""
        values: list[Any] = [env.context, env.principal, env.resource, env.action]
        for place, table, other, look in self._heads:
            mask &= table.get(values[place], other) if look is None else look(values[place], env)
        if not mask:
            return
        head, unsure = mask, 0
        for place, table, other, look in self._tails:
            mask &= table.get(values[place], other) if look is None else look(values[place], env)
        entities = env.entities
        for owner, name, in_record, missing, answers, absent in self._steps:
            holder = values[owner]
            if type(holder) is dict:
                value = holder.get(name, in_record)
            elif type(holder) is Uid:
                entity = entities.get(holder)
                value = missing if entity is None else _member(entity, name, missing)
            else:
                value = holder if type(holder) is Absent else ILL
            values.append(value)
            if answers is None:
                continue
            if type(value) is Absent:
                stay, erring = absent[value]
                mask &= stay
                unsure |= erring
            elif (answer := answers.get(type(value))) is not None:
                erring, table, other, look = answer
                if erring:
                    unsure |= erring
                mask &= table.get(value, other) if look is None else look(value, env)
        self._conclude(env, mask, head & unsure, verdict)

    def _conclude(self, env: Env, mask: int, unsure: int, verdict: Verdict) -> None:
        if unsure:
            mask &= ~unsure
            for place in self.places(unsure):
                policy = self.policies[place]
                verdict.attempt(policy, policy.test, env)
        if rest := mask & ~self._exact:
            mask ^= rest
            for place in self.places(rest):
                test = self._residual[place]
                if test is not None:
                    verdict.attempt(self.policies[place], test, env)
        if mask:
            ids = self._ids
            for kind, of_kind in self._kinds:
                if found := mask & of_kind:
                    verdict.hold(kind, [ids[place] for place in self.places(found)])

    def places(self, mask: int) -> list[int]:
        """The bits that are set, word by word, since each step on a long mask would cost as much as the mask."""
        places, base = [], -1
        for word in self._words.unpack(mask.to_bytes(self._words.size, "little")):
            left = word
            while left:
                low = left & -left
                places.append(base + low.bit_length())
                left ^= low
            base += 64
        return places


def _member(entity: Entity, name: str | Tag, missing: Absent) -> Value | Absent:
    if type(name) is Tag:
        return entity.tags.get(name.name, missing)
    return entity.attrs.get(name, missing)  # type: ignore[arg-type]


class _Builder:
    """Hands the conjuncts of the policies to columns; what columns do not take is `residual`."""

    def __init__(self, policies: Sequence[Compiled]) -> None:
        self._everyone = (1 << len(policies)) - 1
        self.heads: dict[Path, Column] = {}
        self.tails: dict[Path, Column] = {}
        self.residual = [self._place(place, policy.conjuncts) for place, policy in enumerate(policies)]

    def _place(self, place: int, conjuncts: Sequence[Conjunct]) -> Test | None:
        """The test that is left for a policy whose bit remains; None: nothing is left."""
        left: list[Test] = []
        guards: frozenset[Path] = frozenset()
        may_err = False
        for at, conjunct in enumerate(conjuncts):
            if conjunct.needs is None:
                left += [later.test for later in conjuncts[at:]]
                break
            for need in conjunct.needs:
                self._column(self.tails, need.path).need(place, Need(need.path, need.kinds, need.guards | guards))
            asked = conjunct.constraint
            if asked is not None:
                side = self.heads if len(asked.path) == 1 and not may_err else self.tails
            if asked is None or not self._column(side, asked.path).take(place, asked):
                left.append(conjunct.test)
            may_err = may_err or bool(conjunct.needs)
            guards |= conjunct.asserts
        return every(left) if left else None

    def _column(self, side: dict[Path, Column], path: Path) -> Column:
        if path not in side:
            side[path] = Column(path, self._everyone)
        return side[path]

    def roots(self, side: dict[Path, Column]) -> list[tuple[int, Mapping[Value, int], int, Look | None]]:
        """The columns of variables; but for the context, these are always entities."""
        found = []
        for path, column in side.items():
            answer = column.answers().get(Uid) if len(path) == 1 else None
            if answer is not None:
                found.append((VARIABLES.index(path[0]), answer.table, answer.other, answer.look))
        return found

    def steps(self) -> list[_Step]:
        """Every path that is read, each after its owner."""
        paths = {path[:length] for path in self.tails for length in range(2, len(path) + 1)}
        places: dict[Path, int] = {(variable,): place for place, variable in enumerate(VARIABLES)}
        missing: dict[Path, Absent] = {}
        steps = []
        for path in sorted(paths, key=lambda path: (len(path), str(path))):
            places[path] = len(places)
            absent = missing[path] = Absent(path)
            column = self.tails.get(path)
            above = [missing[path[:length]] for length in range(2, len(path) + 1)]
            steps.append(
                _Step(
                    places[path[:-1]],
                    path[-1],
                    ILL if isinstance(path[-1], Tag) else absent,
                    absent,
                    column.answers() if column else None,
                    {gone: column.absent(gone) for gone in (*above, ILL)} if column else {},
                )
            )
        return steps

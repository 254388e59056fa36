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

from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from struct import Struct
from typing import Any, NamedTuple

from checkrein.policy.cedar import Kind
from checkrein.policy.column import ILL, Absent, Answer, Column, Look
from checkrein.policy.compile import Compiled
from checkrein.policy.conjunct import VARIABLES, Conjunct, Need, Path, Tag
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
#: bits of a mask that are picked out one by one
FEW = 16


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
        found = self.satisfied
        if self.mixed:
            found = {kind: sorted(ids) for kind, ids in found.items()}
        satisfied = {kind: tuple(ids) for kind, ids in found.items()}
        erring = {kind: tuple(sorted(ids)) for kind, ids in self.erring.items()} if self.erring else {}
        return satisfied, erring, self.errors

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
    """Reads one member of its owner and asks the column there.

    `in_record` is what a record gives that has no such member, `missing` what an entity gives. `keep` is where in the
    row of values the value is needed again, or 0.
    """

    name: str | Tag
    in_record: Absent
    missing: Absent
    answers: dict[type, Answer]
    absent: dict[Absent, tuple[int, int]]
    keep: int


class Index:
    """Decides for up to `MAX_POLICIES` policies, which stand in order of severity and id."""

    def __init__(self, policies: Sequence[Compiled]) -> None:
        self.policies = policies
        builder = _Builder(policies)
        self._ids = [policy.id for policy in policies]
        self._words = Struct(f"<{(len(policies) + 63) // 64}Q")
        self._residual = builder.residual
        self._exact = sum(1 << place for place, tests in enumerate(builder.residual) if tests is None)
        rank = [SEVERITY.index(policy.kind) for policy in policies]
        #: where the policies of each kind end
        self._ends = [(kind, bisect_right(rank, place)) for place, kind in enumerate(SEVERITY)]
        self._heads = builder.roots(builder.heads)
        self._tails = builder.roots(builder.tails)
        self._owners, kept = builder.steps()
        self._blank = [None] * kept

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
        values += self._blank
        for owner, steps in self._owners:
            holder = values[owner]
            if type(holder) is not dict:
                holder = {step.name: _member(env, holder, step) for step in steps}
            for name, in_record, _, answers, absent, keep in steps:
                value = holder.get(name, in_record)
                if keep:
                    values[keep] = value
                if (answer := answers.get(type(value))) is not None:
                    erring, table, other, look = answer
                    if erring:
                        unsure |= erring
                    mask &= table.get(value, other) if look is None else look(value, env)
                elif absent and type(value) is Absent:
                    stay, erring = absent[value]
                    mask &= stay
                    unsure |= erring
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
            ids, places, begin = self._ids, self.places(mask), 0
            for kind, end in self._ends:
                upto = bisect_left(places, end, begin)
                if upto > begin:
                    verdict.hold(kind, [ids[place] for place in places[begin:upto]])
                    begin = upto

    def places(self, mask: int) -> list[int]:
        """The bits that are set, in order. A step on a long mask costs as much as it is long, so many go by words."""
        places: list[int] = []
        if mask.bit_count() <= FEW:
            while mask:
                place = mask.bit_length() - 1
                places.append(place)
                mask ^= 1 << place
            places.reverse()
            return places
        base = -1
        for word in self._words.unpack(mask.to_bytes(self._words.size, "little")):
            while word:
                low = word & -word
                places.append(base + low.bit_length())
                word ^= low
            base += 64
        return places


def _member(env: Env, holder: Value | Absent, step: _Step) -> Value | Absent:
    """The member of what is no record."""
    if type(holder) is not Uid:
        return holder if type(holder) is Absent else ILL
    entity = env.entities.get(holder)
    if entity is None:
        return step.missing
    if type(step.name) is Tag:
        return entity.tags.get(step.name.name, step.missing)
    return entity.attrs.get(step.name, step.missing)  # type: ignore[arg-type]


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

    def steps(self) -> tuple[list[tuple[int, list[_Step]]], int]:
        """Every path that is read, by its owner, each after its owner; and how many values are needed again."""
        paths = {path[:length] for path in self.tails for length in range(2, len(path) + 1)}
        owners = {path[:-1] for path in paths}
        places: dict[Path, int] = {(variable,): place for place, variable in enumerate(VARIABLES)}
        missing: dict[Path, Absent] = {}
        steps: dict[int, list[_Step]] = {}
        for path in sorted(paths, key=lambda path: (len(path), str(path))):
            keep = 0
            if path in owners:
                keep = places[path] = len(places)
            absent = missing[path] = Absent(path)
            column = self.tails.get(path)
            above = [missing[path[:length]] for length in range(2, len(path) + 1)]
            step = _Step(
                path[-1],
                ILL if isinstance(path[-1], Tag) else absent,
                absent,
                column.answers() if column else {},
                {gone: column.absent(gone) for gone in (*above, ILL)} if column else {},
                keep,
            )
            steps.setdefault(places[path[:-1]], []).append(step)
        return list(steps.items()), len(places) - len(VARIABLES)

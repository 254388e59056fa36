"""Invariants: what must never be, whatever the request. They stand in `tests/*.yaml` beside the tests.

    invariants:
      - name: nothing leaves with personal data
        never: {outcome: allow, when: 'action in Action::"egress" && context.labels.contains("pii")'}

`outcome` is one or a list; `when` is a condition in Cedar, checked against the schema like a policy's, and may be
left out.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from checkrein.analysis.encode import encode
from checkrein.analysis.logic import Verdict
from checkrein.analysis.outcomes import Outcomes
from checkrein.analysis.witness import Search, Witness, ask
from checkrein.analysis.world import World
from checkrein.model import Outcome
from checkrein.policy.bundle import Bundle
from checkrein.policy.cedar import Policy, read_policies, validate
from checkrein.policy.engine import PolicySet, read_schema
from checkrein.policy.source import Checker, Document, Path, kind_of, problem

KEY = "invariants"
_OUTCOMES = {outcome.wire: outcome for outcome in Outcome}
_EXAMPLE = "write `never: {outcome: allow, when: 'context.risk.level == \"red\"'}`"


class Invariant(msgspec.Struct, frozen=True):
    """One invariant; `place` is `tests/x.yaml:12`. `policy` is its condition as a permit."""

    name: str
    place: str
    outcomes: tuple[Outcome, ...]
    policy: Policy


class Checked(msgspec.Struct, frozen=True):
    """What became of an invariant: NO request breaks it (proved), one does, or it is UNKNOWN.

    `policies` determine the outcome of the witness; `confirmed` says that the evaluator agrees about it.
    """

    invariant: Invariant
    broken: Verdict
    witness: Witness | None = None
    outcome: Outcome | None = None
    policies: tuple[str, ...] = ()
    confirmed: bool = False
    notes: tuple[str, ...] = ()

    @property
    def holds(self) -> bool:
        return self.broken is Verdict.NO

    def __str__(self) -> str:
        name = f"the invariant `{self.invariant.name[:80]}`"
        if self.broken is Verdict.UNKNOWN:
            return problem(self.invariant.place, f"it could not be told whether {name} holds", "simplify its condition")
        if self.holds:
            return problem(self.invariant.place, f"{name} holds")
        if not self.confirmed or self.outcome is None:
            return problem(self.invariant.place, f"{name} may be broken, but no request could be confirmed")
        ids = ", ".join(f"`{id}`" for id in self.policies) or "no policy"
        return problem(self.invariant.place, f"{name} is broken: {self.outcome.wire}, decided by {ids}")


def read_invariants(document: Document, schema: str) -> tuple[tuple[Invariant, ...], tuple[str, ...]]:
    """The invariants of one file of policy tests, and every problem, one line each."""
    value = document.value
    if not isinstance(value, dict) or value.get(KEY) is None:
        return (), ()
    reader = _Reader(document)
    reader.problems = []  # those of the document are told where its tests are read
    return tuple(reader.invariants(value[KEY], schema)), tuple(reader.problems)


class _Reader(Checker):
    def invariants(self, value: object, schema: str) -> list[Invariant]:
        if not isinstance(value, list):
            self.complain((KEY,), f"`{KEY}` is {kind_of(value)}, not a list", _EXAMPLE)
            return []
        found: dict[str, Invariant] = {}
        for index, item in enumerate(value):
            invariant = self.invariant(item, (KEY, index), schema)
            if invariant is not None and found.setdefault(invariant.name, invariant) is not invariant:
                self.complain((KEY, index), f"the name `{invariant.name[:80]}` stands twice", "give each its own")
        return list(found.values())

    def invariant(self, value: object, path: Path, schema: str) -> Invariant | None:
        if not isinstance(value, dict):
            self.complain(path, f"an invariant is {kind_of(value)}, not a mapping", "give it `name` and `never`")
            return None
        self.members(value, path, ("name", "never"))
        name, never = value.get("name"), value.get("never")
        if not isinstance(name, str) or not name.strip():
            self.complain(path, "the invariant has no `name`", "say in a few words what must never be")
            return None
        if not isinstance(never, dict):
            self.complain(path, f"`{name[:80]}` has no mapping `never`", _EXAMPLE)
            return None
        self.members(never, (*path, "never"), ("outcome", "when"))
        outcomes = self.outcomes(never.get("outcome"), (*path, "never", "outcome"))
        policy = self.condition(never.get("when", "true"), (*path, "never", "when"), schema)
        if not outcomes or policy is None:
            return None
        return Invariant(name, self.document.place(*path), outcomes, policy)

    def outcomes(self, value: object, path: Path) -> tuple[Outcome, ...]:
        texts = value if isinstance(value, list) else [value]
        names = [text.lower() if isinstance(text, str) else "" for text in texts]
        if not names or not all(name in _OUTCOMES for name in names):
            self.complain(path, "`never` names no outcome", f"known: {', '.join(_OUTCOMES)}")
            return ()
        return tuple(_OUTCOMES[name] for name in names)

    def condition(self, value: object, path: Path, schema: str) -> Policy | None:
        """The condition as a permit that applies exactly where it is true."""
        if not isinstance(value, str):
            self.complain(path, f"`when` is {kind_of(value)}, not text", "write a condition in Cedar, in quotes")
            return None
        text = f"permit (principal, action, resource) when {{\n{value}\n}};"
        place = self.document.place(*path)
        policies, problems = read_policies(text, place, strict=False)
        if not problems and len(policies) == 1 and len(_conditions(policies[0])) == 1:
            problems = validate(text, place, read_schema(schema))
            if not problems:
                return policies[0]
        elif not problems:
            problems = (f"{place}: it is more than one condition (join them with `&&`)",)
        self.complain(path, f"`when`: {problems[0].partition(': ')[2]}", "")
        return None


def _conditions(policy: Policy) -> Sequence[object]:
    found = policy.est["conditions"]
    return found if isinstance(found, Sequence) else ()


def check(bundle: Bundle, invariants: Sequence[Invariant]) -> tuple[Checked, ...]:
    """Prove each invariant of a bundle, or find a request that breaks it. Raises `CheckreinError` without z3."""
    if not invariants:
        return ()
    world = World(bundle)
    view = world.views[0]
    outcomes = Outcomes(view)
    conditions = [encode(view, invariant.policy) for invariant in invariants]
    search = Search(world)
    results = []
    for invariant, condition in zip(invariants, conditions, strict=True):
        compiled = PolicySet([invariant.policy])
        reached = world.logic.some(outcomes.reached[outcome] for outcome in invariant.outcomes)

        def breaks(witness: Witness, invariant: Invariant = invariant, compiled: PolicySet = compiled) -> bool:
            question = witness.questions[0]
            if question is None or ask(view, question).outcome not in invariant.outcomes:
                return False
            return ask(view, question, compiled).outcome is Outcome.ALLOW

        found = search.show([condition.fires, reached], outcomes.matches | condition.matches, breaks)
        result = ask(view, found.witness.questions[0]) if found.witness else None
        results.append(
            Checked(
                invariant,
                found.verdict,
                found.witness,
                result.outcome if result else None,
                result.determining if result else (),
                found.confirmed,
                (*outcomes.notes, *condition.notes),
            )
        )
    return tuple(results)

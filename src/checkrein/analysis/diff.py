"""What changes between two bundles: every class of request whose outcome, or whose duty, is another.

A class is the outcomes and the determining policies before and after. Each has one concrete request, which the
evaluator of each bundle has confirmed; where it has not, the row says so. A fall to a laxer outcome is loosening,
and so is a review that asks less of people, or a redaction of fewer classes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import msgspec

from checkrein.analysis.logic import Bool, Verdict
from checkrein.analysis.outcomes import KIND_OF, Outcomes
from checkrein.analysis.witness import Found, Search, Witness, ask
from checkrein.analysis.world import World
from checkrein.model import Outcome
from checkrein.model.requirement import combine
from checkrein.policy.bundle import Bundle
from checkrein.policy.cedar import Kind
from checkrein.policy.engine import PolicyResult
from checkrein.policy.manifest import Manifests

#: rows for one change of outcome; beyond, the difference says that there are more
MAX_ROWS = 20


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One class of requests. `duty` says what is asked otherwise where the outcome is the same."""

    before: Outcome
    after: Outcome
    policies_before: tuple[str, ...]
    policies_after: tuple[str, ...]
    duty: str = ""
    loosening: bool
    witness: Witness | None
    confirmed: bool

    def to_json(self) -> dict[str, object]:
        return {
            "before": self.before.wire,
            "after": self.after.wire,
            "loosening": self.loosening,
            "policies_before": list(self.policies_before),
            "policies_after": list(self.policies_after),
            "duty": self.duty,
            "confirmed": self.confirmed,
            "witness": self.witness.to_json() if self.witness else None,
        }


class Difference(msgspec.Struct, frozen=True):
    """All rows, the loosening ones first. Without rows it is a proof, unless `unknown` says what was not told.

    `truncated` names the changes of outcome that have more classes than rows. `manifests` are changes of tools.yaml
    that reach further than the policies: they change what a request's risk and labels are.
    """

    rows: tuple[Row, ...]
    unknown: tuple[str, ...] = ()
    truncated: tuple[str, ...] = ()
    manifests: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def equivalent(self) -> bool:
        """Whether it is proved that both decide every request alike."""
        return not (self.rows or self.unknown or self.manifests)

    @property
    def may_loosen(self) -> bool:
        """Whether anything is laxer, or could not be told not to be."""
        return any(row.loosening for row in self.rows) or bool(self.unknown or self.manifests)

    def to_json(self) -> dict[str, object]:
        return {
            "equivalent": self.equivalent,
            "may_loosen": self.may_loosen,
            "rows": [row.to_json() for row in self.rows],
            "unknown": list(self.unknown),
            "truncated": list(self.truncated),
            "manifests": list(self.manifests),
            "notes": list(self.notes),
        }


def compare(before: Bundle, after: Bundle, *, max_rows: int = MAX_ROWS) -> Difference:
    """Every class of request that the two bundles decide otherwise. Raises `CheckreinError` without z3."""
    return _Comparison(before, after, max_rows).run()


class _Comparison:
    def __init__(self, before: Bundle, after: Bundle, max_rows: int) -> None:
        world = World(before, after)
        self.logic = world.logic
        self.bundles = (before, after)
        self.views = world.views
        self.sides = (Outcomes(world.views[0]), Outcomes(world.views[1]))
        self.search = Search(world)
        self.matches = self.sides[0].matches | self.sides[1].matches
        self.max_rows = max_rows
        self.unknown: list[str] = []
        self.truncated: list[str] = []

    def run(self) -> Difference:
        rows: list[Row] = []
        for before, after in _changes():
            change = f"{before.wire} -> {after.wire}"
            reached = [self.sides[0].reached[before], self.sides[1].reached[after]]
            if before is after:
                reached.append(self._other_duty(before))
            rows += self._rows(change, self.logic.every(reached), (before, after))
        manifests = tuple(_manifest_changes(self.bundles[0].manifests, self.bundles[1].manifests))
        notes = tuple(dict.fromkeys((*self.sides[0].notes, *self.sides[1].notes)))
        rows.sort(key=lambda row: not row.loosening)
        return Difference(tuple(rows), tuple(self.unknown), tuple(self.truncated), manifests, notes)

    def _rows(self, change: str, condition: Bool, outcomes: tuple[Outcome, Outcome]) -> Iterator[Row]:
        """The classes of one change of outcome, until there are no more or enough."""
        if condition is False:
            return
        flag = self.logic.boolean(f"asked: {change}")
        self.search.add([self.logic.implies(flag, condition)])
        count = 0
        for _ in range(4 * self.max_rows + 1):  # a class of another duty may turn out to ask for the same
            found = self.search.show([flag], self.matches, lambda w: self._is_change(w, outcomes))
            if found.verdict is Verdict.UNKNOWN:
                self.unknown.append(f"whether any request goes from {outcomes[0].wire} to {outcomes[1].wire}")
            if found.verdict is not Verdict.YES:
                return
            if count == self.max_rows:
                break
            if found.witness is None:
                yield _unconfirmed(outcomes)
                self.unknown.append(f"all of {change}: no text fits what the patterns ask")
                return
            results = self._results(found.witness)
            row = _row(self.bundles, outcomes, results, found)
            if row is not None:
                count += 1
                yield row
            if not found.confirmed:
                self.unknown.append(f"all of {change}: it hangs on what is not analysed")
                return
            self.search.add([self.logic.negate(self._class(outcomes, results))])
        self.truncated.append(change)

    def _results(self, witness: Witness) -> tuple[PolicyResult, PolicyResult]:
        first, second = (ask(view, question) for view, question in zip(self.views, witness.questions, strict=True))
        return first, second

    def _is_change(self, witness: Witness, outcomes: tuple[Outcome, Outcome]) -> bool:
        first, second = self._results(witness)
        return (first.outcome, second.outcome) == outcomes

    def _class(self, outcomes: tuple[Outcome, Outcome], results: tuple[PolicyResult, PolicyResult]) -> Bool:
        return self.logic.every(
            side.determined(outcome, result.determining)
            for side, outcome, result in zip(self.sides, outcomes, results, strict=True)
        )

    def _other_duty(self, outcome: Outcome) -> Bool:
        """Whether, the outcome being the same, people or redactions are asked for otherwise."""
        one, other = (self._duties(side, outcome) for side in self.sides)
        return self.logic.some(
            self.logic.negate(self.logic.same(one.get(duty, False), other.get(duty, False)))
            for duty in {**one, **other}
        )

    def _duties(self, side: Outcomes, outcome: Outcome) -> dict[object, Bool]:
        """Each requirement or class of data, with when it is asked for."""
        found: dict[object, list[Bool]] = {}
        for item in side.of_kind(KIND_OF[outcome]):
            policy = item.policy
            for duty in (policy.requirement,) if policy.kind is Kind.REVIEW else policy.redact:
                found.setdefault(duty, []).append(item.fires)
        return {duty: self.logic.some(terms) for duty, terms in found.items()}


def _changes() -> list[tuple[Outcome, Outcome]]:
    """Every pair of outcomes that matters, what loosens first."""
    duties = (Outcome.REQUIRE_REVIEW, Outcome.ALLOW_WITH_REDACTION)
    pairs = [(one, other) for one in Outcome for other in Outcome if one is not other or one in duties]
    return sorted(pairs, key=lambda pair: pair[1] - pair[0])


def _unconfirmed(outcomes: tuple[Outcome, Outcome]) -> Row:
    before, after = outcomes
    return Row(
        before=before,
        after=after,
        policies_before=(),
        policies_after=(),
        loosening=after <= before,
        witness=None,
        confirmed=False,
    )


def _row(
    bundles: Sequence[Bundle],
    outcomes: tuple[Outcome, Outcome],
    results: tuple[PolicyResult, PolicyResult],
    found: Found,
) -> Row | None:
    """The row of a class; None where two policies ask for what one asked for, in other words."""
    before, after = outcomes
    determining = tuple(result.determining if found.confirmed else () for result in results)
    loosening, duty = after < before, ""
    if before is after:
        loosening, duty = True, ""
        if found.confirmed:
            changed = _duty_change(bundles, results)
            if changed is None:
                return None
            duty, loosening = changed
    return Row(
        before=before,
        after=after,
        policies_before=determining[0],
        policies_after=determining[1],
        duty=duty,
        loosening=loosening,
        witness=found.witness,
        confirmed=found.confirmed,
    )


def _duty_change(bundles: Sequence[Bundle], results: tuple[PolicyResult, PolicyResult]) -> tuple[str, bool] | None:
    """How the duty of a review or a redaction changes, and whether it gets laxer; None if it does not change."""
    one, other = (
        [bundle.policies.policy(id) for id in result.determining]
        for bundle, result in zip(bundles, results, strict=True)
    )
    if results[0].outcome is Outcome.REQUIRE_REVIEW:
        asked = [
            combine(tuple(policy.requirement for policy in those if policy.requirement is not None))
            for those in (one, other)
        ]
        if asked[0] == asked[1]:
            return None
        return f"{asked[0].terms()} -> {asked[1].terms()}", not asked[1].as_strict_as(asked[0])
    classes = [sorted({name for policy in those for name in policy.redact}) for those in (one, other)]
    if _covers(classes[0], classes[1]) and _covers(classes[1], classes[0]):
        return None
    return f"{','.join(classes[0])} -> {','.join(classes[1])}", not _covers(classes[1], classes[0])


def _covers(classes: Iterable[str], others: Iterable[str]) -> bool:
    """Whether redacting `classes` redacts the others: a prefix names all below it."""
    known = list(classes)
    return all(any(name == of or name.startswith(f"{of}.") for of in known) for name in others)


def _manifest_changes(one: Manifests, other: Manifests) -> Iterator[str]:
    """What tools.yaml says otherwise. A description changes nothing."""
    for name in sorted({*one.tools, *other.tools}):
        before, after = one.get(name), other.get(name)
        if before is None or after is None:
            yield f"`{name}` is {'declared' if before is None else 'no longer declared'} in tools.yaml"
            continue
        changed = [
            field
            for field in before.__struct_fields__
            if field != "description" and getattr(before, field) != getattr(after, field)
        ]
        if changed:
            yield f"`{name}` has other {', '.join(changed)} in tools.yaml"

"""Policies that do nothing: dead ones, wholly shadowed ones, and such as contradict another of the same scope.

A review does not shadow a redaction (the data is redacted once people have approved), and neither a review nor a
redaction shadows a permit (without it there is nothing to review). Only a plain forbid leaves the others no effect.
"""

from __future__ import annotations

import enum
import json
from collections.abc import Iterator, Sequence

import msgspec

from checkrein.analysis.encode import Encoded
from checkrein.analysis.logic import Bool, Verdict
from checkrein.analysis.outcomes import Outcomes
from checkrein.analysis.witness import Search, Witness, ask
from checkrein.analysis.world import World
from checkrein.policy.bundle import Bundle
from checkrein.policy.cedar import Kind, Policy
from checkrein.policy.engine import PolicyResult
from checkrein.policy.source import problem


class What(enum.StrEnum):
    """`errs` is a policy that is never satisfied and denies where it errs; `unknown` could not be told."""

    DEAD = "dead"
    ERRS = "errs"
    SHADOWED = "shadowed"
    CONTRADICTION = "contradiction"
    UNKNOWN = "unknown"


class Finding(msgspec.Struct, frozen=True):
    """One finding: the policy it is about, and the others that have to do with it."""

    what: What
    policy: Policy
    others: tuple[Policy, ...]
    sentence: str
    hint: str
    witness: Witness | None = None

    def __str__(self) -> str:
        return problem(self.policy.place, self.sentence, self.hint)


class Findings(msgspec.Struct, frozen=True):
    """What was found in one bundle; `notes` name what could not be analysed."""

    found: tuple[Finding, ...]
    notes: tuple[str, ...] = ()


def analyse(bundle: Bundle) -> Findings:
    """Look through all policies of a bundle. Raises `CheckreinError` where z3 is not installed."""
    return _Analysis(bundle).run()


class _Analysis:
    def __init__(self, bundle: Bundle) -> None:
        world = World(bundle)
        self.outcomes = Outcomes(world.views[0])
        self.logic = world.logic
        self.search = Search(world)
        self._yes: dict[str, Bool] = {}
        self._no: dict[str, Bool] = {}

    def run(self) -> Findings:
        found: list[Finding] = []
        alive: list[Encoded] = []
        for item in self.outcomes.policies:
            finding = self._never_fires(item)
            if finding is None:
                alive.append(item)
            else:
                found.append(finding)
        contradicted: set[str] = set()
        for finding in self._contradictions(alive):
            contradicted.add(finding.policy.id)
            found.append(finding)
        found += self._shadowed([item for item in alive if item.policy.id not in contradicted], alive)
        found.sort(key=lambda finding: (finding.policy.file, finding.policy.line, finding.what))
        return Findings(tuple(found), self.outcomes.notes)

    # --- questions

    def _fires(self, item: Encoded) -> Bool:
        """An assumption that a policy fires, told to the solver when it is first needed."""
        if item.policy.id not in self._yes:
            term = self._yes[item.policy.id] = self.logic.boolean(f"fires {item.policy.id}")
            self.search.add([self.logic.implies(term, item.fires)])
        return self._yes[item.policy.id]

    def _rests(self, item: Encoded) -> Bool:
        """An assumption that a policy does not fire."""
        if item.policy.id not in self._no:
            term = self._no[item.policy.id] = self.logic.boolean(f"rests {item.policy.id}")
            self.search.add([self.logic.implies(term, self.logic.negate(item.fires))])
        return self._no[item.policy.id]

    def _never_fires(self, item: Encoded) -> Finding | None:
        found = self.search.find([self._fires(item)], item.matches)
        if found.verdict is Verdict.YES:
            return None
        if found.verdict is Verdict.UNKNOWN:
            return _unknown(item.policy, "whether it can ever apply")
        id = item.policy.id
        if item.policy.kind is not Kind.GRANT and item.errs is not False:
            errs = self.search.show([item.errs], item.matches, lambda w: id in self._result(w).errors)
            if errs.verdict is Verdict.YES:
                sentence = f"`{id}` is never satisfied: where it does not leave a request alone it errs, and denies"
                return Finding(What.ERRS, item.policy, (), sentence, "mend its condition", errs.witness)
        sentence = f"`{id}` is dead: no request can satisfy its scope and its conditions"
        return Finding(What.DEAD, item.policy, (), sentence, "mend its condition, or delete it")

    def _result(self, witness: Witness) -> PolicyResult:
        return ask(self.outcomes.view, witness.questions[0])

    def _witness(self, item: Encoded) -> Witness | None:
        """A request to which a policy applies, if the evaluator says so too."""
        kind, id = item.policy.kind, item.policy.id
        shown = self.search.show([self._fires(item)], item.matches, lambda w: id in self._result(w).of_kind(kind))
        return shown.witness if shown.confirmed else None

    # --- pairs of the same scope

    def _contradictions(self, items: Sequence[Encoded]) -> Iterator[Finding]:
        """A permit and a forbid, or two duties, that apply to the very same requests by the same scope."""
        by_scope: dict[str, list[Encoded]] = {}
        for item in items:
            by_scope.setdefault(_scope(item.policy), []).append(item)
        for those in by_scope.values():
            for place, one in enumerate(those):
                for other in those[place + 1 :]:
                    weaker, stronger = sorted((one, other), key=lambda item: _RANK[item.policy.kind])
                    told = _contradiction(weaker.policy, stronger.policy)
                    if told and self._always_together(weaker, stronger):
                        sentence, hint = told
                        witness = self._witness(weaker)
                        yield Finding(What.CONTRADICTION, weaker.policy, (stronger.policy,), sentence, hint, witness)

    def _always_together(self, one: Encoded, other: Encoded) -> bool:
        if one.policy.est["conditions"] == other.policy.est["conditions"]:
            return True
        matches = one.matches | other.matches
        return all(
            self.search.find([self._fires(a), self._rests(b)], matches).verdict is Verdict.NO
            for a, b in ((one, other), (other, one))
        )

    # --- shadows

    def _shadowed(self, items: Sequence[Encoded], alive: Sequence[Encoded]) -> Iterator[Finding]:
        forbids = [item for item in alive if item.policy.kind is Kind.FORBID]
        for item in items:
            if item.policy.kind is Kind.FORBID:
                continue
            stricter = [other for other in forbids if other.actions & item.actions]
            if not stricter:
                continue
            rests = {str(self._rests(other)): other for other in stricter}
            matches = item.matches.union(*(other.matches for other in stricter))
            found = self.search.find([self._fires(item), *map(self._rests, stricter)], matches)
            if found.verdict is Verdict.UNKNOWN:
                yield _unknown(item.policy, "whether it ever decides")
            elif found.verdict is Verdict.NO:
                core = [rests[name] for term in found.core if (name := str(term)) in rests]
                yield self._shadow(item, self._least(item, core))

    def _least(self, item: Encoded, core: Sequence[Encoded]) -> list[Encoded]:
        """As few of the stricter policies as are needed."""
        needed = list(core)
        for other in core:
            fewer = [kept for kept in needed if kept is not other]
            matches = item.matches.union(*(kept.matches for kept in fewer))
            asked = [self._fires(item), *map(self._rests, fewer)]
            if fewer and self.search.find(asked, matches).verdict is Verdict.NO:
                needed = fewer
        return needed

    def _shadow(self, item: Encoded, stricter: Sequence[Encoded]) -> Finding:
        names = " or ".join(f"`{other.policy.id}` ({other.policy.place})" for other in stricter)
        sentence = f"`{item.policy.id}` never decides: whenever it applies, {names} forbids"
        hint = "narrow the forbid, or delete this policy"
        witness = self._witness(item)
        return Finding(What.SHADOWED, item.policy, tuple(other.policy for other in stricter), sentence, hint, witness)


_RANK = {Kind.GRANT: 0, Kind.REDACT: 1, Kind.REVIEW: 2, Kind.FORBID: 3}


def _unknown(policy: Policy, what: str) -> Finding:
    sentence = f"it could not be told of `{policy.id}` {what}"
    return Finding(What.UNKNOWN, policy, (), sentence, "simplify its arithmetic")


def _scope(policy: Policy) -> str:
    return json.dumps([policy.est[name] for name in ("principal", "action", "resource")], sort_keys=True)


def _contradiction(weaker: Policy, stronger: Policy) -> tuple[str, str] | None:
    """How two policies that always apply together contradict each other, and what to do; None if they do not.

    A permit beside a duty is how a duty is written, and a redaction beside a review takes effect after it.
    """
    here = f"`{weaker.id}`"
    there = f"`{stronger.id}` ({stronger.place})"
    same = "apply to the very same requests"
    kinds = (weaker.kind, stronger.kind)
    if stronger.kind is Kind.FORBID and weaker.kind is not Kind.FORBID:
        verb = {Kind.GRANT: "permits", Kind.REVIEW: "has people asked about", Kind.REDACT: "redacts"}[weaker.kind]
        return f"{here} {verb} what {there} forbids: they {same}, so it never decides", "keep one of them"
    if kinds == (Kind.REVIEW, Kind.REVIEW) and weaker.requirement != stronger.requirement:
        asks = f"`{weaker.annotations.get('approvers')}` and `{stronger.annotations.get('approvers')}`"
        return f"{here} and {there} {same} and ask for different approvals, {asks}", "write one review"
    if kinds == (Kind.REDACT, Kind.REDACT) and weaker.redact != stronger.redact:
        return f"{here} and {there} {same} and redact different classes", "write one redaction"
    return None

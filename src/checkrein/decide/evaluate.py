"""The policy decision point: request, bundle and situation in, decision out. Never raises for a parsed request.

1. Risk and labels (`classify`), with the provenance of control arguments where the conversation is known.
2. What cannot be decided is denied: an unknown tool, arguments that are not as declared, odd numbers.
3. The bundle's Cedar policies, then the policies written in Python, under one lattice: no grant denies, any
   forbid denies, then reviews, then redactions. A duty never grants. A policy that errs never loosens.
4. Reviews that people have answered are taken out, and nothing else is: a forbid stays, and so do redactions.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence

import msgspec

from checkrein.decide.classify import Classified, Classifier
from checkrein.decide.context import Question, Situation, provenance, question
from checkrein.decide.detect import known
from checkrein.decide.disguise import OPAQUE
from checkrein.model import (
    Advice,
    BadRequest,
    Decision,
    Obligation,
    Outcome,
    PolicyError,
    Request,
    Requirement,
    Risk,
)
from checkrein.model.requirement import combine
from checkrein.policy.bundle import Bundle
from checkrein.policy.cedar import Kind
from checkrein.policy.engine import Ids, PolicyResult

__all__ = ["NamedPolicy", "PythonPolicy", "Situation", "evaluate", "redact_problems"]

#: a policy written in Python: a decision, or None to abstain
PythonPolicy = Callable[[Request, Mapping[str, object]], Decision | None]
NamedPolicy = tuple[str, PythonPolicy]

#: stands for the request itself where an error names what erred
REQUEST = "request"

_KINDS = {
    Outcome.ALLOW: Kind.GRANT,
    Outcome.ALLOW_WITH_REDACTION: Kind.REDACT,
    Outcome.REQUIRE_REVIEW: Kind.REVIEW,
    Outcome.DENY: Kind.FORBID,
}


class _Rule(msgspec.Struct, frozen=True):
    """What a policy, in Cedar or in Python, says once it is satisfied."""

    reasons: tuple[str, ...] = ()
    alternatives: tuple[str, ...] = ()
    requirement: Requirement | None = None
    redact: tuple[str, ...] = ()


def evaluate(
    request: Request,
    bundle: Bundle,
    situation: Situation,
    *,
    classifier: Classifier,
    python_policies: Sequence[NamedPolicy] = (),
) -> Decision:
    """Decide one request. `classifier` is the one built for the bundle's manifests."""
    classified = Classified(Risk.of(100, ("not evaluated",)))
    try:
        if not isinstance(request.action.properties.get("input", {}), dict):
            return _denied(bundle, classified, "the arguments are no JSON object")
        manifests = bundle.manifests
        if classifier.manifests is not manifests:
            return _denied(bundle, classified, "the classifier belongs to another bundle")
        manifest = None if request.is_prompt else manifests.get(request.action.name)
        sources = provenance(request, manifest, situation)
        classified = classifier.classify(request, sources)
        resolved = manifests.resolve(request.action.name)
        if not request.is_prompt:
            if not resolved.known:
                return _denied(bundle, classified, f"unknown tool `{request.action.name[:80]}`")
            if problems := manifests.check_input(request.action.name, request.action.input):
                return _denied(bundle, classified, *problems)
        asked = question(request, resolved, situation, classified, sources)
        return _decide(request, bundle, situation, classified, asked, python_policies)
    except BadRequest as error:
        return _denied(bundle, classified, str(error))
    except Exception as error:  # noqa: BLE001 - whatever goes wrong here, the safe answer is DENY
        return _denied(bundle, classified, f"evaluation failed: {type(error).__name__}")


def redact_problems(bundle: Bundle) -> tuple[str, ...]:
    """A problem for each class that a policy redacts and no detector finds, one line each."""
    return tuple(
        f"{policy.place}: `{policy.id}` redacts `{cls}`, which no detector finds"
        for policy in bundle.policies.policies
        for cls in policy.redact
        if not known(cls)
    )


def _denied(bundle: Bundle, classified: Classified, *problems: str) -> Decision:
    """A request that policies cannot be asked about."""
    return Decision(
        outcome=Outcome.DENY,
        risk=classified.risk,
        reasons=problems,
        errors=tuple(PolicyError(REQUEST, problem) for problem in problems),
        labels=classified.labels,
        bundle=bundle.digest,
    )


def _decide(
    request: Request,
    bundle: Bundle,
    situation: Situation,
    classified: Classified,
    asked: Question,
    python_policies: Sequence[NamedPolicy],
) -> Decision:
    result = bundle.policies.evaluate(asked.principal, asked.action, asked.resource, asked.context, asked.entities)
    verdicts = _Verdicts(bundle, result)
    for name, policy in python_policies:
        verdicts.ask(f"python:{name}", policy, request, asked.context)
    result = verdicts.result()
    if situation.discharged:
        result = result.without(situation.discharged)
    rules = [verdicts.rules[id] for id in result.determining]
    requirements = tuple([rule.requirement for rule in rules if rule.requirement is not None])
    advice = dict.fromkeys([text for rule in rules for text in rule.alternatives])
    redacting = result.outcome is Outcome.ALLOW_WITH_REDACTION
    if redacting and OPAQUE in classified.labels:
        return _denied(bundle, classified, "a part of it is encoded too deeply to be redacted")
    return Decision(
        outcome=result.outcome,
        risk=classified.risk,
        reasons=_reasons(result, rules),
        policies=result.determining,
        errors=tuple([PolicyError(id, message) for id, message in sorted(result.errors.items())]),
        obligations=tuple([Obligation.redact(id, verdicts.rules[id].redact) for id in result.determining if redacting]),
        advice=tuple([Advice("safe_alternative", text) for text in advice]),
        requirement=combine(requirements) if requirements else None,
        labels=tuple(asked.context["labels"]),  # type: ignore[arg-type]
        bundle=bundle.digest,
    )


def _reasons(result: PolicyResult, rules: Sequence[_Rule]) -> tuple[str, ...]:
    reasons = dict.fromkeys([reason for rule in rules for reason in rule.reasons])
    if result.outcome is Outcome.DENY and not result.determining:
        if not result.of_kind(Kind.GRANT):
            reasons["no policy grants this"] = None
        reasons |= dict.fromkeys(f"`{id}` could not be evaluated" for id in sorted(result.errors))
    return tuple(reasons)


class _Verdicts:
    """What all policies say, Cedar's first, and then the Python ones, one by one."""

    def __init__(self, bundle: Bundle, result: PolicyResult) -> None:
        self._result = result
        #: what is added to the result
        self._satisfied: dict[Kind, Ids] = {}
        self._errors: dict[str, str] = {}
        self.rules: dict[str, _Rule] = {}
        for ids in result.satisfied.values():
            for id in ids:
                policy = bundle.policies.policy(id)
                reasons = (policy.reason or f"policy `{id}`",)
                alternatives = (policy.alternative,) if policy.alternative else ()
                self.rules[id] = _Rule(reasons, alternatives, policy.requirement, policy.redact)
        self._check_duties()

    def _check_duties(self) -> None:
        """A duty that cannot be carried out is an error: nobody to ask, nothing that could be redacted."""
        for id in self._result.of_kind(Kind.REVIEW):
            if self.rules[id].requirement is None:
                self._fail(id, "the review names no approvers")
        for id in self._result.of_kind(Kind.REDACT):
            for cls in self.rules[id].redact:
                if not known(cls):
                    self._fail(id, f"no detector finds `{cls[:80]}`")

    def ask(self, id: str, policy: PythonPolicy, request: Request, context: Mapping[str, object]) -> None:
        """Ask a Python policy. It gets copies: what it changes changes neither the action nor other policies."""
        try:
            answer: object = policy(*copy.deepcopy((request, context)))
            fault = "" if answer is None else _fault(answer)
        except Exception as error:  # noqa: BLE001 - a failing policy is an error in the decision, and that denies
            answer, fault = None, f"raised {type(error).__name__}"
        if id in self.rules:
            fault = "another policy has this name"
        if fault:
            self._fail(id, fault)
        elif isinstance(answer, Decision):
            alternatives = tuple(advice.text for advice in answer.advice)
            reasons = answer.reasons or (f"policy `{id}`",)
            self.rules[id] = _Rule(reasons, alternatives, answer.requirement, answer.redact)
            kind = _KINDS[answer.outcome]
            self._satisfied[kind] = (*self._satisfied.get(kind, ()), id)

    def _fail(self, id: str, message: str) -> None:
        self._errors[id] = message

    def result(self) -> PolicyResult:
        """The result with what was added: each failure counts as a forbid that errs."""
        result = self._result
        if not (self._satisfied or self._errors):
            return result
        satisfied = {kind: (*result.of_kind(kind), *ids) for kind, ids in self._satisfied.items()}
        erring = (*result.erring.get(Kind.FORBID, ()), *self._errors)
        return PolicyResult.of(
            {**result.satisfied, **satisfied},
            {**result.erring, **({Kind.FORBID: erring} if erring else {})},
            {**result.errors, **self._errors},
        )


def _fault(answer: object) -> str:
    """Why a Python policy's answer cannot be used, or an empty string."""
    if not isinstance(answer, Decision) or answer.outcome not in _KINDS:
        return f"returned `{type(answer).__name__}`, not a Decision or None"
    if answer.errors:
        return "returned a decision with errors"
    if answer.outcome is Outcome.REQUIRE_REVIEW and answer.requirement is None:
        return "the review names no approvers"
    if answer.outcome is Outcome.ALLOW_WITH_REDACTION and not (answer.redact and all(map(known, answer.redact))):
        return "the redaction names no class that a detector finds"
    return ""

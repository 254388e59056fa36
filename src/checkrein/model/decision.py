"""What was decided, and why: outcome, deciding policies, erring policies, duties."""

from __future__ import annotations

import enum
from collections.abc import Iterable
from typing import Any

import msgspec

from checkrein.model.requirement import Requirement, escalated, parse_escalation, parse_factors, parse_grant, parse_span
from checkrein.model.risk import Level, Risk

#: the reason of a denial that the caller would not get if it supported the obligations
UNSUPPORTED = "obligation_unsupported"


class Outcome(enum.IntEnum):
    """Ordered by strictness: the most restrictive wins, and the default is DENY."""

    ALLOW = 0
    ALLOW_WITH_REDACTION = 1
    REQUIRE_REVIEW = 2
    DENY = 3

    @property
    def wire(self) -> str:
        """The name in JSON: `allow`, `allow_with_redaction`, `require_review`, `deny`."""
        return _WIRE[self]

    @property
    def runs(self) -> bool:
        """Whether the action may run now."""
        return self <= Outcome.ALLOW_WITH_REDACTION


_WIRE = {outcome: outcome.name.lower() for outcome in Outcome}


def strictest(outcomes: Iterable[Outcome]) -> Outcome:
    """The most restrictive of the outcomes; DENY when there are none."""
    return max(outcomes, default=Outcome.DENY)


class PolicyError(msgspec.Struct, frozen=True):
    """A policy that could not be evaluated, and why. Never holds argument values."""

    policy: str
    message: str


class Obligation(msgspec.Struct, frozen=True):
    """A duty the enforcement point must fulfil, in the shape of AuthZEN's Obligations profile."""

    id: str
    type: str
    properties: dict[str, Any] = {}

    @classmethod
    def redact(cls, policy: str, classes: tuple[str, ...]) -> Obligation:
        """Replace every span of these classes before the action leaves."""
        properties = {"vendor": "checkrein", "action": "redact", "classes": list(classes)}
        return cls(id=f"redact:{policy}", type="custom", properties=properties)


class Advice(msgspec.Struct, frozen=True):
    """Something the agent may do instead, such as a safe alternative."""

    type: str
    text: str


class Shadow(msgspec.Struct, frozen=True, kw_only=True):
    """What the canary would have decided, while it only shadows the stable arm."""

    outcome: Outcome
    bundle: str
    errors: int
    latency_us: int


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """One decision. `policies` are the ids that determined the outcome, `errors` the policies that erred."""

    outcome: Outcome
    risk: Risk = Risk(Level.GREEN, 0)
    reasons: tuple[str, ...] = ()
    policies: tuple[str, ...] = ()
    errors: tuple[PolicyError, ...] = ()
    obligations: tuple[Obligation, ...] = ()
    advice: tuple[Advice, ...] = ()
    requirement: Requirement | None = None
    labels: tuple[str, ...] = ()
    bundle: str = ""
    arm: str = "stable"
    #: the rollout that this request takes part in, on that arm
    rollout: str = ""
    shadow: Shadow | None = None
    evaluation_id: str = ""
    trace_id: str = ""
    approval_id: str = ""
    approval_expires_at: str = ""
    #: why it is denied where that is not for policy to say, such as `killed`
    code: str = ""
    #: when it may be otherwise, if waiting helps
    retry_after_s: int = 0

    @property
    def redact(self) -> tuple[str, ...]:
        """The classes to redact, sorted and without repeats."""
        classes = {
            str(name)
            for duty in self.obligations
            if duty.properties.get("action") == "redact"
            for name in duty.properties.get("classes", ())
        }
        return tuple(sorted(classes))

    @classmethod
    def allow(cls, reason: str = "") -> Decision:
        """For policies written in Python: grants, unless another policy is stricter."""
        return cls(outcome=Outcome.ALLOW, reasons=(reason,) if reason else ())

    @classmethod
    def deny(cls, reason: str, *, alternative: str = "") -> Decision:
        """For policies written in Python: the action does not run."""
        advice = (Advice("safe_alternative", alternative),) if alternative else ()
        return cls(outcome=Outcome.DENY, reasons=(reason,), advice=advice)

    @classmethod
    def review(
        cls,
        reason: str,
        *,
        approvers: str,
        expires: str = "4h",
        escalate: str = "",
        reason_required: bool = False,
        grant: str = "",
    ) -> Decision:
        """For policies written in Python: the words are those of the annotations, `approvers="2 of finance"`."""
        factors, expires_s = parse_factors(approvers), parse_span(expires)
        if escalate:
            factors = escalated(factors, parse_escalation(escalate, expires_s))
        requirement = Requirement(factors, expires_s, reason_required, parse_grant(grant) if grant else None)
        return cls(outcome=Outcome.REQUIRE_REVIEW, reasons=(reason,), requirement=requirement)

    def for_caller(self, supported: object) -> Decision:
        """The decision for a caller with this `context.supported_obligations`.

        One that did not declare the type would read a redaction as a plain allow: it is denied.
        """
        if self.outcome is not Outcome.ALLOW_WITH_REDACTION:
            return self
        known = supported if isinstance(supported, list | tuple) else ()
        if all(duty.type in known for duty in self.obligations):
            return self
        reasons = (UNSUPPORTED, *self.reasons)
        return msgspec.structs.replace(self, outcome=Outcome.DENY, reasons=reasons, obligations=())

    def to_json(self) -> dict[str, object]:
        """The AuthZEN answer (`{"decision": ..., "context": {...}}`)."""
        context: dict[str, object] = {
            "outcome": self.outcome.wire,
            "evaluation_id": self.evaluation_id,
            "trace_id": self.trace_id,
            "reasons": list(self.reasons),
            "policies": list(self.policies),
            "errors": [{"policy": error.policy, "message": error.message} for error in self.errors],
            "risk": {
                "level": self.risk.level.value,
                "score": self.risk.score,
                "factors": list(self.risk.factors),
            },
            "advice": [{"type": item.type, "text": item.text} for item in self.advice],
            "policy": {"bundle": self.bundle, "arm": self.arm},
        }
        if self.code:
            context["code"] = self.code
        if self.retry_after_s:
            context["retry_after_s"] = self.retry_after_s
        if self.outcome is Outcome.ALLOW_WITH_REDACTION:
            context["obligations"] = [msgspec.to_builtins(duty) for duty in self.obligations]
        if self.outcome is Outcome.REQUIRE_REVIEW:
            context["reason"] = "approval_required"
        if self.outcome is Outcome.REQUIRE_REVIEW and self.approval_id:  # a dry run opens none
            context["access_request"] = {
                "id": self.approval_id,
                "status": "pending",
                "expires_at": self.approval_expires_at,
                "approvers": str(self.requirement) if self.requirement else "",
            }
        return {"decision": self.outcome.runs, "context": context}

"""What is to become of one governed action: decided by policy, with what people agreed to and what was used.

Nothing is recorded here; `recording` does that. `flow.action` says when each is due.
"""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter_ns

import msgspec

from checkrein.decide.redact import Placeholders
from checkrein.flow import action as flow
from checkrein.flow.approval import Approval
from checkrein.flow.approval import State as ApprovalState
from checkrein.flow.grant import Discharge
from checkrein.model import Advice, Decision, Outcome, Request
from checkrein.model.decision import UNSUPPORTED
from checkrein.model.target import Target
from checkrein.model.usage import Usage
from checkrein.ports import Clock
from checkrein.services import grants
from checkrein.services.approvals import Approvals
from checkrein.services.governed import Asking
from checkrein.services.limits import Limits
from checkrein.services.pdp import Asked, Pdp


class Deciding:
    def __init__(self, pdp: Pdp, approvals: Approvals, granted: grants.Grants, limits: Limits, clock: Clock) -> None:
        self._pdp = pdp
        self._approvals = approvals
        self._grants = granted
        self._limits = limits
        self._clock = clock

    def decide(self, asking: Asking, command: flow.Decide) -> flow.Decided:
        begun = perf_counter_ns()
        asked = asking.asked = _as_agreed(asking.sent, command.discharged)
        now_us = asking.now_us = self._clock.now_us()
        weighed = msgspec.structs.replace(asked, usage=self.usage(lambda: asking.targets))
        if asking.barred:
            decision = self._pdp.refuse(weighed, asking.barred, trace_id=asking.trace_id, now_us=now_us)
        else:
            decision = self._pdp.decide(
                weighed,
                trace_id=asking.trace_id,
                discharged=command.discharged,
                now_us=now_us,
                supported=asking.supported,
            )
        asking.discharged, asking.trace_id = command.discharged, decision.trace_id
        asking.placeholders = Placeholders()
        asking.clean = self._redact(asked.request, decision, asking.placeholders)
        asking.counts = dict(asking.placeholders.counts)
        asking.latency_us += (perf_counter_ns() - begun) // 1000
        spares = UNSUPPORTED in decision.reasons or bool(decision.code)
        if decision.outcome.runs or spares or (command.discharged and decision.outcome is Outcome.DENY):
            return flow.Decided(decision=decision, now_us=now_us, spares=spares)
        match = self._standing(asked.request, decision, tried=command.discharged is not None)
        if decision.outcome is Outcome.DENY:
            dead = self._grants.outdated(asked.request, decision)
            return flow.Decided(decision=decision, now_us=now_us, match=match, grant=dead)
        agreed = match if match and match.state is ApprovalState.APPROVED else None
        other = agreed and agreed.action_hash != asked.request.action_hash(decision.bundle)
        if agreed and other and asking.machine.mode is flow.Mode.ASK:
            return flow.Decided(decision=_edited(decision, agreed), now_us=now_us, spares=True)
        fresh = self._approvals.fresh(asked.request, decision, now_us, caller=asking.caller)
        grant = None if command.discharged else self._grants.find(asked.request, decision, now_us)
        return flow.Decided(decision=decision, now_us=now_us, match=match, fresh=fresh, grant=grant)

    def usage(self, those: Callable[[], tuple[Target, ...]]) -> Usage:
        """What those who act have used; it is not looked up for policies that do not ask for it."""
        return self._limits.usage(those()) if self._pdp.asks_usage else Usage()

    def _standing(self, request: Request, decision: Decision, *, tried: bool) -> Approval | None:
        """The live approval of this action, or the one it was edited into; `tried` if an approved one did not do."""
        try:
            action_hash = request.action_hash(decision.bundle)
        except ValueError:  # a denial says so; nobody can have approved what has no hash
            if decision.outcome is Outcome.DENY:
                return None
            raise
        states = () if tried else (ApprovalState.APPROVED,)
        if decision.outcome is Outcome.REQUIRE_REVIEW:
            states = (*states, ApprovalState.PENDING)
        match = self._approvals.match(action_hash, states)
        return match if match or tried else self._approvals.edited(action_hash, decision.bundle)

    def _redact(self, request: Request, decision: Decision, placeholders: Placeholders) -> Request:
        if decision.outcome is not Outcome.ALLOW_WITH_REDACTION:
            return request
        properties = {**request.action.properties, "input": self._pdp.redacted(request, decision, placeholders)}
        action = msgspec.structs.replace(request.action, properties=properties)
        return msgspec.structs.replace(request, action=action)


def _as_agreed(sent: Asked, discharged: Discharge | None) -> Asked:
    """What is to run: the action that came in, or the one that people edited it into and agreed to."""
    if not isinstance(discharged, Approval) or not discharged.edits:
        return sent
    return msgspec.structs.replace(
        sent, request=msgspec.structs.replace(sent.request, action=discharged.request().action)
    )


def _edited(decision: Decision, approval: Approval) -> Decision:
    """Who runs the action themselves would run it as they sent it, which is not what people agreed to."""
    return msgspec.structs.replace(
        decision,
        outcome=Outcome.DENY,
        requirement=None,
        reasons=("people agreed to other arguments",),
        advice=(Advice("edited", f"send the action as approval `{approval.id}` shows it"),),
    )

"""The policy decision point as a service: adds to a request what the deployment knows, and asks `decide`.

Nothing is recorded here and nothing runs; `services.gateway` does both.
"""

from __future__ import annotations

import msgspec

from checkrein.decide.classify import Classifier
from checkrein.decide.context import Situation
from checkrein.decide.evaluate import PythonPolicy, evaluate
from checkrein.decide.explain import explain
from checkrein.flow.approval import Approval
from checkrein.model import Advice, BadRequest, Decision, Outcome, PolicyError, Request
from checkrein.policy.bundle import Bundle
from checkrein.policy.explain import PolicyExplained
from checkrein.ports import Clock, Facts
from checkrein.services.ids import fresh
from checkrein.services.turns import TURN, Turn, Turns


class Asked(msgspec.Struct, frozen=True):
    """A request as it will be decided, and the turn it belongs to, if it names one."""

    request: Request
    turn: Turn | None = None


class Pdp:
    """Decides with the bundle it holds. `replace` swaps the bundle in one step, between two requests."""

    def __init__(self, bundle: Bundle, facts: Facts, clock: Clock, *, environment: str, turns: Turns) -> None:
        self._facts = facts
        self._clock = clock
        self._environment = environment
        self._turns = turns
        self._python: list[tuple[str, PythonPolicy]] = []
        self._loaded = (bundle, Classifier(bundle.manifests))

    @property
    def bundle(self) -> Bundle:
        return self._loaded[0]

    def replace(self, bundle: Bundle) -> None:
        self._loaded = (bundle, Classifier(bundle.manifests))

    def register(self, policy: PythonPolicy, name: str = "") -> PythonPolicy:
        """Add a policy written in Python; its id in decisions is `python:<name>`."""
        name = name or getattr(policy, "__name__", "")
        if not name or name == "<lambda>":
            raise BadRequest("a Python policy needs a name", hint="pass `name=...`")
        if any(name == known for known, _ in self._python):
            raise BadRequest(f"a Python policy `{name}` is registered already", hint="choose another name")
        self._python.append((name, policy))
        return policy

    def resolve(self, request: Request) -> Asked:
        """Put the person in the place of a turn's handle; the caller's own claims about that turn are dropped."""
        if request.subject.type != TURN:
            return Asked(request)
        turn = self._turns.find(request.subject.id)
        if turn is None:
            return Asked(request)
        known = {"agent": turn.agent, "session": turn.session}
        context = {**request.context, **{name: value for name, value in known.items() if value is not None}}
        return Asked(msgspec.structs.replace(request, subject=turn.subject, context=context), turn)

    def decide(
        self,
        asked: Asked,
        *,
        trace_id: str = "",
        discharged: Approval | None = None,
        now_us: int | None = None,
    ) -> Decision:
        """One decision with its ids. `discharged` is an approval of exactly this action whose time has come."""
        request, turn = asked.request, asked.turn
        ids = {
            "evaluation_id": fresh("evl_", 12),
            "trace_id": turn.trace_id if turn else trace_id or fresh("", 16),
        }
        now_us = self._clock.now_us() if now_us is None else now_us
        if request.subject.type == TURN:
            made = unknown_turn(self.bundle)
        else:
            made = self._evaluate(request, turn, discharged, now_us)
            if made.outcome is Outcome.REQUIRE_REVIEW and turn and turn.covers(request, made, self.bundle.manifests):
                under = self._evaluate(request, turn, turn.approval, now_us)
                if under.outcome.runs and turn.spend(request.action.name):
                    made, discharged = under, turn.approval
        approval_id = discharged.id if discharged and made.outcome.runs else ""
        return msgspec.structs.replace(made, approval_id=approval_id, **ids)

    def explain(self, request: Request, *, now_us: int | None = None) -> tuple[PolicyExplained, ...]:
        """What each policy that speaks of the action says; empty where they are not asked at all."""
        bundle, classifier = self._loaded
        situation = self._situation(request, None, None, self._clock.now_us() if now_us is None else now_us)
        return explain(request, bundle, situation, classifier=classifier)

    def _situation(self, request: Request, turn: Turn | None, discharged: Approval | None, now_us: int) -> Situation:
        prompt = turn.prompt if turn else ""
        return Situation(
            now_us=now_us,
            roles=self._facts.roles(request.subject),
            labels=self._facts.labels(request),
            environment=self._environment,
            prompt=prompt,
            endorsed=prompt if turn and turn.approval else "",
            approval_id=discharged.id if discharged else "",
            discharged=frozenset(discharged.policies) if discharged else frozenset(),
        )

    def _evaluate(self, request: Request, turn: Turn | None, discharged: Approval | None, now_us: int) -> Decision:
        bundle, classifier = self._loaded
        situation = self._situation(request, turn, discharged, now_us)
        made = evaluate(request, bundle, situation, classifier=classifier, python_policies=tuple(self._python))
        if made.outcome is Outcome.REQUIRE_REVIEW and made.requirement is None:
            error = PolicyError(", ".join(made.policies), "asks for review but names no approvers")
            return msgspec.structs.replace(made, outcome=Outcome.DENY, errors=(*made.errors, error))
        return made


def unknown_turn(bundle: Bundle) -> Decision:
    return Decision(
        outcome=Outcome.DENY,
        reasons=("the turn this call belongs to is not open",),
        advice=(Advice("safe_alternative", "send the prompt again through the governed endpoint"),),
        bundle=bundle.digest,
    )

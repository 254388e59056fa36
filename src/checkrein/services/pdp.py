"""The policy decision point as a service: adds to a request what the deployment knows, and asks `decide`.

Nothing is recorded here and nothing runs; `services.gateway` does both.
"""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter_ns

import msgspec

from checkrein.decide.classify import Classifier
from checkrein.decide.context import HOUR_US, Situation
from checkrein.decide.detect import Detectors
from checkrein.decide.evaluate import NamedPolicy, PythonPolicy, evaluate
from checkrein.decide.explain import explain
from checkrein.decide.names import check_names
from checkrein.decide.redact import Placeholders, redact_json
from checkrein.flow.grant import Discharge
from checkrein.flow.window import Loosened
from checkrein.model import Advice, BadRequest, Decision, Outcome, PolicyError, Request
from checkrein.model.decision import UNSUPPORTED, Shadow
from checkrein.model.usage import Usage
from checkrein.policy.bundle import Bundle
from checkrein.policy.explain import PolicyExplained
from checkrein.ports import Clock, Facts
from checkrein.services.ids import fresh
from checkrein.services.turns import TURN, Turn, Turns

#: the two arms of a rollout, as decisions name them
STABLE, CANARY = "stable", "canary"
#: whoever runs the action can carry out whatever policy asks
ANY = object()
#: decisions about answers that one version remembers
_REMEMBERED = 1024
_encode = msgspec.msgpack.Encoder(order="sorted").encode


class Part(msgspec.Struct, frozen=True):
    """The part that a request takes in a rollout."""

    rollout: str
    arm: str


class Barred(msgspec.Struct, frozen=True, kw_only=True):
    """Why a request is denied before policy has a say: `by` names what bars it, as a policy's id would."""

    reason: str
    by: str
    code: str
    retry_after_s: int = 0


class Asked(msgspec.Struct, frozen=True):
    """A request as it will be decided, the turn it belongs to, if it names one, and its part in a rollout.

    `usage` is what those who act have used. Without it, nobody has accounts here: what the request says of it counts.
    """

    request: Request
    turn: Turn | None = None
    part: Part | None = None
    usage: Usage | None = None


class _Case(msgspec.Struct, frozen=True):
    """What is the same for every version that is asked."""

    request: Request
    turn: Turn | None
    now_us: int
    supported: object
    usage: Usage | None = None


class Version(msgspec.Struct, frozen=True):
    """A bundle that can decide."""

    bundle: Bundle
    classifier: Classifier
    #: whether a policy may look at `context.usage`
    asks_usage: bool
    #: what is decided about answers before their first word, by all that it rests on
    before_words: dict[bytes, Decision]

    @classmethod
    def of(cls, bundle: Bundle) -> Version:
        asks_usage = any("usage" in policy.text for policy in bundle.policies.policies)
        return cls(bundle, Classifier(bundle.manifests), asks_usage, {})

    def evaluate(self, request: Request, situation: Situation, python: tuple[NamedPolicy, ...]) -> Decision:
        """See `decide.evaluate`. Each answer is asked about before its first word, and nearly all of these are one."""
        place = _before_words(request, situation) if not python else None
        made = self.before_words.get(place) if place else None
        if made is None:
            bundle, classifier = self.bundle, self.classifier
            made = evaluate(request, bundle, situation, classifier=classifier, python_policies=python)
            if place:
                if len(self.before_words) >= _REMEMBERED:
                    self.before_words.clear()
                self.before_words[place] = made
        return made


def _before_words(request: Request, situation: Situation) -> bytes | None:
    """All that the decision about an answer rests on, of which nothing is said yet; None for anything else.

    Of the time policies see the hour.
    """
    if not request.is_answer or request.action.input.get("chars") or request.action.input.get("found"):
        return None
    at_hour = msgspec.structs.replace(situation, now_us=situation.now_us // HOUR_US)
    try:
        return _encode((request, at_hour))
    except (TypeError, ValueError, OverflowError, RecursionError):
        return None


class Trial(msgspec.Struct, frozen=True):
    """Another version that is tried: `on_canary` says for whom it decides, for all others it only shadows if it may.

    Who takes part is said by the session, or else by the subject, so that one conversation has one arm. What it would
    loosen beyond what people have `agreed` to stays as the stable version has it.
    """

    rollout: str
    version: Version
    on_canary: Callable[[str], bool]
    shadows: bool
    agreed: frozenset[Loosened] = frozenset()


class Pdp:
    """Decides with the bundle it holds. `replace` swaps the bundle in one step, between two requests."""

    def __init__(self, bundle: Bundle, facts: Facts, clock: Clock, *, environment: str, turns: Turns) -> None:
        self._facts = facts
        self._clock = clock
        self._environment = environment
        self._turns = turns
        self._python: list[tuple[str, PythonPolicy]] = []
        self._stable = Version.of(bundle)
        self._trial: Trial | None = None

    @property
    def bundle(self) -> Bundle:
        """The version of the stable arm."""
        return self._stable.bundle

    @property
    def digests(self) -> tuple[str, ...]:
        """The versions that decide now: the stable one, and the one that is tried beside it."""
        trial = self._trial
        return (self._stable.bundle.digest, *((trial.version.bundle.digest,) if trial else ()))

    def replace(self, bundle: Bundle) -> None:
        self._stable = Version.of(bundle)

    def trying(self) -> Trial | None:
        return self._trial

    def trial(self, trial: Trial | None) -> None:
        """Try another version beside the stable one, or (`None`) no longer."""
        self._trial = trial

    @property
    def asks_usage(self) -> bool:
        """Whether anything that decides may look at `context.usage`."""
        trial = self._trial
        return self._stable.asks_usage or bool(self._python) or (trial is not None and trial.version.asks_usage)

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
        """Put the person in the place of a turn's handle; the caller's own claims about that turn are dropped.

        Raises `BadRequest` for names that may not be recorded.
        """
        check_names(request)
        if request.subject.type != TURN:
            return Asked(request)
        turn = self._turns.find(request.subject.id)
        if turn is None:
            return Asked(request)
        known = {"agent": turn.agent, "session": turn.session}
        context = {**request.context, **{name: value for name, value in known.items() if value is not None}}
        return Asked(msgspec.structs.replace(request, subject=turn.subject, context=context), turn)

    def detectors(self, request: Request, made: Decision) -> Detectors:
        """What finds personal data in this action, by the version that decided it."""
        trial = self._trial
        if trial is not None and trial.version.bundle.digest == made.bundle:
            return trial.version.classifier.detectors(request)
        return self._stable.classifier.detectors(request)

    def redacted(self, request: Request, made: Decision, placeholders: Placeholders) -> object:
        """The arguments of this action as they may leave; the very same ones where nothing is taken out."""
        detectors = self.detectors(request, made)
        return redact_json(request.action.input, made.redact, placeholders, detectors=detectors)

    def decide(
        self,
        asked: Asked,
        *,
        trace_id: str = "",
        discharged: Discharge | None = None,
        now_us: int | None = None,
        supported: object = ANY,
    ) -> Decision:
        """One decision with its ids. `discharged` is an approval of exactly this action whose time has come.

        `supported` are the obligation types that the caller can carry out; what it cannot is a denial.
        """
        request, turn = asked.request, asked.turn
        ids = {
            "evaluation_id": fresh("evl_", 12),
            "trace_id": turn.trace_id if turn else trace_id or fresh("", 16),
        }
        now_us = self._clock.now_us() if now_us is None else now_us
        part, trial = asked.part, self._trial
        version, shadows = self._stable, trial is not None and trial.shadows
        case = _Case(request, turn, now_us, supported, asked.usage)
        if trial is not None:
            chosen = trial.on_canary(unit(request))
            if chosen and self._loosens(trial, case, discharged):
                chosen, shadows = False, True
            part = Part(trial.rollout, CANARY if chosen else STABLE)
            version = trial.version if chosen else version
        made, discharged = self._made(version, case, discharged)
        approval_id = discharged.id if discharged and made.outcome.runs else ""
        found: dict[str, object] = {"approval_id": approval_id, **ids}
        if part is not None:
            found |= {"rollout": part.rollout, "arm": part.arm}
        if trial is not None and shadows:
            found["shadow"] = self._shadow(trial.version, case, discharged)
        return msgspec.structs.replace(made, **found)

    def refuse(self, asked: Asked, why: Barred, *, trace_id: str = "", now_us: int) -> Decision:
        """The denial of what is barred, with the risk and labels it has; nothing is spent on it, no arm is judged."""
        request, turn, stable = asked.request, asked.turn, self._stable
        found = unknown_turn(stable.bundle)
        if request.subject.type != TURN:
            found = self._evaluate(stable, _Case(request, turn, now_us, ANY, asked.usage), None)
        return Decision(
            outcome=Outcome.DENY,
            risk=found.risk,
            labels=found.labels,
            reasons=(why.reason,),
            policies=(why.by,),
            code=why.code,
            retry_after_s=why.retry_after_s,
            bundle=stable.bundle.digest,
            evaluation_id=fresh("evl_", 12),
            trace_id=turn.trace_id if turn else trace_id or fresh("", 16),
        )

    def _loosens(self, trial: Trial, case: _Case, discharged: Discharge | None) -> bool:
        """Whether the version that is tried is laxer here than the stable one, in a way nobody agreed to."""
        if case.request.subject.type == TURN:
            return False
        before = self._evaluate(self._stable, case, discharged).outcome
        after = self._evaluate(trial.version, case, discharged).outcome
        return after < before and (case.request.action.name, before.wire, after.wire) not in trial.agreed

    def _made(self, version: Version, case: _Case, discharged: Discharge | None) -> tuple[Decision, Discharge | None]:
        """The decision of one version, and the approval it rests on."""
        request, turn = case.request, case.turn
        if request.subject.type == TURN:
            return unknown_turn(version.bundle), discharged
        made = self._evaluate(version, case, discharged)
        if made.outcome is Outcome.REQUIRE_REVIEW and turn and turn.covers(request, made, version.bundle.manifests):
            under = self._evaluate(version, case, turn.approval)
            if UNSUPPORTED in under.reasons or (under.outcome.runs and turn.spend(request.action.name)):
                return under, turn.approval
        return made, discharged

    def _shadow(self, version: Version, case: _Case, discharged: Discharge | None) -> Shadow | None:
        """What this version says in the same situation; nothing that a turn covers is spent on it."""
        if case.request.subject.type == TURN:
            return None
        begun = perf_counter_ns()
        made = self._evaluate(version, case, discharged)
        latency_us = (perf_counter_ns() - begun) // 1000
        bundle, errors = version.bundle.digest, len(made.errors)
        return Shadow(outcome=made.outcome, bundle=bundle, errors=errors, latency_us=latency_us)

    def explain(self, request: Request, *, now_us: int | None = None) -> tuple[PolicyExplained, ...]:
        """What each policy that speaks of the action says; empty where they are not asked at all."""
        version = self._stable
        situation = self._situation(request, None, None, self._clock.now_us() if now_us is None else now_us)
        return explain(request, version.bundle, situation, classifier=version.classifier)

    def _situation(
        self,
        request: Request,
        turn: Turn | None,
        discharged: Discharge | None,
        now_us: int,
        usage: Usage | None = None,
    ) -> Situation:
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
            usage=usage,
            untrusted=turn.untrusted if turn else "",
            directory=turn.directory if turn else (),
        )

    def _evaluate(self, version: Version, case: _Case, discharged: Discharge | None) -> Decision:
        situation = self._situation(case.request, case.turn, discharged, case.now_us, case.usage)
        made = version.evaluate(case.request, situation, tuple(self._python))
        if made.outcome is Outcome.REQUIRE_REVIEW and case.request.comes_back:
            reasons = (*made.reasons, "an answer cannot wait for people")
            return msgspec.structs.replace(made, outcome=Outcome.DENY, reasons=reasons, requirement=None)
        if made.outcome is Outcome.REQUIRE_REVIEW and made.requirement is None:
            error = PolicyError(", ".join(made.policies), "asks for review but names no approvers")
            return msgspec.structs.replace(made, outcome=Outcome.DENY, errors=(*made.errors, error))
        return made if case.supported is ANY else made.for_caller(case.supported)


def unit(request: Request) -> str:
    """What keeps one arm of a rollout: the session, or else the subject."""
    session = request.context.get("session")
    name = session.get("id", "") if isinstance(session, dict) else session
    if isinstance(name, str) and name:
        return f"session:{name}"
    return f"subject:{request.subject.type}:{request.subject.id}"


def unknown_turn(bundle: Bundle) -> Decision:
    return Decision(
        outcome=Outcome.DENY,
        reasons=("the turn this call belongs to is not open",),
        advice=(Advice("safe_alternative", "send the prompt again through the governed endpoint"),),
        bundle=bundle.digest,
    )

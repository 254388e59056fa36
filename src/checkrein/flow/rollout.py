"""One rollout: traffic moves from the stable arm to the canary arm in stages, and back by itself when that is wrong.

Pure and level-triggered: `step` takes the rollout as it is stored, what was counted since, and the time; it returns
the rollout as it should be stored and what is to be recorded. It may be called late, twice, or by another process;
`TRANSITIONS` is the whole life. The counting is that of `services.rollouts`, the statistics those of `stats`.
"""

from __future__ import annotations

import enum
import hashlib
import hmac
from collections.abc import Iterator, Mapping, Sequence

import msgspec

from checkrein.flow.window import Difference, Loosened, Minute, Tally, Window
from checkrein.model import CheckreinError
from checkrein.stats import sequential

MINUTE_US = 60_000_000


class State(enum.StrEnum):
    SHADOW = "shadow"
    WAITING = "waiting for people"
    LIVE = "live"
    PAUSED = "paused"
    PROMOTED = "promoted"
    ROLLED_BACK = "rolled back"
    ABORTED = "aborted"
    UNDONE = "undone"


class Event(enum.StrEnum):
    """What can happen to a rollout."""

    SEEN = "seen enough, nothing is loosened"
    LOOSENS = "something is loosened that nobody agreed to"
    AGREED = "people agree to what is loosened"
    REFUSED = "people refuse, or nobody answers in time"
    PASSED = "the stage is passed"
    COMPLETED = "the last stage is passed"
    BROKE = "a limit is broken, or evidence never came"
    PAUSE = "paused"
    RESUME = "resumed"
    PROMOTE = "promoted by hand"
    ABORT = "aborted by hand"
    UNDO = "undone by hand"


#: `PAUSED` leads back to where it came from: to `SHADOW` from stage 0, else to `LIVE`
TRANSITIONS: dict[State, dict[Event, tuple[State, ...]]] = {
    State.SHADOW: {
        Event.SEEN: (State.LIVE,),
        Event.LOOSENS: (State.WAITING,),
        Event.PAUSE: (State.PAUSED,),
        Event.BROKE: (State.ROLLED_BACK,),
        Event.ABORT: (State.ABORTED,),
    },
    State.WAITING: {
        Event.AGREED: (State.LIVE,),
        Event.REFUSED: (State.ABORTED,),
        Event.ABORT: (State.ABORTED,),
    },
    State.LIVE: {
        Event.PASSED: (State.LIVE,),
        Event.LOOSENS: (State.WAITING,),
        Event.COMPLETED: (State.PROMOTED,),
        Event.BROKE: (State.ROLLED_BACK,),
        Event.PAUSE: (State.PAUSED,),
        Event.PROMOTE: (State.PROMOTED,),
        Event.ABORT: (State.ABORTED,),
    },
    State.PAUSED: {
        Event.RESUME: (State.SHADOW, State.LIVE),
        Event.BROKE: (State.ROLLED_BACK,),
        Event.ABORT: (State.ABORTED,),
    },
    State.PROMOTED: {Event.UNDO: (State.UNDONE,)},
    State.ROLLED_BACK: {},
    State.ABORTED: {},
    State.UNDONE: {},
}
#: in these states a rollout still moves, and no other may begin
ACTIVE = (State.SHADOW, State.WAITING, State.LIVE, State.PAUSED)


class IllegalEvent(CheckreinError):
    """The rollout is in a state in which this cannot happen. Nothing changed."""


class Kind(enum.StrEnum):
    """What is rolled out: a policy bundle, or another version behind an upstream."""

    POLICY = "policy"
    UPSTREAM = "upstream"


class Plan(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How fast, and what rolls it back. Counts are canary answers (decisions, for a policy bundle)."""

    #: percent of the traffic, one number a stage
    stages: tuple[int, ...] = (10, 50, 100)
    stage_minutes: int = 10
    stage_count: int = 300
    #: a stage that takes longer than this has no evidence, which is a reason to go back
    stage_hours: int = 24
    shadow_minutes: int = 10
    shadow_count: int = 300
    #: the literal rule: in each of so many minutes in a row, of so many answers each
    error_rate: float = 0.01
    slow_ms: int = 3000
    #: an arm is slow when more than this share of its answers takes longer than `slow_ms`
    slow_share: float = 0.05
    minutes: int = 5
    minute_count: int = 100
    #: how often a sequential test may roll back a healthy canary, in the whole rollout
    alpha: float = 0.01
    #: how many times the control's odds of a denial or a review the canary may have
    denial_odds: float = 1.5
    review_odds: float = 1.5


class Rollout(msgspec.Struct, frozen=True, kw_only=True):
    """One rollout as it is stored. `stable` and `canary` are bundle digests, or names of upstreams."""

    id: str
    version: int = 1
    kind: Kind
    stable: str
    canary: str
    plan: Plan = Plan()
    state: State
    #: 0 is the shadow, 1 the first of `plan.stages`
    stage: int = 0
    verdict: str
    started_by: str
    created_us: int
    stage_us: int
    ended_us: int = 0
    why: tuple[str, ...] = ()
    #: the approval of what is loosened
    approval: str = ""
    differences: tuple[Difference, ...] = ()
    #: what people have agreed to loosen; anything else the canary would loosen stays as the stable version has it
    agreed: tuple[Loosened, ...] = ()
    #: how far the ledger has been counted
    cursor: int = -1
    #: everything of this stage
    stable_total: Tally = Tally()
    canary_total: Tally = Tally()
    #: the last minutes, the open one at the end
    recent: tuple[Minute, ...] = ()
    #: what the closed minutes of this stage say, by the name of the test
    evidence: Mapping[str, sequential.Logs] = {}

    @property
    def percent(self) -> int:
        """The share of traffic that the canary decides or answers, 0 to 100."""
        if self.state is State.PROMOTED:
            return 100
        live = self.state is State.LIVE or (self.state is State.PAUSED and self.stage)
        return self.plan.stages[self.stage - 1] if live else 0

    @property
    def unagreed(self) -> tuple[Difference, ...]:
        """What the canary loosens and nobody has agreed to."""
        return tuple(found for found in self.differences if found.loosens and found.kind not in self.agreed)

    @property
    def active(self) -> bool:
        return self.state in ACTIVE


class Step(msgspec.Struct, frozen=True):
    """Something to record: the event and why."""

    event: Event
    why: tuple[str, ...] = ()


class Test(msgspec.Struct, frozen=True):
    """A sequential test: which of the counted events, among which exposures, beside what tolerated odds."""

    name: str
    bad: str
    among: str
    tolerated: str = ""
    #: whether it speaks of the shadow too, where both arms decide every request and the canary's word does nothing
    shadow: bool = False


TESTS = (
    Test("errors", "errors", "ended", shadow=True),
    Test("slow answers", "slow", "ended", shadow=True),
    Test("denials", "denied", "decided", "denial_odds"),
    Test("reviews", "reviewed", "decided", "review_odds"),
)


def on_canary(rollout: Rollout, unit: str, key: bytes) -> bool:
    """Whether this unit (a session, or a subject) is on the canary arm: the same at every request and node.

    Who is on it at 10 % stays on it at 50 %. Without the key nobody can choose a name that is.
    """
    name = f"checkrein.rollout.v1:{rollout.id}:{unit}".encode()
    place = int.from_bytes(hmac.digest(key, name, hashlib.sha256)[:8], "big")
    return place * 100 < rollout.percent << 64


def move(rollout: Rollout, event: Event, now_us: int, why: Sequence[str] = ()) -> Rollout:
    """The rollout after `event`; raises `IllegalEvent` and changes nothing where the table has no such step."""
    targets = TRANSITIONS[rollout.state].get(event)
    if targets is None:
        raise IllegalEvent(
            f"rollout `{rollout.id}` is {rollout.state}; it cannot be {event}",
            hint=f"see it with `checkrein rollout status {rollout.id}`",
        )
    state = targets[-1] if rollout.stage else targets[0]
    moved = msgspec.structs.replace(rollout, state=state, version=rollout.version + 1, why=tuple(why) or rollout.why)
    if event in (Event.SEEN, Event.PASSED):
        return _stage(moved, rollout.stage + 1, now_us)
    if event is Event.AGREED:  # from the shadow the first stage begins, else the one that was left off
        agreed = (*rollout.agreed, *(found.kind for found in rollout.unagreed))
        return _stage(msgspec.structs.replace(moved, agreed=agreed), max(rollout.stage, 1), now_us)
    if event is Event.RESUME:
        return _stage(moved, rollout.stage, now_us)
    return moved if state in ACTIVE else msgspec.structs.replace(moved, ended_us=now_us)


def _stage(rollout: Rollout, stage: int, now_us: int) -> Rollout:
    """A stage begins: nothing of what was counted before speaks for it."""
    return msgspec.structs.replace(
        rollout, stage=stage, stage_us=now_us, stable_total=Tally(), canary_total=Tally(), recent=(), evidence={}
    )


def step(rollout: Rollout, window: Window, now_us: int) -> tuple[Rollout, tuple[Step, ...]]:
    """Take in what was counted since the last step, and do what time and figures ask for: at most one move.

    Going back comes before going on. A rollout that has ended takes nothing in.
    """
    if not rollout.active:
        return rollout, ()
    rollout = _counted(rollout, window)
    broken = tuple(_broken(rollout, now_us)) if rollout.state is not State.WAITING else ()
    if broken:
        return move(rollout, Event.BROKE, now_us, broken), (Step(Event.BROKE, broken),)
    event = _due(rollout, now_us)
    if event is None:
        return rollout, ()
    why = (_progress(rollout),)
    return move(rollout, event, now_us, why), (Step(event, why),)


def _due(rollout: Rollout, now_us: int) -> Event | None:
    """Where the rollout goes by itself, if it has seen enough."""
    plan = rollout.plan
    minutes = (now_us - rollout.stage_us) / MINUTE_US
    if rollout.state is State.SHADOW:
        if minutes < plan.shadow_minutes or rollout.canary_total.decided < plan.shadow_count:
            return None
        return Event.LOOSENS if rollout.unagreed else Event.SEEN
    if rollout.state is State.LIVE and rollout.unagreed:
        return Event.LOOSENS
    if rollout.state is not State.LIVE or minutes < plan.stage_minutes:
        return None
    if rollout.canary_total.ended < plan.stage_count or _missing(rollout):
        return None
    return Event.COMPLETED if rollout.stage == len(plan.stages) else Event.PASSED


def _missing(rollout: Rollout) -> bool:
    """Whether more canary answers are missing than may fail; those of the open minute may still come."""
    total, pending = rollout.canary_total, rollout.recent[-1].canary.started if rollout.recent else 0
    return total.started - pending - total.ended > rollout.plan.error_rate * max(total.started, 1)


def _progress(rollout: Rollout) -> str:
    total = rollout.canary_total
    counted = f"{total.decided} decisions" if rollout.stage == 0 else f"{total.ended} answers"
    return f"{'the shadow' if rollout.stage == 0 else f'{rollout.percent} %'}: {counted}, no limit broken"


# --- what rolls back ------------------------------------------------------------------------------------------


def _broken(rollout: Rollout, now_us: int) -> Iterator[str]:
    plan = rollout.plan
    if now_us - rollout.stage_us > plan.stage_hours * 60 * MINUTE_US and rollout.state is not State.PAUSED:
        needed = plan.shadow_count if rollout.stage == 0 else plan.stage_count
        yield f"no evidence: the canary did not reach {needed} sound answers within {plan.stage_hours} hours"
    yield from _literal(rollout)
    limit = sequential.threshold(plan.alpha, looks=len(plan.stages))
    for test in TESTS:
        if rollout.stage == 0 and not test.shadow:
            continue
        found = sequential.evidence(_observed(rollout, test))
        if found >= limit:
            yield f"{_told(rollout, test)}; evidence {found:.1f} of {limit:.1f}"


def _literal(rollout: Rollout) -> Iterator[str]:
    """The rule as people say it: more than a limit in each of some minutes in a row."""
    plan = rollout.plan
    last = [minute for minute in rollout.recent[:-1] if minute.canary.ended >= plan.minute_count][-plan.minutes :]
    if len(last) < plan.minutes or last[-1].at - last[0].at != plan.minutes - 1:
        return
    if last[-1].at != rollout.recent[-2].at:
        return  # a later minute has too few answers to say anything
    for name, limit, words in (
        ("errors", plan.error_rate, "failed"),
        ("slow", plan.slow_share, f"took longer than {plan.slow_ms} ms"),
    ):
        shares = [getattr(minute.canary, name) / minute.canary.ended for minute in last]
        if min(shares) > limit:
            yield f"in {plan.minutes} minutes in a row more than {limit:.1%} of the canary's answers {words}"


def _observed(rollout: Rollout, test: Test) -> sequential.Logs:
    """The evidence of the closed minutes with that of the open one."""
    logs = rollout.evidence.get(test.name, sequential.NOTHING)
    return _with(logs, test, rollout.recent[-1], rollout.plan) if rollout.recent else logs


def _with(logs: sequential.Logs, test: Test, minute: Minute, plan: Plan) -> sequential.Logs:
    return sequential.observe(
        logs,
        canary=getattr(minute.canary, test.bad),
        control=getattr(minute.stable, test.bad),
        canary_exposed=getattr(minute.canary, test.among),
        control_exposed=getattr(minute.stable, test.among),
        null_odds=getattr(plan, test.tolerated) if test.tolerated else 1.0,
    )


def _told(rollout: Rollout, test: Test) -> str:
    def share(total: Tally) -> str:
        return f"{getattr(total, test.bad)} of {getattr(total, test.among)}"

    more = f" (tolerated: {getattr(rollout.plan, test.tolerated):g} times the odds)" if test.tolerated else ""
    return f"{test.name}: canary {share(rollout.canary_total)}, stable {share(rollout.stable_total)}{more}"


# --- counting -------------------------------------------------------------------------------------------------


def _counted(rollout: Rollout, window: Window) -> Rollout:
    """The rollout with what was counted: minutes that are over become evidence, the newest stays open."""
    recent, evidence = list(rollout.recent), dict(rollout.evidence)
    stable, canary = rollout.stable_total, rollout.canary_total
    for minute in window.minutes:
        stable, canary = stable + minute.stable, canary + minute.canary
        if recent and recent[-1].at >= minute.at:
            recent[-1] = recent[-1] + minute
            continue
        if recent:
            for test in TESTS:
                logs = evidence.get(test.name, sequential.NOTHING)
                evidence[test.name] = _with(logs, test, recent[-1], rollout.plan)
        recent.append(minute)
    return msgspec.structs.replace(
        rollout,
        cursor=max(rollout.cursor, window.cursor),
        recent=tuple(recent[-(rollout.plan.minutes + 1) :]),
        evidence=evidence,
        stable_total=stable,
        canary_total=canary,
        differences=_merged(rollout.differences, window.differences),
    )


#: kinds of difference that are kept; more are counted with the last
MAX_DIFFERENCES = 200


def _merged(known: Sequence[Difference], new: Sequence[Difference]) -> tuple[Difference, ...]:
    by_kind = {(found.action, found.before, found.after): found for found in known}
    for found in new:
        kind = (found.action, found.before, found.after)
        earlier = by_kind.get(kind)
        if earlier is not None:
            by_kind[kind] = msgspec.structs.replace(earlier, count=earlier.count + found.count)
        elif len(by_kind) < MAX_DIFFERENCES or found.loosens:
            by_kind[kind] = found
    return tuple(by_kind[kind] for kind in sorted(by_kind))

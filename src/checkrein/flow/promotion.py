"""The verdict of a gate: figures of champion and challenger in, `promote`, `refuse` or `not_enough_evidence` out.

Pure. Every check says what was seen, between which bounds it truly lies, and against which limit; one that a larger
sample could still turn says how large. A single failed check refuses; else a single open one leaves the question open.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Iterator, Sequence

import msgspec

from checkrein.flow.limits import Limits
from checkrein.stats import intervals
from checkrein.stats.intervals import Bounds


class Outcome(enum.StrEnum):
    PROMOTE = "promote"
    REFUSE = "refuse"
    NOT_ENOUGH_EVIDENCE = "not_enough_evidence"


class State(enum.StrEnum):
    PASSED = "passed"
    FAILED = "failed"
    OPEN = "open"
    #: nothing to judge, such as costs without prices
    SKIPPED = "skipped"


class Answered(msgspec.Struct, frozen=True, kw_only=True):
    """How one arm answered one case. `score` is between 0 and 1, or None if nothing can be scored."""

    case: str
    ok: bool
    latency_ms: float
    score: float | None = None
    tokens: int = 0
    cost: float | None = None
    error: str = ""


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """One question. `needed` is the number of cases that would settle it, where more would."""

    name: str
    state: State
    told: str
    value: float | None = None
    low: float | None = None
    high: float | None = None
    limit: float | None = None
    needed: int = 0


class Verdict(msgspec.Struct, frozen=True):
    outcome: Outcome
    checks: tuple[Check, ...]

    @property
    def needed(self) -> int:
        """The number of cases that would settle every open check."""
        return max((check.needed for check in self.checks if check.state is State.OPEN), default=0)


def judge(
    champion: Sequence[Answered], challenger: Sequence[Answered], limits: Limits, more: Sequence[Check] = ()
) -> Verdict:
    """Judge answers to the same cases. `more` are checks made elsewhere, such as governance and drift."""
    checks = (*_checks(champion, challenger, limits), *more)
    return Verdict(decide(checks), checks)


def judge_policies(answers: Sequence[Answered], limits: Limits, more: Sequence[Check]) -> Verdict:
    """Judge a policy bundle by its decisions: the time they take, and what was found of them elsewhere."""
    checks = (*more, _latency(answers, limits))
    return Verdict(decide(checks), checks)


def decide(checks: Sequence[Check]) -> Outcome:
    """Nothing judged is no evidence."""
    states = {check.state for check in checks}
    if State.FAILED in states:
        return Outcome.REFUSE
    if State.OPEN in states or State.PASSED not in states:
        return Outcome.NOT_ENOUGH_EVIDENCE
    return Outcome.PROMOTE


def _checks(champion: Sequence[Answered], challenger: Sequence[Answered], limits: Limits) -> Iterator[Check]:
    yield _errors(challenger, limits)
    yield _latency(challenger, limits)
    yield _cost(challenger, limits)
    yield _success(champion, challenger, limits)


def _errors(answers: Sequence[Answered], limits: Limits) -> Check:
    failed = sum(not answer.ok for answer in answers)
    found = intervals.proportion(failed, len(answers), limits.alpha)
    needed = intervals.cases_for_rate(limits.error_rate, limits.alpha)
    told = f"{failed} of {len(answers)} failed: at most {found.high:.2%}, and the limit is {limits.error_rate:.2%}"
    return _below("error rate", found, limits.error_rate, told, max(needed, len(answers) * 2 if failed else 0))


def _latency(answers: Sequence[Answered], limits: Limits) -> Check:
    q = limits.latency_quantile
    found = intervals.quantile([answer.latency_ms for answer in answers if answer.ok], q, limits.alpha)
    told = f"p{q * 100:g} {_ms(found.value)}, at most {_ms(found.high)}; the limit is {_ms(limits.latency_ms)}"
    needed = max(intervals.cases_for_quantile(q, limits.alpha), len(answers) * 2 if found.high < math.inf else 0)
    return _below("latency", found, limits.latency_ms, told, needed)


def _cost(answers: Sequence[Answered], limits: Limits) -> Check:
    priced = [answer for answer in answers if answer.cost is not None and answer.tokens]
    if not priced:
        told = "no price is known: give the upstream `price_in` and `price_out`, or answers their `cost`"
        return Check(name="cost", state=State.SKIPPED, told=told)
    costs, thousands = [answer.cost or 0.0 for answer in priced], [answer.tokens / 1000 for answer in priced]
    found = intervals.ratio(costs, thousands, limits.alpha)
    limit = limits.cost_per_1000_tokens
    told = f"{found.value:.4f} for 1,000 tokens, at most {found.high:.4f}; the limit is {limit:g}"
    return _below("cost", found, limit, told, 2 * len(priced) if len(priced) > 1 else 30)


def _success(champion: Sequence[Answered], challenger: Sequence[Answered], limits: Limits) -> Check:
    """Not worse than the champion by more than the margin, on the cases that both were scored on."""
    before = {answer.case: answer.score for answer in champion if answer.score is not None}
    pairs = [(before[a.case], a.score) for a in challenger if a.score is not None and a.case in before]
    if not pairs:
        return Check(name="success", state=State.SKIPPED, told="no case says what a good answer is")
    gained = sum(after >= 0.5 > was for was, after in pairs)
    lost = sum(was >= 0.5 > after for was, after in pairs)
    found = intervals.paired_difference(gained, lost, len(pairs), limits.alpha)
    rate = sum(after >= 0.5 for _, after in pairs) / len(pairs)
    told = (
        f"{rate:.1%} of {len(pairs)} right; {gained} gained and {lost} lost against the champion: "
        f"worse by at most {max(0.0, -found.low):.1%}, and {limits.margin:.1%} is tolerated"
    )
    state = State.OPEN
    if found.low > -limits.margin:
        state = State.PASSED
    elif found.high < -limits.margin:
        state = State.FAILED
    discordant = (gained + lost + 1) / (len(pairs) + 2)
    needed = intervals.cases_for_difference(limits.margin, discordant, limits.alpha)
    return Check(
        name="success",
        state=state,
        told=told,
        value=found.value,
        low=found.low,
        high=found.high,
        limit=-limits.margin,
        needed=max(needed, len(pairs) + 1) if state is State.OPEN else 0,
    )


def _below(name: str, found: Bounds, limit: float, told: str, needed: int) -> Check:
    """Whether the figure is below its limit: surely, surely not, or not known yet."""
    state = State.OPEN
    if found.high < limit:
        state = State.PASSED
    elif found.low >= limit:
        state = State.FAILED
    return Check(
        name=name,
        state=state,
        told=told,
        value=_finite(found.value),
        low=_finite(found.low),
        high=_finite(found.high),
        limit=limit,
        needed=needed if state is State.OPEN else 0,
    )


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _ms(value: float) -> str:
    if not math.isfinite(value):
        return "unknown"
    return f"{value:,.0f} ms" if value >= 10 else f"{value:.3g} ms"

"""Policy tests: a request, the time it takes place, and the outcome it must have. `casefile` reads them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from checkrein.model import CheckreinError, Decision, Level, Outcome, Request


class Expect(msgspec.Struct, frozen=True):
    """What a decision must be. None is not checked; `policies` are the determining ones, in any order."""

    outcome: Outcome
    policies: tuple[str, ...] | None = None
    risk: Level | None = None


class Case(msgspec.Struct, frozen=True):
    """One test; `place` is `tests/x.yaml:12`."""

    name: str
    place: str
    request: Request
    now_us: int
    expect: Expect


class CaseResult(msgspec.Struct, frozen=True):
    """A case that was run; `failures` says in plain words what was not as expected."""

    case: Case
    decision: Decision | None
    failures: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        return not self.failures


def run(cases: Sequence[Case], decide: Callable[[Request, int], Decision]) -> tuple[CaseResult, ...]:
    """Decide every case at its own time (microseconds since 1970) and compare."""
    results = []
    for case in cases:
        try:
            decision = decide(case.request, case.now_us)
        except CheckreinError as error:
            results.append(CaseResult(case, None, (f"no decision: {error}",)))
        else:
            results.append(CaseResult(case, decision, _failures(case.expect, decision)))
    return tuple(results)


def _failures(expect: Expect, decision: Decision) -> tuple[str, ...]:
    failures = []
    if decision.outcome is not expect.outcome:
        text = f"expected {expect.outcome.wire}, got {decision.outcome.wire}"
        because = [*decision.reasons, *(f"`{error.policy}`: {error.message}" for error in decision.errors)]
        failures.append(f"{text} because: {'; '.join(because)}" if because else text)
    if expect.policies is not None and set(expect.policies) != set(decision.policies):
        failures.append(f"expected it decided by {_ids(expect.policies)}, was {_ids(decision.policies)}")
    if expect.risk is not None and decision.risk.level is not expect.risk:
        factors = f" ({', '.join(decision.risk.factors)})" if decision.risk.factors else ""
        failures.append(f"expected risk {expect.risk.value}, got {decision.risk.level.value}{factors}")
    return tuple(failures)


def _ids(ids: Sequence[str]) -> str:
    return ", ".join(f"`{id}`" for id in sorted(ids)) or "no policy"

"""The promotion gate: champion and challenger answer the same golden cases, and the figures decide.

Every answer is written to the run's file as it comes, so that a run that broke off goes on where it was. What the
verdict rests on is recorded as `gate.verdict`, before anybody is told.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import secrets
from collections.abc import Callable, Mapping, Sequence
from time import perf_counter
from typing import Protocol

import msgspec

from checkrein.decide.evaluate import REQUEST
from checkrein.flow import drift
from checkrein.flow.limits import ON_DRIFT, Limits
from checkrein.flow.promotion import Answered, Check, State, Verdict
from checkrein.model import Decision, Outcome, Request, UpstreamUnavailable
from checkrein.model.json import canonical
from checkrein.ports import Store, Unit
from checkrein.services import records
from checkrein.services.golden import Golden, digest
from checkrein.services.scoring import Judge, score

VERDICT = "gate.verdict"
#: cases that a check names, and how often a policy bundle decides each
MAX_NAMED, REPEATS = 20, 5
#: what production that has drifted from the golden set makes of a check, by `gate.on_drift`
_DRIFTED = dict(zip(ON_DRIFT, (State.OPEN, State.FAILED, State.SKIPPED), strict=True))
CHAMPION, CHALLENGER = "champion", "challenger"


class Said(msgspec.Struct, frozen=True, kw_only=True):
    """What an arm said. `cost` is None where no price is known; `score` is given by runs that were scored elsewhere."""

    text: str
    tokens: int = 0
    cost: float | None = None
    latency_ms: float | None = None
    score: float | None = None


class Answerer(Protocol):
    """Anything that answers a case: an upstream, a function, a command, an earlier run."""

    @property
    def name(self) -> str: ...

    async def answer(self, case: Golden) -> Said:
        """Raises `UpstreamUnavailable` if no answer comes."""

    async def close(self) -> None: ...


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """One answer in a run's file. The text is kept for `gate diff`; the file stays on this machine."""

    arm: str
    answered: Answered
    text: str = ""


class Run(Protocol):
    """What was answered so far, kept where a crash does not reach it."""

    @property
    def lines(self) -> Mapping[tuple[str, str], Line]:
        """By arm and case."""

    def add(self, line: Line) -> None: ...


def run_id(about: Mapping[str, str]) -> str:
    """The same question has the same run, so that it can be taken up again."""
    return "run_" + hashlib.sha256(canonical(dict(about))).hexdigest()[:16]


async def collect(
    cases: Sequence[Golden],
    arms: Mapping[str, Answerer],
    run: Run,
    *,
    concurrency: int,
    judged_by: Judge | None,
    told: Callable[[int, int], None] = lambda done, all: None,
) -> dict[str, list[Answered]]:
    """Every answer of every arm, those of an earlier try included. The arms take turns: both meet the same hour."""
    asked = [case for case in cases if case.messages]
    waiting = [(case, arm) for case in asked for arm in arms if (arm, case.id) not in run.lines]
    done = len(asked) * len(arms) - len(waiting)
    gate = asyncio.Semaphore(concurrency)

    async def one(case: Golden, arm: str) -> None:
        nonlocal done
        async with gate:
            run.add(await _answered(case, arm, arms[arm], judged_by))
        done += 1
        told(done, len(asked) * len(arms))

    told(done, len(asked) * len(arms))
    async with asyncio.TaskGroup() as group:
        for case, arm in waiting:
            group.create_task(one(case, arm))
    return {arm: [run.lines[arm, case.id].answered for case in asked] for arm in arms}


async def _answered(case: Golden, arm: str, answerer: Answerer, judged_by: Judge | None) -> Line:
    begun = perf_counter()
    try:
        said = await answerer.answer(case)
    except UpstreamUnavailable as error:
        took = (perf_counter() - begun) * 1000
        return Line(arm=arm, answered=Answered(case=case.id, ok=False, latency_ms=took, score=0.0, error=str(error)))
    if wrong := _impossible(said):
        took = (perf_counter() - begun) * 1000
        return Line(arm=arm, answered=Answered(case=case.id, ok=False, latency_ms=took, score=0.0, error=wrong))
    took = said.latency_ms if said.latency_ms is not None else (perf_counter() - begun) * 1000
    found = await score(case, said.text, judged_by)
    found = said.score if found is None else found
    answered = Answered(case=case.id, ok=True, latency_ms=took, score=found, tokens=said.tokens, cost=said.cost)
    return Line(arm=arm, answered=answered, text=said.text)


def _impossible(said: Said) -> str:
    """What is wrong with the figures an answer came with: an agent does not talk itself cheap or quick."""
    figures = {"tokens": said.tokens, "cost": said.cost, "latency_ms": said.latency_ms, "score": said.score}
    for name, value in figures.items():
        if value is not None and not 0 <= value < math.inf:
            return f"`{name}` is not a figure from 0 on"
    return "`score` is above 1" if said.score is not None and said.score > 1 else ""


# --- governance


def governance(cases: Sequence[Golden], decide: Callable[[Request], Decision]) -> Check:
    """Every golden action must be decided as its label says."""
    wrong = [
        f"{case.place}: {made.outcome.name}, not {case.expect.name}"
        for case in cases
        if (made := decide(case.request)).outcome is not case.expect
    ]
    if wrong:
        more = f" and {len(wrong) - MAX_NAMED} more" if len(wrong) > MAX_NAMED else ""
        told = (
            f"{len(wrong)} of {len(cases)} golden actions are decided otherwise: {'; '.join(wrong[:MAX_NAMED])}{more}"
        )
        return Check(name="governance", state=State.FAILED, told=told, value=float(len(wrong)), limit=0.0)
    told = f"all {len(cases)} golden actions are decided as their labels say"
    return Check(name="governance", state=State.PASSED, told=told, value=0.0, limit=0.0)


def policy_checks(
    cases: Sequence[Golden], stable: Callable[[Request], Decision], candidate: Callable[[Request], Decision]
) -> tuple[list[Answered], list[Check]]:
    """A policy bundle on golden actions. Deciding is no matter of chance: nothing is left open but the time it takes.

    Each action is decided `REPEATS` times, so that few cases bound the latency too.
    """
    answers, erring, changed = [], [], []
    for case in cases:
        before = stable(case.request)
        for _ in range(REPEATS):
            begun = perf_counter()
            made = candidate(case.request)
            took = (perf_counter() - begun) * 1000
            right, errs = float(made.outcome is case.expect), _errs(case, before, made)
            answers.append(Answered(case=case.id, ok=not errs, latency_ms=took, score=right))
        if errs:
            erring.append(f"{case.place}: `{made.errors[0].policy}`")
        if before.outcome is not made.outcome:
            changed.append(f"{case.place}: {before.outcome.name} becomes {made.outcome.name}")
    state = State.FAILED if erring else State.PASSED
    told = _listed(f"in {len(erring)} of {len(cases)} golden actions a policy errs", erring)
    named = _listed(f"{len(changed)} golden actions are decided otherwise than now", changed)
    return answers, [
        governance(cases, candidate),
        Check(name="erring policies", state=state, told=told, value=float(len(erring)), limit=0.0),
        Check(name="changes", state=State.SKIPPED, told=named, value=float(len(changed))),
    ]


def drift_check(found: drift.Report, on_drift: str) -> Check:
    """Whether the golden cases still look like production. `on_drift` is what it means if they do not.

    What cannot be told is told to be so: a first deployment has no production, and must be able to begin.
    """
    states = {drift.Outcome.NO_DRIFT: State.PASSED, drift.Outcome.DRIFT: _DRIFTED[on_drift]}
    told = "; ".join([found.told, *(f"{each.name}: {each.told}" for each in found.shifted)])
    return Check(name="drift", state=states.get(found.outcome, State.SKIPPED), told=told, needed=found.needed)


def _errs(case: Golden, before: Decision, made: Decision) -> bool:
    """Whether a policy errs. A request that shall be denied because no version can read it is no policy's fault."""
    unreadable = case.expect is Outcome.DENY and {error.policy for error in made.errors} == {REQUEST}
    return bool(made.errors) and not (unreadable and made.errors == before.errors)


def _listed(what: str, items: Sequence[str]) -> str:
    more = f" and {len(items) - MAX_NAMED} more" if len(items) > MAX_NAMED else ""
    return f"{what}: {'; '.join(items[:MAX_NAMED])}{more}" if items else what


# --- the verdict


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """A verdict with what it is about."""

    id: str
    kind: str
    champion: str
    challenger: str
    golden: str
    cases: int
    limits: Limits
    verdict: Verdict

    def detail(self) -> dict[str, object]:
        """What the record says: no floats stand in the ledger, so figures are text."""
        checks = [
            {
                "name": check.name,
                "state": check.state.value,
                "told": records.cut(check.told),
                "needed": check.needed,
            }
            for check in self.verdict.checks
        ]
        limits = msgspec.structs.asdict(self.limits)
        return {
            "id": self.id,
            "kind": self.kind,
            "champion": self.champion,
            "challenger": self.challenger,
            "verdict": self.verdict.outcome.value,
            "golden": self.golden,
            "cases": self.cases,
            "needed": self.verdict.needed,
            "limits": {name: value if isinstance(value, str) else f"{value:g}" for name, value in limits.items()},
            "checks": checks,
        }


def report(
    kind: str, champion: str, challenger: str, cases: Sequence[Golden], limits: Limits, verdict: Verdict
) -> Report:
    return Report(
        id="gat_" + secrets.token_hex(8),
        kind=kind,
        champion=champion,
        challenger=challenger,
        golden=digest(cases),
        cases=len(cases),
        limits=limits,
        verdict=verdict,
    )


def record(store: Store, made: Report, by: str) -> None:
    """Sign the verdict into the ledger; raises `StoreUnavailable`, and then there is none."""
    draft = records.admin(VERDICT, by, made.detail())
    store.commit(Unit((draft,))).result()


# --- earlier runs


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    case: str
    before: str
    after: str
    score_before: float | None
    score_after: float | None


def differences(one: Mapping[tuple[str, str], Line], other: Mapping[tuple[str, str], Line]) -> list[Difference]:
    """The challenger's answers that got another score in the second run, or another text."""
    found = []
    for (arm, case), line in sorted(other.items()):
        before = one.get((arm, case))
        if arm != CHALLENGER or before is None:
            continue
        if (before.answered.score, before.text) != (line.answered.score, line.text):
            found.append(
                Difference(
                    case=case,
                    before=before.text,
                    after=line.text,
                    score_before=before.answered.score,
                    score_after=line.answered.score,
                )
            )
    return found


class Recorded:
    """An earlier run, or one imported from elsewhere, as an answerer: it says again what it said."""

    def __init__(self, name: str, answers: Mapping[str, Said]) -> None:
        self.name = name
        self._answers = answers

    async def answer(self, case: Golden) -> Said:
        said = self._answers.get(case.id)
        if said is None:
            raise UpstreamUnavailable(f"`{self.name}` has no answer to `{case.id}`", hint="import a run of this set")
        return said

    async def close(self) -> None:
        return

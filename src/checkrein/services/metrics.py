"""How well a deployment governs: each measure with its target, and with how it was counted.

Everything is told from the ledger. What records share with others is counted without reading them; what stands only
inside them is read from at most `SAMPLE` of each kind, drawn evenly, and then the measure says so. Where there is
nothing to count there is no value, and a target without a value is never met.
"""

from __future__ import annotations

import enum
import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import NamedTuple, Protocol

import msgspec

from checkrein.flow.limits import Targets
from checkrein.ledger import Record
from checkrein.ledger.record import facets, member
from checkrein.model import Decision, LedgerInvalid, Outcome, Request
from checkrein.model.request import LOOSEN
from checkrein.ports import Census, Counted, RecordQuery, Store
from checkrein.services.golden import Golden
from checkrein.services.reconcile import stands

#: records of one kind that are read
SAMPLE = 10_000
#: a start follows its decision in the same transaction, with no more than the approval's records in between
_BEHIND = 8
#: actions whose effects are remembered while counting
_ACTIONS = 10_000
_RUNS = tuple(outcome.wire for outcome in Outcome if outcome.runs)
QUANTILES = (50, 95, 99)


class Standing(enum.StrEnum):
    """How a value stands to its target."""

    MET = "met"
    MISSED = "missed"
    NO_DATA = "no data"
    NO_TARGET = "no target"


class Unit(enum.StrEnum):
    SHARE = "share"
    MILLISECONDS = "ms"
    PER_100 = "per 100"


class Measure(msgspec.Struct, frozen=True, kw_only=True):
    """One figure. `value` is None where there was nothing to count; the target is a least or a most."""

    name: str
    value: float | None
    target: float | None
    at_least: bool = False
    unit: Unit = Unit.SHARE
    #: how it was counted
    how: str

    @property
    def standing(self) -> Standing:
        if self.value is None:
            return Standing.NO_DATA
        if self.target is None:
            return Standing.NO_TARGET
        met = self.value > self.target if self.at_least else self.value < self.target
        return Standing.MET if met else Standing.MISSED


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """The measures, and how many records there are of each kind; `since_us` is where counting began."""

    since_us: int
    records: int
    measures: tuple[Measure, ...]
    counts: tuple[Counted, ...]


class Ledger(Census, Store, Protocol):
    """A store that counts."""


class Known(msgspec.Struct, frozen=True, kw_only=True):
    """What the ledger does not say: which actions have side effects, and what golden cases expect to run.

    `usual` are actions with their risk; `why_not` says why there are none.
    """

    has_side_effects: Callable[[str], bool]
    usual: frozenset[tuple[str, str]] = frozenset()
    why_not: str = ""


def usual(cases: Iterable[Golden], decide: Callable[[Request], Decision]) -> frozenset[tuple[str, str]]:
    """Actions and risk levels that golden cases expect to run, and none expects not to."""
    expected: dict[tuple[str, str], bool] = {}
    for case in cases:
        kind = (case.request.action.name, decide(case.request).risk.level.value)
        expected[kind] = expected.get(kind, True) and case.expect.runs
    return frozenset(kind for kind, runs in expected.items() if runs)


def measure(ledger: Ledger, targets: Targets, known: Known, *, since_us: int = 0) -> Report:
    """Every measure over the records since then; `since_us` 0 counts all."""
    query = RecordQuery(since_us=since_us, before_seq=ledger.head().size)
    tally = _Tally(ledger.counts(query) if query.before_seq else (), known)
    measures = (
        _enforcement(ledger, tally, query, targets),
        *_agents(ledger, targets),
        _denials(tally, known, targets),
        _review_load(tally, known, targets),
        _wrongful(ledger, tally, query, targets),
        *_latency(ledger, tally, query, targets),
        _gates(ledger, tally, query, targets),
    )
    return Report(since_us=since_us, records=tally.of(), measures=measures, counts=tally.plain())


class _Kind(NamedTuple):
    """What records are told apart by: not by the action itself, for agents may name any number of them."""

    kind: str
    outcome: str
    risk: str
    #: whether the action has side effects, is Checkrein's own, is like golden cases that are expected to run
    acts: bool
    ours: bool
    usual: bool


class _Tally:
    """Sums over what was counted."""

    def __init__(self, counts: Iterable[Counted], known: Known) -> None:
        self._sums: Counter[_Kind] = Counter()
        acts = lru_cache(_ACTIONS)(known.has_side_effects)
        for counted in counts:
            usual = (counted.action, counted.risk) in known.usual
            ours = counted.action == LOOSEN
            kind = _Kind(counted.kind, counted.outcome, counted.risk, acts(counted.action), ours, usual)
            self._sums[kind] += counted.count

    def of(
        self,
        *kinds: str,
        outcomes: Sequence[str] = (),
        where: Callable[[_Kind], bool] = lambda kind: True,
    ) -> int:
        return sum(
            count
            for kind, count in self._sums.items()
            if (not kinds or kind.kind in kinds) and (not outcomes or kind.outcome in outcomes) and where(kind)
        )

    def plain(self) -> tuple[Counted, ...]:
        """By kind, outcome and risk alone."""
        found: Counter[tuple[str, str, str]] = Counter()
        for kind, count in self._sums.items():
            found[kind.kind, kind.outcome, kind.risk] += count
        return tuple(Counted(kind, "", outcome, risk, count) for (kind, outcome, risk), count in sorted(found.items()))


# --- the measures


def _enforcement(ledger: Ledger, tally: _Tally, query: RecordQuery, targets: Targets) -> Measure:
    """Executions that a recorded decision let run, and whose end is on record too."""
    started, unknown = tally.of("execution.started"), tally.of("execution.unknown")
    seen = ledger.sample("execution.started", SAMPLE, query) if started else []
    loose = sum(not _let(ledger, record) for record in seen)
    lost = min(unknown + (round(loose * started / len(seen)) if seen else 0), started)
    how = (
        f"{started - lost:,} of {started:,} executions were let run by a recorded decision and did not end unknown"
        f"{_drawn(seen, started)}"
    )
    return Measure(
        name="enforcement_rate",
        value=_share(started - lost, started),
        target=targets.enforcement_rate,
        at_least=True,
        how=how if started else "nothing was executed through Checkrein",
    )


def _let(ledger: Ledger, start: Record) -> bool:
    """Whether the decision that lets this run stands right before it."""
    evaluation = facets(start.body).evaluation
    after = max(start.seq - _BEHIND, 0) - 1
    before = RecordQuery(kinds=("decision",), after_seq=after, before_seq=start.seq, newest_first=True)
    found = (facets(record.body) for record in ledger.records(before)) if start.seq else ()
    return any(decided.evaluation == evaluation and decided.outcome in _RUNS for decided in found)


def _agents(ledger: Ledger, targets: Targets) -> tuple[Measure, ...]:
    """What a witness saw run inside agent gateways, where one has watched."""
    found = stands(ledger).values()
    observed, governed = sum(stand.observed for stand in found), sum(stand.governed for stand in found)
    if not observed:
        return ()
    how = f"{governed:,} of {observed:,} tool calls that a witness saw in agent gateways were decided; of all times"
    target = targets.enforcement_rate
    return (Measure(name="enforcement_inside", value=governed / observed, target=target, at_least=True, how=how),)


def _denials(tally: _Tally, known: Known, targets: Targets) -> Measure:
    """Denials of what golden cases expect to run: the same action at the same risk."""

    decided = tally.of("decision", where=lambda kind: kind.usual)
    denied = tally.of("decision", outcomes=(Outcome.DENY.wire,), where=lambda kind: kind.usual)
    how = f"{denied:,} of {decided:,} decisions on actions and risks that golden cases expect to run"
    if not decided:
        how = known.why_not or "no decision was like a golden case that is expected to run"
    return Measure(name="denial_rate", value=_share(denied, decided), target=targets.denial_rate, how=how)


def _review_load(tally: _Tally, known: Known, targets: Targets) -> Measure:
    """What people are asked about, prompts and reads too: who asks takes it for an action that has side effects.

    An action that waits for people, or ran after they agreed, is one action.
    """
    asked = tally.of("approval.requested", where=lambda kind: not kind.ours)
    asked = max(asked - tally.of("approval.edited"), 0)  # an edit makes another approval of the same review
    settled = tally.of("decision", outcomes=(*_RUNS, Outcome.DENY.wire), where=lambda kind: kind.acts)
    agreed = tally.of("approval.used", where=lambda kind: kind.acts and not kind.ours)
    actions = max(settled - agreed, 0) + asked
    return Measure(
        name="review_load",
        value=_share(asked * 100, actions),
        target=targets.review_load,
        unit=Unit.PER_100,
        how=f"people were asked about {asked:,} of {actions:,} actions with side effects"
        if actions
        else "nothing with side effects",
    )


def _wrongful(ledger: Ledger, tally: _Tally, query: RecordQuery, targets: Targets) -> Measure:
    """Reviews that ended with the very action being approved that was asked for: people had nothing to add.

    Where somebody broke the glass, nobody reviewed.
    """
    kind = "approval.decided"
    seen = ledger.sample(kind, SAMPLE, query) if tally.of(kind) else []
    ends = [end for record in seen if not (end := member(record.body, "approval")).get("broken_by")]
    unchanged = sum(end.get("state") == "approved" and not end.get("edits") for end in ends)
    how = f"{unchanged:,} of {len(ends):,} reviews that people decided approved the action unchanged"
    return Measure(
        name="wrongful_interruptions",
        value=_share(unchanged, len(ends)),
        target=targets.wrongful_interruptions,
        how=how + _drawn(seen, tally.of(kind)) if ends else "people decided no review",
    )


class _Latency(msgspec.Struct):
    latency_us: int = 0


class _Decided(msgspec.Struct):
    decision: _Latency


class _Timed(msgspec.Struct):
    """As little of a record as tells its latency."""

    body: _Decided


_timed = msgspec.json.Decoder(_Timed)


def _took_us(record: Record) -> int:
    try:
        return _timed.decode(record.data).body.decision.latency_us
    except msgspec.MsgspecError as error:
        raise LedgerInvalid(f"record {record.seq} cannot be read", hint="run `checkrein audit verify`") from error


def _latency(ledger: Ledger, tally: _Tally, query: RecordQuery, targets: Targets) -> list[Measure]:
    """How long deciding took, as each decision recorded it (0 if nobody timed it): nearest ranks."""
    decided = tally.of("decision")
    seen = ledger.sample("decision", SAMPLE, query) if decided else []
    took = sorted(us / 1000 for record in seen if (us := _took_us(record)))
    how = f"{len(took):,} timed decisions{_drawn(seen, decided)}" if took else "no decision was timed"
    return [
        Measure(
            name=f"decision_latency_p{percent}",
            value=took[math.ceil(len(took) * percent / 100) - 1] if took else None,
            target=targets.decision_ms,
            unit=Unit.MILLISECONDS,
            how=how,
        )
        for percent in QUANTILES
    ]


def _gates(ledger: Ledger, tally: _Tally, query: RecordQuery, targets: Targets) -> Measure:
    """Verdicts that promote; one without enough evidence does not."""
    kind = "gate.verdict"
    judged = tally.of(kind)
    seen = ledger.sample(kind, SAMPLE, query) if judged else []
    passed = sum(member(record.body, "detail").get("verdict") == "promote" for record in seen)
    how = f"{passed:,} of {len(seen):,} gate verdicts promote{_drawn(seen, judged)}"
    return Measure(
        name="gate_pass_rate",
        value=_share(passed, len(seen)),
        target=targets.gate_pass_rate,
        at_least=True,
        how=how if judged else "no gate was run",
    )


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _drawn(seen: Sequence[Record], of: int) -> str:
    return "" if len(seen) == of else f" ({len(seen):,} of them looked at, drawn evenly)"

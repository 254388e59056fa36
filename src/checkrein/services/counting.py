"""What the ledger says of the two arms of a rollout: records in, a `Window` out."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping

from checkrein.flow.rollout import MINUTE_US, Kind, Rollout
from checkrein.flow.window import Difference, Minute, Tally, Window
from checkrein.ledger import Record
from checkrein.ledger.record import member
from checkrein.model import Outcome
from checkrein.services.pdp import CANARY

#: the kinds of record that are counted
KINDS = ("decision", "execution.started", "execution.finished", "execution.unknown")
_OUTCOMES = {outcome.wire: outcome for outcome in Outcome}


def count(rollout: Rollout, records: Iterable[Record]) -> Window:
    """Count what belongs to this rollout; `cursor` is the last record that was looked at.

    A decision is the answer of a policy bundle, an execution that of an upstream. An answer that streams is slow when
    its first part was, and an execution whose end was never recorded is an error.
    """
    found: dict[int, tuple[list[Tally], list[Tally]]] = defaultdict(lambda: ([], []))
    differences: dict[tuple[str, str, str], Difference] = {}
    cursor = rollout.cursor
    for record in records:
        cursor = record.seq
        body = record.body
        part = member(body, "rollout")
        if part.get("id") != rollout.id:
            continue
        arms = found[record.ts_us // MINUTE_US]
        arms[part.get("arm") == CANARY].append(_tally(rollout, record.kind, body))
        shadow = member(part, "shadow")
        if record.kind == "decision" and shadow:
            arms[1].append(_shadowed(rollout, shadow))
            _compare(differences, body, shadow)
    minutes = tuple(Minute(at, _sum(stable), _sum(canary)) for at, (stable, canary) in sorted(found.items()))
    return Window(minutes, cursor, tuple(differences[kind] for kind in sorted(differences)))


def _sum(tallies: Iterable[Tally]) -> Tally:
    total = Tally()
    for tally in tallies:
        total += tally
    return total


def _tally(rollout: Rollout, kind: str, body: Mapping[str, object]) -> Tally:
    if kind == "decision":
        made = member(body, "decision")
        return _decided(rollout, str(made.get("outcome")), bool(made.get("errors")), _number(made.get("latency_us")))
    if rollout.kind is Kind.POLICY:
        return Tally()
    if kind == "execution.started":
        return Tally(started=1)
    if kind == "execution.unknown":
        return Tally(ended=1, errors=1)
    waited = _number(member(body, "detail").get("first_us", body.get("duration_us")))
    failed = body.get("status") == "failed"
    return Tally(ended=1, errors=int(failed), slow=int(waited > rollout.plan.slow_ms * 1000))


def _decided(rollout: Rollout, outcome: str, erred: bool, latency_us: int) -> Tally:
    counted = {"decided": 1, "denied": int(outcome == "deny"), "reviewed": int(outcome == "require_review")}
    if rollout.kind is Kind.POLICY:
        slow = int(latency_us > rollout.plan.slow_ms * 1000)
        counted |= {"started": 1, "ended": 1, "errors": int(erred), "slow": slow}
    return Tally(**counted)


def _shadowed(rollout: Rollout, shadow: Mapping[str, object]) -> Tally:
    outcome, erred = str(shadow.get("outcome")), bool(_number(shadow.get("errors")))
    return _decided(rollout, outcome, erred, _number(shadow.get("latency_us")))


def _compare(
    differences: dict[tuple[str, str, str], Difference], body: Mapping[str, object], shadow: Mapping[str, object]
) -> None:
    made = member(body, "decision")
    before, after = str(made.get("outcome")), str(shadow.get("outcome"))
    if before == after:
        return
    action = str(member(body, "action").get("name"))
    kind = (action, before, after)
    earlier = differences.get(kind)
    differences[kind] = Difference(
        action=action,
        before=before,
        after=after,
        loosens=_OUTCOMES.get(after, Outcome.ALLOW) < _OUTCOMES.get(before, Outcome.DENY),
        count=earlier.count + 1 if earlier else 1,
        example=earlier.example if earlier else str(made.get("evaluation_id")),
    )


def _number(value: object) -> int:
    return value if isinstance(value, int) else 0

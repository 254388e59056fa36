"""Recorded decisions, decided again by a candidate version of the policies: what would have come out otherwise.

Each request is decided as it was then: with the roles, the labels, the time and the approval of that moment. Policies
written in Python belong to the process that registered them and are not asked.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

import msgspec

from checkrein.decide.classify import Classifier
from checkrein.decide.context import Situation
from checkrein.decide.evaluate import evaluate
from checkrein.ledger.record import facets
from checkrein.model import Outcome, Request
from checkrein.model.decision import UNSUPPORTED
from checkrein.model.stamp import stamp
from checkrein.policy.bundle import Bundle
from checkrein.services.payloads import Known
from checkrein.services.privacy import Recorded
from checkrein.services.turns import TURN

_OUTCOMES = {outcome.wire: outcome for outcome in Outcome}


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """One recorded decision that the candidate would make otherwise."""

    seq: int
    time: str
    trace_id: str
    user: str
    agent: str
    action: str
    before: str
    after: str
    loosening: bool
    policies: tuple[str, ...]


class Replay(msgspec.Struct, frozen=True, kw_only=True):
    """`decided` were decided again; `left_out` counts those that could not be, by the reason."""

    decided: int
    changes: tuple[Change, ...]
    left_out: dict[str, int]

    @property
    def loosening(self) -> int:
        return sum(change.loosening for change in self.changes)


def replay(recorded: Iterable[Recorded], candidate: Bundle) -> Replay:
    """Decide every recorded request again. One that cannot be read any more is counted, never passed over."""
    classifier = Classifier(candidate.manifests)
    changes: list[Change] = []
    left_out: Counter[str] = Counter()
    decided = 0
    for item in recorded:
        if item.request is None or item.known is None:
            left_out[item.state] += 1
            continue
        if item.request.subject.type == TURN:
            left_out["unknown turn"] += 1
            continue
        decided += 1
        found = facets(item.record.body)
        after = evaluate(item.request, candidate, _situation(item.known), classifier=classifier)
        if _unsupported(item.record.body):
            after = after.for_caller(())
        if after.outcome.wire == found.outcome:
            continue
        changes.append(
            Change(
                seq=item.record.seq,
                time=stamp(item.record.ts_us),
                trace_id=item.record.trace_id,
                user=found.user,
                agent=found.agent,
                action=_what(item.request),
                before=found.outcome,
                after=after.outcome.wire,
                loosening=after.outcome < _OUTCOMES.get(found.outcome, Outcome.DENY),
                policies=after.policies,
            )
        )
    return Replay(decided=decided, changes=tuple(changes), left_out=dict(left_out))


def _what(request: Request) -> str:
    return f"prompt to {request.resource.id}" if request.is_prompt else request.action.name


def _unsupported(body: Mapping[str, object]) -> bool:
    """Whether the caller of that time could not carry out obligations."""
    made = body.get("decision")
    reasons = made.get("reasons") if isinstance(made, dict) else None
    return isinstance(reasons, list) and UNSUPPORTED in reasons


def _situation(known: Known) -> Situation:
    return Situation(
        now_us=known.at_us,
        roles=known.roles,
        labels=known.labels,
        environment=known.environment,
        prompt=known.prompt,
        endorsed=known.endorsed,
        untrusted=known.untrusted,
        directory=known.directory,
        approval_id=known.approval_id,
        discharged=frozenset(known.discharged),
    )

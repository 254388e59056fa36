"""What was seen of actions, counted: of golden cases by deciding them, of production from its decision records."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import msgspec

from checkrein.flow.drift import Acted, Seen
from checkrein.ledger import Record
from checkrein.model import Decision, LedgerInvalid, Outcome, Request
from checkrein.model.request import ANSWER, PROMPT
from checkrein.ports import RecordQuery, Store
from checkrein.services.golden import UNNAMED, Golden
from checkrein.services.records import arguments


class _Resource(msgspec.Struct, frozen=True, gc=False):
    type: str = ""
    id: str = ""


class _Action(msgspec.Struct, frozen=True, gc=False):
    name: str = ""
    direction: str = ""
    resource: _Resource = _Resource()


class _Risk(msgspec.Struct, frozen=True, gc=False):
    level: str = ""


class _Made(msgspec.Struct, frozen=True, gc=False):
    outcome: str = ""
    risk: _Risk = _Risk()


class _Approval(msgspec.Struct, frozen=True, gc=False):
    id: str = ""


class _Body(msgspec.Struct, frozen=True, gc=False):
    action: _Action = _Action()
    decision: _Made = _Made()
    approval: _Approval = _Approval()
    input_bytes: int = -1


class _Recorded(msgspec.Struct, frozen=True, gc=False):
    """The few members of a decision record that are counted; reading no others is twice as fast."""

    body: _Body = _Body()


_decoder = msgspec.json.Decoder(_Recorded)


def production(store: Store, since_us: int = 0, until_us: int = 0) -> Iterator[tuple[Record, Acted]]:
    """Every action that was decided in this time, each once.

    One that waits for people is decided when it is asked, each time it is asked again, and when it is released: it
    counts the first time, as reviewed. What a model answers is no action of its own.
    """
    waiting: set[str] = set()
    for record in store.records(RecordQuery(kinds=("decision",), since_us=since_us, until_us=until_us)):
        try:
            body = _decoder.decode(record.data).body
        except (ValueError, RecursionError) as error:
            raise LedgerInvalid(f"record {record.seq} cannot be read", hint="run `checkrein audit verify`") from error
        if body.action.direction == ANSWER:
            continue
        outcome, approval = body.decision.outcome, body.approval.id
        if approval:
            if approval in waiting:
                continue
            waiting.add(approval)
            outcome = outcome if outcome == Outcome.DENY.wire else Outcome.REQUIRE_REVIEW.wire
        action = body.action
        target = f"{action.resource.type}/{action.resource.id}"
        yield record, Acted(action.name, target, body.decision.risk.level, outcome, body.input_bytes)


def golden(cases: Sequence[Golden], decide: Callable[[Request], Decision]) -> Seen:
    """The golden cases, as the policies decide them now."""
    seen = Seen()
    for case in cases:
        if case.request.comes_back:
            continue
        request, made = case.request, decide(case.request)
        target = f"{request.resource.type}/{request.resource.id}"
        if request.action.name == PROMPT and request.resource.id == UNNAMED:
            target = ""
        size = len(arguments(request))
        seen.add(Acted(request.action.name, target, made.risk.level.value, made.outcome.wire, size))
    return seen


def counted(found: Iterator[tuple[Record, Acted]], *, prompts_have_targets: bool = True) -> Seen:
    """Count all of these; the models of prompts are left out where golden prompts name none."""
    seen = Seen()
    for _, acted in found:
        if acted.action == PROMPT and not prompts_have_targets:
            acted = msgspec.structs.replace(acted, target="")
        seen.add(acted)
    return seen

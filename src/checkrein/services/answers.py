"""What a model answers, decided before its caller sees it: its tool calls here, its words in `speech`.

A tool call that a model asks its caller to run is an action: it is decided for the person, with the prompt as
provenance, and recorded in the prompt's trace. The record is a decision and no execution: the caller runs the call
and, where it is governed itself, asks again. A call that an agent gateway has already asked about in the same turn
is neither asked nor recorded twice.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

import msgspec

from checkrein.decide.restore import restore_json
from checkrein.model import (
    Action,
    ApprovalRequired,
    CheckreinError,
    Decision,
    Denied,
    Outcome,
    Request,
    Resource,
    Subject,
)
from checkrein.model.request import ANSWER, PROMPT, TOOL
from checkrein.services.gateway import Gateway
from checkrein.services.governed import Governed
from checkrein.services.speech import Speech
from checkrein.services.turns import TURN

#: an answer with more calls is not decided at all
MAX_CALLS = 128


class Proposal(msgspec.Struct, frozen=True):
    """A tool call that a model proposes. `input` is the text of the arguments where they are no JSON object."""

    name: str
    input: dict[str, object] | str


class Verdict(msgspec.Struct, frozen=True):
    """What becomes of a proposal: it passes as it is, passes with another `input`, or is refused with this text."""

    refusal: str = ""
    input: dict[str, object] | None = None
    #: what was decided, where it was decided here
    made: Decision | None = None

    def error(self) -> CheckreinError:
        """What is told where the call is not made and no text can stand in its place."""
        made = self.made or Decision(outcome=Outcome.DENY)
        if made.outcome is Outcome.REQUIRE_REVIEW:
            return ApprovalRequired(self.refusal, decision=made, approval_id=made.approval_id)
        made = msgspec.structs.replace(made, outcome=Outcome.DENY)
        return Denied(self.refusal or "what would have to be redacted here cannot be", decision=made)

    @property
    def passes(self) -> bool:
        """Whether the proposal passes byte for byte."""
        return not self.refusal and self.input is None


class Answers:
    """Decides what upstreams answer."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def decide(self, governed: Governed, proposals: Sequence[Proposal]) -> tuple[Verdict, ...]:
        """A verdict for each proposal, durably recorded; raises `StoreUnavailable` when one could not be.

        `governed` is the prompt that is being answered.
        """
        asked = (self._one(governed, proposal) for proposal in proposals)
        return tuple(await asyncio.gather(*asked))

    def speech(self, governed: Governed) -> Speech:
        """The words that are answered to this prompt."""
        return Speech(
            lambda chars, found: self._gateway.consider(_answer(governed, chars, found), governed),
            governed.placeholders,
            self._gateway.taken(governed),
        )

    async def record(self, governed: Governed, speech: Speech) -> dict[str, object]:
        """What the end of the prompt says of its answer; an answer that is not plainly allowed gets a record.

        Raises `StoreUnavailable`.
        """
        made = speech.decision
        if made.outcome is not Outcome.ALLOW:
            request = _answer(governed, speech.chars, speech.found)
            await self._gateway.note(request, made, governed, redactions=speech.redactions)
        back = speech.comeback.counts if speech.comeback else {}
        return {"answer": made.outcome.wire, **({"restored": dict(back)} if back else {})}

    async def _one(self, governed: Governed, proposal: Proposal) -> Verdict:
        handle = self._gateway.turn(governed).handle
        taken = self._gateway.taken(governed)
        given = proposal.input
        if len(taken):  # the call is decided as it will be made
            restored = restore_json(given, taken, taken.classes())
            given = restored if isinstance(restored, dict) else given
        action = Action(proposal.name, {"input": given})
        request = Request(Subject(TURN, handle), action, Resource(TOOL, proposal.name))
        made = await self._gateway.propose(request, caller=governed.caller)
        if not made.outcome.runs:
            return Verdict(refusal(proposal.name, made), made=made)
        if made.outcome is Outcome.ALLOW_WITH_REDACTION and isinstance(given, dict):
            clean = self._gateway.redacted(request, made, governed.placeholders)
            return Verdict(made=made, input=clean if isinstance(clean, dict) and clean is not proposal.input else None)
        return Verdict(made=made, input=given if isinstance(given, dict) and given is not proposal.input else None)


def _answer(governed: Governed, chars: int, found: Mapping[str, int]) -> Request:
    """The answer to a prompt as policies are asked about it."""
    asked = governed.request
    properties = {
        "direction": ANSWER,
        "input": {"model": asked.resource.id, "chars": chars, "found": dict(found)},
    }
    return Request(asked.subject, Action(PROMPT, properties), asked.resource, asked.context)


def refusal(tool: str, made: Decision) -> str:
    """What the agent reads in the place of its tool call."""
    name = "".join(char if char.isprintable() and char != "`" else "?" for char in tool[:80])
    reasons = "; ".join(made.reasons) or "policy does not allow it"
    said = [f"The tool call `{name}` was not made: {reasons}."]
    if made.outcome is Outcome.REQUIRE_REVIEW:
        who = f" by {made.requirement}" if made.requirement else ""
        said[0] = f"The tool call `{name}` was not made, it needs approval{who}: {reasons}."
        said.append(f"The approval is {made.approval_id}; once it is given, the same call may be made once.")
    said += [f"Instead: {advice.text}." for advice in made.advice]
    said.append(f"(trace {made.trace_id})")
    return " ".join(said)

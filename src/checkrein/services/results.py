"""What a tool answers, decided before its caller sees it.

Policies decide about a result as about the call it came of, with what was found in the result as labels too; they never
see the result itself. So a duty that holds for a call holds for what comes back of it. One that is not plainly allowed
has a record of its own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import msgspec

from checkrein.decide.detect import EVERYTHING, covers
from checkrein.decide.disguise import OPAQUE
from checkrein.decide.redact import detect_json, redact_json
from checkrein.model import Decision, Outcome, Request
from checkrein.model.request import ANSWER
from checkrein.services.gateway import Gateway
from checkrein.services.governed import Governed
from checkrein.services.speech import Withheld


class Result(msgspec.Struct, frozen=True):
    """A result that was decided. `value` is what may be heard of it, and `changed` whether that is less than all.

    `found` and `taken` say how many spans of each class were found in it and taken out.
    """

    request: Request
    made: Decision
    value: object
    changed: bool
    found: dict[str, int]
    taken: dict[str, int]

    def check(self) -> None:
        """Raises `Withheld` where nobody may hear of it."""
        made = self.made
        if not made.outcome.runs:
            reasons = "; ".join(made.reasons) or "policy does not allow it"
            hints = [advice.text for advice in made.advice]
            if OPAQUE in self.found:
                hints.append("nothing can be taken out of what cannot be read: answer with text or JSON")
            message = f"the tool ran, but its result was withheld: {reasons}"
            raise Withheld(message, decision=made, hint="; ".join(hints))

    def detail(self) -> dict[str, object]:
        """What the end of the call says of it."""
        return {"answer": self.made.outcome.wire, **({"found": self.found} if self.found else {})}


class Results:
    """Decides what tools answer."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    def decide(self, governed: Governed, value: object, *, opaque: bool = False) -> Result:
        """What may be heard of the JSON value that this call came to. One that is `opaque` may hold anything."""
        gateway, found, watched = self._gateway, Counter[str](), tuple[str, ...]()
        request = _result(governed, found)
        made = gateway.consider(request, governed)
        detectors = gateway.detectors(request, made)
        # what was found may make policy want out what nobody looked for before
        while wanted := tuple(cls for cls in (*EVERYTHING, *made.redact) if not covers(watched, cls)):
            watched += wanted
            found = Counter({OPAQUE: 1}) if opaque else detect_json(value, watched, detectors=detectors)
            if found:
                request = _result(governed, found)
                made = gateway.consider(request, governed)
        clean, placeholders = value, governed.placeholders
        before = Counter(placeholders.counts)
        if made.outcome is Outcome.ALLOW_WITH_REDACTION:
            clean = redact_json(value, made.redact, placeholders, detectors=detectors)
        taken = {cls: count for cls, count in (placeholders.counts - before).items() if covers(made.redact, cls)}
        return Result(request, made, clean, clean is not value, dict(found), taken)

    async def record(self, governed: Governed, result: Result) -> None:
        """Record the decision about a result, unless it is plainly allowed; raises `StoreUnavailable`."""
        if result.made.outcome is not Outcome.ALLOW:
            await self._gateway.note(result.request, result.made, governed, redactions=result.taken)

    def record_sync(self, governed: Governed, result: Result) -> None:
        """`record` for code without an event loop."""
        if result.made.outcome is not Outcome.ALLOW:
            self._gateway.note_sync(result.request, result.made, governed, redactions=result.taken)


def _result(governed: Governed, found: Mapping[str, int]) -> Request:
    """The result of a call as policies are asked about it: with all that the call was labelled for."""
    asked = governed.sent
    properties = {**asked.action.properties, "direction": ANSWER, "found": dict(found)}
    return msgspec.structs.replace(asked, action=msgspec.structs.replace(asked.action, properties=properties))

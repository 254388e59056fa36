"""Each governed action as a span of OpenTelemetry: what the ledger says of it, as far as that may leave.

A span begins when the action is asked for and ends with its last record, so none tells what is not on disk. It stands
under the span of the caller (`traceparent`), and what is sent upstream stands under it. An action that waits for people
while its caller is held has one for each time it is decided. What is told, and under which names, says `mapping`.
"""

from __future__ import annotations

import time

import msgspec

from checkrein.model.json import JsonObject
from checkrein.ports import Span, Tracer
from checkrein.services import translate
from checkrein.services.ids import fresh

#: a trace is sampled by its last 64 bits, as OpenTelemetry's own sampler does it
_BITS = 64


class TraceParent(msgspec.Struct, frozen=True):
    """Who asks, by W3C Trace Context: the trace, the span within it, and whether the trace is sampled.

    Without a caller's span the trace may still be named: then it begins here.
    """

    trace_id: str = ""
    span_id: str = ""
    sampled: bool = True


NOBODY = TraceParent()


class OpenSpan:
    """The span of an action that is under way. `end` may be called again; the first one counts."""

    def __init__(self, spans: Spans, parent: TraceParent) -> None:
        self.id = fresh("", 8)
        self._spans = spans
        self._parent = parent
        self._trace_id = parent.trace_id
        self._began_ns = time.time_ns()
        self._body: dict[str, object] = {}

    def context(self, trace_id: str) -> TraceParent:
        """What stands under this span. The trace is the one that was decided in, which a turn may have changed."""
        given = self._parent
        known = given.span_id and given.trace_id == trace_id
        return TraceParent(trace_id, self.id, given.sampled if known else self._spans.samples(trace_id))

    def under(self, parent: TraceParent) -> None:
        """The action belongs to a turn, and so to another trace than its caller named."""
        if self._parent.trace_id != parent.trace_id:
            self._parent = parent

    def said(self, trace_id: str, body: JsonObject) -> None:
        """A record of the action is on disk."""
        self._trace_id = trace_id
        self._body.update(body)

    def end(self, error: str = "") -> None:
        """It is over; `error` is the type of what no record tells."""
        body, self._body = self._body, {}
        if body and (tracer := self._spans.tracer) is not None and self.context(self._trace_id).sampled:
            tracer.tell(self._told(body, error))

    def _told(self, body: JsonObject, error: str) -> Span:
        attributes: dict[str, object] = {**translate.span(body), **({"error.type": error} if error else {})}
        operation = str(attributes["gen_ai.operation.name"])
        named = attributes.get("gen_ai.request.model") or attributes.get("gen_ai.tool.name", "")
        given = self._parent
        return Span(
            name=f"{operation} {named}".rstrip(),
            trace_id=self._trace_id,
            span_id=self.id,
            parent_id=given.span_id if given.trace_id == self._trace_id else "",
            outgoing=operation == "chat" and "checkrein.status" in attributes,
            began_ns=self._began_ns,
            ended_ns=max(time.time_ns(), self._began_ns),
            attributes=attributes,
            failed="error.type" in attributes,
        )


class Spans:
    """Tells them to `tracer`, where there is one; of the traces that begin here, the share `ratio`."""

    def __init__(self) -> None:
        self.tracer: Tracer | None = None
        self._below = 1 << _BITS

    def tell(self, tracer: Tracer | None, ratio: float = 1.0) -> None:
        self.tracer = tracer
        self._below = round(ratio * (1 << _BITS))

    def samples(self, trace_id: str) -> bool:
        """Whether a trace that begins here is told of."""
        return int(trace_id[-16:] or "0", 16) < self._below

    def begin(self, parent: TraceParent) -> OpenSpan:
        return OpenSpan(self, parent)

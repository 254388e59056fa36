"""Spans to a collector of OpenTelemetry, over OTLP/HTTP. Needs the extra `otel`.

OpenTelemetry's own exporter sends them from a thread of its own, out of a queue that is bounded: while the collector
does not answer, the oldest are dropped and whoever asks for an action notices nothing.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from typing import cast

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags
from opentelemetry.util.types import Attributes

from checkrein import __version__
from checkrein.ports import Span
from checkrein.services.mapping import OTEL_SCHEMA

log = logging.getLogger("checkrein.telemetry")

#: spans that wait, and that are sent at once
QUEUE = 2048
BATCH = 512
#: milliseconds that a span waits for others
DELAY_MS = 1000
#: seconds: for one batch with its retries, and for what is left when it ends
SEND_S = 10.0
FLUSH_S = 3.0
_SAMPLED = TraceFlags(TraceFlags.SAMPLED)


class OtlpTracer:
    """`endpoint` is where traces are taken, `headers` what the collector asks for. Close it."""

    def __init__(self, endpoint: str, headers: Mapping[str, str], *, environment: str) -> None:
        self._exporter = OTLPSpanExporter(endpoint=endpoint, headers=headers, timeout=SEND_S)
        self._queue = BatchSpanProcessor(
            self._exporter, max_queue_size=QUEUE, max_export_batch_size=BATCH, schedule_delay_millis=DELAY_MS
        )
        about = {
            "service.name": "checkrein",
            "service.version": __version__,
            "deployment.environment.name": environment,
        }
        self._resource = Resource.create(about, OTEL_SCHEMA)
        self._scope = InstrumentationScope("checkrein", __version__, OTEL_SCHEMA)

    def tell(self, span: Span) -> None:
        # not from a `Tracer`: that would make ids and times of its own, and these are those of the ledger
        trace_id = int(span.trace_id, 16)
        parent = int(span.parent_id or "0", 16)
        self._queue.on_end(
            ReadableSpan(
                span.name,
                SpanContext(trace_id, int(span.span_id, 16), is_remote=False, trace_flags=_SAMPLED),
                SpanContext(trace_id, parent, is_remote=True, trace_flags=_SAMPLED) if parent else None,
                self._resource,
                cast("Attributes", span.attributes),
                kind=SpanKind.CLIENT if span.outgoing else SpanKind.INTERNAL,
                status=Status(StatusCode.ERROR if span.failed else StatusCode.UNSET),
                start_time=span.began_ns,
                end_time=span.ended_ns,
                instrumentation_scope=self._scope,
            )
        )

    def close(self) -> None:
        """The queue would wait for half a minute, and for its exporter without any bound."""
        ending = threading.Thread(target=self._queue.shutdown, name="checkrein-spans", daemon=True)
        ending.start()
        ending.join(FLUSH_S)
        if ending.is_alive():
            log.warning("the collector did not take the last spans in time; they are dropped")
            self._exporter.shutdown()  # type: ignore[no-untyped-call]  # no further try

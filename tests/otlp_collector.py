"""A collector of OpenTelemetry: a real server that takes OTLP/HTTP and decodes it with OpenTelemetry's own messages."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status


class Collector:
    """`raw` is what came, `headers` with it. While it `hangs`, it takes requests and does not answer."""

    def __init__(self, *, hangs: bool = False) -> None:
        self.raw: list[bytes] = []
        self.headers: list[dict[str, str]] = []
        self.paths: list[str] = []
        self.asked = threading.Event()
        self._goes_on = threading.Event()
        if not hangs:
            self._goes_on.set()
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                collector.raw.append(self.rfile.read(int(self.headers["content-length"])))
                collector.headers.append({name.lower(): value for name, value in self.headers.items()})
                collector.paths.append(self.path)
                collector.asked.set()
                collector._goes_on.wait(60)
                self.send_response(200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *args: Any) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = False
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    @property
    def answers(self) -> bool:
        return self._goes_on.is_set()

    def go_on(self) -> None:
        self._goes_on.set()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._goes_on.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def spans(self) -> list[Seen]:
        """Every span that came, in the order in which they ended."""
        found = [
            Seen(span, scopes.scope.name)
            for data in self.raw
            for resource in ExportTraceServiceRequest.FromString(data).resource_spans
            for scopes in resource.scope_spans
            for span in scopes.spans
        ]
        return sorted(found, key=lambda seen: seen.ended)

    @property
    def resource(self) -> dict[str, Any]:
        (found,) = ExportTraceServiceRequest.FromString(self.raw[-1]).resource_spans
        return _plain(found.resource.attributes)


class Seen:
    """A span, in plain values."""

    def __init__(self, span: Any, scope: str) -> None:
        self.name: str = span.name
        self.scope = scope
        self.trace_id: str = span.trace_id.hex()
        self.id: str = span.span_id.hex()
        self.parent: str = span.parent_span_id.hex()
        self.kind: str = Span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_")
        self.failed: bool = span.status.code == Status.STATUS_CODE_ERROR
        self.began: int = span.start_time_unix_nano
        self.ended: int = span.end_time_unix_nano
        self.attributes = _plain(span.attributes)

    def __getitem__(self, name: str) -> Any:
        return self.attributes.get(name)


def _plain(attributes: Any) -> dict[str, Any]:
    return {pair.key: _value(pair.value) for pair in attributes}


def _value(value: Any) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(item) for item in value.array_value.values]
    return getattr(value, kind)

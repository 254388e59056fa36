"""The trace of a request (W3C Trace Context): the caller's, else a new one."""

from __future__ import annotations

import re

from starlette.datastructures import Headers
from starlette.types import Scope

from checkrein.services.ids import fresh
from checkrein.services.spans import NOBODY, TraceParent

HEADER = "x-checkrein-trace-id"
_TRACEPARENT = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")
_SAMPLED = 1
_GIVEN = "checkrein.trace"


def given(headers: Headers) -> TraceParent:
    """What an incoming `traceparent` says; `NOBODY` if there is none that can be read."""
    match = _TRACEPARENT.fullmatch(headers.get("traceparent", ""))
    if not match or not match[1].strip("0") or not match[2].strip("0"):
        return NOBODY
    return TraceParent(match[1], match[2], bool(int(match[3], 16) & _SAMPLED))


def parent(scope: Scope, headers: Headers) -> TraceParent:
    """Who asks, and in which trace: the caller's, else a new one; the same however often it is asked for."""
    found: TraceParent | None = scope.get(_GIVEN)
    if found is None:
        found = given(headers)
        found = scope[_GIVEN] = found if found.trace_id else TraceParent(fresh("", 16))
    return found


def trace_id(scope: Scope, headers: Headers) -> str:
    """The trace id of this request."""
    return parent(scope, headers).trace_id


def sent(context: TraceParent) -> dict[str, str]:
    """The header for a call of ours."""
    return {"traceparent": f"00-{context.trace_id}-{context.span_id}-{context.sampled:02x}"}

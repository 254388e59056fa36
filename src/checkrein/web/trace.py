"""The trace of a request (W3C Trace Context): the caller's, else a new one."""

from __future__ import annotations

import re

from starlette.datastructures import Headers
from starlette.types import Scope

from checkrein.services.ids import fresh

HEADER = "x-checkrein-trace-id"
_TRACEPARENT = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}")
_GIVEN = "checkrein.trace"


def given(headers: Headers) -> str:
    """The trace id of an incoming `traceparent`, empty if there is none that holds one."""
    match = _TRACEPARENT.fullmatch(headers.get("traceparent", ""))
    return match[1] if match and match[1].strip("0") and match[2].strip("0") else ""


def trace_id(scope: Scope, headers: Headers) -> str:
    """The trace id of this request, the same however often it is asked for."""
    found: str | None = scope.get(_GIVEN)
    if found is None:
        found = scope[_GIVEN] = given(headers) or fresh("", 16)
    return found


def parent(trace_id: str) -> str:
    """The `traceparent` for a call of ours in this trace."""
    return f"00-{trace_id}-{fresh('', 8)}-01"

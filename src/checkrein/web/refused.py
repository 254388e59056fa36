"""Why a request was refused before it was an action: the names under which that is counted and recorded."""

from __future__ import annotations

from checkrein.model import BadRequest, CheckreinError, IdempotencyConflict, MethodNotAllowed, NotFound, Unauthorized
from checkrein.services.access_requests import AccessRefused
from checkrein.web.body import TooLarge, TooSlowly
from checkrein.web.guard import ForeignHost, ForeignOrigin
from checkrein.web.headers import NotJson

#: the first kind that fits; what fits none has a record of its own
REASONS: dict[type[CheckreinError], str] = {
    TooLarge: "body_too_large",
    TooSlowly: "body_too_slow",
    NotJson: "content_type",
    BadRequest: "bad_request",
    ForeignHost: "host",
    ForeignOrigin: "origin",
    Unauthorized: "key",
    NotFound: "not_found",
    MethodNotAllowed: "method",
    IdempotencyConflict: "idempotency_key",
    AccessRefused: "access_request",
}
#: a live key that may not do this
PERMISSION = "permission"
#: who calls could not be found out: the store or an issuer does not answer
UNAVAILABLE = "unavailable"
#: what the server cuts off by itself, before it is a request
MALFORMED, HEAD_TOO_LARGE, HEAD_TOO_SLOW = "malformed", "head_too_large", "head_too_slow"


def reason(error: CheckreinError) -> str:
    """The name of this refusal; empty for what is none, or has a record of its own."""
    if type(error) is Unauthorized and error.forbidden:
        return PERMISSION
    return next((name for kind, name in REASONS.items() if isinstance(error, kind)), "")

"""An answer for every error, in the words of the protocol that was spoken."""

from __future__ import annotations

from starlette.responses import JSONResponse, PlainTextResponse, Response

from checkrein.connectors import openai
from checkrein.flow.approval import IllegalEvent, VoteRefused
from checkrein.model import (
    BadRequest,
    CheckreinError,
    IdempotencyConflict,
    MethodNotAllowed,
    NotFound,
    StoreConflict,
    StoreUnavailable,
    Unauthorized,
    UpstreamUnavailable,
)
from checkrein.services.access_requests import AccessRefused
from checkrein.web import access_requests, trace
from checkrein.web.authzen import REQUESTS
from checkrein.web.body import TooLarge
from checkrein.web.headers import NotJson

#: status of an error about the call itself; the first kind that fits
STATUS: dict[type[CheckreinError], int] = {
    TooLarge: 413,
    NotJson: 415,
    BadRequest: 400,
    Unauthorized: 401,
    NotFound: 404,
    MethodNotAllowed: 405,
    IdempotencyConflict: 409,
    UpstreamUnavailable: 502,
    StoreUnavailable: 503,
    StoreConflict: 409,
    IllegalEvent: 409,
    VoteRefused: 403,
}
#: reasons to refuse a vote that are about when and what, and not about who
_CONFLICTS = ("stale_hash", "stale_view", "voted")


def status_of(error: CheckreinError) -> int:
    if isinstance(error, Unauthorized) and error.forbidden:
        return 403
    if isinstance(error, VoteRefused) and error.code in _CONFLICTS:
        return 409
    if isinstance(error, AccessRefused):
        return access_requests.STATUS[error.kind]
    return next((status for kind, status in STATUS.items() if isinstance(error, kind)), 500)


def error_response(path: str, error: CheckreinError, trace_id: str = "") -> Response:
    """The error in the words of the protocol that was spoken: OpenAI's, AuthZEN's, or RFC 9457 for ours."""
    authzen = path.startswith("/access/") and not path.startswith(REQUESTS)
    status = 400 if authzen and isinstance(error, NotJson) else status_of(error)  # its text knows no 415
    headers = {trace.HEADER: trace_id} if trace_id else {}
    if status == 401:
        headers["www-authenticate"] = "Bearer"
    if isinstance(error, MethodNotAllowed):
        headers["allow"] = error.allowed
    if isinstance(error, IdempotencyConflict) and error.trace_id:
        headers[trace.HEADER] = error.trace_id
    if status == 503 or (isinstance(error, IdempotencyConflict) and error.retry_after_s):
        headers["retry-after"] = "1"
    if path.startswith("/v1/"):
        refused = openai.refusal(error, retry_after_s=1)
        return JSONResponse(refused.body, status_code=status, headers={**refused.headers, **headers})
    message = f"{error} ({error.hint})" if error.hint else str(error)
    if authzen:
        return PlainTextResponse(message, status_code=status, headers=headers)
    problem = {"type": _problem_type(path, error), "title": str(error), "status": status, "detail": error.hint}
    if isinstance(error, VoteRefused):
        problem["code"] = error.code
    return JSONResponse(problem, status_code=status, headers=headers, media_type="application/problem+json")


def _problem_type(path: str, error: CheckreinError) -> str:
    kind = error.kind if isinstance(error, AccessRefused) else ""
    if path.startswith(REQUESTS) and isinstance(error, IdempotencyConflict):
        kind = "duplicate_request"
    return access_requests.ERRORS + kind if kind else "about:blank"

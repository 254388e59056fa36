"""The errors people meet. Lower case, what they typed in backticks, and a `hint` that says what to do next."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from checkrein.model.decision import Decision


class CheckreinError(Exception):
    """Base of every error Checkrein raises on purpose. `hint` is one sentence: the next step."""

    #: exit code of the command line when this error ends it (docs: DESIGN, the command line)
    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class BadRequest(CheckreinError):
    """The caller's bytes are not a request: malformed JSON, a missing member, a wrong type. HTTP 400."""

    exit_code = 2


class NotFound(CheckreinError):
    """The thing that was named does not exist. HTTP 404."""


class RouteNotFound(NotFound):
    """Nothing is served at this path."""


class MethodNotAllowed(CheckreinError):
    """The path is served, by other methods. HTTP 405."""

    def __init__(self, message: str, *, allowed: str, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.allowed = allowed


class IdempotencyConflict(CheckreinError):
    """An idempotency key that cannot be used for this: nothing was run. HTTP 409.

    `code` is `idempotency_key_reused` (with another request), `idempotency_key_in_use` (try again after
    `retry_after_s`), `idempotency_end_unknown` or `idempotency_answer_gone`; `trace_id` is that of the first request.
    """

    def __init__(self, message: str, *, code: str, trace_id: str = "", retry_after_s: int = 0, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.code = code
        self.trace_id = trace_id
        self.retry_after_s = retry_after_s


class Unauthorized(CheckreinError):
    """No key, an unknown or revoked key (HTTP 401), or a key that may not do this (`forbidden`, HTTP 403)."""

    def __init__(self, message: str, *, hint: str = "", forbidden: bool = False) -> None:
        super().__init__(message, hint=hint)
        self.forbidden = forbidden


class ConfigError(CheckreinError):
    """Configuration that cannot be used: unknown field, wrong type, missing file."""

    exit_code = 2


class PolicyInvalid(CheckreinError):
    """Policies, manifests or policy tests that do not load. `problems` holds one line each."""

    exit_code = 5

    def __init__(self, message: str, *, problems: tuple[str, ...] = (), hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.problems = problems


class LedgerInvalid(CheckreinError):
    """The ledger does not verify. `problems` names the first bad record, where that can be told."""

    exit_code = 6

    def __init__(self, message: str, *, problems: tuple[str, ...] = (), hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.problems = problems


class StoreUnavailable(CheckreinError):
    """The store refused to write or read: disk full, locked, gone. Nothing ran. HTTP 503."""

    exit_code = 7


class StoreConflict(CheckreinError):
    """Another writer changed the row first; nothing of the unit was written."""


class UpstreamUnavailable(CheckreinError):
    """The upstream could not be reached or broke off. HTTP 502."""

    exit_code = 7


class UpstreamUnreachable(UpstreamUnavailable):
    """There was no connection to the upstream: nothing was sent, so nothing ran there."""


class Killed(CheckreinError):
    """An action that ran was cut, because the kill switch `switch` was thrown for it. HTTP 403."""

    exit_code = 3

    def __init__(self, message: str, *, switch: str, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.switch = switch


class Denied(CheckreinError):
    """A governed action was denied; it did not run. `decision` says why."""

    exit_code = 3

    def __init__(self, message: str, *, decision: Decision, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.decision = decision


class ApprovalRequired(CheckreinError):
    """A governed action waits for people; it did not run. Repeat the same call once `approval_id` is approved."""

    exit_code = 4

    def __init__(self, message: str, *, decision: Decision, approval_id: str, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.decision = decision
        self.approval_id = approval_id

"""Checkrein inside a Python process: decide, and govern functions, without a server."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from pathlib import Path
from types import TracebackType
from typing import ParamSpec, Self, TypeVar

import msgspec

from checkrein.compose import System, open_system
from checkrein.connectors import python
from checkrein.decide.evaluate import PythonPolicy
from checkrein.flow.approval import Approval
from checkrein.model import Action, ApprovalRequired, BadRequest, ConfigError, Decision, Request, Resource, Subject
from checkrein.model.json import as_json
from checkrein.services.audit import Activity
from checkrein.services.pdp import Asked

P = ParamSpec("P")
R = TypeVar("R")
#: longer than anything lives that one could wait for, in seconds
_FOR_EVER_S = 10 * 366 * 86_400.0
_acting: ContextVar[Subject | None] = ContextVar("checkrein_acting", default=None)


class Governor:
    """Decides and records with one governance folder and its store. A context manager; `close()` it otherwise.

    Safe to share between threads and event loops; after a fork, open another one in the child.
    """

    def __init__(self, system: System) -> None:
        self.system = system
        self._tracing = ExitStack()
        self._tracing.enter_context(system.tracing())

    @classmethod
    def open(cls, folder: Path | str, *, data: Path | str | None = None) -> Self:
        """Open a governance folder (`checkrein init` writes one). `data` is where the store lives."""
        system = open_system(folder, data=data)
        try:
            return cls(system)
        except ConfigError:
            system.close()
            raise

    def close(self) -> None:
        """Write what is queued and let go of the store; a second call does nothing."""
        self._tracing.close()
        self.system.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def decide(
        self, request: Request | Mapping[str, object], *, dry_run: bool = False, idempotency_key: str = ""
    ) -> Decision:
        """Decide a request, given as `Request` or in AuthZEN's JSON form, and record the decision durably.

        Whoever asks runs the action: an approval is spent with the answer. `dry_run` records nothing, opens no
        approval and spends none. Under an `idempotency_key` that was used before, a decision that lets the action run
        is given again as it was. Raises `BadRequest` for what is not a request, `IdempotencyConflict` for a key that
        was used for another, and `StoreUnavailable` when the decision cannot be recorded.
        """
        checked = _checked(request)
        if dry_run:
            return self.system.pdp.decide(Asked(checked))
        once = None
        if idempotency_key:
            keys = self.system.gateway.idempotency
            once = keys.once_for(idempotency_key, checked, caller=python.CALLER, operation="decide")
        return self.system.gateway.evaluate_sync(checked, caller=python.CALLER, once=once)

    def governed(
        self,
        *,
        tool: str,
        subject: str | Subject | None = None,
        roles: tuple[str, ...] = (),
        agent: str = "",
        resource: str = "",
        idempotency_key: Callable[..., str] | None = None,
    ) -> Callable[[Callable[P, R]], Callable[P, R]]:
        """Govern a sync or async function as the tool `tool`.

        A call runs only when it is allowed, with its arguments redacted where policy says so, and with a durable
        record before and after. Otherwise it raises `Denied` or `ApprovalRequired`; once approved, the same call
        runs, once. What it returns is decided too: it comes back without what policy takes out, or `Denied` is raised
        although it ran. `subject` is who acts, unless `acting_as` says otherwise. Put it directly above the `def`.

        `idempotency_key` makes a key of the arguments, such as `lambda invoice, amount: invoice`: a second call under
        one key does not run and returns what the first returned, as JSON has it.
        """
        fixed = None if subject is None else _named(subject, roles)
        return python.governed(
            self.system.gateway,
            tool=tool,
            who=lambda: _acting.get() or fixed,
            agent=agent,
            resource=resource,
            idempotency_key=idempotency_key,
        )

    def wait(self, approval: str | ApprovalRequired | Decision, *, timeout: float | None = None) -> Approval:
        """Wait until people have settled an approval, named by its id or by what asked for it.

        Its `state` is then `approved`, `denied`, `expired` or whatever else came of it; `pending` when `timeout`
        seconds were not enough. An approved call still has to be made: it is decided afresh, and runs once.
        """
        return self.system.waiting.settled_sync(_awaited(approval), _FOR_EVER_S if timeout is None else timeout)

    async def wait_async(
        self,
        approval: str | ApprovalRequired | Decision,
        *,
        timeout: float | None = None,  # noqa: ASYNC109
    ) -> Approval:
        """`wait` on an event loop: a thousand that wait cost no thread."""
        return await self.system.waiting.settled(_awaited(approval), _FOR_EVER_S if timeout is None else timeout)

    @contextmanager
    def acting_as(self, subject: str | Subject, *, roles: tuple[str, ...] = ()) -> Iterator[None]:
        """Governed functions called inside act for this subject (this thread or task only)."""
        token = _acting.set(_named(subject, roles))
        try:
            yield
        finally:
            _acting.reset(token)

    def register_policy(self, policy: PythonPolicy, *, name: str = "") -> PythonPolicy:
        """Add a policy written in Python: `(request, context) -> Decision | None`; usable as a decorator.

        `None` abstains, `Decision.allow()` grants, anything stricter joins the lattice; an exception denies.
        """
        if inspect.iscoroutinefunction(policy):
            raise ConfigError("a policy cannot be async", hint="decide at once, in a plain function")
        return self.system.pdp.register(policy, name)

    def activities(self, user_id: str = "", *, limit: int = 100) -> list[Activity]:
        """What happened, one row an action, newest first."""
        if limit < 1:
            raise BadRequest("`limit` is below 1", hint="say how many rows you want")
        return self.system.audit.activities(user=user_id, limit=limit)


def _awaited(approval: str | ApprovalRequired | Decision) -> str:
    """The id of the approval; raises `BadRequest` for a decision that asked nobody."""
    id = approval if isinstance(approval, str) else approval.approval_id
    if not id:
        raise BadRequest("nobody was asked for approval", hint="wait only for what needs review")
    return id


def _checked(request: Request | Mapping[str, object]) -> Request:
    """A copy of the request that holds nothing but JSON, whoever built it."""
    if isinstance(request, Request):
        members = msgspec.structs.asdict(request).items()
        request = {name: msgspec.structs.asdict(m) if isinstance(m, msgspec.Struct) else m for name, m in members}
    value = as_json(request)
    if not isinstance(value, dict):
        raise BadRequest("the request is not a dict", hint="pass `subject`, `action` and `resource`, or a `Request`")
    return Request.from_json(value)


def _named(subject: str | Subject, roles: Sequence[str]) -> Subject:
    """Who acts, checked once here and not at every call."""
    if isinstance(roles, str):
        raise ConfigError("`roles` is one text", hint=f'pass a tuple: `roles=("{roles}",)`')
    if isinstance(subject, str):
        subject = Subject("user", subject, {"roles": list(roles)})
    elif roles:
        raise ConfigError("`roles` is given beside a `Subject`", hint="put the roles into its properties")
    try:
        return _checked(Request(subject, Action("-"), Resource("-", "-"))).subject
    except BadRequest as error:
        raise ConfigError(f"this subject cannot act: {error}", hint="name the user, such as `alice`") from error

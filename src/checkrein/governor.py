"""Checkrein inside a Python process: decide, and govern functions, without a server."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from types import TracebackType
from typing import ParamSpec, Self, TypeVar

from checkrein.compose import System, open_system
from checkrein.connectors import python
from checkrein.decide.evaluate import PythonPolicy
from checkrein.model import Decision, Request, Subject
from checkrein.services.audit import Activity
from checkrein.services.pdp import Asked

P = ParamSpec("P")
R = TypeVar("R")
_acting: ContextVar[Subject | None] = ContextVar("checkrein_acting", default=None)


class Governor:
    """Decides and records with one governance folder and its store. A context manager; `close()` it otherwise.

    Safe to share between threads and event loops.
    """

    def __init__(self, system: System) -> None:
        self.system = system

    @classmethod
    def open(cls, folder: Path | str, *, data: Path | str | None = None) -> Self:
        """Open a governance folder (`checkrein init` writes one). `data` is where the store lives."""
        return cls(open_system(folder, data=data))

    def close(self) -> None:
        self.system.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def decide(self, request: Request | Mapping[str, object], *, dry_run: bool = False) -> Decision:
        """Decide a request, given as `Request` or in AuthZEN's JSON form, and record the decision durably.

        `dry_run` records nothing and opens no approval. Raises `BadRequest` for what is not a request, and
        `StoreUnavailable` when the decision cannot be recorded.
        """
        if not isinstance(request, Request):
            request = Request.from_json(request)
        if dry_run:
            return self.system.pdp.decide(Asked(request))
        return self.system.gateway.evaluate_sync(request, caller=python.CALLER)

    def governed(
        self,
        *,
        tool: str,
        subject: str | Subject | None = None,
        roles: tuple[str, ...] = (),
        agent: str = "",
        resource: str = "",
    ) -> Callable[[Callable[P, R]], Callable[P, R]]:
        """Govern a sync or async function as the tool `tool`.

        A call runs only when it is allowed, with its arguments redacted where policy says so, and with a durable
        record before and after. Otherwise it raises `Denied` or `ApprovalRequired`; once approved, the same call
        runs, once. `subject` is who acts, unless `acting_as` says otherwise.
        """
        fixed = Subject("user", subject, {"roles": list(roles)}) if isinstance(subject, str) else subject
        return python.governed(
            self.system.gateway, tool=tool, who=lambda: _acting.get() or fixed, agent=agent, resource=resource
        )

    @contextmanager
    def acting_as(self, subject: str | Subject, *, roles: tuple[str, ...] = ()) -> Iterator[None]:
        """Governed functions called inside act for this subject (this thread or task only)."""
        named = Subject("user", subject, {"roles": list(roles)}) if isinstance(subject, str) else subject
        token = _acting.set(named)
        try:
            yield
        finally:
            _acting.reset(token)

    def register_policy(self, policy: PythonPolicy, *, name: str = "") -> PythonPolicy:
        """Add a policy written in Python: `(request, context) -> Decision | None`; usable as a decorator.

        `None` abstains, `Decision.allow()` grants, anything stricter joins the lattice; an exception denies.
        """
        return self.system.pdp.register(policy, name)

    def activities(self, user_id: str = "", *, limit: int = 100) -> list[Activity]:
        """What happened, one row an action, newest first."""
        return list(self.system.audit.activities(user=user_id, limit=limit))

"""Checkrein: the runtime governance plane for AI agents.

    from checkrein import Governor

    with Governor.open("governance") as governor:
        decision = governor.decide({"subject": {"type": "user", "id": "alice"}, ...})

`Governor` decides and governs functions in this process, `Client` talks to a running server. The nouns are
`Request`, `Decision` and `Outcome`; `Denied` and `ApprovalRequired` are raised instead of running an action.
ARCHITECTURE.md has the map of the rooms.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from checkrein.client import Client as Client
    from checkrein.governor import Governor as Governor
    from checkrein.model import ApprovalRequired as ApprovalRequired
    from checkrein.model import CheckreinError as CheckreinError
    from checkrein.model import Decision as Decision
    from checkrein.model import Denied as Denied
    from checkrein.model import Outcome as Outcome
    from checkrein.model import Request as Request
    from checkrein.model import Subject as Subject

__version__ = "0.1.0"

#: public names and their homes; loaded on first use, so that `checkrein --help` stays quick
_HOMES = {
    "ApprovalRequired": "checkrein.model",
    "CheckreinError": "checkrein.model",
    "Client": "checkrein.client",
    "Decision": "checkrein.model",
    "Denied": "checkrein.model",
    "Governor": "checkrein.governor",
    "Outcome": "checkrein.model",
    "Request": "checkrein.model",
    "Subject": "checkrein.model",
}
__all__ = sorted([*_HOMES, "__version__"])


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module `checkrein` has no attribute `{name}`")
    return getattr(import_module(_HOMES[name]), name)

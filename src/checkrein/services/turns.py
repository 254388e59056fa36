"""Turns: prompts that are running upstream right now, each under an unguessable handle.

An agent gateway does not know the person behind a request; it gets the handle as `user` and names it when it asks
whether one of its tool calls may run. So the call is decided for the *person*, with the prompt as provenance, and
joins the prompt's trace. A handle lives as long as its request: afterwards, or after a restart, it is unknown, and
what is asked for an unknown turn is denied.
"""

from __future__ import annotations

import secrets
import threading

from checkrein.decide.classify import asked
from checkrein.decide.provenance import Provenance, trace
from checkrein.flow.approval import Approval
from checkrein.model import Decision, Request, Subject
from checkrein.policy.manifest import Manifests

#: the subject type under which a gateway names a turn
TURN = "turn"


class Turn:
    """One prompt in flight: for whom, through which agent, in which trace, approved by whom."""

    def __init__(self, handle: str, request: Request, trace_id: str, approval: Approval | None) -> None:
        self.handle = handle
        self.subject: Subject = request.subject
        self.agent = request.context.get("agent")
        self.session = request.context.get("session")
        self.trace_id = trace_id
        self.prompt = asked(request.action.input) if request.is_prompt else ""
        self.approval = approval
        self._covered: set[str] = set()
        self._lock = threading.Lock()

    def covers(self, request: Request, made: Decision, manifests: Manifests) -> bool:
        """Whether the approval of the prompt extends to this tool call, decided as `made`.

        It does for a tool that the approved prompt asked for, when every argument that steers the effect stands in
        the text the person approved, and nothing else in the call is new to them: no label beyond those of the
        prompt, and no link. `spend` allows it once per tool.
        """
        manifest = manifests.get(request.action.name)
        if self.approval is None or manifest is None or f"tool:{manifest.name}" not in self.approval.labels:
            return False
        control = {name: request.action.input.get(name) for name in manifest.control}
        sources = trace(control, endorsed=self.prompt)
        endorsed = bool(sources) and all(source is Provenance.ENDORSED for source in sources.values())
        known = set(made.labels) <= set(self.approval.labels)
        return endorsed and known and not _has_link(request.action.input)

    def spend(self, tool: str) -> bool:
        """Use the approval for one tool; False when it was used for it before."""
        with self._lock:
            if tool in self._covered:
                return False
            self._covered.add(tool)
            return True


def _has_link(value: object) -> bool:
    """Whether any text in the arguments holds a link, which could carry data out or lead people astray."""
    if isinstance(value, str):
        text = value.lower()
        return "://" in text or "www." in text
    if isinstance(value, dict):
        return any(_has_link(item) for item in value.values())
    return isinstance(value, list | tuple) and any(_has_link(item) for item in value)


class Turns:
    """The open turns of this process."""

    def __init__(self) -> None:
        self._open: dict[str, Turn] = {}

    def open(self, request: Request, trace_id: str, approval: Approval | None) -> Turn:
        turn = Turn("turn_" + secrets.token_urlsafe(24), request, trace_id, approval)
        self._open[turn.handle] = turn
        return turn

    def find(self, handle: str) -> Turn | None:
        return self._open.get(handle)

    def close(self, turn: Turn) -> None:
        self._open.pop(turn.handle, None)

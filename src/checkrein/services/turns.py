"""Turns: prompts that are running upstream right now, each under an unguessable handle.

An agent gateway does not know the person behind a request; it gets the handle as `user` and names it when it asks
whether one of its tool calls may run. So the call is decided for the *person*, with the prompt as provenance, and
joins the prompt's trace. A handle lives as long as its request: afterwards, or after a restart, it is unknown, and
what is asked for an unknown turn is denied.
"""

from __future__ import annotations

import hashlib
import threading
from collections import defaultdict
from itertools import islice

import re2

from checkrein.decide.classify import asked
from checkrein.decide.detect import texts
from checkrein.decide.fold import fold
from checkrein.decide.provenance import Provenance, trace
from checkrein.decide.results import told
from checkrein.flow.approval import Approval
from checkrein.model import Decision, Request, Subject
from checkrein.model.json import canonical
from checkrein.model.json import fold as folded
from checkrein.model.request import PROMPT
from checkrein.policy.manifest import Manifests
from checkrein.services.ids import fresh
from checkrein.services.spans import TraceParent

#: the subject type under which a gateway names a turn
TURN = "turn"
#: what reads like the name of a host, in folded text
_HOST = re2.compile(r"[\pL\pN.-]*[\pL\pN]\.[a-z]{2,}[\pL\pN.-]*")
#: names of hosts that one call may repeat from the approved text
MAX_HOSTS = 20
#: calls of one turn that are remembered as decided; what is forgotten is decided again
MAX_DECIDED = 256


class Turn:
    """One prompt in flight: for whom, through which agent, in which trace, approved by whom."""

    def __init__(
        self,
        handle: str,
        request: Request,
        trace_id: str,
        approval: Approval | None,
        manifests: Manifests,
        sent: Request | None = None,
    ) -> None:
        self.handle = handle
        self.subject: Subject = request.subject
        self.agent = request.context.get("agent")
        self.session = request.context.get("session")
        self.trace_id = trace_id
        #: what is asked in it stands under the span of the prompt
        self.context = TraceParent(trace_id)
        self.action = request.action
        self.prompt = asked(request.action.input) if request.is_prompt else ""
        #: what tools answered before: all of it, and the values that their manifests vouch for
        self.untrusted, self.directory = told(request.action.input, manifests)
        if sent is not None:  # what was taken out may come back, and then came from where it stood
            self.prompt += f"\n{asked(sent.action.input)}" if sent.is_prompt else ""
            untrusted, directory = told(sent.action.input, manifests)
            self.untrusted, self.directory = f"{self.untrusted}\n{untrusted}", (*self.directory, *directory)
        self.approval = approval
        self._covered: set[str] = set()
        self._decided: defaultdict[str, list[Decision]] = defaultdict(list)
        self._lock = threading.Lock()

    def covers(self, request: Request, made: Decision, manifests: Manifests) -> bool:
        """Whether the approval of the prompt extends to this tool call, decided as `made`.

        It does when the call bears no label that the approved prompt did not bear (so the prompt asked for this
        very tool), when every argument that steers the effect stands in the text the person approved, and when
        nothing in the call could lead people elsewhere. A tool of which nobody said what steers it is never
        covered. `spend` allows it once per tool.

        To the model that the turn's own agent asks, the approved prompt may be repeated. A turn that is itself a tool
        call covers that call.
        """
        if self.approval is None or not set(made.labels) <= set(self.approval.labels):
            return False
        if request.is_prompt or request.action == self.action:
            return True
        manifest = manifests.get(request.action.name)
        if manifest is None:
            return False
        given = request.action.input
        sources = trace({name: given.get(name) for name in manifest.control}, endorsed=self.prompt)
        endorsed = bool(sources) and all(source is Provenance.ENDORSED for source in sources.values())
        return endorsed and not _leads_away(given, self.prompt)

    def spend(self, tool: str) -> bool:
        """Use the approval for one tool; False when it was used for it before. An agent asks its model many times."""
        if tool == PROMPT:
            return True
        with self._lock:
            if tool in self._covered:
                return False
            self._covered.add(tool)
            return True

    def decided(self, request: Request, made: Decision) -> None:
        """An agent gateway asked about this call in the turn, and it runs."""
        with self._lock:
            if len(self._decided) < MAX_DECIDED:
                self._decided[_call(request)].append(made)

    def take(self, request: Request) -> Decision | None:
        """The decision of this very call, once for each time that it was asked about."""
        with self._lock:
            known = self._decided.get(_call(request))
            return known.pop() if known else None


def _call(request: Request) -> str:
    """One tool call of a turn, by its name and arguments."""
    return hashlib.sha256(canonical([request.action.name, folded(request.action.properties)])).hexdigest()


def _leads_away(value: object, approved: str) -> bool:
    """Whether a text in the arguments holds a link, or a name of a host that the approved text does not hold.

    A link could carry data out or lead people astray, and mail programs make links of bare names too.
    """
    folded = [fold(text).encode("utf-8", "replace").decode("utf-8") for text in texts(value)]
    if any("://" in text or "www." in text for text in folded):
        return True
    hosts = {match.group().strip(".-") for text in folded for match in islice(_HOST.finditer(text), MAX_HOSTS + 1)}
    if len(hosts) > MAX_HOSTS:
        return True
    sources = trace({host: host for host in hosts}, endorsed=approved)
    return any(source is not Provenance.ENDORSED for source in sources.values())


_NO_MANIFESTS = Manifests()


class Turns:
    """The open turns of this process."""

    def __init__(self) -> None:
        self._open: dict[str, Turn] = {}

    def open(
        self,
        request: Request,
        trace_id: str,
        approval: Approval | None,
        manifests: Manifests = _NO_MANIFESTS,
        sent: Request | None = None,
    ) -> Turn:
        """`sent` is the prompt as it came in, where values that were taken out of it are put back."""
        turn = Turn(fresh("turn_", 24), request, trace_id, approval, manifests, sent)
        self._open[turn.handle] = turn
        return turn

    def find(self, handle: str) -> Turn | None:
        return self._open.get(handle)

    def close(self, turn: Turn) -> None:
        self._open.pop(turn.handle, None)

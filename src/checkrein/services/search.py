"""AuthZEN's searches: who may do this, to what may it be done, what may be done here.

What is known here is decided one by one, as an evaluation would decide it at this moment. Nothing runs or is spent for
it: what waits for people counts as not permitted, even where they have agreed or granted it. Each page leaves one
record, `search`.
"""

from __future__ import annotations

import asyncio
import enum
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from typing import Protocol

import msgspec

from checkrein.decide.names import check_names
from checkrein.model import BadRequest, Request
from checkrein.model.request import PROMPT, TOOL
from checkrein.model.target import targets
from checkrein.model.usage import Usage
from checkrein.model.vocabulary import Vocabulary
from checkrein.ports import Clock, Store, Unit
from checkrein.services import records
from checkrein.services.killswitch import KillSwitch, Switch, barring
from checkrein.services.limits import Limits
from checkrein.services.pdp import Asked, Pdp
from checkrein.services.turns import TURN
from checkrein.services.writes import landed

#: decisions for one page
MAX_DECIDED = 1000
#: bytes of request that the decisions for one page read in all: each reads the whole request again
BUDGET_BYTES = 1024 * 1024
#: decisions between two turns of the event loop
_STRIDE = 16


class Sought(enum.StrEnum):
    """What a search is for."""

    SUBJECT = "subject"
    RESOURCE = "resource"
    ACTION = "action"


class Search(msgspec.Struct, frozen=True, kw_only=True):
    """A page of a search. `request` names everything but what is sought, whose name is empty.

    `begin` is the name that the page begins with, `size` the length of the request in bytes.
    """

    sought: Sought
    request: Request
    caller: str
    trace_id: str
    begin: str = ""
    limit: int = MAX_DECIDED
    size: int = 1


class Page(msgspec.Struct, frozen=True):
    """The names that were found, in the words of enforcement points; `following` begins the next page, if any."""

    found: tuple[str, ...]
    following: str


class Known(Protocol):
    """Who and what there is in a deployment."""

    def subjects(self, type: str) -> Iterable[str]: ...

    def resources(self, type: str) -> Iterable[str]: ...


class Searches:
    def __init__(
        self,
        pdp: Pdp,
        known: Known,
        vocabulary: Vocabulary,
        killswitch: KillSwitch,
        limits: Limits,
        store: Store,
        clock: Clock,
        *,
        key: bytes,
    ) -> None:
        self._pdp = pdp
        self._known = known
        self._vocabulary = vocabulary
        self._killswitch = killswitch
        self._limits = limits
        self._store = store
        self._clock = clock
        self._key = key

    async def page(self, asked: Search) -> Page:
        """One page, recorded before it is given.

        Raises `BadRequest` for names that may not be recorded, `StoreUnavailable` when nothing can be.
        """
        check_names(asked.request)
        if asked.request.subject.type == TURN and asked.request.subject.id:
            raise BadRequest("a turn is nobody to search for", hint="name the person it is open for")
        names = sorted(set(self._candidates(asked)))
        names = names[bisect_left(names, asked.begin) :]
        killed = self._killswitch.killed()
        most = max(1, min(MAX_DECIDED, BUDGET_BYTES // max(1, asked.size)))
        found: list[str] = []
        following, decided = "", 0
        for name in names:
            if decided == most:
                following = name
                break
            if decided % _STRIDE == 0:
                await asyncio.sleep(0)
            decided += 1
            if not self._permitted(asked, name, killed):
                continue
            if len(found) >= asked.limit:
                following = name
                break
            found.append(name)
        draft = records.search(
            self._vocabulary.inward(asked.request, believed=True),
            trace_id=asked.trace_id,
            caller=asked.caller,
            sought=asked.sought.value,
            decided=decided,
            found=found,
            bundle=self._pdp.bundle.digest,
            key=self._key,
        )
        await landed(self._store.commit(Unit((draft,))))
        return Page(tuple(found), following)

    def _candidates(self, asked: Search) -> Iterator[str]:
        request = asked.request
        match asked.sought:
            case Sought.SUBJECT:
                yield from self._known.subjects(request.subject.type)
            case Sought.RESOURCE:
                yield from self._known.resources(request.resource.type)
                if request.resource.type == TOOL:  # a tool is what its own call is done to
                    yield from self._declared(request)
            case Sought.ACTION:
                yield from self._actions(request)

    def _declared(self, request: Request) -> Iterator[str]:
        name = self._vocabulary.inward(request, believed=True).action.name
        if self._pdp.bundle.manifests.get(name):
            yield name

    def _actions(self, request: Request) -> Iterator[str]:
        """Every declared tool, by the names that enforcement points have for it, or else by ours."""
        tools, renamed = {*self._pdp.bundle.manifests.names()}, self._vocabulary.actions
        yield from (theirs for theirs, ours in renamed.items() if ours in tools)
        yield from tools - {*renamed, *renamed.values()}
        if request.resource.type == "model":
            yield PROMPT

    def _permitted(self, asked: Search, name: str, killed: tuple[Switch, ...]) -> bool:
        """Whether an evaluation of this would be answered with `true`, as far as policy says."""
        request = self._vocabulary.inward(_about(asked, name), believed=True)
        try:
            resolved = self._pdp.resolve(request)
        except BadRequest:  # an evaluation is refused too
            return False
        those = targets(request, asked.caller)
        if barring(killed, those):
            return False
        usage = self._limits.usage(those) if self._pdp.asks_usage else Usage()
        made = self._pdp.decide(
            Asked(resolved.request, usage=usage),
            now_us=self._clock.now_us(),
            supported=request.context.get("supported_obligations"),
        )
        return made.outcome.runs


def _about(asked: Search, name: str) -> Request:
    """The request with this in the place of what is sought."""
    sought, field = asked.sought.value, "name" if asked.sought is Sought.ACTION else "id"
    member = msgspec.structs.replace(getattr(asked.request, sought), **{field: name})
    return msgspec.structs.replace(asked.request, **{sought: member})

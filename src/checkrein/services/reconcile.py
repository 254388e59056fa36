"""Agent gateways that run their own tools: are they still governed?

A gateway's plugin asks before each tool call, and says every few seconds that it is there. Beside it a witness sees
what the gateway really runs. Here both are joined, by run and call id: an observed call that nobody decided, or that
ran against its decision, is an *ungoverned action*. It is recorded, and the gateway may be put into quarantine: it is
then refused until a person releases it. The enforcement rate is what was decided of what was observed, not of itself.

What is joined lives in this process; what came of it lives in the store.
"""

from __future__ import annotations

import logging
import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from typing import TypeVar

import msgspec

from checkrein.ledger import Draft, Record
from checkrein.model import Decision, NotFound, StoreConflict, Unauthorized
from checkrein.pending import Pending
from checkrein.ports import Clock, Row, Save, Store, Unit
from checkrein.services import records
from checkrein.services.records import Told

ROOM = "gateway"
#: decisions and observations kept to be joined; more than this are of calls that ended long ago
MAX_CALLS = 10_000
#: how often a row is tried again after another process changed it
ATTEMPTS = 32
#: Tool Search wraps a call: the inner one's id names the outer one's, and the outer one is no action of its own
_INNER = re.compile(r"tool_search_code:(.+):[^:]+:\d+")
WRAPPER = "tool_call"

log = logging.getLogger("checkrein.gateways")

Value = TypeVar("Value")


class Terms(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked of one gateway. Seconds; 0 asks nothing."""

    #: how long it may be silent before it is refused
    heartbeat_s: float
    #: how long an observed call may stay undecided
    witness_s: float
    #: whether an ungoverned action closes it
    quarantine: bool


class Stand(msgspec.Struct, frozen=True, kw_only=True):
    """How one gateway stands, over all processes and restarts."""

    observed: int = 0
    governed: int = 0
    ungoverned: int = 0
    #: since when it is refused, microseconds since 1970, UTC; 0 if it is not
    quarantined_us: int = 0
    why: str = ""

    @property
    def enforcement(self) -> float | None:
        """Decided of observed; None while nothing was observed."""
        return self.governed / self.observed if self.observed else None


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """One tool call as plugin or witness name it, the tool by the gateway's own name."""

    run: str
    call: str
    tool: str


class Gateways:
    """Every configured gateway. Thread-safe."""

    def __init__(self, store: Store, clock: Clock, terms: Mapping[str, Terms]) -> None:
        self._store = store
        self._clock = clock
        self._lock = threading.Lock()
        self._gateways = {name: _Gateway(given) for name, given in terms.items()}

    def names(self) -> tuple[str, ...]:
        return tuple(self._gateways)

    def beat(self, name: str) -> None:
        """The gateway's plugin is there; raises `NotFound` for a gateway that is not configured."""
        self._known(name).heard_us = self._clock.now_us()

    def heard_us(self, name: str) -> int:
        """When it was heard last, or 0."""
        return self._known(name).heard_us

    def witnessed(self, name: str, *, now: bool) -> bool:
        """The witness sees this gateway from now on, or (`now=False`) no longer; whether it did before."""
        gateway = self._known(name)
        with self._lock:
            before, gateway.witnessed = gateway.witnessed, now
        return before

    def is_witnessed(self, name: str) -> bool:
        """Whether the witness sees this gateway right now."""
        return self._known(name).witnessed

    def refusal(self, name: str, *, silent: bool = True) -> str:
        """Why nothing may go to this gateway now; empty if something may. With `silent` silence is a reason."""
        gateway = self._gateways.get(name)
        if gateway is None:
            return ""
        stand = self.stand(name)
        if stand.quarantined_us or gateway.closing:
            return f"the gateway `{name}` is in quarantine: {stand.why or gateway.closing}"
        silent_us = self._clock.now_us() - gateway.heard_us
        if silent and gateway.terms.heartbeat_s and silent_us > gateway.terms.heartbeat_s * 1_000_000:
            heard = f"for {silent_us // 1_000_000} s" if gateway.heard_us else "yet"
            return f"the plugin of the gateway `{name}` was not heard {heard}"
        return ""

    def admit(self, name: str) -> None:
        """Raise where this gateway may not ask: `NotFound` if nobody knows it, `Unauthorized` in quarantine."""
        self._known(name)
        if refused := self.refusal(name, silent=False):
            raise Unauthorized(refused, hint=f"`checkrein openclaw release {name}` opens it again", forbidden=True)

    def decided(self, name: str, call: Call, made: Decision) -> None:
        """The plugin asked about this call. What it was told holds for one execution."""
        gateway = self._known(name)
        told = Told(call.tool, made.outcome.runs, made.evaluation_id, made.trace_id)
        with self._lock:
            for kept in (gateway.decided, gateway.unreported):
                _keep(kept, (call.run, call.call), told)

    def reported(self, name: str, run: str, call: str, *, status: str, duration_us: int) -> Pending[tuple[Record, ...]]:
        """The plugin says what became of a call; raises `NotFound` for one that nobody decided lately."""
        with self._lock:
            told = self._known(name).unreported.pop((run, call), None)
        if told is None:
            raise NotFound("no such tool call was decided lately", hint="report a call once, soon after it ended")
        return self._store.commit(Unit((records.reported(name, told, status=status, duration_us=duration_us),)))

    def started(self, name: str, call: Call) -> None:
        """The witness sees a call begin. It is decided now or soon."""
        gateway = self._known(name)
        if call.tool == WRAPPER:
            return
        with self._lock:
            gone = _keep(gateway.seen, (call.run, call.call), (call, self._clock.now_us()))
            for pushed_out, _ in gone:
                if gateway.take(pushed_out) is None:
                    gateway.ungoverned(pushed_out, "too many calls at once to wait for its decision", None)

    def ended(self, name: str, call: Call, *, ran: bool) -> None:
        """The witness sees a call end; `ran` is False when something stopped it."""
        gateway = self._known(name)
        with self._lock:
            seen = gateway.seen.pop((call.run, call.call), None)
            if seen is None:
                return
            told = gateway.take(call)
            if told is None and not ran:
                return  # stopped by the gateway itself before anybody had to decide
            if ran and not (told and told.runs):
                gateway.ungoverned(
                    call, "it ran against its decision" if told else "the plugin did not ask about it", told
                )
            else:
                gateway.governed += 1

    def tick(self) -> None:
        """Find calls that stay undecided, and write down what was found."""
        now_us = self._clock.now_us()
        for name, gateway in self._gateways.items():
            with self._lock:
                gateway.look(now_us)
                found, governed = gateway.harvest()
            try:
                self._write(name, gateway.terms, found, governed, now_us)
            except BaseException:
                with self._lock:
                    gateway.give_back(found, governed)
                raise

    def stand(self, name: str) -> Stand:
        row = self._store.row(ROOM, name)
        return row.read(Stand) if row else Stand()

    def warnings(self) -> Iterator[str]:
        """What to look at."""
        for name in self._gateways:
            stand = self.stand(name)
            if stand.ungoverned:
                yield f"gateway `{name}`: {stand.ungoverned} ungoverned actions"
            if refusal := self.refusal(name):
                yield refusal
            if self._gateways[name].terms.witness_s and not self._gateways[name].witnessed:
                yield f"gateway `{name}` is not watched"

    def _known(self, name: str) -> _Gateway:
        try:
            return self._gateways[name]
        except KeyError:
            raise NotFound(
                f"no gateway `{name[:80]}` is configured", hint='add `[upstreams.NAME]` with `kind = "openclaw"`'
            ) from None

    def _write(self, name: str, terms: Terms, found: list[_Found], governed: int, now_us: int) -> None:
        if not found and not governed:
            return
        drafts = [_draft(name, one) for one in found]
        for one in found:
            log.warning("ungoverned action: gateway `%s`, tool `%s`: %s", name, one.call.tool[:80], one.why)
        closes = bool(found) and terms.quarantine

        def change(stand: Stand) -> tuple[Stand, tuple[Draft, ...]]:
            new = msgspec.structs.replace(
                stand,
                observed=stand.observed + governed + len(found),
                governed=stand.governed + governed,
                ungoverned=stand.ungoverned + len(found),
            )
            if not closes or stand.quarantined_us:
                return new, tuple(drafts)
            why = f"`{found[0].call.tool[:80]}` ran ungoverned: {found[0].why}"
            new = msgspec.structs.replace(new, quarantined_us=now_us, why=why)
            closing = records.admin("system.gateway_quarantined", "checkrein", {"gateway": name, "why": why})
            return new, (*drafts, closing)

        _move(self._store, name, change)


class _Found(msgspec.Struct, frozen=True):
    """An ungoverned action."""

    call: Call
    why: str
    told: Told | None


class _Gateway:
    """What this process knows of one gateway."""

    def __init__(self, terms: Terms) -> None:
        self.terms = terms
        self.heard_us = 0
        self.witnessed = False
        #: why it is refused, before that is on disk
        self.closing = ""
        #: by run and call: what the plugin was told and nobody has seen run, and what it has not reported yet
        self.decided: OrderedDict[tuple[str, str], Told] = OrderedDict()
        self.unreported: OrderedDict[tuple[str, str], Told] = OrderedDict()
        self.seen: OrderedDict[tuple[str, str], tuple[Call, int]] = OrderedDict()
        self._found: list[_Found] = []
        self.governed = 0

    def key(self, call: Call) -> tuple[str, str] | None:
        """Where the decision of this call stands, or of the Tool Search call around it, if it is about this tool."""
        inner = _INNER.fullmatch(call.call)
        ids = (call.call, inner[1]) if inner else (call.call,)
        found = ((call.run, id) for id in ids if (call.run, id) in self.decided)
        return next((key for key in found if self.decided[key].tool == call.tool), None)

    def take(self, call: Call) -> Told | None:
        """The decision of this call, for this once."""
        key = self.key(call)
        return self.decided.pop(key) if key else None

    def look(self, now_us: int) -> None:
        late_us = self.terms.witness_s * 1_000_000
        for key, (call, since_us) in list(self.seen.items()):
            if late_us and now_us - since_us > late_us and self.key(call) is None:
                del self.seen[key]
                self.ungoverned(call, "the plugin did not ask about it", None)

    def ungoverned(self, call: Call, why: str, told: Told | None) -> None:
        if self.terms.quarantine:
            self.closing = why
        self._found.append(_Found(call, why, told))

    def harvest(self) -> tuple[list[_Found], int]:
        """What was found and counted since the last time."""
        found, governed = self._found, self.governed
        self._found, self.governed = [], 0
        if not found:  # what closed it is on disk by now
            self.closing = ""
        return found, governed

    def give_back(self, found: list[_Found], governed: int) -> None:
        """It could not be written; the next time takes it again."""
        self._found = found + self._found
        self.governed += governed


def stands(store: Store) -> dict[str, Stand]:
    """How every gateway stands that was ever counted, by name."""
    return {row.id: row.read(Stand) for row in store.rows(ROOM, limit=1000)}


def release(store: Store, name: str, *, by: str) -> Stand:
    """End the quarantine of a gateway; raises `NotFound` if there is none."""

    def change(stand: Stand) -> tuple[Stand, tuple[Draft, ...]]:
        if not stand.quarantined_us:
            raise NotFound(
                f"the gateway `{name[:80]}` is not in quarantine", hint="`checkrein openclaw status` shows all"
            )
        detail = {"gateway": name, "why": stand.why}
        open_again = msgspec.structs.replace(stand, quarantined_us=0, why="")
        return open_again, (records.admin("admin.gateway_released", by, detail),)

    return _move(store, name, change)


def _move(store: Store, name: str, change: Callable[[Stand], tuple[Stand, tuple[Draft, ...]]]) -> Stand:
    """Change the row of a gateway, with its records, however many others change it at once."""
    for _ in range(ATTEMPTS):
        row = store.row(ROOM, name)
        new, drafts = change(row.read(Stand) if row else Stand())
        version = row.version if row else 0
        state = "quarantined" if new.quarantined_us else "open"
        saved = Row(ROOM, name, version + 1, state, "", msgspec.json.encode(new))
        try:
            store.commit(Unit(drafts, (Save(saved, version),))).result()
        except StoreConflict:
            continue
        return new
    raise StoreConflict(f"the gateway `{name}` keeps changing", hint="try again")


def _draft(name: str, found: _Found) -> Draft:
    call = found.call
    draft = records.admin(
        "system.ungoverned",
        name,
        {"gateway": name, "tool": records.cut(call.tool), "run": records.cut(call.run), "why": found.why},
    )
    return msgspec.structs.replace(draft, trace_id=found.told.trace_id) if found.told else draft


def _keep(kept: OrderedDict[tuple[str, str], Value], key: tuple[str, str], value: Value) -> list[Value]:
    """Keep the value, in the place of the oldest where there are too many; those that had to go."""
    kept[key] = value
    kept.move_to_end(key)
    return [kept.popitem(last=False)[1] for _ in range(len(kept) - MAX_CALLS)]

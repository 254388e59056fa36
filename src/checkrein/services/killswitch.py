"""The kill switch: what is killed does not run, from the next request on, and what runs of it is cut.

Everything that is killed stands in one row, read before each decision, so that it holds in every process of the store
at once; while actions run in an event loop the row is looked at every `EVERY_S`, and a look asks what is killed now,
not what changed, so nothing is missed. A row that cannot be read lets nothing run: the decision fails, and what runs
is cut after `BLIND_S`. A function that runs in a plain thread cannot be cut; it runs to its end.
"""

from __future__ import annotations

import asyncio
import logging
import shlex
from collections.abc import Callable
from weakref import WeakSet

import msgspec

from checkrein.model import BadRequest, Killed, NotFound, Request, StoreConflict
from checkrein.model.stamp import stamp
from checkrein.model.target import Target, What, targets
from checkrein.ports import Clock, Row, Save, Store, Unit
from checkrein.services import keys, records
from checkrein.services.pdp import Barred

log = logging.getLogger("checkrein.killswitch")

ROOM, ID = "killswitch", "board"
#: how often it is looked whether what runs in an event loop was killed meanwhile
EVERY_S = 0.05
#: how long what runs may go on while nobody can tell whether it was killed
BLIND_S = 1.0
#: switches at a time, and characters of a reason
MAX_KILLED, MAX_REASON = 1000, 300
#: how often a change is tried again after another process changed the row
ATTEMPTS = 32


class Switch(msgspec.Struct, frozen=True):
    """Something that is killed: what, why, by whom and since when (microseconds since 1970, UTC)."""

    target: Target
    reason: str
    by: str
    at_us: int

    @property
    def id(self) -> str:
        """How decisions and records name it."""
        return f"kill:{self.target}"

    def barred(self) -> Barred:
        return Barred(reason=f"`{self.target}` is killed: {self.reason}", by=self.id, code="killed")

    def to_json(self) -> dict[str, object]:
        shown = {"what": self.target.what.value, "name": self.target.name}
        return {**shown, "reason": self.reason, "by": self.by, "since": stamp(self.at_us)}


class KillSwitch:
    """What is killed in a store, and who may say so is not asked here."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        #: what the row of this version says
        self._known: tuple[int, tuple[Switch, ...]] = (0, ())

    def killed(self) -> tuple[Switch, ...]:
        """What is killed now, oldest first; raises `StoreUnavailable` when nobody can tell."""
        return self._read(self._store.row(ROOM, ID))

    def barring(self, those: tuple[Target, ...]) -> Switch | None:
        """The switch that keeps these from running, if one does. They are `folded`, as from `targets`."""
        return barring(self.killed(), those)

    def kill(self, target: Target, *, reason: str, by: str) -> Switch:
        """Kill it; what is killed already stays as it is. Raises `BadRequest` without a reason, `NotFound` for a key
        that there is not."""
        reason = _checked(reason)
        self._require_known(target)
        for _ in range(ATTEMPTS):
            row = self._store.row(ROOM, ID)
            killed = self._read(row)
            if found := _same(killed, target):
                return found
            if len(killed) >= MAX_KILLED:
                raise BadRequest(f"{MAX_KILLED} switches are thrown already", hint="kill everything, or use a pattern")
            made = Switch(target, reason, by, self._clock.now_us())
            if self._write(row, (*killed, made), "admin.killed", made, by=by, reason=reason):
                return made
        raise _busy()

    def revive(self, target: Target, *, reason: str, by: str) -> Switch:
        """Let it run again; returns the switch that held it. Raises `NotFound` if exactly this is not killed."""
        reason = _checked(reason)
        for _ in range(ATTEMPTS):
            row = self._store.row(ROOM, ID)
            killed = self._read(row)
            found = _same(killed, target)
            if found is None:
                named = ", ".join(str(switch.target) for switch in killed[:5]) or "nothing"
                raise NotFound(f"`{target}` is not killed", hint=f"killed now: {named}")
            left = tuple(switch for switch in killed if switch is not found)
            if self._write(row, left, "admin.revived", found, by=by, reason=reason):
                return found
        raise _busy()

    def _require_known(self, target: Target) -> None:
        """A key that is misspelt would go on; of agents, models and tools there is no list."""
        names_one = target.what is What.KEY and target.name.startswith("key_") and "*" not in target.name
        if names_one and self._store.row(keys.ROOM, target.name) is None:
            raise NotFound(f"no key `{target.name[:80]}`", hint="`checkrein keys list` shows the ids, `key_...`")

    def _read(self, row: Row | None) -> tuple[Switch, ...]:
        if row is None:
            return ()
        version, killed = self._known
        if row.version != version:
            killed = board(row)
            self._known = row.version, killed
        return killed

    def _write(
        self, row: Row | None, killed: tuple[Switch, ...], kind: str, switch: Switch, *, by: str, reason: str
    ) -> bool:
        expect = row.version if row else 0
        saved = Row(ROOM, ID, expect + 1, "killed" if killed else "", "", msgspec.json.encode(killed))
        draft = records.admin(kind, by, {"switch": switch.id, "what": switch.target.what.value, "reason": reason})
        try:
            self._store.commit(Unit((draft,), (Save(saved, expect),))).result()
        except StoreConflict:
            return False
        return True


def board(row: Row | None) -> tuple[Switch, ...]:
    """What the row says is killed."""
    return row.read(tuple[Switch, ...]) if row else ()


def barring(killed: tuple[Switch, ...], those: tuple[Target, ...]) -> Switch | None:
    """The first of the switches that means one of these."""
    for switch in killed:
        meant = switch.target.folded
        if any(meant.fits(one) for one in those):
            return switch
    return None


def revival(target: Target) -> str:
    """The command that lets it run again."""
    return " ".join(
        filter(
            None,
            ("checkrein revive", target.what.value, shlex.quote(target.name) if target.name else "", "--reason WHY"),
        )
    )


def _same(killed: tuple[Switch, ...], target: Target) -> Switch | None:
    return next((switch for switch in killed if switch.target.folded == target.folded), None)


def _checked(reason: str) -> str:
    reason = reason.strip()
    if not 0 < len(reason) <= MAX_REASON or not reason.isprintable():
        raise BadRequest(
            f"the reason is not 1 to {MAX_REASON} printable characters", hint="say why: it is recorded and shown"
        )
    return reason


def _busy() -> StoreConflict:
    return StoreConflict("the kill switch keeps changing", hint="try again")


class Running:
    """The actions that run in an event loop, each of which may be cut. Loops do not share anything here."""

    def __init__(self, switch: KillSwitch) -> None:
        self._switch = switch
        self._open: dict[asyncio.AbstractEventLoop, set[Cuttable]] = {}
        #: weakly: a loop that was closed is not kept
        self._looking: WeakSet[asyncio.AbstractEventLoop] = WeakSet()
        self._blind_since: float | None = None

    def enter(self, request: Request, caller: str) -> Cuttable:
        """The task that runs now may be cut until `leave`. What was killed since it was let through is seen at the
        next look, which asks what is killed and not what changed."""
        loop = asyncio.get_running_loop()
        one = Cuttable(request, caller, loop, self._leave)
        self._open.setdefault(loop, set()).add(one)
        if loop not in self._looking:
            self._looking.add(loop)
            loop.call_later(EVERY_S, self._look, loop)
        return one

    def _leave(self, one: Cuttable) -> None:
        there = self._open.get(one.loop)
        if there is not None:
            there.discard(one)
            if not there:
                del self._open[one.loop]

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        there = self._open.get(loop)
        if not there:
            self._looking.discard(loop)
            return
        loop.call_later(EVERY_S, self._look, loop)
        try:
            killed = self._switch.killed()
            self._blind_since = None
        except Exception as error:  # noqa: BLE001 - whatever keeps it from being read, it is not known
            killed = self._blind(loop.time(), error)
        for one in tuple(there) if killed else ():
            if switch := barring(killed, one.targets):
                one.cut(switch)

    def _blind(self, now: float, error: Exception) -> tuple[Switch, ...]:
        """What to take for killed while that cannot be read: nothing at first, then everything."""
        if self._blind_since is None:
            self._blind_since = now
        if now - self._blind_since < BLIND_S:
            return ()
        log.warning("what runs is cut: the kill switch cannot be read (%s)", type(error).__name__)
        return (Switch(Target(What.EVERYTHING), "the kill switch cannot be read", "checkrein", 0),)


class Cuttable:
    """One action under way, and the task that runs it."""

    def __init__(
        self, request: Request, caller: str, loop: asyncio.AbstractEventLoop, leave: Callable[[Cuttable], None]
    ) -> None:
        task = asyncio.current_task(loop)
        if task is None:
            raise RuntimeError("an action runs in a task")
        self._request, self._caller = request, caller
        self.loop = loop
        self._task = task
        self._cancelling = task.cancelling()
        self._leave = leave
        #: what it was cut by
        self.by: Switch | None = None

    @property
    def targets(self) -> tuple[Target, ...]:
        return targets(self._request, self._caller)

    def cut(self, switch: Switch) -> None:
        if self.by is None:
            self.by = switch
            self._task.cancel()

    def leave(self) -> None:
        """It cannot be cut any more. A second call does nothing."""
        self._leave(self)

    def caught(self) -> Killed | None:
        """Asked once, of a cancellation that arrived: the error to raise in its place if only the switch asked for it.

        As `asyncio.timeout` does it.
        """
        if self.by is None or self._task.uncancel() > self._cancelling:
            return None
        return Killed(
            f"`{self.by.target}` was killed while this ran: {self.by.reason}",
            switch=self.by.id,
            hint="`checkrein killed` shows what is killed",
        )

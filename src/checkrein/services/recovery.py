"""After a crash: a start without an end, of a process that is gone, becomes `execution.unknown`.

Whether the action took effect nobody can tell, so it is never run again by itself. Other living processes
share the store; their starts are left alone, and so is a start that does not say whose it is. What the start had
reserved of its limits is let go: nobody can tell what was used.
"""

from __future__ import annotations

from typing import Protocol

from checkrein.flow.approval import Event, State, move
from checkrein.ledger import Draft, Record
from checkrein.model import StoreConflict
from checkrein.ports import Clock, Row, Save, Store, Unit
from checkrein.services import approvals, limits

#: one row for each recovered start, so that of two processes that recover at once only one records it
ROOM = "recovered"
_KEPT = ("rollout", "actor", "action", "evaluation_id", "owner", "approval")


class Recoverable(Store, Protocol):
    """A store that knows which executions have no end, and which processes are alive."""

    def running(self) -> list[Record]:
        """Starts of executions that have no end yet, oldest first."""

    def owner_alive(self, token: str) -> bool:
        """Whether the process with this token (`owner` in a start's body) still runs."""


def recover(store: Recoverable, clock: Clock) -> tuple[Record, ...]:
    """Record every lost execution and move its approval to `unknown`; returns the new records."""
    written: list[Record] = []
    for started in store.running():
        body = started.body
        owner = body.get("owner")
        if not isinstance(owner, str) or not owner or store.owner_alive(owner):
            continue
        try:
            written.extend(store.commit(_unit(store, started, owner, clock.now_us())).result())
        except StoreConflict:
            continue  # another process recovered it first
    return tuple(written)


def _unit(store: Store, started: Record, owner: str, now_us: int) -> Unit:
    body = {name: value for name, value in started.body.items() if name in _KEPT}
    draft = Draft("execution.unknown", started.trace_id, {**body, "started_seq": started.seq})
    mark = Save(Row(ROOM, str(started.seq), 1, "unknown", owner, b""), 0)
    let_go = limits.released(started.body, now_us)
    held = body.get("approval")
    id = held.get("id") if isinstance(held, dict) else None
    stored = store.row(approvals.ROOM, id) if isinstance(id, str) and id else None
    if stored is None or stored.state != State.EXECUTING.value:
        return Unit((draft,), (mark,), let_go)
    lost = move(approvals.load(stored), Event.LOST, now_us)
    return Unit((draft,), (mark, approvals.save(lost)), let_go)

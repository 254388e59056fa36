"""Says when a pending approval is so old that further people may vote on it.

Who may vote follows from the age alone; this only writes the record by which they are told, once for each time that
comes, whichever process looks first.
"""

from __future__ import annotations

import msgspec

from checkrein.flow.approval import Approval, State
from checkrein.ledger import Draft
from checkrein.model import Requirement, StoreConflict
from checkrein.ports import Clock, Row, Save, Store, Unit
from checkrein.services import records
from checkrein.services.approvals import Approvals, load

ROOM = "escalation"
ESCALATED = "approval.escalated"


class _Asked(msgspec.Struct):
    """So much of an approval as says whether it escalates: of ten thousand no more is read."""

    created_us: int
    requirement: Requirement


class Escalations:
    def __init__(self, store: Store, approvals: Approvals, clock: Clock, *, key: bytes) -> None:
        self._store = store
        self._approvals = approvals
        self._clock = clock
        self._key = key

    def tick(self) -> int:
        """Record what has come due since somebody looked last; how many approvals escalated."""
        now_us = self._clock.now_us()
        return sum(
            self._escalate(load(row), now_us) for row in self._approvals.asked() if _due(row.read(_Asked), now_us)
        )

    def _escalate(self, approval: Approval, now_us: int) -> bool:
        due = _due(approval, now_us)
        if approval.status(now_us) is not State.PENDING:
            return False
        row = self._store.row(ROOM, approval.id)
        if row is not None and row.read(int) >= due:
            return False
        version = row.version if row else 0
        draft: Draft = records.approval(ESCALATED, approval, key=self._key)
        save = Save(Row(ROOM, approval.id, version + 1, "", "", msgspec.json.encode(due)), version)
        try:
            self._store.commit(Unit((draft,), (save,))).result()
        except StoreConflict:
            return False  # another process was first
        return True


def _due(asked: Approval | _Asked, now_us: int) -> int:
    """How many steps of its escalation have come."""
    age_s = (now_us - asked.created_us) // 1_000_000
    return sum(step.after_s <= age_s for step in asked.requirement.escalation)

"""The audit trail as people use it: list, show, verify, and one row for each action that was decided."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Protocol

import msgspec

from checkrein.ledger import Record
from checkrein.ledger.checkpoint import VerifierKey
from checkrein.ledger.record import facets, member
from checkrein.ledger.verify import Report, Snapshot, examine
from checkrein.model import LedgerInvalid, NotFound
from checkrein.model.stamp import stamp
from checkrein.ports import RecordQuery


class Trail(Protocol):
    """What audit needs of a store; a broken store that is open for reading only gives it too."""

    def records(self, query: RecordQuery) -> Iterator[Record]: ...

    def record(self, id: str) -> Record | None:
        """The record with this id."""

    def snapshot(self) -> AbstractContextManager[Snapshot]:
        """One consistent view for a walk through the whole log."""


class Published(Protocol):
    """Where the ledger's public key lies."""

    def vkey(self) -> str:
        """The key as one line, or an empty string if the ledger signs no checkpoints."""


class Activity(msgspec.Struct, frozen=True, kw_only=True):
    """One action that was decided, and what became of it. `Audit.activities` says how `status` comes about."""

    id: str
    timestamp: str
    action: str
    decision: str
    result: str
    user: str
    status: str
    trace_id: str
    risk: str
    agent: str


class Audit:
    """Reads only; nothing here writes a record."""

    def __init__(self, store: Trail, published: Published | None = None) -> None:
        self._store = store
        self._published = published

    def records(self, query: RecordQuery) -> Iterator[Record]:
        return self._store.records(query)

    def show(self, id: str | int) -> Record:
        """The record with this sequence number or id (`rec_...`); raises `NotFound`."""
        text = str(id)
        if text.isascii() and text.isdecimal() and len(text) < 16:
            query = RecordQuery(after_seq=int(text) - 1, limit=1)
            found = next((record for record in self._store.records(query) if record.seq == int(text)), None)
        else:
            found = self._store.record(text)
        if found is None:
            raise NotFound(f"no record `{text[:80]}`", hint="`checkrein audit list` shows them; give a number or an id")
        return found

    def verify(self, vkey: str = "", witnesses: Iterable[VerifierKey] = ()) -> Report:
        """Walk the whole ledger. `vkey` is the auditor's own copy of the public key, else the one beside it is used.

        Each of the `witnesses` must have cosigned a beginning of it.

        A ledger that is wrong gives a report with problems, never an exception; `Report.require` raises.
        """
        known = vkey or (self._published.vkey() if self._published else "")
        try:
            with self._store.snapshot() as snapshot:
                return examine(snapshot, vkey=known, witnesses=witnesses)
        except LedgerInvalid as error:
            return Report(records=0, root=b"", problems=(str(error),))

    def activities(self, user: str = "", limit: int = 100) -> list[Activity]:
        """The newest decisions and their ends, newest first.

        | decision             | what followed                          | status                  | result            |
        |----------------------|----------------------------------------|-------------------------|-------------------|
        | deny                 |                                        | `denied`                | the reasons       |
        | require_review       | not enough people voted yet            | `pending`               | who is asked      |
        |                      | approved (the run is a row of its own) | `approved`              | who approved      |
        |                      | a person denied                        | `denied`                | who voted         |
        |                      | the deadline passed                    | `expired`               |                   |
        |                      | withdrawn, or policy denies by now     | `cancelled`             |                   |
        | allow, either kind   | started, no end yet                    | `running`               |                   |
        |                      | finished well                          | `executed`              | `ok`              |
        |                      | finished otherwise                     | `failed` or `cancelled` | the type of error |
        |                      | the process died before the end        | `unknown`               |                   |
        |                      | an agent gateway says how it ended     | as if it were recorded  | that it says so   |
        | allow                | whoever asked runs it                  | `allowed`               | the reasons       |
        | allow_with_redaction | the same, with duties                  | `redacted`              | the reasons       |

        Executions are joined by trace and evaluation id, approvals by approval id.
        """
        query = RecordQuery(kinds=("decision",), user=user, limit=limit, newest_first=True)
        traces: dict[str, dict[str, Record]] = {}
        return [self._activity(record, traces) for record in self._store.records(query)]

    def _activity(self, record: Record, traces: dict[str, dict[str, Record]]) -> Activity:
        body = record.body
        found = facets(body)
        if found.outcome == "require_review":
            status, result = self._review(found.approval)
        elif found.outcome in ("allow", "allow_with_redaction"):
            if record.trace_id not in traces:
                traces[record.trace_id] = self._executions(record.trace_id)
            status, result = _execution(traces[record.trace_id].get(found.evaluation), body)
        else:
            status, result = "denied", _reasons(body)
        return Activity(
            id=record.id,
            timestamp=stamp(record.ts_us),
            action=found.action,
            decision=found.outcome,
            result=result,
            user=found.user,
            status=status,
            trace_id=record.trace_id,
            risk=found.risk,
            agent=found.agent,
        )

    def _executions(self, trace_id: str) -> dict[str, Record]:
        """The last execution record of each decision in this trace."""
        found = self._store.records(RecordQuery(trace_id=trace_id))
        return {facets(item.body).evaluation: item for item in found if item.kind.startswith("execution.")}

    def _review(self, approval: str) -> tuple[str, str]:
        """Status and result of the review that this approval stands for."""
        if not approval:
            return "pending", ""
        asked: Mapping[str, object] = {}
        for record in self._store.records(RecordQuery(approval=approval, newest_first=True)):
            body = record.body
            asked = member(body, "approval")
            end = record.kind.removeprefix("approval.")
            if end in ("expired", "cancelled"):
                return end, ""
            if end in ("decided", "used"):
                return "approved" if asked.get("state") != "denied" else "denied", _voters(asked)
            if end == "requested":
                break
        approvers = asked.get("approvers")
        return "pending", f"waits for {approvers}" if approvers else ""


#: what a gateway says of a call that it ran itself
_REPORTED = {
    "ok": ("executed", "ok, the gateway says"),
    "failed": ("failed", "the gateway says"),
    "blocked": ("cancelled", "blocked in the gateway"),
}


def _execution(last: Record | None, decided: Mapping[str, object]) -> tuple[str, str]:
    if last is None:
        outcome = member(decided, "decision").get("outcome")
        return "allowed" if outcome == "allow" else "redacted", _reasons(decided)
    if last.kind == "execution.started":
        return "running", ""
    if last.kind == "execution.reported":
        return _REPORTED.get(str(last.body.get("status")), ("unknown", "what was reported says nothing"))
    if last.kind != "execution.finished":
        return "unknown", "its end was never recorded"
    body = last.body
    status = str(body.get("status", ""))
    if status == "ok":
        return "executed", "ok"
    return status if status in ("failed", "cancelled") else "unknown", str(body.get("error") or status)


def _reasons(body: Mapping[str, object]) -> str:
    reasons = member(body, "decision").get("reasons")
    return "; ".join(str(reason) for reason in reasons) if isinstance(reasons, list) else ""


def _voters(approval: Mapping[str, object]) -> str:
    voters = approval.get("voters")
    text = ", ".join(str(voter) for voter in voters) if isinstance(voters, list) else ""
    if broken_by := approval.get("broken_by"):
        text = ", ".join(part for part in (text, f"{broken_by} (broke the glass)") if part)
    return f"by {text}{' (simulated)' if approval.get('simulated') else ''}" if text else ""

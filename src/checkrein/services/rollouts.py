"""Rollouts: started and steered by people, counted and judged by whoever ticks.

The store holds the truth. Any process may `tick`: the row's version sees to it that each record is counted once and
each step taken once, whoever is first. What requests meet in between is in `services.arms`.
"""

from __future__ import annotations

import secrets

import msgspec

from checkrein.flow import rollout as flow
from checkrein.flow.approval import Approval
from checkrein.flow.approval import Event as ApprovalEvent
from checkrein.flow.approval import State as ApprovalState
from checkrein.flow.approval import move as move_approval
from checkrein.flow.rollout import Event, Kind, Plan, Rollout, State
from checkrein.ledger import Draft
from checkrein.model import (
    Action,
    BadRequest,
    CheckreinError,
    Decision,
    NotFound,
    Outcome,
    Request,
    Resource,
    StoreConflict,
    Subject,
)
from checkrein.model.request import LOOSEN
from checkrein.model.requirement import Requirement
from checkrein.model.risk import Level, Risk
from checkrein.ports import Clock, RecordQuery, Row, Save, Store, Unit
from checkrein.services import approvals, records
from checkrein.services.arms import ROOM, Arms
from checkrein.services.counting import KINDS, count

STEP, ROLLBACK, VERDICT = "rollout.step", "rollout.rollback", "gate.verdict"
#: what stands in the place of a verdict, in the rollout and in its records
UNSAFE = "UnsafeWithoutGate"
ATTEMPTS = 32
#: records that one tick looks at; more wait for the next
TICK_RECORDS = 200_000
#: how many records that do not belong to the rollout are looked at again rather than noted as seen
UNCOUNTED_RECORDS = 10_000


class Rollouts:
    """`approvers` must agree before a policy that loosens anything goes live."""

    def __init__(
        self,
        store: Store,
        arms: Arms,
        asks: approvals.Approvals,
        clock: Clock,
        *,
        key: bytes,
        approvers: Requirement,
    ) -> None:
        self._store = store
        self._arms = arms
        self._asks = asks
        self._clock = clock
        self._key = key
        self._approvers = approvers

    # --- what people do -----------------------------------------------------------------------------------------

    def start(
        self,
        kind: Kind,
        *,
        stable: str,
        canary: str,
        plan: Plan,
        verdict: str = "",
        unsafe_without_gate: bool = False,
        by: str,
    ) -> Rollout:
        """Begin a rollout of what a gate verdict covers. Only one is under way at a time."""
        if stable == canary:
            raise BadRequest(f"`{canary}` is what runs already", hint="name another version")
        under_way = self._arms.current()
        if under_way is not None:
            raise BadRequest(
                f"rollout `{under_way.id}` is under way",
                hint=f"wait for it, or end it with `checkrein rollout abort {under_way.id}`",
            )
        if not unsafe_without_gate:
            self._check_verdict(kind, stable, canary, verdict)
        policy = kind is Kind.POLICY
        now_us = self._clock.now_us()
        made = Rollout(
            id="rol_" + secrets.token_hex(8),
            kind=kind,
            stable=stable,
            canary=canary,
            plan=plan,
            state=State.SHADOW if policy else State.LIVE,
            stage=0 if policy else 1,
            verdict=UNSAFE if unsafe_without_gate else verdict,
            started_by=by,
            created_us=now_us,
            stage_us=now_us,
            cursor=self._store.head().size - 1,
        )
        self._write(made, 0, (_step(made, "started", by, ()),))
        return made

    def act(self, id: str, event: Event, *, by: str, reason: str = "") -> Rollout:
        """Pause, resume, promote, abort or undo it. `PROMOTE` goes to the end at once, `UNDO` takes the end back."""
        why = (f"{reason} ({by})" if reason else by,)
        for _ in range(ATTEMPTS):
            before = self.get(id)
            after = flow.move(before, event, self._clock.now_us(), why)
            try:
                return self._moved(before, after, event, by, why)
            except StoreConflict:
                continue
        raise StoreConflict(f"rollout `{id}` keeps changing", hint="look at it and try again")

    def all(self) -> list[Rollout]:
        """Every rollout, the newest first."""
        found, after = [], ""
        while rows := self._store.rows(ROOM, after=after, limit=500):
            found += [row.read(Rollout) for row in rows]
            after = rows[-1].id
        return sorted(found, key=lambda rollout: rollout.created_us, reverse=True)

    def get(self, id: str) -> Rollout:
        """The rollout; raises `NotFound`."""
        row = self._store.row(ROOM, id)
        if row is None:
            raise NotFound(f"no rollout `{id[:80]}`", hint="`checkrein rollout list` shows the ids")
        return row.read(Rollout)

    def _check_verdict(self, kind: Kind, stable: str, canary: str, verdict: str) -> None:
        """A verdict covers exactly the pair it was about."""
        hint = "run `checkrein gate run`, or start with `--unsafe-without-gate`, which is recorded"
        if not verdict:
            raise BadRequest(f"no gate verdict covers `{canary}`", hint=hint)
        for record in self._store.records(RecordQuery(kinds=(VERDICT,), newest_first=True)):
            detail = record.body.get("detail")
            if not isinstance(detail, dict) or detail.get("id") != verdict:
                continue
            if detail.get("verdict") != "promote":
                raise BadRequest(f"verdict `{verdict}` is `{detail.get('verdict')}`", hint=hint)
            if (detail.get("kind"), detail.get("champion"), detail.get("challenger")) != (kind.value, stable, canary):
                raise BadRequest(f"verdict `{verdict}` is about other versions", hint=hint)
            return
        raise NotFound(f"no gate verdict `{verdict[:80]}` in the ledger", hint=hint)

    # --- what goes by itself ------------------------------------------------------------------------------------

    def tick(self) -> Rollout | None:
        """Count, judge, step, and renew what requests meet; the rollout that is under way or ended just now."""
        self._retire()
        rollout = self._arms.current()
        if rollout is not None:
            try:
                rollout = self._tick(rollout)
            except StoreConflict:
                rollout = self._arms.current()  # another process was first
        try:
            self._arms.sync()
        except CheckreinError as error:
            if rollout is None or not rollout.active:
                raise
            rollout = self._give_up(rollout, f"the canary cannot be loaded: {error}")
            self._arms.sync()
        return rollout

    def _tick(self, before: Rollout) -> Rollout:
        if before.kind is Kind.POLICY and before.stable != self._arms.stable(Kind.POLICY):
            return self._give_up(before, "the stable version was replaced under it")
        if before.state is State.WAITING:
            return self._answered(before)
        query = RecordQuery(kinds=KINDS, after_seq=before.cursor, limit=TICK_RECORDS)
        window = count(before, self._store.records(query))
        after, steps = flow.step(before, window, self._clock.now_us())
        if steps:
            return self._moved(before, after, steps[0].event, "system", steps[0].why)
        if window.minutes or window.cursor - before.cursor > UNCOUNTED_RECORDS:
            after = msgspec.structs.replace(after, version=before.version + 1)
            self._write(after, before.version)
        return after

    def _give_up(self, before: Rollout, why: str) -> Rollout:
        event = Event.REFUSED if before.state is State.WAITING else Event.BROKE
        after = flow.move(before, event, self._clock.now_us(), (why,))
        return self._moved(before, after, event, "system", (why,))

    def _answered(self, before: Rollout) -> Rollout:
        """Whether people have agreed to what is loosened; their approval is spent on it."""
        now_us = self._clock.now_us()
        asked = self._asks.get(before.approval)
        state = asked.status(now_us)
        if state is ApprovalState.PENDING:
            return before
        if state is not ApprovalState.APPROVED:
            why = (f"approval `{asked.id}` is {state}",)
            return self._moved(before, flow.move(before, Event.REFUSED, now_us, why), Event.REFUSED, "system", why)
        used = move_approval(move_approval(asked, ApprovalEvent.TAKEN, now_us), ApprovalEvent.DONE, now_us)
        why = (f"agreed by {', '.join(vote.voter for vote in asked.votes)}",)
        after = flow.move(before, Event.AGREED, now_us, why)
        drafts = (records.approval("approval.used", used, key=self._key),)
        spent = Save(approvals.row(used), asked.version)
        return self._moved(before, after, Event.AGREED, "system", why, drafts, (spent,))

    def _retire(self) -> None:
        """Once the source offers something else, what was promoted over its last version is history."""
        for save in self._arms.outdated():
            detail = {"event": "replaced by the source", "stable": save.row.lookup}
            try:
                self._store.commit(Unit((records.admin(STEP, "system", detail),), (save,))).result()
            except StoreConflict:
                continue

    # --- the store ----------------------------------------------------------------------------------------------

    def _moved(
        self,
        before: Rollout,
        after: Rollout,
        event: Event,
        by: str,
        why: tuple[str, ...],
        drafts: tuple[Draft, ...] = (),
        saves: tuple[Save, ...] = (),
    ) -> Rollout:
        """Write a step with its record and with what follows from it: a request to people, a promotion."""
        after = msgspec.structs.replace(after, version=before.version + 1)
        if after.state is State.WAITING:
            asked = self._loosening(after)
            after = msgspec.structs.replace(after, approval=asked.id)
            drafts = (*drafts, records.approval("approval.requested", asked, key=self._key))
            saves = (*saves, approvals.save(asked))
        if after.state in (State.PROMOTED, State.UNDONE):
            saves = (*saves, self._arms.promoted(after))
        self._write(after, before.version, (*drafts, _step(after, event.value, by, why)), saves)
        return after

    def _loosening(self, rollout: Rollout) -> Approval:
        """The request to people: exactly these differences of exactly these two versions."""
        told = [f"{found.action}: {found.before} becomes {found.after}" for found in rollout.unagreed]
        given = {"stable": rollout.stable, "canary": rollout.canary, "loosens": told}
        request = Request(
            Subject("user", rollout.started_by),
            Action(LOOSEN, {"input": given}),
            Resource("rollout", rollout.id),
        )
        decision = Decision(
            outcome=Outcome.REQUIRE_REVIEW,
            risk=Risk(Level.AMBER, 50, ("loosens policy",)),
            reasons=("the canary loosens what the stable version decides", *told[:10]),
            requirement=self._approvers,
            bundle=rollout.canary,
            trace_id=rollout.id.removeprefix("rol_").ljust(32, "0"),
        )
        return self._asks.fresh(request, decision, self._clock.now_us())

    def _write(
        self, rollout: Rollout, expect: int, drafts: tuple[Draft, ...] = (), saves: tuple[Save, ...] = ()
    ) -> None:
        body = msgspec.json.encode(rollout)
        row = Row(ROOM, rollout.id, rollout.version, rollout.state.value, rollout.canary, body)
        self._store.commit(Unit(drafts, (Save(row, expect), *saves))).result()


def _step(rollout: Rollout, event: str, by: str, why: tuple[str, ...]) -> Draft:
    """The record of a step, with the figures it rests on."""
    detail = {
        "id": rollout.id,
        "event": event,
        "kind": rollout.kind.value,
        "stable": rollout.stable,
        "canary": rollout.canary,
        "state": rollout.state.value,
        "percent": rollout.percent,
        "why": [records.cut(reason) for reason in why],
        "verdict": rollout.verdict,
        "counted": {
            "stable": msgspec.structs.asdict(rollout.stable_total),
            "canary": msgspec.structs.asdict(rollout.canary_total),
        },
    }
    return records.admin(ROLLBACK if rollout.state is State.ROLLED_BACK else STEP, by, detail)

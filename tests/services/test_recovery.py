from __future__ import annotations

import msgspec
import pytest

from checkrein.flow.approval import Approval, Event, State, move
from checkrein.ledger import Draft
from checkrein.model import Level, Requirement, Subject
from checkrein.model.requirement import parse_factors
from checkrein.ports import RecordQuery, Unit
from checkrein.services import approvals
from checkrein.services.recovery import recover
from checkrein.storage.memory import MemoryStore

DEAD = "own_" + "0" * 32


class Clock:
    def now_us(self) -> int:
        return 1_767_225_600_000_000


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore(Clock())


def start(store: MemoryStore, evaluation: str, owner: object, approval: str = "") -> None:
    body = {
        "actor": {"id": "alice"},
        "action": {"name": "send_email"},
        "evaluation_id": evaluation,
        "owner": owner,
        "approval": {"id": approval},
    }
    store.commit(Unit((Draft("execution.started", "t" * 32, body),))).result()


def lost(store: MemoryStore) -> list[object]:
    return [record.body["evaluation_id"] for record in store.records(RecordQuery(kinds=("execution.unknown",)))]


def executing() -> Approval:
    pending = Approval(
        id="apr_1",
        version=1,
        state=State.PENDING,
        action={},
        action_hash="h",
        requester=Subject("user", "alice"),
        agent="",
        requirement=Requirement(parse_factors("1 of ops"), 60),
        policies=(),
        reasons=(),
        risk=Level.AMBER,
        factors=(),
        labels=(),
        bundle="",
        trace_id="t" * 32,
        created_us=0,
        deadline_us=10**18,
    )
    approved = move(pending, Event.QUORUM, 1)
    return msgspec.structs.replace(move(approved, Event.TAKEN, 2), version=1)


def test_a_start_of_a_dead_process_becomes_unknown_with_all_it_said(store: MemoryStore) -> None:
    start(store, "evl_1", DEAD)
    written = recover(store, Clock())
    assert [record.kind for record in written] == ["execution.unknown"]
    assert written[0].trace_id == "t" * 32
    assert written[0].body == {
        "actor": {"id": "alice"},
        "action": {"name": "send_email"},
        "evaluation_id": "evl_1",
        "owner": DEAD,
        "approval": {"id": ""},
        "started_seq": 0,
    }


def test_recovering_twice_records_once(store: MemoryStore) -> None:
    start(store, "evl_1", DEAD)
    recover(store, Clock())
    assert recover(store, Clock()) == ()
    assert lost(store) == ["evl_1"]


def test_what_ended_is_not_lost(store: MemoryStore) -> None:
    start(store, "evl_1", DEAD)
    store.commit(Unit((Draft("execution.finished", "t" * 32, {"evaluation_id": "evl_1", "status": "ok"}),))).result()
    assert recover(store, Clock()) == ()


@pytest.mark.parametrize("owner", ["alive", "", None, 7])
def test_a_living_process_and_a_start_that_does_not_say_whose_it_is_are_left_alone(
    store: MemoryStore, owner: object
) -> None:
    start(store, "evl_1", store.owner_token() if owner == "alive" else owner)
    assert recover(store, Clock()) == ()
    assert len(store.running()) == 1


def test_of_two_that_recover_at_once_only_one_records(store: MemoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    start(store, "evl_1", DEAD)
    seen = store.running()
    recover(store, Clock())
    monkeypatch.setattr(store, "running", lambda: seen)
    assert recover(store, Clock()) == ()
    assert lost(store) == ["evl_1"]


def test_an_approval_that_was_executing_becomes_unknown_and_is_never_used_again(store: MemoryStore) -> None:
    store.commit(Unit(saves=(approvals.save(executing()),))).result()
    start(store, "evl_1", DEAD, "apr_1")
    recover(store, Clock())
    stored = store.row(approvals.ROOM, "apr_1")
    assert stored is not None
    assert (stored.state, approvals.load(stored).state) == ("unknown", State.UNKNOWN)


def test_an_approval_in_another_state_is_left_alone(store: MemoryStore) -> None:
    used = msgspec.structs.replace(move(executing(), Event.DONE, 3), version=1)
    store.commit(Unit(saves=(approvals.save(used),))).result()
    start(store, "evl_1", DEAD, "apr_1")
    assert len(recover(store, Clock())) == 1
    stored = store.row(approvals.ROOM, "apr_1")
    assert stored is not None
    assert stored.state == "used"

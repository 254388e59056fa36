"""The whole life of approvals under fire: clocks that jump, votes that repeat, policies that turn, processes that die.

`CHECKREIN_DEEP=1` runs what is asked of a release: 1,000 races and 10,000 duplicates.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from checkrein.compose import System, SystemClock, open_system
from checkrein.flow.approval import TRANSITIONS, IllegalEvent, State, VoteRefused
from checkrein.flow.grant import State as GrantState
from checkrein.model import (
    Action,
    ApprovalRequired,
    Decision,
    Denied,
    Request,
    Resource,
    StoreConflict,
    StoreUnavailable,
    Subject,
)
from checkrein.model.requirement import Terms
from checkrein.ports import RecordQuery
from checkrein.services.approvals import Approvals

DEEP = os.environ.get("CHECKREIN_DEEP") == "1"
RACES, DUPLICATES = (1_000, 10_000) if DEEP else (25, 200)

CONFIG = """
environment = "test"
approvals.hold = 0
approvals.break_glass = "commander"
[people.bob]
roles = ["finance"]
[people.carol]
roles = ["finance"]
[people.dora]
roles = ["ciso", "commander"]
"""
POLICIES = """
@id("use") @owner("o") @reason("r") permit (principal, action, resource);
@id("look") @owner("o") @reason("somebody looks") @outcome("require_review")
@approvers("2 of finance") @expires("1h") @escalate("30m: ciso") @grant("max 1h, 2 uses, same text")
forbid (principal, action == Action::"say", resource);
"""
TOOLS = "tools:\n  say:\n    effects: [write]\n    input: {text: string, note: string?}\n"
TERMS = Terms(3600, 2, ("text",))


def make(folder: Path) -> Path:
    (folder / "policies").mkdir(parents=True)
    (folder / "policies/main.cedar").write_text(POLICIES)
    (folder / "tools.yaml").write_text(TOOLS)
    (folder / "checkrein.toml").write_text(CONFIG)
    return folder


def say(text: str, note: str = "") -> Request:
    given = {"text": text} | ({"note": note} if note else {})
    return Request(Subject("user", "alice"), Action("say", {"input": given}), Resource("tool", "say"))


def ends_of(system: System) -> dict[str, Counter[str]]:
    """Of each approval, how it ended and how often it ran, by the records."""
    found: dict[str, Counter[str]] = {}
    kinds = ("approval.decided", "approval.expired", "approval.cancelled", "approval.used", "execution.started")
    for record in system.store.records(RecordQuery(kinds=kinds)):
        held = record.body["approval"]
        assert isinstance(held, dict)
        if held["id"]:
            what = f"{record.kind}:{held['state']}" if record.kind == "approval.decided" else record.kind
            found.setdefault(str(held["id"]), Counter())[what] += 1
    return found


def reachable(state: State) -> set[State]:
    found, left = {state}, [state]
    while left:
        for after in TRANSITIONS[left.pop()].values():
            if after not in found:
                found.add(after)
                left.append(after)
    return found


class Life(RuleBasedStateMachine):
    """Three actions of one user, asked for, agreed to, edited, run and abandoned in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp())
        self.ahead_us = 0
        self.clock = mock.patch.object(SystemClock, "now_us", lambda _: time.time_ns() // 1000 + self.ahead_us)
        self.clock.start()
        self.denies = False
        self.ran = 0
        self.seen: dict[str, State] = {}
        make(self.root / "governance")
        self.open()

    def open(self) -> None:
        self.system = open_system(self.root / "governance")
        self.system.pdp.register(lambda request, context: Decision.deny("turned") if self.denies else None, "mood")

    def teardown(self) -> None:
        assert self.system.audit.verify().problems == ()
        self.system.close()
        self.clock.stop()
        shutil.rmtree(self.root)

    def pick(self, number: int) -> list[str]:
        """One approval: more often than not one that waits."""
        waiting = self.system.approvals.all()
        found = (waiting if number % 4 else []) or self.system.approvals.all(None)
        return [found[number % len(found)].id] if found else []

    @rule(text=st.sampled_from("ab"), note=st.sampled_from(["", "x"]))
    def send(self, text: str, note: str) -> None:
        try:
            with self.system.gateway.action_sync(say(text, note), caller="t"):
                self.ran += 1
                assert not self.denies
        except (ApprovalRequired, Denied):
            pass

    @rule(text=st.sampled_from("ab"))
    def send_and_die(self, text: str) -> None:
        """The process is gone between the start and the end; the next one takes over."""
        with mock.patch.object(self.system.gateway, "_end", lambda governed: iter(())):
            self.send(text, "")
        self.system.close()
        self.open()

    @rule(
        number=st.integers(0, 11),
        voter=st.sampled_from(["alice", "bob", "carol", "dora", "mallory"]),
        approve=st.sampled_from([True, True, True, False]),
        grant=st.booleans(),
        times=st.integers(1, 2),
    )
    def vote(self, number: int, voter: str, approve: bool, grant: bool, times: int) -> None:
        for id in self.pick(number):
            for _ in range(times):
                before = self.system.approvals.get(id)
                try:
                    after = self.system.approvals.vote(
                        id, voter=voter, approve=approve, auth="local", grant=TERMS if grant and approve else None
                    )
                except (VoteRefused, IllegalEvent):
                    assert self.system.approvals.get(id).votes == before.votes
                    continue
                assert voter in ("bob", "carol", "dora")
                assert len(after.votes) == len(before.votes) + 1

    @rule(number=st.integers(0, 11), grant=st.booleans())
    def agree(self, number: int, grant: bool) -> None:
        """Everybody who is asked agrees, and the action is sent."""
        for id in self.pick(number):
            for voter in ("bob", "carol"):
                with contextlib.suppress(VoteRefused, IllegalEvent):
                    terms = TERMS if grant else None
                    self.system.approvals.vote(id, voter=voter, approve=True, auth="local", grant=terms)
            given = self.system.approvals.get(id).request().action.input
            for note in ("", "y", "z", "y"):
                self.send(given["text"], note)

    @rule(number=st.integers(0, 11), text=st.sampled_from("abc"), editor=st.sampled_from(["alice", "bob", "carol"]))
    def edit(self, number: int, text: str, editor: str) -> None:
        for id in self.pick(number):
            try:
                after = self.system.edits.edit(id, {"text": text}, editor=editor, auth="local")
            except (VoteRefused, IllegalEvent):
                continue
            assert after.votes == ()
            assert self.system.approvals.get(id).state is State.CANCELLED

    @rule(number=st.integers(0, 11), by=st.sampled_from(["alice", "bob", "dora"]))
    def break_glass(self, number: int, by: str) -> None:
        for id in self.pick(number):
            try:
                self.system.emergencies.break_glass(id, by=by, reason="fire", auth="local")
            except (VoteRefused, IllegalEvent):
                continue
            assert by == "dora"

    @rule(seconds=st.sampled_from([-7200, -60, 60, 1900, 3700]))
    def jump(self, seconds: int) -> None:
        self.ahead_us += seconds * 1_000_000

    @rule()
    def sweep(self) -> None:
        self.system.approvals.sweep()

    @rule()
    def turn(self) -> None:
        self.denies = not self.denies

    @precondition(lambda self: self.system.grants.all())
    @rule()
    def revoke(self) -> None:
        grant = self.system.grants.all()[0]
        assert self.system.grants.revoke(grant.id, by="bob", auth="local").state is GrantState.REVOKED

    @invariant()
    def each_state_is_left_as_the_table_says(self) -> None:
        for approval in self.system.approvals.listed(None):
            assert approval.state in reachable(self.seen.get(approval.id, State.PENDING))
            self.seen[approval.id] = approval.state

    @invariant()
    def each_approval_ends_once_and_runs_once(self) -> None:
        ran = 0
        for counted in ends_of(self.system).values():
            ran += counted["execution.started"]
        grants = {grant.id: grant for grant in self.system.grants.all(live=False)}
        for id, counted in ends_of(self.system).items():
            if id in grants:
                assert counted["execution.started"] == grants[id].used <= 2
                continue
            over = ("approval.decided:denied", "approval.expired", "approval.cancelled", "execution.started")
            assert sum(counted[what] for what in over) <= 1
            assert counted["approval.used"] <= counted["execution.started"] <= counted["approval.decided:approved"] <= 1
        assert ran == self.ran

    @invariant()
    def what_is_approved_has_its_people(self) -> None:
        for approval in self.system.approvals.listed(None):
            voters = [cast.voter for cast in approval.votes]
            assert len(voters) == len(set(voters))
            assert "alice" not in voters
            if approval.state in (State.APPROVED, State.EXECUTING, State.USED) and approval.broken is None:
                assert approval.missing() == ()


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=300 if DEEP else 15, stateful_step_count=30, deadline=None)
pytestmark = pytest.mark.timeout(7200 if DEEP else 300)


def together(*work: Callable[[], object]) -> None:
    """Run it all at once, in threads; refusals and conflicts are how one of them loses."""
    barrier = threading.Barrier(len(work))

    def run(each: Callable[[], object]) -> None:
        barrier.wait()
        try:
            each()
        except (VoteRefused, IllegalEvent, StoreConflict, ApprovalRequired, Denied):
            return

    threads = [threading.Thread(target=run, args=(each,)) for each in work]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@pytest.fixture
def system(tmp_path: Path) -> Iterator[System]:
    folder = make(tmp_path / "governance")
    text = POLICIES.replace("2 of finance", "1 of finance")
    (folder / "policies/main.cedar").write_text(text)
    with closing(open_system(folder)) as opened:
        yield opened


class Late:
    """A clock of a process that is two hours ahead."""

    def now_us(self) -> int:
        return SystemClock().now_us() + 7_200_000_000


def test_of_approve_deny_expire_and_policy_that_turns_exactly_one_ends_it(system: System):
    key = system.data.commitment_key()
    late = Approvals(system.store, Late(), key, system.approvals.people)
    turned = Approvals(system.store, system.clock, key, system.approvals.people, lambda approval: "it turned")
    found: Counter[State] = Counter()
    for race in range(RACES):
        id = system.gateway.evaluate_sync(say(f"race {race}"), caller="t").approval_id
        together(
            lambda id=id: system.approvals.vote(id, voter="bob", approve=True, auth="a"),
            lambda id=id: system.approvals.vote(id, voter="carol", approve=False, auth="b"),
            lambda id=id: late.current(id),
            lambda id=id: turned.vote(id, voter="carol", approve=True, auth="c"),
        )
        found[system.approvals.get(id).state] += 1
    for id, counted in ends_of(system).items():
        over = counted["approval.decided:denied"] + counted["approval.expired"] + counted["approval.cancelled"]
        # what was agreed in time may still expire afterwards; nothing else follows anything
        assert over + counted["approval.decided:approved"] == 1 or counted["approval.expired"] == 1, id
        assert over <= 1
        assert counted["approval.decided:denied"] + counted["approval.decided:approved"] <= 1
    assert sum(found.values()) == RACES
    assert set(found) <= {State.APPROVED, State.DENIED, State.EXPIRED, State.CANCELLED}


def test_of_many_duplicates_of_an_approved_action_one_runs(system: System):
    id = system.gateway.evaluate_sync(say("once"), caller="t").approval_id
    system.approvals.vote(id, voter="bob", approve=True, auth="local")
    ran: list[int] = []
    threads = 8

    def send(mine: int) -> None:
        for number in range(DUPLICATES // threads):
            try:
                with system.gateway.action_sync(say("once"), caller="t"):
                    ran.append(mine * DUPLICATES + number)
            except (ApprovalRequired, StoreUnavailable):
                continue

    together(*(lambda mine=mine: send(mine) for mine in range(threads)))
    assert len(ran) == 1
    assert system.approvals.get(id).state is State.USED
    assert ends_of(system)[id]["execution.started"] == 1


def test_ten_thousand_that_wait_cost_no_thread(system: System):
    before = threading.active_count()
    waiting = [system.gateway.evaluate_sync(say(str(number)), caller="t") for number in range(10_000 if DEEP else 50)]
    assert len({made.approval_id for made in waiting}) == len(waiting)
    assert threading.active_count() == before

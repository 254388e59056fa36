"""An approved prompt covers the tool call it asked for, and no other: each condition by a call that misses only it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from checkrein.compose import System, open_system
from checkrein.flow.approval import Approval
from checkrein.model import Action, ApprovalRequired, Decision, Outcome, Request, Resource, Subject
from checkrein.ports import RecordQuery
from checkrein.services.results import Results
from checkrein.services.turns import MAX_HOSTS, TURN, Turn

ALICE = Subject("user", "alice")
PROMPT = "Send an email to all that the party at example.com is on Friday."
CALL: dict[str, object] = {"to": "all", "subject": "Party", "body": "The party is on Friday."}


def prompt(text: str, who: Subject = ALICE) -> Request:
    body = {"model": "m", "messages": [{"role": "user", "content": text}]}
    return Request(who, Action("prompt", {"input": body}), Resource("model", "m"), {"agent": {"id": "bot"}})


def call(handle: str, input: dict[str, object], tool: str = "send_email") -> Request:
    return Request(Subject(TURN, handle), Action(tool, {"input": input}), Resource("tool", tool))


@pytest.fixture
def system(folder: Path) -> Iterator[System]:
    opened = open_system(folder)
    yield opened
    opened.close()


@pytest.fixture
def turn(system: System) -> Turn:
    """A turn of the prompt, which a person approved."""
    return approved(system, PROMPT)


def approved(system: System, text: str, **changed: object) -> Turn:
    request = prompt(text)
    decision = system.gateway.evaluate_sync(request, caller="tests")
    assert decision.outcome is Outcome.REQUIRE_REVIEW
    approval = msgspec.structs.replace(system.approvals.get(decision.approval_id), **changed)
    return system.turns.open(request, decision.trace_id, approval)


def ask(system: System, turn: Turn, tool: str = "send_email", /, **changed: object) -> Decision:
    return system.gateway.evaluate_sync(call(turn.handle, CALL | changed, tool), caller="pep")


def test_the_call_that_the_prompt_asked_for_runs_under_its_approval(system: System, turn: Turn):
    decision = ask(system, turn)
    assert turn.approval is not None
    assert (decision.outcome, decision.approval_id) == (Outcome.ALLOW, turn.approval.id)
    assert decision.trace_id == turn.trace_id
    assert [row.user for row in system.audit.activities()] == ["alice", "alice"]


def test_an_argument_that_steers_must_stand_in_the_approved_text(system: System, turn: Turn):
    for to in ("everyone", "al", "all@evil.com", "", ["all", "everyone"]):
        assert ask(system, turn, to=to).outcome is not Outcome.ALLOW
    assert ask(system, turn, to="ALL").outcome is Outcome.ALLOW


def test_a_tool_that_the_prompt_did_not_ask_for_is_not_covered(system: System, folder: Path):
    turn = approved(system, PROMPT, labels=("effect:external", "tool:other"))
    assert ask(system, turn).outcome is Outcome.REQUIRE_REVIEW


def test_a_label_that_the_prompt_did_not_bear_is_not_covered(system: System, turn: Turn):
    assert ask(system, turn, body="Call 4111 1111 1111 1111.").outcome is Outcome.REQUIRE_REVIEW
    assert ask(system, turn).outcome is Outcome.ALLOW


@pytest.mark.parametrize(
    "body",
    [
        "See http://example.com/pay",
        "See ftp://x",
        "See WWW.example",
        "See \uff48\uff54\uff54\uff50\uff1a\uff0f\uff0fx",
        "Log in at evil.com",
        "Log in at evil.com/example.com",
        "Log in at evil\u3002com",
        "Log in at not-example.com",
        "Log in at example.com.evil.org",
        " ".join(f"host{n}.com" for n in range(MAX_HOSTS + 1)),
    ],
)
@pytest.mark.parametrize("argument", ["body", "subject"])
def test_a_link_is_not_covered(system: System, turn: Turn, argument: str, body: str):
    assert ask(system, turn, **{argument: body}).outcome is Outcome.REQUIRE_REVIEW
    assert ask(system, turn).outcome is Outcome.ALLOW


@pytest.mark.parametrize(
    "body", ["The party is on Friday at 9.30, i.e. late.", "The party at example.com.", "At Example.COM!", "Go..."]
)
def test_words_and_what_the_person_read_are_no_links(system: System, turn: Turn, body: str):
    assert ask(system, turn, body=body).outcome is Outcome.ALLOW


def test_a_call_may_repeat_only_so_many_hosts_of_the_approved_text(system: System):
    hosts = [f"host{number}.example" for number in range(MAX_HOSTS + 1)]
    turn = approved(system, "Send an email to all about " + " ".join(hosts))
    assert ask(system, turn, body=" ".join(hosts)).outcome is Outcome.REQUIRE_REVIEW
    assert ask(system, turn, body=" ".join(hosts[:-1])).outcome is Outcome.ALLOW


def test_an_approval_covers_a_tool_once(system: System, turn: Turn):
    assert ask(system, turn).outcome is Outcome.ALLOW
    again = ask(system, turn)
    assert again.outcome is Outcome.REQUIRE_REVIEW
    assert turn.approval is not None
    assert again.approval_id not in ("", turn.approval.id)


def test_a_caller_that_cannot_redact_does_not_use_the_approval_up(folder: Path):
    policy = """
    @id("clean-calls") @owner("privacy") @reason("no cards in calls") @outcome("redact") @redact("pii.card")
    forbid (principal, action == Action::"send_email", resource);"""
    (folder / "policies/more.cedar").write_text(policy)
    system = open_system(folder)
    try:
        turn = approved(system, PROMPT)
        request = call(turn.handle, CALL)
        denied = system.gateway.evaluate_sync(request, caller="pep", supported_obligations=[])
        assert (denied.outcome, denied.reasons[0]) == (Outcome.DENY, "obligation_unsupported")
        able = system.gateway.evaluate_sync(request, caller="pep", supported_obligations=["custom"])
        assert able.outcome is Outcome.ALLOW_WITH_REDACTION
    finally:
        system.close()


def test_of_many_that_race_one_is_covered(system: System, turn: Turn):
    async def race() -> list[Decision]:
        asked = (system.gateway.evaluate(call(turn.handle, CALL), caller="pep") for _ in range(8))
        return list(await asyncio.gather(*asked))

    assert sum(decision.outcome is Outcome.ALLOW for decision in asyncio.run(race())) == 1


OWN_REVIEW = """
@id("each-mail") @owner("c") @reason("each mail is read") @outcome("require_review") @approvers("1 of finance")
forbid (principal, action == Action::"send_email", resource);
"""
FORBID = """
@id("no-parties") @owner("c") @reason("no parties")
forbid (principal, action == Action::"send_email", resource) when { context.input.subject == "Party" };
"""


@pytest.mark.parametrize(
    ("policy", "outcome"), [(OWN_REVIEW, Outcome.REQUIRE_REVIEW), (FORBID, Outcome.DENY)], ids=["review", "forbid"]
)
def test_a_policy_that_the_approval_did_not_discharge_decides(folder: Path, policy: str, outcome: Outcome):
    (folder / "policies/more.cedar").write_text(policy)
    opened = open_system(folder)
    try:
        assert ask(opened, approved(opened, PROMPT)).outcome is outcome
    finally:
        opened.close()


def test_a_tool_of_which_nobody_said_what_steers_it_is_not_covered(folder: Path):
    tools = folder / "tools.yaml"
    tools.write_text(tools.read_text().replace("    control: [to]\n", ""))
    opened = open_system(folder)
    try:
        assert ask(opened, approved(opened, PROMPT)).outcome is Outcome.REQUIRE_REVIEW
    finally:
        opened.close()


def test_a_turn_that_nobody_approved_covers_nothing(system: System):
    turn = system.turns.open(prompt(PROMPT), "0" * 32, None)
    assert ask(system, turn).outcome is Outcome.REQUIRE_REVIEW


def test_a_call_that_needs_no_review_leaves_the_approval_unspent(system: System, turn: Turn):
    assert ask(system, turn, "read_file").outcome is Outcome.DENY  # arguments of another tool
    read = system.gateway.evaluate_sync(call(turn.handle, {"path": "q3.csv"}, "read_file"), caller="pep")
    assert (read.outcome, read.approval_id) == (Outcome.ALLOW, "")
    assert ask(system, turn).outcome is Outcome.ALLOW


# --- handles --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("handle", ["turn_0", "alice", "turn_" + "0" * 48])
def test_a_call_for_an_unknown_turn_is_denied_and_recorded(system: System, handle: str):
    decision = system.gateway.evaluate_sync(call(handle, {"path": "q3.csv"}, "read_file"), caller="pep")
    assert decision.outcome is Outcome.DENY
    assert decision.advice
    (row,) = system.audit.activities()
    assert (row.user, row.status) == (handle, "denied")


async def test_a_handle_is_dead_once_its_request_has_ended(system: System):
    with pytest.raises(ZeroDivisionError):
        async with system.gateway.action(prompt("hello"), caller="tests") as governed:
            turn = system.gateway.turn(governed)
            assert system.gateway.turn(governed) is turn
            inside = await system.gateway.evaluate(call(turn.handle, {"path": "a"}, "read_file"), caller="pep")
            raise ZeroDivisionError
    assert inside.outcome is Outcome.ALLOW
    after = await system.gateway.evaluate(call(turn.handle, {"path": "a"}, "read_file"), caller="pep")
    assert after.outcome is Outcome.DENY
    assert system.turns.find(turn.handle) is None


async def test_an_approved_prompt_carries_its_approval_into_the_turn(system: System):
    with pytest.raises(ApprovalRequired) as waiting:
        async with system.gateway.action(prompt(PROMPT), caller="tests"):
            pytest.fail("it ran")
    id = waiting.value.approval_id
    system.approvals.vote(id, voter="bob", roles=("finance",), approve=True, auth="local")
    async with system.gateway.action(prompt(PROMPT), caller="tests") as governed:
        turn = system.gateway.turn(governed)
        decision = await system.gateway.evaluate(call(turn.handle, CALL), caller="pep")
    assert (decision.outcome, decision.approval_id) == (Outcome.ALLOW, id)


async def test_the_approval_that_covers_a_call_of_the_turn_holds_for_its_result(system: System, turn: Turn):
    async with system.gateway.action(call(turn.handle, CALL), caller="claw") as governed:
        assert Results(system.gateway).decide(governed, "sent").made.outcome is Outcome.ALLOW


def test_handles_are_long_and_never_alike(system: System):
    handles = {system.turns.open(prompt("hello"), "t", None).handle for _ in range(100)}
    assert len(handles) == 100
    assert all(len(handle) >= 32 for handle in handles)


def test_a_call_is_decided_for_the_person_through_the_agent_of_the_turn(system: System):
    turn = system.turns.open(prompt("hello", Subject("user", "dora")), "0" * 32, None)
    claimed = msgspec.structs.replace(
        call(turn.handle, {"path": "a"}, "read_file"), context={"agent": {"id": "mallory"}, "session": "s-1"}
    )
    resolved = system.pdp.resolve(claimed)
    assert (resolved.request.subject.id, resolved.request.agent_id) == ("dora", "bot")
    assert resolved.request.context["session"] == "s-1"
    assert resolved.turn is turn


def test_what_was_approved_is_what_the_person_read(system: System):
    """Text that stands only in the agent's own messages is not endorsed by the approval of the prompt."""
    body = {
        "model": "m",
        "messages": [
            {"role": "assistant", "content": "I could write to everyone."},
            {"role": "user", "content": "Send an email to all."},
        ],
    }
    request = Request(ALICE, Action("prompt", {"input": body}), Resource("model", "m"))
    decision = system.gateway.evaluate_sync(request, caller="tests")
    approval: Approval = system.approvals.get(decision.approval_id)
    turn = system.turns.open(request, decision.trace_id, approval)
    assert ask(system, turn, to="everyone").outcome is Outcome.REQUIRE_REVIEW
    assert ask(system, turn, to="all").outcome is Outcome.ALLOW


async def test_a_call_the_gateway_has_asked_about_in_this_turn_is_not_asked_twice(system: System):
    def decisions() -> int:
        return sum(1 for _ in system.store.records(RecordQuery(kinds=("decision",))))

    async with system.gateway.action(prompt("hello"), caller="tests") as governed:
        read = call(system.gateway.turn(governed).handle, {"path": "a.txt"}, "read_file")
        assert (await system.gateway.evaluate(read, caller="pep")).outcome is Outcome.ALLOW
        asked = decisions()
        assert (await system.gateway.propose(read, caller="key")).outcome is Outcome.ALLOW
        assert decisions() == asked
        assert (await system.gateway.propose(read, caller="key")).outcome is Outcome.ALLOW
        assert decisions() == asked + 1
        other = call(read.subject.id, {"path": "b.txt"}, "read_file")
        assert (await system.gateway.propose(other, caller="key")).outcome is Outcome.ALLOW
        assert decisions() == asked + 2

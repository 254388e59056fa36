"""`context.usage`: what policies see of what was used, and that nobody can claim it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from checkrein.compose import System, dry_pdp, open_system, run_cases
from checkrein.flow.quota import Amount
from checkrein.model import Action, BadRequest, Denied, Request, Resource, Subject
from checkrein.model.usage import NANO, Usage, Used
from checkrein.services.pdp import Asked

READ = Request(
    Subject("user", "alice"),
    Action("read_file", {"input": {"path": "q"}}),
    Resource("tool", "f"),
    {"agent": {"id": "bot"}},
)
COSTLY = """
@id("costly") @owner("finance") @reason("enough for today")
forbid (principal, action, resource) when { context.usage.spend_today.greaterThan(decimal("2.5")) };
"""
BUSY = """
@id("busy") @owner("finance") @reason("one at a time")
forbid (principal, action, resource) when { context.usage.agent.running > 0 || context.usage.key.tokens_today > 99 };
"""

Opened = Callable[[str], System]


@pytest.fixture
def opened(folder: Path) -> Iterator[Opened]:
    """Open the system with these policies besides."""
    with contextlib.ExitStack() as stack:

        def open_(policies: str) -> System:
            (folder / "policies/usage.cedar").write_text(policies)
            return stack.enter_context(contextlib.closing(open_system(folder)))

        yield open_


def run(system: System, used: Amount, request: Request = READ, caller: str = "key_1") -> None:
    with system.gateway.action_sync(request, caller=caller) as governed:
        governed.consumed(used, {})


def denied(system: System, request: Request = READ, caller: str = "key_1") -> tuple[str, ...]:
    with pytest.raises(Denied) as error, system.gateway.action_sync(request, caller=caller):
        pytest.fail("it ran")
    return error.value.decision.policies


def test_a_policy_sees_what_the_subject_has_spent(opened: Opened):
    system = opened(COSTLY)
    for _ in range(2):
        run(system, Amount(0, NANO * 5 // 4))
    run(system, Amount(0, 1))
    assert denied(system) == ("costly",)
    bob = msgspec.structs.replace(READ, subject=Subject("user", "bob"))
    run(system, Amount(), bob)


def test_a_policy_sees_the_agent_and_the_key_too(opened: Opened):
    system = opened(BUSY)
    other = msgspec.structs.replace(READ, subject=Subject("user", "bob"))
    with system.gateway.action_sync(READ, caller="key_1"):
        assert denied(system, other, "key_2") == ("busy",)
    run(system, Amount(100), other)
    assert denied(system, msgspec.structs.replace(READ, context={})) == ("busy",)
    run(system, Amount(), READ, "key_2")


def test_what_a_request_claims_of_its_usage_counts_for_nothing(opened: Opened):
    system = opened(COSTLY)
    claims = msgspec.structs.replace(READ, context={"usage": {"spend_today": "100"}})
    assert system.gateway.evaluate_sync(claims, caller="key_1").outcome.runs
    run(system, Amount(0, 3 * NANO))
    claims = msgspec.structs.replace(READ, context={"usage": {"spend_today": "0"}})
    assert denied(system, claims) == ("costly",)


def test_nothing_is_counted_while_no_policy_asks_and_counting_begins_when_one_does(opened: Opened, folder: Path):
    system = opened("")
    run(system, Amount(0, 3 * NANO))
    assert list(system.limits.lines()) == []
    system.close()
    with contextlib.closing(open_system(folder)) as system:
        system.pdp.register(lambda request, context: None, "looks")
        run(system, Amount(0, 3 * NANO))
        assert [str(line.target) for line in system.limits.lines()] == ["agent:bot", "key:key_1", "subject:alice"]


def test_a_policy_test_and_a_dry_run_say_what_was_used(folder: Path):
    (folder / "policies/usage.cedar").write_text(COSTLY)
    (folder / "tests").mkdir(exist_ok=True)
    (folder / "tests/usage.yaml").write_text("""
tests:
  - name: enough is enough
    tool: read_file
    input: {path: q}
    context: {usage: {spend_today: "2.51"}}
    expect: {outcome: deny, policies: [costly]}
  - name: what is not said is nothing
    tool: read_file
    input: {path: q}
    expect: {outcome: allow}
""")
    assert [result.failures for result in run_cases(folder)] == [(), ()]
    pdp = dry_pdp(folder)
    claims = msgspec.structs.replace(READ, context={"usage": {"spend_today": 2.51}})
    assert pdp.decide(Asked(claims)).policies == ("costly",)
    wrong = msgspec.structs.replace(READ, context={"usage": {"spent": 1}})
    assert "`context.usage` has no `spent`" in pdp.decide(Asked(wrong)).reasons[0]


def test_what_is_claimed_is_read_exactly():
    claimed = Usage.claimed({"running": 2, "spend_month": "0.000000001", "agent": {"spend_today": 1.5}, "key": {}})
    assert claimed == Usage(Used(running=2, spend_month=1), Used(spend_today=NANO * 3 // 2), Used())
    assert Usage.claimed(None) == Usage()


@pytest.mark.parametrize(
    "value",
    [
        7,
        [],
        {"spent": 1},
        {"running": -1},
        {"running": 1.5},
        {"running": True},
        {"running": None},
        {"running": 2**60},
        {"spend_today": "much"},
        {"spend_today": "nan"},
        {"spend_today": "1e999999"},
        {"spend_today": "0.0000000001"},
        {"agent": []},
        {"agent": {"agent": {}}},
    ],
)
def test_what_nobody_can_have_used_is_refused(value: object):
    with pytest.raises(BadRequest) as refused:
        Usage.claimed(value)
    assert refused.value.hint

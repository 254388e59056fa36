"""The decision point as a service: what the deployment adds to a request, and what a caller cannot."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Mapping
from pathlib import Path

import msgspec
import pytest

from checkrein.compose import load_bundle
from checkrein.model import Action, BadRequest, Decision, Outcome, Request, Resource, Subject
from checkrein.model.usage import Usage, Used
from checkrein.policy.bundle import Bundle
from checkrein.services.pdp import Asked, Pdp
from checkrein.services.turns import TURN, Turns

NOON_US = 1_700_000_000_000_000


class Clock:
    def now_us(self) -> int:
        return NOON_US


class Facts:
    """Says that bob is in finance, and labels what it is told to."""

    def __init__(self) -> None:
        self.given: tuple[str, ...] = ()

    def roles(self, subject: Subject) -> tuple[str, ...]:
        return ("finance",) if subject.id == "bob" else ()

    def labels(self, request: Request) -> tuple[str, ...]:
        return self.given


@pytest.fixture
def bundle(folder: Path) -> Bundle:
    return load_bundle(folder)


@pytest.fixture
def facts() -> Facts:
    return Facts()


@pytest.fixture
def pdp(bundle: Bundle, facts: Facts) -> Pdp:
    return Pdp(bundle, facts, Clock(), environment="test", turns=Turns())


def read(who: str = "alice", kind: str = "user", **context: object) -> Request:
    return Request(Subject(kind, who), Action("read_file", {"input": {"path": "a"}}), Resource("tool", "f"), context)


def seen(pdp: Pdp) -> list[tuple[Request, Mapping[str, object]]]:
    """What policies are shown, decision by decision."""
    shown: list[tuple[Request, Mapping[str, object]]] = []
    pdp.register(lambda request, context: shown.append((request, context)), "witness")
    return shown


def test_a_decision_has_ids_of_its_own_and_the_bundle_it_was_made_with(pdp: Pdp):
    first, second = pdp.decide(Asked(read())), pdp.decide(Asked(read()))
    assert first.outcome is Outcome.ALLOW
    assert first.bundle == pdp.bundle.digest
    assert first.evaluation_id.startswith("evl_")
    assert len({first.evaluation_id, second.evaluation_id, first.trace_id, second.trace_id}) == 4
    assert pdp.decide(Asked(read()), trace_id="f" * 32).trace_id == "f" * 32


def test_policies_see_the_deployments_environment_and_time_and_not_the_callers(pdp: Pdp):
    shown = seen(pdp)
    pdp.decide(Asked(read(environment="production", time={"hour": 3}, risk={"level": "green"}, labels=["safe"])))
    context = shown[0][1]
    assert context["environment"] == "test"
    assert context["time"] == {"hour": 22, "weekday": "tuesday", "date": "2023-11-14"}
    assert context["labels"] == ["effect:read", "tool:read_file"]
    assert "approval" not in context


def test_roles_and_labels_of_the_deployment_count(folder: Path, facts: Facts):
    (folder / "policies/more.cedar").write_text(
        '@id("finance-only") @owner("f") @reason("finance only") '
        'forbid (principal, action, resource) unless { principal in Role::"finance" };'
        '@id("no-secrets") @owner("f") @reason("no secrets") '
        'forbid (principal, action, resource) when { context.labels.contains("top-secret") };'
    )
    pdp = Pdp(load_bundle(folder), facts, Clock(), environment="test", turns=Turns())
    assert pdp.decide(Asked(read("alice"))).policies == ("finance-only",)
    assert pdp.decide(Asked(read("bob"))).outcome is Outcome.ALLOW
    facts.given = ("top-secret",)
    assert pdp.decide(Asked(read("bob"))).policies == ("no-secrets",)


DEPENDS = """
@id("answers") @owner("a") @reason("answers") permit (principal, action == Action::"prompt", resource);
@id("not-eve") @owner("a") @reason("not eve") forbid (principal == User::"eve", action == Action::"prompt", resource);
@id("not-new") @owner("a") @reason("not new") forbid (principal, action == Action::"prompt", resource == Model::"new");
@id("not-bot") @owner("a") @reason("not bot") forbid (principal, action == Action::"prompt", resource)
when { context.agent.id == "bot" };
@id("by-day") @owner("a") @reason("by day") forbid (principal, action == Action::"prompt", resource)
when { context.time.hour < 6 };
@id("finance") @owner("a") @reason("finance") @outcome("redact") @redact("pii")
forbid (principal in Role::"finance", action == Action::"prompt", resource);
@id("labelled") @owner("a") @reason("labelled") forbid (principal, action == Action::"prompt", resource)
when { context.labels.contains("top-secret") || context.labels.contains("pii.card") };
@id("spent") @owner("a") @reason("spent") forbid (principal, action == Action::"prompt", resource)
when { context.usage.requests_minute > 5 };
"""


def test_an_answer_is_decided_as_if_none_like_it_had_been_decided_before(folder: Path, facts: Facts):
    (folder / "policies/main.cedar").write_text(DEPENDS)
    bundle = load_bundle(folder)
    asked = [
        (
            Request(
                Subject("user", who),
                Action("prompt", {"direction": "answer", "input": {"model": model, "chars": 0, "found": found}}),
                Resource("model", model),
                {"agent": {"id": agent}},
            ),
            labels,
            NOON_US + hours * 3_600_000_000,
            Usage(subject=Used(requests_minute=used)),
        )
        for who, model, agent, found, labels, hours, used in itertools.product(
            ("alice", "bob", "eve"),
            ("old", "new"),
            ("bot", "aide"),
            ({}, {"pii.card": 1}),
            ((), ("top-secret",)),
            (0, 1, 8),
            (5, 6),
        )
    ]
    old = Pdp(bundle, facts, Clock(), environment="test", turns=Turns())
    outcomes = set()
    for request, facts.given, now_us, usage in [*asked, *asked]:
        new = Pdp(bundle, facts, Clock(), environment="test", turns=Turns())
        made, alone = (
            msgspec.structs.replace(
                pdp.decide(Asked(request, usage=usage), now_us=now_us, trace_id="0"), evaluation_id=""
            )
            for pdp in (old, new)
        )
        assert made == alone
        outcomes.add((made.outcome, made.policies))
    assert len(outcomes) > 8


def test_a_turn_that_is_not_open_is_denied_whatever_policy_says(pdp: Pdp):
    asked = pdp.resolve(read("turn_0", TURN))
    decision = pdp.decide(asked)
    assert (decision.outcome, decision.policies, asked.turn) == (Outcome.DENY, (), None)
    assert decision.bundle == pdp.bundle.digest


def test_a_subject_that_is_no_turn_is_left_as_it_is(pdp: Pdp):
    request = read()
    assert pdp.resolve(request).request is request


def test_an_approval_is_named_only_where_it_let_something_run(pdp: Pdp, bundle: Bundle):
    mail = Request(
        Subject("user", "alice"),
        Action("send_email", {"input": {"to": "a", "subject": "s", "body": "b"}}),
        Resource("tool", "m"),
    )
    first = pdp.decide(Asked(mail))
    assert (first.outcome, first.policies, first.approval_id) == (Outcome.REQUIRE_REVIEW, ("mail-review",), "")
    approval = _approval(mail, first)
    assert pdp.decide(Asked(mail), discharged=approval).approval_id == approval.id
    other = msgspec.structs.replace(approval, policies=("another",))
    still = pdp.decide(Asked(mail), discharged=other)
    assert (still.outcome, still.approval_id) == (Outcome.REQUIRE_REVIEW, "")


def _approval(request: Request, decision: Decision):  # type: ignore[no-untyped-def]
    from checkrein.services.approvals import Approvals
    from checkrein.storage.memory import MemoryStore

    return Approvals(MemoryStore(Clock()), Clock(), b"k" * 32).fresh(request, decision, NOON_US)


def test_a_new_bundle_counts_from_the_next_decision_on(folder: Path, pdp: Pdp):
    before = pdp.bundle.digest
    (folder / "policies/more.cedar").write_text(
        '@id("none") @owner("f") @reason("nobody reads") forbid (principal, action == Action::"read_file", resource);'
    )
    pdp.replace(load_bundle(folder))
    decision = pdp.decide(Asked(read()))
    assert (decision.outcome, decision.policies) == (Outcome.DENY, ("none",))
    assert decision.bundle == pdp.bundle.digest != before


def test_bundles_swapped_while_others_decide_never_mix(folder: Path, pdp: Pdp, bundle: Bundle):
    (folder / "policies/main.cedar").write_text(
        '@id("none") @owner("f") @reason("nobody") forbid (principal, action, resource);'
    )
    strict = load_bundle(folder)
    stop = threading.Event()

    def swap() -> None:
        while not stop.is_set():
            pdp.replace(strict)
            pdp.replace(bundle)

    swapper = threading.Thread(target=swap)
    swapper.start()
    try:
        decisions = [pdp.decide(Asked(read())) for _ in range(300)]
    finally:
        stop.set()
        swapper.join()
    expected = {bundle.digest: Outcome.ALLOW, strict.digest: Outcome.DENY}
    assert all(decision.outcome is expected[decision.bundle] for decision in decisions)


def test_a_python_policy_has_a_name_and_no_two_have_the_same(pdp: Pdp):
    def mine(request: Request, context: Mapping[str, object]) -> Decision | None:
        return Decision.deny("no")

    assert pdp.register(mine) is mine
    assert pdp.decide(Asked(read())).policies == ("python:mine",)
    for again in (mine, lambda request, context: None):
        with pytest.raises(BadRequest):
            pdp.register(again)

"""The policy decision point."""

from __future__ import annotations

import base64
from collections.abc import Callable

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from checkrein.decide.classify import Classifier
from checkrein.decide.evaluate import Situation, evaluate, redact_problems
from checkrein.model import Advice, Decision, Obligation, Outcome, PolicyError, Request, Requirement
from checkrein.model.requirement import Factor
from checkrein.model.usage import Usage, Used
from checkrein.policy.bundle import Bundle

Make = Callable[..., Request]
Decide = Callable[..., Decision]

ALL = '@id("all") @reason("anyone may") permit (principal, action, resource);'
FORBID = '@id("no") @reason("never") @alternative("ask a person") forbid (principal, action, resource);'
REVIEW = """@id("look") @reason("people look") @outcome("require_review") @approvers("1 of finance") @expires("1h")
forbid (principal, action, resource);"""
REVIEW_TWO = """@id("look-twice") @outcome("require_review") @approvers("2 of finance and 1 of legal") @expires("2h")
forbid (principal, action, resource);"""
REDACT = """@id("clean") @reason("no personal data") @outcome("redact") @redact("pii.email,pii.card")
forbid (principal, action, resource);"""


def test_default_is_deny(decide: Decide, prompt: Make) -> None:
    made = decide(prompt("hello"), '@id("other") permit (principal, action == Action::"note", resource);')
    assert made.outcome is Outcome.DENY
    assert made.reasons == ("no policy grants this",)
    assert made.policies == ()


def test_a_permit_grants_and_says_why(decide: Decide, prompt: Make) -> None:
    made = decide(prompt("hello"), ALL)
    assert (made.outcome, made.policies, made.reasons) == (Outcome.ALLOW, ("all",), ("anyone may",))
    assert made.bundle.startswith("sha256:")


def test_a_duty_never_grants(decide: Decide, prompt: Make) -> None:
    for duty in (REVIEW, REDACT):
        assert decide(prompt("hello"), duty).outcome is Outcome.DENY


def test_a_forbid_proposes_the_alternative(decide: Decide, prompt: Make) -> None:
    made = decide(prompt("hello"), ALL + FORBID + REVIEW + REDACT)
    assert (made.outcome, made.policies, made.reasons) == (Outcome.DENY, ("no",), ("never",))
    assert made.advice == (Advice("safe_alternative", "ask a person"),)
    assert (made.requirement, made.obligations) == (None, ())


def test_reviews_ask_for_all_that_any_of_them_asks(decide: Decide, prompt: Make) -> None:
    made = decide(prompt("hello"), ALL + REVIEW + REVIEW_TWO + REDACT)
    assert (made.outcome, made.policies) == (Outcome.REQUIRE_REVIEW, ("look", "look-twice"))
    assert made.requirement == Requirement((Factor(2, "finance"), Factor(1, "legal")), 3600)
    assert made.obligations == ()


def test_a_redaction_is_an_obligation(decide: Decide, prompt: Make) -> None:
    made = decide(prompt("hello"), ALL + REDACT)
    assert made.outcome is Outcome.ALLOW_WITH_REDACTION
    assert made.obligations == (Obligation.redact("clean", ("pii.card", "pii.email")),)


def test_an_approval_takes_out_its_reviews_only(decide: Decide, prompt: Make) -> None:
    policies = ALL + REVIEW + REVIEW_TWO
    first = decide(prompt("hello"), policies, discharged=frozenset({"look"}))
    assert (first.outcome, first.policies) == (Outcome.REQUIRE_REVIEW, ("look-twice",))
    both = decide(prompt("hello"), policies, discharged=frozenset({"look", "look-twice"}))
    assert both.outcome is Outcome.ALLOW


def test_redactions_survive_an_approval(decide: Decide, prompt: Make) -> None:
    made = decide(prompt("hello"), ALL + REVIEW + REDACT, discharged=frozenset({"look", "clean"}))
    assert made.outcome is Outcome.ALLOW_WITH_REDACTION
    assert made.redact == ("pii.card", "pii.email")


def test_discharging_a_review_never_overrides_a_forbid(decide: Decide, prompt: Make) -> None:
    made = decide(prompt("hello"), ALL + REVIEW + FORBID, discharged=frozenset({"look", "no"}))
    assert (made.outcome, made.policies) == (Outcome.DENY, ("no",))


def test_an_erring_policy_denies_and_is_named(decide: Decide, call: Make) -> None:
    policy = '@id("errs") forbid (principal, action == Action::"pay", resource) when { context.input.amount + 1 > 5 };'
    made = decide(call("pay", {"to": "x", "amount": 2**63 - 1}), ALL + policy)
    assert made.outcome is Outcome.DENY
    assert made.errors == (PolicyError("errs", "integer overflow"),)
    assert made.reasons == ("`errs` could not be evaluated",)


@pytest.mark.parametrize(
    ("tool", "input", "message"),
    [
        ("frobnicate", {}, "unknown tool `frobnicate`"),
        ("external", {}, "unknown tool `external`"),
        ("pay", {"to": "x"}, "the argument `amount` is missing"),
        ("pay", {"to": "x", "amount": "1"}, "the argument `amount` is not of type `integer`"),
        ("pay", {"to": "x", "amount": True}, "the argument `amount` is not of type `integer`"),
        ("pay", {"to": "x", "amount": 1, "force": True}, "the argument `force` is not declared"),
        ("pay", {"to": "x", "amount": 2**63}, "an integer is beyond 64 bits"),
        ("pay", {"to": "x", "amount": 1, "rate": 0.00001}, "a number needs more places than policies have"),
        ("pay", {"to": "x", "amount": 1, "rate": 1e300}, "a number needs more places than policies have"),
        ("pay", {"to": "x", "amount": 1, "rate": float("nan")}, "a number is not finite"),
        ("pay", {"to": "x", "amount": 1, "extra": {"deep": [2**64]}}, "an integer is beyond 64 bits"),
        ("get_weather", {"at": float("inf")}, "a number is not finite"),
    ],
)
def test_what_policies_cannot_be_asked_is_denied(
    decide: Decide, call: Make, tool: str, input: object, message: str
) -> None:
    made = decide(call(tool, input), ALL)
    assert made.outcome is Outcome.DENY
    assert made.reasons == (message,)
    assert made.errors == (PolicyError("request", message),)


def test_a_null_is_an_absent_argument_and_a_float_is_a_decimal(decide: Decide, call: Make) -> None:
    policy = """@id("rate") permit (principal, action == Action::"pay", resource)
    when { context.input has rate && context.input.rate.lessThan(decimal("0.5")) && !(context.input has tags) };"""
    arguments = {"to": "x", "amount": 1, "tags": None}
    assert decide(call("pay", {**arguments, "rate": 0.25}), policy).outcome is Outcome.ALLOW
    assert decide(call("pay", {**arguments, "rate": 1}), policy).outcome is Outcome.DENY
    assert decide(call("pay", {**arguments, "rate": None}), policy).outcome is Outcome.DENY


def test_objects_are_not_shown_so_they_cannot_pose_as_entities(decide: Decide, call: Make) -> None:
    for extra in ({"__entity": {"type": "Role", "id": "x"}}, {"__extn": {"fn": "nope"}}, {"__expr": "x"}):
        assert decide(call("pay", {"to": "x", "amount": 1, "extra": extra}), ALL).outcome is Outcome.ALLOW


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"subject": {"type": "turn", "id": "x"}}, "the subject's type is unknown"),
        ({"context": {"environment": 1}}, "`context.environment` is not text"),
        ({"context": {"agent": "bot"}}, "`context.agent` is not an object"),
    ],
)
def test_an_odd_subject_or_context_is_denied(
    decide: Decide, call: Make, members: dict[str, object], message: str
) -> None:
    made = decide(call("note", {"text": "x"}, **members), ALL)
    assert (made.outcome, made.reasons) == (Outcome.DENY, (message,))


SUBJECT = """@id("seen") permit (principal is Agent in Role::"staff", action == Action::"mail", resource is Tool)
when { principal has email && principal.email == "a@example.com" && principal.hasTag("team") }
when { principal.getTag("team") == "x" };"""
SEEN = SUBJECT + "".join(
    f'@id("misses-{place}") forbid (principal, action == Action::"mail", resource) unless {{ {condition} }};'
    for place, condition in enumerate(
        (
            'context.agent.id == "bot" && context.agent has version && context.agent.version == "3"',
            'context has environment && context.environment == "production"',
            'context has scope && context.scope == "crm" && context has session && context.session == "s-1"',
            'context.time == {hour: 9, weekday: "monday", date: "2026-01-05"}',
            'context.risk == {level: "amber", score: 45}',
            'context.labels == ["tool:mail", "effect:external", "broadcast"]',
            'context has provenance && context.provenance has to && context.provenance.to == "prompt"',
            'context.usage.requests_today == 7 && context.usage.spend_today == decimal("1.5001")',
            'context.usage.agent.running == 2 && context.usage.key.spend_month == decimal("0.0")',
            'context has approval && context.approval.id == "apr_1"',
            'context.input == {to: "bob", body: "hi"}',
            'action in Action::"mcp" && action in Action::"external" && action in Action::"tool"',
        )
    )
)


def test_policies_see_the_request_and_the_facts(decide: Decide, call: Make) -> None:
    request = call(
        "mail",
        {"to": "bob", "body": "hi"},
        subject={"type": "agent", "id": "a", "properties": {"email": "a@example.com", "team": "x", "n": 1}},
        context={"agent": {"id": "bot", "version": "3"}, "environment": "x", "scope": "crm", "session": "s-1"},
    )
    facts = {
        "now_us": 1_767_603_600_000_000,
        "roles": ("staff",),
        "labels": ("broadcast",),
        "environment": "production",
        "prompt": "mail bob",
        "approval_id": "apr_1",
        "usage": Usage(Used(requests_today=7, spend_today=1_500_000_001), Used(running=2)),
        "protocol": "mcp",
    }
    made = decide(request, SEEN, **facts)
    assert (made.outcome, made.policies, made.errors) == (Outcome.ALLOW, ("seen",), ())
    assert "broadcast" in made.labels
    assert decide(request, SEEN, **{**facts, "roles": ()}).outcome is Outcome.DENY


def test_the_roles_of_a_subject_are_those_it_brings_and_those_the_deployment_gives(decide: Decide, call: Make) -> None:
    policy = """@id("both") permit (principal in Role::"a", action, resource) when { principal in Role::"b" };"""
    brings = {"type": "user", "id": "x", "properties": {"roles": ["a"]}}
    request = call("note", {"text": "x"}, subject=brings)
    assert decide(request, policy, roles=("b",)).outcome is Outcome.ALLOW
    assert decide(request, policy).outcome is Outcome.DENY


def test_policies_see_facts_about_a_prompt_and_not_its_text(decide: Decide, prompt: Make) -> None:
    policy = """@id("short") permit (principal, action == Action::"prompt", resource is Model)
    when { context.input.chars < 20 && context.input.messages == 1 && context.input.model == "m" };"""
    assert decide(prompt("hello", model="m"), policy).outcome is Outcome.ALLOW
    assert decide(prompt("hello" * 9, model="m"), policy).outcome is Outcome.DENY


# Policies written in Python.


def test_a_python_policy_grants_forbids_reviews_and_redacts(decide: Decide, prompt: Make) -> None:
    nothing = '@id("nothing") permit (principal, action == Action::"note", resource);'
    granted = decide(prompt("hi"), nothing, (("mine", lambda r, c: Decision.allow("because")),))
    assert (granted.outcome, granted.policies, granted.reasons) == (Outcome.ALLOW, ("python:mine",), ("because",))
    denied = decide(prompt("hi"), ALL, (("mine", lambda r, c: Decision.deny("no", alternative="wait")),))
    assert (denied.outcome, denied.policies) == (Outcome.DENY, ("python:mine",))
    assert denied.advice == (Advice("safe_alternative", "wait"),)
    review = Decision.review("look", approvers="1 of legal")
    reviewed = decide(prompt("hi"), ALL + REVIEW, (("mine", lambda r, c: review),))
    assert reviewed.policies == ("look", "python:mine")
    assert str(reviewed.requirement) == "1 of finance and 1 of legal"
    redact = Decision(outcome=Outcome.ALLOW_WITH_REDACTION, obligations=(Obligation.redact("x", ("pii.email",)),))
    redacted = decide(prompt("hi"), ALL, (("mine", lambda r, c: redact),))
    assert (redacted.outcome, redacted.redact) == (Outcome.ALLOW_WITH_REDACTION, ("pii.email",))
    assert decide(prompt("hi"), nothing, (("mine", lambda r, c: redact),)).outcome is Outcome.DENY


def test_a_python_policy_that_abstains_changes_nothing(decide: Decide, prompt: Make) -> None:
    made = decide(prompt("hi"), ALL, (("mine", lambda r, c: None),))
    assert made == decide(prompt("hi"), ALL)


def _fails(request: Request, context: object) -> Decision | None:
    raise ValueError("a secret stands here")


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        (_fails, "raised ValueError"),
        (lambda r, c: True, "returned `bool`, not a Decision or None"),
        (lambda r, c: Decision(outcome="allow"), "returned `Decision`, not a Decision or None"),
        (lambda r: None, "raised TypeError"),
        (lambda r, c: Decision(outcome=Outcome.REQUIRE_REVIEW), "the review names no approvers"),
        (
            lambda r, c: Decision(outcome=Outcome.ALLOW_WITH_REDACTION),
            "the redaction names no class that a detector finds",
        ),
        (
            lambda r, c: Decision(outcome=Outcome.ALLOW, errors=(PolicyError("x", "y"),)),
            "returned a decision with errors",
        ),
    ],
)
def test_a_failing_python_policy_denies(decide: Decide, prompt: Make, policy: object, message: str) -> None:
    made = decide(prompt("hi"), ALL, (("mine", policy),))
    assert made.outcome is Outcome.DENY
    assert made.errors == (PolicyError("python:mine", message),)
    assert made.reasons == ("`python:mine` could not be evaluated",)


def test_a_python_policy_gets_copies(decide: Decide, call: Make) -> None:
    def meddle(request: Request, context: dict[str, object]) -> None:
        request.action.properties["input"]["text"] = "other"
        context["labels"] = []

    def check(request: Request, context: dict[str, object]) -> Decision:
        return Decision.allow() if context["labels"] else Decision.deny("labels are gone")

    request = call("note", {"text": "x"})
    assert decide(request, ALL, (("meddle", meddle), ("check", check))).outcome is Outcome.ALLOW
    assert request.action.input == {"text": "x"}


def test_two_python_policies_of_one_name_deny(decide: Decide, prompt: Make) -> None:
    allow = ("mine", lambda r, c: Decision.allow())
    assert decide(prompt("hi"), ALL, (allow, allow)).outcome is Outcome.DENY


# What comes back is decided as what led to it.


def result(asked: Request, **found: object) -> Request:
    """The result of a call, in which so much was found."""
    properties = {**asked.action.properties, "direction": "answer", "found": found}
    return msgspec.structs.replace(asked, action=msgspec.structs.replace(asked.action, properties=properties))


COUNTS = st.dictionaries(
    st.sampled_from(["pii.email", "pii.card", "secret.jwt", "net.url", "opaque"]), st.integers(1, 9)
)


@given(COUNTS, st.sampled_from(["", "jane@example.com", "4111 1111 1111 1111"]))
def test_a_result_bears_the_labels_of_its_call_and_of_what_was_found_in_it(
    classifier: Classifier, call: Make, found: dict[str, int], text: str
) -> None:
    asked = call("note", {"text": text})
    before, after = classifier.classify(asked), classifier.classify(result(asked, **found))
    assert {*before.labels, *found} <= {*after.labels}
    assert after.risk.score >= before.risk.score


def test_policy_tells_a_result_from_its_call(decide: Decide, call: Make) -> None:
    policy = ALL + '@id("no-mail") forbid (principal, action, resource) '
    policy += 'when { context.answer && context.labels.contains("pii.email") };'
    asked = call("note", {"text": "jane@example.com"})
    assert decide(asked, policy).outcome is Outcome.ALLOW
    assert decide(result(asked), policy).outcome is Outcome.DENY
    assert decide(result(call("note", {"text": "hi"})), policy).outcome is Outcome.ALLOW


@pytest.mark.parametrize("found", [{"pii.emial": 1}, {"pii.email": "2"}, {"pii.email": True}, {"pii.email": 1.5}])
def test_a_result_that_does_not_say_what_was_found_is_denied(
    decide: Decide, call: Make, found: dict[str, object]
) -> None:
    assert decide(result(call("note", {"text": "hi"}), **found), ALL).outcome is Outcome.DENY


# Whatever happens, the answer is a decision.


def test_a_redaction_that_no_detector_can_do_denies(
    bundle: Callable[[str], Bundle], decide: Decide, prompt: Make
) -> None:
    typo = ALL + '@id("typo") @outcome("redact") @redact("pii.emial") forbid (principal, action, resource);'
    made = decide(prompt("hi"), typo)
    assert (made.outcome, made.errors) == (Outcome.DENY, (PolicyError("typo", "no detector finds `pii.emial`"),))
    assert redact_problems(bundle(typo)) == (
        "policies/all.cedar:1: `typo` redacts `pii.emial`, which no detector finds",
    )


def test_a_classifier_of_another_bundle_denies(
    bundle: Callable[[str], Bundle], classifier: Classifier, prompt: Make
) -> None:
    made = evaluate(prompt("hi"), bundle(ALL), Situation(now_us=0), classifier=classifier)
    assert (made.outcome, made.reasons) == (Outcome.DENY, ("the classifier belongs to another bundle",))


def test_an_unexpected_exception_denies_and_tells_no_value(decide: Decide, prompt: Make) -> None:
    made = decide(prompt("hi"), ALL, now_us=10**30)
    assert made.outcome is Outcome.DENY
    assert made.errors == (PolicyError("request", "evaluation failed: OverflowError"),)


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text()),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(), inner, max_size=3)),
    max_leaves=6,
)
NAMES = st.one_of(
    st.sampled_from(["prompt", "pay", "mail", "look", "note", "get_x", "llm", "\ud800"]), st.text(min_size=1)
)
KEYS = st.sampled_from(["to", "amount", "rate", "tags", "extra", "query", "text", "body", "messages", "__entity"])
POLICIES = st.lists(st.sampled_from([ALL, REVIEW, REVIEW_TWO, REDACT, FORBID]), unique=True, min_size=1).map("".join)


@given(
    subject=st.dictionaries(st.sampled_from(["roles", "email", "x"]), JSON),
    kind=st.sampled_from(["user", "agent", "service", "model", "x"]),
    name=NAMES,
    input=st.dictionaries(st.one_of(KEYS, st.text()), JSON, max_size=4),
    context=st.dictionaries(st.sampled_from(["agent", "environment", "session", "x"]), JSON),
    policies=POLICIES,
)
def test_evaluate_never_raises_for_a_parsed_request(
    decide: Decide,
    subject: dict[str, object],
    kind: str,
    name: str,
    input: dict[str, object],
    context: dict[str, object],
    policies: str,
) -> None:
    request = Request.from_json(
        {
            "subject": {"type": kind, "id": "x", "properties": subject},
            "action": {"name": name[:512], "properties": {"input": input}},
            "resource": {"type": "tool", "id": "x"},
            "context": context,
        }
    )
    made = decide(request, policies)
    assert isinstance(made.outcome, Outcome)
    assert made.outcome is not Outcome.DENY or made.reasons


@given(policies=POLICIES, discharged=st.frozensets(st.sampled_from(["look", "look-twice", "no", "clean", "all"])))
def test_deny_trumps_everything(decide: Decide, prompt: Make, policies: str, discharged: frozenset[str]) -> None:
    deny = (("mine", lambda r, c: Decision.deny("no")), ("other", lambda r, c: Decision.allow()))
    assert decide(prompt("hi"), policies, deny, discharged=discharged).outcome is Outcome.DENY
    if FORBID in policies or ALL not in policies:
        assert decide(prompt("hi"), policies, discharged=discharged).outcome is Outcome.DENY
    elif REDACT in policies:
        assert decide(prompt("hi"), policies, discharged=discharged).outcome is not Outcome.ALLOW


def test_a_redaction_of_what_cannot_be_read_is_denied(decide: Decide, call: Make) -> None:
    policies = """
    @id("all") permit (principal, action, resource);
    @id("out") @outcome("redact") @redact("pii") forbid (principal, action, resource);
    """
    text = "jane@example.com"
    for _ in range(9):
        text = base64.b64encode(text.encode()).decode()
    made = decide(call("note", {"text": text}), policies)
    assert made.outcome is Outcome.DENY
    assert made.reasons == ("a part of it is encoded too deeply to be redacted",)
    assert "opaque" in made.labels
    assert decide(call("note", {"text": "hello"}), policies).outcome is Outcome.ALLOW_WITH_REDACTION
    only_cards = policies.replace(
        "forbid (principal, action, resource);",
        'forbid (principal, action, resource) when { context.labels.contains("pii.card") };',
    )
    assert decide(call("note", {"text": text}), only_cards).outcome is Outcome.DENY
    assert decide(call("note", {"text": "hello"}), only_cards).outcome is Outcome.ALLOW

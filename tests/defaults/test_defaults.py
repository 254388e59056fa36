"""The folder that `checkrein init` writes decides what it promises."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from checkrein.config import load
from checkrein.decide.classify import Classifier
from checkrein.decide.evaluate import Situation, evaluate, redact_problems
from checkrein.defaults import contents, write
from checkrein.model import Decision, Outcome, Request
from checkrein.policy.bundle import Bundle
from checkrein.policy.cases import run

BUNDLE = Bundle.from_files(contents())
CLASSIFIER = Classifier(BUNDLE.manifests)
GOLDEN = [json.loads(line) for line in contents()["golden/actions.jsonl"].decode().splitlines()]

Ask = Callable[..., Decision]


def decide(request: Request, now_us: int = 0, **facts: object) -> Decision:
    return evaluate(request, BUNDLE, Situation(now_us=now_us, **facts), classifier=CLASSIFIER)  # type: ignore[arg-type]


def prompt(text: str, *roles: str) -> Request:
    body = {"messages": [{"role": "user", "content": text}]}
    return _request("prompt", body, "model", roles or ("staff",))


def call(tool: str, input: dict[str, object], *roles: str) -> Request:
    return _request(tool, input, "tool", roles or ("staff",))


def _request(action: str, input: dict[str, object], kind: str, roles: tuple[str, ...]) -> Request:
    return Request.from_json(
        {
            "subject": {"type": "user", "id": "demo", "properties": {"roles": list(roles)}},
            "action": {"name": action, "properties": {"input": input}},
            "resource": {"type": kind, "id": action},
        }
    )


def test_the_folder_loads_without_a_warning() -> None:
    assert BUNDLE.warnings == ()
    assert redact_problems(BUNDLE) == ()


@pytest.mark.parametrize(
    ("text", "outcome"),
    [
        ("who is at 203.0.113.7", Outcome.ALLOW_WITH_REDACTION),
        ("who is at 2001:db8::8a2e:370:7334", Outcome.ALLOW_WITH_REDACTION),
        ("what is new at docs.example.com", Outcome.ALLOW),
        ("read https://docs.example.com/a", Outcome.ALLOW),
    ],
)
def test_models_see_no_address_of_a_persons_machine_but_names_of_hosts(text: str, outcome: Outcome) -> None:
    made = decide(prompt(text))
    assert made.outcome is outcome
    assert ("pii.ip" in made.labels) is (outcome is Outcome.ALLOW_WITH_REDACTION)


@pytest.mark.parametrize("case", BUNDLE.cases, ids=lambda case: case.name)
def test_its_policy_tests_pass(case: object) -> None:
    (result,) = run([case], decide)  # type: ignore[list-item]
    assert result.failures == ()


def test_every_policy_is_satisfied_in_some_policy_test() -> None:
    """`staff-email` grants what is then reviewed, so it is looked for in what each case satisfies."""
    decided = {id for case in BUNDLE.cases for id in decide(case.request, case.now_us).policies}
    reviews = frozenset({"external-review", "personal-data-review", "undeclared-review", "pay-large"})
    for case in BUNDLE.cases:
        decided.update(decide(case.request, case.now_us, discharged=reviews).policies)
    assert decided == {policy.id for policy in BUNDLE.policies.policies}


@pytest.mark.parametrize("line", GOLDEN, ids=lambda line: line["request"]["action"]["name"])
def test_the_golden_actions_are_decided_as_expected(line: dict[str, object]) -> None:
    request = line["request"]
    assert isinstance(request, dict)
    assert decide(Request.from_json(request)).outcome.name == line["expect"]


PAYROLL = "Send an email to all employees that payroll will be delayed by 2 days."
CALL: dict[str, object] = {"to": "all employees", "subject": "Payroll", "body": "Payroll will be delayed by 2 days."}


def test_the_prompt_and_the_call_that_follows_meet_one_review_so_one_approval_answers_both() -> None:
    asked, called = decide(prompt(PAYROLL)), decide(call("send_email", CALL))
    assert asked.policies == called.policies == ("external-review",)
    assert set(called.labels) <= set(asked.labels)
    approved = decide(call("send_email", CALL), discharged=frozenset(asked.policies), endorsed=PAYROLL)
    assert approved.outcome is Outcome.ALLOW


def test_an_approved_email_still_loses_its_card_number() -> None:
    letter = call("send_email", {"to": "x", "subject": "x", "body": "card 4111 1111 1111 1111"})
    approved = decide(letter, discharged=frozenset({"external-review"}))
    assert approved.outcome is Outcome.ALLOW_WITH_REDACTION
    assert approved.redact == ("pii.card", "pii.ssn")


@pytest.mark.parametrize(
    ("text", "outcome"),
    [
        ("TRANSFER   the quarterly FUNDS to ACME", Outcome.DENY),
        ("Tr\u200bansfer fu\u200bnds", Outcome.DENY),
        ("could you wire some money to our landlord", Outcome.DENY),
        ("pay the attached invoice", Outcome.DENY),
        ("make a payment to ACME", Outcome.DENY),
        ("move all of the funds out", Outcome.DENY),
        ("please execute this command: ls", Outcome.DENY),
        ("archive my documents and upload them somewhere", Outcome.DENY),
        ("email everybody that we are closed", Outcome.REQUIRE_REVIEW),
        ("Sending an e-mail to the press now", Outcome.REQUIRE_REVIEW),
        ("send out the newsletter", Outcome.REQUIRE_REVIEW),
        ("give me the data of all our customers", Outcome.REQUIRE_REVIEW),
        ("Pay attention. The invoice is in the folder.", Outcome.ALLOW),
        ("How do I write a good email?", Outcome.ALLOW),
        ("Explain the word transfer", Outcome.ALLOW),
    ],
)
def test_paraphrases_are_caught_and_ordinary_words_are_not(text: str, outcome: Outcome) -> None:
    assert decide(prompt(text)).outcome is outcome


def test_red_prompts_come_with_a_safe_alternative() -> None:
    for text in ("Transfer funds from treasury to vendor account.", "Run a shell command"):
        assert [advice.type for advice in decide(prompt(text)).advice] != []


def test_a_role_that_nobody_gave_grants_nothing() -> None:
    assert decide(prompt("hello", "visitor")).outcome is Outcome.DENY
    assert decide(call("transfer_funds", {"to": "ACME", "amount": 1}, "visitor")).outcome is Outcome.DENY


def test_the_configuration_loads_as_it_is_and_with_its_examples_uncommented(tmp_path: Path) -> None:
    write(tmp_path)
    file = tmp_path / "checkrein.toml"
    assert load(tmp_path, environ={}).config.environment == "development"
    example = re.compile(r"^# (?=\[|\w+ = )", re.MULTILINE)
    file.write_text(example.sub("", file.read_text()))
    config = load(tmp_path, environ={}).config
    assert config.upstreams["default"].api_key_env


def test_somebody_holds_each_role_that_a_policy_asks_for(tmp_path: Path) -> None:
    write(tmp_path)
    people = load(tmp_path, environ={}).config.people.values()
    for policy in BUNDLE.policies.policies:
        for factor in policy.requirement.factors if policy.requirement else ():
            assert sum(factor.role in person.roles for person in people) >= factor.count, policy.id

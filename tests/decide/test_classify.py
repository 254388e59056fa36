"""Labels and risk of prompts and tool calls."""

from __future__ import annotations

import base64
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from checkrein.decide.classify import Classifier
from checkrein.decide.provenance import Provenance
from checkrein.model import Level, Request
from checkrein.policy.manifest import Manifests

Make = Callable[..., Request]


@pytest.mark.parametrize(
    "text",
    [
        "please pay the attached invoice",
        "PAY   THE\nINVOICE",
        "p\u200bay this in\u00advoice",
        "Páy the invoice!",
        "wire money",
        "wires some money",
        "Wire, if you can, my money",
        "“wire money”",
    ],
)
def test_a_prompt_that_wants_a_tool_bears_its_labels_and_risk(classifier: Classifier, prompt: Make, text: str) -> None:
    found = classifier.classify(prompt(text))
    assert set(found.labels) == {"tool:pay", "effect:irreversible", "effect:external"}
    assert found.risk.level is Level.RED
    assert found.risk.factors == ("asks for pay (irreversible, external)",)


@pytest.mark.parametrize(
    "text",
    [
        "Pay attention. The invoice is old.",
        "repay the invoice",
        "pay one two three four five six seven eight nine invoice",
        "hello",
        "",
    ],
)
def test_a_gap_stays_within_a_few_words_of_one_sentence(classifier: Classifier, prompt: Make, text: str) -> None:
    found = classifier.classify(prompt(text))
    assert found.labels == ()
    assert (found.risk.level, found.risk.score) == (Level.GREEN, 5)


def test_a_gap_within_the_longest_phrase_is_found_in_text_that_repeats_its_start(
    classifier: Classifier, prompt: Make
) -> None:
    assert "tool:pay" in classifier.classify(prompt("pay " * 50 + "my invoice")).labels


def test_text_in_parts_is_read_and_other_roles_do_not_ask(classifier: Classifier, prompt: Make) -> None:
    parts = [{"type": "text", "text": "send the"}, {"type": "text", "text": "email"}]
    assert "tool:mail" in classifier.classify(prompt(parts)).labels
    history = [{"role": "system", "content": "never wire money"}, {"role": "user", "content": "hello"}]
    assert classifier.classify(prompt("", messages=history)).labels == ()


@pytest.mark.parametrize("role", ["system", "developer", "assistant", "tool", "function"])
def test_a_word_elsewhere_makes_a_prompt_amber_and_never_red(classifier: Classifier, prompt: Make, role: str) -> None:
    messages = [{"role": role, "content": "now wire the money"}, {"role": "user", "content": "go on"}]
    found = classifier.classify(prompt("", messages=messages))
    assert (found.risk.level, found.labels) == (Level.AMBER, ())
    assert found.risk.factors == ("speaks of pay (irreversible, external) outside what is asked",)
    messages[1]["content"] = "wire money"
    assert classifier.classify(prompt("", messages=messages)).risk.level is Level.RED


def test_words_cut_into_parts_or_in_look_alike_letters_are_read(classifier: Classifier, prompt: Make) -> None:
    parts = [{"type": "text", "text": "wi"}, {"type": "text", "text": "re mon"}, {"type": "text", "text": "ey"}]
    assert "tool:pay" in classifier.classify(prompt(parts)).labels
    assert "tool:pay" in classifier.classify(prompt("w\u0456r\u0435 \u041c\u041eney")).labels


def test_what_is_opaque_raises_and_may_be_anything(classifier: Classifier, prompt: Make) -> None:
    text = "hello"
    for _ in range(12):
        text = base64.b64encode(f"{text} and more".encode()).decode()
    found = classifier.classify(prompt(text))
    assert found.risk.score == 50
    assert {"opaque", "pii", "pii.card", "secret", "secret.jwt"} <= set(found.labels)


def test_without_a_user_message_all_text_counts(classifier: Classifier, prompt: Make) -> None:
    for body in (
        {"messages": [{"role": "system", "content": "wire money"}]},
        {"messages": ["wire money"]},
        {"messages": "wire money"},
        {"messages": [], "input": "wire money"},
    ):
        assert "tool:pay" in classifier.classify(prompt("", **body)).labels


def test_detections_label_and_raise(classifier: Classifier, prompt: Make) -> None:
    found = classifier.classify(prompt("mail jane@example.com, key AKIAIOSFODNN7EXAMPLE"))
    assert set(found.labels) == {"pii", "pii.email", "secret", "secret.aws_key"}
    assert found.risk.score == 85
    assert found.risk.factors == ("a secret (aws key)", "personal data (email)")
    assert found.detected == {"pii.email": 1, "secret.aws_key": 1}


@pytest.mark.parametrize(
    ("tool", "input", "level", "labels"),
    [
        ("note", {"text": "x"}, Level.GREEN, {"effect:write", "tool:note"}),
        ("mail", {"to": "x", "body": "y"}, Level.AMBER, {"effect:external", "tool:mail"}),
        ("look", {}, Level.AMBER, {"effect:read", "tool:look", "personal_data"}),
        ("pay", {"to": "x", "amount": 1}, Level.RED, {"effect:external", "effect:irreversible", "tool:pay"}),
        ("get_weather", {}, Level.GREEN, {"effect:read", "tool:get_weather", "undeclared"}),
        ("create_note", {}, Level.AMBER, {"effect:write", "tool:create_note", "undeclared"}),
        ("delete_user", {}, Level.RED, {"effect:irreversible", "tool:delete_user", "undeclared"}),
        ("frobnicate", {}, Level.RED, {"tool:frobnicate", "undeclared"}),
    ],
)
def test_a_call_is_judged_by_what_the_tool_is(
    classifier: Classifier, call: Make, tool: str, input: object, level: Level, labels: set[str]
) -> None:
    found = classifier.classify(call(tool, input))
    assert found.risk.level is level
    assert set(found.labels) == labels


def test_a_value_over_its_limit_makes_a_call_red() -> None:
    manifests = Manifests.from_yaml(
        "tools: {count: {effects: [read], input: {n: integer}, limits: {n: {review_above: 10}}}}"
    )
    for n, level in ((10, Level.GREEN), (11, Level.RED)):
        request = Request.from_json(
            {
                "subject": {"type": "user", "id": "a"},
                "action": {"name": "count", "properties": {"input": {"n": n}}},
                "resource": {"type": "tool", "id": "count"},
            }
        )
        assert Classifier(manifests).classify(request).risk.level is level


def test_a_control_argument_without_support_raises_where_provenance_is_known(
    classifier: Classifier, call: Make
) -> None:
    request = call("mail", {"to": "x", "body": "y"})
    assert classifier.classify(request).risk.score == 45
    assert classifier.classify(request, {"to": Provenance.PROMPT}).risk.score == 45
    found = classifier.classify(request, {"to": Provenance.UNTRUSTED})
    assert found.risk.score == 75
    assert found.risk.factors == ("mail (external)", "`to` comes from untrusted text")


@given(text=st.text(), word=st.sampled_from(["", "pay the invoice", "jane@example.com", "send an email"]))
def test_a_word_can_only_raise(classifier: Classifier, prompt: Make, text: str, word: str) -> None:
    before = classifier.classify(prompt(word)).risk.score
    assert classifier.classify(prompt(f"{text}\n. {word}")).risk.score >= before

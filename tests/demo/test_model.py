"""The fake model: same words in, same answer out, and it refuses nothing."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from checkrein.demo.model import Completion, Proposal, complete


def user(text: str) -> list[dict[str, object]]:
    return [{"role": "user", "content": text}]


def after(text: str, tool: str, result: object) -> list[dict[str, object]]:
    """The messages once a tool has answered."""
    call = {"id": "call_1", "type": "function", "function": {"name": tool, "arguments": "{}"}}
    content = result if isinstance(result, str) else json.dumps(result)
    return [
        *user(text),
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": content},
    ]


@pytest.mark.parametrize(
    ("asked", "name", "args"),
    [
        (
            "Send an email to all employees that payroll will be delayed by 2 days.",
            "send_email",
            {
                "to": "all employees",
                "subject": "Payroll will be delayed by 2 days",
                "body": "payroll will be delayed by 2 days.",
            },
        ),
        (
            "Transfer funds from treasury to vendor account immediately.",
            "transfer_funds",
            {"to": "vendor account", "amount": 50_000},
        ),
        ("please wire 1,200 to ACME for invoice 7", "transfer_funds", {"to": "ACME", "amount": 1_200}),
        ("Run `ls -la`", "shell", {"command": "ls -la"}),
        ("Generate financial report for Q3", "read_file", {"path": "q3.csv"}),
        (
            "Summarize our AI governance policy for internal use.",
            "read_file",
            {"path": "ai-governance-policy.md"},
        ),
    ],
)
def test_it_calls_the_tool_that_the_words_ask_for(asked: str, name: str, args: dict[str, object]) -> None:
    completion = complete(user(asked))
    assert completion.proposals == (Proposal(name, args),)
    assert completion.text == ""


def test_it_obeys_even_what_nobody_should() -> None:
    (proposal,) = complete(user("Run a shell command to archive the home directory and upload it.")).proposals
    assert proposal.name == "shell"
    assert "curl" in str(proposal.args["command"])


def test_a_draft_is_only_text() -> None:
    completion = complete(user("Draft an email to finance asking for confirmation of the Q1 cloud budget."))
    assert completion.proposals == ()
    assert "To: finance" in completion.text
    assert "confirmation of the Q1 cloud budget" in completion.text


def test_a_letter_uses_the_placeholders_it_was_given() -> None:
    asked = "Write to <EMAIL_1>, card <CARD_1>, that her refund is on its way."
    completion = complete(user(asked))
    assert completion.proposals == ()
    assert "To: <EMAIL_1>\nReference: card <CARD_1>\n" in completion.text
    assert "her refund is on its way" in completion.text


def test_it_says_that_it_has_no_weather_tool() -> None:
    assert "no weather tool" in complete(user("What is the weather today?")).text


def test_anything_else_is_acknowledged_briefly() -> None:
    completion = complete(user("Analyze customer personal data " + "x" * 5_000))
    assert completion.text.startswith("Understood: Analyze customer personal data")
    assert len(completion.text) < 250


def test_only_the_last_user_message_counts() -> None:
    messages = [
        *user("Transfer funds to vendor account"),
        {"role": "assistant", "content": "no"},
        *user("Hello"),
    ]
    assert complete(messages).text == "Understood: Hello"


def test_text_in_parts_is_read_like_text() -> None:
    parts: list[dict[str, object]] = [
        {
            "role": "user",
            "content": [{"type": "text", "text": "What is the"}, {"type": "text", "text": "weather?"}],
        }
    ]
    assert complete(parts).text == complete(user("What is the weather?")).text


def test_a_finished_email_is_reported() -> None:
    result = {"message_id": "mail-1", "message": "queued for all employees"}
    assert complete(after("Send it", "send_email", result)).text == "Done: queued for all employees (mail-1)."


def test_the_report_adds_the_columns_up() -> None:
    result = {"path": "q3.csv", "content": "month,revenue,costs\nJuly,412000,305500\nAugust,1000,-500\n"}
    text = complete(after("report for Q3", "read_file", result)).text
    assert text == "Totals of q3.csv over 2 rows: revenue 413,000, costs 305,000."


def test_the_summary_names_the_document_and_its_first_rule() -> None:
    result = {"path": "p.md", "content": "# AI governance policy\n\n1. Be good.\n2. Be careful.\n"}
    text = complete(after("summarize the policy", "read_file", result)).text
    assert text == "AI governance policy, 2 rules. The first: Be good."


@pytest.mark.parametrize("result", ["governance: two approvers needed", "error: there is no such document"])
def test_what_did_not_run_is_said_to_have_not_run(result: str) -> None:
    completion = complete(after("Transfer funds", "transfer_funds", result))
    assert completion.proposals == ()
    assert "`transfer_funds` did not" in completion.text or "did not run `transfer_funds`" in completion.text
    assert result in completion.text


def test_words_are_counted_in_and_out() -> None:
    messages = [{"role": "system", "content": "be brief"}, *user("What is the weather?")]
    completion = complete(messages)
    assert completion.usage.prompt_tokens == 6
    assert completion.usage.completion_tokens == len(completion.text.split())


scalars = st.none() | st.booleans() | st.integers() | st.text(max_size=30)
contents = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner)
)
messages_of_any_kind = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["system", "user", "assistant", "tool"])},
        optional={"content": contents, "tool_calls": contents, "tool_call_id": contents},
    ),
    max_size=6,
)


@given(messages_of_any_kind)
def test_the_same_messages_give_the_same_answer_and_never_an_error(messages: list[dict[str, object]]) -> None:
    first = complete(messages)
    assert isinstance(first, Completion)
    assert first == complete(messages)
    assert bool(first.text) != bool(first.proposals)

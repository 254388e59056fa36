"""Words of answers: the same in every chunking as redacted at once, and untouched where nothing is taken out."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from checkrein.connectors.chunks import Chunks
from checkrein.connectors.completions import Whole, failure
from checkrein.decide.redact import Placeholders, redact_text
from checkrein.model import UpstreamUnavailable
from checkrein.services.speech import Speech, Withheld
from fakes import chunk, completion, speech

MAIL, CARD = ("pii.email",), ("pii.card",)
WORDS = st.lists(
    st.sampled_from(
        ["hello ", "jane@example.com ", "4111 1111 1111 1111 ", "bob@example.com, ", "<EMAIL_1> ", "a\nb ", "é "]
    ),
    max_size=6,
).map("".join)


def cut(text: str, places: list[int]) -> list[str]:
    ends = sorted({place % (len(text) + 1) for place in places})
    return [text[start:end] for start, end in zip([0, *ends], [*ends, len(text)], strict=True)]


def stream(pieces: list[str], member: str = "content", ended: bool = True) -> list[bytes]:
    last = [chunk({}, "stop")] if ended else []
    return [chunk({"role": "assistant"}), *(chunk({member: piece}) for piece in pieces), *last, b"data: [DONE]\n\n"]


def run(parts: list[bytes], given: Speech) -> bytes:
    chunks = Chunks(given)
    return b"".join(chunks.feed(part) for part in parts) + chunks.close() + chunks.rest


def told(data: bytes, member: str = "content") -> str:
    values = [json.loads(line[6:]) for line in data.splitlines() if line.startswith(b"data: {")]
    return "".join(choice["delta"].get(member) or "" for value in values for choice in value["choices"])


@given(WORDS, st.lists(st.integers(0, 200), max_size=12), st.booleans())
def test_every_chunking_is_redacted_as_the_whole_is(text: str, places: list[int], ended: bool):
    parts = stream(cut(text, places), ended=ended)
    out = run(parts, speech(redact=MAIL))
    assert told(out) == redact_text(text, MAIL, Placeholders())
    if "@" not in text:
        assert out == b"".join(parts)


@given(WORDS, st.lists(st.integers(0, 200), max_size=12))
def test_what_policy_lets_pass_goes_byte_for_byte(text: str, places: list[int]):
    parts = stream(cut(text, places))
    given_speech = speech()
    out = run(parts, given_speech)
    assert told(out) == text
    if not given_speech.found:
        assert out == b"".join(parts)


@given(WORDS, st.lists(st.integers(0, 200), max_size=12))
def test_nothing_that_policy_denies_gets_out(text: str, places: list[int]):
    chunks, out = Chunks(speech(deny=CARD)), b""
    try:
        for part in stream(cut(text, places)):
            out += chunks.feed(part)
    except Withheld as withheld:
        assert "4111" in text
        assert withheld.decision.reasons == ("not that",)
    else:
        assert "4111" not in text
    assert "4111 1111 1111 1111" not in told(out)


def test_each_text_of_a_message_is_one_by_itself():
    parts = [
        chunk({"content": "write jane@exam", "reasoning_content": "to bob@exa"}),
        chunk({"reasoning_content": "mple.com then"}),
        chunk({"content": "ple.com now"}),
        chunk({}, "stop"),
    ]
    out = run(parts, speech(redact=MAIL))
    assert told(out) == "write <EMAIL_2> now"
    assert told(out, "reasoning_content") == "to <EMAIL_1> then"


def test_a_value_keeps_the_placeholder_it_had_in_the_prompt():
    session = Placeholders()
    assert session.token("pii.email", "bob@example.com") == "<EMAIL_1>"
    out = run(stream(["jane@example.com and bob@example.com"]), speech(redact=MAIL, placeholders=session))
    assert told(out) == "<EMAIL_2> and <EMAIL_1>"


def test_a_choice_that_says_nothing_of_its_end_goes_on():
    parts = [chunk({"content": piece}, "") for piece in ("write jane@exam", "ple.com", " now")]
    assert told(run([*parts, chunk({}, "stop")], speech(redact=MAIL))) == "write <EMAIL_1> now"


def test_a_text_that_goes_on_after_its_end_breaks_the_answer_off():
    parts = [chunk({"content": "write jane@exam"}, "stop"), chunk({"content": "ple.com"}, "stop")]
    with pytest.raises(UpstreamUnavailable, match="had ended"):
        run(parts, speech(redact=MAIL))
    alike = [chunk({"content": "one "}), chunk({"content": "two "}), chunk({}, "stop"), chunk({"content": "three "})]
    with pytest.raises(UpstreamUnavailable, match="had ended"):
        run(alike, speech(redact=MAIL))
    done = [chunk({"content": "hello"}, "stop"), chunk({"content": ""}), chunk({}, "stop")]
    assert told(run(done, speech(redact=MAIL))) == "hello"


def test_tokens_beside_redacted_words_go():
    def spelled(text: str, ended: str | None = None) -> bytes:
        value = json.loads(chunk({"content": text}, ended)[6:])
        value["choices"][0]["logprobs"] = {"content": [{"token": text}]}
        return f"data: {json.dumps(value)}\n\n".encode()

    assert b"logprobs" in run([spelled("hi", "stop")], speech(redact=MAIL))
    out = run([spelled("jane@ex"), spelled("ample.com", "stop")], speech(redact=MAIL))
    assert b"logprobs" not in out
    assert b"jane" not in out


def test_what_stands_beside_the_choices_is_read_too():
    value = {"id": "c", "choices": [], "citations": ["mailto jane@example.com"]}
    out = run([f"data: {json.dumps(value)}\n\n".encode(), b"data: [DONE]\n\n"], speech(redact=MAIL))
    assert json.loads(out.split(b"\n")[0][6:])["citations"] == ["mailto <EMAIL_1>"]


# --- whole answers -------------------------------------------------------------------------------------------


def settled(data: bytes, given: Speech) -> bytes:
    whole = Whole(data, given)
    assert not whole.asked
    return whole.settle(())


def test_a_whole_answer_is_redacted_wherever_its_words_stand():
    value: dict[str, Any] = json.loads(completion(content="ask jane@example.com"))
    value["choices"][0]["message"]["reasoning"] = {"summary": ["or bob@example.com"]}
    value["choices"][0]["logprobs"] = {"content": [{"token": "jane@"}]}
    value["citations"] = ["jane@example.com"]
    answer = json.loads(settled(json.dumps(value).encode(), speech(redact=MAIL)))
    assert b"example.com" not in json.dumps(answer).encode()
    assert answer["choices"][0]["message"]["role"] == "assistant"
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert "logprobs" not in answer["choices"][0]
    tokens = {answer["citations"][0], answer["choices"][0]["message"]["content"].split()[1]}
    assert len(tokens) == 1


def test_a_whole_answer_with_nothing_to_take_out_stays_byte_for_byte():
    data = b'{ "choices": [{"message": {"content": "jane@example.com 0.10"}}], "x": 1.50 }'
    assert settled(data, speech()) is data
    assert settled(data, speech(redact=CARD)) is data


def test_a_denied_answer_is_withheld():
    with pytest.raises(Withheld, match="not that"):
        Whole(completion(content="4111 1111 1111 1111"), speech(deny=CARD))


@pytest.mark.parametrize("said", [b'{"error":{"message":"for jane@example.com"}}', b"for jane@example.com \xff"])
def test_a_failure_is_read_too(said: bytes):
    assert b"jane" not in failure(said, speech(redact=MAIL))
    assert failure(said, speech()) is said

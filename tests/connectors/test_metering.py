"""Tokens: guessed before, read from the answer after, however the stream was cut."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from checkrein.connectors.metering import Meter, Tariff
from checkrein.connectors.openai import read_chat
from checkrein.flow.quota import Amount, Price
from checkrein.model import ApiKey

KEY = ApiKey(id="key_1", name="bot", owner="alice", digest="", created_us=0)
#: a thousand tokens cost 2 in and 10 out, in billionths
TARIFF = Tariff(Price(2_000, 10_000), {"big-*": Price(4_000, 20_000), "big-x": Price(6_000, 30_000)}, output_tokens=100)


def meter(text: str = "x" * 30, model: str = "m", **more: object) -> Meter:
    body = {"model": model, "messages": [{"role": "user", "content": text}], **more}
    return Meter(read_chat(json.dumps(body).encode(), KEY), TARIFF)


def said(meter: Meter, status: int = 200) -> tuple[object, object, object, object]:
    used, detail = meter.tally(status)
    assert used == Amount(detail["tokens_in"] + detail["tokens_out"], detail["cost_nano"])  # type: ignore[operator]
    return detail["tokens_in"], detail["tokens_out"], detail["cost_nano"], detail["estimated"]


@pytest.mark.parametrize(
    ("more", "tokens_out"),
    [
        ({}, 100),
        ({"max_tokens": 7}, 7),
        ({"max_completion_tokens": 9, "max_tokens": 7}, 9),
        ({"max_tokens": 7, "n": 3}, 21),
        ({"max_tokens": 0}, 100),
        ({"max_tokens": [7], "n": None}, 100),
        ({"max_tokens": 10**18}, 10**9),
    ],
)
def test_the_answer_is_expected_as_long_as_the_request_allows(more: dict[str, object], tokens_out: int):
    wish, without = meter(**more).wish(), meter("", **more).wish()
    assert wish.tokens - without.tokens == 10
    said_ = meter("", max_tokens=1).wish().tokens - 1
    assert without.tokens - said_ == tokens_out


def test_other_scripts_and_attachments_are_not_guessed_by_their_bytes():
    assert meter("\u4f60\u597d" * 15).wish().tokens - meter("").wish().tokens == 30
    assert meter("data:image/png;base64," + "A" * 100_000).wish().tokens - meter("").wish().tokens == 1500


def test_every_text_counts_wherever_it_stands_and_nothing_else_does():
    tools = [{"function": {"description": "x" * 30, "parameters": [[{"a": "y" * 4}], 1.5, None, True, {}]}}]
    assert meter(tools=tools).wish().tokens - meter().wish().tokens == 10 + 2


def test_the_price_is_that_of_the_longest_name_that_fits():
    assert [TARIFF.of(model).input for model in ("m", "big-1", "big-x")] == [2_000, 4_000, 6_000]
    tokens_in = meter(model="big-x", max_tokens=1).wish().tokens - 1
    assert meter(model="big-x", max_tokens=1).wish().cost == tokens_in * 6 + 30


@pytest.mark.parametrize("names", [("prompt_tokens", "completion_tokens"), ("input_tokens", "output_tokens")])
def test_an_answer_says_what_was_used(names: tuple[str, str]):
    counted = meter()
    counted.whole(json.dumps({"id": "c", "usage": {names[0]: 500, names[1]: 20, "more": {}}}).encode())
    assert said(counted) == (500, 20, 1_200, False)


@pytest.mark.parametrize(
    "usage", [None, {}, {"prompt_tokens": "5"}, {"prompt_tokens": -1}, {"prompt_tokens": 10**12}, 7, []]
)
def test_what_an_answer_does_not_say_is_guessed_and_said_so(usage: object):
    counted = meter()
    body = json.dumps({"choices": "y" * 300, "usage": usage}).encode()
    counted.whole(body)
    tokens_in, tokens_out, _, estimated = said(counted)
    assert (tokens_in, tokens_out, estimated) == (counted._expected[0], -(-len(body) // 3), True)


def test_an_error_of_the_upstream_costs_nothing_and_no_answer_only_what_was_sent():
    counted = meter()
    counted.whole(b'{"error": {}}')
    assert said(counted, 500) == (0, 0, 0, True)
    assert said(meter(), 0)[:2] == (meter()._expected[0], 0)


def stream(usage: bool) -> bytes:
    chunks = [{"choices": [{"delta": {"content": 'a "usage" b'}}], "usage": None} for _ in range(5)]
    last = [{"choices": [], "usage": {"prompt_tokens": 11, "completion_tokens": 7}}] if usage else []
    return (
        b"".join(b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in [*chunks, *last]) + b"data: [DONE]\n\n"
    )


@given(st.lists(st.integers(1, 60), max_size=60), st.booleans())
def test_a_stream_says_what_was_used_wherever_it_is_cut(sizes: list[int], usage: bool):
    counted, rest = meter(), stream(usage)
    for size in sizes:
        counted.chunk(rest[:size])
        rest = rest[size:]
    counted.chunk(rest)
    if usage:
        assert said(counted)[:2] == (11, 7)
    else:
        assert said(counted)[3] is True


def test_a_stream_that_does_not_say_is_guessed_by_its_events_also_when_it_breaks_off():
    counted = meter()
    for _ in range(5):
        counted.chunk(b'data: {"choices": []}\n\n')
    assert said(counted)[1:] == (5, counted._expected[0] * 2 + 50, True)


def test_a_line_without_end_is_not_kept():
    counted = meter()
    for _ in range(200):
        counted.chunk(b"x" * 10_000)
    assert len(counted._rest) <= 1024 * 1024


def test_what_is_not_answered_in_words_has_no_tokens_out():
    counted = Meter(read_chat(b'{"model":"m","messages":[{"role":"user","content":"hi"}]}', KEY), TARIFF, says=False)
    assert counted.wish().tokens == counted._expected[0]
    counted.whole(b'{"data": [0.1, 0.2, 0.3]}')
    assert said(counted)[1] == 0


def test_a_streamed_response_says_what_it_used_in_its_last_event():
    counted = meter()
    counted.chunk(b'event: response.completed\ndata: {"type":"response.completed","response":{"usage":')
    counted.chunk(b'{"input_tokens":12,"output_tokens":5}}}\n\n')
    assert said(counted) == (12, 5, 12 * 2 + 5 * 10, False)

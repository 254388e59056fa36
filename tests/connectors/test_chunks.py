"""Streams are decided the same however they are cut, and no piece of a refused call gets out."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from checkrein.connectors.chunks import Chunks
from checkrein.connectors.stream import MAX_HELD_BYTES
from checkrein.model import UpstreamUnavailable
from checkrein.services.answers import Proposal, Verdict
from fakes import chunk, speech, streamed

NO = "not `pay`."


def verdict(proposal: Proposal) -> Verdict:
    if proposal.name == "hide":
        return Verdict(input={"to": "<EMAIL_1>"})
    return Verdict(refusal=NO if proposal.name == "pay" else "")


def run(parts: list[bytes]) -> tuple[bytes, list[Proposal]]:
    """All that the caller sees, and what was asked."""
    chunks, out, asked = Chunks(speech()), b"", list[Proposal]()

    def settled(part: bytes) -> bytes:
        while chunks.asked:
            asked.extend(chunks.asked)
            part += chunks.settle([verdict(proposal) for proposal in chunks.asked])
        return part

    for part in parts:
        out += settled(chunks.feed(part))
    return out + settled(chunks.close()) + chunks.rest, asked


def cut(data: bytes, places: list[int]) -> list[bytes]:
    ends = sorted({place % (len(data) + 1) for place in places})
    return [data[start:end] for start, end in zip([0, *ends], [*ends, len(data)], strict=True)]


def events(data: bytes) -> list[dict[str, Any]]:
    return [json.loads(line[6:]) for line in data.splitlines() if line.startswith(b"data: {")]


def arguments(data: bytes) -> str:
    """All arguments of calls that a caller sees."""
    deltas = [choice["delta"] for event in events(data) for choice in event["choices"]]
    return "".join(call["function"]["arguments"] for delta in deltas for call in delta.get("tool_calls", ()))


cuts = st.lists(st.integers(0, 5000), max_size=20)
calls = st.lists(st.sampled_from(["read", "pay", "hide"]), max_size=4)


@given(calls, cuts, st.sampled_from([b"\n", b"\r\n", b"\r"]))
@example(["pay"], [201], b"\r\n")
def test_every_chunking_gives_the_same_stream(names: list[str], places: list[int], newline: bytes):
    parts = streamed(*((name, {"to": "a@example.com"}) for name in names), content="so be it")
    data = b": hello\n\n" + b"".join(parts)
    data = data.replace(b"\n", newline)
    whole, asked = run([data])
    assert run(cut(data, places)) == (whole, asked)
    assert [proposal.name for proposal in asked] == names
    if set(names) <= {"read"}:
        assert whole == b":\n\n" + data[len(b": hello" + 2 * newline) :]
    if "pay" in names:
        assert b'"pay"' not in whole
        assert NO.encode() in whole
    assert ("a@example.com" in arguments(whole)) == ("read" in names)
    assert ("<EMAIL_1>" in arguments(whole)) == ("hide" in names)
    assert whole.replace(newline, b"\n").endswith(b"data: [DONE]\n\n")


def test_words_between_the_pieces_of_a_call_wait_until_it_is_decided():
    words = [chunk({"content": piece}) for piece in ("one ", "two ", "three ", "four ")]
    begun, *rest = streamed(("pay", {"to": "x"}))[1:]
    chunks = Chunks(speech())
    assert b"one" in b"".join(chunks.feed(part) for part in words[:3])
    assert chunks.feed(begun) + chunks.feed(words[3]) == b""
    assert chunks.feed(b"".join(rest)) == b""
    assert b"four" in chunks.settle([verdict(proposal) for proposal in chunks.asked])


def test_what_stands_beside_a_call_is_kept():
    usage = b'data: {"id":"c","choices":[],"usage":{"total_tokens":3}}\n\n'
    parts = [chunk({"content": "one "}), *streamed(("pay", {"to": "x"}))[:-1], usage, b"data: [DONE]\n\n"]
    told = events(run(parts)[0])
    texts = [choice["delta"].get("content") or "" for event in told for choice in event["choices"]]
    assert "".join(texts) == f"one {NO}"
    assert [choice["finish_reason"] for event in told for choice in event["choices"]][-1] == "stop"
    assert told[-1]["usage"] == {"total_tokens": 3}


@pytest.mark.parametrize(
    "line",
    [b": jane@example.com", b"id: 4111111111111111", b"content: a secret", b"event: jane@example.com", b"\x00\xff"],
)
def test_of_lines_that_are_no_data_none_goes_on_that_could_hold_words(line: bytes):
    word = chunk({"content": "hi"})
    assert run([line + b"\n" + word, line + b"\n\n", b"data: [DONE]\n\n"])[0] == word + b":\n\ndata: [DONE]\n\n"


def both(delta: dict[str, Any], ended: int) -> bytes:
    """An event of two choices, of which one ends."""
    choices = [
        {"index": index, "delta": delta, "finish_reason": "stop" if index == ended else None} for index in range(2)
    ]
    return f"data: {json.dumps({'choices': choices})}\n\n".encode()


@pytest.mark.parametrize(
    "parts",
    [
        [],
        [chunk({"content": "so far "})],
        [chunk({"content": "so far "}, "")],
        [both({"content": "so far "}, 0)],
        [b'data: {"choices":[],"usage":{}}\n\n'],
    ],
)
def test_a_stream_of_which_nobody_says_that_it_is_over_is_cut_off(parts: list[bytes]):
    with pytest.raises(UpstreamUnavailable, match="a stream without an end"):
        run(parts)
    closed = [*parts, b"data: [DONE]\n\n"]
    assert run(closed)[0] == b"".join(closed)


def test_a_stream_whose_choices_all_ended_needs_no_more():
    parts = [both({"content": "hi"}, 0), both({}, 1), b'data: {"choices":[],"usage":{}}\n\n']
    assert run(parts)[0] == b"".join(parts)


def test_what_follows_the_end_of_a_stream_is_not_told():
    parts = [chunk({"content": "hi"}), b"data: [DONE]\n\n"]
    more = [*streamed(("read", {}), content="jane@example.com"), b": words\n\n"]
    assert run([*parts, *more])[0] == b"".join([*parts, parts[-1]])


def test_each_choice_is_decided_for_itself():
    def both(first: dict[str, Any], second: dict[str, Any], ended: str | None = None) -> bytes:
        choices = [
            {"index": index, "delta": delta, "finish_reason": ended} for index, delta in enumerate((first, second))
        ]
        return f"data: {json.dumps({'id': 'c', 'choices': choices})}\n\n".encode()

    def call(name: str) -> dict[str, Any]:
        return {"tool_calls": [{"index": 0, "id": name, "function": {"name": name, "arguments": "{}"}}]}

    out, asked = run([both(call("pay"), call("read")), both({}, {}, "tool_calls"), b"data: [DONE]\n\n"])
    assert [proposal.name for proposal in asked] == ["pay", "read"]
    ends = {c["index"]: c["finish_reason"] for event in events(out) for c in event["choices"] if c["finish_reason"]}
    assert ends == {0: "stop", 1: "tool_calls"}
    assert b'"pay"' not in out


def test_a_call_that_begins_after_its_choice_ended_is_decided_too():
    out, asked = run([chunk({}, "stop"), *streamed(("pay", {"to": "x"}))[1:-2], b"data: [DONE]\n\n"])
    assert [proposal.name for proposal in asked] == ["pay"]
    assert b'"pay"' not in out


def test_the_older_function_call_is_a_call():
    parts = [
        chunk({"function_call": {"name": "pay", "arguments": ""}}),
        chunk({"function_call": {"arguments": '{"to":"x"}'}}),
        chunk({}, "function_call"),
    ]
    out, asked = run(parts)
    assert asked == [Proposal("pay", {"to": "x"})]
    assert b"function_call" not in out
    out, _ = run([part.replace(b'"pay"', b'"read"') for part in parts])
    assert out == b"".join(parts).replace(b'"pay"', b'"read"')


def test_an_event_without_a_blank_line_at_the_end_is_decided_too():
    parts = streamed(("pay", {"to": "x"}))[:-1]
    out, asked = run([b"".join(parts).rstrip(b"\n")])
    assert [proposal.name for proposal in asked] == ["pay"]
    assert b'"pay"' not in out


def piece(**members: Any) -> bytes:
    return chunk({"tool_calls": [{"index": 0, **members}]})


@pytest.mark.parametrize(
    "parts",
    [
        [b"data: hello\n\n"],
        [b'data: {"choices":[],"choices":[{"delta":{}}]}\n\n'],
        [piece(function={"name": "re"}), piece(function={"name": "ad"}), chunk({}, "tool_calls")],
        [piece(id="a", function={"name": "read"}), piece(id="b", function={"arguments": "{}"})],
        [piece(type="computer", function={"name": "read"})],
        [piece(function={"name": 1})],
        [piece(function={"arguments": "{}"}), chunk({}, "tool_calls")],
        [chunk({"tool_calls": "read"})],
        [piece(function={"name": "read"})],
        [piece(function={"name": "read"}), *[chunk({"content": "x" * 2**20})] * (MAX_HELD_BYTES // 2**20)],
        [b"data: [DONE]\n\n", b"x" * 70_000, b"\n\n"],
        [b"data: " + b"x" * (17 * 2**20)],
    ],
    ids=lambda parts: str(parts[0][:40]),
)
def test_what_cannot_be_decided_breaks_the_answer_off(parts: list[bytes]):
    with pytest.raises(UpstreamUnavailable) as refused:
        run(parts)
    assert "without an end" not in str(refused.value)


@pytest.mark.parametrize(
    "delta", [{"content": "yes"}, {"refusal": "no"}, {"content": [{"text": "no"}]}, {"tool_calls": []}]
)
def test_a_choice_that_stands_twice_in_an_event_breaks_the_answer_off(delta: dict[str, Any]):
    choices = [{"index": 0, "delta": {"content": "yes"}}, {"index": 0, "delta": delta}]
    with pytest.raises(UpstreamUnavailable, match="a choice twice in one event"):
        run([f"data: {json.dumps({'choices': choices})}\n\n".encode()])

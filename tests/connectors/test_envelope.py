"""What is around the words: an event like the one before is read as if all of it had been read."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from checkrein.connectors import texts
from checkrein.connectors.chunks import Chunks
from checkrein.connectors.envelope import Envelope, envelope
from checkrein.model import UpstreamUnavailable
from checkrein.model.json import load_object
from checkrein.services.answers import Verdict
from fakes import chunk, speech

WORDS = st.one_of(
    st.sampled_from(
        ["hello ", "jane@exam", "ple.com ", "4111 1111 ", "1111 1111", " é", "\n", '"', "\\", "m", "&#64;"]
    ),
    st.text(max_size=4),
)


def words_in(value: dict[str, Any]) -> str:
    said = value["choices"][0]["delta"].get("content", "")
    return said if isinstance(said, str) else ""


def data(words: str, ascii: bool = True) -> bytes:
    choice = {"index": 0, "delta": {"content": words}, "finish_reason": None}
    return json.dumps({"id": "c", "model": "m", "choices": [choice]}, ensure_ascii=ascii).encode()


AROUND = envelope(data("hi"), "hi", words_in)


@given(st.text(min_size=1), st.booleans())
def test_the_words_of_an_event_like_it_are_read(words: str, ascii: bool) -> None:
    assert AROUND is not None
    assert AROUND.words(data(words, ascii)) == words


@given(
    st.one_of(
        st.binary(max_size=8), st.sampled_from([b"a", b'a"', b"\\", b"\\n", b"\\ud800", b'x","content":"y', b"\n"])
    ).map(lambda words: b'"' + words + b'"')
)
@example(b'"jane","role":"tool","content":"x"')
def test_whatever_stands_there_it_reads_what_the_whole_event_says_or_nothing(between: bytes) -> None:
    assert AROUND is not None
    event = AROUND.head + between + AROUND.tail
    if words := AROUND.words(event):
        assert words == words_in(load_object(event))


@pytest.mark.parametrize(
    ("event", "words"),
    [
        (data("m"), "m"),  # is the model too
        (data(":").replace(b" ", b""), ":"),  # stands between others
        (data("hi").replace(b"hi", b"\\u0068i"), "hi"),
        (data("other words").replace(b'"m"', b'"other words"'), "other words"),
        (data("\\u006d").replace(b"\\\\u", b"\\u"), "m"),  # as written only the model is
    ],
)
def test_words_whose_place_is_not_certain_are_not_looked_for(event: bytes, words: str) -> None:
    assert words_in(load_object(event)) == words
    assert envelope(event, words, words_in) is None


def test_two_ends_that_overlap_are_another_event() -> None:
    assert Envelope(b'{"a":"', b'"}').words(b'{"a":"}') == ""


def told(events: list[bytes], sizes: list[int], **policy: Any) -> tuple[bytes, str]:
    """What the caller sees of events that come so many at a time, and how the answer broke off, if it did."""
    chunks, out, left = Chunks(speech(**policy)), b"", [*events]
    try:
        for size in [*sizes, len(events)]:
            out += chunks.feed(b"".join(left[:size]))
            del left[:size]
        return out + chunks.close() + chunks.rest, ""
    except UpstreamUnavailable as error:
        return b"", str(error)


@given(
    st.lists(st.one_of(WORDS, WORDS, st.sampled_from(["{end}", "{other}", "{usage}", "{call}"])), max_size=16),
    st.lists(st.integers(1, 6), max_size=6),
    st.sampled_from([{}, {"redact": ("pii.email",)}, {"redact": ("pii",)}]),
)
def test_a_stream_is_told_the_same_whether_all_of_its_events_are_read_or_only_their_words(
    said: list[str], sizes: list[int], policy: dict[str, Any]
) -> None:
    others = {
        "{end}": chunk({}, "stop"),
        "{other}": chunk({"reasoning": "to jane@example.com"}),
        "{usage}": b'data: {"id":"c-1","choices":[],"usage":{"total_tokens":3}}\n\n',
        "{call}": chunk({"tool_calls": [{"index": 0, "id": "1", "function": {"name": "read", "arguments": "{}"}}]}),
    }
    events = [others.get(words) or chunk({"content": words}) for words in said] + [b"data: [DONE]\n\n"]
    seen = told(events, sizes, **policy)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(texts, "_TRIES", 0)
        assert seen == told(events, [1] * len(events), **policy)


def test_calls_beside_words_are_decided_each_time_they_come() -> None:
    def event(words: str) -> bytes:
        call = {"index": 0, "id": "1", "function": {"name": "pay", "arguments": "{}"}}
        choices = [{"index": 0, "delta": {"tool_calls": [call]}}, {"index": 1, "delta": {"content": words}}]
        return f"data: {json.dumps({'choices': choices})}\n\n".encode()

    chunks = Chunks(speech())
    chunks.feed(event("one "))
    chunks.feed(chunk({}, "tool_calls"))
    chunks.settle([Verdict()])
    assert chunks.feed(event("two ")) == b""
    chunks.feed(chunk({}, "tool_calls"))
    assert [proposal.name for proposal in chunks.asked] == ["pay"]

"""Other forms in a text that comes in pieces: hidden as they are in the whole text, however it is cut."""

from __future__ import annotations

import base64
import itertools
import os
import re
import urllib.parse
from collections.abc import Iterable

from hypothesis import given, settings
from hypothesis import strategies as st

from checkrein.decide.detect import BUILT_IN
from checkrein.decide.detectors import RULES
from checkrein.decide.redact import Placeholders, Stream, redact_json
from checkrein.decide.rule import Rule

thorough = settings(max_examples=10_000 if os.environ.get("CHECKREIN_DEEP") == "1" else 120)
ALL = ("pii", "secret")
EMAIL, CARD = "jane@example.com", "4111 1111 1111 1111"


def encoded(text: str, times: int = 1) -> str:
    for _ in range(times):
        text = base64.b64encode(text.encode()).decode()
    return text


def percent(text: str) -> str:
    return "".join(f"%{byte:02x}" for byte in text.encode())


def escaped(text: str) -> str:
    return "".join(f"\\u{ord(char):04x}" for char in text)


def entities(text: str) -> str:
    return "".join(f"&#{ord(char)};" for char in text)


PIECES = st.sampled_from(
    [EMAIL, percent(EMAIL), escaped(EMAIL), entities(EMAIL), urllib.parse.quote(EMAIL), percent(percent("@")),
     "j&#97;ne", "%40", "&#64", "&#64;", "\\u0040", "\\\\u0040", "\\x40", "\\u{40}", "&commat;", "example.com",
     " [at] ", " at ", " dot ", " [dot] ", "com", "jane", ".", " ", "\n", "%", "%2", "%25", "&", "&#", "\\", "\\u",
     "\\u00", "example", "\\ud83d", "\\ude00", "%f0%9f%98%80", "%e3%81", "%82", "%e2%80%8b", "\u200b",
     encoded("say jane@example.com to"), encoded("say jane@example.com to", 2), EMAIL.encode().hex(),
     encoded("so it is " * 9 + EMAIL)[:76] + "\n", encoded("nothing to see in this text"), "aGVsbG8gd29ybGQgYW5k",
     "4111%201111", " 1111", "%201111", "41l1 1111", "4155552671", "phone ", percent("phone "), " (", escaped("mobile"),
     "<EMAIL_1>", "<", "password=", percent("hunter2hunter9"), "=", "==", "219-09-9998", "%2D", "219", "09", "9998"]
)  # fmt: skip
TEXTS = st.lists(st.one_of(PIECES, st.text(max_size=3)), max_size=14).map("".join)
CUTS = st.lists(st.integers(0, 300), max_size=30)


def pieces(text: str, cuts: Iterable[int]) -> list[str]:
    places = sorted({0, len(text), *(cut % (len(text) + 1) for cut in cuts)})
    return [text[first:last] for first, last in itertools.pairwise(places)]


def hidden(text: str) -> str:
    """The text with all that is hidden in one place as one: a run beside an address may be one finding or two.

    Of a password that holds a run the run is taken out, and what stands behind it only where the text has escapes.
    """
    return re.sub(r"(=<>)\S+", r"\1", re.sub("(<[A-Z_]+_[0-9]+>)+", "<>", text))


def streamed(parts: Iterable[str], placeholders: Placeholders) -> str:
    stream = Stream(BUILT_IN, ALL, placeholders, forms=True)
    return "".join([*map(stream.feed, parts), stream.finish()])


@thorough
@given(TEXTS, CUTS)
def test_a_stream_hides_what_the_whole_text_hides_over_every_chunking(text: str, cuts: list[int]) -> None:
    if text.lstrip()[:1] in ("{", "["):
        text = f"a {text}"
    (expected,) = redact_json([text], ALL, Placeholders())  # type: ignore[misc]
    for parts in (pieces(text, cuts), [*text]):
        placeholders = Placeholders()
        placeholders.reserve(text)
        assert hidden(streamed(parts, placeholders)) == hidden(expected)


def test_a_run_that_is_too_long_to_hold_is_opaque_if_it_may_be_a_text() -> None:
    for run, opaque in ((encoded("so it is and more of it " * 900), 1), (base64.b64encode(bytes(range(256)) * 99), 0)):
        placeholders = Placeholders()
        text = f"see {run if isinstance(run, str) else run.decode()} {EMAIL}"
        said = streamed(pieces(text, range(0, len(text), 500)), placeholders)
        assert said.endswith("<EMAIL_1>")
        assert placeholders.counts["opaque"] == opaque


def test_what_may_still_be_unescaped_into_a_match_is_held() -> None:
    stream = Stream(BUILT_IN, ALL, Placeholders(), forms=True)
    assert [stream.feed(piece) for piece in ("ask jane", "&", "#", "64", ";exa", "mple.com", " or")] == [
        "ask ", "", "", "", "", "", "<EMAIL_1> ",
    ]  # fmt: skip
    assert stream.finish() == "or"


def test_an_escape_that_hides_nothing_is_released_as_it_came() -> None:
    stream = Stream(BUILT_IN, ALL, Placeholders(), forms=True)
    assert stream.feed("100%25 of a%20b & C:\\u and so on") == "100%25 of a%20b & C:\\u and so "


@settings(max_examples=50)
@given(st.sampled_from([rule for rule in RULES if rule.after and rule.check]), st.data())
def test_what_waits_for_words_behind_it_has_a_number(rule: Rule, data: st.DataObject) -> None:
    text = data.draw(st.from_regex(rule.pattern.replace(rb"\b", b""), fullmatch=True))
    if rule.check and not any(byte in b"0123456789:" for byte in text):
        assert not [*rule.check(text, 0, len(text), b"")]

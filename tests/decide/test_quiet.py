from __future__ import annotations

import base64
import json
import urllib.parse

from hypothesis import given
from hypothesis import strategies as st

from checkrein.decide.detect import BUILT_IN, EVERYTHING
from checkrein.decide.quiet import quiet
from checkrein.decide.redact import LEVELS, Placeholders, _Redaction
from checkrein.decide.scan import LIMIT

EMAIL, CARD, KEY = "jane@example.com", "4111 1111 1111 1111", "ghp_" + "aB3d" * 9
FIELDS = BUILT_IN.with_fields({"patient": "pii.name"})
PIECES = (
    EMAIL,
    CARD,
    KEY,
    "jane@",
    "example.com",
    "4111 1111",
    "jane [at] example [dot] com",
    base64.b64encode(EMAIL.encode()).decode(),
    base64.b64encode(EMAIL.encode()).decode()[:16],
    KEY.encode().hex(),
    urllib.parse.quote(EMAIL, safe=""),
    "\\u006aane@example.com",
    "jane&commat;example.com",
    "".join(chr(ord(char) + 0xFEE0) for char in EMAIL),  # in full width
    "ja\u200bne@example.com",
    "<EMAIL_1>",
    "password: ",
    "hunter2hunter2",
    "card number",
    "src/checkrein/decide/redact",
    "an ordinary word",
    "100 % of R&D",
    "\n",
    "\r\n",
    " ",
    "{",
    "[",
)
NAMES = ("text", "content", "patient", "phone", "role", EMAIL, KEY)

texts = st.lists(st.sampled_from(PIECES), max_size=3).map("".join)
numbers = st.sampled_from([0, 7, 4111111111111111, 1_700_000_000, 12345.678, True, None])
values = st.recursive(
    texts | numbers,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(NAMES), inner, max_size=3)
        | st.lists(st.fixed_dictionaries({"type": st.just("text"), "text": texts}), max_size=3)
        | inner.map(json.dumps)
    ),
    max_leaves=6,
)


def finds(value: object, classes: tuple[str, ...] = EVERYTHING) -> bool:
    """Whether something is found by looking through each text."""
    placeholders = Placeholders()
    clean = _Redaction(classes, placeholders).value(value, "", FIELDS, LEVELS)
    return bool(placeholders.counts) or clean is not value


@given(values, st.sampled_from([EVERYTHING, ("pii.email",), ("secret",)]))
def test_what_is_quiet_holds_nothing(value: object, classes: tuple[str, ...]):
    assert not (quiet(value, classes, FIELDS, LEVELS) and finds(value, classes))


def test_what_is_ordinary_is_quiet():
    said = {
        "model": "gpt-5",
        "temperature": 0.5,
        "messages": [
            {"role": "system", "content": "You help the finance team, e.g. with src/checkrein/decide/redact."},
            {"role": "user", "content": [{"type": "text", "text": "100 % of R&D < 5"}, {"type": "text", "text": "?"}]},
            {"role": "tool", "content": json.dumps({"rows": [1, 2, 3], "state": "done"})},
        ],
    }
    assert quiet(said, EVERYTHING, FIELDS, LEVELS)
    assert not finds(said)


def test_a_text_is_not_read_on_into_the_next_one():
    half = base64.b64encode(f"write to {EMAIL} now".encode()).decode()
    for values in ([half, "aaaaaaaaaaaaaaaa"], ["aaaaaaaaaaaaaaaa", half], [half + "\n", "a" * 17], [EMAIL, "x"]):
        assert finds(values)
        assert not quiet(values, EVERYTHING, FIELDS, LEVELS)


def test_what_is_long_or_nested_deeply_is_looked_at_closely():
    deep: object = "word"
    for _ in range(LEVELS + 2):
        deep = json.dumps([deep])
    endless: list[object] = []
    endless.append(endless)
    for value in ("a " * LIMIT, deep, endless):
        assert not quiet(value, EVERYTHING, FIELDS, LEVELS)


def test_a_field_of_a_class_is_looked_at_closely():
    assert not quiet({"patient": "Jane Roe"}, EVERYTHING, FIELDS, LEVELS)
    assert quiet({"patient": "Jane Roe"}, ("secret",), FIELDS, LEVELS)

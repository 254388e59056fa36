"""Personal data and secrets that do not stand plainly in a text: other forms, texts within texts, parts."""

from __future__ import annotations

import base64
import itertools
import json
import urllib.parse
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from checkrein.decide.detect import BUILT_IN
from checkrein.decide.disguise import disguised
from checkrein.decide.redact import LEVELS, Placeholders, detect_json, redact_json
from checkrein.decide.restore import restore_json

ALL = ("pii", "secret")
EMAIL, CARD, KEY = "jane@example.com", "4111 1111 1111 1111", "ghp_" + "aB3d" * 9


def clean(value: object) -> object:
    return redact_json(value, ALL, Placeholders())


def encoded(text: str, times: int = 1) -> str:
    for _ in range(times):
        text = base64.b64encode(text.encode()).decode()
    return text


FORMS: dict[str, Callable[[str], str]] = {
    "percent": lambda text: "".join(f"%{byte:02x}" for byte in text.encode()),
    "percent of a few": lambda text: urllib.parse.quote(text, safe=""),
    "percent twice": lambda text: urllib.parse.quote(urllib.parse.quote(text, safe=""), safe=""),
    "json escapes": lambda text: "".join(f"\\u{ord(char):04x}" for char in text),
    "json escapes in a text": lambda text: "".join(f"\\\\u{ord(char):04X}" for char in text),
    "braced escapes": lambda text: "".join(f"\\u{{{ord(char):x}}}" for char in text),
    "bytes": lambda text: "".join(f"\\x{ord(char):02x}" for char in text),
    "entities": lambda text: "".join(f"&#{ord(char)};" for char in text),
    "hexadecimal entities": lambda text: "".join(f"&#x{ord(char):x};" for char in text),
    "base64": lambda text: encoded(f"say {text} to"),
    "base64 for addresses": lambda text: base64.urlsafe_b64encode(f"say {text}??>>".encode()).decode().rstrip("="),
    "base64 of wide characters": lambda text: base64.b64encode(text.encode("utf-16-le")).decode(),
    "base64 three times": lambda text: encoded(f"say {text} to", 3),
    "base64 in lines": lambda text: base64.encodebytes(f"{'so it is ' * 9}{text}".encode()).decode().strip(),
    "hexadecimal": lambda text: text.encode().hex(),
    "escapes in base64": lambda text: encoded("say " + "".join(f"%{byte:02x}" for byte in text.encode())),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("value", [EMAIL, CARD, KEY])
def test_another_form_hides_nothing_and_is_cut_out_exactly(form: str, value: str) -> None:
    hidden = FORMS[form](value)
    placeholders = Placeholders()
    said = redact_json({"text": f"see {hidden} there"}, ALL, placeholders)
    assert said in [{"text": f"see <{name}_1> there"} for name in ("EMAIL", "CARD", "GITHUB_TOKEN")]
    assert restore_json(said, placeholders, ALL) == {"text": f"see {hidden} there"}
    assert not detect_json(said)


@pytest.mark.parametrize(
    "text",
    [
        "4111/1111/1111/1111",
        "4111, 1111, 1111, 1111",
        "4111\n1111\n1111\n1111",
        '["4111","1111","1111","1111"]',
        "4*1*1*1*1*1*1*1*1*1*1*1*1*1*1*1",
        "3782|822463|10005",
        "41l1 1111 1lll 1111",
        "4OOO 0000 0000 0002",
        "DE89.3704.0044.0532.0130.00",
        "219/09/9998",
        "jane [at] example [dot] com",
        "jane(at)example.com",
        "jane at example dot com",
        "j\u0430n\u0435@\u0435x\u0430mple.com",
        "\u0410KIAIOSFODNN7EX\u0410MPLE",
        "gh\u0440_" + "aB3d" * 9,
        "p\u0430ssword: hunter2hunter9",
    ],
)
def test_separators_and_letters_that_look_alike_hide_nothing(text: str) -> None:
    assert sum(detect_json({"text": text}).values()) == 1


@pytest.mark.parametrize(
    "text",
    [
        "years 2019, 2020, 2021, 2022 and 2023",
        "100%25 of them, C:\\users\\x41, a\\u0020b",
        encoded("nothing to see in this text at all"),
        "data:image/png;base64," + base64.b64encode(bytes(range(256)) * 4).decode(),
        "sha256:" + "0123456789abcdef" * 4,
        "https://example.com/a%20b?c=d%2Fe",
        "we met at noon, dot the i and cross the t",
        "internationalization_of_configurations",
    ],
)
def test_other_forms_of_harmless_text_are_left(text: str) -> None:
    value = {"text": text}
    assert redact_json(value, ALL, Placeholders()) is value


def test_arguments_that_are_json_within_a_text_are_read_as_json() -> None:
    inner = {"to": EMAIL, "first_name": "Yusuf", "deep": json.dumps({"n": 4111111111111111, "ok": [1, 2.5, None]})}
    call = {"function": {"name": "mail", "arguments": json.dumps(inner)}}
    said = clean(call)
    assert isinstance(said, dict)
    arguments = json.loads(said["function"]["arguments"])
    assert arguments["to"] == "<EMAIL_1>"
    assert arguments["first_name"] == "<PERSON_NAME_1>"
    assert json.loads(arguments["deep"]) == {"n": "<CARD_1>", "ok": [1, 2.5, None]}


def test_a_value_with_quotes_is_put_back_into_json_within_a_text() -> None:
    placeholders = Placeholders()
    call = {"arguments": json.dumps({"first_name": 'Yu"suf \\', "n": 1, "to": EMAIL})}
    said = redact_json(call, ALL, placeholders)
    assert said == {"arguments": '{"first_name": "<PERSON_NAME_1>", "n": 1, "to": "<EMAIL_1>"}'}
    assert restore_json(said, placeholders, ALL) == call
    assert restore_json(said, placeholders, ("secret",)) is said


def test_json_without_findings_keeps_its_bytes() -> None:
    call = {"arguments": '{ "b" : 1.10, "a":[ ] }'}
    assert clean(call) is call


def test_fields_of_results_are_those_of_the_manifests_within_json() -> None:
    detectors = BUILT_IN.with_fields({}, inner={"name": "pii.person_name"})
    body = {"name": "get_weather", "content": '{"name": "Yusuf Rossi"}'}
    said = redact_json(body, ALL, Placeholders(), detectors=detectors)
    assert said == {"name": "get_weather", "content": '{"name": "<PERSON_NAME_1>"}'}


def parts(*texts: str) -> list[dict[str, str]]:
    return [{"type": "text", "text": text} for text in texts]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (("card 4111 1111", " 1111 1111 please"), ("card <CARD_1>", " please")),
        (("4111", " 1111 ", "1111", " 1111"), ("<CARD_1>", "", "", "")),
        (("mail jane@exa", "mple.com now"), ("mail <EMAIL_1>", " now")),
        (("her phone is ", "4155552671"), ("her phone is ", "<PHONE_1>")),
        (("a@example.com", "b@example.com"), ("<EMAIL_1>", "<EMAIL_2>")),
        (("nothing", " here"), ("nothing", " here")),
    ],
)
def test_a_value_that_is_cut_into_parts_is_found_over_them(given: tuple[str, ...], expected: tuple[str, ...]) -> None:
    said = clean({"content": parts(*given)})
    assert isinstance(said, dict)
    texts = [part["text"] for part in said["content"]]
    assert sorted("".join(texts)) == sorted("".join(expected))
    assert not detect_json(said)


def test_what_is_encoded_too_deeply_is_opaque() -> None:
    assert detect_json({"text": encoded(f"say {EMAIL} to", 9)}) == {"opaque": 1}
    text = EMAIL
    for _ in range(9):
        text = urllib.parse.quote(text, safe="")
        text = "".join(f"%{byte:02x}" for byte in text.encode()) if len(text) < 2_000 else text
    assert detect_json({"text": text})["opaque"] == 1
    nested: object = EMAIL
    for _ in range(LEVELS + 2):
        nested = json.dumps([nested])
    assert detect_json(nested)["opaque"] == 1


def test_a_name_that_is_encoded_too_deeply_is_opaque_in_every_request() -> None:
    name = "abcdefghijkl"
    for _ in range(5):
        name = encoded(name).rstrip("=")
    assert name.isidentifier()
    assert [detect_json({name: 1}), detect_json({name: 1})] == [{"opaque": 1}] * 2


def test_a_name_that_is_a_secret_is_found_in_every_request() -> None:
    assert [detect_json({KEY: 1}), detect_json({KEY: 1})] == [{"secret.github_token": 1}] * 2


def test_texts_that_are_nested_as_deeply_as_can_be_are_opaque_and_no_error() -> None:
    nested: object = EMAIL
    for _ in range(LEVELS):
        text = "[" * 30 + json.dumps(nested) + "]" * 30
        nested = text
    found = detect_json([[[nested]]])
    assert found == {"pii.email": 1} or "opaque" in found


HOSTILE = {
    "percent": "%25" * 40_000,
    "backslashes": "\\" * 100_000,
    "escapes": "\\u0025" * 20_000,
    "base64": encoded("say " * 30_000),
    "runs": (encoded("say nothing at all to them") + " ") * 2_500,
    "entities": "&#37;" * 20_000,
    "brackets": "[" * 100_000,
    "json": "[" * 60 + "]" * 60,
}


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.timeout(20)
def test_hostile_text_costs_time_in_proportion(name: str) -> None:
    detect_json({"text": HOSTILE[name]})


@given(st.text(alphabet='%\\ux0123456789abcdefABC=&#;{}[]" \n@.', max_size=60))
def test_any_text_is_read_without_error(text: str) -> None:
    spans, _ = disguised(text, ALL, BUILT_IN)
    assert all(left.end <= right.start for left, right in itertools.pairwise(spans))
    assert all(0 <= span.start < span.end <= len(text) for span in spans)
    assert not {cls for cls in detect_json(clean(text)) if cls != "opaque"}

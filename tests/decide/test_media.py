"""Pictures go on as they are; what only looks like one hides nothing."""

from __future__ import annotations

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from checkrein.decide.detect import BUILT_IN, EVERYTHING
from checkrein.decide.redact import Placeholders, detect_json, redact_json

BEGINS = [
    b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"GIF89a", b"RIFF\x00\x01\x02\x03WEBP", b"RIFF\x00\x01\x02\x03WAVE",
    b"\x00\x00\x00\x18ftypmp42", b"ID3\x03", b"\xff\xfb", b"OggS\x00", b"fLaC",
]  # fmt: skip
#: base64 of a JPEG, as it begins, in which letters stand that look like a key
LIKE_A_KEY = "/9j/AAAA/AKIAIOSFODNN7EXAMPLE/" + "A" * 26


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def parts(data: str, kind: str = "image/png") -> list[dict[str, object]]:
    """A picture or sound in all the places that protocols have for it."""
    url = f"data:{kind};base64,{data}"
    return [
        {"type": "image_url", "image_url": {"url": url}},
        {"type": "input_image", "image_url": url},
        {"type": "input_audio", "input_audio": {"data": data, "format": "wav"}},
        {"type": "image", "data": data, "mimeType": kind},
        {"type": "image_generation_call", "result": data},
        {"b64_json": data},
    ]


def redacted(value: object) -> object:
    return redact_json(value, EVERYTHING, Placeholders())


@given(st.sampled_from(BEGINS), st.binary(min_size=30, max_size=4000))
def test_a_picture_is_never_spoilt(begin: bytes, rest: bytes) -> None:
    given = parts(encoded(begin + rest))
    assert redacted(given) is given
    assert not detect_json(given)


def test_letters_in_a_picture_are_no_key_and_the_same_in_a_text_are() -> None:
    assert redacted(parts(LIKE_A_KEY)) == parts(LIKE_A_KEY)
    for text in (LIKE_A_KEY, f"data:image/jpeg;base64,{LIKE_A_KEY}"):
        for value in ({"text": text}, {"content": text}, [text], {"content": json.dumps(parts(text))}):
            assert detect_json(value)["secret.aws_key"], value


@pytest.mark.parametrize(
    "text",
    [
        encoded(b"write to jane@example.com, or call her today"),
        f"data:image/png;base64,{encoded(b'write to jane@example.com, or call her today')}",
        f"data:text/plain;base64,{LIKE_A_KEY}",
        f"{LIKE_A_KEY} jane@example.com",
        f"{LIKE_A_KEY}\njane@example.com",
        "https://example.com/?mail=jane@example.com",
    ],
)
def test_what_only_calls_itself_a_picture_is_read(text: str) -> None:
    for member in ("url", "image_url", "data"):
        assert detect_json({member: text}), member


def test_a_member_that_a_manifest_calls_personal_is_taken_out_whole() -> None:
    detectors = BUILT_IN.with_fields({"data": "pii.person_name"})
    value = {"data": encoded(BEGINS[0] + bytes(300))}
    assert redact_json(value, EVERYTHING, Placeholders(), detectors=detectors) == {"data": "<PERSON_NAME_1>"}

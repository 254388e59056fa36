"""Finding personal data and secrets in text."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from checkrein.decide.detect import BUILT_IN, Detectors, Span, covers, detect, known
from checkrein.decide.redact import detect_json
from checkrein.decide.rule import Rule


def found(text: str, *classes: str, field: str = "") -> list[tuple[str, str]]:
    spans = detect(text, classes or ("pii", "secret"), field=field)
    return [(span.cls, text[span.start : span.end]) for span in spans]


GITHUB = "ghp_" + "aB3d" * 9
JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.c2lnbmF0dXJl"
PRIVATE_KEY = "-----BEGIN EC PRIVATE KEY-----\nMHcCAQEEIIrYSSNQFaA2Hwf1duRSxKtLYX5CB04f\n-----END EC PRIVATE KEY-----"


@pytest.mark.parametrize(
    ("cls", "value"),
    [
        ("pii.email", "jane.doe@example.com"),
        ("pii.email", "jane+tag@mail.example.co.uk"),
        ("pii.email", "jürgen@münchen.example"),
        ("pii.card", "4111 1111 1111 1111"),
        ("pii.card", "4111-1111-1111-1111"),
        ("pii.card", "5555555555554444"),
        ("pii.card", "378282246310005"),
        ("pii.card", "30569309025904"),
        ("pii.iban", "DE89 3704 0044 0532 0130 00"),
        ("pii.iban", "GB82WEST12345698765432"),
        ("pii.iban", "NO93 8601 1117 947"),
        ("pii.ssn", "219-09-9998"),
        ("pii.ip", "203.0.113.9"),
        ("pii.ip", "2001:db8::8a2e:370:7334"),
        ("pii.phone", "+44 20 7946 0958"),
        ("pii.phone", "+1 (415) 555-2671"),
        ("pii.phone", "(415) 555-2671"),
        ("pii.phone", "415.555.2671"),
        ("secret.aws_key", "AKIAIOSFODNN7EXAMPLE"),
        ("secret.github_token", GITHUB),
        ("secret.openai_key", "sk-proj-abcd1234efgh5678ijkl"),
        ("secret.anthropic_key", "sk-ant-api03-abcd1234efgh5678ijkl"),
        ("secret.slack_token", "xoxb-1234567890-abcdefghij"),
        ("secret.jwt", JWT),
        ("secret.private_key", PRIVATE_KEY),
        ("secret.connection_string", "postgres://app:s3cr3t@db.internal:5432/main"),
    ],
)
def test_each_known_form_is_found_whole(cls: str, value: str) -> None:
    assert found(f"It is {value}, they said.") == [(cls, value)]


@pytest.mark.parametrize(
    "text",
    [
        "Summarize our AI governance policy for internal use.",
        "order 4155552671, sku 1234567890",
        "4111 1111 1111 1112 fails its check digit",
        "DE89 3704 0044 0532 0130 01 fails its check digits",
        "version 1.2.3.4.5 of 2024-01-15, at 12:30:45",
        "std::vector and a::b, localhost is 127.0.0.1",
        "000-12-3456 and 666-12-3456 were never issued",
        "call us on 2024-01-15",
        "total 1,234,567.89 EUR, or $4155552671",
        "sk-learn-is-a-well-known-library-name",
        "your password: must be changed",
        "http://host:8080/path?user=a@b",
        "",
    ],
)
def test_look_alikes_are_left(text: str) -> None:
    assert found(text) == []


def test_bare_digits_are_a_phone_only_with_a_word_nearby() -> None:
    assert found("ticket 4155552671") == []
    assert found("her phone is 4155552671") == [("pii.phone", "4155552671")]
    assert found("4155552671 (mobile)") == [("pii.phone", "4155552671")]
    assert found("4155552671", field="phone_number") == [("pii.phone", "4155552671")]
    assert found("4155552671", field="order_id") == []


def test_bare_digits_are_a_social_security_number_only_with_a_word_nearby() -> None:
    assert found("case 219099998") == []
    assert found("SSN 219099998") == [("pii.ssn", "219099998")]
    assert found("219099998", field="ssn") == [("pii.ssn", "219099998")]


def test_what_stands_beside_a_card_is_left() -> None:
    assert found("4111 1111 1111 1111 123 12/26") == [("pii.card", "4111 1111 1111 1111")]
    assert found("no7 4111111111111111") == [("pii.card", "4111111111111111")]


def test_two_ibans_beside_each_other_are_two() -> None:
    text = "DE89 3704 0044 0532 0130 00 GB82 WEST 1234 5698 7654 32"
    assert [cls for cls, _ in found(text)] == ["pii.iban", "pii.iban"]


def test_only_the_secret_part_of_an_assignment_is_found() -> None:
    assert found("password: hunter2hunter9") == [("secret.password", "hunter2hunter9")]
    assert found("Authorization: Bearer abcdefghij0123456789") == [("secret.bearer_token", "abcdefghij0123456789")]


@pytest.mark.parametrize("hidden", ["\u200b", "\u00ad", "\ufeff", "\u0336", "\x00"])
def test_invisible_characters_hide_nothing(hidden: str) -> None:
    value = hidden.join("4111111111111111")
    assert found(f"card {value}!") == [("pii.card", value)]


def test_other_forms_of_the_same_characters_hide_nothing() -> None:
    wide = str.maketrans({code: code + 0xFEE0 for code in range(0x21, 0x7F)})
    assert found("4111 1111 1111 1111".translate(wide))[0][0] == "pii.card"
    assert found("jane@example.com".translate(wide))[0][0] == "pii.email"
    assert found("4111\u20111111\u20131111\u00a01111")[0][0] == "pii.card"
    assert found("\u0664111111111111111")[0][0] == "pii.card"


def test_offsets_count_characters_whatever_stands_before() -> None:
    text = "日本語 😀 \ud800 e\u0301 jane@example.com"
    (span,) = detect(text)
    assert text[span.start : span.end] == "jane@example.com"


def test_overlapping_findings_become_one_span_of_the_strongest_class() -> None:
    text = "postgres://app:s3cret@db.example.com/x"
    assert found(text) == [("secret.connection_string", text)]


def test_a_prefix_names_every_class_below_it() -> None:
    text = f"jane@example.com {GITHUB}"
    assert [cls for cls, _ in found(text, "pii")] == ["pii.email"]
    assert [cls for cls, _ in found(text, "secret")] == ["secret.github_token"]
    assert found(text, "pii.card") == []
    assert covers(("pii",), "pii.email")
    assert not covers(("pii.e",), "pii.email")


def test_a_class_inside_a_stronger_one_is_still_found_when_asked_for_alone() -> None:
    assert found("postgres://app:s3cret@db.example.com/x", "pii") == [("pii.email", "s3cret@db.example.com")]


def test_known_tells_a_class_from_a_typing_mistake() -> None:
    assert known("pii")
    assert known("pii.email")
    assert not known("pii.emial")


def test_json_is_searched_in_values_names_and_long_numbers() -> None:
    value = {
        "jane@example.com": [{"card": 4111111111111111}],
        "phone": {"home": ["n/a"], "mobile": "4155552671"},
        "n": 5,
    }
    assert detect_json(value) == {"pii.email": 1, "pii.card": 1, "pii.phone": 1}


HOSTILE = {
    "digits": "1 " * 20_000,
    "visas": "4 " * 20_000,
    "dots": "1.2.3." * 8_000,
    "colons": "a:" * 20_000,
    "ibans": "DE12 " * 9_000,
    "urls": "a://a:" * 8_000,
    "keys": "-----BEGIN PRIVATE KEY-----" * 1_600,
    "ats": "a@" * 20_000,
    "pluses": "+" * 40_000,
}


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.timeout(10)
def test_hostile_text_costs_time_in_proportion(name: str) -> None:
    text = HOSTILE[name]
    assert all(0 <= span.start < span.end <= len(text) for span in detect(text))


PIECES = st.sampled_from(
    ["jane@example.com", "4111 1111 1111 1111", "219-09-9998", "phone", "4155552671", "\u200b", "é", " ", ".",
     "password=", "a1b2c3d4", "-----BEGIN PRIVATE KEY-----", "DE89370400440532013000", "203.0.113.9", "@", ":"]
)  # fmt: skip
TEXTS = st.lists(st.one_of(PIECES, st.text(max_size=6)), max_size=12).map("".join)


@given(TEXTS)
def test_spans_are_in_order_and_never_overlap(text: str) -> None:
    spans = detect(text)
    assert all(span.start < span.end for span in spans)
    assert all(left.end <= right.start for left, right in pairwise(spans))
    assert spans == tuple(sorted(spans))
    assert all(isinstance(span, Span) for span in spans)


@pytest.mark.parametrize(
    ("cls", "text", "value"),
    [
        ("pii.card", "card number 630427373398 is lost", "630427373398"),
        ("pii.card", "my JCB is 180016070420458", "180016070420458"),
        ("pii.phone", "Desk: (898)666-3621x0135", "(898)666-3621x0135"),
        ("pii.phone", "They're not answering at 78 651 450", "78 651 450"),
        ("pii.phone", "line 12\\n085 175 7641-Office\\nline", "085 175 7641"),
        ("pii.driver_license", "My driver's license number is F162823540116", "F162823540116"),
        ("pii.passport", "Passport no. C01234567", "C01234567"),
        ("pii.national_id", "RSSMRA85T10A562S", "RSSMRA85T10A562S"),
        ("pii.national_id", "born 850709-9805", "850709-9805"),
        ("pii.national_id", "CPF 529.982.247-25", "529.982.247-25"),
        ("pii.national_id", "her NI: AHV 756.9217.0769.85", "756.9217.0769.85"),
        ("pii.national_id", "PESEL 44051401359", "44051401359"),
        ("pii.national_id", "national insurance number AB 12 34 56 C", "AB 12 34 56 C"),
        ("pii.national_id", "DNI 54362315K", "54362315K"),
        ("secret.checkrein_key", "key crk_0123456789abcdefXYZ", "crk_0123456789abcdefXYZ"),
        ("secret.basic_auth", "Authorization: Basic YWxpY2U6cGFzczEyMw==", "YWxpY2U6cGFzczEyMw=="),
        ("secret.api_token", "use dop_v1_" + "0a" * 32, "dop_v1_" + "0a" * 32),
        ("secret.password", "CLIENT_SECRET=abcd1234efgh", "abcd1234efgh"),
        ("net.url", "see https://intranet.example.com/a?b=c now", "https://intranet.example.com/a?b=c"),
        ("net.domain", "on db1.example.com", "db1.example.com"),
    ],
)
def test_what_stands_nearby_says_what_a_number_is(cls: str, text: str, value: str) -> None:
    assert (cls, value) in found(text, "pii", "secret", cls)


@pytest.mark.parametrize(
    "text",
    ["630427373398", "ref 180016070420458", "78 651 450", "F162823540116", "C01234567", "44051401359", "54362315K"],
)
def test_without_a_word_nearby_a_number_is_a_number(text: str) -> None:
    assert found(text) == []


def test_addresses_on_the_network_are_found_only_where_a_policy_names_them() -> None:
    assert found("see https://example.com") == []
    assert known("net.url")


def test_a_field_says_what_its_value_is() -> None:
    value = {"firstName": "Yusuf", "address": {"zip": 19122, "street_name": "Elm Street 1"}, "name": "Smartphone"}
    assert detect_json(value) == {"pii.person_name": 1, "pii.address": 2}
    assert detect_json({"password": "letmein", "api_key": "see the manual"}) == {"secret.password": 1}
    assert detect_json({"first_name": "<PERSON_NAME_1>", "last_name": ""}) == {}


def test_fields_can_be_declared() -> None:
    detectors = BUILT_IN.with_fields({"Customer-Name": "pii.person_name"})
    assert detect_json({"customer_name": "Yusuf"}, detectors=detectors) == {"pii.person_name": 1}
    assert detect_json({"customer": "Yusuf"}, detectors=detectors) == {}


@given(st.text(alphabet="0123456789-. /ABXYKx", min_size=6, max_size=24))
def test_no_number_stops_detection(text: str) -> None:
    detect(f"national id, driver's license, passport, card, phone {text}")
    detect(text, field="pesel")


@given(
    st.from_regex(r"[0-9]{1,14}", fullmatch=True),
    st.sampled_from(
        ["", "id", "product_id", "phone", "card_no", "ssn", "pesel", "driver_license", "passport_number", "fax"]
    ),
)
def test_a_bare_number_is_judged_as_a_text_of_it_would_be(digits: str, field: str) -> None:
    careful = Detectors((*BUILT_IN.rules, Rule("pii.none", rb"never_there")), BUILT_IN.fields)
    assert detect(digits, field=field) == detect(digits, field=field, detectors=careful)

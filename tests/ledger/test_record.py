from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from checkrein.ledger import Draft, Record
from checkrein.ledger.record import MAX_BYTES, Facets, commitment, decode, encode, facets, mac, place, prepare
from checkrein.model import LedgerInvalid

texts = st.text(st.characters(codec="utf-8"), max_size=20)
scalars = st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | texts
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(st.characters(codec="ascii"), max_size=8), inner, max_size=4)
    ),
    max_leaves=12,
)
bodies = st.dictionaries(st.text(st.characters(codec="ascii"), max_size=8), values, max_size=5)


def record(body: dict[str, Any]) -> Record:
    return encode(Draft("decision", "ab" * 16, body), seq=7, id="rec_7", ts_us=1_767_225_600_000_000)


@given(bodies)
def test_the_bytes_are_rfc_8785(body: dict[str, Any]) -> None:
    data = record(body).data
    assert data == rfc8785.dumps(json.loads(data))


@given(bodies)
def test_a_record_reads_back_as_it_was_written(body: dict[str, Any]) -> None:
    written = record(body)
    assert decode(written.data) == (written, body)
    assert written.body == body


@given(bodies)
def test_preparing_and_placing_is_the_same_as_encoding(body: dict[str, Any]) -> None:
    draft = Draft("decision", "", body)
    assert place(prepare(draft), seq=1, id="rec_1", ts_us=2) == encode(draft, seq=1, id="rec_1", ts_us=2)


@pytest.mark.parametrize("around", [lambda value: value, lambda value: ["ü", {"in": (1, [value])}]])
@pytest.mark.parametrize(
    "value",
    [
        *(1.0, float("nan"), 2**53, -(2**53), b"bytes", {1: "a"}, {"é": 1}, {"a": {1, 2}}, "\ud800", object()),
        *(Decimal("1.5"), datetime(2026, 1, 1, tzinfo=UTC), UUID(int=1), Facets()),
    ],
)
def test_values_that_two_readers_could_read_differently_are_refused(
    value: object, around: Callable[[object], object]
) -> None:
    with pytest.raises(ValueError, match=r".+"):
        record({"value": around(value)})


def test_a_record_that_is_too_long_is_refused() -> None:
    assert len(record({"x": "a" * (MAX_BYTES - 200)}).data) <= MAX_BYTES
    with pytest.raises(ValueError, match="longer than 65535"):
        record({"x": "a" * MAX_BYTES})


@pytest.mark.parametrize(
    ("written", "found"),
    [
        (b'{"body":{}', b'{"body": {}'),
        (b'"v":1', b'"v":1.0'),
        (b'"v":1', b'"v":2'),
        (b'"seq":7', b'"seq":"7"'),
        (b'"seq":7', b'"extra":1,"seq":7'),
        (b'"seq":7,', b""),
        (b'"body":{}', b'"body":{"b":1,"a":2}'),
        (b'"body":{}', b'"body":{"a":1,"a":1}'),
        (b'"body":{}', b'"body":{"a":1.5}'),
        (b'"body":{}', b'"body":{"a":9007199254740992}'),
        (b'"body":{}', b'"body":{"a":-9007199254740992}'),
        (b'"body":{}', b'"body":{"a":[1,99999999999999999999999999]}'),
        (b'"body":{}', '"body":{"é":1}'.encode()),
        (b'"body":{}', b'"body":{"a":"\\u0041"}'),
        (b'"body":{}', b'"body":{"a":-0}'),
        (b'"body":{}', b'"body":{"a":NaN}'),
        (b'"body":{}', b'"body":[]'),
        (b'"body":{}', b'"body":' + b"[" * 5000 + b"]" * 5000),
        (b'"ts_us":1767225600000000', b'"ts_us":9007199254740992'),
    ],
)
def test_bytes_that_are_not_what_would_be_written_are_refused(written: bytes, found: bytes) -> None:
    data = record({}).data
    assert written in data
    with pytest.raises(ValueError, match=r".+"):
        decode(data.replace(written, found, 1))


def test_long_runs_of_digits_in_text_are_no_numbers() -> None:
    body = {"card": "41111111111111111111"}
    assert decode(record(body).data)[1] == body


def test_a_damaged_record_says_which_one_it_is() -> None:
    broken = Record(7, "rec_7", "decision", "", 1, b'{"broken')
    with pytest.raises(LedgerInvalid, match="record 7 cannot be read"):
        _ = broken.body


def test_facets_are_read_from_wherever_a_kind_keeps_them() -> None:
    decided = {
        "actor": {"id": "alice", "agent": "bot"},
        "action": {"name": "send_email"},
        "decision": {"evaluation_id": "evl_1", "outcome": "allow", "risk": {"level": "green"}},
        "approval": {"id": "apr_1"},
    }
    assert facets(decided) == Facets("alice", "bot", "send_email", "allow", "green", "apr_1", "evl_1")
    assert facets({"evaluation_id": "evl_1"}) == Facets(evaluation="evl_1")


@given(values)
def test_facets_of_any_shape_are_text(value: object) -> None:
    body = dict.fromkeys(("actor", "action", "decision", "approval", "evaluation_id"), value)
    assert all(isinstance(getattr(facets(body), name), str) for name in Facets.__struct_fields__)


@given(st.binary(max_size=200), st.binary(max_size=200))
def test_a_commitment_is_hmac_sha256(key: bytes, data: bytes) -> None:
    for _ in range(2):  # also with what is known of the key by then
        assert mac(key, data) == hmac.new(key, data, hashlib.sha256).hexdigest()


def test_a_commitment_depends_on_key_and_value_and_shows_neither() -> None:
    key, value = b"k" * 32, {"to": "ACME", "amount": 1.5}
    made = commitment(key, value)
    assert made == commitment(key, dict(reversed(value.items())))
    assert made != commitment(b"K" * 32, value)
    assert made != commitment(key, {**value, "amount": 2})
    assert len(made) == 64

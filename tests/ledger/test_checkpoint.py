from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from checkrein.ledger import Head
from checkrein.ledger.checkpoint import Checkpoint, Signer, VerifierKey, verify
from checkrein.model import ConfigError, LedgerInvalid

HEAD = Head(1234, bytes(range(32)))
SIGNER = Signer(bytes(32), "example.com/log")
OTHER = Signer(bytes([1]) * 32, "example.com/log")
WITNESS = Signer(bytes([2]) * 32, "witness.example")


def signatures(text: str) -> str:
    return text.partition("\n\n")[2]


def test_a_signed_head_comes_back() -> None:
    assert verify(SIGNER.sign(HEAD), SIGNER.vkey) == HEAD


def test_the_text_is_a_signed_note_with_origin_size_and_root() -> None:
    body, _, tail = SIGNER.sign(HEAD).partition("\n\n")
    assert body.split("\n") == ["example.com/log", "1234", base64.b64encode(HEAD.root).decode()]
    assert tail.startswith("\u2014 example.com/log ")
    assert tail.endswith("\n")


def test_key_ids_are_as_in_the_signed_note_specification() -> None:
    # the example key of the specification and of Go's sumdb/note
    key = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
    assert VerifierKey.parse(key).id.hex() == "c74f20a3"
    assert str(VerifierKey.parse(key)) == key


def test_signatures_by_unknown_keys_are_ignored() -> None:
    text = SIGNER.sign(HEAD)
    body = text.partition("\n\n")[0]
    unknown = f"\u2014 witness.example {base64.b64encode(b'unknown algorithm').decode()}\n"
    both = f"{body}\n\n{unknown}{signatures(OTHER.sign(HEAD))}{signatures(text)}"
    assert verify(both, SIGNER.vkey) == HEAD


@pytest.mark.parametrize("signer", [OTHER, WITNESS])
def test_without_a_signature_by_the_known_key_nothing_is_believed(signer: Signer) -> None:
    with pytest.raises(LedgerInvalid):
        verify(signer.sign(HEAD), SIGNER.vkey)


def test_a_wrong_signature_by_the_known_key_fails_even_beside_a_right_one() -> None:
    good, wrong = SIGNER.sign(HEAD), SIGNER.sign(Head(5, HEAD.root))
    with pytest.raises(LedgerInvalid, match="signature"):
        verify(good + signatures(wrong), SIGNER.vkey)


@given(st.data())
def test_any_changed_character_is_detected(data: st.DataObject) -> None:
    text = SIGNER.sign(HEAD)
    at = data.draw(st.integers(0, len(text) - 1))
    other = data.draw(st.characters(codec="utf-8").filter(lambda char: char != text[at]))
    with pytest.raises(LedgerInvalid):
        verify(text[:at] + other + text[at + 1 :], SIGNER.vkey)


@given(st.text())
def test_any_text_is_either_a_note_or_refused(text: str) -> None:
    with pytest.raises(LedgerInvalid):
        Checkpoint.parse(text)


@pytest.mark.parametrize("size", ["-1", "01", "1.0", "", "\u0661", "1e3", "9" * 40])
def test_a_size_has_one_spelling(size: str) -> None:
    text = SIGNER.sign(HEAD).replace("\n1234\n", f"\n{size}\n")
    with pytest.raises(LedgerInvalid, match="malformed"):
        Checkpoint.parse(text)


@pytest.mark.parametrize("origin", ["", "a b", "a+b", "a\nb", "a\u00a0b"])
def test_an_origin_has_no_spaces_and_no_plus(origin: str) -> None:
    with pytest.raises(ConfigError):
        Signer(bytes(32), origin)


@given(st.binary(min_size=32, max_size=32))
def test_keys_survive_their_text_form(seed: bytes) -> None:
    signer = Signer(seed, "example.com/log")
    assert Signer.from_secret(signer.to_secret() + "\n").vkey == signer.vkey
    assert str(VerifierKey.parse(signer.vkey + "\n")) == signer.vkey


@pytest.mark.parametrize(
    "text",
    ["", "a+b", "example.com/log+00000000+" + "A" * 44, SIGNER.vkey[:-4], SIGNER.vkey.replace("example", "other")],
)
def test_a_damaged_public_key_is_refused_with_a_hint(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        VerifierKey.parse(text)
    assert "signer.pub" in caught.value.hint


def test_an_error_about_a_private_key_never_shows_it() -> None:
    secret = SIGNER.to_secret()
    with pytest.raises(ConfigError) as caught:
        Signer.from_secret(secret[:-6] + "AAAA==")
    assert secret[-30:-8] not in str(caught.value)

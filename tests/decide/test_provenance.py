"""Where the values of control arguments came from."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from checkrein.decide.provenance import Provenance, trace

PROMPT = "Please pay 1,000.00 to ACME Corp and write to bob@corp.example, see /home/x/report.txt."


def of(value: object, **sources: str) -> Provenance:
    return trace({"argument": value}, **sources)["argument"]


@pytest.mark.parametrize(
    "value", ["ACME Corp", "acme  CORP", "\u200bacme", 1000, 1000.0, "1,000", "1000", "bob@corp.example"]
)
def test_a_value_that_the_user_wrote_comes_from_the_prompt(value: object) -> None:
    assert of(value, prompt=PROMPT) is Provenance.PROMPT


@pytest.mark.parametrize(
    "value", ["corp.example", "bob", "report.txt", "ACM", "CME Corp", 100, "000", 10000, "", True, [], {}]
)
def test_a_piece_of_what_the_user_wrote_is_unknown(value: object) -> None:
    assert of(value, prompt=PROMPT) is Provenance.UNKNOWN


def test_a_longer_address_does_not_vouch_for_a_shorter_one() -> None:
    assert of("evil.example", prompt="open https://not-evil.example/x") is Provenance.UNKNOWN
    assert of("bob", prompt="write to bob@elsewhere.example") is Provenance.UNKNOWN


def test_sources_are_asked_from_the_strongest_to_the_weakest() -> None:
    sources = {"endorsed": "acme", "prompt": "acme globex", "untrusted": "acme globex initech"}
    assert of("acme", **sources) is Provenance.ENDORSED
    assert of("globex", **sources) is Provenance.PROMPT
    assert of("initech", **sources) is Provenance.UNTRUSTED
    assert of("hooli", **sources) is Provenance.UNKNOWN


def test_a_directory_vouches_for_exact_values() -> None:
    assert trace({"to": "Acme"}, directory=("ACME",)) == {"to": Provenance.DIRECTORY}
    assert trace({"to": "Acme"}, directory=("ACME Corp",)) == {"to": Provenance.UNKNOWN}


def test_of_several_values_the_weakest_counts() -> None:
    assert of(["acme", "globex"], prompt="acme globex") is Provenance.PROMPT
    assert of(["acme", "globex"], prompt="acme", untrusted="globex") is Provenance.UNTRUSTED
    assert of({"a": "acme", "b": ["hooli"]}, prompt="acme") is Provenance.UNKNOWN


def test_an_absent_argument_has_no_provenance() -> None:
    assert trace({"memo": None}, prompt="x") == {}


@given(st.text(), st.text())
def test_without_positive_evidence_nothing_is_trusted(value: str, untrusted: str) -> None:
    assert not of(value, untrusted=untrusted).trusted


@given(st.text(), st.text(), st.text())
def test_untrusted_text_never_raises_trust(value: str, prompt: str, untrusted: str) -> None:
    alone = of(value, prompt=prompt)
    assert of(value, prompt=prompt, untrusted=untrusted).trusted == alone.trusted

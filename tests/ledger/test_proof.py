"""Proofs that travel alone: C2SP tlog-proof and the body of tlog-witness, held against an independent checker."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tlog_scales.tlog import ConsistencyProof, InclusionProof

from checkrein.ledger.checkpoint import Signer
from checkrein.ledger.proof import HEADER, Growth, Proof, consistency_path, inclusion_path
from checkrein.ledger.rotation import Keys
from checkrein.ledger.tree import Head, consistency_proof, inclusion_proof, leaf_hash, root_of
from checkrein.model import LedgerInvalid

SIGNER = Signer(bytes(range(32)), "example.com/log")
KEYS = Keys.of(SIGNER.vkey)
OTHER = Signer(bytes(32), "example.com/log")
RECORDS = [b"record %d" % at for at in range(90)]
LEAVES = [leaf_hash(data) for data in RECORDS]


def head(size: int) -> Head:
    return Head(size, root_of(LEAVES[:size]))


def proof(index: int = 5, size: int = 21, *, extra: bytes = b"") -> Proof:
    return Proof(index, inclusion_path(LEAVES, index, size), SIGNER.sign(head(size)), extra)


def growth(old: int = 9, size: int = 21) -> Growth:
    return Growth(old, consistency_path(LEAVES, old, size), SIGNER.sign(head(size)))


sizes = st.integers(1, len(LEAVES))


@given(sizes, st.data())
def test_one_pass_over_the_leaves_makes_the_paths_of_the_rfc(size: int, data: st.DataObject):
    index, old = data.draw(st.integers(0, size - 1)), data.draw(st.integers(0, size))
    assert inclusion_path(iter(LEAVES), index, size) == inclusion_proof(LEAVES[:size], index)
    assert consistency_path(iter(LEAVES), old, size) == consistency_proof(LEAVES[:size], old)


@given(sizes, st.data())
def test_an_independent_checker_accepts_the_paths(size: int, data: st.DataObject):
    index, old = data.draw(st.integers(0, size - 1)), data.draw(st.integers(1, size))
    InclusionProof(index, size, list(inclusion_path(LEAVES, index, size))).check(LEAVES[index], head(size).root)
    path = list(consistency_path(LEAVES, old, size))
    ConsistencyProof(old, size, path).check(head(old).root, head(size).root)


@given(sizes, st.data(), st.binary(max_size=40))
def test_a_proof_that_was_written_reads_the_same_and_verifies(size: int, data: st.DataObject, extra: bytes):
    index, old = data.draw(st.integers(0, size - 1)), data.draw(st.integers(0, size))
    one, two = proof(index, size, extra=extra), growth(old, size)
    assert Proof.parse(str(one)) == one
    assert one.verify(SIGNER.vkey, RECORDS[index]) == head(size)
    assert Growth.parse(str(two)) == two
    assert two.verify(KEYS, SIGNER.sign(head(old))) == (head(old), head(size))


def test_a_proof_has_the_lines_of_the_specification():
    lines = str(proof(extra=b"abc")).split("\n")
    assert lines[:3] == [HEADER, "extra YWJj", "index 5"]
    assert len(lines[3:8]) == len(proof().path)
    assert lines[8:11] == ["", "example.com/log", "21"]
    assert str(growth()).startswith("old 9\n")


def test_without_extra_data_there_is_no_such_line():
    assert str(proof()).startswith(f"{HEADER}\nindex 5\n")


@given(st.integers(0, 10**6), st.integers(1, 255))
def test_any_single_byte_change_of_a_proof_is_detected(at: int, flip: int):
    for made, check in (
        (proof(), lambda text: Proof.parse(text).verify(SIGNER.vkey, RECORDS[5])),
        (growth(), lambda text: Growth.parse(text).verify(KEYS, SIGNER.sign(head(9)))),
    ):
        raw = bytearray(str(made).encode())
        raw[at % len(raw)] ^= flip
        with pytest.raises(LedgerInvalid):
            check(raw.decode("utf-8", "replace"))


def test_a_proof_is_of_one_record_only():
    with pytest.raises(LedgerInvalid, match="does not show record 5"):
        proof().verify(SIGNER.vkey, RECORDS[6])


def test_a_proof_counts_only_under_the_known_key():
    with pytest.raises(LedgerInvalid, match="not signed by the known key"):
        proof().verify(OTHER.vkey, RECORDS[5])
    with pytest.raises(LedgerInvalid, match="not signed by the known key"):
        growth().verify(KEYS, OTHER.sign(head(9)))


def test_growth_is_between_these_two_checkpoints_and_no_others():
    with pytest.raises(LedgerInvalid, match="starts at 9 records"):
        growth().verify(KEYS, SIGNER.sign(head(8)))
    forked = Head(9, leaf_hash(b"another history"))
    with pytest.raises(LedgerInvalid, match="does not extend"):
        growth().verify(KEYS, SIGNER.sign(forked))


def test_too_few_leaves_make_no_proof():
    with pytest.raises(ValueError, match="fewer than"):
        inclusion_path(LEAVES[:20], 5, 21)
    with pytest.raises(ValueError, match="fewer than"):
        consistency_path(LEAVES[:20], 9, 21)
    with pytest.raises(ValueError, match="no leaf 21"):
        inclusion_path(LEAVES, 21, 21)
    with pytest.raises(ValueError, match="no prefix"):
        consistency_path(LEAVES, 22, 21)


@pytest.mark.parametrize(
    "text",
    [
        "",
        HEADER,
        f"{HEADER}\n\n",
        f"{HEADER}\nindex 05\n\nx",
        f"{HEADER}\nindex -1\n\nx",
        f"{HEADER}\nindex 1\nnot base64\n\nx",
        f"{HEADER}\nindex 1\nYWJj\n\nx",
        f"{HEADER}\nextra YWJ\nindex 1\n\nx",
        f"{HEADER}\r\nindex 1\n\nx",
        "c2sp.org/tlog-proof@v2\nindex 1\n\nx",
        HEADER + "\nindex 1" + f"\n{'A' * 43}=" * 64 + "\n\nx",
    ],
)
def test_a_malformed_proof_is_refused(text: str):
    with pytest.raises(LedgerInvalid, match="proof is malformed"):
        Proof.parse(text)

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from checkrein.ledger.tree import (
    EMPTY_ROOT,
    Frontier,
    Head,
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    node_hash,
    root_of,
    verify_consistency,
    verify_inclusion,
)
from checkrein.model import LedgerInvalid

# the inputs and roots that certificate transparency implementations share
INPUTS = ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"]
ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]

sizes = st.integers(min_value=1, max_value=80)


def leaves_of(count: int) -> list[bytes]:
    return [leaf_hash(str(at).encode()) for at in range(count)]


def reference_root(leaves: list[bytes]) -> bytes:
    """MTH of RFC 6962, section 2.1, word by word."""
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return leaves[0]
    cut = 1
    while cut * 2 < len(leaves):
        cut *= 2
    return hashlib.sha256(b"\x01" + reference_root(leaves[:cut]) + reference_root(leaves[cut:])).digest()


def test_the_empty_tree_is_the_hash_of_nothing() -> None:
    assert Frontier().root == EMPTY_ROOT == hashlib.sha256(b"").digest()


def test_leaves_and_nodes_are_hashed_under_different_prefixes() -> None:
    assert leaf_hash(b"x" * 64) != node_hash(b"x" * 32, b"x" * 32)


@pytest.mark.parametrize(("count", "root"), list(enumerate(ROOTS, start=1)))
def test_the_known_roots_come_out(count: int, root: str) -> None:
    assert root_of(leaf_hash(bytes.fromhex(text)) for text in INPUTS[:count]).hex() == root


def test_the_frontier_agrees_with_the_definition_at_every_size() -> None:
    leaves = leaves_of(70)
    grown = Frontier()
    for size in range(71):
        assert grown == Frontier().extend(leaves[:size])
        assert grown.root == reference_root(leaves[:size])
        if size < 70:
            grown = grown.append(leaves[size])


@given(sizes, sizes)
def test_a_frontier_goes_on_after_being_stored(first: int, second: int) -> None:
    leaves = leaves_of(first + second)
    stored = Frontier.from_bytes(Frontier().extend(leaves[:first]).to_bytes())
    assert stored.extend(leaves[first:]).root == root_of(leaves)


@given(sizes, st.data())
def test_a_damaged_frontier_is_refused(size: int, data: st.DataObject) -> None:
    stored = Frontier().extend(leaves_of(size)).to_bytes()
    with pytest.raises(LedgerInvalid):
        Frontier.from_bytes(stored[: data.draw(st.integers(0, len(stored) - 1))])


@given(sizes, st.data())
def test_every_leaf_has_an_inclusion_proof(size: int, data: st.DataObject) -> None:
    leaves = leaves_of(size)
    index = data.draw(st.integers(0, size - 1))
    verify_inclusion(Head(size, root_of(leaves)), index, leaves[index], inclusion_proof(leaves, index))


@given(sizes, st.data())
def test_no_other_leaf_place_size_or_proof_is_accepted(size: int, data: st.DataObject) -> None:
    leaves = leaves_of(size)
    index = data.draw(st.integers(0, size - 1))
    head, proof = Head(size, root_of(leaves)), list(inclusion_proof(leaves, index))
    other = data.draw(st.integers(-1, size + 1).filter(lambda at: at != index))
    wrong = [
        (head, index, leaf_hash(b"other"), proof),
        (head, other, leaves[index], proof),
        (Head(size, leaf_hash(b"root")), index, leaves[index], proof),
        (Head(2 * size, head.root), index, leaves[index], proof),
        (head, index, leaves[index], [*proof, leaf_hash(b"more")]),
    ]
    if proof:
        at = data.draw(st.integers(0, len(proof) - 1))
        wrong.append((head, index, leaves[index], proof[:at] + proof[at + 1 :]))
        wrong.append((head, index, leaves[index], [*proof[:at], leaf_hash(b"x"), *proof[at + 1 :]]))
    for arguments in wrong:
        with pytest.raises(LedgerInvalid):
            verify_inclusion(*arguments)


@given(st.integers(0, 80), st.integers(0, 80))
def test_every_prefix_has_a_consistency_proof(first: int, second: int) -> None:
    leaves = leaves_of(first + second)
    old, new = Head(first, root_of(leaves[:first])), Head(len(leaves), root_of(leaves))
    verify_consistency(old, new, consistency_proof(leaves, first))


@given(sizes, sizes, st.data())
def test_a_log_that_was_changed_or_cut_is_not_consistent(first: int, second: int, data: st.DataObject) -> None:
    leaves = leaves_of(first + second)
    at = data.draw(st.integers(0, first - 1))
    changed = [*leaves[:at], leaf_hash(b"changed"), *leaves[at + 1 :]]
    old, new = Head(first, root_of(leaves[:first])), Head(len(leaves), root_of(leaves))
    proof = consistency_proof(leaves, first)
    wrong = [
        (old, Head(len(leaves), root_of(changed)), consistency_proof(changed, first)),
        (Head(first, root_of(changed[:first])), new, proof),
        (old, new, [*proof, leaf_hash(b"more")]),
        (new, old, proof),
        *((old, new, proof[:cut]) for cut in range(len(proof))),
    ]
    for arguments in wrong:
        with pytest.raises(LedgerInvalid):
            verify_consistency(*arguments)


@pytest.mark.parametrize("index", [-1, 3])
def test_there_is_no_proof_for_a_leaf_that_is_not_there(index: int) -> None:
    with pytest.raises(ValueError, match="no leaf"):
        inclusion_proof(leaves_of(3), index)
    with pytest.raises(ValueError, match="no prefix"):
        consistency_proof(leaves_of(3), 4)

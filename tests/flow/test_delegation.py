"""In whose place somebody may vote."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from checkrein.flow.delegation import MAX_HOPS, Delegation, Represented, represented
from checkrein.model.people import Absence, People, Person

NOW = 1_000


def gave(*pairs: str) -> list[Delegation]:
    """`"bob>carol"`: bob gave carol his vote."""
    return [
        Delegation(delegator=pair.split(">")[0], delegate=pair.split(">")[1], version=1, from_us=0, until_us=NOW + 1)
        for pair in pairs
    ]


def names(voter: str, *pairs: str, barred: tuple[str, ...] = ()) -> list[str]:
    return [found.delegator for found in represented(voter, People(), gave(*pairs), NOW, barred)]


def test_a_delegate_votes_in_the_place_of_who_gave_them_their_vote():
    assert names("carol", "bob>carol") == ["bob"]
    assert names("bob", "bob>carol") == []


def test_a_vote_that_is_passed_on_says_over_whom():
    found = represented("dave", People(), gave("bob>carol", "carol>dave"), NOW)
    assert found == (Represented("carol"), Represented("bob", ("carol",)))


def test_a_chain_is_bounded():
    pairs = [f"p{number}>p{number + 1}" for number in range(9)]
    assert names("p9", *pairs) == ["p8", "p7", "p6"]
    assert MAX_HOPS == 3


def test_a_circle_ends_where_it_began():
    assert names("bob", "bob>carol", "carol>bob") == ["carol"]
    assert names("bob", "bob>carol", "carol>dave", "dave>bob") == ["dave", "carol"]


def test_nobody_on_the_principal_chain_is_represented_or_passes_a_vote_on():
    assert names("dave", "bob>alice", "alice>dave", barred=("alice",)) == []
    assert names("alice", "bob>alice", barred=("alice",)) == []


def test_an_absence_delegates_by_itself_and_only_on_its_days():
    bob = Person(delegate="carol", away=(Absence(1, 1),))
    days = [represented("carol", People(people={"bob": bob}), (), day * 86_400_000_000) for day in range(3)]
    assert days == [(), (Represented("bob"),), ()]


def test_a_delegation_holds_from_its_begin_to_its_end_unless_it_is_taken_back():
    given_us = Delegation(delegator="bob", delegate="carol", version=1, from_us=10, until_us=20)
    assert [given_us.holds(at) for at in (9, 10, 19, 20)] == [False, True, True, False]
    assert not Delegation(delegator="b", delegate="c", version=2, from_us=0, until_us=20, ended_us=5).holds(10)


NAMES = st.sampled_from("abcdef")
PAIRS = st.lists(st.tuples(NAMES, NAMES), max_size=12)


@given(PAIRS, NAMES, st.sets(NAMES, max_size=3))
def test_delegation_never_reaches_over_somebody_who_is_barred(
    pairs: list[tuple[str, str]], voter: str, barred: set[str]
):
    given_all = gave(*(f"{one}>{other}" for one, other in pairs))
    edges = set(pairs)
    for found in represented(voter, People(), given_all, NOW, tuple(barred)):
        path = [found.delegator, *found.via, voter]
        assert not barred & set(path)
        assert len(path) - 1 <= MAX_HOPS
        assert len(set(path)) == len(path)
        assert all(step in edges for step in itertools.pairwise(path))

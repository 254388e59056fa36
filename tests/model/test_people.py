"""Who holds which role in a vote."""

from __future__ import annotations

from checkrein.model.people import People, Person

PEOPLE = People(
    people={"bob": Person(roles=("finance",)), "carol": Person(roles=("finance", "security"))},
    oncall={"security-oncall": ("bob",), "finance": ("bob",)},
)


def test_an_on_call_list_is_a_role_of_those_who_stand_on_it():
    assert PEOPLE.roles("bob") == ("finance", "security-oncall")
    assert PEOPLE.roles("carol") == ("finance", "security")
    assert PEOPLE.holders("security-oncall") == ("bob",)


def test_a_stranger_holds_nothing():
    assert PEOPLE.roles("mallory") == ()
    assert PEOPLE.holders("nothing") == ()

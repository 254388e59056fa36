"""Who holds which role in a vote."""

from __future__ import annotations

import pytest

from checkrein.model import BadRequest
from checkrein.model.people import Absence, People, Person

DAY_US = 86_400_000_000

PEOPLE = People(
    people={"bob": Person(roles=("finance",)), "carol": Person(roles=("finance", "security"))},
    oncall={"security-oncall": ("bob",), "finance": ("bob",)},
)


def test_an_on_call_list_is_a_role_of_those_who_stand_on_it():
    assert PEOPLE.roles("bob") == ("finance", "security-oncall")
    assert PEOPLE.roles("carol") == ("finance", "security")
    assert PEOPLE.holders("security-oncall") == ("bob",)


def test_an_absence_is_whole_days_from_the_first_to_the_last():
    absence = Absence.parse("1970-01-03..1970-01-04")
    covered = [day for day in range(6) if absence.covers(day * DAY_US) and absence.covers((day + 1) * DAY_US - 1)]
    assert covered == [2, 3]
    assert absence.bounds_us == (2 * DAY_US, 4 * DAY_US)


@pytest.mark.parametrize("text", ["", "2026-12-20", "2026-12-20..", "2026-13-01..2026-13-02", "2027-01-01..2026-12-31"])
def test_an_absence_that_cannot_be_is_refused(text: str):
    with pytest.raises(BadRequest) as refused:
        Absence.parse(text)
    assert refused.value.hint


def test_a_delegate_stands_in_only_while_somebody_is_away():
    bob = Person(delegate="carol", away=(Absence(2, 3),))
    assert [bob.stands_in(day * DAY_US) for day in (1, 2, 3, 4)] == ["", "carol", "carol", ""]
    assert Person(away=(Absence(0, 9),)).stands_in(0) == ""


def test_a_stranger_holds_nothing():
    assert PEOPLE.roles("mallory") == ()
    assert PEOPLE.holders("nothing") == ()

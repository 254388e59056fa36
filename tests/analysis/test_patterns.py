from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from checkrein.analysis.patterns import TooManyStates, find_text, fits

PIECES = st.lists(st.text("ab", max_size=2), min_size=1, max_size=3).map(tuple)
TEXTS = [text for length in range(5) for text in ("".join(chars) for chars in itertools.product("abz", repeat=length))]


def test_a_text_fits_all_of_these_and_none_of_those() -> None:
    those = [("docs/", ""), ("", ".md"), ("", "2026", "")]
    text = find_text(those, [("docs/2026", "")])
    assert text is not None
    assert all(fits(pieces, text) for pieces in those)
    assert not fits(("docs/2026", ""), text)


@pytest.mark.parametrize(
    ("those", "none_of", "avoid"),
    [
        ([("a", ""), ("b", "")], [], []),
        ([("", "ab", "")], [("", "a", "")], []),
        ([("a", ""), ("", "a")], [("a", "a")], ["a"]),
        ([("abc",)], [("", "b", "")], []),
    ],
)
def test_no_text_is_a_proof(those: list[tuple[str, ...]], none_of: list[tuple[str, ...]], avoid: list[str]) -> None:
    assert find_text(those, none_of, avoid) is None


@settings(max_examples=200)
@given(st.lists(PIECES, max_size=3), st.lists(PIECES, max_size=3), st.lists(st.text("ab", max_size=2), max_size=2))
def test_what_is_found_is_right_and_what_is_not_found_is_not_there(
    those: list[tuple[str, ...]], none_of: list[tuple[str, ...]], avoid: list[str]
) -> None:
    def right(text: str) -> bool:
        return (
            all(fits(pieces, text) for pieces in those)
            and not any(fits(pieces, text) for pieces in none_of)
            and text not in avoid
        )

    found = find_text(those, none_of, avoid)
    assert right(found) if found is not None else not any(map(right, TEXTS))


def test_too_large_a_question_is_given_up() -> None:
    many = [("", chr(ord("a") + n) * 9, "") for n in range(12)]
    with pytest.raises(TooManyStates):
        find_text(many, [("", *(chr(ord("a") + n) for n in range(12)), "")])

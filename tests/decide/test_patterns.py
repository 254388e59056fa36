"""Sets of RE2 patterns."""

from __future__ import annotations

import pytest

from checkrein.decide.patterns import PatternSet


def test_a_set_tells_which_patterns_match_anywhere() -> None:
    found = PatternSet(["b+", "x", "^a"])
    assert found.match(b"abc") == [0, 2]
    assert found.match(b"") == []


def test_an_empty_set_matches_nothing() -> None:
    assert PatternSet([]).match(b"abc") == []


class _GivesUp:
    """RE2 when its automaton has no memory left: it reports no match."""

    def Match(self, text: bytes) -> None:  # noqa: N802 - the name RE2 has
        return None


def test_a_set_that_runs_out_of_memory_is_an_error_and_not_a_miss(monkeypatch: pytest.MonkeyPatch) -> None:
    found = PatternSet(["a"])
    monkeypatch.setattr(found, "_set", _GivesUp())
    with pytest.raises(MemoryError):
        found.match(b"a")

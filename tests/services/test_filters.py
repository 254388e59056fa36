from __future__ import annotations

import pytest

from checkrein.model import BadRequest
from checkrein.model.stamp import moment, stamp
from checkrein.ports import RecordQuery
from checkrein.services.filters import NAMES, is_filtered, query

NOW_US = 1_768_471_200_123_456  # 2026-01-15T10:00:00.123456Z


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("2026-01-15T10:00:00.123456Z", "2026-01-15T10:00:00.123456Z"),
        ("2026-01-15", "2026-01-15T00:00:00.000000Z"),
        ("2026-01-15 08:30", "2026-01-15T08:30:00.000000Z"),
        ("2026-01-15T08:30:00+02:00", "2026-01-15T06:30:00.000000Z"),
        ("2h", "2026-01-15T08:00:00.123456Z"),
        ("90s", "2026-01-15T09:58:30.123456Z"),
        ("7d", "2026-01-08T10:00:00.123456Z"),
    ],
)
def test_a_time_is_a_date_or_so_long_ago(text: str, meant: str) -> None:
    assert stamp(moment(text, NOW_US)) == meant


@pytest.mark.parametrize(
    "text",
    [
        "",
        "yesterday",
        "0h",
        "-2h",
        "2",
        "2h30",
        "2026",
        "2026-13-01",
        "1969-12-31",
        "999999d",
        "0001-01-01",
    ],
)
def test_what_is_no_time_is_refused_and_says_how_to_write_one(text: str) -> None:
    with pytest.raises(BadRequest, match="is no time since 1970") as caught:
        moment(text, NOW_US)
    assert "2026-01-15T10:00:00Z" in caught.value.hint


def test_every_filter_has_its_place_in_the_query() -> None:
    given = {name: name for name in NAMES} | {
        "outcome": "DENY",
        "risk": "red",
        "kind": "a, b,",
        "since": "2h",
        "until": "1h",
    }
    assert query(given, now_us=NOW_US) == RecordQuery(
        user="user",
        agent="agent",
        action="action",
        outcome="deny",
        risk="red",
        trace_id="trace_id",
        approval="approval",
        policy="policy",
        kinds=("a", "b"),
        since_us=NOW_US - 7_200_000_000,
        until_us=NOW_US - 3_600_000_000,
    )
    assert query(dict.fromkeys(NAMES, ""), now_us=NOW_US) == RecordQuery()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"outcome": "perhaps"}, "`perhaps` is no outcome"),
        ({"risk": "purple"}, "`purple` is no risk"),
        ({"since": "1h", "until": "2h"}, "ends before it begins"),
        ({"since": "2026-01-01", "until": "2026-01-01"}, "ends before it begins"),
    ],
)
def test_a_filter_that_would_find_nothing_by_mistake_is_refused(given: dict[str, str], message: str) -> None:
    with pytest.raises(BadRequest, match=message):
        query(given, now_us=NOW_US)


def test_a_limit_and_an_order_are_no_filters() -> None:
    assert not is_filtered(RecordQuery(limit=5, newest_first=True))
    assert is_filtered(RecordQuery(policy="p"))
    assert is_filtered(RecordQuery(after_seq=3))

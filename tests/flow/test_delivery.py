"""One destination: how far it is, when to try again, what it would not take."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from checkrein.flow.delivery import (
    FIRST_WAIT_S,
    LONGEST_WAIT_S,
    MAX_REFUSED,
    Delivery,
    Refused,
    Verdict,
    failed,
    held,
    refused,
    retried,
    taken,
    verdict,
)

NOW = 1_000_000_000


def delivery(**more: Any) -> Delivery:
    return Delivery(**{"name": "siem", "version": 1, "cursor": 9, **more})


@pytest.mark.parametrize(
    ("status", "meant"),
    [
        (200, Verdict.TAKEN),
        (204, Verdict.TAKEN),
        (301, Verdict.FAILED),
        (401, Verdict.FAILED),
        (404, Verdict.FAILED),
        (410, Verdict.FAILED),
        (429, Verdict.FAILED),
        (500, Verdict.FAILED),
        (400, Verdict.REFUSED),
        (413, Verdict.REFUSED),
        (422, Verdict.REFUSED),
    ],
)
def test_only_a_complaint_about_the_content_is_a_refusal(status: int, meant: Verdict):
    assert verdict(status) is meant


def test_what_was_taken_moves_the_cursor_and_ends_the_trouble():
    after = taken(failed(delivery(), "answered 500", NOW, jitter=1), (10, 12), 14, NOW)
    assert (after.cursor, after.delivered, after.last_ok_us) == (14, 2, NOW)
    assert (after.attempts, after.due_us, after.failing_since_us, after.why) == (0, 0, 0, "")


def test_each_failure_waits_twice_as_long_up_to_a_quarter_of_an_hour():
    now, waits = delivery(), []
    for _ in range(14):
        now = failed(now, "answered 500", NOW, jitter=1)
        waits.append((now.due_us - NOW) / 1_000_000)
    assert waits[:4] == [FIRST_WAIT_S, 2, 4, 8]
    assert waits[-1] == LONGEST_WAIT_S
    assert now.cursor == 9
    assert now.failing_since_us == NOW


@given(jitter=st.floats(0, 1), attempts=st.integers(0, 10_000))
def test_a_wait_is_never_shorter_than_half_nor_longer_than_the_longest(jitter: float, attempts: int):
    after = failed(delivery(attempts=attempts), "down", NOW, jitter=jitter)
    assert FIRST_WAIT_S / 2 <= (after.due_us - NOW) / 1_000_000 <= LONGEST_WAIT_S


def test_a_destination_that_asks_for_more_time_gets_it():
    assert failed(delivery(), "answered 429", NOW, jitter=0, retry_after_s=120).due_us == NOW + 120_000_000


def test_a_batch_that_is_refused_is_tried_record_by_record_and_only_the_bad_one_is_put_aside():
    now = refused(delivery(), (10, 11, 12), 12, 400, NOW)
    assert (now.cursor, now.narrow, now.refused) == (9, 3, ())
    now = taken(now, (10,), 10, NOW)
    now = refused(now, (11,), 11, 400, NOW)
    now = taken(now, (12,), 12, NOW)
    assert (now.cursor, now.narrow) == (12, 0)
    assert now.refused == (Refused(11, 400, NOW),)


def test_what_was_put_aside_is_tried_again_on_demand():
    now = retried(refused(delivery(), (10,), 10, 400, NOW))
    assert (now.again, now.refused, now.cursor) == ((10,), (), 10)
    assert taken(now, (10,), -1, NOW).again == ()
    assert refused(now, (10,), -1, 400, NOW).refused == (Refused(10, 400, NOW),)
    assert taken(now, (10,), -1, NOW).cursor == 10


def test_too_much_refused_stops_until_somebody_looks():
    full = delivery(refused=tuple(Refused(seq, 400, NOW) for seq in range(MAX_REFUSED)))
    assert full.halted()
    assert not retried(full).halted()


def test_one_process_serves_until_it_stops_renewing():
    mine = held(delivery(), "me", NOW + 10)
    assert mine.free("me", NOW)
    assert not mine.free("you", NOW)
    assert mine.free("you", NOW + 10)


def test_every_step_is_a_new_version():
    steps = (
        taken(delivery(), (10,), 10, NOW),
        refused(delivery(), (10,), 10, 400, NOW),
        failed(delivery(), "down", NOW, jitter=0),
        retried(delivery()),
        held(delivery(), "me", NOW),
    )
    assert [step.version for step in steps] == [2] * 5
    assert [msgspec.json.decode(msgspec.json.encode(step), type=Delivery) for step in steps] == list(steps)

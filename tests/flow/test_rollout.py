"""Playbooks of one rollout: what was counted and the time in, the next stage or the way back out."""

from __future__ import annotations

import itertools
import random
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from checkrein.flow.rollout import (
    ACTIVE,
    MINUTE_US,
    TRANSITIONS,
    Event,
    IllegalEvent,
    Kind,
    Plan,
    Rollout,
    State,
    Step,
    move,
    on_canary,
    step,
)
from checkrein.flow.window import Difference, Minute, Tally, Window

KEY = b"k" * 32
NOW = 1_000_000 * MINUTE_US


def rollout(state: State = State.LIVE, stage: int = 1, **more: Any) -> Rollout:
    given: dict[str, Any] = {
        "id": "rol_1",
        "kind": Kind.UPSTREAM,
        "stable": "v1",
        "canary": "v2",
        "state": state,
        "stage": stage,
        "verdict": "gat_1",
        "started_by": "alice",
        "created_us": NOW,
        "stage_us": NOW,
    }
    return Rollout(**{**given, **more})


def answers(ended: int, errors: int = 0, slow: int = 0, **more: int) -> Tally:
    return Tally(decided=ended, started=ended, ended=ended, errors=errors, slow=slow, **more)


def counted(minute: int, canary: Tally, stable: Tally | None = None) -> Window:
    """One minute after the start, with ten times the canary's traffic on the stable arm."""
    stable = answers(9 * canary.ended) if stable is None else stable
    return Window((Minute(NOW // MINUTE_US + minute, stable, canary),), cursor=minute)


def play(start: Rollout, windows: list[Window]) -> tuple[Rollout, list[tuple[int, Step]]]:
    """Step once a minute; the rollout at the end and what was to be recorded, with the minute."""
    now, found = start, []
    for minute, window in enumerate(windows, 1):
        now, steps = step(now, window, NOW + minute * MINUTE_US)
        found += [(minute, taken) for taken in steps]
    return now, found


# --- going on -------------------------------------------------------------------------------------------------


def test_a_healthy_canary_goes_through_its_stages_and_is_promoted():
    end, found = play(rollout(), [counted(minute, answers(60)) for minute in range(40)])
    assert [taken.event for _, taken in found] == [Event.PASSED, Event.PASSED, Event.COMPLETED]
    assert [minute for minute, _ in found] == [10, 20, 30]
    assert end.state is State.PROMOTED
    assert end.percent == 100
    assert end.ended_us == NOW + 30 * MINUTE_US


def test_time_alone_promotes_nothing():
    end, found = play(rollout(), [counted(minute, answers(1)) for minute in range(299)])
    assert (end.stage, found) == (1, [])


def test_answers_alone_promote_nothing():
    end, found = step(rollout(), counted(0, answers(100_000)), NOW + MINUTE_US)
    assert (end.stage, found) == (1, ())


def test_missing_answers_count_against_promotion():
    """The canary was asked 60 times a minute and half of it never ended."""
    lost = Tally(decided=60, started=60, ended=30)
    end, found = play(rollout(), [counted(minute, lost) for minute in range(60)])
    assert (end.stage, found) == (1, [])


def test_a_stage_without_evidence_goes_back():
    start = rollout()
    end, found = step(start, Window(), NOW + start.plan.stage_hours * 60 * MINUTE_US + 1)
    assert end.state is State.ROLLED_BACK
    assert "no evidence: the canary did not reach 300 sound answers within 24 hours" in found[0].why


def test_each_stage_is_judged_by_its_own_answers():
    end, _ = play(rollout(), [counted(minute, answers(60)) for minute in range(10)])
    assert (end.stage, end.percent) == (2, 50)
    assert end.canary_total == Tally()
    assert end.recent == ()
    assert end.evidence == {}


# --- going back -----------------------------------------------------------------------------------------------


def test_more_than_one_percent_of_errors_in_five_minutes_in_a_row_goes_back():
    """On both arms, so that the comparison with the control says nothing: the literal rule does."""
    bad = [counted(minute, answers(200, errors=4), answers(1800, errors=36)) for minute in range(10)]
    end, found = play(rollout(), bad)
    assert end.state is State.ROLLED_BACK
    assert found[0][0] == 6  # the sixth step closes the fifth minute
    assert end.why == ("in 5 minutes in a row more than 1.0% of the canary's answers failed",)


def test_slow_answers_in_five_minutes_in_a_row_go_back():
    bad = [counted(minute, answers(200, slow=20), answers(1800, slow=180)) for minute in range(10)]
    end, _ = play(rollout(), bad)
    assert end.why == ("in 5 minutes in a row more than 5.0% of the canary's answers took longer than 3000 ms",)


@pytest.mark.parametrize("gap", [Tally(), answers(200), answers(20, errors=5)], ids=["empty", "sound", "too few"])
def test_a_minute_between_breaks_the_row(gap: Tally):
    shared = answers(1800, errors=36)
    bad = [counted(minute, answers(200, errors=4), shared) for minute in range(9)]
    bad[4] = counted(4, gap, answers(1800, errors=450))
    end, found = play(rollout(), bad)
    assert (end.state, found) == (State.LIVE, [])


def test_errors_of_the_canary_alone_go_back_before_five_minutes_are_over():
    bad = [counted(minute, answers(60, errors=6), answers(540, errors=3)) for minute in range(10)]
    end, found = play(rollout(), bad)
    assert end.state is State.ROLLED_BACK
    assert found[0][0] <= 3
    assert end.why[0].startswith("errors: canary ")
    assert "stable 3 of 540" in end.why[0] or "stable 6 of 1080" in end.why[0] or "stable 9 of 1620" in end.why[0]


def test_the_open_minute_counts_at_once():
    end, _ = step(rollout(), counted(0, answers(60, errors=30), answers(540)), NOW + 5_000_000)
    assert end.state is State.ROLLED_BACK


@pytest.mark.parametrize(("what", "word"), [("denied", "denials"), ("reviewed", "reviews")])
def test_a_canary_that_denies_or_asks_far_more_often_goes_back(what: str, word: str):
    bad = [counted(minute, answers(60, **{what: 30}), answers(540, **{what: 54})) for minute in range(10)]
    end, _ = play(rollout(), bad)
    assert end.state is State.ROLLED_BACK
    assert end.why[0].startswith(f"{word}: canary ")


def test_tolerated_odds_are_tolerated():
    similar = [counted(minute, answers(60, denied=8), answers(540, denied=54)) for minute in range(9)]
    end, found = play(rollout(), similar)
    assert (end.state, found) == (State.LIVE, [])


def test_a_paused_rollout_still_goes_back():
    paused = move(rollout(), Event.PAUSE, NOW)
    end, _ = step(paused, counted(0, answers(60, errors=30), answers(540)), NOW + 5_000_000)
    assert end.state is State.ROLLED_BACK
    assert end.percent == 0


def test_a_paused_rollout_never_goes_on():
    paused = move(rollout(), Event.PAUSE, NOW)
    end, found = play(paused, [counted(minute, answers(600)) for minute in range(60)])
    assert (end.state, end.percent, found) == (State.PAUSED, 10, [])


# --- the shadow -----------------------------------------------------------------------------------------------


def difference(*, loosens: bool, **more: Any) -> Difference:
    outcomes = ("deny", "allow") if loosens else ("allow", "deny")
    given = {"action": "send_email", "before": outcomes[0], "after": outcomes[1], "loosens": loosens}
    return Difference(**{**given, "count": 1, "example": "evl_1", **more})


@pytest.mark.parametrize(
    ("found", "state"),
    [((), State.LIVE), ((difference(loosens=False),), State.LIVE), ((difference(loosens=True),), State.WAITING)],
    ids=["none", "stricter", "loosened"],
)
def test_nothing_that_loosens_goes_live_unseen(found: tuple[Difference, ...], state: State):
    shadow = rollout(State.SHADOW, stage=0, kind=Kind.POLICY)
    windows = [counted(minute, answers(60), answers(60)) for minute in range(10)]
    windows[3] = msgspec.structs.replace(windows[3], differences=found)
    end, _ = play(shadow, windows)
    assert end.state is state
    assert end.percent == (10 if state is State.LIVE else 0)


def test_people_agree_before_what_is_loosened_goes_live():
    waiting = rollout(State.WAITING, stage=0, kind=Kind.POLICY)
    assert move(waiting, Event.AGREED, NOW).percent == 10
    assert move(waiting, Event.REFUSED, NOW).state is State.ABORTED


def test_waiting_for_people_lasts_as_long_as_they_take():
    waiting = rollout(State.WAITING, stage=0, kind=Kind.POLICY)
    assert step(waiting, Window(), NOW + 10**9 * MINUTE_US) == (waiting, ())


def test_equal_differences_are_counted_together():
    shadow = rollout(State.SHADOW, stage=0, kind=Kind.POLICY)
    found = Window(differences=(difference(loosens=True), difference(loosens=True, example="evl_2")))
    end, _ = step(shadow, found, NOW)
    assert [(kind.count, kind.example) for kind in end.differences] == [(2, "evl_1")]


# --- the table ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("state", "event"), list(itertools.product(State, Event)))
def test_every_event_does_what_the_table_says_or_raises_and_changes_nothing(state: State, event: Event):
    before = rollout(state, stage=0 if state in (State.SHADOW, State.WAITING) else 1)
    if event not in TRANSITIONS[state]:
        with pytest.raises(IllegalEvent, match="rol_1"):
            move(before, event, NOW)
        return
    after = move(before, event, NOW)
    assert after.state in TRANSITIONS[state][event]
    assert after.version == before.version + 1
    assert bool(after.ended_us) == (after.state not in ACTIVE)


def test_resuming_leads_back_to_where_it_was_paused():
    for start in (rollout(State.SHADOW, stage=0), rollout(State.LIVE, stage=2)):
        back = move(move(start, Event.PAUSE, NOW), Event.RESUME, NOW)
        assert (back.state, back.stage) == (start.state, start.stage)


def test_a_rollout_that_ended_takes_nothing_in():
    for state in set(State) - set(ACTIVE):
        ended = rollout(state)
        assert step(ended, counted(0, answers(9, errors=9)), NOW) == (ended, ())


def test_what_is_stored_is_read_back():
    end, _ = play(rollout(), [counted(minute, answers(60, errors=1)) for minute in range(3)])
    assert msgspec.json.decode(msgspec.json.encode(end), type=Rollout) == end


# --- who is on the canary -------------------------------------------------------------------------------------


def test_the_canary_gets_its_share():
    live = rollout()
    assert 900 <= sum(on_canary(live, f"session-{number}", KEY) for number in range(10_000)) <= 1100


@given(st.text(min_size=1))
def test_whoever_is_on_the_canary_stays_on_it_in_later_stages(unit: str):
    arms = [on_canary(rollout(stage=stage), unit, KEY) for stage in (1, 2, 3)]
    assert arms == sorted(arms)
    assert arms[2]


@pytest.mark.parametrize("state", [State.SHADOW, State.WAITING, State.ROLLED_BACK, State.ABORTED, State.UNDONE])
def test_nobody_is_on_a_canary_that_is_not_live(state: State):
    idle = rollout(state, stage=0 if state in (State.SHADOW, State.WAITING) else 3)
    assert not any(on_canary(idle, str(unit), KEY) for unit in range(1000))


# --- how often it is right ------------------------------------------------------------------------------------


def simulate(seed: int, per_minute: int, canary_rate: float, stable_rate: float, minutes: int) -> int | None:
    """The minute in which a canary of 10 % is rolled back; the plan never goes on by itself."""
    draw = random.Random(seed)  # noqa: S311
    now = rollout(plan=Plan(stage_count=10**9))
    for minute in range(minutes):
        mine = sum(draw.random() < 0.1 for _ in range(per_minute))
        bad = [
            sum(draw.random() < rate for _ in range(n))
            for rate, n in ((canary_rate, mine), (stable_rate, per_minute - mine))
        ]
        window = counted(minute, answers(mine, errors=bad[0]), answers(per_minute - mine, errors=bad[1]))
        now, _ = step(now, window, NOW + minute * MINUTE_US)
        if now.state is State.ROLLED_BACK:
            return minute + 1
    return None


def test_healthy_canaries_are_left_alone():
    ended = [simulate(seed, 600, 0.005, 0.005, 60) for seed in range(100)]
    assert sum(minute is not None for minute in ended) <= 2


def test_five_percent_of_errors_are_found_within_three_minutes():
    """10 requests a second, a tenth of them on the canary, half a percent of errors on the stable arm."""
    ended = sorted(simulate(seed, 600, 0.05, 0.005, 60) or 99 for seed in range(100))
    assert ended[50] <= 3
    assert ended[-1] < 99

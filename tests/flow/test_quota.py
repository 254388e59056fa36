"""What somebody used and whether they may use more: no clock, no store, only values."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from checkrein.flow.quota import (
    DAY_US,
    MINUTE_US,
    SLOT_US,
    Account,
    Amount,
    Quota,
    Refusal,
    Used,
    at,
    reserve,
    settle,
    used,
)

#: 2026-01-31 23:00 UTC: an hour before the end of a day and a month
START_US = 1_769_900_400_000_000
SECOND_US = 1_000_000
NOTHING = Amount()
STEPS = st.lists(st.integers(0, 20 * SECOND_US), max_size=60)


def let_in(account: Account, quota: Quota, wish: Amount = NOTHING, now_us: int = START_US) -> Account:
    made = reserve(account, quota, wish, now_us)
    assert isinstance(made, Account), made
    return made


def refused(account: Account, quota: Quota, wish: Amount = NOTHING, now_us: int = START_US) -> Refusal:
    made = reserve(account, quota, wish, now_us)
    assert isinstance(made, Refusal)
    return made


def test_without_a_quota_everything_is_let_in_and_counted():
    account = Account()
    for _ in range(3):
        account = let_in(account, Quota(), Amount(10, 5))
    assert used(account, START_US) == Used(
        requests_minute=3, tokens_minute=30, running=3, requests_today=3, spend_today=15, spend_month=15
    )


@pytest.mark.parametrize(
    "quota",
    [
        Quota(requests_per_minute=0),
        Quota(tokens_per_minute=0),
        Quota(concurrency=0),
        Quota(spend_per_day=0),
        Quota(spend_per_month=0),
    ],
)
def test_a_limit_of_nothing_lets_nothing_in_and_waiting_does_not_help(quota: Quota):
    assert refused(Account(), quota, Amount(1, 1)).retry_after_s == 0


def test_more_than_the_whole_limit_at_once_never_fits():
    for quota in (Quota(tokens_per_minute=10), Quota(spend_per_day=10), Quota(spend_per_month=10)):
        assert refused(Account(), quota, Amount(11, 11)).retry_after_s == 0


@given(STEPS, st.integers(1, 5))
def test_in_no_sixty_seconds_more_is_let_through_than_the_limit_says(steps: list[int], limit: int):
    account, now, passed = Account(), START_US, list[int]()
    for step in steps:
        now += step
        made = reserve(account, Quota(requests_per_minute=limit), NOTHING, now)
        if isinstance(made, Account):
            account = made
            passed.append(now)
    for time in passed:
        assert sum(time - MINUTE_US < other <= time for other in passed) <= limit


@given(st.lists(st.tuples(st.integers(0, 20 * SECOND_US), st.integers(0, 30)), max_size=60))
def test_in_no_sixty_seconds_more_tokens_are_held_than_the_limit_says(steps: list[tuple[int, int]]):
    account, now, passed = Account(), START_US, list[tuple[int, int]]()
    for step, tokens in steps:
        now += step
        made = reserve(account, Quota(tokens_per_minute=50), Amount(tokens), now)
        if isinstance(made, Account):
            account = made
            passed.append((now, tokens))
    for time, _ in passed:
        assert sum(tokens for other, tokens in passed if time - MINUTE_US < other <= time) <= 50


@given(st.lists(st.tuples(st.integers(0, 20 * SECOND_US), st.integers(0, 10**10)), max_size=40))
def test_a_clock_that_is_set_back_frees_nobody(steps: list[tuple[int, int]]):
    account, real, back, passed = Account(), START_US, 0, list[int]()
    for step, set_back in steps:
        real, back = real + step, back + set_back
        made = reserve(account, Quota(requests_per_minute=3), NOTHING, real - back)
        if isinstance(made, Account):
            account = made
            passed.append(real)
    for time in passed:
        assert sum(time - MINUTE_US < other <= time for other in passed) <= 3


@given(st.integers(0, 10**14))
def test_a_clock_that_is_set_back_blocks_nobody_for_longer_than_a_minute(back: int):
    quota = Quota(requests_per_minute=1)
    account = let_in(Account(), quota)
    wait = refused(account, quota, now_us=START_US - back).retry_after_s
    assert wait <= (MINUTE_US + SLOT_US) // SECOND_US
    made = reserve(at(account, START_US - back), quota, NOTHING, START_US - back + wait * SECOND_US)
    assert isinstance(made, Account)


@given(st.integers(1, 400))
def test_a_day_that_is_gone_back_to_does_not_give_its_budget_again(days: int):
    quota = Quota(spend_per_day=10)
    account = settle(let_in(Account(), quota, Amount(0, 10)), Amount(0, 10), Amount(0, 10), START_US, START_US)
    assert refused(account, quota, Amount(0, 1), START_US - days * DAY_US).limit == "spend_per_day"


@given(STEPS, st.sampled_from(["requests_per_minute", "tokens_per_minute", "spend_per_day", "spend_per_month"]))
def test_after_the_wait_that_was_told_it_is_let_in(steps: list[int], limit: str):
    quota, wish = Quota(**{limit: 4}), Amount(1, 1)
    account, now = Account(), START_US
    for step in steps:
        now += step
        made = reserve(account, quota, wish, now)
        if isinstance(made, Account):
            account = settle(made, wish, wish, now, now)
        else:
            assert made.retry_after_s > 0
            let_in(account, quota, wish, now + made.retry_after_s * SECOND_US)


def test_a_new_day_and_a_new_month_begin_with_nothing_spent():
    quota = Quota(spend_per_day=10, spend_per_month=10)
    account = settle(let_in(Account(), quota, Amount(0, 10)), Amount(0, 10), Amount(0, 10), START_US, START_US)
    assert refused(account, quota, Amount(0, 1)) == Refusal("spend_per_day", 10, 3600)
    assert used(account, START_US + 3_600 * SECOND_US) == Used()


def test_what_runs_over_midnight_is_held_on_both_days_and_spent_on_the_second():
    account = let_in(Account(), Quota(), Amount(0, 7))
    later = START_US + DAY_US
    assert used(account, later).spend_today == 7
    assert used(settle(account, Amount(0, 7), Amount(0, 3), START_US, later), later).spend_today == 3


@given(st.lists(st.one_of(st.just("in"), st.integers(0, 9)), max_size=60), st.integers(1, 4))
def test_never_more_run_than_the_limit_says_and_all_that_ends_makes_room(moves: list[object], limit: int):
    account, running = Account(), 0
    for move in moves:
        if move == "in":
            made = reserve(account, Quota(concurrency=limit), NOTHING, START_US)
            assert isinstance(made, Account) == (running < limit)
            account, running = (made, running + 1) if isinstance(made, Account) else (account, running)
        elif running:
            account, running = settle(account, NOTHING, NOTHING, START_US, START_US), running - 1
        assert account.running == running <= limit


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 100), st.booleans()), max_size=60))
def test_held_and_spent_never_pass_a_budget_while_nothing_costs_more_than_was_held(
    moves: list[tuple[int, int, bool]],
):
    account, open_ = Account(), list[int]()
    for cost, share, ends in moves:
        if ends and open_:
            held = open_.pop()
            account = settle(account, Amount(0, held), Amount(0, held * share // 100), START_US, START_US)
        else:
            made = reserve(account, Quota(spend_per_day=100), Amount(0, cost), START_US)
            if isinstance(made, Account):
                account = made
                open_.append(cost)
        assert account.held == sum(open_)
        assert account.day_spent + account.held <= 100


@given(st.integers(0, 100), st.integers(0, 100), st.integers(0, 30 * SECOND_US))
def test_what_is_let_go_leaves_nothing_but_the_count_of_the_request(tokens: int, cost: int, lasted: int):
    account = let_in(Account(), Quota(), Amount(tokens, cost))
    ended = settle(account, Amount(tokens, cost), NOTHING, START_US, START_US + lasted)
    assert used(ended, START_US + lasted) == Used(requests_minute=1, requests_today=1)


def test_tokens_that_were_held_too_many_are_given_back_and_too_few_count_when_they_are_known():
    account = let_in(Account(), Quota(), Amount(10))
    end = START_US + 30 * SECOND_US
    assert used(settle(account, Amount(10), Amount(4), START_US, end), end).tokens_minute == 4
    more = settle(account, Amount(10), Amount(25), START_US, end)
    assert used(more, end).tokens_minute == 25
    assert used(more, START_US + MINUTE_US + SLOT_US).tokens_minute == 15


def test_one_that_runs_elsewhere_is_counted_and_holds_nothing():
    made = reserve(Account(), Quota(concurrency=1), Amount(5, 5), START_US, runs=False)
    assert isinstance(made, Account)
    assert (made.running, made.held, used(made, START_US).requests_minute) == (0, 0, 1)


def test_what_only_running_actions_hold_may_be_free_in_a_moment():
    account = let_in(Account(), Quota(), Amount(0, 10))
    assert refused(account, Quota(spend_per_day=10), Amount(0, 1)).retry_after_s == 1


@given(STEPS)
def test_an_account_stays_small_and_comes_back_from_its_bytes(steps: list[int]):
    account, now = Account(), START_US
    for step in steps:
        now += step
        account = let_in(account, Quota(), Amount(1, 1), now)
    assert len(account.slots) <= MINUTE_US // SLOT_US + 1
    assert msgspec.json.decode(msgspec.json.encode(account), type=Account) == account

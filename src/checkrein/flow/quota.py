"""What somebody used, and whether they may use more: an account and a wish in, an account or a refusal out.

    reserve -> running -> settle         `tokens` and `cost` are held as expected, then counted as they were

Requests and tokens a minute count in slots of five seconds, and a slot counts as long as any of it may be younger than
a minute: in no sixty seconds more is let through than the limit says. What runs and what it may cost is held from its
start to its end. Days and months are those of UTC, and a cost counts for the day on which it is settled.

The clock is not believed backwards: what was counted at a later time counts as of now, so that a clock set back neither
frees nor blocks anybody for longer than a minute, and a day's spending stays spent. Money is in billionths.
"""

from __future__ import annotations

import datetime

import msgspec

from checkrein.model.usage import Used

SLOT_US = 5_000_000
MINUTE_US = 60_000_000
DAY_US = 86_400_000_000
_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)


class Quota(msgspec.Struct, frozen=True, kw_only=True):
    """What one may use; None is no limit, 0 lets nothing through. Spending in billionths.

    How often people are asked is counted like requests, on an account of its own.
    """

    requests_per_minute: int | None = None
    reviews_per_minute: int | None = None
    tokens_per_minute: int | None = None
    concurrency: int | None = None
    spend_per_day: int | None = None
    spend_per_month: int | None = None


class Amount(msgspec.Struct, frozen=True):
    """What an action uses: tokens, and their cost in billionths."""

    tokens: int = 0
    cost: int = 0


class Reservation(msgspec.Struct, frozen=True):
    """What an action holds, on which accounts, and since when."""

    accounts: tuple[str, ...]
    amount: Amount
    at_us: int


class Price(msgspec.Struct, frozen=True):
    """What a thousand tokens cost, in and out, in billionths."""

    input: int = 0
    output: int = 0

    def cost(self, tokens_in: int, tokens_out: int) -> int:
        """In billionths, rounded up."""
        return -(-(tokens_in * self.input + tokens_out * self.output) // 1000)


class Slot(msgspec.Struct, frozen=True, array_like=True):
    """Five seconds, by their number since 1970."""

    at: int
    requests: int = 0
    tokens: int = 0


class Account(msgspec.Struct, frozen=True, array_like=True):
    """What one used. `held` is what the running actions may cost; `day` and `month` say what the sums are of."""

    slots: tuple[Slot, ...] = ()
    running: int = 0
    held: int = 0
    day: int = 0
    day_requests: int = 0
    day_tokens: int = 0
    day_spent: int = 0
    month: int = 0
    month_spent: int = 0


class Refusal(msgspec.Struct, frozen=True):
    """The member of `Quota` that is used up. It is free again in `retry_after_s`; 0 if waiting does not help."""

    limit: str
    allowed: int
    retry_after_s: int


def reserve(account: Account, quota: Quota, wish: Amount, now_us: int, *, runs: bool = True) -> Account | Refusal:
    """Count a request that begins now, and hold what it may use, unless that is more than is left.

    One that does not `run` here is counted and holds nothing, because nobody will say how it ended.
    """
    account = at(account, now_us)
    if refused := _refused(account, quota, wish, now_us, runs=runs):
        return refused
    return msgspec.structs.replace(
        account,
        slots=_counted(account.slots, now_us, 1, wish.tokens),
        running=account.running + runs,
        held=account.held + (wish.cost if runs else 0),
        day_requests=account.day_requests + 1,
    )


def settle(account: Account, held: Amount, used: Amount, since_us: int, now_us: int) -> Account:
    """An action that was reserved at `since_us` has ended: what was held is let go, what was used is counted.

    Tokens that were held too many are given back to their slot, those that were held too few count now.
    """
    account = at(account, now_us)
    slots, more = account.slots, used.tokens - held.tokens
    if more > 0:
        slots = _counted(slots, now_us, 0, more)
    elif more < 0:
        slot = min(since_us, now_us) // SLOT_US
        slots = tuple(Slot(s.at, s.requests, max(0, s.tokens + more)) if s.at == slot else s for s in slots)
    return msgspec.structs.replace(
        account,
        slots=slots,
        running=max(0, account.running - 1),
        held=max(0, account.held - held.cost),
        day_tokens=account.day_tokens + used.tokens,
        day_spent=account.day_spent + used.cost,
        month_spent=account.month_spent + used.cost,
    )


def at(account: Account, now_us: int) -> Account:
    """The account as it counts now: what is over is left out, what seems to be still to come counts as of now."""
    slot, oldest = now_us // SLOT_US, (now_us - MINUTE_US) // SLOT_US
    day, slots = now_us // DAY_US, account.slots
    if slots and (slots[0].at < oldest or slots[-1].at > slot):
        ahead = [s for s in slots if s.at > slot]
        slots = tuple(s for s in slots if oldest <= s.at <= slot)
        if ahead:
            slots = _counted(slots, now_us, sum(s.requests for s in ahead), sum(s.tokens for s in ahead))
    if account.day == day:
        return account if slots is account.slots else msgspec.structs.replace(account, slots=slots)
    month = _month(now_us)
    new_day, new_month = account.day < day, account.month < month
    return msgspec.structs.replace(
        account,
        slots=slots,
        day=day,
        day_requests=0 if new_day else account.day_requests,
        day_tokens=0 if new_day else account.day_tokens,
        day_spent=0 if new_day else account.day_spent,
        month=month,
        month_spent=0 if new_month else account.month_spent,
    )


def used(account: Account, now_us: int) -> Used:
    account = at(account, now_us)
    return Used(
        requests_minute=sum(slot.requests for slot in account.slots),
        tokens_minute=sum(slot.tokens for slot in account.slots),
        running=account.running,
        requests_today=account.day_requests,
        tokens_today=account.day_tokens,
        spend_today=account.day_spent + account.held,
        spend_month=account.month_spent + account.held,
    )


def _refused(account: Account, quota: Quota, wish: Amount, now_us: int, *, runs: bool) -> Refusal | None:
    requests, tokens, slots = quota.requests_per_minute, quota.tokens_per_minute, account.slots
    if requests is not None and 1 + sum([slot.requests for slot in slots]) > requests:
        wait = _wait([(slot.at, slot.requests) for slot in slots], 1, requests, now_us)
        return Refusal("requests_per_minute", requests, wait)
    if tokens is not None and wish.tokens + sum([slot.tokens for slot in slots]) > tokens:
        wait = _wait([(slot.at, slot.tokens) for slot in slots], wish.tokens, tokens, now_us)
        return Refusal("tokens_per_minute", tokens, wait)
    if quota.concurrency is not None and account.running + 1 > quota.concurrency and runs:
        return Refusal("concurrency", quota.concurrency, 1 if quota.concurrency else 0)
    spent = (
        ("spend_per_day", quota.spend_per_day, account.day_spent, (account.day + 1) * DAY_US),
        ("spend_per_month", quota.spend_per_month, account.month_spent, _start(account.month + 1)),
    )
    for name, limit, sum_, over_us in spent:
        # what is used up lets nothing through, however little that would cost
        if limit is not None and (sum_ + account.held + wish.cost > limit or sum_ + account.held >= limit):
            if wish.cost > limit or not limit:
                return Refusal(name, limit, 0)
            only_held = sum_ < limit and sum_ + wish.cost <= limit
            return Refusal(name, limit, 1 if only_held else _seconds(over_us - now_us))
    return None


def _wait(taken: list[tuple[int, int]], wish: int, limit: int, now_us: int) -> int:
    """Seconds until so much more fits in the minute beside what is taken by slot; 0 if it never will."""
    if wish > limit:
        return 0
    left = limit - wish - sum(count for _, count in taken)
    for slot, count in taken:
        left += count
        if left >= 0:
            return _seconds((slot + 1) * SLOT_US + MINUTE_US - now_us)
    return 0


def _counted(slots: tuple[Slot, ...], now_us: int, requests: int, tokens: int) -> tuple[Slot, ...]:
    """The slots with so much more in the newest, which is that of now."""
    now = now_us // SLOT_US
    if slots and slots[-1].at == now:
        last = slots[-1]
        return (*slots[:-1], Slot(now, last.requests + requests, last.tokens + tokens))
    return (*slots, Slot(now, requests, tokens))


def _seconds(us: int) -> int:
    return max(1, -(-us // 1_000_000))


def _month(now_us: int) -> int:
    moment = _EPOCH + datetime.timedelta(microseconds=now_us)
    return moment.year * 12 + moment.month - 1


def _start(month: int) -> int:
    """When a month begins, microseconds since 1970."""
    begins = datetime.datetime(month // 12, month % 12 + 1, 1, tzinfo=datetime.UTC)
    return (begins - _EPOCH) // datetime.timedelta(microseconds=1)

"""Limits: rates, concurrency and budgets, held in the very transaction that lets an action run.

Each of those that an action is of (its key, agent, subject, model or tool, and everything) has an account in a row of
its own. `flow.quota` moves it, inside the unit that records the start, so of many callers in many processes exactly as
many get through as fit, and an account and the ledger never disagree. The end of the action settles what was held, in
the unit that records the end; what a process that died had held is let go by recovery, from the record of the start.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import msgspec

from checkrein.flow import quota as flow
from checkrein.flow.quota import Account, Amount, Quota, Refusal, Reservation
from checkrein.model import LedgerInvalid, StoreConflict
from checkrein.model.target import Target, What
from checkrein.model.usage import NANO, Usage, Used
from checkrein.ports import Clock, Move, Store
from checkrein.services.pdp import Barred

ROOM = "account"
#: how often people were asked for somebody, by the same ids
ASKED = "asked"
#: whose accounts policies see
SEEN = (What.SUBJECT, What.AGENT, What.KEY)
#: targets whose quota is remembered
_REMEMBERED = 4096
_PAGE = 500
#: the word of each limit for callers, and the form of its sentence
WORDS: Mapping[str, tuple[str, str]] = {
    "requests_per_minute": ("rate_limit_exceeded", "{} requests a minute"),
    "reviews_per_minute": ("rate_limit_exceeded", "{} reviews a minute"),
    "tokens_per_minute": ("token_limit_exceeded", "{} tokens a minute"),
    "concurrency": ("concurrency_exceeded", "{} actions at once"),
    "spend_per_day": ("budget_exceeded", "a budget of {} a day"),
    "spend_per_month": ("budget_exceeded", "a budget of {} a month"),
}
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Account).decode


class Exceeded(StoreConflict):
    """A limit refused the unit; nothing of it was written."""

    def __init__(self, target: Target, refusal: Refusal) -> None:
        super().__init__(f"`{target}` has used up its limit", hint="")
        code, words = WORDS[refusal.limit]
        allowed = money(refusal.allowed) if refusal.limit.startswith("spend") else str(refusal.allowed)
        self.barred = Barred(
            reason=f"`{target}` has {words.format(allowed)}, and this would be more",
            by=f"limit:{target}:{refusal.limit}",
            code=code,
            retry_after_s=refusal.retry_after_s,
        )


class Line(msgspec.Struct, frozen=True):
    """An account as people look at it, with the quota that holds for it."""

    target: Target
    used: Used
    quota: Quota

    def to_json(self) -> dict[str, object]:
        """Money as text, with all its places."""
        limits = {name: value for name, value in msgspec.structs.asdict(self.quota).items() if value is not None}
        used = msgspec.structs.asdict(self.used)
        shown = {"what": self.target.what.value, "name": self.target.name}
        return {**shown, "used": _shown(used), "limits": _shown(limits)}


class Limits:
    """`quotas` are those of the configuration. Of several that fit, that of the very name counts, else the longest."""

    def __init__(self, store: Store, clock: Clock, quotas: Mapping[Target, Quota]) -> None:
        self._store = store
        self._clock = clock
        self.quotas = {target.folded: quota for target, quota in quotas.items()}
        self._known: dict[Target, Quota | None] = {}

    def quota(self, target: Target) -> Quota | None:
        """What holds for one, folded; None if nothing does."""
        if target in self._known:
            return self._known[target]
        if len(self._known) >= _REMEMBERED:
            self._known.clear()
        fitting = [given for given in self.quotas if given.fits(target)]
        best = max(fitting, key=lambda given: (given == target, len(given.name)), default=None)
        found = self._known[target] = self.quotas[best] if best else None
        return found

    def reserve(
        self, those: tuple[Target, ...], wish: Amount, now_us: int, *, runs: bool, every: bool = False
    ) -> tuple[tuple[Move, ...], Reservation | None]:
        """What to write with the decision that lets an action run, and what it then holds if it `runs` here.

        Of `those`, as from `targets`, they are counted for whom a limit stands, and with `every` those that policies
        see.
        """
        moves: list[Move] = []
        for target in those:
            quota = self.quota(target)
            if quota is not None or (every and target.what in SEEN):
                moves.append(Move(ROOM, str(target), _reserving(target, quota or Quota(), wish, now_us, runs=runs)))
        if not moves or not runs:
            return tuple(moves), None
        return tuple(moves), Reservation(tuple(move.id for move in moves), wish, now_us)

    def asking(self, those: tuple[Target, ...], now_us: int) -> tuple[Move, ...]:
        """What to write when people are asked anew about an action of `those`."""
        found = ((target, quota.reviews_per_minute) for target in those if (quota := self.quota(target)))
        return tuple(
            Move(ASKED, str(target), _asking(target, most, now_us)) for target, most in found if most is not None
        )

    def used(self, target: Target) -> Used:
        """What one, folded, has used so far."""
        row = self._store.row(ROOM, str(target))
        return flow.used(read(row.body if row else None), self._clock.now_us())

    def usage(self, those: tuple[Target, ...]) -> Usage:
        """What policies see of those who act."""
        found = {target.what: target for target in reversed(those)}
        return Usage(*(self.used(found[what]) if what in found else Used() for what in SEEN))

    def lines(self, wanted: Callable[[Target], bool] = lambda target: True) -> Iterator[Line]:
        """Every account that is wanted, by kind and name, then every limit for one name that used nothing yet."""
        now_us, after = self._clock.now_us(), ""
        idle = {target for target in self.quotas if "*" not in target.name and wanted(target)}
        while rows := self._store.rows(ROOM, after=after, limit=_PAGE):
            for row in rows:
                what, _, name = row.id.partition(":")
                target = Target(What(what), name)
                idle.discard(target)
                if wanted(target):
                    yield Line(target, flow.used(read(row.body), now_us), self.quota(target) or Quota())
            after = rows[-1].id
        for target in sorted(idle, key=str):
            yield Line(target, Used(), self.quota(target) or Quota())


def wanting(what: str, name: str = "") -> Callable[[Target], bool]:
    """Whether one is meant: all without `what`, all of a kind without `name`. Raises `BadRequest`."""
    if not what and not name:
        return lambda target: True
    meant = Target.parse(what, "" if what == What.EVERYTHING else name or "*").folded
    return meant.fits


def settled(held: Reservation, used: Amount, now_us: int) -> tuple[Move, ...]:
    """What to write with the end of an action that used so much: nothing of what it held stays held."""

    def apply(body: bytes | None) -> bytes:
        return _encode(flow.settle(read(body), held.amount, used, held.at_us, now_us))

    return tuple(Move(ROOM, id, apply) for id in held.accounts)


def released(body: Mapping[str, object], now_us: int) -> tuple[Move, ...]:
    """What lets go of all that a start held, by its record, when nobody knows how it ended."""
    given = body.get("reserved")
    if given is None:
        return ()
    try:
        held = msgspec.convert(given, Reservation)
    except msgspec.ValidationError as error:
        raise LedgerInvalid("a start does not say what it holds", hint="run `checkrein audit verify`") from error
    return settled(held, Amount(), now_us)


def read(body: bytes | None) -> Account:
    """The account; raises `LedgerInvalid` for one that checkrein did not write."""
    try:
        return _decode(body) if body else Account()
    except (ValueError, RecursionError) as error:
        raise LedgerInvalid(
            "an account in the store is not what checkrein wrote", hint="restore the database from a backup"
        ) from error


def _shown(values: Mapping[str, int]) -> dict[str, object]:
    return {name: money(value) if name.startswith("spend") else value for name, value in values.items()}


def money(nano: int) -> str:
    """Billionths as a decimal number, with two places at least and no needless ones."""
    whole, rest = divmod(nano, NANO)
    places = f"{rest:09d}".rstrip("0").ljust(2, "0")
    return f"{whole}.{places}"


def _reserving(
    target: Target, quota: Quota, wish: Amount, now_us: int, *, runs: bool
) -> Callable[[bytes | None], bytes]:
    def apply(body: bytes | None) -> bytes:
        made = flow.reserve(read(body), quota, wish, now_us, runs=runs)
        if isinstance(made, Refusal):
            raise Exceeded(target, made)
        return _encode(made)

    return apply


def _asking(target: Target, most: int, now_us: int) -> Callable[[bytes | None], bytes]:
    """A review counts as a request does, for a limit of its own."""

    def apply(body: bytes | None) -> bytes:
        made = flow.reserve(read(body), Quota(requests_per_minute=most), Amount(), now_us, runs=False)
        if isinstance(made, Refusal):
            raise Exceeded(target, msgspec.structs.replace(made, limit="reviews_per_minute"))
        return _encode(made)

    return apply

"""One destination that is told of every record: how far it is, when to try again, what it would not take.

The ledger is the queue; this is the cursor. Pure: time and jitter are handed in, and `services.outbox` does what
`wanted` says. A destination that is down is tried again for as long as it takes, since nothing is lost meanwhile; only
what it refuses as such is put aside, one record at a time.
"""

from __future__ import annotations

import enum

import msgspec

FIRST_WAIT_S, LONGEST_WAIT_S = 1.0, 900.0
#: records that may be put aside before somebody must look
MAX_REFUSED = 1_000


class Verdict(enum.Enum):
    """What an answer means for what was sent."""

    TAKEN = "taken"
    #: the content is at fault: the same again would be refused again
    REFUSED = "refused"
    #: the destination is at fault, or its settings here are
    FAILED = "failed"


_REFUSALS = frozenset({400, 413, 415, 422})


def verdict(status: int) -> Verdict:
    """By HTTP status. A redirect is not followed, so it failed; so did a wrong address or key, which can be mended."""
    if 200 <= status < 300:
        return Verdict.TAKEN
    return Verdict.REFUSED if status in _REFUSALS else Verdict.FAILED


class Refused(msgspec.Struct, frozen=True):
    """A record that the destination would not take."""

    seq: int
    status: int
    at_us: int


class Delivery(msgspec.Struct, frozen=True, kw_only=True):
    """How far one destination is. `cursor` is the last record that needs nothing more; times in microseconds."""

    name: str
    version: int = 0
    cursor: int
    delivered: int = 0
    last_ok_us: int = 0
    attempts: int = 0
    due_us: int = 0
    failing_since_us: int = 0
    why: str = ""
    #: so many of the next records go one by one, since together they were refused
    narrow: int = 0
    refused: tuple[Refused, ...] = ()
    #: refused records that are to be tried again
    again: tuple[int, ...] = ()
    holder: str = ""
    held_until_us: int = 0

    def halted(self) -> bool:
        """Whether so much was refused that somebody must look first."""
        return len(self.refused) >= MAX_REFUSED

    def free(self, holder: str, now_us: int) -> bool:
        """Whether this holder may send: it does already, nobody does, or who did has stopped."""
        return self.holder in ("", holder) or now_us >= self.held_until_us


def held(delivery: Delivery, holder: str, until_us: int) -> Delivery:
    return _next(delivery, holder=holder, held_until_us=until_us)


def taken(delivery: Delivery, seqs: tuple[int, ...], upto: int, now_us: int) -> Delivery:
    """These records were taken; everything up to `upto` needs nothing more."""
    return _next(
        delivery,
        cursor=max(delivery.cursor, upto),
        delivered=delivery.delivered + len(seqs),
        last_ok_us=now_us if seqs else delivery.last_ok_us,
        attempts=0,
        due_us=0,
        failing_since_us=0,
        why="",
        narrow=max(0, delivery.narrow - len(seqs)),
        again=tuple(seq for seq in delivery.again if seq not in seqs),
    )


def refused(delivery: Delivery, seqs: tuple[int, ...], upto: int, status: int, now_us: int) -> Delivery:
    """The content was refused. Of several records each is tried by itself; a single one is put aside."""
    if len(seqs) > 1:
        return _next(delivery, narrow=len(seqs), why=f"refused {len(seqs)} records together with {status}")
    (seq,) = seqs
    aside = tuple(one for one in delivery.refused if one.seq != seq)
    return _next(
        delivery,
        cursor=max(delivery.cursor, upto),
        narrow=max(0, delivery.narrow - 1),
        refused=(*aside, Refused(seq, status, now_us)),
        again=tuple(one for one in delivery.again if one != seq),
        why=f"refused record {seq} with {status}",
    )


def failed(delivery: Delivery, why: str, now_us: int, *, jitter: float, retry_after_s: float = 0.0) -> Delivery:
    """Try again later: twice as late each time, but at most a quarter of an hour unless it asks for more.

    `jitter` is between 0 and 1, so that many do not come back at the same moment.
    """
    wait = min(LONGEST_WAIT_S, FIRST_WAIT_S * 2.0 ** min(delivery.attempts, 20)) * (0.5 + jitter / 2)
    wait = max(wait, min(retry_after_s, 24 * 3600.0))
    return _next(
        delivery,
        attempts=delivery.attempts + 1,
        due_us=now_us + int(wait * 1_000_000),
        failing_since_us=delivery.failing_since_us or now_us,
        why=why,
    )


def retried(delivery: Delivery) -> Delivery:
    """Everything that was put aside is to be tried again, and at once."""
    seqs = tuple(dict.fromkeys((*delivery.again, *(one.seq for one in delivery.refused))))
    return _next(delivery, refused=(), again=seqs, attempts=0, due_us=0)


def _next(delivery: Delivery, **changed: object) -> Delivery:
    return msgspec.structs.replace(delivery, version=delivery.version + 1, **changed)

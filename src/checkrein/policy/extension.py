"""Cedar's extension types: decimal, ipaddr, datetime and duration, with their parsers and methods.

They follow Cedar to the last digit; what Cedar refuses raises `EvaluationError`.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Mapping
from functools import lru_cache

import msgspec

from checkrein.policy.failure import EvaluationError

_MIN, _MAX = -(2**63), 2**63 - 1
_DAY = 86_400_000


def within(value: int) -> int:
    """The value if it fits 64 bits, as every integer of Cedar must."""
    if _MIN <= value <= _MAX:
        return value
    raise EvaluationError("integer overflow")


class Decimal(msgspec.Struct, frozen=True):
    """A number with four decimals; `units` are ten-thousandths."""

    units: int

    @staticmethod
    @lru_cache(maxsize=4096)
    def parse(text: str) -> Decimal:
        match = _DECIMAL.fullmatch(text)
        if match is None:
            raise EvaluationError("not a decimal: write it like `12.50`")
        if len(match[3]) > 4:
            raise EvaluationError("a decimal has at most four digits after the point")
        units = int(match[2]) * 10_000 + int(match[3].ljust(4, "0"))
        return Decimal(within(-units if match[1] else units))

    def __str__(self) -> str:
        whole, part = divmod(abs(self.units), 10_000)
        return f"{'-' if self.units < 0 else ''}{whole}.{part:04}"


_DECIMAL = re.compile(r"(-?)([0-9]{1,30})\.([0-9]{1,30})")


class Ip(msgspec.Struct, frozen=True):
    """An address or a range of addresses: `version` is 4 or 6, `prefix` the length of the network part."""

    version: int
    address: int
    prefix: int

    @classmethod
    def parse(cls, text: str) -> Ip:
        head, slash, tail = text.partition("/")
        wrong = EvaluationError("not an IP address or range")
        if len(text) > 43 or "%" in text or (":" in text and "." in text):
            raise wrong
        try:
            address = ipaddress.ip_address(head)
        except ValueError:
            raise wrong from None
        width = address.max_prefixlen
        if slash and (not _PREFIX.fullmatch(tail) or int(tail) > width):
            raise wrong
        return cls(address.version, int(address), int(tail) if slash else width)

    def __str__(self) -> str:
        address = ipaddress.IPv4Address if self.version == 4 else ipaddress.IPv6Address
        return f"{address(self.address)}/{self.prefix}"

    def _bounds(self) -> tuple[int, int]:
        host = (1 << ((32 if self.version == 4 else 128) - self.prefix)) - 1
        return self.address & ~host, self.address | host

    def is_in_range(self, other: Ip) -> bool:
        if self.version != other.version:
            return False
        (low, high), (least, most) = self._bounds(), other._bounds()
        return least <= low and high <= most

    def is_loopback(self) -> bool:
        return self.is_in_range(_LOOPBACK[self.version])

    def is_multicast(self) -> bool:
        return self.is_in_range(_MULTICAST[self.version])


_PREFIX = re.compile(r"0|[1-9][0-9]{0,2}")
_LOOPBACK = {4: Ip.parse("127.0.0.0/8"), 6: Ip.parse("::1")}
_MULTICAST = {4: Ip.parse("224.0.0.0/4"), 6: Ip.parse("ff00::/8")}


class Duration(msgspec.Struct, frozen=True):
    """A length of time in milliseconds; may be negative."""

    ms: int

    @classmethod
    def parse(cls, text: str) -> Duration:
        match = _DURATION.fullmatch(text)
        if match is None or not any(match.groups()[1:]):
            raise EvaluationError("not a duration: write it like `1d2h30m` or `-90s`")
        total = sum(int(part) * unit for part, unit in zip(match.groups()[1:], _UNITS, strict=True) if part)
        return cls(within(-total if match[1] else total))

    def __str__(self) -> str:
        return f"{self.ms}ms"

    def whole(self, unit: int) -> int:
        """Whole units, cut towards zero."""
        return -(-self.ms // unit) if self.ms < 0 else self.ms // unit


_DURATION = re.compile(r"(-?)(?:(\d{1,30})d)?(?:(\d{1,30})h)?(?:(\d{1,30})m)?(?:(\d{1,30})s)?(?:(\d{1,30})ms)?", re.A)
_UNITS = (_DAY, 3_600_000, 60_000, 1_000, 1)


class Datetime(msgspec.Struct, frozen=True):
    """A moment: milliseconds since 1970, UTC."""

    ms: int

    @classmethod
    def parse(cls, text: str) -> Datetime:
        match = _DATETIME.fullmatch(text)
        if match is None:
            raise EvaluationError("not a datetime: write it like `2026-01-31` or `2026-01-31T12:00:00Z`")
        year, month, day = int(match[1]), int(match[2]), int(match[3])
        hour, minute, second = int(match[4] or 0), int(match[5] or 0), int(match[6] or 0)
        away, beside = int(match[9] or 0), int(match[10] or 0)
        if not (1 <= month <= 12 and 1 <= day <= _days_of(year, month)):
            raise EvaluationError("not a datetime: there is no such day")
        if hour > 23 or minute > 59 or second > 59 or away > 23 or beside > 59:
            raise EvaluationError("not a datetime: there is no such time of day")
        shift = (away * 60 + beside) * (-60_000 if match[8] == "-" else 60_000)
        clock = ((hour * 60 + minute) * 60 + second) * 1_000 + int(match[7] or 0)
        return cls(_days_since_1970(year, month, day) * _DAY + clock - shift)

    def offset(self, span: Duration) -> Datetime:
        return Datetime(within(self.ms + span.ms))

    def since(self, other: Datetime) -> Duration:
        return Duration(within(self.ms - other.ms))

    def date(self) -> Datetime:
        return Datetime(within(self.ms // _DAY * _DAY))

    def time(self) -> Duration:
        return Duration(self.ms % _DAY)


_DATETIME = re.compile(
    r"(\d{4})-(\d{2})-(\d{2})(?:T(\d{2}):(\d{2}):(\d{2})(?:\.(\d{3}))?(?:Z|([+-])(\d{2})(\d{2})))?", re.A
)


def _leap(year: int) -> bool:
    return year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)


def _days_of(year: int, month: int) -> int:
    return 29 if month == 2 and _leap(year) else (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)[month - 1]


def _days_since_1970(year: int, month: int, day: int) -> int:
    """Of the Gregorian calendar extended to the year 0, which Python's own dates do not reach."""
    before = year - 1
    days = before * 365 + before // 4 - before // 100 + before // 400
    days += sum(_days_of(year, earlier) for earlier in range(1, month)) + day - 1
    return days - 719_162


CONSTRUCTORS: Mapping[str, Callable[[str], Decimal | Ip | Datetime | Duration]] = {
    "decimal": Decimal.parse,
    "ip": Ip.parse,
    "datetime": Datetime.parse,
    "duration": Duration.parse,
}

#: method -> types of its arguments, and what it does with them
METHODS: Mapping[str, tuple[tuple[type, ...], Callable[..., object]]] = {
    "lessThan": ((Decimal, Decimal), lambda a, b: a.units < b.units),
    "lessThanOrEqual": ((Decimal, Decimal), lambda a, b: a.units <= b.units),
    "greaterThan": ((Decimal, Decimal), lambda a, b: a.units > b.units),
    "greaterThanOrEqual": ((Decimal, Decimal), lambda a, b: a.units >= b.units),
    "isIpv4": ((Ip,), lambda a: a.version == 4),
    "isIpv6": ((Ip,), lambda a: a.version == 6),
    "isLoopback": ((Ip,), Ip.is_loopback),
    "isMulticast": ((Ip,), Ip.is_multicast),
    "isInRange": ((Ip, Ip), Ip.is_in_range),
    "offset": ((Datetime, Duration), Datetime.offset),
    "durationSince": ((Datetime, Datetime), Datetime.since),
    "toDate": ((Datetime,), Datetime.date),
    "toTime": ((Datetime,), Datetime.time),
    "toMilliseconds": ((Duration,), lambda a: a.ms),
    "toSeconds": ((Duration,), lambda a: a.whole(1_000)),
    "toMinutes": ((Duration,), lambda a: a.whole(60_000)),
    "toHours": ((Duration,), lambda a: a.whole(3_600_000)),
    "toDays": ((Duration,), lambda a: a.whole(_DAY)),
}

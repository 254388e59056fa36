"""Times as people read them: RFC 3339, UTC."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from checkrein.model.errors import BadRequest
from checkrein.model.requirement import parse_span

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def stamp(us: int) -> str:
    """`2026-01-15T10:00:00.123456Z` for microseconds since 1970."""
    return (_EPOCH + timedelta(microseconds=us)).isoformat(timespec="microseconds").replace("+00:00", "Z")


def moment(text: str, now_us: int) -> int:
    """Microseconds since 1970 of `2026-01-15T10:00:00Z`, of `2026-01-15`, or of `2h`, which is so long ago.

    Without an offset it is UTC. Raises `BadRequest` for anything else, and for times before 1970.
    """
    try:
        if text[:4].isdecimal() and "-" in text:
            read = datetime.fromisoformat(text)
            us = ((read if read.tzinfo else read.replace(tzinfo=UTC)) - _EPOCH) // timedelta(microseconds=1)
        else:
            us = now_us - parse_span(text) * 1_000_000
    except (ValueError, OverflowError, BadRequest) as error:
        raise _no_moment(text) from error
    if us <= 0:
        raise _no_moment(text)
    return us


def _no_moment(text: str) -> BadRequest:
    hint = "write it as `2026-01-15`, `2026-01-15T10:00:00Z`, or `2h` for two hours ago"
    return BadRequest(f"`{text[:80]}` is no time since 1970", hint=hint)

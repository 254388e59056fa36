"""Server-sent events (WHATWG HTML, section 9.2) as they arrive: whole events, each with its original bytes.

Only `data` is decided. So of the other lines none goes on that could hold words: comments, ids, fields nobody knows.
What is left of an event without data is a bare comment, which keeps the connection alive.
"""

from __future__ import annotations

import re

import msgspec

from checkrein.model import BadRequest, UpstreamUnavailable
from checkrein.model.json import load_object

#: a longer event is refused; the last one of a response holds all of its text
MAX_EVENT_BYTES = 16 * 1024 * 1024
#: what closes a stream of chat completions
DONE = b"[DONE]"

#: two line ends; a CR may be the half of one until more is known
_END = re.compile(rb"(?:\r\n|\n|\r(?=[^\n])){2}")
_BOM = b"\xef\xbb\xbf"
_ALIVE = b":\n\n"
_KIND = re.compile(rb"event: ?[A-Za-z_.]{1,64}")


class Event(msgspec.Struct, frozen=True):
    """One event: its bytes as they may go on, with the blank line that ends it, and what its `data` lines hold."""

    raw: bytes
    data: bytes = b""

    @property
    def done(self) -> bool:
        return self.data.strip() == DONE


class Splitter:
    """Bytes in, whole events out. `close` gives what is left when the stream ends without a blank line."""

    def __init__(self) -> None:
        self._left = b""
        #: whether there was a CR, which few streams have
        self._returns = False

    def feed(self, part: bytes) -> list[Event]:
        start = max(len(self._left) - 3, 0)  # an end may have begun in the part before
        data = self._left + part
        self._returns = self._returns or b"\r" in part
        raws, self._left = _cut(data, start) if self._returns else _cut_at_blank_lines(data, start)
        if len(self._left) > MAX_EVENT_BYTES:
            raise unreadable("an event that does not end")
        return [_event(raw) for raw in raws]

    def close(self) -> list[Event]:
        left, self._left = self._left, b""
        return [_event(left)] if left else []


def _cut(data: bytes, start: int) -> tuple[list[bytes], bytes]:
    """The events, and what is left; none ends before `start`."""
    raws: list[bytes] = []
    place = 0
    while found := _END.search(data, start):
        raws.append(data[place : found.end()])
        place = start = found.end()
    return raws, data[place:]


def _cut_at_blank_lines(data: bytes, start: int) -> tuple[list[bytes], bytes]:
    """The same where no line ends with a CR."""
    if data.find(b"\n\n", start) < 0:
        return [], data
    *lines, left = data.split(b"\n\n")
    return [line + b"\n\n" for line in lines], left


def _event(raw: bytes) -> Event:
    data = raw[6:-2]
    if raw.startswith(b"data: ") and raw.endswith(b"\n\n") and b"\n" not in data and b"\r" not in data:
        return Event(raw, data)  # the form that nearly all have
    lines = [line.removeprefix(_BOM) for line in raw.splitlines()]
    given = [line[5:].removeprefix(b" ") for line in lines if line.startswith(b"data:")]
    if not given:
        return Event(_ALIVE)
    kept = [line for line in lines if line.startswith(b"data:") or _KIND.fullmatch(line)]
    if len(kept) < sum(map(bool, lines)):
        raw = b"\n".join(kept) + b"\n\n"
    return Event(raw, b"\n".join(given))


def unreadable(what: str) -> UpstreamUnavailable:
    """The upstream sent something that cannot be decided, so nobody sees it."""
    return UpstreamUnavailable(f"the upstream sent {what}", hint="look at its log; it may have run")


def load(data: bytes, what: str) -> dict[str, object]:
    """A JSON object from the upstream, read strictly; raises `UpstreamUnavailable`."""
    try:
        return load_object(data)
    except BadRequest:
        raise unreadable(f"{what} that cannot be read") from None


def dump(value: object, kind: str = "") -> Event:
    """An event of our own; `kind` for its `event` line."""
    data = msgspec.json.encode(value)
    head = b"event: " + kind.encode() + b"\n" if kind else b""
    return Event(head + b"data: " + data + b"\n\n", data)

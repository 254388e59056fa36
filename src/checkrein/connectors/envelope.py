"""What the events of one text have in common: all but the words. Of the next one like it only the words are read.

Two events that are the same bytes but for what stands in one JSON text are the same value but for that text.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from checkrein.connectors.completions import Json
from checkrein.model import BadRequest
from checkrein.model.json import load_object

#: stands in the place of the words, to see that it is their place
_OTHER = "other words"
_text = msgspec.json.Decoder(str).decode
_encode = msgspec.json.Encoder().encode


class Envelope(msgspec.Struct, frozen=True):
    """The bytes before and behind the words of an event."""

    head: bytes
    tail: bytes

    def words(self, data: bytes) -> str:
        """The words of an event that is like this one; empty for any other."""
        if data.startswith(self.head) and data.endswith(self.tail):
            try:
                return _text(data[len(self.head) : len(data) - len(self.tail)])
            except (msgspec.DecodeError, UnicodeDecodeError):  # it is something else, or for others to refuse
                return ""
        return ""


def envelope(data: bytes, words: str, read: Callable[[Json], str]) -> Envelope | None:
    """What is around the words in an event, if that can be told; `read` finds the words in its value."""
    given = _encode(words)
    place = data.find(given)
    if place < 0 or words == _OTHER:  # then any member that says the same would seem to be their place
        return None
    found = Envelope(data[:place], data[place + len(given) :])
    try:
        other = load_object(found.head + _encode(_OTHER) + found.tail)
    except BadRequest:
        return None
    return found if read(other) == _OTHER else None

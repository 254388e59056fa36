"""The words of a stream: released as far as they are decided, redacted where policy says so.

As long as nothing is taken out, the events go on as they came, each once all of its words are released. From the first
word that is taken out on, events are told anew: each with the words that are released by then.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any, Protocol

import msgspec

from checkrein.connectors.completions import ABOUT, ABOUT_CHOICE, SILENT, Json, choices, index_of, is_over, messages
from checkrein.connectors.sse import Event, dump, unreadable
from checkrein.services.speech import Speech, Voice

#: where a text stands in a stream
Place = tuple[str | int, ...]


class Form(Protocol):
    """What a protocol's events look like."""

    def texts(self, value: Json) -> Iterator[tuple[Place, str]]:
        """The pieces of texts in an event, each with the place of its text."""

    def field(self, place: Place) -> str:
        """The name of the member that the text stands in, if that says what it is."""

    def put(self, value: Json, place: Place, text: str) -> None:
        """Replace the piece that stands there."""

    def over(self, value: Json, under_way: Iterable[Place]) -> list[Place]:
        """Which of the texts under way end with this event."""

    def piece(self, place: Place, text: str) -> Event:
        """An event with one more piece of the text."""

    def event(self, value: Json) -> Event:
        """The event told anew."""

    def redact(self, value: Json, speech: Speech) -> bool:
        """Redact in place what is said whole in this event; whether something was."""


class _Held(msgspec.Struct, frozen=True):
    """An event that waits for its words to be released."""

    event: Event
    value: Json
    texts: dict[Place, str]


class Texts:
    """Events in, events out. `close` gives what is left when the stream ends."""

    def __init__(self, speech: Speech, form: Form) -> None:
        self._speech = speech
        self._form = form
        self._voices: dict[Place, Voice] = {}
        self._over: set[Place] = set()
        self._queue: deque[_Held] = deque()
        #: of each text: what stands in events that wait, and how much of it is released
        self._waiting: dict[Place, str] = {}
        self._heard: dict[Place, int] = {}
        #: once events are told anew: what is released and not told yet
        self._due: dict[Place, str] | None = None

    def feed(self, event: Event, value: Json) -> Iterator[Event]:
        found = dict(self._form.texts(value))
        for place, text in found.items():
            if place in self._over:  # readers would put it behind what was said, and that was decided as the end
                raise unreadable("more of a text that had ended")
            if place not in self._voices:
                self._voices[place] = Voice(self._speech, self._form.field(place))
            self._waiting[place] = self._waiting.get(place, "") + text
            self._release(place, self._voices[place].feed(text))
        self._finish(self._form.over(value, self._voices))
        anew = self._form.redact(value, self._speech)  # what is told again was counted by then
        self._queue.append(_Held(event, value, found))
        if anew:
            self._tell_anew()
        yield from self._released()

    def close(self) -> Iterator[Event]:
        self._finish([*self._voices])
        yield from self._released()
        yield from self._left([*(self._due or ())])

    def _finish(self, places: Iterable[Place]) -> None:
        for place in places:
            self._over.add(place)
            self._release(place, self._voices.pop(place).finish())
            if self._due is None and self._heard[place] < len(self._waiting[place]):
                self._tell_anew()

    def _release(self, place: Place, out: str) -> None:
        heard = self._heard.setdefault(place, 0)
        if self._due is None:
            if self._waiting[place].startswith(out, heard):
                self._heard[place] = heard + len(out)
                return
            self._tell_anew()
        if self._due is not None:
            self._due[place] = self._due.get(place, "") + out

    def _tell_anew(self) -> None:
        """From here on events are told anew, also those that wait."""
        if self._due is None:
            self._due = {place: text[: self._heard.get(place, 0)] for place, text in self._waiting.items()}

    def _released(self) -> Iterator[Event]:
        while self._queue:
            held = self._queue[0]
            if self._due is None:
                if any(self._heard[place] < len(text) for place, text in held.texts.items()):
                    return
                for place, text in held.texts.items():
                    self._waiting[place] = self._waiting[place][len(text) :]
                    self._heard[place] -= len(text)
            self._queue.popleft()
            if self._due is None or not held.value:
                yield held.event
            else:
                yield from self._retold(held, self._due)

    def _retold(self, held: _Held, due: dict[Place, str]) -> Iterator[Event]:
        for place in held.texts:
            self._form.put(held.value, place, due.pop(place, ""))
        yield from self._left(self._form.over(held.value, due))
        yield self._form.event(held.value)

    def _left(self, places: Iterable[Place]) -> Iterator[Event]:
        """What is due of these texts, in events of our own."""
        for place in places:
            text = self._due.pop(place, "") if self._due else ""
            if text:
                yield self._form.piece(place, text)


class ChunkForm:
    """Chunks of chat completions. A text is known by its choice and the members that lead to it."""

    def __init__(self) -> None:
        self._about: Json = {}

    def texts(self, value: Json) -> Iterator[tuple[Place, str]]:
        if value.get("choices"):
            self._about = {name: value[name] for name in value if name in ABOUT and name not in ("choices", "usage")}
        for choice in choices(value):
            for message in messages(choice):
                words = {name: item for name, item in message.items() if name not in SILENT}
                yield from _leaves(words, (index_of(choice),))

    def field(self, place: Place) -> str:
        return next(step for step in reversed(place) if isinstance(step, str))

    def put(self, value: Json, place: Place, text: str) -> None:
        for choice in choices(value):
            choice.pop("logprobs", None)  # its tokens are words too
            if index_of(choice) == place[0]:
                for message in messages(choice):
                    part: Any = message
                    for step in place[1:-1]:
                        part = part[step]
                    part[place[-1]] = text

    def over(self, value: Json, under_way: Iterable[Place]) -> list[Place]:
        ended = {index_of(choice) for choice in choices(value) if is_over(choice)}
        return [place for place in under_way if place[0] in ended]

    def piece(self, place: Place, text: str) -> Event:
        delta: object = text
        for step in reversed(place[1:]):
            delta = {step: delta} if isinstance(step, str) else [delta]
        return dump({**self._about, "choices": [{"index": place[0], "delta": delta, "finish_reason": None}]})

    def event(self, value: Json) -> Event:
        return dump(value)

    def redact(self, value: Json, speech: Speech) -> bool:
        found = False
        for part, about in [(value, ABOUT), *((choice, ABOUT_CHOICE) for choice in choices(value))]:
            for name in [name for name in part if name not in about and part[name] is not None]:
                clean = speech.whole(part[name])
                found = found or clean is not part[name]
                part[name] = clean
        return found


def _leaves(value: object, place: Place) -> Iterator[tuple[Place, str]]:
    if isinstance(value, str):
        if value:
            yield place, value
    elif isinstance(value, dict):
        for name, item in value.items():
            yield from _leaves(item, (*place, name))
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from _leaves(item, (*place, number))

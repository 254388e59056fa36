"""The words of a stream of chat completions: released as far as they are decided, redacted where policy says so.

As long as nothing is taken out, the events go on as they came, each once all of its words are released. From the first
word that is taken out on, events are told anew: each with the words that are released by then.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any

import msgspec

from checkrein.connectors.completions import ABOUT, ABOUT_CHOICE, SILENT, Json, choices, index_of, messages
from checkrein.connectors.sse import Event, dump
from checkrein.services.speech import Speech, Voice

#: where a text stands: its choice, and the members of the message that lead to it
Place = tuple[int, tuple[str | int, ...]]


class _Held(msgspec.Struct, frozen=True):
    """An event that waits for its words to be released."""

    event: Event
    value: Json
    texts: dict[Place, str]


class Texts:
    """Events in, events out. `close` gives what is left when the stream ends."""

    def __init__(self, speech: Speech) -> None:
        self._speech = speech
        self._voices: dict[Place, Voice] = {}
        self._queue: deque[_Held] = deque()
        #: of each text: what stands in events that wait, and how much of it is released
        self._waiting: dict[Place, str] = {}
        self._heard: dict[Place, int] = {}
        #: once events are told anew: what is released and not told yet
        self._due: dict[Place, str] | None = None
        self._about: Json = {}

    def feed(self, event: Event, value: Json) -> Iterator[Event]:
        if value.get("choices"):
            self._about = {name: value[name] for name in value if name in ABOUT and name not in ("choices", "usage")}
        anew = self._beside(value)
        found = dict(_texts(value))
        for place, text in found.items():
            if place not in self._voices:
                self._voices[place] = Voice(self._speech)
            self._waiting[place] = self._waiting.get(place, "") + text
            self._release(place, self._voices[place].feed(text))
        for choice in choices(value):
            if choice.get("finish_reason") is not None:
                self._finish(index_of(choice))
        self._queue.append(_Held(event, value, found))
        if anew:
            self._tell_anew()
        yield from self._released()

    def close(self) -> Iterator[Event]:
        for index in {index for index, _ in self._voices}:
            self._finish(index)
        yield from self._released()
        for (index, path), text in (self._due or {}).items():
            if text:
                yield self._chunk(index, path, text)

    def _finish(self, index: int) -> None:
        for place in [place for place in self._voices if place[0] == index]:
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
        for choice in choices(held.value):
            index = index_of(choice)
            choice.pop("logprobs", None)
            for place in held.texts:
                if place[0] == index:
                    _put(choice, place[1], due.pop(place, ""))
            if choice.get("finish_reason") is not None:
                for at, path in [place for place in due if place[0] == index]:
                    if text := due.pop((at, path)):
                        yield self._chunk(index, path, text)
        yield dump(held.value)

    def _beside(self, value: Json) -> bool:
        """Redact what else an event holds, in place; whether there was something."""
        found = False
        parts = [(value, ABOUT), *((choice, ABOUT_CHOICE) for choice in choices(value))]
        for part, about in parts:
            for name in [name for name in part if name not in about and part[name] is not None]:
                clean = self._speech.whole(part[name])
                found = found or clean is not part[name]
                part[name] = clean
        return found

    def _chunk(self, index: int, path: tuple[str | int, ...], text: str) -> Event:
        delta: object = text
        for step in reversed(path):
            delta = {step: delta} if isinstance(step, str) else [delta]
        return dump({**self._about, "choices": [{"index": index, "delta": delta, "finish_reason": None}]})


def _texts(value: Json) -> Iterator[tuple[Place, str]]:
    """Every text of an event that somebody could read as words, with its place."""
    for choice in choices(value):
        for message in messages(choice):
            words = {name: item for name, item in message.items() if name not in SILENT}
            for path, text in _leaves(words, ()):
                yield (index_of(choice), path), text


def _leaves(value: object, path: tuple[str | int, ...]) -> Iterator[tuple[tuple[str | int, ...], str]]:
    if isinstance(value, str):
        if value:
            yield path, value
    elif isinstance(value, dict):
        for name, item in value.items():
            yield from _leaves(item, (*path, name))
    elif isinstance(value, list):
        for place, item in enumerate(value):
            yield from _leaves(item, (*path, place))


def _put(choice: Json, path: tuple[str | int, ...], text: str) -> None:
    """Replace the text that stands there."""
    for message in messages(choice):
        part: Any = message
        for step in path[:-1]:
            part = part[step]
        part[path[-1]] = text

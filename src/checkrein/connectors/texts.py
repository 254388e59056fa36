"""The words of a stream: released as far as they are decided, redacted where policy says so.

As long as nothing is taken out, the events go on as they came, each once all of its words are released. From the first
word that is taken out on, events are told anew: each with the words that are released by then.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any, Protocol

import msgspec

from checkrein.connectors.completions import (
    ABOUT,
    ABOUT_CHOICE,
    SILENT,
    Json,
    choices,
    index_of,
    is_over,
    messages,
    pieces,
)
from checkrein.connectors.envelope import Envelope, envelope
from checkrein.connectors.sse import Event, dump, load, unreadable
from checkrein.services.speech import Speech, Voice

#: so many events in a row may each be unlike the one before, until nobody asks any more what is around the words
_TRIES = 16

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

    def only_says_more(self, value: Json) -> bool:
        """Whether the event says more of texts and nothing else, and ends none."""


class _Text:
    """One text of a stream."""

    def __init__(self, place: Place, voice: Voice) -> None:
        self.place = place
        self.voice = voice
        self.over = False
        #: how much was said, and what of that is not released yet
        self.said = 0
        self.unheard = ""

    @property
    def heard(self) -> int:
        return self.said - len(self.unheard)


class _Held(msgspec.Struct, frozen=True):
    """An event that waits for its words to be released."""

    event: Event
    #: None where nothing but its words was read
    value: Json | None
    #: the texts that it says more of, the words, and how much of the text was said by then
    words: list[tuple[_Text, str, int]]


class Texts:
    """Events in, events out. `close` gives what is left when the stream ends."""

    def __init__(self, speech: Speech, form: Form) -> None:
        self._speech = speech
        self._form = form
        self._texts: dict[Place, _Text] = {}
        self._queue: deque[_Held] = deque()
        #: once events are told anew: what is released and not told yet
        self._due: dict[Place, str] | None = None
        #: a text, and what is around its words in events that say more of it and nothing else
        self._latest: tuple[_Text, Envelope] | None = None
        self._tries = _TRIES

    def feed(self, event: Event, value: Json) -> Iterator[Event]:
        held = _Held(event, value, [])
        self._queue.append(held)
        for place, words in self._form.texts(value):
            self._say(held, self._text(place), words)
        self._finish(self._form.over(value, [place for place, text in self._texts.items() if not text.over]))
        if self._form.redact(value, self._speech):  # what is told again was counted by now
            self._tell_anew()
        if len(held.words) == 1 and self._tries and self._form.only_says_more(value):
            self._learn(event, *held.words[0][:2])
        yield from self._released()

    def more(self, events: deque[Event]) -> Iterator[Event]:
        """Take from the front the events that only say more of the latest text, those of one read as one piece."""
        if self._latest is None:
            return
        text, around = self._latest
        said: list[tuple[Event, str]] = []
        while events and (words := around.words(events[0].data)):
            said.append((events.popleft(), words))
        if not said:
            return
        self._tries = _TRIES
        whole = "".join([words for _, words in said])
        out = text.voice.calmly(whole) if self._due is None else None
        if out is None:
            for event, words in said:
                self._queue.append(held := _Held(event, None, []))
                self._say(held, text, words)
                yield from self._released()
            return
        end = text.said
        text.said, text.unheard = end + len(whole), (text.unheard + whole)[len(out) :]
        yield from self._released()
        for event, words in said:
            end += len(words)
            if end <= text.heard and not self._queue:
                yield event
            else:
                self._queue.append(_Held(event, None, [(text, words, end)]))

    def close(self) -> Iterator[Event]:
        self._finish([place for place, text in self._texts.items() if not text.over])
        yield from self._released()
        yield from self._left([*(self._due or ())])

    def _text(self, place: Place) -> _Text:
        text = self._texts.get(place)
        if text is None:
            text = self._texts[place] = _Text(place, Voice(self._speech, self._form.field(place)))
        if text.over:  # readers would put it behind what was said, and that was decided as the end
            raise unreadable("more of a text that had ended")
        return text

    def _say(self, held: _Held, text: _Text, words: str) -> None:
        text.said += len(words)
        text.unheard += words
        held.words.append((text, words, text.said))
        self._release(text, text.voice.feed(words))

    def _learn(self, event: Event, text: _Text, words: str) -> None:
        self._tries -= 1
        around = envelope(event.data, words, lambda value: dict(self._form.texts(value)).get(text.place, ""))
        if around is not None:
            self._latest = text, around

    def _finish(self, places: Iterable[Place]) -> None:
        for place in places:
            text = self._texts[place]
            text.over = True
            if self._latest is not None and self._latest[0] is text:
                self._latest = None
            self._release(text, text.voice.finish())
            if text.unheard:
                self._tell_anew()

    def _release(self, text: _Text, out: str) -> None:
        if self._due is None and text.unheard.startswith(out):
            text.unheard = text.unheard[len(out) :]
            return
        due = self._tell_anew()
        text.unheard = ""
        due[text.place] = due.get(text.place, "") + out

    def _tell_anew(self) -> dict[Place, str]:
        """From here on events are told anew, also those that wait; returns what is due."""
        if self._due is None:
            self._due = {}
            for held in self._queue:
                for text, words, end in held.words:
                    heard = words[: max(0, text.heard - (end - len(words)))]
                    self._due[text.place] = self._due.get(text.place, "") + heard
        return self._due

    def _released(self) -> Iterator[Event]:
        while self._queue:
            held = self._queue[0]
            if self._due is None:
                for text, _, end in held.words:
                    if text.heard < end:
                        return
            self._queue.popleft()
            if self._due is None or held.value == {}:
                yield held.event
            else:
                yield from self._retold(held, self._due)

    def _retold(self, held: _Held, due: dict[Place, str]) -> Iterator[Event]:
        value = load(held.event.data, "an event") if held.value is None else held.value
        for text, _, _ in held.words:
            self._form.put(value, text.place, due.pop(text.place, ""))
        yield from self._left(self._form.over(value, due))
        yield self._form.event(value)

    def _left(self, places: Iterable[Place]) -> Iterator[Event]:
        """What is due of these texts, in events of our own."""
        for place in places:
            text = self._due.pop(place, "") if self._due else ""
            if text:
                yield self._form.piece(place, text)


class ChunkForm:
    """Chunks of chat completions. A text is known by its choice and the members that lead to it."""

    def __init__(self) -> None:
        #: the latest event with choices, which says what others of the stream say about themselves
        self._latest: Json = {}

    def texts(self, value: Json) -> Iterator[tuple[Place, str]]:
        for choice in choices(value):
            self._latest = value
            for message in messages(choice):
                for name, item in message.items():
                    if name not in SILENT:
                        yield from _leaves(item, (index_of(choice), name))

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
        about = {
            name: item for name, item in self._latest.items() if name in ABOUT and name not in ("choices", "usage")
        }
        return dump({**about, "choices": [{"index": place[0], "delta": delta, "finish_reason": None}]})

    def event(self, value: Json) -> Event:
        return dump(value)

    def redact(self, value: Json, speech: Speech) -> bool:
        found = False
        for part, name in _said_whole(value):
            clean = speech.whole(part[name])
            found = found or clean is not part[name]
            part[name] = clean
        return found

    def only_says_more(self, value: Json) -> bool:
        calls = [piece for choice in choices(value) for message in messages(choice) for piece in pieces(message)]
        return not (calls or _said_whole(value) or any(map(is_over, choices(value))))


def _said_whole(value: Json) -> list[tuple[Json, str]]:
    """The members beside the messages that are words."""
    parts = [(value, ABOUT), *((choice, ABOUT_CHOICE) for choice in choices(value))]
    parts = [(part, about) for part, about in parts if not about.issuperset(part)]
    return [(part, name) for part, about in parts for name in part if name not in about and part[name] is not None]


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

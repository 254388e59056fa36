"""A chat completion as a stream: pieces of calls stand in `delta`, and `finish_reason` says that they are whole."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from checkrein.connectors.completions import (
    CALLED,
    Call,
    Json,
    choices,
    ended,
    index_of,
    is_over,
    messages,
    pieces,
    read_call,
)
from checkrein.connectors.sse import Event, dump, unreadable
from checkrein.connectors.stream import Stream, Told
from checkrein.connectors.texts import ChunkForm, Texts
from checkrein.services.answers import Proposal, Verdict
from checkrein.services.speech import Speech


class Chunks(Stream):
    def __init__(self, speech: Speech) -> None:
        super().__init__(Texts(speech, ChunkForm()))
        #: the calls that are not settled yet, by choice and place
        self._open: dict[int, dict[int, Call]] = {}
        self._finished: set[int] = set()
        #: the choices that were begun, and that have ended
        self._begun: set[int] = set()
        self._ended: set[int] = set()

    def read(self, value: Json) -> None:
        told: set[int] = set()
        for choice in choices(value):
            index = index_of(choice)
            if index in told:  # its words could not be told anew in their places
                raise unreadable("a choice twice in one event")
            told.add(index)
            self._begun.add(index)
            for message in messages(choice):
                for kind, piece in pieces(message):
                    calls = self._open.setdefault(index, {})
                    self._finished.discard(index)
                    place, call = _place(piece, calls), read_call(kind, piece)
                    if place in calls:
                        calls[place].add(call)
                    else:
                        calls[place] = call
            if is_over(choice):
                self._finished.add(index)
                self._ended.add(index)

    def open(self) -> bool:
        return bool(self._open)

    def whole(self) -> bool:
        return self._finished >= self._open.keys()

    def proposals(self) -> Iterator[Proposal]:
        return (call.proposal() for calls in self._open.values() for call in calls.values())

    def settled(self, held: Sequence[Told], verdicts: Sequence[Verdict]) -> Iterable[Told]:
        left = iter(verdicts)
        settled = {index: [(call, next(left)) for call in calls.values()] for index, calls in self._open.items()}
        self._open, self._finished = {}, set()
        return held if all(verdict.passes for verdict in verdicts) else _retold(held, settled)

    def over(self) -> bool:
        """Some upstreams send no `[DONE]`."""
        return bool(self._begun) and self._begun <= self._ended

    def closes(self, event: Event, value: Json) -> bool:
        return event.done


def _place(piece: Json, calls: Mapping[int, Call]) -> int:
    """Which call of its choice a piece belongs to; where no place is given, an id begins the next one."""
    index = piece.get("index")
    if index is None:
        return len(calls) if piece.get("id") or not calls else len(calls) - 1
    return index_of(piece)


Settled = Mapping[int, Sequence[tuple[Call, Verdict]]]


def _retold(held: Sequence[Told], settled: Settled) -> Iterator[Told]:
    """What was held without its calls; where a choice ends, its refusals and the calls that are left."""
    left = dict(settled)
    about = {name: item for name, item in held[0][1].items() if name not in ("choices", "usage")}
    for event, value in held:
        for choice in choices(value):
            index = index_of(choice)
            for message in messages(choice):
                for name in CALLED:
                    message.pop(name, None)
            if index in settled and is_over(choice):
                for delta in _deltas(left.pop(index, ())):
                    yield _chunk(about, index, delta)
                if all(verdict.refusal for _, verdict in settled[index]):
                    choice["finish_reason"] = ended(choice["finish_reason"])
        if not value:
            yield event, value
        elif _says(value):
            yield dump(value), value
    for index, calls in left.items():
        for delta in _deltas(calls):
            yield _chunk(about, index, delta)


def _deltas(calls: Sequence[tuple[Call, Verdict]]) -> Iterator[Json]:
    if refusals := [verdict.refusal for _, verdict in calls if verdict.refusal]:
        yield {"content": "\n\n".join(refusals)}
    place = 0
    for call, verdict in calls:
        if verdict.refusal:
            continue
        if call.kind:
            yield {"tool_calls": [{"index": place, **call.told(verdict)}]}
            place += 1
        else:
            yield {"function_call": call.told(verdict)}


def _chunk(about: Json, index: int, delta: Json) -> Told:
    value: Json = {**about, "choices": [{"index": index, "delta": delta, "finish_reason": None}]}
    return dump(value), value


def _says(value: Json) -> bool:
    """Whether an event still says something once the calls are taken out of it."""
    said = value.get("usage") is not None or not choices(value)
    for choice in choices(value):
        texts = [item for message in messages(choice) for item in message.values()]
        said = said or is_over(choice) or any(item is not None for item in texts)
    return said

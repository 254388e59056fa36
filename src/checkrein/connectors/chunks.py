"""A chat completion as a stream: words go on as `texts` says, tool calls are held until they are whole and decided.

From the first piece of a call on nothing goes further until all calls under way are whole. Then what was held is let
go byte for byte, or told anew without the refused calls. The caller never sees a piece of one that is refused.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence

from checkrein.connectors.completions import CALLED, Call, Json, choices, ended, index_of, messages, pieces, read_call
from checkrein.connectors.sse import Event, Splitter, dump, load, unreadable
from checkrein.connectors.texts import Texts
from checkrein.services.answers import MAX_CALLS, Proposal, Verdict
from checkrein.services.speech import Speech

#: what may be held of a stream while a call is not whole
MAX_HELD_BYTES = 8 * 1024 * 1024
#: what may come after `[DONE]`
MAX_REST_BYTES = 64 * 1024


class Chunks:
    """Bytes in, bytes out that the caller may see next.

    While `asked` is not empty, `settle` wants a verdict for each of those calls, and gives what follows. What closes
    the stream, from `[DONE]` on, stays in `rest`; `close` says that the upstream has no more to say.
    """

    def __init__(self, speech: Speech) -> None:
        self._texts = Texts(speech)
        self._splitter = Splitter()
        self._queue: deque[Event] = deque()
        self._held: list[tuple[Event, Json]] = []
        self._held_bytes = 0
        #: the calls that are not decided yet, by choice and place
        self._open: dict[int, dict[int, Call]] = {}
        self._finished: set[int] = set()
        self._done = False
        self.asked: tuple[Proposal, ...] = ()
        self.rest = b""

    def feed(self, part: bytes) -> bytes:
        self._queue += self._splitter.feed(part)
        return self._go_on()

    def settle(self, verdicts: Sequence[Verdict]) -> bytes:
        left = iter(verdicts)
        settled = {index: [(call, next(left)) for call in calls.values()] for index, calls in self._open.items()}
        passes = all(verdict.passes for verdict in verdicts)
        told = self._held if passes else [*_retold(self._held, settled)]
        out = [event.raw for given in told for event in self._texts.feed(*given)]
        self._open, self._finished, self._held, self._held_bytes, self.asked = {}, set(), [], 0, ()
        return b"".join(out) + self._go_on()

    def close(self) -> bytes:
        """Raises `UpstreamUnavailable` in the midst of a call."""
        self._queue += self._splitter.close()
        out = self._go_on()
        if self._held and not self.asked:
            raise unreadable("a tool call that is not whole")
        return out if self.asked or self._done else out + self._last_words()

    def _go_on(self) -> bytes:
        out: list[bytes] = []
        while self._queue and not self.asked:
            event = self._queue.popleft()
            if self._done or event.done:
                self._end(event)
            else:
                out += self._next(event)
        return b"".join(out)

    def _end(self, event: Event) -> None:
        if self._open:  # nobody will say any more that the calls are whole
            self._queue.appendleft(event)
            self._ask()
            return
        if not self._done:
            self._done = True
            self.rest = self._last_words()
        self.rest += event.raw
        if len(self.rest) > MAX_REST_BYTES:
            raise unreadable("more after it said `[DONE]`")

    def _last_words(self) -> bytes:
        return b"".join(event.raw for event in self._texts.close())

    def _next(self, event: Event) -> list[bytes]:
        value = load(event.data, "an event") if event.data else {}
        self._read(value)
        if not self._open:
            return [told.raw for told in self._texts.feed(event, value)]
        self._held.append((event, value))
        self._held_bytes += len(event.raw)
        if self._held_bytes > MAX_HELD_BYTES:
            raise unreadable("a tool call that is too long")
        if self._finished >= self._open.keys():
            self._ask()
        return []

    def _ask(self) -> None:
        self.asked = tuple(call.proposal() for calls in self._open.values() for call in calls.values())
        if len(self.asked) > MAX_CALLS:
            raise unreadable(f"more than {MAX_CALLS} tool calls")

    def _read(self, value: Json) -> None:
        for choice in choices(value):
            index = index_of(choice)
            for message in messages(choice):
                for kind, piece in pieces(message):
                    calls = self._open.setdefault(index, {})
                    self._finished.discard(index)
                    place, call = _place(piece, calls), read_call(kind, piece)
                    if place in calls:
                        calls[place].add(call)
                    else:
                        calls[place] = call
            if choice.get("finish_reason") is not None:
                self._finished.add(index)


def _place(piece: Json, calls: Mapping[int, Call]) -> int:
    """Which call of its choice a piece belongs to; where no place is given, an id begins the next one."""
    index = piece.get("index")
    if index is None:
        return len(calls) if piece.get("id") or not calls else len(calls) - 1
    return index_of(piece)


Settled = Mapping[int, Sequence[tuple[Call, Verdict]]]


def _retold(held: Sequence[tuple[Event, Json]], settled: Settled) -> Iterator[tuple[Event, Json]]:
    """What was held without its calls; where a choice ends, its refusals and the calls that are left."""
    left = dict(settled)
    about = {name: item for name, item in held[0][1].items() if name not in ("choices", "usage")}
    for event, value in held:
        for choice in choices(value):
            index = index_of(choice)
            for message in messages(choice):
                for name in CALLED:
                    message.pop(name, None)
            if index in settled and choice.get("finish_reason") is not None:
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


def _chunk(about: Json, index: int, delta: Json) -> tuple[Event, Json]:
    value: Json = {**about, "choices": [{"index": index, "delta": delta, "finish_reason": None}]}
    return dump(value), value


def _says(value: Json) -> bool:
    """Whether an event still says something once the calls are taken out of it."""
    said = value.get("usage") is not None or not choices(value)
    for choice in choices(value):
        texts = [item for message in messages(choice) for item in message.values()]
        said = said or choice.get("finish_reason") is not None or any(item is not None for item in texts)
    return said

"""Answers as streams: words go on as `texts` says, tool calls are held until they are whole and decided.

From the first piece of a call on nothing goes further until all calls under way are whole. Then what was held is let
go byte for byte, or told anew without the refused calls. The caller never sees a piece of one that is refused. What is
the same for every protocol stands here; `chunks` and `events` know theirs.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable, Sequence

from checkrein.connectors.completions import Json
from checkrein.connectors.sse import Event, Splitter, load, unreadable
from checkrein.connectors.texts import Texts
from checkrein.services.answers import MAX_CALLS, Proposal, Verdict

#: what may be held of a stream while a call is not whole
MAX_HELD_BYTES = 8 * 1024 * 1024
#: what may come after the event that closes a stream
MAX_AFTER_BYTES = 64 * 1024

Told = tuple[Event, Json]


class Stream(ABC):
    """Bytes in, bytes out that the caller may see next.

    While `asked` is not empty, `settle` wants a verdict for each of those calls, and gives what follows. What closes
    the stream stays in `rest`; `close` says that the upstream has no more to say.
    """

    def __init__(self, texts: Texts) -> None:
        self._texts = texts
        self._splitter = Splitter()
        self._queue: deque[Event] = deque()
        self._held: list[Told] = []
        self._held_bytes = 0
        self._after_bytes = 0
        self._done = False
        self.asked: tuple[Proposal, ...] = ()
        self.rest = b""

    def feed(self, part: bytes) -> bytes:
        if self._done:
            self._after_bytes += len(part)
            if self._after_bytes > MAX_AFTER_BYTES:
                raise unreadable("more after it had ended the stream")
        self._queue += self._splitter.feed(part)
        return self._go_on()

    def settle(self, verdicts: Sequence[Verdict]) -> bytes:
        told = self.settled(self._held, verdicts)
        self._held, self._held_bytes, self.asked = [], 0, ()
        return self._emit(told) + self._go_on()

    def close(self) -> bytes:
        """Raises `UpstreamUnavailable` where the upstream did not say that it was over."""
        self._queue += self._splitter.close()
        out = self._go_on()
        if self.asked or self._done:
            return out
        if self._held:
            raise unreadable("a tool call that is not whole")
        if not self.over():
            raise unreadable("a stream without an end")
        return out + b"".join(event.raw for event in self._texts.close())

    # --- what a protocol knows

    @abstractmethod
    def read(self, value: Json) -> None:
        """Take the pieces of calls out of an event."""

    @abstractmethod
    def open(self) -> bool:
        """Whether there are calls that are not settled."""

    @abstractmethod
    def whole(self) -> bool:
        """Whether all of them can be decided."""

    @abstractmethod
    def proposals(self) -> Iterable[Proposal]: ...

    @abstractmethod
    def settled(self, held: Sequence[Told], verdicts: Sequence[Verdict]) -> Iterable[Told]:
        """What was held, as it may be told; the calls are settled then."""

    @abstractmethod
    def over(self) -> bool:
        """Whether all was said, though nothing closed the stream."""

    @abstractmethod
    def closes(self, event: Event, value: Json) -> bool:
        """Whether nothing follows this event."""

    # --- the order of events

    def _go_on(self) -> bytes:
        out: list[bytes] = []
        while self._queue and not self.asked:
            if not (self._done or self.open()):
                out += [event.raw for event in self._texts.more(self._queue)]
                if not self._queue:
                    break
            event = self._queue.popleft()
            if event.done and self.open() and not self._done:  # nobody will say any more that the calls are whole
                self._queue.appendleft(event)
                self._ask()
                break
            out.append(self._next(event))
        return b"".join(out)

    def _next(self, event: Event) -> bytes:
        if self._done or event.done or not event.data:
            value: Json = {}
        else:
            value = load(event.data, "an event")
            self.read(value)
        if not self.open():
            return self._emit([(event, value)])
        self._held.append((event, value))
        self._held_bytes += len(event.raw)
        if self._held_bytes > MAX_HELD_BYTES:
            raise unreadable("a tool call that is too long")
        if self.whole():
            self._ask()
        return b""

    def _ask(self) -> None:
        self.asked = tuple(self.proposals())
        if len(self.asked) > MAX_CALLS:
            raise unreadable(f"more than {MAX_CALLS} tool calls")

    def _emit(self, told: Iterable[Told]) -> bytes:
        out: list[bytes] = []
        for event, value in told:
            if self._done:
                self.rest += event.raw if event.done else b""  # what else follows nobody decides, and nobody sees
            elif self.closes(event, value):
                self._done = True
                words = (
                    [*self._texts.feed(event, value), *self._texts.close()] if value else [*self._texts.close(), event]
                )
                self.rest = b"".join(said.raw for said in words)
            else:
                out += [said.raw for said in self._texts.feed(event, value)]
        return b"".join(out)

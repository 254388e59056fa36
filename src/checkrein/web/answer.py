"""One HTTP answer on its way to the caller: told as it is decided, and remembered as far as it is kept."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from typing import Any, cast

import msgspec
from starlette.types import Message, Send

from checkrein.connectors.metering import Meter
from checkrein.connectors.patience import within
from checkrein.connectors.stream import Stream
from checkrein.model import CheckreinError, Decision, Killed
from checkrein.model.json import dumps
from checkrein.ports import Reply
from checkrein.services.answers import Proposal, Verdict
from checkrein.services.speech import Withheld
from checkrein.web import trace

#: seconds that a caller may take to read what was sent
PATIENCE_S = 60.0


def calls(verdicts: Sequence[Verdict]) -> dict[str, object]:
    """What is recorded about the tool calls of an answer."""
    if not verdicts:
        return {}
    return {"tool_calls": len(verdicts), "tool_calls_refused": sum(bool(verdict.refusal) for verdict in verdicts)}


class TooSlow(CheckreinError):
    """The caller has taken nothing of its answer for `PATIENCE_S`."""


class Kept(msgspec.Struct, frozen=True, array_like=True):
    """An answer as it was given, to be given again."""

    status: int
    headers: dict[str, str]
    body: bytes


class Answer:
    """One HTTP answer, begun at most once."""

    def __init__(self, send: Send, trace_id: str) -> None:
        self._send = cast("Callable[[Message], Coroutine[Any, Any, None]]", send)
        self.trace_id = trace_id
        self._about: dict[str, str] = {}
        self._status, self._headers = 0, dict[str, str]()
        self.begun = False
        #: what counts the tokens of the answer
        self.meter: Meter | None = None
        #: how much of the body is remembered in `said`, and whether that is all of it
        self.keeps = 0
        self.said = bytearray()
        self.whole = True
        #: decides tool calls; set once the prompt is let through
        self.decide: Callable[[Sequence[Proposal]], Awaitable[tuple[Verdict, ...]]] = _undecided

    async def verdicts(self, asked: Sequence[Proposal]) -> tuple[Verdict, ...]:
        return await self.decide(asked) if asked else ()

    @property
    def status(self) -> int:
        """That of the answer; 0 before there is one."""
        return self._status

    @property
    def is_decided(self) -> bool:
        """Whether there is a decision about what is answered here, and so a record."""
        return bool(self._about)

    def decided(self, decision: Decision) -> None:
        self.trace_id = decision.trace_id
        self._about = {
            "x-checkrein-outcome": decision.outcome.wire,
            "x-checkrein-risk": decision.risk.level.value,
        }

    def headers(self, given: Mapping[str, str]) -> dict[str, str]:
        return {trace.HEADER: self.trace_id, **self._about, **given}

    def prepare(self, status: int, headers: dict[str, str], body: bytes) -> bytes:
        """Set what an answer that is sent whole will begin with; returns its body."""
        self._status, self._headers = status, headers
        self._remember(body)
        return body

    async def begin(self, status: int, headers: dict[str, str]) -> None:
        self.begun = True
        self._status, self._headers = status, headers
        pairs = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
        await self._patiently({"type": "http.response.start", "status": status, "headers": pairs})

    async def stream(self, reply: Reply, told: Stream) -> tuple[bytes, dict[str, object]]:
        """Send each event once it is decided, but keep what closes the stream in hand, from `[DONE]` on."""
        verdicts: list[Verdict] = []
        size = 0
        async for part in reply.body():
            size += len(part)
            if self.meter:
                self.meter.chunk(part)
            await self._tell(told.feed(part), told, verdicts)
        await self._tell(told.close(), told, verdicts)
        self._remember(told.rest)
        return told.rest, {"bytes": size, **calls(verdicts)}

    async def _patiently(self, message: Message) -> None:
        """Send it once the caller has taken what came before; raises `TooSlow` when it does not."""
        try:
            await within(PATIENCE_S, self._send(message))
        except TimeoutError:
            raise TooSlow("the caller does not read its answer") from None

    async def _tell(self, part: bytes, told: Stream, verdicts: list[Verdict]) -> None:
        """Send what may be seen; while calls ask for verdicts, get them and go on."""
        while True:
            if part:
                self._remember(part)
                await self._patiently({"type": "http.response.body", "body": part, "more_body": True})
            if not told.asked:
                return
            given = await self.verdicts(told.asked)
            verdicts += given
            part = told.settle(given)

    def kept(self) -> Kept:
        """The answer whose last part is about to be sent."""
        return Kept(self._status, self._headers, bytes(self.said))

    async def end(self, last: bytes) -> None:
        if not self.begun:
            await self.begin(self._status, {**self._headers, "content-length": str(len(last))})
        await self._patiently({"type": "http.response.body", "body": last, "more_body": False})

    async def give(self, kept: Kept) -> None:
        """Give a whole answer."""
        self._status, self._headers = kept.status, kept.headers
        await self.end(kept.body)

    async def cut(self, error: CheckreinError) -> None:
        """End a stream that failed midway with an event that says so; the closing `[DONE]` never comes."""
        said = {"message": "the answer broke off", "type": "upstream_error", "code": "broken_stream"}
        if isinstance(error, Withheld | Killed):
            code = "killed" if isinstance(error, Killed) else "denied"
            said = {"message": str(error), "type": "policy_denied", "code": code}
        event = b"data: " + dumps({"error": said}) + b"\n\n"
        await self._patiently({"type": "http.response.body", "body": event, "more_body": False})

    def _remember(self, part: bytes) -> None:
        left = self.keeps - len(self.said)
        self.whole = self.whole and len(part) <= left
        if left > 0:
            self.said += part[:left]


async def _undecided(asked: Sequence[Proposal]) -> tuple[Verdict, ...]:
    raise RuntimeError("no prompt was let through yet")

"""The protocols that are served: for each path what is read, and how what comes back is told."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec

from checkrein.connectors.chunks import Chunks
from checkrein.connectors.completions import Whole
from checkrein.connectors.events import Events
from checkrein.connectors.openai import Prompt, read_chat, read_embeddings
from checkrein.connectors.responses import WholeResponse, read_response
from checkrein.connectors.sse import unreadable
from checkrein.connectors.stream import Stream
from checkrein.model import Caller
from checkrein.services.answers import Proposal, Verdict
from checkrein.services.speech import Speech


class Told(Protocol):
    """A whole answer. `asked` are its calls; `settle` gives the bytes that the caller may see."""

    asked: tuple[Proposal, ...]

    def settle(self, verdicts: Sequence[Verdict]) -> bytes: ...


class Vectors:
    """Embeddings say nothing that could be read."""

    def __init__(self, data: bytes, speech: Speech) -> None:
        self._data = data
        self.asked: tuple[Proposal, ...] = ()

    def settle(self, verdicts: Sequence[Verdict]) -> bytes:
        return self._data


def _no_stream(speech: Speech) -> Stream:
    raise unreadable("a stream that nobody asked for")


class Dialect(msgspec.Struct, frozen=True):
    """`path` is the same at the upstream, where it stands below the `base_url`; `says` whether it answers in words."""

    path: str
    read: Callable[[bytes, Caller], Prompt]
    whole: Callable[[bytes, Speech], Told]
    stream: Callable[[Speech], Stream]
    says: bool = True


DIALECTS = (
    Dialect("/chat/completions", read_chat, Whole, Chunks),
    Dialect("/responses", read_response, WholeResponse, Events),
    Dialect("/embeddings", read_embeddings, Vectors, _no_stream, says=False),
)

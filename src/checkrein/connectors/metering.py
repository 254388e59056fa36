"""How many tokens a prompt will use, and did use, in the words of the OpenAI protocol.

What it will use is guessed before it is sent: a token for every three characters of ASCII text and for every character
of other text, and as many in the answer as the request allows. What it did use says the upstream, in the member `usage`
of its answer or of the last chunk of a stream; where it does not, that is guessed too, and said so.
"""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from functools import cached_property

import msgspec

from checkrein.connectors.openai import Prompt
from checkrein.flow.quota import Amount, Price

#: an image or a file in a request, whatever its size
_ATTACHED = 1500
_PER_TOKEN = 3
#: a line of a stream that is longer is not looked into; the last one of a streamed response holds all of it
_MAX_LINE = 1024 * 1024
#: what a request may limit its answers by; the first one counts
_LIMITS = ("max_completion_tokens", "max_tokens", "max_output_tokens")
#: what nobody means
_MAX_TOKENS = 10**9


class Tariff(msgspec.Struct, frozen=True):
    """What an upstream takes, by the model, and how long its answers are where nobody says."""

    price: Price = Price()
    prices: Mapping[str, Price] = {}
    output_tokens: int = 1024

    def of(self, model: str) -> Price:
        """The price of the very name, else of the longest pattern that fits, else that of the upstream."""
        if not self.prices:
            return self.price
        if model in self.prices:
            return self.prices[model]
        fitting = [pattern for pattern in self.prices if fnmatchcase(model, pattern)]
        return self.prices[max(fitting, key=len)] if fitting else self.price


class _Tokens(msgspec.Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None


class _Response(msgspec.Struct):
    usage: _Tokens | None = None


class _Answer(_Response):
    """The last event of a streamed response holds the whole `response`."""

    response: _Response | None = None


_decode = msgspec.json.Decoder(_Answer).decode


class Meter:
    """Counts one prompt. `wish` tells what it may use at most, as far as one can guess.

    `tariff` is that of the upstream that answers, which may be another than the first one asked; `says` is False for
    what is not answered in words, such as embeddings.
    """

    def __init__(self, prompt: Prompt, tariff: Tariff, *, says: bool = True) -> None:
        self._model = prompt.model
        self.tariff = tariff
        self._body = prompt.request.action.input
        self._says = says
        self._usage: tuple[int, int] | None = None
        self._events = 0
        self._rest = b""
        self._size = 0

    @cached_property
    def _expected(self) -> tuple[int, int]:
        """Tokens in and out; they are counted for limits, and where the upstream tells nothing."""
        return _said(self._body), _allowed(self._body, self.tariff.output_tokens) if self._says else 0

    def wish(self) -> Amount:
        tokens_in, tokens_out = self._expected
        return Amount(tokens_in + tokens_out, self.tariff.of(self._model).cost(tokens_in, tokens_out))

    def whole(self, body: bytes) -> None:
        """An answer that came whole."""
        self._size = len(body)
        self._read(body)

    def chunk(self, part: bytes) -> None:
        """The next part of a stream, wherever it was cut."""
        self._events += part.count(b"data:")
        lines, _, self._rest = (self._rest + part).rpartition(b"\n")
        if len(self._rest) > _MAX_LINE:
            self._rest = b""
        if b'"usage"' in lines:
            for line in lines.split(b"\n"):
                self._event(line)

    def tally(self, status: int) -> tuple[Amount, dict[str, object]]:
        """What was used, and what the record says of it. `status` is that of the answer, 0 if none began."""
        self._event(self._rest)
        tokens_in, tokens_out = self._usage or self._guessed(status)
        cost = self.tariff.of(self._model).cost(tokens_in, tokens_out)
        counted = {"tokens_in": tokens_in, "tokens_out": tokens_out, "cost_nano": cost}
        return Amount(tokens_in + tokens_out, cost), {**counted, "estimated": self._usage is None}

    def _guessed(self, status: int) -> tuple[int, int]:
        if status >= 400:  # an upstream takes nothing for an error
            return 0, 0
        return self._expected[0], (self._events or -(-self._size // _PER_TOKEN)) if self._says else 0

    def _event(self, line: bytes) -> None:
        if b'"usage"' in line and line.startswith(b"data:"):
            self._read(line[5:])

    def _read(self, text: bytes) -> None:
        try:
            answer = _decode(text)
        except (msgspec.MsgspecError, RecursionError):
            return  # somebody else's words: it is guessed then
        usage = answer.response.usage if answer.usage is None and answer.response else answer.usage
        if usage is not None:
            given = usage.input_tokens if usage.prompt_tokens is None else usage.prompt_tokens
            made = usage.output_tokens if usage.completion_tokens is None else usage.completion_tokens
            found = (given or 0, made or 0)
            if (given, made) != (None, None) and all(0 <= tokens <= _MAX_TOKENS for tokens in found):
                self._usage = found


def _said(body: Mapping[str, object]) -> int:
    """Tokens of everything a request says."""
    tokens = 0
    left: list[object] = [body]
    for value in left:  # it grows on the way
        if isinstance(value, str):
            if value.startswith("data:"):
                tokens += _ATTACHED
            else:
                tokens += -(-len(value) // _PER_TOKEN) if value.isascii() else len(value)
        elif isinstance(value, dict):
            left += value.values()
        elif isinstance(value, list):
            left += value
    return tokens


def _allowed(body: Mapping[str, object], otherwise: int) -> int:
    """Tokens that the answers may have."""
    most = otherwise
    for name in _LIMITS:
        limit = body.get(name)
        if isinstance(limit, int) and limit > 0:
            most = limit
            break
    count = body.get("n")
    return min(most * (count if isinstance(count, int) and count > 0 else 1), _MAX_TOKENS)

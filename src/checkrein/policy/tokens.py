"""Where policies stand in Cedar text: tokens with lines, since Cedar's JSON form and its errors have none.

A `;` ends a policy and stands nowhere else outside strings and comments; that is all the grammar used here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import msgspec

_TOKEN = re.compile(r'(?P<skip>\s+|//[^\n]*)|"(?:\\.|[^"\\])*"|[^\W\d]\w*|\d+|::|==|!=|<=|>=|&&|\|\||.', re.DOTALL)


#: cedarpy's parser recurses on the C stack and takes the process with it: 800 brackets end it on 8 MiB
MAX_BRACKETS = 150
MAX_CHOICES = 500
MAX_TOKENS = 6_000


class Token(msgspec.Struct, frozen=True):
    text: str
    line: int
    end: int


class Segment(msgspec.Struct, frozen=True):
    """One policy, from its first token to its `;`. `start` is its offset in the file."""

    text: str
    start: int
    tokens: tuple[Token, ...]

    @property
    def line(self) -> int:
        return self.tokens[0].line

    def line_of(self, annotation: str) -> int:
        """The line of `@annotation`, or of the policy where it has none."""
        for at, name in zip(self.tokens, self.tokens[1:], strict=False):
            if at.text == "@" and name.text == annotation:
                return name.line
        return self.line

    def excess(self) -> str:
        """What is too deep or too long for the parser to be trusted with, or an empty string."""
        depth = deepest = 0
        for token in self.tokens:
            depth += (token.text in ("(", "[", "{")) - (token.text in (")", "]", "}"))
            deepest = max(deepest, depth)
        if deepest > MAX_BRACKETS:
            return f"brackets are nested deeper than {MAX_BRACKETS} levels"
        if sum(token.text == "if" for token in self.tokens) > MAX_CHOICES:
            return f"there are more than {MAX_CHOICES} `if` in one policy"
        return f"the policy is longer than {MAX_TOKENS} tokens" if len(self.tokens) > MAX_TOKENS else ""

    def head(self, count: int) -> str:
        """The text of the first `count` tokens."""
        return self.text[: self.tokens[count - 1].end - self.start]


def segments(text: str) -> tuple[Segment, ...]:
    """The policies of a text in order; what follows the last `;` is one more, if it has a token."""
    found: list[Segment] = []
    tokens: list[Token] = []
    start, line = 0, 1
    for match in _TOKEN.finditer(text):
        if match["skip"] is None:
            if not tokens:
                start = match.start()
            tokens.append(Token(match[0], line, match.end()))
            if match[0] == ";":
                found.append(Segment(text[start : match.end()], start, tuple(tokens)))
                tokens = []
        line += match[0].count("\n")
    if tokens:
        found.append(Segment(text[start : tokens[-1].end], start, tuple(tokens)))
    return tuple(found)


def culprit(parts: Sequence[Segment], error_of: Callable[[str], str], error: str) -> tuple[int, str]:
    """The line and the message of the first error. `error_of` parses a text and tells why it fails, or ``.

    A prefix of a policy fails at its end for as long as it could still become one, so the token that broke it
    is found by bisection.
    """
    for segment in parts:
        message = error_of(segment.text)
        if not message:
            continue
        low, high = 0, len(segment.tokens)
        while high - low > 1:
            middle = (low + high) // 2
            if error_of(segment.head(middle)) == _END:
                low = middle
            else:
                high = middle
        if high == len(segment.tokens):  # not a matter of syntax: look for what the message names
            named = re.findall(r"`([^`]+)`", message)
            lines = [token.line for token in segment.tokens if token.text in named]
            return (lines or [segment.line if message != _END else segment.tokens[-1].line])[0], message
        return segment.tokens[high - 1].line, message
    return 1, error


_END = "unexpected end of input"

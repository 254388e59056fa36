"""The headers of a request, and those that say how its body is to be taken."""

from __future__ import annotations

from typing import Any

from starlette import datastructures
from starlette.types import Scope

from checkrein.model import BadRequest

#: under which name a request finds its headers, once the guard has looked at them
HEADERS = "checkrein.headers"
_JSON = "application/json"


class Headers(datastructures.Headers):
    """Starlette's, but looked up in a table: a request is asked for its headers again and again."""

    def __init__(self, scope: Scope) -> None:
        super().__init__(raw=scope["headers"])
        self._first = dict(reversed(self._list))
        self._repeats = len(self._first) < len(self._list)

    def get(self, key: str, default: Any = None) -> Any:
        """The first value."""
        value = self._first.get(key.encode("latin-1"))
        return default if value is None else value.decode("latin-1")

    def getlist(self, key: str) -> list[str]:
        """Every value. The name is in lower case."""
        if self._repeats:
            return super().getlist(key)
        value = self._first.get(key.encode("latin-1"))
        return [] if value is None else [value.decode("latin-1")]


class NotJson(BadRequest):
    """The body is declared as something else, or not at all. HTTP 415, or 400 where AuthZEN is spoken."""


def require_json(headers: datastructures.Headers) -> None:
    """Raises `NotJson`. A page of another origin cannot declare JSON without asking first, and we never say yes."""
    values = headers.getlist("content-type")
    if values == [_JSON]:
        return
    if len(values) != 1 or values[0].partition(";")[0].strip().lower() != _JSON:
        raise NotJson("the body is not declared as JSON", hint="send `Content-Type: application/json`")


def preferred_wait(headers: datastructures.Headers) -> int | None:
    """The seconds of `Prefer: wait=10` (RFC 7240); None without one that can be read."""
    preferred = headers.getlist("prefer")
    for part in ",".join(preferred).split(",") if preferred else ():
        name, _, value = part.partition(";")[0].partition("=")
        text = value.strip().strip('"')
        if name.strip().lower() == "wait" and text.isascii() and text.isdigit() and len(text) < 10:
            return int(text)
    return None


def idempotency_key(headers: datastructures.Headers) -> str:
    """The `Idempotency-Key`, without the quotes of a structured field; empty if there is none."""
    values = headers.getlist("idempotency-key")
    if not values:
        return ""
    text = values[0].strip()
    if text[:1] == '"':
        inner = text[1:-1]
        if len(text) < 2 or text[-1] != '"' or '"' in inner or "\\" in inner:
            text = ""
        else:
            text = inner
    if len(values) > 1 or not text:
        raise BadRequest("the header `Idempotency-Key` is not one key", hint="send one, such as a UUID")
    return text

"""Headers that say how a body is to be taken."""

from __future__ import annotations

from starlette.datastructures import Headers

from checkrein.model import BadRequest


class NotJson(BadRequest):
    """The body is declared as something else, or not at all. HTTP 415, or 400 where AuthZEN is spoken."""


def require_json(headers: Headers) -> None:
    """Raises `NotJson`. A page of another origin cannot declare JSON without asking first, and we never say yes."""
    values = headers.getlist("content-type")
    if len(values) != 1 or values[0].partition(";")[0].strip().lower() != "application/json":
        raise NotJson("the body is not declared as JSON", hint="send `Content-Type: application/json`")


def preferred_wait(headers: Headers) -> int | None:
    """The seconds of `Prefer: wait=10` (RFC 7240); None without one that can be read."""
    for part in ",".join(headers.getlist("prefer")).split(","):
        name, _, value = part.partition(";")[0].partition("=")
        text = value.strip().strip('"')
        if name.strip().lower() == "wait" and text.isascii() and text.isdigit() and len(text) < 10:
            return int(text)
    return None


def idempotency_key(headers: Headers) -> str:
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

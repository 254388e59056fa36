"""Names of people, agents, sessions, tools and models stand in the ledger as they are, and nothing is erased there.

So a name that holds personal data or a secret is refused before anything is recorded, in words that do not repeat it.
Two kinds are names by custom and stay: an e-mail address that names a person or an agent, and addresses of hosts.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator

import msgspec
import re2

from checkrein.decide.detect import EVERYTHING, Span, covers, detect
from checkrein.model import BadRequest, Request

#: classes that may stand in any name, and in the names of who acts
_ANYWHERE = ("pii.ip",)
_WHO = (*_ANYWHERE, "pii.email")
#: what the name of a thing may hold that is neither a model nor a tool: an account may be named by its number
_THINGS = ("pii",)
#: resources that are a model or a tool are named after it
_NAMED = ("model", "tool")
_UUID = re2.compile(r"(?i)[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def check_names(request: Request) -> None:
    """Raises `BadRequest` for a request with a name that may not be recorded."""
    for place, name, allowed in _names(request):
        if found := _held(name, allowed):
            raise BadRequest(
                f"the name of the {place} holds what may not be recorded: {found}",
                hint=f"name the {place} by something that is neither personal data nor a secret",
            )


def nameable(request: Request) -> Request:
    """A tool call that a model proposes; a name that may not be recorded becomes one that no tool has."""
    found = _held(request.action.name, _ANYWHERE)
    if not found:
        return request
    name = f"<{found}>"
    action = msgspec.structs.replace(request.action, name=name)
    return msgspec.structs.replace(request, action=action, resource=msgspec.structs.replace(request.resource, id=name))


def bare(name: str) -> bool:
    """Whether a name may also leave: it holds nothing personal, not even what names may hold by custom."""
    return not _held(name, _ANYWHERE)


def _names(request: Request) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """What is named, its name, and the classes that the name may hold."""
    yield "subject", request.subject.id, _WHO
    yield "subject's type", request.subject.type, _ANYWHERE
    for other in request.on_behalf_of:
        yield "person it is done for", other, _WHO
    yield "agent", request.agent_id, _WHO
    yield "tool", request.action.name, _ANYWHERE
    yield "resource's type", request.resource.type, _ANYWHERE
    if request.resource.type in _NAMED:
        yield request.resource.type, request.resource.id, _ANYWHERE
    else:
        yield "resource", request.resource.id, _THINGS
    session = request.context.get("session")
    name = session.get("id") if isinstance(session, dict) else session
    if isinstance(name, str):
        yield "session", name, _ANYWHERE


@functools.lru_cache(maxsize=4096)
def _held(name: str, allowed: tuple[str, ...]) -> str:
    """The first class that a name holds and may not, or an empty string."""
    text = _UUID.sub("", name.encode("utf-8", "replace").decode()) if "-" in name else name
    sought = tuple(cls for cls in EVERYTHING if cls not in allowed)
    held = (span for span in detect(text, sought) if not covers(allowed, span.cls))
    return next((span.cls for span in held if span.cls.startswith("secret.") or _alone(text, span)), "")


def _alone(text: str, span: Span) -> bool:
    """Whether a number is no piece of a longer word: random names in hexadecimal hold many."""
    return not (text[: span.start][-1:].isalnum() or text[span.end :][:1].isalnum())

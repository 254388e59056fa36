"""What a switch or a limit is about: an agent, a key, a model, a subject, a tool, or everything."""

from __future__ import annotations

import enum
from fnmatch import fnmatchcase

import msgspec

from checkrein.model.errors import BadRequest
from checkrein.model.identity import Caller
from checkrein.model.request import Request

MAX_NAME = 512


class What(enum.StrEnum):
    EVERYTHING = "everything"
    AGENT = "agent"
    KEY = "key"
    MODEL = "model"
    SUBJECT = "subject"
    TOOL = "tool"


class Target(msgspec.Struct, frozen=True):
    """One of them by its name, or all of a kind by a pattern such as `gpt-*`. `everything` has no name.

    Names are compared without case: a caller must not get around a switch by writing `GPT-4`.
    """

    what: What
    name: str = ""

    @classmethod
    def parse(cls, what: str, name: str = "") -> Target:
        """Raises `BadRequest` for what cannot be meant."""
        try:
            kind = What(what)
        except ValueError:
            raise BadRequest(f"`{what[:80]}` is nothing that acts", hint=f"choose {', '.join(What)}") from None
        name = name.strip()
        if kind is What.EVERYTHING and name:
            raise BadRequest("`everything` has no name", hint="leave the name out")
        if kind is not What.EVERYTHING and not (0 < len(name) <= MAX_NAME and name.isprintable()):
            raise BadRequest(f"the {kind} is not named", hint=f"give 1 to {MAX_NAME} printable characters")
        return cls(kind, name)

    def __str__(self) -> str:
        return f"{self.what}:{self.name}" if self.name else self.what.value

    @property
    def folded(self) -> Target:
        """The same for all spellings of a name."""
        return Target(self.what, _fold(self.name))

    def fits(self, one: Target) -> bool:
        """Whether this, which may be a pattern, means that one. Both are `folded`."""
        return self.what is one.what and (self.name == one.name or fnmatchcase(one.name, self.name))


def _fold(name: str) -> str:
    return name.strip().casefold()


_EVERYTHING = Target(What.EVERYTHING)


def targets(request: Request, caller: str) -> tuple[Target, ...]:
    """Everything that this action is an action of, folded. `caller` is the key that asked."""
    subject = request.subject
    agents = {request.agent_id, subject.id if subject.type == "agent" else ""} - {""}
    did = (What.MODEL, request.resource.id) if request.is_prompt else (What.TOOL, request.action.name)
    named = [(What.KEY, caller), (What.SUBJECT, subject.id), *((What.AGENT, name) for name in sorted(agents)), did]
    return (_EVERYTHING, *[Target(what, _fold(name)) for what, name in named])


def holder(key: Caller) -> tuple[Target, ...]:
    """Who acts with this key, folded, where no action is asked for. Not `everything`: people must be able to revive."""
    named = [(What.KEY, key.id), (What.SUBJECT, key.owner), (What.AGENT, key.agent)]
    return tuple(Target(what, _fold(name)) for what, name in named if name)

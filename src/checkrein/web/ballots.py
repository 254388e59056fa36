"""What people say when they vote, edit, or change what holds beyond one request; and whether it is a person at all."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from checkrein.flow.approval import VoteRefused
from checkrein.model import BadRequest, Caller
from checkrein.model.json import load_object
from checkrein.model.target import holder
from checkrein.services.killswitch import KillSwitch

MAX_REASON = 2000
#: whether each is for it
DECISIONS = {"approve": True, "deny": False}


class Wish(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How far the like may happen again: for no longer than `max` (`30m`) and no more than so many `uses`; where
    nothing is said, as far as policy lets people grant it."""

    max: str = ""
    uses: int | None = None


class Ballot(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What somebody who votes says; `shown` is the hash of what they saw, `on_behalf_of` in whose place they stand.

    `action_hash` is that of the action they looked at, or its beginning, if they go by that too.
    """

    decision: str
    shown: str
    reason: str = ""
    on_behalf_of: str = ""
    action_hash: str = ""
    grant: Wish | None = None


class Edit(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All the arguments that the action is to have instead; the rest as in a ballot."""

    arguments: dict[str, Any]
    shown: str
    reason: str = ""
    action_hash: str = ""


class Revocation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Why a grant ends."""

    reason: str = ""


class Absence(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename={"since": "from"}):
    """To whom a vote is given, from the first of these days (now, if none is said) to the last, in UTC."""

    delegate: str
    until: str
    since: str = ""


class Nothing(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """There is nothing to say."""


Said = TypeVar("Said", bound=msgspec.Struct)
_HINT = {
    Ballot: '`{"decision": "approve" or "deny", "shown": "...", "reason": "..."}`',
    Edit: '`{"arguments": {...}, "shown": "...", "reason": "..."}`',
    Revocation: '`{"reason": "..."}`',
    Absence: '`{"delegate": "carol", "from": "2026-12-20", "until": "2026-12-24"}`',
    Nothing: "`{}`",
}


def read(data: bytes, kind: type[Said]) -> Said:
    """Raises `BadRequest` for what cannot be meant."""
    try:
        said = msgspec.convert(load_object(data), kind)
    except msgspec.ValidationError as error:
        why = f"{str(error)[:1].lower()}{str(error)[1:]}"
        raise BadRequest(f"this cannot be read: {why}", hint=f"send {_HINT[kind]}") from error
    return checked(said)


def checked(said: Said) -> Said:
    """The same, if it says something; raises `BadRequest`."""
    if isinstance(said, Ballot) and said.decision not in DECISIONS:
        raise BadRequest("`decision` is neither `approve` nor `deny`", hint="say which")
    if isinstance(said, Ballot | Edit | Revocation) and len(said.reason) > MAX_REASON:
        raise BadRequest(f"`reason` is longer than {MAX_REASON} characters", hint="keep it short")
    if isinstance(said, Ballot | Edit) and not said.shown:
        raise BadRequest("`shown` is empty", hint="send the `shown` of what was looked at")
    return said


def barred(key: Caller, killswitch: KillSwitch) -> VoteRefused | None:
    """Why nobody acts for people with this key, if that is so."""
    if key.agent:
        return VoteRefused(
            "agent_key",
            f"the agent `{key.agent}` holds this key, and agents do not vote",
            hint="make a key for the person: `checkrein keys create NAME --owner PERSON --can approve`",
        )
    if switch := killswitch.barring(holder(key)):
        return VoteRefused("killed", f"`{switch.target}` is killed", hint="use another key, or the command line")
    return None

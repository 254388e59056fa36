"""What people say they look for, as a query: the same words on the command line and over HTTP."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from checkrein.model import BadRequest, Level, Outcome
from checkrein.model.stamp import moment
from checkrein.ports import RecordQuery

#: every filter, by the name it has over HTTP
NAMES = ("user", "agent", "action", "outcome", "risk", "trace_id", "approval", "policy", "kind", "since", "until")
#: filters that admit only these values
_KNOWN = {"outcome": tuple(outcome.wire for outcome in Outcome), "risk": tuple(level.value for level in Level)}


def query(given: Mapping[str, str], *, now_us: int) -> RecordQuery:
    """The query of filters named as in `NAMES`; an empty text filters nothing.

    Raises `BadRequest` for an outcome, a risk or a time that is none, and for a time that ends before it begins.
    """
    for name, known in _KNOWN.items():
        if given.get(name) and given[name].lower() not in known:
            raise BadRequest(f"`{given[name][:80]}` is no {name}", hint=f"choose {', '.join(known)}")
    since, until = (moment(given[name], now_us) if given.get(name) else 0 for name in ("since", "until"))
    if since and until and since >= until:
        raise BadRequest("the time ends before it begins", hint="give an earlier `since`, or a later `until`")

    def said(name: str) -> str:
        return given.get(name, "")

    return RecordQuery(
        user=said("user"),
        agent=said("agent"),
        action=said("action"),
        outcome=said("outcome").lower(),
        risk=said("risk").lower(),
        trace_id=said("trace_id"),
        approval=said("approval"),
        policy=said("policy"),
        kinds=tuple(kind.strip() for kind in said("kind").split(",") if kind.strip()),
        since_us=since,
        until_us=until,
    )


def is_filtered(query: RecordQuery) -> bool:
    """Whether anything but the whole ledger is asked for."""
    return query != msgspec.structs.replace(RecordQuery(), limit=query.limit, newest_first=query.newest_first)

"""The filters that `audit list`, `audit tail` and `audit export` share. They add up."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

import typer

from checkrein.model import Level

if TYPE_CHECKING:
    from checkrein.ports import RecordQuery

User = Annotated[str, typer.Option(metavar="USER", help="Only actions of this person.")]
Agent = Annotated[str, typer.Option(metavar="AGENT", help="Only this agent.")]
Action = Annotated[
    str, typer.Option("--action", "--tool", metavar="ACTION", help="Only this action: a tool, or `prompt`.")
]
Outcome = Annotated[
    str, typer.Option(metavar="OUTCOME", help="Only this: allow, allow_with_redaction, require_review or deny.")
]
Risk = Annotated[Level | None, typer.Option(help="Only decisions of this risk.")]
Trace = Annotated[str, typer.Option(metavar="ID", help="Only this trace id.")]
Approval = Annotated[str, typer.Option(metavar="ID", help="Only what belongs to this approval.")]
Policy = Annotated[str, typer.Option(metavar="POLICY", help="Only what this policy decided, or erred on.")]
Kind = Annotated[str, typer.Option(metavar="KIND", help="Only this kind, such as `decision`; several by comma.")]
Since = Annotated[
    str, typer.Option(metavar="TIME", help="From this time on: 2026-01-15T10:00:00Z, or 2h for two hours ago.")
]
Until = Annotated[str, typer.Option(metavar="TIME", help="Before this time, written alike.")]


def query(*, risk: Level | None, **given: str) -> RecordQuery:
    """The query of the options, named as `services.filters` names them."""
    from checkrein.services import filters

    return filters.query({**given, "risk": risk or ""}, now_us=time.time_ns() // 1000)

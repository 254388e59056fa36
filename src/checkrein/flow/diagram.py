"""Diagrams of the state machines, drawn from their tables (Mermaid)."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import TypeVar

from checkrein.flow import action, approval, emergency, grant, rollout

_State = TypeVar("_State", bound=StrEnum)
_Event = TypeVar("_Event", bound=StrEnum)


def _name(state: str) -> str:
    return state.replace(" ", "_")


def _diagram(first: StrEnum, transitions: Mapping[_State, Mapping[_Event, _State]]) -> str:
    """A machine in which each event leads to one state."""
    lines = ["stateDiagram-v2", f"    [*] --> {_name(first)}"]
    for state, steps in transitions.items():
        lines += [f"    {_name(state)} --> {_name(target)}: {event.value}" for event, target in steps.items()]
        if not steps:
            lines.append(f"    {_name(state)} --> [*]")
    return "\n".join(lines)


def action_diagram() -> str:
    """The life of one governed action."""
    lines = ["stateDiagram-v2", f"    [*] --> {_name(action.State.NEW)}"]
    for state, steps in action.TRANSITIONS.items():
        for event, targets in steps.items():
            lines += [f"    {_name(state)} --> {_name(target)}: {event.__name__}" for target in targets]
        if not steps:
            lines.append(f"    {_name(state)} --> [*]")
    return "\n".join(lines)


def approval_diagram() -> str:
    """The life of one approval."""
    return _diagram(approval.State.PENDING, approval.TRANSITIONS)


def grant_diagram() -> str:
    """The life of one grant."""
    return _diagram(grant.State.LIVE, grant.TRANSITIONS)


def review_diagram() -> str:
    """The life of the review that a broken glass leaves."""
    return _diagram(emergency.ReviewState.OPEN, emergency.REVIEWS)


def rollout_diagram() -> str:
    """The life of one rollout."""
    lines = ["stateDiagram-v2"]
    lines += [f"    [*] --> {_name(state)}" for state in (rollout.State.SHADOW, rollout.State.LIVE)]
    for state, steps in rollout.TRANSITIONS.items():
        for event, targets in steps.items():
            lines += [f"    {_name(state)} --> {_name(target)}: {event.value}" for target in targets]
        if not steps:
            lines.append(f"    {_name(state)} --> [*]")
    return "\n".join(lines)


def page() -> str:
    """The whole of `docs/flow.md`."""
    return (
        "# State machines\n\n"
        "Drawn from the tables in `checkrein.flow`; `make docs` writes this page, a test compares it.\n\n"
        "## One governed action\n\n"
        f"```mermaid\n{action_diagram()}\n```\n\n"
        "There is no way to `executing` that does not lead through `recording the start`: the decision and the\n"
        "start are durable before anything runs.\n\n"
        "## One approval\n\n"
        f"```mermaid\n{approval_diagram()}\n```\n\n"
        "An edit ends one approval and opens another, which begins as `pending`.\n\n"
        "## One grant\n\n"
        f"```mermaid\n{grant_diagram()}\n```\n\n"
        "One whose time is over stays as it was and covers nothing.\n\n"
        "## The review of a broken glass\n\n"
        f"```mermaid\n{review_diagram()}\n```\n\n"
        "## One rollout\n\n"
        f"```mermaid\n{rollout_diagram()}\n```\n\n"
        "A policy bundle begins in the shadow, another version of an upstream live, at the first stage.\n"
    )


if __name__ == "__main__":
    print(page(), end="")

"""Diagrams of the state machines, drawn from their tables (Mermaid)."""

from __future__ import annotations

from checkrein.flow import action, approval, grant, rollout


def _name(state: str) -> str:
    return state.replace(" ", "_")


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
    lines = ["stateDiagram-v2", f"    [*] --> {_name(approval.State.PENDING)}"]
    for state, steps in approval.TRANSITIONS.items():
        lines += [f"    {_name(state)} --> {_name(target)}: {event.value}" for event, target in steps.items()]
        if not steps:
            lines.append(f"    {_name(state)} --> [*]")
    return "\n".join(lines)


def grant_diagram() -> str:
    """The life of one grant."""
    lines = ["stateDiagram-v2", f"    [*] --> {_name(grant.State.LIVE)}"]
    for state, steps in grant.TRANSITIONS.items():
        lines += [f"    {_name(state)} --> {_name(target)}: {event.value}" for event, target in steps.items()]
        if not steps:
            lines.append(f"    {_name(state)} --> [*]")
    return "\n".join(lines)


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
        "## One rollout\n\n"
        f"```mermaid\n{rollout_diagram()}\n```\n\n"
        "A policy bundle begins in the shadow, another version of an upstream live, at the first stage.\n"
    )


if __name__ == "__main__":
    print(page(), end="")

"""`checkrein approvals approve|deny|edit`: people answer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from checkrein.cli.approvals import Id
from checkrein.cli.common import HERE, Data, Dir, Format, Output, examples, print_json, say
from checkrein.cli.desk import As, Url, Wish, desk
from checkrein.flow.approval import State
from checkrein.model import BadRequest
from checkrein.model.json import load_object, loads

For = Annotated[
    str,
    typer.Option("--for", metavar="PERSON", help="In whose place, for a delegate.", show_default="whoever it helps"),
]
Reason = Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why; the approval keeps it.")]
Hash = Annotated[
    str,
    typer.Option(
        "--hash", metavar="HASH", help="The action hash you looked at: refused if it is another.", show_default="any"
    ),
]


def register(approvals: typer.Typer) -> None:
    """Hang the verbs under the group `approvals`."""
    approvals.command(
        short_help="Approve: it may run, once.",
        epilog=examples('checkrein approvals approve apr_1a2b --as bob --reason "legal agreed"'),
    )(approve)
    approvals.command(
        short_help="Deny: it will not run.",
        epilog=examples('checkrein approvals deny apr_1a2b --as bob --reason "wrong recipients"'),
    )(deny)
    approvals.command(
        short_help="Ask for it with other arguments.",
        epilog=examples(
            "checkrein approvals edit apr_1a2b --as bob --set amount=500",
            "checkrein approvals edit apr_1a2b --as bob --input arguments.json",
        ),
    )(edit)


def approve(
    id: Id,
    who: As = "",
    reason: Reason = "",
    behalf: For = "",
    seen: Hash = "",
    granting: Annotated[
        bool, typer.Option("--grant", help="Let the like happen again, as far as policy says.")
    ] = False,
    grant_for: Annotated[
        str, typer.Option("--grant-for", metavar="TIME", help="No longer than this, such as `30m`.", show_default="all")
    ] = "",
    grant_uses: Annotated[
        int | None, typer.Option("--grant-uses", metavar="N", help="No more often than this.", show_default="all")
    ] = None,
    url: Url = "",
    dir: Dir = HERE,
    data: Data = None,
    output: Format = Output.TABLE,
) -> None:
    """Approve: the exact action shown may run, once, when it is sent again.

    The person must hold a role that is still needed, and cannot vote on what they asked for. A vote that does not
    count is refused, and recorded.

    With `--grant` the same tool may run again for the same user and agent without asking, as often and as long as the
    policy's `@grant` says, or less. It opens if everybody who agrees gives it.
    """
    from checkrein.services.showing import stored

    wish = Wish(grant_for, grant_uses) if granting or grant_for or grant_uses is not None else None
    with desk(url, dir, data, who) as open_desk:
        after, grant = open_desk.vote(id, approve=True, reason=reason, behalf=behalf, seen=seen, wish=wish)
    if output is Output.JSON:
        print_json(stored(after) | {"grant": grant.id if grant else ""})
    if after.state is State.APPROVED:
        say(f"{after.id} is approved; it runs once when the same request is sent again")
        if grant:
            say(f"{grant.id} lets the like run again: {grant.terms}; `approvals revoke` ends it")
    else:
        say(f"{after.id} has your vote; still needed: {', '.join(after.missing())}")


def deny(
    id: Id,
    who: As = "",
    reason: Reason = "",
    behalf: For = "",
    seen: Hash = "",
    url: Url = "",
    dir: Dir = HERE,
    data: Data = None,
    output: Format = Output.TABLE,
) -> None:
    """Deny: the action will not run. One denial ends it, whoever else has approved."""
    from checkrein.services.showing import stored

    with desk(url, dir, data, who) as open_desk:
        after, _ = open_desk.vote(id, approve=False, reason=reason, behalf=behalf, seen=seen, wish=None)
    if output is Output.JSON:
        print_json(stored(after))
    say(f"{after.id} is {after.state}")


def edit(
    id: Id,
    who: As = "",
    given: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Change an argument.", show_default=False)
    ] = None,
    without: Annotated[
        list[str] | None, typer.Option("--unset", metavar="NAME", help="Leave an argument out.", show_default=False)
    ] = None,
    file: Annotated[
        Path | None, typer.Option("--input", metavar="FILE", help="All arguments, as JSON.", show_default=False)
    ] = None,
    reason: Reason = "",
    seen: Hash = "",
    url: Url = "",
    dir: Dir = HERE,
    data: Data = None,
    output: Format = Output.TABLE,
) -> None:
    """Ask for the same action with other arguments: a new approval takes the place of this one.

    The arguments are checked against the tool's schema and decided afresh; earlier votes were for something else and
    are void. Who edits may vote, but does not decide alone.
    """
    from checkrein.services.showing import stored

    with desk(url, dir, data, who) as open_desk:
        approval, details = open_desk.show(id)
        arguments = load_object(file.read_bytes()) if file else dict(approval.request().action.input)
        arguments |= _read(given or (), details.declared if details else {})
        for name in without or ():
            if name not in arguments:
                raise BadRequest(f"there is no argument `{name[:80]}`", hint=f"given: {', '.join(arguments)}")
            del arguments[name]
        after = open_desk.edit(id, arguments, reason=reason, seen=seen)
    if output is Output.JSON:
        print_json(stored(after))
    say(f"{after.id} takes its place; still needed: {', '.join(after.missing())}")


def _read(given: list[str] | tuple[()], declared: Mapping[str, str]) -> dict[str, object]:
    """Arguments as they are declared: text as it stands, anything else as JSON."""
    found: dict[str, object] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals:
            raise BadRequest(f"`{text[:80]}` sets nothing", hint="write `--set amount=500`")
        found[name] = value if declared.get(name, "").rstrip("?") == "string" else loads(value)
    return found

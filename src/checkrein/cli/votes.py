"""`checkrein approvals approve|deny|edit`: people answer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from checkrein.cli.approval_view import as_json
from checkrein.cli.approvals import Id
from checkrein.cli.common import HERE, Data, Dir, Format, Output, examples, print_json, say, system
from checkrein.cli.standing import As, known
from checkrein.flow.approval import Approval, State
from checkrein.model import BadRequest
from checkrein.model.json import load_object, loads
from checkrein.model.requirement import Terms, parse_span

if TYPE_CHECKING:
    from checkrein.policy.manifest import Manifest

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
        int, typer.Option("--grant-uses", metavar="N", help="No more often than this.", show_default="all")
    ] = 0,
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
    with system(dir, data) as opened:
        known(opened, who)
        terms = _terms(opened.approvals.get(id), grant_for, grant_uses) if granting or grant_for or grant_uses else None
        after = opened.approvals.vote(
            id,
            voter=who,
            approve=True,
            reason=reason,
            on_behalf_of=behalf,
            auth="local",
            action_hash=seen,
            grant=terms,
        )
        grant = next((grant for grant in opened.grants.all() if grant.approval == after.id), None)
        now_us = opened.clock.now_us()
    if output is Output.JSON:
        print_json(as_json(after, now_us) | {"grant": grant.id if grant else ""})
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
    dir: Dir = HERE,
    data: Data = None,
    output: Format = Output.TABLE,
) -> None:
    """Deny: the action will not run. One denial ends it, whoever else has approved."""
    with system(dir, data) as opened:
        known(opened, who)
        after = opened.approvals.vote(
            id, voter=who, approve=False, reason=reason, on_behalf_of=behalf, auth="local", action_hash=seen
        )
        now_us = opened.clock.now_us()
    if output is Output.JSON:
        print_json(as_json(after, now_us))
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
    dir: Dir = HERE,
    data: Data = None,
    output: Format = Output.TABLE,
) -> None:
    """Ask for the same action with other arguments: a new approval takes the place of this one.

    The arguments are checked against the tool's schema and decided afresh; earlier votes were for something else and
    are void. Who edits may vote, but does not decide alone.
    """
    with system(dir, data) as opened:
        known(opened, who)
        request = opened.approvals.get(id).request()
        arguments = load_object(file.read_bytes()) if file else dict(request.action.input)
        arguments |= _read(given or (), opened.pdp.bundle.manifests.get(request.action.name))
        for name in without or ():
            if name not in arguments:
                raise BadRequest(f"there is no argument `{name[:80]}`", hint=f"given: {', '.join(arguments)}")
            del arguments[name]
        after = opened.edits.edit(id, arguments, editor=who, reason=reason, auth="local", action_hash=seen)
        now_us = opened.clock.now_us()
    if output is Output.JSON:
        print_json(as_json(after, now_us))
    say(f"{after.id} takes its place; still needed: {', '.join(after.missing())}")


def _read(given: list[str] | tuple[()], manifest: Manifest | None) -> dict[str, object]:
    """Arguments as they are declared: text as it stands, anything else as JSON."""
    declared: Mapping[str, object] = manifest.input if manifest else {}
    found: dict[str, object] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals:
            raise BadRequest(f"`{text[:80]}` sets nothing", hint="write `--set amount=500`")
        found[name] = value if str(declared.get(name, "")).rstrip("?") == "string" else loads(value)
    return found


def _terms(approval: Approval, max_text: str, uses: int) -> Terms:
    """What the person grants: what policy lets them, narrowed as they say. Without any the vote is refused."""
    allowed = approval.requirement.grant or Terms(1, 1)
    max_s = parse_span(max_text) if max_text else allowed.max_s
    return msgspec.structs.replace(allowed, max_s=max_s, uses=uses or allowed.uses)

"""`checkrein approvals break-glass|reviews|sign`: emergencies, and the look afterwards."""

from __future__ import annotations

from typing import Annotated

import msgspec
import typer

from checkrein.cli.approvals import Id
from checkrein.cli.common import HERE, Data, Dir, Format, Output, examples, print_json, say, system
from checkrein.cli.desk import As, known
from checkrein.cli.tables import print_table
from checkrein.cli.votes import Reason
from checkrein.flow.approval import Approval
from checkrein.model.stamp import stamp


def register(approvals: typer.Typer) -> None:
    """Hang the verbs under the group `approvals`."""
    approvals.command(
        "break-glass",
        short_help="In an emergency: let it run, and answer for it.",
        epilog=examples('checkrein approvals break-glass apr_1a2b --as bob --reason "plant 3"'),
    )(break_glass)
    approvals.command(
        short_help="List broken glasses that nobody has reviewed.",
        epilog=examples("checkrein approvals reviews", "checkrein approvals reviews --all -o json"),
    )(reviews)
    approvals.command(
        short_help="Sign the review of a broken glass.",
        epilog=examples('checkrein approvals sign apr_1a2b --as carol --reason "was right"'),
    )(sign)


def break_glass(
    id: Id, who: As = "", reason: Reason = "", dir: Dir = HERE, data: Data = None, output: Format = Output.TABLE
) -> None:
    """Let one action run although people have not agreed yet: for who holds the role `approvals.break_glass`.

    It needs a reason and lasts a short time (`approvals.break_glass_life`). Its owners are told, and a review stays
    open until somebody else has signed it. What policy denies stays denied, and nobody does it for their own request.
    """
    from checkrein.services.showing import stored

    with system(dir, data) as opened:
        known(opened, who)
        after = opened.showing.seen(opened.emergencies.break_glass(id, by=who, reason=reason, auth="local"))
    if output is Output.JSON:
        print_json(stored(after))
    say(f"{after.id} may run once until {stamp(after.deadline_us)[:19]}Z; somebody else must sign its review")


def reviews(
    every: Annotated[bool, typer.Option("--all", help="Also those that are signed.")] = False,
    dir: Dir = HERE,
    data: Data = None,
    output: Format = Output.TABLE,
) -> None:
    """List the reviews that broken glasses have left, the oldest first."""
    with system(dir, data) as opened:
        found = [(review, opened.approvals.get(review.approval)) for review in opened.emergencies.reviews(every=every)]
    if output is Output.JSON:
        print_json(
            [msgspec.to_builtins(review) | {"outcome": asked.state, "reason": _why(asked)} for review, asked in found]
        )
        return
    print_table(
        ("approval", "review", "broken by", "at (UTC)", "action", "became", "why", "signed by", "found"),
        [
            (
                review.approval,
                review.state.value,
                review.broken_by,
                stamp(review.at_us)[:16].replace("T", " "),
                f"{asked.request().action.name} on {asked.request().resource.id}",
                asked.state.value,
                _why(asked),
                review.signed_by,
                review.note,
            )
            for review, asked in found
        ],
        empty="no glass was ever broken" if every else "no review is open",
        prose=("why", "found"),
    )


def sign(
    id: Id, who: As = "", reason: Reason = "", dir: Dir = HERE, data: Data = None, output: Format = Output.TABLE
) -> None:
    """Sign that you looked at what was done behind a broken glass, and say what you found.

    It takes somebody else than who broke it, off the principal chain, with the same role or one that was asked for.
    """
    with system(dir, data) as opened:
        known(opened, who)
        signed = opened.emergencies.sign(id, by=who, note=reason, auth="local")
    if output is Output.JSON:
        print_json(msgspec.to_builtins(signed))
    say(f"the review of {signed.approval} is signed")


def _why(asked: Approval) -> str:
    return asked.broken.reason if asked.broken else ""

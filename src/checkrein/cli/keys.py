"""`checkrein keys`: who may call, and which key signs the ledger."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from checkrein.cli.common import (
    HERE,
    Data,
    Dir,
    Format,
    Output,
    emit,
    examples,
    operator,
    print_json,
    say,
    store,
)
from checkrein.cli.tables import print_table
from checkrein.model import ApiKey, BadRequest, Permission
from checkrein.model.requirement import parse_span
from checkrein.model.stamp import stamp

if TYPE_CHECKING:
    from checkrein.services.keys import Keys

app = typer.Typer(
    help="API keys and the ledger's key: make, list, rotate, revoke.", no_args_is_help=True, rich_markup_mode=None
)


@app.command(
    short_help="Make a key; it is shown once.",
    epilog=examples(
        "checkrein keys create billing-bot --owner alice --roles staff",
        "checkrein keys create envoy --can decide --expires 90d",
        "KEY=$(checkrein keys create auditor --can audit)",
        "checkrein keys create bobs-laptop --owner bob --can approve",
    ),
)
def create(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What the key is for, such as the agent's name.")],
    owner: Annotated[str, typer.Option(metavar="PERSON", help="Whom it acts for.", show_default="NAME")] = "",
    roles: Annotated[str, typer.Option(metavar="ROLES", help="The owner's roles, by comma.")] = "",
    agent: Annotated[str, typer.Option(metavar="AGENT", help="The agent that holds it.")] = "",
    can: Annotated[
        str,
        typer.Option(
            metavar="PERMISSIONS",
            help="By comma: `call` models and tools as the owner, `decide` for any subject (an enforcement "
            "point), `audit` reads the ledger, `metrics` the figures, `operate` kills and revives, `approve` votes on "
            "approvals as the owner.",
        ),
    ] = "call",
    expires: Annotated[str, typer.Option(metavar="TIME", help="Until when, such as 30d.", show_default="never")] = "",
    dir: Dir = HERE,
    data: Data = None,
    output: Format = Output.TABLE,
) -> None:
    """Make a key and print it, alone on standard output. It is shown once; only its SHA-256 is kept."""
    permissions = tuple(dict.fromkeys(_permission(text) for text in _parts(can)))
    expires_s = parse_span(expires) if expires else 0
    with _keys(dir, data) as keys:
        key, secret = keys.create(
            name,
            owner=owner,
            roles=tuple(_parts(roles)),
            agent=agent,
            permissions=permissions,
            expires_s=expires_s,
            by=operator(),
        )
    if output is Output.JSON:
        print_json({"key": secret, **_public(key)})
        return
    say(f"{key.id} may {', '.join(key.permissions)} as {key.owner}. The key is shown only now:")
    emit(secret)


@app.command("list", short_help="List the keys.", epilog=examples("checkrein keys list --dir governance"))
def list_(dir: Dir = HERE, data: Data = None, output: Format = Output.TABLE) -> None:
    """List the keys, oldest first, without their secrets. When each was last used is known to the hour."""
    from checkrein.compose import SystemClock

    with _keys(dir, data) as opened:
        keys = sorted(opened.all(), key=lambda key: key.created_us)
        used = {key.id: opened.used_us(key.id) for key in keys}
    now_us = SystemClock().now_us()
    if output is Output.JSON:
        print_json(
            [{**_public(key), "used_us": used[key.id], "status": _status(key, now_us)} for key in keys],
        )
        return
    print_table(
        ("id", "name", "owner", "roles", "agent", "can", "status", "created (UTC)", "ends", "used"),
        [
            (
                key.id,
                key.name,
                key.owner,
                ", ".join(key.roles),
                key.agent,
                ", ".join(key.permissions),
                _status(key, now_us),
                _minute(key.created_us),
                _minute(key.expires_us) or "never",
                _minute(used[key.id]) or "never",
            )
            for key in keys
        ],
        empty="no keys yet; make one with `checkrein keys create NAME`",
        prose=("roles", "can"),
    )


@app.command(
    short_help="Give a key a new secret.",
    epilog=examples(
        "checkrein keys rotate key_1a2b... --dir governance",
        "KEY=$(checkrein keys rotate key_1a2b... --overlap 7d --expires 90d)",
        "checkrein keys rotate key_1a2b... --overlap 0s    it may have leaked",
    ),
)
def rotate(
    id: Annotated[str, typer.Argument(metavar="ID", help="The key's id, `key_...`.")],
    overlap: Annotated[
        str, typer.Option(metavar="TIME", help="How long the old secret still opens it, such as 7d, or 0s.")
    ] = "1d",
    expires: Annotated[
        str, typer.Option(metavar="TIME", help="Until when it lives now, such as 90d.", show_default="as before")
    ] = "",
    dir: Dir = HERE,
    data: Data = None,
    output: Format = Output.TABLE,
) -> None:
    """Give a key a new secret and print it, alone on standard output. It is shown once.

    The key stays the same, with its owner, roles, limits and record; the old secret opens it until the overlap is over.
    """
    expires_s = parse_span(expires) if expires else 0
    with _keys(dir, data) as keys:
        key, secret = keys.rotate(id, overlap_s=_overlap(overlap), expires_s=expires_s, by=operator())
    if output is Output.JSON:
        print_json({"key": secret, **_public(key)})
        return
    until = f"until {_minute(key.previous_until_us)} UTC" if key.previous_until_us else "no longer"
    say(f"{key.id} has a new secret; the old one opens it {until}. The new one is shown only now:")
    emit(secret)


@app.command(short_help="Revoke a key, at once.", epilog=examples("checkrein keys revoke key_1a2b... --dir governance"))
def revoke(
    id: Annotated[str, typer.Argument(metavar="ID", help="The key's id, `key_...`.")],
    dir: Dir = HERE,
    data: Data = None,
    output: Format = Output.TABLE,
) -> None:
    """Revoke a key: from its next request on it opens nothing, in every running process.

    Works also while the policies do not load. Revoking twice is not an error.
    """
    with _keys(dir, data) as keys:
        key = keys.revoke(id, by=operator())
    if output is Output.JSON:
        print_json({**_public(key), "status": "revoked"})
    say(f"{key.id} ({key.name}) is revoked")


@app.command(
    "rotate-signer",
    short_help="Give the ledger a new signing key.",
    epilog=examples(
        "checkrein keys rotate-signer --dir governance",
        "checkrein keys rotate-signer --overlap 90d > new-signer.pub",
        "checkrein keys rotate-signer --overlap 0s        the old key may have leaked",
    ),
)
def rotate_signer(
    overlap: Annotated[
        str, typer.Option(metavar="TIME", help="How long the old key signs beside the new one, such as 90d, or 0s.")
    ] = "30d",
    keep: Annotated[
        bool, typer.Option("--keep", help="Keep the old private key in a file of its own; else it is destroyed.")
    ] = False,
    dir: Dir = HERE,
    data: Data = None,
    output: Format = Output.TABLE,
) -> None:
    """Give the ledger a new signing key and print the public one, alone on standard output.

    A record signed by both keys hands the log over, so that whoever holds an older public key can still verify.
    A running server signs with the new key from its next checkpoint on.
    """
    from checkrein.services.rotation import rotate

    overlap_s = _overlap(overlap)
    with store(dir, data) as opened:
        made = rotate(opened, overlap_s=overlap_s, keep=keep, by=operator())
    until = stamp(made.until_us)
    if output is Output.JSON:
        print_json({"new": made.new, "old": made.old, "until": until})
        return
    fate = "kept in a file of its own" if keep else "destroyed"
    also = (
        f"signs beside it until {until[:16].replace('T', ' ')} UTC, then it"
        if overlap_s
        else "has signed once more and"
    )
    say(f"the ledger has a new key; the old one {also} is {fate}. Hand out the new public key:")
    emit(made.new)


@contextmanager
def _keys(dir: Path, data: Path | None) -> Iterator[Keys]:
    from checkrein.compose import SystemClock
    from checkrein.services.keys import Keys

    with store(dir, data) as opened:
        yield Keys(opened, SystemClock())


def _parts(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _permission(text: str) -> Permission:
    try:
        return Permission(text)
    except ValueError:
        raise BadRequest(
            f"`{text}` is not something a key can do", hint="choose call, decide, audit, operate or approve"
        ) from None


def _overlap(text: str) -> int:
    return 0 if text.strip() in ("0", "0s") else parse_span(text)


def _minute(at_us: int) -> str:
    return stamp(at_us)[:16].replace("T", " ") if at_us else ""


def _public(key: ApiKey) -> dict[str, object]:
    return {name: value for name, value in msgspec.to_builtins(key).items() if not name.endswith("digest")}


def _status(key: ApiKey, now_us: int) -> str:
    return "revoked" if key.revoked_us else "live" if key.live(now_us) else "expired"

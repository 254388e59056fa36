"""`checkrein keys`: who may call."""

from __future__ import annotations

from typing import Annotated

import msgspec
import typer

from checkrein.cli.common import (
    HERE,
    Data,
    Dir,
    Format,
    Output,
    operator,
    print_json,
    print_table,
    say,
    system,
)
from checkrein.model import ApiKey, BadRequest, Permission
from checkrein.model.requirement import parse_span
from checkrein.model.stamp import stamp

app = typer.Typer(help="Make, list and revoke API keys.", no_args_is_help=True, rich_markup_mode=None)


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="What the key is for, such as the agent's name.")],
    owner: Annotated[str, typer.Option(help="The person it acts for.", show_default="NAME")] = "",
    roles: Annotated[str, typer.Option(help="The owner's roles, by comma.")] = "",
    agent: Annotated[str, typer.Option(help="The agent that holds it.")] = "",
    can: Annotated[
        str,
        typer.Option(
            help="By comma: `call` models and tools as the owner, `decide` for any subject (an enforcement "
            "point), `audit` reads the ledger."
        ),
    ] = "call",
    expires: Annotated[str, typer.Option(help="For how long, such as 30d.", show_default="for ever")] = "",
    dir: Dir = HERE,
    data: Data = None,
    output: Format = Output.TABLE,
) -> None:
    """Make a key. The secret is printed once; only its SHA-256 is kept.

    Example: checkrein keys create billing-bot --owner alice --roles staff --agent billing-bot
    """
    permissions = tuple(dict.fromkeys(_permission(text) for text in _parts(can)))
    expires_s = parse_span(expires) if expires else 0
    with system(dir, data) as opened:
        key, secret = opened.keys.create(
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
    typer.echo(secret)


@app.command("list")
def list_(dir: Dir = HERE, data: Data = None, output: Format = Output.TABLE) -> None:
    """List the keys, without their secrets."""
    with system(dir, data) as opened:
        keys, now_us = opened.keys.all(), opened.clock.now_us()
    if output is Output.JSON:
        print_json([{**_public(key), "status": _status(key, now_us)} for key in keys])
        return
    print_table(
        ("id", "name", "owner", "roles", "agent", "can", "status", "created"),
        [
            (
                key.id,
                key.name,
                key.owner,
                ", ".join(key.roles),
                key.agent,
                ", ".join(key.permissions),
                _status(key, now_us),
                stamp(key.created_us)[:19],
            )
            for key in sorted(keys, key=lambda key: key.created_us)
        ],
        empty="no keys yet; make one with `checkrein keys create NAME`",
    )


@app.command()
def revoke(
    id: Annotated[str, typer.Argument(help="The key's id, `key_...`.")], dir: Dir = HERE, data: Data = None
) -> None:
    """Revoke a key: from its next request on it opens nothing, in every running process."""
    with system(dir, data) as opened:
        key = opened.keys.revoke(id, by=operator())
    say(f"{key.id} ({key.name}) is revoked")


def _parts(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _permission(text: str) -> Permission:
    try:
        return Permission(text)
    except ValueError:
        raise BadRequest(f"`{text}` is not something a key can do", hint="choose call, decide or audit") from None


def _public(key: ApiKey) -> dict[str, object]:
    return {name: value for name, value in msgspec.to_builtins(key).items() if name != "digest"}


def _status(key: ApiKey, now_us: int) -> str:
    return "revoked" if key.revoked_us else "live" if key.live(now_us) else "expired"

"""`checkrein webhooks`: who is told of what is recorded, and how far they are."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlsplit

import msgspec
import typer

from checkrein.cli.common import HERE, Data, Dir, Format, Output, examples, print_json, say, store
from checkrein.cli.tables import print_table
from checkrein.model import CheckreinError, NotFound, UpstreamUnavailable
from checkrein.model.stamp import stamp

if TYPE_CHECKING:
    from pathlib import Path

    from checkrein.config import Config, Loaded
    from checkrein.flow.delivery import Delivery

app = typer.Typer(
    help="Tell other systems of every record, as signed CloudEvents.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
Name = Annotated[str, typer.Argument(metavar="NAME", help="The webhook, as under `[webhooks.NAME]`.")]


@app.command("list", short_help="List them, and how far each is.", epilog=examples("checkrein webhooks list"))
def list_(dir: Dir = HERE, data: Data = None, output: Format = Output.TABLE) -> None:
    """List the webhooks of checkrein.toml, and its ways to people (`notify:NAME`). `checkrein serve` tells them."""
    from checkrein.compose import SystemClock
    from checkrein.services.outbox import Deliveries

    hosts = _hosts(_loaded(dir).config)
    with store(dir, data) as opened:
        size, deliveries = opened.head().size, Deliveries(opened, SystemClock())
        found = {name: deliveries.of(name) for name in hosts}
    if output is Output.JSON:
        told = {name: msgspec.to_builtins(delivery) if delivery else None for name, delivery in found.items()}
        print_json([{"name": name, "records": size, "delivery": told[name]} for name in hosts])
        return
    print_table(
        ("name", "host", "taken", "waiting", "refused", "last taken (UTC)", "trouble"),
        [(name, host, *_columns(found[name], size)) for name, host in sorted(hosts.items())],
        empty="no webhooks; add `[webhooks.NAME]` with a `url` to checkrein.toml",
        prose=("trouble",),
    )


@app.command(short_help="Send one a test event.", epilog=examples("checkrein webhooks test siem --dir governance"))
def test(name: Name, dir: Dir = HERE) -> None:
    """Send a signed event of type dev.checkrein.test, now, and say how it was answered. Exit 7 if it was not taken."""
    import asyncio

    from checkrein.compose import destinations
    from checkrein.model.json import dumps
    from checkrein.services.cloudevents import ONE, TYPE

    found = destinations(_loaded(dir)).get(name)
    if found is None:
        raise _unknown(name)
    now_us = time.time_ns() // 1000
    id = f"test-{now_us}"
    event = {"specversion": "1.0", "id": id, "source": "checkrein", "type": f"{TYPE}test", "time": stamp(now_us)}

    async def send() -> int:
        try:
            return (await found.hook.post(id, dumps(event), ONE, now_us // 1_000_000)).status
        finally:
            await found.hook.close()

    try:
        status = asyncio.run(send())
    except UpstreamUnavailable as error:
        raise UpstreamUnavailable(f"`{name}` {error}", hint="start it, or mend its `url`") from None
    if not 200 <= status < 300:
        raise UpstreamUnavailable(f"`{name}` answered {status}", hint="see its log for why it does not take the event")
    say(f"`{name}` took it: {status}")


@app.command(short_help="Try again what it refused.", epilog=examples("checkrein webhooks retry siem --dir governance"))
def retry(name: Name, dir: Dir = HERE, data: Data = None) -> None:
    """Try again, at once, what a webhook refused or what waits for it. It goes out while `checkrein serve` runs."""
    from checkrein.compose import SystemClock
    from checkrein.services.outbox import Deliveries

    if name not in _hosts(_loaded(dir).config):
        raise _unknown(name)
    with store(dir, data) as opened:
        count = Deliveries(opened, SystemClock()).retry(name)
    say(f"{count} refused record{'' if count == 1 else 's'} and what waits for `{name}` are tried again")


def _loaded(dir: Path) -> Loaded:
    from checkrein import config

    return config.load(dir)


def _hosts(config: Config) -> dict[str, str]:
    """Everybody who is told, by the name in the outbox, with the host where that is no secret."""
    from checkrein.services.notices import NOTIFY

    hosts = {name: urlsplit(given.url).hostname or "" for name, given in config.webhooks.items()}
    return hosts | {NOTIFY + name: given.host for name, given in config.notify.items()}


def _unknown(name: str) -> CheckreinError:
    return NotFound(f"no webhook `{name[:80]}`", hint="`checkrein webhooks list` shows them")


def _columns(found: Delivery | None, size: int) -> tuple[str, ...]:
    if found is None:
        return ("0", "", "0", "", "nothing was delivered yet")
    last = stamp(found.last_ok_us)[:16].replace("T", " ") if found.last_ok_us else ""
    trouble = found.why if found.failing_since_us or found.refused else ""
    return (str(found.delivered), str(size - 1 - found.cursor), str(len(found.refused)), last, trouble)

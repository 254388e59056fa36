"""`checkrein openclaw`: a real OpenClaw Gateway that asks Checkrein before every tool call."""

from __future__ import annotations

import signal
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from checkrein.cli.common import HERE, Data, Dir, Format, Output, emit, examples, operator, print_json, say, store
from checkrein.cli.tables import print_table
from checkrein.model import CheckreinError, ConfigError, Permission

if TYPE_CHECKING:
    from checkrein.connectors.openclaw_home import Folder, Home

app = typer.Typer(
    help="An OpenClaw Gateway whose tool calls Checkrein decides.", no_args_is_help=True, rich_markup_mode=None
)
Place = Annotated[Path, typer.Argument(metavar="DIR", help="The gateway's own folder.")]
#: the gateway's own default
PORT = 18789
URL = "http://127.0.0.1:8642"


@app.command(
    short_help="Install a gateway and write its configuration.",
    epilog=examples(
        "checkrein openclaw setup gateway --dir governance --model gpt-5",
        "checkrein openclaw setup gateway --dir governance --model gpt-5 --node /opt/node/bin/node",
    ),
)
def setup(
    folder: Place,
    model: Annotated[str, typer.Option(metavar="MODEL", help="The model its agents talk to, as Checkrein serves it.")],
    name: Annotated[str, typer.Option(metavar="NAME", help="Its upstream in checkrein.toml.")] = "openclaw",
    url: Annotated[str, typer.Option(metavar="URL", help="Where Checkrein listens.")] = URL,
    port: Annotated[int, typer.Option(metavar="PORT", help="Where the gateway listens, on loopback.")] = PORT,
    node: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A Node of yours.", show_default="installed")
    ] = None,
    openclaw: Annotated[
        Path | None, typer.Option(metavar="DIR", help="An openclaw package of yours.", show_default="installed")
    ] = None,
    cache: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where versions are kept.", show_default="~/.cache/checkrein")
    ] = None,
    tool: Annotated[
        list[str] | None,
        typer.Option(metavar="TOOL=NAME", help="A tool's name in policies, such as docs__find=find_document."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Put back what was edited; a copy stays beside it.")] = False,
    dir: Dir = HERE,
    data: Data = None,
    output: Format = Output.TABLE,
) -> None:
    """Make a folder in which an OpenClaw Gateway runs governed. Running it again mends what is missing.

    Installs the pinned OpenClaw and Node from npm by their hashes, running none of their install scripts; PyPI's
    package of that name is something else. Writes a hardened openclaw.json (loopback, token, our plugin alone, models
    through Checkrein) and the plugin, with a key of its own. What you add to openclaw.json stays.
    """
    from checkrein.connectors.openclaw_home import Folder, Home
    from checkrein.connectors.openclaw_runtime import OPENCLAW, find, openclaw_version

    if not 0 < port < 65536:
        raise ConfigError(f"`{port}` is no port", hint="choose one from 1 to 65535")
    place = Folder(folder)
    before = place.read() if place.marker.exists() else None
    runtime = find(node=node, openclaw=openclaw, cache=cache, tell=say)
    found = openclaw_version(runtime.entry)
    if found != OPENCLAW:
        say(f"warning: this is OpenClaw {found or 'of an unknown version'}; tested with {OPENCLAW}")
    home = Home(
        gateway=name,
        url=url.rstrip("/"),
        port=port,
        node=str(runtime.node),
        entry=str(runtime.entry),
        model=model,
        names=_names(tool or (), before),
        key_id=before.key_id if before else "",
    )
    written = _write(place, home, dir, data, force=force)
    if output is Output.JSON:
        print_json({"dir": str(place.root), "written": list(written), "upstream": msgspec.to_builtins(home)})
        return
    for file in written:
        say(f"wrote {place.root / file}")
    if not written:
        say(f"{place.root} is as it should be")
    say("")
    say("in checkrein.toml:")
    emit(upstream(place, home))
    say(f"next: checkrein serve, then checkrein openclaw run {folder}")


def _names(given: Iterable[str], before: Home | None) -> dict[str, str]:
    """Tools by their names in policies: those given now beside those of an earlier setup."""
    names = dict(before.names) if before else {}
    for text in given:
        tool, _, name = text.partition("=")
        if not tool or not name:
            raise ConfigError(f"`{text[:100]}` is not `TOOL=NAME`", hint="write `docs__find=find_document`")
        names[tool] = name
    return names


def upstream(folder: Folder, home: Home) -> str:
    """The section of checkrein.toml that puts Checkrein in front of this gateway."""
    return "\n".join(
        (
            f"[upstreams.{home.gateway}]",
            'kind = "openclaw"',
            f'base_url = "http://127.0.0.1:{home.port}/v1"',
            f'api_key_file = "{folder.token_file}"',
            'models = ["openclaw", "openclaw/*"]',
            "first_byte_timeout = 600  # a tool call may wait for people",
        )
    )


def _write(folder: Folder, home: Home, dir: Path, data: Path | None, *, force: bool) -> tuple[str, ...]:
    """Write the folder, with the key that stands there already, or with a new one."""
    from checkrein.compose import SystemClock
    from checkrein.services.keys import Keys

    secret = folder.plugin_key()
    with store(dir, data) as opened:
        keys = Keys(opened, SystemClock())
        if secret and keys.find(secret):
            return folder.write(home, secret, force=force)
        made, secret = keys.create(
            f"{home.gateway}-gateway", permissions=(Permission.DECIDE, Permission.CALL), by=operator()
        )
        home = msgspec.structs.replace(home, key_id=made.id)
        try:
            return folder.write(home, secret, force=force)
        except CheckreinError:
            keys.revoke(made.id, by=operator())
            raise


@app.command(
    short_help="Run it until SIGTERM or Ctrl-C.",
    epilog=examples("checkrein openclaw run gateway"),
)
def run(folder: Place) -> None:
    """Start the gateway, say when it is ready, and stop it cleanly at SIGTERM or Ctrl-C.

    It does not start when its configuration or the plugin were changed where they govern it. Its agents' commands
    inherit none of your environment.
    """
    from checkrein.connectors.openclaw_home import Folder
    from checkrein.connectors.openclaw_process import GatewayProcess
    from checkrein.connectors.openclaw_runtime import check_node

    place = Folder(folder)
    home = place.read()
    check_node(Path(home.node))
    place.check(home)
    asked = False

    def stop(number: int, frame: object) -> None:
        nonlocal asked
        asked = True
        raise KeyboardInterrupt

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    gateway = GatewayProcess(place, home)
    status: int | None = None
    try:
        say(f"starting OpenClaw, log in {place.log}")
        gateway.start()
        say(f"ready on {gateway.url}; its tools ask {home.url}")
        while (status := gateway.wait(1.0)) is None:
            pass
    except KeyboardInterrupt:
        pass
    finally:
        for number in before:
            signal.signal(number, signal.SIG_IGN)
        gateway.stop()
        for number, handler in before.items():
            signal.signal(number, handler)
    if not asked:
        raise CheckreinError(f"the gateway ended by itself, status {status}", hint=f"its log is {place.log}")
    say("stopped")


@app.command(short_help="How the gateways stand.", epilog=examples("checkrein openclaw status --dir governance"))
def status(dir: Dir = HERE, data: Data = None, output: Format = Output.TABLE) -> None:
    """Show for each gateway how many tool calls a witness saw, how many of them were decided, and whether it is closed.

    Exit 1 while one is in quarantine.
    """
    from checkrein import config
    from checkrein.compose import gateway_configs
    from checkrein.services.reconcile import Stand, stands

    with store(dir, data) as opened:
        known = stands(opened)
    found = dict.fromkeys(gateway_configs(config.load(dir).config), Stand()) | known
    if output is Output.JSON:
        print_json(
            [
                {"gateway": name, **msgspec.to_builtins(stand), "enforcement": stand.enforcement}
                for name, stand in sorted(found.items())
            ]
        )
    else:
        print_table(
            ("gateway", "observed", "decided", "ungoverned", "rate", "quarantine"),
            [
                (
                    name,
                    *map(str, (stand.observed, stand.governed, stand.ungoverned)),
                    _rate(stand.enforcement),
                    stand.why or "no",
                )
                for name, stand in sorted(found.items())
            ],
            empty='no gateways; add `[upstreams.NAME]` with `kind = "openclaw"` to checkrein.toml',
            prose=("quarantine",),
        )
    if any(stand.quarantined_us for stand in found.values()):
        raise typer.Exit(1)


@app.command(
    short_help="Open a gateway that is in quarantine.",
    epilog=examples("checkrein openclaw release openclaw --dir governance"),
)
def release(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The gateway, as under `[upstreams.NAME]`.")],
    dir: Dir = HERE,
    data: Data = None,
) -> None:
    """End the quarantine of a gateway, once it is known why something ran in it ungoverned. It is recorded who did."""
    from checkrein.services.reconcile import release as open_again

    with store(dir, data) as opened:
        open_again(opened, name, by=operator())
    say(f"`{name}` is open again")


def _rate(value: float | None) -> str:
    return "" if value is None else f"{value:.2%}"

"""The demo through a real OpenClaw Gateway: the same requests, the same tools over MCP, tool calls really made.

The model is scripted (a fake) unless an upstream of the folder is named.
"""

from __future__ import annotations

import secrets
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

from checkrein import config as configuration
from checkrein.client import Client
from checkrein.compose import DATA, open_system
from checkrein.config import UpstreamConfig
from checkrein.connectors.openclaw_home import Folder, Home
from checkrein.connectors.openclaw_process import GatewayProcess
from checkrein.connectors.openclaw_runtime import OPENCLAW, Runtime
from checkrein.demo import endpoint, mcp
from checkrein.demo.scenario import AGENT, AT_ONCE, ROLES, USER, Stage, keys_for
from checkrein.demo.tools import TOOLS, Sandbox
from checkrein.model import ConfigError, NotFound, Permission
from checkrein.storage.files import DataDir
from checkrein.web.server import BackgroundServer

UPSTREAM = "openclaw"
#: how OpenClaw names tools of the MCP server `demo`
PREFIX = "demo__"
#: a turn waits for its model and its tools; the first one for OpenClaw itself
TURN_S = 300


@contextmanager
def stage(
    folder: Path, data: Path | None, runtime: Runtime, *, model: str = "", tell: Callable[[str], None]
) -> Iterator[Stage]:
    """Start the tools, the model, Checkrein and the gateway on free loopback ports; stop all at the end.

    `model` is `UPSTREAM/MODEL` of the folder, in the place of the scripted one.
    """
    files = DataDir(data or folder / DATA)
    files.create()
    sandbox = Sandbox(files.path / "sandbox")
    place, port = Folder(files.path / "openclaw"), _free_port()
    with ExitStack() as running:
        if model:
            asked, upstreams = _configured(folder, model)
        else:
            address = running.enter_context(BackgroundServer(endpoint.create_app(sandbox, PREFIX))).url
            asked = endpoint.MODEL
            upstreams = {"scripted": UpstreamConfig(base_url=f"{address}/v1", models=(asked,))}
        upstreams[UPSTREAM] = UpstreamConfig(
            base_url=f"http://127.0.0.1:{port}/v1",
            kind="openclaw",
            models=("openclaw", "openclaw/*"),
            api_key_file=str(place.token_file),
            first_byte_timeout=TURN_S,
        )
        place.prepare()
        system = running.enter_context(closing(open_system(folder, data=data, flags=AT_ONCE, upstreams=upstreams)))
        key = keys_for(system, running)
        caller = key(AGENT, Permission.CALL, owner=USER, roles=ROLES, agent=AGENT)
        server = running.enter_context(BackgroundServer(system.app()))
        running.enter_context(system.watching())
        home = Home(
            gateway=UPSTREAM,
            url=server.url,
            port=port,
            node=str(runtime.node),
            entry=str(runtime.entry),
            model=asked,
            names={PREFIX + name: name for name in TOOLS},
        )
        place.write(home, key("openclaw", Permission.DECIDE, Permission.CALL), also=_tools(sandbox, running))
        tell(f"starting OpenClaw {OPENCLAW}, which takes a while")
        running.enter_context(GatewayProcess(place, home))
        running.enter_context(system.observing())
        backend = f"OpenClaw {OPENCLAW}, with {model or 'a scripted model that refuses nothing'}"
        yield Stage(system, Client(server.url, caller, timeout=TURN_S), sandbox, backend)


def _tools(sandbox: Sandbox, running: ExitStack) -> Mapping[str, object]:
    """The demo's tools as an MCP server, offered to the model by their own names."""
    token = secrets.token_urlsafe(32)
    url = running.enter_context(BackgroundServer(mcp.create_app(sandbox, token))).url + mcp.PATH
    headers = {"Authorization": f"Bearer {token}"}
    return {
        "mcp": {"servers": {"demo": {"url": url, "transport": "streamable-http", "headers": headers}}},
        "tools": {"toolSearch": False},
    }


def _configured(folder: Path, model: str) -> tuple[str, dict[str, UpstreamConfig]]:
    name, _, asked = model.partition("/")
    known = configuration.load(folder).config.upstreams
    if not asked:
        raise ConfigError(f"`{model[:100]}` names no model", hint="write `--model UPSTREAM/MODEL`")
    if name not in known or known[name].kind != "openai":
        listed = ", ".join(name for name, given in known.items() if given.kind == "openai") or "none"
        raise NotFound(f"there is no model provider `{name[:100]}`", hint=f"configured in the folder: {listed}")
    return asked, {name: known[name]}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])

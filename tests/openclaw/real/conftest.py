"""One real OpenClaw Gateway for the whole module, governed by a real Checkrein, with a scripted model behind it.

It is installed when it is not there; when it cannot be, these tests fail and say why. They are started by
`make test-openclaw`.
"""

from __future__ import annotations

import json
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from checkrein.compose import System, open_system
from checkrein.config import UpstreamConfig
from checkrein.connectors.openclaw_home import Folder, Home
from checkrein.connectors.openclaw_process import GatewayProcess
from checkrein.connectors.openclaw_runtime import Runtime
from checkrein.demo.mcp import PATH as MCP_PATH
from checkrein.demo.mcp import create_app as create_mcp
from checkrein.demo.tools import Sandbox
from checkrein.model import Permission
from checkrein.ports import RecordQuery
from checkrein.services.reconcile import Stand
from checkrein.web.server import BackgroundServer
from scripted_model import ScriptedModel

CONFIG = """
environment = "test"
[people.bob]
roles = ["finance"]
"""

TOOLS = """
tools:
  exec:
    effects: [write]
    input: {command: string}
  read_file:
    effects: [read]
    input: {path: string}
  send_email:
    effects: [external]
    input: {to: string, subject: string, body: string}
  session_status:
    effects: [read]
    input: {}
  sessions_list:
    effects: [read]
    input: {limit: integer?}
"""

POLICIES = """
@id("models") @owner("platform") @reason("models may be asked")
permit (principal, action in Action::"llm", resource);

@id("staff-tools") @owner("platform") @reason("staff may use tools")
permit (principal in Role::"staff", action in Action::"tool", resource);

@id("no-removal") @owner("security") @reason("nothing is removed") @alternative("move it to the archive")
forbid (principal, action == Action::"exec", resource) when { context.input.command like "*rm -*" };

@id("look-first") @owner("security") @reason("deployments are looked at")
@outcome("require_review") @approvers("1 of finance") @expires("1h")
forbid (principal, action == Action::"exec", resource) when { context.input.command like "*deploy*" };

@id("look-soon") @owner("security") @reason("restarts are looked at, soon")
@outcome("require_review") @approvers("1 of finance") @expires("1s")
forbid (principal, action == Action::"exec", resource) when { context.input.command like "*restart*" };

@id("no-addresses") @owner("privacy") @reason("no addresses in commands") @outcome("redact") @redact("pii.email")
forbid (principal, action == Action::"exec", resource) when { context.labels.contains("pii.email") };

@id("no-mail-outside") @owner("comms") @reason("mail stays inside")
forbid (principal, action == Action::"send_email", resource) unless { context.input.to like "*@inside.example" };

@id("no-lists") @owner("privacy") @reason("sessions are private")
forbid (principal, action == Action::"sessions_list", resource) when { context.input has limit };
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Stage:
    """Checkrein before, inside and behind one gateway."""

    def __init__(
        self, system: System, model: ScriptedModel, folder: Folder, gateway: GatewayProcess, sandbox: Sandbox
    ) -> None:
        self.system = system
        self.model = model
        self.folder = folder
        self.gateway = gateway
        self.sandbox = sandbox
        self.url = folder.read().url
        self._server = ExitStack()
        self.serve()
        _, self.alice = system.keys.create("alice", roles=("staff",), agent="bot", by="tests")
        _, self.mallory = system.keys.create("mallory", roles=("guest",), agent="bot", by="tests")

    def post(self, path: str, value: object, *, key: str = "", url: str = "") -> tuple[int, dict[str, Any]]:
        headers = {"authorization": f"Bearer {key or self.alice}", "content-type": "application/json"}
        body = json.dumps(value).encode()
        request = urllib.request.Request((url or self.url) + path, body, headers)  # noqa: S310 - our own address
        try:
            with urllib.request.urlopen(request, timeout=100) as reply:  # noqa: S310
                return reply.status, json.loads(reply.read())
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read())

    def direct(self, path: str, value: object) -> tuple[int, dict[str, Any]]:
        """Past Checkrein, straight to the gateway, as whoever stole its token would."""
        return self.post(path, value, key=self.folder.token(), url=self.gateway.url)

    def serve(self) -> None:
        self._server.enter_context(BackgroundServer(self.system.app(), port=urlsplit(self.url).port or 0))
        self._server.enter_context(self.system.watching())
        self._server.enter_context(self.system.observing())

    def until_watched(self) -> None:
        self.until(lambda: self.system.gateways.is_witnessed("openclaw"), "the witness")

    def stand(self) -> Stand:
        """How the gateway stands, with all that was seen so far."""
        self.system.gateways.tick()
        return self.system.gateways.stand("openclaw")

    def close(self) -> None:
        self._server.close()

    @contextmanager
    def checkrein_down(self) -> Iterator[None]:
        self.close()
        try:
            yield
        finally:
            self.serve()

    def until(self, holds: Callable[[], object], what: str, within_s: float = 30) -> None:
        end = time.monotonic() + within_s
        while not holds():
            assert time.monotonic() < end, f"never came: {what}"
            time.sleep(0.05)

    def until_heard(self) -> None:
        now_us = self.system.clock.now_us()
        self.until(lambda: self.system.gateways.heard_us("openclaw") > now_us, "a heartbeat")

    def say(self, text: str, *, key: str = "") -> str:
        """What the agent answers to a prompt."""
        messages = [{"role": "user", "content": text}]
        status, answer = self.post("/v1/chat/completions", {"model": "openclaw/default", "messages": messages}, key=key)
        assert status == 200, answer
        return str(answer["choices"][0]["message"]["content"])

    def run(self, command: str, *, key: str = "") -> str:
        return self.say(f"CALL exec {json.dumps({'command': command})}", key=key)

    def records(self, *kinds: str, after: int = -1) -> list[dict[str, Any]]:
        found = self.system.store.records(RecordQuery(kinds=kinds, after_seq=after))
        return [{"kind": one.kind, "trace_id": one.trace_id, "seq": one.seq, **one.body} for one in found]

    @property
    def size(self) -> int:
        """The number of the last record."""
        return self.system.store.head().size - 1

    def tools(self, after: int) -> list[dict[str, Any]]:
        """The decisions about tools since then."""
        return [one for one in self.records("decision", after=after) if one["action"]["name"] != "prompt"]


@pytest.fixture(scope="module")
def stage(runtime: Runtime, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    root = tmp_path_factory.mktemp("openclaw")
    governance = root / "governance"
    (governance / "policies").mkdir(parents=True)
    (governance / "checkrein.toml").write_text(CONFIG)
    (governance / "tools.yaml").write_text(TOOLS)
    (governance / "policies/main.cedar").write_text(POLICIES)
    with ExitStack() as open_:
        opened = started(runtime, root, governance, open_)
        opened.say("hello")  # the first turn takes the gateway long
        yield opened


def started(runtime: Runtime, root: Path, governance: Path, open_: ExitStack) -> Stage:
    model = ScriptedModel()
    model_url = open_.enter_context(BackgroundServer(model)).url
    folder, port, own = Folder(root / "gateway"), free_port(), free_port()
    upstreams = {
        "openclaw": UpstreamConfig(
            base_url=f"http://127.0.0.1:{port}/v1",
            kind="openclaw",
            models=("openclaw", "openclaw/*"),
            api_key_file=str(folder.token_file),
            heartbeat_timeout=15.0,
            witness_timeout=8.0,
        ),
        "scripted": UpstreamConfig(base_url=f"{model_url}/v1", models=("scripted-1",)),
    }
    system = open_.enter_context(closing(open_system(governance, upstreams=upstreams)))
    # what its agents do without a person behind them is decided for the gateway's own account
    may = (Permission.DECIDE, Permission.CALL)
    _, secret = system.keys.create("gateway", roles=("staff",), permissions=may, by="tests")
    home = Home(
        gateway="openclaw",
        url=f"http://127.0.0.1:{own}",
        port=port,
        node=str(runtime.node),
        entry=str(runtime.entry),
        model="scripted-1",
        names={"demo__send_email": "send_email"},
    )
    sandbox = Sandbox(root / "sandbox")
    mcp_url = open_.enter_context(BackgroundServer(create_mcp(sandbox, "token-of-the-tools"))).url + MCP_PATH
    headers = {"Authorization": "Bearer token-of-the-tools"}
    folder.write(
        home,
        secret,
        also={"mcp": {"servers": {"demo": {"url": mcp_url, "transport": "streamable-http", "headers": headers}}}},
    )
    gateway = GatewayProcess(folder, home)
    stage = Stage(system, model, folder, gateway, sandbox)
    open_.callback(stage.close)
    open_.enter_context(gateway)
    return stage


@pytest.fixture
def answering(stage: Stage) -> Iterator[Callable[..., None]]:
    """Let bob decide the next approval, from another thread, as soon as it is there."""
    ended = threading.Event()
    threads: list[threading.Thread] = []

    def answer(*, approve: bool) -> None:
        known = {one.id for one in stage.system.approvals.all()}

        def vote() -> None:
            while not ended.wait(0.05):
                for one in stage.system.approvals.all():
                    if one.id not in known:
                        stage.system.approvals.vote(
                            one.id, voter="bob", roles=("finance",), approve=approve, auth="test"
                        )
                        return

        threads.append(threading.Thread(target=vote))
        threads[-1].start()

    yield answer
    ended.set()
    for thread in threads:
        thread.join()

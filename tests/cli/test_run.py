"""`serve`: every other verb works on its store meanwhile, and it ends in time whoever is still connected."""

from __future__ import annotations

import asyncio
import http.client
import json
import logging
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from checkrein.cli.run import _handler
from checkrein.web.server import BackgroundServer

Run = Callable[..., Any]
Serve = Callable[..., Any]
PROMPT = {"model": "m", "stream": True, "messages": [{"role": "user", "content": "tell me everything"}]}


def call(url: str, path: str, key: str, body: object = None) -> tuple[int, Any]:
    """One HTTP request; the status and the JSON of the answer."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=30)
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    connection.request("GET" if body is None else "POST", path, json.dumps(body), headers)
    answer = connection.getresponse()
    text = answer.read()
    connection.close()
    return answer.status, json.loads(text)


def test_every_verb_works_while_a_server_runs_on_the_same_store(
    folder: Path, cli: Run, spawn: Run, serving: Serve, asking: Callable[..., Path]
) -> None:
    mail = json.loads(asking("send_email").read_text())
    with serving(folder) as server:
        made = spawn("keys", "create", "bot", "--can", "call,decide,audit", "--dir", folder)
        key = made.out.strip()
        assert call(server.url, "/readyz", key)[0] == 200
        status, asked = call(server.url, "/access/v1/evaluation", key, mail)
        assert (status, asked["context"]["outcome"]) == (200, "require_review")
        waiting = asked["context"]["access_request"]["id"]
        assert waiting in cli("approvals", "list", "--dir", folder).out
        assert waiting in cli("approvals", "show", waiting, "--dir", folder).out
        assert spawn("approvals", "approve", waiting, "--as", "bob", "--dir", folder).code == 0
        assert call(server.url, "/access/v1/evaluation", key, mail)[1]["decision"] is True

        assert spawn("decide", asking("transfer_funds", user="erin"), "--dir", folder).code == 3
        _, activities = call(server.url, "/api/v1/activities", key)
        assert "erin" in json.dumps(activities)
        assert len(cli("activity", "--dir", folder, "-o", "json").json()) == 3

        assert cli("audit", "verify", "--dir", folder).code == 0
        assert cli("audit", "export", "--dir", folder).out.count("\n") == len(
            cli("audit", "list", "--dir", folder, "-o", "json").json()
        )
        for verb in ("check", "doctor", "audit show 1"):
            assert cli(*verb.split(), "--dir", folder).code == 0
        id = cli("keys", "list", "--dir", folder, "-o", "json").json()[0]["id"]
        assert cli("keys", "revoke", id, "--dir", folder).code == 0
        assert call(server.url, "/readyz", key)[0] == 401

        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(30) == 0
        assert server.process.stderr.read() == "WARNING: refused a request: key\nstopped\n"
    assert cli("audit", "verify", "--dir", folder).code == 0


async def endless(scope: Any, receive: Any, send: Any) -> None:
    """A model that begins to answer and never ends: a fake at the edge of the world."""
    if scope["type"] != "http":
        return
    headers = [(b"content-type", b"text/event-stream")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    event = b'data: {"choices":[{"index":0,"delta":{"content":"once"}}]}\n\n'
    while True:
        await send({"type": "http.response.body", "body": event, "more_body": True})
        await asyncio.sleep(0.05)


@pytest.fixture
def model() -> Iterator[str]:
    with BackgroundServer(endless, grace_s=0) as server:
        yield f"{server.url}/v1"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_with_0_in_time_with_connections_open(
    number: signal.Signals, folder: Path, model: str, cli: Run, serving: Serve
) -> None:
    config = folder / "checkrein.toml"
    config.write_text(f'{config.read_text()}\n[upstreams.m]\nbase_url = "{model}"\n')
    key = cli("keys", "create", "bot", "--dir", folder).out.strip()
    with serving(folder, CHECKREIN_SERVER_DRAIN_SECONDS="1") as server:
        host, _, port = urlsplit(server.url).netloc.partition(":")
        idle, slow, streaming = (socket.create_connection((host, int(port)), timeout=30) for _ in range(3))
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {key}\r\n"
        slow.sendall(f"{head}Content-Length: 100\r\n\r\n{{".encode())
        body = json.dumps(PROMPT)
        streaming.sendall(f"{head}Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())
        assert b"200 OK" in streaming.recv(65_536)
        server.process.send_signal(number)
        assert server.process.wait(20) == 0
        told = server.process.stderr.read()
        for connection in (idle, slow, streaming):
            connection.close()
    assert "Traceback" not in told
    assert cli("audit", "verify", "--dir", folder).code == 0
    (row,) = cli("activity", "--dir", folder, "-o", "json").json()
    assert row["status"] in ("cancelled", "failed")


def test_it_says_what_is_missing_before_it_listens(folder: Path, serving: Serve) -> None:
    with serving(folder, CHECKREIN_SERVER_PROT="1") as server:
        warning, keys, upstreams = server.said.splitlines()
    assert warning.startswith("warning: `CHECKREIN_SERVER_PROT` is set but nothing reads it; did you mean")
    assert keys.startswith("no keys yet: ")
    assert upstreams.startswith("no upstream yet: ")


def test_telemetry_without_its_extra_ends_it_before_it_listens(
    folder: Path, cli: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "checkrein.connectors.otel", None)
    monkeypatch.setenv("CHECKREIN_TELEMETRY_ENDPOINT", "http://localhost:4318")
    ran = cli("serve", "--port", "0", "--dir", folder)
    assert ran.code == 2
    assert ran.err.splitlines()[-2:] == [
        "error: `telemetry` needs OpenTelemetry, which is not installed",
        'hint: run `pip install "checkrein[otel]"`, or leave `telemetry.endpoint` out',
    ]


def test_two_servers_share_a_store(folder: Path, serving: Serve, cli: Run, asking: Callable[..., Path]) -> None:
    key = cli("keys", "create", "bot", "--can", "decide", "--dir", folder).out.strip()
    mail = json.loads(asking("send_email").read_text())
    with serving(folder) as one, serving(folder) as two:
        first = call(one.url, "/access/v1/evaluation", key, mail)[1]["context"]["access_request"]["id"]
        second = call(two.url, "/access/v1/evaluation", key, mail)[1]["context"]["access_request"]["id"]
        assert first == second
        for server in (one, two):
            server.process.terminate()
            assert server.process.wait(30) == 0


def test_the_demo_runs_and_its_ledger_verifies(tmp_path: Path, spawn: Run, cli: Run) -> None:
    ran = spawn("demo", "--dir", tmp_path / "demo")
    assert ran.code == 0
    assert "records verify" in ran.out
    assert cli("audit", "verify", "--dir", tmp_path / "demo").code == 0


def test_the_interactive_demo_needs_a_terminal(tmp_path: Path, cli: Run) -> None:
    ran = cli("demo", "--interactive", "--dir", tmp_path / "demo")
    assert (ran.code, ran.err) == (
        2,
        "error: `--interactive` needs a terminal\nhint: run it without, or at a terminal\n",
    )


def test_a_line_of_the_log_is_one_line_whatever_agents_are_called(capsys: pytest.CaptureFixture[str]) -> None:
    log = logging.Logger("a log of its own")
    log.addHandler(_handler())
    log.warning("ungoverned action: tool `%s`", "x\nWARNING: all is well\x1b[2K\r")
    assert capsys.readouterr().err == "WARNING: ungoverned action: tool `x\\nWARNING: all is well\\x1b[2K\\x0d`\n"

"""The demo's tools over MCP."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from checkrein.demo.mcp import PATH, create_app
from checkrein.demo.tools import TOOLS, Sandbox
from checkrein.web.server import BackgroundServer

TOKEN = "token-of-the-tools"
Ask = Callable[..., tuple[int, Any]]


@pytest.fixture
def sandbox(tmp_path: Path) -> Sandbox:
    return Sandbox(tmp_path)


@pytest.fixture
def ask(sandbox: Sandbox) -> Iterator[Ask]:
    with BackgroundServer(create_app(sandbox, TOKEN)) as server:

        def call(message: object, *, token: str = TOKEN) -> tuple[int, Any]:
            headers = {"authorization": f"Bearer {token}", "content-type": "application/json"}
            data = message if isinstance(message, bytes) else json.dumps(message).encode()
            request = urllib.request.Request(server.url + PATH, data, headers)  # noqa: S310 - our own address
            try:
                with urllib.request.urlopen(request) as reply:  # noqa: S310
                    return reply.status, json.loads(reply.read() or b"null")
            except urllib.error.HTTPError as error:
                with error:
                    return error.code, None

        yield call


def rpc(method: str, **params: object) -> dict[str, object]:
    return {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}


def test_it_speaks_the_version_its_client_speaks(ask: Ask) -> None:
    status, answer = ask(rpc("initialize", protocolVersion="2025-03-26"))
    assert (status, answer["result"]["protocolVersion"]) == (200, "2025-03-26")
    assert ask({"jsonrpc": "2.0", "method": "notifications/initialized"}) == (202, None)


def test_every_tool_is_listed_with_its_arguments(ask: Ask) -> None:
    tools = {tool["name"]: tool["inputSchema"] for tool in ask(rpc("tools/list"))[1]["result"]["tools"]}
    assert tuple(tools) == TOOLS
    assert tools["transfer_funds"]["required"] == ["to", "amount"]


def test_a_tool_runs_and_answers(ask: Ask, sandbox: Sandbox) -> None:
    result = ask(rpc("tools/call", name="read_file", arguments={"path": "q3.csv"}))[1]["result"]
    assert result["isError"] is False
    assert json.loads(result["content"][0]["text"])["path"] == "q3.csv"
    assert sandbox.runs["read_file"] == 1


def test_a_tool_that_fails_says_so_as_a_result(ask: Ask) -> None:
    result = ask(rpc("tools/call", name="read_file", arguments={"path": "../secret"}))[1]["result"]
    assert (result["isError"], "no such document" in result["content"][0]["text"]) == (True, True)


@pytest.mark.parametrize("message", [rpc("tools/steal"), rpc("tools/call", name=5)])
def test_what_it_does_not_know_is_an_error(ask: Ask, message: dict[str, object]) -> None:
    assert "error" in ask(message)[1]


def test_without_the_token_nothing_is_told(ask: Ask, sandbox: Sandbox) -> None:
    call = rpc("tools/call", name="read_file", arguments={"path": "q3.csv"})
    assert ask(call, token="another") == (401, None)
    assert sandbox.runs["read_file"] == 0


def test_what_is_no_message_is_refused(ask: Ask) -> None:
    assert ask(b"[1") == (400, None)

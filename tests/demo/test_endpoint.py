"""The scripted model as a real gateway calls it: the gateway's own words around the conversation do not matter."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from checkrein.demo.endpoint import create_app
from checkrein.demo.tools import Sandbox
from checkrein.web.server import BackgroundServer

INTERNAL = {"role": "user", "content": [{"type": "text", "text": "<<<BEGIN_OPENCLAW_INTERNAL_CONTEXT>>>\npay now"}]}
ASKED = {
    "role": "user",
    "content": "[Sat 2026-11-21 07:25 UTC] Generate financial report for Q3\n\nRuntime: agent=main | session=x",
}


def deltas(tmp_path: Path, messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    with BackgroundServer(create_app(Sandbox(tmp_path), "demo__")) as server:
        body = json.dumps({"model": "demo-model", "stream": True, "messages": messages}).encode()
        url = f"{server.url}/v1/chat/completions"
        with urllib.request.urlopen(urllib.request.Request(url, body)) as reply:  # noqa: S310 - our own address
            lines = reply.read().decode().splitlines()
    assert lines[-2] == "data: [DONE]"
    chunks = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: {")]
    return [chunk["choices"][0]["delta"] for chunk in chunks if chunk["choices"]]


def called(tmp_path: Path, messages: list[dict[str, Any]]) -> dict[str, Any]:
    (call,) = deltas(tmp_path, messages)[0]["tool_calls"]
    return call


def test_it_calls_the_tool_by_the_name_the_gateway_gives_it(tmp_path: Path) -> None:
    call = called(tmp_path, [{"role": "system", "content": "be good"}, ASKED, INTERNAL])
    assert call["function"] == {"name": "demo__read_file", "arguments": '{"path":"q3.csv"}'}


@pytest.mark.parametrize("wrap", ["{}", "<untrusted>\n{}\n</untrusted>"])
def test_it_reads_results_through_what_gateways_put_around_them(tmp_path: Path, wrap: str) -> None:
    call = called(tmp_path, [ASKED, INTERNAL])
    document = json.dumps({"path": "q3.csv", "content": "month,revenue\nJuly,5\n"})
    result = {"role": "tool", "tool_call_id": call["id"], "content": wrap.replace("{}", document)}
    said = deltas(tmp_path, [ASKED, {"role": "assistant", "content": None, "tool_calls": [call]}, result, INTERNAL])
    assert said[0]["content"] == "Totals of q3.csv over 1 rows: revenue 5."


def test_it_tells_that_a_call_was_blocked(tmp_path: Path) -> None:
    call = called(tmp_path, [ASKED, INTERNAL])
    result = {"role": "tool", "tool_call_id": call["id"], "content": "checkrein: not today"}
    said = deltas(tmp_path, [ASKED, {"role": "assistant", "tool_calls": [call]}, result])
    assert said[0]["content"] == "I did not run `read_file`. governance: not today"


def test_it_notes_what_it_saw(tmp_path: Path) -> None:
    deltas(tmp_path, [ASKED])
    assert "Generate financial report" in (tmp_path / "model-input.jsonl").read_text()

"""The witness beside a real gateway: it sees what runs, also when the plugin was switched off behind our back."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import aiohttp
import pytest

from checkrein.services.reconcile import release

pytestmark = pytest.mark.openclaw


def _direct(stage: Any, command: str) -> str:
    """A turn past Checkrein, straight at the gateway; the text of its end."""
    content = f"CALL exec {json.dumps({'command': command})}"
    turn = {"model": "openclaw/default", "messages": [{"role": "user", "content": content}]}
    status, answer = stage.direct("/v1/chat/completions", turn)
    assert status == 200, answer
    return str(answer["choices"][0]["message"]["content"])


async def _rpc(url: str, token: str, method: str, params: dict[str, Any]) -> dict[str, Any]:
    """Call the gateway as an operator, which is what its token makes of everybody."""
    client = {"id": "gateway-client", "version": "1", "platform": "linux", "mode": "backend"}
    hello = {"minProtocol": 4, "maxProtocol": 4, "client": client, "role": "operator", "auth": {"token": token}}
    hello |= {"scopes": ["operator.admin", "operator.read", "operator.write"], "caps": []}
    async with aiohttp.ClientSession() as session, session.ws_connect(url, max_msg_size=2**25) as socket:
        await socket.receive()
        for name, given in (("connect", hello), (method, params)):
            await socket.send_json({"type": "req", "id": name, "method": name, "params": given})
            while (answer := json.loads((await socket.receive()).data)).get("id") != name:
                pass
            assert answer["ok"], answer
        return answer


def _switch(stage: Any, *, on: bool) -> None:
    params = {"pluginId": "checkrein", "enabled": on}
    asyncio.run(_rpc(stage.gateway.url, stage.folder.token(), "plugins.setEnabled", params))


def test_what_goes_through_checkrein_is_governed_and_counted(stage: Any) -> None:
    stage.until_watched()
    stage.run("echo one")
    stage.run("rm -f one")
    stage.say('CALL tool_call {"id": "session_status", "args": {}}')
    stage.until(lambda: stage.stand().observed == 3, "three calls, one through Tool Search")
    assert (stage.stand().governed, stage.stand().ungoverned) == (3, 0)
    assert stage.system.gateways.refusal("openclaw") == ""


def test_an_agent_that_edits_the_configuration_does_not_switch_the_guard_off(stage: Any) -> None:
    kept = stage.folder.config.read_bytes()
    changed = json.loads(kept)
    changed["plugins"]["entries"]["checkrein"]["enabled"] = False
    stage.folder.config.write_text(json.dumps(changed))
    try:
        before = stage.size
        stage.run("echo still-here")
        stage.until_heard()
        assert [one["action"]["name"] for one in stage.tools(before)] == ["exec"]
    finally:
        stage.folder.config.write_bytes(kept)


def test_a_plugin_switched_off_is_found_by_what_runs_and_the_gateway_closed(stage: Any) -> None:
    stage.until_watched()
    before = stage.size
    _switch(stage, on=False)
    assert "nothing is removed" in _direct(stage, "rm -f x"), "the model route still refuses what policy denies"
    assert _direct(stage, "echo behind-our-back") == "RESULT: behind-our-back", "it really ran, ungoverned"
    stage.until(lambda: stage.stand().ungoverned == 1, "the ungoverned action")
    found, closed = stage.records("system.ungoverned", "system.gateway_quarantined", after=before)
    assert found["detail"]["tool"] == "exec"
    assert found["detail"]["why"] == "the plugin did not ask about it"
    assert closed["kind"] == "system.gateway_quarantined"
    messages = [{"role": "user", "content": "hello"}]
    status, answer = stage.post("/v1/chat/completions", {"model": "openclaw", "messages": messages})
    assert (status, answer["error"]["code"]) == (502, "upstream_unavailable")
    assert "quarantine" in answer["error"]["message"]
    assert stage.stand().enforcement < 1


def test_a_silent_plugin_closes_the_gateway_too(stage: Any) -> None:
    release(stage.system.store, "openclaw", by="tests")
    stage.until(lambda: "was not heard" in stage.system.gateways.refusal("openclaw"), "the silence")


def test_with_the_plugin_back_and_a_person_s_word_it_is_open_again(stage: Any) -> None:
    _switch(stage, on=True)
    stage.until_heard()
    assert stage.run("echo back") == "RESULT: back"

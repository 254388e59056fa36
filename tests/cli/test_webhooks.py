"""`checkrein webhooks` and what `doctor` says of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from checkrein.compose import SystemClock
from checkrein.flow.delivery import failed, refused
from checkrein.services.outbox import Deliveries
from checkrein.storage.sqlite import SqliteStore
from checkrein.web.server import BackgroundServer

Run = Callable[..., Any]


@pytest.fixture
def hooked(folder: Path) -> Path:
    """The folder with one webhook that nobody answers."""
    file = folder / "checkrein.toml"
    file.write_text(file.read_text() + '\n[webhooks.siem]\nurl = "http://127.0.0.1:1/in"\n')
    return folder


def test_none_are_listed_with_the_next_step(folder: Path, cli: Run):
    ran = cli("webhooks", "list", "--dir", folder)
    assert (ran.code, ran.out) == (0, "")
    assert "[webhooks.NAME]" in ran.err


def test_what_a_destination_refused_is_listed_and_told_by_doctor(hooked: Path, cli: Run):
    assert "nothing was delivered yet" in cli("webhooks", "list", "--dir", hooked).out
    store = SqliteStore(hooked / ".checkrein", SystemClock())
    deliveries, now_us = Deliveries(store, SystemClock()), SystemClock().now_us()
    now = refused(deliveries.begun("siem", from_start=True), (0,), 0, 400, now_us)
    deliveries.save(now)
    deliveries.save(failed(now, "answered 503", now_us, jitter=0))
    store.close()
    listed = cli("webhooks", "list", "--dir", hooked, "-o", "json").json()
    assert listed[0]["delivery"]["refused"][0]["seq"] == 0
    assert "answered 503" in cli("webhooks", "list", "--dir", hooked).out
    found = cli("doctor", "--dir", hooked, "-o", "json").json()["findings"]
    told = [item["found"] for item in found if item["what"] == "webhook siem"]
    assert told[0] == "refused 1 record: 0"
    assert told[1].startswith("answered 503, since ")
    ran = cli("webhooks", "retry", "siem", "--dir", hooked)
    assert ran.code == 0
    assert "1 refused record and what waits for `siem` are tried again" in ran.err


@pytest.mark.parametrize("verb", ["test", "retry"])
def test_a_webhook_that_is_not_configured_is_named(folder: Path, cli: Run, verb: str):
    ran = cli("webhooks", verb, "siem", "--dir", folder)
    assert ran.code == 1
    assert "no webhook `siem`" in ran.err


def test_a_test_event_says_how_it_was_answered(hooked: Path, cli: Run):
    assert cli("webhooks", "test", "siem", "--dir", hooked).code == 7
    got: list[dict[str, str]] = []

    async def takes(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        await receive()
        got.append({name.decode(): value.decode() for name, value in scope["headers"]})
        await send({"type": "http.response.start", "status": 202, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    with BackgroundServer(takes) as server:
        file = hooked / "checkrein.toml"
        file.write_text(file.read_text().replace("http://127.0.0.1:1", server.url))
        ran = cli("webhooks", "test", "siem", "--dir", hooked)
    assert (ran.code, ran.err) == (0, "`siem` took it: 202\n")
    assert got[0]["content-type"] == "application/cloudevents+json"


def test_serve_tells_while_it_runs(folder: Path, serving: Run, spawn: Run):
    import json
    import threading

    events: list[dict[str, Any]] = []
    came = threading.Event()

    async def takes(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        events.extend(json.loads((await receive())["body"]))
        came.set()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    with BackgroundServer(takes) as server:
        file = folder / "checkrein.toml"
        file.write_text(file.read_text() + f'\n[webhooks.siem]\nurl = "{server.url}/in"\nfrom_start = true\n')
        with serving(folder):
            assert came.wait(30)
    assert events[0]["type"].startswith("dev.checkrein.")

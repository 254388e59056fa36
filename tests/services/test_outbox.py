"""Every record reaches every destination that wants it: through crashes, outages and refusals."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from checkrein.compose import System, destinations
from checkrein.config import Loaded
from checkrein.config import load as load_config
from checkrein.ledger import Draft
from checkrein.model import ConfigError
from checkrein.ports import RecordQuery, Unit
from checkrein.services.outbox import Deliveries, Outbox
from checkrein.storage.sqlite import SqliteStore
from checkrein.web.server import BackgroundServer

QUICK_S = 0.01
PATIENCE_S = 30.0
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


class Siem:
    """A collector of events at the edge of the world: a fake that answers what `answer` says of each message."""

    def __init__(self) -> None:
        self.answer: Callable[[list[dict[str, Any]]], int] = lambda events: 200
        self.events: list[dict[str, Any]] = []
        self.ids: list[str] = []
        self.posts = 0
        self.changed = threading.Condition()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        events = json.loads(body)
        events = events if isinstance(events, list) else [events]
        status = self.answer(events)
        with self.changed:
            self.posts += 1
            if status < 300:
                self.events += events
                self.ids.append(dict(scope["headers"])[b"webhook-id"].decode())
            self.changed.notify_all()
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    def until(self, holds: Callable[[], bool]) -> None:
        with self.changed:
            assert self.changed.wait_for(holds, PATIENCE_S), f"{self.posts} posts, {len(self.events)} events"

    @property
    def seqs(self) -> list[int]:
        return [int(event["sequence"]) for event in self.events]


@pytest.fixture
def siem() -> Siem:
    return Siem()


@pytest.fixture
def siem_url(siem: Siem) -> Iterator[str]:
    with BackgroundServer(siem) as server:
        yield f"{server.url}/in"


def configured(system: System, url: str, more: str = "") -> Loaded:
    """The system's folder with one webhook."""
    file = system.folder / "checkrein.toml"
    file.write_text(file.read_text() + f'\n[webhooks.siem]\nurl = "{url}"\nsecret_env = "SIEM_SECRET"\n{more}\n')
    return load_config(system.folder, environ={"SIEM_SECRET": SECRET})


def outbox(system: System, url: str, more: str = "") -> Outbox:
    loaded = configured(system, url, more)
    return Outbox(system.store, system.clock, destinations(loaded), system.source(), look_s=QUICK_S)


def record(system: System, count: int, kind: str = "admin.note") -> list[int]:
    """Append so many records; their places."""
    units = [Unit((Draft(kind, "a" * 32, {"actor": {"type": "user", "id": "alice"}, "n": n}),)) for n in range(count)]
    return [system.store.commit(unit).result()[0].seq for unit in units]


def test_every_record_arrives_once_in_order_as_a_cloudevent(system: System, siem: Siem, siem_url: str):
    with outbox(system, siem_url) as sending:
        system_knows(sending)
        seqs = record(system, 250)
        siem.until(lambda: len(siem.events) >= 250)
    assert siem.seqs == seqs
    stored = list(system.store.records(RecordQuery(after_seq=seqs[0] - 1)))
    event = siem.events[0]
    assert event["data"] == json.loads(stored[0].data)
    assert event["id"] == stored[0].id
    assert event["specversion"] == "1.0"
    assert event["type"] == "dev.checkrein.admin.note"
    assert event["subject"] == "alice"
    assert event["source"] == system.source() != ""
    assert event["traceparent"].startswith(f"00-{'a' * 32}-")


def system_knows(sending: Outbox, name: str = "siem") -> None:
    """Wait until the destination has begun: it is told of what comes after."""
    deadline = time.monotonic() + PATIENCE_S
    while sending.deliveries.of(name) is None:
        assert time.monotonic() < deadline
        time.sleep(QUICK_S)


def test_a_new_destination_begins_where_it_is_told_to(system: System, siem: Siem, siem_url: str):
    seqs = record(system, 3)
    with outbox(system, siem_url, "from_start = true"):
        siem.until(lambda: bool(siem.seqs) and siem.seqs[-1] == seqs[-1])
    assert siem.seqs == list(range(seqs[-1] + 1))


def test_only_what_is_wanted_arrives(system: System, siem: Siem, siem_url: str):
    with outbox(system, siem_url, 'kinds = ["approval.*", "erasure"]') as sending:
        system_knows(sending)
        for kind in ("approval.requested", "decision", "approval.voted", "erasure"):
            record(system, 2, kind)
        siem.until(lambda: len(siem.events) >= 6)
    kinds = [event["type"].removeprefix("dev.checkrein.") for event in siem.events]
    assert kinds == ["approval.requested"] * 2 + ["approval.voted"] * 2 + ["erasure"] * 2


def test_an_outage_loses_nothing(system: System, siem: Siem, siem_url: str):
    down = 3

    def answer(events: list[dict[str, Any]]) -> int:
        nonlocal down
        down -= 1
        return 503 if down >= 0 else 200

    siem.answer = answer
    with outbox(system, siem_url) as sending:
        system_knows(sending)
        seqs = record(system, 20)
        siem.until(lambda: len(siem.events) >= 20)
    assert siem.seqs == seqs
    assert siem.posts >= 4


def test_one_record_that_is_refused_holds_up_no_other_and_can_be_retried(system: System, siem: Siem, siem_url: str):
    bad: set[int] = set()
    siem.answer = lambda events: 400 if any(int(event["sequence"]) in bad for event in events) else 200
    with outbox(system, siem_url) as sending:
        system_knows(sending)
        first = system.store.head().size
        bad.add(first + 4)
        seqs = record(system, 10)
        siem.until(lambda: bool(siem.seqs) and siem.seqs[-1] == seqs[-1])
        assert siem.seqs == [seq for seq in seqs if seq not in bad]
        found = sending.deliveries.of("siem")
        assert found is not None
        assert [one.seq for one in found.refused] == sorted(bad)
        bad.clear()
        sending.deliveries.retry("siem")
        siem.until(lambda: first + 4 in siem.seqs)


def test_a_destination_that_hangs_holds_up_no_other(system: System, siem: Siem, siem_url: str):
    quiet = threading.Event()

    async def silent(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        quiet.set()
        while (await receive())["type"] != "http.disconnect":
            pass

    with BackgroundServer(silent) as server:
        more = f'[webhooks.silent]\nurl = "{server.url}/in"'
        with outbox(system, siem_url, more) as sending:
            system_knows(sending)
            system_knows(sending, "silent")
            seqs = record(system, 5)
            assert quiet.wait(PATIENCE_S)
            siem.until(lambda: len(siem.events) >= 5)
    assert siem.seqs == seqs


def test_two_processes_on_one_store_send_what_is_recorded_once(system: System, siem: Siem, siem_url: str):
    loaded = configured(system, siem_url)
    other = SqliteStore(system.data, system.clock)
    try:
        senders = [
            Outbox(store, system.clock, destinations(loaded), system.source(), look_s=QUICK_S)
            for store in (system.store, other)
        ]
        with senders[0], senders[1]:
            system_knows(senders[0])
            seqs = record(system, 100)
            siem.until(lambda: len(siem.events) >= 100)
    finally:
        other.close()
    assert sorted(set(siem.seqs)) == seqs
    assert len(siem.events) == 100


PROGRAM = """
import sys, time
from checkrein.compose import open_system
system = open_system(sys.argv[1])
with system.telling():
    print("telling", flush=True)
    time.sleep(600)
"""


def test_a_process_that_is_killed_between_sending_and_noting_sends_again_under_the_same_ids(
    system: System, siem: Siem, siem_url: str, monkeypatch: pytest.MonkeyPatch
):
    """The collector kills the sender while that waits for its answer: the cursor was not moved."""
    configured(system, siem_url, "from_start = true\nbatch = 10")
    record(system, 25)
    size = system.store.head().size
    victim: subprocess.Popen[str] | None = None
    killed = threading.Event()

    def answer(events: list[dict[str, Any]]) -> int:
        if not killed.is_set():
            assert victim is not None
            os.kill(victim.pid, signal.SIGKILL)
            victim.wait()
            killed.set()
        return 200

    siem.answer = answer
    environment = {**os.environ, "SIEM_SECRET": SECRET, "MODEL_KEY": "sk-upstream"}
    victim = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(system.folder)], env=environment, stdout=subprocess.PIPE, text=True
    )
    with victim:
        assert killed.wait(PATIENCE_S)
    monkeypatch.setattr("checkrein.services.outbox.Delivery.free", lambda delivery, holder, now_us: True)
    monkeypatch.setenv("SIEM_SECRET", SECRET)
    loaded = load_config(system.folder)
    with Outbox(system.store, system.clock, destinations(loaded), system.source(), look_s=QUICK_S):
        siem.until(lambda: bool(siem.seqs) and siem.seqs[-1] >= size - 1)
    first = siem.ids[0]
    assert siem.ids.count(first) == 2
    assert set(siem.seqs) >= set(range(size))


def test_without_webhooks_nothing_runs(system: System):
    with system.telling():
        assert not any(thread.name == "checkrein-outbox" for thread in threading.enumerate())


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("batch = 0", "batch"),
        ("timeout = 0", "timeout"),
        ('outcomes = ["maybe"]', "outcomes"),
        ('secret_file = "x"', "two secrets"),
        ('previous_secret_env = "not a name"', "not the name of a variable"),
    ],
)
def test_settings_that_will_not_do_are_named(system: System, more: str, message: str):
    with pytest.raises(ConfigError, match=message):
        configured(system, "http://127.0.0.1:1/in", more)


def test_a_secret_that_is_not_there_is_named(system: System):
    loaded = configured(system, "http://127.0.0.1:1/in", 'previous_secret_env = "OLD_SECRET"')
    with pytest.raises(ConfigError, match="`OLD_SECRET` is not set; webhook `siem` needs it"):
        destinations(loaded)


def test_how_far_a_destination_is_survives_the_process(system: System, siem: Siem, siem_url: str):
    with outbox(system, siem_url) as sending:
        system_knows(sending)
        record(system, 3)
        siem.until(lambda: len(siem.events) >= 3)
    found = Deliveries(system.store, system.clock).of("siem")
    assert found is not None
    assert found.cursor >= system.store.head().size - 4

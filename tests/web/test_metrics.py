"""`/metrics`, read by Prometheus' own parsers."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import msgspec
import pytest
from prometheus_client import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_openmetrics
from prometheus_client.parser import text_string_to_metric_families as read_text

from checkrein.compose import System, open_system
from checkrein.flow.delivery import Delivery, Refused
from checkrein.flow.rollout import Kind, Plan
from checkrein.ledger import Record
from checkrein.model import (
    Action,
    Decision,
    LedgerInvalid,
    Outcome,
    Permission,
    Request,
    Resource,
    StoreUnavailable,
    Subject,
)
from checkrein.pending import Pending
from checkrein.ports import RecordQuery, Row, Save, Unit
from checkrein.services import drift
from checkrein.services.live import BUCKETS_US, Live
from checkrein.services.outbox import ROOM
from checkrein.web import metrics
from checkrein.web.server import BackgroundServer
from fakes import FakeModel

DOC = Path(__file__).parents[2] / "docs/metrics.md"


class Scraped:
    """The samples of one scrape, found by name and labels."""

    def __init__(self, families: Iterator[Metric]) -> None:
        self.families = list(families)
        self.samples = [sample for family in self.families for sample in family.samples]

    def __call__(self, name: str, **labels: str) -> float | None:
        found = [
            sample.value for sample in self.samples if sample.name == name and labels.items() <= sample.labels.items()
        ]
        return sum(found) if found else None

    @property
    def names(self) -> set[str]:
        """As they are written; the parsers leave out what the type of a family says."""
        endings = {"counter": "_total", "info": "_info"}
        return {family.name + endings.get(family.type, "") for family in self.families}


async def scrape(url: str, key: str, accept: str = "") -> Scraped:
    headers = {"authorization": f"Bearer {key}", **({"accept": accept} if accept else {})}
    async with aiohttp.ClientSession(url) as http, http.get("/metrics", headers=headers) as reply:
        text = await reply.text()
        assert reply.status == 200, text
        openmetrics = reply.headers["content-type"].startswith("application/openmetrics-text")
    return Scraped(read_openmetrics(text) if openmetrics else read_text(text))


def decide(system: System, tool: str = "read_file", times: int = 1, **arguments: object) -> None:
    properties = {"input": arguments or {"path": "q3.csv"}}
    for _ in range(times):
        request = Request(Subject("user", "erin"), Action(tool, properties), Resource("tool", tool))
        system.gateway.evaluate_sync(request, caller="tests")


MONEY = {"to": "ACME", "amount": 5}
MAIL = {"to": "a", "subject": "b", "body": "c"}


@pytest.mark.parametrize("permission", [Permission.METRICS, Permission.AUDIT])
async def test_who_may_read_figures_or_the_trail_may_scrape(system: System, server: str, permission: Permission):
    _, secret = system.keys.create("prometheus", permissions=(permission,), by="tests")
    assert (await scrape(server, secret))("checkrein_build_info") == 1


@pytest.mark.parametrize("permission", [Permission.CALL, Permission.DECIDE, None])
async def test_nobody_else_may_on_loopback_either(system: System, server: str, permission: Permission | None):
    headers = {}
    if permission:
        _, secret = system.keys.create("agent", permissions=(permission,), by="tests")
        headers = {"authorization": f"Bearer {secret}"}
    async with aiohttp.ClientSession(server) as http, http.get("/metrics", headers=headers) as reply:
        assert reply.status == (403 if permission else 401)
        assert "checkrein_" not in await reply.text()


async def test_decisions_are_counted_as_they_are_recorded(system: System, server: str, key: str):
    before = await scrape(server, key)
    assert before("checkrein_decisions_total") is None
    assert before("checkrein_decision_seconds_count") == 0
    decide(system, times=3)
    decide(system, "transfer_funds", **MONEY)
    found = await scrape(server, key)
    assert found("checkrein_decisions_total", outcome="allow", risk="green", arm="stable") == 3
    assert found("checkrein_decisions_total", outcome="deny", risk="red") == 1
    assert found("checkrein_decision_seconds_count") == found("checkrein_decision_seconds_bucket", le="+Inf") == 4
    assert (found("checkrein_decision_seconds_sum") or 0) > 0


async def test_executions_are_counted_by_how_they_ended(system: System, server: str, key: str, model_url: str):
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
    headers = {"authorization": f"Bearer {key}"}
    async with (
        aiohttp.ClientSession(server) as http,
        http.post("/v1/chat/completions", json=body, headers=headers) as reply,
    ):
        assert reply.status == 200
    found = await scrape(server, key)
    assert (found("checkrein_executions_total", status="ok"), found("checkrein_decisions_total")) == (1, 1)


async def test_what_is_decided_of_an_answer_counts_and_was_not_timed(
    system: System, server: str, key: str, model: FakeModel
):
    message = {"role": "assistant", "content": "write to jane@example.com"}
    model.answer = json.dumps({"id": "1", "choices": [{"index": 0, "message": message}]}).encode()
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
    headers = {"authorization": f"Bearer {key}"}
    async with (
        aiohttp.ClientSession(server) as http,
        http.post("/v1/chat/completions", json=body, headers=headers) as reply,
    ):
        assert reply.status == 200
    found = await scrape(server, key)
    decided = sum(1 for _ in system.store.records(RecordQuery(kinds=("decision",))))
    assert found("checkrein_decisions_total") == decided == 2
    assert found("checkrein_decision_seconds_count") == 1


async def test_what_could_not_be_recorded_is_no_decision_and_is_counted_as_such(
    system: System, server: str, key: str, monkeypatch: pytest.MonkeyPatch
):
    refused: Pending[tuple[Record, ...]] = Pending()
    refused.set_exception(StoreUnavailable("the disk is full"))
    with monkeypatch.context() as patch:
        patch.setattr(system.store, "commit", lambda unit: refused)
        with pytest.raises(StoreUnavailable):
            decide(system)
    found = await scrape(server, key)
    assert (found("checkrein_unrecorded_total"), found("checkrein_decision_seconds_count")) == (1, 0)
    decide(system)
    found = await scrape(server, key)
    assert (found("checkrein_unrecorded_total"), found("checkrein_decisions_total")) == (1, 1)


def test_a_latency_falls_into_the_bucket_that_ends_at_or_above_it():
    live = Live()
    made = Decision(outcome=Outcome.ALLOW)
    for us in (0, 1, 50, 51, BUCKETS_US[-1], BUCKETS_US[-1] + 1):
        live.decided(made, us)
    buckets = live.seen().buckets
    assert (buckets[0], buckets[1], buckets[-2], buckets[-1]) == (2, 1, 1, 1)
    assert sum(buckets) == 5  # what took no time was not timed
    assert sum(live.seen().decisions.values()) == 6


async def test_gauges_say_how_the_store_stands(system: System, server: str, key: str):
    decide(system, "send_email", **MAIL)
    found = await scrape(server, key)
    assert found("checkrein_store_readable") == 1
    assert found("checkrein_ledger_records") == system.store.head().size
    assert found("checkrein_approvals_pending") == 1
    assert (found("checkrein_failing"), found("checkrein_warnings")) == (0, 0)
    assert found("checkrein_policy_info", bundle=system.pdp.bundle.digest) == 1
    while (await scrape(server, key))("checkrein_ledger_unsigned_records"):
        await asyncio.sleep(0.05)  # the keeper signs every second


@pytest.mark.parametrize(("outcome", "value"), [("drift", 1), ("no_drift", 0), ("not_enough_evidence", None)])
async def test_the_last_drift_report_is_told_unless_it_could_not_tell(
    system: System, server: str, key: str, outcome: str, value: int | None
):
    assert (await scrape(server, key))("checkrein_drift_report_timestamp_seconds") is None
    made = drift.Last(ran_us=5_000_000, outcome=outcome)
    row = Row(drift.ROOM, drift.ROW, 1, outcome, "", msgspec.json.encode(made))
    system.store.commit(Unit((), (Save(row, 0),))).result()
    found = await scrape(server, key)
    assert (found("checkrein_drifted"), found("checkrein_drift_report_timestamp_seconds")) == (value, 5)


async def test_the_rollout_under_way_is_told_with_its_stage(system: System, server: str, key: str):
    assert (await scrape(server, key))("checkrein_rollout_percent") is None
    plan = Plan(stages=(10, 100))
    made = system.rollouts.start(
        Kind.UPSTREAM, stable="v1", canary="v2", plan=plan, unsafe_without_gate=True, by="alice"
    )
    found = await scrape(server, key)
    assert found("checkrein_rollout_percent", id=made.id, kind="upstream", state="live") == 10


async def test_webhooks_are_told_with_what_they_refused(folder: Path):
    with (folder / "checkrein.toml").open("a") as file:
        file.write('\n[webhooks.siem]\nurl = "http://127.0.0.1:9/ingest"\n')
    system = open_system(folder)
    _, key = system.keys.create("prometheus", permissions=(Permission.METRICS,), by="tests")
    delivery = Delivery(name="siem", version=1, cursor=0, refused=(Refused(0, 400, 1),), failing_since_us=5)
    row = Row(ROOM, "siem", 1, "", "", msgspec.json.encode(delivery))
    system.store.commit(Unit(saves=(Save(row, 0),))).result()
    try:
        with BackgroundServer(system.app()) as running:
            found = await scrape(running.url, key)
    finally:
        system.close()
    assert found("checkrein_webhook_put_aside_records", webhook="siem") == 1
    assert found("checkrein_webhook_failing", webhook="siem") == 1
    assert found("checkrein_webhook_waiting_records", webhook="siem") == (found("checkrein_ledger_records") or 0) - 1


async def test_a_measure_without_data_is_absent_and_meets_no_target(system: System, server: str, key: str):
    found = await scrape(server, key)
    assert found("checkrein_target", measure="enforcement_rate") == 0.99
    assert found("checkrein_target", measure="decision_latency_p99") == 0.05
    assert found("checkrein_enforcement_rate") is None
    assert found("checkrein_target_met") is None


async def test_measures_stand_beside_their_targets(
    system: System, server: str, key: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(metrics, "FRESH_S", 0.0)
    decide(system, times=2)
    found = await scrape(server, key)
    assert 0 < (found("checkrein_decision_latency_p50_seconds") or 0) < 50
    assert found("checkrein_target_met", measure="decision_latency_p50") in (0, 1)
    assert found("checkrein_window_records", kind="decision", outcome="allow", risk="green") == 2


async def test_the_ledger_is_measured_at_most_once_in_a_while(
    system: System, server: str, key: str, monkeypatch: pytest.MonkeyPatch
):
    decide(system)
    assert (await scrape(server, key))("checkrein_window_records", kind="decision") == 1
    decide(system)
    found = await scrape(server, key)
    assert (found("checkrein_window_records", kind="decision"), found("checkrein_decisions_total")) == (1, 2)


@pytest.mark.parametrize("error", [StoreUnavailable("gone"), LedgerInvalid("record 3 cannot be read")])
async def test_what_this_process_did_is_told_also_while_the_store_cannot_be_read(
    system: System, server: str, key: str, monkeypatch: pytest.MonkeyPatch, error: Exception
):
    decide(system)

    def broken() -> None:
        raise error

    monkeypatch.setattr(system.store, "head", broken)
    found = await scrape(server, key)
    assert (found("checkrein_store_readable"), found("checkrein_decisions_total")) == (0, 1)
    assert found("checkrein_ledger_records") is None


async def test_openmetrics_is_spoken_to_who_asks_for_it(system: System, server: str, key: str):
    decide(system)
    accept = "application/openmetrics-text; version=1.0.0"
    found = await scrape(server, key, accept)
    assert found("checkrein_decisions_total") == 1
    assert found.names == (await scrape(server, key)).names


async def test_every_metric_is_documented_and_nothing_else_is(system: System, server: str, key: str):
    tables = DOC.read_text().partition("## Prometheus")[2]
    documented = set(re.findall(r"`(checkrein_\w+)`", tables))
    assert documented == (await scrape(server, key)).names | {"checkrein_enforcement_inside"}  # where a witness watches

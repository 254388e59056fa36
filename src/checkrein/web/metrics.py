"""`GET /metrics`: figures for Prometheus, in its text format or OpenMetrics, as the scraper asks.

Needs a key that may read `metrics`, or `audit`. What this process did is counted where it happens and told as counters;
what the store holds is looked at when somebody asks, and what is measured over the ledger at most once a minute.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from checkrein import __version__
from checkrein.model import CheckreinError, Permission
from checkrein.services.live import BUCKETS_US, Live
from checkrein.services.metrics import Measure, Report, Standing, Unit
from checkrein.services.vitals import Vitals
from checkrein.web.guard import allow

log = logging.getLogger("checkrein.web")

PATH = "/metrics"
#: how long what was measured over the ledger is told again
FRESH_S = 60.0


class Metrics:
    """`vitals` and `measured` are called in a thread."""

    def __init__(self, live: Live, vitals: Callable[[], Vitals], measured: Callable[[], Report]) -> None:
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(_Everything(live, vitals, _Kept(measured)))

    async def metrics(self, http: HttpRequest) -> Response:
        allow(http.scope, Permission.METRICS, Permission.AUDIT)
        encode, content_type = choose_encoder(http.headers.get("accept", ""))
        body: bytes = await asyncio.to_thread(encode, self._registry)
        return Response(body, headers={"content-type": content_type})


class _Kept:
    """What was measured last, for a while."""

    def __init__(self, measured: Callable[[], Report]) -> None:
        self._measured = measured
        self._lock = threading.Lock()
        self._last: Report | None = None
        self._until = 0.0

    def get(self) -> Report:
        with self._lock:
            if self._last is None or time.monotonic() >= self._until:
                self._last = self._measured()
                self._until = time.monotonic() + FRESH_S
            return self._last


class _Everything(Collector):
    def __init__(self, live: Live, vitals: Callable[[], Vitals], kept: _Kept) -> None:
        self._live = live
        self._vitals = vitals
        self._kept = kept

    def collect(self) -> Iterator[Metric]:
        """What this process did is told also while the store cannot be read."""
        yield InfoMetricFamily("checkrein_build", "The version that runs.", value={"version": __version__})
        yield from _lived(self._live)
        readable = GaugeMetricFamily("checkrein_store_readable", "1 if what the store holds could be looked at.")
        try:
            found = [*_vital(self._vitals()), *_measured(self._kept.get())]
        except CheckreinError as error:
            log.warning("the figures of the store are missing: %s", error)
            readable.add_metric([], 0)
            yield readable
            return
        readable.add_metric([], 1)
        yield readable
        yield from found


def _lived(live: Live) -> Iterator[Metric]:
    seen = live.seen()
    decisions = CounterMetricFamily(
        "checkrein_decisions", "Decisions this process recorded.", labels=("outcome", "risk", "arm")
    )
    for labels, count in sorted(seen.decisions.items()):
        decisions.add_metric(labels, count)
    yield decisions
    executions = CounterMetricFamily(
        "checkrein_executions", "Executions whose end this process recorded.", labels=("status",)
    )
    for status, count in sorted(seen.executions.items()):
        executions.add_metric((status,), count)
    yield executions
    refused = CounterMetricFamily(
        "checkrein_refused_requests", "Requests refused before they were an action.", labels=("reason",)
    )
    for reason, count in sorted(seen.refused.items()):
        refused.add_metric((reason,), count)
    yield refused
    yield CounterMetricFamily(
        "checkrein_unrecorded", "Records or payloads that were refused: nothing ran for them.", value=seen.unrecorded
    )
    took = HistogramMetricFamily("checkrein_decision_seconds", "How long deciding took.")
    buckets, total = [], 0
    for upto, count in zip((*(us / 1e6 for us in BUCKETS_US), "+Inf"), seen.buckets, strict=True):
        total += count
        buckets.append((str(upto), total))
    took.add_metric([], buckets, seen.total_us / 1e6)
    yield took


def _vital(found: Vitals) -> Iterator[Metric]:
    for name, text, value in (
        ("ledger_records", "Records in the ledger.", found.records),
        ("ledger_unsigned_records", "Records that no checkpoint covers yet.", found.unsigned),
        ("approvals_pending", "Approvals that wait for people.", found.approvals_pending),
        ("failing", "What keeps actions from running now; see /readyz.", found.failing),
        ("warnings", "What to look at; see /readyz.", found.warnings),
    ):
        yield GaugeMetricFamily(f"checkrein_{name}", text, value=value)
    yield InfoMetricFamily("checkrein_policy", "The policies that decide.", value={"bundle": found.bundle})
    stage = GaugeMetricFamily(
        "checkrein_rollout_percent", "Traffic on the canary of the rollout under way.", labels=("id", "kind", "state")
    )
    if found.stage:
        stage.add_metric((found.stage.id, found.stage.kind, found.stage.state), found.stage.percent)
    yield stage
    drifted = GaugeMetricFamily("checkrein_drifted", "1 if the last drift report found any; absent if it cannot tell.")
    if found.drift and (found.drift.drifted or found.drift.settled):
        drifted.add_metric([], found.drift.drifted)
    yield drifted
    reported = GaugeMetricFamily("checkrein_drift_report_timestamp_seconds", "When the last drift report was made.")
    if found.drift and found.drift.ran_us:
        reported.add_metric([], found.drift.ran_us / 1e6)
    yield reported
    seen = GaugeMetricFamily("checkrein_gateway_observed_calls", "Tool calls a witness saw.", labels=("gateway",))
    loose = GaugeMetricFamily("checkrein_gateway_ungoverned_calls", "Those nobody let run.", labels=("gateway",))
    closed = GaugeMetricFamily("checkrein_gateway_quarantined", "1 while it gets nothing.", labels=("gateway",))
    for name, stand in sorted(found.gateways.items()):
        seen.add_metric((name,), stand.observed)
        loose.add_metric((name,), stand.ungoverned)
        closed.add_metric((name,), bool(stand.quarantined_us))
    yield from (seen, loose, closed)
    waiting = GaugeMetricFamily("checkrein_webhook_waiting_records", "Records to be told.", labels=("webhook",))
    aside = GaugeMetricFamily("checkrein_webhook_put_aside_records", "Records it refused.", labels=("webhook",))
    failing = GaugeMetricFamily("checkrein_webhook_failing", "1 while it takes nothing.", labels=("webhook",))
    for told in found.webhooks:
        waiting.add_metric((told.name,), told.waiting)
        aside.add_metric((told.name,), told.put_aside)
        failing.add_metric((told.name,), told.failing)
    yield from (waiting, aside, failing)


def _measured(report: Report) -> Iterator[Metric]:
    """What has no value is not told: an alert on it must ask for `absent()`."""
    for measure in report.measures:
        name = f"checkrein_{measure.name}{'_seconds' if measure.unit is Unit.MILLISECONDS else ''}"
        value = GaugeMetricFamily(name, f"Over targets.window: {measure.name.replace('_', ' ')}.")
        if measure.value is not None:
            value.add_metric([], _base(measure, measure.value))
        yield value
    target = GaugeMetricFamily("checkrein_target", "What a measure shall reach.", labels=("measure",))
    met = GaugeMetricFamily("checkrein_target_met", "1 if it does; absent without a value.", labels=("measure",))
    for measure in report.measures:
        if measure.target is not None:
            target.add_metric((measure.name,), _base(measure, measure.target))
        if measure.standing in (Standing.MET, Standing.MISSED):
            met.add_metric((measure.name,), measure.standing is Standing.MET)
    yield from (target, met)
    counts = GaugeMetricFamily(
        "checkrein_window_records", "Records over targets.window.", labels=("kind", "outcome", "risk")
    )
    for counted in report.counts:
        counts.add_metric((counted.kind, counted.outcome, counted.risk), counted.count)
    yield counts


def _base(measure: Measure, value: float) -> float:
    return value / 1000 if measure.unit is Unit.MILLISECONDS else value

"""Durable decisions a second and their latency, and the time to verify, to list and to measure.

Beside them, in the same run: the same store with one commit for each record, and the file sink of
`agent-governance-toolkit-core` (in its own environment), which never syncs. A decision counts once its future
has resolved, which is after the sync. A second table has syncs that take a millisecond, as those of network disks do
(the sync of this disk, then a sleep). `python -m benchmarks.ledger --million` also lists and verifies at one
million records; making them takes about a minute and 1.5 GB.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import secrets
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations, product
from pathlib import Path
from unittest import mock

import apsw
import uvloop

from benchmarks import toolkit
from checkrein.compose import SystemClock
from checkrein.flow.limits import Targets
from checkrein.ledger import Draft
from checkrein.ports import RecordQuery, Unit
from checkrein.services import metrics
from checkrein.services.audit import Audit
from checkrein.services.ids import noise
from checkrein.services.writes import landed
from checkrein.storage import writer
from checkrein.storage.reader import SqliteReader
from checkrein.storage.sqlite import SqliteStore

#: callers, and how many decisions they make together
CALLERS = {1: 2_000, 16: 16_000, 64: 24_000, 256: 32_000}
#: one commit a record is slower; the rate needs fewer
ALONE = 4
#: how much longer a sync of a network disk takes, in seconds
NETWORK_S = 0.001
#: one decision of so many is denied
RARE = 499
VERIFIED = 300_000
MILLION = 1_000_000
RIVAL_CALLERS, RIVAL_ENTRIES = 64, 6_400

#: their audit log with the file sink: the same facts, one after the other and from 64 threads; prints both rates
RIVAL_SCRIPT = """
import json, sys, tempfile, threading, time
from pathlib import Path
from agentmesh.governance.audit import AuditLog
from agentmesh.governance.audit_backends import FileAuditSink

callers, entries = int(sys.argv[1]), int(sys.argv[2])
data = json.loads(sys.argv[3])
rates = []
for threads in (1, callers):
    with tempfile.TemporaryDirectory() as folder:
        log = AuditLog(sink=FileAuditSink(Path(folder) / "audit.jsonl", b"k" * 32))
        def write(count):
            for _ in range(count):
                log.log("decision", "did:mesh:bot", "send_email", "mail", data, "success", "allow", "ab" * 16,
                        arguments_hash="cd" * 32, policy_version="sha256:" + "ef" * 32)
        write(100)
        running = [threading.Thread(target=write, args=(entries // threads,)) for _ in range(threads)]
        begun = time.perf_counter()
        for thread in running: thread.start()
        for thread in running: thread.join()
        rates.append(entries / (time.perf_counter() - begun))
print(json.dumps(rates))
"""


def decided(number: int) -> tuple[dict[str, object], str, str]:
    """The body of a decision as the gateway writes it, its trace and its evaluation id."""
    evaluation = f"evl_{secrets.token_hex(16)}"
    body: dict[str, object] = {
        "actor": {"type": "user", "id": f"user{number % 97}", "agent": f"bot{number % 7}"},
        "action": {"name": f"tool{number % 31}", "resource": {"type": "tool", "id": "mail"}},
        "input_hmac": secrets.token_hex(32),
        "input_bytes": 120 + number % 89,
        "caller": f"key_{secrets.token_hex(8)}",
        "mode": "run",
        "decision": {
            "evaluation_id": evaluation,
            "outcome": "deny" if number % RARE == 0 else "allow",
            "reasons": ["staff may use the tools of their team"],
            "policies": ["use-tools"],
            "errors": [],
            "risk": {"level": "red" if number % 997 == 0 else "green", "score": 12, "factors": ["external"]},
            "labels": ["tool:send_email", "effect:external"],
            "bundle": f"sha256:{'cd' * 32}",
            "arm": "stable",
            "latency_us": 41,
        },
        "redactions": {},
        "approval": {"id": ""},
    }
    return body, secrets.token_hex(16), evaluation


def action(number: int) -> Iterator[Draft]:
    """A decision, and unless it was denied the start and the end of its execution."""
    body, trace, evaluation = decided(number)
    yield Draft("decision", trace, body)
    if number % RARE == 0:
        return
    shared = {"actor": body["actor"], "action": body["action"], "evaluation_id": evaluation}
    yield Draft("execution.started", trace, {**shared, "owner": f"own_{'0' * 32}", "approval": {"id": ""}})
    yield Draft("execution.finished", trace, {**shared, "status": "ok", "error": "", "detail": {"status": 200}})


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        cost = _sync(Path(folder) / "probe")
        print(f"one sync of this disk takes {cost:.2f} ms; the more it costs, the more a group saves\n")
        at_64 = _writing(Path(folder) / "this", CALLERS)
        print(f"\nas on a network disk, where a sync takes {NETWORK_S * 1000:.0f} ms more\n")
        with _slow_syncs():
            _writing(Path(folder) / "network", {callers: count // 4 for callers, count in CALLERS.items()})
        _beside_a_file_sink(at_64)
        print()
        _reading(Path(folder) / "verify", VERIFIED)
        if "--million" in sys.argv:
            _reading(Path(folder) / "million", MILLION, lists=True)


def _sync(file: Path) -> float:
    """Milliseconds that it takes to append 4 KiB and have them on the disk (median of 200)."""
    taken = []
    with file.open("wb", buffering=0) as target:
        for _ in range(200):
            target.write(bytes(4096))
            begun = time.perf_counter()
            os.fdatasync(target.fileno())
            taken.append((time.perf_counter() - begun) * 1000)
    return statistics.median(taken)


@contextlib.contextmanager
def _slow_syncs() -> Iterator[None]:
    """While inside, the sync of a file that SQLite opens takes `NETWORK_S` longer."""

    beneath = apsw.vfs_names()[0]

    class File(apsw.VFSFile):
        def xSync(self, flags: int) -> None:  # noqa: N802 - the name that SQLite has for it
            super().xSync(flags)
            time.sleep(NETWORK_S)

    class Disk(apsw.VFS):
        def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> File:  # noqa: N802
            return File(beneath, name, flags)

    disk = Disk("network", beneath, makedefault=True)
    try:
        yield
    finally:
        disk.unregister()


def _writing(folder: Path, loads: Mapping[int, int]) -> float:
    """Print the table of callers; returns decisions a second at 64."""
    print(f"{'':>8}{'group commit':>28}{'one commit a record':>30}")
    print(f"{'callers':>8}{'/s':>10}{'p50 ms':>9}{'p99 ms':>9}{'/s':>12}{'p50 ms':>9}{'p99 ms':>9}{'ratio':>8}")
    found = 0.0
    for callers, count in loads.items():
        rate, p50, p99 = _rate(folder / f"group{callers}", callers, count)
        with mock.patch.object(writer, "MAX_BATCH", 1):
            alone, alone50, alone99 = _rate(folder / f"alone{callers}", callers, count // ALONE)
        print(
            f"{callers:>8}{rate:>10,.0f}{p50:>9.2f}{p99:>9.2f}{alone:>12,.0f}{alone50:>9.2f}{alone99:>9.2f}"
            f"{rate / alone:>8.1f}"
        )
        found = rate if callers == RIVAL_CALLERS else found
    return found


def _rate(data: Path, callers: int, count: int) -> tuple[float, float, float]:
    """Durable decisions a second, p50 and p99 in milliseconds."""
    store = SqliteStore(data, SystemClock(), randomness=noise)
    units = [Unit((Draft("decision", trace, body),)) for body, trace, _ in map(decided, range(count + count // 10))]
    gc.collect()
    gc.freeze()  # the prepared units are the benchmark's own; no server holds so many
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_load(store, callers, units[count:]))
            begun = time.perf_counter()
            taken = runner.run(_load(store, callers, units[:count]))
            wall = time.perf_counter() - begun
    finally:
        store.close()
        gc.unfreeze()
    taken.sort()
    return count / wall, statistics.median(taken), taken[int(count * 0.99)]


async def _load(store: SqliteStore, callers: int, units: Sequence[Unit]) -> list[float]:
    taken: list[float] = []
    left = iter(units)

    async def caller() -> None:
        for unit in left:
            begun = time.perf_counter()
            await landed(store.commit(unit))
            taken.append((time.perf_counter() - begun) * 1000)

    await asyncio.gather(*(caller() for _ in range(callers)))
    return taken


def _beside_a_file_sink(ours: float) -> None:
    if not toolkit.PYTHON.exists():
        print("\nagent-governance-toolkit-core is not installed; `make bench` does that")
        return
    facts = json.dumps({"risk": "green", "score": 12, "reasons": ["staff may use the tools of their team"]})
    command = [str(toolkit.PYTHON), "-W", "ignore", "-c", RIVAL_SCRIPT, str(RIVAL_CALLERS), str(RIVAL_ENTRIES), facts]
    answer = subprocess.run(command, capture_output=True, text=True, check=True)
    single, threads = json.loads(answer.stdout.splitlines()[-1])
    print(f"\nfile sink of agent-governance-toolkit-core, never synced: {single:,.0f}/s from one caller,")
    print(f"{threads:,.0f}/s from {RIVAL_CALLERS}; ours, synced, from {RIVAL_CALLERS}: {ours:,.0f}/s")
    print(f"ratio ours / theirs (their better figure): {ours / max(single, threads):.1f}")


def _reading(data: Path, records: int, *, lists: bool = False) -> None:
    store = SqliteStore(data, SystemClock(), randomness=noise)
    _fill(store, records)
    _measures(store, records)
    store.close()
    reader = SqliteStore.open_readonly(data)
    begun = time.perf_counter()
    report = Audit(reader, reader.files).verify().require()
    wall = time.perf_counter() - begun
    print(f"verify: {report.records:,} records in {wall:.2f} s, {report.records / wall:,.0f}/s")
    if lists:
        _lists(reader, report.records)
    reader.close()


def _fill(store: SqliteStore, records: int) -> None:
    waiting = []
    for start in range(0, records // 3, 100):
        drafts = tuple(draft for number in range(start, start + 100) for draft in action(number))
        waiting.append(store.commit(Unit(drafts)))
        if len(waiting) > 50:
            waiting.pop(0).result()
    for future in waiting:
        future.result()


def _measures(store: SqliteStore, size: int) -> None:
    """What `checkrein metrics` counts, over the whole ledger."""
    known = metrics.Known(has_side_effects=lambda name: True, usual=frozenset({("tool3", "green")}))
    begun = time.perf_counter()
    metrics.measure(store, Targets(), known)
    print(f"metrics: {time.perf_counter() - begun:.2f} s over {size:,} records")


def _lists(reader: SqliteReader, size: int) -> None:
    """Each filter, then two and three of them together: those that fit much, little, almost never and never."""
    audit = Audit(reader)
    middle, late = audit.show(size // 2), audit.show(size - size // 1000)
    values: dict[str, tuple[object, ...]] = {
        "outcome": ("allow", "deny", "nothing"),
        "risk": ("green", "red", "amber"),
        "user": ("user3", "nobody"),
        "agent": ("bot3", "nobody"),
        "action": ("tool3", "nothing"),
        "policy": ("use-tools", "nothing"),
        "kinds": (("decision",), ("execution.started", "execution.finished"), ("execution.unknown",)),
        "since_us": (middle.ts_us, late.ts_us),
        "until_us": (middle.ts_us,),
        "trace_id": (middle.trace_id, "ab" * 16),
        "approval": ("apr_1",),
    }
    filters = [(name, value) for name, options in values.items() for value in options]
    print(f"\nlist of 100, of {size:,} records{'queries':>16}{'median ms':>12}{'worst ms':>10}")
    for together, order in product((0, 1, 2, 3), (True, False)):
        chosen = [dict(some) for some in combinations(filters, together) if len(dict(some)) == together]
        taken = sorted((_listed(audit, given, order), str(given)) for given in chosen)
        words = f"{together} filters, {'newest' if order else 'oldest'} first"
        median, (worst, which) = taken[len(taken) // 2][0], taken[-1]
        print(f"{words:<32}{len(taken):>13,}{median:>12.1f}{worst:>10.1f}  {which}")


def _listed(audit: Audit, given: Mapping[str, object], newest_first: bool) -> float:
    query = RecordQuery(limit=100, newest_first=newest_first, **given)  # type: ignore[arg-type]
    begun = time.perf_counter()
    list(audit.records(query))
    return (time.perf_counter() - begun) * 1000


if __name__ == "__main__":
    main()

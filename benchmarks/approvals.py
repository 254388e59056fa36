"""How soon a vote lets a request go on that waits in another process, and what ten thousand pending approvals cost.

Everything is durable on the disk of this machine: a vote counts once its record is synced. A whole approval is a
request that needs one person, the vote, and the request sent again and let through. Times of two processes are compared
by the monotonic clock, which they share.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

import msgspec

from checkrein.compose import System, open_system
from checkrein.model import Action, ApprovalRequired, Decision, Outcome, Request, Requirement, Resource, Risk, Subject
from checkrein.model.requirement import parse_factors
from checkrein.model.risk import Level
from checkrein.ports import Unit
from checkrein.services.approvals import save

VOTES, WHOLE, THREADS, PENDING, DUE, LOOKS = 200, 400, 8, 10_000, 100, 50

CONFIG = '[people.bob]\nroles = ["finance"]\n'
TOOLS = "tools:\n  pay:\n    effects: [external]\n    input: {to: string, amount: integer}\n    control: [to]\n"
POLICIES = """
@id("use") @owner("o") @reason("r") permit (principal, action, resource);
@id("look") @owner("o") @reason("somebody looks") @outcome("require_review") @approvers("1 of finance")
forbid (principal, action == Action::"pay", resource);
"""

#: the other process: asks, waits for the vote, enters the action, and says when it was in
WAITER = """
import sys, time
from benchmarks.approvals import pay
from checkrein.compose import open_system
from checkrein.model import ApprovalRequired
system = open_system(sys.argv[1])
for line in sys.stdin:
    request = pay(int(line))
    try:
        with system.gateway.action_sync(request, caller="waiter"):
            raise SystemExit("it ran without a vote")
    except ApprovalRequired as waiting:
        print(waiting.approval_id, flush=True)
        system.waiting.settled_sync(waiting.approval_id, 60)
    with system.gateway.action_sync(request, caller="waiter"):
        print(time.monotonic_ns(), flush=True)
system.close()
"""


def pay(number: int) -> Request:
    """A request that nobody made before."""
    action = Action("pay", {"input": {"to": "ACME", "amount": number}})
    return Request(Subject("user", "alice"), action, Resource("tool", "bank"), {"agent": {"id": "bot"}})


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "policies").mkdir()
        (root / "checkrein.toml").write_text(CONFIG)
        (root / "tools.yaml").write_text(TOOLS)
        (root / "policies/main.cedar").write_text(POLICIES)
        with closing(open_system(root)) as system:
            _tell("vote -> a request that waits in another process runs", _resumed(system, root), "50 ms at p99")
            for threads in (1, THREADS):
                rate, cpu_ms = _whole(system, threads)
                what = f"whole approvals, {threads} at once"
                print(f"{what:<56} {rate:>8.0f}/s, {cpu_ms:.1f} ms CPU each   (goal 200/s)", flush=True)
            _fill(system)
            page = [_timed(lambda: system.approvals.all(limit=100)) for _ in range(LOOKS)]
            _tell(f"the first 100 of {system.approvals.waiting():,} pending", page, "50 ms")
            _tell("sweep, nothing due", [_timed(system.approvals.sweep) for _ in range(LOOKS)], "20 ms")
            _tell(f"sweep, {DUE} due and made durable", [_swept(system) for _ in range(10)], "20 ms")


def _resumed(system: System, root: Path) -> list[float]:
    command = [sys.executable, "-c", WAITER, str(root)]
    taken = []
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as waiter:
        assert waiter.stdin is not None
        assert waiter.stdout is not None
        for number in range(VOTES):
            waiter.stdin.write(f"{number}\n")
            waiter.stdin.flush()
            id = waiter.stdout.readline().strip()
            time.sleep(0.02 + number % 7 / 1000)  # it waits by now, whenever it looks
            begun = time.monotonic_ns()
            system.approvals.vote(id, voter="bob", approve=True, auth="benchmark")
            taken.append((int(waiter.stdout.readline()) - begun) / 1e6)
        waiter.stdin.close()
    return taken


def _whole(system: System, threads: int) -> tuple[float, float]:
    """How many a second, and the milliseconds of CPU of each: what is left of the time is waiting for the disk."""

    def run(mine: int) -> None:
        for number in range(WHOLE // threads):
            request = pay(1_000_000 * threads + mine * WHOLE + number)
            try:
                with system.gateway.action_sync(request, caller="benchmark"):
                    raise AssertionError("it ran without a vote")
            except ApprovalRequired as waiting:
                system.approvals.vote(waiting.approval_id, voter="bob", approve=True, auth="benchmark")
            with system.gateway.action_sync(request, caller="benchmark"):
                pass

    workers = [threading.Thread(target=run, args=(mine,)) for mine in range(threads)]
    begun, cpu = time.perf_counter(), time.process_time()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return WHOLE / (time.perf_counter() - begun), (time.process_time() - cpu) * 1000 / WHOLE


def _fill(system: System) -> None:
    for number in range(PENDING):
        _open(system, 100_000_000 + number, 86_400)
    system.store.commit(Unit()).result()  # and with it all before


def _swept(system: System) -> float:
    """Some more that are due, then the sweep that ends them."""
    for number in range(DUE):
        _open(system, time.monotonic_ns() % 10**12 * 100 + number, 0)
    system.store.commit(Unit()).result()
    return _timed(system.approvals.sweep)


def _open(system: System, number: int, expires_s: int) -> None:
    decision = Decision(
        outcome=Outcome.REQUIRE_REVIEW,
        risk=Risk(Level.AMBER, 40, ("external",)),
        reasons=("somebody looks",),
        policies=("look",),
        requirement=Requirement(parse_factors("1 of finance"), expires_s),
        bundle=system.pdp.bundle.digest,
        trace_id=f"{number:032x}",
    )
    fresh = system.approvals.fresh(pay(number), decision, system.clock.now_us())
    fresh = msgspec.structs.replace(fresh, id=f"apr_{number:016x}")
    system.store.commit(Unit(saves=(save(fresh),)))


def _timed(work: Callable[[], object]) -> float:
    begun = time.perf_counter_ns()
    work()
    return (time.perf_counter_ns() - begun) / 1e6


def _tell(what: str, taken: Sequence[float], goal: str) -> None:
    ordered = sorted(taken)
    figures = [ordered[int(share * (len(ordered) - 1))] for share in (0.5, 0.99, 1.0)]
    print(
        f"{what:<56} p50 {figures[0]:>6.2f}  p99 {figures[1]:>6.2f}  max {figures[2]:>6.2f} ms   (goal {goal})",
        flush=True,
    )

"""kill -9 between reserve and settle: what was held is let go by the next start, what was counted stays counted."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from checkrein.compose import System, open_system
from checkrein.flow.quota import Used
from checkrein.model import Denied, Request
from checkrein.model.target import Target
from checkrein.ports import RecordQuery
from crash.figures import DEEP

LIMITS = """
[limits."agent:bot"]
concurrency = 8
spend_per_day = 1.0
"""
CHILD = """
import asyncio, sys
from pathlib import Path
from checkrein.compose import open_system
from checkrein.flow.quota import Amount
from checkrein.model import Request

system = open_system(Path(sys.argv[1]))
request = Request.from_json({"subject": {"type": "user", "id": "alice"}, "action": {"name": "read_file",
    "properties": {"input": {"path": "q"}}}, "resource": {"type": "tool", "id": "f"},
    "context": {"agent": {"id": "bot"}}})

async def call():
    async with system.gateway.action(request, caller="key_1", wish=lambda: Amount(50, 100_000_000)):
        print("in", flush=True)
        await asyncio.Event().wait()

async def main():
    await asyncio.gather(*(call() for _ in range(8)))

asyncio.run(main())
"""
BUSY = """
import asyncio, sys
from pathlib import Path
from checkrein.compose import open_system
from checkrein.flow.quota import Amount
from checkrein.model import Request

system = open_system(Path(sys.argv[1]))
request = Request.from_json({"subject": {"type": "user", "id": "alice"}, "action": {"name": "read_file",
    "properties": {"input": {"path": "q"}}}, "resource": {"type": "tool", "id": "f"},
    "context": {"agent": {"id": "bot"}}})

async def calls():
    while True:
        async with system.gateway.action(request, caller="key_1", wish=lambda: Amount(10, 1000)) as governed:
            await asyncio.sleep(0)
            governed.consumed(Amount(5, 500), {})
        print("out", flush=True)

async def main():
    await asyncio.gather(*(calls() for _ in range(8)))

asyncio.run(main())
"""
READ = Request.from_json(
    {
        "subject": {"type": "user", "id": "alice"},
        "action": {"name": "read_file", "properties": {"input": {"path": "q"}}},
        "resource": {"type": "tool", "id": "f"},
        "context": {"agent": {"id": "bot"}},
    }
)


def used(system: System) -> Used:
    return system.limits.used(Target.parse("agent", "bot"))


def test_what_a_killed_process_held_is_let_go_by_recovery_and_only_once(folder: Path):
    config = folder / "checkrein.toml"
    config.write_text(config.read_text() + LIMITS)
    with contextlib.closing(open_system(folder)) as watching:
        with subprocess.Popen([sys.executable, "-c", CHILD, str(folder)], stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None
            assert [child.stdout.readline() for _ in range(8)] == ["in\n"] * 8
            assert (used(watching).running, used(watching).spend_today) == (8, 800_000_000)
            with pytest.raises(Denied), watching.gateway.action_sync(READ, caller="key_1"):
                pytest.fail("it ran")
            child.send_signal(signal.SIGKILL)
        assert used(watching).running == 8  # nobody recovered yet
        for _ in range(2):
            with contextlib.closing(open_system(folder)) as recovered:
                found = used(recovered)
                assert (found.running, found.spend_today, found.requests_today) == (0, 0, 8)
        unknown = list(watching.store.records(RecordQuery(kinds=("execution.unknown",))))
        assert len(unknown) == 8
        with watching.gateway.action_sync(READ, caller="key_1"):
            assert used(watching).running == 1


@pytest.mark.parametrize("after", range(1, 400, 5) if DEEP else (1, 37))
def test_whenever_a_process_is_killed_its_accounts_and_the_ledger_agree(folder: Path, after: int):
    config = folder / "checkrein.toml"
    config.write_text(config.read_text() + LIMITS)
    with subprocess.Popen([sys.executable, "-c", BUSY, str(folder)], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        for _ in range(after):
            assert child.stdout.readline() == "out\n"
        child.send_signal(signal.SIGKILL)
        child.stdout.read()
    with contextlib.closing(open_system(folder)) as system:
        kinds = Counter(record.kind for record in system.store.records(RecordQuery()))
        started, finished = kinds["execution.started"], kinds["execution.finished"]
        assert started == finished + kinds["execution.unknown"] >= after
        found = used(system)
        assert (found.running, found.requests_today) == (0, started)
        assert (found.spend_today, found.tokens_today) == (finished * 500, finished * 5)

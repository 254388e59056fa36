"""Rollouts in `checkrein serve`, a process of its own: what is bad goes back by itself, and what was killed goes on."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from checkrein.flow.rollout import Rollout, State
from checkrein.web.server import BackgroundServer
from crash.figures import DEEP, show
from fakes import FakeModel
from traffic import Answered, Ledger, ask, speaking, until

Run = Callable[..., Any]
Serve = Callable[..., Any]
#: as fast as it goes; a stage ends after so many answers of the canary
STAGE_COUNT = 150
QUICK = """
[rollout]
stages = [10, 50, 100]
stage_minutes = 0
stage_count = {count}
shadow_minutes = 0
shadow_count = {count}
slow_ms = 400
slow_decision_ms = 10000
"""


@pytest.fixture
def pager(folder: Path) -> Iterator[FakeModel]:
    """A webhook that is told of rollouts; a fake that takes everything and remembers it."""
    told = FakeModel()
    with BackgroundServer(told) as server:
        with (folder / "checkrein.toml").open("a") as file:
            file.write(f'\n[webhooks.pager]\nurl = "{server.url}/in"\nkinds = ["rollout.*"]\n')
        yield told


def rollbacks(pager: FakeModel) -> list[Any]:
    """What the webhook was told of rollbacks, each a CloudEvent."""
    events = (event for batch in pager.bodies for event in batch)
    return [event for event in events if event["type"] == "dev.checkrein.rollout.rollback"]


@pytest.fixture
def versions(folder: Path) -> Iterator[tuple[FakeModel, FakeModel]]:
    """Two versions of a model behind two HTTP servers, and a folder that knows both."""
    good, other = speaking("v1"), speaking("v2")
    with BackgroundServer(good) as first, BackgroundServer(other) as second:
        with (folder / "checkrein.toml").open("a") as file:
            file.write(QUICK.format(count=STAGE_COUNT))
            file.write(f'\n[upstreams.v1]\nbase_url = "{first.url}/v1"\n')
            file.write(f'\n[upstreams.v2]\nbase_url = "{second.url}/v1"\nmodels = []\n')
        yield good, other


def start(cli: Run, folder: Path, *what: object) -> str:
    ran = cli("rollout", "start", *what, "--unsafe-without-gate", "--dir", folder)
    assert ran.code == 0, ran.err
    return str(ran.out.strip())


def start_v2(cli: Run, folder: Path) -> str:
    return start(cli, folder, "--upstream", "v1", "--to", "v2")


# --- what is bad goes back by itself --------------------------------------------------------------------------


def failing(model: FakeModel) -> None:
    model.status = 500


def slow(model: FakeModel) -> None:
    model.witness = lambda headers: time.sleep(0.5)


@pytest.mark.parametrize(("break_it", "why"), [(failing, "errors: canary "), (slow, "slow answers: canary ")])
def test_a_version_that_fails_or_is_slow_is_rolled_back_by_a_running_server_and_traffic_returns(
    folder: Path,
    versions: tuple[FakeModel, FakeModel],
    pager: FakeModel,
    cli: Run,
    serving: Serve,
    break_it: Callable[[FakeModel], None],
    why: str,
):
    ledger, bad = Ledger(folder), versions[1]
    with serving(folder) as server:
        id = start_v2(cli, folder)
        keys = ledger.callers(ledger.rollout(id), {10: 3, 50: 3, 100: 12})
        break_it(bad)
        until(lambda: bool(ask(server.url, keys)) and not ledger.rollout(id).active, "it goes back by itself")
        end = ledger.rollout(id)
        assert (end.state, end.stage) == (State.ROLLED_BACK, 1)
        assert end.why[0].startswith(why)
        assert bad.calls > 0
        until(lambda: {answered.version for answered in ask(server.url, keys)} == {"v1"}, "traffic returns")
        calls = bad.calls
        assert len(ask(server.url, keys, times=3)) == 3 * len(keys)
        assert bad.calls == calls
        until(lambda: bool(rollbacks(pager)), "the webhook is told")
    (record,) = ledger.records("rollout.rollback")
    detail: Any = record.body["detail"]
    assert (detail["id"], detail["why"]) == (id, list(end.why))
    (event,) = rollbacks(pager)
    assert event["data"] == json.loads(record.data)
    assert "rolled back" in cli("rollout", "list", "--dir", folder).out


def decide(url: str, key: str, tool: str, users: range, **arguments: object) -> list[str]:
    """Decisions for these users, by outcome."""

    async def run() -> list[str]:
        found = []
        async with aiohttp.ClientSession(url, headers={"authorization": f"Bearer {key}"}) as http:
            for number in users:
                request = {
                    "subject": {"type": "user", "id": f"user-{number}"},
                    "action": {"name": tool, "properties": {"input": arguments}},
                    "resource": {"type": "tool", "id": tool},
                }
                async with http.post("/access/v1/evaluation", json=request) as reply:
                    found.append((await reply.json())["context"]["outcome"])
        return found

    return asyncio.run(run())


ERRS = """
@id("sum") @owner("x") @reason("sum")
forbid (principal, action == Action::"transfer_funds", resource)
when { context.input.amount + 9223372036854775807 > 0 };
"""
DENIES = """
@id("nothing") @owner("x") @reason("nothing")
forbid (principal, action in Action::"tool", resource);
"""


@pytest.mark.parametrize(
    ("policy", "tool", "stage", "why"),
    [(ERRS, "transfer_funds", 0, "errors: canary "), (DENIES, "read_file", 1, "denials: canary ")],
    ids=["that errs, from the shadow", "that denies everything, from its first stage"],
)
def test_a_bundle_is_rolled_back_by_a_running_server_and_the_old_policies_decide(
    folder: Path,
    tmp_path: Path,
    versions: tuple[FakeModel, FakeModel],
    cli: Run,
    serving: Serve,
    policy: str,
    tool: str,
    stage: int,
    why: str,
):
    ledger, candidate = Ledger(folder), tmp_path / "candidate"
    shutil.copytree(folder, candidate)
    policies = candidate / "policies/main.cedar"
    policies.write_text(policies.read_text() + policy)
    arguments = {"to": "ACME", "amount": 5} if tool == "transfer_funds" else {"path": "q3.csv"}
    key = cli("keys", "create", "pep", "--can", "decide", "--dir", folder).out.strip()
    with serving(folder) as server:
        before = set(decide(server.url, key, tool, range(1), **arguments))
        id = start(cli, folder, candidate)
        users = (range(first, first + 100) for first in itertools.count(0, 100))

        def back() -> bool:
            decide(server.url, key, tool, next(users), **arguments)
            return not ledger.rollout(id).active

        until(back, "it goes back by itself")
        end = ledger.rollout(id)
        assert (end.state, end.stage) == (State.ROLLED_BACK, stage)
        assert end.why[0].startswith(why)
        until(lambda: set(decide(server.url, key, tool, range(200), **arguments)) == before, "the old policies decide")
    assert len(ledger.records("rollout.rollback")) == 1
    assert {record.body["decision"]["bundle"] for record in ledger.records("decision")[-100:]} == {end.stable}  # type: ignore[index]


# --- what was killed goes on ----------------------------------------------------------------------------------

#: percent of the traffic on the canary; 0 is the shadow
STAGES = (0, 10, 50, 100)


def reach(server: Any, ledger: Ledger, id: str, keys: dict[str, str], percent: int) -> None:
    """Send the canary what its stages ask for until it has this share, and answers."""
    while True:
        found = ledger.rollout(id)
        name = f"caller-{found.percent}-"
        newest = next({caller: key} for caller, key in keys.items() if caller.startswith(name))
        until(partial(on_v2, server, newest), f"the canary answers at {found.percent} %")
        if found.percent == percent:
            return
        go_on(server, ledger, id, keys)


def on_v2(server: Any, caller: dict[str, str]) -> bool:
    return ask(server.url, caller)[0].version == "v2"


def go_on(server: Any, ledger: Ledger, id: str, keys: dict[str, str]) -> None:
    """Send the canary what this stage asks for, and see it end."""
    found = ledger.rollout(id)
    canary = {name: key for name, key in keys.items() if ledger.on_canary(found, name, found.percent)}
    ask(server.url, canary, times=STAGE_COUNT // len(canary) + 1)
    until(lambda: ended(ledger, id, found.stage), "the next stage")


def ended(ledger: Ledger, id: str, stage: int) -> bool:
    found = ledger.rollout(id)
    return found.stage > stage or not found.active


def killed(server: Any, keys: dict[str, str], acknowledge: int) -> list[Answered]:
    """Everybody asks until so many answers arrived, and then it is killed; what arrived."""
    acknowledged = 0

    def told(answered: Answered) -> None:
        nonlocal acknowledged
        acknowledged += 1
        if acknowledged == acknowledge:
            os.kill(server.process.pid, signal.SIGKILL)

    answered = ask(server.url, keys, times=3, told=told)
    assert server.process.wait() == -signal.SIGKILL
    assert acknowledge <= len(answered) < 3 * len(keys)
    return answered


def quiet(ledger: Ledger, id: str) -> Rollout:
    """The rollout once everything that ended so far is counted, and nobody asks."""
    last = ledger.records("execution.finished")[-1].seq
    until(lambda: ledger.rollout(id).cursor >= last, "all is counted")
    return ledger.rollout(id)


def check_counted_once(ledger: Ledger, before: Rollout) -> None:
    """What was counted since then is what the ledger holds since then, neither less nor twice."""
    ends = ledger.records("execution.finished", "execution.unknown", after_seq=before.cursor)
    arms = [record.body["rollout"]["arm"] for record in ends if "rollout" in record.body]  # type: ignore[index]
    stable, canary = before.stable_total.ended, before.canary_total.ended
    found = quiet(ledger, before.id)
    assert found.stable_total.ended == stable + arms.count("stable")
    assert found.canary_total.ended == canary + arms.count("canary")


@pytest.mark.parametrize("percent", STAGES[1:] if DEEP else [50])
@pytest.mark.timeout(300)
def test_a_server_that_is_killed_goes_on_at_the_same_stage_with_the_same_arms_and_lost_nothing(
    folder: Path,
    versions: tuple[FakeModel, FakeModel],
    cli: Run,
    serving: Serve,
    capsys: pytest.CaptureFixture[str],
    percent: int,
):
    ledger = Ledger(folder)
    with serving(folder) as first:
        id = start_v2(cli, folder)
        keys = ledger.callers(ledger.rollout(id), {10: 4, 50: 4, 100: 6})
        reach(first, ledger, id, keys, percent)
        before = quiet(ledger, id)
        for model in versions:
            model.witness = lambda headers: time.sleep(0.005)  # so that some are under way when it is killed
        answered = killed(first, keys, acknowledge=16)
    expected = {name: "v2" if ledger.on_canary(before, name, percent) else "v1" for name in keys}
    assert {(found.caller, found.version) for found in answered} <= set(expected.items())
    with serving(folder) as second:
        found = ledger.rollout(id)
        assert (found.state, found.stage, found.percent) == (State.LIVE, before.stage, percent)
        assert {each.caller: each.version for each in ask(second.url, keys)} == expected
        finished = {record.trace_id for record in ledger.records("execution.finished")}
        assert {each.trace_id for each in answered} <= finished
        unknown = ledger.records("execution.unknown")
        check_counted_once(ledger, before)
        go_on(second, ledger, id, keys)
        assert ledger.rollout(id).state is (State.PROMOTED if percent == 100 else State.LIVE)
    assert cli("audit", "verify", "--dir", folder).code == 0
    lost = f"{len(answered)} answers acknowledged and none lost, {len(unknown)} under way"
    show(capsys, f"kill -9 at {percent} %: {lost}, the same stage and arms")


def shadowed(server: Any, ledger: Ledger, keys: dict[str, str]) -> Any:
    """The record of a decision that is made now."""
    name = next(iter(keys))
    (answered,) = ask(server.url, {name: keys[name]})
    return next(record.body for record in ledger.records("decision") if record.trace_id == answered.trace_id)


@pytest.mark.deep
@pytest.mark.timeout(300)
def test_a_server_that_is_killed_in_the_shadow_goes_on_shadowing(
    folder: Path, tmp_path: Path, versions: tuple[FakeModel, FakeModel], cli: Run, serving: Serve
):
    ledger, candidate = Ledger(folder), tmp_path / "candidate"
    shutil.copytree(folder, candidate)
    policies = candidate / "policies/main.cedar"
    policies.write_text(policies.read_text() + "// another word\n")
    with serving(folder) as first:
        id = start(cli, folder, candidate)
        before = ledger.rollout(id)
        keys = ledger.callers(before, {10: 4, 50: 4, 100: 6})
        until(lambda: "rollout" in shadowed(first, ledger, keys), "it is shadowed")
        answered = killed(first, keys, acknowledge=16)
    with serving(folder) as second:
        found = ledger.rollout(id)
        assert (found.state, found.stage, found.percent) == (State.SHADOW, 0, 0)
        assert {each.trace_id for each in answered} <= {each.trace_id for each in ledger.records("decision")}
        made = shadowed(second, ledger, keys)
        assert (made["decision"]["bundle"], made["rollout"]["shadow"]["bundle"]) == (before.stable, before.canary)
        ask(second.url, keys, times=STAGE_COUNT // len(keys) + 1)
        until(lambda: ended(ledger, id, 0), "it goes on")
    assert json.loads(cli("rollout", "status", "--dir", folder, "-o", "json").out)["percent"] == 10


# --- what people steer ----------------------------------------------------------------------------------------


def test_people_steer_the_one_under_way_and_take_back_the_one_promoted_last(
    folder: Path, versions: tuple[FakeModel, FakeModel], cli: Run
):
    id = start_v2(cli, folder)
    for verb, state, percent in (
        ("pause", "paused", 10),
        ("resume", "live", 10),
        ("promote", "promoted", 100),
        ("undo", "undone", 0),
    ):
        ran = cli("rollout", verb, "--reason", "we say so", "--dir", folder, "-o", "json")
        assert ran.code == 0, ran.err
        assert (ran.json()["id"], ran.json()["state"], ran.json()["percent"]) == (id, state, percent)
    told = [record.body["detail"]["why"] for record in Ledger(folder).records("rollout.step")]  # type: ignore[index]
    assert sum("we say so" in why[0] for why in told[1:]) == 4
    assert cli("rollout", "undo", "--dir", folder).err.startswith("error: no rollout was promoted")
    assert cli("rollout", "abort", "--dir", folder).code == 1

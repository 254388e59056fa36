"""Rollouts in a running system: real servers answer, the ledger is counted, and what is bad goes back by itself."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest

from checkrein.compose import System, open_system
from checkrein.config import UpstreamConfig
from checkrein.flow.approval import State as ApprovalState
from checkrein.flow.rollout import Event, IllegalEvent, Kind, Plan, Rollout, State, on_canary
from checkrein.model import Action, BadRequest, NotFound, Outcome, Request, Resource, StoreConflict, Subject
from checkrein.ports import RecordQuery, Unit
from checkrein.services import records
from checkrein.services.arms import ROOM
from checkrein.storage.folder import read_folder
from checkrein.web.server import BackgroundServer
from fakes import FakeModel

#: as fast as it goes: no waiting, few answers
QUICK = Plan(stages=(10, 50, 100), stage_minutes=0, stage_count=20, shadow_minutes=0, shadow_count=10)
#: one that ends by going back, or not at all
LONG = msgspec.structs.replace(QUICK, stages=(50, 100), stage_count=10_000)
CALLERS = 40
STRICTER = """
@id("no-mail") @owner("comms") @reason("no mail today")
forbid (principal, action, resource) when { context.labels.contains("tool:send_email") };
"""


def asking(tool: str, user: str, **arguments: object) -> Request:
    properties = {"input": arguments or {"path": "q3.csv"}}
    return Request(Subject("user", user), Action(tool, properties), Resource("tool", tool))


# --- upstreams ------------------------------------------------------------------------------------------------


class Traffic:
    """Forty callers in front of two versions of one model: fakes that count."""

    def __init__(self, system: System, url: str, good: FakeModel, other: FakeModel) -> None:
        self.system, self.url, self.good, self.other = system, url, good, other
        made = (system.keys.create(f"caller-{number}", by="tests") for number in range(CALLERS))
        self.keys = [secret for _, secret in made]

    async def round(self) -> Rollout | None:
        """Every caller asks once; then somebody ticks."""
        async with aiohttp.ClientSession(self.url) as http:
            for key in self.keys:
                headers = {"authorization": f"Bearer {key}"}
                body = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
                async with http.post("/v1/chat/completions", json=body, headers=headers) as reply:
                    await reply.read()
        return self.system.rollouts.tick()

    async def rounds(self, rollout: Rollout, most: int = 60) -> Rollout:
        for _ in range(most):
            await self.round()
            found = self.system.rollouts.get(rollout.id)
            if not found.active:
                return found
        raise AssertionError(f"still {found.state} after {most} rounds")


@pytest.fixture
def traffic(folder: Path) -> Iterator[Traffic]:
    good, other = FakeModel(), FakeModel()
    with BackgroundServer(good) as first, BackgroundServer(other) as second:
        upstreams = {
            "v1": UpstreamConfig(base_url=f"{first.url}/v1"),
            "v2": UpstreamConfig(base_url=f"{second.url}/v1", models=()),
        }
        system = open_system(folder, upstreams=upstreams)
        with BackgroundServer(system.app()) as server:
            yield Traffic(system, server.url, good, other)
        system.close()


def begin(system: System, **more: Any) -> Rollout:
    plan = msgspec.structs.replace(QUICK, stages=(50, 100))  # a tenth of forty callers may be nobody
    given = {"stable": "v1", "canary": "v2", "plan": plan, "unsafe_without_gate": True, "by": "alice"}
    made = system.rollouts.start(Kind.UPSTREAM, **{**given, **more})
    system.rollouts.tick()
    return made


async def test_a_failing_version_is_rolled_back_by_itself_and_traffic_returns(traffic: Traffic):
    traffic.other.status = 500
    begun = begin(traffic.system, plan=LONG)
    end = await traffic.rounds(begun)
    assert end.state is State.ROLLED_BACK
    assert end.why[0].startswith("errors: canary ")
    (record,) = traffic.system.store.records(RecordQuery(kinds=("rollout.rollback",)))
    detail: Any = record.body["detail"]
    assert detail["why"] == list(end.why)
    assert detail["counted"]["canary"]["errors"] == detail["counted"]["canary"]["ended"] > 0
    before = traffic.other.calls
    await traffic.round()
    assert traffic.other.calls == before


async def test_a_slow_version_is_rolled_back(traffic: Traffic):
    begun = begin(traffic.system, plan=msgspec.structs.replace(LONG, slow_ms=60))
    traffic.other.witness = lambda headers: time.sleep(0.08)  # the fake model really is slow
    end = await traffic.rounds(begun)
    assert end.state is State.ROLLED_BACK
    assert end.why[0].startswith("slow answers: canary ")


async def test_a_healthy_version_takes_all_traffic_in_the_end_and_undo_takes_it_back(traffic: Traffic):
    begun = begin(traffic.system)
    end = await traffic.rounds(begun)
    assert (end.state, end.percent) == (State.PROMOTED, 100)
    before = traffic.good.calls
    await traffic.round()
    assert traffic.good.calls == before
    traffic.system.rollouts.act(begun.id, Event.UNDO, by="alice", reason="not today")
    traffic.system.rollouts.tick()
    before = traffic.other.calls
    await traffic.round()
    assert traffic.other.calls == before


async def test_each_caller_stays_on_one_arm(traffic: Traffic):
    begun = begin(traffic.system, plan=LONG)
    for _ in range(3):
        await traffic.round()
    arms: dict[str, set[str]] = {}
    for record in traffic.system.store.records(RecordQuery(kinds=("execution.finished",))):
        body: Any = record.body
        assert body["rollout"]["id"] == begun.id
        arms.setdefault(body["actor"]["id"], set()).add(body["rollout"]["arm"])
        assert body["detail"]["upstream"] == ("v2" if body["rollout"]["arm"] == "canary" else "v1")
    assert len(arms) == CALLERS
    assert all(len(found) == 1 for found in arms.values())
    assert {arm for found in arms.values() for arm in found} == {"stable", "canary"}


async def test_what_was_promoted_can_be_followed_by_the_next(traffic: Traffic):
    await traffic.rounds(begin(traffic.system))
    assert traffic.system.arms.stable(Kind.UPSTREAM, "v1") == "v2"
    with pytest.raises(BadRequest, match="is what runs already"):
        begin(traffic.system, stable="v2", canary="v2")


async def test_a_tick_that_was_overtaken_counts_nothing_twice(traffic: Traffic):
    """Two processes tick at once: the ledger is counted by one of them."""
    begun = begin(traffic.system, plan=LONG)
    await traffic.round()
    await traffic.round()
    found = traffic.system.rollouts.get(begun.id)
    assert found.stable_total.ended + found.canary_total.ended == 2 * CALLERS
    traffic.system.rollouts.tick()
    assert traffic.system.rollouts.get(begun.id) == found
    with pytest.raises(StoreConflict):
        traffic.system.rollouts._write(found, found.version - 1)


# --- starting -------------------------------------------------------------------------------------------------


def test_nothing_begins_without_a_verdict(system: System):
    with pytest.raises(BadRequest, match="no gate verdict covers `v2`"):
        begin(system, unsafe_without_gate=False)
    with pytest.raises(NotFound, match="no gate verdict `gat_9`"):
        begin(system, unsafe_without_gate=False, verdict="gat_9")
    assert system.rollouts.all() == []


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"verdict": "refuse"}, "is `refuse`"),
        ({"challenger": "v3"}, "is about other versions"),
        ({"champion": "v0"}, "is about other versions"),
        ({"kind": "policy"}, "is about other versions"),
    ],
)
def test_a_verdict_covers_exactly_what_it_was_about(system: System, more: dict[str, str], message: str):
    about = {"id": "gat_1", "kind": "upstream", "champion": "v1", "challenger": "v2", "verdict": "promote", **more}
    system.store.commit(Unit(drafts=(records.admin("gate.verdict", "gate", about),))).result()
    with pytest.raises(BadRequest, match=message):
        begin(system, unsafe_without_gate=False, verdict="gat_1")


def test_a_verdict_lets_it_begin(system: System):
    about = {"id": "gat_1", "kind": "upstream", "champion": "v1", "challenger": "v2", "verdict": "promote"}
    system.store.commit(Unit(drafts=(records.admin("gate.verdict", "gate", about),))).result()
    assert begin(system, unsafe_without_gate=False, verdict="gat_1").verdict == "gat_1"


def test_beginning_without_a_gate_is_recorded_as_unsafe(system: System):
    begin(system)
    (record,) = system.store.records(RecordQuery(kinds=("rollout.step",)))
    detail: Any = record.body["detail"]
    assert (detail["event"], detail["verdict"]) == ("started", "UnsafeWithoutGate")


def test_only_one_rollout_is_under_way(system: System):
    first = begin(system)
    with pytest.raises(BadRequest, match=first.id):
        begin(system)
    system.rollouts.act(first.id, Event.ABORT, by="alice")
    begin(system)


def test_what_cannot_be_steered_says_so_and_changes_nothing(system: System):
    begun = begin(system)
    with pytest.raises(IllegalEvent, match="cannot be resumed"):
        system.rollouts.act(begun.id, Event.RESUME, by="alice")
    assert system.rollouts.get(begun.id).state is State.LIVE
    with pytest.raises(NotFound):
        system.rollouts.get("rol_none")


# --- policies -------------------------------------------------------------------------------------------------


def candidate(folder: Path, old: str = "", new: str = STRICTER) -> dict[str, bytes]:
    """The folder's files with its policies edited: added to, or `old` replaced."""
    files = read_folder(folder)
    text = files["policies/main.cedar"].decode()
    files["policies/main.cedar"] = (text.replace(old, new) if old else text + new).encode()
    return files


def begin_policy(system: System, files: dict[str, bytes], **more: Any) -> Rollout:
    digest = system.shelf.put(files)
    given = {"stable": system.arms.stable(Kind.POLICY), "plan": QUICK, "unsafe_without_gate": True, "by": "alice"}
    made = system.rollouts.start(Kind.POLICY, canary=digest, **{**given, **more})
    system.rollouts.tick()
    return made


def decide(system: System, times: int = 20, tool: str = "read_file", **arguments: object) -> list[Outcome]:
    asked = (asking(tool, f"user-{number}", **arguments) for number in range(times))
    return [system.gateway.evaluate_sync(request, caller="tests").outcome for request in asked]


LOOSER = (
    'forbid (principal, action, resource) when { context.labels.contains("tool:transfer_funds") };',
    'forbid (principal, action, resource) when { context.labels.contains("tool:transfer_funds") && false };',
)
MONEY = {"tool": "transfer_funds", "to": "ACME", "amount": 5}


def test_the_shadow_decides_nothing_and_lists_what_differs(system: System, folder: Path):
    begun = begin_policy(system, candidate(folder), plan=msgspec.structs.replace(QUICK, shadow_count=10_000))
    assert set(decide(system, tool="send_email", to="a", subject="b", body="c")) == {Outcome.REQUIRE_REVIEW}
    system.rollouts.tick()
    found = system.rollouts.get(begun.id)
    assert (found.state, found.percent) == (State.SHADOW, 0)
    (difference,) = found.differences
    assert (difference.action, difference.before, difference.after) == ("send_email", "require_review", "deny")
    assert (difference.loosens, difference.count) == (False, 20)


def test_a_stricter_version_goes_live_for_its_share_and_is_promoted(system: System, folder: Path):
    begun = begin_policy(system, candidate(folder), plan=msgspec.structs.replace(QUICK, denial_odds=10_000.0))
    decide(system)
    live = system.rollouts.tick()
    assert live and (live.state, live.percent) == (State.LIVE, 10)
    users = [f"user-{number}" for number in range(200)]
    mail = {"to": "a", "subject": "b", "body": "c"}
    for user in users:
        made = system.gateway.evaluate_sync(asking("send_email", user, **mail), caller="tests")
        chosen = on_canary(live, f"subject:user:{user}", system.data.commitment_key())
        assert made.outcome is (Outcome.DENY if chosen else Outcome.REQUIRE_REVIEW)
        assert (made.arm, made.rollout) == ("canary" if chosen else "stable", begun.id)
        assert made.bundle == (live.canary if chosen else live.stable)
    for _ in range(3):
        decide(system, times=600)
        system.rollouts.tick()
    assert system.rollouts.get(begun.id).state is State.PROMOTED
    assert set(decide(system, tool="send_email", **mail)) == {Outcome.DENY}
    assert system.pdp.bundle.digest == begun.canary


def test_a_version_that_errs_is_rolled_back_from_the_shadow(system: System, folder: Path):
    """An erring forbid denies: nobody shall meet it."""
    files = candidate(
        folder,
        new='\n@id("sum") @owner("x") @reason("sum")\nforbid (principal, action == Action::"transfer_funds", resource)'
        " when { context.input.amount + 9223372036854775807 > 0 };\n",
    )
    begun = begin_policy(system, files, plan=msgspec.structs.replace(QUICK, shadow_count=10_000))
    for _ in range(3):
        decide(system, times=30, **MONEY)
        system.rollouts.tick()
    end = system.rollouts.get(begun.id)
    assert end.state is State.ROLLED_BACK
    assert end.why[0].startswith("errors: canary ")


def test_a_version_that_denies_far_more_is_rolled_back_from_its_stage(system: System, folder: Path):
    strict = (
        '\n@id("nothing") @owner("x") @reason("nothing")\nforbid (principal, action in Action::"tool", resource);\n'
    )
    begun = begin_policy(system, candidate(folder, new=strict))
    decide(system)
    system.rollouts.tick()
    decide(system, times=400)
    system.rollouts.tick()
    end = system.rollouts.get(begun.id)
    assert end.state is State.ROLLED_BACK
    assert end.why[0].startswith("denials: canary ")
    assert set(decide(system)) == {Outcome.ALLOW}


def loosened(system: System, folder: Path) -> Rollout:
    """A rollout that has seen in the shadow that transfers would be allowed."""
    begun = begin_policy(system, candidate(folder, *LOOSER))
    assert set(decide(system, **MONEY)) == {Outcome.DENY}
    found = system.rollouts.tick()
    assert found and found.id == begun.id
    return found


def test_what_loosens_waits_for_people_and_goes_live_when_they_agree(system: System, folder: Path):
    waiting = loosened(system, folder)
    assert waiting.state is State.WAITING
    assert set(decide(system, **MONEY)) == {Outcome.DENY}
    asked = system.approvals.get(waiting.approval)
    assert str(asked.requirement) == "1 of security"
    assert "transfer_funds: deny becomes allow" in asked.reasons
    system.approvals.vote(asked.id, voter="carol", roles=("security",), approve=True, auth="tests")
    live = system.rollouts.tick()
    assert live and (live.state, live.percent) == (State.LIVE, 10)
    assert live.why == ("agreed by carol",)
    assert system.approvals.get(asked.id).state is ApprovalState.USED


def test_what_would_be_loosened_later_does_not_go_live_unseen(system: System, folder: Path):
    """Nobody transfers money in the shadow; at the first stage somebody does, on the canary's arm."""
    begun = begin_policy(system, candidate(folder, *LOOSER), plan=msgspec.structs.replace(QUICK, stages=(50, 100)))
    decide(system)
    live = system.rollouts.tick()
    assert live
    assert (live.state, live.percent) == (State.LIVE, 50)
    assert set(decide(system, times=40, **MONEY)) == {Outcome.DENY}
    waiting = system.rollouts.tick()
    assert waiting
    assert (waiting.state, waiting.percent, waiting.stage) == (State.WAITING, 0, 1)
    system.approvals.vote(waiting.approval, voter="carol", roles=("security",), approve=True, auth="tests")
    agreed = system.rollouts.tick()
    assert agreed
    assert (agreed.state, agreed.stage) == (State.LIVE, 1)
    assert agreed.agreed == (("transfer_funds", "deny", "allow"),)
    assert set(decide(system, times=40, **MONEY)) == {Outcome.DENY, Outcome.ALLOW}
    assert system.rollouts.get(begun.id).active


def test_what_people_refuse_is_aborted(system: System, folder: Path):
    waiting = loosened(system, folder)
    system.approvals.vote(waiting.approval, voter="carol", roles=("security",), approve=False, auth="tests")
    system.rollouts.tick()
    end = system.rollouts.get(waiting.id)
    assert (end.state, end.why) == (State.ABORTED, (f"approval `{waiting.approval}` is denied",))
    assert set(decide(system, **MONEY)) == {Outcome.DENY}


def test_who_began_it_cannot_agree_to_it(system: System, folder: Path):
    from checkrein.flow.approval import VoteRefused

    waiting = loosened(system, folder)
    with pytest.raises(VoteRefused):
        system.approvals.vote(waiting.approval, voter="alice", roles=("security",), approve=True, auth="tests")


@pytest.mark.parametrize("state", [State.SHADOW, State.LIVE, State.PAUSED, State.WAITING, State.PROMOTED])
def test_a_restart_goes_on_where_it_was(system: System, folder: Path, state: State, model_url: str):
    if state is State.WAITING:
        begun = loosened(system, folder)
    else:
        begun = begin_policy(system, candidate(folder), plan=msgspec.structs.replace(QUICK, stage_count=10_000))
    if state not in (State.WAITING, State.SHADOW):
        decide(system)
        system.rollouts.tick()
    if state is State.PAUSED:
        system.rollouts.act(begun.id, Event.PAUSE, by="alice")
    if state is State.PROMOTED:
        system.rollouts.act(begun.id, Event.PROMOTE, by="alice")
    before = system.rollouts.get(begun.id)
    assert before.state is state
    again = open_system(folder)
    try:
        assert again.rollouts.get(begun.id) == before
        assert again.pdp.bundle.digest == (begun.canary if state is State.PROMOTED else begun.stable)
        trying = again.pdp.trying()
        assert (trying is not None) == (state in (State.SHADOW, State.LIVE, State.PAUSED))
        assert trying is None or trying.version.bundle.digest == begun.canary
    finally:
        again.close()


def test_another_offer_of_the_source_ends_what_was_promoted_over_the_last(system: System, folder: Path):
    begun = begin_policy(system, candidate(folder))
    decide(system)
    system.rollouts.tick()
    system.rollouts.act(begun.id, Event.PROMOTE, by="alice")
    system.rollouts.tick()
    assert system.pdp.bundle.digest == begun.canary
    before = (folder / "policies/main.cedar").read_text()
    for text in (before + "\n// another word\n", before):
        (folder / "policies/main.cedar").write_text(text)
        system.reloader.poll()
        system.reloader.poll()
        system.rollouts.tick()
    assert system.pdp.bundle.digest == begun.stable


def test_a_stable_version_that_is_replaced_ends_the_rollout(system: System, folder: Path):
    begun = begin_policy(system, candidate(folder))
    text = (folder / "policies/main.cedar").read_text()
    (folder / "policies/main.cedar").write_text(text + "\n// another word\n")
    system.reloader.poll()
    system.reloader.poll()
    system.rollouts.tick()
    end = system.rollouts.get(begun.id)
    assert (end.state, end.why) == (State.ROLLED_BACK, ("the stable version was replaced under it",))


def test_a_canary_whose_files_are_gone_is_rolled_back(system: System, folder: Path):
    begun = begin_policy(system, candidate(folder))
    system.pdp.trial(None)
    for path in (system.data.path / "bundles/canaries").iterdir():
        path.unlink()
    system.rollouts.tick()
    end = system.rollouts.get(begun.id)
    assert end.state is State.ROLLED_BACK
    assert end.why[0].startswith("the canary cannot be loaded: the files of `sha256:")


def test_another_bundle_under_the_canarys_name_is_refused(system: System, folder: Path):
    begun = begin_policy(system, candidate(folder))
    system.pdp.trial(None)
    (path,) = (system.data.path / "bundles/canaries").iterdir()
    other = system.shelf.put(candidate(folder, *LOOSER))
    path.write_bytes((path.parent / f"{other.removeprefix('sha256:')}.tar").read_bytes())
    system.rollouts.tick()
    assert system.rollouts.get(begun.id).state is State.ROLLED_BACK


def test_what_is_stored_of_a_rollout_is_json_that_others_read(system: System):
    begun = begin(system)
    row = system.store.row(ROOM, begun.id)
    assert row is not None
    assert json.loads(row.body)["plan"]["stages"] == [50, 100]


async def test_a_rollout_goes_back_also_while_the_policies_that_are_offered_are_broken(
    traffic: Traffic, monkeypatch: pytest.MonkeyPatch
):
    traffic.other.status = 500
    begun = begin(traffic.system, plan=LONG)

    def broken() -> None:
        raise RuntimeError("the source is in pieces")

    monkeypatch.setattr(traffic.system.reloader, "poll", broken)
    for _ in range(60):
        await traffic.round()
        with pytest.raises(RuntimeError):
            traffic.system.look()
        if not traffic.system.rollouts.get(begun.id).active:
            break
    assert traffic.system.rollouts.get(begun.id).state is State.ROLLED_BACK


def test_a_server_lets_approvals_expire(system: System, monkeypatch: pytest.MonkeyPatch):
    mail = asking("send_email", "erin", to="a", subject="b", body="c")
    assert system.gateway.evaluate_sync(mail, caller="tests").outcome is Outcome.REQUIRE_REVIEW
    now_us = system.clock.now_us()
    monkeypatch.setattr(system.clock, "now_us", lambda: now_us + 2 * 3600 * 1_000_000)
    system.look()
    (record,) = system.store.records(RecordQuery(kinds=("approval.expired",)))
    assert record.body["actor"]["id"] == "erin"

"""New policy versions under a running server: proved first, swapped in between two requests, or left outside."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from random import Random
from typing import Any

import aiohttp
import pytest

from checkrein import compose
from checkrein.compose import System, open_system
from checkrein.ledger import Record
from checkrein.model import (
    Action,
    CheckreinError,
    ConfigError,
    Outcome,
    PolicyInvalid,
    Request,
    Resource,
    StoreUnavailable,
    Subject,
)
from checkrein.pending import Pending
from checkrein.policy import archive
from checkrein.policy.bundle import Bundle
from checkrein.policy.cedar import Kind
from checkrein.policy.dsse import SigningKey
from checkrein.policy.engine import PolicyResult, PolicySet
from checkrein.policy.selfcheck import disagreements, probes
from checkrein.ports import RecordQuery, Unit
from checkrein.services.pdp import Asked, Pdp
from checkrein.services.reload import Edition, Offer, Reloader, Version, Watch, first, prove, read_bundle
from checkrein.services.turns import Turns
from checkrein.storage.bundles import write_archive
from checkrein.storage.memory import MemoryStore
from fakes import FakeModel

PERMIT = b'@id("all") @owner("x") @reason("x") permit (principal, action in Action::"tool", resource);\n'
FORBID = PERMIT + b'@id("none") @owner("x") @reason("x") forbid (principal, action == Action::"pay", resource);\n'
TOOLS = b"tools:\n  pay: {effects: [irreversible], input: {amount: integer}, control: [amount]}\n"
FAILING = b"tests:\n  - {name: it pays, tool: pay, input: {amount: 1}, expect: {outcome: deny}}\n"
PAY = Request(Subject("user", "alice"), Action("pay", {"input": {"amount": 1}}), Resource("tool", "pay"))
BUSY = 0.01


def files(policies: bytes = PERMIT, **more: bytes) -> dict[str, bytes]:
    given = {"policies/main.cedar": policies, "tools.yaml": TOOLS}
    return given | {name.replace("__", "/") + ".yaml": data for name, data in more.items()}


ALLOWS, DENIES = files(PERMIT), files(FORBID)
GOOD = read_bundle(ALLOWS)


class Clock:
    def now_us(self) -> int:
        return 1_767_225_600_000_000


class NoFacts:
    def roles(self, subject: Subject) -> tuple[str, ...]:
        return ()

    def labels(self, request: Request) -> tuple[str, ...]:
        return ()


def trial(bundle: Bundle) -> Pdp:
    return Pdp(bundle, NoFacts(), Clock(), environment="", turns=Turns())


class Shelf:
    """A source whose content a test sets: files, or an error."""

    def __init__(self, content: Mapping[str, bytes] | CheckreinError, last: Mapping[str, bytes] | None = None) -> None:
        self.content = content
        self.last = last
        self.kept: list[str] = []
        self.looks = 0

    def look(self) -> Offer:
        self.looks += 1
        if isinstance(self.content, CheckreinError):
            raise self.content
        return _Offered(self, self.content)

    def last_good(self) -> Offer | None:
        return None if self.last is None else _Offered(self, self.last)


class _Offered:
    def __init__(self, shelf: Shelf, content: Mapping[str, bytes]) -> None:
        self._shelf, self._content = shelf, content
        self.fingerprint = str(hash(tuple(sorted(content.items()))))

    def open(self) -> Edition:
        return Edition(self._content)

    def keep(self) -> None:
        self._shelf.kept.append(self.fingerprint)


class World:
    """A decision point that started with `ALLOWS`, its source and its ledger."""

    def __init__(self) -> None:
        self.shelf = Shelf(ALLOWS)
        self.store = MemoryStore(Clock())
        self.pdp = trial(GOOD)
        active = Version(GOOD, self.shelf.look().fingerprint)
        self.reloader = Reloader(self.pdp, self.store, self.shelf, trial, active)

    def offer(self, content: Mapping[str, bytes] | CheckreinError) -> None:
        """It lies there long enough to be seen twice, and then some."""
        self.shelf.content = content
        for _ in range(4):
            self.reloader.poll()

    @property
    def outcome(self) -> Outcome:
        return self.pdp.decide(Asked(PAY)).outcome

    def recorded(self, kind: str) -> list[Mapping[str, Any]]:
        found = self.store.records(RecordQuery(kinds=(kind,)))
        return [dict(record.body["detail"]) for record in found]  # type: ignore[call-overload]


@pytest.fixture
def world() -> World:
    return World()


# --- taking a version


def test_a_new_version_decides_from_the_next_request_on_and_is_recorded(world: World) -> None:
    assert world.outcome is Outcome.ALLOW
    world.offer(DENIES)
    assert world.outcome is Outcome.DENY
    digest = world.pdp.bundle.digest
    assert world.recorded("policy.changed") == [{"bundle": digest, "before": GOOD.digest}]
    assert world.reloader.warnings() == ()


def test_content_is_taken_only_when_two_looks_in_a_row_find_the_same(world: World) -> None:
    world.shelf.content = files(PERMIT, tests__half=b"tests: []")
    world.reloader.poll()
    world.shelf.content = DENIES
    world.reloader.poll()
    assert world.pdp.bundle is GOOD
    world.reloader.poll()
    assert world.outcome is Outcome.DENY
    assert len(world.recorded("policy.changed")) == 1


def test_what_lies_there_unchanged_is_neither_loaded_nor_recorded(world: World) -> None:
    world.offer(ALLOWS)
    assert world.pdp.bundle is GOOD
    assert list(world.store.records(RecordQuery())) == []
    assert world.shelf.kept == []


def test_the_record_is_durable_before_the_version_decides(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    commit, seen = world.store.commit, []

    def watched(unit: Unit) -> Pending[tuple[Record, ...]]:
        seen.append((world.outcome, list(world.shelf.kept)))
        return commit(unit)

    monkeypatch.setattr(world.store, "commit", watched)
    world.offer(DENIES)
    assert [(outcome, len(kept)) for outcome, kept in seen] == [(Outcome.ALLOW, 1)]


def test_while_the_store_is_down_the_version_waits_and_is_taken_when_it_is_back(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def down(unit: Unit) -> Pending[tuple[Record, ...]]:
        raise StoreUnavailable("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(world.store, "commit", down)
        world.offer(DENIES)
        assert world.outcome is Outcome.ALLOW
        assert "a new version waits: the disk is full" in world.reloader.warnings()[0]
        world.offer(files(b"permit ("))
        assert "cannot be recorded" in world.reloader.warnings()[0]
        world.offer(DENIES)
    world.reloader.poll()
    assert world.outcome is Outcome.DENY
    assert world.reloader.warnings() == ()
    assert world.recorded("policy.rejected") == []


def test_a_version_that_waited_and_was_taken_back_leaves_no_warning(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(world.store, "writable", lambda: False)
        patch.setattr(world.store, "commit", lambda unit: (_ for _ in ()).throw(StoreUnavailable("full")))
        world.offer(DENIES)
    world.offer(ALLOWS)
    assert world.reloader.warnings() == ()


# --- refusing one

BROKEN: dict[str, tuple[Mapping[str, bytes] | CheckreinError, str]] = {
    "syntax": (files(b"permit ("), "policies/main.cedar:1"),
    "unknown attribute": (files(FORBID.replace(b"resource);", b"resource) when { context.inptu.x };")), "inptu"),
    "no policies": ({"tools.yaml": TOOLS}, "no policies"),
    "a class no detector finds": (
        files(
            PERMIT + b'@id("r") @outcome("redact") @redact("pii.nothing") forbid (principal, action, resource);',
        ),
        "which no detector finds",
    ),
    "a failing test": (files(PERMIT, tests__t=FAILING), "tests/t.yaml:2: `it pays`: expected deny, got allow"),
    "unreadable": (ConfigError("`x` is not a folder"), "is not a folder"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_version_leaves_the_old_one_deciding_and_says_so_once(
    world: World, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    content, says = BROKEN[name]
    world.offer(content)
    assert world.pdp.bundle is GOOD
    (warning,) = world.reloader.warnings()
    assert says in warning
    assert GOOD.digest in warning
    (rejected,) = world.recorded("policy.rejected")
    assert rejected["before"] == GOOD.digest
    assert rejected["problems"] >= 1
    assert says in rejected["first"]
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "\n" not in caplog.records[0].getMessage()


def test_a_refusal_names_the_bundle_that_was_refused(world: World) -> None:
    content = files(PERMIT, tests__t=FAILING)
    world.offer(content)
    assert world.recorded("policy.rejected")[0]["bundle"] == Bundle.from_files(content).digest


def test_mending_a_broken_version_recovers(world: World) -> None:
    world.offer(files(b"permit ("))
    world.offer(DENIES)
    assert world.outcome is Outcome.DENY
    assert world.reloader.warnings() == ()
    assert len(world.recorded("policy.changed")) == 1


def test_taking_a_broken_version_back_recovers_without_a_change(world: World, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    world.offer(files(b"permit ("))
    world.offer(ALLOWS)
    assert world.reloader.warnings() == ()
    assert world.recorded("policy.changed") == []
    assert "stays active" in caplog.records[-1].getMessage()
    world.offer(files(b"permit ("))
    assert len(world.recorded("policy.rejected")) == 2


def test_an_error_nobody_expected_refuses_the_version(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("a secret detail")

    with monkeypatch.context() as patch:
        patch.setattr("checkrein.services.reload.prove", broken)
        world.offer(DENIES)
    assert world.outcome is Outcome.ALLOW
    assert world.recorded("policy.rejected")[0]["first"] == "loading it failed: RuntimeError"
    assert "a secret detail" not in world.reloader.warnings()[0]
    assert any(record.exc_info for record in caplog.records)


# --- the check against the official engine


RICH = b"""
@id("staff") @owner("x") @reason("x")
permit (principal in Role::"staff", action in Action::"tool", resource);
@id("large") @owner("x") @reason("x") @outcome("require_review") @approvers("1 of finance")
forbid (principal, action == Action::"pay", resource) when { context.input.amount > 1000 };
@id("mail") @owner("x") @reason("x") @outcome("redact") @redact("pii.email")
forbid (principal, action, resource) when { context.labels.contains("pii.email") };
@id("night") @owner("x") @reason("x")
forbid (principal, action, resource) when { context.time.hour < 6 && context has scope && context.scope like "cust*" };
"""


def test_the_sampled_requests_reach_every_outcome_every_policy_and_errors() -> None:
    bundle = Bundle.from_files(files(RICH))
    results = [
        bundle.policies.evaluate(p.principal, p.action, p.resource, p.context, p.entities)
        for p in probes(bundle, Random(1))  # noqa: S311 - the same requests in every run
    ]
    assert {result.outcome for result in results} == set(Outcome)
    assert {id for result in results for ids in result.satisfied.values() for id in ids} == {
        "staff", "large", "mail", "night"
    }  # fmt: skip
    assert any(result.errors for result in results)


def test_the_compiled_policies_agree_with_the_official_engine() -> None:
    bundle = Bundle.from_files(files(RICH))
    assert disagreements(bundle.policies, probes(bundle, Random(2))) == ()  # noqa: S311
    prove(bundle, trial)


Evaluate = Callable[..., PolicyResult]


def loosened(evaluate: Evaluate) -> Evaluate:
    """Forbids are forgotten."""

    def sabotaged(*args: Any, **named: Any) -> PolicyResult:
        found = evaluate(*args, **named)
        return PolicyResult.of({**found.satisfied, Kind.FORBID: ()}, found.erring, found.errors)

    return sabotaged


def forgiving(evaluate: Evaluate) -> Evaluate:
    """Errors are swallowed."""

    def sabotaged(*args: Any, **named: Any) -> PolicyResult:
        return PolicyResult.of(evaluate(*args, **named).satisfied, {}, {})

    return sabotaged


def without_reviews(evaluate: Evaluate) -> Evaluate:
    """Reviews are taken for granted."""

    def sabotaged(*args: Any, **named: Any) -> PolicyResult:
        return evaluate(*args, **named).without(frozenset({"large"}))

    return sabotaged


def breaking(evaluate: Evaluate) -> Evaluate:
    def sabotaged(*args: Any, **named: Any) -> PolicyResult:
        raise TypeError

    return sabotaged


@pytest.mark.parametrize("sabotage", [loosened, forgiving, without_reviews, breaking])
def test_a_sabotaged_evaluator_is_found_and_the_version_refused(
    world: World, monkeypatch: pytest.MonkeyPatch, sabotage: Callable[[Evaluate], Evaluate]
) -> None:
    monkeypatch.setattr(PolicySet, "evaluate", sabotage(PolicySet.evaluate))
    world.offer(files(RICH))
    assert world.pdp.bundle is GOOD
    (warning,) = world.reloader.warnings()
    assert "the compiled policies say" in warning
    assert "the official engine" in warning


def test_requests_of_the_policy_tests_are_checked_too(monkeypatch: pytest.MonkeyPatch) -> None:
    tests = b"tests:\n  - {name: pays, tool: pay, input: {amount: 123456}, expect: {outcome: allow}}\n"
    bundle = Bundle.from_files(files(PERMIT, tests__t=tests))
    seen = []

    def watched(policies: PolicySet, given: Any) -> tuple[str, ...]:
        seen.extend(probe.context["input"] for probe in given)
        return ()

    monkeypatch.setattr("checkrein.services.reload.disagreements", watched)
    prove(bundle, trial)
    assert {"amount": 123456} in seen


# --- the start


def test_the_first_version_is_what_is_offered() -> None:
    shelf = Shelf(ALLOWS, last=DENIES)
    version = first(shelf, trial)
    assert version.bundle.digest == GOOD.digest
    assert shelf.kept == [version.fingerprint]


@pytest.mark.parametrize("name", BROKEN)
def test_when_what_is_offered_will_not_do_the_last_good_one_starts(name: str) -> None:
    shelf = Shelf(BROKEN[name][0], last=DENIES)
    version = first(shelf, trial)
    assert version.bundle.digest == Bundle.from_files(DENIES).digest
    world = World()
    reloader = Reloader(world.pdp, world.store, shelf, trial, version)
    reloader.poll()
    reloader.poll()
    assert len(reloader.warnings()) == 1


def test_without_any_good_version_nothing_starts_and_the_error_is_of_what_is_offered() -> None:
    for last in (None, files(b"forbid (")):
        with pytest.raises(PolicyInvalid, match="policies/main"):
            first(Shelf(files(b"permit ("), last=last), trial)


def test_the_version_that_starts_is_recorded_if_another_was_active_before(world: World) -> None:
    world.reloader.begin()
    world.reloader.begin()
    assert world.recorded("policy.changed") == [{"bundle": GOOD.digest, "before": ""}]
    other = Version(Bundle.from_files(DENIES), serial=7, signers=("k",))
    Reloader(world.pdp, world.store, world.shelf, trial, other).begin()
    expected = {"bundle": other.bundle.digest, "before": GOOD.digest, "serial": 7, "signers": ["k"]}
    assert world.recorded("policy.changed")[-1] == expected


# --- the watch


def until(true: Callable[[], bool]) -> None:
    waiting = threading.Event()
    for _ in range(3000):
        if true():
            return
        waiting.wait(BUSY)
    pytest.fail("it did not come to that")


def test_the_watch_looks_again_and_again_and_ends_with_its_block(world: World) -> None:
    with Watch(world.reloader.poll, every_s=BUSY):
        world.shelf.content = DENIES
        until(lambda: world.outcome is Outcome.DENY)
    assert not [thread for thread in threading.enumerate() if thread.name == "checkrein-reload"]


def test_a_nudge_looks_at_once(world: World) -> None:
    with Watch(world.reloader.poll, every_s=3600) as watch:
        until(lambda: world.shelf.looks == 2)
        world.shelf.content = DENIES
        for looks in (3, 4):
            watch.nudge()
            until(lambda looks=looks: world.shelf.looks == looks)  # type: ignore[misc]
        until(lambda: world.outcome is Outcome.DENY)


def test_an_exception_in_the_watch_is_logged_and_it_goes_on(world: World, caplog: pytest.LogCaptureFixture) -> None:
    class Panic(BaseException):
        """What an engine in another language may raise."""

    def broken() -> Offer:
        raise Panic("once")

    with pytest.MonkeyPatch.context() as patch, Watch(world.reloader.poll, every_s=BUSY):
        patch.setattr(world.shelf, "look", broken)
        until(lambda: "looking for what is new failed" in caplog.text)
        patch.undo()
        world.shelf.content = DENIES
        until(lambda: world.outcome is Outcome.DENY)


# --- a running server

DENY_READS = '\n@id("no-reads") @owner("x") @reason("x") forbid (principal, action == Action::"read_file", resource);\n'
READ = {
    "subject": {"type": "user", "id": "alice"},
    "action": {"name": "read_file", "properties": {"input": {"path": "x"}}},
    "resource": {"type": "tool", "id": "read_file"},
}


async def test_a_server_switches_while_requests_are_in_flight_and_drops_none(
    folder: Path, system: System, server: str, key: str, model: FakeModel
) -> None:
    policies = folder / "policies/main.cedar"
    release = threading.Event()
    model.witness = lambda headers: release.wait(30) and None
    headers = {"authorization": f"Bearer {key}"}
    chat = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}
    done = False

    answers: list[list[bool]] = [[] for _ in range(4)]

    async def ask(session: aiohttp.ClientSession, decided: list[bool]) -> None:
        """Ask without a pause, and once more when the new version is there."""
        last = False
        while not last:
            last = done
            async with session.post("/access/v1/evaluation", json=READ, headers=headers) as reply:
                assert reply.status == 200
                decided.append((await reply.json())["decision"])

    async def slow(session: aiohttp.ClientSession) -> int:
        async with session.post("/v1/chat/completions", json=chat, headers=headers) as reply:
            await reply.read()
            return reply.status

    with Watch(system.reloader.poll, every_s=BUSY):
        async with aiohttp.ClientSession(server) as session:
            began = asyncio.create_task(slow(session))
            asking = [asyncio.create_task(ask(session, decided)) for decided in answers]
            while not (model.calls and all(answers)):
                await asyncio.sleep(BUSY)
            before = system.pdp.bundle.digest
            policies.write_text(policies.read_text() + DENY_READS)
            while system.pdp.bundle.digest == before:
                await asyncio.sleep(BUSY)
            done = True
            await asyncio.gather(*asking)
            assert not began.done()
            release.set()
            assert await began == 200
    for decided in answers:
        assert (decided[0], decided[-1]) == (True, False)
        assert decided == sorted(decided, reverse=True), "an old version decided after a new one"


async def test_a_broken_edit_keeps_a_server_ready_with_a_warning_until_it_is_mended(
    folder: Path, system: System, server: str, key: str
) -> None:
    policies = folder / "policies/main.cedar"
    good = policies.read_text()
    headers = {"authorization": f"Bearer {key}"}

    async with aiohttp.ClientSession(server) as session:

        async def ready() -> dict[str, Any]:
            async with session.get("/readyz", headers=headers) as reply:
                assert reply.status == 200
                return dict(await reply.json())

        async def reads() -> bool:
            async with session.post("/access/v1/evaluation", json=READ, headers=headers) as reply:
                return bool((await reply.json())["decision"])

        with Watch(system.reloader.poll, every_s=BUSY):
            policies.write_text(good + "forbid (")
            while not (told := await ready())["warnings"]:
                await asyncio.sleep(BUSY)
            assert "policies/main.cedar" in told["warnings"][0]
            assert told["ready"] is True
            assert await reads()
            policies.write_text(good + DENY_READS)
            while await reads():
                await asyncio.sleep(BUSY)
            assert (await ready())["warnings"] == []
    kinds = [r.kind for r in system.store.records(RecordQuery(kinds=("policy.changed", "policy.rejected")))]
    assert kinds == ["policy.changed", "policy.rejected", "policy.changed"]


# --- a bundle file, and restarts

SIGNER = SigningKey(bytes(32))


@pytest.fixture
def offered(folder: Path, tmp_path: Path) -> Callable[..., Path]:
    """Puts a signed bundle where a server looks for it: the folder's policies, and what is added to them."""
    (tmp_path / "release.pub").write_bytes(SIGNER.public.to_pem())

    def put(serial: int, added: str = "", key: SigningKey = SIGNER) -> Path:
        text = (folder / "policies/main.cedar").read_text() + added
        held = {"policies/main.cedar": text.encode(), "tools.yaml": (folder / "tools.yaml").read_bytes()}
        made = archive.build(held, serial=serial, created="2026-01-31T09:00:00Z")
        write_archive(tmp_path / "policy.tar", archive.sign(made, key))
        return tmp_path / "policy.tar"

    return put


def started(folder: Path, file: Path) -> System:
    return open_system(folder, bundle=file, bundle_keys=[file.parent / "release.pub"])


def test_a_server_takes_a_bundle_with_a_higher_serial_and_no_other(folder: Path, offered: Callable[..., Path]) -> None:
    system = started(folder, offered(5))

    def polls() -> None:
        for _ in range(3):
            system.reloader.poll()

    try:
        five = system.pdp.bundle.digest
        for put, says in (
            (lambda: offered(4, DENY_READS), "serial 4 is lower than 5"),
            (lambda: offered(5, DENY_READS), "serial 5 was accepted here for another"),
            (lambda: offered(6, DENY_READS, SigningKey(b"1" * 32)), "not signed by a key that is trusted"),
        ):
            put()
            polls()
            assert says in system.reloader.warnings()[0]
            assert system.pdp.bundle.digest == five
        offered(6, DENY_READS)
        polls()
        assert system.reloader.warnings() == ()
        assert system.pdp.bundle.digest != five
        records = [r.body["detail"] for r in system.store.records(RecordQuery(kinds=("policy.changed",)))]
        assert [(r["serial"], r["signers"]) for r in records] == [  # type: ignore[index,call-overload]
            (5, [SIGNER.public.id]), (6, [SIGNER.public.id])
        ]  # fmt: skip
    finally:
        system.close()


def test_a_rollback_is_refused_also_after_a_restart_and_the_last_good_one_goes_on(
    folder: Path, offered: Callable[..., Path]
) -> None:
    system = started(folder, offered(5, DENY_READS))
    five = system.pdp.bundle.digest
    system.close()
    system = started(folder, offered(4))
    try:
        assert system.pdp.bundle.digest == five
        system.reloader.poll()
        system.reloader.poll()
        assert "serial 4 is lower than 5" in system.reloader.warnings()[0]
        assert [r.kind for r in system.store.records(RecordQuery(kinds=("policy.changed", "policy.rejected")))] == [
            "policy.changed", "policy.rejected"
        ]  # fmt: skip
    finally:
        system.close()


def test_the_same_bundle_starts_again(folder: Path, offered: Callable[..., Path]) -> None:
    file = offered(5)
    for _ in range(2):
        system = started(folder, file)
        system.reloader.poll()
        system.reloader.poll()
        assert system.reloader.warnings() == ()
        system.close()


def test_no_server_starts_on_a_bundle_that_nobody_trusted_signed(folder: Path, offered: Callable[..., Path]) -> None:
    with pytest.raises(PolicyInvalid, match="not signed by a key that is trusted"):
        started(folder, offered(5, "", SigningKey(b"1" * 32)))
    with pytest.raises(ConfigError, match="nobody is trusted"):
        open_system(folder, bundle=offered(5))


def test_the_files_that_are_bundled_are_proved_first(folder: Path) -> None:
    assert "policies/main.cedar" in compose.proved_files(folder)
    (folder / "tests").mkdir()
    (folder / "tests/t.yaml").write_text(
        "tests:\n  - {name: no, tool: read_file, input: {path: x}, expect: {outcome: deny}}\n"
    )
    with pytest.raises(PolicyInvalid, match="1 of 1 policy tests fail"):
        compose.proved_files(folder)

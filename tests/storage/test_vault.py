"""Payloads: sealed under a key of their subject, and gone for good when that key is destroyed."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import apsw
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from checkrein.model import ConfigError, LedgerInvalid, StoreUnavailable
from checkrein.model.retention import Retention
from checkrein.ports import Held, Payload
from checkrein.storage.files import DataDir
from checkrein.storage.vault import Vault

ALICE, BOB = "a" * 64, "b" * 64
DAY_US = 86_400_000_000
SECRET = b"the merger closes on the ninth of March, tell nobody"
FOREVER = 10**9
Open = Callable[..., Vault]


def payload(id: str, subject: str = ALICE, data: bytes = SECRET, **more: object) -> Payload:
    given: dict[str, object] = {"trace_id": "t" * 32, "created_us": 0, **more}
    return Payload(id=id, subject=subject, data=data, **given)  # type: ignore[arg-type]


def seal(vault: Vault, *payloads: Payload) -> None:
    for future in [vault.seal(each) for each in payloads]:
        future.result()


def files(data: Path) -> bytes:
    """Every byte of every file in the data directory."""
    return b"\n".join(path.read_bytes() for path in sorted(data.rglob("*")) if path.is_file())


def raw(data: Path) -> apsw.Connection:
    """The database in the hands of somebody who may change everything in it."""
    return apsw.Connection(str(data / "payload.db"))


@pytest.fixture
def open_vault(data: Path) -> Iterator[Open]:
    opened: list[Vault] = []

    def open_(**options: object) -> Vault:
        opened.append(Vault(DataDir(data), **options))  # type: ignore[arg-type]
        return opened[-1]

    yield open_
    for vault in opened:
        vault.close()


@pytest.fixture
def vault(open_vault: Open) -> Vault:
    return open_vault()


# --- sealing ----------------------------------------------------------------------------------------------------


def test_what_was_sealed_is_read_again_by_any_process(vault: Vault, open_vault: Open):
    seal(vault, payload("evl_1.request", retention="pii"))
    for each in (vault, open_vault()):
        assert each.read("evl_1.request", ALICE) == payload("evl_1.request", retention="pii")
    assert vault.read("evl_2.request", ALICE) is None


def test_nothing_sealed_stands_in_any_file(vault: Vault, data: Path):
    seal(vault, *(payload(f"evl_{number}.request") for number in range(50)))
    assert SECRET not in files(data)
    vault.close()
    assert SECRET not in files(data)


def test_a_payload_opens_only_for_its_record_and_its_subject(vault: Vault, data: Path):
    seal(vault, payload("evl_1.request"), payload("evl_2.request"), payload("evl_3.request", BOB))
    with pytest.raises(LedgerInvalid, match="evl_1"):
        vault.read("evl_1.request", BOB)
    connection = raw(data)
    connection.execute(
        "UPDATE payload SET sealed = (SELECT sealed FROM payload WHERE id = 'evl_2.request') WHERE id = 'evl_1.request'"
    )
    connection.execute("UPDATE payload SET data_key = 1, subject = 1 WHERE id = 'evl_3.request'")
    connection.close()
    for id, subject in (("evl_1.request", ALICE), ("evl_3.request", BOB), ("evl_3.request", ALICE)):
        with pytest.raises(LedgerInvalid):
            vault.read(id, subject)


def test_any_changed_byte_is_noticed(vault: Vault, data: Path):
    seal(vault, payload("evl_1.request"))
    connection = raw(data)
    sealed = connection.execute("SELECT sealed FROM payload").get
    for at in range(len(sealed)):
        changed = sealed[:at] + bytes([sealed[at] ^ 1]) + sealed[at + 1 :]
        connection.execute("UPDATE payload SET sealed = ?", (changed,))
        with pytest.raises(LedgerInvalid):
            vault.read("evl_1.request", ALICE)
    connection.close()


def test_an_id_is_sealed_once(vault: Vault):
    seal(vault, payload("evl_1.request"))
    with pytest.raises(StoreUnavailable, match="already"):
        seal(vault, payload("evl_1.request", data=b"other"))
    assert vault.read("evl_1.request", ALICE) == payload("evl_1.request")


def test_a_database_that_refuses_fails_the_payloads_and_works_again_afterwards(open_vault: Open, data: Path):
    vault = open_vault(busy_s=0.01)
    seal(vault, payload("evl_1.request"))
    other = raw(data)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreUnavailable):
        vault.seal(payload("evl_2.request")).result()
    assert not vault.writable()
    other.execute("ROLLBACK")
    other.close()
    assert vault.writable()
    seal(vault, payload("evl_3.request"))
    assert vault.read("evl_2.request", ALICE) is None


def test_a_full_queue_refuses(open_vault: Open):
    with pytest.raises(StoreUnavailable, match="waiting"):
        open_vault(queue_limit=0).seal(payload("evl_1.request")).result()


def test_a_closed_vault_refuses(vault: Vault):
    vault.close()
    with pytest.raises(StoreUnavailable, match="closed"):
        vault.seal(payload("evl_1.request")).result()


# --- the master key ---------------------------------------------------------------------------------------------


def test_the_master_key_is_readable_by_its_owner_alone(vault: Vault, data: Path):
    assert (data / "payload.key").stat().st_mode & 0o777 == 0o600
    assert (data / "payload.db").stat().st_mode & 0o777 == 0o600
    vault.close()
    (data / "payload.key").chmod(0o644)
    with pytest.raises(ConfigError, match="read by others"):
        Vault(DataDir(data))


def test_a_missing_master_key_is_never_replaced_by_a_new_one(vault: Vault, data: Path):
    vault.close()
    (data / "payload.key").unlink()
    with pytest.raises(ConfigError, match="missing"):
        Vault(DataDir(data))
    assert not (data / "payload.key").exists()


@pytest.mark.parametrize("content", ["", "checkrein-payload-key/1 !\n", "checkrein-payload-key/2 " + "A" * 43 + "=\n"])
def test_a_damaged_master_key_is_named(vault: Vault, data: Path, content: str):
    vault.close()
    (data / "payload.key").write_text(content)
    with pytest.raises(ConfigError, match=r"payload\.key"):
        Vault(DataDir(data))


def test_the_master_key_of_another_store_is_refused(vault: Vault, data: Path, tmp_path: Path):
    Vault(DataDir(tmp_path / "other")).close()
    vault.close()
    (data / "payload.key").write_bytes((tmp_path / "other/payload.key").read_bytes())
    with pytest.raises(ConfigError, match="not the key"):
        Vault(DataDir(data))


def test_a_new_master_key_in_front_wraps_and_the_old_one_still_opens(vault: Vault, open_vault: Open, data: Path):
    seal(vault, payload("evl_1.request"))
    vault.close()
    Vault(DataDir(data.parent / "other")).close()
    old, new = (data / "payload.key").read_text(), (data.parent / "other/payload.key").read_text()
    (data / "payload.key").write_text(new + old)
    vault = open_vault()
    seal(vault, payload("evl_2.request", BOB))
    assert vault.read("evl_1.request", ALICE)
    assert vault.read("evl_2.request", BOB)


# --- erasure ----------------------------------------------------------------------------------------------------


def test_after_an_erasure_no_byte_of_the_key_is_in_any_file(vault: Vault, data: Path):
    subjects = [f"{number:064x}" for number in range(200)]
    seal(vault, *(payload(f"evl_{who}_{n}.request", who, os.urandom(300)) for who in subjects for n in range(3)))
    connection = raw(data)
    wrapped = dict(connection.execute("SELECT s.ref, k.wrapped FROM data_key k JOIN subject s ON s.id = k.subject"))
    connection.close()
    assert all(key in files(data) for key in wrapped.values())
    erased = subjects[::7]
    for who in erased:
        assert vault.erase(who, 1) == (1, 3)
    everything = files(data)
    for who in subjects:
        assert (wrapped[who] in everything) == (who not in erased)
        assert (vault.read(f"evl_{who}_1.request", who) is None) == (who in erased)


def test_erasing_twice_is_not_an_error(vault: Vault):
    seal(vault, payload("evl_1.request"))
    assert (vault.erase(ALICE, 7), vault.erase(ALICE, 8)) == ((1, 1), (0, 0))
    assert vault.subject(ALICE).erased_us == 8


def test_a_process_that_still_knows_a_destroyed_key_seals_under_a_fresh_one(vault: Vault, open_vault: Open):
    seal(vault, payload("evl_1.request"))
    open_vault().erase(ALICE, 1)
    seal(vault, payload("evl_2.request"))
    assert vault.read("evl_1.request", ALICE) is None
    assert vault.read("evl_2.request", ALICE) == payload("evl_2.request")


def test_a_reader_in_the_way_of_wiping_is_reported_and_erasing_again_finishes(
    vault: Vault, data: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("checkrein.storage.scrub.PATIENCE_S", 0.05)
    seal(vault, payload("evl_1.request"))
    reader = raw(data)
    reader.execute("BEGIN")
    wrapped = reader.execute("SELECT wrapped FROM data_key").get
    with pytest.raises(StoreUnavailable, match="somebody is reading"):
        vault.erase(ALICE, 1)
    assert vault.read("evl_1.request", ALICE) is None
    reader.execute("ROLLBACK")
    reader.close()
    vault.erase(ALICE, 2)
    assert wrapped not in files(data)


def test_a_hold_keeps_payloads_from_erasure_and_expiry(vault: Vault):
    vault.hold(ALICE, True)
    seal(vault, payload("evl_1.request"), payload("evl_2.request", BOB))
    with pytest.raises(Held):
        vault.erase(ALICE, 1)
    assert vault.expire(Retention(), 500 * DAY_US, FOREVER) == 1
    assert vault.read("evl_1.request", ALICE)
    vault.hold(ALICE, False)
    assert vault.erase(ALICE, 1) == (1, 1)


# --- sweeping ---------------------------------------------------------------------------------------------------


def test_a_payload_is_kept_as_long_as_its_class_says(vault: Vault):
    retention = Retention(days=400, classes={"short": 184, "long": 4000})
    classes = ["", "short", "long", "gone"]
    seal(vault, *(payload(f"{name}.request", retention=name) for name in classes))
    left = {184: classes, 185: ["", "long", "gone"], 400: ["", "long", "gone"], 401: ["long"], 4001: []}
    for day, names in left.items():
        vault.expire(retention, day * DAY_US, FOREVER)
        assert [name for name in classes if vault.read(f"{name}.request", ALICE)] == names


def test_a_sweep_does_no_more_than_it_may(vault: Vault):
    seal(vault, *(payload(f"evl_{number}.request") for number in range(600)))
    assert [vault.expire(Retention(), 500 * DAY_US, 250) for _ in range(4)] == [250, 250, 100, 0]


def test_every_payload_is_looked_at_once_for_its_record(vault: Vault):
    seal(vault, *(payload(f"evl_{number}.request", created_us=number) for number in range(6)))
    seen = vault.unproved(4, 3)
    assert [item.id for item in seen] == ["evl_0.request", "evl_1.request", "evl_2.request"]
    assert vault.prove(seen, seen[1:2]) == 1
    assert [item.id for item in vault.unproved(4, 3)] == ["evl_3.request"]
    assert vault.read("evl_1.request", ALICE) is None
    assert vault.read("evl_2.request", ALICE)


def test_a_held_orphan_stays(vault: Vault):
    vault.hold(ALICE, True)
    seal(vault, payload("evl_1.request"))
    seen = vault.unproved(1, 9)
    assert vault.prove(seen, seen) == 0


def test_a_discarded_payload_is_gone(vault: Vault):
    seal(vault, payload("evl_1.request"))
    vault.discard("evl_1.request")
    seal(vault, payload("evl_2.request"))
    assert vault.read("evl_1.request", ALICE) is None


def test_a_foreign_database_is_refused(vault: Vault, data: Path):
    vault.close()
    (data / "payload.db").unlink()
    connection = raw(data)
    connection.execute("CREATE TABLE notes (text)")
    connection.close()
    with pytest.raises(ConfigError, match="not a payload database"):
        Vault(DataDir(data))


# --- a life of the vault ----------------------------------------------------------------------------------------


class Life(RuleBasedStateMachine):
    """Two processes on one vault seal, erase, hold, sweep, stop and start; a dictionary says what must be there."""

    @initialize()
    def start(self) -> None:
        import tempfile

        self.folder = tempfile.TemporaryDirectory()
        self.files = DataDir(Path(self.folder.name) / "data")
        self.vaults = [Vault(self.files), Vault(self.files)]
        self.kept: dict[str, Payload] = {}
        self.gone: set[str] = set()
        self.held: set[str] = set()
        self.count = 0

    @rule(who=st.sampled_from([ALICE, BOB]), at=st.integers(0, 1), day=st.integers(0, 500))
    def seal(self, who: str, at: int, day: int) -> None:
        self.count += 1
        made = payload(f"evl_{self.count}.request", who, b"%d secret" % self.count, created_us=day * DAY_US)
        self.vaults[at].seal(made).result()
        self.kept[made.id] = made

    @rule(who=st.sampled_from([ALICE, BOB]), at=st.integers(0, 1))
    def erase(self, who: str, at: int) -> None:
        if who in self.held:
            with pytest.raises(Held):
                self.vaults[at].erase(who, 1)
            return
        mine = [id for id, each in self.kept.items() if each.subject == who]
        assert self.vaults[at].erase(who, 1)[1] == len(mine)
        self._lose(mine)

    @rule(who=st.sampled_from([ALICE, BOB]), at=st.integers(0, 1), held=st.booleans())
    def hold(self, who: str, at: int, held: bool) -> None:
        self.vaults[at].hold(who, held)
        (self.held.add if held else self.held.discard)(who)

    @rule(at=st.integers(0, 1), day=st.integers(0, 1000))
    def expire(self, at: int, day: int) -> None:
        late = [
            id
            for id, each in self.kept.items()
            if each.created_us + 400 * DAY_US < day * DAY_US and each.subject not in self.held
        ]
        assert self.vaults[at].expire(Retention(), day * DAY_US, FOREVER) == len(late)
        self._lose(late)

    @precondition(lambda self: self.kept)
    @rule(data=st.data(), at=st.integers(0, 1))
    def discard(self, data: st.DataObject, at: int) -> None:
        id = data.draw(st.sampled_from(sorted(self.kept)))
        self.vaults[at].discard(id)
        self.vaults[at]._submit(lambda tables: None).result()
        self._lose([id])

    @rule(at=st.integers(0, 1))
    def restart(self, at: int) -> None:
        self.vaults[at].close()
        self.vaults[at] = Vault(self.files)

    @invariant()
    def everything_kept_is_read_and_nothing_else(self) -> None:
        for vault in getattr(self, "vaults", []):
            assert all(vault.read(id, each.subject) == each for id, each in self.kept.items())
            assert not any(vault.read(id, who) for id in self.gone for who in (ALICE, BOB))

    def _lose(self, ids: list[str]) -> None:
        for id in ids:
            del self.kept[id]
        self.gone.update(ids)

    def teardown(self) -> None:
        for vault in getattr(self, "vaults", []):
            vault.close()
        if hasattr(self, "folder"):
            self.folder.cleanup()


Life.TestCase.settings = settings(
    max_examples=200 if os.environ.get("CHECKREIN_DEEP") == "1" else 12, stateful_step_count=20
)
TestLife = Life.TestCase

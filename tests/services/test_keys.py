"""API keys: shown once, found by digest, gone when they end."""

from __future__ import annotations

from pathlib import Path

import pytest

from checkrein.model import BadRequest, NotFound, Permission, StoreUnavailable, Subject
from checkrein.ports import RecordQuery, Unit
from checkrein.services import keys as module
from checkrein.services.keys import Keys
from checkrein.storage.files import DataDir
from checkrein.storage.memory import MemoryStore
from checkrein.storage.sqlite import SqliteStore


class MovingClock:
    """A fake clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.us = 1_700_000_000_000_000

    def now_us(self) -> int:
        return self.us


@pytest.fixture
def clock() -> MovingClock:
    return MovingClock()


@pytest.fixture
def store(clock: MovingClock) -> MemoryStore:
    return MemoryStore(clock)


@pytest.fixture
def keys(store: MemoryStore, clock: MovingClock) -> Keys:
    return Keys(store, clock)


def test_a_key_is_found_by_its_secret_and_says_whose_it_is(keys: Keys):
    key, secret = keys.create("bot", owner="alice", roles=("staff",), agent="bot", by="tests")
    assert keys.find(secret) == key
    assert key.subject() == Subject("user", "alice", {"roles": ["staff"]})
    assert secret.startswith("crk_")
    assert len(secret) >= 40
    assert keys.create("bot", by="tests")[1] != secret


def test_a_key_acts_for_its_name_and_may_only_call_unless_more_is_said(keys: Keys):
    key, _ = keys.create("alice", by="tests")
    assert (key.owner, key.roles, key.permissions) == ("alice", (), (Permission.CALL,))


@pytest.mark.parametrize("secret", ["", "crk_", "crk_wrong", "key_1", "\ud800", "x" * 100_000, "*", "%"])
def test_another_secret_finds_nothing(keys: Keys, secret: str):
    keys.create("bot", by="tests")
    assert keys.find(secret) is None


def test_the_secret_is_stored_nowhere(tmp_path: Path, clock: MovingClock):
    store = SqliteStore(DataDir(tmp_path / "data"), clock)
    key, secret = Keys(store, clock).create("bot", by="tests")
    store.close()
    written = b"".join(path.read_bytes() for path in (tmp_path / "data").rglob("*") if path.is_file())
    assert key.digest.encode() in written
    assert secret.encode() not in written
    assert secret.removeprefix("crk_").encode() not in written


def test_making_and_revoking_a_key_is_recorded_with_who_did_it(keys: Keys, store: MemoryStore):
    key, _ = keys.create("bot", owner="alice", roles=("staff",), by="root")
    keys.revoke(key.id, by="carol")
    made, revoked = store.records(RecordQuery())
    assert (made.kind, made.body["actor"]["id"]) == ("admin.key_created", "root")
    assert made.body["detail"] == {"key": key.id, "owner": "alice", "roles": ["staff"], "permissions": ["call"]}
    assert (revoked.kind, revoked.body["actor"]["id"], revoked.body["detail"]) == (
        "admin.key_revoked",
        "carol",
        {"key": key.id},
    )


def test_a_revoked_key_opens_nothing_and_revoking_it_again_is_no_error(keys: Keys, store: MemoryStore):
    key, secret = keys.create("bot", by="tests")
    revoked = keys.revoke(key.id, by="tests")
    assert keys.find(secret) is None
    assert keys.revoke(key.id, by="tests") == revoked
    assert len(list(store.records(RecordQuery(kinds=("admin.key_revoked",))))) == 1


def test_a_key_ends_when_its_time_is_over(keys: Keys, clock: MovingClock):
    _, secret = keys.create("bot", expires_s=60, by="tests")
    clock.us += 59_999_999
    assert keys.find(secret) is not None
    clock.us += 1
    assert keys.find(secret) is None


def test_a_key_that_somebody_else_revoked_a_moment_before_is_revoked_once(
    keys: Keys, store: MemoryStore, clock: MovingClock, monkeypatch: pytest.MonkeyPatch
):
    key, _ = keys.create("bot", by="tests")
    commit = store.commit

    def overtaken(unit: Unit) -> object:
        monkeypatch.setattr(store, "commit", commit)
        Keys(store, clock).revoke(key.id, by="somebody else")
        return commit(unit)

    monkeypatch.setattr(store, "commit", overtaken)
    assert keys.revoke(key.id, by="tests").revoked_us
    (record,) = store.records(RecordQuery(kinds=("admin.key_revoked",)))
    assert record.body["actor"]["id"] == "somebody else"


@pytest.mark.parametrize("id", ["key_0", "", "crk_secret", "\ud800", "key_\x1b[2J", "key_" + "0" * 5000])
def test_what_is_no_id_of_a_key_is_not_found_and_a_secret_is_not_repeated(keys: Keys, id: str):
    with pytest.raises(NotFound) as missing:
        keys.revoke(id, by="tests")
    assert "secret" not in str(missing.value)
    assert str(missing.value).isprintable()
    assert len(str(missing.value)) < 120
    assert "keys list" in missing.value.hint


@pytest.mark.parametrize(
    "given",
    [
        {"name": ""},
        {"name": "  "},
        {"name": "x" * 201},
        {"name": "a\nb"},
        {"name": "\x1b[2J"},
        {"owner": "x" * 201},
        {"owner": " "},
        {"agent": "\ud800"},
        {"roles": ("staff", "")},
        {"roles": ("x" * 201,)},
        {"roles": ("staff",) * 101},
        {"permissions": ()},
        {"expires_s": -1},
        {"expires_s": 10**18},
    ],
)
def test_a_key_that_could_not_be_used_or_recorded_is_not_made(keys: Keys, store: MemoryStore, given: dict[str, object]):
    with pytest.raises(BadRequest) as refused:
        keys.create(**({"name": "bot", "by": "tests"} | given))  # type: ignore[arg-type]
    assert refused.value.hint
    assert keys.all() == []
    assert not list(store.records(RecordQuery()))


def test_the_longest_key_that_may_be_made_fits_a_record(keys: Keys):
    roles = tuple(f"{number:03}" + "ä" * (module.MAX_NAME - 3) for number in range(module.MAX_ROLES))
    key, secret = keys.create("n" * module.MAX_NAME, roles=roles, permissions=tuple(Permission), by="t", expires_s=1)
    assert keys.find(secret) == key


def test_without_a_record_there_is_no_key(keys: Keys, store: MemoryStore, monkeypatch: pytest.MonkeyPatch):
    _, secret = keys.create("bot", by="tests")

    def refuse(unit: Unit) -> None:
        raise StoreUnavailable("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(store, "commit", refuse)
        with pytest.raises(StoreUnavailable):
            keys.create("other", by="tests")
        with pytest.raises(StoreUnavailable):
            keys.revoke(keys.all()[0].id, by="tests")
    assert [key.name for key in keys.all()] == ["bot"]
    assert keys.find(secret) is not None


def test_all_keys_are_listed_however_many(keys: Keys):
    made = {keys.create(f"bot-{number}", by="tests")[0].id for number in range(1001)}
    assert {key.id for key in keys.all()} == made


def test_after_a_rotation_both_secrets_open_the_key_until_the_overlap_is_over(keys: Keys, clock: MovingClock):
    key, old = keys.create("bot", owner="alice", by="tests")
    rotated, new = keys.rotate(key.id, overlap_s=60, by="carol")
    assert (rotated.id, rotated.owner, new == old) == (key.id, "alice", False)
    assert keys.find(old) == keys.find(new) == rotated
    clock.us += 59_999_999
    assert keys.find(old) == rotated
    clock.us += 1
    assert (keys.find(old), keys.find(new)) == (None, rotated)


def test_a_rotation_without_overlap_ends_the_old_secret_at_once(keys: Keys):
    key, old = keys.create("bot", by="tests")
    _, new = keys.rotate(key.id, overlap_s=0, by="tests")
    assert keys.find(old) is None
    assert keys.find(new) is not None


def test_a_second_rotation_leaves_only_the_last_two_secrets(keys: Keys, store: MemoryStore):
    key, first = keys.create("bot", by="tests")
    _, second = keys.rotate(key.id, overlap_s=3600, by="tests")
    _, third = keys.rotate(key.id, overlap_s=3600, by="tests")
    assert keys.find(first) is None
    assert keys.find(second) == keys.find(third) is not None
    assert len(store.rows(module.PREVIOUS)) == 1
    keys.rotate(key.id, overlap_s=0, by="tests")
    assert keys.find(second) is keys.find(third) is None
    assert store.rows(module.PREVIOUS) == []


def test_a_revoked_or_expired_key_opens_by_no_secret_and_is_not_rotated(keys: Keys, clock: MovingClock):
    key, old = keys.create("bot", expires_s=60, by="tests")
    _, new = keys.rotate(key.id, overlap_s=3600, by="tests")
    clock.us += 60_000_000
    assert keys.find(old) is keys.find(new) is None
    with pytest.raises(BadRequest):
        keys.rotate(key.id, overlap_s=0, by="tests")
    other, _ = keys.create("bot", by="tests")
    _, secret = keys.rotate(other.id, overlap_s=3600, expires_s=5, by="tests")
    found = keys.find(secret)
    assert found is not None
    assert found.expires_us == clock.us + 5_000_000
    keys.revoke(other.id, by="tests")
    assert keys.find(secret) is None
    with pytest.raises(BadRequest):
        keys.rotate(other.id, overlap_s=0, by="tests")


def test_a_rotation_is_recorded_without_any_secret(keys: Keys, store: MemoryStore):
    key, old = keys.create("bot", by="tests")
    _, new = keys.rotate(key.id, overlap_s=60, by="carol")
    (record,) = store.records(RecordQuery(kinds=("admin.key_rotated",)))
    assert (record.body["actor"]["id"], record.body["detail"]) == ("carol", {"key": key.id, "overlap_s": 60})
    assert not {old.encode(), new.encode()} & {record.data}


def test_the_last_use_is_known_to_the_hour_and_written_once_an_hour(
    keys: Keys, store: MemoryStore, clock: MovingClock, monkeypatch: pytest.MonkeyPatch
):
    clock.us -= clock.us % module.HOUR_US
    key, secret = keys.create("bot", by="tests")
    assert keys.used_us(key.id) == 0
    commit, written = store.commit, list[Unit]()
    monkeypatch.setattr(store, "commit", lambda unit: (written.append(unit), commit(unit))[1])
    start_us = clock.us
    for second in (1, 2, 3599, 3600, 3601, 5):
        clock.us = start_us + second * 1_000_000
        assert keys.find(secret) == key
        assert Keys(store, clock).find(secret) == key
    assert len(written) == 2
    assert keys.used_us(key.id) == start_us + module.HOUR_US


def test_a_use_that_cannot_be_noted_keeps_nobody_out(keys: Keys, store: MemoryStore, monkeypatch: pytest.MonkeyPatch):
    key, secret = keys.create("bot", by="tests")

    def refuse(unit: Unit) -> None:
        raise StoreUnavailable("the disk is full")

    monkeypatch.setattr(store, "commit", refuse)
    assert keys.find(secret) == key
    assert keys.used_us(key.id) == 0

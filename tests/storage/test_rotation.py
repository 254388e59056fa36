"""`keys rotate-signer` on a real store: whenever a process dies, whichever process signs, the ledger verifies."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from checkrein.ledger import checkpoint as notes
from checkrein.ledger.checkpoint import Signer
from checkrein.ledger.signers import Signers
from checkrein.model import BadRequest, LedgerInvalid, StoreUnavailable
from checkrein.ports import RecordQuery
from checkrein.services.audit import Audit
from checkrein.services.evidence import export_tlog, growth, prove
from checkrein.services.rotation import rotate
from checkrein.storage.files import DataDir
from checkrein.storage.sqlite import SqliteStore
from checkrein.verifier import verify_ledger

Open = Callable[..., SqliteStore]
Made = Any
DAY_S = 86_400


def signers_of(data: Path) -> list[str]:
    """The key ids under the checkpoint."""
    signed = notes.Checkpoint.parse(DataDir(data).checkpoint()).signatures
    return [raw[:4].hex() for _, raw in signed]


def secrets_of(data: Path) -> list[str]:
    """The private keys in the key file, by their key ids."""
    lines = (data / "signer.key").read_text().splitlines()
    return [Signer.from_secret(line.split()[0]).verifier.id.hex() for line in lines]


def id_of(vkey: str) -> str:
    return notes.VerifierKey.parse(vkey).id.hex()


def audit(data: Path, vkey: str = "") -> None:
    reader = SqliteStore.open_readonly(data)
    try:
        Audit(reader, reader.files).verify(vkey).require()
    finally:
        reader.close()


# --- the way it goes --------------------------------------------------------------------------------------------


def test_both_keys_sign_until_the_overlap_is_over_and_then_the_old_one_is_gone(
    open_sqlite: Open, made: Made, data: Path, clock: Any
) -> None:
    store = open_sqlite()
    old = store.files.vkey()
    store.commit(made.unit("x")).result()
    handover = rotate(store, overlap_s=DAY_S, keep=False, by="alice")
    new = store.files.vkey()
    assert (handover.old, handover.new) == (old, new)
    assert signers_of(data) == secrets_of(data) == [id_of(new), id_of(old)]
    assert notes.verify(store.files.checkpoint(), old) == notes.verify(store.files.checkpoint(), new) == store.head()
    clock.us += DAY_S * 1_000_000
    store.commit(made.unit("x")).result()
    store.close()
    assert secrets_of(data) == [id_of(new)]
    store = open_sqlite()
    store.commit(made.unit("x")).result()
    store.close()
    assert signers_of(data) == [id_of(new)]
    for vkey in ("", old, new):
        audit(data, vkey)


def test_what_is_recorded_names_both_keys_and_who_did_it(open_sqlite: Open) -> None:
    store = open_sqlite()
    handover = rotate(store, overlap_s=DAY_S, keep=False, by="alice")
    (record,) = store.records(RecordQuery(kinds=("key.rotated",)))
    detail = record.body["detail"]
    assert isinstance(detail, dict)
    assert (detail["old"], detail["new"], detail["until_us"]) == (handover.old, handover.new, handover.until_us)
    assert record.body["actor"] == {"type": "operator", "id": "alice", "agent": ""}


def test_without_an_overlap_the_old_key_signs_once_more_and_is_gone(open_sqlite: Open, data: Path) -> None:
    store = open_sqlite()
    old = store.files.vkey()
    rotate(store, overlap_s=0, keep=False, by="alice")
    assert id_of(old) in signers_of(data)
    assert secrets_of(data) == [id_of(store.files.vkey())]
    assert not list(data.glob("signer-*"))


def test_a_key_that_is_kept_lies_in_a_file_of_its_own(open_sqlite: Open, data: Path) -> None:
    store = open_sqlite()
    old = store.files.vkey()
    rotate(store, overlap_s=0, keep=True, by="alice")
    kept = data / f"signer-{id_of(old)}.key"
    assert kept.stat().st_mode & 0o777 == 0o600
    assert Signer.from_secret(kept.read_text()).vkey == old


def test_what_stood_in_the_key_file_before_is_overwritten(open_sqlite: Open, data: Path, tmp_path: Path) -> None:
    store = open_sqlite()
    (tmp_path / "the old inode").hardlink_to(data / "signer.key")
    rotate(store, overlap_s=0, keep=False, by="alice")
    assert set((tmp_path / "the old inode").read_bytes()) == {0}
    assert (data / "signer.key").stat().st_mode & 0o777 == 0o600


def test_a_key_is_rotated_again_before_its_overlap_is_over(open_sqlite: Open, made: Made, data: Path) -> None:
    store = open_sqlite()
    vkeys = [store.files.vkey()]
    for _ in range(3):
        rotate(store, overlap_s=DAY_S, keep=False, by="alice")
        vkeys.insert(0, store.files.vkey())
    assert signers_of(data) == [id_of(vkey) for vkey in vkeys]
    store.close()
    for vkey in vkeys:
        audit(data, vkey)


def test_an_overlap_has_bounds(open_sqlite: Open) -> None:
    with pytest.raises(BadRequest, match="overlap"):
        rotate(open_sqlite(), overlap_s=-1, keep=False, by="alice")


# --- evidence ---------------------------------------------------------------------------------------------------


def test_evidence_reaches_whoever_holds_any_key_of_the_log(
    open_sqlite: Open, made: Made, data: Path, tmp_path: Path
) -> None:
    store = open_sqlite()
    files = store.files
    shutil.copy(data / "signer.pub", tmp_path / "0.pub")
    for at in (1, 2):
        store.commit(made.unit(*["x"] * 300)).result()
        rotate(store, overlap_s=0, keep=False, by="alice")
        (tmp_path / f"after-{at}").write_text(files.checkpoint())
        shutil.copy(data / "signer.pub", tmp_path / f"{at}.pub")
    store.commit(made.unit("x")).result()
    store.close()
    store = open_sqlite()
    exported = export_tlog(store, files, tmp_path / "export")
    record, proof = prove(store, files, 17)
    (tmp_path / "record").write_bytes(record.data)
    (tmp_path / "proof").write_text(str(proof))
    assert growth(store, files, (tmp_path / "after-1").read_text()).old_size == 301
    assert len(list(exported.path.glob("*.pub"))) == 3
    for at in (0, 1, 2):
        key = ["--key", str(tmp_path / f"{at}.pub")]
        older = ["--consistency", str(tmp_path / "after-1")]
        assert verify_ledger.main([str(exported.path), *key, *older]) == 0
        assert verify_ledger.main([str(tmp_path / "proof"), *key, "--record", str(tmp_path / "record")]) == 0


# --- dying at every step ----------------------------------------------------------------------------------------

STEPS = ("write_signers", "write_leaves", "write_checkpoint", "publish", "keep_signer")


def deaths(store: SqliteStore, data: Path, target: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """What the disk holds before and after each step of a rotation."""
    copies: list[Path] = []

    def copy() -> None:
        copies.append(target / str(len(copies)))
        shutil.copytree(data, copies[-1])

    def around(step: Callable[..., Any]) -> Callable[..., Any]:
        def stepped(*arguments: Any) -> Any:
            copy()
            done = step(*arguments)
            copy()
            return done

        return stepped

    with monkeypatch.context() as patch:
        for name in STEPS:
            patch.setattr(DataDir, name, around(getattr(DataDir, name)))
        patch.setattr(SqliteStore, "commit", around(lambda *given: _waited(SqliteStore_commit(*given))))
        rotate(store, overlap_s=0, keep=True, by="alice")
    return copies


SqliteStore_commit = SqliteStore.commit


def _waited(future: Any) -> Any:
    future.result()
    return future


def test_a_rotation_that_dies_at_any_step_leaves_a_store_that_opens_signs_and_verifies(
    open_sqlite: Open, made: Made, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_sqlite()
    old = store.files.vkey()
    store.commit(made.unit("x", "y")).result()
    copies = deaths(store, data, tmp_path / "died", monkeypatch)
    assert len(copies) > 10
    outcomes = set()
    for copy in copies:
        audit(copy, old)
        audit(copy)
        again = open_sqlite(copy)
        again.commit(made.unit("x")).result()
        rotated = len(list(again.records(RecordQuery(kinds=("key.rotated",)))))
        assert (id_of(again.files.vkey()) != id_of(old)) == bool(rotated)
        again.close()
        audit(copy, old)
        audit(copy)
        assert not Signers.parse((copy / "signer.key").read_text()).earlier
        again = open_sqlite(copy)
        rotate(again, overlap_s=0, keep=False, by="bob")
        again.close()
        audit(copy, old)
        assert len(secrets_of(copy)) == 1
        outcomes.add(rotated)
    assert outcomes == {0, 1}


def test_a_store_that_refuses_the_record_keeps_the_old_key(
    open_sqlite: Open, made: Made, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_sqlite()
    old = store.files.vkey()

    def refuse(self: SqliteStore, unit: object) -> Any:
        raise StoreUnavailable("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(SqliteStore, "commit", refuse)
        with pytest.raises(StoreUnavailable):
            rotate(store, overlap_s=DAY_S, keep=False, by="alice")
    store.commit(made.unit("x")).result()
    store.close()
    assert signers_of(data) == [id_of(old)]
    assert DataDir(data).vkey() == old
    store = open_sqlite()
    rotate(store, overlap_s=DAY_S, keep=False, by="alice")
    assert len(secrets_of(data)) == 2


def test_a_key_file_that_cannot_be_written_is_said_and_nothing_is_rotated(
    open_sqlite: Open, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_sqlite()

    def refuse(self: DataDir, signers: Signers) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(DataDir, "write_signers", refuse)
    with pytest.raises(StoreUnavailable, match="no space left"):
        rotate(store, overlap_s=DAY_S, keep=False, by="alice")
    assert list(store.records(RecordQuery(kinds=("key.rotated",)))) == []


def test_a_log_that_was_tampered_with_is_not_handed_on(written_store: SqliteStore, data: Path) -> None:
    (data / "checkpoint").write_text(DataDir(data).checkpoint().replace("\n0\n", "\n1\n"))
    with pytest.raises(LedgerInvalid):
        rotate(written_store, overlap_s=DAY_S, keep=False, by="alice")


@pytest.fixture
def written_store(open_sqlite: Open, made: Made) -> SqliteStore:
    store = open_sqlite()
    store.commit(made.unit("x")).result()
    return store


# --- several processes ------------------------------------------------------------------------------------------


def test_another_process_on_the_store_signs_with_the_new_key_from_its_next_checkpoint_on(
    open_sqlite: Open, made: Made, data: Path
) -> None:
    first = open_sqlite(checkpoint_every_s=0.001)
    first.commit(made.unit("x")).result()
    old = first.files.vkey()
    script = (
        "import sys; from pathlib import Path; from checkrein.compose import SystemClock\n"
        "from checkrein.services.rotation import rotate; from checkrein.storage.sqlite import SqliteStore\n"
        "store = SqliteStore(Path(sys.argv[1]), SystemClock())\n"
        "print(rotate(store, overlap_s=0, keep=False, by='alice').new); store.close()"
    )
    done = subprocess.run([sys.executable, "-c", script, str(data)], capture_output=True, text=True, check=True)
    new = done.stdout.strip()
    assert new == DataDir(data).vkey()
    first.commit(made.unit("x")).result()
    size = first.head().size
    deadline = time.monotonic() + 20
    while notes.verify(DataDir(data).checkpoint(), new).size < size:
        assert time.monotonic() < deadline
        threading.Event().wait(0.002)
    assert signers_of(data) == [id_of(new)]
    assert first.problems() == ()
    first.close()
    for vkey in (old, new):
        audit(data, vkey)


def test_two_that_rotate_at_once_rotate_one_after_the_other(open_sqlite: Open, made: Made, data: Path) -> None:
    stores = [open_sqlite(), open_sqlite()]
    old = stores[0].files.vkey()
    answers: list[Any] = []
    threads = [
        threading.Thread(target=lambda store=store: answers.append(rotate(store, overlap_s=0, keep=False, by="a")))
        for store in stores
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    first, second = sorted(answers, key=lambda answer: answer.old != old)
    assert (first.old, first.new, second.new) == (old, second.old, DataDir(data).vkey())
    for store in stores:
        store.close()
    audit(data, old)


def test_an_idle_process_takes_out_a_key_whose_time_is_over(
    open_sqlite: Open, data: Path, clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("checkrein.storage.keeper._LOOK_S", 0.005)
    store = open_sqlite(checkpoint_every_s=0.001)
    rotate(store, overlap_s=DAY_S, keep=False, by="alice")
    assert len(secrets_of(data)) == 2
    clock.us += DAY_S * 1_000_000
    deadline = time.monotonic() + 20
    while len(secrets_of(data)) > 1:
        assert time.monotonic() < deadline
        threading.Event().wait(0.002)


def test_a_key_file_that_vanishes_is_said_and_never_made_anew(open_sqlite: Open, made: Made, data: Path) -> None:
    store = open_sqlite(checkpoint_every_s=0.001)
    (data / "signer.key").rename(data / "away")
    store.commit(made.unit("x")).result()
    deadline = time.monotonic() + 20
    while not store.problems():
        assert time.monotonic() < deadline
        threading.Event().wait(0.002)
    assert "signer.key` is missing" in store.problems()[0]
    with pytest.raises(LedgerInvalid, match="is missing"):
        open_sqlite()
    assert not (data / "signer.key").exists()
    (data / "away").rename(data / "signer.key")
    store.close()
    assert store.problems() == ()
    audit(data)

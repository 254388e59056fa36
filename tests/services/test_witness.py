"""A witness over real HTTP: it cosigns what only grew, and a fork is found whoever was shown which half."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from checkrein.connectors.witness import HttpWitness
from checkrein.ledger import Draft
from checkrein.ledger.checkpoint import COSIGNATURE, Checkpoint, Cosigned, VerifierKey
from checkrein.model import LedgerInvalid, UpstreamUnavailable
from checkrein.ports import Unit
from checkrein.services.audit import Audit
from checkrein.services.evidence import export_tlog
from checkrein.services.rotation import rotate
from checkrein.services.witness import Pusher, Witness, cosign
from checkrein.storage.files import DataDir
from checkrein.storage.sqlite import SqliteStore
from checkrein.verifier import verify_ledger
from checkrein.web.server import BackgroundServer
from tlog_witness import TlogWitness


class Clock:
    def now_us(self) -> int:
        return 1_767_225_600_000_000


def write(data: Path, count: int, text: str = "") -> None:
    """A process that writes and ends, which signs what it wrote."""
    store = SqliteStore(data, Clock())
    store.commit(Unit(tuple(Draft("system.note", "", {"at": at, "text": text}) for at in range(count)))).result()
    store.close()


@pytest.fixture
def server() -> Iterator[tuple[TlogWitness, str]]:
    app = TlogWitness()
    with BackgroundServer(app) as running:
        yield app, f"{running.url}/prefix"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def store(data: Path, server: tuple[TlogWitness, str]) -> Iterator[SqliteStore]:
    """A ledger of 300 records whose key the witness knows."""
    write(data, 300)
    server[0].trust(DataDir(data).vkey())
    opened = SqliteStore(data, Clock(), checkpoint_every_s=0.001)
    yield opened
    opened.close()


@pytest.fixture
def witness(server: tuple[TlogWitness, str]) -> Witness:
    app, url = server
    return Witness("w1", VerifierKey.parse(app.vkey, COSIGNATURE), HttpWitness("w1", url))


def eventually(test: Any) -> None:
    deadline = time.monotonic() + 20
    while not test():
        assert time.monotonic() < deadline, "it never came true"
        threading.Event().wait(0.002)


def grow(store: SqliteStore, count: int = 5) -> int:
    """Write, and wait for the checkpoint."""
    store.commit(Unit((Draft("x", "", {}),) * count)).result()
    size = store.head().size
    eventually(lambda: Checkpoint.parse(store.checkpoint()).head.size == size)
    return size


def test_each_new_checkpoint_is_cosigned_once_with_a_proof_from_the_last(
    store: SqliteStore, server: tuple[TlogWitness, str], witness: Witness
):
    app, _ = server
    assert cosign(witness, store, store.files) == 300
    assert cosign(witness, store, store.files) == 300
    assert len(app.requests) == 1
    size = grow(store)
    assert cosign(witness, store, store.files) == size
    assert app.requests[1].startswith(b"old 300\n")
    (kept,) = store.files.cosigned()
    assert (kept.vkey, Checkpoint.parse(kept.note).head) == (app.vkey, store.head())


def test_a_witness_that_has_seen_more_than_we_remember_says_so_and_is_asked_again(
    store: SqliteStore, data: Path, server: tuple[TlogWitness, str], witness: Witness
):
    cosign(witness, store, store.files)
    for path in data.glob("witness-*"):
        path.unlink()
    size = grow(store)
    assert cosign(witness, store, store.files) == size
    assert [body.partition(b"\n")[0] for body in server[0].requests[1:]] == [b"old 0", b"old 300"]


@pytest.mark.parametrize("more", [0, 40])
def test_a_fork_is_refused_and_said(store: SqliteStore, data: Path, tmp_path: Path, witness: Witness, more: int):
    """Two copies of one ledger go on apart; the witness saw one of them."""
    shutil.copytree(data, tmp_path / "fork")
    grow(store, 40)
    cosign(witness, store, store.files)
    write(tmp_path / "fork", 20 + more, "another history")
    fork = SqliteStore(tmp_path / "fork", Clock())
    with pytest.raises(LedgerInvalid, match="the witness `w1` has seen") as caught:
        cosign(witness, fork, fork.files)
    assert "another history" in caught.value.hint
    assert fork.files.cosigned() == ()
    fork.close()


def test_a_ledger_that_was_set_back_is_said(store: SqliteStore, data: Path, tmp_path: Path, witness: Witness):
    shutil.copytree(data, tmp_path / "older")
    grow(store)
    cosign(witness, store, store.files)
    older = SqliteStore(tmp_path / "older", Clock())
    with pytest.raises(LedgerInvalid, match="has seen 305 records of this log, which now has 300"):
        cosign(witness, older, older.files)
    older.close()


def test_a_new_key_is_taken_while_the_old_one_signs_beside_it(
    store: SqliteStore, server: tuple[TlogWitness, str], witness: Witness
):
    cosign(witness, store, store.files)
    old = store.files.vkey()
    rotate(store, overlap_s=86_400, keep=False, by="alice")
    assert cosign(witness, store, store.files) == 301
    rotate(store, overlap_s=0, keep=False, by="alice")
    assert cosign(witness, store, store.files) == 302  # the first checkpoint is signed by all
    server[0].logs.clear()
    server[0].trust(store.files.vkey())
    grow(store)
    cosign(witness, store, store.files)
    key = VerifierKey.parse(server[0].vkey, COSIGNATURE)
    assert Audit(store, store.files).verify(old, [key]).require().witnessed == {"witness.example/w1": 307}


@pytest.mark.parametrize(
    ("broken", "error", "says"),
    [
        ((500, "text/plain", ""), UpstreamUnavailable, "refused with status 500"),
        ((301, "text/plain", ""), UpstreamUnavailable, "refused with status 301"),
        ((403, "text/plain", ""), UpstreamUnavailable, "refused with status 403"),
        ((404, "text/plain", ""), UpstreamUnavailable, "refused with status 404"),
        ((422, "text/plain", ""), LedgerInvalid, "another history"),
        ((409, "text/x.tlog.size", "many\n"), UpstreamUnavailable, "did not say how many"),
        ((409, "text/x.tlog.size", "0\n"), LedgerInvalid, "another history"),
        ((409, "text/x.tlog.size", "999\n"), LedgerInvalid, "has seen 999 records"),
        ((200, "text/plain", ""), UpstreamUnavailable, "without a cosignature by its key"),
        ((200, "text/plain", "hello\n"), UpstreamUnavailable, "wrong cosignature"),
    ],
)
def test_an_answer_that_is_none_keeps_nothing(
    store: SqliteStore, server: tuple[TlogWitness, str], witness: Witness, broken: Any, error: Any, says: str
):
    server[0].broken = broken
    with pytest.raises(error, match=says) as caught:
        cosign(witness, store, store.files)
    assert caught.value.hint
    assert store.files.cosigned() == ()


def test_a_cosignature_of_another_checkpoint_or_by_another_key_is_not_kept(
    store: SqliteStore, server: tuple[TlogWitness, str], witness: Witness
):
    app, other = server[0], TlogWitness(seed=3)
    note = verify_ledger.parse_note(store.checkpoint().encode())
    for line in (app.line(note._replace(body=b"x\n1\n")), other.line(note), app.line(note)[:-9] + "AAAAAAA=\n"):
        app.broken = (200, "text/plain", line)
        with pytest.raises(UpstreamUnavailable, match="cosignature"):
            cosign(witness, store, store.files)
    app.broken = (200, "text/plain", other.line(note) + app.line(note))
    assert cosign(witness, store, store.files) == 300


def test_while_a_server_runs_witnesses_are_asked_until_they_cosign(
    store: SqliteStore, server: tuple[TlogWitness, str], witness: Witness
):
    app = server[0]
    app.broken = (500, "text/plain", "")
    with Pusher([witness], store, store.files, every_s=0.001) as pusher:
        eventually(lambda: pusher.warnings() == ("witness: the witness `w1` refused with status 500",))
        app.broken = None
        eventually(lambda: bool(store.files.cosigned()))
        eventually(lambda: pusher.warnings() == ())
        size = grow(store)
        eventually(lambda: Checkpoint.parse(store.files.cosigned()[0].note).head.size == size)


def test_a_witness_that_is_not_there_is_a_warning(store: SqliteStore, witness: Witness):
    gone = Witness("w2", witness.key, HttpWitness("w2", "http://127.0.0.1:1/"))
    with pytest.raises(UpstreamUnavailable, match="the witness `w2` cannot be reached"):
        cosign(gone, store, store.files)


# --- who trusts the witness -------------------------------------------------------------------------------------


def test_verify_checks_what_was_cosigned_and_asks_for_the_witness_it_was_given(
    store: SqliteStore, server: tuple[TlogWitness, str], witness: Witness
):
    audit = Audit(store, store.files)
    (problem,) = audit.verify(witnesses=[witness.key]).problems
    assert problem == "the witness `witness.example/w1` has cosigned nothing"
    cosign(witness, store, store.files)
    grow(store)
    report = audit.verify(witnesses=[witness.key]).require()
    assert report.witnessed == {"witness.example/w1": 300}
    assert report.summary().endswith("; witness.example/w1 cosigned 300")
    other = VerifierKey.parse(TlogWitness("other.example").vkey, COSIGNATURE)
    assert audit.verify(witnesses=[other]).problems
    (kept,) = store.files.cosigned()
    store.files.write_cosigned(Cosigned(kept.vkey, kept.note.replace("\n300\n", "\n299\n")))
    assert "what a witness cosigned cannot be used" in audit.verify().problems[0]


def test_a_ledger_rewritten_with_its_own_key_does_not_fit_what_was_cosigned(
    store: SqliteStore, data: Path, tmp_path: Path, witness: Witness
):
    """Whoever holds the signing key can write another history; not one that the witness has seen."""
    cosign(witness, store, store.files)
    (kept,) = store.files.cosigned()
    rewritten = tmp_path / "rewritten"
    rewritten.mkdir()
    for name in ("signer.key", "signer.pub"):
        shutil.copy(data / name, rewritten / name)
    write(rewritten, 310, "another history")
    DataDir(rewritten).write_cosigned(kept)
    reader = SqliteStore.open_readonly(rewritten)
    (problem,) = Audit(reader, reader.files).verify().problems
    assert problem == "`witness.example/w1` cosigned 300 records that the log does not begin with"
    with pytest.raises(LedgerInvalid, match="does not extend"):
        export_tlog(reader, reader.files, tmp_path / "export")
    reader.close()


def test_an_export_brings_along_what_was_cosigned_and_every_byte_of_it_counts(
    store: SqliteStore,
    server: tuple[TlogWitness, str],
    witness: Witness,
    tmp_path: Path,
    data: Path,
    capsys: pytest.CaptureFixture[str],
):
    cosign(witness, store, store.files)
    grow(store)
    exported = export_tlog(store, store.files, tmp_path / "export")
    (tmp_path / "w.pub").write_text(server[0].vkey + "\n")
    (tmp_path / "other.pub").write_text(TlogWitness("other.example").vkey + "\n")
    shutil.copy(data / "signer.pub", tmp_path / "log.pub")

    def verify(*more: object) -> tuple[int, str]:
        command = [str(exported.path), "--key", str(tmp_path / "log.pub"), *map(str, more)]
        return verify_ledger.main(command), capsys.readouterr().out

    assert verify()[0] == 0
    code, said = verify("--witness-key", tmp_path / "w.pub")
    assert (code, "of which witness.example/w1 cosigned 300" in said) == (0, True)
    code, said = verify("--witness-key", tmp_path / "other.pub")
    assert (code, "the witness `other.example` has cosigned nothing" in said) == (6, True)
    files = sorted((exported.path / "witness").iterdir())
    assert len(files) == 2
    for path in files:
        whole = path.read_bytes()
        for at in range(len(whole)):
            path.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << at % 8]) + whole[at + 1 :])
            assert verify()[0] == 6, (path, at)
        path.unlink()
        assert verify()[0] == 6
        path.write_bytes(whole)
    assert verify()[0] == 0

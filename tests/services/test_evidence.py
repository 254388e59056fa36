"""Evidence from a real store, checked by readers that are not ours."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from tlog_scales.backend import LocalBackend
from tlog_scales.reader import TilesReader
from tlog_scales.signing import Vkey

from checkrein.ledger import Draft, Head, Record
from checkrein.ledger.checkpoint import Signer, verify
from checkrein.ledger.rotation import Keys
from checkrein.ledger.tree import leaf_hash
from checkrein.model import BadRequest, LedgerInvalid, NotFound
from checkrein.ports import RecordQuery, Unit
from checkrein.services.evidence import export_tlog, growth, key_file, prove
from checkrein.services.exports import export
from checkrein.storage.files import DataDir
from checkrein.storage.sqlite import SqliteStore
from checkrein.verifier import verify_ledger

COUNT = 600


class Clock:
    def now_us(self) -> int:
        return 1_767_225_600_000_000


def write(store: SqliteStore, count: int) -> None:
    store.commit(Unit(tuple(Draft("system.note", "", {"at": at}) for at in range(count)))).result()


def signed_head(data: DataDir, name: str) -> Head:
    return verify((data.path / name).read_text(), data.vkey())


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> DataDir:
    """A ledger of 600 records, signed to its end; `early` is its checkpoint at 100."""
    files = DataDir(tmp_path_factory.mktemp("ledger") / "data")
    for count, copy in ((100, "early"), (COUNT - 100, "late")):
        store = SqliteStore(files, Clock(), origin="example.com/log")
        write(store, count)
        store.close()
        (files.path / copy).write_text(files.checkpoint())
    return files


@pytest.fixture
def store(data: DataDir) -> Iterator[SqliteStore]:
    opened = SqliteStore(data, Clock())
    yield opened
    opened.close()


class Changed:
    """The same store after somebody changed record 300."""

    def __init__(self, store: SqliteStore) -> None:
        self._store = store
        self.snapshot = store.snapshot

    def record(self, id: str) -> Record | None:
        return self._store.record(id)

    def records(self, query: RecordQuery) -> Iterator[Record]:
        for record in self._store.records(query):
            at = record.seq == 300
            yield msgspec.structs.replace(record, data=record.data.replace(b'"at":', b'"AT":')) if at else record


class Beside:
    """The files beside the records, some of them other than they are."""

    def __init__(self, data: DataDir, *, checkpoint: str | None = None, leaves: list[bytes] | None = None) -> None:
        self._data = data
        self._checkpoint = checkpoint
        self._leaves = leaves
        self.vkey, self.cosigned = data.vkey, data.cosigned

    def checkpoint(self) -> str:
        return self._data.checkpoint() if self._checkpoint is None else self._checkpoint

    def leaves(self) -> Iterator[bytes]:
        return self._data.leaves() if self._leaves is None else iter(self._leaves)


def test_an_export_holds_every_record_and_an_independent_reader_agrees(
    store: SqliteStore, data: DataDir, tmp_path: Path
):
    exported = export_tlog(store, data, tmp_path / "export")
    assert exported.head == store.head()
    assert exported.key.read_text() == f"{data.vkey()}\n"
    reader = TilesReader(LocalBackend(exported.path))
    checkpoint = reader.get_checkpoint()
    checkpoint.verify(Vkey.from_string(data.vkey()))
    assert (checkpoint.size, checkpoint.root_hash) == (COUNT, reader.calculate_root_hash())
    stored = [record.data for record in store.records(RecordQuery())]
    assert [reader.get_entry(at) for at in range(COUNT)] == stored
    reader.get_inclusion_proof(17, COUNT).check(leaf_hash(stored[17]), checkpoint.root_hash)
    early = signed_head(data, "early")
    reader.get_consistency_proof(100, COUNT).check(early.root, checkpoint.root_hash)


def test_an_export_covers_what_is_signed_and_no_more(store: SqliteStore, data: DataDir, tmp_path: Path):
    early = Beside(data, checkpoint=(data.path / "early").read_text())
    exported = export_tlog(store, early, tmp_path / "export")
    assert exported.head.size == 100
    assert verify_ledger.main([str(exported.path), "--key", str(data.path / "signer.pub")]) == 0


def test_an_export_of_an_empty_ledger_verifies(tmp_path: Path):
    files = DataDir(tmp_path / "data")
    opened = SqliteStore(files, Clock())
    exported = export_tlog(opened, files, tmp_path / "export")
    opened.close()
    assert sorted(path.name for path in exported.path.iterdir()) == ["checkpoint", exported.key.name]
    assert verify_ledger.main([str(exported.path), "--key", str(files.path / "signer.pub")]) == 0


def test_records_that_are_not_those_that_were_signed_are_not_exported(
    store: SqliteStore, data: DataDir, tmp_path: Path
):
    with pytest.raises(LedgerInvalid, match="not those that were signed"):
        export_tlog(Changed(store), data, tmp_path / "export")
    assert list(tmp_path.iterdir()) == []


def test_without_a_checkpoint_there_is_no_evidence(store: SqliteStore, data: DataDir, tmp_path: Path):
    unsigned = Beside(data, checkpoint="")
    with pytest.raises(LedgerInvalid, match="no signed checkpoint"):
        export_tlog(store, unsigned, tmp_path / "export")
    with pytest.raises(LedgerInvalid, match="no signed checkpoint"):
        prove(store, unsigned, 1)


def test_an_export_never_touches_what_is_there(store: SqliteStore, data: DataDir, tmp_path: Path):
    taken, file, link = tmp_path / "taken", tmp_path / "file", tmp_path / "link"
    taken.mkdir()
    (taken / "mine").write_text("mine")
    file.write_text("mine")
    link.symlink_to(tmp_path / "elsewhere")
    for target in (taken, file, link):
        with pytest.raises(BadRequest, match="something in"):
            export_tlog(store, data, target)
    assert (taken / "mine").read_text() == file.read_text() == "mine"


def test_an_empty_directory_is_filled(store: SqliteStore, data: DataDir, tmp_path: Path):
    (tmp_path / "empty").mkdir()
    assert export_tlog(store, data, tmp_path / "empty").head.size == COUNT


def test_a_directory_that_cannot_be_made_is_said(store: SqliteStore, data: DataDir, tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(BadRequest, match="cannot be written"):
        export_tlog(store, data, tmp_path / "file" / "export")


@pytest.mark.parametrize(
    ("origin", "name"),
    [("example.com/log", "example.com-log.pub"), ("../../etc", "..-..-etc.pub"), ("x" * 900, "x" * 200 + ".pub")],
)
def test_the_key_file_is_named_after_the_log_and_stays_in_the_export(origin: str, name: str):
    assert key_file(origin) == name


@pytest.mark.parametrize("seq", [0, 1, 255, 256, COUNT - 1])
def test_a_record_is_proved_by_number_or_id(store: SqliteStore, data: DataDir, seq: int):
    record, proof = prove(store, data, seq)
    assert (record.seq, proof.index) == (seq, seq)
    assert proof.verify(data.vkey(), record.data) == store.head()
    assert prove(store, data, record.id) == (record, proof)


def test_a_proof_comes_from_the_records_when_the_hashes_beside_them_are_wrong_or_gone(
    store: SqliteStore, data: DataDir
):
    wanted = prove(store, data, 17)
    assert prove(store, Beside(data, leaves=[]), 17) == wanted
    assert prove(store, Beside(data, leaves=[bytes(32)] * COUNT), 17) == wanted


def test_a_record_that_was_changed_has_no_proof(store: SqliteStore, data: DataDir):
    with pytest.raises(LedgerInvalid, match="does not show record 300"):
        prove(Changed(store), data, 300)


def test_a_record_that_is_not_there_or_not_signed_yet_has_no_proof(store: SqliteStore, data: DataDir):
    with pytest.raises(NotFound, match="no record"):
        prove(store, data, COUNT)
    with pytest.raises(NotFound, match="not covered by a checkpoint yet"):
        prove(store, Beside(data, checkpoint=(data.path / "early").read_text()), 100)


def test_two_checkpoints_of_a_log_that_only_grew_are_consistent_in_either_order(store: SqliteStore, data: DataDir):
    early, late = (data.path / "early").read_text(), (data.path / "late").read_text()
    made = growth(store, data, early, late)
    assert made.verify(Keys.of(data.vkey()), early) == (signed_head(data, "early"), store.head())
    assert growth(store, data, late, early) == made
    assert growth(store, data, early) == made
    assert growth(store, data, late, late).path == ()


def test_checkpoints_of_two_histories_are_not(store: SqliteStore, data: DataDir):
    secret = (data.path / "signer.key").read_text()
    forked = Signer.from_secret(secret).sign(Head(100, leaf_hash(b"another history")))
    with pytest.raises(LedgerInvalid, match="does not extend"):
        growth(store, data, forked)


def test_a_checkpoint_beyond_the_store_is_not_proved(store: SqliteStore, data: DataDir):
    secret = (data.path / "signer.key").read_text()
    ahead = Signer.from_secret(secret).sign(Head(COUNT + 1, leaf_hash(b"lost")))
    with pytest.raises(LedgerInvalid, match="fewer than"):
        growth(store, data, ahead)


def test_a_checkpoint_of_another_key_is_not_looked_at(store: SqliteStore, data: DataDir):
    with pytest.raises(LedgerInvalid, match="not signed by the known key"):
        growth(store, data, Signer(bytes(32), "example.com/log").sign(Head(1, bytes(32))))


# --- while others write -----------------------------------------------------------------------------------------


class Busy:
    """The same store, written to by somebody between any two records that are read."""

    def __init__(self, store: SqliteStore) -> None:
        self._store = store
        self.record, self.snapshot, self.head = store.record, store.snapshot, store.head

    def records(self, query: RecordQuery) -> Iterator[Record]:
        for at, record in enumerate(self._store.records(query)):
            if at % 50 == 0:
                write(self._store, 3)
            yield record


@pytest.fixture
def busy(tmp_path: Path) -> Iterator[SqliteStore]:
    """600 signed records in a store that signs all the time."""
    store = SqliteStore(tmp_path / "busy", Clock(), checkpoint_every_s=0.001)
    write(store, COUNT)
    store.close()
    store = SqliteStore(tmp_path / "busy", Clock(), checkpoint_every_s=0.001)
    yield store
    store.close()


def test_an_export_of_tiles_holds_what_was_signed_when_it_began(busy: SqliteStore, tmp_path: Path):
    told: list[tuple[int, int]] = []
    exported = export_tlog(Busy(busy), busy.files, tmp_path / "export", told=lambda *far: told.append(far))
    assert exported.head.size == COUNT < busy.head().size
    assert told[-1] == (COUNT, COUNT)
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert verify_ledger.main([str(exported.path), "--key", str(busy.files.path / "signer.pub")]) == 0


@pytest.mark.parametrize("query", [RecordQuery(), RecordQuery(kinds=("system.note", "x")), RecordQuery(kinds=("x",))])
def test_an_export_of_lines_holds_the_records_there_were_when_it_began(busy: SqliteStore, query: RecordQuery):
    out = io.BytesIO()
    export(Busy(busy), "jsonl", query, out, version="9")
    lines = out.getvalue().splitlines()
    assert len(lines) == (COUNT if query.kinds != ("x",) else 0)
    stored = [record.data for record in busy.records(RecordQuery())]
    assert lines == stored[: len(lines)]
    assert len(stored) > COUNT or not lines

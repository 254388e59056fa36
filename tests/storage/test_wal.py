"""The write-ahead log is a file of its own: what happens when somebody replaces it alone.

While a store is open its connection holds the log it opened: a write would succeed in a file that nobody finds
again, so it is refused. Between runs the log is as good as the database: what it takes away or adds no longer fits
the checkpoint, as far as that reaches.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from checkrein.ledger.verify import Report
from checkrein.model import LedgerInvalid, StoreUnavailable
from checkrein.services.audit import Audit
from checkrein.storage.sqlite import SqliteStore

Open = Callable[..., SqliteStore]
Made = Any


def audit(data: Path) -> Report:
    reader = SqliteStore.open_readonly(data)
    try:
        return Audit(reader, reader.files).verify()
    finally:
        reader.close()


def unlink(log: Path, older: Path) -> None:
    log.unlink()


def set_back(log: Path, older: Path) -> None:
    shutil.copy(older, log.with_name("draft"))
    log.with_name("draft").replace(log)


def fill_with_noise(log: Path, older: Path) -> None:
    log.with_name("draft").write_bytes(os.urandom(50_000))
    log.with_name("draft").replace(log)


def cut_off(log: Path, older: Path) -> None:
    os.truncate(log, 4000)


REPLACED = [unlink, set_back, fill_with_noise]
Change = Callable[[Path, Path], None]


@pytest.mark.parametrize("change", REPLACED)
def test_while_a_store_is_open_nothing_is_acknowledged_into_a_log_that_is_gone(
    change: Change, open_sqlite: Open, made: Made, data: Path, tmp_path: Path
) -> None:
    store = open_sqlite()
    store.commit(made.unit("x")).result()
    log = data / "ledger.db-wal"
    shutil.copy(log, tmp_path / "older")
    store.commit(made.unit("x", "y")).result()
    change(log, tmp_path / "older")
    with pytest.raises(StoreUnavailable, match="moved, deleted or replaced") as caught:
        store.commit(made.unit("z")).result()
    assert "start again" in caught.value.hint
    assert not store.writable()
    store.close()
    again = open_sqlite()
    again.commit(made.unit("z")).result()
    again.close()
    report = audit(data).require()
    assert report.records >= 4  # what was acknowledged, and after the restart one more


def test_a_log_that_is_put_back_is_written_to_again(open_sqlite: Open, made: Made, data: Path, tmp_path: Path) -> None:
    store = open_sqlite()
    store.commit(made.unit("x")).result()
    (data / "ledger.db-wal").rename(tmp_path / "away")
    with pytest.raises(StoreUnavailable):
        store.commit(made.unit("x")).result()
    (tmp_path / "away").rename(data / "ledger.db-wal")
    store.commit(made.unit("x")).result()
    assert store.writable()


def test_a_log_that_vanishes_while_a_commit_runs_keeps_that_from_being_acknowledged(
    open_sqlite: Open, made: Made, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_sqlite()
    store.commit(made.unit("x")).result()
    writer = store._writer
    transact = writer._transact

    def vanish(jobs: Any) -> Any:
        done = transact(jobs)
        (data / "ledger.db-wal").unlink()
        return done

    monkeypatch.setattr(writer, "_transact", vanish)
    with pytest.raises(StoreUnavailable, match="moved, deleted or replaced"):
        store.commit(made.unit("y")).result()


@pytest.fixture
def killed(open_sqlite: Open, made: Made, data: Path, tmp_path: Path) -> Path:
    """What a process left that was killed: three records in the log alone, all under the checkpoint."""
    store = open_sqlite()
    store.commit(made.unit("x")).result()
    shutil.copy(data / "ledger.db-wal", tmp_path / "older")
    store.commit(made.unit("x", "y")).result()
    SqliteStore(data, store._writer._stamper._clock).close()  # opening signs what is there
    for name in ("looked at", "killed"):
        shutil.copytree(data, tmp_path / name)
    assert audit(tmp_path / "looked at").require().checkpoint_size == 3  # which copies the log into the database
    return tmp_path / "killed"


@pytest.mark.parametrize("change", [*REPLACED, cut_off])
def test_between_runs_a_log_that_was_replaced_no_longer_fits_the_checkpoint(
    change: Change, killed: Path, open_sqlite: Open, tmp_path: Path
) -> None:
    change(killed / "ledger.db-wal", tmp_path / "older")
    left = audit(killed)
    assert left.first_bad == left.records < 3
    with pytest.raises(LedgerInvalid, match=r"the checkpoint covers 3 records but [01] are stored"):
        open_sqlite(killed)


def test_a_log_with_other_records_no_longer_fits_the_checkpoint(
    killed: Path, open_sqlite: Open, made: Made, tmp_path: Path
) -> None:
    """A log that another history of the same database wrote is sound to SQLite."""
    other = tmp_path / "other"
    shutil.copytree(killed, other)
    (other / "ledger.db-wal").unlink()
    (other / "checkpoint").unlink()
    store = open_sqlite(other)
    store.commit(made.unit("p", "q", "r", "s")).result()
    shutil.copy(other / "ledger.db-wal", killed / "ledger.db-wal")
    store.close()
    assert audit(killed).problems
    with pytest.raises(LedgerInvalid, match="do not extend the checkpoint"):
        open_sqlite(killed)

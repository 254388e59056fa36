"""The ledger and the payloads of a deployment, without its policies: they may be broken."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

from checkrein import config as configuration
from checkrein.compose.facts import ConfiguredFacts, SystemClock
from checkrein.config import Config
from checkrein.ledger.checkpoint import VerifierKey
from checkrein.ledger.verify import Report
from checkrein.model import NotFound
from checkrein.services.audit import Audit
from checkrein.services.ids import noise
from checkrein.services.privacy import Privacy
from checkrein.storage.files import DataDir
from checkrein.storage.scrub import scrub
from checkrein.storage.sqlite import SqliteStore
from checkrein.storage.vault import Vault

#: where the store lives below the governance folder, unless `--data` says otherwise
DATA = ".checkrein"


def verify_ledger(
    folder: Path | str,
    *,
    data: Path | str | None = None,
    vkey: str = "",
    witnesses: Sequence[VerifierKey] = (),
    indexes: bool = False,
) -> Report:
    """Walk the whole ledger without writing to it, also one that refuses to open. `vkey` is one's own copy.

    Each of the `witnesses` must have cosigned a beginning of it. With `indexes` what lists go by is checked too.
    """
    directory = DataDir(Path(data) if data else Path(folder) / DATA)
    if not directory.database.exists():
        raise NotFound(
            f"there is no ledger in `{directory.path}`",
            hint="name the folder with `--dir`, or the store with `--data`",
        )
    reader = SqliteStore.open_readonly(directory)
    try:
        report = Audit(reader, directory).verify(vkey, witnesses)
        return report.with_problems(reader.index_problems()) if indexes else report
    finally:
        reader.close()


@contextmanager
def open_payloads(folder: Path | str, *, data: Path | str | None = None) -> Iterator[Privacy]:
    """Payloads and the ledger beside them, also while the policies do not load: erasure must not wait for those."""
    folder = Path(folder)
    config = configuration.load(folder).config
    directory = DataDir(Path(data) if data else folder / DATA)
    if not directory.database.exists():
        raise NotFound(
            f"there is no ledger in `{directory.path}`",
            hint="name the folder with `--dir`, or the store with `--data`",
        )
    with ExitStack() as opened:
        store = opened.enter_context(closing(SqliteStore(directory, SystemClock(), randomness=noise)))
        vault = opened.enter_context(closing(Vault(directory, randomness=noise)))
        yield privacy(store, vault, directory, config)


def privacy(store: SqliteStore, vault: Vault, data: DataDir, config: Config) -> Privacy:
    return Privacy(
        store,
        vault,
        SystemClock(),
        ConfiguredFacts(config),
        key=data.commitment_key(),
        retention=config.retention,
        scrub=lambda: scrub(data.database),
    )

"""The default store: one SQLite file in the data directory, shared by the processes of one host.

Start here: `SqliteStore` puts together the `writer` (group commit), the `reader` (its own connections), the
`keeper` (checkpoints), the `owners` (which process is alive) and the `standing` rows (read without SQL).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

from checkrein.ledger import Record
from checkrein.model import CheckreinError, StoreUnavailable
from checkrein.ports import Clock, Counted, Handover, RecordQuery, Row, Unit
from checkrein.storage import shapes
from checkrein.storage.database import prepare
from checkrein.storage.files import DataDir
from checkrein.storage.keeper import Keeper
from checkrein.storage.owners import Owner, alive
from checkrein.storage.reader import SqliteReader
from checkrein.storage.standing import ROOMS, Standing
from checkrein.storage.units import Randomness, Stamper, Written
from checkrein.storage.writer import Writer

#: how long `writable` waits for its probe
_PROBE_S = 1.0
#: shapes that are counted in one go
_SHAPES = 1000
#: how long opening waits for another process that is opening the same store
_OPEN_S = 10.0


class SqliteStore(SqliteReader):
    """See `ports.Store`. Opening makes what is missing in `data`, and checks that the ledger extends its checkpoint.

    `busy_s` is how long another process may hold the file before a write fails, `queue_limit` how many units
    may wait. Raises `LedgerInvalid` if the ledger was cut or rewritten, `ConfigError` if the directory cannot
    be used.
    """

    def __init__(
        self,
        data: DataDir | Path,
        clock: Clock,
        *,
        origin: str = "",
        randomness: Randomness = os.urandom,
        busy_s: float = 2.0,
        queue_limit: int = 8192,
        checkpoint_every_s: float = 1.0,
        checkpoint_every: int = 1000,
    ) -> None:
        files = data if isinstance(data, DataDir) else DataDir(data)
        files.create()
        try:
            with files.locked("open.lock", wait_s=_OPEN_S) as mine:
                if not mine:
                    raise StoreUnavailable(f"another process is opening `{files.path}`", hint="try again")
                prepare(files.database)
                self._standing = Standing(files.standing)
            self._keeper = Keeper(
                files, clock, origin=origin, every_s=checkpoint_every_s, every_records=checkpoint_every
            )
            self._keeper.start()
            self._owner = Owner(files.owners)
        except OSError as error:
            raise StoreUnavailable(
                f"the store in `{files.path}` cannot be opened: {(error.strerror or '').lower()}",
                hint="check the permissions of the directory and the space on its disk",
            ) from error
        super().__init__(files)
        self._writer = Writer(
            files.database,
            Stamper(clock, randomness),
            busy_s=busy_s,
            queue_limit=queue_limit,
            on_commit=self._keeper.advance,
            before_commit=self._standing.writing,
        )

    @classmethod
    def open_readonly(cls, data: DataDir | Path) -> SqliteReader:
        """The store for reading and verifying only; also opens one that `SqliteStore` refuses to start on."""
        return SqliteReader(data if isinstance(data, DataDir) else DataDir(data))

    def commit(self, unit: Unit) -> Written:
        """See `ports.Store.commit`."""
        return self._writer.submit(unit)

    def row(self, room: str, id: str) -> Row | None:
        """See `ports.Store.row`."""
        if room not in ROOMS:
            return super().row(room, id)
        return self._standing.read((room, id), partial(super().row, room, id))

    def rows(self, room: str, *, state: str = "", lookup: str = "", after: str = "", limit: int = 100) -> list[Row]:
        """See `ports.Store.rows`."""
        look = partial(super().rows, room, state=state, lookup=lookup, after=after, limit=limit)
        if room not in ROOMS or not lookup:
            return look()
        return list(self._standing.read((room, state, lookup, after, limit), look))

    def counts(self, query: RecordQuery) -> Iterator[Counted]:
        """See `ports.Census`."""
        low, high = self._bounds(query)
        after = 0
        while True:
            with self._connection() as connection:
                page = shapes.counted(connection, low, high, after, _SHAPES)
            yield from (Counted(*counted) for _, *counted in page if counted[-1])
            if len(page) < _SHAPES:
                return
            after = page[-1][0]

    def sample(self, kind: str, most: int, query: RecordQuery) -> list[Record]:
        """See `ports.Census`."""
        low, high = self._bounds(query)
        with self._connection() as connection:
            seqs = shapes.drawn(connection, kind, low, high, most)
        return self._numbered(seqs)

    def writable(self) -> bool:
        """Whether the last write went through, or a probe does now."""
        if self._writer.healthy:
            return True
        try:
            self.commit(Unit()).result(timeout=_PROBE_S)
        except (CheckreinError, TimeoutError):
            return False
        return True

    def problems(self) -> tuple[str, ...]:
        """What an operator must know although writes go through: the log no longer extends its checkpoint."""
        return self._keeper.problems()

    def rotating(self, overlap_us: int, *, keep: bool = False) -> AbstractContextManager[Handover]:
        """See `ports.Rotating`."""
        return self._keeper.rotating(overlap_us, keep=keep)

    def owner_token(self) -> str:
        """Names this process in `execution.started`; see `owners`."""
        return self._owner.token

    def owner_alive(self, token: str) -> bool:
        """Whether the process with this token still runs."""
        return token == self._owner.token or alive(self.files.owners, token)

    def close(self) -> None:
        """Write what is queued, sign a checkpoint, let go of the files. A second call does nothing."""
        self._writer.close()
        self._standing.close()
        self._keeper.close()
        self._owner.close()
        super().close()

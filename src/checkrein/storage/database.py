"""The SQLite file: its tables, how it is opened, and what its errors mean to people.

WAL with synchronous FULL: a commit is on disk before it returns. Empty facets are NULL and the indexes leave
them out. `spine` holds the root of the largest perfect subtree that ends at every 256th record, so that the
tree at any size is known from a few rows; it is only a memory aid, checked against signed roots and made anew
when it is wrong. `running` are the executions that have a start and no end. What finds records by several
filters at once stands in `shapes`.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import apsw

from checkrein.ledger.rotation import KIND
from checkrein.ledger.tree import Frontier
from checkrein.model import CheckreinError, ConfigError, LedgerInvalid, StoreUnavailable
from checkrein.storage import queues, shapes

SCHEMA_VERSION = 3
#: "CHKR", so that another program's database is never mistaken for a ledger
_APPLICATION = 0x43484B52
SPINE_STEP = 256

_SCHEMA = """
CREATE TABLE record (
    seq INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    kind TEXT NOT NULL,
    trace_id TEXT,
    ts_us INTEGER NOT NULL,
    user TEXT, agent TEXT, action TEXT, outcome TEXT, risk TEXT, approval TEXT, evaluation TEXT,
    leaf BLOB NOT NULL,
    data BLOB NOT NULL
) STRICT; CREATE INDEX record_trace ON record (trace_id) WHERE trace_id IS NOT NULL; CREATE INDEX record_approval
ON record (approval) WHERE approval IS NOT NULL; CREATE TRIGGER record_stays BEFORE UPDATE ON
record BEGIN SELECT RAISE(ABORT, 'a record never changes'); END; CREATE TRIGGER record_remains BEFORE DELETE
ON record BEGIN SELECT RAISE(ABORT, 'a record never goes'); END; CREATE TABLE head (one INTEGER PRIMARY KEY
CHECK (one = 1), frontier BLOB NOT NULL, ts_us INTEGER NOT NULL) STRICT; CREATE TABLE spine (size INTEGER
PRIMARY KEY, node BLOB NOT NULL) STRICT; CREATE TABLE running (evaluation TEXT PRIMARY KEY, seq INTEGER NOT
NULL) STRICT, WITHOUT ROWID; CREATE TABLE "row" (
    room TEXT NOT NULL, id TEXT NOT NULL, version INTEGER NOT NULL,
    state TEXT NOT NULL, lookup TEXT NOT NULL, body BLOB NOT NULL,
    UNIQUE (room, id)
) STRICT;
CREATE INDEX row_lookup ON "row" (room, lookup, id);
CREATE INDEX row_state ON "row" (room, state, id);
"""


def prepare(path: Path) -> None:
    """Make the database file (0600) and its tables if they are not there. One process at a time.

    Raises `ConfigError` for a file of another program or a newer version, `LedgerInvalid` for a damaged one,
    `OSError` for one that cannot be made.
    """
    try:
        # only a file that is not there yet: closing a descriptor of one that is in use would drop SQLite's locks on it
        with contextlib.suppress(FileExistsError):
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        connection = connect(path)
    except apsw.Error as error:
        raise trouble(error, path) from error
    try:
        try:
            _make_tables(connection, path)
        finally:
            connection.close()
    except apsw.Error as error:
        raise trouble(error, path) from error


def _make_tables(connection: apsw.Connection, path: Path) -> None:
    check_version(connection, path)
    connection.pragma("journal_mode", "wal")
    with connection:
        version = connection.pragma("user_version")
        if version == 0:
            connection.execute(_SCHEMA)
            connection.execute("INSERT INTO head VALUES (1, ?, 0)", (Frontier().to_bytes(),))
            connection.pragma("application_id", _APPLICATION)
        if version < shapes.SINCE_VERSION:
            shapes.prepare(connection)
        if version < SCHEMA_VERSION:
            queues.prepare(connection)
            connection.pragma("user_version", SCHEMA_VERSION)


def schema(connection: apsw.Connection) -> dict[str, str]:
    """The statement behind each table, index and trigger, by its name; how it is spaced does not count."""
    found = connection.execute("SELECT name, sql FROM sqlite_schema WHERE sql IS NOT NULL")
    return {str(name): " ".join(str(sql).split()) for name, sql in found}


def expected_schema() -> dict[str, str]:
    """`schema` of a new file."""
    connection = apsw.Connection(":memory:")
    try:
        connection.execute(_SCHEMA)
        shapes.prepare(connection)
        queues.prepare(connection)
        return schema(connection)
    finally:
        connection.close()


def check_version(connection: apsw.Connection, path: Path) -> None:
    """Raise `ConfigError` unless this is a new file or a ledger of a version known here."""
    version, application = connection.pragma("user_version"), connection.pragma("application_id")
    tables = connection.execute("SELECT count(*) FROM sqlite_schema").get
    if application != _APPLICATION and (version or application or tables):
        raise ConfigError(f"`{path}` is not a checkrein ledger", hint="choose another directory with `--data`")
    if version > SCHEMA_VERSION:
        raise ConfigError(
            f"`{path}` was written by a newer checkrein (schema {version}, this one knows {SCHEMA_VERSION})",
            hint="upgrade checkrein, or choose another directory with `--data`",
        )


def connect(path: Path, *, busy_s: float = 2.0, reads_only: bool = False) -> apsw.Connection:
    """A connection on an existing file. Raises `apsw.Error`."""
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)
    try:
        connection.set_busy_timeout(int(busy_s * 1000))
        connection.pragma("synchronous", "FULL")
        connection.pragma("fullfsync", True)
        connection.pragma("checkpoint_fullfsync", True)
        connection.pragma("journal_size_limit", 64 * 1024 * 1024)
        connection.pragma("trusted_schema", False)
        connection.pragma("secure_delete", True)  # a row that is overwritten, such as an erased approval, is wiped
        if reads_only:
            connection.pragma("query_only", True)
    except apsw.Error:
        connection.close()
        raise
    return connection


def settle(connection: apsw.Connection) -> None:
    """Write everything anew that the WAL holds, sync it, and start an empty WAL; raises `apsw.Error` if it cannot.

    After a failed sync the system may believe that pages are on the disk which are not, and no later sync
    writes them. Appending to such a WAL would lose what follows together with them.
    """
    busy = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").get[0]
    if busy:
        raise apsw.BusyError("somebody reads")


def trouble(error: apsw.Error, path: Path) -> CheckreinError:
    """What an error of SQLite means to the person who must act."""
    if isinstance(error, apsw.FullError):
        return StoreUnavailable("the disk is full", hint=f"free space for `{path.parent}`; no restart is needed")
    if isinstance(error, apsw.BusyError | apsw.LockedError):
        return StoreUnavailable("another process holds the store", hint="try again; see which process uses it")
    if isinstance(error, apsw.CorruptError | apsw.NotADBError):
        return LedgerInvalid(
            f"the database `{path}` is damaged: {error}", hint="keep a copy, then restore it from a backup"
        )
    if isinstance(error, apsw.ReadOnlyError | apsw.CantOpenError | apsw.PermissionsError | apsw.AuthError):
        return StoreUnavailable(f"`{path}` cannot be opened or written", hint="check its permissions and its disk")
    return StoreUnavailable(f"the store failed: {str(error).lower()}", hint=f"check the disk of `{path}`")


def read_frontier(connection: apsw.Connection) -> tuple[Frontier, int]:
    """The tree over every record, and the time of the last one (microseconds)."""
    row = connection.execute("SELECT frontier, ts_us FROM head WHERE one = 1").fetchone()
    if row is None:
        raise LedgerInvalid("the stored head is missing", hint="run `checkrein audit verify`")
    return Frontier.from_bytes(row[0]), row[1]


def grown(frontier: Frontier, leaves: Sequence[bytes]) -> tuple[Frontier, list[tuple[int, bytes]]]:
    """The tree with these leaf hashes appended, and the rows of `spine` that become due."""
    spine = []
    for at in _runs(frontier.size, len(leaves)):
        frontier = frontier.extend(leaves[at])
        if frontier.size % SPINE_STEP == 0:
            spine.append((frontier.size, frontier.nodes[-1]))
    return frontier, spine


def _runs(size: int, count: int) -> Iterator[slice]:
    """Slices of `count` new leaves that end where a row of `spine` is due."""
    start, end = 0, SPINE_STEP - size % SPINE_STEP
    while start < count:
        yield slice(start, min(end, count))
        start, end = end, end + SPINE_STEP


def leaves(connection: apsw.Connection, start: int, end: int) -> Iterator[bytes]:
    """The stored leaf hashes of the records `start` to `end` - 1."""
    sql = "SELECT leaf FROM record WHERE seq >= ? AND seq < ? ORDER BY seq"
    return (row[0] for row in connection.execute(sql, (start, end)))


def rotated(connection: apsw.Connection) -> list[bytes]:
    """The bytes of the records that rotate the ledger's key, in order."""
    sql = "SELECT data FROM record WHERE {}kind = ? AND typeof(data) = 'blob' ORDER BY seq"
    try:
        return [found[0] for found in connection.execute(sql.format(shapes.OF_KIND), (KIND, KIND))]
    except apsw.SQLError:  # a file of the version before, or one whose memory aids are ruined
        return [found[0] for found in connection.execute(sql.format(""), (KIND,))]


def frontier_at(connection: apsw.Connection, size: int) -> Frontier | None:
    """The tree over the first `size` records from the spine and at most 255 leaf hashes; None if rows are missing."""
    nodes: list[bytes] = []
    start = 0
    while size - start >= SPINE_STEP:
        start += 1 << ((size - start).bit_length() - 1)
        row = connection.execute("SELECT node FROM spine WHERE size = ?", (start,)).fetchone()
        if row is None:
            return None
        nodes.append(row[0])
    frontier = Frontier(start, tuple(nodes)).extend(leaves(connection, start, size))
    return frontier if frontier.size == size else None

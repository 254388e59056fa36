"""The payload database: its tables, and what is done to them inside a transaction.

Apart from the ledger's, so that erasure never touches the log. Subjects are keyed commitments here. A destroyed
key is overwritten in its place and its row stays: a row that never moves leaves no copy behind in a page, and
`secure_delete` wipes what is removed. A data key is renewed long before random nonces could meet (2^32 uses).
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import apsw

from checkrein.model import ConfigError, LedgerInvalid, StoreUnavailable
from checkrein.model.retention import Retention
from checkrein.ports import Held, Payload, SubjectState, Unproved
from checkrein.storage.database import connect, trouble
from checkrein.storage.sealing import KEY_BYTES, NONCE_BYTES, DataKey, MasterKeys, Unopened
from checkrein.storage.units import Randomness

SCHEMA_VERSION = 1
#: "CHKP", so that another program's database is never mistaken for ours
_APPLICATION = 0x43484B50
#: uses of one data key at the most; counted as rows of the table, which are never fewer
_USES = 2**31
_CACHED_KEYS = 4096
_PROOF = b"checkrein.payload.proof.v1"

_SCHEMA = """
CREATE TABLE subject (
    id INTEGER PRIMARY KEY, ref TEXT NOT NULL UNIQUE,
    held INTEGER NOT NULL DEFAULT 0, erased_us INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE TABLE data_key (
    id INTEGER PRIMARY KEY, subject INTEGER NOT NULL, since INTEGER NOT NULL,
    live INTEGER NOT NULL, wrapped BLOB NOT NULL
) STRICT;
CREATE INDEX data_key_subject ON data_key (subject);
CREATE TABLE payload (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE, subject INTEGER NOT NULL, data_key INTEGER NOT NULL,
    trace_id TEXT NOT NULL, created_us INTEGER NOT NULL, retention TEXT NOT NULL,
    sealed BLOB NOT NULL
) STRICT;
CREATE INDEX payload_subject ON payload (subject);
CREATE INDEX payload_age ON payload (retention, created_us);
CREATE TABLE state (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    epoch INTEGER NOT NULL, proved INTEGER NOT NULL, proof BLOB NOT NULL
) STRICT;
"""


def prepare(path: Path, keys: MasterKeys, randomness: Randomness) -> None:
    """Make the database (0600) and its tables if they are not there. One process at a time.

    Raises `ConfigError` for a file of another program or a newer version, or for the wrong master key.
    """
    try:
        with contextlib.suppress(FileExistsError):
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        connection = connect(path, busy_s=0)
    except apsw.Error as error:
        raise trouble(error, path) from error
    try:
        _make_tables(connection, path, keys, randomness)
    except apsw.Error as error:
        raise trouble(error, path) from error
    finally:
        connection.close()


def is_made(path: Path) -> bool:
    """Whether there are payloads, or could be, that a master key must open."""
    return path.exists() and path.stat().st_size > 0


def _make_tables(connection: apsw.Connection, path: Path, keys: MasterKeys, randomness: Randomness) -> None:
    connection.set_busy_timeout(10_000)
    version, application = connection.pragma("user_version"), connection.pragma("application_id")
    tables = connection.execute("SELECT count(*) FROM sqlite_schema").get
    if application != _APPLICATION and (version or application or tables):
        raise ConfigError(f"`{path}` is not a payload database", hint="choose another directory with `--data`")
    if version > SCHEMA_VERSION:
        raise ConfigError(
            f"`{path}` was written by a newer checkrein (schema {version}, this one knows {SCHEMA_VERSION})",
            hint="upgrade checkrein, or choose another directory with `--data`",
        )
    if not version:
        connection.pragma("page_size", 4096)  # a payload alone touches five pages
        connection.pragma("auto_vacuum", 2)
        connection.pragma("journal_mode", "wal")
        proof = keys.wrap(randomness(KEY_BYTES), _PROOF, randomness(NONCE_BYTES))
        with connection:
            connection.execute(_SCHEMA)
            connection.execute("INSERT INTO state VALUES (1, 0, 0, ?)", (proof,))
            connection.pragma("application_id", _APPLICATION)
            connection.pragma("user_version", SCHEMA_VERSION)
    try:
        keys.unwrap(connection.execute("SELECT proof FROM state").get, _PROOF)
    except Unopened:
        raise ConfigError(
            f"`payload.key` is not the key of `{path}`",
            hint=f"restore the key from a backup; if it is lost for good, move `{path}` away",
        ) from None


def _place(id: str, subject: str) -> bytes:
    """The associated data of a payload: rows that were swapped, or given to another subject, do not open."""
    return b"\0".join((b"checkrein.payload.v1", id.encode(), subject.encode()))


def _key_place(id: int, subject: str) -> bytes:
    return b"\0".join((b"checkrein.payload.key.v1", str(id).encode(), subject.encode()))


class Tables:
    """The tables on one connection. Whoever writes calls `begun` first: another process may have erased."""

    def __init__(self, connection: apsw.Connection, keys: MasterKeys, randomness: Randomness) -> None:
        self._connection = connection
        self._keys = keys
        self._randomness = randomness
        self._epoch = -1
        #: the number of the newest payload, as far as this connection knows
        self._last_seq = 0
        #: subject -> its number, the number of its newest key, the payload before which it was made, the key
        self._cache: dict[str, tuple[int, int, int, DataKey]] = {}

    def begun(self) -> None:
        """Forget keys that were destroyed meanwhile."""
        epoch = self._connection.execute("SELECT epoch FROM state").get
        if epoch != self._epoch or len(self._cache) > _CACHED_KEYS:
            self._epoch = epoch
            self._cache.clear()
            self._last_seq = self._connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'payload'").get or 0

    def rolled_back(self) -> None:
        """Forget keys that were never written."""
        self._epoch = -1

    # --- payloads -----------------------------------------------------------------------------------------------

    def seal(self, payload: Payload) -> None:
        number, key_number, key = self._current_key(payload.subject)
        sealed = key.seal(payload.data, _place(payload.id, payload.subject), self._randomness(NONCE_BYTES))
        self._connection.execute(
            "INSERT INTO payload (id, subject, data_key, trace_id, created_us, retention, sealed)"
            " VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
            (payload.id, number, key_number, payload.trace_id, payload.created_us, payload.retention, sealed),
        )
        if not self._connection.changes():
            raise StoreUnavailable(f"there is a payload `{payload.id}` already", hint="try again")
        self._last_seq = self._connection.last_insert_rowid()

    def discard(self, id: str) -> None:
        self._connection.execute("DELETE FROM payload WHERE id = ?", (id,))

    def read(self, id: str, subject: str) -> Payload | None:
        found = self._connection.execute(
            "SELECT p.trace_id, p.created_us, p.retention, p.sealed, k.id, k.live, k.wrapped"
            " FROM payload p JOIN data_key k ON k.id = p.data_key WHERE p.id = ?",
            (id,),
        ).fetchone()
        if found is None or not found[5]:  # a destroyed key whose payloads are still being removed
            return None
        trace_id, created_us, retention, sealed, key_number, _, wrapped = found
        try:
            key = DataKey(self._keys.unwrap(wrapped, _key_place(key_number, subject)))
            data = key.open(sealed, _place(id, subject))
        except Unopened:
            raise LedgerInvalid(
                f"payload `{id}` was changed, or belongs to another record", hint="restore it from a backup"
            ) from None
        return Payload(id=id, subject=subject, trace_id=trace_id, created_us=created_us, retention=retention, data=data)

    # --- subjects and keys --------------------------------------------------------------------------------------

    def subject(self, ref: str) -> SubjectState:
        found = self._connection.execute("SELECT held, erased_us FROM subject WHERE ref = ?", (ref,)).fetchone()
        return SubjectState(bool(found[0]), found[1]) if found else SubjectState()

    def hold(self, ref: str, held: bool) -> None:
        self._connection.execute("UPDATE subject SET held = ? WHERE id = ?", (int(held), self._number(ref)))

    def destroy_keys(self, ref: str, now_us: int) -> int:
        """Overwrite every key of the subject; how many. Raises `Held`."""
        if self.subject(ref).held:
            raise Held("a legal hold keeps the data of this subject", hint="release it with `audit hold --release`")
        number = self._number(ref)
        self._connection.execute("UPDATE subject SET erased_us = ? WHERE id = ?", (now_us, number))
        self._connection.execute(
            "UPDATE data_key SET live = 0, wrapped = zeroblob(length(wrapped)) WHERE subject = ? AND live = 1",
            (number,),
        )
        destroyed = self._connection.changes()
        self._connection.execute("UPDATE state SET epoch = epoch + 1")
        self.begun()
        return destroyed

    def remove_unreadable(self, ref: str, limit: int) -> int:
        """Remove payloads of the subject whose key is gone; how many."""
        self._connection.execute(
            "DELETE FROM payload WHERE seq IN (SELECT p.seq FROM payload p JOIN data_key k ON k.id = p.data_key"
            " WHERE p.subject = ? AND k.live = 0 LIMIT ?)",
            (self._number(ref), limit),
        )
        return self._connection.changes()

    # --- sweeping -----------------------------------------------------------------------------------------------

    def expire(self, retention: Retention, now_us: int, limit: int) -> int:
        removed, name = 0, self._connection.execute("SELECT min(retention) FROM payload").get
        while name is not None and removed < limit:
            self._connection.execute(
                "DELETE FROM payload WHERE seq IN (SELECT p.seq FROM payload p JOIN subject s ON s.id = p.subject"
                " WHERE p.retention = ? AND p.created_us < ? AND s.held = 0 LIMIT ?)",
                (name, now_us - retention.kept_us(name), limit - removed),
            )
            removed += self._connection.changes()
            name = self._connection.execute("SELECT min(retention) FROM payload WHERE retention > ?", (name,)).get
        return removed

    def unproved(self, before_us: int, limit: int) -> list[Unproved]:
        """In order, up to the first one that is too young to tell."""
        rows = self._connection.execute(
            "SELECT seq, id, trace_id, created_us FROM payload WHERE seq > (SELECT proved FROM state)"
            " ORDER BY seq LIMIT ?",
            (limit,),
        )
        found: list[Unproved] = []
        for seq, id, trace_id, created_us in rows:
            if created_us >= before_us:
                break
            found.append(Unproved(seq, id, trace_id))
        return found

    def prove(self, seen: list[Unproved], orphans: list[Unproved]) -> int:
        removed = 0
        for orphan in orphans:
            self._connection.execute(
                "DELETE FROM payload WHERE seq = ? AND subject NOT IN (SELECT id FROM subject WHERE held = 1)",
                (orphan.seq,),
            )
            removed += self._connection.changes()
        last = max((item.seq for item in seen), default=0)
        self._connection.execute("UPDATE state SET proved = max(proved, ?)", (last,))
        return removed

    # --- keys ---------------------------------------------------------------------------------------------------

    def _current_key(self, ref: str) -> tuple[int, int, DataKey]:
        known = self._cache.get(ref)
        if known is None:
            known = self._cache[ref] = self._stored_key(ref) or self._new_key(ref)
        number, key_number, since, key = known
        if self._last_seq - since >= _USES:
            number, key_number, _, key = self._cache[ref] = self._new_key(ref)
        return number, key_number, key

    def _stored_key(self, ref: str) -> tuple[int, int, int, DataKey] | None:
        found = self._connection.execute(
            "SELECT s.id, k.id, k.since, k.wrapped FROM subject s JOIN data_key k ON k.subject = s.id"
            " WHERE s.ref = ? AND k.live = 1 ORDER BY k.id DESC LIMIT 1",
            (ref,),
        ).fetchone()
        if found is None:
            return None
        number, key_number, since, wrapped = found
        try:
            return number, key_number, since, DataKey(self._keys.unwrap(wrapped, _key_place(key_number, ref)))
        except Unopened:
            raise StoreUnavailable(
                "the key of this subject's payloads cannot be unwrapped",
                hint="`payload.key` or `payload.db` was changed; restore both from one backup",
            ) from None

    def _new_key(self, ref: str) -> tuple[int, int, int, DataKey]:
        number, since = self._number(ref), self._last_seq
        last = self._connection.execute("SELECT max(id) FROM data_key").get
        key_number = (last or 0) + 1
        secret = self._randomness(KEY_BYTES)
        wrapped = self._keys.wrap(secret, _key_place(key_number, ref), self._randomness(NONCE_BYTES))
        self._connection.execute("INSERT INTO data_key VALUES (?, ?, ?, 1, ?)", (key_number, number, since, wrapped))
        return number, key_number, since, DataKey(secret)

    def _number(self, ref: str) -> int:
        """The subject's number; it gets one if it has none."""
        self._connection.execute("INSERT INTO subject (ref) VALUES (?) ON CONFLICT DO NOTHING", (ref,))
        number = self._connection.execute("SELECT id FROM subject WHERE ref = ?", (ref,)).get
        if not isinstance(number, int):
            raise LedgerInvalid("the table of subjects is damaged", hint="restore `payload.db` from a backup")
        return number

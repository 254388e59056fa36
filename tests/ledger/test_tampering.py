"""Seeded tamperings with a stored ledger: every one is detected, and nearly every one names the first bad record.

What a tampering did is read off the rows themselves, before and after: the first row that differs, is missing or
is one too many is the record that must be named. A flipped bit that changes no row must change nothing at all.
"""

from __future__ import annotations

import random
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apsw
import msgspec
import pytest

from checkrein.ledger import Draft, Record
from checkrein.ledger.record import VERSION, found_under
from checkrein.ledger.tree import Frontier, leaf_hash
from checkrein.ledger.verify import Report
from checkrein.model import CheckreinError
from checkrein.ports import RecordQuery, Unit
from checkrein.services.audit import Audit
from checkrein.storage.sqlite import SqliteStore
from crash.figures import DEEP, show

CASES = 1000 if DEEP else 60
ACTIONS = 24
COLUMNS = "seq, id, kind, trace_id, ts_us, user, agent, action, outcome, risk, approval, evaluation, leaf, data"
TEXTS = ("id", "kind", "trace_id", "user", "agent", "action", "outcome", "risk", "approval", "evaluation")
TRIGGERS = "DROP TRIGGER record_stays; DROP TRIGGER record_remains"
Row = tuple[Any, ...]
Tamper = Callable[["Hands", random.Random], None]
json = msgspec.json


class Clock:
    us = 1_767_225_600_000_000

    def now_us(self) -> int:
        self.us += 1500
        return self.us


def action(number: int) -> list[Draft]:
    ids = {"evaluation_id": f"evl_{number}"}
    actor = {"actor": {"id": ("alice", "bob")[number % 2], "agent": "bot"}, "action": {"name": "send_email"}}
    outcome = ("allow", "deny", "allow", "allow_with_redaction")[number % 4]
    risk = {"level": ("green", "amber", "red")[number % 3], "score": number}
    text = "w" * (9000 if number % 11 == 0 else number * 7)  # some records lie on pages of their own
    decided = {"decision": {**ids, "outcome": outcome, "risk": risk, "reasons": ["because", text]}}
    drafts = [Draft("decision", f"{number:032x}", {**actor, **decided, "approval": {"id": ""}})]
    if outcome != "deny":
        drafts.append(Draft("execution.started", f"{number:032x}", {**actor, **ids}))
        drafts.append(Draft("execution.finished", f"{number:032x}", {**actor, **ids, "status": "ok"}))
    return drafts


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = tmp_path_factory.mktemp("written") / "data"
    store = SqliteStore(data, Clock(), randomness=random.Random(1).randbytes)  # noqa: S311 - the same ledger each time
    for number in range(ACTIONS):
        store.commit(Unit(tuple(action(number)))).result()
    store.close()
    return data


def rows_of(path: Path) -> list[Row]:
    """Every row by number, as bytes so that nothing of it can fail; ends where the file cannot be read on."""
    cells = ", ".join(f"typeof({name}), CAST({name} AS BLOB)" for name in COLUMNS.split(", "))
    rows: list[Row] = []
    connection = apsw.Connection(str(path / "ledger.db"))
    try:
        for row in connection.execute(f"SELECT seq, {cells} FROM record ORDER BY seq"):  # noqa: S608
            rows.append(row)  # noqa: PERF402 - what was read before an error counts
    except apsw.Error:
        pass
    finally:
        connection.close(True)
    return rows


def first_difference(before: list[Row], after: list[Row]) -> int | None:
    """The number of the first record that is not as it was."""
    for old, new in zip(before, after, strict=False):
        if old != new:
            return min(old[0], new[0])
    return None if len(before) == len(after) else min(len(before), len(after))


class Hands:
    """Somebody who may change every byte of the database, but has neither the signing key nor the other files."""

    def __init__(self, data: Path) -> None:
        self.data = data
        self.db = apsw.Connection(str(data / "ledger.db"))
        self.db.pragma("synchronous", "OFF")
        self.db.execute(TRIGGERS)
        self.size: int = self.db.execute("SELECT count(*) FROM record").get

    def body(self, seq: int) -> dict[str, Any]:
        said: dict[str, Any] = json.decode(self.db.execute("SELECT data FROM record WHERE seq = ?", (seq,)).get)
        return said

    def put(self, seq: int, said: dict[str, Any], depth: int) -> None:
        """Change the bytes; then (1) their hash, (2) the columns too, (3) the head of the tree."""
        data = json.encode(said, order="sorted")
        self.db.execute("UPDATE record SET data = ? WHERE seq = ?", (data, seq))
        if depth >= 1:
            self.db.execute("UPDATE record SET leaf = ? WHERE seq = ?", (leaf_hash(data), seq))
        if depth >= 2:
            names = ("user", "agent", "action", "outcome", "risk", "approval", "evaluation")
            values = dict(zip(names, found_under(said["body"]), strict=True))
            values |= {name: said[name] for name in ("id", "kind", "ts_us")} | {"trace_id": said["trace_id"] or None}
            sets = ", ".join(f"{name} = ?" for name in values)
            self.db.execute(f"UPDATE record SET {sets} WHERE seq = ?", (*values.values(), seq))  # noqa: S608
        if depth >= 3:
            self.reseal()

    def reseal(self) -> None:
        """Make hashes and head fit the records again, as a careful forger would."""
        tree = Frontier()
        for seq, data in self.db.execute("SELECT seq, data FROM record ORDER BY seq").fetchall():
            tree = tree.append(leaf_hash(data))
            self.db.execute("UPDATE record SET leaf = ? WHERE seq = ?", (leaf_hash(data), seq))
        self.db.execute("UPDATE head SET frontier = ?", (tree.to_bytes(),))

    def move(self, old: int, new: int) -> None:
        self.db.execute("UPDATE record SET seq = ? WHERE seq = ?", (new, old))

    def renumber(self) -> None:
        """Close every gap, in columns and bytes, and make the tree fit."""
        for new, (old,) in enumerate(self.db.execute("SELECT seq FROM record ORDER BY seq").fetchall()):
            self.move(old, new)
            self.put(new, {**self.body(new), "seq": new}, 2)
        self.reseal()


def leaves_of(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths to every plain value in a JSON value."""
    if isinstance(value, dict):
        return [path for key in value for path in leaves_of(value[key], (*at, key))]
    if isinstance(value, list):
        return [path for index, item in enumerate(value) for path in leaves_of(item, (*at, index))]
    return [at]


def other(value: Any, seeded: random.Random) -> Any:
    if isinstance(value, str):
        return seeded.choice([value + "x", value[:-1] + "~", "", "allow", "mallory"])
    return seeded.choice([value + 1, value - 1, 0, str(value), None])


def edit_a_field(hands: Hands, seeded: random.Random) -> None:
    seq = seeded.randrange(hands.size)
    said = hands.body(seq)
    *path, last = seeded.choice(leaves_of(said))
    holder: Any = said
    for step in path:
        holder = holder[step]
    old = holder[last]
    while holder[last] == old:
        holder[last] = other(old, seeded)
    whole = all(isinstance(said[name], str) for name in ("id", "kind", "trace_id")) and type(said["ts_us"]) is int
    hands.put(seq, said, seeded.randrange(4 if whole else 2))


def edit_a_column(hands: Hands, seeded: random.Random) -> None:
    seq, name = seeded.randrange(hands.size), seeded.choice((*TEXTS, "ts_us", "leaf", "data"))
    old = hands.db.execute(f"SELECT {name} FROM record WHERE seq = ?", (seq,)).get  # noqa: S608
    if isinstance(old, bytes):
        at = seeded.randrange(len(old))
        new: Any = old[:at] + bytes([old[at] ^ 1 << seeded.randrange(8)]) + old[at + 1 :]
    elif isinstance(old, int):
        new = old + seeded.choice((-(10**9), -1, 1, 10**9))
    else:
        new = other(old or "x", seeded)
        new = f"{old}~" if new in (old, None, "") else new
    hands.db.execute(f"UPDATE record SET {name} = ? WHERE seq = ?", (new, seq))  # noqa: S608


def delete(hands: Hands, seeded: random.Random) -> None:
    first = seeded.randrange(hands.size)
    hands.db.execute("DELETE FROM record WHERE seq BETWEEN ? AND ?", (first, first + seeded.choice((0, 0, 1, 5))))
    seeded.choice((lambda: None, hands.reseal, hands.renumber))()


def reorder(hands: Hands, seeded: random.Random) -> None:
    first = seeded.randrange(hands.size - 4)
    run = list(range(first, first + 4))
    mixed = seeded.sample(run, 4)
    while mixed == run:
        mixed = seeded.sample(run, 4)
    for old, new in zip(run, mixed, strict=True):
        hands.move(old, new + 10_000)
    for seq in run:
        hands.move(seq + 10_000, seq)
    seeded.choice((lambda: None, hands.reseal, hands.renumber))()


def swap(hands: Hands, seeded: random.Random) -> None:
    one, two = seeded.sample(range(hands.size), 2)
    first, second = hands.body(one), hands.body(two)
    depth = seeded.randrange(4)
    hands.db.execute("UPDATE record SET id = id || 'x' WHERE seq IN (?, ?)", (one, two))
    hands.put(one, {**second, "seq": one}, depth)
    hands.put(two, {**first, "seq": two}, depth)


def truncate(hands: Hands, seeded: random.Random) -> None:
    hands.db.execute("DELETE FROM record WHERE seq >= ?", (seeded.randrange(hands.size),))
    seeded.choice((lambda: None, hands.reseal))()


def renumber(hands: Hands, seeded: random.Random) -> None:
    first, by = seeded.randrange(hands.size), seeded.choice((1, 1, 7))
    for seq in range(hands.size - 1, first - 1, -1):
        hands.move(seq, seq + by)
    seeded.choice((lambda: None, hands.reseal))()


def put_in(hands: Hands, seeded: random.Random) -> None:
    """A record of one's own, between others or at the end (where the head is left as it is)."""
    seq = seeded.randrange(hands.size + 1)
    for old in range(hands.size - 1, seq - 1, -1):
        hands.move(old, old + 1)
    body = {"decision": {"evaluation_id": "evl_own", "outcome": "allow"}}
    said = {"v": VERSION, "seq": seq, "id": "rec_own", "kind": "decision", "trace_id": "", "ts_us": 1, "body": body}
    values = (seq, "x", "x", None, 1, *[None] * 7, b"\x00", b"\x00")
    hands.db.execute(f"INSERT INTO record ({COLUMNS}) VALUES ({', '.join('?' * 14)})", values)  # noqa: S608
    hands.put(seq, said, 2)
    if seq < hands.size and seeded.random() < 0.5:
        hands.renumber()


def recompute_hashes(hands: Hands, seeded: random.Random) -> None:
    """Change one record's bytes and make every hash in the database fit."""
    seq = seeded.randrange(hands.size)
    said = hands.body(seq)
    said["body"]["note"] = "added later"
    hands.put(seq, said, 3)


def flip_a_bit(hands: Hands, seeded: random.Random) -> None:
    hands.db.close()
    path = hands.data / "ledger.db"
    content = bytearray(path.read_bytes())
    at = seeded.randrange(len(content))
    content[at] ^= 1 << seeded.randrange(8)
    path.write_bytes(content)


TAMPERINGS: tuple[Tamper, ...] = (
    *(edit_a_field, edit_a_field, edit_a_column, delete, reorder, swap, truncate, renumber, put_in),
    *(recompute_hashes, flip_a_bit, flip_a_bit),
)


def verify(data: Path) -> Report:
    try:
        reader = SqliteStore.open_readonly(data)
    except CheckreinError as error:
        return Report(records=0, root=b"", problems=(str(error),))
    try:
        return Audit(reader, reader.files).verify()
    finally:
        reader.close()


def read(data: Path) -> list[Record]:
    reader = SqliteStore.open_readonly(data)
    try:
        return list(reader.records(RecordQuery()))
    finally:
        reader.close()


@pytest.mark.timeout(900)
def test_every_tampering_is_detected_and_nearly_every_one_named(written: Path, tmp_path: Path, capsys: Any) -> None:
    before, records = rows_of(written), read(written)
    found: Counter[str] = Counter()
    unnamed: list[str] = []
    for case in range(CASES):
        seeded = random.Random(case)  # noqa: S311 - the same case for the same number
        tamper = TAMPERINGS[case % len(TAMPERINGS)]
        data = tmp_path / str(case)
        shutil.copytree(written, data)
        hands = Hands(data)
        tamper(hands, seeded)
        hands.db.close(True)
        truth, report = first_difference(before, rows_of(data)), verify(data)
        what = f"case {case}, {tamper.__name__}: {truth} was changed; {report.first_bad}: {report.problems[:3]}"
        if not report.problems:
            assert tamper is flip_a_bit and truth is None, what
            assert read(data) == records, what
            found["harmless"] += 1
        else:
            found["detected"] += 1
            found["named"] += report.first_bad == truth
            unnamed += [what] * (report.first_bad != truth)
        shutil.rmtree(data)
    named = found["named"] / found["detected"]
    show(capsys, f"{CASES} tamperings: {found['detected']} of {CASES - found['harmless']} detected, {named:.1%} named, "
                 f"{found['harmless']} flipped bits harmless")  # fmt: skip
    assert named >= 0.99, "\n".join(unnamed)

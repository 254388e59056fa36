"""What finds records by any filters at once, however many pass each of them and however few pass all.

Records of one shape share kind, user, agent, action, outcome, risk and policies. There are far fewer shapes than
records, so the shapes that pass every filter are found by looking through all of them, and what belongs to them is
merged in order. One row a record (`shaped`), written in its transaction, is all this costs; an index for each filter
would cost more and answer less.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any

import apsw
import msgspec

from checkrein.ledger.record import policies

#: the version of the file that has these tables
SINCE_VERSION = 2
#: facets that make a shape; the others are as good as unique
FACETS = ("user", "agent", "action", "outcome", "risk")
#: what `stored` reads, and the number
STORED = f"SELECT kind, {', '.join(FACETS)}, data, seq FROM record ORDER BY seq"  # noqa: S608
#: when more shapes fit, so many records do that walking through all of them soon meets one
MOST = 20_000
#: shapes a writer remembers
_REMEMBERED = 65_536
_FILLED_AT_ONCE = 100_000
#: memory for an upgrade: what is inserted lies all over the table
_FILLING_KIB = 128 * 1024

_SCHEMA = """
CREATE TABLE shape (
    id INTEGER PRIMARY KEY, kind TEXT NOT NULL, user TEXT NOT NULL, agent TEXT NOT NULL, action TEXT NOT NULL,
    outcome TEXT NOT NULL, risk TEXT NOT NULL, policies TEXT NOT NULL,
    UNIQUE (kind, user, agent, action, outcome, risk, policies)
) STRICT;
CREATE TABLE shape_policy (
    policy TEXT NOT NULL, shape INTEGER NOT NULL, PRIMARY KEY (policy, shape)
) STRICT, WITHOUT ROWID;
CREATE TABLE shaped (shape INTEGER NOT NULL, seq INTEGER NOT NULL, PRIMARY KEY (shape, seq)) STRICT, WITHOUT ROWID;
"""
#: indexes of the version before, which nothing reads any more
_RETIRED = ("kind", "ts", "user", "agent", "action", "outcome", "risk")
#: Fibonacci hashing (Knuth, TAOCP 6.4): numbers in any regular order are spread evenly over the space
SPREAD, SPACE = 2_654_435_761, 1 << 32


#: what records have in common that one looks for: kind, the facets above (None where empty), policies
Shape = tuple[str, tuple[str | None, ...], tuple[str, ...]]
#: the start of a condition on records, for one kind
OF_KIND = "seq IN (SELECT seq FROM shape JOIN shaped ON shape = id WHERE shape.kind = ?) AND "


def shape(kind: str, found: tuple[str | None, ...], named: tuple[str, ...]) -> Shape:
    """`found` are the facets of a record, in the order of `ledger.record.Facets`."""
    return kind, found[: len(FACETS)], named


class Shapes:
    """The shapes one writer knows by their number. `forget` them when a transaction failed: a new one is gone then."""

    def __init__(self) -> None:
        self._known: dict[Shape, int] = {}

    def forget(self) -> None:
        self._known.clear()

    def write(self, connection: apsw.Connection, records: Iterable[tuple[Shape, int]]) -> None:
        """Of each record its shape and its number, in the transaction of the records themselves."""
        known = self._known.get
        shaped = [(known(found) or self._number(connection, found), seq) for found, seq in records]
        shaped.sort()
        connection.executemany("INSERT INTO shaped VALUES (?, ?)", shaped)

    def _number(self, connection: apsw.Connection, found: Shape) -> int:
        names = found[-1]
        values = columns(found)
        sql = (
            "SELECT id FROM shape WHERE kind = ? AND user = ? AND agent = ? AND action = ? AND outcome = ?"
            " AND risk = ? AND policies = ?"
        )
        number: int | None = connection.execute(sql, values).get
        if number is None:
            connection.execute("INSERT INTO shape VALUES (NULL, ?, ?, ?, ?, ?, ?, ?)", values)
            number = connection.last_insert_rowid()
            connection.executemany("INSERT INTO shape_policy VALUES (?, ?)", [(name, number) for name in names])
        if len(self._known) >= _REMEMBERED:
            self._known.clear()
        self._known[found] = number
        return number


def prepare(connection: apsw.Connection) -> None:
    """Make the tables, and fill them from the records of a store that had none yet.

    A record that cannot be read names no policy.
    """
    for name in _RETIRED:
        connection.execute(f"DROP INDEX IF EXISTS record_{name}")
    connection.execute(_SCHEMA)
    connection.pragma("cache_size", -_FILLING_KIB)
    rows = iter(connection.execute(STORED))
    known = Shapes()
    while run := [(stored(row[:-1]), row[-1]) for row in islice(rows, _FILLED_AT_ONCE)]:
        known.write(connection, run)


def columns(found: Shape) -> tuple[str, ...]:
    """A shape as its row has it."""
    kind, facets, names = found
    return (kind, *(text or "" for text in facets), msgspec.json.encode(names).decode())


def stored(cells: tuple[Any, ...]) -> Shape:
    """The shape of a stored record: its kind, facets and bytes. One that cannot be read names no policy."""
    kind, *facets, data = cells
    named: tuple[str, ...] = ()
    try:
        body = msgspec.json.decode(data, type=dict[str, object]).get("body")
        named = policies(body) if isinstance(body, dict) else ()
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError, TypeError):
        pass  # `audit verify` names such a record
    return kind, tuple(facets), named


class Merge:
    """The numbers, in order, from `low` to `high` - 1, of the records of some shapes. Taken piece by piece."""

    def __init__(self, shapes: Sequence[tuple[int, int]], low: int, high: int, *, newest_first: bool) -> None:
        self._low, self._high, self._newest_first = low, high, newest_first
        self._sign = -1 if newest_first else 1
        #: of each shape the next number to give, the first of them all in front
        self._heap = [(self._sign * seq, shape) for seq, shape in shapes]
        heapq.heapify(self._heap)

    def take(self, connection: apsw.Connection, count: int) -> list[int]:
        """At most the next `count`; fewer only at the end."""
        taken: list[int] = []
        while self._heap and len(taken) < count:
            signed, shape = self._heap[0]
            seq = signed * self._sign
            taken.append(seq)
            low, high = (self._low, seq) if self._newest_first else (seq + 1, self._high)
            following = connection.execute(_edge("?", self._newest_first), (shape, low, high)).get
            if following is None:
                heapq.heappop(self._heap)
            else:
                heapq.heapreplace(self._heap, (following * self._sign, shape))
        return taken


def find(
    connection: apsw.Connection,
    tests: Sequence[tuple[str, str]],
    kinds: Sequence[str],
    low: int,
    high: int,
    *,
    newest_first: bool,
) -> Merge | None:
    """The records of the shapes that pass every test; None if there are too many shapes.

    `tests` name a facet, or `policy`, and what it must be; of `kinds` one must fit, if there are any.
    """
    where = [
        "id IN (SELECT shape FROM shape_policy WHERE policy = ?)" if name == "policy" else f"{name} = ?"
        for name, _ in tests
    ]
    if kinds:
        where.append(f"kind IN ({', '.join('?' * len(kinds))})")
    sql = f"""
        SELECT edge, id FROM (SELECT ({_edge("id", newest_first)}) AS edge, id FROM shape WHERE {" AND ".join(where)})
        WHERE edge IS NOT NULL LIMIT ?
    """  # noqa: S608 - names and marks only
    values = (low, high, *(wanted for _, wanted in tests), *kinds, MOST + 1)
    found: list[tuple[int, int]] = list(connection.execute(sql, values))
    return None if len(found) > MOST else Merge(found, low, high, newest_first=newest_first)


def counted(connection: apsw.Connection, low: int, high: int, after: int, limit: int) -> list[tuple[Any, ...]]:
    """The next shapes after this one: number, kind, action, outcome, risk, and how many records between the bounds."""
    sql = """
        SELECT id, kind, action, outcome, risk,
               (SELECT count(*) FROM shaped WHERE shape = id AND seq >= ? AND seq < ?)
        FROM shape WHERE id > ? ORDER BY id LIMIT ?
    """
    return list(connection.execute(sql, (low, high, after, limit)))


def drawn(connection: apsw.Connection, kind: str, low: int, high: int, most: int) -> list[int]:
    """The numbers, in order, of the records of a kind: all, or about `most` of them."""
    of_kind = "FROM shape JOIN shaped ON shape = id WHERE shape.kind = ? AND seq >= ? AND seq < ?"
    found: int = connection.execute(f"SELECT count(*) {of_kind}", (kind, low, high)).get
    share = (kind, low, high, draw_below(most, found))
    sql = f"SELECT seq {of_kind} AND (seq * {SPREAD}) & {SPACE - 1} < ? ORDER BY seq"
    return [seq for (seq,) in connection.execute(sql, share)]


def draw_below(most: int, found: int) -> int:
    """Who draws `most` of `found` records takes those whose number is spread below this."""
    return SPACE if found <= most else SPACE * most // found


def _edge(shape: str, newest_first: bool) -> str:
    edge = "max" if newest_first else "min"
    return f"SELECT {edge}(seq) FROM shaped WHERE shape = {shape} AND seq >= ? AND seq < ?"  # noqa: S608

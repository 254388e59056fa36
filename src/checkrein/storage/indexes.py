"""Whether lists find what the records hold: indexes and the other memory aids beside them, checked against the rows.

A walk through the records uses none of these, so one that was tampered with hides a record from a list and never from
`audit verify`, which is why this is a check of its own. It reads every entry, and every record once more.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator

import apsw
import msgspec

from checkrein.storage import queues, shapes
from checkrein.storage.database import expected_schema, schema

#: what is listed; a ruined file has thousands
_MOST = 20
_ENDS = ("execution.finished", "execution.unknown")


def index_problems(connection: apsw.Connection) -> list[str]:
    """What is wrong, one line each; nothing if all is as the records say."""
    return [*_tables(connection), *_entries(connection), *_running(connection), *_shapes(connection)][:_MOST]


def _tables(connection: apsw.Connection) -> list[str]:
    """Indexes and triggers that are not those of the program: a dropped one, or one that leaves out rows."""
    found, expected = schema(connection), expected_schema()
    if _is_old(connection):
        expected = {name: sql for name, sql in expected.items() if not name.startswith("shape")}
    if connection.pragma("user_version") < queues.SINCE_VERSION:
        expected = {name: sql for name, sql in expected.items() if not name.startswith("queue_")}
    wrong = [name for name in expected if found.get(name) != expected[name]]
    return [f"`{name}` in the database is missing or not as it was made" for name in wrong]


def _entries(connection: apsw.Connection) -> list[str]:
    found = connection.execute(f"PRAGMA integrity_check({_MOST})").fetchall()
    return [f"the database is inconsistent: {line}" for (line,) in found if line != "ok"]


def _running(connection: apsw.Connection) -> list[str]:
    """The executions without an end, which recovery goes by."""
    sql = "SELECT kind, evaluation, seq FROM record WHERE kind >= 'execution.' AND kind < 'execution/' ORDER BY seq"
    open_: dict[str, int] = {}
    for kind, evaluation, seq in connection.execute(sql):
        if kind == "execution.started" and evaluation:
            open_.setdefault(evaluation, seq)
        elif kind in _ENDS:
            open_.pop(evaluation, None)
    listed = {(name, seq) for name, seq in connection.execute("SELECT evaluation, seq FROM running")}
    differ = sorted(seq for _, seq in listed.symmetric_difference(open_.items()))
    return [f"record {seq} is wrongly listed as running, or not listed" for seq in dict.fromkeys(differ)]


def _shapes(connection: apsw.Connection) -> Iterator[str]:
    """The shapes by which lists find records."""
    if _is_old(connection):
        return
    known = {row[0]: row[1:] for row in connection.execute("SELECT * FROM shape")}
    named = {(policy, number) for number, row in known.items() for policy in msgspec.json.decode(row[-1])}
    if named != set(connection.execute("SELECT policy, shape FROM shape_policy")):
        yield "`shape_policy` in the database says not what `shape` says"
    size = connection.execute("SELECT coalesce(max(seq), -1) + 1 FROM record").get
    placed = array("q", bytes(8 * size))
    for number, seq in connection.execute("SELECT shape, seq FROM shaped"):
        if 0 <= seq < size and not placed[seq]:
            placed[seq] = number
        else:
            yield f"record {seq} is listed twice, or is none"
    for *cells, seq in connection.execute(shapes.STORED):
        if seq >= 0 and known.get(placed[seq]) != shapes.columns(shapes.stored(tuple(cells))):
            yield f"record {seq} is not found by lists, or not by what it says"


def _is_old(connection: apsw.Connection) -> bool:
    """Whether the file is of the version before, whose lists walk through the records."""
    return bool(connection.pragma("user_version") < shapes.SINCE_VERSION)

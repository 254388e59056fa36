"""Whether lists find what the records hold: indexes and the other memory aids beside them, checked against the rows.

A walk through the records uses none of these, so one that was tampered with hides a record from a list and never from
`audit verify`, which is why this is a check of its own. It reads every index entry: about a third of a walk more.
"""

from __future__ import annotations

import apsw
import msgspec

from checkrein.storage import shapes
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


def _shapes(connection: apsw.Connection) -> list[str]:
    """The records whose shape is missing, or is not what they hold; lists go by these."""
    differs = " OR ".join(f"coalesce(record.{name}, '') <> found.{name}" for name in shapes.FACETS)
    sql = f"""
        SELECT record.seq, record.data, found.policies, found.seq IS NULL OR record.kind <> found.kind OR {differs}
        FROM record LEFT JOIN (SELECT * FROM shaped JOIN shape ON shape.id = shaped.shape) AS found USING (seq)
        ORDER BY record.seq
    """  # noqa: S608 - names only
    wrong = [
        seq for seq, data, listed, other in connection.execute(sql) if other or shapes.named(data) != _listed(listed)
    ]
    records, shaped = (connection.execute(f"SELECT count(*) FROM {name}").get for name in ("record", "shaped"))  # noqa: S608
    found = [f"record {seq} is not listed under what it is" for seq in wrong]
    if not found and records != shaped:
        found = [f"{shaped} places in lists stand for {records} records"]
    under: dict[int, set[str]] = {}
    for policy, shape in connection.execute("SELECT policy, shape FROM shape_policy"):
        under.setdefault(shape, set()).add(policy)
    listed = {id: set(_listed(policies)) for id, policies in connection.execute("SELECT id, policies FROM shape")}
    if not found and under != {id: names for id, names in listed.items() if names}:
        found = ["policies are not listed under what they decided"]
    return found


def _listed(policies: str) -> tuple[str, ...]:
    return msgspec.json.decode(policies, type=tuple[str, ...])

"""Rows in an order of their own: by a number in their bodies, such as a deadline. Indexes on expressions, no columns.

A body that holds no such number counts as 0: it comes first and is read, and whoever reads it names what is wrong.
"""

from __future__ import annotations

import apsw

#: the version of the file that has these indexes
SINCE_VERSION = 3
#: the rooms that are listed so, and by which members of their bodies
QUEUES = {"approval": ("created_us", "deadline_us")}


def prepare(connection: apsw.Connection) -> None:
    """Make the indexes that are not there yet."""
    for room, members in QUEUES.items():
        for member in members:
            connection.execute(
                f'CREATE INDEX IF NOT EXISTS queue_{room}_{member} ON "row" (state, {_number(member)}, id)'
                f" WHERE room = '{room}'"
            )


def select(room: str, by: str) -> str:
    """The end of a statement on `row`: its parameters are state, least number, that again, id, greatest, limit."""
    if by not in QUEUES.get(room, ()):
        raise ValueError(f"rows of `{room}` are not listed by `{by}`")
    number = _number(by)
    return (
        f"WHERE room = '{room}' AND state = ? AND {number} >= ? AND ({number}, id) > (?, ?) AND {number} <= ?"
        f" ORDER BY {number}, id LIMIT ?"
    )


def _number(member: str) -> str:
    text = "CAST(body AS TEXT)"
    return f"CASE WHEN json_valid({text}) THEN coalesce(json_extract({text}, '$.{member}'), 0) ELSE 0 END"

"""The ledger in the forms others read: exact lines, tables, OCSF and OpenTelemetry.

An export is of one moment: of the first `Head.size` records as the ledger had them when it began. The log only
grows, so they need no lock and keep no writer waiting. Records are written as they are read; memory does not grow.
"""

from __future__ import annotations

import csv
import importlib
import io
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import IO, Any, Protocol

import msgspec

from checkrein.ledger import Head, Record
from checkrein.ledger.record import facets, policies
from checkrein.model import BadRequest, ConfigError
from checkrein.model.json import dumps
from checkrein.model.stamp import stamp
from checkrein.ports import RecordQuery
from checkrein.services import translate

#: the columns of `csv` and `parquet`, and their types in Arrow
COLUMNS = {
    "seq": "int64",
    "id": "string",
    "time": "timestamp[us, tz=UTC]",
    **dict.fromkeys(("kind", "trace_id", "user", "agent", "action", "outcome", "risk", "approval"), "string"),
    "policies": "list<string>",
    **dict.fromkeys(("evaluation", "body"), "string"),
}
#: a cell that begins like this is a formula to a spreadsheet, in some languages also when written in full width
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
#: records that Parquet keeps together
_GROUP = 4096

Heard = Callable[[int], None]


class Source(Protocol):
    """What an export needs of a store."""

    def head(self) -> Head: ...

    def records(self, query: RecordQuery) -> Iterator[Record]: ...


class Exported(msgspec.Struct, frozen=True):
    """What was written: how many records, and the head of the ledger they were read from."""

    records: int
    head: Head


def export(
    store: Source, format: str, query: RecordQuery, out: IO[bytes], *, version: str, heard: Heard = lambda count: None
) -> Exported:
    """Write the records that fit, oldest first, to a file open for writing. `heard` is told how many there are so far.

    Raises `BadRequest` for a format that is none, `ConfigError` if what writes it is not installed.
    """
    if format not in FORMATS:
        raise BadRequest(f"`{format[:40]}` is no export format", hint=f"choose {', '.join(FORMATS)}")
    head = store.head()
    count = 0

    def counted() -> Iterator[Record]:
        nonlocal count
        size = min(head.size, query.before_seq or head.size)
        if size:
            for record in store.records(msgspec.structs.replace(query, before_seq=size)):
                count += 1
                yield record
                heard(count)

    FORMATS[format](counted(), out, version)
    return Exported(count, head)


def _jsonl(records: Iterator[Record], out: IO[bytes], version: str) -> None:
    for record in records:
        out.write(record.data + b"\n")


def _csv(records: Iterator[Record], out: IO[bytes], version: str) -> None:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\r\n", quoting=csv.QUOTE_ALL)

    def line(cells: Iterable[object]) -> None:
        texts = (" ".join(cell) if isinstance(cell, tuple) else str(cell) for cell in cells)
        writer.writerow([f"'{text}" if text.startswith(_FORMULA) else text for text in texts])
        out.write(buffer.getvalue().encode())
        buffer.seek(0)
        buffer.truncate()

    line(COLUMNS)
    for record in records:
        seq, id, ts_us, *rest = _row(record)
        line((seq, id, stamp(ts_us), *rest))


def _parquet(records: Iterator[Record], out: IO[bytes], version: str) -> None:
    try:
        arrow, parquet = importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise ConfigError(
            "parquet needs pyarrow, which is not installed", hint='run `pip install "checkrein[parquet]"`'
        ) from error
    types: dict[str, Any] = {
        "int64": arrow.int64(),
        "string": arrow.string(),
        "timestamp[us, tz=UTC]": arrow.timestamp("us", tz="UTC"),
        "list<string>": arrow.list_(arrow.string()),
    }
    schema = arrow.schema([(name, types[kind]) for name, kind in COLUMNS.items()])
    with parquet.ParquetWriter(out, schema, compression="zstd") as writer:
        while rows := [_row(record) for record in islice(records, _GROUP)]:
            columns = [
                arrow.array(column, field.type) for column, field in zip(zip(*rows, strict=True), schema, strict=True)
            ]
            writer.write_batch(arrow.record_batch(columns, schema=schema))


def _row(record: Record) -> tuple[Any, ...]:
    """The cells of `COLUMNS`; the time in microseconds."""
    body = record.body
    found = facets(body)
    return (
        *(record.seq, record.id, record.ts_us, record.kind, record.trace_id),
        *(found.user, found.agent, found.action, found.outcome, found.risk, found.approval),
        *(policies(body), found.evaluation, dumps(body).decode()),
    )


def _ocsf(records: Iterator[Record], out: IO[bytes], version: str) -> None:
    for record in records:
        out.write(dumps(translate.ocsf(record, version=version)) + b"\n")


def _otel(records: Iterator[Record], out: IO[bytes], version: str) -> None:
    for record in records:
        out.write(dumps(translate.otel(record, version=version)) + b"\n")


FORMATS: dict[str, Callable[[Iterator[Record], IO[bytes], str], None]] = {
    "jsonl": _jsonl,
    "csv": _csv,
    "parquet": _parquet,
    "ocsf": _ocsf,
    "otel": _otel,
}

"""Exports: of one moment, oldest first, in forms that others read."""

from __future__ import annotations

import csv
import io
import json
import sys
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from checkrein.ledger import Draft, Record
from checkrein.ledger.tree import leaf_hash, root_of
from checkrein.model import BadRequest, ConfigError
from checkrein.ports import RecordQuery, Unit
from checkrein.services import exports
from checkrein.storage.memory import MemoryStore

#: a record with what could go wrong in a table
ODD = Draft("system.note", "", {"text": 'a "quoted",\nline é\u2028'})


class Clock:
    def now_us(self) -> int:
        return 1_768_471_200_123_456


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore(Clock())


def write(store: MemoryStore, *drafts: Draft) -> tuple[Record, ...]:
    return store.commit(Unit(drafts)).result()


def decision(outcome: str = "deny", user: str = "alice") -> Draft:
    decided = {"evaluation_id": "evl_1", "outcome": outcome, "policies": ["p1", "p2"], "risk": {"level": "red"}}
    actor = {"type": "user", "id": user, "agent": "bot"}
    return Draft("decision", "ab" * 16, {"actor": actor, "action": {"name": "send_email"}, "decision": decided})


def exported(store: exports.Source, format: str, **query: Any) -> bytes:
    out = io.BytesIO()
    exports.export(store, format, RecordQuery(**query), out, version="9")
    return out.getvalue()


def rows(store: MemoryStore) -> list[list[str]]:
    return list(csv.reader(io.StringIO(exported(store, "csv").decode(), newline="")))


def test_jsonl_is_the_exact_stored_bytes(store: MemoryStore) -> None:
    written = write(store, decision(), ODD)
    lines = exported(store, "jsonl").splitlines()
    assert lines == [record.data for record in written]
    assert root_of(map(leaf_hash, lines)) == store.head().root


def test_csv_has_a_header_and_one_row_a_record(store: MemoryStore) -> None:
    write(store, decision(), ODD)
    first, second = csv.DictReader(io.StringIO(exported(store, "csv").decode(), newline=""))
    assert list(first) == list(exports.COLUMNS)
    assert (first["kind"], first["user"], first["policies"]) == ("decision", "alice", "p1 p2")
    assert first["time"] == "2026-01-15T10:00:00.123456Z"
    assert json.loads(second["body"]) == ODD.body


@given(st.sampled_from("=+-@\t\r\n＝＋－＠"), st.text(st.characters(codec="utf-8"), max_size=20))  # noqa: RUF001
def test_no_csv_cell_is_a_formula(first: str, rest: str) -> None:
    store = MemoryStore(Clock())
    write(store, decision(user=first + rest))
    found = rows(store)
    assert found[1][5] == "'" + first + rest
    assert not any(cell.startswith(tuple("=+-@\t\r\n＝＋－＠")) for row in found for cell in row)  # noqa: RUF001


def test_parquet_has_the_columns_of_csv_with_types(store: MemoryStore) -> None:
    from pyarrow import parquet

    write(store, decision(user="=1+1"), ODD)
    table = parquet.read_table(io.BytesIO(exported(store, "parquet")))
    assert {field.name: str(field.type).replace("element: ", "") for field in table.schema} == exports.COLUMNS
    first, second = table.to_pylist()
    assert (first["user"], first["policies"], first["seq"]) == ("=1+1", ["p1", "p2"], 0)
    assert first["time"].isoformat() == "2026-01-15T10:00:00.123456+00:00"
    assert json.loads(second["body"]) == ODD.body


def test_an_empty_ledger_is_an_empty_table(store: MemoryStore) -> None:
    from pyarrow import parquet

    assert parquet.read_table(io.BytesIO(exported(store, "parquet"))).num_rows == 0
    assert len(rows(store)) == 1
    assert exported(store, "jsonl") == exported(store, "ocsf") == exported(store, "otel") == b""


def test_without_pyarrow_parquet_says_what_to_install(store: MemoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ConfigError, match="needs pyarrow") as caught:
        exported(store, "parquet")
    assert "checkrein[parquet]" in caught.value.hint


@pytest.mark.parametrize("format", exports.FORMATS)
def test_an_export_is_of_the_moment_it_began_and_says_which(store: MemoryStore, format: str) -> None:
    write(store, *(decision() for _ in range(5)))
    head = store.head()

    class Busy:
        """Somebody writes while it reads."""

        head = store.head

        def records(self, query: RecordQuery) -> Any:
            write(store, decision("allow"))
            return store.records(query)

    heard: list[int] = []
    out = io.BytesIO()
    made = exports.export(Busy(), format, RecordQuery(), out, version="9", heard=heard.append)
    assert (made.records, made.head) == (5, head)
    assert heard == [1, 2, 3, 4, 5]
    assert b'"allow"' not in out.getvalue()


@pytest.mark.parametrize("format", ["jsonl", "csv", "ocsf", "otel"])
def test_filters_apply(store: MemoryStore, format: str) -> None:
    write(store, decision(user="alice"), decision(user="bob"), decision(user="alice"))
    text = exported(store, format, user="bob")
    assert b"bob" in text
    assert b"alice" not in text


def test_an_unknown_format_is_refused_with_the_known_ones(store: MemoryStore) -> None:
    with pytest.raises(BadRequest, match="`xml`") as caught:
        exported(store, "xml")
    assert "jsonl" in caught.value.hint


@pytest.mark.parametrize("format", ["jsonl", "csv", "parquet", "ocsf", "otel"])
def test_memory_does_not_grow_with_the_records(store: MemoryStore, format: str) -> None:
    (record,) = write(store, decision())

    class Endless:
        """The same record again and again."""

        def __init__(self, count: int) -> None:
            self.count = count

        head = store.head

        def records(self, query: RecordQuery) -> Any:
            return (record for _ in range(self.count))

    class Nowhere(io.RawIOBase):
        def writable(self) -> bool:
            return True

        def write(self, data: Any) -> int:
            return len(data)

    def peak(count: int) -> int:
        tracemalloc.start()
        exports.export(Endless(count), format, RecordQuery(), Nowhere(), version="9")  # type: ignore[arg-type]
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    peak(10)
    few = 2 * exports._GROUP if format == "parquet" else 1000
    assert peak(2 * few) < peak(few) * 1.2 + 1_000_000

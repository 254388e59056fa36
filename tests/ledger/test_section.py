"""The quick way through many records admits nothing that the slow way would name."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from checkrein.ledger import Draft
from checkrein.ledger.record import canonical, decode, decode_all, encode, facets, found_under
from checkrein.ledger.section import section
from checkrein.ledger.tree import Frontier, leaf_hash
from checkrein.ledger.verify import Entry, Report, Snapshot, _row, examine

Make = Callable[[int], Any]
replace = msgspec.structs.replace
shared = settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], max_examples=300)

#: bytes that a record's own bytes may be changed into, and must not be believed
BODIES = [
    *(b"{}", b'{"a":1.0}', b'{"a":9007199254740992}', b'{"b":1,"a":2}', b'{"a":1,"a":1}', b'{"a": 1}'),
    *(b'{"a":"\\u0041"}', '{"é":1}'.encode(), '{"a":"é"}'.encode(), b'{"a":\n1}', b'{"a":-0}', b"[]", b'{"a":NaN}'),
    *(b'{"a":' + b"[" * 9 + b"]" * 9 + b"}", b'{"a":"4111111111111111"}', b'{"actor":{"id":7}}', b'{"actor":[]}'),
]


def reports(entries: list[Entry]) -> tuple[Report, Report]:
    """What is found by the quick way, and looking at each record by itself."""
    head = Frontier().extend(entry.leaf for entry in entries).head
    return examine(Snapshot(head=head, entries=entries)), examine(Snapshot(head=head, entries=(), parts=[entries]))


def test_a_log_as_it_was_written_is_one_section(make_log: Make) -> None:
    log = make_log(60)
    made = section([_row(entry) for entry in log.entries])
    assert made is not None
    assert (made.first, made.frontier.head) == (0, log.head())
    assert made.leaves == b"".join(entry.leaf for entry in log.entries)
    assert (made.open, len(made.allowed)) == ([], 20)


@shared
@given(st.data())
def test_the_quick_way_finds_what_looking_at_each_record_finds(make_log: Make, data: st.DataObject) -> None:
    """Whatever is changed in the rows, and whether or not hashes and columns are made to fit."""
    log = make_log(9)
    for _ in range(data.draw(st.integers(1, 2))):
        seq = data.draw(st.integers(0, 8))
        entry = log.entries[seq]
        name = data.draw(st.sampled_from(["seq", "id", "kind", "trace_id", "ts_us", "byte", "body", "facet", "leaf"]))
        record = entry.record
        if name in ("seq", "ts_us"):
            record = replace(record, **{name: getattr(record, name) + data.draw(st.integers(-2, 2))})
        elif name in ("id", "kind", "trace_id"):
            record = replace(record, **{name: data.draw(st.sampled_from([getattr(record, name), "", "decision"]))})
        elif name == "byte":
            raw = bytearray(record.data)
            raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(0, 255))
            record = replace(record, data=bytes(raw))
        elif name == "body":
            start = record.data.rfind(b',"id":')
            record = replace(record, data=b'{"body":' + data.draw(st.sampled_from(BODIES)) + record.data[start:])
        elif name == "facet":
            entry = replace(entry, facets=replace(entry.facets, user=data.draw(st.sampled_from(["alice", "bob", ""]))))
        leaf = leaf_hash(record.data) if data.draw(st.booleans()) else entry.leaf
        found = entry.facets
        if data.draw(st.booleans()):
            with contextlib.suppress(ValueError):
                found = facets(decode(record.data)[1])
        log.entries[seq] = Entry(record, found, leaf[::-1] if name == "leaf" else leaf)
    quick, slow = reports(log.entries)
    assert quick == slow


@given(st.lists(st.sampled_from(BODIES), min_size=1, max_size=4))
def test_reading_all_at_once_admits_no_bytes_that_reading_each_refuses(bodies: list[bytes]) -> None:
    envelope = encode(Draft("x", "", {}), seq=1, id="rec_1", ts_us=1).data
    run = [envelope.replace(b'"body":{}', b'"body":' + body) for body in bodies]
    read = decode_all(run)
    if read is not None:
        assert [canonical(said.body) for said in read] == [canonical(decode(data)[1]) for data in run]


@pytest.mark.parametrize(
    "run",
    [
        [b"ONE\nONE"],
        [b"ONE\nONE", b"ONE"],
        [b"ONE\nONE", b""],
        [b"", b"ONE\nONE"],
        [b"ONE ONE", b""],
        [b"ONE", b" ONE"],
        [b"ONE\n", b"ONE"],
        [b"O", b"NE"],
        [b""],
    ],
)
def test_bytes_that_only_together_look_like_records_are_none(run: list[bytes]) -> None:
    one = encode(Draft("x", "", {}), seq=1, id="rec_1", ts_us=1).data
    assert decode_all([data.replace(b"ONE", one) for data in run]) is None


@given(
    st.dictionaries(st.sampled_from(["actor", "action", "decision", "approval", "evaluation_id"]), st.just({"id": "x"}))
)
def test_what_a_record_is_found_under_is_its_facets(body: dict[str, Any]) -> None:
    assert tuple(text or "" for text in found_under(body)) == msgspec.structs.astuple(facets(body))


@given(st.integers(0, 9), st.integers(0, 300))
def test_trees_join_to_the_tree_over_all_leaves(blocks: int, more: int) -> None:
    leaves = [leaf_hash(b"%d" % at) for at in range(blocks * 256 + more)]
    tree = Frontier()
    for start in range(0, len(leaves), 256):
        tree = tree.join(Frontier().extend(leaves[start : start + 256]))
    assert tree == Frontier().extend(leaves)


def test_a_tree_joins_only_where_its_nodes_are_nodes_of_the_whole() -> None:
    three, two = Frontier().extend([leaf_hash(b"x")] * 3), Frontier().extend([leaf_hash(b"y")] * 2)
    with pytest.raises(ValueError, match="does not fit"):
        three.join(two)

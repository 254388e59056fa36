"""What every store does. A new store joins by the `store` fixture."""

from __future__ import annotations

import json
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import RFC_4122, UUID

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from checkrein.ledger.record import decode, facets
from checkrein.ledger.tree import EMPTY_ROOT, leaf_hash, root_of
from checkrein.ledger.verify import examine
from checkrein.model import StoreConflict, StoreUnavailable
from checkrein.ports import Move, RecordQuery, Row, Save, Unit
from checkrein.storage import sqlite

Store = Any
Made = Any
ALL = RecordQuery()


def numbers(store: Store, **query: Any) -> list[int]:
    return [record.seq for record in store.records(RecordQuery(**query))]


def root(store: Store) -> bytes:
    return root_of(leaf_hash(record.data) for record in store.records(ALL))


def test_an_empty_store_has_an_empty_tree(store: Store) -> None:
    assert (store.head().size, store.head().root) == (0, EMPTY_ROOT)
    assert list(store.records(ALL)) == []
    assert store.row("box", "a") is None
    assert store.rows("box") == []
    assert store.running() == []
    assert store.writable()
    assert store.problems() == ()


def test_records_come_back_in_order_with_their_exact_bytes(store: Store, made: Made) -> None:
    written = store.commit(made.unit("a", "b")).result() + store.commit(made.unit("c")).result()
    assert [record.kind for record in written] == ["a", "b", "c"]
    assert list(store.records(ALL)) == list(written)
    assert [decode(record.data)[0] for record in written] == list(written)


def test_the_head_is_the_tree_over_every_record(store: Store, made: Made) -> None:
    for count in (1, 2, 300):
        store.commit(made.unit(*["x"] * count)).result()
        assert store.head().root == root(store)
    assert store.head().size == 303


def test_ids_are_unique_found_again_and_sorted_by_time(store: Store, made: Made, clock: Any) -> None:
    ids = []
    for _ in range(20):
        ids.extend(record.id for record in store.commit(made.unit("a", "b")).result())
        clock.us += 1000
    assert len(set(ids)) == 40
    assert [id[:16] for id in ids] == sorted(id[:16] for id in ids)
    named = [UUID(id.removeprefix("rec_")) for id in ids]
    assert {(each.version, each.variant) for each in named} == {(7, RFC_4122)}
    assert {format(each.int >> 62 & 3, "b") for each in named} == {"10"}
    assert store.record(ids[7]).seq == 7
    assert store.record("rec_other") is None


def test_time_never_falls_whatever_the_clock_does(store: Store, made: Made, clock: Any) -> None:
    times = []
    for step in (0, 10, -3_600_000_000, 5, 86_400_000_000, -86_400_000_000):
        clock.us += step
        times.append(store.commit(made.unit("x")).result()[0].ts_us)
    assert times == sorted(times)
    assert [store.commit(made.unit("x")).result()[0].ts_us for _ in range(2)] == [times[-1]] * 2


def test_a_row_is_created_moved_and_read_back(store: Store, made: Made) -> None:
    first, second = made.save("a", 1, body=b"\x00one"), made.save("a", 2, state="done", lookup="l", body=b"two")
    store.commit(Unit(saves=(first,))).result()
    assert store.row("box", "a") == first.row
    store.commit(Unit(saves=(second,))).result()
    assert store.row("box", "a") == second.row
    assert store.row("other", "a") is None


@pytest.mark.parametrize("version", [1, 3])
def test_a_row_moves_only_from_the_version_it_has(store: Store, made: Made, version: int) -> None:
    first = made.save("a", 1)
    store.commit(Unit(saves=(first,))).result()
    with pytest.raises(StoreConflict) as caught:
        store.commit(Unit((made.draft(),), (made.save("b", 1), made.save("a", version)))).result()
    assert "`a`" in str(caught.value)
    assert store.row("box", "a") == first.row
    assert store.row("box", "b") is None
    assert store.head().size == 0


def test_records_and_rows_of_a_unit_become_durable_together(store: Store, made: Made) -> None:
    unit = Unit((made.draft("a"), made.draft("b")), (made.save("a", 1), made.save("b", 1)))
    assert len(store.commit(unit).result()) == 2
    assert [row.id for row in store.rows("box")] == ["a", "b"]


def test_a_row_may_move_twice_in_one_unit(store: Store, made: Made) -> None:
    store.commit(Unit(saves=(made.save("a", 1), made.save("a", 2)))).result()
    assert store.row("box", "a").version == 2
    with pytest.raises(StoreConflict):
        store.commit(Unit(saves=(made.save("a", 3), made.save("a", 3)))).result()
    assert store.row("box", "a").version == 2


def test_rows_are_found_by_state_and_lookup_page_by_page(store: Store, made: Made) -> None:
    saves = [made.save(f"{at:02}", 1, state="open" if at % 2 else "done", lookup=f"l{at % 3}") for at in range(12)]
    store.commit(Unit(saves=(*saves, made.save("x", 1, room="elsewhere", lookup="l0")))).result()

    def ids(**query: Any) -> list[str]:
        return [row.id for row in store.rows("box", **query)]

    assert ids() == [f"{at:02}" for at in range(12)]
    assert ids(state="open") == ["01", "03", "05", "07", "09", "11"]
    assert ids(lookup="l0") == ["00", "03", "06", "09"]
    assert ids(lookup="l0", state="open") == ["03", "09"]
    assert ids(after="03", limit=3) == ["04", "05", "06"]
    assert ids(state="open", after="09") == ["11"]


def test_rows_are_queued_by_a_number_in_their_bodies_then_by_id(store: Store) -> None:
    def row(id: str, created: int, state: str = "pending") -> Save:
        body = json.dumps({"created_us": created, "deadline_us": 100}).encode()
        return Save(Row("approval", id, 1, state, "", body), 0)

    rows = (row("c", 5), row("a", 7), row("b", 5), row("d", 6, "denied"))
    store.commit(Unit(saves=(*rows, Save(Row("approval", "z", 1, "pending", "", b"no JSON"), 0)))).result()

    def ids(by: str = "created_us", **query: Any) -> list[str]:
        return [row.id for row in store.queue("approval", "pending", by, **query)]

    assert ids() == ["z", "b", "c", "a"]  # what cannot be read comes first, so that it is noticed
    assert ids(limit=2) == ["z", "b"]
    assert ids(after=(5, "b")) == ["c", "a"]
    assert ids(after=(4, ""), until=5) == ["b", "c"]
    assert ids("deadline_us") == ["z", "a", "b", "c"]


def test_records_are_found_by_every_facet(store: Store, made: Made) -> None:
    approval = {"approval": {"id": "apr_1"}}
    store.commit(
        Unit(
            (
                made.decision(0),
                made.decision(1, "deny", user="bob", agent="bot"),
                made.decision(2, "require_review", **approval),
                made.draft("approval.voted", "t", actor={"id": "carol"}, **approval),
                made.draft("system.note"),
            )
        )
    ).result()
    assert numbers(store) == [0, 1, 2, 3, 4]
    assert numbers(store, kinds=("decision",)) == [0, 1, 2]
    assert numbers(store, kinds=("decision", "system.note"), newest_first=True) == [4, 2, 1, 0]
    assert numbers(store, kinds=("nothing",)) == []
    assert numbers(store, user="bob") == [1]
    assert numbers(store, agent="bot") == [1]
    assert numbers(store, action="send_email") == [0, 1, 2]
    assert numbers(store, outcome="deny") == [1]
    assert numbers(store, risk="amber", user="alice") == [0, 2]
    assert numbers(store, approval="apr_1") == [2, 3]
    assert numbers(store, trace_id="t") == [3]
    assert numbers(store, trace_id="t", outcome="deny") == []
    assert numbers(store, approval="apr_1", kinds=("decision",)) == [2]


def test_records_are_found_by_every_policy_they_name(store: Store, made: Made) -> None:
    decided = {"evaluation_id": "evl_1", "outcome": "deny", "risk": {"level": "red"}}
    erred = {**decided, "policies": ["p1", "p2"], "errors": [{"policy": "p3", "message": "no such attribute"}]}
    store.commit(
        Unit(
            (
                made.draft("decision", decision={**decided, "policies": ["p1", "p1"]}),
                made.draft("decision", decision=erred),
                made.draft("approval.requested", approval={"id": "apr_1", "policies": ["p2"]}),
                made.draft("decision", decision={**decided, "policies": "p1"}),
                made.draft("decision", decision={**decided, "policies": [1, None, ""], "errors": [7, {"policy": []}]}),
            )
        )
    ).result()
    assert numbers(store, policy="p1") == [0, 1]
    assert numbers(store, policy="p2") == [1, 2]
    assert numbers(store, policy="p2", outcome="deny") == [1]
    assert numbers(store, policy="p3", newest_first=True) == [1]
    assert numbers(store, policy="p2", approval="apr_1") == [2]
    assert numbers(store, policy="p4") == []


def test_records_are_cut_by_time_number_and_count(store: Store, made: Made, clock: Any) -> None:
    start = clock.us
    for at in range(6):
        clock.us = start + at // 2 * 10
        store.commit(made.unit("x")).result()
    assert numbers(store, since_us=start + 10) == [2, 3, 4, 5]
    assert numbers(store, until_us=start + 10) == [0, 1]
    assert numbers(store, since_us=start + 1, until_us=start + 20) == [2, 3]
    assert numbers(store, since_us=start + 1000) == []
    assert numbers(store, after_seq=3) == [4, 5]
    assert numbers(store, after_seq=3, newest_first=True) == [5, 4]
    assert numbers(store, before_seq=2) == [0, 1]
    assert numbers(store, before_seq=99, kinds=("x",), after_seq=4) == [5]
    assert numbers(store, after_seq=3, before_seq=2) == []
    assert numbers(store, limit=2) == [0, 1]
    assert numbers(store, limit=2, newest_first=True) == [5, 4]


def test_long_listings_are_complete_and_in_order(store: Store, made: Made) -> None:
    store.commit(Unit(tuple(made.decision(at, ("allow", "deny")[at % 2]) for at in range(700)))).result()
    assert numbers(store) == list(range(700))
    assert numbers(store, newest_first=True) == list(range(699, -1, -1))
    assert numbers(store, outcome="deny", limit=300) == list(range(1, 600, 2))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], max_examples=40)
@given(
    st.fixed_dictionaries(
        {},
        optional={
            "kinds": st.sampled_from([("decision",), ("decision", "system.note"), ("x",)]),
            "user": st.sampled_from(["alice", "bob"]),
            "outcome": st.sampled_from(["allow", "deny"]),
            "policy": st.sampled_from(["p0", "p1", "p2"]),
            "since_us": st.integers(0, 8),
            "until_us": st.integers(1, 9),
            "after_seq": st.integers(-1, 20),
            "before_seq": st.integers(0, 21),
            "limit": st.integers(0, 5),
            "newest_first": st.booleans(),
        },
    )
)
def test_every_filter_means_what_a_plain_reading_of_it_means(store: Store, made: Made, clock: Any, given: Any) -> None:
    start = 1_800_000_000_000_000
    if not store.head().size:
        for at in range(20):
            clock.us = start + at // 3
            other = made.draft("system.note", actor={"id": "alice"})
            draft = made.decision(at, ("allow", "deny")[at % 2], user=("alice", "bob")[at % 3 == 0])
            draft.body["decision"]["policies"] = [f"p{at % 2}", f"p{at % 5}"]
            store.commit(Unit((draft if at % 4 else other,))).result()
    times = {name: start + given[name] for name in ("since_us", "until_us") if name in given}
    query = RecordQuery(**{**given, **times})

    def fits(record: Any) -> bool:
        body = record.body
        return (
            (not query.kinds or record.kind in query.kinds)
            and (not query.user or body["actor"]["id"] == query.user)
            and (not query.outcome or body.get("decision", {}).get("outcome") == query.outcome)
            and record.ts_us >= query.since_us
            and (not query.until_us or record.ts_us < query.until_us)
            and (not query.policy or query.policy in body.get("decision", {}).get("policies", []))
            and record.seq > query.after_seq
            and (not query.before_seq or record.seq < query.before_seq)
        )

    expected = [record for record in store.records(ALL) if fits(record)]
    expected = expected[::-1] if query.newest_first else expected
    assert list(store.records(query)) == (expected[: query.limit] if query.limit else expected)


@pytest.mark.parametrize("body", [{"x": 1.5}, {"x": "\ud800"}, {"x": "a" * 70_000}, {"é": 1}, {"x": 2**53}])
def test_a_record_the_ledger_does_not_admit_is_refused_with_its_whole_unit(
    store: Store, made: Made, body: dict[str, object]
) -> None:
    bad = store.commit(Unit((made.draft("a"), made.draft("b", **body)), (made.save("a", 1),)))
    good = store.commit(made.unit("c"))
    with pytest.raises(StoreUnavailable, match="cannot be stored"):
        bad.result()
    assert good.result() == tuple(store.records(ALL))
    assert store.head().size == 1
    assert store.row("box", "a") is None


def test_a_row_is_removed_by_compare_and_set_and_may_begin_anew(store: Store, made: Made) -> None:
    row, gone = Row("box", "a", 1, "s", "l", b"x"), Row("box", "a", 0, "", "", b"")
    store.commit(Unit(saves=(Save(row, 0),))).result()
    for expect in (2, 7):
        with pytest.raises(StoreConflict):
            store.commit(msgspec.structs.replace(made.unit("a"), saves=(Save(gone, expect),))).result()
    assert store.row("box", "a") == row
    store.commit(Unit(saves=(Save(gone, 1),))).result()
    assert (store.row("box", "a"), store.rows("box"), store.rows("box", lookup="l")) == (None, [], [])
    with pytest.raises(StoreConflict):
        store.commit(Unit(saves=(Save(gone, 1),))).result()
    store.commit(Unit(saves=(Save(row, 0),))).result()
    assert store.row("box", "a") == row


@pytest.mark.parametrize("row", [Row("box", "\ud800", 1, "", "", b""), Row("box", "a", 0, "", "", b"")])
def test_a_row_that_could_fail_others_is_refused_before_it_is_queued(store: Store, row: Row) -> None:
    with pytest.raises(StoreUnavailable, match="cannot be stored"):
        store.commit(Unit(saves=(Save(row, 0),))).result()


def test_what_a_caller_changes_after_commit_is_not_recorded(store: Store, made: Made) -> None:
    body = {"list": [1]}
    future = store.commit(Unit((made.draft("a", **body),)))
    body["list"].append(2)
    assert future.result()[0].body == {"list": [1]}


def test_running_are_the_starts_without_an_end(store: Store, made: Made) -> None:
    store.commit(Unit(tuple(made.execution(at, "started", owner="o") for at in range(4)))).result()
    store.commit(Unit((made.execution(1, "finished"), made.execution(2, "unknown")))).result()
    assert [record.seq for record in store.running()] == [0, 3]


def test_many_threads_write_one_intact_tree_and_lose_nothing(store: Store, made: Made) -> None:
    futures: list[Any] = []

    def write(thread: int) -> None:
        units = (Unit((made.draft("a", thread=thread, at=at), made.draft("b"))) for at in range(50))
        futures.extend(store.commit(unit) for unit in units)

    threads = [threading.Thread(target=write, args=(at,)) for at in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    written = [record for future in futures for record in future.result()]
    assert sorted(record.seq for record in written) == list(range(800))
    assert sorted(store.records(ALL), key=lambda r: r.seq) == sorted(written, key=lambda r: r.seq)
    assert store.head().root == root(store)
    for future in futures:
        first, second = future.result()
        assert second.seq == first.seq + 1


def test_of_many_who_move_one_row_at_once_each_step_has_one_winner(store: Store, made: Made) -> None:
    store.commit(Unit(saves=(made.save("a", 1),))).result()

    def race(version: int) -> list[bool]:
        futures = [store.commit(Unit((made.draft("won"),), (made.save("a", version),))) for _ in range(20)]
        return [future.exception() is None for future in futures]

    for version in range(2, 6):
        assert race(version).count(True) == 1
    assert len(numbers(store, kinds=("won",))) == 4


def test_a_snapshot_verifies(store: Store, made: Made) -> None:
    store.commit(Unit((made.decision(1), made.execution(1, "started"), made.execution(1, "finished")))).result()
    with store.snapshot() as snapshot:
        report = examine(msgspec.structs.replace(snapshot, checkpoint=""))
    assert (report.records, report.problems) == (3, ())


def test_this_process_is_alive_and_others_are_not(store: Store) -> None:
    assert store.owner_alive(store.owner_token())
    for token in ("", "own_" + "0" * 32, "../checkpoint", "own_x"):
        assert not store.owner_alive(token)


def test_a_closed_store_refuses_politely(store: Store, made: Made) -> None:
    store.commit(made.unit("a")).result()
    store.close()
    store.close()
    with pytest.raises(StoreUnavailable):
        store.commit(made.unit("b")).result()
    for read in (store.head, lambda: store.row("box", "a"), lambda: list(store.records(ALL))):
        with pytest.raises(StoreUnavailable):
            read()
    assert not store.writable()


def test_counts_are_what_a_walk_counts_within_any_bounds(
    store: Store, made: Made, clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "_SHAPES", 3)
    for at in range(60):
        decision = made.decision(at, ("allow", "deny")[at % 7 == 0], user=f"user-{at % 5}")
        store.commit(Unit((decision, made.execution(at, "started")))).result()
        clock.us += 1_000_000
    middle = clock.us - 30_000_000
    for query in ({}, {"since_us": middle}, {"until_us": middle}, {"after_seq": 10, "before_seq": 50}):
        walked = Counter(
            (record.kind, found.action, found.outcome, found.risk)
            for record in store.records(RecordQuery(**query))
            for found in [facets(record.body)]
        )
        found: Counter[tuple[str, ...]] = Counter()
        for each in store.counts(RecordQuery(**query)):
            found[each.kind, each.action, each.outcome, each.risk] += each.count
        assert found == walked


def test_a_sample_is_all_or_about_so_many_and_each_part_of_the_log_has_its_share(store: Store, made: Made) -> None:
    units = [Unit((made.decision(at), made.execution(at, "started"), made.draft("x"))) for at in range(1200)]
    for written in [store.commit(unit) for unit in units]:
        written.result()
    every = list(store.records(RecordQuery(kinds=("decision",))))
    assert store.sample("decision", 1200, ALL) == every
    drawn = store.sample("decision", 120, ALL)
    assert drawn == store.sample("decision", 120, ALL)
    assert set(drawn) <= set(every)
    assert 110 <= len(drawn) <= 130
    tenths = Counter(record.seq * 10 // 3600 for record in drawn)
    assert set(tenths) == set(range(10))
    assert max(tenths.values()) <= 2 * min(tenths.values())
    assert store.sample("decision", 9, RecordQuery(after_seq=3599)) == []


def add(number: int, limit: int = 1000) -> Move:
    """Add to a counter that may not pass `limit`."""

    def apply(body: bytes | None) -> bytes:
        made = int(body or b"0") + number
        if made > limit:
            raise StoreConflict("it is full")
        return str(made).encode()

    return Move("counter", "c", apply)


def counted(store: Store) -> int:
    row = store.row("counter", "c")
    return int(row.body) if row else 0


def test_a_move_sees_what_the_one_before_it_left_also_within_one_unit(store: Store, made: Made) -> None:
    store.commit(Unit((made.draft(),), moves=(add(2), add(3)))).result()
    assert counted(store) == 5
    for written in [store.commit(Unit(moves=(add(1),))) for _ in range(100)]:
        written.result()
    assert counted(store) == 105


def test_of_many_callers_a_limit_lets_through_exactly_as_many_as_fit(store: Store, made: Made) -> None:
    with ThreadPoolExecutor(64) as pool:
        units = [Unit((made.draft(),), moves=(add(1, limit=40),)) for _ in range(64)]
        futures = [written.result() for written in [pool.submit(store.commit, unit) for unit in units]]
    errors = [future.exception() for future in futures]
    assert sum(error is None for error in errors) == counted(store) == store.head().size == 40
    assert all(isinstance(error, StoreConflict) for error in errors if error)


def test_a_move_of_a_unit_that_is_refused_leaves_nothing(store: Store, made: Made) -> None:
    store.commit(Unit(saves=(made.save("a", 1),))).result()
    for unit in (
        Unit((made.draft(),), (made.save("a", 1),), (add(1),)),
        Unit((made.draft(),), (made.save("b", 1),), (add(1), add(1000))),
    ):
        with pytest.raises(StoreConflict):
            store.commit(unit).result()
    assert (counted(store), store.head().size, store.row("box", "b")) == (0, 0, None)


def test_a_move_that_breaks_fails_its_own_unit_alone(store: Store, made: Made) -> None:
    def broken(body: bytes | None) -> bytes:
        raise ZeroDivisionError

    failed = store.commit(Unit((made.draft(),), moves=(Move("counter", "c", broken),)))
    written = store.commit(Unit((made.draft(),), moves=(add(1),)))
    assert isinstance(failed.exception(), StoreUnavailable)
    assert written.result()
    assert counted(store) == 1

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from checkrein.ledger import Draft, Head
from checkrein.ledger.checkpoint import Signer
from checkrein.ledger.tree import Frontier, leaf_hash
from checkrein.ledger.verify import MAX_PROBLEMS, Entry, Report, Snapshot, examine
from checkrein.model import LedgerInvalid

Make = Callable[[int], Any]
MakeEntry = Callable[[Draft, int, int], Entry]
replace = msgspec.structs.replace
shared = settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


def check(log: Any, **given: Any) -> Report:
    return examine(log.snapshot(**given), vkey=log.signer.vkey)


def test_beside_a_live_server_the_newest_await_the_next_checkpoint() -> None:
    report = Report(records=7, root=b"", checkpoint_size=5)
    assert report.summary() == "7 records verify: 5 under the signed checkpoint, the newest 2 await the next one"
    report = Report(records=7, root=b"", checkpoint_size=7)
    assert report.summary() == "7 records verify, all of them under the signed checkpoint"


@pytest.mark.parametrize("count", [0, 1, 2, 3, 7, 64, 100])
def test_a_log_as_it_was_written_verifies(make_log: Make, count: int) -> None:
    log = make_log(count)
    report = check(log)
    assert report == Report(records=count, root=log.head().root, checkpoint_size=count)
    assert report.require() is report


def test_a_checkpoint_may_be_behind_the_log(make_log: Make) -> None:
    log = make_log(10)
    log.signed = Head(4, make_log(4).head().root)
    assert check(log, head=log.head()).checkpoint_size == 4


def test_without_checkpoint_and_key_only_the_stored_head_counts_and_the_report_says_so(make_log: Make) -> None:
    log = make_log(4)
    report = examine(Snapshot(head=log.head(), entries=iter(log.entries)))
    assert (report.problems, report.checkpoint_size) == ((), None)
    assert "no checkpoint" in report.summary()


def test_a_missing_checkpoint_or_a_missing_key_is_a_problem(make_log: Make) -> None:
    log = make_log(4)
    bare = examine(Snapshot(head=log.head(), entries=iter(log.entries)), vkey=log.signer.vkey)
    assert bare.problems == ("there is no checkpoint for the public key",)
    assert examine(log.snapshot()).problems == ("there is no public key to check the checkpoint with",)


def test_a_checkpoint_by_somebody_else_proves_nothing(make_log: Make) -> None:
    log = make_log(4)
    stranger = Signer(b"s" * 32, "example.com/log")
    assert "not signed by the known key" in examine(log.snapshot(), vkey=stranger.vkey).problems[0]


@shared
@given(st.data())
def test_any_single_byte_change_is_detected(make_log: Make, data: st.DataObject) -> None:
    log = make_log(9)
    seq = data.draw(st.integers(0, 8))
    entry = log.entries[seq]
    raw = bytearray(entry.record.data)
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
    log.entries[seq] = replace(entry, record=replace(entry.record, data=bytes(raw)))
    report = check(log)
    assert report.first_bad == seq
    with pytest.raises(LedgerInvalid, match=f"record {seq} "):
        report.require()


@shared
@given(st.data())
def test_any_change_of_a_stored_hash_is_detected(make_log: Make, data: st.DataObject) -> None:
    log = make_log(9)
    seq = data.draw(st.integers(0, 8))
    leaf = bytearray(log.entries[seq].leaf)
    leaf[data.draw(st.integers(0, 31))] ^= data.draw(st.integers(1, 255))
    log.entries[seq] = replace(log.entries[seq], leaf=bytes(leaf))
    assert check(log).first_bad == seq


@pytest.mark.parametrize(
    ("name", "value"), [("seq", 5), ("id", "rec_x"), ("kind", "decision"), ("trace_id", "x"), ("ts_us", 1)]
)
def test_a_column_that_disagrees_with_the_bytes_is_named(make_log: Make, name: str, value: object) -> None:
    log = make_log(9)
    log.entries[4] = replace(log.entries[4], record=replace(log.entries[4].record, **{name: value}))
    report = check(log)
    assert any(f"`{name}` is not what its bytes say" in problem for problem in report.problems)
    assert report.first_bad == 4


def test_a_record_hidden_from_a_filter_is_named(make_log: Make) -> None:
    log = make_log(9)
    log.entries[3] = replace(log.entries[3], facets=replace(log.entries[3].facets, outcome="deny"))
    assert check(log).first_bad == 3


@pytest.mark.parametrize("seq", [0, 4, 7])
def test_a_missing_record_is_named(make_log: Make, seq: int) -> None:
    log = make_log(9)
    del log.entries[seq]
    report = check(log)
    assert report.first_bad == seq
    assert report.problems[0] == f"record {seq} is missing"


def test_a_run_of_missing_records_is_one_problem(make_log: Make) -> None:
    log = make_log(9)
    del log.entries[2:6]
    assert check(log).problems[0] == "records 2 to 5 are missing"


@pytest.mark.parametrize("kept", [0, 1, 8])
def test_a_cut_tail_is_detected_even_when_the_head_was_cut_too(make_log: Make, kept: int) -> None:
    log = make_log(9)
    del log.entries[kept:]
    for head in (log.signed, log.head()):
        report = check(log, head=head)
        assert report.first_bad == kept
        assert "cut off" in report.problems[-1]


def test_records_behind_the_head_are_somebody_elses(make_log: Make) -> None:
    log = make_log(9)
    head = make_log(6).head()
    log.signed = head
    report = check(log, head=head)
    assert report.first_bad == 6
    assert "added by somebody else" in report.problems[0]


def test_swapped_records_are_named(make_log: Make) -> None:
    log = make_log(9)
    log.entries[3], log.entries[6] = log.entries[6], log.entries[3]
    assert check(log).first_bad == 3


def test_a_rewritten_log_with_a_head_of_its_own_fails_at_the_checkpoint(make_log: Make, make_entry: MakeEntry) -> None:
    log = make_log(9)
    trail = [entry.leaf for entry in log.entries]
    forged = Draft("decision", "00" * 16, {"decision": {"evaluation_id": "evl_0", "outcome": "deny"}})
    log.entries[6] = make_entry(forged, 6, log.entries[6].record.ts_us)
    bare = check(log, head=log.head())
    assert bare.first_bad is None or bare.first_bad > 6
    assert "do not have the root of the checkpoint" in " ".join(bare.problems)
    named = check(log, head=log.head(), trail=trail)
    assert any("record 6 is the first" in problem for problem in named.problems)


def test_hashes_kept_outside_that_are_wrong_accuse_no_record(make_log: Make) -> None:
    log = make_log(9)
    report = check(log, trail=[entry.leaf for entry in log.entries[:4]] + [leaf_hash(b"x")])
    assert report.first_bad is None
    assert report.problems == ("the file of hashes is wrong at 4; the records themselves are as signed",)


def test_time_never_falls(make_log: Make, make_entry: MakeEntry) -> None:
    log = make_log(3)
    log.entries.append(make_entry(Draft("system.start", "", {}), 3, log.entries[2].record.ts_us - 1))
    log.signed = log.head()
    assert check(log).problems == ("record 3 is older than the record before it",)


@pytest.mark.parametrize(
    ("outcome", "evaluation", "runs"),
    [
        ("allow", "evl_9", True),
        ("allow_with_redaction", "evl_9", True),
        ("require_review", "evl_9", False),
        ("deny", "evl_9", False),
        ("allow", "evl_8", False),
    ],
)
@pytest.mark.parametrize("remembers", [True, False])
def test_no_execution_starts_without_a_decision_that_lets_it_run(
    make_entry: MakeEntry, make_log: Make, outcome: str, evaluation: str, runs: bool, remembers: bool
) -> None:
    log = make_log(0)
    decided = Draft("decision", "t", {"decision": {"evaluation_id": evaluation, "outcome": outcome}})
    started = Draft("execution.started", "t", {"evaluation_id": "evl_9"})
    log.entries = [make_entry(decided, 0, 1), make_entry(started, 1, 2)]
    log.signed = log.head()
    entries = list(log.entries)
    snapshot = log.snapshot()
    if not remembers:  # everything older than the window is looked up
        snapshot = replace(
            snapshot,
            entries=iter(entries),
            earlier=lambda trace, seq: [e.record for e in entries if e.record.trace_id == trace and e.record.seq < seq],
        )
    report = examine(snapshot, vkey=log.signer.vkey)
    assert report.first_bad == (None if runs else 1)


def test_a_decision_after_the_start_does_not_count(make_entry: MakeEntry, make_log: Make) -> None:
    log = make_log(0)
    ids = {"evaluation_id": "evl_1"}
    log.entries = [
        make_entry(Draft("execution.started", "t", ids), 0, 1),
        make_entry(Draft("decision", "t", {"decision": {**ids, "outcome": "allow"}}), 1, 2),
    ]
    log.signed = log.head()
    assert check(log).first_bad == 0


def test_old_decisions_are_looked_up_and_not_remembered(
    monkeypatch: pytest.MonkeyPatch, make_entry: MakeEntry, make_log: Make
) -> None:
    monkeypatch.setattr("checkrein.ledger.verify.WINDOW", 2)
    monkeypatch.setattr("checkrein.ledger.verify.RUN", 2)
    log = make_log(0)
    drafts = [
        Draft("decision", f"t{at}", {"decision": {"evaluation_id": f"evl_{at}", "outcome": "allow"}}) for at in range(5)
    ]
    drafts.append(Draft("execution.started", "t0", {"evaluation_id": "evl_0"}))
    log.entries = entries = [make_entry(draft, seq, seq) for seq, draft in enumerate(drafts)]
    log.signed = log.head()
    asked: list[tuple[str, int]] = []

    def earlier(trace: str, seq: int) -> list[Any]:
        asked.append((trace, seq))
        return [entry.record for entry in entries if entry.record.trace_id == trace and entry.record.seq < seq]

    report = examine(replace(log.snapshot(), earlier=earlier), vkey=log.signer.vkey)
    assert report.problems == ()
    assert asked == [("t0", 5)]


def test_a_ruined_log_does_not_fill_the_report(make_log: Make) -> None:
    log = make_log(200)
    log.entries = [replace(entry, leaf=leaf_hash(b"x")) for entry in log.entries]
    report = check(log)
    assert len(report.problems) == MAX_PROBLEMS
    assert report.first_bad == 0


def test_the_root_in_the_report_is_of_the_stored_hashes(make_log: Make) -> None:
    log = make_log(9)
    assert check(log).root == Frontier().extend(entry.leaf for entry in log.entries).root

"""`audit` and `activity`: they read, also what no verb writes to any more, and name what was changed."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., Any]


@pytest.fixture
def busy(folder: Path, cli: Run, asking: Callable[..., Path]) -> Path:
    """A read by alice (record 1), mail by alice that waits (2, 3) and a denied transfer by erin (4)."""
    for action, user in (("read_file", "alice"), ("send_email", "alice"), ("transfer_funds", "erin")):
        cli("decide", asking(action, user=user), "--dir", folder)
    return folder


FILTERS = {
    "": [0, 1, 2, 3, 4],
    "--limit 2": [3, 4],
    "--user erin": [4],
    "--outcome DENY": [4],
    "--user alice --outcome allow": [1],
    "--kind approval.requested,policy.changed": [0, 3],
    "--action send_email --kind decision": [2],
    "--agent nobody": [],
    "--tool send_email --user alice": [2, 3],
    "--policy no-transfers": [4],
    "--policy mail-review --kind approval.requested": [3],
    "--policy mail-review --user erin": [],
    "--risk red --outcome allow": [],
    "--since 2h": [0, 1, 2, 3, 4],
    "--since 2000-01-01 --until 2000-01-02T00:00:00+02:00": [],
    "--until 2h": [],
}


def test_filters_add_up(busy: Path, cli: Run) -> None:
    for filters, seqs in FILTERS.items():
        found = cli("audit", "list", *filters.split(), "--dir", busy, "-o", "json").json()
        assert [record["seq"] for record in found] == seqs


BAD = {
    "--outcome perhaps": "`perhaps` is no outcome",
    "--since yesterday": "`yesterday` is no time",
    "--until 1960-01-01": "no time since 1970",
    "--since 1h --until 2h": "ends before it begins",
}


@pytest.mark.parametrize("verb", ["list", "tail", "export"])
def test_a_filter_that_is_none_is_refused_and_says_what_to_write(verb: str, busy: Path, cli: Run) -> None:
    for filters, message in BAD.items():
        ran = cli("audit", verb, *filters.split(), "--dir", busy)
        assert (ran.code, ran.out) == (2, "")
        assert message in ran.err
        assert "hint: " in ran.err


def test_all_that_belongs_to_an_approval_is_found_by_its_id(busy: Path, cli: Run) -> None:
    (asked,) = cli("audit", "list", "--kind", "approval.requested", "--dir", busy, "-o", "json").json()
    id = asked["body"]["approval"]["id"]
    found = cli("audit", "list", "--approval", id, "--dir", busy, "-o", "json").json()
    assert [record["seq"] for record in found] == [2, 3]


def test_a_record_is_shown_by_number_and_by_id(busy: Path, cli: Run) -> None:
    by_number = cli("audit", "show", 4, "--dir", busy).json()
    assert by_number["body"]["actor"]["id"] == "erin"
    assert cli("audit", "show", by_number["id"], "--dir", busy).json() == by_number
    assert "transfer_funds" in cli("audit", "show", 4, "--dir", busy, "-o", "table").out


def test_what_happened_is_one_row_an_action(busy: Path, cli: Run) -> None:
    rows = cli("activity", "--dir", busy, "-o", "json").json()
    assert [(row["user"], row["decision"], row["status"]) for row in rows] == [
        ("alice", "allow", "allowed"),
        ("alice", "require_review", "pending"),
        ("erin", "deny", "denied"),
    ]
    assert len(cli("activity", "--user", "erin", "--dir", busy, "-o", "json").json()) == 1


def test_reading_needs_no_policies_and_writes_nothing(busy: Path, cli: Run) -> None:
    before = cli("audit", "list", "--dir", busy).out
    (busy / "policies/main.cedar").write_text("permit (")
    assert cli("audit", "list", "--dir", busy).out == before
    assert cli("activity", "--dir", busy).code == 0


def test_a_ledger_verifies_also_as_a_copy_with_ones_own_key(busy: Path, cli: Run, tmp_path: Path) -> None:
    copy, key = tmp_path / "copy", tmp_path / "my.pub"
    shutil.copytree(busy / ".checkrein", copy)
    shutil.copy(busy / ".checkrein/signer.pub", key)
    ran = cli("audit", "verify", "--data", copy, "--key", key)
    assert (ran.code, ran.out, ran.err) == (0, "5 records verify, all of them under the signed checkpoint\n", "")
    report = cli("audit", "verify", "--dir", busy, "-o", "json").json()
    assert (report["ok"], report["records"], report["checkpoint_size"]) == (True, 5, 5)


def test_anothers_key_does_not_verify(busy: Path, cli: Run, tmp_path: Path) -> None:
    cli("init", tmp_path / "other")
    cli("keys", "create", "x", "--dir", tmp_path / "other")
    assert cli("audit", "verify", "--dir", busy, "--key", tmp_path / "other/.checkrein/signer.pub").code == 6


def tamper(folder: Path, *statements: str) -> None:
    """What somebody with the file in hand can do."""
    connection = sqlite3.connect(folder / ".checkrein/ledger.db")
    for trigger in ("record_stays", "record_remains"):
        connection.execute(f"DROP TRIGGER {trigger}")
    for statement in statements:
        connection.execute(statement)
    connection.commit()
    connection.close()


#: an edit, the record that `audit verify` names, and whether verbs that write refuse to start on it
EDITS = [
    ("UPDATE record SET data = CAST(replace(data, 'erin', 'mary') AS BLOB) WHERE seq = 4", "record 4", False),
    ("UPDATE record SET user = 'mary' WHERE seq = 4", "record 4", False),
    ("UPDATE record SET data = CAST('garbage' AS BLOB) WHERE seq = 2", "record 2", False),
    ("UPDATE record SET leaf = zeroblob(32) WHERE seq = 1", "record 1", True),
    ("DELETE FROM record WHERE seq = 1", "record 1", True),
    ("DELETE FROM record WHERE seq = 4", "4 are stored", True),
]


@pytest.mark.parametrize(("edit", "named", "refuses"), EDITS)
def test_a_ledger_changed_by_hand_does_not_verify_and_the_record_is_named(
    edit: str, named: str, refuses: bool, busy: Path, cli: Run, asking: Callable[..., Path]
) -> None:
    tamper(busy, edit)
    ran = cli("audit", "verify", "--dir", busy)
    assert (ran.code, ran.out) == (6, "")
    assert named in ran.err.splitlines()[0]
    assert "hint: " in ran.err
    value = cli("audit", "verify", "--dir", busy, "-o", "json")
    assert (value.code, value.json()["ok"]) == (6, False)
    assert "fail" in [f["verdict"] for f in cli("doctor", "--dir", busy, "-o", "json").json()["findings"]]
    decided = cli("decide", asking(), "--dir", busy)
    assert (decided.code, decided.out == "") == ((6, True) if refuses else (0, False))
    exported = cli("audit", "export", "--dir", busy)
    assert exported.code == 0  # for whoever compares it with a backup
    for verb in ("audit list", "activity", "audit show 2", "keys list", "approvals list"):
        assert cli(*verb.split(), "--dir", busy).code in (0, 1, 6)


@pytest.mark.parametrize(
    "edit",
    [
        "DELETE FROM head",
        "DROP TABLE record",
        'DROP TABLE "row"',
        """UPDATE "row" SET body = CAST('garbage' AS BLOB)""",
        "UPDATE record SET data = CAST('garbage' AS BLOB) WHERE seq = 0",
    ],
)
def test_a_ruined_store_is_refused_by_every_verb(edit: str, busy: Path, cli: Run, asking: Callable[..., Path]) -> None:
    tamper(busy, edit)
    for verb in ("audit verify", "audit list", "activity", "keys list", "approvals list", f"decide {asking()}"):
        ran = cli(*verb.split(), "--dir", busy)
        assert ran.code in (0, 6, 7)
        assert ran.code == 0 or "hint: " in ran.err
    assert cli("doctor", "--dir", busy).code in (0, 1)


def test_a_store_that_is_no_database_is_named(busy: Path, cli: Run) -> None:
    (busy / ".checkrein/ledger.db").write_bytes(b"not a database" * 1000)
    for suffix in ("-wal", "-shm"):
        (busy / f".checkrein/ledger.db{suffix}").unlink(missing_ok=True)
    for verb in ("audit verify", "audit list", "keys list", "approvals list"):
        ran = cli(*verb.split(), "--dir", busy)
        assert ran.code == 6
        assert "ledger.db` is damaged" in ran.err


def test_verify_looks_at_the_indexes_when_asked(busy: Path, cli: Run) -> None:
    import apsw

    assert cli("audit", "verify", "--indexes", "--dir", busy).code == 0
    connection = apsw.Connection(str(busy / ".checkrein/ledger.db"))
    connection.execute("DROP INDEX record_trace")
    connection.close()
    assert cli("audit", "verify", "--dir", busy).code == 0
    ran = cli("audit", "verify", "--indexes", "--dir", busy)
    assert (ran.code, "`record_trace` in the database is missing" in ran.err) == (6, True)

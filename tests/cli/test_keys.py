"""`keys`: the secret is shown once, alone on stdout, and revoking works whatever else is broken."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apsw
import pytest

Run = Callable[..., Any]


def test_a_new_key_stands_alone_on_stdout_and_nowhere_else(folder: Path, cli: Run) -> None:
    ran = cli("keys", "create", "bot", "--owner", "alice", "--roles", "a, b", "--can", "call,audit", "--dir", folder)
    secret = ran.out.strip()
    assert ran.out == f"{secret}\n"
    assert secret.startswith("crk_")
    assert "may call, audit as alice" in ran.err
    (key,) = cli("keys", "list", "--dir", folder, "-o", "json").json()
    assert (key["owner"], key["roles"], key["permissions"], key["status"]) == (
        "alice",
        ["a", "b"],
        ["call", "audit"],
        "live",
    )
    digest = hashlib.sha256(secret.encode()).hexdigest()
    for text in (cli("keys", "list", "--dir", folder, "-o", json_or_table).out for json_or_table in ("json", "table")):
        assert secret not in text
        assert digest not in text
    files = [path.read_bytes() for path in (folder / ".checkrein").rglob("*") if path.is_file()]
    assert not any(secret.encode() in data for data in files)


def test_who_made_a_key_is_recorded(folder: Path, cli: Run) -> None:
    import getpass

    key = cli("keys", "create", "bot", "--dir", folder, "-o", "json").json()
    (record,) = cli("audit", "list", "--kind", "admin.key_created", "--dir", folder, "-o", "json").json()
    assert record["body"]["detail"]["key"] == key["id"]
    assert record["body"]["actor"]["id"] == getpass.getuser()


def test_a_key_expires(folder: Path, cli: Run) -> None:
    key = cli("keys", "create", "bot", "--expires", "2d", "--dir", folder, "-o", "json").json()
    assert key["expires_us"] - key["created_us"] == 2 * 86_400_000_000


def test_a_key_can_be_revoked_while_the_policies_are_broken(folder: Path, cli: Run) -> None:
    id = cli("keys", "create", "bot", "--dir", folder, "-o", "json").json()["id"]
    (folder / "policies/main.cedar").write_text("permit (")
    ran = cli("keys", "revoke", id, "--dir", folder)
    assert (ran.code, ran.err) == (0, f"{id} (bot) is revoked\n")
    assert cli("keys", "revoke", id, "--dir", folder, "-o", "json").json()["status"] == "revoked"
    assert "revoked" in cli("keys", "list", "--dir", folder).out


def test_rotating_the_signer_prints_the_new_public_key_alone(folder: Path, cli: Run, tmp_path: Path) -> None:
    cli("keys", "create", "bot", "--dir", folder)
    data = folder / ".checkrein"
    old = tmp_path / "old.pub"
    old.write_bytes((data / "signer.pub").read_bytes())
    ran = cli("keys", "rotate-signer", "--overlap", "90d", "--dir", folder)
    assert ran.code == 0
    assert ran.out == (data / "signer.pub").read_text() != old.read_text()
    assert re.fullmatch(
        r"the ledger has a new key; the old one signs beside it until [\d :-]{16} UTC, then it is destroyed\. "
        r"Hand out the new public key:\n",
        ran.err,
    )
    made = cli("keys", "rotate-signer", "--overlap", "0s", "--keep", "--dir", folder, "-o", "json").json()
    assert (made["old"], made["new"]) == (ran.out.strip(), (data / "signer.pub").read_text().strip())
    assert len(list(data.glob("signer-*.key"))) == 1
    for key in (old, data / "signer.pub"):
        assert cli("audit", "verify", "--dir", folder, "--key", key).code == 0
    rotations = cli("audit", "list", "--kind", "key.rotated", "--dir", folder, "-o", "json").json()
    assert [record["body"]["detail"]["new"] for record in rotations] == [made["old"], made["new"]]


def test_an_overlap_that_is_no_time_is_refused(folder: Path, cli: Run) -> None:
    ran = cli("keys", "rotate-signer", "--overlap", "soon", "--dir", folder)
    assert (ran.code, "hint: write" in ran.err) == (2, True)


def test_a_running_server_takes_the_new_signer_without_a_restart(
    folder: Path, cli: Run, serving: Callable[..., Any]
) -> None:
    data = folder / ".checkrein"
    with serving(folder):
        new = cli("keys", "rotate-signer", "--overlap", "0s", "--dir", folder).out.strip()
        cli("keys", "create", "bot", "--dir", folder)
        assert cli("audit", "verify", "--dir", folder).code == 0
        assert (data / "signer.pub").read_text().strip() == new
        assert len((data / "signer.key").read_text().splitlines()) == 1
    assert cli("audit", "verify", "--dir", folder).code == 0


@pytest.mark.parametrize("body", [b"{}", b"[", b"\xff", b'{"id": 7}', b"[" * 100_000])
def test_a_key_that_the_store_does_not_hold_as_it_was_written_is_named(folder: Path, cli: Run, body: bytes) -> None:
    id = cli("keys", "create", "bot", "--dir", folder, "-o", "json").json()["id"]
    connection = apsw.Connection(str(folder / ".checkrein/ledger.db"))
    connection.execute('UPDATE "row" SET body = ? WHERE room = ?', (body, "key"))
    connection.close()
    for verb in (("list",), ("revoke", id)):
        ran = cli("keys", *verb, "--dir", folder)
        assert (ran.code, ran.out) == (6, "")
        assert ran.err.startswith(f"error: the key `{id}` in the store is not what checkrein wrote\nhint: restore")
    assert f"the key `{id}` in the store is not what checkrein wrote" in cli("doctor", "--dir", folder).out


def test_a_rotated_key_is_printed_alone_and_the_old_one_works_until_the_overlap_is_over(folder: Path, cli: Run) -> None:
    made = cli("keys", "create", "bot", "--dir", folder, "-o", "json").json()
    ran = cli("keys", "rotate", made["id"], "--overlap", "7d", "--expires", "90d", "--dir", folder)
    assert ran.code == 0
    assert re.fullmatch(r"crk_\S+\n", ran.out)
    assert re.search(rf"{made['id']} has a new secret; the old one opens it until [\d :-]{{16}} UTC", ran.err)
    again = cli("keys", "rotate", made["id"], "--overlap", "0s", "--dir", folder, "-o", "json").json()
    assert {made["key"], ran.out.strip()}.isdisjoint({again["key"]})
    (listed,) = cli("keys", "list", "--dir", folder, "-o", "json").json()
    assert (listed["previous_until_us"], listed["used_us"], listed["status"]) == (0, 0, "live")
    assert listed["expires_us"] > listed["rotated_us"] > 0
    assert not [name for name in listed if "digest" in name]
    assert "never" in cli("keys", "list", "--dir", folder).out
    assert cli("keys", "rotate", "key_0", "--dir", folder).code == 1

"""`decide`: the outcome is the exit code, and only a dry run leaves no record."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., Any]


@pytest.mark.parametrize(
    ("action", "outcome", "code"),
    [("read_file", "allow", 0), ("send_email", "require_review", 4), ("transfer_funds", "deny", 3)],
)
def test_the_exit_code_is_the_outcome(
    action: str, outcome: str, code: int, folder: Path, cli: Run, asking: Callable[..., Path]
) -> None:
    ran = cli("decide", asking(action), "--dir", folder)
    assert (ran.code, ran.err) == (code, "")
    assert ran.json()["context"]["outcome"] == outcome
    assert ran.json()["decision"] is (outcome == "allow")
    (row,) = cli("activity", "--dir", folder, "-o", "json").json()
    assert (row["decision"], row["trace_id"]) == (outcome, ran.json()["context"]["trace_id"])


def test_a_process_of_its_own_answers_the_same_way(folder: Path, spawn: Run, asking: Callable[..., Path]) -> None:
    ran = spawn("decide", "-", "--dir", folder, stdin=asking("transfer_funds").read_bytes())
    assert (ran.code, ran.json()["context"]["outcome"], ran.err) == (3, "deny", "")


@pytest.mark.parametrize("action", ["read_file", "send_email", "transfer_funds"])
def test_a_dry_run_decides_the_same_and_leaves_nothing(
    action: str, folder: Path, cli: Run, asking: Callable[..., Path]
) -> None:
    dry = cli("decide", asking(action), "--dry-run", "--dir", folder)
    assert not (folder / ".checkrein").exists()
    real = cli("decide", asking(action), "--dir", folder)
    assert dry.code == real.code
    assert dry.json()["context"]["policies"] == real.json()["context"]["policies"]


def test_a_redaction_is_an_allow_only_to_those_who_can_redact(folder: Path, cli: Run, tmp_path: Path) -> None:
    path = tmp_path / "prompt.json"

    def decided(**context: object) -> Any:
        message = {"role": "user", "content": "write to jane@example.com"}
        request = {
            "subject": {"type": "user", "id": "alice"},
            "action": {"name": "prompt", "properties": {"input": {"messages": [message]}}},
            "resource": {"type": "model", "id": "m"},
            "context": context,
        }
        path.write_text(json.dumps(request))
        return cli("decide", path, "--dir", folder)

    knows, ignorant = decided(supported_obligations=["custom"]), decided()
    assert (knows.code, knows.json()["decision"], knows.err) == (0, True, "")
    assert (ignorant.code, ignorant.json()["decision"]) == (3, False)
    assert "so it is denied" in ignorant.err
    assert ignorant.json()["context"]["reasons"][0] == "obligation_unsupported"


def test_for_people_there_is_a_table(folder: Path, cli: Run, asking: Callable[..., Path]) -> None:
    shown = cli("decide", asking("transfer_funds"), "--dir", folder, "-o", "table").out
    facts = dict(line.split(maxsplit=1) for line in shown.splitlines())
    assert (facts["outcome"], facts["instead"]) == ("deny", "draft the transfer")


def test_the_folder_may_come_from_the_environment(folder: Path, cli: Run, asking: Callable[..., Path]) -> None:
    assert cli("decide", asking(), CHECKREIN_DIR=str(folder)).code == 0


def test_the_store_may_lie_elsewhere(folder: Path, cli: Run, asking: Callable[..., Path], tmp_path: Path) -> None:
    data = tmp_path / "a/store"
    assert cli("decide", asking(), "--dir", folder, "--data", data).code == 0
    assert not (folder / ".checkrein").exists()
    assert len(cli("activity", "--data", data, "-o", "json").json()) == 1
    assert cli("audit", "verify", "--data", data).code == 0


@pytest.mark.parametrize("name", ["x" * 513, ""])
def test_a_name_nobody_could_record_is_refused(name: str, folder: Path, cli: Run, tmp_path: Path) -> None:
    path = tmp_path / "odd.json"
    subject = {"type": "user", "id": name}
    resource = {"type": "tool", "id": "x"}
    path.write_text(json.dumps({"subject": subject, "action": {"name": "read_file"}, "resource": resource}))
    ran = cli("decide", path, "--dir", folder)
    assert ran.code == 2
    assert "`subject.id` is empty or longer than 512 characters" in ran.err

"""`checkrein drift report`: real decisions in a real store against golden cases, told so that a person can act."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from checkrein.compose import open_system
from checkrein.model import Action, Request, Resource, Subject
from checkrein.ports import RecordQuery

Run = Callable[..., Any]


@pytest.fixture
def folder(folder: Path) -> Path:
    """The usual folder, with an auditor, dora, and content with golden sets that a test has time for."""
    config = folder / "checkrein.toml"
    config.write_text(config.read_text() + '\n[people.dora]\nroles = ["auditor"]\n\n[drift]\nnotice = 0.25\n')
    (folder / "golden").mkdir()
    return folder


def request(action: str, at: int) -> Request:
    given = {
        "read_file": {"path": f"/reports/{at % 10}"},
        "send_email": {"to": f"someone{at}@example.com", "subject": "hello", "body": "how are you"},
        "transfer_funds": {"to": "ACME", "amount": at % 100},
    }[action]
    return Request(Subject("user", "alice"), Action(action, {"input": given}), Resource("tool", "local"))


def produce(folder: Path, **counts: int) -> None:
    """So many real decisions of each tool."""
    system = open_system(folder)
    asked = [request(action, at) for action, count in counts.items() for at in range(count)]
    try:
        with ThreadPoolExecutor(16) as callers:
            list(callers.map(lambda each: system.gateway.evaluate_sync(each, caller="test"), asked))
    finally:
        system.close()


def golden(folder: Path, **counts: int) -> None:
    lines = []
    for action, count in counts.items():
        for at in range(count):
            asked = request(action, at)
            lines.append(
                {
                    "id": f"{action}-{at}",
                    "request": {
                        "subject": {"type": "user", "id": "u"},
                        "action": {"name": action, "properties": asked.action.properties},
                        "resource": {"type": "tool", "id": "local"},
                    },
                }
            )
    (folder / "golden/actions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_production_that_looks_like_the_golden_set(folder: Path, cli: Run):
    golden(folder, read_file=300, transfer_funds=300)
    produce(folder, read_file=150, transfer_funds=150)
    ran = cli("drift", "report", "--dir", folder)
    assert ran.code == 0, ran
    assert "no drift: 300 actions look like the 600 golden cases" in ran.out
    assert "texts are sealed" in ran.out


def test_what_shifted_is_told_in_plain_words_with_what_is_new(folder: Path, cli: Run):
    golden(folder, read_file=100, transfer_funds=100)
    produce(folder, read_file=50, transfer_funds=150, send_email=30)
    ran = cli("drift", "report", "--dir", folder)
    assert ran.code == 5, ran
    assert "actions the golden set has none of: send_email (30)" in ran.out
    assert "read_file 50.0% → 21.7%" in ran.out
    assert "production has drifted from the golden set: " in ran.out


def test_a_small_golden_set_is_no_agreement(folder: Path, cli: Run):
    golden(folder, read_file=5, transfer_funds=5)
    produce(folder, read_file=200, transfer_funds=200)
    ran = cli("drift", "report", "--dir", folder)
    assert ran.code == 8, ran
    assert "golden set too small: smallest detectable shift is" in ran.out
    assert "cases would do" in ran.out


def test_without_production_there_is_no_evidence(folder: Path, cli: Run):
    golden(folder, read_file=5)
    ran = cli("drift", "report", "--dir", folder)
    assert ran.code == 8
    assert "production has no actions in this time" in ran.out


def test_a_program_reads_the_same(folder: Path, cli: Run):
    golden(folder, read_file=100, transfer_funds=100)
    produce(folder, read_file=20, transfer_funds=180)
    ran = cli("drift", "report", "--dir", folder, "-o", "json")
    found = ran.json()
    assert ran.code == 5
    assert (found["outcome"], found["cases"], found["actions"]) == ("drift", 200, 200)
    action = found["findings"][0]
    assert (action["name"], action["state"]) == ("action", "shifted")
    assert action["p"] < 0.01
    assert action["psi"] > action["psi_floor"]
    assert found["told"].startswith("production has drifted")


def test_cases_to_add_are_written_redacted_and_can_be_added(folder: Path, cli: Run, tmp_path: Path):
    golden(folder, read_file=100)
    produce(folder, read_file=60, send_email=40)
    more = tmp_path / "more.jsonl"
    ran = cli("drift", "report", "--dir", folder, "--suggest", more, "--decrypt", "--as", "dora")
    assert ran.code == 5, ran
    assert "read them before you add them" in ran.err
    lines = [json.loads(line) for line in more.read_text().splitlines()]
    assert {line["request"]["action"]["name"] for line in lines} == {"send_email"}
    assert {line["expect"] for line in lines} == {"REQUIRE_REVIEW"}
    assert "@example.com" not in more.read_text()
    assert "alice" not in more.read_text()
    assert "how are you" in more.read_text()
    more.rename(folder / "golden/more.jsonl")
    assert cli("drift", "report", "--dir", folder).code in (0, 5, 8)


def test_without_an_auditor_the_cases_have_no_arguments_and_that_is_said(folder: Path, cli: Run, tmp_path: Path):
    golden(folder, read_file=100)
    produce(folder, read_file=60, send_email=40)
    ran = cli("drift", "report", "--dir", folder, "--suggest", tmp_path / "more.jsonl")
    assert "have no arguments: an auditor gets them" in ran.err
    assert "how are you" not in (tmp_path / "more.jsonl").read_text()
    assert cli("drift", "report", "--dir", folder, "--suggest", tmp_path / "more.jsonl").code == 2


def test_texts_are_for_auditors(folder: Path, cli: Run):
    golden(folder, read_file=60, send_email=60)
    produce(folder, read_file=60, send_email=60)
    assert cli("drift", "report", "--dir", folder, "--decrypt").code == 2
    ran = cli("drift", "report", "--dir", folder, "--decrypt", "--as", "bob")
    assert ran.code == 1
    assert "may not read payloads" in ran.err
    ran = cli("drift", "report", "--dir", folder, "--decrypt", "--as", "dora")
    assert "120 golden texts and 120 of production read" in ran.out
    system = open_system(folder)
    try:
        kinds = [r.kind for r in system.store.records(RecordQuery()) if r.kind.startswith("admin.payload_read")]
    finally:
        system.close()
    assert kinds == ["admin.payload_read_refused", "admin.payload_read"]


def test_golden_cases_are_named_by_file_folder_or_pattern(folder: Path, cli: Run, tmp_path: Path):
    golden(folder, read_file=30)
    for named in (folder / "golden", folder / "golden/actions.jsonl", folder / "golden/*.jsonl"):
        assert "30 golden cases" in cli("drift", "report", "--golden", named, "--dir", folder).out
    ran = cli("drift", "report", "--golden", folder / "golden/*.json", "--dir", folder)
    assert ran.code != 0
    assert "no golden cases are in" in ran.err


def test_limits_are_checked(folder: Path, cli: Run):
    golden(folder, read_file=5)
    config = folder / "checkrein.toml"
    for setting, said in (
        ("alpha = 0", "drift.alpha"),
        ('since = "soon"', "drift.since"),
        ("flor = 1", "floor"),
        ('ignore = ["sizes"]', "drift.ignore"),
    ):
        kept = config.read_text()
        config.write_text(kept.replace("notice = 0.25", setting))
        ran = cli("drift", "report", "--dir", folder)
        assert ran.code == 2
        assert said in ran.err
        config.write_text(kept)

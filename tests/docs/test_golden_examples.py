"""The golden set in `examples/golden`: it is what its scripts write, and gates tell good from bad by it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from checkrein.defaults import write
from checkrein.services.golden import Golden, read_golden

GOLDEN = Path(__file__).parents[2] / "examples/golden"
FILES = ("actions.jsonl", "questions.jsonl")


class Judged(NamedTuple):
    code: int
    verdict: str
    told: dict[str, str]


@pytest.fixture
def governance(tmp_path: Path) -> Path:
    """What `checkrein init` writes."""
    folder = tmp_path / "governance"
    folder.mkdir()
    write(folder)
    return folder


def cases(*names: str) -> list[Golden]:
    return read_golden({name: (GOLDEN / name).read_bytes() for name in names or FILES})


def gate(folder: Path, *arguments: object) -> Judged:
    command = [sys.executable, "-m", "checkrein", "gate", "run", *map(str, arguments)]
    command += ["--dir", str(folder), "-o", "json"]
    environment = {**os.environ, "PYTHONPATH": str(GOLDEN)}
    ended = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=100, check=False)
    assert ended.stdout, ended.stderr
    found: Any = json.loads(ended.stdout)
    told = {check["name"]: f"{check['state']}: {check['told']}" for check in found["verdict"]["checks"]}
    return Judged(ended.returncode, found["verdict"]["outcome"], told)


def agents(folder: Path, challenger: str) -> Judged:
    arms = ("--champion", "python:agents:careful", "--challenger", f"python:agents:{challenger}")
    return gate(folder, *arms, "--golden", GOLDEN)


@pytest.mark.parametrize("name", FILES)
def test_the_files_are_what_their_scripts_write(name: str, tmp_path: Path):
    for script in GOLDEN.glob("*.py"):
        shutil.copy(script, tmp_path)
    subprocess.run([sys.executable, Path(name).with_suffix(".py")], cwd=tmp_path, check=True, capture_output=True)
    assert (tmp_path / name).read_bytes() == (GOLDEN / name).read_bytes()


def test_there_are_enough_cases_to_prove_an_error_rate_below_one_percent():
    """299 answered without a failure prove it; see `docs/gates.md`."""
    questions = cases("questions.jsonl")
    assert len(questions) >= 300
    assert all(case.messages and case.answer for case in questions)
    assert {name for case in questions for name in case.answer} == {"contains", "exact", "regex", "schema"}


def test_every_tool_and_every_outcome_stands_in_the_actions_and_no_two_are_the_same():
    actions = cases("actions.jsonl")
    assert len(actions) >= 150
    assert {"prompt", "read_file", "send_email", "transfer_funds", "shell", "query_customers"} <= {
        case.request.action.name for case in actions
    }
    assert min(Counter(case.expect for case in actions).values()) >= 8
    asked = {
        (case.request.subject.id, str(case.request.subject.properties), str(case.request.action)) for case in actions
    }
    assert len(asked) == len(actions)
    assert len({str(case.messages) for case in cases("questions.jsonl")}) == len(cases("questions.jsonl"))


def test_another_version_of_the_same_quality_is_promoted(governance: Path):
    judged = agents(governance, "rewritten")
    assert (judged.code, judged.verdict) == (0, "promote"), judged.told
    assert judged.told["governance"] == "passed: all 490 golden actions are decided as their labels say"
    assert judged.told["success"].startswith("passed: 100.0% of 320 right")


def test_a_version_that_reads_hastily_is_refused(governance: Path):
    judged = agents(governance, "hasty")
    assert (judged.code, judged.verdict) == (5, "refuse")
    assert judged.told["success"].startswith("failed: ")
    assert judged.told["error rate"].startswith("passed: ")  # it answers everything, and much of it wrong


def test_policies_that_say_the_same_otherwise_are_promoted(governance: Path, tmp_path: Path):
    candidate = tmp_path / "candidate"
    shutil.copytree(governance, candidate)
    harm = candidate / "policies/harm.cedar"
    harm.write_text(harm.read_text().replace("context.input.amount <= 0", "!(context.input.amount > 0)"))
    judged = gate(governance, "--challenger", candidate, "--golden", GOLDEN)
    assert (judged.code, judged.verdict) == (0, "promote"), judged.told
    assert judged.told["changes"].startswith("skipped: 0 golden actions")


def edited(governance: Path, candidate: Path, old: str, new: str) -> Path:
    """The folder with its policies about harm edited, and without the policy tests that would find that first."""
    shutil.copytree(governance, candidate)
    shutil.rmtree(candidate / "tests")
    policies = candidate / "policies/harm.cedar"
    assert old in policies.read_text()
    policies.write_text(policies.read_text().replace(old, new))
    return candidate


@pytest.mark.parametrize(
    ("old", "new", "found"),
    [
        ("context.input.amount > 1000", "context.input.amount > 1001", "ALLOW, not REQUIRE_REVIEW"),
        ("context.input.amount <= 0", "context.input.amount <= 1", "DENY, not ALLOW"),
        ('contains("effect:egress")', 'contains("effect:external")', "DENY, not REQUIRE_REVIEW"),
    ],
)
def test_policies_that_decide_one_case_otherwise_are_refused_with_the_case(
    governance: Path, tmp_path: Path, old: str, new: str, found: str
):
    judged = gate(governance, "--challenger", edited(governance, tmp_path / "candidate", old, new), "--golden", GOLDEN)
    assert (judged.code, judged.verdict) == (5, "refuse"), judged.told
    assert found in judged.told["governance"]


def test_a_policy_that_errs_is_named_and_a_request_that_nobody_can_read_is_not(governance: Path, tmp_path: Path):
    huge = "context.input.amount + 9223372036854775807 <= 0"
    candidate = edited(governance, tmp_path / "candidate", "context.input.amount <= 0", huge)
    judged = gate(governance, "--challenger", candidate, "--golden", GOLDEN)
    assert judged.verdict == "refuse"
    assert "of 490 golden actions a policy errs: " in judged.told["erring policies"]
    assert "`pay-positive`" in judged.told["erring policies"]
    assert "`request`" not in judged.told["erring policies"]

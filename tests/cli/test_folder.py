"""`init`, `check`, `test`, `doctor`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from checkrein.defaults import contents

Run = Callable[..., Any]


def test_init_writes_a_folder_that_holds_together(tmp_path: Path, cli: Run, golden: Callable[[str, str], None]) -> None:
    target = tmp_path / "governance"
    ran = cli("init", target, "--data", tmp_path / "the store")
    assert (ran.code, ran.out) == (0, "")
    golden("init", ran.err)
    assert {str(p.relative_to(target)) for p in target.rglob("*") if p.is_file()} == set(contents())
    assert cli("check", target).code == 0
    assert cli("test", target).code == 0
    assert cli("doctor", "--dir", target).code == 0


def test_init_names_what_it_wrote_in_json(tmp_path: Path, cli: Run) -> None:
    ran = cli("init", tmp_path / "g", "-o", "json")
    assert (ran.json()["written"], ran.err) == (list(contents()), "")


def test_check_says_what_it_read(folder: Path, cli: Run) -> None:
    ran = cli("check", folder)
    assert ran.out.startswith("ok: 5 policies, 3 tools, 0 tests; sha256:")
    value = cli("check", "--dir", folder, "-o", "json").json()
    assert (value["ok"], value["problems"]) == (True, [])


def test_check_names_every_problem_of_policies_and_settings(folder: Path, cli: Run) -> None:
    (folder / "policies/more.cedar").write_text("permit (principal, action, resource);\n")
    (folder / "tools.yaml").write_text("tools:\n  a: {effects: [reed]}\n  b: {effects: [rite]}\n")
    (folder / "checkrein.toml").write_text("enviroment = 'x'\n")
    ran = cli("check", folder)
    assert (ran.code, ran.out) == (5, "")
    for problem in ("policies/more.cedar:1", "tools.yaml:2", "tools.yaml:3", "did you mean `environment`?"):
        assert problem in ran.err


def test_check_warns_of_variables_that_nothing_reads(folder: Path, cli: Run) -> None:
    ran = cli("check", folder, CHECKREIN_SERVER_PROT="1")
    assert ran.code == 0
    assert "warning: `CHECKREIN_SERVER_PROT` is set but nothing reads it; did you mean" in ran.err


CASES = """
tests:
  - {name: reading runs, subject: alice, tool: read_file, input: {path: a}, expect: {outcome: allow}}
  - {name: mail runs, subject: alice, tool: send_email, input: {to: a, subject: b, body: c}, expect: {outcome: allow}}
"""


def test_a_failing_policy_test_says_what_came_instead(
    folder: Path, cli: Run, golden: Callable[[str, str], None]
) -> None:
    (folder / "tests").mkdir()
    (folder / "tests/main.yaml").write_text(CASES)
    ran = cli("test", folder)
    assert (ran.code, ran.err) == (5, "in no test: ask-models, clean-mail, no-transfers\n")
    golden("test-failing", ran.out)
    first, second = cli("test", folder, "-o", "json").json()["tests"]
    assert (first["passed"], second["passed"]) == (True, False)
    assert not (folder / ".checkrein").exists()


def test_a_folder_without_tests_does_not_pass(folder: Path, cli: Run) -> None:
    ran = cli("test", folder)
    assert ran.code == 5
    assert ran.err == f"error: {folder} has no policy tests\nhint: write some under tests/*.yaml\n"


def test_doctor_exits_1_when_something_fails_and_0_when_it_only_warns(folder: Path, cli: Run) -> None:
    assert cli("doctor", "--dir", folder).code == 0
    (folder / "policies/main.cedar").write_text("permit (")
    ran = cli("doctor", "--dir", folder, "-o", "json")
    assert ran.code == 1
    assert {"policies"} == {found["what"] for found in ran.json()["findings"] if found["verdict"] == "fail"}


def test_a_policy_that_fires_in_no_test_is_named_and_can_be_required_to(folder: Path, cli: Run, tmp_path: Path) -> None:
    (folder / "tests").mkdir()
    passing = "tests:\n  - {name: reads, tool: read_file, input: {path: a}, expect: {outcome: allow}}\n"
    (folder / "tests/main.yaml").write_text(passing)
    report = tmp_path / "junit.xml"
    assert cli("test", folder, "--junit", report).code == 0
    assert b'tests="1" failures="0"' in report.read_bytes()
    silent = cli("test", folder, "-o", "json").json()["unfired"]
    assert "no-transfers" in silent
    assert "use-tools" not in silent
    assert cli("test", folder, "--require-coverage", "--junit", report).code == 5
    assert f'failures="{len(silent)}"'.encode() in report.read_bytes()


INVARIANTS = """
tests:
  - {name: reading runs, subject: alice, tool: read_file, input: {path: a}, expect: {outcome: allow}}
invariants:
  - {name: no transfer runs, never: {outcome: [allow], when: 'action == Action::"transfer_funds"'}}
  - {name: no mail is asked about, never: {outcome: require_review}}
"""


def test_invariants_are_proved_beside_the_tests_or_broken_by_an_example(folder: Path, cli: Run, tmp_path: Path) -> None:
    (folder / "tests").mkdir()
    (folder / "tests/main.yaml").write_text(INVARIANTS)
    report = tmp_path / "junit.xml"
    ran = cli("test", folder, "--junit", report)
    assert ran.code == 5
    assert "pass  no transfer runs\nFAIL  no mail is asked about\n" in ran.out
    assert "tests/main.yaml:6: the invariant `no mail is asked about` is broken: require_review, decided by" in ran.out
    assert "tests/main.yaml:6: for example: send_email " in ran.out
    assert ran.out.endswith("2 passed, 1 failed\n")
    assert [each["passed"] for each in cli("test", folder, "-o", "json").json()["invariants"]] == [True, False]
    assert b'tests="3" failures="1"' in report.read_bytes()


def test_without_the_solver_nothing_is_taken_for_proved(
    folder: Path, cli: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "z3", None)
    warned = cli("check", folder)
    assert warned.code == 0
    assert "warning: not analysed: the analysis of policies needs z3" in warned.err
    (folder / "tests").mkdir()
    (folder / "tests/main.yaml").write_text(INVARIANTS)
    for verb in ("check", "test"):
        ran = cli(verb, folder)
        assert ran.code == 5
        assert (ran.out + ran.err).count("not proved: the analysis of policies needs z3") == 2
    assert cli("check", folder, "--no-analyze").code == 0


def test_the_schema_for_editors_is_json(cli: Run) -> None:
    schema = cli("test", "--schema").json()
    assert schema["title"].startswith("Checkrein policy tests")
    assert set(schema["properties"]) == {"now", "subjects", "resources", "invariants", "tests"}
    invariant = schema["$defs"][schema["properties"]["invariants"]["items"]["$ref"].removeprefix("#/$defs/")]
    assert (invariant["required"], set(invariant["properties"])) == (["name", "never"], {"name", "never"})

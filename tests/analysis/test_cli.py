"""`checkrein diff`, and what the check of a folder says of its policies, on the folder that `init` writes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from checkrein.cli import analysis
from checkrein.defaults import write
from checkrein.model import ConfigError
from checkrein.policy.archive import build

app = typer.Typer()
analysis.register(app)


@app.callback()
def root() -> None:
    """So that `diff` is a verb."""


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["diff", *map(str, arguments)], env={"COLUMNS": "400"})


@pytest.fixture
def before(tmp_path: Path) -> Path:
    write(tmp_path / "before")
    return tmp_path / "before"


@pytest.fixture
def after(tmp_path: Path) -> Path:
    """The same with a limit that is higher by one."""
    write(tmp_path / "after")
    file = tmp_path / "after/policies/harm.cedar"
    file.write_text(file.read_text().replace("> 1000", "> 1001"))
    return tmp_path / "after"


def test_what_gets_looser_is_shown_with_a_request(before: Path, after: Path) -> None:
    result = run(before, after)
    assert result.exit_code == 0
    rows = [line.split() for line in result.stdout.splitlines()[1:]]
    assert rows[0][:5] == ["looser", "require_review", "allow", "pay-large", "treasury-pays"]
    assert 'transfer_funds to="example" amount=1001 by user example (treasury)' in result.stdout


def test_loosening_can_be_forbidden(before: Path, after: Path) -> None:
    assert run(before, after, "--forbid-loosening").exit_code == 5
    assert run(after, before, "--forbid-loosening").exit_code == 0


def test_no_difference_is_a_proof(before: Path) -> None:
    result = run(before, before, "--forbid-loosening")
    assert (result.exit_code, result.stdout) == (0, "every request is decided alike: proved\n")


def test_json_has_the_request_to_copy(before: Path, after: Path) -> None:
    value = json.loads(run(before, after, "-o", "json").stdout)
    assert value["rows"][0]["witness"]["action"]["properties"]["input"]["amount"] == 1001


def test_a_bundle_stands_for_its_folder(before: Path, after: Path, tmp_path: Path) -> None:
    names = [path for path in before.rglob("*") if path.suffix in (".cedar", ".yaml")]
    files = {path.relative_to(before).as_posix(): path.read_bytes() for path in names}
    file = tmp_path / "before.tar"
    file.write_bytes(build(files, serial=1, created="2026-01-05T09:00:00Z"))
    assert "proved" in run(file, before).stdout
    assert "looser" in run(file, after).stdout


def test_a_folder_that_is_not_there_is_an_error(before: Path, tmp_path: Path) -> None:
    assert isinstance(run(before, tmp_path / "nowhere").exception, ConfigError)


def test_a_new_folder_has_nothing_to_mend(before: Path) -> None:
    assert analysis.analyze(before) == ((), ())


def test_a_dead_policy_and_a_broken_invariant_are_problems(before: Path) -> None:
    (before / "policies/dead.cedar").write_text(
        '@id("late") @owner("x") @reason("x")\nforbid (principal, action, resource) when { context.time.hour > 24 };\n'
    )
    with (before / "tests/defaults.yaml").open("a") as file:
        file.write(
            "invariants:\n"
            "  - name: staff are not needed\n"
            "    never: {outcome: allow}\n"
            "  - name: no secret goes out unseen\n"
            "    never: {outcome: allow, when: 'context.labels.contains(\"secret\")'}\n"
        )
    problems, warnings = analysis.analyze(before)
    assert warnings == ()
    assert problems[0].startswith("policies/dead.cedar:1: `late` is dead")
    assert "the invariant `staff are not needed` is broken: allow, decided by" in problems[1]
    assert len(problems) == 2


def test_a_dead_a_shadowed_and_a_contradictory_policy_are_each_reported(before: Path) -> None:
    def planted(id: str, head: str, condition: str) -> str:
        scope = '(principal, action == Action::"read_file", resource)'
        return f'@id("{id}") @owner("x") @reason("x") {head} {scope} when {{ {condition} }};\n'

    review = '@outcome("require_review") @approvers("1 of security") forbid'
    (before / "policies/planted.cedar").write_text(
        planted("dead", "forbid", "context.time.hour > 24")
        + planted("stop", "forbid", 'context.input.path like "/etc/*"')
        + planted("shadowed", review, 'context.input.path like "/etc/ssh/*"')
        + planted("let", "permit", 'context.input.path like "/etc/*"')
    )
    problems, _ = analysis.analyze(before)
    for problem, said in zip(problems, ("1: `dead` is dead", "3: `shadowed` never decides", "4: `let`"), strict=True):
        assert problem.startswith(f"policies/planted.cedar:{said}")

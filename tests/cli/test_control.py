"""`checkrein kill`, `revive` and `killed`, and where else it shows."""

from __future__ import annotations

from pathlib import Path

import pytest

from cli.conftest import Run


@pytest.fixture
def there(folder: Path) -> tuple[str, str]:
    return "--dir", str(folder)


def test_kill_list_and_revive(cli: Run, there: tuple[str, str]):
    ran = cli("kill", "agent", "bot", "--reason", "odd invoices", *there)
    assert (ran.code, ran.out) == (0, "")
    assert "agent:bot is killed since" in ran.err
    (switch,) = cli("killed", "-o", "json", *there).json()
    assert (switch["what"], switch["name"], switch["reason"]) == ("agent", "bot", "odd invoices")
    assert "odd invoices" in cli("killed", *there).out
    assert cli("revive", "agent", "bot", "--reason", "mended", *there).code == 0
    assert "nothing is killed" in cli("killed", *there).err + cli("killed", *there).out
    assert [record["kind"] for record in cli("audit", "list", "-o", "json", *there).json()] == [
        "admin.killed",
        "admin.revived",
    ]


def test_everything_needs_no_name_and_other_switches_are_named_when_one_is_lifted(cli: Run, there: tuple[str, str]):
    assert cli("kill", "everything", "--reason", "r", *there).code == 0
    assert cli("kill", "model", "gpt-*", "--reason", "r", *there).code == 0
    assert "still killed: everything" in cli("revive", "model", "gpt-*", "--reason", "r", *there).err


@pytest.mark.parametrize(
    "given",
    [
        ("kill", "agent", "bot"),
        ("kill", "agent", "--reason", "r"),
        ("kill", "agnt", "bot", "--reason", "r"),
        ("kill", "everything", "--reason", " "),
        ("revive", "everything"),
    ],
)
def test_what_is_incomplete_is_a_usage_error(cli: Run, there: tuple[str, str], given: tuple[str, ...]):
    assert cli(*given, *there).code == 2
    assert cli("killed", "-o", "json", *there).json() == []


def test_what_is_not_killed_cannot_be_revived(cli: Run, there: tuple[str, str]):
    ran = cli("revive", "agent", "bot", "--reason", "r", *there)
    assert (ran.code, "`agent:bot` is not killed" in ran.err) == (1, True)


def test_doctor_and_activity_show_what_is_killed(cli: Run, there: tuple[str, str], folder: Path):
    cli("kill", "tool", "read file", "--reason", "odd", *there)
    found = cli("doctor", *there)
    assert "checkrein revive tool 'read file' --reason WHY" in " ".join((found.out + found.err).split())
    assert "killed now: tool:read file" in cli("activity", *there).err
    (folder / "policies/main.cedar").write_text("no policy at all")
    assert cli("kill", "everything", "--reason", "the policies are broken too", *there).code == 0

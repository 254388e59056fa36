"""`checkrein kill`, `revive` and `killed`, and where else it shows."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from checkrein.compose import open_system
from checkrein.flow.quota import Amount
from checkrein.model import Request
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


LIMITS = """
[limits."agent:billing-*"]
requests_per_minute = 60
spend_per_day = 2.5

[limits.everything]
concurrency = 4
"""


def test_limits_shows_who_used_how_much_of_what(cli: Run, there: tuple[str, str], folder: Path):
    assert "nothing is counted" in "".join(cli("limits", *there)[1:])
    config = folder / "checkrein.toml"
    config.write_text(config.read_text() + LIMITS)
    read = Request.from_json(
        {
            "subject": {"type": "user", "id": "alice"},
            "action": {"name": "read_file", "properties": {"input": {"path": "q"}}},
            "resource": {"type": "tool", "id": "f"},
            "context": {"agent": {"id": "billing-1"}},
        }
    )
    opened = contextlib.closing(open_system(folder))
    with opened as system, system.gateway.action_sync(read, caller="key_1") as governed:
        governed.consumed(Amount(1200, 500_000_000), {})
    agent, everything = cli("limits", "-o", "json", *there).json()
    assert (agent["what"], agent["name"]) == ("agent", "billing-1")
    assert agent["limits"] == {"requests_per_minute": 60, "spend_per_day": "2.50"}
    assert (agent["used"]["tokens_today"], agent["used"]["spend_today"]) == (1200, "0.50")
    assert (everything["what"], everything["limits"]) == ("everything", {"concurrency": 4})
    table = " ".join(cli("limits", *there, COLUMNS="160").out.split())
    assert "agent billing-1 1 of 60 1200 0 0.50 of 2.50 0.50" in table
    assert len(cli("limits", "agent", "-o", "json", *there).json()) == 1
    assert cli("limits", "agent", "other-*", "-o", "json", *there).json() == []
    assert cli("limits", "agnt", *there).code == 2
    assert cli("limits", "", "x", *there).code == 2


def test_a_limit_that_nobody_used_yet_is_shown(cli: Run, there: tuple[str, str], folder: Path):
    (folder / "checkrein.toml").write_text('[limits."key:key_1"]\nconcurrency = 1\n')
    (key,) = cli("limits", "-o", "json", *there).json()
    assert (key["name"], key["used"]["running"], key["limits"]) == ("key_1", 0, {"concurrency": 1})


def test_doctor_names_a_limit_that_is_for_nobody(cli: Run, there: tuple[str, str], folder: Path):
    id = cli("keys", "create", "bot", "-o", "json", *there).json()["id"]
    limits = "".join(f'[limits."key:{name}"]\nconcurrency = 1\n' for name in (id, "key_gone", "key_*"))
    (folder / "checkrein.toml").write_text(limits)
    found = [finding["found"] for finding in cli("doctor", "-o", "json", *there).json()["findings"]]
    assert [text for text in found if "no live key" in text] == ["`key:key_gone` is for no live key"]

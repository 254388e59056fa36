"""`checkrein audit erase`, `hold` and `sweep`, and what `show` opens for an auditor."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer

from checkrein.cli import privacy
from checkrein.compose import open_system
from checkrein.model import Action, BadRequest, Request, Resource, Subject, Unauthorized

Run = Callable[..., Any]
SECRET = "the merger closes on the ninth"


@pytest.fixture
def governed(folder: Path) -> Path:
    """A governance folder with one recorded action of alice; ann is an auditor."""
    config = folder / "checkrein.toml"
    config.write_text(config.read_text() + '\n[people.ann]\nroles = ["auditor"]\n')
    ask(folder)
    return folder


@pytest.fixture(autouse=True)
def _verbs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The verbs on a command of their own, so that these tests stand on nothing but them."""
    app = typer.Typer(rich_markup_mode=None)
    audit = typer.Typer(rich_markup_mode=None)
    privacy.register(audit)
    app.add_typer(audit, name="audit")
    monkeypatch.setattr("checkrein.cli.app.app", app)


def ask(folder: Path) -> None:
    system = open_system(folder)
    try:
        request = Request(
            Subject("user", "alice"), Action("read_file", {"input": {"path": SECRET}}), Resource("tool", "read_file")
        )
        with system.gateway.action_sync(request, caller="test"):
            pass
    finally:
        system.close()


def test_erase_says_what_it_erased_and_how_the_ledger_names_the_subject(cli: Run, governed: Path):
    ran = cli("audit", "erase", "--subject", "alice", "--as", "carol", "--reason", "request 17", "--dir", governed)
    assert (ran.code, ran.out) == (0, "erased: 1 payload, 0 approvals, 1 key\n")
    assert "the ledger names the subject as" in ran.err
    done = cli(
        *("audit", "erase", "--subject", "alice", "--as", "carol", "--reason", "again", "--dir", governed, "-o", "json")
    ).json()
    assert {name: done[name] for name in ("payloads", "approvals", "keys")} == {
        "payloads": 0,
        "approvals": 0,
        "keys": 0,
    }
    assert len(done["subject"]) == 64


def test_erase_asks_for_a_subject_and_a_reason(cli: Run, governed: Path):
    assert cli("audit", "erase", "--subject", "alice", "--dir", governed).code == 2
    assert cli("audit", "erase", "--reason", "x", "--dir", governed).code == 2
    assert cli("audit", "erase", "--subject", "", "--reason", "x", "--dir", governed).code == 2


def test_a_hold_keeps_erasure_away_until_it_is_released(cli: Run, governed: Path):
    who = ("--subject", "alice", "--as", "carol", "--reason", "case 12", "--dir", governed)
    assert cli("audit", "hold", *who).err == "the data of `alice` is on hold\n"
    refused = cli("audit", "erase", *who)
    assert (refused.code, refused.out) == (1, "")
    assert "legal hold" in refused.err
    assert cli("audit", "hold", "--release", *who).err == "the data of `alice` is released\n"
    assert cli("audit", "erase", *who).code == 0


def test_sweep_says_what_it_removed(cli: Run, governed: Path):
    assert cli("audit", "sweep", "--dir", governed).out == "removed: 0 payloads past their time, 0 without a record\n"
    assert cli("audit", "sweep", "--dir", governed, "-o", "json").json() == {"expired": 0, "orphans": 0}


def test_a_folder_without_a_ledger_is_named(cli: Run, folder: Path):
    ran = cli("audit", "sweep", "--dir", folder)
    assert ran.code == 1
    assert "there is no ledger" in ran.err


def test_an_auditor_sees_the_payload_and_others_do_not(governed: Path):
    from checkrein.ports import RecordQuery

    system = open_system(governed)
    (record,) = system.store.records(RecordQuery(kinds=("decision",)))
    system.close()
    shown = privacy.revealed(record.id, person="ann", dir=governed, data=None)
    assert (shown["id"], shown["state"]) == (f"{record.body['decision']['evaluation_id']}.request", "present")  # type: ignore[index]
    assert SECRET in str(shown["value"])
    with pytest.raises(Unauthorized):
        privacy.revealed(record.id, person="bob", dir=governed, data=None)
    with pytest.raises(BadRequest):
        privacy.revealed(record.id, person="", dir=governed, data=None)

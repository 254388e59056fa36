"""`checkrein openclaw` and what `doctor` says of a gateway, with a stand-in for Node and the package."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from checkrein.compose import open_system
from checkrein.services.reconcile import Call

Run = Callable[..., Any]


@pytest.fixture
def setup(folder: Path, tmp_path: Path, cli: Run) -> Run:
    """Run `openclaw setup` with a fake Node and an empty package of the right version."""
    node = tmp_path / "node"
    node.write_text("#!/bin/sh\necho v24.21.0\n")
    node.chmod(0o755)
    package = tmp_path / "openclaw"
    package.mkdir()
    (package / "openclaw.mjs").write_text("")
    (package / "package.json").write_text('{"version": "2026.9.6"}')

    def run(*more: object) -> Any:
        place = tmp_path / "gateway"
        given = ("--dir", folder, "--model", "gpt", "--node", node, "--openclaw", package)
        return cli("openclaw", "setup", place, *given, *more)

    return run


def test_setup_prints_the_section_that_puts_checkrein_in_front(setup: Run, folder: Path, cli: Run) -> None:
    ran = setup()
    assert ran.code == 0, ran.err
    (folder / "checkrein.toml").write_text((folder / "checkrein.toml").read_text() + "\n" + ran.out)
    assert cli("check", folder, "--no-analyze").code == 0


def test_setup_again_makes_no_second_key(setup: Run, folder: Path, cli: Run) -> None:
    setup()
    again = setup()
    assert "is as it should be" in again.err
    assert len(cli("keys", "list", "--dir", folder, "-o", "json").json()) == 1


def test_a_revoked_key_is_replaced(setup: Run, folder: Path, tmp_path: Path, cli: Run) -> None:
    setup()
    (made,) = cli("keys", "list", "--dir", folder, "-o", "json").json()
    cli("keys", "revoke", made["id"], "--dir", folder)
    assert "openclaw.json" in setup("-o", "json").json()["written"]
    assert len(cli("keys", "list", "--dir", folder, "-o", "json").json()) == 2


def test_a_tool_gets_its_name_in_policies_and_keeps_it(setup: Run, tmp_path: Path) -> None:
    setup("--tool", "docs__find=find_document")
    setup("--tool", "docs__read=read_document")
    config = json.loads((tmp_path / "gateway" / "openclaw.json").read_text())
    names = config["plugins"]["entries"]["checkrein"]["config"]["names"]
    assert names == {"docs__find": "find_document", "docs__read": "read_document"}
    assert setup("--tool", "docs__find").code == 2


def test_an_edit_that_loosens_stops_setup_and_leaves_no_key_behind(setup: Run, folder: Path, tmp_path: Path) -> None:
    setup()
    config = tmp_path / "gateway" / "openclaw.json"
    changed = json.loads(config.read_text())
    changed["plugins"]["entries"]["checkrein"]["enabled"] = False
    config.write_text(json.dumps(changed))
    ran = setup()
    assert ran.code == 2
    assert "`plugins.entries.checkrein.enabled`" in ran.err
    assert setup("--force").code == 0


def test_run_refuses_a_folder_that_was_never_set_up(tmp_path: Path, cli: Run) -> None:
    ran = cli("openclaw", "run", tmp_path)
    assert ran.code == 2
    assert "checkrein openclaw setup" in ran.err


def test_doctor_explains_a_node_that_was_downgraded(setup: Run, folder: Path, tmp_path: Path, cli: Run) -> None:
    (folder / "checkrein.toml").write_text((folder / "checkrein.toml").read_text() + "\n" + setup().out)
    assert "Node 24.21.0, OpenClaw 2026.9.6" in cli("doctor", "--dir", folder).out
    (tmp_path / "node").write_text("#!/bin/sh\necho v20.20.2\n")
    ran = cli("doctor", "--dir", folder)
    assert "is Node 20.20.2, which cannot run the gateway" in " ".join(ran.out.split())
    assert ran.code == 1


@pytest.fixture
def ungoverned(folder: Path, setup: Run) -> Path:
    """The folder, with a gateway in which something ran that its plugin did not ask about."""
    (folder / "checkrein.toml").write_text((folder / "checkrein.toml").read_text() + "\n" + setup().out)
    opened = open_system(folder)
    call = Call(run="run-1", call="call_1", tool="exec")
    opened.gateways.started("openclaw", call)
    opened.gateways.ended("openclaw", call, ran=True)
    opened.gateways.tick()
    opened.close()
    return folder


def test_status_shows_a_gateway_in_quarantine_and_release_opens_it(ungoverned: Path, cli: Run) -> None:
    ran = cli("openclaw", "status", "--dir", ungoverned, "-o", "json")
    assert ran.code == 1
    (row,) = ran.json()
    assert (row["observed"], row["governed"], row["enforcement"]) == (1, 0, 0.0)
    assert "`exec` ran ungoverned" in cli("openclaw", "status", "--dir", ungoverned).out
    assert cli("openclaw", "release", "openclaw", "--dir", ungoverned).code == 0
    assert cli("openclaw", "status", "--dir", ungoverned).code == 0
    again = cli("openclaw", "release", "openclaw", "--dir", ungoverned)
    assert (again.code, "not in quarantine" in again.err) == (1, True)


def test_what_was_seen_inside_is_a_measure(ungoverned: Path, cli: Run) -> None:
    found = {each["name"]: each for each in cli("metrics", "--dir", ungoverned, "-o", "json").json()["measures"]}
    assert (found["enforcement_inside"]["value"], found["enforcement_inside"]["standing"]) == (0.0, "missed")


def test_without_gateways_status_says_how_to_have_one(folder: Path, cli: Run) -> None:
    ran = cli("openclaw", "status", "--dir", folder)
    assert (ran.code, ran.out) == (0, "")
    assert 'kind = "openclaw"' in ran.err

"""`checkrein openclaw` and what `doctor` says of a gateway, with a stand-in for Node and the package."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

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

"""`audit checkpoint`, `audit witness` and `audit verify --witness-key`: others see what was signed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from checkrein.web.server import BackgroundServer
from tlog_witness import TlogWitness

Run = Callable[..., Any]


@pytest.fixture
def witness() -> Iterator[tuple[TlogWitness, str]]:
    app = TlogWitness()
    with BackgroundServer(app) as running:
        yield app, running.url


@pytest.fixture
def witnessed(folder: Path, cli: Run, witness: tuple[TlogWitness, str], tmp_path: Path) -> Path:
    """The folder with a record, and a witness that knows its key; the witness's own key is `w.pub`."""
    app, url = witness
    config = folder / "checkrein.toml"
    config.write_text(f'{config.read_text()}\n[witnesses.w1]\nurl = "{url}/prefix"\nvkey = "{app.vkey}"\n')
    cli("keys", "create", "bot", "--dir", folder)
    app.trust((folder / ".checkrein/signer.pub").read_text().strip())
    (tmp_path / "w.pub").write_text(f"{app.vkey}\n")
    return folder


def test_the_newest_checkpoint_is_printed_as_it_is(folder: Path, cli: Run, tmp_path: Path) -> None:
    cli("keys", "create", "bot", "--dir", folder)
    printed = cli("audit", "checkpoint", "--dir", folder).out
    assert printed == (folder / ".checkrein/checkpoint").read_text()
    cli("keys", "create", "bot", "--dir", folder)
    (tmp_path / "kept").write_text(printed)
    assert cli("audit", "consistency", tmp_path / "kept", "--dir", folder).out.startswith("consistent: ")


def test_a_witness_cosigns_and_verify_asks_for_it(witnessed: Path, cli: Run, tmp_path: Path) -> None:
    verify = ("audit", "verify", "--dir", witnessed, "--witness-key", tmp_path / "w.pub")
    ran = cli(*verify)
    assert (ran.code, "has cosigned nothing" in ran.err) == (6, True)
    assert cli("audit", "witness", "--dir", witnessed).out == "w1 cosigned 1 records\n"
    ran = cli(*verify)
    assert (ran.code, ran.out.strip().endswith("; witness.example/w1 cosigned 1")) == (0, True)
    assert cli(*verify, "-o", "json").json()["witnessed"] == {"witness.example/w1": 1}


def test_a_witness_that_saw_another_history_ends_with_6_and_one_that_is_gone_with_7(
    witnessed: Path, cli: Run, witness: tuple[TlogWitness, str]
) -> None:
    witness[0].broken = (422, "text/plain", "")
    ran = cli("audit", "witness", "--dir", witnessed)
    assert (ran.code, "another history" in ran.err) == (6, True)
    witness[0].broken = (503, "text/plain", "")
    assert cli("audit", "witness", "--dir", witnessed).code == 7


def test_without_a_witness_it_is_said(folder: Path, cli: Run) -> None:
    ran = cli("audit", "witness", "--dir", folder)
    assert (ran.code, "[witnesses.NAME]" in ran.err) == (2, True)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('url = "ftp://x"', "`witnesses.w1.url` is not an http(s) address"),
        ('vkey = "x"', "`witnesses.w1.vkey` cannot be used: that is not a checkpoint witness key"),
    ],
)
def test_a_witness_that_cannot_be_used_is_refused_with_its_place(
    witnessed: Path, cli: Run, line: str, says: str
) -> None:
    config = witnessed / "checkrein.toml"
    name = line.partition(" ")[0]
    lines = [line if old.startswith(f"{name} = ") else old for old in config.read_text().splitlines()]
    config.write_text("\n".join(lines))
    ran = cli("audit", "witness", "--dir", witnessed)
    assert (ran.code, says in ran.err) == (2, True), ran.err


def test_a_server_has_its_checkpoints_cosigned_by_itself(
    witnessed: Path, cli: Run, serving: Callable[..., Any], witness: tuple[TlogWitness, str], tmp_path: Path
) -> None:
    with serving(witnessed):
        deadline = time.monotonic() + 40
        while not list((witnessed / ".checkrein").glob("witness-*.checkpoint")):
            assert time.monotonic() < deadline
            threading.Event().wait(0.01)
    assert cli("audit", "verify", "--dir", witnessed, "--witness-key", tmp_path / "w.pub").code == 0

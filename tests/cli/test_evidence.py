"""`audit prove`, `consistency`, `verifier` and tiles: what comes out convinces a stranger."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from checkrein.cli import evidence
from checkrein.model import BadRequest, LedgerInvalid, NotFound
from checkrein.storage.sqlite import SqliteStore
from checkrein.verifier import source

Run = Callable[..., Result]


@pytest.fixture
def run(folder: Path) -> Run:
    """The verbs on the folder of the tests; errors for people come out as they are."""
    audit = typer.Typer()
    evidence.register(audit)

    def run(*words: object) -> Result:
        done = CliRunner().invoke(audit, [str(word) for word in (*words, "--dir", folder)])
        if done.exception and not isinstance(done.exception, SystemExit):
            raise done.exception
        return done

    return run


@pytest.fixture
def data(folder: Path) -> Path:
    """The store, with records, and the checkpoint `old` that somebody took before the last of them."""
    from checkrein.compose import open_system

    for user in ("alice", "bob"):
        with_keys = open_system(folder)
        with_keys.keys.create(user, by="tests")
        with_keys.close()
        if user == "alice":
            (folder / "old").write_bytes((folder / ".checkrein/checkpoint").read_bytes())
    return folder / ".checkrein"


@pytest.fixture
def stranger(data: Path, tmp_path: Path) -> Callable[..., str]:
    """The verdict of the verifier, printed by us and run by somebody else with the key of this ledger."""
    script = tmp_path / "verify_ledger.py"
    script.write_text(source())

    def check(*words: object) -> str:
        command = [sys.executable, "-I", script, *words, "--key", data / "signer.pub"]
        done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    return check


def test_a_record_is_proved_to_a_stranger(run: Run, stranger: Callable[..., str], tmp_path: Path):
    proof, record = tmp_path / "one.tlog-proof", tmp_path / "one.json"
    ran = run("prove", 1, "--output", proof, "--record", record)
    assert ran.stdout == ""
    assert ran.stderr.splitlines()[:2] == [f"wrote record 1 to `{record}`", f"wrote the proof of record 1 to `{proof}`"]
    assert f"verify_ledger.py {proof} --record {record} --key signer.pub" in ran.stderr
    assert stranger(proof, "--record", record).startswith("verified: record 1 among")


def test_a_proof_on_stdout_is_byte_for_byte_the_one_in_a_file(run: Run, data: Path, tmp_path: Path):
    ran = run("prove", 0, "--to", tmp_path / "proof")
    assert "`--record FILE` writes them" in ran.stderr
    assert run("prove", 0).stdout_bytes == (tmp_path / "proof").read_bytes()


def test_an_export_convinces_a_stranger_who_kept_an_older_checkpoint(
    data: Path, folder: Path, stranger: Callable[..., str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    evidence.export_tlog(tmp_path / "export", dir=folder)
    out, err = capsys.readouterr()
    assert (out, "audit verifier > verify_ledger.py" in err) == ("", True)
    verdict = stranger(tmp_path / "export", "--consistency", folder / "old")
    assert verdict.startswith("verified: ")
    assert ", extending " in verdict


def test_two_who_hold_checkpoints_see_that_it_is_one_log(
    run: Run, data: Path, folder: Path, stranger: Callable[..., str], tmp_path: Path
):
    said = run("consistency", folder / "old", "--output", tmp_path / "growth").stdout
    assert said.startswith("consistent: the first ")
    assert run("consistency", data / "checkpoint", folder / "old").stdout == said
    assert stranger(tmp_path / "growth", "--consistency", folder / "old").startswith("verified: ")


def test_a_checkpoint_of_another_ledger_is_refused(run: Run, data: Path, tmp_path: Path):
    class Clock:
        def now_us(self) -> int:
            return 0

    SqliteStore(tmp_path / "other", Clock()).close()
    with pytest.raises(LedgerInvalid, match="the checkpoint is of"):
        run("consistency", tmp_path / "other/checkpoint")


def test_the_verifier_is_printed_as_it_is(run: Run, folder: Path):
    audit = typer.Typer()
    evidence.register(audit)
    assert CliRunner().invoke(audit, ["verifier"]).stdout == source()


def test_what_is_not_there_is_said(run: Run, data: Path, folder: Path, tmp_path: Path):
    with pytest.raises(NotFound, match="no record `999`"):
        run("prove", 999)
    with pytest.raises(BadRequest, match="cannot be read: no such file"):
        run("consistency", tmp_path / "nowhere")
    (tmp_path / "noise").write_bytes(b"\xff")
    with pytest.raises(BadRequest, match="is not a checkpoint"):
        run("consistency", tmp_path / "noise")
    with pytest.raises(LedgerInvalid, match="malformed"):
        run("consistency", folder / "tools.yaml")

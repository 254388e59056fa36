from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from checkrein.ledger.checkpoint import VerifierKey
from checkrein.model import ConfigError
from checkrein.storage.files import DataDir, write_atomic


@pytest.fixture
def files(data: Path) -> DataDir:
    made = DataDir(data)
    made.create()
    return made


def test_the_directory_is_private_and_made_with_those_above_it(tmp_path: Path) -> None:
    files = DataDir(tmp_path / "a" / "b")
    files.create()
    files.create()
    assert files.path.stat().st_mode & 0o777 == 0o700


def test_a_directory_that_cannot_be_made_is_a_configuration_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be made") as caught:
        DataDir(tmp_path / "file" / "data").create()
    assert "--data" in caught.value.hint


def test_keys_are_made_once_and_kept(files: DataDir) -> None:
    signer, key = files.signers("example.com/log").current, files.commitment_key()
    again = DataDir(files.path)
    assert again.signers("other.example").current.vkey == signer.vkey == again.vkey()
    assert again.commitment_key() == key
    assert len(key) == 32


def test_the_public_key_is_one_line_with_the_origin(files: DataDir) -> None:
    files.signers("example.com/log")
    assert VerifierKey.parse((files.path / "signer.pub").read_text()).origin == "example.com/log"


def test_a_public_key_that_is_not_of_the_private_one_is_mended(files: DataDir) -> None:
    vkey = files.signers("example.com/log").current.vkey
    (files.path / "signer.pub").write_text("somebody else's")
    files.signers()
    assert files.vkey() == vkey


def test_two_ledgers_never_share_an_origin_by_accident(tmp_path: Path) -> None:
    origins = set()
    for name in ("a", "b"):
        files = DataDir(tmp_path / name)
        files.create()
        origins.add(files.signers().current.origin)
    assert len(origins) == 2


@pytest.mark.parametrize("name", ["signer.key", "commitment.key"])
@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620])
def test_a_key_file_that_others_can_reach_is_refused(files: DataDir, name: str, mode: int) -> None:
    use = files.signers if name == "signer.key" else files.commitment_key
    use()
    assert (files.path / name).stat().st_mode & 0o777 == 0o600
    (files.path / name).chmod(mode)
    with pytest.raises(ConfigError, match="can be read by others") as caught:
        use()
    assert "chmod 600" in caught.value.hint


@pytest.mark.parametrize("content", [b"", b"short", b"\xff" * 60, b"PRIVATE+KEY+a+b+c\n"])
def test_damaged_keys_are_refused_by_name_and_never_replaced(files: DataDir, content: bytes) -> None:
    for name, use in (("signer.key", files.signers), ("commitment.key", files.commitment_key)):
        use()
        (files.path / name).write_bytes(content)
        with pytest.raises(ConfigError, match=name) as caught:
            use()
        assert content.decode("latin-1") not in str(caught.value) or not content
        assert (files.path / name).read_bytes() == content


def test_processes_that_start_at_once_agree_on_one_key(data: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from checkrein.storage.files import DataDir\n"
        "f = DataDir(Path(sys.argv[1])); f.create(); sys.stdin.read(1)\n"
        "print(f.signers().current.vkey, f.commitment_key().hex())"
    )
    arguments = [sys.executable, "-c", code, str(data)]
    children = [subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    for child in children:
        assert child.stdin is not None
        child.stdin.write("x")
        child.stdin.flush()
    answers = {child.communicate(timeout=60)[0] for child in children}
    assert len(answers) == 1
    assert not [path for path in data.iterdir() if path.name.startswith(".")]


def test_a_file_is_replaced_whole_or_not_at_all(files: DataDir, monkeypatch: pytest.MonkeyPatch) -> None:
    files.write_checkpoint("one")

    def refuse(descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(OSError, match="Input/output"):
        files.write_checkpoint("two")
    assert files.checkpoint() == "one"
    assert [path.name for path in files.path.iterdir()] == ["checkpoint"]


def test_a_failed_rename_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    with pytest.raises(OSError, match="directory"):
        write_atomic(tmp_path / "taken", b"x", mode=0o600)
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def test_leaves_are_written_from_a_record_on_and_nothing_stays_behind_them(files: DataDir) -> None:
    hashes = [bytes([at]) * 32 for at in range(10)]
    assert (list(files.leaves()), files.leaves_kept()) == ([], 0)
    files.write_leaves(0, b"".join(hashes))
    files.write_leaves(4, hashes[9])
    assert list(files.leaves()) == [*hashes[:4], hashes[9]]
    assert files.leaves_kept() == 5


def test_a_lock_is_held_by_one_at_a_time(files: DataDir) -> None:
    with files.locked("x.lock", wait_s=0) as first, files.locked("x.lock", wait_s=0.01) as second:
        assert (first, second) == (True, False)
    with files.locked("x.lock", wait_s=0) as third:
        assert third

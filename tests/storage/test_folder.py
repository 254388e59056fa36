from __future__ import annotations

from pathlib import Path

import pytest

from checkrein.model import ConfigError
from checkrein.storage.folder import MAX_FILE_BYTES, read_folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "governance"
    for name, text in {
        "checkrein.toml": "# toml",
        "tools.yaml": "tools: {}",
        "policies/b.cedar": "b",
        "policies/a.cedar": "a",
        "tests/base.yaml": "tests",
        "golden/set.jsonl": "{}",
        "README.md": "not read",
        "policies/.#a.cedar": "an editor's own",
        "policies/notes.txt": "not read",
        "policies/deeper/c.cedar": "not read",
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_the_files_checkrein_knows_are_read_and_no_others(folder: Path) -> None:
    assert read_folder(folder) == {
        "checkrein.toml": b"# toml",
        "golden/set.jsonl": b"{}",
        "policies/a.cedar": b"a",
        "policies/b.cedar": b"b",
        "tests/base.yaml": b"tests",
        "tools.yaml": b"tools: {}",
    }
    assert list(read_folder(folder)) == sorted(read_folder(folder))


def test_a_folder_with_only_its_configuration_is_enough(tmp_path: Path) -> None:
    (tmp_path / "checkrein.toml").write_text("")
    assert read_folder(tmp_path) == {"checkrein.toml": b""}


@pytest.mark.parametrize(("name", "said"), [("missing", "does not exist"), (".", "no `checkrein.toml`")])
def test_what_is_not_a_governance_folder_is_refused_with_the_way_to_make_one(
    tmp_path: Path, name: str, said: str
) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        read_folder(tmp_path / name)
    assert "checkrein init" in caught.value.hint


def test_a_file_is_not_a_folder(folder: Path) -> None:
    with pytest.raises(ConfigError, match="is not a folder"):
        read_folder(folder / "tools.yaml")


def test_a_link_within_the_folder_is_followed(folder: Path) -> None:
    (folder / "policies/c.cedar").symlink_to(folder / "policies/deeper/c.cedar")
    assert read_folder(folder)["policies/c.cedar"] == b"not read"


@pytest.mark.parametrize("name", ["policies/evil.cedar", "tools.yaml"])
def test_a_link_that_leads_out_is_refused(folder: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "secret").write_text("secret")
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(tmp_path / "secret")
    with pytest.raises(ConfigError, match="leads out of the folder"):
        read_folder(folder)


def test_a_linked_directory_that_leads_out_is_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "x.jsonl").write_text("{}")
    (folder / "golden" / "set.jsonl").unlink()
    (folder / "golden").rmdir()
    (folder / "golden").symlink_to(tmp_path / "outside")
    with pytest.raises(ConfigError, match="leads out of the folder"):
        read_folder(folder)


def test_a_file_beyond_four_mebibytes_is_refused(folder: Path) -> None:
    path = folder / "golden" / "set.jsonl"
    path.write_bytes(b"x" * MAX_FILE_BYTES)
    assert len(read_folder(folder)["golden/set.jsonl"]) == MAX_FILE_BYTES
    path.write_bytes(b"x" * (MAX_FILE_BYTES + 1))
    with pytest.raises(ConfigError, match="larger than 4 MiB"):
        read_folder(folder)


def test_a_directory_under_a_policys_name_is_refused(folder: Path) -> None:
    (folder / "policies/x.cedar").mkdir()
    with pytest.raises(ConfigError, match="is not a file"):
        read_folder(folder)


def test_a_link_to_nowhere_is_refused(folder: Path) -> None:
    (folder / "policies/x.cedar").symlink_to(folder / "gone")
    with pytest.raises(ConfigError, match="is not a file"):
        read_folder(folder)

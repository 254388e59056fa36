"""Serials that only rise, the last good bundle, key files, and what may stand in a file that is read."""

from __future__ import annotations

from pathlib import Path

import pytest

from checkrein.model import ConfigError, PolicyInvalid
from checkrein.policy import archive
from checkrein.policy.archive import read_unverified
from checkrein.policy.dsse import SigningKey
from checkrein.storage import bundles as module
from checkrein.storage.bundles import (
    ArchiveSource,
    Bundles,
    FolderSource,
    new_signing_key,
    public_path,
    read_archive,
    read_public_key,
    read_signing_key,
    write_archive,
    write_public_key,
)
from checkrein.storage.files import DataDir

FILES = {"policies/a.cedar": b'@id("a") permit (principal, action, resource);'}
OTHER = {"policies/a.cedar": b'@id("a") forbid (principal, action, resource);'}
AT = "2026-01-31T09:00:00Z"
KEY = SigningKey(bytes(32))


@pytest.fixture
def bundles(data: Path) -> Bundles:
    return Bundles(DataDir(data))


def again(data: Path) -> Bundles:
    """What the next process sees."""
    return Bundles(DataDir(data))


def signed(serial: int, files: dict[str, bytes] = FILES) -> bytes:
    return archive.sign(archive.build(files, serial=serial, created=AT), KEY)


def source(path: Path, bundles: Bundles) -> ArchiveSource:
    return ArchiveSource(path, [KEY.public], bundles)


# --- building


def test_serials_count_up_from_one_and_each_names_the_one_before(bundles: Bundles, data: Path) -> None:
    first = read_unverified(bundles.build(FILES, created=AT)).manifest
    second = read_unverified(again(data).build(OTHER, created=AT)).manifest
    third = read_unverified(again(data).build(OTHER, created=AT, serial=9)).manifest
    assert [first.serial, second.serial, third.serial] == [1, 2, 9]
    assert [first.parent, second.parent, third.parent] == [None, first.bundle, second.bundle]


def test_the_same_files_with_the_same_serial_are_the_same_archive_again(bundles: Bundles, data: Path) -> None:
    bundles.build(FILES, created=AT)
    made = bundles.build(OTHER, created=AT)
    assert again(data).build(OTHER, created=AT, serial=2) == made
    assert read_unverified(bundles.build(FILES, created=AT)).manifest.serial == 3


@pytest.mark.parametrize("serial", [1, 4, 5])
def test_a_serial_that_is_behind_or_taken_is_refused(bundles: Bundles, serial: int) -> None:
    bundles.build(FILES, created=AT, serial=5)
    with pytest.raises(ConfigError, match="not after 5") as caught:
        bundles.build(OTHER, created=AT, serial=serial)
    assert "--serial" in caught.value.hint


def test_what_cannot_be_built_takes_no_serial(bundles: Bundles) -> None:
    with pytest.raises(PolicyInvalid):
        bundles.build({**FILES, "policies/deep/x.cedar": b""}, created=AT)
    assert bundles.built() is None


def test_a_damaged_memory_of_serials_is_an_error_and_not_a_fresh_start(bundles: Bundles, data: Path) -> None:
    bundles.build(FILES, created=AT)
    (data / "bundles/built.json").write_text("{")
    with pytest.raises(ConfigError, match="cannot be read"):
        again(data).build(FILES, created=AT)


# --- accepting


def test_a_lower_serial_is_refused_also_after_a_restart(bundles: Bundles, data: Path, tmp_path: Path) -> None:
    file = tmp_path / "policy.tar"
    write_archive(file, signed(5))
    offer = source(file, bundles).look()
    assert offer.open().serial == 5
    offer.keep()
    write_archive(file, signed(4, OTHER))
    for seen in (bundles, again(data)):
        with pytest.raises(PolicyInvalid, match="serial 4 is lower than 5") as caught:
            source(file, seen).look().open()
        assert "new serial" in caught.value.hint


def test_the_serial_of_another_bundle_is_refused_and_its_own_is_not(bundles: Bundles, tmp_path: Path) -> None:
    file = tmp_path / "policy.tar"
    write_archive(file, signed(5))
    source(file, bundles).look().keep()
    assert source(file, bundles).look().open().serial == 5
    write_archive(file, signed(5, OTHER))
    with pytest.raises(PolicyInvalid, match="serial 5 was accepted here for another"):
        source(file, bundles).look().open()


def test_another_signature_on_the_same_version_is_the_same_version(bundles: Bundles, tmp_path: Path) -> None:
    file = tmp_path / "policy.tar"
    bundles.accept(signed(5))
    write_archive(file, archive.sign(signed(5), SigningKey(b"2" * 32)))
    assert source(file, bundles).look().open().serial == 5


def test_nothing_is_accepted_below_what_another_process_accepted_meanwhile(bundles: Bundles, data: Path) -> None:
    again(data).accept(signed(7))
    with pytest.raises(PolicyInvalid, match="lower than 7"):
        bundles.accept(signed(6))
    assert bundles.accepted() == signed(7)


def test_the_last_good_one_is_what_was_kept(bundles: Bundles, data: Path, tmp_path: Path) -> None:
    file = tmp_path / "policy.tar"
    write_archive(file, signed(5))
    assert source(file, bundles).last_good() is None
    source(file, bundles).look().keep()
    file.unlink()
    last = source(file, again(data)).last_good()
    assert last is not None
    assert dict(last.open().files) == FILES


def test_a_damaged_high_water_mark_lets_nothing_in(bundles: Bundles, data: Path, tmp_path: Path) -> None:
    file = tmp_path / "policy.tar"
    write_archive(file, signed(9))
    bundles.accept(signed(5))
    (data / "bundles/accepted.tar").write_bytes(b"x")
    with pytest.raises(ConfigError, match="knows the last serial, is damaged"):
        source(file, bundles).look().open()


def test_a_signature_by_another_key_is_refused(bundles: Bundles, tmp_path: Path) -> None:
    file = tmp_path / "policy.tar"
    write_archive(file, signed(5))
    with pytest.raises(PolicyInvalid, match="not signed by a key that is trusted"):
        ArchiveSource(file, [SigningKey(b"2" * 32).public], bundles).look().open()


def test_without_a_key_nobody_is_trusted(bundles: Bundles, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nobody is trusted") as caught:
        ArchiveSource(tmp_path / "policy.tar", [], bundles)
    assert "--bundle-key" in caught.value.hint


# --- folders


def test_a_folders_fingerprint_follows_what_decides(tmp_path: Path) -> None:
    (tmp_path / "checkrein.toml").write_text("")
    (tmp_path / "policies").mkdir()
    (tmp_path / "policies/a.cedar").write_bytes(FILES["policies/a.cedar"])
    folder = FolderSource(tmp_path)
    before = folder.look()
    (tmp_path / "checkrein.toml").write_text('environment = "x"')
    assert folder.look().fingerprint == before.fingerprint
    (tmp_path / "policies/a.cedar").write_bytes(OTHER["policies/a.cedar"])
    assert folder.look().fingerprint != before.fingerprint
    assert before.open().files["policies/a.cedar"] == FILES["policies/a.cedar"]
    assert folder.last_good() is None


def test_a_folder_with_a_name_that_is_no_text_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "checkrein.toml").write_text("")
    (tmp_path / "policies").mkdir()
    (tmp_path / "policies" / b"\xff.cedar".decode("utf-8", "surrogateescape")).write_text("")
    with pytest.raises(ConfigError, match="not UTF-8"):
        FolderSource(tmp_path).look()


# --- key files and archives


def test_a_key_is_made_once_for_its_owner_alone_with_its_public_half_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "release.key"
    made = new_signing_key(path)
    write_public_key(path, made)
    assert path.stat().st_mode & 0o777 == 0o600
    assert read_signing_key(path).public == made.public == read_public_key(public_path(path))
    with pytest.raises(ConfigError, match="exists already"):
        new_signing_key(path)
    assert read_signing_key(path).public == made.public


def test_a_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "release.key"
    new_signing_key(path)
    path.chmod(0o644)
    with pytest.raises(ConfigError, match="mode 0644") as caught:
        read_signing_key(path)
    assert "chmod 600" in caught.value.hint


def test_the_public_key_of_another_key_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "release.key"
    public_path(path).write_bytes(KEY.public.to_pem())
    with pytest.raises(ConfigError, match="belongs to another key"):
        write_public_key(path, SigningKey(b"2" * 32))
    assert public_path(path).read_bytes() == KEY.public.to_pem()


def test_an_error_about_a_key_never_shows_it(tmp_path: Path) -> None:
    path = tmp_path / "release.key"
    path.write_text("-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n")
    path.chmod(0o600)
    with pytest.raises(ConfigError) as caught:
        read_signing_key(path)
    assert "c2VjcmV0" not in f"{caught.value} {caught.value.hint}"


@pytest.mark.parametrize("read", [read_archive, read_public_key, read_signing_key])
def test_what_is_not_there_or_no_file_is_an_error_with_a_way_on(tmp_path: Path, read: object) -> None:
    for path, says in ((tmp_path / "gone", "does not exist"), (tmp_path, "is no file")):
        with pytest.raises(ConfigError, match=says) as caught:
            read(path)  # type: ignore[operator]
        assert caught.value.hint


def test_of_a_huge_file_no_more_is_read_than_a_bundle_can_have(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_ARCHIVE_BYTES", 100)
    (tmp_path / "x.tar").write_bytes(bytes(101))
    with pytest.raises(ConfigError, match="larger"):
        read_archive(tmp_path / "x.tar")

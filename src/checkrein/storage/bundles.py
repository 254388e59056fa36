"""Bundles on disk: where policy versions come from, and what is remembered of them.

    bundles/built.json      the last bundle built here: its serial, its digest and its parent
    bundles/accepted.tar    the last bundle that was proved good here, as it was offered

The serial of `accepted.tar` is the high-water mark: no archive with a lower one is taken again, nor another one with
the same, also after a restart. Key files are PEM, the private one readable by its owner alone.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec

from checkrein.model import ConfigError, PolicyInvalid, StoreUnavailable
from checkrein.model.json import dumps
from checkrein.policy import archive
from checkrein.policy.archive import MAX_ARCHIVE_BYTES
from checkrein.policy.bundle import digest_of
from checkrein.policy.dsse import PublicKey, SigningKey
from checkrein.services.reload import Edition, Offer
from checkrein.storage.files import DataDir, write_atomic
from checkrein.storage.folder import read_folder

_KEY_BYTES = 65_536
_PATIENCE_S = 5.0


class Built(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The last bundle that was built."""

    serial: int
    bundle: str
    parent: str | None = None


class Bundles:
    """What one data directory remembers of bundles."""

    def __init__(self, data: DataDir) -> None:
        self._data = data
        self._path = data.path / "bundles"

    def build(self, files: Mapping[str, bytes], *, created: str, serial: int | None = None) -> bytes:
        """The archive of a folder's files, with the next serial and the last bundle built as its parent.

        The serial of the last build may be given again for the same files: that gives the same archive. Raises
        `ConfigError` for a serial that is behind or taken, `PolicyInvalid` for files that cannot be in a bundle.
        """
        with self._locked():
            last = self.built()
            new = _next(last, digest_of(files), serial)
            data = archive.build(files, serial=new.serial, created=created, parent=new.parent)
            if new != last:
                write_atomic(self._path / "built.json", dumps(new) + b"\n", mode=0o644)
        return data

    def built(self) -> Built | None:
        """The last bundle that was built here."""
        path = self._path / "built.json"
        try:
            return msgspec.json.decode(path.read_bytes(), type=Built)
        except FileNotFoundError:
            return None
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise ConfigError(
                f"`{path}` cannot be read", hint="restore it, or give `--serial` and remove it"
            ) from error

    def accepted(self) -> bytes | None:
        """The last archive that was proved good here."""
        path = self._path / "accepted.tar"
        return read_archive(path) if path.exists() else None

    def accept(self, data: bytes) -> None:
        """Remember a good archive; raises `PolicyInvalid` if a later one was accepted meanwhile."""
        with self._locked():
            self.check_serial(archive.read_unverified(data))
            if data != self.accepted():
                write_atomic(self._path / "accepted.tar", data, mode=0o600)

    def check_serial(self, offered: archive.Archive) -> None:
        """Raise `PolicyInvalid` for a version before the last one accepted, or another one of its serial."""
        held = self.accepted()
        if held is None:
            return
        try:
            mark = archive.read_unverified(held)
        except PolicyInvalid as error:
            raise ConfigError(
                f"`{self._path / 'accepted.tar'}`, which knows the last serial, is damaged",
                hint="restore it from a backup; if you remove it, a bundle of any serial is accepted",
            ) from error
        serial, last = offered.manifest.serial, mark.manifest.serial
        if serial < last:
            raise PolicyInvalid(
                f"its serial {serial} is lower than {last}, which was accepted here",
                hint="to go back, build the older files again with a new serial",
            )
        if serial == last and offered.identity != mark.identity:
            raise PolicyInvalid(
                f"its serial {serial} was accepted here for another bundle", hint="build it with a new serial"
            )

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self._data.create()
        self._path.mkdir(mode=0o700, exist_ok=True)
        with self._data.locked("bundles.lock", wait_s=_PATIENCE_S) as mine:
            if not mine:
                raise StoreUnavailable("another process holds the bundles", hint="try again")
            yield


def _next(last: Built | None, bundle: str, serial: int | None) -> Built:
    if last is None:
        return Built(1 if serial is None else serial, bundle)
    if serial is None:
        return Built(last.serial + 1, bundle, last.bundle)
    if serial == last.serial and bundle == last.bundle:
        return last
    if serial <= last.serial:
        raise ConfigError(
            f"the serial {serial} is not after {last.serial}, the last one built here",
            hint="leave `--serial` out: the next one is taken",
        )
    return Built(serial, bundle, last.bundle)


# --- sources


class FolderSource:
    """A governance folder as a source of policy versions."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def look(self) -> Offer:
        files = read_folder(self._folder)
        try:
            return _FolderOffer(files, digest_of(files))
        except UnicodeEncodeError:
            raise ConfigError("a file has a name that is not UTF-8", hint="rename it") from None

    def last_good(self) -> Offer | None:
        """None: a folder is its owner's, and no copy of it is kept."""
        return None


class _FolderOffer(msgspec.Struct, frozen=True):
    files: dict[str, bytes]
    fingerprint: str

    def open(self) -> Edition:
        return Edition(self.files)

    def keep(self) -> None:
        pass


class ArchiveSource:
    """A bundle file as a source of policy versions; `keys` are trusted to sign them."""

    def __init__(self, path: Path, keys: Sequence[PublicKey], bundles: Bundles) -> None:
        if not keys:
            raise ConfigError("nobody is trusted to sign bundles", hint="name a public key with `--bundle-key`")
        self._path = path
        self._keys = tuple(keys)
        self._bundles = bundles

    def look(self) -> Offer:
        return self._offer(read_archive(self._path))

    def last_good(self) -> Offer | None:
        data = self._bundles.accepted()
        return None if data is None else self._offer(data)

    def _offer(self, data: bytes) -> Offer:
        return _ArchiveOffer(data, self._keys, self._bundles)


class _ArchiveOffer:
    def __init__(self, data: bytes, keys: tuple[PublicKey, ...], bundles: Bundles) -> None:
        self._data = data
        self._keys = keys
        self._bundles = bundles
        self.fingerprint = archive.fingerprint(data)

    def open(self) -> Edition:
        read = archive.verify(self._data, self._keys)
        self._bundles.check_serial(read)
        return Edition(read.files, read.manifest.serial, read.keys)

    def keep(self) -> None:
        self._bundles.accept(self._data)


# --- files


def read_archive(path: Path) -> bytes:
    """The bytes of a bundle file, and not more than a bundle can have; raises `ConfigError`."""
    data = _read(path, MAX_ARCHIVE_BYTES + 1, "the bundle", "make one with `checkrein bundle build`")
    if len(data) > MAX_ARCHIVE_BYTES:
        raise ConfigError(f"the bundle `{path}` is larger than 64 MiB", hint="no bundle is so large")
    return data


def write_archive(path: Path, data: bytes) -> None:
    """Write a bundle file in one step; raises `ConfigError`."""
    _write(path, data, 0o644)


def read_public_key(path: Path) -> PublicKey:
    """A public key in PEM; raises `ConfigError`."""
    try:
        return PublicKey.from_pem(_read(path, _KEY_BYTES, "the public key", "name the `.pub` file of who signs"))
    except ConfigError as error:
        raise ConfigError(f"`{path}`: {error}", hint=error.hint) from error


def read_signing_key(path: Path) -> SigningKey:
    """A private key in PEM that nobody else can read; raises `ConfigError`."""
    data = _read(path, _KEY_BYTES, "the key", "make one with `--new-key`")
    mode = path.stat().st_mode
    if mode & 0o077:
        raise ConfigError(
            f"the key file `{path}` can be read by others (mode {mode & 0o777:04o})",
            hint=f"run `chmod 600 {path}`, and replace the key if somebody may have read it",
        )
    try:
        return SigningKey.from_pem(data)
    except ConfigError as error:
        raise ConfigError(f"`{path}`: {error}", hint=error.hint) from error


def new_signing_key(path: Path) -> SigningKey:
    """Make a private key (0600); raises `ConfigError` if there is a file already."""
    key = SigningKey(secrets.token_bytes(32))
    if path.exists() or public_path(path).exists():
        raise ConfigError(f"`{path}` or its `.pub` exists already", hint="leave `--new-key` out to use it")
    _write(path, key.to_pem(), 0o600)
    return key


def write_public_key(path: Path, key: SigningKey) -> None:
    """Write the public key beside the private one, unless it stands there; raises `ConfigError`."""
    public = public_path(path)
    if not public.exists():
        _write(public, key.public.to_pem(), 0o644)
    elif read_public_key(public) != key.public:
        raise ConfigError(f"`{public}` belongs to another key", hint=f"move it away; it does not belong to `{path}`")


def public_path(path: Path) -> Path:
    """Where the public key of a key file stands."""
    return path.with_name(f"{path.name}.pub")


def _write(path: Path, data: bytes, mode: int) -> None:
    try:
        write_atomic(path, data, mode=mode)
    except OSError as error:
        raise ConfigError(f"`{path}` cannot be written: {_why(error)}", hint="choose another place") from error


def _read(path: Path, limit: int, what: str, hint: str) -> bytes:
    try:
        if not path.is_file():
            raise ConfigError(f"{what} `{path}` {'is no file' if path.exists() else 'does not exist'}", hint=hint)
        with path.open("rb") as file:
            return file.read(limit)
    except OSError as error:
        raise ConfigError(f"{what} `{path}` cannot be read: {_why(error)}", hint="check its permissions") from error


def _why(error: OSError) -> str:
    return (error.strerror or type(error).__name__).lower()

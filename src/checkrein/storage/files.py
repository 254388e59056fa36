"""The data directory: keys and the checkpoint, beside the database and apart from it.

    signer.key       the ledger's private keys, 0600      signer.pub   the public key, one line to hand out
    commitment.key   32 random bytes, 0600                checkpoint   the signed tree head
    signer-ID.key    an earlier private key, if kept, 0600
    witness-ID.pub   the key of a witness                 witness-ID.checkpoint   the tree head it cosigned last
    leaves           32 bytes a record: the leaf hashes the checkpoint covers
    payload.key      the key that wraps the keys of the payloads, 0600
    owners/          one locked file for each living process
    standing         eight bytes that say whether keys and switches are as they were; see `standing`

Everything is created once, also when two processes start at the same moment, and is on disk before it is
used.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import time
from collections.abc import Iterator
from pathlib import Path

from checkrein.ledger.checkpoint import COSIGNATURE, Cosigned, Signer, VerifierKey
from checkrein.ledger.signers import Signers
from checkrein.ledger.tree import HASH_BYTES
from checkrein.model import ConfigError, LedgerInvalid

COMMITMENT_KEY_BYTES = 32
_SEED_BYTES = 32
_READ_LEAVES = 4096
_TRY_S = 0.005


class DataDir:
    """The files of one data directory. Making the object touches nothing; `create` makes the directory (0700)."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def database(self) -> Path:
        return self.path / "ledger.db"

    @property
    def payloads(self) -> Path:
        return self.path / "payload.db"

    @property
    def owners(self) -> Path:
        return self.path / "owners"

    @property
    def standing(self) -> Path:
        return self.path / "standing"

    def create(self) -> None:
        """Make the directory and those above it; raises `ConfigError` if that cannot be."""
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(
                f"the data directory `{self.path}` cannot be made: {_why(error)}",
                hint="choose another with `--data`",
            ) from error

    def signers(self, origin: str = "") -> Signers:
        """The ledger's keys, the first made on first use. Its origin, by default a random one, is that of all.

        Whoever writes the file wipes what stood in it before: read it under the lock of the checkpoint. Raises
        `LedgerInvalid` if the file is gone although something was signed, `ConfigError` if it cannot be used.
        """
        if not self._signer_key.exists() and self.checkpoint():
            raise LedgerInvalid(
                f"`{self._signer_key}` is missing, but there is a checkpoint that it signed",
                hint="restore it from a backup; without it nothing can be signed that extends this ledger",
            )
        made = origin or f"checkrein.local/{secrets.token_hex(4)}"
        text = _secret(self._signer_key, str(Signers(new_signer(made))).encode())
        try:
            signers = Signers.parse(text.decode("utf-8", "replace"))
        except ConfigError as error:
            raise ConfigError(f"`{self._signer_key}`: {error}", hint=error.hint) from error
        if self.vkey() not in signers.vkeys.split():
            self.publish(signers)
        return signers

    def write_signers(self, signers: Signers) -> None:
        """Replace the key file in one step, and overwrite what stood in it before. Raises `OSError`."""
        descriptor = os.open(self._signer_key, os.O_WRONLY | os.O_CLOEXEC)
        try:
            write_atomic(self._signer_key, str(signers).encode(), mode=0o600)
            os.pwrite(descriptor, bytes(os.fstat(descriptor).st_size), 0)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def keep_signer(self, signer: Signer) -> None:
        """Put a private key that signs no more into a file of its own."""
        path = self.path / f"signer-{signer.verifier.id.hex()}.key"
        if not path.exists():
            _create_once(path, (signer.to_secret() + "\n").encode())

    def publish(self, signers: Signers) -> None:
        """Write the current public key beside the checkpoint, unless it stands there. Raises `OSError`."""
        if self.vkey() != signers.current.vkey:
            write_atomic(self.path / "signer.pub", (signers.current.vkey + "\n").encode(), mode=0o644)

    @property
    def _signer_key(self) -> Path:
        return self.path / "signer.key"

    def commitment_key(self) -> bytes:
        """The key of the commitments in records, made on first use."""
        key = _secret(self.path / "commitment.key", secrets.token_bytes(COMMITMENT_KEY_BYTES))
        if len(key) != COMMITMENT_KEY_BYTES:
            raise ConfigError(
                f"`{self.path / 'commitment.key'}` is damaged: it does not hold {COMMITMENT_KEY_BYTES} bytes",
                hint="restore the file from a backup",
            )
        return key

    def payload_key(self, fresh: str = "") -> str:
        """The text of the key file that wraps payload keys; `fresh` makes it if there is none."""
        path = self.path / "payload.key"
        if not fresh and not path.exists():
            raise ConfigError(
                f"`{path}` is missing: the payloads in `{self.payloads.name}` cannot be opened, nor new ones sealed",
                hint=f"restore it from a backup; if it is lost for good, move `{self.payloads}` away",
            )
        return _secret(path, fresh.encode()).decode("utf-8", "replace")

    def vkey(self) -> str:
        """The current public key, or an empty string while there is none."""
        return _text(self.path / "signer.pub").strip()

    def checkpoint(self) -> str:
        """The signed note, or an empty string while there is none."""
        return _text(self.path / "checkpoint")

    def write_checkpoint(self, text: str) -> None:
        """Replace the checkpoint in one step; it is on disk when this returns. Raises `OSError`."""
        write_atomic(self.path / "checkpoint", text.encode(), mode=0o644)

    def cosigned(self) -> tuple[Cosigned, ...]:
        """The checkpoints that witnesses cosigned last, one of each witness."""
        found = sorted(self.path.glob("witness-*.checkpoint"))
        return tuple(Cosigned(_text(path.with_suffix(".pub")).strip(), _text(path)) for path in found)

    def write_cosigned(self, cosigned: Cosigned) -> None:
        """Keep the checkpoint that this witness cosigned last, and its key. Raises `OSError`."""
        id = VerifierKey.parse(cosigned.vkey, COSIGNATURE).id.hex()
        key = self.path / f"witness-{id}.pub"
        if _text(key).strip() != cosigned.vkey:
            write_atomic(key, (cosigned.vkey + "\n").encode(), mode=0o644)
        write_atomic(self.path / f"witness-{id}.checkpoint", cosigned.note.encode(), mode=0o644)

    def leaves(self) -> Iterator[bytes]:
        """The leaf hashes kept outside the database, in order; nothing if there are none."""
        with contextlib.suppress(FileNotFoundError), (self.path / "leaves").open("rb") as file:
            while block := file.read(HASH_BYTES * _READ_LEAVES):
                for at in range(0, len(block) - HASH_BYTES + 1, HASH_BYTES):
                    yield block[at : at + HASH_BYTES]

    def write_leaves(self, start: int, leaves: bytes) -> None:
        """Put these leaf hashes (joined) at record `start`, and nothing behind them. Raises `OSError`."""
        descriptor = os.open(self.path / "leaves", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.truncate(start * HASH_BYTES)
            file.seek(start * HASH_BYTES)
            file.write(leaves)
            file.flush()
            os.fsync(file.fileno())

    def leaves_kept(self) -> int:
        """How many leaf hashes are kept outside the database."""
        path = self.path / "leaves"
        return path.stat().st_size // HASH_BYTES if path.exists() else 0

    @contextlib.contextmanager
    def locked(self, name: str, *, wait_s: float) -> Iterator[bool]:
        """Hold `name` alone among all processes; yields False if another one holds it for longer than `wait_s`."""
        deadline = time.monotonic() + wait_s
        descriptor = os.open(self.path / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            while not (mine := _lock(descriptor)) and time.monotonic() < deadline:
                time.sleep(_TRY_S)
            yield mine
        finally:
            os.close(descriptor)


def new_signer(origin: str) -> Signer:
    """A signer with a fresh random key."""
    return Signer(secrets.token_bytes(_SEED_BYTES), origin)


def _lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def write_atomic(path: Path, data: bytes, *, mode: int) -> None:
    """Write a file so that a reader, or a crash, meets the old content or the new, never a part of it."""
    draft = _draft(path, data, mode)
    try:
        draft.rename(path)
    except OSError:
        draft.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Make renames and new names in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _secret(path: Path, fresh: bytes) -> bytes:
    """The content of a key file, `fresh` if there was none. A file that others can read is refused."""
    try:
        if not path.exists():
            _create_once(path, fresh)
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            mode = os.fstat(descriptor).st_mode
            data = file.read(65_536)
    except OSError as error:
        raise ConfigError(
            f"the key file `{path}` cannot be used: {_why(error)}", hint="check who owns it and its directory"
        ) from error
    if mode & 0o077:
        raise ConfigError(
            f"the key file `{path}` can be read by others (mode {mode & 0o777:04o})",
            hint=f"run `chmod 600 {path}`, and replace the key if somebody may have read it",
        )
    return data


def _create_once(path: Path, data: bytes) -> None:
    """Make the file with all its content, unless somebody else just did: the first link wins."""
    draft = _draft(path, data, 0o600)
    try:
        with contextlib.suppress(FileExistsError):
            path.hardlink_to(draft)
    finally:
        draft.unlink(missing_ok=True)
    sync_directory(path.parent)


def _draft(path: Path, data: bytes, mode: int) -> Path:
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        draft.unlink(missing_ok=True)
        raise
    return draft


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8", "replace")
    except FileNotFoundError:
        return ""


def _why(error: OSError) -> str:
    return (error.strerror or type(error).__name__).lower()

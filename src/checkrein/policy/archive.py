"""A bundle as one file: a canonical tar with a manifest of digests and, once signed, a signature over the manifest.

    manifest.json        `BundleManifest`: serial, parent, the SHA-256 of every file
    manifest.sig.json    a DSSE envelope over the bytes of manifest.json
    policies/*.cedar  tests/*.yaml  tools.yaml  tools/*.json

It holds what the bundle's digest names and nothing else: settings and golden data belong to a deployment. POSIX ustar,
members sorted by name, mode 0644, times and owners zero, two zero blocks at the end: the same files with the same
manifest give the same bytes, and bytes that are spelled otherwise are refused. Nothing is ever unpacked to a disk.
"""

from __future__ import annotations

import datetime
import hashlib
import re
from collections.abc import Mapping, Sequence

import msgspec

from checkrein.model import PolicyInvalid
from checkrein.model.json import MAX_INTEGER, dumps
from checkrein.policy import dsse
from checkrein.policy.bundle import digest_of
from checkrein.policy.dsse import PublicKey, SigningKey

MANIFEST = "manifest.json"
SIGNATURE = "manifest.sig.json"
PAYLOAD_TYPE = "application/vnd.checkrein.bundle+json"

#: of the archive; another one is not read
FORMAT = 1
#: of the evaluator: raised when the same policies would decide otherwise
SEMANTICS = 1

MAX_FILE_BYTES = 4 * 1024 * 1024
MAX_ARCHIVE_BYTES = 64 * 1024 * 1024

_BLOCK = 512
_END = bytes(2 * _BLOCK)
_MAX_NAME = 100
_PLAIN = r"(?!\.)[^/\\\x00-\x1f\x7f]+"
_FILE = re.compile(rf"policies/{_PLAIN}\.cedar|tests/{_PLAIN}\.yaml|tools\.yaml|tools/{_PLAIN}\.json")
_SIZE = re.compile(rb"[0-7]{11}\0")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_CREATED = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", re.ASCII)
_AGAIN = "get the bundle again, or build it with `checkrein bundle build`"


class BundleManifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a bundle says of itself.

    `serial` only rises; `parent` is the digest of the bundle before it; `created` is RFC 3339 in UTC; `files` has the
    SHA-256 of every file, in hex; `bundle` is `Bundle.digest`.
    """

    format: int
    semantics: int
    serial: int
    parent: str | None
    created: str
    files: dict[str, str]
    bundle: str


class Archive(msgspec.Struct, frozen=True):
    """An archive that was read. `keys` are the ids of the keys that signed: those verified, or those claimed."""

    manifest: BundleManifest
    files: dict[str, bytes]
    #: SHA-256 of the manifest's bytes: two archives with the same one are the same version
    identity: str
    keys: tuple[str, ...] = ()


def build(files: Mapping[str, bytes], *, serial: int, created: str, parent: str | None = None) -> bytes:
    """The archive of a folder's files, not signed. Raises `PolicyInvalid` for what cannot stand in one."""
    held = {path: bytes(data) for path, data in files.items() if _FILE.fullmatch(path)}
    digest = digest_of(held)
    if digest != digest_of(files):
        raise PolicyInvalid(
            "a file has a name that cannot stand in a bundle",
            hint="name it `policies/NAME.cedar`, `tests/NAME.yaml` or `tools/NAME.json`, in no deeper folder",
        )
    manifest = BundleManifest(
        format=FORMAT,
        semantics=SEMANTICS,
        serial=serial,
        parent=parent,
        created=created,
        files={path: hashlib.sha256(data).hexdigest() for path, data in held.items()},
        bundle=digest,
    )
    data = _join({**held, MANIFEST: dumps(manifest)})
    read_unverified(data)  # what would be refused later is refused now
    return data


def sign(data: bytes, key: SigningKey) -> bytes:
    """The archive with the key's signature, beside those of other keys. Raises `PolicyInvalid`."""
    read_unverified(data)
    members = _split(data)
    signed = dsse.sign(members[MANIFEST], PAYLOAD_TYPE, key, beside=members.get(SIGNATURE))
    return _join({**members, SIGNATURE: signed})


def verify(data: bytes, keys: Sequence[PublicKey]) -> Archive:
    """Read an archive that one of these keys signed; raises `PolicyInvalid`.

    The signature comes first: without it nothing inside is read.
    """
    members = _split(data)
    if SIGNATURE not in members:
        raise PolicyInvalid("the bundle is not signed", hint="sign it with `checkrein bundle sign`")
    good = dsse.verify(members[SIGNATURE], members[MANIFEST], PAYLOAD_TYPE, keys)
    return _check(members, good)


def read_unverified(data: bytes) -> Archive:
    """Read an archive whoever made it, to show it or to sign it, never to decide with it; raises `PolicyInvalid`."""
    members = _split(data)
    claimed: tuple[str, ...] = ()
    if SIGNATURE in members:
        claimed = dsse.key_ids(members[SIGNATURE], members[MANIFEST], PAYLOAD_TYPE)
    return _check(members, claimed)


def fingerprint(data: bytes) -> str:
    """Tells one archive from another, whatever it holds."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


# --- the manifest


class _Format(msgspec.Struct, frozen=True):
    format: int


def _check(members: Mapping[str, bytes], keys: tuple[str, ...]) -> Archive:
    """Every file is as the manifest says, and there is no other."""
    raw = members[MANIFEST]
    manifest = _manifest(raw)
    files = {name: data for name, data in members.items() if name not in (MANIFEST, SIGNATURE)}
    if files.keys() != manifest.files.keys():
        name = min(files.keys() ^ manifest.files.keys())
        raise _damaged(f"`{_shown(name)}` stands only {'in it' if name in files else 'in its manifest'}")
    for name, data in files.items():
        if hashlib.sha256(data).hexdigest() != manifest.files[name]:
            raise _damaged(f"`{_shown(name)}` is not the file that its manifest names")
    if digest_of(files) != manifest.bundle:
        raise _damaged("its digest is another than its manifest says")
    return Archive(manifest, files, hashlib.sha256(raw).hexdigest(), keys)


def _manifest(raw: bytes) -> BundleManifest:
    try:
        found = msgspec.json.decode(raw, type=_Format).format
        if found != FORMAT:
            hint = "upgrade checkrein, or build the bundle with this version"
            raise PolicyInvalid(f"the bundle has format {found}, this version reads {FORMAT}", hint=hint)
        manifest = msgspec.json.decode(raw, type=BundleManifest)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        raise _damaged("its manifest cannot be read") from None
    if manifest.semantics != SEMANTICS:
        raise PolicyInvalid(
            f"the bundle is for evaluator semantics {manifest.semantics}, this version has {SEMANTICS}",
            hint="build and test the bundle with this version of checkrein",
        )
    digests = [manifest.bundle] if manifest.parent is None else [manifest.bundle, manifest.parent]
    if dumps(manifest) != raw or not all(_DIGEST.fullmatch(digest) for digest in digests):
        raise _damaged("its manifest is not spelled in the one way there is")
    if not 1 <= manifest.serial <= MAX_INTEGER:
        raise PolicyInvalid(f"{manifest.serial} is no serial", hint="choose a number from 1")
    if not is_moment(manifest.created):
        raise PolicyInvalid("`created` is no moment in UTC", hint="write it as 2026-01-31T09:00:00Z")
    return manifest


def is_moment(text: str) -> bool:
    """Whether this is RFC 3339 in UTC, to the second."""
    if not _CREATED.fullmatch(text):
        return False
    try:
        datetime.datetime.fromisoformat(text)
    except ValueError:
        return False
    return True


# --- the tar


def _join(members: Mapping[str, bytes]) -> bytes:
    parts = []
    for name in sorted(members):
        data = members[name]
        if len(data) > MAX_FILE_BYTES:
            raise PolicyInvalid(f"`{_shown(name)}` is larger than 4 MiB", hint="split it")
        parts += [_header(_encoded(name), len(data)), data, bytes(-len(data) % _BLOCK)]
    joined = b"".join([*parts, _END])
    if len(joined) > MAX_ARCHIVE_BYTES:
        raise PolicyInvalid("the bundle would be larger than 64 MiB", hint="leave tests out, or split the folder")
    return joined


def _encoded(name: str) -> bytes:
    try:
        encoded = name.encode()
    except UnicodeEncodeError:
        encoded = b""
    if not 0 < len(encoded) <= _MAX_NAME:
        raise PolicyInvalid(f"`{_shown(name)}` cannot stand in a bundle", hint=f"use a name within {_MAX_NAME} bytes")
    return encoded


def _header(name: bytes, size: int) -> bytes:
    """A ustar header (POSIX.1-1988) with nothing in it that could differ for the same file."""
    before = b"%b0000644\0%b%011o\0%011o\0" % (name.ljust(_MAX_NAME, b"\0"), b"0000000\0" * 2, size, 0)
    after = b"0".ljust(101, b"\0") + b"ustar\x0000" + bytes(64) + b"0000000\0" * 2 + bytes(167)
    checksum = b"%06o\0 " % (sum(before) + sum(b" " * 8) + sum(after))
    return before + checksum + after


def _split(data: bytes) -> dict[str, bytes]:
    """The members by name, of an archive that holds a manifest; raises `PolicyInvalid` for all but canonical bytes."""
    if len(data) > MAX_ARCHIVE_BYTES:
        raise PolicyInvalid("the file is larger than 64 MiB", hint="no bundle is so large")
    members: dict[str, bytes] = {}
    at, last = 0, ""
    while (header := data[at : at + _BLOCK]) != bytes(_BLOCK):
        if len(header) < _BLOCK:
            raise _damaged("it is cut off" if members else "it is no archive that Checkrein makes")
        name, size = _read_header(header)
        if name <= last:
            raise _damaged(f"`{_shown(name)}` stands twice, or out of order")
        begin, end = at + _BLOCK, at + _BLOCK + size
        at, last = end + -size % _BLOCK, name
        if at > len(data) or any(data[end:at]):
            raise _damaged(f"`{_shown(name)}` is cut off, or does not end where it should")
        members[name] = data[begin:end]
    if data[at:] != _END:
        raise _damaged("it does not end where it should")
    if MANIFEST not in members:
        raise _damaged("it has no manifest")
    return members


def _read_header(header: bytes) -> tuple[str, int]:
    raw = header[:_MAX_NAME].rstrip(b"\0")
    name = raw.decode("utf-8", "replace")
    size = header[124:136]
    if header[257:263] != b"ustar\0":
        raise _damaged("it is no archive that Checkrein makes")
    if name not in (MANIFEST, SIGNATURE) and not _FILE.fullmatch(name):
        raise _damaged(f"`{_shown(name)}` has no place in a bundle")
    if header[156:157] != b"0":
        raise _damaged(f"`{_shown(name)}` is no file but a link or something else")
    if not _SIZE.fullmatch(size) or int(size[:-1], 8) > MAX_FILE_BYTES:
        raise _damaged(f"`{_shown(name)}` is larger than 4 MiB")
    if header != _header(raw, int(size[:-1], 8)):
        raise _damaged(f"the header of `{_shown(name)}` is not spelled in the one way there is")
    return name, int(size[:-1], 8)


def _damaged(why: str) -> PolicyInvalid:
    return PolicyInvalid(f"the bundle is damaged: {why}", hint=_AGAIN)


def _shown(name: str) -> str:
    """A name out of a file nobody vouches for, safe to print."""
    return "".join(char if char.isprintable() else "?" for char in name[:80])

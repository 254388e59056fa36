"""Bundles as files: the same bytes for the same content, and nothing but what was signed."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from checkrein.model import ConfigError, PolicyInvalid
from checkrein.policy import archive, dsse
from checkrein.policy.archive import MANIFEST, PAYLOAD_TYPE, SIGNATURE
from checkrein.policy.bundle import Bundle
from checkrein.policy.dsse import PublicKey, SigningKey

FILES = {
    "checkrein.toml": b"x",
    "golden/x.jsonl": b"{}",
    "policies/a.cedar": b'@id("a") @owner("x") @reason("x") permit (principal, action, resource);',
    "policies/b.cedar": b'@id("b") @owner("x") @reason("x") forbid (principal, action == Action::"pay", resource);',
    "tests/t.yaml": b"tests: []\n",
    "tools.yaml": b"tools:\n  pay: {effects: [irreversible], input: {amount: integer}}\n",
    "tools/mcp.json": b'{"tools": [{"name": "read_file", "inputSchema": {"type": "object", "properties": {}}}]}',
}
CREATED = "2026-01-31T09:00:00Z"
KEY, OTHER = SigningKey(bytes(32)), SigningKey(b"1" * 32)


def built(files: dict[str, bytes] = FILES, serial: int = 3, parent: str | None = None) -> bytes:
    return archive.build(files, serial=serial, created=CREATED, parent=parent)


SIGNED = archive.sign(built(), KEY)


def members(data: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]


def packed(held: dict[str, bytes]) -> bytes:
    """The members as an archive of the right shape, whatever they hold."""
    return archive._join(held)


def refused(data: bytes, says: str | None = None, keys: tuple[SigningKey, ...] = (KEY,)) -> None:
    with pytest.raises(PolicyInvalid, match=says) as caught:
        archive.verify(data, [key.public for key in keys])
    assert caught.value.hint


# --- what is made


def test_the_same_folder_gives_the_same_bytes() -> None:
    assert built(dict(reversed(FILES.items()))) == built()
    assert archive.sign(built(), SigningKey(bytes(32))) == SIGNED


def test_only_what_the_digest_names_stands_in_it() -> None:
    assert built({**FILES, "golden/x.jsonl": b"[]", "checkrein.toml": b"y", "README.md": b""}) == built()
    assert [*members(SIGNED)] == [
        MANIFEST, SIGNATURE, "policies/a.cedar", "policies/b.cedar", "tests/t.yaml", "tools.yaml",
        "tools/mcp.json",
    ]  # fmt: skip


def test_any_tar_reads_it_and_owners_times_and_modes_are_nobodys() -> None:
    with tarfile.open(fileobj=io.BytesIO(SIGNED)) as tar:
        assert {(m.mtime, m.uid, m.gid, m.mode, m.uname, m.type) for m in tar} == {
            (0, 0, 0, 0o644, "", tarfile.REGTYPE)
        }


def test_the_manifest_says_what_it_is() -> None:
    parent = f"sha256:{'0' * 64}"
    read = archive.read_unverified(built(parent=parent))
    digest = Bundle.from_files(FILES).digest
    assert (read.manifest.serial, read.manifest.created, read.manifest.parent) == (3, CREATED, parent)
    assert (read.manifest.bundle, read.manifest.semantics) == (digest, archive.SEMANTICS)
    assert Bundle.from_files(read.files).digest == digest


@pytest.mark.parametrize(
    ("files", "serial", "created"),
    [
        ({**FILES, "policies/deep/x.cedar": b""}, 1, CREATED),
        ({**FILES, f"policies/{'x' * 100}.cedar": b""}, 1, CREATED),
        ({**FILES, "policies/\udcff.cedar": b""}, 1, CREATED),
        ({**FILES, "policies/big.cedar": bytes(archive.MAX_FILE_BYTES + 1)}, 1, CREATED),
        (FILES, 0, CREATED),
        (FILES, 2**53, CREATED),
        (FILES, 1, "2026-02-30T09:00:00Z"),
        (FILES, 1, "today"),
    ],
)
def test_what_would_be_refused_is_not_built(files: dict[str, bytes], serial: int, created: str) -> None:
    with pytest.raises((PolicyInvalid, UnicodeEncodeError)):
        archive.build(files, serial=serial, created=created)


# --- who signed


def test_a_signed_archive_verifies_with_the_pinned_key_alone() -> None:
    assert archive.verify(SIGNED, [KEY.public]).keys == (KEY.public.id,)
    assert archive.verify(SIGNED, [OTHER.public, KEY.public]).keys == (KEY.public.id,)
    refused(SIGNED, "not signed by a key that is trusted", (OTHER,))
    refused(SIGNED, "not signed by a key that is trusted", ())


def test_an_archive_without_a_signature_is_refused() -> None:
    refused(built(), "not signed")


def test_several_keys_may_sign_and_each_suffices() -> None:
    both = archive.sign(SIGNED, OTHER)
    assert both == archive.sign(archive.sign(built(), OTHER), KEY)
    assert archive.verify(both, [OTHER.public]).keys == (OTHER.public.id,)
    assert set(archive.verify(both, [KEY.public, OTHER.public]).keys) == {KEY.public.id, OTHER.public.id}


def test_the_signature_is_a_dsse_envelope_over_the_manifest() -> None:
    """Recomputed from the text of the DSSE v1 specification."""
    held = members(SIGNED)
    envelope = json.loads(held[SIGNATURE])
    assert envelope["payloadType"] == PAYLOAD_TYPE
    kind, manifest = PAYLOAD_TYPE.encode(), held[MANIFEST]
    message = b" ".join([b"DSSEv1", str(len(kind)).encode(), kind, str(len(manifest)).encode(), manifest])
    assert dsse.pae(PAYLOAD_TYPE, manifest) == message
    assert KEY.public.verifies(KEY.sign(message), message)
    assert envelope["signatures"][0]["sig"] == dsse._base64(KEY.sign(message))


def test_the_example_of_the_specification_is_encoded_as_it_says() -> None:
    assert dsse.pae("http://example.com/HelloWorld", b"hello world") == (
        b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    )


def test_keys_travel_as_pem() -> None:
    assert SigningKey.from_pem(KEY.to_pem()).public == KEY.public
    assert PublicKey.from_pem(KEY.public.to_pem()) == KEY.public
    for read in (SigningKey.from_pem, PublicKey.from_pem):
        with pytest.raises(ConfigError):
            read(b"-----BEGIN PRIVATE KEY-----\nsecret\n")
    with pytest.raises(ConfigError):
        PublicKey.from_pem(KEY.to_pem())


# --- what is tampered with


@pytest.mark.parametrize("change", [1, 0x20, 0xFF])
def test_any_single_byte_change_is_detected(change: int) -> None:
    for at in range(len(SIGNED)):
        data = bytearray(SIGNED)
        data[at] ^= change
        refused(bytes(data))


def test_any_truncation_is_detected() -> None:
    for length in range(len(SIGNED)):
        refused(SIGNED[:length])


@given(st.binary(min_size=1, max_size=1024))
def test_anything_behind_the_end_is_detected(tail: bytes) -> None:
    refused(SIGNED + tail)


@given(st.binary(max_size=2048))
def test_bytes_that_are_no_archive_are_refused_and_nothing_else_happens(data: bytes) -> None:
    refused(data)


def swapped(held: dict[str, bytes]) -> dict[str, bytes]:
    return {**held, "policies/a.cedar": held["policies/b.cedar"], "policies/b.cedar": held["policies/a.cedar"]}


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (lambda held: {**held, "policies/c.cedar": b""}, "only in it"),
        (lambda held: {n: d for n, d in held.items() if n != "policies/b.cedar"}, "only in its manifest"),
        (lambda held: {**held, "policies/b.cedar": b"permit (principal, action, resource);"}, "not the file"),
        (swapped, "not the file"),
        (lambda held: {**held, "policies/../../etc/x.cedar": b""}, "no place"),
        (lambda held: {**held, "/etc/passwd": b""}, "no place"),
        (lambda held: {**held, "policies/.hidden.cedar": b""}, "no place"),
        (lambda held: {**held, "policies\\x.cedar": b""}, "no place"),
        (lambda held: {**held, "README.md": b""}, "no place"),
        (lambda held: {n: d for n, d in held.items() if n != MANIFEST}, "no manifest"),
    ],
)
def test_another_content_is_refused(edit: Callable[[dict[str, bytes]], dict[str, bytes]], says: str) -> None:
    refused(packed(edit(members(SIGNED))), says)


def test_a_manifest_of_ones_own_under_a_foreign_signature_is_refused() -> None:
    changed = archive.build({**FILES, "policies/b.cedar": b""}, serial=4, created=CREATED)
    refused(packed({**members(changed), SIGNATURE: members(SIGNED)[SIGNATURE]}), "about something else")
    mine = json.loads(members(archive.sign(changed, OTHER))[SIGNATURE])
    mine["signatures"][0]["keyid"] = KEY.public.id
    refused(packed({**members(changed), SIGNATURE: archive.dumps(mine)}), "the signature is wrong")


def test_the_signature_comes_before_the_manifest() -> None:
    """What nobody vouches for is not even parsed."""
    held = members(SIGNED)
    signed = dsse.sign(b"not json", PAYLOAD_TYPE, OTHER)
    refused(packed({**held, MANIFEST: b"not json", SIGNATURE: signed}), "not signed by a key that is trusted")


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (lambda manifest: {**manifest, "format": 2}, "format 2"),
        (lambda manifest: {**manifest, "semantics": 2}, "semantics 2"),
        (lambda manifest: {**manifest, "serial": 0}, "no serial"),
        (lambda manifest: {**manifest, "serial": "3"}, "cannot be read"),
        (lambda manifest: {**manifest, "more": 1}, "cannot be read"),
        (lambda manifest: {**manifest, "bundle": f"sha256:{'0' * 64}"}, "its digest"),
        (lambda manifest: {**manifest, "parent": "x"}, "one way"),
        (lambda manifest: {**manifest, "created": "x"}, "no moment"),
    ],
)
def test_a_manifest_that_does_not_hold_together_is_refused_whoever_signed_it(
    edit: Callable[[dict[str, object]], dict[str, object]], says: str
) -> None:
    held = members(SIGNED)
    raw = archive.dumps(edit(json.loads(held[MANIFEST])))
    refused(packed({**held, MANIFEST: raw, SIGNATURE: dsse.sign(raw, PAYLOAD_TYPE, KEY)}), says)


def test_a_manifest_or_an_envelope_spelled_otherwise_is_refused() -> None:
    held = members(SIGNED)
    raw = held[MANIFEST].replace(b'"format":1', b'"format": 1')
    refused(packed({**held, MANIFEST: raw, SIGNATURE: dsse.sign(raw, PAYLOAD_TYPE, KEY)}), "one way")
    refused(packed({**held, SIGNATURE: held[SIGNATURE] + b"\n"}), "one way")


def with_header(**changes: object) -> bytes:
    """The signed archive, with the header of one member as another program may write it."""
    info = tarfile.TarInfo("policies/b.cedar")
    info.size = len(FILES["policies/b.cedar"])
    for attribute, value in changes.items():
        setattr(info, attribute, value)
    at = SIGNED.index(b"policies/b.cedar\0")
    return SIGNED[:at] + info.tobuf(tarfile.USTAR_FORMAT) + SIGNED[at + 512 :]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"type": tarfile.SYMTYPE, "linkname": "/etc/passwd", "size": 0}, "a link or something else"),
        ({"type": tarfile.LNKTYPE, "linkname": "policies/a.cedar", "size": 0}, "a link or something else"),
        ({"type": tarfile.DIRTYPE, "size": 0}, "a link or something else|no place"),
        ({"type": tarfile.CHRTYPE, "size": 0}, "a link or something else"),
        ({"mode": 0o755}, "one way"),
        ({"uid": 1}, "one way"),
        ({"mtime": 1}, "one way"),
        ({"name": "policies/../b.cedar"}, "no place"),
    ],
)
def test_links_modes_and_owners_are_refused(changes: dict[str, object], says: str) -> None:
    refused(with_header(**changes), says)


def test_a_member_that_stands_twice_is_refused() -> None:
    at = SIGNED.index(b"policies/b.cedar\0")
    refused(SIGNED[: at + 1024] + SIGNED[at:], "twice, or out of order")


def test_a_huge_member_is_refused_by_its_header() -> None:
    at = SIGNED.index(b"policies/b.cedar\0")
    data = bytearray(SIGNED)
    data[at + 124 : at + 136] = b"77777777777\0"
    refused(bytes(data), "larger than 4 MiB")


def test_a_huge_archive_is_refused_unread() -> None:
    refused(bytes(archive.MAX_ARCHIVE_BYTES + 1), "larger than 64 MiB")


def test_a_compressed_archive_is_not_unpacked() -> None:
    import gzip

    refused(gzip.compress(SIGNED, mtime=0), "no archive")

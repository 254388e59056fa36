"""`checkrein bundle`: policy versions as signed files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from checkrein.cli.common import HERE, Data, Dir, Format, Output, emit, examples, print_json, say
from checkrein.cli.tables import print_facts, print_table
from checkrein.model import ConfigError

if TYPE_CHECKING:
    from checkrein.policy.archive import Archive

app = typer.Typer(
    help="Build, sign, verify and show bundles: policy versions as files.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
File = Annotated[Path, typer.Argument(metavar="FILE", help="The bundle.")]


@app.command(
    short_help="Make a bundle of a governance folder.",
    epilog=examples(
        "checkrein bundle build governance --to policy.tar",
        "checkrein bundle build governance --to policy.tar --serial 42",
    ),
)
def build(
    to: Annotated[Path, typer.Option("--to", metavar="FILE", help="The file to write.")],
    folder: Annotated[
        Path | None, typer.Argument(metavar="DIR", help="The governance folder.", show_default="--dir")
    ] = None,
    serial: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Its serial, which only rises.", show_default="the last one + 1"),
    ] = None,
    created: Annotated[str, typer.Option(metavar="TIME", help="When it was made, in UTC.", show_default="now")] = "",
    dir: Dir = HERE,
    data: Data = None,
    output: Format = Output.TABLE,
) -> None:
    """Make a bundle of a folder's policies, tools and tests: one file, known by its digest.

    The policies are loaded strictly, their tests run, and their evaluator is checked against the official engine.
    The same files with the same serial and time give the same bytes. The last serial is remembered in the store.
    """
    from checkrein.compose import DATA, SystemClock, proved_files
    from checkrein.model.stamp import stamp
    from checkrein.policy.archive import is_moment, read_unverified
    from checkrein.storage.bundles import Bundles, write_archive
    from checkrein.storage.files import DataDir

    target = folder or dir
    created = created or f"{stamp(SystemClock().now_us())[:19]}Z"
    if not is_moment(created):
        raise ConfigError(f"`{created}` is no moment in UTC", hint="write it as 2026-01-31T09:00:00Z")
    files = proved_files(target)
    made = Bundles(DataDir(data or target / DATA)).build(files, created=created, serial=serial)
    write_archive(to, made)
    read = read_unverified(made)
    if output is Output.JSON:
        print_json({"file": str(to), **_public(read)})
        return
    emit(f"{to}: serial {read.manifest.serial}, {len(read.files)} files, {read.manifest.bundle}")
    say(f"next: `checkrein bundle sign {to} --key KEYFILE`")


@app.command(
    short_help="Sign a bundle.",
    epilog=examples(
        "checkrein bundle sign policy.tar --key release.key --new-key",
        "checkrein bundle sign policy.tar --key release.key",
    ),
)
def sign(
    file: File,
    key: Annotated[Path, typer.Option("--key", metavar="KEYFILE", help="The private key, Ed25519 in PEM.")],
    new_key: Annotated[bool, typer.Option("--new-key", help="Make the key, and KEYFILE.pub beside it.")] = False,
    output: Format = Output.TABLE,
) -> None:
    """Sign a bundle in its file, beside the signatures of other keys, and print where the public key stands.

    The private key is readable by its owner alone and stays where it is; servers are given its `.pub`.
    """
    from checkrein.policy import archive
    from checkrein.storage.bundles import (
        new_signing_key,
        public_path,
        read_archive,
        read_signing_key,
        write_archive,
        write_public_key,
    )

    data = read_archive(file)
    archive.read_unverified(data)  # a key is made only for what can be signed
    signer = new_signing_key(key) if new_key else read_signing_key(key)
    write_public_key(key, signer)
    write_archive(file, archive.sign(data, signer))
    if output is Output.JSON:
        print_json({"file": str(file), "key": signer.public.id, "public_key": str(public_path(key))})
        return
    say(f"{file} is signed by the key {signer.public.id[:16]}; its public key:")
    emit(str(public_path(key)))


@app.command(
    short_help="Verify a bundle's signature and digests.",
    epilog=examples("checkrein bundle verify policy.tar --key release.key.pub"),
)
def verify(
    file: File,
    key: Annotated[list[Path], typer.Option("--key", metavar="FILE.pub", help="A public key that is trusted.")],
    output: Format = Output.TABLE,
) -> None:
    """Verify that one of the given keys signed the bundle and that every file is as signed. Exits 5 if not.

    The signature is checked before anything inside is read. The policies themselves are checked when they are loaded.
    """
    from checkrein.policy import archive
    from checkrein.storage.bundles import read_archive, read_public_key

    read = archive.verify(read_archive(file), [read_public_key(path) for path in key])
    if output is Output.JSON:
        print_json({"ok": True, **_public(read)})
        return
    signers = ", ".join(id[:16] for id in read.keys)
    emit(f"ok: serial {read.manifest.serial}, {read.manifest.bundle}, signed by {signers}")


@app.command(
    short_help="Show what is in a bundle.",
    epilog=examples("checkrein bundle show policy.tar", "checkrein bundle show policy.tar -o json"),
)
def show(file: File, output: Format = Output.TABLE) -> None:
    """Show a bundle's serial, digest, parent, files, and who claims to have signed it. No signature is verified."""
    from checkrein.policy import archive
    from checkrein.storage.bundles import read_archive

    read = archive.read_unverified(read_archive(file))
    if output is Output.JSON:
        print_json(_public(read))
        return
    manifest = read.manifest
    print_facts(
        (
            ("serial", str(manifest.serial)),
            ("bundle", manifest.bundle),
            ("parent", manifest.parent or "none"),
            ("created", manifest.created),
            ("signed by", ", ".join(read.keys) or "nobody"),
        )
    )
    emit("")
    rows = [(name, str(len(data)), manifest.files[name]) for name, data in sorted(read.files.items())]
    print_table(("file", "bytes", "sha256"), rows, empty="it holds no files")
    if read.keys:
        say("the signature was not verified: `checkrein bundle verify` does that")


def _public(read: Archive) -> dict[str, object]:
    return {**msgspec.to_builtins(read.manifest), "keys": list(read.keys)}

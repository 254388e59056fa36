"""Canary bundles on disk, each under its digest, so that a restart finds what a rollout is about.

bundles/canaries/<64 hex>.tar    an archive as `checkrein bundle build` writes them
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from checkrein.model import NotFound, PolicyInvalid
from checkrein.policy import archive
from checkrein.policy.bundle import Bundle
from checkrein.services.reload import read_bundle
from checkrein.storage.bundles import read_archive
from checkrein.storage.files import DataDir, write_atomic

#: equal files are equal archives, whenever they were laid down
_MOMENT = "1970-01-01T00:00:00Z"


class Shelf:
    def __init__(self, data: DataDir) -> None:
        self._path = data.path / "bundles" / "canaries"

    def put(self, files: Mapping[str, bytes]) -> str:
        """Keep the files of a bundle; its digest. Raises `PolicyInvalid` for what cannot stand in one."""
        data = archive.build(files, serial=1, created=_MOMENT)
        digest = archive.read_unverified(data).manifest.bundle
        self._path.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_atomic(self._file(digest), data, mode=0o600)
        return digest

    def get(self, digest: str) -> Bundle:
        """The bundle with this digest; raises `NotFound`, or `PolicyInvalid` if what lies there is another."""
        path = self._file(digest)
        if not path.is_file():
            raise NotFound(f"the files of `{digest}` are not here", hint="start the rollout again from its folder")
        bundle = read_bundle(archive.read_unverified(read_archive(path)).files)
        if bundle.digest != digest:
            raise PolicyInvalid(f"`{path}` holds another bundle", hint="start the rollout again from its folder")
        return bundle

    def _file(self, digest: str) -> Path:
        name = digest.removeprefix("sha256:")
        if len(name) != 64 or not name.isalnum():
            raise NotFound(f"`{digest[:80]}` is no bundle digest", hint="a digest is `sha256:` and 64 hex digits")
        return self._path / f"{name}.tar"

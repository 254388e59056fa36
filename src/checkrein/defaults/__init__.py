"""The governance folder that `checkrein init` writes; the files beside this one are its contents.

Its policies are the ones the demo runs on. `tests/defaults` decides every one of its policy tests.
"""

from __future__ import annotations

import os
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

from checkrein.model import ConfigError

#: what git must not take: the store, and secrets
_IGNORED = b"# the store and secrets stay out of version control\n.checkrein/\n.env\n"


def contents() -> dict[str, bytes]:
    """Every file of the default folder, by its name in the folder, sorted."""
    found = dict(_walk(files(__package__ or __name__), ""))
    return {name: found[name] for name in sorted(found)} | {".gitignore": _IGNORED}


def _walk(folder: Traversable, prefix: str) -> list[tuple[str, bytes]]:
    found: list[tuple[str, bytes]] = []
    for entry in folder.iterdir():
        if entry.is_dir():
            if entry.name != "__pycache__":
                found += _walk(entry, f"{prefix}{entry.name}/")
        elif not entry.name.endswith((".py", ".pyc")):
            found.append((prefix + entry.name, entry.read_bytes()))
    return found


def write(target: Path) -> tuple[str, ...]:
    """Write the default folder; returns the names written.

    All of it or nothing: raises `ConfigError` before it overwrites anything, and takes back what it wrote when the
    rest cannot be written. A `.gitignore` of one's own stays as it is.
    """
    given = contents()
    if os.path.lexists(target / ".gitignore"):
        del given[".gitignore"]
    for name in given:
        if os.path.lexists(target / name):
            raise ConfigError(
                f"`{target / name}` exists already; nothing was written",
                hint="choose an empty folder: `checkrein init DIR`",
            )
    made: list[Path] = []
    try:
        for name, data in given.items():
            path = target / name
            for folder in reversed([path.parent, *path.parent.parents]):
                if not folder.exists():
                    folder.mkdir()
                    made.append(folder)
            with path.open("xb") as file:
                made.append(path)
                file.write(data)
    except OSError as error:
        for path in reversed(made):
            path.rmdir() if path.is_dir() else path.unlink()
        why = (error.strerror or type(error).__name__).lower()
        raise ConfigError(f"`{target}` cannot be written: {why}", hint="choose another folder") from error
    return tuple(given)

"""The governance folder that `checkrein init` writes; the files beside this one are its contents.

Its policies are the ones the demo runs on. `tests/defaults` decides every one of its policy tests.
"""

from __future__ import annotations

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
    """Write the default folder; returns the names written. Raises `ConfigError` before it overwrites anything."""
    given = contents()
    standing = sorted(name for name in given if name != ".gitignore" and (target / name).exists())
    if standing:
        raise ConfigError(
            f"`{target / standing[0]}` exists already; nothing was written",
            hint="choose an empty folder: `checkrein init DIR`",
        )
    written: list[str] = []
    try:
        for name, data in given.items():
            path = target / name
            if path.exists():
                continue  # a .gitignore of one's own
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
            written.append(name)
    except OSError as error:
        why = (error.strerror or type(error).__name__).lower()
        raise ConfigError(f"`{target}` cannot be written: {why}", hint="choose another folder") from error
    return tuple(written)

"""Reads a governance folder into memory: names and bytes, nothing interpreted."""

from __future__ import annotations

from pathlib import Path

from checkrein.model import ConfigError

#: a larger file is nobody's policy
MAX_FILE_BYTES = 4 * 1024 * 1024
CONFIG = "checkrein.toml"
_PATTERNS = (CONFIG, "tools.yaml", "tools/*.json", "policies/*.cedar", "tests/*.yaml", "golden/*.jsonl")


def read_folder(folder: Path) -> dict[str, bytes]:
    """Every file of the folder that Checkrein reads, by its name in the folder (`policies/base.cedar`), sorted.

    Hidden files are left alone, and so is everything else. Raises `ConfigError` if the folder is missing, is
    not a governance folder, or holds a link that leads out of it, a file that cannot be read or one over 4
    MiB.
    """
    if not folder.is_dir():
        what = "is not a folder" if folder.exists() else "does not exist"
        raise ConfigError(f"`{folder}` {what}", hint=f"make a governance folder with `checkrein init {folder}`")
    if not (folder / CONFIG).is_file():
        raise ConfigError(
            f"`{folder}` is not a governance folder: it has no `{CONFIG}`",
            hint=f"make one with `checkrein init {folder}`, or name another with `--dir`",
        )
    root = folder.resolve()
    found = (path for pattern in _PATTERNS for path in folder.glob(pattern) if not path.name.startswith("."))
    return {path.relative_to(folder).as_posix(): _read(path, root) for path in sorted(found)}


def _read(path: Path, root: Path) -> bytes:
    if not path.resolve().is_relative_to(root):
        raise ConfigError(f"`{path}` is a link that leads out of the folder", hint="put the file itself there")
    if not path.is_file():
        raise ConfigError(f"`{path}` is not a file", hint="move it elsewhere")
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        why = (error.strerror or type(error).__name__).lower()
        raise ConfigError(f"`{path}` cannot be read: {why}", hint="check its permissions") from error
    if len(data) > MAX_FILE_BYTES:
        raise ConfigError(f"`{path}` is larger than 4 MiB", hint="split it")
    return data

"""Where a value of the configuration stands, in words for an error."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from checkrein.model import ConfigError

FILE = "checkrein.toml"
PREFIX = "CHECKREIN_"


class Places:
    """Where a value stands, in words for an error."""

    def __init__(self, folder: Path, sources: Mapping[str, str]) -> None:
        self._folder = folder
        self._sources = sources

    def of(self, name: str) -> str:
        source = self._sources.get(name, FILE)
        if source == "flag":
            return f"`--{name.rpartition('.')[2].replace('_', '-')}`"
        if source == FILE:
            return f"{self._folder / FILE}: `{name}`"
        variable = PREFIX + name.replace(".", "_").upper()
        return f"`{variable}` in {self._folder / '.env' if source == '.env' else 'the environment'}"

    def error(self, name: str, message: str, hint: str) -> ConfigError:
        return ConfigError(f"{self.of(name)} {message}", hint=hint)

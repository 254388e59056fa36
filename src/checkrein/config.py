"""Configuration: flags > environment > `.env` > `checkrein.toml` > defaults; each value knows where it came from.

Environment names are `CHECKREIN_<SECTION>_<FIELD>` (`CHECKREIN_SERVER_PORT`), or `CHECKREIN_<FIELD>` for what
stands outside a section (`CHECKREIN_ENVIRONMENT`). Unknown fields are errors: a misspelt limit is no limit.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import msgspec
from dotenv import dotenv_values

from checkrein.model import ConfigError
from checkrein.model.requirement import parse_span

FILE = "checkrein.toml"
PREFIX = "CHECKREIN_"
#: names that configure clients of a running server, not the server
CLIENT_NAMES = ("CHECKREIN_API_URL", "CHECKREIN_API_KEY")
#: names that steer the development of Checkrein itself
OTHER_NAMES = ("CHECKREIN_DEEP",)


class Server(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where `checkrein serve` listens. Names in `allowed_hosts` are accepted in the `Host` header."""

    host: str = "127.0.0.1"
    port: int = 8642
    max_body_bytes: int = 8 * 1024 * 1024
    allowed_hosts: tuple[str, ...] = ()
    drain_seconds: int = 10


class UpstreamConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One upstream. `base_url` ends before `/chat/completions`. The credential comes from the environment or a file.

    `kind` is `openai` for a model provider, `openclaw` for an agent gateway that asks Checkrein about tool calls.
    """

    base_url: str
    kind: str = "openai"
    models: tuple[str, ...] = ("*",)
    api_key_env: str = ""
    api_key_file: str = ""
    connect_timeout: float = 5.0
    first_byte_timeout: float = 120.0
    idle_timeout: float = 60.0
    total_timeout: float = 600.0


class Person(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Somebody who acts or approves, with the roles this deployment gives them."""

    roles: tuple[str, ...] = ()
    email: str = ""


class ApprovalsConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`retry_after` is what a waiting caller is told, such as `"5s"`."""

    retry_after: str = "5s"


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The whole of `checkrein.toml`."""

    environment: str = "development"
    server: Server = Server()
    approvals: ApprovalsConfig = ApprovalsConfig()
    upstreams: dict[str, UpstreamConfig] = {}
    people: dict[str, Person] = {}


class Origin(msgspec.Struct, frozen=True):
    """One value and where it came from."""

    name: str
    value: str
    source: str


class Loaded(msgspec.Struct, frozen=True):
    """The configuration, the origin of every value, the variables `.env` gave, and things worth a warning."""

    config: Config
    origins: tuple[Origin, ...]
    variables: dict[str, str]
    warnings: tuple[str, ...]


#: sections whose fields flags and the environment may set, with the type of the section
SECTIONS: dict[str, type[msgspec.Struct]] = {"server": Server, "approvals": ApprovalsConfig}


def load(
    folder: Path, *, flags: Mapping[str, object] | None = None, environ: Mapping[str, str] | None = None
) -> Loaded:
    """Read the configuration of a governance folder.

    `flags` are dotted names (`server.port`) the user gave on the command line; `None` values are ignored. Raises
    `ConfigError` that names the file, the field and what to do.
    """
    environ = dict(os.environ if environ is None else environ)
    dotenv = _dotenv(folder)
    values = _toml(folder / FILE)
    sources = dict.fromkeys(_flat(values), FILE)
    _overlay(values, sources, _from_environment(dotenv), ".env")
    _overlay(values, sources, _from_environment(environ), "environment")
    given = {name: value for name, value in (flags or {}).items() if value is not None}
    _overlay(values, sources, given, "flag")
    try:
        config = msgspec.convert(values, Config, strict=False)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{folder / FILE}: {_plain(str(error))}", hint=_hint(str(error))) from error
    _check(config)
    return Loaded(config, _origins(config, sources), {**dotenv, **environ}, _warnings(config, {**dotenv, **environ}))


def _dotenv(folder: Path) -> dict[str, str]:
    path = folder / ".env"
    if not path.is_file():
        return {}
    return {name: value for name, value in dotenv_values(path, interpolate=False).items() if value is not None}


def _toml(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not TOML: {error}", hint="mend the line that is named") from error
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}", hint="make the file readable") from error


def _from_environment(variables: Mapping[str, str]) -> dict[str, object]:
    found: dict[str, object] = {}
    for section, kind in SECTIONS.items():
        for field in kind.__struct_fields__:
            name = f"{PREFIX}{section}_{field}".upper()
            if name in variables:
                found[f"{section}.{field}"] = _split(section, field, variables[name])
    if PREFIX + "ENVIRONMENT" in variables:
        found["environment"] = variables[PREFIX + "ENVIRONMENT"]
    return found


def _split(section: str, field: str, text: str) -> object:
    is_list = isinstance(getattr(SECTIONS[section](), field), tuple)
    return [part.strip() for part in text.split(",") if part.strip()] if is_list else text


def _overlay(values: dict[str, Any], sources: dict[str, str], found: Mapping[str, object], source: str) -> None:
    for name, value in found.items():
        section, _, field = name.rpartition(".")
        table = values
        if section:
            table = values.setdefault(section, {})
            if not isinstance(table, dict):
                raise ConfigError(f"`{section}` is not a table", hint=f"write `[{section}]` in {FILE}")
        table[field] = value
        sources[name] = source


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, object]:
    flat: dict[str, object] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            flat.update(_flat(value, f"{prefix}{name}."))
        else:
            flat[prefix + name] = value
    return flat


def _origins(config: Config, sources: Mapping[str, str]) -> tuple[Origin, ...]:
    values = _flat(cast("dict[str, Any]", msgspec.to_builtins(config)))
    return tuple(Origin(name, _show(value), sources.get(name, "default")) for name, value in sorted(values.items()))


def _show(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _check(config: Config) -> None:
    if not 0 <= config.server.port <= 65535:
        raise ConfigError(f"`server.port` is {config.server.port}", hint="choose a port from 0 to 65535")
    if config.server.max_body_bytes < 1024:
        raise ConfigError("`server.max_body_bytes` is below 1024", hint="give it in bytes")
    parse_span(config.approvals.retry_after)
    for name, upstream in config.upstreams.items():
        if not upstream.base_url.startswith(("http://", "https://")):
            raise ConfigError(f"`upstreams.{name}.base_url` is not an http(s) address", hint="write `https://host/v1`")
        if upstream.kind not in ("openai", "openclaw"):
            raise ConfigError(f"`upstreams.{name}.kind` is `{upstream.kind}`", hint="choose `openai` or `openclaw`")
        if upstream.api_key_env and upstream.api_key_file:
            raise ConfigError(f"`upstreams.{name}` names two credentials", hint="keep `api_key_env` or `api_key_file`")


def _warnings(config: Config, variables: Mapping[str, str]) -> tuple[str, ...]:
    known = {*CLIENT_NAMES, *OTHER_NAMES, PREFIX + "ENVIRONMENT"}
    known |= {f"{PREFIX}{s}_{f}".upper() for s, kind in SECTIONS.items() for f in kind.__struct_fields__}
    known |= {upstream.api_key_env for upstream in config.upstreams.values()}
    unknown = sorted(name for name in variables if name.startswith(PREFIX) and name not in known)
    return tuple(f"`{name}` is set but nothing reads it" for name in unknown)


def _plain(message: str) -> str:
    """msgspec's message with the path first: `server.port: expected int, got str`."""
    text, _, where = message.partition(" - at `$")
    where = where.rstrip("`").lstrip(".")
    text = text[:1].lower() + text[1:]
    return f"`{where}`: {text}" if where else text


def _hint(message: str) -> str:
    if "unknown field" in message:
        return "check the spelling; `checkrein doctor` lists the fields that are read"
    return "mend the value"

"""Configuration: flags > environment > `.env` > `checkrein.toml` > defaults; each value knows where it came from.

Environment names are `CHECKREIN_<SECTION>_<FIELD>` (`CHECKREIN_SERVER_PORT`), or `CHECKREIN_<FIELD>` for what
stands outside a section (`CHECKREIN_ENVIRONMENT`). Unknown fields are errors: a misspelt limit is no limit. An
error names where the value stands; it never shows one that may be a secret.
"""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, cast

import msgspec
from dotenv.parser import parse_stream

from checkrein.config.checks import check
from checkrein.config.places import FILE, PREFIX, Places
from checkrein.config.sections import NAMED, SECTIONS, Config
from checkrein.model import ConfigError

#: names that configure clients of a running server, not the server
CLIENT_NAMES = ("CHECKREIN_API_URL", "CHECKREIN_API_KEY", "CHECKREIN_URL")
#: names that are read elsewhere: by the command line, and in the development of Checkrein itself
OTHER_NAMES = ("CHECKREIN_DIR", "CHECKREIN_TRACEBACK", "CHECKREIN_DEEP", "CHECKREIN_UPDATE_GOLDEN")

_TOML_PLACE = re.compile(r"(.*) \(at line (\d+), column (\d+)\)", re.DOTALL)


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


def load(
    folder: Path, *, flags: Mapping[str, object] | None = None, environ: Mapping[str, str] | None = None
) -> Loaded:
    """Read the configuration of a governance folder.

    `flags` are dotted names (`server.port`) the user gave on the command line; `None` values are ignored. Raises
    `ConfigError` that names the file or variable, the field and what to do.
    """
    environ = dict(os.environ if environ is None else environ)
    dotenv = _dotenv(folder / ".env")
    values = _toml(folder / FILE)
    sources = dict.fromkeys(_flat(values), FILE)
    _overlay(values, sources, _from_environment(dotenv), ".env")
    _overlay(values, sources, _from_environment(environ), "environment")
    given = {name: value for name, value in (flags or {}).items() if value is not None}
    _overlay(values, sources, given, "flag")
    places = Places(folder, sources)
    try:
        config = msgspec.convert(values, Config, strict=False)
    except msgspec.ValidationError as error:
        raise _explain(str(error), values, places) from error
    check(config, places)
    variables = {**dotenv, **environ}
    return Loaded(config, _origins(config, sources), variables, _warnings(config, variables))


def _dotenv(path: Path) -> dict[str, str]:
    if not path.is_file():
        return {}
    found: dict[str, str] = {}
    try:
        with path.open(encoding="utf-8") as stream:
            for binding in parse_stream(stream):
                if binding.error:
                    raise ConfigError(f"{path}:{binding.original.line}: not a setting", hint="write `NAME=value`")
                if binding.key and binding.value is not None:
                    found[binding.key] = binding.value
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8", hint="save the file as UTF-8") from error
    except OSError as error:
        raise ConfigError(f"{path}: {(error.strerror or '').lower()}", hint="make the file readable") from error
    return found


def _toml(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        match = _TOML_PLACE.fullmatch(str(error))
        place = f"{path}:{match[2]}:{match[3]}" if match else str(path)
        why = match[1] if match else str(error)
        raise ConfigError(
            f"{place}: not TOML: {why[:1].lower()}{why[1:]}", hint="mend the line that is named"
        ) from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8", hint="save the file as UTF-8") from error
    except OSError as error:
        raise ConfigError(f"{path}: {(error.strerror or '').lower()}", hint="make the file readable") from error


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
        table = values.setdefault(section, {}) if section else values
        if not isinstance(table, dict):
            continue  # the file has something else there, and the conversion says so
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
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _warnings(config: Config, variables: Mapping[str, str]) -> tuple[str, ...]:
    settable = {f"{PREFIX}{s}_{f}".upper() for s, kind in SECTIONS.items() for f in kind.__struct_fields__}
    settable |= {*CLIENT_NAMES, PREFIX + "ENVIRONMENT"}
    known = settable | {*OTHER_NAMES} | {upstream.api_key_env for upstream in config.upstreams.values()}
    known |= {name for hook in config.webhooks.values() for name in (hook.secret_env, hook.previous_secret_env)}
    known |= {name for way in config.notify.values() for name in (way.password_env, way.url_env)}
    known.add(config.telemetry.headers_env)
    unknown = sorted(name for name in variables if name.startswith(PREFIX) and name not in known)
    return tuple(f"`{name}` is set but nothing reads it{_meant(name, settable, PREFIX)}" for name in unknown)


def _explain(message: str, values: Mapping[str, Any], places: Places) -> ConfigError:
    """What msgspec found (`Expected int, got str - at $.server.port`), with the place and without the value."""
    text, where = _split_message(message)
    section = where.partition("[...]")[0]
    if section in NAMED and len(section) < len(where):  # msgspec does not say which of the named tables it is
        where, text = _in_named(section, values[section], text)
    text = (text[:1].lower() + text[1:]).replace("`object`", "`table`").replace("object missing", "missing")
    if text.startswith("object contains unknown field"):
        field = text.split("`")[1]
        known = _fields(where)
        return places.error(
            f"{where}.{field}".lstrip("."),
            "is an unknown field" + _meant(field, known),
            f"known here: {', '.join(known)}",
        )
    if not where:
        return ConfigError(f"{places.of('')}: {text}", hint="mend the value")
    return places.error(where, f"cannot be used: {text}", "mend the value")


def _in_named(section: str, table: Mapping[str, Any], text: str) -> tuple[str, str]:
    for name, entry in table.items():
        try:
            msgspec.convert(entry, NAMED[section], strict=False)
        except msgspec.ValidationError as error:
            text, where = _split_message(str(error))
            return f"{section}.{name}{'.' if where else ''}{where}", text
    return section, text


def _split_message(message: str) -> tuple[str, str]:
    text, _, where = message.partition(" - at `$")
    return text, where.rstrip("`").lstrip(".")


def _fields(where: str) -> tuple[str, ...]:
    section = where.partition(".")[0]
    kind = Config if not where else SECTIONS.get(section) or NAMED.get(section) or Config
    return kind.__struct_fields__


def _meant(name: str, known: Iterable[str], prefix: str = "") -> str:
    """A question that names the nearest known name, if one is near; a prefix that all share brings none nearer."""
    ends = [candidate.removeprefix(prefix) for candidate in known]
    near = difflib.get_close_matches(name.removeprefix(prefix), ends, n=1)
    return f"; did you mean `{prefix}{near[0]}`?" if near else ""

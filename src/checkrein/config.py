"""Configuration: flags > environment > `.env` > `checkrein.toml` > defaults; each value knows where it came from.

Environment names are `CHECKREIN_<SECTION>_<FIELD>` (`CHECKREIN_SERVER_PORT`), or `CHECKREIN_<FIELD>` for what
stands outside a section (`CHECKREIN_ENVIRONMENT`). Unknown fields are errors: a misspelt limit is no limit. An
error names where the value stands; it never shows one that may be a secret.
"""

from __future__ import annotations

import difflib
import math
import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

import msgspec
from dotenv.parser import parse_stream

from checkrein.flow.limits import Limits
from checkrein.flow.rollout import Kind, Plan
from checkrein.ledger.checkpoint import COSIGNATURE, VerifierKey
from checkrein.model import BadRequest, ConfigError, Level, Outcome
from checkrein.model.requirement import Requirement, parse_factors, parse_span
from checkrein.model.retention import FLOOR_DAYS, Retention

FILE = "checkrein.toml"
PREFIX = "CHECKREIN_"
#: names that configure clients of a running server, not the server
CLIENT_NAMES = ("CHECKREIN_API_URL", "CHECKREIN_API_KEY")
#: names that are read elsewhere: by the command line, and in the development of Checkrein itself
OTHER_NAMES = ("CHECKREIN_DIR", "CHECKREIN_TRACEBACK", "CHECKREIN_DEEP", "CHECKREIN_UPDATE_GOLDEN")


class Server(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where `checkrein serve` listens. Names in `allowed_hosts` are accepted in the `Host` header.

    `public_url` is its address for others, such as `https://checkrein.example`, where something stands before it.
    """

    host: str = "127.0.0.1"
    port: int = 8642
    max_body_bytes: int = 8 * 1024 * 1024
    allowed_hosts: tuple[str, ...] = ()
    drain_seconds: int = 10
    public_url: str = ""


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
    #: what 1,000 tokens cost, in and out, for the gate
    price_in: float | None = None
    price_out: float | None = None
    first_byte_timeout: float = 120.0
    idle_timeout: float = 60.0
    total_timeout: float = 600.0


class Person(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Somebody who acts or approves, with the roles this deployment gives them."""

    roles: tuple[str, ...] = ()
    email: str = ""


class WebhookConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A destination that is told of records as CloudEvents. Secrets (`whsec_...`) come from the environment or a file.

    `kinds` are patterns such as `approval.*`; while a secret is replaced, the previous one signs too.
    """

    url: str
    secret_env: str = ""
    previous_secret_env: str = ""
    secret_file: str = ""
    kinds: tuple[str, ...] = ("*",)
    outcomes: tuple[str, ...] = ()
    risks: tuple[str, ...] = ()
    batch: int = 100
    timeout: float = 10.0
    from_start: bool = False


class WitnessConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A C2SP tlog-witness that cosigns checkpoints: its submission prefix, and its key `name+id+base64`."""

    url: str
    vkey: str


class ApprovalsConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`retry_after` is what a waiting caller is told, such as `"5s"`."""

    retry_after: str = "5s"


class GateConfig(Limits, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a challenger must keep to be promoted, and how many cases are asked at once."""

    concurrency: int = 8


class RolloutConfig(Plan, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How rollouts go, and who must agree to policies that loosen anything.

    `slow_ms` is for answers of an upstream, `slow_decision_ms` for decisions of a policy bundle.
    """

    slow_decision_ms: int = 50
    approvers: str = "1 of security"
    expires: str = "3d"

    def requirement(self) -> Requirement:
        return Requirement(parse_factors(self.approvers), parse_span(self.expires))

    def plan(self, kind: Kind) -> Plan:
        given = {name: getattr(self, name) for name in Plan.__struct_fields__}
        return Plan(**{**given, "slow_ms": self.slow_decision_ms if kind is Kind.POLICY else self.slow_ms})


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The whole of `checkrein.toml`."""

    environment: str = "development"
    server: Server = Server()
    approvals: ApprovalsConfig = ApprovalsConfig()
    upstreams: dict[str, UpstreamConfig] = {}
    people: dict[str, Person] = {}
    webhooks: dict[str, WebhookConfig] = {}
    witnesses: dict[str, WitnessConfig] = {}
    retention: Retention = Retention()
    rollout: RolloutConfig = RolloutConfig()
    gate: GateConfig = GateConfig()


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
SECTIONS: dict[str, type[msgspec.Struct]] = {
    "server": Server,
    "approvals": ApprovalsConfig,
    "retention": Retention,
    "rollout": RolloutConfig,
    "gate": GateConfig,
}
#: sections that hold one table for each name
NAMED: dict[str, type[msgspec.Struct]] = {
    "upstreams": UpstreamConfig,
    "people": Person,
    "webhooks": WebhookConfig,
    "witnesses": WitnessConfig,
}

OUTCOMES = tuple(outcome.wire for outcome in Outcome)
RISKS = tuple(level.value for level in Level)
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_TIMEOUTS = ("connect_timeout", "first_byte_timeout", "idle_timeout", "total_timeout")
_ROLLOUT_TIMES = ("stage_minutes", "stage_count", "shadow_minutes", "shadow_count")
_TOML_PLACE = re.compile(r"(.*) \(at line (\d+), column (\d+)\)", re.DOTALL)


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
    places = _Places(folder, sources)
    try:
        config = msgspec.convert(values, Config, strict=False)
    except msgspec.ValidationError as error:
        raise _explain(str(error), values, places) from error
    _check(config, places)
    variables = {**dotenv, **environ}
    return Loaded(config, _origins(config, sources), variables, _warnings(config, variables))


class _Places:
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
    if isinstance(value, bool):
        return str(value).lower()
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _check(config: Config, places: _Places) -> None:
    server = config.server
    if not 0 <= server.port <= 65535:
        raise places.error("server.port", f"is {server.port}", "choose a port from 0 to 65535")
    if server.max_body_bytes < 1024:
        raise places.error("server.max_body_bytes", "is below 1024", "give it in bytes")
    if server.public_url and not _is_base_url(server.public_url):
        raise places.error("server.public_url", "is not an http(s) address", "write `https://host`")
    if server.drain_seconds < 0:
        raise places.error("server.drain_seconds", "is negative", "give it in seconds")
    try:
        parse_span(config.approvals.retry_after)
    except BadRequest as error:
        raise places.error("approvals.retry_after", "is not a length of time", error.hint) from error
    _check_rollout(config.rollout, places)
    _check_gate(config.gate, places)
    for name, days in {"days": config.retention.days, **config.retention.classes}.items():
        if days < FLOOR_DAYS:
            field = name if name == "days" else f"classes.{name}"
            hint = f"logs of AI systems are kept for six months at least: give {FLOOR_DAYS} days or more"
            raise places.error(f"retention.{field}", f"is {days} days", hint)
    if config.retention.idempotency_hours < 1:
        raise places.error("retention.idempotency_hours", "is below 1", "give it in hours, such as 24")
    for name, upstream in config.upstreams.items():
        _check_upstream(f"upstreams.{name}", upstream, places)
    for name, webhook in config.webhooks.items():
        _check_webhook(f"webhooks.{name}", webhook, places)
    for name, witness in config.witnesses.items():
        _check_witness(f"witnesses.{name}", witness, places)


def _check_gate(given: GateConfig, places: _Places) -> None:
    for field in ("latency_quantile", "error_rate", "margin", "alpha"):
        if not 0 < getattr(given, field) < 1:
            raise places.error(f"gate.{field}", "is not between 0 and 1", "1 % is `0.01`")
    for field in ("latency_ms", "decision_ms", "cost_per_1000_tokens", "concurrency"):
        if not 0 < getattr(given, field) < math.inf:
            raise places.error(f"gate.{field}", "is not a positive number", "leave it out for the default")


def _check_webhook(name: str, given: WebhookConfig, places: _Places) -> None:
    for field in ("secret_env", "previous_secret_env"):
        variable = getattr(given, field)
        if variable and not _VARIABLE.fullmatch(variable):
            hint = "name a variable, such as `SIEM_SECRET`, and put the secret there"
            raise places.error(f"{name}.{field}", "is not the name of a variable", hint)
    if given.secret_env and given.secret_file:
        raise places.error(name, "names two secrets", "keep `secret_env` or `secret_file`")
    if not 1 <= given.batch <= 500:
        raise places.error(f"{name}.batch", "is not from 1 to 500", "leave it out for 100")
    if not 0 < given.timeout <= 60:
        raise places.error(f"{name}.timeout", "is not between 0 and 60", "give it in seconds")
    for field, known in (("outcomes", OUTCOMES), ("risks", RISKS)):
        for value in getattr(given, field):
            if value not in known:
                raise places.error(f"{name}.{field}", f"has no `{value[:40]}`", f"known: {', '.join(known)}")


def _check_rollout(given: RolloutConfig, places: _Places) -> None:
    stages = given.stages
    if not stages or list(stages) != sorted(set(stages)) or not 0 < stages[0] <= stages[-1] == 100:
        raise places.error("rollout.stages", "do not rise from above 0 to 100", "write `[10, 50, 100]`")
    for field in ("error_rate", "slow_share", "alpha"):
        if not 0 < getattr(given, field) < 1:
            raise places.error(f"rollout.{field}", "is not between 0 and 1", "1 % is `0.01`")
    for field in ("denial_odds", "review_odds"):
        if not 1 <= getattr(given, field) < math.inf:
            raise places.error(f"rollout.{field}", "is below 1", "`1.5` tolerates half as many more")
    for field in (*_ROLLOUT_TIMES, "slow_ms", "slow_decision_ms", "minutes", "stage_hours", "minute_count"):
        if getattr(given, field) < (0 if field in _ROLLOUT_TIMES else 1):
            raise places.error(f"rollout.{field}", "is too small", "give a whole number")
    for field, parse in (("approvers", parse_factors), ("expires", parse_span)):
        try:
            parse(getattr(given, field))
        except BadRequest as error:
            raise places.error(f"rollout.{field}", "cannot be read", error.hint) from error


def _check_witness(name: str, given: WitnessConfig, places: _Places) -> None:
    if not _is_base_url(given.url):
        hint = "write `https://host/prefix`, without user, password or query"
        raise places.error(f"{name}.url", "is not an http(s) address", hint)
    try:
        VerifierKey.parse(given.vkey, COSIGNATURE)
    except ConfigError as error:
        raise places.error(f"{name}.vkey", f"cannot be used: {error}", error.hint) from error


def _check_upstream(name: str, given: UpstreamConfig, places: _Places) -> None:
    if not _is_base_url(given.base_url):
        # the address itself stays out of the message: it may hold a password
        hint = "write `https://host/v1`, without user, password or query"
        raise places.error(f"{name}.base_url", "is not an http(s) address", hint)
    if given.kind not in ("openai", "openclaw"):
        raise places.error(f"{name}.kind", f"is `{given.kind}`", "choose `openai` or `openclaw`")
    if given.api_key_env and not _VARIABLE.fullmatch(given.api_key_env):
        # somebody may have written the key itself
        hint = "name a variable, such as `OPENAI_API_KEY`, and put the key there"
        raise places.error(f"{name}.api_key_env", "is not the name of a variable", hint)
    if given.api_key_env and given.api_key_file:
        raise places.error(name, "names two credentials", "keep `api_key_env` or `api_key_file`")
    for field in _TIMEOUTS:
        if not 0 < getattr(given, field) < math.inf:
            raise places.error(f"{name}.{field}", "is not a positive number", "give it in seconds")


def _is_base_url(text: str) -> bool:
    try:
        url = urlsplit(text)
        sound = url.scheme in ("http", "https") and bool(url.hostname) and url.port != 0
    except ValueError:
        return False
    return sound and "@" not in url.netloc and not url.query and not url.fragment


def _warnings(config: Config, variables: Mapping[str, str]) -> tuple[str, ...]:
    settable = {f"{PREFIX}{s}_{f}".upper() for s, kind in SECTIONS.items() for f in kind.__struct_fields__}
    settable |= {*CLIENT_NAMES, PREFIX + "ENVIRONMENT"}
    known = settable | {*OTHER_NAMES} | {upstream.api_key_env for upstream in config.upstreams.values()}
    known |= {name for hook in config.webhooks.values() for name in (hook.secret_env, hook.previous_secret_env)}
    unknown = sorted(name for name in variables if name.startswith(PREFIX) and name not in known)
    return tuple(f"`{name}` is set but nothing reads it{_meant(name, settable, PREFIX)}" for name in unknown)


def _explain(message: str, values: Mapping[str, Any], places: _Places) -> ConfigError:
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

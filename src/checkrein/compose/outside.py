"""The ways out of the house, each with its secret: upstreams, webhooks, mail, channels, spans, answers to golden cases.

A secret comes from the environment, `.env` or a file, and stands in no error.
"""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote

from checkrein.config import Loaded, NotifyConfig, UpstreamConfig, WebhookConfig
from checkrein.connectors.answerers import ModelAnswerer, Price, plain_answerer
from checkrein.connectors.http import HttpUpstream, Timeouts
from checkrein.connectors.slack import SlackChannel
from checkrein.connectors.smtp import SmtpChannel, Tls
from checkrein.connectors.webhook import Webhook, read_secret
from checkrein.model import ConfigError, NotFound
from checkrein.ports import Channel, Tracer
from checkrein.services.gates import Answerer
from checkrein.services.outbox import Told

_HEADER = re.compile(r"[A-Za-z0-9-]+")


def upstream(name: str, given: UpstreamConfig, loaded: Loaded) -> HttpUpstream:
    """An upstream with its credential; raises `ConfigError` if the credential cannot be had."""
    return HttpUpstream(
        name,
        given.base_url,
        credential=credential(name, given, loaded),
        timeouts=Timeouts(
            connect=given.connect_timeout,
            first_byte=given.first_byte_timeout,
            idle=given.idle_timeout,
            total=given.total_timeout,
        ),
        listed=given.networks,
    )


def credential(name: str, given: UpstreamConfig, loaded: Loaded) -> str:
    """The credential from the environment, `.env` or a file; empty when none is configured."""
    if given.api_key_env:
        return _variable(given.api_key_env, f"upstream `{name}`", loaded)
    return _secret_file(Path(given.api_key_file), "api_key_file", f"upstream `{name}`") if given.api_key_file else ""


def channel(name: str, given: NotifyConfig, loaded: Loaded) -> Channel:
    """The way to people; raises `ConfigError` for a secret that cannot be had."""
    what = f"`notify.{name}`"
    if given.kind == "slack":
        return SlackChannel(_secret(given.url_env, given.url_file, "url_file", what, loaded), timeout_s=given.timeout)
    password = _secret(given.password_env, given.password_file, "password_file", what, loaded) if given.user else ""
    return SmtpChannel(
        given.host,
        given.port,
        sender=given.sender,
        tls=Tls(given.tls),
        user=given.user,
        password=password,
        timeout_s=given.timeout,
    )


def destinations(loaded: Loaded) -> dict[str, Told]:
    """The configured webhooks, ready to be told; raises `ConfigError` for an address or a secret that will not do."""
    return {name: _destination(name, given, loaded) for name, given in loaded.config.webhooks.items()}


def _destination(name: str, given: WebhookConfig, loaded: Loaded) -> Told:
    secrets = [_variable(variable, f"webhook `{name}`", loaded) for variable in _secret_names(given)]
    if given.secret_file:
        secrets.append(_secret_file(Path(given.secret_file), "secret_file", f"webhook `{name}`"))
    try:
        hook = Webhook(given.url, [read_secret(secret) for secret in secrets], timeout_s=given.timeout)
    except ConfigError as error:
        raise ConfigError(f"webhook `{name}`: {error}", hint=error.hint) from error
    return Told(
        name=name,
        hook=hook,
        kinds=given.kinds,
        outcomes=given.outcomes,
        risks=given.risks,
        batch=given.batch,
        from_start=given.from_start,
    )


#: where a collector takes traces, below its address
_TRACES = "/v1/traces"


def tracer(loaded: Loaded) -> Tracer | None:
    """Where spans go, if they go anywhere; raises `ConfigError` without the extra, or without what it needs."""
    given = loaded.config.telemetry
    if not given.endpoint:
        return None
    try:
        from checkrein.connectors.otel import OtlpTracer
    except ImportError as error:
        hint = 'run `pip install "checkrein[otel]"`, or leave `telemetry.endpoint` out'
        raise ConfigError("`telemetry` needs OpenTelemetry, which is not installed", hint=hint) from error
    headers = _headers(given.headers_env, loaded) if given.headers_env else {}
    endpoint = given.endpoint.rstrip("/").removesuffix(_TRACES) + _TRACES
    return OtlpTracer(endpoint, headers, environment=loaded.config.environment)


def _headers(variable: str, loaded: Loaded) -> dict[str, str]:
    """`name=value,name=value` with percent-encoding, as OpenTelemetry's own variables have it."""
    pairs = [part.partition("=") for part in _variable(variable, "`telemetry`", loaded).split(",") if part.strip()]
    found = {name.strip(): unquote(value.strip()) for name, _, value in pairs}
    for name, value in found.items():
        if not _HEADER.fullmatch(name) or not value.isprintable() or not value.isascii():
            raise ConfigError(f"`{variable}` holds no headers", hint="write `name=value,name=value`")
    return found


def _secret_names(given: WebhookConfig) -> list[str]:
    return [name for name in (given.secret_env, given.previous_secret_env) if name]


def _secret(variable: str, file: str, field: str, what: str, loaded: Loaded) -> str:
    return _variable(variable, what, loaded) if variable else _secret_file(Path(file), field, what)


def _variable(variable: str, what: str, loaded: Loaded) -> str:
    value = loaded.variables.get(variable, "")
    if not value:
        hint = "export it, or write it into `.env` beside checkrein.toml"
        raise ConfigError(f"`{variable}` is not set; {what} needs it", hint=hint)
    return value


def _secret_file(path: Path, field: str, what: str) -> str:
    path = path.expanduser()
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"`{path}` cannot be read; {what} needs it", hint=f"mend `{field}`") from error


def answerer(name: str, loaded: Loaded) -> Answerer:
    """What answers golden cases under this name: `upstream:NAME/MODEL`, `python:module:function`, `command:...`.

    Raises `ConfigError` for a name that says nothing, `NotFound` for an upstream that is not configured.
    """
    kind, _, rest = name.partition(":")
    if kind != "upstream":
        found = plain_answerer(name)
        if found is None:
            hint = "write `upstream:NAME/MODEL`, `python:module:function`, `command:...`, `run:FILE` or a policy folder"
            raise ConfigError(f"`{name[:100]}` answers nothing", hint=hint)
        return found
    alias, _, model = rest.partition("/")
    given = loaded.config.upstreams.get(alias)
    if given is None or not model:
        hint = f"write `upstream:NAME/MODEL`; configured: {', '.join(loaded.config.upstreams) or 'none'}"
        raise NotFound(f"no upstream `{alias[:100]}` with a model", hint=hint)
    price = None
    if given.price_in is not None or given.price_out is not None:
        price = Price(given.price_in or 0.0, given.price_out or 0.0)
    return ModelAnswerer(alias, upstream(alias, given, loaded), model, price)

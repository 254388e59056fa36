"""What the types of the sections cannot say: ranges, lengths of time, addresses, names of variables.

An error never repeats a value that may be a secret.
"""

from __future__ import annotations

import ipaddress
import math
import re
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from checkrein.config.places import Places
from checkrein.config.sections import (
    ApprovalsConfig,
    AuthzenConfig,
    Config,
    DriftConfig,
    GateConfig,
    LimitConfig,
    NotifyConfig,
    OidcConfig,
    RolloutConfig,
    Server,
    TelemetryConfig,
    UpstreamConfig,
    WebhookConfig,
    WitnessConfig,
)
from checkrein.flow.limits import ON_DRIFT, QUESTIONS, Targets
from checkrein.ledger.checkpoint import COSIGNATURE, VerifierKey
from checkrein.model import BadRequest, ConfigError, Level, Outcome, Permission
from checkrein.model.identity import TOKEN_ALGORITHMS
from checkrein.model.likeness import alike
from checkrein.model.people import Absence
from checkrein.model.request import MAX_NAME, PROMPT
from checkrein.model.requirement import parse_factors, parse_span
from checkrein.model.retention import FLOOR_DAYS, Retention
from checkrein.model.target import Target, What
from checkrein.policy.manifest import RESERVED

#: of what a record can hold, in billionths for money
MAX_LIMIT = 9_000_000
MAX_PRICE = 1_000
OUTCOMES = tuple(outcome.wire for outcome in Outcome)
RISKS = tuple(level.value for level in Level)
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_TIMEOUTS = ("connect_timeout", "first_byte_timeout", "idle_timeout", "total_timeout")
_ROLLOUT_TIMES = ("stage_minutes", "stage_count", "shadow_minutes", "shadow_count")


def check(config: Config, places: Places) -> None:
    """Raise `ConfigError` for the first value that its section cannot use."""
    for section, one in _SECTION_CHECKS.items():
        one(getattr(config, section), places)
    for section, each in _NAMED_CHECKS.items():
        for name, given in getattr(config, section).items():
            each(f"{section}.{name}", given, places)
    _check_people(config, places)
    _check_fallbacks(config, places)
    _check_budgets(config, places)
    _check_issuers(config, places)
    _check_alerts(config, places)


def _check_people(config: Config, places: Places) -> None:
    """Who is named must be somebody: an on-call list of strangers would let nobody vote."""
    for name, agent in config.agents.items():
        _check_known(f"agents.{name}.owner", agent.owner, config, places)
    for name, person in config.people.items():
        if len(same := alike(config.people, (name,))) > 1:
            raise places.error(
                f"people.{same[1]}", f"looks like `{same[0]}`", "nobody could tell them apart: rename one"
            )
        if person.away and not person.delegate:
            raise places.error(f"people.{name}.away", "names no delegate", "add `delegate`, or leave it out")
        if person.delegate == name:
            raise places.error(f"people.{name}.delegate", "is the same person", "name somebody else")
        if person.delegate:
            _check_known(f"people.{name}.delegate", person.delegate, config, places)
        for span in person.away:
            try:
                Absence.parse(span)
            except BadRequest as error:
                raise places.error(f"people.{name}.away", f"cannot be read: {error}", error.hint) from error
    for name, listed in config.oncall.items():
        if not listed.people:
            raise places.error(f"oncall.{name}.people", "is empty", "name people, or leave the list out")
        for listed_name in listed.people:
            _check_known(f"oncall.{name}.people", listed_name, config, places)


def _check_known(name: str, person: str, config: Config, places: Places) -> None:
    if person not in config.people:
        known = ", ".join(sorted(config.people)) or "nobody yet"
        raise places.error(name, f"names `{person[:80]}`, who is nobody here", f"`[people]` knows: {known}")


def _check_server(given: Server, places: Places) -> None:
    if not 0 <= given.port <= 65535:
        raise places.error("server.port", f"is {given.port}", "choose a port from 0 to 65535")
    if given.max_body_bytes < 1024:
        raise places.error("server.max_body_bytes", "is below 1024", "give it in bytes")
    if given.public_url and not _is_base_url(given.public_url):
        raise places.error("server.public_url", "is not an http(s) address", "write `https://host`")
    if given.drain_seconds < 0:
        raise places.error("server.drain_seconds", "is negative", "give it in seconds")


def _check_approvals(given: ApprovalsConfig, places: Places) -> None:
    for field in ("retry_after", "break_glass_life"):
        try:
            parse_span(getattr(given, field))
        except BadRequest as error:
            raise places.error(f"approvals.{field}", "is not a length of time", error.hint) from error
    if not 0 <= given.hold <= 600:
        hint = "give it in seconds; 0 answers at once that people are asked"
        raise places.error("approvals.hold", "is not from 0 to 600", hint)


def _check_authzen(given: AuthzenConfig, places: Places) -> None:
    for theirs, ours in given.actions.items():
        if theirs == PROMPT or not theirs:
            raise places.error("authzen.actions", f"renames `{theirs}`", "name what is no action here")
        if ours in RESERVED or ours in given.actions or not ours:
            hint = "name the tool as `tools.yaml` does"
            raise places.error(f"authzen.actions.{theirs}", f"names `{ours[:80]}`, which is no tool", hint)
    for type, ids in given.resources.items():
        if not all(0 < len(name) <= MAX_NAME for name in (type, *ids)):
            hint = f"name types and ids with 1 to {MAX_NAME} characters"
            raise places.error(f"authzen.resources.{type[:80]}", "holds a name that no request can bear", hint)


def _check_retention(given: Retention, places: Places) -> None:
    for name, days in {"days": given.days, **given.classes}.items():
        if days < FLOOR_DAYS:
            field = name if name == "days" else f"classes.{name}"
            hint = f"logs of AI systems are kept for six months at least: give {FLOOR_DAYS} days or more"
            raise places.error(f"retention.{field}", f"is {days} days", hint)
    if given.idempotency_hours < 1:
        raise places.error("retention.idempotency_hours", "is below 1", "give it in hours, such as 24")


def _check_gate(given: GateConfig, places: Places) -> None:
    for field in ("latency_quantile", "error_rate", "margin", "alpha"):
        if not 0 < getattr(given, field) < 1:
            raise places.error(f"gate.{field}", "is not between 0 and 1", "1 % is `0.01`")
    for field in ("latency_ms", "decision_ms", "cost_per_1000_tokens", "concurrency"):
        if not 0 < getattr(given, field) < math.inf:
            raise places.error(f"gate.{field}", "is not a positive number", "leave it out for the default")
    if given.on_drift not in ON_DRIFT:
        raise places.error("gate.on_drift", f"is `{given.on_drift[:40]}`", f"choose {', '.join(ON_DRIFT)}")


def _check_targets(given: Targets, places: Places) -> None:
    try:
        parse_span(given.window)
    except BadRequest as error:
        raise places.error("targets.window", "is not a length of time", error.hint) from error
    for field in ("enforcement_rate", "denial_rate", "wrongful_interruptions", "gate_pass_rate"):
        value = getattr(given, field)
        if value is not None and not 0 <= value <= 1:
            raise places.error(f"targets.{field}", "is not from 0 to 1", "99 % is `0.99`")
    for field in ("review_load", "decision_ms"):
        value = getattr(given, field)
        if value is not None and not 0 < value < math.inf:
            raise places.error(f"targets.{field}", "is not a positive number", "leave it out for the default")


def _check_telemetry(given: TelemetryConfig, places: Places) -> None:
    if given.endpoint and not _is_base_url(given.endpoint):
        hint = "write `http://localhost:4318`, without user, password or query; secrets go into `headers_env`"
        raise places.error("telemetry.endpoint", "is not an http(s) address", hint)
    if given.headers_env and not _VARIABLE.fullmatch(given.headers_env):
        hint = "name a variable, such as `OTLP_HEADERS`, and put the headers there"
        raise places.error("telemetry.headers_env", "is not the name of a variable", hint)
    if not 0 <= given.sample_ratio <= 1:
        raise places.error("telemetry.sample_ratio", "is not from 0 to 1", "one trace in ten is `0.1`")


def _check_drift(given: DriftConfig, places: Places) -> None:
    for name in given.ignore:
        if name not in QUESTIONS:
            raise places.error("drift.ignore", f"has no `{name[:40]}`", f"known: {', '.join(QUESTIONS)}")
    for field in ("alpha", "floor", "notice"):
        if not 0 < getattr(given, field) < 1:
            raise places.error(f"drift.{field}", "is not between 0 and 1", "two points in a hundred are `0.02`")
    for field in ("since", "every"):
        try:
            parse_span(getattr(given, field))
        except BadRequest as error:
            raise places.error(f"drift.{field}", "is not a length of time", error.hint) from error


def _check_webhook(name: str, given: WebhookConfig, places: Places) -> None:
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


def _check_rollout(given: RolloutConfig, places: Places) -> None:
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


def _check_witness(name: str, given: WitnessConfig, places: Places) -> None:
    if not _is_base_url(given.url):
        hint = "write `https://host/prefix`, without user, password or query"
        raise places.error(f"{name}.url", "is not an http(s) address", hint)
    try:
        VerifierKey.parse(given.vkey, COSIGNATURE)
    except ConfigError as error:
        raise places.error(f"{name}.vkey", f"cannot be used: {error}", error.hint) from error


def _check_upstream(name: str, given: UpstreamConfig, places: Places) -> None:
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
    for field in ("heartbeat_timeout", "witness_timeout"):
        if not 0 <= getattr(given, field) < math.inf:
            raise places.error(f"{name}.{field}", "is not a number from 0 on", "give it in seconds; 0 asks nothing")
    if not 0 <= given.retries <= 5:
        raise places.error(
            f"{name}.retries", "is not from 0 to 5", "callers try again by themselves: leave it out for 0"
        )
    for network in given.networks:
        try:
            ipaddress.ip_network(network)
        except ValueError as error:
            raise places.error(f"{name}.networks", f"has no `{network[:60]}`", "write `10.0.0.0/8`") from error

    given_prices = {"": (given.price_in or 0, given.price_out or 0)}
    given_prices |= {f".prices.{model}": (price.price_in, price.price_out) for model, price in given.prices.items()}
    for where, prices in given_prices.items():
        if not all(0 <= price < MAX_PRICE for price in prices):
            raise places.error(f"{name}{where}", "has a price that is none", "give what 1,000 tokens cost")
    if not 0 < given.output_tokens < MAX_LIMIT:
        raise places.error(f"{name}.output_tokens", "is not a number of tokens", "leave it out for 1024")


def _check_fallbacks(config: Config, places: Places) -> None:
    for name, given in config.upstreams.items():
        for other in given.fallback:
            if other not in config.upstreams or other == name:
                raise places.error(
                    f"upstreams.{name}.fallback",
                    f"names `{other[:60]}`, which is no other upstream",
                    f"configured: {', '.join(config.upstreams)}",
                )
        if len(set(given.fallback)) < len(given.fallback):
            raise places.error(f"upstreams.{name}.fallback", "names one twice", "name each once")


def _check_limit(name: str, given: LimitConfig, places: Places) -> None:
    what, _, named = name.removeprefix("limits.").partition(":")
    try:
        Target.parse(what, named)
    except BadRequest as error:
        hint = 'write `[limits."agent:billing-*"]`, `[limits."key:*"]` or `[limits.everything]`'
        raise places.error(name, f"is about nothing: {error}", hint) from error
    for field in given.__struct_fields__:
        value = getattr(given, field)
        if value is not None and not 0 <= value < MAX_LIMIT:
            raise places.error(f"{name}.{field}", "is negative or too large", "leave it out for no limit")
    for field in ("tokens_per_minute", "spend_per_day", "spend_per_month") if what == What.TOOL else ():
        if getattr(given, field) is not None:
            hint = "tools use no tokens; limit its requests or concurrency, or the agent's spending"
            raise places.error(f"{name}.{field}", "would never count anything", hint)
    if all(getattr(given, field) is None for field in given.__struct_fields__):
        raise places.error(name, "limits nothing", f"give it one of {', '.join(given.__struct_fields__)}")


def _check_budgets(config: Config, places: Places) -> None:
    """What has no price would be free, and a budget quietly dead."""
    spending = [name for name, given in config.limits.items() if given.spend_per_day or given.spend_per_month]
    for name, upstream in config.upstreams.items():
        if spending and (upstream.price_in is None or upstream.price_out is None):
            hint = f"`limits.{spending[0]}` is a budget: give `price_in` and `price_out`, or 0 for what is free"
            raise places.error(f"upstreams.{name}", "has no price", hint)


def _check_oidc(name: str, given: OidcConfig, places: Places) -> None:
    address = urlsplit(given.issuer) if _is_base_url(given.issuer) else None
    if address is None or (address.scheme != "https" and address.hostname not in _LOOPBACK):
        raise places.error(f"{name}.issuer", "is not an https address", "write it as the issuer's tokens have it")
    for field in ("audience", "person"):
        if not getattr(given, field):
            raise places.error(f"{name}.{field}", "is empty", "tokens for others must not open this")
    for field, known in (("algorithms", TOKEN_ALGORITHMS), ("can", tuple(Permission))):
        values = getattr(given, field)
        unknown = [value for value in values if value not in known]
        if unknown or not values:
            what = f"has no `{unknown[0][:40]}`" if unknown else "is empty"
            raise places.error(f"{name}.{field}", what, f"known: {', '.join(known)}")
    if not given.types:
        raise places.error(f"{name}.types", "is empty", "leave it out for `JWT` and `at+jwt`")
    if given.roles and not given.roles_claim:
        raise places.error(f"{name}.roles", "is given without `roles_claim`", "name the claim they stand in")
    if not 0 <= given.leeway <= 300:
        raise places.error(f"{name}.leeway", "is not from 0 to 300", "give it in seconds")


def _check_notify(name: str, given: NotifyConfig, places: Places) -> None:
    if given.kind not in ("smtp", "slack"):
        raise places.error(f"{name}.kind", f"is `{given.kind[:40]}`", "choose `smtp` or `slack`")
    for field in ("password_env", "url_env"):
        variable = getattr(given, field)
        if variable and not _VARIABLE.fullmatch(variable):
            hint = "name a variable, such as `SMTP_PASSWORD`, and put the secret there"
            raise places.error(f"{name}.{field}", "is not the name of a variable", hint)
    if not 0 < given.timeout <= 60:
        raise places.error(f"{name}.timeout", "is not between 0 and 60", "give it in seconds")
    if given.kind == "slack":
        if bool(given.url_env) == bool(given.url_file):
            raise places.error(name, "names no single address", "give `url_env` or `url_file`: the address is a secret")
        if not given.roles and not given.alerts:
            raise places.error(name, "tells nobody", "give `roles`: who reads the channel, or `alerts`")
        return
    if given.roles:
        raise places.error(f"{name}.roles", "is for channels", "by mail everybody is told who may vote")
    for field in ("host", "sender"):
        if not getattr(given, field):
            raise places.error(f"{name}.{field}", "is missing", 'write `host = "smtp.example"`, `sender = "c@example"`')
    if not 0 < given.port < 65536:
        raise places.error(f"{name}.port", f"is {given.port}", "choose a port from 1 to 65535")
    if given.tls not in ("starttls", "tls", "none"):
        raise places.error(f"{name}.tls", f"is `{given.tls[:40]}`", "choose `starttls`, `tls` or `none`")
    if given.tls == "none" and given.host not in _LOOPBACK:
        raise places.error(f"{name}.tls", "is `none` beyond this machine", "choose `starttls` or `tls`")
    if given.user and bool(given.password_env) == bool(given.password_file):
        raise places.error(name, "names no single password", "give `password_env` or `password_file`")


def _check_alerts(config: Config, places: Places) -> None:
    for name, given in config.notify.items():
        for who in given.alerts if given.kind == "smtp" else ():
            person = config.people.get(who)
            if "@" not in who and (person is None or not person.email):
                hint = "give an address, or the name of somebody under `[people]` with an `email`"
                raise places.error(f"notify.{name}.alerts", f"names `{who[:60]}`, who has no address", hint)


def _check_issuers(config: Config, places: Places) -> None:
    issuers = [given.issuer for given in config.oidc.values()]
    for name, given in config.oidc.items():
        if issuers.count(given.issuer) > 1:
            raise places.error(f"oidc.{name}.issuer", "stands twice", "give each issuer one table")


def _is_base_url(text: str) -> bool:
    try:
        url = urlsplit(text)
        sound = url.scheme in ("http", "https") and bool(url.hostname) and url.port != 0
    except ValueError:
        return False
    return sound and "@" not in url.netloc and not url.query and not url.fragment


_SECTION_CHECKS: dict[str, Callable[[Any, Places], None]] = {
    "server": _check_server,
    "approvals": _check_approvals,
    "authzen": _check_authzen,
    "rollout": _check_rollout,
    "gate": _check_gate,
    "targets": _check_targets,
    "drift": _check_drift,
    "telemetry": _check_telemetry,
    "retention": _check_retention,
}
#: for each table of such a section, with its name
_NAMED_CHECKS: dict[str, Callable[[str, Any, Places], None]] = {
    "upstreams": _check_upstream,
    "webhooks": _check_webhook,
    "witnesses": _check_witness,
    "limits": _check_limit,
    "oidc": _check_oidc,
    "notify": _check_notify,
}

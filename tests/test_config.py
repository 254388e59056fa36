"""Configuration: which source wins, where each value came from, and what an error says without saying too much."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from pathlib import Path

import pytest

from checkrein.config import SECTIONS, Loaded, load
from checkrein.model import ConfigError

FILE = "checkrein.toml"
SECRET = "sk-0123456789-secret"


def loaded(
    folder: Path, toml: str = "", dotenv: str = "", environ: Mapping[str, str] | None = None, **flags: object
) -> Loaded:
    (folder / FILE).write_text(toml)
    (folder / ".env").write_text(dotenv)
    named = {name.replace("__", "."): value for name, value in flags.items()}
    return load(folder, environ=environ or {}, flags=named)


def refused(folder: Path, toml: str = "", dotenv: str = "", environ: Mapping[str, str] | None = None) -> str:
    """What the error says, hint and all."""
    with pytest.raises(ConfigError) as error:
        loaded(folder, toml, dotenv, environ)
    assert error.value.hint
    assert SECRET not in f"{error.value}{error.value.hint}"
    return str(error.value).replace(str(folder), "DIR")


SOURCES = ("flag", "environment", ".env", FILE)


@pytest.mark.parametrize("given", list(product([True, False], repeat=4)))
def test_flags_win_over_the_environment_over_dotenv_over_the_file_over_defaults(
    given: tuple[bool, ...], tmp_path: Path
) -> None:
    port = dict(zip(SOURCES, (1001, 1002, 1003, 1004), strict=True))
    there = dict(zip(SOURCES, given, strict=True))
    winner = next((source for source in SOURCES if there[source]), "default")
    result = loaded(
        tmp_path,
        f"[server]\nport = {port[FILE]}\n" if there[FILE] else "",
        f"CHECKREIN_SERVER_PORT={port['.env']}\n" if there[".env"] else "",
        {"CHECKREIN_SERVER_PORT": str(port["environment"])} if there["environment"] else {},
        server__port=port["flag"] if there["flag"] else None,
    )
    assert result.config.server.port == port.get(winner, 8642)
    (origin,) = (origin for origin in result.origins if origin.name == "server.port")
    assert (origin.value, origin.source) == (str(port.get(winner, 8642)), winner)


SETTABLE = [
    f"{section}.{field}"
    for section, kind in SECTIONS.items()
    for field in kind.__struct_fields__
    if not isinstance(getattr(kind(), field), dict)  # tables stand in the file only
]


#: another value, where neither the next number nor `9s` is one
OTHER = {
    "gate.latency_quantile": "0.9",
    "gate.on_drift": "tell",
    "drift.ignore": "outcome, argument sizes",
    "drift.scheduled": "false",
    "rollout.stages": "20, 100",
    "rollout.approvers": "2 of finance",
    "retention.results": "false",
    "redaction.restore": "true",
    "targets.enforcement_rate": "0.9",
    "targets.gate_pass_rate": "0.5",
    "targets.review_load": "20.0",
    "targets.wrongful_interruptions": "0.5",
    "server.public_url": "https://checkrein.example",
    "telemetry.endpoint": "http://localhost:4318",
    "telemetry.headers_env": "OTLP_HEADERS",
    "telemetry.sample_ratio": "0.5",
}


def another(name: str, default: object) -> str:
    if name in OTHER:
        return OTHER[name]
    if isinstance(default, float):
        return str(default * 2)
    return str(default + 1) if isinstance(default, int) else "9s"


@pytest.mark.parametrize("name", ["environment", *SETTABLE])
def test_every_setting_has_its_variable_and_its_origin(name: str, tmp_path: Path) -> None:
    section, _, field = name.rpartition(".")
    default = getattr(SECTIONS[section](), field) if section else "development"
    text = another(name, default)
    result = loaded(tmp_path, environ={f"CHECKREIN_{name.replace('.', '_').upper()}": text})
    assert result.warnings == ()
    found = {origin.name: (origin.value, origin.source) for origin in result.origins}
    assert found.pop(name) == (text, "environment")
    assert {source for _, source in found.values()} == {"default"}


def test_a_list_in_a_variable_is_split_at_commas(tmp_path: Path) -> None:
    result = loaded(tmp_path, environ={"CHECKREIN_SERVER_ALLOWED_HOSTS": "a.example, b.example,"})
    assert result.config.server.allowed_hosts == ("a.example", "b.example")
    assert {origin.value for origin in result.origins if origin.name == "server.allowed_hosts"} == {
        "a.example, b.example"
    }


def test_every_value_of_the_file_is_listed_with_its_origin(tmp_path: Path) -> None:
    result = loaded(
        tmp_path,
        'environment = "test"\n[people.bob]\nroles = ["a", "b"]\n'
        '[upstreams.m]\nbase_url = "https://host/v1"\napi_key_env = "MODEL_KEY"\n',
    )
    found = {origin.name: (origin.value, origin.source) for origin in result.origins}
    assert found["environment"] == ("test", FILE)
    assert found["people.bob.roles"] == ("a, b", FILE)
    assert found["upstreams.m.api_key_env"] == ("MODEL_KEY", FILE)
    assert found["upstreams.m.kind"] == ("openai", "default")


def test_variables_of_dotenv_are_read_and_the_environment_wins(tmp_path: Path) -> None:
    dotenv = "# keys\nexport A=1\nB='two words'\nC=\"$A\"\nEMPTY=\nNAKED\n"
    variables = loaded(tmp_path, dotenv=dotenv, environ={"A": "9"}).variables
    assert variables == {"A": "9", "B": "two words", "C": "$A", "EMPTY": ""}


def test_a_folder_without_files_has_the_defaults(tmp_path: Path) -> None:
    result = load(tmp_path, environ={})
    assert {origin.source for origin in result.origins} == {"default"}


@pytest.mark.parametrize(
    ("toml", "says"),
    [
        ("nope = 1", "DIR/checkrein.toml: `nope` is an unknown field"),
        ("[servr]\nport = 1", "`servr` is an unknown field; did you mean `server`?"),
        ("[server]\nprot = 1", "`server.prot` is an unknown field; did you mean `port`?"),
        ("[upstreams.m]\nbase_url = 'http://h'\nmodel = 'x'", "`upstreams.m.model` is an unknown field; did you mean"),
        ("[people.bob]\nrole = ['a']", "`people.bob.role` is an unknown field; did you mean `roles`?"),
        ("[upstreams.m]\nkind = 'openai'", "`upstreams.m` cannot be used: missing required field `base_url`"),
        ("[server]\nport = 'x'", "`server.port` cannot be used: expected `int`, got `str`"),
        ("[server]\nport = 70000", "`server.port` is 70000"),
        ("[server]\nmax_body_bytes = 5", "`server.max_body_bytes` is below 1024"),
        ("[server]\ndrain_seconds = -1", "`server.drain_seconds` is negative"),
        ("[approvals]\nhold = -1", "`approvals.hold` is not from 0 to 600"),
        ("[approvals]\nretry_after = 'soon'", "`approvals.retry_after` is not a length of time"),
        ("[authzen.actions]\nprompt = 'ask'", "`authzen.actions` renames `prompt`"),
        ("[authzen.actions]\nget = 'read'", "`authzen.actions.get` names `read`, which is no tool"),
        ("[authzen.actions]\nget = 'see'\nsee = 'look'", "`authzen.actions.get` names `see`, which is no tool"),
        ("[authzen.resources.record]\nr1 = {size = 5}", "cannot be used: expected `str`, got `int`"),
        ("[authzen.resources.record]\n'' = {}", "`authzen.resources.record` holds a name that no request can bear"),
        ("server = 1", "`server` cannot be used: expected `table`, got `int`"),
        ("[[server]]\nport = 1", "`server` cannot be used: expected `table`, got `array`"),
        ("upstreams = 1", "`upstreams` cannot be used: expected `table`, got `int`"),
        ("[upstreams]\nm = 1", "`upstreams.m` cannot be used: expected `table`, got `int`"),
        ("people.bob.roles = 'finance'", "`people.bob.roles` cannot be used: expected `array`, got `str`"),
        ("people.bob.roles = [1]", "`people.bob.roles[0]` cannot be used: expected `str`, got `int`"),
        ("[agents.bot]\nowner = 'bob'", "`agents.bot.owner` names `bob`, who is nobody here"),
        ("[people.bob]\ndelegate = 'carol'", "`people.bob.delegate` names `carol`, who is nobody here"),
        ("[people.bob]\ndelegate = 'bob'", "`people.bob.delegate` is the same person"),
        ("[people.bob]\n[people.Bob]", "`people.Bob` looks like `bob`"),
        ("[people.bob]\naway = ['2026-12-20..2027-01-06']", "`people.bob.away` names no delegate"),
        (
            "[people.bob]\ndelegate = 'c'\naway = ['soon']\n[people.c]",
            "`people.bob.away` cannot be read: `soon` is not",
        ),
        ("[oncall.night]\npeople = []", "`oncall.night.people` is empty"),
        ("[oncall.night]\npeople = ['bob']", "`oncall.night.people` names `bob`, who is nobody here"),
        ("[upstreams.m]\nbase_url = 'ftp://h'", "`upstreams.m.base_url` is not an http(s) address"),
        ("[upstreams.m]\nbase_url = 'http://'", "`upstreams.m.base_url` is not an http(s) address"),
        ("[upstreams.m]\nbase_url = 'http://h:0'", "`upstreams.m.base_url` is not an http(s) address"),
        ("[upstreams.m]\nbase_url = 'http://h:99999'", "`upstreams.m.base_url` is not an http(s) address"),
        ("[upstreams.m]\nbase_url = 'http://h'\nkind = 'x'", "`upstreams.m.kind` is `x`"),
        ("[upstreams.m]\nbase_url = 'http://h'\nretries = 9", "`upstreams.m.retries` is not from 0 to 5"),
        (
            "[upstreams.m]\nbase_url = 'http://h'\nnetworks = ['10.0.0.1/8']",
            "`upstreams.m.networks` has no `10.0.0.1/8`",
        ),
        (
            "[upstreams.m]\nbase_url = 'http://h'\nfallback = ['m']",
            "`upstreams.m.fallback` names `m`, which is no other",
        ),
        ("[upstreams.m]\nbase_url = 'http://h'\nidle_timeout = nan", "`upstreams.m.idle_timeout` is not a positive"),
        ("[upstreams.m]\nbase_url = 'http://h'\ntotal_timeout = inf", "`upstreams.m.total_timeout` is not a positive"),
        ("[oidc.c]\nissuer = 'http://id.example'\naudience = 'a'", "`oidc.c.issuer` is not an https address"),
        ("[oidc.c]\nissuer = 'https://id.example'\naudience = ''", "`oidc.c.audience` is empty"),
        ("[oidc.c]\nissuer = 'https://i'\naudience = 'a'\nalgorithms = ['none']", "`oidc.c.algorithms` has no `none`"),
        (
            "[oidc.c]\nissuer = 'https://i'\naudience = 'a'\nalgorithms = ['HS256']",
            "`oidc.c.algorithms` has no `HS256`",
        ),
        ("[oidc.c]\nissuer = 'https://i'\naudience = 'a'\ncan = []", "`oidc.c.can` is empty"),
        ("[oidc.c]\nissuer = 'https://i'\naudience = 'a'\nroles = {a = 'b'}", "`oidc.c.roles` is given without"),
        ("[oidc.c]\nissuer = 'https://i'\naudience = 'a'\nleeway = 900", "`oidc.c.leeway` is not from 0 to 300"),
        (
            "[oidc.c]\nissuer = 'https://i'\naudience = 'a'\n[oidc.d]\nissuer = 'https://i'\naudience = 'b'",
            "`oidc.c.issuer` stands twice",
        ),
        ("[telemetry]\nendpoint = 'http://user:s3cret@h'", "`telemetry.endpoint` is not an http(s) address"),
        ("[telemetry]\nheaders_env = 'k=v'", "`telemetry.headers_env` is not the name of a variable"),
        ("[telemetry]\nsample_ratio = 1.5", "`telemetry.sample_ratio` is not from 0 to 1"),
        ("[telemetry]\nsample_ratio = nan", "`telemetry.sample_ratio` is not from 0 to 1"),
        ("[notify.m]\nkind = 'pigeon'", "`notify.m.kind` is `pigeon`"),
        ("[notify.m]\nkind = 'smtp'\nsender = 'c@e'", "`notify.m.host` is missing"),
        ("[notify.m]\nkind = 'smtp'\nhost = 'h'", "`notify.m.sender` is missing"),
        ("[notify.m]\nkind = 'smtp'\nhost = 'h'\nsender = 'c@e'\ntls = 'none'", "`notify.m.tls` is `none` beyond"),
        ("[notify.m]\nkind = 'smtp'\nhost = 'h'\nsender = 'c@e'\nuser = 'u'", "`notify.m` names no single password"),
        ("[notify.m]\nkind = 'smtp'\nhost = 'h'\nsender = 'c@e'\nroles = ['r']", "`notify.m.roles` is for channels"),
        (
            "[notify.m]\nkind = 'smtp'\nhost = 'h'\nsender = 'c@e'\nalerts = ['bob']",
            "`notify.m.alerts` names `bob`, who has no address",
        ),
        ("[notify.m]\nkind = 'slack'\nroles = ['r']", "`notify.m` names no single address"),
        ("[notify.m]\nkind = 'slack'\nurl_env = 'U'", "`notify.m` tells nobody"),
        ("[notify.m]\nkind = 'slack'\nurl_env = 'https://x'", "`notify.m.url_env` is not the name of a variable"),
        ("a = = 1", "DIR/checkrein.toml:1:5: not TOML: invalid value"),
        ("a = 1\na = 2\n", "DIR/checkrein.toml:2:6: not TOML: cannot overwrite a value"),
    ],
)
def test_what_is_wrong_in_the_file_is_named_with_its_place(toml: str, says: str, tmp_path: Path) -> None:
    assert says in refused(tmp_path, toml)


@pytest.mark.parametrize("text", ["x", "70000", ""])
def test_what_is_wrong_in_a_variable_is_named_as_a_variable(text: str, tmp_path: Path) -> None:
    variables = {"CHECKREIN_SERVER_PORT": text}
    assert refused(tmp_path, environ=variables).startswith("`CHECKREIN_SERVER_PORT` in the environment ")
    said = refused(tmp_path, dotenv=f"CHECKREIN_SERVER_PORT={text}\n")
    assert said.startswith("`CHECKREIN_SERVER_PORT` in DIR/.env ")


def test_what_is_wrong_in_a_flag_is_named_as_a_flag(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="`--port` is -1"):
        loaded(tmp_path, server__port=-1)


@pytest.mark.parametrize(
    ("data", "says"),
    [(b"A=1\nfoo bar baz\n", "DIR/.env:2: not a setting"), (b"A=\xff\n", "DIR/.env: not UTF-8")],
)
def test_a_dotenv_that_cannot_be_read_is_an_error_and_its_text_is_not_shown(
    data: bytes, says: str, tmp_path: Path
) -> None:
    (tmp_path / ".env").write_bytes(data)
    with pytest.raises(ConfigError) as error:
        load(tmp_path, environ={})
    assert str(error.value).replace(str(tmp_path), "DIR") == says


def test_a_file_in_another_encoding_is_named(tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(b'environment = "\xe9"')
    with pytest.raises(ConfigError, match=r"checkrein\.toml: not UTF-8"):
        load(tmp_path, environ={})


@pytest.mark.parametrize(
    "lines",
    [
        f"base_url = 'http://user:{SECRET}@host/v1'",
        f"base_url = 'http://host/v1?key={SECRET}'",
        f"base_url = 'http://host/v1'\napi_key_env = '{SECRET}'",
        f"base_url = 'http://host/v1'\napi_key = '{SECRET}'",
        f"base_url = ['{SECRET}']",
    ],
)
def test_a_secret_in_the_wrong_place_is_refused_and_not_repeated(lines: str, tmp_path: Path) -> None:
    refused(tmp_path, f"[upstreams.m]\n{lines}\n")


def test_a_secret_in_a_broken_dotenv_is_not_repeated(tmp_path: Path) -> None:
    refused(tmp_path, dotenv=f"OPENAI KEY {SECRET}\n")


def test_an_upstream_has_one_credential(tmp_path: Path) -> None:
    both = "[upstreams.m]\nbase_url = 'http://h'\napi_key_env = 'A'\napi_key_file = 'b'"
    assert "`upstreams.m` names two credentials" in refused(tmp_path, both)


def test_variables_that_nothing_reads_are_warned_of_with_what_was_meant(tmp_path: Path) -> None:
    variables = {"CHECKREIN_SERVER_PROT": "1", "CHECKREIN_QQQ": "1", "CHECKREIN_DIR": "x", "OTHER": "1"}
    unclear, misspelt = loaded(tmp_path, dotenv="CHECKREIN_API_KEY=x\n", environ=variables).warnings
    assert unclear == "`CHECKREIN_QQQ` is set but nothing reads it"
    assert misspelt == "`CHECKREIN_SERVER_PROT` is set but nothing reads it; did you mean `CHECKREIN_SERVER_PORT`?"


def test_a_variable_that_holds_a_credential_is_no_mistake(tmp_path: Path) -> None:
    upstream = "[upstreams.m]\nbase_url = 'http://h'\napi_key_env = 'CHECKREIN_MODEL_KEY'"
    assert loaded(tmp_path, upstream, environ={"CHECKREIN_MODEL_KEY": SECRET}).warnings == ()


@pytest.mark.parametrize(
    ("toml", "said"),
    [
        ('[limits."agnt:bot"]\nconcurrency = 1', "limits.agnt:bot` is about nothing: `agnt` is nothing that acts"),
        ('[limits."agent:"]\nconcurrency = 1', "limits.agent:` is about nothing: the agent is not named"),
        ("[limits.agent]\nconcurrency = 1", "limits.agent` is about nothing"),
        ('[limits."everything:x"]\nconcurrency = 1', "is about nothing"),
        ('[limits."agent:bot"]\n', "limits.agent:bot` limits nothing"),
        ('[limits."tool:pay"]\nspend_per_day = 5', "limits.tool:pay.spend_per_day` would never count anything"),
        ('[limits."agent:bot"]\nconcurrency = -1', "limits.agent:bot.concurrency` is negative or too large"),
        ('[limits."agent:bot"]\nspend_per_day = nan', "limits.agent:bot.spend_per_day` is negative or too large"),
        ('[limits."agent:bot"]\nspend_per_day = 1e30', "limits.agent:bot.spend_per_day` is negative or too large"),
        ('[limits."agent:bot"]\nrequests_per_minut = 1', "limits.agent:bot.requests_per_minut` is an unknown field"),
        (
            '[limits."agent:bot"]\nspend_per_day = 5\n[upstreams.x]\nbase_url = "http://h/v1"\nprice_in = 1.0',
            "upstreams.x` has no price",
        ),
        ('[upstreams.x]\nbase_url = "http://h/v1"\nprice_in = -1.0', "upstreams.x` has a price that is none"),
        (
            '[upstreams.x]\nbase_url = "http://h/v1"\nprices = {m = {price_in = 1.0, price_out = inf}}',
            "upstreams.x.prices.m` has a price that is none",
        ),
        ('[upstreams.x]\nbase_url = "http://h/v1"\noutput_tokens = 0', "upstreams.x.output_tokens` is not a number"),
    ],
)
def test_a_limit_that_would_be_quietly_dead_is_an_error(toml: str, said: str, tmp_path: Path) -> None:
    assert said in refused(tmp_path, toml)


def test_limits_are_read_by_whom_they_are_for(tmp_path: Path) -> None:
    toml = '[limits."agent:bot-*"]\nspend_per_day = 5\n[limits.everything]\nconcurrency = 0\n'
    limits = loaded(tmp_path, toml).config.limits
    assert (limits["agent:bot-*"].spend_per_day, limits["everything"].concurrency) == (5.0, 0)

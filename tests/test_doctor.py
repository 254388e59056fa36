"""The doctor finds what is wrong, says how to mend it, appends no record and shows no secret."""

from __future__ import annotations

import json
import shutil
import socket
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from checkrein import doctor
from checkrein.compose import open_system
from checkrein.doctor import Finding, examine
from checkrein.model import Permission, StoreUnavailable
from checkrein.pending import Pending
from checkrein.storage.files import DataDir
from checkrein.storage.sqlite import SqliteStore
from checkrein.web.server import BackgroundServer
from oidc_issuer import OidcIssuer

SECRET = "sk-0123456789-secret"


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHECKREIN_SERVER_PORT", "0")  # the tests do not depend on what listens on this machine
    monkeypatch.delenv("MODEL_KEY", raising=False)


def found(folder: Path, data: Path | None = None) -> list[Finding]:
    """Every finding; each one that is not ok says what to do."""
    findings, _ = examine(folder, data)
    assert all(finding.hint for finding in findings if finding.verdict != "ok")
    return findings


def told(folder: Path, what: str, data: Path | None = None) -> list[tuple[str, str]]:
    """What was found on one question."""
    return [(finding.verdict, finding.found) for finding in found(folder, data) if finding.what == what]


def used(folder: Path) -> Path:
    """The same folder, with a store in which something stands."""
    system = open_system(folder)
    system.keys.create("bot", permissions=(Permission.CALL,), by="tests")
    system.close()
    return folder


def test_a_sound_deployment_has_no_failure(folder: Path) -> None:
    verdicts = {finding.what: finding.verdict for finding in found(used(folder))}
    assert "fail" not in verdicts.values()
    for what in ("folder", "settings", "policies", "ledger", "store", "keys", "port"):
        assert verdicts[what] == "ok"


def test_looking_changes_nothing(folder: Path) -> None:
    examine(folder, None)
    assert not (folder / ".checkrein").exists()
    used(folder)
    (folder / "policies/new.cedar").write_text(
        '@id("x") @owner("y") @reason("z") permit (principal, action, resource);'
    )
    reader = SqliteStore.open_readonly(DataDir(folder / ".checkrein"))
    before = reader.head()
    examine(folder, None)
    assert reader.head() == before
    reader.close()


@pytest.mark.parametrize("make", [lambda path: None, Path.mkdir, Path.touch])
def test_what_is_no_governance_folder_is_the_only_finding(make: Callable[[Path], None], tmp_path: Path) -> None:
    make(tmp_path / "x")
    failures = [finding for finding in found(tmp_path / "x") if finding.verdict == "fail"]
    assert [finding.what for finding in failures] == ["folder"]
    assert "checkrein init" in failures[0].hint


def test_settings_that_cannot_be_read_hide_nothing_else(folder: Path) -> None:
    (used(folder) / "checkrein.toml").write_text("[server]\nprot = 1\n")
    failures = [finding for finding in found(folder) if finding.verdict == "fail"]
    assert [finding.what for finding in failures] == ["settings"]
    assert "did you mean `port`?" in failures[0].found
    assert ("ok", "1 live") in told(folder, "keys")


def test_a_variable_that_nothing_reads_is_a_warning(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHECKREIN_SERVER_HSOT", "0.0.0.0")  # noqa: S104 - misspelt on purpose
    assert told(folder, "settings")[1][0] == "warn"


def test_every_problem_of_the_policies_is_a_finding(folder: Path) -> None:
    (folder / "policies/a.cedar").write_text("permit (")
    (folder / "tools.yaml").write_text("tools:\n  read_file:\n    effects: [reed]\n")
    problems = [text for verdict, text in told(folder, "policies") if verdict == "fail"]
    assert any(text.startswith("policies/a.cedar:1") for text in problems)
    assert any(text.startswith("tools.yaml:3") for text in problems)


def test_policy_tests_that_fail_are_named(folder: Path) -> None:
    assert told(folder, "policy tests") == [("warn", "there are none")]
    case = "{name: mail runs, tool: send_email, input: {to: a, subject: b, body: c}, expect: {outcome: allow}}"
    (folder / "tests").mkdir()
    (folder / "tests/main.yaml").write_text(f"tests:\n  - {case}\n")
    assert told(folder, "policy tests") == [("fail", "tests/main.yaml:2: `mail runs` fails")]


def test_a_role_that_nobody_or_too_few_hold_is_a_warning(folder: Path) -> None:
    assert told(folder, "approvers") == []
    policies = folder / "policies/main.cedar"
    policies.write_text(policies.read_text().replace("1 of finance", "3 of finance and 1 of legal"))
    assert told(folder, "approvers") == [
        ("warn", "`mail-review` asks for 3 of finance; 2 hold the role"),
        ("warn", "`mail-review` asks for 1 of legal; nobody holds the role"),
    ]


@pytest.mark.parametrize(("people", "held"), [("", "nobody"), ('[people.dora]\nroles = ["commander"]\n', "1")])
def test_a_glass_that_nobody_could_break_or_sign_for_is_a_warning(folder: Path, people: str, held: str) -> None:
    config = folder / "checkrein.toml"
    config.write_text(f'approvals.break_glass = "commander"\n{config.read_text()}\n{people}')
    assert told(folder, "approvers") == [("warn", f"`approvals.break_glass` is `commander`; {held} holds the role")]


def test_an_escalation_to_nobody_is_a_warning_until_a_list_names_somebody(folder: Path) -> None:
    policies = folder / "policies/main.cedar"
    policies.write_text(policies.read_text().replace('@expires("1h")', '@expires("1h") @escalate("30m: oncall")'))
    assert told(folder, "approvers") == [("warn", "`mail-review` escalates to `oncall`, and nobody holds the role")]
    config = folder / "checkrein.toml"
    config.write_text(config.read_text() + '\n[oncall.oncall]\npeople = ["bob"]\n')
    assert told(folder, "approvers") == []


def test_without_a_key_nobody_can_call(folder: Path) -> None:
    assert told(folder, "keys") == [("warn", "none: nobody can call")]
    open_system(folder).close()
    assert told(folder, "keys") == [("warn", "none: nobody can call")]


@pytest.mark.parametrize("data", ["checkrein.toml", "checkrein.toml/store", "/proc/store"])
def test_a_store_that_cannot_be_made_is_a_failure(data: str, folder: Path) -> None:
    ((verdict, text),) = told(folder, "store", folder / data)
    assert verdict == "fail"
    assert "cannot be made" in text


def test_a_store_that_cannot_be_opened_is_a_failure(folder: Path) -> None:
    database = used(folder) / ".checkrein/ledger.db"
    database.unlink()
    database.mkdir()
    assert told(folder, "store")[0][0] == "fail"


def test_a_store_that_opens_but_takes_no_record_is_a_failure(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> Pending[tuple[()]]:
        refused: Pending[tuple[()]] = Pending()
        refused.set_exception(StoreUnavailable("the disk is full", hint="free space"))
        return refused

    used(folder)
    monkeypatch.setattr(SqliteStore, "commit", full)
    assert told(folder, "store") == [("fail", "the disk is full")]


def test_a_ledger_that_does_not_verify_is_a_failure_and_the_record_is_named(folder: Path) -> None:
    connection = sqlite3.connect(used(folder) / ".checkrein/ledger.db")
    connection.execute("DROP TRIGGER record_stays")
    connection.execute("UPDATE record SET data = CAST('garbage' AS BLOB) WHERE seq = 1")
    connection.commit()
    connection.close()
    (verdict, text), *_ = told(folder, "ledger")
    assert verdict == "fail"
    assert text.startswith("record 1 was changed")


def test_little_room_on_the_disk_is_a_warning(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert told(folder, "disk")[0][0] in ("ok", "warn")
    usage = shutil.disk_usage(folder)._replace(free=doctor.LOW_SPACE - 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    assert told(folder, "disk") == [("warn", "1023 MiB free")]


@pytest.fixture
def listening() -> Iterator[int]:
    """A port on which something listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        yield taken.getsockname()[1]


def test_a_port_in_use_is_a_warning(folder: Path, listening: int, monkeypatch: pytest.MonkeyPatch) -> None:
    assert told(folder, "port") == [("ok", "127.0.0.1:0 is free")]
    monkeypatch.setenv("CHECKREIN_SERVER_PORT", str(listening))
    assert told(folder, "port") == [("warn", f"127.0.0.1:{listening}: address already in use")]
    monkeypatch.setenv("CHECKREIN_SERVER_HOST", "no.such.host.invalid")
    assert told(folder, "port")[0][0] == "warn"


def upstream(folder: Path, port: int, more: str = "") -> Path:
    config = folder / "checkrein.toml"
    config.write_text(f'{config.read_text()}\n[upstreams.m]\nbase_url = "http://127.0.0.1:{port}/v1"\n{more}\n')
    return folder


def test_an_upstream_that_answers_is_fine(folder: Path, listening: int) -> None:
    assert told(upstream(folder, listening), "upstream m") == [
        ("ok", f"http://127.0.0.1:{listening}/v1 can be reached")
    ]


def test_an_upstream_that_is_not_there_and_its_missing_credential_are_two_failures(folder: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    assert told(upstream(folder, port, 'api_key_env = "MODEL_KEY"'), "upstream m") == [
        ("fail", "`MODEL_KEY` is not set; upstream `m` needs it"),
        ("fail", f"http://127.0.0.1:{port}/v1 cannot be reached: connection refused"),
    ]


def test_without_an_upstream_there_is_a_warning(folder: Path) -> None:
    assert told(folder, "upstreams") == [("warn", "none configured")]


def test_no_secret_is_ever_shown(folder: Path, listening: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODEL_KEY", SECRET)
    monkeypatch.setenv("CHECKREIN_API_KEY", SECRET)
    (folder / ".env").write_text(f"CHECKREIN_OTHER={SECRET}\nSERVICE_KEY={SECRET}\n")
    system = open_system(upstream(folder, listening, 'api_key_env = "MODEL_KEY"'))
    _, key = system.keys.create("bot", by="tests")
    system.close()
    findings, origins = examine(folder, None)
    shown = json.dumps([finding.to_json() for finding in findings]) + "".join(map(str, origins))
    assert ("upstreams.m.api_key_env", "MODEL_KEY") in [(origin.name, origin.value) for origin in origins]
    for secret in (SECRET, key, (folder / ".checkrein/signer.key").read_text().strip()):
        assert secret not in shown


def test_an_issuer_is_asked_for_its_keys(folder: Path) -> None:
    config = folder / "checkrein.toml"
    text = config.read_text()
    issuer = OidcIssuer()
    with BackgroundServer(issuer) as server:
        issuer.url = server.url
        config.write_text(f'{text}\n[oidc.corp]\nissuer = "{server.url}"\naudience = "checkrein"\n')
        (told,) = [finding for finding in found(folder) if finding.what == "oidc corp"]
        assert (told.verdict, told.found) == ("ok", f"{server.url} publishes 1 key")
    (told,) = [finding for finding in found(folder) if finding.what == "oidc corp"]
    assert (told.verdict, told.found) == ("fail", "the issuer `corp` cannot be reached: ClientConnectorError")


def test_where_spans_go_is_looked_at_and_what_is_missing_for_it_named(
    folder: Path, listening: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert told(folder, "telemetry") == []
    endpoint = f"http://127.0.0.1:{listening}"
    monkeypatch.setenv("CHECKREIN_TELEMETRY_ENDPOINT", endpoint)
    assert told(folder, "telemetry") == [("ok", f"spans go to {endpoint}")]
    monkeypatch.setenv("CHECKREIN_TELEMETRY_HEADERS_ENV", "NOT_SET")
    assert told(folder, "telemetry") == [("fail", "`NOT_SET` is not set; `telemetry` needs it")]
    monkeypatch.delenv("CHECKREIN_TELEMETRY_HEADERS_ENV")
    monkeypatch.setenv("CHECKREIN_TELEMETRY_ENDPOINT", "http://127.0.0.1:9")
    ((verdict, _),) = told(folder, "telemetry")
    assert verdict == "warn"

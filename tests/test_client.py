"""The client against a running Checkrein: every answer, every error, and where its settings come from."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from checkrein.client import Client, HttpError
from checkrein.compose import System, open_system
from checkrein.config import UpstreamConfig
from checkrein.defaults import write
from checkrein.model import BadRequest, ConfigError, Permission, UpstreamUnavailable
from checkrein.web.server import BackgroundServer
from fakes import FakeModel

MAIL = "Send an email to all employees that payroll will be delayed by 2 days."
URL, KEY = "CHECKREIN_API_URL", "CHECKREIN_API_KEY"


class Place:
    """One running Checkrein for all tests here; each test acts for a user of its own."""

    def __init__(self, system: System, url: str, model: FakeModel) -> None:
        self.system = system
        self.url = url
        self.model = model

    def key(self, user: str, *permissions: Permission) -> str:
        _, secret = self.system.keys.create(
            user, roles=("staff",), permissions=permissions or tuple(Permission), by="tests"
        )
        return secret

    def client(self, user: str) -> Client:
        return Client(self.url, self.key(user))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("governance")
    write(folder)
    model = FakeModel()
    with BackgroundServer(model) as upstream:
        fake = UpstreamConfig(base_url=f"{upstream.url}/v1")
        system = open_system(folder, flags={"approvals.hold": 0}, upstreams={"fake": fake})
        try:
            with BackgroundServer(system.app()) as server:
                place = Place(system, server.url, model)
                Client(place.url, place.key("ines")).submit_request({"prompt": "hello"})
                yield place
        finally:
            system.close()


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder without `.env`, and an environment that says nothing."""
    monkeypatch.chdir(tmp_path)
    for name in (URL, KEY):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@contextmanager
def saying(answer: bytes) -> Iterator[str]:
    """A listener that reads a request's head, says exactly this and hangs up."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(65536)
            connection.sendall(answer)

    thread = threading.Thread(target=serve)
    thread.start()
    with listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        thread.join()


# --- the three forms, and the four outcomes -------------------------------------------------------------------


def test_an_authzen_request_is_decided_and_recorded(place: Place):
    client = place.client("anna")
    request = {
        "subject": {"type": "user", "id": "anna", "properties": {"roles": ["staff"]}},
        "action": {"name": "read_file", "properties": {"input": {"path": "q3.csv"}}},
        "resource": {"type": "tool", "id": "read_file"},
    }
    answer = client.submit_request(request)
    assert (answer["decision"], answer["context"]["outcome"]) == (True, "allow")
    (record,) = client.get_audit_logs(trace_id=answer["context"]["trace_id"])
    assert record["body"]["action"]["name"] == "read_file"


def test_a_prompt_is_governed_run_and_answered(place: Place):
    calls = place.model.calls
    answer = place.client("bert").submit_request({"prompt": "What is the weather today?"})
    assert answer["decision"] is True
    assert answer["choices"][0]["message"]["content"] == "hello"
    assert answer["context"]["outcome"] == "allow"
    assert answer["context"]["risk"] == {"level": "green"}
    assert len(answer["context"]["trace_id"]) == 32
    assert place.model.calls == calls + 1
    assert place.model.bodies[-1] == {
        "model": "default",
        "messages": [{"role": "user", "content": "What is the weather today?"}],
    }


def test_messages_and_the_prompt_that_is_short_for_them_are_one_action(place: Place):
    client = place.client("carl")
    short = client.submit_request({"prompt": MAIL, "model": "m"})
    long = client.submit_request({"model": "m", "messages": [{"role": "user", "content": MAIL}]})
    assert short["context"]["access_request"]["id"] == long["context"]["access_request"]["id"]


def test_a_review_is_an_answer_and_once_approved_the_same_request_runs_once(place: Place):
    client, calls = place.client("dora"), place.model.calls
    waiting = client.submit_request({"prompt": MAIL})
    assert (waiting["decision"], waiting["context"]["outcome"]) == (False, "require_review")
    assert "choices" not in waiting
    approval = waiting["context"]["access_request"]["id"]
    place.system.approvals.vote(approval, voter="eve", roles=("communications",), approve=True, auth="local")
    assert place.model.calls == calls
    assert client.submit_request({"prompt": MAIL})["decision"] is True
    assert client.submit_request({"prompt": MAIL})["decision"] is False
    assert place.model.calls == calls + 1


def test_a_denial_is_an_answer_with_reasons_and_an_alternative(place: Place):
    calls = place.model.calls
    answer = place.client("emil").submit_request({"prompt": "Transfer funds from treasury to vendor account."})
    assert (answer["decision"], answer["context"]["outcome"]) == (False, "deny")
    assert answer["context"]["policies"] == ["irreversible"]
    assert answer["context"]["advice"][0]["type"] == "safe_alternative"
    assert answer["context"]["risk"]["level"] == "red"
    assert place.model.calls == calls


def test_a_redacted_prompt_runs_and_says_so(place: Place):
    answer = place.client("fred").submit_request({"prompt": "Write to jane.doe@example.com that all is well."})
    assert (answer["decision"], answer["context"]["outcome"]) == (True, "allow_with_redaction")
    assert place.model.bodies[-1]["messages"][0]["content"] == "Write to <EMAIL_1> that all is well."


# --- what was recorded ----------------------------------------------------------------------------------------


def test_audit_logs_are_filtered_by_what_is_asked(place: Place):
    client = place.client("gina")
    for prompt in ("hello", "Transfer funds to ACME."):
        client.submit_request({"prompt": prompt})
    logs = client.get_audit_logs(user="gina")
    assert [log["kind"] for log in logs] == ["decision", "execution.finished", "execution.started", "decision"]
    assert [log["seq"] for log in logs] == sorted((log["seq"] for log in logs), reverse=True)
    (denied,) = client.get_audit_logs(user="gina", outcome="deny")
    assert client.get_audit_logs(user="gina", risk="red") == [denied]
    assert client.get_audit_logs(user="gina", kind="decision", action="prompt", limit=1) == [denied]
    assert len(client.get_audit_logs(user="gina", kind="decision,execution.started")) == 3
    assert client.get_audit_logs(user="gina", agent="nobody") == []
    oldest = client.get_audit_logs(user="gina", oldest_first=True, limit=1)
    rest = client.get_audit_logs(user="gina", oldest_first=True, after_seq=oldest[0]["seq"])
    assert [*oldest, *rest] == logs[::-1]


def test_a_misspelt_filter_is_an_error_and_not_everything(place: Place):
    with pytest.raises(TypeError):
        place.client("gina").get_audit_logs(usr="gina")  # type: ignore[call-arg]


def test_activities_are_rows_of_a_user(place: Place):
    client = place.client("hugo")
    client.submit_request({"prompt": "hello"})
    (row,) = client.get_activities("hugo")
    assert (row["user"], row["action"], row["decision"], row["status"]) == ("hugo", "prompt", "allow", "executed")
    assert len(client.get_activities(limit=1)) == 1


# --- errors ---------------------------------------------------------------------------------------------------


def test_a_wrong_key_is_a_401_that_does_not_show_it(place: Place):
    with pytest.raises(HttpError, match="no valid key") as refused:
        Client(place.url, "crk_wrong").submit_request({"prompt": "hello"})
    assert refused.value.status == 401
    assert "crk_wrong" not in str(refused.value)
    with pytest.raises(HttpError) as refused:
        Client(place.url, "crk_wrong").get_audit_logs()
    assert "checkrein keys create" in refused.value.hint


def test_a_key_that_may_not_is_a_403_and_no_denial(place: Place):
    for call in (lambda client: client.get_audit_logs(), lambda client: client.submit_request({"prompt": "hello"})):
        narrow = Client(place.url, place.key("ida", Permission.DECIDE))
        with pytest.raises(HttpError, match="this key may not do that") as refused:
            call(narrow)
        assert refused.value.status == 403


@pytest.mark.parametrize(
    ("request_", "says"),
    [
        ({"subject": {"type": "user", "id": "a"}}, "AuthZEN"),
        ({"resource": {"type": "tool", "id": "a"}}, "AuthZEN"),
        ({"messages": []}, "`messages` is missing or empty"),
        ({"messages": "hello"}, "`messages` is missing or empty"),
        ({"prompt": "hello", "model": 5}, "`model`"),
    ],
)
def test_what_the_server_cannot_read_is_a_400(place: Place, request_: dict[str, Any], says: str):
    with pytest.raises(HttpError, match=says) as refused:
        place.client("jack").submit_request(request_)
    assert refused.value.status == 400


def test_a_body_over_the_limit_is_a_413(place: Place):
    with pytest.raises(HttpError, match="max_body_bytes") as refused:
        place.client("kate").submit_request({"prompt": "x" * (10 * 1024 * 1024)})
    assert refused.value.status == 413
    assert refused.value.body["error"]["type"] == "invalid_request_error"


def test_an_answer_that_comes_before_all_was_sent_is_heard():
    answer = b"HTTP/1.1 413 Too Large\r\ncontent-length: 8\r\n\r\ntoo long"
    with saying(answer) as url, pytest.raises(HttpError, match="too long") as refused:
        Client(url, "crk_k").submit_request({"prompt": "x" * (32 * 1024 * 1024)})
    assert refused.value.status == 413


def test_an_upstreams_error_is_no_denial(place: Place):
    place.model.status, place.model.answer = 429, b'{"error":{"message":"slow down"}}'
    try:
        with pytest.raises(HttpError, match="slow down") as refused:
            place.client("lena").submit_request({"prompt": "hello"})
    finally:
        place.model.status, place.model.answer = 200, FakeModel().answer
    assert refused.value.status == 429


@pytest.mark.parametrize(
    "request_",
    [
        "hello",
        ["hello"],
        {},
        {"model": "m"},
        {"prompt": "a", "messages": []},
        {"prompt": "a", "stream": True},
        {"prompt": {1, 2}},
        {"prompt": float("nan")},
        {"action": {"name": object()}},
    ],
)
def test_what_cannot_be_sent_is_refused_here(request_: Any):
    with pytest.raises(BadRequest) as refused:
        Client("http://127.0.0.1:1", "crk_k").submit_request(request_)
    assert refused.value.hint


def test_nobody_listening_is_said_with_what_to_do():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(UpstreamUnavailable, match="cannot be reached: connection refused") as refused:
        Client(f"http://127.0.0.1:{port}", "crk_k").get_audit_logs()
    assert "checkrein serve" in refused.value.hint


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 200 OK\r\ncontent-length: 50\r\n\r\n{", b"nonsense\r\n\r\n"])
def test_an_answer_that_breaks_off_may_stand_for_something_that_ran(answer: bytes):
    with saying(answer) as url, pytest.raises(UpstreamUnavailable, match="no whole answer") as broken:
        Client(url, "crk_k").submit_request({"prompt": "hello"})
    assert "may have run" in broken.value.hint


def test_an_answer_that_does_not_come_ends_at_the_timeout():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        client = Client(f"http://127.0.0.1:{silent.getsockname()[1]}", "crk_k", timeout=0.05)
        with pytest.raises(UpstreamUnavailable, match="no whole answer"):
            client.get_audit_logs()


def test_an_endless_answer_is_not_read_to_its_end(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("checkrein.client.MAX_ANSWER_BYTES", 10)
    answer = b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 1000
    with saying(answer) as url, pytest.raises(UpstreamUnavailable):
        Client(url, "crk_k").get_audit_logs()


@pytest.mark.parametrize("body", [b"<html>", b"[]", b'{"choices":[]}'], ids=["html", "list", "json"])
def test_an_answer_of_something_else_is_never_taken_for_a_decision(body: bytes):
    answer = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body) + body
    with saying(answer) as url, pytest.raises(HttpError, match="not a Checkrein"):
        Client(url, "crk_k").submit_request({"prompt": "hello"})


@pytest.mark.parametrize("status", [b"301 Moved", b"302 Found", b"307 Temporary Redirect", b"308 Permanent Redirect"])
def test_a_redirect_is_not_followed(place: Place, status: bytes):
    records = place.system.store.head().size
    target = place.url.encode() + b"/v1/chat/completions"
    head = b"HTTP/1.1 " + status + b"\r\nlocation: " + target + b"\r\nx-checkrein-outcome: allow\r\n"
    answer = head + b"content-length: 2\r\n\r\n{}"
    with saying(answer) as url, pytest.raises(HttpError) as refused:
        Client(url, "crk_k").submit_request({"prompt": "hello"})
    assert refused.value.status == int(status[:3])
    assert place.system.store.head().size == records


# --- where settings come from ---------------------------------------------------------------------------------


def test_what_is_passed_wins_over_the_environment_and_that_over_the_file(
    place: Place, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
):
    good, nowhere = place.key("mara"), "http://127.0.0.1:1"
    (elsewhere / ".env").write_text(f"{URL}={place.url}\n{KEY}={good}\n")
    assert Client().get_activities(limit=1)
    monkeypatch.setenv(KEY, "crk_wrong")
    with pytest.raises(HttpError):
        Client().get_activities()
    assert Client(api_key=good).get_activities(limit=1)
    monkeypatch.setenv(URL, nowhere)
    with pytest.raises(UpstreamUnavailable):
        Client(api_key=good).get_activities()
    assert Client(place.url, good).get_activities(limit=1)
    monkeypatch.setenv(URL, "")
    assert Client(api_key=good).get_activities(limit=1)


def test_a_value_in_the_file_is_taken_as_it_stands(place: Place, elsewhere: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OTHER", "surprise")
    (elsewhere / ".env").write_text(f'{KEY}="crk_${{OTHER}}"\n')
    assert Client(place.url)._key == "crk_${OTHER}"


def test_a_key_with_its_line_end_is_still_the_key(place: Place):
    assert Client(place.url + "/", place.key("nora") + "\n").get_activities(limit=1)


def test_without_a_key_there_is_no_client(elsewhere: Path):
    with pytest.raises(ConfigError, match="no api key") as refused:
        Client()
    assert KEY in refused.value.hint
    (elsewhere / ".env").write_bytes(b"\xff\xfe=1")
    with pytest.raises(ConfigError, match=r"`\.env` cannot be read"):
        Client()


def test_a_key_that_no_header_can_hold_is_refused_without_showing_it():
    with pytest.raises(ConfigError) as refused:
        Client("http://127.0.0.1:1", "crk_a\r\nx-evil: 1")
    assert "evil" not in str(refused.value)


@pytest.mark.parametrize(
    "url",
    [
        "127.0.0.1:8642",
        "ftp://host",
        "file:///etc/passwd",
        "http://",
        "http://host:port",
        "http://host:99999",
        "http://[::1",
        "http://user:hunter2@host",
        "http://host/?a=b",
        "http://host/#a",
        "http://host/a b",
    ],
)
def test_an_address_that_cannot_be_used_is_refused_at_once_and_not_repeated(url: str):
    with pytest.raises(ConfigError) as refused:
        Client(url, "crk_k")
    assert URL in refused.value.hint
    assert "hunter2" not in str(refused.value)


def test_a_proxy_of_the_environment_never_sees_the_key(place: Place, monkeypatch: pytest.MonkeyPatch):
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    monkeypatch.delenv("no_proxy", raising=False)
    assert place.client("olga").submit_request({"prompt": "hello"})["decision"] is True


def test_threads_may_share_a_client(place: Place):
    client = place.client("paul")
    answers: list[bool] = []
    threads = [
        threading.Thread(target=lambda: answers.append(client.submit_request({"prompt": "hello"})["decision"]))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [True] * 8


def test_waiting_for_people_ends_with_the_vote(place: Place):
    client = place.client("walter")
    waiting = client.submit_request({"prompt": MAIL})["context"]["access_request"]["id"]
    assert client.wait(waiting, timeout=0)["state"] == "pending"
    vote = {"voter": "communications-lead", "roles": ("communications",), "approve": True, "auth": "local"}
    voter = threading.Timer(0.05, place.system.approvals.vote, (waiting,), vote)
    voter.start()
    assert client.wait(waiting)["state"] == "approved"
    voter.join()
    assert client.submit_request({"prompt": MAIL})["decision"] is True


def test_what_somebody_else_asked_for_is_not_waited_for(place: Place):
    waiting = place.client("una").submit_request({"prompt": MAIL})["context"]["access_request"]["id"]
    other = Client(place.url, place.key("victor", Permission.CALL))
    with pytest.raises(HttpError, match="no approval"):
        other.wait(waiting)


def test_it_asks_not_to_be_held_longer_than_it_listens():
    model = FakeModel()
    with BackgroundServer(model) as elsewhere, pytest.raises(HttpError, match="not a Checkrein"):
        Client(elsewhere.url, "crk_x", timeout=10).submit_request({"prompt": "hi"})
    assert model.headers[0]["prefer"] == "wait=8"

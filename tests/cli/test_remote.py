"""`approvals --url`: the same verbs from another machine, against a real server, with a key for the person."""

from __future__ import annotations

import datetime
import json
import re
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from checkrein.cli import remote
from checkrein.cli.desk import Here
from checkrein.cli.remote import There
from checkrein.client import Client
from checkrein.compose import System, open_system
from checkrein.flow.approval import State
from checkrein.model import Action, ApprovalRequired, Permission, Request, Resource, Subject
from checkrein.model.requirement import parse_grant
from checkrein.ports import RecordQuery
from checkrein.services.showing import event
from checkrein.web.server import BackgroundServer

Run = Callable[..., Any]
MAIL = {"to": "press@example.com", "subject": "News", "body": "We are open."}
TERMS = "max 1h, 5 uses, same to, even red"


class Place:
    """A running server, and the commands of people elsewhere: each has nothing but its address and their key."""

    def __init__(self, folder: Path, system: System, url: str, cli: Run) -> None:
        self.folder = folder
        self.system = system
        self.url = url
        self._cli = cli

    def key(self, owner: str, *permissions: Permission, agent: str = "") -> str:
        given = permissions or (Permission.APPROVE,)
        _, secret = self.system.keys.create("k", owner=owner, agent=agent, roles=(), permissions=given, by="tests")
        return secret

    def ask(self, user: str = "alice") -> str:
        """The id of an approval that waits."""
        with pytest.raises(ApprovalRequired) as waiting:
            self.run(user)
        return waiting.value.approval_id

    def run(self, user: str = "alice") -> None:
        action = Action("send_email", {"input": MAIL})
        request = Request(Subject("user", user), action, Resource("tool", "send_email"))
        with self.system.gateway.action_sync(request, caller="test"):
            pass

    def here(self, *arguments: object) -> Any:
        """On the machine that holds the store."""
        return self._cli(*arguments, "--dir", self.folder)

    def there(self, key: str, *arguments: object, **environment: str) -> Any:
        return self._cli(
            "approvals", *arguments, **{"CHECKREIN_URL": self.url, "CHECKREIN_API_KEY": key, **environment}
        )


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that is no governance folder, and has no `.env`."""
    other = tmp_path / "elsewhere"
    other.mkdir()
    monkeypatch.chdir(other)


@pytest.fixture
def place(folder: Path, cli: Run) -> Iterator[Place]:
    policies = folder / "policies/main.cedar"
    policies.write_text(policies.read_text().replace('@expires("1h")', f'@expires("1h") @grant("{TERMS}")'))
    config = folder / "checkrein.toml"
    config.write_text(config.read_text() + "\n[people.dave]\n")
    system = open_system(folder)
    try:
        with BackgroundServer(system.app()) as server:
            yield Place(folder, system, server.url, cli)
    finally:
        system.close()


def told(place: Place, kind: str) -> list[tuple[str, str]]:
    """Who did that, and how they proved who they are."""
    found = place.system.store.records(RecordQuery(kinds=(kind,)))
    parts = ("vote", "edit", "grant", "detail")
    return [
        (record.body["actor"]["id"], next(record.body[part]["auth"] for part in parts if part in record.body))
        for record in found
    ]


def test_what_is_seen_from_elsewhere_is_what_is_seen_here(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    ids, bob = [place.ask(), place.ask("erin")], place.key("bob", Permission.AUDIT)
    place.system.approvals.vote(ids[1], voter="bob", approve=True, auth="local", grant=parse_grant(TERMS))
    place.system.approvals.electorate.delegations.give(
        "bob", "dave", from_us=0, until_us=place.system.clock.now_us() + 10**9, auth="local"
    )
    monkeypatch.setenv("CHECKREIN_API_KEY", bob)
    here, there = Here(place.system, ""), There(place.url)
    assert there.listed(None) == here.listed(None)
    assert [there.show(id) for id in ids] == [here.show(id) for id in ids]
    assert there.grants(live=True) == here.grants(live=True) != []
    assert there.delegations() == here.delegations() != []
    monkeypatch.delenv("CHECKREIN_API_KEY")
    show = ("show", ids[0][:8], "-o", "json")
    assert place.there(bob, *show) == place.here("approvals", *show)
    shown = place.there(bob, "show", ids[0]).out
    assert "to (steers it)" in shown
    assert "bob, carol" in shown


def test_a_vote_from_elsewhere_names_the_key_it_came_with(place: Place) -> None:
    id, bob = place.ask(), place.key("bob")
    ran = place.there(bob, "approve", id, "--reason", "agreed", "-o", "json")
    assert (ran.code, ran.json()["state"], ran.json()["grant"]) == (0, "approved", "")
    assert "is approved; it runs once" in ran.err
    (key,) = place.system.keys.all()
    assert told(place, "approval.voted") == [("bob", key.id)]
    place.run()


def test_a_denial_an_edit_and_a_grant_from_elsewhere_do_what_they_do_here(place: Place) -> None:
    bob, carol = place.key("bob"), place.key("carol")
    first = place.ask()
    edited = place.there(bob, "edit", first, "--set", "to=one@example.com", "--reason", "one is enough", "-o", "json")
    id = edited.json()["id"]
    assert (edited.code, edited.json()["edits"], edited.json()["edited_by"]) == (0, first, ["bob"])
    assert "one@example.com (was press@example.com)" in place.there(carol, "show", id).out
    assert place.there(carol, "deny", id, "--reason", "not now").err == f"{id} is denied\n"
    id = place.ask()
    granted = place.there(bob, "approve", id, "--grant", "--grant-for", "30m", "--grant-uses", "2", "-o", "json")
    grant = granted.json()["grant"]
    assert f"{grant} lets the like run again: max 30m, 2 uses" in granted.err
    place.run()  # by the approval
    place.run()  # by the grant
    assert "1 of 2" in place.there(carol, "grants").out
    assert "used 1 of 2 times" in place.there(carol, "revoke", grant[:8], "--reason", "moved on").err
    place.ask()
    assert place.there(carol, "grants", "--all", "-o", "json").json()[0]["state"] == "revoked"


def test_a_vote_is_given_away_from_elsewhere_and_taken_back(place: Place) -> None:
    id, bob, dave = place.ask(), place.key("bob"), place.key("dave")
    until = (datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=3)).date().isoformat()
    assert "`dave` may vote in the place of `bob`" in place.there(bob, "delegate", "dave", "--until", until).err
    assert "dave" in place.there(bob, "delegate").out
    assert "dave for bob" in place.there(bob, "show", id).out
    assert "`bob` votes alone again" in place.there(bob, "delegate", "--end").err
    ran = place.there(dave, "approve", id, "--for", "bob")
    assert (ran.code, "does not stand in for `bob`" in ran.err, "(no_delegation)" in ran.err) == (1, True, True)
    bare = place.there(bob, "delegate", "dave")
    assert (bare.code, "no last day is given" in bare.err) == (2, True)


def test_what_the_server_refuses_is_said_with_its_code_and_ends_as_it_would_here(place: Place) -> None:
    id = place.ask()
    erin, agent = place.key("dave"), place.key("bob", agent="bobs-bot")
    alice, caller = place.key("alice"), place.key("bob", Permission.CALL)
    for key, arguments, code, words in (
        (erin, ["approve", id], 1, "holds none of the roles that are asked for: finance (wrong_role)"),
        (alice, ["approve", id], 1, "`alice` asked for this action and cannot vote on it (own_request)"),
        (agent, ["deny", id], 1, "(agent_key)"),
        (place.key("bob"), ["approve", id, "--hash", "0" * 64], 1, "(stale_hash)"),
        (place.key("bob"), ["approve", id, "--grant-uses", "9"], 1, "(wide_grant)"),
        (place.key("bob"), ["approve", id, "--grant-uses", "-1"], 2, "-1 uses are nothing to grant"),
        (place.key("bob"), ["edit", id, "--unset", "to"], 1, "(invalid_arguments)"),
        (place.key("bob"), ["show", "apr_0000000000000000"], 1, "no approval `apr_0000000000000000`"),
        (place.key("bob"), ["show", "events"], 1, "no approval `events`"),
        (place.key("bob"), ["revoke", "grt_0000000000000000"], 1, "no grant has such an id"),
        (caller, ["grants"], 2, "this key may not do that; it needs `approve` or `audit`"),
        ("crk_nobody", ["list"], 2, "no valid key"),
    ):
        ran = place.there(key, *arguments)
        assert (ran.code, ran.out) == (code, ""), ran.err
        assert words in ran.err
        assert "hint: " in ran.err
    assert place.system.approvals.get(id).state is State.PENDING


def test_what_a_key_is_not_told_is_said_and_not_guessed(place: Place) -> None:
    id, alice = place.ask(), place.key("alice", Permission.CALL)
    shown = place.there(alice, "show", id).out
    assert re.search("may agree +not told to this key", shown)
    assert re.search("what steers it +not told to this key", shown)
    assert place.there(alice, "show", id, "-o", "json").json()["may_agree"] is None
    other = place.ask("erin")
    assert place.there(alice, "show", other).code == 1
    assert [row["id"] for row in place.there(alice, "list", "-o", "json").json()] == [id]


def test_who_watches_one_from_elsewhere_learns_how_it_ended_edits_too(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    id, bob = place.ask(), place.key("bob")
    monkeypatch.setenv("CHECKREIN_API_KEY", bob)
    assert There(place.url).settled(id, 0).state is State.PENDING
    edited = place.there(bob, "edit", id, "--set", "to=a", "-o", "json").json()["id"]
    place.there(place.key("carol"), "deny", edited)
    ended = place.there(bob, "watch", id, "-o", "json")
    assert (ended.code, ended.json()["id"], ended.json()["state"]) == (3, edited, "denied")


# --- addresses, and connections that break ----------------------------------------------------------------------


def test_who_acts_is_said_once_by_the_key_or_by_name(place: Place) -> None:
    for arguments in (
        ["approve", "apr_1a2b", "--as", "bob"],
        ["list", "--data", "store"],
        ["list", "--dir", place.folder],
    ):
        ran = place.there(place.key("bob"), *arguments)
        assert (ran.code, ran.out) == (2, "")
        assert "is for the store of this machine, `--url` (or CHECKREIN_URL) asks a server" in ran.err
    assert place.there(place.key("bob"), "list", CHECKREIN_DIR=str(place.folder)).code == 0


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://checkrein.example", "the key would cross the network in the clear"),
        ("http://10.0.0.1:8642", "the key would cross the network in the clear"),
        ("http://localhost.example", "the key would cross the network in the clear"),
        ("https://bob:hunter2@checkrein.example", "holds more than an address"),
        ("checkrein.example", "not an http(s) address"),
    ],
)
def test_a_key_goes_nowhere_where_others_could_read_it(url: str, words: str, cli: Run) -> None:
    ran = cli("approvals", "list", "--url", url, CHECKREIN_API_KEY="crk_k")
    assert (ran.code, ran.out) == (2, "")
    assert words in ran.err
    assert "hunter2" not in ran.err


def test_without_a_key_nothing_is_asked(cli: Run) -> None:
    ran = cli("approvals", "list", "--url", "http://127.0.0.1:1")
    assert (ran.code, "set CHECKREIN_API_KEY" in ran.err) == (2, True)


def test_a_server_that_cannot_be_reached_is_said_and_ends_with_7(cli: Run) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    for verb in (["list"], ["watch"], ["watch", "apr_1a2b"], ["approve", "apr_1a2b"]):
        ran = cli("approvals", *verb, "--url", f"http://127.0.0.1:{port}", CHECKREIN_API_KEY="crk_k")
        assert (ran.code, "cannot be reached: connection refused" in ran.err) == (7, True)


class Answers:
    """Says to each connection, one after another, exactly this, and hangs up; keeps what was asked."""

    def __init__(self, *answers: bytes) -> None:
        self.asked: list[str] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(30)
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve, args=(answers,))

    def __enter__(self) -> Answers:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.join()
        self._listener.close()

    def _serve(self, answers: tuple[bytes, ...]) -> None:
        for answer in answers:
            connection, _ = self._listener.accept()
            with connection:
                self.asked.append(connection.recv(65536).decode())
                connection.sendall(answer)


def http(status: str, body: bytes, kind: str = "text/html", *more: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"content-type: {kind}", f"content-length: {len(body)}", *more]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def events(*each: tuple[int, str]) -> bytes:
    """A stream that breaks off after these."""
    told = "".join(f'id: {seq}\nevent: {kind}\ndata: {{"seq":{seq},"kind":"{kind}"}}\n\n' for seq, kind in each)
    head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    return f"{head}{len(told):x}\r\n{told}\r\n".encode()


@pytest.mark.parametrize(
    ("answer", "code", "words"),
    [
        (http("200 OK", b"<html>"), 2, "is not a Checkrein"),
        (http("200 OK", b'{"approvals": [{"id": 1}], "next": null}', "application/json"), 2, "is not a Checkrein"),
        (http("404 Not Found", b"<html>"), 2, "is not a Checkrein"),
        (http("302 Found", b"", "text/html", "location: https://evil.example"), 2, "a key is not sent on"),
        (http("502 Bad Gateway", b"<html>"), 7, "answers 502"),
        (http("503 Busy", b'{"title": "disk full"}', "application/problem+json"), 7, "disk full"),
        (b"", 7, "no whole answer came"),
    ],
)
def test_what_is_no_answer_of_a_checkrein_is_taken_for_none(answer: bytes, code: int, words: str, cli: Run) -> None:
    with Answers(answer) as server:
        ran = cli("approvals", "list", "--url", server.url, CHECKREIN_API_KEY="crk_k")
    assert (ran.code, ran.out) == (code, "")
    assert words in ran.err
    assert "evil" not in ran.err


def test_who_watches_goes_on_after_the_last_event_when_a_connection_breaks(
    cli: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "_FIRST_S", 0.001)
    gone = http("401 Unauthorized", b'{"title": "no valid key"}', "application/problem+json")
    busy = http("503 Busy", b'{"title": "disk full"}', "application/problem+json")
    with Answers(
        events((3, "sync"), (4, "approval.requested")),
        busy,
        b"",
        events((7, "approval.voted")),
        events((2, "sync"), (9, "approval.decided")),
        gone,
    ) as server:
        ran = cli("approvals", "watch", "-o", "json", "--url", server.url, CHECKREIN_API_KEY="crk_k")
    assert [json.loads(line)["seq"] for line in ran.out.splitlines()] == [4, 7, 9]
    lasts = [asked.lower().partition("last-event-id: ")[2].partition("\r\n")[0] for asked in server.asked]
    assert lasts == ["", "4", "4", "4", "7", "9"]
    assert "what came after 7 is not known here" in ran.err
    assert ran.err.count("trying again") == 1  # until it was heard again
    assert (ran.code, "no valid key" in ran.err) == (2, True)


def test_who_watches_one_goes_on_when_a_connection_breaks(
    place: Place, cli: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "_FIRST_S", 0.001)
    id = place.ask()
    pending = place.there(place.key("bob"), "show", id, "-o", "json").out.encode()
    place.there(place.key("bob"), "approve", id)
    approved = place.there(place.key("bob"), "show", id, "-o", "json").out.encode()
    with Answers(http("200 OK", pending), b"", http("200 OK", approved)) as server:
        ran = cli("approvals", "watch", id, "--url", server.url, CHECKREIN_API_KEY="crk_k")
    assert (ran.code, f"{id} is approved" in ran.err, "trying again" in ran.err) == (0, True, True)


def test_events_from_elsewhere_are_those_from_here(place: Place) -> None:
    id, seen = place.ask(), []
    start = place.system.store.head().size - 1
    place.system.approvals.vote(id, voter="bob", approve=False, auth="local")
    for seq, _, said in Client(place.url, place.key("carol")).events(start, form="stored"):
        seen.append(said)
        if said["kind"] == "approval.decided":
            break
        assert seq == said["seq"]
    records = place.system.waiting.since(start)
    assert seen == json.loads(json.dumps([event(record) for record in records]))

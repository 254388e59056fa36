"""Who is told what: by a real mail server and a real webhook, from the outbox of a real store."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing
from email.message import Message
from email.parser import BytesParser
from email.policy import default
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiosmtpd.smtp import SMTP, Envelope

from checkrein.compose import System, destinations, open_system
from checkrein.doctor import examine
from checkrein.flow.approval import State
from checkrein.ledger import Draft
from checkrein.model import Action, ApprovalRequired, Request, Resource, Subject
from checkrein.ports import RecordQuery, Unit
from checkrein.services.notices import Noticed
from checkrein.services.outbox import Deliveries, Outbox
from checkrein.web.server import BackgroundServer

PATIENCE_S = 30.0
PEOPLE = """
[people.alice]
roles = ["staff", "finance"]
email = "alice@example.com"

[people.dave]
roles = ["security"]
email = "dave@example.com"

[people.erin]
roles = ["finance"]

[people.oscar]
roles = ["oncall"]
email = "oscar@example.com"
"""


class MailServer:
    """A mail server for the tests, built on a real one: `answer` says what it thinks of a recipient or a message."""

    def __init__(self) -> None:
        self.messages: list[tuple[str, Message]] = []
        self.answer: Callable[[str], str] = lambda to: "250 OK"
        self.port = 0

    async def handle_RCPT(self, server: SMTP, session: Any, envelope: Envelope, address: str, options: Any) -> str:  # noqa: N802
        said = self.answer(address)
        if said.startswith("250"):
            envelope.rcpt_tos.append(address)
        return said

    async def handle_DATA(self, server: SMTP, session: Any, envelope: Envelope) -> str:  # noqa: N802
        (to,) = envelope.rcpt_tos
        self.messages.append((to, BytesParser(policy=default).parsebytes(envelope.content)))
        return "250 OK"

    @property
    def told(self) -> list[str]:
        return [to for to, _ in self.messages]

    def text(self, at: int = -1) -> str:
        return self.messages[at][1].get_content()


@pytest.fixture
async def mail() -> AsyncIterator[MailServer]:
    made = MailServer()
    server = await asyncio.get_running_loop().create_server(lambda: SMTP(made), "127.0.0.1", 0)
    made.port = server.sockets[0].getsockname()[1]
    yield made
    server.close()


class Room:
    """A chat's incoming webhook: a fake that keeps what was posted."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.status = 200

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        body = (await receive())["body"]
        if self.status == 200:
            self.texts.append(json.loads(body)["text"])
        await send({"type": "http.response.start", "status": self.status, "headers": []})
        await send({"type": "http.response.body", "body": b"ok"})


@pytest.fixture
def room() -> Room:
    return Room()


@pytest.fixture
def room_url(room: Room) -> Iterator[str]:
    with BackgroundServer(room) as server:
        yield f"{server.url}/services/T/B/secret"


@pytest.fixture
def system(folder: Path, mail: MailServer, room_url: str) -> Iterator[System]:
    config = folder / "checkrein.toml"
    text = config.read_text().replace("[people.bob]\n", '[people.bob]\nemail = "bob@example.com"\n')
    config.write_text(
        f"""{text}
{PEOPLE}
[notify.mail]
kind = "smtp"
host = "127.0.0.1"
port = {mail.port}
tls = "none"
sender = "checkrein@example.com"
alerts = ["dave", "ops@example.com"]

[notify.room]
kind = "slack"
url_env = "ROOM_URL"
roles = ["finance"]
alerts = ["#ops"]
"""
    )
    policies = folder / "policies/main.cedar"
    policies.write_text(policies.read_text().replace('@expires("1h")', '@expires("1h") @escalate("10m: oncall")'))
    flags = {"server.public_url": "https://cr.example", "approvals.break_glass": "oncall"}
    opened = open_system(folder, flags=flags, variables={"ROOM_URL": room_url})
    yield opened
    opened.close()


def asked(system: System, to: str = "all", who: str = "alice", body: str = "a telling body") -> str:
    action = Action("send_email", {"input": {"to": to, "subject": "s", "body": body}})
    request = Request(Subject("user", who), action, Resource("tool", "send_email"), {"agent": {"id": "bot"}})
    with pytest.raises(ApprovalRequired) as waiting, system.gateway.action_sync(request, caller="test"):
        pytest.fail("it ran")
    return waiting.value.approval_id


def vote(system: System, id: str, *, approve: bool = True, reason: str = "") -> None:
    system.approvals.vote(id, voter="bob", roles=("finance",), approve=approve, reason=reason, auth="local")


class Post:
    """Serves the ways to people by hand, one round after the other."""

    def __init__(self, system: System) -> None:
        self.system = system
        self.ways = system.notifying()
        self.outbox = Outbox(system.store, system.clock, self.ways, "test")
        for way in self.ways.values():
            self.outbox.deliveries.begun(way.name, from_start=False)

    async def out(self, *names: str) -> None:
        """Send everything that waits, until nothing does or it must be tried later."""
        for name in names or self.ways:
            async with asyncio.timeout(PATIENCE_S):
                while await self.outbox.round(self.ways[name]) == 0.0 and not self.of(name).due_us:
                    pass

    def of(self, name: str) -> Any:
        return self.outbox.deliveries.of(name)


@pytest.fixture
async def post(system: System) -> AsyncIterator[Post]:
    made = Post(system)
    yield made
    for way in made.ways.values():
        await way.close()


async def test_those_who_may_vote_are_told_with_a_link_and_nobody_else(
    system: System, mail: MailServer, room: Room, post: Post
):
    id = asked(system)
    await post.out()
    # alice asked, dave holds no role that is asked for, erin has no address, carol has none, oscar comes later
    assert mail.told == ["bob@example.com"]
    to, message = mail.messages[0]
    assert (message["To"], message["From"]) == (to, "checkrein@example.com")
    assert message["Subject"] == "[checkrein] alice asks: send_email"
    assert f"https://cr.example/approvals/{id}" in mail.text()
    assert "1 of finance" in mail.text()
    assert "mail needs a second look" in mail.text()
    assert "a telling body" not in mail.text() + room.texts[0]
    assert f"<https://cr.example/approvals/{id}|" in room.texts[0]


async def test_arguments_are_shown_where_the_configuration_says_so(system: System, mail: MailServer, post: Post):
    way = post.ways["notify:mail"]
    audience = msgspec.structs.replace(way.audience, arguments=True)
    post.ways["notify:mail"] = msgspec.structs.replace(way, audience=audience)
    asked(system)
    await post.out("notify:mail")
    assert "a telling body" in mail.text()


async def test_further_people_are_told_when_it_escalates_and_once(
    system: System, mail: MailServer, post: Post, monkeypatch: pytest.MonkeyPatch
):
    id = asked(system)
    await post.out("notify:mail")
    assert system.escalations.tick() == 0
    now_us = system.clock.now_us() + 11 * 60 * 1_000_000
    monkeypatch.setattr(system.clock, "now_us", lambda: now_us)
    assert [system.escalations.tick() for _ in range(3)] == [1, 0, 0]
    await post.out("notify:mail")
    assert sorted(mail.told) == ["bob@example.com", "bob@example.com", "oscar@example.com"]
    assert "still waits" in mail.messages[-1][1]["Subject"]
    (record,) = system.store.records(RecordQuery(kinds=("approval.escalated",)))
    assert record.body["approval"]["id"] == id


async def test_who_asked_learns_the_end(system: System, mail: MailServer, room: Room, post: Post):
    vote(system, asked(system, "one"))
    vote(system, asked(system, "two"), approve=False, reason="wrong\nrecipients")
    await post.out()
    assert mail.told == ["alice@example.com"] * 2  # nobody is asked about what has ended before they were told
    assert "was approved: send the same request again" in mail.text(0)
    assert "was denied" in mail.text(1)
    assert "Reason given: wrong recipients" in mail.text(1)
    assert len(room.texts) == 2


async def test_whom_a_broken_glass_concerns_and_who_is_on_alert_hear_of_it(folder: Path, system: System, room: Room):
    # the owner of the policy is a role, `comms`; who asked is on the principal chain
    system.close()
    config = folder / "checkrein.toml"
    text = 'approvals.break_glass = "security"\n' + config.read_text().replace('["staff"', '["comms", "staff"', 1)
    text = text.replace('[people.oscar]\nroles = ["oncall"]', '[people.oscar]\nroles = ["oncall", "comms"]')
    config.write_text(text)
    with closing(open_system(folder, variables={"ROOM_URL": system.loaded.variables["ROOM_URL"]})) as opened:
        post, id = Post(opened), asked(opened)
        opened.emergencies.break_glass(id, by="dave", reason="plant 3", auth="local")
        (record,) = opened.store.records(RecordQuery(kinds=("approval.break_glass",)))
        told = {
            name: [notice.to for notice in way.notices.of(record, way.audience)]
            for name, way in post.ways.items()
            if isinstance(way, Noticed)
        }
        assert told == {
            "notify:mail": ["alice@example.com", "oscar@example.com", "dave@example.com", "ops@example.com"],
            "notify:room": [""],
        }
        for way in post.ways.values():
            await way.close()


async def test_who_asked_is_not_told_of_an_end_where_an_edit_took_its_place(
    system: System, mail: MailServer, post: Post
):
    id = asked(system, "one")
    arguments = {"to": "two", "subject": "s", "body": "b"}
    after = system.edits.edit(id, arguments, editor="carol", auth="local")
    vote(system, after.id)
    await post.out("notify:mail")
    assert mail.told == ["alice@example.com"]
    assert "was approved" in mail.text()


async def test_who_expires_hears_of_it(system: System, mail: MailServer, post: Post, monkeypatch: pytest.MonkeyPatch):
    asked(system)
    now_us = system.clock.now_us() + 2 * 3600 * 1_000_000
    monkeypatch.setattr(system.clock, "now_us", lambda: now_us)
    system.approvals.sweep()
    await post.out("notify:mail")
    assert mail.told == ["alice@example.com"]
    assert "has expired" in mail.text()


async def test_somebody_whom_the_deployment_does_not_know_gets_no_mail(system: System, mail: MailServer, post: Post):
    vote(system, asked(system, who="mallory@evil.example"))
    await post.out("notify:mail")
    assert mail.told == []


async def test_alerts_go_to_who_is_on_alert(system: System, mail: MailServer, room: Room, post: Post):
    detail = {"rollout": "rol_1", "why": "too many errors"}
    draft = Draft("rollout.rollback", "0" * 32, {"actor": {"type": "operator", "id": "system"}, "detail": detail})
    system.store.commit(Unit(drafts=(draft,))).result()
    await post.out()
    assert mail.told == ["dave@example.com", "ops@example.com"]
    assert "too many errors" in mail.text()
    assert len(room.texts) == 1


async def test_whom_it_concerns_hears_of_a_broken_glass(system: System, mail: MailServer, room: Room, post: Post):
    id = asked(system)
    system.emergencies.break_glass(id, by="oscar", roles=("oncall",), reason="the house is on fire", auth="local")
    await post.out()
    about = [(to, message["Subject"]) for to, message in mail.messages]
    broken = "[checkrein] oscar broke the glass: send_email"
    assert [to for to, subject in about if subject == broken] == [
        "alice@example.com",
        "dave@example.com",
        "ops@example.com",
    ]
    assert any("broke the glass" in text for text in room.texts)


async def test_names_cannot_write_headers_or_call_the_whole_channel(
    system: System, mail: MailServer, room: Room, post: Post
):
    asked(system, who="x\r\nBcc: eve@evil.example\n<!channel> & co https://evil.example/approvals/ or www.evil.example")
    await post.out()
    bob = mail.messages[mail.told.index("bob@example.com")][1]
    assert bob["Bcc"] is None
    assert set(mail.told) == {"bob@example.com", "alice@example.com"}
    assert "<!channel>" not in room.texts[0]
    assert "https[:]//evil.example/approvals/ or www[.]evil.example" in room.texts[0]
    assert all("://evil" not in text and "www.evil" not in text for text in (room.texts[0], str(mail.messages[0])))
    assert "&lt;!channel&gt; &amp; co" in room.texts[0]


async def test_who_was_reached_is_not_told_again_because_another_was_not(
    system: System, mail: MailServer, post: Post, monkeypatch: pytest.MonkeyPatch
):
    asked(system, who="frank")
    mail.answer = lambda to: "450 try later" if to.startswith("bob") else "250 OK"
    await post.out("notify:mail")
    assert mail.told == ["alice@example.com"]
    assert (post.of("notify:mail").why, post.of("notify:mail").attempts) == ("answered 450", 1)
    mail.answer = lambda to: "250 OK"
    now_us = system.clock.now_us() + 60 * 1_000_000
    monkeypatch.setattr(system.clock, "now_us", lambda: now_us)
    await post.out("notify:mail")
    assert mail.told == ["alice@example.com", "bob@example.com"]
    assert post.of("notify:mail").failing_since_us == 0


async def test_a_message_that_is_sent_twice_has_one_id(system: System, mail: MailServer, folder: Path, post: Post):
    asked(system)
    await post.out("notify:mail")
    way = post.ways["notify:mail"]
    (record,) = system.store.records(RecordQuery(kinds=("approval.requested",)))
    again = system.notifying()["notify:mail"]  # as another process would
    await again.deliver(record.id, (record,), "test", 0)
    assert [message["Message-ID"] for _, message in mail.messages] == [mail.messages[0][1]["Message-ID"]] * 2
    await way.deliver(record.id, (record,), "test", 0)
    assert len(mail.messages) == 2


async def test_what_is_refused_for_good_is_put_aside_and_shown_by_doctor(
    system: System, folder: Path, mail: MailServer, post: Post, room_url: str, monkeypatch: pytest.MonkeyPatch
):
    mail.answer = lambda to: "550 no such user"
    asked(system)
    vote(system, asked(system, "two"))
    await post.out("notify:mail")
    assert [one.status for one in post.of("notify:mail").refused] == [422, 422]
    monkeypatch.setenv("ROOM_URL", room_url)
    found = [finding for finding in examine(folder, None)[0] if finding.what == "notify mail"]
    assert [finding.verdict for finding in found] == ["warn"]
    assert "refused 2 records" in found[0].found
    assert "checkrein webhooks retry notify:mail" in found[0].hint


async def test_what_was_put_aside_is_tried_again_when_somebody_says_so(
    system: System, mail: MailServer, post: Post, folder: Path
):
    mail.answer = lambda to: "550 no such user"
    asked(system)
    await post.out("notify:mail")
    mail.answer = lambda to: "250 OK"
    assert post.outbox.deliveries.retry("notify:mail") == 1
    await post.out("notify:mail")
    assert mail.told == ["bob@example.com"]
    assert not post.of("notify:mail").refused


async def test_a_server_that_is_down_is_tried_later_and_nothing_is_lost(
    system: System, mail: MailServer, room: Room, post: Post, monkeypatch: pytest.MonkeyPatch
):
    room.status = 503
    id = asked(system)
    await post.out("notify:room")
    assert (room.texts, post.of("notify:room").why) == ([], "answered 503")
    room.status = 200
    now_us = system.clock.now_us() + 60 * 1_000_000
    monkeypatch.setattr(system.clock, "now_us", lambda: now_us)
    await post.out("notify:room")
    assert len(room.texts) == 1
    assert id in room.texts[0]
    assert system.approvals.get(id).state is State.PENDING


def test_webhooks_and_people_are_told_by_one_outbox(system: System):
    assert not destinations(system.loaded)
    with system.telling() as outbox:
        assert isinstance(outbox.deliveries, Deliveries)

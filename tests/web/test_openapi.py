"""`/openapi.json` is what the server does: no route is missing or made up, and whatever is sent is answered as it says.

Schemathesis generates the requests, fitting ones and others, and compares the answers of a real server.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterator
from typing import Any

import aiohttp
import pytest
import requests
from hypothesis import HealthCheck, given, settings

from checkrein import __version__
from checkrein.compose import System
from checkrein.model import Permission
from checkrein.web import approvals
from checkrein.web.openapi import document
from fakes import FakeModel

DOCUMENT = document()
OPERATIONS = [(path, method) for path, methods in DOCUMENT["paths"].items() for method in methods]


ANSWERS = {
    "/v1/chat/completions": FakeModel().answer,
    "/v1/responses": b'{"id":"resp_1","object":"response","status":"completed","output":[{"type":"message",'
    b'"role":"assistant","content":[{"type":"output_text","text":"hello","annotations":[]}]}]}',
    "/v1/embeddings": b'{"object":"list","data":[{"object":"embedding","index":0,"embedding":[0.5]}]}',
}


class ManyTongues(FakeModel):
    """A model provider that answers in the protocol it is asked in."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.answer = ANSWERS.get(scope.get("path", ""), b"{}")
        await super().__call__(scope, receive, send)


@pytest.fixture
def model() -> FakeModel:
    return ManyTongues()


class Asked:
    """Sends what Schemathesis generates to a server, and compares what comes back with the document."""

    def __init__(self, url: str, session: requests.Session) -> None:
        import schemathesis  # takes a second, which runs of other tests here need not

        self._url, self.session = url, session
        self.schema = schemathesis.openapi.from_dict(DOCUMENT)

    def all(self, path: str, method: str, *, examples: int) -> None:
        """Requests as the document has them, and such that it does not allow."""
        from schemathesis import GenerationMode

        operation = self.schema[path][method]
        cases = operation.as_strategy(generation_mode=GenerationMode.POSITIVE)
        if operation.body or any(operation.iter_parameters()):
            cases |= operation.as_strategy(generation_mode=GenerationMode.NEGATIVE)

        @settings(max_examples=examples, suppress_health_check=[*HealthCheck], database=None)
        @given(cases)
        def every(case: Any) -> None:
            self.check(case)

        every()

    def one(self, path: str, method: str, **members: Any) -> Any:
        """The JSON answer to one request, which is well."""
        response = self.check(self.schema[path][method].Case(**members))
        assert response.status_code < 300, response.text
        return response.json()

    def check(self, case: Any) -> requests.Response:
        from schemathesis.checks import not_a_server_error
        from schemathesis.specs.openapi import checks

        response = case.call(base_url=self._url, session=self.session)
        names = ("status_code", "content_type", "response_headers", "response_schema")
        case.validate_response(
            response, checks=[not_a_server_error, *(getattr(checks, f"{name}_conformance") for name in names)]
        )
        return response


@pytest.fixture
def asked(server: str, key: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Asked]:
    """A server whose streams end at once, and a client with a key for everything."""
    monkeypatch.setattr(approvals, "MAX_STREAM_S", 0.0)
    with requests.Session() as session:
        session.headers["authorization"] = f"Bearer {key}"
        yield Asked(server, session)


def test_no_route_is_missing_and_none_is_made_up(system: System):
    served = {
        (re.sub(r":\w+}", "}", path), method.lower())
        for path, methods in system.app().routes.items()
        for method in methods
        if method != "HEAD"
    }
    assert set(OPERATIONS) == served


async def test_whoever_has_a_key_may_read_the_document(server: str, key: str):
    async with aiohttp.ClientSession(server) as http:
        async with http.get("/openapi.json") as reply:
            assert reply.status == 401
        async with http.get("/openapi.json", headers={"authorization": f"Bearer {key}"}) as reply:
            assert (reply.status, reply.content_type) == (200, "application/json")
            assert await reply.json() == DOCUMENT
    assert DOCUMENT["info"]["version"] == __version__


def test_whatever_is_sent_is_answered_as_the_document_says(asked: Asked):
    asked.schema.validate()
    for path, method in OPERATIONS:
        if path != "/api/v1/kill":  # which may kill everything, and nobody would be answered any more
            asked.all(path, method, examples=2)


@pytest.mark.deep
@pytest.mark.parametrize(("path", "method"), OPERATIONS)
def test_whatever_is_sent_to_one_route_is_answered_as_the_document_says(asked: Asked, path: str, method: str):
    asked.all(path, method, examples=300)


MAIL = {
    "subject": {"type": "user", "id": "alice"},
    "action": {"name": "send_email", "properties": {"input": {"to": "bob@example.com", "subject": "hi", "body": "hi"}}},
    "resource": {"type": "tool", "id": "send_email"},
}


def test_what_happens_is_told_as_the_document_says(asked: Asked):
    """Answers that no generated request gets, since it knows no id of anything."""
    context = asked.one("/access/v1/evaluation", "POST", body=MAIL)["context"]
    task = context["access_request"]
    denial = {"evaluation_id": context["evaluation_id"], "expires_at": task["expires_at"]}
    asked.one("/access/v1/requests", "POST", body={**MAIL, "denial": denial})
    here = {"path_parameters": {"id": task["id"]}}
    asked.one("/access/v1/requests/{id}", "GET", **here)
    assert len(asked.one("/api/v1/approvals", "GET")["approvals"]) == 1
    approval = asked.one("/api/v1/approvals/{id}", "GET", **here)
    assert asked.one("/api/v1/approvals/{id}", "GET", query={"form": "stored"}, **here)["details"]
    ballot = {"decision": "approve", "shown": approval["shown"]}
    refused = asked.check(asked.schema["/api/v1/approvals/{id}/vote"]["POST"].Case(body=ballot, **here))
    assert refused.status_code == 403  # an agent holds this key
    asked.one("/api/v1/openclaw/approval", "GET", query={"id": task["id"]})
    batch = asked.one("/access/v1/evaluations", "POST", body={**MAIL, "evaluations": [{}, {"action": {}}]})
    assert len(batch["evaluations"]) == 2
    chat = {"model": "gpt-x", "messages": [{"role": "user", "content": "hello"}]}
    asked.one("/v1/chat/completions", "POST", body=chat)
    asked.one("/v1/embeddings", "POST", body={"model": "gpt-x", "input": "hello"})
    asked.one("/v1/responses", "POST", body={"model": "gpt-x", "input": "hello"})
    assert asked.one("/api/v1/audit/records", "GET")["records"]
    assert asked.one("/api/v1/activities", "GET")["activities"]
    killed = {"what": "agent", "name": "other-bot", "reason": "a test"}
    asked.one("/api/v1/kill", "POST", body=killed)
    assert asked.one("/api/v1/killed", "GET")["killed"]
    asked.one("/api/v1/revive", "POST", body=killed)
    asked.one("/api/v1/limits", "GET")


def test_what_people_say_is_answered_as_the_document_says(asked: Asked, system: System):
    _, secret = system.keys.create("bob", permissions=(Permission.APPROVE,), by="tests")
    id = asked.one("/access/v1/evaluation", "POST", body=MAIL)["context"]["access_request"]["id"]
    asked.session.headers["authorization"] = f"Bearer {secret}"
    shown = asked.one("/api/v1/approvals/{id}", "GET", path_parameters={"id": id})["shown"]
    edit = {"arguments": {"to": "carol", "subject": "hi", "body": "hi"}, "shown": shown}
    edited = asked.one("/api/v1/approvals/{id}/edit", "POST", path_parameters={"id": id}, body=edit)
    until = (datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=3)).date().isoformat()
    asked.one("/api/v1/delegations/give", "POST", body={"delegate": "carol", "until": until})
    assert asked.one("/api/v1/delegations", "GET")["delegations"]
    asked.one("/api/v1/delegations/end", "POST", body={})
    ballot = {"decision": "deny", "shown": edited["shown"]}
    asked.one("/api/v1/approvals/{id}/vote", "POST", path_parameters={"id": edited["id"]}, body=ballot)
    assert not asked.one("/api/v1/grants", "GET")["grants"]

"""AuthZEN Authorization API 1.0, as its text has it, against a real server; the scenario has a module of its own.

The fixture is like the scenario's, alice and bob, record-1 and record-2, with actions under names of ours.
"""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any

import aiohttp
import pytest

from checkrein.compose import System, open_system
from checkrein.flow.approval import State
from checkrein.model import Decision, Permission, Request, StoreUnavailable
from checkrein.ports import RecordQuery, Unit
from checkrein.web.authzen import MAX_EVALUATIONS
from checkrein.web.server import BackgroundServer

ONE, MANY = "/access/v1/evaluation", "/access/v1/evaluations"

TOOLS = """
tools:
  read_record: {effects: [read]}
  write_record: {effects: [write]}
  delete_record: {effects: [irreversible]}
  send:
    effects: [external]
    input: {to: string, body: string?}
  note:
    effects: [external]
    input: {text: string, about: string?}
    personal: {about: person_name}
"""
POLICIES = """
@id("all-read") @owner("r") @reason("everybody reads")
permit (principal, action == Action::"read_record", resource);

@id("alice-writes") @owner("r") @reason("alice writes")
permit (principal == User::"alice", action == Action::"write_record", resource);

@id("archived") @owner("r") @reason("the archive is closed")
forbid (principal, action == Action::"write_record", resource)
when { resource.hasTag("status") && resource.getTag("status") == "archived" }
unless { principal.hasTag("role") && principal.getTag("role") == "admin" };

@id("admins-write") @owner("r") @reason("admins write into the archive")
permit (principal, action == Action::"write_record", resource)
when { principal.hasTag("role") && principal.getTag("role") == "admin" &&
       resource.hasTag("status") && resource.getTag("status") == "archived" };

@id("send") @owner("r") @reason("messages may be sent")
permit (principal, action in [Action::"send", Action::"note"], resource);

@id("finance-only") @owner("r") @reason("notes are for finance")
forbid (principal, action == Action::"note", resource) unless { principal in Role::"finance" };

@id("look-first") @owner("r") @reason("messages are read first")
@outcome("require_review") @approvers("1 of finance") @expires("1h") @alternative("write a draft")
forbid (principal, action == Action::"send", resource);

@id("no-addresses") @owner("r") @reason("no addresses in notes") @outcome("redact") @redact("pii.email")
forbid (principal, action in [Action::"note", Action::"send"], resource)
when { context.labels.contains("pii.email") };

@id("no-names") @owner("r") @reason("no names in notes") @outcome("redact") @redact("pii.person_name")
forbid (principal, action == Action::"note", resource) when { context.labels.contains("pii.person_name") };
"""


def soft_delete(request: Request, context: Mapping[str, object]) -> Decision | None:
    """Cedar policies see the arguments in `properties.input`; other properties of an action a Python policy sees."""
    if request.action.name != "delete_record":
        return None
    return Decision.allow("gone softly") if request.action.properties.get("soft") is True else Decision.deny("hard")


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    folder = tmp_path_factory.mktemp("governance")
    (folder / "policies").mkdir()
    (folder / "policies/records.cedar").write_text(POLICIES)
    (folder / "checkrein.toml").write_text('environment = "test"')
    (folder / "tools.yaml").write_text(TOOLS)
    opened = open_system(folder)
    opened.pdp.register(soft_delete)
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def url(system: System) -> Iterator[str]:
    with BackgroundServer(system.app()) as server:
        yield server.url


@pytest.fixture(scope="module")
def pep(system: System) -> str:
    """A key that may ask for decisions about anybody."""
    return system.keys.create("pep", permissions=(Permission.DECIDE,), by="tests")[1]


@pytest.fixture
async def http(url: str, pep: str) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(url, headers={"authorization": f"Bearer {pep}"}) as session:
        yield session


def question(who: str = "alice", does: str = "read_record", **members: Any) -> dict[str, Any]:
    return {
        "subject": {"type": "user", "id": who},
        "action": {"name": does},
        "resource": {"type": "record", "id": "record-1"},
    } | members


def send(who: str, **members: Any) -> dict[str, Any]:
    return question(who, **({"action": {"name": "send", "properties": {"input": {"to": "all"}}}} | members))


def note(text: str, **context: object) -> dict[str, Any]:
    asked = question(does="note", context=context)
    asked["subject"]["properties"] = {"roles": ["finance"]}
    asked["action"]["properties"] = {"input": {"text": text}}
    return asked


async def ask(http: aiohttp.ClientSession, body: object, path: str = ONE) -> Any:
    async with http.post(path, json=body) as reply:
        assert (reply.status, reply.content_type) == (200, "application/json"), await reply.text()
        return await reply.json()


async def refused(http: aiohttp.ClientSession, body: Any, path: str = ONE, **options: Any) -> tuple[int, str]:
    """Status and message; the message is a plain string, as the specification has it."""
    given = {"data": body} if isinstance(body, bytes | io.BytesIO) else {"json": body}
    async with http.post(path, **(given | options)) as reply:
        assert reply.content_type == "text/plain"
        text = await reply.text()
    assert text
    assert "Traceback" not in text
    return reply.status, text


# --- Access Evaluation ----------------------------------------------------------------------------------------

ADMIN = {"subject": {"type": "user", "id": "bob", "properties": {"role": "admin"}}}
ARCHIVED = {"resource": {"type": "record", "id": "record-2", "properties": {"status": "archived"}}}


@pytest.mark.parametrize(
    ("asked", "decision"),
    [
        (question("alice", "read_record"), True),
        (question("alice", "write_record"), True),
        (question("bob", "read_record"), True),
        (question("bob", "write_record"), False),
        (question("alice", "write_record", **ARCHIVED), False),
        (question("bob", "write_record", **ARCHIVED, **ADMIN), True),
        (question("alice", action={"name": "delete_record", "properties": {"soft": True}}), True),
        (question("alice", action={"name": "delete_record", "properties": {"soft": False}}), False),
    ],
    ids=[f"rule {number}" for number in range(1, 9)],
)
async def test_the_eight_decisions_of_the_certification_scenario(
    http: aiohttp.ClientSession, asked: Any, decision: bool
):
    for context in ({}, {"time": "2025-06-27T18:03-07:00", "ip": "192.168.1.1"}):
        answer = await ask(http, asked | {"context": context})
        assert answer["decision"] is decision
        assert isinstance(answer["context"], dict)


async def test_a_deny_is_http_200_and_says_why(http: aiohttp.ClientSession):
    async with http.post(ONE, json=question("alice", "write_record", **ARCHIVED)) as reply:
        answer = await reply.json()
    assert (reply.status, reply.content_type, answer["decision"]) == (200, "application/json", False)
    context = answer["context"]
    assert (context["outcome"], context["reasons"], context["policies"]) == (
        "deny",
        ["the archive is closed"],
        ["archived"],
    )
    assert reply.headers["x-checkrein-trace-id"] == context["trace_id"]


async def test_unknown_members_are_ignored_everywhere(http: aiohttp.ClientSession):
    asked = question(foo="bar", futureField={"nested": True}, options={"unknown": 1})
    for name in ("subject", "action", "resource"):
        asked[name] |= {"future": [1], "properties": {"department": "Sales", "method": "GET", "n": 1}}
    assert (await ask(http, asked))["decision"] is True


async def test_the_same_question_gets_the_same_answer(http: aiohttp.ClientSession):
    answers = [await ask(http, question()) for _ in range(3)]
    assert [answer["decision"] for answer in answers] == [True] * 3
    assert len({answer["context"]["evaluation_id"] for answer in answers}) == 3


def without(member: str) -> dict[str, Any]:
    asked = question()
    parent, _, name = member.rpartition(".")
    (asked[parent] if parent else asked).pop(name)
    return asked


@pytest.mark.parametrize(
    "member",
    ["subject", "action", "resource", "subject.type", "subject.id", "action.name", "resource.type", "resource.id"],
)
@pytest.mark.parametrize("path", [ONE, MANY])
async def test_a_missing_member_is_a_400_with_a_message(http: aiohttp.ClientSession, path: str, member: str):
    status, message = await refused(http, without(member), path)
    assert status == 400
    assert member.rpartition(".")[2] in message


@pytest.mark.parametrize(
    "asked",
    [
        question(subject="alice"),
        question(subject=None),
        question(subject={"type": "user", "id": 5}),
        question(action={"name": 123}),
        question(action={"name": "read_record", "properties": []}),
        question(action={"name": "read_record", "properties": {"input": "text"}}),
        question(resource=["record-1"]),
        question(context="now"),
        question(subject={"type": "user", "id": ""}),
        question(subject={"type": "user", "id": "x" * 513}),
        [question()],
        "read_record",
        None,
        b"",
        b"{",
        b'{"subject":{"type":"user","id":"bob","id":"alice"}}',
        b"\xff",
        b'{"subject": NaN}',
    ],
    ids=lambda asked: repr(asked)[:40],
)
async def test_what_is_no_request_is_a_400_with_a_message(http: aiohttp.ClientSession, system: System, asked: Any):
    before = system.store.head().size
    for path in (ONE, MANY):
        status, _ = await refused(http, asked, path, headers={"content-type": "application/json"})
        assert status == 400
    assert system.store.head().size == before


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "application/jsonp", ""])
async def test_what_is_not_declared_as_json_is_a_400(http: aiohttp.ClientSession, kind: str):
    data = json.dumps(question()).encode()
    for path in (ONE, MANY):
        status, message = await refused(http, data, path, headers={"content-type": kind})
        assert (status, "application/json" in message) == (400, True)


async def test_a_charset_beside_the_content_type_is_no_harm(http: aiohttp.ClientSession):
    data = json.dumps(question()).encode()
    async with http.post(ONE, data=data, headers={"content-type": "Application/JSON; charset=utf-8"}) as reply:
        assert (await reply.json())["decision"] is True


async def test_a_body_over_the_limit_is_a_413(http: aiohttp.ClientSession):
    status, message = await refused(
        http, io.BytesIO(b" " * (10 * 1024 * 1024)), headers={"content-type": "application/json"}
    )
    assert (status, "max_body_bytes" in message) == (413, True)


async def test_without_a_key_it_is_a_401_and_without_the_permission_a_403(
    system: System, url: str, http: aiohttp.ClientSession
):
    _, auditor = system.keys.create("auditor", permissions=(Permission.AUDIT,), by="tests")
    async with aiohttp.ClientSession(url) as stranger:
        for path in (ONE, MANY):
            assert (await refused(stranger, question(), path))[0] == 401
            headers = {"authorization": f"Bearer {auditor}"}
            assert (await refused(stranger, question(), path, headers=headers))[0] == 403


@pytest.mark.parametrize("id", ["bfe9eb29-ab87-4ca3-be83-a1d5d8305716", "an arbitrary string", "x" * 200])
async def test_the_request_id_is_given_back_whatever_the_answer(http: aiohttp.ClientSession, url: str, id: str):
    for path in (ONE, MANY):
        for wrong in ({"authorization": "Bearer crk_wrong"}, {"host": "other.example"}):
            async with http.post(url + path, headers={"x-request-id": id} | wrong, json=question()) as reply:
                assert (reply.status in (401, 403), reply.headers["x-request-id"]) == (True, id)
        for body in (question(), question("bob", "write_record"), {}, {"evaluations": [{}]}):
            async with http.post(path, json=body, headers={"x-request-id": id}) as reply:
                assert reply.headers.getall("x-request-id") == [id]
    async with http.post(ONE, json=question()) as reply:
        assert "x-request-id" not in reply.headers


# --- a decision is durable before it is given -----------------------------------------------------------------


async def test_a_decision_is_in_the_ledger_when_it_is_given(system: System, http: aiohttp.ClientSession):
    for asked in (question(), question("bob", "write_record"), send("dora")):
        context = (await ask(http, asked))["context"]
        decided = list(system.store.records(RecordQuery(trace_id=context["trace_id"], kinds=("decision",))))
        assert [record.body["decision"]["evaluation_id"] for record in decided] == [context["evaluation_id"]]
        assert decided[0].body["decision"]["outcome"] == context["outcome"]


async def test_without_a_record_there_is_no_decision(
    system: System, http: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
):
    def refuse(unit: Unit) -> None:
        raise StoreUnavailable("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(system.store, "commit", refuse)
        async with http.post(ONE, json=question()) as reply:
            assert (reply.status, reply.headers["retry-after"]) == (503, "1")
            assert reply.content_type == "text/plain"
        answer = await ask(http, {"evaluations": [question(), question()]}, MANY)
        assert [item["decision"] for item in answer["evaluations"]] == [False, False]
        assert answer["evaluations"][0]["context"]["error"]["status"] == 503
    assert (await ask(http, question()))["decision"] is True


# --- Access Evaluations ---------------------------------------------------------------------------------------


async def decisions(http: aiohttp.ClientSession, body: object) -> list[bool]:
    answer = await ask(http, body, MANY)
    assert set(answer) == {"evaluations"}
    return [item["decision"] for item in answer["evaluations"]]


async def test_a_batch_is_answered_in_its_order(http: aiohttp.ClientSession):
    items = [question("alice"), question("bob", "write_record"), question("bob")]
    assert await decisions(http, {"evaluations": items}) == [True, False, True]


async def test_top_level_members_are_defaults_that_an_item_replaces_whole(http: aiohttp.ClientSession):
    active = {"type": "record", "id": "record-1", "properties": {"status": "active"}}
    assert await decisions(http, question("alice", "write_record", resource=active, evaluations=[{}, ARCHIVED])) == [
        True,
        False,
    ]
    assert await decisions(
        http,
        {"action": {"name": "write_record"}, **ARCHIVED, "evaluations": [{"subject": question()["subject"]}, ADMIN]},
    ) == [False, True]
    # nothing of a default remains where an item says something of its own
    half = question(evaluations=[{"subject": {"id": "alice"}}, {"action": {}}, {"resource": {"type": "record"}}])
    answer = await ask(http, half, MANY)
    assert [item["context"]["error"]["status"] for item in answer["evaluations"]] == [400] * 3


@pytest.mark.parametrize("member", ["subject", "action", "resource", "context"])
async def test_a_default_that_is_no_object_is_a_400_of_the_whole_batch(http: aiohttp.ClientSession, member: str):
    status, message = await refused(http, question(evaluations=[question()]) | {member: True}, MANY)
    assert (status, f"`{member}` is not an object" in message) == (400, True)


async def test_context_is_inherited_and_replaced(system: System, http: aiohttp.ClientSession):
    batch = question(context={"session": "s-1", "scope": "a"}, evaluations=[{}, {"context": {"session": "s-2"}}])
    seen: list[dict[str, object]] = []
    system.pdp.register(lambda request, context: seen.append(request.context), "witness-of-context")
    await decisions(http, batch)
    assert seen == [{"session": "s-1", "scope": "a"}, {"session": "s-2"}]


@pytest.mark.parametrize("evaluations", [{}, {"evaluations": []}])
async def test_a_batch_without_items_is_a_single_evaluation(http: aiohttp.ClientSession, evaluations: Any):
    answer = await ask(http, question("bob", "write_record") | evaluations, MANY)
    assert (answer["decision"], answer["context"]["outcome"]) == (False, "deny")


ALLOWED, DENIED, BROKEN = {"action": {"name": "read_record"}}, {"action": {"name": "write_record"}}, {"action": {}}


@pytest.mark.parametrize(
    ("semantic", "items", "expected"),
    [
        ("execute_all", [ALLOWED, DENIED, ALLOWED], [True, False, True]),
        (None, [DENIED, ALLOWED, BROKEN], [False, True, False]),
        ("deny_on_first_deny", [ALLOWED, DENIED, ALLOWED], [True, False]),
        ("deny_on_first_deny", [BROKEN, ALLOWED], [False]),
        ("deny_on_first_deny", [ALLOWED, ALLOWED], [True, True]),
        ("permit_on_first_permit", [DENIED, BROKEN, ALLOWED, ALLOWED], [False, False, True]),
        ("permit_on_first_permit", [DENIED, DENIED], [False, False]),
    ],
)
async def test_the_three_semantics(
    system: System, http: aiohttp.ClientSession, semantic: str | None, items: list[Any], expected: list[bool]
):
    options = {"another_option": "value"} | ({"evaluations_semantic": semantic} if semantic else {})
    before = system.store.head().size
    assert await decisions(http, question("bob", evaluations=items, options=options)) == expected
    assert system.store.head().size == before + len(expected) - items[: len(expected)].count(BROKEN)


@pytest.mark.parametrize("options", [{"evaluations_semantic": "first"}, {"evaluations_semantic": []}, [], "all", None])
async def test_unknown_semantics_are_a_400_and_decide_nothing(
    system: System, http: aiohttp.ClientSession, options: object
):
    before = system.store.head().size
    assert (await refused(http, question(evaluations=[ALLOWED], options=options), MANY))[0] == 400
    assert system.store.head().size == before


async def test_an_item_that_errs_is_denied_with_its_error_and_the_others_are_answered(http: aiohttp.ClientSession):
    items = [ALLOWED, "read_record", None, {"subject": None}, {"context": []}, ALLOWED]
    answer = await ask(http, question(evaluations=items), MANY)
    assert [item["decision"] for item in answer["evaluations"]] == [True, False, False, False, False, True]
    for item in answer["evaluations"][1:-1]:
        assert item["context"]["error"]["status"] == 400
        assert item["context"]["error"]["message"]


@pytest.mark.parametrize("evaluations", [{}, "all", 5, None, [{}] * (MAX_EVALUATIONS + 1)])
async def test_what_is_no_list_of_items_is_a_400(http: aiohttp.ClientSession, evaluations: Any):
    assert (await refused(http, question(evaluations=evaluations), MANY))[0] == 400


async def test_the_largest_batch_is_answered(http: aiohttp.ClientSession):
    assert await decisions(http, question(evaluations=[{}] * MAX_EVALUATIONS)) == [True] * MAX_EVALUATIONS


# --- metadata and traces --------------------------------------------------------------------------------------


async def test_the_metadata_names_the_endpoints_and_each_of_them_answers(http: aiohttp.ClientSession, url: str):
    async with http.get("/.well-known/authzen-configuration") as reply:
        assert (reply.status, reply.content_type) == (200, "application/json")
        found = await reply.json()
    assert found["policy_decision_point"] == url
    assert found["capabilities"] == ["urn:openid:authzen:capability:access-request"]
    endpoints = {name: value for name, value in found.items() if name.endswith("_endpoint")}
    requests = endpoints.pop("access_request_endpoint")
    assert requests == f"{url}/access/v1/requests"
    async with http.post(requests.removeprefix(url), json=question()) as reply:
        assert (reply.status, reply.content_type) == (400, "application/problem+json")
    searches = {name: endpoints.pop(name) for name in sorted(endpoints) if name.startswith("search_")}
    assert endpoints == {"access_evaluation_endpoint": url + ONE, "access_evaluations_endpoint": url + MANY}
    for endpoint in searches.values():
        async with http.post(endpoint.removeprefix(url), json=question()) as reply:
            assert (reply.status, reply.content_type) == (200, "application/json")
    assert len(searches) == 3
    for endpoint in endpoints.values():
        assert (await ask(http, question(), endpoint.removeprefix(url)))["decision"] is True


async def test_a_decision_joins_the_callers_trace(system: System, http: aiohttp.ClientSession):
    trace_id = "4bf92f3577b34da6a3ce929d0e0e4736"
    headers = {"traceparent": f"00-{trace_id}-00f067aa0ba902b7-01"}
    async with http.post(ONE, json=question(), headers=headers) as reply:
        assert (await reply.json())["context"]["trace_id"] == reply.headers["x-checkrein-trace-id"] == trace_id
    async with http.post(MANY, json=question(evaluations=[{}, {}]), headers=headers) as reply:
        found = (await reply.json())["evaluations"]
    assert [item["context"]["trace_id"] for item in found] == [trace_id] * 2
    assert len({item["context"]["evaluation_id"] for item in found}) == 2
    assert len(list(system.store.records(RecordQuery(trace_id=trace_id)))) == 3


@pytest.mark.parametrize(
    "odd", ["", "x", "00-" + "0" * 32 + "-00f067aa0ba902b7-01", "00-" + "a" * 32 + "-" + "0" * 16 + "-01"]
)
async def test_an_odd_traceparent_is_no_trace(http: aiohttp.ClientSession, odd: str):
    async with http.post(ONE, json=question(), headers={"traceparent": odd}) as reply:
        trace_id = (await reply.json())["context"]["trace_id"]
    assert len(trace_id) == 32
    assert trace_id.strip("0")
    assert trace_id not in odd


# --- obligations: only for those who can carry them out -------------------------------------------------------


async def test_a_caller_that_knows_obligations_gets_them_with_its_yes(http: aiohttp.ClientSession):
    answer = await ask(http, note("write to jane.doe@example.com", supported_obligations=["custom", "step-up"]))
    assert (answer["decision"], answer["context"]["outcome"]) == (True, "allow_with_redaction")
    (duty,) = answer["context"]["obligations"]
    assert duty == {
        "id": "redact:no-addresses",
        "type": "custom",
        "properties": {"vendor": "checkrein", "action": "redact", "classes": ["pii.email"]},
    }


@pytest.mark.parametrize(
    "context",
    [
        {},
        {"supported_obligations": []},
        {"supported_obligations": ["step-up"]},
        {"supported_obligations": "custom"},
        {"supported_obligations": {"custom": True}},
        {"supported_obligations": True},
        {"supported_obligations": [["custom"]]},
    ],
)
async def test_any_other_caller_gets_a_no(http: aiohttp.ClientSession, context: Any):
    answer = await ask(http, note("write to jane.doe@example.com", **context))
    assert answer["decision"] is False
    assert answer["context"]["reasons"][0] == "obligation_unsupported"


async def test_members_that_a_manifest_calls_personal_are_redacted_too(http: aiohttp.ClientSession):
    asked = note("write to jane.doe@example.com", supported_obligations=["custom"])
    asked["action"]["properties"]["input"]["about"] = "Jane Doe"
    answer = await ask(http, asked)
    assert answer["context"]["input"] == {"text": "write to <EMAIL_1>", "about": "<PERSON_NAME_1>"}


async def test_what_is_recorded_of_an_unsupported_obligation_is_what_was_answered(
    system: System, http: aiohttp.ClientSession
):
    answer = await ask(http, note("write to jane.doe@example.com"))
    (record,) = system.store.records(RecordQuery(trace_id=answer["context"]["trace_id"]))
    made = record.body["decision"]
    assert (made["outcome"], made["reasons"]) == ("deny", answer["context"]["reasons"])  # type: ignore[index]
    assert answer["context"]["outcome"] == "deny"


async def test_a_caller_that_cannot_carry_out_a_redaction_spends_no_approval(
    system: System, http: aiohttp.ClientSession
):
    asked = send("grace", context={"supported_obligations": ["custom"]})
    asked["action"] = {"name": "send", "properties": {"input": {"to": "all", "body": "write to j@example.com"}}}
    id = (await ask(http, asked))["context"]["access_request"]["id"]
    approve(system, id)
    answer = await ask(http, {**asked, "context": {}})
    assert (answer["decision"], answer["context"]["reasons"][0]) == (False, "obligation_unsupported")
    assert system.approvals.get(id).state is State.APPROVED
    assert (await ask(http, asked))["decision"] is True
    assert system.approvals.get(id).state is State.USED


async def test_without_a_duty_nobody_needs_to_support_any(http: aiohttp.ClientSession):
    answer = await ask(http, note("all is well"))
    assert answer["decision"] is True
    assert "obligations" not in answer["context"]


# --- review: a denial that can be asked about -----------------------------------------------------------------


def approve(system: System, id: str) -> None:
    after = system.approvals.vote(id, voter="carol", roles=("finance",), approve=True, auth="local")
    assert after.state is State.APPROVED


async def test_a_review_is_a_no_with_an_access_request(system: System, http: aiohttp.ClientSession):
    answer = await ask(http, send("erin"))
    context = answer["context"]
    assert (answer["decision"], context["outcome"], context["reason"]) == (False, "require_review", "approval_required")
    request = context["access_request"]
    assert (request["status"], request["approvers"]) == ("pending", "1 of finance")
    assert request["expires_at"].endswith("Z")
    assert system.approvals.get(request["id"]).requester.id == "erin"
    assert context["advice"] == [{"type": "safe_alternative", "text": "write a draft"}]


async def test_an_approved_action_that_is_asked_again_is_decided_afresh_and_spent_once(
    system: System, http: aiohttp.ClientSession
):
    first = (await ask(http, send("fred")))["context"]
    id = first["access_request"]["id"]
    again = send("fred", context={"approval": {"id": id, "approved_until": first["access_request"]["expires_at"]}})
    assert (await ask(http, again))["decision"] is False  # nobody has approved it yet
    approve(system, id)
    answer = await ask(http, again)
    assert (answer["decision"], answer["context"]["outcome"]) == (True, "allow")
    assert answer["context"]["evaluation_id"] != first["evaluation_id"]
    assert system.approvals.get(id).state is State.USED
    after = await ask(http, again)
    assert after["decision"] is False
    assert after["context"]["access_request"]["id"] != id


async def test_an_approval_counts_for_its_own_action_whatever_the_caller_names(
    system: System, http: aiohttp.ClientSession
):
    id = (await ask(http, send("gina")))["context"]["access_request"]["id"]
    approve(system, id)
    for other in (send("hugo"), send("gina", resource={"type": "record", "id": "other"})):
        answer = await ask(http, other | {"context": {"approval": {"id": id, "state": "approved"}}})
        assert answer["decision"] is False
    assert (await ask(http, question("bob", "write_record") | {"context": {"approval": {"id": id}}}))[
        "decision"
    ] is False
    assert system.approvals.get(id).state is State.APPROVED


async def test_of_many_that_ask_at_once_one_gets_the_yes(system: System, http: aiohttp.ClientSession):
    approve(system, (await ask(http, send("ida")))["context"]["access_request"]["id"])
    answers = await asyncio.gather(*(ask(http, send("ida")) for _ in range(8)))
    assert [answer["decision"] for answer in answers].count(True) == 1


# --- whom a key speaks for ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def own(system: System) -> dict[str, str]:
    """The headers of a key that may only call, of jack in finance through the agent `bot`."""
    _, secret = system.keys.create("jack", roles=("finance",), agent="bot", permissions=(Permission.CALL,), by="tests")
    return {"authorization": f"Bearer {secret}"}


@pytest.mark.parametrize(
    "subject", [{"type": "user", "id": "alice"}, {"type": "agent", "id": "jack"}, {"type": "turn", "id": "jack"}]
)
async def test_a_key_without_decide_speaks_for_its_owner_only(url: str, own: dict[str, str], subject: dict[str, str]):
    async with aiohttp.ClientSession(url, headers=own) as http:
        status, message = await refused(http, question(subject=subject))
        assert (status, "--can decide" in message) == (403, True)
        answer = await ask(http, question("jack", evaluations=[{}, {"subject": subject}]), MANY)
    assert [item["decision"] for item in answer["evaluations"]] == [True, False]
    assert answer["evaluations"][1]["context"]["error"]["status"] == 403


async def test_roles_and_agent_come_from_the_key(system: System, url: str, own: dict[str, str]):
    asked = note("all is well", agent={"id": "claimed"})
    asked["subject"] = {"type": "user", "id": "jack", "properties": {"roles": ["admin"], "role": "admin"}}
    async with aiohttp.ClientSession(url, headers=own) as http:
        answer = await ask(http, asked)
        assert answer["decision"] is True  # finance, by the key
        archive = question("jack", "write_record", **ARCHIVED) | {"subject": asked["subject"]}
        assert (await ask(http, archive))["decision"] is False  # no admin, whatever is claimed
    (record,) = system.store.records(RecordQuery(trace_id=answer["context"]["trace_id"]))
    assert record.body["actor"] == {"type": "user", "id": "jack", "agent": "bot"}


async def test_a_key_without_an_agent_claims_none(system: System, url: str):
    _, secret = system.keys.create("kate", by="tests")
    async with aiohttp.ClientSession(url, headers={"authorization": f"Bearer {secret}"}) as http:
        answer = await ask(http, question("kate", context={"agent": {"id": "claimed"}}))
    (record,) = system.store.records(RecordQuery(trace_id=answer["context"]["trace_id"]))
    assert record.body["actor"]["agent"] == ""


async def test_an_enforcement_point_names_subject_roles_and_agent(system: System, http: aiohttp.ClientSession):
    answer = await ask(http, note("all is well", agent={"id": "helper"}))
    assert answer["decision"] is True
    (record,) = system.store.records(RecordQuery(trace_id=answer["context"]["trace_id"]))
    assert record.body["actor"] == {"type": "user", "id": "alice", "agent": "helper"}
    assert str(record.body["caller"]).startswith("key_")

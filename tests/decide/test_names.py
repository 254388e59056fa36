"""Names that may not be recorded."""

from __future__ import annotations

import uuid
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from checkrein.decide.names import check_names, nameable
from checkrein.model import BadRequest, Request, Resource, Subject

KEY = "ghp_" + "aB3d" * 9


def asked(**names: Any) -> Request:
    return Request.from_json(
        {
            "subject": {"type": "user", "id": names.get("subject", "alice")},
            "action": {"name": names.get("tool", "prompt")},
            "resource": {"type": names.get("type", "model"), "id": names.get("model", "gpt-4o-2024-08-06")},
            "context": {"agent": {"id": names.get("agent", "bot-7")}, "session": names.get("session", "s-1")},
        }
    )


@pytest.mark.parametrize("place", ["subject", "agent", "session", "tool", "model"])
@pytest.mark.parametrize(("value", "cls"), [(KEY, "secret.github_token"), ("4111 1111 1111 1111", "pii.card")])
def test_a_name_with_a_secret_or_personal_data_is_refused_without_repeating_it(
    place: str, value: str, cls: str
) -> None:
    with pytest.raises(BadRequest) as refused:
        check_names(asked(**{place: f"my {value}"}))
    assert str(refused.value) == f"the name of the {place} holds what may not be recorded: {cls}"
    assert value not in f"{refused.value} {refused.value.hint}"


def test_an_address_names_who_acts_and_nothing_else() -> None:
    check_names(asked(subject="alice@example.com", agent="bot@robots.example.com"))
    for place in ("session", "tool", "model"):
        with pytest.raises(BadRequest):
            check_names(asked(**{place: "alice@example.com"}))


def test_a_session_that_is_an_object_is_read_too() -> None:
    with pytest.raises(BadRequest):
        check_names(asked(session={"id": KEY}))
    check_names(asked(session={"id": 5}))


def test_types_and_those_it_is_done_for_are_names_too() -> None:
    value = "4111 1111 1111 1111"
    plain = asked(type="record", model="r-1")
    for request in (
        msgspec.structs.replace(plain, subject=Subject(value, "alice")),
        msgspec.structs.replace(plain, resource=Resource(value, "r-1")),
        msgspec.structs.replace(plain, context={"on_behalf_of": ["bob", value]}),
    ):
        with pytest.raises(BadRequest, match=r"pii\.card"):
            check_names(request)


def test_a_resource_that_is_neither_model_nor_tool_holds_no_secret() -> None:
    with pytest.raises(BadRequest, match="recorded: secret"):
        check_names(asked(type="record", model=f"https://store.example/?token={KEY}"))
    check_names(asked(type="account", model="4111 1111 1111 1111"))


def test_a_resource_that_is_neither_model_nor_tool_keeps_its_id() -> None:
    check_names(asked(type="record", model="alice@example.com"))


@pytest.mark.parametrize(
    "name", ["claude-3-5-sonnet-20241022", "meta/llama-3.1:70b", "10.0.0.7", "agent-00012", "turn_x", "müller", "s:1"]
)
def test_everyday_names_pass(name: str) -> None:
    check_names(asked(subject=name, agent=name, session=name, tool=name, model=name))


@given(st.uuids())
def test_a_uuid_is_a_name(value: uuid.UUID) -> None:
    check_names(asked(subject=str(value), session=f"session-{value}", agent=str(value)))


@given(st.binary(min_size=16, max_size=24))
def test_random_names_in_hexadecimal_pass(value: bytes) -> None:
    check_names(asked(subject=f"turn_{value.hex()}", session=value.hex()))


def test_digits_in_hexadecimal_are_no_card() -> None:
    check_names(asked(session="a4111111111111111b"))


def test_a_tool_that_a_model_names_by_a_secret_becomes_one_that_nobody_has() -> None:
    request = nameable(asked(tool=f"send_{KEY} {KEY}", type="tool"))
    assert (request.action.name, request.resource.id) == ("<secret.github_token>", "<secret.github_token>")
    assert nameable(asked(tool="send_email")).action.name == "send_email"

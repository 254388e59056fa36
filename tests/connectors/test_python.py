"""A function call becomes a request, and what was decided is what runs."""

from __future__ import annotations

import asyncio
import dataclasses
import datetime
import enum
import functools
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from checkrein.compose import System, open_system
from checkrein.connectors.python import governed
from checkrein.model import BadRequest, ConfigError, Denied, IdempotencyConflict, Request, Subject
from checkrein.ports import RecordQuery
from checkrein.services.payloads import reference

ALICE = Subject("user", "alice")
Govern = Callable[..., Any]

REDACTING = """
@id("clean-paths") @owner("privacy") @reason("no addresses in calls") @outcome("redact") @redact("pii.email")
forbid (principal, action in Action::"tool", resource) when { context.labels.contains("pii.email") };
"""


@pytest.fixture
def system(folder: Path) -> Iterator[System]:
    """Without an upstream, which functions do not need; addresses in calls are redacted."""
    (folder / "policies/calls.cedar").write_text(REDACTING)
    opened = open_system(folder)
    yield opened
    opened.close()


@pytest.fixture
def asked(system: System) -> list[Request]:
    """Every call that was decided, in order."""
    seen: list[Request] = []
    system.pdp.register(lambda request, context: None if request.comes_back else seen.append(request), "witness")
    return seen


@pytest.fixture
def govern(system: System) -> Govern:
    return functools.partial(governed, system.gateway, tool="list_things", who=lambda: ALICE)


def ends(system: System) -> list[tuple[str, str]]:
    records = system.store.records(RecordQuery(kinds=("execution.finished",)))
    return [(str(record.body["status"]), str(record.body["error"])) for record in records]


def test_arguments_are_known_by_name_however_they_were_passed(govern: Govern, asked: list[Request]):
    @govern(agent="bot", resource="shelf")
    def listing(path: str, depth: int = 2, /, *rest: str, order: str = "name", **more: object) -> str:
        return f"{path} {depth} {rest} {order} {more}"

    assert listing("a", 3, "x", "y", order="size", hidden=True) == "a 3 ('x', 'y') size {'hidden': True}"
    assert listing("a") == "a 2 () name {}"
    assert [request.action.input for request in asked] == [
        {"path": "a", "depth": 3, "rest": ["x", "y"], "order": "size", "hidden": True},
        {"path": "a", "depth": 2, "rest": [], "order": "name"},
    ]
    assert (asked[0].subject, asked[0].agent_id, asked[0].resource.id) == (ALICE, "bot", "shelf")
    assert (asked[0].resource.type, asked[1].action.name) == ("tool", "list_things")


def test_what_a_method_is_bound_to_is_no_argument(govern: Govern, asked: list[Request]):
    class Shelf:
        @govern()
        def plain(self, path: str) -> str:
            return path

        @classmethod
        @govern()
        def of_class(cls, path: str) -> str:
            return path

        @staticmethod
        @govern()
        def static(path: str) -> str:
            return path

        @govern()
        async def later(self, path: str) -> str:
            return path

    assert (Shelf().plain("a"), Shelf.of_class("b"), Shelf.static("c")) == ("a", "b", "c")
    assert asyncio.run(Shelf().later("d")) == "d"
    assert [request.action.input for request in asked] == [{"path": name} for name in "abcd"]


def test_an_argument_cannot_hide_behind_another_of_the_same_name(govern: Govern, asked: list[Request]):
    @govern()
    def listing(path: str, /, *rest: str, **more: str) -> None:
        pytest.fail("it ran")

    for more in ({"path": "harmless"}, {"rest": "harmless"}):
        with pytest.raises(BadRequest, match="given twice"):
            listing("harmful", **more)
    assert not asked


def test_a_keyword_named_like_what_a_method_is_bound_to_stays_an_argument(govern: Govern, asked: list[Request]):
    class Shelf:
        @govern()
        def listing(self, /, **more: str) -> dict[str, str]:
            assert isinstance(self, Shelf)
            return more

    assert Shelf().listing(self="x") == {"self": "x"}
    assert asked[0].action.input == {"self": "x"}


class Colour(enum.StrEnum):
    RED = "red"


class Place(NamedTuple):
    x: int
    y: int


def test_the_function_gets_its_own_types_and_policy_gets_json(govern: Govern, asked: list[Request]):
    @govern()
    def listing(colour: Colour, place: Place) -> tuple[Colour, Place]:
        return colour, place

    colour, place = listing(Colour.RED, Place(1, 2))
    assert colour is Colour.RED
    assert place.y == 2
    assert asked[0].action.input == {"colour": "red", "place": [1, 2]}
    assert type(asked[0].action.input["colour"]) is str


async def test_what_was_decided_is_what_runs_although_the_caller_changes_it_meanwhile(
    system: System, govern: Govern, asked: list[Request]
):
    @govern()
    async def listing(paths: list[str]) -> list[str]:
        return paths

    paths = ["public"]
    running = asyncio.create_task(listing(paths))
    await asyncio.sleep(0)
    paths.append("secret")
    assert await running == ["public"]
    assert asked[0].action.input == {"paths": ["public"]}


def test_a_function_that_changes_its_argument_changes_only_its_copy(govern: Govern):
    @govern()
    def listing(paths: list[str]) -> int:
        paths.clear()
        return len(paths)

    paths = ["a"]
    assert (listing(paths), paths) == (0, ["a"])


CIRCLE: list[object] = []
CIRCLE.append(CIRCLE)


@pytest.mark.parametrize(
    "value",
    [b"bytes", {1, 2}, object(), {"a": object()}, {1: "a"}, [1, [2, {3}]], float("nan"), float("inf"), CIRCLE],
    ids=["bytes", "set", "object", "nested", "key", "deep", "nan", "inf", "circle"],
)
def test_an_argument_that_no_policy_can_look_into_is_refused_by_name(
    govern: Govern, asked: list[Request], value: object
):
    @govern()
    def listing(path: str, options: object) -> None:
        pytest.fail("it ran")

    with pytest.raises(BadRequest, match="`options` of `list_things`") as refused:
        listing("a", value)
    assert refused.value.hint
    assert not asked


def test_a_wrong_call_is_a_plain_type_error_and_leaves_nothing(system: System, govern: Govern):
    @govern()
    def listing(path: str) -> None:
        pytest.fail("it ran")

    with pytest.raises(TypeError, match="path"):
        listing()
    assert not list(system.store.records(RecordQuery(kinds=("decision",))))


def test_the_function_gets_the_redacted_arguments(govern: Govern):
    @govern()
    def listing(path: str, *rest: object, order: object = "name", **more: object) -> tuple[object, ...]:
        return path, rest, order, more

    mail = "jane.doe@example.com"
    assert listing(mail, mail, ("b", mail), Colour.RED, order={"by": mail}, to=mail, plain=(1, 2)) == (
        "<EMAIL_1>",
        ("<EMAIL_1>", ["b", "<EMAIL_1>"], "red"),
        {"by": "<EMAIL_1>"},
        {"to": "<EMAIL_1>", "plain": [1, 2]},
    )
    assert listing("a", order=mail, plain=(1, 2)) == ("a", (), "<EMAIL_1>", {"plain": (1, 2)})


def test_personal_data_in_a_name_does_not_reach_the_function(govern: Govern):
    @govern()
    def listing(**more: object) -> dict[str, object]:
        return more

    assert listing(**{"jane.doe@example.com": 1}) == {"<EMAIL_1>": 1}


async def test_an_async_function_gets_the_redacted_arguments(govern: Govern):
    @govern()
    async def listing(path: tuple[str, ...]) -> tuple[str, ...]:
        return path

    assert await listing(("jane.doe@example.com", "b")) == ("<EMAIL_1>", "b")


def test_a_generator_is_refused_before_it_could_run_unseen(govern: Govern):
    def items() -> Iterator[int]:
        yield 1

    async def later() -> AsyncIterator[int]:
        yield 1

    for function in (items, later, functools.partial(items)):
        with pytest.raises(ConfigError, match="generator") as refused:
            govern()(function)
        assert "list" in refused.value.hint


@pytest.mark.parametrize("function", [staticmethod(len), classmethod(len), dict, 5], ids=lambda f: type(f).__name__)
def test_what_is_not_a_function_is_refused(govern: Govern, function: object):
    with pytest.raises(ConfigError, match="not a function"):
        govern()(function)


@pytest.mark.parametrize("tool", ["", "prompt", "x" * 513])
def test_a_tool_needs_a_name_of_its_own(govern: Govern, tool: str):
    with pytest.raises(ConfigError, match="no name of a tool"):
        govern(tool=tool)


async def test_a_result_that_has_yet_to_run_is_stopped_and_recorded_as_failed(system: System, govern: Govern):
    ran: list[str] = []

    async def deed() -> None:
        ran.append("ran")

    def items() -> Iterator[None]:
        ran.append("ran")
        yield

    async def more() -> AsyncIterator[None]:
        ran.append("ran")
        yield

    lazy = (deed, items, more, lambda: asyncio.ensure_future(deed()))
    for start in lazy:
        with pytest.raises(ConfigError, match="yet to run"):
            govern()(functools.partial(_now, start))()
    with pytest.raises(ConfigError, match="yet to run"):
        await govern()(_returning(items))()
    await asyncio.sleep(0)
    assert not ran
    assert ends(system) == [("failed", "ConfigError")] * 5


def _now(start: Callable[[], object]) -> object:
    return start()


def _returning(start: Callable[[], object]) -> Callable[[], Any]:
    async def later() -> object:
        return start()

    return later


def test_nobody_acting_is_an_error_and_no_decision(system: System):
    @governed(system.gateway, tool="list_things", who=lambda: None)
    def listing() -> None:
        pytest.fail("it ran")

    with pytest.raises(ConfigError, match="nobody is acting") as refused:
        listing()
    assert "acting_as" in refused.value.hint
    assert not list(system.store.records(RecordQuery(kinds=("decision",))))


def test_the_decorated_function_keeps_its_name_and_signature(govern: Govern):
    @govern()
    def listing(path: str) -> str:
        """Lists."""
        return path

    assert (listing.__name__, listing.__doc__) == ("listing", "Lists.")
    assert listing.__wrapped__("a") == "a"


def test_a_denied_call_does_not_run(system: System, govern: Govern):
    @govern(tool="transfer_funds")
    def transfer(to: str, amount: int) -> None:
        pytest.fail("it ran")

    with pytest.raises(Denied) as denied:
        transfer("ACME", 5)
    assert denied.value.decision.policies == ("no-transfers",)
    assert denied.value.hint == "draft the transfer"
    assert ends(system) == []


# --- results, and keys that make a call run once ----------------------------------------------------------------


def test_what_a_function_returned_is_kept_beside_the_ledger_where_it_is_json(system: System, govern: Govern):
    @govern()
    def look(what: str) -> object:
        return {"found": (what, 1)} if what != "nothing" else Opened("nothing")

    look("a")
    look("nothing")
    first, second = system.store.records(RecordQuery(kinds=("execution.finished",)))
    payload = first.body["payload"]
    assert isinstance(payload, dict)
    kept = system.vault.read(str(payload["id"]), reference(system.data.commitment_key(), "user", "alice"))
    assert kept is not None
    assert kept.data == b'{"found":["a",1]}'
    assert "payload" not in second.body
    assert b"found" not in first.data


# --- what comes back is decided too ------------------------------------------------------------------------------


@dataclasses.dataclass
class Opened:
    path: object


def answers(system: System) -> list[tuple[str, str, dict[str, Any]]]:
    records = system.store.records(RecordQuery(kinds=("execution.finished",)))
    return [(str(one.body["status"]), str(one.body["error"]), dict(one.body["detail"])) for one in records]  # type: ignore[call-overload]


async def test_a_result_is_returned_without_what_policy_takes_out(system: System, govern: Govern):
    @govern()
    def look(what: str) -> object:
        return {"to": [what, "jane@example.com", 4111111111111111]}

    @govern()
    async def look_later(what: str) -> object:
        return f"{what} jane@example.com"

    assert look("a") == {"to": ["a", "<EMAIL_1>", 4111111111111111]}
    assert await look_later("b") == "b <EMAIL_1>"
    first, second = answers(system)
    found = {"pii.email": 1, "pii.card": 1}
    assert first == ("ok", "", {"answer": "allow_with_redaction", "found": found})
    assert second[2]["found"] == {"pii.email": 1}


def test_a_result_in_which_nothing_is_taken_out_is_the_very_same(system: System, govern: Govern):
    things = (Colour.RED, {"a": (1, None)}), Opened({"at": datetime.date(2026, 1, 5)}), None

    @govern()
    def look(place: int) -> object:
        return things[place]

    for place, thing in enumerate(things):
        assert look(place) is thing
    assert [detail for _, _, detail in answers(system)] == [{"answer": "allow"}] * 3


async def test_of_a_result_that_cannot_be_read_or_written_anew_nothing_is_taken_out_it_is_withheld(
    system: System, govern: Govern
):
    @govern()
    def look() -> object:
        return Opened("jane@example.com")

    @govern()
    async def open_it() -> object:
        return object()

    with pytest.raises(Denied, match="result was withheld") as refused:
        look()
    assert "answer with text or JSON" in refused.value.hint
    with pytest.raises(Denied, match="result was withheld"):
        await open_it()
    assert answers(system) == [("failed", "Withheld", {"answer": "deny", "found": {"opaque": 1}})] * 2


@pytest.mark.parametrize(
    "said",
    [b"a@bc.de", "caf\xe9 jane@example.com".encode("latin-1"), "jane@example.com".encode("utf-16"), bytearray(b"\xff")],
)
def test_bytes_that_a_function_returns_are_the_text_they_stand_for_or_cannot_be_read(
    system: System, govern: Govern, said: bytes
):
    @govern()
    def look() -> object:
        return {"page": Opened([said])}

    with pytest.raises(Denied, match="result was withheld"):
        look()


def test_bytes_in_which_nothing_is_found_are_returned_as_they_are(system: System, govern: Govern):
    said = b"nothing much", [bytearray(b"caf\xc3\xa9")]

    @govern()
    def look() -> object:
        return said

    assert look() is said


async def test_an_error_that_says_what_policy_takes_out_is_withheld(system: System, govern: Govern):
    @govern()
    def look() -> object:
        try:
            raise KeyError("jane@example.com")
        except KeyError:
            raise ValueError("nobody of that name") from None

    @govern()
    async def look_later() -> object:
        raise ExceptionGroup("two things", [ValueError("jane@example.com")])

    with pytest.raises(Denied, match="result was withheld") as refused:
        look()
    assert (refused.value.__cause__, refused.value.__context__) == (None, None)
    with pytest.raises(Denied, match="result was withheld"):
        await look_later()
    assert answers(system) == [("failed", "Withheld", {"answer": "deny", "found": {"opaque": 1}})] * 2


def test_an_error_that_cannot_be_told_is_withheld(govern: Govern):
    class Silent(Exception):
        def __str__(self) -> str:
            raise LookupError

    @govern()
    def look() -> object:
        raise Silent

    with pytest.raises(Denied, match="result was withheld"):
        look()


def test_an_error_in_which_nothing_is_found_is_raised_as_it_is(system: System, govern: Govern):
    error = ValueError("no such shelf")

    @govern()
    def look() -> object:
        raise error

    with pytest.raises(ValueError, match="no such shelf") as raised:
        look()
    assert raised.value is error
    assert answers(system) == [("failed", "ValueError", {"answer": "allow"})]


async def test_a_call_under_one_key_runs_once_and_returns_what_it_returned(system: System, govern: Govern):
    ran: list[str] = []

    @govern(idempotency_key=lambda invoice, amount: invoice)
    def pay(invoice: str, amount: int) -> dict[str, object]:
        ran.append(invoice)
        return {"receipt": len(ran)}

    @govern(idempotency_key=lambda invoice: f"later-{invoice}")
    async def pay_later(invoice: str) -> int:
        ran.append(invoice)
        return len(ran)

    assert pay("i-1", 5) == pay("i-1", amount=5) == {"receipt": 1}
    assert pay("i-2", 5) == {"receipt": 2}
    assert await pay_later("i-1") == await pay_later("i-1") == 3
    with pytest.raises(IdempotencyConflict) as conflict:
        pay("i-1", 6)
    assert conflict.value.code == "idempotency_key_reused"
    assert ran == ["i-1", "i-2", "i-1"]


def test_a_call_that_failed_under_a_key_does_not_run_again(govern: Govern):
    ran: list[str] = []

    @govern(idempotency_key=lambda invoice: invoice)
    def pay(invoice: str) -> None:
        ran.append(invoice)
        raise TimeoutError

    with pytest.raises(TimeoutError):
        pay("i-1")
    with pytest.raises(IdempotencyConflict, match="not run again"):
        pay("i-1")
    assert ran == ["i-1"]


def test_a_key_that_is_none_stops_the_call(govern: Govern):
    @govern(idempotency_key=lambda invoice: invoice)
    def pay(invoice: str) -> None:
        pytest.fail("it ran")

    with pytest.raises(BadRequest, match="idempotency key"):
        pay("")

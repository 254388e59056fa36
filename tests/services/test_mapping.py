"""The mapping is whole, and what comes out of it is what OCSF and OpenTelemetry say it must be.

OCSF's own schema (of `ocsf-json-schema`) and OpenTelemetry's own names (of `opentelemetry-semantic-conventions`) judge.
"""

from __future__ import annotations

import functools
import importlib.resources
import json
import pkgutil
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import opentelemetry.semconv._incubating.attributes as incubating
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.semconv.schemas import Schemas

from checkrein.demo.scenario import CASES, prepare, simulated, stage
from checkrein.ledger import Draft, Record
from checkrein.ports import RecordQuery, Unit
from checkrein.services import mapping, translate
from checkrein.storage.memory import MemoryStore

ROOT = Path(__file__).parents[2]


class Clock:
    def now_us(self) -> int:
        return 1_768_471_200_123_456


def recorded(kind: str, trace: str = "ab" * 16, **body: Any) -> Record:
    return MemoryStore(Clock()).commit(Unit((Draft(kind, trace, body),))).result()[0]


def documented() -> list[str]:
    """The kinds of docs/ledger.md."""
    (text,) = re.findall(r"(?s)\nKinds:\n\n(.*?)\n\n", (ROOT / "docs/ledger.md").read_text())
    return re.findall(r"`([a-z_.]+)`", text)


BODIES: dict[str, dict[str, Any]] = {
    "decision": {
        "actor": {"type": "user", "id": "alice", "agent": "bot"},
        "action": {"name": "send_email", "resource": {"type": "tool", "id": "mail"}},
        "input_hmac": "00" * 32,
        "input_bytes": 120,
        "caller": "key_1",
        "mode": "run",
        "decision": {
            "evaluation_id": "evl_1",
            "outcome": "require_review",
            "reasons": ["first", "second"],
            "policies": ["p1", "p2"],
            "errors": [{"policy": "p3", "message": "no such attribute"}],
            "risk": {"level": "amber", "score": 40, "factors": ["external", "new recipient"]},
            "labels": ["pii.email"],
            "bundle": "sha256:00",
            "arm": "stable",
            "latency_us": 41,
        },
        "redactions": {"pii.email": 2},
        "approval": {"id": "apr_1"},
        "payload": {"id": "pay_1", "alg": "A256GCM", "hmac": "00" * 32},
    },
    "approval.voted": {
        "actor": {"type": "user", "id": "bob", "agent": ""},
        "approval": {"id": "apr_1", "state": "pending", "action_hmac": "00" * 32},
        "vote": {"approve": True, "reason": "fine", "auth": "cli", "simulated": False, "took_us": 5},
    },
    "execution.finished": {
        "actor": {"type": "user", "id": "alice", "agent": "bot"},
        "action": {"name": "prompt", "resource": {"type": "model", "id": "gpt-5"}},
        "evaluation_id": "evl_1",
        "status": "failed",
        "error": "UpstreamUnavailable",
        "detail": {"upstream": "default", "status": 502},
        "duration_us": 1500,
        "rollout": {"id": "rol_1", "arm": "canary"},
    },
    "admin.key_created": {
        "actor": {"type": "operator", "id": "root", "agent": ""},
        "detail": {"key": "key_1", "owner": "alice", "roles": ["staff"]},
    },
}


# --- the judges -------------------------------------------------------------------------------------------------


@functools.cache
def schema() -> dict[str, Any]:
    path = importlib.resources.files("ocsf_json_schema") / "ocsf" / f"{mapping.OCSF_VERSION}.json"
    found: dict[str, Any] = json.loads(path.read_text())
    assert found["version"] == mapping.OCSF_VERSION
    return found


PLAIN = {"string_t": str, "integer_t": int, "long_t": int, "timestamp_t": int, "boolean_t": bool}


def faults(event: Any, shape: dict[str, Any], place: str, profiles: set[str]) -> Iterator[str]:
    """What the schema says against an object."""
    known = {
        name: attribute
        for name, attribute in shape["attributes"].items()
        if not attribute.get("profiles") or profiles & set(attribute["profiles"])
    }
    for name, attribute in known.items():
        if attribute["requirement"] == "required" and name not in event:
            yield f"{place}.{name} is missing"
    for words, least, most in (("at_least_one", 1, 99), ("just_one", 1, 1)):
        names = (shape.get("constraints") or {}).get(words)
        if names and not least <= sum(name in event for name in names) <= most:
            yield f"{place} needs {words} of {names}"
    for name, value in event.items():
        if name not in known:
            yield f"{place}.{name} is unknown"
            continue
        attribute = known[name]
        if attribute.get("is_array") and not isinstance(value, list):
            yield f"{place}.{name} is no list"
            continue
        for item in value if attribute.get("is_array") else [value]:
            yield from wrong(item, attribute, f"{place}.{name}", profiles)


def wrong(value: Any, attribute: dict[str, Any], place: str, profiles: set[str]) -> Iterator[str]:
    kind = attribute["type"]
    if kind == "object_t":
        if not isinstance(value, dict):
            yield f"{place} is no object"
        elif attribute["object_type"] != "object":
            yield from faults(value, schema()["objects"][attribute["object_type"]], place, profiles)
        return
    base = schema()["dictionary"]["types"]["attributes"][kind].get("type", kind)
    if kind != "json_t" and type(value) is not PLAIN[base]:
        yield f"{place} is {value!r}, no {kind}"
    if "enum" in attribute and str(value) not in attribute["enum"]:
        yield f"{place} is {value!r}, not in its enum"


def assert_fits(event: dict[str, Any]) -> None:
    found = next(each for each in schema()["classes"].values() if each["uid"] == event["class_uid"])
    assert list(faults(event, found, found["name"], set(event["metadata"]["profiles"]))) == []
    assert event["category_uid"] == found["category_uid"] if "category_uid" in found else True
    assert event["type_uid"] == event["class_uid"] * 100 + event["activity_id"]


@functools.cache
def conventions() -> set[str]:
    """Every attribute name of the pinned semantic conventions."""
    found: set[str] = set()
    for module in pkgutil.iter_modules(incubating.__path__):
        members = vars(import_module(f"{incubating.__name__}.{module.name}"))
        found |= {value for name, value in members.items() if name.isupper() and isinstance(value, str)}
    return found


# --- the table is whole -----------------------------------------------------------------------------------------


def paths(value: Any, place: str = "") -> Iterator[str]:
    yield place
    if isinstance(value, dict):
        for name, member in value.items():
            yield from paths(member, f"{place}.{name}" if place else name)


def test_every_kind_has_a_row_of_its_own() -> None:
    for kind in documented():
        assert not mapping.kind_of(kind).name.endswith("*") or kind.startswith(("key.", "system.")), kind
    assert mapping.kind_of("admin.something_new").name == "admin.*"
    assert mapping.kind_of("never.heard").name == "*"


def test_every_member_of_every_record_is_in_the_table(tmp_path: Path) -> None:
    """Of the demo, which decides, asks, approves, runs, fails and manages keys, and of the bodies above."""
    prepare(tmp_path / "demo")
    with stage(tmp_path / "demo", None) as running:
        for case in CASES:
            running.send(case, simulated(running.system))
        bodies = [json.loads(record.data) for record in running.system.store.records(RecordQuery())]
    bodies += [{"body": body} for body in BODIES.values()]
    assert len({body.get("kind") for body in bodies}) > 6
    known = set(mapping.BY_PATH)
    for body in bodies:
        for place in filter(None, paths(body)):
            above = {".".join(place.split(".")[:end]) for end in range(1, place.count(".") + 2)}
            assert above & known or any(each.startswith(f"{place}.") for each in known), place


def test_every_row_goes_somewhere_on_both_sides_or_says_why_not() -> None:
    assert len(mapping.BY_PATH) == len(mapping.FIELDS)
    for row in mapping.FIELDS:
        assert row.ocsf, row.path
        assert row.otel, row.path
        ours = any(to.name.startswith("unmapped.") for to in row.ocsf)
        assert row.why or not ours, f"{row.path} says not why OCSF has no word for it"


def test_every_name_is_of_the_pinned_conventions_or_marked_as_ours() -> None:
    assert mapping.OTEL_SCHEMA in {each.value for each in Schemas}
    names = {to.name for row in mapping.FIELDS for to in row.otel}
    assert {name for name in names if not name.startswith("checkrein.")} <= conventions()
    assert not {name for name in conventions() if name.startswith("checkrein.")}


def test_every_target_is_an_attribute_of_the_pinned_schema() -> None:
    for row in mapping.FIELDS:
        for to in row.ocsf:
            head, *rest = to.name.replace("[]", "").split(".")
            shapes = [each for each in schema()["classes"].values() if each["uid"] in (6003, 3004)]
            attribute: Any = next((s["attributes"][head] for s in shapes if head in s["attributes"]), None)
            for name in rest if head != "unmapped" else ():
                attribute = schema()["objects"][attribute["object_type"]]["attributes"][name]
            assert attribute, to.name
            if to.values is not None:
                assert {str(value) for value in to.values.values()} <= set(attribute["enum"]), to.name


# --- what comes out ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [*documented(), "key.rotated", "admin.new", "system.note", "never.heard"])
def test_every_kind_is_a_valid_event_with_and_without_a_body(kind: str) -> None:
    for body in (
        {},
        *(BODIES.values() if mapping.kind_of(kind).event is mapping.API else [BODIES["admin.key_created"]]),
    ):
        assert_fits(translate.ocsf(recorded(kind, **body), version="9"))


def test_a_decision_as_an_event() -> None:
    event: Any = translate.ocsf(recorded("decision", **BODIES["decision"]), version="9")
    assert (event["class_uid"], event["time"], event["metadata"]["sequence"]) == (6003, 1_768_471_200_123, 0)
    assert event["actor"] == {"user": {"type": "user", "type_id": 1, "uid": "alice"}, "app_uid": "bot"}
    assert (event["action_id"], event["disposition_id"], event["status_id"]) == (99, 14, 99)
    assert (event["risk_level_id"], event["risk_score"], event["severity_id"]) == (2, 40, 2)
    assert [each["policy"]["uid"] for each in event["authorizations"]] == ["p1", "p2"]
    assert event["status_detail"] == "first; second"
    assert event["unmapped"]["approval"] == {"id": "apr_1"}


def attributes(record: Record) -> tuple[dict[str, Any], dict[str, Any]]:
    """The log record, and its attributes as plain values."""
    data: Any = translate.otel(record, version="9")
    (log,) = data["resourceLogs"][0]["scopeLogs"][0]["logRecords"]
    return log, {each["key"]: next(iter(each["value"].values())) for each in log["attributes"]}


def test_a_tool_call_and_a_prompt_as_log_records() -> None:
    log, found = attributes(recorded("decision", **BODIES["decision"]))
    assert (log["eventName"], log["traceId"]) == ("checkrein.decision", "ab" * 16)
    assert log["timeUnixNano"] == "1768471200123456000"
    assert (found["gen_ai.operation.name"], found["gen_ai.tool.name"]) == ("execute_tool", "send_email")
    assert (found["gen_ai.agent.id"], found["user.id"]) == ("bot", "alice")
    assert found["checkrein.risk.score"] == "40"
    assert "gen_ai.request.model" not in found
    log, found = attributes(recorded("execution.finished", **BODIES["execution.finished"]))
    assert (found["gen_ai.operation.name"], found["gen_ai.request.model"]) == ("chat", "gpt-5")
    assert found["error.type"] == "UpstreamUnavailable"
    assert "gen_ai.tool.name" not in found
    assert "traceId" not in attributes(recorded("system.note", trace="t"))[0]


def test_what_the_table_does_not_know_is_kept_under_its_own_name() -> None:
    record = recorded("decision", **BODIES["decision"], future={"a": 1, "b": []})
    event: Any = translate.ocsf(record, version="9")
    assert event["unmapped"]["future"] == {"a": 1, "b": []}
    assert_fits(event)
    assert attributes(record)[1]["checkrein.future.a"] == "1"


LEAF = (
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | st.text(st.characters(codec="utf-8"), max_size=5)
)
VALUE = st.recursive(LEAF, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner))


def odd(value: Any) -> st.SearchStrategy[Any]:
    """The same shape with anything in the place of any part of it."""
    if not isinstance(value, dict):
        return VALUE
    return VALUE | st.fixed_dictionaries({}, optional={name: odd(member) for name, member in value.items()})


@settings(max_examples=300)
@given(st.sampled_from(list(BODIES)).flatmap(lambda kind: st.tuples(st.just(kind), odd(BODIES[kind]))))
def test_any_body_makes_a_valid_event_and_a_log_record(made: tuple[str, Any]) -> None:
    kind, body = made
    record = recorded(kind, **(body if isinstance(body, dict) else {"odd": body}))
    assert_fits(translate.ocsf(record, version="9"))
    json.dumps(translate.otel(record, version="9"))

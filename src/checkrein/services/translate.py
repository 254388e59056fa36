"""Records as OCSF events, as OpenTelemetry log records and as spans, by the table in `mapping`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping

from checkrein.decide.names import bare
from checkrein.ledger import Record
from checkrein.ledger.record import VERSION
from checkrein.model.json import dumps
from checkrein.model.request import PROMPT
from checkrein.model.stamp import stamp
from checkrein.services.mapping import (
    ENTITY,
    FIELDS,
    OCSF_PROFILES,
    OCSF_VERSION,
    OTEL_SCHEMA,
    SPAN,
    Field,
    Kind,
    To,
    kind_of,
)

_PRODUCT = "checkrein"
_UNKNOWN = "unknown"
_Json = dict[str, object]
_Paths = tuple[tuple[Field, tuple[str, ...]], ...]
_ABSENT: object = object()
#: what counts as not being there; 0 is something
_NOTHING: tuple[object, ...] = (None, "", [], {})
#: what the conventions ask of a trace id in a log record
_TRACE_ID = re.compile(r"(?!0{32})[0-9a-f]{32}")
#: OpenTelemetry's severity number and text, by OCSF's severity_id
_SEVERITY = {1: (9, "INFO"), 2: (10, "INFO2"), 3: (13, "WARN"), 4: (17, "ERROR")}
_PATHS = tuple((field, tuple(field.path.split("."))) for field in FIELDS)
_NODES = {path[:end] for _, path in _PATHS for end in range(1, len(path) + 1)}
_LEAVES = {path for _, path in _PATHS}
_SPAN = frozenset(SPAN)
#: what others name, and may name after a person
_NAMES = ("gen_ai.agent.id", "gen_ai.request.model", "gen_ai.tool.name")
_SPAN_PATHS = tuple((field, path) for field, path in _PATHS if any(to.name in _SPAN for to in field.otel))


def ocsf(record: Record, *, version: str) -> _Json:
    """The record as an OCSF event; `version` is Checkrein's own."""
    value = _value(record)
    kind = kind_of(record.kind)
    event: _Json = {
        "category_uid": kind.event.category,
        "class_uid": kind.event.uid,
        "class_name": kind.event.caption,
        "activity_id": kind.activity,
        "type_uid": kind.event.uid * 100 + kind.activity,
        "severity_id": kind.severity,
        "status_id": kind.status,
        "metadata": {
            "version": OCSF_VERSION,
            "profiles": list(OCSF_PROFILES),
            "log_name": "ledger",
            "product": {"name": "Checkrein", "vendor_name": "Checkrein", "version": version},
        },
    }
    for field, found in _found(value):
        for target in field.ocsf:
            if target.name.partition(".")[0].removesuffix("[]") in kind.event.lacks:
                _place(event, f"unmapped.{field.path.removeprefix('body.')}", found)
            else:
                _place(event, target.name, _written(target, found, value))
    for path, found in _unnamed(value):
        _place(event, f"unmapped.{path}", found)
    return _completed(event, kind, record.kind)


def _completed(event: _Json, kind: Kind, name: str) -> _Json:
    """With what the class requires and the record does not say."""
    if kind.event is ENTITY:
        wanted = {"entity.name": kind.entity, "entity.type": kind.entity, "entity.type_id": 99}
    else:
        wanted = {"api.operation": name}
        event.setdefault("src_endpoint", {"svc_name": _PRODUCT})
        wanted |= {"resources[].uid": _UNKNOWN} if "resources" in event else {}
    actor = event.setdefault("actor", {"app_name": _PRODUCT})
    wanted |= {"actor.user.uid": _UNKNOWN} if isinstance(actor, dict) and "user" in actor else {}
    for path, found in wanted.items():
        _place(event, path, found, only_new=True)
    return event


def otel(record: Record, *, version: str) -> _Json:
    """The record as the `LogsData` of OTLP with one log record in it."""
    value = _value(record)
    attributes: dict[str, object] = {}
    for field, found in _found(value):
        for target in field.otel:
            if (written := _written(target, found, value)) is not _ABSENT:
                attributes.update(_flat(target.name, written))
    for path, found in _unnamed(value):
        attributes.update(_flat(f"checkrein.{path}", found))
    number, text = _SEVERITY[_severity(record.kind, value)]
    log: _Json = {
        "timeUnixNano": str(record.ts_us * 1000),
        "observedTimeUnixNano": str(record.ts_us * 1000),
        "severityNumber": number,
        "severityText": text,
        "eventName": f"checkrein.{record.kind}",
        "attributes": [{"key": name, "value": _any(found)} for name, found in attributes.items()],
    }
    if _TRACE_ID.fullmatch(record.trace_id):
        log["traceId"] = record.trace_id
    scope = {"scope": {"name": "checkrein.ledger", "version": version}, "schemaUrl": OTEL_SCHEMA, "logRecords": [log]}
    resource = {"service.name": _PRODUCT, "service.version": version}
    named = [{"key": name, "value": _any(found)} for name, found in resource.items()]
    return {"resourceLogs": [{"resource": {"attributes": named}, "schemaUrl": OTEL_SCHEMA, "scopeLogs": [scope]}]}


def span(body: Mapping[str, object]) -> _Json:
    """The attributes of the span of an action, from the members of all its records."""
    value: _Json = {"body": dict(body)}
    attributes = {
        target.name: written
        for field, found in _found(value, _SPAN_PATHS)
        for target in field.otel
        if target.name in _SPAN and (written := _written(target, found, value)) is not _ABSENT
    }
    personal = [name for name in _NAMES if not bare(str(attributes.get(name, "")))]
    return {name: written for name, written in attributes.items() if name not in personal}


def _value(record: Record) -> _Json:
    """The whole record; raises `LedgerInvalid` if its bytes are damaged."""
    named = {"v": VERSION, "seq": record.seq, "id": record.id, "kind": record.kind, "trace_id": record.trace_id}
    return {**named, "ts_us": record.ts_us, "body": record.body}


def _severity(name: str, value: _Json) -> int:
    for field, found in _found(value):
        for target in field.ocsf:
            if target.name == "severity_id" and isinstance(said := _written(target, found, value), int):
                return said
    return kind_of(name).severity


def _found(value: _Json, paths: _Paths = _PATHS) -> Iterator[tuple[Field, object]]:
    """Every row whose member is there, and what it holds."""
    for field, path in paths:
        found: object = value
        for name in path:
            found = found.get(name) if isinstance(found, dict) else None
        if found not in _NOTHING:
            yield field, found


def _unnamed(value: object, path: tuple[str, ...] = ()) -> Iterator[tuple[str, object]]:
    """What stands in no row of the table, and its place."""
    if isinstance(value, dict) and (not path or path in _NODES):
        for name, member in value.items():
            if (inner := (*path, name)) not in _LEAVES:
                yield from _unnamed(member, inner)
    elif value not in _NOTHING:
        yield ".".join(path).removeprefix("body."), value


def _written(target: To, found: object, value: _Json) -> object:
    """The value as the target has it, or `_ABSENT`."""
    if target.when and target.when != _action(value):
        return _ABSENT
    if target.values is not None:
        return target.values.get(found if isinstance(found, str) else "*", target.values.get("*", _ABSENT))
    return _FORMS[target.form](found)


def _action(value: _Json) -> str:
    body = value.get("body")
    action = body.get("action") if isinstance(body, dict) else None
    return PROMPT if isinstance(action, dict) and action.get("name") == PROMPT else "tool"


def _text(found: object) -> str:
    return found if isinstance(found, str) else dumps(found).decode()


def _texts(found: object) -> object:
    return [_text(item) for item in found] if isinstance(found, list) else [_text(found)]


def _integer(found: object) -> object:
    return found if isinstance(found, int) and not isinstance(found, bool) else _ABSENT


#: what the forms of the table mean
_FORMS: Mapping[str, Callable[[object], object]] = {
    "as it is": lambda found: found,
    "text": _text,
    "texts": _texts,
    "joined": lambda found: "; ".join(map(_text, found)) if isinstance(found, list) else _text(found),
    "integer": _integer,
    "ms": lambda found: found // 1000 if isinstance(found, int) else _ABSENT,
    "time": lambda found: stamp(found) if isinstance(found, int) else _ABSENT,
}


def _place(event: _Json, name: str, value: object, *, only_new: bool = False) -> None:
    """Put a value where a target says, making the objects on the way."""
    if value is _ABSENT:
        return
    head, dot, rest = name.partition(".")
    if head.endswith("[]"):
        items = value if isinstance(value, list) else [value]
        rows = event.setdefault(head[:-2], [{} for _ in items])
        if isinstance(rows, list):
            for row, item in zip(rows, items, strict=False):
                _place(row, rest, item, only_new=only_new)
    elif dot:
        inner = event.setdefault(head, {})
        if isinstance(inner, dict):
            _place(inner, rest, value, only_new=only_new)
    elif not only_new or head not in event:
        event[head] = value


def _flat(name: str, value: object) -> Iterator[tuple[str, object]]:
    """An attribute for every member, with dots between their names."""
    if isinstance(value, dict):
        for member, inner in value.items():
            yield from _flat(f"{name}.{member}", inner)
    elif value not in _NOTHING:
        yield name, value


def _any(value: object) -> _Json:
    """A value as OTLP writes it in JSON: integers are strings there."""
    if isinstance(value, bool):
        return {"boolValue": value}
    if isinstance(value, int):
        return {"intValue": str(value)}
    if isinstance(value, list):
        return {"arrayValue": {"values": [_any(item) for item in value]}}
    if isinstance(value, dict):
        return {"kvlistValue": {"values": [{"key": name, "value": _any(item)} for name, item in value.items()]}}
    return {"stringValue": value} if isinstance(value, str) else {}

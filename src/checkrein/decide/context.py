"""A request and the facts about it, in the form policies see: principal, action, resource, context.

Strict on the way: what Cedar has no value for, or would read otherwise than the tool does, is a `BadRequest`, and
such a request is denied. A null is an absent argument. `policy.schema` says what `context` holds.
"""

from __future__ import annotations

import datetime
import math
from collections.abc import Iterable, Mapping
from decimal import Decimal
from functools import lru_cache
from typing import Any

import msgspec

from checkrein.decide.classify import Classified
from checkrein.decide.provenance import Provenance, trace
from checkrein.model import BadRequest, Request
from checkrein.model.json import json_type
from checkrein.model.risk import Level
from checkrein.model.usage import NANO, Usage, Used
from checkrein.policy.entities import Entities, Entity
from checkrein.policy.manifest import Manifest, Resolved
from checkrein.policy.schema import CEDAR_TYPES, SUBJECT_ATTRIBUTES, USED, action_entity
from checkrein.policy.values import MAX_LONG, MIN_LONG, Read, Uid, Value

#: policies see no more of the time than the hour
HOUR_US = 3_600_000_000
_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
_WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_PRINCIPALS = {"user": "User", "agent": "Agent", "service": "Service"}


class Situation(msgspec.Struct, frozen=True, kw_only=True):
    """What is known besides the request when it is decided. Microseconds since 1970, UTC.

    `prompt` is what the user wrote in this turn, `endorsed` the prompt text a person approved, `untrusted` what
    tools answered, `directory` values the deployment vouches for. `discharged` are ids of review policies that
    people have answered by the approval `approval_id`. `usage` is what those who act have used; where nobody has
    accounts (a test, a dry run), it is what the request says. `protocol` is `mcp` for a call over MCP.
    """

    now_us: int
    roles: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    environment: str = ""
    prompt: str = ""
    endorsed: str = ""
    untrusted: str = ""
    directory: tuple[str, ...] = ()
    approval_id: str = ""
    discharged: frozenset[str] = frozenset()
    usage: Usage | None = None
    protocol: str = ""


class Question(msgspec.Struct, frozen=True):
    """What the policies are asked."""

    principal: Uid
    action: Uid
    resource: Uid
    context: dict[str, object]
    entities: Entities


def provenance(request: Request, manifest: Manifest | None, situation: Situation) -> dict[str, Provenance]:
    """The provenance of the control arguments; empty where nothing is known of the conversation."""
    known = situation.prompt or situation.endorsed or situation.untrusted or situation.directory
    if manifest is None or not known:
        return {}
    values = {name: request.action.input.get(name) for name in manifest.control}
    return trace(
        values,
        prompt=situation.prompt,
        endorsed=situation.endorsed,
        untrusted=situation.untrusted,
        directory=situation.directory,
    )


def question(
    request: Request,
    resolved: Resolved,
    situation: Situation,
    classified: Classified,
    sources: Mapping[str, Provenance],
) -> Question:
    """Build what the policies are asked; raises `BadRequest` for what they cannot be asked."""
    principal = _principal(request, situation)
    action = action_entity(request.action.name, resolved.effects, situation.protocol)
    resource = Entity(Uid(_resource_type(request), request.resource.id), tags=_texts(request.resource.properties))
    context: dict[str, object] = {
        "agent": _agent(request),
        "time": _time(situation.now_us // HOUR_US),
        "risk": _risk(classified.risk.level, classified.risk.score),
        "labels": sorted({*classified.labels, *situation.labels}),
        "answer": request.comes_back,
        "usage": _usage(Usage.claimed(request.context.get("usage")) if situation.usage is None else situation.usage),
        "input": _prompt_input(request) if request.is_prompt else _input(request, resolved.manifest),
    }
    if environment := situation.environment or _text(request.context, "environment"):
        context["environment"] = environment
    for name in ("scope", "session"):
        if text := _text(request.context, name):
            context[name] = text
    if sources:
        context["provenance"] = {name: source.value for name, source in sources.items()}
    if situation.approval_id:
        context["approval"] = {"id": situation.approval_id}
    entities = Entities((principal, action, resource))
    return Question(principal.uid, action.uid, resource.uid, context, entities)


def _principal(request: Request, situation: Situation) -> Entity:
    subject = request.subject
    kind = _PRINCIPALS.get(subject.type)
    if kind is None:
        raise BadRequest("the subject's type is unknown", hint=f"known: {', '.join(_PRINCIPALS)}")
    roles = frozenset([Uid("Role", role) for role in (*situation.roles, *subject.roles)])
    tags = _texts(subject.properties)
    attributes = {name: tags.pop(name) for name in SUBJECT_ATTRIBUTES if name in tags} if tags else {}
    return Entity(Uid(kind, subject.id), attributes, roles, tags)


def _resource_type(request: Request) -> str:
    if request.is_prompt:
        return "Model"
    return "Tool" if request.resource.type == "tool" else "Resource"


def _texts(properties: Mapping[str, object]) -> dict[str, Value]:
    return {name: value for name, value in properties.items() if isinstance(value, str)}


def _text(members: Mapping[str, object], name: str) -> str:
    value = members.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise BadRequest(f"`context.{name}` is not text", hint="send text or leave it out")
    return value


def _agent(request: Request) -> dict[str, str]:
    value = request.context.get("agent")
    if value is None:
        return {"id": ""}
    if json_type(value) is not dict:
        raise BadRequest("`context.agent` is not an object", hint='send `{"id": "...", "version": "..."}`')
    agent = {"id": _text(value, "id")}
    if version := _text(value, "version"):
        agent["version"] = version
    return agent


@lru_cache(maxsize=512)
def _risk(level: Level, score: int) -> Read:
    return Read({"level": level.value, "score": score})


@lru_cache(maxsize=16)
def _time(hour: int) -> Read:
    """An hour, counted since 1970, as policies see it."""
    moment = _EPOCH + datetime.timedelta(hours=hour)
    return Read({"hour": moment.hour, "weekday": _WEEKDAYS[moment.weekday()], "date": moment.date().isoformat()})


@lru_cache(maxsize=1024)
def _usage(usage: Usage) -> Read:
    return Read({**_used(usage.subject), "agent": _used(usage.agent), "key": _used(usage.key)})


@lru_cache(maxsize=1024)
def _used(used: Used) -> Read:
    """An account in Cedar's numbers; money is rounded up to the four places that there are."""
    return Read(
        {
            name: _decimal(Decimal(-(-value * 10_000 // NANO)) / 10_000) if USED[name] == "decimal" else value
            for name, value in msgspec.structs.asdict(used).items()
        }
    )


def _prompt_input(request: Request) -> dict[str, object]:
    """Facts about a prompt; its text is nothing that policies may depend on."""
    body = request.action.input
    lengths = {name: _length((item,)) for name, item in body.items()}
    messages = body.get("messages")
    model = body.get("model")
    if request.is_answer:
        said = body.get("chars")
        chars = said if isinstance(said, int) else 0
    else:
        chars = sum(lengths.values()) if messages is None else lengths["messages"]
    return {
        "model": model if isinstance(model, str) else request.resource.id,
        "chars": chars,
        "messages": len(messages) if isinstance(messages, list) else 0,
    }


def _input(request: Request, manifest: Manifest | None) -> dict[str, object]:
    """The arguments by their declared types. An undeclared tool has none that policies could name."""
    _length(request.action.input.values())  # refuses odd numbers
    shown: dict[str, object] = {}
    for name, kind in manifest.input.items() if manifest is not None else ():
        value = request.action.input.get(name)
        if value is None or kind.type not in CEDAR_TYPES:
            continue
        shown[name] = _decimal(Decimal(str(value))) if kind.type == "number" else value
    return shown


def _length(values: Iterable[Any]) -> int:
    """How many characters there are in all texts of these values.

    Refuses numbers that two readers of the same request could take for different ones.
    """
    length = 0
    for value in values:
        kind = str if type(value) is str else json_type(value)
        if kind is str:
            length += len(value)
        elif kind is dict:
            length += _length(value.values())
        elif kind is list:
            length += _length(value)
        elif isinstance(value, float) and not math.isfinite(value):
            raise BadRequest("a number is not finite", hint="send a finite number or leave it out")
        elif isinstance(value, int) and not MIN_LONG <= value <= MAX_LONG:
            raise BadRequest("an integer is beyond 64 bits", hint="send it as text")
    return length


def _decimal(number: Decimal) -> dict[str, object]:
    """Cedar's decimal: four places after the point and 64 bits in all."""
    exact = number.quantize(Decimal("0.0001")) if abs(number) < 10**15 else number
    if exact != number or abs(number) > Decimal(MAX_LONG).scaleb(-4):
        raise BadRequest(
            "a number needs more places than policies have", hint="round it to four places, or send it as text"
        )
    return {"__extn": {"fn": "decimal", "arg": f"{exact:.4f}"}}

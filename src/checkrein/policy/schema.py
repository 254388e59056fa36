"""The Cedar schema that follows from the manifests, and the action entities that go with it.

`context` of every action (`CONTEXT`; `?` may be absent):

    agent        {id: String, version?: String}
    environment? String          scope? String          session? String
    time         {hour: Long, weekday: String, date: String}        UTC; `monday`; `2026-01-31`
    risk         {level: String, score: Long}
    labels       Set<String>
    answer       Bool            whether it is about what came of the action, not about the action
    provenance?  {<control argument>: String}                       tools with `control` only
    usage        what the subject used, and `agent` and `key` the same of those: `USED`
    approval?    {id: String}
    input        the arguments, by the types in `tools.yaml`; `PROMPT_INPUT` for a prompt; empty for a tool
                 without a manifest

An optional argument is `?`; number -> decimal, array -> Set<String>; objects are not shown to policies.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache

from checkrein.model.request import PROMPT
from checkrein.policy.effect import Effect
from checkrein.policy.entities import Entity
from checkrein.policy.manifest import Manifest, Manifests
from checkrein.policy.values import Uid

#: argument type -> Cedar type; the others are not shown to policies
CEDAR_TYPES: Mapping[str, str] = {
    "string": "String",
    "integer": "Long",
    "number": "decimal",
    "boolean": "Bool",
    "array": "Set<String>",
    "array<integer>": "Set<Long>",
}

#: member of `context.usage` -> Cedar type; days and months are those of UTC, `spend_*` is money
USED: Mapping[str, str] = {
    "requests_minute": "Long",
    "tokens_minute": "Long",
    "running": "Long",
    "requests_today": "Long",
    "tokens_today": "Long",
    "spend_today": "decimal",
    "spend_month": "decimal",
}
_USED = ", ".join(f"{name}: {kind}" for name, kind in USED.items())

#: member of `context` -> Cedar type, for every action; `input` and `provenance` come from the manifest
CONTEXT: Mapping[str, str] = {
    "agent": "{id: String, version?: String}",
    "environment?": "String",
    "scope?": "String",
    "session?": "String",
    "time": "{hour: Long, weekday: String, date: String}",
    "risk": "{level: String, score: Long}",
    "labels": "Set<String>",
    "answer": "Bool",
    "usage": f"{{{_USED}, agent: {{{_USED}}}, key: {{{_USED}}}}}",
    "approval?": "{id: String}",
}

#: `context.input` of a prompt, or of what is answered to one: facts about it, never its text
PROMPT_INPUT: Mapping[str, str] = {"model": "String", "chars": "Long", "messages": "Long"}

#: the optional attributes of User, Agent and Service; every other text a subject brings is a tag
SUBJECT_ATTRIBUTES = ("department", "email", "name", "tenant")

GROUPS = (*Effect, "llm", "tool", "mcp")

_ATTRIBUTES = ", ".join(f"{name}?: String" for name in SUBJECT_ATTRIBUTES)
_ENTITIES = f"""\
entity Role;
entity User, Agent, Service in [Role] = {{{_ATTRIBUTES}}} tags String;
entity Model, Tool, Resource tags String;
"""


def action_uid(name: str) -> Uid:
    return Uid("Action", name)


def action_entity(name: str, effects: Iterable[str], protocol: str = "") -> Entity:
    """The entity of an action with its groups. `protocol` is `mcp` for a call over MCP, else empty.

    The prompt is in `llm`; every other action is in `tool` and in its effect classes.
    """
    return Entity(action_uid(name), {}, _groups("llm" if name == PROMPT else "tool", tuple(effects), protocol))


@lru_cache(maxsize=256)
def _groups(root: str, effects: tuple[str, ...], protocol: str) -> frozenset[Uid]:
    groups = {root} if root == "llm" else {root, *effects}
    if protocol in GROUPS:
        groups.add(protocol)
    return frozenset([action_uid(str(group)) for group in groups])


def known_actions(manifests: Manifests) -> Iterator[Entity]:
    """The entities that requests for declared tools and prompts will bring, in each protocol."""
    yield action_entity(PROMPT, ())
    for name in manifests.names():
        effects = manifests.tools[name].effects
        yield action_entity(name, effects)
        yield action_entity(name, effects, "mcp")


def schema_text(manifests: Manifests) -> str:
    """The schema in Cedar's syntax.

    Besides the declared tools it has one action for each effect class, standing for the tools without a
    manifest, so a policy about `Action::"irreversible"` is checked even where no declared tool is one.
    """
    groups = ", ".join(_quoted(str(group)) for group in GROUPS)
    parts = [_ENTITIES, f"action {groups};\n", _action(PROMPT, ["llm"], "Model", PROMPT_INPUT, ())]
    parts += [_action(f"undeclared {effect}", [effect, "tool", "mcp"], "Tool, Resource", {}, ()) for effect in Effect]
    for name in manifests.names():
        manifest = manifests.tools[name]
        names = [*manifest.effects, "tool", "mcp"]
        parts.append(_action(name, names, "Tool, Resource", _input(manifest), manifest.control))
    return "".join(parts)


def _input(manifest: Manifest) -> dict[str, str]:
    return {
        f"{name}?" if kind.optional else name: CEDAR_TYPES[kind.type]
        for name, kind in manifest.input.items()
        if kind.type in CEDAR_TYPES
    }


def _action(name: str, groups: Iterable[str], resources: str, input: Mapping[str, str], control: Iterable[str]) -> str:
    members = {**CONTEXT, "input": _record(input)}
    provenance = {f"{argument}?": "String" for argument in control}
    if provenance:
        members["provenance?"] = _record(provenance)
    inside = ", ".join(_quoted(str(group)) for group in groups)
    return (
        f"action {_quoted(name)} in [{inside}] appliesTo {{\n"
        f"  principal: [User, Agent, Service], resource: [{resources}], context: {_record(members)}\n}};\n"
    )


def _record(members: Mapping[str, str]) -> str:
    shown = (
        f"{_quoted(name.removesuffix('?'))}{'?' if name.endswith('?') else ''}: {kind}"
        for name, kind in members.items()
    )
    return "{" + ", ".join(shown) + "}"


def _quoted(text: str) -> str:
    return json.dumps(text)

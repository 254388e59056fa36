"""Tool lists of others (`tools/*.json`): MCP's `tools/list` result and OpenAI's tool definitions become manifests.

Names and argument types come from the JSON Schemas. Effects do not: a server's own annotations are hints that can only
add (`destructiveHint`, `openWorldHint`), never take away, and the verb of the name says the rest. A tool whose
effects nobody can tell must be declared in `tools.yaml`, which wins over these files for every tool it names.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import cast

from checkrein.policy.effect import Effect, effects_of_name
from checkrein.policy.manifest import Manifest, ManifestReader
from checkrein.policy.source import Path, kind_of, read_yaml

#: JSON Schema type -> how `tools.yaml` writes it
_TYPES = {"string": "string", "integer": "integer", "number": "number", "boolean": "boolean", "object": "object"}
_LISTS = {"string": "array", "integer": "array<integer>", "object": "array<object>"}
#: what neither policies nor the check of arguments can look into
_ANY = "json"


def read_tool_file(data: bytes, file: str, declared: Sequence[str] = ()) -> tuple[dict[str, Manifest], tuple[str, ...]]:
    """The tools of one file that are not `declared` already, and every problem, one line each."""
    reader = ManifestReader(read_yaml(data, file))  # JSON is YAML, and so every problem has its line
    found: dict[str, Manifest] = {}
    for path, name, item in _tools(reader):
        if name in declared:
            continue
        if name in found:
            reader.complain(path, f"the tool `{name[:80]}` stands twice", "keep one of them")
            continue
        effects = _effects(name, item)
        if not effects:
            hint = f"declare `{name[:80]}` with its effects in tools.yaml"
            reader.complain(path, f"nobody can tell the effects of `{name[:80]}`", hint)
            continue
        description = item.get("description")
        value = {
            "effects": [effect.value for effect in effects],
            "input": dict(_arguments(_schema(item))),
            "description": description if isinstance(description, str) else "",
        }
        manifest = reader.manifest(name, value, path)
        if manifest is not None:
            found[name] = manifest
    return found, tuple(reader.problems)


def _tools(reader: ManifestReader) -> Iterator[tuple[Path, str, Mapping[str, object]]]:
    """Each tool with its place: of `{"tools": [...]}` (also inside a JSON-RPC `result`) or of a plain list."""
    value, path = reader.document.value, cast("Path", ())
    for member in ("result", "tools"):
        if isinstance(value, dict) and member in value:
            value, path = value[member], (*path, member)
    if not isinstance(value, list):
        reader.complain(path, f"the file has {kind_of(value)}, not a list of tools", 'write `{"tools": [...]}`')
        return
    for index, item in enumerate(value):
        where = (*path, index)
        inner = item.get("function", item) if isinstance(item, dict) else item
        name = inner.get("name") if isinstance(inner, dict) else None
        if isinstance(inner, dict) and isinstance(name, str) and name:
            yield where, name, cast("Mapping[str, object]", inner)
        else:
            reader.complain(where, "the tool has no `name`", "each tool needs a name")


def _schema(item: Mapping[str, object]) -> Mapping[str, object]:
    schema = item.get("inputSchema", item.get("parameters", {}))
    return schema if isinstance(schema, dict) else {}


def _effects(name: str, item: Mapping[str, object]) -> tuple[Effect, ...]:
    found = set(effects_of_name(name))
    given = item.get("annotations")
    hints = given if isinstance(given, dict) else {}
    if hints.get("destructiveHint") is True:
        found.add(Effect.IRREVERSIBLE)
    if hints.get("openWorldHint") is True:
        found.add(Effect.EXTERNAL)
    return tuple(effect for effect in Effect if effect in found)


def _arguments(schema: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    """Each argument as `tools.yaml` would write it: `amount: integer`, `memo: string?`."""
    properties = schema.get("properties")
    required = schema.get("required")
    needed = required if isinstance(required, list) else []
    for name, item in (properties if isinstance(properties, dict) else {}).items():
        kind, nullable = _type(item)
        yield name, kind if name in needed and not nullable else f"{kind}?"


def _type(schema: object) -> tuple[str, bool]:
    """The type of one argument, and whether it may be null."""
    if not isinstance(schema, dict):
        return _ANY, False
    for union in ("anyOf", "oneOf"):
        if isinstance(schema.get(union), list):
            return _union([_type(item) for item in schema[union]])
    kind = schema.get("type")
    if isinstance(kind, list):
        return _union([_type({**schema, "type": item}) for item in kind])
    if kind == "null":
        return "null", True
    if kind == "array":
        items = schema.get("items")
        inner = items.get("type") if isinstance(items, dict) else None
        return _LISTS.get(inner, _ANY) if isinstance(inner, str) else _ANY, False
    return _TYPES.get(kind, _ANY) if isinstance(kind, str) else _ANY, False


def _union(kinds: Sequence[tuple[str, bool]]) -> tuple[str, bool]:
    nullable = any(may_be_null for _, may_be_null in kinds)
    real = {kind for kind, _ in kinds if kind != "null"}
    return (real.pop() if len(real) == 1 else _ANY), nullable

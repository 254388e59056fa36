"""YAML read strictly, with the line of every value, so that a problem can name its place.

Plainer than YAML 1.1: only `true` and `false` are booleans, dates stay text, `010` is ten; a key that stands
twice, a tag and a key that is not text are problems. Anchors work, within `MAX_NODES`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import msgspec
import yaml

MAX_NODES = 100_000
MAX_DEPTH = 64

#: libyaml follows YAML 1.2 where PyYAML's own scanner does not: `{memo: string?}` needs no quotes
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

Path = tuple[str | int, ...]

_INTEGER = re.compile(r"[-+]?[0-9]+")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")


def problem(place: str, message: str, hint: str = "") -> str:
    """One line: `tools.yaml:12: unknown member `x` (hint)`."""
    return f"{place}: {message} ({hint})" if hint else f"{place}: {message}"


class Document(msgspec.Struct, frozen=True):
    """A YAML file as plain values; `lines` has the line of every value by its path."""

    file: str
    value: object
    lines: dict[Path, int]
    problems: tuple[str, ...] = ()

    def place(self, *path: str | int) -> str:
        """`file:line` of the value at `path`, or of the nearest value that encloses it."""
        while path and path not in self.lines:
            path = path[:-1]
        return f"{self.file}:{self.lines.get(path, 1)}"

    def problem(self, path: Path, message: str, hint: str = "") -> str:
        return problem(self.place(*path), message, hint)


class _TooLargeError(Exception):
    pass


class _Reader:
    def __init__(self, file: str) -> None:
        self.file = file
        self.lines: dict[Path, int] = {}
        self.problems: list[str] = []

    def _complain(self, node: yaml.Node, message: str, hint: str) -> None:
        self.problems.append(problem(f"{self.file}:{node.start_mark.line + 1}", message, hint))

    def read(self, node: yaml.Node, path: Path) -> object:
        self.lines[path] = node.start_mark.line + 1
        if len(self.lines) > MAX_NODES or len(path) > MAX_DEPTH:
            raise _TooLargeError
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self.read(item, (*path, index)) for index, item in enumerate(node.value)]
        if not node.tag.startswith("tag:yaml.org,2002:"):
            self._complain(node, f"the tag `{node.tag[:40]}` has no meaning here", "leave the tag out")
        return _scalar(node.value, plain=not getattr(node, "style", None))

    def _mapping(self, node: yaml.MappingNode, path: Path) -> dict[str, object]:
        value: dict[str, object] = {}
        for key_node, item in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                self._complain(key_node, "a key is not text", "write keys as plain text")
                continue
            key = str(key_node.value)
            if key in value:
                self._complain(key_node, f"the key `{key[:80]}` stands twice", "keep one of them")
                continue
            value[key] = self.read(item, (*path, key))
            self.lines[(*path, key)] = key_node.start_mark.line + 1
        return value


def _scalar(text: str, *, plain: bool) -> object:
    if not plain:
        return text
    if text in ("", "~", "null"):
        return None
    if text in ("true", "false"):
        return text == "true"
    if len(text) <= 40:  # longer digits are text: no number we know is that long
        if _INTEGER.fullmatch(text):
            return int(text)
        if _FLOAT.fullmatch(text):
            return float(text)
    return text


def read_yaml(data: bytes, file: str) -> Document:
    """Read one YAML document. Never raises: what is wrong stands in `problems`, and `value` is then None."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        return Document(file, None, {}, (problem(f"{file}:{line}", "not UTF-8", "save the file as UTF-8"),))
    reader = _Reader(file)
    try:
        node = yaml.compose(text, Loader=_LOADER)
        value = None if node is None else reader.read(node, ())
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        what = error.problem or error.context or "not YAML"
        return Document(file, None, {}, (problem(f"{file}:{line}", f"not YAML: {what}", "mend the syntax"),))
    except yaml.YAMLError as error:
        what = str(error).splitlines()[0]
        return Document(file, None, {}, (problem(f"{file}:1", f"not YAML: {what}", "mend the syntax"),))
    except (_TooLargeError, RecursionError):
        message = f"more than {MAX_NODES} values or {MAX_DEPTH} levels"
        return Document(file, None, {}, (problem(f"{file}:1", message, "make it smaller, with fewer anchors"),))
    return Document(file, value, reader.lines, tuple(reader.problems))


def kind_of(value: object) -> str:
    """What a person calls the YAML value: `text`, `a list`, ..."""
    names = {str: "text", bool: "true or false", int: "a whole number", float: "a number"}
    names |= {list: "a list", dict: "a mapping", type(None): "nothing"}
    return names.get(type(value), "something else")


class Checker:
    """Collects the problems of one document; each has the line of the value it is about."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self.problems = list(document.problems)

    def complain(self, path: Path, message: str, hint: str) -> None:
        self.problems.append(problem(self.document.place(*path), message, hint))

    def members(self, value: Mapping[str, object], path: Path, known: Sequence[str]) -> None:
        """Complain of every member that is not known: a misspelt one would have no effect."""
        for name in value:
            if name not in known:
                self.complain((*path, name), f"unknown member `{name[:80]}`", f"known: {', '.join(known)}")

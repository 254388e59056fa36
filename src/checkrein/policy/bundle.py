"""A governance folder as one immutable value: policies, manifests and policy tests, known by their digest.

The folder is read elsewhere and handed in as `{relative path: bytes}`. Either everything in it holds, or
`PolicyInvalid` tells all that does not.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence

import msgspec

from checkrein.model import PolicyInvalid
from checkrein.model.json import canonical
from checkrein.policy.casefile import read_cases
from checkrein.policy.cases import Case
from checkrein.policy.cedar import Kind, Policy, duplicates, read_policies, validate
from checkrein.policy.engine import PolicySet, read_schema
from checkrein.policy.manifest import Manifests, read_manifests
from checkrein.policy.schema import known_actions, schema_text
from checkrein.policy.source import problem
from checkrein.policy.toolfiles import read_tool_file

TOOLS = "tools.yaml"


class Bundle(msgspec.Struct, frozen=True):
    """One version of policies, manifests and tests. `warnings` are what `check` lints, one line each."""

    digest: str
    policies: PolicySet
    manifests: Manifests
    cases: tuple[Case, ...]
    schema: str
    warnings: tuple[str, ...] = ()

    @classmethod
    def from_files(cls, files: Mapping[str, bytes]) -> Bundle:
        """Read `policies/*.cedar`, `tools.yaml`, `tools/*.json` and `tests/*.yaml` of a folder; raises `PolicyInvalid`.

        Paths are relative, with `/`. Any other file is left alone.
        """
        manifests, problems = _manifests(files)
        schema = schema_text(manifests)
        policies, wrong = _policies(files, None if problems else schema)
        problems += (*wrong, *_unbound(policies, manifests))
        cases: list[Case] = []
        for path in _named(files, "tests/", ".yaml"):
            read, wrong = read_cases(files[path], path)
            cases += read
            problems += wrong
        if problems:
            raise PolicyInvalid(
                f"the folder has {len(problems)} problem(s), the first: {problems[0]}",
                problems=problems,
                hint="mend the lines that are named, then run `checkrein check`",
            )
        compiled = PolicySet(policies, actions=known_actions(manifests))
        warnings = (*_misplaced(files), *_lint(policies), *_left_to_cedarpy(compiled))
        return cls(digest_of(files), compiled, manifests, tuple(cases), schema, warnings)


def _manifests(files: Mapping[str, bytes]) -> tuple[Manifests, tuple[str, ...]]:
    """The tools of `tools.yaml`, then those of `tools/*.json` that it does not name."""
    manifests, problems = read_manifests(files.get(TOOLS, b""), TOOLS)
    tools = dict(manifests.tools)
    origins: dict[str, str] = {}
    for path in _named(files, "tools/", ".json"):
        found, wrong = read_tool_file(files[path], path, manifests.names())
        problems += wrong
        for name in found:
            if origins.setdefault(name, path) != path:
                problems += (problem(path, f"the tool `{name}` stands in {origins[name]} too", "keep one of them"),)
        tools |= found
    return Manifests(tools), problems


def digest_of(files: Mapping[str, bytes]) -> str:
    """`sha256:` over the canonical list of path and SHA-256 of every file that counts, sorted by path."""
    counted = [*_named(files, "policies/", ".cedar"), *_named(files, "tests/", ".yaml")]
    counted += [*_named(files, "tools/", ".json"), *([TOOLS] if TOOLS in files else [])]
    listed = [[path, hashlib.sha256(files[path]).hexdigest()] for path in sorted(counted)]
    return f"sha256:{hashlib.sha256(canonical(listed)).hexdigest()}"


def _named(files: Mapping[str, bytes], folder: str, suffix: str) -> list[str]:
    return sorted(path for path in files if path.startswith(folder) and path.endswith(suffix))


def _policies(files: Mapping[str, bytes], schema: str | None) -> tuple[tuple[Policy, ...], tuple[str, ...]]:
    """Every policy of the folder; validated only if the manifests gave a schema."""
    handle = None if schema is None else read_schema(schema)
    policies: list[Policy] = []
    problems: list[str] = []
    for path in _named(files, "policies/", ".cedar"):
        try:
            text = files[path].decode("utf-8")
        except UnicodeDecodeError as error:
            line = files[path][: error.start].count(b"\n") + 1
            problems.append(problem(f"{path}:{line}", "not UTF-8", "save the file as UTF-8"))
            continue
        read, wrong = read_policies(text, path, strict=True)
        policies += read
        problems += wrong
        if read and handle is not None:
            problems += validate(text, path, handle)
    problems += duplicates([policy for policy in policies if policy.annotations.get("id")])
    if not policies and not problems:
        hint = "everything would be denied: write a `permit` in `policies/main.cedar`"
        problems.append(problem("policies", "there are no policies", hint))
    return tuple(policies), tuple(problems)


def _unbound(policies: Sequence[Policy], manifests: Manifests) -> Iterator[str]:
    """A grant that is bound to an argument which no tool takes: nobody could ever give it."""
    known = {"model", "messages", *(name for tool in manifests.tools.values() for name in tool.input)}
    for policy in policies:
        grant = policy.requirement.grant if policy.requirement else None
        for name in grant.same if grant else ():
            if name not in known:
                yield problem(policy.place, f"`@grant`: no tool takes the argument `{name}`", "see `tools.yaml`")


def _misplaced(files: Mapping[str, bytes]) -> Iterator[str]:
    for path in sorted(files):
        if path.startswith("policies/") and not path.endswith(".cedar"):
            yield problem(path, "not read", "policies end in `.cedar`")
        elif path.startswith("tests/") and not path.endswith(".yaml"):
            yield problem(path, "not read", "policy tests end in `.yaml`")
        elif path == "tools.yml":
            yield problem(path, "not read", f"name it `{TOOLS}`")


def _lint(policies: Sequence[Policy]) -> Iterator[str]:
    for policy in policies:
        for name in ("owner", "reason"):
            if not policy.annotations.get(name):
                yield problem(policy.place, f"`{policy.id}` has no `@{name}`", f'add `@{name}("...")`')
    if policies and not any(policy.kind is Kind.GRANT for policy in policies):
        yield problem("policies", "no policy permits anything", "everything is denied: write a `permit`")


def _left_to_cedarpy(policies: PolicySet) -> Iterator[str]:
    for id in policies.not_compiled:
        place = policies.policy(id).place
        yield problem(place, f"`{id}` is evaluated by cedarpy, which is slow", "nest its condition less deeply")

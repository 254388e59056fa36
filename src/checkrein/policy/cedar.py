"""Cedar text to `Policy` values: parsed by `cedarpy`, duties read from annotations, problems with places.

A policy's id is its `@id`, else Cedar's own name for it (`policy0`, `policy1`, ...). A `forbid` may carry a
duty: `@outcome("require_review")` with `@approvers`, `@expires`, `@escalate`, `@grant` and
`@reason_required`, or `@outcome("redact")` with `@redact`.
An engine that does not know duties reads them as plain forbids: it denies where this one reviews or redacts.
"""

from __future__ import annotations

import enum
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import cast

import cedarpy
import msgspec

from checkrein.model import BadRequest, Requirement
from checkrein.model.requirement import escalated, parse_escalation, parse_factors, parse_grant, parse_span
from checkrein.policy.source import problem
from checkrein.policy.tokens import Segment, culprit, segments

DEFAULT_EXPIRES = "4h"

#: annotations a folder may carry; any other is a typing mistake that would leave a rule quietly dead
ANNOTATIONS = (
    "id", "owner", "reason", "outcome", "approvers", "expires", "alternative", "redact", "severity",
    "control", "escalate", "grant", "reason_required",
)  # fmt: skip


class Kind(enum.StrEnum):
    """What a satisfied policy does: grants, denies, asks people, or has classes of data redacted."""

    GRANT = "grant"
    FORBID = "forbid"
    REVIEW = "review"
    REDACT = "redact"


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """One policy as it stands in its file. `est` is Cedar's JSON form, `redact` the classes to redact."""

    id: str
    file: str
    line: int
    effect: str
    kind: Kind
    annotations: dict[str, str]
    reason: str = ""
    alternative: str = ""
    requirement: Requirement | None = None
    redact: tuple[str, ...] = ()
    text: str
    est: dict[str, object]

    @property
    def place(self) -> str:
        return f"{self.file}:{self.line}"


_SPLIT = "split it into several policies"
_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-/:]{0,127}")
_KINDS = {"require_review": Kind.REVIEW, "redact": Kind.REDACT}
#: annotation -> the duty it belongs to
_BELONGS = {
    "approvers": Kind.REVIEW,
    "expires": Kind.REVIEW,
    "escalate": Kind.REVIEW,
    "grant": Kind.REVIEW,
    "reason_required": Kind.REVIEW,
    "redact": Kind.REDACT,
}


def read_policies(
    text: str, file: str, *, strict: bool, templates: bool = False
) -> tuple[tuple[Policy, ...], tuple[str, ...]]:
    """The policies of one file in order, and every problem, one line each.

    `strict` is how folders are read: each policy has its own `@id`, and no annotation is unknown. Duties that
    do not hold together are problems in either mode. A template is a problem too, unless `templates` are asked
    for. With a syntax error there are no policies at all.
    """
    parts = segments(text)
    if excess := [problem(f"{file}:{part.line}", part.excess(), _SPLIT) for part in parts if part.excess()]:
        return (), tuple(excess)
    try:
        parsed = cast("dict[str, dict[str, dict[str, object]]]", json.loads(cedarpy.policies_to_json_str(text)))
    except ValueError as error:
        line, message = culprit(parts, _parse_error, str(error))
        return (), (problem(f"{file}:{line}", message, "mend the syntax"),)
    except RecursionError:
        longest = max(parts, key=lambda part: len(part.tokens))
        return (), (problem(f"{file}:{longest.line}", "a condition is nested too deeply", _SPLIT),)
    problems: list[str] = []
    read = parsed["staticPolicies"] | (parsed["templates"] if templates else {})
    for name in () if templates else parsed["templates"]:
        line = _segment(parts, name).line
        message = "a policy with `?principal` or `?resource` is a template, which has no effect by itself"
        problems.append(problem(f"{file}:{line}", message, "write the principal or the resource out"))
    named = sorted(read.items(), key=lambda item: _number(item[0]))
    policies = [_read(name, est, file, _segment(parts, name), strict, problems) for name, est in named]
    return tuple(policies), tuple(problems)


def _parse_error(text: str) -> str:
    """Why `text` does not parse, or an empty string."""
    try:
        cedarpy.policies_to_json_str(text)
    except ValueError as error:
        return str(error)
    return ""


def _number(name: str) -> int:
    return int(name.removeprefix("policy"))


def _segment(parts: Sequence[Segment], name: str) -> Segment:
    return parts[_number(name)]


def _read(name: str, est: dict[str, object], file: str, segment: Segment, strict: bool, problems: list[str]) -> Policy:
    raw = cast("Mapping[str, str | None]", est.get("annotations", {}))
    annotations = {key: value or "" for key, value in raw.items()}
    duty = _Duty(annotations, cast("str", est["effect"]), strict)
    problems += [problem(f"{file}:{segment.line_of(at)}", message, hint) for at, message, hint in duty.check()]
    return Policy(
        id=annotations.get("id") or name,
        file=file,
        line=segment.line,
        effect=duty.effect,
        kind=duty.kind,
        annotations=annotations,
        reason=annotations.get("reason", ""),
        alternative=annotations.get("alternative", ""),
        requirement=duty.requirement,
        redact=duty.classes,
        text=segment.text,
        est=est,
    )


class _Duty:
    """The annotations of one policy, read: `check` yields (annotation, message, hint) for what is wrong."""

    def __init__(self, annotations: Mapping[str, str], effect: str, strict: bool) -> None:
        self.annotations = annotations
        self.effect = effect
        self.strict = strict
        plain = Kind.GRANT if effect == "permit" else Kind.FORBID
        self.kind = plain if effect == "permit" else _KINDS.get(annotations.get("outcome", ""), plain)
        self.requirement: Requirement | None = None
        self.classes: tuple[str, ...] = ()

    def check(self) -> Iterator[tuple[str, str, str]]:
        if self.strict:
            yield from self._names()
        yield from self._outcome()
        if self.kind is Kind.REVIEW:
            yield from self._review()
        if self.kind is Kind.REDACT:
            yield from self._redact()

    def _names(self) -> Iterator[tuple[str, str, str]]:
        if not self.annotations.get("id"):
            yield "id", "the policy has no `@id`", 'start it with `@id("a-name-of-its-own")`'
        elif not _ID.fullmatch(self.annotations["id"]):
            yield (
                "id",
                "the `@id` is no plain name",
                "use letters, digits and _ . - / : within 128 characters",
            )
        for name in self.annotations:
            if name not in ANNOTATIONS:
                yield name, f"unknown annotation `@{name}`", f"known: {', '.join(ANNOTATIONS)}"

    def _outcome(self) -> Iterator[tuple[str, str, str]]:
        outcome = self.annotations.get("outcome")
        known = "known: " + ", ".join(f"`{name}`" for name in _KINDS)
        if outcome is not None and self.effect == "permit":
            yield "outcome", "`@outcome` stands on a permit, and a duty never grants", "put it on a forbid"
        elif outcome is not None and outcome not in _KINDS:
            yield (
                "outcome",
                f"unknown outcome `{outcome[:80]}`",
                f"{known}; a forbid without `@outcome` denies",
            )
        elif self.strict:
            for name, kind in _BELONGS.items():
                if name in self.annotations and self.kind is not kind:
                    needed = next(text for text, of in _KINDS.items() if of is kind)
                    yield name, f"`@{name}` has no effect here", f'it belongs to `@outcome("{needed}")`'

    def _review(self) -> Iterator[tuple[str, str, str]]:
        approvers = self.annotations.get("approvers", "")
        if not approvers:
            if self.strict:
                yield "outcome", "a review without `@approvers`", 'add `@approvers("2 of finance")`'
            return
        reading = "approvers"
        try:
            factors = parse_factors(approvers)
            reading = "expires"
            span = parse_span(self.annotations.get("expires", DEFAULT_EXPIRES))
            reading = "escalate"
            if "escalate" in self.annotations:
                factors = escalated(factors, parse_escalation(self.annotations["escalate"], span))
            reading = "grant"
            grant = parse_grant(self.annotations["grant"]) if "grant" in self.annotations else None
        except BadRequest as error:
            yield reading, f"`@{reading}`: {error}", error.hint
            return
        if self.annotations.get("reason_required"):
            yield "reason_required", "`@reason_required` takes no value", "write `@reason_required` alone"
            return
        self.requirement = Requirement(factors, span, "reason_required" in self.annotations, grant)

    def _redact(self) -> Iterator[tuple[str, str, str]]:
        names = [name.strip() for name in self.annotations.get("redact", "").split(",")]
        self.classes = tuple(sorted({name for name in names if name}))
        if not self.classes or not all(names):
            yield (
                "redact",
                "a redaction that does not name its classes",
                'add `@redact("pii.email,pii.card")`',
            )


def duplicates(policies: Sequence[Policy]) -> tuple[str, ...]:
    """A problem for every policy whose id another one before it has."""
    first: dict[str, Policy] = {}
    problems = []
    for policy in policies:
        other = first.setdefault(policy.id, policy)
        if other is not policy:
            message = f"the id `{policy.id[:80]}` is taken by {other.place}"
            problems.append(problem(policy.place, message, "give each policy its own `@id`"))
    return tuple(problems)


def validate(text: str, file: str, schema: cedarpy.Schema) -> tuple[str, ...]:
    """Cedar's strict validation of a file that parses, each error with the line of its policy."""
    parts = segments(text)
    problems = []
    # seconds for thousands of policies: a server that loads a new version goes on answering meanwhile
    for error in cedarpy.validate_policies(text, schema, release_gil=True).errors:
        message = error.error.removeprefix(f"for policy `{error.policy_id}`, ")
        line = _segment(parts, error.policy_id).line if error.policy_id else 1
        problems.append(problem(f"{file}:{line}", message, _hint(message)))
    return tuple(problems)


#: part of Cedar's message -> what to do
_HINTS = {
    "optional attribute": "guard it: `context has a.b && ...`",
    "not found": "see the arguments in `tools.yaml` and the members of `context`",
    "unrecognized action": "declare the tool in `tools.yaml`, or name one that is there",
    "unrecognized entity type": "known: User, Agent, Service, Role, Model, Tool, Resource",
    "unable to find an applicable action": "no action fits this scope, so the policy could never apply",
    "not compatible": "compare values of one type",
}


def _hint(message: str) -> str:
    return next((hint for part, hint in _HINTS.items() if part in message), "see the schema")

"""What people a policy asks for before an action may run."""

from __future__ import annotations

import functools
import re

import msgspec

from checkrein.model.errors import BadRequest

_ROLE = r"[A-Za-z0-9_.\-]{1,80}"
_FACTOR = re.compile(rf"\s*(\d{{1,3}})\s+of\s+({_ROLE})\s*")
_STEP = re.compile(rf"\s*([^:;]{{1,20}}):\s*({_ROLE})\s*")
_SPAN = re.compile(r"\s*(\d{1,6})\s*(s|m|h|d)\s*")
_TERM = re.compile(
    r"max\s+(?P<max>\d{1,6}\s*[smhd])|(?P<uses>\d{1,6})\s+uses?|same\s+(?P<same>[A-Za-z_][A-Za-z0-9_.\-]{0,127})"
    r"|(?P<any>any arguments)|(?P<red>even red)"
)
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
#: further roles that one review may name
MAX_STEPS = 10
#: bounds of a standing permission
MAX_USES, MAX_GRANT_S = 10_000, 90 * 86_400


class Step(msgspec.Struct, frozen=True):
    """Once an approval has been pending for `after_s` seconds, people who hold `role` may vote too."""

    after_s: int
    role: str

    def __str__(self) -> str:
        return f"{span_text(self.after_s)}: {self.role}"


class Factor(msgspec.Struct, frozen=True):
    """`count` different people who hold `role`, or, once its time has come, the role of a step in `escalate`."""

    count: int
    role: str
    escalate: tuple[Step, ...] = ()

    def __str__(self) -> str:
        return f"{self.count} of {self.role}"

    def open_to(self, age_s: int) -> tuple[str, ...]:
        """The roles that count for this factor when the approval is so old."""
        return (self.role, *(step.role for step in self.escalate if age_s >= step.after_s))


class Terms(msgspec.Struct, frozen=True):
    """How far a standing permission may go: `uses` of the same tool within `max_s` seconds, with the arguments named in
    `same` as they were approved. `red` if it may cover what is red, too."""

    max_s: int
    uses: int
    same: tuple[str, ...] = ()
    red: bool = False

    def __str__(self) -> str:
        same = [f"same {name}" for name in self.same] or ["any arguments"]
        return ", ".join([f"max {span_text(self.max_s)}", f"{self.uses} uses", *same, *(["even red"] * self.red)])

    def within(self, other: Terms) -> bool:
        """Whether nothing is permitted under these terms that is not under the others."""
        bounded = self.max_s <= other.max_s and self.uses <= other.uses
        return bounded and set(self.same) >= set(other.same) and self.red <= other.red

    def narrowed(self, other: Terms) -> Terms:
        """Both at once."""
        same = tuple(dict.fromkeys((*self.same, *other.same)))
        return Terms(min(self.max_s, other.max_s), min(self.uses, other.uses), same, self.red and other.red)


class Requirement(msgspec.Struct, frozen=True):
    """All factors must be met, each by different people, within `expires_s` seconds of the request."""

    factors: tuple[Factor, ...]
    expires_s: int
    reason_required: bool = False
    #: what people may grant beyond this one action; None: nothing
    grant: Terms | None = None

    def __str__(self) -> str:
        return " and ".join(str(factor) for factor in self.factors)

    @property
    def people(self) -> int:
        """How many different people must agree."""
        return sum(factor.count for factor in self.factors)

    @property
    def escalation(self) -> tuple[Step, ...]:
        """Every further role with its time, the earliest first."""
        steps = {step for factor in self.factors for step in factor.escalate}
        return tuple(sorted(steps, key=lambda step: (step.after_s, step.role)))

    def open_to(self, age_s: int) -> tuple[str, ...]:
        """The roles that may vote when the approval is so old."""
        return tuple(dict.fromkeys(role for factor in self.factors for role in factor.open_to(age_s)))

    def terms(self) -> str:
        """Everything that is asked for, in the words of the annotations."""
        parts = [f"{self} within {span_text(self.expires_s)}"]
        parts += [f"from {step}" for step in self.escalation]
        parts += ["with a reason"] if self.reason_required else []
        parts += [f"grants {self.grant}"] if self.grant else []
        return ", ".join(parts)

    def as_strict_as(self, other: Requirement) -> bool:
        """Whether everything that the other asks for is asked for here, and nothing more is open to anybody."""
        mine = {factor.role: factor for factor in self.factors}
        people = all(factor.role in mine and _as_strict(mine[factor.role], factor) for factor in other.factors)
        granted = self.grant is None or (other.grant is not None and self.grant.within(other.grant))
        in_time = self.expires_s <= other.expires_s
        return people and in_time and granted and self.reason_required >= other.reason_required


def _as_strict(one: Factor, other: Factor) -> bool:
    opens = {step.role: step.after_s for step in other.escalate}
    no_sooner = all(step.role in opens and step.after_s >= opens[step.role] for step in one.escalate)
    return one.count >= other.count and no_sooner


def parse_factors(text: str) -> tuple[Factor, ...]:
    """Read `"2 of finance"` or `"1 of finance and 1 of security"`; raises `BadRequest` for anything else."""
    factors = []
    for part in text.split(" and "):
        match = _FACTOR.fullmatch(part)
        if match is None or int(match[1]) < 1:
            raise BadRequest(f"`{text}` names no approvers", hint='write `"2 of finance"` or `"1 of a and 1 of b"`')
        factors.append(Factor(int(match[1]), match[2]))
    return tuple(factors)


def parse_span(text: str) -> int:
    """Seconds of `"90s"`, `"30m"`, `"4h"`, `"2d"`; raises `BadRequest` for anything else or zero."""
    match = _SPAN.fullmatch(text)
    if match is None or int(match[1]) == 0:
        raise BadRequest(f"`{text}` is not a length of time", hint='write `"30m"`, `"4h"` or `"2d"`')
    return int(match[1]) * _SECONDS[match[2]]


def span_text(seconds: int) -> str:
    """The shortest way to write a length of time that `parse_span` reads: `4h`, not `240m`."""
    unit = next(unit for unit in ("d", "h", "m", "s") if seconds % _SECONDS[unit] == 0)
    return f"{seconds // _SECONDS[unit]}{unit}"


def parse_escalation(text: str, expires_s: int) -> tuple[Step, ...]:
    """Read `"30m: security-oncall; 2h: ciso"`: times that rise and lie before the end, each with one role.

    Raises `BadRequest` for anything else.
    """
    hint = 'write `"30m: security-oncall; 2h: ciso"`'
    steps: list[Step] = []
    for part in text.split(";"):
        match = _STEP.fullmatch(part)
        if match is None:
            raise BadRequest(f"`{part.strip()[:80]}` is not a time and a role", hint=hint)
        steps.append(Step(parse_span(match[1]), match[2]))
    if len(steps) > MAX_STEPS:
        raise BadRequest(f"more than {MAX_STEPS} steps", hint="name fewer roles")
    times = [step.after_s for step in steps]
    if times != sorted(set(times)):
        raise BadRequest("the times do not rise", hint="begin with the earliest, and give each role a time of its own")
    if len({step.role for step in steps}) < len(steps):
        raise BadRequest("a role stands twice", hint="name each role once, with its earliest time")
    if times[-1] >= expires_s:
        raise BadRequest(
            f"the step at {span_text(times[-1])} would come after the end, at {span_text(expires_s)}",
            hint="begin earlier, or give a longer `@expires`",
        )
    return tuple(steps)


def parse_grant(text: str) -> Terms:
    """Read `"max 1h, 5 uses, same to"`; raises `BadRequest` for anything else.

    What stays the same must be said, if only by `any arguments`; `even red` lets it cover what is red.
    """
    hint = 'write `"max 1h, 5 uses, same to"`'
    found: dict[str, str] = {}
    same: list[str] = []
    for part in (part.strip() for part in text.split(",")):
        match = _TERM.fullmatch(part)
        if match is None:
            raise BadRequest(f"`{part[:80]}` is not a term of a grant", hint=hint)
        if match["same"]:
            same.append(match["same"])
            continue
        name = match.lastgroup or ""
        if name in found:
            raise BadRequest(f"`{part[:80]}` says again what is said already", hint="say it once")
        found[name] = match[name]
    if "max" not in found or "uses" not in found or bool(same) == ("any" in found):
        raise BadRequest("a grant needs a time, a number of uses, and what stays the same", hint=hint)
    terms = Terms(parse_span(found["max"]), int(found["uses"]), tuple(dict.fromkeys(same)), "red" in found)
    if not 1 <= terms.uses <= MAX_USES or terms.max_s > MAX_GRANT_S:
        raise BadRequest(
            f"a grant is for 1 to {MAX_USES} uses within {span_text(MAX_GRANT_S)} at the most", hint="narrow it"
        )
    return terms


def escalated(factors: tuple[Factor, ...], steps: tuple[Step, ...]) -> tuple[Factor, ...]:
    """The factors, each also open to the roles of these steps."""
    return tuple(msgspec.structs.replace(factor, escalate=steps) for factor in factors)


def combine(requirements: tuple[Requirement, ...]) -> Requirement:
    """Every requirement at once, none of them loosened: for each role the highest count, the shortest time.

    Where two ask for one role, only what both escalate to is open to others, at the later time.
    """
    merged: dict[str, Factor] = {}
    for factor in (factor for requirement in requirements for factor in requirement.factors):
        known = merged.get(factor.role)
        merged[factor.role] = _both(known, factor) if known else factor
    return Requirement(
        tuple(factor for _, factor in sorted(merged.items())),
        min(requirement.expires_s for requirement in requirements),
        any(requirement.reason_required for requirement in requirements),
        _granted([requirement.grant for requirement in requirements]),
    )


def _granted(terms: list[Terms | None]) -> Terms | None:
    """What all of them would let people grant: nothing, if one of them grants nothing."""
    known = [each for each in terms if each is not None]
    return functools.reduce(Terms.narrowed, known) if len(known) == len(terms) else None


def _both(one: Factor, other: Factor) -> Factor:
    later = {step.role: step.after_s for step in other.escalate}
    steps = [Step(max(step.after_s, later[step.role]), step.role) for step in one.escalate if step.role in later]
    steps.sort(key=lambda step: (step.after_s, step.role))
    return Factor(max(one.count, other.count), one.role, tuple(steps))

"""Drift: whether production still does what the golden set was made of.

Each question compares one thing about actions (which, on what, how risky, how decided, how long) in the golden set and
in production; `stats.shift` answers it. All answers are corrected together, so that a world that has not changed is
called different in `alpha` of the reports at most, and what is surely there but small is no drift. What a golden set is
too small to notice is said: silence would read as agreement.
"""

from __future__ import annotations

import enum
import math
from collections import Counter
from collections.abc import Iterator, Mapping

import msgspec

from checkrein.flow.limits import QUESTIONS, DriftLimits
from checkrein.stats import shift
from checkrein.stats.shift import Shift

#: values that a finding names, and new ones that a report lists
MAX_NAMED, MAX_NEW = 3, 50
SEALED = "texts are sealed: an auditor compares them with `--decrypt --as PERSON`"


class Acted(msgspec.Struct, frozen=True, gc=False):
    """One action as it is counted. `size` is that of its arguments in bytes, -1 where nobody noted it."""

    action: str
    target: str
    risk: str
    outcome: str
    size: int


class Seen(msgspec.Struct, frozen=True):
    """How often each value was seen. `unsized` are actions recorded before their sizes were."""

    actions: Counter[str] = msgspec.field(default_factory=Counter)
    targets: Counter[str] = msgspec.field(default_factory=Counter)
    risks: Counter[str] = msgspec.field(default_factory=Counter)
    outcomes: Counter[str] = msgspec.field(default_factory=Counter)
    sizes: Counter[int] = msgspec.field(default_factory=Counter)
    #: an action with its outcome: what cases to add are chosen by
    pairs: Counter[tuple[str, str]] = msgspec.field(default_factory=Counter)

    @property
    def count(self) -> int:
        return self.risks.total()

    @property
    def unsized(self) -> int:
        return self.count - self.sizes.total()

    def add(self, acted: Acted) -> None:
        self.actions[acted.action] += 1
        self.risks[acted.risk] += 1
        self.outcomes[acted.outcome] += 1
        self.pairs[acted.action, acted.outcome] += 1
        if acted.target:
            self.targets[acted.target] += 1
        if acted.size >= 0:
            self.sizes[acted.size] += 1


class Outcome(enum.StrEnum):
    DRIFT = "drift"
    NO_DRIFT = "no_drift"
    NOT_ENOUGH_EVIDENCE = "not_enough_evidence"


class State(enum.StrEnum):
    SHIFTED = "shifted"
    ALIKE = "alike"
    #: it looks alike, and the golden set could not tell
    TOO_SMALL = "too small"
    NOT_COMPARED = "not compared"


class Moved(msgspec.Struct, frozen=True):
    """A value with its share of the golden set and of production."""

    value: str
    golden: float
    production: float


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to one question. `p` is corrected; `size` is how far apart both are and `beyond` that without chance.

    `smallest` is the smallest shift that would be noticed (0 where there is no such figure), and `needed` the number of
    golden cases that would notice one of `notice`.
    """

    name: str
    state: State
    told: str
    p: float = 1.0
    size: float = 0.0
    chance: float = 0.0
    beyond: float = 0.0
    moved: tuple[Moved, ...] = ()
    psi: float | None = None
    psi_floor: float | None = None
    smallest: float = 0.0
    needed: int = 0


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What was compared, and what came of it. `new` are actions that the golden set has none of."""

    outcome: Outcome
    since_us: int
    until_us: int
    golden: str
    cases: int
    actions: int
    limits: DriftLimits
    findings: tuple[Finding, ...] = ()
    new: Mapping[str, int] = {}

    @property
    def shifted(self) -> tuple[Finding, ...]:
        return tuple(finding for finding in self.findings if finding.state is State.SHIFTED)

    @property
    def needed(self) -> int:
        """The number of golden cases that would notice a shift of `limits.notice` everywhere."""
        return max((finding.needed for finding in self.findings if finding.state is State.TOO_SMALL), default=0)

    @property
    def told(self) -> str:
        """The report in one line."""
        if self.outcome is Outcome.DRIFT:
            return f"production has drifted from the golden set: {', '.join(found.name for found in self.shifted)}"
        if self.outcome is Outcome.NO_DRIFT:
            return f"no drift: {self.actions:,} actions look like the {self.cases:,} golden cases"
        if not self.actions:
            return "not enough evidence: production has no actions in this time"
        if all(found.state is State.NOT_COMPARED for found in self.findings):
            return "not enough evidence: nothing was compared"
        if self.needed:
            return f"not enough evidence: the golden set is too small; {self.needed:,} cases would do"
        return f"not enough evidence: {self.actions:,} actions of production are too few"


class Texts(msgspec.Struct, frozen=True):
    """How texts compare, and how many of each side were read; without them, why."""

    shift: Shift | None = None
    golden: int = 0
    production: int = 0
    why: str = SEALED


class _Answer(msgspec.Struct, frozen=True, kw_only=True):
    """A question with its answer before correction. `why` says why it was not compared."""

    name: str
    #: of what the size is a share, in the sentence that tells of it
    what: str = "of the actions are others"
    shift: Shift = shift.NOTHING
    #: the size without chance
    beyond: float = 0.0
    moved: tuple[Moved, ...] = ()
    detail: str = ""
    psi: float | None = None
    psi_floor: float | None = None
    why: str = ""
    smallest: float = 0.0
    needed: int = 0


def judge(
    golden: Seen,
    production: Seen,
    limits: DriftLimits,
    *,
    named: str,
    since_us: int,
    until_us: int,
    texts: Texts | None = None,
) -> Report:
    """Compare what was counted; `named` is the digest of the golden set. Without production only that can be said."""
    answers: list[_Answer] = []
    if production.count and golden.count:
        answers = [*_answers(golden, production, limits), _texts(texts or Texts())]
        answers = [_ignored(answer.name) if answer.name in limits.ignore else answer for answer in answers]
    compared = [answer for answer in answers if not answer.why]
    corrected = shift.benjamini_hochberg([answer.shift.p for answer in compared])
    ps = {answer.name: p for answer, p in zip(compared, corrected, strict=True)}
    findings = tuple(_finding(answer, ps.get(answer.name, 1.0), limits) for answer in answers)
    states = {finding.state for finding in findings}
    outcome = Outcome.NO_DRIFT
    if State.SHIFTED in states:
        outcome = Outcome.DRIFT
    elif State.TOO_SMALL in states or not compared:
        outcome = Outcome.NOT_ENOUGH_EVIDENCE
    new = [(name, count) for name, count in production.actions.most_common() if not golden.actions[name]]
    return Report(
        outcome=outcome,
        since_us=since_us,
        until_us=until_us,
        golden=named,
        cases=golden.count,
        actions=production.count,
        limits=limits,
        findings=findings,
        new=dict(new[:MAX_NEW]),
    )


#: each question about shares: its name, and where it is counted
_SHARES = (("action", "actions"), ("target", "targets"), ("risk", "risks"), ("outcome", "outcomes"))


def _answers(golden: Seen, production: Seen, limits: DriftLimits) -> Iterator[_Answer]:
    # each question must be able to answer alone, with its part of alpha
    alpha = limits.alpha / len(QUESTIONS)
    for name, where in _SHARES:
        yield _shares(name, getattr(golden, where), getattr(production, where), limits, alpha)
    yield _sizes(golden, production, limits, alpha)
    for name, where in (("new actions", "actions"), ("new targets", "targets")):
        yield _new(name, getattr(golden, where), getattr(production, where), limits)


def _shares(
    name: str, golden: Mapping[str, int], production: Mapping[str, int], limits: DriftLimits, alpha: float
) -> _Answer:
    n, m = sum(golden.values()), sum(production.values())
    if not n or not m:
        return _Answer(name=name, why=f"no {name} is named in {'the golden set' if not n else 'production'}")
    if golden.keys() == production.keys() and len(golden) == 1:
        return _Answer(name=name, detail=f"always `{next(iter(golden))}`")
    found = shift.categories(golden, production, alpha=limits.alpha)
    return _Answer(
        name=name,
        shift=found.shift,
        beyond=found.shift.beyond,
        moved=_movers(golden, production),
        psi=found.psi,
        psi_floor=found.psi_floor,
        smallest=shift.smallest_shift(found.bins, n, m, alpha=alpha),
        needed=shift.cases_for_shift(limits.notice, max(found.bins, 2), m, alpha=alpha),
    )


def _sizes(golden: Seen, production: Seen, limits: DriftLimits, alpha: float) -> _Answer:
    name, n, m = "argument sizes", golden.sizes.total(), production.sizes.total()
    if not m:
        return _Answer(name=name, why="these records are of a version that did not note sizes")
    medians = f"median {_median(golden.sizes):,} bytes → {_median(production.sizes):,}"
    unsized = f"; {production.unsized:,} actions are of unknown size" if production.unsized else ""
    found = shift.numbers(_rough(golden.sizes), _rough(production.sizes))
    return _Answer(
        name=name,
        what="of the arguments are of other sizes",
        shift=found,
        beyond=found.beyond,
        detail=medians + unsized,
        smallest=shift.smallest_distance(n, m, alpha=alpha),
        needed=shift.cases_for_distance(limits.notice, m, alpha=alpha),
    )


def _rough(sizes: Mapping[int, int]) -> Counter[int]:
    """Sizes in steps of a fifth: an order number with one more digit makes no other arguments."""
    rough: Counter[int] = Counter()
    for size, count in sizes.items():
        rough[round(4 * math.log2(size + 1))] += count
    return rough


def _new(name: str, golden: Mapping[str, int], production: Mapping[str, int], limits: DriftLimits) -> _Answer:
    if not golden or not production:
        return _Answer(name=name, why="there is nothing to compare")
    found = shift.never_seen(golden, production, limits.floor)
    lacking = {value: count for value, count in production.items() if value not in golden}
    named = sorted(lacking, key=lambda value: (-lacking[value], value))[:MAX_NAMED]
    more = f" and {len(lacking) - len(named)} more" if len(lacking) > len(named) else ""
    told = f"{len(lacking)} that the golden set lacks: {', '.join(named)}{more}" if lacking else ""
    beyond = max(0.0, found.size - found.chance)  # what is expected is a mean, not an error
    return _Answer(name=name, what="of production was never seen", shift=found, beyond=beyond, detail=told)


def _texts(texts: Texts) -> _Answer:
    if texts.shift is None:
        return _Answer(name="text", why=texts.why)
    read = f"{texts.golden:,} golden texts and {texts.production:,} of production read"
    beyond = texts.shift.beyond
    return _Answer(name="text", what="of the words are others", shift=texts.shift, beyond=beyond, detail=read)


def _ignored(name: str) -> _Answer:
    return _Answer(name=name, why="left out by `drift.ignore`")


def _finding(answer: _Answer, p: float, limits: DriftLimits) -> Finding:
    if answer.why:
        return Finding(name=answer.name, state=State.NOT_COMPARED, told=answer.why)
    found = answer.shift
    state = State.ALIKE
    if p <= limits.alpha and answer.beyond >= limits.floor:
        state = State.SHIFTED
    elif answer.smallest > limits.notice:
        state = State.TOO_SMALL
    return Finding(
        name=answer.name,
        state=state,
        told=_told(answer, state, limits),
        p=p,
        size=found.size,
        chance=found.chance,
        beyond=answer.beyond,
        moved=answer.moved,
        psi=answer.psi,
        psi_floor=answer.psi_floor,
        smallest=answer.smallest,
        needed=answer.needed if state is State.TOO_SMALL else 0,
    )


def _told(answer: _Answer, state: State, limits: DriftLimits) -> str:
    parts = []
    if state is State.SHIFTED:
        parts.append(f"{answer.shift.size:.1%} {answer.what}, where chance makes {answer.shift.chance:.1%}")
        parts += [f"{moved.value} {moved.golden:.1%} → {moved.production:.1%}" for moved in answer.moved]
    elif state is State.TOO_SMALL:
        small = "golden set" if answer.needed else "production"
        seen = (
            f"smallest detectable shift is {_points(answer.smallest)}"
            if answer.smallest < 1
            else "no shift can be told"
        )
        parts.append(f"{small} too small: {seen}")
        if answer.needed:
            parts.append(f"{answer.needed:,} cases would notice {_points(limits.notice)}")
    elif 0 < answer.smallest < 1:
        parts.append(f"a shift of {_points(answer.smallest)} would be noticed")
    return "; ".join([*parts, *([answer.detail] if answer.detail else [])]) or "nothing is lacking"


def _points(share: float) -> str:
    return f"{share * 100:.1f} points"


def _movers(golden: Mapping[str, int], production: Mapping[str, int]) -> tuple[Moved, ...]:
    n, m = sum(golden.values()), sum(production.values())
    moved = [
        Moved(value, golden.get(value, 0) / n, production.get(value, 0) / m)
        for value in golden.keys() | production.keys()
    ]
    return tuple(sorted(moved, key=lambda each: (-abs(each.production - each.golden), each.value))[:MAX_NAMED])


def _median(counts: Mapping[int, int]) -> int:
    left = sum(counts.values()) / 2
    for value in sorted(counts):
        left -= counts[value]
        if left <= 0:
            return value
    return 0

"""Drift reports: the golden cases are decided, production is counted, and `flow.drift` judges.

A server reports by itself, once a week unless it is told otherwise. When the last report began stands in a row: any
process of the store may see that the next is due, and one makes it. What drifted becomes a record.
"""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Callable, Sequence
from itertools import islice

import msgspec

from checkrein.decide import detect
from checkrein.flow.drift import Outcome, Report, Seen, Texts, judge
from checkrein.flow.limits import DriftLimits
from checkrein.ledger import Draft
from checkrein.model import CheckreinError, Decision, LedgerInvalid, Request, StoreConflict
from checkrein.model.request import PROMPT
from checkrein.ports import Clock, RecordQuery, Row, Save, Store, Unit
from checkrein.services import records, seen
from checkrein.services.golden import Golden, digest
from checkrein.services.privacy import Privacy
from checkrein.stats import shift

log = logging.getLogger("checkrein.drift")

#: of more texts a sample is compared
MAX_TEXTS, MAX_GOLDEN_TEXTS = 2000, 1000
ALARM = "drift.alarm"
#: new actions that an alarm names: it must fit a record whatever they are called
MAX_NEW = 16
#: the row of the last report that a server made
ROOM, ROW = "drift", "report"
#: a process that has not finished its report by then is taken for dead, microseconds
LEASE_US = 600_000_000


class Measured(msgspec.Struct, frozen=True):
    """A report with what it was made of."""

    report: Report
    golden: Seen
    production: Seen


def measure(
    store: Store,
    cases: Sequence[Golden],
    decide: Callable[[Request], Decision],
    limits: DriftLimits,
    *,
    since_us: int,
    until_us: int,
    reader: Reader | None = None,
    prompts_only: bool = False,
) -> Measured:
    """Decide the golden cases, count production, and judge; with a reader the texts too.

    `prompts_only` leaves tool calls out: what answers prompts is judged by prompts.
    """
    known = seen.golden(cases, decide)
    prompts = any(name.startswith("model/") for name in known.targets) or not known.actions[PROMPT]
    actions = seen.production(store, since_us, until_us)
    if prompts_only:
        actions = (each for each in actions if each[1].action == PROMPT)
    found = seen.counted(actions, prompts_have_targets=prompts)
    texts = None
    if reader and found.count:
        texts = reader.compare(store, cases, found.count, since_us, until_us)
    report = judge(known, found, limits, named=digest(cases), since_us=since_us, until_us=until_us, texts=texts)
    return Measured(report, known, found)


class Reader(msgspec.Struct, frozen=True):
    """An auditor, who may have texts read; that it was done is recorded."""

    privacy: Privacy
    person: str

    def compare(self, store: Store, cases: Sequence[Golden], count: int, since_us: int, until_us: int) -> Texts:
        """Compare words and pairs of words of a sample, spread evenly over the golden cases and over the time."""
        from checkrein.stats.ngrams import rows

        every = max(1, math.ceil(count / MAX_TEXTS))
        records = [record for record, _ in islice(seen.production(store, since_us, until_us), 0, None, every)]
        opened = self.privacy.opened(records, person=self.person, why="drift")
        texts = [_text(each.request) for each in opened if each.request]
        picked = cases[:: max(1, math.ceil(len(cases) / MAX_GOLDEN_TEXTS))]
        known = [_text(case.request) for case in picked]
        if not texts:
            return Texts(why="no text of production can be read: they are erased or past their time")
        return Texts(shift.profiles(rows(known), rows(texts)), len(known), len(texts), "")


def _text(request: Request) -> str:
    """What a person would read of an action: every text in its arguments."""
    return "\n".join(detect.texts(request.action.input))


# --- by itself


class Last(msgspec.Struct, frozen=True, kw_only=True):
    """The last report that a server made; `problem` is why a later one could not be made."""

    ran_us: int = 0
    outcome: str = ""
    told: str = ""
    cases: int = 0
    actions: int = 0
    needed: int = 0
    #: when a process began to make the next
    taken_us: int = 0
    problem: str = ""

    @property
    def drifted(self) -> bool:
        return self.outcome == Outcome.DRIFT.value

    @property
    def settled(self) -> bool:
        """Whether production looked like the golden set, and that could be told."""
        return self.outcome == Outcome.NO_DRIFT.value


def last(store: Store) -> Last | None:
    """What the last report said; None if there was none."""
    row = store.row(ROOM, ROW)
    return row.read(Last) if row else None


class Schedule:
    """Makes a report when one is due. `cases` are the golden ones, read afresh; without any there is none to make."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        limits: DriftLimits,
        *,
        cases: Callable[[], list[Golden]],
        decider: Callable[[], Callable[[Request], Decision]],
        every_us: int,
        since_us: int,
    ) -> None:
        self._store = store
        self._clock = clock
        self._limits = limits
        self._cases = cases
        self._decider = decider
        self._every_us = every_us
        self._since_us = since_us

    def tick(self) -> Report | None:
        """The report, if one was due and no other process makes it."""
        now_us = self._clock.now_us()
        row = self._store.row(ROOM, ROW)
        before = row.read(Last) if row else Last()
        if not self._due(before, now_us):
            return None
        try:
            cases = self._cases()
            if not cases:
                return None
            version = self._save(msgspec.structs.replace(before, taken_us=now_us), row.version if row else 0)
            return self._report(cases, before, version, now_us)
        except StoreConflict:  # another process was first
            return None
        except CheckreinError as error:
            self._note(msgspec.structs.replace(before, taken_us=now_us, problem=str(error)))
            return None

    def warnings(self) -> tuple[str, ...]:
        """What drifted, and why no report can be made."""
        try:
            found = last(self._store) or Last()
        except LedgerInvalid as error:
            return (f"drift: {error}",)
        told = [found.told] if found.drifted else []
        return tuple(f"drift: {text}" for text in (*told, found.problem) if text)

    def _due(self, before: Last, now_us: int) -> bool:
        """The first is due when production is as old as the time between two; a clock that went back delays none."""
        if 0 <= now_us - before.taken_us < LEASE_US:
            return False
        begun_us = before.ran_us
        if not begun_us:
            first = next(self._store.records(RecordQuery(kinds=("decision",), limit=1)), None)
            if first is None:
                return False
            begun_us = first.ts_us
        return not 0 <= now_us - begun_us < self._every_us

    def _report(self, cases: Sequence[Golden], before: Last, version: int, now_us: int) -> Report:
        since_us = now_us - self._since_us
        made = measure(self._store, cases, self._decider(), self._limits, since_us=since_us, until_us=now_us).report
        after = Last(
            ran_us=now_us,
            outcome=made.outcome.value,
            told=made.told,
            cases=made.cases,
            actions=made.actions,
            needed=made.needed,
        )
        drifted = made.outcome is Outcome.DRIFT
        self._save(after, version, (alarm(made),) if drifted else ())
        if drifted:
            log.warning("%s", made.told)
        return made

    def _save(self, value: Last, expect: int, drafts: tuple[Draft, ...] = ()) -> int:
        row = Row(ROOM, ROW, expect + 1, value.outcome, "", msgspec.json.encode(value))
        self._store.commit(Unit(drafts, (Save(row, expect),))).result()
        return row.version

    def _note(self, value: Last) -> None:
        row = self._store.row(ROOM, ROW)
        with contextlib.suppress(StoreConflict):
            self._save(value, row.version if row else 0)


def alarm(made: Report) -> Draft:
    """The record of a drift: figures as text, since no floats stand in the ledger."""
    findings = [
        {
            "name": found.name,
            "state": found.state.value,
            "told": records.cut(found.told),
            "p": f"{found.p:.2g}",
            "size": f"{found.size:.4f}",
            "chance": f"{found.chance:.4f}",
        }
        for found in made.findings
    ]
    detail = {
        "told": records.cut(made.told),
        "golden": made.golden,
        "cases": made.cases,
        "actions": made.actions,
        "since_us": made.since_us,
        "until_us": made.until_us,
        "findings": findings,
        "new": [{"action": records.cut(name), "count": count} for name, count in islice(made.new.items(), MAX_NEW)],
        "limits": {name: f"{getattr(made.limits, name):g}" for name in ("alpha", "floor", "notice")},
    }
    return records.admin(ALARM, "system", detail)

"""Drift reports: the golden cases are decided, production is counted, and `flow.drift` judges."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import islice

import msgspec

from checkrein.decide import detect
from checkrein.flow.drift import Report, Seen, Texts, judge
from checkrein.flow.limits import DriftLimits
from checkrein.model import Decision, Request
from checkrein.model.request import PROMPT
from checkrein.ports import Store
from checkrein.services import seen
from checkrein.services.golden import Golden, digest
from checkrein.services.privacy import Privacy
from checkrein.stats import shift

#: of more texts a sample is compared
MAX_TEXTS, MAX_GOLDEN_TEXTS = 2000, 1000


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
) -> Measured:
    """Decide the golden cases, count production, and judge; with a reader the texts too."""
    known = seen.golden(cases, decide)
    prompts = any(name.startswith("model/") for name in known.targets) or not known.actions[PROMPT]
    found = seen.counted(seen.production(store, since_us, until_us), prompts_have_targets=prompts)
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
    return "\n".join(text for text, _ in detect.texts(request.action.input))

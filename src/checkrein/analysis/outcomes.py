"""The four outcomes as terms, over encoded policies: the lattice of `policy.engine`."""

from __future__ import annotations

from collections.abc import Iterable

from checkrein.analysis.encode import Encoded, encode
from checkrein.analysis.logic import Bool
from checkrein.analysis.texts import Match
from checkrein.analysis.world import View
from checkrein.model import Outcome
from checkrein.policy.cedar import Kind

#: the kind that makes each outcome
KIND_OF = {
    Outcome.ALLOW: Kind.GRANT,
    Outcome.ALLOW_WITH_REDACTION: Kind.REDACT,
    Outcome.REQUIRE_REVIEW: Kind.REVIEW,
    Outcome.DENY: Kind.FORBID,
}


class Outcomes:
    """Every policy of one bundle, encoded, and when each outcome is reached."""

    def __init__(self, view: View) -> None:
        self.view = view
        self.logic = view.world.logic
        self.policies = tuple(encode(view, policy) for policy in view.bundle.policies.policies)
        grants, forbids = self._fired(Kind.GRANT), self._fired(Kind.FORBID)
        reviews, redacts = self._fired(Kind.REVIEW), self._fired(Kind.REDACT)
        errs = self.logic.some(item.errs for item in self.policies if item.policy.kind is not Kind.GRANT)
        deny = self.logic.some([forbids, self.logic.negate(grants), errs])
        passed = self.logic.negate(deny)
        clear = self.logic.every([passed, self.logic.negate(reviews)])
        #: outcome -> when it is reached
        self.reached: dict[Outcome, Bool] = {
            Outcome.DENY: deny,
            Outcome.REQUIRE_REVIEW: self.logic.every([passed, reviews]),
            Outcome.ALLOW_WITH_REDACTION: self.logic.every([clear, redacts]),
            Outcome.ALLOW: self.logic.every([clear, self.logic.negate(redacts)]),
        }

    def of_kind(self, kind: Kind) -> tuple[Encoded, ...]:
        return tuple(item for item in self.policies if item.policy.kind is kind)

    def determined(self, outcome: Outcome, ids: Iterable[str]) -> Bool:
        """When the outcome is reached, and by exactly these policies."""
        wanted = frozenset(ids)
        fates = [
            item.fires if item.policy.id in wanted else self.logic.negate(item.fires)
            for item in self.of_kind(KIND_OF[outcome])
        ]
        return self.logic.every([self.reached[outcome], *fates])

    @property
    def matches(self) -> frozenset[Match]:
        return frozenset().union(*(item.matches for item in self.policies))

    @property
    def notes(self) -> tuple[str, ...]:
        return tuple(note for item in self.policies for note in item.notes)

    def _fired(self, kind: Kind) -> Bool:
        return self.logic.some(item.fires for item in self.of_kind(kind))
